//! Rings of a whole instance in one process, with the test as their client and as the broker.

mod batches;
mod cost;
mod ends;
mod entries;
mod hostile;
mod own;
mod ranges;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vgem_os::clock;
use vgem_os::ring::{KeeperRing, Producer, ReapError, Reaper, map_client};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::Failure;
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{Cause, DriverMessage};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, Batch, Call, Completion, Depth, Entry, Order, VaOperand, VaParam, Work, encode_block,
};

use super::*;
use crate::engine::{JobError, Staging, Task};
use crate::platform::Os;
use crate::schedule::{Priority, Standing};
use crate::timeline::Timeline;

const QUEUE: TimelineKey = TimelineKey { index: 0, generation: 1 };
const OTHER: TimelineKey = TimelineKey { index: 1, generation: 1 };
const DATA: ObjectKey = ObjectKey { index: 7, generation: 3 };
/// Where the object is bound, and how much of it.
const BASE: u64 = 0x7f00_0000_0000;
const LEN: u64 = 0x1_0000;

/// Operations of the device that these tests have.
mod op {
    /// Copies; says how many bytes, twice, and in its digest whether through windows.
    pub(super) const COPY: u16 = 0;
    /// Says that it has begun, and ends when it is let.
    pub(super) const GATE: u16 = 1;
    /// Produces 5 bytes, finds 9, and fails.
    pub(super) const FAIL: u16 = 2;
    pub(super) const PANIC: u16 = 3;
    /// One more than there are.
    pub(super) const NONE: u16 = 4;
}

#[derive(Default)]
struct Gate {
    begun: AtomicBool,
    open: AtomicBool,
}

/// A device for tests. Counts what it ran.
#[derive(Default)]
struct Tester {
    gate: Gate,
    ran: AtomicU64,
}

fn wait_for(mut what: impl FnMut() -> bool) {
    let deadline = clock::now() + 10_000_000_000;
    while !what() {
        assert!(clock::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

impl Engine for Tester {
    fn description(&self) -> Description {
        let copy = Operation::new(op::COPY, "copy", "copies")
            .operand("input", Direction::In, Touch::InPlace)
            .operand("output", Direction::Out, Touch::InPlace)
            .with_result("bytes");
        let nothing = |number, name| Operation::new(number, name, "takes nothing").with_result("");
        Description::new("tester", "a device for tests", 1)
            .operation(copy)
            .operation(nothing(op::GATE, "gate"))
            .operation(nothing(op::FAIL, "fail"))
            .operation(nothing(op::PANIC, "panic"))
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        self.ran.fetch_add(1, Ordering::Relaxed);
        match task.op() {
            op::COPY => {
                let (from, into) = (task.input(0)?, task.output(1)?);
                let into = into.sub(0, from.len()).ok_or_else(|| JobError::too_small("it is shorter"))?;
                vgem_os::mapping::copy_span(into, from, vgem_os::mapping::CopyStyle::Plain)?;
                task.set_len(from.len() as u64);
                task.set_value(from.len() as u64);
                task.set_digest(&[u8::from(task.staging(0) == Staging::Windows)]);
                Ok(())
            }
            op::GATE => {
                self.gate.begun.store(true, Ordering::Release);
                wait_for(|| self.gate.open.load(Ordering::Acquire));
                Ok(())
            }
            op::FAIL => {
                task.set_len(5);
                task.set_value(9);
                Err(JobError::new(ErrorCode::Io, "nine"))
            }
            _ => panic!("as it is told"),
        }
    }

    fn inline_bytes(&self, op: u16) -> u64 {
        if op == op::COPY { 4096 } else { 0 }
    }
}

/// A queue's ring as its client has it.
struct Client {
    timeline: Arc<Timeline>,
    keeper: KeeperRing,
    producer: Producer,
    reaper: Reaper,
}

/// An instance, its control thread's side of rings, and the broker's end of its link.
struct Rig {
    instance: Arc<Instance<Tester>>,
    rings: Rings,
    broker: Socket,
    memory: Arc<Mapping>,
}

impl Rig {
    /// A rig, and a queue with a ring that reaches the object.
    fn new() -> (Self, Client) {
        let (link, broker) = Socket::pair().expect("a socket pair");
        broker.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let engine = Tester::default();
        let description = engine.description();
        let instance = Arc::new(Instance::new(engine, &description, Arc::new(link), Os).expect("an fd"));
        instance.outbox.set_issuer(InstanceId(3));
        let memory = Arc::new(Mapping::anonymous(usize::try_from(LEN).expect("short")).expect("memory"));
        let mut rig = Self { instance, rings: Rings::default(), broker, memory };
        let client = rig.attach(QUEUE);
        assert_eq!(rig.bind(&bind(QUEUE)), Ok(()));
        (rig, client)
    }

    fn open(&self, key: TimelineKey) -> Arc<Timeline> {
        let timeline = Arc::new(Timeline::new(key));
        let (domain, client) = (DomainId(0), ClientKey::default());
        let standing = Standing { domain, client, priority: Priority::ORDINARY };
        assert!(self.instance.schedule().open(Arc::clone(&timeline), standing));
        timeline
    }

    /// Opens a queue and gives it a ring.
    fn attach(&mut self, key: TimelineKey) -> Client {
        let timeline = self.open(key);
        self.attach_to(key, timeline).expect("a ring")
    }

    fn attach_to(&mut self, key: TimelineKey, timeline: Arc<Timeline>) -> vgem_os::Result<Client> {
        let keeper = KeeperRing::create(Depth::new(64).expect("a depth")).expect("memory");
        let (producer, reaper) = map_client(keeper.export().expect("an fd").as_fd()).expect("a ring");
        let fd = keeper.export().expect("an fd");
        let attach = AttachRing { timeline: key, depth: 64, reserved: Zero };
        self.rings.attach(&self.instance, &attach, fd)?;
        Ok(Client { timeline, keeper, producer, reaper })
    }

    fn bind(&mut self, bind: &Bind) -> Result<(), ErrorCode> {
        self.rings.bind(bind, Some(Arc::clone(&self.memory)))
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.span_mut().expect("writable").copy_from(place(address), bytes).expect("inside");
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.span().copy_to(place(address), &mut bytes).expect("inside");
        bytes
    }

    /// Puts a block into memory; the arguments that name it.
    fn block(&self, address: u64, operands: &[VaOperand], params: &[VaParam]) -> Arguments {
        let bytes = encode_block(operands, params).expect("not too many");
        self.put(address, &bytes);
        Arguments::Block(VaRange::new(address, bytes.len() as u64).expect("addresses"))
    }

    /// The next message to the broker.
    fn hear(&self) -> DriverMessage {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        let Ok(Packet::Data { len }) = self.broker.recv_plain(&mut buf) else { panic!("nothing was told") };
        DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("drivers speak well").1
    }

    /// All that the broker was told so far.
    fn heard(&self) -> Vec<DriverMessage> {
        self.broker.set_nonblocking(true).expect("a socket of ours");
        let mut buf = vec![0; limits::MESSAGE_LEN];
        let mut all = Vec::new();
        while let Ok(Packet::Data { len }) = self.broker.recv_plain(&mut buf) {
            all.push(DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("drivers speak well").1);
        }
        self.broker.set_nonblocking(false).expect("a socket of ours");
        all
    }

    fn hear_cause(&self) -> Cause {
        match self.hear() {
            DriverMessage::Cause(cause) => cause,
            other => panic!("{other:?}"),
        }
    }

    /// Closes a queue and waits until that is told.
    fn closes(&mut self, key: TimelineKey) {
        assert!(self.rings.close(key));
        let is_closed = |m: DriverMessage| matches!(m, DriverMessage::TimelineClosed(c) if c.timeline == key);
        wait_for(|| is_closed(self.hear()));
    }

    fn ran(&self) -> u64 {
        self.instance.engine.ran.load(Ordering::Relaxed)
    }

    fn open_gate(&self) {
        self.instance.engine.gate.open.store(true, Ordering::Release);
    }

    fn wait_at_gate(&self) {
        wait_for(|| self.instance.engine.gate.begun.load(Ordering::Acquire));
    }
}

fn place(address: u64) -> usize {
    usize::try_from(address - BASE).expect("bound")
}

/// All of the object, for writing.
fn bind(timeline: TimelineKey) -> Bind {
    let (access, reserved) = (Access::Write, Zero);
    Bind { timeline, object: DATA, offset: 0, len: LEN, address: BASE, access, foreign: 0, reserved }
}

impl Client {
    fn push(&mut self, entries: &[Entry]) {
        let mut left = entries;
        while !left.is_empty() {
            // As many at once as there is room for without another look.
            let pushed = self.producer.push_many(left).expect("there is room");
            left = left.get(pushed.count..).expect("no more than there are");
        }
    }

    fn reap(&mut self) -> Completion {
        self.reap_or_end().expect("the ring goes on")
    }

    fn reap_or_end(&mut self) -> Result<Completion, ReapError> {
        let completion = self.reaper.wait(clock::deadline_in(10_000_000_000))?;
        Ok(completion.expect("it never came"))
    }

    /// Has entries run, and gives how they ended.
    fn run(&mut self, entries: &[Entry]) -> Vec<Completion> {
        self.push(entries);
        entries.iter().map(|_| self.reap()).collect()
    }

    fn run_one(&mut self, entry: Entry) -> Completion {
        self.run(&[entry]).remove(0)
    }
}

fn entry(work: Work) -> Entry {
    Entry { user: 99, order: Order::empty(), work }
}

fn call(op: u16, operands: [Option<(u64, u64)>; 2], arguments: Arguments) -> Call {
    let range = |(address, len)| VaRange::new(address, len).expect("addresses");
    Call { op, operands: operands.map(|operand| operand.map(range)), arguments }
}

fn copy(from: u64, into: u64, len: u64) -> Entry {
    entry(Work::Call(call(op::COPY, [Some((from, len)), Some((into, len))], Arguments::NONE)))
}

/// A copy of 8 bytes that works.
fn good() -> Entry {
    copy(BASE, BASE + 64, 8)
}

/// An operation that takes nothing.
fn bare(op: u16) -> Entry {
    entry(Work::Call(call(op, [None; 2], Arguments::NONE)))
}

fn chained(entry: Entry) -> Entry {
    Entry { order: Order::CHAIN, ..entry }
}

fn code(completion: &Completion) -> Option<ErrorCode> {
    completion.failure.map(|failure| failure.code)
}
