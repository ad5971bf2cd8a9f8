//! What one job costs in the broker's core: submit and completion, in batches of 64, without any I/O.
//!
//! Prints nanoseconds per job, and how they divide. Making the messages, which the decoders do in the daemon, is not
//! in them; dropping the effects, which the shell does after it has encoded them, is. `cargo bench -p vgem-core`.
//!
//! The last column is the same with a client that traces, over without one.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use vgem_core::io::{Effect, Effects, Input, LinkId, PeerFacts, Way};
use vgem_core::{Broker, Config};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::ids::{
    CauseId, DeviceId, DomainId, Handle, InstanceId, Point, QueueHandle, Time, TimelineKey,
};
use vgem_proto::jobs::{ClientJob, ClientOperand, Completion};
use vgem_proto::message::Head;
use vgem_proto::message::client::{ClientMessage, Commit, CreateObject, Hello, OpenQueue, Submit, Trace};
use vgem_proto::message::driver::{Complete, DriverMessage, Ready};
use vgem_proto::rights::{Access, HugePages};

const BATCH: u64 = 64;
const ROUNDS: u64 = 20_000;
const LINK: LinkId = LinkId(1);

/// How the jobs of a round use their operand.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// No operand at all.
    Nothing,
    /// All read one object.
    Read,
    /// All replace the same range.
    Replace,
    /// Each replaces a range of its own.
    Chunks,
    /// Alternately one replaces and the next reads, on one queue.
    Chain,
    /// As `Chain`, but over two devices.
    Handoff,
}

struct Stage {
    broker: Broker,
    now: Time,
    object: Handle,
    queues: Vec<(QueueHandle, TimelineKey, InstanceId, u64)>,
    effects: Effects,
}

fn description(name: &str) -> Description {
    let any = Operation::new(0, "any", "anything")
        .operand("in", Direction::In, Touch::InPlace)
        .optional()
        .operand("out", Direction::Out, Touch::InPlace)
        .optional();
    let mut any = any.with_result("nothing");
    any.run_ms = 1000;
    Description::new(name, "for benches", 2).operation(any)
}

impl Stage {
    fn new() -> Self {
        let devices = vec![(DeviceId(1), description("a")), (DeviceId(2), description("b"))];
        let broker = Broker::new(Config { devices, ..Config::default() });
        let (object, queues) = (Handle(0), Vec::new());
        let mut stage = Self { broker, now: Time(1), object, queues, effects: Effects::new() };
        let peer = PeerFacts { way: Way::Socket, uid: 1, pid: 1, domain: DomainId(1), token: [0; 2] };
        stage.apply(Input::Connected { link: LINK, peer });
        stage.ask(Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: Vec::new() });
        let (huge, reserved, name) = (HugePages::Never, Zero, Vec::new());
        stage.ask(CreateObject { len: 1 << 20, writer: DeviceId(0), count: 1, huge, reserved, name });
        stage.ask(Commit { objects: vec![stage.object] });
        for device in [DeviceId(1), DeviceId(2)] {
            stage.ask(OpenQueue { device, depth: 1024, priority: 0, reserved: Zero });
        }
        assert_eq!(stage.queues.len(), 2, "both queues are open");
        stage
    }

    fn ask(&mut self, message: impl Into<ClientMessage>) {
        let head = Head { deadline: Time(u64::MAX), ..Head::default() };
        self.apply(Input::Request { link: LINK, head, message: message.into() });
    }

    /// Lets an input happen and answers for the kernel, the keeper and the drivers.
    fn apply(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.broker.apply(self.now, input) {
                inputs.extend(self.answer(effect));
            }
        }
    }

    fn answer(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::MakeObject { object, .. } => Some(Input::ObjectMade { object, outcome: Ok(1) }),
            Effect::CheckPopulated { object } => Some(Input::PopulatedChecked { object, populated: true }),
            Effect::Keep { object, len } => Some(Input::Kept { object, pinned: len }),
            Effect::MakePair { pair } => Some(Input::PairMade { pair, outcome: Ok(()) }),
            Effect::StartInstance { instance, .. } => Some(Input::InstanceStarted { instance, pid: 1 }),
            Effect::ToDriver { instance, message: DriverMessage::Start(_), .. } => {
                let name = if instance.0 == 2 { "a" } else { "b" };
                let ready = Ready { version: 1, reserved: Zero, description: description(name).encode() };
                Some(Input::Driver { instance, message: ready.into() })
            }
            Effect::ToDriver { instance, message: DriverMessage::OpenTimeline(open), .. } => {
                self.queues.push((QueueHandle(0), open.timeline, instance, 0));
                None
            }
            Effect::Reply { message: ClientMessage::ObjectCreated(created), .. } => {
                self.object = created.objects.first().copied().unwrap_or_default();
                None
            }
            Effect::Reply { message: ClientMessage::QueueOpened(opened), .. } => {
                if let Some(queue) = self.queues.iter_mut().find(|queue| queue.1 == opened.timeline) {
                    queue.0 = opened.queue;
                }
                None
            }
            Effect::Reply { message: ClientMessage::Refused(refused), .. } => panic!("refused: {refused:?}"),
            _ => None,
        }
    }

    /// The batch of a round and the completions that end it.
    fn messages(&mut self, pattern: Pattern) -> (Submit, Vec<(InstanceId, Complete)>) {
        let capacity = usize::try_from(BATCH).expect("small");
        let mut submit = Submit {
            jobs: Vec::with_capacity(capacity),
            operands: Vec::with_capacity(capacity),
            params: Vec::new(),
            waits: Vec::new(),
            bytes: Vec::new(),
        };
        let mut ended: Vec<(InstanceId, Complete)> = Vec::new();
        for n in 0..BATCH {
            let use_second = matches!(pattern, Pattern::Handoff) && n % 2 == 1;
            let Some((queue, timeline, instance, last)) = self.queues.get_mut(usize::from(use_second)) else {
                continue;
            };
            *last += 1;
            let operand = match pattern {
                Pattern::Nothing => None,
                Pattern::Read => Some((Access::Read, 0)),
                Pattern::Replace => Some((Access::Write, 0)),
                Pattern::Chunks => Some((Access::Write, n * 4096)),
                Pattern::Chain | Pattern::Handoff if n % 2 == 0 => Some((Access::Write, 0)),
                Pattern::Chain | Pattern::Handoff => Some((Access::Read, 0)),
            };
            submit.jobs.push(job(*queue, Point(*last), u16::from(operand.is_some())));
            submit.operands.extend(operand.map(|(access, offset)| uses(self.object, access, offset)));
            let completion = completion(*timeline, Point(*last));
            match ended.iter_mut().find(|(other, _)| other == instance) {
                Some((_, complete)) => complete.completions.push(completion),
                None => ended.push((*instance, Complete { completions: vec![completion] })),
            }
        }
        (submit, ended)
    }

    fn happen(&mut self, input: Input) {
        self.now = self.now.after(1000);
        self.effects.clear();
        self.broker.apply_into(self.now, input, &mut self.effects);
        black_box(&self.effects);
    }
}

fn job(queue: QueueHandle, point: Point, operands: u16) -> ClientJob {
    ClientJob {
        queue,
        point,
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op: 0,
        flags: 0,
        operands,
        params: 0,
        waits: 0,
        reserved: Zero,
    }
}

fn uses(object: Handle, access: Access, offset: u64) -> ClientOperand {
    ClientOperand {
        object,
        offset,
        len: 4096,
        cell_object: Handle(0),
        cell_offset: 0,
        number: u8::from(access == Access::Write),
        cell_word: 0,
        access,
        flags: 0,
        reserved: Zero,
    }
}

fn completion(timeline: TimelineKey, point: Point) -> Completion {
    let (started, ended, bytes, staged) = (Time(1), Time(2), 4096, 0);
    Completion {
        timeline,
        point,
        started,
        ended,
        bytes,
        staged,
        cause: CauseId::NONE,
        code: 0,
        reserved: Zero,
    }
}

/// The times of every submit and of every round of completions.
#[derive(Default)]
struct Times {
    submits: Vec<Duration>,
    completions: Vec<Duration>,
}

impl Times {
    /// Runs one round of a pattern.
    fn round(&mut self, stage: &mut Stage, pattern: Pattern) {
        let head = Head::default();
        let (submit, ended) = stage.messages(pattern);
        let begun = Instant::now();
        stage.happen(Input::Request { link: LINK, head, message: submit.into() });
        self.submits.push(begun.elapsed());
        assert!(!stage.effects.iter().any(|e| matches!(e, Effect::Reply { .. })), "a batch was refused");
        let begun = Instant::now();
        for (instance, complete) in ended {
            stage.happen(Input::Driver { instance, message: complete.into() });
        }
        self.completions.push(begun.elapsed());
    }
}

/// Runs the rounds of a pattern, with or without a client that traces.
fn measure(pattern: Pattern, is_traced: bool) -> Times {
    let (mut stage, mut times) = (Stage::new(), Times::default());
    if is_traced {
        stage.ask(Trace {});
    }
    for _ in 0..ROUNDS {
        times.round(&mut stage, pattern);
    }
    assert_eq!(stage.broker.counters().jobs_ok, ROUNDS * BATCH);
    times
}

fn main() {
    let patterns = [
        Pattern::Nothing,
        Pattern::Read,
        Pattern::Replace,
        Pattern::Chunks,
        Pattern::Chain,
        Pattern::Handoff,
    ];
    eprintln!("core_submit: ns per job, batches of {BATCH}, median of {ROUNDS} rounds (p99)");
    for pattern in patterns {
        let (mut plain, mut traced) = (measure(pattern, false), measure(pattern, true));
        let (submit, submit_99) = per_job(&mut plain.submits);
        let (completion, completion_99) = per_job(&mut plain.completions);
        let with = per_job(&mut traced.submits).0 + per_job(&mut traced.completions).0;
        let (sum, name) = (submit + completion, format!("{pattern:?}"));
        let ratio = with as f64 / sum as f64;
        eprintln!(
            "{name:>8}: {sum:>4} = submit {submit:>4} ({submit_99:>4}) + completion {completion:>4} ({completion_99:>4}), \
             traced {ratio:.2}"
        );
    }
}

/// The median and the 99th percentile, nanoseconds per job.
fn per_job(times: &mut [Duration]) -> (u128, u128) {
    times.sort_unstable();
    let at = |part: usize| {
        times.get(times.len() * part / 100).map_or(0, |time| time.as_nanos() / u128::from(BATCH))
    };
    (at(50), at(99))
}
