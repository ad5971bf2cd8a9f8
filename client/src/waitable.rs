//! Everything that a thread or a task can wait for, under one name.
//!
//! ```text
//!   job of this client       known since it was submitted         ─┐
//!   point of a timeline      of this client, or shown to it       ─┼─► prepare, look, sleep, judge
//!   point of another's job   named by the broker when asked       ─┘
//! ```
//!
//! *Prepare* is what has to be asked before a sleep is any good: where a timeline is seen, and whether its point is
//! promised at all. Nothing of it for jobs. Looking asks nobody. Judging a failure may ask what is behind it.

use std::fmt;
use std::sync::Arc;

use vgem_os::fence::PointState;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, TimelineHandle};

use crate::core::{Core, EXPLAIN};
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, JobFailure};
use crate::explain::{Explanation, forgotten};
use crate::jobpoint::JobPoint;
use crate::obstacle::Seen;
use crate::pages::Outcome;
use crate::timeline::{Answer, TimelinePoint, TimelineShared, ended};
use crate::watch::Watch;

/// Something that can be waited for.
#[derive(Debug, Clone)]
pub(crate) enum Waitable {
    /// A job of this client.
    Job(JobPoint),
    /// A point of a timeline.
    Point(TimelinePoint),
    /// A point of another's job.
    Seen(Seen),
}

/// What a point stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PointKind {
    /// The end of a job.
    Job,
    /// A point of a timeline.
    Point,
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Job => "job",
            Self::Point => "point",
        })
    }
}

/// Whose point it is, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    /// The device, or the timeline.
    pub(crate) name: Arc<str>,
    pub(crate) kind: PointKind,
    pub(crate) point: Point,
}

impl Waitable {
    pub(crate) fn core(&self) -> &Arc<Core> {
        match self {
            Self::Job(job) => &job.queue().core,
            Self::Point(point) => &point.timeline.core,
            Self::Seen(seen) => seen.core(),
        }
    }

    pub(crate) fn whose(&self) -> Whose {
        match self {
            Self::Job(job) => job.whose(),
            Self::Point(point) => point.whose(),
            Self::Seen(seen) => seen.whose(),
        }
    }

    #[inline]
    pub(crate) fn look(&self) -> PointState {
        match self {
            Self::Job(job) => job.look(),
            Self::Point(point) => point.look(),
            Self::Seen(seen) => seen.look(),
        }
    }

    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.look() != PointState::Pending
    }

    pub(crate) fn watch(&self) -> Watch {
        match self {
            Self::Job(job) => job.watch(),
            Self::Point(point) => point.watch(),
            Self::Seen(seen) => seen.watch(),
        }
    }

    /// Has it asked where it is to be seen, in a while, if that is not known.
    pub(crate) fn see_in_a_while(&self) {
        if let Self::Point(point) = self {
            point.see_in_a_while();
        }
    }

    /// Between long sleeps: is there another reason to end the wait?
    pub(crate) fn ask(&self) -> Option<Outcome> {
        match self {
            Self::Job(job) => job.ask(),
            Self::Point(point) => point.ask(),
            Self::Seen(seen) => seen.ask(),
        }
    }

    /// Asks once what has to be asked before a sleep; false if it has to be asked again later.
    pub(crate) fn ask_first(&self, until: Deadline) -> Result<bool, FenceError> {
        match self {
            Self::Point(point) => Ok(matches!(point.inquire(until)?, Answer::Ready)),
            Self::Job(_) | Self::Seen(_) => Ok(true),
        }
    }

    /// Waits for the end, at most until the deadline. A verdict is another matter.
    pub(crate) fn wait_out(&self, deadline: Deadline) -> Result<PointState, FenceError> {
        let core = self.core();
        core.void_unused();
        let outcome = match self {
            Self::Job(job) => match job.void() {
                Some(void) => Outcome::Ended(void),
                None => {
                    let target = job.queue().target(job.point());
                    job.queue().observer.wait(target, deadline, &core.counters, || job.ask())
                }
            },
            Self::Point(point) => {
                point.prepare(deadline)?;
                point.wait_out(deadline)
            }
            Self::Seen(seen) => seen.wait_out(deadline),
        };
        match outcome {
            Outcome::Ended(state) => Ok(state),
            Outcome::TimedOut => Err(self.timeout()),
            Outcome::Lost => Err(self.lost()),
        }
    }

    /// Waits for a good end.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<(), FenceError> {
        match self.wait_out(deadline)? {
            // Of what went well nothing has to be found out.
            PointState::Ok { .. } => Ok(()),
            other => self.judge(other),
        }
    }

    /// The verdict on its end; asks what is behind a failure.
    pub(crate) fn judge(&self, state: PointState) -> Result<(), FenceError> {
        let state = if state == PointState::Overrun { self.remembered_by_broker() } else { state };
        self.verdict(state, |cause| self.core().explain_failure(cause))
    }

    /// The verdict on its end, with what this process knows already.
    pub(crate) fn judge_now(&self, state: PointState) -> Result<(), FenceError> {
        self.verdict(state, |cause| self.core().remembered(cause))
    }

    fn verdict(
        &self,
        state: PointState,
        explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
    ) -> Result<(), FenceError> {
        match self {
            Self::Job(job) => job.verdict(state, explain),
            Self::Point(point) => point.verdict(state, explain),
            Self::Seen(seen) => seen.verdict(state, explain),
        }
    }

    /// How a point ended that the page has forgotten, if the broker says so in a moment.
    pub(crate) fn remembered_by_broker(&self) -> PointState {
        let said =
            self.asked().and_then(|point| point.ask_status(Deadline::NOW, Deadline::after(EXPLAIN)).ok());
        said.and_then(ended).unwrap_or(PointState::Overrun)
    }

    /// The point as the broker knows it by a handle, if it does.
    pub(crate) fn asked(&self) -> Option<TimelinePoint> {
        match self {
            Self::Job(job) => {
                let timeline = Arc::new(TimelineShared::of_queue(job.queue()));
                Some(TimelinePoint { timeline, point: job.point(), submit_by: None })
            }
            Self::Point(point) => Some(point.clone()),
            Self::Seen(_) => None,
        }
    }

    pub(crate) fn timeout(&self) -> FenceError {
        self.whose().timeout()
    }

    pub(crate) fn lost(&self) -> FenceError {
        match self.core().link.check() {
            Err(Error::BrokerLost { why }) => FenceError::BrokerLost { why },
            _ => FenceError::BrokerLost { why: "it closed the connection".into() },
        }
    }

    /// Until when it must have been promised, if it need not be yet.
    pub(crate) fn submit_by(&self) -> Option<Deadline> {
        match self {
            Self::Point(point) => point.submit_by,
            Self::Job(_) | Self::Seen(_) => None,
        }
    }

    /// What the broker is asked about it with, if it is a point that it knows by a handle.
    pub(crate) fn handle(&self) -> Option<(TimelineHandle, Point)> {
        match self {
            Self::Job(job) => Some((TimelineHandle(job.queue().handle.0), job.point())),
            Self::Point(point) => Some((point.timeline.handle, point.point)),
            Self::Seen(_) => None,
        }
    }
}

impl Whose {
    pub(crate) fn timeout(self) -> FenceError {
        FenceError::Timeout { device: self.name, kind: self.kind, point: self.point }
    }
}

/// The verdict on a point that was looked at.
pub(crate) fn verdict(
    whose: Whose,
    state: PointState,
    explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
) -> Result<(), FenceError> {
    let (code, cause, explanation) = match state {
        PointState::Ok { .. } => return Ok(()),
        PointState::Pending => return Err(whose.timeout()),
        PointState::Failed { code, cause, .. } => {
            let cause = CauseId(cause);
            (ErrorCode::from_number(code), cause, explain(cause))
        }
        PointState::Overrun => (ErrorCode::Other(0), CauseId::NONE, Some(Arc::new(forgotten()))),
    };
    if code == ErrorCode::BrokerLost {
        return Err(FenceError::BrokerLost { why: "it ended while the job was in flight".into() });
    }
    let Whose { name: device, kind, point } = whose;
    Err(FenceError::Failed(Box::new(JobFailure { device, kind, point, code, cause, explanation })))
}
