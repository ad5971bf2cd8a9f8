//! What the threads of a client share of one user queue: both halves of the ring, the table, the bindings.
//!
//! ```text
//!   push    lock: bound? a slot, its uses noted, guards? the ring ───────────────────── unlock
//!   look    lock: every completion that is there: its slot has ended, its uses are over ─ unlock
//!   sleep   lock: take the reaper ─ unlock ─ sleep ─ lock: give it back, look, wake the others ─ unlock
//! ```
//!
//! One lock for all of it: without contention it costs less than the cache line that an entry is, and what is noted for
//! guards ([`crate::ledger`]) has to be noted together with the push anyway. A ledger's lock is taken under it and never the
//! other way round. Nobody sleeps with it: the one thread that
//! waits for the driver has taken the reaper out, and the others wait for that one.
//!
//! Invariants: the uses of an entry are noted before it is in the ring and given up after its completion has been reaped;
//! what is not known to have ended when the queue is over, or goes, is entered in its ledger until its point has ended.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use vgem_os::fence::Woke;
use vgem_os::ring::{Corruption, EmptySlot, Producer, PushError, Reaper, Reason};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::layout::user_queue::SLOT_WORDS;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Completion, Words};

use super::arena::Arena;
use super::binding::{Bindings, Bound};
use super::outcome::{EntryDone, EntryFailure, QueueEnd};
use super::prepared::Prepared;
use super::range::AddressRange;
use super::sva::{Lents, Sva};
use super::table::{LENT, State as At, Table};
use super::{Ticket, UserQueueCounters};
use crate::buffer::BufferShared;
use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, LocalError, Result};
use crate::jobpoint::JobPoint;
use crate::ledger::{Ledger, conflict};
use crate::queue::{Queue, QueueShared};

/// How long a thread sleeps before it looks at the deadline and at the broker again.
const SLICE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells queues of this process apart.
    pub(crate) id: u64,
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<QueueShared>,
    pub(crate) depth: u32,
    /// For jobs that publish entries.
    pub(super) publisher: OnceLock<Queue>,
    state: Mutex<State>,
    /// Something has ended, or the reaper is back.
    progress: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) producer: Producer,
    /// Nothing while a thread sleeps with it.
    reaper: Option<Box<Reaper>>,
    pub(crate) table: Table,
    pub(crate) bindings: Bindings,
    pub(crate) lents: Lents,
    pub(crate) arena: Arena,
    /// Slots of entries that are about to be put into the ring, in order.
    pub(crate) staged: Vec<u32>,
    /// Of those that have a piece of the arena, in order: their words.
    pub(crate) in_arena: Vec<Words>,
    pub(crate) over: Option<QueueEnd>,
    pub(crate) counters: UserQueueCounters,
    queue: Arc<QueueShared>,
    /// Threads that wait for the one with the reaper.
    followers: usize,
}

/// No entry: as many are put as are staged.
const NOTHING: Words = [0; SLOT_WORDS];

/// How an entry ended, before what is behind a failure was asked for.
#[derive(Debug)]
pub(crate) enum Ended {
    Done(EntryDone),
    Failed(Box<EntryFailure>),
    /// The queue was over first.
    Lost(QueueEnd),
}

impl Shared {
    pub(crate) fn new(queue: &Arc<QueueShared>, halves: (Producer, Reaper), arena: Arena, sva: Sva) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let (producer, reaper) = halves;
        let depth = producer.depth().entries();
        let state = State {
            producer,
            reaper: Some(Box::new(reaper)),
            table: Table::new(depth),
            bindings: Bindings::default(),
            lents: Lents::new(sva),
            arena,
            staged: Vec::with_capacity(depth as usize),
            in_arena: Vec::new(),
            over: None,
            counters: UserQueueCounters::default(),
            queue: Arc::clone(queue),
            followers: 0,
        };
        Self {
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            core: Arc::clone(&queue.core),
            queue: Arc::clone(queue),
            depth,
            publisher: OnceLock::new(),
            state: Mutex::new(state),
            progress: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the entry with this point, and of all before it, as the fence page tells it.
    pub(crate) fn job(&self, point: Point) -> JobPoint {
        JobPoint::new(Arc::clone(&self.queue), point, 0)
    }

    pub(crate) fn address_of(
        &self,
        buffer: &BufferShared,
        range: &Range<u64>,
        access: Access,
    ) -> Option<AddressRange> {
        self.state().bindings.address_of(buffer, range, access)
    }

    /// Looks until `look` finds something, and sleeps for completions in between; nothing at the deadline.
    ///
    /// # Errors
    /// The system's, if it does not let this thread sleep.
    pub(crate) fn until<T>(
        &self,
        deadline: Deadline,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut state = self.state();
        loop {
            // One completion at a time: the slot behind the last is still with the other core, and costs as much as a wait.
            loop {
                if let Some(found) = look(&mut state) {
                    return Ok(Some(found));
                }
                if !state.take_one() {
                    break;
                }
            }
            // Nothing comes any more, and what is looked for is not there.
            if state.over.is_some() || deadline.passed() {
                return Ok(None);
            }
            let until = deadline.min(Deadline::after(SLICE));
            // With nothing under way no completion will come: it is another thread's turn to take what has ended.
            let reaper = if state.table.under_way() > 0 { state.reaper.take() } else { None };
            state = match reaper {
                Some(reaper) => self.lead(state, reaper, until)?,
                None => {
                    state.followers += 1;
                    let remaining = until.remaining();
                    let mut state = self
                        .progress
                        .wait_timeout(state, remaining)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    state.followers -= 1;
                    state
                }
            };
        }
    }

    /// Something was taken: whoever waits for room looks again.
    pub(crate) fn made_room(&self, state: &State) {
        if state.followers > 0 {
            self.progress.notify_all();
        }
    }

    /// Sleeps for one completion, with the reaper and without the lock.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut reaper: Box<Reaper>,
        until: Deadline,
    ) -> Result<MutexGuard<'a, State>> {
        state.counters.waits += 1;
        drop(state);
        let came = reaper.wait(until.time().0);
        let mut state = self.state();
        state.reaper = Some(reaper);
        let noted = match came {
            Ok(Some(completion)) => {
                state.end(&completion);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => state.no_more(error),
        };
        if state.followers > 0 {
            self.progress.notify_all();
        }
        noted.map(|()| state)
    }

    /// The newest entry of this queue that is in the way of `access` to bytes of this ledger's memory.
    pub(crate) fn in_the_way(&self, ledger: &Ledger, range: &Range<u64>, access: Access) -> Option<Point> {
        let mut state = self.state();
        state.take_in();
        state.in_the_way(ledger, range, access)
    }

    /// Waits until no entry of this queue is in the way.
    pub(crate) fn wait_out(
        &self,
        ledger: &Ledger,
        range: &Range<u64>,
        access: Access,
        deadline: Deadline,
    ) -> Result<()> {
        let free = |state: &mut State| state.in_the_way(ledger, range, access).is_none().then_some(());
        match self.until(deadline, free)? {
            Some(()) => Ok(()),
            None => Err(self.late("waiting for entries of a user queue that use these bytes")),
        }
    }

    /// The error for a deadline that has passed.
    pub(crate) fn late(&self, what: &'static str) -> Error {
        // If the broker died it may be that nobody is left to tell of the driver's end.
        self.core.link.drain();
        self.core.link.check().err().unwrap_or(Error::Timeout { what })
    }

    /// The result of an entry; asks what is behind a failure where there is time to.
    pub(crate) fn judged(&self, ended: Ended, asks: Asks) -> Result<EntryDone> {
        match ended {
            Ended::Done(done) => Ok(done),
            Ended::Failed(mut failure) => {
                failure.explanation = self.behind(failure.cause, asks);
                Err(Error::Entry(failure))
            }
            Ended::Lost(end) => Err(self.over(end, asks)),
        }
    }

    /// The error for a queue that is over.
    pub(crate) fn over(&self, mut end: QueueEnd, asks: Asks) -> Error {
        end.explanation = self.behind(end.cause, asks);
        Error::QueueOver(Box::new(end))
    }

    fn behind(&self, cause: CauseId, asks: Asks) -> Option<Arc<crate::Explanation>> {
        match asks {
            _ if cause == CauseId::NONE => None,
            Asks::Broker => self.core.explain_failure(cause),
            Asks::Nobody => self.core.remembered(cause),
        }
    }

    /// The queue goes: whoever waits for memory of entries under way waits for their points instead.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut state = self.state();
        state.take_in();
        state.give_up(false);
        let bound = state.bindings.take_all();
        if state.over.is_none() {
            let (code, cause) = (ErrorCode::Cancelled, CauseId::NONE);
            let device = Arc::clone(&self.queue.device.name);
            state.over = Some(QueueEnd { device, code, cause, corruption: None, explanation: None });
        }
        drop(state);
        bound.iter().for_each(|bound| bound.ledger.detach(self));
    }

    /// A binding went: its ledger need not ask this queue any more, unless another binding is of the same memory.
    pub(crate) fn unbound(self: &Arc<Self>, bound: &Bound) {
        // Under the lock, so that a bind of the same memory comes before or after.
        let state = self.state();
        if !state.bindings.names(&bound.ledger) {
            bound.ledger.detach(self);
        }
    }
}

/// Whether a failure may be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// The broker, for a moment.
    Broker,
    /// Nobody: what is known here will do.
    Nobody,
}

impl State {
    /// Takes in every completion that is there.
    #[inline]
    pub(crate) fn take_in(&mut self) {
        while self.take_one() {}
    }

    /// Takes in the next completion, if it is there.
    #[inline]
    pub(crate) fn take_one(&mut self) -> bool {
        if self.over.is_some() {
            return false;
        }
        let Some(reaper) = &mut self.reaper else { return false };
        match reaper.reap() {
            Ok(Some(completion)) => self.end(&completion),
            Ok(None) => return false,
            // Looking does not sleep, so the system refuses nothing.
            Err(error) => drop(self.no_more(error)),
        }
        true
    }

    /// An entry has ended.
    #[inline]
    fn end(&mut self, completion: &Completion) {
        if self.over.is_some() {
            return;
        }
        let Some(number) = self.table.owner(completion) else {
            let (reason, at, found) = (Reason::Unsubmitted, completion.point, completion.user);
            let device = &self.queue.device.name;
            self.over_with(QueueEnd::corrupt(device, Corruption { reason, at, found }));
            return;
        };
        self.counters.reaped += 1;
        if completion.failure.is_none() {
            self.heal(number);
        }
        self.release(number);
        let Some(slot) = self.table.get_mut(number) else { return };
        // Nobody asks how one ended that is forgotten: nothing is written down.
        let forgotten = slot.forgotten && completion.failure.is_none();
        if !forgotten {
            slot.completion = *completion;
            self.table.end(number, At::Ended);
        } else {
            self.table.close(number);
        }
    }

    /// The ring is over, or broken.
    fn no_more(&mut self, error: vgem_os::ring::ReapError) -> Result<()> {
        let end = QueueEnd::of(&self.queue.device.name, error)?;
        self.over_with(end);
        Ok(())
    }

    #[cold]
    pub(crate) fn over_with(&mut self, end: QueueEnd) {
        // A ring that says that it is over has nobody any more who takes entries from it.
        let is_ended = end.corruption.is_none();
        self.over.get_or_insert(end);
        self.give_up(is_ended);
    }

    /// Of what is under way nothing will be heard any more. If its driver is known to have ended, nothing more is written.
    fn give_up(&mut self, is_ended: bool) {
        let lost: Vec<u32> = self.table.running().map(|(number, _)| number).collect();
        for number in lost {
            let Self { table, bindings, lents, queue, .. } = self;
            let Some(slot) = table.get_mut(number) else { continue };
            let point = JobPoint::new(Arc::clone(queue), slot.point, 0);
            for one in slot.uses.iter() {
                if one.place == LENT {
                    lents.release(one.start, one.access, is_ended);
                    continue;
                }
                let Some(bound) = bindings.get_mut(one.place) else { continue };
                bound.uses = bound.uses.saturating_sub(1);
                if one.start < one.end {
                    bound.ledger.outlive(&point, one.range(), one.access);
                }
            }
            // The driver may look at its piece still; no entry comes that could use it.
            slot.piece = None;
            table.end(number, At::Lost);
        }
    }

    /// An entry has ended well: what it wrote is good again, for everybody.
    #[inline]
    fn heal(&self, number: u32) {
        let uses = self.table.get(number).into_iter().flat_map(|slot| slot.uses.iter());
        for one in uses.filter(|one| one.heals) {
            if let Some(bound) = self.bindings.get(one.place) {
                bound.ledger.heal(&one.range());
                bound.buffer.tell_rewritten(&one.range());
            }
        }
    }

    /// The uses of an entry are over, and its piece of the arena is free.
    #[inline]
    pub(crate) fn release(&mut self, number: u32) {
        let Self { table, bindings, lents, arena, .. } = self;
        let Some(slot) = table.get_mut(number) else { return };
        for one in slot.uses.iter() {
            if one.place == LENT {
                lents.release(one.start, one.access, true);
            } else if let Some(bound) = bindings.get_mut(one.place) {
                bound.uses = bound.uses.saturating_sub(1);
            }
        }
        slot.cell = None;
        if let Some((piece, has_cell)) = slot.piece.take() {
            slot.cell = has_cell.then(|| arena.cell(piece));
            arena.give_back(piece);
        }
    }

    fn in_the_way(&self, ledger: &Ledger, range: &Range<u64>, access: Access) -> Option<Point> {
        let running = self.table.running().filter(|(_, slot)| {
            slot.uses.iter().any(|one| {
                let bound = self.bindings.get(one.place);
                one.start < one.end
                    && conflict(one.access, &one.range(), access, range)
                    && bound.is_some_and(|bound| std::ptr::eq(&*bound.ledger, ledger))
            })
        });
        running.map(|(_, slot)| slot.point).max()
    }

    /// How the entry of a ticket ended, and takes it; nothing if it is under way.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Result<Ended, LocalError>> {
        let known = self.table.get(ticket.slot).filter(|slot| slot.point == ticket.point);
        match known.map(|slot| slot.state) {
            Some(At::UnderWay) => None,
            Some(At::Ended | At::Lost) => Some(Ok(self.taken(ticket.slot))),
            Some(At::Free) | None => Some(Err(LocalError::Taken { point: ticket.point })),
        }
    }

    /// Nobody will ask how an entry ended, if it ended well; false if that was taken before.
    pub(crate) fn forget(&mut self, ticket: Ticket) -> bool {
        let Some(slot) = self.table.get_mut(ticket.slot).filter(|slot| slot.point == ticket.point) else {
            return false;
        };
        match slot.state {
            At::UnderWay => slot.forgotten = true,
            At::Ended if slot.completion.failure.is_none() => self.table.close(ticket.slot),
            At::Ended | At::Lost => {}
            At::Free => return false,
        }
        true
    }

    /// One that has ended, and takes it.
    pub(crate) fn take_any(&mut self, queue: u64) -> Option<(Ticket, Ended)> {
        let number = self.table.next_done()?;
        let point = self.table.get(number)?.point;
        Some((Ticket { queue, slot: number, point }, self.taken(number)))
    }

    fn taken(&mut self, number: u32) -> Ended {
        let slot = self.table.get(number).filter(|slot| slot.state == At::Ended);
        let ended = match slot {
            Some(slot) => {
                let Completion { produced, value, failure, ended, .. } = slot.completion;
                match failure {
                    None => Ended::Done(EntryDone { produced, value, ended, cell: slot.cell }),
                    Some(failure) => {
                        let device = &self.queue.device.name;
                        Ended::Failed(Box::new(EntryFailure::new(device, &slot.completion, failure)))
                    }
                }
            }
            None => Ended::Lost(self.over.clone().expect("an entry is lost only when the queue is over")),
        };
        self.table.close(number);
        ended
    }

    /// Puts what is staged into the ring: of each entry its slot is. There is room for all.
    #[inline]
    pub(crate) fn submit(&mut self, entries: &[Prepared]) -> Result<(), QueueEnd> {
        let Self { producer, table, staged, in_arena, counters, .. } = self;
        let (mut left, mut in_arena) = (&staged[..], in_arena.iter());
        let mut next = staged.iter().zip(entries).map(|(slot, prepared)| {
            let own = if prepared.extra.is_some() { in_arena.next() } else { None };
            (own.unwrap_or(&prepared.words), u64::from(*slot))
        });
        while !left.is_empty() {
            let fill = |empty: EmptySlot<'_>| {
                let (words, user) = next.next().unwrap_or((&NOTHING, 0));
                empty.fill(words, user)
            };
            match producer.push_each(left.len(), fill) {
                Ok(pushed) => {
                    let first = pushed.point.0 + 1 - pushed.count as u64;
                    let (put, rest) = left.split_at_checked(pushed.count).unwrap_or((left, &[]));
                    for (slot, point) in put.iter().zip(first..) {
                        if let Some(slot) = table.get_mut(*slot) {
                            slot.point = Point(point);
                        }
                    }
                    left = rest;
                    counters.pushed += pushed.count as u64;
                    counters.doorbells += u64::from(pushed.woke == Woke::Sleeper);
                }
                Err(error) => return Err(self.no_more_entries(error)),
            }
        }
        Ok(())
    }

    /// Why the ring takes no entry, though there is room.
    #[cold]
    pub(crate) fn no_more_entries(&self, error: PushError) -> QueueEnd {
        let device = &self.queue.device.name;
        match error {
            PushError::Over(over) => QueueEnd::over(device, &over),
            // A slot of the table was free, so one of the ring is.
            PushError::Full => {
                let (at, found) = (self.producer.next(), self.table.under_way() as u64);
                QueueEnd::corrupt(device, Corruption { reason: Reason::Credit, at, found })
            }
        }
    }
}
