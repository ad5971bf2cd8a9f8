//! Waiting for an fd with an end: the socket to the broker, the process of an embedded keeper.
//!
//! The one place of this crate that calls `poll`. It never reads or writes what it waits for.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Something can be read, or the peer has hung up.
    Read,
    /// Something can be written, or the peer has hung up.
    Write,
}

/// Waits until `fd` is ready, at most `wait`; false at the end of it. A zero wait only looks.
pub(crate) fn ready(fd: impl AsFd, what: Ready, wait: Duration) -> bool {
    let flags = match what {
        Ready::Read => PollFlags::IN,
        Ready::Write => PollFlags::OUT,
    };
    let end = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::NVAL);
    let fd = fd.as_fd();
    let mut fds = [PollFd::new(&fd, flags)];
    let timeout = Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => fds.iter().any(|fd| fd.revents().intersects(flags.union(end))),
        // A signal: the caller looks at its deadline and comes back.
        Err(Errno::INTR) => false,
        // Memory for the call itself is missing; let the caller's own system call find out.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use vgem_os::seqpacket::Socket;

    use super::*;

    #[test]
    fn a_quiet_socket_is_not_readable() {
        let (near, _far) = Socket::pair().expect("a pair");
        assert!(!ready(&near, Ready::Read, Duration::ZERO));
    }

    #[test]
    fn a_closed_peer_can_be_read_and_written() {
        let (near, far) = Socket::pair().expect("a pair");
        drop(far);
        assert!(ready(&near, Ready::Read, Duration::ZERO) && ready(&near, Ready::Write, Duration::ZERO));
    }
}
