//! A driver instance made of plain data, which holds the broker to the rules of the driver link.
//!
//! It knows pages and slots as the broker told it, keeps the jobs of each queue, and runs the head of one when it
//! is told to and its fences allow it. What it signals is at once true for everybody ([`Truth`]); what it reports
//! to the broker is collected until it is flushed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vgem_core::io::{Attach, PairId};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, DeviceId, DomainId, InstanceId, ObjectKey, PageId, Point, Time, TimelineKey};
use vgem_proto::jobs::{Completion, DriverJob, DriverOperand, DriverParam, DriverWait, PAGE_LOCAL};
use vgem_proto::message::driver::{
    AskPoint, Bind, Bound, Cause, Complete, DriverMessage, Mapped, RingReady, Run, TimelineClosed, Unbound,
    Unmapped, WindowsSet,
};
use vgem_proto::rights::{Access, WaitKind};
use vgem_proto::user_queue::Window;

/// What has been signalled, as every reader of every page sees it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) value: BTreeMap<TimelineKey, Point>,
    pub(crate) failures: BTreeMap<(TimelineKey, Point), Failure>,
    /// Timelines whose signaller died: the first point that has failed, and how.
    pub(crate) dead_from: BTreeMap<TimelineKey, (Point, Failure)>,
    /// Which timeline a slot shows.
    pub(crate) slots: BTreeMap<(PairId, u16), TimelineKey>,
    /// Timelines that some driver has: the others of those that live wait for an heir.
    pub(crate) open: BTreeSet<TimelineKey>,
    /// Those whose points are entries.
    pub(crate) rings: BTreeSet<TimelineKey>,
    /// Slots with a verdict of the broker on them.
    pub(crate) condemned: BTreeSet<(PairId, u16)>,
}

impl Truth {
    /// Whether a slot shows a timeline, or will.
    pub(crate) fn shows(&self, place: (PairId, u16), timeline: TimelineKey) -> bool {
        self.slots.get(&place) == Some(&timeline) || !self.open.contains(&timeline)
    }

    /// Whether a page has forgotten how a point ended. Less is remembered here than in a page, so that more is asked.
    fn has_forgotten(&self, timeline: TimelineKey, point: Point) -> bool {
        let is_dead = self.dead_from.get(&timeline).is_some_and(|(from, _)| point >= *from);
        let later = self.failures.range((timeline, point)..=(timeline, Point(u64::MAX)));
        !is_dead && later.filter(|((_, failed), _)| *failed > point).count() >= REMEMBERED
    }

    /// `None` while pending, else how the point ended.
    pub(crate) fn look(&self, timeline: TimelineKey, point: Point) -> Option<Result<(), Failure>> {
        if let Some((_, failure)) = self.dead_from.get(&timeline).filter(|(from, _)| point >= *from) {
            return Some(Err(*failure));
        }
        if self.value.get(&timeline).is_none_or(|value| *value < point) {
            return None;
        }
        Some(self.failures.get(&(timeline, point)).map_or(Ok(()), |failure| Err(*failure)))
    }
}

/// Failures of a timeline that its pages remember.
const REMEMBERED: usize = 2;

/// A job as the driver got it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) job: DriverJob,
    pub(crate) operands: Vec<DriverOperand>,
    pub(crate) params: Vec<DriverParam>,
    pub(crate) waits: Vec<DriverWait>,
    pub(crate) bytes: Vec<u8>,
}

impl Received {
    /// Its waits as (index of the timeline, point, kind), sorted.
    pub(crate) fn waits(&self) -> Vec<(TimelineKey, u64, WaitKind)> {
        let mut waits: Vec<_> = self.waits.iter().map(|w| (w.timeline, w.point.0, w.kind)).collect();
        waits.sort_unstable();
        waits
    }

    pub(crate) fn failed(&self) -> Option<Failure> {
        (self.job.failed_code != 0).then(|| Failure {
            code: ErrorCode::from_number(self.job.failed_code),
            cause: self.job.failed_cause,
        })
    }
}

/// A queue at its driver.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) jobs: VecDeque<Received>,
    pub(crate) closing: bool,
    pub(crate) priority: u8,
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) id: InstanceId,
    pub(crate) device: DeviceId,
    pub(crate) domain: DomainId,
    pub(crate) lines: BTreeMap<TimelineKey, Line>,
    /// Every timeline it ever had.
    pub(crate) opened: Vec<TimelineKey>,
    pub(crate) mapped: BTreeMap<ObjectKey, Access>,
    pub(crate) signal_pages: BTreeMap<PageId, PairId>,
    pub(crate) observe_pages: BTreeMap<PageId, PairId>,
    /// Every job it ever got, in order.
    pub(crate) history: Vec<Received>,
    /// Messages for the broker.
    pub(crate) outbox: VecDeque<DriverMessage>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) cancelled: Vec<(TimelineKey, Point, Failure)>,
    pub(crate) killed: bool,
    /// In the kernel, for ever: it does not even die.
    pub(crate) hangs: bool,
    /// Loans of priority that it was told of.
    pub(crate) boosts: Vec<(TimelineKey, u64, u8)>,
    /// Points of which it asked how they ended, and what it was told.
    told: BTreeMap<(TimelineKey, Point), Option<Result<(), Failure>>>,
    /// What entries of each ring reach.
    pub(crate) spaces: BTreeMap<TimelineKey, BTreeMap<u64, Bind>>,
    /// Where entries of each ring reach their client's memory.
    pub(crate) windows: BTreeMap<TimelineKey, Vec<Window>>,
    /// With what it answers for rings, and for ranges.
    pub(crate) ring_errno: i32,
    pub(crate) bind_code: u32,
    is_heir: bool,
    /// Operations that its domain may not use, if it was told.
    pub(crate) forbidden: Option<Vec<u16>>,
    /// It was told before it had a queue.
    pub(crate) told_first: bool,
    causes: u32,
}

impl Driver {
    pub(crate) fn new(id: InstanceId, device: DeviceId, domain: DomainId) -> Self {
        Self {
            id,
            device,
            domain,
            lines: BTreeMap::new(),
            opened: Vec::new(),
            mapped: BTreeMap::new(),
            signal_pages: BTreeMap::new(),
            observe_pages: BTreeMap::new(),
            history: Vec::new(),
            outbox: VecDeque::new(),
            completions: Vec::new(),
            cancelled: Vec::new(),
            killed: false,
            hangs: false,
            boosts: Vec::new(),
            told: BTreeMap::new(),
            spaces: BTreeMap::new(),
            windows: BTreeMap::new(),
            ring_errno: 0,
            bind_code: 0,
            is_heir: false,
            forbidden: None,
            told_first: false,
            causes: 0,
        }
    }

    /// Takes a message in, as a correct driver would; panics where the broker breaks the rules.
    pub(crate) fn take(&mut self, truth: &mut Truth, message: DriverMessage, attach: Attach) {
        match message {
            DriverMessage::Start(start) => assert_eq!((start.instance, start.domain), (self.id, self.domain)),
            DriverMessage::Forbid(forbid) => {
                self.told_first = self.lines.is_empty() && self.opened.is_empty();
                self.forbidden = Some(forbid.operations);
            }
            DriverMessage::Map(map) => {
                assert_eq!(attach, Attach::Export { object: map.object, access: map.access });
                let before = self.mapped.insert(map.object, map.access);
                assert!(before.is_none_or(|before| before < map.access), "mapped twice: {map:?}");
                self.outbox.push_back(Mapped { object: map.object }.into());
            }
            DriverMessage::Unmap(unmap) => {
                assert!(self.mapped.remove(&unmap.object).is_some(), "unmaps what is not mapped: {unmap:?}");
                let names =
                    |used: &DriverOperand| used.object == unmap.object || used.cell_object == unmap.object;
                let used =
                    self.lines.values().flat_map(|line| &line.jobs).any(|job| job.operands.iter().any(names));
                assert!(!used, "unmaps what a job uses: {unmap:?}");
                let bound = self.spaces.values().flat_map(BTreeMap::values).any(|b| b.object == unmap.object);
                assert!(!bound, "unmaps what is bound: {unmap:?}");
                self.outbox.push_back(Unmapped { object: unmap.object }.into());
            }
            DriverMessage::SignalPage(page) => {
                let Attach::Signaller(pair) = attach else { panic!("{attach:?}") };
                assert!(self.signal_pages.insert(page.page, pair).is_none(), "page number in use: {page:?}");
            }
            DriverMessage::ObservePage(page) => {
                let Attach::Observer(pair) = attach else { panic!("{attach:?}") };
                assert!(self.observe_pages.insert(page.page, pair).is_none(), "page number in use: {page:?}");
            }
            DriverMessage::DropSignalPage(page) => {
                let pair = self.signal_pages.remove(&page.page).expect("a page it knows");
                assert!(!truth.slots.keys().any(|(other, _)| *other == pair), "a slot of {page:?} is in use");
            }
            DriverMessage::DropObservePage(page) => {
                let pair = self.observe_pages.remove(&page.page).expect("a page it knows");
                let waits = self.lines.values().flat_map(|line| &line.jobs).flat_map(|job| &job.waits);
                let in_page =
                    waits.filter(|wait| wait.page != PAGE_LOCAL && u32::from(wait.page) == page.page.0);
                assert_eq!(in_page.count(), 0, "a job waits in {pair:?}");
            }
            DriverMessage::OpenTimeline(open) => {
                self.is_heir |= truth.value.contains_key(&open.timeline);
                let line = Line { priority: open.priority, ..Line::default() };
                assert!(self.lines.insert(open.timeline, line).is_none());
                self.opened.push(open.timeline);
                truth.open.insert(open.timeline);
                let value = *truth.value.entry(open.timeline).or_default();
                assert_eq!(open.value, value, "goes on where it stands");
                assert!(!truth.dead_from.contains_key(&open.timeline), "goes on with what is dead");
                let told: Vec<_> = open.failures.iter().map(|f| (f.point, f.code, f.cause)).collect();
                let known =
                    truth.failures.range((open.timeline, Point(0))..=(open.timeline, Point(u64::MAX)));
                let known: Vec<_> = known.map(|((_, point), f)| (*point, f.code, f.cause)).collect();
                assert_eq!(told.len(), known.len().min(9), "a full ring shows that it is full");
                assert!(told.iter().rev().zip(known.iter().rev()).take(8).all(|(a, b)| a == b));
            }
            DriverMessage::CloseTimeline(close) => {
                let line = self.lines.get_mut(&close.timeline).expect("a queue it knows");
                assert!(line.jobs.is_empty(), "closes a queue with jobs: {close:?}");
                line.closing = true;
            }
            DriverMessage::Publish(publish) => {
                assert!(
                    self.lines.contains_key(&publish.timeline),
                    "publishes what is not open: {publish:?}"
                );
                let pair = self.signal_pages[&publish.page];
                let place = (pair, publish.slot);
                assert!(!truth.condemned.contains(&place), "a verdict is on {publish:?}");
                // An heir finds what its predecessor showed; what that showed of closed queues nobody told it of.
                let before = truth.slots.insert(place, publish.timeline);
                let is_open = |old: &TimelineKey| self.lines.contains_key(old) && *old != publish.timeline;
                assert!(!before.as_ref().is_some_and(is_open), "slot in use: {publish:?}");
                assert!(before.is_none() || self.is_heir, "shown twice: {publish:?}");
            }
            DriverMessage::Retire(retire) => {
                let pair = self.signal_pages[&retire.page];
                // A queue that closed while its heir was awaited was never shown there by anybody.
                let shown = truth.slots.remove(&(pair, retire.slot));
                assert!(shown == Some(retire.timeline) || self.is_heir, "retires {shown:?}: {retire:?}");
            }
            DriverMessage::Run(run) => self.take_run(truth, run),
            DriverMessage::CancelJob(job) => {
                let failure = Failure { code: job.code, cause: job.cause };
                self.cancelled.push((job.timeline, job.point, failure));
            }
            DriverMessage::Boost(boost) => {
                let line = self.lines.get(&boost.timeline).expect("a queue it knows");
                assert!(boost.priority > line.priority, "lends nothing: {boost:?}");
                let known = |(of, point, priority): &(TimelineKey, u64, u8)| {
                    *of == boost.timeline && *point >= boost.point.0 && *priority >= boost.priority
                };
                assert!(!self.boosts.iter().any(known), "told before: {boost:?}");
                self.boosts.push((boost.timeline, boost.point.0, boost.priority));
            }
            DriverMessage::PointEnded(told) => {
                let failure = Failure { code: ErrorCode::from_number(told.code), cause: told.cause };
                let ended = if told.code == 0 { Ok(()) } else { Err(failure) };
                let asked = self.told.insert((told.timeline, told.point), Some(ended));
                assert_eq!(asked, Some(None), "answers what was not asked: {told:?}");
            }
            DriverMessage::AttachRing(ring) => {
                assert_eq!(attach, Attach::Ring(ring.timeline));
                assert!(self.lines.contains_key(&ring.timeline), "a ring of what is not open: {ring:?}");
                if self.ring_errno == 0 {
                    assert!(
                        self.spaces.insert(ring.timeline, BTreeMap::new()).is_none(),
                        "a second ring: {ring:?}"
                    );
                    truth.rings.insert(ring.timeline);
                }
                let ready = RingReady { timeline: ring.timeline, errno: self.ring_errno, reserved: Zero };
                self.outbox.push_back(ready.into());
            }
            DriverMessage::Bind(bind) => {
                let mapped = self.mapped.get(&bind.object).expect("bound before it is mapped");
                assert!(*mapped >= bind.access, "bound for more than it is mapped for: {bind:?}");
                let space = self.spaces.get_mut(&bind.timeline).expect("a ring it knows");
                let (start, end) = (bind.address, bind.address + bind.len);
                let free = |(at, other): (&u64, &Bind)| *at >= end || at + other.len <= start;
                assert!(space.iter().filter(|(at, _)| **at != start).all(free), "overlaps: {bind:?}");
                let (timeline, address) = (bind.timeline, bind.address);
                // What could be mapped once still can.
                let code = if space.contains_key(&start) { 0 } else { self.bind_code };
                if code == 0 {
                    space.insert(address, bind);
                }
                self.outbox.push_back(Bound { timeline, address, code, reserved: Zero }.into());
            }
            DriverMessage::Unbind(unbind) => {
                let space = self.spaces.get_mut(&unbind.timeline).expect("a ring it knows");
                assert!(space.remove(&unbind.address).is_some(), "unbinds what is not bound: {unbind:?}");
                let (timeline, address) = (unbind.timeline, unbind.address);
                self.outbox.push_back(Unbound { timeline, address }.into());
            }
            DriverMessage::AttachMemory(m) => {
                assert!(matches!(attach, Attach::Process(_)), "{attach:?}");
                assert!(self.spaces.contains_key(&m.timeline), "memory of what has no ring: {m:?}");
                assert!(self.windows.insert(m.timeline, m.windows).is_none(), "a second memory");
                self.outbox.push_back(WindowsSet { timeline: m.timeline }.into());
            }
            DriverMessage::SetWindows(m) => {
                let windows = self.windows.get_mut(&m.timeline).expect("memory it was given");
                *windows = m.windows;
                self.outbox.push_back(WindowsSet { timeline: m.timeline }.into());
            }
            other => panic!("not for a driver: {other:?}"),
        }
    }

    fn take_run(&mut self, truth: &Truth, run: Run) {
        let bytes = DriverMessage::from(run.clone()).encode(0, Time(0), 0);
        assert!(bytes.len() <= vgem_proto::limits::MESSAGE_LEN, "a Run of {} bytes", bytes.len());
        let (mut operands, mut params, mut waits) =
            (run.operands.into_iter(), run.params.into_iter(), run.waits.into_iter());
        for job in run.jobs {
            let received = Received {
                operands: operands.by_ref().take(usize::from(job.operands)).collect(),
                params: params.by_ref().take(usize::from(job.params)).collect(),
                waits: waits.by_ref().take(usize::from(job.waits)).collect(),
                bytes: run.bytes.clone(),
                job,
            };
            self.check_job(truth, &received);
            self.history.push(received.clone());
            let line = self.lines.get_mut(&job.queue).expect("a queue it knows");
            assert!(!line.closing, "a job for a queue that closes: {job:?}");
            line.jobs.push_back(received);
        }
        assert_eq!((operands.len(), params.len(), waits.len()), (0, 0, 0), "records of no job");
    }

    fn check_job(&self, truth: &Truth, received: &Received) {
        let line = &self.lines[&received.job.queue];
        let done = truth.value[&received.job.queue].0 + line.jobs.len() as u64;
        assert_eq!(received.job.point.0, done + 1, "points have no gaps");
        for operand in &received.operands {
            let access = self.mapped.get(&operand.object).expect("an operand that was mapped before");
            assert!(*access >= operand.access, "mapped too weakly: {operand:?}");
            if operand.flags & vgem_proto::jobs::OPERAND_INDIRECT != 0 {
                assert!(self.mapped.contains_key(&operand.cell_object), "a cell that was mapped before");
            }
        }
        for wait in &received.waits {
            assert!(
                wait.timeline != received.job.queue || wait.point < received.job.point,
                "waits for itself"
            );
            if wait.page == PAGE_LOCAL {
                assert!(self.lines.contains_key(&wait.timeline), "not local: {wait:?}");
            } else {
                let pair = self.observe_pages[&PageId(u32::from(wait.page))];
                assert!(truth.shows((pair, wait.slot), wait.timeline), "not in its slot: {wait:?}");
            }
        }
    }

    /// It is about to ask how a point ended.
    pub(crate) fn asks(&mut self, timeline: TimelineKey, point: Point) {
        self.told.insert((timeline, point), None);
    }

    /// What it was told of a point.
    pub(crate) fn told_of(&self, timeline: TimelineKey, point: Point) -> Option<Result<(), Failure>> {
        self.told.get(&(timeline, point)).copied().flatten()
    }

    /// What the job at the head of a queue needs to be told before it can run, if that was not asked yet.
    pub(crate) fn question(&mut self, truth: &Truth, timeline: TimelineKey) -> Option<AskPoint> {
        let received = self.lines.get(&timeline)?.jobs.front()?;
        let is_forgotten = |wait: &&DriverWait| {
            let has_ended = truth.look(wait.timeline, wait.point).is_some();
            wait.kind == WaitKind::Data && has_ended && truth.has_forgotten(wait.timeline, wait.point)
        };
        let mut asks = received.waits.iter().filter(is_forgotten).map(|wait| (wait.timeline, wait.point));
        let (timeline, point) = asks.find(|asked| !self.told.contains_key(asked))?;
        self.asks(timeline, point);
        Some(AskPoint { timeline, point })
    }

    /// Whether the job at the head of a queue may run now, and what its waits make of it.
    pub(crate) fn head(&self, truth: &Truth, timeline: TimelineKey) -> Option<Result<(), Failure>> {
        let received = self.lines.get(&timeline)?.jobs.front()?;
        let is_it =
            |(of, point, _): &&(TimelineKey, Point, Failure)| (*of, *point) == (timeline, received.job.point);
        if let Some((_, _, failure)) = self.cancelled.iter().find(is_it) {
            return Some(Err(*failure));
        }
        let mut outcome = received.failed().map_or(Ok(()), Err);
        for wait in &received.waits {
            let ended = truth.look(wait.timeline, wait.point)?;
            if wait.kind != WaitKind::Data || outcome.is_err() {
                continue;
            }
            outcome = if truth.has_forgotten(wait.timeline, wait.point) {
                let told = self.told_of(wait.timeline, wait.point)?;
                // The broker is not told how entries end.
                let is_entry = truth.rings.contains(&wait.timeline);
                assert!(
                    is_entry || told == ended,
                    "{:?} of {}: {told:?} {ended:?}",
                    wait.point,
                    wait.timeline
                );
                told
            } else {
                ended
            };
        }
        Some(outcome)
    }

    /// Whether the job at the head of a queue has begun, for all that others can see: whether this driver had the answers
    /// to its questions nobody knows when it is gone.
    pub(crate) fn may_have_begun(&self, truth: &Truth, timeline: TimelineKey) -> bool {
        let Some(received) = self.lines.get(&timeline).and_then(|line| line.jobs.front()) else {
            return false;
        };
        let has_passed = |wait: &DriverWait| truth.look(wait.timeline, wait.point).is_some();
        self.head(truth, timeline).is_some() || received.waits.iter().all(has_passed)
    }

    /// Runs the job at the head of a queue, if its fences allow: it ends as its waits say, else with `code`.
    pub(crate) fn run(
        &mut self,
        truth: &mut Truth,
        timeline: TimelineKey,
        now: Time,
        code: Option<ErrorCode>,
    ) -> bool {
        let Some(outcome) = self.head(truth, timeline) else { return false };
        let Some(received) = self.lines.get_mut(&timeline).and_then(|line| line.jobs.pop_front()) else {
            return false;
        };
        let point = received.job.point;
        let failure = match (outcome, code) {
            (Err(failure), _) => Some(failure),
            (Ok(()), None) => None,
            (Ok(()), Some(code)) => {
                self.causes += 1;
                let cause = CauseId::new(self.id, self.causes);
                let text = b"it \x1b[1mbroke".to_vec();
                let told = Cause { cause, timeline, point, at: now, code, reserved: Zero, text };
                self.outbox.push_back(told.into());
                Some(Failure { code, cause })
            }
        };
        if let Some(failure) = failure {
            truth.failures.insert((timeline, point), failure);
        }
        truth.value.insert(timeline, point);
        self.completions.push(Completion {
            timeline,
            point,
            started: if outcome.is_ok() { now } else { Time(0) },
            ended: now.after(10),
            bytes: 100,
            staged: 1,
            cause: failure.map_or(CauseId::NONE, |failure| failure.cause),
            code: failure.map_or(0, |failure| failure.code.number()),
            reserved: Zero,
        });
        true
    }

    /// Everything it has to say now, in order.
    pub(crate) fn flush(&mut self) -> Vec<DriverMessage> {
        let mut messages: Vec<DriverMessage> = self.outbox.drain(..).collect();
        let completions = std::mem::take(&mut self.completions);
        for part in completions.chunks(vgem_proto::limits::COMPLETIONS) {
            messages.push(Complete { completions: part.to_vec() }.into());
        }
        let closed: Vec<TimelineKey> = self
            .lines
            .iter()
            .filter(|(_, line)| line.closing && line.jobs.is_empty())
            .map(|(timeline, _)| *timeline)
            .collect();
        for timeline in closed {
            self.lines.remove(&timeline);
            self.spaces.remove(&timeline);
            self.windows.remove(&timeline);
            messages.push(TimelineClosed { timeline }.into());
        }
        messages
    }
}
