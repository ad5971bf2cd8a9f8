//! Fence pages: how one process tells another that a point was reached, without asking anybody.
//!
//! A pair of 4 KiB pages belongs to one signaller and one observer (layout: `vgem_proto::layout`):
//!
//! ```text
//!               fence page (values, failures, doorbell)
//!   signaller ────────────────────────────────────────► observer   sleeps on the doorbell
//!       ▲                    ▲ death words                 │
//!       │                    broker (keeper of the pair)   │
//!       └──────────────────────────────────────────────────┘
//!               interest page ("asleep until point N of slot k")
//! ```
//!
//! Each process holds a **face** of the pair:
//! - [`KeeperFace`], the broker's: hands out the fds, reads everything, writes the death words, settles the
//!   pages of a signaller that died.
//! - [`SignallerFace`]: writes slots, reads interest. Signalling is a few stores, a fence and a load; a system
//!   call only if the interest page says that somebody sleeps for this point.
//! - [`ObserverFace`]: reads slots, writes interest, sleeps.
//!
//! What it is not: shared by two observers (a read-only mapper could steal another's wake-up with
//! `FUTEX_REQUEUE`), or trusted: a signaller can write nonsense into its own values, an observer into its own
//! interest, and each hurts itself alone. Death words are looked at first, so what a dead or undead signaller
//! wrote never outlives the broker's verdict.
//!
//! States of a slot, as an observer that asks for (generation g, point p) sees it:
//!
//! ```text
//!  unused ─publish(g)─► published(g): p > value Pending ─signal─► p <= value: Ok | Failed | Overrun
//!    ▲                      │                                         (failure ring: the last 8)
//!    └──────retire──────────┘      broker: dead_from <= p, or the page is dead and p > value ─► Failed
//! ```
//!
//! The exact order of stores and looks, and why no wake-up is lost, is in [`protocol`]; that of a timeline in several
//! pages, of which some come late, in [`late`]. A loom test runs both.

mod keeper;
pub mod late;
mod observer;
mod page;
pub mod protocol;
mod signaller;

use std::os::fd::OwnedFd;

pub use self::keeper::{KeeperFace, PagePair};
pub use self::observer::ObserverFace;
pub use self::protocol::{Failure, NotNewer, PointState, Slot, SlotSnapshot};
pub use self::signaller::{SignallerFace, Verdict, Woke, signal_everywhere};

/// What the signaller of a pair is given.
#[derive(Debug)]
pub struct SignallerFds {
    /// The fence page, for reading and writing.
    pub page: OwnedFd,
    /// The interest page, for reading.
    pub interest: OwnedFd,
}

/// What the observer of a pair is given.
#[derive(Debug)]
pub struct ObserverFds {
    /// The fence page, for reading.
    pub page: OwnedFd,
    /// The interest page, for reading and writing.
    pub interest: OwnedFd,
}
