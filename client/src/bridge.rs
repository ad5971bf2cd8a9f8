//! The bridge: from fences to tasks. One thread per client, started by the first task that waits.
//!
//! ```text
//!   task ── poll: pending ── register(watch, waker) ──► entries ◄── thread: look at all, wake tasks,
//!     ▲                              └── ring ─────────────────►      sleep on every page and the own word
//!     └────────────────────────── waker ───────────────────────┘
//! ```
//!
//! It never touches the socket but to see whether the broker is there, runs no code of tasks but their wakers, and
//! ends with its client. Without entries it sleeps on its own word alone.
//!
//! Cancel safety: a dropped [`Ticket`] takes its entry with it; nothing else changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use vgem_os::clock;
use vgem_os::fence::PointState;
use vgem_os::futex::{self, Word};

use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::link::Link;
use crate::pages::Lookout;
use crate::watch::{Bells, Watch};

/// How long the thread sleeps when there is nothing to watch, nanoseconds.
const IDLE_NS: u64 = 3_600_000_000_000;

#[derive(Debug)]
pub(crate) struct Bridge {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    word: Word,
    state: Mutex<State>,
    link: Arc<Link>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    last: u64,
    runs: bool,
    stop: bool,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// What the task waits for; nothing if it waits for its deadline, or for an errand that wakes it.
    watch: Option<Watch>,
    deadline: Deadline,
    waker: Waker,
    /// Its task was woken and has not come back yet.
    fired: bool,
}

impl Entry {
    fn has_ended(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.state() != PointState::Pending)
    }
}

/// A task's entry.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    id: u64,
}

impl Bridge {
    pub(crate) fn new(link: Arc<Link>, counters: Arc<Counters>) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { word: Word::new(0), state, link, counters }) }
    }

    /// Has a task woken when its point comes, at its deadline, and when the broker goes. Look once more afterwards.
    pub(crate) fn register(
        &self,
        watch: Option<Watch>,
        deadline: Deadline,
        waker: &Waker,
    ) -> Result<Ticket, String> {
        let mut state = self.shared.state();
        if !state.runs {
            let shared = Arc::clone(&self.shared);
            std::thread::Builder::new()
                .name("vgem-bridge".into())
                .spawn(move || shared.run())
                .map_err(|error| format!("no thread to watch fences: {error}"))?;
            state.runs = true;
        }
        state.last += 1;
        let id = state.last;
        state.entries.push(Entry { id, watch, deadline, waker: waker.clone(), fired: false });
        drop(state);
        self.shared.ring();
        Ok(Ticket { shared: Arc::clone(&self.shared), id })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.ring();
    }
}

impl Ticket {
    /// The task came back and still waits.
    pub(crate) fn renew(&self, waker: &Waker) {
        let mut state = self.shared.state();
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == self.id) else { return };
        entry.waker.clone_from(waker);
        let again = std::mem::take(&mut entry.fired);
        drop(state);
        if again {
            self.shared.ring();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(place) = state.entries.iter().position(|entry| entry.id == self.id) {
            let entry = state.entries.swap_remove(place);
            drop(state);
            drop(entry);
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut lookout = Lookout::new();
        loop {
            let seen = self.word.load();
            let Some((bells, wakers, until)) = self.look(&lookout) else { return };
            wakers.into_iter().for_each(Waker::wake);
            let woken = bells.sleep(Some((self.word.futex(), seen)), until);
            if woken && self.word.load() == seen {
                self.counters.woke();
            }
            if lookout.is_due() {
                // The end of the broker is read too.
                self.link.drain();
            }
        }
    }

    /// What to sleep on, whom to wake, and until when; nothing when it is time to end.
    fn look(&self, lookout: &Lookout) -> Option<(Bells, Vec<Waker>, u64)> {
        let mut state = self.state();
        if state.stop {
            return None;
        }
        // Of a refused batch its tasks find out by themselves.
        let lost = self.link.check().is_err() || self.link.has_unused();
        let bells = Bells::of(
            state.entries.iter().filter(|entry| !entry.fired).filter_map(|entry| entry.watch.as_ref()),
        );
        let mut wakers = Vec::new();
        let mut until = clock::deadline_in(IDLE_NS);
        for entry in state.entries.iter_mut().filter(|entry| !entry.fired) {
            if lost || entry.deadline.passed() || entry.has_ended() {
                entry.fired = true;
                wakers.push(entry.waker.clone());
            } else {
                until = until.min(lookout.or(entry.deadline));
            }
        }
        Some((bells, wakers, until))
    }

    fn ring(&self) {
        self.word.bump();
        // Waking a private word that exists does not fail.
        drop(futex::wake(self.word.futex(), 1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
