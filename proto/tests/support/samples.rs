//! One good value of every message, with every field and array filled.
//!
//! Values are chosen so that no two neighbouring fields of a message hold the same bytes: a swapped pair shows.

use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::domains::{QuotaKind, QuotaLimit};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{
    CauseId, ClientKey, DeviceId, DomainId, Handle, InstanceId, ObjectKey, PageId, Point, PorterId,
    QueueHandle, Time, TimelineHandle, TimelineKey,
};
use vgem_proto::jobs::{
    Completion, DriverWait, JOB_EXPLICIT, JOB_RUN_ANYWAY, Job, OPERAND_DISCARD, OPERAND_FOREIGN,
    OPERAND_INDIRECT, ObservedPoint, Operand, Param, ParamSource, PointFailure, PoisonedRange, ShownTimeline,
    TracedJob, TracedWait, WAIT_FOR_SUBMIT, WAIT_PROMISE, Wait,
};
use vgem_proto::message::{
    DOMAIN_STAYS, PROMISE_REPLY, SUBMIT_REPLY, client as c, control as o, driver as d, keeper as k,
    porter as p,
};
use vgem_proto::rights::{Access, HugePages, Rights, TimelineRights, WaitKind};
use vgem_proto::snapshot::Topic;
use vgem_proto::user_queue::Window;

use super::{Link, Message, Sample};

/// The samples of a link.
pub(crate) fn of(link: Link) -> Vec<Sample> {
    match link {
        Link::Client => client(),
        Link::Driver => driver(),
        Link::Keeper => keeper(),
        Link::Porter => porter(),
        Link::Control => control(),
    }
}

/// A description with everything that a description can have.
pub(crate) fn description() -> Description {
    Description::new("dev", "a device for tests", 2)
        .operation(
            Operation::new(7, "work", "does something")
                .not_idempotent()
                .operand("input", Direction::In, Touch::InPlace)
                .operand("output", Direction::Out, Touch::Windows)
                .optional()
                .len_between(16, 4096)
                .operand("state", Direction::InOut, Touch::InPlace)
                .number("level", "effort", 1, 9, Some(3))
                .number("seed", "start", 0, u64::MAX, None)
                .choice("format", "container", &["gzip", "zstd"], Some(1))
                .choice("mode", "which way", &["fast", "small"], None)
                .bytes("path", "where to", 255, true)
                .with_result("a checksum"),
        )
        .operation(Operation::new(8, "rest", "does nothing"))
}

const OBJECT: ObjectKey = ObjectKey { index: 0x0b01, generation: 0x0b02 };
const CELLS: ObjectKey = ObjectKey { index: 0x0c01, generation: 0x0c02 };
const TIMELINE: TimelineKey = TimelineKey { index: 0x0d01, generation: 0x0d02 };
const OTHER: TimelineKey = TimelineKey { index: 0x0e01, generation: 0x0e02 };
const CAUSE: CauseId = CauseId(0x0000_0005_0000_0017);

fn text(words: &str) -> Vec<u8> {
    words.as_bytes().to_vec()
}

fn client() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |flags: u16, message: c::ClientMessage| {
        let number = 0x0102_0304_0506_0700 + samples.len() as u64;
        let deadline = Time(0x1112_1314_1516_1718);
        samples.push(Sample { request: number, deadline, flags, message: Message::Client(message) });
    };
    let (object, queue) = (Handle(0x0010_0001), QueueHandle(0x0020_0002));
    add(
        0,
        c::Hello { version_min: 1, version_max: 2, reserved: Zero, features: 4, name: text("camera") }.into(),
    );
    let (objects, writer) = (vec![object, Handle(0x0010_0002)], DeviceId(3));
    let (huge, name) = (HugePages::Size2M, text("frame 1"));
    add(0, c::CreateObject { len: 0x20_3000, writer, count: 2, huge, reserved: Zero, name }.into());
    add(0, c::Commit { objects: objects.clone() }.into());
    add(0, c::CloseObject { object }.into());
    add(0, c::Export { object, access: Access::Write, reserved: Zero }.into());
    add(0, c::OpenPorter {}.into());
    add(0, c::Import { name: text("frame 2") }.into());
    add(0, c::Observe { object, access: Access::Write, reserved: Zero }.into());
    add(0, c::Rewritten { object, offset: 8192, len: 512 }.into());
    add(0, c::ListDevices {}.into());
    add(0, c::Describe { device: DeviceId(3) }.into());
    add(0, c::OpenQueue { device: DeviceId(3), depth: 64, priority: 3, reserved: Zero }.into());
    add(0, c::CloseQueue { queue }.into());
    let timeline = TimelineHandle(0x0030_0005);
    let token = [0x2122_2324_2526_2728, 0x3132_3334_3536_3738];
    add(0, c::CreateTimeline { name: text("frames") }.into());
    add(0, c::CloseTimeline { timeline }.into());
    add(0, c::ExportTimeline { timeline, rights: TimelineRights::SIGNAL, reserved: Zero }.into());
    add(0, c::ImportTimeline { token }.into());
    add(0, c::ObserveTimeline { timeline }.into());
    add(0, c::TakeShown {}.into());
    add(SUBMIT_REPLY, submit().into());
    add(0, c::Cancel { queue, point: Point(9) }.into());
    add(PROMISE_REPLY, c::Promise { timeline, point: Point(12), until: Time(0x5152_5354) }.into());
    let (point, code) = (Point(12), ErrorCode::CorruptInput);
    add(0, c::FailPoint { timeline, point, code, reserved: Zero, text: text("bad frame") }.into());
    add(0, c::QueryPoint { timeline, point }.into());
    let (queue, depth) = (QueueHandle(5), 64);
    add(0, c::AttachRing { queue, depth, reserved: Zero }.into());
    let (address, access, len) = (0x7f00_1234_5000, Access::Write, 4096);
    add(0, c::Bind { queue, object, offset: 8192, len, address, access, reserved: Zero }.into());
    add(0, c::Unbind { queue, address }.into());
    let window = |address, access| Window { address, len: 4096, access, reserved: Zero };
    let windows = vec![window(0x7f00_1234_5000, Access::Read), window(0x7f00_4321_0000, Access::Write)];
    add(0, c::AttachMemory { queue, windows: windows.clone() }.into());
    add(0, c::SetWindows { queue, windows: windows.clone() }.into());
    add(0, c::Explain { cause: CAUSE }.into());
    add(0, c::Inspect { cursor: 77, topic: Topic::Objects, reserved: Zero }.into());
    add(0, c::Monitor {}.into());
    let (domain, client) = (DomainId(1000), 5);
    let welcome =
        c::Welcome { token, features: 4, domain, client, version: 1, reserved: Zero, message_len: 65_536 };
    add(0, welcome.into());
    add(0, c::Done {}.into());
    let refused = c::Refused {
        code: ErrorCode::OutOfRange,
        job: 1,
        part: 2,
        value: 4097,
        limit: 4096,
        cause: CAUSE,
        text: text("4097 bytes from 0: the object has 4096"),
    };
    add(0, refused.into());
    let rights = Rights::all();
    add(0, c::ObjectCreated { len: 0x20_3000, rights, reserved: Zero, objects }.into());
    add(0, c::Committed { pinned: 0x20_2000 }.into());
    add(0, c::Exported { len: 0x20_3000 }.into());
    add(0, c::PorterOpened {}.into());
    add(0, c::Imported { object, len: 0x20_3000, rights: Rights::READ, state: 2 }.into());
    let observed = |point, slot, kind| ObservedPoint {
        timeline: TIMELINE,
        point: Point(point),
        page: PageId(6),
        slot,
        kind,
        reserved: Zero,
    };
    let points = vec![observed(9, 14, WaitKind::Data), observed(11, 3, WaitKind::Order)];
    let (cause, code) = (CAUSE, ErrorCode::CorruptInput);
    let poison = vec![PoisonedRange { offset: 4096, len: 512, cause, code, reserved: Zero }];
    add(0, c::Observed { pages: vec![PageId(6), PageId(7)], points, poison }.into());
    let ids = vec![DeviceId(1), DeviceId(3)];
    add(0, c::Devices { ids, names: text("copy\nzip") }.into());
    add(0, c::Described { device: DeviceId(3), description: description().encode() }.into());
    let opened =
        c::QueueOpened { queue, page: PageId(6), timeline: TIMELINE, depth: 64, slot: 14, reserved: Zero };
    add(0, opened.into());
    let rights = TimelineRights::all();
    let (key, page) = (TIMELINE, PageId(6));
    add(0, c::TimelineOpened { timeline, key, page, rights, slot: 14, reserved: Zero }.into());
    add(0, c::TimelineExported { token, until: Time(0x5152_5354) }.into());
    let promised = Point(12);
    add(0, c::TimelineObserved { key, page, promised, slot: 14, reserved: Zero }.into());
    let shown = |slot, shown| ShownTimeline { timeline, page, slot, shown, reserved: Zero };
    let (pages, places) = (vec![PageId(6), PageId(7)], vec![shown(14, 1), shown(3, 0)]);
    add(0, c::Shown { news: 9, more: 1, reserved: Zero, pages, places, dropped: vec![PageId(5)] }.into());
    add(0, c::Accepted {}.into());
    add(0, c::Cancelling { state: 1, reserved: Zero }.into());
    add(0, c::CauseIssued { cause: CAUSE }.into());
    add(0, c::PointState { state: 3, code: 71, cause: CAUSE, promised }.into());
    add(0, c::RingAttached { queue: QueueHandle(5), depth: 64, reserved: Zero }.into());
    let (device, at, point, pid) = (text("zip"), Time(0x4142), Point(9), 321);
    let code = ErrorCode::CorruptInput;
    let (timeline, client, object) = (TIMELINE, 5, text("frame 1"));
    let words = text("bad magic");
    let explained =
        c::Explained { cause: CAUSE, at, point, pid, code, timeline, client, device, text: words, object };
    add(0, explained.into());
    add(0, c::Page { next: 78, json: text("[{\"object\":\"object:1.1\"}]") }.into());
    let event = r#"{"at_ns":5,"domain":1000,"event":"client_gone","client":5}"#;
    add(0, c::Event { lost: 3, json: text(event) }.into());
    // Last, as what is added is, so that the vectors before stay as they are.
    add(0, c::CommitRing { queue: QueueHandle(5) }.into());
    let quotas = vec![QuotaLimit::new(QuotaKind::Bytes, 1 << 30), QuotaLimit::new(QuotaKind::Rings, 0)];
    let create =
        c::CreateDomain { name: text("stage-2"), quotas: quotas.clone(), uses: text("copy\nzip/compress") };
    add(DOMAIN_STAYS, create.into());
    let domain = DomainId(0xF000_0001);
    add(0, c::DrainDomain { domain }.into());
    add(0, c::CloseDomain { domain }.into());
    add(0, c::SetQuota { domain, quotas }.into());
    add(0, c::Disconnect { client: 7 }.into());
    add(0, c::DomainCreated { domain, path: text("/run/vgemd/domains/stage-2/vgemd.sock") }.into());
    add(0, c::Trace {}.into());
    add(0, traced().into());
    samples
}

/// Two jobs, one of which waited for the other and failed before it began.
fn traced() -> c::Traced {
    let job = |point, started, code: u32, waits| TracedJob {
        timeline: TIMELINE,
        point: Point(point),
        submitted: Time(1_000),
        ready: Time(1_500),
        started: Time(started),
        ended: Time(3_000 + point),
        bytes: 8192,
        staged: 4096,
        client: 5,
        device: DeviceId(3),
        instance: InstanceId(4),
        cause: if code == 0 { CauseId::NONE } else { CAUSE },
        code,
        op: 7,
        waits,
    };
    let waits = vec![TracedWait { timeline: TIMELINE, point: Point(9) }];
    let failed = job(10, 0, ErrorCode::CorruptInput.number(), 1);
    c::Traced { lost: 2, jobs: vec![job(9, 2_000, 0, 0), failed], waits }
}

/// A batch of two jobs with operands, parameters and waits of every kind.
pub(crate) fn submit() -> c::Submit {
    let (object, cells) = (Handle(0x0010_0001), Handle(0x0010_0003));
    let job = |point: u64, op, flags, operands, params, waits| Job {
        queue: QueueHandle(0x0020_0002),
        point: Point(point),
        run_ns: 1_000_000 + point,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op,
        flags,
        operands,
        params,
        waits,
        reserved: Zero,
    };
    let indirect = Operand {
        object,
        offset: 4096,
        len: 8192,
        cell_object: cells,
        cell_offset: 128,
        number: 0,
        cell_word: 1,
        access: Access::Read,
        flags: OPERAND_INDIRECT,
        reserved: Zero,
    };
    let output = Operand {
        object: cells,
        offset: 64,
        len: 64,
        cell_object: Handle(0),
        cell_offset: 0,
        number: 3,
        cell_word: 0,
        access: Access::Write,
        flags: OPERAND_DISCARD,
        reserved: Zero,
    };
    let param = |number, source, value, len, max, word| Param {
        value,
        cell_object: if source == ParamSource::Cell { cells } else { Handle(0) },
        max,
        len,
        number,
        source,
        cell_word: word,
    };
    let wait = |timeline, point, until, kind, flags| Wait {
        timeline: TimelineHandle(timeline),
        point: Point(point),
        until: Time(until),
        kind,
        flags,
        reserved: Zero,
    };
    c::Submit {
        jobs: vec![job(1, 7, JOB_EXPLICIT, 1, 2, 1), job(2, 8, JOB_RUN_ANYWAY, 1, 1, 1)],
        operands: vec![indirect, output],
        params: vec![
            param(0, ParamSource::Value, 5, 0, 0, 0),
            param(4, ParamSource::Bytes, 2, 3, 0, 0),
            param(1, ParamSource::Cell, 192, 0, 1_000, 7),
        ],
        waits: vec![
            wait(0x0020_0004, 11, 0x6162, WaitKind::Data, WAIT_FOR_SUBMIT),
            wait(0x0020_0002, 1, 0, WaitKind::Order, 0),
        ],
        bytes: text("a/b/c"),
    }
}

fn driver() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |message: d::DriverMessage| {
        samples.push(Sample { request: 0, deadline: Time(0), flags: 0, message: Message::Driver(message) });
    };
    add(d::Ready { version: 1, reserved: Zero, description: description().encode() }.into());
    add(d::Mapped { object: OBJECT }.into());
    add(d::NotMapped { object: OBJECT, errno: 12, reserved: Zero }.into());
    add(d::Unmapped { object: OBJECT }.into());
    add(d::TimelineClosed { timeline: TIMELINE }.into());
    let completion = |point, cause, code| Completion {
        timeline: TIMELINE,
        point: Point(point),
        started: Time(1_000 + point),
        ended: Time(2_000 + point),
        bytes: 8192,
        staged: 4096,
        cause,
        code,
        reserved: Zero,
    };
    let failed = completion(2, CAUSE, ErrorCode::CorruptInput.number());
    add(d::Complete { completions: vec![completion(1, CauseId::NONE, 0), failed] }.into());
    let (point, at, code) = (Point(2), Time(2_002), ErrorCode::CorruptInput);
    let (timeline, reserved) = (TIMELINE, Zero);
    add(d::Cause { cause: CAUSE, timeline, point, at, code, reserved, text: text("bad magic") }.into());
    add(d::Unblocked { timeline, point: Point(3) }.into());
    add(d::AskPoint { timeline, point: Point(1) }.into());
    let address = 0x7f00_1234_5000;
    add(d::RingReady { timeline, errno: 0, reserved: Zero }.into());
    add(d::Bound { timeline, address, code: ErrorCode::MapFailed.number(), reserved: Zero }.into());
    add(d::Unbound { timeline, address }.into());
    add(d::WindowsSet { timeline }.into());
    let since = Time(0x6162_6364);
    add(d::Stalled { timeline, point: Point(3), address, since }.into());
    add(d::Start { instance: InstanceId(5), domain: DomainId(1000) }.into());
    add(d::Forbid { operations: vec![1, 7, 9] }.into());
    add(d::Map { object: OBJECT, len: 0x20_3000, access: Access::Write, reserved: Zero }.into());
    add(d::Unmap { object: OBJECT }.into());
    add(d::SignalPage { page: PageId(2) }.into());
    add(d::ObservePage { page: PageId(3) }.into());
    add(d::DropSignalPage { page: PageId(2) }.into());
    add(d::DropObservePage { page: PageId(3) }.into());
    let failures = vec![PointFailure { point: Point(6), cause: CAUSE, code, reserved: Zero }];
    let opened = d::OpenTimeline {
        timeline,
        client: ClientKey { index: 4, generation: 6 },
        domain: DomainId(1000),
        value: Point(7),
        at,
        priority: 3,
        reserved: Zero,
        failures,
    };
    add(opened.into());
    add(d::CloseTimeline { timeline }.into());
    add(d::Publish { timeline, page: PageId(2), slot: 14, reserved: Zero }.into());
    add(d::Retire { timeline, page: PageId(2), slot: 14, reserved: Zero }.into());
    add(run().into());
    let (point, cause, code) = (Point(9), CAUSE, ErrorCode::Cancelled);
    add(d::CancelJob { timeline, point, cause, code, reserved: Zero }.into());
    add(d::Boost { timeline, point, priority: 3, reserved: Zero }.into());
    let code = ErrorCode::CorruptInput.number();
    add(d::PointEnded { timeline, point: Point(1), cause, code, reserved: Zero }.into());
    add(d::AttachRing { timeline, depth: 64, reserved: Zero }.into());
    let (object, access) = (OBJECT, Access::Write);
    let (offset, len, foreign) = (8192, 4096, 1);
    add(d::Bind { timeline, object, offset, len, address, access, foreign, reserved: Zero }.into());
    add(d::Unbind { timeline, address }.into());
    let window = |address, access| Window { address, len: 4096, access, reserved: Zero };
    let windows = vec![window(0x7f00_1234_5000, Access::Read), window(0x7f00_4321_0000, Access::Write)];
    add(d::AttachMemory { timeline, windows: windows.clone() }.into());
    add(d::SetWindows { timeline, windows }.into());
    samples
}

/// The same batch as a driver gets it.
pub(crate) fn run() -> d::Run {
    let batch = submit();
    let jobs = batch.jobs.iter().zip([(CauseId::NONE, 0), (CAUSE, 71)]);
    let jobs = jobs.map(|(job, (failed_cause, failed_code))| Job {
        queue: TIMELINE,
        point: job.point,
        run_ns: job.run_ns,
        failed_cause,
        failed_code,
        op: job.op,
        flags: job.flags,
        operands: job.operands,
        params: job.params,
        waits: job.waits,
        reserved: Zero,
    });
    let operands = batch.operands.iter().map(|operand| Operand {
        object: OBJECT,
        offset: operand.offset,
        len: operand.len,
        cell_object: CELLS,
        cell_offset: operand.cell_offset,
        number: operand.number,
        cell_word: operand.cell_word,
        access: operand.access,
        flags: operand.flags | OPERAND_FOREIGN,
        reserved: Zero,
    });
    let params = batch.params.iter().map(|param| Param {
        value: param.value,
        cell_object: CELLS,
        max: param.max,
        len: param.len,
        number: param.number,
        source: param.source,
        cell_word: param.cell_word,
    });
    let wait = |page, slot, point, kind, flags| DriverWait {
        timeline: OTHER,
        point: Point(point),
        page,
        slot,
        kind,
        flags,
        reserved: Zero,
    };
    d::Run {
        jobs: jobs.collect(),
        operands: operands.collect(),
        params: params.collect(),
        waits: vec![wait(3, 14, 11, WaitKind::Data, WAIT_PROMISE), wait(u16::MAX, 0, 1, WaitKind::Order, 0)],
        bytes: batch.bytes,
    }
}

fn keeper() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |message: k::KeeperMessage| {
        samples.push(Sample { request: 0, deadline: Time(0), flags: 0, message: Message::Keeper(message) });
    };
    let (instance, device, domain) = (InstanceId(5), DeviceId(3), DomainId(1000));
    add(k::Setup { json: text("{\"quotas\":{}}") }.into());
    let door = DomainId(0xF000_0001);
    add(k::DoorOpened { domain: door, path: text("/run/vgemd/domains/a/vgemd.sock") }.into());
    add(k::DoorFailed { domain: door, text: text("no room") }.into());
    add(k::CgroupFound { question: 4096, path: text("/a.slice/b") }.into());
    add(k::OpenDoor { domain: door, name: text("a") }.into());
    add(k::CloseDoor { domain: door }.into());
    add(k::FindCgroup { question: 4096 }.into());
    add(k::Policy { json: text("{\"quota\":{}}") }.into());
    add(k::Device { device, description: description().encode() }.into());
    add(k::Serve {}.into());
    add(k::InstanceStarted { instance, pid: 321, reserved: Zero }.into());
    add(k::InstanceFailed { instance, text: text("no such program") }.into());
    add(k::InstanceExited { instance, status: -9, reserved: Zero }.into());
    add(k::Kept { object: OBJECT, pinned: 0x20_2000 }.into());
    add(k::Dropped { object: OBJECT }.into());
    let porter = PorterId(7);
    add(k::PorterStarted { porter, pid: 322, reserved: Zero }.into());
    add(k::PorterFailed { porter, text: text("no such account") }.into());
    add(k::PorterExited { porter, status: -9, reserved: Zero }.into());
    add(k::Stop {}.into());
    add(k::ControlStarted { pid: 323, reserved: Zero }.into());
    add(k::ControlExited { text: text("exit status: 1") }.into());
    add(k::Serving {}.into());
    add(k::StartInstance { instance, device, domain }.into());
    add(k::KillInstance { instance }.into());
    add(k::Keep { object: OBJECT, len: 0x20_3000 }.into());
    add(k::Drop { object: OBJECT }.into());
    add(k::StartPorter { porter }.into());
    add(k::KillPorter { porter }.into());
    add(k::StartDoorman { porter }.into());
    samples
}

fn porter() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |message: p::PorterMessage| {
        let sample = Sample { request: 0x51, deadline: Time(0), flags: 0, message: Message::Porter(message) };
        samples.push(sample);
    };
    add(p::Hand {}.into());
    add(p::Brought { len: 0x20_3000, access: Access::Read, reserved: Zero }.into());
    add(p::BroughtProcess { access: Access::Write, reserved: Zero }.into());
    let (code, words) = (ErrorCode::Misaligned, text("5000 bytes are no whole pages"));
    add(p::Unfit { value: 5000, limit: 4096, code, reserved: Zero, text: words }.into());
    add(p::HandDoor {}.into());
    add(p::DoorFits { path: text("/run/box/vgemd.sock") }.into());
    add(p::Visitor {}.into());
    add(p::DoorShut { text: text("accept4: Invalid argument") }.into());
    add(p::DoorEnds {}.into());
    samples
}

fn control() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |message: o::ControlMessage| {
        let sample =
            Sample { request: 0x61, deadline: Time(0), flags: 0, message: Message::Control(message) };
        samples.push(sample);
    };
    add(o::OpenSession { uid: 1000, pid: 4321 }.into());
    add(o::SessionOpened {}.into());
    let words = text("the daemon serves uid 1000 alone");
    let code = ErrorCode::Denied;
    add(o::SessionRefused { value: 1001, limit: 1000, code, reserved: Zero, text: words }.into());
    samples
}
