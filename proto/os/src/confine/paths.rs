//! Landlock: which paths may be opened, and that no TCP port, foreign abstract socket or foreign process is in reach.
//!
//! Memory files are not paths: re-opening a memfd through `/proc/self/fd` is always allowed, and so is everything on
//! fds that are open already.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::FileType;
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
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let special = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock;
    let writing = AccessFs::from_all(WANTED) & !special;
    let read = spec.read.iter().map(|path| (path, reading));
    let write = spec.write.iter().map(|path| (path, writing));
    for (path, access) in read.chain(write) {
        // What is not there cannot be opened later either: nothing to allow.
        let Ok(fd) = PathFd::new(path) else { continue };
        // Asking for a directory's rights on a file would count as not fully enforced.
        let access = if is_directory(&fd) { access } else { access & AccessFs::from_file(WANTED) };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules)
}

fn is_directory(fd: &PathFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn refused(error: RulesetError) -> OsError {
    OsError::with_detail("landlock", Errno::INVAL, error.to_string())
}
