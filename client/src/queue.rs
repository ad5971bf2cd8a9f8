//! Queues: ordered streams of jobs on one device. A queue numbers its jobs; each number is a point.
//!
//! A batch may be refused without using its points (there was no room for it). Then the points that were given to it,
//! and to everything that was sent after it meanwhile, are **void**, and numbering begins anew where they began: another
//! **round**. A fence knows its round, so that it is never taken for a later job that got the same point.
//!
//! A queue closes when the last of it goes: the [`Queue`] and every fence of its jobs. Jobs in flight then finish.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vgem_os::fence::Slot;
use vgem_proto::error::Refusal;
use vgem_proto::ids::{Point, QueueHandle, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::client::{Cancel, ClientMessage, CloseQueue, QueueOpened};

use crate::core::Core;
use crate::device::DeviceShared;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::fence::Fence;
use crate::jobpoint::JobPoint;
use crate::link::unexpected;
use crate::pages::{Observer, Target};
use crate::timeline::Timeline;

/// Ends that a driver reports together at most.
const REPORTED: u32 = 64;

const _: () = assert!(REPORTED as usize == limits::COMPLETIONS);

/// The depth to open a queue with, for `depth` jobs in flight; 0 is the default.
///
/// The broker hears of ended jobs later than their fences' waiters: drivers report ends 64 together or a millisecond
/// late, and a busy broker reads that later still. Queues are opened deeper than asked for, as far as the limit allows, so
/// that whoever keeps to the depth asked for finds room.
pub(crate) fn room_for(depth: u32) -> u32 {
    let depth = if depth == 0 { limits::QUEUE_DEPTH_DEFAULT } else { depth };
    let slack = depth.saturating_add(REPORTED);
    if depth > limits::QUEUE_DEPTH { depth } else { depth.saturating_add(slack).min(limits::QUEUE_DEPTH) }
}

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
    timeline: TimelineKey,
    depth: u32,
    /// The last point that was sent. Changes only under the core's `submitting`.
    last: AtomicU64,
    /// How many rounds have ended; as many as `voids` has.
    rounds: AtomicU32,
    voids: Mutex<Vec<Void>>,
}

/// How a round ended: its points from `from` on never were.
#[derive(Debug)]
struct Void {
    from: Point,
    why: Refusal,
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

    /// Jobs that may be in flight, as it was opened.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.shared.depth
    }

    /// The fence of the job that was submitted last, if one was.
    #[must_use]
    pub fn last(&self) -> Option<Fence> {
        match self.shared.last.load(Ordering::Acquire) {
            0 => None,
            point => {
                let job = JobPoint::new(Arc::clone(&self.shared), Point(point), self.shared.round());
                Some(Fence::of_job(job))
            }
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

    /// Its timeline: the points of its jobs, also of those that are not submitted yet, to wait for or to pass on.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        Timeline::of_queue(&self.shared)
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
        depth: u32,
        opened: &QueueOpened,
    ) -> Self {
        let depth = if depth == 0 { limits::QUEUE_DEPTH_DEFAULT } else { depth };
        Self {
            core,
            device,
            observer,
            handle: opened.queue,
            slot,
            timeline: opened.timeline,
            depth: depth.min(opened.depth),
            last: AtomicU64::new(0),
            rounds: AtomicU32::new(0),
            voids: Mutex::new(Vec::new()),
        }
    }

    /// Where a point of this queue is looked for.
    #[inline]
    pub(crate) fn target(&self, point: Point) -> Target {
        Target { slot: self.slot, generation: self.timeline.generation, point: point.0 }
    }

    /// The point of the last job that was submitted.
    pub(crate) fn last_point(&self) -> Point {
        Point(self.last.load(Ordering::Acquire))
    }

    /// Numbers one job more. Under `submitting`.
    pub(crate) fn advance(&self) -> Point {
        Point(self.last.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Takes the last number back, because its message was not sent. Under `submitting`.
    pub(crate) fn take_back(&self) {
        self.last.fetch_sub(1, Ordering::AcqRel);
    }

    /// The round in which jobs are numbered now.
    #[inline]
    pub(crate) fn round(&self) -> u32 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Ends `round`, if it still lasts: its points from `from` on are void. Under `submitting`.
    pub(crate) fn void(&self, round: u32, from: Point, why: &Refusal) {
        let mut voids = self.voids.lock().unwrap_or_else(PoisonError::into_inner);
        if self.round() == round {
            voids.push(Void { from, why: why.clone() });
            self.last.store(from.0.saturating_sub(1), Ordering::Release);
            self.rounds.store(round.saturating_add(1), Ordering::Release);
        }
    }

    /// Whether a point of a round that has ended is void.
    #[cold]
    pub(crate) fn is_void(&self, round: u32, point: Point) -> bool {
        self.with_void(round, point, |_| ()).is_some()
    }

    /// Why a point is void, if it is.
    pub(crate) fn voided(&self, round: u32, point: Point) -> Option<Refusal> {
        self.with_void(round, point, |why| why.clone())
    }

    fn with_void<T>(&self, round: u32, point: Point, look: impl FnOnce(&Refusal) -> T) -> Option<T> {
        let voids = self.voids.lock().unwrap_or_else(PoisonError::into_inner);
        let void = voids.get(usize::try_from(round).unwrap_or(usize::MAX))?;
        (point >= void.from).then(|| look(&void.why))
    }

    pub(crate) fn cancel(self: &Arc<Self>, fence: &Fence) -> Result<Cancel> {
        if !fence.job().is_some_and(|job| Arc::ptr_eq(self, job.queue())) {
            return Err(LocalError::Foreign { what: "fence" }.into());
        }
        Ok(Cancel { queue: self.handle, point: fence.point() })
    }
}

impl Drop for QueueShared {
    fn drop(&mut self) {
        self.core.closed(self.timeline);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_opened_with_room_for_ends_not_yet_reported() {
        assert_eq!([0, 1, 1000, 1024, 5000].map(room_for), [576, 66, 1024, 1024, 5000]);
    }
}
