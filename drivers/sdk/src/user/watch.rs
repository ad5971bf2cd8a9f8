//! Who waits for their client's memory, and for how long.
//!
//! ```text
//!   thread of a ring:  look_at(address) ─► [ since, address ] ─► copy ─► [ 0 ]
//!                                              ▲
//!   watchman:  ─ asleep until somebody looks ─► every 250 ms: longer than a second? ─► Stalled, once
//!                     ▲                                        │ nobody looked since
//!                     └────────────────────────────────────────┘
//! ```
//!
//! A thread that waits for a page cannot say so, and no signal ends it. So it writes down since when it looks where,
//! before every access, and another thread reads that (M-171). The watchman sleeps while nobody looks: an instance that
//! has nothing to do wakes nobody.
//!
//! Invariant: a thread that looks while the watchman sleeps wakes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use vgem_os::clock;
use vgem_os::futex::{self, Word};
use vgem_proto::ids::{Point, Time, TimelineKey};
use vgem_proto::message::driver::Stalled;

/// How often the watchman looks, nanoseconds.
const PERIOD: Duration = Duration::from_millis(250);
/// How long an access may take, nanoseconds; and how often in a row it must have been seen under way. So a process that was
/// stopped, or had no core, is not taken for one that waits.
pub(super) const PATIENCE_NS: u64 = 1_000_000_000;
const LOOKS: u32 = 4;
/// A sleep ends after this in any case, nanoseconds.
const SLEEP_NS: u64 = 60_000_000_000;

/// Where one thread looks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Since when; 0 while it looks nowhere.
    since: AtomicU64,
    address: AtomicU64,
    /// The entry's point.
    point: AtomicU64,
    watchman: Arc<Watchman>,
}

impl Watch {
    /// That of a thread which this watchman looks after.
    pub(super) fn of(watchman: &Arc<Watchman>, timeline: TimelineKey) -> Arc<Self> {
        let watch = Arc::new(Self { watchman: Arc::clone(watchman), ..Self::default() });
        watchman.watches().push(Watched { timeline, watch: Arc::downgrade(&watch), since: 0, looks: 0 });
        watch
    }

    /// The entry on whose behalf is looked from now on.
    #[inline]
    pub(super) fn begin(&self, point: Point) {
        self.point.store(point.0, Ordering::Relaxed);
    }

    /// Does what may wait for an address.
    pub(super) fn look_at<T>(&self, address: u64, access: impl FnOnce() -> T) -> T {
        self.address.store(address, Ordering::Relaxed);
        self.since.store(clock::now(), Ordering::Release);
        // Before the watchman is asked whether it sleeps: it looks once more before it does.
        fence(Ordering::SeqCst);
        self.watchman.wake();
        let outcome = access();
        self.since.store(0, Ordering::Release);
        outcome
    }

    /// Since when it looks at which address, for which entry.
    fn looking(&self) -> Option<(u64, u64, Point)> {
        let since = self.since.load(Ordering::Acquire);
        let (address, point) = (self.address.load(Ordering::Relaxed), self.point.load(Ordering::Relaxed));
        // It may have gone on meanwhile; then it does not wait.
        fence(Ordering::Acquire);
        (since != 0 && self.since.load(Ordering::Relaxed) == since).then_some((since, address, Point(point)))
    }
}

/// What the threads that are looked after share with who looks.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    awake: AtomicBool,
    word: Word,
    over: AtomicBool,
    watches: Mutex<Vec<Watched>>,
}

/// A thread that is looked after.
#[derive(Debug)]
struct Watched {
    timeline: TimelineKey,
    watch: Weak<Watch>,
    /// Since when it looked, when it was seen last, and how often in a row that was so.
    since: u64,
    looks: u32,
}

impl Watchman {
    /// Starts the thread that tells of whoever waits for too long.
    ///
    /// # Errors
    /// The system has no thread.
    pub(super) fn start(self: &Arc<Self>, tell: impl Fn(Stalled) + Send + 'static) -> std::io::Result<()> {
        let own = Arc::clone(self);
        thread::Builder::new().name("watchman".into()).spawn(move || own.run(tell)).map(drop)
    }

    /// The thread ends.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
        self.awake.store(true, Ordering::SeqCst);
        self.ring();
    }

    #[inline]
    fn wake(&self) {
        if !self.awake.load(Ordering::Relaxed) && !self.awake.swap(true, Ordering::SeqCst) {
            self.ring();
        }
    }

    fn ring(&self) {
        self.word.bump();
        let woken = futex::wake(self.word.futex(), 1);
        debug_assert!(woken.is_ok(), "a private word: {woken:?}");
    }

    fn run(&self, tell: impl Fn(Stalled)) {
        loop {
            let seen = self.word.load();
            if !self.awake.load(Ordering::SeqCst) {
                let rung = futex::wait(self.word.futex(), seen, clock::deadline_in(SLEEP_NS));
                debug_assert!(rung.is_ok(), "a private word: {rung:?}");
                continue;
            }
            if self.over.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(PERIOD);
            if !self.look(clock::now(), &tell) {
                self.awake.store(false, Ordering::SeqCst);
                // Whoever looked before that saw no need to wake anybody.
                fence(Ordering::SeqCst);
                if self.look(clock::now(), &tell) || self.over.load(Ordering::Acquire) {
                    self.awake.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Tells of every thread that has looked for too long; whether any looks.
    fn look(&self, now: u64, tell: &impl Fn(Stalled)) -> bool {
        let mut any = false;
        self.watches().retain_mut(|watched| {
            let Some(watch) = watched.watch.upgrade() else { return false };
            let Some((since, address, point)) = watch.looking() else { return true };
            any = true;
            let seen_before = if watched.since == since { watched.looks } else { 0 };
            (watched.since, watched.looks) = (since, seen_before.saturating_add(1));
            // Told of once: after that it has been seen more often.
            let is_late = now.saturating_sub(since) >= PATIENCE_NS;
            if !is_late && watched.looks >= LOOKS {
                watched.looks = LOOKS - 1;
            }
            if is_late && watched.looks == LOOKS {
                tell(Stalled { timeline: watched.timeline, point, address, since: Time(since) });
            }
            true
        });
        any
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const QUEUE: TimelineKey = TimelineKey { index: 2, generation: 1 };

    // M-171
    #[test]
    fn who_looks_for_too_long_is_told_of_once_with_the_address() {
        let watchman = Arc::new(Watchman::default());
        let (quick, slow) = (Watch::of(&watchman, QUEUE), Watch::of(&watchman, QUEUE));
        quick.begin(Point(3));
        slow.begin(Point(4));
        quick.look_at(7, || ());
        let told = Mutex::new(Vec::new());
        let tell = |stalled| told.lock().expect("no panic").push(stalled);
        slow.look_at(9, || {
            let since = slow.since.load(Ordering::Relaxed);
            for _ in 0..LOOKS {
                assert!(watchman.look(since + PATIENCE_NS - 1, &tell));
            }
            assert_eq!(told.lock().expect("no panic").len(), 0);
            for _ in 0..3 {
                assert!(watchman.look(since + PATIENCE_NS, &tell));
            }
            let stalled = Stalled { timeline: QUEUE, point: Point(4), address: 9, since: Time(since) };
            assert_eq!(*told.lock().expect("no panic"), [stalled]);
        });
        assert!(!watchman.look(u64::MAX, &tell), "nobody looks any more");
    }

    #[test]
    fn a_process_that_had_no_core_for_long_is_not_taken_for_one_that_waits() {
        let watchman = Arc::new(Watchman::default());
        let watch = Watch::of(&watchman, QUEUE);
        let tell = |stalled| panic!("{stalled:?}");
        for _ in 0..3 {
            watch.look_at(9, || {
                let since = watch.since.load(Ordering::Relaxed);
                for look in 1..LOOKS {
                    assert!(watchman.look(since + u64::from(look) * PATIENCE_NS, &tell));
                }
            });
        }
    }

    #[test]
    fn a_watchman_that_sleeps_is_woken_by_who_looks() {
        let (send, told) = mpsc::channel();
        let watchman = Arc::new(Watchman::default());
        watchman.start(move |stalled| drop(send.send(stalled))).expect("a thread");
        let watch = Watch::of(&watchman, QUEUE);
        watch.begin(Point(1));
        for _ in 0..2 {
            watch.look_at(1, || ());
            // Long enough for it to fall asleep.
            while watchman.awake.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        watch.look_at(5, || {
            let stalled = told.recv_timeout(Duration::from_secs(60)).expect("it looks");
            assert_eq!((stalled.point, stalled.address), (Point(1), 5));
        });
        watchman.stop();
        drop(watch);
        assert!(told.recv().is_err(), "its thread has ended");
    }

    #[test]
    fn a_thread_that_is_gone_is_forgotten() {
        let watchman = Arc::new(Watchman::default());
        drop(Watch::of(&watchman, QUEUE));
        assert!(!watchman.look(1, &|_| ()));
        assert_eq!(watchman.watches().len(), 0);
    }
}
