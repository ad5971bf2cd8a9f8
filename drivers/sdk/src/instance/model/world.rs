//! A scenario: jobs and what they wait for, an instance that runs them, and an engine that checks.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::rand::Rng;
use shuttle::thread::{self, JoinHandle};
use vgem_os::fence::{Failure as FarFailure, PointState, Slot};
use vgem_os::mapping::Mapping;
use vgem_os::memory::Identity;
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, ObjectKey, PageId, Point, TimelineKey};
use vgem_proto::jobs::{
    Completion, DriverJob, DriverOperand, DriverParam, DriverWait, PAGE_LOCAL, ParamSource, WAIT_PROMISE,
};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{DriverMessage, Run};
use vgem_proto::rights::{Access, WaitKind};

use super::super::Instance;
use super::futexes::{FarPage, Kernel};
use crate::engine::{Engine, JobError, Task};
use crate::objects::MappedObject;
use crate::platform::Observed as _;
use crate::schedule::{Priority, Standing};
use crate::timeline::Timeline;

const QUEUES: usize = 3;
const FAR: TimelineKey = TimelineKey { index: 9, generation: 9 };
const DATA: ObjectKey = ObjectKey { index: 0, generation: 1 };
const CANCELLED: Failure = Failure { code: ErrorCode::Cancelled, cause: CauseId(7) };

/// A job of a plan. Jobs are named by their place in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Planned {
    queue: usize,
    point: u64,
    len: u64,
    /// Waits for points of other queues.
    here: Vec<(usize, u64)>,
    /// Waits for points of another process, with their flags.
    far: Vec<(u64, u8)>,
    /// It does not end before this other job has begun.
    meets: Option<usize>,
}

impl Planned {
    /// Adds it to a message. Its parameter says which job it is.
    fn put(&self, at: usize, run: &mut Run) {
        let wait = |timeline, point, page, flags| {
            let (point, kind) = (Point(point), WaitKind::Data);
            DriverWait { timeline, point, page, slot: 0, kind, flags, reserved: Zero }
        };
        run.waits.extend(self.far.iter().map(|(point, flags)| wait(FAR, *point, 0, *flags)));
        run.waits.extend(self.here.iter().map(|(queue, point)| wait(key(*queue), *point, PAGE_LOCAL, 0)));
        run.operands.push(DriverOperand {
            object: DATA,
            offset: 0,
            len: self.len,
            cell_object: ObjectKey::default(),
            cell_offset: 0,
            number: 0,
            cell_word: 0,
            access: Access::Write,
            flags: 0,
            reserved: Zero,
        });
        run.params.push(DriverParam {
            value: at as u64,
            cell_object: ObjectKey::default(),
            max: 0,
            len: 0,
            number: 0,
            source: ParamSource::Value,
            cell_word: 0,
        });
        run.jobs.push(DriverJob {
            queue: key(self.queue),
            point: Point(self.point),
            run_ns: 0,
            failed_cause: CauseId::NONE,
            failed_code: 0,
            op: 0,
            flags: 0,
            operands: 1,
            params: 1,
            waits: u16::try_from(self.far.len() + self.here.len()).expect("few"),
            reserved: Zero,
        });
    }
}

/// What jobs there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) jobs: Vec<Planned>,
    /// How many jobs must have run before the other process signals point 1, and 2, and so on; 0 where it is not said.
    pub(super) signal_after: Vec<usize>,
    /// The other process signals nothing.
    pub(super) silent: bool,
    /// A point of the other process that fails.
    pub(super) far_fails: Option<u64>,
    /// All jobs come in one message.
    pub(super) at_once: bool,
}

/// A job that is being planned.
pub(super) struct Planning<'a> {
    plan: &'a mut Plan,
    at: usize,
}

impl Planning<'_> {
    fn its(&mut self) -> &mut Planned {
        &mut self.plan.jobs[self.at]
    }

    /// It waits for another job.
    pub(super) fn after(mut self, job: usize) -> Self {
        let of = (self.plan.jobs[job].queue, self.plan.jobs[job].point);
        self.its().here.push(of);
        self
    }

    /// It waits for a point of another process.
    pub(super) fn far(mut self, point: u64, flags: u8) -> Self {
        self.its().far.push((point, flags));
        self
    }

    /// It does not end before this other job has begun.
    pub(super) fn meets(mut self, job: usize) -> Self {
        self.its().meets = Some(job);
        self
    }
}

impl Plan {
    pub(super) fn job(&mut self, queue: usize, len: u64) -> Planning<'_> {
        let point = 1 + self.jobs.iter().filter(|j| j.queue == queue).count() as u64;
        self.jobs.push(Planned { queue, point, len, ..Planned::default() });
        let at = self.jobs.len() - 1;
        Planning { plan: self, at }
    }

    /// A few jobs that wait for whatever comes before them.
    pub(super) fn any(random: &mut impl Rng) -> Self {
        let far_fails = Some(random.gen_range(1..5));
        let at_once = random.gen_range(0..2) == 0;
        let mut plan = Self { far_fails, at_once, ..Self::default() };
        for at in 0..random.gen_range(2..8) {
            let job = plan.job(random.gen_range(0..QUEUES), [0, super::LONG][random.gen_range(0..2)]);
            let job = match random.gen_range(0..3) {
                0 => job.far(random.gen_range(1..3), [0, WAIT_PROMISE][random.gen_range(0..2)]),
                _ => job,
            };
            if at > 0 && random.gen_range(0..2) == 0 {
                job.after(random.gen_range(0..at));
            }
        }
        plan
    }

    fn place(&self, queue: usize, point: u64) -> Option<usize> {
        self.jobs.iter().position(|j| (j.queue, j.point) == (queue, point))
    }
}

fn key(queue: usize) -> TimelineKey {
    TimelineKey { index: u32::try_from(queue).expect("few"), generation: 1 }
}

/// What is known of each job. Behind a lock of the system's, so that asking changes no order.
#[derive(Debug, Default)]
struct Log {
    begun: Vec<bool>,
    running: [bool; QUEUES],
    told: Vec<(TimelineKey, Point)>,
    completions: Vec<Completion>,
    wrong: Vec<String>,
}

/// What can be waited for.
#[derive(Debug, Default)]
struct Progress {
    ran: usize,
    closed: usize,
}

/// The engine, which checks.
struct Checker {
    plan: Plan,
    log: Mutex<Log>,
    progress: shuttle::sync::Mutex<Progress>,
    changed: shuttle::sync::Condvar,
    broker: Socket,
    timelines: Vec<Arc<Timeline>>,
    far: FarPage,
}

struct Hands(Arc<Checker>);

impl Engine for Hands {
    fn description(&self) -> Description {
        let job = Operation::new(0, "job", "checks")
            .operand("data", Direction::InOut, Touch::InPlace)
            .number("place", "which job of the plan", 0, 255, Some(255));
        Description::new("checker", "checks the order of jobs", 1).operation(job)
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        self.0.run(usize::try_from(task.number(0)).expect("a place"));
        Ok(())
    }

    fn queue_closed(&self, _queue: TimelineKey) {
        self.0.change(|progress| progress.closed += 1);
    }
}

impl Checker {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, how: impl FnOnce(&mut Progress)) {
        how(&mut self.progress.lock().expect("no panic"));
        self.changed.notify_all();
    }

    fn wait_until(&self, what: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress.lock().expect("no panic");
        while !what(&progress) {
            progress = self.changed.wait(progress).expect("no panic");
        }
    }

    fn run(&self, at: usize) {
        let job = &self.plan.jobs[at];
        self.check(at, job);
        self.change(|_| {});
        if let Some(other) = job.meets {
            self.wait_until(|_| self.log().begun[other]);
        }
        thread::yield_now();
        self.log().running[job.queue] = false;
        self.change(|progress| progress.ran += 1);
    }

    fn check(&self, at: usize, job: &Planned) {
        let before = self.timelines[job.queue].value();
        let early = job.here.iter().any(|(queue, point)| self.timelines[*queue].value() < Point(*point))
            || job.far.iter().any(|(point, _)| self.far_state(*point) == PointState::Pending);
        if job.far.iter().any(|(_, flags)| flags & WAIT_PROMISE != 0) {
            self.hear();
        }
        let mut log = self.log();
        let promised = job.far.iter().any(|(_, flags)| flags & WAIT_PROMISE != 0);
        let untold = promised && !log.told.contains(&(key(job.queue), Point(job.point)));
        let wrong = [
            (log.begun[at], "it runs twice"),
            (log.running[job.queue], "another job of its queue runs"),
            (before != Point(job.point - 1), "it is not the next of its queue"),
            (early, "it runs before what it waits for"),
            (untold, "the broker was not told that it has waited"),
        ];
        let said = wrong.iter().filter(|(is, _)| *is).map(|(_, what)| format!("job {at}: {what}"));
        log.wrong.extend(said);
        (log.begun[at], log.running[job.queue]) = (true, true);
    }

    fn far_state(&self, point: u64) -> PointState {
        self.far.state(Slot::new(0).expect("a slot"), FAR.generation, point)
    }

    /// The broker reads what there is.
    fn hear(&self) {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        while let Ok(Packet::Data { len }) = self.broker.recv_plain(&mut buf) {
            let (_, message) = DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("well spoken");
            match message {
                DriverMessage::Unblocked(m) => self.log().told.push((m.timeline, m.point)),
                DriverMessage::Complete(m) => self.log().completions.extend(m.completions),
                _ => {}
            }
        }
    }
}

/// A whole instance and what is around it.
pub(super) struct World {
    instance: Arc<Instance<Hands, Kernel>>,
    checker: Arc<Checker>,
    kernel: Kernel,
    threads: Vec<JoinHandle<()>>,
}

impl World {
    /// Starts it and has it take all jobs.
    pub(super) fn start(executors: usize, plan: Plan) -> Self {
        let kernel = Kernel::default();
        let (link, broker) = Socket::pair().expect("a socket pair");
        broker.set_nonblocking(true).expect("a socket of ours");
        let far = FarPage::new(&kernel, FAR.generation);
        let timelines = (0..QUEUES).map(|queue| Arc::new(Timeline::new(key(queue)))).collect();
        let log = Mutex::new(Log { begun: vec![false; plan.jobs.len()], ..Log::default() });
        let (progress, changed) = Default::default();
        let checker = Checker { plan, log, progress, changed, broker, timelines, far: far.clone() };
        let checker = Arc::new(checker);
        let hands = Hands(Arc::clone(&checker));
        let description = hands.description();
        let instance =
            Arc::new(Instance::new(hands, &description, Arc::new(link), kernel.clone()).expect("a model"));
        let mut world = Self { instance, checker, kernel, threads: Vec::new() };
        world.prepare(far);
        for _ in 0..executors {
            let instance = Arc::clone(&world.instance);
            world.threads.push(thread::spawn(move || instance.executor()));
        }
        let instance = Arc::clone(&world.instance);
        world.threads.push(thread::spawn(move || instance.timekeeper()));
        let checker = Arc::clone(&world.checker);
        world.threads.push(thread::spawn(move || checker.signal_all()));
        let jobs = world.checker.plan.jobs.len();
        let each = if world.checker.plan.at_once { jobs } else { 1 };
        for first in (0..jobs).step_by(each) {
            world.instance.accept(world.run(first..first + each)).expect("its queue takes it");
        }
        world
    }

    fn prepare(&self, far: FarPage) {
        let mut schedule = self.instance.schedule();
        for (queue, timeline) in (0..).zip(&self.checker.timelines) {
            let client = ClientKey { index: queue, generation: 1 };
            let priority = Priority::new(u8::try_from(queue).expect("few"));
            let standing = Standing { domain: DomainId(queue % 2), client, priority };
            assert!(schedule.open(Arc::clone(timeline), standing));
        }
        let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
        let identity = Identity { dev: 1, inode: 1 };
        drop(schedule.objects.map(DATA, MappedObject { mapping, access: Access::Write, identity }));
        schedule.observe(PageId(0), far);
    }

    fn run(&self, jobs: Range<usize>) -> Run {
        let mut run = Run { jobs: vec![], operands: vec![], params: vec![], waits: vec![], bytes: vec![] };
        for at in jobs {
            self.checker.plan.jobs[at].put(at, &mut run);
        }
        run
    }

    /// The broker cancels a job, wherever it is by now.
    pub(super) fn cancel(&self, at: usize) {
        let job = &self.checker.plan.jobs[at];
        self.instance.cancel(key(job.queue), Point(job.point), CANCELLED);
    }

    /// The broker boosts a job's queue, up to that job.
    pub(super) fn boost(&self, at: usize, priority: u8) {
        let job = &self.checker.plan.jobs[at];
        self.instance.boost(key(job.queue), Point(job.point), Priority::new(priority));
    }

    /// Another process comes to be observed.
    pub(super) fn observe_one_more_page(&self) {
        let page = FarPage::new(&self.kernel, FAR.generation);
        self.instance.schedule().observe(PageId(1), page);
        self.instance.renew_watch();
    }

    /// Waits until the broker has heard of all jobs, though no queue closes.
    pub(super) fn hear_of_all(&self) {
        let jobs = self.checker.plan.jobs.len();
        while self.checker.log().completions.len() < jobs {
            thread::yield_now();
            self.checker.hear();
        }
    }

    /// Closes all queues, waits until all have closed, and checks what is left to check.
    pub(super) fn finish(self) {
        for queue in 0..QUEUES {
            let closed = self.instance.schedule().close(key(queue));
            if let Some(timeline) = closed {
                self.instance.closed(&timeline);
            }
        }
        self.checker.wait_until(|progress| progress.closed == QUEUES);
        self.instance.stop();
        for thread in self.threads {
            thread.join().expect("no panic");
        }
        self.checker.hear();
        let log = self.checker.log();
        assert!(log.wrong.is_empty(), "{:?}", log.wrong);
        for queue in 0..QUEUES {
            let of = |c: &&Completion| c.timeline == key(queue);
            let ended: Vec<u64> = log.completions.iter().filter(of).map(|c| c.point.0).collect();
            let planned = self.checker.plan.jobs.iter().filter(|j| j.queue == queue).count() as u64;
            assert_eq!(ended, (1..=planned).collect::<Vec<_>>(), "queue {queue}");
        }
        for completion in &log.completions {
            let queue = completion.timeline.index as usize;
            let at = self.checker.plan.place(queue, completion.point.0).expect("a job of the plan");
            assert_eq!(log.begun[at], completion.code == 0, "job {at} and {completion:?}");
        }
    }
}

impl Checker {
    /// The other process signals every point that somebody waits for, when enough jobs have run.
    fn signal_all(&self) {
        let points = self.plan.jobs.iter().flat_map(|job| &job.far).map(|(point, _)| *point);
        let last = points.max().filter(|_| !self.plan.silent);
        let after = self.plan.signal_after.iter().copied().chain(std::iter::repeat(0));
        for (point, after) in (1..=last.unwrap_or(0)).zip(after) {
            self.wait_until(|progress| progress.ran >= after);
            thread::yield_now();
            let fails = self.plan.far_fails == Some(point);
            self.far.signal(point, fails.then_some(FarFailure { point, code: 5, cause: 9 }));
        }
    }
}
