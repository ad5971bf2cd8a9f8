//! The engine: which operation a task asks for, and what the device says of itself.

use vgem_driver::{Engine, JobError, Options, Task};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

use crate::description::{EXECUTORS, description, op};
use crate::{aead, digest};

/// Jobs up to this length, bytes over all operands, take less time than waking an executor: about 3 us.
const INLINE_LEN: u64 = 4096;

/// The `sec` device.
#[derive(Debug, Clone, Copy)]
pub struct SecEngine {
    executors: u16,
}

impl SecEngine {
    /// An engine with as many executors as the options say; without a word, [`EXECUTORS`] or one per core if
    /// there are fewer cores.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self { executors: options.executors_or(EXECUTORS) }
    }
}

impl Engine for SecEngine {
    fn description(&self) -> Description {
        description(self.executors)
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        match task.op() {
            op::SEAL => aead::seal(task),
            op::OPEN => aead::open(task),
            op::SHA256 => digest::sha256(task),
            op::HMAC_SHA256 => digest::hmac_sha256(task),
            op::BLAKE3 => digest::blake3(task),
            other => Err(JobError::new(ErrorCode::NoSuchOperation, format!("sec has no operation {other}"))),
        }
    }

    fn inline_bytes(&self, _op: u16) -> u64 {
        INLINE_LEN
    }
}
