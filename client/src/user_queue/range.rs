//! What entries name: ranges of addresses.
//!
//! An address is a number here. Nothing is read or written through it in this process, so naming memory needs no
//! `unsafe`; whether something is bound there is looked at when the entry is pushed.

use std::ops::Range;

use vgem_proto::user_queue::{EntryError, VaRange};

use super::binding::Binding;
use crate::buffer::{Buffer, Slice};
use crate::error::LocalError;

/// A range of addresses, as the entries of a user queue name them.
///
/// ```
/// use vgem::AddressRange;
///
/// let bytes = vec![0_u8; 4096];
/// assert_eq!(AddressRange::from(bytes.as_ptr_range()).len(), 4096);
/// assert_eq!(AddressRange::new(0x1000, 64), AddressRange::from(0x1000..0x1040));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct AddressRange {
    address: u64,
    len: u64,
    /// The place of the binding that it was taken from, to look there first.
    pub(crate) hint: u32,
}

/// No place in particular.
pub(crate) const NO_HINT: u32 = u32::MAX;

impl AddressRange {
    /// `len` bytes from `address` on. One that leaves the address space is refused where it is used.
    #[must_use]
    #[inline]
    pub const fn new(address: u64, len: u64) -> Self {
        Self { address, len, hint: NO_HINT }
    }

    /// The `len` bytes at a pointer. Nothing is read through it here, and the compiler is told nothing by it: what a
    /// device writes there, Rust must not hold a reference to at the time.
    #[must_use]
    #[inline]
    pub fn at<T>(pointer: *const T, len: u64) -> Self {
        Self::new(pointer.addr() as u64, len)
    }

    #[inline]
    pub(crate) const fn hinted(address: u64, len: u64, hint: u32) -> Self {
        Self { address, len, hint }
    }

    /// The first address.
    #[must_use]
    #[inline]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As it travels.
    #[inline]
    pub(crate) const fn wire(self) -> Result<VaRange, EntryError> {
        VaRange::new(self.address, self.len)
    }
}

impl PartialEq for AddressRange {
    fn eq(&self, other: &Self) -> bool {
        (self.address, self.len) == (other.address, other.len)
    }
}

impl Eq for AddressRange {}

impl From<Range<u64>> for AddressRange {
    fn from(range: Range<u64>) -> Self {
        Self::new(range.start, range.end.saturating_sub(range.start))
    }
}

impl From<Range<*const u8>> for AddressRange {
    fn from(range: Range<*const u8>) -> Self {
        Self::from(range.start.addr() as u64..range.end.addr() as u64)
    }
}

impl From<Range<*mut u8>> for AddressRange {
    fn from(range: Range<*mut u8>) -> Self {
        Self::from(range.start.addr() as u64..range.end.addr() as u64)
    }
}

/// The bytes at which a device looks when the entry starts: keep them until it has ended.
impl From<&[u8]> for AddressRange {
    fn from(bytes: &[u8]) -> Self {
        Self::at(bytes.as_ptr(), bytes.len() as u64)
    }
}

impl From<Binding> for AddressRange {
    fn from(binding: Binding) -> Self {
        binding.range(..)
    }
}

/// What an operand of an entry is: addresses, or a slice of a buffer that is bound at its own address.
#[derive(Debug, Clone, Copy)]
pub enum RangeChoice<'a> {
    /// Addresses.
    At(AddressRange),
    /// A slice of a buffer, where its bytes are in this process.
    Slice(Slice<'a>),
}

impl RangeChoice<'_> {
    pub(crate) fn resolve(self) -> Result<AddressRange, LocalError> {
        match self {
            Self::At(range) => Ok(range),
            Self::Slice(slice) => {
                let range = slice.range()?;
                Ok(AddressRange::new(slice.buffer.address() + range.start, slice.len))
            }
        }
    }
}

impl<R: Into<AddressRange>> From<R> for RangeChoice<'_> {
    fn from(range: R) -> Self {
        Self::At(range.into())
    }
}

impl<'a> From<Slice<'a>> for RangeChoice<'a> {
    fn from(slice: Slice<'a>) -> Self {
        Self::Slice(slice)
    }
}

impl<'a> From<&'a Buffer> for RangeChoice<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self::Slice(buffer.slice(..))
    }
}
