//! Fence pages as this process observes them: who sleeps, until which point, and who looks.
//!
//! A page is one doorbell. Of all threads that wait for points of one page, one **leads**: it sleeps on the
//! doorbell. The others **follow**: each sleeps on a bell of its own, in private memory, so that a signal wakes one
//! thread and that one wakes those whose points have come.
//!
//! ```text
//!   wait ──look: done──────────────────────────────────────────────► done
//!     └─pending─► spin (a few us, if that paid lately) ─► enter ─┬─ lead:   look, ring followers, sleep on the doorbell
//!                                                                └─ follow: look, sleep on the own bell
//!   leave: the leader appoints the next one; interest shrinks to what the rest wants
//! ```
//!
//! **Watchers** (waits over several pages, the bridge of the asynchronous front) register their points the same way
//! but sleep elsewhere, on several doorbells at once; the page passes wake-ups on to them.
//!
//! Invariants:
//! - While a point is registered, the interest of its slot is never 0 and never above that point.
//! - Interest is stored before the look that decides to sleep; so a signal is seen or rings.
//! - If anybody follows, somebody leads or has been appointed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PointState, Slot};
use vgem_os::futex::{self, Wake, Word};

use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::error;
use crate::watch::Watch;
use vgem_os::spin::Spin;

/// How often a sleeper looks whether the broker has something to say, nanoseconds. Nobody would wake it if the broker
/// was killed, so this is how late it knows then: as late as the shortest usual deadline of a job.
pub(crate) const SLICE_NS: u64 = 100_000_000;

/// What a bell says.
const QUIET: u32 = 0;
const LOOK: u32 = 1;
const LEAD: u32 = 2;

/// A point of a slot of this page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
    pub(crate) point: u64,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The point is not pending any more.
    Ended(PointState),
    /// The deadline passed.
    TimedOut,
    /// The broker is gone.
    Lost,
}

/// What one round of a sleeper found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Ended(PointState),
    /// It was rung, or slept long enough.
    Woke,
}

/// When a sleeper looks next whether the broker has something to say. It goes by the clock: one that is rung for
/// other reasons, again and again, looks all the same.
#[derive(Debug)]
pub(crate) struct Lookout {
    next_ns: u64,
}

impl Lookout {
    pub(crate) fn new() -> Self {
        Self { next_ns: clock::deadline_in(SLICE_NS) }
    }

    /// Until when to sleep, by the clock.
    pub(crate) fn or(&self, deadline: Deadline) -> u64 {
        self.next_ns.min(deadline.time().0)
    }

    /// Whether it is time.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = clock::now();
        if now < self.next_ns {
            return false;
        }
        self.next_ns = now.saturating_add(SLICE_NS);
        true
    }
}

impl Step {
    fn of(wake: vgem_os::Result<Wake>, counters: &Counters) -> Self {
        // A futex on a mapped page does not fail; if it did, the deadline would still end the wait.
        if matches!(wake, Ok(Wake::Rung)) {
            counters.woke();
        }
        Self::Woke
    }
}

/// One page and its waiters in this process.
#[derive(Debug)]
pub(crate) struct Observer {
    face: ObserverFace,
    waiters: Mutex<Waiters>,
    spin: Spin,
}

#[derive(Debug, Default)]
struct Waiters {
    list: Vec<Waiter>,
    led: bool,
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    target: Target,
    /// None: a watcher, which sleeps elsewhere.
    bell: Option<Arc<Word>>,
}

thread_local! {
    /// The bell this thread sleeps on when it follows; a thread waits for one thing at a time.
    static BELL: Arc<Word> = Arc::new(Word::new(QUIET));
}

impl Observer {
    pub(crate) fn map(fds: ObserverFds) -> error::Result<Self> {
        Ok(Self {
            face: ObserverFace::map(fds)?,
            waiters: Mutex::new(Waiters::default()),
            spin: Spin::default(),
        })
    }

    /// Looks, once.
    #[inline]
    pub(crate) fn state(&self, target: Target) -> PointState {
        self.face.state(target.slot, target.generation, target.point)
    }

    pub(crate) fn face(&self) -> &ObserverFace {
        &self.face
    }

    /// Waits for a point; asks nobody but the page. Ten times a second `ask` may end the wait.
    pub(crate) fn wait(
        &self,
        target: Target,
        deadline: Deadline,
        counters: &Counters,
        ask: impl Fn() -> Option<Outcome>,
    ) -> Outcome {
        let ended = || Some(self.state(target)).filter(|state| *state != PointState::Pending);
        if let Some(state) = ended() {
            return Outcome::Ended(state);
        }
        if deadline == Deadline::NOW || deadline.passed() {
            return Outcome::TimedOut;
        }
        if let Some(state) = self.spin.turn(ended) {
            return Outcome::Ended(state);
        }
        let began_ns = clock::now();
        let bell = BELL.with(Arc::clone);
        bell.store(QUIET);
        let (id, mut leads) = self.enter(target, &bell);
        counters.slept();
        let mut lookout = Lookout::new();
        let outcome = loop {
            leads = leads || bell.load() == LEAD;
            let until_ns = lookout.or(deadline);
            let step = if leads {
                self.lead(id, target, until_ns, counters)
            } else {
                self.follow(&bell, target, until_ns, counters)
            };
            if let Step::Ended(state) = step {
                break Outcome::Ended(state);
            }
            if lookout.is_due()
                && let Some(outcome) = ask()
            {
                break ended().map_or(outcome, Outcome::Ended);
            }
            if deadline.passed() {
                break ended().map_or(Outcome::TimedOut, Outcome::Ended);
            }
        };
        self.leave(id, leads, Some(&bell));
        if let Outcome::Ended(PointState::Ok { time_ns } | PointState::Failed { time_ns, .. }) = outcome {
            self.spin.slept(began_ns, time_ns);
        }
        outcome
    }

    /// Registers a point for somebody who sleeps elsewhere; the end of the watch ends it.
    pub(crate) fn watch(self: &Arc<Self>, target: Target) -> Watch {
        let mut waiters = self.waiters();
        let id = waiters.add(target, None);
        self.refresh(&waiters, target.slot);
        drop(waiters);
        Watch::Page(PageWatch { observer: Arc::clone(self), id, target })
    }

    fn enter(&self, target: Target, bell: &Arc<Word>) -> (u64, bool) {
        let mut waiters = self.waiters();
        let id = waiters.add(target, Some(Arc::clone(bell)));
        self.refresh(&waiters, target.slot);
        let leads = !waiters.led;
        waiters.led = true;
        (id, leads)
    }

    /// One round of the leader: look at everybody's points, ring, sleep.
    fn lead(&self, id: u64, target: Target, until_ns: u64, counters: &Counters) -> Step {
        let seen = self.face.doorbell();
        self.ring_followers(id);
        match self.state(target) {
            PointState::Pending => Step::of(self.face.sleep(seen, until_ns), counters),
            state => Step::Ended(state),
        }
    }

    /// One round of a follower: look at the own point, sleep on the own bell.
    fn follow(&self, bell: &Word, target: Target, until_ns: u64, counters: &Counters) -> Step {
        match self.state(target) {
            PointState::Pending => {}
            state => return Step::Ended(state),
        }
        let step = Step::of(futex::wait(bell.futex(), QUIET, until_ns), counters);
        // LOOK is answered by the look of the next round; LEAD stays until the wait ends.
        let _was: Result<u32, u32> =
            bell.atomic().compare_exchange(LOOK, QUIET, Ordering::AcqRel, Ordering::Acquire);
        step
    }

    fn ring_followers(&self, leader: u64) {
        let waiters = self.waiters();
        if waiters.list.len() < 2 {
            return;
        }
        for waiter in waiters.list.iter().filter(|waiter| waiter.id != leader) {
            if let Some(bell) = &waiter.bell
                && self.state(waiter.target) != PointState::Pending
            {
                ring(bell, LOOK);
            }
        }
    }

    fn leave(&self, id: u64, led: bool, bell: Option<&Word>) {
        let mut waiters = self.waiters();
        // Under the lock, because that is where one is appointed.
        let led = led || bell.is_some_and(|bell| bell.load() == LEAD);
        if let Some(slot) = waiters.remove(id) {
            self.refresh(&waiters, slot);
        }
        if led {
            // A follower whose point has come would leave at once: whoever leads next rings it.
            let next = waiters.list.iter().find_map(|waiter| waiter.bell.as_ref());
            match next {
                Some(bell) => ring(bell, LEAD),
                None => waiters.led = false,
            }
        }
    }

    /// Makes the interest of a slot what its waiters want: the smallest point, or nothing.
    fn refresh(&self, waiters: &Waiters, slot: Slot) {
        let wanted = waiters.list.iter().filter(|waiter| waiter.target.slot == slot);
        match wanted.map(|waiter| waiter.target.point).min() {
            Some(point) => self.face.set_interest(slot, point),
            None => self.face.clear_interest(slot),
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn add(&mut self, target: Target, bell: Option<Arc<Word>>) -> u64 {
        self.last += 1;
        self.list.push(Waiter { id: self.last, target, bell });
        self.last
    }

    fn remove(&mut self, id: u64) -> Option<Slot> {
        let place = self.list.iter().position(|waiter| waiter.id == id)?;
        Some(self.list.swap_remove(place).target.slot)
    }
}

fn ring(bell: &Word, what: u32) {
    // An appointment is never taken back by a mere LOOK.
    if what == LEAD || bell.load() == QUIET {
        bell.store(what);
    }
    // Waking a private word that exists does not fail.
    drop(futex::wake(bell.futex(), 1));
}

/// A registered point of somebody who sleeps elsewhere.
#[derive(Debug)]
pub(crate) struct PageWatch {
    observer: Arc<Observer>,
    id: u64,
    target: Target,
}

impl PageWatch {
    pub(crate) fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    pub(crate) fn state(&self) -> PointState {
        self.observer.state(self.target)
    }
}

impl Drop for PageWatch {
    fn drop(&mut self) {
        self.observer.leave(self.id, false, None);
    }
}
