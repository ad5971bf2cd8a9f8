//! Confinement: giving up, for good, what a role does not need.
//!
//! ```text
//!   open everything ──► confine::broker(spec) ──► serve
//!                       no_new_privs, capabilities, landlock, seccomp, in this order
//! ```
//!
//! Four layers, each useful without the others:
//! - **no_new_privs**: no exec ever gains a right.
//! - **capabilities**: all dropped, from every set, but those a role keeps.
//! - **landlock**: no path can be opened, nor TCP used, but what the spec allows. Where the kernel has none this is
//!   reported, and an error only if the spec demands it.
//! - **seccomp**: two filters for all threads of the process. Calls that only an attacker makes (exec, ptrace,
//!   reading another process, loading modules, ...) kill the process. Any other call that is not on the role's list
//!   answers `ENOSYS`, as a kernel without it would, so that libraries take their fall-backs.
//!
//! Call it before the first other thread exists: capabilities and (on kernels without its thread
//! synchronisation) landlock bind the calling thread and those it starts later. The report says if they bound only
//! this thread.
//!
//! What it is not: for the keeper, which starts processes.

mod caps;
mod paths;
mod syscalls;

use std::path::PathBuf;

pub use self::paths::Landlock;
use crate::error::{Attempt, OsError, Result};

/// Two things one can do about a layer that this machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Demand {
    /// Take what there is and report it.
    #[default]
    BestEffort,
    /// Fail if landlock is not enforced as asked.
    Required,
}

/// What a process may still do after confinement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfineSpec {
    /// Files and directories (with all below) that may be opened for reading. A path that is not there is skipped.
    pub read: Vec<PathBuf>,
    /// Files and directories (with all below) that may be read, written, created and removed.
    pub write: Vec<PathBuf>,
    /// True: no call that opens a path at all, whatever `read` and `write` say. Not for the broker, which opens
    /// `/proc/self/fd/N` for every export.
    pub no_open: bool,
    /// True: io_uring is allowed (`blk`). Its operations escape seccomp, not landlock.
    pub io_uring: bool,
    /// Whether landlock must be there.
    pub landlock: Demand,
}

/// What is in force now, for `doctor` and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confined {
    /// No exec gains a right any more.
    pub no_new_privs: bool,
    /// What landlock enforces.
    pub landlock: Landlock,
    /// The system call filters are installed in all threads.
    pub seccomp: bool,
    /// Names of the capabilities that are left.
    pub caps: Vec<&'static str>,
    /// Other threads lived already: capabilities, and landlock unless the kernel synchronises it, do not bind them.
    pub other_threads: bool,
}

/// Confines the broker: opens nothing but re-opens of its own fds and what `spec` names, forks nothing, execs
/// nothing, talks Unix sockets only, keeps `CAP_LEASE` if it has it.
///
/// # Errors
/// The errno of `prctl`, `capset` or `seccomp`; `ENOSYS` if landlock is [`Demand::Required`] and not enforced.
/// After an error the process may be confined in part: end it.
pub fn broker(spec: &ConfineSpec) -> Result<Confined> {
    confine(spec, caps::Keep::Lease, syscalls::Role::Broker)
}

/// Confines a driver: as the broker, without any capability but `CAP_IPC_LOCK` if it has it, and with what engines
/// need (file input and output on fds it holds, io_uring if asked).
///
/// # Errors
/// As [`broker`].
pub fn driver(spec: &ConfineSpec) -> Result<Confined> {
    confine(spec, caps::Keep::Lock, syscalls::Role::Driver)
}

/// Confines a porter: it receives fds, looks at them ([`crate::arrival`]), sends them on, and can do nothing else. It
/// opens no path, makes no thread and no socket, keeps no capability. What it works with must be open before:
/// its links, its [`crate::arrival::Admission`].
///
/// # Errors
/// As [`broker`].
pub fn porter(landlock: Demand) -> Result<Confined> {
    let spec = ConfineSpec { no_open: true, landlock, ..ConfineSpec::default() };
    confine(&spec, caps::Keep::Nothing, syscalls::Role::Porter)
}

/// Confines a doorman: as a porter, and it can accept on what listens already, and make threads.
///
/// # Errors
/// As [`broker`].
pub fn doorman(landlock: Demand) -> Result<Confined> {
    let spec = ConfineSpec { no_open: true, landlock, ..ConfineSpec::default() };
    confine(&spec, caps::Keep::Nothing, syscalls::Role::Doorman)
}

/// Confines control: it opens no path, keeps no capability, and can connect to Unix sockets, which a bus is.
///
/// # Errors
/// As [`broker`].
pub fn control(landlock: Demand) -> Result<Confined> {
    let spec = ConfineSpec { no_open: true, landlock, ..ConfineSpec::default() };
    confine(&spec, caps::Keep::Nothing, syscalls::Role::Control)
}

/// Confines the page server: it opens nothing but what is below `/proc`, for reading, keeps no capability, accepts on the
/// sockets that listen already, and can connect to Unix sockets, which the broker is.
///
/// # Errors
/// As [`broker`].
pub fn web(landlock: Demand) -> Result<Confined> {
    let spec = ConfineSpec { read: vec!["/proc".into()], landlock, ..ConfineSpec::default() };
    confine(&spec, caps::Keep::Nothing, syscalls::Role::Web)
}

fn confine(spec: &ConfineSpec, keep: caps::Keep, role: syscalls::Role) -> Result<Confined> {
    let other_threads = has_other_threads()?;
    rustix::thread::set_no_new_privs(true).attempt("prctl(PR_SET_NO_NEW_PRIVS)")?;
    let caps = caps::drop_all_but(keep)?;
    let landlock = paths::restrict(spec)?;
    if spec.landlock == Demand::Required && landlock != Landlock::Full {
        let detail = format!("landlock is {landlock:?} and was demanded");
        return Err(OsError::with_detail("landlock_restrict_self", crate::Errno::NOSYS, detail));
    }
    let no_new_privs = rustix::thread::no_new_privs().attempt("prctl(PR_GET_NO_NEW_PRIVS)")?;
    syscalls::install(spec, role)?;
    Ok(Confined { no_new_privs, landlock, seccomp: true, caps, other_threads })
}

/// Whether this process has other threads. The directory of its threads is asked for its links, not listed: that
/// works in a process that was confined before, too.
fn has_other_threads() -> Result<bool> {
    let path = "/proc/self/task";
    let links = rustix::fs::stat(path).attempting("stat", || path.into())?.st_nlink;
    // Two of any directory, and one for each thread.
    Ok(links > 3)
}
