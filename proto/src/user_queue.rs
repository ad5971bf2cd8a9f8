//! The records of a user queue: what a client puts into the submission ring and a driver into the completion ring.
//!
//! ```text
//!   client ── Entry (64 bytes) ──► driver ── Completion (64 bytes) ──► client
//!                │ names, in the client's own virtual addresses
//!                ├──► operands: at most two, in the entry
//!                ├──► a block: further operands and parameters ([`Block`])
//!                └──► a batch: an array of entries, one completion for all ([`Batch`])
//! ```
//!
//! The broker sees none of this. Everything here is decoded from a private copy, checked once, and wrong or right as a
//! whole: an entry that is wrong is *refused*, completes with the code of the refusal, and the queue goes on. Whether
//! an address can be reached is not decided here, nor whether an operation takes such operands: that is the driver's.
//!
//! Nothing allocates; a driver decodes as many as a client cares to send. Where the records lie in memory is in
//! [`crate::layout::user_queue`].

mod block;
mod completion;
mod entry;
mod window;

pub use self::block::{BLOCK_HEAD_LEN, BLOCK_LEN, Block, VaOperand, VaParam, encode_block};
pub use self::completion::{Completion, FaultReason};
pub use self::entry::{Arguments, BATCH_ENTRIES, Batch, Call, Entry, EntryError, EntryFlags, Order, Work};
pub use self::window::{Window, check_windows};

use crate::layout::user_queue as layout;

/// The words of a slot: of an entry or a completion, without or with its sequence.
pub type Words = [u64; layout::SLOT_WORDS];

/// Which of them is the user's, of an entry and of a completion alike.
pub const USER: usize = 1;

/// How many entries a user queue holds: a power of two from 8 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Depth(u32);

impl Depth {
    /// A depth of `entries`; nothing if it is no power of two or outside of what is allowed.
    #[must_use]
    pub const fn new(entries: u32) -> Option<Self> {
        let allowed = layout::DEPTH_LEAST <= entries && entries <= layout::DEPTH_MOST;
        if allowed && entries.is_power_of_two() { Some(Self(entries)) } else { None }
    }

    /// The number of entries.
    #[must_use]
    #[inline]
    pub const fn entries(self) -> u32 {
        self.0
    }

    /// Bytes of the memory of a queue of this depth.
    #[must_use]
    pub const fn memory_len(self) -> usize {
        layout::len(self.0)
    }
}

/// A range of the client's virtual addresses: it does not begin at 0 and does not wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VaRange {
    address: u64,
    len: u64,
}

impl VaRange {
    /// `len` bytes from `address` on.
    ///
    /// # Errors
    /// [`EntryError::NoAddress`] for address 0; [`EntryError::Wraps`] if the end is beyond the last address.
    #[inline]
    pub const fn new(address: u64, len: u64) -> Result<Self, EntryError> {
        if address == 0 {
            return Err(EntryError::NoAddress { len });
        }
        if address.checked_add(len).is_none() {
            return Err(EntryError::Wraps { address, len });
        }
        Ok(Self { address, len })
    }

    /// The first address.
    #[must_use]
    #[inline]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Bytes.
    #[must_use]
    #[inline]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The address after the last.
    #[must_use]
    #[inline]
    pub const fn end(self) -> u64 {
        // `new` has checked that this does not wrap.
        self.address.wrapping_add(self.len)
    }
}

/// The sequence in the slot of number `number`: its low half.
#[must_use]
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
pub const fn sequence(number: u64) -> u32 {
    number as u32
}

/// The sequence that a first word has.
#[must_use]
#[inline]
pub const fn sequence_of(first: u64) -> u32 {
    (first >> 32) as u32
}

/// A first word with the sequence of `number` in place of the one it has.
#[must_use]
#[inline]
pub const fn with_sequence(first: u64, number: u64) -> u64 {
    (first & 0xffff_ffff) | ((sequence(number) as u64) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_is_a_power_of_two_within_its_limits() {
        let allowed = (0..=8192).filter(|entries| Depth::new(*entries).is_some());
        assert_eq!(allowed.collect::<Vec<_>>(), [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]);
    }

    #[test]
    fn the_memory_is_whole_pages_and_holds_both_rings() {
        let lens = [8, 32, 4096].map(|entries| Depth::new(entries).unwrap().memory_len());
        assert_eq!(lens, [8192, 8192, 4096 + 4096 * 128]);
    }

    #[test]
    fn a_range_neither_begins_nowhere_nor_wraps() {
        assert_eq!(VaRange::new(0, 0), Err(EntryError::NoAddress { len: 0 }));
        assert_eq!(VaRange::new(u64::MAX, 1), Err(EntryError::Wraps { address: u64::MAX, len: 1 }));
        let last = VaRange::new(u64::MAX - 1, 1).unwrap();
        assert_eq!((last.address(), last.end()), (u64::MAX - 1, u64::MAX));
    }

    #[test]
    fn a_sequence_is_the_low_half_of_the_number_in_the_upper_half_of_the_word() {
        let first = with_sequence(0xdead_beef_0123_4567, 0x9_8765_4321);
        assert_eq!((first, sequence_of(first)), (0x8765_4321_0123_4567, sequence(0x9_8765_4321)));
    }
}
