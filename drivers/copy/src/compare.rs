//! Comparing two operands that others may write meanwhile.
//!
//! Two ways, one answer. In place, blocks go through `memcmp`, which reads each byte and decides nothing by
//! reading it again; only in a block that differs are bytes copied out to find the first one. Through windows, both
//! sides are copied into private memory first. If a byte changes between the two looks, a difference that is gone
//! is not reported: the answer is about bytes that were there at some moment of the job.

use vgem_driver::mapping::OutOfRange;
use vgem_driver::{JobError, Span, Staging, Task};

use crate::description::compare;
use crate::ffi;

/// Bytes given to one `memcmp`.
const BLOCK_LEN: usize = 16 * 1024;
/// Bytes copied out at once, to find the first that differs and for operands that need windows.
const WINDOW_LEN: usize = 4096;

/// Runs one `compare` job.
pub(crate) fn run(task: &mut Task<'_>) -> Result<(), JobError> {
    let (left, right) = (task.input(compare::LEFT)?, task.input(compare::RIGHT)?);
    let common = left.len().min(right.len());
    let in_place = [compare::LEFT, compare::RIGHT].iter().all(|o| task.staging(*o) == Staging::InPlace);
    let sides = (part(left, 0, common)?, part(right, 0, common)?);
    let mut staged = 0;
    let difference = match in_place {
        true => difference_in_place(sides.0, sides.1, &mut staged)?,
        false => difference_by_windows(sides.0, sides.1, &mut staged)?,
    };
    task.add_staged(staged);
    let equal = difference.unwrap_or(common) as u64;
    task.set_len(equal);
    task.set_value(equal);
    if task.number(compare::REQUIRE_EQUAL) == 0 {
        return Ok(());
    }
    match difference {
        Some(at) => Err(JobError::corrupt(format!("the operands differ at offset {at} of {common}"))),
        None if left.len() != right.len() => {
            let text =
                format!("{} bytes compared with {}; the first {common} are equal", left.len(), right.len());
            Err(JobError::corrupt(text))
        }
        None => Ok(()),
    }
}

fn difference_in_place(
    left: Span<'_>,
    right: Span<'_>,
    staged: &mut u64,
) -> Result<Option<usize>, OutOfRange> {
    for at in (0..left.len()).step_by(BLOCK_LEN) {
        let len = BLOCK_LEN.min(left.len() - at);
        let (Some(a), Some(b)) = (left.sub(at, len), right.sub(at, len)) else { return Ok(None) };
        if ffi::same_bytes(a, b) {
            continue;
        }
        if let Some(within) = difference_by_windows(a, b, staged)? {
            return Ok(Some(at + within));
        }
    }
    Ok(None)
}

/// The first difference of spans of equal length, seen in private copies, whose bytes are added to `staged`.
fn difference_by_windows(
    left: Span<'_>,
    right: Span<'_>,
    staged: &mut u64,
) -> Result<Option<usize>, OutOfRange> {
    let (mut a, mut b) = ([0; WINDOW_LEN], [0; WINDOW_LEN]);
    for at in (0..left.len()).step_by(WINDOW_LEN) {
        let len = WINDOW_LEN.min(left.len() - at);
        let (a, b) = (a.split_at_mut(len).0, b.split_at_mut(len).0);
        left.copy_to(at, a)?;
        right.copy_to(at, b)?;
        *staged += 2 * len as u64;
        if a != b {
            let within = a.iter().zip(b.iter()).position(|(a, b)| a != b);
            return Ok(within.map(|within| at + within));
        }
    }
    Ok(None)
}

fn part(span: Span<'_>, offset: usize, len: usize) -> Result<Span<'_>, JobError> {
    span.sub(offset, len).ok_or_else(JobError::outside)
}
