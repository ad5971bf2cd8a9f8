//! A client's timeline over real pages: a primary page that the broker reads, and places that come late.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use vgem_os::fence::protocol::Page;
use vgem_os::fence::{
    Failure, KeeperFace, NotNewer, ObserverFace, PagePair, PointState, SignallerFace, Slot, Verdict, Woke,
    late, protocol, signal_everywhere,
};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::Access;
use vgem_proto::layout::fence_page;

const GENERATION: u32 = 7;
const TIME: u64 = 1234;
const OK: PointState = PointState::Ok { time_ns: TIME };

/// Where the timeline is in the primary page, and where in the observer's.
const PRIMARY: u16 = 3;
const LATE: u16 = 5;

fn slot(index: u16) -> Slot {
    Slot::new(index).unwrap()
}

fn failure(point: u64) -> Failure {
    Failure { point, code: 5, cause: 1000 + point }
}

fn failed(point: u64) -> PointState {
    PointState::Failed { code: 5, cause: 1000 + point, time_ns: TIME }
}

/// A pair of pages and the two faces that the broker keeps or hands out.
struct Pair {
    keeper: KeeperFace,
    signaller: SignallerFace,
}

impl Pair {
    fn new() -> Self {
        let keeper = PagePair::create().unwrap();
        let signaller = SignallerFace::map(keeper.signaller_fds().unwrap()).unwrap();
        Self { keeper, signaller }
    }

    fn observer(&self) -> ObserverFace {
        ObserverFace::map(self.keeper.observer_fds().unwrap()).unwrap()
    }
}

/// A client that shows one timeline in its primary page, and an observer's page that is still empty.
struct Late {
    primary: Pair,
    page: Pair,
    observer: ObserverFace,
}

impl Late {
    fn new() -> Self {
        let (mut primary, page) = (Pair::new(), Pair::new());
        primary.keeper.take_interest().unwrap();
        primary.signaller.publish(slot(PRIMARY), GENERATION, 0, 0, &[]);
        let observer = page.observer();
        Self { primary, page, observer }
    }

    fn signal(&self, point: u64, failure: Option<Failure>) -> Result<Woke, NotNewer> {
        self.primary.signaller.signal(slot(PRIMARY), point, TIME, failure)
    }

    fn signal_everywhere(&self, point: u64, failure: Option<Failure>) -> Result<Woke, NotNewer> {
        let places = [(&self.primary.signaller, slot(PRIMARY)), (&self.page.signaller, slot(LATE))];
        signal_everywhere(places.into_iter(), point, TIME, failure)
    }

    fn fail(&self, points: RangeInclusive<u64>) {
        for point in points {
            self.signal(point, Some(failure(point))).unwrap();
        }
    }

    /// What the broker does when an observer comes.
    fn show(&self) {
        self.primary.keeper.set_news(self.primary.keeper.news() + 1);
        self.page.keeper.fill(slot(LATE), GENERATION, &self.primary.keeper, slot(PRIMARY));
    }

    fn take_over(&self) -> Option<Woke> {
        self.page.signaller.take_over(slot(LATE), GENERATION, &self.primary.signaller, slot(PRIMARY))
    }

    fn state(&self, point: u64) -> PointState {
        self.observer.state(slot(LATE), GENERATION, point)
    }
}

#[test]
fn news_reaches_the_signaller_through_its_primary_page() {
    let mut pair = Pair::new();
    pair.keeper.set_news(1);
    assert_eq!((pair.keeper.news(), pair.signaller.news()), (0, 0), "nobody took the interest");
    pair.keeper.take_interest().unwrap();
    pair.keeper.set_news(2);
    assert_eq!((pair.keeper.news(), pair.signaller.news()), (2, 2));
}

// M-082
#[test]
fn a_late_place_shows_value_and_failures_without_its_signaller() {
    let late = Late::new();
    late.signal(2, Some(failure(2))).unwrap();
    late.signal(6, None).unwrap();
    late.show();
    let states = [1, 2, 6, 7].map(|point| late.state(point));
    assert_eq!(states, [OK, failed(2), OK, PointState::Pending]);
}

#[test]
fn what_a_stopped_signaller_showed_in_its_primary_place_only_is_shown_for_it() {
    let late = Late::new();
    late.show();
    late.signal(3, None).unwrap();
    let raise = || late.page.keeper.raise(slot(LATE), GENERATION, &late.primary.keeper, slot(PRIMARY));
    assert!(!late.page.keeper.shows(slot(LATE), GENERATION, 3));
    raise();
    assert!(late.page.keeper.shows(slot(LATE), GENERATION, 3));
    assert_eq!([3, 4].map(|point| late.state(point)), [OK, PointState::Pending]);
    // It goes on: what it shows once more changes nothing, and what comes next is shown by itself.
    late.signal_everywhere(4, None).unwrap();
    raise();
    assert_eq!([4, 5].map(|point| late.state(point)), [OK, PointState::Pending]);
}

/// The signaller was not stopped at all: what an observer sees never goes back, and in the end it is all.
#[test]
fn a_place_that_is_raised_beside_its_signaller_never_goes_back() {
    const LAST: u64 = 200_000;
    let late = Late::new();
    late.show();
    let ended = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                late.page.keeper.raise(slot(LATE), GENERATION, &late.primary.keeper, slot(PRIMARY));
            }
        });
        threads.spawn(|| {
            let mut seen = 0;
            while seen < LAST {
                let now = late.page.keeper.slot(slot(LATE)).value;
                assert!(now >= seen, "{now} after {seen}");
                seen = now;
            }
        });
        for point in 1..=LAST {
            late.signal_everywhere(point, None).unwrap();
            assert_ne!(late.state(point), PointState::Pending);
        }
        ended.store(true, Ordering::Release);
    });
    assert_eq!(late.page.keeper.slot(slot(LATE)).value, LAST);
}

#[test]
fn a_failure_is_left_to_the_one_that_records_it_and_a_place_of_another_timeline_alone() {
    for (failed, generation) in [(Some(failure(2)), GENERATION), (None, GENERATION + 1)] {
        let late = Late::new();
        late.show();
        late.signal(2, failed).unwrap();
        late.page.keeper.raise(slot(LATE), generation, &late.primary.keeper, slot(PRIMARY));
        assert_eq!(late.state(2), PointState::Pending);
    }
    let late = Late::new();
    late.show();
    late.fail(1..=9);
    late.signal(10, None).unwrap();
    late.page.keeper.raise(slot(LATE), GENERATION, &late.primary.keeper, slot(PRIMARY));
    assert_eq!(late.state(10), PointState::Pending, "some are no longer in the ring");
}

// M-082
#[test]
fn a_late_place_says_that_failures_it_never_saw_are_overrun() {
    let late = Late::new();
    late.fail(1..=9);
    late.show();
    assert_eq!((late.state(1), late.state(2), late.state(9)), (PointState::Overrun, failed(2), failed(9)));
}

#[test]
fn a_late_place_with_eight_failures_has_lost_none() {
    let late = Late::new();
    late.signal(1, None).unwrap();
    late.fail(2..=9);
    late.show();
    assert_eq!((late.state(1), late.state(2), late.state(9)), (OK, failed(2), failed(9)));
}

#[test]
fn a_late_place_brings_the_verdict_with_it() {
    let late = Late::new();
    late.signal(3, None).unwrap();
    late.primary.keeper.kill_slot(slot(PRIMARY), 4, 9, 77);
    late.show();
    assert_eq!(late.state(3), OK);
    assert_eq!(late.state(4), PointState::Failed { code: 9, cause: 77, time_ns: TIME });
    let verdict = Some(Verdict { from: 4, code: 9, cause: 77 });
    assert_eq!(late.primary.signaller.dead_from(slot(PRIMARY)), verdict);
    assert_eq!(late.primary.signaller.dead_from(slot(LATE)), None);
}

#[test]
fn what_was_signalled_since_a_place_was_filled_is_taken_over() {
    let late = Late::new();
    late.signal(1, Some(failure(1))).unwrap();
    late.show();
    late.signal(2, Some(failure(2))).unwrap();
    late.signal(3, None).unwrap();
    assert_eq!((late.state(1), late.state(2)), (failed(1), PointState::Pending));
    assert_eq!(late.take_over(), Some(Woke::Nobody));
    let states = [1, 2, 3, 4].map(|point| late.state(point));
    assert_eq!(states, [failed(1), failed(2), OK, PointState::Pending]);
}

#[test]
fn taking_over_wakes_who_sleeps_for_a_point_that_the_broker_missed() {
    let late = Late::new();
    late.show();
    late.observer.set_interest(slot(LATE), 1);
    late.signal(1, None).unwrap();
    assert_eq!(late.take_over(), Some(Woke::Sleeper));
}

#[test]
fn taking_over_twice_records_nothing_twice() {
    let late = Late::new();
    late.show();
    late.signal(1, Some(failure(1))).unwrap();
    assert!(late.take_over().is_some() && late.take_over().is_some());
    assert_eq!(late.page.keeper.slot(slot(LATE)).fail_count, 1);
}

#[test]
fn a_gap_between_what_was_filled_and_what_the_ring_still_has_is_overrun() {
    for filled in [0, 1, 5] {
        let late = Late::new();
        late.fail(1..=filled);
        late.show();
        late.fail(filled + 1..=filled + 9);
        assert!(late.take_over().is_some());
        let missed = late.state(filled + 1);
        assert_eq!((missed, late.state(filled + 2)), (PointState::Overrun, failed(filled + 2)), "{filled}");
    }
}

#[test]
fn a_place_that_the_broker_did_not_fill_is_published_whole() {
    let late = Late::new();
    late.signal(4, Some(failure(4))).unwrap();
    assert_eq!(late.take_over(), Some(Woke::Nobody));
    assert_eq!((late.state(3), late.state(4)), (OK, failed(4)));
}

// M-094
#[test]
fn a_signal_reaches_every_place_and_wakes_where_somebody_sleeps() {
    let late = Late::new();
    late.show();
    assert_eq!(late.signal_everywhere(1, Some(failure(1))), Ok(Woke::Nobody));
    late.observer.set_interest(slot(LATE), 2);
    let before = late.observer.doorbell();
    assert_eq!(late.signal_everywhere(2, None), Ok(Woke::Sleeper));
    assert_ne!(late.observer.doorbell(), before);
    assert_eq!((late.state(1), late.state(2)), (failed(1), OK));
    let own = late.primary.signaller.state(slot(PRIMARY), GENERATION, 1);
    assert_eq!(own, failed(1), "and its own process sees it in the primary place");
}

// M-080
#[test]
fn a_signal_that_goes_back_is_refused_in_every_place() {
    let late = Late::new();
    late.show();
    late.signal_everywhere(5, None).unwrap();
    assert_eq!(late.signal_everywhere(5, None), Err(NotNewer::Point { point: 5, value: 5 }));
    assert_eq!(late.page.keeper.slot(slot(LATE)).value, 5);
}

/// A full ring whose count of failures never stands still.
struct Restless {
    looks: Cell<u32>,
}

impl Page for Restless {
    fn load32(&self, _at: usize) -> u32 {
        self.looks.set(self.looks.get() + 1);
        100 + self.looks.get()
    }

    fn load64(&self, at: usize) -> u64 {
        // The value; every entry of the ring is failure 20.
        20 + u64::from(at == 256 + fence_page::S_DEAD_FROM)
    }

    fn store32(&self, _at: usize, _value: u32) {}
    fn store64(&self, _at: usize, _value: u64) {}
    fn release32(&self, _at: usize, _value: u32) {}
    fn release64(&self, _at: usize, _value: u64) {}
    fn bump32(&self, _at: usize) {}
    fn fence(&self, _order: Ordering) {}
}

#[test]
fn where_failures_never_stop_a_late_place_calls_nothing_ok() {
    let words = Words::default();
    let restless = Restless { looks: Cell::new(0) };
    late::fill(&words, slot(0), GENERATION, &restless, slot(0));
    let states = [1, 19, 20].map(|point| protocol::state(&words, slot(0), GENERATION, point));
    assert_eq!(states, [PointState::Overrun; 3]);
    assert_eq!(late::take_over(&words, &words, slot(0), GENERATION, &restless, slot(0)), None);
}

/// A page in private memory.
struct Words(Vec<Cell<u32>>);

impl Default for Words {
    fn default() -> Self {
        Self(vec![Cell::new(0); 1024])
    }
}

impl Page for Words {
    fn load32(&self, at: usize) -> u32 {
        self.0[at / 4].get()
    }

    fn load64(&self, at: usize) -> u64 {
        u64::from(self.load32(at)) | u64::from(self.load32(at + 4)) << 32
    }

    fn store32(&self, at: usize, value: u32) {
        self.0[at / 4].set(value);
    }

    fn store64(&self, at: usize, value: u64) {
        let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap();
        self.store32(at, half(value));
        self.store32(at + 4, half(value >> 32));
    }

    fn release32(&self, at: usize, value: u32) {
        self.store32(at, value);
    }

    fn release64(&self, at: usize, value: u64) {
        self.store64(at, value);
    }

    fn bump32(&self, at: usize) {
        self.store32(at, self.load32(at) + 1);
    }

    fn fence(&self, _order: Ordering) {}
}

/// The broker comes between the failure and the value that covers it.
#[test]
fn a_failure_above_the_value_that_was_read_is_left_to_its_signaller() {
    let late = Late::new();
    let page = late.primary.keeper.signaller_fds().unwrap().page;
    let page = Mapping::map(page.as_fd(), 4096, Access::Write, Populate::Lazy).unwrap();
    let words = page.span_mut().unwrap().sub(256 * (1 + usize::from(PRIMARY)), 256).unwrap();
    words.write_u64(0, u64::from(GENERATION) | 1 << 32).unwrap();
    for (at, word) in [(64, 1), (72, 1001), (80, 5)] {
        words.write_u64(at, word).unwrap();
    }
    late.show();
    words.write_u64(8, 1).unwrap();
    assert_eq!(late.take_over(), Some(Woke::Nobody));
    assert_eq!(late.page.keeper.slot(slot(LATE)).fail_count, 1);
}

// M-095, M-096
#[test]
fn an_observer_that_comes_while_its_signaller_is_busy_misses_nothing() {
    for _ in 0..300 {
        let late = Late::new();
        let told = AtomicBool::new(false);
        let last = std::thread::scope(|threads| {
            let signaller = threads.spawn(|| {
                let mut point = 0;
                let mut rest = None;
                while rest != Some(0) {
                    point += 1;
                    late.signal(point, None).unwrap();
                    rest = rest.map(|left: u32| left - 1);
                    if rest.is_none() && late.primary.signaller.news() != 0 {
                        rest = Some(3);
                    }
                }
                support::until("the broker answers", || told.load(Ordering::Acquire));
                late.take_over().unwrap();
                point
            });
            late.show();
            told.store(true, Ordering::Release);
            signaller.join().unwrap()
        });
        assert_eq!((late.state(last), late.state(last + 1)), (OK, PointState::Pending));
    }
}
