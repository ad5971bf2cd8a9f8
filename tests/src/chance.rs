//! Chance that can be had again: numbers from a seed, which a test prints and takes from its environment.

use std::env;

/// A sequence of numbers; the same seed gives the same sequence.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Seeds that differ in one bit shall not begin alike, and 0 would stay 0.
        Self(scatter(seed) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        // xorshift: what is varied here needs no better.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        scatter(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// A number below `end`, as an index.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// Whether something that happens `percent` times of 100 happens.
    pub fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.get(self.index(of.len())).expect("something to pick from")
    }
}

/// Spreads a number over all 64 bits.
const fn scatter(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The seed that an environment variable gives, or one of this moment; printed, so that a failure can be had again.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn seed(variable: &str) -> u64 {
    let seed = number(variable).unwrap_or_else(|| scatter(vgem_os::clock::now()) >> 16);
    eprintln!("{variable}={seed}");
    seed
}

/// The number that an environment variable gives.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
