//! The point of one job on its queue: where it is looked for, and what its end means.
//!
//! A batch may have been refused without using its points ([`crate::queue`]); then this point never was, and counts as
//! failed with `Refused`.

use std::sync::Arc;

use vgem_os::fence::PointState;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point};

use crate::error::FenceError;
use crate::explain::Explanation;
use crate::pages::Outcome;
use crate::queue::QueueShared;
use crate::waitable::{PointKind, Whose, verdict};
use crate::watch::Watch;

/// The end of one job. Clones name the same job.
#[derive(Debug, Clone)]
pub(crate) struct JobPoint {
    queue: Arc<QueueShared>,
    point: Point,
    round: u32,
}

impl JobPoint {
    pub(crate) fn new(queue: Arc<QueueShared>, point: Point, round: u32) -> Self {
        Self { queue, point, round }
    }

    pub(crate) fn queue(&self) -> &Arc<QueueShared> {
        &self.queue
    }

    pub(crate) fn point(&self) -> Point {
        self.point
    }

    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// Whether both are the same job.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.point == other.point && self.round == other.round && Arc::ptr_eq(&self.queue, &other.queue)
    }

    pub(crate) fn whose(&self) -> Whose {
        Whose { name: Arc::clone(&self.queue.device.name), kind: PointKind::Job, point: self.point }
    }

    pub(crate) fn watch(&self) -> Watch {
        self.queue.observer.watch(self.queue.target(self.point))
    }

    #[inline]
    pub(crate) fn look(&self) -> PointState {
        match self.void() {
            Some(void) => void,
            None => self.queue.observer.state(self.queue.target(self.point)),
        }
    }

    /// The state of a point that never was, if this is one.
    #[inline]
    pub(crate) fn void(&self) -> Option<PointState> {
        if self.round == self.queue.round() {
            return None;
        }
        let refused = ErrorCode::Refused.number();
        let void = self.queue.is_void(self.round, self.point);
        void.then_some(PointState::Failed { code: refused, cause: CauseId::NONE.0, time_ns: 0 })
    }

    /// Between long sleeps: has the broker refused the job, or gone?
    pub(crate) fn ask(&self) -> Option<Outcome> {
        self.queue.core.refresh();
        match self.void() {
            Some(void) => Some(Outcome::Ended(void)),
            None => self.queue.core.link.check().is_err().then_some(Outcome::Lost),
        }
    }

    /// Why the job never was, if that is so.
    pub(crate) fn refusal(&self, cause: CauseId) -> Option<Explanation> {
        let refusal = self.queue.voided(self.round, self.point)?;
        Some(Explanation::from_refusal(cause, &refusal))
    }

    /// The verdict on an ended job.
    pub(crate) fn verdict(
        &self,
        state: PointState,
        explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
    ) -> Result<(), FenceError> {
        verdict(self.whose(), state, |cause| self.refusal(cause).map(Arc::new).or_else(|| explain(cause)))
    }
}
