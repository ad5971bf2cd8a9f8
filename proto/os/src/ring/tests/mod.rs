//! The four halves of a ring in private memory. None of this needs a file, so an interpreter can run all of it.

mod halves;
mod hostile;
mod model;

use std::sync::Arc;

use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Time};
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::{Arguments, Call, Completion, Depth, Entry, Order, VaRange, Work};

use super::memory::MappedRing;
use super::protocol::Page as _;
use super::{Completer, Consumer, Done, Popped, Producer, Reaper, client, driver};

/// The moment at which everything here ends.
const ENDED: Time = Time(1234);

/// A ring, and what both sides hold of it.
struct Rig {
    ring: Arc<MappedRing>,
    producer: Producer,
    reaper: Reaper,
    consumer: Consumer,
    completer: Completer,
}

impl Rig {
    fn new(depth: u32) -> Self {
        let depth = Depth::new(depth).expect("a depth");
        Self::of(Arc::new(MappedRing::private(depth).expect("memory")))
    }

    /// New halves for memory that was used before.
    fn of(ring: Arc<MappedRing>) -> Self {
        let (producer, reaper) = client::halves(&ring);
        let (consumer, completer) = driver::halves(&ring);
        Self { ring, producer, reaper, consumer, completer }
    }

    /// Submits an entry; returns its point.
    fn push(&mut self, user: u64) -> u64 {
        self.producer.push(&entry(user)).expect("there is room").point.0
    }

    /// Submits entries with the numbers 1 to `last`.
    fn push_up_to(&mut self, last: u64) {
        for user in 1..=last {
            self.push(user);
        }
    }

    fn pop(&mut self) -> Popped {
        self.consumer.pop().expect("an honest client").expect("an entry")
    }

    fn reap(&mut self) -> Completion {
        self.reaper.reap().expect("an honest driver").expect("a completion")
    }

    /// One entry, there and back.
    fn round(&mut self, user: u64) -> Completion {
        self.push(user);
        let Popped { owed, .. } = self.pop();
        self.completer.complete(owed, Done::OK, ENDED);
        self.reap()
    }

    /// Changes a word of an entry's slot behind everybody's back.
    fn change(&self, number: u64, word: usize, change: impl FnOnce(u64) -> u64) {
        let at = super::protocol::Lane::submissions(self.ring.depth()).slot(number) + 8 * word;
        self.ring.store64(at, change(self.ring.load64(at)));
    }
}

/// A copy with a number of its own.
fn entry(user: u64) -> Entry {
    let range = |address| VaRange::new(address, 64).ok();
    let call = Call { op: 0, operands: [range(0x1000), range(0x2000)], arguments: Arguments::NONE };
    Entry { user, order: Order::empty(), work: Work::Call(call) }
}

fn failure(code: ErrorCode) -> Failure {
    Failure { code, cause: CauseId(77) }
}

/// Makes the memory of a ring what it was at first.
fn wipe(ring: &MappedRing) {
    for at in (0..ring.depth().memory_len()).step_by(8).filter(|at| *at > u::H_DEPTH) {
        overwrite(ring, at, 0);
    }
}

/// Writes 8 bytes, in words of the sizes that this memory has: others may be at work on them.
fn overwrite(ring: &MappedRing, at: usize, value: u64) {
    const HALVES: [usize; 6] =
        [u::C_DOORBELL, u::C_LIGHT, u::D_DOORBELL, u::D_STATE, u::D_LIGHT, u::B_DEATH_CODE];
    if HALVES.contains(&at) {
        ring.store32(at, (value & 0xffff_ffff) as u32);
        ring.store32(at + 4, (value >> 32) as u32);
    } else {
        ring.store64(at, value);
    }
}
