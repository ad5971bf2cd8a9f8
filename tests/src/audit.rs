//! What a daemon holds, as the kernel sees it: fds of memory, watches, mappings. Not what its ledger says.

use std::collections::BTreeMap;
use std::fs;

use crate::processes;

/// What one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Fds of memory files.
    pub memory_fds: usize,
    /// All fds.
    pub fds: usize,
    /// Inodes watched by inotify.
    pub watches: usize,
    /// Mappings of memory files.
    pub mappings: usize,
}

/// What each process of a daemon holds, by program and pid.
///
/// # Panics
/// Without the right to look: run the tests as root.
#[must_use]
pub fn audit(keeper: u32) -> BTreeMap<(String, u32), Held> {
    processes::tree(keeper)
        .into_iter()
        .map(|pid| ((processes::name(pid), pid), held(pid)))
        .filter(|((name, _), _)| !name.is_empty())
        .collect()
}

/// What a process holds; nothing if it is gone.
#[must_use]
pub fn held(pid: u32) -> Held {
    let mut held = Held::default();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        held.fds += 1;
        let link = fs::read_link(fd.path()).unwrap_or_default();
        held.memory_fds += usize::from(link.to_string_lossy().starts_with("/memfd:"));
        let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy());
        let info = fs::read_to_string(info).unwrap_or_default();
        held.watches += info.lines().filter(|line| line.starts_with("inotify wd:")).count();
    }
    held.mappings = mapped_memory(pid).len();
    held
}

/// The inodes of the memory files that a process maps, one per mapping.
#[must_use]
pub fn mapped_memory(pid: u32) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let inode = words.nth(4)?;
            words.next()?.starts_with("/memfd:").then(|| inode.parse().ok())?
        })
        .collect()
}

/// The processes of a daemon that run one program, by the name of it.
#[must_use]
pub fn of_program(keeper: u32, program: &str) -> Vec<u32> {
    processes::tree(keeper).into_iter().filter(|pid| processes::name(*pid) == program).collect()
}

/// What one process holds, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Processes of this kind.
    pub processes: usize,
    /// Fds, by what they are of.
    pub fds: BTreeMap<String, usize>,
    /// Inodes watched by inotify.
    pub watches: usize,
    /// Mappings of memory files.
    pub mappings: usize,
    /// Threads.
    pub threads: usize,
    /// Children that have ended and were not waited for.
    pub zombies: usize,
}

impl Holdings {
    /// What there is more of than in another, in words.
    #[must_use]
    pub fn more_than(&self, other: &Self) -> Vec<String> {
        let mut more = Vec::new();
        let mut compare = |what: &str, now: usize, before: usize| {
            if now > before {
                more.push(format!("{now} {what}, {before} at first"));
            }
        };
        compare("processes", self.processes, other.processes);
        compare("watches", self.watches, other.watches);
        compare("mappings", self.mappings, other.mappings);
        compare("threads", self.threads, other.threads);
        compare("zombies", self.zombies, other.zombies);
        for (kind, now) in &self.fds {
            compare(&format!("fds of {kind}"), *now, other.fds.get(kind).copied().unwrap_or(0));
        }
        more
    }

    fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.watches += other.watches;
        self.mappings += other.mappings;
        self.threads += other.threads;
        self.zombies += other.zombies;
        for (kind, count) in other.fds {
            *self.fds.entry(kind).or_default() += count;
        }
    }
}

/// What the processes of a daemon hold, by program; keeper, broker and porters, which are one, by their command line.
#[must_use]
pub fn holdings(keeper: u32) -> BTreeMap<String, Holdings> {
    let mut all: BTreeMap<String, Holdings> = BTreeMap::new();
    for pid in processes::tree(keeper) {
        let name = processes::name(pid);
        if !name.is_empty() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let role = line.split('\0').skip_while(|word| *word != "--role").nth(1).unwrap_or_default();
            all.entry(format!("{name} {role}").trim_end().to_owned()).or_default().add(holding(pid));
        }
    }
    all
}

/// What a process holds, by kind; nothing if it is gone.
#[must_use]
pub fn holding(pid: u32) -> Holdings {
    let Held { watches, mappings, .. } = held(pid);
    let mut fds = BTreeMap::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let link = fs::read_link(fd.path()).unwrap_or_default().to_string_lossy().into_owned();
        // `socket:[123]`, `anon_inode:[eventpoll]`, `/memfd:name (deleted)`, `/dev/null`
        let kind = match link.split_once(":[") {
            Some(("anon_inode", kind)) => kind.trim_end_matches(']').to_owned(),
            Some((kind, _)) => kind.to_owned(),
            None if link.starts_with("/memfd:") => "memory".to_owned(),
            None => link.rsplit('/').next().unwrap_or_default().to_owned(),
        };
        *fds.entry(kind).or_default() += 1;
    }
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks().flat_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()).collect::<Vec<_>>()
    });
    let zombies = children.filter(|child| processes::state(*child) == 'Z').count();
    Holdings { processes: 1, fds, watches, mappings, threads: tasks().count(), zombies }
}
