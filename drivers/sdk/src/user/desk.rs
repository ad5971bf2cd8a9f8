//! What the control thread tells the thread of a ring, which looks between two entries.
//!
//! ```text
//!   control thread ──post: change, bump, wake──► [ the newest address space, what is to be told of it, whether to stop ]
//!                                                          │ take: after an entry was taken, before it is looked at
//!                                                          ▼
//!                                                     ring's thread
//! ```
//!
//! Looking costs one load while there is nothing. What is newest counts, so posting never waits and nothing piles up but
//! addresses that were unbound, of which there are at most as many as there may be ranges.
//!
//! An entry that its client submitted after the broker was answered finds what the answer was about: the change was
//! posted before the answer was sent, and the thread looks after it has taken the entry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::space::AddressSpace;
use crate::platform::{Os, Platform};

/// Why a ring's thread is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The queue closes: the broker is to be told.
    Close,
    /// There is nobody to tell.
    Leave,
}

/// What there is to know since the last look.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The address space from now on.
    pub(super) space: Option<Arc<AddressSpace>>,
    /// Ranges that are not in it any more, and for which the broker waits.
    pub(super) unbound: Vec<u64>,
    /// How often the broker waits to hear that the windows in it are those.
    pub(super) windows: u32,
    /// Whether to end.
    pub(super) stop: Option<Stop>,
}

/// Where mail is left for one thread.
pub(super) struct Desk<P: Platform = Os> {
    platform: P,
    word: P::Word,
    mail: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mail: Mail,
    left: bool,
}

impl<P: Platform> Desk<P> {
    /// An empty one.
    pub(super) fn new(platform: P) -> Self {
        Self { word: platform.word(), platform, mail: Mutex::default() }
    }

    /// Leaves mail, and wakes the thread if it sleeps; whether it is there to read it.
    pub(super) fn post(&self, change: impl FnOnce(&mut Mail)) -> bool {
        let mut state = self.lock();
        if state.left {
            return false;
        }
        change(&mut state.mail);
        drop(state);
        self.platform.ring(&self.word, 1);
        true
    }

    /// The mail, if there is more than when the word held `seen`; notes what it holds now.
    #[inline]
    pub(super) fn take(&self, seen: &mut u32) -> Option<Mail> {
        let now = self.platform.seen(&self.word);
        if now == *seen {
            return None;
        }
        *seen = now;
        Some(std::mem::take(&mut self.lock().mail))
    }

    /// The thread looks no more; the mail that it has not seen.
    pub(super) fn leave(&self) -> Mail {
        let mut state = self.lock();
        state.left = true;
        std::mem::take(&mut state.mail)
    }

    /// Whether the thread looks no more.
    pub(super) fn is_left(&self) -> bool {
        self.lock().left
    }

    /// The word to sleep on while it holds what was seen.
    pub(super) const fn word(&self) -> &P::Word {
        &self.word
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
