//! Adopting: memory this process has already becomes object memory, without changing its address.
//!
//! ```text
//!   Region::new (unsafe) ─┐
//!   PageVec::into_region ─┴─► Region ──replace(object)──► Adopted ──restore──► Region
//!                                                           └── drop: restored, or left shared; never unmapped
//! ```
//!
//! What happens: the object is mapped elsewhere, filled with the region's bytes, and then moved over the region in one
//! step ([`crate::mapping`]). The way back is the same with private memory. So pointers stay valid, and a thread that
//! reads all the time sees the same bytes before, meanwhile and after.
//!
//! Who fills pays: pages of the object are charged to the caller's cgroup, the region's old pages go back to the
//! machine. For the length of the copy both are there.
//!
//! # What whoever makes a region promises
//!
//! - The range is theirs for the life of the region and of what it becomes: nobody unmaps it, frees it, or gives it
//!   back to an allocator meanwhile.
//! - Other threads may **read** it all the time. **Writers are quiet** during [`Region::replace`] and
//!   [`Adopted::restore`]: a byte written then may be lost. Before `restore`, devices are done with the object.
//! - While it is adopted, its bytes are shared with devices and with whoever has the object: no `&` and no `&mut` to
//!   them lives while a job that writes them runs, and no `&mut` while one reads them.
//! - `fork` shares adopted memory with the child instead of copying it.
//! - `mlock`, `madvise` and NUMA policies of the range are lost both ways. What holds pages and not addresses (buffers
//!   registered with an io_uring, RDMA registrations, spliced pages) keeps the old pages: give it up first.
//!
//! Invariants:
//! - The range is mapped, readable and writable, at every moment, whatever fails.
//! - A region made of a [`PageVec`] owns its memory: nobody else can have a pointer into it that Rust vouches for, so
//!   it is unmapped when it is dropped, adopted or not. Any other region owns nothing, and nothing of it is unmapped.

mod fill;
mod maps;
mod pages;

use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;

use self::fill::fill;
pub use self::pages::PageVec;
use crate::error::{OsError, Result};
use crate::mapping::{Mapping, OutOfRange, Quiescent};
use crate::memory::{Access, verify_mapping};

/// Whose the memory of a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Whoever called [`Region::new`]: never unmapped here.
    Caller,
    /// The region itself, made of a [`PageVec`].
    Itself,
}

/// Whole pages of private memory of this process, which may become an object's.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

// SAFETY: U2. A region is an address range of the process, whichever thread holds it.
unsafe impl Send for Region {}
// SAFETY: U1. Through `&Region` nothing but its address and length is reached.
unsafe impl Sync for Region {}

impl Region {
    /// The `len` bytes at `start`. They are looked up in `/proc/self/maps`, and are as they were if this fails.
    ///
    /// # Errors
    /// `EINVAL`, with the value and what is wanted, if the range has no bytes, covers a page in part, is not mapped
    /// as a whole, or is anything but private memory to read and write: shared, reserved huge pages, the kernel's
    /// own (`[vdso]`), a stack. The errno of reading `/proc/self/maps`.
    ///
    /// # Safety
    /// The caller promises what the module's documentation lists, for as long as the region, or what it becomes,
    /// lives.
    pub unsafe fn new(start: *mut u8, len: usize) -> Result<Self> {
        let base = NonNull::new(start).ok_or_else(|| unfit("it starts at 0".into()))?;
        maps::check(start.addr(), len)?;
        Ok(Self { base, len, owner: Owner::Caller })
    }

    /// The address of the first byte.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The length, bytes: whole pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Always false: a region has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves the contents into the first bytes of `object` and maps it at the region's address. Readers of the region
    /// go on reading the same bytes.
    ///
    /// The object needs nothing but its length: pages it lacks are allocated here, and charged to this process.
    ///
    /// # Errors
    /// Gives the region back as it was, with what [`Mapping::map`] says (for writing, and the region's length) or the
    /// errno of `mmap`, `madvise` or `mremap`: `EINVAL` also if the object has reserved huge pages and the region does
    /// not begin at such a page. Part of the object may have been filled.
    pub fn replace(self, object: BorrowedFd<'_>) -> Result<Adopted, (Self, OsError)> {
        let len = u64::try_from(self.len).unwrap_or(u64::MAX);
        let filled = verify_mapping(object, len, Access::Write)
            .and_then(|()| Mapping::beside(self.base, self.len, Some(object)))
            .and_then(|mapping| self.copied_into(mapping, object));
        let mapping = match filled {
            Ok(mapping) => mapping,
            Err(error) => return Err((self, error)),
        };
        // SAFETY: U2. The region's pages are its holder's, who gave them up by calling this; the bytes were copied.
        match unsafe { mapping.take_place_of(self.base) } {
            Ok(mapping) => {
                let owner = self.owner;
                // What was its memory is the mapping's now.
                std::mem::forget(self);
                Ok(Adopted { mapping: ManuallyDrop::new(mapping), owner })
            }
            Err((_elsewhere, error)) => Err((self, error)),
        }
    }

    fn copied_into(&self, mapping: Mapping, object: BorrowedFd<'_>) -> Result<Mapping> {
        // SAFETY: U2. The region is mapped readable while it lives.
        let from = unsafe { crate::mapping::Span::new(self.base, self.len) };
        fill(&mapping, from, Some(object))?;
        Ok(mapping)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.owner == Owner::Itself {
            pages::unmap(self.base, self.len);
        }
    }
}

/// A region whose memory is an object's: at the old address, shared with whoever has the object.
///
/// It gives all that a [`Mapping`] gives. Dropping it restores private memory; if that fails, the shared mapping
/// stays, because pointers into it must stay valid. (Of a [`PageVec`] nobody has pointers: that is unmapped.)
#[derive(Debug)]
pub struct Adopted {
    mapping: ManuallyDrop<Mapping>,
    owner: Owner,
}

impl Adopted {
    /// As [`Mapping::bytes_mut`].
    ///
    /// # Errors
    /// As there.
    pub fn bytes_mut<'a>(
        &'a mut self,
        range: Range<usize>,
        quiet: &'a mut Quiescent,
    ) -> Result<&'a mut [u8], OutOfRange> {
        self.mapping.bytes_mut(range, quiet)
    }

    /// Puts private memory with the same contents at the address. Readers go on reading the same bytes; what is
    /// written from now on is seen by this process alone.
    ///
    /// # Errors
    /// Gives the adopted memory back as it was, with the errno of `mmap`, `madvise` or `mremap`.
    pub fn restore(self) -> Result<Region, (Self, OsError)> {
        // What was there unmaps itself when the private memory takes its place.
        let this = ManuallyDrop::new(self);
        match this.private_copy() {
            Ok(region) => Ok(region),
            Err(error) => Err((ManuallyDrop::into_inner(this), error)),
        }
    }

    /// Replaces the shared mapping by a private one with its contents; after that, `self` maps nothing.
    fn private_copy(&self) -> Result<Region> {
        let target = self.base();
        let private = Mapping::beside(target, self.mapping.len(), None)?;
        fill(&private, self.mapping.span(), None)?;
        // SAFETY: U2. The range is our own mapping, whose holder gave it up by calling this; the bytes were copied.
        let restored = unsafe { private.take_place_of(target) }.map_err(|(_elsewhere, error)| error)?;
        let (base, len) = (target, restored.len());
        std::mem::forget(restored);
        Ok(Region { base, len, owner: self.owner })
    }

    fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }
}

impl Deref for Adopted {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.mapping
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        match self.owner {
            Owner::Itself => {
                // SAFETY: U2. Dropped once, here, and nobody has a pointer into memory that owned itself.
                unsafe { ManuallyDrop::drop(&mut self.mapping) };
            }
            Owner::Caller => {
                // A region of a caller's is not unmapped when dropped. If there is no memory for a private copy, the
                // shared one stays: pointers into it must stay valid.
                let _restored = self.private_copy();
            }
        }
    }
}

fn unfit(why: String) -> OsError {
    OsError::with_detail("adopt", Errno::INVAL, why)
}
