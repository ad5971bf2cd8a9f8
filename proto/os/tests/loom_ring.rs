//! The protocol of a user queue's rings under every interleaving that loom can make.
//!
//! The code under test is `vgem_os::ring::protocol` and `vgem_os::ring::credit` themselves, over loom's atomics instead
//! of mapped memory.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

#[path = "support/loom_model.rs"]
mod loom_model;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;
use vgem_os::ring::credit::{ClientCredit, DriverCredit};
use vgem_os::ring::protocol::{self, Found, Lane, Page, Receiver, Ring, Sender};
use vgem_os::ring::{Corruption, Over, Reason};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::{Depth, Words, with_sequence};

use loom_model::{Model, explore};

fn depth() -> Depth {
    Depth::new(8).unwrap()
}

fn submissions() -> Lane {
    Lane::submissions(depth())
}

fn completions() -> Lane {
    Lane::completions(depth())
}

/// The words of the header, and the first two of some slots.
trait RingMemory {
    /// With the slots of these entries and these completions.
    fn with(entries: &[u64], completed: &[u64]) -> Arc<Self>;
    fn sleep(&self, lane: &Lane, seen: u32);
    fn wake(&self, lane: &Lane, ring: Ring);
}

impl RingMemory for Model {
    fn with(entries: &[u64], completed: &[u64]) -> Arc<Self> {
        let mut words: Vec<usize> = vec![u::C_REAPED, u::D_CAUSE, u::D_AT, u::D_FOUND, u::B_DEATH_CAUSE];
        let slots = entries.iter().map(|number| submissions().slot(*number));
        for at in slots.chain(completed.iter().map(|number| completions().slot(*number))) {
            words.extend([at, at + 8]);
        }
        let bells = [u::C_DOORBELL, u::D_DOORBELL];
        let halves = [u::C_ASLEEP, u::D_ASLEEP, u::D_STATE, u::D_REASON, u::B_DEATH_CODE];
        let halves: Vec<usize> = bells.into_iter().chain(halves).collect();
        Arc::new(Self::of(&words, &halves, &bells))
    }

    fn sleep(&self, lane: &Lane, seen: u32) {
        self.sleep_on(lane.doorbell(), seen);
    }

    fn wake(&self, lane: &Lane, ring: Ring) {
        if ring == Ring::Wake {
            self.wake_on(lane.doorbell());
        }
    }
}

/// The memory as one sees it who has not ended the ring yet, and knows that without looking.
///
/// Loom leaves out stale reads of a word by others when the writer loads the word before its store, as an end does;
/// without this it would miss a store that should have been a release.
struct NotYetOver<'a>(&'a Model);

impl Page for NotYetOver<'_> {
    fn load32(&self, at: usize) -> u32 {
        if at == u::D_STATE || at == u::B_DEATH_CODE { 0 } else { self.0.load32(at) }
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

    fn fence(&self, order: Ordering) {
        self.0.fence(order);
    }
}

/// What is put as number `number`.
fn marked(number: u64) -> Words {
    [7, number, 0, 0, 0, 0, 0, 0]
}

/// What is found of it.
fn found(number: u64) -> Words {
    [with_sequence(7, number), number, 0, 0, 0, 0, 0, 0]
}

fn push(memory: &Model, sender: &mut Sender) {
    let words = marked(sender.next());
    sender.put(memory, &words);
    let ring = sender.ring(memory, || 0);
    memory.wake(sender.lane(), ring);
}

/// The loop of a driver that has nothing else to do.
fn take(memory: &Model, receiver: &mut Receiver) -> Words {
    loop {
        let seen = receiver.fall_asleep(memory).seen;
        let found = receiver.look(memory);
        if found == Found::Nothing {
            memory.sleep(receiver.lane(), seen);
        }
        receiver.wake_up(memory);
        match found {
            Found::Nothing => {}
            Found::Words(words) => {
                receiver.accept();
                return words;
            }
            Found::Wrong(sequence) => panic!("sequence {sequence} at {}", receiver.next()),
        }
    }
}

/// The loop of a client that waits for a completion.
fn reap(memory: &Model, receiver: &mut Receiver) -> Result<Words, Over> {
    loop {
        let seen = receiver.fall_asleep(memory).seen;
        let found = receiver.look_until_over(memory);
        if found == Ok(Found::Nothing) {
            memory.sleep(receiver.lane(), seen);
        }
        receiver.wake_up(memory);
        match found? {
            Found::Nothing => {}
            Found::Words(words) => {
                receiver.accept();
                return Ok(words);
            }
            Found::Wrong(sequence) => panic!("sequence {sequence} at {}", receiver.next()),
        }
    }
}

fn over() -> Over {
    let failure = Failure { code: ErrorCode::Malformed, cause: CauseId(99) };
    let corruption = Corruption { reason: Reason::Credit, at: Point(5), found: 3 };
    Over { failure, corruption: Some(corruption) }
}

fn end(memory: &Model) {
    protocol::end(&NotYetOver(memory), over(), 0);
    memory.wake(&completions(), Ring::Wake);
}

fn kill(memory: &Model) {
    protocol::kill(&NotYetOver(memory), over().failure);
    memory.wake(&completions(), Ring::Wake);
}

// M-154
#[test]
fn no_wake_up_of_a_driver_is_lost() {
    explore(3, || {
        let memory = Model::with(&[1], &[]);
        let theirs = Arc::clone(&memory);
        let client = thread::spawn(move || push(&theirs, &mut Sender::new(submissions())));
        assert_eq!(take(&memory, &mut Receiver::new(submissions())), found(1));
        client.join().unwrap();
    });
}

// M-155
#[test]
fn ringing_once_per_sleep_loses_no_wake_up() {
    explore(3, || {
        let memory = Model::with(&[1, 2], &[]);
        let theirs = Arc::clone(&memory);
        let client = thread::spawn(move || {
            let mut sender = Sender::new(submissions());
            push(&theirs, &mut sender);
            push(&theirs, &mut sender);
        });
        let mut receiver = Receiver::new(submissions());
        assert_eq!([1, 2].map(|_| take(&memory, &mut receiver)), [1, 2].map(found));
        client.join().unwrap();
    });
}

#[test]
fn one_ring_after_several_puts_loses_no_wake_up() {
    explore(3, || {
        let memory = Model::with(&[1, 2], &[]);
        let theirs = Arc::clone(&memory);
        let client = thread::spawn(move || {
            let mut sender = Sender::new(submissions());
            sender.put(&*theirs, &marked(1));
            push(&theirs, &mut sender);
        });
        let mut receiver = Receiver::new(submissions());
        assert_eq!([1, 2].map(|_| take(&memory, &mut receiver)), [1, 2].map(found));
        client.join().unwrap();
    });
}

/// Both sleep, each for the other.
#[test]
fn no_wake_up_is_lost_there_and_back() {
    explore(2, || {
        let memory = Model::with(&[1, 2], &[1, 2]);
        let theirs = Arc::clone(&memory);
        let driver = thread::spawn(move || {
            let (mut receiver, mut sender) = (Receiver::new(submissions()), Sender::new(completions()));
            for number in [1, 2] {
                assert_eq!(take(&theirs, &mut receiver), found(number));
                push(&theirs, &mut sender);
            }
        });
        let (mut sender, mut receiver) = (Sender::new(submissions()), Receiver::new(completions()));
        for number in [1, 2] {
            push(&memory, &mut sender);
            assert_eq!(reap(&memory, &mut receiver), Ok(found(number)));
        }
        driver.join().unwrap();
    });
}

/// A ring of eight entries is full. The ninth takes the slot of the first as soon as that is reaped, while the driver may
/// still be anywhere: it never finds the ninth where it looks for the first, half of either, or a client without credit.
// M-150, M-156
#[test]
fn a_slot_that_is_used_again_is_never_read_as_what_it_was() {
    explore(2, || {
        let memory = Model::with(&[1, 2], &[1]);
        let mut sender = Sender::new(submissions());
        for _ in 1..=8 {
            let words = marked(sender.next());
            sender.put(&*memory, &words);
        }
        let theirs = Arc::clone(&memory);
        let driver = thread::spawn(move || {
            let mut receiver = Receiver::new(submissions());
            assert_eq!(take(&theirs, &mut receiver), found(1));
            push(&theirs, &mut Sender::new(completions()));
            // As if it had taken those between, which the model does not have.
            assert_eq!((2..=8).map(|_| receiver.accept()).last(), Some(8));
            let mut credit = DriverCredit::new(depth());
            assert_eq!(take(&theirs, &mut receiver), found(9));
            assert_eq!(credit.check(&*theirs, 9), Ok(()));
        });
        let mut credit = ClientCredit::new(depth());
        assert_eq!(credit.room(&*memory, 9, 1, || 0), 0);
        let mut receiver = Receiver::new(completions());
        assert_eq!(reap(&memory, &mut receiver), Ok(found(1)));
        assert_eq!(credit.room(&*memory, 9, 1, || 1), 1);
        push(&memory, &mut sender);
        driver.join().unwrap();
    });
}

// M-162
#[test]
fn a_client_that_sleeps_hears_that_the_driver_ended_the_ring_and_all_of_why() {
    explore(3, || {
        let memory = Model::with(&[], &[1]);
        let theirs = Arc::clone(&memory);
        let driver = thread::spawn(move || end(&theirs));
        assert_eq!(reap(&memory, &mut Receiver::new(completions())), Err(over()));
        driver.join().unwrap();
    });
}

// M-163
#[test]
fn a_client_that_sleeps_hears_of_the_death_of_its_driver() {
    explore(3, || {
        let memory = Model::with(&[], &[1]);
        let theirs = Arc::clone(&memory);
        let broker = thread::spawn(move || kill(&theirs));
        let said = Over { corruption: None, ..over() };
        assert_eq!(reap(&memory, &mut Receiver::new(completions())), Err(said));
        broker.join().unwrap();
    });
}

// M-165
#[test]
fn what_was_completed_before_the_end_is_reaped_before_it() {
    explore(3, || {
        let memory = Model::with(&[], &[1, 2]);
        let theirs = Arc::clone(&memory);
        let driver = thread::spawn(move || {
            push(&theirs, &mut Sender::new(completions()));
            end(&theirs);
        });
        let mut receiver = Receiver::new(completions());
        assert_eq!(reap(&memory, &mut receiver), Ok(found(1)));
        assert_eq!(reap(&memory, &mut receiver), Err(over()));
        driver.join().unwrap();
    });
}

#[test]
fn a_verdict_and_a_completion_at_once_lose_neither() {
    explore(2, || {
        let memory = Model::with(&[], &[1, 2]);
        let (theirs, brokers) = (Arc::clone(&memory), Arc::clone(&memory));
        let driver = thread::spawn(move || push(&theirs, &mut Sender::new(completions())));
        let broker = thread::spawn(move || kill(&brokers));
        let mut receiver = Receiver::new(completions());
        let first = reap(&memory, &mut receiver);
        driver.join().unwrap();
        broker.join().unwrap();
        let said = Over { corruption: None, ..over() };
        let rest = if first.is_ok() { Err(said) } else { Ok(found(1)) };
        assert_eq!(reap(&memory, &mut receiver), rest);
    });
}
