//! The schedule: which job may run now, and which goes next. Pure bookkeeping under one lock; it runs nothing and
//! sleeps nowhere.
//!
//! ```text
//!   accepted ──► behind others of its queue ──► head
//!
//!   head ────how a point ended is forgotten────► asking ──the broker has answered, or it was cancelled──► head
//!   head ────a wait is pending────────────► parked ──all have passed, or it was cancelled──► (waited)
//!   head ────none is──────────────────────────────────────────────────────────────────────► (waited)
//!
//!   (waited) ──for a promise───► untold ───the broker was told──► (waited)
//!   (waited) ──it has failed───► ending ───claim──► running ──► ended, and the next is the head
//!   (waited) ──otherwise───────► runnable ─claim──► running ──► ended, and the next is the head
//! ```
//!
//! A queue is in order: only its head is looked at, and the next job becomes the head when the running one has
//! ended. A head whose waits are not met is **parked** and holds up nobody but its own queue ([`parking`]). Which of the
//! **runnable** ones goes next is policy ([`fair`]). A job that only has to **end**, because it has failed already,
//! asks no policy: it needs no engine, and whoever waits should know at once.
//!
//! The broker starts the clock of a job that waited for a client's promise when it is told that the waits have
//! passed, so such a job is not runnable before whoever holds the lock has let go of it, told, and come back.
//!
//! A job that **inherits** a failure still waits for all its waits: whoever waits for it relies on what it waits for.
//! A job that is **cancelled** waits for nothing more, since what it waits for may never come. That is safe because a
//! reservation names every unfinished point of an object, and so do the waits of the next user: they do not rely on
//! each other's. Only who skips those waits (`JOB_EXPLICIT`) and comes after a cancelled job by an Order wait alone comes
//! before what that one had still to wait for.
//!
//! **Priorities pass along the waiting chain.** A queue has a priority of its own. While somebody more important waits
//! for a point of it, it has that one's: the head of a queue here lends its own to every queue here that it waits
//! for, those lend it on, and the broker lends ([`Schedule::boost`]) what comes from other instances. What is lent
//! lasts until that point is signalled, also if the borrower's borrower was cancelled meanwhile: at worst a few jobs
//! went first that need not have.
//!
//! | file | what |
//! |---|---|
//! | `pending` | a job that has not begun |
//! | `queue` | a queue, its priority, and the table of them |
//! | `parking` | heads that wait, and who looks at them again |
//! | `fair` | which runnable queue goes next |
//!
//! Invariants: the state of a queue says in which one list its head is: `ending`, `untold`, policy's, a queue's waiters,
//! those that wait elsewhere, or those that ask. Waits pass in order and never un-pass. Points of a queue only grow. In
//! the steady state nothing is allocated for a job.

mod fair;
mod parking;
mod pending;
mod queue;

use std::collections::VecDeque;
use std::sync::Arc;

use vgem_os::fence::{ObserverFace, Slot};
use vgem_proto::error::Failure;
use vgem_proto::ids::{ClientKey, DomainId, Point, TimelineKey};

use self::fair::{Charged, Fair};
pub(crate) use self::pending::{Pending, split};
pub(crate) use self::queue::{Lane, Points, Priority};
use self::queue::{Lanes, Queue, QueueState};
use crate::objects::Objects;
use crate::platform::Observed;
use crate::timeline::Timeline;

/// Closed timelines whose failures are still known, for jobs that name them in flight.
const CLOSED_KEPT: usize = 256;

/// A job that has been claimed: it must be ended with [`Schedule::ended`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Claimed {
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) pending: Pending,
    pub(crate) claim: Claim,
}

/// What remains of a claimed job when it has run.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Claim {
    lane: Lane,
    /// Nothing for a job that only had to end.
    charged: Option<Charged>,
}

/// Whose queue one is, and which goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) domain: DomainId,
    pub(crate) client: ClientKey,
    pub(crate) priority: Priority,
}

/// A job that no queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("a job for {0}, which is not open")]
    NoQueue(TimelineKey),
    #[error("{point:?} of {key} comes after {last:?}")]
    NotNewer { key: TimelineKey, point: Point, last: Point },
    #[error("a job for {0}, whose points are those of its ring")]
    OfRing(TimelineKey),
}

/// Everything behind the instance's one lock. `F` is how pages of other processes are seen.
#[derive(Debug)]
pub(crate) struct Schedule<F = ObserverFace> {
    lanes: Lanes,
    fair: Fair,
    ending: VecDeque<Lane>,
    untold: Vec<Lane>,
    /// Queues whose heads wait to be told how a point ended.
    asking: Vec<Lane>,
    /// What the broker is still to be asked.
    questions: Vec<(TimelineKey, Point)>,
    /// Queues whose heads wait for another process.
    elsewhere: Vec<Lane>,
    /// Where in that list the last glance ended.
    glanced: usize,
    /// Where other processes are asked to wake this one.
    asked: Vec<(u16, Slot)>,
    /// What is still to be lent on: room that is kept.
    lending: Vec<(Lane, Point, Priority)>,
    closed: VecDeque<Arc<Timeline>>,
    pages: Vec<Option<Arc<F>>>,
    /// The objects this instance maps.
    pub(crate) objects: Objects,
    /// Executors asleep on the bell.
    pub(crate) idle: usize,
    /// Whether one of them also watches the doorbells.
    watched: bool,
    /// Whether executors are to end.
    pub(crate) stopping: bool,
}

impl<F> Default for Schedule<F> {
    fn default() -> Self {
        Self {
            lanes: Lanes::default(),
            fair: Fair::default(),
            ending: VecDeque::new(),
            untold: Vec::new(),
            asking: Vec::new(),
            questions: Vec::new(),
            elsewhere: Vec::new(),
            glanced: 0,
            asked: Vec::new(),
            lending: Vec::new(),
            closed: VecDeque::new(),
            pages: Vec::new(),
            objects: Objects::default(),
            idle: 0,
            watched: false,
            stopping: false,
        }
    }
}

impl<F: Observed> Schedule<F> {
    // Queues.

    /// Opens a queue. A second one at the same place is the broker's mistake and refused.
    pub(crate) fn open(&mut self, timeline: Arc<Timeline>, standing: Standing) -> bool {
        let client = self.fair.join(standing.domain, standing.client);
        let opened = self.lanes.insert(Queue::new(timeline, client, standing.priority));
        if opened.is_none() {
            self.fair.leave(client);
        }
        opened.is_some()
    }

    /// Marks a queue as closing; returns it if it is empty and therefore closed now.
    pub(crate) fn close(&mut self, key: TimelineKey) -> Option<Arc<Timeline>> {
        let lane = self.lanes.find(key)?;
        self.lanes.get_mut(lane)?.closing = true;
        self.finish_closing(lane)
    }

    fn finish_closing(&mut self, lane: Lane) -> Option<Arc<Timeline>> {
        let queue = self.lanes.get(lane)?;
        if !(queue.closing && queue.jobs.is_empty() && queue.state == QueueState::Empty) {
            return None;
        }
        let queue = self.lanes.remove(lane)?;
        self.fair.leave(queue.client);
        if self.closed.len() == CLOSED_KEPT {
            self.closed.pop_front();
        }
        queue.timeline.leave();
        self.closed.push_back(Arc::clone(&queue.timeline));
        for waiter in queue.waiters {
            // They wait for what nobody will signal.
            self.place(waiter);
        }
        Some(queue.timeline)
    }

    pub(crate) fn timeline(&self, key: TimelineKey) -> Option<Arc<Timeline>> {
        let lane = self.lanes.find(key)?;
        self.lanes.get(lane).map(|q| Arc::clone(&q.timeline))
    }

    /// Gives the points of a queue to its ring, if none was a job's so far. Nothing if it is not open.
    pub(crate) fn give_points(&mut self, key: TimelineKey) -> Option<(Arc<Timeline>, Points)> {
        let queue = self.lanes.get_mut(self.lanes.find(key)?)?;
        if queue.last == Point(0) && queue.timeline.value() == Point(0) {
            queue.points = Points::OfRing;
        }
        Some((Arc::clone(&queue.timeline), queue.points))
    }

    /// Gives the points back to the jobs: there is no ring after all.
    pub(crate) fn take_points(&mut self, key: TimelineKey) {
        if let Some(queue) = self.lanes.find(key).and_then(|lane| self.lanes.get_mut(lane)) {
            queue.points = Points::OfJobs;
        }
    }

    // Jobs.

    /// Puts a job at the end of its queue.
    ///
    /// # Errors
    /// [`NotTaken`]; nothing has changed then.
    pub(crate) fn push(&mut self, pending: Pending) -> Result<(), NotTaken> {
        let (key, point) = (pending.queue, pending.point);
        let lane = self.lanes.find(key).ok_or(NotTaken::NoQueue(key))?;
        let Some(queue) = self.lanes.get_mut(lane) else { return Err(NotTaken::NoQueue(key)) };
        if queue.points == Points::OfRing {
            return Err(NotTaken::OfRing(key));
        }
        if point <= queue.last {
            return Err(NotTaken::NotNewer { key, point, last: queue.last });
        }
        queue.last = point;
        queue.jobs.push_back(pending);
        if queue.state == QueueState::Empty {
            self.place(lane);
        }
        Ok(())
    }

    /// Has a job that has not started end with a failure, in its turn and without waiting for anything more.
    pub(crate) fn cancel(&mut self, key: TimelineKey, point: Point, failure: Failure) {
        let Some(lane) = self.lanes.find(key) else { return };
        let Some(queue) = self.lanes.get_mut(lane) else { return };
        let Some(at) = queue.jobs.iter().position(|p| p.point == point) else { return };
        let Some(pending) = queue.jobs.get_mut(at) else { return };
        pending.cancel(failure);
        if at > 0 {
            return;
        }
        match queue.state {
            QueueState::ParkedHere(_) | QueueState::ParkedElsewhere | QueueState::Asking => self.unpark(lane),
            QueueState::Runnable => {
                let (client, priority) = (queue.client, queue.priority());
                self.fair.withdraw(lane, client, priority);
            }
            // There is no head, or it ends as soon as somebody has told or claimed it.
            QueueState::Empty | QueueState::Running | QueueState::Untold | QueueState::Ending => return,
        }
        self.ready(lane);
    }

    /// Has a queue go first, as if it had this priority, until a point of it has been signalled.
    pub(crate) fn boost(&mut self, key: TimelineKey, point: Point, priority: Priority) {
        if let Some(lane) = self.lanes.find(key) {
            self.lending.push((lane, point, priority));
            self.raise();
        }
    }

    /// Notes that a head that waits lends its priority to what it waits for here.
    fn lend(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.get(lane) else { return };
        let priority = queue.priority();
        if priority == Priority::ORDINARY {
            return;
        }
        let Some(head) = queue.jobs.front() else { return };
        let waits = (0..).map_while(|nth| head.local_wait(nth));
        let lent = waits.filter_map(|w| Some((self.lanes.find(w.timeline)?, w.point, priority)));
        self.lending.extend(lent);
    }

    /// Raises whom something was lent, and what those wait for in turn. It ends, because a queue passes on only what
    /// is new to it, and for each priority that is a higher point each time.
    fn raise(&mut self) {
        while let Some((lane, point, priority)) = self.lending.pop() {
            let Some(queue) = self.lanes.get_mut(lane) else { continue };
            let before = queue.priority();
            if !queue.raise(point, priority) {
                continue;
            }
            let (after, client) = (queue.priority(), queue.client);
            match queue.state {
                QueueState::Runnable if after != before => {
                    self.fair.move_to(lane, client, before, after);
                }
                QueueState::ParkedHere(_) | QueueState::ParkedElsewhere | QueueState::Asking => {
                    self.lend(lane);
                }
                _ => {}
            }
        }
    }

    /// The head of a queue waits for nothing more.
    fn ready(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.get_mut(lane) else { return };
        let Some(head) = queue.jobs.front() else { return };
        if head.untold {
            queue.state = QueueState::Untold;
            self.untold.push(lane);
        } else if head.failed.is_some() {
            queue.state = QueueState::Ending;
            self.ending.push_back(lane);
        } else {
            queue.state = QueueState::Runnable;
            self.fair.enter(lane, queue.client, queue.priority());
        }
    }

    /// A job of which the broker must be told that all its waits have passed. Then it is [`Schedule::told`].
    pub(crate) fn take_untold(&mut self) -> Option<(TimelineKey, Point)> {
        let queue = self.lanes.get_mut(self.untold.pop()?)?;
        let head = queue.jobs.front_mut()?;
        head.untold = false;
        Some((queue.timeline.key, head.point))
    }

    /// A point of which the broker must be asked how it ended. It answers with [`Schedule::answer`].
    pub(crate) fn take_question(&mut self) -> Option<(TimelineKey, Point)> {
        self.questions.pop()
    }

    /// The broker was told: the head of this queue may run.
    pub(crate) fn told(&mut self, key: TimelineKey) {
        let is_untold = |lane: &Lane| self.lanes.get(*lane).is_some_and(|q| q.state == QueueState::Untold);
        if let Some(lane) = self.lanes.find(key).filter(is_untold) {
            self.ready(lane);
        }
    }

    /// Takes the next job.
    pub(crate) fn claim(&mut self) -> Option<Claimed> {
        self.claim_if(|_| true)
    }

    /// Takes the next job if it only has to end, or is as short as `short` says.
    pub(crate) fn claim_if(&mut self, short: impl Fn(&Pending) -> bool) -> Option<Claimed> {
        if let Some(lane) = self.ending.pop_front() {
            return self.take_head(Claim { lane, charged: None });
        }
        let choice = self.fair.choose()?;
        if !self.lanes.head(choice.lane).is_some_and(short) {
            return None;
        }
        let charged = self.fair.take(choice)?;
        self.take_head(Claim { lane: choice.lane, charged: Some(charged) })
    }

    fn take_head(&mut self, claim: Claim) -> Option<Claimed> {
        let queue = self.lanes.get_mut(claim.lane)?;
        let pending = queue.jobs.pop_front()?;
        queue.state = QueueState::Running;
        Some(Claimed { timeline: Arc::clone(&queue.timeline), pending, claim })
    }

    /// A claimed job has been signalled, after `ran_ns` on an engine; the next one becomes the head, and who waited
    /// for it is looked at. Returns the timeline if the queue is closed now.
    pub(crate) fn ended(&mut self, claim: Claim, ran_ns: u64) -> Option<Arc<Timeline>> {
        let lane = claim.lane;
        let queue = self.lanes.get_mut(lane)?;
        queue.state = QueueState::Empty;
        queue.settle_raised();
        let (has_next, has_waiters) = (!queue.jobs.is_empty(), !queue.waiters.is_empty());
        if has_next {
            self.place(lane);
        }
        if has_waiters {
            self.look_at_waiters(lane);
        }
        if let Some(charged) = claim.charged {
            // After its next job has come, so that a queue that always has one is not taken for one that was away.
            self.fair.ended(charged, ran_ns);
        }
        self.finish_closing(lane)
    }

    /// Whether a job could be claimed.
    pub(crate) fn has_runnable(&self) -> bool {
        !(self.ending.is_empty() && self.fair.is_empty())
    }

    /// Whether some head waits for another process, and nobody sleeps on the doorbells.
    pub(crate) fn wants_watcher(&self) -> bool {
        !self.watched && !self.elsewhere.is_empty()
    }

    /// Whether there is something to do for who would sleep otherwise.
    pub(crate) fn has_work(&self) -> bool {
        self.has_runnable() || !(self.untold.is_empty() && self.questions.is_empty())
    }
}

#[cfg(test)]
mod tests;
