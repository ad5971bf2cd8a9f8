//! A client that shares no code with this project works with the daemon.
//!
//! `proto/tests/independent_client.py` was written from `proto/SPEC.md` alone, in another language. If it works, the
//! specification says enough, and what it says is true.

#![forbid(unsafe_code)]

use std::path::Path;

use vgem::Embedded;
use vgem_tests::programs;

/// The Python program names, in its own checks, the MUSTs that each of them is about.
// M-015, M-016, M-017, M-018, M-019, M-020, M-021, M-022, M-024, M-030, M-031, M-033, M-034, M-035, M-039, M-046, M-047,
// M-048, M-049, M-050, M-085, M-086, M-089, M-090, M-091, M-092, M-093, M-094, M-095, M-096,
// M-051, M-052, M-053, M-054, M-055, M-056, M-057, M-058, M-059, M-060, M-061, M-074, M-076, M-077, M-078
#[test]
fn a_client_written_from_the_specification_alone_works_with_the_daemon() {
    let broker =
        Embedded::builder().drivers(["copy"]).start().expect("a private broker with the copy device");
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/independent_client.py");
    let said = programs::succeed(programs::python(), [client, broker.socket()]);
    assert_eq!(said.trim(), "OK");
}
