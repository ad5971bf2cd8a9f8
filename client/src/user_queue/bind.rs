//! Binding and unbinding: round trips to the broker, around changes of the table.

use std::ops::Range;
use std::sync::Arc;

use vgem_os::adopt::{PageVec, Region};
use vgem_proto::codec::Zero;
use vgem_proto::limits;
use vgem_proto::message::client::{Bind, ClientMessage, Unbind};
use vgem_proto::rights::Access;

use super::binding::{Binding, Wanted};
use super::open::done;
use super::range::AddressRange;
use super::shared::Shared;
use super::{UserQueue, prepared};
use crate::adopt::{self, AdoptedBuffer, AdoptedPages, NotDone};
use crate::buffer::Slice;
use crate::cell::Cells;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;

/// Bindings a client may make: the arena is one more.
const MOST: usize = limits::RING_BINDS - 1;

impl UserQueue {
    /// Has the driver reach a buffer, or a slice of one, where it is in this process: entries name its bytes by their
    /// addresses. One round trip. The buffer's memory is kept until [`UserQueue::unbind`], or the end of the queue.
    ///
    /// # Errors
    /// [`LocalError::AlreadyBound`], [`LocalError::Empty`], [`LocalError::OutOfRange`], [`LocalError::TooMany`] beyond 255
    /// bindings, [`LocalError::Foreign`]; [`LocalError::ReadOnly`] to write what jobs of this client may not; as every
    /// request. Nothing is bound then.
    pub fn bind<'s>(&self, slice: impl Into<Slice<'s>>, access: Access) -> Result<Binding> {
        let slice = slice.into();
        self.bind_at(slice, slice.buffer.address().saturating_add(slice.offset), access)
    }

    /// As [`UserQueue::bind`], at an address of the caller's choice: whatever is there in this process, entries mean the
    /// slice by it.
    ///
    /// # Errors
    /// As there; [`LocalError::BadAddress`] for address 0, or a range that leaves the address space.
    pub fn bind_at<'s>(&self, slice: impl Into<Slice<'s>>, address: u64, access: Access) -> Result<Binding> {
        let (binding, request) = self.shared.begin_bind(slice.into(), address, access)?;
        let reply = self.shared.core.call(request);
        self.shared.end_bind(binding, reply)
    }

    /// Binds the buffer of result cells, so that entries can name them.
    ///
    /// # Errors
    /// As [`UserQueue::bind`].
    pub fn bind_cells(&self, cells: &Cells) -> Result<Binding> {
        self.bind(cells.buffer(), Access::Write)
    }

    /// Undoes a binding. One round trip, and longer if an entry runs; when it returns, the driver reaches nothing there any
    /// more. An entry that runs for much longer than its operation may ends its driver, as it does where a queue is closed.
    ///
    /// # Errors
    /// [`LocalError::BindingUsed`] while entries that name it are under way; [`LocalError::NotBound`] if it was undone
    /// before; [`LocalError::OtherQueue`]; as every request. It stays bound if the broker refuses; if nobody says whether it
    /// is, entries cannot name it and the memory is kept until the end of the queue.
    pub fn unbind(&self, binding: Binding) -> Result<()> {
        let request = self.shared.begin_unbind(&binding)?;
        let reply = self.shared.core.call(request);
        self.shared.end_unbind(&binding, reply)
    }

    /// Where entries may name a slice for `access`, if it is bound for that.
    #[must_use]
    pub fn bound<'s>(&self, slice: impl Into<Slice<'s>>, access: Access) -> Option<AddressRange> {
        let slice = slice.into();
        self.shared.address_of(slice.buffer.shared(), &slice.range().ok()?, access)
    }

    /// Makes memory of this process a buffer, as [`crate::Client::adopt`], and binds it where it is: then the program's
    /// own pointers into it can be handed to the device.
    ///
    /// # Errors
    /// As there and [`UserQueue::bind`]; the memory comes back as it was.
    pub fn adopt(&self, region: Region) -> Result<(AdoptedBuffer, Binding), NotDone<Region>> {
        let used = region.len() as u64;
        let buffer = adopt::adopt(&self.shared.core, region, used)?;
        match self.bind(&*buffer, Access::Write) {
            Ok(binding) => Ok((buffer, binding)),
            Err(error) => Err(NotDone { memory: buffer.release(self.shared.core.deadline()).ok(), error }),
        }
    }

    /// As [`UserQueue::adopt`], for memory that owns itself.
    ///
    /// # Errors
    /// As there; [`LocalError::Empty`] for no bytes.
    pub fn adopt_pages(&self, pages: PageVec) -> Result<(AdoptedPages, Binding), NotDone<PageVec>> {
        let buffer = adopt::adopt_pages(&self.shared.core, pages)?;
        match self.bind(&*buffer, Access::Write) {
            Ok(binding) => Ok((buffer, binding)),
            Err(error) => Err(NotDone { memory: buffer.release(self.shared.core.deadline()).ok(), error }),
        }
    }
}

impl Shared {
    /// Keeps a place for a binding, and the request that makes it.
    pub(crate) fn begin_bind(
        self: &Arc<Self>,
        slice: Slice<'_>,
        address: u64,
        access: Access,
    ) -> Result<(Binding, Bind)> {
        let (buffer, Range { start: offset, end }) = (slice.buffer.shared(), slice.range()?);
        let len = end - offset;
        if !Arc::ptr_eq(&buffer.core, &self.core) {
            return Err(LocalError::Foreign { what: "buffer" }.into());
        }
        if len == 0 {
            return Err(LocalError::Empty { what: "range that is bound" }.into());
        }
        if access == Access::Write {
            buffer.check_output()?;
        }
        let range = AddressRange::new(address, len);
        range.wire().map_err(|_| prepared::bad_address(&range))?;
        let mut state = self.state();
        if let Some(end) = &state.over {
            let end = end.clone();
            drop(state);
            return Err(self.over(end, super::Asks::Broker));
        }
        crate::batch::at_most("bindings of a user queue", state.bindings.len() + 1, MOST)?;
        let wanted = Wanted { buffer: Arc::clone(buffer), offset, len, address, access };
        let binding = state.bindings.reserve(self.id, wanted)?;
        // Before any entry can name it, guards of this memory ask this queue.
        buffer.ledger.attach(self);
        drop(state);
        let (queue, object) = (self.queue.handle, buffer.handle());
        Ok((binding, Bind { queue, object, offset, len, address, access, reserved: Zero }))
    }

    /// Understands whether the driver reaches it.
    pub(crate) fn end_bind(self: &Arc<Self>, binding: Binding, reply: Result<Reply>) -> Result<Binding> {
        match reply.and_then(|reply| done(&reply)) {
            Ok(()) => {
                self.state().bindings.named(&binding)?.ready = true;
                Ok(binding)
            }
            Err(error) => {
                if matches!(error, Error::Timeout { .. }) {
                    // It may come to be bound later, and nobody would know.
                    let unbind = Unbind { queue: self.queue.handle, address: binding.address() };
                    self.core.link.post(&ClientMessage::Unbind(unbind));
                }
                self.forget(&binding);
                Err(error)
            }
        }
    }

    /// The request that undoes a binding. Entries cannot name it from now on.
    pub(crate) fn begin_unbind(&self, binding: &Binding) -> Result<Unbind> {
        if binding.queue != self.id {
            return Err(LocalError::OtherQueue { what: "binding" }.into());
        }
        let mut state = self.state();
        state.take_in();
        let bound = state.bindings.named(binding)?;
        let (address, len, uses) = (bound.address, bound.len, bound.uses);
        if uses > 0 {
            return Err(LocalError::BindingUsed { address, len, uses }.into());
        }
        if !bound.ready {
            return Err(LocalError::NotBound { address, len, nearest: None }.into());
        }
        bound.ready = false;
        Ok(Unbind { queue: self.queue.handle, address })
    }

    /// Understands whether it is undone.
    pub(crate) fn end_unbind(self: &Arc<Self>, binding: &Binding, reply: Result<Reply>) -> Result<()> {
        match reply.and_then(|reply| done(&reply)) {
            Ok(()) => {
                self.forget(binding);
                Ok(())
            }
            Err(error) => {
                if matches!(error, Error::Refused(_))
                    && let Ok(bound) = self.state().bindings.named(binding)
                {
                    bound.ready = true;
                }
                Err(error)
            }
        }
    }

    /// Takes a binding out of the table; what it kept goes without the lock.
    fn forget(self: &Arc<Self>, binding: &Binding) {
        let bound = self.state().bindings.remove(binding);
        if let Some(bound) = bound {
            self.unbound(&bound);
        }
    }
}
