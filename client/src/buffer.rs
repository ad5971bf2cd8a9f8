//! Buffers: objects this process has mapped, and how their bytes are reached.
//!
//! ```text
//!   made ([`crate::draft`]), imported ([`crate::import`]) or adopted ([`crate::adopt`]) ──► Buffer ──slice──► job
//!                                                 ├── read(range), write(range) ──► guards ([`crate::guard`])
//!                                                 ├── copy_in, copy_out (counted)
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

use std::ops::{Bound, Range, RangeBounds};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vgem_os::adopt::Adopted;
use vgem_os::mapping::{Mapping, Quiescent, Span, SpanMut};
use vgem_os::memory;
use vgem_proto::codec::Zero;
use vgem_proto::ids::Handle;
use vgem_proto::message::client::{ClientMessage, Export};
use vgem_proto::rights::{Access, Rights};

use crate::core::Core;
use crate::deadline::Deadline;
use crate::draft::Object;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::guard::{Lease, ReadGuard, WriteGuard};
use crate::ledger::{Ledger, Waiting};
use crate::link::unexpected;
use crate::obstacle::{AGAIN, TRIES, has_no_room_yet, observe};
use crate::transfer::{self, Header, Outgoing};
#[cfg(feature = "tokio")]
use crate::waitable::Waitable;

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

    /// The bytes of `range`, to read. Waits for the jobs of this client that write them, and on a shared buffer for what
    /// others submitted to write any of it.
    ///
    /// # Errors
    /// [`Error::Job`], with the cause, if a job that was to write these bytes failed: they are not what they should be. On
    /// a shared buffer that is so whoever's job it was and however long ago, until a job replaces them, or this client
    /// writes them itself. [`Error::Timeout`]; [`Error::BrokerLost`]; [`LocalError::OutOfRange`]; on a shared buffer as
    /// every request.
    pub fn read(&self, range: impl RangeBounds<u64>, deadline: impl Into<Deadline>) -> Result<ReadGuard<'_>> {
        let lease = self.lease(&range, Access::Read, Waiting::Until(deadline.into()))?;
        lease.map(ReadGuard::new).ok_or(Error::Timeout { what: "a read guard" })
    }

    /// As [`Buffer::read`], without waiting for any job: nothing if it would have to. On a shared buffer the broker is
    /// asked, one round trip; otherwise nobody is.
    ///
    /// # Errors
    /// As [`Buffer::read`], with an explanation only if one was had before. In the moment between the failure of another
    /// client's job and the broker's taking note of it, it counts for every byte of the buffer.
    pub fn try_read(&self, range: impl RangeBounds<u64>) -> Result<Option<ReadGuard<'_>>> {
        Ok(self.lease(&range, Access::Read, Waiting::Not)?.map(ReadGuard::new))
    }

    /// The bytes of `range`, to change. Waits for every job of this client that uses them, and on a shared buffer for
    /// what others submitted to use any of it. A failed one does not matter: its bytes are as it left them.
    ///
    /// From then on the failures known by now that concern these bytes do not fail this client's guards any more. The broker
    /// does not see what is written: for other clients, and for jobs that read them, the bytes of a shared buffer that
    /// such a failure has left stay poisoned until a job replaces them.
    ///
    /// # Errors
    /// [`LocalError::ReadOnly`] for a sealed result or a read-only import; [`Error::Timeout`]; [`Error::BrokerLost`];
    /// [`LocalError::OutOfRange`]; on a shared buffer as every request.
    pub fn write(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'_>> {
        let lease = self.lease(&range, Access::Write, Waiting::Until(deadline.into()))?;
        lease.map(WriteGuard::new).ok_or(Error::Timeout { what: "a write guard" })
    }

    /// As [`Buffer::write`], without waiting for any job: nothing if it would have to. On a shared buffer the broker is
    /// asked, one round trip; otherwise nobody is.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn try_write(&self, range: impl RangeBounds<u64>) -> Result<Option<WriteGuard<'_>>> {
        Ok(self.lease(&range, Access::Write, Waiting::Not)?.map(WriteGuard::new))
    }

    /// As [`Buffer::read`], of a shared buffer too without asking the broker what others have submitted: for a program
    /// that orders itself with them by other means, as one timeline that it waits for before. What the broker has named to
    /// an earlier guard, and this client's own jobs, are waited for.
    ///
    /// # Errors
    /// As [`Buffer::read`], as far as it is known here.
    pub fn read_explicit(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<ReadGuard<'_>> {
        let waiting = Waiting::Until(deadline.into());
        let lease = self.lease_as_known(&range, Access::Read, waiting);
        let lease = lease.map_err(|error| self.explained(error, waiting))?;
        lease.map(ReadGuard::new).ok_or(Error::Timeout { what: "a read guard" })
    }

    /// As [`Buffer::write`], of a shared buffer too without asking the broker; see [`Buffer::read_explicit`].
    ///
    /// # Errors
    /// As [`Buffer::write`], as far as it is known here.
    pub fn write_explicit(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'_>> {
        let lease = self.lease_as_known(&range, Access::Write, Waiting::Until(deadline.into()))?;
        lease.map(WriteGuard::new).ok_or(Error::Timeout { what: "a write guard" })
    }

    /// Copies `bytes` to `offset`; counted in [`crate::ClientCounters::bytes_copied`].
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn copy_in(&self, offset: u64, bytes: &[u8], deadline: impl Into<Deadline>) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        self.write(offset..end, deadline)?.copy_from_slice(bytes);
        self.shared.core.counters.copied(bytes.len());
        Ok(())
    }

    /// Copies from `offset` on into `bytes`; counted in [`crate::ClientCounters::bytes_copied`].
    ///
    /// # Errors
    /// As [`Buffer::read`].
    pub fn copy_out(&self, offset: u64, bytes: &mut [u8], deadline: impl Into<Deadline>) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        bytes.copy_from_slice(&self.read(offset..end, deadline)?);
        self.shared.core.counters.copied(bytes.len());
        Ok(())
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
        transfer::send(socket.as_fd(), Outgoing::new(&header, fd), deadline)
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

    /// What a guard over `range` has to wait for, if anything.
    #[cfg(feature = "tokio")]
    pub(crate) fn obstacle(&self, range: &impl RangeBounds<u64>, access: Access) -> Result<Option<Waitable>> {
        self.shared.ledger.obstacle(&bounds(range, self.len()), access)
    }

    /// The same error, with what is behind it, where there is time to ask.
    fn explained(&self, error: Error, waiting: Waiting) -> Error {
        match (error, waiting) {
            (Error::Job(failure), waiting) if failure.explanation.is_none() => {
                let (core, cause) = (&self.shared.core, failure.cause);
                let explanation = match waiting {
                    Waiting::Until(_) => core.explain_failure(cause),
                    Waiting::Not => core.remembered(cause),
                };
                Error::Job(Box::new(failure.explained(explanation)))
            }
            (other, _) => other,
        }
    }

    fn lease(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
        waiting: Waiting,
    ) -> Result<Option<Lease<'_>>> {
        self.check(range, access)?;
        let mut tries = 0;
        loop {
            if self.is_shared() {
                self.observe(access, waiting)?;
            }
            let taken = self.lease_as_known(range, access, waiting);
            let again = waiting != Waiting::Not && tries < TRIES && self.is_unsettled(range, &taken);
            if !again {
                return taken.map_err(|error| self.explained(error, waiting));
            }
            // The broker is about to hear of it, and to say which bytes it concerns.
            if tries > 0 {
                std::thread::sleep(AGAIN);
            }
            tries += 1;
        }
    }

    /// Whether a guard failed with another client's job and the broker has yet to say what that has left.
    pub(crate) fn is_unsettled<T>(&self, range: &impl RangeBounds<u64>, taken: &Result<T>) -> bool {
        matches!(taken, Err(Error::Job(_))) && self.shared.ledger.is_unsettled(&bounds(range, self.len()))
    }

    /// A lease that asks nobody about others.
    pub(crate) fn lease_as_known(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
        waiting: Waiting,
    ) -> Result<Option<Lease<'_>>> {
        let (range, start, len) = self.check(range, access)?;
        let Some(id) = self.shared.ledger.guard(range, access, waiting)? else { return Ok(None) };
        Ok(Some(Lease { shared: &self.shared, id, start, len, quiet: Quiescent::by_contract() }))
    }

    /// A range of bytes of this buffer, with its place and length in this process, if `access` to it is possible.
    pub(crate) fn check(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
    ) -> Result<(Range<u64>, usize, usize)> {
        if access == Access::Write && !self.is_writable() {
            return Err(self.shared.read_only().into());
        }
        let range = bounds(range, self.len());
        let len = range.end.saturating_sub(range.start);
        let out = || LocalError::OutOfRange { offset: range.start, len, available: self.len() };
        if range.start > range.end || range.end > self.len() {
            return Err(out().into());
        }
        let start = usize::try_from(range.start).map_err(|_| out())?;
        let bytes = usize::try_from(len).map_err(|_| out())?;
        Ok((range, start, bytes))
    }

    /// Asks what others have submitted.
    pub(crate) fn observe(&self, access: Access, waiting: Waiting) -> Result<()> {
        let core = &self.shared.core;
        let deadline = match waiting {
            Waiting::Until(deadline) => deadline.min(core.deadline()),
            Waiting::Not => core.deadline(),
        };
        let mut tries = 0;
        loop {
            match core.link.call(observe(self.handle(), access), deadline) {
                Ok(reply) => return self.observed(access, reply),
                Err(error) if has_no_room_yet(&error) && tries < TRIES && !deadline.passed() => {
                    tries += 1;
                    std::thread::sleep(AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Understands what others have submitted.
    pub(crate) fn observed(&self, access: Access, reply: Reply) -> Result<()> {
        let shared = &self.shared;
        let told = shared.core.observed(self.handle(), access, reply)?;
        shared.ledger.observed(&(0..self.len()), access, told);
        Ok(())
    }
}

impl BufferShared {
    pub(crate) fn new(memory: Memory, object: Object, ledger: Arc<Ledger>, facts: Facts) -> Self {
        let core = Arc::clone(&object.core);
        Self { memory, object, core, ledger, facts }
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

    fn read_only(&self) -> LocalError {
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

impl Slice<'_> {
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

/// First byte and end of a range of a buffer of `len` bytes.
fn bounds(range: &impl RangeBounds<u64>, len: u64) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_range_is_the_whole_buffer() {
        assert_eq!(bounds(&.., 9), 0..9);
    }
}
