//! The codec: fixed-size little-endian records, no recursion, no allocation that the sender chooses.
//!
//! A message is a head of [`HEAD_LEN`] bytes, a **fixed part** (`fixed` bytes, padded to 8), then its arrays one
//! after the other, each padded to 8. In the fixed part an array is its element count and its **stride**.
//!
//! Size-first: a fixed part or a stride shorter than ours is filled with zeros; a longer one is accepted if the
//! rest is zero ([`Malformed::NonZeroTail`] otherwise). So both sides may grow without a new version.
//!
//! Decoding never panics and never reads outside the message: all access goes through [`Reader`].

/// Bytes of a message head.
pub const HEAD_LEN: usize = 32;

/// Why bytes are not a message. The peer's fault; the connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than the part being read needs.
    #[error("message ends {missing} bytes too early")]
    Short {
        /// How many bytes more were needed.
        missing: usize,
    },
    /// The head's size is not the number of bytes received.
    #[error("head says {said} bytes, {got} were received")]
    SizeMismatch {
        /// What the head says.
        said: u64,
        /// What arrived.
        got: u64,
    },
    /// Bytes after the last array.
    #[error("{extra} bytes after the end of the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A part this version does not know is not zero.
    #[error("a part unknown to this version is not zero")]
    NonZeroTail,
    /// The opcode is not in the table.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u16),
    /// A flag is not known for this message.
    #[error("unknown flags {0:#x}")]
    UnknownFlags(u16),
    /// A field holds a value outside its set.
    #[error("{field} has no value {value}")]
    BadValue {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// More elements than the limit.
    #[error("{field} has {count} elements, the limit is {limit}")]
    TooMany {
        /// Which array.
        field: &'static str,
        /// How many were announced.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotText {
        /// Which field.
        field: &'static str,
    },
    /// The number of fds that came along is not what the table says.
    #[error("{got} fds came with the message, {expected} belong to it")]
    WrongFds {
        /// What came.
        got: usize,
        /// What the table says.
        expected: usize,
    },
}

/// Collects the bytes of a message.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with room for a small message.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(256) }
    }

    /// A writer that reuses the storage of `bytes`, which it empties.
    #[must_use]
    pub fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes }
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends zeros up to the next multiple of 8.
    pub fn pad8(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Replaces 4 bytes at `at`, which must have been written already.
    pub(crate) fn patch_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The message.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a message, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed::Short`] when there are fewer.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes.split_at_checked(len) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => Err(Malformed::Short { missing: len.saturating_sub(self.bytes.len()) }),
        }
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed::Short`] when there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.bytes.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(*head)
            }
            None => Err(Malformed::Short { missing: N.saturating_sub(self.bytes.len()) }),
        }
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Something of a fixed size inside a fixed part or a record.
pub trait Field: Sized {
    /// Bytes on the wire.
    const SIZE: usize;
    /// Appends exactly [`Self::SIZE`] bytes.
    fn put(&self, w: &mut Writer);
    /// Takes exactly [`Self::SIZE`] bytes.
    ///
    /// # Errors
    /// [`Malformed`] when they are not such a thing.
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed>;
}

macro_rules! int_field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            const SIZE: usize = size_of::<$int>();
            fn put(&self, w: &mut Writer) {
                w.raw(&self.to_le_bytes());
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                r.array().map(<$int>::from_le_bytes)
            }
        }
    )*};
}
int_field!(u8, u16, u32, u64, i32);

/// `N` bytes that must be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zero<const N: usize>;

impl<const N: usize> Field for Zero<N> {
    const SIZE: usize = N;
    fn put(&self, w: &mut Writer) {
        w.raw(&[0; N]);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        if r.array::<N>()?.iter().all(|b| *b == 0) { Ok(Self) } else { Err(Malformed::NonZeroTail) }
    }
}

impl Field for [u64; 2] {
    const SIZE: usize = 16;
    fn put(&self, w: &mut Writer) {
        for half in self {
            half.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok([u64::take(r)?, u64::take(r)?])
    }
}

/// Reads a thing of `size` own bytes from a part that is `given` bytes long, by the size-first rule.
///
/// # Errors
/// [`Malformed::Short`] if the message ends inside the part, [`Malformed::NonZeroTail`] if a longer part has
/// something in what we do not know, and what `read` says.
pub fn sized<T>(
    r: &mut Reader<'_>,
    given: usize,
    size: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let part = r.bytes(given)?;
    if let Some((known, tail)) = part.split_at_checked(size) {
        if tail.iter().any(|b| *b != 0) {
            return Err(Malformed::NonZeroTail);
        }
        read(&mut Reader::new(known))
    } else {
        let mut filled = part.to_vec();
        filled.resize(size, 0);
        read(&mut Reader::new(&filled))
    }
}

/// Takes the zeros that pad a part of `given` bytes to a multiple of 8.
///
/// # Errors
/// [`Malformed::Short`] if they are missing, [`Malformed::NonZeroTail`] if they are not zeros.
pub fn take_padding(r: &mut Reader<'_>, given: usize) -> Result<(), Malformed> {
    let padding = r.bytes(given.next_multiple_of(8) - given)?;
    if padding.iter().all(|b| *b == 0) { Ok(()) } else { Err(Malformed::NonZeroTail) }
}

/// Writes an array's place in the fixed part: element count and stride.
pub fn put_array_head<T: Field>(w: &mut Writer, elements: &[T]) {
    u32::try_from(elements.len()).unwrap_or(u32::MAX).put(w);
    u32::try_from(T::SIZE).unwrap_or(u32::MAX).put(w);
}

/// Writes an array's elements and pads to 8.
pub fn put_array<T: Field>(w: &mut Writer, elements: &[T]) {
    for element in elements {
        element.put(w);
    }
    w.pad8();
}

/// Reads an array of `count` elements that are `stride` bytes apart.
///
/// # Errors
/// [`Malformed::TooMany`] past `limit`; a stride of 0 with elements is [`Malformed::BadValue`]; else as [`sized`].
pub fn take_array<T: Field>(
    r: &mut Reader<'_>,
    count: u32,
    stride: u32,
    field: &'static str,
    limit: usize,
) -> Result<Vec<T>, Malformed> {
    let too_many = Malformed::TooMany { field, count: u64::from(count), limit: limit as u64 };
    let count = usize::try_from(count).map_err(|_| too_many)?;
    if count > limit {
        return Err(too_many);
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let stride = usize::try_from(stride).unwrap_or(usize::MAX);
    if stride == 0 {
        return Err(Malformed::BadValue { field, value: 0 });
    }
    let len = count.checked_mul(stride).ok_or(too_many)?;
    let padded = len.checked_next_multiple_of(8).ok_or(too_many)?;
    let mut body = Reader::new(r.bytes(padded)?);
    let mut elements = Vec::with_capacity(count);
    if stride == T::SIZE {
        for _ in 0..count {
            elements.push(T::take(&mut body)?);
        }
    } else {
        for _ in 0..count {
            elements.push(sized(&mut body, stride, T::SIZE, T::take)?);
        }
    }
    if body.rest().iter().any(|b| *b != 0) {
        return Err(Malformed::NonZeroTail);
    }
    Ok(elements)
}

/// Declares a record: a struct of fields in wire order, without gaps.
#[macro_export]
macro_rules! record {
    ($(#[$doc:meta])* pub struct $name:ident $(<$g:ident>)? { $($(#[$fdoc:meta])* pub $field:ident : $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name $(<$g>)? { $($(#[$fdoc])* pub $field: $ty,)* }

        impl $(<$g: $crate::codec::Field>)? $name $(<$g>)? {
            /// The fields in wire order: name, type, and size in bytes.
            pub const FIELDS: &'static [(&'static str, &'static str, usize)] =
                &[$((stringify!($field), stringify!($ty), <$ty as $crate::codec::Field>::SIZE),)*];
        }

        impl $(<$g: $crate::codec::Field>)? $crate::codec::Field for $name $(<$g>)? {
            const SIZE: usize = 0 $(+ <$ty as $crate::codec::Field>::SIZE)*;
            #[inline]
            fn put(&self, w: &mut $crate::codec::Writer) {
                $($crate::codec::Field::put(&self.$field, w);)*
            }
            #[inline]
            fn take(r: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::Malformed> {
                Ok(Self { $($field: $crate::codec::Field::take(r)?,)* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Pair {
        one: u32,
        other: u32,
    }

    impl Field for Pair {
        const SIZE: usize = 8;
        fn put(&self, w: &mut Writer) {
            self.one.put(w);
            self.other.put(w);
        }
        fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
            Ok(Self { one: u32::take(r)?, other: u32::take(r)? })
        }
    }

    fn array_of(bytes: &[u8], count: u32, stride: u32) -> Result<Vec<Pair>, Malformed> {
        let mut r = Reader::new(bytes);
        let pairs = take_array(&mut r, count, stride, "pairs", 3)?;
        assert!(r.rest().is_empty(), "{} bytes are left", r.rest().len());
        Ok(pairs)
    }

    // M-007
    #[test]
    fn a_shorter_part_is_filled_with_zeros() {
        let read = sized(&mut Reader::new(&[1, 0, 0, 0, 2]), 5, Pair::SIZE, Pair::take);
        assert_eq!(read, Ok(Pair { one: 1, other: 2 }));
    }

    // M-008
    #[test]
    fn a_longer_part_must_be_zero_where_we_do_not_know_it() {
        let longer =
            |last| sized(&mut Reader::new(&[1, 0, 0, 0, 2, 0, 0, 0, last]), 9, Pair::SIZE, Pair::take);
        assert_eq!(longer(0), Ok(Pair { one: 1, other: 2 }));
        assert_eq!(longer(1), Err(Malformed::NonZeroTail));
    }

    // M-009, M-010
    #[test]
    fn the_limit_of_an_array_holds_before_anything_of_it_is_read() {
        let too_many = Malformed::TooMany { field: "pairs", count: 4, limit: 3 };
        assert_eq!(array_of(&[], 4, 8), Err(too_many));
        assert_eq!(array_of(&[], 4, 0), Err(too_many));
        assert_eq!(array_of(&[], 1, 0), Err(Malformed::BadValue { field: "pairs", value: 0 }));
        assert_eq!(array_of(&[], 0, 0), Ok(vec![]));
    }

    // M-005
    #[test]
    fn an_array_is_padded_to_eight_with_zeros() {
        let one = [7, 0, 0, 0, 8, 0, 0, 0];
        assert_eq!(array_of(&one, 2, 4), Ok(vec![Pair { one: 7, other: 0 }, Pair { one: 8, other: 0 }]));
        assert_eq!(array_of(&one, 1, 5), Ok(vec![Pair { one: 7, other: 8 }]));
        assert_eq!(array_of(&one, 1, 4), Err(Malformed::NonZeroTail));
    }

    // M-006
    #[test]
    fn a_reader_says_how_much_is_missing() {
        assert_eq!(Reader::new(&[1, 2]).bytes(5), Err(Malformed::Short { missing: 3 }));
        assert_eq!(u64::take(&mut Reader::new(&[1, 2])), Err(Malformed::Short { missing: 6 }));
    }
}
