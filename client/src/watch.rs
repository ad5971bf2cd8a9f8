//! Watches: points of somebody who sleeps on several bells at once, and those bells.
//!
//! ```text
//!   a point in a page        the page's doorbell; passes wake-ups on to the page's other sleepers
//!   a point signalled here   a word of this process, and the primary page's doorbell, which brings verdicts
//! ```
//!
//! Between 128 words and more a sleeper looks in short slices instead.

use std::sync::Arc;
use std::time::Duration;

use vgem_os::clock;
use vgem_os::fence::PointState;
use vgem_os::futex::{self, FutexWord, WAIT_ANY_MAX};
use vgem_proto::ids::Point;

use crate::pages::{Observer, PageWatch};
use crate::timeline::TimelineShared;

/// Between looks when there are more words than one call takes, nanoseconds.
const CROWD_SLICE_NS: u64 = 1_000_000;

/// A point that somebody sleeps for, elsewhere than on one page alone.
#[derive(Debug)]
pub(crate) enum Watch {
    /// It is seen in a page.
    Page(PageWatch),
    /// This process signals it.
    Here(HereWatch),
}

/// A point that this process signals. Counts its sleeper for as long as it lives.
#[derive(Debug)]
pub(crate) struct HereWatch {
    timeline: Arc<TimelineShared>,
    point: Point,
}

impl Watch {
    pub(crate) fn here(timeline: &Arc<TimelineShared>, point: Point) -> Self {
        timeline.enlist();
        Self::Here(HereWatch { timeline: Arc::clone(timeline), point })
    }

    pub(crate) fn state(&self) -> PointState {
        match self {
            Self::Page(watch) => watch.state(),
            Self::Here(watch) => watch.timeline.look(watch.point),
        }
    }
}

impl Drop for HereWatch {
    fn drop(&mut self) {
        self.timeline.delist();
    }
}

/// What to sleep on together, each as it was before the looks that found nothing.
#[derive(Debug)]
pub(crate) struct Bells {
    pages: Vec<(Arc<Observer>, u32)>,
    here: Vec<(Arc<TimelineShared>, [u32; 2])>,
}

impl Bells {
    /// The bells of these watches. Look at the points after this, and then sleep.
    pub(crate) fn of<'a>(watches: impl Iterator<Item = &'a Watch>) -> Self {
        let mut pages: Vec<(Arc<Observer>, u32)> = Vec::new();
        let mut here: Vec<(Arc<TimelineShared>, [u32; 2])> = Vec::new();
        for watch in watches {
            match watch {
                Watch::Page(watch) => {
                    let observer = watch.observer();
                    if !pages.iter().any(|(known, _)| Arc::ptr_eq(known, observer)) {
                        pages.push((Arc::clone(observer), observer.face().doorbell()));
                    }
                }
                Watch::Here(HereWatch { timeline, .. }) => {
                    if let Some(words) = timeline.words()
                        && !here.iter().any(|(known, _)| Arc::ptr_eq(known, timeline))
                    {
                        here.push((Arc::clone(timeline), words.map(FutexWord::load)));
                    }
                }
            }
        }
        Self { pages, here }
    }

    /// Sleeps until a bell or `own` changes or the moment comes; false if nothing changed.
    pub(crate) fn sleep(&self, own: Option<(FutexWord<'_>, u32)>, until_ns: u64) -> bool {
        let enlisted: Vec<_> = self.pages.iter().map(|(observer, _)| observer.face().enlist()).collect();
        let pages = self.pages.iter().map(|(observer, seen)| (observer.face().word(), *seen));
        let here = self.here.iter().flat_map(|(timeline, seen)| {
            timeline.words().into_iter().flat_map(|words| words.into_iter().zip(*seen))
        });
        let words: Vec<_> = own.into_iter().chain(here).chain(pages).collect();
        let (words, until_ns) = match words.get(..WAIT_ANY_MAX) {
            Some(some) => (some, until_ns.min(clock::deadline_in(CROWD_SLICE_NS))),
            None => (words.as_slice(), until_ns),
        };
        if words.is_empty() {
            std::thread::sleep(Duration::from_nanos(until_ns.saturating_sub(clock::now())));
            return false;
        }
        let woken = futex::wait_any(words, until_ns);
        drop(enlisted);
        for (observer, seen) in &self.pages {
            if observer.face().doorbell() != *seen {
                // Waking sleepers of a mapped page does not fail.
                drop(observer.face().pass_on());
            }
        }
        matches!(woken, Ok(Some(_)))
    }
}
