//! Objects: what the broker knows of each, and the states it goes through.
//!
//! ```text
//! Making --> Created --> Checking --> Checked --> Keeping --> Kept ----> Ready
//!               ^ |          |           |          ^         |  ^         |
//!               +-|----------+-----------+----------|---------+  |         |  no handle and no use is left
//!                 |      (a commit is refused)      |  Mapping --> Sealing |
//!                 |                                 |  (a sealed result)   |
//!                 +-----------------> Unmapping <---|----------------------+
//!                                         |         |  every instance has let go
//!                                      Dropping     |
//!                                         |         |  the keeper has let go
//!              +----------------------> Probing ----|-> Freeing ----> gone
//!              | look again               | busy    |     | a reference showed up
//!              +---------------------- Orphaned <---|-----+
//!                                         +---------+  somebody imports it again
//! ```
//! The kernel's answers move an object on; nothing is ever waited for. How it comes to be Ready is in
//! [`crate::creations`] and [`crate::commits`], what ends it in [`crate::retire`]; here is only what it is.
//!
//! Invariants: `holders` has one entry per client with a handle, `uses` is the number of uses by accepted jobs
//! that have not ended; both are empty in every state from Unmapping on. `planned` is 0 between inputs. An object
//! that nobody has committed has a handle at its creator or is being made. Another domain with a handle, or one
//! that waits for a handle, has exactly one share.

use vgem_proto::ids::{ClientKey, DomainId, Handle, InstanceId, Time};
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
    /// They are there; others of the same commit are still being looked at.
    Checked,
    /// The keeper is taking it.
    Keeping,
    /// The keeper has it; others of the same commit are not so far.
    Kept,
    /// The one device that may write it is mapping it.
    Mapping,
    /// Its memory is being sealed.
    Sealing,
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
    Keep,
    Kept,
    Map,
    Mapped,
    Sealed,
    /// What it needs beyond being kept could not be had.
    Failed,
    /// The commit it belongs to was refused.
    Withdrawn,
    Committed,
    Released,
    Unmapped,
    Dropped,
    Look,
    Revived,
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
            (S::Checking, E::Populated) => S::Checked,
            (S::Checked, E::Keep) => S::Keeping,
            (S::Keeping, E::Kept) => S::Kept,
            (S::Kept, E::Map) => S::Mapping,
            (S::Mapping, E::Mapped) => S::Sealing,
            (S::Mapping | S::Sealing, E::Failed) => S::Kept,
            (S::Sealing, E::Sealed) => S::Kept,
            (S::Checked | S::Kept, E::Withdrawn) => S::Created,
            (S::Kept, E::Committed) => S::Ready,
            (S::Created | S::Ready, E::Released) => S::Unmapping,
            (S::Unmapping, E::Unmapped) => S::Dropping,
            (S::Dropping, E::Dropped) => S::Probing,
            (S::Probing, E::FoundFree) => S::Freeing,
            (S::Probing, E::FoundBusy) => S::Orphaned,
            (S::Orphaned, E::Look) => S::Probing,
            (S::Orphaned, E::Revived) => S::Keeping,
            (S::Freeing, E::Freed) => S::Gone,
            (S::Freeing, E::NotFreed) => S::Orphaned,
            (
                S::Making
                | S::Created
                | S::Checking
                | S::Checked
                | S::Keeping
                | S::Kept
                | S::Mapping
                | S::Sealing
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
                | E::Keep
                | E::Kept
                | E::Map
                | E::Mapped
                | E::Sealed
                | E::Failed
                | E::Withdrawn
                | E::Committed
                | E::Released
                | E::Unmapped
                | E::Dropped
                | E::Look
                | E::Revived
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
            Self::Making
            | Self::Created
            | Self::Checking
            | Self::Checked
            | Self::Keeping
            | Self::Kept
            | Self::Mapping
            | Self::Sealing => "created",
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
    pub(crate) handle: Handle,
    /// How often it was created or imported and not closed (L5).
    pub(crate) imports: u32,
}

/// What another domain owes for an object that it holds a handle of: all of its bytes, once (T27).
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) charge: Charge,
}

/// A client that has an fd of an object in retirement, and gets a handle when the object is back.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) asker: Awaiting,
    pub(crate) domain: DomainId,
    pub(crate) rights: Rights,
    /// The charge for the handle.
    pub(crate) charge: Charge,
}

/// Whose memory an object is, and who may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The broker made it.
    Own,
    /// A client's own memory, imported.
    Foreign,
    /// A sealed result.
    Sealed(Writer),
}

impl Kind {
    /// What tools call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Sealed(_) => "sealed",
        }
    }
}

/// Who alone writes a sealed result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    /// Place in the broker's list of devices.
    pub(crate) device: usize,
    /// The instance that maps it for writing; none before the commit, and again once that has let go of it.
    pub(crate) instance: Option<InstanceId>,
    /// Whether the memory is sealed.
    pub(crate) sealed: bool,
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
    pub(crate) kind: Kind,
    pub(crate) name: Box<str>,
    pub(crate) len: u64,
    /// Who pays for as long as it lives.
    pub(crate) domain: DomainId,
    /// Who made or first imported it; it is this client's until it is committed (L2).
    pub(crate) creator: ClientKey,
    /// The inode of its memory, for people; 0 until it is made.
    pub(crate) inode: u64,
    /// Bytes really pinned.
    pub(crate) pinned: u64,
    /// Whether the keeper has it.
    pub(crate) kept: bool,
    /// Whether it has ever been ready.
    pub(crate) committed: bool,
    /// Whether another domain ever had a handle of it.
    pub(crate) crossed: bool,
    /// Whether another domain has a handle with which it may write.
    pub(crate) guests_write: bool,
    /// Whether somebody changed the owner or the mode of its inode.
    pub(crate) tampered: bool,
    /// The creation or the commit it takes part in.
    pub(crate) awaiting: Option<u64>,
    /// One entry per handle.
    pub(crate) holders: Vec<Holder>,
    /// What other domains owe for it.
    pub(crate) shares: Vec<Share>,
    /// Who waits until it is back.
    pub(crate) wishes: Vec<Wish>,
    /// Uses by jobs that have not ended.
    pub(crate) uses: u32,
    /// Writes in the batch that is being checked.
    pub(crate) planned: u32,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) reservation: Reservation,
    pub(crate) charges: [Charge; 2],
    /// What is owed for pinning it, once it is committed.
    pub(crate) pin_charge: Option<Charge>,
    /// The charge for the handle that is being made.
    pub(crate) handle_charge: Option<Charge>,
    /// Set while an export may have closed since the probe under way was sent.
    pub(crate) hinted: bool,
    /// Whether closed exports of it are told.
    pub(crate) watched: bool,
    /// Probes that found it busy.
    pub(crate) probes: u32,
    /// When it will be looked at again by itself.
    pub(crate) look_at: Option<Time>,
    /// When its last handle and use were gone.
    pub(crate) released_at: Time,
}

impl Object {
    /// Whether nothing but exports may keep it.
    pub(crate) fn is_released(&self) -> bool {
        self.holders.is_empty() && self.uses == 0
    }

    pub(crate) fn mapping(&self, instance: InstanceId) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.instance == instance)
    }

    /// The handle that a client has.
    pub(crate) fn holder(&self, client: ClientKey) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.client == client)
    }

    /// Its holders have changed. Looked at here and not with every operand of every job: there may be thousands.
    pub(crate) fn holders_changed(&mut self) {
        let guest_writes =
            |holder: &Holder| holder.domain != self.domain && holder.rights.contains(Rights::WRITE);
        self.guests_write = self.crossed && self.holders.iter().any(guest_writes);
    }

    /// Whether a domain other than the one that pays for it anyway must owe a share.
    pub(crate) fn is_shared_with(&self, domain: DomainId) -> bool {
        domain != self.domain
            && (self.holders.iter().any(|holder| holder.domain == domain)
                || self.wishes.iter().any(|wish| wish.domain == domain))
    }

    /// Whether the engine of a job in `domain` may find the content changed by others while it works.
    #[inline]
    pub(crate) fn is_foreign_to(&self, domain: DomainId) -> bool {
        match self.kind {
            Kind::Own => self.domain != domain || self.guests_write,
            Kind::Foreign => true,
            Kind::Sealed(_) => false,
        }
    }

    /// What a fresh mapping in an instance of `domain` must allow, for a job that needs `needed` (DESIGN 5.7).
    pub(crate) fn mapping_access(&self, domain: DomainId, needed: Access) -> Access {
        if matches!(self.kind, Kind::Sealed(_)) {
            return needed;
        }
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

    const STATES: [ObjectState; 15] = [
        ObjectState::Making,
        ObjectState::Created,
        ObjectState::Checking,
        ObjectState::Checked,
        ObjectState::Keeping,
        ObjectState::Kept,
        ObjectState::Mapping,
        ObjectState::Sealing,
        ObjectState::Ready,
        ObjectState::Unmapping,
        ObjectState::Dropping,
        ObjectState::Probing,
        ObjectState::Orphaned,
        ObjectState::Freeing,
        ObjectState::Gone,
    ];
    const EVENTS: [ObjectEvent; 22] = [
        ObjectEvent::Made,
        ObjectEvent::NotMade,
        ObjectEvent::Commit,
        ObjectEvent::Populated,
        ObjectEvent::Unpopulated,
        ObjectEvent::Keep,
        ObjectEvent::Kept,
        ObjectEvent::Map,
        ObjectEvent::Mapped,
        ObjectEvent::Sealed,
        ObjectEvent::Failed,
        ObjectEvent::Withdrawn,
        ObjectEvent::Committed,
        ObjectEvent::Released,
        ObjectEvent::Unmapped,
        ObjectEvent::Dropped,
        ObjectEvent::Look,
        ObjectEvent::Revived,
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
        Checking --Populated--> Checked
        Checking --Unpopulated--> Created
        Checked --Keep--> Keeping
        Checked --Withdrawn--> Created
        Keeping --Kept--> Kept
        Kept --Map--> Mapping
        Kept --Withdrawn--> Created
        Kept --Committed--> Ready
        Mapping --Mapped--> Sealing
        Mapping --Failed--> Kept
        Sealing --Sealed--> Kept
        Sealing --Failed--> Kept
        Ready --Released--> Unmapping
        Unmapping --Unmapped--> Dropping
        Dropping --Dropped--> Probing
        Probing --FoundFree--> Freeing
        Probing --FoundBusy--> Orphaned
        Orphaned --Look--> Probing
        Orphaned --Revived--> Keeping
        Freeing --Freed--> Gone
        Freeing --NotFreed--> Orphaned
        ");
    }
}
