//! Lines side by side: slices of one line must not overlap, so each goes to the first line that is free.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// The lines of a track.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Lines in use, by when they will be free.
    taken: BinaryHeap<Reverse<(u64, usize)>>,
    free: BTreeSet<usize>,
    count: usize,
}

impl Lanes {
    /// A line for a slice that begins and ends then. Slices come in the order in which they begin.
    pub(crate) fn place(&mut self, begin: u64, end: u64) -> usize {
        while let Some(Reverse((until, lane))) = self.taken.peek().copied()
            && until <= begin
        {
            self.taken.pop();
            self.free.insert(lane);
        }
        let lane = self.free.pop_first().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        });
        self.taken.push(Reverse((end, lane)));
        lane
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_on_different_lines_and_the_first_free_one_is_taken() {
        let mut lanes = Lanes::default();
        let placed: Vec<usize> =
            [(1, 5), (2, 3), (3, 4), (4, 9), (5, 6)].map(|(a, b)| lanes.place(a, b)).into();
        assert_eq!((placed, lanes.count()), (vec![0, 1, 1, 1, 0], 2));
    }
}
