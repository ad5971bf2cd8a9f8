//! Ranges of bytes in an object.
//!
//! Half open, never inverted. An empty range touches nothing.

use std::fmt;

/// The bytes from `start` up to, and without, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ByteRange {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl ByteRange {
    /// `len` bytes from `offset` on; `None` if the end is beyond what a number can hold.
    pub(crate) fn at(offset: u64, len: u64) -> Option<Self> {
        offset.checked_add(len).map(|end| Self { start: offset, end })
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    #[inline]
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_empty() && !other.is_empty()
    }

    /// What is left of this range without `other`: a part before it and a part after it.
    pub(crate) fn without(self, other: Self) -> (Option<Self>, Option<Self>) {
        if !self.overlaps(other) {
            return (Some(self), None);
        }
        let before = Self { start: self.start, end: other.start };
        let after = Self { start: other.end, end: self.end };
        ((!before.is_empty()).then_some(before), (!after.is_empty()).then_some(after))
    }

    /// The smallest range that holds both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range(0, 4).overlaps(range(4, 8)) && range(0, 5).overlaps(range(4, 8)));
    }

    #[test]
    fn an_empty_range_overlaps_nothing() {
        assert!(!range(2, 2).overlaps(range(0, 4)) && !range(0, 4).overlaps(range(2, 2)));
    }

    #[test]
    fn a_hole_leaves_two_parts() {
        assert_eq!(range(0, 9).without(range(3, 5)), (Some(range(0, 3)), Some(range(5, 9))));
        assert_eq!(range(3, 5).without(range(0, 9)), (None, None));
    }

    #[test]
    fn an_end_beyond_all_numbers_is_no_range() {
        assert_eq!(ByteRange::at(u64::MAX, 1), None);
    }
}
