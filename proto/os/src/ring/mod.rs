//! The ring of a user queue: how a client gives work to a driver, and hears how it ended, without asking anybody.
//!
//! One sealed memory file holds two rings of as many slots (layout: `vgem_proto::layout::user_queue`; records:
//! `vgem_proto::user_queue`). The client and one driver instance map it for writing; the broker maps its first page:
//!
//! ```text
//!   client                       one memory file                        driver instance
//!   [`Producer`] ── entries ────► submissions ────────────────────────► [`Consumer`]
//!   [`Reaper`]   ◄──────────────── completions ◄─────── completions ─── [`Completer`]
//!       ▲                             ▲ verdict                             │
//!       │                      broker ([`KeeperRing`])                      │
//!       └───────────── fence page: the queue's timeline ◄───────────────────┘
//! ```
//!
//! What it is not: trusted. Each side keeps its place in both rings in private memory, reads each word of a slot once,
//! and decodes the copy. A side that writes nonsense where the other reads is found out and the ring is *over*, with a
//! reason; a side that writes where it alone is read from confuses itself. Nobody ever waits for the other without a
//! deadline, and the driver waits for a client only by sleeping when it has nothing to do.
//!
//! # Slots and credits
//!
//! A slot is a cache line. Its sequence says whether it holds the entry that is expected next, so one line moves per
//! entry and no shared head or tail does. Whether there is room nobody reads from the ring either: every entry has
//! exactly one completion, and a client has at most *depth* entries that it has not reaped. Reaping entry n therefore
//! gives back a slot of both rings. The client tells the driver how many it has reaped, once in a depth, before it goes
//! beyond what the driver knows; so a completion ring that is full is a client that lied, the driver finds out when it
//! takes the entry, and does not block: the ring is over.
//!
//! # What a waiter looks at
//!
//! A queue has a timeline as every queue has, and a fence of the queue is (timeline, point): the driver signals it in
//! the fence pages of whoever observes it, once per turn, for all points up to which everything has ended. But who
//! waits for an entry of its own looks at the **completion ring**: one line brings the sequence and the whole result,
//! where the fence page would bring a number, and the completion a second miss. The fence page is for others (jobs of
//! other devices, other processes) and for the end: a verdict is there also when the ring's words were scribbled over.
//! A completion is in its ring before its point is signalled, so who saw the point finds the completion.
//!
//! # States
//!
//! ```text
//!   open ──Consumer::end, [`KeeperRing::kill`]──► over (code, cause, what was found)       for good
//!
//!   a slot:   free ─put─► full ─take─► owed ([`Owed`]) ─complete─► completed ─reap─► free
//! ```
//!
//! Completions may come in any order; each names its point. A driver that runs entries side by side keeps chains,
//! barriers and the value of the timeline with a [`Sequencer`]. What was taken before the ring was over may still complete,
//! and everything else has failed with the code and the cause of the end.
//!
//! # Sleeping
//!
//! Whoever has nothing to do spins for a moment if that paid lately ([`crate::spin`]), says so in a word of its own and
//! sleeps. The other makes a system call only then, and once per sleep. The exact order of stores and looks is in
//! [`protocol`]; loom runs it.

mod client;
pub mod credit;
mod driver;
mod keeper;
mod memory;
mod order;
pub mod protocol;
mod sleep;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vgem_proto::error::Failure;
use vgem_proto::ids::Point;
use vgem_proto::user_queue::Depth;

pub use self::client::{EmptySlot, Filled, Producer, PushError, Pushed, ReapError, Reaper};
pub use self::driver::{Completer, Consumer, Done, Owed, Popped, Turn};
pub use self::keeper::KeeperRing;
use self::memory::MappedRing;
pub use self::order::{Sequencer, Start};
pub use self::sleep::Asleep;
use crate::error::Result;
use crate::mapping::Populate;

/// Maps a user queue as its client: the half that submits and the half that reaps. Each may go to a thread of its own.
///
/// Every page is populated, so that the client's cgroup pays for them; do it before the driver has the memory.
///
/// # Errors
/// As [`crate::memory::verify_export`]; `EINVAL` if it is no user queue, or not as long as its depth asks for; the errno
/// of `mmap` and of populating.
pub fn map_client(fd: BorrowedFd<'_>) -> Result<(Producer, Reaper)> {
    let ring = Arc::new(MappedRing::map(fd, Populate::Now)?);
    Ok(client::halves(&ring))
}

/// Maps a user queue as its driver: the half that takes entries and the half that completes them.
///
/// # Errors
/// As [`map_client`], populating aside.
pub fn map_driver(fd: BorrowedFd<'_>) -> Result<(Consumer, Completer)> {
    let ring = Arc::new(MappedRing::map(fd, Populate::Lazy)?);
    Ok(driver::halves(&ring))
}

/// All four halves of a ring in private memory of this process: for tests, models and measurements.
///
/// # Errors
/// The errno of `mmap`.
pub fn within_process(depth: Depth) -> Result<(Producer, Reaper, Consumer, Completer)> {
    let ring = Arc::new(MappedRing::private(depth)?);
    let (producer, reaper) = client::halves(&ring);
    let (consumer, completer) = driver::halves(&ring);
    Ok((producer, reaper, consumer, completer))
}

/// What one side found in the part of a ring that the other writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{reason} at {at:?}: found {found:#x}")]
pub struct Corruption {
    /// What is wrong.
    pub reason: Reason,
    /// The number of the entry or completion at which it was found.
    pub at: Point,
    /// What was there: the sequence, the count of reaped entries, or the point.
    pub found: u64,
}

/// What can be wrong with a ring. Open: a number this version does not know survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// A slot has neither the sequence it had nor the next one.
    #[error("a sequence that is not the next one")]
    Sequence,
    /// More entries than the depth are not reaped, or more were reaped than there were.
    #[error("more entries than the depth allows")]
    Credit,
    /// A completion for a point that was not submitted.
    #[error("a completion of what was not submitted")]
    Unsubmitted,
    /// A reason of a newer version.
    #[error("reason {0}")]
    Other(u32),
}

impl Reason {
    /// The number in the ring's header.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Sequence => 1,
            Self::Credit => 2,
            Self::Unsubmitted => 3,
            Self::Other(number) => number,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Sequence,
            2 => Self::Credit,
            3 => Self::Unsubmitted,
            other => Self::Other(other),
        }
    }
}

/// Why a ring is over: what is not completed has failed with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Over {
    /// The code and the cause; ask the broker to explain it.
    pub failure: Failure,
    /// What the driver found, if that is why.
    pub corruption: Option<Corruption>,
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the queue is over: {}", self.failure.code)?;
        match &self.corruption {
            Some(corruption) => write!(f, " ({corruption})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Over {}
