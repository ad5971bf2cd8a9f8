//! Windows: private, cache-sized pieces of an operand.
//!
//! An engine that needs Rust slices, or that must not see memory change under it, reads an operand through a
//! [`WindowReader`] or [`each_window`], and writes one through a [`WindowWriter`]; [`copy_through`] and
//! [`fill_through`] are for engines that would only move bytes. Each byte is copied once, into or out of memory
//! that only this process can touch; both directions are counted as staged bytes.
//! An engine that needs an operand whole takes [`Scratch::copy_of`](crate::scratch::Scratch::copy_of).

use std::io::{self, Read, Write};

use vgem_os::mapping::{CopyStyle, OutOfRange, Span, SpanMut, copy_span};

/// Bytes of a window: small enough to stay in a core's second-level cache beside the engine's own tables.
pub const WINDOW_LEN: usize = 128 * 1024;

/// Reads an operand front to back, each byte once.
#[derive(Debug)]
pub struct WindowReader<'a> {
    span: Span<'a>,
    at: usize,
}

impl<'a> WindowReader<'a> {
    /// A reader of the whole operand.
    #[must_use]
    pub fn new(span: Span<'a>) -> Self {
        Self { span, at: 0 }
    }

    /// Bytes read so far; each was staged once.
    #[must_use]
    pub fn staged(&self) -> u64 {
        self.at as u64
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.span.len() - self.at
    }
}

impl Read for WindowReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.remaining());
        if let Some(part) = buf.get_mut(..len) {
            self.span.copy_to(self.at, part).map_err(io::Error::other)?;
        }
        self.at += len;
        Ok(len)
    }
}

/// Writes an operand front to back, each byte once.
#[derive(Debug)]
pub struct WindowWriter<'a> {
    span: SpanMut<'a>,
    at: usize,
    wanted: u64,
}

impl<'a> WindowWriter<'a> {
    /// A writer of the whole operand.
    #[must_use]
    pub fn new(span: SpanMut<'a>) -> Self {
        Self { span, at: 0, wanted: 0 }
    }

    /// Bytes written so far; each was staged once.
    #[must_use]
    pub fn staged(&self) -> u64 {
        self.at as u64
    }

    /// Bytes that were offered, also those that did not fit.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether everything fit.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.wanted == self.at as u64
    }
}

impl Write for WindowWriter<'_> {
    /// Takes what fits; the first byte that does not is [`io::ErrorKind::WriteZero`].
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.wanted = self.wanted.saturating_add(buf.len() as u64);
        let len = buf.len().min(self.span.len() - self.at);
        if len == 0 && !buf.is_empty() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the output operand is full"));
        }
        if let Some(part) = buf.get(..len) {
            self.span.copy_from(self.at, part).map_err(io::Error::other)?;
        }
        self.at += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives an operand to `take` front to back, in pieces that were copied to `window`; answers the bytes staged.
///
/// # Errors
/// [`OutOfRange::Lengths`] for a window of no bytes, where the operand has some.
pub fn each_window(
    operand: Span<'_>,
    window: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> Result<u64, OutOfRange> {
    for at in steps(operand.len(), window.len())? {
        let len = window.len().min(operand.len() - at);
        let piece = window.split_at_mut(len).0;
        operand.copy_to(at, piece)?;
        take(piece);
    }
    Ok(operand.len() as u64)
}

/// Copies an operand to another through `window`, as `memmove` does where they overlap; answers the bytes staged.
///
/// # Errors
/// [`OutOfRange::Lengths`] if the lengths differ, or for a window of no bytes where the operands have some.
pub fn copy_through(into: SpanMut<'_>, from: Span<'_>, window: &mut [u8]) -> Result<u64, OutOfRange> {
    if into.len() != from.len() {
        return Err(OutOfRange::Lengths { from: from.len(), into: into.len() });
    }
    let steps = steps(from.len(), window.len())?;
    let mut copy = |at: usize| {
        let len = window.len().min(from.len() - at);
        let piece = window.split_at_mut(len).0;
        from.copy_to(at, piece)?;
        put(into, at, piece)
    };
    // What is written must have been read: with the output behind its input the last piece goes first.
    let backwards = share_bytes(into.as_span(), from) && into.as_ptr().addr() > from.as_ptr().addr();
    match backwards {
        false => steps.into_iter().try_for_each(&mut copy)?,
        true => steps.into_iter().rev().try_for_each(&mut copy)?,
    }
    Ok(2 * from.len() as u64)
}

/// Sets every byte of an operand to what every byte of `window` is set to; answers the bytes staged.
///
/// # Errors
/// [`OutOfRange::Lengths`] for a window of no bytes, where the operand has some.
pub fn fill_through(into: SpanMut<'_>, byte: u8, window: &mut [u8]) -> Result<u64, OutOfRange> {
    window.fill(byte);
    for at in steps(into.len(), window.len())? {
        let len = window.len().min(into.len() - at);
        put(into, at, window.split_at_mut(len).0)?;
    }
    Ok(into.len() as u64)
}

/// Whether two spans have a byte in common.
#[must_use]
pub fn share_bytes(a: Span<'_>, b: Span<'_>) -> bool {
    let (a_start, b_start) = (a.as_ptr().addr(), b.as_ptr().addr());
    a_start < b_start + b.len() && b_start < a_start + a.len()
}

/// Where the pieces of `len` bytes begin, each `window_len` bytes from the one before.
fn steps(len: usize, window_len: usize) -> Result<std::iter::StepBy<std::ops::Range<usize>>, OutOfRange> {
    if window_len == 0 && len > 0 {
        return Err(OutOfRange::Lengths { from: len, into: window_len });
    }
    Ok((0..len).step_by(window_len.max(1)))
}

/// Copies a private piece out, with stores that go past the cache if it is long.
fn put(into: SpanMut<'_>, at: usize, piece: &[u8]) -> Result<(), OutOfRange> {
    let missing = OutOfRange::Beyond { offset: at, len: piece.len(), available: into.len() };
    copy_span(into.sub(at, piece.len()).ok_or(missing)?, Span::of_slice(piece), CopyStyle::Streaming)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn the_pieces_of_an_operand_are_the_operand() {
        for (len, window_len) in [(0, 0), (0, 7), (1, 7), (7, 7), (8, 7), (100_000, 4096)] {
            let (bytes, mut seen) = (noise(len), Vec::new());
            let staged =
                each_window(Span::of_slice(&bytes), &mut vec![0; window_len], |p| seen.extend_from_slice(p));
            assert_eq!((staged, &seen), (Ok(len as u64), &bytes), "{len} through {window_len}");
        }
    }

    #[test]
    fn a_copy_through_a_window_is_a_memmove_and_is_staged_twice() {
        for (from, into) in [(0, 150_000), (0, 100), (100, 0), (0, 0), (150_000, 0)] {
            let len = 150_000;
            let mut memory = noise(2 * len);
            let wanted = memory[from..from + len].to_vec();
            let whole = SpanMut::of_slice(&mut memory);
            let (input, output) =
                (whole.sub(from, len).expect("inside"), whole.sub(into, len).expect("inside"));
            let staged = copy_through(output, input.as_span(), &mut [0; 4096]);
            assert_eq!(staged, Ok(300_000));
            assert!(memory[into..into + len] == wanted[..], "from {from} to {into}");
        }
    }

    #[test]
    fn a_fill_through_a_window_sets_every_byte() {
        let mut memory = [1; 1000];
        let staged = fill_through(SpanMut::of_slice(&mut memory), 9, &mut [0; 64]);
        assert_eq!((staged, memory), (Ok(1000), [9; 1000]));
    }

    #[test]
    fn a_window_of_no_bytes_is_refused_and_changes_nothing() {
        let (mut memory, from) = ([1; 10], [2; 10]);
        let refused = Err(OutOfRange::Lengths { from: 10, into: 0 });
        let into = SpanMut::of_slice(&mut memory);
        assert_eq!(copy_through(into, Span::of_slice(&from), &mut []), refused);
        assert_eq!(fill_through(into, 9, &mut []), refused);
        assert_eq!(each_window(into.as_span(), &mut [], |_| ()), refused);
        assert_eq!(memory, [1; 10]);
    }

    #[test]
    fn spans_share_bytes_only_where_they_overlap() {
        let memory = [0; 100];
        let whole = Span::of_slice(&memory);
        let part = |at, len| whole.sub(at, len).expect("inside");
        assert!(share_bytes(part(0, 50), part(49, 1)) && share_bytes(part(10, 10), part(0, 100)));
        assert!(!share_bytes(part(0, 50), part(50, 50)) && !share_bytes(part(50, 50), part(0, 50)));
    }
}
