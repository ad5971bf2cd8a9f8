//! A ring of slots by hand: 64 bytes each, with a sequence number in the slot, one who puts and one who takes.
//!
//! The fastest way from one core to another: one cache line moves per entry, and nobody checks, fails or sleeps. Two
//! threads, because no process boundary makes a difference to a cache line.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};

use vgem_os::clock;

use crate::machine::{Cores, Seat};

/// Slots of a ring.
const DEPTH: usize = 256;
/// How many are taken before whoever puts is told.
const TOLD_EVERY: u64 = 64;

/// A number on a cache line of its own; two lines, because processors fetch pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot([AtomicU64; 8]);

#[derive(Debug)]
struct Slots {
    slots: Vec<Slot>,
    taken: Line,
}

impl Slots {
    fn new() -> Self {
        Self { slots: (0..DEPTH).map(|_| Slot::default()).collect(), taken: Line::default() }
    }

    #[inline]
    fn slot(&self, number: u64) -> &Slot {
        &self.slots[usize::try_from(number).unwrap_or_default() % DEPTH]
    }

    #[inline]
    fn put(&self, number: u64, taken: &mut u64) {
        while number - *taken >= DEPTH as u64 {
            *taken = self.taken.0.load(Ordering::Acquire);
            spin_loop();
        }
        let [first, rest @ ..] = &self.slot(number).0;
        for (word, place) in (number..).zip(rest) {
            place.store(word, Ordering::Relaxed);
        }
        first.store(number + 1, Ordering::Release);
    }

    #[inline]
    fn take(&self, number: u64) -> u64 {
        let [first, rest @ ..] = &self.slot(number).0;
        while first.load(Ordering::Acquire) != number + 1 {
            spin_loop();
        }
        let sum = rest.iter().fold(0, |sum: u64, word| sum.wrapping_add(word.load(Ordering::Relaxed)));
        if (number + 1).is_multiple_of(TOLD_EVERY) {
            self.taken.0.store(number + 1, Ordering::Release);
        }
        sum
    }
}

/// Puts `count` entries here that are taken there; what it took, nanoseconds.
///
/// # Errors
/// When a thread cannot be seated.
pub fn one_way(cores: &Cores, count: u64) -> anyhow::Result<u64> {
    let (ring, done) = (Slots::new(), Line::default());
    let taker = |done: &Line| {
        black_box((0..count).fold(0, |sum: u64, number| sum.wrapping_add(ring.take(number))));
        done.0.store(1, Ordering::Release);
    };
    beside(
        cores,
        || taker(&done),
        || {
            let mut taken = 0;
            (0..count).for_each(|number| ring.put(number, &mut taken));
            while done.0.load(Ordering::Acquire) == 0 {
                spin_loop();
            }
        },
    )
}

/// The same with an answer to each entry in a second ring, as a user queue has it.
///
/// # Errors
/// As [`one_way`].
pub fn there_and_back(cores: &Cores, count: u64) -> anyhow::Result<u64> {
    let (there, back) = (Slots::new(), Slots::new());
    let answer = || {
        let mut taken = 0;
        for number in 0..count {
            black_box(there.take(number));
            back.put(number, &mut taken);
        }
    };
    beside(cores, answer, || {
        let (mut taken, mut answered) = (0, 0);
        for number in 0..count {
            while number - answered >= DEPTH as u64 - 1 {
                black_box(back.take(answered));
                answered += 1;
            }
            there.put(number, &mut taken);
        }
        (answered..count).for_each(|number| {
            black_box(back.take(number));
        });
    })
}

/// Runs one side there and the other here; what the one here took, nanoseconds.
fn beside(cores: &Cores, there: impl FnOnce() + Send, here: impl FnOnce()) -> anyhow::Result<u64> {
    cores.sit(Seat::Here)?;
    std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            let seated = cores.sit(Seat::There);
            there();
            seated
        });
        let before = clock::now();
        here();
        let spent = clock::now() - before;
        other.join().unwrap_or_else(|_| anyhow::bail!("the other thread panicked"))?;
        Ok(spent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_put_is_taken_and_answered_laps_after_the_first() {
        let cores = Cores::of_this_process().expect("a process runs somewhere");
        let count = 3 * DEPTH as u64 + 1;
        let spent = std::thread::spawn(move || [one_way(&cores, count), there_and_back(&cores, count)]);
        for spent in spent.join().expect("no panic") {
            assert!(spent.expect("measured") > 0);
        }
    }
}
