//! A whole instance on a socket pair, with the test as its broker.

mod going_on;
mod leaving;
mod ring;
mod sealed;
mod waiting;

use super::*;
use crate::engine::{OperandBytes, Staging, Task};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vgem_os::clock;
use vgem_os::fence::{KeeperFace, PagePair, PointState};
use vgem_os::memory::{HugePages, ObjectMemory, Probe};
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point, Time, TimelineKey};
use vgem_proto::jobs::{
    Completion, DriverJob, DriverOperand, DriverParam, DriverWait, OPERAND_FOREIGN, OPERAND_INDIRECT,
    PAGE_LOCAL, ParamSource,
};
use vgem_proto::layout::result_cell;
use vgem_proto::message::driver::{
    CloseTimeline, ObservePage, OpenTimeline, Publish, Run, SignalPage, Start, Unmap, Unmapped,
};
use vgem_proto::rights::{Access, WaitKind};

/// Adds a number to every byte of its operand; fails on 13, panics on 14. Its digest says whether through windows.
/// On 15 it says that it has begun, and ends when it is let.
struct Adder {
    inline: u64,
    gate: Arc<Gate>,
}

/// Where a job waits for its test.
#[derive(Default)]
struct Gate {
    begun: AtomicBool,
    open: AtomicBool,
}

fn wait_for(what: &AtomicBool) {
    let deadline = clock::now() + 10_000_000_000;
    while !what.load(Ordering::Acquire) {
        assert!(clock::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

impl Engine for Adder {
    fn description(&self) -> Description {
        let add = Operation::new(0, "add", "adds to every byte")
            .operand("data", Direction::InOut, Touch::InPlace)
            .number("by", "what to add", 0, 255, Some(1))
            .with_result("the number added");
        Description::new("adder", "a device for tests", 2).operation(add)
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        let by = task.number(0);
        assert!(by != 14, "fourteen");
        if by == 15 {
            self.gate.begun.store(true, Ordering::Release);
            wait_for(&self.gate.open);
        }
        if by == 13 {
            return Err(JobError::new(ErrorCode::Io, "thirteen"));
        }
        let Some(OperandBytes::Write(data)) = task.operand(0).map(|o| o.bytes) else { panic!("no operand") };
        let mut copy = vec![0; data.len()];
        data.copy_to(0, &mut copy).expect("in range");
        for byte in &mut copy {
            *byte = byte.wrapping_add(u8::try_from(by).expect("at most 255"));
        }
        data.copy_from(0, &copy).expect("in range");
        task.set_len(copy.len() as u64);
        task.set_value(by);
        task.set_digest(&[u8::from(task.staging(0) == Staging::Windows)]);
        Ok(())
    }

    fn inline_bytes(&self, _op: u16) -> u64 {
        self.inline
    }
}

const QUEUE: TimelineKey = TimelineKey { index: 0, generation: 5 };
const OTHER: TimelineKey = TimelineKey { index: 1, generation: 6 };
const DATA: ObjectKey = ObjectKey { index: 0, generation: 1 };
const FAR: u64 = u64::MAX;

/// The broker's and the client's side of one instance.
struct Rig {
    link: Socket,
    driver: Option<std::thread::JoinHandle<Result<(), Fault>>>,
    memory: ObjectMemory,
    page: KeeperFace,
    client: ObserverFace,
    completions: Vec<Completion>,
    inline: u64,
    executors: Option<u16>,
    gate: Arc<Gate>,
}

fn open(timeline: TimelineKey) -> OpenTimeline {
    OpenTimeline {
        timeline,
        client: ClientKey::default(),
        domain: DomainId(0),
        value: Point(0),
        at: Time(0),
        priority: 0,
        reserved: Zero,
        failures: Vec::new(),
    }
}

impl Rig {
    fn new(inline: u64) -> Self {
        Self::with_executors(inline, None)
    }

    fn with_executors(inline: u64, executors: Option<u16>) -> Self {
        let (link, theirs) = Socket::pair().expect("a socket pair");
        let gate = Arc::new(Gate::default());
        let memory = ObjectMemory::create(4096, HugePages::None, "test").expect("a page");
        let page = PagePair::create().expect("two pages");
        let client = ObserverFace::map(page.observer_fds().expect("fds")).expect("pages");
        let (driver, completions) = (None, Vec::new());
        let mut rig = Self { link, driver, memory, page, client, completions, inline, executors, gate };
        rig.start(theirs, InstanceId(3));
        for (slot, timeline) in [(0, QUEUE), (1, OTHER)] {
            rig.tell(open(timeline), &[]);
            rig.tell(Publish { timeline, page: PageId(0), slot, reserved: Zero }, &[]);
        }
        rig.map(DATA, &rig.memory, Access::Write);
        rig
    }

    /// Starts an instance and gives it the page to signal in.
    fn start(&mut self, link: Socket, instance: InstanceId) {
        let options = Options { unconfined: true, executors: self.executors, ..Options::default() };
        let adder = Adder { inline: self.inline, gate: Arc::clone(&self.gate) };
        self.driver = Some(std::thread::spawn(move || serve_on(adder, link, &options)));
        self.tell(Start { instance, domain: DomainId(0) }, &[]);
        let fds = self.page.signaller_fds().expect("fds");
        self.tell(SignalPage { page: PageId(0) }, &[fds.page.as_fd(), fds.interest.as_fd()]);
    }

    /// Has an object mapped, as long as its memory is.
    fn map(&self, object: ObjectKey, memory: &ObjectMemory, access: Access) {
        let fd = memory.export(access).expect("an fd");
        self.tell(Map { object, len: memory.len(), access, reserved: Zero }, &[fd.as_fd()]);
    }

    fn tell(&self, message: impl Into<DriverMessage>, fds: &[BorrowedFd<'_>]) {
        self.link.send(&message.into().encode(0, Time(0), 0), fds).expect("the driver reads");
    }

    /// Reads the link until a message satisfies `want`; completions on the way are kept.
    fn hear<T>(&mut self, mut want: impl FnMut(&DriverMessage) -> Option<T>) -> T {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        loop {
            let Ok(Packet::Data { len }) = self.link.recv_plain(&mut buf) else {
                panic!("the driver went away")
            };
            let (_, message) =
                DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("drivers speak well");
            if let DriverMessage::Complete(complete) = &message {
                self.completions.extend(complete.completions.iter().copied());
            }
            if let Some(found) = want(&message) {
                return found;
            }
        }
    }

    /// The client's side: sleeps until a point of a queue has ended.
    fn outcome(&self, queue: TimelineKey, point: u64) -> PointState {
        let slot = Slot::new(u16::try_from(queue.index).expect("0 or 1")).expect("a slot");
        loop {
            let seen = self.client.doorbell();
            self.client.set_interest(slot, point);
            match self.client.state(slot, queue.generation, point) {
                PointState::Pending => {
                    let deadline = clock::now() + 10_000_000_000;
                    assert_eq!(self.client.sleep(seen, deadline), Ok(vgem_os::futex::Wake::Rung));
                }
                ended => return ended,
            }
        }
    }

    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        read(&self.memory, offset, len)
    }

    fn write_u64(&self, offset: usize, value: u64) {
        let fd = self.memory.export(Access::Write).expect("an fd");
        let mapping = Mapping::map(fd.as_fd(), 4096, Access::Write, Populate::Lazy).expect("a mapping");
        mapping.span_mut().expect("writable").write_u64(offset, value).expect("in range");
    }

    fn ends(mut self) {
        let driver = self.driver.take();
        drop(self.link);
        let ended = driver.map(|d| d.join().expect("no panic"));
        assert!(matches!(ended, Some(Ok(()))), "{ended:?}");
    }

    /// The driver ends while its broker still holds the link; why.
    fn leaves(mut self) -> Fault {
        let driver = self.driver.take().expect("it is joined once");
        self.link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let mut buf = vec![0; limits::MESSAGE_LEN];
        loop {
            match self.link.recv_plain(&mut buf) {
                Ok(Packet::Closed) => break,
                Ok(_) => {}
                // It left without reading everything.
                Err(e) if e.errno() == vgem_os::Errno::CONNRESET => break,
                Err(e) => panic!("the driver is still there: {e}"),
            }
        }
        driver.join().expect("no panic").expect_err("it leaves by itself")
    }
}

fn read(memory: &ObjectMemory, offset: usize, len: usize) -> Vec<u8> {
    let fd = memory.export(Access::Read).expect("an fd");
    let mapping = Mapping::map(fd.as_fd(), 4096, Access::Read, Populate::Lazy).expect("a mapping");
    let mut bytes = vec![0; len];
    mapping.span().copy_to(offset, &mut bytes).expect("in range");
    bytes
}

fn memory(len: u64) -> ObjectMemory {
    ObjectMemory::create(len, HugePages::None, "another").expect("a few pages")
}

fn is(state: PointState, code: ErrorCode) -> bool {
    matches!(state, PointState::Failed { code: found, .. } if found == code.number())
}

fn operand(offset: u64, len: u64) -> DriverOperand {
    DriverOperand {
        object: DATA,
        offset,
        len,
        cell_object: ObjectKey::default(),
        cell_offset: 0,
        number: 0,
        cell_word: 0,
        access: Access::Write,
        flags: 0,
        reserved: Zero,
    }
}

fn by(value: u64) -> DriverParam {
    let cell_object = ObjectKey::default();
    DriverParam { value, cell_object, max: 0, len: 0, number: 0, source: ParamSource::Value, cell_word: 0 }
}

fn run(
    queue: TimelineKey,
    point: u64,
    operands: Vec<DriverOperand>,
    params: Vec<DriverParam>,
    waits: Vec<DriverWait>,
) -> Run {
    let count = |n: usize| u16::try_from(n).expect("a few");
    let job = DriverJob {
        queue,
        point: Point(point),
        run_ns: 1_000_000_000,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op: 0,
        flags: 0,
        operands: count(operands.len()),
        params: count(params.len()),
        waits: count(waits.len()),
        reserved: Zero,
    };
    Run { jobs: vec![job], operands, params, waits, bytes: vec![] }
}

#[test]
fn a_job_runs_on_either_thread_and_its_client_sees_memory_cell_and_fence() {
    for inline in [0, FAR] {
        let mut rig = Rig::new(inline);
        let cell = DriverOperand { number: 1, ..operand(1024, 64) };
        rig.tell(run(QUEUE, 1, vec![operand(0, 8), cell], vec![by(7)], vec![]), &[]);
        assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
        assert_eq!(rig.read(0, 9), [7, 7, 7, 7, 7, 7, 7, 7, 0]);
        let cell = rig.read(1024 + 8 * result_cell::PRODUCED, 16);
        assert_eq!(cell, [8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        rig.hear(|m| matches!(m, DriverMessage::Complete(_)).then_some(()));
        let [completion] = rig.completions[..] else { panic!("{:?}", rig.completions) };
        assert_eq!((completion.timeline, completion.point, completion.code), (QUEUE, Point(1), 0));
        assert_eq!(completion.bytes, 72);
        rig.ends();
    }
}

// M-108
#[test]
fn the_cause_of_a_failure_reaches_the_broker_before_the_client_sees_it() {
    let mut rig = Rig::new(FAR);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(13)], vec![]), &[]);
    let PointState::Failed { code, cause, .. } = rig.outcome(QUEUE, 1) else { panic!("it failed") };
    assert_eq!(code, ErrorCode::Io.number());
    // What is not there by now came after the point.
    rig.link.set_nonblocking(true).expect("a socket of ours");
    let told = rig.hear(|m| match m {
        DriverMessage::Cause(c) => Some(c.clone()),
        _ => None,
    });
    assert_eq!((told.cause, told.text.as_slice()), (CauseId(cause), b"thirteen".as_slice()));
    assert_eq!(told.cause.issuer(), InstanceId(3));
    rig.ends();
}

// M-106, M-108
#[test]
fn a_job_that_has_failed_already_ends_so_without_running_and_sends_no_cause() {
    let mut rig = Rig::new(0);
    let mut failed = run(QUEUE, 1, vec![operand(0, 8)], vec![by(1)], vec![]);
    let inherited = CauseId::new(InstanceId(9), 4);
    failed.jobs[0].failed_cause = inherited;
    failed.jobs[0].failed_code = ErrorCode::Refused.number();
    rig.tell(failed, &[]);
    let state = rig.outcome(QUEUE, 1);
    assert!(is(state, ErrorCode::Refused), "{state:?}");
    assert!(matches!(state, PointState::Failed { cause, .. } if cause == inherited.0), "{state:?}");
    assert_eq!(rig.read(0, 1), [0], "the engine ran");
    rig.hear(|m| {
        assert!(!matches!(m, DriverMessage::Cause(_)), "{m:?}");
        matches!(m, DriverMessage::Complete(_)).then_some(())
    });
    let [completion] = rig.completions[..] else { panic!("{:?}", rig.completions) };
    assert_eq!((completion.started, completion.cause), (Time(0), inherited));
    rig.ends();
}

// M-110
#[test]
fn an_operand_that_is_foreign_goes_through_windows() {
    let rig = Rig::new(0);
    for (point, flags, windows) in [(1, 0, 0), (2, OPERAND_FOREIGN, 1)] {
        let data = DriverOperand { flags, ..operand(0, 8) };
        let cell = DriverOperand { number: 1, ..operand(1024, 64) };
        rig.tell(run(QUEUE, point, vec![data, cell], vec![], vec![]), &[]);
        assert!(matches!(rig.outcome(QUEUE, point), PointState::Ok { .. }));
        assert_eq!(rig.read(1024 + 8 * result_cell::DIGEST, 1), [windows], "flags {flags}");
    }
    rig.ends();
}

#[test]
fn a_panic_in_the_engine_is_that_jobs_failure() {
    let rig = Rig::new(0);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(14)], vec![]), &[]);
    rig.tell(run(QUEUE, 2, vec![operand(0, 8)], vec![by(1)], vec![]), &[]);
    let state = rig.outcome(QUEUE, 1);
    assert!(
        matches!(state, PointState::Failed { code, .. } if code == ErrorCode::DriverFault.number()),
        "{state:?}"
    );
    assert!(matches!(rig.outcome(QUEUE, 2), PointState::Ok { .. }));
    rig.ends();
}

#[test]
fn a_length_from_a_cell_is_used_and_one_beyond_the_maximum_fails() {
    let rig = Rig::new(0);
    let indirect =
        DriverOperand { cell_object: DATA, cell_offset: 2048, flags: OPERAND_INDIRECT, ..operand(0, 16) };
    rig.write_u64(2048, 3);
    rig.tell(run(QUEUE, 1, vec![indirect], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
    assert_eq!(rig.read(0, 4), [1, 1, 1, 0]);
    rig.write_u64(2048, 17);
    rig.tell(run(QUEUE, 2, vec![indirect], vec![], vec![]), &[]);
    let state = rig.outcome(QUEUE, 2);
    assert!(
        matches!(state, PointState::Failed { code, .. } if code == ErrorCode::IndirectTooLong.number()),
        "{state:?}"
    );
    rig.ends();
}

#[test]
fn an_object_that_is_not_mapped_fails_its_job_and_only_that() {
    let rig = Rig::new(0);
    let missing = DriverOperand { object: ObjectKey { index: 9, generation: 9 }, ..operand(0, 8) };
    rig.tell(run(QUEUE, 1, vec![missing], vec![], vec![]), &[]);
    rig.tell(run(OTHER, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    let state = rig.outcome(QUEUE, 1);
    assert!(
        matches!(state, PointState::Failed { code, .. } if code == ErrorCode::MapFailed.number()),
        "{state:?}"
    );
    assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }));
    rig.ends();
}

#[test]
fn a_job_waits_for_another_process_and_starts_when_that_signals() {
    let rig = Rig::new(0);
    let far = PagePair::create().expect("two pages");
    let signaller = SignallerFace::map(far.signaller_fds().expect("fds")).expect("pages");
    let fds = far.observer_fds().expect("fds");
    rig.tell(ObservePage { page: PageId(0) }, &[fds.page.as_fd(), fds.interest.as_fd()]);
    let timeline = TimelineKey { index: 70, generation: 71 };
    let wait = DriverWait {
        timeline,
        point: Point(1),
        page: 0,
        slot: 4,
        kind: WaitKind::Data,
        flags: 0,
        reserved: Zero,
    };
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![wait]), &[]);
    // A job that does not wait overtakes it on another queue: so the first is parked by now.
    rig.tell(run(OTHER, 1, vec![operand(8, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }));
    let slot = Slot::new(0).expect("a slot");
    assert_eq!(rig.client.state(slot, QUEUE.generation, 1), PointState::Pending);

    let slot = Slot::new(4).expect("a slot");
    signaller.publish(slot, 71, 0, 0, &[]);
    signaller.signal(slot, 1, 1, None).expect("1 is newer than 0");

    assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
    rig.ends();
}

// M-105, M-109
#[test]
fn a_thousand_jobs_on_two_queues_end_in_order_and_are_all_told() {
    let mut rig = Rig::new(4);
    for point in 1..=500 {
        // One byte runs inline, eight on an executor.
        rig.tell(run(QUEUE, point, vec![operand(0, 1 + 7 * (point % 2))], vec![], vec![]), &[]);
        let wait = DriverWait {
            timeline: QUEUE,
            point: Point(point),
            page: PAGE_LOCAL,
            slot: 0,
            kind: WaitKind::Data,
            flags: 0,
            reserved: Zero,
        };
        rig.tell(run(OTHER, point, vec![operand(64, 1)], vec![], vec![wait]), &[]);
        // As a broker does: read, or the link fills and both sides wait for the other.
        while point % 20 == 0 && (rig.completions.len() as u64) < 2 * point {
            rig.hear(|m| matches!(m, DriverMessage::Complete(_)).then_some(()));
        }
    }
    assert!(matches!(rig.outcome(OTHER, 500), PointState::Ok { .. }));
    for queue in [QUEUE, OTHER] {
        let points: Vec<u64> =
            rig.completions.iter().filter(|c| c.timeline == queue).map(|c| c.point.0).collect();
        assert_eq!(points, (1..=500).collect::<Vec<_>>());
    }
    assert_eq!(rig.read(64, 1), [244]);
    rig.ends();
}

#[test]
fn a_closed_queue_is_told_after_its_last_completion() {
    let mut rig = Rig::new(0);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    rig.tell(CloseTimeline { timeline: QUEUE }, &[]);
    let closed = rig.hear(|m| match m {
        DriverMessage::TimelineClosed(c) => Some(c.timeline),
        _ => None,
    });
    assert_eq!((closed, rig.completions.len()), (QUEUE, 1));
    rig.ends();
}

// M-102
#[test]
fn a_second_map_of_an_object_replaces_its_mapping() {
    let mut rig = Rig::new(0);
    let mapped = |m: &DriverMessage| matches!(m, DriverMessage::Mapped(_)).then_some(());
    rig.hear(mapped);
    let second = memory(4096);
    rig.map(DATA, &second, Access::Read);
    rig.hear(mapped);
    assert_eq!(rig.memory.probe(), Ok(Probe::Free), "the first is still held");
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    let state = rig.outcome(QUEUE, 1);
    assert!(is(state, ErrorCode::MapFailed), "{state:?}: it was mapped for reading");
    rig.map(DATA, &second, Access::Write);
    rig.tell(run(QUEUE, 2, vec![operand(4088, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(QUEUE, 2), PointState::Ok { .. }));
    assert_eq!((read(&second, 4095, 1), rig.read(4095, 1)), (vec![1], vec![0]));
    rig.ends();
}

// M-102
#[test]
fn memory_that_is_not_what_map_says_is_not_mapped() {
    let mut rig = Rig::new(0);
    let (memory, key) = (memory(4096), ObjectKey { index: 4, generation: 4 });
    let file = std::fs::File::open("/dev/zero").expect("every machine has it");
    let (writable, readable) =
        (memory.export(Access::Write).expect("an fd"), memory.export(Access::Read).expect("an fd"));
    for (fd, len, access) in [
        (writable.as_fd(), 8192, Access::Write),
        (readable.as_fd(), 4096, Access::Write),
        (file.as_fd(), 4096, Access::Read),
    ] {
        rig.tell(Map { object: key, len, access, reserved: Zero }, &[fd]);
        let object = rig.hear(|m| match m {
            DriverMessage::NotMapped(not) => Some(not.object),
            DriverMessage::Mapped(mapped) if mapped.object == key => panic!("{len} bytes for {access:?}"),
            _ => None,
        });
        assert_eq!(object, key);
    }
    rig.tell(run(QUEUE, 1, vec![DriverOperand { object: key, ..operand(0, 8) }], vec![], vec![]), &[]);
    let state = rig.outcome(QUEUE, 1);
    assert!(is(state, ErrorCode::MapFailed), "{state:?}");
    rig.ends();
}

// M-104
#[test]
fn what_the_broker_tells_is_done_in_its_order() {
    let rig = Rig::new(FAR);
    let (memory, key) = (memory(4096), ObjectKey { index: 5, generation: 5 });
    let third = TimelineKey { index: 2, generation: 7 };
    let far = PagePair::create().expect("two pages");
    let signaller = SignallerFace::map(far.signaller_fds().expect("fds")).expect("pages");
    let from = TimelineKey { index: 70, generation: 71 };
    signaller.publish(Slot::new(4).expect("a slot"), from.generation, 1, 1, &[]);
    let kind = WaitKind::Data;
    let wait =
        DriverWait { timeline: from, point: Point(1), page: 3, slot: 4, kind, flags: 0, reserved: Zero };
    let data = DriverOperand { object: key, ..operand(0, 8) };
    // Nothing is waited for on the way: queue, slot, object and page are each told just before they are named.
    rig.tell(open(third), &[]);
    rig.tell(Publish { timeline: third, page: PageId(0), slot: 2, reserved: Zero }, &[]);
    let fds = far.observer_fds().expect("fds");
    rig.tell(ObservePage { page: PageId(3) }, &[fds.page.as_fd(), fds.interest.as_fd()]);
    rig.tell(run(third, 1, vec![data], vec![], vec![]), &[]);
    rig.map(key, &memory, Access::Write);
    rig.tell(run(third, 2, vec![data], vec![], vec![wait]), &[]);
    rig.tell(Unmap { object: key }, &[]);
    rig.tell(run(third, 3, vec![data], vec![], vec![]), &[]);
    let [before, mapped, after] = [1, 2, 3].map(|point| rig.outcome(third, point));
    assert!(is(before, ErrorCode::MapFailed), "{before:?}");
    assert!(matches!(mapped, PointState::Ok { .. }), "{mapped:?}");
    assert!(is(after, ErrorCode::MapFailed), "{after:?}");
    rig.ends();
}

// M-101
#[test]
fn a_broker_that_breaks_the_protocol_is_left() {
    let nobody = TimelineKey { index: 9, generation: 9 };
    let slot = |slot| Publish { timeline: QUEUE, page: PageId(0), slot, reserved: Zero };
    let wrong: [DriverMessage; 7] = [
        Unmapped { object: DATA }.into(),
        open(QUEUE).into(),
        run(nobody, 1, vec![], vec![], vec![]).into(),
        slot(15).into(),
        Publish { page: PageId(1), ..slot(3) }.into(),
        Publish { timeline: nobody, ..slot(3) }.into(),
        vgem_proto::message::driver::DropSignalPage { page: PageId(65_535) }.into(),
    ];
    for message in wrong {
        let (rig, name) = (Rig::new(0), message.row().name);
        rig.tell(message, &[]);
        let why = rig.leaves();
        assert!(matches!(why, Fault::Broke(_) | Fault::Malformed(_)), "{name}: {why}");
    }
    for bytes in [vec![7; 40], vec![7; 100_000]] {
        let rig = Rig::new(0);
        rig.link.send(&bytes, &[]).expect("the driver reads");
        let why = rig.leaves();
        assert!(matches!(why, Fault::Broke(_) | Fault::Malformed(_)), "{why}");
    }
}

// M-101
#[test]
fn no_page_has_the_number_that_means_a_timeline_of_ones_own() {
    let pair = PagePair::create().expect("two pages");
    let page = PageId(u32::from(PAGE_LOCAL));
    let (signals, observes) = (Rig::new(0), Rig::new(0));
    let fds = pair.signaller_fds().expect("fds");
    signals.tell(SignalPage { page }, &[fds.page.as_fd(), fds.interest.as_fd()]);
    let fds = pair.observer_fds().expect("fds");
    observes.tell(ObservePage { page }, &[fds.page.as_fd(), fds.interest.as_fd()]);
    for why in [signals.leaves(), observes.leaves()] {
        assert!(matches!(why, Fault::Broke(_)), "{why}");
    }
}
