//! The protocol of the two rings, over any memory that can load and store.
//!
//! Generic over [`Page`], as the protocol of fence pages is and for the same reason: the same code runs over mapped
//! memory and, in a model test, over loom's atomics. Both rings are a [`Lane`]; whoever writes one has a [`Sender`],
//! whoever reads it a [`Receiver`].
//!
//! **One line per entry.** The words of a slot are stored first and its first word last, with release; that word
//! carries the sequence. A receiver that finds the sequence it expects has acquired the rest. It expects one of two:
//! the one that was there a lap before, which is an empty slot, or the next one. Anything else is corruption.
//!
//! **No wake-up is lost.** The sender stores first and looks whether the receiver sleeps afterwards; the receiver says
//! that it sleeps first and looks at the slot afterwards:
//!
//! ```text
//!   sender                                  receiver
//!   words 1 to 7                            seen = doorbell
//!   word 0 with the sequence (Release)      asleep = the next ticket
//!   fence(SeqCst)                           fence(SeqCst)
//!   ticket = asleep                         look at the slot, and whether the ring is over
//!   not 0, and not rung for?                still nothing? sleep while doorbell == seen
//!     doorbell += 1, FUTEX_WAKE             asleep = 0
//! ```
//!
//! With a sequentially consistent fence on both sides at least one of the two looks sees the other's store.
//!
//! **A fence for two.** Most of what a put costs is its fence: it waits until the other core has given up the slot's line.
//! A sender that often found the receiver awake puts without one (its `LIGHT`), and a receiver that is about to sleep then
//! makes one for both ([`Page::fence_heavy`]: the kernel interrupts the core that the sender runs on). That costs a hundred
//! times as much, so a sender that finds the receiver asleep makes its own fences again, for as many looks as pay for one
//! such sleep. It says so before its first put without a fence, with a fence between; so either it sees a driver that
//! sleeps already, or the driver sees that it is to make the fence:
//!
//! ```text
//!   sender                                  receiver
//!   light = 1                               asleep = the next ticket
//!   fence(SeqCst)                           fence(SeqCst)
//!   words 1 to 7, word 0 (Release)          light? then a fence for both
//!   ticket = asleep                         look at the slot
//! ```
//!
//! A receiver that finds that the system makes no fence for both any more takes its offer back and, while the sender may
//! rely on it still, sleeps for a moment only ([`Rest::Brief`]). One that never made the offer does not look at `LIGHT`:
//! whoever sets it all the same has lost its own wake-ups and makes nobody do anything.
//!
//! A **ticket** is the number of a sleep, so that a sender rings once for each: a receiver that takes a while to wake
//! costs a sender that goes on submitting one system call, not one for every entry. Every sleep has a ticket of its
//! own, also that of a receiver that woke for nothing.
//!
//! **The end is seen.** The driver's state and the broker's verdict are stored before the doorbell of the completions
//! is rung, and it is rung whether somebody sleeps or not. A client looks at them only when the slot is empty, and then
//! at the slot once more: what was completed before the end is never lost behind it.
//!
//! Invariants: a lane has one sender and one receiver in its life; each alone knows where it is.

use std::sync::atomic::Ordering;

use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::{Depth, USER, Words, sequence, sequence_of, with_sequence};

use super::{Corruption, Over, Reason};
pub use crate::fence::protocol::{Page, Ring};

/// Where one of the two rings is, and the words that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    slots: usize,
    depth: u32,
    doorbell: usize,
    rang: usize,
    asleep: usize,
    halves: Halves,
}

/// The words by which two agree that the receiver makes the fence of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Halves {
    light: usize,
    heavy: usize,
}

impl Lane {
    /// The ring from the client to the driver.
    #[must_use]
    pub const fn submissions(depth: Depth) -> Self {
        let (doorbell, rang, asleep) = (u::C_DOORBELL, u::C_RANG, u::D_ASLEEP);
        let halves = Halves { light: u::C_LIGHT, heavy: u::D_HEAVY };
        Self { slots: u::SUBMISSIONS, depth: depth.entries(), doorbell, rang, asleep, halves }
    }

    /// The ring from the driver to the client.
    #[must_use]
    pub const fn completions(depth: Depth) -> Self {
        let (doorbell, rang, asleep) = (u::D_DOORBELL, u::D_RANG, u::C_ASLEEP);
        let slots = u::completions(depth.entries());
        let halves = Halves { light: u::D_LIGHT, heavy: u::C_HEAVY };
        Self { slots, depth: depth.entries(), doorbell, rang, asleep, halves }
    }

    /// The word that its receiver sleeps on: bytes from the start of the memory.
    #[must_use]
    pub const fn doorbell(&self) -> usize {
        self.doorbell
    }

    /// When its sender last rang, nanoseconds. A claim.
    #[must_use]
    pub fn rang_at<M: Page>(&self, memory: &M) -> u64 {
        memory.load64(self.rang)
    }

    /// Where the slot of a number is: bytes from the start of the memory.
    #[must_use]
    #[inline]
    pub const fn slot(&self, number: u64) -> usize {
        // A depth is a power of two, and an index below it fits.
        let index = sequence(number.wrapping_sub(1)) & (self.depth - 1);
        self.slots + index as usize * u::SLOT_LEN
    }

    /// The sequence that the slot of a number has while it is empty.
    #[inline]
    const fn sequence_before(&self, number: u64) -> u32 {
        if number > self.depth as u64 { sequence(number - self.depth as u64) } else { 0 }
    }
}

/// How many slots before its turn a sender asks for a slot's line: the other core has it, and a sender that has to wait for
/// it waits at its fence. Of a ring that is not deeper it is the slot itself, or one that is put soon.
const AHEAD: u64 = 16;

/// So many looks in a row that find the receiver awake have cost in fences what a fence for two does.
pub const LIGHT_AFTER: u32 = 256;

/// The writing end of a lane.
#[derive(Debug)]
pub struct Sender {
    lane: Lane,
    next: u64,
    rung: u32,
    /// Looks in a row that find the receiver awake before this leaves its fences to it; nothing if it never does.
    light_after: Option<u32>,
    /// How many of them there were.
    awake: u32,
    light: bool,
}

impl Sender {
    /// The end of a lane into which nothing was put yet.
    #[must_use]
    pub const fn new(lane: Lane) -> Self {
        Self { lane, next: 1, rung: 0, light_after: None, awake: 0, light: false }
    }

    /// The same, of a process whose fences others can make ([`Page::fence_heavy`]): after so many looks in a row that find
    /// the receiver awake they are left to it, if it says that it makes them.
    #[must_use]
    pub const fn light_after(mut self, looks: u32) -> Self {
        self.light_after = Some(looks);
        self
    }

    /// The end of a lane into which much was put: for tests, which cannot put 2^32 things.
    #[cfg(test)]
    pub(super) const fn starting_at(lane: Lane, next: u64) -> Self {
        Self { next, ..Self::new(lane) }
    }

    /// The number of what is put next; the first is 1.
    #[must_use]
    #[inline]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Its lane.
    #[must_use]
    pub const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Puts words into the next slot, which the caller knows to be free. Returns their number. Wakes nobody:
    /// [`Sender::ring`] comes after the last of several.
    #[inline]
    pub fn put<M: Page>(&mut self, memory: &M, words: &Words) -> u64 {
        self.put_for(memory, words, words[USER])
    }

    /// As [`Sender::put`], with another word of whoever puts it: the words need not be copied to have it changed.
    // M-151
    #[inline]
    pub fn put_for<M: Page>(&mut self, memory: &M, words: &Words, user: u64) -> u64 {
        let number = self.next;
        let at = self.lane.slot(number);
        memory.expect_store(self.lane.slot(number.wrapping_add(AHEAD)));
        let [first, _, rest @ ..] = words;
        memory.store64(at + 8 * USER, user);
        memory.store64s(at + 16, rest);
        memory.release64(at, with_sequence(*first, number));
        self.next = number.wrapping_add(1);
        number
    }

    /// Looks whether the receiver sleeps, and rings if nobody rang for that sleep: then wake one sleeper of the
    /// doorbell. `now` is asked only then.
    // M-154, M-155, M-248
    #[inline]
    pub fn ring<M: Page>(&mut self, memory: &M, now: impl FnOnce() -> u64) -> Ring {
        if self.light {
            memory.fence_light()
        } else {
            memory.fence(Ordering::SeqCst)
        }
        let ticket = memory.load32(self.lane.asleep);
        if ticket == 0 {
            if !self.light {
                self.found_awake(memory);
            }
            return Ring::Quiet;
        }
        if ticket == self.rung {
            return Ring::Quiet;
        }
        self.found_asleep(memory);
        self.rung = ticket;
        memory.store64(self.lane.rang, now());
        memory.bump32(self.lane.doorbell);
        Ring::Wake
    }

    #[inline]
    fn found_awake<M: Page>(&mut self, memory: &M) {
        self.awake = self.awake.saturating_add(1);
        if self.light_after == Some(self.awake) {
            self.lighten(memory);
        }
    }

    /// Leaves the fences to the receiver from now on, if it makes them.
    #[cold]
    fn lighten<M: Page>(&mut self, memory: &M) {
        if memory.load32(self.lane.halves.heavy) != 0 {
            memory.store32(self.lane.halves.light, 1);
            memory.fence(Ordering::SeqCst);
            self.light = true;
        }
    }

    /// Makes its own fences from now on. A receiver that has not seen that yet makes one too many.
    #[inline]
    fn found_asleep<M: Page>(&mut self, memory: &M) {
        self.awake = 0;
        if self.light {
            memory.store32(self.lane.halves.light, 0);
            self.light = false;
        }
    }
}

/// What a receiver found in the next slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is empty.
    Nothing,
    /// A private copy of its words.
    Words(Words),
    /// A sequence that is neither the last nor the next one.
    Wrong(u32),
}

/// How a receiver may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Until it is rung for.
    Rung,
    /// For a moment: somebody may put something and not see that it sleeps.
    Brief,
}

/// What a receiver knows that is about to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Bedtime {
    /// The doorbell as it was before: sleep while it is that.
    pub seen: u32,
    /// How it may sleep.
    pub rest: Rest,
}

/// Whether a receiver makes the fence of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heavy {
    /// It never said that it does.
    Never,
    Offered,
    /// It cannot any more.
    TakenBack,
}

/// The reading end of a lane.
#[derive(Debug)]
pub struct Receiver {
    lane: Lane,
    next: u64,
    ticket: u32,
    heavy: Heavy,
}

impl Receiver {
    /// The end of a lane from which nothing was taken yet.
    #[must_use]
    pub const fn new(lane: Lane) -> Self {
        Self { lane, next: 1, ticket: 0, heavy: Heavy::Never }
    }

    /// The end of a lane from which much was taken: for tests.
    #[cfg(test)]
    pub(super) const fn starting_at(lane: Lane, next: u64) -> Self {
        Self { next, ..Self::new(lane) }
    }

    /// The number of what is taken next; the first is 1.
    #[must_use]
    #[inline]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Its lane.
    #[must_use]
    pub const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Reads the next slot: every word once. [`Receiver::accept`] goes on to the one after.
    // M-150
    #[inline]
    pub fn look<M: Page>(&self, memory: &M) -> Found {
        let at = self.lane.slot(self.next);
        let first = memory.load64(at);
        let found = sequence_of(first);
        if found != sequence(self.next) {
            let empty = found == self.lane.sequence_before(self.next);
            return if empty { Found::Nothing } else { Found::Wrong(found) };
        }
        memory.fence(Ordering::Acquire);
        let mut words = [first; u::SLOT_WORDS];
        let [_, rest @ ..] = &mut words;
        memory.load64s(at + 8, rest);
        Found::Words(words)
    }

    /// As [`Receiver::look`], for a client: an empty slot of a ring that is over will stay empty.
    ///
    /// # Errors
    /// [`Over`], if there is nothing in the slot.
    // M-165
    #[inline]
    pub fn look_until_over<M: Page>(&self, memory: &M) -> Result<Found, Over> {
        let found = self.look(memory);
        if found != Found::Nothing {
            return Ok(found);
        }
        let Some(over) = over(memory) else { return Ok(Found::Nothing) };
        // What was completed before the end was stored before it, and acquired with it.
        match self.look(memory) {
            Found::Nothing => Err(over),
            found => Ok(found),
        }
    }

    /// Whether there is something in the next slot, good or not.
    #[must_use]
    #[inline]
    pub fn is_ready<M: Page>(&self, memory: &M) -> bool {
        let found = sequence_of(memory.load64(self.lane.slot(self.next)));
        found != self.lane.sequence_before(self.next)
    }

    /// Takes what was looked at; returns its number.
    #[inline]
    pub fn accept(&mut self) -> u64 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }

    /// What was found, as a corruption of the ring.
    #[must_use]
    pub const fn corrupt(&self, reason: Reason, found: u64) -> Corruption {
        Corruption { reason, at: Point(self.next), found }
    }

    /// Says that it makes a fence for both before it sleeps, for a sender that asks for it ([`Page::fence_heavy`]).
    pub fn offer_heavy<M: Page>(&mut self, memory: &M) {
        self.heavy = Heavy::Offered;
        memory.store32(self.lane.halves.heavy, 1);
    }

    /// Says that the receiver is about to sleep: look once more, then sleep while the doorbell is what was seen of it, then
    /// [`Receiver::wake_up`].
    // M-154, M-248
    #[inline]
    pub fn fall_asleep<M: Page>(&mut self, memory: &M) -> Bedtime {
        let seen = memory.load32(self.lane.doorbell);
        self.ticket = self.ticket.checked_add(1).unwrap_or(1);
        memory.store32(self.lane.asleep, self.ticket);
        memory.fence(Ordering::SeqCst);
        let light = self.heavy != Heavy::Never && memory.load32(self.lane.halves.light) != 0;
        let rest = if light { self.fence_both(memory) } else { Rest::Rung };
        Bedtime { seen, rest }
    }

    #[cold]
    fn fence_both<M: Page>(&mut self, memory: &M) -> Rest {
        if self.heavy == Heavy::Offered {
            if memory.fence_heavy() {
                return Rest::Rung;
            }
            self.heavy = Heavy::TakenBack;
            memory.store32(self.lane.halves.heavy, 0);
        }
        Rest::Brief
    }

    /// Says that the receiver is awake.
    #[inline]
    pub fn wake_up<M: Page>(&self, memory: &M) {
        memory.store32(self.lane.asleep, 0);
    }
}

/// The driver takes no more from the ring; the first end stands. Rings the doorbell of the completions: wake the
/// sleeper of it.
// M-162
pub fn end<M: Page>(memory: &M, over: Over, now: u64) {
    if memory.load32(u::D_STATE) == 0 {
        let (reason, at, found) = over.corruption.map_or((0, 0, 0), |c| (c.reason.number(), c.at.0, c.found));
        memory.store32(u::D_REASON, reason);
        memory.store64(u::D_AT, at);
        memory.store64(u::D_FOUND, found);
        memory.store64(u::D_CAUSE, over.failure.cause.0);
        memory.release32(u::D_STATE, over.failure.code.number().max(1));
    }
    memory.store64(u::D_RANG, now);
    memory.bump32(u::D_DOORBELL);
}

/// The broker's verdict: the driver is dead, or the queue is over; the first one stands. Rings the doorbell of the
/// completions: wake the sleeper of it.
// M-163
pub fn kill<M: Page>(memory: &M, failure: Failure) {
    if memory.load32(u::B_DEATH_CODE) == 0 {
        memory.store64(u::B_DEATH_CAUSE, failure.cause.0);
        memory.release32(u::B_DEATH_CODE, failure.code.number().max(1));
    }
    memory.bump32(u::D_DOORBELL);
}

/// Whether and why the ring is over. The broker's verdict comes first.
#[inline]
pub fn over<M: Page>(memory: &M) -> Option<Over> {
    let (death, state) = (memory.load32(u::B_DEATH_CODE), memory.load32(u::D_STATE));
    if death == 0 && state == 0 { None } else { Some(why(memory, death, state)) }
}

#[cold]
fn why<M: Page>(memory: &M, death: u32, state: u32) -> Over {
    memory.fence(Ordering::Acquire);
    if death != 0 {
        let cause = CauseId(memory.load64(u::B_DEATH_CAUSE));
        return Over { failure: Failure { code: ErrorCode::from_number(death), cause }, corruption: None };
    }
    let cause = CauseId(memory.load64(u::D_CAUSE));
    let corruption = match memory.load32(u::D_REASON) {
        0 => None,
        reason => Some(Corruption {
            reason: Reason::from_number(reason),
            at: Point(memory.load64(u::D_AT)),
            found: memory.load64(u::D_FOUND),
        }),
    };
    Over { failure: Failure { code: ErrorCode::from_number(state), cause }, corruption }
}
