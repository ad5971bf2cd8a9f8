//! How much went which way, since the engine started.

use std::sync::atomic::{AtomicU64, Ordering};

/// A moment's view of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes the device itself read from or wrote into operands (`O_DIRECT`).
    pub direct_bytes: u64,
    /// Bytes that went through the page cache.
    pub cached_bytes: u64,
    /// Bytes that went through registered buffers.
    pub fixed_bytes: u64,
    /// Bytes that went through a ring.
    pub ring_bytes: u64,
    /// Bytes that went by plain system calls.
    pub call_bytes: u64,
    /// Direct requests that a file system refused and the page cache served.
    pub direct_refused: u64,
    /// Objects registered, ever.
    pub registered: u64,
    /// Objects that could not be registered.
    pub unregistrable: u64,
}

/// The counters themselves. Each is only ever added to; they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) direct_bytes: AtomicU64,
    pub(crate) cached_bytes: AtomicU64,
    pub(crate) fixed_bytes: AtomicU64,
    pub(crate) ring_bytes: AtomicU64,
    pub(crate) call_bytes: AtomicU64,
    pub(crate) direct_refused: AtomicU64,
    pub(crate) registered: AtomicU64,
    pub(crate) unregistrable: AtomicU64,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn view(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            direct_bytes: of(&self.direct_bytes),
            cached_bytes: of(&self.cached_bytes),
            fixed_bytes: of(&self.fixed_bytes),
            ring_bytes: of(&self.ring_bytes),
            call_bytes: of(&self.call_bytes),
            direct_refused: of(&self.direct_refused),
            registered: of(&self.registered),
            unregistrable: of(&self.unregistrable),
        }
    }
}
