//! Signals that would kill a process for what its peers do.
//!
//! While a lease probe holds its lease, any client that re-opens the inode makes the kernel send `SIGIO`,
//! whose default action is to terminate: see FACTS, "Exact lifetime of exported memory". So the broker, the
//! keeper and everything else that probes calls [`ignore_sigio`] before its first probe.

use nix::libc;
use rustix::io::Errno;

use crate::error::{OsError, Result};

/// Ignores `SIGIO` in this process. Idempotent; inherited by children over exec.
///
/// # Errors
/// The errno of `sigaction`; does not happen on Linux.
pub fn ignore_sigio() -> Result<()> {
    ignore(libc::SIGIO, "SIGIO")
}

/// Ignores `SIGPIPE` in this process, as the Rust runtime does before `main`. Code that runs inside
/// programs without that runtime (C, a language binding) calls it before it sends fds.
///
/// # Errors
/// The errno of `sigaction`; does not happen on Linux.
pub fn ignore_sigpipe() -> Result<()> {
    ignore(libc::SIGPIPE, "SIGPIPE")
}

fn ignore(signal: libc::c_int, name: &str) -> Result<()> {
    // SAFETY: U7. SIG_IGN installs no handler, so no code of ours can run in signal context.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(OsError::with_detail("signal", errno, format!("ignore {name}")));
    }
    Ok(())
}
