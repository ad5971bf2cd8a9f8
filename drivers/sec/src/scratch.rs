//! Private memory of an executor: reused from job to job, grown on demand, given back when it was a giant's.
//!
//! What it is: one anonymous mapping, so its pages come with the first touch and its start is a page's start. What
//! it is not: zeroed between jobs. It belongs to an instance that serves one domain, and every byte read from it
//! was written by the same job.

use vgem_driver::mapping::{Mapping, PAGE};
use vgem_driver::{JobError, SpanMut};
use vgem_proto::error::ErrorCode;

/// Memory up to this length stays with its executor between jobs, bytes.
pub const KEEP_LEN: usize = 16 * 1024 * 1024;

/// Private memory, reused.
#[derive(Debug, Default)]
pub struct Scratch {
    memory: Option<Mapping>,
}

impl Scratch {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: None }
    }

    /// `len` bytes of private memory with any content, at a page's start.
    ///
    /// # Errors
    /// [`ErrorCode::DriverFault`] if the system has no memory.
    pub fn at_least(&mut self, len: usize) -> Result<SpanMut<'_>, JobError> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < len) {
            // The old memory goes first, so that the two never add up.
            self.memory = None;
            let wanted = len.max(1).next_multiple_of(PAGE);
            self.memory = Some(Mapping::anonymous(wanted).map_err(|error| no_memory(len, &error))?);
        }
        let whole = self
            .memory
            .as_ref()
            .map(Mapping::span_mut)
            .transpose()
            .map_err(|error| no_memory(len, &error))?;
        whole.and_then(|whole| whole.sub(0, len)).ok_or_else(|| no_memory(len, &"it is too short"))
    }

    /// Gives memory beyond [`KEEP_LEN`] back to the system. Called when a job has ended.
    pub fn settle(&mut self) {
        if self.memory.as_ref().is_some_and(|memory| memory.len() > KEEP_LEN) {
            self.memory = None;
        }
    }
}

fn no_memory(len: usize, why: &dyn std::fmt::Display) -> JobError {
    JobError::new(ErrorCode::DriverFault, format!("no private memory of {len} bytes: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused_by_a_job_of_the_same_length() {
        let mut scratch = Scratch::new();
        let first = scratch.at_least(100_000).expect("memory").as_ptr();
        scratch.settle();
        assert_eq!(scratch.at_least(90_000).expect("memory").as_ptr(), first);
    }

    #[test]
    fn memory_of_a_giant_is_given_back() {
        let mut scratch = Scratch::new();
        scratch.at_least(KEEP_LEN + 1).expect("memory");
        scratch.settle();
        assert!(scratch.memory.is_none());
    }
}
