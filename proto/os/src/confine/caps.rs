//! Dropping capabilities from every set a thread has: bounding, ambient, inheritable, permitted, effective.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Attempt, OsError, Result};

/// What a role keeps, if it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// `CAP_LEASE`: the lease probe works also on an inode whose owner was changed under the broker.
    Lease,
    /// `CAP_IPC_LOCK`: registered buffers are not bounded by `RLIMIT_MEMLOCK`.
    Lock,
    /// Nothing.
    Nothing,
}

impl Keep {
    const fn set(self) -> CapabilitySet {
        match self {
            Self::Lease => CapabilitySet::LEASE,
            Self::Lock => CapabilitySet::IPC_LOCK,
            Self::Nothing => CapabilitySet::empty(),
        }
    }
}

/// Drops all but what is kept, in the calling thread; returns the names of those left.
pub(super) fn drop_all_but(keep: Keep) -> Result<Vec<&'static str>> {
    let had = rustix::thread::capabilities(None).attempt("capget")?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        drop_bounding(keep.set())?;
    }
    match rustix::thread::clear_ambient_capability_set() {
        // Before Linux 4.3 there is no ambient set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(OsError::new("prctl(PR_CAP_AMBIENT)", errno)),
    }
    let left = had.permitted.intersection(keep.set());
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).attempt("capset")?;
    let now = rustix::thread::capabilities(None).attempt("capget")?;
    Ok(now.permitted.iter_names().map(|(name, _)| name).collect())
}

fn drop_bounding(keep: CapabilitySet) -> Result<()> {
    for capability in CapabilitySet::all().difference(keep).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(OsError::new("prctl(PR_CAPBSET_DROP)", errno)),
        }
    }
    Ok(())
}
