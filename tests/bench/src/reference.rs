//! The references: four bare mechanisms that every repetition measures before anything else.
//!
//! They say what the machine was like just then: a null system call, a cache line there and back (near or far), a
//! futex and a SEQPACKET packet there and back between two processes. Benches whose ratio is taken against one of
//! them measure it again in turns with vgemd; these here are for the reader.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::floor::{FlagEcho, Packets};
use crate::harness::{Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::sample::Times;

/// The series of a null system call.
pub const NULL_SYSCALL: &str = "null system call";
/// The series of a cache line there and back.
pub const CACHE_LINE: &str = "cache line there and back";
/// The series of a futex round trip.
pub const FUTEX: &str = "futex round trip";
/// The series of a SEQPACKET round trip.
pub const SEQPACKET: &str = "SEQPACKET round trip, 64 B";

/// The other ends.
#[derive(Debug)]
pub struct References {
    cores: Cores,
    rounds: usize,
    packets: Packets,
    futexes: FlagEcho,
}

impl References {
    /// Starts the other ends.
    ///
    /// # Errors
    /// When a process, a socket or a page cannot be had.
    pub fn open(context: &Context<'_>) -> anyhow::Result<Self> {
        let rounds = context.options.rounds(2000);
        let cores = context.power.cores;
        Ok(Self { cores, rounds, packets: Packets::start()?, futexes: FlagEcho::start()? })
    }

    /// Measures all of them.
    ///
    /// # Errors
    /// When another end is gone.
    pub fn measure(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        let mut null = Times::default();
        null.batches(50, 200, || {
            std::hint::black_box(rustix::process::getppid());
            anyhow::Ok(())
        })?;
        found.times(NULL_SYSCALL, null);
        if self.cores.are_two() {
            found.times(CACHE_LINE, cache_line(&self.cores, self.rounds * 20)?);
        }
        self.futexes.seat(&self.cores, Seat::There)?;
        self.packets.seat(&self.cores, Seat::There)?;
        let (mut futex, mut packet) = (Times::default(), Times::default());
        for _ in 0..4 {
            futex.each(self.rounds / 4, || self.futexes.round_trip())?;
            packet.each(self.rounds / 4, || self.packets.round_trip())?;
        }
        found.times(FUTEX, futex);
        found.times(SEQPACKET, packet);
        self.cores.sit(Seat::Anywhere)
    }
}

/// A word on its own cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// A cache line there and back between the two cores, both spinning.
fn cache_line(cores: &Cores, rounds: usize) -> anyhow::Result<Times> {
    let (out, back) = (Line::default(), Line::default());
    let warm_up = rounds / 10;
    let last = (rounds + warm_up) as u64;
    std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            let seated = cores.sit(Seat::There);
            for number in 1..=last {
                while out.0.load(Ordering::Acquire) != number {
                    std::hint::spin_loop();
                }
                back.0.store(number, Ordering::Release);
            }
            seated
        });
        let mut number = 0;
        let mut there_and_back = || {
            number += 1;
            out.0.store(number, Ordering::Release);
            while back.0.load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
            anyhow::Ok(())
        };
        for _ in 0..warm_up {
            there_and_back()?;
        }
        // One trip is a few looks at the clock: take them ten at a time.
        let mut times = Times::default();
        times.batches(rounds / 10, 10, there_and_back)?;
        let finished = rounds / 10 * 10 + warm_up;
        out_run(&out, &back, finished as u64, last);
        other.join().unwrap_or_else(|_| anyhow::bail!("the other thread panicked"))?;
        Ok(times)
    })
}

/// Plays the trips that batches left over, so that the other thread ends.
fn out_run(out: &Line, back: &Line, finished: u64, last: u64) {
    for number in finished + 1..=last {
        out.0.store(number, Ordering::Release);
        while back.0.load(Ordering::Acquire) != number {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_line_comes_back_also_when_rounds_are_no_multiple_of_ten() {
        let cores = Cores::of_this_process().expect("a process runs somewhere");
        let times = std::thread::spawn(move || cache_line(&cores, 25)).join().expect("no panic");
        let found = times.expect("measured").distribution().expect("two batches");
        assert_eq!(found.count, 2);
    }
}
