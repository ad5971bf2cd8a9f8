//! How often somebody may do something: so often on average, and so often at once.

use std::time::Instant;

/// A bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// A second, on average.
    pub(crate) rate: f64,
    /// At once.
    pub(crate) burst: f64,
}

/// What is left of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Nothing was taken of late.
    pub(crate) const fn full(pace: Pace, now: Instant) -> Self {
        Self { left: pace.burst, at: now }
    }

    /// All was taken.
    #[cfg(test)]
    pub(crate) const fn empty(now: Instant) -> Self {
        Self { left: 0.0, at: now }
    }

    /// Takes this much, if it is there.
    pub(crate) fn take(&mut self, pace: Pace, much: f64, now: Instant) -> bool {
        *self = Self { left: self.refilled(pace, now), at: now };
        let is_there = self.left >= much;
        if is_there {
            self.left -= much;
        }
        is_there
    }

    /// Whether nothing is missing: whoever has this one has done nothing of late.
    pub(crate) fn is_full(self, pace: Pace, now: Instant) -> bool {
        self.refilled(pace, now) >= pace.burst
    }

    fn refilled(self, pace: Pace, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * pace.rate;
        (self.left + gained).min(pace.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_much_at_once_and_then_at_a_rate() {
        let (pace, start) = (Pace { rate: 5.0, burst: 10.0 }, Instant::now());
        let mut bucket = Bucket::full(pace, start);
        let mut taken = |at| (0..30).filter(|_| bucket.take(pace, 1.0, at)).count();
        assert_eq!(taken(start), 10);
        assert_eq!(taken(start + Duration::from_secs(1)), 5);
        assert_eq!(taken(start + Duration::from_secs(9)), 10);
    }

    #[test]
    fn what_is_not_there_is_not_taken_in_part() {
        let (pace, now) = (Pace { rate: 1.0, burst: 3.0 }, Instant::now());
        let mut bucket = Bucket::full(pace, now);
        assert!(!bucket.take(pace, 4.0, now));
        assert!(bucket.is_full(pace, now) && bucket.take(pace, 3.0, now) && !bucket.is_full(pace, now));
    }
}
