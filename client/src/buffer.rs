//! Buffers: objects this process has mapped, and guards to see their bytes.
//!
//! ```text
//!   Draft (made, mapped, populated) ──commit──► Buffer ──slice──► job
//!                                                 ├── read(range)  ──► ReadGuard:  &[u8]
//!                                                 ├── write(range) ──► WriteGuard: &mut [u8]
//!                                                 └── copy_in, copy_out (counted)
//! ```
//!
//! The memory is shared with device drivers, so its bytes are seen only through guards. A guard relies on the fence
//! protocol: while it is held, no job *of this client* writes (or, for a write guard, uses) its bytes; submitting one that
//! would is refused. Another client with an export of the same object, or a thread of this process that maps one,
//! is not held back: whoever shares writing shares the duty to order it.
//!
//! Dropping a buffer gives its handle up without waiting. The memory lives until the last job, export and mapping are gone.

use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use vgem_os::mapping::{Mapping, Populate, Quiescent};
use vgem_os::memory;
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, Handle};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit, CreateObject, Export};
use vgem_proto::rights::{Access, HugePages};

use crate::core::{self, Core};
use crate::deadline::Deadline;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
#[cfg(feature = "tokio")]
use crate::fence::Fence;
use crate::ledger::{Ledger, Waiting};
use crate::link::unexpected;

/// What a new buffer is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BufferOptions {
    name: String,
    huge: HugePages,
}

impl BufferOptions {
    /// No name, and huge pages where the machine has them to spare.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for people; cut to 64 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which pages.
    #[must_use]
    pub const fn huge(mut self, huge: HugePages) -> Self {
        self.huge = huge;
        self
    }

    /// The request for a buffer of `len` bytes, rounded up to whole pages.
    pub(crate) fn request(&self, len: u64) -> Result<CreateObject> {
        if len == 0 {
            return Err(LocalError::Empty { what: "buffer" }.into());
        }
        let page = match self.huge {
            HugePages::Transparent | HugePages::Never => limits::PAGE_LEN,
            HugePages::Size2M => 2 << 20,
            HugePages::Size1G => 1 << 30,
        };
        // Too long for a u64 is too long for the broker as well: let it say so, with its limit.
        let len = len.checked_next_multiple_of(page).unwrap_or(u64::MAX - (page - 1));
        Ok(CreateObject {
            len,
            writer: DeviceId(0),
            count: 1,
            huge: self.huge,
            reserved: Zero,
            name: core::cut(&self.name),
        })
    }
}

/// Shared memory that jobs work on.
#[derive(Debug)]
pub struct Buffer {
    shared: Arc<BufferShared>,
}

#[derive(Debug)]
pub(crate) struct BufferShared {
    // First of all unmapped, then given up: the broker finds nothing of it left.
    mapping: Mapping,
    object: Object,
    pub(crate) core: Arc<Core>,
    pub(crate) ledger: Ledger,
    len: u64,
    pinned: u64,
}

/// A handle; given up on drop.
#[derive(Debug)]
struct Object {
    core: Arc<Core>,
    handle: Handle,
}

/// An object that is mapped and populated, and not ready yet.
#[derive(Debug)]
pub(crate) struct Draft {
    mapping: Mapping,
    object: Object,
    len: u64,
}

impl Draft {
    /// Understands a created object: checks its fd, maps it, allocates its pages.
    pub(crate) fn map(core: &Arc<Core>, len: u64, mut reply: Reply) -> Result<Self> {
        let fds = std::mem::take(&mut reply.fds);
        let ClientMessage::ObjectCreated(created) = &reply.message else { return Err(unexpected(&reply)) };
        let [handle] = created.objects[..] else {
            return Err(Error::Protocol(format!("asked for one object, got {}", created.objects.len())));
        };
        // From here on the handle is given up if anything fails.
        let object = Object { core: Arc::clone(core), handle };
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Error::Protocol("a created object without its fd".into()));
        };
        if created.len < len {
            return Err(Error::Protocol(format!("asked for {len} bytes, got {}", created.len)));
        }
        let whole = usize::try_from(created.len)
            .map_err(|_| Error::Protocol(format!("an object of {} bytes", created.len)))?;
        let mapping = Mapping::map(fd.as_fd(), whole, memory::Access::Write, Populate::Now)?;
        Ok(Self { object, len, mapping })
    }

    /// The request that makes it ready.
    pub(crate) fn commit(&self) -> Commit {
        Commit { objects: vec![self.object.handle] }
    }

    /// Understands that it is ready.
    pub(crate) fn committed(self, reply: &Reply) -> Result<Buffer> {
        let ClientMessage::Committed(committed) = &reply.message else { return Err(unexpected(reply)) };
        let Self { object, len, mapping } = self;
        let core = Arc::clone(&object.core);
        let (ledger, pinned) = (Ledger::default(), committed.pinned);
        Ok(Buffer::over(Arc::new(BufferShared { core, ledger, object, len, pinned, mapping })))
    }
}

impl Buffer {
    pub(crate) fn over(shared: Arc<BufferShared>) -> Self {
        Self { shared }
    }

    /// Length, bytes, as it was asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer has at least one byte")]
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// Bytes of it that are pinned: all, unless the machine's limits forbid.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.shared.pinned
    }

    /// This client's number for the object, for people and tools.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.shared.handle()
    }

    /// A part of the buffer, for a job. A range that leaves the buffer is refused where it is used.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<u64>) -> Slice<'_> {
        let range = bounds(&range, self.len());
        Slice { buffer: self, offset: range.start, len: range.end.saturating_sub(range.start) }
    }

    /// The bytes of `range`, to read. Waits for the jobs of this client that write them.
    ///
    /// # Errors
    /// [`Error::Job`] if such a job failed: the bytes are not what they should be; [`Error::Timeout`];
    /// [`Error::BrokerLost`]; [`LocalError::OutOfRange`].
    pub fn read(&self, range: impl RangeBounds<u64>, deadline: impl Into<Deadline>) -> Result<ReadGuard<'_>> {
        let lease = self.lease(&range, Access::Read, Waiting::Until(deadline.into()))?;
        lease.map(ReadGuard::new).ok_or(Error::Timeout { what: "a read guard" })
    }

    /// As [`Buffer::read`], without waiting: nothing if it would have to.
    ///
    /// # Errors
    /// As [`Buffer::read`].
    pub fn try_read(&self, range: impl RangeBounds<u64>) -> Result<Option<ReadGuard<'_>>> {
        Ok(self.lease(&range, Access::Read, Waiting::Not)?.map(ReadGuard::new))
    }

    /// The bytes of `range`, to change. Waits for every job of this client that uses them. A failed one does not
    /// matter: its bytes are as it left them.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::BrokerLost`]; [`LocalError::OutOfRange`].
    pub fn write(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'_>> {
        let lease = self.lease(&range, Access::Write, Waiting::Until(deadline.into()))?;
        lease.map(WriteGuard::new).ok_or(Error::Timeout { what: "a write guard" })
    }

    /// As [`Buffer::write`], without waiting: nothing if it would have to.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn try_write(&self, range: impl RangeBounds<u64>) -> Result<Option<WriteGuard<'_>>> {
        Ok(self.lease(&range, Access::Write, Waiting::Not)?.map(WriteGuard::new))
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

    pub(crate) fn export_request(&self, access: Access) -> Export {
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

    pub(crate) fn shared(&self) -> &Arc<BufferShared> {
        &self.shared
    }

    /// The job a guard over `range` has to wait for, if one.
    #[cfg(feature = "tokio")]
    pub(crate) fn obstacle(&self, range: &impl RangeBounds<u64>, access: Access) -> Result<Option<Fence>> {
        self.shared.ledger.obstacle(&bounds(range, self.len()), access)
    }

    /// The same error, with what is behind it, where there is time to ask.
    fn explained(&self, error: Error, waiting: Waiting) -> Error {
        match (error, waiting) {
            (Error::Job(mut failure), Waiting::Until(_)) => {
                if failure.explanation.is_none() {
                    failure.explanation = self.shared.core.explain_failure(failure.cause);
                }
                Error::Job(failure)
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
        let range = bounds(range, self.len());
        let len = range.end.saturating_sub(range.start);
        let out = || LocalError::OutOfRange { offset: range.start, len, available: self.len() };
        if range.start > range.end || range.end > self.len() {
            return Err(out().into());
        }
        let start = usize::try_from(range.start).map_err(|_| out())?;
        let bytes = usize::try_from(len).map_err(|_| out())?;
        let taken = self.shared.ledger.guard(range.clone(), access, waiting);
        let Some(id) = taken.map_err(|error| self.explained(error, waiting))? else { return Ok(None) };
        Ok(Some(Lease { shared: &self.shared, id, start, len: bytes, quiet: Quiescent::by_contract() }))
    }
}

impl BufferShared {
    pub(crate) fn handle(&self) -> Handle {
        self.object.handle
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.core.link.post(&ClientMessage::CloseObject(CloseObject { object: self.handle }));
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

/// A guard's hold on bytes of a buffer; given back on drop.
#[derive(Debug)]
struct Lease<'a> {
    shared: &'a BufferShared,
    id: u64,
    start: usize,
    len: usize,
    quiet: Quiescent,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.shared.ledger.release(self.id);
    }
}

/// Bytes of a buffer, to read.
///
/// Relies on the fence protocol: the jobs of this client that write these bytes have ended, and none can be submitted
/// while the guard is held. What others write through exports of the object is for them and you to order.
#[derive(Debug)]
pub struct ReadGuard<'a>(Lease<'a>);

impl<'a> ReadGuard<'a> {
    fn new(lease: Lease<'a>) -> Self {
        Self(lease)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let lease = &self.0;
        let span = lease.shared.mapping.span().sub(lease.start, lease.len);
        // The quiet rests on the ledger: no job of this client may write these bytes while the lease is held.
        span.map_or(&[], |span| span.bytes(&lease.quiet))
    }
}

/// Bytes of a buffer, to change.
///
/// Relies on the fence protocol: no job of this client uses these bytes, and none can be submitted while the guard is
/// held. What others do through exports of the object is for them and you to order.
#[derive(Debug)]
pub struct WriteGuard<'a>(Lease<'a>);

impl<'a> WriteGuard<'a> {
    fn new(lease: Lease<'a>) -> Self {
        Self(lease)
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let lease = &self.0;
        let span = lease.shared.mapping.span().sub(lease.start, lease.len);
        // The quiet rests on the ledger: no job of this client may use these bytes while the lease is held.
        span.map_or(&[], |span| span.bytes(&lease.quiet))
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let lease = &mut self.0;
        let span = lease.shared.mapping.span_mut().ok().and_then(|span| span.sub(lease.start, lease.len));
        // As above; the exclusive borrow of the guard makes this the only slice.
        span.map_or(&mut [], |span| span.bytes_mut(&mut lease.quiet))
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

    #[test]
    fn lengths_are_rounded_up_to_whole_pages() {
        let asked = |options: BufferOptions, len| options.request(len).map(|request| request.len).ok();
        assert_eq!(asked(BufferOptions::new(), 1), Some(4096));
        assert_eq!(asked(BufferOptions::new(), 8192), Some(8192));
        assert_eq!(asked(BufferOptions::new().huge(HugePages::Size2M), 1), Some(2 << 20));
    }

    #[test]
    fn a_buffer_of_nothing_is_refused_here() {
        assert!(matches!(BufferOptions::new().request(0), Err(Error::Local(LocalError::Empty { .. }))));
    }
}
