//! One timeline as its signaller keeps it: value, failures, and the slots that show it.
//!
//! A timeline has one lock of its own. Whoever ends a job holds it while it writes the slots, and the control
//! thread holds it while it publishes or retires one: so a slot that is added late is filled with exactly what
//! the others show, and no point falls between. Looking at the value takes no lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vgem_os::fence::{Failure as SlotFailure, PointState, SignallerFace, Slot};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, PageId, Point, TimelineKey};
use vgem_proto::layout::fence_page::FAILURES;

/// A place where a timeline is shown.
#[derive(Debug, Clone)]
struct Shown {
    page: PageId,
    slot: Slot,
    face: Arc<SignallerFace>,
}

#[derive(Debug, Default)]
struct Shows {
    time_ns: u64,
    /// The last failures, oldest first; one more than a slot holds, so that a full ring shows that it is full.
    failures: VecDeque<SlotFailure>,
    places: Vec<Shown>,
}

/// A timeline that this instance signals.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) key: TimelineKey,
    value: AtomicU64,
    shows: Mutex<Shows>,
}

impl Timeline {
    pub(crate) fn new(key: TimelineKey) -> Self {
        Self { key, value: AtomicU64::new(0), shows: Mutex::default() }
    }

    /// The last point signalled.
    pub(crate) fn value(&self) -> Point {
        Point(self.value.load(Ordering::Acquire))
    }

    /// How a point stands, for waiters in this process.
    pub(crate) fn state(&self, point: Point) -> PointState {
        if self.value() < point {
            return PointState::Pending;
        }
        let shows = self.lock();
        match shows.failures.iter().find(|f| f.point == point.0) {
            Some(f) => PointState::Failed { code: f.code, cause: f.cause, time_ns: shows.time_ns },
            None if shows.failures.len() > FAILURES
                && shows.failures.front().is_some_and(|f| point.0 < f.point) =>
            {
                PointState::Overrun
            }
            None => PointState::Ok { time_ns: shows.time_ns },
        }
    }

    /// Signals the next point, in every slot that shows the timeline. Only the owner of the running job calls it.
    pub(crate) fn signal(&self, point: Point, time_ns: u64, failure: Option<Failure>) {
        let failure =
            failure.map(|f| SlotFailure { point: point.0, code: f.code.number(), cause: f.cause.0 });
        let mut shows = self.lock();
        shows.time_ns = time_ns;
        if let Some(failure) = failure {
            if shows.failures.len() > FAILURES {
                shows.failures.pop_front();
            }
            shows.failures.push_back(failure);
        }
        self.value.store(point.0, Ordering::Release);
        for shown in &shows.places {
            // Refused only if the slot is ahead already, which a single signaller in order cannot make happen.
            let signalled = shown.face.signal(shown.slot, point.0, time_ns, failure);
            debug_assert!(signalled.is_ok(), "{:?} {point:?}: {signalled:?}", self.key);
        }
    }

    /// Shows the timeline in one more slot.
    pub(crate) fn publish(&self, page: PageId, slot: Slot, face: Arc<SignallerFace>) {
        let mut shows = self.lock();
        let failures: Vec<SlotFailure> = shows.failures.iter().copied().collect();
        let value = self.value.load(Ordering::Acquire);
        face.publish(slot, self.key.generation, value, shows.time_ns, &failures);
        shows.places.push(Shown { page, slot, face });
    }

    /// Stops showing the timeline in a slot.
    pub(crate) fn retire(&self, page: PageId, slot: Slot) {
        let mut shows = self.lock();
        if let Some(at) = shows.places.iter().position(|s| s.page == page && s.slot == slot) {
            let shown = shows.places.swap_remove(at);
            shown.face.retire(shown.slot);
        }
    }

    /// Lets go of its places, for a timeline that signals nothing more. What they show stays until the broker has them
    /// retired; what is kept of the timeline must not keep pages of clients that are gone.
    pub(crate) fn leave(&self) {
        self.lock().places = Vec::new();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shows> {
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The failure in a point's state, if it failed. An outcome that is no longer known counts as failed.
pub(crate) fn failure_in(state: PointState) -> Option<Failure> {
    match state {
        PointState::Pending | PointState::Ok { .. } => None,
        PointState::Failed { code, cause, .. } => {
            Some(Failure { code: ErrorCode::from_number(code), cause: CauseId(cause) })
        }
        PointState::Overrun => Some(Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_os::fence::{ObserverFace, PagePair};

    fn timeline() -> Timeline {
        Timeline::new(TimelineKey { index: 3, generation: 7 })
    }

    fn failed(n: u32) -> Failure {
        Failure { code: ErrorCode::Io, cause: CauseId(u64::from(n)) }
    }

    // M-082
    #[test]
    fn a_slot_added_late_shows_value_and_failures_so_far() {
        let keeper = PagePair::create().expect("memory for two pages");
        let face = Arc::new(SignallerFace::map(keeper.signaller_fds().expect("fds")).expect("pages"));
        let observer = ObserverFace::map(keeper.observer_fds().expect("fds")).expect("pages");
        let slot = Slot::new(2).expect("a page has 15 slots");
        let timeline = timeline();
        timeline.signal(Point(1), 10, Some(failed(5)));
        timeline.signal(Point(2), 20, None);
        assert_eq!(observer.state(slot, 7, 1), PointState::Pending);

        timeline.publish(PageId(0), slot, face);

        assert_eq!(
            observer.state(slot, 7, 1),
            PointState::Failed { code: ErrorCode::Io.number(), cause: 5, time_ns: 20 }
        );
        assert_eq!(observer.state(slot, 7, 2), PointState::Ok { time_ns: 20 });
        timeline.signal(Point(3), 30, None);
        assert_eq!(observer.state(slot, 7, 3), PointState::Ok { time_ns: 30 });
    }

    #[test]
    fn a_later_success_does_not_hide_an_earlier_failure() {
        let timeline = timeline();
        timeline.signal(Point(1), 1, Some(failed(9)));
        timeline.signal(Point(2), 2, None);
        assert_eq!(failure_in(timeline.state(Point(1))), Some(failed(9)));
        assert_eq!(failure_in(timeline.state(Point(2))), None);
    }

    // M-075
    #[test]
    fn a_point_older_than_the_kept_failures_is_overrun() {
        let timeline = timeline();
        for point in 1..=20 {
            timeline.signal(Point(point), point, Some(failed(1)));
        }
        assert_eq!(timeline.state(Point(3)), PointState::Overrun);
        let unknown = Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE };
        assert_eq!(failure_in(PointState::Overrun), Some(unknown));
        assert!(matches!(timeline.state(Point(20)), PointState::Failed { .. }));
    }
}
