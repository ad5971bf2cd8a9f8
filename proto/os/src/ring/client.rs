//! The client's two halves: it submits entries and reaps completions.
//!
//! ```text
//!   Producer ──push──► submissions            counts what was submitted ─┐ private memory of the client,
//!   Reaper   ◄──reap── completions            counts what was reaped    ─┘ two lines
//! ```
//!
//! Each half has one user at a time, by its type; they may be in different threads. A client of several threads puts
//! each half behind a lock of its own. The driver is believed nothing but what a completion says of its own point, and
//! that the point was submitted is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vgem_proto::ids::Point;
use vgem_proto::user_queue::{Completion, Depth, Entry, Words};

use super::credit::ClientCredit;
use super::memory::{self, MappedRing};
use super::protocol::{self, Found, Lane, Receiver, Ring, Sender};
use super::sleep::{self, Asleep};
use super::{Corruption, Over, Reason};
use crate::clock;
use crate::error::{OsError, Result};
use crate::fence::Woke;
use crate::futex;
use crate::spin::Spin;

/// The halves of a client's ring.
pub(super) fn halves(ring: &Arc<MappedRing>) -> (Producer, Reaper) {
    let depth = ring.depth();
    let counts = Arc::new(Counts::default());
    let sender = memory::sender(ring, Lane::submissions(depth));
    let producer = Producer {
        ring: Arc::clone(ring),
        counts: Arc::clone(&counts),
        sender,
        credit: ClientCredit::new(depth),
    };
    let reaper = Reaper {
        ring: Arc::clone(ring),
        counts,
        receiver: memory::receiver(ring, Lane::completions(depth)),
        spin: Spin::default(),
        corrupt: None,
    };
    (producer, reaper)
}

/// What the two halves tell each other.
#[derive(Debug, Default)]
struct Counts {
    submitted: Line,
    reaped: Line,
}

/// A number on a cache line of its own; two lines, because processors fetch pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// The half that submits.
#[derive(Debug)]
pub struct Producer {
    ring: Arc<MappedRing>,
    counts: Arc<Counts>,
    sender: Sender,
    credit: ClientCredit,
}

/// What was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The point of the last entry. Those before it have the points before.
    pub point: Point,
    /// How many entries were submitted.
    pub count: usize,
    /// Whether a system call was made.
    pub woke: Woke,
}

/// An entry that was not submitted; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// As many entries as the queue is deep are not reaped yet: reap first.
    #[error("the queue is full: reap first")]
    Full,
    /// The ring is over.
    #[error(transparent)]
    Over(#[from] Over),
}

/// A slot of the ring that has to be filled.
#[derive(Debug)]
pub struct EmptySlot<'a> {
    sender: &'a mut Sender,
    ring: &'a MappedRing,
}

/// That a slot was filled.
#[derive(Debug)]
pub struct Filled(());

impl EmptySlot<'_> {
    /// Fills it with the words of an entry, with this `user` for its own.
    #[inline]
    pub fn fill(self, words: &Words, user: u64) -> Filled {
        self.sender.put_for(self.ring, words, user);
        Filled(())
    }
}

impl Producer {
    /// Submits an entry: stores, often a fence, a look; a system call only if the driver sleeps and nobody rang for that yet.
    ///
    /// # Errors
    /// [`PushError`]; nothing was submitted then.
    #[inline]
    pub fn push(&mut self, entry: &Entry) -> Result<Pushed, PushError> {
        self.push_many(std::slice::from_ref(entry))
    }

    /// Submits entries in order, as many as there is room for, with one look for all.
    ///
    /// # Errors
    /// [`PushError`] if not even the first was submitted. Of no entries none is submitted, which is no error.
    #[inline]
    pub fn push_many(&mut self, entries: &[Entry]) -> Result<Pushed, PushError> {
        let mut left = entries.iter();
        self.push_each(entries.len(), |slot| {
            let (words, user) = left.next().map(|entry| (entry.encode(), entry.user)).unwrap_or_default();
            slot.fill(&words, user)
        })
    }

    /// Submits an entry that is encoded, with this `user` for its own.
    ///
    /// # Errors
    /// As [`Producer::push`].
    #[inline]
    pub fn push_encoded(&mut self, words: &Words, user: u64) -> Result<Pushed, PushError> {
        self.push_each(1, |slot| slot.fill(words, user))
    }

    /// As [`Producer::push_many`], of `wanted` entries that are asked for one by one, as they are put into the ring: only
    /// as many as there is room for.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn push_each(
        &mut self,
        wanted: usize,
        mut fill: impl FnMut(EmptySlot<'_>) -> Filled,
    ) -> Result<Pushed, PushError> {
        if let Some(over) = protocol::over(&*self.ring) {
            return Err(over.into());
        }
        let reaped = || self.counts.reaped.0.load(Ordering::Acquire);
        let room = self.credit.room(&*self.ring, self.sender.next(), wanted as u64, reaped);
        if room == 0 && wanted > 0 {
            return Err(PushError::Full);
        }
        let count = usize::try_from(room).unwrap_or(usize::MAX);
        // Before the driver can answer the first of them.
        let last = self.sender.next() - 1 + room;
        self.counts.submitted.0.store(last, Ordering::Release);
        for _ in 0..count {
            let Filled(()) = fill(EmptySlot { sender: &mut self.sender, ring: &self.ring });
        }
        Ok(Pushed { point: Point(last), count, woke: self.ring() })
    }

    /// The point of the entry that is submitted next.
    #[must_use]
    pub const fn next(&self) -> Point {
        Point(self.sender.next())
    }

    /// How many entries may be submitted and not reaped.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.ring.depth()
    }

    #[inline]
    fn ring(&mut self) -> Woke {
        match self.sender.ring(&*self.ring, clock::now) {
            Ring::Quiet => Woke::Nobody,
            Ring::Wake => wake(&self.ring, self.sender.lane()),
        }
    }
}

/// Wakes the one sleeper of a lane.
#[cold]
pub(super) fn wake(ring: &MappedRing, lane: &Lane) -> Woke {
    let woken = futex::wake(ring.doorbell(lane), 1);
    debug_assert!(woken.is_ok(), "the doorbell is mapped: {woken:?}");
    Woke::Sleeper
}

/// The half that reaps.
#[derive(Debug)]
pub struct Reaper {
    ring: Arc<MappedRing>,
    counts: Arc<Counts>,
    receiver: Receiver,
    spin: Spin,
    corrupt: Option<Corruption>,
}

/// Why there are no more completions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReapError {
    /// The ring is over: what has not completed has failed with this. What the driver had taken before may still
    /// complete, for who cares to look again.
    #[error(transparent)]
    Over(#[from] Over),
    /// The driver broke the ring, and says the same for ever.
    #[error("the driver broke the queue: {0}")]
    Corrupt(#[from] Corruption),
    /// The system refused to let this thread sleep.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl Reaper {
    /// The next completion, or nothing if there is none yet. Completions come in any order; each names its point.
    ///
    /// # Errors
    /// [`ReapError::Over`] if there is none and there need not be one any more; [`ReapError::Corrupt`].
    #[inline]
    pub fn reap(&mut self) -> Result<Option<Completion>, ReapError> {
        let Self { ring, counts, receiver, corrupt, .. } = self;
        reap(ring, counts, receiver, corrupt)
    }

    /// Waits for the next completion until `deadline_ns` (absolute CLOCK_MONOTONIC); nothing if none came. 0 does not
    /// wait.
    ///
    /// # Errors
    /// As [`Reaper::reap`]; [`ReapError::Os`] as [`futex::wait`].
    #[inline]
    pub fn wait(&mut self, deadline_ns: u64) -> Result<Option<Completion>, ReapError> {
        let Self { ring, counts, receiver, spin, corrupt } = self;
        let look = |receiver: &mut Receiver| reap(ring, counts, receiver, corrupt).transpose();
        sleep::wait(ring, receiver, spin, deadline_ns, None, look)?.transpose()
    }

    /// Says that this client sleeps, to sleep on several words at once; nothing if there is something to reap, or the
    /// ring is over.
    pub fn fall_asleep(&mut self) -> Option<Asleep<'_>> {
        let Self { ring, receiver, .. } = self;
        Asleep::unless(ring, receiver, |receiver| {
            receiver.is_ready(&**ring) || protocol::over(&**ring).is_some()
        })
    }

    /// How many completions were reaped.
    #[must_use]
    pub const fn reaped(&self) -> u64 {
        self.receiver.next() - 1
    }
}

#[inline]
fn reap(
    ring: &MappedRing,
    counts: &Counts,
    receiver: &mut Receiver,
    corrupt: &mut Option<Corruption>,
) -> Result<Option<Completion>, ReapError> {
    if let Some(corruption) = corrupt {
        return Err((*corruption).into());
    }
    let words = match receiver.look_until_over(ring)? {
        Found::Nothing => return Ok(None),
        Found::Words(words) => words,
        Found::Wrong(sequence) => {
            let corruption = receiver.corrupt(Reason::Sequence, sequence.into());
            return Err((*corrupt.insert(corruption)).into());
        }
    };
    let completion = Completion::decode(&words);
    let submitted = counts.submitted.0.load(Ordering::Acquire);
    if completion.point.0 == 0 || completion.point.0 > submitted || receiver.next() > submitted {
        let corruption = receiver.corrupt(Reason::Unsubmitted, completion.point.0);
        return Err((*corrupt.insert(corruption)).into());
    }
    let number = receiver.accept();
    // The slots it gives back were read before.
    counts.reaped.0.store(number, Ordering::Release);
    Ok(Some(completion))
}
