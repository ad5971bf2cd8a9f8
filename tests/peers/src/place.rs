//! Putting a thread on cores.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Puts the calling thread on cores given as numbers, `0` or `0,1`.
///
/// # Errors
/// When a number is none or names no core of this machine.
pub(crate) fn sit_on(numbers: &str) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for number in numbers.split(',') {
        let core: usize = number.parse().with_context(|| format!("{number:?} is no core"))?;
        anyhow::ensure!(core < CpuSet::MAX_CPU, "core {core} is above {}", CpuSet::MAX_CPU);
        set.set(core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("sched_setaffinity {numbers}"))
}
