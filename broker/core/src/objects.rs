//! Objects: what the broker knows of each, and the states it goes through.
//!
//! ```text
//! Making -> Created -> Checking -> Keeping -> Ready
//!             |  ^________|                     |
//!             |                                 |     no handle and no use is left
//!             +------------> Unmapping <--------+
//!                                | every instance has let go
//!                            Dropping
//!                                | the keeper has let go
//!              +-----------> Probing ----> Freeing ----> gone
//!              | look again      | busy       | a reference showed up
//!              +------------ Orphaned <-------+
//! ```
//! The kernel's answers move an object on; nothing is ever waited for. What ends an object is in
//! [`crate::teardown`]; here is only what it is.
//!
//! Invariants: `handles` is the number of client handles that name it, `uses` the number of uses by accepted
//! jobs that have not ended; both are 0 in every state from Unmapping on. `planned` is 0 between inputs.

use vgem_proto::ids::{ClientKey, DomainId, InstanceId, Time};
use vgem_proto::rights::{Access, Rights};

use crate::accounts::Charge;
use crate::io::LinkId;
use crate::reservation::Reservation;

/// Where an object is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ObjectState {
    /// Its memory is being made.
    Making,
    /// It has memory, and perhaps not all pages.
    Created,
    /// Its pages are being looked for.
    Checking,
    /// The keeper is taking it.
    Keeping,
    /// Jobs may use it.
    Ready,
    /// Nobody names or uses it; instances are letting go of it.
    Unmapping,
    /// The keeper is letting go of it.
    Dropping,
    /// Somebody looks whether an export of it lives.
    Probing,
    /// An export of it lives.
    Orphaned,
    /// Its memory is being freed.
    Freeing,
    /// There is no such object any more.
    Gone,
}

/// What can happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ObjectEvent {
    Made,
    NotMade,
    Commit,
    Populated,
    Unpopulated,
    Kept,
    Released,
    Unmapped,
    Dropped,
    Look,
    FoundFree,
    FoundBusy,
    Freed,
    NotFreed,
}

impl ObjectState {
    /// The state after `event`, or `None` if that cannot happen now.
    pub(crate) fn after(self, event: ObjectEvent) -> Option<Self> {
        use ObjectEvent as E;
        use ObjectState as S;
        let next = match (self, event) {
            (S::Making, E::Made) => S::Created,
            (S::Making, E::NotMade) => S::Gone,
            (S::Created, E::Commit) => S::Checking,
            (S::Checking, E::Unpopulated) => S::Created,
            (S::Checking, E::Populated) => S::Keeping,
            (S::Keeping, E::Kept) => S::Ready,
            (S::Created | S::Ready, E::Released) => S::Unmapping,
            (S::Unmapping, E::Unmapped) => S::Dropping,
            (S::Dropping, E::Dropped) => S::Probing,
            (S::Probing, E::FoundFree) => S::Freeing,
            (S::Probing, E::FoundBusy) => S::Orphaned,
            (S::Orphaned, E::Look) => S::Probing,
            (S::Freeing, E::Freed) => S::Gone,
            (S::Freeing, E::NotFreed) => S::Orphaned,
            (
                S::Making
                | S::Created
                | S::Checking
                | S::Keeping
                | S::Ready
                | S::Unmapping
                | S::Dropping
                | S::Probing
                | S::Orphaned
                | S::Freeing
                | S::Gone,
                E::Made
                | E::NotMade
                | E::Commit
                | E::Populated
                | E::Unpopulated
                | E::Kept
                | E::Released
                | E::Unmapped
                | E::Dropped
                | E::Look
                | E::FoundFree
                | E::FoundBusy
                | E::Freed
                | E::NotFreed,
            ) => return None,
        };
        Some(next)
    }

    /// What tools call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Making | Self::Created | Self::Checking | Self::Keeping => "created",
            Self::Ready => "ready",
            Self::Unmapping | Self::Dropping | Self::Probing | Self::Freeing | Self::Gone => "retiring",
            Self::Orphaned => "orphaned",
        }
    }
}

/// A client that holds a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) client: ClientKey,
    pub(crate) domain: DomainId,
    pub(crate) rights: Rights,
}

/// An instance that was told to map the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) instance: InstanceId,
    pub(crate) access: Access,
    pub(crate) state: MappingState,
}

/// How far a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MappingState {
    /// Told to map; no answer yet.
    Asked,
    /// Mapped.
    Mapped,
    /// It could not be mapped; jobs that need it fail there.
    Failed,
    /// Told to unmap; no answer yet.
    Unmapping,
}

/// A request that an answer of the kernel or the keeper will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Awaiting {
    pub(crate) client: ClientKey,
    pub(crate) link: LinkId,
    pub(crate) request: u64,
}

/// An object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) state: ObjectState,
    pub(crate) name: String,
    pub(crate) len: u64,
    /// Who pays.
    pub(crate) domain: DomainId,
    /// Bytes really pinned.
    pub(crate) pinned: u64,
    /// Whether the keeper has it.
    pub(crate) kept: bool,
    /// Who waits for the creation or the commit.
    pub(crate) awaiting: Option<Awaiting>,
    /// One entry per handle.
    pub(crate) holders: Vec<Holder>,
    /// Uses by jobs that have not ended.
    pub(crate) uses: u32,
    /// Writes in the batch that is being checked.
    pub(crate) planned: u32,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) reservation: Reservation,
    pub(crate) charges: [Charge; 2],
    /// The charge for the handle that is being made.
    pub(crate) handle_charge: Option<Charge>,
    /// Set while an export may have closed since the probe under way was sent.
    pub(crate) hinted: bool,
    /// Probes that found it busy.
    pub(crate) probes: u32,
    /// When it will be looked at again by itself.
    pub(crate) look_at: Option<Time>,
}

impl Object {
    /// Whether nothing but exports may keep it.
    pub(crate) fn is_released(&self) -> bool {
        self.holders.is_empty() && self.uses == 0
    }

    pub(crate) fn mapping(&self, instance: InstanceId) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.instance == instance)
    }

    /// What a fresh mapping in an instance of `domain` must allow, for a job that needs `needed` (DESIGN 5.7).
    pub(crate) fn mapping_access(&self, domain: DomainId, needed: Access) -> Access {
        let may_write = self
            .holders
            .iter()
            .any(|holder| holder.domain == domain && holder.rights.contains(Rights::WRITE));
        if may_write { Access::Write } else { needed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const STATES: [ObjectState; 11] = [
        ObjectState::Making,
        ObjectState::Created,
        ObjectState::Checking,
        ObjectState::Keeping,
        ObjectState::Ready,
        ObjectState::Unmapping,
        ObjectState::Dropping,
        ObjectState::Probing,
        ObjectState::Orphaned,
        ObjectState::Freeing,
        ObjectState::Gone,
    ];
    const EVENTS: [ObjectEvent; 14] = [
        ObjectEvent::Made,
        ObjectEvent::NotMade,
        ObjectEvent::Commit,
        ObjectEvent::Populated,
        ObjectEvent::Unpopulated,
        ObjectEvent::Kept,
        ObjectEvent::Released,
        ObjectEvent::Unmapped,
        ObjectEvent::Dropped,
        ObjectEvent::Look,
        ObjectEvent::FoundFree,
        ObjectEvent::FoundBusy,
        ObjectEvent::Freed,
        ObjectEvent::NotFreed,
    ];

    #[test]
    fn the_states_of_an_object_are_these() {
        let mut table = String::new();
        for state in STATES {
            for event in EVENTS {
                if let Some(next) = state.after(event) {
                    writeln!(table, "{state:?} --{event:?}--> {next:?}").unwrap();
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Making --Made--> Created
        Making --NotMade--> Gone
        Created --Commit--> Checking
        Created --Released--> Unmapping
        Checking --Populated--> Keeping
        Checking --Unpopulated--> Created
        Keeping --Kept--> Ready
        Ready --Released--> Unmapping
        Unmapping --Unmapped--> Dropping
        Dropping --Dropped--> Probing
        Probing --FoundFree--> Freeing
        Probing --FoundBusy--> Orphaned
        Orphaned --Look--> Probing
        Freeing --Freed--> Gone
        Freeing --NotFreed--> Orphaned
        ");
    }
}
