//! Pins: pages that stay in memory while the pinner lives.
//!
//! The keeper maps each committed object, never touches it, and locks it with plain `mlock`, so that pins
//! outlive the broker. `MLOCK_ONFAULT` is not used: on a mapping that was not touched it pins nothing, though
//! `VmLck` says so (FACTS). What is reported is what is really in memory, not what was asked.
//!
//! While pages are locked no other thread of the process can fork or map, so they are locked in pieces.
//!
//! ```text
//!  lock ──► Pin { bytes > 0 }                  locked and measured
//!       └─► Pin { bytes: 0, reason: Some(..) }  RLIMIT_MEMLOCK forbids; the object works, unpinned
//! ```

use std::os::fd::BorrowedFd;

use nix::libc;
use rustix::io::Errno;

use crate::error::{Attempt, OsError, Result};
use crate::mapping::{Mapping, PAGE};
use crate::memory::{Access, verify_mapping};

/// Bytes locked at a time: some tens of milliseconds.
const PIECE: usize = 64 * 1024 * 1024;

/// One object's pages, locked until drop.
#[derive(Debug)]
pub struct Pin {
    bytes: u64,
    reason: Option<OsError>,
    // Unmapping unlocks, so the lock's lifetime is the mapping's.
    _mapping: Option<Mapping>,
}

impl Pin {
    /// Maps `len` bytes of `fd` for reading and locks them. Holes would be allocated and charged here, so only
    /// populated objects are pinned.
    ///
    /// A limit (`RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`, `vm.max_map_count`) is not an error: the pin then holds 0 bytes and
    /// says why.
    ///
    /// # Errors
    /// As [`Mapping::map`]; an errno of `mmap` or `mlock` that is not about a limit.
    pub fn lock(fd: BorrowedFd<'_>, len: u64) -> Result<Self> {
        verify_mapping(fd, len, Access::Read)?;
        let len = usize::try_from(len).map_err(|_| OsError::new("mmap", Errno::OVERFLOW))?;
        let mapping = match Mapping::map_checked(fd, len, Access::Read) {
            // A process may map so many things and no more.
            Err(error) if error.errno() == Errno::NOMEM => {
                let detail =
                    format!("{len} bytes; vm.max_map_count says how many mappings a process may have");
                let reason = OsError::with_detail("mmap", Errno::NOMEM, detail);
                return Ok(Self { bytes: 0, reason: Some(reason), _mapping: None });
            }
            mapped => mapped?,
        };
        match lock_all(&mapping) {
            Ok(()) => {
                let bytes = u64::try_from(resident_bytes(&mapping)?).unwrap_or(0);
                Ok(Self { bytes, reason: None, _mapping: Some(mapping) })
            }
            Err(errno @ (Errno::NOMEM | Errno::AGAIN | Errno::PERM)) => {
                let limit = crate::process::limits::memlock();
                let reason =
                    OsError::with_detail("mlock", errno, format!("{len} bytes, RLIMIT_MEMLOCK {limit}"));
                Ok(Self { bytes: 0, reason: Some(reason), _mapping: None })
            }
            Err(errno) => Err(OsError::with_detail("mlock", errno, format!("{len} bytes"))),
        }
    }

    /// Bytes really locked, measured, rounded to whole pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why nothing is pinned, if nothing is.
    #[must_use]
    pub const fn reason(&self) -> Option<&OsError> {
        self.reason.as_ref()
    }
}

/// Locks a mapping, piece by piece.
fn lock_all(mapping: &Mapping) -> core::result::Result<(), Errno> {
    for offset in (0..mapping.len()).step_by(PIECE) {
        let len = (mapping.len() - offset).min(PIECE);
        let piece = mapping.span().sub(offset, len).ok_or(Errno::INVAL)?;
        // SAFETY: U2. The range is in our own mapping; locking changes no byte of it.
        unsafe { rustix::mm::mlock(piece.as_ptr().cast_mut().cast(), len) }?;
    }
    Ok(())
}

/// Bytes of a mapping that are in memory. `mincore` tells the truth to whoever may write the file.
pub(crate) fn resident_bytes(mapping: &Mapping) -> Result<usize> {
    const PAGES: usize = 2048;
    let mut answers = [0_u8; PAGES];
    let mut pages = 0;
    for offset in (0..mapping.len()).step_by(PAGES * PAGE) {
        let len = (mapping.len() - offset).min(PAGES * PAGE);
        let part = mapping.span().sub(offset, len);
        let part = part.ok_or_else(|| OsError::new("mincore", Errno::INVAL))?;
        // SAFETY: U2, U6. The range is mapped, and `answers` has a byte for each of its at most PAGES pages.
        let done = unsafe { libc::mincore(part.as_ptr().cast_mut().cast(), len, answers.as_mut_ptr()) };
        if done == -1 {
            return Err(std::io::Error::last_os_error()).attempt("mincore");
        }
        pages += answers.iter().take(len.div_ceil(PAGE)).filter(|page| **page & 1 == 1).count();
    }
    Ok(pages * PAGE)
}
