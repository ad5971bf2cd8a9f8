//! Fences: one job's end, or one point of a timeline. Looking reads a page this process has mapped; sleeping asks nobody
//! either.
//!
//! ```text
//!   Pending ──signal──► Done
//!      │   └──signal──► Failed (code, cause) ──explain()──► Explanation, from the broker
//!      └── driver, signaller or broker dies, or a promise is not kept ──► Failed | BrokerLost
//! ```
//!
//! A wait that ends early ends only itself: the job goes on, the fence stays good, another wait may follow. What had to be
//! asked before a wait for a point of a timeline is in [`crate::timeline`].

use std::sync::Arc;

use vgem_os::fence::PointState;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, Time};

use crate::deadline::Deadline;
use crate::error::{Error, FenceError, Result};
use crate::explain::{Explanation, forgotten};
use crate::jobpoint::JobPoint;
use crate::obstacle::OTHERS;
use crate::wait::FenceWait;
use crate::waitable::{Waitable, Whose};

/// The end of one job, or a point of a timeline ([`crate::Timeline::point`]). Clones name the same one.
#[derive(Debug, Clone)]
pub struct Fence {
    on: Waitable,
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
    pub(crate) fn of(on: Waitable) -> Self {
        Self { on }
    }

    pub(crate) fn of_job(job: JobPoint) -> Self {
        Self { on: Waitable::Job(job) }
    }

    /// The job's point on its queue, or the point.
    #[must_use]
    pub fn point(&self) -> Point {
        self.on.whose().point
    }

    /// The name of the device the job was sent to, or of the timeline.
    #[must_use]
    pub fn device(&self) -> &str {
        match &self.on {
            Waitable::Job(job) => &job.queue().device.name,
            Waitable::Point(point) => &point.timeline.name,
            Waitable::Seen(_) => OTHERS,
        }
    }

    /// Looks, without waiting.
    #[must_use]
    pub fn state(&self) -> FenceState {
        self.on.core().void_unused();
        match self.on.look() {
            PointState::Pending => {
                self.on.see_in_a_while();
                FenceState::Pending
            }
            PointState::Ok { time_ns } => FenceState::Done { at: Time(time_ns) },
            PointState::Failed { code, cause, .. } => {
                FenceState::Failed { code: ErrorCode::from_number(code), cause: CauseId(cause) }
            }
            PointState::Overrun => FenceState::Forgotten,
        }
    }

    /// Whether it has ended, well or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.on.has_ended()
    }

    /// Sleeps until it has ended, at most until the deadline.
    ///
    /// # Errors
    /// [`FenceError::Failed`] with the cause and what is behind it; [`FenceError::Timeout`];
    /// [`FenceError::BrokerLost`] within a tenth of a second of the broker's end; [`FenceError::Request`] for a point that nobody has promised.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        self.on.wait(deadline.into())
    }

    /// The same for a task: completes when it has ended, or at the deadline.
    ///
    /// # Errors
    /// As [`Fence::wait`]. The failure carries an explanation only if one was had before: ask
    /// [`crate::aio::Client::explain`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and nothing else.
    pub fn wait_async(&self, deadline: impl Into<Deadline>) -> FenceWait {
        FenceWait::new(self.on.clone(), deadline.into())
    }

    /// What is behind its failure: asks the broker.
    ///
    /// # Errors
    /// [`Error::Local`] never; [`Error::Protocol`] if it did not fail; as every request.
    pub fn explain(&self) -> Result<Arc<Explanation>> {
        let core = self.on.core();
        match self.state() {
            FenceState::Failed { cause, .. } => match self.job().and_then(|job| job.refusal(cause)) {
                Some(refusal) => Ok(Arc::new(refusal)),
                None => core.explain(cause, core.deadline()),
            },
            FenceState::Forgotten => Ok(Arc::new(forgotten())),
            FenceState::Pending | FenceState::Done { .. } => {
                let Whose { name, kind, point } = self.on.whose();
                Err(Error::Protocol(format!("{name} {kind} {} has not failed", point.0)))
            }
        }
    }

    /// The job, if it is one's end.
    pub(crate) fn job(&self) -> Option<&JobPoint> {
        match &self.on {
            Waitable::Job(job) => Some(job),
            Waitable::Point(_) | Waitable::Seen(_) => None,
        }
    }

    pub(crate) fn on(&self) -> &Waitable {
        &self.on
    }

    pub(crate) fn into_on(self) -> Waitable {
        self.on
    }
}
