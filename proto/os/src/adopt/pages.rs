//! Bytes in pages of their own: what a `Vec<u8>` is, so laid out that it can become an object.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use super::{Owner, Region};

/// Growable bytes that begin at a page and have whole pages to themselves.
///
/// Like a `Vec<u8>`, it ends the process if there is no address space for it.
pub struct PageVec {
    base: NonNull<u8>,
    /// Bytes in use.
    len: usize,
    /// Bytes mapped: whole pages. With 0, `base` dangles.
    capacity: usize,
}

// SAFETY: U2. The pages belong to this value alone, and to the process, not to a thread.
unsafe impl Send for PageVec {}
// SAFETY: U2. Through `&PageVec` the bytes are only read.
unsafe impl Sync for PageVec {}

impl PageVec {
    /// No bytes and no pages.
    #[must_use]
    pub const fn new() -> Self {
        Self { base: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// No bytes, and room for `capacity`, rounded up to whole pages.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut new = Self::new();
        new.make_room(capacity);
        new
    }

    /// `len` zeros. No page is there until it is touched.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut new = Self::with_capacity(len);
        // Fresh pages read as zeros.
        new.len = len;
        new
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut new = Self::with_capacity(bytes.len());
        new.extend_from_slice(bytes);
        new
    }

    /// Takes a region back that was made of a `PageVec`, with its first `len` bytes.
    ///
    /// # Errors
    /// Gives the region back if it was made otherwise, or is shorter than `len`.
    pub fn from_region(region: Region, len: usize) -> Result<Self, Region> {
        if region.owner != Owner::Itself || region.len < len {
            return Err(region);
        }
        let pages = Self { base: region.base, len, capacity: region.len };
        std::mem::forget(region);
        Ok(pages)
    }

    /// Its pages as a region that owns itself, and how many bytes of it are in use. Pages beyond these bytes are
    /// given back, except that a region has at least one page.
    #[must_use]
    pub fn into_region(mut self) -> (Region, usize) {
        self.make_room(1);
        self.trim();
        let region = Region { base: self.base, len: self.capacity, owner: Owner::Itself };
        let len = self.len;
        std::mem::forget(self);
        (region, len)
    }

    /// Room, bytes: whole pages.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let old = self.len;
        self.set_len(old.checked_add(bytes.len()).expect("a length that fits into the address space"));
        self.split_at_mut(old).1.copy_from_slice(bytes);
    }

    /// Cuts to `len` bytes, or appends `value` until there are as many.
    pub fn resize(&mut self, len: usize, value: u8) {
        let old = self.len.min(len);
        self.set_len(len);
        self.split_at_mut(old).1.fill(value);
    }

    /// Cuts to `len` bytes, if there are more. The room stays.
    pub const fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
        }
    }

    /// Cuts to nothing. The room stays.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes `len` bytes of the pages those in use. They are initialised, by us or by the kernel.
    fn set_len(&mut self, len: usize) {
        if len > self.capacity {
            // Twice as much, so that appending is cheap in the long run.
            self.make_room(len.max(self.capacity.saturating_mul(2)));
        }
        self.len = len;
    }

    /// Has room for at least `wanted` bytes.
    fn make_room(&mut self, wanted: usize) {
        let page = rustix::param::page_size();
        if wanted <= self.capacity {
            return;
        }
        let capacity = wanted.checked_next_multiple_of(page).unwrap_or_else(|| no_room(wanted));
        let at = if self.capacity == 0 {
            let protection = ProtFlags::READ.union(ProtFlags::WRITE);
            // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping that exists.
            unsafe {
                rustix::mm::mmap_anonymous(std::ptr::null_mut(), capacity, protection, MapFlags::PRIVATE)
            }
        } else {
            let old = self.base.as_ptr().cast();
            // SAFETY: U2. The pages are ours alone, and `&mut self` says that nobody points into them.
            unsafe { rustix::mm::mremap(old, self.capacity, capacity, MremapFlags::MAYMOVE) }
        };
        let Some(base) = at.ok().and_then(|at| NonNull::new(at.cast())) else { no_room(capacity) };
        (self.base, self.capacity) = (base, capacity);
    }

    /// Gives back the pages beyond the bytes in use, but the first.
    fn trim(&mut self) {
        let keep = self.len.max(1).next_multiple_of(rustix::param::page_size());
        if keep < self.capacity {
            // SAFETY: U2. keep < capacity: inside our pages.
            let rest = unsafe { self.base.add(keep) };
            unmap(rest, self.capacity - keep);
            self.capacity = keep;
        }
    }
}

impl Deref for PageVec {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: U2. `len` initialised bytes of our own private pages; with none, the pointer may dangle.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for PageVec {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: U2. As for reading, and `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Default for PageVec {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&[u8]> for PageVec {
    fn from(bytes: &[u8]) -> Self {
        Self::from_slice(bytes)
    }
}

impl fmt::Debug for PageVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageVec({} of {} bytes)", self.len, self.capacity)
    }
}

impl Drop for PageVec {
    fn drop(&mut self) {
        if self.capacity > 0 {
            unmap(self.base, self.capacity);
        }
    }
}

/// Unmaps pages that nobody points into any more.
pub(super) fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: U2. The caller owns the pages, and gives them up.
    let done = unsafe { rustix::mm::munmap(base.as_ptr().cast(), len) };
    debug_assert_eq!(done, Ok(()), "munmap of our own pages");
}

/// What a `Vec` does.
fn no_room(wanted: usize) -> ! {
    let layout = std::alloc::Layout::from_size_align(wanted.min(isize::MAX.unsigned_abs()), 1);
    std::alloc::handle_alloc_error(layout.unwrap_or(std::alloc::Layout::new::<u8>()))
}
