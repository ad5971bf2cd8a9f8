//! What the ledger is told, and how ranges of bytes and accesses get into each other's way.

use std::ops::Range;

use vgem_proto::ids::{Point, TimelineHandle};
use vgem_proto::rights::Access;

use crate::deadline::Deadline;
use crate::timeline::TimelinePoint;

/// A point of a timeline of this client, as jobs wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) timeline: TimelineHandle,
    pub(crate) point: Point,
}

impl Gate {
    pub(crate) fn of(point: &TimelinePoint) -> Self {
        Self { timeline: point.timeline.handle, point: point.point }
    }
}

/// A guard that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) id: u64,
    /// A failed job was to write some of its bytes, and the broker knows of none that replaced them.
    pub(crate) poisoned: bool,
}

/// How a job uses bytes, for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Reads them.
    Read,
    /// Writes them, after all earlier uses.
    Write,
    /// Writes or reads them without being ordered after anything.
    Unordered(Access),
}

/// How a guard waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Until the deadline.
    Until(Deadline),
    /// Not at all.
    Not,
}

impl Usage {
    pub(crate) fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write => Access::Write,
            Self::Unordered(access) => access,
        }
    }
}

pub(crate) fn conflict(a: Access, first: &Range<u64>, b: Access, second: &Range<u64>) -> bool {
    overlap(first, second) && (a == Access::Write || b == Access::Write)
}

pub(crate) fn overlap(first: &Range<u64>, second: &Range<u64>) -> bool {
    first.start < second.end && second.start < first.end
}

pub(crate) fn covers(whole: &Range<u64>, part: &Range<u64>) -> bool {
    whole.start <= part.start && part.end <= whole.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readers_do_not_conflict_and_a_writer_does() {
        assert!(!conflict(Access::Read, &(0..8), Access::Read, &(0..8)));
        assert!(conflict(Access::Read, &(0..8), Access::Write, &(7..9)));
        assert!(!conflict(Access::Write, &(0..8), Access::Write, &(8..9)));
    }
}
