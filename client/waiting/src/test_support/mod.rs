//! What tests of whoever shows who waits for whom begin with: entries, and jobs that really wait.
//!
//! Everything here panics with a sentence instead of returning an error: a test has nobody to give it to.

#[cfg(feature = "test-support")]
mod stalled;

use vgem::snapshot::{AwaitedEntry, ObligationEntry};

#[cfg(feature = "test-support")]
pub use self::stalled::{Stalled, Stopped, driver, stalled};

/// A job of client 4 in process 100 + `queue`, waiting for those points of others. One that runs is due 100 milliseconds
/// after it began.
#[must_use]
pub fn job(queue: u32, point: u64, state: &str, waits: &[(u32, u64)]) -> ObligationEntry {
    let awaited = |(queue, point): &(u32, u64)| AwaitedEntry {
        timeline: format!("timeline:{queue}.1"),
        point: *point,
        domain: 0,
    };
    ObligationEntry {
        timeline: format!("timeline:{queue}.1"),
        point,
        kind: "job".into(),
        device: ["copy", "zip", "sec"][queue as usize % 3].into(),
        client: 4,
        client_name: "encoder".into(),
        pid: 100 + queue,
        state: state.into(),
        since_ns: 16_000_000,
        due_ns: if state == "running" { 116_000_000 } else { 0 },
        waits: waits.iter().map(awaited).collect(),
        ..ObligationEntry::default()
    }
}
