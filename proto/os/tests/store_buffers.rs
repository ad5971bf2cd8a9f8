//! Rings whose sender leaves its fences to the receiver, on cores that keep their stores to themselves for a while.
//!
//! Loom has no fence that one thread makes for another. So here is the least machine that has: each core has a buffer of
//! stores, of which the oldest becomes visible at any time; a load finds the core's own stores first; a fence empties the
//! core's buffer, a fence for all empties every one, and half a fence does nothing at all. That is how x86 is specified;
//! what else other processors may do is in `loom_ring.rs`. The code under test is `vgem_os::ring::protocol` itself.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::{Condvar, Mutex, MutexGuard};
use shuttle::thread;
use vgem_os::ring::protocol::{Found, Lane, Page, Receiver, Ring, Sender};
use vgem_proto::user_queue::{Depth, with_sequence};

/// Most entries of a run: few, for it is the last one that nobody rings for again. Nobody has to reap.
const MOST: u64 = 4;
const RUNS: usize = 10_000;
const CORES: usize = 2;

/// Memory, and the stores that each core has not let out yet.
#[derive(Default)]
struct Memory {
    words: HashMap<usize, u64>,
    buffers: [VecDeque<(usize, u64)>; CORES],
}

impl Memory {
    fn let_out(&mut self, core: usize) -> bool {
        let Some((at, value)) = self.buffers[core].pop_front() else { return false };
        self.words.insert(at, value);
        true
    }

    fn empty(&mut self, core: usize) {
        while self.let_out(core) {}
    }
}

#[derive(Default)]
struct Machine {
    memory: Mutex<Memory>,
    bell: Condvar,
}

/// The machine as one core sees it.
struct Core {
    machine: Arc<Machine>,
    core: usize,
    /// One in so many looks at the memory lets out a store.
    holds_back: u32,
    /// Whether its fence for all is one.
    heavy_works: bool,
}

impl Core {
    /// Some stores become visible, of any core, and then the memory.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        thread::yield_now();
        let mut memory = self.machine.memory.lock().unwrap();
        for core in 0..CORES {
            while thread_rng().gen_ratio(1, self.holds_back) && memory.let_out(core) {}
        }
        memory
    }

    fn load(&self, at: usize) -> u64 {
        let memory = self.memory();
        let own = memory.buffers[self.core].iter().rev().find(|(place, _)| *place == at);
        own.map_or_else(|| memory.words.get(&at).copied().unwrap_or(0), |(_, value)| *value)
    }

    fn store(&self, at: usize, value: u64) {
        self.memory().buffers[self.core].push_back((at, value));
    }

    /// FUTEX_WAIT: a system call lets everything out.
    fn sleep(&self, at: usize, seen: u32) {
        let mut memory = self.memory();
        memory.empty(self.core);
        while memory.words.get(&at).copied().unwrap_or(0) == u64::from(seen) {
            memory = self.machine.bell.wait(memory).unwrap();
        }
    }

    fn wake(&self) {
        self.memory().empty(self.core);
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

    fn fence_light(&self) {}

    fn fence_heavy(&self) -> bool {
        let mut memory = self.memory();
        for core in (0..CORES).filter(|core| self.heavy_works || *core == self.core) {
            memory.empty(core);
        }
        true
    }
}

fn lane() -> Lane {
    Lane::submissions(Depth::new(8).unwrap())
}

fn send(core: &Core, entries: u64) {
    let mut sender = Sender::new(lane()).light_after(1);
    for number in 1..=entries {
        sender.put(core, &[7, number, 0, 0, 0, 0, 0, 0]);
        if sender.ring(core, || 0) == Ring::Wake {
            core.wake();
        }
        for _ in 0..thread_rng().gen_range(0..6) {
            thread::yield_now();
        }
    }
    // The thread ends, or does something else: what it stored is let out at last.
    core.memory().empty(core.core);
}

fn receive(core: &Core, entries: u64) {
    let mut receiver = Receiver::new(lane());
    receiver.offer_heavy(core);
    while receiver.next() <= entries {
        let mut found = receiver.look(core);
        if found == Found::Nothing {
            let seen = receiver.fall_asleep(core).unwrap();
            found = receiver.look(core);
            if found == Found::Nothing {
                core.sleep(receiver.lane().doorbell(), seen);
            }
            receiver.wake_up(core);
        }
        match found {
            Found::Nothing => {}
            Found::Words(words) => {
                let number = receiver.accept();
                assert_eq!(words[..2], [with_sequence(7, number), number]);
            }
            Found::Wrong(sequence) => panic!("sequence {sequence} at {}", receiver.next()),
        }
    }
}

/// Many runs. A wake-up that is lost is a receiver that sleeps for ever, which shuttle reports.
fn run(heavy_works: bool) {
    let once = move || {
        let machine = Arc::new(Machine::default());
        let holds_back = [2, 8, 64][thread_rng().gen_range(0..3)];
        let core = |core| Core { machine: Arc::clone(&machine), core, holds_back, heavy_works };
        let (here, there) = (core(0), core(1));
        let entries = thread_rng().gen_range(1..=MOST);
        let sender = thread::spawn(move || send(&here, entries));
        receive(&there, entries);
        sender.join().unwrap();
    };
    shuttle::check_random(once, RUNS);
}

// M-248
#[test]
fn no_wake_up_is_lost_where_the_receiver_makes_the_fence_of_both() {
    run(true);
}

/// What the test above finds if there is something to find.
#[test]
fn a_wake_up_is_lost_where_the_receiver_makes_its_own_fence_only() {
    let lost = catch_unwind(AssertUnwindSafe(|| run(false)));
    assert!(lost.is_err(), "{RUNS} runs lost no wake-up");
}
