//! Filling a fresh mapping with the bytes of another, as fast as the pages can be had.
//!
//! Allocating pages costs more than copying into them, and does so per processor. So large copies use two threads, and
//! each populates a piece and copies it while it is still in its cache. (Measured by `benches/adopt.rs`; writing into
//! the memory file instead, which saves the zeroing, holds a lock of the file that a second thread would wait for.)

use crate::error::{OsError, Result};
use crate::mapping::{CopyStyle, Mapping, Span, copy_span};

/// Populated and copied at a time, bytes. Small enough for a processor's own cache.
const PIECE: usize = 512 * 1024;

/// From this length on a second thread takes the other half, bytes.
const TWO_THREADS_FROM: usize = 4 * 1024 * 1024;

/// Copies `from`, which has the mapping's length, into the mapping.
pub(super) fn fill(into: &Mapping, from: Span<'_>) -> Result<()> {
    let len = into.len();
    let several = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
    if len < TWO_THREADS_FROM || !several {
        return part(into, from, 0, len);
    }
    let half = (len / 2).next_multiple_of(PIECE);
    std::thread::scope(|scope| {
        let second = std::thread::Builder::new()
            .name("vgem-adopt".into())
            .spawn_scoped(scope, || part(into, from, half, len));
        let first = part(into, from, 0, half);
        let second = match second {
            Ok(thread) => thread.join().expect("copying bytes does not panic"),
            // No thread to be had: then alone.
            Err(_) => part(into, from, half, len),
        };
        first.and(second)
    })
}

/// Bytes `start` to `end`.
fn part(into: &Mapping, from: Span<'_>, start: usize, end: usize) -> Result<()> {
    let target = into.span_mut()?;
    for offset in (start..end).step_by(PIECE) {
        let len = PIECE.min(end - offset);
        into.populate_part(offset, len)?;
        let (dst, src) = target.sub(offset, len).zip(from.sub(offset, len)).ok_or_else(beyond)?;
        copy_span(dst, src, CopyStyle::Plain).map_err(|_| beyond())?;
    }
    Ok(())
}

fn beyond() -> OsError {
    OsError::with_detail("adopt", crate::Errno::INVAL, "the two sides differ in length")
}
