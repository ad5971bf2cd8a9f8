//! Copies between two spans, both of which others may change.
//!
//! Plain stores are right for what the next reader finds in this core's cache. A buffer that the other core has
//! just read is slow to rewrite that way (PERFORMANCE: 592 us against 39 us for 1 MiB), so engines that write
//! whole outputs of [`STREAMING_FROM`] bytes and more may choose non-temporal stores, which go past the cache.

use super::PAGE;
use super::span::{OutOfRange, Span, SpanMut};

/// From this length on [`CopyStyle::Streaming`] streams; below it copies plainly. Bytes.
pub const STREAMING_FROM: usize = 64 * 1024;

/// How the bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyStyle {
    /// Through the cache.
    Plain,
    /// Past the cache, from [`STREAMING_FROM`] on, where the machine can; complete and visible on return.
    Streaming,
}

/// Copies all of `src` to `dst`, as `memmove`: the spans may overlap.
///
/// # Errors
/// [`OutOfRange::Lengths`] if the lengths differ; nothing is copied.
#[inline]
pub fn copy_span(dst: SpanMut<'_>, src: Span<'_>, style: CopyStyle) -> Result<(), OutOfRange> {
    if dst.len() != src.len() {
        return Err(OutOfRange::Lengths { from: src.len(), into: dst.len() });
    }
    let apart = dst.as_ptr().addr().abs_diff(src.as_ptr().addr()) >= src.len();
    if style == CopyStyle::Streaming && src.len() >= STREAMING_FROM && apart {
        stream(dst, src);
    } else {
        // SAFETY: U2, U4. Both ranges have this length and may overlap.
        unsafe { std::ptr::copy(src.as_ptr(), dst.as_mut_ptr(), src.len()) };
    }
    Ok(())
}

/// Non-temporal copy of spans of equal length that do not overlap.
///
/// A load that agrees in its last twelve bits with a store still under way waits for that store, and these stores are
/// under way for long. Going up, a target a little beyond its source, modulo a page, meets that at every line (24 times
/// slower at 1 MiB, `benches/copy.rs`); so then it goes down.
#[cfg(target_arch = "x86_64")]
fn stream(dst: SpanMut<'_>, src: Span<'_>) {
    const LINE: usize = 64;

    let head = dst.as_ptr().align_offset(LINE).min(src.len());
    let body = (src.len() - head) / LINE * LINE;
    let tail = head + body;
    // SAFETY: U2, U4. `head` bytes are inside both spans, which do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_mut_ptr(), head) };
    let ahead = dst.as_ptr().addr().wrapping_sub(src.as_ptr().addr()) % PAGE;
    let lines = (head..tail).step_by(LINE);
    if (1..PAGE / 2).contains(&ahead) {
        // SAFETY: U2, U4. at + 64 <= tail <= len, and `head` reaches a line's start.
        lines.rev().for_each(|at| unsafe { stream_line(dst, src, at) });
    } else {
        // SAFETY: U2, U4. As above.
        lines.for_each(|at| unsafe { stream_line(dst, src, at) });
    }
    // Non-temporal stores are ordered by nothing else, in particular not by the release store of a fence.
    // SAFETY: U4. Every x86-64 machine has SSE; the fence touches no memory.
    unsafe { std::arch::x86_64::_mm_sfence() };
    // SAFETY: U2. tail <= len.
    let from = unsafe { src.as_ptr().add(tail) };
    // SAFETY: U2. tail <= len.
    let into = unsafe { dst.as_mut_ptr().add(tail) };
    // SAFETY: U2, U4. The rest is inside both spans, which do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from, into, src.len() - tail) };
}

/// Copies the 64 bytes at `at`: all loads, then all stores.
///
/// # Safety
/// U2, U4: they are inside both spans, which do not overlap, and `at` is a multiple of 16 in the target's address.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn stream_line(dst: SpanMut<'_>, src: Span<'_>, at: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    // SAFETY: U2. Inside the span.
    let from = unsafe { src.as_ptr().add(at) }.cast::<__m128i>();
    // SAFETY: U2. Inside the span.
    let into = unsafe { dst.as_mut_ptr().add(at) }.cast::<__m128i>();
    let lanes = [0, 1, 2, 3].map(|lane| {
        // SAFETY: U2. One of the line's four lanes.
        let lane = unsafe { from.add(lane) };
        // SAFETY: U2, U4. Sixteen mapped bytes; the load needs no alignment.
        unsafe { _mm_loadu_si128(lane) }
    });
    for (number, lane) in lanes.into_iter().enumerate() {
        // SAFETY: U2. One of the line's four lanes.
        let place = unsafe { into.add(number) };
        // SAFETY: U2, U4. Sixteen mapped, writable, aligned bytes.
        unsafe { _mm_stream_si128(place, lane) };
    }
}

/// Machines without non-temporal stores in stable Rust copy plainly.
#[cfg(not(target_arch = "x86_64"))]
fn stream(dst: SpanMut<'_>, src: Span<'_>) {
    // SAFETY: U2, U4. Both ranges have this length and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_mut_ptr(), src.len()) };
}
