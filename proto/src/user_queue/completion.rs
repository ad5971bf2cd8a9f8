//! Completions: how an entry ended, in 64 bytes.
//!
//! | word | holds |
//! |---|---|
//! | 0 | code (0 is ok), sequence |
//! | 1 | the entry's own number, as the client gave it |
//! | 2 | the entry's point |
//! | 3 | bytes produced |
//! | 4 | the number the operation defines; of one that failed, what goes with the code |
//! | 5 | the cause |
//! | 6 | the address that could not be reached |
//! | 7 | when it ended |
//!
//! A driver of the client's own domain wrote it: a claim, not a fact. A client that finds its own things by the number
//! in word 1 looks them up and never takes the number for a pointer.

use super::Words;
use crate::error::{ErrorCode, Failure};
use crate::ids::{CauseId, Point, Time};

/// How an entry ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The client's own number, from the entry.
    pub user: u64,
    /// The entry's point.
    pub point: Point,
    /// Bytes produced. Of a batch: entries of it that ended ok.
    pub produced: u64,
    /// The number that the operation defines. Of an entry that failed: what goes with the code.
    pub value: u64,
    /// The failure, if it is one. A code below 64 refused the entry: nothing of it has happened.
    pub failure: Option<Failure>,
    /// With [`ErrorCode::AddressFault`]: the first address that could not be reached; `value` says why.
    pub address: u64,
    /// When it ended.
    pub ended: Time,
}

/// Why an address could not be reached: `value` of a completion with [`ErrorCode::AddressFault`]. Open: a number this
/// version does not know survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultReason {
    /// Nothing is bound there, and it is in no window.
    Unbound,
    /// What is bound there, or the window, may not be written.
    ReadOnly,
    /// The memory there is gone: its process has ended, or executes another program.
    Gone,
    /// The client's own memory could not be reached there.
    Unreachable,
    /// A reason of a newer version.
    Other(u64),
}

impl FaultReason {
    /// Every reason of this version.
    pub const ALL: [Self; 4] = [Self::Unbound, Self::ReadOnly, Self::Gone, Self::Unreachable];

    /// The number in the completion.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Unbound => 1,
            Self::ReadOnly => 2,
            Self::Gone => 3,
            Self::Unreachable => 4,
            Self::Other(number) => number,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Unbound,
            2 => Self::ReadOnly,
            3 => Self::Gone,
            4 => Self::Unreachable,
            other => Self::Other(other),
        }
    }
}

impl Completion {
    /// The completion in the words of a slot, whatever its sequence. Every pattern is one.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low half of the first word is the code")]
    pub fn decode(words: &Words) -> Self {
        let [first, user, point, produced, value, cause, address, ended] = *words;
        let code = first as u32;
        let failure =
            (code != 0).then(|| Failure { code: ErrorCode::from_number(code), cause: CauseId(cause) });
        Self { user, point: Point(point), produced, value, failure, address, ended: Time(ended) }
    }

    /// The words of the completion, with sequence 0.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> Words {
        let (code, cause) = self.failure.map_or((0, 0), |f| (f.code.number(), f.cause.0));
        let (user, point, ended) = (self.user, self.point.0, self.ended.0);
        [u64::from(code), user, point, self.produced, self.value, cause, self.address, ended]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_comes_back_as_it_was_written_whatever_its_sequence() {
        let failure = Some(Failure { code: ErrorCode::AddressFault, cause: CauseId(5) });
        let (user, point, ended) = (1, Point(2), Time(7));
        let completion = Completion { user, point, produced: 3, value: 4, failure, address: 6, ended };
        let mut words = completion.encode();
        words[0] = super::super::with_sequence(words[0], 0xffff_ffff);
        assert_eq!(Completion::decode(&words), completion);
    }

    #[test]
    fn a_reason_comes_back_from_its_number_also_if_it_is_not_known() {
        for reason in FaultReason::ALL.into_iter().chain([FaultReason::Other(99)]) {
            assert_eq!(FaultReason::from_number(reason.number()), reason);
        }
    }
}
