//! How long processes of this machine had to wait for a core: what others do to the time that is measured here.
//!
//! The kernel counts it (`/proc/pressure/cpu`, line `some`, in microseconds). Where it does not, nothing is excused.

use std::time::Duration;

/// Since the machine started.
#[must_use]
pub fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total =
        text.lines().find(|line| line.starts_with("some")).and_then(|line| line.split("total=").nth(1));
    Duration::from_micros(total.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}
