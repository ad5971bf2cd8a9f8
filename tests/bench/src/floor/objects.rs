//! An object by hand: the system calls that memory needs to be what an object is, and nothing else.
//!
//! memfd, mode, length, seals, a re-opened fd for the owner; an export, mapped and populated by the user; a mapping of
//! the pinner, locked. One more export, mapped, is apart. And the yardstick of the way to a broker: a packet there and one back
//! that brings an fd.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory};
use vgem_os::pin::Pin;
use vgem_os::seqpacket::{Packet, Socket};

use super::PACKET;
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// Makes objects by hand. Dropping one unmaps, unlocks and closes everything of it.
#[derive(Debug)]
pub struct Objects;

/// One object by hand.
#[derive(Debug)]
pub struct Bare {
    _pin: Pin,
    _mapping: Mapping,
    memory: ObjectMemory,
}

impl Bare {
    /// One more export, mapped for reading.
    ///
    /// # Errors
    /// The errno of the call that failed.
    pub fn share(&self) -> anyhow::Result<Mapping> {
        let export = self.memory.export(Access::Read)?;
        let len = usize::try_from(self.memory.len())?;
        Ok(Mapping::map(export.as_fd(), len, Access::Read, Populate::Lazy)?)
    }
}

impl Objects {
    /// Memory of `len` bytes, made, exported, mapped, populated and pinned.
    ///
    /// # Errors
    /// The errno of the call that failed; not all of it pinned.
    pub fn make(len: usize) -> anyhow::Result<Bare> {
        let memory = ObjectMemory::create(len as u64, HugePages::Advise, "bare")?;
        let mapping = Mapping::map(memory.export(Access::Write)?.as_fd(), len, Access::Write, Populate::Now)?;
        let pin = Pin::lock(memory.as_fd(), len as u64)?;
        anyhow::ensure!(pin.bytes() == len as u64, "{} of {len} bytes pinned", pin.bytes());
        Ok(Bare { _pin: pin, _mapping: mapping, memory })
    }
}

/// Packets there, and back with an fd.
#[derive(Debug)]
pub struct FdPackets {
    socket: Socket,
    echo: Role,
    fds: Vec<OwnedFd>,
}

impl FdPackets {
    /// Starts the other end.
    ///
    /// # Errors
    /// When a process, a socket or memory cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (socket, there) = Socket::pair()?;
        let memory = ObjectMemory::create(4096, HugePages::None, "fd")?.export(Access::Write)?;
        let echo = Role::start(Part::FdEcho, vec![there.into(), memory])?;
        Ok(Self { socket, echo, fds: Vec::new() })
    }

    /// Puts the other end on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.echo.seat(cores, seat)
    }

    /// One packet there, and back with an fd, which is closed.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn round_trip(&mut self) -> anyhow::Result<()> {
        let mut packet = [0; PACKET];
        self.socket.send(&packet, &[])?;
        let got = self.socket.recv(&mut packet, &mut self.fds)?;
        anyhow::ensure!(matches!(got, Packet::Data { .. }), "{got:?} instead of an echo");
        self.fds.pop().context("the echo brought no fd")?;
        Ok(())
    }
}
