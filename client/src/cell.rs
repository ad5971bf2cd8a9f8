//! Result cells: 64 bytes in which a job leaves what it found out, for the CPU and for later jobs.
//!
//! A job that names a cell writes it before its fence; a later job takes a length or a parameter from it, without the CPU
//! ([`crate::Job::input_from`], [`crate::Job::param_from`]). The CPU reads a cell by copy, after the fence of the
//! job that wrote it: a cell read earlier is old or torn, never unsafe.

use std::time::Duration;

use vgem_os::mapping::Span;
use vgem_proto::ids::Time;
use vgem_proto::layout::result_cell;

use crate::buffer::Buffer;
use crate::error::{LocalError, Result};

/// Result cells in one buffer.
#[derive(Debug)]
pub struct Cells {
    buffer: Buffer,
    count: usize,
}

impl Cells {
    /// Bytes that `count` cells take.
    pub(crate) fn bytes(count: usize) -> Result<u64> {
        let bytes = count.saturating_mul(result_cell::LEN);
        if count == 0 {
            return Err(LocalError::Empty { what: "set of cells" }.into());
        }
        Ok(bytes as u64)
    }

    /// The cells of a buffer that is long enough.
    pub(crate) fn over(buffer: Buffer, count: usize) -> Result<Self> {
        Ok(Self { buffer, count })
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Cell number `index`. One that is not there is refused where it is used.
    #[must_use]
    pub fn at(&self, index: usize) -> CellRef<'_> {
        CellRef { cells: self, index }
    }

    /// What cell number `index` holds now; zeros if there is no such cell.
    #[must_use]
    pub fn read(&self, index: usize) -> Cell {
        self.at(index).read()
    }

    /// The buffer that holds the cells, to hand cells to jobs as data. Its guards do not wait for results.
    #[must_use]
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

/// One cell, as jobs name it.
#[derive(Debug, Clone, Copy)]
pub struct CellRef<'a> {
    pub(crate) cells: &'a Cells,
    index: usize,
}

impl CellRef<'_> {
    /// What it holds now. Read it after the fence of the job that wrote it.
    #[must_use]
    pub fn read(&self) -> Cell {
        if self.index >= self.cells.count {
            return Cell { words: [0; result_cell::WORDS] };
        }
        Cell::read(self.cells.buffer.shared().span(), self.index * result_cell::LEN)
    }

    /// Where it begins in its buffer, if it is there.
    pub(crate) fn offset(&self) -> Result<u64, LocalError> {
        let (count, len) = (self.cells.count as u64, result_cell::LEN as u64);
        let offset = (self.index as u64).saturating_mul(len);
        if self.index >= self.cells.count {
            return Err(LocalError::OutOfRange { offset, len, available: count * len });
        }
        Ok(offset)
    }
}

/// A copy of a result cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    words: [u64; result_cell::WORDS],
}

impl Cell {
    /// The cell that begins at `offset`, a multiple of 64 inside of `span`: each word is read once.
    pub(crate) fn read(span: Span<'_>, offset: usize) -> Self {
        let mut words = [0; result_cell::WORDS];
        for (number, word) in words.iter_mut().enumerate() {
            // A word inside a cell inside the mapping is there and aligned.
            *word = span.read_u64(offset + 8 * number).unwrap_or(0);
        }
        Self { words }
    }

    /// Bytes produced.
    #[must_use]
    pub const fn produced(&self) -> u64 {
        self.words[result_cell::PRODUCED]
    }

    /// The number the operation defines; its description says what it means.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.words[result_cell::VALUE]
    }

    /// When the engine began.
    #[must_use]
    pub const fn started(&self) -> Time {
        Time(self.words[result_cell::STARTED])
    }

    /// When the engine ended.
    #[must_use]
    pub const fn ended(&self) -> Time {
        Time(self.words[result_cell::ENDED])
    }

    /// How long the engine worked.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.ended().since(self.started()))
    }

    /// The digest: 32 bytes, shorter ones followed by zeros.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        let words = self.words.iter().skip(result_cell::DIGEST);
        for (bytes, word) in digest.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// A word of a cell that another job takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellWord {
    /// Bytes produced.
    Produced,
    /// The number the operation defines.
    Value,
}

impl CellWord {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Produced => 0,
            Self::Value => 1,
        }
    }
}

const _: () = assert!(result_cell::PRODUCED == 0 && result_cell::VALUE == 1);
