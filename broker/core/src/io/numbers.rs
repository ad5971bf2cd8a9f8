//! How the shell numbers what it keeps for the broker.

use vgem_proto::ids::{ObjectKey, PorterId};

/// A client's connection as the shell numbers it. Never used twice while the broker lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// A pair of a fence page and its interest page, as the shell keeps it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(pub u64);

/// Memory that a porter brought and that no object has yet, as the shell keeps it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrivalId(pub u64);

/// What a porter brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// An export of an object; the shell has closed the fd.
    Object(ObjectKey),
    /// Memory of a client; the shell holds it until [`super::Effect::TakeArrival`] or [`super::Effect::DropArrival`].
    Memory {
        /// Its number.
        arrival: ArrivalId,
        /// Bytes.
        len: u64,
    },
    /// The memory of a process; the shell holds its fd until it is sent ([`super::Attach::Process`]) or
    /// [`super::Effect::DropArrival`].
    Process {
        /// Its number.
        arrival: ArrivalId,
    },
    /// A door of a client's own; its doorman has the fds.
    Door {
        /// The doorman.
        doorman: PorterId,
    },
    /// A fence page or an interest page; the shell has closed the fd.
    Page,
}
