//! Memory that processes share, over loom's atomics: the words that a test names, and the futexes on some of them.
//!
//! A futex is modelled by a lock and a condition variable, which do for a process what the kernel does: compare the word
//! and fall asleep in one step. No sleep has a deadline: a lost wake-up is a deadlock, which loom reports.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Condvar, Mutex};
use vgem_os::fence::protocol::Page;

/// Only the words that take part in some order.
pub(crate) struct Model {
    pub(crate) words: HashMap<usize, AtomicU64>,
    pub(crate) halves: HashMap<usize, AtomicU32>,
    bells: HashMap<usize, (Mutex<()>, Condvar)>,
}

impl Model {
    /// Memory with these words of 64 bits, these of 32, and those of the latter that somebody sleeps on.
    pub(crate) fn of(words: &[usize], halves: &[usize], bells: &[usize]) -> Self {
        Self {
            words: words.iter().map(|at| (*at, AtomicU64::new(0))).collect(),
            halves: halves.iter().map(|at| (*at, AtomicU32::new(0))).collect(),
            bells: bells.iter().map(|at| (*at, (Mutex::new(()), Condvar::new()))).collect(),
        }
    }

    /// FUTEX_WAIT.
    pub(crate) fn sleep_on(&self, at: usize, seen: u32) {
        let (lock, sleepers) = &self.bells[&at];
        let guard = lock.lock().unwrap();
        if self.halves[&at].load(Ordering::Relaxed) == seen {
            drop(sleepers.wait(guard).unwrap());
        }
    }

    /// FUTEX_WAKE of one.
    pub(crate) fn wake_on(&self, at: usize) {
        let (lock, sleepers) = &self.bells[&at];
        drop(lock.lock().unwrap());
        sleepers.notify_one();
    }
}

/// Words the model leaves out read as 0 and take no part in any order.
impl Page for Model {
    fn load32(&self, at: usize) -> u32 {
        self.halves.get(&at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn load64(&self, at: usize) -> u64 {
        self.words.get(&at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store32(&self, at: usize, value: u32) {
        if let Some(word) = self.halves.get(&at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn store64(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(&at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn release32(&self, at: usize, value: u32) {
        if let Some(word) = self.halves.get(&at) {
            word.store(value, Ordering::Release);
        }
    }

    fn release64(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(&at) {
            word.store(value, Ordering::Release);
        }
    }

    fn bump32(&self, at: usize) {
        if let Some(word) = self.halves.get(&at) {
            word.fetch_add(1, Ordering::Release);
        }
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }
}

/// Every interleaving with at most this many switches away from a thread that could go on.
pub(crate) fn explore(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}
