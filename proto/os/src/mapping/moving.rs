//! Mappings that take the place of other memory, at once for every reader.
//!
//! `mremap` with a fixed target removes what is there and moves the mapping in under one hold of the process's memory
//! lock. A thread that reads meanwhile either still finds the old pages, or faults, waits for that lock, and finds the
//! new ones. It never sees a hole: that is what the tests of [`crate::adopt`] hammer on.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

use super::{HUGE_FROM, Mapping, mapped_at};
use crate::error::{Attempt, OsError, Result};
use crate::memory::Access;

impl Mapping {
    /// `len` writable bytes somewhere: of `object`, shared, or private and zero. From [`HUGE_FROM`] on they lie in huge
    /// pages as `like` does, so that moving them there moves page tables and not pages one by one.
    ///
    /// The caller has asked [`crate::memory::verify_export`] about `object`, for writing and this length.
    pub(crate) fn beside(like: NonNull<u8>, len: usize, object: Option<BorrowedFd<'_>>) -> Result<Self> {
        if len < HUGE_FROM {
            return match object {
                Some(fd) => Self::map_checked(fd, len, Access::Write),
                None => Self::anonymous(len),
            };
        }
        let what = || format!("{len} bytes");
        let reserve =
            Self::reserve(len.checked_add(HUGE_FROM).ok_or_else(|| OsError::new("mmap", Errno::NOMEM))?)?;
        let shift = like.as_ptr().addr().wrapping_sub(reserve.base.as_ptr().addr()) % HUGE_FROM;
        // SAFETY: U2. shift < HUGE_FROM, and len + HUGE_FROM bytes are reserved.
        let at = unsafe { reserve.base.as_ptr().add(shift) }.cast();
        let protection = ProtFlags::READ.union(ProtFlags::WRITE);
        let mapped = match object {
            Some(fd) => {
                let flags = MapFlags::SHARED.union(MapFlags::FIXED);
                // SAFETY: U2, U3. Only our own reserve is replaced, and the fd was checked.
                unsafe { rustix::mm::mmap(at, len, protection, flags, fd, 0) }
            }
            None => {
                let flags = MapFlags::PRIVATE.union(MapFlags::FIXED);
                // SAFETY: U2. Only our own reserve is replaced.
                unsafe { rustix::mm::mmap_anonymous(at, len, protection, flags) }
            }
        };
        let base = mapped_at(mapped.attempting("mmap", what)?)?;
        reserve.give_back_around(base, len);
        let mapping = Self { base, len, access: Access::Write };
        mapping.ask_for_huge_pages();
        Ok(mapping)
    }

    /// Address space without memory.
    fn reserve(len: usize) -> Result<Self> {
        let flags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);
        // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping that exists.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
        let base = mapped_at(at.attempting("mmap", || format!("{len} bytes of address space"))?)?;
        Ok(Self { base, len, access: Access::Read })
    }

    /// Unmaps all of a reserve but the `len` bytes at `base`, which are somebody else's now.
    fn give_back_around(self, base: NonNull<u8>, len: usize) {
        let before = base.as_ptr().addr() - self.base.as_ptr().addr();
        let (start, whole) = (self.base, self.len);
        std::mem::forget(self);
        if before > 0 {
            drop(Self { base: start, len: before, access: Access::Read });
        }
        let after = whole - before - len;
        if after > 0 {
            // SAFETY: U2. before + len < whole: inside the reserve.
            let rest = unsafe { start.add(before + len) };
            drop(Self { base: rest, len: after, access: Access::Read });
        }
    }

    /// Takes the place of the memory at `target`, which is unmapped. Readers of it see its old contents or those of
    /// this mapping, and never a fault.
    ///
    /// # Errors
    /// The errno of `mremap`, with the mapping; the memory at `target` is then as it was, because the kernel checks
    /// everything before it removes it (what is left is one small allocation, which the kernel does not let fail).
    ///
    /// # Safety
    /// U2: the `self.len()` bytes at `target` are mapped, page aligned, and the caller's to replace; nothing but
    /// their contents is relied on by anybody, and those are in this mapping.
    pub(crate) unsafe fn take_place_of(
        self,
        target: NonNull<u8>,
    ) -> core::result::Result<Self, (Self, OsError)> {
        let (at, len) = (self.base.as_ptr().cast(), self.len);
        // SAFETY: U2. The mapping is ours, and its owner gives the target up.
        let moved =
            unsafe { rustix::mm::mremap_fixed(at, len, len, MremapFlags::MAYMOVE, target.as_ptr().cast()) };
        match moved {
            Ok(_) => {
                let access = self.access;
                // Nothing is mapped at the old place any more.
                std::mem::forget(self);
                Ok(Self { base: target, len, access })
            }
            Err(errno) => {
                let detail = format!("{len} bytes to {:#x}", target.as_ptr().addr());
                Err((self, OsError::with_detail("mremap", errno, detail)))
            }
        }
    }

    /// Maps the pages of `[offset, offset + len)`, and gets those that are not there, as far as the kernel can (Linux
    /// 5.14); else they come when they are used.
    pub(crate) fn populate_part(&self, offset: usize, len: usize, have: Have) -> Result<()> {
        let part = self.span().sub(offset, len);
        let part = part.ok_or_else(|| OsError::new("madvise", Errno::INVAL))?;
        let at = part.as_ptr().cast_mut().cast();
        let advice = match have {
            // Shared memory is mapped writable also by this, and many pages at a time.
            Have::Pages => Advice::LinuxPopulateRead,
            Have::Nothing => Advice::LinuxPopulateWrite,
        };
        loop {
            // SAFETY: U2. The range is inside the mapping, and populating changes no byte.
            let done = unsafe { rustix::mm::madvise(at, len, advice) };
            match done {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                Err(errno) => {
                    let detail = format!("{len} bytes");
                    return Err(OsError::with_detail("madvise(MADV_POPULATE)", errno, detail));
                }
            }
        }
    }
}

/// What a part of a mapping has before it is populated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Have {
    /// All its pages are in the file.
    Pages,
    /// Perhaps none.
    Nothing,
}
