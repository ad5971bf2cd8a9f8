//! The message tables: one row gives a message's number, name, sender, fds and fields.
//!
//! Opcodes, structs, encoding, decoding and the rows that SPEC.md and the tests read all come from the tables at
//! the end of this file. There are five links: client and broker ([`client`]), driver and broker ([`driver`]),
//! keeper and broker ([`keeper`]), porter and both its client and the broker ([`porter`]), control and broker
//! ([`control`]). Opcode spaces are separate. A message that answers a request carries the request's id; messages of the
//! broker's own accord carry id 0.

use crate::codec::{Field, HEAD_LEN, Malformed, Reader, Writer};
use crate::ids::Time;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A client.
    Client,
    /// The broker.
    Broker,
    /// A driver instance.
    Driver,
    /// The keeper.
    Keeper,
    /// A porter.
    Porter,
    /// Control.
    Control,
}

/// One row of a message table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The opcode.
    pub opcode: u16,
    /// The name.
    pub name: &'static str,
    /// The version that introduced it.
    pub since: u16,
    /// Who sends it.
    pub sender: Sender,
    /// The fds that come along, by name; either all or, where `optional_fds`, none.
    pub fds: &'static [&'static str],
    /// The array of which every element brings these fds, in the order of the elements.
    pub fds_each: Option<&'static str>,
    /// Whether the fds may be absent.
    pub optional_fds: bool,
    /// Flags that may be set in the head.
    pub flags: u16,
    /// Bytes of the fixed part.
    pub fixed: usize,
    /// The fields of the fixed part, by name and size in bytes.
    pub fields: &'static [(&'static str, usize)],
    /// The types of the fields, by the names SPEC.md gives them.
    pub types: &'static [&'static str],
    /// The arrays, by name and stride in bytes.
    pub arrays: &'static [(&'static str, usize)],
    /// The types of the arrays' elements, by the names SPEC.md gives them.
    pub elements: &'static [&'static str],
    /// The most elements each array may have.
    pub most: &'static [usize],
}

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Bytes of the whole message.
    pub size: u32,
    /// Which message.
    pub opcode: u16,
    /// Flags of the message.
    pub flags: u16,
    /// The sender's number for the request; the answer repeats it.
    pub request: u64,
    /// When the sender stops waiting: absolute CLOCK_MONOTONIC; 0 is "do not wait".
    pub deadline: Time,
    /// Bytes of the fixed part.
    pub fixed: u16,
}

impl Head {
    /// The head at the start of `bytes`, without looking at the rest.
    ///
    /// # Errors
    /// [`Malformed`] when it is short, its size is not the number of bytes, or a reserved part is not zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let head = Self::take(r)?;
        if u64::from(head.size) != bytes.len() as u64 {
            return Err(Malformed::SizeMismatch { said: u64::from(head.size), got: bytes.len() as u64 });
        }
        Ok(head)
    }

    /// The request id in bytes that may be no message at all; 0 if they have no whole head. For answers to bad
    /// messages.
    #[must_use]
    pub fn request_of(bytes: &[u8]) -> u64 {
        let head = Reader::new(bytes).array::<HEAD_LEN>();
        head.ok().and_then(|head| Some(u64::from_le_bytes(*head.get(8..)?.first_chunk()?))).unwrap_or(0)
    }
}

impl Field for Head {
    const SIZE: usize = HEAD_LEN;
    fn put(&self, w: &mut Writer) {
        self.size.put(w);
        self.opcode.put(w);
        self.flags.put(w);
        self.request.put(w);
        self.deadline.put(w);
        self.fixed.put(w);
        w.raw(&[0; 6]);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let head = Self {
            size: u32::take(r)?,
            opcode: u16::take(r)?,
            flags: u16::take(r)?,
            request: u64::take(r)?,
            deadline: Time::take(r)?,
            fixed: u16::take(r)?,
        };
        if r.array::<6>()? != [0; 6] {
            return Err(Malformed::NonZeroTail);
        }
        Ok(head)
    }
}

macro_rules! message_table {
    (
        enum $enum:ident;
        uses { $($import:tt)* }
        $(
            $(#[$doc:meta])*
            $opcode:literal $name:ident since $since:literal from $sender:ident
            fds [$($fd:literal)*] $(optional $optional:literal)? $(each $each:ident)? flags $flags:literal
            { $($(#[$fdoc:meta])* $field:ident : $fty:ty,)* }
            [ $($(#[$adoc:meta])* $array:ident : $aty:ty, max $limit:expr;)* ]
        )*
    ) => {
        use super::{Head, Row, Sender};
        #[allow(unused_imports, reason = "each table uses its own choice of the common words")]
        use crate::codec::{self, Field, HEAD_LEN, Malformed, Reader, Writer, Zero};
        #[allow(unused_imports, reason = "each table uses its own choice of the common words")]
        use crate::{ids::*, limits};
        $($import)*

        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $name {
                $($(#[$fdoc])* pub $field: $fty,)*
                $($(#[$adoc])* pub $array: Vec<$aty>,)*
            }

            impl $name {
                /// The opcode.
                pub const OPCODE: u16 = $opcode;
                /// Bytes of the fixed part, padded to 8.
                pub const FIXED: usize =
                    (0usize $(+ <$fty as Field>::SIZE)* $(+ { let _ = stringify!($array); 8 })*).next_multiple_of(8);

                /// The row of the table.
                pub const ROW: Row = Row {
                    opcode: $opcode,
                    name: stringify!($name),
                    since: $since,
                    sender: Sender::$sender,
                    fds: &[$($fd,)*],
                    fds_each: { let each: &[&str] = &[$(stringify!($each),)?]; each.first().copied() },
                    optional_fds: false $(|| $optional)?,
                    flags: $flags,
                    fixed: Self::FIXED,
                    fields: &[$((stringify!($field), <$fty as Field>::SIZE),)*],
                    types: &[$(stringify!($fty),)*],
                    arrays: &[$((stringify!($array), <$aty as Field>::SIZE),)*],
                    elements: &[$(stringify!($aty),)*],
                    most: &[$($limit,)*],
                };

                /// The message with this head data.
                #[must_use]
                pub fn encode(&self, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                    self.encode_into(Vec::with_capacity(256), request, deadline, flags)
                }

                /// As [`Self::encode`], in the storage of `buffer`.
                #[must_use]
                pub fn encode_into(&self, buffer: Vec<u8>, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                    let mut writer = Writer::reusing(buffer);
                    let w = &mut writer;
                    let fixed = u16::try_from(Self::FIXED).unwrap_or(u16::MAX);
                    Head { size: 0, opcode: $opcode, flags, request, deadline, fixed }.put(w);
                    $(self.$field.put(w);)*
                    $(codec::put_array_head(w, &self.$array);)*
                    w.pad8();
                    $(codec::put_array(w, &self.$array);)*
                    let size = u32::try_from(w.len()).unwrap_or(u32::MAX);
                    w.patch_u32(0, size);
                    writer.into_bytes()
                }

                /// How many fds come along.
                #[must_use]
                pub fn fds(&self) -> usize {
                    let each: &[usize] = &[$(self.$each.len(),)?];
                    Self::ROW.fds.len() * each.first().copied().unwrap_or(1)
                }

                fn decode_body(r: &mut Reader<'_>, fixed: usize) -> Result<Self, Malformed> {
                    let ($($field,)* $($array,)*) = codec::sized(r, fixed, Self::FIXED, |r| {
                        let _ = &r;
                        Ok(($(<$fty as Field>::take(r)?,)* $({ let _ = stringify!($array); (u32::take(r)?, u32::take(r)?) },)*))
                    })?;
                    codec::take_padding(r, fixed)?;
                    $(let $array = codec::take_array::<$aty>(r, $array.0, $array.1, stringify!($array), $limit)?;)*
                    Ok(Self { $($field,)* $($array,)* })
                }
            }

            impl From<$name> for $enum {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )*

        /// Any message of this link.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$doc])* $name($name),)*
        }

        /// The table of this link.
        pub const TABLE: &[Row] = &[$($name::ROW,)*];

        impl $enum {
            /// The row of this message.
            #[must_use]
            pub fn row(&self) -> &'static Row {
                match self { $(Self::$name(_) => &$name::ROW,)* }
            }

            /// How many fds come along, unless they are left out where the row allows that.
            #[must_use]
            pub fn fds(&self) -> usize {
                match self { $(Self::$name(message) => message.fds(),)* }
            }

            /// The bytes of this message.
            #[must_use]
            pub fn encode(&self, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
                match self { $(Self::$name(message) => message.encode(request, deadline, flags),)* }
            }

            /// The message in `bytes`, which came with `fds` fds from `sender`.
            ///
            /// # Errors
            /// [`Malformed`], naming what is wrong. Never panics, whatever the bytes.
            pub fn decode(bytes: &[u8], sender: Sender, fds: usize) -> Result<(Head, Self), Malformed> {
                let head = Head::decode(bytes)?;
                let row = TABLE
                    .iter()
                    .find(|row| row.opcode == head.opcode && row.sender == sender)
                    .ok_or(Malformed::UnknownOpcode(head.opcode))?;
                if head.flags & !row.flags != 0 {
                    return Err(Malformed::UnknownFlags(head.flags & !row.flags));
                }
                let r = &mut Reader::new(bytes);
                let _head: &[u8] = r.bytes(HEAD_LEN)?;
                let message = match head.opcode {
                    $($opcode => Self::$name($name::decode_body(r, usize::from(head.fixed))?),)*
                    other => return Err(Malformed::UnknownOpcode(other)),
                };
                let extra = r.rest().len();
                if extra != 0 {
                    return Err(Malformed::Trailing { extra });
                }
                let expected = message.fds();
                if fds != expected && !(row.optional_fds && fds == 0) {
                    return Err(Malformed::WrongFds { got: fds, expected });
                }
                Ok((head, message))
            }
        }
    };
}

/// Head flag of Submit: answer with Accepted also when all is well.
pub const SUBMIT_REPLY: u16 = 1;

/// Head flag of Promise: answer with Done also when all is well.
pub const PROMISE_REPLY: u16 = 1;

/// Head flag of OpenQueue: the queue is served by an instance that serves this client and nobody else.
pub const OPEN_OWN: u16 = 1;

/// Head flag of CreateDomain: the domain stays when its creator's session ends.
pub const DOMAIN_STAYS: u16 = 1;

/// Head flag of CreateDomain: its listening socket is the one that goes to the client's doorman.
pub const DOMAIN_AT: u16 = 2;

/// Head flag of OpenPorter: the porter is a doorman.
pub const OPEN_DOORMAN: u16 = 1;

/// Head flag of OpenSession: the session is for what only who administers may do.
pub const ADMINISTERS: u16 = 1;

/// Head flag of OpenSession: the session is control's own, to look with.
pub const CONTROLS_OWN: u16 = 2;

pub mod client;
pub mod control;
pub mod driver;
pub mod keeper;
pub mod porter;
