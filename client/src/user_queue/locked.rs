//! A user queue that one thread has for itself for a while.
//!
//! A queue may be used from several threads, so each call locks it: two atomic operations of the processor, each of which
//! waits until everything stored before can be seen by other cores. That is more than all else that a push to a driver
//! that is awake does. Who pushes many locks once.

use std::sync::MutexGuard;

use super::push::{Lack, NotPushed};
use super::shared::{Asks, State};
use super::{After, EntryDone, Prepared, Reaped, Ticket, UserQueue};
use crate::error::{Error, LocalError, Result};

/// A [`UserQueue`] to which other threads come only when this is dropped; [`UserQueue::lock`] makes it.
///
/// ```no_run
/// # fn push_all(queue: &vgem::UserQueue, entries: &[vgem::Prepared]) -> Result<Vec<vgem::Ticket>, vgem::Error> {
/// let mut locked = queue.lock();
/// entries.iter().map(|entry| locked.try_push(entry)).collect()
/// # }
/// ```
///
/// Nothing here waits, because other threads would; they wait while this exists, also those that wait for an entry, and one
/// of them may just have taken in the completion that this looks for: whoever asks for one again and again gives this up
/// in between. A thread that has it waits for ever if it calls the queue itself, binds or unbinds there, takes a guard of
/// memory that is bound to the queue, or gives back such memory that was borrowed.
#[derive(Debug)]
pub struct LockedUserQueue<'a> {
    queue: &'a UserQueue,
    state: MutexGuard<'a, State>,
}

impl UserQueue {
    /// Keeps other threads from the queue, for several calls in a row.
    #[must_use]
    #[inline]
    pub fn lock(&self) -> LockedUserQueue<'_> {
        LockedUserQueue { queue: self, state: self.shared.state() }
    }
}

impl LockedUserQueue<'_> {
    /// As [`UserQueue::try_push`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn try_push(&mut self, entry: &Prepared) -> Result<Ticket> {
        let pushed = self.state.push_one(self.queue.shared.id, entry);
        pushed.map_err(|why| self.queue.not_pushed(&self.state, why))
    }

    /// As [`UserQueue::try_push_many`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_push_many(&mut self, entries: &[Prepared], tickets: &mut Vec<Ticket>) -> Result<()> {
        self.queue.fits(entries)?;
        let pushed = self.state.push(self.queue.shared.id, entries, |ticket| tickets.push(ticket));
        pushed.map_err(|why| self.queue.not_pushed(&self.state, why))
    }

    /// As [`UserQueue::try_push_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn try_push_batch(&mut self, entries: &[Prepared], after: After) -> Result<Ticket> {
        let pushed = self.state.push_batch(self.queue.shared.id, entries, after.order());
        pushed.map_err(|why| self.queue.not_pushed(&self.state, why))
    }

    /// As [`UserQueue::try_take`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_take(&mut self, ticket: Ticket) -> Result<Option<EntryDone>> {
        self.queue.check(ticket)?;
        let mut ended = self.queue.take(&mut self.state, ticket);
        while ended.is_none() && self.state.take_one() {
            ended = self.queue.take(&mut self.state, ticket);
        }
        ended.map(|ended| self.queue.shared.judged(ended?, Asks::Nobody)).transpose()
    }

    /// As [`UserQueue::try_reap`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_reap(&mut self) -> Result<Option<Reaped>> {
        let mut taken = self.queue.take_any(&mut self.state);
        if taken.is_none() {
            self.state.take_in();
            taken = self.queue.take_any(&mut self.state);
        }
        match (taken, &self.state.over) {
            (Some(taken), _) => Ok(Some(self.queue.reaped(taken, Asks::Nobody))),
            (None, Some(end)) => Err(self.queue.shared.over(end.clone(), Asks::Nobody)),
            (None, None) => Ok(None),
        }
    }

    /// As [`UserQueue::forget`].
    ///
    /// # Errors
    /// As there.
    pub fn forget(&mut self, ticket: Ticket) -> Result<()> {
        self.queue.check(ticket)?;
        if !self.state.forget(ticket) {
            return Err(LocalError::Taken { point: ticket.point }.into());
        }
        self.queue.shared.made_room(&self.state);
        Ok(())
    }
}

impl UserQueue {
    /// No more entries at once than the queue is deep.
    #[inline]
    pub(super) fn fits(&self, entries: &[Prepared]) -> Result<(), LocalError> {
        crate::batch::at_most("entries pushed at once", entries.len(), self.shared.depth as usize)
    }

    #[cold]
    pub(super) fn not_pushed(&self, state: &State, why: NotPushed) -> Error {
        match why {
            NotPushed::Wrong(mistake) => (*mistake).into(),
            NotPushed::Over(end) => self.shared.over(*end, Asks::Nobody),
            NotPushed::Full(lack) => {
                let lacks = match lack {
                    Lack::Slots => "slots",
                    Lack::Arena => "room in its arena",
                };
                let (under_way, untaken) = (state.table.under_way(), state.table.untaken());
                let device = self.shared.queue.device.name.clone();
                Error::QueueFull { device, lacks, under_way, untaken, depth: self.shared.depth }
            }
        }
    }
}
