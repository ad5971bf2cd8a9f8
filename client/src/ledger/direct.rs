//! The ledger and user queues: guards and entries that keep out of each other's way without a lock in common.
//!
//! ```text
//!   guard   ledger locked: held += 1 ─► each queue locked: is an entry in the way?   yes: held -= 1, wait
//!   push    queue locked:  the entry is noted ─► held != 0? ─► ledger locked: is a guard in the way?   yes: refused
//! ```
//!
//! Each side says what it does before it looks for the other, and both orders go through the queue's lock: whichever comes
//! second sees the first. So no guard is had over bytes that an entry which has not ended writes, and no entry is pushed
//! that would write under a guard, or read under one that writes.
//!
//! Locks are taken in one order: a queue's, then a ledger's. What a queue could not see the end of (it was dropped, or is
//! over) it enters as a use that ends with its point in the fence page; a guard looks for such uses once more after it has
//! asked the queues.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use vgem_proto::rights::Access;

use super::terms::conflict;
use super::{Ledger, Use};
use crate::error::LocalError;
use crate::jobpoint::JobPoint;
use crate::user_queue::Shared;
use crate::waitable::Waitable;

impl Ledger {
    /// Some of the memory is about to be bound to `queue`.
    pub(crate) fn attach(&self, queue: &Arc<Shared>) {
        let (mut state, queue) = (self.state(), Arc::downgrade(queue));
        if !state.queues.iter().any(|known| known.ptr_eq(&queue)) {
            state.queues.push(queue);
        }
    }

    /// Nothing of the memory is bound to `queue` any more.
    pub(crate) fn detach(&self, queue: &Arc<Shared>) {
        let queue = Arc::downgrade(queue);
        self.state().queues.retain(|known| !known.ptr_eq(&queue));
    }

    /// Whether an entry may be pushed that uses these bytes. Its queue is locked, and has noted it.
    #[inline]
    pub(crate) fn admit(&self, range: &Range<u64>, access: Access) -> Result<(), Box<LocalError>> {
        if self.held.load(Ordering::Relaxed) == 0 { Ok(()) } else { self.look_for_guards(range, access) }
    }

    #[cold]
    fn look_for_guards(&self, range: &Range<u64>, access: Access) -> Result<(), Box<LocalError>> {
        let state = self.state();
        let mut guards = state.guards.iter();
        match guards.find(|held| conflict(held.access, &held.range, access, range)) {
            None => Ok(()),
            Some(held) => {
                let (offset, len) = (held.range.start, held.range.end - held.range.start);
                Err(Box::new(LocalError::GuardHeld { offset, len }))
            }
        }
    }

    /// Whether an entry that writes these bytes makes up for something that failed to, if it ends well. Its queue is locked.
    #[inline]
    pub(crate) fn is_to_heal(&self, range: &Range<u64>, access: Access) -> bool {
        access == Access::Write && self.suspect.load(Ordering::Relaxed) && self.look_for_failures(range)
    }

    #[cold]
    fn look_for_failures(&self, range: &Range<u64>) -> bool {
        let mut state = self.state();
        state.uses.retain(|one| !one.ended_well());
        let is_suspect = state.uses.iter().any(|one| one.access == Access::Write) || state.poisons.is_any();
        self.suspect.store(is_suspect, Ordering::Relaxed);
        is_suspect && state.is_poisoned(range)
    }

    /// An entry has written these bytes anew, of which [`Ledger::is_to_heal`] said so when it was pushed.
    #[cold]
    pub(crate) fn heal(&self, range: &Range<u64>) {
        self.state().heal(range);
    }

    /// From now on an entry that writes looks for what has failed.
    pub(super) fn suspects(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// An entry that its queue lost sight of uses these bytes until its point has ended.
    pub(crate) fn outlive(&self, point: &JobPoint, range: Range<u64>, access: Access) {
        let by = Waitable::Job(point.clone());
        self.state().uses.push(Use { by, range, access, told: false, remembered: None });
        self.suspects();
    }

    /// A queue with an entry that is in the way of `access` to these bytes.
    pub(super) fn busy(&self, range: &Range<u64>, access: Access) -> Option<Arc<Shared>> {
        let queues = self.state().queues.clone();
        let mut queues = queues.iter().filter_map(Weak::upgrade);
        queues.find(|queue| queue.in_the_way(self, range, access).is_some())
    }

    /// The point at which no entry of some queue is in the way any more, if one is now.
    pub(super) fn entry_in_the_way(&self, range: &Range<u64>, access: Access) -> Option<Waitable> {
        let queues = self.state().queues.clone();
        let mut queues = queues.iter().filter_map(Weak::upgrade);
        queues.find_map(|queue| {
            let point = queue.in_the_way(self, range, access)?;
            Some(Waitable::Job(queue.job(point)))
        })
    }
}
