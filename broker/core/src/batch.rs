//! Storage for the batch that is being looked at, used again for the next one.
//!
//! What checking finds and planning computes lies here until the batch is accepted or refused: flat lists, in the order
//! of the jobs, each job saying how many of each are its own. An ordinary job allocates nothing.

use vgem_proto::error::Refusal;
use vgem_proto::ids::{CauseId, InstanceId, Point, QueueHandle, TimelineKey};
use vgem_proto::jobs::{DriverOperand, DriverParam, DriverWait};

use crate::gates::{Gate, NewFuture};
use crate::queues::Use;
use crate::reservation::{Inherited, PlannedWait};
use crate::runs::Runs;

/// Storage for one batch; empty between inputs.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) queues: Vec<BatchQueue>,
    /// Why the batch cannot be, if one of its queues has nobody behind it. The points of the others are consumed.
    pub(crate) gone: Option<Refusal>,
    /// The cause of that loss, if it is known.
    pub(crate) loss: Option<CauseId>,
    pub(crate) jobs: Vec<PlannedJob>,
    pub(crate) operands: Vec<DriverOperand>,
    pub(crate) params: Vec<DriverParam>,
    pub(crate) uses: Vec<Use>,
    pub(crate) explicit: Vec<PlannedWait>,
    /// The failure of an explicit data wait of the job that is being checked.
    pub(crate) failed: Option<Inherited>,
    pub(crate) waits: Vec<PlannedWait>,
    /// Waits for promises of clients.
    pub(crate) gates: Vec<Gate>,
    /// Waits for what nobody has promised yet.
    pub(crate) futures: Vec<NewFuture>,
    pub(crate) driver_waits: Vec<DriverWait>,
    pub(crate) runs: Runs,
}

/// A queue that a batch names.
#[derive(Debug)]
pub(crate) struct BatchQueue {
    pub(crate) handle: QueueHandle,
    pub(crate) timeline: TimelineKey,
    pub(crate) instance: InstanceId,
    pub(crate) device: usize,
    pub(crate) life: Life,
    /// The last point promised before this batch.
    pub(crate) promised: Point,
    /// Jobs of the batch on this queue.
    pub(crate) count: u32,
    /// Those of them that come before the one that is being looked at.
    pub(crate) so_far: u32,
}

/// What is behind a queue that a batch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// A driver that takes jobs.
    Runs,
    /// One that will: it is the heir of another, or will have one. Its jobs wait for that.
    Waits,
    /// One that is ending: its jobs wait in the ring for the end.
    Ends,
    /// None: every point of the queue has failed, also those to come.
    Gone,
}

/// A job on its way to acceptance. The numbers count its own records, in the order of the batch's arrays.
#[derive(Debug)]
pub(crate) struct PlannedJob {
    /// Place among the batch's queues.
    pub(crate) queue: usize,
    pub(crate) run_ns: u64,
    pub(crate) operands: usize,
    pub(crate) params: usize,
    pub(crate) uses: usize,
    pub(crate) explicit: usize,
    pub(crate) gates: usize,
    pub(crate) waits: usize,
    pub(crate) failed: Option<Inherited>,
    /// Implicit waits are not wanted.
    pub(crate) is_explicit: bool,
    /// Failed data waits do not matter.
    pub(crate) runs_anyway: bool,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.queues.clear();
        self.gone = None;
        self.loss = None;
        self.jobs.clear();
        self.operands.clear();
        self.params.clear();
        self.uses.clear();
        self.explicit.clear();
        self.waits.clear();
        self.gates.clear();
        self.futures.clear();
        self.driver_waits.clear();
        self.failed = None;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let is_sent = self.runs.is_empty();
        is_sent
            && self.queues.is_empty()
            && self.jobs.is_empty()
            && self.uses.is_empty()
            && self.waits.is_empty()
    }

    /// The timelines of the batch's queues.
    pub(crate) fn timelines(&self) -> impl Iterator<Item = TimelineKey> {
        self.queues.iter().map(|queue| queue.timeline)
    }

    /// The instance that a job goes to.
    pub(crate) fn instance_of(&self, job: &PlannedJob) -> Option<InstanceId> {
        self.queues.get(job.queue).map(|queue| queue.instance)
    }

    /// The points of the jobs, in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = (TimelineKey, Point)> {
        let mut so_far = vec![0u64; self.queues.len()];
        self.jobs.iter().filter_map(move |job| {
            let (queue, count) = (self.queues.get(job.queue)?, so_far.get_mut(job.queue)?);
            *count += 1;
            Some((queue.timeline, Point(queue.promised.0.saturating_add(*count))))
        })
    }

    /// Jobs of the batch on a timeline: those already looked at, and all.
    pub(crate) fn planned_on(&self, timeline: TimelineKey) -> Option<(u64, u64)> {
        let queue = self.queues.iter().find(|queue| queue.timeline == timeline)?;
        Some((u64::from(queue.so_far), u64::from(queue.count)))
    }
}

/// Takes the first `count` elements off a slice; fewer if there are not so many.
pub(crate) fn take<'a, T>(rest: &mut &'a [T], count: impl TryInto<usize>) -> &'a [T] {
    let count = count.try_into().unwrap_or(usize::MAX).min(rest.len());
    let (first, others) = rest.split_at(count);
    *rest = others;
    first
}
