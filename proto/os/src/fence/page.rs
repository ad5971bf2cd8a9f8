//! One mapped 4 KiB page of a pair, reached by aligned 32- and 64-bit atomics only.
//!
//! Loads are relaxed loads plus fences, never acquire loads: on memory mapped read-only Rust promises only
//! that relaxed loads of up to 64 bits are mere reads. On x86-64 both are the same instruction.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;
use vgem_proto::layout::{PAGE_LEN, fence_page, interest_page};

use super::protocol::{Page, Raise};
use crate::error::{OsError, Result};
use crate::futex::FutexWord;
use crate::mapping::Mapping;
use crate::memory::{Access, verify_export};

#[derive(Debug)]
pub(super) struct MappedPage {
    mapping: Mapping,
}

/// Which of the two pages an fd should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fence,
    Interest,
}

impl MappedPage {
    /// Maps a page and checks that it is one of its kind.
    pub(super) fn map(fd: BorrowedFd<'_>, access: Access, kind: Kind) -> Result<Self> {
        let page = Self::map_raw(fd, access)?;
        let (magic, version) = match kind {
            Kind::Fence => (fence_page::MAGIC, fence_page::VERSION),
            Kind::Interest => (interest_page::MAGIC, interest_page::VERSION),
        };
        let wanted = u64::from(magic) | u64::from(version) << 32 | u64::from(fence_page::SLOTS) << 48;
        let found = page.load64(0);
        if found != wanted {
            let detail = format!("{kind:?} page begins with {found:#018x}, wanted {wanted:#018x}");
            return Err(OsError::with_detail("fence page", Errno::INVAL, detail));
        }
        Ok(page)
    }

    /// Maps a page that has no header yet, and writes it.
    pub(super) fn format(fd: BorrowedFd<'_>, kind: Kind) -> Result<Self> {
        let page = Self::map_raw(fd, Access::Write)?;
        let (magic, version) = match kind {
            Kind::Fence => (fence_page::MAGIC, fence_page::VERSION),
            Kind::Interest => (interest_page::MAGIC, interest_page::VERSION),
        };
        page.store64(0, u64::from(magic) | u64::from(version) << 32 | u64::from(fence_page::SLOTS) << 48);
        Ok(page)
    }

    fn map_raw(fd: BorrowedFd<'_>, access: Access) -> Result<Self> {
        let len = verify_export(fd, PAGE_LEN as u64, access)?;
        if len != PAGE_LEN as u64 {
            let detail = format!("{len} bytes, wanted {PAGE_LEN}");
            return Err(OsError::with_detail("fence page", Errno::INVAL, detail));
        }
        Ok(Self { mapping: Mapping::map_checked(fd, PAGE_LEN, access)? })
    }

    /// The doorbell of a fence page as a futex.
    pub(super) fn doorbell(&self) -> FutexWord<'_> {
        FutexWord::shared(self.cell32(fence_page::H_DOORBELL))
    }

    #[inline]
    fn cell32(&self, at: usize) -> &AtomicU32 {
        assert!(at <= PAGE_LEN - 4 && at.is_multiple_of(4), "a 32-bit word of the page");
        // SAFETY: U2. at + 4 <= PAGE_LEN, the length of the mapping.
        let word = unsafe { self.mapping.span().as_ptr().add(at) }.cast::<AtomicU32>();
        // SAFETY: U1, U2. Mapped for as long as `self`, aligned, and reached by atomics only. On a read-only
        // page only relaxed loads follow: the faces that write hold pages mapped for writing.
        unsafe { &*word }
    }

    #[inline]
    fn cell64(&self, at: usize) -> &AtomicU64 {
        assert!(at <= PAGE_LEN - 8 && at.is_multiple_of(8), "a 64-bit word of the page");
        // SAFETY: U2. at + 8 <= PAGE_LEN, the length of the mapping.
        let word = unsafe { self.mapping.span().as_ptr().add(at) }.cast::<AtomicU64>();
        // SAFETY: U1, U2. As for 32 bits.
        unsafe { &*word }
    }

    #[inline]
    fn writable(&self) {
        assert!(self.mapping.access() == Access::Write, "this face may write this page");
    }
}

// M-070: each word is one atomic of its own size; `cell32` and `cell64` refuse what is not aligned.
impl Page for MappedPage {
    #[inline]
    fn load32(&self, at: usize) -> u32 {
        u32::from_le(self.cell32(at).load(Ordering::Relaxed))
    }

    #[inline]
    fn load64(&self, at: usize) -> u64 {
        u64::from_le(self.cell64(at).load(Ordering::Relaxed))
    }

    #[inline]
    fn store32(&self, at: usize, value: u32) {
        self.writable();
        self.cell32(at).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn store64(&self, at: usize, value: u64) {
        self.writable();
        self.cell64(at).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn release32(&self, at: usize, value: u32) {
        self.writable();
        self.cell32(at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn release64(&self, at: usize, value: u64) {
        self.writable();
        self.cell64(at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn bump32(&self, at: usize) {
        self.writable();
        self.cell32(at).fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }
}

impl Raise for MappedPage {
    fn raise64(&self, at: usize, value: u64) {
        self.writable();
        let raise = |now| (u64::from_le(now) < value).then_some(value.to_le());
        // An error says that it is higher.
        let _higher = self.cell64(at).fetch_update(Ordering::Release, Ordering::Relaxed, raise);
    }
}
