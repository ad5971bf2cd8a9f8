//! What the three engines share: how operands are reached.

use vgem_driver::mapping::{CopyStyle, copy_span};
use vgem_driver::scratch::{Private, Scratch};
use vgem_driver::{JobError, Span, SpanMut};
use vgem_proto::error::ErrorCode;

/// Longest piece of private memory for one operand, bytes. It bounds what an instance can be made to take.
pub(crate) const PRIVATE_LEN_MAX: usize = 1 << 30;

/// How the operands of a job may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Through raw pointers where the format allows it.
    InPlace,
    /// Through private memory in any case.
    Private,
}

/// The operands of a job, and what the engine has to say about it in the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports<'a> {
    /// Where the bytes come from.
    pub(crate) input: Span<'a>,
    /// How they may be read.
    pub(crate) input_reach: Reach,
    /// Where they go.
    pub(crate) output: SpanMut<'a>,
    /// How they may be written.
    pub(crate) output_reach: Reach,
    /// Whether the two share bytes: nothing may be written then before all has been read.
    pub(crate) overlap: bool,
}

/// What an engine has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// Bytes in the output.
    pub(crate) len: usize,
    /// Bytes copied through private memory.
    pub(crate) staged: u64,
}

/// The operand itself, or a private copy of it; and the bytes that were staged for that.
pub(crate) fn source<'s>(
    input: Span<'s>,
    reach: Reach,
    scratch: &'s mut Scratch,
) -> Result<(Span<'s>, u64), JobError> {
    if reach == Reach::InPlace {
        return Ok((input, 0));
    }
    Ok((private_copy(input, scratch)?.as_span(), input.len() as u64))
}

/// A private copy of the operand.
pub(crate) fn private_copy<'s>(input: Span<'_>, scratch: &'s mut Scratch) -> Result<Private<'s>, JobError> {
    check_private(input.len())?;
    scratch.copy_of(input)
}

/// Copies private bytes into the output from `at` on.
pub(crate) fn deliver(output: SpanMut<'_>, at: usize, private: Span<'_>) -> Result<(), JobError> {
    let place = output.sub(at, private.len()).ok_or_else(|| {
        let wanted = at.saturating_add(private.len());
        JobError::too_small(format!("at least {wanted} bytes were produced; the output has {}", output.len()))
    })?;
    Ok(copy_span(place, private, CopyStyle::Streaming)?)
}

/// Refuses what would need more private memory than an executor may take.
pub(crate) fn check_private(len: usize) -> Result<(), JobError> {
    if len <= PRIVATE_LEN_MAX {
        return Ok(());
    }
    let text = format!(
        "{len} bytes would have to go through private memory at once, of which there are at most {PRIVATE_LEN_MAX}"
    );
    Err(JobError::new(ErrorCode::Unsupported, text))
}
