//! Windows: private, cache-sized pieces of an operand.
//!
//! An engine that needs Rust slices, or that must not see memory change under it, reads an operand through a
//! [`WindowReader`] and writes one through a [`WindowWriter`]. Each byte is copied once, into or out of memory
//! that only this process can touch; the copies are counted as staged bytes.

use std::io::{self, Read, Write};

use vgem_os::mapping::{Span, SpanMut};

/// Bytes of a window: small enough to stay in a core's second-level cache beside the engine's own tables.
pub const WINDOW_LEN: usize = 128 * 1024;

/// Reads an operand front to back, each byte once.
#[derive(Debug)]
pub struct WindowReader<'a> {
    span: Span<'a>,
    at: usize,
}

impl<'a> WindowReader<'a> {
    /// A reader of the whole operand.
    #[must_use]
    pub fn new(span: Span<'a>) -> Self {
        Self { span, at: 0 }
    }

    /// Bytes read so far; each was staged once.
    #[must_use]
    pub fn staged(&self) -> u64 {
        self.at as u64
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.span.len() - self.at
    }
}

impl Read for WindowReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.remaining());
        if let Some(part) = buf.get_mut(..len) {
            self.span.copy_to(self.at, part).map_err(io::Error::other)?;
        }
        self.at += len;
        Ok(len)
    }
}

/// Writes an operand front to back, each byte once.
#[derive(Debug)]
pub struct WindowWriter<'a> {
    span: SpanMut<'a>,
    at: usize,
    wanted: u64,
}

impl<'a> WindowWriter<'a> {
    /// A writer of the whole operand.
    #[must_use]
    pub fn new(span: SpanMut<'a>) -> Self {
        Self { span, at: 0, wanted: 0 }
    }

    /// Bytes written so far; each was staged once.
    #[must_use]
    pub fn staged(&self) -> u64 {
        self.at as u64
    }

    /// Bytes that were offered, also those that did not fit.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether everything fit.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.wanted == self.at as u64
    }
}

impl Write for WindowWriter<'_> {
    /// Takes what fits; the first byte that does not is [`io::ErrorKind::WriteZero`].
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.wanted = self.wanted.saturating_add(buf.len() as u64);
        let len = buf.len().min(self.span.len() - self.at);
        if len == 0 && !buf.is_empty() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the output operand is full"));
        }
        if let Some(part) = buf.get(..len) {
            self.span.copy_from(self.at, part).map_err(io::Error::other)?;
        }
        self.at += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
