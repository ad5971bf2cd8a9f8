//! Both sides against a peer that scribbles over the whole memory while they look.
//!
//! A second thread writes: mostly what a peer of ill will would (the right sequence and nonsense beside it, words changed
//! between two looks), and now and then anything anywhere. So the reader gets far, and is betrayed there. Nothing may
//! panic; whatever is handed out is right in itself and is the copy that was judged; what is wrong is wrong for good.
//!
//! `VGEM_RING_FUZZ` is how many entries, and how many completions, are taken: a few in a test run, ten million with
//! `cargo xtask fuzz ring`.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vgem_proto::user_queue::with_sequence;

use super::super::KeeperRing;
use super::super::protocol::Lane;
use super::*;
use crate::mapping::Populate;

/// The words by which both sides agree who makes a fence.
const AGREED: [usize; 4] = [u::C_LIGHT, u::C_HEAVY, u::D_LIGHT, u::D_HEAVY];

/// Entries or completions that are taken where nobody says how many.
const USUAL: u64 = if cfg!(miri) { 60 } else { 10_000 };

fn wanted() -> u64 {
    let said = std::env::var("VGEM_RING_FUZZ").ok();
    said.map_or(USUAL, |said| said.parse().expect("VGEM_RING_FUZZ is a number"))
}

/// xorshift64*: chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number as protocols dislike them, or any.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.below(300),
            4 => (1 << 32) - 1 + self.below(3),
            _ => self.next(),
        }
    }
}

/// Scribbles over `ring` until `over`. `at` is what the other side takes next in `lane`.
fn scribble(ring: &MappedRing, lane: Lane, at: &AtomicU64, over: &AtomicBool, seed: u64) {
    let mut chance = Chance(seed);
    let words = ring.depth().memory_len() as u64 / 8;
    while !over.load(Ordering::Relaxed) {
        let next = at.load(Ordering::Relaxed);
        let slot = lane.slot(next + chance.below(3));
        match chance.below(400) {
            0 => overwrite(ring, place(8 * chance.below(words)), chance.number()),
            1 => ring.store64(slot, chance.number()),
            2 => ring.store64(u::C_REAPED, chance.number()),
            3 => ring.store32(u::D_ASLEEP, (chance.number() & 0xffff_ffff) as u32),
            4 => ring.store64(u::C_REAPED, next.saturating_sub(chance.below(12))),
            5..12 => ring.store32(AGREED[place(chance.below(4))], u32::from(chance.below(2) == 0)),
            12..100 => ring.store64(slot + 8 + 8 * place(chance.below(7)), chance.number()),
            _ => plausible(ring, lane, next, next + chance.below(8), &mut chance),
        }
    }
}

/// What a good peer could write as `number` when the other is at `next`, nearly; its credit is told first.
fn plausible(ring: &MappedRing, lane: Lane, next: u64, number: u64, chance: &mut Chance) {
    let (slot, completions) = (lane.slot(number), u::completions(ring.depth().entries()));
    ring.store64(u::C_REAPED, next - 1);
    // Of an entry the address of an operand, of a completion the point; both are looked at.
    let second = if slot < completions { 0x1000 } else { 1 + chance.below(next) };
    let good = [chance.next(), second, chance.below(1 << 20), 0x2000, chance.below(1 << 20), 0, 0];
    for (word, good) in good.into_iter().enumerate() {
        let bad = chance.below(40) == 0;
        ring.store64(slot + 8 + 8 * word, if bad { chance.number() } else { good });
    }
    let flags = if chance.below(4) == 0 { chance.below(32) } else { 0 };
    ring.release64(slot, with_sequence(chance.below(8) | flags << 16, number));
}

#[expect(clippy::cast_possible_truncation, reason = "an offset in memory of a few hundred KiB")]
fn place(at: u64) -> usize {
    at as usize
}

/// Memory of which both sides make the fences of each other, where there are such fences.
fn memory(depth: Depth) -> MappedRing {
    if cfg!(miri) {
        return MappedRing::private(depth).expect("memory");
    }
    let keeper = KeeperRing::create(depth).expect("memory");
    MappedRing::map(keeper.export().expect("a descriptor").as_fd(), Populate::Now).expect("a ring")
}

/// What a fuzzed half has done.
#[derive(Debug, Default)]
struct Tally {
    good: u64,
    refused: u64,
    corrupt: u64,
    /// Found out after more than a lap.
    deep: u64,
}

impl Tally {
    fn taken(&self) -> u64 {
        self.good + self.refused
    }
}

/// Runs `round` over and over on wiped memory beside a scribbler, until it has taken what is wanted.
fn fuzz(lane: fn(Depth) -> Lane, mut round: impl FnMut(Rig, &AtomicU64, &mut Tally, u64)) -> Tally {
    let depth = Depth::new(8).expect("a depth");
    let ring = Arc::new(memory(depth));
    let (at, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let (mut tally, wanted) = (Tally::default(), wanted());
    std::thread::scope(|threads| {
        threads.spawn(|| scribble(&ring, lane(depth), &at, &over, 0x9e37_79b9_7f4a_7c15));
        while tally.taken() < wanted {
            at.store(1, Ordering::Relaxed);
            wipe(&ring);
            round(Rig::of(Arc::clone(&ring)), &at, &mut tally, wanted);
        }
        over.store(true, Ordering::Relaxed);
    });
    // Shown by `cargo xtask fuzz`.
    eprintln!("{tally:?}");
    tally
}

// M-160, M-161
#[test]
fn a_client_that_scribbles_over_everything_gets_answers_or_an_end_and_nothing_else() {
    let tally = fuzz(Lane::submissions, |rig, at, tally, wanted| {
        let Rig { mut consumer, mut completer, .. } = rig;
        let mut expected = 1;
        while tally.taken() < wanted {
            let mut seen = 0;
            for popped in consumer.turn(4) {
                let Ok(Popped { owed, entry }) = popped else {
                    assert!(consumer.pop().is_err(), "corrupt for good");
                    tally.corrupt += 1;
                    tally.deep += u64::from(expected > 9);
                    return;
                };
                assert_eq!(owed.point().0, expected);
                expected += 1;
                at.store(expected, Ordering::Relaxed);
                seen += 1;
                match entry {
                    Ok(entry) => {
                        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
                        tally.good += 1;
                        completer.complete(owed, Done::OK, ENDED);
                    }
                    Err(why) => {
                        assert!(why.code().number() < 64, "a refusal");
                        tally.refused += 1;
                        completer.refuse(owed, why, CauseId::NONE, ENDED);
                    }
                }
            }
            assert!(seen <= 4);
            if seen == 0 {
                drop(consumer.fall_asleep());
                std::thread::yield_now();
            }
        }
    });
    assert!(cfg!(miri) || (tally.good > 0 && tally.refused > 0 && tally.deep > 0), "{tally:?}");
}

// M-166
#[test]
fn a_driver_that_scribbles_over_everything_completes_only_what_was_submitted() {
    let tally = fuzz(Lane::completions, |rig, at, tally, wanted| {
        let Rig { mut producer, mut reaper, .. } = rig;
        let mut submitted = 0;
        while tally.taken() < wanted {
            if let Ok(pushed) = producer.push(&entry(submitted)) {
                submitted = pushed.point.0;
            }
            match reaper.reap() {
                Ok(Some(completion)) => {
                    assert!((1..=submitted).contains(&completion.point.0));
                    assert!(reaper.reaped() <= submitted);
                    let failed = completion.failure.is_some();
                    *(if failed { &mut tally.refused } else { &mut tally.good }) += 1;
                    at.store(reaper.reaped() + 1, Ordering::Relaxed);
                }
                Ok(None) => {
                    drop(reaper.fall_asleep());
                    std::thread::yield_now();
                }
                Err(_) => {
                    tally.corrupt += 1;
                    tally.deep += u64::from(reaper.reaped() > 8);
                    return;
                }
            }
        }
    });
    assert!(cfg!(miri) || tally.corrupt > 0, "{tally:?}");
}
