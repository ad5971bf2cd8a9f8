//! Which fds go with a message: core never sees one.

use vgem_proto::ids::{ObjectKey, PorterId, TimelineKey};
use vgem_proto::rights::Access;

use super::{ArrivalId, PairId};

/// The fds that go with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attach {
    /// None.
    None,
    /// A fresh open file of the object.
    Export {
        /// The object.
        object: ObjectKey,
        /// What the fd allows.
        access: Access,
    },
    /// A fresh open file of each object, in this order.
    Exports {
        /// The objects.
        objects: Vec<ObjectKey>,
        /// What the fds allow.
        access: Access,
    },
    /// The observer's side of several pairs, in this order.
    Observers(Vec<PairId>),
    /// The client's end of a porter's channel.
    Channel(PorterId),
    /// The signaller's side of a pair: page read-write, interest read-only.
    Signaller(PairId),
    /// The observer's side of a pair: page read-only, interest read-write.
    Observer(PairId),
    /// The signaller's side of several pairs, in this order.
    Signallers(Vec<PairId>),
    /// The memory of a queue's ring, read-write.
    Ring(TimelineKey),
    /// The memory of a process that arrived; the shell has it no more afterwards.
    Process(ArrivalId),
}
