//! Cycles of waits: a batch that would close one is refused (J2, SPEC M-086).
//!
//! Jobs wait for jobs that were accepted before them, so waits alone close no cycle. Waits for points that are not
//! submitted yet do: the job that will signal the point may itself have to wait, over any number of others, for the job
//! that waits for it. Such a cycle is closed by the batch that submits the point, and that batch is looked at here: for
//! every job in it that somebody awaits, what it waits for is followed, through explicit waits, implicit ones and the
//! order of queues. Client promises are leaves: each has a moment.
//!
//! A queue is in order, so to reach a job is to reach every job before it: of each queue the highest point that was
//! reached is remembered, and every job is looked at once.

use std::collections::BTreeMap;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Point, TimelineKey};

use crate::awaiting::{Futures, TimelineOrder, order_of};
use crate::devices::Device;
use crate::queues::Queue;
use crate::tables::Table;

/// A job of the batch that is being looked at.
#[derive(Debug)]
pub(crate) struct NewJob {
    /// Its place in the batch.
    pub(crate) number: u16,
    pub(crate) job: (TimelineKey, Point),
    /// What it waits for.
    pub(crate) waits: Vec<(TimelineKey, Point)>,
    /// Points that nobody has promised before this batch.
    pub(crate) awaits: Vec<(TimelineKey, Point)>,
}

/// Everything that is needed to follow waits.
pub(crate) struct Search<'a> {
    pub(crate) queues: &'a Table<TimelineKey, Queue>,
    pub(crate) devices: &'a [Device],
    pub(crate) futures: &'a Futures,
    pub(crate) domain: DomainId,
    pub(crate) batch: &'a [NewJob],
}

type Node = (TimelineKey, Point);

impl Search<'_> {
    /// The refusal of the batch, if it would close a cycle.
    pub(crate) fn find_cycle(&self) -> Result<(), Refusal> {
        for (awaited, waiter) in self.closed_by_batch() {
            if let Some(path) = self.path(awaited, waiter) {
                let number = self.batch.iter().find(|new| new.job == awaited).map_or(0, |new| new.number);
                let text = format!(
                    "the waits would close a cycle, and none of it could ever begin: {}",
                    self.words(&path)
                );
                let refusal = Refusal::new(ErrorCode::Deadlock, text).in_job(number);
                return Err(refusal.with(awaited.1.0, awaited.1.0.saturating_sub(1)));
            }
        }
        Ok(())
    }

    /// Waits for points that this batch submits: the job that is awaited, and the one that waits.
    fn closed_by_batch(&self) -> Vec<(Node, Node)> {
        let mut closed = Vec::new();
        for new in self.batch {
            let (timeline, point) = new.job;
            let order = order_of(timeline);
            let earlier = self.futures.live.range((order, point, 0)..=(order, point, u64::MAX));
            closed.extend(earlier.map(|(_, future)| (new.job, future.waiter)));
        }
        for waiting in self.batch {
            let inside = |awaited: &&Node| self.batch.iter().any(|new| new.job == **awaited);
            closed.extend(waiting.awaits.iter().filter(inside).map(|awaited| (*awaited, waiting.job)));
        }
        closed
    }

    /// How `from` comes to wait for `to`, if it does: every job on the way, both included.
    fn path(&self, from: Node, to: Node) -> Option<Vec<Node>> {
        let mut reached = BTreeMap::<TimelineOrder, Point>::new();
        // Who led to a job first.
        let mut parents = BTreeMap::<(TimelineOrder, Point), Node>::new();
        let mut open = vec![from];
        while let Some((timeline, point)) = open.pop() {
            let order = order_of(timeline);
            let known = reached.get(&order).copied().unwrap_or_else(|| self.first_open(timeline));
            // What is not submitted yet waits for nothing.
            let point = point.min(self.last_of(timeline));
            for point in known.0 + 1..=point.0 {
                let node = (timeline, Point(point));
                if node == to && node != from {
                    return Some(self.way_back(&parents, from, node));
                }
                for wait in self.waits_of(node) {
                    let key = (order_of(wait.0), wait.1);
                    if wait != from {
                        parents.entry(key).or_insert(node);
                    }
                    open.push(wait);
                }
            }
            let highest = reached.entry(order).or_insert(known);
            *highest = (*highest).max(point);
        }
        None
    }

    /// From the last job of a path to its first, and turned around.
    fn way_back(&self, parents: &BTreeMap<(TimelineOrder, Point), Node>, from: Node, to: Node) -> Vec<Node> {
        let mut path = vec![to];
        let mut at = to;
        while at != from && path.len() < 64 {
            // A job that nobody waits for by itself was reached by the order of its queue.
            let key = (order_of(at.0), at.1);
            let next = parents.get(&key).copied().unwrap_or((at.0, at.1.next()));
            if path.contains(&next) {
                break;
            }
            path.push(next);
            at = next;
        }
        path.reverse();
        path
    }

    /// The last point of a timeline that is known to have ended.
    fn first_open(&self, timeline: TimelineKey) -> Point {
        self.queues.get(timeline).map_or(Point(0), |queue| queue.ended)
    }

    /// The last point of a timeline that is submitted, with this batch.
    fn last_of(&self, timeline: TimelineKey) -> Point {
        let before = self.queues.get(timeline).map_or(Point(0), |queue| queue.promised);
        let new = self.batch.iter().filter(|new| new.job.0 == timeline).map(|new| new.job.1);
        new.fold(before, Point::max)
    }

    fn waits_of(&self, node: Node) -> Vec<Node> {
        if let Some(new) = self.batch.iter().find(|new| new.job == node) {
            return new.waits.iter().chain(&new.awaits).copied().collect();
        }
        let Some(queue) = self.queues.get(node.0) else { return Vec::new() };
        queue.waits_of(node.1).collect()
    }

    fn words(&self, path: &[Node]) -> String {
        let name = |node: &Node| match self.queues.get(node.0) {
            Some(queue) if queue.domain == self.domain => {
                let device = self.devices.get(queue.device).map(|device| device.name()).unwrap_or_default();
                format!("job {} of {} on {device}", node.1.0, node.0)
            }
            Some(_) | None => "a job of another domain".to_owned(),
        };
        let mut words: Vec<String> = path.iter().map(name).collect();
        words.extend(path.first().map(name));
        words.join(", which waits for ")
    }
}
