//! Random histories: clients that come, work and die, drivers that run, fail, lag and die, exports that linger
//! and are imported in other domains, porters that hang, a kernel that takes its time ([`sharing`]), queues on which
//! clients schedule by themselves ([`ringing`]), also at instances of their own ([`owning`]).
//!
//! After every step the broker's invariants hold (the world checks them), every job was sent with exactly the
//! waits that [`crate::oracle`] computes, and at the end, when everybody is gone and quiet, every accepted job
//! has ended exactly once and the broker is as it was at the start.
//!
//! A history is made from one seed; a failure prints it. `VGEM_MODEL_SEED` runs one seed alone,
//! `VGEM_MODEL_HISTORIES` that many of them.

mod heirs;
mod owning;
mod promising;
mod ringing;
mod sharing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vgem_core::io::{Input, LinkId};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{
    DomainId, Handle, InstanceId, ObjectKey, Point, PorterId, QueueHandle, TimelineHandle, TimelineKey,
};
use vgem_proto::jobs::{DriverWait, JOB_EXPLICIT, JOB_RUN_ANYWAY, WAIT_PROMISE};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, CloseQueue, Done};
use vgem_proto::message::driver::DriverMessage;
use vgem_proto::rights::{Rights, WaitKind};

use self::heirs::Awaited;
use self::promising::{Gated, Stage};
use self::ringing::Ringed;
use self::sharing::Pending;
use crate::batch::Batch;
use crate::driver::Received;
use crate::oracle::{Accepted, How, Oracle, Touch};
use crate::world::{DOMAIN, MS, ONCE, OTHER_DOMAIN, World, config};

/// A generator of numbers: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let place = usize::try_from(self.below(of.len() as u64)).expect("small");
        of.get(place).cloned()
    }
}

/// An object as a client knows it.
#[derive(Debug, Clone, Copy)]
struct Held {
    handle: Handle,
    key: ObjectKey,
    rights: Rights,
    imports: u32,
}

/// A client as it knows itself.
struct Member {
    link: LinkId,
    domain: DomainId,
    objects: Vec<Held>,
    porter: Option<PorterId>,
    queues: Vec<(QueueHandle, TimelineKey, u64)>,
    rings: Vec<Ringed>,
    stages: Vec<Stage>,
}

struct Model {
    world: World,
    dice: Dice,
    oracle: Oracle,
    members: Vec<Member>,
    /// What drivers said and the broker has not heard yet.
    links: BTreeMap<InstanceId, VecDeque<DriverMessage>>,
    /// How many of a driver's jobs were compared.
    compared: BTreeMap<InstanceId, usize>,
    /// Jobs that wait for an heir to be sent to.
    awaited: BTreeMap<(TimelineKey, Point), Awaited>,
    /// Unfinished jobs as a driver got them last.
    received: BTreeMap<(TimelineKey, Point), Received>,
    /// Jobs that drivers may have begun that died, until another gets them.
    begun: BTreeSet<(TimelineKey, Point)>,
    reruns: u64,
    refused: u64,
    deadlocks: u64,
    /// Requests that are not answered yet.
    pending: BTreeMap<u64, (LinkId, Pending)>,
    /// Requests that were answered, of which nobody may hear again.
    answered: BTreeSet<u64>,
    /// Objects that some client knows to be ready.
    ready: BTreeSet<ObjectKey>,
    imports: u64,
    observed: u64,
    promises: u64,
    /// Waits for promises that drivers got.
    gated: u64,
    /// What jobs wait for besides.
    gates: BTreeMap<(TimelineKey, Point), Vec<Gated>>,
    rings: u64,
    binds: u64,
    entries: u64,
    /// Clients' own memory that was handed over, and instances that it held up.
    memories: u64,
    held_up: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut config = config();
        config.bounds.pieces = 40;
        config.bounds.job_waits = 24;
        config.bounds.batch_waits = 60;
        config.bounds.spare_pairs = 3;
        config.policy.defaults.quotas.jobs = 60;
        config.bounds.own_instances = 2;
        config.policy.defaults.quotas.bytes = 40 * 4096 + 2 * limits::OWN_BYTES;
        let world = World::with(config);
        let (oracle, members, links) = (Oracle::default(), Vec::new(), BTreeMap::new());
        Self {
            world,
            dice: Dice(seed),
            oracle,
            members,
            links,
            compared: BTreeMap::new(),
            awaited: BTreeMap::new(),
            received: BTreeMap::new(),
            begun: BTreeSet::new(),
            reruns: 0,
            refused: 0,
            deadlocks: 0,
            pending: BTreeMap::new(),
            answered: BTreeSet::new(),
            ready: BTreeSet::new(),
            imports: 0,
            observed: 0,
            promises: 0,
            gated: 0,
            gates: BTreeMap::new(),
            rings: 0,
            binds: 0,
            entries: 0,
            memories: 0,
            held_up: 0,
        }
    }

    fn step(&mut self) {
        self.choose_pace();
        match self.dice.below(192) {
            0..5 => self.connect(),
            5..7 => self.hang_up(),
            7..15 => self.create(),
            15..18 => self.close_object(),
            18..24 => self.open_queue(),
            24..26 => self.close_queue(),
            26..56 => self.submit(),
            56..78 => self.run_a_job(),
            78..90 => self.hear_a_driver(),
            90..92 => self.kill_a_driver(),
            92..95 => self.close_an_export(),
            95..98 => self.pass_time(),
            98..100 => self.world.apply(Input::ExportHint { object: None }),
            100..110 => self.commit_some(),
            110..122 => self.import(),
            122..125 => self.export(),
            125..130 => self.observe(),
            130..131 => self.end_a_porter(),
            131..132 => self.tamper(),
            132..150 => self.promise_something(),
            150..172 => self.ring_something(),
            172..184 => self.own_something(),
            _ => {
                self.finish_some(3);
            }
        }
        self.hear_answers();
        self.bury();
        self.bound_memory_lives();
    }

    fn connect(&mut self) {
        if self.members.len() >= 5 {
            return;
        }
        let domain = if self.dice.one_in(3) { OTHER_DOMAIN } else { DOMAIN };
        let link = self.world.client_of(domain);
        self.members.push(Member {
            link,
            domain,
            objects: Vec::new(),
            porter: None,
            queues: Vec::new(),
            rings: Vec::new(),
            stages: Vec::new(),
        });
    }

    fn some_member(&mut self) -> Option<usize> {
        let count = self.members.len() as u64;
        (count > 0).then(|| usize::try_from(self.dice.below(count)).expect("small"))
    }

    fn hang_up(&mut self) {
        if let Some(place) = self.some_member() {
            let member = self.members.swap_remove(place);
            self.world.hang_up(member.link);
        }
    }

    fn close_queue(&mut self) {
        let Some(place) = self.some_member() else { return };
        let Some((queue, key, _)) = self.dice.pick(&self.members[place].queues) else { return };
        let member = &mut self.members[place];
        member.queues.retain(|(_, other, _)| *other != key);
        let done = self.world.ask(member.link, CloseQueue { queue });
        assert_eq!(done, Some(ClientMessage::Done(Done {})));
    }

    /// Submits a batch of a few jobs, some of them wrong, and holds what the drivers got against the oracle.
    fn submit(&mut self) {
        let Some(place) = self.some_member() else { return };
        if self.members[place].queues.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        let mut planned = Vec::new();
        let mut gates = BTreeMap::new();
        for _ in 0..=self.dice.below(6) {
            let Some((queue, timeline, last)) = self.dice.pick(&self.members[place].queues) else { return };
            let before = planned.iter().filter(|job: &&Accepted| job.timeline == timeline).count() as u64;
            let point = last + before + 1;
            let (more, job) = self.random_job(place, batch.job(queue, point), (timeline, point), &planned);
            let (more, own) = self.random_gates(place, more);
            batch = more;
            gates.insert((timeline, Point(point)), own);
            planned.push(job);
        }
        let is_wrong = self.dice.one_in(12);
        if is_wrong {
            batch = batch.op(99);
        }
        let answer = self.world.ask(self.members[place].link, batch.0);
        self.gates.extend(gates);
        let Some(answer) = answer else { return self.consumed(place, planned, false) };
        let ClientMessage::Refused(refused) = answer else { panic!("{answer:?}") };
        self.refused += 1;
        match refused.code {
            ErrorCode::NoSuchOperation if is_wrong => self.consumed(place, planned, true),
            ErrorCode::Deadlock => {
                let mut oracle = self.oracle.clone();
                planned.iter().cloned().for_each(|job| oracle.accept(job));
                let awaits_itself = |job: &Accepted| {
                    job.explicit.iter().any(|(line, point, _)| *line == job.timeline && *point >= job.point)
                };
                let is_closed = oracle.has_cycle(|line, point| self.is_cancelled(line, point));
                assert!(is_closed || planned.iter().any(awaits_itself), "no cycle: {refused:?}");
                self.deadlocks += 1;
                self.consumed(place, planned, true);
            }
            ErrorCode::Exhausted if refused.cause.0 != 0 => self.consumed(place, planned, true),
            // What is waited for is not promised, of another domain, or on its way.
            ErrorCode::BadPoint | ErrorCode::Denied | ErrorCode::NotReady if refused.cause.0 != 0 => {
                self.consumed(place, planned, true);
            }
            ErrorCode::Exhausted => {}
            ErrorCode::Gone => {
                // Nobody may wait for ever for the points on the queues that are left.
                let is_gone = |job: &Accepted| self.world.truth.dead_from.contains_key(&job.timeline);
                let left = planned.into_iter().filter(|job| !is_gone(job)).collect();
                self.consumed(place, left, true);
                self.close_gone_queues(place);
            }
            other => panic!("{other:?}: {refused:?}"),
        }
    }

    fn random_job(
        &mut self,
        place: usize,
        batch: Batch,
        (timeline, point): (TimelineKey, u64),
        planned: &[Accepted],
    ) -> (Batch, Accepted) {
        let (batch, touches) = self.random_touches(place, batch, timeline);
        let (mut batch, explicit) = self.random_waits(place, batch, timeline, planned);
        let (skips_implicit, runs_anyway) = (self.dice.one_in(8), self.dice.one_in(8));
        if skips_implicit {
            batch = batch.flags(JOB_EXPLICIT);
        }
        if runs_anyway {
            batch = batch.flags(JOB_RUN_ANYWAY);
        }
        let once = self.dice.one_in(4);
        if once {
            batch = batch.op(ONCE);
        }
        let (point, ended) = (Point(point), None);
        let job = Accepted { timeline, point, touches, explicit, skips_implicit, runs_anyway, once, ended };
        (batch, job)
    }

    fn random_touches(
        &mut self,
        place: usize,
        mut batch: Batch,
        timeline: TimelineKey,
    ) -> (Batch, Vec<Touch>) {
        let mut touches = Vec::new();
        let ready = self.ready_of(place);
        for _ in 0..self.dice.below(4) {
            let Some(held) = self.dice.pick(&ready) else { break };
            let (handle, object) = Self::handle_of(&held);
            let start = self.dice.below(8) * 64;
            let bytes = start..start + 64 * (1 + self.dice.below(4));
            let range = bytes.clone();
            let how = match self.dice.below(4) {
                _ if !self.may_write(&held, timeline) => How::Read,
                0 => How::Update,
                1 | 2 => How::Replace,
                _ => How::Read,
            };
            batch = match how {
                How::Read => batch.reads(handle, range),
                How::Update => batch.updates(handle, range),
                How::Replace => batch.writes(handle, range),
            };
            touches.push(Touch { object, bytes, how });
            if self.dice.one_in(5)
                && let Some((cells, object)) = self.dice.pick(&ready).map(|held| Self::handle_of(&held))
            {
                let at = self.dice.below(8) * 64;
                batch = batch.indirect(cells, at, 3);
                touches.push(Touch { object, bytes: at..at + 64, how: How::Read });
            }
        }
        (batch, touches)
    }

    fn random_waits(
        &mut self,
        place: usize,
        mut batch: Batch,
        own: TimelineKey,
        planned: &[Accepted],
    ) -> (Batch, Vec<(TimelineKey, Point, WaitKind)>) {
        let mut explicit = Vec::new();
        if self.dice.one_in(9)
            && let Some((queue, timeline, last)) = self.dice.pick(&self.members[place].queues)
            && (timeline != own || self.dice.one_in(10))
        {
            // A point that is still to come, perhaps in this batch.
            let point = last + 1 + self.dice.below(4);
            let kind = if self.dice.one_in(2) { WaitKind::Data } else { WaitKind::Order };
            let until = self.world.now.after((1 + self.dice.below(300)) * MS);
            batch = batch.waits_for(TimelineHandle(queue.0), point, kind, Some(until));
            explicit.push((timeline, Point(point), kind));
        }
        if self.dice.one_in(5)
            && let Some((queue, timeline, last)) = self.dice.pick(&self.members[place].queues)
        {
            let promised = last + planned.iter().filter(|job| job.timeline == timeline).count() as u64;
            if promised > 0 {
                let point = 1 + self.dice.below(promised);
                let kind = if self.dice.one_in(2) { WaitKind::Data } else { WaitKind::Order };
                batch = batch.waits(queue, point, kind);
                explicit.push((timeline, Point(point), kind));
            }
        }
        (batch, explicit)
    }

    /// The batch's points are promised: hold what the drivers got against the oracle.
    fn consumed(&mut self, place: usize, planned: Vec<Accepted>, is_refused: bool) {
        let mut got = self.newly_received();
        for mut job in planned {
            let key = (job.timeline, job.point);
            if is_refused {
                (job.touches, job.explicit) = (Vec::new(), Vec::new());
            }
            match got.remove(&key) {
                None => {
                    assert!(!self.is_served(job.timeline), "every job reaches its driver: {job:?}");
                    let required = self.oracle.required(&job);
                    self.awaited.insert(key, Awaited { job: job.clone(), required, is_refused });
                }
                Some(received) => {
                    if is_refused {
                        assert_eq!(received.failed().map(|failure| failure.code), Some(ErrorCode::Refused));
                        assert_eq!((received.operands.len(), received.waits.len()), (0, 0));
                    } else {
                        self.compare(&job, &received);
                    }
                    let gates = received.waits.iter().filter(|wait| wait.flags & WAIT_PROMISE != 0);
                    self.gated += gates.count() as u64;
                    self.received.insert(key, received);
                }
            }
            let queues = &mut self.members[place].queues;
            let queue =
                queues.iter_mut().find(|queue| queue.1 == job.timeline).expect("a queue of the client");
            queue.2 += 1;
            self.oracle.accept(job);
        }
        assert!(got.is_empty(), "jobs that nobody submitted: {got:?}");
        let has_cycle = self.oracle.has_cycle(|line, point| self.may_be_cancelled(line, point));
        assert!(!has_cycle, "jobs that wait for each other");
    }

    /// Whether the driver of a job was told to cancel it.
    fn is_cancelled(&self, timeline: TimelineKey, point: Point) -> bool {
        let cancelled = self.world.drivers.values().flat_map(|driver| &driver.cancelled);
        cancelled.into_iter().any(|(line, of, _)| (*line, *of) == (timeline, point))
    }

    /// The same, or an heir got it as one that has failed, or will.
    fn may_be_cancelled(&self, timeline: TimelineKey, point: Point) -> bool {
        let received = self.received.get(&(timeline, point));
        self.is_cancelled(timeline, point)
            || !self.is_served(timeline)
            || received.is_some_and(|received| received.failed().is_some())
    }

    fn newly_received(&mut self) -> BTreeMap<(TimelineKey, Point), Received> {
        let mut got = BTreeMap::new();
        for (id, driver) in &self.world.drivers {
            let seen = self.compared.entry(*id).or_default();
            for received in &driver.history[*seen..] {
                got.insert((received.job.queue, received.job.point), received.clone());
            }
            *seen = driver.history.len();
        }
        got
    }

    fn compare(&self, job: &Accepted, received: &Received) {
        let required = self.oracle.required(job);
        let points = |kind: WaitKind| {
            received
                .waits
                .iter()
                .filter(move |wait| wait.kind == kind && wait.flags & WAIT_PROMISE == 0)
                .map(|wait| (wait.timeline, wait.point))
        };
        assert_eq!(points(WaitKind::Data).collect::<BTreeSet<_>>(), required.data, "data waits of {job:?}");
        assert_eq!(
            points(WaitKind::Order).collect::<BTreeMap<_, _>>(),
            required.order,
            "order waits of {job:?}"
        );
        let gates = received.waits.iter().filter(|wait| wait.flags & WAIT_PROMISE != 0);
        assert_eq!(
            received.waits.len() - gates.clone().count(),
            required.data.len() + required.order.len(),
            "a wait said twice: {job:?}"
        );
        let wanted = self.gates.get(&(job.timeline, job.point)).map(Vec::as_slice).unwrap_or_default();
        let delivered = gates.clone().count();
        let is_wanted = |wait: &DriverWait| {
            wanted.iter().any(|gate| (gate.timeline, gate.point) == (wait.timeline, wait.point))
        };
        assert!(gates.clone().all(is_wanted), "a gate that nobody asked for: {received:?}");
        let ended = wanted.len() - delivered;
        match received.failed() {
            // The promise had failed already.
            Some(_) if ended > 0 => {}
            Some(failure) => assert!(required.failed.contains(&failure), "{failure:?} of {job:?}"),
            None => {
                assert!(required.failed.is_empty(), "{job:?} must fail with one of {:?}", required.failed)
            }
        }
    }

    fn close_gone_queues(&mut self, place: usize) {
        let member = &mut self.members[place];
        let is_gone = |timeline: &TimelineKey| self.world.truth.dead_from.contains_key(timeline);
        let (gone, alive) =
            std::mem::take(&mut member.queues).into_iter().partition(|queue| is_gone(&queue.1));
        member.queues = alive;
        let (gone, link): (Vec<(QueueHandle, TimelineKey, u64)>, LinkId) = (gone, member.link);
        for (queue, ..) in gone {
            assert_eq!(self.world.ask(link, CloseQueue { queue }), Some(ClientMessage::Done(Done {})));
        }
    }

    fn run_a_job(&mut self) {
        let heads = self.heads();
        let Some(timeline) = self.dice.pick(&heads) else { return };
        let code = self.dice.one_in(6).then_some(ErrorCode::CorruptInput);
        self.world.try_run(timeline, code);
    }

    fn heads(&self) -> Vec<TimelineKey> {
        let lines = self.world.drivers.values().flat_map(|driver| &driver.lines);
        lines.filter(|(_, line)| !line.jobs.is_empty()).map(|(timeline, _)| *timeline).collect()
    }

    /// A driver says some of what it has to say.
    fn hear_a_driver(&mut self) {
        let ids: Vec<InstanceId> = self.world.drivers.keys().copied().collect();
        let Some(id) = self.dice.pick(&ids) else { return };
        let most = 1 + self.dice.below(4);
        self.hear(id, most);
    }

    fn hear(&mut self, id: InstanceId, most: u64) -> bool {
        let link = self.links.entry(id).or_default();
        if let Some(driver) = self.world.drivers.get_mut(&id) {
            link.extend(driver.flush());
        }
        let count = usize::try_from(most).expect("small").min(link.len());
        let messages: Vec<DriverMessage> = link.drain(..count).collect();
        for message in messages {
            if let DriverMessage::Complete(complete) = &message {
                for ended in &complete.completions {
                    let how = ended.failure().map_or(Ok(()), Err);
                    self.oracle.end(ended.timeline, ended.point, how);
                }
            }
            self.world.say(id, message);
        }
        count > 0
    }

    fn kill_a_driver(&mut self) {
        let ids: Vec<InstanceId> = self.world.drivers.keys().copied().collect();
        if let Some(id) = self.dice.pick(&ids) {
            self.die(id);
        }
    }

    fn close_an_export(&mut self) {
        let open: Vec<ObjectKey> =
            self.world.memory.iter().filter(|(_, memory)| memory.exports > 0).map(|(key, _)| *key).collect();
        let Some(object) = self.dice.pick(&open) else { return };
        self.world.memory.get_mut(&object).expect("it was just found").exports -= 1;
        if !self.dice.one_in(3) {
            self.world.apply(Input::ExportHint { object: Some(object) });
        }
    }

    fn pass_time(&mut self) {
        if self.dice.one_in(3) {
            // The first deadlines are most often of something small; jobs are late after seconds.
            for _ in 0..=self.dice.below(4) {
                self.world.wait_for_deadline();
            }
        } else {
            let ms = self.dice.below(400);
            self.world.wait_ms(ms);
        }
    }

    /// Everybody goes, everything ends, and the broker is as it was.
    fn end(mut self) {
        if self.dice.one_in(2) {
            self.rings_when_quiet();
        }
        self.world.hold = |_| false;
        (self.world.clients_read, self.world.close_exports) = (true, true);
        for member in std::mem::take(&mut self.members) {
            self.world.hang_up(member.link);
        }
        self.world.memory.values_mut().for_each(|memory| memory.exports = 0);
        self.world.apply(Input::ExportHint { object: None });
        for rounds in 0.. {
            assert!(rounds < 10_000, "it never becomes quiet: {}", self.world.broker.digest());
            let mut moved = self.finish_some(u64::MAX);
            for porter in self.world.porters.keys().copied().collect::<Vec<_>>() {
                self.world.end_porter(porter);
                moved = true;
            }
            for timeline in self.heads() {
                moved |= self.world.try_run(timeline, None);
            }
            for id in self.world.drivers.keys().copied().collect::<Vec<_>>() {
                moved |= self.hear(id, u64::from(u32::MAX));
            }
            if !moved && !self.world.wait_for_deadline() && !self.release_one() {
                break;
            }
            self.bury();
        }
        assert_eq!(self.oracle.unfinished(), 0, "every accepted job has ended");
        assert_eq!(self.world.broker.ledger(), Self::new(0).world.broker.ledger(), "the broker is as it was");
        assert!(self.world.drivers.is_empty() && self.world.memory.is_empty());
        assert!(self.world.porters.is_empty() && self.world.arrivals.is_empty());
        assert_eq!(self.world.pairs.len(), self.world.broker.ledger().pairs);
    }
}

/// Steps of a history.
const STEPS: u64 = 1000;

/// Says which seed was at work when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history was made from VGEM_MODEL_SEED={}", self.0);
        }
    }
}

/// Runs one history; gives the number of jobs, refused batches, imports, answers to
/// Observe, timelines, waits for promises, cycles, jobs that ran again, rings, ranges, entries, memories of clients and
/// instances that those held up in it.
fn run(seed: u64, steps: u64) -> [u64; 13] {
    let _told = Seed(seed);
    let mut model = Model::new(seed);
    for _ in 0..steps {
        model.step();
    }
    let jobs = model.world.broker.counters().jobs;
    let Model { refused, imports, observed, promises, gated, deadlocks, reruns, .. } = model;
    let Model { rings, binds, entries, memories, held_up, .. } = model;
    let [first, second] =
        [[jobs, refused, imports, observed, promises], [gated, deadlocks, reruns, rings, binds]];
    let mut told = [0; 13];
    told.iter_mut()
        .zip(first.into_iter().chain(second).chain([entries, memories, held_up]))
        .for_each(|(to, from)| *to = from);
    model.end();
    told
}

// M-062
#[test]
fn every_job_waits_for_exactly_what_it_must_and_everything_comes_back() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("VGEM_MODEL_SEED") {
        run(seed, STEPS);
        return;
    }
    let mut seen = [0; 13];
    for seed in 0..number("VGEM_MODEL_HISTORIES").unwrap_or(40) {
        for (sum, told) in seen.iter_mut().zip(run(seed, STEPS)) {
            *sum += told;
        }
    }
    let least = [3000, 100, 200, 200, 200, 100, 20, 50, 80, 60, 40, 40, 5];
    let enough = seen.iter().zip(least).all(|(seen, least)| *seen >= least);
    assert!(
        enough,
        "histories of {seen:?} jobs, refusals, imports, observations, timelines, promises, cycles, reruns, rings, ranges, \
         entries, memories and instances held up show too little"
    );
}
