//! CRC-32C over windows: each byte is copied once into private memory that stays in the first-level cache.

use crc_fast::{CrcAlgorithm, Digest};
use vgem_driver::window::each_window;
use vgem_driver::{JobError, Task};

use crate::description::crc32c;

/// Bytes of a window. Small enough to leave the operand's own lines in the cache.
const WINDOW_LEN: usize = 16 * 1024;

/// Runs one `crc32c` job.
pub(crate) fn run(task: &mut Task<'_>) -> Result<(), JobError> {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut window = [0; WINDOW_LEN];
    let summed = each_window(task.input(crc32c::INPUT)?, &mut window, |piece| digest.update(piece))?;
    task.add_staged(summed);
    task.set_len(summed);
    task.set_value(digest.finalize());
    Ok(())
}
