//! Waiting for several fences at once, over any devices.
//!
//! One thread sleeps on all doorbells involved (`futex_waitv`), beside whoever leads a page alone; pages pass
//! wake-ups on. Between 128 pages and more it looks in short slices instead.

use std::sync::Arc;

use vgem_os::clock;
use vgem_os::futex::{self, FutexWord, WAIT_ANY_MAX};

use crate::deadline::Deadline;
use crate::error::FenceError;
use crate::fence::Fence;
use crate::pages::{Lookout, Observer, Watch};

/// Between looks when there are more pages than one call takes, nanoseconds.
const CROWD_SLICE_NS: u64 = 1_000_000;

/// Sleeps until every job has ended, at most until the deadline.
///
/// # Errors
/// The failure of the first of `fences` that failed, after all have ended; [`FenceError::Timeout`] of the first
/// that had not ended; [`FenceError::BrokerLost`].
pub fn wait_all<'a>(
    fences: impl IntoIterator<Item = &'a Fence>,
    deadline: impl Into<Deadline>,
) -> Result<(), FenceError> {
    let deadline = deadline.into();
    let mut failure = None;
    for fence in fences {
        match fence.wait(deadline) {
            Ok(()) => {}
            Err(failed @ FenceError::Failed(_)) => failure = failure.or(Some(failed)),
            Err(other) => return Err(other),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Sleeps until one of the jobs has ended, well or not, and says which: its place in `fences`. The lowest, if
/// several have. [`Fence::wait`] tells how it ended.
///
/// # Errors
/// [`FenceError::Timeout`] of the first; [`FenceError::BrokerLost`]. No fence at all is a time-out of nothing:
/// `Ok(None)`.
pub fn wait_any(fences: &[Fence], deadline: impl Into<Deadline>) -> Result<Option<usize>, FenceError> {
    let deadline = deadline.into();
    let Some(first) = fences.first() else { return Ok(None) };
    let ended = || fences.iter().position(Fence::has_ended);
    if let Some(place) = ended() {
        return Ok(Some(place));
    }
    if let [only] = fences {
        // Whatever came of it, the caller asks the fence itself.
        return match only.wait(deadline) {
            Ok(()) | Err(FenceError::Failed(_)) => Ok(Some(0)),
            Err(other) => Err(other),
        };
    }
    let watches: Vec<Watch> = fences.iter().map(Fence::watch).collect();
    let core = &first.queue().core;
    core.counters.slept();
    let mut lookout = Lookout::new();
    loop {
        let pages = Pages::of(watches.iter());
        if let Some(place) = ended() {
            return Ok(Some(place));
        }
        if deadline.passed() {
            return Err(first.timeout());
        }
        if pages.sleep(None, lookout.or(deadline)) {
            core.counters.woke();
        }
        if lookout.is_due()
            && let Some(asked) = fences.iter().find(|fence| fence.ask().is_some())
        {
            return ended().map_or_else(|| Err(asked.lost()), |place| Ok(Some(place)));
        }
    }
}

/// Pages to sleep on together, each with its doorbell as it was before the looks that found nothing.
#[derive(Debug)]
pub(crate) struct Pages(Vec<(Arc<Observer>, u32)>);

impl Pages {
    /// The pages of these watches. Look at the points after this, and then sleep.
    pub(crate) fn of<'a>(watches: impl Iterator<Item = &'a Watch>) -> Self {
        let mut pages: Vec<(Arc<Observer>, u32)> = Vec::new();
        for watch in watches {
            let observer = watch.observer();
            if !pages.iter().any(|(known, _)| Arc::ptr_eq(known, observer)) {
                pages.push((Arc::clone(observer), observer.face().doorbell()));
            }
        }
        Self(pages)
    }

    /// Sleeps until a doorbell or `own` changes or the moment comes; false if nothing changed.
    pub(crate) fn sleep(&self, own: Option<(FutexWord<'_>, u32)>, until_ns: u64) -> bool {
        let enlisted: Vec<_> = self.0.iter().map(|(observer, _)| observer.face().enlist()).collect();
        let pages = self.0.iter().map(|(observer, seen)| (observer.face().word(), *seen));
        let words: Vec<_> = own.into_iter().chain(pages).collect();
        let (words, until_ns) = match words.get(..WAIT_ANY_MAX) {
            Some(some) => (some, until_ns.min(clock::deadline_in(CROWD_SLICE_NS))),
            None => (words.as_slice(), until_ns),
        };
        let woken = futex::wait_any(words, until_ns);
        drop(enlisted);
        for (observer, seen) in &self.0 {
            if observer.face().doorbell() != *seen {
                // Waking sleepers of a mapped page does not fail.
                drop(observer.face().pass_on());
            }
        }
        matches!(woken, Ok(Some(_)))
    }
}
