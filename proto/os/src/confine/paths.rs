//! Landlock: which paths may be opened, and that no TCP port, foreign abstract socket or foreign process is in reach.
//!
//! Memory files are not paths: re-opening a memfd through `/proc/self/fd` is always allowed, and so is everything on
//! fds that are open already.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;

use super::ConfineSpec;
use crate::error::{OsError, Result};

/// The newest landlock this crate asks for.
const WANTED: ABI = ABI::V6;

/// What landlock enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Landlock {
    /// All that was asked for: paths, TCP, scopes.
    Full,
    /// An older kernel's share of it: paths at least.
    Partial,
    /// Nothing: the kernel has no landlock, or it is not switched on.
    Absent,
}

/// Restricts the calling thread, and the threads and processes it starts later.
pub(super) fn restrict(spec: &ConfineSpec) -> Result<Landlock> {
    let status = build(spec).and_then(RulesetCreated::restrict_self).map_err(refused)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}

fn build(spec: &ConfineSpec) -> core::result::Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    for path in &spec.read {
        // What is not there cannot be opened later either: nothing to allow.
        if let Ok(fd) = PathFd::new(path) {
            let access = AccessFs::ReadFile | AccessFs::ReadDir;
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    for path in &spec.write {
        if let Ok(fd) = PathFd::new(path) {
            let access =
                AccessFs::from_all(WANTED) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules)
}

fn refused(error: RulesetError) -> OsError {
    OsError::with_detail("landlock", Errno::INVAL, error.to_string())
}
