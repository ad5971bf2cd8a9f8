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
