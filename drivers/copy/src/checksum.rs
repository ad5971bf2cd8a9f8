//! CRC-32C over windows: each byte is copied once into private memory that stays in the first-level cache.

use std::io::Read as _;

use crc_fast::{CrcAlgorithm, Digest};
use vgem_driver::window::WindowReader;
use vgem_driver::{JobError, Task};
use vgem_proto::error::ErrorCode;

use crate::description::crc32c;

/// Bytes of a window. Small enough to leave the operand's own lines in the cache.
const WINDOW_LEN: usize = 16 * 1024;

/// Runs one `crc32c` job.
pub(crate) fn run(task: &mut Task<'_>) -> Result<(), JobError> {
    let mut reader = WindowReader::new(task.input(crc32c::INPUT)?);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut window = [0; WINDOW_LEN];
    loop {
        let len = reader.read(&mut window).map_err(fault)?;
        match window.get(..len) {
            Some([]) | None => break,
            Some(bytes) => digest.update(bytes),
        }
    }
    task.add_staged(reader.staged());
    task.set_len(reader.staged());
    task.set_value(digest.finalize());
    Ok(())
}

fn fault(error: std::io::Error) -> JobError {
    JobError::new(ErrorCode::DriverFault, error.to_string())
}
