//! The thread that accepts. It may wait for ever, in `accept` or for the broker to take somebody; nobody waits for it.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{debug, warn};
use vgem_os::seqpacket::{Early, Listener, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::porter::{DoorShut, PorterMessage, Visitor};

use crate::exit::{Exit, Failure};

/// How long nobody is let in after the kernel refused.
const REFUSED: Duration = Duration::from_millis(100);

/// The thread, of which nothing is needed but its end with the process.
#[derive(Debug)]
pub(super) struct Accepting {
    _thread: JoinHandle<()>,
}

impl Accepting {
    /// Accepts from now on, and sends whom it accepts over the link.
    pub(super) fn start(listener: Listener, link: &Socket) -> Result<Self, Failure> {
        let link = link.as_fd().try_clone_to_owned();
        let link = link.map_err(|e| Failure::new(Exit::System, format!("fcntl(F_DUPFD_CLOEXEC): {e}")))?;
        let link = Arc::new(Socket::from(link));
        let thread = std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept_all(&listener, &link))
            .map_err(|e| Failure::new(Exit::System, format!("a thread: {e}")))?;
        Ok(Self { _thread: thread })
    }

    /// Leaves the thread wherever it is: it ends with the process, which its caller ends now.
    pub(super) fn leave(self) {}
}

/// What comes after one try.
enum Next {
    Again,
    Wait,
    End,
}

fn accept_all(listener: &Listener, link: &Socket) {
    loop {
        let next = match listener.accept() {
            Ok(connection) => show_in(&connection, link),
            Err(e) => after(&e, listener, link),
        };
        match next {
            Next::Again => {}
            Next::Wait => std::thread::sleep(REFUSED),
            Next::End => return,
        }
    }
}

/// Sends a connection to the broker, if nothing is in it that must not get there.
fn show_in(connection: &Socket, link: &Socket) -> Next {
    match connection.look_for_fds() {
        Ok(Early::Plain) => {}
        Ok(early) => {
            debug!("a connection is closed: {early:?}");
            return Next::Again;
        }
        Err(e) => {
            debug!("a connection is closed: {e}");
            return Next::Again;
        }
    }
    match link.send(&Visitor {}.encode(0, Time(0), 0), &[connection.as_fd()]) {
        Ok(()) => Next::Again,
        Err(e) if e.is_resource() => {
            warn!("a connection is closed: {e}");
            Next::Wait
        }
        Err(e) => {
            debug!("the broker is gone: {e}");
            Next::End
        }
    }
}

/// What an `accept` that failed means.
fn after(e: &OsError, listener: &Listener, link: &Socket) -> Next {
    match e.errno() {
        Errno::INTR | Errno::CONNABORTED => Next::Again,
        // Whoever shares the socket wants that it does not wait, so another call does.
        Errno::AGAIN => match wait(listener.as_fd()) {
            Ok(()) => Next::Again,
            Err(_) => Next::Wait,
        },
        _ if e.is_resource() => {
            warn!("nobody is let in for a moment: {e}");
            Next::Wait
        }
        _ => {
            let mut text = e.to_string().into_bytes();
            text.truncate(limits::TEXT_LEN);
            let shut = PorterMessage::from(DoorShut { text });
            if let Err(e) = link.send(&shut.encode(0, Time(0), 0), &[]) {
                debug!("the broker is gone: {e}");
            }
            Next::End
        }
    }
}

fn wait(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    poll(&mut [PollFd::from_borrowed_fd(listener, PollFlags::IN)], None).map(drop)
}
