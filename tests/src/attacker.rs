//! A client that hands over what nobody should take.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vgem_os::seqpacket::Socket;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, OpenPorter, Refused};

use crate::raw::Raw;

const SOON: Duration = Duration::from_secs(5);

/// An attacker: its link, and its channel to a porter, opened again whenever it was lost.
#[derive(Debug)]
pub struct Attacker {
    /// Its link.
    pub raw: Raw,
    /// Its channel.
    pub channel: Socket,
}

impl Attacker {
    /// One on the broker at this path.
    ///
    /// # Panics
    /// If it cannot have a porter.
    #[must_use]
    pub fn new(broker: &Path) -> Self {
        let mut raw = Raw::greeted(broker);
        let channel = raw.porter();
        Self { raw, channel }
    }

    /// Imports an fd; the answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn import(&mut self, fd: BorrowedFd<'_>) -> ClientMessage {
        self.raw.import(&self.channel, fd)
    }

    /// Imports an fd that must be refused.
    ///
    /// # Panics
    /// If it is taken.
    pub fn refused(&mut self, fd: BorrowedFd<'_>) -> Refused {
        match self.import(fd) {
            ClientMessage::Refused(refused) => refused,
            other => panic!("taken: {other:?}"),
        }
    }

    /// Has another porter, if need be when the last one has ended.
    ///
    /// # Panics
    /// If there is none within five seconds.
    pub fn again(&mut self) {
        let end = Instant::now() + SOON;
        loop {
            match self.raw.ask(OpenPorter {}) {
                ClientMessage::PorterOpened(_) => break,
                ClientMessage::Refused(refused) if refused.code == ErrorCode::Busy => {}
                other => panic!("no porter: {other:?}"),
            }
            assert!(Instant::now() < end, "no porter within {SOON:?} of the last one's end");
        }
        self.channel = Socket::from(self.raw.fds.pop().expect("a channel"));
    }

    /// Nothing was imported.
    ///
    /// # Panics
    /// If something was.
    pub fn owns_nothing(&mut self) {
        let status = self.raw.status();
        assert_eq!((status.objects, status.object_bytes), (0, 0));
    }
}

/// What a refusal says.
///
/// # Panics
/// If it is no text.
#[must_use]
pub fn text(refused: &Refused) -> String {
    String::from_utf8(refused.text.clone()).expect("words")
}
