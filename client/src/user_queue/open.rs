//! Opening a user queue: the steps, and what is asked and understood in each. They do no I/O, so that both fronts take
//! them.
//!
//! ```text
//!   OpenQueue ─QueueOpened─► AttachRing ─RingAttached─► map, populate ─► CommitRing ─► CreateObject, Commit: the arena
//!        │                                                                                        │
//!        │                       with Sva: AttachMemory, Hand + fd ◄── Bind: the arena ◄──────────┘
//!        └── anything fails from here on: the queue is closed, what was made is given up
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use vgem_os::ring::{self, Producer, Reaper};
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, QueueHandle};
use vgem_proto::layout::user_queue::{DEPTH_LEAST, DEPTH_MOST};
use vgem_proto::limits;
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{AttachRing, Bind, ClientMessage, CommitRing, OpenQueue};
use vgem_proto::rights::Access;

use super::arena::Arena;
use super::shared::Shared;
use super::sva::Sva;
use crate::buffer::Buffer;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::link::unexpected;
use crate::options::BufferOptions;
use crate::queue::QueueShared;

/// Bytes of the arena for each entry, and beyond that: a block of a few parameters with a result cell; a few batches.
const ARENA_PER_ENTRY: u64 = 256;
const ARENA_BASE: u64 = 64 * 1024;

/// What a new user queue is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserQueueOptions {
    depth: u32,
    priority: u8,
    arena: u64,
    pub(crate) sva: Sva,
}

impl UserQueueOptions {
    /// 256 entries, no priority over others, an arena that suits the depth.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries that may be under way or ended and not taken: 8 to 4096, rounded up to a power of two; 0 is 256.
    #[must_use]
    pub const fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// As [`crate::QueueOptions::priority`].
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Bytes of memory for what entries need beyond their own 64 bytes: blocks of parameters and further operands (8 to
    /// 1288 bytes), the bytes of parameters, result cells (64 bytes), arrays of batches (64 bytes per entry). 0 is 256
    /// per entry and 64 KiB.
    #[must_use]
    pub const fn arena(mut self, bytes: u64) -> Self {
        self.arena = bytes;
        self
    }

    /// Whether entries also reach memory of this process that is not bound. The queue gets a driver process of this
    /// client's own, which costs the domain 128 MiB of its quota; a domain has a few of them. Off, if this is not called.
    #[must_use]
    pub const fn sva(mut self, sva: Sva) -> Self {
        self.sva = sva;
        self
    }

    /// The depth as it travels.
    pub(crate) fn ring_depth(self) -> Result<u32> {
        if self.depth > DEPTH_MOST {
            let (count, limit) = (self.depth as usize, DEPTH_MOST as usize);
            return Err(LocalError::TooMany { what: "entries of a user queue", count, limit }.into());
        }
        let depth = if self.depth == 0 { limits::RING_DEPTH_DEFAULT } else { self.depth };
        Ok(depth.next_power_of_two().max(DEPTH_LEAST))
    }

    /// The request for the queue, and its flags. No job is submitted to it, so that it need not be deep.
    pub(crate) const fn request(self, device: DeviceId) -> (OpenQueue, u16) {
        let open = OpenQueue { device, depth: 1, priority: self.priority, reserved: Zero };
        (open, if self.sva.access().is_some() { OPEN_OWN } else { 0 })
    }

    /// Bytes of the arena of a queue this deep.
    pub(crate) fn arena_len(self, depth: u32) -> u64 {
        match self.arena {
            0 => u64::from(depth) * ARENA_PER_ENTRY + ARENA_BASE,
            bytes => bytes,
        }
    }
}

/// What the arena is as a buffer.
pub(crate) fn arena_options() -> BufferOptions {
    BufferOptions::new().name("user queue")
}

/// The request for a ring.
pub(crate) const fn attach(queue: QueueHandle, depth: u32) -> AttachRing {
    AttachRing { queue, depth, reserved: Zero }
}

/// Understands a ring: the fd of its memory.
pub(crate) fn attached(depth: u32, mut reply: Reply) -> Result<OwnedFd> {
    let fds = std::mem::take(&mut reply.fds);
    let ClientMessage::RingAttached(attached) = &reply.message else { return Err(unexpected(&reply)) };
    if attached.depth != depth {
        return Err(Error::Protocol(format!("a ring of {} entries, {depth} were asked for", attached.depth)));
    }
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([fd]) => Ok(fd),
        Err(fds) => Err(Error::Protocol(format!("a ring with {} fds", fds.len()))),
    }
}

/// The request that gives the driver a ring whose pages are all there.
pub(crate) const fn commit(queue: QueueHandle) -> CommitRing {
    CommitRing { queue }
}

/// Maps a ring. Allocates its pages.
pub(crate) fn map(depth: u32, fd: &OwnedFd) -> Result<(Producer, Reaper)> {
    let (producer, reaper) = ring::map_client(fd.as_fd())?;
    let found = producer.depth().entries();
    if found != depth {
        return Err(Error::Protocol(format!(
            "the memory of a ring of {found} entries, {depth} were asked for"
        )));
    }
    Ok((producer, reaper))
}

/// The request that has the driver reach the arena.
pub(crate) fn bind_arena(queue: QueueHandle, arena: &Buffer) -> Bind {
    let (address, access) = (arena.address(), Access::Write);
    let (object, len) = (arena.handle(), arena.len());
    Bind { queue, object, offset: 0, len, address, access, reserved: Zero }
}

/// All of it together.
pub(crate) fn assemble(
    queue: &Arc<QueueShared>,
    halves: (Producer, Reaper),
    arena: Buffer,
    sva: Sva,
) -> Arc<Shared> {
    Arc::new(Shared::new(queue, halves, Arena::over(arena), sva))
}

/// Understands an answer that says nothing but that it was done.
pub(crate) fn done(reply: &Reply) -> Result<()> {
    match &reply.message {
        ClientMessage::Done(_) => Ok(()),
        _ => Err(unexpected(reply)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_is_rounded_up_and_too_deep_is_refused_with_the_limit() {
        let asked = |depth| UserQueueOptions::new().depth(depth).ring_depth().map_err(|e| e.to_string());
        assert_eq!([0, 1, 8, 9, 4096].map(asked), [256, 8, 8, 16, 4096].map(Ok));
        assert_eq!(asked(4097), Err("4097 entries of a user queue, the limit is 4096".into()));
    }
}
