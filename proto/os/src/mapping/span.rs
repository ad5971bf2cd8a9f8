//! Spans: a pointer and a length over memory that another process may change.
//!
//! A span is not a slice and never becomes one without [`Quiescent`]. Bytes are copied out once and used from
//! the copy; what a peer writes meanwhile makes the copy old or torn, never unsafe to hold.
//! [`Span`] and [`SpanMut`] are `Copy` and `Send`, so that engines may pass pieces to their threads.
//!
//! Invariant U2 (of the crate): `[ptr, ptr + len)` is mapped, readable (for [`SpanMut`] writable), and stays so
//! for the span's lifetime. Every method keeps to that range by checked arithmetic.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Quiescent;

/// Why a span refused an access. Nothing was read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// The range is not inside the span.
    #[error("{len} bytes at offset {offset} do not fit into {available} bytes")]
    Beyond {
        /// Where the access was to begin, bytes.
        offset: usize,
        /// How long it was to be, bytes.
        len: usize,
        /// The length of the span, bytes.
        available: usize,
    },
    /// The two sides of a copy have different lengths.
    #[error("a copy of {from} bytes into {into} bytes")]
    Lengths {
        /// Bytes of the source.
        from: usize,
        /// Bytes of the destination.
        into: usize,
    },
    /// A word was asked for at an address that is not a multiple of its size.
    #[error("offset {offset} is not aligned to {align} bytes")]
    Misaligned {
        /// Where the word was to be, bytes from the start of the span.
        offset: usize,
        /// The alignment it needs, bytes.
        align: usize,
    },
    /// The memory is mapped for reading only.
    #[error("the memory is mapped for reading only")]
    ReadOnly,
}

impl OutOfRange {
    pub(super) fn beyond(range: &Range<usize>, available: usize) -> Self {
        Self::Beyond { offset: range.start, len: range.end.saturating_sub(range.start), available }
    }
}

/// Memory to read from that another process may change.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    ptr: NonNull<u8>,
    len: usize,
    lives: PhantomData<&'a ()>,
}

// SAFETY: U1, U2. A span is an address range that stays mapped for 'a, whichever thread uses it.
unsafe impl Send for Span<'_> {}
// SAFETY: U1, U2. As above; all access is by copies and atomics.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    /// A span over `[ptr, ptr + len)`.
    ///
    /// # Safety
    /// U2: the range is readable and stays so for `'a`.
    #[inline]
    pub(crate) const unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, lives: PhantomData }
    }

    /// A span over private memory.
    #[must_use]
    pub const fn of_slice(bytes: &'a [u8]) -> Self {
        let ptr = NonNull::from_ref(bytes).cast();
        Self { ptr, len: bytes.len(), lives: PhantomData }
    }

    /// Length, bytes.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if the length is 0.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset` on, or nothing if they are not all inside.
    #[must_use]
    #[inline]
    pub fn sub(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: U2. offset <= end <= len, so the result is inside the span or one past its end.
        let ptr = unsafe { self.ptr.add(offset) };
        Some(Self { ptr, len, lives: PhantomData })
    }

    /// The address of the first byte, for engines that take raw pointers. Valid for the span's lifetime.
    #[must_use]
    #[inline]
    pub const fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// Copies `dst.len()` bytes from `offset` on into private memory.
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`] if they are not all inside the span.
    pub fn copy_to(self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let part = self.part(offset, dst.len())?;
        // SAFETY: U2, U4. Both ranges have this length; `dst` is private to us and cannot overlap the span,
        // except a span of a slice, whose borrow keeps `dst` from being that slice.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// The aligned 64-bit word at `offset`, read once. Little-endian as in memory.
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`], [`OutOfRange::Misaligned`].
    #[inline]
    pub fn read_u64(self, offset: usize) -> Result<u64, OutOfRange> {
        let part = self.part(offset, size_of::<u64>())?;
        let word = part.as_ptr().cast::<u64>();
        if !word.is_aligned() {
            return Err(OutOfRange::Misaligned { offset, align: align_of::<u64>() });
        }
        // SAFETY: U1, U2. Eight mapped, aligned bytes, read at once and only once.
        let value = unsafe { word.read_volatile() };
        Ok(u64::from_le(value))
    }

    /// The bytes in place, relying on [`Quiescent`]: nobody writes them while the slice lives.
    #[must_use]
    pub fn bytes(self, _quiet: &'a Quiescent) -> &'a [u8] {
        // SAFETY: U2, U5. The range is mapped for 'a, and the caller promised that nobody writes it.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    #[inline]
    fn part(self, offset: usize, len: usize) -> Result<Self, OutOfRange> {
        self.sub(offset, len).ok_or(OutOfRange::Beyond { offset, len, available: self.len })
    }
}

/// Memory to read and write that another process may change too.
#[derive(Debug, Clone, Copy)]
pub struct SpanMut<'a> {
    ptr: NonNull<u8>,
    len: usize,
    lives: PhantomData<&'a ()>,
}

// SAFETY: U1, U2. A span is an address range that stays mapped for 'a, whichever thread uses it.
unsafe impl Send for SpanMut<'_> {}
// SAFETY: U1, U2. As above; all access is by copies and atomics.
unsafe impl Sync for SpanMut<'_> {}

impl<'a> SpanMut<'a> {
    /// A span over `[ptr, ptr + len)`.
    ///
    /// # Safety
    /// U2: the range is readable and writable and stays so for `'a`.
    #[inline]
    pub(crate) const unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, lives: PhantomData }
    }

    /// A span over private memory.
    #[must_use]
    pub const fn of_slice(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        let ptr = NonNull::from_mut(bytes).cast();
        Self { ptr, len, lives: PhantomData }
    }

    /// Length, bytes.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if the length is 0.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same memory, for reading.
    #[must_use]
    #[inline]
    pub const fn as_span(&self) -> Span<'a> {
        Span { ptr: self.ptr, len: self.len, lives: PhantomData }
    }

    /// `len` bytes from `offset` on, or nothing if they are not all inside.
    #[must_use]
    #[inline]
    pub fn sub(&self, offset: usize, len: usize) -> Option<Self> {
        let part = self.as_span().sub(offset, len)?;
        Some(Self { ptr: part.ptr, len, lives: PhantomData })
    }

    /// The address of the first byte, for engines that take raw pointers. Valid for the span's lifetime.
    #[must_use]
    #[inline]
    pub const fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// The address of the first byte, for engines that take raw pointers. Valid for the span's lifetime.
    #[must_use]
    #[inline]
    pub const fn as_mut_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// As [`Span::copy_to`].
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`].
    pub fn copy_to(self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.as_span().copy_to(offset, dst)
    }

    /// Copies private memory to `offset`.
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`] if the bytes do not fit.
    pub fn copy_from(self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        let part = self.part(offset, src.len())?;
        // SAFETY: U2, U4. Both ranges have this length; `src` is private to us and cannot overlap the span,
        // except a span of a slice, whose exclusive borrow keeps `src` from being that slice.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), part.as_mut_ptr(), src.len()) };
        Ok(())
    }

    /// Sets every byte.
    pub fn fill(self, byte: u8) {
        // SAFETY: U2, U4. The whole range is mapped writable.
        unsafe { std::ptr::write_bytes(self.ptr.as_ptr(), byte, self.len) };
    }

    /// As [`Span::read_u64`].
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`], [`OutOfRange::Misaligned`].
    #[inline]
    pub fn read_u64(self, offset: usize) -> Result<u64, OutOfRange> {
        self.as_span().read_u64(offset)
    }

    /// Stores the aligned 64-bit word at `offset` at once, little-endian.
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`], [`OutOfRange::Misaligned`].
    #[inline]
    pub fn write_u64(self, offset: usize, value: u64) -> Result<(), OutOfRange> {
        let part = self.part(offset, size_of::<u64>())?;
        let word = part.as_mut_ptr().cast::<u64>();
        if !word.is_aligned() {
            return Err(OutOfRange::Misaligned { offset, align: align_of::<u64>() });
        }
        // SAFETY: U1, U2. Eight mapped, aligned, writable bytes, reached by an atomic.
        let cell = unsafe { AtomicU64::from_ptr(word) };
        cell.store(value.to_le(), Ordering::Relaxed);
        Ok(())
    }

    /// The bytes in place, relying on [`Quiescent`]: nobody writes them while the slice lives.
    #[must_use]
    pub fn bytes(self, quiet: &'a Quiescent) -> &'a [u8] {
        self.as_span().bytes(quiet)
    }

    /// The bytes in place and writable, relying on [`Quiescent`]: nobody else reads or writes them while the
    /// slice lives, in this process or another. One token carries one such slice at a time.
    #[must_use]
    pub fn bytes_mut(self, _quiet: &'a mut Quiescent) -> &'a mut [u8] {
        // SAFETY: U2, U5. The range is mapped writable for 'a, and the caller promised to be alone on it.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    #[inline]
    fn part(self, offset: usize, len: usize) -> Result<Self, OutOfRange> {
        self.sub(offset, len).ok_or(OutOfRange::Beyond { offset, len, available: self.len })
    }
}
