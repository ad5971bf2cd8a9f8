//! One look at the broker for all who watch, and none when nobody does.
//!
//! ```text
//!   idle ──somebody comes──► look ──► tell everybody ──► pause ──┐
//!    ▲                        ▲                                  │ somebody is there
//!    └──── nobody is left ────┴──────────────────────────────────┘
//! ```
//!
//! The pause is a second, and longer where looks take long: they take a tenth of the time at most. Who comes
//! within a second of a look is told what that one saw.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// From one look to the next, at least.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// The same where looks take long, at most.
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// A pause is so many times as long as the look before it.
const SHARE: u32 = 10;
/// How long one who asks once waits for a look.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where those who watch meet the one who looks.
#[derive(Debug)]
pub(crate) struct Lookout<T> {
    last: watch::Sender<Option<(Instant, Arc<T>)>>,
    wanted: Notify,
}

/// Somebody who watches. While there is one, there are looks.
#[derive(Debug)]
pub(crate) struct Watching<T>(watch::Receiver<Option<(Instant, Arc<T>)>>);

impl<T> Lookout<T> {
    /// One that has seen nothing yet.
    pub(crate) fn new() -> Self {
        Self { last: watch::Sender::new(None), wanted: Notify::new() }
    }

    /// Looks, for as long as this is polled.
    pub(crate) async fn run<F: Future<Output = T>>(&self, mut look: impl FnMut() -> F) {
        loop {
            while self.last.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            let begun = Instant::now();
            let seen = look().await;
            let pause = (begun.elapsed() * SHARE).clamp(PAUSE, PAUSE_MOST);
            self.last.send_replace(Some((begun, Arc::new(seen))));
            sleep(pause).await;
        }
    }

    /// Watches from now on.
    pub(crate) fn watch(&self) -> Watching<T> {
        let mut watching = Watching(self.last.subscribe());
        // What was seen long ago is no news.
        let old = watching.0.borrow().as_ref().is_none_or(|(at, _)| at.elapsed() > PAUSE);
        match old {
            true => watching.0.mark_unchanged(),
            false => watching.0.mark_changed(),
        }
        self.wanted.notify_one();
        watching
    }

    /// What is seen now; nothing if no look ends in time.
    pub(crate) async fn once(&self) -> Option<Arc<T>> {
        timeout(PATIENCE, self.watch().next()).await.ok().flatten()
    }

    /// How many watch.
    pub(crate) fn watchers(&self) -> usize {
        self.last.receiver_count()
    }
}

impl<T> Watching<T> {
    /// What the next look sees. Looks that came while nobody waited here are left out but for the last.
    pub(crate) async fn next(&mut self) -> Option<Arc<T>> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().as_ref().map(|(_, seen)| Arc::clone(seen))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Lets a lookout that counts its looks run beside `test`, in time that passes at once.
    fn beside<T: Future<Output = ()>>(
        takes: Duration,
        test: impl FnOnce(Arc<Lookout<u32>>, Arc<AtomicU32>) -> T,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let (lookout, looks) = (Arc::new(Lookout::new()), Arc::new(AtomicU32::new(0)));
            let look = async || {
                sleep(takes).await;
                looks.fetch_add(1, Ordering::Relaxed) + 1
            };
            let tested = test(Arc::clone(&lookout), Arc::clone(&looks));
            tokio::select! {
                () = lookout.run(look) => {}
                () = tested => {}
            }
        });
    }

    #[test]
    fn nobody_watches_and_nothing_is_asked() {
        beside(Duration::ZERO, async |lookout, looks| {
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(looks.load(Ordering::Relaxed), 0);
            drop(lookout.watch());
            sleep(Duration::from_secs(3600)).await;
            assert!(looks.load(Ordering::Relaxed) <= 1);
        });
    }

    #[test]
    fn all_who_watch_share_one_look_a_second() {
        beside(Duration::ZERO, async |lookout, looks| {
            let mut all: Vec<_> = (0..1000).map(|_| lookout.watch()).collect();
            sleep(Duration::from_millis(59_500)).await;
            assert_eq!(looks.load(Ordering::Relaxed), 60);
            for watching in &mut all {
                assert_eq!(watching.next().await.map(|seen| *seen), Some(60));
            }
        });
    }

    #[test]
    fn the_last_one_who_leaves_ends_the_looks() {
        beside(Duration::ZERO, async |lookout, looks| {
            let mut watching = lookout.watch();
            watching.next().await;
            drop(watching);
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(looks.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn who_asks_within_a_second_of_a_look_is_told_that_one() {
        beside(Duration::ZERO, async |lookout, looks| {
            for _ in 0..100 {
                assert_eq!(lookout.once().await.map(|seen| *seen), Some(1));
            }
            sleep(Duration::from_secs(2)).await;
            assert_eq!((lookout.once().await.map(|seen| *seen), looks.load(Ordering::Relaxed)), (Some(2), 2));
        });
    }

    #[test]
    fn looks_that_take_long_are_seldom() {
        beside(Duration::from_millis(500), async |lookout, looks| {
            let _watching = lookout.watch();
            sleep(Duration::from_secs(55)).await;
            assert_eq!(looks.load(Ordering::Relaxed), 10);
        });
    }

    #[test]
    fn who_asks_a_lookout_that_sees_nothing_is_not_held_up_for_ever() {
        beside(Duration::from_secs(3600), async |lookout, _| {
            assert_eq!(lookout.once().await, None);
        });
    }
}
