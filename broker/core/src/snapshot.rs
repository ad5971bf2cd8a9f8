//! Pages of the broker's state for tools.

use vgem_proto::snapshot::{ClientEntry, DeviceEntry, ObjectEntry, QueueEntry, Status};

/// A page of the broker's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The entries.
    pub entries: Entries,
    /// Cursor of the next page; 0 is the end.
    pub next: u64,
}

/// The entries of a page, by topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entries {
    /// One status. What only the shell knows (version, pid, uptime, pinning, features) is left at its default.
    Status(Box<Status>),
    /// Devices.
    Devices(Vec<DeviceEntry>),
    /// Objects.
    Objects(Vec<ObjectEntry>),
    /// Clients.
    Clients(Vec<ClientEntry>),
    /// Queues.
    Queues(Vec<QueueEntry>),
}
