//! Configuration files: one TOML file, and drop-ins merged over it in the order of their names.
//!
//! | module | what |
//! |---|---|
//! | `read` | files, their settings one by one, and all that is wrong |
//! | `policy` | domains as the broker is told of them |
//!
//! Everything has a default, so no file is needed, and a file may hold only what it changes. A key nobody knows
//! is an error that names the file and the key: a typing mistake must not become a silent default.
//!
//! ```toml
//! drivers_dir = "/usr/libexec/vgemd"
//! [quota]
//! bytes_mib = 4096
//! [times]
//! import_ms = 1000
//! [restart]
//! pause_ms = 100
//! [control]
//! bus = "session"
//! [devices.blk]
//! roots = ["/srv/data"]
//! executors = 2
//! [observers]
//! users = ["vgem-web"]
//! [domains.render]
//! users = ["alice"]
//! quota = { bytes_mib = 1024 }
//! operations = { zip = ["compress"] }
//! ```
//!
//! What is not here: wire limits (`vgem_proto::limits`), and other times and bounds, which nobody needs to change
//! (`vgem_core::config`).

mod policy;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vgem_core::config::{Bounds, Quotas, Times as CoreTimes};

pub use self::policy::{Named, Policy};
pub use self::read::{Files, Mistake, Mistakes};

/// How many executors a driver can be told to have.
const EXECUTORS: std::ops::RangeInclusive<u16> = 1..=64;

/// How long a time can be said to be, milliseconds: long enough for a healthy peer, short enough to bound a sick one.
const TIMES_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// The same for times between restarts, where short is no danger to a peer.
const RESTARTS_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000;

/// How many losses can be said to be too many.
const LOSSES: std::ops::RangeInclusive<u64> = 1..=1000;

/// What the files say. Nothing said is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the `vgem-driver-*` programs are.
    pub drivers_dir: Option<PathBuf>,
    /// What one domain may hold.
    pub quota: Quota,
    /// How long things may take.
    pub times: Times,
    /// How a device that was lost comes back.
    pub restart: Restart,
    /// Devices, by name.
    pub devices: BTreeMap<String, Device>,
    /// The front on a message bus.
    pub control: Control,
    /// What a domain may use.
    pub defaults: May,
    /// Domains with a name.
    pub domains: BTreeMap<String, Domain>,
    /// What all domains together may hold.
    pub capacity: Capacity,
    /// Who sees all domains.
    pub observers: Observers,
}

/// What one domain may hold at a time; what is not said is as [`Quotas::default`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Memory of live objects, MiB.
    pub bytes_mib: Option<u64>,
    /// Live objects.
    pub objects: Option<u64>,
    /// Names its clients have for objects, together.
    pub handles: Option<u64>,
    /// Streams of commands, over all devices.
    pub queues: Option<u64>,
    /// Jobs accepted and not yet ended.
    pub jobs: Option<u64>,
    /// Clients connected.
    pub connections: Option<u64>,
    /// Porters, those that hang in the kernel included.
    pub porters: Option<u64>,
    /// Clients that monitor.
    pub monitors: Option<u64>,
    /// Fence pages given so that its clients can observe others, and signal.
    pub pages: Option<u64>,
    /// Handles of timelines that clients signal.
    pub timelines: Option<u64>,
    /// Fds sent to its clients and not yet received.
    pub exports: Option<u64>,
    /// User queues.
    pub rings: Option<u64>,
    /// Memory of objects that were committed, which is pinned, MiB.
    pub pinned_mib: Option<u64>,
    /// Requests per second; 0 is no bound.
    pub requests_per_s: Option<u32>,
}

/// What a domain may use; what is not said is everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct May {
    /// Devices.
    pub devices: Option<Vec<String>>,
    /// By device: of it only these operations.
    pub operations: Option<BTreeMap<String, Vec<String>>>,
}

/// A domain with a name; what is not said is as for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domain {
    /// Control groups that are in it with all below them, by path: version 2, as the daemon sees them.
    pub cgroups: Option<Vec<String>>,
    /// Users that are in it, by number, unless their control group is in another.
    pub uids: Option<Vec<u32>>,
    /// Users that are in it, by name, unless their control group is in another.
    pub users: Option<Vec<String>>,
    /// Groups whose members are in it, unless they are in another by control group or user.
    pub groups: Option<Vec<String>>,
    /// What it may hold.
    pub quota: Quota,
    /// Devices that it may use.
    pub devices: Option<Vec<String>>,
    /// By device: operations that it may use.
    pub operations: Option<BTreeMap<String, Vec<String>>>,
}

/// Users who see all domains and change nothing of them: those that are named, and nobody without a word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observers {
    /// By number.
    pub uids: Option<Vec<u32>>,
    /// By name.
    pub users: Option<Vec<String>>,
}

/// What all domains together may hold; what is not said has no bound but the machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// Memory of live objects, MiB.
    pub bytes_mib: Option<u64>,
    /// Clients connected.
    pub connections: Option<u64>,
    /// Files that the things of all domains may cost the broker.
    pub files: Option<u64>,
}

/// How long things may take; what is not said is as [`CoreTimes::default`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Times {
    /// From the moment a job is ready until a driver that is busy with others must have begun it, milliseconds.
    pub scheduling_ms: Option<u64>,
    /// Until what an import needs has come through its porter, milliseconds.
    pub import_ms: Option<u64>,
    /// Until a client has read the fds it asked for, milliseconds.
    pub unread_ms: Option<u64>,
    /// How far ahead a client may promise a point, or a job wait for one that nobody has promised yet, milliseconds.
    pub promise_ms: Option<u64>,
}

/// How a device whose driver was lost comes back to a domain; what is not said is as [`CoreTimes::default`] and
/// [`Bounds::default`] have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// Pause before it is started again after the first loss, milliseconds; doubles with each.
    pub pause_ms: Option<u64>,
    /// Longest such pause, milliseconds.
    pub pause_most_ms: Option<u64>,
    /// Losses until it counts as failed.
    pub losses: Option<u32>,
    /// Losses older than this are forgotten, milliseconds.
    pub within_ms: Option<u64>,
    /// How long it then counts as failed, milliseconds.
    pub failed_ms: Option<u64>,
}

/// The front on a message bus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Which bus it is on; without a word the system's in system mode, if it is there, and none for one user.
    pub bus: Option<Bus>,
    /// Whether those administer over the bus who may: root, and whom polkit lets. They do unless this says no.
    pub administration: Option<bool>,
}

/// A message bus.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Bus {
    /// The system's.
    System,
    /// The user's session.
    Session,
    /// None: callers connect to a socket of control's own.
    Peer,
    /// None at all: control is not started.
    None,
    /// One at this address: `unix:` and what follows.
    At(String),
}

impl TryFrom<String> for Bus {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "system" => Ok(Self::System),
            "session" => Ok(Self::Session),
            "peer" => Ok(Self::Peer),
            "none" => Ok(Self::None),
            address if address.starts_with("unix:") => Ok(Self::At(text)),
            other => Err(format!(
                "{other:?} is no bus; say \"system\", \"session\", \"peer\", \"none\" or an address \"unix:path=..\""
            )),
        }
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Folders below which its driver may open files, absolute.
    pub roots: Option<Vec<PathBuf>>,
    /// Threads that work on jobs, per driver process.
    pub executors: Option<u16>,
}

impl Config {
    /// Lets everything that `other` says replace what is said here.
    fn overlay(&mut self, other: Self) {
        replace(&mut self.drivers_dir, other.drivers_dir);
        self.quota = self.quota.with(other.quota);
        let (mine, theirs) = (&mut self.times, other.times);
        replace(&mut mine.scheduling_ms, theirs.scheduling_ms);
        replace(&mut mine.import_ms, theirs.import_ms);
        replace(&mut mine.unread_ms, theirs.unread_ms);
        replace(&mut mine.promise_ms, theirs.promise_ms);
        let (mine, theirs) = (&mut self.restart, other.restart);
        replace(&mut mine.pause_ms, theirs.pause_ms);
        replace(&mut mine.pause_most_ms, theirs.pause_most_ms);
        replace(&mut mine.losses, theirs.losses);
        replace(&mut mine.within_ms, theirs.within_ms);
        replace(&mut mine.failed_ms, theirs.failed_ms);
        replace(&mut self.control.bus, other.control.bus);
        replace(&mut self.control.administration, other.control.administration);
        for (name, device) in other.devices {
            let mine = self.devices.entry(name).or_default();
            replace(&mut mine.roots, device.roots);
            replace(&mut mine.executors, device.executors);
        }
        let (mine, theirs) = (&mut self.capacity, other.capacity);
        replace(&mut mine.bytes_mib, theirs.bytes_mib);
        replace(&mut mine.connections, theirs.connections);
        replace(&mut mine.files, theirs.files);
        replace(&mut self.observers.uids, other.observers.uids);
        replace(&mut self.observers.users, other.observers.users);
        self.defaults.overlay(other.defaults);
        for (name, domain) in other.domains {
            let mine = self.domains.entry(name).or_default();
            replace(&mut mine.cgroups, domain.cgroups);
            replace(&mut mine.uids, domain.uids);
            replace(&mut mine.users, domain.users);
            replace(&mut mine.groups, domain.groups);
            mine.quota = mine.quota.with(domain.quota);
            let mut may = May { devices: mine.devices.take(), operations: mine.operations.take() };
            may.overlay(May { devices: domain.devices, operations: domain.operations });
            (mine.devices, mine.operations) = (may.devices, may.operations);
        }
    }
}

impl May {
    fn overlay(&mut self, other: Self) {
        replace(&mut self.devices, other.devices);
        if let Some(theirs) = other.operations {
            self.operations.get_or_insert_default().extend(theirs);
        }
    }
}

impl Quota {
    /// These, with what another says in place of it.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        replace(&mut self.bytes_mib, other.bytes_mib);
        replace(&mut self.objects, other.objects);
        replace(&mut self.handles, other.handles);
        replace(&mut self.queues, other.queues);
        replace(&mut self.jobs, other.jobs);
        replace(&mut self.connections, other.connections);
        replace(&mut self.porters, other.porters);
        replace(&mut self.monitors, other.monitors);
        replace(&mut self.pages, other.pages);
        replace(&mut self.timelines, other.timelines);
        replace(&mut self.exports, other.exports);
        replace(&mut self.rings, other.rings);
        replace(&mut self.pinned_mib, other.pinned_mib);
        replace(&mut self.requests_per_s, other.requests_per_s);
        self
    }

    /// The quotas as the rules want them.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        let usual = Quotas::default();
        Quotas {
            bytes: self.bytes_mib.map_or(usual.bytes, |mib| mib.saturating_mul(1 << 20)),
            objects: self.objects.unwrap_or(usual.objects),
            handles: self.handles.unwrap_or(usual.handles),
            queues: self.queues.unwrap_or(usual.queues),
            jobs: self.jobs.unwrap_or(usual.jobs),
            connections: self.connections.unwrap_or(usual.connections),
            porters: self.porters.unwrap_or(usual.porters),
            monitors: self.monitors.unwrap_or(usual.monitors),
            pages: self.pages.unwrap_or(usual.pages),
            timelines: self.timelines.unwrap_or(usual.timelines),
            exports: self.exports.unwrap_or(usual.exports),
            rings: self.rings.unwrap_or(usual.rings),
            pinned: self.pinned_mib.map_or(usual.pinned, |mib| mib.saturating_mul(1 << 20)),
            requests_per_s: self
                .requests_per_s
                .map_or(usual.requests_per_s, |most| (most > 0).then_some(most)),
        }
    }
}

impl Times {
    /// The times as the rules want them.
    #[must_use]
    pub fn times(&self, restart: &Restart) -> CoreTimes {
        let usual = CoreTimes::default();
        let ns = |ms: Option<u64>, usual: u64| ms.map_or(usual, |ms| ms.saturating_mul(1_000_000));
        CoreTimes {
            scheduling_ns: ns(self.scheduling_ms, usual.scheduling_ns),
            import_ns: ns(self.import_ms, usual.import_ns),
            unread_ns: ns(self.unread_ms, usual.unread_ns),
            promise_ns: ns(self.promise_ms, usual.promise_ns),
            pause_first_ns: ns(restart.pause_ms, usual.pause_first_ns),
            pause_most_ns: ns(restart.pause_most_ms, usual.pause_most_ns),
            losses_ns: ns(restart.within_ms, usual.losses_ns),
            failed_ns: ns(restart.failed_ms, usual.failed_ns),
            ..usual
        }
    }
}

impl Restart {
    /// The bounds as the rules want them.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let usual = Bounds::default();
        let losses = self.losses.and_then(|losses| usize::try_from(losses).ok());
        Bounds { losses: losses.unwrap_or(usual.losses), ..usual }
    }
}

/// What is wrong with a setting, of the first that is.
fn check(config: &Config) -> Option<String> {
    for device in config.devices.values() {
        if let Some(root) = device.roots.iter().flatten().find(|root| !root.is_absolute()) {
            return Some(format!("{} is not absolute", root.display()));
        }
        if device.executors.is_some_and(|count| !EXECUTORS.contains(&count)) {
            return Some("must be from 1 to 64".into());
        }
    }
    let (times, restart) = (&config.times, &config.restart);
    let numbers = [
        (times.scheduling_ms, TIMES_MS),
        (times.import_ms, TIMES_MS),
        (times.unread_ms, TIMES_MS),
        (times.promise_ms, TIMES_MS),
        (restart.pause_ms, RESTARTS_MS),
        (restart.pause_most_ms, RESTARTS_MS),
        (restart.losses.map(u64::from), LOSSES),
        (restart.within_ms, RESTARTS_MS),
        (restart.failed_ms, RESTARTS_MS),
    ];
    let wrong = numbers.into_iter().find(|(value, range)| value.is_some_and(|value| !range.contains(&value)));
    wrong.map(|(_, range)| format!("must be from {} to {}", range.start(), range.end()))
}

fn replace<T>(place: &mut Option<T>, by: Option<T>) {
    if by.is_some() {
        *place = by;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_bus_is_one_of_four_words_or_an_address() {
        let bus = |text: &str| {
            let text = format!("[control]\nbus = {text:?}\n");
            parse(&text).map(|config| config.control.bus)
        };
        assert_eq!(bus("system"), Ok(Some(Bus::System)));
        assert_eq!((bus("none"), bus("peer")), (Ok(Some(Bus::None)), Ok(Some(Bus::Peer))));
        assert_eq!(bus("unix:path=/b"), Ok(Some(Bus::At("unix:path=/b".into()))));
        let refused = bus("sytem").expect_err("a typing mistake");
        assert!(
            refused.contains("line 2: control.bus: \"sytem\"") && refused.contains("\"sytem\" is no bus"),
            "{refused}"
        );
    }

    fn parse(text: &str) -> Result<Config, String> {
        let mut files = Files::default();
        files.add(Path::new("v.toml"), text);
        match files.mistakes.0.first() {
            None => Ok(files.config),
            Some(mistake) => Err(mistake.to_string()),
        }
    }

    #[test]
    fn a_relative_root_is_refused() {
        let said = parse("[devices.blk]\nroots = [\"data\"]").expect_err("relative");
        assert_eq!(said, "v.toml: line 2: devices.blk.roots: data is not absolute");
    }

    #[test]
    fn a_time_that_is_too_short_or_too_long_is_refused_with_the_range() {
        for ms in [9, 60_001] {
            let said = parse(&format!("[times]\nunread_ms = {ms}")).expect_err("out of range");
            assert_eq!(said, "v.toml: line 2: times.unread_ms: must be from 10 to 60000");
        }
        let said = parse("[restart]\nlosses = 0").expect_err("out of range");
        assert_eq!(said, "v.toml: line 2: restart.losses: must be from 1 to 1000");
    }

    #[test]
    fn a_time_that_is_said_is_in_force_and_the_others_stay() {
        let config = parse("[times]\nimport_ms = 500\n[quota]\nporters = 2").expect("right");
        let times = CoreTimes { import_ns: 500_000_000, ..CoreTimes::default() };
        assert_eq!((config.times.times(&config.restart), config.quota.quotas().porters), (times, 2));
    }

    #[test]
    fn how_a_lost_device_comes_back_can_be_said() {
        let config =
            parse("[times]\nscheduling_ms = 20\n[restart]\npause_ms = 1\nlosses = 9").expect("right");
        let usual = CoreTimes::default();
        let times = CoreTimes { scheduling_ns: 20_000_000, pause_first_ns: 1_000_000, ..usual };
        assert_eq!((config.times.times(&config.restart), config.restart.bounds().losses), (times, 9));
    }

    #[test]
    fn what_is_not_said_is_the_default_of_the_rules() {
        let quota = Quota { bytes_mib: Some(2), ..Quota::default() };
        assert_eq!(quota.quotas(), Quotas { bytes: 2 << 20, ..Quotas::default() });
    }
}
