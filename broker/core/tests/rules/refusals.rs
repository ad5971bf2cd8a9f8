//! Bad input: each a typed error with the value and the limit, nothing changed, the connection still usable.

use vgem_core::io::LinkId;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, QueueHandle};
use vgem_proto::jobs::ParamSource;
use vgem_proto::message::client::{
    ClientMessage, CloseObject, CreateObject, Export, ListDevices, OpenQueue, Refused,
};
use vgem_proto::rights::{HugePages, WaitKind};

use crate::batch::{Batch, IN, IN_OUT, OUT, RESULT};
use crate::reservations::{Stage, stage};
use crate::world::{COPY, OTHER_DOMAIN, READ, WRITE, World, config, create};

/// What a refusal must say: the code, the value and the limit.
type Said = (ErrorCode, u64, u64);

fn said(refused: &Refused) -> Said {
    (refused.code, refused.value, refused.limit)
}

/// A batch that is refused for one of its jobs consumes its points, and changes nothing else.
fn refuses(change: impl FnOnce(Batch, &Stage) -> Batch) -> Said {
    let mut s = stage();
    let batch = change(Batch::new().job(s.queues[0], 1), &s);
    let before = s.world.broker.ledger();
    let refused = s.world.refused(s.client, batch.0);
    assert_ne!(refused.cause.0, 0, "{refused:?}");
    s.world.run_all();
    assert_eq!(s.world.broker.ledger(), before);
    s.submit(Batch::new().job(s.queues[0], 2).updates(s.object, 0..4096));
    let job = s.world.last_job(COPY);
    assert_eq!((job.waits.len(), job.failed()), (0, None), "the refused batch left something behind");
    said(&refused)
}

/// A request that is refused changes nothing at all.
fn refuses_untouched(world: &mut World, client: LinkId, message: impl Into<ClientMessage>) -> Said {
    let before = world.broker.digest();
    let refused = world.refused(client, message);
    assert_eq!(world.broker.digest(), before);
    assert!(world.ask(client, ListDevices {}).is_some(), "the connection is still usable");
    said(&refused)
}

#[test]
fn an_unknown_operation() {
    assert_eq!(refuses(|b, _| b.op(42)), (ErrorCode::NoSuchOperation, 42, 0));
}

#[test]
fn offset_and_length_that_overflow() {
    let overflow = refuses(|b, s| b.reads(s.object, 0..64).with_operand(|o| o.offset = u64::MAX - 7));
    assert_eq!(overflow, (ErrorCode::OutOfRange, u64::MAX, 4096));
}

#[test]
fn a_range_that_leaves_the_object() {
    assert_eq!(refuses(|b, s| b.writes(s.object, 4090..4097)), (ErrorCode::OutOfRange, 4097, 4096));
}

#[test]
fn a_handle_of_another_client_is_as_good_as_none() {
    let mut s = stage();
    let stranger = s.world.client_of(OTHER_DOMAIN);
    for _ in 0..3 {
        s.world.object(stranger, 4096);
    }
    let theirs = Handle(s.object.0 + 2);
    let none = Handle(s.object.0 + 77);
    let close = [theirs, none].map(|object| s.world.refused(s.client, CloseObject { object }).code);
    assert_eq!(close, [ErrorCode::NoSuchHandle; 2]);
    assert_eq!(refuses(|b, _| b.reads(theirs, 0..64)), (ErrorCode::NoSuchHandle, u64::from(theirs.0), 0));
}

#[test]
fn a_stale_handle() {
    let mut s = stage();
    let old = s.world.object(s.client, 4096);
    s.world.close(s.client, old);
    let new = s.world.object(s.client, 4096);
    assert_ne!(old, new);
    let refused = refuses_untouched(&mut s.world, s.client, CloseObject { object: old });
    assert_eq!(refused, (ErrorCode::NoSuchHandle, u64::from(old.0), 0));
}

#[test]
fn an_object_that_is_not_committed() {
    let mut s = stage();
    let raw = s.world.raw_object(s.client, 4096);
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 1).reads(raw, 0..64).0);
    assert_eq!((refused.code, refused.value), (ErrorCode::NotReady, u64::from(raw.0)));
}

#[test]
fn an_operand_of_the_wrong_direction() {
    for (number, access) in [(IN, WRITE), (OUT, READ), (IN_OUT, READ), (RESULT, READ)] {
        let refused = refuses(|b, s| b.operand(number, access, s.object, 0..64));
        assert_eq!(refused.0, ErrorCode::BadOperand);
    }
}

#[test]
fn an_operand_that_is_only_read_cannot_be_discarded() {
    assert_eq!(refuses(|b, s| b.reads(s.object, 0..64).discarding()).0, ErrorCode::BadOperand);
}

#[test]
fn an_operand_that_is_unknown_or_given_twice() {
    assert_eq!(refuses(|b, s| b.operand(13, READ, s.object, 0..64)), (ErrorCode::BadOperand, 13, 13));
    let twice = refuses(|b, s| b.operand(0, READ, s.object, 0..64).operand(0, READ, s.object, 0..64));
    assert_eq!(twice, (ErrorCode::BadOperand, 2, 1));
}

#[test]
fn a_required_operand_that_is_missing() {
    let refused = refuses(|b, s| b.op(7).operand(0, READ, s.object, 0..64).param(0, ParamSource::Value, 3));
    assert_eq!(refused.0, ErrorCode::BadOperand);
}

#[test]
fn unknown_flags() {
    assert_eq!(refuses(|b, _| b.flags(64)), (ErrorCode::UnknownFlag, 64, 3));
    let operand = refuses(|b, s| b.reads(s.object, 0..64).with_operand(|o| o.flags = 4));
    assert_eq!(operand, (ErrorCode::UnknownFlag, 4, 3));
}

#[test]
fn a_failure_that_only_the_broker_may_state() {
    assert_eq!(refuses(|b, _| b.with(|job| job.failed_code = 5)).0, ErrorCode::Malformed);
}

fn strict(batch: Batch, s: &Stage) -> Batch {
    batch.op(7).operand(0, READ, s.object, 0..64).operand(1, WRITE, s.object, 64..128)
}

#[test]
fn an_operand_that_is_too_short_too_long_or_misaligned() {
    let with = |change: fn(&mut vgem_proto::jobs::ClientOperand)| {
        refuses(|b, s| b.op(7).operand(0, READ, s.object, 0..64).with_operand(change))
    };
    assert_eq!(with(|o| o.len = 63), (ErrorCode::OutOfRange, 63, 64));
    assert_eq!(with(|o| o.len = 4097), (ErrorCode::OutOfRange, 4097, 4096));
    assert_eq!(with(|o| o.offset = 32), (ErrorCode::Misaligned, 32, 64));
}

#[test]
fn a_result_cell_that_is_no_cell() {
    assert_eq!(refuses(|b, s| b.result(s.object, 32)), (ErrorCode::Misaligned, 32, 64));
    let long = refuses(|b, s| b.operand(RESULT, WRITE, s.object, 0..128));
    assert_eq!(long, (ErrorCode::OutOfRange, 128, 64));
}

#[test]
fn a_length_that_is_read_where_no_cell_can_be() {
    let with = |offset, word| refuses(move |b, s| b.reads(s.object, 0..64).indirect(s.object, offset, word));
    assert_eq!(with(8, 0), (ErrorCode::Misaligned, 8, 64));
    assert_eq!(with(4096, 0), (ErrorCode::OutOfRange, 4160, 4096));
    assert_eq!(with(0, 8), (ErrorCode::OutOfRange, 8, 7));
    let nobodys = refuses(|b, s| b.reads(s.object, 0..64).indirect(Handle(9), 0, 0));
    assert_eq!(nobodys, (ErrorCode::NoSuchHandle, 9, 0));
}

#[test]
fn a_parameter_outside_its_range() {
    let with = |value| refuses(move |b, s| strict(b, s).param(0, ParamSource::Value, value));
    assert_eq!(with(0), (ErrorCode::BadParameter, 0, 1));
    assert_eq!(with(10), (ErrorCode::BadParameter, 10, 9));
    let choice = refuses(|b, s| strict(b, s).param(0, ParamSource::Value, 1).param(1, ParamSource::Value, 2));
    assert_eq!(choice, (ErrorCode::BadParameter, 2, 1));
}

#[test]
fn a_parameter_that_is_missing_unknown_or_given_twice() {
    assert_eq!(refuses(strict).0, ErrorCode::BadParameter);
    let unknown = refuses(|b, s| strict(b, s).param(3, ParamSource::Value, 1));
    assert_eq!(unknown, (ErrorCode::BadParameter, 3, 3));
    let twice = refuses(|b, s| strict(b, s).param(0, ParamSource::Value, 1).param(0, ParamSource::Value, 1));
    assert_eq!(twice, (ErrorCode::BadParameter, 2, 1));
}

#[test]
fn a_parameter_from_the_wrong_source() {
    for (number, source) in [(0, ParamSource::Bytes), (1, ParamSource::Cell), (2, ParamSource::Value)] {
        assert_eq!(refuses(|b, s| strict(b, s).param(number, source, 1)).0, ErrorCode::BadParameter);
    }
}

#[test]
fn byte_parameters_that_are_too_long_or_outside_the_bytes() {
    let with = |value, len| {
        refuses(move |b, s| {
            let b = strict(b, s).param(0, ParamSource::Value, 1).param(2, ParamSource::Bytes, value);
            let mut b = b.with_param(|p| p.len = len);
            b.0.bytes = vec![7; 16];
            b
        })
    };
    assert_eq!(with(0, 33), (ErrorCode::BadParameter, 33, 32));
    assert_eq!(with(8, 9), (ErrorCode::OutOfRange, 17, 16));
    assert_eq!(with(u64::MAX, 9), (ErrorCode::OutOfRange, u64::MAX, 16));
}

#[test]
fn a_number_from_a_cell_whose_maximum_is_too_large() {
    let with = |max, word| {
        refuses(move |b, s| {
            let object = s.object;
            strict(b, s)
                .param(0, ParamSource::Cell, 64)
                .with_param(|p| (p.cell_object, p.max, p.cell_word) = (object, max, word))
        })
    };
    assert_eq!(with(10, 0), (ErrorCode::BadParameter, 10, 9));
    assert_eq!(with(9, 8), (ErrorCode::OutOfRange, 8, 7));
}

#[test]
fn a_run_time_beyond_the_longest() {
    let refused = refuses(|b, _| b.with(|job| job.run_ns = u64::MAX));
    assert_eq!(refused, (ErrorCode::OutOfRange, u64::MAX, 300_000_000_000));
}

#[test]
fn counts_that_do_not_add_up() {
    assert_eq!(refuses(|b, _| b.with(|job| job.operands = 3)), (ErrorCode::Malformed, 3, 0));
    assert_eq!(
        refuses(|b, s| b.reads(s.object, 0..64).with(|job| job.operands = 0)),
        (ErrorCode::Malformed, 0, 1)
    );
}

#[test]
fn more_explicit_waits_than_a_job_may_have() {
    let waits = |count| {
        move |b: Batch, s: &Stage| (0..count).fold(b, |b, _| b.waits(s.queues[1], 0, WaitKind::Order))
    };
    assert_eq!(refuses(waits(65)), (ErrorCode::Exhausted, 65, 64));
    let mut s = stage();
    let full = waits(64)(Batch::new().job(s.queues[0], 1), &s);
    s.submit(full);
}

#[test]
fn an_unknown_queue_consumes_no_points() {
    let mut s = stage();
    let queue = QueueHandle(999);
    let batch = Batch::new().job(s.queues[0], 1).job(queue, 1);
    let refused = refuses_untouched(&mut s.world, s.client, batch.0);
    assert_eq!(refused, (ErrorCode::NoSuchHandle, 999, 0));
}

#[test]
fn more_jobs_in_flight_than_the_domain_may_have() {
    let mut config = config();
    config.policy.defaults.quotas.jobs = 2;
    let mut world = World::with(config);
    let client = world.client();
    let q = world.queue(client, COPY);
    let batch = Batch::new().job(q, 1).job(q, 2).job(q, 3);
    assert_eq!(refuses_untouched(&mut world, client, batch.0), (ErrorCode::Exhausted, 3, 2));
}

#[test]
fn more_jobs_in_flight_than_an_instance_may_have() {
    let mut config = config();
    config.bounds.instance_jobs = 3;
    let mut world = World::with(config);
    let client = world.client();
    let (a, b) = (world.queue(client, COPY), world.queue(client, COPY));
    let batch = Batch::new().job(a, 1).job(a, 2).job(b, 1).job(b, 2);
    assert_eq!(refuses_untouched(&mut world, client, batch.0), (ErrorCode::Exhausted, 4, 3));
}

#[test]
fn more_unfinished_writes_than_an_object_may_have() {
    let mut config = config();
    config.bounds.pieces = 8;
    let mut world = World::with(config);
    let client = world.client();
    let (q, object) = (world.queue(client, COPY), world.object(client, 4096));
    let batch = (1..=5).fold(Batch::new(), |b, p| b.job(q, p).writes(object, p * 64..p * 64 + 64));
    assert_eq!(said(&world.refused(client, batch.0)), (ErrorCode::Exhausted, 10, 8));
}

#[test]
fn more_than_a_quota_allows() {
    let mut config = config();
    (
        config.policy.defaults.quotas.bytes,
        config.policy.defaults.quotas.objects,
        config.policy.defaults.quotas.handles,
    ) = (10_000, 2, 2);
    config.policy.defaults.quotas.queues = 1;
    let mut world = World::with(config);
    let client = world.client();
    assert_eq!(refuses_untouched(&mut world, client, create(12_288)), (ErrorCode::Exhausted, 12_288, 10_000));
    world.raw_object(client, 4096);
    world.raw_object(client, 4096);
    assert_eq!(refuses_untouched(&mut world, client, create(4096)), (ErrorCode::Exhausted, 12_288, 10_000));
    world.queue(client, COPY);
    let open = OpenQueue { device: COPY, depth: 0, priority: 0, reserved: vgem_proto::codec::Zero };
    assert_eq!(refuses_untouched(&mut world, client, open), (ErrorCode::Exhausted, 2, 1));
}

#[test]
fn a_length_that_no_object_has() {
    let mut world = World::new();
    let client = world.client();
    let huge = |len, huge| CreateObject { huge, ..create(len) };
    let cases = [
        (create(0), (ErrorCode::OutOfRange, 0, 1 << 44)),
        (create((1 << 44) + 4096), (ErrorCode::OutOfRange, (1 << 44) + 4096, 1 << 44)),
        (create(4095), (ErrorCode::Misaligned, 4095, 4096)),
        (huge(1 << 20, HugePages::Size2M), (ErrorCode::Misaligned, 1 << 20, 2 << 20)),
        (huge(2 << 20, HugePages::Size1G), (ErrorCode::Misaligned, 2 << 20, 1 << 30)),
    ];
    for (message, expected) in cases {
        assert_eq!(refuses_untouched(&mut world, client, message), expected);
    }
}

#[test]
fn memory_that_the_kernel_refuses() {
    let mut world = World::new();
    let client = world.client();
    let before = world.broker.ledger();
    world.hold = |effect| matches!(effect, vgem_core::io::Effect::MakeObject { .. });
    let request = world.send(client, create(4096), 0, world.now);
    let Some(vgem_core::io::Effect::MakeObject { object, .. }) = world.held.pop() else {
        panic!("nothing is made")
    };
    world.apply(vgem_core::io::Input::ObjectMade { object, outcome: Err(12) });
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    assert_eq!((refused.code, refused.value, world.broker.ledger()), (ErrorCode::System, 12, before));
}

#[test]
fn a_device_that_is_not_there() {
    let mut world = World::new();
    let client = world.client();
    let open = OpenQueue { device: DeviceId(9), depth: 0, priority: 0, reserved: vgem_proto::codec::Zero };
    assert_eq!(refuses_untouched(&mut world, client, open), (ErrorCode::NoSuchDevice, 9, 0));
}

#[test]
fn a_queue_that_is_too_deep() {
    let mut world = World::new();
    let client = world.client();
    let open = OpenQueue { device: COPY, depth: 5000, priority: 0, reserved: vgem_proto::codec::Zero };
    assert_eq!(refuses_untouched(&mut world, client, open), (ErrorCode::OutOfRange, 5000, 1024));
}

#[test]
fn an_export_of_nothing() {
    let mut world = World::new();
    let client = world.client();
    let export = Export { object: Handle(3), access: READ, reserved: vgem_proto::codec::Zero };
    assert_eq!(refuses_untouched(&mut world, client, export), (ErrorCode::NoSuchHandle, 3, 0));
}
