//! How often the broker is told of failures of one user queue.
//!
//! A tracked job that fails was accepted by the broker, which thereby bounds how many causes it hears of. Entries it
//! never sees: a client could have as many fail as a processor manages, and every one of them would cost the broker a
//! message, and the client's neighbours in its domain the causes that are remembered for them. So a queue has a few
//! tokens, and gets one more from time to time. The cause that takes the last of them says that it stands for what comes
//! after it, and does. The completion has the code and the value in any case.

use vgem_proto::ids::{CauseId, Time};

/// Causes that are told in a row.
const BURST: u32 = 32;
/// How often one more is told, nanoseconds.
const EACH_NS: u64 = 10_000_000;

/// What is to be done with a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// Tell of it; [`Causes::told`] comes after.
    Own,
    /// Tell of it, and that it stands for what fails until there is another token.
    Last,
    /// It has a cause already.
    Same(CauseId),
}

/// The tokens of one queue.
#[derive(Debug)]
pub(super) struct Causes {
    tokens: u32,
    since: Time,
    last: CauseId,
}

/// What the text of a cause that stands for others ends with.
pub(super) const STANDS_FOR_MORE: &str =
    " (what else fails on this queue in the next 10 ms has this cause too)";

impl Causes {
    /// Of a queue on which nothing has failed.
    pub(super) const fn new(now: Time) -> Self {
        Self { tokens: BURST, since: now, last: CauseId::NONE }
    }

    /// Something has failed.
    pub(super) fn next(&mut self, now: Time) -> Telling {
        let earned = now.0.saturating_sub(self.since.0) / EACH_NS;
        if earned > 0 {
            self.tokens = u32::try_from(earned).unwrap_or(BURST).saturating_add(self.tokens).min(BURST);
            self.since = now;
        }
        match self.tokens {
            0 => Telling::Same(self.last),
            1 => {
                (self.tokens, self.since) = (0, now);
                Telling::Last
            }
            _ => {
                self.tokens -= 1;
                Telling::Own
            }
        }
    }

    /// The broker was told of it.
    pub(super) const fn told(&mut self, cause: CauseId) {
        self.last = cause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(causes: &mut Causes, now: u64, number: u64) -> Telling {
        let telling = causes.next(Time(now));
        if !matches!(telling, Telling::Same(_)) {
            causes.told(CauseId(number));
        }
        telling
    }

    #[test]
    fn the_last_cause_of_a_burst_stands_for_what_fails_until_the_next() {
        let mut causes = Causes::new(Time(0));
        let burst: Vec<_> = (1..=u64::from(BURST)).map(|number| tell(&mut causes, 1, number)).collect();
        assert!(burst.split_last().is_some_and(|(last, own)| {
            *last == Telling::Last && own.iter().all(|telling| *telling == Telling::Own)
        }));
        let same = Telling::Same(CauseId(BURST.into()));
        assert_eq!([2, EACH_NS].map(|now| tell(&mut causes, now, 99)), [same; 2]);
        assert_eq!(tell(&mut causes, EACH_NS + 1, 99), Telling::Last);
        assert_eq!(tell(&mut causes, EACH_NS + 2, 100), Telling::Same(CauseId(99)));
    }

    #[test]
    fn a_queue_that_was_quiet_has_its_burst_again_and_no_more() {
        let mut causes = Causes::new(Time(0));
        for now in [1, u64::MAX] {
            let own = (0..1000).filter(|_| tell(&mut causes, now, 1) == Telling::Own).count();
            assert_eq!(own, BURST as usize - 1);
        }
    }
}
