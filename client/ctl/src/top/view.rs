//! What happened between two looks at the broker.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use vgem::Client;
use vgem::snapshot::{ClientEntry, DeviceEntry, InstanceEntry, ObligationEntry, Status};

use crate::human;

/// A look at the broker.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    at_ns: u64,
    status: Status,
    devices: Vec<DeviceEntry>,
    clients: Vec<ClientEntry>,
    owed: Vec<ObligationEntry>,
    /// Names of domains.
    domains: BTreeMap<u32, String>,
}

impl Sight {
    pub(crate) fn of(client: &Client) -> vgem::Result<Self> {
        let domains = client.domain_entries()?.into_iter().map(|domain| (domain.domain, domain.name));
        Ok(Self {
            at_ns: human::now(),
            status: client.status()?,
            devices: client.device_entries()?,
            clients: client.client_entries()?,
            owed: client.obligation_entries()?,
            domains: domains.collect(),
        })
    }
}

/// By what devices and clients are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Name.
    Name,
    /// Bytes: of devices per second, of clients held.
    Bytes,
    /// Jobs: of devices queued, of clients in flight.
    Jobs,
    /// Waits: of clients; devices by how busy they are.
    Waits,
    /// Domain: of clients; devices by name.
    Domain,
}

impl Order {
    /// The order that a key stands for.
    pub(crate) fn of_key(letter: char) -> Option<Self> {
        match letter {
            'n' => Some(Self::Name),
            'b' => Some(Self::Bytes),
            'j' => Some(Self::Jobs),
            'w' => Some(Self::Waits),
            'd' => Some(Self::Domain),
            _ => None,
        }
    }

    /// Its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Bytes => "bytes",
            Self::Jobs => "jobs",
            Self::Waits => "waits",
            Self::Domain => "domain",
        }
    }
}

/// What is shown.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    pub(crate) order: Order,
    pub(crate) is_reversed: bool,
    /// Nanoseconds between the two looks.
    pub(crate) over_ns: u64,
    pub(crate) status: Status,
    pub(crate) jobs_per_s: u64,
    pub(crate) devices: Vec<DeviceRow>,
    pub(crate) clients: Vec<ClientRow>,
}

/// A device.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceRow {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) processes: usize,
    /// How long its engines worked of the time that passed, percent; several together may be above 100.
    pub(crate) busy_percent: u64,
    /// Jobs accepted and not ended.
    pub(crate) queued: u64,
    pub(crate) jobs_per_s: u64,
    pub(crate) bytes_per_s: u64,
    pub(crate) staged_per_s: u64,
    pub(crate) jobs: u64,
}

/// A client.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ClientRow {
    pub(crate) client: u64,
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) domain: String,
    pub(crate) bytes: u64,
    /// Jobs in flight.
    pub(crate) jobs: u64,
    /// Jobs that wait for others.
    pub(crate) waits: u64,
    /// How long the job has waited that has waited longest.
    pub(crate) oldest_wait_ns: u64,
    pub(crate) messages_per_s: u64,
}

impl View {
    /// What happened between two looks.
    pub(crate) fn between(before: &Sight, now: &Sight, order: Order, is_reversed: bool) -> Self {
        let over_ns = now.at_ns.saturating_sub(before.at_ns);
        let rate = |before: u64, now: u64| per_second(now.saturating_sub(before), over_ns);
        let ended = |status: &Status| status.counters.jobs_ok + status.counters.jobs_failed;
        let mut view = Self {
            order,
            is_reversed,
            over_ns,
            jobs_per_s: rate(ended(&before.status), ended(&now.status)),
            devices: devices(before, now, over_ns),
            clients: clients(before, now, over_ns),
            status: now.status.clone(),
        };
        view.sort();
        view
    }

    fn sort(&mut self) {
        let (devices, clients) = (&mut self.devices, &mut self.clients);
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        clients.sort_by_key(|client| client.client);
        match self.order {
            Order::Name => clients.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::Bytes => {
                devices.sort_by_key(|device| Reverse(device.bytes_per_s));
                clients.sort_by_key(|client| Reverse(client.bytes));
            }
            Order::Jobs => {
                devices.sort_by_key(|device| Reverse(device.queued));
                clients.sort_by_key(|client| Reverse(client.jobs));
            }
            Order::Waits => {
                devices.sort_by_key(|device| Reverse(device.busy_percent));
                clients.sort_by_key(|client| Reverse((client.waits, client.oldest_wait_ns)));
            }
            Order::Domain => clients.sort_by(|a, b| a.domain.cmp(&b.domain)),
        }
        if self.is_reversed {
            devices.reverse();
            clients.reverse();
        }
    }
}

fn devices(before: &Sight, now: &Sight, over_ns: u64) -> Vec<DeviceRow> {
    // By instance: one that is new began at nothing, one that is gone took its sums along.
    let earlier: HashMap<u32, &InstanceEntry> =
        before.devices.iter().flat_map(|device| &device.instances).map(|one| (one.instance, one)).collect();
    let row = |device: &DeviceEntry| {
        let sum = |pick: fn(&InstanceEntry) -> u64| device.instances.iter().map(pick).sum::<u64>();
        let more = |pick: fn(&InstanceEntry) -> u64| -> u64 {
            let of = |one: &InstanceEntry| {
                pick(one).saturating_sub(earlier.get(&one.instance).map_or(0, |earlier| pick(earlier)))
            };
            device.instances.iter().map(of).sum()
        };
        DeviceRow {
            name: device.name.clone(),
            state: device.state.clone(),
            processes: device.instances.len(),
            busy_percent: more(|one| one.busy_ns).saturating_mul(100).checked_div(over_ns).unwrap_or(0),
            queued: sum(|one| one.in_flight),
            jobs_per_s: per_second(more(|one| one.jobs), over_ns),
            bytes_per_s: per_second(more(|one| one.bytes), over_ns),
            staged_per_s: per_second(more(|one| one.staged_bytes), over_ns),
            jobs: sum(|one| one.jobs),
        }
    };
    now.devices.iter().map(row).collect()
}

fn clients(before: &Sight, now: &Sight, over_ns: u64) -> Vec<ClientRow> {
    let earlier: HashMap<u64, u64> =
        before.clients.iter().map(|client| (client.client, client.messages)).collect();
    let row = |client: &ClientEntry| {
        let waiting = |owed: &&ObligationEntry| owed.client == client.client && owed.state == "waiting";
        let waits = now.owed.iter().filter(waiting);
        let oldest = waits.clone().map(|owed| now.at_ns.saturating_sub(owed.since_ns)).max();
        let messages = client.messages.saturating_sub(earlier.get(&client.client).copied().unwrap_or(0));
        ClientRow {
            client: client.client,
            name: client.name.clone(),
            pid: client.pid,
            domain: now.domains.get(&client.domain).cloned().unwrap_or_else(|| client.domain.to_string()),
            bytes: client.bytes,
            jobs: client.jobs_in_flight,
            waits: waits.count() as u64,
            oldest_wait_ns: oldest.unwrap_or(0),
            messages_per_s: per_second(messages, over_ns),
        }
    };
    now.clients.iter().map(row).collect()
}

fn per_second(count: u64, over_ns: u64) -> u64 {
    let rate = (u128::from(count) * 1_000_000_000).checked_div(over_ns.into()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sight(at_ns: u64, jobs: u64) -> Sight {
        let instance = InstanceEntry {
            instance: 4,
            jobs,
            in_flight: 3,
            busy_ns: jobs * 1_000_000,
            bytes: jobs << 20,
            ..InstanceEntry::default()
        };
        let device = |name: &str, instances: Vec<InstanceEntry>| DeviceEntry {
            name: name.into(),
            state: "ready".into(),
            instances,
            ..DeviceEntry::default()
        };
        let client = |client, name: &str, bytes| ClientEntry {
            client,
            name: name.into(),
            pid: 4711,
            domain: 1000,
            bytes,
            jobs_in_flight: 2,
            messages: 10 * jobs,
            ..ClientEntry::default()
        };
        let owed = ObligationEntry { client: 2, state: "waiting".into(), since_ns: 5, ..Default::default() };
        let mut status = Status { version: "0.1.0".into(), pid: 77, ..Status::default() };
        status.counters.jobs_ok = jobs;
        Sight {
            at_ns,
            status,
            devices: vec![device("zip", vec![instance]), device("copy", Vec::new())],
            clients: vec![client(2, "camera", 1 << 20), client(1, "encoder\u{1b}", 5 << 20)],
            owed: vec![owed],
            domains: BTreeMap::from([(1000, "stage".to_owned())]),
        }
    }

    pub(crate) fn view(order: Order, is_reversed: bool) -> View {
        View::between(&sight(1_000_000_000, 100), &sight(3_000_000_000, 700), order, is_reversed)
    }

    #[test]
    fn what_happened_is_told_per_second() {
        let view = view(Order::Name, false);
        let zip = view.devices.iter().find(|device| device.name == "zip").expect("it is there");
        assert_eq!((zip.jobs_per_s, zip.bytes_per_s, zip.busy_percent, zip.queued), (300, 300 << 20, 30, 3));
        let camera = view.clients.iter().find(|client| client.client == 2).expect("it is there");
        let said = (camera.messages_per_s, camera.waits, camera.oldest_wait_ns, camera.domain.as_str());
        assert_eq!((said, view.jobs_per_s), ((3000, 1, 2_999_999_995, "stage"), 300));
    }

    #[test]
    fn the_order_is_the_one_asked_for_or_its_reverse() {
        let names = |order, reversed| -> Vec<u64> {
            view(order, reversed).clients.iter().map(|client| client.client).collect()
        };
        assert_eq!((names(Order::Name, false), names(Order::Bytes, false)), (vec![2, 1], vec![1, 2]));
        assert_eq!((names(Order::Waits, false), names(Order::Waits, true)), (vec![2, 1], vec![1, 2]));
    }

    #[test]
    fn two_looks_at_the_same_moment_show_no_rate() {
        let (before, now) = (sight(5, 1), sight(5, 9));
        assert_eq!(View::between(&before, &now, Order::Name, false).jobs_per_s, 0);
    }
}
