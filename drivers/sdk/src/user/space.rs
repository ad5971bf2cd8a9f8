//! The address space of a user queue: which ranges of its client's virtual addresses are which bytes of which objects.
//!
//! ```text
//!   addresses   ──────[ bound ]────────[ bound | bound ]──────────►   ordered, no two share an address
//!                        │                 │       │
//!   mappings         object 3          object 7  object 3           each range holds the mapping it lies in
//! ```
//!
//! An address means what is bound there, and where nothing is the client's own memory, if the queue reaches that
//! ([`super::own`]); it is never used as a pointer. A range of addresses can be reached if it lies in *one* bound range
//! whose access is enough, or in one window; otherwise the first address that cannot be, and why, is the fault.
//!
//! What it is not: shared. The control thread keeps the table and gives whoever reads it a snapshot.
//!
//! Invariants: the ranges are in the order of their addresses and do not overlap; each lies inside its mapping, which is
//! writable if the range is. A range holds its mapping, so its object is not gone while it is bound.

use std::sync::Arc;

use vgem_os::mapping::{Mapping, Span, SpanMut};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;
use vgem_proto::limits;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{FaultReason, VaRange};

use super::own::OwnMemory;
use crate::engine::JobError;

/// A range of an object, at the addresses at which entries reach it.
#[derive(Debug, Clone)]
pub(crate) struct BoundRange {
    /// The addresses; not none.
    pub(crate) addresses: VaRange,
    /// The object.
    pub(crate) object: ObjectKey,
    /// First byte in the object.
    pub(crate) offset: u64,
    /// What entries may do there.
    pub(crate) access: Access,
    /// Whether another domain may write there.
    pub(crate) foreign: bool,
    /// The object's mapping.
    pub(crate) mapping: Arc<Mapping>,
}

impl BoundRange {
    /// Where the byte at one of its addresses is in the object.
    #[inline]
    pub(crate) const fn offset_of(&self, address: u64) -> u64 {
        self.offset + (address - self.addresses.address())
    }

    /// Bytes of the object, to read; always there for those of the range.
    #[inline]
    pub(crate) fn read(&self, offset: u64, len: u64) -> Option<Span<'_>> {
        let (at, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        self.mapping.span().sub(at, len)
    }

    /// Bytes of the object, to write; always there for those of a range that may be written.
    #[inline]
    pub(crate) fn write(&self, offset: u64, len: u64) -> Option<SpanMut<'_>> {
        let (at, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        self.mapping.span_mut().ok()?.sub(at, len)
    }
}

/// Why a range is not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotBound {
    #[error("no bytes, or addresses that are none")]
    NoRange,
    #[error("it has addresses in common with the range at {other:#x}")]
    Overlaps { other: u64 },
    #[error("it would be one more than {} ranges", limits::RING_BINDS)]
    TooMany,
    #[error("the object is not mapped, or for reading only")]
    NotMapped,
    #[error("it ends beyond the {len} bytes of the object")]
    Beyond { len: usize },
}

impl NotBound {
    /// The code for the broker.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::NoRange | Self::Beyond { .. } => ErrorCode::OutOfRange,
            Self::Overlaps { .. } => ErrorCode::Busy,
            Self::TooMany => ErrorCode::Exhausted,
            Self::NotMapped => ErrorCode::MapFailed,
        }
    }
}

/// The first address that cannot be reached, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("address {address:#x} cannot be reached: {}", words(*reason))]
pub(crate) struct AddressFault {
    pub(crate) address: u64,
    pub(crate) reason: FaultReason,
}

const fn words(reason: FaultReason) -> &'static str {
    match reason {
        FaultReason::Unbound => "nothing is bound there, and it is in no window",
        FaultReason::ReadOnly => "what is there may not be written",
        FaultReason::Gone => "the memory there is gone: its process has ended, or executes another program",
        FaultReason::Unreachable => "the client's own memory could not be reached",
        FaultReason::Other(_) => "for another reason",
    }
}

/// Bytes that were reached. Not none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reached<'a> {
    mapping: &'a Mapping,
    len: usize,
    /// The first of them in the object.
    pub(crate) offset: u64,
}

impl<'a> Reached<'a> {
    /// The bytes, to read.
    ///
    /// # Errors
    /// A fault of the driver: that they are inside their mapping was checked when they were bound.
    pub(crate) fn read(&self) -> Result<Span<'a>, JobError> {
        let at = usize::try_from(self.offset).ok();
        at.and_then(|at| self.mapping.span().sub(at, self.len)).ok_or_else(JobError::outside)
    }
}

/// Where addresses lead.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    /// To bytes of an object.
    Bound(Reached<'a>),
    /// To the client's own memory: these addresses are in one of its windows.
    Own(&'a OwnMemory),
}

/// All ranges that are bound to one queue, and its client's own memory if it reaches that.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressSpace {
    ranges: Vec<BoundRange>,
    /// The client's own memory.
    pub(crate) own: Option<OwnMemory>,
}

impl AddressSpace {
    /// Binds a range; one that is bound at its very address is replaced.
    ///
    /// # Errors
    /// [`NotBound`]; nothing has changed then.
    pub(crate) fn bind(&mut self, range: BoundRange) -> Result<(), NotBound> {
        let BoundRange { addresses, offset, access, .. } = range;
        if addresses.is_empty() {
            return Err(NotBound::NoRange);
        }
        if access == Access::Write && range.mapping.access() == Access::Read {
            return Err(NotBound::NotMapped);
        }
        let len = range.mapping.len();
        if offset.checked_add(addresses.len()).is_none_or(|end| end > len as u64) {
            return Err(NotBound::Beyond { len });
        }
        let at = self.place_of(addresses.address());
        let old = self.ranges.get(at).filter(|old| old.addresses.address() == addresses.address());
        let replaces = usize::from(old.is_some());
        let before = at.checked_sub(1).and_then(|before| self.ranges.get(before));
        let after = self.ranges.get(at + replaces);
        for other in [before, after].into_iter().flatten().map(|other| other.addresses) {
            if other.address() < addresses.end() && addresses.address() < other.end() {
                return Err(NotBound::Overlaps { other: other.address() });
            }
        }
        if replaces == 0 && self.ranges.len() >= limits::RING_BINDS {
            return Err(NotBound::TooMany);
        }
        self.ranges.splice(at..at + replaces, [range]);
        Ok(())
    }

    /// Takes out the range that begins at an address; whether there was one.
    pub(crate) fn unbind(&mut self, address: u64) -> bool {
        let at = self.place_of(address);
        let is_there = self.ranges.get(at).is_some_and(|range| range.addresses.address() == address);
        if is_there {
            self.ranges.remove(at);
        }
        is_there
    }

    /// The range that holds all of these addresses, of which there is one at least, and allows the access; where there is
    /// none, [`AddressSpace::find`] says why.
    #[inline]
    pub(crate) fn holder(&self, wanted: VaRange, access: Access) -> Option<&BoundRange> {
        let first = wanted.address();
        let at = self.ranges.partition_point(|range| range.addresses.address() <= first);
        let range = self.ranges.get(at.checked_sub(1)?)?;
        let holds = !wanted.is_empty() && wanted.end() <= range.addresses.end();
        (holds && (access == Access::Read || range.access == Access::Write)).then_some(range)
    }

    /// What addresses mean. What is bound is not looked at for none of them: nothing then.
    ///
    /// # Errors
    /// [`AddressFault`].
    // M-167
    #[inline]
    pub(crate) fn reach(&self, wanted: VaRange, access: Access) -> Result<Option<Reached<'_>>, AddressFault> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let fault = |address, reason| Err(AddressFault { address, reason });
        let first = wanted.address();
        // The last range that does not begin behind the first address.
        let at = self.ranges.partition_point(|range| range.addresses.address() <= first);
        let range = at.checked_sub(1).and_then(|at| self.ranges.get(at));
        let Some(range) = range.filter(|range| first < range.addresses.end()) else {
            return fault(first, FaultReason::Unbound);
        };
        if access == Access::Write && range.access == Access::Read {
            return fault(first, FaultReason::ReadOnly);
        }
        if wanted.end() > range.addresses.end() {
            // Whatever begins there is another range, and other bytes.
            return fault(range.addresses.end(), FaultReason::Unbound);
        }
        let Ok(len) = usize::try_from(wanted.len()) else { return fault(first, FaultReason::Unbound) };
        Ok(Some(Reached { mapping: &range.mapping, len, offset: range.offset_of(first) }))
    }

    /// Where addresses lead, as [`AddressSpace::reach`] does, or else to the client's own memory.
    ///
    /// # Errors
    /// [`AddressFault`].
    #[inline]
    pub(crate) fn find(&self, wanted: VaRange, access: Access) -> Result<Option<Found<'_>>, AddressFault> {
        match (self.reach(wanted, access), &self.own) {
            (Ok(reached), _) => Ok(reached.map(Found::Bound)),
            // What is bound only in part counts as not bound.
            (Err(AddressFault { reason: FaultReason::Unbound, .. }), Some(own)) => {
                own.check(wanted, access)?;
                Ok(Some(Found::Own(own)))
            }
            (Err(fault), _) => Err(fault),
        }
    }

    /// Where a range that begins at this address is, or would be.
    fn place_of(&self, address: u64) -> usize {
        self.ranges.partition_point(|range| range.addresses.address() < address)
    }
}

#[cfg(test)]
mod tests;
