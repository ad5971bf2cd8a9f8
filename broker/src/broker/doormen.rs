//! Doormen: whom they bring, and at which pace.
//!
//! ```text
//!   DoorFits ─► not read ──LetIn: it is a domain's──► read, a few at a time ──the gate is closed──► not read ─┐
//!                                                        ▲                                                    │
//!                                                        └───────────────────── the gate opens ───────────────┘
//! ```
//!
//! A doorman is a porter to whoever starts, watches and kills it ([`super::porters`]). A connection that it brings is let in
//! as one that the broker has accepted at a door of the keeper's: the gate counts it, the kernel says who is at its other
//! end, the domain's quotas and limits hold. It is looked at again before (M-261). A doorman whose link is not read has to
//! wait with its next connection, so those who come meanwhile wait in the backlog of their own socket (M-260).
//!
//! The open file of a connection is shared with the doorman for a moment, until that has closed its own.

use std::os::fd::OwnedFd;

use tracing::{debug, warn};
use vgem_core::io::Input;
use vgem_os::clock;
use vgem_os::seqpacket::Socket;
use vgem_proto::ids::{DomainId, PorterId};
use vgem_proto::message::porter::PorterMessage;

use super::gate::{Gate, OF_ONE};
use super::poller::Source;
use super::porters::Porter;
use super::shell::Shell;

/// What a doorman's link is read for.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Whom it brings is of this domain, and let in at this pace.
    door: Option<(DomainId, Gate)>,
    /// Its link is not looked at: nobody is to be let in yet, or now.
    is_passed_over: bool,
    /// Its process has ended: what it said before is taken whatever the gate says.
    is_over: bool,
}

impl Post {
    /// Nobody is let in any more.
    pub(super) fn leave(&mut self) {
        self.door = None;
    }

    /// Its process has ended.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    /// Whether the poller does not look at its link.
    pub(super) const fn is_passed_over(&self) -> bool {
        self.is_passed_over
    }

    /// When its link is looked at again, while the gate is closed.
    pub(super) fn opens_at(&self) -> Option<u64> {
        self.door.as_ref().and_then(|(_, gate)| gate.opens_at())
    }

    /// Whether one more message may be taken now.
    pub(super) fn admits(&mut self, now: u64) -> bool {
        match &mut self.door {
            _ if self.is_over => true,
            Some((_, gate)) => gate.opens_at().is_none() && gate.has_share(now),
            // That its door fits.
            None => !self.is_passed_over,
        }
    }
}

impl Shell {
    /// From now on those whom a doorman brings are let in.
    pub(super) fn let_in_from(&mut self, id: PorterId, domain: DomainId) {
        let Some(porter) = self.porters.get_mut(id) else { return };
        porter.post.door = Some((domain, Gate::new(OF_ONE)));
        self.look_at_doorman(id);
    }

    /// Takes what a doorman has said of its door and of who comes there.
    pub(super) fn doorman_said(
        &mut self,
        id: PorterId,
        request: u64,
        said: PorterMessage,
        fd: Option<OwnedFd>,
    ) {
        match (said, fd) {
            (PorterMessage::DoorFits(fits), None) => {
                // What it says next is for later: whether there is a domain is decided first.
                self.pass_over(id);
                let path = String::from_utf8_lossy(&fits.path).into_owned();
                self.happen(Input::DoorFits { porter: id, request, path });
            }
            (PorterMessage::Visitor(_), Some(fd)) => self.visitor(id, fd),
            (PorterMessage::DoorShut(shut), None) => {
                let why = String::from_utf8_lossy(&shut.text).into_owned();
                self.happen(Input::DoorShut { porter: id, why });
            }
            (PorterMessage::DoorEnds(_), None) => self.happen(Input::DoorEnds { porter: id }),
            (other, fd) => {
                self.quarantine(fd);
                self.porter_broke(id, other.row().name);
            }
        }
    }

    /// Somebody has connected to a doorman's socket.
    fn visitor(&mut self, id: PorterId, fd: OwnedFd) {
        let socket = match Socket::connected(fd) {
            Ok(socket) => socket,
            Err((fd, what)) => {
                self.quarantine(Some(fd));
                return self.porter_broke(id, &format!("{what} as a connection"));
            }
        };
        let door = self.porters.get_mut(id).and_then(|porter| porter.post.door.as_mut());
        let Some((domain, gate)) = door else {
            debug!("{id} has no domain any more; a connection is closed");
            return;
        };
        let domain = *domain;
        gate.take(clock::now());
        let entered = socket
            .set_pass_rights(false)
            .and_then(|_| socket.peer())
            .and_then(|peer| self.enter(socket, peer, domain));
        if let Err(e) = entered {
            self.not_let_in(&e);
        }
    }

    /// Does not look at a doorman's link, which would be reported as readable all the while.
    pub(super) fn pass_over(&mut self, id: PorterId) {
        let Some(porter) = self.porters.get_mut(id) else { return };
        if porter.is_silent() || std::mem::replace(&mut porter.post.is_passed_over, true) {
            return;
        }
        if let Err(e) = self.poller.remove(porter.socket()) {
            debug!("{id}: {e}");
        }
    }

    /// The kernel had no fd for somebody whom a doorman has brought: nobody is let in for a moment.
    pub(super) fn visitor_lost(&mut self, id: PorterId) {
        if let Some(porter) = self.porters.get_mut(id)
            && let Some((_, gate)) = &mut porter.post.door
        {
            gate.refuse(clock::now());
        }
    }

    /// Looks at doormen again whose gates open now.
    pub(super) fn reopen_doormen(&mut self) {
        let closed = |(id, porter): (&PorterId, &Porter)| porter.post.opens_at().map(|_| *id);
        let closed: Vec<PorterId> = self.porters.iter().filter_map(closed).collect();
        for id in closed {
            let Some(porter) = self.porters.get_mut(id) else { continue };
            let Some((_, gate)) = &mut porter.post.door else { continue };
            if gate.open(clock::now()) {
                self.look_at_doorman(id);
            }
        }
    }

    fn look_at_doorman(&mut self, id: PorterId) {
        let Some(porter) = self.porters.get_mut(id) else { return };
        if porter.is_silent() || !std::mem::replace(&mut porter.post.is_passed_over, false) {
            return;
        }
        if let Err(e) = self.poller.add(porter.socket(), Source::Porter(id)) {
            warn!("{id}: {e}");
            self.kill_porter(id);
        }
    }
}

#[cfg(test)]
mod tests;
