//! Mappings: memory this process can reach and another process may change at any moment.
//!
//! ```text
//!   Mapping ──span()──► Span      reads by copy: copy_to, read_u64        (nothing assumed)
//!           ──span_mut()► SpanMut  and writes: copy_from, fill, write_u64
//!           ──bytes(&Quiescent)──► &[u8], &mut [u8]                        (a fence says nobody writes)
//! ```
//!
//! What it is: an `mmap` of a checked fd (or of private memory), undone on drop. What it is not: a slice.
//! Rust references promise that nobody else writes; a peer keeps no such promise. So the ordinary way in is a
//! [`Span`]: a pointer and a length whose bytes are copied out once, checked and used from the copy.
//!
//! The other way is [`Quiescent`], for those who hold a fence that says nobody writes this range now.
//!
//! Invariants:
//! - U2: the range `[base, base + len)` stays mapped, with the recorded access, while the `Mapping` lives, and
//!   every span's lifetime ends before it.
//! - U3: no access inside a mapping raises `SIGBUS`, because the fd was sealed against shrinking and was long
//!   enough when it was mapped.

mod copy;
mod moving;
mod span;

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

pub use self::copy::{CopyStyle, STREAMING_FROM, copy_span};
pub(crate) use self::moving::Have;
pub use self::span::{OutOfRange, Span, SpanMut};
use crate::error::{Attempt, OsError, Result};
use crate::memory::{Access, verify_mapping};

/// Mappings from this length on ask for transparent huge pages, bytes.
pub const HUGE_FROM: usize = 2 * 1024 * 1024;

/// The page size this crate counts in, bytes. Larger pages of the machine are multiples of it.
pub const PAGE: usize = 4096;

/// When the pages of a mapping come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Populate {
    /// Each at its first touch.
    Lazy,
    /// All now: for writing if the mapping is writable, else for reading. Whoever populates pays.
    Now,
}

/// The promise that nobody writes a range of shared memory while a reference to it lives, and, for
/// `bytes_mut`, that nobody else reads it either.
///
/// This is a promise about *protocol*, made where the compiler cannot see: the holder has a fence, or a job's
/// lease, or is the only one that maps the memory. It holds for a range and for a time: from the signal of the
/// last point that wrote the range, until the holder's own point on it is signalled or its handle given back.
///
/// It does **not** hold
/// - for an operand that another domain could write and that is not sealed against writing,
/// - for anything a C engine or a decoder will read twice when its owner is not trusted to stay quiet,
/// - for a fence page, a ring or a result cell: those are read with [`Span::read_u64`] and copies.
///
/// If the promise is broken by a process of the same domain, that process has shot its own domain in the foot:
/// a data race, thus undefined behaviour, in a process that serves this domain alone. Where that is not
/// acceptable, copy out through a [`Span`] first.
#[derive(Debug)]
pub struct Quiescent(());

impl Quiescent {
    /// Makes the promise. Write beside each call which fence or lease it rests on.
    #[must_use]
    pub const fn by_contract() -> Self {
        Self(())
    }
}

/// Memory mapped into this process; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    access: Access,
}

// SAFETY: U2. A mapping belongs to the process, not to the thread that made it, and is unmapped once, on drop.
unsafe impl Send for Mapping {}
// SAFETY: U1. Through `&Mapping` the memory is reached only by copies, atomics, or under `Quiescent`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, shared, after [`verify_export`](crate::memory::verify_export) accepted it.
    ///
    /// From [`HUGE_FROM`] on it asks for huge pages; a refusal of that is ignored.
    ///
    /// # Errors
    /// As [`verify_export`](crate::memory::verify_export); the errno of `mmap`; `EINVAL` for a length of 0, or one that
    /// covers a reserved huge page in part; and, for [`Populate::Now`], as [`Mapping::populate_write`].
    pub fn map(fd: BorrowedFd<'_>, len: usize, access: Access, populate: Populate) -> Result<Self> {
        let wanted = u64::try_from(len).map_err(|_| OsError::new("mmap", Errno::OVERFLOW))?;
        verify_mapping(fd, wanted, access)?;
        let mapping = Self::map_checked(fd, len, access)?;
        if len >= HUGE_FROM {
            mapping.ask_for_huge_pages();
        }
        match (populate, access) {
            (Populate::Lazy, _) => {}
            (Populate::Now, Access::Write) => mapping.populate_write()?,
            (Populate::Now, Access::Read) => mapping.populate_read()?,
        }
        Ok(mapping)
    }

    /// Private zeroed memory of `len` bytes: scratch windows of engines, and tests.
    ///
    /// # Errors
    /// The errno of `mmap`; `EINVAL` for a length of 0.
    pub fn anonymous(len: usize) -> Result<Self> {
        let protection = ProtFlags::READ.union(ProtFlags::WRITE);
        // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping that exists.
        let at =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) };
        let base = mapped_at(at.attempting("mmap", || format!("{len} anonymous bytes"))?)?;
        Ok(Self { base, len, access: Access::Write })
    }

    /// Maps an fd that [`verify_mapping`] has accepted for this length and access.
    pub(crate) fn map_checked(fd: BorrowedFd<'_>, len: usize, access: Access) -> Result<Self> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ.union(ProtFlags::WRITE),
        };
        // SAFETY: U2, U3. A null hint without MAP_FIXED replaces no mapping that exists, and the fd was checked.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) };
        let base = mapped_at(at.attempting("mmap", || format!("{len} bytes for {access:?}"))?)?;
        Ok(Self { base, len, access })
    }

    /// Length, bytes.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Always false: a mapping has at least one byte.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it was mapped for.
    #[must_use]
    #[inline]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// The whole mapping as a span.
    #[must_use]
    #[inline]
    pub fn span(&self) -> Span<'_> {
        // SAFETY: U2. The range is mapped readable for the lifetime of the borrow.
        unsafe { Span::new(self.base, self.len) }
    }

    /// The whole mapping as a writable span.
    ///
    /// # Errors
    /// `EACCES` if it is mapped for reading only.
    #[inline]
    pub fn span_mut(&self) -> Result<SpanMut<'_>> {
        if self.access == Access::Read {
            return Err(OsError::with_detail("span_mut", Errno::ACCESS, "mapped for reading only"));
        }
        // SAFETY: U2. The range is mapped writable for the lifetime of the borrow.
        Ok(unsafe { SpanMut::new(self.base, self.len) })
    }

    /// The bytes of `range`, in place, relying on [`Quiescent`]: nobody writes the range while the slice lives.
    ///
    /// # Errors
    /// [`OutOfRange`] if the range is not inside the mapping.
    pub fn bytes<'a>(&'a self, range: Range<usize>, quiet: &'a Quiescent) -> Result<&'a [u8], OutOfRange> {
        let span = self.span();
        let len = range.end.checked_sub(range.start);
        let part = len.and_then(|len| span.sub(range.start, len));
        part.map(|part| part.bytes(quiet)).ok_or_else(|| OutOfRange::beyond(&range, self.len))
    }

    /// The bytes of `range`, in place and writable, relying on [`Quiescent`]: nobody else reads or writes the
    /// range while the slice lives.
    ///
    /// # Errors
    /// [`OutOfRange`] if the range is not inside the mapping, or the mapping is for reading only.
    pub fn bytes_mut<'a>(
        &'a mut self,
        range: Range<usize>,
        quiet: &'a mut Quiescent,
    ) -> Result<&'a mut [u8], OutOfRange> {
        let whole = self.len;
        let span = self.span_mut().map_err(|_| OutOfRange::ReadOnly)?;
        let len = range.end.checked_sub(range.start);
        let part = len.and_then(|len| span.sub(range.start, len));
        part.map(|part| part.bytes_mut(quiet)).ok_or_else(|| OutOfRange::beyond(&range, whole))
    }

    /// Allocates and maps every page for writing, without changing a byte. The caller's cgroup is charged.
    ///
    /// # Errors
    /// `EACCES` if mapped for reading only; `ENOMEM`; `EFAULT` or `EHWPOISON` for bad memory.
    pub fn populate_write(&self) -> Result<()> {
        let span = self.span_mut()?;
        match self.advise(Advice::LinuxPopulateWrite) {
            Err(Errno::INVAL) => {
                touch_for_writing(span);
                Ok(())
            }
            other => other.attempting("madvise(MADV_POPULATE_WRITE)", || format!("{} bytes", self.len)),
        }
    }

    /// Maps every page for reading. Holes of shared memory are allocated, charged to the caller.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` or `EHWPOISON` for bad memory.
    pub fn populate_read(&self) -> Result<()> {
        match self.advise(Advice::LinuxPopulateRead) {
            Err(Errno::INVAL) => {
                touch_for_reading(self.span());
                Ok(())
            }
            other => other.attempting("madvise(MADV_POPULATE_READ)", || format!("{} bytes", self.len)),
        }
    }

    /// Bytes of the mapping that are in memory now, by `mincore`, rounded to whole pages.
    ///
    /// # Errors
    /// The errno of `mincore`.
    pub fn resident_bytes(&self) -> Result<usize> {
        crate::pin::resident_bytes(self)
    }

    /// The address of the first byte.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn ask_for_huge_pages(&self) {
        // A machine that allows none says EINVAL; ordinary pages serve as well, only slower.
        let _advised = self.advise(Advice::LinuxHugepage);
    }

    fn advise(&self, advice: Advice) -> core::result::Result<(), Errno> {
        loop {
            // SAFETY: U2. The range is ours, and no advice given here drops or replaces its contents.
            let done = unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.len, advice) };
            match done {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return other,
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: U2. The range is ours alone, and every span and slice of it borrowed `self`.
        let done = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(done, Ok(()), "munmap of our own mapping");
    }
}

fn mapped_at(at: *mut core::ffi::c_void) -> Result<NonNull<u8>> {
    NonNull::new(at.cast()).ok_or_else(|| OsError::with_detail("mmap", Errno::NOMEM, "mapped at 0"))
}

/// Kernels before 5.14: write every page's first byte back as it is. A compare-and-exchange faults the page
/// in for writing, whether or not it finds what it expects, and cannot undo what a peer writes meanwhile.
pub(crate) fn touch_for_writing(span: SpanMut<'_>) {
    for offset in (0..span.len()).step_by(PAGE) {
        let Some(part) = span.sub(offset, 1) else { return };
        // SAFETY: U1, U2. One mapped, writable byte, reached only by atomics here.
        let byte = unsafe { AtomicU8::from_ptr(part.as_mut_ptr()) };
        let seen = byte.load(Ordering::Relaxed);
        // Somebody else's write is as good as ours: the page is there then.
        let _either = byte.compare_exchange(seen, seen, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Kernels before 5.14: read every page's first byte.
pub(crate) fn touch_for_reading(span: Span<'_>) {
    for offset in (0..span.len()).step_by(PAGE) {
        let Some(part) = span.sub(offset, 1) else { return };
        // SAFETY: U1, U2. One mapped byte; a volatile read is not optimised away.
        let byte = unsafe { part.as_ptr().read_volatile() };
        std::hint::black_box(byte);
    }
}
