//! How bytes are moved: in place where both operands are of the job's own domain, else through a private window.
//!
//! A window does not make a copy any safer, since a copy reads each byte once and looks at none. It makes the rule
//! one without exceptions: no instruction works on memory of another domain but those that fill and empty windows,
//! and the bytes of another domain are counted.

use vgem_driver::mapping::{CopyStyle, Span, SpanMut, copy_span};
use vgem_driver::window::copy_through;
use vgem_driver::{JobError, Staging, Task};

/// Bytes of a window: stays in the second-level cache, and is long enough to leave it past the cache.
pub(crate) const WINDOW_LEN: usize = 64 * 1024;

/// Moves bytes between two operands of a job, piece by piece.
pub(crate) enum Mover {
    /// Where they lie, large pieces with stores that go past the cache.
    InPlace,
    /// Through a window.
    Windows { window: Box<[u8]>, staged: u64 },
}

impl Mover {
    /// Whether the staging of both operands asks for no window.
    #[inline]
    pub(crate) fn is_in_place(task: &Task<'_>, input: u8, output: u8) -> bool {
        [input, output].iter().all(|operand| task.staging(*operand) == Staging::InPlace)
    }

    /// As the staging of both operands asks for.
    pub(crate) fn between(task: &Task<'_>, input: u8, output: u8) -> Self {
        match Self::is_in_place(task, input, output) {
            true => Self::InPlace,
            false => {
                // No piece is longer than the input.
                let longest = task.input(input).map_or(WINDOW_LEN, |input| input.len());
                Self::Windows { window: vec![0; longest.clamp(1, WINDOW_LEN)].into(), staged: 0 }
            }
        }
    }

    /// Copies one contiguous piece; the spans may overlap.
    pub(crate) fn copy(&mut self, into: SpanMut<'_>, from: Span<'_>) -> Result<(), JobError> {
        match self {
            Self::InPlace => copy_span(into, from, CopyStyle::Streaming)?,
            Self::Windows { window, staged } => *staged += copy_through(into, from, window)?,
        }
        Ok(())
    }

    /// Copies `len` bytes between places that were checked.
    pub(crate) fn copy_piece(
        &mut self,
        (into, into_at): (SpanMut<'_>, usize),
        (from, from_at): (Span<'_>, usize),
        len: usize,
    ) -> Result<(), JobError> {
        let into = into.sub(into_at, len).ok_or_else(JobError::outside)?;
        self.copy(into, from.sub(from_at, len).ok_or_else(JobError::outside)?)
    }

    /// Bytes that went through windows.
    pub(crate) fn staged(&self) -> u64 {
        match self {
            Self::InPlace => 0,
            Self::Windows { staged, .. } => *staged,
        }
    }
}
