//! Clients: letting them in, reading their requests, answering, letting them go.

use std::os::fd::OwnedFd;

use tracing::{Level, debug, info, warn};
use vgem_core::io::{Attach, BadRequest, Input, LinkId, PeerFacts, Way};
use vgem_os::clock;
use vgem_os::peer::{Groups, PeerIdentity, PeerNumbers};
use vgem_os::seqpacket::{Listener, Packet as Received, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DomainId, InstanceId, Time};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, Refused};
use vgem_proto::message::keeper::CloseDoor;
use vgem_proto::message::{Head, Sender};

use super::callers::Entry;
use super::carry::random;
use super::gate::{Gate, OF_ONE};
use super::link::Link;
use super::outbox::{CLIENT_BYTES, Instead, Packet};
use super::poller::{Source, TURN, TURN_BYTES};
use super::shell::{Door, Shell};
use super::turns::is_past;
use super::unread::Unread;

/// Connections let in before others have their turn.
const ACCEPTS: usize = 16;
/// As long as that takes at most, nanoseconds; the connection with which it is over is let in all the same.
const ACCEPTS_NS: u64 = 50_000;
/// Groups that a process may be in, where groups decide about domains: each costs the kernel time to tell.
pub(super) const GROUPS: usize = 1024;
/// No job, no operand: what a refusal says that is about the whole request.
const NONE: u16 = u16::MAX;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    link: Link,
    /// The fds on their way to it.
    on_way: Unread,
    domain: DomainId,
    // Held for the life of the connection: the process itself, not a number that may be used again.
    _peer: PeerIdentity,
}

impl Client {
    /// Bytes it has not read, as the kernel counts them; more than any bound while something waits here.
    pub(super) fn unread(&self) -> Result<usize, OsError> {
        if self.link.is_drained() { self.link.socket().unread() } else { Ok(usize::MAX) }
    }

    /// Looks which fds it has taken; whether there were some.
    fn settle(&mut self) -> bool {
        !self.on_way.is_empty()
            && match self.link.unread() {
                Ok(unread) => self.on_way.settle(unread),
                Err(_) => false,
            }
    }

    /// Its domain.
    pub(super) const fn domain(&self) -> DomainId {
        self.domain
    }
}

impl Shell {
    /// Lets those in who wait at a door: of a domain, or of everybody.
    pub(super) fn accept(&mut self, of: Option<DomainId>) {
        let until = clock::deadline_in(ACCEPTS_NS);
        for turn in 0..ACCEPTS {
            let now = clock::now();
            if turn > 0 && until <= now {
                return;
            }
            let Some(door) = self.doors.get_mut(&of) else { return };
            if door.gate.opens_at().is_none() && door.gate.has_share(now) {
                match door.listener.accept() {
                    Ok(socket) => {
                        if let Err(e) = self.accepted(socket, of, now) {
                            self.not_let_in(&e);
                        }
                        continue;
                    }
                    Err(e) if e.would_block() || e.errno() == Errno::CONNABORTED => return,
                    Err(e) => {
                        warn!("nobody is let in for a moment: {e}");
                        door.gate.refuse(now);
                    }
                }
            }
            // The door stays ready while somebody waits there: not looking at it is the only way to sleep.
            if let Err(e) = self.poller.remove(&door.listener) {
                debug!("{e}");
            }
            return;
        }
    }

    /// Somebody has come to a door: whoever came to that of everybody comes in at the rate of its user (M-270).
    fn accepted(&mut self, socket: Socket, of: Option<DomainId>, now: u64) -> Result<(), OsError> {
        let socket = match of {
            Some(_) => socket,
            None => {
                let peer = socket.peer_numbers()?;
                match self.callers.come(peer.uid, socket, now) {
                    Entry::Now(socket) => socket,
                    Entry::Later => return Ok(()),
                    Entry::Full { connection, most } => {
                        let text =
                            format!("{most} connections wait already to come in; connect again in a moment");
                        self.refuse(&connection, peer, (most + 1, most), text);
                        return Ok(());
                    }
                }
            }
        };
        if let Some(door) = self.doors.get_mut(&of) {
            door.gate.take(now);
        }
        self.let_in(socket, of)
    }

    /// Lets those in who came to the door of everybody faster than one user may, when it is time. The clock is asked only
    /// if somebody waits.
    pub(super) fn let_in_late(&mut self) {
        let Some(due) = self.callers.due() else { return };
        let now = clock::now();
        if due > now {
            return;
        }
        for _ in 0..ACCEPTS {
            let Some(socket) = self.callers.next(now) else { return };
            if let Some(door) = self.doors.get_mut(&None) {
                door.gate.take(now);
            }
            if let Err(e) = self.let_in(socket, None) {
                self.not_let_in(&e);
            }
            self.go_on();
        }
    }

    /// Looks at doors again, if it is time.
    pub(super) fn reopen_gates(&mut self) {
        for (of, door) in self.doors.iter_mut().filter(|(_, door)| door.gate.opens_at().is_some()) {
            let now = clock::now();
            if door.gate.open(now)
                && let Err(e) = self.poller.add(&door.listener, Source::Listener(*of))
            {
                warn!("{e}");
                door.gate.refuse(now);
            }
        }
    }

    /// A domain has a door.
    pub(super) fn door_opened(&mut self, domain: DomainId, listener: OwnedFd, path: String) {
        let made = Listener::from_fd(listener).and_then(|listener| {
            self.poller.add(&listener, Source::Listener(Some(domain)))?;
            Ok(listener)
        });
        match made {
            Ok(listener) => {
                self.doors.insert(Some(domain), Door { listener, gate: Gate::new(OF_ONE) });
                self.happen(Input::DoorOpened { domain, path });
            }
            Err(e) => {
                self.ask_keeper(&CloseDoor { domain }.into(), Vec::new());
                self.happen(Input::DoorFailed { domain, why: e.to_string() });
            }
        }
    }

    /// A domain has its door no more. Those who wait there are not let in: their connections are reset.
    pub(super) fn close_door(&mut self, domain: DomainId) {
        // The poller looks at it no more when the last fd of it is closed, which is this one.
        self.doors.remove(&Some(domain));
        self.ask_keeper(&CloseDoor { domain }.into(), Vec::new());
    }

    fn let_in(&mut self, socket: Socket, door: Option<DomainId>) -> Result<(), OsError> {
        let peer = socket.peer()?;
        match door {
            Some(domain) => self.enter(socket, peer, domain),
            None => {
                let groups = self.groups(&socket)?;
                self.find_domain(socket, peer, groups)
            }
        }
    }

    /// The groups of who connected, where they decide which domain it is in.
    fn groups(&self, socket: &Socket) -> Result<Groups, OsError> {
        if self.core.asks_for_groups() { socket.peer_groups(GROUPS) } else { Ok(Groups::All(Vec::new())) }
    }

    /// Lets somebody in, once it is known where.
    pub(super) fn find_domain(
        &mut self,
        socket: Socket,
        peer: PeerIdentity,
        groups: Groups,
    ) -> Result<(), OsError> {
        let mut groups = match groups {
            Groups::All(groups) => groups,
            Groups::TooMany(count) => {
                let text = format!("a process of {count} groups is not let in where groups decide");
                self.refuse(&socket, numbers(&peer), (count, GROUPS), text);
                return Ok(());
            }
        };
        groups.push(peer.gid);
        if self.core.asks_for_cgroups() {
            return self.ask_cgroup(socket, peer, groups);
        }
        let domain = self.core.home_of(peer.uid, &groups, None);
        self.enter(socket, peer, domain)
    }

    /// Says to somebody that it is not let in.
    pub(super) fn refuse(
        &mut self,
        socket: &Socket,
        PeerNumbers { uid, pid }: PeerNumbers,
        (count, most): (usize, usize),
        text: String,
    ) {
        let domain = self.core.home_of(uid, &[], None);
        if self.may_log(Some(domain), Level::INFO) {
            info!("a connection of uid {uid}, process {pid}, is refused: {text}");
        }
        let bytes = refusal(0, ErrorCode::Exhausted, (count as u64, most as u64), text);
        // It has room: nothing was sent over it. Who has left hears nothing.
        if let Err(e) = socket.set_nonblocking(true).and_then(|()| socket.send(&bytes, &[])) {
            debug!("a connection of process {pid} is not told that it is refused: {e}");
        }
    }

    /// A connection ends here: the kernel has no fd for it, for instance, as for the next thousand.
    pub(super) fn not_let_in(&mut self, e: &OsError) {
        if self.may_log(None, Level::WARN) {
            warn!("a connection is refused: {e}");
        }
    }

    /// Lets somebody in whose domain is known.
    pub(super) fn enter(
        &mut self,
        socket: Socket,
        peer: PeerIdentity,
        domain: DomainId,
    ) -> Result<(), OsError> {
        if !self.lingering.admits(domain) {
            if self.may_log(Some(domain), Level::INFO) {
                info!("a connection of {domain} is refused: too many before it left their fds unread");
            }
            return Ok(());
        }
        let (uid, pid) = (peer.uid, peer.pid.unsigned_abs());
        let facts = PeerFacts { way: Way::Socket, uid, pid, domain, token: random()? };
        self.connected(socket, peer, facts)
    }

    /// Has a connection served from now on. `peer`: who is at its other end, as the kernel says.
    pub(super) fn connected(
        &mut self,
        socket: Socket,
        peer: PeerIdentity,
        facts: PeerFacts,
    ) -> Result<(), OsError> {
        let (id, domain) = (LinkId(self.next_link), facts.domain);
        let link = Link::new(socket, Source::Client(id), CLIENT_BYTES, &self.poller)?;
        self.next_link += 1;
        self.clients.insert(id, Client { link, on_way: Unread::default(), domain, _peer: peer });
        self.turns.connected(domain);
        self.happen(Input::Connected { link: id, peer: facts });
        Ok(())
    }

    /// Takes what a client has sent, as far as its turn goes: a few messages, and none after `until`.
    pub(super) fn client_ready(&mut self, id: LinkId, until: u64) {
        let mut bytes = 0;
        for turn in 0..TURN {
            if bytes >= TURN_BYTES || turn > 0 && is_past(until) {
                return;
            }
            let Some(client) = self.clients.get_mut(&id) else {
                return self.lingering.ended(id, &self.poller);
            };
            match client.link.take(&mut self.buffer, turn == 0) {
                Ok(Some(Received::Data { len })) => {
                    bytes += len;
                    // Asked only after an fd was sent: most messages cost no call more.
                    if client.settle() {
                        let told = client.on_way.told(id);
                        self.happen(told);
                    }
                    let input = request(id, self.buffer.get(..len).unwrap_or_default());
                    self.hear_who_knows(id, &input, until);
                    self.happen(input);
                }
                Ok(Some(Received::TooLong { len })) => {
                    let request = Head::request_of(&self.buffer);
                    let fault = BadRequest::TooLarge { len: len as u64 };
                    self.happen(Input::BadRequest { link: id, request, fault });
                }
                Ok(Some(Received::Closed)) => return self.forget(id),
                Ok(None) => return,
                Err(e) => {
                    debug!("{id:?}: {e}");
                    return self.forget(id);
                }
            }
        }
    }

    /// Who asks for a cause has seen the point that failed, and its driver told the cause before it signalled: in this very
    /// turn, perhaps, when it had been listened to already. What is another domain's to hear takes that domain's time (M-251).
    fn hear_who_knows(&mut self, id: LinkId, input: &Input, until: u64) {
        let Input::Request { message: ClientMessage::Explain(explain), .. } = input else { return };
        let issuer = explain.cause.issuer();
        let other = self.core.instance_domain(issuer).filter(|_| !self.core.hears(id, issuer));
        match other.filter(|domain| self.turns.has_share(*domain)) {
            None => self.instance_ready(issuer, TURN, until),
            Some(other) => self.hear_other(issuer, other, until),
        }
    }

    /// Takes what another domain's driver has sent, as long as that domain has time left.
    fn hear_other(&mut self, issuer: InstanceId, domain: DomainId, until: u64) {
        // When the look is over `until` says.
        let (left, began) = (self.turns.left(domain, false), clock::now());
        if left > 0 {
            self.instance_ready(issuer, TURN, until.min(began.saturating_add(left)));
            self.turns.took(domain, clock::now().saturating_sub(began));
        }
    }

    /// Sends what waits for a client.
    pub(super) fn client_writable(&mut self, id: LinkId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let flushed = client.link.flush(&self.poller);
        self.undelivered(id);
        if let Err(e) = flushed {
            debug!("{id:?}: {e}");
            self.forget(id);
        }
    }

    /// Answers a client, with the fds of the answer if they can be had.
    pub(super) fn reply(&mut self, id: LinkId, request: u64, message: ClientMessage, attach: &Attach) {
        if !self.clients.contains_key(&id) {
            return;
        }
        let packet = match self.attached(attach) {
            Ok(fds) if fds.is_empty() => Packet::plain(message.encode(request, Time(0), 0)),
            Ok(fds) => {
                let refused = no_fds(request, &OsError::new("sendmsg", Errno::TOOMANYREFS));
                let bytes = message.encode(request, Time(0), 0);
                Packet { bytes, fds, instead: Some(Box::new(Instead { bytes: refused, message })) }
            }
            Err(e) => {
                self.inputs.push_back(Input::Undelivered { link: id, message });
                Packet::plain(no_fds(request, &e))
            }
        };
        self.send_client(id, packet);
    }

    /// Tells core of messages whose fds could not be sent.
    fn undelivered(&mut self, id: LinkId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        for message in client.link.undelivered() {
            self.inputs.push_back(Input::Undelivered { link: id, message });
        }
    }

    /// Looks whether a client has read everything.
    pub(super) fn check_received(&mut self, id: LinkId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.settle();
        self.inputs.push_back(client.on_way.told(id));
    }

    /// Notes what a client has taken, before it is sent what nobody waits for.
    pub(super) fn settle(&mut self, id: LinkId) {
        if let Some(client) = self.clients.get_mut(&id)
            && client.settle()
        {
            self.inputs.push_back(client.on_way.told(id));
        }
    }

    /// Sends a client a message; drops one that does not read.
    pub(super) fn send_client(&mut self, id: LinkId, packet: Packet) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        // Another may be sent in its place.
        let instead = packet.instead.as_ref().map_or(usize::MAX, |instead| instead.bytes.len());
        client.on_way.note(packet.bytes.len().min(instead), packet.fds.len(), Time(clock::now()));
        let sent = client.link.send(packet, &self.poller);
        self.undelivered(id);
        match sent {
            Ok(true) => {}
            Ok(false) => self.disconnect(id, "it does not read its answers"),
            Err(e) => {
                debug!("{id:?}: {e}");
                self.forget(id);
            }
        }
    }

    /// Closes a connection. What was sent can still be read.
    pub(super) fn disconnect(&mut self, id: LinkId, why: &str) {
        let domain = self.clients.get(&id).map(Client::domain);
        if self.may_log(domain, Level::INFO) {
            info!("client connection {} is dropped: {why:?}", id.0);
        }
        if let Some(client) = self.clients.get_mut(&id)
            && let Err(e) = client.link.flush(&self.poller)
        {
            debug!("{id:?}: {e}");
        }
        self.forget(id);
    }

    /// A connection is gone. Core hears of it after what is being carried out.
    fn forget(&mut self, id: LinkId) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let domain = client.domain();
        self.turns.gone(domain, id);
        client.settle();
        let unread = client.on_way.fds();
        if unread > 0 {
            self.lingering.keep(id, domain, unread, client.link.into_socket(), &self.poller);
        }
        self.monitors.forget(id);
        self.inputs.push_back(Input::Hangup { link: id });
        if !self.memory.is_exact() {
            self.inputs.push_back(Input::ExportHint { object: None });
        }
    }
}

/// Who somebody is in what is said of it.
pub(super) const fn numbers(peer: &PeerIdentity) -> PeerNumbers {
    PeerNumbers { uid: peer.uid, pid: peer.pid }
}

/// What a packet is to core.
fn request(link: LinkId, bytes: &[u8]) -> Input {
    match ClientMessage::decode(bytes, Sender::Client, 0) {
        Ok((head, message)) => Input::Request { link, head, message },
        Err(fault) => {
            let request = Head::request_of(bytes);
            Input::BadRequest { link, request, fault: BadRequest::Malformed(fault) }
        }
    }
}

/// The answer in place of one whose fds cannot be had.
fn no_fds(request: u64, e: &OsError) -> Vec<u8> {
    let value = u64::from(e.errno().raw_os_error().unsigned_abs());
    let text = format!("the answer's file descriptors cannot be sent: {e}");
    refusal(request, ErrorCode::System, (value, 0), text)
}

/// A refusal that is not core's: of a request, or of the connection for request 0.
fn refusal(request: u64, code: ErrorCode, (value, limit): (u64, u64), text: String) -> Vec<u8> {
    let mut text = text.into_bytes();
    text.truncate(limits::TEXT_LEN);
    let refused = Refused { code, job: NONE, part: NONE, value, limit, cause: CauseId::NONE, text };
    refused.encode(request, Time(0), 0)
}

#[cfg(test)]
mod tests;
