//! An instance: one control thread that reads the link, and executors that run jobs.
//!
//! The control thread is the one that called [`crate::serve`]. It maps, publishes, accepts jobs, and runs short
//! ones itself ([`Engine::inline_bytes`]): that saves waking an executor, which costs more than the job.
//! Executors claim jobs from the [`Schedule`] and sleep on the **bell**, a private word. One sleeping executor is
//! the **watcher**: it also sleeps on the doorbells of all observed pages, so a signal of another process wakes
//! exactly one thread here. A watcher that gets work passes the watch on by ringing the bell.
//!
//! Lock order: the schedule's lock is taken alone. Timelines and outbox have their own, never taken inside it
//! except to look at a local timeline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use vgem_os::clock;
use vgem_os::futex::{self, FutexWord, Word};
use vgem_os::seqpacket::Socket;
use vgem_proto::describe::Description;
use vgem_proto::error::Failure;
use vgem_proto::ids::{Point, Time, TimelineKey};
use vgem_proto::message::driver::{DriverMessage, Run, TimelineClosed, Unblocked, Unmapped};

use crate::engine::Engine;
use crate::objects::Gone;
use crate::operands::{self, Held, Operations};
use crate::outbox::Outbox;
use crate::schedule::{Claimed, Look, NotTaken, Pending, Schedule, split};
use crate::timeline::Timeline;

/// Bytes of short jobs that the control thread runs in a row before it leaves the rest to the executors.
const INLINE_BUDGET: u64 = 64 * 1024;
/// Short jobs that the control thread runs in a row.
const INLINE_JOBS: usize = 256;
/// Doorbells a watcher sleeps on besides its two own words (futex_waitv takes 128).
const DOORBELLS: usize = 126;

/// What control thread and executors share.
#[derive(Debug)]
pub(crate) struct Instance<E> {
    pub(crate) engine: E,
    pub(crate) operations: Operations,
    pub(crate) outbox: Outbox,
    pub(crate) link: Arc<Socket>,
    schedule: Mutex<Schedule>,
    /// Rung when there is work that a sleeping executor should take.
    bell: Word,
    /// Rung when the watcher must look at its list of pages again.
    watch: Word,
    stopping: AtomicBool,
    /// Whether a sleeping executor wakes when completions are due.
    timed: AtomicBool,
}

impl<E: Engine> Instance<E> {
    pub(crate) fn new(engine: E, description: &Description, link: Arc<Socket>) -> Self {
        Self {
            operations: Operations::new(description),
            engine,
            outbox: Outbox::new(Arc::clone(&link)),
            link,
            schedule: Mutex::default(),
            bell: Word::new(0),
            watch: Word::new(0),
            stopping: AtomicBool::new(false),
            timed: AtomicBool::new(false),
        }
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every executor end after its job.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.bell.bump();
        self.wake(&self.bell, u32::MAX);
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

    /// Runs runnable jobs that are short, then wakes an executor for what is left.
    fn run_short_jobs<'a>(&'a self, schedule: MutexGuard<'a, Schedule>) {
        let mut schedule = self.tell(schedule);
        let mut budget = INLINE_BUDGET;
        for _ in 0..INLINE_JOBS {
            let short = |p: &Pending| {
                p.failed().is_some() || p.bytes() <= self.engine.inline_bytes(p.job().op).min(budget)
            };
            let Some(claimed) = schedule.claim_short(short) else { break };
            budget = budget.saturating_sub(claimed.pending.bytes());
            schedule = self.finish(claimed, schedule);
        }
        self.wake_for_rest(&schedule);
    }

    /// Executes a claimed job outside the lock and returns with the lock held again.
    fn finish<'a>(
        &'a self,
        claimed: Claimed,
        schedule: MutexGuard<'a, Schedule>,
    ) -> MutexGuard<'a, Schedule> {
        let mut held: Held = operands::mappings_of(&claimed.pending, &schedule.objects);
        let key = claimed.timeline.key;
        drop(schedule);
        self.execute(claimed, &mut held);
        let mut schedule = self.schedule();
        let closed = schedule.ended(key);
        schedule.review(Look::Passing);
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

    /// Tells the broker of jobs whose waits have all passed, before they may begin. Returns with the lock held again.
    fn tell<'a>(&'a self, mut schedule: MutexGuard<'a, Schedule>) -> MutexGuard<'a, Schedule> {
        while let Some((timeline, point)) = schedule.take_untold() {
            drop(schedule);
            self.outbox.send(&DriverMessage::Unblocked(Unblocked { timeline, point }));
            schedule = self.schedule();
            schedule.told(timeline);
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
    fn wake_for_rest(&self, schedule: &Schedule) {
        let unwatched = schedule.has_parked() && !schedule.watched;
        if schedule.idle > 0 && (schedule.has_runnable() || unwatched) {
            self.bell.bump();
            self.wake(&self.bell, 1);
        }
    }

    /// Has the watcher take a new page into its list.
    pub(crate) fn renew_watch(&self) {
        self.watch.bump();
        self.wake(&self.watch, 1);
    }

    fn wake(&self, word: &Word, count: u32) {
        let woken = futex::wake(word.futex(), count);
        debug_assert!(woken.is_ok(), "a private word: {woken:?}");
    }

    /// An executor's life.
    pub(crate) fn executor(&self) {
        let mut schedule = self.schedule();
        while !self.stopping.load(Ordering::SeqCst) {
            if let Some(claimed) = schedule.claim() {
                self.wake_for_rest(&schedule);
                if claimed.pending.bytes() > self.engine.inline_bytes(claimed.pending.job().op) {
                    // The broker should not wait for what has ended until this long job has.
                    self.outbox.flush();
                }
                schedule = self.finish(claimed, schedule);
            } else {
                schedule = self.rest(schedule);
            }
        }
    }

    /// Before a sleep: sends the completions that are due, and says when the others are, if no other sleeper wakes for
    /// them.
    fn keep_time(&self) -> Option<Time> {
        let due = self.outbox.due()?;
        if due.0 <= clock::now() {
            self.outbox.flush();
            return None;
        }
        (!self.timed.swap(true, Ordering::AcqRel)).then_some(due)
    }

    /// Sleeps until there may be work. Returns with the lock held.
    fn rest<'a>(&'a self, mut schedule: MutexGuard<'a, Schedule>) -> MutexGuard<'a, Schedule> {
        let bell = self.bell.load();
        let watch = self.watch.load();
        let watching = !schedule.watched && schedule.has_parked();
        let pages: ArrayVec<_, DOORBELLS> = match watching {
            true => schedule.watched_pages().take(DOORBELLS).collect(),
            false => ArrayVec::new(),
        };
        let mut words: ArrayVec<(FutexWord<'_>, u32), { DOORBELLS + 2 }> = ArrayVec::new();
        words.push((self.bell.futex(), bell));
        if watching {
            words.push((self.watch.futex(), watch));
            words.extend(pages.iter().map(|page| (page.word(), page.doorbell())));
            schedule.watched = true;
            schedule.review(Look::BeforeSleep);
            if schedule.has_work() {
                schedule.watched = false;
                return self.tell(schedule);
            }
        }
        schedule.idle += 1;
        drop(schedule);
        let due = self.keep_time();
        let rung = futex::wait_any(&words, due.map_or(u64::MAX, |due| due.0));
        debug_assert!(rung.is_ok(), "words of ours: {rung:?}");
        if due.is_some() {
            self.timed.store(false, Ordering::Release);
        }
        // Whoever is rung has a job to run first: it comes back here when none is left.
        if rung == Ok(None) {
            self.outbox.flush_due(Time(clock::now()));
        }
        let mut schedule = self.schedule();
        schedule.idle -= 1;
        if watching {
            schedule.watched = false;
            schedule.review(Look::Passing);
        }
        self.tell(schedule)
    }
}
