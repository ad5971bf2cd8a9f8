//! What a client did: counters that benches and the demo print.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one client since it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ClientCounters {
    /// Messages sent to the broker.
    pub messages_sent: u64,
    /// Messages received from the broker.
    pub messages_received: u64,
    /// Waits for fences that slept in the kernel.
    pub sleeps: u64,
    /// Times a signal woke a thread of this client.
    pub wakeups: u64,
    /// Bytes copied by [`crate::Buffer::copy_in`] and [`crate::Buffer::copy_out`].
    pub bytes_copied: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    sleeps: AtomicU64,
    wakeups: AtomicU64,
    bytes_copied: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self) {
        self.messages_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self) {
        self.messages_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn slept(&self) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn woke(&self) {
        self.wakeups.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn copied(&self, bytes: usize) {
        self.bytes_copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> ClientCounters {
        ClientCounters {
            messages_sent: self.messages_sent.load(Ordering::Relaxed),
            messages_received: self.messages_received.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            wakeups: self.wakeups.load(Ordering::Relaxed),
            bytes_copied: self.bytes_copied.load(Ordering::Relaxed),
        }
    }
}
