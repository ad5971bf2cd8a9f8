//! What happens when a timer is due.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, InstanceId, ObjectKey, Point, Time, TimelineKey};

use crate::broker::Broker;
use crate::causes::Cause;
use crate::clients::Standing;
use crate::deadlines::Timer;
use crate::devices::Verdict;
use crate::io::{Effect, Event};
use crate::objects::ObjectState;
use crate::pairs::Party;

impl Broker {
    /// Lets every timer that is due happen.
    pub(crate) fn run_timers(&mut self, now: Time) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Job(timeline) => self.job_is_late(now, timeline),
                Timer::Greeting(client) => self.client_is_silent(client),
                Timer::Answer(instance) => self.instance_is_silent(instance),
                Timer::Ring(timeline) => self.ring_is_stuck(timeline),
                Timer::Idle(instance) => {
                    if let Some(idle) = self.instances.get_mut(&instance) {
                        idle.idle_at = None;
                        self.kill_instance(instance, Verdict::Idle);
                    }
                }
                Timer::HeldUp(instance) => self.instance_is_held_up(instance),
                Timer::Restart(device, seat) => {
                    if let Some(health) = self.devices.get_mut(device).and_then(|d| d.health.get_mut(&seat)) {
                        health.restart = None;
                    }
                    let has_heir = self.devices.get(device).is_some_and(|d| d.instances.contains_key(&seat));
                    let is_prestarted = seat.client.is_none() && self.prestarted.contains(&seat.domain);
                    if has_heir || is_prestarted || !self.openings.of(device, seat).is_empty() {
                        self.want_instance(now, device, seat);
                    }
                }
                Timer::Opening(id) => {
                    if let Some(opening) = self.openings.waiting.get_mut(&id) {
                        opening.until = None;
                        let text = "the device was not ready before the request's deadline";
                        self.fail_opening(now, id, &Refusal::new(ErrorCode::Late, text));
                    }
                }
                Timer::Import(client, request) => self.import_is_late(client, request),
                Timer::Unread(client) => self.fds_are_late(client),
                Timer::Promise(timeline) => self.promise_is_due(timeline),
                Timer::Future(timeline, point, number) => self.future_is_due(now, (timeline, point, number)),
                Timer::Query(id) => self.query_is_due(id),
                Timer::Token(id) => {
                    if let Some(token) = self.tokens.live.get_mut(&id) {
                        token.until = None;
                        self.drop_token(now, id, "nobody took it in time");
                    }
                }
                Timer::Look(object) => {
                    if let Some(orphan) = self.objects.get_mut(object) {
                        orphan.look_at = None;
                        if orphan.probes >= 2 {
                            self.collect_in_flight();
                        }
                    }
                    self.look_again(object);
                }
                Timer::Sweep => {
                    self.sweep_at = None;
                    self.sweep_some(now);
                }
            }
        }
    }

    /// A job has taken longer than it may. It is guilty if it could run: if its instance sees what it waits for.
    fn job_is_late(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.limit = None;
        let (point, observer) = (queue.ended.next(), Party::Instance(queue.instance));
        let had_its_time = queue.jobs.front().is_none_or(|job| job.spared || job.cancelled);
        let waits: Vec<_> = queue.head_waits().filter(|_| !had_its_time).collect();
        let sight = |(awaited, until): &(TimelineKey, Point)| {
            let shown = self.shown_places(*awaited)?.of(observer)?;
            Some((*awaited, *until, (shown.pair, shown.slot)))
        };
        let sights: Vec<_> = waits.iter().filter_map(sight).collect();
        if sights.is_empty() {
            self.job_is_guilty(now, key);
        } else {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.is_checked = true;
            }
            self.out.push(Effect::CheckSight { timeline: key, point, sights });
        }
    }

    /// It is known what the instance of a late job does not see. Whoever did not show it is at fault: an instance is ended,
    /// for a client its primary page speaks; and the job has its time once more, but only once.
    pub(crate) fn sight_checked(
        &mut self,
        now: Time,
        key: TimelineKey,
        point: Point,
        hidden: &[TimelineKey],
    ) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.is_checked = false;
        let is_it = queue.ended.next() == point && queue.limit.is_none();
        let Some(job) = queue.jobs.front_mut().filter(|_| is_it) else { return };
        if hidden.is_empty() {
            self.job_is_guilty(now, key);
            return;
        }
        job.spared = true;
        for awaited in hidden {
            match self.queues.get(*awaited).map(|queue| queue.instance) {
                Some(instance) => self.kill_instance(instance, Verdict::Silent),
                None => self.raise_places(*awaited),
            }
        }
        self.look_at_head(now, key);
    }

    /// A job has run longer than it may (F7): its instance is ended, and it is the guilty one.
    fn job_is_guilty(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(job) = queue.jobs.front() else { return };
        let (point, run_ms) = (queue.ended.next(), job.run_ns / 1_000_000);
        let ran_ns = now.since(job.since());
        let allowed_ns = self.config.times.scheduling_ns.saturating_add(job.run_ns);
        let (instance, domain, device) = (queue.instance, queue.domain, queue.device);
        let device = self.devices.get(device).map(|d| d.name().to_owned()).unwrap_or_default();
        let pid = self.instances.get(&instance).map_or(0, |instance| instance.pid);
        let delay_ms = self.config.times.scheduling_ns / 1_000_000;
        let text = format!(
            "device {device}: job point {} exceeded {run_ms} ms (and {delay_ms} ms to begin)",
            point.0
        );
        let (client, object) = self.about_job(key, point);
        let cause = Cause::new(now, ErrorCode::TimedOut, text).to(key, point).by(client, pid);
        let cause = cause.on(device.as_str()).writing(object);
        let cause = self.causes.issue(domain, cause);
        let (timeline, point_number) = (key.to_string(), point.0);
        let event =
            Event::JobTimedOut { device, timeline, point: point_number, client, pid, ran_ns, allowed_ns };
        self.log(Some(domain), event);
        self.kill_instance(instance, Verdict::TimedOut { timeline: key, point, cause });
    }

    fn client_is_silent(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get(key) else { return };
        if matches!(client.standing, Standing::Silent { .. }) {
            let ms = self.config.times.greeting_ns / 1_000_000;
            self.drop_client(key, format!("no greeting within {ms} ms"));
        }
    }

    fn instance_is_silent(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.answer_by = None;
        self.kill_instance(id, Verdict::Silent);
    }

    /// Sends probes for some of the orphaned objects that a sweep is to look at.
    pub(crate) fn sweep_some(&mut self, now: Time) {
        const PAUSE_NS: u64 = 1_000_000;
        const SWEEP_NS: u64 = 60_000_000_000;
        if self.sweep.is_empty() {
            self.sweep.extend(self.orphans.iter().copied());
            if !self.sweep.is_empty() {
                self.collect_in_flight();
            }
        }
        for _ in 0..self.config.bounds.sweep.max(1) {
            let Some(object) = self.sweep.pop_front() else { break };
            self.look_again(object);
        }
        if !self.sweep.is_empty() {
            self.timers.arm(Timer::Sweep, &mut self.sweep_at, now.after(PAUSE_NS));
        } else if !self.orphans.is_empty() {
            self.timers.arm(Timer::Sweep, &mut self.sweep_at, now.after(SWEEP_NS));
        }
    }

    /// Has the kernel collect what lies in sockets nobody can reach (T15), at most once per input.
    fn collect_in_flight(&mut self) {
        if !std::mem::replace(&mut self.has_collected, true) {
            self.out.push(Effect::CollectInFlight);
        }
    }

    fn look_again(&mut self, key: ObjectKey) {
        if self.objects.get(key).is_some_and(|object| object.state == ObjectState::Orphaned) {
            self.probe_orphan(key);
        }
    }
}
