//! The policy: which of the queues whose heads may run goes next.
//!
//! ```text
//!   domains      who had least engine time ──► its queues by priority, highest first
//!                                                  └─► clients: who had least engine time
//!                                                          └─► its queues: first come, first served
//! ```
//!
//! **Time.** Domains and clients have a [`Meter`]: the engine time they had, in nanoseconds. A job is charged when it is
//! claimed with what its client's jobs took lately, because with several executors the others must not wait until it
//! has ended to count; when it ends the difference is made up, so that in the end what was measured counts. A job
//! costs at least [`LEAST_NS`]: ours, not the engine's.
//!
//! **Coming back.** Who had nothing to run is lifted to the least that anybody had who was served meanwhile. So nobody
//! saves up time, and nobody who was away is owed any. Who always has something to run is never lifted.
//!
//! **Starvation.** What every runnable queue can rely on, jobs being finite (F7):
//! 1. A domain that had least of all goes next; so does, among the highest priority of a domain, the client that had
//!    least. Who is served has more afterwards, by at least [`LEAST_NS`], so whoever waits comes to be the one that
//!    had least: two who both always have something to run never differ by more than a job of each per executor.
//! 2. Priority is strict, but not for ever: of the claims of a domain that pass a lower priority by at most
//!    [`PASSES`] come in a row. The next one asks no priorities: it goes to the client that had least of all, and
//!    to the queue of that client that has been runnable longest.
//!
//! Before all of them come jobs that only have to end. Each takes about a microsecond, and there are never more than
//! the broker let in.
//!
//! **Cost.** A queue that is runnable **alone** is in no list: there is nothing to choose, only time to be charged. With
//! others, a claim looks at the top of a few heaps, O(log n) in the clients of a domain. A heap's entries may be out of
//! date: the time that an entry is ordered by only grows, so the top is brought up to date until it is right, and
//! nothing is searched. Nothing is allocated but when more queues are runnable at once than ever before.
//!
//! Invariants: a runnable queue is alone, or in one list, that of its client at its priority. A client has at most one
//! entry at a priority, and has one if its list there is not empty; the same holds for domains. Used time never
//! shrinks.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use vgem_proto::ids::{ClientKey, DomainId};

use super::queue::{Lane, Priority};

/// What a job costs at least, nanoseconds: about what it takes to claim, signal and complete one.
pub(super) const LEAST_NS: u64 = 1_000;
/// How many claims of a domain in a row may pass a lower priority by.
pub(super) const PASSES: u32 = 15;

/// A client's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientNumber(u32);

/// A domain's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct DomainNumber(u32);

/// When something came, in the order of coming.
type Came = u64;

/// An entry of a heap: who had least is first, and of several whoever came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn<W> {
    used: u64,
    came: Came,
    who: W,
}

/// Engine time that somebody had.
#[derive(Debug, Clone, Copy, Default)]
struct Meter {
    used: u64,
    /// What was charged in advance and not taken. Used up before `used` grows.
    paid: u64,
    /// Queues that are runnable or running.
    busy: u32,
}

impl Meter {
    /// One more queue has something to run.
    #[inline]
    fn begin(&mut self, floor: u64) {
        if self.busy == 0 && self.used < floor {
            *self = Self { used: floor, paid: 0, busy: 0 };
        }
        self.busy += 1;
    }

    #[inline]
    fn end(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    #[inline]
    fn charge(&mut self, ns: u64) {
        let from_paid = ns.min(self.paid);
        self.paid -= from_paid;
        self.used = self.used.saturating_add(ns - from_paid);
    }

    /// Makes up for a job that was charged `expected` and took `ns`.
    #[inline]
    fn settle(&mut self, expected: u64, ns: u64) {
        match ns.checked_sub(expected) {
            Some(more) => self.charge(more),
            None => self.paid = self.paid.saturating_add(expected - ns),
        }
    }
}

#[derive(Debug)]
struct Client {
    domain: DomainNumber,
    key: (DomainId, ClientKey),
    /// Its queues, runnable or not.
    queues: u32,
    meter: Meter,
    /// What its jobs took lately.
    expected: u64,
    runnable: [VecDeque<(Came, Lane)>; Priority::COUNT],
    /// The priorities at which it has an entry.
    entered: u8,
}

#[derive(Debug, Default)]
struct Domain {
    meter: Meter,
    levels: [Level; Priority::COUNT],
    /// The priorities at which something is runnable.
    some: u8,
    /// Claims in a row that passed a lower priority by.
    passed: u32,
    /// The least that a client had who was runnable when one was served.
    floor: u64,
    entered: bool,
}

/// A domain's clients that have something to run at one priority.
#[derive(Debug, Default)]
struct Level {
    turns: BinaryHeap<Reverse<Turn<ClientNumber>>>,
    runnable: usize,
}

impl Client {
    /// The priority of the queue that has been runnable longest.
    fn longest(&self) -> Option<Priority> {
        let fronts = self.runnable.iter().enumerate().filter_map(|(at, list)| Some((list.front()?.0, at)));
        let (_, at) = fronts.min()?;
        Some(Priority::new(u8::try_from(at).ok()?))
    }
}

/// What a claimed job was charged, and whom.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct Charged {
    client: ClientNumber,
    expected: u64,
}

/// A runnable queue.
#[derive(Debug, Clone, Copy)]
struct Runnable {
    lane: Lane,
    client: ClientNumber,
    priority: Priority,
    came: Came,
}

/// Which queue goes next. Good until anything changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    domain: DomainNumber,
    client: ClientNumber,
    priority: Priority,
    /// The queue.
    pub(super) lane: Lane,
}

/// All runnable queues, by policy.
#[derive(Debug, Default)]
pub(super) struct Fair {
    /// The only one, if there is only one and it came to none.
    alone: Option<Runnable>,
    clients: Vec<Option<Client>>,
    free: Vec<ClientNumber>,
    by_key: HashMap<(DomainId, ClientKey), ClientNumber>,
    /// Those that ever had a queue here: what a domain had is not forgotten with its clients.
    domains: Vec<Domain>,
    by_id: HashMap<DomainId, DomainNumber>,
    turns: BinaryHeap<Reverse<Turn<DomainNumber>>>,
    /// The least that a domain had that was runnable when one was served.
    floor: u64,
    came: Came,
    runnable: usize,
}

impl Fair {
    /// Counts one more queue of a client.
    pub(super) fn join(&mut self, domain: DomainId, client: ClientKey) -> ClientNumber {
        let key = (domain, client);
        let number = self.by_key.get(&key).copied().unwrap_or_else(|| self.meet(key));
        if let Some(client) = self.client(number) {
            client.queues += 1;
        }
        number
    }

    fn meet(&mut self, key: (DomainId, ClientKey)) -> ClientNumber {
        let domain = *self.by_id.entry(key.0).or_insert_with(|| {
            self.domains.push(Domain::default());
            DomainNumber(number_of(self.domains.len() - 1))
        });
        let client = Client {
            domain,
            key,
            queues: 0,
            meter: Meter::default(),
            expected: 0,
            runnable: Default::default(),
            entered: 0,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            ClientNumber(number_of(self.clients.len() - 1))
        });
        if let Some(place) = self.clients.get_mut(number.0 as usize) {
            *place = Some(client);
        }
        self.by_key.insert(key, number);
        number
    }

    /// A queue of this client has closed; it was neither runnable nor running.
    pub(super) fn leave(&mut self, number: ClientNumber) {
        let Some(client) = self.client(number) else { return };
        client.queues -= 1;
        if client.queues > 0 {
            return;
        }
        let (key, domain) = (client.key, client.domain);
        if let Some(domain) = self.domain(domain) {
            for level in &mut domain.levels {
                level.turns.retain(|Reverse(turn)| turn.who != number);
            }
        }
        if let Some(place) = self.clients.get_mut(number.0 as usize) {
            *place = None;
        }
        self.by_key.remove(&key);
        self.free.push(number);
    }

    /// The head of a queue may run.
    #[inline]
    pub(super) fn enter(&mut self, lane: Lane, number: ClientNumber, priority: Priority) {
        let Some(client) = self.clients.get_mut(number.0 as usize).and_then(Option::as_mut) else { return };
        let Some(domain) = self.domains.get_mut(client.domain.0 as usize) else { return };
        domain.meter.begin(self.floor);
        client.meter.begin(domain.floor);
        self.came += 1;
        self.runnable += 1;
        let one = Runnable { lane, client: number, priority, came: self.came };
        if self.runnable == 1 {
            self.alone = Some(one);
            return;
        }
        if let Some(first) = self.alone.take() {
            self.list(first);
        }
        self.list(one);
    }

    /// Adds a queue to its client's list.
    fn list(&mut self, one: Runnable) {
        let Some(client) = self.clients.get_mut(one.client.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(domain) = self.domains.get_mut(client.domain.0 as usize) else { return };
        if !domain.entered {
            domain.entered = true;
            self.turns.push(Reverse(Turn { used: domain.meter.used, came: one.came, who: client.domain }));
        }
        domain.add(client, one);
    }

    /// Takes a queue out of its client's list; when it came.
    fn unlist(&mut self, lane: Lane, number: ClientNumber, priority: Priority) -> Option<Came> {
        let client = self.clients.get_mut(number.0 as usize)?.as_mut()?;
        let list = client.runnable.get_mut(priority.index())?;
        let (came, _) = list.remove(list.iter().position(|(_, other)| *other == lane)?)?;
        self.domains.get_mut(client.domain.0 as usize)?.less(priority);
        Some(came)
    }

    /// Takes a queue out that does not wait for its turn any more.
    pub(super) fn withdraw(&mut self, lane: Lane, number: ClientNumber, priority: Priority) {
        if self.alone.take().is_some() || self.unlist(lane, number, priority).is_some() {
            self.runnable -= 1;
            self.rest(number);
        }
    }

    /// Gives a runnable queue another priority.
    pub(super) fn move_to(&mut self, lane: Lane, client: ClientNumber, from: Priority, to: Priority) {
        if let Some(alone) = &mut self.alone {
            alone.priority = to;
        } else if let Some(came) = self.unlist(lane, client, from) {
            self.list(Runnable { lane, client, priority: to, came });
        }
    }

    /// The queue that goes next.
    #[inline]
    pub(super) fn choose(&mut self) -> Option<Choice> {
        if let Some(Runnable { lane, client, priority, .. }) = self.alone {
            let domain = self.client(client)?.domain;
            return Some(Choice { domain, client, priority, lane });
        }
        self.choose_listed()
    }

    fn choose_listed(&mut self) -> Option<Choice> {
        let number = self.first_domain()?;
        let domain = self.domains.get_mut(number.0 as usize)?;
        let highest = Priority::highest(domain.some)?;
        let strict = domain.some.is_power_of_two() || domain.passed < PASSES;
        let turn = match strict {
            true => domain.first_at(highest, &mut self.clients)?,
            false => domain.least(&mut self.clients)?,
        };
        let client = self.clients.get(turn.who.0 as usize)?.as_ref()?;
        let priority = if strict { highest } else { client.longest()? };
        let (_, lane) = *client.runnable.get(priority.index())?.front()?;
        Some(Choice { domain: number, client: turn.who, priority, lane })
    }

    /// Takes the queue that was chosen, and charges for its job.
    #[inline]
    pub(super) fn take(&mut self, choice: Choice) -> Option<Charged> {
        let domain = self.domains.get_mut(choice.domain.0 as usize)?;
        let several = domain.some & domain.some.wrapping_sub(1) != 0;
        // The one look at several priorities that the common case is spared.
        let least = if several { domain.least(&mut self.clients).map(|turn| turn.used) } else { None };
        let client = self.clients.get_mut(choice.client.0 as usize)?.as_mut()?;
        domain.floor = domain.floor.max(least.unwrap_or(client.meter.used));
        self.floor = self.floor.max(domain.meter.used);
        let passes = several && Priority::highest(domain.some) == Some(choice.priority);
        domain.passed = if passes && domain.passed < PASSES { domain.passed + 1 } else { 0 };
        if self.alone.take().is_none() {
            client.runnable.get_mut(choice.priority.index())?.pop_front()?;
            domain.less(choice.priority);
        }
        self.runnable -= 1;
        let expected = client.expected.max(LEAST_NS);
        client.meter.charge(expected);
        domain.meter.charge(expected);
        Some(Charged { client: choice.client, expected })
    }

    /// The domain that had least and has something to run.
    fn first_domain(&mut self) -> Option<DomainNumber> {
        loop {
            let mut top = self.turns.peek_mut()?;
            let domain = self.domains.get_mut(top.0.who.0 as usize)?;
            if domain.some == 0 {
                domain.entered = false;
                PeekMut::pop(top);
            } else if top.0.used == domain.meter.used {
                return Some(top.0.who);
            } else {
                self.came += 1;
                (top.0.used, top.0.came) = (domain.meter.used, self.came);
            }
        }
    }

    /// A claimed job has ended after `ns` on an engine.
    #[inline]
    pub(super) fn ended(&mut self, charged: Charged, ns: u64) {
        let ns = ns.max(LEAST_NS);
        let Some(client) = self.client(charged.client) else { return };
        client.expected = (3 * (client.expected / 4)).saturating_add(ns / 4);
        client.meter.settle(charged.expected, ns);
        let domain = client.domain;
        if let Some(domain) = self.domain(domain) {
            domain.meter.settle(charged.expected, ns);
        }
        self.rest(charged.client);
    }

    /// A queue of this client has nothing to run any more.
    #[inline]
    fn rest(&mut self, number: ClientNumber) {
        let Some(client) = self.client(number) else { return };
        client.meter.end();
        let domain = client.domain;
        if let Some(domain) = self.domain(domain) {
            domain.meter.end();
        }
    }

    /// Whether no queue is runnable.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.runnable == 0
    }

    fn client(&mut self, number: ClientNumber) -> Option<&mut Client> {
        self.clients.get_mut(number.0 as usize)?.as_mut()
    }

    fn domain(&mut self, number: DomainNumber) -> Option<&mut Domain> {
        self.domains.get_mut(number.0 as usize)
    }
}

impl Domain {
    /// Adds a runnable queue to its client's list, in the order of coming.
    fn add(&mut self, client: &mut Client, one: Runnable) {
        let (at, bit) = (one.priority.index(), one.priority.bit());
        let (Some(list), Some(level)) = (client.runnable.get_mut(at), self.levels.get_mut(at)) else {
            return;
        };
        // Only one whose priority changed may have come before others.
        let after = list.iter().rev().take_while(|(came, _)| *came > one.came).count();
        match after {
            0 => list.push_back((one.came, one.lane)),
            _ => list.insert(list.len() - after, (one.came, one.lane)),
        }
        level.runnable += 1;
        self.some |= bit;
        if client.entered & bit == 0 {
            client.entered |= bit;
            level.turns.push(Reverse(Turn { used: client.meter.used, came: one.came, who: one.client }));
        }
    }

    /// One queue less is runnable at a priority.
    fn less(&mut self, priority: Priority) {
        let Some(level) = self.levels.get_mut(priority.index()) else { return };
        level.runnable -= 1;
        if level.runnable == 0 {
            self.some &= !priority.bit();
        }
    }

    /// The client that had least of those with something to run at a priority.
    fn first_at(&mut self, priority: Priority, clients: &mut [Option<Client>]) -> Option<Turn<ClientNumber>> {
        let turns = &mut self.levels.get_mut(priority.index())?.turns;
        loop {
            let mut top = turns.peek_mut()?;
            let client = clients.get_mut(top.0.who.0 as usize)?.as_mut()?;
            let Some((came, _)) = client.runnable.get(priority.index())?.front() else {
                client.entered &= !priority.bit();
                PeekMut::pop(top);
                continue;
            };
            let now = Turn { used: client.meter.used, came: *came, who: top.0.who };
            if top.0 == now {
                return Some(now);
            }
            top.0 = now;
        }
    }

    /// The client that had least of all that have something to run.
    fn least(&mut self, clients: &mut [Option<Client>]) -> Option<Turn<ClientNumber>> {
        let mut set = self.some;
        let mut least = None;
        while let Some(priority) = Priority::highest(set) {
            set &= !priority.bit();
            let first = self.first_at(priority, clients);
            least = least.into_iter().chain(first).min();
        }
        least
    }
}

fn number_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
