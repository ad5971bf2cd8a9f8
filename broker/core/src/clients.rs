//! Clients: one per connection, from the first byte to the hang-up.
//!
//! A client that has not greeted may do nothing else. Its handles are its own numbers ([`HandleTable`]); all it
//! owns hangs on it in owner lists, so that a hang-up only has to empty them.

use std::collections::BTreeMap;

use vgem_proto::ids::{ClientKey, ObjectKey, PageId, PorterId, TimelineKey};
use vgem_proto::rights::Rights;

use crate::accounts::Charge;
use crate::import::Hands;
use crate::io::{LinkId, PairId, PeerFacts, Scope};
use crate::policy::{Reach, Subject};
use crate::porters::Duty;
use crate::tables::{HandleTable, Table};
use crate::timelines::{Signals, TimelineHeld};
use vgem_proto::ids::Time;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Connected; the greeting must come by this moment.
    Silent {
        /// The moment.
        until: Time,
    },
    /// Greeted.
    Greeted,
    /// Told to go; whatever it still says is not heard.
    Dropped,
}

/// A client's handle of an object.
#[derive(Debug)]
pub(crate) struct ObjectHandle {
    pub(crate) object: ObjectKey,
    pub(crate) rights: Rights,
    pub(crate) charge: Charge,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) link: LinkId,
    pub(crate) peer: PeerFacts,
    /// As it was when it connected.
    pub(crate) reach: Reach,
    pub(crate) name: String,
    pub(crate) standing: Standing,
    pub(crate) objects: HandleTable<ObjectHandle>,
    pub(crate) queues: HandleTable<TimelineKey>,
    /// Its timelines, and those that it imported. Its numbers for queues and timelines are apart.
    pub(crate) timelines: HandleTable<TimelineHeld>,
    pub(crate) signals: Signals,
    /// Pages it observes, those of dead instances not counted.
    pub(crate) pairs: Vec<PairId>,
    /// The next number for a page of its own.
    pub(crate) next_page: u32,
    /// Queues it waits for.
    pub(crate) opening: usize,
    /// Bad messages since the last good one.
    pub(crate) bad_messages: u32,
    pub(crate) messages: u64,
    pub(crate) connection: Charge,
    /// Fds sent to it and not yet received.
    pub(crate) unreceived: Charge,
    /// When it must have taken them.
    pub(crate) unread_at: Option<Time>,
    /// Whether the shell was asked to look if it has.
    pub(crate) is_checked: bool,
    /// The charge for its being told of events, if it is.
    pub(crate) monitors: Charge,
    /// Of whose jobs it is told, if of any.
    pub(crate) traces: Option<Scope>,
    /// Its porter, unless that was told to end.
    pub(crate) porter: Option<PorterId>,
    /// Its doorman that is no domain's yet, unless that was told to end.
    pub(crate) doorman: Option<PorterId>,
    pub(crate) hands: Hands,
}

impl Client {
    pub(crate) fn subject(&self) -> Subject {
        Subject { reach: self.reach, domain: self.peer.domain }
    }

    /// Where its porter of that duty is named.
    pub(crate) fn porter_for(&mut self, duty: Duty) -> &mut Option<PorterId> {
        match duty {
            Duty::Imports => &mut self.porter,
            Duty::Door(_) => &mut self.doorman,
        }
    }

    pub(crate) fn take_page(&mut self) -> PageId {
        self.next_page += 1;
        PageId(self.next_page - 1)
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    table: Table<ClientKey, Client>,
    links: BTreeMap<LinkId, ClientKey>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), links: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, client: Client) -> ClientKey {
        let link = client.link;
        let key = self.table.insert_with(|_| client);
        self.links.insert(link, key);
        key
    }

    pub(crate) fn key_of(&self, link: LinkId) -> Option<ClientKey> {
        self.links.get(&link).copied()
    }

    #[inline]
    pub(crate) fn get(&self, key: ClientKey) -> Option<&Client> {
        self.table.get(key)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.table.get_mut(key)
    }

    pub(crate) fn remove(&mut self, key: ClientKey) -> Option<Client> {
        let client = self.table.remove(key)?;
        self.links.remove(&client.link);
        Some(client)
    }

    pub(crate) fn contains(&self, key: ClientKey) -> bool {
        self.table.contains(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientKey, &Client)> {
        self.table.iter()
    }

    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = (ClientKey, &Client)> {
        self.table.iter_from(first)
    }
}
