//! One peer's socket, what waits to be sent over it, and how eagerly it is read.

use std::os::fd::OwnedFd;

use vgem_os::seqpacket::{Packet as Received, RecvError, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::message::client::ClientMessage;

use super::outbox::{Outbox, Packet, Sent};
use super::poller::{Interest, Poller, Source};

/// Every so many messages a peer is asked for one more than it announced.
const ASK_EVERY: u8 = 8;

/// A socket to a peer.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    source: Source,
    outbox: Outbox,
    /// Whether the poller tells when there is room to write.
    wants_room: bool,
    pace: Pace,
}

/// Whether a peer sends messages faster than they are taken.
///
/// After one message was taken, asking for the next costs a system call that finds nothing when the peer sends one
/// at a time, and saves a round through the poller when it sends many. So it is asked now and then, and as long as
/// asking found something.
#[derive(Debug, Default)]
struct Pace {
    more: bool,
    taken: u8,
}

impl Link {
    /// Over a socket, watched from now on. `limit`: bytes that may wait for the peer.
    pub(super) fn new(
        socket: Socket,
        source: Source,
        limit: usize,
        poller: &Poller,
    ) -> Result<Self, OsError> {
        socket.set_nonblocking(true)?;
        poller.add(&socket, source)?;
        Ok(Self { socket, source, outbox: Outbox::new(limit), wants_room: false, pace: Pace::default() })
    }

    /// The socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket alone; what waits to be sent is given up.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Whether everything was sent.
    pub(super) fn is_drained(&self) -> bool {
        self.outbox.is_empty()
    }

    /// What the peer has not taken, as the kernel counts it; what waits here is counted as it would be at least.
    ///
    /// # Errors
    /// As [`Socket::unread`].
    pub(super) fn unread(&self) -> Result<u64, OsError> {
        Ok((self.socket.unread()? as u64).saturating_add(self.outbox.cost()))
    }

    /// Messages whose fds the kernel refused and nothing was sent for.
    pub(super) fn lost(&mut self) -> Vec<Vec<u8>> {
        self.outbox.lost()
    }

    /// Messages to a client that others were sent for, because their fds could not be sent.
    pub(super) fn undelivered(&mut self) -> Vec<ClientMessage> {
        self.outbox.undelivered()
    }

    /// Sends a message, now or when there is room. False: more waits than may.
    ///
    /// # Errors
    /// The link cannot be used any more.
    pub(super) fn send(&mut self, packet: Packet, poller: &Poller) -> Result<bool, OsError> {
        match self.outbox.send(&self.socket, packet)? {
            Sent::All => Ok(true),
            Sent::Overflow => Ok(false),
            Sent::Waiting => self.want_room(true, poller).map(|()| true),
        }
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// The link cannot be used any more.
    pub(super) fn flush(&mut self, poller: &Poller) -> Result<(), OsError> {
        match self.outbox.flush(&self.socket)? {
            Sent::All => self.want_room(false, poller),
            Sent::Waiting | Sent::Overflow => Ok(()),
        }
    }

    /// Takes the next message; `None` when there is none. No fd is taken with it.
    ///
    /// # Errors
    /// The link cannot be used any more.
    pub(super) fn take(&mut self, buffer: &mut [u8], first: bool) -> Result<Option<Received>, OsError> {
        if !first && !self.pace.asks() {
            return Ok(None);
        }
        let mut received = self.socket.recv_now(buffer);
        if received.as_ref().is_err_and(|e| e.errno() == Errno::CONNRESET) {
            // The peer ended without reading everything. That is told once, and before what it had sent.
            received = self.socket.recv_now(buffer);
        }
        match received {
            Ok(received) => {
                self.pace.more |= !first;
                Ok(Some(received))
            }
            Err(e) if e.would_block() => {
                self.pace.more = false;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// As [`Link::take`] for a peer that sends fds: a porter. Those of a message that is not taken are closed.
    ///
    /// # Errors
    /// [`RecvError::FdsTruncated`]: the message is lost and the link can be used on. Else it cannot be.
    pub(super) fn take_with_fds(
        &mut self,
        buffer: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Option<Received>, RecvError> {
        match self.socket.recv(buffer, fds) {
            Ok(received) => Ok(Some(received)),
            Err(RecvError::Os(e)) if e.would_block() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn want_room(&mut self, wants: bool, poller: &Poller) -> Result<(), OsError> {
        if self.wants_room == wants {
            return Ok(());
        }
        self.wants_room = wants;
        let interest = if wants { Interest::ReadWrite } else { Interest::Read };
        poller.change(&self.socket, self.source, interest)
    }
}

impl Pace {
    /// Whether to ask for one more message.
    fn asks(&mut self) -> bool {
        self.taken = self.taken.wrapping_add(1);
        self.more || self.taken.is_multiple_of(ASK_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_proto::ids::InstanceId;

    fn link() -> (Link, Socket, Poller) {
        let poller = Poller::new().expect("a poller");
        let (ours, theirs) = Socket::pair().expect("a pair");
        let source = Source::Instance(InstanceId(1));
        (Link::new(ours, source, usize::MAX, &poller).expect("a link"), theirs, poller)
    }

    /// Messages taken in one turn of at most `most`.
    fn turn(link: &mut Link, most: usize) -> usize {
        let mut buffer = [0; 64];
        (0..most).take_while(|n| matches!(link.take(&mut buffer, *n == 0), Ok(Some(_)))).count()
    }

    #[test]
    fn a_peer_that_sends_many_is_soon_read_many_at_a_time() {
        let (mut link, peer, _poller) = link();
        for _ in 0..100 {
            peer.send(&[1], &[]).expect("room");
        }
        let turns: Vec<usize> = (0..10).map(|_| turn(&mut link, 16)).collect();
        assert!(turns.contains(&16), "{turns:?}");
    }

    #[test]
    fn a_peer_that_sends_one_at_a_time_is_seldom_asked_for_more() {
        let mut pace = Pace::default();
        let asked = (0..80).filter(|_| pace.asks()).count();
        assert_eq!(asked, 10);
    }

    #[test]
    fn what_a_peer_sent_is_taken_though_it_ended_without_reading() {
        let (mut link, peer, poller) = link();
        assert_eq!(link.send(Packet::plain(vec![1]), &poller), Ok(true));
        peer.send(&[2], &[]).expect("room");
        drop(peer);
        let mut buffer = [0; 8];
        assert_eq!(link.take(&mut buffer, true), Ok(Some(Received::Data { len: 1 })));
        assert_eq!(link.take(&mut buffer, true), Ok(Some(Received::Closed)));
    }

    /// As whoever accepted a connection and passed it on can do, as long as they keep a copy.
    #[test]
    fn atk_an_end_that_is_made_to_wait_holds_nobody_up() {
        let (mut link, _peer, poller) = link();
        link.socket.set_nonblocking(false).expect("it is shared");
        assert_eq!(link.take(&mut [0; 8], true), Ok(None));
        while link.is_drained() {
            assert_eq!(link.send(Packet::plain(vec![7; 1024]), &poller), Ok(true));
        }
    }

    #[test]
    fn what_waits_is_sent_when_the_poller_says_there_is_room() {
        let (mut link, peer, mut poller) = link();
        let mut sent = 0;
        while link.is_drained() {
            assert_eq!(link.send(Packet::plain(vec![7; 1024]), &poller), Ok(true));
            sent += 1;
        }
        let mut buffer = [0; 2048];
        for _ in 0..sent - 1 {
            assert!(peer.recv_plain(&mut buffer).is_ok());
        }
        let mut ready = Vec::new();
        poller.wait(None, &mut ready).expect("ready");
        assert!(ready.iter().any(|(_, readiness)| readiness.writable));
        link.flush(&poller).expect("room");
        assert!(link.is_drained() && !link.wants_room);
    }
}
