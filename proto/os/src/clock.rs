//! The one clock: `CLOCK_MONOTONIC`, in nanoseconds since some point before boot.
//!
//! Deadlines everywhere in vgem are absolute times of this clock. It does not tick while the machine
//! sleeps, so a suspend does not time jobs out, and it never jumps.

use rustix::time::{ClockId, Timespec};

/// `CLOCK_MONOTONIC` now, in nanoseconds.
#[must_use]
#[inline]
pub fn now() -> u64 {
    let t = rustix::time::clock_gettime(ClockId::Monotonic);
    // Both fields of a monotonic time are never negative.
    t.tv_sec.unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec.unsigned_abs())
}

/// The deadline `after` nanoseconds from now; saturates instead of wrapping.
#[must_use]
pub fn deadline_in(after_ns: u64) -> u64 {
    now().saturating_add(after_ns)
}

/// `ns` as the kernel wants it. Every `u64` of nanoseconds fits.
pub(crate) fn timespec(ns: u64) -> Timespec {
    let seconds = ns / 1_000_000_000;
    let rest = ns % 1_000_000_000;
    Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: i64::try_from(rest).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let first = now();
        assert!((0..1000).all(|_| now() >= first));
    }

    #[test]
    fn the_largest_deadline_fits_a_timespec() {
        let t = timespec(u64::MAX);
        assert_eq!((t.tv_sec, t.tv_nsec), (18_446_744_073, 709_551_615));
    }
}
