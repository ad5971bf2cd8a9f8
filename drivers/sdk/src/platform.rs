//! What the threads of an instance stand on: a lock, words to sleep on, an alarm, and pages that other processes write.
//!
//! A seam, for one reason: the same instance runs on the system's threads ([`Os`]) and, in a model test, on threads
//! whose every step the test chooses. It is as narrow as that allows: whoever sleeps here sleeps by [`Platform::sleep`],
//! who keeps the time by [`Platform::await_alarm`], and the thread of a ring by [`Platform::rest`].

use std::ops::DerefMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use vgem_os::alarm::Alarm;
use vgem_os::fence::{ObserverFace, PointState, Slot};
use vgem_os::futex::{self, FutexWord, Word};
use vgem_os::ring::Consumer;

/// Pages that one [`Platform::sleep`] sleeps on; with two words of ours a futex_waitv takes no more.
pub(crate) const DOORBELLS: usize = futex::WAIT_ANY_MAX - WORDS;
/// Words of ours that one sleeps on.
const WORDS: usize = 2;

/// A fence page of another process, as its observer sees it; see [`ObserverFace`].
pub(crate) trait Observed {
    /// How a point stands.
    fn state(&self, slot: Slot, generation: u32, point: u64) -> PointState;
    /// The point that this instance asks to be woken at; 0 is none.
    fn interest(&self, slot: Slot) -> u64;
    /// Asks to be woken at a point. Look again afterwards.
    fn set_interest(&self, slot: Slot, point: u64);
    /// Asks no more.
    fn clear_interest(&self, slot: Slot);
    /// The doorbell now: read it before looking, give it to [`Platform::sleep`].
    fn doorbell(&self) -> u32;
}

/// The ground under an instance.
pub(crate) trait Platform: Clone + Send + Sync + 'static {
    /// A lock around something.
    type Mutex<T: Send>: Send + Sync;
    /// What it is reached through while the lock is held.
    type Guard<'a, T: Send + 'a>: DerefMut<Target = T>;
    /// A word that threads of this process sleep on.
    type Word: Send + Sync;
    /// What one thread sleeps for and any other sets.
    type Alarm: Send + Sync;
    /// A page of another process.
    type Page: Observed + Send + Sync;

    /// Puts a lock around something.
    fn mutex<T: Send>(&self, value: T) -> Self::Mutex<T>;
    /// Takes a lock.
    fn lock<'a, T: Send>(&self, mutex: &'a Self::Mutex<T>) -> Self::Guard<'a, T>;
    /// A new word.
    fn word(&self) -> Self::Word;
    /// What a word holds.
    fn seen(&self, word: &Self::Word) -> u32;
    /// Changes a word, so that nobody falls asleep who saw what it held, and wakes at most so many who sleep on it.
    fn ring(&self, word: &Self::Word, most: u32);
    /// Sleeps while words and doorbells hold what was seen of them, until `deadline_ns`. May return for no reason.
    fn sleep(&self, words: &[(&Self::Word, u32)], pages: &[(Arc<Self::Page>, u32)], deadline_ns: u64);
    /// Sleeps until there is something to take from a ring, or a word of ours is not what was seen of it, until
    /// `deadline_ns`. May return for no reason.
    fn rest(&self, ring: &mut Consumer, word: (&Self::Word, u32), deadline_ns: u64);
    /// A new alarm, not set.
    fn alarm(&self) -> vgem_os::Result<Self::Alarm>;
    /// Has an alarm ring at a moment, at once if that has passed.
    fn set_alarm(&self, alarm: &Self::Alarm, at_ns: u64);
    /// Sleeps until an alarm rings.
    fn await_alarm(&self, alarm: &Self::Alarm);
}

/// The system's own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Os;

impl Platform for Os {
    type Mutex<T: Send> = Mutex<T>;
    type Guard<'a, T: Send + 'a> = MutexGuard<'a, T>;
    type Word = Word;
    type Alarm = Alarm;
    type Page = ObserverFace;

    fn mutex<T: Send>(&self, value: T) -> Mutex<T> {
        Mutex::new(value)
    }

    #[inline]
    fn lock<'a, T: Send>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self) -> Word {
        Word::new(0)
    }

    #[inline]
    fn seen(&self, word: &Word) -> u32 {
        word.load()
    }

    fn ring(&self, word: &Word, most: u32) {
        word.bump();
        let woken = futex::wake(word.futex(), most);
        debug_assert!(woken.is_ok(), "a private word: {woken:?}");
    }

    fn sleep(&self, words: &[(&Word, u32)], pages: &[(Arc<ObserverFace>, u32)], deadline_ns: u64) {
        let ours = words.iter().take(WORDS).map(|(word, seen)| (word.futex(), *seen));
        let theirs = pages.iter().take(DOORBELLS).map(|(page, seen)| (page.word(), *seen));
        let all: ArrayVec<(FutexWord<'_>, u32), { futex::WAIT_ANY_MAX }> = ours.chain(theirs).collect();
        let rung = futex::wait_any(&all, deadline_ns);
        debug_assert!(rung.is_ok(), "words of ours: {rung:?}");
    }

    fn rest(&self, ring: &mut Consumer, (word, seen): (&Word, u32), deadline_ns: u64) {
        let woken = ring.wait_beside((word.futex(), seen), deadline_ns);
        debug_assert!(woken.is_ok(), "words that are mapped: {woken:?}");
    }

    fn alarm(&self) -> vgem_os::Result<Alarm> {
        Alarm::new()
    }

    fn set_alarm(&self, alarm: &Alarm, at_ns: u64) {
        let set = alarm.set(at_ns);
        debug_assert!(set.is_ok(), "a timer of ours: {set:?}");
    }

    fn await_alarm(&self, alarm: &Alarm) {
        let rung = alarm.wait();
        debug_assert!(rung.is_ok(), "a timer of ours: {rung:?}");
    }
}

impl Observed for ObserverFace {
    #[inline]
    fn state(&self, slot: Slot, generation: u32, point: u64) -> PointState {
        self.state(slot, generation, point)
    }

    #[inline]
    fn interest(&self, slot: Slot) -> u64 {
        self.interest(slot)
    }

    #[inline]
    fn set_interest(&self, slot: Slot, point: u64) {
        self.set_interest(slot, point);
    }

    #[inline]
    fn clear_interest(&self, slot: Slot) {
        self.clear_interest(slot);
    }

    #[inline]
    fn doorbell(&self) -> u32 {
        self.doorbell()
    }
}
