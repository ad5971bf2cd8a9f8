//! F10, L4, T: how failures travel, and where they stop. What becomes of the innocent is in [`crate::succession`].

use vgem_core::io::{Effect, Event, InstanceEnd};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, InstanceId, Point};
use vgem_proto::jobs::JOB_RUN_ANYWAY;
use vgem_proto::message::client::Explain;
use vgem_proto::rights::WaitKind::{Data, Order};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::world::{COPY, OTHER_DOMAIN, SEC, ZIP};

fn outcome(s: &Stage, line: usize, point: u64) -> Option<Result<(), Failure>> {
    s.world.truth.look(s.lines[line], Point(point))
}

#[test]
fn f10_a_job_that_reads_what_a_failed_one_was_to_write_fails_with_the_same_cause() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).reads(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.world.run(s.lines[1], None);
    assert!(outcome(&s, 0, 1).unwrap().is_err());
    assert_eq!(outcome(&s, 1, 1), outcome(&s, 0, 1));
}

#[test]
fn f10_a_job_that_only_comes_later_is_untouched() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.world.run(s.lines[1], None);
    assert_eq!(outcome(&s, 1, 1), Some(Ok(())));
}

#[test]
fn f10_siblings_in_the_queue_are_untouched() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    s.world.run(s.lines[0], None);
    assert_eq!(outcome(&s, 0, 2), Some(Ok(())));
}

#[test]
fn f10_a_failure_travels_through_a_chain_of_devices() {
    let mut s = stage();
    let other = s.world.object(s.client, 4096);
    let [a, b, c] = s.queues;
    let batch = Batch::new().job(a, 1).writes(s.object, 0..64);
    let batch = batch.job(b, 1).reads(s.object, 0..64).writes(other, 0..64).job(c, 1).reads(other, 0..64);
    s.submit(batch);
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.world.run_all();
    assert_eq!(outcome(&s, 2, 1), outcome(&s, 0, 1));
}

#[test]
fn f10_whoever_has_the_fence_may_ask_for_the_cause() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let cause = outcome(&s, 0, 1).unwrap().unwrap_err().cause;
    let told = s.world.explain(s.client, cause);
    let pid = 100 + s.world.instance(COPY).0;
    assert_eq!((told.point, told.pid, told.code), (Point(1), pid, ErrorCode::CorruptInput));
    assert_eq!(
        (told.device.as_slice(), told.text.as_slice()),
        (b"copy".as_slice(), b"it \\x1b[1mbroke".as_slice())
    );
}

#[test]
fn f10_another_domain_learns_nothing_of_a_cause() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let cause = outcome(&s, 0, 1).unwrap().unwrap_err().cause;
    let stranger = s.world.client_of(OTHER_DOMAIN);
    let known = s.world.refused(stranger, Explain { cause });
    let unknown = s.world.refused(stranger, Explain { cause: CauseId::new(InstanceId(77), 1) });
    assert_eq!((known.code, known.text), (unknown.code, unknown.text));
}

#[test]
fn f10_a_client_may_ask_to_run_anyway() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    let batch = Batch::new().job(a, 1).writes(s.object, 0..64);
    s.submit(batch.job(b, 1).flags(JOB_RUN_ANYWAY).reads(s.object, 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    s.world.run(s.lines[1], None);
    assert_eq!((s.waits(ZIP), outcome(&s, 1, 1)), (vec![(0, 1, Order)], Some(Ok(()))));
}

#[test]
fn f10_an_explicit_data_wait_for_a_failed_point_that_is_over_fails_too() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    s.submit(Batch::new().job(s.queues[1], 1).waits(s.queues[0], 1, Data));
    s.submit(Batch::new().job(s.queues[1], 2).waits(s.queues[0], 1, Order));
    s.world.run_all();
    assert_eq!((outcome(&s, 1, 1), outcome(&s, 1, 2)), (outcome(&s, 0, 1), Some(Ok(()))));
}

#[test]
fn t1_waiting_for_a_point_nobody_has_promised_is_refused() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[1], 1).waits(s.queues[0], 2, Order).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadPoint, 2, 1));
}

#[test]
fn t3_points_only_grow_and_have_no_gaps() {
    let mut s = stage();
    let q = s.queues[0];
    s.submit(Batch::new().job(q, 1));
    for point in [1, 3, 0, u64::MAX] {
        let refused = s.world.refused(s.client, Batch::new().job(q, point).0);
        assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadPoint, point, 2));
        assert_eq!(refused.cause, CauseId::NONE, "no point is consumed");
    }
    s.submit(Batch::new().job(q, 2));
}

#[test]
fn t5_each_point_keeps_its_own_error() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).job(s.queues[0], 3));
    s.world.run(s.lines[0], None);
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    s.world.run(s.lines[0], None);
    s.submit(Batch::new().job(s.queues[1], 1).waits(s.queues[0], 3, Data));
    s.submit(Batch::new().job(s.queues[1], 2).waits(s.queues[0], 2, Data));
    let failed: Vec<bool> = s.world.driver(ZIP).history.iter().map(|job| job.failed().is_some()).collect();
    assert_eq!(failed, [false, true]);
}

#[test]
fn t5_failures_that_are_long_past_count_as_failed() {
    let mut s = stage();
    for point in 1..=200 {
        s.submit(Batch::new().job(s.queues[0], point));
        s.world.run(s.lines[0], Some(ErrorCode::Io));
    }
    s.submit(Batch::new().job(s.queues[1], 1).waits(s.queues[0], 1, Data));
    let forgotten = Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE };
    assert_eq!(s.world.last_job(ZIP).failed(), Some(forgotten), "and not with the cause of another");
}

// M-062
#[test]
fn f1_a_driver_that_ends_a_job_twice_is_stopped() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.try_run(s.lines[0], None);
    let id = s.world.instance(COPY);
    let messages = s.world.drivers.get_mut(&id).unwrap().flush();
    s.world.say(id, messages[0].clone());
    assert!(!s.world.drivers[&id].killed);
    s.world.say(id, messages[0].clone());
    assert!(s.world.drivers[&id].killed);
}

// M-064
#[test]
fn l4_a_dead_driver_fails_every_point_it_owed() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    let id = s.world.instance(COPY);
    s.world.die(id, InstanceEnd::Exited(-9));
    let ends = [1, 2].map(|point| outcome(&s, 0, point).unwrap().unwrap_err());
    assert!(ends.iter().all(|failure| failure.code == ErrorCode::DeviceLost));
    let why = String::from_utf8(s.world.explain(s.client, ends[0].cause).text).unwrap();
    assert_eq!(why, format!("device copy (instance {}, pid {}) ended: signal 9", id.0, 100 + id.0));
}

#[test]
fn l4_what_it_had_signalled_and_not_told_stays_as_it_was() {
    let mut s = stage();
    s.submit(
        Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64).job(s.queues[0], 3),
    );
    s.world.try_run(s.lines[0], None);
    s.world.try_run(s.lines[0], Some(ErrorCode::Io));
    let failed = outcome(&s, 0, 2);
    s.world.die(s.world.instance(COPY), InstanceEnd::HungUp);
    assert_eq!((outcome(&s, 0, 1), outcome(&s, 0, 2)), (Some(Ok(())), failed));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    assert_eq!(s.world.last_job(ZIP).failed(), failed.unwrap().err());
}

#[test]
fn l4_what_it_was_writing_is_poisoned_and_the_rest_is_not() {
    let mut s = stage();
    let read_only = s.world.object(s.client, 4096);
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).reads(read_only, 0..64));
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(1));
    s.submit(Batch::new().job(s.queues[1], 1).reads(read_only, 0..64).reads(s.object, 64..128));
    assert_eq!(s.world.last_job(ZIP).failed(), None);
    s.submit(Batch::new().job(s.queues[1], 2).reads(s.object, 0..1));
    assert_eq!(s.world.last_job(ZIP).failed().map(|f| f.code), Some(ErrorCode::DeviceLost));
}

#[test]
fn l4_those_who_wait_for_the_dead_go_on_and_then_forget_its_pages() {
    let mut s = stage();
    s.submit(
        Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[1], 1).reads(s.object, 0..64),
    );
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-11));
    assert_eq!(s.world.driver(ZIP).observe_pages.len(), 1);
    s.world.run(s.lines[1], None);
    assert_eq!(outcome(&s, 1, 1).unwrap().unwrap_err().code, ErrorCode::DeviceLost);
    assert_eq!(s.world.driver(ZIP).observe_pages.len(), 0);
}

#[test]
fn l4_every_page_of_the_dead_is_settled_before_it_is_killed() {
    let mut s = stage();
    s.submit(
        Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[1], 1).reads(s.object, 0..64),
    );
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-11));
    let kinds: Vec<_> = s.world.settles.iter().map(|e| matches!(e, Effect::Settle { .. })).collect();
    assert_eq!(kinds, [true, true, false, false]);
    let lost = |e: &Event| matches!(e, Event::InstanceLost { jobs: 1, .. });
    assert_eq!(s.world.events.iter().filter(|e| lost(e)).count(), 1);
}

#[test]
fn f10_a_data_wait_for_a_refused_point_of_a_queue_that_is_gone_fails() {
    let mut s = stage();
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 1).0);
    s.submit(Batch::new().job(s.queues[1], 1).waits(s.queues[0], 1, Data));
    let failure = Failure { code: ErrorCode::Refused, cause: refused.cause };
    assert_eq!(s.world.last_job(ZIP).failed(), Some(failure));
}

#[test]
fn l4_a_batch_that_comes_after_the_loss_of_a_device_fails_with_the_cause_of_the_loss() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let lost = outcome(&s, 0, 1).unwrap().unwrap_err();
    // One of its queues is gone, the other is not.
    let batch = Batch::new().job(s.queues[1], 1).job(s.queues[0], 2);
    let refused = s.world.refused(s.client, batch.0);
    assert_eq!((refused.code, refused.cause), (ErrorCode::Gone, lost.cause));
    s.world.run_all();
    let failure = Failure { code: ErrorCode::Refused, cause: lost.cause };
    assert_eq!(outcome(&s, 1, 1), Some(Err(failure)));
    assert_eq!(s.world.explain(s.client, refused.cause).code, ErrorCode::DeviceLost);
}

#[test]
fn the_causes_of_a_domain_go_when_nothing_is_left_of_it() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let cause = outcome(&s, 0, 1).unwrap().unwrap_err().cause;
    s.world.hang_up(s.client);
    s.world.run_all();
    let again = s.world.client();
    assert_eq!(s.world.refused(again, Explain { cause }).code, ErrorCode::Gone);
}

#[test]
fn a_cause_that_is_not_the_drivers_own_ends_it() {
    let mut s = stage();
    let id = s.world.instance(SEC);
    let cause = vgem_proto::message::driver::Cause {
        cause: CauseId::new(InstanceId(1), 1),
        timeline: s.lines[2],
        point: Point(1),
        at: s.world.now,
        code: ErrorCode::Io,
        reserved: vgem_proto::codec::Zero,
        text: Vec::new(),
    };
    s.world.say(id, cause);
    assert!(s.world.drivers[&id].killed);
}
