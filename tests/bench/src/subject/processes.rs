//! vgemd's processes, seen from outside: which they are, where they run, how often they woke.
//!
//! Everything comes from `/proc`: neither the broker nor a driver helps. A process is told by its program's name: the
//! keeper is known by its pid, the broker is the keeper's child of the same name, a driver is a
//! child named `vgem-driver-NAME`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;

use crate::machine::{self, Cores, Seat};

/// How the daemon's program is called.
const DAEMON: &str = "vgemd";

/// How driver programs' names begin.
const DRIVER: &str = "vgem-driver-";

/// What a process of vgemd is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Starts and keeps the others.
    Keeper,
    /// Has the rules.
    Broker,
    /// Runs jobs of this device.
    Driver(String),
}

/// One process of vgemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it is.
    pub kind: Kind,
    /// Its pid.
    pub pid: i32,
}

/// The processes of one embedded vgemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes(Vec<Process>);

impl Processes {
    /// Those below the keeper `keeper`, and itself.
    ///
    /// # Errors
    /// When there is no broker among them.
    pub fn of(keeper: i32) -> anyhow::Result<Self> {
        let found = Self::in_tree(keeper, &read_tree());
        let broker = found.0.iter().any(|process| process.kind == Kind::Broker);
        anyhow::ensure!(broker, "the keeper {keeper} has no broker among its children: {:?}", found.0);
        Ok(found)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Process] {
        &self.0
    }

    /// Puts each on a seat: the broker on one, every driver on another, the keeper anywhere.
    ///
    /// # Errors
    /// When one is gone.
    pub fn seat(&self, cores: &Cores, broker: Seat, drivers: Seat) -> anyhow::Result<()> {
        for process in &self.0 {
            let seat = match process.kind {
                Kind::Keeper => Seat::Anywhere,
                Kind::Broker => broker,
                Kind::Driver(_) => drivers,
            };
            cores.seat_process(process.pid, seat)?;
        }
        Ok(())
    }

    fn in_tree(keeper: i32, tree: &BTreeMap<i32, Entry>) -> Self {
        let mut found = vec![Process { kind: Kind::Keeper, pid: keeper }];
        let mut parents = vec![keeper];
        while let Some(parent) = parents.pop() {
            for (pid, entry) in tree.iter().filter(|(_, entry)| entry.parent == parent) {
                let kind = match entry.program.strip_prefix(DRIVER) {
                    Some(device) => Some(Kind::Driver(device.to_owned())),
                    None => (entry.program == DAEMON && !entry.is_porter).then_some(Kind::Broker),
                };
                found.extend(kind.map(|kind| Process { kind, pid: *pid }));
                parents.push(*pid);
            }
        }
        found.sort_by(|a, b| (&a.kind, a.pid).cmp(&(&b.kind, b.pid)));
        Self(found)
    }
}

impl Process {
    /// What it is called in results.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Keeper => "keeper".into(),
            Kind::Broker => "broker".into(),
            Kind::Driver(device) => format!("driver {device}"),
        }
    }

    /// Bytes of memory of its own: neither files nor objects.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        machine::kib_in(&status, "RssAnon:").with_context(|| path)
    }

    /// How often its threads were switched to, of their own accord or not, since each began.
    ///
    /// # Errors
    /// When it is gone.
    pub fn switches(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for thread in machine::threads(self.pid)? {
            let path = format!("/proc/{}/task/{}/status", self.pid, thread.as_raw_pid());
            // A thread that ended meanwhile was switched to once more, and is missed; the next one tells.
            let Ok(status) = fs::read_to_string(&path) else { continue };
            sum += switches_in(&status).with_context(|| format!("{path} tells no context switches"))?;
        }
        Ok(sum)
    }
}

/// A process, as far as this module looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    parent: i32,
    program: String,
    /// Its first argument says that it is a porter, which serves one client and comes and goes.
    is_porter: bool,
}

fn read_tree() -> BTreeMap<i32, Entry> {
    let mut tree = BTreeMap::new();
    for folder in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = folder.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(folder.path().join("stat")).unwrap_or_default();
        let Some(parent) = parent_in(&stat) else { continue };
        // The first argument: names of programs in `stat` are cut to 15 bytes.
        let line = fs::read(folder.path().join("cmdline")).unwrap_or_default();
        let is_porter = line.split(|byte| *byte == 0).any(|argument| argument == b"porter");
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let path = String::from_utf8_lossy(first);
        let program = path.rsplit('/').next().unwrap_or_default().to_owned();
        tree.insert(pid, Entry { parent, program, is_porter });
    }
    tree
}

fn parent_in(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn switches_in(status: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().parse::<u64>().ok()
    };
    Some(field("voluntary_ctxt_switches")? + field("nonvoluntary_ctxt_switches")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: i32, program: &str) -> Entry {
        Entry { parent, program: program.into(), is_porter: false }
    }

    #[test]
    fn keeper_broker_and_drivers_are_told_apart() {
        let tree = BTreeMap::from([
            (10, entry(1, "vgemd")),
            (11, entry(10, "vgemd")),
            (12, entry(10, "vgem-driver-zip")),
            (14, Entry { is_porter: true, ..entry(10, "vgemd") }),
            (13, entry(1, "vgem-driver-zip")),
        ]);
        let found = Processes::in_tree(10, &tree);
        let names: Vec<_> = found.all().iter().map(|process| (process.name(), process.pid)).collect();
        assert_eq!(names, [("keeper".into(), 10), ("broker".into(), 11), ("driver zip".into(), 12)]);
    }

    #[test]
    fn both_kinds_of_switches_count() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), Some(42));
        assert_eq!(switches_in("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_that_waits_for_others_is_switched_to() {
        let own = Process { kind: Kind::Keeper, pid: i32::try_from(std::process::id()).expect("a pid") };
        let before = own.switches().expect("it lives");
        std::thread::spawn(std::thread::yield_now).join().expect("it ends");
        assert!(own.switches().expect("it lives") >= before);
    }
}
