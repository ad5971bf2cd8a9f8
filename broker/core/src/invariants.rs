//! Every table held against every other.
//!
//! Always compiled, used by tests after every step and by whoever suspects the broker. Slow: it counts
//! everything.

use std::collections::BTreeMap;

use vgem_proto::ids::{DomainId, InstanceId, ObjectKey, Point, Time, TimelineKey};
use vgem_proto::message::driver::Run;
use vgem_proto::rights::TimelineRights;

use crate::accounts::{Charge, Resource, Usage};
use crate::awaiting::{TimelineOrder, key_of, order_of};
use crate::broker::Broker;
use crate::clients::Client;
use crate::deadlines::Timer;
use crate::devices::InstanceState;
use crate::objects::{MappingState, Object, ObjectState};
use crate::pairs::{Party, Slot};
use crate::queues::{Queue, QueueState, Watchers};
use crate::timelines::{Promises, TimelineState};

pub(crate) type Check = Result<(), String>;

impl Broker {
    /// Holds every table against every other.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn check_invariants(&self) -> Check {
        ensure(self.batch.is_empty(), || "the storage of batches is not empty".into())?;
        ensure(self.released.is_empty(), || "objects were let go of and not looked at".into())?;
        self.charges_are_the_ledger()?;
        for (key, object) in self.objects.iter() {
            self.object_fits(key, object.state)?;
        }
        self.handles_and_shares_fit()?;
        self.waiting_objects_fit()?;
        self.porters_and_hands_fit()?;
        for (key, queue) in self.queues.iter() {
            self.queue_fits(key, queue)?;
        }
        let prioritised = self.queues.iter().filter(|(_, queue)| queue.priority > 0).count();
        ensure(prioritised == self.prioritised, || {
            format!("{prioritised} queues have a priority, {} are counted", self.prioritised)
        })?;
        for id in self.instances.keys() {
            self.instance_fits(*id)?;
        }
        for (key, promises) in self.promises.iter() {
            self.promises_fit(key, promises)?;
        }
        self.pairs_fit()?;
        self.waits_to_come_fit()?;
        self.timers_fit()
    }

    /// The sum of all charges that live is what the accounts say (DESIGN 12.6).
    fn charges_are_the_ledger(&self) -> Check {
        let mut sums = BTreeMap::<DomainId, Usage>::new();
        let mut add = |charge: &Charge| {
            if charge.amount() > 0 {
                *sums.entry(charge.domain()).or_default().of_mut(charge.resource()) += charge.amount();
            }
        };
        for (_, client) in self.clients.iter() {
            add(&client.connection);
            add(&client.unreceived);
            add(&client.monitors);
            client.objects.iter().for_each(|held| add(&held.charge));
            client.timelines.iter().for_each(|held| add(&held.charge));
            client.signals.primaries.iter().for_each(|page| add(&page.charge));
            client.signals.dropped.iter().flat_map(|(_, charge)| charge).for_each(&mut add);
        }
        for (_, object) in self.objects.iter() {
            object.charges.iter().chain(&object.pin_charge).chain(&object.handle_charge).for_each(&mut add);
            object.shares.iter().for_each(|share| add(&share.charge));
            object.wishes.iter().for_each(|wish| add(&wish.charge));
        }
        self.creations.values().for_each(|creation| add(&creation.export));
        self.porters.values().flat_map(|porter| [&porter.charge, &porter.export]).for_each(&mut add);
        self.own_charges().for_each(&mut add);
        for (_, queue) in self.queues.iter() {
            add(&queue.charge);
            add(&queue.owed);
            if let Some(ring) = &queue.ring {
                ring.charges.iter().for_each(&mut add);
                ring.opening.iter().for_each(|(_, export)| add(export));
            }
        }
        self.pairs.iter().flat_map(|(_, pair)| &pair.charge).for_each(&mut add);
        self.leavers.values().flat_map(|signals| &signals.primaries).for_each(|page| add(&page.charge));
        let dropped = self.leavers.values().flat_map(|signals| &signals.dropped);
        dropped.flat_map(|(_, charge)| charge).for_each(&mut add);
        self.openings.waiting.values().flat_map(|o| [&o.charge, &o.export]).for_each(&mut add);
        let ledger = self.accounts.usage();
        ensure(sums == ledger, || format!("charges {sums:?} are not the ledger {ledger:?}"))?;
        let of = |object: &Object| object.len * (1 + object.shares.len() as u64);
        let rings = self.queues.iter().filter_map(|(_, queue)| queue.ring.as_ref());
        let bytes: u64 =
            self.objects.iter().map(|(_, object)| of(object)).chain(rings.map(|r| r.bytes())).sum();
        let bytes = bytes + self.own_charges().map(Charge::amount).sum::<u64>();
        let owed: u64 = ledger.values().map(|usage| usage.of(Resource::Bytes)).sum();
        ensure(bytes == owed, || format!("{bytes} bytes live, {owed} are charged"))
    }

    fn object_fits(&self, key: ObjectKey, state: ObjectState) -> Check {
        let Some(object) = self.objects.get(key) else { return Ok(()) };
        ensure(object.planned == 0, || format!("{key}: planned writes are left over"))?;
        let holders: usize = self
            .clients
            .iter()
            .map(|(_, client)| client.objects.iter().filter(|held| held.object == key).count())
            .sum();
        ensure(holders == object.holders.len(), || {
            format!("{key}: {holders} handles, {:?}", object.holders)
        })?;
        let by_jobs = self.queues.iter().flat_map(|(_, queue)| &queue.uses).map(|used| used.object);
        let uses = by_jobs.chain(self.bound_objects()).filter(|used| *used == key).count();
        ensure(uses == object.uses as usize, || format!("{key}: {uses} uses, {} counted", object.uses))?;
        for fence in object.reservation.named() {
            let is_open = self.queues.get(fence.timeline).is_some_and(|queue| {
                queue.instance == fence.signaller
                    && queue.ended < fence.point
                    && fence.point <= queue.promised
            });
            ensure(is_open, || format!("{key}: its reservation names {fence:?}, which is over"))?;
        }
        let retires = match state {
            ObjectState::Making
            | ObjectState::Created
            | ObjectState::Checking
            | ObjectState::Checked
            | ObjectState::Keeping
            | ObjectState::Kept
            | ObjectState::Mapping
            | ObjectState::Sealing => false,
            ObjectState::Ready => {
                return ensure(!object.is_released(), || format!("{key}: nobody wants it and it stays"));
            }
            ObjectState::Unmapping => {
                let letting_go = |m: &crate::objects::Mapping| m.state == MappingState::Unmapping;
                ensure(!object.mappings.is_empty() && object.mappings.iter().all(letting_go), || {
                    format!("{key}: is being unmapped by {:?}", object.mappings)
                })?;
                true
            }
            ObjectState::Dropping | ObjectState::Probing | ObjectState::Orphaned | ObjectState::Freeing => {
                let is_let_go =
                    object.mappings.is_empty() && (!object.kept || state == ObjectState::Dropping);
                ensure(is_let_go, || format!("{key}: mapped or kept while {state:?}"))?;
                true
            }
            ObjectState::Gone => return Err(format!("{key}: gone and still there")),
        };
        ensure(!retires || object.is_released(), || format!("{key}: used while {state:?}"))?;
        ensure((state == ObjectState::Orphaned) == self.orphans.contains(&key), || {
            format!("{key}: {state:?} and the list of orphans disagree")
        })
    }

    /// The object of every range that is bound.
    fn bound_objects(&self) -> impl Iterator<Item = ObjectKey> {
        let rings = self.queues.iter().filter_map(|(_, queue)| queue.ring.as_ref());
        rings.flat_map(|ring| ring.ranges.values()).map(|range| range.object)
    }

    fn queue_fits(&self, key: TimelineKey, queue: &Queue) -> Check {
        let in_flight = queue.promised.0 - queue.ended.0;
        ensure(in_flight == queue.jobs.len() as u64, || format!("{key}: {in_flight} points are open"))?;
        ensure(queue.owed.amount() == in_flight, || format!("{key}: owes {:?}", queue.owed))?;
        let uses: u64 = queue.jobs.iter().map(|job| u64::from(job.uses)).sum();
        ensure(uses == queue.uses.len() as u64, || format!("{key}: uses of nobody"))?;
        let waits: u64 = queue.jobs.iter().map(|job| u64::from(job.waits)).sum();
        ensure(waits == queue.waits.len() as u64, || format!("{key}: waits of nobody"))?;
        let is_awaited = in_flight > 0 || self.futures.names(key);
        ensure(queue.watchers.is_empty() || is_awaited, || format!("{key}: watched, but idle"))?;
        self.watchers_fit(key, &queue.watchers)?;
        let instance = self.instances.get(&queue.instance);
        match queue.state {
            QueueState::Gone => {
                ensure(in_flight == 0 && queue.shown.is_empty(), || {
                    format!("{key}: gone with jobs or slots")
                })?;
            }
            QueueState::Open | QueueState::Closing => {
                let listed = instance.map_or(0, |i| i.queues.iter().filter(|other| **other == key).count());
                ensure(listed == 1, || format!("{key}: listed {listed} times at its instance"))?;
            }
        }
        let handled = self
            .clients
            .get(queue.client)
            .map_or(0, |client| client.queues.iter().filter(|other| **other == key).count());
        let expected = usize::from(queue.state != QueueState::Closing);
        ensure(handled == expected, || format!("{key}: {handled} handles while {:?}", queue.state))?;
        self.head_is_looked_after(key, queue)?;
        self.ring_fits(key, queue)?;
        if let Some(instance) = instance.filter(|instance| instance.goes_on()) {
            for (job, point) in queue.jobs.iter().zip(queue.ended.0 + 1..) {
                let is_in = |run: &Run| run.jobs.iter().any(|j| j.queue == key && j.point.0 == point);
                ensure(instance.sent.get(job.run).is_some_and(is_in), || {
                    format!("{key}: job {point} is not in run {}", job.run)
                })?;
            }
        }
        for shown in queue.shown.iter() {
            let is_there = self.pairs.get(shown.pair).is_some_and(|pair| {
                pair.observer == shown.observer
                    && pair.signaller == Party::Instance(queue.instance)
                    && pair.numbers.is_some()
                    && matches!(pair.slots.get(usize::from(shown.slot)), Some(Slot::Shown(t)) if *t == key)
            });
            ensure(is_there, || format!("{key}: not in the slot {shown:?}"))?;
        }
        Ok(())
    }

    fn watchers_fit(&self, key: TimelineKey, watchers: &Watchers) -> Check {
        let watches = |(point, watcher): &(Point, TimelineOrder)| {
            self.queues.get(key_of(*watcher)).is_some_and(|queue| queue.watching == Some((key, *point)))
        };
        ensure(watchers.iter().all(watches), || format!("{key}: watched by nobody: {watchers:?}"))
    }

    /// A job at the head has a clock, or somebody will start it (F7, F8).
    fn head_is_looked_after(&self, key: TimelineKey, queue: &Queue) -> Check {
        let runs = self.instances.get(&queue.instance).is_some_and(|i| i.state == InstanceState::Ready);
        if queue.jobs.is_empty() || !runs {
            return ensure(queue.limit.is_none(), || format!("{key}: a clock runs for nothing"));
        }
        match (queue.limit, queue.watching) {
            (Some(_), None) => Ok(()),
            (None, Some((watched, point))) => {
                let of_queue = self.queues.get(watched).map(|other| &other.watchers);
                let watchers = of_queue.or_else(|| self.promises.get(watched).map(|other| &other.watchers));
                let is_known = watchers.is_some_and(|watchers| watchers.contains(&(point, order_of(key))));
                ensure(is_known, || format!("{key}: watches {watched}, which does not know"))?;
                ensure(!self.has_ended(watched, point), || format!("{key}: waits for what has ended"))
            }
            (Some(_), Some(_)) => Err(format!("{key}: ready and waiting at once")),
            (None, None) if queue.is_checked => Ok(()),
            (None, None) => Err(format!("{key}: nobody will ever start its clock")),
        }
    }

    fn instance_fits(&self, id: InstanceId) -> Check {
        let Some(instance) = self.instances.get(&id) else { return Ok(()) };
        let listed =
            self.devices.get(instance.device).and_then(|device| device.instances.get(&instance.seat()));
        ensure(listed == Some(&id), || format!("{id}: its device does not list it"))?;
        let queues = || instance.queues.iter().filter_map(|key| self.queues.get(*key));
        ensure(queues().count() == instance.queues.len(), || format!("{id}: lists queues that are gone"))?;
        let in_flight: usize = queues().map(|queue| queue.in_flight()).sum();
        ensure(in_flight == instance.in_flight as usize, || {
            format!("{id}: {in_flight} jobs in flight, {} counted", instance.in_flight)
        })?;
        let kept = instance.sent.unfinished();
        ensure(if instance.goes_on() { kept == in_flight } else { kept <= in_flight }, || {
            format!("{id}: {kept} jobs kept, {in_flight} in flight")
        })?;
        let is_owner = instance.goes_on() || instance.state == InstanceState::Ending;
        ensure(is_owner || instance.queues.is_empty(), || format!("{id}: has queues and cannot serve them"))?;
        ensure(instance.estate.is_none() || instance.state != InstanceState::Ready, || {
            format!("{id}: has not taken over")
        })?;
        self.own_instance_fits(id, instance)?;
        let mapped =
            self.objects.iter().filter(|(_, object)| object.mapping(id).is_some()).map(|(key, _)| key);
        ensure(mapped.eq(self.sorted(id)), || format!("{id}: its mappings are not the objects'"))?;
        self.answers_fit(id)?;
        if instance.state != InstanceState::Ready || instance.queues.is_empty() {
            return Ok(());
        }
        for (other, peer) in self.neighbours(id) {
            let (unseen, room) = (self.unseen(id, other), {
                let from = Party::Instance(id);
                self.pairs.room(&peer.observes, from, &self.queues)
            });
            ensure(unseen <= room, || format!("{other} has room for {room} of {unseen} timelines of {id}"))?;
        }
        Ok(())
    }

    fn sorted(&self, id: InstanceId) -> impl Iterator<Item = ObjectKey> {
        let mut mapped: Vec<ObjectKey> =
            self.instances.get(&id).into_iter().flat_map(|instance| &instance.mapped).copied().collect();
        mapped.sort_unstable_by_key(|key| key.index);
        mapped.into_iter()
    }

    fn promises_fit(&self, key: TimelineKey, promises: &Promises) -> Check {
        let handles: usize = self
            .clients
            .iter()
            .map(|(_, client)| client.timelines.iter().filter(|held| held.key == key).count())
            .sum();
        ensure(handles == promises.handles as usize, || {
            format!("{key}: {handles} handles, not {}", promises.handles)
        })?;
        let may_signal = |client: &Client| {
            let signals = TimelineRights::SIGNAL;
            client.timelines.iter().any(|held| held.key == key && held.rights.contains(signals))
        };
        let signallers = self.clients.iter().filter(|(_, client)| may_signal(client)).count();
        ensure(signallers <= 1, || format!("{key}: {signallers} clients may signal it"))?;
        let is_open = promises.state == TimelineState::Open;
        ensure(is_open <= (promises.signaller.is_some() && promises.primary.is_some()), || {
            format!("{key}: open without a signaller")
        })?;
        let is_due = is_open && !promises.obligations.is_empty();
        ensure(is_due == promises.due.is_some() || is_due && promises.looks > 0, || {
            format!("{key}: {} promises and the timer {:?}", promises.obligations.len(), promises.due)
        })?;
        let is_ending = promises.state == TimelineState::Ending;
        ensure(!is_ending || promises.looks > 0, || format!("{key}: ends, and nobody looks"))?;
        self.watchers_fit(key, &promises.watchers)?;
        let is_over = promises.state == TimelineState::Ended;
        ensure(is_over == promises.verdict.is_some(), || {
            format!("{key}: {:?} without a verdict", promises.state)
        })?;
        let is_kept = promises.handles > 0 || promises.state != TimelineState::Ended;
        ensure(is_kept, || format!("{key}: nobody has it and it stays"))?;
        for shown in promises.shown.iter() {
            let is_there = self.pairs.get(shown.pair).is_some_and(|pair| {
                pair.observer == shown.observer
                    && matches!(pair.slots.get(usize::from(shown.slot)), Some(Slot::Shown(t)) if *t == key)
            });
            ensure(is_there, || format!("{key}: not in the slot {shown:?}"))?;
        }
        Ok(())
    }

    fn waits_to_come_fit(&self) -> Check {
        for ((order, point, _), future) in &self.futures.live {
            let (timeline, (waiter, job)) = (key_of(*order), future.waiter);
            let waits = self.queues.get(waiter).is_some_and(|queue| queue.job(job).is_some());
            ensure(waits, || format!("{job:?} of {waiter} awaits {point:?} of {timeline} and has ended"))?;
            let promises = self.promises.get(timeline);
            let promised = match (self.queues.get(timeline), promises) {
                (Some(queue), _) => {
                    let passed = queue.ring.as_ref().map(|ring| ring.sighted.passed);
                    Some(queue.promised.max(passed.unwrap_or_default()))
                }
                (None, promises) => promises.map(|promises| promises.promised.max(promises.passed)),
            };
            ensure(promised.is_some_and(|promised| promised < *point), || {
                format!("{point:?} of {timeline} is awaited, of which {promised:?} is promised")
            })?;
            let ring = self.queues.get(timeline).and_then(|queue| queue.ring.as_ref());
            let is_looked_at = promises.is_some_and(|promises| promises.looks > 0)
                || ring.is_some_and(|ring| ring.sighted.looks > 0);
            ensure(future.until.is_some() || is_looked_at, || format!("{timeline}: nobody ends the wait"))?;
        }
        for query in self.queries.live.values() {
            let is_looked_at = self.promises.get(query.timeline).is_some_and(|promises| promises.looks > 0);
            ensure(query.until.is_some() || is_looked_at, || "nobody answers a question".to_owned())?;
        }
        for (asker, order, point) in self.outcomes.asked() {
            let timeline = key_of(order);
            let waits = self.waits_for(asker, (timeline, point)) && !self.has_ended(timeline, point);
            ensure(waits, || format!("{asker} awaits an answer about {point:?} of {timeline}"))?;
        }
        ensure(self.futures.fit(), || "the tables of what is awaited differ".to_owned())?;
        ensure(self.queries.fit(), || "the tables of questions differ".to_owned())
    }

    fn pairs_fit(&self) -> Check {
        let living = self.clients.iter().map(|(key, client)| (key, &client.signals));
        for (key, signals) in living.chain(self.leavers.iter().map(|(key, signals)| (*key, signals))) {
            let is_one = |promises: &Promises| {
                let owner = promises.primary.is_some_and(|primary| primary.client == key);
                owner && promises.state == TimelineState::Ending
            };
            let ending = self.promises.iter().filter(|(_, promises)| is_one(promises)).count();
            ensure(ending == signals.ending, || format!("{key}: {ending} timelines end, not {signals:?}"))?;
        }
        for (id, pair) in self.pairs.iter() {
            let signals = match pair.signaller {
                Party::Instance(signaller) => {
                    self.instances.get(&signaller).is_some_and(|instance| instance.signals.contains(&id))
                }
                Party::Client(signaller) => {
                    let living = self.clients.get(signaller).map(|client| &client.signals);
                    let signals = living.or_else(|| self.leavers.get(&signaller));
                    signals.is_some_and(|signals| signals.pairs.contains(&id))
                }
            };
            let observes = match pair.observer {
                Party::Client(client) => match self.clients.get(client) {
                    Some(client) => client.pairs.contains(&id),
                    None => pair.shows(),
                },
                Party::Instance(observer) => self.instances.get(&observer).is_some_and(|observer| {
                    if signals { observer.observes.contains(&id) } else { observer.dead_pages.contains(&id) }
                }),
            };
            let is_dead = !signals && matches!(pair.observer, Party::Instance(_));
            ensure((signals || is_dead) && observes, || {
                format!("{id:?}: its parties do not have it: {pair:?}")
            })?;
            for slot in &pair.slots {
                if let Slot::Shown(timeline) = slot {
                    let places = self.shown_places(*timeline);
                    let knows = places.is_some_and(|places| places.iter().any(|shown| shown.pair == id));
                    ensure(knows, || format!("{id:?}: shows {timeline}, which does not know"))?;
                }
            }
        }
        Ok(())
    }

    /// The timers that owners say are armed, of all that end a wait.
    fn armed(&self) -> impl Iterator<Item = (Timer, Time)> {
        let jobs = self.queues.iter().map(|(key, queue)| (Timer::Job(key), queue.limit));
        let promises = self.promises.iter().map(|(key, promises)| (Timer::Promise(key), promises.due));
        let futures = self.futures.live.iter();
        let futures = futures.map(|(key, future)| (Timer::Future(key.0, key.1, key.2), future.until));
        let queries = self.queries.live.iter().map(|(id, query)| (Timer::Query(*id), query.until));
        let tokens = self.tokens.live.iter().map(|(id, token)| (Timer::Token(*id), token.until));
        let answers = self.instances.iter().map(|(id, instance)| (Timer::Answer(*id), instance.answer_by));
        let left = self.instances.iter().map(|(id, instance)| (Timer::HeldUp(*id), instance.left_at));
        let ring_of = |queue: &Queue| queue.ring.as_ref().and_then(|ring| ring.answer_by);
        let rings = self.queues.iter().map(move |(key, queue)| (Timer::Ring(key), ring_of(queue)));
        let all = jobs
            .chain(rings)
            .chain(promises)
            .chain(futures)
            .chain(queries)
            .chain(tokens)
            .chain(answers)
            .chain(left);
        all.filter_map(|(timer, at)| Some((timer, at?)))
    }

    fn timers_fit(&self) -> Check {
        for (at, timer) in self.timers.iter() {
            let memory = match timer {
                Timer::Job(key) => self.queues.get(key).and_then(|queue| queue.limit),
                Timer::Greeting(key) => self.clients.get(key).and_then(|client| match client.standing {
                    crate::clients::Standing::Silent { until } => Some(until),
                    crate::clients::Standing::Greeted | crate::clients::Standing::Dropped => None,
                }),
                Timer::Answer(id) => self.instances.get(&id).and_then(|instance| instance.answer_by),
                Timer::Ring(key) => self.queues.get(key).and_then(|queue| queue.ring.as_ref()?.answer_by),
                Timer::Idle(id) => self.instances.get(&id).and_then(|instance| instance.idle_at),
                Timer::HeldUp(id) => self.instances.get(&id).and_then(|instance| instance.left_at),
                Timer::Restart(device, seat) => self
                    .devices
                    .get(device)
                    .and_then(|device| device.health.get(&seat))
                    .and_then(|health| health.restart),
                Timer::Opening(id) => self.openings.waiting.get(&id).and_then(|opening| opening.until),
                Timer::Import(key, request) => self
                    .clients
                    .get(key)
                    .and_then(|client| client.hands.get(&request))
                    .and_then(|hand| hand.until),
                Timer::Unread(key) => self.clients.get(key).and_then(|client| client.unread_at),
                Timer::Promise(key) => self.promises.get(key).and_then(|promises| promises.due),
                Timer::Future(timeline, point, number) => {
                    self.futures.live.get(&(timeline, point, number)).and_then(|future| future.until)
                }
                Timer::Query(id) => self.queries.live.get(&id).and_then(|query| query.until),
                Timer::Token(id) => self.tokens.live.get(&id).and_then(|token| token.until),
                Timer::Look(key) => self.objects.get(key).and_then(|object| object.look_at),
                Timer::Sweep => self.sweep_at,
            };
            ensure(memory == Some(at), || format!("{timer:?} is due at {at:?}, its owner says {memory:?}"))?;
        }
        for (timer, at) in self.armed() {
            ensure(self.timers.has(timer, at), || {
                format!("{timer:?} is not armed for {at:?}, its owner says so")
            })?;
        }
        Ok(())
    }
}

pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}
