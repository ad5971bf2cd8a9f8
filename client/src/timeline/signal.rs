//! The signaller's side of a timeline: promises, signals, failures.
//!
//! ```text
//!   signal:  not above the last one, or a verdict stands? refused
//!            store in the primary place, then in all others; one fence; wake who sleeps
//!            wake threads of this process
//!            news? an errand asks what to show; places that it took over are stored in from now on
//! ```
//!
//! Nothing here waits for the broker but [`Timeline::fail`], whose cause comes from it.

use std::sync::Arc;
use std::time::Duration;

use vgem_os::clock;
use vgem_os::fence::{Failure, NotNewer, Verdict, signal_everywhere};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, FailPoint, Promise};

use super::point::TimelinePoint;
use super::{Timeline, TimelineRights, WHILE_UNPROMISED};
use crate::deadline::Deadline;
use crate::error::{Error, JobFailure, LocalError, Result};
use crate::exchange::{Reply, RequestId};
use crate::fence::Fence;
use crate::link::{Answer, unexpected};
use crate::pages::Outcome;
use crate::signals::{Inbox, Place};
use crate::together::sleep_until;
use crate::waitable::PointKind;

/// What only the signaller has.
#[derive(Debug)]
pub(super) struct Signaller {
    inbox: Arc<Inbox>,
    /// The primary place, then all others.
    places: Vec<Place>,
    /// The last point that was signalled.
    value: Point,
}

impl Signaller {
    pub(super) fn new(home: Place, inbox: Arc<Inbox>) -> Self {
        Self { inbox, places: vec![home], value: Point(0) }
    }

    pub(super) fn signalled(&self) -> Point {
        self.value
    }

    #[inline]
    fn home(&self) -> Option<&Place> {
        self.places.first()
    }

    fn verdict(&self) -> Option<Verdict> {
        self.home().and_then(|home| home.page.face.dead_from(home.slot))
    }

    #[cold]
    fn take_places(&mut self) {
        self.places.truncate(1);
        self.places.extend(self.inbox.take());
    }
}

impl Timeline {
    /// The last point that this handle has signalled.
    #[must_use]
    pub fn signalled(&self) -> Point {
        self.signaller.as_ref().map_or(Point(0), Signaller::signalled)
    }

    /// Promises all points up to `point`: they will have been signalled `by` then, or the timeline ends with `TimedOut`.
    /// Sent and not waited for, so that what is submitted after it may wait for the points.
    ///
    /// # Errors
    /// [`LocalError::NotNewer`] if the point is not above all that were promised or signalled (T3); [`LocalError::NoRight`];
    /// [`Error::Job`], with the cause, if the timeline is over; [`Error::Refused`] if the broker has refused an earlier
    /// promise, which nothing came of then: too far ahead (`OutOfRange`), too many open ones (`Exhausted`).
    pub fn promise(&mut self, point: Point, by: impl Into<Deadline>) -> Result<Fence> {
        let request = self.promise_request(point, by.into())?;
        let core = &self.shared.core;
        let id = core.link.promise(&request, Answer::OnlyRefusal, core.deadline())?;
        Ok(self.promise_sent(id, point))
    }

    /// Promises the next point: the one after all that were promised or signalled.
    ///
    /// # Errors
    /// As [`Timeline::promise`].
    pub fn promise_next(&mut self, by: impl Into<Deadline>) -> Result<Fence> {
        self.promise(self.next_to_promise(), by)
    }

    /// As [`Timeline::promise`], and waits until the broker has taken it.
    ///
    /// # Errors
    /// [`Error::Refused`] for this promise; as there.
    pub fn promise_acknowledged(&mut self, point: Point, by: impl Into<Deadline>) -> Result<Fence> {
        let request = self.promise_request(point, by.into())?;
        let core = &self.shared.core;
        let deadline = core.deadline();
        let id = core.link.promise(&request, Answer::Awaited, deadline)?;
        crate::link::accepted(core.link.collect(id, deadline)?)?;
        Ok(self.promise_made(point))
    }

    /// Signals a point, and all below it. Waits for nothing.
    ///
    /// # Errors
    /// [`LocalError::NotNewer`] if the point is not above the last one (T3); [`LocalError::NoRight`]; [`Error::Job`], with
    /// the cause, if the timeline is over: a promise was not kept. Nothing has changed then.
    #[inline]
    pub fn signal(&mut self, point: Point) -> Result<()> {
        self.end(point, None)
    }

    /// Signals the point after the last one, and says which.
    ///
    /// # Errors
    /// As [`Timeline::signal`].
    pub fn signal_next(&mut self) -> Result<Point> {
        let point = self.signalled().next();
        self.signal(point).map(|()| point)
    }

    /// Signals that a point failed; those between the last one and it are done. Who waits for it is told the cause, in which
    /// the broker keeps `text`.
    ///
    /// # Errors
    /// As [`Timeline::signal`]; as every request, and then nothing was signalled.
    pub fn fail(&mut self, point: Point, code: ErrorCode, text: &str) -> Result<()> {
        self.fail_until(point, code, text, self.shared.core.patience)
    }

    /// The same with a bound of its own for the broker's answer.
    pub(crate) fn fail_until(
        &mut self,
        point: Point,
        code: ErrorCode,
        text: &str,
        patience: Duration,
    ) -> Result<()> {
        let request = self.fail_request(point, code, text)?;
        let reply = self.shared.core.link.call(request, Deadline::after(patience))?;
        self.failed(point, code, &reply)
    }

    /// Whether a point may be signalled.
    pub(crate) fn check(&self, point: Point) -> Result<()> {
        self.check_signal(self.signaller()?, point)
    }

    /// Signals that a point failed because of something else that did, with the same code and the same cause: it travels
    /// through a stage as it does through jobs. Asks nobody.
    ///
    /// # Errors
    /// As [`Timeline::signal`].
    pub fn fail_as(&mut self, point: Point, failure: &JobFailure) -> Result<()> {
        self.fail_with(point, failure.code, failure.cause)
    }

    /// Ends the timeline: its later points fail with `Cancelled`. As dropping it.
    pub fn close(self) {
        drop(self);
    }

    /// The request to promise, if it may be made.
    pub(crate) fn promise_request(&self, point: Point, by: Deadline) -> Result<Promise> {
        let signaller = self.signaller()?;
        self.shared.core.void_unused();
        if let Some((refusal, before)) = signaller.inbox.take_refusal() {
            self.shared.unlearn(before);
            return Err(refusal.into());
        }
        self.check_verdict(signaller, point)?;
        let last = self.promised().max(signaller.value);
        if point <= last {
            return Err(self.not_newer(point, last).into());
        }
        Ok(Promise { timeline: self.shared.handle, point, until: by.time() })
    }

    pub(crate) fn next_to_promise(&self) -> Point {
        self.promised().max(self.signalled()).next()
    }

    pub(crate) fn promise_sent(&self, id: RequestId, point: Point) -> Fence {
        self.shared.core.signals.promised(id, self.shared.handle, self.promised());
        self.promise_made(point)
    }

    pub(crate) fn promise_made(&self, point: Point) -> Fence {
        self.shared.learn(point);
        self.point(point)
    }

    /// The request for a cause, if the point may be signalled.
    pub(crate) fn fail_request(&self, point: Point, code: ErrorCode, text: &str) -> Result<FailPoint> {
        self.check_signal(self.signaller()?, point)?;
        let end = text.floor_char_boundary(limits::TEXT_LEN);
        let text = text.as_bytes().get(..end).unwrap_or(text.as_bytes()).to_vec();
        Ok(FailPoint { timeline: self.shared.handle, point, code, reserved: Zero, text })
    }

    /// Understands the cause, and signals the failure.
    pub(crate) fn failed(&mut self, point: Point, code: ErrorCode, reply: &Reply) -> Result<()> {
        let ClientMessage::CauseIssued(issued) = &reply.message else { return Err(unexpected(reply)) };
        self.fail_with(point, code, issued.cause)
    }

    /// Signals a failure whose cause is known.
    pub(crate) fn fail_with(&mut self, point: Point, code: ErrorCode, cause: CauseId) -> Result<()> {
        self.end(point, Some(Failure { point: point.0, code: code.number(), cause: cause.0 }))
    }

    #[inline]
    fn end(&mut self, point: Point, failure: Option<Failure>) -> Result<()> {
        self.check_signal(self.signaller()?, point)?;
        let Some(signaller) = &mut self.signaller else { return Ok(()) };
        let places = signaller.places.iter().map(|place| (&place.page.face, place.slot));
        match signal_everywhere(places, point.0, clock::now(), failure) {
            Ok(_woken) => signaller.value = point,
            Err(NotNewer::Point { value, .. } | NotNewer::Failure { value, .. }) => {
                return Err(self.not_newer(point, Point(value)).into());
            }
        }
        self.shared.ring();
        let Some(home) = signaller.home() else { return Ok(()) };
        if home.page.has_news() {
            self.shared.core.signals.ask(&self.shared.core);
        }
        if signaller.inbox.has_news() {
            signaller.take_places();
        }
        Ok(())
    }

    fn signaller(&self) -> Result<&Signaller, LocalError> {
        self.signaller.as_ref().ok_or_else(|| self.no_right(TimelineRights::SIGNAL))
    }

    #[inline]
    fn check_signal(&self, signaller: &Signaller, point: Point) -> Result<()> {
        if point <= signaller.value {
            return Err(self.not_newer(point, signaller.value).into());
        }
        self.check_verdict(signaller, point)
    }

    #[inline]
    fn check_verdict(&self, signaller: &Signaller, point: Point) -> Result<()> {
        match signaller.verdict() {
            Some(verdict) if point.0 >= verdict.from => Err(self.over(point, verdict)),
            _ => Ok(()),
        }
    }

    #[cold]
    fn over(&self, point: Point, verdict: Verdict) -> Error {
        let (code, cause) = (ErrorCode::from_number(verdict.code), CauseId(verdict.cause));
        let explanation = self.shared.core.remembered(cause);
        let (device, kind) = (Arc::clone(&self.shared.name), PointKind::Point);
        Error::Job(Box::new(JobFailure { device, kind, point, code, cause, explanation }))
    }

    #[cold]
    fn not_newer(&self, point: Point, last: Point) -> LocalError {
        LocalError::NotNewer { timeline: self.name().into(), point, last }
    }
}

impl TimelinePoint {
    /// Sleeps until this client has promised the point, or it has ended.
    pub(super) fn wait_promised(&self, deadline: Deadline) -> Result<()> {
        let timeline = &self.timeline;
        let look = || {
            let ended = self.look() != vgem_os::fence::PointState::Pending;
            (ended || timeline.has_promised(self.point)).then_some(())
        };
        let counters = &timeline.core.counters;
        match sleep_until(&[self.watch()], counters, deadline, look, || self.ask()) {
            Ok(()) => Ok(()),
            Err(Outcome::Lost) => Err(crate::waitable::Waitable::Point(self.clone()).lost().into()),
            Err(_) => Err(Error::Timeout { what: WHILE_UNPROMISED }),
        }
    }
}

/// Zero is no time to keep a promise.
const _: () = assert!(matches!(Deadline::NOW.time(), Time(0)));
