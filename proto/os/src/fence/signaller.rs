//! The signaller's face: it writes slots and reads interest.

use super::SignallerFds;
use super::page::{Kind, MappedPage};
use super::protocol::{self, Failure, NotNewer, Ring, Slot};
use crate::error::Result;
use crate::futex;
use crate::memory::Access;

/// What a signal cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Woke {
    /// Nobody slept for this point; no system call was made.
    Nobody,
    /// The observer said it sleeps; one futex wake was made.
    Sleeper,
}

/// One signaller's face of a pair.
///
/// Different slots may be signalled from different threads at once. One slot has one writer at a time: the
/// caller orders `publish`, `signal` and `retire` of a slot (its per-timeline lock); without that nothing
/// unsafe happens, but a point may be lost.
#[derive(Debug)]
pub struct SignallerFace {
    page: MappedPage,
    interest: MappedPage,
}

impl SignallerFace {
    /// Maps the pages of a pair. The fds may be closed afterwards, and are.
    ///
    /// # Errors
    /// As [`crate::memory::verify_export`]; `EINVAL` if a page has another size, magic or version; the errno
    /// of `mmap`.
    pub fn map(fds: SignallerFds) -> Result<Self> {
        use std::os::fd::AsFd as _;
        let page = MappedPage::map(fds.page.as_fd(), Access::Write, Kind::Fence)?;
        let interest = MappedPage::map(fds.interest.as_fd(), Access::Read, Kind::Interest)?;
        Ok(Self { page, interest })
    }

    /// Puts a timeline into a slot, with its value and failures so far (oldest first; one more than 8 if there
    /// were more). Wakes an observer that already waits for a point it contains.
    pub fn publish(
        &self,
        slot: Slot,
        generation: u32,
        value: u64,
        time_ns: u64,
        failures: &[Failure],
    ) -> Woke {
        let ring = protocol::publish(&self.page, &self.interest, slot, generation, value, time_ns, failures);
        self.wake(ring)
    }

    /// Takes a timeline out of its slot.
    pub fn retire(&self, slot: Slot) {
        protocol::retire(&self.page, slot);
    }

    /// Signals `point` of a slot, at `time_ns` CLOCK_MONOTONIC, with its failure if it failed.
    ///
    /// # Errors
    /// [`NotNewer`] if the point is not above the value, or the failure is about another point; nothing changed.
    #[inline]
    pub fn signal(
        &self,
        slot: Slot,
        point: u64,
        time_ns: u64,
        failure: Option<Failure>,
    ) -> Result<Woke, NotNewer> {
        let ring = protocol::signal(&self.page, &self.interest, slot, point, time_ns, failure)?;
        Ok(self.wake(ring))
    }

    /// The value of a slot: the last point signalled.
    #[must_use]
    pub fn value(&self, slot: Slot) -> u64 {
        protocol::snapshot(&self.page, slot).value
    }

    #[inline]
    fn wake(&self, ring: Ring) -> Woke {
        match ring {
            Ring::Quiet => Woke::Nobody,
            Ring::Wake => {
                // One: the observer passes it on inside its process, so its crowd costs us nothing.
                let woken = futex::wake(self.page.doorbell(), 1);
                debug_assert!(woken.is_ok(), "the doorbell is mapped: {woken:?}");
                Woke::Sleeper
            }
        }
    }
}
