//! Numbers: the times of one turn, and what all repetitions say together.
//!
//! Times are nanoseconds, taken with the monotonic clock through the vDSO; [`clock_cost_ns`] says what one look at it
//! costs, and nothing is subtracted. One repetition of one thing is a [`Distribution`]. Over the repetitions only
//! medians are compared, with the smallest and the largest beside them: the spread.

use vgem_os::clock;

/// What one repetition found for one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are not above it.
    pub p99: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// How many were taken.
    pub count: usize,
}

impl Distribution {
    /// The distribution of `samples`; nothing if there are none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let at = |percent: usize| {
            let index = samples.len() * percent / 100;
            samples.get(index).copied().unwrap_or(max)
        };
        Some(Self { p50: at(50), p99: at(99), min, max, count: samples.len() })
    }

    /// A single number, such as a rate.
    #[must_use]
    pub const fn single(value: f64) -> Self {
        Self { p50: value, p99: value, min: value, max: value, count: 1 }
    }
}

/// Median, smallest and largest of one number per repetition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; nothing if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let median = *values.get(values.len() / 2)?;
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

/// Collects times of one thing over several turns of one repetition.
#[derive(Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// Runs `work` `count` times and takes the time of each, nanoseconds.
    ///
    /// # Errors
    /// The first error of `work`.
    pub fn each<E>(&mut self, count: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        self.0.reserve(count);
        for _ in 0..count {
            let before = clock::now();
            work()?;
            self.push(clock::now() - before);
        }
        Ok(())
    }

    /// Runs `work` `batches * per` times and takes the mean time of each batch: for work far below the clock's cost.
    ///
    /// # Errors
    /// The first error of `work`.
    pub fn batches<E>(
        &mut self,
        batches: usize,
        per: u32,
        mut work: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..batches {
            let before = clock::now();
            for _ in 0..per {
                work()?;
            }
            self.0.push(ns_f64(clock::now() - before) / f64::from(per));
        }
        Ok(())
    }

    /// Runs `work` `count` times and takes the time that each says it took, nanoseconds.
    ///
    /// # Errors
    /// The first error of `work`.
    pub fn told<E>(&mut self, count: usize, mut work: impl FnMut() -> Result<u64, E>) -> Result<(), E> {
        self.0.reserve(count);
        for _ in 0..count {
            self.push(work()?);
        }
        Ok(())
    }

    /// Adds one time, nanoseconds.
    pub fn push(&mut self, ns: u64) {
        self.0.push(ns_f64(ns));
    }

    /// Adds times another process took, nanoseconds.
    pub fn extend(&mut self, ns: impl IntoIterator<Item = f64>) {
        self.0.extend(ns);
    }

    /// The median; nothing if there are none.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        Distribution::of(self.0.clone()).map(|all| all.p50)
    }

    /// The distribution of all of them; nothing if there are none.
    #[must_use]
    pub fn distribution(self) -> Option<Distribution> {
        Distribution::of(self.0)
    }
}

/// Events per second, for `count` events in `ns` nanoseconds.
#[must_use]
pub fn per_second(count: u64, ns: u64) -> f64 {
    ns_f64(count) * 1e9 / ns_f64(ns.max(1))
}

/// A count or a time as a floating-point number; exact below 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "times of a run are below 2^53 ns, which is 104 days")]
pub const fn ns_f64(value: u64) -> f64 {
    value as f64
}

/// What one look at the clock costs, nanoseconds: the median of batches.
#[must_use]
pub fn clock_cost_ns() -> f64 {
    let mut times = Times::default();
    let looked: Result<(), std::convert::Infallible> = times.batches(64, 1000, || {
        std::hint::black_box(clock::now());
        Ok(())
    });
    match looked {
        Ok(()) => times.distribution().map_or(0.0, |all| all.p50),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sorted_samples() {
        let samples = (1..=200).rev().map(f64::from).collect();
        let all = Distribution::of(samples).expect("there are samples");
        assert_eq!((all.p50, all.p99, all.min, all.max), (101.0, 199.0, 1.0, 200.0));
    }

    #[test]
    fn nothing_measured_has_no_distribution() {
        assert_eq!(Distribution::of(Vec::new()), None);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_spread_is_the_median_between_the_ends() {
        let spread = Spread::of([3.0, 9.0, 1.0]).expect("there are values");
        assert_eq!(spread, Spread { median: 3.0, min: 1.0, max: 9.0 });
    }

    #[test]
    fn a_thousand_in_a_millisecond_are_a_million_per_second() {
        assert!((per_second(1000, 1_000_000) - 1e6).abs() < 1e-6);
    }
}
