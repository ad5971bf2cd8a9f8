//! Bindings: which ranges of which buffers the driver of a user queue reaches, and at which addresses.
//!
//! ```text
//!   reserve ─► asked ──Done──► bound ──reserve_unbind──► leaving ──Done──► gone
//!                └─ refused ─► gone  ▲                      │
//!                                    └────── refused ───────┘
//! ```
//!
//! This is the client's own table. The driver has its own, and decides by that; what is looked up here tells mistakes
//! early, and tells the ledger which bytes of which buffer an entry uses. A [`Binding`] is a name in this table and keeps
//! nothing: the table keeps the memory, mapped where it was, until the binding is undone or the queue goes.
//!
//! Invariants: no two bindings overlap; a place that is used again has another number, so a stale [`Binding`] is found out;
//! a binding does not go while an entry that names it has not ended.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use vgem_proto::rights::Access;

use super::range::AddressRange;
use crate::access::bounds;
use crate::buffer::BufferShared;
use crate::error::LocalError;
use crate::ledger::Ledger;

/// A range of a buffer that the driver of a user queue reaches at an address.
///
/// It is a name and no guard: copying and dropping it does nothing. Undoing a binding takes a round trip that may be
/// refused, and must not happen while an entry that names it is under way; a `drop` could neither wait nor say so. So it
/// is undone by [`crate::UserQueue::unbind`], or with the queue, and until then the queue keeps the memory. One that was
/// undone is refused by its number, and never taken for another that came to the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    pub(crate) queue: u64,
    pub(crate) place: u32,
    pub(crate) number: u64,
    address: u64,
    len: u64,
    access: Access,
}

impl Binding {
    /// The address of the first byte, as entries name it.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: nothing is bound without a byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What entries may do there.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// A part of it, counted from its first byte. One that leaves it is refused where it is used, unless the next
    /// binding begins there.
    #[must_use]
    #[inline]
    pub fn range(&self, range: impl RangeBounds<u64>) -> AddressRange {
        let Range { start, end } = bounds(&range, self.len);
        AddressRange::hinted(self.address.saturating_add(start), end.saturating_sub(start), self.place)
    }
}

/// What is bound at a place of the table.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) number: u64,
    pub(crate) buffer: Arc<BufferShared>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) address: u64,
    pub(crate) len: u64,
    /// First byte of the range in the buffer.
    pub(crate) offset: u64,
    pub(crate) access: Access,
    /// Entries may name it.
    pub(crate) ready: bool,
    /// Uses of it by entries that have not ended.
    pub(crate) uses: u32,
}

impl Bound {
    #[inline]
    fn holds(&self, range: &AddressRange) -> bool {
        let ahead = range.address().wrapping_sub(self.address);
        self.ready && ahead <= self.len && range.len() <= self.len - ahead
    }

    fn overlaps(&self, address: u64, len: u64) -> bool {
        address < self.address.saturating_add(self.len) && self.address < address.saturating_add(len)
    }
}

/// Everything that is bound to one queue.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    places: Vec<Option<Bound>>,
    /// Places that hold something, in the order of the addresses.
    order: Vec<u32>,
    last: u64,
}

/// What is to be bound.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) buffer: Arc<BufferShared>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) address: u64,
    pub(crate) access: Access,
}

impl Bindings {
    /// The binding that `range` was taken from, if it holds all of it still and allows `access`; else
    /// [`Bindings::search`].
    #[inline]
    pub(crate) fn hinted(&mut self, range: &AddressRange, access: Access) -> Option<&mut Bound> {
        let bound = self.get_mut(range.hint)?;
        let allows = access == Access::Read || bound.access == Access::Write;
        (allows && bound.holds(range)).then_some(bound)
    }

    /// The place of the binding that holds all of `range` and allows `access`.
    pub(crate) fn search(&self, range: &AddressRange, access: Access) -> Result<u32, LocalError> {
        let before = self
            .order
            .partition_point(|place| self.get(*place).is_some_and(|bound| bound.address <= range.address()));
        let place = before.checked_sub(1).and_then(|last| self.order.get(last)).copied();
        let found = place.and_then(|place| self.get(place).map(|bound| (place, bound)));
        let (address, len) = (range.address(), range.len());
        match found {
            Some((place, bound)) if bound.holds(range) => {
                if access == Access::Write && bound.access == Access::Read {
                    return Err(LocalError::BoundForReading { address, len });
                }
                Ok(place)
            }
            Some((_, bound)) => {
                let nearest = Some(bound.address..bound.address.saturating_add(bound.len));
                Err(LocalError::NotBound { address, len, nearest })
            }
            None => {
                let first = self.order.first().and_then(|place| self.get(*place));
                let nearest = first.map(|bound| bound.address..bound.address.saturating_add(bound.len));
                Err(LocalError::NotBound { address, len, nearest })
            }
        }
    }

    /// The address at which a range of a buffer is bound for `access`, if it is.
    pub(crate) fn address_of(
        &self,
        buffer: &BufferShared,
        range: &Range<u64>,
        access: Access,
    ) -> Option<AddressRange> {
        (0..).zip(&self.places).find_map(|(place, bound)| {
            let bound = bound.as_ref()?;
            let inside = bound.offset <= range.start && range.end <= bound.offset + bound.len;
            let allowed = bound.ready && (access == Access::Read || bound.access == Access::Write);
            let same = bound.buffer.handle() == buffer.handle();
            (same && inside && allowed).then(|| {
                let address = bound.address + (range.start - bound.offset);
                AddressRange::hinted(address, range.end - range.start, place)
            })
        })
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Bound> {
        self.places.get(place as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut Bound> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// How many there are, those that are asked for included.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Keeps a place for what the driver is about to be asked to reach. Entries cannot name it yet.
    pub(crate) fn reserve(&mut self, queue: u64, wanted: Wanted) -> Result<Binding, LocalError> {
        let Wanted { buffer, offset, len, address, access } = wanted;
        let mut all = self.order.iter().filter_map(|place| self.get(*place));
        if let Some(other) = all.find(|bound| bound.overlaps(address, len)) {
            let taken = other.address..other.address.saturating_add(other.len);
            return Err(LocalError::AlreadyBound { address, len, taken });
        }
        self.last += 1;
        let number = self.last;
        let ledger = Arc::clone(&buffer.ledger);
        let bound = Bound { number, buffer, ledger, address, len, offset, access, ready: false, uses: 0 };
        let free = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        match self.places.get_mut(free) {
            Some(place) => *place = Some(bound),
            None => self.places.push(Some(bound)),
        }
        let place = u32::try_from(free).unwrap_or(u32::MAX);
        let at =
            self.order.partition_point(|other| self.get(*other).is_some_and(|one| one.address < address));
        self.order.insert(at, place);
        Ok(Binding { queue, place, number, address, len, access })
    }

    /// What a binding names, if it was not undone.
    pub(crate) fn named(&mut self, binding: &Binding) -> Result<&mut Bound, LocalError> {
        let (address, len) = (binding.address, binding.len);
        let gone = LocalError::NotBound { address, len, nearest: None };
        self.get_mut(binding.place).filter(|bound| bound.number == binding.number).ok_or(gone)
    }

    /// Takes a binding out of the table; what it kept is the caller's to drop.
    pub(crate) fn remove(&mut self, binding: &Binding) -> Option<Bound> {
        self.named(binding).ok()?;
        self.order.retain(|place| *place != binding.place);
        self.places.get_mut(binding.place as usize)?.take()
    }

    /// Whether anything of this ledger's memory is bound.
    pub(crate) fn names(&self, ledger: &Arc<Ledger>) -> bool {
        self.places.iter().flatten().any(|bound| Arc::ptr_eq(&bound.ledger, ledger))
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<Bound> {
        self.order.clear();
        std::mem::take(&mut self.places).into_iter().flatten().collect()
    }
}
