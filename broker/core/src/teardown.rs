//! Every ending of queues, clients and instances. Those of handles and objects are in [`crate::retire`].
//!
//! Each is one function that empties the owner lists of what ends and gives its charges back; each may be called
//! in any state and does nothing the second time. Nothing else frees.
//!
//! An instance ends at once: every point that it owed gets its verdict, in the tables and, through
//! the shell, in every page where somebody may wait for it.

use std::collections::BTreeMap;

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DeviceId, InstanceId, Point, Time, TimelineKey};
use vgem_proto::message::driver::{CloseTimeline, DropObservePage, DropSignalPage, Retire};

use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::clients::Standing;
use crate::complete::end_head;
use crate::deadlines::Timer;
use crate::devices::{Health, Instance, InstanceEvent, InstanceState, Outlook, Verdict};
use crate::io::{Effect, Event, InstanceEnd, LinkId, PairId, Seen, Settled};
use crate::own::how_it_stalled;
use crate::pairs::{Pair, Party, Slot, quiet};
use crate::queues::{FailedPoints, Lost, QueueEvent, QueueState, Shown, Waiters};
use crate::reservation::Inherited;
use crate::rings::how_it_stuck;
use crate::succession::Last;
use crate::tracing::End;

/// How an instance ended, in what its jobs are told.
struct Ending {
    /// What jobs in flight fail with.
    failure: Failure,
    /// The job that is to blame, and what it fails with.
    guilty: Option<(TimelineKey, Point, Failure)>,
}

// Clients and queues.
impl Broker {
    /// A client is told to go. What it still says is not heard; its hang-up ends it.
    pub(crate) fn drop_client(&mut self, key: ClientKey, why: String) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let standing = std::mem::replace(&mut client.standing, Standing::Dropped);
        let link = client.link;
        match standing {
            Standing::Dropped => return,
            Standing::Silent { until } => self.timers.disarm(Timer::Greeting(key), &mut Some(until)),
            Standing::Greeted => {}
        }
        self.out.push(Effect::Disconnect { link, why });
    }

    /// A client's connection is gone (L3): its handles close, its queues close and their jobs finish.
    pub(crate) fn client_gone(&mut self, now: Time, link: LinkId) {
        let Some(key) = self.clients.key_of(link) else { return };
        let Some(mut client) = self.clients.remove(key) else { return };
        match client.standing {
            Standing::Silent { until } => self.timers.disarm(Timer::Greeting(key), &mut Some(until)),
            Standing::Greeted | Standing::Dropped => {}
        }
        let waiting = &self.openings.waiting;
        let openings: Vec<u64> =
            waiting.iter().filter(|(_, opening)| opening.asker.client == key).map(|(id, _)| *id).collect();
        for id in openings {
            let _asker = self.forget_opening(now, id);
        }
        self.forget_creations_of(key);
        for porter in client.porter.into_iter().chain(client.doorman) {
            let refusal = Refusal::new(ErrorCode::Gone, "the client is gone");
            self.kill_porter(porter, "its client is gone", &refusal);
        }
        self.drop_hands(key, std::mem::take(&mut client.hands));
        self.timers.disarm(Timer::Unread(key), &mut client.unread_at);
        self.drop_queries_of(key);
        self.drop_tokens_of(now, key);
        let name = crate::promises::quoted(&client.name);
        let (number, pid) = (client_number(key), client.peer.pid);
        let text =
            format!("client {number}{name} (process {pid}), which was to signal the timeline, is gone");
        self.client_leaves(now, (key, pid), std::mem::take(&mut client.signals), &text);
        for held in client.timelines.drain() {
            self.drop_timeline_handle(now, key, held);
        }
        for queue in client.queues.drain() {
            self.end_queue(now, queue);
        }
        for handle in client.objects.drain() {
            self.drop_handle(now, key, handle);
        }
        for pair in client.pairs {
            self.stop_observing(key, pair);
            self.drop_unseen_pair(pair);
        }
        self.pairs.wanted.remove(&key);
        self.drop_own_of(key, client.peer.domain);
        self.close_domains_of(key);
        self.accounts.give_back(client.connection);
        self.accounts.give_back(client.unreceived);
        self.accounts.give_back(client.monitors);
        if let Some(scope) = client.traces {
            self.tracing.end(scope);
        }
        self.log(Some(client.peer.domain), Event::ClientGone { client: client_number(key) });
    }

    /// Nobody submits to a queue any more: its jobs finish, then it is removed.
    pub(crate) fn end_queue(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        match queue.state.after(QueueEvent::Close) {
            Some(next) => {
                queue.state = next;
                let (client, domain) = (queue.client, queue.domain);
                self.close_ring(key);
                if !self.leave_ring(key) {
                    self.nobody_submits(now, key, client, domain);
                    self.close_idle_queue(now, key);
                }
            }
            None => self.remove_queue(now, key),
        }
    }

    /// Has the driver close a queue whose jobs have all ended. Not before that: until then the queue's timeline may
    /// have to be shown to somebody, and a driver that has closed it could not.
    pub(crate) fn close_idle_queue(&mut self, now: Time, key: TimelineKey) {
        let Some(queue) = self.queues.get(key) else { return };
        let instance = queue.instance;
        let runs = self.instances.get(&instance).is_some_and(|i| i.state == InstanceState::Ready);
        if queue.state == QueueState::Closing && queue.jobs.is_empty() && runs {
            self.tell_driver(instance, CloseTimeline { timeline: key });
            self.owes_close(now, instance, key);
        }
    }

    /// Takes a queue without jobs out of every table and gives its charge back.
    pub(crate) fn remove_queue(&mut self, now: Time, key: TimelineKey) {
        self.keep_entries(key);
        self.drop_ring(key);
        let failures = self.queues.get_mut(key).map(|queue| std::mem::take(&mut queue.failures));
        self.keep_awaited(key, failures.iter().flat_map(FailedPoints::all).copied());
        let Some(mut queue) = self.queues.remove(key) else { return };
        self.answer_asked(key, Point(u64::MAX));
        self.prioritised -= usize::from(queue.priority > 0);
        self.timers.disarm(Timer::Job(key), &mut queue.limit);
        self.nobody_submits(now, key, queue.client, queue.domain);
        self.watchers_look(now, key, std::mem::take(&mut queue.watchers));
        self.answer_queries(key);
        self.accounts.give_back(queue.charge);
        self.accounts.give_back(queue.owed);
        for Shown { pair, slot, waiters, .. } in queue.shown {
            self.pairs.close(pair, slot, key, waiters);
            self.drop_unseen_pair(pair);
        }
        if let Some(instance) = self.instances.get_mut(&queue.instance) {
            instance.queues.retain(|other| *other != key);
        }
        self.rest_instance(now, queue.instance);
    }

    /// A client that is gone observes other clients' timelines no more. Its own go on to their ends.
    fn stop_observing(&mut self, client: ClientKey, id: PairId) {
        for (slot, timeline) in self.pairs.shown_in(id) {
            if let Some(queue) = self.queues.get_mut(timeline).filter(|queue| queue.client != client) {
                queue.shown.retain(|shown| shown.pair != id);
                self.pairs.close(id, slot, timeline, Waiters::new());
            }
            if let Some(promises) = self.promises.get_mut(timeline) {
                promises.shown.retain(|shown| shown.pair != id);
                self.pairs.close(id, slot, timeline, Waiters::new());
            }
        }
    }

    /// Drops a pair toward a client that is gone, once it shows nothing more.
    pub(crate) fn drop_unseen_pair(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get(id) else { return };
        let Party::Client(client) = pair.observer else { return };
        if !self.clients.contains(client) && !pair.shows() {
            self.drop_pair_at_signaller(id);
        }
    }

    /// Takes a pair out of the table and gives its charge back.
    pub(crate) fn forget_pair(&mut self, id: PairId) -> Option<Pair> {
        let mut pair = self.pairs.remove(id)?;
        if let Some(charge) = pair.charge.take() {
            self.accounts.give_back(charge);
        }
        Some(pair)
    }

    /// Ends a pair whose observer is gone: its signaller, which lives, forgets the page.
    pub(crate) fn drop_pair_at_signaller(&mut self, id: PairId) {
        let Some(pair) = self.forget_pair(id) else { return };
        let signaller = match pair.signaller {
            Party::Instance(signaller) => signaller,
            Party::Client(signaller) => {
                self.drop_pair_at_client(signaller, id, pair.numbers);
                self.out.push(Effect::DropPair { pair: id });
                return;
            }
        };
        if let Some(numbers) = pair.numbers {
            let page = numbers.signal;
            for (slot, content) in (0u16..).zip(&pair.slots) {
                let timeline = match content {
                    Slot::Free => continue,
                    Slot::Shown(timeline) | Slot::Closed { timeline, .. } => *timeline,
                };
                self.tell_driver(signaller, Retire { timeline, page, slot, reserved: Zero });
            }
            self.tell_driver(signaller, DropSignalPage { page });
        }
        if let Some(instance) = self.instances.get_mut(&signaller) {
            instance.signals.retain(|other| *other != id);
            if let Some(numbers) = pair.numbers {
                instance.signal_numbers.give_back(numbers.signal.0);
            }
        }
        self.out.push(Effect::DropPair { pair: id });
    }
}

// Instances.
impl Broker {
    /// Has an instance ended by force. What it owed ends when its process has.
    pub(crate) fn kill_instance(&mut self, id: InstanceId, verdict: Verdict) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(next) = instance.state.after(InstanceEvent::Kill) else { return };
        instance.state = next;
        self.timers.disarm(Timer::Answer(id), &mut instance.answer_by);
        self.timers.disarm(Timer::Idle(id), &mut instance.idle_at);
        for key in &instance.queues {
            if let Some(queue) = self.queues.get_mut(*key) {
                self.timers.disarm(Timer::Job(*key), &mut queue.limit);
                if let Some(ring) = &mut queue.ring {
                    self.timers.disarm(Timer::Ring(*key), &mut ring.answer_by);
                }
            }
        }
        let why = match &verdict {
            Verdict::TimedOut { timeline, point, .. } => format!("{point:?} of {timeline} took too long"),
            Verdict::Broke(how) => format!("broke the protocol: {how}"),
            Verdict::Silent => "did not answer in time".to_owned(),
            Verdict::Idle => "nobody needs it".to_owned(),
            Verdict::Stalled { point, address, ms } => how_it_stalled(*point, *address, *ms),
            Verdict::Stuck { timeline, ms } => how_it_stuck(*timeline, *ms),
        };
        instance.verdict = Some(verdict);
        if instance.own.is_some() {
            let at = self.now.after(self.config.times.held_up_ns);
            self.timers.arm(Timer::HeldUp(id), &mut instance.left_at, at);
        }
        self.out.push(Effect::KillInstance { instance: id, why });
    }

    /// The keeper could not start an instance. If it was an heir, what it was to take over ends as if it had died.
    pub(crate) fn instance_failed(&mut self, now: Time, id: InstanceId, why: &str) {
        let Some(instance) = self.instances.get(&id) else { return };
        if instance.state.after(InstanceEvent::NotStarted).is_none() {
            self.bug(format!("{id} failed to start after it had"));
            return;
        }
        self.end_instance(now, id, &format!("could not be started: {why}"), (&[], &[]), false);
    }

    /// An instance is gone.
    pub(crate) fn instance_gone(
        &mut self,
        now: Time,
        id: InstanceId,
        end: &InstanceEnd,
        settled: &[Settled],
        seen: &[Seen],
    ) {
        let Some(instance) = self.instances.get(&id) else { return };
        if instance.state.after(InstanceEvent::Exited).is_none() {
            return;
        }
        let how = how_it_ended(instance.verdict.as_ref(), end);
        self.end_instance(now, id, &how, (settled, seen), *end == InstanceEnd::HeldUp);
    }

    /// Takes an instance out of the world (L4): every point it owed has failed, everywhere; every object it was writing
    /// is poisoned there; nothing maps there any more. If one late job was the reason, an heir goes on with its
    /// queues (F9). If its process is held up, what it has mapped stays.
    fn end_instance(
        &mut self,
        now: Time,
        id: InstanceId,
        how: &str,
        (settled, seen): (&[Settled], &[Seen]),
        is_held_up: bool,
    ) {
        let ending = self.ending_of(now, id, how);
        let Some(mut instance) = self.forget_instance(id) else { return };
        let jobs = u64::from(instance.in_flight);
        let is_idle = instance.verdict == Some(Verdict::Idle);
        let outlook = if is_idle { Outlook::Good } else { self.note_loss(now, &instance) };
        let may_go_on = ending.guilty.is_some() && !matches!(outlook, Outlook::Failed(_));
        let queues = std::mem::take(&mut instance.queues);
        let (mut left, mut signalled) = (Vec::new(), BTreeMap::new());
        for key in &queues {
            let shown = settled.iter().find(|settled| settled.timeline == *key);
            signalled.insert(*key, self.signalled(*key, shown));
            self.lose_ring(*key, ending.failure);
            if self.settle_queue(now, *key, shown, &ending, may_go_on) {
                left.push(*key);
            }
        }
        let mapped = std::mem::take(&mut instance.mapped);
        let has_heir = !left.is_empty();
        if has_heir {
            self.bequeath(&mut instance, &left, Last { signalled, seen, failure: ending.failure });
        } else {
            self.drop_signalled_pairs(&instance, &ending);
            for id in instance.observes.iter().chain(&instance.dead_pages) {
                self.drop_observed_pair(*id);
            }
        }
        for key in &queues {
            self.advanced_to_here(now, *key);
            self.entries_ended(*key);
            let Some(queue) = self.queues.get_mut(*key).filter(|_| !left.contains(key)) else { continue };
            queue.lost = Some(Lost { how: how.into(), cause: ending.failure.cause });
            match queue.state.after(QueueEvent::InstanceGone) {
                Some(next) => {
                    queue.state = next;
                    let failure = Inherited { failure: ending.failure, domain: queue.domain };
                    let watchers = std::mem::take(&mut queue.watchers);
                    self.never_promised(now, *key, Some(failure));
                    self.watchers_look(now, *key, watchers);
                    self.answer_queries(*key);
                }
                None => self.remove_queue(now, *key),
            }
        }
        if !is_held_up {
            for object in &mapped {
                self.lose_mapping(id, *object);
            }
        }
        if is_held_up {
            self.hold_up(id, &mut instance, mapped);
        }
        if is_idle && !is_held_up {
            self.serve_again(now, &mut instance);
        } else {
            self.tell_loss(now, id, &instance, how, jobs, has_heir);
        }
        if let Some((_, charge)) = instance.own {
            self.accounts.give_back(charge);
        }
    }

    /// Takes an instance out of every table.
    pub(crate) fn forget_instance(&mut self, id: InstanceId) -> Option<Instance> {
        let mut instance = self.instances.remove(&id)?;
        self.outcomes.forget_instance(id);
        self.timers.disarm(Timer::Answer(id), &mut instance.answer_by);
        self.timers.disarm(Timer::Idle(id), &mut instance.idle_at);
        self.timers.disarm(Timer::HeldUp(id), &mut instance.left_at);
        if let Some(device) = self.devices.get_mut(instance.device) {
            device.instances.remove(&instance.seat());
        }
        Some(instance)
    }

    /// Notes that a device was lost; says when it may be started again.
    fn note_loss(&mut self, now: Time, instance: &Instance) -> Outlook {
        self.counters.instances_lost += 1;
        let Some(device) = self.devices.get_mut(instance.device) else { return Outlook::Good };
        let times = self.config.times;
        device.health.retain(|_, health| !health.is_clean(now, &times));
        let health = device.health.entry(instance.seat()).or_default();
        health.lose(now, &times, self.config.bounds.losses);
        health.outlook(now)
    }

    /// Says that a device was lost, to who waits for it too, and has it started again where it must run.
    fn tell_loss(
        &mut self,
        now: Time,
        id: InstanceId,
        instance: &Instance,
        why: &str,
        jobs: u64,
        has_heir: bool,
    ) {
        let name = self.devices.get(instance.device).map(|d| d.name().to_owned()).unwrap_or_default();
        if !has_heir {
            let text = format!("device {name} (instance {}, pid {}) {why}", id.0, instance.pid);
            for opening in self.openings.of(instance.device, instance.seat()) {
                self.fail_opening(now, opening, &Refusal::new(ErrorCode::Unavailable, text.clone()));
            }
        }
        let event = Event::InstanceLost { instance: id.0, device: name, why: why.to_owned(), jobs };
        self.log(Some(instance.domain), event);
        let seat = instance.seat();
        let is_wanted = seat.client.is_none() && self.prestarted.contains(&seat.domain);
        let may_not_run = |health: &Health| health.outlook(now) != Outlook::Good;
        let device = self.devices.get(instance.device);
        let waits = device.and_then(|d| d.health.get(&seat)).is_some_and(may_not_run);
        if has_heir || is_wanted && waits {
            self.want_instance(now, instance.device, seat);
        }
    }

    /// After an orderly end: somebody may have asked for the device meanwhile.
    fn serve_again(&mut self, now: Time, instance: &mut Instance) {
        let seat = instance.seat();
        if !self.openings.of(instance.device, seat).is_empty() {
            if seat.client.is_some() {
                self.enter_instance(instance.device, seat.domain, instance.own.take());
            }
            self.want_instance(now, instance.device, seat);
        }
    }

    fn ending_of(&mut self, now: Time, id: InstanceId, how: &str) -> Ending {
        let Some(instance) = self.instances.get(&id) else {
            return Ending {
                failure: Failure { code: ErrorCode::DeviceLost, cause: CauseId::NONE },
                guilty: None,
            };
        };
        let code = match instance.verdict {
            Some(Verdict::TimedOut { timeline, point, cause }) => {
                let guilty = Failure { code: ErrorCode::TimedOut, cause };
                return Ending {
                    failure: Failure { code: ErrorCode::Cancelled, cause },
                    guilty: Some((timeline, point, guilty)),
                };
            }
            Some(Verdict::Broke(_)) => ErrorCode::DriverFault,
            Some(Verdict::Silent | Verdict::Idle | Verdict::Stalled { .. } | Verdict::Stuck { .. })
            | None => ErrorCode::DeviceLost,
        };
        let device = self.devices.get(instance.device).map(|d| d.name().to_owned()).unwrap_or_default();
        let text = format!("device {device} (instance {}, pid {}) {how}", id.0, instance.pid);
        let cause = Cause::new(now, code, text).by(0, instance.pid).on(device);
        let cause = self.causes.issue(instance.domain, cause);
        Ending { failure: Failure { code: ErrorCode::DeviceLost, cause }, guilty: None }
    }

    /// Tells the domains that see a queue what has failed with its instance.
    fn settlement_shown(&mut self, key: TimelineKey, settled: Option<&Settled>, ending: &Ending) {
        if self.queues.get(key).is_some_and(|queue| queue.crosses) {
            let failures = settled.map(|settled| settled.failures.as_slice()).unwrap_or_default();
            failures.iter().for_each(|(_, failure)| self.failure_shown(key, failure.cause));
            self.failure_shown(key, ending.failure.cause);
        }
    }

    /// The last point of a queue that its instance, which is gone, has signalled.
    fn signalled(&self, key: TimelineKey, settled: Option<&Settled>) -> Point {
        let Some(queue) = self.queues.get(key) else { return Point(0) };
        // What a ring was given nobody has told the broker.
        let most = if queue.ring.is_some() { Point(u64::MAX - 1) } else { queue.promised };
        settled.map_or(Point(0), |settled| settled.value.min(most)).max(queue.ended)
    }

    /// Brings a queue whose instance is gone to what its pages show, there and here, and has the guilty job fail. The
    /// other jobs fail too, unless the queue goes on.
    ///
    /// Gives whether it does: it may, it is not gone for its own jobs' sake, and there is something to go on with.
    fn settle_queue(
        &mut self,
        now: Time,
        key: TimelineKey,
        settled: Option<&Settled>,
        ending: &Ending,
        may_go_on: bool,
    ) -> bool {
        let signalled = self.signalled(key, settled);
        self.settlement_shown(key, settled, ending);
        let Some(queue) = self.queues.get_mut(key) else { return false };
        self.timers.disarm(Timer::Job(key), &mut queue.limit);
        let mut value = signalled;
        let mut failures: Vec<(Point, Failure)> = settled.map(|s| s.failures.clone()).unwrap_or_default();
        failures.retain(|(point, _)| *point <= value);
        failures.sort_unstable_by_key(|(point, _)| *point);
        let forgets = settled.is_some_and(|settled| settled.forgets);
        let known_from =
            if forgets { failures.first().map_or(value.next(), |(point, _)| *point) } else { Point(0) };
        let guilty = ending.guilty.filter(|(timeline, point, _)| *timeline == key && *point == value.next());
        let guilty = guilty.filter(|(_, point, _)| *point <= queue.promised);
        let mut at = settled.map_or(Time(0), |settled| settled.at);
        if let Some((_, point, failure)) = guilty {
            failures.push((point, failure));
            (value, at) = (point, now);
            queue.hangs += 1;
        }
        at = at.max(queue.ended_at).min(now);
        queue.ended_at = at;
        if let Some(ring) = queue.ring.as_mut() {
            (queue.promised, queue.ended) = (value, value);
            (ring.sighted.passed, ring.sighted.known_from) = (value, known_from);
            failures.iter().for_each(|(point, failure)| queue.failures.note(*point, *failure));
        }
        let may_go_on = may_go_on && queue.ring.is_none() && queue.hangs < self.config.bounds.hang_limit;
        let end = if may_go_on { value } else { queue.promised };
        let lost = end.0.saturating_sub(value.0) + u64::from(guilty.is_some());
        while queue.ended < end {
            let point = queue.ended.next();
            let failure = if point > value || point < known_from {
                Some(ending.failure)
            } else {
                failures.iter().find(|(failed, _)| *failed == point).map(|(_, failure)| *failure)
            };
            if self.tracing.wants(queue.domain) {
                let device = self.devices.get(queue.device).map_or(DeviceId(0), |device| device.id);
                let instance = self.instances.get(&queue.instance);
                self.tracing.note((key, queue), instance, device, End::settled(now, failure));
            }
            end_head(queue, key, &mut self.objects, failure, &mut self.released);
            match failure {
                None => self.counters.jobs_ok += 1,
                Some(_) => self.counters.jobs_failed += 1,
            }
        }
        self.counters.points_settled += lost;
        // While it is known who waits for it.
        let failed: Vec<_> = queue.failures.all().copied().collect();
        self.keep_awaited(key, failed);
        let Some(queue) = self.queues.get_mut(key) else { return false };
        if may_go_on {
            for Shown { pair, slot, .. } in queue.shown.iter() {
                let (pair, slot, timeline, failures) = (*pair, *slot, key, failures.clone());
                self.out.push(Effect::Level { pair, slot, timeline, value, at, failures });
            }
            if queue.state == QueueState::Open || !queue.jobs.is_empty() {
                return true;
            }
            for Shown { pair, slot, waiters, .. } in std::mem::take(&mut queue.shown) {
                self.pairs.close(pair, slot, key, waiters);
            }
            return false;
        }
        let (dead_from, Failure { code, cause }) = (value.next(), ending.failure);
        for Shown { pair, slot, waiters, .. } in std::mem::take(&mut queue.shown) {
            let (timeline, failures) = (key, failures.clone());
            let settled =
                Effect::Settle { pair, slot, timeline, value, at, failures, dead_from, code, cause };
            self.out.push(settled);
            self.pairs.close(pair, slot, key, waiters);
            self.pairs.condemn(pair, slot);
        }
        false
    }

    /// Kills the pages in which a dead instance signalled. A client keeps what it has mapped; an instance is told
    /// to unmap once none of its jobs looks there.
    fn drop_signalled_pairs(&mut self, instance: &Instance, ending: &Ending) {
        let Failure { code, cause } = ending.failure;
        for id in &instance.signals {
            let Some(&Pair { observer, numbers, .. }) = self.pairs.get(*id) else { continue };
            if numbers.is_some() {
                self.out.push(Effect::KillPage { pair: *id, code, cause });
                if let Some(to) = self.domain_of(observer) {
                    self.causes.pass_on(instance.domain, to, cause);
                }
            }
            match observer {
                Party::Client(client) => {
                    if let Some(client) = self.clients.get_mut(client) {
                        client.pairs.retain(|other| other != id);
                    }
                    self.forget_pair(*id);
                    self.out.push(Effect::DropPair { pair: *id });
                }
                Party::Instance(observer) => {
                    if let Some(other) = self.instances.get_mut(&observer) {
                        other.observes.retain(|other| other != id);
                        other.dead_pages.push(*id);
                    }
                    self.drop_quiet_pages(observer);
                }
            }
        }
    }

    /// Has an instance unmap the pages of dead signallers in which none of its jobs waits any more.
    pub(crate) fn drop_quiet_pages(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id).filter(|i| !i.dead_pages.is_empty()) else { return };
        let mut over = Vec::new();
        for pair in &instance.dead_pages {
            let is_quiet = self.pairs.get(*pair).is_none_or(|found| {
                found.slots.iter().all(|slot| match slot {
                    Slot::Free | Slot::Shown(_) => true,
                    Slot::Closed { waiters, .. } => quiet(waiters, &self.queues),
                })
            });
            if is_quiet {
                over.push(*pair);
            }
        }
        instance.dead_pages.retain(|pair| !over.contains(pair));
        for pair in over {
            let numbers = self.forget_pair(pair).and_then(|pair| pair.numbers);
            if let Some(numbers) = numbers {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.observe_numbers.give_back(numbers.observe.0);
                }
                self.tell_driver(id, DropObservePage { page: numbers.observe });
            }
            self.out.push(Effect::DropPair { pair });
        }
    }

    /// Ends a pair that a dead instance observed.
    fn drop_observed_pair(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get(id) else { return };
        let signaller = pair.signaller;
        for (_, timeline) in self.pairs.shown_in(id) {
            if let Some(queue) = self.queues.get_mut(timeline) {
                queue.shown.retain(|shown| shown.pair != id);
            }
            if let Some(promises) = self.promises.get_mut(timeline) {
                promises.shown.retain(|shown| shown.pair != id);
            }
        }
        let lives = match signaller {
            Party::Instance(signaller) => self.instances.contains_key(&signaller),
            Party::Client(signaller) => self.clients.contains(signaller),
        };
        if lives {
            self.drop_pair_at_signaller(id);
        } else {
            self.forget_pair(id);
            self.out.push(Effect::DropPair { pair: id });
        }
    }
}

fn how_it_ended(verdict: Option<&Verdict>, end: &InstanceEnd) -> String {
    let how = how_it_was_ended(verdict, end);
    if *end == InstanceEnd::HeldUp { format!("{how}; its process has not ended") } else { how }
}

fn how_it_was_ended(verdict: Option<&Verdict>, end: &InstanceEnd) -> String {
    match (verdict, end) {
        (Some(Verdict::Broke(how)), _) => format!("broke the protocol: {how}"),
        (Some(Verdict::TimedOut { .. }), _) => "was ended: a job took too long".to_owned(),
        (Some(Verdict::Silent), _) => "was ended: it did not answer in time".to_owned(),
        (Some(Verdict::Idle), _) => "was ended: nobody needed it".to_owned(),
        (Some(Verdict::Stuck { timeline, ms }), _) => how_it_stuck(*timeline, *ms),
        (Some(Verdict::Stalled { point, address, ms }), _) => how_it_stalled(*point, *address, *ms),
        (None, InstanceEnd::HeldUp) => "was ended".to_owned(),
        (None, InstanceEnd::Broke(how)) => format!("broke the protocol: {how}"),
        (None, InstanceEnd::HungUp) => "closed its link".to_owned(),
        (None, InstanceEnd::Exited(code)) if *code < 0 => {
            format!("ended: signal {}", code.unsigned_abs())
        }
        (None, InstanceEnd::Exited(code)) => format!("ended: exit code {code}"),
    }
}
