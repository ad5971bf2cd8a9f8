//! Deadlines: moments of `CLOCK_MONOTONIC` after which a wait ends. There is no "for ever".
//!
//! Functions that wait take `impl Into<Deadline>`: a [`Duration`] counts from now, a [`Time`] is the moment itself.

use std::time::Duration;

use vgem_os::clock;
use vgem_proto::ids::Time;

/// When a wait ends at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Time);

impl Deadline {
    /// Do not wait at all.
    pub const NOW: Self = Self(Time(0));

    /// The moment `wait` from now; saturates.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self(Time(clock::deadline_in(nanoseconds(wait))))
    }

    /// This moment of CLOCK_MONOTONIC.
    #[must_use]
    pub const fn at(moment: Time) -> Self {
        Self(moment)
    }

    /// The moment.
    #[must_use]
    pub const fn time(self) -> Time {
        self.0
    }

    /// How long it is until then; zero if it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.0.0.saturating_sub(clock::now()))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.0.0 <= clock::now()
    }
}

impl From<Duration> for Deadline {
    fn from(wait: Duration) -> Self {
        Self::after(wait)
    }
}

impl From<Time> for Deadline {
    fn from(moment: Time) -> Self {
        Self::at(moment)
    }
}

/// A duration as nanoseconds; saturates.
pub(crate) fn nanoseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_saturates() {
        assert_eq!(Deadline::after(Duration::MAX).time(), Time(u64::MAX));
    }

    #[test]
    fn now_has_passed() {
        assert!(Deadline::NOW.passed());
    }

    #[test]
    fn an_hour_from_now_has_not_passed() {
        let deadline = Deadline::after(Duration::from_secs(3600));
        assert!(!deadline.passed() && deadline.remaining() > Duration::from_secs(3500));
    }
}
