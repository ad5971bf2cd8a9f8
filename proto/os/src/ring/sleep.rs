//! Waiting for the next slot: spin for a moment if that paid lately, then sleep.
//!
//! Alone, or ([`Asleep`]) on several words at once: a driver sleeps on the doorbells of all its rings and on a word of its
//! own, a client also on those of fence pages.

use super::memory::MappedRing;
use super::protocol::{Bedtime, Receiver, Rest};
use crate::clock;
use crate::error::Result;
use crate::futex::{self, FutexWord};
use crate::spin::Spin;

/// How long a receiver sleeps that may not be rung for, nanoseconds.
const BRIEF_NS: u64 = 1_000_000;

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
        let asleep = Asleep::begin(ring, receiver);
        if let Some(found) = look(asleep.receiver) {
            return Ok(Some(found));
        }
        if began_ns >= deadline_ns || beside.is_some_and(|(word, seen)| word.load() != seen) {
            return Ok(None);
        }
        sleep(asleep.word(), beside, asleep.until(deadline_ns))?;
        drop(asleep);
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

/// A receiver that says it sleeps, until this goes. Sleep on [`Asleep::word`] meanwhile, no longer than [`Asleep::until`].
#[derive(Debug)]
#[must_use]
pub struct Asleep<'a> {
    ring: &'a MappedRing,
    receiver: &'a mut Receiver,
    bedtime: Bedtime,
}

impl<'a> Asleep<'a> {
    /// Says that `receiver` sleeps; look once more before sleeping.
    pub(super) fn begin(ring: &'a MappedRing, receiver: &'a mut Receiver) -> Self {
        let bedtime = receiver.fall_asleep(ring);
        Self { ring, receiver, bedtime }
    }

    /// As [`Asleep::begin`]; nothing if `look` finds that there is no need to sleep.
    pub(super) fn unless(
        ring: &'a MappedRing,
        receiver: &'a mut Receiver,
        look: impl FnOnce(&Receiver) -> bool,
    ) -> Option<Self> {
        let asleep = Self::begin(ring, receiver);
        if look(asleep.receiver) { None } else { Some(asleep) }
    }

    /// The word to sleep on and what it held, for [`futex::wait`] and [`futex::wait_any`].
    #[must_use]
    pub fn word(&self) -> (FutexWord<'a>, u32) {
        (self.ring.doorbell(self.receiver.lane()), self.bedtime.seen)
    }

    /// Until when to sleep at most, for what has to be done at `deadline_ns`: then look again. Sooner, if the other side may
    /// not ring.
    #[must_use]
    pub fn until(&self, deadline_ns: u64) -> u64 {
        match self.bedtime.rest {
            Rest::Rung => deadline_ns,
            Rest::Brief => deadline_ns.min(clock::deadline_in(BRIEF_NS)),
        }
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.receiver.wake_up(self.ring);
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::user_queue::Depth;

    use super::super::protocol::Lane;
    use super::*;

    // M-248
    #[test]
    fn who_may_not_be_rung_for_looks_again_soon() {
        let depth = Depth::new(8).expect("a depth");
        let ring = MappedRing::private(depth).expect("memory");
        let mut receiver = Receiver::new(Lane::submissions(depth));
        let mut until = |rest, deadline_ns| {
            let bedtime = Bedtime { seen: 0, rest };
            Asleep { ring: &ring, receiver: &mut receiver, bedtime }.until(deadline_ns)
        };
        assert_eq!(until(Rest::Rung, u64::MAX), u64::MAX);
        assert_eq!(until(Rest::Brief, 1), 1);
        assert!(until(Rest::Brief, u64::MAX) <= clock::deadline_in(BRIEF_NS));
    }
}
