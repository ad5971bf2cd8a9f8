//! A broker for tests: with the test as its keeper, and a socket that it listens at.

use tempfile::TempDir;
use vgem_core::Broker;
use vgem_core::config::Config;
use vgem_os::selftest::LeaseSupport;
use vgem_os::seqpacket::{Listener, Socket};

use super::Given;
use super::shell::Shell;

/// The shell, the keeper's end of its link, and the directory with the listening socket, `s`.
pub(super) fn shell(config: Config) -> (Shell, Socket, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = Listener::bind(dir.path().join("s"), 0o600).expect("a socket");
    listener.set_nonblocking(true).expect("a socket of ours");
    let (ours, keeper) = Socket::pair().expect("a pair");
    let given = Given { owner: None, files: None };
    let shell = Shell::new(Broker::new(config), given, ours, listener, LeaseSupport::Exact);
    (shell.expect("a shell"), keeper, dir)
}
