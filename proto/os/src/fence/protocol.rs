//! The store-and-look protocol of a fence page, over any memory that can load and store.
//!
//! Generic over [`Page`] for one reason: the same code runs over mapped pages and, in a model test, over
//! loom's atomics, which try every interleaving.
//!
//! **No wake-up is lost.** The signaller stores first and looks at the interest afterwards; the observer stores
//! its interest first and looks at the value afterwards:
//!
//! ```text
//!   signaller                               observer
//!   entry, fail_count (Release)             seen = doorbell
//!   value (Release)                         interest = point
//!   fence(SeqCst)                           fence(SeqCst)
//!   want = interest                         look at the slot
//!   0 < want <= point?                      still pending? sleep while doorbell == seen
//!     doorbell += 1, FUTEX_WAKE
//! ```
//!
//! With a sequentially consistent fence on both sides at least one of the two looks sees the other's store. If it
//! is the signaller's, the doorbell changes, and a sleeper that is not asleep yet will not fall asleep.
//! The broker rings the same doorbell for its verdicts, so it is incremented atomically, never stored.
//!
//! **A failure is never hidden.** The failure is recorded before the value, in a ring of the last
//! [`FAILURES`]. An entry is taken down (point 0), rewritten and put up again, so a reader that finds the same
//! point before and after reading it has read it whole. A reader that sees the failure count move starts again, a
//! bounded number of times, and then says [`PointState::Overrun`]: ask the broker, and until then count it failed.
//!
//! **Verdicts come first.** `dead_from` and the death word are read before anything the signaller wrote.
//!
//! Invariants: a slot has one writer at a time; its value only grows within a generation; failures of a slot are
//! recorded in the order of their points.

use std::sync::atomic::Ordering;

use vgem_proto::layout::fence_page as f;
use vgem_proto::layout::interest_page;

/// Entries in the ring of failures.
pub const FAILURES: usize = f::FAILURES;

/// A count of failures that says: the ring is full, and its next entry is the first.
pub(super) const FULL: u32 = 8;
const _: () = assert!(FULL as usize == FAILURES);

/// What the count of failures becomes after `u32::MAX`: the same entry as 0, and more than the ring holds.
const COUNT_GOES_ON_AT: u32 = 16;
const _: () = assert!(COUNT_GOES_ON_AT as usize == 2 * FAILURES);

/// How often a look at a slot starts again while failures pour in.
pub(super) const RETRIES: usize = 16;

/// A page of 4096 bytes, or the memory of a ring, reached word by word. Offsets are bytes and multiples of the word's
/// size.
///
/// Loads and `store*` are relaxed.
pub trait Page {
    /// Loads a 32-bit word.
    fn load32(&self, at: usize) -> u32;
    /// Loads a 64-bit word.
    fn load64(&self, at: usize) -> u64;
    /// Stores a 32-bit word.
    fn store32(&self, at: usize, value: u32);
    /// Stores a 64-bit word.
    fn store64(&self, at: usize, value: u64);
    /// Stores a 32-bit word, releasing what was stored before.
    fn release32(&self, at: usize, value: u32);
    /// Stores a 64-bit word, releasing what was stored before.
    fn release64(&self, at: usize, value: u64);
    /// Adds 1 to a 32-bit word, atomically, releasing what was stored before.
    fn bump32(&self, at: usize);
    /// A memory fence.
    fn fence(&self, order: Ordering);
    /// Half of a fence: keeps the stores before it ahead of the loads after it wherever another thread calls
    /// [`Page::fence_heavy`] between, and there alone.
    #[inline]
    fn fence_light(&self) {
        self.fence(Ordering::SeqCst);
    }
    /// A fence of this thread, and of every thread of the processes that use [`Page::fence_light`]; false if the system
    /// did not make it.
    #[must_use]
    #[inline]
    fn fence_heavy(&self) -> bool {
        self.fence(Ordering::SeqCst);
        true
    }
    /// Loads 64-bit words that follow one another, each by itself, in order.
    #[inline]
    fn load64s<const N: usize>(&self, at: usize, into: &mut [u64; N]) {
        for (place, word) in into.iter_mut().enumerate() {
            *word = self.load64(at + 8 * place);
        }
    }
    /// Stores 64-bit words that follow one another, each by itself, in order.
    #[inline]
    fn store64s<const N: usize>(&self, at: usize, words: &[u64; N]) {
        for (place, word) in words.iter().enumerate() {
            self.store64(at + 8 * place, *word);
        }
    }
    /// Hints that the cache line of this word is stored to soon. No protocol depends on it.
    #[inline]
    fn expect_store(&self, _at: usize) {}
}

/// A page that two may write at once, as a signaller and the broker that shows something for it.
pub trait Raise: Page {
    /// Raises a 64-bit word to a value, unless it is higher, atomically, releasing what was stored before.
    fn raise64(&self, at: usize, value: u64);
}

/// Which slot of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// Slots in a page.
    pub const COUNT: u16 = f::SLOTS;

    /// Slot `index`, or nothing if a page has no such slot.
    #[must_use]
    pub const fn new(index: u16) -> Option<Self> {
        if index < f::SLOTS { Some(Self(index)) } else { None }
    }

    /// All slots of a page.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..f::SLOTS).map(Self)
    }

    /// The index, below [`Slot::COUNT`].
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0
    }

    #[inline]
    pub(super) fn at(self, field: usize) -> usize {
        f::SLOT_LEN * (1 + usize::from(self.0)) + field
    }

    #[inline]
    pub(super) fn failure_at(self, entry: usize, field: usize) -> usize {
        self.at(f::S_FAILURES + (entry % FAILURES) * f::FAILURE_LEN + field)
    }

    #[inline]
    fn want_at(self) -> usize {
        interest_page::WANT + 8 * usize::from(self.0)
    }
}

/// A point that failed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The point.
    pub point: u64,
    /// The error code of the protocol.
    pub code: u32,
    /// The cause id, for `explain`.
    pub cause: u64,
}

/// What an observer finds when it looks for a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PointState {
    /// Not signalled yet.
    Pending,
    /// Signalled, and it did not fail.
    Ok {
        /// When the newest point seen was signalled, CLOCK_MONOTONIC nanoseconds.
        time_ns: u64,
    },
    /// Failed: its job did, or its signaller is dead.
    Failed {
        /// The error code of the protocol.
        code: u32,
        /// The cause id.
        cause: u64,
        /// When the newest point seen was signalled, CLOCK_MONOTONIC nanoseconds; 0 if none was.
        time_ns: u64,
    },
    /// Signalled, but the page no longer knows how it ended. Ask the broker; failed until it answers.
    Overrun,
}

/// What a keeper reads of a slot. The signaller wrote it: claims, not facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotSnapshot {
    /// Generation of the timeline in it; 0 is unused.
    pub generation: u32,
    /// The last signalled point.
    pub value: u64,
    /// When that was signalled, CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// The failures the ring still has, oldest first.
    pub failures: Vec<Failure>,
    /// How many failures were ever recorded.
    pub fail_count: u32,
    /// The broker's verdict: points from here on have failed; 0 is none.
    pub dead_from: u64,
}

/// A signal that was refused; the slot is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNewer {
    /// A timeline only grows.
    #[error("point {point} is not above the signalled value {value}")]
    Point {
        /// The refused point.
        point: u64,
        /// The slot's value.
        value: u64,
    },
    /// The failure names a point that this signal does not signal.
    #[error("a failure of point {failed} in a signal from {value} to {point}")]
    Failure {
        /// The failure's point.
        failed: u64,
        /// The signalled point.
        point: u64,
        /// The slot's value.
        value: u64,
    },
}

/// What the signaller has to do after its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Ring {
    /// Nobody sleeps for this point.
    Quiet,
    /// The doorbell was rung: wake one sleeper of it.
    Wake,
}

/// Signals `point` of a slot: stores, then looks at the interest.
///
/// # Errors
/// [`NotNewer`]; nothing has changed then.
#[inline]
pub fn signal<P: Page, I: Page>(
    page: &P,
    interest: &I,
    slot: Slot,
    point: u64,
    time_ns: u64,
    failure: Option<Failure>,
) -> Result<Ring, NotNewer> {
    store(page, slot, point, time_ns, failure)?;
    page.fence(Ordering::SeqCst);
    Ok(ring_if_wanted(page, interest, slot, point))
}

/// The stores of a signal.
#[inline]
pub(super) fn store<P: Page>(
    page: &P,
    slot: Slot,
    point: u64,
    time_ns: u64,
    failure: Option<Failure>,
) -> Result<(), NotNewer> {
    let value = page.load64(slot.at(f::S_VALUE));
    if point <= value {
        return Err(NotNewer::Point { point, value });
    }
    if let Some(failure) = failure {
        if failure.point <= value || failure.point > point {
            return Err(NotNewer::Failure { failed: failure.point, point, value });
        }
        record(page, slot, failure);
    }
    page.store64(slot.at(f::S_TIME), time_ns);
    page.release64(slot.at(f::S_VALUE), point);
    Ok(())
}

/// Puts a timeline into a slot: value and failures so far, then the generation that makes it visible.
///
/// `failures` is oldest first. If there were more than [`FAILURES`], give one more than that: it says that
/// older points cannot be answered from the page.
///
/// A slot that shows all this already is left as it is: a signaller that goes on where another was ended must not
/// take the timeline from under those who look at it.
pub fn publish<P: Page, I: Page>(
    page: &P,
    interest: &I,
    slot: Slot,
    generation: u32,
    value: u64,
    time_ns: u64,
    failures: &[Failure],
) -> Ring {
    if shows(page, slot, generation, value, failures) {
        return ring_if_wanted(page, interest, slot, value);
    }
    write(page, slot, generation, value, time_ns, failures);
    page.fence(Ordering::SeqCst);
    ring_if_wanted(page, interest, slot, value)
}

/// Writes a slot as [`publish`] has it, whatever was there.
fn write<P: Page>(page: &P, slot: Slot, generation: u32, value: u64, time_ns: u64, failures: &[Failure]) {
    retire(page, slot);
    for entry in 0..FAILURES {
        page.store64(slot.failure_at(entry, f::F_POINT), 0);
    }
    page.store32(slot.at(f::S_FAIL_COUNT), 0);
    for failure in failures {
        record(page, slot, *failure);
    }
    page.store64(slot.at(f::S_TIME), time_ns);
    page.store64(slot.at(f::S_VALUE), value);
    page.release32(slot.at(f::S_GENERATION), generation);
}

/// Whether a slot shows exactly this timeline, value and failures. Only its writer asks.
fn shows<P: Page>(page: &P, slot: Slot, generation: u32, value: u64, failures: &[Failure]) -> bool {
    let count = usize::try_from(page.load32(slot.at(f::S_FAIL_COUNT))).unwrap_or(usize::MAX);
    let as_many = if failures.len() > FAILURES { count > FAILURES } else { count == failures.len() };
    let recorded = |failure: &Failure| {
        (0..FAILURES).any(|entry| read_entry(page, slot, entry).as_ref() == Some(failure))
    };
    page.load32(slot.at(f::S_GENERATION)) == generation
        && page.load64(slot.at(f::S_VALUE)) == value
        && as_many
        && failures.iter().rev().take(FAILURES).all(recorded)
}

/// Takes a timeline out of its slot. Whoever looks for it there finds it pending.
pub fn retire<P: Page>(page: &P, slot: Slot) {
    page.store32(slot.at(f::S_GENERATION), 0);
    // A reader that sees any later store to the slot also sees that the generation went.
    page.fence(Ordering::Release);
}

/// Looks for `point` of the timeline that `generation` names.
#[inline]
pub fn state<P: Page>(page: &P, slot: Slot, generation: u32, point: u64) -> PointState {
    for _ in 0..RETRIES {
        if let Some(state) = look(page, slot, generation, point) {
            return state;
        }
    }
    PointState::Overrun
}

/// Says in the interest page that somebody will sleep until `point` of a slot. Look again before sleeping.
#[inline]
pub fn set_interest<I: Page>(interest: &I, slot: Slot, point: u64) {
    interest.store64(slot.want_at(), point);
    interest.fence(Ordering::SeqCst);
}

/// Says that nobody sleeps for a slot.
#[inline]
pub fn clear_interest<I: Page>(interest: &I, slot: Slot) {
    interest.store64(slot.want_at(), 0);
}

/// The point somebody sleeps for; 0 is nobody.
#[inline]
pub fn interest_in<I: Page>(interest: &I, slot: Slot) -> u64 {
    interest.load64(slot.want_at())
}

/// The broker's verdict on a slot: points from `dead_from` on have failed. A later verdict can only take more.
/// Rings the doorbell; the caller wakes the sleepers.
pub fn kill_slot<P: Page>(page: &P, slot: Slot, dead_from: u64, code: u32, cause: u64) {
    let dead_from = dead_from.max(1);
    let before = page.load64(slot.at(f::S_DEAD_FROM));
    if before == 0 || dead_from < before {
        page.store32(slot.at(f::S_DEAD_CODE), code);
        page.store64(slot.at(f::S_DEAD_CAUSE), cause);
        page.release64(slot.at(f::S_DEAD_FROM), dead_from);
    }
    page.bump32(f::H_DOORBELL);
}

/// Lifts the verdict from a slot, before it is given to another timeline.
pub fn revive_slot<P: Page>(page: &P, slot: Slot) {
    page.release64(slot.at(f::S_DEAD_FROM), 0);
}

/// The broker's verdict on a signaller: every point of the page that was not signalled has failed. The first
/// verdict stands. Rings the doorbell; the caller wakes the sleepers.
pub fn kill_page<P: Page>(page: &P, code: u32, cause: u64) {
    if page.load32(f::H_DEATH_CODE) == 0 {
        page.store64(f::H_DEATH_CAUSE, cause);
        page.release32(f::H_DEATH_CODE, code.max(1));
    }
    page.bump32(f::H_DOORBELL);
}

/// Brings a slot to the value and failures that other pages of a dead signaller already show. One that had yet to show
/// the timeline shows it from now on: somebody may wait for it there. Rings the doorbell; the caller wakes the sleepers.
pub fn settle<P: Page>(
    page: &P,
    slot: Slot,
    generation: u32,
    value: u64,
    time_ns: u64,
    failures: &[Failure],
) {
    if page.load32(slot.at(f::S_GENERATION)) != generation {
        write(page, slot, generation, value, time_ns, failures);
        if failures.len() >= FAILURES {
            // There may have been more, and earlier ones.
            forget_older(page, slot);
        }
        page.bump32(f::H_DOORBELL);
        return;
    }
    let before = page.load64(slot.at(f::S_VALUE));
    for failure in failures {
        // Up to `before` the signaller recorded all; beyond, it may have died between entry and value.
        let new = failure.point > before && failure.point <= value;
        if new && !is_recorded(page, slot, failure.point) {
            record(page, slot, *failure);
        }
    }
    if value > before {
        page.store64(slot.at(f::S_TIME), time_ns);
        page.release64(slot.at(f::S_VALUE), value);
    }
    page.bump32(f::H_DOORBELL);
}

/// As [`settle`], for another signaller that goes on with the timeline.
pub fn level<P: Page>(page: &P, slot: Slot, generation: u32, value: u64, time_ns: u64, failures: &[Failure]) {
    if page.load32(slot.at(f::S_GENERATION)) == generation {
        for entry in 0..FAILURES {
            // Recorded by one that died before it signalled the point, which may end otherwise now.
            if page.load64(slot.failure_at(entry, f::F_POINT)) > value {
                page.store64(slot.failure_at(entry, f::F_POINT), 0);
            }
        }
    }
    settle(page, slot, generation, value, time_ns, failures);
}

/// Reads a slot as it is.
pub fn snapshot<P: Page>(page: &P, slot: Slot) -> SlotSnapshot {
    let generation = page.load32(slot.at(f::S_GENERATION));
    page.fence(Ordering::Acquire);
    let value = page.load64(slot.at(f::S_VALUE));
    page.fence(Ordering::Acquire);
    let mut failures: Vec<Failure> =
        (0..FAILURES).filter_map(|entry| read_entry(page, slot, entry)).collect();
    failures.sort_unstable_by_key(|failure| failure.point);
    SlotSnapshot {
        generation,
        value,
        time_ns: page.load64(slot.at(f::S_TIME)),
        failures,
        fail_count: page.load32(slot.at(f::S_FAIL_COUNT)),
        dead_from: page.load64(slot.at(f::S_DEAD_FROM)),
    }
}

/// The signaller's look after its store and a sequentially consistent fence.
#[inline]
pub(super) fn ring_if_wanted<P: Page, I: Page>(page: &P, interest: &I, slot: Slot, value: u64) -> Ring {
    let want = interest_in(interest, slot);
    if want == 0 || want > value {
        return Ring::Quiet;
    }
    page.bump32(f::H_DOORBELL);
    Ring::Wake
}

/// One look; nothing if it met a change and has to be repeated.
#[inline]
fn look<P: Page>(page: &P, slot: Slot, generation: u32, point: u64) -> Option<PointState> {
    let dead_from = page.load64(slot.at(f::S_DEAD_FROM));
    let death = page.load32(f::H_DEATH_CODE);
    page.fence(Ordering::Acquire);
    if dead_from != 0 && point >= dead_from {
        return Some(PointState::Failed {
            code: page.load32(slot.at(f::S_DEAD_CODE)),
            cause: page.load64(slot.at(f::S_DEAD_CAUSE)),
            time_ns: page.load64(slot.at(f::S_TIME)),
        });
    }
    let found = page.load32(slot.at(f::S_GENERATION));
    page.fence(Ordering::Acquire);
    if found != generation {
        let published = found != 0 && found.wrapping_sub(generation) < 1 << 31;
        return Some(if published { PointState::Overrun } else { unsignalled(page, death, 0) });
    }
    let value = page.load64(slot.at(f::S_VALUE));
    page.fence(Ordering::Acquire);
    let time_ns = page.load64(slot.at(f::S_TIME));
    let state = if value < point {
        unsignalled(page, death, time_ns)
    } else {
        how_it_ended(page, slot, point, time_ns)?
    };
    page.fence(Ordering::Acquire);
    // The slot went to another timeline meanwhile: what was read is a mixture.
    (page.load32(slot.at(f::S_GENERATION)) == generation).then_some(state)
}

/// A point that is not signalled is pending while its signaller lives.
fn unsignalled<P: Page>(page: &P, death: u32, time_ns: u64) -> PointState {
    if death == 0 {
        return PointState::Pending;
    }
    PointState::Failed { code: death, cause: page.load64(f::H_DEATH_CAUSE), time_ns }
}

/// How a signalled point ended, by the ring of failures; nothing if the ring moved meanwhile.
#[inline]
fn how_it_ended<P: Page>(page: &P, slot: Slot, point: u64, time_ns: u64) -> Option<PointState> {
    let count = page.load32(slot.at(f::S_FAIL_COUNT));
    if count == 0 {
        return Some(PointState::Ok { time_ns });
    }
    search_ring(page, slot, point, time_ns, count)
}

#[cold]
fn search_ring<P: Page>(page: &P, slot: Slot, point: u64, time_ns: u64, count: u32) -> Option<PointState> {
    page.fence(Ordering::Acquire);
    let mut oldest = u64::MAX;
    let mut first = None;
    for entry in 0..FAILURES {
        let Some(failure) = read_entry(page, slot, entry) else { continue };
        if failure.point == point {
            return Some(PointState::Failed { code: failure.code, cause: failure.cause, time_ns });
        }
        if entry == 0 {
            first = Some(failure.point);
        }
        oldest = oldest.min(failure.point);
    }
    page.fence(Ordering::Acquire);
    if page.load32(slot.at(f::S_FAIL_COUNT)) != count {
        return None;
    }
    // With the ring exactly full, the writer may be at work on its first entry, the oldest.
    let full = FAILURES as u64;
    let lost = u64::from(count) > full || (u64::from(count) == full && first != Some(oldest));
    let answerable = !lost || point >= oldest;
    Some(if answerable { PointState::Ok { time_ns } } else { PointState::Overrun })
}

/// An entry of the ring, whole; nothing if it is empty or being rewritten.
pub(super) fn read_entry<P: Page>(page: &P, slot: Slot, entry: usize) -> Option<Failure> {
    let point = page.load64(slot.failure_at(entry, f::F_POINT));
    if point == 0 {
        return None;
    }
    page.fence(Ordering::Acquire);
    let cause = page.load64(slot.failure_at(entry, f::F_CAUSE));
    let code = page.load32(slot.failure_at(entry, f::F_CODE));
    page.fence(Ordering::Acquire);
    let again = page.load64(slot.failure_at(entry, f::F_POINT));
    (again == point).then_some(Failure { point, code, cause })
}

fn is_recorded<P: Page>(page: &P, slot: Slot, point: u64) -> bool {
    (0..FAILURES).any(|entry| read_entry(page, slot, entry).is_some_and(|failure| failure.point == point))
}

/// Appends to the ring of failures.
#[cold]
pub(super) fn record<P: Page>(page: &P, slot: Slot, failure: Failure) {
    let count = page.load32(slot.at(f::S_FAIL_COUNT));
    let entry = usize::try_from(count).unwrap_or(0) % FAILURES;
    // A reader that finds the entry taken down also sees the count that the failure before it left.
    page.release64(slot.failure_at(entry, f::F_POINT), 0);
    // A reader that sees the new cause or code also sees that the entry was taken down.
    page.fence(Ordering::Release);
    page.store64(slot.failure_at(entry, f::F_CAUSE), failure.cause);
    page.store32(slot.failure_at(entry, f::F_CODE), failure.code);
    page.release64(slot.failure_at(entry, f::F_POINT), failure.point);
    // After 2^32 failures the count goes on at two full rings: the same entry, and never "none were lost".
    let next = count.checked_add(1).unwrap_or(COUNT_GOES_ON_AT);
    page.release32(slot.at(f::S_FAIL_COUNT), next);
}

/// Makes a ring say that failures older than its entries are lost. The next entry stays the same.
pub(super) fn forget_older<P: Page>(page: &P, slot: Slot) {
    let count = page.load32(slot.at(f::S_FAIL_COUNT));
    if count <= FULL {
        page.release32(slot.at(f::S_FAIL_COUNT), count + FULL);
    }
}
