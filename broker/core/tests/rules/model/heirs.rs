//! Succession in random histories: what a dead driver leaves, and what its heir gets of it, held against what was sent
//! before and against the rules, which are said here once more and in another way.

use std::collections::BTreeSet;

use vgem_core::io::{Input, InstanceEnd, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, InstanceId, Point, TimelineKey};
use vgem_proto::jobs::{DriverWait, PAGE_LOCAL, WAIT_PROMISE};
use vgem_proto::rights::WaitKind;
use vgem_proto::snapshot::Topic;

use super::{Member, Model};
use crate::driver::Received;
use crate::oracle::{Accepted, How, Required, Touch};
use crate::world::World;

/// A job that was accepted and that no driver has got yet.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) job: Accepted,
    pub(super) required: Required,
    pub(super) is_refused: bool,
}

impl Model {
    /// Whether a driver takes the jobs of a queue now.
    pub(super) fn is_served(&self, timeline: TimelineKey) -> bool {
        self.world.drivers.values().any(|driver| !driver.killed && driver.lines.contains_key(&timeline))
    }

    /// An instance dies; what it said and nobody heard is lost, what it signalled is not.
    pub(super) fn die(&mut self, id: InstanceId) {
        let of = |member: &Member, line: &TimelineKey| {
            let queues = member.queues.iter().map(|queue| queue.1);
            queues.chain(member.rings.iter().map(|ring| ring.timeline)).any(|queue| queue == *line)
        };
        let is_closed = |line: &TimelineKey| !self.members.iter().any(|member| of(member, line));
        if self.world.late.contains(&id) && self.world.drivers[&id].lines.keys().any(is_closed) {
            // A closed queue that has nothing left goes with the driver, and with it what nobody else could tell.
            self.hear(id, u64::from(u32::MAX));
        }
        self.links.remove(&id);
        let driver = &self.world.drivers[&id];
        let lines: Vec<TimelineKey> = driver.lines.keys().copied().collect();
        for line in lines {
            if driver.may_have_begun(&self.world.truth, line) {
                self.begun.insert((line, driver.lines[&line].jobs[0].job.point));
            }
        }
        let timelines = driver.opened.clone();
        let entries: Vec<(TimelineKey, Point)> =
            driver.spaces.keys().map(|ring| (*ring, self.world.truth.value[ring])).collect();
        self.end_with(&timelines, |world| world.die(id, InstanceEnd::Exited(-9)));
        entries.into_iter().for_each(|(ring, value)| self.entries_stand(ring, value));
    }

    /// The keeper cannot start an instance.
    pub(super) fn fail_to_start(&mut self, instance: InstanceId) {
        self.end_with(&[], |world| world.apply(Input::InstanceFailed { instance, why: "no".into() }));
    }

    /// Notes every job that ends when `happens` does, of these timelines and of those that end then.
    fn end_with(&mut self, timelines: &[TimelineKey], happens: impl FnOnce(&mut World)) {
        let rings: Vec<_> = timelines.iter().map(|timeline| self.world.settled(*timeline)).collect();
        let dead: BTreeSet<TimelineKey> = self.world.truth.dead_from.keys().copied().collect();
        happens(&mut self.world);
        for (timeline, ring) in timelines.iter().zip(rings) {
            for point in self.oracle.open_points(*timeline) {
                let Some(mut how) = self.world.truth.look(*timeline, point) else { continue };
                if ring.forgets && point < ring.failures[0].0 {
                    // What the broker had not heard and no page shows any more: all of it has failed alike.
                    how = Err(self.failure_of(*timeline, Point(ring.failures[0].0.0 - 1)));
                }
                self.oracle.end(*timeline, point, how);
            }
        }
        let now_dead: Vec<_> =
            self.world.truth.dead_from.keys().filter(|key| !dead.contains(key)).copied().collect();
        for timeline in now_dead {
            for point in self.oracle.open_points(timeline) {
                let how = self.world.truth.look(timeline, point).expect("the dead leave nothing pending");
                self.oracle.end(timeline, point, how);
                self.awaited.remove(&(timeline, point));
            }
        }
    }

    /// How the broker says that a point failed.
    fn failure_of(&self, timeline: TimelineKey, point: Point) -> Failure {
        if let Some((_, failure)) = self.world.truth.dead_from.get(&timeline) {
            return *failure;
        }
        let told = self.world.broker.snapshot(Scope::All, Topic::Queues, 0, usize::MAX);
        let Entries::Queues(queues) = told.entries else { panic!("{told:?}") };
        let queue = queues.into_iter().find(|queue| queue.timeline == timeline.to_string());
        let failures = queue.expect("a queue that goes on").failures;
        let failure = failures.into_iter().find(|failure| failure.point == point.0).expect("it has failed");
        assert_eq!(failure.code, ErrorCode::Cancelled.name());
        let numbers = failure.cause.trim_start_matches("cause:").split_once('.').expect("issuer and counter");
        let (issuer, counter) = (numbers.0.parse().expect("a number"), numbers.1.parse().expect("a number"));
        Failure { code: ErrorCode::Cancelled, cause: CauseId::new(InstanceId(issuer), counter) }
    }

    /// Looks at all that drivers got since the last look and that no batch explains.
    pub(super) fn take_in(&mut self) {
        for (key, received) in self.newly_received() {
            let before = self.received.insert(key, received.clone());
            match (self.awaited.remove(&key), before) {
                (Some(awaited), None) => self.compare_late(awaited, &received),
                (None, Some(before)) => {
                    self.reruns += u64::from(received.failed().is_none());
                    let job = self.oracle.job(key).clone();
                    self.compare_again(&job, &before, &received);
                    self.begun.remove(&key);
                }
                (None, None) => panic!("a job that nobody submitted: {received:?}"),
                (Some(awaited), Some(_)) => panic!("got before, and still awaited: {awaited:?}"),
            }
        }
        let open = |key: &(TimelineKey, Point)| self.oracle.job(*key).ended.is_none();
        self.received.retain(|key, _| open(key));
    }

    /// A job that was accepted while its heir was awaited: as it was planned, but for what is over.
    fn compare_late(&self, Awaited { job, required, is_refused }: Awaited, received: &Received) {
        if is_refused {
            return assert_eq!(received.failed().map(|failure| failure.code), Some(ErrorCode::Refused));
        }
        if let Some(failure) = received.failed() {
            let inherited = required.data.iter().any(|(t, p)| self.failed_with(*t, *p, failure));
            let lost = failure.code == ErrorCode::Cancelled && self.writes_sealed(&job);
            let known = required.failed.contains(&failure) || inherited || lost || self.is_gated(&job);
            return assert!(known, "{failure:?} of {job:?}");
        }
        assert!(required.failed.is_empty(), "{job:?} must fail with one of {:?}", required.failed);
        assert!(!self.writes_sealed(&job), "the writer of {job:?} is gone");
        for wait in received.waits.iter().filter(|wait| wait.flags & WAIT_PROMISE == 0) {
            let wanted = match wait.kind {
                WaitKind::Data => required.data.contains(&(wait.timeline, wait.point)),
                WaitKind::Order => required.order.get(&wait.timeline) == Some(&wait.point),
            };
            assert!(wanted, "{wait:?} of {job:?}");
        }
        let kept = |t, p| received.waits.iter().any(|wait| (wait.timeline, wait.point) == (t, p));
        for (timeline, point) in required.data.iter().filter(|(t, p)| !kept(*t, *p)) {
            assert_eq!(
                self.world.truth.look(*timeline, *point),
                Some(Ok(())),
                "a data wait of {job:?} is lost"
            );
        }
        for (timeline, point) in required.order.iter().filter(|(t, p)| !kept(**t, **p)) {
            assert!(self.world.truth.look(*timeline, *point).is_some(), "an order wait of {job:?} is lost");
        }
    }

    /// A job that another driver had before.
    fn compare_again(&self, job: &Accepted, before: &Received, received: &Received) {
        let lost = |wait: &&DriverWait| {
            let key = |wait: &DriverWait| (wait.timeline, wait.point, wait.page, wait.slot);
            !received.waits.iter().any(|kept| key(kept) == key(wait))
        };
        let must_not = job.once || self.writes_sealed(job) || {
            self.begun.contains(&(job.timeline, job.point)) && reads_what_it_writes(&job.touches)
        };
        if let Some(failure) = received.failed() {
            let local = before.waits.iter().filter(|w| w.kind == WaitKind::Data && w.page == PAGE_LOCAL);
            let inherited = local.clone().any(|w| self.failed_with(w.timeline, w.point, failure));
            let cancelled = must_not && failure.code == ErrorCode::Cancelled;
            let known = before.failed() == Some(failure) || inherited || cancelled || self.is_gated(job);
            assert!(known, "{failure:?} of {job:?}");
            return assert_eq!((received.operands.len(), received.waits.len()), (0, 0));
        }
        assert!(!must_not, "{job:?} runs again");
        assert_eq!(before.failed(), None, "{job:?} had failed");
        assert!(received.operands == before.operands && received.params.len() == before.params.len());
        for wait in before.waits.iter().filter(lost) {
            let ended = self.world.truth.look(wait.timeline, wait.point);
            assert!(ended.is_some_and(|how| how.is_ok() || wait.kind == WaitKind::Order), "lost {wait:?}");
            assert_eq!(wait.page, PAGE_LOCAL, "lost {wait:?}");
        }
        assert!(received.waits.len() <= before.waits.len());
    }

    /// Whether a job may fail for a promise that was not kept, or not made, or a job that never came.
    fn is_gated(&self, job: &Accepted) -> bool {
        let gates = self.gates.get(&(job.timeline, job.point));
        gates.is_some_and(|gates| !gates.is_empty()) || self.oracle.awaits(job)
    }

    fn failed_with(&self, timeline: TimelineKey, point: Point, failure: Failure) -> bool {
        let told = self.oracle.ended((timeline, point)) == Some(Err(failure));
        told || self.world.truth.look(timeline, point) == Some(Err(failure))
    }

    fn writes_sealed(&self, job: &Accepted) -> bool {
        let is_sealed = |touch: &Touch| {
            self.world.memory.get(&touch.object).is_some_and(|memory| memory.sealed.is_some())
        };
        job.touches.iter().any(|touch| touch.how != How::Read && is_sealed(touch))
    }

    /// Buries those who were told to end; one whose job was late may take a while.
    pub(super) fn bury(&mut self) {
        loop {
            self.take_in();
            let killed = self.world.drivers.values().filter(|driver| driver.killed && !driver.hangs);
            let mut killed: Vec<InstanceId> = killed.map(|driver| driver.id).collect();
            killed.retain(|id| !self.world.late.contains(id) || !self.dice.one_in(3));
            if killed.is_empty() {
                break;
            }
            killed.into_iter().for_each(|id| self.die(id));
        }
        self.bury_porters();
        let in_flight: u64 = self.world.broker.ledger().domains.values().map(|usage| usage.jobs).sum();
        assert_eq!(in_flight, self.oracle.unfinished() as u64, "jobs in flight");
    }
}

/// Whether some byte that a job reads is one that it changes.
fn reads_what_it_writes(touches: &[Touch]) -> bool {
    let bytes =
        |touch: &Touch| touch.bytes.clone().map(|byte| (touch.object.index, byte)).collect::<Vec<_>>();
    let all = |reads: bool, writes: bool| -> BTreeSet<(u32, u64)> {
        let fits = |touch: &&Touch| match touch.how {
            How::Read => reads,
            How::Update => true,
            How::Replace => writes,
        };
        touches.iter().filter(fits).flat_map(bytes).collect()
    };
    !all(true, false).is_disjoint(&all(false, true))
}
