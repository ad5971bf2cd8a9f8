//! The arena of a user queue: a little bound memory for what an entry needs beyond its 64 bytes.
//!
//! ```text
//!   one piece per entry:   [result cell] [array of a batch] [block] [bytes of parameters]
//!                          └──────────── whole lines of 64 bytes, one after another ────┘
//! ```
//!
//! A piece is taken when its entry is pushed and given back when the entry's completion has been reaped, so it is never
//! changed while the driver may read it. Which lines are taken is kept in private memory; the bytes themselves are
//! written by copies and atomics and never seen as a slice.
//!
//! Nothing allocates after the arena was made.

use vgem_proto::layout::result_cell;

use crate::buffer::Buffer;
use crate::cell::Cell;

/// Bytes of a line. A result cell is one.
pub(crate) const LINE: usize = 64;

const _: () = assert!(result_cell::LEN == LINE);

/// Lines of the arena that belong to an entry; none at all for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Piece {
    first: u32,
    lines: u32,
}

impl Piece {
    /// Its first byte in the arena.
    pub(crate) fn offset(self) -> usize {
        self.first as usize * LINE
    }
}

/// The arena's memory and what of it is taken.
#[derive(Debug)]
pub(crate) struct Arena {
    buffer: Buffer,
    lines: Lines,
}

impl Arena {
    /// All of `buffer`, which is bound at its own address.
    pub(crate) fn over(buffer: Buffer) -> Self {
        let lines = usize::try_from(buffer.len()).unwrap_or(usize::MAX) / LINE;
        Self { buffer, lines: Lines::new(lines) }
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> u64 {
        self.buffer.len()
    }

    /// Takes lines for `bytes`; nothing if there are none so many together.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Piece> {
        self.lines.take(bytes.div_ceil(LINE))
    }

    /// Gives a piece back.
    pub(crate) fn give_back(&mut self, piece: Piece) {
        self.lines.give_back(piece);
    }

    /// The address of a byte of the arena, as the driver knows it.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.buffer.address() + offset as u64
    }

    /// Writes bytes. The offset is inside a piece, so they fit.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let written = self.buffer.shared().span_mut().map(|span| span.copy_from(offset, bytes));
        debug_assert_eq!(written, Some(Ok(())), "inside a piece");
    }

    /// Writes one aligned word.
    pub(crate) fn write_word(&self, offset: usize, word: u64) {
        let written = self.buffer.shared().span_mut().map(|span| span.write_u64(offset, word));
        debug_assert_eq!(written, Some(Ok(())), "inside a piece");
    }

    /// What the result cell at the beginning of a piece holds.
    pub(crate) fn cell(&self, piece: Piece) -> Cell {
        Cell::read(self.buffer.shared().span(), piece.offset())
    }

    /// Makes the result cell at the beginning of a piece one that says nothing.
    pub(crate) fn clear_cell(&self, piece: Piece) {
        for word in 0..result_cell::WORDS {
            self.write_word(piece.offset() + 8 * word, 0);
        }
    }
}

/// Which lines are taken: a bit each.
#[derive(Debug)]
struct Lines {
    taken: Vec<u64>,
    count: u32,
    /// Where to look first: behind what was taken last.
    next: u32,
}

impl Lines {
    fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self { taken: vec![0; (count as usize).div_ceil(64)], count, next: 0 }
    }

    fn take(&mut self, lines: usize) -> Option<Piece> {
        let lines = u32::try_from(lines).ok().filter(|lines| *lines > 0 && *lines <= self.count)?;
        let first = self.find(self.next, lines).or_else(|| self.find(0, lines))?;
        self.mark(first, lines, true);
        self.next = first + lines;
        Some(Piece { first, lines })
    }

    fn give_back(&mut self, piece: Piece) {
        self.mark(piece.first, piece.lines, false);
    }

    /// The first `lines` free ones together, from `from` on.
    fn find(&self, from: u32, lines: u32) -> Option<u32> {
        let (mut first, mut at) = (from, from);
        while at < self.count {
            let ahead = self.taken.get(at as usize / 64)? >> (at % 64);
            let rest = 64 - at % 64;
            let free = ahead.trailing_zeros().min(rest);
            at += free;
            if at.min(self.count) - first >= lines {
                return Some(first);
            }
            if free < rest {
                // A taken line: begin anew behind the taken ones.
                at += (ahead >> free).trailing_ones();
                first = at;
            }
        }
        None
    }

    fn mark(&mut self, first: u32, lines: u32, taken: bool) {
        for line in first..first + lines {
            if let Some(word) = self.taken.get_mut(line as usize / 64) {
                let bit = 1 << (line % 64);
                *word = if taken { *word | bit } else { *word & !bit };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_come_back() {
        let mut lines = Lines::new(200);
        for round in 0..1000_u32 {
            let sizes = [1, 3, 70, 2, 64, 1 + round as usize % 20];
            let pieces: Vec<Piece> = sizes.iter().filter_map(|size| lines.take(*size)).collect();
            assert_eq!(pieces.len(), sizes.len(), "round {round}");
            let mut seen = [false; 200];
            for line in pieces.iter().flat_map(|piece| piece.first..piece.first + piece.lines) {
                assert!(!std::mem::replace(&mut seen[line as usize], true), "line {line} twice");
            }
            pieces.into_iter().rev().for_each(|piece| lines.give_back(piece));
        }
        assert!(lines.taken.iter().all(|word| *word == 0));
    }

    #[test]
    fn every_line_can_be_taken_and_no_more() {
        let mut lines = Lines::new(130);
        let all: Vec<_> = (0..130).map(|_| lines.take(1)).collect();
        assert!(all.iter().all(Option::is_some) && lines.take(1).is_none());
        all.into_iter().flatten().for_each(|piece| lines.give_back(piece));
        assert_eq!(lines.take(130), Some(Piece { first: 0, lines: 130 }));
    }

    #[test]
    fn what_does_not_fit_together_is_not_taken() {
        let mut lines = Lines::new(128);
        let pieces: Vec<_> = (0..64).map(|_| lines.take(2)).collect();
        pieces.iter().step_by(2).flatten().for_each(|piece| lines.give_back(*piece));
        assert_eq!((lines.take(3), lines.take(0), lines.take(129)), (None, None, None));
        assert!(lines.take(2).is_some());
    }
}
