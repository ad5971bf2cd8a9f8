//! Queues, their timelines, and the jobs in them.
//!
//! A queue belongs to one client and one device instance and has exactly one timeline, whose signaller is that
//! instance: the two share one key here. Jobs are numbered by their points, one after the other, and end in
//! order, so everything a job needs until then lies in three rings: the jobs, their uses of objects, and the
//! points of other timelines they wait for. Nothing is allocated per job.
//!
//! ```text
//! Open --close--> Closing --all jobs ended, the driver has said so--> removed
//!   |                |
//!   +---- the instance dies, and leaves it to no heir: every job ends ----> Gone --close--> removed
//! ```
//! An instance that is ended for one late job leaves its queues to another ([`crate::succession`]): then only
//! `instance` changes.
//!
//! Invariants: `promised - ended` is the number of jobs in the ring and the amount of `owed`; the uses and waits
//! of all jobs in the ring are exactly what the other two rings hold; a queue that is watched by another has an
//! unfinished job, or somebody awaits one.

use std::collections::{BTreeSet, VecDeque};

use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{
    CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point, QueueHandle, Time, TimelineKey,
};

use crate::accounts::Charge;
use crate::awaiting::TimelineOrder;
use crate::io::PairId;
use crate::pairs::Party;
use crate::priority::Lent;
use crate::ranges::ByteRange;
use crate::reservation::Touching;
use crate::rings::Ring;

/// Where a queue is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueueState {
    /// Takes jobs.
    Open,
    /// Its jobs finish; then it is no more.
    Closing,
    /// Its instance is gone.
    Gone,
}

/// What can happen to a queue as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueueEvent {
    Close,
    InstanceGone,
}

impl QueueState {
    /// The state after `event`; `None` is the end.
    pub(crate) fn after(self, event: QueueEvent) -> Option<Self> {
        match (self, event) {
            (Self::Open, QueueEvent::Close) => Some(Self::Closing),
            (Self::Closing, QueueEvent::Close) => Some(Self::Closing),
            (Self::Gone, QueueEvent::Close) => None,
            (Self::Open, QueueEvent::InstanceGone) => Some(Self::Gone),
            (Self::Closing, QueueEvent::InstanceGone) => None,
            (Self::Gone, QueueEvent::InstanceGone) => Some(Self::Gone),
        }
    }
}

/// A job that has not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Longest run time once ready, nanoseconds.
    pub(crate) run_ns: u64,
    /// When it was submitted.
    pub(crate) submitted: Time,
    /// For the head of a queue, once it is ready, when it became so; else 0.
    pub(crate) ready: Time,
    /// How many of the ring's uses are its own.
    pub(crate) uses: u16,
    /// How many of the ring's waits are its own.
    pub(crate) waits: u16,
    /// The instance's number of the run that it is in.
    pub(crate) run: u32,
    /// Its driver was told to cancel it.
    pub(crate) cancelled: bool,
    /// It was late because it could not see what it waits for, and has its time once more.
    pub(crate) spared: bool,
    /// Its driver says that all its waits have passed.
    pub(crate) unblocked: bool,
}

impl Job {
    /// When it was submitted; for the head of a queue, once it is ready, when it became so.
    pub(crate) fn since(&self) -> Time {
        if self.ready == Time(0) { self.submitted } else { self.ready }
    }
}

/// What a job does to an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) object: ObjectKey,
    pub(crate) range: ByteRange,
    pub(crate) touching: Touching,
}

/// A slot in which the queue's timeline is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) observer: Party,
    pub(crate) pair: PairId,
    pub(crate) slot: u16,
    /// The observer's own number of the page.
    pub(crate) page: u16,
    /// For an instance: per queue of it, the last job that waits here.
    pub(crate) waiters: Waiters,
}

/// Where a timeline is shown: at most once to each observer, in the order of the observers. There may be thousands, and
/// every wait looks for its own.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Shown>);

impl Places {
    fn find(&self, observer: Party) -> Result<usize, usize> {
        self.0.binary_search_by_key(&observer, |shown| shown.observer)
    }

    /// Where an observer sees it.
    pub(crate) fn of(&self, observer: Party) -> Option<&Shown> {
        self.find(observer).ok().and_then(|place| self.0.get(place))
    }

    pub(crate) fn of_mut(&mut self, observer: Party) -> Option<&mut Shown> {
        self.find(observer).ok().and_then(|place| self.0.get_mut(place))
    }

    /// Adds a place for an observer that does not see it yet.
    pub(crate) fn add(&mut self, shown: Shown) {
        if let Err(place) = self.find(shown.observer) {
            self.0.insert(place, shown);
        }
    }

    pub(crate) fn remove(&mut self, observer: Party) -> Option<Shown> {
        self.find(observer).ok().map(|place| self.0.remove(place))
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Shown) -> bool) {
        self.0.retain(keep);
    }
}

impl std::ops::Deref for Places {
    type Target = [Shown];

    fn deref(&self) -> &[Shown] {
        &self.0
    }
}

impl IntoIterator for Places {
    type Item = Shown;
    type IntoIter = std::vec::IntoIter<Shown>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Per queue, the last job that waits in some slot. The slot may be used again once all of them have ended.
pub(crate) type Waiters = Vec<(TimelineKey, Point)>;

/// Queues whose heads wait for points of a timeline, in the order of the points: the others are not looked at when one
/// passes.
pub(crate) type Watchers = BTreeSet<(Point, TimelineOrder)>;

/// Failures of a queue that are remembered, for explicit waits that come late; at times twice as many.
const FAILURES: usize = 64;

/// What a point counts as having failed with of which nobody knows how it ended.
pub(crate) const FORGOTTEN: Failure = Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE };

/// The points of a timeline that failed, as far as they are remembered.
#[derive(Debug, Default)]
pub(crate) struct FailedPoints {
    /// The last of them, oldest first.
    known: VecDeque<(Point, Failure)>,
    /// The last point that failed and is no longer in `known`.
    forgotten: Option<Point>,
}

impl FailedPoints {
    pub(crate) fn note(&mut self, point: Point, failure: Failure) {
        self.known.push_back((point, failure));
    }

    /// Forgets the oldest if there are twice as many as are remembered, and gives them.
    pub(crate) fn take_old(&mut self) -> Vec<(Point, Failure)> {
        if self.known.len() < 2 * FAILURES {
            return Vec::new();
        }
        let old: Vec<_> = self.known.drain(..self.known.len() - FAILURES).collect();
        self.forgotten = old.last().map(|(point, _)| *point);
        old
    }

    /// How a point failed, if that is remembered.
    pub(crate) fn known(&self, point: Point) -> Option<Failure> {
        let at = self.known.binary_search_by_key(&point, |(failed, _)| *failed).ok()?;
        self.known.get(at).map(|(_, failure)| *failure)
    }

    /// How a point that has ended failed. One of which nothing is known counts as failed, and with nobody's cause.
    pub(crate) fn of(&self, point: Point) -> Option<Failure> {
        let forgotten = || self.forgotten.filter(|last| point <= *last).map(|_| FORGOTTEN);
        self.known(point).or_else(forgotten)
    }

    /// The last failures, at most `count`, oldest first.
    pub(crate) fn last(&self, count: usize) -> impl Iterator<Item = (Point, Failure)> {
        self.known.iter().skip(self.known.len().saturating_sub(count)).copied()
    }

    /// Those that are remembered, oldest first.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &(Point, Failure)> + ExactSizeIterator {
        self.known.iter()
    }
}

/// The end of a queue's instance.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) how: Box<str>,
    pub(crate) cause: CauseId,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) state: QueueState,
    pub(crate) client: ClientKey,
    pub(crate) handle: QueueHandle,
    pub(crate) domain: DomainId,
    /// Place in the broker's list of devices.
    pub(crate) device: usize,
    pub(crate) instance: InstanceId,
    /// Most jobs in flight.
    pub(crate) depth: u32,
    /// 0, the ordinary one, to 7.
    pub(crate) priority: u8,
    /// Priorities that it was lent.
    pub(crate) lent: Lent,
    pub(crate) promised: Point,
    pub(crate) ended: Point,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) uses: VecDeque<Use>,
    pub(crate) waits: VecDeque<(TimelineKey, Point)>,
    /// The charge for the queue.
    pub(crate) charge: Charge,
    /// The charge for its jobs in flight.
    pub(crate) owed: Charge,
    pub(crate) shown: Places,
    /// When the job at the head must have ended; set while it is ready.
    pub(crate) limit: Option<Time>,
    /// The job at the head was late, and it is being looked whether its instance sees what it waits for.
    pub(crate) is_checked: bool,
    /// A point that the job at the head waits for.
    pub(crate) watching: Option<(TimelineKey, Point)>,
    /// Queues whose heads wait for this timeline.
    pub(crate) watchers: Watchers,
    pub(crate) failures: FailedPoints,
    /// When the last job that is known to have ended did.
    pub(crate) ended_at: Time,
    /// Jobs that are not to run any more, and what they fail with.
    pub(crate) cancels: Vec<(Point, Failure)>,
    /// Jobs of it that took too long.
    pub(crate) hangs: u32,
    /// Whether another domain ever saw it.
    pub(crate) crosses: bool,
    /// Its instance serves its client alone: it takes no jobs, and no job waits for it.
    pub(crate) is_own: bool,
    /// On which its client schedules by itself.
    pub(crate) ring: Option<Box<Ring>>,
    /// How its instance ended, once it has.
    pub(crate) lost: Option<Lost>,
}

impl Queue {
    pub(crate) fn in_flight(&self) -> usize {
        self.jobs.len()
    }

    /// The place of a point in the ring of jobs.
    fn place_of(&self, point: Point) -> Option<usize> {
        let place = point.0.checked_sub(self.ended.0)?.checked_sub(1)?;
        usize::try_from(place).ok()
    }

    /// The unfinished job of a point.
    pub(crate) fn job(&self, point: Point) -> Option<&Job> {
        self.place_of(point).and_then(|place| self.jobs.get(place))
    }

    pub(crate) fn job_mut(&mut self, point: Point) -> Option<&mut Job> {
        self.place_of(point).and_then(|place| self.jobs.get_mut(place))
    }

    /// Notes that an unfinished job is not to run any more.
    pub(crate) fn cancel(&mut self, point: Point, failure: Failure) {
        if let Some(job) = self.job_mut(point) {
            job.cancelled = true;
            self.cancels.push((point, failure));
        }
    }

    /// Whether a point is known to have passed: the end of a job, or of an entry.
    #[inline]
    pub(crate) fn has_passed(&self, point: Point) -> bool {
        self.ended >= point || self.ring.as_ref().is_some_and(|ring| ring.sighted.passed >= point)
    }

    /// The points that the job at the head waits for.
    pub(crate) fn head_waits(&self) -> impl Iterator<Item = (TimelineKey, Point)> {
        let count = self.jobs.front().map_or(0, |job| usize::from(job.waits));
        self.waits.iter().take(count).copied()
    }

    /// The points that an unfinished job waits for.
    pub(crate) fn waits_of(&self, point: Point) -> impl Iterator<Item = (TimelineKey, Point)> {
        let place = self.place_of(point).filter(|place| *place < self.jobs.len());
        let before =
            place.map_or(0, |place| self.jobs.iter().take(place).map(|job| job.waits as usize).sum());
        let own = place.and_then(|place| self.jobs.get(place)).map_or(0, |job| job.waits as usize);
        self.waits.iter().skip(before).take(own).copied()
    }

    /// The points that the unfinished jobs up to a point wait for.
    pub(crate) fn waits_up_to(&self, point: Point) -> impl Iterator<Item = (TimelineKey, Point)> {
        let jobs = usize::try_from(point.0.saturating_sub(self.ended.0)).unwrap_or(usize::MAX);
        let waits: usize = self.jobs.iter().take(jobs).map(|job| usize::from(job.waits)).sum();
        self.waits.iter().take(waits).copied()
    }

    /// What tools call its state.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            QueueState::Gone => "gone",
            QueueState::Open | QueueState::Closing if self.jobs.is_empty() => "idle",
            QueueState::Open | QueueState::Closing if self.limit.is_some() => "ready",
            QueueState::Open | QueueState::Closing => "waiting",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_queue_are_these() {
        let mut table = String::new();
        for state in [QueueState::Open, QueueState::Closing, QueueState::Gone] {
            for event in [QueueEvent::Close, QueueEvent::InstanceGone] {
                let next = state.after(event).map_or("removed".to_owned(), |next| format!("{next:?}"));
                table.push_str(&format!("{state:?} --{event:?}--> {next}\n"));
            }
        }
        insta::assert_snapshot!(table, @r"
        Open --Close--> Closing
        Open --InstanceGone--> Gone
        Closing --Close--> Closing
        Closing --InstanceGone--> removed
        Gone --Close--> removed
        Gone --InstanceGone--> Gone
        ");
    }
}
