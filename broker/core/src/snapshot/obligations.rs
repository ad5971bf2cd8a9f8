//! Who owes what: every point that was accepted, promised or is awaited, and has not ended; who has to bring it about, and
//! what it waits for itself.
//!
//! ```text
//!   job         queued ─► waiting ─► running ─► over      behind others of its queue; for its waits; by a driver
//!   promise     promised ─► over                          by a client
//!   submission  awaited ─► a job or a promise             by a client; jobs wait for it until a moment
//!   entry       awaited ─► over                           by a client, and then a driver; jobs wait for it until a moment
//! ```
//!
//! Together the entries are the graph of waiting: whoever wants to know why something does not move goes from entry to
//! entry until one waits for nothing, and that one's process is where it hangs. Points that have ended are in no entry's
//! waits; what clients have signalled is looked up in their pages, because nobody tells the broker.
//!
//! The graph ends at a domain's border. A reader who may only see a domain learns of a point elsewhere just that it is
//! elsewhere, and where: [`AwaitedEntry::domain`] without a timeline. It could not tell which device or process
//! that domain's user runs, nor how far they are.
//!
//! A page goes on behind the last job that was told, not behind so many entries: jobs end between two pages. Promises and
//! awaited points are few, and counted.

use vgem_proto::ids::{ClientKey, DomainId, Point, Time, TimelineKey};
use vgem_proto::snapshot::{AwaitedEntry, ObligationEntry};

use crate::awaiting::order_of;
use crate::broker::{Broker, client_number};
use crate::devices::InstanceState;
use crate::queues::{Job, Queue};
use crate::snapshot::entries::signalled;
use crate::snapshot::{View, page, sees};
use crate::timelines::{FIRST, Obligation, Promises, is_of_client};

/// A point that is owed, on its way into an entry.
enum Owed<'a> {
    Job {
        key: TimelineKey,
        queue: &'a Queue,
        point: Point,
        job: &'a Job,
        /// Where its waits begin in the queue's ring.
        first_wait: usize,
    },
    Promise {
        key: TimelineKey,
        promises: &'a Promises,
        obligation: &'a Obligation,
    },
    Submission {
        key: TimelineKey,
        owner: Option<ClientKey>,
        domain: DomainId,
        point: Point,
        since: Time,
        until: Time,
    },
}

/// Where a page goes on, within a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Behind the job whose point has these low bits.
    Job(u32),
    /// Behind so many promises and awaited points.
    Others(u32),
}

/// In the low half of a cursor: it counts promises and awaited points.
const COUNTS: u32 = 1 << 31;

impl Broker {
    /// At most `max` obligations, and the cursor of the next page.
    pub(super) fn obligations(&self, view: View<'_>, cursor: u64, max: usize) -> (Vec<ObligationEntry>, u64) {
        let (index, told) = place_of(cursor);
        let from = |first: u32| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX);
        let told_of = |key: TimelineKey| told.filter(|_| key.index == index);
        let queues = self
            .queues
            .iter_from(from(0))
            .filter(|(_, queue)| sees(view.scope, queue.domain))
            .flat_map(move |(key, queue)| self.owed_by_queue(key, queue, told_of(key)));
        let promises = self
            .promises
            .iter_from(from(FIRST))
            .filter(|(_, promises)| sees(view.scope, promises.domain))
            .flat_map(move |(key, promises)| self.owed_by_client(view, key, promises, told_of(key)));
        page(queues.chain(promises), max, |owed| self.obligation_entry(view, &owed))
    }

    fn owed_by_queue<'a>(
        &'a self,
        key: TimelineKey,
        queue: &'a Queue,
        told: Option<Told>,
    ) -> impl Iterator<Item = (u64, Owed<'a>)> {
        let (jobs, others) = match told {
            None => (0, 0),
            Some(Told::Job(point)) => (after(point, queue), 0),
            Some(Told::Others(count)) => (usize::MAX, count),
        };
        let (mut point, mut next_wait) = (queue.ended, 0);
        let all = queue.jobs.iter().map(move |job| {
            point = point.next();
            let first_wait = next_wait;
            next_wait += usize::from(job.waits);
            (cursor_of(key, Told::Job(low(point))), Owed::Job { key, queue, point, job, first_wait })
        });
        let awaited = self.awaited_of(key, Some(queue.client), queue.domain, queue.promised);
        all.skip(jobs).chain(counted(key, others, awaited))
    }

    fn owed_by_client<'a>(
        &'a self,
        view: View<'_>,
        key: TimelineKey,
        promises: &'a Promises,
        told: Option<Told>,
    ) -> impl Iterator<Item = (u64, Owed<'a>)> {
        let others = match told {
            None | Some(Told::Job(_)) => 0,
            Some(Told::Others(count)) => count,
        };
        let signalled = signalled(view, key, promises);
        let open = promises.obligations.iter().filter(move |obligation| obligation.point > signalled);
        let promised = open.map(move |obligation| Owed::Promise { key, promises, obligation });
        let awaited = self.awaited_of(key, promises.signaller, promises.domain, promises.promised);
        counted(key, others, promised.chain(awaited))
    }

    /// The points of a timeline that jobs wait for and nobody has promised, each once.
    fn awaited_of<'a>(
        &'a self,
        key: TimelineKey,
        owner: Option<ClientKey>,
        domain: DomainId,
        promised: Point,
    ) -> impl Iterator<Item = Owed<'a>> + use<'a> {
        let order = order_of(key);
        let all = self.futures.live.range((order, promised.next(), 0)..=(order, Point(u64::MAX), u64::MAX));
        let mut all = all.map(|(key, future)| (key.1, future)).peekable();
        std::iter::from_fn(move || {
            let (point, first) = all.next()?;
            let (mut since, mut until) = (first.since, first.until.unwrap_or(Time(u64::MAX)));
            while let Some((_, same)) = all.next_if(|(next, _)| *next == point) {
                since = since.min(same.since);
                until = until.min(same.until.unwrap_or(Time(u64::MAX)));
            }
            Some(Owed::Submission { key, owner, domain, point, since, until })
        })
    }

    fn obligation_entry(&self, view: View<'_>, owed: &Owed<'_>) -> ObligationEntry {
        match *owed {
            Owed::Job { key, queue, point, job, first_wait } => {
                let waits = self.waits_of_job(view, (key, point), queue, job, first_wait);
                self.job_entry((key, point), queue, job, waits)
            }
            Owed::Promise { key, promises, obligation } => ObligationEntry {
                kind: "promise".to_owned(),
                state: "promised".to_owned(),
                since_ns: obligation.since.0,
                due_ns: obligation.until.0,
                ..self.clients_entry((key, obligation.point), promises.signaller, promises.domain)
            },
            Owed::Submission { key, owner, domain, point, since, until } => ObligationEntry {
                kind: self.kind_of_awaited(key).to_owned(),
                state: "awaited".to_owned(),
                since_ns: since.0,
                due_ns: until.0,
                ..self.clients_entry((key, point), owner, domain)
            },
        }
    }

    /// What a point is that is awaited.
    fn kind_of_awaited(&self, key: TimelineKey) -> &'static str {
        let is_ring = self.queues.get(key).is_some_and(|queue| queue.ring.is_some());
        if is_ring { "entry" } else { "submission" }
    }

    /// What a client owes itself.
    fn clients_entry(
        &self,
        (key, point): (TimelineKey, Point),
        owner: Option<ClientKey>,
        domain: DomainId,
    ) -> ObligationEntry {
        let client = owner.and_then(|owner| self.clients.get(owner));
        let name = self.promises.get(key).map(|promises| promises.name.clone());
        ObligationEntry {
            timeline: key.to_string(),
            name: name.unwrap_or_default(),
            point: point.0,
            client: owner.map_or(0, client_number),
            client_name: client.map(|client| client.name.clone()).unwrap_or_default(),
            domain: domain.0,
            pid: client.map_or(0, |client| client.peer.pid),
            ..ObligationEntry::default()
        }
    }

    fn job_entry(
        &self,
        (key, point): (TimelineKey, Point),
        queue: &Queue,
        job: &Job,
        waits: Vec<AwaitedEntry>,
    ) -> ObligationEntry {
        let instance = self.instances.get(&queue.instance);
        let is_head = point == queue.ended.next();
        let runs = instance.is_some_and(|instance| instance.state == InstanceState::Ready);
        let state = match (runs, is_head) {
            (false, _) => "restarting",
            (true, false) => "queued",
            (true, true) if queue.limit.is_some() => "running",
            (true, true) => "waiting",
        };
        let due = queue.limit.filter(|_| is_head);
        ObligationEntry {
            kind: "job".to_owned(),
            device: self.devices.get(queue.device).map(|d| d.name().to_owned()).unwrap_or_default(),
            pid: instance.map_or(0, |instance| instance.pid),
            state: state.to_owned(),
            since_ns: job.since().0,
            due_ns: due.map_or(0, |due| due.0),
            waits,
            ..self.clients_entry((key, point), Some(queue.client), queue.domain)
        }
    }

    /// What a job waits for: the job before it, and every point of others that has not ended.
    fn waits_of_job(
        &self,
        view: View<'_>,
        (key, point): (TimelineKey, Point),
        queue: &Queue,
        job: &Job,
        first_wait: usize,
    ) -> Vec<AwaitedEntry> {
        if job.unblocked || job.cancelled {
            // By its driver's word, or by ours, it waits for nothing but its turn.
            return self.before((key, point), queue).collect();
        }
        let own = queue.waits.iter().skip(first_wait).take(usize::from(job.waits));
        let own = own.filter_map(|(timeline, point)| {
            let domain = self.domain_of_open(view, *timeline, *point)?;
            Some(if sees(view.scope, domain) {
                AwaitedEntry { timeline: timeline.to_string(), point: point.0, domain: domain.0 }
            } else {
                AwaitedEntry { timeline: String::new(), point: 0, domain: domain.0 }
            })
        });
        self.before((key, point), queue).chain(own).collect()
    }

    /// The job before one, if it has not ended.
    fn before(
        &self,
        (key, point): (TimelineKey, Point),
        queue: &Queue,
    ) -> impl Iterator<Item = AwaitedEntry> + use<> {
        let before = Point(point.0.saturating_sub(1));
        let (is_open, domain) = (before > queue.ended, queue.domain.0);
        let entry = || AwaitedEntry { timeline: key.to_string(), point: before.0, domain };
        is_open.then(entry).into_iter()
    }

    /// The domain of a point that has not ended.
    fn domain_of_open(&self, view: View<'_>, key: TimelineKey, point: Point) -> Option<DomainId> {
        if is_of_client(key) {
            let promises = self.promises.get(key)?;
            let is_open = !promises.has_passed(point) && signalled(view, key, promises) < point;
            return is_open.then_some(promises.domain);
        }
        self.queues.get(key).filter(|queue| !queue.has_passed(point)).map(|queue| queue.domain)
    }
}

/// Promises and awaited points with their cursors, from `first` on.
fn counted<'a>(
    key: TimelineKey,
    first: u32,
    all: impl Iterator<Item = Owed<'a>>,
) -> impl Iterator<Item = (u64, Owed<'a>)> {
    let numbered = (1u32..).zip(all).map(move |(count, owed)| (cursor_of(key, Told::Others(count)), owed));
    numbered.skip(usize::try_from(first).unwrap_or(usize::MAX))
}

/// A cursor is the index of a timeline, counted from 1, and how far that one was told.
fn cursor_of(key: TimelineKey, told: Told) -> u64 {
    let low = match told {
        Told::Job(point) => point & !COUNTS,
        Told::Others(count) => count | COUNTS,
    };
    (u64::from(key.index) + 1) << 32 | u64::from(low)
}

/// The index of the timeline to go on with, and how far that one was told.
fn place_of(cursor: u64) -> (u32, Option<Told>) {
    let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let Some(index) = half(cursor >> 32).checked_sub(1) else { return (0, None) };
    let low = half(cursor);
    (index, Some(if low & COUNTS == 0 { Told::Job(low) } else { Told::Others(low & !COUNTS) }))
}

/// The bits of a job's point that a cursor holds.
fn low(point: Point) -> u32 {
    u32::try_from(point.0 & u64::from(!COUNTS)).unwrap_or(0)
}

/// How many of a queue's open jobs have been told of, if the last one told has these low bits. A queue has far fewer
/// open than half of what the bits can tell apart, so they say which one is meant.
fn after(told: u32, queue: &Queue) -> usize {
    let past = told.wrapping_sub(low(queue.ended)) & !COUNTS;
    if past < COUNTS / 2 { usize::try_from(past).unwrap_or(usize::MAX) } else { 0 }
}
