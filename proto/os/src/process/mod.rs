//! Processes: starting one with exactly the fds it is to have, and taking over the fds one was started with.
//!
//! ```text
//!   Launch { program, args, env, fds, .. } ──start()──► Child { pid, pidfd } ──wait()/kill()──► ExitStatus
//!                                              in the child: inherited(3), inherited(4), ...
//! ```
//!
//! Invariants:
//! - Every fd of a vgem process is close-on-exec from birth. So an fd that is *not* close-on-exec was passed by
//!   the parent, and [`inherited`] takes exactly those, each once.
//! - Between fork and exec only async-signal-safe calls are made (U8).
//! - A child that should die with its parent is told by the kernel (`PR_SET_PDEATHSIG`), which counts the *thread*
//!   that started it: start such children from a thread that lives as long as the process.

pub mod limits;
mod spawn;

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{Errno, FdFlags};
use rustix::process::Signal;

pub use self::spawn::{Child, Launch, Output};
use crate::error::{Attempt, OsError, Result};

/// Takes over an fd that the parent passed under this number. It becomes close-on-exec, so each number can be
/// taken once.
///
/// # Errors
/// `EINVAL` for 0, 1, 2 and negative numbers; `EBADF` if it is not open; `EBUSY` if it is close-on-exec: then this
/// process opened it, or took it already.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // One taker at a time: between the look at the flag and its change nobody else may look.
    static TAKING: Mutex<()> = Mutex::new(());
    const CALL: &str = "inherited";
    if fd <= 2 {
        return Err(OsError::with_detail(CALL, Errno::INVAL, format!("fd {fd} is not one a parent passes")));
    }
    let taking = TAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: U9. Borrowed for two calls that fail cleanly if the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = rustix::io::fcntl_getfd(borrowed).attempting(CALL, || format!("fd {fd}"))?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(OsError::with_detail(CALL, Errno::BUSY, format!("fd {fd} has an owner in this process")));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).attempting(CALL, || format!("fd {fd}"))?;
    drop(taking);
    // SAFETY: U9. Open, not close-on-exec until now, thus passed by the parent and owned by nobody here yet.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert_eq!(owned.as_raw_fd(), fd);
    Ok(owned)
}

/// Has the kernel kill this process when the thread of the parent that started it is gone. Fails if the parent
/// was gone before the call.
///
/// # Errors
/// `ESRCH` if the parent is not `parent` any more; the errno of `prctl`.
pub fn exit_with_parent(parent: i32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt("prctl(PR_SET_PDEATHSIG)")?;
    let now = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    if now == parent {
        return Ok(());
    }
    let detail = format!("the parent {parent} is gone, {now} has us");
    Err(OsError::with_detail("exit_with_parent", Errno::SRCH, detail))
}

/// Makes this process the parent of its descendants' orphans, so that none escapes its care.
///
/// # Errors
/// The errno of `prctl`.
pub fn set_child_subreaper() -> Result<()> {
    let yes = Some(rustix::process::getpid());
    rustix::process::set_child_subreaper(yes).attempt("prctl(PR_SET_CHILD_SUBREAPER)")
}
