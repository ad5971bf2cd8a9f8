//! Exports in a process that speaks to no broker: mapped for reading, and read by copy.
//!
//! Whoever has an fd of an export has the memory, as long as it keeps the fd or a mapping, and is charged for nothing: the
//! object's domain is. It knows of no jobs and no fences, so what it copies may be changing just then; somebody has to
//! tell it when to look. To wait for devices, import the fd ([`crate::Client::import_fd`]).

use std::os::fd::AsFd;

use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory;

use crate::deadline::Deadline;
use crate::error::{Error, LocalError, Result};
use crate::transfer;

/// An export, mapped for reading.
#[derive(Debug)]
pub struct MappedExport {
    mapping: Mapping,
    len: u64,
}

impl MappedExport {
    /// Maps an export, which was checked to be of a size that cannot change. The fd may be closed afterwards.
    ///
    /// # Errors
    /// [`Error::System`], in words, if it is no sealed memory, or cannot be mapped.
    pub fn map(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd();
        let len = memory::verify_export(fd, 1, memory::Access::Read)?;
        let whole = usize::try_from(len).map_err(|_| Error::Protocol(format!("an object of {len} bytes")))?;
        let mapping = Mapping::map(fd, whole, memory::Access::Read, Populate::Lazy)?;
        Ok(Self { mapping, len })
    }

    /// Maps the next buffer that another process sends over `socket` ([`crate::Buffer::send`]), as long as it was there.
    /// What is unfinished on it, nobody says here.
    ///
    /// # Errors
    /// [`Error::Transfer`] if something else comes; [`Error::Timeout`]; as [`MappedExport::map`].
    pub fn receive(socket: impl AsFd, deadline: impl Into<Deadline>) -> Result<Self> {
        let (header, fd) = transfer::receive(socket.as_fd(), deadline.into(), || true)?;
        let mapped = Self::map(fd)?;
        if header.len > mapped.len {
            return Err(LocalError::OutOfRange { offset: 0, len: header.len, available: mapped.len }.into());
        }
        Ok(Self { len: header.len, ..mapped })
    }

    /// Length, bytes: whole pages, unless its sender said less.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has at least one byte")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Copies from `offset` on into `bytes`, as they are now.
    ///
    /// # Errors
    /// [`LocalError::OutOfRange`].
    pub fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let out = || LocalError::OutOfRange { offset, len: bytes.len() as u64, available: self.len() };
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(out().into());
        }
        let start = usize::try_from(offset).map_err(|_| out())?;
        match self.mapping.span().sub(start, bytes.len()) {
            Some(part) => part.copy_to(0, bytes).map_err(|_| Error::Protocol("a part of a mapping".into())),
            None => Err(out().into()),
        }
    }
}
