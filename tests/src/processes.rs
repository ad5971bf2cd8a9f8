//! Looking at processes through /proc, and ending them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A process and all its descendants, by pid; empty if it is gone.
#[must_use]
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if !is_alive(pid) {
            continue;
        }
        found.push(pid);
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            next.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    found
}

/// The name of a process's program; empty if it is gone.
#[must_use]
pub fn name(pid: u32) -> String {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), ' ' | 'Z' | 'X')
}

/// What a process is doing, as `ps` has it: R, S, D, T, Z; a space if it is gone.
#[must_use]
pub fn state(pid: u32) -> char {
    stat(pid, 0).and_then(|word| word.chars().next()).unwrap_or(' ')
}

/// Whose child a process is; none if it is gone.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1)?.parse().ok()
}

/// A word of `/proc/PID/stat`, counted from after the name, which may hold anything.
fn stat(pid: u32, at: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(at).map(str::to_owned)
}

/// Sends a signal by name (`KILL`, `STOP`, `TERM`).
///
/// # Panics
/// If the process is gone.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.is_ok_and(|s| s.success()), "process {pid} takes no SIG{name}");
}

/// Waits until something holds, looking every millisecond.
///
/// # Panics
/// If it does not within `limit`; `what` says what was waited for.
pub fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Processes whose command line names this path.
#[must_use]
pub fn mentioning(path: &Path) -> Vec<u32> {
    let wanted = path.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id() && is_alive(*pid))
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&wanted)
        })
        .collect()
}
