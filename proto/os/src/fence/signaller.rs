//! The signaller's face: it writes slots and reads interest.
//!
//! A driver shows a timeline in the page of each observer by itself. A client that signals has a primary page, whose
//! interest page also brings news, and shows its timelines in several places with one [`signal_everywhere`].

use super::SignallerFds;
use super::late;
use super::page::{Kind, MappedPage};
use super::protocol::{self, Failure, NotNewer, PointState, Ring, Slot};
use crate::error::Result;
use crate::futex::{self, FutexWord};
use crate::memory::Access;

/// What a signal cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Woke {
    /// Nobody slept for this point; no system call was made.
    Nobody,
    /// The observer said it sleeps; one futex wake was made.
    Sleeper,
}

/// The broker's verdict on a timeline: points from `from` on have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The first point that has failed.
    pub from: u64,
    /// The error code of the protocol.
    pub code: u32,
    /// The cause id.
    pub cause: u64,
}

/// Signals `point` of one timeline in all its places, the primary one first. One fence for all of them, and a system
/// call only for a place whose observer sleeps. Look at [`SignallerFace::news`] of the primary face afterwards.
///
/// # Errors
/// [`NotNewer`] by the first place, and nothing changed.
#[inline]
pub fn signal_everywhere<'a>(
    places: impl Iterator<Item = (&'a SignallerFace, Slot)> + Clone,
    point: u64,
    time_ns: u64,
    failure: Option<Failure>,
) -> Result<Woke, NotNewer> {
    let mut woke = Woke::Nobody;
    let pages = places.map(|(face, slot)| (&face.page, &face.interest, slot));
    late::signal_everywhere(pages, point, time_ns, failure, |page| woke = wake(page, Ring::Wake))?;
    Ok(woke)
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
        wake(&self.page, ring)
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
        Ok(wake(&self.page, ring))
    }

    /// The value of a slot: the last point signalled.
    #[must_use]
    pub fn value(&self, slot: Slot) -> u64 {
        protocol::snapshot(&self.page, slot).value
    }

    /// The news for the signaller, of a primary page: look after a signal, whose fence this relies on.
    #[must_use]
    #[inline]
    pub fn news(&self) -> u32 {
        late::news(&self.interest)
    }

    /// The broker's verdict on a slot, if there is one: what is signalled from its point on nobody believes.
    #[must_use]
    #[inline]
    pub fn dead_from(&self, slot: Slot) -> Option<Verdict> {
        late::verdict(&self.page, slot).map(|(from, code, cause)| Verdict { from, code, cause })
    }

    /// Brings a slot that the broker has filled up to what the primary slot shows; from then on the caller signals in
    /// it. Nothing if another thread signalled in the primary slot all the while: it is changed by none then.
    pub fn take_over(&self, slot: Slot, generation: u32, primary: &Self, primary_slot: Slot) -> Option<Woke> {
        let (page, from) = (&self.page, &primary.page);
        let ring = late::take_over(page, &self.interest, slot, generation, from, primary_slot)?;
        Some(wake(page, ring))
    }

    /// Looks for a point of a timeline that this process itself signals, as an observer would.
    #[must_use]
    #[inline]
    pub fn state(&self, slot: Slot, generation: u32, point: u64) -> PointState {
        protocol::state(&self.page, slot, generation, point)
    }

    /// The doorbell of the page: in a primary page only the broker rings it, for its verdicts.
    #[must_use]
    #[inline]
    pub fn word(&self) -> FutexWord<'_> {
        self.page.doorbell()
    }
}

#[inline]
fn wake(page: &MappedPage, ring: Ring) -> Woke {
    match ring {
        Ring::Quiet => Woke::Nobody,
        Ring::Wake => {
            // One: the observer passes it on inside its process, so its crowd costs us nothing.
            let woken = futex::wake(page.doorbell(), 1);
            debug_assert!(woken.is_ok(), "the doorbell is mapped: {woken:?}");
            Woke::Sleeper
        }
    }
}
