//! The entries of most topics, made from the tables.

use std::collections::BTreeSet;

use vgem_proto::domains::QuotaKind;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{DomainId, InstanceId, ObjectKey, Point, Time, TimelineKey};
use vgem_proto::snapshot::{
    ClientEntry, Counters, DeviceEntry, DomainEntry, FailureEntry, InstanceEntry, ObjectEntry, QueueEntry,
    QuotaEntry, Status, TimelineEntry,
};

use crate::accounts::Usage;
use crate::broker::{Broker, client_number};
use crate::clients::Client;
use crate::devices::{Device, Instance, InstanceState, Outlook};
use crate::domains::{Allowed, Origin};
use crate::io::Scope;
use crate::objects::{Kind, Object};
use crate::queues::Queue;
use crate::snapshot::{View, sees};
use crate::timelines::Promises;

/// Failed points of a queue or a timeline that its entry names, the last ones.
const FAILURES: usize = 16;

impl Broker {
    pub(super) fn status(&self, scope: Scope) -> Status {
        let count = |number: usize| number as u64;
        let queues = || self.queues.iter().filter(|(_, queue)| sees(scope, queue.domain));
        let objects = || self.objects.iter().filter(|(_, object)| sees(scope, object.domain));
        let promises = self.promises.iter().filter(|(_, promises)| sees(scope, promises.domain));
        let instances = self.instances.values().filter(|i| sees(scope, i.domain)).count();
        let held_up = self.held_up.values().filter(|held| sees(scope, held.domain)).count();
        let usage = self.accounts.usage();
        let used = |of: fn(&Usage) -> u64| {
            usage.iter().filter(|(domain, _)| sees(scope, **domain)).map(|(_, usage)| of(usage)).sum::<u64>()
        };
        let (pages, counters) = match scope {
            Scope::All => (count(self.pairs.len() + self.primary_pages()), self.counters),
            // Who comes, works and fails elsewhere is not this domain's to know.
            Scope::Domain(_) => (used(|usage| usage.pages), Counters::default()),
        };
        Status {
            clients: count(self.clients.iter().filter(|(_, client)| sees(scope, client.peer.domain)).count()),
            objects: count(objects().count()),
            object_bytes: used(|usage| usage.bytes),
            pinned_bytes: objects().map(|(_, object)| object.pinned).sum(),
            queues: count(queues().count()),
            timelines: count(queues().count() + promises.count()),
            jobs_in_flight: queues().map(|(_, queue)| count(queue.in_flight())).sum(),
            instances: count(instances + held_up),
            pages,
            counters,
            ..Status::default()
        }
    }

    /// Domains that a reader may see, in the order of their numbers: those with a name, and those that owe something.
    pub(super) fn domains_seen(&self, scope: Scope) -> BTreeSet<DomainId> {
        let named = self.domains.named.keys().copied();
        named.chain(self.accounts.usage().into_keys()).filter(|id| sees(scope, *id)).collect()
    }

    pub(super) fn domain_entry(&self, id: DomainId) -> DomainEntry {
        let (used, limits) = (self.accounts.used(id), self.accounts.quotas(id));
        let named = self.domains.get(id);
        let (origin, path, creator) = match named.map(|domain| &domain.origin) {
            None => ("user", String::new(), None),
            Some(Origin::Configured) => ("configured", String::new(), None),
            Some(Origin::Socket(socket)) => ("socket", socket.path.clone(), socket.creator),
        };
        let allowance = self.domains.allowance(id);
        let devices = self.devices.iter().enumerate().map(|(place, device)| (allowance.of(place), device));
        let seen = devices.filter(|(allowed, _)| **allowed != Allowed::Nothing);
        let operations = seen.clone().filter_map(|(allowed, device)| match allowed {
            Allowed::Operations(numbers) => {
                let all = numbers.iter().filter_map(|number| device.description.by_number(*number));
                Some((device.name().to_owned(), all.map(|operation| operation.name.clone()).collect()))
            }
            Allowed::Whole | Allowed::Nothing => None,
        });
        let quota = |kind: &QuotaKind| {
            let (used, limit) = (used.of_kind(*kind), limits.of(*kind));
            (kind.name().to_owned(), QuotaEntry { used, limit })
        };
        DomainEntry {
            domain: id.0,
            name: self.domains.name_of(id),
            origin: origin.to_owned(),
            state: named.map_or("open", |domain| domain.state.name()).to_owned(),
            path,
            creator: creator.map_or(0, client_number),
            clients: self.clients.iter().filter(|(_, client)| client.peer.domain == id).count() as u64,
            devices: seen.map(|(_, device)| device.name().to_owned()).collect(),
            operations: operations.collect(),
            quotas: QuotaKind::ALL.iter().map(quota).collect(),
        }
    }

    pub(super) fn device_entry(&self, scope: Scope, device: &Device) -> DeviceEntry {
        let seen: Vec<(InstanceId, &Instance)> = device
            .instances
            .iter()
            .filter(|(seat, _)| sees(scope, seat.domain))
            .filter_map(|(_, id)| self.instances.get(id).map(|instance| (*id, instance)))
            .collect();
        DeviceEntry {
            id: device.id.0,
            name: device.name().to_owned(),
            summary: device.description.summary.clone(),
            operations: device.description.operations.iter().map(|o| o.name.clone()).collect(),
            state: device_state(scope, device, &seen).to_owned(),
            instances: seen
                .into_iter()
                .map(|(id, instance)| instance_entry(id, instance))
                .chain(self.held_up_entries(scope, device.name()))
                .collect(),
        }
    }

    /// Instances of a device that were left because their processes do not end.
    fn held_up_entries(&self, scope: Scope, device: &str) -> impl Iterator<Item = InstanceEntry> {
        let held =
            self.held_up.iter().filter(move |(_, held)| held.device == device && sees(scope, held.domain));
        held.map(|(id, held)| InstanceEntry {
            instance: id.0,
            domain: held.domain.0,
            client: client_number(held.client),
            state: "held up".to_owned(),
            pid: held.pid,
            mapped: held.mapped.len() as u64,
            ..InstanceEntry::default()
        })
    }

    pub(super) fn object_entry(&self, key: ObjectKey, object: &Object) -> ObjectEntry {
        let mapped_by = object
            .mappings
            .iter()
            .filter_map(|mapping| self.instances.get(&mapping.instance))
            .filter_map(|instance| self.devices.get(instance.device))
            .map(|device| device.name().to_owned())
            .chain(
                self.held_up
                    .values()
                    .filter(|held| held.mapped.contains(&key))
                    .map(|held| held.device.clone()),
            )
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
            object: key.to_string(),
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

    pub(super) fn queue_entry(&self, key: TimelineKey, queue: &Queue) -> QueueEntry {
        QueueEntry {
            timeline: key.to_string(),
            device: self.devices.get(queue.device).map(|d| d.name().to_owned()).unwrap_or_default(),
            client: client_number(queue.client),
            domain: queue.domain.0,
            priority: queue.priority,
            promised: queue.promised.0,
            ended: queue.ended.0,
            state: queue.state_name().to_owned(),
            failures: last_failures(queue.failures.all()),
        }
    }

    pub(super) fn timeline_entry(
        &self,
        view: View<'_>,
        key: TimelineKey,
        promises: &Promises,
    ) -> TimelineEntry {
        let signalled = signalled(view, key, promises);
        let signaller = promises.signaller.and_then(|key| Some((key, self.clients.get(key)?)));
        let is_broken = promises.verdict.is_some_and(|verdict| verdict.failure.code == ErrorCode::TimedOut);
        let open = promises.obligations.iter().filter(|obligation| obligation.point > signalled);
        TimelineEntry {
            timeline: key.to_string(),
            name: promises.name.clone(),
            client: signaller.map_or(0, |(key, _)| client_number(key)),
            pid: signaller.map_or(0, |(_, client)| client.peer.pid),
            domain: promises.domain.0,
            promised: promises.promised.0,
            signalled: signalled.0,
            state: promises.state.name(is_broken).to_owned(),
            observers: promises.shown.len() as u64,
            due_ns: open.map(|obligation| obligation.until.0).min().unwrap_or(0),
            failures: last_failures(promises.failures.iter().filter(|(point, _)| *point <= signalled)),
            over: promises.verdict.map(|verdict| failure_entry(&(verdict.from, verdict.failure))),
        }
    }

    pub(super) fn client_entry(&self, number: u64, client: &Client) -> ClientEntry {
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
}

/// How far a client's timeline is, by what the broker remembers and what the page shows.
pub(super) fn signalled(view: View<'_>, key: TimelineKey, promises: &Promises) -> Point {
    let seen = promises.primary.map_or(Point(0), |place| (view.look)(key, place.pair, place.slot));
    // What its signaller stores after the verdict nobody believes.
    let most = promises.verdict.map_or(Point(u64::MAX), |verdict| Point(verdict.from.0.saturating_sub(1)));
    promises.passed.max(seen).min(most)
}

/// The last failures of some, in their order.
fn last_failures<'a>(all: impl DoubleEndedIterator<Item = &'a (Point, Failure)>) -> Vec<FailureEntry> {
    let mut last: Vec<FailureEntry> = all.rev().take(FAILURES).map(failure_entry).collect();
    last.reverse();
    last
}

fn failure_entry((point, failure): &(Point, Failure)) -> FailureEntry {
    FailureEntry { point: point.0, code: failure.code.name().to_owned(), cause: failure.cause.to_string() }
}

fn device_state(scope: Scope, device: &Device, instances: &[(InstanceId, &Instance)]) -> &'static str {
    if instances.iter().any(|(_, instance)| instance.state == InstanceState::Ready) {
        return "ready";
    }
    if !instances.is_empty() {
        return "starting";
    }
    // The moments that matter here are in the future until their timers, if any, have gone off.
    let outlooks = device.health.iter().filter(|(seat, _)| sees(scope, seat.domain));
    let outlooks: Vec<Outlook> =
        outlooks.map(|(_, health)| health.outlook(health.restart.unwrap_or(Time(0)))).collect();
    let failed = outlooks.iter().any(|outlook| matches!(outlook, Outlook::Failed(_)));
    let restarts =
        device.health.iter().any(|(seat, health)| sees(scope, seat.domain) && health.restart.is_some());
    match (failed, restarts) {
        (true, _) => "failed",
        (false, true) => "backing off",
        (false, false) => "idle",
    }
}

const fn instance_state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Pausing | InstanceState::Starting | InstanceState::Greeting => "starting",
        InstanceState::Ready => "ready",
        InstanceState::Ending | InstanceState::Gone => "ending",
    }
}

fn instance_entry(id: InstanceId, instance: &Instance) -> InstanceEntry {
    InstanceEntry {
        instance: id.0,
        domain: instance.domain.0,
        client: instance.seat().client.map_or(0, client_number),
        state: instance_state(instance.state).to_owned(),
        pid: instance.pid,
        jobs: instance.tally.jobs,
        in_flight: u64::from(instance.in_flight),
        busy_ns: instance.tally.busy_ns,
        bytes: instance.tally.bytes,
        staged_bytes: instance.tally.staged,
        mapped: instance.mapped.len() as u64,
    }
}
