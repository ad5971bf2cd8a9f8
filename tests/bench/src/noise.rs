//! Who else used the machine: waiting until it is quiet, and judging a repetition afterwards.
//!
//! `/proc/stat` says what all processes used and what the host took (steal); what this program's own processes used
//! comes from `/proc/PID/stat`, over the whole tree below it: broker and drivers included. The rest was others.
//! Both count in ticks of 10 ms, so a repetition is judged only over its whole length.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use vgem_os::clock;

use crate::sample::ns_f64;

/// The largest share of the machine that others, and that the host, may take during a repetition that is kept.
pub const NOISE_MAX: f64 = 0.06;

/// The busy share below which the machine is taken for quiet.
const QUIET_BELOW: f64 = 0.07;

/// How long the machine must be quiet.
const QUIET_FOR: Duration = Duration::from_millis(400);

/// Ticks per second of the kernel's user-visible accounting; 100 on every Linux architecture we build for.
const TICKS_PER_S: f64 = 100.0;

/// What had been used at one moment, in seconds of core time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    busy: f64,
    steal: f64,
    total: f64,
    own: f64,
}

/// What a repetition met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Share of the machine that other processes used.
    pub others: f64,
    /// Share of the machine that the host took.
    pub steal: f64,
}

impl Noise {
    /// Whether a repetition that met this is kept.
    #[must_use]
    pub fn is_little(&self) -> bool {
        self.others <= NOISE_MAX && self.steal <= NOISE_MAX
    }
}

impl Usage {
    /// What has been used until now.
    #[must_use]
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        Self { own: own_seconds(), ..Self::of_line(first) }
    }

    /// What happened since an `earlier` moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Noise {
        let total = (self.total - earlier.total).max(1.0 / TICKS_PER_S);
        let own = self.own - earlier.own;
        let others = (self.busy - earlier.busy - own).max(0.0);
        Noise { others: others / total, steal: (self.steal - earlier.steal) / total }
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
    fn of_line(line: &str) -> Self {
        let numbers: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|number| number.parse::<f64>().ok())
            .map(|ticks| ticks / TICKS_PER_S)
            .collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0.0);
        Self {
            busy: at(0) + at(1) + at(2) + at(5) + at(6),
            steal: at(7),
            total: numbers.iter().take(8).sum(),
            own: 0.0,
        }
    }
}

/// Waits until the machine is quiet, at most `longest`; returns the busy share it saw last.
pub fn wait_for_quiet(longest: Duration) -> f64 {
    let end = clock::deadline_in(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
    loop {
        let before = Usage::now();
        pause(QUIET_FOR);
        let after = Usage::now();
        let total = (after.total - before.total).max(1.0 / TICKS_PER_S);
        let share = (after.busy + after.steal - before.busy - before.steal) / total;
        if share < QUIET_BELOW || clock::now() >= end {
            return share;
        }
    }
}

/// Lets time pass. Benches wait for the machine and for nothing else this way.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Core seconds of this process and everything below it, also of what has ended and was reaped.
fn own_seconds() -> f64 {
    let all = processes();
    let mut ours = vec![std::process::id()];
    let mut ticks = 0;
    while let Some(pid) = ours.pop() {
        ticks += all.get(&pid).map_or(0, |process| process.ticks);
        ours.extend(all.iter().filter(|(_, process)| process.parent == pid).map(|(pid, _)| *pid));
    }
    ns_f64(ticks) / TICKS_PER_S
}

/// A process, as far as this module looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own time and that of its reaped children.
    ticks: u64,
}

fn processes() -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        found.extend(Process::of_stat(&stat).map(|process| (pid, process)));
    }
    found
}

impl Process {
    /// `PID (NAME) STATE PPID ...`; the name may hold spaces and brackets.
    fn of_stat(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let parent = fields.get(1)?.parse().ok()?;
        // utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5).
        let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self { parent, ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 10 20 30 40 20 0 1";
        assert_eq!(Process::of_stat(stat), Some(Process { parent: 3, ticks: 100 }));
    }

    #[test]
    fn own_work_is_not_noise() {
        let before = Usage { busy: 10.0, steal: 0.0, total: 100.0, own: 5.0 };
        let after = Usage { busy: 12.0, steal: 0.2, total: 104.0, own: 7.0 };
        let noise = after.since(&before);
        assert!(noise.others.abs() < 1e-9 && (noise.steal - 0.05).abs() < 1e-9, "{noise:?}");
        assert!(noise.is_little());
    }

    #[test]
    fn work_of_others_is_noise() {
        let before = Usage { busy: 10.0, steal: 0.0, total: 100.0, own: 5.0 };
        let after = Usage { busy: 12.0, steal: 0.0, total: 104.0, own: 5.0 };
        assert!(!after.since(&before).is_little());
    }

    #[test]
    fn idle_time_is_no_use() {
        let usage = Usage::of_line("cpu 100 0 100 5000 700 0 0 50 0 0");
        assert_eq!((usage.busy, usage.steal, usage.total), (2.0, 0.5, 59.5));
    }
}
