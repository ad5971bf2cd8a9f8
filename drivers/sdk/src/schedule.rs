//! The schedule: which job may run now. Pure bookkeeping under one lock; it runs nothing and sleeps nowhere.
//!
//! ```text
//!   accepted ──► waiting (in its queue, behind others) ──► head
//!                      head ──waits pending──► parked ──all passed──► runnable ──claim──► running ──► ended
//!                                                         │              ▲
//!                                       it waited for a promise          │
//!                                                         └──► untold ──told
//! ```
//!
//! A queue is in order: only its head is looked at, and the next job becomes the head when the running one has
//! ended. A head whose waits are not met is **parked**; other queues go on. Parked heads are looked at again
//! when a job of this instance ends (local waits) and when a doorbell rings (waits on other processes).
//! The broker starts the clock of a job that waited for a client's promise when it is told that the waits have
//! passed, so such a job is not runnable before whoever holds the lock has let go of it, told, and come back.
//!
//! A job that **inherits** a failure still waits for all its waits: whoever waits for it relies on what it waits for.
//! A job that is **cancelled** waits for nothing more, since what it waits for may never come. That is safe because a
//! reservation names every unfinished point of an object, and so do the waits of the next user: they do not rely on
//! each other.
//!
//! Invariants: a queue is in `runnable` exactly while its head is claimable and it does not run; it is in
//! `parked` exactly while its head waits, and in `untold` exactly while its head only waits to be told. Waits pass in
//! order and never un-pass.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use vgem_os::fence::{ObserverFace, PointState, Slot};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{PageId, Point, TimelineKey};
use vgem_proto::jobs::{
    DriverJob, DriverOperand, DriverParam, DriverWait, JOB_RUN_ANYWAY, PAGE_LOCAL, WAIT_PROMISE,
};
use vgem_proto::message::driver::Run;
use vgem_proto::rights::WaitKind;

use crate::objects::Objects;
use crate::timeline::{Timeline, failure_in};

/// Closed timelines whose failures are still known, for jobs that name them in flight.
const CLOSED_KEPT: usize = 256;

/// A job in its queue: its place in the message it came with.
#[derive(Debug)]
pub(crate) struct Pending {
    run: Arc<Run>,
    job: DriverJob,
    operands: (usize, usize),
    params: (usize, usize),
    waits: (usize, usize),
    /// The failure it will end with instead of running.
    failed: Option<Failure>,
    /// It waits for nothing more.
    cancelled: bool,
    /// It waits for a promise, and the broker was not told yet that all its waits have passed.
    untold: bool,
    /// Bytes over all operands.
    bytes: u64,
}

impl Pending {
    pub(crate) fn job(&self) -> &DriverJob {
        &self.job
    }

    pub(crate) fn operands(&self) -> &[DriverOperand] {
        self.run.operands.get(self.operands.0..self.operands.1).unwrap_or(&[])
    }

    pub(crate) fn params(&self) -> &[DriverParam] {
        self.run.params.get(self.params.0..self.params.1).unwrap_or(&[])
    }

    pub(crate) fn param_bytes(&self) -> &[u8] {
        &self.run.bytes
    }

    pub(crate) fn failed(&self) -> Option<Failure> {
        self.failed
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next_wait(&self) -> Option<DriverWait> {
        if self.cancelled {
            return None;
        }
        self.run.waits.get(self.waits.0..self.waits.1).and_then(<[_]>::first).copied()
    }
}

/// The jobs of a Run message, one by one, each with its own part of the arrays.
pub(crate) fn split(run: Run) -> impl Iterator<Item = Pending> {
    let run = Arc::new(run);
    let count = run.jobs.len();
    let (mut operand, mut param, mut wait) = (0, 0, 0);
    (0..count).filter_map(move |at| {
        let job = *run.jobs.get(at)?;
        let operands = (operand, operand + usize::from(job.operands));
        let params = (param, param + usize::from(job.params));
        let waits = (wait, wait + usize::from(job.waits));
        (operand, param, wait) = (operands.1, params.1, waits.1);
        let failed = (job.failed_code != 0)
            .then(|| Failure { code: ErrorCode::from_number(job.failed_code), cause: job.failed_cause });
        let bytes = run
            .operands
            .get(operands.0..operands.1)
            .unwrap_or(&[])
            .iter()
            .fold(0, |n: u64, o| n.saturating_add(o.len));
        let mut its_waits = run.waits.get(waits.0..waits.1).unwrap_or(&[]).iter();
        let untold = its_waits.any(|w| w.flags & WAIT_PROMISE != 0);
        let run = Arc::clone(&run);
        Some(Pending { run, job, operands, params, waits, failed, cancelled: false, untold, bytes })
    })
}

#[derive(Debug)]
struct Queue {
    timeline: Arc<Timeline>,
    /// The point of the last job taken; the next one's is above it.
    last: Point,
    jobs: VecDeque<Pending>,
    state: QueueState,
    closing: bool,
}

impl Queue {
    /// A head that only ends, without running, does not wait for those that keep an engine busy.
    fn make_runnable(&mut self, index: u32, runnable: &mut VecDeque<u32>) {
        self.state = QueueState::Runnable;
        match self.jobs.front().is_some_and(|head| head.failed.is_some()) {
            true => runnable.push_front(index),
            false => runnable.push_back(index),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Empty,
    Parked,
    Untold,
    Runnable,
    Running,
}

/// A job that has been claimed: it must be ended with [`Schedule::ended`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Claimed {
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) pending: Pending,
}

/// A job that no queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("a job for {0}, which is not open")]
    NoQueue(TimelineKey),
    #[error("point {point:?} of {key} comes after {last:?}")]
    NotNewer { key: TimelineKey, point: Point, last: Point },
}

/// Whether the looker is about to sleep: then what it still waits for goes into the interest pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Passing,
    BeforeSleep,
}

/// Everything behind the instance's one lock.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    queues: HashMap<u32, Queue>,
    runnable: VecDeque<u32>,
    parked: Vec<u32>,
    untold: Vec<u32>,
    closed: VecDeque<Arc<Timeline>>,
    pages: Vec<Option<Arc<ObserverFace>>>,
    /// The objects this instance maps.
    pub(crate) objects: Objects,
    /// Executors asleep on the bell.
    pub(crate) idle: usize,
    /// Whether one of them also watches the doorbells.
    pub(crate) watched: bool,
}

impl Schedule {
    // Queues.

    /// Opens a queue. A second one at the same place is the broker's mistake and refused.
    pub(crate) fn open(&mut self, timeline: Arc<Timeline>) -> bool {
        let index = timeline.key.index;
        if self.queues.contains_key(&index) {
            return false;
        }
        let last = timeline.value();
        let queue = Queue { timeline, last, jobs: VecDeque::new(), state: QueueState::Empty, closing: false };
        self.queues.insert(index, queue);
        true
    }

    /// Marks a queue as closing; returns it if it is empty and therefore closed now.
    pub(crate) fn close(&mut self, key: TimelineKey) -> Option<Arc<Timeline>> {
        self.queue_mut(key)?.closing = true;
        self.finish_closing(key)
    }

    fn finish_closing(&mut self, key: TimelineKey) -> Option<Arc<Timeline>> {
        let queue = self.queue_mut(key)?;
        if !(queue.closing && queue.jobs.is_empty() && queue.state == QueueState::Empty) {
            return None;
        }
        let queue = self.queues.remove(&key.index)?;
        if self.closed.len() == CLOSED_KEPT {
            self.closed.pop_front();
        }
        queue.timeline.leave();
        self.closed.push_back(Arc::clone(&queue.timeline));
        Some(queue.timeline)
    }

    pub(crate) fn timeline(&self, key: TimelineKey) -> Option<Arc<Timeline>> {
        self.queue(key).map(|q| Arc::clone(&q.timeline))
    }

    fn queue(&self, key: TimelineKey) -> Option<&Queue> {
        self.queues.get(&key.index).filter(|q| q.timeline.key == key)
    }

    fn queue_mut(&mut self, key: TimelineKey) -> Option<&mut Queue> {
        self.queues.get_mut(&key.index).filter(|q| q.timeline.key == key)
    }

    // Jobs.

    /// Puts a job at the end of its queue.
    ///
    /// # Errors
    /// [`NotTaken`]; nothing has changed then.
    pub(crate) fn push(&mut self, pending: Pending) -> Result<(), NotTaken> {
        let (key, point) = (pending.job.queue, pending.job.point);
        let queue = self.queue_mut(key).ok_or(NotTaken::NoQueue(key))?;
        if point <= queue.last {
            return Err(NotTaken::NotNewer { key, point, last: queue.last });
        }
        queue.last = point;
        queue.jobs.push_back(pending);
        if queue.state == QueueState::Empty {
            self.place(key.index, Look::Passing);
        }
        Ok(())
    }

    /// Has a job that has not started end with a failure, in its turn and without waiting for anything more.
    pub(crate) fn cancel(&mut self, key: TimelineKey, point: Point, failure: Failure) {
        let Some(queue) = self.queue_mut(key) else { return };
        let Some(at) = queue.jobs.iter().position(|p| p.job.point == point) else { return };
        let parked = at == 0 && queue.state == QueueState::Parked;
        if parked {
            // While it is known what it waits for; others that wait at the same place ask again below.
            self.drop_interest(key.index);
        }
        let Some(pending) = self.queue_mut(key).and_then(|q| q.jobs.get_mut(at)) else { return };
        pending.failed.get_or_insert(failure);
        if pending.next_wait().is_some() {
            // Its waits have not passed, and nobody will be told that they have.
            pending.untold = false;
        }
        pending.cancelled = true;
        if parked {
            self.review(Look::Passing);
        }
    }

    /// A job of which the broker must be told that all its waits have passed. Then it is [`Schedule::told`].
    pub(crate) fn take_untold(&mut self) -> Option<(TimelineKey, Point)> {
        let index = self.untold.pop()?;
        let queue = self.queues.get_mut(&index)?;
        let head = queue.jobs.front_mut()?;
        head.untold = false;
        Some((queue.timeline.key, head.job.point))
    }

    /// The broker was told: the head of this queue may run.
    pub(crate) fn told(&mut self, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(&key.index).filter(|q| q.timeline.key == key) else { return };
        if queue.state == QueueState::Untold {
            queue.make_runnable(key.index, &mut self.runnable);
        }
    }

    /// Whether there is something to do for who would sleep otherwise.
    pub(crate) fn has_work(&self) -> bool {
        self.has_runnable() || !self.untold.is_empty()
    }

    /// Looks at all parked heads again.
    pub(crate) fn review(&mut self, look: Look) {
        if self.parked.is_empty() {
            return;
        }
        let parked = std::mem::take(&mut self.parked);
        for index in &parked {
            self.drop_interest(*index);
        }
        for index in parked {
            self.place(index, look);
        }
    }

    /// Takes the next runnable job.
    pub(crate) fn claim(&mut self) -> Option<Claimed> {
        let index = self.runnable.pop_front()?;
        self.take_head(index)
    }

    /// Takes the next runnable job if it is no longer than `limit` says for its operation.
    pub(crate) fn claim_short(&mut self, limit: impl Fn(&Pending) -> bool) -> Option<Claimed> {
        let head = self.runnable.front().and_then(|i| self.queues.get(i)).and_then(|q| q.jobs.front())?;
        if limit(head) { self.claim() } else { None }
    }

    fn take_head(&mut self, index: u32) -> Option<Claimed> {
        let queue = self.queues.get_mut(&index)?;
        let pending = queue.jobs.pop_front()?;
        queue.state = QueueState::Running;
        Some(Claimed { timeline: Arc::clone(&queue.timeline), pending })
    }

    /// The claimed job of this queue has been signalled; the next one becomes the head. Returns the timeline if
    /// the queue is closed now.
    pub(crate) fn ended(&mut self, key: TimelineKey) -> Option<Arc<Timeline>> {
        if let Some(queue) = self.queue_mut(key) {
            queue.state = QueueState::Empty;
            if queue.jobs.is_empty() {
                return self.finish_closing(key);
            }
            self.place(key.index, Look::Passing);
        }
        None
    }

    /// Whether a job could be claimed.
    pub(crate) fn has_runnable(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// Whether some head waits for another process or queue.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Sorts the head of a queue into runnable or parked.
    fn place(&mut self, index: u32, look: Look) {
        let ready = self.pass_waits(index, look);
        let Some(queue) = self.queues.get_mut(&index) else { return };
        if ready && queue.jobs.front().is_some_and(|head| head.untold) {
            queue.state = QueueState::Untold;
            self.untold.push(index);
        } else if ready {
            queue.make_runnable(index, &mut self.runnable);
        } else {
            queue.state = QueueState::Parked;
            self.parked.push(index);
        }
    }

    /// Passes as many waits of a head as can be; whether all are.
    fn pass_waits(&mut self, index: u32, look: Look) -> bool {
        loop {
            let Some(head) = self.queues.get(&index).and_then(|q| q.jobs.front()) else { return false };
            let Some(wait) = head.next_wait() else { return true };
            let state = self.look_at(&wait, look);
            if state == PointState::Pending {
                return false;
            }
            let Some(head) = self.queues.get_mut(&index).and_then(|q| q.jobs.front_mut()) else {
                return false;
            };
            head.waits.0 += 1;
            let runs_anyway = head.job.flags & JOB_RUN_ANYWAY != 0;
            if wait.kind == WaitKind::Data && !runs_anyway {
                head.failed = head.failed.or(failure_in(state));
            }
        }
    }

    fn look_at(&self, wait: &DriverWait, look: Look) -> PointState {
        if wait.page == PAGE_LOCAL {
            let timeline = match self.queue(wait.timeline) {
                Some(queue) => Some(&queue.timeline),
                None => self.closed.iter().find(|t| t.key == wait.timeline),
            };
            // A timeline that closed so long ago that it is forgotten has signalled all it ever will.
            return timeline.map_or(PointState::Ok { time_ns: 0 }, |t| t.state(wait.point));
        }
        let Some((face, slot)) = self.remote(wait) else { return PointState::Overrun };
        let state = face.state(slot, wait.timeline.generation, wait.point.0);
        if state != PointState::Pending || look == Look::Passing && !self.watched {
            return state;
        }
        let wanted = face.interest(slot);
        if wanted == 0 || wait.point.0 < wanted {
            face.set_interest(slot, wait.point.0);
        }
        face.state(slot, wait.timeline.generation, wait.point.0)
    }

    fn drop_interest(&self, index: u32) {
        let Some(head) = self.queues.get(&index).and_then(|q| q.jobs.front()) else { return };
        if let Some(wait) = head.next_wait().filter(|w| w.page != PAGE_LOCAL)
            && let Some((face, slot)) = self.remote(&wait)
            && face.interest(slot) != 0
        {
            face.clear_interest(slot);
        }
    }

    fn remote(&self, wait: &DriverWait) -> Option<(&Arc<ObserverFace>, Slot)> {
        let face = self.pages.get(usize::from(wait.page))?.as_ref()?;
        Some((face, Slot::new(wait.slot)?))
    }

    // Pages.

    /// Adds a page to observe.
    pub(crate) fn observe(&mut self, page: PageId, face: ObserverFace) {
        let at = page.0 as usize;
        if self.pages.len() <= at {
            self.pages.resize(at + 1, None);
        }
        if let Some(place) = self.pages.get_mut(at) {
            *place = Some(Arc::new(face));
        }
    }

    /// Forgets a page.
    pub(crate) fn forget_page(&mut self, page: PageId) {
        if let Some(place) = self.pages.get_mut(page.0 as usize) {
            *place = None;
        }
    }

    /// The pages a watcher sleeps on.
    pub(crate) fn watched_pages(&self) -> impl Iterator<Item = Arc<ObserverFace>> + '_ {
        self.pages.iter().flatten().cloned()
    }
}

#[cfg(test)]
mod tests;
