//! The doorman role: has the listening socket of one domain, which somebody else has bound, and accepts there.
//!
//! ```text
//!   creator ══ channel (fd 3) ══► listener, close fd ─► examine ─► DoorFits │ Unfit ══ link (fd 4) ══► broker
//!                                      │
//!            one thread: accept ─► look for fds ─► Visitor + connection ══════════════════════════════►
//!                          └ may wait here for ever
//!            the other: the close fd hangs up ─► DoorEnds ════════════════════════════════════════════►, and the end of both
//! ```
//!
//! Whoever else has the same listening socket can take its O_NONBLOCK away and accept first: then an `accept` that was to
//! find somebody waits. So this is a process that nobody needs but the domain at this very door, and in it `accept` has a
//! thread of its own, which needs nothing to end. Whoever shares the socket can have its connections take fds again, too
//! (`SO_PASSRIGHTS`). Fds must not get to the broker, which could be held up for ever by closing them: so fds are refused
//! on each connection that was accepted, and one in which some lie already is closed here.
//!
//! **Pace.** The link has room for a handful of connections that the broker has not taken, and who sends one more waits.
//! The broker takes them as fast as it lets in at any door, so those who wait do so in the backlog of their own socket.
//!
//! What it is not: a judge of who may come in, or of names. The broker looks at a connection again and asks the kernel whose
//! it is.
//!
//! Invariants:
//! - It is confined before it receives anything (M-258).
//! - It takes one HandDoor; what is refused is told before it is closed, and closing it may not come back.
//! - Nothing goes to the broker with an fd but a connection without fds in it that takes none (M-259).
//! - It ends when the close fd hangs up, when the broker is gone, and after [`IDLE`] without a HandDoor.

mod accept;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use tracing::debug;
use vgem_os::arrival::{self, CloseFd, Unfit as NotFit};
use vgem_os::confine::{self, Demand};
use vgem_os::seqpacket::{Listener, Packet, Socket};
use vgem_os::{OsError, process};
use vgem_proto::codec::{HEAD_LEN, Zero};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::porter::{DoorEnds, DoorFits, PorterMessage, Unfit};
use vgem_proto::message::{Head, Sender};

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::keeper::{PORTER_CHANNEL, PORTER_LINK};

/// How long a doorman waits for its door.
const IDLE: Duration = Duration::from_secs(10);

/// Room for what the broker has not taken, bytes; the kernel doubles it, and counts most of a thousand for a connection.
const ON_WAY: usize = 2304;

/// Runs the role to its end.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    crate::log::start(&crate::log::filter(cli.log.as_deref(), "info"), "doorman")?;
    let wrong = |e| Failure::new(Exit::Usage, format!("--role doorman is for vgemd itself: {e}"));
    let channel = Socket::from(process::inherited(PORTER_CHANNEL).map_err(wrong)?);
    let link = Socket::from(process::inherited(PORTER_LINK).map_err(wrong)?);
    let confined = confine::doorman(Demand::BestEffort)?;
    debug!("{confined:?}");
    serve(channel, link, IDLE)
}

/// Takes a door, and serves at it until its end.
fn serve(channel: Socket, link: Socket, idle: Duration) -> Result<(), Failure> {
    link.set_send_buffer(ON_WAY)?;
    let Some((listener, close)) = take(&channel, &link, idle)? else { return Ok(()) };
    // Whoever has the other end may go.
    drop(channel);
    let accepts = accept::Accepting::start(listener, &link)?;
    if close.wait(link.as_fd())? {
        debug!("ends: the close fd has hung up");
        // When there is no room the broker sees the end of this process, soon.
        if let Err(e) = link.send_now(&DoorEnds {}.encode(0, Time(0), 0)) {
            debug!("{e}");
        }
    }
    accepts.leave();
    Ok(())
}

/// Takes the one message that there is, and tells the broker of it; nothing if that is no door, or none comes.
fn take(channel: &Socket, link: &Socket, idle: Duration) -> Result<Option<(Listener, CloseFd)>, Failure> {
    if !comes(channel, link, idle)? {
        debug!("ends: nothing came");
        return Ok(None);
    }
    let (mut buffer, mut fds) = (vec![0; limits::MESSAGE_LEN], Vec::new());
    let received = channel.recv(&mut buffer, &mut fds);
    let bytes = match received {
        Ok(Packet::Data { len }) => buffer.get(..len).unwrap_or_default(),
        Ok(Packet::TooLong { .. }) | Err(_) => buffer.get(..HEAD_LEN).unwrap_or_default(),
        Ok(Packet::Closed) => return Ok(None),
    };
    let request = Head::request_of(bytes);
    let is_door = matches!(
        PorterMessage::decode(bytes, Sender::Client, fds.len()),
        Ok((_, PorterMessage::HandDoor(_)))
    );
    let (true, Ok([listener, close])) = (is_door, <[OwnedFd; 2]>::try_from(fds)) else {
        let text = "one HandDoor with two fds is taken on the channel";
        tell(link, request, &unfit(ErrorCode::Malformed, text))?;
        return Ok(None);
    };
    let listener = match arrival::listener(listener) {
        Ok(listener) => listener,
        Err((_fd, why)) => return refuse(link, request, "the listening socket", &why),
    };
    let close = match arrival::close_fd(close) {
        Ok(close) => close,
        Err((_fd, why)) => return refuse(link, request, "the close fd", &why),
    };
    // Whoever connects from now on is told at once that fds are not taken; whoever shares the socket may change it.
    listener.set_pass_rights(false)?;
    let mut path = arrival::path_of(&listener);
    path.truncate(limits::TEXT_LEN);
    tell(link, request, &DoorFits { path }.into())?;
    Ok(Some((listener, close)))
}

/// Says what does not fit. What it is may be closed when this comes back.
fn refuse<T>(link: &Socket, request: u64, what: &str, why: &NotFit) -> Result<Option<T>, Failure> {
    let text = format!("{what}: {why}");
    tell(link, request, &unfit(ErrorCode::BadParameter, &text))?;
    Ok(None)
}

fn unfit(code: ErrorCode, text: &str) -> PorterMessage {
    let mut text = text.as_bytes().to_vec();
    text.truncate(limits::TEXT_LEN);
    Unfit { value: 0, limit: 0, code, reserved: Zero, text }.into()
}

fn tell(link: &Socket, request: u64, message: &PorterMessage) -> Result<(), OsError> {
    match link.send(&message.encode(request, Time(0), 0), &[]) {
        Err(e) if !matches!(e.errno(), Errno::PIPE | Errno::CONNRESET) => Err(e),
        _ => Ok(()),
    }
}

/// Waits for something on the channel; false if the broker is gone or nothing comes.
fn comes(channel: &Socket, link: &Socket, idle: Duration) -> Result<bool, Failure> {
    let mut fds = [channel.as_fd(), link.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let seconds = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: i64::from(idle.subsec_nanos()) };
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {
                let [channel, link] = &fds;
                return Ok(link.revents().is_empty() && !channel.revents().is_empty());
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(Failure::new(Exit::System, format!("poll: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests;
