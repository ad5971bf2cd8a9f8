//! The two fds of a door that somebody else has bound: a listening socket, and the fd that ends it.
//!
//! Sockets are asked by `getsockopt`, which fails at once on everything else and reaches nobody. The other fd is named by
//! its link before anything is asked of it: to poll a file of a file system that does not answer may take for ever, so
//! only what is the kernel's own is polled.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::time::Timespec;

use super::{Kind, Unfit};
use crate::error::{Attempt as _, Result};
use crate::seqpacket::{Form, Listener};

/// What is taken as a close fd.
const CLOSE: &str = "only a pipe, a socket, a pidfd or an eventfd ends a domain";

/// An fd that ends something when it hangs up. Nothing is ever read from it.
#[derive(Debug)]
pub struct CloseFd {
    fd: OwnedFd,
    /// What says that it has: a pipe and a socket hang up, the others become readable.
    ends: PollFlags,
}

/// Takes a stranger's fd as a listening `SOCK_SEQPACKET` socket of `AF_UNIX`; else gives it back, for to close it may take
/// for ever.
///
/// # Errors
/// [`Unfit`] names what it is.
pub fn listener(fd: OwnedFd) -> Result<Listener, (OwnedFd, Unfit)> {
    const WANTED: &str = "a listening SOCK_SEQPACKET socket of AF_UNIX is wanted";
    match Form::of(fd.as_fd()) {
        Ok(Form::LISTENER) => Ok(Listener::of_known(fd)),
        Ok(form) => Err((fd, Unfit { kind: Kind::Socket, why: format!("{WANTED}, and it is {form}") })),
        Err(Errno::BADF) => Err((fd, Unfit { kind: Kind::PathOnly, why: WANTED.into() })),
        Err(_) => {
            let kind = Kind::of_stranger(fd.as_fd());
            Err((fd, Unfit { kind, why: WANTED.into() }))
        }
    }
}

/// Takes a stranger's fd as one that can hang up, and has not; else gives it back.
///
/// # Errors
/// [`Unfit`] names what it is.
pub fn close_fd(fd: OwnedFd) -> Result<CloseFd, (OwnedFd, Unfit)> {
    let is_path = rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::PATH));
    let kind = if is_path { Kind::PathOnly } else { Kind::of_stranger(fd.as_fd()) };
    let ends = match kind {
        Kind::Pipe | Kind::Socket => PollFlags::HUP.union(PollFlags::ERR),
        Kind::Pidfd | Kind::Eventfd => PollFlags::IN.union(PollFlags::HUP).union(PollFlags::ERR),
        kind => return Err((fd, Unfit { kind, why: CLOSE.into() })),
    };
    let close = CloseFd { fd, ends };
    match close.has_ended() {
        Ok(false) => Ok(close),
        Ok(true) => Err((close.fd, Unfit { kind, why: "it has hung up already".into() })),
        Err(e) => Err((close.fd, Unfit { kind, why: e.to_string() })),
    }
}

impl CloseFd {
    /// Whether it has hung up.
    ///
    /// # Errors
    /// The errno of `poll`.
    pub fn has_ended(&self) -> Result<bool> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), self.ends)];
        loop {
            match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Err(Errno::INTR) => {}
                other => return other.map(|ready| ready > 0).attempt("poll"),
            }
        }
    }

    /// Waits until it has hung up, or there is something on `link`, or that has hung up; true if it was this fd.
    ///
    /// # Errors
    /// The errno of `poll`.
    pub fn wait(&self, link: BorrowedFd<'_>) -> Result<bool> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.fd.as_fd(), self.ends),
                PollFd::from_borrowed_fd(link, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e).attempt("poll"),
            }
            let [own, link] = fds.map(|fd| !fd.revents().is_empty());
            if own || link {
                return Ok(own);
            }
        }
    }
}

/// The path that a socket was bound to, as it was said then; empty if it has none.
#[must_use]
pub fn path_of(listener: &Listener) -> Vec<u8> {
    let address = rustix::net::getsockname(listener).ok();
    let address = address.and_then(|address| SocketAddrUnix::try_from(address).ok());
    let path = address.as_ref().and_then(SocketAddrUnix::path);
    path.map(|path| path.to_bytes().to_vec()).unwrap_or_default()
}
