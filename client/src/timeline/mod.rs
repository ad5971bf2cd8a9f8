//! Timelines: who says that a point was reached, and who waits for it.
//!
//! ```text
//!   Client::timeline ──► Timeline (WAIT, SIGNAL) ── promise ── signal | fail ──► everybody who waits for its points
//!                            │ export(WAIT) ──► token ~~ any way ~~► import_timeline ──► Timeline (WAIT)
//!                            └ export(SIGNAL) ─► token ~~~~~~~~~~~~► import_timeline ──► Timeline (SIGNAL): here no more
//!   Queue::timeline ───► Timeline (WAIT): its points are the ends of jobs
//! ```
//!
//! A **promise** is a point and a moment until which it will have been signalled. Others need it to wait without a deadline
//! of their own: a job of this domain that comes after the point, or whoever asked for a promised point. The broker holds
//! the signaller to it: a promise that is not kept ends the timeline, and what the signaller left unsignalled when it
//! dies fails with `OwnerDied`. A stream whose waiters bring deadlines of their own needs no promises and never speaks to
//! the broker.
//!
//! Signalling is a few stores and one fence in the pages of all observers, and a system call for those that sleep. It
//! takes `&mut Timeline`: a timeline has one signaller, and points only grow. [`Timeline::point`] gives a [`Fence`], which
//! is waited for as any job's is: alone, any or all of many, by a task, or by a job ([`crate::Job::after`]).
//!
//! | rule | where |
//! |---|---|
//! | T1 a point that nobody has promised is not waited for | [`Timeline::wait`]; [`Timeline::wait_for_submit`] does all the same |
//! | T2 wait until it is promised | [`Timeline::wait_available`] |
//! | T3 points only grow | [`Timeline::signal`], [`Timeline::promise`] |
//! | T8 nobody gets more than the giver had | [`Timeline::export`] |
//!
//! Dropping a timeline that one signals ends it: its later points fail with `Cancelled`.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use vgem::{Point, TimelineRights};
//! # fn f(here: &vgem::Client, there: &vgem::Client) -> vgem::Result<()> {
//! let mut frames = here.timeline("frames")?;
//! let token = frames.export(TimelineRights::WAIT)?; // 16 bytes, for any socket
//! let theirs = there.import_timeline(token)?;
//! frames.promise(Point(1), Duration::from_millis(100))?;
//! frames.signal(Point(1))?;
//! theirs.wait(Point(1), Duration::from_secs(1))?;
//! # Ok(())
//! # }
//! ```

mod point;
mod shared;
mod signal;
mod token;

use std::sync::Arc;

use vgem_os::fence::{PointState, Slot};
use vgem_proto::codec::Zero;
use vgem_proto::ids::Point;
use vgem_proto::message::client::{
    ClientMessage, CreateTimeline, ExportTimeline, ImportTimeline, TimelineOpened,
};
pub use vgem_proto::rights::TimelineRights;

use crate::core::{self, Core};
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, LocalError, Result};
use crate::exchange::Reply;
use crate::fence::Fence;
use crate::link::unexpected;
use crate::queue::QueueShared;
use crate::signals::Place;
use crate::waitable::Waitable;

pub use self::point::PointStatus;
pub(crate) use self::point::{Answer, TimelinePoint, Tries, ended};
pub(crate) use self::shared::TimelineShared;
use self::signal::Signaller;
pub use self::token::TimelineToken;

/// How long the broker may be late with an answer that comes at a deadline.
pub(crate) const GRACE: std::time::Duration = std::time::Duration::from_millis(40);

/// A handle of a timeline.
#[derive(Debug)]
pub struct Timeline {
    shared: Arc<TimelineShared>,
    rights: TimelineRights,
    /// If this client signals it.
    signaller: Option<Signaller>,
}

impl Timeline {
    /// What it is called: as it was created, or its number, where it was imported.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What this handle allows.
    #[must_use]
    pub const fn rights(&self) -> TimelineRights {
        self.rights
    }

    /// A point of it, to wait for as for a job's fence. Nobody is asked for anything yet.
    #[must_use]
    pub fn point(&self, point: Point) -> Fence {
        Fence::of(Waitable::Point(self.at(point, None)))
    }

    /// Sleeps until a promised point was signalled, at most until the deadline.
    ///
    /// # Errors
    /// [`LocalError::NotPromised`] if nobody has promised it (T1): the broker is asked once, if the point has not been
    /// signalled and is above all that are known to be promised. Otherwise as [`Fence::wait`].
    pub fn wait(&self, point: Point, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        self.point(point).wait(deadline)
    }

    /// Sleeps until a point was signalled, promised or not, at most until the deadline. The broker is asked once where the
    /// timeline is seen, and then never again.
    ///
    /// # Errors
    /// As [`Fence::wait`].
    pub fn wait_for_submit(&self, point: Point, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        let deadline = deadline.into();
        Waitable::Point(self.at(point, Some(deadline))).wait(deadline)
    }

    /// Sleeps until a point is promised, or has ended, at most until the deadline: from then on a job may wait for it (T2).
    ///
    /// # Errors
    /// [`Error::Timeout`]; as every request.
    pub fn wait_available(&self, point: Point, deadline: impl Into<Deadline>) -> Result<()> {
        self.point(point).wait_available(deadline)
    }

    /// How a point stands. Asks the broker about one that was not signalled, and one of which the page has forgotten how it
    /// ended.
    ///
    /// # Errors
    /// As every request.
    pub fn query(&self, point: Point) -> Result<PointStatus> {
        self.point(point).query()
    }

    /// The last point that is known here to be promised; of a queue that of its last job.
    #[must_use]
    pub fn promised(&self) -> Point {
        self.shared.promised()
    }

    /// A token with which one other client gets a handle, within ten seconds. SIGNAL passes on with it: this handle loses it
    /// at once, and keeps WAIT if it had it.
    ///
    /// # Errors
    /// [`LocalError::NoRight`] for more than this handle allows (T8); [`LocalError::InUse`] for SIGNAL once a point was
    /// promised or signalled; [`Error::Refused`] with `Busy` for SIGNAL while somebody sees the timeline; as every request.
    pub fn export(&mut self, rights: TimelineRights) -> Result<TimelineToken> {
        let reply = self.shared.core.call(self.export_request(rights)?)?;
        self.exported(rights, &reply)
    }

    /// That of a queue.
    pub(crate) fn of_queue(queue: &Arc<QueueShared>) -> Self {
        let shared = Arc::new(TimelineShared::of_queue(queue));
        Self { shared, rights: TimelineRights::WAIT, signaller: None }
    }

    /// The request for a token, if the rights allow it.
    pub(crate) fn export_request(&self, rights: TimelineRights) -> Result<ExportTimeline, LocalError> {
        if !self.rights.contains(rights) {
            return Err(self.no_right(rights));
        }
        if rights.contains(TimelineRights::SIGNAL)
            && let Some(signaller) = &self.signaller
        {
            let point = signaller.signalled().max(self.promised());
            if point > Point(0) {
                return Err(LocalError::InUse { timeline: self.name().into(), point });
            }
        }
        Ok(ExportTimeline { timeline: self.shared.handle, rights, reserved: Zero })
    }

    /// Understands a token.
    pub(crate) fn exported(&mut self, rights: TimelineRights, reply: &Reply) -> Result<TimelineToken> {
        let ClientMessage::TimelineExported(exported) = &reply.message else { return Err(unexpected(reply)) };
        if rights.contains(TimelineRights::SIGNAL) {
            self.shared.pass_on();
            self.signaller = None;
            self.rights.remove(TimelineRights::SIGNAL);
        }
        Ok(TimelineToken::from_wire(exported.token))
    }

    pub(crate) fn is_of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.shared.core, core)
    }

    pub(crate) fn at(&self, point: Point, submit_by: Option<Deadline>) -> TimelinePoint {
        TimelinePoint { timeline: Arc::clone(&self.shared), point, submit_by }
    }

    fn no_right(&self, needs: TimelineRights) -> LocalError {
        LocalError::NoRight { timeline: self.name().into(), needs, has: self.rights }
    }
}

/// A timeline that nobody signals any more has ended.
impl Drop for Timeline {
    fn drop(&mut self) {
        if self.signaller.is_some() {
            self.shared.close();
        }
    }
}

impl Fence {
    /// The same fence, for a point that need not be promised yet: waits for it ask nobody whether it is, and a job that
    /// waits for it fails with `TimedOut` if it is not promised `by` then. Of a job nothing changes.
    #[must_use]
    pub fn promised_by(self, by: impl Into<Deadline>) -> Self {
        match self.into_on() {
            Waitable::Point(point) => {
                Self::of(Waitable::Point(TimelinePoint { submit_by: Some(by.into()), ..point }))
            }
            other => Self::of(other),
        }
    }

    /// Sleeps until the point is promised, or has ended, at most until the deadline (T2). A job's always is.
    ///
    /// # Errors
    /// As [`Timeline::wait_available`].
    pub fn wait_available(&self, deadline: impl Into<Deadline>) -> Result<()> {
        let deadline = deadline.into();
        let Some(point) = self.unavailable() else { return Ok(()) };
        if point.timeline.is_here() {
            return point.wait_promised(deadline);
        }
        match point.ask_status(deadline, Deadline::after(deadline.remaining().saturating_add(GRACE)))? {
            PointStatus::Unpromised { .. } => Err(Error::Timeout { what: WHILE_UNPROMISED }),
            _ => Ok(()),
        }
    }

    /// How the point stands, as [`Timeline::query`].
    ///
    /// # Errors
    /// As there.
    pub fn query(&self) -> Result<PointStatus> {
        match self.status_now() {
            Some(status) => Ok(status),
            None => {
                let point = self.asked()?;
                let said = point.ask_status(Deadline::NOW, point.timeline.core.deadline())?;
                Ok(self.status_as_told(said))
            }
        }
    }

    /// The point, if it is neither known to be promised nor ended.
    pub(crate) fn unavailable(&self) -> Option<&TimelinePoint> {
        match self.on() {
            Waitable::Point(point) => {
                let known = point.look() != PointState::Pending || point.timeline.has_promised(point.point);
                (!known).then_some(point)
            }
            Waitable::Job(_) | Waitable::Seen(_) => None,
        }
    }

    /// How it stands, if that is known here.
    pub(crate) fn status_now(&self) -> Option<PointStatus> {
        use crate::fence::FenceState;
        match self.state() {
            FenceState::Done { at } => Some(PointStatus::Done { at: Some(at) }),
            FenceState::Failed { code, cause } => Some(PointStatus::Failed { code, cause }),
            FenceState::Pending => match self.on() {
                Waitable::Point(point) if point.timeline.is_here() => {
                    let promised = point.timeline.promised();
                    Some(if point.point <= promised {
                        PointStatus::Promised
                    } else {
                        PointStatus::Unpromised { promised }
                    })
                }
                Waitable::Job(_) => Some(PointStatus::Promised),
                Waitable::Point(_) | Waitable::Seen(_) => None,
            },
            FenceState::Forgotten => None,
        }
    }

    /// What the broker is to be asked about.
    pub(crate) fn asked(&self) -> Result<TimelinePoint> {
        let missing = || Error::Protocol("the broker knows this point by no handle".into());
        self.on().asked().ok_or_else(missing)
    }

    /// How it stands, as the broker says; the page knows what was signalled.
    pub(crate) fn status_as_told(&self, said: PointStatus) -> PointStatus {
        match (said, self.has_ended()) {
            // Signalled, and the broker knows of no failure.
            (PointStatus::Unpromised { .. } | PointStatus::Promised, true) => {
                self.status_now().unwrap_or(PointStatus::Done { at: None })
            }
            (said, _) => said,
        }
    }
}

/// What a wait for a promise is called when it ends.
pub(crate) const WHILE_UNPROMISED: &str = "waiting for a point to be promised";

pub(crate) fn create(name: &str) -> CreateTimeline {
    CreateTimeline { name: core::cut(name) }
}

pub(crate) fn import(token: TimelineToken) -> ImportTimeline {
    ImportTimeline { token: token.to_wire() }
}

impl Core {
    /// Understands an opened timeline.
    pub(crate) fn timeline(self: &Arc<Self>, name: Option<&str>, reply: &Reply) -> Result<Timeline> {
        let ClientMessage::TimelineOpened(opened) = &reply.message else { return Err(unexpected(reply)) };
        let TimelineOpened { timeline, key, page, rights, slot, .. } = *opened;
        let name: Arc<str> = name.map_or_else(|| key.to_string().into(), Into::into);
        let own = rights.contains(TimelineRights::SIGNAL);
        let opened = own.then(|| -> Result<_> {
            let slot = Slot::new(slot).ok_or_else(|| Error::Protocol(format!("slot {slot} of a page")))?;
            let home = Place { page: self.signal_page(page)?, slot };
            let inbox = self.signals.open(timeline, key.generation, &home);
            Ok((home, inbox))
        });
        let opened = opened.transpose();
        let opened = opened.inspect_err(|_| {
            // Nobody will ever use it.
            let close = vgem_proto::message::client::CloseTimeline { timeline };
            self.link.post(&ClientMessage::CloseTimeline(close));
        })?;
        let home = opened.as_ref().map(|(home, _)| home.clone());
        let shared = Arc::new(TimelineShared::opened(Arc::clone(self), name, timeline, key, home));
        let signaller = opened.map(|(home, inbox)| Signaller::new(home, inbox));
        Ok(Timeline { shared, rights, signaller })
    }
}
