//! Jobs that end, and what becomes possible then.
//!
//! A completion releases what the job held: its uses of objects, its credit, its charge. It is never needed for
//! a handoff: whoever waits for the point has seen it in a fence page already. The job behind it may be ready
//! now, and so may the heads of queues that watch this timeline: that starts their clocks (F8).

use vgem_proto::error::Failure;
use vgem_proto::ids::{DeviceId, InstanceId, ObjectKey, Point, Time, TimelineKey};
use vgem_proto::jobs::Completion;

use crate::awaiting::{key_of, order_of};
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::devices::InstanceState;
use crate::objects::Object;
use crate::queues::{Job, Queue, Watchers};
use crate::tables::Table;
use crate::timelines::is_of_client;
use crate::tracing::End;

impl Broker {
    /// Jobs of an instance have ended.
    pub(crate) fn completed(
        &mut self,
        now: Time,
        id: InstanceId,
        completions: &[Completion],
    ) -> Result<(), String> {
        self.counters.completion_messages += 1;
        let mut outcome = Ok(());
        let mut advanced = std::mem::take(&mut self.advanced);
        for completion in completions {
            if let Err(why) = self.complete_one(id, completion) {
                outcome = Err(why);
                break;
            }
            if advanced.last() != Some(&completion.timeline) && !advanced.contains(&completion.timeline) {
                advanced.push(completion.timeline);
            }
        }
        for timeline in advanced.drain(..) {
            self.advanced_to_here(now, timeline);
        }
        self.advanced = advanced;
        self.drop_questions(id);
        self.drop_quiet_pages(id);
        outcome
    }

    fn complete_one(&mut self, id: InstanceId, completion: &Completion) -> Result<(), String> {
        let key = completion.timeline;
        let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.instance == id) else {
            return Err(format!("completed a job of {key}, which is not its own"));
        };
        if completion.point != queue.ended.next() || completion.point > queue.promised {
            return Err(format!(
                "completed {:?} of {key} when {:?} of {:?} was due",
                completion.point,
                queue.ended.next(),
                queue.promised
            ));
        }
        let failure = completion.failure();
        queue.ended_at = completion.ended;
        if self.tracing.wants(queue.domain) {
            let device = self.devices.get(queue.device).map_or(DeviceId(0), |device| device.id);
            let end = End::told(completion, failure);
            self.tracing.note((key, queue), self.instances.get(&id), device, end);
        }
        let ended = end_head(queue, key, &mut self.objects, failure, &mut self.released);
        let crosses = queue.crosses;
        match failure {
            None => self.counters.jobs_ok += 1,
            Some(failure) => {
                self.counters.jobs_failed += 1;
                if crosses {
                    self.failure_shown(key, failure.cause);
                }
            }
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            let tally = &mut instance.tally;
            tally.jobs += 1;
            if completion.started != Time(0) {
                tally.busy_ns = tally.busy_ns.saturating_add(completion.ended.since(completion.started));
            }
            tally.bytes = tally.bytes.saturating_add(completion.bytes);
            tally.staged = tally.staged.saturating_add(completion.staged);
            if let Some(job) = ended {
                instance.sent.ended(job.run);
            }
        }
        Ok(())
    }

    /// Gives back what the ended jobs of a queue held, and lets go on what waited for them.
    pub(crate) fn advanced_to_here(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let over = queue.owed.amount() - queue.jobs.len() as u64;
        let charge = queue.owed.split(over);
        let (id, ended) = (queue.instance, queue.ended);
        let watchers = take_watchers(&mut queue.watchers, ended);
        self.accounts.give_back(charge);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.in_flight = instance.in_flight.saturating_sub(u32::try_from(over).unwrap_or(u32::MAX));
        }
        self.forget_failures(key);
        self.answer_asked(key, ended);
        self.waits_no_more(key, ended);
        self.look_at_head(now, key);
        self.watchers_look(now, key, watchers);
        if over > 0 {
            self.close_idle_queue(now, key);
        }
    }

    /// Those whose heads waited for a timeline look again.
    pub(crate) fn watchers_look(&mut self, now: Time, key: TimelineKey, watchers: Watchers) {
        for (point, watcher) in watchers {
            let watcher = key_of(watcher);
            let watched = Some((key, point));
            if let Some(queue) = self.queues.get_mut(watcher).filter(|queue| queue.watching == watched) {
                queue.watching = None;
                self.look_at_head(now, watcher);
            }
        }
    }

    /// A driver says that every wait of a job has passed: its clock starts. For the clocks of jobs that wait for
    /// promises, which nobody else can tell; a driver that does not say so gets no more than until the promise is due.
    pub(crate) fn unblocked(
        &mut self,
        now: Time,
        id: InstanceId,
        key: TimelineKey,
        point: Point,
    ) -> Result<(), String> {
        let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.instance == id) else {
            return Err(format!("unblocked a job of {key}, which is not its own"));
        };
        let is_head = queue.ended.next() == point;
        let has_ended = point <= queue.ended;
        match queue.job_mut(point) {
            Some(job) => job.unblocked = true,
            None if has_ended => return Ok(()),
            None => return Err(format!("unblocked {point:?} of {key}, which nobody submitted")),
        }
        if is_head && queue.limit.is_none() {
            self.look_at_head(now, key);
        }
        Ok(())
    }

    /// Starts the clock of the job at the head of a queue if it is ready, else watches what it waits for.
    pub(crate) fn look_at_head(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get(key) else { return };
        let runs = self.instances.get(&queue.instance).is_some_and(|i| i.state == InstanceState::Ready);
        let next = match queue.jobs.front() {
            // One that was cancelled ends without waiting for anything.
            Some(job) if runs && (job.unblocked || job.cancelled) => self.head_is_ready(now, job),
            Some(job) if runs => match queue.head_waits().find(|(t, p)| !self.has_ended(*t, *p)) {
                Some(wait) => Head::Waits(wait),
                None => self.head_is_ready(now, job),
            },
            Some(_) | None => Head::None,
        };
        let Some(queue) = self.queues.get_mut(key) else { return };
        let watched = queue.watching.take();
        match next {
            Head::None => self.timers.disarm(Timer::Job(key), &mut queue.limit),
            Head::Ready(limit) => {
                self.timers.arm(Timer::Job(key), &mut queue.limit, limit);
                if let Some(job) = queue.jobs.front_mut() {
                    job.ready = now;
                }
            }
            Head::Waits((timeline, point)) => {
                queue.watching = Some((timeline, point));
                self.timers.disarm(Timer::Job(key), &mut queue.limit);
                if let Some(watchers) = self.watchers_of(timeline) {
                    watchers.insert((point, order_of(key)));
                }
            }
        }
        if let Some(watched) = watched {
            self.watch_no_more(key, watched);
        }
    }

    /// A job was told to end, and waits for nothing more: if it is at the head its clock starts.
    pub(crate) fn look_at_cancelled(&mut self, now: Time, key: TimelineKey, point: Point) {
        if self.queues.get(key).is_some_and(|queue| queue.ended.next() == point && queue.limit.is_none()) {
            self.look_at_head(now, key);
        }
    }

    /// A queue whose head waited for a point may wait for another one now, or for none.
    fn watch_no_more(&mut self, key: TimelineKey, watched: (TimelineKey, Point)) {
        if self.queues.get(key).is_some_and(|queue| queue.watching == Some(watched)) {
            return;
        }
        if let Some(watchers) = self.watchers_of(watched.0) {
            watchers.remove(&(watched.1, order_of(key)));
        }
    }

    /// The queues whose heads wait for a timeline.
    fn watchers_of(&mut self, timeline: TimelineKey) -> Option<&mut Watchers> {
        match is_of_client(timeline) {
            true => self.promises.get_mut(timeline).map(|promises| &mut promises.watchers),
            false => self.queues.get_mut(timeline).map(|queue| &mut queue.watchers),
        }
    }
}

impl Broker {
    fn head_is_ready(&self, now: Time, job: &Job) -> Head {
        Head::Ready(now.after(self.config.times.scheduling_ns.saturating_add(job.run_ns)))
    }
}

/// What the job at the head of a queue does.
enum Head {
    /// There is none, or nobody to run it.
    None,
    /// It may run; it must have ended by then.
    Ready(Time),
    /// It waits for this point.
    Waits((TimelineKey, Point)),
}

/// Takes out those who watch points up to one.
pub(crate) fn take_watchers(watchers: &mut Watchers, to: Point) -> Watchers {
    let others = match to.0.checked_add(1) {
        Some(next) => watchers.split_off(&(Point(next), (0, 0))),
        None => Watchers::new(),
    };
    std::mem::replace(watchers, others)
}

/// Ends the job at the head of a queue: the object uses it held are over, and what a failed one was to write is
/// poisoned. Gives the job.
pub(crate) fn end_head(
    queue: &mut Queue,
    key: TimelineKey,
    objects: &mut Table<ObjectKey, Object>,
    failure: Option<Failure>,
    released: &mut Vec<ObjectKey>,
) -> Option<Job> {
    let job = queue.jobs.pop_front()?;
    queue.ended = queue.ended.next();
    if let Some(failure) = failure {
        queue.failures.note(queue.ended, failure);
    }
    for _ in 0..job.uses {
        let Some(used) = queue.uses.pop_front() else { break };
        let Some(object) = objects.get_mut(used.object) else { continue };
        object.reservation.end(key, queue.ended, failure);
        object.uses = object.uses.saturating_sub(1);
        if object.is_released() {
            released.push(used.object);
        }
    }
    for _ in 0..job.waits {
        queue.waits.pop_front();
    }
    if job.cancelled {
        queue.cancels.retain(|(point, _)| *point != queue.ended);
    }
    Some(job)
}
