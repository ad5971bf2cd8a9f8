//! The store-and-look protocol of the fence page under every interleaving that loom can make.
//!
//! The code under test is `vgem_os::fence::protocol` itself, over loom's atomics instead of mapped pages.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

#[path = "support/loom_model.rs"]
mod loom_model;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use vgem_os::fence::late;
use vgem_os::fence::protocol::{self, Failure, Page, PointState, Ring, Slot};
use vgem_proto::layout::{fence_page as f, interest_page};

use loom_model::{Model, explore};

const GENERATION: u32 = 1;

/// Only the words that slot 0 uses.
trait FencePage {
    /// A fence page with a ring of which the first `entries` exist; the others read as empty.
    fn page(entries: usize) -> Self;
    fn interest() -> Self;
    fn doorbell(&self) -> &AtomicU32;
    fn sleep(&self, seen: u32);
    fn wake(&self, ring: Ring);
}

impl FencePage for Model {
    fn page(entries: usize) -> Self {
        let slot = f::SLOT_LEN;
        let mut words = vec![slot + f::S_VALUE, slot + f::S_DEAD_FROM];
        let mut halves = vec![f::H_DOORBELL, f::H_DEATH_CODE, slot + f::S_GENERATION, slot + f::S_FAIL_COUNT];
        for entry in 0..entries {
            let at = slot + f::S_FAILURES + entry * f::FAILURE_LEN;
            words.extend([at + f::F_POINT, at + f::F_CAUSE]);
            halves.push(at + f::F_CODE);
        }
        Self::of(&words, &halves, &[f::H_DOORBELL])
    }

    fn interest() -> Self {
        Self::of(&[interest_page::WANT], &[interest_page::NEWS], &[])
    }

    fn doorbell(&self) -> &AtomicU32 {
        &self.halves[&f::H_DOORBELL]
    }

    fn sleep(&self, seen: u32) {
        self.sleep_on(f::H_DOORBELL, seen);
    }

    fn wake(&self, ring: Ring) {
        if ring == Ring::Wake {
            self.wake_on(f::H_DOORBELL);
        }
    }
}

/// The page as its signaller has it: what it alone writes, it remembers.
///
/// Loom leaves out stale reads of a word by others when the writer loads the word before its store, as a signal
/// does with value and count; without this it would miss a store that should have been a release.
struct Own {
    page: Arc<Model>,
    remembered: RefCell<HashMap<usize, u64>>,
}

impl Own {
    fn of(page: &Arc<Model>, value: u64, fail_count: u32) -> Self {
        let words = [(f::SLOT_LEN + f::S_VALUE, value), (f::SLOT_LEN + f::S_FAIL_COUNT, fail_count.into())];
        Self { page: page.clone(), remembered: RefCell::new(words.into()) }
    }

    fn recall(&self, at: usize) -> Option<u64> {
        self.remembered.borrow().get(&at).copied()
    }

    fn remember(&self, at: usize, value: u64) {
        self.remembered.borrow_mut().entry(at).and_modify(|word| *word = value);
    }
}

impl Page for Own {
    fn load32(&self, at: usize) -> u32 {
        let own = self.recall(at).map(|word| u32::try_from(word).unwrap());
        own.unwrap_or_else(|| self.page.load32(at))
    }

    fn load64(&self, at: usize) -> u64 {
        self.recall(at).unwrap_or_else(|| self.page.load64(at))
    }

    fn store32(&self, at: usize, value: u32) {
        self.remember(at, value.into());
        self.page.store32(at, value);
    }

    fn store64(&self, at: usize, value: u64) {
        self.remember(at, value);
        self.page.store64(at, value);
    }

    fn release32(&self, at: usize, value: u32) {
        self.remember(at, value.into());
        self.page.release32(at, value);
    }

    fn release64(&self, at: usize, value: u64) {
        self.remember(at, value);
        self.page.release64(at, value);
    }

    fn bump32(&self, at: usize) {
        self.page.bump32(at);
    }

    fn fence(&self, order: Ordering) {
        self.page.fence(order);
    }
}

fn slot() -> Slot {
    Slot::new(0).unwrap()
}

/// The observer's loop.
fn wait_for(page: &Model, interest: &Model, point: u64) -> PointState {
    loop {
        let seen = page.doorbell().load(Ordering::Acquire);
        protocol::set_interest(interest, slot(), point);
        match protocol::state(page, slot(), GENERATION, point) {
            PointState::Pending => page.sleep(seen),
            done => return done,
        }
    }
}

fn pages(entries: usize) -> (Arc<Model>, Arc<Model>) {
    let (page, interest) = (Arc::new(Model::page(entries)), Arc::new(Model::interest()));
    assert_eq!(protocol::publish(&*page, &*interest, slot(), GENERATION, 0, 0, &[]), Ring::Quiet);
    (page, interest)
}

fn failure(point: u64) -> Failure {
    Failure { point, code: u32::try_from(point).unwrap(), cause: point }
}

/// Failures 1 to 8, of which the first two are modelled.
fn full_ring_of_two_modelled_entries() -> (Arc<Model>, Arc<Model>) {
    let (page, interest) = pages(2);
    for point in [1, 2] {
        let ring = protocol::signal(&*page, &*interest, slot(), point, 0, Some(failure(point)));
        assert_eq!(ring, Ok(Ring::Quiet));
    }
    page.halves[&(f::SLOT_LEN + f::S_FAIL_COUNT)].store(8, Ordering::Relaxed);
    (page, interest)
}

#[test]
fn no_wake_up_is_lost() {
    explore(3, || {
        let (page, interest) = pages(0);
        let (p, i) = (Own::of(&page, 0, 0), interest.clone());
        let signaller =
            thread::spawn(move || p.page.wake(protocol::signal(&p, &*i, slot(), 1, 0, None).unwrap()));
        assert_eq!(wait_for(&page, &interest, 1), PointState::Ok { time_ns: 0 });
        signaller.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_over_two_points() {
    explore(3, || {
        let (page, interest) = pages(0);
        let (p, i) = (Own::of(&page, 0, 0), interest.clone());
        let signaller = thread::spawn(move || {
            for point in [1, 2] {
                p.page.wake(protocol::signal(&p, &*i, slot(), point, 0, None).unwrap());
            }
        });
        assert_eq!(wait_for(&page, &interest, 2), PointState::Ok { time_ns: 0 });
        signaller.join().unwrap();
    });
}

#[test]
fn a_verdict_wakes_an_observer_though_the_signaller_never_signals() {
    explore(3, || {
        let (page, interest) = pages(0);
        let p = page.clone();
        let broker = thread::spawn(move || {
            protocol::kill_slot(&*p, slot(), 1, 9, 77);
            p.wake(Ring::Wake);
        });
        assert!(matches!(wait_for(&page, &interest, 1), PointState::Failed { .. }));
        broker.join().unwrap();
    });
}

#[test]
fn a_broker_and_a_signaller_that_ring_at_once_lose_no_ring() {
    explore(3, || {
        let (page, interest) = pages(0);
        protocol::set_interest(&*interest, slot(), 1);
        let (p, i) = (Own::of(&page, 0, 0), interest);
        let signaller = thread::spawn(move || protocol::signal(&p, &*i, slot(), 1, 0, None));
        protocol::kill_slot(&*page, slot(), 5, 9, 77);
        assert_eq!(signaller.join().unwrap(), Ok(Ring::Wake));
        assert_eq!(page.doorbell().load(Ordering::Relaxed), 2);
    });
}

#[test]
fn what_was_written_before_a_signal_is_seen_after_it() {
    explore(3, || {
        let time = f::SLOT_LEN + f::S_TIME;
        let mut page = Model::page(0);
        page.words.insert(time, AtomicU64::new(0));
        let (page, interest) = (Arc::new(page), Arc::new(Model::interest()));
        assert_eq!(protocol::publish(&*page, &*interest, slot(), GENERATION, 0, 0, &[]), Ring::Quiet);
        let p = Own::of(&page, 0, 0);
        let signaller = thread::spawn(move || protocol::signal(&p, &*interest, slot(), 1, 99, None));
        let state = protocol::state(&*page, slot(), GENERATION, 1);
        assert!(matches!(state, PointState::Pending | PointState::Ok { time_ns: 99 }), "{state:?}");
        assert_eq!(signaller.join().unwrap(), Ok(Ring::Quiet));
    });
}

// M-079
#[test]
fn f2_a_point_that_failed_is_never_seen_as_ok() {
    explore(3, || {
        let (page, interest) = pages(1);
        let (p, i) = (Own::of(&page, 0, 0), interest);
        let signaller = thread::spawn(move || protocol::signal(&p, &*i, slot(), 1, 0, Some(failure(1))));
        let state = protocol::state(&*page, slot(), GENERATION, 1);
        let failed = PointState::Failed { code: 1, cause: 1, time_ns: 0 };
        assert!(state == PointState::Pending || state == failed, "{state:?}");
        assert_eq!(signaller.join().unwrap(), Ok(Ring::Quiet));
    });
}

/// The ninth failure overwrites the first while that is read: the old one, or overrun, but no mixture and no "ok".
#[test]
fn an_entry_that_is_overwritten_is_never_read_half() {
    explore(2, || {
        let (page, interest) = full_ring_of_two_modelled_entries();
        let (p, i) = (Own::of(&page, 2, 8), interest);
        let signaller = thread::spawn(move || protocol::signal(&p, &*i, slot(), 9, 0, Some(failure(9))));
        match protocol::state(&*page, slot(), GENERATION, 1) {
            PointState::Failed { code, cause, .. } => assert_eq!((code, cause), (1, 1)),
            other => assert_eq!(other, PointState::Overrun),
        }
        assert_eq!(signaller.join().unwrap(), Ok(Ring::Quiet));
    });
}

/// The reader has passed the first entry when the second, which it looks for, is overwritten: without a second look
/// at the count it would find the ring complete and its point not in it.
#[test]
fn a_failure_that_is_overwritten_during_the_search_is_not_called_ok() {
    explore(1, || {
        let (page, interest) = full_ring_of_two_modelled_entries();
        let (p, i) = (Own::of(&page, 2, 8), interest);
        let signaller = thread::spawn(move || {
            for point in [9, 10] {
                let ring = protocol::signal(&p, &*i, slot(), point, 0, Some(failure(point)));
                assert_eq!(ring, Ok(Ring::Quiet));
            }
        });
        match protocol::state(&*page, slot(), GENERATION, 2) {
            PointState::Failed { code, cause, .. } => assert_eq!((code, cause), (2, 2)),
            other => assert_eq!(other, PointState::Overrun),
        }
        signaller.join().unwrap();
    });
}

#[test]
fn a_slot_that_changes_its_timeline_answers_for_neither_with_the_others_value() {
    explore(3, || {
        let (page, interest) = pages(0);
        assert_eq!(protocol::signal(&*page, &*interest, slot(), 3, 0, None), Ok(Ring::Quiet));
        let (p, i) = (Own::of(&page, 3, 0), interest);
        let signaller = thread::spawn(move || protocol::publish(&p, &*i, slot(), GENERATION + 1, 7, 0, &[]));
        let state = protocol::state(&*page, slot(), GENERATION, 5);
        assert!(matches!(state, PointState::Pending | PointState::Overrun), "{state:?}");
        assert_eq!(signaller.join().unwrap(), Ring::Quiet);
    });
}

/// A client's timeline: the primary page, which the broker observes, and the page of an observer that comes late.
struct Late {
    primary: (Arc<Model>, Arc<Model>),
    page: (Arc<Model>, Arc<Model>),
    /// The broker has told the observer, and answers the signaller that asks.
    told: (Mutex<bool>, Condvar),
    /// The signaller has taken the late place over.
    shown: AtomicBool,
}

impl Late {
    fn new(entries: usize) -> Arc<Self> {
        let late = (Arc::new(Model::page(entries)), Arc::new(Model::interest()));
        let told = (Mutex::new(false), Condvar::new());
        Arc::new(Self { primary: pages(entries), page: late, told, shown: AtomicBool::new(false) })
    }

    /// The signaller: one signal, and the look for news. In `places` it shows its timeline already.
    fn signal(&self, point: u64, places: usize, failure: Option<Failure>) {
        let primary = Own::of(&self.primary.0, point - 1, 0);
        let page = Own::of(&self.page.0, point - 1, 0);
        let all = [(&primary, &*self.primary.1, slot()), (&page, &*self.page.1, slot())];
        let wake = |own: &Own| own.page.wake(Ring::Wake);
        late::signal_everywhere(all.into_iter().take(places), point, 0, failure, wake).unwrap();
        if late::news(&*self.primary.1) != 0 && !self.shown.load(Ordering::Relaxed) {
            self.take_over();
        }
    }

    fn take_over(&self) {
        let (told, answer) = &self.told;
        let mut told = told.lock().unwrap();
        while !*told {
            told = answer.wait(told).unwrap();
        }
        drop(told);
        let (page, interest) = (&self.page.0, &*self.page.1);
        let ring = late::take_over(&**page, interest, slot(), GENERATION, &*self.primary.0, slot());
        page.wake(ring.unwrap());
        self.shown.store(true, Ordering::Relaxed);
    }

    /// The broker: an observer has come.
    fn show(&self) {
        late::set_news(&*self.primary.1, 1);
        late::fill(&*self.page.0, slot(), GENERATION, &*self.primary.0, slot());
        *self.told.0.lock().unwrap() = true;
        self.told.1.notify_all();
    }
}

#[test]
fn no_signal_is_lost_to_an_observer_that_comes_late() {
    explore(3, || {
        let late = Late::new(0);
        let own = late.clone();
        let signaller = thread::spawn(move || own.signal(1, 1, None));
        late.show();
        assert_eq!(wait_for(&late.page.0, &late.page.1, 1), PointState::Ok { time_ns: 0 });
        signaller.join().unwrap();
    });
}

#[test]
fn no_second_signal_is_lost_to_an_observer_that_comes_late() {
    explore(3, || {
        let late = Late::new(0);
        let own = late.clone();
        let signaller = thread::spawn(move || {
            own.signal(1, 1, None);
            let shown = own.shown.load(Ordering::Relaxed);
            own.signal(2, 1 + usize::from(shown), None);
        });
        late.show();
        assert_eq!(wait_for(&late.page.0, &late.page.1, 2), PointState::Ok { time_ns: 0 });
        signaller.join().unwrap();
    });
}

#[test]
fn a_late_place_never_shows_a_failed_point_as_ok() {
    explore(3, || {
        let late = Late::new(1);
        let own = late.clone();
        let signaller = thread::spawn(move || own.signal(1, 1, Some(failure(1))));
        late.show();
        let failed = PointState::Failed { code: 1, cause: 1, time_ns: 0 };
        let state = protocol::state(&*late.page.0, slot(), GENERATION, 1);
        assert!(state == PointState::Pending || state == failed, "{state:?}");
        assert_eq!(wait_for(&late.page.0, &late.page.1, 1), failed);
        signaller.join().unwrap();
    });
}

#[test]
fn one_fence_is_enough_for_the_sleepers_of_every_place() {
    explore(2, || {
        let late = Late::new(0);
        late.show();
        late.take_over();
        let (own, second) = (late.clone(), late.clone());
        let signaller = thread::spawn(move || own.signal(1, 2, None));
        let sleeper = thread::spawn(move || wait_for(&second.page.0, &second.page.1, 1));
        let state = wait_for(&late.primary.0, &late.primary.1, 1);
        assert_eq!(state, PointState::Ok { time_ns: 0 });
        assert_eq!(sleeper.join().unwrap(), state);
        signaller.join().unwrap();
    });
}
