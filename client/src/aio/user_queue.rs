//! User queues for tasks. Pushing and taking wait for nothing ([`UserQueue::try_push`], [`UserQueue::try_take`]); what asks the
//! broker, or waits for an entry, has its asynchronous way here.
//!
//! A task waits for the entry's point in the fence page, which the bridge watches along with everything else: so it is
//! woken when the entry and all before it have ended.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use vgem_proto::ids::{CauseId, Point};
use vgem_proto::rights::Access;

use super::{Client, blocking};
use crate::buffer::Slice;
use crate::core::EXPLAIN;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::error::{Error, FenceError, LocalError, Result};
use crate::fence::Fence;
use crate::queue::Queue;
use crate::user_queue::{
    AddressRange, Binding, EntryDone, Ticket, UserQueue, UserQueueOptions, open, publish, sva,
};
use crate::wait::FenceWait;
use crate::waitable::Waitable;

/// How long a task waits for a point before it looks whether its queue is over.
const SLICE: Duration = Duration::from_millis(250);

/// How long a thread that has taken the reaper may take to hand on what it has.
const HANDED_ON: Duration = Duration::from_millis(1);

impl Client {
    /// As [`Device::user_queue_with`].
    ///
    /// # Errors
    /// As there.
    pub async fn user_queue(&self, device: &Device, options: UserQueueOptions) -> Result<UserQueue> {
        let (depth, memory) = (options.ring_depth()?, sva::open_memory(options.sva)?);
        let (request, flags) = options.request(device.id());
        let opened = self.at(self.core.deadline()).run_flagged(request, flags).await?;
        let queue = self.core.opened(device.shared(), depth, opened)?;
        let fd = open::attached(depth, self.call(open::attach(queue.handle, depth)).await?)?;
        // Allocates the ring's pages.
        let halves = blocking(move || open::map(depth, &fd)).await?;
        open::done(&self.call(open::commit(queue.handle)).await?)?;
        let arena = self.create_with(options.arena_len(depth), &open::arena_options()).await?;
        open::done(&self.call(open::bind_arena(queue.handle, &arena)).await?)?;
        if let Some((fd, access)) = memory {
            let message = sva::attach(queue.handle, access).into();
            open::done(&self.bring(fd.as_fd(), &message, self.core.deadline()).await?)?;
        }
        Ok(UserQueue::over(open::assemble(&queue, halves, arena, options.sva)))
    }

    /// As [`UserQueue::set_windows`].
    ///
    /// # Errors
    /// As there; [`LocalError::Foreign`] if the queue is another client's.
    pub async fn set_windows(&self, queue: &UserQueue, windows: &[(AddressRange, Access)]) -> Result<()> {
        if !Arc::ptr_eq(&queue.shared().core, &self.core) {
            return Err(LocalError::Foreign { what: "user queue" }.into());
        }
        open::done(&self.call(queue.shared().windows(windows)?).await?)
    }

    /// As [`UserQueue::bind`].
    ///
    /// # Errors
    /// As there.
    pub async fn bind<'s>(
        &self,
        queue: &UserQueue,
        slice: impl Into<Slice<'s>>,
        access: Access,
    ) -> Result<Binding> {
        let slice = slice.into();
        let address = slice.buffer.address().saturating_add(slice.offset);
        self.bind_at(queue, slice, address, access).await
    }

    /// As [`UserQueue::bind_at`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the addresses cannot be used or bound again, and the memory is kept until the end of
    /// the queue.
    pub async fn bind_at<'s>(
        &self,
        queue: &UserQueue,
        slice: impl Into<Slice<'s>>,
        address: u64,
        access: Access,
    ) -> Result<Binding> {
        let shared = Arc::clone(queue.shared());
        let (binding, request) = shared.begin_bind(slice.into(), address, access)?;
        let reply = self.call(request).await;
        shared.end_bind(binding, reply)
    }

    /// As [`UserQueue::unbind`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, entries cannot name the binding, and the memory is kept until the end of the queue.
    pub async fn unbind(&self, queue: &UserQueue, binding: Binding) -> Result<()> {
        let request = queue.shared().begin_unbind(&binding)?;
        let reply = self.call(request).await;
        queue.shared().end_unbind(&binding, reply)
    }

    /// As [`UserQueue::publish`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the entry may or may not be published.
    pub async fn publish(
        &self,
        queue: &UserQueue,
        point: Point,
        objects: &[(Slice<'_>, Access)],
        deadline: impl Into<Deadline>,
    ) -> Result<Fence> {
        let (shared, deadline) = (queue.shared(), deadline.into());
        let publisher = match shared.publisher() {
            Some(publisher) => publisher,
            None => {
                let (device, options) = (shared.device(), publish::options());
                let reply = self.call(options.request(device.id)).await?;
                shared.publish_on(Queue::new(self.core.opened(device, options.asked_depth(), reply)?))
            }
        };
        let mut batch = self.batch();
        shared.publication(&mut batch, publisher, (point, objects), deadline)?;
        Ok(self.submit_acknowledged(&mut batch).await?.last().clone())
    }

    /// As [`UserQueue::wait`], but that it may be woken later: when all entries before have ended as well.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, nothing was taken.
    pub async fn wait_entry(
        &self,
        queue: &UserQueue,
        ticket: Ticket,
        deadline: impl Into<Deadline>,
    ) -> Result<EntryDone> {
        let deadline = deadline.into();
        loop {
            match queue.try_take(ticket) {
                Ok(Some(done)) => return Ok(done),
                Ok(None) if deadline.passed() => {
                    return Err(queue.shared().late("waiting for an entry of a user queue"));
                }
                Ok(None) => {}
                Err(error) => return Err(self.entry_explained(error).await),
            }
            let point = Waitable::Job(queue.shared().job(ticket.point()));
            match FenceWait::new(point, deadline.min(Deadline::after(SLICE))).await {
                // Its completion is in the ring, or with a thread that is about to hand it on.
                Ok(()) | Err(FenceError::Failed(_)) => {
                    match queue.try_take(ticket) {
                        Ok(Some(done)) => return Ok(done),
                        Ok(None) => {}
                        Err(error) => return Err(self.entry_explained(error).await),
                    }
                    tokio::time::sleep(HANDED_ON).await;
                }
                Err(FenceError::Timeout { .. }) => {}
                // The queue may go on without the broker, but nobody tells this task any more.
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// The same error, with what is behind it, if the broker says so in a moment.
    async fn entry_explained(&self, error: Error) -> Error {
        let until = || Deadline::after(EXPLAIN);
        match error {
            Error::Entry(mut failure) if failure.explanation.is_none() && failure.cause != CauseId::NONE => {
                failure.explanation = self.explain_until(failure.cause, until()).await.ok();
                Error::Entry(failure)
            }
            Error::QueueOver(mut end) if end.explanation.is_none() && end.cause != CauseId::NONE => {
                end.explanation = self.explain_until(end.cause, until()).await.ok();
                Error::QueueOver(end)
            }
            other => other,
        }
    }
}
