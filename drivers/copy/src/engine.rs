//! The engine: one function per operation, no state.

use vgem_driver::mapping::{CopyStyle, copy_span};
use vgem_driver::window::fill_through;
use vgem_driver::{Engine, JobError, Staging, Task};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

use crate::description::{self, copy, fill, op};
use crate::mover::{Mover, WINDOW_LEN};
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
    if Mover::is_in_place(task, copy::INPUT, copy::OUTPUT) {
        copy_span(into, input, CopyStyle::Streaming)?;
        task.set_len(input.len() as u64);
        return Ok(());
    }
    let mut mover = Mover::between(task, copy::INPUT, copy::OUTPUT);
    mover.copy(into, input)?;
    task.add_staged(mover.staged());
    task.set_len(input.len() as u64);
    Ok(())
}

fn fill_all(task: &mut Task<'_>) -> Result<(), JobError> {
    let output = task.output(fill::OUTPUT)?;
    let value = task.number(fill::BYTE);
    let byte = u8::try_from(value)
        .map_err(|_| JobError::new(ErrorCode::BadParameter, format!("byte {value}; 0 to 255 are bytes")))?;
    match task.staging(fill::OUTPUT) {
        Staging::InPlace => output.fill(byte),
        Staging::Windows => {
            let mut window = vec![0; output.len().clamp(1, WINDOW_LEN)];
            task.add_staged(fill_through(output, byte, &mut window)?);
        }
    }
    task.set_len(output.len() as u64);
    Ok(())
}

/// The output is shorter than what is to be put into it.
pub(crate) fn too_small(needed: usize, available: usize) -> JobError {
    JobError::too_small(format!("{needed} bytes do not fit into the output of {available} bytes"))
}
