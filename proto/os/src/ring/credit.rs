//! Credits: at most *depth* entries of a client are submitted and not reaped.
//!
//! ```text
//!   client                                     driver
//!   reap: reaped += 1 (private)
//!   push of n: n - told > depth?
//!     told = reaped; REAPED = told (Release)
//!     n - told > depth? full
//!   slot n ────────────────────────────────►   take n: n - known > depth?
//!                                                known = REAPED
//!                                                n - known not in 1..=depth? corrupt
//! ```
//!
//! REAPED is stored before the entry that needs it, so a driver that has acquired the entry sees it. In between, one
//! store and one read per *depth* entries, neither side touches the other's line. What REAPED says protects the client
//! alone: a completion that overwrites another one is the client's own. The driver looks because it must not depend on
//! what it cannot check, and because a client that has gone astray should hear of it.

use std::sync::atomic::Ordering;

use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::Depth;

use super::protocol::Page;

/// The client's side.
#[derive(Debug)]
pub struct ClientCredit {
    depth: u64,
    told: u64,
}

impl ClientCredit {
    /// Of a ring from which nothing was reaped yet.
    #[must_use]
    pub const fn new(depth: Depth) -> Self {
        Self { depth: depth.entries() as u64, told: 0 }
    }

    /// For how many of `wanted` entries from number `next` on there is room, when `reaped` says how many were reaped. It
    /// is asked, and the driver told, only when what it was told before is not enough.
    // M-156
    #[inline]
    pub fn room<M: Page>(&mut self, memory: &M, next: u64, wanted: u64, reaped: impl FnOnce() -> u64) -> u64 {
        if wanted <= self.left(next) {
            return wanted;
        }
        let reaped = reaped();
        if reaped != self.told {
            self.told = reaped;
            memory.release64(u::C_REAPED, reaped);
        }
        wanted.min(self.left(next))
    }

    /// Entries from number `next` on that fit, as far as the driver was told.
    #[inline]
    const fn left(&self, next: u64) -> u64 {
        self.depth.saturating_sub(next.saturating_sub(1).saturating_sub(self.told))
    }
}

/// The driver's side.
#[derive(Debug)]
pub struct DriverCredit {
    depth: u64,
    known: u64,
}

/// A client that has more entries under way than the depth, or says that it reaped what it did not submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCredit {
    /// How many it says it reaped.
    pub reaped: u64,
}

impl DriverCredit {
    /// Of a ring from which nothing was taken yet.
    #[must_use]
    pub const fn new(depth: Depth) -> Self {
        Self { depth: depth.entries() as u64, known: 0 }
    }

    /// Checks that the client may have submitted `number`, which was acquired before.
    ///
    /// # Errors
    /// [`NoCredit`] if not.
    // M-156, M-161
    #[inline]
    pub fn check<M: Page>(&mut self, memory: &M, number: u64) -> Result<(), NoCredit> {
        if number.wrapping_sub(self.known) <= self.depth {
            return Ok(());
        }
        let reaped = memory.load64(u::C_REAPED);
        memory.fence(Ordering::Acquire);
        // Between `number - depth` and `number - 1`: never more than was submitted before this one.
        let under_way = number.wrapping_sub(reaped);
        if under_way == 0 || under_way > self.depth {
            return Err(NoCredit { reaped });
        }
        self.known = reaped;
        Ok(())
    }
}
