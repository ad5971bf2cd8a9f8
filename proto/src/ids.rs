//! Identifiers, one type each, so that no bare integer crosses a function boundary as an id.
//!
//! Two families exist. **Handles** are a client's own numbers: they mean something on one connection only, and
//! the broker looks them up before anything else happens. **Keys** name live things inside the broker and on
//! the links to its own processes: an index and a generation, so that a stale key is a normal answer.
//! A key is never shown to a client and a handle is never sent to a driver. On the wire every id is 8 bytes.

use std::fmt;

use crate::codec::{Field, Malformed, Reader, Writer};

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($label, ":{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }

        impl Field for $name {
            const SIZE: usize = 8;
            fn put(&self, w: &mut Writer) {
                u64::from(self.0).put(w);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                let raw = u64::take(r)?;
                u32::try_from(raw).map(Self).map_err(|_| Malformed::BadValue { field: $label, value: raw })
            }
        }
    };
}

/// Indices of timelines that clients signal begin here; those of queues are below. For people they are counted anew, with a
/// `c` before them.
pub const CLIENT_TIMELINES: u32 = 1 << 31;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        key! { $(#[$doc])* $name, $label, u32::MAX => "" }
    };
    ($(#[$doc:meta])* $name:ident, $label:literal, $first:expr => $mark:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            /// Place in the table.
            pub index: u32,
            /// Which life of that place; never 0 for a live thing.
            pub generation: u32,
        }

        impl $name {
            /// The key as one number: the generation in the upper half.
            #[must_use]
            pub fn to_u64(self) -> u64 {
                (u64::from(self.generation) << 32) | u64::from(self.index)
            }

            /// The key that [`Self::to_u64`] made.
            #[must_use]
            #[expect(clippy::cast_possible_truncation, reason = "the two halves are taken apart on purpose")]
            pub fn from_u64(raw: u64) -> Self {
                Self { index: raw as u32, generation: (raw >> 32) as u32 }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.index.checked_sub($first) {
                    Some(index) => write!(f, concat!($label, ":", $mark, "{}.{}"), index, self.generation),
                    None => write!(f, concat!($label, ":{}.{}"), self.index, self.generation),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }

        impl Field for $name {
            const SIZE: usize = 8;
            fn put(&self, w: &mut Writer) {
                self.to_u64().put(w);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                u64::take(r).map(Self::from_u64)
            }
        }
    };
}

id32! {
    /// A client's own number for an object. 0 is "no object".
    Handle, "handle"
}
id32! {
    /// A client's own number for a queue it opened. 0 is "no queue".
    QueueHandle, "queue"
}
id32! {
    /// A client's own number for a timeline. A queue's number names its timeline too. 0 is "no timeline".
    TimelineHandle, "timeline"
}
id32! {
    /// A device, as listed by the broker. Stable while the broker lives.
    DeviceId, "device"
}
id32! {
    /// A domain: a group of clients that share quotas and policy.
    DomainId, "domain"
}
id32! {
    /// A driver instance: one process for one (device, domain). Never used twice; also its cause issuer.
    InstanceId, "instance"
}
id32! {
    /// A porter: one process that takes fds from one client. Never used twice.
    PorterId, "porter"
}
id32! {
    /// A fence page as one process numbers it: the place in its own list of mapped pages.
    PageId, "page"
}
key! {
    /// An object inside the broker and on the links to drivers and keeper.
    ObjectKey, "object"
}
key! {
    /// A timeline inside the broker and on driver links; its generation is the slot generation too.
    TimelineKey, "timeline", CLIENT_TIMELINES => "c"
}
key! {
    /// A client connection inside the broker.
    ClientKey, "client"
}

/// A value on a timeline. Points of a queue start at 1 and count jobs; 0 has always passed.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Point(pub u64);

impl Point {
    /// The next point.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "point:{}", self.0)
    }
}

impl Field for Point {
    const SIZE: usize = 8;
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        u64::take(r).map(Self)
    }
}

/// The identity of an error's origin: issuer in the upper half, the issuer's counter in the lower. 0 is "none".
///
/// Whoever holds a cause may ask the broker to explain it.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct CauseId(pub u64);

impl CauseId {
    /// No cause.
    pub const NONE: Self = Self(0);

    /// The cause number `counter` of `issuer`; the broker itself is issuer 1.
    #[must_use]
    pub fn new(issuer: InstanceId, counter: u32) -> Self {
        Self((u64::from(issuer.0) << 32) | u64::from(counter))
    }

    /// Who issued it.
    #[must_use]
    pub fn issuer(self) -> InstanceId {
        InstanceId((self.0 >> 32) as u32)
    }
}

impl fmt::Debug for CauseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cause:{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Display for CauseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Field for CauseId {
    const SIZE: usize = 8;
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        u64::take(r).map(Self)
    }
}

/// A moment of CLOCK_MONOTONIC, nanoseconds. 0 is "no moment".
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The moment `ns` nanoseconds later.
    #[must_use]
    pub fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ns", self.0)
    }
}

impl Field for Time {
    const SIZE: usize = 8;
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        u64::take(r).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(field: &impl Field) -> Vec<u8> {
        let mut w = Writer::new();
        field.put(&mut w);
        w.into_bytes()
    }

    #[test]
    fn a_key_is_its_index_then_its_generation() {
        let key = TimelineKey { index: 0x0102, generation: 0x0304 };
        assert_eq!(bytes(&key), [2, 1, 0, 0, 4, 3, 0, 0]);
        assert_eq!(TimelineKey::from_u64(key.to_u64()), key);
    }

    #[test]
    fn a_timeline_says_whether_a_client_signals_it() {
        let said = [3, CLIENT_TIMELINES + 3].map(|index| TimelineKey { index, generation: 7 }.to_string());
        assert_eq!(said, ["timeline:3.7", "timeline:c3.7"]);
        let largest = ObjectKey { index: CLIENT_TIMELINES, generation: 1 };
        assert_eq!(largest.to_string(), "object:2147483648.1");
    }

    #[test]
    fn a_cause_is_its_counter_then_its_issuer() {
        let cause = CauseId::new(InstanceId(5), 9);
        assert_eq!(bytes(&cause), [9, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!((cause.issuer(), cause == CauseId::NONE), (InstanceId(5), false));
    }

    // M-014
    #[test]
    fn the_upper_half_of_a_handle_must_be_zero() {
        let wide = 1_u64 << 32;
        let refused = Malformed::BadValue { field: "handle", value: wide };
        assert_eq!(Handle::take(&mut Reader::new(&wide.to_le_bytes())), Err(refused));
        assert_eq!(Handle::take(&mut Reader::new(&7_u64.to_le_bytes())), Ok(Handle(7)));
    }

    #[test]
    fn points_and_moments_stop_at_the_largest_number() {
        assert_eq!(Point(u64::MAX).next(), Point(u64::MAX));
        assert_eq!((Time(u64::MAX).after(1), Time(1).since(Time(2))), (Time(u64::MAX), 0));
    }
}
