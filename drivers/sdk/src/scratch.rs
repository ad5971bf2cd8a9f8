//! Private memory of an executor: reused from job to job, grown on demand, given back when it was a giant's.
//!
//! What it is: one anonymous mapping, so its pages come with the first touch and its start is a page's start. What
//! it is not: zeroed between jobs. It belongs to an instance that serves one domain, and every byte read from it
//! was written by the same job.
//!
//! Invariant: a [`Private`] lies in memory that no other process maps. Nothing but [`Scratch`] makes one.

use vgem_os::mapping::{CopyStyle, Mapping, PAGE, Span, SpanMut, copy_span};

use crate::engine::JobError;

/// Memory up to this length stays with its executor between jobs, bytes.
pub const KEEP_LEN: usize = 16 * 1024 * 1024;

/// Proof that memory is private: made by [`Scratch`] only, for as long as its borrow.
///
/// Code that cannot bear a peer that writes takes this instead of a span.
#[derive(Debug, Clone, Copy)]
pub struct Private<'a>(SpanMut<'a>);

impl<'a> Private<'a> {
    /// The memory, for reading.
    #[must_use]
    pub const fn as_span(self) -> Span<'a> {
        self.0.as_span()
    }

    /// The memory, for writing.
    #[must_use]
    pub const fn as_span_mut(self) -> SpanMut<'a> {
        self.0
    }

    /// `len` bytes from `offset` on, or nothing if they are not all inside.
    #[must_use]
    pub fn sub(self, offset: usize, len: usize) -> Option<Self> {
        self.0.sub(offset, len).map(Self)
    }
}

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
    /// [`ErrorCode::DriverFault`](vgem_proto::error::ErrorCode::DriverFault) if the system has no memory.
    pub fn at_least(&mut self, len: usize) -> Result<Private<'_>, JobError> {
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
        whole
            .and_then(|whole| whole.sub(0, len))
            .map(Private)
            .ok_or_else(|| no_memory(len, &"it is too short"))
    }

    /// A private copy of an operand: each byte is read once.
    ///
    /// # Errors
    /// As [`Scratch::at_least`].
    pub fn copy_of(&mut self, operand: Span<'_>) -> Result<Private<'_>, JobError> {
        let private = self.at_least(operand.len())?;
        copy_span(private.as_span_mut(), operand, CopyStyle::Plain)?;
        Ok(private)
    }

    /// Gives memory beyond [`KEEP_LEN`] back to the system. Called when a job has ended.
    pub fn settle(&mut self) {
        if self.memory.as_ref().is_some_and(|memory| memory.len() > KEEP_LEN) {
            self.memory = None;
        }
    }
}

fn no_memory(len: usize, why: &dyn std::fmt::Display) -> JobError {
    JobError::fault(format!("no private memory of {len} bytes: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused_by_a_job_of_the_same_length() {
        let mut scratch = Scratch::new();
        let first = scratch.at_least(100_000).expect("memory").as_span().as_ptr();
        scratch.settle();
        assert_eq!(scratch.at_least(90_000).expect("memory").as_span().as_ptr(), first);
    }

    #[test]
    fn memory_of_a_giant_is_given_back() {
        let mut scratch = Scratch::new();
        scratch.at_least(KEEP_LEN + 1).expect("memory");
        scratch.settle();
        assert!(scratch.memory.is_none());
    }

    #[test]
    fn a_private_copy_keeps_its_bytes_when_the_operand_changes() {
        let mut operand = [3; 5000];
        let operand = SpanMut::of_slice(&mut operand);
        let mut scratch = Scratch::new();
        let copy = scratch.copy_of(operand.as_span()).expect("memory");
        operand.fill(4);
        let mut seen = [0; 5000];
        copy.as_span().copy_to(0, &mut seen).expect("all of it");
        assert_eq!(seen, [3; 5000]);
    }

    #[test]
    fn private_memory_begins_at_a_page_and_grows_for_a_longer_job() {
        let mut scratch = Scratch::new();
        for len in [0, 1, PAGE, 3 * PAGE + 1] {
            let private = scratch.at_least(len).expect("memory").as_span();
            assert_eq!((private.len(), private.as_ptr().addr() % PAGE), (len, 0));
        }
    }
}
