//! One point of a timeline, to wait for.
//!
//! Before a thread sleeps for it, it may have to be asked for where the timeline is seen; and unless a promise is not
//! awaited first (`submit_by`), whether anybody has promised the point (T1). A stream whose waiters bring deadlines of
//! their own says so and asks nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vgem_os::fence::{PointState, Slot};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::message::client::{ClientMessage, ObserveTimeline, PointState as Wire, QueryPoint};

use super::shared::TimelineShared;
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, LocalError, Result};
use crate::exchange::Reply;
use crate::explain::Explanation;
use crate::link::{accepted, unexpected};
use crate::obstacle::{AGAIN, TRIES, has_no_room_yet};
use crate::pages::Outcome;
use crate::together::sleep_until;
use crate::waitable::{PointKind, Whose, verdict};
use crate::watch::Watch;

/// So many pauses is the longest one between two questions.
const LONGEST: u32 = 20;

/// A point of a timeline that this client has a handle of.
#[derive(Debug, Clone)]
pub struct TimelinePoint {
    pub(crate) timeline: Arc<TimelineShared>,
    pub(crate) point: Point,
    /// It need not be promised yet, but by then.
    pub(crate) submit_by: Option<Deadline>,
}

/// How a point stands, as far as this client and the broker know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointStatus {
    /// Nobody has promised it.
    Unpromised {
        /// The last point that somebody has.
        promised: Point,
    },
    /// It is promised, and still to come.
    Promised,
    /// It was signalled, and all is well. `at` is when, if the page still says so.
    Done {
        /// CLOCK_MONOTONIC.
        at: Option<Time>,
    },
    /// It failed.
    Failed {
        /// What went wrong.
        code: ErrorCode,
        /// Where it began.
        cause: CauseId,
    },
}

/// What has to be asked before a sleep for a point is any good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Where it is seen.
    Where,
    /// Whether it is promised.
    Promised,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Answer {
    /// There is nothing more to ask.
    Ready,
    /// Another try will do: the broker has to make room first, or nobody signals the timeline yet.
    Later(Error),
}

/// How often was asked.
#[derive(Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// How long to wait before the next try; the error if there have been enough of them.
    pub(crate) fn again(&mut self, error: Error) -> Result<Duration> {
        self.0 += 1;
        if self.0 >= TRIES && !is_not_signalled(&error) {
            return Err(error);
        }
        // Who waits for somebody to take the right to signal may wait for long.
        Ok(AGAIN * self.0.min(LONGEST))
    }
}

impl TimelinePoint {
    pub(crate) fn whose(&self) -> Whose {
        Whose { name: Arc::clone(&self.timeline.name), kind: PointKind::Point, point: self.point }
    }

    #[inline]
    pub(crate) fn look(&self) -> PointState {
        self.timeline.look(self.point)
    }

    /// Whether both are the same point.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.point == other.point && Arc::ptr_eq(&self.timeline, &other.timeline)
    }

    /// What has to be asked first, if anything.
    pub(crate) fn question(&self) -> Option<Question> {
        if self.look() != PointState::Pending {
            return None;
        }
        if !self.timeline.is_here() && self.timeline.seen_at(self.point).is_none() {
            return Some(Question::Where);
        }
        let promised = self.submit_by.is_some() || self.timeline.has_promised(self.point);
        (!promised).then_some(Question::Promised)
    }

    /// Asks what has to be asked, again and again if need be.
    pub(crate) fn prepare(&self, deadline: Deadline) -> Result<(), FenceError> {
        let mut tries = Tries::default();
        loop {
            match self.inquire(deadline.min(self.timeline.core.deadline()))? {
                Answer::Ready => return Ok(()),
                Answer::Later(error) => {
                    let pause = tries.again(error)?;
                    if deadline.passed() {
                        return Err(self.whose().timeout());
                    }
                    std::thread::sleep(pause.min(deadline.remaining()));
                }
            }
        }
    }

    /// Asks what has to be asked, once.
    pub(crate) fn inquire(&self, until: Deadline) -> Result<Answer, FenceError> {
        let link = &self.timeline.core.link;
        while let Some(question) = self.question() {
            let answered = match question {
                Question::Where => link.call(self.observe(), until).and_then(|reply| self.observed(&reply)),
                Question::Promised if self.timeline.knows_promises() => return Err(self.unpromised().into()),
                Question::Promised => self.ask_status(Deadline::NOW, until).and_then(|said| self.told(said)),
            };
            match answered {
                Ok(()) => {}
                // It is over and shown nowhere: how its points ended the broker knows.
                Err(error) if question == Question::Where && error.code() == Some(ErrorCode::Gone) => {
                    let said = self.ask_status(Deadline::NOW, until)?;
                    self.timeline.tell(self.point, ended(said).ok_or(error)?);
                }
                Err(error) if has_no_room_yet(&error) || is_not_signalled(&error) => {
                    return Ok(Answer::Later(error));
                }
                Err(Error::Timeout { .. }) => return Err(self.whose().timeout()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Answer::Ready)
    }

    pub(crate) fn observe(&self) -> ObserveTimeline {
        ObserveTimeline { timeline: self.timeline.handle }
    }

    /// Understands where it is seen.
    pub(crate) fn observed(&self, reply: &Reply) -> Result<()> {
        let ClientMessage::TimelineObserved(seen) = &reply.message else { return Err(unexpected(reply)) };
        let slot =
            Slot::new(seen.slot).ok_or_else(|| Error::Protocol(format!("slot {} of a page", seen.slot)))?;
        let observer = self.timeline.core.page(seen.page)?;
        self.timeline.see(observer, slot);
        self.timeline.learn(seen.promised);
        Ok(())
    }

    pub(crate) fn query(&self) -> QueryPoint {
        QueryPoint { timeline: self.timeline.handle, point: self.point }
    }

    /// Asks the broker how it stands. The broker may wait until `promised_by` for a promise.
    pub(crate) fn ask_status(&self, promised_by: Deadline, answer_by: Deadline) -> Result<PointStatus> {
        let link = &self.timeline.core.link;
        let id = link.start(&self.query().into(), 0, promised_by, answer_by)?;
        self.status(&accepted(link.collect(id, answer_by)?)?)
    }

    /// Takes in whether it is promised: an error if it is not, and not ended either.
    pub(crate) fn told(&self, said: PointStatus) -> Result<()> {
        match said {
            PointStatus::Unpromised { .. } if self.look() == PointState::Pending => {
                Err(self.unpromised().into())
            }
            // Whatever else the broker knows will be in the page.
            _ => {
                self.timeline.learn(self.point);
                Ok(())
            }
        }
    }

    /// Understands how the broker says it stands.
    pub(crate) fn status(&self, reply: &Reply) -> Result<PointStatus> {
        let ClientMessage::PointState(Wire { state, code, cause, promised }) = &reply.message else {
            return Err(unexpected(reply));
        };
        self.timeline.learn(*promised);
        match state {
            0 => Ok(PointStatus::Unpromised { promised: *promised }),
            1 => Ok(PointStatus::Promised),
            2 => Ok(PointStatus::Done { at: None }),
            3 => Ok(PointStatus::Failed { code: ErrorCode::from_number(*code), cause: *cause }),
            other => Err(Error::Protocol(format!("a point is in state {other}"))),
        }
    }

    pub(crate) fn unpromised(&self) -> LocalError {
        LocalError::NotPromised {
            timeline: self.timeline.name.to_string(),
            point: self.point,
            promised: self.timeline.promised(),
        }
    }

    /// Waits for its end. What had to be asked was.
    pub(crate) fn wait_out(&self, deadline: Deadline) -> Outcome {
        let core = &self.timeline.core;
        loop {
            if let Some((observer, target)) = self.timeline.seen_at(self.point) {
                return observer.wait(target, deadline, &core.counters, || self.ask());
            }
            let ended = || Some(self.look()).filter(|state| *state != PointState::Pending);
            let moved = || !self.timeline.is_here() && self.look() == PointState::Pending;
            let found = || if moved() { Some(None) } else { ended().map(Some) };
            let late = deadline.passed();
            if let Some(Some(state)) = if late { found() } else { self.timeline.spin(found) } {
                return Outcome::Ended(state);
            }
            match sleep_until(&[self.watch()], &core.counters, deadline, found, || self.ask()) {
                Ok(Some(state)) => return Outcome::Ended(state),
                // Somebody else signals it now: ask where.
                Ok(None) => match self.prepare(deadline) {
                    Ok(()) => {}
                    Err(_) => return Outcome::TimedOut,
                },
                Err(outcome) => return outcome,
            }
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        match self.timeline.seen_at(self.point) {
            Some((observer, target)) => observer.watch(target),
            None => Watch::here(&self.timeline, self.point),
        }
    }

    /// Between long sleeps: has the broker gone?
    pub(crate) fn ask(&self) -> Option<Outcome> {
        self.timeline.core.refresh();
        self.timeline.core.link.check().is_err().then_some(Outcome::Lost)
    }

    /// Has the broker asked where it is seen, in a while.
    pub(crate) fn see_in_a_while(&self) {
        if self.question() != Some(Question::Where) || self.timeline.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = Self { submit_by: Some(Deadline::NOW), ..self.clone() };
        crate::errand::run(&self.timeline.core.clone(), move || {
            drop(own.inquire(own.timeline.core.deadline()));
            own.timeline.asking.store(false, Ordering::Release);
        });
    }

    pub(crate) fn verdict(
        &self,
        state: PointState,
        explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
    ) -> Result<(), FenceError> {
        verdict(self.whose(), state, explain)
    }
}

/// The end of a point that the broker knows.
pub(crate) fn ended(said: PointStatus) -> Option<PointState> {
    match said {
        PointStatus::Done { .. } => Some(PointState::Ok { time_ns: 0 }),
        PointStatus::Failed { code, cause } => {
            Some(PointState::Failed { code: code.number(), cause: cause.0, time_ns: 0 })
        }
        PointStatus::Unpromised { .. } | PointStatus::Promised => None,
    }
}

/// Whether the right to signal is on its way to somebody.
fn is_not_signalled(error: &Error) -> bool {
    error.code() == Some(ErrorCode::NotReady)
}
