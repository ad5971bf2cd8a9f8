//! What is to be sent over one link, in order.
//!
//! A message goes out at once if nothing is waiting and the socket has room; else it waits here, fds and all, until
//! the socket can be written again. For a client what waits is bounded, in bytes and in messages: one that does not
//! read is dropped, and nobody else notices.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use vgem_os::OsError;
use vgem_os::seqpacket::Socket;
use vgem_proto::message::client::ClientMessage;

use super::unread::cost;

/// Most bytes that wait for a client, beyond what its socket holds.
pub(super) const CLIENT_BYTES: usize = 64 * 1024;
/// One fd may wait per so many bytes that may: each is an open file of the broker's.
const BYTES_PER_FD: usize = 1024;

/// A message on its way.
#[derive(Debug)]
pub(super) struct Packet {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// Its fds.
    pub(super) fds: Vec<OwnedFd>,
    /// Sent in its place if the kernel refuses its fds; nothing is sent without it.
    pub(super) instead: Option<Box<Instead>>,
}

/// What takes the place of a message whose fds cannot be sent.
#[derive(Debug)]
pub(super) struct Instead {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The message that is not sent.
    pub(super) message: ClientMessage,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything is sent.
    All,
    /// Something waits for room: tell when the socket can be written.
    Waiting,
    /// More waits than may.
    Overflow,
}

/// The messages that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Packet>,
    bytes: usize,
    limit: usize,
    fates: Fates,
}

/// What became of messages whose fds the kernel refused.
#[derive(Debug, Default)]
struct Fates {
    /// Others were sent for these.
    undelivered: Vec<ClientMessage>,
    /// Nothing was sent for these.
    lost: Vec<Vec<u8>>,
}

impl Packet {
    /// A message without fds.
    pub(super) fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, fds: Vec::new(), instead: None }
    }
}

impl Outbox {
    /// An empty one that may hold `limit` bytes.
    pub(super) const fn new(limit: usize) -> Self {
        let fates = Fates { undelivered: Vec::new(), lost: Vec::new() };
        Self { waiting: VecDeque::new(), bytes: 0, limit, fates }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The messages that others were sent for since this was asked last.
    pub(super) fn undelivered(&mut self) -> Vec<ClientMessage> {
        std::mem::take(&mut self.fates.undelivered)
    }

    /// The bytes of messages that were given up since this was asked last.
    pub(super) fn lost(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.fates.lost)
    }

    /// What waits, as it would cost the kernel at least.
    pub(super) fn cost(&self) -> u64 {
        cost(self.waiting.len(), self.bytes)
    }

    /// Fds that wait.
    fn fds(&self) -> usize {
        self.waiting.iter().map(|packet| packet.fds.len()).sum()
    }

    /// Sends a message after those that wait.
    ///
    /// # Errors
    /// What the kernel says of the link; it cannot be used any more.
    pub(super) fn send(&mut self, socket: &Socket, packet: Packet) -> Result<Sent, OsError> {
        let mut packet = packet;
        if self.waiting.is_empty() {
            match transmit(socket, &mut packet, &mut self.fates)? {
                Sent::All => return Ok(Sent::All),
                Sent::Waiting | Sent::Overflow => {}
            }
        }
        self.bytes = self.bytes.saturating_add(packet.bytes.len());
        if self.bytes > self.limit || self.fds() > self.limit / BYTES_PER_FD {
            return Ok(Sent::Overflow);
        }
        self.waiting.push_back(packet);
        Ok(Sent::Waiting)
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub(super) fn flush(&mut self, socket: &Socket) -> Result<Sent, OsError> {
        while let Some(packet) = self.waiting.front_mut() {
            let waits = packet.bytes.len();
            let sent = transmit(socket, packet, &mut self.fates)?;
            // Another may have taken its place, of another length.
            self.bytes = self.bytes.saturating_sub(waits).saturating_add(packet.bytes.len());
            if sent == Sent::Waiting {
                return Ok(Sent::Waiting);
            }
            if let Some(packet) = self.waiting.pop_front() {
                self.bytes = self.bytes.saturating_sub(packet.bytes.len());
            }
        }
        Ok(Sent::All)
    }
}

/// Sends one message, or what is to be sent instead; [`Sent::Waiting`] if there is no room.
fn transmit(socket: &Socket, packet: &mut Packet, fates: &mut Fates) -> Result<Sent, OsError> {
    if packet.fds.is_empty() {
        return outcome(socket.send_now(&packet.bytes));
    }
    let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(OwnedFd::as_fd).collect();
    match socket.send(&packet.bytes, &fds) {
        // The peer refuses fds, or too many are on their way already: this message's failure, not the link's.
        Err(e) if e.errno() == vgem_os::Errno::PERM || e.is_resource() => {
            tracing::debug!("fds not sent: {e}");
            packet.fds.clear();
            match packet.instead.take() {
                Some(instead) => {
                    packet.bytes = instead.bytes;
                    fates.undelivered.push(instead.message);
                    outcome(socket.send_now(&packet.bytes))
                }
                None => {
                    fates.lost.push(std::mem::take(&mut packet.bytes));
                    Ok(Sent::All)
                }
            }
        }
        sent => outcome(sent),
    }
}

fn outcome(sent: Result<(), OsError>) -> Result<Sent, OsError> {
    match sent {
        Ok(()) => Ok(Sent::All),
        Err(e) if e.would_block() => Ok(Sent::Waiting),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_os::seqpacket::Packet as Received;
    use vgem_proto::message::client::PorterOpened;

    fn pair() -> (Socket, Socket) {
        let (a, b) = Socket::pair().expect("a pair");
        a.set_nonblocking(true).expect("non-blocking");
        b.set_nonblocking(true).expect("non-blocking");
        (a, b)
    }

    /// Fills the socket so that the next message waits.
    fn fill(socket: &Socket) -> usize {
        (0..).take_while(|_| socket.send(&[0; 1024], &[]).is_ok()).count()
    }

    #[test]
    fn what_waits_goes_out_in_order_once_there_is_room() {
        let (a, b) = pair();
        let mut outbox = Outbox::new(CLIENT_BYTES);
        let filled = fill(&a);
        for byte in [1, 2] {
            assert_eq!(outbox.send(&a, Packet::plain(vec![byte; 100])), Ok(Sent::Waiting));
        }
        let mut buffer = [0; 2048];
        for _ in 0..filled {
            assert!(matches!(b.recv_plain(&mut buffer), Ok(Received::Data { .. })));
        }
        assert_eq!(outbox.flush(&a), Ok(Sent::All));
        for byte in [1, 2] {
            assert_eq!(b.recv_plain(&mut buffer), Ok(Received::Data { len: 100 }));
            assert_eq!(buffer[0], byte);
        }
    }

    #[test]
    fn a_peer_that_does_not_read_fills_its_own_box_only_so_far() {
        let (a, _b) = pair();
        let mut outbox = Outbox::new(CLIENT_BYTES);
        fill(&a);
        let sent = (0..=CLIENT_BYTES / 1024).map(|_| outbox.send(&a, Packet::plain(vec![0; 1024])));
        assert_eq!(sent.last(), Some(Ok(Sent::Overflow)));
    }

    #[test]
    fn atk_a_message_that_is_given_up_is_told() {
        let (a, b) = pair();
        if !b.set_pass_rights(false).expect("the option") {
            // This kernel cannot refuse fds, so none are refused.
            return;
        }
        let fds = vec![OwnedFd::from(Socket::pair().expect("a pair").0)];
        let mut outbox = Outbox::new(CLIENT_BYTES);
        assert_eq!(outbox.send(&a, Packet { bytes: vec![7; 10], fds, instead: None }), Ok(Sent::All));
        assert_eq!((outbox.lost(), outbox.lost()), (vec![vec![7; 10]], vec![]));
    }

    #[test]
    fn a_message_whose_fds_are_refused_is_replaced_and_told_as_undelivered() {
        let (a, b) = pair();
        if !b.set_pass_rights(false).expect("the option") {
            // This kernel cannot refuse fds, so none are refused.
            return;
        }
        let fds = vec![OwnedFd::from(Socket::pair().expect("a pair").0)];
        let message = ClientMessage::from(PorterOpened {});
        let instead = Instead { bytes: vec![2; 20], message: message.clone() };
        let packet = Packet { bytes: vec![1; 10], fds, instead: Some(Box::new(instead)) };
        let mut outbox = Outbox::new(CLIENT_BYTES);
        assert_eq!(outbox.send(&a, packet), Ok(Sent::All));
        assert_eq!(b.recv_plain(&mut [0; 64]), Ok(Received::Data { len: 20 }));
        assert_eq!((outbox.undelivered(), outbox.undelivered()), (vec![message], vec![]));
    }
}
