//! What who administers asks for: domains with a listening socket of their own, quotas, and the end of others' sessions.
//!
//! ```text
//!   CreateDomain ─► Opening ──the keeper has made the socket──► Open ─► clients come through it
//!                      │ it cannot                               │ DrainDomain
//!                      └─► gone, refused                         ▼
//!                                          Draining ──nothing is owed──► gone
//!                                             │ CloseDomain; its creator is gone
//!                                             ▼
//!                                          Closed: clients are disconnected ──nothing is owed──► gone
//! ```
//!
//! Everything here is refused with Denied unless the client administers, and leaves a line for whoever audits. A client
//! that came through a domain's own socket never does, whatever its uid: root of a container is nobody here.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::domains::{NAMED_MOST, QuotaKind, QuotaLimit, is_domain_name};
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, Time};
use vgem_proto::message::client::{CreateDomain, DomainCreated, Done, SetQuota};
use vgem_proto::message::{DOMAIN_AT, DOMAIN_STAYS};

use crate::broker::{Broker, client_number};
use crate::config::{Quotas, Rules, Uses};
use crate::domains::{DomainEvent, DomainState, Door, Origin, Socket};
use crate::io::{Effect, Event, Way};
use crate::objects::Awaiting;
use crate::policy::{self, Action};
use crate::requests::Outcome;

/// A domain that may be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    /// Its number, if it is made next.
    pub(crate) domain: DomainId,
    pub(crate) rules: Rules,
}

impl Broker {
    /// A domain with a socket of its own: one that the keeper makes, or one that the client hands over.
    pub(crate) fn create_domain(
        &mut self,
        now: Time,
        asker: Awaiting,
        flags: u16,
        create: CreateDomain,
    ) -> Outcome {
        let stays = flags & DOMAIN_STAYS != 0;
        if flags & DOMAIN_AT != 0 {
            return self.ask_domain_at(now, asker, stays, create);
        }
        let Plan { name, domain, rules } = self.plan_domain(asker.client, &create)?;
        let creator = (!stays).then_some(asker.client);
        let socket = Socket { creator, path: String::new(), asker: Some(asker), door: Door::Keepers };
        self.enter_domain(domain, &name, &rules, socket);
        self.out.push(Effect::OpenDoor { domain, name: name.clone() });
        self.audit(asker.client, format!("makes domain {name}, {domain}"));
        Ok(())
    }

    /// What is to be made, if it may be.
    pub(crate) fn plan_domain(&self, client: ClientKey, create: &CreateDomain) -> Result<Plan, Refusal> {
        let subject = self.find_client(client)?.subject();
        let _grant = policy::authorise(subject, Action::Administer)?;
        let name = std::str::from_utf8(&create.name).ok().filter(|name| is_domain_name(name));
        let Some(name) = name else {
            let text = "a domain's name is 1 to 32 of a to z, 0 to 9 and -";
            return Err(Refusal::new(ErrorCode::BadParameter, text).with(create.name.len() as u64, 32));
        };
        if let Some(there) = self.domains.by_name(name) {
            let text = format!("there is a domain {name} already; it may be on its way out");
            return Err(Refusal::new(ErrorCode::Busy, text).with(u64::from(there.0), 0));
        }
        let count = self.domains.named.len();
        if count >= NAMED_MOST {
            let text = "domains with a name";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(count as u64 + 1, NAMED_MOST as u64));
        }
        let usual = &self.domains.defaults;
        let quotas = with(usual.quotas, &create.quotas)?;
        let uses = match create.uses.as_slice() {
            [] => usual.uses.clone(),
            said => self.find_uses(said)?,
        };
        let Some(domain) = self.domains.next_number() else {
            return Err(Refusal::new(ErrorCode::Exhausted, "numbers of domains"));
        };
        self.accounts.find_capacity(domain, &quotas)?;
        Ok(Plan { name: name.to_owned(), domain, rules: Rules { quotas, uses } })
    }

    /// Takes a domain with a socket in.
    pub(crate) fn enter_domain(&mut self, domain: DomainId, name: &str, rules: &Rules, socket: Socket) {
        self.domains.enter(domain, name, rules, Origin::Socket(socket), &self.devices);
        self.accounts.set_quotas(domain, Some(rules.quotas));
    }

    /// What lines of DEVICE and DEVICE/OPERATION allow.
    fn find_uses(&self, said: &[u8]) -> Result<Uses, Refusal> {
        let said = String::from_utf8_lossy(said);
        let (mut devices, mut operations) = (BTreeSet::new(), BTreeMap::<String, BTreeSet<String>>::new());
        let mut whole = BTreeSet::new();
        for line in said.lines().filter(|line| !line.is_empty()) {
            let (name, operation) = line.split_once('/').map_or((line, None), |(name, of)| (name, Some(of)));
            let Some(device) = self.devices.iter().find(|device| device.name() == name) else {
                return Err(Refusal::new(ErrorCode::NoSuchDevice, format!("there is no device {name:?}")));
            };
            devices.insert(name.to_owned());
            match operation {
                None => {
                    whole.insert(name.to_owned());
                }
                Some(of) if device.description.by_name(of).is_some() => {
                    operations.entry(name.to_owned()).or_default().insert(of.to_owned());
                }
                Some(of) => {
                    let text = format!("device {name} has no operation {of:?}");
                    return Err(Refusal::new(ErrorCode::NoSuchOperation, text));
                }
            }
        }
        operations.retain(|name, _| !whole.contains(name));
        Ok(Uses { devices: Some(devices), operations })
    }

    /// The keeper has made a domain's socket.
    pub(crate) fn door_opened(&mut self, id: DomainId, path: String) {
        let found = self.domains.named.get_mut(&id);
        let made = found.and_then(|domain| Some((domain.state.after(DomainEvent::Made)?, domain)));
        let Some((next, domain)) = made else {
            // Nobody wants it any more.
            self.out.push(Effect::CloseDoor { domain: id });
            return;
        };
        domain.state = next;
        let Origin::Socket(socket) = &mut domain.origin else { return };
        socket.path.clone_from(&path);
        if let Some(asker) = socket.asker.take().filter(|asker| self.clients.contains(asker.client)) {
            let created = DomainCreated { domain: id, path: path.into_bytes() };
            self.reply(asker.link, asker.request, created);
        }
    }

    /// The keeper cannot make a domain's socket.
    pub(crate) fn door_failed(&mut self, id: DomainId, why: &str) {
        let Some(domain) = self.domains.named.remove(&id) else { return };
        self.accounts.set_quotas(id, None);
        if let Origin::Socket(Socket { asker: Some(asker), .. }) = domain.origin
            && self.clients.contains(asker.client)
        {
            let refusal =
                Refusal::new(ErrorCode::System, format!("no socket for domain {}: {why}", domain.name));
            self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
        }
    }

    /// Nobody new comes in any more.
    pub(crate) fn drain_domain(&mut self, asker: Awaiting, id: DomainId) -> Outcome {
        let name = self.find_domain_to_end(asker.client, id)?;
        if let Some(domain) = self.domains.named.get_mut(&id)
            && let Some(next) = domain.state.after(DomainEvent::Drain)
        {
            domain.state = next;
            // A doorman stays for the close fd; whom it still brings is refused.
            if matches!(&domain.origin, Origin::Socket(socket) if socket.door == Door::Keepers) {
                self.out.push(Effect::CloseDoor { domain: id });
            }
        }
        self.audit(asker.client, format!("drains domain {name}"));
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    /// Everybody in a domain has to go.
    pub(crate) fn close_domain(&mut self, asker: Awaiting, id: DomainId) -> Outcome {
        let name = self.find_domain_to_end(asker.client, id)?;
        self.audit(asker.client, format!("closes domain {name}"));
        self.reply(asker.link, asker.request, Done {});
        self.end_domain(id);
        Ok(())
    }

    /// The name of a domain that may be drained and closed.
    fn find_domain_to_end(&self, client: ClientKey, id: DomainId) -> Result<String, Refusal> {
        let subject = self.find_client(client)?.subject();
        let _grant = policy::authorise(subject, Action::Administer)?;
        match self.domains.get(id).map(|domain| (&domain.origin, &domain.name)) {
            Some((Origin::Socket(_), name)) => Ok(name.clone()),
            Some((Origin::Configured, name)) => {
                let text =
                    format!("domain {name} is configured; leave it out there, and have vgemd read that");
                Err(Refusal::new(ErrorCode::Unsupported, text).with(u64::from(id.0), 0))
            }
            None => Err(no_such_domain(id)),
        }
    }

    /// Ends a domain with a socket: nobody comes in, and everybody goes.
    pub(crate) fn end_domain(&mut self, id: DomainId) {
        let Some(domain) = self.domains.named.get_mut(&id) else { return };
        let Some(next) = domain.state.after(DomainEvent::Close) else { return };
        let was_open = domain.state == DomainState::Open;
        domain.state = next;
        let why = format!("domain {} is closed", domain.name);
        if let Origin::Socket(socket) = &mut domain.origin {
            socket.asker = None;
            match socket.door {
                Door::Keepers if was_open => self.out.push(Effect::CloseDoor { domain: id }),
                Door::Handed(Some(doorman)) => self.drop_doorman(doorman),
                Door::Keepers | Door::Handed(None) => {}
            }
        }
        let all = self.clients.iter().filter(|(_, client)| client.peer.domain == id);
        let all: Vec<ClientKey> = all.map(|(key, _)| key).collect();
        for client in all {
            self.drop_client(client, why.clone());
        }
    }

    /// A client is gone, and with it the domains that it made and that do not stay.
    pub(crate) fn close_domains_of(&mut self, client: ClientKey) {
        let own = |origin: &Origin| matches!(origin, Origin::Socket(s) if s.creator == Some(client));
        let all = self.domains.named.iter().filter(|(_, domain)| own(&domain.origin));
        let all: Vec<DomainId> = all.map(|(id, _)| *id).collect();
        for id in all {
            self.end_domain(id);
        }
    }

    /// Another quota, until the configuration is read again; of a domain with a socket, until its end.
    pub(crate) fn set_quota(&mut self, asker: Awaiting, set: &SetQuota) -> Outcome {
        let subject = self.find_client(asker.client)?.subject();
        let _grant = policy::authorise(subject, Action::Administer)?;
        let id = set.domain;
        let is_users = id < vgem_proto::domains::FIRST_NAMED;
        if !is_users && self.domains.get(id).is_none() {
            return Err(no_such_domain(id));
        }
        let quotas = with(self.accounts.quotas(id), &set.quotas)?;
        self.accounts.find_capacity(id, &quotas)?;
        self.accounts.set_quotas(id, Some(quotas));
        self.audit(asker.client, format!("sets quotas of domain {}", self.domains.name_of(id)));
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    /// A client has to go.
    pub(crate) fn disconnect(&mut self, asker: Awaiting, number: u64) -> Outcome {
        let subject = self.find_client(asker.client)?.subject();
        let _grant = policy::authorise(subject, Action::Administer)?;
        let found = self.clients.iter().find(|(key, _)| client_number(*key) == number).map(|(key, _)| key);
        let Some(client) = found else {
            return Err(Refusal::new(ErrorCode::Gone, "there is no such client").with(number, 0));
        };
        self.audit(asker.client, format!("disconnects client {number}"));
        self.reply(asker.link, asker.request, Done {});
        self.drop_client(client, "who administers wants it".into());
        Ok(())
    }

    /// Says who used a right that others do not have.
    pub(crate) fn audit(&mut self, client: ClientKey, what: String) {
        let asker = self.clients.get(client);
        let uid = asker.map_or(u32::MAX, |asker| asker.peer.uid);
        let what = match asker.filter(|asker| asker.peer.way == Way::BusAdmin) {
            Some(asker) => format!("{what}, by way of {}", asker.name),
            None => what,
        };
        self.log(None, Event::Administered { client: client_number(client), uid, what });
    }
}

fn no_such_domain(id: DomainId) -> Refusal {
    Refusal::new(ErrorCode::Gone, "there is no such domain").with(u64::from(id.0), 0)
}

/// Quotas, with some of them said anew, each once.
fn with(mut quotas: Quotas, said: &[QuotaLimit]) -> Result<Quotas, Refusal> {
    let mut seen = BTreeSet::<QuotaKind>::new();
    for QuotaLimit { kind, limit, .. } in said {
        if !seen.insert(*kind) {
            let text = format!("the quota of {} is given twice", kind.name());
            return Err(Refusal::new(ErrorCode::BadParameter, text).with(u64::from(kind.number()), 1));
        }
        quotas.set(*kind, *limit);
    }
    Ok(quotas)
}
