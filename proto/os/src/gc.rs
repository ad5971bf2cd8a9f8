//! Fds that are nowhere but in flight.
//!
//! Sockets can be sent through each other, so that fds sit in queues nobody can read any more. The kernel collects
//! such cycles, but looks for them only when some Unix socket goes away (FACTS): on a quiet machine an export in
//! such a cycle stays open for hours. Whoever is about to call an object leaked makes the kernel look first.
//!
//! What it is not: it frees nothing that somebody can still receive.

use crate::error::Result;
use crate::seqpacket::Socket;

/// Makes the kernel collect fds in unreachable cycles of Unix sockets, by opening and closing a pair of sockets.
///
/// The kernel may do it in the background: probe again a few milliseconds later.
///
/// # Errors
/// The errno of `socketpair`.
pub fn collect_in_flight() -> Result<()> {
    Socket::pair().map(drop)
}
