//! Who owes what: every point that was accepted and has not ended, who has to bring it about, and what it waits for.
//!
//! ```text
//!   waiting ──its waits pass──► running ──► over
//!      ▲
//!      └── queued: another job of its queue comes first, and is one of the things it waits for
//! ```
//!
//! Together the entries are the graph of waiting: whoever wants to know why something does not move goes from entry to
//! entry until one waits for nothing, and that one's process is where it hangs. What can be left out is: points that have
//! ended are in no entry's waits.
//!
//! The graph ends at a domain's border. A reader who may only see a domain learns of a point elsewhere just that it is
//! elsewhere, and where: [`AwaitedEntry::domain`] without a timeline. It could not tell which device or process
//! that domain's user runs, nor how far they are.
//!
//! A page goes on behind the last point that was told, not behind so many entries: jobs end between two pages.

use vgem_proto::ids::{Point, TimelineKey};
use vgem_proto::snapshot::{AwaitedEntry, ObligationEntry};

use crate::broker::{Broker, client_number};
use crate::devices::InstanceState;
use crate::io::Scope;
use crate::queues::{Job, Queue};
use crate::snapshot::{page, sees};
use crate::tables::Key as _;

/// A job that has not ended, on its way into an entry.
struct Open<'a> {
    key: TimelineKey,
    queue: &'a Queue,
    point: Point,
    job: &'a Job,
    /// Where its waits begin in the queue's ring.
    first_wait: usize,
}

impl Broker {
    /// At most `max` obligations, and the cursor of the next page.
    pub(super) fn obligations(&self, scope: Scope, cursor: u64, max: usize) -> (Vec<ObligationEntry>, u64) {
        let (row, told) = place_of(cursor);
        let all = self
            .queues
            .iter_from(row)
            .filter(|(_, queue)| sees(scope, queue.domain))
            .flat_map(|(key, queue)| {
                let first = if key.index() == row { after(told, queue) } else { 0 };
                open_jobs(key, queue).skip(first)
            })
            .map(|open| (cursor_behind(open.key, open.point), open));
        page(all, max, |open| self.obligation_entry(scope, &open))
    }

    fn obligation_entry(&self, scope: Scope, open: &Open<'_>) -> ObligationEntry {
        let Open { key, queue, point, job, .. } = *open;
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
            timeline: key.to_string(),
            point: point.0,
            kind: "job".to_owned(),
            device: self.devices.get(queue.device).map(|d| d.name().to_owned()).unwrap_or_default(),
            client: client_number(queue.client),
            client_name: self.clients.get(queue.client).map(|c| c.name.clone()).unwrap_or_default(),
            domain: queue.domain.0,
            pid: instance.map_or(0, |instance| instance.pid),
            state: state.to_owned(),
            since_ns: job.since.0,
            due_ns: due.map_or(0, |due| due.0),
            waits: self.awaited(scope, open),
        }
    }

    /// What a job waits for: the job before it, and every point of others that has not ended.
    fn awaited(&self, scope: Scope, open: &Open<'_>) -> Vec<AwaitedEntry> {
        let Open { key, queue, point, job, first_wait } = *open;
        let before = Point(point.0.saturating_sub(1));
        let own = queue.waits.iter().skip(first_wait).take(usize::from(job.waits)).copied();
        let all = (before > queue.ended).then_some((key, before)).into_iter().chain(own);
        all.filter_map(|(timeline, point)| {
            let awaited = self.queues.get(timeline).filter(|awaited| awaited.ended < point)?;
            let domain = awaited.domain.0;
            Some(if sees(scope, awaited.domain) {
                AwaitedEntry { timeline: timeline.to_string(), point: point.0, domain }
            } else {
                AwaitedEntry { timeline: String::new(), point: 0, domain }
            })
        })
        .collect()
    }
}

/// The jobs of a queue that have not ended, in their order.
fn open_jobs(key: TimelineKey, queue: &Queue) -> impl Iterator<Item = Open<'_>> {
    let (mut point, mut next_wait) = (queue.ended, 0);
    queue.jobs.iter().map(move |job| {
        point = point.next();
        let first_wait = next_wait;
        next_wait += usize::from(job.waits);
        Open { key, queue, point, job, first_wait }
    })
}

/// A cursor is the row of a timeline, counted from 1, and the low half of the last point told of it.
fn cursor_behind(key: TimelineKey, point: Point) -> u64 {
    (u64::from(key.index) + 1) << 32 | point.0 & u64::from(u32::MAX)
}

fn place_of(cursor: u64) -> (usize, u32) {
    let row = usize::try_from(cursor >> 32).unwrap_or(usize::MAX);
    let told = u32::try_from(cursor & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    row.checked_sub(1).map_or((0, 0), |row| (row, told))
}

/// How many of a queue's open jobs have been told of, if the last one told was number `told`. A queue has far fewer
/// open than 2^31, so the low half of a point says which one is meant.
fn after(told: u32, queue: &Queue) -> usize {
    let ended = u32::try_from(queue.ended.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let past = told.wrapping_sub(ended);
    if past < 1 << 31 { usize::try_from(past).unwrap_or(usize::MAX) } else { 0 }
}
