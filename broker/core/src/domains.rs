//! Domains: which there are, who belongs to them, and what each may use.
//!
//! ```text
//!   configured ─► Open ──left out of the configuration──► Draining ──nothing is owed──► Gone
//!                   ▲                                         │
//!                   └──────── configured again ───────────────┘
//! ```
//! Those with a socket of their own ([`crate::admin`]) begin as Opening, and may be Closed before they are gone.
//!
//! A user's own domain has the user's number, the rules of everybody, and no row here: it is there while it owes
//! something. A domain with a *name* has a row and a number that no user has and that is never given twice; it has rules
//! of its own, and several users may be in it. A control group is a member with all below it, and decides before user and
//! group. A domain is found once, when a client connects, and stays the client's.
//!
//! Rules say names of devices and operations, because devices differ between machines; here they are looked up once, so
//! that a request costs one search, and none while nothing is restricted. Quotas are in [`crate::accounts`].
//!
//! Invariants: a name has one row; a row is gone only when its domain owes nothing; what a domain may not use it does not
//! see.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::domains::{FIRST_NAMED, NAMED_MOST};
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DeviceId, DomainId, InstanceId, PorterId};
use vgem_proto::limits;
use vgem_proto::message::driver::Forbid;

use crate::accounts::Accounts;
use crate::broker::Broker;
use crate::config::{NamedDomain, Policy, Rules, Uses};
use crate::devices::{Device, InstanceState};
use crate::io::{Attach, Effect, Event, PeerFacts, Way};
use crate::objects::Awaiting;
use crate::policy::{self, Reach};

/// The domain of users whose number is one of domains with a name: there is none.
const NOBODYS: DomainId = DomainId(u32::MAX);

/// Where a domain with a name is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DomainState {
    /// Its socket is being made.
    Opening,
    /// Clients come and go.
    Open,
    /// Nobody new comes in.
    Draining,
    /// Everybody was told to go.
    Closed,
    /// There is no such domain.
    Gone,
}

/// What can happen to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DomainEvent {
    /// The keeper has made its socket.
    Made,
    /// It is in the configuration that was read.
    Configured,
    /// It is not, or who administers wants that nobody new comes.
    Drain,
    Close,
    /// It owes nothing.
    Empty,
}

impl DomainState {
    /// The state after `event`, or `None` if that cannot happen now.
    pub(crate) fn after(self, event: DomainEvent) -> Option<Self> {
        use DomainEvent as E;
        use DomainState as S;
        match (self, event) {
            (S::Opening, E::Made) | (S::Open | S::Draining, E::Configured) => Some(S::Open),
            (S::Open, E::Drain) => Some(S::Draining),
            (S::Opening | S::Open | S::Draining, E::Close) => Some(S::Closed),
            (S::Draining | S::Closed, E::Empty) => Some(S::Gone),
            (
                S::Opening | S::Open | S::Draining | S::Closed | S::Gone,
                E::Made | E::Configured | E::Drain | E::Close | E::Empty,
            ) => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Closed => "closed",
            Self::Gone => "gone",
        }
    }
}

/// What a domain may use of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// All of it, also what another version adds.
    Whole,
    /// These operations.
    Operations(BTreeSet<u16>),
    /// Nothing.
    Nothing,
}

/// What a domain may use, by place in the broker's list of devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Allowance {
    devices: Vec<Allowed>,
    is_restricted: bool,
}

impl Allowance {
    fn new(uses: &Uses, devices: &[Device]) -> Self {
        let devices: Vec<Allowed> = devices.iter().map(|device| allowed(uses, device)).collect();
        let is_restricted = devices.iter().any(|allowed| *allowed != Allowed::Whole);
        Self { devices, is_restricted }
    }

    pub(crate) fn of(&self, place: usize) -> &Allowed {
        self.devices.get(place).unwrap_or(&Allowed::Nothing)
    }
}

fn allowed(uses: &Uses, device: &Device) -> Allowed {
    if uses.devices.as_ref().is_some_and(|devices| !devices.contains(device.name())) {
        return Allowed::Nothing;
    }
    match uses.operations.get(device.name()) {
        None => Allowed::Whole,
        Some(names) => {
            let all = device.description.operations.iter();
            Allowed::Operations(all.filter(|o| names.contains(&o.name)).map(|o| o.number).collect())
        }
    }
}

/// How long a path is that a control group is at or below; nothing if it is elsewhere. A group that is not below the root
/// of who looks is seen as `/../`, and is below nothing.
fn depth_below(path: &str, cgroup: &[u8]) -> Option<usize> {
    let rest = cgroup.strip_prefix(path.as_bytes())?;
    let is_outside = cgroup == b"/.." || cgroup.starts_with(b"/../");
    (!is_outside && (path == "/" || matches!(rest, [] | [b'/', ..]))).then_some(path.len())
}

/// Where a domain with a name comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The configuration.
    Configured,
    /// Who administers; its clients come through a socket of its own.
    Socket(Socket),
}

/// A domain's own socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// With this client it ends.
    pub(crate) creator: Option<ClientKey>,
    /// Where it is, once it is.
    pub(crate) path: String,
    /// Who waits for that.
    pub(crate) asker: Option<Awaiting>,
    /// Whose it is.
    pub(crate) door: Door,
}

/// Whose a domain's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The keeper's, and the broker accepts there.
    Keepers,
    /// Somebody else's, and this doorman accepts there; nobody any more once it is gone.
    Handed(Option<PorterId>),
}

impl Socket {
    pub(crate) fn doorman(&self) -> Option<PorterId> {
        match self.door {
            Door::Keepers => None,
            Door::Handed(doorman) => doorman,
        }
    }
}

/// A domain with a name.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) state: DomainState,
    pub(crate) origin: Origin,
    allowance: Allowance,
    cgroups: BTreeSet<String>,
    uids: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

/// All of them, and the rules of the others.
#[derive(Debug)]
pub(crate) struct Domains {
    pub(crate) defaults: Rules,
    usual: Allowance,
    pub(crate) named: BTreeMap<DomainId, Domain>,
    /// The number of the next one.
    next: DomainId,
    owner: Option<u32>,
    observers: BTreeSet<u32>,
}

impl Domains {
    /// Those of the configuration, in the order they are there.
    pub(crate) fn new(policy: &Policy, devices: &[Device], accounts: &mut Accounts) -> Self {
        let mut domains = Self {
            defaults: policy.defaults.clone(),
            usual: Allowance::new(&policy.defaults.uses, devices),
            named: BTreeMap::new(),
            next: FIRST_NAMED,
            owner: policy.owner,
            observers: policy.observers.clone(),
        };
        for named in &policy.domains {
            domains.configure(named, devices, accounts);
        }
        domains
    }

    pub(crate) fn get(&self, domain: DomainId) -> Option<&Domain> {
        self.named.get(&domain)
    }

    /// The doorman of a domain, if it has one.
    pub(crate) fn doorman_of(&self, domain: DomainId) -> Option<PorterId> {
        match &self.get(domain)?.origin {
            Origin::Configured => None,
            Origin::Socket(socket) => socket.doorman(),
        }
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<DomainId> {
        self.named.iter().find(|(_, domain)| domain.name == name).map(|(id, _)| *id)
    }

    /// What people call a domain.
    pub(crate) fn name_of(&self, id: DomainId) -> String {
        self.named.get(&id).map_or_else(|| id.0.to_string(), |domain| domain.name.clone())
    }

    pub(crate) fn allowance(&self, domain: DomainId) -> &Allowance {
        self.named.get(&domain).map_or(&self.usual, |domain| &domain.allowance)
    }

    /// What a domain may use, if that is not everything.
    #[inline]
    pub(crate) fn restriction(&self, domain: DomainId) -> Option<&Allowance> {
        Some(self.allowance(domain)).filter(|allowance| allowance.is_restricted)
    }

    /// What somebody who connects may of other domains: nothing through the socket of a domain, root of a container
    /// included, and over a bus only what control asked for.
    pub(crate) fn reach(&self, peer: &PeerFacts) -> Reach {
        let has_socket =
            self.get(peer.domain).is_some_and(|domain| matches!(domain.origin, Origin::Socket(_)));
        match peer.way {
            Way::BusAdmin => Reach::Administers,
            Way::Bus => Reach::Own,
            Way::Socket if has_socket => Reach::Own,
            Way::Socket if peer.uid == 0 || self.owner == Some(peer.uid) => Reach::Administers,
            Way::Socket if self.observers.contains(&peer.uid) => Reach::Observes,
            Way::Socket => Reach::Own,
        }
    }

    /// The number of the next domain; none are left after the last.
    pub(crate) fn next_number(&self) -> Option<DomainId> {
        Some(self.next).filter(|next| *next < NOBODYS)
    }

    /// Takes a domain with a socket in.
    pub(crate) fn enter(
        &mut self,
        id: DomainId,
        name: &str,
        rules: &Rules,
        origin: Origin,
        devices: &[Device],
    ) {
        self.next = self.next.max(DomainId(id.0.saturating_add(1)));
        let (name, state) = (name.to_owned(), DomainState::Opening);
        let allowance = Allowance::new(&rules.uses, devices);
        let (cgroups, uids, groups) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        self.named.insert(id, Domain { name, state, origin, allowance, cgroups, uids, groups });
    }

    /// The domain of a user in some groups, in a control group: that of the control group it is deepest below, else that
    /// of the user, else that of a group, else its own.
    fn domain_of(&self, uid: u32, groups: &[u32], cgroup: Option<&[u8]>) -> DomainId {
        let open = || self.named.iter().filter(|(_, domain)| domain.state == DomainState::Open);
        let by_cgroup = cgroup.and_then(|cgroup| {
            let depth =
                |domain: &Domain| domain.cgroups.iter().filter_map(|path| depth_below(path, cgroup)).max();
            let found = open().filter_map(|(id, domain)| Some((depth(domain)?, (id, domain))));
            found.max_by_key(|(depth, _)| *depth).map(|(_, found)| found)
        });
        let by_uid = || open().find(|(_, domain)| domain.uids.contains(&uid));
        let by_group = || open().find(|(_, domain)| groups.iter().any(|gid| domain.groups.contains(gid)));
        match by_cgroup.or_else(by_uid).or_else(by_group) {
            Some((id, _)) => *id,
            None if uid >= FIRST_NAMED.0 => NOBODYS,
            None => DomainId(uid),
        }
    }

    /// Takes a domain of the configuration over, whether there is one of this name or not.
    fn configure(&mut self, named: &NamedDomain, devices: &[Device], accounts: &mut Accounts) {
        let there = self.by_name(&named.name).and_then(|id| self.named.get(&id));
        if there.is_some_and(|domain| matches!(domain.origin, Origin::Socket(_))) {
            return;
        }
        let id = self.by_name(&named.name).unwrap_or_else(|| {
            let id = self.next;
            self.next = DomainId(id.0.saturating_add(1));
            id
        });
        let allowance = Allowance::new(&named.rules.uses, devices);
        let state = self
            .named
            .get(&id)
            .map_or(Some(DomainState::Open), |domain| domain.state.after(DomainEvent::Configured));
        let Some(state) = state else { return };
        let (name, origin) = (named.name.clone(), Origin::Configured);
        let (cgroups, uids, groups) = (named.cgroups.clone(), named.uids.clone(), named.groups.clone());
        self.named.insert(id, Domain { name, state, origin, allowance, cgroups, uids, groups });
        accounts.set_quotas(id, Some(named.rules.quotas));
    }
}

impl Broker {
    /// The domain that a client of this user, in these groups, is in. `cgroup`: the path of its control group, where it is
    /// asked for.
    #[must_use]
    pub fn home_of(&self, uid: u32, groups: &[u32], cgroup: Option<&[u8]>) -> DomainId {
        self.domains.domain_of(uid, groups, cgroup)
    }

    /// The domain that an instance serves.
    #[must_use]
    pub fn instance_domain(&self, instance: InstanceId) -> Option<DomainId> {
        self.instances.get(&instance).map(|instance| instance.domain)
    }

    /// Whether the groups of a client decide which domain it is in.
    #[must_use]
    pub fn asks_for_groups(&self) -> bool {
        self.domains.named.values().any(|domain| !domain.groups.is_empty())
    }

    /// Whether the control group of a client decides which domain it is in.
    #[must_use]
    pub fn asks_for_cgroups(&self) -> bool {
        let mut open = self.domains.named.values().filter(|domain| domain.state == DomainState::Open);
        open.any(|domain| !domain.cgroups.is_empty())
    }

    /// Asks whether somebody may come in.
    pub(crate) fn find_way_in(&self, uid: u32, domain: DomainId) -> Result<(), Refusal> {
        if domain < FIRST_NAMED {
            return Ok(());
        }
        match self.domains.get(domain).map(|found| (found.state, &found.name)) {
            Some((DomainState::Open, _)) => Ok(()),
            Some((
                DomainState::Opening | DomainState::Draining | DomainState::Closed | DomainState::Gone,
                name,
            )) => Err(Refusal::new(ErrorCode::Gone, format!("domain {name} takes no more clients"))),
            None => {
                let text = format!("users from {} on have no domain of their own", FIRST_NAMED.0);
                Err(Refusal::new(ErrorCode::Denied, text).with(u64::from(uid), u64::from(FIRST_NAMED.0)))
            }
        }
    }

    /// The place of a device in the broker's list, if the client may use it.
    pub(crate) fn find_allowed_device(&self, client: ClientKey, id: DeviceId) -> Result<usize, Refusal> {
        let place = self.find_device(id)?;
        let domain = self.find_client(client)?.peer.domain;
        let (Some(device), Some(allowance)) = (self.devices.get(place), self.domains.restriction(domain))
        else {
            return Ok(place);
        };
        let of = || self.domains.name_of(domain);
        policy::authorise_device(allowance.of(place), device, of).map(|()| place)
    }

    /// Whether a domain may use a device at all.
    pub(crate) fn may_see(&self, domain: DomainId, place: usize) -> bool {
        *self.domains.allowance(domain).of(place) != Allowed::Nothing
    }

    /// Another policy is in force. What is held above a lower quota stays; connections stay; who may not use something any
    /// more finishes what was accepted.
    pub(crate) fn replace_policy(&mut self, new: Policy) {
        let before = std::mem::take(&mut self.domains.usual);
        self.domains.usual = Allowance::new(&new.defaults.uses, &self.devices);
        let is_same_for_most = before == self.domains.usual;
        self.accounts.replace(new.defaults.quotas, new.capacity);
        self.accounts.forget_quotas_below(FIRST_NAMED);
        self.domains.defaults = new.defaults;
        // Who is connected stays what it is, as it stays in its domain.
        self.domains.observers = new.observers;
        for domain in self.domains.named.values_mut() {
            if matches!(domain.origin, Origin::Configured)
                && new.domains.iter().all(|named| named.name != domain.name)
                && let Some(next) = domain.state.after(DomainEvent::Drain)
            {
                domain.state = next;
            }
        }
        let mut changed = BTreeSet::new();
        for named in &new.domains {
            let before = self.domains.by_name(&named.name).map(|id| self.domains.allowance(id).clone());
            self.domains.configure(named, &self.devices, &mut self.accounts);
            changed.extend(
                self.domains
                    .by_name(&named.name)
                    .filter(|id| before.as_ref() != Some(self.domains.allowance(*id))),
            );
        }
        let instances: Vec<InstanceId> = self
            .instances
            .iter()
            .filter(|(_, instance)| {
                let is_named = self.domains.get(instance.domain).is_some();
                changed.contains(&instance.domain) || !is_named && !is_same_for_most
            })
            .map(|(id, _)| *id)
            .collect();
        for instance in instances {
            self.forbid(instance, true);
        }
        self.log(None, Event::PolicyChanged { domains: self.domains.named.len() as u64 });
    }

    /// Tells an instance which operations its domain may not use, if there are any or that has changed: entries of user
    /// queues nobody else looks at.
    pub(crate) fn forbid(&mut self, id: InstanceId, has_changed: bool) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(device) = self.devices.get(instance.device) else { return };
        let all = device.description.operations.iter().map(|operation| operation.number);
        let operations: Vec<u16> = match self.domains.allowance(instance.domain).of(instance.device) {
            Allowed::Whole => Vec::new(),
            Allowed::Operations(some) => all.filter(|number| !some.contains(number)).collect(),
            Allowed::Nothing => all.collect(),
        };
        let listens = matches!(instance.state, InstanceState::Greeting | InstanceState::Ready);
        if listens && (has_changed || !operations.is_empty()) {
            let message = Forbid { operations }.into();
            self.out.push(Effect::ToDriver { instance: id, message, attach: Attach::None });
        }
    }

    /// Forgets domains that nobody may enter any more and that owe nothing.
    pub(crate) fn forget_empty_domains(&mut self) {
        let (accounts, out) = (&mut self.accounts, &mut self.out);
        let mut doormen = Vec::new();
        self.domains.named.retain(|id, domain| {
            let next = domain.state.after(DomainEvent::Empty).filter(|_| !accounts.has(*id));
            if next.is_some() {
                accounts.set_quotas(*id, None);
                let event = Event::DomainGone { name: domain.name.clone() };
                out.push(Effect::Log { domain: None, event });
                if let Origin::Socket(socket) = &domain.origin {
                    doormen.extend(socket.doorman());
                }
            }
            next.is_none()
        });
        for doorman in doormen {
            self.drop_doorman(doorman);
        }
    }
}

const _: () = assert!(NAMED_MOST < (u32::MAX - FIRST_NAMED.0) as usize && limits::NAME_LEN >= 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_domain_are_these() {
        use DomainEvent as E;
        use DomainState as S;
        let mut table = String::new();
        for state in [S::Opening, S::Open, S::Draining, S::Closed, S::Gone] {
            for event in [E::Made, E::Configured, E::Drain, E::Close, E::Empty] {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{state:?} --{event:?}--> {next:?}\n"));
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Opening --Made--> Open
        Opening --Close--> Closed
        Open --Configured--> Open
        Open --Drain--> Draining
        Open --Close--> Closed
        Draining --Configured--> Open
        Draining --Close--> Closed
        Draining --Empty--> Gone
        Closed --Empty--> Gone
        ");
    }
}
