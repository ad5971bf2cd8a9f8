//! An instance: one control thread that reads the link, executors that run jobs, and a timekeeper.
//!
//! The control thread is the one that called [`crate::serve`]. It maps, publishes, accepts jobs, and runs short
//! ones itself ([`Engine::inline_bytes`]): that saves waking an executor, which costs more than the job.
//! Executors claim jobs from the [`Schedule`] and sleep on the **bell**, a private word. One sleeping executor is
//! the **watcher**: it also sleeps on the doorbells of all observed pages, so a signal of another process wakes
//! exactly one thread here. A watcher that gets work passes the watch on by ringing the bell.
//!
//! The **timekeeper** sends completions when their alarm rings ([`crate::outbox`]). It is a thread of its own so that
//! whoever is woken for a job has no time-out to take back before it may begin.
//!
//! Lock order: the schedule's lock is taken alone. Timelines and outbox have their own, never taken inside it; nothing
//! is sent while it is held, since the link may be full.

use std::sync::Arc;

use arrayvec::ArrayVec;
use vgem_os::clock;
use vgem_os::seqpacket::Socket;
use vgem_proto::describe::Description;
use vgem_proto::error::Failure;
use vgem_proto::ids::{Point, TimelineKey};
use vgem_proto::jobs::Completion;
use vgem_proto::message::driver::{AskPoint, DriverMessage, Run, TimelineClosed, Unblocked, Unmapped};

use crate::engine::Engine;
use crate::objects::Gone;
use crate::operands::{self, Held, Operations};
use crate::outbox::Outbox;
use crate::platform::{DOORBELLS, Observed as _, Os, Platform};
use crate::schedule::{Claimed, NotTaken, Pending, Priority, Schedule, split};
use crate::timeline::Timeline;

/// Bytes of short jobs that the control thread runs in a row before it leaves the rest to the executors.
const INLINE_BUDGET: u64 = 64 * 1024;
/// Short jobs that the control thread runs in a row.
const INLINE_JOBS: usize = 256;
/// How long a watcher sleeps that observes more pages than it can sleep on, nanoseconds.
const BLIND_NS: u64 = 1_000_000;

/// The schedule, locked.
type Locked<'a, P> = <P as Platform>::Guard<'a, Schedule<<P as Platform>::Page>>;

/// What control thread and executors share.
pub(crate) struct Instance<E, P: Platform = Os> {
    pub(crate) engine: E,
    pub(crate) operations: Operations,
    pub(crate) outbox: Outbox,
    pub(crate) link: Arc<Socket>,
    platform: P,
    schedule: P::Mutex<Schedule<P::Page>>,
    /// Rung when there is work that a sleeping executor should take.
    bell: P::Word,
    /// Rung when the watcher must look at its list of pages again.
    watch: P::Word,
    /// Rings when completions are due, and at the end.
    alarm: P::Alarm,
}

impl<E: Engine, P: Platform> Instance<E, P> {
    pub(crate) fn new(
        engine: E,
        description: &Description,
        link: Arc<Socket>,
        platform: P,
    ) -> vgem_os::Result<Self> {
        Ok(Self {
            operations: Operations::new(description),
            engine,
            outbox: Outbox::new(Arc::clone(&link)),
            link,
            schedule: platform.mutex(Schedule::default()),
            bell: platform.word(),
            watch: platform.word(),
            alarm: platform.alarm()?,
            platform,
        })
    }

    pub(crate) const fn platform(&self) -> &P {
        &self.platform
    }

    pub(crate) fn schedule(&self) -> Locked<'_, P> {
        self.platform.lock(&self.schedule)
    }

    /// Has every executor end after its job, and the timekeeper at once.
    pub(crate) fn stop(&self) {
        self.schedule().stopping = true;
        self.platform.ring(&self.bell, u32::MAX);
        self.platform.set_alarm(&self.alarm, 0);
    }

    /// Takes the jobs of a message; runs the short ones that may run now.
    pub(crate) fn accept(&self, run: Run) -> Result<(), NotTaken> {
        let mut schedule = self.schedule();
        for pending in split(run) {
            schedule.push(pending)?;
        }
        self.run_short_jobs(schedule);
        Ok(())
    }

    /// Has a job that has not begun end with a failure. What ends it at once is done here.
    pub(crate) fn cancel(&self, key: TimelineKey, point: Point, failure: Failure) {
        let mut schedule = self.schedule();
        schedule.cancel(key, point, failure);
        self.run_short_jobs(schedule);
    }

    /// The broker says how a point ended.
    pub(crate) fn answer(&self, key: TimelineKey, point: Point, failure: Option<Failure>) {
        let mut schedule = self.schedule();
        schedule.answer(key, point, failure);
        self.run_short_jobs(schedule);
    }

    /// Has a queue go first until a point of it has been signalled.
    pub(crate) fn boost(&self, key: TimelineKey, point: Point, priority: Priority) {
        self.schedule().boost(key, point, priority);
    }

    /// Runs runnable jobs that are short, then wakes an executor for what is left.
    fn run_short_jobs<'a>(&'a self, schedule: Locked<'a, P>) {
        let mut schedule = self.tell(schedule);
        let mut budget = INLINE_BUDGET;
        for _ in 0..INLINE_JOBS {
            let short = |p: &Pending| p.bytes <= self.inline_bytes(p).min(budget);
            let Some(claimed) = schedule.claim_if(short) else { break };
            budget = budget.saturating_sub(claimed.pending.bytes);
            schedule = self.finish(claimed, schedule);
        }
        self.wake_for_rest(&schedule);
    }

    /// The bytes up to which a job is short.
    #[inline]
    fn inline_bytes(&self, pending: &Pending) -> u64 {
        if pending.is_publication() { u64::MAX } else { self.engine.inline_bytes(pending.op) }
    }

    /// Entries of a ring have ended for which jobs here may wait. What publishes them ends here, on the ring's thread, and
    /// all else is for executors.
    #[cold]
    pub(crate) fn entries_ended(&self, key: TimelineKey) {
        let mut schedule = self.schedule();
        schedule.entries_ended(key);
        schedule = self.tell(schedule);
        for _ in 0..INLINE_JOBS {
            let Some(claimed) = schedule.claim_if(Pending::is_publication) else { break };
            schedule = self.finish(claimed, schedule);
        }
        self.wake_for_rest(&schedule);
    }

    /// Executes a claimed job outside the lock and returns with the lock held again.
    fn finish<'a>(&'a self, claimed: Claimed, schedule: Locked<'a, P>) -> Locked<'a, P> {
        let mut held: Held = operands::mappings_of(&claimed.pending, &schedule.objects);
        let claim = claimed.claim;
        drop(schedule);
        if claimed.pending.bytes > self.inline_bytes(&claimed.pending) {
            // The broker should not wait for what has ended until this long job has.
            self.outbox.flush();
        }
        let ran_ns = self.execute(claimed, &mut held);
        let mut schedule = self.schedule();
        let closed = schedule.ended(claim, ran_ns);
        schedule.glance();
        let gone = schedule.objects.settle();
        if closed.is_some() || gone.is_anything() {
            drop(schedule);
            if let Some(closed) = closed {
                self.closed(&closed);
            }
            self.gone(gone);
            schedule = self.schedule();
        }
        self.tell(schedule)
    }

    /// Tells the broker of jobs whose waits have all passed, before they may begin, and asks it how points ended. Returns
    /// with the lock held again.
    fn tell<'a>(&'a self, mut schedule: Locked<'a, P>) -> Locked<'a, P> {
        while let Some((timeline, point)) = schedule.take_untold() {
            drop(schedule);
            self.outbox.send(&DriverMessage::Unblocked(Unblocked { timeline, point }));
            schedule = self.schedule();
            schedule.told(timeline);
        }
        while let Some((timeline, point)) = schedule.take_question() {
            drop(schedule);
            self.outbox.send(&DriverMessage::AskPoint(AskPoint { timeline, point }));
            schedule = self.schedule();
        }
        schedule
    }

    /// Tells engine and broker that a queue has closed.
    pub(crate) fn closed(&self, timeline: &Timeline) {
        let key: TimelineKey = timeline.key;
        self.engine.queue_closed(key);
        self.outbox.flush();
        self.outbox.send(&DriverMessage::TimelineClosed(TimelineClosed { timeline: key }));
    }

    /// Lets go of what can go, and tells the broker of the objects of which nothing is left then.
    pub(crate) fn gone(&self, gone: Gone) {
        for object in &gone.objects {
            self.engine.unmapping(*object);
        }
        let objects = gone.undo();
        if !objects.is_empty() {
            // What used an object has ended before the object is gone, also as it is told.
            self.outbox.flush();
        }
        for object in objects {
            self.outbox.send(&DriverMessage::Unmapped(Unmapped { object }));
        }
    }

    /// Wakes one executor if there is work, or a watch to keep, that nobody is awake for.
    fn wake_for_rest(&self, schedule: &Schedule<P::Page>) {
        if schedule.idle > 0 && (schedule.has_runnable() || schedule.wants_watcher()) {
            self.platform.ring(&self.bell, 1);
        }
    }

    /// Has the watcher take a new page into its list.
    pub(crate) fn renew_watch(&self) {
        self.platform.ring(&self.watch, 1);
    }

    /// An executor's life.
    pub(crate) fn executor(&self) {
        let mut schedule = self.schedule();
        while !schedule.stopping {
            if let Some(claimed) = schedule.claim() {
                self.wake_for_rest(&schedule);
                schedule = self.finish(claimed, schedule);
            } else {
                schedule = self.rest(schedule);
            }
        }
    }

    /// The timekeeper's life.
    pub(crate) fn timekeeper(&self) {
        while !self.schedule().stopping {
            self.platform.await_alarm(&self.alarm);
            self.outbox.alarm_rang();
        }
    }

    /// A job has ended and its point is signalled: the broker will be told.
    pub(crate) fn completed(&self, completion: Completion) {
        if let Some(due) = self.outbox.complete(completion) {
            self.platform.set_alarm(&self.alarm, due.0);
        }
    }

    /// Sleeps until there may be work. Returns with the lock held.
    fn rest<'a>(&'a self, mut schedule: Locked<'a, P>) -> Locked<'a, P> {
        // Seen under the lock under which whoever rings them has changed something.
        let words = [&self.bell, &self.watch].map(|word| (word, self.platform.seen(word)));
        let watching = schedule.wants_watcher();
        let mut pages: ArrayVec<(Arc<P::Page>, u32), DOORBELLS> = ArrayVec::new();
        let mut wake_by = u64::MAX;
        if watching {
            let observed = schedule.watched_pages().map(|page| (Arc::clone(page), page.doorbell()));
            pages.extend(observed.take(DOORBELLS));
            if schedule.watched_pages().nth(DOORBELLS).is_some() {
                wake_by = clock::deadline_in(BLIND_NS);
            }
            schedule.watch();
            if schedule.has_work() {
                schedule.unwatch();
                return self.tell(schedule);
            }
        }
        schedule.idle += 1;
        drop(schedule);
        let words = words.get(..1 + usize::from(watching)).unwrap_or(&words);
        self.platform.sleep(words, &pages, wake_by);
        let mut schedule = self.schedule();
        schedule.idle -= 1;
        if watching {
            schedule.unwatch();
            schedule.look_elsewhere();
        }
        self.tell(schedule)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
