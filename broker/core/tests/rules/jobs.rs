//! J: batches and jobs.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{Handle, Point};
use vgem_proto::jobs::{JOB_RUN_ANYWAY, OPERAND_FOREIGN, PAGE_LOCAL, ParamSource};
use vgem_proto::message::SUBMIT_REPLY;
use vgem_proto::message::client::{Cancel, ClientMessage, OpenQueue, Rewritten};
use vgem_proto::rights::WaitKind::{Data, Order};

use crate::batch::Batch;
use crate::reservations::stage;
use crate::world::{COPY, MS, READ, SEC, WRITE, World, ZIP};

#[test]
fn j1_a_refused_batch_names_the_job_and_the_operand_and_does_nothing() {
    let mut s = stage();
    let bad = Batch::new().job(s.queues[0], 1).writes(s.object, 0..64);
    let bad = bad.job(s.queues[1], 1).reads(s.object, 0..64).writes(s.object, 4000..5000);
    let refused = s.world.refused(s.client, bad.0);
    assert_eq!((refused.code, refused.job, refused.part), (ErrorCode::OutOfRange, 1, 4));
    assert_eq!((refused.value, refused.limit), (5000, 4096));
    let job = s.world.last_job(COPY);
    assert_eq!((job.operands.len(), job.failed().map(|f| f.code)), (0, Some(ErrorCode::Refused)));
}

#[test]
fn j1_the_points_of_a_refused_batch_end_in_order_and_later_batches_go_on() {
    let mut s = stage();
    let q = s.queues[0];
    s.submit(Batch::new().job(q, 1));
    let bad = Batch::new().job(q, 2).job(q, 3).op(99);
    let refused = s.world.refused(s.client, bad.0);
    s.submit(Batch::new().job(q, 4));
    s.world.run_all();
    let failed = Some(Err(Failure { code: ErrorCode::Refused, cause: refused.cause }));
    let ends: Vec<_> = (1..=4).map(|point| s.world.truth.look(s.lines[0], Point(point))).collect();
    assert_eq!(ends, [Some(Ok(())), failed, failed, Some(Ok(()))]);
    let why = String::from_utf8(s.world.explain(s.client, refused.cause).text).unwrap();
    assert!(why.contains("job 1") && why.contains("operation 99"), "{why}");
}

#[test]
fn j1_a_batch_is_answered_only_when_it_asks() {
    let mut s = stage();
    let batch = Batch::new().job(s.queues[0], 1).0;
    let request = s.world.send(s.client, batch, SUBMIT_REPLY, s.world.now);
    let answer = s.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(answer, Some(ClientMessage::Accepted(_))), "{answer:?}");
}

#[test]
fn j2_a_wait_for_a_later_job_of_the_batch_is_a_deadlock_and_named() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    let batch = Batch::new().job(a, 1).waits(b, 1, Order).job(b, 1).waits(a, 1, Order);
    let refused = s.world.refused(s.client, batch.0);
    let text = String::from_utf8(refused.text).unwrap();
    assert_eq!((refused.code, refused.job), (ErrorCode::Deadlock, 0));
    assert!(text.contains("job 1 of queue:"), "{text}");
}

#[test]
fn j2_a_wait_for_itself_is_a_deadlock() {
    let mut s = stage();
    let batch = Batch::new().job(s.queues[0], 1).waits(s.queues[0], 1, Order);
    assert_eq!(s.world.refused(s.client, batch.0).code, ErrorCode::Deadlock);
}

#[test]
fn j2_waits_are_complete_when_a_job_reaches_its_driver() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    let batch = Batch::new().job(a, 1).job(a, 2).job(b, 1).waits(a, 2, Data).waits(a, 1, Order);
    s.submit(batch);
    assert_eq!(s.waits(ZIP), [(0, 2, Data)]);
}

#[test]
fn j3_two_batches_on_the_same_objects_are_ordered_the_same_way_everywhere() {
    let mut s = stage();
    let other = s.world.object(s.client, 4096);
    let [a, b, _] = s.queues;
    for point in 1..=2 {
        let batch = Batch::new().job(a, point).writes(s.object, 0..64).writes(other, 0..64);
        s.submit(batch.job(b, point).writes(other, 0..64).writes(s.object, 0..64));
    }
    assert_eq!(s.waits(COPY), [(1, 1, Order)]);
    assert_eq!(s.waits(ZIP), [(0, 2, Order)]);
}

// M-038
#[test]
fn j4_closing_a_handle_in_flight_is_fine_and_the_memory_lives_to_the_last_use() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.close(s.client, s.object);
    assert_eq!(s.world.memory.len(), 1);
    s.world.run(s.lines[0], None);
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn j5_cancel_says_whether_the_job_has_not_started_runs_or_has_ended() {
    let mut s = stage();
    let q = s.queues[0];
    s.submit(Batch::new().job(q, 1).job(q, 2).job(q, 3));
    s.world.run(s.lines[0], None);
    let states =
        [1, 2, 3].map(|point| match s.world.ask(s.client, Cancel { queue: q, point: Point(point) }) {
            Some(ClientMessage::Cancelling(answer)) => answer.state,
            other => panic!("{other:?}"),
        });
    let asked: Vec<_> = s.world.driver(COPY).cancelled.iter().map(|(_, point, _)| point.0).collect();
    assert_eq!((states, asked), ([2, 1, 0], vec![2, 3]));
}

#[test]
fn j5_a_point_that_was_never_promised_cannot_be_cancelled() {
    let mut s = stage();
    let refused = s.world.refused(s.client, Cancel { queue: s.queues[0], point: Point(1) });
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadPoint, 1, 0));
}

#[test]
fn j6_a_queue_of_a_dead_instance_answers_gone() {
    let mut s = stage();
    let id = s.world.instance(COPY);
    s.world.die(id, vgem_core::io::InstanceEnd::Exited(-9));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 1).0);
    assert_eq!(refused.code, ErrorCode::Gone);
}

#[test]
fn j6_a_batch_with_a_queue_that_is_gone_uses_the_points_of_its_other_queues() {
    let mut s = stage();
    let id = s.world.instance(COPY);
    s.world.die(id, vgem_core::io::InstanceEnd::Exited(-9));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 1).job(s.queues[1], 1).0);
    assert!(refused.code == ErrorCode::Gone && refused.cause.0 != 0, "{refused:?}");
    let failed =
        s.world.driver(ZIP).history.iter().map(|got| got.failed().map(|f| f.code)).collect::<Vec<_>>();
    assert_eq!(failed, [Some(ErrorCode::Refused)]);
    s.submit(Batch::new().job(s.queues[1], 2));
    let again = s.world.refused(s.client, Batch::new().job(s.queues[0], 2).0);
    assert_eq!(again.code, ErrorCode::Gone, "the points of the dead queue count on too");
}

#[test]
fn j7_a_driver_gets_keys_for_handles_and_its_own_place_of_bytes() {
    let mut s = stage();
    let key = s.world.last_object();
    let mut batch = Batch::new().job(s.queues[0], 1).op(7).operand(0, READ, s.object, 0..64);
    batch = batch.operand(1, WRITE, s.object, 64..128).param(0, ParamSource::Value, 3);
    batch = batch.param(2, ParamSource::Bytes, 2).with_param(|param| param.len = 3);
    batch.0.bytes = b"xxabcxx".to_vec();
    s.submit(batch);
    let job = s.world.last_job(COPY);
    assert!(job.operands.iter().all(|o| o.object == key && o.flags & OPERAND_FOREIGN == 0));
    assert_eq!((job.params[1].value, job.bytes.as_slice()), (0, b"abc".as_slice()));
    assert_eq!(job.job.run_ns, 2000 * MS);
}

#[test]
fn j8_a_read_that_touches_poison_fails_with_its_cause() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let failure = s.world.truth.look(s.lines[0], Point(1)).unwrap().unwrap_err();
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 32..96));
    assert_eq!(s.world.last_job(ZIP).failed(), Some(failure));
    s.submit(Batch::new().job(s.queues[1], 2).reads(s.object, 64..96));
    assert_eq!(s.world.last_job(ZIP).failed(), None);
}

#[test]
fn j8_a_plain_write_clears_no_poison_and_fails_itself() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.submit(Batch::new().job(s.queues[1], 1).updates(s.object, 0..32));
    assert!(s.world.last_job(ZIP).failed().is_some());
}

#[test]
fn j8_what_a_client_has_written_anew_is_not_poisoned() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..256));
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    // The broker has yet to hear of this one.
    s.submit(Batch::new().job(a, 2).writes(s.object, 1024..2048));
    assert!(s.world.try_run(s.lines[0], Some(ErrorCode::Io)));
    for (offset, len) in [(0, 64), (1024, 1024)] {
        let told = s.world.ask(s.client, Rewritten { object: s.object, offset, len });
        assert!(matches!(told, Some(ClientMessage::Done(_))), "{told:?}");
    }
    s.world.flush(s.world.instance(COPY));
    s.submit(Batch::new().job(b, 1).reads(s.object, 0..64).job(b, 2).reads(s.object, 1024..2048));
    s.submit(Batch::new().job(b, 3).reads(s.object, 63..65));
    s.world.run_all();
    let ended =
        [1, 2, 3].map(|point| s.world.truth.look(s.lines[1], Point(point)).map(|ended| ended.is_ok()));
    assert_eq!(ended, [Some(true), Some(true), Some(false)]);
}

#[test]
fn only_what_one_may_write_and_is_there_can_be_said_to_be_rewritten() {
    let mut s = stage();
    let rewritten = |object, offset, len| Rewritten { object, offset, len };
    for (offset, len) in [(0, 4097), (4096, 1), (u64::MAX, 2)] {
        let refused = s.world.refused(s.client, rewritten(s.object, offset, len));
        assert_eq!((refused.code, refused.value), (ErrorCode::OutOfRange, len));
    }
    let unknown = s.world.refused(s.client, rewritten(Handle(99), 0, 1));
    assert_eq!(unknown.code, ErrorCode::NoSuchHandle);
}

#[test]
fn j8_a_replacing_write_clears_the_range_it_declares() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.submit(Batch::new().job(s.queues[1], 1).updates(s.object, 0..32).discarding());
    s.submit(Batch::new().job(s.queues[1], 2).reads(s.object, 0..32));
    assert_eq!(s.world.last_job(ZIP).failed(), None);
    s.submit(Batch::new().job(s.queues[1], 3).reads(s.object, 31..33));
    assert!(s.world.last_job(ZIP).failed().is_some());
}

#[test]
fn j8_a_replaced_write_no_longer_matters_to_readers() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(c, 1).reads(s.object, 0..64));
    assert_eq!(s.waits(SEC), [(0, 1, Order), (1, 1, Data)]);
}

#[test]
fn a_client_that_says_so_reads_poison_anyway() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.submit(Batch::new().job(s.queues[2], 1).writes(s.object, 64..128));
    let batch = Batch::new().job(s.queues[1], 1).flags(JOB_RUN_ANYWAY).reads(s.object, 0..128);
    s.submit(batch.waits(s.queues[2], 1, Data));
    assert_eq!((s.world.last_job(ZIP).failed(), s.waits(ZIP)), (None, vec![(2, 1, Order)]));
}

#[test]
fn waits_within_one_instance_are_local_and_others_have_a_page() {
    let mut s = stage();
    let second = s.world.queue(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(second, 1).reads(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    let pages = [COPY, ZIP].map(|device| s.world.last_job(device).waits[0].page);
    assert_eq!(pages[0], PAGE_LOCAL);
    assert_ne!(pages[1], PAGE_LOCAL);
}

#[test]
fn a_batch_that_grows_with_its_waits_is_sent_in_messages_that_fit() {
    let mut config = crate::world::config();
    config.bounds.batch_waits = 1 << 20;
    let mut world = World::with(config);
    let client = world.client();
    let object = world.object(client, 4096);
    for _ in 0..60 {
        let queue = world.queue(client, ZIP);
        world.submit(client, Batch::new().job(queue, 1).reads(object, 0..64));
    }
    let queue = world.queue(client, COPY);
    let jobs = (1..=256).fold(Batch::new(), |batch, point| batch.job(queue, point).updates(object, 0..64));
    world.submit(client, jobs);
    let waits: Vec<usize> = world.driver(COPY).history.iter().map(|job| job.waits.len()).collect();
    assert_eq!((waits.len(), waits[0]), (256, 60));
}

#[test]
fn a_batch_that_would_wait_for_too_much_is_refused_and_leaves_no_trace() {
    let mut s = stage();
    for n in 0..100 {
        let queue = s.world.queue(s.client, ZIP);
        s.submit(Batch::new().job(queue, 1).writes(s.object, n * 8..n * 8 + 8));
    }
    let mut batch = Batch::new();
    for point in 1..=100 {
        batch = batch.job(s.queues[0], point).reads(s.object, 0..4096);
    }
    let refused = s.world.refused(s.client, batch.0);
    assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 8192));
    s.submit(Batch::new().job(s.queues[2], 1).writes(s.object, 0..8));
    let waits = s.world.last_job(SEC).waits();
    assert!(waits.len() == 100 && waits.iter().all(|(timeline, ..)| *timeline != s.lines[0]), "{waits:?}");
}

#[test]
fn a_queue_takes_as_many_jobs_as_it_is_deep() {
    let mut s = stage();
    let open = OpenQueue { device: COPY, depth: 2, priority: 0, reserved: Zero };
    let Some(ClientMessage::QueueOpened(opened)) = s.world.ask(s.client, open) else { panic!("not opened") };
    let q = opened.queue;
    let refused = s.world.refused(s.client, Batch::new().job(q, 1).job(q, 2).job(q, 3).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 3, 2));
    s.submit(Batch::new().job(q, 1).job(q, 2));
    s.world.run(opened.timeline, None);
    s.submit(Batch::new().job(q, 3));
}
