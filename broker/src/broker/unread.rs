//! Which fds a client has taken, of those it was sent.
//!
//! The kernel only says how much of all that was sent is unread ([`Socket::unread`]), as it counts memory. A client that
//! asks for more before it has read everything may never be seen with nothing unread, though it reads all the while. But
//! packets are read in their order: once more was sent from some packet on than is unread, that packet was read. What a
//! packet costs the kernel at least is known, so this errs to one side only: what is called read was read.
//!
//! [`Socket::unread`]: vgem_os::seqpacket::Socket::unread

use std::collections::VecDeque;

use vgem_core::io::{Input, LinkId};
use vgem_proto::ids::Time;

/// What a packet costs the kernel at least beside its bytes: its own records of it.
const LEAST: u64 = 512;

/// The fds on their way to one client.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// What was sent since there was something to know, as it counts at least.
    sent: u64,
    packets: VecDeque<Packet>,
}

/// A packet with fds.
#[derive(Debug)]
struct Packet {
    /// What was sent before it.
    before: u64,
    fds: u64,
    at: Time,
}

/// What packets cost the kernel at least.
pub(super) fn cost(packets: usize, bytes: usize) -> u64 {
    (packets as u64).saturating_mul(LEAST).saturating_add(bytes as u64)
}

impl Unread {
    /// Notes a packet of at least so many bytes.
    pub(super) fn note(&mut self, bytes: usize, fds: usize, now: Time) {
        if fds > 0 {
            self.packets.push_back(Packet { before: self.sent, fds: fds as u64, at: now });
        }
        if !self.packets.is_empty() {
            self.sent = self.sent.saturating_add(cost(1, bytes));
        }
    }

    /// Forgets what was read, if so much is unread as the kernel counts; whether there was something.
    pub(super) fn settle(&mut self, unread: u64) -> bool {
        let before = self.packets.len();
        while self.packets.front().is_some_and(|first| self.sent - first.before > unread) {
            self.packets.pop_front();
        }
        if self.packets.is_empty() {
            self.sent = 0;
        }
        self.packets.len() < before
    }

    /// Whether no fd is known to be on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Fds that may be unread.
    pub(super) fn fds(&self) -> u64 {
        self.packets.iter().map(|packet| packet.fds).sum()
    }

    /// What core is told.
    pub(super) fn told(&self, link: LinkId) -> Input {
        match self.packets.front() {
            None => Input::Received { link },
            Some(first) => Input::Unreceived { link, fds: self.fds(), since: first.at },
        }
    }
}

#[cfg(test)]
mod tests {
    use vgem_os::seqpacket::Socket;

    use super::*;

    const NOW: Time = Time(5);

    #[test]
    fn a_packet_costs_the_kernel_no_less_than_is_thought() {
        let (a, _b) = Socket::pair().expect("a pair");
        let mut thought = 0;
        for len in [1, 32, 500, 2000, 5000] {
            a.send(&vec![1; len], &[]).expect("room");
            thought += cost(1, len);
            let unread = a.unread().expect("a number") as u64;
            assert!(unread >= thought, "{unread} for {thought}");
        }
    }

    #[test]
    fn atk_a_client_that_always_has_something_unread_is_seen_to_read() {
        let (a, b) = Socket::pair().expect("a pair");
        let (mut unread, mut buffer) = (Unread::default(), [0; 64]);
        let mut send = |fds| {
            a.send(&[1; 40], &[]).expect("room");
            unread.note(40, fds, NOW);
        };
        send(2);
        (0..10).for_each(|_| send(0));
        for _ in 0..200 {
            b.recv_plain(&mut buffer).expect("what was sent");
            send(0);
        }
        assert!(unread.settle(a.unread().expect("a number") as u64) && unread.is_empty());
    }

    #[test]
    fn what_is_unread_is_never_called_read() {
        let (a, b) = Socket::pair().expect("a pair");
        let (mut unread, mut buffer) = (Unread::default(), [0; 64]);
        for place in 0..20 {
            a.send(&[1; 40], &[]).expect("room");
            unread.note(40, 1, NOW);
            if place % 2 == 0 {
                b.recv_plain(&mut buffer).expect("what was sent");
            }
            unread.settle(a.unread().expect("a number") as u64);
            assert!(2 * unread.fds() + 1 >= place, "{place}: {unread:?}");
        }
    }

    #[test]
    fn the_oldest_that_may_be_unread_is_told() {
        let mut unread = Unread::default();
        for (at, fds) in [(1, 3), (2, 0), (3, 4)] {
            unread.note(100, fds, Time(at));
        }
        let link = LinkId(1);
        assert!(matches!(unread.told(link), Input::Unreceived { fds: 7, since: Time(1), .. }));
        assert!(unread.settle(cost(1, 100)));
        assert!(matches!(unread.told(link), Input::Unreceived { fds: 4, since: Time(3), .. }));
        assert!(unread.settle(0));
        assert!(matches!(unread.told(link), Input::Received { .. }));
    }
}
