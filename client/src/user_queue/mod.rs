//! User queues: a client schedules on a device by itself, with no broker, no system call and no tracking on the way.
//!
//! ```text
//!   Device ── user_queue ─► UserQueue ── bind ─► Binding (a buffer's bytes, at their addresses)
//!                             │  entry("copy").input(..).output(..) ── prepare ─► Prepared
//!                             ├─ push, push_many, push_batch ─► Ticket              │ ▲ set(address)
//!                             └─ wait, reap, wait_all ◄── completions               └─┘
//! ```
//!
//! An entry is 64 bytes in a ring that the driver reads, and its completion 64 bytes in another one. The driver is rung
//! for only when it sleeps, and this thread sleeps only if nothing came while it looked for a moment
//! ([`UserQueueCounters`] says how often). Nobody keeps order but the queue: entries run side by side, unless chained or
//! behind a barrier, and know nothing of jobs or of other queues. A failed entry poisons nothing that was not published; its
//! ticket tells.
//!
//! **Addresses.** Entries name memory by address. A buffer is bound where its bytes are in this process
//! ([`UserQueue::bind`]), so that pointers can be handed to a device as they are, memory that was adopted above all
//! ([`UserQueue::adopt`]); or anywhere else ([`UserQueue::bind_at`]). What is not bound is refused here, before anything is
//! submitted; the driver would say the same, as a fault with the address.
//!
//! **Memory that is not bound.** On a queue that was opened with [`Sva`] entries name any memory of this process, and the
//! driver copies: for programs whose memory is not theirs to bind ([`UserQueue::lend`] says how it is written).
//!
//! **Who may touch the memory meanwhile.** While an entry is under way, guards over bytes that it uses wait for it, as
//! they wait for jobs, and an entry is refused over bytes under a guard that is in its way; two that only read go
//! together. The bytes count as used until the completion was reaped, by whichever call that takes completions in; how
//! the entry ended waits in the queue until it is taken. Pointers are not watched: whoever adopted memory keeps the
//! promise made then. Other processes are not held back, and a loan is not looked at: wait before lending.
//!
//! **Others.** Whoever uses the same bytes by jobs knows nothing of entries: [`UserQueue::publish`] tells them.
//!
//! **Threads.** A queue may be used from several at once: one lock, held for the time of a push or a look. One thread at a
//! time sleeps for completions and hands them on. `&UserQueue` is all that any call needs.
//!
//! **The end.** If the driver dies, or the broker ends the queue, what has not completed has failed: every wait, push and
//! reap says so with the cause. What a dead queue's driver may still write is waited for by guards all the same. If the
//! broker goes, the queue goes on; a wait that ends then without a completion says that it is gone.
//!
//! ```no_run
//! use std::time::Duration;
//! use vgem::{Access, Client};
//!
//! # fn main() -> vgem::Result<()> {
//! let client = Client::connect_default()?;
//! let queue = client.device("copy")?.user_queue(0)?;
//! let (from, to) = (client.create(1 << 20)?, client.create(1 << 20)?);
//! let (src, dst) = (queue.bind(&from, Access::Read)?, queue.bind(&to, Access::Write)?);
//! let soon = Duration::from_secs(1);
//!
//! let ticket = queue.entry("copy").input(src).output(dst).push(soon)?;
//! println!("{} bytes copied", queue.wait(ticket, soon)?.produced);
//! // Guards know of entries: this one would have waited as well.
//! println!("{:?}", to.read(..16, soon)?.first());
//! # Ok(())
//! # }
//! ```

mod arena;
mod bind;
mod binding;
mod draft;
mod locked;
pub(crate) mod open;
mod outcome;
pub(crate) mod prepared;
pub(crate) mod publish;
mod push;
mod range;
mod shared;
pub(crate) mod sva;
mod table;

use std::sync::Arc;

use vgem_proto::ids::Point;
use vgem_proto::user_queue::Order;

use self::push::{Lack, NotPushed};
use self::shared::{Asks, Ended, State};
use crate::core::Core;
use crate::deadline::Deadline;
use crate::device::{Device, DeviceShared, OpChoice};
use crate::draft::Drafts;
use crate::error::{Error, LocalError, Result};
use crate::fence::Fence;
use crate::lookup;

pub use self::binding::Binding;
pub use self::draft::EntryDraft;
pub use self::locked::LockedUserQueue;
pub use self::open::UserQueueOptions;
pub use self::outcome::{EntryDone, EntryFailure, Fault, QueueEnd, Reaped};
pub use self::prepared::Prepared;
pub use self::range::{AddressRange, RangeChoice};
pub(crate) use self::shared::Shared;
pub use self::sva::{Lent, Sva};

/// A queue on which this client schedules by itself. Dropping it closes it, once the last [`Fence`] of it is gone too:
/// what was pushed is carried out, and nobody hears of it.
#[derive(Debug)]
pub struct UserQueue {
    shared: Arc<Shared>,
}

/// One pushed entry: how it ended is taken with this, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) queue: u64,
    pub(crate) slot: u32,
    pub(crate) point: Point,
}

impl Ticket {
    /// The entry's point: its number on the queue, from 1.
    #[must_use]
    pub const fn point(&self) -> Point {
        self.point
    }
}

/// How a batch or an entry comes after what was pushed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum After {
    /// Not at all: it may start at once.
    #[default]
    Nothing,
    /// Only if the entry before it ended well.
    Chained,
    /// When all entries before it have ended.
    Barrier,
}

impl After {
    const fn order(self) -> Order {
        match self {
            Self::Nothing => Order::empty(),
            Self::Chained => Order::CHAIN,
            Self::Barrier => Order::BARRIER,
        }
    }
}

/// What a user queue has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct UserQueueCounters {
    /// Entries that were pushed; a batch is one.
    pub pushed: u64,
    /// System calls that pushes made: one for each time the driver was found asleep, and none while it is awake.
    pub doorbells: u64,
    /// Completions that were taken in.
    pub reaped: u64,
    /// Times a thread found nothing and waited: looked for a moment and then slept, if nothing came meanwhile.
    pub waits: u64,
}

impl Device {
    /// Opens a user queue for `depth` entries: 8 to 4096, rounded up to a power of two; 0 is 256. The first queue of a
    /// device waits until the device's driver is up.
    ///
    /// # Errors
    /// [`LocalError::TooMany`] for too deep a queue; [`Error::Refused`]: `Unavailable` if the driver does not start,
    /// `Exhausted` over quota, or with 16 user queues of this client on the device already, `Unsupported` if the driver takes none; [`Error::System`] without memory; as every request.
    pub fn user_queue(&self, depth: u32) -> Result<UserQueue> {
        self.user_queue_with(UserQueueOptions::new().depth(depth))
    }

    /// As [`Device::user_queue`], with options.
    ///
    /// # Errors
    /// As there.
    pub fn user_queue_with(&self, options: UserQueueOptions) -> Result<UserQueue> {
        let (core, device) = self.parts();
        UserQueue::open(core, device, options)
    }
}

impl UserQueue {
    fn open(core: &Arc<Core>, device: &Arc<DeviceShared>, options: UserQueueOptions) -> Result<Self> {
        let (depth, memory) = (options.ring_depth()?, sva::open_memory(options.sva)?);
        let (request, flags) = options.request(device.id);
        let queue = core.opened(device, depth, core.call_flagged(request, flags)?)?;
        let fd = open::attached(depth, core.call(open::attach(queue.handle, depth))?)?;
        let halves = open::map(depth, &fd)?;
        open::done(&core.call(open::commit(queue.handle))?)?;
        let (len, of) = (options.arena_len(depth), open::arena_options());
        let drafts = Drafts::map(core, 1, len, &of, core.call(of.request(1, len)?)?)?;
        let made = drafts.commit();
        let arena = drafts.committed(&core.call(made)?)?.pop();
        let arena = arena.ok_or_else(|| Error::Protocol("no object was made".into()))?;
        open::done(&core.call(open::bind_arena(queue.handle, &arena))?)?;
        sva::attach_memory(core, queue.handle, memory)?;
        Ok(Self { shared: open::assemble(&queue, halves, arena, options.sva) })
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn over(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.shared.queue.device.name
    }

    /// Entries that may be under way, or ended and not taken, together.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.shared.depth
    }

    /// Entries that have not ended, as far as completions were taken in.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.shared.state().table.under_way()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> UserQueueCounters {
        self.shared.state().counters
    }

    /// Begins to write down an entry: an operation by name, or resolved before.
    pub fn entry<'o>(&self, op: impl Into<OpChoice<'o>>) -> EntryDraft<'_> {
        EntryDraft::new(self, lookup::place(&self.shared.queue.device, op.into()))
    }

    /// Pushes a prepared entry; waits for room, at most until the deadline.
    ///
    /// # Errors
    /// Nothing was submitted then: [`LocalError::NotBound`], [`LocalError::BoundForReading`], [`LocalError::GuardHeld`],
    /// [`LocalError::OtherQueue`]; [`Error::QueueFull`] at the deadline; [`Error::QueueOver`].
    #[inline]
    pub fn push(&self, entry: &Prepared, deadline: impl Into<Deadline>) -> Result<Ticket> {
        let id = self.shared.id;
        self.push_within(deadline.into(), |state| state.push_one(id, entry))
    }

    /// As [`UserQueue::push`], without waiting.
    ///
    /// # Errors
    /// As there; [`Error::QueueFull`] without room now.
    #[inline]
    pub fn try_push(&self, entry: &Prepared) -> Result<Ticket> {
        self.lock().try_push(entry)
    }

    /// Pushes entries in order, all of them or none, with one look whether the driver sleeps; nothing that other threads
    /// push comes in between. Their tickets are appended to `tickets`. Waits for room for all of them.
    ///
    /// # Errors
    /// As [`UserQueue::push`]; [`LocalError::TooMany`] for more than the queue's depth.
    pub fn push_many(
        &self,
        entries: &[Prepared],
        tickets: &mut Vec<Ticket>,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        self.fits(entries)?;
        let id = self.shared.id;
        self.push_within(deadline.into(), |state| state.push(id, entries, |ticket| tickets.push(ticket)))
    }

    /// As [`UserQueue::push_many`], without waiting.
    ///
    /// # Errors
    /// As there; [`Error::QueueFull`] without room now.
    pub fn try_push_many(&self, entries: &[Prepared], tickets: &mut Vec<Ticket>) -> Result<()> {
        self.lock().try_push_many(entries, tickets)
    }

    /// Pushes up to 256 entries as one: one slot, one completion when all have ended, one ticket. Chains and barriers in
    /// it are about the entries of the batch. [`EntryDone::produced`] says how many ended well; if one failed, the failure
    /// is that of the first that did, and [`EntryFailure::value`] its place.
    ///
    /// # Errors
    /// As [`UserQueue::push`]; [`LocalError::Missing`] without an entry, [`LocalError::TooMany`], [`LocalError::NotInBatch`].
    pub fn push_batch(
        &self,
        entries: &[Prepared],
        after: After,
        deadline: impl Into<Deadline>,
    ) -> Result<Ticket> {
        let (id, order) = (self.shared.id, after.order());
        self.push_within(deadline.into(), |state| state.push_batch(id, entries, order))
    }

    /// As [`UserQueue::push_batch`], without waiting.
    ///
    /// # Errors
    /// As there; [`Error::QueueFull`] without room now.
    pub fn try_push_batch(&self, entries: &[Prepared], after: After) -> Result<Ticket> {
        self.lock().try_push_batch(entries, after)
    }

    #[inline]
    fn push_within<T>(
        &self,
        deadline: Deadline,
        mut push: impl FnMut(&mut State) -> Result<T, NotPushed>,
    ) -> Result<T> {
        let mut state = self.shared.state();
        match push(&mut state) {
            Ok(pushed) => Ok(pushed),
            Err(NotPushed::Full(lack)) => {
                drop(state);
                self.push_later(lack, deadline, push)
            }
            Err(why) => Err(self.not_pushed(&state, why)),
        }
    }

    #[cold]
    fn push_later<T>(
        &self,
        mut lack: Lack,
        deadline: Deadline,
        mut push: impl FnMut(&mut State) -> Result<T, NotPushed>,
    ) -> Result<T> {
        let pushed = self.shared.until(deadline, |state| match push(state) {
            Err(NotPushed::Full(what)) => {
                lack = what;
                None
            }
            pushed => Some(pushed),
        })?;
        let pushed = pushed.unwrap_or(Err(NotPushed::Full(lack)));
        pushed.map_err(|why| self.not_pushed(&self.shared.state(), why))
    }

    /// Waits until an entry has ended, and takes how.
    ///
    /// # Errors
    /// [`Error::Entry`] if it failed, with the cause, what is behind it, and the address if it was a fault;
    /// [`Error::QueueOver`] if the queue ended first; [`Error::Timeout`], or [`Error::BrokerLost`] if the broker is gone
    /// by then, and the ticket is still good; [`LocalError::Taken`]; [`LocalError::OtherQueue`].
    pub fn wait(&self, ticket: Ticket, deadline: impl Into<Deadline>) -> Result<EntryDone> {
        self.check(ticket)?;
        match self.shared.until(deadline.into(), |state| self.take(state, ticket))? {
            Some(ended) => self.shared.judged(ended?, Asks::Broker),
            None => Err(self.shared.late("waiting for an entry of a user queue")),
        }
    }

    /// Takes how an entry ended, if it has.
    ///
    /// # Errors
    /// As [`UserQueue::wait`], the deadline aside; a failure carries an explanation only if one was had before.
    #[inline]
    pub fn try_take(&self, ticket: Ticket) -> Result<Option<EntryDone>> {
        self.lock().try_take(ticket)
    }

    #[inline]
    fn take(&self, state: &mut State, ticket: Ticket) -> Option<Result<Ended, LocalError>> {
        let ended = state.take(ticket)?;
        self.shared.made_room(state);
        Some(ended)
    }

    #[inline]
    fn check(&self, ticket: Ticket) -> Result<(), LocalError> {
        if ticket.queue == self.shared.id { Ok(()) } else { Err(LocalError::OtherQueue { what: "ticket" }) }
    }

    /// Says that nobody will ask how an entry ended if it ended well: then its slot is free at once. A failure is kept
    /// for [`UserQueue::wait_all`] and [`UserQueue::reap`]. For a program that pushes more than the queue is deep and waits
    /// for all of it.
    ///
    /// # Errors
    /// [`LocalError::Taken`]; [`LocalError::OtherQueue`].
    pub fn forget(&self, ticket: Ticket) -> Result<()> {
        self.lock().forget(ticket)
    }

    /// Takes an entry that has ended, in any order; waits for one. Nothing if none is under way and none is left.
    ///
    /// # Errors
    /// [`Error::QueueOver`] if the queue is over and none is left; [`Error::Timeout`], or [`Error::BrokerLost`] if the broker
    /// is gone by then. How the entry itself ended is in [`Reaped::result`].
    pub fn reap(&self, deadline: impl Into<Deadline>) -> Result<Option<Reaped>> {
        let found = self.shared.until(deadline.into(), |state| match self.take_any(state) {
            None if state.table.under_way() > 0 => None,
            taken => Some(taken.ok_or_else(|| state.over.clone())),
        })?;
        match found {
            Some(Ok(taken)) => Ok(Some(self.reaped(taken, Asks::Broker))),
            Some(Err(None)) => Ok(None),
            Some(Err(Some(end))) => Err(self.shared.over(end, Asks::Broker)),
            None => Err(self.shared.late("waiting for entries of a user queue")),
        }
    }

    /// As [`UserQueue::reap`], without waiting: nothing if none has ended.
    ///
    /// # Errors
    /// As there, the deadline aside.
    pub fn try_reap(&self) -> Result<Option<Reaped>> {
        self.lock().try_reap()
    }

    fn take_any(&self, state: &mut State) -> Option<(Ticket, Ended)> {
        let taken = state.take_any(self.shared.id)?;
        self.shared.made_room(state);
        Some(taken)
    }

    fn reaped(&self, (ticket, ended): (Ticket, Ended), asks: Asks) -> Reaped {
        Reaped { ticket, result: self.shared.judged(ended, asks) }
    }

    /// Waits until no entry is under way, and takes how all of them ended that were not taken.
    ///
    /// # Errors
    /// That of the first entry that failed, of those it took: [`Error::Entry`]; [`Error::QueueOver`]; [`Error::Timeout`], or
    /// [`Error::BrokerLost`] if the broker is gone by then, and nothing was taken.
    pub fn wait_all(&self, deadline: impl Into<Deadline>) -> Result<()> {
        let mut first: Option<(Point, Ended)> = None;
        let all = self.shared.until(deadline.into(), |state| {
            if state.table.under_way() > 0 {
                return None;
            }
            while let Some((ticket, ended)) = self.take_any(state) {
                let earlier = first.as_ref().is_none_or(|(point, _)| ticket.point < *point);
                if earlier && !matches!(ended, Ended::Done(_)) {
                    first = Some((ticket.point, ended));
                }
            }
            Some(())
        })?;
        match (all, first) {
            (None, _) => Err(self.shared.late("waiting for all entries of a user queue")),
            (Some(()), None) => Ok(()),
            (Some(()), Some((_, ended))) => self.shared.judged(ended, Asks::Broker).map(drop),
        }
    }

    /// The point of an entry as others see it, to wait for along with jobs: done when the entry **and all before it** have
    /// ended. It says nothing of how the entry ended, and takes nothing. A job waits for an entry with
    /// [`crate::Job::after_entry`], which needs a deadline.
    ///
    /// # Errors
    /// [`LocalError::OtherQueue`].
    pub fn fence(&self, ticket: Ticket) -> Result<Fence> {
        self.check(ticket)?;
        Ok(Fence::of_job(self.shared.job(ticket.point)))
    }
}

impl Drop for UserQueue {
    fn drop(&mut self) {
        self.shared.close();
    }
}
