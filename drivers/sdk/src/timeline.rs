//! One timeline as its signaller keeps it: the places that show it, of which one is its own.
//!
//! ```text
//!   end of a job ──signal──► own slot (private memory) ──► slot in a page of each observer
//!                                │ no lock
//!                                ▼
//!                     waiting jobs of this instance look
//! ```
//!
//! A timeline has one lock. Whoever ends a job holds it while it writes the slots, and the control thread holds it
//! while it publishes or retires one: so a slot that is added late is filled with exactly what the others show, and
//! no point falls between. Nobody who waits takes it: a look goes to the own slot, by the protocol of fence pages,
//! or to the page of another process. Signalling allocates nothing.
//!
//! A timeline may have a past: an instance that takes over from one that was ended is told value and failures so
//! far, and goes on in the same pages.
//!
//! The points of a ring are signalled by its own thread, which knows nothing of jobs that wait for them here. That is the
//! bargain of interest pages within one process, and the same code: who waits notes the point before he looks for the last
//! time, and that thread looks at the note after it has signalled.
//!
//! Invariants: points only grow, and a point is signalled once (F1); every slot shows what the own slot shows, or is
//! about to.

mod own;

use std::sync::{Arc, Mutex, PoisonError};

use vgem_os::fence::protocol::{NotNewer, Ring};
use vgem_os::fence::{Failure as SlotFailure, PointState, SignallerFace, Slot};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, PageId, Point, Time, TimelineKey};
use vgem_proto::jobs::PointFailure;

use self::own::OwnSlot;

/// A place where a timeline is shown.
#[derive(Debug, Clone)]
struct Shown {
    page: PageId,
    slot: Slot,
    face: Arc<SignallerFace>,
}

/// A timeline that this instance signals.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) key: TimelineKey,
    own: OwnSlot,
    places: Mutex<Vec<Shown>>,
}

/// What a timeline is opened with makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a failure of {failed:?} on a timeline that is at {value:?}: failures come in order, up to the value"
)]
pub(crate) struct BadPast {
    failed: Point,
    value: Point,
}

impl Timeline {
    /// A timeline of which nothing was signalled yet.
    #[cfg(test)]
    pub(crate) fn new(key: TimelineKey) -> Self {
        let own = OwnSlot::new(key.generation, 0, 0, &[]);
        Self { key, own, places: Mutex::default() }
    }

    /// A timeline that another instance signalled up to `value`, with the failures so far, oldest first; one more
    /// than a slot shows if there were more.
    pub(crate) fn going_on(
        key: TimelineKey,
        value: Point,
        at: Time,
        failures: &[PointFailure],
    ) -> Result<Self, BadPast> {
        let mut before = Point(0);
        for failure in failures {
            if failure.point <= before || failure.point > value {
                return Err(BadPast { failed: failure.point, value });
            }
            before = failure.point;
        }
        let in_slot =
            |f: &PointFailure| SlotFailure { point: f.point.0, code: f.code.number(), cause: f.cause.0 };
        let failures: Vec<SlotFailure> = failures.iter().map(in_slot).collect();
        let own = OwnSlot::new(key.generation, value.0, at.0, &failures);
        Ok(Self { key, own, places: Mutex::default() })
    }

    /// The last point signalled.
    pub(crate) fn value(&self) -> Point {
        Point(self.own.value())
    }

    /// How a point stands, for waiters in this process.
    pub(crate) fn state(&self, point: Point) -> PointState {
        self.own.state(self.key.generation, point.0)
    }

    /// How a point of a ring stands. If it is pending, whoever signals it learns that it is waited for. One thread at a time.
    pub(crate) fn await_here(&self, point: Point) -> PointState {
        match self.state(point) {
            PointState::Pending => self.own.await_here(self.key.generation, point.0),
            ended => ended,
        }
    }

    /// Forgets who waits; all of them look again. Not while one begins to wait.
    pub(crate) fn await_again(&self) {
        self.own.await_again();
    }

    /// Signals the next point, in every slot that shows the timeline. Only the owner of the running job calls it, or the
    /// thread of a ring: true if jobs here wait for a point of the ring up to this one.
    ///
    /// # Errors
    /// [`NotNewer`] if the point was signalled already; nothing has changed then.
    pub(crate) fn signal(
        &self,
        point: Point,
        time_ns: u64,
        failure: Option<Failure>,
    ) -> Result<bool, NotNewer> {
        let failure =
            failure.map(|f| SlotFailure { point: point.0, code: f.code.number(), cause: f.cause.0 });
        let places = self.places();
        let here = self.own.signal(point.0, time_ns, failure)?;
        for shown in places.iter() {
            // Refused only if the slot is ahead already, which a single signaller in order cannot make happen.
            let signalled = shown.face.signal(shown.slot, point.0, time_ns, failure);
            debug_assert!(signalled.is_ok(), "{:?} {point:?}: {signalled:?}", self.key);
        }
        Ok(here == Ring::Wake)
    }

    /// Shows the timeline in one more slot.
    pub(crate) fn publish(&self, page: PageId, slot: Slot, face: Arc<SignallerFace>) {
        let mut places = self.places();
        let so_far = self.own.snapshot();
        face.publish(slot, self.key.generation, so_far.value, so_far.time_ns, &so_far.failures);
        places.push(Shown { page, slot, face });
    }

    /// Stops showing the timeline in a slot.
    pub(crate) fn retire(&self, page: PageId, slot: Slot) {
        let mut places = self.places();
        if let Some(at) = places.iter().position(|s| s.page == page && s.slot == slot) {
            let shown = places.swap_remove(at);
            shown.face.retire(shown.slot);
        }
    }

    /// Lets go of its places, for a timeline that signals nothing more. What they show stays until the broker has them
    /// retired; what is kept of the timeline must not keep pages of clients that are gone.
    pub(crate) fn leave(&self) {
        *self.places() = Vec::new();
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Vec<Shown>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The failure in a point's state, if it failed and that is still known.
pub(crate) fn failure_in(state: PointState) -> Option<Failure> {
    match state {
        PointState::Pending | PointState::Ok { .. } | PointState::Overrun => None,
        PointState::Failed { code, cause, .. } => {
            Some(Failure { code: ErrorCode::from_number(code), cause: CauseId(cause) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use vgem_os::fence::{ObserverFace, PagePair};

    fn timeline() -> Timeline {
        Timeline::new(TimelineKey { index: 3, generation: 7 })
    }

    fn slot() -> Slot {
        Slot::new(2).expect("a page has 15 slots")
    }

    fn faces() -> (Arc<SignallerFace>, ObserverFace) {
        let keeper = PagePair::create().expect("memory for two pages");
        let face = SignallerFace::map(keeper.signaller_fds().expect("fds")).expect("pages");
        (Arc::new(face), ObserverFace::map(keeper.observer_fds().expect("fds")).expect("pages"))
    }

    fn signal(timeline: &Timeline, point: u64, time_ns: u64, failure: Option<Failure>) {
        timeline.signal(Point(point), time_ns, failure).expect("a newer point");
    }

    fn told(failure: &SlotFailure) -> PointFailure {
        let code = ErrorCode::from_number(failure.code);
        let (point, cause) = (Point(failure.point), CauseId(failure.cause));
        PointFailure { point, cause, code, reserved: vgem_proto::codec::Zero }
    }

    fn failed(n: u32) -> Failure {
        Failure { code: ErrorCode::Io, cause: CauseId(u64::from(n)) }
    }

    // M-082
    #[test]
    fn a_slot_added_late_shows_value_and_failures_so_far() {
        let (face, observer) = faces();
        let timeline = timeline();
        signal(&timeline, 1, 10, Some(failed(5)));
        signal(&timeline, 2, 20, None);
        assert_eq!(observer.state(slot(), 7, 1), PointState::Pending);

        timeline.publish(PageId(0), slot(), face);

        assert_eq!(
            observer.state(slot(), 7, 1),
            PointState::Failed { code: ErrorCode::Io.number(), cause: 5, time_ns: 20 }
        );
        assert_eq!(observer.state(slot(), 7, 2), PointState::Ok { time_ns: 20 });
        signal(&timeline, 3, 30, None);
        assert_eq!(observer.state(slot(), 7, 3), PointState::Ok { time_ns: 30 });
    }

    // M-082
    #[test]
    fn a_timeline_that_goes_on_shows_what_its_first_signaller_signalled() {
        for fails in [0, 3, 8, 20] {
            let (face, observer) = faces();
            let first = timeline();
            for point in 1..=fails {
                signal(&first, point, point, Some(failed(1)));
            }
            signal(&first, 21, 21, None);
            let told: Vec<PointFailure> = first.own.snapshot().failures.iter().map(told).collect();
            let states = |timeline: &Timeline| (1..=23).map(|p| timeline.state(Point(p))).collect::<Vec<_>>();

            // The broker keeps nine, of which the first is one that a slot does not show any more.
            let nine = told.iter().enumerate().map(|(at, f)| PointFailure {
                point: if at == 0 && fails > 8 { Point(fails - 8) } else { f.point },
                ..*f
            });
            let nine: Vec<PointFailure> = nine.collect();
            let heir = Timeline::going_on(first.key, Point(21), Time(21), &nine).expect("a good past");
            assert_eq!(states(&heir), states(&first), "{fails} failures");
            heir.publish(PageId(4), slot(), face);
            let shown: Vec<_> = (1..=23).map(|p| observer.state(slot(), 7, p)).collect();
            assert_eq!(shown, states(&first), "{fails} failures");
            signal(&heir, 22, 22, None);
            assert_eq!(observer.state(slot(), 7, 22), PointState::Ok { time_ns: 22 });
        }
    }

    #[test]
    fn a_past_that_cannot_be_is_refused() {
        let past = |value, points: &[u64]| {
            let failures: Vec<PointFailure> =
                points.iter().map(|p| told(&SlotFailure { point: *p, code: 1, cause: 1 })).collect();
            Timeline::going_on(timeline().key, Point(value), Time(1), &failures)
        };
        assert!(past(9, &[1, 5, 9]).is_ok());
        for (value, points) in [(9, [10].as_slice()), (9, &[0]), (9, &[5, 5]), (9, &[5, 4]), (0, &[1])] {
            assert!(past(value, points).is_err(), "{points:?} at {value}");
        }
    }

    #[test]
    fn f1_a_second_signal_is_refused_and_changes_nothing() {
        let (face, observer) = faces();
        let timeline = timeline();
        timeline.publish(PageId(0), slot(), face);
        signal(&timeline, 1, 10, Some(failed(5)));
        signal(&timeline, 2, 20, None);
        let states = || {
            let shown: Vec<_> = (1..=4).map(|p| observer.state(slot(), 7, p)).collect();
            let own: Vec<_> = (1..=4).map(|p| timeline.state(Point(p))).collect();
            (own, shown)
        };
        let before = states();
        for (point, failure) in [(2, None), (2, Some(failed(9))), (1, None), (0, None)] {
            let again = timeline.signal(Point(point), 30, failure);
            assert_eq!(again, Err(NotNewer::Point { point, value: 2 }));
            assert_eq!(states(), before);
        }
    }

    #[test]
    fn f3_a_point_signalled_means_every_smaller_one_is_done() {
        let timeline = timeline();
        signal(&timeline, 3, 10, Some(failed(5)));
        for point in 1..=2 {
            assert!(matches!(timeline.state(Point(point)), PointState::Ok { .. }), "point {point}");
        }
        assert!(matches!(timeline.state(Point(3)), PointState::Failed { .. }));
        assert_eq!(timeline.state(Point(4)), PointState::Pending);
    }

    #[test]
    fn f6_a_signal_allocates_nothing_however_many_see_it_and_whether_it_failed() {
        let timeline = timeline();
        let pages: Vec<_> = (0..20).map(|_| faces()).collect();
        for (page, (face, _)) in (0..).zip(&pages) {
            timeline.publish(PageId(page), slot(), Arc::clone(face));
        }
        let allocated = allocation_counter::measure(|| {
            for point in 1..=40 {
                signal(&timeline, point, point, (point % 2 == 0).then(|| failed(1)));
            }
            for point in 1..=41 {
                timeline.state(Point(point));
            }
        });
        assert_eq!(allocated.count_total, 0);
    }

    #[test]
    fn f6_a_signal_waits_for_no_waiter() {
        let timeline = timeline();
        let (face, observer) = faces();
        timeline.publish(PageId(0), slot(), face);
        // An observer that says it sleeps, and is dead or stopped for all the signaller knows.
        observer.set_interest(slot(), 1);
        let begun = vgem_os::clock::now();
        signal(&timeline, 1, 1, None);
        assert!(vgem_os::clock::now() - begun < 1_000_000_000);
        assert_eq!(timeline.value(), Point(1));
    }

    #[test]
    fn f6_a_waiter_looks_while_a_signal_is_under_way() {
        let timeline = timeline();
        signal(&timeline, 1, 1, None);
        let _signalling = timeline.places();
        // Would never come back if a look took the lock that a signal holds.
        assert!(matches!(timeline.state(Point(1)), PointState::Ok { .. }));
        assert_eq!((timeline.state(Point(2)), timeline.value()), (PointState::Pending, Point(1)));
    }

    /// Two threads meet at each point, so that the look of one is as near as can be to the signal of the other.
    #[test]
    fn either_the_waiter_sees_the_point_or_its_signaller_sees_the_waiter() {
        const POINTS: u64 = 10_000;
        let (timeline, met) = (timeline(), AtomicU64::new(0));
        let meet = |times: u64| {
            met.fetch_add(1, Ordering::AcqRel);
            for looks in 0u32.. {
                match met.load(Ordering::Acquire) < 2 * times {
                    false => return,
                    true if looks < 1000 => std::hint::spin_loop(),
                    true => std::thread::yield_now(),
                }
            }
        };
        let (awaited, seen) = std::thread::scope(|threads| {
            let signaller = threads.spawn(|| {
                let signals = |point| {
                    meet(2 * point - 1);
                    timeline.await_again();
                    meet(2 * point);
                    timeline.signal(Point(point), 1, None).expect("a newer point")
                };
                (1..=POINTS).map(signals).collect::<Vec<_>>()
            });
            let looks = |point| {
                meet(2 * point - 1);
                meet(2 * point);
                timeline.await_here(Point(point)) != PointState::Pending
            };
            let seen: Vec<_> = (1..=POINTS).map(looks).collect();
            (signaller.join().expect("no panic"), seen)
        });
        let lost = awaited.iter().zip(&seen).position(|(awaited, seen)| !awaited && !seen);
        assert_eq!(lost, None, "nobody would look at it again");
    }

    #[test]
    fn a_later_success_does_not_hide_an_earlier_failure() {
        let timeline = timeline();
        signal(&timeline, 1, 1, Some(failed(9)));
        signal(&timeline, 2, 2, None);
        assert_eq!(failure_in(timeline.state(Point(1))), Some(failed(9)));
        assert_eq!(failure_in(timeline.state(Point(2))), None);
    }

    // M-075
    #[test]
    fn a_point_older_than_the_kept_failures_is_overrun() {
        let timeline = timeline();
        for point in 1..=20 {
            signal(&timeline, point, point, Some(failed(1)));
        }
        assert_eq!(timeline.state(Point(3)), PointState::Overrun);
        assert!(matches!(timeline.state(Point(20)), PointState::Failed { .. }));
    }
}
