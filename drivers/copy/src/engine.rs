//! The engine: one function per operation, no state.

use vgem_driver::mapping::{CopyStyle, OutOfRange, Span, SpanMut, copy_span};
use vgem_driver::{Engine, JobError, Task};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

use crate::description::{self, copy, fill, op};
use crate::{checksum, compare, pieces};

/// Jobs up to this length are run by the thread that receives them, bytes: they take about a microsecond.
const INLINE_BYTES: u64 = 16 * 1024;

/// The `copy` device. It keeps nothing between jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyEngine;

impl Engine for CopyEngine {
    fn description(&self) -> Description {
        description::describe()
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        match task.op() {
            op::COPY => copy_all(task),
            op::FILL => fill_all(task),
            op::COMPARE => compare::run(task),
            op::CRC32C => checksum::run(task),
            op::COPY2D => pieces::copy2d(task),
            op::GATHER => pieces::gather(task),
            op::SCATTER => pieces::scatter(task),
            other => {
                Err(JobError::new(ErrorCode::NoSuchOperation, format!("operation {other}; copy has 0 to 6")))
            }
        }
    }

    fn inline_bytes(&self, op: u16) -> u64 {
        match op {
            op::COPY | op::FILL => INLINE_BYTES,
            _ => 0,
        }
    }
}

fn copy_all(task: &mut Task<'_>) -> Result<(), JobError> {
    let input = task.input(copy::INPUT)?;
    let output = task.output(copy::OUTPUT)?;
    let into = output.sub(0, input.len()).ok_or_else(|| too_small(input.len(), output.len()))?;
    move_bytes(into, input)?;
    task.set_len(input.len() as u64);
    Ok(())
}

fn fill_all(task: &mut Task<'_>) -> Result<(), JobError> {
    let output = task.output(fill::OUTPUT)?;
    let value = task.number(fill::BYTE);
    let byte = u8::try_from(value)
        .map_err(|_| JobError::new(ErrorCode::BadParameter, format!("byte {value}; 0 to 255 are bytes")))?;
    output.fill(byte);
    task.set_len(output.len() as u64);
    Ok(())
}

/// Copies one contiguous piece; the spans may overlap.
pub(crate) fn move_bytes(into: SpanMut<'_>, from: Span<'_>) -> Result<(), JobError> {
    copy_span(into, from, CopyStyle::Streaming).map_err(out_of_range)
}

/// The output is shorter than what is to be put into it.
pub(crate) fn too_small(needed: usize, available: usize) -> JobError {
    let text = format!("{needed} bytes do not fit into the output of {available} bytes");
    JobError::new(ErrorCode::OutputTooSmall, text)
}

/// A range check of the memory layer that our own check should have come before.
pub(crate) fn out_of_range(error: OutOfRange) -> JobError {
    JobError::new(ErrorCode::DriverFault, error.to_string())
}
