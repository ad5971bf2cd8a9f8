//! Copies in pieces: rows of a rectangle, and ranges named by an index.
//!
//! All pieces are checked before the first is copied. Each piece is moved by itself; where operands overlap, a
//! later piece sees what an earlier one wrote.

use vgem_driver::{JobError, Task};
use vgem_proto::error::ErrorCode;

use crate::description::{INDEX_ENTRY_LEN, INDEX_LEN, copy2d, indexed};
use crate::engine::too_small;
use crate::mover::Mover;

/// Runs one `copy2d` job.
pub(crate) fn copy2d(task: &mut Task<'_>) -> Result<(), JobError> {
    let (input, output) = (task.input(copy2d::INPUT)?, task.output(copy2d::OUTPUT)?);
    let width = size(task, copy2d::WIDTH, "width")?;
    let height = size(task, copy2d::HEIGHT, "height")?;
    let src =
        Rows::check(input.len(), width, height, size(task, copy2d::SRC_STRIDE, "src_stride")?, "input")?;
    let dst =
        Rows::check(output.len(), width, height, size(task, copy2d::DST_STRIDE, "dst_stride")?, "output")?;
    let mut mover = Mover::between(task, copy2d::INPUT, copy2d::OUTPUT);
    if src.stride == width && dst.stride == width {
        mover.copy_piece((output, 0), (input, 0), width * height)?;
    } else {
        for row in 0..height {
            mover.copy_piece((output, row * dst.stride), (input, row * src.stride), width)?;
        }
    }
    task.add_staged(mover.staged());
    task.set_len((width * height) as u64);
    Ok(())
}

/// Runs one `gather` job: indexed ranges of the source, one after the other.
pub(crate) fn gather(task: &mut Task<'_>) -> Result<(), JobError> {
    let (source, output) = (task.input(indexed::SOURCE)?, task.output(indexed::OUTPUT)?);
    let (ranges, total) = read_index(task, source.len(), "source")?;
    if total > output.len() {
        return Err(too_small(total, output.len()));
    }
    let mut mover = Mover::between(task, indexed::SOURCE, indexed::OUTPUT);
    let mut at = 0;
    for range in ranges {
        mover.copy_piece((output, at), (source, range.offset), range.len)?;
        at += range.len;
    }
    task.add_staged(mover.staged());
    task.set_len(at as u64);
    Ok(())
}

/// Runs one `scatter` job: the source from its start, to the indexed ranges of the output.
pub(crate) fn scatter(task: &mut Task<'_>) -> Result<(), JobError> {
    let (source, output) = (task.input(indexed::SOURCE)?, task.output(indexed::OUTPUT)?);
    let (ranges, total) = read_index(task, output.len(), "output")?;
    if total > source.len() {
        let text = format!("the index names {total} bytes, the source has {}", source.len());
        return Err(JobError::new(ErrorCode::CorruptInput, text));
    }
    let mut mover = Mover::between(task, indexed::SOURCE, indexed::OUTPUT);
    let mut at = 0;
    for range in ranges {
        mover.copy_piece((output, range.offset), (source, at), range.len)?;
        at += range.len;
    }
    task.add_staged(mover.staged());
    task.set_len(at as u64);
    Ok(())
}

/// Rows that lie inside their operand: `row * stride + width` does not overflow and is at most its length, for
/// every row.
struct Rows {
    stride: usize,
}

impl Rows {
    fn check(
        len: usize,
        width: usize,
        height: usize,
        stride: usize,
        operand: &str,
    ) -> Result<Self, JobError> {
        if stride < width {
            let text =
                format!("rows of {width} bytes at a stride of {stride} bytes overlap in the {operand}");
            return Err(JobError::new(ErrorCode::BadParameter, text));
        }
        let end = (height.checked_sub(1)).and_then(|last| last.checked_mul(stride)?.checked_add(width));
        match end {
            Some(end) if end <= len => Ok(Self { stride }),
            _ => {
                let text = format!(
                    "{height} rows of {width} bytes at a stride of {stride} leave the {operand} of {len} bytes"
                );
                Err(JobError::new(ErrorCode::OutOfRange, text))
            }
        }
    }
}

/// One entry of an index, known to lie inside the operand it is about.
#[derive(Debug, Clone, Copy)]
struct Range {
    offset: usize,
    len: usize,
}

/// Reads the index once and checks each entry against `limit` bytes; returns the sum of the lengths too.
fn read_index(task: &mut Task<'_>, limit: usize, operand: &str) -> Result<(Vec<Range>, usize), JobError> {
    let index = task.input(indexed::INDEX)?;
    if index.len() as u64 > INDEX_LEN || !index.len().is_multiple_of(INDEX_ENTRY_LEN) {
        let text =
            format!("an index of {} bytes; up to {INDEX_LEN} in entries of {INDEX_ENTRY_LEN}", index.len());
        return Err(JobError::new(ErrorCode::OutOfRange, text));
    }
    let mut private = vec![0; index.len()];
    index.copy_to(0, &mut private)?;
    task.add_staged(private.len() as u64);
    let mut total = 0_usize;
    let mut ranges = Vec::with_capacity(private.len() / INDEX_ENTRY_LEN);
    for (number, entry) in private.as_chunks::<INDEX_ENTRY_LEN>().0.iter().enumerate() {
        let (offset, len) = words(entry);
        let range = checked_range(offset, len, limit).ok_or_else(|| {
            let text =
                format!("index entry {number}: {len} bytes at {offset} leave the {operand} of {limit} bytes");
            JobError::new(ErrorCode::CorruptInput, text)
        })?;
        total = total.checked_add(range.len).ok_or_else(|| {
            JobError::new(ErrorCode::CorruptInput, format!("index entry {number}: the lengths overflow"))
        })?;
        ranges.push(range);
    }
    Ok((ranges, total))
}

fn words(entry: &[u8; INDEX_ENTRY_LEN]) -> (u64, u64) {
    let both = u128::from_le_bytes(*entry);
    let offset = u64::try_from(both & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    let len = u64::try_from(both >> 64).unwrap_or(u64::MAX);
    (offset, len)
}

fn checked_range(offset: u64, len: u64, limit: usize) -> Option<Range> {
    let end = offset.checked_add(len)?;
    if end > limit as u64 {
        return None;
    }
    Some(Range { offset: usize::try_from(offset).ok()?, len: usize::try_from(len).ok()? })
}

fn size(task: &Task<'_>, param: u16, name: &str) -> Result<usize, JobError> {
    match task.try_number(param).map(usize::try_from) {
        Some(Ok(value)) if value > 0 => Ok(value),
        _ => Err(JobError::new(ErrorCode::BadParameter, format!("{name} must be given, and be at least 1"))),
    }
}
