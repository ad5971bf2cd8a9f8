//! What the broker shows of itself: pages of entries for tools, and a ledger for whoever checks.
//!
//! A page is at most so many entries of one topic, in the order of the tables, and a cursor to go on from; things
//! that come or go between two pages may be missed or met, nothing else happens. Texts are those the peers gave,
//! made harmless when they came.

use std::collections::BTreeMap;

use vgem_proto::ids::{DomainId, InstanceId, Time};
use vgem_proto::snapshot::{
    ClientEntry, DeviceEntry, InstanceEntry, ObjectEntry, ObligationEntry, QueueEntry, Status, TimelineEntry,
    Topic,
};

use crate::accounts::Usage;
use crate::broker::{Broker, client_number};
use crate::clients::Client;
use crate::devices::{Device, Instance, InstanceState, Outlook};
use crate::io::Scope;
use crate::objects::{Kind, Object};

/// A page of the broker's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The entries.
    pub entries: Entries,
    /// Cursor of the next page; 0 is the end.
    pub next: u64,
}

/// The entries of a page, by topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entries {
    /// One status. What only the shell knows (version, pid, uptime, features) is left at its default.
    Status(Box<Status>),
    /// Devices.
    Devices(Vec<DeviceEntry>),
    /// Objects.
    Objects(Vec<ObjectEntry>),
    /// Clients.
    Clients(Vec<ClientEntry>),
    /// Queues.
    Queues(Vec<QueueEntry>),
    /// Timelines of clients.
    Timelines(Vec<TimelineEntry>),
    /// Points that somebody owes.
    Obligations(Vec<ObligationEntry>),
}

/// Everything that must come back when everybody is gone and quiet (DESIGN 12.12). Equal ledgers mean: the
/// broker holds the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// What each domain owes; a domain that owes nothing is not here.
    pub domains: BTreeMap<DomainId, Usage>,
    /// Connections.
    pub clients: usize,
    /// Objects in any state.
    pub objects: usize,
    /// Queues in any state.
    pub queues: usize,
    /// Driver instances.
    pub instances: usize,
    /// Pairs of pages, spare ones and those being made included.
    pub pairs: usize,
    /// Requests that wait for something.
    pub waiting: usize,
    /// Porters, those that were told to end and have not included.
    pub porters: usize,
    /// Halves of imports that wait for the other half.
    pub arrivals: usize,
    /// Timers.
    pub timers: usize,
}

impl Broker {
    /// At most `max` entries of `topic`, as far as `scope` allows, from `cursor` on; 0 is the start.
    ///
    /// A client's cursor means nothing in another topic, and any number is a legal cursor.
    #[must_use]
    pub fn snapshot(&self, scope: Scope, topic: Topic, cursor: u64, max: usize) -> Snapshot {
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        let max = max.max(1);
        match topic {
            Topic::Status => Snapshot { entries: Entries::Status(Box::new(self.status())), next: 0 },
            Topic::Devices => {
                let all = (1u64..).zip(&self.devices).skip(first);
                let (entries, next) = page(all, max, |device| self.device_entry(scope, device));
                Snapshot { entries: Entries::Devices(entries), next }
            }
            Topic::Objects => {
                let all = self
                    .objects
                    .iter_from(first)
                    .filter(|(_, object)| sees(scope, object.domain))
                    .map(|(key, object)| (u64::from(key.index) + 1, (key.to_string(), object)));
                let (entries, next) = page(all, max, |(key, object)| self.object_entry(key, object));
                Snapshot { entries: Entries::Objects(entries), next }
            }
            Topic::Clients => {
                let all = self
                    .clients
                    .iter_from(first)
                    .filter(|(_, client)| sees(scope, client.peer.domain))
                    .map(|(key, client)| (u64::from(key.index) + 1, (client_number(key), client)));
                let (entries, next) = page(all, max, |(number, client)| self.client_entry(number, client));
                Snapshot { entries: Entries::Clients(entries), next }
            }
            Topic::Queues => {
                let all = self
                    .queues
                    .iter_from(first)
                    .filter(|(_, queue)| sees(scope, queue.domain))
                    .map(|(key, queue)| (u64::from(key.index) + 1, (key, queue)));
                let (entries, next) = page(all, max, |(key, queue)| QueueEntry {
                    timeline: key.to_string(),
                    device: self.devices.get(queue.device).map(|d| d.name().to_owned()).unwrap_or_default(),
                    client: client_number(queue.client),
                    promised: queue.promised.0,
                    ended: queue.ended.0,
                    state: queue.state_name().to_owned(),
                });
                Snapshot { entries: Entries::Queues(entries), next }
            }
            Topic::Timelines => Snapshot { entries: Entries::Timelines(Vec::new()), next: 0 },
            Topic::Obligations => Snapshot { entries: Entries::Obligations(Vec::new()), next: 0 },
        }
    }

    fn status(&self) -> Status {
        let count = |number: usize| number as u64;
        Status {
            clients: count(self.clients.len()),
            objects: count(self.objects.len()),
            object_bytes: self.accounts.usage().values().map(|usage| usage.bytes).sum(),
            pinned_bytes: self.objects.iter().map(|(_, object)| object.pinned).sum(),
            queues: count(self.queues.len()),
            timelines: count(self.queues.len()),
            jobs_in_flight: self.queues.iter().map(|(_, queue)| count(queue.in_flight())).sum(),
            instances: count(self.instances.len()),
            pages: count(self.pairs.len()),
            counters: self.counters,
            ..Status::default()
        }
    }

    fn device_entry(&self, scope: Scope, device: &Device) -> DeviceEntry {
        let seen: Vec<(InstanceId, &Instance)> = device
            .instances
            .iter()
            .filter(|(domain, _)| sees(scope, **domain))
            .filter_map(|(_, id)| self.instances.get(id).map(|instance| (*id, instance)))
            .collect();
        DeviceEntry {
            id: device.id.0,
            name: device.name().to_owned(),
            summary: device.description.summary.clone(),
            operations: device.description.operations.iter().map(|o| o.name.clone()).collect(),
            state: device_state(scope, device, &seen).to_owned(),
            instances: seen.into_iter().map(|(id, instance)| instance_entry(id, instance)).collect(),
        }
    }

    fn object_entry(&self, key: String, object: &Object) -> ObjectEntry {
        let mapped_by = object
            .mappings
            .iter()
            .filter_map(|mapping| self.instances.get(&mapping.instance))
            .filter_map(|instance| self.devices.get(instance.device))
            .map(|device| device.name().to_owned())
            .collect();
        let poison = object
            .reservation
            .poison()
            .iter()
            .map(|poison| format!("{:?} {} {}", poison.range, poison.failure.code, poison.failure.cause));
        let writer = match object.kind {
            Kind::Sealed(writer) => self.devices.get(writer.device).map(|device| device.name().to_owned()),
            Kind::Own | Kind::Foreign => None,
        };
        let writer = writer.unwrap_or_default();
        ObjectEntry {
            object: key,
            inode: object.inode,
            kind: object.kind.name().to_owned(),
            writer,
            shared_with: object.shares.iter().map(|share| share.charge.domain().0).collect(),
            name: object.name.to_string(),
            len: object.len,
            pinned: object.pinned,
            state: object.state.name().to_owned(),
            domain: object.domain.0,
            clients: object.holders.iter().map(|holder| client_number(holder.client)).collect(),
            mapped_by,
            uses: u64::from(object.uses),
            poison: poison.collect(),
        }
    }

    fn client_entry(&self, number: u64, client: &Client) -> ClientEntry {
        let bytes = client.objects.iter().filter_map(|held| self.objects.get(held.object)).map(|o| o.len);
        let jobs = client.queues.iter().filter_map(|key| self.queues.get(*key)).map(|q| q.in_flight() as u64);
        ClientEntry {
            client: number,
            name: client.name.clone(),
            pid: client.peer.pid,
            uid: client.peer.uid,
            domain: client.peer.domain.0,
            handles: client.objects.len() as u64,
            bytes: bytes.sum(),
            queues: client.queues.len() as u64,
            jobs_in_flight: jobs.sum(),
            messages: client.messages,
        }
    }

    /// What the broker holds now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger {
            domains: self.accounts.usage(),
            clients: self.clients.len(),
            objects: self.objects.len(),
            queues: self.queues.len(),
            instances: self.instances.len(),
            pairs: self.pairs.len() + self.pairs.making,
            waiting: self.openings.waiting.len() + self.creations.len() + self.commits.len(),
            porters: self.porters.len(),
            arrivals: self.clients.iter().map(|(_, client)| client.hands.len()).sum(),
            timers: self.timers.iter().count(),
        }
    }

    /// Every table that requests can change, in words: two equal texts mean that nothing was changed.
    #[must_use]
    pub fn digest(&self) -> String {
        let handles: Vec<_> = self
            .clients
            .iter()
            .map(|(key, client)| {
                let (porter, hands) = (&client.porter, &client.hands);
                (key, client.standing, &client.objects, &client.queues, &client.pairs, porter, hands)
            })
            .collect();
        format!(
            "{:#?}\n{handles:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}",
            self.ledger(),
            self.objects,
            self.queues,
            self.instances,
            self.pairs,
            self.openings,
            self.creations,
            self.commits,
            self.porters,
        )
    }
}

/// At most `max` entries, and the cursor of the last one taken if more follow.
fn page<T, E>(all: impl Iterator<Item = (u64, T)>, max: usize, make: impl Fn(T) -> E) -> (Vec<E>, u64) {
    let mut all = all.peekable();
    let (mut entries, mut cursor) = (Vec::new(), 0);
    while entries.len() < max {
        let Some((after, thing)) = all.next() else { return (entries, 0) };
        entries.push(make(thing));
        cursor = after;
    }
    (entries, if all.peek().is_some() { cursor } else { 0 })
}

fn sees(scope: Scope, domain: DomainId) -> bool {
    match scope {
        Scope::All => true,
        Scope::Domain(own) => own == domain,
    }
}

fn device_state(scope: Scope, device: &Device, instances: &[(InstanceId, &Instance)]) -> &'static str {
    if instances.iter().any(|(_, instance)| instance.state == InstanceState::Ready) {
        return "ready";
    }
    if !instances.is_empty() {
        return "starting";
    }
    // The moments that matter here are in the future until their timers, if any, have gone off.
    let outlooks = device.health.iter().filter(|(domain, _)| sees(scope, **domain));
    let outlooks: Vec<Outlook> =
        outlooks.map(|(_, health)| health.outlook(health.restart.unwrap_or(Time(0)))).collect();
    let failed = outlooks.iter().any(|outlook| matches!(outlook, Outlook::Failed(_)));
    let restarts =
        device.health.iter().any(|(domain, health)| sees(scope, *domain) && health.restart.is_some());
    match (failed, restarts) {
        (true, _) => "failed",
        (false, true) => "backing off",
        (false, false) => "idle",
    }
}

fn instance_entry(id: InstanceId, instance: &Instance) -> InstanceEntry {
    InstanceEntry {
        instance: id.0,
        domain: instance.domain.0,
        pid: instance.pid,
        jobs: instance.tally.jobs,
        in_flight: u64::from(instance.in_flight),
        busy_ns: instance.tally.busy_ns,
        bytes: instance.tally.bytes,
        staged_bytes: instance.tally.staged,
        mapped: instance.mapped.len() as u64,
    }
}
