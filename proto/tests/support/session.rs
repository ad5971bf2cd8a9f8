//! The worked session of SPEC.md: a client fills half an object and sums it, in one batch.

use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::ids::{CauseId, DeviceId, DomainId, Handle, PageId, Point, QueueHandle, Time, TimelineKey};
use vgem_proto::jobs::{Job, OPERAND_DISCARD, Operand, Param, ParamSource};
use vgem_proto::message::client as c;
use vgem_proto::rights::{Access, HugePages, Rights};

use super::{Message, Sample};

const OBJECT: Handle = Handle(0x0010_0000);
const QUEUE: QueueHandle = QueueHandle(0x0010_0000);

/// The device of the session, as it describes itself; `copy` has more operations.
pub(crate) fn device() -> Description {
    Description::new("copy", "moves and sums", 2)
        .operation(
            Operation::new(1, "fill", "sets every byte")
                .operand("output", Direction::Out, Touch::InPlace)
                .number("byte", "the value", 0, 255, Some(0))
                .with_result(""),
        )
        .operation(
            Operation::new(3, "crc32c", "sums the input")
                .operand("input", Direction::In, Touch::Windows)
                .with_result("the checksum"),
        )
}

/// What goes over the link, in order.
pub(crate) fn messages() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |request: u64, message: c::ClientMessage| {
        samples.push(Sample { request, deadline: Time(0), flags: 0, message: Message::Client(message) });
    };
    let text = |words: &str| words.as_bytes().to_vec();
    add(
        1,
        c::Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: text("demo") }.into(),
    );
    let welcome = c::Welcome {
        token: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        features: 0,
        domain: DomainId(1000),
        client: 1,
        version: 1,
        reserved: Zero,
        message_len: 65_536,
    };
    add(1, welcome.into());
    add(2, c::ListDevices {}.into());
    add(2, c::Devices { ids: vec![DeviceId(1)], names: text("copy") }.into());
    add(3, c::Describe { device: DeviceId(1) }.into());
    add(3, c::Described { device: DeviceId(1), description: device().encode() }.into());
    let (writer, huge, name) = (DeviceId(0), HugePages::Transparent, text("frame"));
    let create = c::CreateObject { len: 8192, writer, count: 1, huge, reserved: Zero, name };
    add(4, create.into());
    add(
        4,
        c::ObjectCreated { len: 8192, rights: Rights::all(), reserved: Zero, objects: vec![OBJECT] }.into(),
    );
    add(5, c::Commit { objects: vec![OBJECT] }.into());
    add(5, c::Committed { pinned: 8192 }.into());
    add(6, c::OpenQueue { device: DeviceId(1), depth: 0, priority: 0, reserved: Zero }.into());
    let timeline = TimelineKey { index: 0, generation: 1 };
    let opened =
        c::QueueOpened { queue: QUEUE, page: PageId(0), timeline, depth: 256, slot: 0, reserved: Zero };
    add(6, opened.into());
    add(7, batch().into());
    // OpenQueue is the one request whose deadline counts: ten seconds after the moment it was sent.
    if let Some(open) = samples.iter_mut().find(|sample| sample.name() == "OpenQueue") {
        open.deadline = Time(5_000_000_000 + 10_000_000_000);
    }
    samples
}

/// Fill the first page with 0xa5; sum it into the cell at the start of the second page.
pub(crate) fn batch() -> c::Submit {
    let job = |point, op, operands, params| Job {
        queue: QUEUE,
        point: Point(point),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op,
        flags: 0,
        operands,
        params,
        waits: 0,
        reserved: Zero,
    };
    let operand = |number, offset, len, access, flags| Operand {
        object: OBJECT,
        offset,
        len,
        cell_object: Handle(0),
        cell_offset: 0,
        number,
        cell_word: 0,
        access,
        flags,
        reserved: Zero,
    };
    let byte = Param {
        value: 0xa5,
        cell_object: Handle(0),
        max: 0,
        len: 0,
        number: 0,
        source: ParamSource::Value,
        cell_word: 0,
    };
    c::Submit {
        jobs: vec![job(1, 1, 1, 1), job(2, 3, 2, 0)],
        operands: vec![
            operand(0, 0, 4096, Access::Write, OPERAND_DISCARD),
            operand(0, 0, 4096, Access::Read, 0),
            operand(1, 4096, 64, Access::Write, OPERAND_DISCARD),
        ],
        params: vec![byte],
        waits: vec![],
        bytes: vec![],
    }
}
