//! Death by hand: a process is killed, and whoever holds the other end of its socket sees it hang up.
//!
//! What a kernel needs for that depends on how much the process maps and how many threads it has, so the victim is made
//! like the process it is compared with.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vgem_os::clock;
use vgem_os::mapping::Mapping;
use vgem_os::seqpacket::Socket;

use super::{Fds, PACKET, PATIENCE_NS, next, receive};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// What a victim is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victims {
    /// Bytes it maps and has touched, beyond its program.
    pub bytes: usize,
    /// Threads beside its first.
    pub threads: usize,
}

impl Victims {
    /// Makes one, kills it, and waits for the hang-up: what that took, nanoseconds.
    ///
    /// # Errors
    /// When there is no process or no hang-up.
    pub fn kill_one(self, cores: &Cores, seat: Seat) -> anyhow::Result<u64> {
        let (here, there) = Socket::pair()?;
        let mut packet = [0; PACKET];
        let (numbers, _) = packet.split_at_mut(16);
        let (bytes, threads) = numbers.split_at_mut(8);
        bytes.copy_from_slice(&(self.bytes as u64).to_le_bytes());
        threads.copy_from_slice(&(self.threads as u64).to_le_bytes());
        let role = Role::start(Part::Victim, vec![there.into()])?;
        here.send(&packet, &[])?;
        receive(&here, &mut packet)?.context("the victim ended by itself")?;
        role.seat(cores, seat)?;
        let before = clock::now();
        role.kill()?;
        hung_up(&here)?;
        Ok(clock::now() - before)
    }
}

/// Waits until a socket hangs up.
///
/// # Errors
/// When it does not within five seconds.
pub(crate) fn hung_up(socket: &Socket) -> anyhow::Result<()> {
    let fd = socket.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Duration::from_nanos(PATIENCE_NS);
    let timeout = Timespec { tv_sec: i64::try_from(patience.as_secs())?, tv_nsec: 0 };
    let ready = poll(&mut fds, Some(&timeout)).context("poll")?;
    anyhow::ensure!(ready == 1, "a killed process did not hang up");
    Ok(())
}

/// Maps and touches as it is told, answers, and waits to be killed.
pub(crate) fn victim(fds: &mut Fds) -> anyhow::Result<()> {
    let link = Socket::from(next(fds)?);
    let mut packet = [0; PACKET];
    receive(&link, &mut packet)?.context("nobody told what to be")?;
    let mut numbers = packet.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight));
    let bytes = usize::try_from(numbers.next().unwrap_or(0))?;
    let threads = numbers.next().unwrap_or(0);
    let memory = (bytes > 0).then(|| Mapping::anonymous(bytes)).transpose()?;
    memory.as_ref().map_or(Ok(()), Mapping::populate_write)?;
    let others: Vec<_> = (0..threads).map(|_| std::thread::spawn(std::thread::park)).collect();
    link.send(&packet, &[])?;
    // Until it is killed nothing comes.
    receive(&link, &mut packet)?;
    drop((memory, others));
    Ok(())
}
