//! How long processes had to wait for a core: what others do to the time that is measured here.
//!
//! The kernel counts it, in microseconds: in `/proc/pressure/cpu` for the machine, in `cpu.pressure` for each control
//! group of version 2, and there only while a process of the group waits. Both are means over the cores, weighted by
//! how long each had something to do, so one wait may have been longer than what is counted, by the number of cores at
//! most. Where the kernel does not count, nobody ever waited.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of the whole machine, since it started.
#[must_use]
pub fn waited() -> Duration {
    read(Path::new("/proc/pressure/cpu"))
}

/// Of this process and of those it starts from now on; of the whole machine where there is no control group for them.
/// They leave it on drop.
#[derive(Debug)]
pub struct Ours {
    group: Option<Group>,
}

#[derive(Debug)]
struct Group {
    own: PathBuf,
    before: PathBuf,
}

impl Ours {
    /// Begins to count.
    #[must_use]
    pub fn begin() -> Self {
        Self { group: Group::join() }
    }

    /// Since it began.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.group.as_ref().map_or_else(waited, |group| read(&group.own.join("cpu.pressure")))
    }
}

impl Group {
    fn join() -> Option<Self> {
        let before = current()?;
        let own = before.join(format!("vgem-test-pressure-{}", std::process::id()));
        fs::create_dir(&own).ok()?;
        let group = Self { own, before };
        (group.own.join("cpu.pressure").exists() && enter(&group.own)).then_some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        enter(&self.before);
        // It can be removed once its last process is reaped.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.own).is_err() && self.own.exists() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Moves this process; whether it could.
fn enter(group: &Path) -> bool {
    fs::write(group.join("cgroup.procs"), "0").is_ok()
}

/// The control group of version 2 that this process is in.
fn current() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let is_second = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
    let mount = mounts.lines().find(is_second)?.split(' ').nth(1)?;
    Some(Path::new(mount).join(path))
}

fn read(file: &Path) -> Duration {
    let text = fs::read_to_string(file).unwrap_or_default();
    let total =
        text.lines().find(|line| line.starts_with("some")).and_then(|line| line.split("total=").nth(1));
    Duration::from_micros(total.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_core_is_counted() {
        let ours = Ours::begin();
        let cores = std::thread::available_parallelism().expect("it is known").get();
        let end = Instant::now() + Duration::from_millis(100);
        std::thread::scope(|scope| {
            for _ in 0..2 * cores {
                scope.spawn(|| while Instant::now() < end {});
            }
        });
        assert!(ours.waited() > Duration::from_millis(20), "{:?}: does this kernel count?", ours.waited());
    }
}
