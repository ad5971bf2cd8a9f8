//! Resource limits that decide what vgem can do, and raising them as far as one may.

use rustix::process::{Resource, Rlimit};

use crate::error::{Attempt, Result};

/// Bytes this process may lock (`RLIMIT_MEMLOCK`, soft); `u64::MAX` is no limit. `CAP_IPC_LOCK` lifts it.
#[must_use]
pub fn memlock() -> u64 {
    soft(Resource::Memlock)
}

/// Fds this process may have open (`RLIMIT_NOFILE`, soft).
#[must_use]
pub fn nofile() -> u64 {
    soft(Resource::Nofile)
}

/// How long a file this process may write (`RLIMIT_FSIZE`, soft), bytes; `u64::MAX` is no limit. A write beyond raises
/// `SIGXFSZ`, which kills; a mapping may be written all the same.
pub(crate) fn fsize() -> u64 {
    soft(Resource::Fsize)
}

/// Most fds anybody is given here: what `fs.nr_open` is unless somebody raised it.
const MOST_FDS: u64 = 1 << 20;

/// Raises the number of fds as far as this process may: with `CAP_SYS_RESOURCE` to 1 048 576 or `fs.nr_open`, whichever
/// is less, otherwise to the hard limit. Returns the limit in force.
///
/// # Errors
/// The errno of `setrlimit`.
pub fn raise_nofile() -> Result<u64> {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let most = most.unwrap_or(MOST_FDS).min(MOST_FDS);
    if rustix::process::getrlimit(Resource::Nofile).maximum.is_some_and(|hard| hard < most) {
        let wanted = Rlimit { current: Some(most), maximum: Some(most) };
        if rustix::process::setrlimit(Resource::Nofile, wanted).is_ok() {
            return Ok(soft(Resource::Nofile));
        }
    }
    raise(Resource::Nofile)
}

/// Raises the bytes that may be locked to the hard limit; returns the limit in force.
///
/// # Errors
/// The errno of `setrlimit`.
pub fn raise_memlock() -> Result<u64> {
    raise(Resource::Memlock)
}

fn soft(resource: Resource) -> u64 {
    rustix::process::getrlimit(resource).current.unwrap_or(u64::MAX)
}

fn raise(resource: Resource) -> Result<u64> {
    let now = rustix::process::getrlimit(resource);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    rustix::process::setrlimit(resource, wanted).attempting("setrlimit", || format!("{resource:?}"))?;
    Ok(soft(resource))
}
