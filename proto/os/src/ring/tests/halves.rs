//! What each half does, one claim at a time.

use vgem_proto::ids::Point;
use vgem_proto::user_queue::{EntryError, FaultReason, with_sequence};

use super::super::protocol::{Lane, Receiver, Ring, Sender};
use super::super::{Corruption, Over, PushError, Pushed, ReapError, Reason};
use super::*;
use crate::clock;
use crate::fence::Woke;
use crate::ring::protocol::{Found, Page, Rest};

// M-153
#[test]
fn an_entry_goes_there_and_its_completion_comes_back() {
    let mut rig = Rig::new(8);
    let pushed = rig.producer.push(&entry(5)).expect("there is room");
    assert_eq!(pushed, Pushed { point: Point(1), count: 1, woke: Woke::Nobody });
    let Popped { owed, entry: taken } = rig.pop();
    assert_eq!((owed.point(), taken), (Point(1), Ok(entry(5))));
    let done = Done { produced: 3, value: 4, ..Done::OK };
    assert_eq!(rig.completer.complete(owed, done, ENDED), Woke::Nobody);
    let (user, point, ended) = (5, Point(1), ENDED);
    let completion = Completion { user, point, produced: 3, value: 4, failure: None, address: 0, ended };
    assert_eq!(rig.reap(), completion);
    assert_eq!(rig.reaper.reap(), Ok(None));
}

#[test]
fn a_ring_goes_round_and_round() {
    let mut rig = Rig::new(8);
    for number in 1..=100 {
        let completion = rig.round(number);
        assert_eq!((completion.user, completion.point), (number, Point(number)));
    }
}

#[test]
fn completions_come_in_any_order_and_name_their_points() {
    let mut rig = Rig::new(8);
    rig.push_up_to(3);
    let owed: Vec<_> = (0..3).map(|_| rig.pop().owed).collect();
    for owed in owed.into_iter().rev() {
        rig.completer.complete(owed, Done::OK, ENDED);
    }
    let points: Vec<_> = (0..3).map(|_| rig.reap().point.0).collect();
    assert_eq!(points, [3, 2, 1]);
}

// M-156
#[test]
fn a_client_has_as_many_entries_under_way_as_the_queue_is_deep() {
    let mut rig = Rig::new(8);
    rig.push_up_to(8);
    let Popped { owed, .. } = rig.pop();
    rig.completer.complete(owed, Done::OK, ENDED);
    assert_eq!(rig.producer.push(&entry(9)), Err(PushError::Full));
    rig.reap();
    assert_eq!(rig.push(9), 9);
    assert_eq!(rig.producer.push(&entry(10)), Err(PushError::Full));
}

#[test]
fn of_many_entries_those_are_submitted_that_there_is_room_for() {
    let mut rig = Rig::new(8);
    let many: Vec<_> = (1..=12).map(entry).collect();
    let pushed = rig.producer.push_many(&many);
    assert_eq!(pushed, Ok(Pushed { point: Point(8), count: 8, woke: Woke::Nobody }));
    assert_eq!(rig.producer.push_many(&[]).map(|pushed| pushed.count), Ok(0));
    assert_eq!(rig.producer.push_many(&many), Err(PushError::Full));
    assert!((1..=8).all(|user| rig.pop().entry == Ok(entry(user))));
}

// M-160
#[test]
fn a_turn_takes_at_most_so_many() {
    let mut rig = Rig::new(8);
    rig.push_up_to(8);
    assert_eq!(rig.consumer.turn(3).count(), 3);
    assert_eq!(rig.consumer.turn(100).count(), 5);
    assert_eq!(rig.consumer.turn(100).count(), 0);
}

// M-152
#[test]
fn an_entry_that_makes_no_sense_completes_with_why_and_the_queue_goes_on() {
    let mut rig = Rig::new(8);
    rig.push(1);
    rig.change(1, 0, |word| word | 0x8000 << 16);
    let Popped { owed, entry: refused } = rig.pop();
    let why = refused.expect_err("an unknown flag");
    assert_eq!(why, EntryError::UnknownFlags(0x8000));
    rig.completer.refuse(owed, why, CauseId(77), ENDED);
    let completion = rig.reap();
    assert_eq!(completion.failure, Some(failure(ErrorCode::UnknownFlag)));
    assert_eq!((completion.user, completion.value), (1, 0x8000));
    assert_eq!(rig.round(2).failure, None);
}

// M-167
#[test]
fn an_address_that_cannot_be_reached_completes_with_it_and_why() {
    let mut rig = Rig::new(8);
    rig.push(1);
    let Popped { owed, .. } = rig.pop();
    rig.completer.complete(owed, Done::fault(0x2000, FaultReason::ReadOnly, CauseId(77)), ENDED);
    let completion = rig.reap();
    assert_eq!(completion.failure, Some(failure(ErrorCode::AddressFault)));
    assert_eq!(
        (completion.address, FaultReason::from_number(completion.value)),
        (0x2000, FaultReason::ReadOnly)
    );
    assert_eq!(rig.round(2).failure, None);
}

// M-161, M-162
#[test]
fn a_sequence_that_is_not_the_next_ends_the_ring_and_the_client_learns_which() {
    let mut rig = Rig::new(8);
    rig.push(1);
    rig.change(1, 0, |word| with_sequence(word, 6));
    let corruption = Corruption { reason: Reason::Sequence, at: Point(1), found: 6 };
    assert_eq!(rig.consumer.pop().err(), Some(corruption));
    rig.consumer.end(failure(ErrorCode::Malformed));
    let over = Over { failure: failure(ErrorCode::Malformed), corruption: Some(corruption) };
    assert_eq!(rig.reaper.reap(), Err(ReapError::Over(over)));
    assert_eq!(rig.producer.push(&entry(2)), Err(PushError::Over(over)));
}

#[test]
fn a_corrupt_ring_stays_corrupt_when_it_is_repaired() {
    let mut rig = Rig::new(8);
    rig.push(1);
    rig.change(1, 0, |word| with_sequence(word, 6));
    let found = rig.consumer.pop().err();
    rig.change(1, 0, |word| with_sequence(word, 1));
    assert!(found.is_some() && rig.consumer.pop().err() == found && rig.consumer.turn(9).count() == 1);
}

/// A client that submits more than it may, and says nothing or nonsense about what it reaped.
// M-161
#[test]
fn an_entry_without_credit_ends_the_ring() {
    for (reaped, good) in [(0, false), (1, true), (8, true), (9, false), (10, false), (u64::MAX, false)] {
        let mut rig = Rig::new(8);
        rig.push_up_to(8);
        assert_eq!(rig.consumer.turn(8).count(), 8);
        rig.ring.store64(u::C_REAPED, reaped);
        rig.change(9, 0, |word| with_sequence(word, 9));
        let corruption = Corruption { reason: Reason::Credit, at: Point(9), found: reaped };
        assert_eq!(rig.consumer.pop().err(), (!good).then_some(corruption), "{reaped}");
    }
}

#[test]
fn a_driver_that_ends_a_good_ring_takes_no_more_and_says_why() {
    let mut rig = Rig::new(8);
    rig.push(1);
    rig.consumer.end(failure(ErrorCode::Cancelled));
    assert!(rig.consumer.pop().is_ok_and(|popped| popped.is_none()));
    assert!(!rig.consumer.is_ready() && rig.consumer.fall_asleep().is_some());
    assert_eq!(rig.consumer.wait(clock::deadline_in(1)), Ok(false));
    let over = Over { failure: failure(ErrorCode::Cancelled), corruption: None };
    assert_eq!(rig.reaper.reap(), Err(ReapError::Over(over)));
}

// M-165
#[test]
fn what_was_taken_before_the_end_still_completes() {
    let mut rig = Rig::new(8);
    rig.push(1);
    let Popped { owed, .. } = rig.pop();
    rig.consumer.end(failure(ErrorCode::Cancelled));
    assert!(matches!(rig.reaper.reap(), Err(ReapError::Over(_))));
    rig.completer.complete(owed, Done::OK, ENDED);
    assert_eq!(rig.reap().point, Point(1));
    assert!(matches!(rig.reaper.reap(), Err(ReapError::Over(_))));
}

// M-163
#[test]
fn the_first_end_stands_and_the_brokers_verdict_comes_first() {
    let mut rig = Rig::new(8);
    rig.consumer.end(failure(ErrorCode::Cancelled));
    rig.consumer.end(failure(ErrorCode::Io));
    let said = |rig: &mut Rig| match rig.reaper.reap() {
        Err(ReapError::Over(over)) => over.failure.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&mut rig), ErrorCode::Cancelled);
    super::super::protocol::kill(&*rig.ring, failure(ErrorCode::DeviceLost));
    super::super::protocol::kill(&*rig.ring, failure(ErrorCode::Io));
    assert_eq!(said(&mut rig), ErrorCode::DeviceLost);
}

/// A completion of what was never submitted, or one more than there were entries.
// M-166
#[test]
fn a_driver_that_completes_what_was_not_submitted_is_found_out_for_good() {
    for point in [0, 2, u64::MAX] {
        let mut rig = Rig::new(8);
        rig.push(1);
        let mut forger = Sender::new(Lane::completions(rig.ring.depth()));
        forger.put(&*rig.ring, &[0, 0, point, 0, 0, 0, 0, 0]);
        let corruption = Corruption { reason: Reason::Unsubmitted, at: Point(1), found: point };
        assert_eq!(rig.reaper.reap(), Err(ReapError::Corrupt(corruption)));
        wipe(&rig.ring);
        assert_eq!(rig.reaper.reap(), Err(ReapError::Corrupt(corruption)));
    }
    let mut rig = Rig::new(8);
    rig.push(1);
    let mut forger = Sender::new(Lane::completions(rig.ring.depth()));
    for _ in 0..2 {
        forger.put(&*rig.ring, &[0, 0, 1, 0, 0, 0, 0, 0]);
    }
    assert_eq!(rig.reap().point, Point(1));
    assert!(matches!(rig.reaper.reap(), Err(ReapError::Corrupt(_))));
}

// M-155
#[test]
fn a_sleeping_driver_is_rung_for_once_per_sleep() {
    let mut rig = Rig::new(8);
    let woke = |rig: &mut Rig| rig.producer.push(&entry(1)).expect("there is room").woke;
    let asleep = rig.consumer.fall_asleep().expect("nothing is there");
    let (word, seen) = asleep.word();
    assert_eq!(rig.producer.push(&entry(1)).map(|pushed| pushed.woke), Ok(Woke::Sleeper));
    assert_eq!(rig.producer.push(&entry(2)).map(|pushed| pushed.woke), Ok(Woke::Nobody));
    assert_eq!(word.load(), seen + 1);
    drop(asleep);
    assert_eq!(woke(&mut rig), Woke::Nobody);
    assert_eq!(rig.consumer.turn(8).count(), 3);
    let asleep = rig.consumer.fall_asleep().expect("nothing is there");
    assert_eq!(rig.producer.push(&entry(4)).map(|pushed| pushed.woke), Ok(Woke::Sleeper));
    drop(asleep);
}

#[test]
fn nobody_falls_asleep_over_what_is_there() {
    let mut rig = Rig::new(8);
    rig.push(1);
    assert!(rig.consumer.fall_asleep().is_none());
    assert_eq!(rig.ring.load32(u::D_ASLEEP), 0);
    let Popped { owed, .. } = rig.pop();
    assert!(rig.reaper.fall_asleep().is_some());
    rig.completer.complete(owed, Done::OK, ENDED);
    assert!(rig.reaper.fall_asleep().is_none());
    rig.reap();
    rig.consumer.end(failure(ErrorCode::Cancelled));
    assert!(rig.reaper.fall_asleep().is_none());
    assert_eq!(rig.ring.load32(u::C_ASLEEP), 0);
}

// M-078
#[test]
fn a_wait_ends_at_its_deadline_and_says_that_it_is_awake() {
    let mut rig = Rig::new(8);
    assert_eq!(rig.consumer.wait(0), Ok(false));
    assert_eq!(rig.reaper.wait(0), Ok(None));
    let deadline_ns = clock::deadline_in(2_000_000);
    assert_eq!((rig.consumer.wait(deadline_ns), rig.reaper.wait(deadline_ns)), (Ok(false), Ok(None)));
    assert!(clock::now() >= deadline_ns);
    assert_eq!([u::C_ASLEEP, u::D_ASLEEP].map(|at| rig.ring.load32(at)), [0, 0]);
}

#[test]
fn whoever_sleeps_is_woken_there_and_back() {
    let Rig { ring: _, mut producer, mut reaper, mut consumer, mut completer } = Rig::new(8);
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    let patience_ns = clock::deadline_in(20_000_000_000);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..rounds {
                assert_eq!(consumer.wait(patience_ns), Ok(true));
                let Popped { owed, .. } = consumer.pop().expect("honest").expect("it is ready");
                completer.complete(owed, Done::OK, ENDED);
            }
        });
        for user in 1..=rounds {
            producer.push(&entry(user)).expect("one at a time");
            let completion = reaper.wait(patience_ns).expect("honest").expect("in time");
            assert_eq!((completion.user, completion.point), (user, Point(user)));
        }
    });
}

#[test]
fn a_sleeping_client_hears_of_the_end() {
    let Rig { ring: _, mut reaper, mut consumer, .. } = Rig::new(8);
    let patience_ns = clock::deadline_in(20_000_000_000);
    std::thread::scope(|threads| {
        let client = threads.spawn(|| reaper.wait(patience_ns));
        consumer.end(failure(ErrorCode::Cancelled));
        let over = Over { failure: failure(ErrorCode::Cancelled), corruption: None };
        assert_eq!(client.join().expect("no panic"), Err(ReapError::Over(over)));
    });
}

#[test]
fn the_hot_paths_allocate_nothing() {
    let mut rig = Rig::new(8);
    let allocated = allocation_counter::measure(|| {
        for user in 1..=50 {
            rig.push(user);
            let Popped { owed, entry } = rig.pop();
            match entry {
                Ok(_) => drop(rig.completer.complete(owed, Done::OK, ENDED)),
                Err(why) => rig.completer.refuse(owed, why, CauseId::NONE, ENDED),
            }
            rig.reap();
        }
        assert_eq!((rig.consumer.wait(1), rig.reaper.wait(1)), (Ok(false), Ok(None)));
    });
    assert_eq!(allocated.count_total, 0);
}

/// The low half of a number is all that a slot has of it: it comes round after 2^32 entries.
#[test]
fn a_sequence_that_comes_round_is_still_the_next_one() {
    let rig = Rig::new(8);
    let lane = Lane::submissions(rig.ring.depth());
    let first = (1_u64 << 32) - 20;
    let (mut sender, mut receiver) = (Sender::starting_at(lane, first), Receiver::starting_at(lane, first));
    for number in first - 8..first {
        rig.change(number, 0, |word| with_sequence(word, number));
    }
    for number in first..first + 40 {
        assert_eq!(receiver.look(&*rig.ring), Found::Nothing, "{number:#x}");
        assert_eq!(sender.put(&*rig.ring, &[0, number, 0, 0, 0, 0, 0, 0]), number);
        let Found::Words([_, mark, ..]) = receiver.look(&*rig.ring) else { panic!("{number:#x}") };
        assert_eq!((mark, receiver.accept()), (number, number));
    }
    assert_eq!(sender.ring(&*rig.ring, || 0), Ring::Quiet);
}

/// A ring whose system makes no fence for both, and how often it was asked.
struct Refusing<'a>(&'a MappedRing, std::cell::Cell<u32>);

impl Page for Refusing<'_> {
    fn load32(&self, at: usize) -> u32 {
        self.0.load32(at)
    }

    fn load64(&self, at: usize) -> u64 {
        self.0.load64(at)
    }

    fn store32(&self, at: usize, value: u32) {
        self.0.store32(at, value);
    }

    fn store64(&self, at: usize, value: u64) {
        self.0.store64(at, value);
    }

    fn release32(&self, at: usize, value: u32) {
        self.0.release32(at, value);
    }

    fn release64(&self, at: usize, value: u64) {
        self.0.release64(at, value);
    }

    fn bump32(&self, at: usize) {
        self.0.bump32(at);
    }

    fn fence(&self, order: std::sync::atomic::Ordering) {
        self.0.fence(order);
    }

    fn fence_heavy(&self) -> bool {
        self.1.set(self.1.get() + 1);
        false
    }
}

// M-248
#[test]
fn who_never_offered_the_fence_of_both_is_not_asked_for_it() {
    let mut rig = Rig::new(8);
    rig.ring.store32(u::C_LIGHT, 1);
    let memory = Refusing(&rig.ring, 0.into());
    let mut receiver = Receiver::new(Lane::submissions(rig.ring.depth()));
    assert_eq!((receiver.fall_asleep(&memory).rest, memory.1.get()), (Rest::Rung, 0));
    // Private memory never makes the offer.
    let asleep = rig.consumer.fall_asleep().expect("nothing is there");
    assert_eq!(asleep.until(u64::MAX), u64::MAX);
}

// M-248
#[test]
fn who_cannot_make_the_fence_of_both_any_more_says_so_once_and_sleeps_briefly_while_it_is_relied_on() {
    let rig = Rig::new(8);
    let memory = Refusing(&rig.ring, 0.into());
    let mut receiver = Receiver::new(Lane::submissions(rig.ring.depth()));
    receiver.offer_heavy(&memory);
    let offered = || rig.ring.load32(u::D_HEAVY);
    assert_eq!((receiver.fall_asleep(&memory).rest, memory.1.get(), offered()), (Rest::Rung, 0, 1));
    rig.ring.store32(u::C_LIGHT, 1);
    for _ in 0..2 {
        assert_eq!((receiver.fall_asleep(&memory).rest, memory.1.get(), offered()), (Rest::Brief, 1, 0));
    }
    rig.ring.store32(u::C_LIGHT, 0);
    assert_eq!(receiver.fall_asleep(&memory).rest, Rest::Rung);
}
