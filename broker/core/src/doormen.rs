//! Doors of a client's own: a listening socket that somebody else has bound, and the doorman that accepts there.
//!
//! ```text
//!   OpenPorter + OPEN_DOORMAN ─► a doorman of the client's ─┬─ CreateDomain + DOMAIN_AT ─┐
//!                                                           └─ HandDoor: DoorFits ───────┴─► Open, the doorman is the domain's
//!                                   DoorShut ─► Draining      DoorEnds; the doorman is gone ─► Closed
//! ```
//!
//! Whoever has bound a listening socket may share it, and who shares it can have an `accept` wait for ever. So a process
//! that nobody else needs accepts there, one for each such domain. It lives as a porter does ([`crate::porters`]): it is
//! charged to whoever had it started until its process has ended, and killed when its domain ends.
//!
//! The two halves, the request and what came of the fds, wait for each other as those of an import do ([`crate::import`]);
//! nothing is in any table before both are there, so there is nothing to take back. From then on the creator may go: the
//! close fd alone decides how long the domain lives.
//!
//! Invariants: a doorman that has a domain is named by that domain and by no client; a domain names a doorman that is
//! Running.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, PorterId, Time};
use vgem_proto::message::DOMAIN_STAYS;
use vgem_proto::message::client::{CreateDomain, DomainCreated};
use vgem_proto::rights::Access;

use crate::admin::Plan;
use crate::broker::Broker;
use crate::domains::{DomainEvent, Door, Origin, Socket};
use crate::import::Wanted;
use crate::io::{Arrival, Effect, Event};
use crate::objects::Awaiting;
use crate::porters::{Duty, Porter, PorterState};
use crate::requests::Outcome;

impl Broker {
    /// A domain whose socket comes through the client's doorman. What can be refused now is, and the doorman, which takes
    /// one socket, is ended with it.
    pub(crate) fn ask_domain_at(
        &mut self,
        now: Time,
        asker: Awaiting,
        stays: bool,
        create: CreateDomain,
    ) -> Outcome {
        let asked = match self.plan_domain(asker.client, &create) {
            Ok(_) if stays => {
                let text =
                    "a domain at a socket that was handed over ends with its close fd, and cannot stay";
                Err(Refusal::new(ErrorCode::BadParameter, text).with(u64::from(DOMAIN_STAYS), 0))
            }
            Ok(_) => self.ask_hand(now, asker, Wanted::Domain(create)),
            Err(refusal) => Err(refusal),
        };
        if asked.is_err() {
            self.drop_doorman_of(asker.client);
        }
        asked
    }

    /// What a doorman was handed fits.
    pub(crate) fn door_fits(&mut self, now: Time, id: PorterId, request: u64, path: String) {
        let is_free =
            |porter: &&mut Porter| porter.duty == Duty::Door(None) && porter.state == PorterState::Running;
        let Some(porter) = self.porters.get_mut(&id).filter(is_free) else { return };
        porter.path = path;
        self.brought(now, id, request, Arrival::Door { doorman: id }, Access::Read);
    }

    /// Both halves are there: the domain is made, and open.
    pub(crate) fn make_domain_at(&mut self, asker: Awaiting, create: &CreateDomain, id: PorterId) -> Outcome {
        let Plan { name, domain, rules } = self.plan_domain(asker.client, create)?;
        let gone = || Refusal::new(ErrorCode::Unavailable, "the doorman is gone; open another");
        let porter = self.porters.get_mut(&id).filter(|porter| porter.state == PorterState::Running);
        let porter = porter.ok_or_else(gone)?;
        porter.duty = Duty::Door(Some(domain));
        let path = std::mem::take(&mut porter.path);
        if let Some(client) = self.clients.get_mut(asker.client) {
            client.doorman = None;
        }
        let socket = Socket { creator: None, path: path.clone(), asker: None, door: Door::Handed(Some(id)) };
        self.enter_domain(domain, &name, &rules, socket);
        if let Some(domain) = self.domains.named.get_mut(&domain)
            && let Some(next) = domain.state.after(DomainEvent::Made)
        {
            domain.state = next;
        }
        self.out.push(Effect::LetIn { porter: id, domain });
        self.audit(asker.client, format!("makes domain {name}, {domain}, at a socket of its own"));
        self.reply(asker.link, asker.request, DomainCreated { domain, path: path.into_bytes() });
        Ok(())
    }

    /// A doorman that no domain needs is ended.
    pub(crate) fn drop_doorman(&mut self, id: PorterId) {
        let refusal =
            Refusal::new(ErrorCode::Unavailable, "the doorman was ended: it takes one socket, once");
        self.kill_porter(id, "its door is not wanted", &refusal);
    }

    /// A client's doorman was handed what it takes once, and that is not wanted.
    pub(crate) fn drop_doorman_of(&mut self, client: ClientKey) {
        if let Some(doorman) = self.clients.get(client).and_then(|client| client.doorman) {
            self.drop_doorman(doorman);
        }
    }

    /// Nobody can connect to a listening socket any more.
    pub(crate) fn door_shut(&mut self, id: PorterId, why: &str) {
        let Some(domain) = self.domain_of_doorman(id).and_then(|id| self.domains.named.get_mut(&id)) else {
            return;
        };
        if let Some(next) = domain.state.after(DomainEvent::Drain) {
            domain.state = next;
            let (name, how) = (domain.name.clone(), format!("drained: its socket takes nobody: {why}"));
            self.log(None, Event::DomainEnds { name, how });
        }
    }

    /// A domain's close fd has hung up, or its doorman is gone.
    pub(crate) fn door_ends(&mut self, id: PorterId, why: &str) {
        if let Some(domain) = self.domain_of_doorman(id) {
            self.log_end(domain, why);
            self.end_domain(domain);
        }
    }

    /// The doorman of a domain was killed, or has ended, and the domain, if it has not, with it.
    pub(crate) fn lose_doorman(&mut self, domain: DomainId, id: PorterId) {
        let Some(found) = self.domains.named.get_mut(&domain) else { return };
        let Origin::Socket(socket) = &mut found.origin else { return };
        if socket.door != Door::Handed(Some(id)) {
            return;
        }
        socket.door = Door::Handed(None);
        self.log_end(domain, "its doorman is gone");
        self.end_domain(domain);
    }

    fn log_end(&mut self, id: DomainId, why: &str) {
        if let Some(domain) = self.domains.named.get(&id)
            && domain.state.after(DomainEvent::Close).is_some()
        {
            let (name, how) = (domain.name.clone(), format!("closed: {why}"));
            self.log(None, Event::DomainEnds { name, how });
        }
    }

    fn domain_of_doorman(&self, id: PorterId) -> Option<DomainId> {
        match self.porters.get(&id)?.duty {
            Duty::Door(domain) => domain,
            Duty::Imports => None,
        }
    }

    /// A client that asks for a domain at a socket must have a doorman that takes it.
    pub(crate) fn runs_for(&self, key: ClientKey, duty: Duty) -> bool {
        let client = self.clients.get(key);
        let id = client.and_then(|client| match duty {
            Duty::Imports => client.porter,
            Duty::Door(_) => client.doorman,
        });
        let porter = id.and_then(|id| self.porters.get(&id));
        porter.is_some_and(|porter| porter.state == PorterState::Running)
    }
}
