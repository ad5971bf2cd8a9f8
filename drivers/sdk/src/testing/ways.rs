//! One call, as a tracked job, through a user queue on what is bound, and through one on the client's own memory: what
//! comes of it must be the same.
//!
//! ```text
//!                 ┌── object, Map, Run ──────────────────────► Complete ─────┐
//!   described ────┼── object, Map, Bind, entry in its ring ──► completion ───┼──► [ Seen; 3 ]
//!                 └── memory of the caller, entry ───────────► completion ───┘
//!                           one instance, served on a link
//! ```
//!
//! The helper is broker and client: everything goes over the link and through the ring as it does in earnest.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use vgem_os::client_memory;
use vgem_os::clock;
use vgem_os::process::{Child, Launch};
use vgem_os::ring::{KeeperRing, Producer, Reaper, map_client};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, OperandSpec, Operation};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point, Time, TimelineKey};
use vgem_proto::jobs::{DriverJob, DriverOperand, DriverParam, OPERAND_FOREIGN, ParamSource};
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{
    AttachMemory, AttachRing, Bind, CloseTimeline, DriverMessage, Map, OpenTimeline, Run, Start, Unbind,
    Unmap,
};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, BLOCK_LEN, Call, Completion, Depth, Entry, Order, VaOperand, VaParam, VaRange, Window, Work,
    encode_block,
};

use super::call::Peer;
use super::peer::Shared;
use crate::engine::{Engine, ParamValue};
use crate::options::Options;
use crate::serve::{Fault, LINK_FD, serve_on};

const TRACKED: TimelineKey = TimelineKey { index: 0, generation: 1 };
const USER: TimelineKey = TimelineKey { index: 1, generation: 1 };
const OWN: TimelineKey = TimelineKey { index: 2, generation: 1 };
/// Where the client of the user queue has the object.
const BASE: u64 = 0x7f12_3456_7000;
/// What operands begin at a multiple of, bytes.
const ALIGN: usize = 4096;
/// How long anything may take, nanoseconds.
const PATIENCE_NS: u64 = 60_000_000_000;

/// An operand of a described call.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Its bytes, which are read.
    Read(&'a [u8]),
    /// Its bytes before the call; those afterwards are in [`Seen::outputs`].
    Write(&'a [u8]),
}

impl<'a> Content<'a> {
    const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Read(bytes) | Self::Write(bytes) => bytes,
        }
    }
}

/// What a client sees of a call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The code, and the text of the cause.
    pub failure: Option<(ErrorCode, String)>,
    /// The operands that may be written, by number.
    pub outputs: Vec<(u8, Vec<u8>)>,
    /// Word 0 of the result cell: bytes produced.
    pub produced: u64,
    /// Word 1 of the result cell.
    pub value: u64,
    /// The digest in the result cell.
    pub digest: [u64; 4],
}

impl Seen {
    /// The same end of a call: also if one wrote something before it failed, and the other did not.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let same_outputs = self.outputs == other.outputs;
        let rest = |seen: &Self| (seen.failure.clone(), seen.produced, seen.value, seen.digest);
        rest(self) == rest(other) && (same_outputs || self.failure.is_some())
    }
}

/// Where an instance is.
#[derive(Debug)]
enum Server {
    Thread(JoinHandle<Result<(), Fault>>),
    Process(Child),
}

/// A ring, as its client has it.
#[derive(Debug)]
struct Halves {
    producer: Producer,
    reaper: Reaper,
}

impl Halves {
    /// Has an entry carried out; the completion.
    fn end(&mut self, entry: &Entry) -> Completion {
        self.producer.push(entry).expect("there is room");
        let completion = self.reaper.wait(clock::deadline_in(PATIENCE_NS)).expect("the ring goes on");
        completion.expect("it comes in a minute")
    }
}

/// An instance with a queue for jobs and two queues with rings.
#[derive(Debug)]
pub struct EveryWay {
    link: Socket,
    served_by: Option<Server>,
    description: Description,
    user: Halves,
    own: Halves,
    /// Calls so far; also the last job's point.
    calls: u32,
    /// The texts of causes that were told.
    causes: HashMap<CauseId, String>,
}

impl EveryWay {
    /// Starts an instance in a thread.
    ///
    /// # Panics
    /// If the system has no memory, or the instance does not serve.
    #[must_use]
    pub fn of<E: Engine>(engine: E) -> Self {
        let (link, theirs) = Socket::pair().expect("a socket pair");
        let options = Options { unconfined: true, ..Options::default() };
        Self::start(link, Server::Thread(std::thread::spawn(move || serve_on(engine, theirs, &options))))
    }

    /// Starts a driver's program, which confines itself.
    ///
    /// # Panics
    /// As [`EveryWay::of`]; if there is no such program.
    #[must_use]
    pub fn of_program(program: &str) -> Self {
        let (link, theirs) = Socket::pair().expect("a socket pair");
        let mut launch = Launch::new(program);
        launch.fds.push((theirs.into(), LINK_FD));
        launch.die_with_parent = true;
        Self::start(link, Server::Process(launch.start().expect("the program")))
    }

    fn start(link: Socket, server: Server) -> Self {
        link.set_recv_timeout(Some(Duration::from_nanos(PATIENCE_NS))).expect("a socket of ours");
        let rings = [(); 2].map(|()| KeeperRing::create(Depth::new(8).expect("a depth")).expect("memory"));
        let [user, own] = rings.each_ref().map(|keeper| {
            let (producer, reaper) = map_client(keeper.export().expect("an fd").as_fd()).expect("a ring");
            Halves { producer, reaper }
        });
        let (calls, causes, description) = (0, HashMap::new(), Description::new("", "", 0));
        let served_by = Some(server);
        let mut ways = Self { link, served_by, description, user, own, calls, causes };
        ways.description = ways
            .hear(|m| match m {
                DriverMessage::Ready(ready) => Some(Description::decode(&ready.description)),
                _ => None,
            })
            .expect("a description");
        ways.tell(Start { instance: InstanceId(3), domain: DomainId(0) }, &[]);
        for timeline in [TRACKED, USER, OWN] {
            ways.tell(open(timeline), &[]);
        }
        for (timeline, keeper) in [USER, OWN].into_iter().zip(&rings) {
            let ring = keeper.export().expect("an fd");
            ways.tell(AttachRing { timeline, depth: 8, reserved: Zero }, &[ring.as_fd()]);
            let errno = ways.hear(|m| match m {
                DriverMessage::RingReady(ready) => Some(ready.errno),
                _ => None,
            });
            assert_eq!(errno, 0, "the ring is mapped");
        }
        let memory = client_memory::own(Access::Write).expect("a dumpable process");
        let window = Window { address: 1, len: (1 << 63) - 1, access: Access::Write, reserved: Zero };
        ways.tell(AttachMemory { timeline: OWN, windows: vec![window] }, &[memory.as_fd()]);
        ways.hear(|m| matches!(m, DriverMessage::WindowsSet(_)).then_some(()));
        ways
    }

    /// Calls an operation with operands by number, as a job, through a ring on an object that is bound, and through a ring
    /// on this process's own memory, and answers what is seen, in this order. `params` has one entry per parameter of the
    /// operation. What fails on own memory must have changed nothing but the result cell.
    ///
    /// # Panics
    /// If the engine does not describe the operation, or something does not come within a minute.
    pub fn call(
        &mut self,
        peer: Peer,
        op: u16,
        params: &[ParamValue<'_>],
        operands: &[(u8, Content<'_>)],
    ) -> [Seen; 3] {
        let operation = self.description.by_number(op).expect("the operation is described").clone();
        self.calls += 1;
        let foreign = peer == Peer::OtherDomain;
        let laid = Laid::new(&operation, params, operands, BASE);
        let tracked =
            self.in_object(2 * self.calls, &laid, |ways, object| ways.as_job(&laid, object, foreign));
        let tracked = laid.seen(tracked);
        let laid = Laid::new(&operation, params, operands, BASE);
        let user =
            self.in_object(2 * self.calls + 1, &laid, |ways, object| ways.as_entry(&laid, object, foreign));
        let user = laid.seen(user);
        let mut laid = Laid::new(&operation, params, operands, BASE);
        laid.base = laid.object.span().as_ptr().addr() as u64;
        let own = self.on_own_memory(&laid);
        let own = laid.seen(own);
        if own.failure.is_some() {
            let before = operands.iter().filter_map(|(number, content)| match content {
                Content::Write(bytes) => Some((*number, bytes.to_vec())),
                Content::Read(_) => None,
            });
            assert_eq!(own.outputs, before.collect::<Vec<_>>(), "what failed has written something");
        }
        [tracked, user, own]
    }

    /// Has an object mapped while something is done with it; why that failed.
    fn in_object(
        &mut self,
        index: u32,
        laid: &Laid,
        what: impl FnOnce(&mut Self, ObjectKey) -> (u32, CauseId),
    ) -> Option<(ErrorCode, String)> {
        let object = ObjectKey { index, generation: 1 };
        let memory = laid.object.memory();
        let fd = memory.export(Access::Write).expect("an fd");
        let (len, access) = (memory.len(), Access::Write);
        self.tell(Map { object, len, access, reserved: Zero }, &[fd.as_fd()]);
        self.hear(|m| matches!(m, DriverMessage::Mapped(_)).then_some(()));
        let (code, cause) = what(self, object);
        self.tell(Unmap { object }, &[]);
        self.hear(|m| matches!(m, DriverMessage::Unmapped(_)).then_some(()));
        let text = self.causes.remove(&cause);
        (code != 0).then(|| (ErrorCode::from_number(code), text.expect("the cause was told")))
    }

    fn as_job(&mut self, laid: &Laid, object: ObjectKey, foreign: bool) -> (u32, CauseId) {
        self.tell(laid.run(object, u64::from(self.calls), foreign), &[]);
        self.hear(|m| match m {
            DriverMessage::Complete(done) => done.completions.first().map(|c| (c.code, c.cause)),
            _ => None,
        })
    }

    fn as_entry(&mut self, laid: &Laid, object: ObjectKey, foreign: bool) -> (u32, CauseId) {
        let (timeline, address, len) = (USER, BASE, laid.object.memory().len());
        let (offset, access, reserved) = (0, Access::Write, Zero);
        let foreign = u8::from(foreign);
        self.tell(Bind { timeline, object, offset, len, address, access, foreign, reserved }, &[]);
        let code = self.hear(|m| match m {
            DriverMessage::Bound(bound) => Some(bound.code),
            _ => None,
        });
        assert_eq!(code, 0, "it is bound");
        let completion = self.user.end(&laid.entry());
        let cell = [result_cell::PRODUCED, result_cell::VALUE].map(|word| laid.cell_word(word));
        assert_eq!([completion.produced, completion.value], cell, "the completion says what the cell says");
        self.tell(Unbind { timeline, address }, &[]);
        self.hear(|m| matches!(m, DriverMessage::Unbound(_)).then_some(()));
        completion.failure.map_or((0, CauseId::NONE), |failure| (failure.code.number(), failure.cause))
    }

    /// Through the ring that reaches this process's own memory; why it failed.
    fn on_own_memory(&mut self, laid: &Laid) -> Option<(ErrorCode, String)> {
        let completion = self.own.end(&laid.entry());
        let cell = [result_cell::PRODUCED, result_cell::VALUE].map(|word| laid.cell_word(word));
        assert_eq!([completion.produced, completion.value], cell, "the completion says what the cell says");
        let failure = completion.failure?;
        let text = match self.causes.remove(&failure.cause) {
            Some(text) => text,
            None => self.hear_cause(failure.cause),
        };
        Some((failure.code, text))
    }

    fn hear_cause(&mut self, of: CauseId) -> String {
        self.hear(|m| matches!(m, DriverMessage::Cause(cause) if cause.cause == of).then_some(()));
        self.causes.remove(&of).expect("it was just told")
    }

    fn tell(&self, message: impl Into<DriverMessage>, fds: &[BorrowedFd<'_>]) {
        self.link.send(&message.into().encode(0, Time(0), 0), fds).expect("the instance reads");
    }

    /// Reads the link until a message is what is wanted; the texts of causes on the way are kept.
    fn hear<T>(&mut self, want: impl Fn(&DriverMessage) -> Option<T>) -> T {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        loop {
            let Ok(Packet::Data { len }) = self.link.recv_plain(&mut buf) else { panic!("nothing comes") };
            let bytes = buf.get(..len).unwrap_or_default();
            let (_, message) = DriverMessage::decode(bytes, Sender::Driver, 0).expect("drivers speak well");
            if let DriverMessage::Cause(cause) = &message {
                self.causes.insert(cause.cause, String::from_utf8_lossy(&cause.text).into_owned());
            }
            if let Some(wanted) = want(&message) {
                return wanted;
            }
        }
    }
}

impl Drop for EveryWay {
    /// Closes the ring's queue, then the link, and waits until the instance has ended.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for timeline in [USER, OWN] {
            self.tell(CloseTimeline { timeline }, &[]);
            self.hear(|m| {
                matches!(m, DriverMessage::TimelineClosed(c) if c.timeline == timeline).then_some(())
            });
        }
        drop(std::mem::replace(&mut self.link, Socket::pair().expect("a socket pair").0));
        match self.served_by.take() {
            Some(Server::Thread(thread)) => {
                let ended = thread.join();
                assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
            }
            Some(Server::Process(mut child)) => {
                let ended = child.wait().expect("it is ours");
                assert!(ended.success(), "{ended:?}");
            }
            None => {}
        }
    }
}

fn open(timeline: TimelineKey) -> OpenTimeline {
    let (client, domain) = (ClientKey::default(), DomainId(0));
    let (value, at, failures) = (Point(0), Time(0), Vec::new());
    OpenTimeline { timeline, client, domain, value, at, priority: 0, reserved: Zero, failures }
}

/// A call in an object of its own: operands, result cell, bytes of parameters, and room for a block.
struct Laid {
    object: Shared,
    /// Where entries find the object.
    base: u64,
    op: u16,
    operands: Vec<Place>,
    cell: usize,
    cell_number: u8,
    params: Vec<Given>,
    /// The bytes of parameters.
    bytes: Vec<u8>,
    bytes_at: usize,
    block_at: usize,
}

/// Where an operand is.
#[derive(Clone, Copy)]
struct Place {
    number: u8,
    offset: usize,
    len: usize,
    access: Access,
}

/// A parameter that is given: a number, or bytes from a place of all their bytes on.
#[derive(Clone, Copy)]
struct Given {
    number: u16,
    source: ParamSource,
    value: u64,
    len: u32,
}

impl Laid {
    fn new(
        operation: &Operation,
        params: &[ParamValue<'_>],
        operands: &[(u8, Content<'_>)],
        base: u64,
    ) -> Self {
        let (mut places, mut end) = (Vec::new(), 0);
        for (number, content) in operands {
            let len = content.bytes().len();
            let access = if matches!(content, Content::Read(_)) { Access::Read } else { Access::Write };
            places.push(Place { number: *number, offset: end, len, access });
            // Whatever is written behind an operand is in nobody's.
            end += (len + 1).next_multiple_of(ALIGN);
        }
        let (mut given, mut bytes) = (Vec::new(), Vec::new());
        for (number, param) in (0..).zip(params) {
            match param {
                ParamValue::Absent => {}
                ParamValue::Number(value) => {
                    given.push(Given { number, source: ParamSource::Value, value: *value, len: 0 });
                }
                ParamValue::Bytes(own) => {
                    let (value, len) = (bytes.len() as u64, u32::try_from(own.len()).expect("short"));
                    given.push(Given { number, source: ParamSource::Bytes, value, len });
                    bytes.extend_from_slice(own);
                }
            }
        }
        let is_cell = |operand: &OperandSpec| operand.direction == Direction::Cell;
        let cell_number = operation.operands.iter().position(is_cell).expect("it has a result cell");
        let (cell, block_at, bytes_at) = (end, end + 64, end + ALIGN);
        let object = Shared::new(bytes_at + bytes.len().next_multiple_of(ALIGN));
        for (place, (_, content)) in places.iter().zip(operands) {
            object.span().copy_from(place.offset, content.bytes()).expect("inside");
        }
        object.span().copy_from(bytes_at, &bytes).expect("inside");
        let cell_number = u8::try_from(cell_number).expect("few operands");
        Self {
            object,
            base,
            op: operation.number,
            operands: places,
            cell,
            cell_number,
            params: given,
            bytes,
            bytes_at,
            block_at,
        }
    }

    /// The operands, and the result cell.
    fn places(&self) -> impl Iterator<Item = Place> {
        let cell = Place {
            number: self.cell_number,
            offset: self.cell,
            len: result_cell::LEN,
            access: Access::Write,
        };
        self.operands.iter().copied().chain([cell])
    }

    /// As a tracked job.
    fn run(&self, object: ObjectKey, point: u64, foreign: bool) -> Run {
        let operands: Vec<_> = self
            .places()
            .map(|place| DriverOperand {
                object,
                offset: place.offset as u64,
                len: place.len as u64,
                cell_object: ObjectKey::default(),
                cell_offset: 0,
                number: place.number,
                cell_word: 0,
                access: place.access,
                flags: if foreign { OPERAND_FOREIGN } else { 0 },
                reserved: Zero,
            })
            .collect();
        let cell_object = ObjectKey::default();
        let param = |given: &Given| {
            let &Given { number, source, value, len } = given;
            DriverParam { value, cell_object, max: 0, len, number, source, cell_word: 0 }
        };
        let params: Vec<_> = self.params.iter().map(param).collect();
        let count = |count: usize| u16::try_from(count).expect("few");
        let job = DriverJob {
            queue: TRACKED,
            point: Point(point),
            run_ns: PATIENCE_NS,
            failed_cause: CauseId::NONE,
            failed_code: 0,
            op: self.op,
            flags: 0,
            operands: count(operands.len()),
            params: count(params.len()),
            waits: 0,
            reserved: Zero,
        };
        Run { jobs: vec![job], operands, params, waits: vec![], bytes: self.bytes.clone() }
    }

    /// As an entry: without a block if it fits, with what does not in a block.
    fn entry(&self) -> Entry {
        let address = |offset: usize| self.base + offset as u64;
        let range = |place: Place| VaRange::new(address(place.offset), place.len as u64).expect("addresses");
        let inline = [0, 1].map(|number| self.places().find(|place| place.number == number).map(range));
        let rest: Vec<_> = self
            .places()
            .filter(|place| place.number > 1)
            .map(|place| VaOperand {
                address: address(place.offset),
                len: place.len as u64,
                cell: 0,
                number: place.number,
                cell_word: 0,
                reserved: Zero,
            })
            .collect();
        let (op, user, order) = (self.op, u64::MAX, Order::empty());
        let arguments = match (rest.is_empty(), self.inline_params()) {
            (true, Some(arguments)) => arguments,
            _ => {
                let block = encode_block(&rest, &self.block_params()).expect("no more than a job may have");
                self.object.span().copy_from(self.block_at, &block).expect("there is room");
                Arguments::Block(VaRange::new(address(self.block_at), block.len() as u64).expect("addresses"))
            }
        };
        Entry { user, order, work: Work::Call(Call { op, operands: inline, arguments }) }
    }

    fn inline_params(&self) -> Option<Arguments> {
        let (mut first, mut second) = (None, None);
        for given in &self.params {
            match (given.number, given.source) {
                (0, ParamSource::Value) => first = Some(given.value),
                (1, ParamSource::Value) => second = Some(u32::try_from(given.value).ok()?),
                _ => return None,
            }
        }
        Some(Arguments::Inline { first, second })
    }

    fn block_params(&self) -> Vec<VaParam> {
        let param = |given: &Given| {
            let &Given { number, source, value, len } = given;
            let value =
                if source == ParamSource::Bytes { self.base + self.bytes_at as u64 + value } else { value };
            VaParam { value, max: 0, len, number, source, cell_word: 0 }
        };
        self.params.iter().map(param).collect()
    }

    fn cell_word(&self, word: usize) -> u64 {
        self.object.span().read_u64(self.cell + 8 * word).expect("inside")
    }

    fn seen(&self, failure: Option<(ErrorCode, String)>) -> Seen {
        let all = self.object.bytes();
        let outputs = self.operands.iter().filter(|place| place.access == Access::Write);
        let bytes = |place: &Place| {
            let bytes = all.get(place.offset..place.offset + place.len).expect("inside");
            (place.number, bytes.to_vec())
        };
        Seen {
            failure,
            outputs: outputs.map(bytes).collect(),
            produced: self.cell_word(result_cell::PRODUCED),
            value: self.cell_word(result_cell::VALUE),
            digest: [0, 1, 2, 3].map(|word| self.cell_word(result_cell::DIGEST + word)),
        }
    }
}

const _: () = assert!(64 + BLOCK_LEN <= ALIGN);
