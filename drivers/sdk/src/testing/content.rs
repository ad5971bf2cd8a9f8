//! Bytes that compress, and bytes that do not; the same ones every time.

/// Numbers without a short period, and without any claim to be unpredictable.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Another sequence for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number().checked_rem(limit as u64).unwrap_or(0)).unwrap_or(0)
    }
}

/// Bytes that nothing compresses.
#[must_use]
pub fn noise(len: usize) -> Vec<u8> {
    noise_from(1, len)
}

/// Bytes that nothing compresses, others for each seed.
#[must_use]
pub fn noise_from(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.number().to_le_bytes()[5]).collect()
}

/// Bytes that everything compresses, without a short period.
#[must_use]
pub fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["object ", "handle ", "timeline ", "point ", "fence ", "driver ", "instance ", "domain\n"];
    let choices = noise(len / 4 + 8);
    choices.iter().flat_map(|c| WORDS[usize::from(c % 8)].bytes()).take(len).collect()
}
