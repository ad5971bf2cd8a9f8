//! The observer's face: it reads slots, writes interest, and sleeps on the doorbell.
//!
//! ```text
//!   loop:  seen = doorbell()
//!          set_interest(slot, point)          store, then
//!          state(slot, ..) is Pending?        look
//!          sleep(seen, deadline)
//!   done:  clear_interest(slot)
//! ```
//!
//! The signaller wakes one sleeper only. Inside a process the wake-up is passed on: [`ObserverFace::sleep`]
//! does so by itself; who sleeps on [`ObserverFace::word`] in a [`crate::futex::wait_any`] enlists first and calls
//! [`ObserverFace::pass_on`] when it wakes.
//!
//! Interest is one point per slot: with several sleepers for a slot, the smallest point any of them waits for.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ObserverFds;
use super::page::{Kind, MappedPage};
use super::protocol::{self, PointState, Slot};
use crate::error::Result;
use crate::futex::{self, FutexWord, Wake};
use crate::memory::Access;

/// One observer's face of a pair.
#[derive(Debug)]
pub struct ObserverFace {
    page: MappedPage,
    interest: MappedPage,
    sleepers: AtomicU32,
}

impl ObserverFace {
    /// Maps the pages of a pair. The fds may be closed afterwards, and are.
    ///
    /// # Errors
    /// As [`crate::memory::verify_export`]; `EINVAL` if a page has another size, magic or version; the errno
    /// of `mmap`.
    pub fn map(fds: ObserverFds) -> Result<Self> {
        let page = MappedPage::map(fds.page.as_fd(), Access::Read, Kind::Fence)?;
        let interest = MappedPage::map(fds.interest.as_fd(), Access::Write, Kind::Interest)?;
        Ok(Self { page, interest, sleepers: AtomicU32::new(0) })
    }

    /// Looks for a point of the timeline that `generation` names in a slot. The broker's verdicts come first; a
    /// slot that is not published yet is pending; one that went to a newer timeline is overrun.
    #[must_use]
    #[inline]
    pub fn state(&self, slot: Slot, generation: u32, point: u64) -> PointState {
        protocol::state(&self.page, slot, generation, point)
    }

    /// The doorbell now: read it before looking, give it to [`ObserverFace::sleep`].
    #[must_use]
    #[inline]
    pub fn doorbell(&self) -> u32 {
        self.word().load()
    }

    /// Says that somebody here will sleep until `point` of a slot. Look once more before sleeping.
    #[inline]
    pub fn set_interest(&self, slot: Slot, point: u64) {
        protocol::set_interest(&self.interest, slot, point);
    }

    /// Says that nobody here sleeps for a slot.
    #[inline]
    pub fn clear_interest(&self, slot: Slot) {
        protocol::clear_interest(&self.interest, slot);
    }

    /// The point this observer says it sleeps for; 0 is none.
    #[must_use]
    #[inline]
    pub fn interest(&self, slot: Slot) -> u64 {
        protocol::interest_in(&self.interest, slot)
    }

    /// Sleeps while the doorbell is as it was `seen`, until `deadline_ns` (absolute CLOCK_MONOTONIC). Passes a
    /// wake-up on to the other sleepers of this face.
    ///
    /// # Errors
    /// As [`futex::wait`].
    pub fn sleep(&self, seen: u32, deadline_ns: u64) -> Result<Wake> {
        let enlisted = self.enlist();
        let wake = futex::wait(self.word(), seen, deadline_ns)?;
        drop(enlisted);
        if wake == Wake::Rung {
            self.pass_on()?;
        }
        Ok(wake)
    }

    /// The doorbell as a futex word, to sleep on several pages at once.
    #[must_use]
    #[inline]
    pub fn word(&self) -> FutexWord<'_> {
        self.page.doorbell()
    }

    /// Counts the caller among the sleepers of this face until the guard goes.
    pub fn enlist(&self) -> Enlisted<'_> {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        Enlisted { face: self }
    }

    /// Wakes the other enlisted sleepers of this face; no system call if there are none.
    ///
    /// # Errors
    /// As [`futex::wake`].
    pub fn pass_on(&self) -> Result<()> {
        if self.sleepers.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        futex::wake(self.word(), u32::MAX).map(drop)
    }
}

/// Proof that a sleeper is counted; see [`ObserverFace::enlist`].
#[derive(Debug)]
#[must_use]
pub struct Enlisted<'a> {
    face: &'a ObserverFace,
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.face.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}
