//! Queues: ordered streams of jobs on one device. A queue numbers its jobs; each number is a point.
//!
//! A queue closes when the last of it goes: the [`Queue`] and every fence of its jobs. Jobs in flight then finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vgem_os::fence::Slot;
use vgem_proto::ids::{Point, QueueHandle};
use vgem_proto::message::client::{Cancel, ClientMessage, CloseQueue, QueueOpened};

use crate::core::Core;
use crate::device::DeviceShared;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::fence::Fence;
use crate::link::unexpected;
use crate::pages::{Observer, Target};

/// An open queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue {
    shared: Arc<QueueShared>,
}

#[derive(Debug)]
pub(crate) struct QueueShared {
    pub(crate) core: Arc<Core>,
    pub(crate) device: Arc<DeviceShared>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) handle: QueueHandle,
    slot: Slot,
    generation: u32,
    depth: u32,
    /// The last point that was sent. Changes only under the core's `submitting`.
    last: AtomicU64,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cancelled {
    /// It had not started and ends with `Cancelled`.
    WillNotRun,
    /// It runs, and ends when its driver says so or at its deadline.
    Running,
    /// It had ended.
    HasEnded,
}

impl Queue {
    pub(crate) fn new(shared: Arc<QueueShared>) -> Self {
        Self { shared }
    }

    /// The name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.shared.device.name
    }

    /// Most jobs in flight.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.shared.depth
    }

    /// The fence of the job that was submitted last, if one was.
    #[must_use]
    pub fn last(&self) -> Option<Fence> {
        match self.shared.last.load(Ordering::Acquire) {
            0 => None,
            point => Some(Fence::new(Arc::clone(&self.shared), Point(point))),
        }
    }

    /// Asks to end a job of this queue that has not started.
    ///
    /// # Errors
    /// [`LocalError::Foreign`] if the fence is of another queue; as every request.
    pub fn cancel(&self, fence: &Fence) -> Result<Cancelled> {
        let request = self.shared.cancel(fence)?;
        cancelled(&self.shared.core.call(request)?)
    }

    pub(crate) fn shared(&self) -> &Arc<QueueShared> {
        &self.shared
    }
}

impl QueueShared {
    pub(crate) fn new(
        core: Arc<Core>,
        device: Arc<DeviceShared>,
        observer: Arc<Observer>,
        slot: Slot,
        opened: &QueueOpened,
    ) -> Self {
        Self {
            core,
            device,
            observer,
            handle: opened.queue,
            slot,
            generation: opened.timeline.generation,
            depth: opened.depth,
            last: AtomicU64::new(0),
        }
    }

    /// Where a point of this queue is looked for.
    #[inline]
    pub(crate) fn target(&self, point: Point) -> Target {
        Target { slot: self.slot, generation: self.generation, point: point.0 }
    }

    /// Numbers one job more. Under `submitting`.
    pub(crate) fn advance(&self) -> Point {
        Point(self.last.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Takes the last number back, because its message was not sent. Under `submitting`.
    pub(crate) fn take_back(&self) {
        self.last.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn cancel(self: &Arc<Self>, fence: &Fence) -> Result<Cancel> {
        if !Arc::ptr_eq(self, fence.queue()) {
            return Err(LocalError::Foreign { what: "fence" }.into());
        }
        Ok(Cancel { queue: self.handle, point: fence.point() })
    }
}

impl Drop for QueueShared {
    fn drop(&mut self) {
        self.core.link.post(&ClientMessage::CloseQueue(CloseQueue { queue: self.handle }));
    }
}

/// Understands the answer to a request to cancel.
pub(crate) fn cancelled(reply: &Reply) -> Result<Cancelled> {
    match &reply.message {
        ClientMessage::Cancelling(cancelling) => match cancelling.state {
            0 => Ok(Cancelled::WillNotRun),
            1 => Ok(Cancelled::Running),
            2 => Ok(Cancelled::HasEnded),
            other => Err(Error::Protocol(format!("a cancelled job is in state {other}"))),
        },
        _ => Err(unexpected(reply)),
    }
}
