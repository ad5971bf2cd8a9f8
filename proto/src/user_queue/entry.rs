//! Entries: what a client asks of a driver, in 64 bytes.
//!
//! | word | an operation | a batch |
//! |---|---|---|
//! | 0 | operation, flags, sequence | 0, flags, sequence |
//! | 1 | the client's own number, comes back with the completion | the same |
//! | 2, 3 | operand 0: address, length; address 0 is none | address, number of entries |
//! | 4, 5 | operand 1 | 0 |
//! | 6, 7 | parameter 0; parameter 1 and which are given | 0 |
//! | 6, 7 | with BLOCK: address and length of a block | |
//!
//! Decoding takes eight words that nobody else can change any more, and gives an entry that is right in itself, or why
//! it is refused.

use super::{BLOCK_HEAD_LEN, BLOCK_LEN, VaRange, Words};
use crate::error::ErrorCode;
use crate::layout::user_queue::SLOT_LEN;

/// Most entries of a batch.
pub const BATCH_ENTRIES: u32 = 256;

/// What the address of a batch is a multiple of, bytes: its entries are read word by word.
const BATCH_ALIGN: u64 = 8;

/// Bit of the word that says which parameters are given: parameter 0.
const GIVEN_FIRST: u64 = 1 << 32;
/// The same: parameter 1.
const GIVEN_SECOND: u64 = 1 << 33;

bitflags::bitflags! {
    /// The flags of an entry. One that is not known is refused, with a code of its own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct EntryFlags: u16 {
        /// Runs only if the entry before it ended ok, and after it.
        const CHAIN = 1;
        /// Starts only when all entries before it have ended.
        const BARRIER = 2;
        /// Names an array of entries; ends when all of them have.
        const BATCH = 4;
        /// Further operands and the parameters are in a block.
        const BLOCK = 8;
    }
}

bitflags::bitflags! {
    /// What an entry waits for in its own queue; nothing set: for nothing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Order: u16 {
        /// As [`EntryFlags::CHAIN`].
        const CHAIN = EntryFlags::CHAIN.bits();
        /// As [`EntryFlags::BARRIER`].
        const BARRIER = EntryFlags::BARRIER.bits();
    }
}

/// One entry of a submission ring, or of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The client's own number; it comes back with the completion and means nothing to anybody else.
    pub user: u64,
    /// What it waits for in its queue.
    pub order: Order,
    /// What is to be done.
    pub work: Work,
}

/// What an entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One operation.
    Call(Call),
    /// Several entries.
    Batch(Batch),
}

/// One operation of the queue's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number in the device's description.
    pub op: u16,
    /// The operands of numbers 0 and 1, where they are.
    pub operands: [Option<VaRange>; 2],
    /// The rest.
    pub arguments: Arguments,
}

/// What an operation takes besides operands 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// Parameters 0 and 1, where they are given, and nothing else.
    Inline {
        /// Parameter 0.
        first: Option<u64>,
        /// Parameter 1.
        second: Option<u32>,
    },
    /// All parameters and the operands from number 2 on, in a [`super::Block`]: from 8 to [`BLOCK_LEN`] bytes.
    Block(VaRange),
}

impl Arguments {
    /// No parameters, no further operands.
    pub const NONE: Self = Self::Inline { first: None, second: None };
}

/// An array of entries in the client's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    entries: VaRange,
}

impl Batch {
    /// `count` entries of 64 bytes at `address`.
    ///
    /// # Errors
    /// [`EntryError::BatchLen`] for none, or more than [`BATCH_ENTRIES`]; [`EntryError::Misaligned`] unless the address
    /// is a multiple of 8; as [`VaRange::new`].
    #[inline]
    pub const fn new(address: u64, count: u64) -> Result<Self, EntryError> {
        if count == 0 || count > BATCH_ENTRIES as u64 {
            return Err(EntryError::BatchLen { count });
        }
        if !address.is_multiple_of(BATCH_ALIGN) {
            return Err(EntryError::Misaligned { address });
        }
        match VaRange::new(address, count * SLOT_LEN as u64) {
            Ok(entries) => Ok(Self { entries }),
            Err(error) => Err(error),
        }
    }

    /// Where its entries are.
    #[must_use]
    #[inline]
    pub const fn range(self) -> VaRange {
        self.entries
    }

    /// How many there are: from 1 to [`BATCH_ENTRIES`].
    #[must_use]
    #[inline]
    pub const fn count(self) -> u64 {
        self.entries.len() / SLOT_LEN as u64
    }
}

/// Why an entry is refused. It completes with [`EntryError::code`] and [`EntryError::value`]; nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A flag that this version does not know, or that does not go with another.
    #[error("unknown flags {0:#x}")]
    UnknownFlags(u16),
    /// What must be zero is not.
    #[error("word {word} has a part that must be zero")]
    NotZero {
        /// Which word of the entry.
        word: u8,
    },
    /// There is a length without an address, or an address is needed.
    #[error("{len} bytes at address 0")]
    NoAddress {
        /// Bytes.
        len: u64,
    },
    /// The range ends beyond the last address.
    #[error("{len} bytes from {address:#x} on leave the address space")]
    Wraps {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// The array of a batch does not begin at a multiple of 8.
    #[error("a batch at {address:#x}, which is no multiple of 8")]
    Misaligned {
        /// The address.
        address: u64,
    },
    /// A batch without entries, or with too many.
    #[error("a batch of {count} entries, 1 to {BATCH_ENTRIES} are allowed")]
    BatchLen {
        /// How many.
        count: u64,
    },
    /// A block that is too short or too long.
    #[error("a block of {len} bytes, {BLOCK_HEAD_LEN} to {BLOCK_LEN} are allowed")]
    BlockLen {
        /// Bytes.
        len: u64,
    },
    /// A batch inside of a batch.
    #[error("a batch inside of a batch")]
    Nested,
    /// The first entry of a batch is chained: the batch itself can be.
    #[error("the first entry of a batch has nothing before it to be chained to")]
    NothingBefore,
}

impl EntryError {
    /// The code that the entry completes with: a refusal's.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::UnknownFlags(_) => ErrorCode::UnknownFlag,
            Self::NotZero { .. } => ErrorCode::Malformed,
            Self::NoAddress { .. } => ErrorCode::BadOperand,
            Self::Wraps { .. } | Self::BatchLen { .. } | Self::BlockLen { .. } => ErrorCode::OutOfRange,
            Self::Misaligned { .. } => ErrorCode::Misaligned,
            Self::Nested | Self::NothingBefore => ErrorCode::Unsupported,
        }
    }

    /// What was found, for the completion.
    #[must_use]
    pub fn value(self) -> u64 {
        match self {
            Self::UnknownFlags(flags) => u64::from(flags),
            Self::NotZero { word } => u64::from(word),
            Self::NoAddress { len } | Self::Wraps { len, .. } | Self::BlockLen { len } => len,
            Self::Misaligned { address } => address,
            Self::BatchLen { count } => count,
            Self::Nested | Self::NothingBefore => 0,
        }
    }
}

impl Entry {
    /// The entry in the words of a slot, whatever its sequence.
    ///
    /// # Errors
    /// [`EntryError`], the first that applies.
    #[inline]
    pub fn decode(words: &Words) -> Result<Self, EntryError> {
        let [first, user, ..] = *words;
        let op = low16(first);
        let raw = low16(first >> 16);
        let flags = EntryFlags::from_bits(raw).ok_or(EntryError::UnknownFlags(unknown(raw)))?;
        let order = Order::from_bits_truncate(raw);
        let work = if flags.contains(EntryFlags::BATCH) {
            Work::Batch(batch(op, flags, words)?)
        } else {
            Work::Call(call(op, flags, words)?)
        };
        Ok(Self { user, order, work })
    }

    /// Entry number `index` of a batch, in the words that were read of it.
    ///
    /// # Errors
    /// As [`Entry::decode`]; and for a sequence that is not 0, a batch, or a first entry that is chained.
    #[inline]
    pub fn decode_in_batch(words: &Words, index: u64) -> Result<Self, EntryError> {
        let [first, ..] = *words;
        if super::sequence_of(first) != 0 {
            return Err(EntryError::NotZero { word: 0 });
        }
        let entry = Self::decode(words);
        match &entry {
            Ok(Self { work: Work::Batch(_), .. }) => Err(EntryError::Nested),
            Ok(Self { order, .. }) if index == 0 && order.contains(Order::CHAIN) => {
                Err(EntryError::NothingBefore)
            }
            Ok(_) | Err(_) => entry,
        }
    }

    /// The words of the entry, with sequence 0: as in a batch, and what the ring puts its sequence into.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> Words {
        let (op, flags, rest) = match self.work {
            Work::Call(call) => {
                let (flags, words) = call.encode();
                (call.op, flags, words)
            }
            Work::Batch(batch) => {
                let range = batch.range();
                (0, EntryFlags::BATCH, [range.address(), batch.count(), 0, 0, 0, 0])
            }
        };
        let flags = flags.bits() | self.order.bits();
        let [a, b, c, d, e, f] = rest;
        [u64::from(op) | u64::from(flags) << 16, self.user, a, b, c, d, e, f]
    }
}

impl Call {
    #[inline]
    fn encode(&self) -> (EntryFlags, [u64; 6]) {
        let [zero, one] =
            self.operands.map(|operand| operand.map_or((0, 0), |range| (range.address(), range.len())));
        let (flags, rest) = match self.arguments {
            Arguments::Inline { first, second } => {
                let given = first.map_or(0, |_| GIVEN_FIRST) | second.map_or(0, |_| GIVEN_SECOND);
                (EntryFlags::empty(), (first.unwrap_or(0), u64::from(second.unwrap_or(0)) | given))
            }
            Arguments::Block(block) => (EntryFlags::BLOCK, (block.address(), block.len())),
        };
        (flags, [zero.0, zero.1, one.0, one.1, rest.0, rest.1])
    }
}

#[inline]
fn batch(op: u16, flags: EntryFlags, words: &Words) -> Result<Batch, EntryError> {
    if flags.contains(EntryFlags::BLOCK) {
        return Err(EntryError::UnknownFlags(EntryFlags::BLOCK.bits()));
    }
    let [_, _, address, count, rest @ ..] = *words;
    if op != 0 {
        return Err(EntryError::NotZero { word: 0 });
    }
    for (word, value) in (4..).zip(rest) {
        if value != 0 {
            return Err(EntryError::NotZero { word });
        }
    }
    Batch::new(address, count)
}

#[inline]
fn call(op: u16, flags: EntryFlags, words: &Words) -> Result<Call, EntryError> {
    let [_, _, address0, len0, address1, len1, first, second] = *words;
    let operands = [operand(address0, len0)?, operand(address1, len1)?];
    let arguments = if flags.contains(EntryFlags::BLOCK) {
        if second < BLOCK_HEAD_LEN as u64 || second > BLOCK_LEN as u64 {
            return Err(EntryError::BlockLen { len: second });
        }
        Arguments::Block(VaRange::new(first, second)?)
    } else {
        inline(first, second)?
    };
    Ok(Call { op, operands, arguments })
}

#[inline]
fn operand(address: u64, len: u64) -> Result<Option<VaRange>, EntryError> {
    match (address, len) {
        (0, 0) => Ok(None),
        _ => VaRange::new(address, len).map(Some),
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is the parameter")]
fn inline(first: u64, second: u64) -> Result<Arguments, EntryError> {
    let (has_first, has_second) = (second & GIVEN_FIRST != 0, second & GIVEN_SECOND != 0);
    if second & !(GIVEN_FIRST | GIVEN_SECOND | 0xffff_ffff) != 0 || (!has_second && second as u32 != 0) {
        return Err(EntryError::NotZero { word: 7 });
    }
    if !has_first && first != 0 {
        return Err(EntryError::NotZero { word: 6 });
    }
    Ok(Arguments::Inline { first: has_first.then_some(first), second: has_second.then_some(second as u32) })
}

#[inline]
const fn unknown(raw: u16) -> u16 {
    raw & !EntryFlags::all().bits()
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low part is what is wanted")]
const fn low16(word: u64) -> u16 {
    word as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: u64, len: u64) -> VaRange {
        VaRange::new(address, len).unwrap()
    }

    fn copy() -> Entry {
        let operands = [Some(range(0x1000, 64)), Some(range(0x2000, 64))];
        let work = Work::Call(Call { op: 0, operands, arguments: Arguments::NONE });
        Entry { user: 7, order: Order::empty(), work }
    }

    /// The words of a copy with one of them changed.
    fn changed(word: usize, change: impl Fn(u64) -> u64) -> Result<Entry, EntryError> {
        let mut words = copy().encode();
        words[word] = change(words[word]);
        Entry::decode(&words)
    }

    // M-152
    #[test]
    fn a_flag_that_is_not_known_is_refused_with_its_own_code() {
        let refused = changed(0, |word| word | 0x8013 << 16);
        assert_eq!(refused, Err(EntryError::UnknownFlags(0x8010)));
        assert_eq!(refused.map_err(|e| (e.code(), e.value())), Err((ErrorCode::UnknownFlag, 0x8010)));
    }

    #[test]
    fn a_parameter_that_is_not_given_has_no_value() {
        assert_eq!(changed(6, |_| 1), Err(EntryError::NotZero { word: 6 }));
        assert_eq!(changed(7, |_| 1), Err(EntryError::NotZero { word: 7 }));
        assert_eq!(changed(7, |_| 1 << 34), Err(EntryError::NotZero { word: 7 }));
    }

    #[test]
    fn a_parameter_of_0_is_not_the_same_as_none() {
        let given = changed(7, |_| GIVEN_FIRST | GIVEN_SECOND).map(|entry| entry.work);
        let Ok(Work::Call(Call { arguments, .. })) = given else { panic!("{given:?}") };
        assert_eq!(arguments, Arguments::Inline { first: Some(0), second: Some(0) });
    }

    #[test]
    fn an_operand_is_there_if_it_has_an_address() {
        assert_eq!(changed(4, |_| 0), Err(EntryError::NoAddress { len: 64 }));
        assert_eq!(changed(2, |_| u64::MAX), Err(EntryError::Wraps { address: u64::MAX, len: 64 }));
        let empty = changed(3, |_| 0).map(|entry| entry.work);
        let Ok(Work::Call(Call { operands: [Some(zero), _], .. })) = empty else { panic!("{empty:?}") };
        assert!(zero.is_empty());
    }

    #[test]
    fn a_batch_is_one_to_256_aligned_entries_and_nothing_else() {
        assert_eq!(Batch::new(64, 0), Err(EntryError::BatchLen { count: 0 }));
        assert_eq!(Batch::new(64, 257), Err(EntryError::BatchLen { count: 257 }));
        assert_eq!(Batch::new(68, 1), Err(EntryError::Misaligned { address: 68 }));
        let batch = Entry { work: Work::Batch(Batch::new(64, 256).unwrap()), ..copy() };
        assert_eq!(Entry::decode(&batch.encode()), Ok(batch));
        for word in [0, 4, 5, 6, 7] {
            let mut words = batch.encode();
            words[word] |= 1;
            assert!(Entry::decode(&words).is_err(), "word {word}");
        }
    }

    #[test]
    fn a_batch_has_no_block() {
        let mut words = Entry { work: Work::Batch(Batch::new(64, 1).unwrap()), ..copy() }.encode();
        words[0] |= u64::from(EntryFlags::BLOCK.bits()) << 16;
        assert_eq!(Entry::decode(&words), Err(EntryError::UnknownFlags(8)));
    }

    // M-157
    #[test]
    fn a_batch_holds_no_batch_and_begins_unchained() {
        let batch = Entry { work: Work::Batch(Batch::new(64, 1).unwrap()), ..copy() };
        assert_eq!(Entry::decode_in_batch(&batch.encode(), 1), Err(EntryError::Nested));
        let chained = Entry { order: Order::CHAIN, ..copy() };
        assert_eq!(Entry::decode_in_batch(&chained.encode(), 0), Err(EntryError::NothingBefore));
        assert_eq!(Entry::decode_in_batch(&chained.encode(), 1), Ok(chained));
        let mut words = chained.encode();
        words[0] |= 1 << 32;
        assert_eq!(Entry::decode_in_batch(&words, 1), Err(EntryError::NotZero { word: 0 }));
    }

    #[test]
    fn a_block_has_a_head_and_a_limit() {
        let of = |len| {
            let block = Call { op: 0, operands: [None; 2], arguments: Arguments::Block(range(64, len)) };
            Entry::decode(&Entry { work: Work::Call(block), ..copy() }.encode()).map(|_| ())
        };
        assert_eq!(of(BLOCK_LEN as u64), Ok(()));
        for len in [0, 7, BLOCK_LEN as u64 + 1, 1 << 32] {
            assert_eq!(of(len), Err(EntryError::BlockLen { len }));
        }
    }
}
