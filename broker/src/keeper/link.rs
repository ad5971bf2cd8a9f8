//! The keeper's end of its link to the broker.
//!
//! The broker never blocks on its end, so waiting here for room in the socket comes to an end; one that does not
//! read for [`DEAF`] is taken for dead.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vgem_os::seqpacket::{Packet, RecvError, Socket};
use vgem_os::{OsError, clock};
use vgem_proto::codec::Malformed;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::keeper::KeeperMessage;

use super::wishes::wait_for_room;
use crate::exit::Failure;

/// How long the broker may not read, nanoseconds.
const DEAF: u64 = 5_000_000_000;

/// What came from the broker.
#[derive(Debug)]
pub(super) enum Received {
    /// A message with its fds.
    Message(KeeperMessage, Vec<OwnedFd>),
    /// Nothing now.
    Nothing,
    /// The broker's end is closed.
    Closed,
}

/// Why the link cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The socket failed.
    #[error("link failed: {0}")]
    Os(#[from] OsError),
    /// Waiting failed.
    #[error("link failed: {0}")]
    Wait(#[from] Failure),
    /// The broker sent what is no message: a bug of ours.
    #[error("sent a malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// The broker sent more than a message may hold: a bug of ours.
    #[error("sent a message of {0} bytes")]
    TooLong(usize),
    /// The broker does not read.
    #[error("does not read its messages")]
    Deaf,
    /// Nobody keeps objects for it any more.
    #[error("cannot be served: the thread that keeps objects has ended")]
    NoKeeping,
}

/// The link.
#[derive(Debug)]
pub(super) struct Link {
    voice: Voice,
    buffer: Vec<u8>,
}

/// The half that tells, for whoever has something to tell: a message is a packet, so threads do not mix theirs.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    socket: Arc<Socket>,
}

impl Link {
    /// Over this end of a pair.
    pub(super) fn new(socket: Socket) -> Result<Self, OsError> {
        socket.set_nonblocking(true)?;
        let voice = Voice { socket: Arc::new(socket) };
        Ok(Self { voice, buffer: vec![0; limits::MESSAGE_LEN] })
    }

    /// Its voice, for another thread.
    pub(super) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// The next message, if there is one.
    pub(super) fn receive(&mut self) -> Result<Received, LinkError> {
        let mut fds = Vec::new();
        match self.voice.socket.recv(&mut self.buffer, &mut fds) {
            Ok(Packet::Data { len }) => {
                let bytes = self.buffer.get(..len).unwrap_or_default();
                let (_, message) = KeeperMessage::decode(bytes, Sender::Broker, fds.len())?;
                Ok(Received::Message(message, fds))
            }
            Ok(Packet::TooLong { len }) => Err(LinkError::TooLong(len)),
            Ok(Packet::Closed) => Ok(Received::Closed),
            Err(RecvError::Os(e)) if e.would_block() => Ok(Received::Nothing),
            Err(e) => Err(OsError::from(e).into()),
        }
    }

    /// Sends a message with its fds, once there is room.
    pub(super) fn send(&self, message: &KeeperMessage, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        self.voice.send(message, fds)
    }
}

impl Voice {
    /// Sends a message with its fds, once there is room.
    pub(super) fn send(&self, message: &KeeperMessage, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let bytes = message.encode(0, Time(0), 0);
        loop {
            match self.socket.send(&bytes, fds) {
                Err(e) if e.would_block() => {
                    if !wait_for_room(self.socket.as_fd(), clock::deadline_in(DEAF))? {
                        return Err(LinkError::Deaf);
                    }
                }
                sent => return Ok(sent?),
            }
        }
    }

    /// Ends the link for both sides.
    pub(super) fn end(&self) -> Result<(), OsError> {
        self.socket.shutdown()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.voice.socket.as_fd()
    }
}
