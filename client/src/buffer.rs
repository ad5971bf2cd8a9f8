//! Buffers: objects this process has mapped, and how their bytes are reached.
//!
//! ```text
//!   made ([`crate::draft`]), imported ([`crate::import`]) or adopted ([`crate::adopt`]) ──► Buffer ──slice──► job
//!                                                 ├── read(range), write(range) ──► guards ([`crate::access`])
//!                                                 └── export(access), send(socket, access) ──► other processes
//! ```
//!
//! The memory is shared with device drivers, so its bytes are seen only through guards, or copied.
//!
//! Once a buffer was exported or imported, others may use it. From then on each guard first asks the broker what others
//! have submitted and waits for that too, unless it is an explicit one; before, a guard asks nobody. The broker also says which bytes are poisoned: a
//! failed job was to write them, and no job has replaced them since.
//!
//! Dropping a buffer gives its handle up without waiting. The memory lives until the last job, export and mapping are gone.

use std::ops::{Range, RangeBounds};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vgem_os::adopt::Adopted;
use vgem_os::mapping::{Mapping, Span, SpanMut};
use vgem_os::memory;
use vgem_proto::codec::Zero;
use vgem_proto::ids::Handle;
use vgem_proto::message::client::{ClientMessage, Export, Rewritten};
use vgem_proto::rights::{Access, Rights};

use crate::access::bounds;
use crate::core::Core;
use crate::deadline::Deadline;
use crate::draft::Object;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::ledger::{Ledger, Waiting};
use crate::link::unexpected;
use crate::transfer::{self, Header, Outgoing};

/// Shared memory that jobs work on.
#[derive(Debug)]
pub struct Buffer {
    shared: Arc<BufferShared>,
}

#[derive(Debug)]
pub(crate) struct BufferShared {
    // First of all unmapped, then given up: the broker finds nothing of it left.
    pub(crate) memory: Memory,
    pub(crate) object: Object,
    pub(crate) core: Arc<Core>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) facts: Facts,
}

/// What is known of a buffer from its beginning.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Bytes, as they were asked for.
    pub(crate) len: u64,
    pub(crate) rights: Rights,
    pub(crate) pinned: u64,
    /// No client can write it.
    pub(crate) sealed: bool,
    pub(crate) name: Vec<u8>,
}

/// How the memory of a buffer came into this process.
#[derive(Debug)]
pub(crate) enum Memory {
    /// It was mapped for the buffer.
    Mapped(Mapping),
    /// It was there before, and is given back.
    Adopted(Adopted),
}

impl Buffer {
    /// The one buffer of a new object.
    pub(crate) fn new(shared: BufferShared) -> Self {
        let shared = Arc::new(shared);
        shared.core.known.keep(&shared);
        Self { shared }
    }

    /// One more buffer of the same object.
    pub(crate) fn of(shared: Arc<BufferShared>) -> Self {
        Self { shared }
    }

    /// Length, bytes, as it was asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer has at least one byte")]
    pub fn len(&self) -> u64 {
        self.shared.facts.len
    }

    /// Bytes of it that are pinned: all, unless the machine's limits forbid. 0 of an imported buffer that was ready
    /// before: who made it ready was told. Buffers of a set share the broker's sum equally.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.shared.facts.pinned
    }

    /// This client's number for the object, for people and tools.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.shared.handle()
    }

    /// The address of its first byte in this process: what entries of a user queue name it by
    /// ([`crate::UserQueue::bind`]). It stays the same while the buffer lives, or is bound.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.shared.span().as_ptr().addr() as u64
    }

    /// Whether this process may write its bytes: not those of a sealed result, or of a read-only import.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.shared.is_writable()
    }

    /// Whether no client can write it: it is a sealed result, or was sealed against writing when it was imported.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.shared.facts.sealed
    }

    /// Whether it was exported or imported, so that other clients may use it and guards ask the broker.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.ledger.is_shared()
    }

    /// A part of the buffer, for a job. A range that leaves the buffer is refused where it is used.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<u64>) -> Slice<'_> {
        let range = bounds(&range, self.len());
        Slice { buffer: self, offset: range.start, len: range.end.saturating_sub(range.start) }
    }

    /// All there is of it, if this is the only buffer of the object and no batch names it.
    pub(crate) fn alone(self) -> Result<BufferShared, Self> {
        Arc::try_unwrap(self.shared).map_err(Self::of)
    }

    /// An fd of the object, for another process: it stays good when this client is gone, and counts as a use.
    ///
    /// # Errors
    /// [`Error::Refused`]: `Denied` if the handle does not allow it; as every request.
    pub fn export(&self, access: Access) -> Result<OwnedFd> {
        self.exported(access, self.shared.core.call(self.export_request(access))?)
    }

    /// The request for an export. Others may use the memory from now on.
    pub(crate) fn export_request(&self, access: Access) -> Export {
        self.shared.ledger.share();
        Export { object: self.handle(), access, reserved: Zero }
    }

    /// Understands an export, and checks that it is what was asked for.
    pub(crate) fn exported(&self, access: Access, mut reply: Reply) -> Result<OwnedFd> {
        let fds = std::mem::take(&mut reply.fds);
        let ClientMessage::Exported(_) = &reply.message else { return Err(unexpected(&reply)) };
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Error::Protocol("an export without its fd".into()));
        };
        let mode = match access {
            Access::Read => memory::Access::Read,
            Access::Write => memory::Access::Write,
        };
        memory::verify_export(fd.as_fd(), self.len(), mode)?;
        Ok(fd)
    }

    /// Gives the buffer to another process over any Unix socket, whether stream, datagram or SEQPACKET: its memory for
    /// `access`, and what is unfinished on it. The other end takes it with [`crate::Client::receive`]. The buffer is
    /// still ours as well.
    ///
    /// # Errors
    /// [`Error::Job`] if a job that was to write it is known to have failed: its bytes are not what they should be, and
    /// nothing is sent; [`Error::Refused`]: `Denied` if the handle does not allow it; [`Error::Timeout`] without room in
    /// the socket; [`Error::System`] with its error; as every request.
    pub fn send(&self, socket: impl AsFd, access: Access, deadline: impl Into<Deadline>) -> Result<()> {
        // The answer says that the broker has taken in every job submitted before.
        let (fd, deadline) = (self.export(access)?, deadline.into());
        let header = self.header(access).map_err(|error| self.explained(error, Waiting::Until(deadline)))?;
        transfer::send(socket.as_fd(), Outgoing::new(header.encode(), fd), deadline)
    }

    /// What a receiver is told of it, unless it is known to be bad.
    pub(crate) fn header(&self, access: Access) -> Result<Header> {
        let content = self.shared.ledger.check_content(&(0..self.len()));
        content.map_err(|error| self.explained(error, Waiting::Not))?;
        Ok(Header { access, len: self.len(), name: self.shared.facts.name.clone() })
    }

    pub(crate) fn shared(&self) -> &Arc<BufferShared> {
        &self.shared
    }
}

impl BufferShared {
    pub(crate) fn new(memory: Memory, object: Object, ledger: Arc<Ledger>, facts: Facts) -> Self {
        let core = Arc::clone(&object.core);
        Self { memory, object, core, ledger, facts }
    }

    /// Tells the broker that these bytes are, or will be, as they should be, though something failed to write them.
    pub(crate) fn tell_rewritten(&self, range: &Range<u64>) {
        let (object, offset, len) = (self.handle(), range.start, range.end - range.start);
        self.core.link.post(&ClientMessage::Rewritten(Rewritten { object, offset, len }));
    }

    pub(crate) fn handle(&self) -> Handle {
        self.object.handle
    }

    /// Its bytes, to copy from, or to look at under a guard.
    pub(crate) fn span(&self) -> Span<'_> {
        self.mapping().span()
    }

    /// Its bytes, to change under a guard; nothing if they are for reading only.
    pub(crate) fn span_mut(&self) -> Option<SpanMut<'_>> {
        self.mapping().span_mut().ok()
    }

    /// Whether this process may write its bytes.
    pub(crate) fn is_writable(&self) -> bool {
        self.mapping().access() == memory::Access::Write
    }

    /// Whether jobs of this client may write it: the handle says so, whatever this process may do itself.
    pub(crate) fn check_output(&self) -> Result<(), LocalError> {
        if self.facts.rights.contains(Rights::WRITE) { Ok(()) } else { Err(self.read_only()) }
    }

    fn mapping(&self) -> &Mapping {
        match &self.memory {
            Memory::Mapped(mapping) => mapping,
            Memory::Adopted(adopted) => adopted,
        }
    }

    pub(crate) fn read_only(&self) -> LocalError {
        let why = if self.facts.sealed {
            "it is sealed against writing"
        } else {
            "it was imported from a read-only fd"
        };
        LocalError::ReadOnly { handle: self.handle(), why }
    }
}

/// A part of a buffer, as jobs name it.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl<'a> Slice<'a> {
    /// The buffer it is a part of.
    #[must_use]
    pub const fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// Length, bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins in its buffer, bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Its place in the buffer, if it is inside.
    pub(crate) fn range(&self) -> Result<Range<u64>, LocalError> {
        let available = self.buffer.len();
        match self.offset.checked_add(self.len) {
            Some(end) if end <= available => Ok(self.offset..end),
            _ => Err(LocalError::OutOfRange { offset: self.offset, len: self.len, available }),
        }
    }
}

impl<'a> From<&'a Buffer> for Slice<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        buffer.slice(..)
    }
}

impl<'a> From<&Slice<'a>> for Slice<'a> {
    fn from(slice: &Slice<'a>) -> Self {
        *slice
    }
}
