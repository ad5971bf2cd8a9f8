//! Connections that are over for us while fds lie in them that the client has not read.
//!
//! Closing our end does not take back what was sent: it lies in the client's end until that is closed, and all the
//! while counts against what this process may have in flight, which is one number for all clients (T16). Whoever
//! connects, asks for fds, reads none, is dropped and connects again would use it up. So such a socket is closed for
//! writing only, the client reads its end of file, and it is kept, a bounded number of them for each domain. A domain
//! that has so many cannot connect again until one of them is read or closed.
//!
//! Nothing is ever read from such a socket, and nothing but the end of its other end is waited for.

use std::collections::BTreeMap;

use rustix::net::Shutdown;
use tracing::debug;
use vgem_core::io::LinkId;
use vgem_os::OsError;
use vgem_os::seqpacket::Socket;
use vgem_proto::ids::DomainId;

use super::poller::{Interest, Poller, Source};

/// Such connections of one domain.
const MOST: usize = 16;
/// Fds in them that may be unread. They are not charged any more, and together with those of live connections must be
/// few of what the process may have on its way.
const MOST_FDS: u64 = 1024;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    all: BTreeMap<LinkId, Lingerer>,
}

#[derive(Debug)]
struct Lingerer {
    domain: DomainId,
    /// At most so many are unread in it.
    fds: u64,
    socket: Socket,
}

impl Lingering {
    /// Keeps a socket if there is something unread in it, at most `fds` fds; else it is closed.
    pub(super) fn keep(&mut self, link: LinkId, domain: DomainId, fds: u64, socket: Socket, poller: &Poller) {
        if is_read(&socket) {
            return;
        }
        let kept = rustix::net::shutdown(&socket, Shutdown::Write)
            .map_err(|e| OsError::new("shutdown", e))
            .and_then(|()| poller.change(&socket, Source::Client(link), Interest::End));
        match kept {
            Ok(()) => {
                self.all.insert(link, Lingerer { domain, fds, socket });
            }
            Err(e) => debug!("{link:?}: {e}"),
        }
    }

    /// The other end of a socket is closed, or shut by a client that keeps it, and what is unread in it: such a one is
    /// counted on, and looked at again when its domain has no room.
    pub(super) fn ended(&mut self, link: LinkId, poller: &Poller) {
        let is_left =
            |lingerer: &Lingerer| !is_read(&lingerer.socket) && poller.remove(&lingerer.socket).is_ok();
        if !self.all.get(&link).is_some_and(is_left) {
            self.all.remove(&link);
        }
    }

    /// Whether a domain may connect.
    pub(super) fn admits(&mut self, domain: DomainId) -> bool {
        if self.has_room(domain) {
            return true;
        }
        self.all.retain(|_, lingerer| lingerer.domain != domain || !is_read(&lingerer.socket));
        self.has_room(domain)
    }

    fn has_room(&self, domain: DomainId) -> bool {
        let own = || self.all.values().filter(|lingerer| lingerer.domain == domain);
        own().count() < MOST && own().map(|lingerer| lingerer.fds).sum::<u64>() < MOST_FDS
    }
}

fn is_read(socket: &Socket) -> bool {
    // A socket that cannot be asked is of no use in any case.
    socket.unread().map_or(true, |bytes| bytes == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: DomainId = DomainId(7);

    /// As many as may be, with something unread in each; the clients' ends.
    fn full(lingering: &mut Lingering, poller: &Poller) -> Vec<Socket> {
        let one = |number| {
            let (ours, theirs) = Socket::pair().expect("a pair");
            poller.add(&ours, Source::Client(LinkId(number))).expect("a socket");
            ours.send(&[1], &[]).expect("room");
            lingering.keep(LinkId(number), DOMAIN, 1, ours, poller);
            theirs
        };
        (0..MOST as u64).map(one).collect()
    }

    #[test]
    fn a_domain_with_too_much_unread_is_not_let_in_and_others_are() {
        let (mut lingering, poller) = (Lingering::default(), Poller::new().expect("a poller"));
        let _clients = full(&mut lingering, &poller);
        assert!(!lingering.admits(DOMAIN) && lingering.admits(DomainId(8)));
    }

    #[test]
    fn atk_few_connections_with_many_fds_are_as_bad_as_many() {
        let (mut lingering, poller) = (Lingering::default(), Poller::new().expect("a poller"));
        let keep = |lingering: &mut Lingering, number| {
            let (ours, theirs) = Socket::pair().expect("a pair");
            poller.add(&ours, Source::Client(LinkId(number))).expect("a socket");
            ours.send(&[1], &[]).expect("room");
            lingering.keep(LinkId(number), DOMAIN, MOST_FDS / 2, ours, &poller);
            theirs
        };
        let _first = keep(&mut lingering, 1);
        assert!(lingering.admits(DOMAIN));
        let _second = keep(&mut lingering, 2);
        assert!(!lingering.admits(DOMAIN) && lingering.admits(DomainId(8)));
    }

    #[test]
    fn a_domain_is_let_in_again_when_something_is_read() {
        let (mut lingering, poller) = (Lingering::default(), Poller::new().expect("a poller"));
        let clients = full(&mut lingering, &poller);
        clients[3].recv_plain(&mut [0; 8]).expect("what was sent");
        assert!(lingering.admits(DOMAIN));
    }

    #[test]
    fn atk_an_end_that_is_shut_and_kept_counts_on_until_it_is_closed() {
        let (mut lingering, mut poller) = (Lingering::default(), Poller::new().expect("a poller"));
        let clients = full(&mut lingering, &poller);
        for client in &clients {
            rustix::net::shutdown(client, Shutdown::Both).expect("a socket");
        }
        let mut ready = Vec::new();
        poller.wait(Some(0), &mut ready).expect("ready");
        assert_eq!(ready.len(), MOST);
        (0..MOST as u64).for_each(|number| lingering.ended(LinkId(number), &poller));
        assert!(!lingering.admits(DOMAIN));
        ready.clear();
        poller.wait(Some(0), &mut ready).expect("ready");
        assert!(ready.is_empty(), "nobody is told of it for ever: {ready:?}");
        drop(clients);
        assert!(lingering.admits(DOMAIN));
    }

    #[test]
    fn the_end_of_the_other_end_is_told_and_nothing_else() {
        let (mut lingering, mut poller) = (Lingering::default(), Poller::new().expect("a poller"));
        let mut clients = full(&mut lingering, &poller);
        clients[0].send(&[1], &[]).expect("room");
        let gone = clients.pop();
        drop(gone);
        let mut ready = Vec::new();
        poller.wait(Some(0), &mut ready).expect("ready");
        let told: Vec<Source> = ready.iter().map(|(source, _)| *source).collect();
        assert_eq!(told, [Source::Client(LinkId(MOST as u64 - 1))]);
    }
}
