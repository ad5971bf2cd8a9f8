//! The place that every timeline has in its own process: a slot in private memory.
//!
//! It is read and written by the same protocol as the slots that other processes see
//! ([`vgem_os::fence::protocol`]), so a job that waits for another queue of this instance looks without a lock, and
//! sees exactly what an observer elsewhere would see.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use vgem_os::fence::protocol::{self, NotNewer, Page, Ring};
use vgem_os::fence::{Failure, PointState, Slot, SlotSnapshot};
use vgem_proto::layout::fence_page::{FAILURES, S_VALUE, SLOT_LEN};

/// The words of one slot. Words of 64 and of 32 bits lie apart; no word is reached as both.
#[derive(Debug)]
pub(crate) struct OwnSlot {
    words: [AtomicU64; SLOT_LEN / 8],
    halves: [AtomicU32; SLOT_LEN / 4],
    waiters: Waiters,
}

/// The first slot of a page, and the only one here.
fn slot() -> Slot {
    const { Slot::new(0).expect("a page has 15 slots") }
}

impl OwnSlot {
    /// A slot that shows a timeline with what was signalled so far. Failures as [`protocol::publish`] takes them.
    pub(crate) fn new(generation: u32, value: u64, time_ns: u64, failures: &[Failure]) -> Self {
        let own = Self {
            words: [const { AtomicU64::new(0) }; SLOT_LEN / 8],
            halves: [const { AtomicU32::new(0) }; SLOT_LEN / 4],
            waiters: Waiters::default(),
        };
        let ring = protocol::publish(&own, &own.waiters, slot(), generation, value, time_ns, failures);
        debug_assert_eq!(ring, Ring::Quiet, "nobody waits yet");
        own
    }

    /// The last point signalled.
    pub(crate) fn value(&self) -> u64 {
        let value = self.load64(SLOT_LEN + S_VALUE);
        fence(Ordering::Acquire);
        value
    }

    /// How a point stands.
    pub(crate) fn state(&self, generation: u32, point: u64) -> PointState {
        protocol::state(self, slot(), generation, point)
    }

    /// Signals a point; `Wake` if somebody in this process waits for it, or for one before.
    #[inline]
    pub(crate) fn signal(
        &self,
        point: u64,
        time_ns: u64,
        failure: Option<Failure>,
    ) -> Result<Ring, NotNewer> {
        protocol::signal(self, &self.waiters, slot(), point, time_ns, failure)
    }

    /// How a point stands. If it is pending, its signal will say `Wake`. One thread at a time.
    pub(crate) fn await_here(&self, generation: u32, point: u64) -> PointState {
        let first = protocol::interest_in(&self.waiters, slot());
        if first == 0 || point < first {
            protocol::set_interest(&self.waiters, slot(), point);
        }
        self.state(generation, point)
    }

    /// Forgets who waits; all of them look again. Not while one begins to wait.
    pub(crate) fn await_again(&self) {
        protocol::clear_interest(&self.waiters, slot());
    }

    /// What another slot must be filled with to show the same. Only while nobody signals.
    pub(crate) fn snapshot(&self) -> SlotSnapshot {
        let mut snapshot = protocol::snapshot(self, slot());
        let lost = snapshot.fail_count as usize > FAILURES;
        if let Some(oldest) = snapshot.failures.first().copied().filter(|_| lost) {
            // One more than a slot shows says that older ones are not known; which one makes no difference.
            snapshot.failures.insert(0, oldest);
        }
        snapshot
    }
}

/// The first point that somebody in this process waits for, as an interest page has it; 0 is nobody.
#[derive(Debug, Default)]
pub(super) struct Waiters(AtomicU64);

/// It has one word, wherever that is asked for.
impl Page for Waiters {
    fn load32(&self, _at: usize) -> u32 {
        0
    }

    #[inline]
    fn load64(&self, _at: usize) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn store32(&self, _at: usize, _value: u32) {}

    #[inline]
    fn store64(&self, _at: usize, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn release32(&self, _at: usize, _value: u32) {}

    fn release64(&self, _at: usize, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    fn bump32(&self, _at: usize) {}

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }
}

/// Offsets are those of a page. Its header, where the broker would write, is not there and reads as 0.
impl OwnSlot {
    fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.words.get(at.checked_sub(SLOT_LEN)? / 8)
    }

    fn half(&self, at: usize) -> Option<&AtomicU32> {
        self.halves.get(at.checked_sub(SLOT_LEN)? / 4)
    }
}

impl Page for OwnSlot {
    #[inline]
    fn load32(&self, at: usize) -> u32 {
        self.half(at).map_or(0, |half| half.load(Ordering::Relaxed))
    }

    #[inline]
    fn load64(&self, at: usize) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn store32(&self, at: usize, value: u32) {
        if let Some(half) = self.half(at) {
            half.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn store64(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn release32(&self, at: usize, value: u32) {
        if let Some(half) = self.half(at) {
            half.store(value, Ordering::Release);
        }
    }

    #[inline]
    fn release64(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Release);
        }
    }

    fn bump32(&self, at: usize) {
        if let Some(half) = self.half(at) {
            half.fetch_add(1, Ordering::Release);
        }
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        match order {
            // It would order the look at an interest that nobody has.
            Ordering::SeqCst => {}
            order => fence(order),
        }
    }
}
