//! Domains as the wire names them: their names, their numbers, and what their quotas are of.
//!
//! A user's own domain has the user's number. A domain with a name, of the configuration or made by
//! [`crate::message::client::CreateDomain`], has one that no user has.

use crate::codec::{Field, Malformed, Reader, Writer, Zero};
use crate::ids::DomainId;
use crate::record;

/// Longest name of a domain, bytes.
pub const NAME_LEN: usize = 32;

/// The first number of a domain with a name; a user with such a number is not let in.
pub const FIRST_NAMED: DomainId = DomainId(0xF000_0000);

/// Domains with a name that there may be at a time.
pub const NAMED_MOST: usize = 1024;

/// Longest path of a control group, bytes.
pub const CGROUP_LEN: usize = 4096;

/// Quotas in one message: each kind at most once.
pub const QUOTAS_MOST: usize = 64;

/// Bytes of the text that says what a domain may use.
pub const USES_LEN: usize = 4096;

/// Whether this is the name of a domain: 1 to [`NAME_LEN`] of `a` to `z`, `0` to `9` and `-`. It is a folder's name too.
#[must_use]
pub fn is_domain_name(name: &str) -> bool {
    (1..=NAME_LEN).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! quota_kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident $number:literal $name:literal;)+) => {
        /// What a quota is of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum QuotaKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl QuotaKind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$kind => $number,)+
                }
            }

            /// Its name in configuration, tools and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// The one with a number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)+
                    _ => None,
                }
            }
        }
    };
}

quota_kinds! {
    /// Bytes of live objects.
    Bytes 1 "bytes";
    /// Live objects.
    Objects 2 "objects";
    /// Handles of objects.
    Handles 3 "handles";
    /// Open queues.
    Queues 4 "queues";
    /// Jobs accepted and not yet ended.
    Jobs 5 "jobs";
    /// Connections.
    Connections 6 "connections";
    /// Fds sent and not yet received.
    Exports 7 "exports";
    /// Porters, those that hang included.
    Porters 8 "porters";
    /// Clients that monitor.
    Monitors 9 "monitors";
    /// Fence pages.
    Pages 10 "pages";
    /// Handles of timelines.
    Timelines 11 "timelines";
    /// User queues.
    Rings 12 "rings";
    /// Requests per second; 0 is no bound.
    Requests 13 "requests_per_s";
    /// Bytes of objects that were committed, which are pinned.
    Pinned 14 "pinned";
}

impl Field for QuotaKind {
    const SIZE: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.number().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = u32::take(r)?;
        Self::from_number(number).ok_or(Malformed::BadValue { field: "quota", value: u64::from(number) })
    }
}

record! {
    /// How much of something a domain may hold.
    pub struct QuotaLimit {
        /// What of.
        pub kind: QuotaKind,
        /// Zero.
        pub reserved: Zero<4>,
        /// The most; 0 is nothing, but for [`QuotaKind::Requests`].
        pub limit: u64,
    }
}

impl QuotaLimit {
    /// So much of that.
    #[must_use]
    pub const fn new(kind: QuotaKind, limit: u64) -> Self {
        Self { kind, reserved: Zero, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domains_name_is_short_and_plain() {
        let good = ["a", "stage-2", &"x".repeat(32)];
        let bad = ["", "A", "a/b", "..", "a_b", "ä", &"x".repeat(33)];
        assert!(good.iter().all(|name| is_domain_name(name)));
        assert!(bad.iter().all(|name| !is_domain_name(name)));
    }

    #[test]
    fn every_quota_is_found_by_its_number() {
        assert!(QuotaKind::ALL.iter().all(|kind| QuotaKind::from_number(kind.number()) == Some(*kind)));
        assert_eq!((QuotaKind::from_number(0), QuotaKind::from_number(99)), (None, None));
    }
}
