//! Succession: what becomes of the queues of an instance that the broker ended because one job took too long (F9).
//!
//! ```text
//!   a job is late ─► killed ─► gone: settled, the guilty job fails, an heir is entered ─► (pause) ─► started ─► Ready
//!                                    └──────────── the estate waits in the tables ─────────────────────────┘   │
//!     its pages, the timelines as they stand, their places, the objects, the jobs that are left ◄──────────────┘
//! ```
//!
//! The heir is another process and another instance, but it takes over the queues, and with them their timelines,
//! slots and pages, under the numbers that they had: who observes them notices nothing. That is safe because the
//! dead process is gone for sure: a page still has one writer. Nothing is put aside for the heir. From the moment
//! that its predecessor is gone the tables name the heir, batches are accepted and planned as always, and nothing
//! is sent to an instance that is not ready; when it is, it is told what the tables say then.
//!
//! **Which jobs run again.** Of a job that was sent to the dead instance nobody knows how far it came, so it runs
//! again only if that does no harm:
//! - its operation must be idempotent, as the device describes it. A job of any other operation fails, also if it
//!   cannot have begun: such operations leave something behind that later jobs build on, and the client that is told
//!   of the first must be told of all of them;
//! - if it may have begun, its own writes must not have changed what it reads. A job that updates a range would
//!   update it twice, and one that replaces a range that it also reads (as an operand or as a cell) would read
//!   its own output;
//! - it must not write a sealed result: only the mapping that died could.
//!
//! A job cannot have begun before every job of its queue that comes first has been signalled, which the guilty one
//! never was, nor before everything it waits for has. The broker may not know of a signal yet; the pages do, so the
//! shell reads those that the dead instance observed ([`Seen`]).
//!
//! Nobody else can have spoiled a job's operands meanwhile: whoever writes them waits for the job's point, which was
//! not signalled, or has said that it does not care (`JOB_EXPLICIT`), and raced with the first run as well.
//!
//! The others fail with Cancelled and the guilty job's cause, in their turn; that poisons what they were to write, so
//! whoever depends on them by data fails likewise. Jobs that were accepted after the death, or were never sent, run as
//! always. The clocks of all jobs start when the heir has them (F8).
//!
//! **What ends it.** A queue whose own jobs took too long as often as `hang_limit` says is gone, and all its jobs
//! fail. There is no heir if no queue goes on, or if the device was lost so often that it counts as failed. An heir
//! that cannot be started, or ends before it is ready, takes the estate with it, as a crash does (L4).
//!
//! Invariants: an instance that is not ready has queues only if it has an estate, or is ending; no driver is told of a
//! page, slot, timeline or object twice.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::codec::Zero;
use vgem_proto::describe::PUBLISH;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{InstanceId, ObjectKey, PageId, Point, Time, TimelineKey};
use vgem_proto::jobs::{
    DriverJob, DriverOperand, DriverParam, DriverWait, OPERAND_INDIRECT, PAGE_LOCAL, ParamSource,
    PointFailure,
};
use vgem_proto::layout::fence_page;
use vgem_proto::message::driver::{Boost, ObservePage, OpenTimeline, Publish, SignalPage};
use vgem_proto::rights::{Access, WaitKind};

use crate::batch::take;
use crate::broker::Broker;
use crate::devices::Instance;
use crate::io::{Attach, Effect, Event, PairId, Seen};
use crate::objects::{Kind, Mapping, MappingState};
use crate::pairs::Party;
use crate::queues::{Queue, QueueState, Shown, Use};
use crate::runs::Runs;
use crate::sent::{Kept, Room};
use crate::submit::tombstone;

/// What became of the jobs that an instance left to its heir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Estate {
    /// Jobs that run again.
    again: u64,
    /// Jobs that cannot.
    cancelled: u64,
}

/// What is known of the last moment of an instance.
pub(crate) struct Last<'a> {
    /// How far it had come in its queues.
    pub(crate) signalled: BTreeMap<TimelineKey, Point>,
    /// What it could see.
    pub(crate) seen: &'a [Seen],
    /// What its jobs fail with that cannot run again.
    pub(crate) failure: Failure,
}

/// What decides whether a job may have begun.
struct Sight {
    signalled: BTreeMap<TimelineKey, Point>,
    /// Generation and value in the slots that the dead instance observed, by its number of the page and the slot.
    values: BTreeMap<(PageId, u16), (u32, Point)>,
}

/// A job of an instance that is gone, as it was sent.
struct Left<'a> {
    job: &'a DriverJob,
    operands: &'a [DriverOperand],
    params: &'a [DriverParam],
    waits: &'a [DriverWait],
    uses: Vec<Use>,
    /// Whether the instance was sent it.
    told: bool,
}

/// What becomes of it.
enum Fate {
    /// It is sent as it was, but for waits that are over.
    Runs { waits: Vec<DriverWait> },
    /// It ends with this failure; `is_new` if that is a consequence of the end of the instance.
    Fails { failure: Failure, is_new: bool },
}

// An instance is gone.
impl Broker {
    /// Enters the heir of an instance that is gone, to which these queues are left.
    pub(crate) fn bequeath(&mut self, dead: &mut Instance, queues: &[TimelineKey], last: Last<'_>) {
        let id = self.enter_instance(dead.device, dead.domain, dead.own.take());
        self.rename_pairs(id, dead);
        for key in queues {
            self.rename_queue(id, *key);
        }
        let owed = |key: &TimelineKey| self.queues.get(*key).map_or(0, |queue| queue.owed.amount());
        let in_flight = queues.iter().map(owed).sum::<u64>();
        let Some(heir) = self.instances.get_mut(&id) else { return };
        heir.queues = queues.to_vec();
        heir.in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
        heir.signals = std::mem::take(&mut dead.signals);
        heir.observes = std::mem::take(&mut dead.observes);
        heir.dead_pages = std::mem::take(&mut dead.dead_pages);
        heir.signal_numbers = std::mem::take(&mut dead.signal_numbers);
        heir.observe_numbers = std::mem::take(&mut dead.observe_numbers);
        heir.estate = Some(Estate::default());
        let pairs = heir.signals.clone();
        let estate = self.leave_jobs(id, dead, last);
        if let Some(heir) = self.instances.get_mut(&id) {
            heir.estate = Some(estate);
        }
        for pair in pairs {
            self.drop_unseen_pair(pair);
        }
        self.drop_quiet_pages(id);
    }

    /// The pairs in which the dead instance signalled or looked are its heir's.
    fn rename_pairs(&mut self, heir: InstanceId, dead: &Instance) {
        for id in &dead.signals {
            if let Some(pair) = self.pairs.get_mut(*id) {
                pair.signaller = Party::Instance(heir);
            }
        }
        for id in dead.observes.iter().chain(&dead.dead_pages) {
            let Some(pair) = self.pairs.get_mut(*id) else { continue };
            let (old, new) = (pair.observer, Party::Instance(heir));
            pair.observer = new;
            for (_, timeline) in self.pairs.shown_in(*id) {
                let of_queue = self.queues.get_mut(timeline).map(|queue| &mut queue.shown);
                let places =
                    of_queue.or_else(|| self.promises.get_mut(timeline).map(|promises| &mut promises.shown));
                if let Some(places) = places
                    && let Some(shown) = places.remove(old)
                {
                    places.add(Shown { observer: new, ..shown });
                }
            }
        }
    }

    /// A queue's jobs are its heir's to signal, also in the reservations of what they use.
    fn rename_queue(&mut self, heir: InstanceId, key: TimelineKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.instance = heir;
        queue.jobs.iter_mut().for_each(|job| job.unblocked = false);
        let objects: BTreeSet<(u32, u32)> =
            queue.uses.iter().map(|used| (used.object.index, used.object.generation)).collect();
        for (index, generation) in objects {
            if let Some(object) = self.objects.get_mut(ObjectKey { index, generation }) {
                object.reservation.rename(key, heir);
            }
        }
    }

    /// Decides on every job that the dead instance left, and keeps them for its heir.
    fn leave_jobs(&mut self, heir: InstanceId, dead: &mut Instance, last: Last<'_>) -> Estate {
        let Last { signalled, seen, failure } = last;
        let values = seen.iter().map(|seen| ((seen.page, seen.slot), (seen.generation, seen.value)));
        let sight = Sight { signalled, values: values.collect() };
        let mut estate = Estate::default();
        let mut runs = Runs::default();
        // The jobs of a queue come in order, and so do their uses.
        let mut used = BTreeMap::<TimelineKey, usize>::new();
        for Kept { run, told, .. } in dead.sent.take_all() {
            let (mut operands, mut params, mut waits) =
                (run.operands.as_slice(), run.params.as_slice(), run.waits.as_slice());
            for job in &run.jobs {
                let (operands, params, waits) = (
                    take(&mut operands, job.operands),
                    take(&mut params, job.params),
                    take(&mut waits, job.waits),
                );
                let owner = self.queues.get(job.queue).filter(|queue| queue.instance == heir);
                let Some((queue, known)) = owner.and_then(|q| q.job(job.point).map(|job| (q, job))) else {
                    continue;
                };
                let first = used.entry(job.queue).or_default();
                let uses = queue.uses.iter().skip(*first).take(usize::from(known.uses)).copied().collect();
                *first += usize::from(known.uses);
                let left = Left { job, operands, params, waits, uses, told };
                let fate = self.fate_of(&left, queue, &sight, failure);
                estate.count(told, &fate);
                let to = (heir, Room::default);
                let number = match fate {
                    Fate::Runs { waits } => {
                        let waiting = u16::try_from(waits.len()).unwrap_or(u16::MAX);
                        let job = DriverJob { waits: waiting, ..*job };
                        let records = (left.operands, left.params, waits.as_slice());
                        runs.add(&mut self.instances, to, job, records, &run.bytes, &mut self.out)
                    }
                    Fate::Fails { failure, .. } => {
                        let job = tombstone(job.queue, job.point, failure);
                        runs.add(&mut self.instances, to, job, (&[], &[], &[]), &[], &mut self.out)
                    }
                };
                let job = self.queues.get_mut(job.queue).and_then(|queue| queue.job_mut(job.point));
                if let (Some(job), Some(number)) = (job, number) {
                    job.run = number;
                }
            }
        }
        runs.finish(&mut self.instances, &mut self.out);
        estate
    }

    fn fate_of(&self, left: &Left<'_>, queue: &Queue, sight: &Sight, failure: Failure) -> Fate {
        if left.job.failed_code != 0 {
            let code = ErrorCode::from_number(left.job.failed_code);
            let failure = Failure { code, cause: left.job.failed_cause };
            return Fate::Fails { failure, is_new: false };
        }
        let mut waits = Vec::with_capacity(left.waits.len());
        for wait in left.waits {
            let awaited = self.queues.get(wait.timeline);
            let has_ended = awaited.is_none_or(|awaited| awaited.ended >= wait.point);
            let goes_on = awaited.is_some_and(|awaited| awaited.instance == queue.instance);
            if wait.page != PAGE_LOCAL || goes_on && !has_ended {
                waits.push(*wait);
                continue;
            }
            // What the dead instance knew of its own timelines its heir will not.
            if !has_ended {
                // Nobody will ever submit it.
                return Fate::Fails { failure, is_new: true };
            }
            let inherited = self.outcome_of(wait.timeline, wait.point);
            if let Some(failure) = inherited.filter(|_| wait.kind == WaitKind::Data) {
                return Fate::Fails { failure, is_new: true };
            }
        }
        if self.writes_sealed(&left.uses) || left.told && !self.may_run_again(left, queue, sight) {
            return Fate::Fails { failure, is_new: true };
        }
        Fate::Runs { waits }
    }

    fn writes_sealed(&self, uses: &[Use]) -> bool {
        uses.iter().filter(|used| used.touching.writes()).any(|used| {
            self.objects.get(used.object).is_some_and(|object| matches!(object.kind, Kind::Sealed(_)))
        })
    }

    /// Whether a job that was sent to an instance that is gone may be sent to another (the rules are above).
    fn may_run_again(&self, left: &Left<'_>, queue: &Queue, sight: &Sight) -> bool {
        if left.job.op == PUBLISH {
            // It does nothing, however often.
            return true;
        }
        let operations = self.devices.get(queue.device).map(|device| &device.description);
        let operation = operations.and_then(|description| description.by_number(left.job.op));
        if operation.is_none_or(|operation| !operation.idempotent) {
            return false;
        }
        let is_first = sight.signalled.get(&left.job.queue).is_some_and(|last| last.next() == left.job.point);
        let may_have_begun = is_first && left.waits.iter().all(|wait| self.has_passed(wait, sight));
        !may_have_begun || !reads_what_it_writes(&left.uses)
    }

    /// Whether a wait of an instance that is gone may have passed before it ended.
    fn has_passed(&self, wait: &DriverWait, sight: &Sight) -> bool {
        if wait.page == PAGE_LOCAL {
            // What has failed only now, because the instance ended, does not count.
            return sight.signalled.get(&wait.timeline).is_none_or(|last| *last >= wait.point);
        }
        self.has_ended(wait.timeline, wait.point)
            || match sight.values.get(&(PageId(u32::from(wait.page)), wait.slot)) {
                Some((generation, value)) => *generation == wait.timeline.generation && *value >= wait.point,
                // Nobody can say.
                None => true,
            }
    }
}

/// Whether a job's writes change what it reads.
fn reads_what_it_writes(uses: &[Use]) -> bool {
    let written = || uses.iter().filter(|used| used.touching.writes());
    uses.iter().filter(|used| used.touching.reads()).any(|read| {
        read.touching.writes()
            || written().any(|write| write.object == read.object && write.range.overlaps(read.range))
    })
}

impl Estate {
    fn count(&mut self, told: bool, fate: &Fate) {
        match fate {
            Fate::Runs { .. } if told => self.again += 1,
            Fate::Fails { is_new: true, .. } => self.cancelled += 1,
            Fate::Runs { .. } | Fate::Fails { .. } => {}
        }
    }
}

// Its heir is ready.
impl Broker {
    /// An instance is ready: if it is an heir it is told all that it takes over, as it is now.
    pub(crate) fn take_over(&mut self, now: Time, id: InstanceId) {
        let Some(heir) = self.instances.get_mut(&id) else { return };
        let Some(estate) = heir.estate.take() else { return };
        let (signals, queues) = (heir.signals.clone(), heir.queues.clone());
        let observes: Vec<PairId> = heir.observes.iter().chain(&heir.dead_pages).copied().collect();
        for pair in signals {
            if let Some(numbers) = self.pairs.get(pair).and_then(|pair| pair.numbers) {
                self.tell_driver_with(id, SignalPage { page: numbers.signal }, Attach::Signaller(pair));
            }
        }
        for pair in observes {
            if let Some(numbers) = self.pairs.get(pair).and_then(|pair| pair.numbers) {
                self.tell_driver_with(id, ObservePage { page: numbers.observe }, Attach::Observer(pair));
            }
        }
        for key in &queues {
            match self.queues.get(*key) {
                Some(queue) if queue.state == QueueState::Closing && queue.jobs.is_empty() => {
                    self.remove_queue(now, *key);
                }
                Some(_) | None => self.open_again(id, *key),
            }
        }
        self.fail_cancelled(id, &queues);
        self.map_for_jobs(id);
        let numbers = self.instances.get_mut(&id).map(|heir| heir.sent.tell_all()).unwrap_or_default();
        self.out.extend(numbers.into_iter().map(|number| Effect::Run { instance: id, number }));
        queues.iter().for_each(|key| self.lend_again(id, *key));
        for key in queues {
            self.look_at_head(now, key);
        }
        let Estate { again: jobs, cancelled } = estate;
        let device = self.instances.get(&id).and_then(|heir| self.devices.get(heir.device));
        let Some(device) = device.map(|device| device.name().to_owned()) else { return };
        if jobs + cancelled > 0 {
            let domain = self.instances.get(&id).map(|heir| heir.domain);
            self.log(domain, Event::JobsRunAgain { instance: id.0, device, jobs, cancelled });
        }
    }

    /// Has an heir go on with a timeline where it stands, and show it where it is shown.
    fn open_again(&mut self, id: InstanceId, key: TimelineKey) {
        let Some(queue) = self.queues.get(key) else { return };
        let failed = |(point, Failure { code, cause })| PointFailure { point, cause, code, reserved: Zero };
        let open = OpenTimeline {
            timeline: key,
            client: queue.client,
            domain: queue.domain,
            value: queue.ended,
            at: queue.ended_at,
            priority: queue.priority,
            reserved: Zero,
            failures: queue.failures.last(fence_page::FAILURES + 1).map(failed).collect(),
        };
        let places: Vec<(PairId, u16)> = queue.shown.iter().map(|shown| (shown.pair, shown.slot)).collect();
        self.tell_driver(id, open);
        for (pair, slot) in places {
            if let Some(numbers) = self.pairs.get(pair).and_then(|pair| pair.numbers) {
                self.tell_driver(id, Publish { timeline: key, page: numbers.signal, slot, reserved: Zero });
            }
        }
    }

    /// The priorities that a queue was lent and that still matter.
    fn lend_again(&mut self, id: InstanceId, timeline: TimelineKey) {
        let Some(queue) = self.queues.get(timeline) else { return };
        let (lent, ended) = (queue.lent, queue.ended);
        for (priority, point) in (1u8..).zip(lent).filter(|(_, point)| *point > ended) {
            self.tell_driver(id, Boost { timeline, point, priority, reserved: Zero });
        }
    }

    /// What clients cancelled while nobody could be told is not even begun.
    fn fail_cancelled(&mut self, id: InstanceId, queues: &[TimelineKey]) {
        let Some(heir) = self.instances.get_mut(&id) else { return };
        for key in queues {
            let Some(queue) = self.queues.get(*key) else { continue };
            for (point, failure) in &queue.cancels {
                if let Some(job) = queue.job(*point) {
                    heir.sent.fail(job.run, *key, *point, *failure);
                }
            }
        }
    }

    /// Sends an heir the objects that its jobs use.
    fn map_for_jobs(&mut self, id: InstanceId) {
        let mut needed = BTreeMap::<(u32, u32), Access>::new();
        let mut need = |key: ObjectKey, access: Access| {
            let known = needed.entry((key.index, key.generation)).or_insert(access);
            *known = (*known).max(access);
        };
        let Some(heir) = self.instances.get(&id) else { return };
        for run in heir.sent.runs() {
            for operand in &run.operands {
                need(operand.object, operand.access);
                if operand.flags & OPERAND_INDIRECT != 0 {
                    need(operand.cell_object, Access::Read);
                }
            }
            for param in run.params.iter().filter(|param| param.source == ParamSource::Cell) {
                need(param.cell_object, Access::Read);
            }
        }
        for ((index, generation), access) in needed {
            let key = ObjectKey { index, generation };
            let fits = |mapping: &Mapping| mapping.access >= access && mapping.state != MappingState::Failed;
            if !self.objects.get(key).and_then(|object| object.mapping(id)).is_some_and(fits) {
                self.map_object(id, key, access);
            }
        }
    }
}
