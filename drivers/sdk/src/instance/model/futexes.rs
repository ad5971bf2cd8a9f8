//! Locks, futexes and pages of the model.

use std::collections::HashMap;
use std::sync::Arc;

use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use shuttle::sync::{Condvar, Mutex, MutexGuard};
use vgem_os::fence::protocol::{self, Failure, Page, PointState, Ring, Slot};
use vgem_os::ring::Consumer;
use vgem_proto::layout::{fence_page as f, interest_page};

use crate::platform::{Observed, Platform};

/// What the kernel knows of sleepers.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel(Arc<Futexes>);

#[derive(Debug, Default)]
struct Futexes {
    sleepers: Mutex<Vec<Sleeper>>,
    woken: Condvar,
    /// The doorbell of every ring.
    pushed: Word,
}

/// Somebody asleep. Words are told apart by where they are.
#[derive(Debug)]
struct Sleeper {
    thread: shuttle::thread::ThreadId,
    words: Vec<usize>,
    woken: bool,
}

type Word = Arc<AtomicU32>;

/// Rings at some time after it was set.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    set: Mutex<bool>,
    rings: Condvar,
}

fn place(word: &Word) -> usize {
    Arc::as_ptr(word).addr()
}

impl Kernel {
    /// FUTEX_WAITV: falls asleep unless some word has changed.
    fn wait(&self, words: &[(&Word, u32)]) {
        let mut sleepers = self.0.sleepers.lock().expect("no panic");
        if words.iter().any(|(word, seen)| word.load(Ordering::SeqCst) != *seen) {
            return;
        }
        let thread = shuttle::thread::current().id();
        let words = words.iter().map(|(word, _)| place(word)).collect();
        sleepers.push(Sleeper { thread, words, woken: false });
        loop {
            let own = |s: &Sleeper| s.thread == thread && s.woken;
            if let Some(at) = sleepers.iter().position(own) {
                sleepers.remove(at);
                return;
            }
            sleepers = self.0.woken.wait(sleepers).expect("no panic");
        }
    }

    /// A client has put entries into a ring.
    pub(super) fn ring_rings(&self) {
        self.ring(&self.0.pushed, u32::MAX);
    }

    /// FUTEX_WAKE: those that fell asleep first.
    fn wake(&self, word: &Word, most: u32) {
        let mut sleepers = self.0.sleepers.lock().expect("no panic");
        let on_it = sleepers.iter_mut().filter(|s| !s.woken && s.words.contains(&place(word)));
        for sleeper in on_it.take(most as usize) {
            sleeper.woken = true;
        }
        self.0.woken.notify_all();
    }
}

impl Platform for Kernel {
    type Mutex<T: Send> = Mutex<T>;
    type Guard<'a, T: Send + 'a> = MutexGuard<'a, T>;
    type Word = Word;
    type Alarm = Alarm;
    type Page = FarPage;

    fn mutex<T: Send>(&self, value: T) -> Mutex<T> {
        Mutex::new(value)
    }

    fn lock<'a, T: Send>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().expect("no panic")
    }

    fn word(&self) -> Word {
        Word::default()
    }

    fn seen(&self, word: &Word) -> u32 {
        word.load(Ordering::SeqCst)
    }

    fn ring(&self, word: &Word, most: u32) {
        word.fetch_add(1, Ordering::SeqCst);
        self.wake(word, most);
    }

    fn sleep(&self, words: &[(&Word, u32)], pages: &[(Arc<FarPage>, u32)], _never_late: u64) {
        let doorbells = pages.iter().map(|(page, seen)| (&page.page.doorbell, *seen));
        let all: Vec<(&Word, u32)> = words.iter().copied().chain(doorbells).collect();
        self.wait(&all);
    }

    fn rest(&self, ring: &mut Consumer, (word, seen): (&Word, u32), _never_late: u64) {
        let pushed = self.0.pushed.load(Ordering::SeqCst);
        if !ring.is_ready() {
            self.wait(&[(word, seen), (&self.0.pushed, pushed)]);
        }
    }

    fn alarm(&self) -> vgem_os::Result<Alarm> {
        Ok(Alarm::default())
    }

    fn set_alarm(&self, alarm: &Alarm, _some_time: u64) {
        *alarm.set.lock().expect("no panic") = true;
        alarm.rings.notify_all();
    }

    fn await_alarm(&self, alarm: &Alarm) {
        let mut set = alarm.set.lock().expect("no panic");
        while !*set {
            set = alarm.rings.wait(set).expect("no panic");
        }
        *set = false;
    }
}

/// A page of another process: what it signals, and what this instance asks of it.
#[derive(Debug, Clone)]
pub(super) struct FarPage {
    page: Words,
    interest: Words,
    kernel: Kernel,
}

/// The words of one slot, and a doorbell. Words that take no part in any order read as 0.
#[derive(Debug, Clone)]
struct Words {
    doorbell: Word,
    halves: Arc<HashMap<usize, AtomicU32>>,
    words: Arc<HashMap<usize, AtomicU64>>,
}

impl Words {
    fn of(halves: &[usize], words: &[usize]) -> Self {
        Self {
            doorbell: Word::default(),
            halves: Arc::new(halves.iter().map(|at| (*at, AtomicU32::new(0))).collect()),
            words: Arc::new(words.iter().map(|at| (*at, AtomicU64::new(0))).collect()),
        }
    }
}

fn slot() -> Slot {
    Slot::new(0).expect("a page has 15 slots")
}

impl FarPage {
    /// A page that shows a timeline of this generation, of which nothing was signalled.
    pub(super) fn new(kernel: &Kernel, generation: u32) -> Self {
        let first_failure = f::SLOT_LEN + f::S_FAILURES;
        let halves =
            [f::SLOT_LEN + f::S_GENERATION, f::SLOT_LEN + f::S_FAIL_COUNT, first_failure + f::F_CODE];
        let words = [f::SLOT_LEN + f::S_VALUE, first_failure + f::F_POINT, first_failure + f::F_CAUSE];
        let (page, interest) = (Words::of(&halves, &words), Words::of(&[], &[interest_page::WANT]));
        let ring = protocol::publish(&page, &interest, slot(), generation, 0, 0, &[]);
        assert_eq!(ring, Ring::Quiet);
        Self { page, interest, kernel: kernel.clone() }
    }

    /// The other process signals.
    pub(super) fn signal(&self, point: u64, failure: Option<Failure>) {
        let ring = protocol::signal(&self.page, &self.interest, slot(), point, 0, failure);
        if ring.expect("a newer point") == Ring::Wake {
            self.kernel.wake(&self.page.doorbell, 1);
        }
    }
}

impl Observed for FarPage {
    fn state(&self, slot: Slot, generation: u32, point: u64) -> PointState {
        protocol::state(&self.page, slot, generation, point)
    }

    fn interest(&self, slot: Slot) -> u64 {
        protocol::interest_in(&self.interest, slot)
    }

    fn set_interest(&self, slot: Slot, point: u64) {
        protocol::set_interest(&self.interest, slot, point);
    }

    fn clear_interest(&self, slot: Slot) {
        protocol::clear_interest(&self.interest, slot);
    }

    fn doorbell(&self) -> u32 {
        self.page.doorbell.load(Ordering::SeqCst)
    }
}

impl Page for Words {
    fn load32(&self, at: usize) -> u32 {
        self.halves.get(&at).map_or(0, |half| half.load(Ordering::SeqCst))
    }

    fn load64(&self, at: usize) -> u64 {
        self.words.get(&at).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store32(&self, at: usize, value: u32) {
        if let Some(half) = self.halves.get(&at) {
            half.store(value, Ordering::SeqCst);
        }
    }

    fn store64(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(&at) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn release32(&self, at: usize, value: u32) {
        self.store32(at, value);
    }

    fn release64(&self, at: usize, value: u64) {
        self.store64(at, value);
    }

    fn bump32(&self, _doorbell: usize) {
        self.doorbell.fetch_add(1, Ordering::SeqCst);
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }
}
