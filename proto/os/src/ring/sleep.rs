//! Waiting for the next slot: spin for a moment if that paid lately, then sleep.
//!
//! Alone, or ([`Asleep`]) on several words at once: a driver sleeps on the doorbells of all its rings and on a word of its
//! own, a client also on those of fence pages.

use super::memory::MappedRing;
use super::protocol::Receiver;
use crate::clock;
use crate::error::Result;
use crate::futex::{self, FutexWord};
use crate::spin::Spin;

/// A word, and what was seen of it.
type Seen<'a> = (FutexWord<'a>, u32);

/// Waits until `look` finds something, until `deadline_ns`, or until the word `beside` is not what was seen of it.
// M-078
pub(super) fn wait<T>(
    ring: &MappedRing,
    receiver: &mut Receiver,
    spin: &Spin,
    deadline_ns: u64,
    beside: Option<Seen<'_>>,
    mut look: impl FnMut(&mut Receiver) -> Option<T>,
) -> Result<Option<T>> {
    if let Some(found) = look(receiver) {
        return Ok(Some(found));
    }
    if deadline_ns == 0 {
        return Ok(None);
    }
    if let Some(found) = spin.turn(|| look(receiver)) {
        return Ok(Some(found));
    }
    loop {
        let began_ns = clock::now();
        let over = || began_ns >= deadline_ns || beside.is_some_and(|(word, seen)| word.load() != seen);
        if let Some(asleep) = Asleep::begin(ring, receiver) {
            if let Some(found) = look(asleep.receiver) {
                return Ok(Some(found));
            }
            if over() {
                return Ok(None);
            }
            sleep(asleep.word(), beside, deadline_ns)?;
        } else if over() {
            return Ok(None);
        }
        if let Some(found) = look(receiver) {
            spin.slept(began_ns, receiver.lane().rang_at(ring));
            return Ok(Some(found));
        }
    }
}

fn sleep(bell: Seen<'_>, beside: Option<Seen<'_>>, deadline_ns: u64) -> Result<()> {
    match beside {
        None => futex::wait(bell.0, bell.1, deadline_ns).map(drop),
        Some(beside) => futex::wait_any(&[bell, beside], deadline_ns).map(drop),
    }
}

/// A receiver that says it sleeps, until this goes. Sleep on [`Asleep::word`] meanwhile.
#[derive(Debug)]
#[must_use]
pub struct Asleep<'a> {
    ring: &'a MappedRing,
    receiver: &'a mut Receiver,
    seen: u32,
}

impl<'a> Asleep<'a> {
    /// Says that `receiver` sleeps; look once more before sleeping. Nothing if it must stay awake for now, and look again.
    pub(super) fn begin(ring: &'a MappedRing, receiver: &'a mut Receiver) -> Option<Self> {
        if let Some(seen) = receiver.fall_asleep(ring) {
            return Some(Self { ring, receiver, seen });
        }
        receiver.wake_up(ring);
        None
    }

    /// As [`Asleep::begin`]; nothing also if `look` finds that there is no need to sleep.
    pub(super) fn unless(
        ring: &'a MappedRing,
        receiver: &'a mut Receiver,
        look: impl FnOnce(&Receiver) -> bool,
    ) -> Option<Self> {
        Self::begin(ring, receiver).filter(|asleep| !look(asleep.receiver))
    }

    /// The word to sleep on and what it held, for [`futex::wait`] and [`futex::wait_any`].
    #[must_use]
    pub fn word(&self) -> (FutexWord<'a>, u32) {
        (self.ring.doorbell(self.receiver.lane()), self.seen)
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.receiver.wake_up(self.ring);
    }
}
