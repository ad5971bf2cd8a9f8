//! What is not as it should be in a shared buffer: the ranges that the broker calls poisoned (J8).
//!
//! ```text
//!   Observed ──► told ──[a guard of this process writes bytes of it]──► rewritten: (range, cause)
//!     newest wins, less what was rewritten      │ a job is to replace them: forgotten, the broker decides what comes of it
//!                                               └ told no more: forgotten
//! ```
//!
//! The broker knows of jobs and not of plain writes. Bytes that this process has written anew under a guard are good
//! for this process; the broker goes on calling them poisoned, to other clients and to jobs that read them, until a job
//! replaces them. So what was rewritten is remembered with its cause: the same failure does not count again here, and
//! another one does.
//!
//! Invariants: no range is both told and rewritten for the same cause; what is remembered is bounded, and forgetting a
//! rewritten range makes a good read fail, never a bad one succeed.

use std::ops::Range;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::CauseId;
use vgem_proto::jobs::PoisonedRange;

/// Rewritten ranges remembered; beyond it the oldest counts again.
const REWRITTEN: usize = 1024;

/// Bytes that a failed job was to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Poison {
    pub(crate) range: Range<u64>,
    pub(crate) code: ErrorCode,
    pub(crate) cause: CauseId,
}

/// Poison that a guard of this process has written over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rewritten {
    range: Range<u64>,
    cause: CauseId,
    /// The broker has told it. If not, the failure was seen first, and the broker may tell it yet.
    told: bool,
}

/// The poison of one object, as this process sees it.
#[derive(Debug, Default)]
pub(crate) struct Poisons {
    told: Vec<Poison>,
    rewritten: Vec<Rewritten>,
}

impl Poison {
    pub(crate) fn from_wire(told: &PoisonedRange) -> Self {
        let range = told.offset..told.offset.saturating_add(told.len);
        Self { range, code: told.code, cause: told.cause }
    }
}

impl Poisons {
    /// Takes in all that the broker calls poisoned now.
    pub(crate) fn tell(&mut self, told: &[Poison]) {
        self.rewritten.retain_mut(|one| {
            let again = told.iter().any(|new| new.cause == one.cause && overlap(&new.range, &one.range));
            let keep = again || !one.told;
            one.told |= again;
            keep
        });
        let mut left = told.to_vec();
        for one in &self.rewritten {
            left = cut(left, &one.range, |poison| poison.cause == one.cause);
        }
        self.told = left;
    }

    /// Whether there is any that counts.
    pub(crate) const fn is_any(&self) -> bool {
        !self.told.is_empty()
    }

    /// Poison in these bytes, if any.
    pub(crate) fn find(&self, range: &Range<u64>) -> Option<&Poison> {
        self.told.iter().find(|poison| overlap(&poison.range, range))
    }

    /// A guard of this process writes these bytes.
    pub(crate) fn rewrite(&mut self, range: &Range<u64>) {
        let over = |poison: &&Poison| overlap(&poison.range, range);
        let known: Vec<Poison> = self.told.iter().filter(over).cloned().collect();
        for poison in known {
            self.remember(common(&poison.range, range), poison.cause, true);
        }
        self.told = cut(std::mem::take(&mut self.told), range, |_| true);
    }

    /// A guard of this process writes bytes of a job that was seen to fail; the broker may not have told it yet.
    pub(crate) fn rewrite_failed(&mut self, written: &Range<u64>, range: &Range<u64>, cause: CauseId) {
        if cause != CauseId::NONE && overlap(written, range) {
            self.remember(common(written, range), cause, false);
        }
    }

    /// A job is to replace these bytes.
    pub(crate) fn replace(&mut self, range: &Range<u64>) {
        self.told = cut(std::mem::take(&mut self.told), range, |_| true);
        self.rewritten = cut(std::mem::take(&mut self.rewritten), range, |_| true);
    }

    fn remember(&mut self, range: Range<u64>, cause: CauseId, told: bool) {
        let touches = |one: &Rewritten| {
            one.cause == cause && one.range.start <= range.end && range.start <= one.range.end
        };
        let mut all = Rewritten { range: range.clone(), cause, told };
        self.rewritten.retain(|one| {
            let merged = touches(one);
            if merged {
                all.range = all.range.start.min(one.range.start)..all.range.end.max(one.range.end);
                all.told |= one.told;
            }
            !merged
        });
        if self.rewritten.len() >= REWRITTEN {
            self.rewritten.remove(0);
        }
        self.rewritten.push(all);
    }
}

/// What has a range of bytes.
trait Ranged: Clone {
    fn range(&self) -> &Range<u64>;
    fn with(&self, range: Range<u64>) -> Self;
}

impl Ranged for Poison {
    fn range(&self) -> &Range<u64> {
        &self.range
    }
    fn with(&self, range: Range<u64>) -> Self {
        Self { range, ..self.clone() }
    }
}

impl Ranged for Rewritten {
    fn range(&self) -> &Range<u64> {
        &self.range
    }
    fn with(&self, range: Range<u64>) -> Self {
        Self { range, ..self.clone() }
    }
}

/// The parts outside of `hole` of those that `concerned` picks, and the others as they are.
fn cut<T: Ranged>(all: Vec<T>, hole: &Range<u64>, concerned: impl Fn(&T) -> bool) -> Vec<T> {
    let mut left = Vec::with_capacity(all.len());
    for one in all {
        if !overlap(one.range(), hole) || !concerned(&one) {
            left.push(one);
            continue;
        }
        let parts = [one.range().start..hole.start, hole.end..one.range().end];
        left.extend(parts.into_iter().filter(|part| part.start < part.end).map(|part| one.with(part)));
    }
    left
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn common(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poison(range: Range<u64>, cause: u64) -> Poison {
        Poison { range, code: ErrorCode::Io, cause: CauseId(cause) }
    }

    fn told(all: &[Poison]) -> Poisons {
        let mut poisons = Poisons::default();
        poisons.tell(all);
        poisons
    }

    fn causes(poisons: &Poisons, bytes: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
        bytes.into_iter().map(|at| poisons.find(&(at..at + 1)).map(|poison| poison.cause.0)).collect()
    }

    #[test]
    fn j8_only_bytes_that_overlap_are_poisoned() {
        let poisons = told(&[poison(10..20, 1)]);
        assert_eq!(causes(&poisons, [9, 10, 19, 20]), [None, Some(1), Some(1), None]);
    }

    #[test]
    fn what_was_rewritten_does_not_count_again_for_its_cause() {
        let mut poisons = told(&[poison(0..30, 1)]);
        poisons.rewrite(&(10..20));
        poisons.tell(&[poison(0..30, 1)]);
        assert_eq!(causes(&poisons, [9, 10, 19, 20]), [Some(1), None, None, Some(1)]);
        poisons.tell(&[poison(0..30, 2)]);
        assert_eq!(causes(&poisons, [10]), [Some(2)]);
    }

    #[test]
    fn a_cause_that_went_and_comes_again_counts() {
        let mut poisons = told(&[poison(0..30, 1)]);
        poisons.rewrite(&(0..30));
        poisons.tell(&[]);
        poisons.tell(&[poison(0..30, 1)]);
        assert_eq!(causes(&poisons, [10]), [Some(1)]);
    }

    #[test]
    fn a_failure_that_was_written_over_before_the_broker_told_it_does_not_count() {
        let mut poisons = told(&[]);
        poisons.rewrite_failed(&(0..30), &(0..20), CauseId(1));
        poisons.tell(&[]);
        poisons.tell(&[poison(0..30, 1)]);
        assert_eq!(causes(&poisons, [19, 20]), [None, Some(1)]);
    }

    #[test]
    fn a_job_that_is_to_replace_bytes_ends_what_is_known_of_them() {
        let mut poisons = told(&[poison(0..10, 1), poison(10..20, 2)]);
        poisons.rewrite(&(0..10));
        poisons.replace(&(0..15));
        assert_eq!(causes(&poisons, [0, 14, 15]), [None, None, Some(2)]);
        // The job failed with the cause of what it was to replace.
        poisons.tell(&[poison(0..10, 1)]);
        assert_eq!(causes(&poisons, [0]), [Some(1)]);
    }

    #[test]
    fn the_memory_of_rewritten_ranges_is_bounded() {
        let many = REWRITTEN as u64 + 10;
        let all: Vec<Poison> = (0..many).map(|number| poison(number * 10..number * 10 + 5, number)).collect();
        let mut poisons = told(&all);
        poisons.rewrite(&(0..many * 10));
        assert_eq!(poisons.rewritten.len(), REWRITTEN);
        poisons.tell(&all);
        assert_eq!(causes(&poisons, [0, 100]), [Some(0), None]);
    }
}
