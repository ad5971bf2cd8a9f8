//! Heads that wait, and who is to look at them again.
//!
//! ```text
//!                     ┌─ for a queue here ──► in that queue's list ──its job, or entry, ended──► look
//!   head that waits ──┤
//!                     ├─ for another process ──► elsewhere ──watcher woke, or is about to sleep──► look at all
//!                     │                              └──a job ended──► glance: look at a few, in turn
//!                     └─ for the broker ──► asking ──it has answered──► look
//! ```
//!
//! A head is in one list, by the first of its waits that has not passed. While nobody watches, that is, while no
//! executor sleeps on the doorbells, points elsewhere are only looked at. The watcher **asks**, before it sleeps, to
//! be woken for each of them, and what is parked while it sleeps asks as well: a store to the interest page, then
//! another look, so that no wake-up is lost (see [`vgem_os::fence::protocol`]). Awake, it takes all that back, and
//! signallers are spared their system calls.
//!
//! A head that reads what a point is the end of must know **how** that ended. A page, and a timeline here, remember the
//! last failures only, so the broker is asked about what they have forgotten; until it answers the head waits.
//!
//! What a waiting head is worth is lent to what it waits for here: see [`Schedule::boost`]. What it waits for
//! elsewhere the broker raises there.
//!
//! Invariants: `asked` names every slot in which this instance has shown interest, and is empty while nobody
//! watches. While somebody does, every point elsewhere that a head waits for was asked for.

use std::sync::Arc;

use vgem_os::fence::{PointState, Slot};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, PageId, Point, TimelineKey};
use vgem_proto::jobs::{DriverWait, PAGE_LOCAL};
use vgem_proto::rights::WaitKind;

use super::Schedule;
use super::queue::{Lane, Points, QueueState};
use crate::platform::Observed;
use crate::timeline::failure_in;

/// Heads that one glance looks at.
const GLANCE: usize = 8;

/// What a head waits for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more.
    Ready,
    /// A queue of this instance.
    Here(Lane),
    /// Another process.
    Elsewhere,
    /// The broker's word on how a point ended.
    Told,
}

/// How a wait stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Pending,
    Ended(Option<Failure>),
    /// It has ended, and how is forgotten.
    Forgotten,
}

impl From<PointState> for Look {
    fn from(state: PointState) -> Self {
        match state {
            PointState::Pending => Self::Pending,
            PointState::Overrun => Self::Forgotten,
            PointState::Ok { .. } | PointState::Failed { .. } => Self::Ended(failure_in(state)),
        }
    }
}

/// What nobody will ever signal, or what is shown nowhere.
const NEVER: Look = Look::Ended(Some(Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE }));

impl<F: Observed> Schedule<F> {
    /// Sorts the head of a queue by what it waits for.
    pub(super) fn place(&mut self, lane: Lane) {
        let step = self.advance(lane);
        self.file(lane, step);
    }

    fn file(&mut self, lane: Lane, step: Step) {
        match step {
            Step::Ready => return self.ready(lane),
            Step::Here(other) => {
                if let Some(other) = self.lanes.get_mut(other) {
                    other.waiters.push(lane);
                }
            }
            Step::Elsewhere => self.elsewhere.push(lane),
            Step::Told => self.ask(lane),
        }
        if let Some(queue) = self.lanes.get_mut(lane) {
            queue.state = match step {
                Step::Here(other) => QueueState::ParkedHere(other),
                Step::Told => QueueState::Asking,
                Step::Ready | Step::Elsewhere => QueueState::ParkedElsewhere,
            };
        }
        self.lend(lane);
        self.raise();
    }

    /// Passes as many waits of a head as can be.
    fn advance(&mut self, lane: Lane) -> Step {
        loop {
            let Some(wait) = self.lanes.head(lane).and_then(super::Pending::next_wait) else {
                return Step::Ready;
            };
            let look = self.look_at(&wait);
            let Some(head) = self.lanes.get_mut(lane).and_then(|q| q.jobs.front_mut()) else {
                return Step::Ready;
            };
            let reads = wait.kind == WaitKind::Data && !head.runs_anyway() && head.failed.is_none();
            match look {
                Look::Pending => {
                    return match self.lanes.find(wait.timeline).filter(|_| wait.page == PAGE_LOCAL) {
                        Some(other) => Step::Here(other),
                        None => Step::Elsewhere,
                    };
                }
                Look::Forgotten if reads => return Step::Told,
                Look::Ended(failure) if reads => head.failed = failure,
                Look::Forgotten | Look::Ended(_) => {}
            }
            head.pass();
        }
    }

    /// Notes a question for the broker, if it was not asked.
    fn ask(&mut self, lane: Lane) {
        let Some(wait) = self.lanes.head(lane).and_then(super::Pending::next_wait) else { return };
        let question = (wait.timeline, wait.point);
        let is_it = |other: &Lane| self.lanes.head(*other).and_then(asks_about) == Some(question);
        if !self.asking.iter().any(is_it) {
            self.questions.push(question);
        }
        self.asking.push(lane);
    }

    /// The broker says how a point ended; nothing if nobody has asked, or no longer wants to know.
    pub(crate) fn answer(&mut self, timeline: TimelineKey, point: Point, failure: Option<Failure>) {
        let mut at = 0;
        while let Some(lane) = self.asking.get(at).copied() {
            let head = self.lanes.get_mut(lane).and_then(|q| q.jobs.front_mut());
            match head.filter(|head| asks_about(head) == Some((timeline, point))) {
                Some(head) => {
                    head.failed = failure;
                    head.pass();
                    self.asking.swap_remove(at);
                    self.place(lane);
                }
                None => at += 1,
            }
        }
    }

    fn look_at(&mut self, wait: &DriverWait) -> Look {
        if wait.page == PAGE_LOCAL {
            return self.look_here(wait);
        }
        let Some(slot) = Slot::new(wait.slot) else { return NEVER };
        let Some(Some(face)) = self.pages.get(usize::from(wait.page)) else { return NEVER };
        let (generation, point) = (wait.timeline.generation, wait.point.0);
        let state = face.state(slot, generation, point);
        if state != PointState::Pending || !self.watched {
            return state.into();
        }
        let wanted = face.interest(slot);
        if wanted == 0 {
            self.asked.push((wait.page, slot));
        }
        if wanted == 0 || point < wanted {
            face.set_interest(slot, point);
        }
        face.state(slot, generation, point).into()
    }

    /// A point of a queue here. One that has closed will not signal any more: what it did not, nobody will.
    fn look_here(&self, wait: &DriverWait) -> Look {
        if let Some(queue) = self.lanes.find(wait.timeline).and_then(|lane| self.lanes.get(lane)) {
            return match queue.points {
                Points::OfJobs => queue.timeline.state(wait.point).into(),
                Points::OfRing => queue.timeline.await_here(wait.point).into(),
            };
        }
        match self.closed.iter().find(|t| t.key == wait.timeline).map(|t| t.state(wait.point)) {
            Some(PointState::Pending) => NEVER,
            Some(state) => state.into(),
            // It closed so long ago that it is forgotten: it has signalled all it ever will.
            None => Look::Forgotten,
        }
    }

    /// Looks again at the heads that wait for this queue.
    pub(super) fn look_at_waiters(&mut self, lane: Lane) {
        let mut at = 0;
        while let Some(waiter) = self.lanes.get(lane).and_then(|q| q.waiters.get(at)).copied() {
            let step = self.advance(waiter);
            if step == Step::Here(lane) {
                at += 1;
                continue;
            }
            if let Some(queue) = self.lanes.get_mut(lane) {
                queue.waiters.swap_remove(at);
            }
            self.file(waiter, step);
        }
    }

    /// Entries of a queue's ring have ended: looks again at the heads that wait for some.
    pub(crate) fn entries_ended(&mut self, key: TimelineKey) {
        let Some(lane) = self.lanes.find(key) else { return };
        if let Some(queue) = self.lanes.get(lane) {
            queue.timeline.await_again();
        }
        self.look_at_waiters(lane);
    }

    /// Somebody is about to sleep on the doorbells: looks again at all heads that wait for another process, and asks to
    /// be woken for those that still do.
    pub(crate) fn watch(&mut self) {
        self.watched = true;
        self.look_elsewhere();
    }

    /// Nobody sleeps on the doorbells any more, and nobody is to be woken.
    pub(crate) fn unwatch(&mut self) {
        self.watched = false;
        for (page, slot) in self.asked.drain(..) {
            if let Some(Some(face)) = self.pages.get(usize::from(page)) {
                face.clear_interest(slot);
            }
        }
    }

    /// Looks again at all heads that wait for another process.
    pub(crate) fn look_elsewhere(&mut self) {
        let mut at = 0;
        while at < self.elsewhere.len() {
            at = self.look_at_one(at);
        }
    }

    /// Looks again at a few of the heads that wait for another process; the next time at the next few.
    pub(crate) fn glance(&mut self) {
        for _ in 0..GLANCE.min(self.elsewhere.len()) {
            let at = self.glanced.min(self.elsewhere.len().saturating_sub(1));
            let next = self.look_at_one(at);
            self.glanced = if next < self.elsewhere.len() { next } else { 0 };
        }
    }

    /// Looks at one head that waits for another process; the place of the next one.
    fn look_at_one(&mut self, at: usize) -> usize {
        let Some(lane) = self.elsewhere.get(at).copied() else { return at };
        match self.advance(lane) {
            Step::Elsewhere => at + 1,
            step => {
                self.elsewhere.swap_remove(at);
                self.file(lane, step);
                at
            }
        }
    }

    /// Takes a waiting head out of the list that it is in.
    pub(super) fn unpark(&mut self, lane: Lane) {
        match self.lanes.get(lane).map(|q| q.state) {
            Some(QueueState::ParkedHere(other)) => {
                if let Some(other) = self.lanes.get_mut(other) {
                    other.waiters.retain(|waiter| *waiter != lane);
                }
            }
            Some(QueueState::ParkedElsewhere) => self.elsewhere.retain(|other| *other != lane),
            Some(QueueState::Asking) => self.asking.retain(|other| *other != lane),
            _ => {}
        }
    }

    // Pages.

    /// Adds a page to observe.
    pub(crate) fn observe(&mut self, page: PageId, face: F) {
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
        self.asked.retain(|(asked, _)| u32::from(*asked) != page.0);
        if let Some(place) = self.pages.get_mut(page.0 as usize) {
            *place = None;
        }
    }

    /// The pages a watcher sleeps on.
    pub(crate) fn watched_pages(&self) -> impl Iterator<Item = &Arc<F>> + '_ {
        self.pages.iter().flatten()
    }
}

/// What a head that is asking asks about.
fn asks_about(head: &super::Pending) -> Option<(TimelineKey, Point)> {
    head.next_wait().map(|wait| (wait.timeline, wait.point))
}
