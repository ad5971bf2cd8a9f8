//! The floors: what vgemd is compared with, written by hand as well as it can be.
//!
//! They use the wrappers of `vgem-os`, which are as thin as calls by hand: one system call each, no allocation. What
//! vgemd adds to them (rules, reservations, generations, limits) is exactly what a ratio shows.
//!
//! | floor | is compared with |
//! |---|---|
//! | [`Tracked`]: client, broker and driver over SEQPACKET, the driver signals the client's fence page | a tracked job |
//! | [`Packets`]: a packet there and back | acceptance of a job |
//! | [`Flags`]: a number and a futex in shared memory | fences |
//! | [`FlagEcho`]: a flag there and back; [`FenceEcho`]: the same through fence pages | driver to driver |
//! | [`Handover`]: a buffer filled here and read there, mapped once | hand-over between clients, and by peers |
//! | [`Stages`]: three processes, one buffer handed from each to the next, by flags or by copy through sockets | a pipeline of clients |
//! | [`slots`]: a ring of slots with a sequence number in each, between two cores | a user queue's throughput |
//! | [`Victims`]: a process that is killed, until its socket hangs up | death of a driver or a client |
//! | [`InProcess`]: the engines in one process, two threads | the main job |
//! | [`Objects`]: memory made, sealed, mapped, populated, pinned, exported and mapped again | an object |
//! | [`EpollBroker`]: a broker that answers packets of many busy clients | one job per message |
//!
//! This file holds what the second processes do; the files beside it the side that measures.

mod broker;
mod death;
mod echo;
mod flags;
mod handover;
mod objects;
mod pipeline;
mod points;
pub mod slots;
pub(crate) mod stages;
mod tracked;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;
use rustix::event::epoll;
use vgem_os::fence::{SignallerFace, SignallerFds};
use vgem_os::seqpacket::{Packet, Socket};

pub use self::broker::EpollBroker;
pub use self::death::Victims;
pub(crate) use self::death::victim;
pub use self::echo::{FenceEcho, FlagEcho};
pub(crate) use self::echo::{fence_echo, flag_echo};
pub use self::flags::{Flag, Flags, Rest};
pub(crate) use self::handover::consume;
pub use self::handover::{Handover, Look};
pub use self::objects::{FdPackets, Objects};
pub use self::pipeline::{Disk, InProcess, Took};
pub use self::points::{GENERATION, SLOT, Waiter};
pub use self::stages::{Order, Place, Stages, Transport};
pub(crate) use self::stages::{flag_stage, socket_stage};
pub use self::tracked::{Packets, Tracked};

/// Bytes of a packet.
pub const PACKET: usize = 64;

/// How long a floor waits for its other half before it gives up, nanoseconds.
pub const PATIENCE_NS: u64 = 5_000_000_000;

/// A role's inherited fds, in the order they were given.
pub type Fds = std::vec::IntoIter<OwnedFd>;

pub(crate) fn next(fds: &mut Fds) -> anyhow::Result<OwnedFd> {
    fds.next().context("the role was given too few fds")
}

/// Receives one packet; nothing when the other side is gone.
pub(crate) fn receive(socket: &Socket, packet: &mut [u8; PACKET]) -> anyhow::Result<Option<usize>> {
    match socket.recv_plain(packet)? {
        Packet::Data { len } => Ok(Some(len)),
        Packet::Closed => Ok(None),
        Packet::TooLong { len } => anyhow::bail!("a packet of {len} bytes"),
    }
}

/// Sends each packet back.
pub(crate) fn echo(fds: &mut Fds) -> anyhow::Result<()> {
    let socket = Socket::from(next(fds)?);
    let mut packet = [0; PACKET];
    while let Some(len) = receive(&socket, &mut packet)? {
        socket.send(&packet[..len], &[])?;
    }
    Ok(())
}

/// Answers each packet with the same packet and an fd of its own memory.
pub(crate) fn fd_echo(fds: &mut Fds) -> anyhow::Result<()> {
    let socket = Socket::from(next(fds)?);
    let memory = next(fds)?;
    let mut packet = [0; PACKET];
    while let Some(len) = receive(&socket, &mut packet)? {
        socket.send(&packet[..len], &[memory.as_fd()])?;
    }
    Ok(())
}

/// Sends each packet back, over all sockets it was given.
pub(crate) fn epoll_echo(fds: &mut Fds) -> anyhow::Result<()> {
    let sockets: Vec<Socket> = fds.map(Socket::from).collect();
    let mut packet = [0; PACKET];
    serve(&sockets, |socket| match receive(socket, &mut packet)? {
        Some(len) => Ok(socket.send(&packet[..len], &[]).map(|()| true)?),
        None => Ok(false),
    })
}

/// Passes packets on: from all sockets but the first, to the first.
pub(crate) fn broker(fds: &mut Fds) -> anyhow::Result<()> {
    let driver = Socket::from(next(fds)?);
    let clients: Vec<Socket> = fds.map(Socket::from).collect();
    let mut packet = [0; PACKET];
    serve(&clients, |socket| match receive(socket, &mut packet)? {
        Some(len) => Ok(driver.send(&packet[..len], &[]).map(|()| true)?),
        None => Ok(false),
    })
}

/// Signals the next point for each packet.
pub(crate) fn driver(fds: &mut Fds) -> anyhow::Result<()> {
    let socket = Socket::from(next(fds)?);
    let fence = SignallerFace::map(SignallerFds { page: next(fds)?, interest: next(fds)? })?;
    fence.publish(SLOT, GENERATION, 0, 0, &[]);
    let mut packet = [0; PACKET];
    let mut point = 0;
    while receive(&socket, &mut packet)?.is_some() {
        point += 1;
        fence.signal(SLOT, point, 0, None)?;
    }
    Ok(())
}

/// Serves each socket that has a packet, until the first one says that its client is gone.
fn serve(sockets: &[Socket], mut one: impl FnMut(&Socket) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll_create1")?;
    for (number, socket) in sockets.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, socket, data, epoll::EventFlags::IN).context("epoll_ctl")?;
    }
    let mut events = [MaybeUninit::uninit(); 64];
    loop {
        let ready = match epoll::wait(&poll, &mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("epoll_wait")?.0,
        };
        for event in ready {
            let socket = usize::try_from(event.data.u64()).ok().and_then(|number| sockets.get(number));
            if !one(socket.context("an event of a socket that was never added")?)? {
                return Ok(());
            }
        }
    }
}
