//! Rings whose sender leaves its fences to the receiver, on cores that keep their stores to themselves for a while.
//!
//! Loom has no fence that one thread makes for another. So here is the least machine that has: each core has a buffer of
//! stores, of which the oldest becomes visible at any time; a load finds the core's own stores first; a fence empties the
//! core's buffer, a fence for all empties every one, and half a fence does nothing at all. That is how x86 is specified;
//! what else other processors may do is in `loom_ring.rs`. The code under test is `vgem_os::ring::protocol` itself.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::{Condvar, Mutex as Turnstile};
use shuttle::thread;
use vgem_os::ring::protocol::{Found, Lane, Page, Receiver, Rest, Ring, Sender};
use vgem_proto::user_queue::{Depth, with_sequence};

/// Most turns of a run. The client waits for the answers of a turn, so each has a last entry, which nobody rings for again.
const TURNS: u64 = 2;
/// Most entries of a turn: fewer in all than a ring has slots, so that nobody has to say what was reaped.
const MOST: u64 = 3;
const RUNS: usize = 16_000;
const CORES: usize = 2;

/// Memory, and the stores that each core has not let out yet.
#[derive(Default)]
struct Memory {
    words: HashMap<usize, u64>,
    buffers: [VecDeque<(usize, u64)>; CORES],
}

impl Memory {
    fn load(&self, core: usize, at: usize) -> u64 {
        let own = self.buffers[core].iter().rev().find(|(place, _)| *place == at);
        own.map_or_else(|| self.words.get(&at).copied().unwrap_or(0), |(_, value)| *value)
    }

    fn let_out(&mut self, core: usize) -> bool {
        let Some((at, value)) = self.buffers[core].pop_front() else { return false };
        self.words.insert(at, value);
        true
    }

    fn empty(&mut self, core: usize) {
        while self.let_out(core) {}
    }
}

/// Cores take turns before each access ([`Core::memory`]), never within one: the memory's lock is always free.
#[derive(Default)]
struct Machine {
    memory: Mutex<Memory>,
    sleepers: Turnstile<()>,
    bell: Condvar,
}

/// The machine as one core sees it.
struct Core {
    machine: Arc<Machine>,
    core: usize,
    /// One in so many looks at the memory lets out a store.
    holds_back: u32,
    /// It comes to the other core's turn before one in so many looks at the memory.
    stays: u32,
    heavy: Heavy,
}

/// What a core's fence for all does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heavy {
    /// What it says.
    Works,
    /// Nothing for other cores, and it does not tell.
    Lies,
    /// Nothing, now and then, and it tells.
    Fails,
}

impl Core {
    /// Some stores become visible, of any core, and then the memory.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        if thread_rng().gen_ratio(1, self.stays) {
            thread::yield_now();
        }
        let mut memory = self.machine.memory.lock().unwrap();
        for core in 0..CORES {
            while thread_rng().gen_ratio(1, self.holds_back) && memory.let_out(core) {}
        }
        memory
    }

    fn load(&self, at: usize) -> u64 {
        self.memory().load(self.core, at)
    }

    fn store(&self, at: usize, value: u64) {
        self.memory().buffers[self.core].push_back((at, value));
    }

    /// FUTEX_WAIT: a system call lets everything out.
    fn sleep(&self, at: usize, seen: u32) {
        let mut sleepers = self.machine.sleepers.lock().unwrap();
        self.memory().empty(self.core);
        while self.machine.memory.lock().unwrap().load(self.core, at) == u64::from(seen) {
            sleepers = self.machine.bell.wait(sleepers).unwrap();
        }
    }

    fn wake(&self) {
        self.memory().empty(self.core);
        let _sleepers = self.machine.sleepers.lock().unwrap();
        self.machine.bell.notify_all();
    }
}

impl Page for Core {
    fn load32(&self, at: usize) -> u32 {
        u32::try_from(self.load(at)).unwrap()
    }

    fn load64(&self, at: usize) -> u64 {
        self.load(at)
    }

    fn store32(&self, at: usize, value: u32) {
        self.store(at, value.into());
    }

    fn store64(&self, at: usize, value: u64) {
        self.store(at, value);
    }

    fn release32(&self, at: usize, value: u32) {
        self.store(at, value.into());
    }

    fn release64(&self, at: usize, value: u64) {
        self.store(at, value);
    }

    fn bump32(&self, at: usize) {
        let mut memory = self.memory();
        memory.empty(self.core);
        *memory.words.entry(at).or_default() += 1;
    }

    fn fence(&self, order: Ordering) {
        if order == Ordering::SeqCst {
            self.memory().empty(self.core);
        }
    }

    // The words of a slot beside its first: nobody looks at them between.
    fn load64s<const N: usize>(&self, at: usize, into: &mut [u64; N]) {
        let memory = self.memory();
        for (word, at) in into.iter_mut().zip((at..).step_by(8)) {
            *word = memory.load(self.core, at);
        }
    }

    fn store64s<const N: usize>(&self, at: usize, words: &[u64; N]) {
        let mut memory = self.memory();
        memory.buffers[self.core].extend((at..).step_by(8).zip(words.iter().copied()));
    }

    fn fence_light(&self) {}

    fn fence_heavy(&self) -> bool {
        let mut memory = self.memory();
        if self.heavy == Heavy::Fails && thread_rng().gen_ratio(1, 2) {
            return false;
        }
        for core in (0..CORES).filter(|core| self.heavy != Heavy::Lies || *core == self.core) {
            memory.empty(core);
        }
        true
    }
}

fn depth() -> Depth {
    Depth::new(8).unwrap()
}

/// One side: it sends in one lane and receives in the other, and leaves its fences to the other side as soon as it can.
struct Side<'a> {
    core: &'a Core,
    sender: Sender,
    receiver: Receiver,
}

impl<'a> Side<'a> {
    fn new(core: &'a Core, out: Lane, back: Lane) -> Self {
        let mut receiver = Receiver::new(back);
        if thread_rng().gen_ratio(3, 4) {
            receiver.offer_heavy(core);
        }
        Self { core, sender: Sender::new(out).light_after(1), receiver }
    }

    fn send(&mut self) {
        self.sender.put(self.core, &[7, self.sender.next(), 0, 0, 0, 0, 0, 0]);
        if self.sender.ring(self.core, || 0) == Ring::Wake {
            self.core.wake();
        }
        self.dawdle();
    }

    /// Waits for what comes next.
    fn receive(&mut self) {
        loop {
            let mut found = self.receiver.look(self.core);
            if found == Found::Nothing {
                let bedtime = self.receiver.fall_asleep(self.core);
                found = self.receiver.look(self.core);
                // Of a brief sleep it is no matter how it ends.
                if found == Found::Nothing && bedtime.rest == Rest::Rung {
                    self.core.sleep(self.receiver.lane().doorbell(), bedtime.seen);
                }
                self.receiver.wake_up(self.core);
            }
            match found {
                Found::Nothing => {}
                Found::Words(words) => {
                    let number = self.receiver.accept();
                    assert_eq!(words[..2], [with_sequence(7, number), number]);
                    return;
                }
                Found::Wrong(sequence) => panic!("sequence {sequence} at {}", self.receiver.next()),
            }
        }
    }

    fn dawdle(&self) {
        for _ in 0..thread_rng().gen_range(0..3) {
            thread::yield_now();
        }
    }
}

impl Drop for Side<'_> {
    /// The thread ends, or does something else: what it stored is let out at last.
    fn drop(&mut self) {
        self.core.memory().empty(self.core.core);
    }
}

fn client(core: &Core, turns: &[u64]) {
    let mut side = Side::new(core, Lane::submissions(depth()), Lane::completions(depth()));
    for entries in turns {
        (0..*entries).for_each(|_| side.send());
        (0..*entries).for_each(|_| side.receive());
        side.dawdle();
    }
}

fn driver(core: &Core, turns: &[u64]) {
    let mut side = Side::new(core, Lane::completions(depth()), Lane::submissions(depth()));
    for _ in 0..turns.iter().sum() {
        side.receive();
        side.send();
    }
}

/// Many runs. A wake-up that is lost is a side that sleeps for ever, which shuttle reports.
fn run(heavy: Heavy) {
    let once = move || {
        let machine = Arc::new(Machine::default());
        let one_of = |some: [u32; 3]| some[thread_rng().gen_range(0..3)];
        let holds_back = one_of([2, 16, 128]);
        let core =
            |core| Core { machine: Arc::clone(&machine), core, holds_back, stays: one_of([1, 4, 16]), heavy };
        let (here, there) = (core(0), core(1));
        let turns: Vec<u64> =
            (0..thread_rng().gen_range(1..=TURNS)).map(|_| thread_rng().gen_range(1..=MOST)).collect();
        let same = turns.clone();
        let driver = thread::spawn(move || driver(&there, &same));
        client(&here, &turns);
        driver.join().unwrap();
    };
    shuttle::check_random(once, RUNS);
}

// M-248
#[test]
fn no_wake_up_is_lost_where_the_receiver_makes_the_fence_of_both() {
    run(Heavy::Works);
}

// M-248
#[test]
fn no_wake_up_is_lost_where_the_system_makes_no_fence_for_both_any_more() {
    run(Heavy::Fails);
}

/// What the tests above find if there is something to find.
#[test]
fn a_wake_up_is_lost_where_the_receiver_makes_its_own_fence_only() {
    let lost = catch_unwind(AssertUnwindSafe(|| run(Heavy::Lies)));
    assert!(lost.is_err(), "{RUNS} runs lost no wake-up");
}
