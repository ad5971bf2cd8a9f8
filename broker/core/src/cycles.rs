//! Cycles of waits: a batch that would close one is refused (J2, SPEC M-086).
//!
//! Jobs wait for jobs that were accepted before them, so waits alone close no cycle. Waits for points that are not
//! submitted yet do. Such a point will come behind all jobs of its queue, so whoever awaits it waits for the last of them
//! from now on, and for each that is submitted later: looked at like this, no cycle is ever begun. That a queue's later
//! jobs close it would be too late, because those before them are at their drivers by then, and wait.
//!
//! Only what somebody awaits can lead back into a batch: a batch that nobody awaits anything of closes no cycle. From
//! each of the others' queues waits are followed in depth, explicit ones, implicit ones and the order of queues. Client
//! promises are leaves: each has a moment. So is a job that was cancelled: it waits for nothing more.
//!
//! A queue is in order, so to reach a job is to reach every job before it. They are looked at first to last, and what
//! has been looked at of a queue is always its beginning: every job and every wait is looked at once. A queue that is
//! reached again while one of its jobs is being looked at closes a cycle, unless only what was looked at is reached.

use std::collections::BTreeMap;
use std::ops::Range;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Point, TimelineKey};

use crate::awaiting::{TimelineOrder, order_of};
use crate::batch::Batch;
use crate::devices::Device;
use crate::queues::Queue;
use crate::reservation::PlannedWait;
use crate::tables::Table;

/// A job of the batch that is being looked at.
#[derive(Debug)]
struct NewJob {
    /// Its place in the batch.
    number: u16,
    /// Its own among the waits of the batch.
    waits: Range<usize>,
}

type Node = (TimelineKey, Point);

/// What was seen of a queue.
#[derive(Debug)]
struct Seen {
    /// Everything up to here has been looked at, or has ended.
    to: Point,
    /// Where the waits of the next job begin among those of the queue.
    waits: usize,
    /// The job behind `to` is being looked at.
    is_open: bool,
}

/// A job that is being looked at.
#[derive(Debug)]
struct Step {
    job: Node,
    /// The last job of the queue that is to be looked at.
    to: Point,
    /// How many of the job's waits were followed.
    followed: usize,
}

/// How much was found too much, or a cycle.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Cycle(Vec<Node>),
    TooMuch,
}

/// Follows waits.
pub(crate) struct Search<'a> {
    queues: &'a Table<TimelineKey, Queue>,
    waits: &'a [PlannedWait],
    new: BTreeMap<TimelineOrder, Vec<NewJob>>,
    seen: BTreeMap<TimelineOrder, Seen>,
    steps: Vec<Step>,
    /// Jobs and waits that may still be looked at.
    left: usize,
}

impl<'a> Search<'a> {
    /// A search from the jobs of a batch that looks at no more than `most` jobs and waits.
    pub(crate) fn of(queues: &'a Table<TimelineKey, Queue>, batch: &'a Batch, most: usize) -> Self {
        let mut new = BTreeMap::<TimelineOrder, Vec<NewJob>>::new();
        let mut first = 0;
        for (number, ((timeline, _), planned)) in (0u16..).zip(batch.points().zip(&batch.jobs)) {
            let waits = first..first + planned.waits;
            first = waits.end;
            new.entry(order_of(timeline)).or_default().push(NewJob { number, waits });
        }
        let (seen, steps) = (BTreeMap::new(), Vec::new());
        Self { queues, waits: &batch.waits, new, seen, steps, left: most }
    }

    /// The refusal of the batch, if it would close a cycle.
    pub(crate) fn find_cycle(
        mut self,
        batch: &Batch,
        devices: &[Device],
        domain: DomainId,
    ) -> Result<(), Refusal> {
        let most = self.left as u64;
        let found = batch.timelines().try_for_each(|timeline| self.follow((timeline, Point(u64::MAX))));
        match found {
            Ok(()) => Ok(()),
            Err(Found::TooMuch) => {
                let text =
                    "unfinished jobs and their waits behind a batch that others await; wait for some to end";
                Err(Refusal::new(ErrorCode::Exhausted, text).with(most.saturating_add(1), most))
            }
            Err(Found::Cycle(cycle)) => {
                let words = self.words(&cycle, devices, domain);
                let text = format!("the waits would close a cycle, and none of it could ever begin: {words}");
                let new = cycle.iter().find_map(|job| Some((job.1.0, self.new_job(*job)?.number)));
                let (point, number) = new.unwrap_or_default();
                let refusal = Refusal::new(ErrorCode::Deadlock, text).in_job(number);
                Err(refusal.with(point, point.saturating_sub(1)))
            }
        }
    }

    /// Follows everything that a job waits for.
    fn follow(&mut self, job: Node) -> Result<(), Found> {
        self.enter(job)?;
        while let Some(Step { job, to, followed }) = self.steps.last_mut() {
            let (job, place, is_last) = (*job, *followed, job.1 == *to);
            *followed += 1;
            self.left = self.left.checked_sub(1).ok_or(Found::TooMuch)?;
            match self.wait_of(job, place) {
                Some(wait) => self.enter(wait)?,
                None => self.leave(job, is_last),
            }
        }
        Ok(())
    }

    /// Begins to look at a job that is waited for, and at those before it.
    fn enter(&mut self, (timeline, point): Node) -> Result<(), Found> {
        let Some(queue) = self.queues.get(timeline) else { return Ok(()) };
        // What is still to come comes behind the last.
        let new = self.new.get(&order_of(timeline)).map_or(0, Vec::len) as u64;
        let to = point.min(Point(queue.promised.0.saturating_add(new)));
        let begin = || Seen { to: queue.ended, waits: 0, is_open: false };
        let seen = self.seen.entry(order_of(timeline)).or_insert_with(begin);
        if to <= seen.to {
            return Ok(());
        }
        if std::mem::replace(&mut seen.is_open, true) {
            return Err(Found::Cycle(self.cycle((timeline, to))));
        }
        self.steps.push(Step { job: (timeline, seen.to.next()), to, followed: 0 });
        Ok(())
    }

    /// All waits of a job were followed.
    fn leave(&mut self, (timeline, point): Node, is_last: bool) {
        let old = self.queues.get(timeline).and_then(|queue| queue.job(point));
        let waits = old.map_or(0, |job| usize::from(job.waits));
        if let Some(seen) = self.seen.get_mut(&order_of(timeline)) {
            (seen.to, seen.waits, seen.is_open) = (point, seen.waits + waits, !is_last);
        }
        if is_last {
            self.steps.pop();
        } else if let Some(step) = self.steps.last_mut() {
            (step.job.1, step.followed) = (point.next(), 0);
        }
    }

    /// One of the points that a job waits for.
    fn wait_of(&self, job: Node, place: usize) -> Option<Node> {
        if let Some(new) = self.new_job(job) {
            let wait = self.waits.get(new.waits.clone())?.get(place)?;
            return Some((wait.fence.timeline, wait.fence.point));
        }
        let queue = self.queues.get(job.0)?;
        let waits = queue.job(job.1).filter(|job| !job.cancelled).map_or(0, |job| usize::from(job.waits));
        let first = self.seen.get(&order_of(job.0)).map_or(0, |seen| seen.waits);
        if place < waits { queue.waits.get(first + place).copied() } else { None }
    }

    fn new_job(&self, (timeline, point): Node) -> Option<&NewJob> {
        let before = self.queues.get(timeline)?.promised;
        let place = point.0.checked_sub(before.0)?.checked_sub(1)?;
        self.new.get(&order_of(timeline))?.get(usize::try_from(place).ok()?)
    }

    /// The jobs of a cycle, each waiting for the next one, and the last one for the first.
    fn cycle(&self, first: Node) -> Vec<Node> {
        let begin = self.steps.iter().position(|step| step.job.0 == first.0).unwrap_or_default();
        let mut cycle = vec![first];
        for step in self.steps.iter().skip(begin) {
            // It was reached because a later job of its queue is waited for.
            let reached = if step.job.0 == first.0 { first } else { (step.job.0, step.to) };
            for job in [reached, step.job] {
                if cycle.last() != Some(&job) {
                    cycle.push(job);
                }
            }
        }
        cycle
    }

    fn words(&self, cycle: &[Node], devices: &[Device], domain: DomainId) -> String {
        const MOST: usize = 12;
        let name = |node: &Node| match self.queues.get(node.0) {
            Some(queue) if queue.domain == domain => {
                let device = devices.get(queue.device).map(|device| device.name()).unwrap_or_default();
                format!("job {} of {} on {device}", node.1.0, node.0)
            }
            Some(_) | None => "a job of another domain".to_owned(),
        };
        let mut words: Vec<String> = cycle.iter().take(MOST).map(name).collect();
        if cycle.len() > MOST {
            words.push(format!("{} more", cycle.len() - MOST));
        }
        words.extend(cycle.first().map(name));
        words.join(", which waits for ")
    }
}
