//! Kernel conformance: fds in unreachable cycles of sockets (FACTS, T15).
//!
//! Alone in its process, because any Unix socket that goes away makes the kernel look for cycles.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::AsFd as _;

use vgem_os::memory::{Access, HugePages, ObjectMemory, Probe};
use vgem_os::seqpacket::Socket;

// T15
#[test]
fn an_export_in_an_unreachable_cycle_is_collected() {
    vgem_os::signal::ignore_sigio().unwrap();
    let object = ObjectMemory::create(8192, HugePages::None, "cycle").unwrap();
    let export = object.export(Access::Write).unwrap();
    let (a, b) = Socket::pair().unwrap();
    // Each end waits in the queue of the other: closing them closes neither.
    a.send(b"both", &[a.as_fd(), b.as_fd(), export.as_fd()]).unwrap();
    b.send(b"both", &[a.as_fd(), b.as_fd()]).unwrap();
    drop((a, b, export));
    vgem_os::gc::collect_in_flight().unwrap();
    support::until("the export is gone", || object.probe() == Ok(Probe::Free));
}
