//! A client in a process of its own, and how two of them come to wait for each other.
//!
//! ```text
//!   this process                              second process (a role)
//!   connection, link, export of the buffer ─► client over it, buffer imported, timeline made
//!   token of our timeline ───────link───────► imported
//!   imported ◄───────────────────link──────── token of its timeline
//! ```
//!
//! After that nobody speaks to the broker: each signals its own timeline and waits for the other's.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use vgem::{Access, Buffer, Client, ClientOptions, Deadline, Timeline, TimelineRights, TimelineToken};
use vgem_os::seqpacket::Socket;

use super::Vgemd;
use crate::floor::{Fds, PACKET, PATIENCE_NS, next, receive};

/// What a second process is given first: a connection, a link, an fd of a buffer for each export.
///
/// # Errors
/// When the broker cannot be reached or does not export.
pub(crate) fn given(vgemd: &Vgemd, buffers: &[(&Buffer, Access)]) -> anyhow::Result<(Socket, Vec<OwnedFd>)> {
    let connection = Socket::connect(vgemd.embedded.socket())?;
    let (here, there) = Socket::pair()?;
    here.set_recv_timeout(Some(Duration::from_nanos(PATIENCE_NS)))?;
    let mut fds = vec![connection.into(), there.into()];
    for (buffer, access) in buffers {
        fds.push(buffer.export(*access)?);
    }
    Ok((here, fds))
}

/// The second process's side: its client and its link.
///
/// # Errors
/// When the broker does not greet.
pub(crate) fn taken(name: &str, fds: &mut Fds) -> anyhow::Result<(Client, Socket)> {
    let options = ClientOptions::new().name(name).request_timeout(Duration::from_secs(10));
    let client = options.over(Socket::from(next(fds)?))?;
    Ok((client, Socket::from(next(fds)?)))
}

/// A buffer whose fd was given.
///
/// # Errors
/// When it cannot be imported.
pub(crate) fn imported(client: &Client, fds: &mut Fds) -> anyhow::Result<Buffer> {
    Ok(client.import_fd(next(fds)?)?)
}

/// Sends somebody the right to wait for a timeline.
///
/// # Errors
/// When the broker refuses, or the link is closed.
pub(crate) fn send_token(link: &Socket, timeline: &mut Timeline) -> anyhow::Result<()> {
    let token = timeline.export(TimelineRights::WAIT)?.to_bytes();
    let mut packet = [0; PACKET];
    packet.iter_mut().zip(token).for_each(|(place, byte)| *place = byte);
    Ok(link.send(&packet, &[])?)
}

/// Takes the right to wait for a timeline that somebody sends.
///
/// # Errors
/// When nothing comes, or the broker refuses.
pub(crate) fn take_token(link: &Socket, client: &Client) -> anyhow::Result<Timeline> {
    let packet = pass_token(link)?;
    let token = packet.first_chunk().context("a packet is longer than a token")?;
    Ok(client.import_timeline(TimelineToken::from_bytes(*token))?)
}

/// Takes a token that is for somebody else.
///
/// # Errors
/// When nothing comes.
pub(crate) fn pass_token(link: &Socket) -> anyhow::Result<[u8; PACKET]> {
    let mut packet = [0; PACKET];
    receive(link, &mut packet)?.context("the other side has gone")?;
    Ok(packet)
}

/// A deadline that no bench reaches.
#[must_use]
pub(crate) fn in_time() -> Deadline {
    Deadline::after(super::PATIENCE)
}
