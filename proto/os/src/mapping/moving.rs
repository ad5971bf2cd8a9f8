//! Mappings that take the place of other memory, at once for every reader.
//!
//! `mremap` with a fixed target removes what is there and moves the mapping in under one hold of the process's memory
//! lock. A thread that reads meanwhile either still finds the old pages, or faults, waits for that lock, and finds the
//! new ones. It never sees a hole: that is what the tests of [`crate::adopt`] hammer on.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::libc;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

use super::{HUGE_FROM, Mapping, PAGE, mapped_at};
use crate::error::{Attempt, OsError, Result};
use crate::memory::Access;

impl Mapping {
    /// `len` writable bytes somewhere: of `object`, shared, or private and zero. From [`HUGE_FROM`] on they lie in huge
    /// pages as `like` does, so that moving them there moves page tables and not pages one by one.
    ///
    /// The caller has asked [`crate::memory::verify_mapping`] about `object`, for writing and this length.
    pub(crate) fn beside(like: NonNull<u8>, len: usize, object: Option<BorrowedFd<'_>>) -> Result<Self> {
        if len < HUGE_FROM {
            return match object {
                Some(fd) => Self::map_checked(fd, len, Access::Write),
                None => Self::anonymous(len),
            };
        }
        let at = Self::room_like(like, len)?;
        let protection = ProtFlags::READ.union(ProtFlags::WRITE);
        let mapped = match object {
            // SAFETY: U2, U3. A hint without MAP_FIXED replaces no mapping that exists, and the fd was checked.
            Some(fd) => unsafe { rustix::mm::mmap(at, len, protection, MapFlags::SHARED, fd, 0) },
            // SAFETY: U2. A hint without MAP_FIXED replaces no mapping that exists.
            None => unsafe { rustix::mm::mmap_anonymous(at, len, protection, MapFlags::PRIVATE) },
        };
        let base = mapped_at(mapped.attempting("mmap", || format!("{len} bytes"))?)?;
        let mapping = Self { base, len, access: Access::Write };
        mapping.ask_for_huge_pages();
        Ok(mapping)
    }

    /// An address with room for `len` bytes, as far into a huge page as `like` is. It is a hint: another thread may
    /// take the room first, and what is mapped then lies elsewhere and moves more slowly. Nothing is held and replaced
    /// with `MAP_FIXED`: where that fails, older kernels have unmapped what was held, another thread may be there, and
    /// giving the rest back would unmap what is its.
    fn room_like(like: NonNull<u8>, len: usize) -> Result<*mut c_void> {
        let room = len.checked_add(HUGE_FROM).ok_or_else(|| OsError::new("mmap", Errno::NOMEM))?;
        let flags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);
        // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping that exists.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags) };
        let base = mapped_at(at.attempting("mmap", || format!("{room} bytes of address space"))?)?;
        let found = Self { base, len: room, access: Access::Read };
        let shift = like.as_ptr().addr().wrapping_sub(found.base.as_ptr().addr()) % HUGE_FROM;
        Ok(found.base.as_ptr().wrapping_add(shift).cast())
    }

    /// Takes the place of the memory at `target`, which is unmapped. Readers of it see its old contents or those of
    /// this mapping, and never a fault.
    ///
    /// # Errors
    /// The errno of `mremap`, with the mapping; the memory at `target` is then as it was, because the kernel checks
    /// everything before it removes it. What is left are small allocations, which fail only where a cgroup is full and
    /// none of its processes may be killed for it; then what was at `target` is gone, and this ends the process.
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
                if errno == Errno::NOMEM && !is_mapped(target, len) {
                    // Pointers into it are relied on, and another thread's memory may come to lie there any moment.
                    std::process::abort();
                }
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

/// Whether every page of the `len` bytes at `start` is mapped, as far as the kernel says; of 0 bytes, yes.
fn is_mapped(start: NonNull<u8>, len: usize) -> bool {
    const PAGES: usize = 2048;
    let mut answers = [0_u8; PAGES];
    (0..len).step_by(PAGES * PAGE).all(|offset| {
        let part = (len - offset).min(PAGES * PAGE);
        let at = start.as_ptr().wrapping_add(offset).cast();
        // SAFETY: U6. Plain addresses, mapped or not; `answers` has a byte for each of the part's at most PAGES pages.
        let done = unsafe { libc::mincore(at, part, answers.as_mut_ptr()) };
        // Any other errno is about the question, not about the range.
        done == 0 || crate::error::errno_of(&std::io::Error::last_os_error()) != Errno::NOMEM
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::memory::{HugePages, ObjectMemory};

    /// How far into a huge page an address is.
    fn place(at: NonNull<u8>) -> usize {
        at.as_ptr().addr() % HUGE_FROM
    }

    #[test]
    fn a_mapping_beside_another_lies_in_huge_pages_as_that_does() {
        let like = Mapping::anonymous(3 * HUGE_FROM + 5 * PAGE).unwrap();
        let object = ObjectMemory::create(like.len() as u64, HugePages::Advise, "beside");
        let export = object.and_then(|object| object.export(Access::Write)).unwrap();
        for at in [0, PAGE, HUGE_FROM - PAGE, HUGE_FROM] {
            let like = NonNull::new(like.base.as_ptr().wrapping_add(at)).unwrap();
            for object in [None, Some(export.as_fd())] {
                // Another test's thread may take the room just then, and again, but not always.
                let alike =
                    || place(Mapping::beside(like, HUGE_FROM + PAGE, object).unwrap().base) == place(like);
                assert!((0..100).any(|_| alike()), "{at:#x}, {object:?}");
            }
        }
    }

    #[test]
    fn a_hole_in_a_range_is_seen_wherever_it_is() {
        let len = 3 * 2048 * PAGE + PAGE;
        for hole in [0, 2048 * PAGE, len - PAGE] {
            let whole = Mapping::anonymous(len).unwrap();
            assert!(is_mapped(whole.base, len));
            let at = whole.base.as_ptr().wrapping_add(hole).cast();
            // SAFETY: U2. A page of our own mapping; unmapping the whole later tolerates the hole.
            unsafe { rustix::mm::munmap(at, PAGE) }.unwrap();
            assert!(!is_mapped(whole.base, len));
        }
    }
}
