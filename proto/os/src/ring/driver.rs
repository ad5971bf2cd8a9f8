//! The driver's two halves: it takes entries and completes them.
//!
//! ```text
//!   Consumer ──turn──► Popped { owed, entry or why it is refused } ──► engine ──► Completer::complete(owed, ..)
//! ```
//!
//! A client can write anything at any time. The consumer copies each entry once, checks that the client had the credit
//! for it, decodes the copy, and takes at most so many in a turn that other queues get theirs. An entry that makes no
//! sense is refused and completes as any other; only what makes the ring itself senseless ends it. [`Owed`] stands for
//! the one completion that every entry taken must have, so nothing completes twice and the completion ring holds all.

use std::sync::Arc;

use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::user_queue::{Completion, Depth, Entry, EntryError, FaultReason};

use super::client::wake;
use super::credit::DriverCredit;
use super::memory::{self, MappedRing};
use super::protocol::{self, Found, Lane, Receiver, Ring, Sender};
use super::sleep::{self, Asleep};
use super::{Corruption, Over, Reason};
use crate::clock;
use crate::error::Result;
use crate::fence::Woke;
use crate::futex::FutexWord;
use crate::spin::Spin;

/// The halves of a driver's ring.
pub(super) fn halves(ring: &Arc<MappedRing>) -> (Consumer, Completer) {
    let depth = ring.depth();
    let consumer = Consumer {
        ring: Arc::clone(ring),
        receiver: memory::receiver(ring, Lane::submissions(depth)),
        credit: DriverCredit::new(depth),
        spin: Spin::default(),
        corrupt: None,
        ended: false,
    };
    // A driver makes its own fences: who takes part in those of others is interrupted by whoever likes, also by another
    // domain, and a driver has other clients too.
    let completer = Completer { ring: Arc::clone(ring), sender: Sender::new(Lane::completions(depth)) };
    (consumer, completer)
}

/// The half that takes entries.
#[derive(Debug)]
pub struct Consumer {
    ring: Arc<MappedRing>,
    receiver: Receiver,
    credit: DriverCredit,
    spin: Spin,
    corrupt: Option<Corruption>,
    ended: bool,
}

/// An entry taken from the ring.
#[derive(Debug)]
#[must_use]
pub struct Popped {
    /// The completion it must have.
    pub owed: Owed,
    /// What it asks for, or why it is refused ([`Completer::refuse`]).
    pub entry: Result<Entry, EntryError>,
}

/// The one completion that an entry must have. Dropped, the entry never ends and the client has a slot less.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Owed {
    point: Point,
    user: u64,
}

impl Owed {
    /// The entry's point on the queue's timeline.
    #[must_use]
    pub const fn point(&self) -> Point {
        self.point
    }
}

impl Consumer {
    /// The next entry, or nothing if there is none.
    ///
    /// # Errors
    /// [`Corruption`], now and for ever: tell the broker, then [`Consumer::end`] the ring.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Popped>, Corruption> {
        if let Some(corruption) = self.corrupt {
            return Err(corruption);
        }
        if self.ended {
            return Ok(None);
        }
        let words = match self.receiver.look(&*self.ring) {
            Found::Nothing => return Ok(None),
            Found::Words(words) => words,
            Found::Wrong(sequence) => return Err(self.corrupted(Reason::Sequence, sequence.into())),
        };
        if let Err(no_credit) = self.credit.check(&*self.ring, self.receiver.next()) {
            return Err(self.corrupted(Reason::Credit, no_credit.reaped));
        }
        let [_, user, ..] = words;
        let owed = Owed { point: Point(self.receiver.accept()), user };
        Ok(Some(Popped { owed, entry: Entry::decode(&words) }))
    }

    /// At most `most` entries: one turn of this queue.
    // M-160
    pub const fn turn(&mut self, most: usize) -> Turn<'_> {
        Turn { consumer: self, left: most }
    }

    /// Waits until there is something to take, until `deadline_ns` (absolute CLOCK_MONOTONIC); whether there is. 0 does
    /// not wait.
    ///
    /// # Errors
    /// As [`crate::futex::wait`].
    pub fn wait(&mut self, deadline_ns: u64) -> Result<bool> {
        let Self { ring, receiver, spin, ended, .. } = self;
        let look = |receiver: &mut Receiver| (!*ended && receiver.is_ready(&**ring)).then_some(());
        Ok(sleep::wait(ring, receiver, spin, deadline_ns, None, look)?.is_some())
    }

    /// As [`Consumer::wait`], and comes back too when `word` is not what was `seen` of it: with nothing to take, perhaps.
    ///
    /// # Errors
    /// As [`crate::futex::wait_any`].
    pub fn wait_beside(&mut self, (word, seen): (FutexWord<'_>, u32), deadline_ns: u64) -> Result<bool> {
        let Self { ring, receiver, spin, ended, .. } = self;
        let look = |receiver: &mut Receiver| (!*ended && receiver.is_ready(&**ring)).then_some(());
        Ok(sleep::wait(ring, receiver, spin, deadline_ns, Some((word, seen)), look)?.is_some())
    }

    /// Whether there is something to take. Never after [`Consumer::end`].
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        !self.ended && self.receiver.is_ready(&*self.ring)
    }

    /// Says that this driver sleeps, to sleep on several words at once; nothing if there is something to take.
    pub fn fall_asleep(&mut self) -> Option<Asleep<'_>> {
        let Self { ring, receiver, ended, .. } = self;
        Asleep::unless(ring, receiver, |receiver| !*ended && receiver.is_ready(&**ring))
    }

    /// Takes no more from the ring and tells the client why: after a [`Corruption`], or because the queue is to end.
    /// The cause is to be known to the broker before. What was taken is still completed. The first end stands.
    pub fn end(&mut self, failure: Failure) {
        self.ended = true;
        let over = Over { failure, corruption: self.corrupt };
        protocol::end(&*self.ring, over, clock::now());
        wake(&self.ring, &Lane::completions(self.ring.depth()));
    }

    /// The point that is taken next.
    #[must_use]
    pub const fn next(&self) -> Point {
        Point(self.receiver.next())
    }

    /// How many entries the client may have under way.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.ring.depth()
    }

    #[cold]
    fn corrupted(&mut self, reason: Reason, found: u64) -> Corruption {
        *self.corrupt.insert(self.receiver.corrupt(reason, found))
    }
}

/// A turn: entries until there is none, the turn is over, or the ring is corrupt, which comes last.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a> {
    consumer: &'a mut Consumer,
    left: usize,
}

impl Iterator for Turn<'_> {
    type Item = Result<Popped, Corruption>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let popped = self.consumer.pop().transpose();
        if !matches!(popped, Some(Ok(_))) {
            self.left = 0;
        }
        popped
    }
}

/// The half that completes entries.
#[derive(Debug)]
pub struct Completer {
    ring: Arc<MappedRing>,
    sender: Sender,
}

/// How an entry ended, beside what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Bytes produced. Of a batch: entries of it that ended ok.
    pub produced: u64,
    /// The number that the operation defines; of what failed, what goes with the code.
    pub value: u64,
    /// The failure, if it is one.
    pub failure: Option<Failure>,
    /// With [`ErrorCode::AddressFault`]: the first address that could not be reached.
    pub address: u64,
}

impl Done {
    /// Nothing was produced and nothing went wrong.
    pub const OK: Self = Self { produced: 0, value: 0, failure: None, address: 0 };

    /// Failed.
    #[must_use]
    pub const fn failed(code: ErrorCode, cause: CauseId) -> Self {
        Self { failure: Some(Failure { code, cause }), ..Self::OK }
    }

    /// An address of the entry could not be reached.
    // M-167
    #[must_use]
    pub const fn fault(address: u64, why: FaultReason, cause: CauseId) -> Self {
        Self { address, value: why.number(), ..Self::failed(ErrorCode::AddressFault, cause) }
    }
}

impl Completer {
    /// Completes an entry and wakes the client if it sleeps. Signal the point afterwards.
    #[inline]
    pub fn complete(&mut self, owed: Owed, done: Done, ended: Time) -> Woke {
        self.put(owed, done, ended);
        self.ring()
    }

    /// Completes an entry without looking whether the client sleeps: [`Completer::ring`] comes after the last of a turn.
    // M-153, M-164
    #[inline]
    pub fn put(&mut self, owed: Owed, done: Done, ended: Time) {
        let Owed { point, user } = owed;
        let Done { produced, value, failure, address } = done;
        let completion = Completion { user, point, produced, value, failure, address, ended };
        self.sender.put(&*self.ring, &completion.encode());
    }

    /// Wakes the client if it sleeps.
    #[inline]
    pub fn ring(&mut self) -> Woke {
        match self.sender.ring(&*self.ring, clock::now) {
            Ring::Quiet => Woke::Nobody,
            Ring::Wake => wake(&self.ring, self.sender.lane()),
        }
    }

    /// Completes an entry that is refused. Wakes nobody, as [`Completer::put`].
    // M-152
    pub fn refuse(&mut self, owed: Owed, why: EntryError, cause: CauseId, ended: Time) {
        self.put(owed, Done { value: why.value(), ..Done::failed(why.code(), cause) }, ended);
    }
}
