//! Configuration files: one TOML file, and drop-ins merged over it in the order of their names.
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
//! ```
//!
//! What is not here: wire limits (`vgem_proto::limits`), and other times and bounds, which nobody needs to change
//! (`vgem_core::config`).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vgem_core::config::{Bounds, Quotas, Times as CoreTimes};

use crate::exit::{Exit, Failure};

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
}

/// A message bus.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Bus {
    /// The system's.
    System,
    /// The user's session.
    Session,
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
            "none" => Ok(Self::None),
            address if address.starts_with("unix:") => Ok(Self::At(text)),
            other => Err(format!(
                "control.bus: {other:?} is no bus; say \"system\", \"session\", \"none\" or an address \"unix:path=..\""
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
    /// Reads `file` and what is in `file.d`. A missing file is an empty one unless it `must_exist`.
    ///
    /// # Errors
    /// [`Exit::Config`], naming the file, and the key where there is one.
    pub fn read(file: &Path, must_exist: bool) -> Result<Self, Failure> {
        let mut config = Self::default();
        match std::fs::read_to_string(file) {
            Ok(text) => config.overlay(Self::parse(file, &text)?),
            Err(e) if e.kind() == ErrorKind::NotFound && !must_exist => {}
            Err(e) => return Err(unreadable(file, &e)),
        }
        for drop_in in drop_ins(file)? {
            let text = std::fs::read_to_string(&drop_in).map_err(|e| unreadable(&drop_in, &e))?;
            config.overlay(Self::parse(&drop_in, &text)?);
        }
        Ok(config)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::new(Exit::Config, format!("{}: {what}", file.display()));
        let config: Self = toml::from_str(text).map_err(|e| {
            let line =
                e.span().map_or(0, |at| 1 + text.bytes().take(at.start).filter(|b| *b == b'\n').count());
            wrong(&format!("line {line}: {}", e.message()))
        })?;
        for (name, device) in &config.devices {
            if let Some(root) = device.roots.iter().flatten().find(|root| !root.is_absolute()) {
                return Err(wrong(&format!("devices.{name}.roots: {} is not absolute", root.display())));
            }
            if device.executors.is_some_and(|count| !EXECUTORS.contains(&count)) {
                return Err(wrong(&format!("devices.{name}.executors must be from 1 to 64")));
            }
        }
        let (times, restart) = (&config.times, &config.restart);
        for (name, value, range) in [
            ("times.scheduling_ms", times.scheduling_ms, TIMES_MS),
            ("times.import_ms", times.import_ms, TIMES_MS),
            ("times.unread_ms", times.unread_ms, TIMES_MS),
            ("times.promise_ms", times.promise_ms, TIMES_MS),
            ("restart.pause_ms", restart.pause_ms, RESTARTS_MS),
            ("restart.pause_most_ms", restart.pause_most_ms, RESTARTS_MS),
            ("restart.losses", restart.losses.map(u64::from), LOSSES),
            ("restart.within_ms", restart.within_ms, RESTARTS_MS),
            ("restart.failed_ms", restart.failed_ms, RESTARTS_MS),
        ] {
            if value.is_some_and(|value| !range.contains(&value)) {
                let (least, most) = (range.start(), range.end());
                return Err(wrong(&format!("{name} must be from {least} to {most}")));
            }
        }
        Ok(config)
    }

    /// Lets everything that `other` says replace what is said here.
    fn overlay(&mut self, other: Self) {
        replace(&mut self.drivers_dir, other.drivers_dir);
        let (mine, theirs) = (&mut self.quota, other.quota);
        replace(&mut mine.bytes_mib, theirs.bytes_mib);
        replace(&mut mine.objects, theirs.objects);
        replace(&mut mine.handles, theirs.handles);
        replace(&mut mine.queues, theirs.queues);
        replace(&mut mine.jobs, theirs.jobs);
        replace(&mut mine.connections, theirs.connections);
        replace(&mut mine.porters, theirs.porters);
        replace(&mut mine.monitors, theirs.monitors);
        replace(&mut mine.pages, theirs.pages);
        replace(&mut mine.timelines, theirs.timelines);
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
        for (name, device) in other.devices {
            let mine = self.devices.entry(name).or_default();
            replace(&mut mine.roots, device.roots);
            replace(&mut mine.executors, device.executors);
        }
    }
}

impl Quota {
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
            ..usual
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

fn replace<T>(place: &mut Option<T>, by: Option<T>) {
    if by.is_some() {
        *place = by;
    }
}

/// The drop-ins of a file, in the order of their names.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(&dir, &e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(&dir, &e))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn unreadable(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(Exit::Config, format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_one_of_three_words_or_an_address() {
        let bus = |text: &str| {
            let text = format!("[control]\nbus = {text:?}\n");
            Config::parse(Path::new("f"), &text).map(|config| config.control.bus)
        };
        assert_eq!(bus("system"), Ok(Some(Bus::System)));
        assert_eq!(bus("none"), Ok(Some(Bus::None)));
        assert_eq!(bus("unix:path=/b"), Ok(Some(Bus::At("unix:path=/b".into()))));
        let refused = bus("sytem").expect_err("a typing mistake").to_string();
        assert!(refused.contains("line 2") && refused.contains("\"sytem\" is no bus"), "{refused}");
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("v.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let text = "[quota]\nobjects = 1\nbytes = 5\n";
        let said = parse(text).expect_err("bytes is no key");
        assert!(said.starts_with("v.toml: line 3: unknown field `bytes`"), "{said}");
    }

    #[test]
    fn a_relative_root_is_refused() {
        let said = parse("[devices.blk]\nroots = [\"data\"]").expect_err("relative");
        assert_eq!(said, "v.toml: devices.blk.roots: data is not absolute");
    }

    #[test]
    fn drop_ins_replace_single_keys_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("vgemd.toml");
        let drop_ins = dir.path().join("vgemd.toml.d");
        std::fs::create_dir(&drop_ins).expect("a directory");
        let put = |path: &Path, text: &str| std::fs::write(path, text).expect("a file");
        put(&file, "[quota]\nobjects = 1\njobs = 1\n[devices.zip]\nexecutors = 1\n");
        put(&drop_ins.join("20.toml"), "[quota]\nobjects = 3\n");
        put(&drop_ins.join("10.toml"), "[quota]\nobjects = 2\nqueues = 2\n[devices.zip]\nroots = [\"/\"]\n");
        put(&drop_ins.join("30.off"), "nonsense");
        let config = Config::read(&file, true).expect("right files");
        let quota = Quota { objects: Some(3), jobs: Some(1), queues: Some(2), ..Quota::default() };
        let zip = Device { executors: Some(1), roots: Some(vec!["/".into()]) };
        assert_eq!((config.quota, config.devices["zip"].clone()), (quota, zip));
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_somebody_named_it() {
        let nowhere = Path::new("/proc/nothing/vgemd.toml");
        assert_eq!(Config::read(nowhere, false), Ok(Config::default()));
        assert_eq!(Config::read(nowhere, true).map_err(|e| e.exit()), Err(Exit::Config));
    }

    #[test]
    fn the_file_that_is_installed_is_right() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/vgemd.toml");
        let config = Config::read(&file, true).expect("packaging/vgemd.toml is right");
        assert!(config.devices.contains_key("blk"));
    }

    #[test]
    fn a_time_that_is_too_short_or_too_long_is_refused_with_the_range() {
        for ms in [9, 60_001] {
            let said = parse(&format!("[times]\nunread_ms = {ms}")).expect_err("out of range");
            assert_eq!(said, "v.toml: times.unread_ms must be from 10 to 60000");
        }
        let said = parse("[restart]\nlosses = 0").expect_err("out of range");
        assert_eq!(said, "v.toml: restart.losses must be from 1 to 1000");
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
