//! A client that shares no code with this project works with the daemon.
//!
//! `proto/tests/independent_client.py` was written from `proto/SPEC.md` alone, in another language. If it works, the
//! specification says enough, and what it says is true.

#![forbid(unsafe_code)]

use std::path::Path;

use vgem::Embedded;
use vgem_tests::programs;

/// The Python program names, in its own checks, the MUSTs that each of them is about.
// M-015, M-017, M-018, M-024, M-030, M-031, M-033, M-034, M-039, M-050, M-051, M-053, M-055, M-059, M-074, M-078
#[test]
fn a_client_written_from_the_specification_alone_works_with_the_daemon() {
    let broker = Embedded::builder().drivers(["copy"]).start().expect("a private broker with the copy device");
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/independent_client.py");
    let said = programs::succeed(programs::python(), [client, broker.socket()]);
    assert_eq!(said.trim(), "OK");
}
