//! A look as the page, and whoever asks for JSON, has it.
//!
//! Fields are only ever added. Lists are bounded: what found no room is counted. Texts that peers chose are harmless on a
//! terminal; in a page they are text and nothing else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use vgem::snapshot::{ClientEntry, DeviceEntry, DomainEntry, ObjectEntry, Status};
use vgem_waiting::human;
use vgem_waiting::process::{Doing, doing};

use crate::broker::Look;
use crate::picture::{Around, Picture, drawn};
use crate::rates::{DeviceSample, Rates, Sample};

/// Most clients, domains and objects that are listed.
const LISTED: usize = 200;

/// What there is to see.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct State {
    /// The version of this program.
    pub(crate) web: &'static str,
    /// Whether a broker answers.
    pub(crate) answers: bool,
    /// Why not.
    pub(crate) why_not: String,
    /// When it was seen, CLOCK_MONOTONIC nanoseconds.
    pub(crate) at_ns: u64,
    /// The broker as a whole.
    pub(crate) status: Status,
    /// Its devices.
    pub(crate) devices: Vec<Device>,
    /// Those that hold most first.
    pub(crate) clients: List<ClientEntry>,
    /// Those that hold most first.
    pub(crate) domains: List<DomainEntry>,
    /// The largest first.
    pub(crate) objects: List<ObjectEntry>,
    /// What waits, and for what.
    pub(crate) waiting: Picture,
    /// What charts show of this moment.
    pub(crate) sample: Option<Arc<Sample>>,
}

/// The first of several.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct List<T> {
    /// Those that are listed.
    pub(crate) listed: Vec<T>,
    /// How many there are in all.
    pub(crate) all: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { listed: Vec::new(), all: 0 }
    }
}

/// A device, all of its processes together.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Device {
    /// Its name.
    pub(crate) name: String,
    /// One line.
    pub(crate) summary: String,
    /// `ready`, `starting`, `idle`, `backing off` or `failed`.
    pub(crate) state: String,
    /// Names of its operations.
    pub(crate) operations: Vec<String>,
    /// Jobs that each of its processes runs at the same time; 0 if that is not known.
    pub(crate) executors: u32,
    /// Its processes.
    pub(crate) processes: usize,
    /// Jobs that ended, of these processes.
    pub(crate) jobs: u64,
    /// Nanoseconds that their engines worked.
    pub(crate) busy_ns: u64,
    /// Bytes that they read and wrote.
    pub(crate) bytes: u64,
    /// Objects that they map.
    pub(crate) mapped: u64,
    /// How it is now.
    #[serde(flatten)]
    pub(crate) now: DeviceSample,
}

impl State {
    /// A broker that answered.
    pub(crate) fn of(look: Look, rates: &mut Rates) -> Self {
        let sample = rates.add(&look);
        let seen = Seen::default();
        let around = Around { now: look.at_ns, doing: &|pid| seen.doing(pid), restarts: &look.restarts };
        Self {
            web: env!("CARGO_PKG_VERSION"),
            answers: true,
            why_not: String::new(),
            at_ns: look.at_ns,
            devices: look.devices.iter().map(|device| Device::of(device, &look, &sample)).collect(),
            clients: list(
                look.clients,
                |client| client.bytes,
                |client| client.name = human::text(&client.name),
            ),
            domains: list(look.domains, held, |domain| domain.name = human::text(&domain.name)),
            objects: list(
                look.objects,
                |object| object.len,
                |object| object.name = human::text(&object.name),
            ),
            waiting: drawn(look.owed, &around),
            status: look.status,
            sample: Some(sample),
        }
    }

    /// A broker that does not answer.
    pub(crate) fn away(error: &vgem::Error) -> Self {
        let why_not = human::text(&error.to_string());
        Self { web: env!("CARGO_PKG_VERSION"), why_not, at_ns: human::now(), ..Self::default() }
    }
}

impl Device {
    fn of(entry: &DeviceEntry, look: &Look, sample: &Sample) -> Self {
        let instances = &entry.instances;
        let sum = |of: fn(&vgem::snapshot::InstanceEntry) -> u64| instances.iter().map(of).sum();
        Self {
            name: human::text(&entry.name),
            summary: human::text(&entry.summary),
            state: entry.state.clone(),
            operations: entry.operations.iter().map(|name| human::text(name)).collect(),
            executors: look.executors.get(&entry.name).copied().unwrap_or(0),
            processes: instances.len(),
            jobs: sum(|one| one.jobs),
            busy_ns: sum(|one| one.busy_ns),
            bytes: sum(|one| one.bytes),
            mapped: sum(|one| one.mapped),
            now: sample.devices.get(&entry.name).copied().unwrap_or_default(),
        }
    }
}

/// Bytes that a domain is charged for.
pub(crate) fn held(domain: &DomainEntry) -> u64 {
    domain.quotas.get("bytes").map_or(0, |bytes| bytes.used)
}

/// The first by `size`, the largest first, with their texts made harmless.
fn list<T>(mut all: Vec<T>, size: impl Fn(&T) -> u64, harmless: impl Fn(&mut T)) -> List<T> {
    let count = all.len();
    all.sort_by_key(|one| std::cmp::Reverse(size(one)));
    all.truncate(LISTED);
    all.iter_mut().for_each(harmless);
    List { listed: all, all: count }
}

/// What processes do, each looked at once.
#[derive(Debug, Default)]
struct Seen(RefCell<HashMap<u32, Doing>>);

impl Seen {
    fn doing(&self, pid: u32) -> Doing {
        *self.0.borrow_mut().entry(pid).or_insert_with(|| doing(Path::new("/proc"), pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_bounded_keeps_the_largest_and_says_how_many_there_are() {
        let client = |bytes| ClientEntry { name: "a\x1b\u{202e}".into(), bytes, ..ClientEntry::default() };
        let clients = (0..1000).map(client).collect();
        let state = State::of(Look { clients, ..Look::default() }, &mut Rates::default());
        assert_eq!((state.clients.listed.len(), state.clients.all), (LISTED, 1000));
        assert_eq!(
            (state.clients.listed[0].bytes, state.clients.listed[0].name.as_str()),
            (999, "a\\u{1b}\\u{202e}")
        );
    }

    #[test]
    fn a_broker_that_is_away_says_why() {
        let state = State::away(&vgem::Error::NotRunning { tried: Vec::new() });
        assert!(!state.answers && !state.why_not.is_empty());
    }
}
