//! Fences: one job's end. Looking reads a page this process has mapped; sleeping asks nobody either.
//!
//! ```text
//!   Pending ──signal──► Done
//!      │   └──signal──► Failed (code, cause) ──explain()──► Explanation, from the broker
//!      └── driver or broker dies ──► Failed | BrokerLost
//! ```
//!
//! A wait that ends early ends only itself: the job goes on, the fence stays good, another wait may follow.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use vgem_os::fence::PointState;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, Time};

use crate::bridge::Ticket;
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, JobFailure, Result};
use crate::explain::{Explanation, forgotten};
use crate::obstacle::Obstacle;
use crate::pages::{Outcome, Watch};
use crate::queue::QueueShared;

/// The end of one job. Clones name the same job.
#[derive(Debug, Clone)]
pub struct Fence {
    queue: Arc<QueueShared>,
    point: Point,
    round: u32,
}

/// What a look at a fence finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// Not done.
    Pending,
    /// Done, and well. `at` is when the queue's newest signal was given.
    Done {
        /// CLOCK_MONOTONIC.
        at: Time,
    },
    /// Failed.
    Failed {
        /// What went wrong with this job.
        code: ErrorCode,
        /// Where it began.
        cause: CauseId,
    },
    /// Done, but so many later jobs of the queue failed that the page no longer says how. Taken for failed.
    Forgotten,
}

impl Fence {
    pub(crate) fn new(queue: Arc<QueueShared>, point: Point, round: u32) -> Self {
        Self { queue, point, round }
    }

    /// The job's point on its queue.
    #[must_use]
    pub fn point(&self) -> Point {
        self.point
    }

    /// The name of the device the job was sent to.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.queue.device.name
    }

    /// Looks, without waiting.
    #[must_use]
    pub fn state(&self) -> FenceState {
        self.queue.core.void_unused();
        match self.look() {
            PointState::Pending => FenceState::Pending,
            PointState::Ok { time_ns } => FenceState::Done { at: Time(time_ns) },
            PointState::Failed { code, cause, .. } => {
                FenceState::Failed { code: ErrorCode::from_number(code), cause: CauseId(cause) }
            }
            PointState::Overrun => FenceState::Forgotten,
        }
    }

    /// Whether the job has ended, well or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.look() != PointState::Pending
    }

    /// Sleeps until the job has ended, at most until the deadline.
    ///
    /// # Errors
    /// [`FenceError::Failed`] with the cause and what is behind it; [`FenceError::Timeout`];
    /// [`FenceError::BrokerLost`] within a tenth of a second of the broker's end.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        let core = &self.queue.core;
        core.void_unused();
        if let Some(void) = self.void() {
            return self.judge(void);
        }
        let target = self.queue.target(self.point);
        let outcome = self.queue.observer.wait(target, deadline.into(), &core.counters, || self.ask());
        match outcome {
            Outcome::Ended(state) => self.judge(state),
            Outcome::TimedOut => Err(self.timeout()),
            Outcome::Lost => Err(self.lost()),
        }
    }

    /// The same for a task: completes when the job has ended, or at the deadline.
    ///
    /// # Errors
    /// As [`Fence::wait`]. The failure carries an explanation only if one was had before: ask
    /// [`crate::aio::Client::explain`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and nothing else.
    pub fn wait_async(&self, deadline: impl Into<Deadline>) -> FenceWait {
        FenceWait::new(Obstacle::Ours(self.clone()), deadline.into())
    }

    /// What is behind the failure of this job: asks the broker.
    ///
    /// # Errors
    /// [`Error::Local`] never; [`Error::Protocol`] if the job did not fail; as every request.
    pub fn explain(&self) -> Result<Arc<Explanation>> {
        match self.state() {
            FenceState::Failed { cause, .. } => match self.queue.voided(self.round, self.point) {
                Some(refusal) => Ok(Arc::new(Explanation::from_refusal(cause, &refusal))),
                None => self.queue.core.explain(cause, self.queue.core.deadline()),
            },
            FenceState::Forgotten => Ok(Arc::new(forgotten())),
            FenceState::Pending | FenceState::Done { .. } => {
                Err(Error::Protocol(format!("{} job {} has not failed", self.device(), self.point.0)))
            }
        }
    }

    pub(crate) fn queue(&self) -> &Arc<QueueShared> {
        &self.queue
    }

    pub(crate) fn watch(&self) -> Watch {
        self.queue.observer.watch(self.queue.target(self.point))
    }

    pub(crate) fn round(&self) -> u32 {
        self.round
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
    fn void(&self) -> Option<PointState> {
        if self.round == self.queue.round() {
            return None;
        }
        let refused = ErrorCode::Refused.number();
        let void = self.queue.is_void(self.round, self.point);
        void.then_some(PointState::Failed { code: refused, cause: CauseId::NONE.0, time_ns: 0 })
    }

    /// Now and then: has the broker refused the job, or gone?
    pub(crate) fn ask(&self) -> Option<Outcome> {
        self.queue.core.refresh();
        match self.void() {
            Some(void) => Some(Outcome::Ended(void)),
            None => self.queue.core.link.check().is_err().then_some(Outcome::Lost),
        }
    }

    /// The verdict on an ended job; asks what is behind a failure.
    pub(crate) fn judge(&self, state: PointState) -> Result<(), FenceError> {
        self.verdict(state, |cause| self.queue.core.explain_failure(cause))
    }

    /// The verdict on an ended job, with what this process knows already.
    pub(crate) fn judge_now(&self, state: PointState) -> Result<(), FenceError> {
        self.verdict(state, |cause| self.queue.core.remembered(cause))
    }

    fn verdict(
        &self,
        state: PointState,
        explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
    ) -> Result<(), FenceError> {
        let (code, cause, explanation) = match state {
            PointState::Ok { .. } => return Ok(()),
            PointState::Pending => return Err(self.timeout()),
            PointState::Failed { code, cause, .. } => {
                let cause = CauseId(cause);
                let explanation = match self.queue.voided(self.round, self.point) {
                    Some(refusal) => Some(Arc::new(Explanation::from_refusal(cause, &refusal))),
                    None => explain(cause),
                };
                (ErrorCode::from_number(code), cause, explanation)
            }
            PointState::Overrun => (ErrorCode::Other(0), CauseId::NONE, Some(Arc::new(forgotten()))),
        };
        if code == ErrorCode::BrokerLost {
            return Err(FenceError::BrokerLost { why: "it ended while the job was in flight".into() });
        }
        let device = Arc::clone(&self.queue.device.name);
        Err(FenceError::Failed(Box::new(JobFailure { device, point: self.point, code, cause, explanation })))
    }

    pub(crate) fn timeout(&self) -> FenceError {
        FenceError::Timeout { device: Arc::clone(&self.queue.device.name), point: self.point }
    }

    pub(crate) fn lost(&self) -> FenceError {
        Obstacle::Ours(self.clone()).lost()
    }
}

/// A task's wait for a fence.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct FenceWait {
    on: Obstacle,
    deadline: Deadline,
    ticket: Option<Ticket>,
}

impl FenceWait {
    pub(crate) fn new(on: Obstacle, deadline: Deadline) -> Self {
        Self { on, deadline, ticket: None }
    }
}

impl Future for FenceWait {
    type Output = Result<(), FenceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let core = this.on.core();
        core.void_unused();
        loop {
            match this.on.look() {
                PointState::Pending => {}
                state => {
                    this.ticket = None;
                    return Poll::Ready(this.on.judge_now(state));
                }
            }
            if core.link.check().is_err() {
                this.ticket = None;
                return Poll::Ready(Err(this.on.lost()));
            }
            if this.deadline.passed() {
                this.ticket = None;
                return Poll::Ready(Err(this.on.timeout()));
            }
            match &this.ticket {
                Some(ticket) => {
                    ticket.renew(context.waker());
                    return Poll::Pending;
                }
                None => match core.bridge().register(this.on.watch(), this.deadline, context.waker()) {
                    // Registered: look once more, the point may have come before.
                    Ok(ticket) => this.ticket = Some(ticket),
                    Err(why) => return Poll::Ready(Err(FenceError::BrokerLost { why })),
                },
            }
        }
    }
}
