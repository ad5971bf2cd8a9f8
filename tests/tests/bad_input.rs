//! Bad input is refused with a type, a value and a limit; nothing changes and the connection goes on.

#![forbid(unsafe_code)]

use vgem::{Embedded, snapshot};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Handle, Point, QueueHandle};
use vgem_proto::jobs::{OPERAND_INDIRECT, ParamSource};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, CloseObject, Export, Refused, Submit};
use vgem_proto::rights::Access;
use vgem_tests::raw::{Raw, create, fill, numbers};

/// A private broker, a raw client with a queue on `copy`, and an object that is ready.
struct Rig {
    broker: Embedded,
    raw: Raw,
    queue: QueueHandle,
    fill: u16,
    object: Handle,
    point: u64,
}

impl Rig {
    fn new() -> Self {
        let broker = Embedded::start().expect("a private broker");
        let mut raw = Raw::greeted(&broker.socket());
        let device = raw.device("copy");
        let fill = raw.description(device).by_name("fill").expect("copy can fill").number;
        let queue = raw.queue(device, 8);
        let object = raw.object(true);
        Self { broker, raw, queue, fill, object, point: 0 }
    }

    /// The next batch, right in every way.
    fn batch(&mut self) -> Submit {
        self.point += 1;
        fill(self.queue, self.point, self.fill, self.object)
    }

    fn status(&self) -> snapshot::Status {
        self.broker.client().expect("a second client").status().expect("a status")
    }

    /// Spoils a good batch, and has it refused; afterwards the good one must be accepted, and nothing else have
    /// changed.
    fn spoiled(&mut self, spoil: impl FnOnce(&mut Submit)) -> Refused {
        let before = self.status();
        let mut batch = self.batch();
        spoil(&mut batch);
        let refused = self.raw.refused(batch);
        let after = self.status();
        assert_eq!((before.objects, before.object_bytes), (after.objects, after.object_bytes));
        assert_eq!(before.counters.jobs, after.counters.jobs);
        if refused.cause.0 == 0 {
            // The batch's points were not taken.
            self.point -= 1;
        }
        self.still_works();
        refused
    }

    fn still_works(&mut self) {
        let good = self.batch();
        let answer = self.raw.ask(good);
        assert!(matches!(answer, ClientMessage::Accepted(_)), "the connection is spoiled: {answer:?}");
    }
}

#[test]
fn an_unknown_operation_is_named() {
    let refused = Rig::new().spoiled(|batch| batch.jobs[0].op = 999);
    assert_eq!((refused.code, refused.value, refused.job), (ErrorCode::NoSuchOperation, 999, 0));
}

#[test]
fn j7_offset_plus_length_may_not_overflow() {
    let refused = Rig::new().spoiled(|batch| batch.operands[0].offset = u64::MAX - 10);
    assert_eq!((refused.code, refused.limit), (ErrorCode::OutOfRange, 4096));
}

#[test]
fn j7_a_range_may_not_leave_its_object() {
    let refused = Rig::new().spoiled(|batch| batch.operands[0].offset = 4096 - 63);
    assert_eq!(numbers(&refused), (ErrorCode::OutOfRange, 4097, 4096));
}

#[test]
fn a_handle_of_another_client_is_no_handle() {
    let mut rig = Rig::new();
    let mut other = Raw::greeted(&rig.broker.socket());
    for _ in 0..3 {
        let _more_than_the_first_has = other.object(true);
    }
    let theirs = other.object(true);
    let refused = rig.spoiled(|batch| batch.operands[0].object = theirs);
    let nobodys = rig.spoiled(|batch| batch.operands[0].object = Handle(0x7fff_ffff));
    assert_eq!((refused.code, nobodys.code), (ErrorCode::NoSuchHandle, ErrorCode::NoSuchHandle));
}

#[test]
fn an_object_that_is_not_committed_is_not_ready() {
    let mut rig = Rig::new();
    let raw = rig.raw.object(false);
    assert_eq!(rig.spoiled(|batch| batch.operands[0].object = raw).code, ErrorCode::NotReady);
}

#[test]
fn an_output_may_not_be_named_for_reading() {
    let refused = Rig::new().spoiled(|batch| batch.operands[0].access = Access::Read);
    assert_eq!((refused.code, refused.part), (ErrorCode::BadOperand, 0));
}

#[test]
fn a_parameter_outside_its_range_is_refused_with_the_range() {
    let refused = Rig::new().spoiled(|batch| batch.params[0].value = 256);
    assert_eq!(numbers(&refused), (ErrorCode::BadParameter, 256, 255));
}

#[test]
fn a_cell_of_nobody_is_refused() {
    let refused = Rig::new().spoiled(|batch| {
        batch.operands[0].flags = OPERAND_INDIRECT;
        batch.operands[0].cell_object = Handle(12345);
    });
    assert_eq!(refused.code, ErrorCode::NoSuchHandle);
    let refused = Rig::new().spoiled(|batch| {
        batch.params[0].source = ParamSource::Cell;
        batch.params[0].value = 0;
        batch.params[0].cell_object = Handle(12345);
    });
    assert_eq!(refused.code, ErrorCode::NoSuchHandle);
}

#[test]
fn t3_a_point_that_is_not_the_next_is_refused_with_the_next() {
    let mut rig = Rig::new();
    rig.still_works();
    let refused = rig.spoiled(|batch| batch.jobs[0].point = Point(40));
    assert_eq!(numbers(&refused), (ErrorCode::BadPoint, 40, 2));
}

#[test]
fn a_queue_of_nobody_is_no_queue() {
    let refused = Rig::new().spoiled(|batch| batch.jobs[0].queue = QueueHandle(77));
    assert_eq!(refused.code, ErrorCode::NoSuchHandle);
}

#[test]
fn counts_that_do_not_add_up_are_malformed() {
    let refused = Rig::new().spoiled(|batch| batch.jobs[0].operands = 2);
    assert_eq!(refused.code, ErrorCode::Malformed);
}

#[test]
fn more_jobs_than_the_queue_is_deep_are_refused_with_the_depth() {
    let mut rig = Rig::new();
    let refused = rig.spoiled(|batch| {
        for at in 1..9 {
            let mut job = batch.jobs[0];
            job.point = Point(batch.jobs[0].point.0 + at);
            batch.jobs.push(job);
            batch.operands.push(batch.operands[0]);
            batch.params.push(batch.params[0]);
        }
    });
    assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 8));
}

#[test]
fn more_memory_than_the_quota_is_refused_with_the_quota() {
    let mut rig = Rig::new();
    let asked = limits::OBJECT_LEN;
    let before = rig.status();
    let refused = rig.raw.refused(create(asked, 1));
    assert_eq!(refused.code, ErrorCode::Exhausted);
    assert!(refused.value >= asked && refused.limit < asked, "{refused:?}");
    assert_eq!(rig.status().object_bytes, before.object_bytes);
    rig.still_works();
}

#[test]
fn a_message_of_100_kib_is_refused_with_the_limit() {
    let mut rig = Rig::new();
    let answer = rig.raw.ask_bytes(&vec![0xab; 100 * 1024]);
    let ClientMessage::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(numbers(&refused), (ErrorCode::TooLarge, 100 * 1024, limits::MESSAGE_LEN as u64));
    rig.still_works();
}

#[test]
fn w1_unknown_opcode_flag_and_handle_have_different_errors() {
    let mut rig = Rig::new();
    let good = CloseObject { object: Handle(4242) }.encode(1, vgem_proto::ids::Time(0), 0);
    let mut opcode = good.clone();
    opcode[4..6].copy_from_slice(&9999_u16.to_le_bytes());
    let mut flag = good.clone();
    flag[6..8].copy_from_slice(&0x8000_u16.to_le_bytes());
    let codes = [opcode, flag, good, vec![1, 2, 3]].map(|bytes| match rig.raw.ask_bytes(&bytes) {
        ClientMessage::Refused(refused) => refused.code,
        other => panic!("{other:?}"),
    });
    let expected =
        [ErrorCode::UnknownOpcode, ErrorCode::UnknownFlag, ErrorCode::NoSuchHandle, ErrorCode::Malformed];
    assert_eq!(codes, expected);
    rig.still_works();
}

#[test]
fn nothing_is_answered_before_the_greeting_but_that_it_is_missing() {
    let rig = Rig::new();
    let mut stranger = Raw::stranger(&rig.broker.socket());
    let export = Export { object: Handle(1), access: Access::Read, reserved: Zero };
    assert_eq!(stranger.refused(export).code, ErrorCode::NotGreeted);
}

#[test]
fn the_library_refuses_a_batch_too_large_for_a_message_and_sends_nothing() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = client.device("blk").and_then(|d| d.queue(0)).expect("a queue");
    let before = client.counters().messages_sent;
    let mut batch = client.batch();
    let long = "/".repeat(4096);
    for _ in 0..20 {
        batch.job(&queue, "open").param("path", long.as_str());
    }
    let error = batch.submit().expect_err("80 KiB of paths");
    assert!(error.to_string().contains("16384") || error.to_string().contains("65536"), "{error}");
    assert_eq!(client.counters().messages_sent, before);
}
