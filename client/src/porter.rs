//! This client's porter: the process that takes fds from it, so that the broker never does.
//!
//! ```text
//!   none ──OpenPorter──► open ──Hand + fd, as often as there is something to hand──► open
//!     ▲                    │ the porter ended: idle, killed, crashed
//!     └────────────────────┘ seen by the channel's hang-up, or by a Hand that could not be sent
//! ```
//!
//! The channel is opened when something is imported first. It never blocks a sender: a porter that stalls fills it,
//! and who finds it full waits for room until its own deadline, holding nothing. Nothing is ever received on it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgem_os::Errno;
use vgem_os::seqpacket::Socket;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, OpenPorter};
use vgem_proto::message::porter::Hand;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::exchange::{Reply, RequestId};
use crate::link::{Link, unexpected};
use crate::patience::{self, Ready};

/// How long the broker may take to notice that a porter has ended.
pub(crate) const NOTICE: Duration = Duration::from_secs(2);

/// Between two questions for a porter, while the broker still has the last one.
pub(crate) const AGAIN: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
pub(crate) struct Porter(Mutex<Option<Arc<Socket>>>);

/// What became of an fd that was to be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It is on its way.
    Sent,
    /// There is no room now.
    Full,
    /// The porter has ended.
    Gone,
}

impl Porter {
    /// The channel, if there is one and its porter lives.
    pub(crate) fn channel(&self) -> Option<Arc<Socket>> {
        let mut state = self.state();
        // A porter says nothing to its client: what can be read is its end.
        if state.as_ref().is_some_and(|channel| patience::ready(&**channel, Ready::Read, Duration::ZERO)) {
            *state = None;
        }
        state.clone()
    }

    /// Understands an opened channel.
    pub(crate) fn opened(&self, mut reply: Reply) -> Result<Arc<Socket>> {
        let fds = std::mem::take(&mut reply.fds);
        let ClientMessage::PorterOpened(_) = &reply.message else { return Err(unexpected(&reply)) };
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Error::Protocol("a porter without its channel".into()));
        };
        let channel = Arc::new(Socket::from(fd));
        channel.set_nonblocking(true)?;
        *self.state() = Some(Arc::clone(&channel));
        Ok(channel)
    }

    /// The porter of this channel has ended.
    pub(crate) fn ended(&self, channel: &Arc<Socket>) {
        let mut state = self.state();
        if state.as_ref().is_some_and(|current| Arc::ptr_eq(current, channel)) {
            *state = None;
        }
    }

    /// The channel; a new porter's, if there is none.
    pub(crate) fn open(&self, link: &Link, deadline: Deadline) -> Result<Arc<Socket>> {
        let notice = Deadline::after(NOTICE).min(deadline);
        loop {
            if let Some(channel) = self.channel() {
                return Ok(channel);
            }
            match link.call(OpenPorter {}, deadline) {
                Ok(reply) => return self.opened(reply),
                Err(error) if is_busy(&error) && !notice.passed() => std::thread::sleep(AGAIN),
                Err(error) => return Err(error),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Arc<Socket>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands an fd to the porter for the import of this number, without waiting.
pub(crate) fn hand(
    channel: &Socket,
    id: RequestId,
    fd: BorrowedFd<'_>,
    deadline: Deadline,
) -> Result<Handed> {
    match channel.send(&Hand {}.encode(id.0, deadline.time(), 0), &[fd]) {
        Ok(()) => Ok(Handed::Sent),
        Err(error) if error.would_block() => Ok(Handed::Full),
        Err(error) => match error.errno() {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Ok(Handed::Gone),
            _ => Err(error.into()),
        },
    }
}

/// Whether the broker still has the last porter, or another thread's.
pub(crate) fn is_busy(error: &Error) -> bool {
    error.code() == Some(ErrorCode::Busy)
}
