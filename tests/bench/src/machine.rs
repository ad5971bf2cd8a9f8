//! The machine: what it is, its cores, and putting threads on them.
//!
//! Benches use two cores, [`Seat::Here`] and [`Seat::There`]: the first two this process may run on. On a machine
//! with one, or when a mode pins both ends together, both seats are the same core. A process is seated thread by
//! thread, from outside, by pid: neither the broker nor the drivers know.

use std::fs;

use anyhow::Context as _;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

/// One of the two places a thread is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seat {
    /// The client's core.
    Here,
    /// The other core.
    There,
    /// Any core: the scheduler decides.
    Anywhere,
}

/// The cores in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    here: usize,
    there: usize,
    all: CpuSet,
}

impl Cores {
    /// The first two cores this process may run on.
    ///
    /// # Errors
    /// The errno of `sched_getaffinity`.
    pub fn of_this_process() -> anyhow::Result<Self> {
        let all = sched_getaffinity(None).context("sched_getaffinity")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let here = cores.next().context("this process may run on no core")?;
        Ok(Self { here, there: cores.next().unwrap_or(here), all })
    }

    /// Both seats on one core.
    #[must_use]
    pub const fn together(self) -> Self {
        Self { there: self.here, ..self }
    }

    /// Whether the two seats are two cores.
    #[must_use]
    pub const fn are_two(&self) -> bool {
        self.here != self.there
    }

    /// The cores of a seat, as numbers: `0` or `0,1`.
    #[must_use]
    pub fn numbers(&self, seat: Seat) -> String {
        let set = self.set(seat);
        let numbers = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).map(|core| core.to_string());
        numbers.collect::<Vec<_>>().join(",")
    }

    /// Puts the calling thread on a seat.
    ///
    /// # Errors
    /// The errno of `sched_setaffinity`.
    pub fn sit(&self, seat: Seat) -> anyhow::Result<()> {
        sched_setaffinity(None, &self.set(seat)).with_context(|| format!("sched_setaffinity {seat:?}"))
    }

    /// Puts every thread of a process on a seat. Threads it starts later inherit the seat of their maker.
    ///
    /// # Errors
    /// When the process is gone, or belongs to somebody else.
    pub fn seat_process(&self, pid: i32, seat: Seat) -> anyhow::Result<()> {
        let set = self.set(seat);
        for thread in threads(pid)? {
            sched_setaffinity(Some(thread), &set)
                .with_context(|| format!("sched_setaffinity of thread {thread:?} of {pid}, {seat:?}"))?;
        }
        Ok(())
    }

    fn set(&self, seat: Seat) -> CpuSet {
        let core = match seat {
            Seat::Here => self.here,
            Seat::There => self.there,
            Seat::Anywhere => return self.all,
        };
        let mut set = CpuSet::new();
        set.set(core);
        set
    }
}

/// Puts the calling thread on cores given as numbers: what a second process does with [`Cores::numbers`].
///
/// # Errors
/// When a number is none, or names no core.
pub fn sit_on(numbers: &str) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for number in numbers.split(',') {
        let core: usize = number.parse().with_context(|| format!("{number:?} is no core"))?;
        anyhow::ensure!(core < CpuSet::MAX_CPU, "core {core} is above {}", CpuSet::MAX_CPU);
        set.set(core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("sched_setaffinity {numbers}"))
}

/// The threads of a process.
///
/// # Errors
/// When it is gone.
pub fn threads(pid: i32) -> anyhow::Result<Vec<Pid>> {
    let folder = format!("/proc/{pid}/task");
    let names = fs::read_dir(&folder).with_context(|| folder.clone())?;
    let mut threads = Vec::new();
    for name in names {
        let name = name.with_context(|| folder.clone())?.file_name();
        let tid = name.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        threads.extend(tid);
    }
    Ok(threads)
}

/// What the machine is.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Cores this process may run on.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// What the processor calls itself.
    pub cpu: String,
    /// Bytes of memory.
    pub memory: u64,
    /// What one look at the clock costs, nanoseconds.
    pub clock_ns: f64,
}

impl Machine {
    /// Looks at the machine.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned());
            value.unwrap_or_else(|| "unknown".to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        Self {
            cores: sched_getaffinity(None).map_or(0, |set| usize::try_from(set.count()).unwrap_or(0)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            memory: kib.unwrap_or(0) * 1024,
            clock_ns: crate::sample::clock_cost_ns(),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { cores, kernel, cpu, memory, clock_ns } = self;
        format!(
            "{cores} cores, {cpu}, Linux {kernel}, {} GiB; one look at the clock {clock_ns:.0} ns",
            memory >> 30
        )
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores, "kernel": self.kernel, "cpu": self.cpu,
            "memory_bytes": self.memory, "clock_ns": self.clock_ns,
        })
    }
}

/// Bytes that the kernel uses for its own tables, and for shared memory: slabs, page tables, shmem.
///
/// # Errors
/// When `/proc/meminfo` does not say.
pub fn kernel_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    ["Slab:", "PageTables:", "Shmem:"].iter().map(|name| kib_in(&text, name)).sum()
}

/// The value of a line of a file of `/proc` that counts in KiB, bytes.
///
/// # Errors
/// When there is no such line.
pub fn kib_in(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib =
        line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no line {name}"))? * 1024)
}

/// Huge pages of shared memory, allowed for a while for those who ask (`madvise`).
#[derive(Debug)]
pub struct ShmemHuge {
    before: String,
}

impl ShmemHuge {
    const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

    /// Allows them; they are as before when this is dropped.
    ///
    /// # Errors
    /// When the kernel has no such switch, or this process may not use it.
    pub fn allow() -> anyhow::Result<Self> {
        let text = fs::read_to_string(Self::SWITCH).context(Self::SWITCH)?;
        let before = text.split(['[', ']']).nth(1).context("no choice is marked")?.to_owned();
        fs::write(Self::SWITCH, "advise").context(Self::SWITCH)?;
        Ok(Self { before })
    }
}

impl Drop for ShmemHuge {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, &self.before) {
            eprintln!("vgem-bench: {} stays at advise: {error}", Self::SWITCH);
        }
    }
}

/// A number of the kernel, raised for a while.
#[derive(Debug)]
pub struct Raised {
    path: &'static str,
    before: String,
}

impl Raised {
    /// Raises it to at least `least`; it is as before when this is dropped.
    ///
    /// # Errors
    /// When this process may not.
    pub fn to(path: &'static str, least: u64) -> anyhow::Result<Self> {
        let before = fs::read_to_string(path).context(path)?.trim().to_owned();
        if before.parse::<u64>().is_ok_and(|now| now < least) {
            fs::write(path, least.to_string()).context(path)?;
        }
        Ok(Self { path, before })
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.before) {
            eprintln!("vgem-bench: {} is not put back to {}: {error}", self.path, self.before);
        }
    }
}

/// Asks for this process, and all it starts, to run before others. Returns whether that was allowed.
#[must_use]
pub fn raise_priority() -> bool {
    rustix::process::setpriority_process(None, -20).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seated_thread_may_run_on_that_core_alone() {
        let cores = Cores::of_this_process().expect("a process runs somewhere");
        std::thread::spawn(move || {
            cores.sit(Seat::There).expect("the core is one of ours");
            assert_eq!(sched_getaffinity(None).expect("asking is free"), cores.set(Seat::There));
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn a_seat_told_as_numbers_is_the_same_seat() {
        let cores = Cores::of_this_process().expect("a process runs somewhere");
        std::thread::spawn(move || {
            sit_on(&cores.numbers(Seat::Here)).expect("the core is one of ours");
            assert_eq!(sched_getaffinity(None).expect("asking is free"), cores.set(Seat::Here));
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn numbers_that_name_no_core_are_refused() {
        assert!(sit_on("first").is_err());
        assert!(sit_on("100000").is_err());
    }

    #[test]
    fn seats_pulled_together_are_one_core() {
        let cores = Cores::of_this_process().expect("a process runs somewhere").together();
        assert_eq!(cores.numbers(Seat::Here), cores.numbers(Seat::There));
    }
}
