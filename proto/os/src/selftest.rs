//! The start-up self-test of the lease probe.
//!
//! The kernel's lease check is being reworked upstream, and object lifetime rests on it. So whoever probes asks
//! once, at start: create, export, probe busy; map the export and close its fd, still busy; unmap, free. A kernel
//! that answers otherwise is not used: objects are then kept until their clients disconnect, and that is said.

use std::os::fd::AsFd as _;

use crate::error::Result;
use crate::mapping::{Mapping, Populate};
use crate::memory::{Access, HugePages, ObjectMemory, Probe};

/// Whether the lease probe can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseSupport {
    /// It tells exactly when the last open file and the last mapping are gone.
    Exact,
    /// It does not; keep objects until their clients disconnect.
    Unusable {
        /// Which step answered what.
        why: String,
    },
}

/// Runs the self-test. Ignores `SIGIO` first, because a probe may raise it.
///
/// # Errors
/// Only if memory cannot be made or exported at all. A wrong or refused answer of the probe is
/// [`LeaseSupport::Unusable`].
pub fn lease_self_test() -> Result<LeaseSupport> {
    crate::signal::ignore_sigio()?;
    let object = ObjectMemory::create(4096, HugePages::None, "vgem-self-test")?;
    if let Some(wrong) = expect(&object, Probe::Free, "before any export") {
        return Ok(wrong);
    }
    for access in [Access::Read, Access::Write] {
        let export = object.export(access)?;
        if let Some(wrong) = expect(&object, Probe::Busy, "with an export open") {
            return Ok(wrong);
        }
        let mapping = Mapping::map(export.as_fd(), 4096, access, Populate::Lazy)?;
        drop(export);
        if let Some(wrong) = expect(&object, Probe::Busy, "with a mapping whose fd is closed") {
            return Ok(wrong);
        }
        drop(mapping);
        if let Some(wrong) = expect(&object, Probe::Free, "after the last mapping went") {
            return Ok(wrong);
        }
    }
    Ok(match object.free() {
        Ok(()) => LeaseSupport::Exact,
        Err((_, error)) => LeaseSupport::Unusable { why: format!("freeing: {error}") },
    })
}

fn expect(object: &ObjectMemory, wanted: Probe, when: &str) -> Option<LeaseSupport> {
    match object.probe() {
        Ok(found) if found == wanted => None,
        Ok(found) => Some(LeaseSupport::Unusable { why: format!("{when}: {found:?} instead of {wanted:?}") }),
        Err(error) => Some(LeaseSupport::Unusable { why: format!("{when}: {error}") }),
    }
}
