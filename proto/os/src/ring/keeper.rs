//! The broker's face of a ring: it makes the memory, hands it out twice, and gives the verdict.
//!
//! It maps the first page alone and reads nothing of it: neither side's words decide anything here.

use std::os::fd::{AsFd as _, OwnedFd};

use vgem_proto::error::Failure;
use vgem_proto::user_queue::Depth;

use super::memory::MappedRing;
use super::protocol::{self, Lane};
use crate::error::Result;
use crate::futex;
use crate::memory::{Access, HugePages, ObjectMemory};

/// The broker's face of a ring.
#[derive(Debug)]
pub struct KeeperRing {
    memory: ObjectMemory,
    header: MappedRing,
}

impl KeeperRing {
    /// Makes the memory of a user queue of this depth: sealed, and empty but for its header.
    ///
    /// # Errors
    /// As [`ObjectMemory::create`] and `mmap`.
    pub fn create(depth: Depth) -> Result<Self> {
        let memory = ObjectMemory::create(depth.memory_len() as u64, HugePages::None, "vgem-user-queue")?;
        let header = MappedRing::format(memory.as_fd(), depth)?;
        Ok(Self { memory, header })
    }

    /// Takes a ring back from an fd that was kept over a restart.
    ///
    /// # Errors
    /// As [`ObjectMemory::from_kept`]; `EINVAL` if it is no user queue.
    pub fn from_kept(fd: OwnedFd) -> Result<Self> {
        let memory = ObjectMemory::from_kept(fd)?;
        let header = MappedRing::map_header(memory.as_fd())?;
        Ok(Self { memory, header })
    }

    /// A duplicate for the keeper process.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        self.memory.duplicate()
    }

    /// A fresh fd, for reading and writing: one for the client, one for the driver.
    ///
    /// # Errors
    /// As [`ObjectMemory::export`].
    pub fn export(&self) -> Result<OwnedFd> {
        self.memory.export(Access::Write)
    }

    /// Whether every page is there, touched by somebody.
    ///
    /// # Errors
    /// As [`ObjectMemory::is_populated`].
    pub fn is_populated(&self) -> Result<bool> {
        self.memory.is_populated()
    }

    /// How many entries it holds.
    #[must_use]
    pub const fn depth(&self) -> Depth {
        self.header.depth()
    }

    /// Ends the ring: the driver is dead, or the queue is closed. The first verdict stands. Wakes a client that sleeps.
    pub fn kill(&self, failure: Failure) {
        protocol::kill(&self.header, failure);
        let bell = self.header.doorbell(&Lane::completions(self.header.depth()));
        // A client has one sleeper; it passes the wake-up on inside its process.
        let woken = futex::wake(bell, 1);
        debug_assert!(woken.is_ok(), "the doorbell is mapped: {woken:?}");
    }
}
