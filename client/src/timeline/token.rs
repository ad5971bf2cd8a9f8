//! Tokens: 16 bytes with which another client gets a handle of a timeline, once.

use std::fmt;

/// What a timeline is passed on with. Whoever has the bytes first, and within ten seconds, gets the handle: send them over
/// a socket that only the right process reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimelineToken([u8; Self::LEN]);

impl TimelineToken {
    /// Bytes of a token.
    pub const LEN: usize = 16;

    /// The bytes, to send.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// The token that somebody sent.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) fn from_wire(words: [u64; 2]) -> Self {
        Self(u128_of(words).to_le_bytes())
    }

    pub(crate) fn to_wire(self) -> [u64; 2] {
        let all = u128::from_le_bytes(self.0);
        let low = u64::try_from(all & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(all >> 64).unwrap_or(0);
        [low, high]
    }
}

fn u128_of([low, high]: [u64; 2]) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Its bytes are a secret.
impl fmt::Debug for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimelineToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_through_the_wire_and_shows_nothing() {
        let token = TimelineToken::from_wire([0x0102_0304_0506_0708, 9]);
        assert_eq!((token.to_bytes()[0], token.to_bytes()[8]), (8, 9));
        assert_eq!(TimelineToken::from_bytes(token.to_bytes()).to_wire(), [0x0102_0304_0506_0708, 9]);
        assert_eq!(format!("{token:?}"), "TimelineToken(..)");
    }
}
