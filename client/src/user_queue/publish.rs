//! Publishing: what entries do to objects, told to everybody who uses them by jobs.
//!
//! ```text
//!   entry ──► ring ──► driver ─ends─┐
//!   publish: a job, on another queue of the same device, that waits for it (until a moment) and names the objects
//!                                   └► its point ──► whoever uses the objects next: jobs of this and other clients
//! ```
//!
//! The broker sees no entry, so nobody who uses an object by jobs waits for one. A publication is a job that does nothing:
//! it ends when the entry has, as the entry did, and what it says it writes or reads counts as written or read by it. If
//! the entry fails, or has not ended by the deadline, what it writes is poisoned until somebody writes it anew.
//!
//! Publications of a queue end in the order in which they were made. The queue for them is opened with the first.

use std::sync::Arc;

use vgem_proto::describe::{PUBLISH_READ, PUBLISH_WRITTEN};
use vgem_proto::ids::Point;
use vgem_proto::rights::Access;

use super::{Shared, UserQueue};
use crate::batch::{Batch, at_most};
use crate::buffer::Slice;
use crate::deadline::Deadline;
use crate::device::DeviceShared;
use crate::error::{LocalError, Result};
use crate::fence::Fence;
use crate::options::QueueOptions;
use crate::queue::Queue;

/// What the queue for publications is.
pub(crate) fn options() -> QueueOptions {
    QueueOptions::new()
}

impl UserQueue {
    /// Puts an entry into the reservations of objects: jobs of anybody that use these bytes wait for it from now on, as for
    /// a job that writes or reads them. The entry, and all before it, must end by the deadline; it may be pushed later.
    /// Bytes that are written count as replaced, all of them.
    ///
    /// The fence is that of the publication: it ends as the entry does, or fails with `TimedOut` at the deadline, which is
    /// nobody's fault but this client's and resets no device. Of the entries before only this one counts: publish each, or
    /// chain them. Dropping the queue fails what has not ended.
    ///
    /// Up to 8 slices that are written and 8 that are read. Asks the broker, and the first time opens a queue for jobs
    /// on the same device.
    ///
    /// # Errors
    /// [`LocalError::TooMany`]; [`LocalError::Foreign`] for a buffer of another connection; [`LocalError::GuardHeld`];
    /// [`crate::Error::Refused`]: `OutOfRange` for a deadline that has passed or is farther away than the broker allows (60
    /// seconds unless configured), `Denied` for a buffer without that right, `Gone` if the queue is over, `Exhausted`; as
    /// every request.
    pub fn publish(
        &self,
        point: Point,
        objects: &[(Slice<'_>, Access)],
        deadline: impl Into<Deadline>,
    ) -> Result<Fence> {
        let shared = &self.shared;
        let mut batch = Batch::new(Arc::clone(&shared.core));
        let queue = match shared.publisher() {
            Some(queue) => queue,
            None => {
                let (device, options) = (shared.device(), options());
                let reply = shared.core.call(options.request(device.id))?;
                shared.publish_on(Queue::new(shared.core.opened(device, options.asked_depth(), reply)?))
            }
        };
        shared.publication(&mut batch, queue, (point, objects), deadline.into())?;
        Ok(batch.submit_acknowledged()?.last().clone())
    }
}

impl Shared {
    pub(crate) fn device(&self) -> &Arc<DeviceShared> {
        &self.queue.device
    }

    /// The queue for publications, if there is one.
    pub(crate) fn publisher(&self) -> Option<&Queue> {
        self.publisher.get()
    }

    /// Publishes on this queue from now on, or on another one that was quicker.
    pub(crate) fn publish_on(&self, queue: Queue) -> &Queue {
        self.publisher.get_or_init(|| queue)
    }

    /// Writes down the job that publishes.
    pub(crate) fn publication(
        &self,
        batch: &mut Batch,
        queue: &Queue,
        (point, objects): (Point, &[(Slice<'_>, Access)]),
        deadline: Deadline,
    ) -> Result<(), LocalError> {
        let mut job = batch.publication(queue);
        job.try_entry(self, point, deadline)?;
        let (mut written, mut read) = (0, 0);
        for (slice, access) in objects {
            let (what, count, first, most) = match access {
                Access::Write => ("slices written by what is published", &mut written, 0, PUBLISH_WRITTEN),
                Access::Read => {
                    ("slices read by what is published", &mut read, PUBLISH_WRITTEN, PUBLISH_READ)
                }
            };
            at_most(what, usize::from(*count) + 1, most.into())?;
            job.try_published(first + *count, *slice, *access)?;
            *count += 1;
        }
        Ok(())
    }
}
