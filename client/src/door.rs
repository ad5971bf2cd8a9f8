//! A domain at a listening socket of one's own: the socket goes to a doorman, which accepts there.
//!
//! ```text
//!   broker  ◄── CreateDomain n ────────────────┐                            ┌──► DomainCreated n
//!                                            client                         │
//!   doorman ◄── HandDoor n + listener, close ──┘ ── looks at both ──► broker
//! ```
//!
//! A doorman is opened for each such domain and takes one; the channel to it is of no use afterwards. A client has one that
//! is no domain's yet, so a second domain waits for the first.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use vgem_os::Errno;
use vgem_os::seqpacket::{Listener, Socket};
use vgem_proto::message::client::{ClientMessage, CreateDomain, OpenPorter};
use vgem_proto::message::porter::HandDoor;
use vgem_proto::message::{DOMAIN_AT, OPEN_DOORMAN};

use crate::core::Core;
use crate::deadline::Deadline;
use crate::domain::{DomainOptions, MadeDomain, made};
use crate::error::{Error, Result};
use crate::exchange::{Reply, RequestId};
use crate::link::{accepted, unexpected};
use crate::porter::{AGAIN, is_busy};

/// Binds a path and listens there, as [`crate::Client::create_domain_at`] wants it: the standard library has no sockets of that
/// type. A socket file at which nobody answers is replaced. `mode` says who may connect, as 0o600; the folders above say it,
/// too.
///
/// # Errors
/// [`Error::System`] where the path cannot be bound: somebody answers there, or it is no socket; the folder is not there or
/// forbids it; it is longer than 107 bytes.
pub fn listen_at(path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
    Ok(Listener::bind(path, mode)?.into())
}

/// The two fds of a door.
pub(crate) type Door<'fds> = [BorrowedFd<'fds>; 2];

/// Makes a domain at a socket.
pub(crate) fn create(core: &Core, door: Door<'_>, options: &DomainOptions) -> Result<MadeDomain> {
    let deadline = core.deadline();
    let channel = loop {
        let id = core.link.start(&OpenPorter {}.into(), OPEN_DOORMAN, deadline, deadline)?;
        match core.link.collect(id, deadline).and_then(accepted) {
            Ok(reply) => break opened(reply)?,
            Err(error) if is_busy(&error) && !deadline.passed() => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    };
    let (create, flags) = request(options);
    let id = core.link.start(&create.into(), flags, deadline, deadline)?;
    hand(&channel, id, door, deadline).inspect_err(|_| {
        core.link.forsake(id);
    })?;
    made(&accepted(core.link.collect(id, deadline)?)?)
}

/// The request for it, and its flags.
pub(crate) fn request(options: &DomainOptions) -> (CreateDomain, u16) {
    let (create, flags) = options.request();
    (create, flags | DOMAIN_AT)
}

/// The channel to a doorman.
pub(crate) fn opened(mut reply: Reply) -> Result<Socket> {
    let fds = std::mem::take(&mut reply.fds);
    let ClientMessage::PorterOpened(_) = &reply.message else { return Err(unexpected(&reply)) };
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([fd]) => Ok(Socket::from(fd)),
        Err(_) => Err(Error::Protocol("a doorman without its channel".into())),
    }
}

/// Hands the door over. There is always room for one message. A doorman that has ended is told of by the broker.
pub(crate) fn hand(channel: &Socket, id: RequestId, door: Door<'_>, deadline: Deadline) -> Result<()> {
    match channel.send(&HandDoor {}.encode(id.0, deadline.time(), 0), &door) {
        Err(e) if !matches!(e.errno(), Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(e.into()),
        _ => Ok(()),
    }
}
