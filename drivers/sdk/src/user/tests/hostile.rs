//! A client that writes whatever it likes, into its ring, its blocks and its arrays, while its entries run.

use std::os::fd::AsFd as _;

use vgem_os::futex;
use vgem_os::mapping::{Populate, SpanMut};
use vgem_os::ring::PushError;
use vgem_proto::layout::user_queue as u;

use super::*;
use crate::testing::{Random, flip};

/// Rings that are broken, each by itself, beside one that is not.
const ROUNDS: u64 = 30;

/// Entries of every kind, with addresses and numbers good and bad.
fn any_entry(random: &mut Random) -> Entry {
    let address = |random: &mut Random| match random.below(8) {
        0 => 1 + random.number() / 2,
        1 => BASE + LEN - random.below(64) as u64,
        _ => BASE + 8 * random.below(0x1f00) as u64,
    };
    let range = |random: &mut Random| {
        let (at, len) = (address(random), random.below(300) as u64);
        VaRange::new(at, len).ok().map(|range| (range.address(), range.len()))
    };
    let order = Order::from_bits_truncate(u16::try_from(random.below(4)).expect("small"));
    let work = match random.below(4) {
        0 => match Batch::new(address(random) & !7, 1 + random.below(256) as u64) {
            Ok(batch) => Work::Batch(batch),
            Err(_) => good().work,
        },
        kind => {
            let op = [op::COPY, op::COPY, op::FAIL, op::NONE][random.below(4)];
            let block = VaRange::new(address(random), 8 + random.below(1000) as u64);
            let arguments = match block {
                Ok(block) if kind == 1 => Arguments::Block(block),
                _ => Arguments::NONE,
            };
            Work::Call(call(op, [range(random), range(random)], arguments))
        }
    };
    Entry { user: random.number(), order, work }
}

/// Writes nonsense over the ring's words until told to stop; rings the doorbell as fast as it can.
fn scribble(ring: SpanMut<'_>, data: SpanMut<'_>, over: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    let bell = futex::SharedWord::of(ring, u::C_DOORBELL).expect("a word");
    let words = ring.len() / 8;
    while !over.load(Ordering::Relaxed) {
        match random.below(400) {
            0 => ring.write_u64(8 * random.below(words), random.number()).expect("inside"),
            1..60 => {
                let word = u::SUBMISSIONS + 64 * random.below(64) + 8 * (1 + random.below(7));
                ring.write_u64(word, random.number()).expect("inside");
            }
            60..200 => flip(data, &mut random),
            _ => {
                bell.atomic().fetch_add(1, Ordering::Relaxed);
                futex::wake(bell.futex(), 1).expect("it is mapped");
            }
        }
    }
}

/// Ends the scribbler, also when the test fails: its scope waits for it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// M-150, M-160
#[test]
fn t35_t36_t40_whatever_a_client_writes_its_instance_and_other_queues_go_on() {
    let (mut rig, mut honest) = Rig::new();
    let hostile_memory = Arc::new(Mapping::anonymous(0x1_0000).expect("memory"));
    for round in 1..=ROUNDS {
        let key = TimelineKey { index: 1, generation: u32::try_from(round).expect("few") };
        let mut hostile = rig.attach(key);
        assert_eq!(rig.rings.bind(&bind(key), Some(Arc::clone(&hostile_memory))), Ok(()));
        let fd = hostile.keeper.export().expect("an fd");
        let ring =
            Mapping::map(fd.as_fd(), hostile.keeper.depth().memory_len(), Access::Write, Populate::Now);
        let (ring, over) = (ring.expect("a mapping"), AtomicBool::new(false));
        std::thread::scope(|threads| {
            let (ring, data) =
                (ring.span_mut().expect("writable"), hostile_memory.span_mut().expect("writable"));
            let over = &over;
            threads.spawn(move || scribble(ring, data, over, round));
            let _ends = Ends(over);
            let mut random = Random::new(round);
            for _ in 0..300 {
                match hostile.producer.push(&any_entry(&mut random)) {
                    Ok(_) | Err(PushError::Full) => {}
                    Err(PushError::Over(_)) => break,
                }
                if random.below(3) > 0 {
                    // What it finds is its own business.
                    let _reaped = hostile.reaper.reap().is_ok();
                }
                if random.below(20) == 0 {
                    assert_eq!(code(&honest.run_one(good())), None);
                    drop(rig.heard());
                }
            }
            rig.closes(key);
        });
        assert_eq!(code(&honest.run_one(good())), None);
    }
    assert_eq!(Arc::strong_count(&hostile_memory), 1);
}

#[test]
fn a_client_that_never_reaps_has_its_entries_done_and_is_stopped_at_the_depth() {
    let (rig, mut client) = Rig::new();
    let pushed = client.producer.push_many(&[good(); 100]).expect("there is room");
    assert_eq!((pushed.count, client.producer.push(&good())), (64, Err(PushError::Full)));
    wait_for(|| rig.ran() == 64);
    assert_eq!(client.reap().point, Point(1));
}
