//! What an entry costs.

use vgem_os::ring::within_process;

use super::*;
use crate::schedule::Points;
use crate::user::space::AddressSpace;

/// A worker that the test itself calls, and the client's halves.
fn by_hand(rig: &mut Rig) -> (Worker<Tester>, Halves, Producer, Reaper) {
    let (producer, reaper, consumer, completer) =
        within_process(Depth::new(64).expect("a depth")).expect("memory");
    let desk = Arc::new(Desk::new(Os));
    let given = (rig.open(OTHER), Points::OfRing);
    let mut space = AddressSpace::default();
    let addresses = VaRange::new(BASE, LEN).expect("addresses");
    let (mapping, access) = (Arc::clone(&rig.memory), Access::Write);
    let range = BoundRange { addresses, object: DATA, offset: 0, access, foreign: false, mapping };
    space.bind(range).expect("free");
    desk.post(|mail| mail.space = Some(Arc::new(space)));
    let worker = Worker::new(Arc::clone(&rig.instance), given, desk, Arc::new(()), Default::default());
    (worker, Halves { consumer, completer }, producer, reaper)
}

#[test]
fn an_entry_allocates_nothing_from_the_ring_to_its_completion() {
    let (mut rig, _client) = Rig::new();
    let cell = VaOperand { address: BASE + 0x800, len: 64, cell: 0, number: 2, cell_word: 0, reserved: Zero };
    let arguments = rig.block(BASE + 0x400, &[cell], &[]);
    let with_block = entry(Work::Call(call(op::COPY, [Some((BASE, 64)), Some((BASE + 64, 64))], arguments)));
    let words = copy(BASE, BASE + 64, 64).encode().map(u64::to_le_bytes).concat();
    rig.put(BASE + 0x1000, &words);
    let batch = entry(Work::Batch(Batch::new(BASE + 0x1000, 1).expect("a batch")));
    let (mut worker, mut halves, mut producer, mut reaper) = by_hand(&mut rig);
    let (mut submitted, mut ended) = (0, 0);
    let mut rounds = |count| {
        for _ in 0..count {
            let entries = [copy(BASE, BASE + 64, 64), with_block, batch];
            submitted += producer.push_many(&entries).expect("there is room").count;
            assert_eq!(worker.turn(&mut halves), Ok(true));
            while let Some(done) = reaper.reap().expect("an honest driver") {
                assert_eq!((done.failure, done.produced > 0), (None, true));
                ended += 1;
            }
        }
    };
    rounds(2);
    let cost = allocation_counter::measure(|| rounds(100));
    assert_eq!((cost.count_total, ended), (0, submitted));
    assert!(submitted > 250);
}

#[test]
fn a_turn_ends_also_if_there_is_more_to_take() {
    let (mut rig, _client) = Rig::new();
    let (mut worker, mut halves, mut producer, mut reaper) = by_hand(&mut rig);
    producer.push_many(&[good(); 60]).expect("there is room");
    assert_eq!(worker.turn(&mut halves), Ok(true));
    let done = std::iter::from_fn(|| reaper.reap().expect("an honest driver")).count();
    assert_eq!(done, worker::TURN);
}

#[test]
fn a_few_tiny_entries_end_together_and_none_waits_for_one_that_is_not_there() {
    let (mut rig, _client) = Rig::new();
    let (mut worker, mut halves, mut producer, mut reaper) = by_hand(&mut rig);
    let long = copy(BASE, BASE + 2048, 1024);
    let mut ends = |entries: &[Entry]| {
        producer.push_many(entries).expect("there is room");
        assert_eq!(worker.turn(&mut halves), Ok(true));
        let ends = std::iter::from_fn(|| reaper.reap().expect("an honest driver")).map(|done| done.ended.0);
        ends.collect::<Vec<_>>()
    };
    let tiny = copy(BASE, BASE + 64, 64);
    assert_eq!(ends(&[tiny]).len(), 1);
    let all = ends(&[tiny; 7]);
    let [first, together @ .., last] = &all[..] else { panic!("seven entries") };
    let (one, other) = together.split_at(4);
    assert!(one.iter().all(|end| *end == one[0]) && *other == [*last], "{all:?}");
    assert!(*first < one[0] && one[0] < *last, "{all:?}");
    let [a, b, c, d] = ends(&[tiny, long, tiny, long])[..] else { panic!("four entries") };
    assert!(a < b && b < c && c < d, "what is long ends alone: {a}, {b}, {c}, {d}");
}
