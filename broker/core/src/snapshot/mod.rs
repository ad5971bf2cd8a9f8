//! What the broker shows of itself: pages of entries for tools, and a ledger for whoever checks.
//!
//! A page is at most so many entries of one topic, in the order of the tables, and a cursor to go on from; things
//! that come or go between two pages may be missed or met, nothing else happens. Texts are those the peers gave,
//! made harmless when they came.
//!
//! | module | makes |
//! |---|---|
//! | `entries` | what a thing in a table looks like |
//! | `obligations` | who owes what to whom, and what it waits for itself |
//! | `ledger` | what must come back when everybody is gone |

mod entries;
mod ledger;
mod obligations;

use vgem_proto::ids::{DomainId, Point, TimelineKey};
use vgem_proto::snapshot::{
    ClientEntry, DeviceEntry, DomainEntry, ObjectEntry, ObligationEntry, QueueEntry, Status, TimelineEntry,
    Topic,
};

use crate::broker::{Broker, client_number};
use crate::io::{PairId, Scope};
use crate::timelines::FIRST;

pub use ledger::Ledger;

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
    /// One status. What only the shell knows (version, pid, uptime, features) is left at its default.
    Status(Box<Status>),
    /// Devices.
    Devices(Vec<DeviceEntry>),
    /// Objects.
    Objects(Vec<ObjectEntry>),
    /// Clients.
    Clients(Vec<ClientEntry>),
    /// Queues.
    Queues(Vec<QueueEntry>),
    /// Timelines of clients.
    Timelines(Vec<TimelineEntry>),
    /// Points that somebody owes.
    Obligations(Vec<ObligationEntry>),
    /// Domains.
    Domains(Vec<DomainEntry>),
}

/// What a reader may see, and what fence pages show at this moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What may be seen.
    pub scope: Scope,
    /// The last point that a slot of a primary page shows for a timeline. The broker does not hear of signals, so what
    /// it remembers may be old; older than what it remembers is no harm.
    pub look: &'a dyn Fn(TimelineKey, PairId, u16) -> Point,
}

impl From<Scope> for View<'_> {
    /// Without a look into pages.
    fn from(scope: Scope) -> Self {
        Self { scope, look: &|_, _, _| Point(0) }
    }
}

impl Broker {
    /// At most `max` entries of `topic`, as far as `view` allows, from `cursor` on; 0 is the start.
    ///
    /// A client's cursor means nothing in another topic, and any number is a legal cursor.
    #[must_use]
    pub fn snapshot<'a>(&self, view: impl Into<View<'a>>, topic: Topic, cursor: u64, max: usize) -> Snapshot {
        let view = view.into();
        let scope = view.scope;
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        let max = max.max(1);
        match topic {
            Topic::Status => Snapshot { entries: Entries::Status(Box::new(self.status(scope))), next: 0 },
            Topic::Devices => {
                let all = (1u64..).zip(&self.devices).skip(first);
                let all = all.filter(|(after, _)| match scope {
                    Scope::All => true,
                    Scope::Domain(domain) => self.may_see(domain, usize::try_from(*after - 1).unwrap_or(0)),
                });
                let (entries, next) = page(all, max, |device| self.device_entry(scope, device));
                Snapshot { entries: Entries::Devices(entries), next }
            }
            Topic::Objects => {
                let all = self
                    .objects
                    .iter_from(first)
                    .filter(|(_, object)| sees(scope, object.domain))
                    .map(|(key, object)| (u64::from(key.index) + 1, (key, object)));
                let (entries, next) = page(all, max, |(key, object)| self.object_entry(key, object));
                Snapshot { entries: Entries::Objects(entries), next }
            }
            Topic::Clients => {
                let all = self
                    .clients
                    .iter_from(first)
                    .filter(|(_, client)| sees(scope, client.peer.domain))
                    .map(|(key, client)| (u64::from(key.index) + 1, (client_number(key), client)));
                let (entries, next) = page(all, max, |(number, client)| self.client_entry(number, client));
                Snapshot { entries: Entries::Clients(entries), next }
            }
            Topic::Queues => {
                let all = self
                    .queues
                    .iter_from(first)
                    .filter(|(_, queue)| sees(scope, queue.domain))
                    .map(|(key, queue)| (u64::from(key.index) + 1, (key, queue)));
                let (entries, next) = page(all, max, |(key, queue)| self.queue_entry(key, queue));
                Snapshot { entries: Entries::Queues(entries), next }
            }
            Topic::Timelines => {
                let all = self
                    .promises
                    .iter_from(first)
                    .filter(|(_, promises)| sees(scope, promises.domain))
                    .map(|(key, promises)| (u64::from(key.index - FIRST) + 1, (key, promises)));
                let (entries, next) =
                    page(all, max, |(key, promises)| self.timeline_entry(view, key, promises));
                Snapshot { entries: Entries::Timelines(entries), next }
            }
            Topic::Domains => {
                let all = self.domains_seen(scope).into_iter().skip_while(|id| u64::from(id.0) < cursor);
                let all = all.map(|id| (u64::from(id.0) + 1, id));
                let (entries, next) = page(all, max, |id| self.domain_entry(id));
                Snapshot { entries: Entries::Domains(entries), next }
            }
            Topic::Obligations => {
                let (entries, next) = self.obligations(view, cursor, max);
                Snapshot { entries: Entries::Obligations(entries), next }
            }
        }
    }
}

/// At most `max` entries, and the cursor of the last one taken if more follow.
fn page<T, E>(all: impl Iterator<Item = (u64, T)>, max: usize, make: impl Fn(T) -> E) -> (Vec<E>, u64) {
    let mut all = all.peekable();
    let (mut entries, mut cursor) = (Vec::new(), 0);
    while entries.len() < max {
        let Some((after, thing)) = all.next() else { return (entries, 0) };
        entries.push(make(thing));
        cursor = after;
    }
    (entries, if all.peek().is_some() { cursor } else { 0 })
}

fn sees(scope: Scope, domain: DomainId) -> bool {
    match scope {
        Scope::All => true,
        Scope::Domain(own) => own == domain,
    }
}
