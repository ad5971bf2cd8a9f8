//! F9: one job hangs, its driver is ended, and an heir goes on with the queues.

use vgem_core::io::{Effect, Event, Input, InstanceEnd};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{InstanceId, Point, TimelineHandle, TimelineKey};
use vgem_proto::jobs::PAGE_LOCAL;
use vgem_proto::message::client::{Cancel, Cancelling, ClientMessage, Observe, OpenQueue};
use vgem_proto::message::driver::DriverMessage;
use vgem_proto::rights::WaitKind::{Data, Order};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::world::{COPY, MS, ONCE, READ, SEC, World, ZIP};

type Outcome = Option<Result<(), Failure>>;

fn outcome(s: &Stage, line: TimelineKey, point: u64) -> Outcome {
    s.world.truth.look(line, Point(point))
}

fn code_of(outcome: Outcome) -> Option<ErrorCode> {
    outcome.and_then(Result::err).map(|failure| failure.code)
}

/// Lets the job at the head of some queue of COPY become late, and its driver die; the heir has not started.
fn hang(s: &mut Stage) -> InstanceId {
    let late = s.world.instance(COPY);
    for _ in 0..10 {
        s.world.wait_for_deadline();
        if s.world.drivers[&late].killed {
            s.world.die(late, InstanceEnd::Exited(-9));
            return late;
        }
    }
    panic!("no job is late");
}

/// Lets time pass until the heir has started.
fn succeed(s: &mut Stage) -> InstanceId {
    s.world.let_ms_pass(100);
    s.world.instance(COPY)
}

/// The jobs that an instance got: (timeline, point, code it fails with).
fn got(world: &World, id: InstanceId) -> Vec<(TimelineKey, u64, Option<ErrorCode>)> {
    let jobs = world.drivers[&id].history.iter();
    jobs.map(|j| (j.job.queue, j.job.point.0, j.failed().map(|failure| failure.code))).collect()
}

// M-088
#[test]
fn f9_a_job_that_hangs_is_guilty_and_those_behind_and_beside_it_run_again() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).job(second.queue, 1).job(s.queues[1], 1));
    hang(&mut s);
    assert_eq!(code_of(outcome(&s, s.lines[0], 1)), Some(ErrorCode::TimedOut));
    assert_eq!((outcome(&s, s.lines[0], 2), outcome(&s, second.timeline, 1)), (None, None));
    succeed(&mut s);
    s.world.run_all();
    assert_eq!((outcome(&s, s.lines[0], 2), outcome(&s, second.timeline, 1)), (Some(Ok(())), Some(Ok(()))));
}

// M-088
#[test]
fn f9_an_innocent_job_that_is_not_idempotent_fails_with_another_code_and_the_same_cause() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).op(ONCE).job(second.queue, 1).op(ONCE));
    hang(&mut s);
    succeed(&mut s);
    s.world.run_all();
    let guilty = outcome(&s, s.lines[0], 1).unwrap().unwrap_err();
    let innocent = Some(Err(Failure { code: ErrorCode::Cancelled, cause: guilty.cause }));
    assert_eq!(guilty.code, ErrorCode::TimedOut);
    assert_eq!((outcome(&s, s.lines[0], 2), outcome(&s, second.timeline, 1)), (innocent, innocent));
}

#[test]
fn f9_a_job_that_ended_just_before_the_reset_is_not_guilty() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.wait_for_deadline();
    s.world.try_run(s.lines[0], None);
    s.world.bury();
    succeed(&mut s);
    s.world.run_all();
    assert_eq!((outcome(&s, s.lines[0], 1), outcome(&s, s.lines[0], 2)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn f9_who_depends_on_the_guilty_by_data_fails_with_its_cause_and_its_code() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    let batch = Batch::new().job(s.queues[0], 1).writes(s.object, 0..64);
    let batch = batch.job(s.queues[0], 2).reads(s.object, 0..64).job(second.queue, 1).reads(s.object, 0..64);
    s.submit(batch.job(s.queues[1], 1).reads(s.object, 0..64));
    hang(&mut s);
    succeed(&mut s);
    s.world.run_all();
    let guilty = outcome(&s, s.lines[0], 1);
    let dependants = [(s.lines[0], 2), (second.timeline, 1), (s.lines[1], 1)];
    assert!(dependants.iter().all(|(line, point)| outcome(&s, *line, *point) == guilty));
}

#[test]
fn f9_what_a_cancelled_innocent_was_to_write_is_poisoned() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).op(ONCE).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    hang(&mut s);
    succeed(&mut s);
    s.world.run_all();
    s.submit(Batch::new().job(s.queues[2], 1).reads(s.object, 0..64));
    assert_eq!(outcome(&s, s.lines[1], 1), outcome(&s, s.lines[0], 2));
    assert_eq!(s.world.last_job(SEC).failed(), outcome(&s, s.lines[0], 2).unwrap().err());
}

// Which jobs may run again.

/// What becomes of a job on a second queue of COPY, beside one that hangs. `waits`: whether what it waits for, a job on
/// ZIP, has ended, and whether the broker knows.
fn beside(
    waits: Option<(bool, bool)>,
    job: impl FnOnce(&Stage, Batch) -> Batch,
) -> (Option<ErrorCode>, Stage) {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    let mut batch = Batch::new().job(s.queues[0], 1);
    if waits.is_some() {
        batch = batch.job(s.queues[1], 1).with(|job| job.run_ns = 10_000 * MS);
    }
    batch = job(&s, batch.job(second.queue, 1));
    if waits.is_some() {
        batch = batch.waits(s.queues[1], 1, Order);
    }
    s.submit(batch);
    if let Some((true, is_known)) = waits {
        s.world.try_run(s.lines[1], None);
        if is_known {
            s.world.flush(s.world.instance(ZIP));
        }
    }
    hang(&mut s);
    let heir = succeed(&mut s);
    let code = got(&s.world, heir).into_iter().find(|job| job.0 == second.timeline).expect("it is sent").2;
    (code, s)
}

// M-097
#[test]
fn f9_an_update_that_may_have_begun_does_not_run_again() {
    let (code, _) = beside(None, |s, batch| batch.updates(s.object, 0..64));
    assert_eq!(code, Some(ErrorCode::Cancelled));
}

#[test]
fn f9_an_update_that_waited_when_its_driver_ended_runs_again() {
    let (code, _) = beside(Some((false, false)), |s, batch| batch.updates(s.object, 0..64));
    assert_eq!(code, None);
}

#[test]
fn f9_an_update_whose_waits_had_passed_does_not_run_again() {
    let (code, _) = beside(Some((true, true)), |s, batch| batch.updates(s.object, 0..64));
    assert_eq!(code, Some(ErrorCode::Cancelled));
}

#[test]
fn f9_a_signal_that_only_the_dead_can_have_seen_counts() {
    let (code, _) = beside(Some((true, false)), |s, batch| batch.updates(s.object, 0..64));
    assert_eq!(code, Some(ErrorCode::Cancelled));
}

#[test]
fn f9_an_update_behind_another_job_of_its_queue_cannot_have_begun() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).updates(s.object, 0..64));
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(got(&s.world, heir), [(s.lines[0], 2, None)], "the guilty one came first");
}

#[test]
fn f9_an_update_that_waited_for_the_guilty_cannot_have_begun() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(second.queue, 1).updates(s.object, 0..64).waits(
        s.queues[0],
        1,
        Order,
    ));
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(got(&s.world, heir), [(second.timeline, 1, None)]);
}

// M-097
#[test]
fn f9_a_job_that_may_have_replaced_what_it_reads_does_not_run_again() {
    let (code, _) = beside(None, |s, batch| batch.reads(s.object, 0..128).writes(s.object, 64..192));
    assert_eq!(code, Some(ErrorCode::Cancelled));
}

#[test]
fn f9_a_job_that_may_have_replaced_the_cell_it_reads_does_not_run_again() {
    let (code, _) = beside(None, |s, batch| {
        batch.reads(s.object, 1024..2048).indirect(s.object, 64, 0).writes(s.object, 0..128)
    });
    assert_eq!(code, Some(ErrorCode::Cancelled));
}

#[test]
fn f9_a_job_that_reads_one_part_of_an_object_and_replaces_another_runs_again() {
    let (code, mut s) = beside(None, |s, batch| batch.reads(s.object, 0..64).writes(s.object, 64..128));
    assert_eq!(code, None);
    let sent = s.world.last_job(COPY);
    assert_eq!((sent.operands.len(), sent.operands[1].offset), (2, 64));
}

#[test]
fn f9_a_job_that_has_inherited_a_failure_keeps_it() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[1], 1).writes(s.object, 0..64));
    s.world.run(s.lines[1], Some(ErrorCode::CorruptInput));
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).op(ONCE).reads(s.object, 0..64));
    hang(&mut s);
    succeed(&mut s);
    s.world.run_all();
    assert_eq!(outcome(&s, s.lines[0], 2), outcome(&s, s.lines[1], 1));
}

#[test]
fn f9_a_failure_on_a_queue_that_was_closed_meanwhile_reaches_a_job_that_waits_for_it() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    let batch = Batch::new().job(second.queue, 1).writes(s.object, 0..64).job(s.queues[0], 1);
    s.submit(batch.job(s.queues[0], 2).reads(s.object, 0..64));
    s.world.run(second.timeline, Some(ErrorCode::CorruptInput));
    let cause = outcome(&s, second.timeline, 1);
    s.world.close_queue(s.client, second.queue);
    s.world.flush(s.world.instance(COPY));
    assert_eq!(s.world.broker.ledger().queues, 3);
    hang(&mut s);
    let heir = succeed(&mut s);
    let waits = s.world.drivers[&heir].history.iter().flat_map(|job| &job.waits);
    assert_eq!(waits.filter(|wait| wait.page == PAGE_LOCAL && wait.timeline == second.timeline).count(), 0);
    s.world.run_all();
    assert_eq!(outcome(&s, s.lines[0], 2), cause);
}

// What others see.

#[test]
fn f9_observers_see_the_points_in_the_places_they_know() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    let before = s.world.truth.slots.clone();
    let pages = s.world.pairs.len();
    hang(&mut s);
    succeed(&mut s);
    s.world.run_all();
    assert_eq!((s.world.truth.slots.clone(), s.world.pairs.len()), (before, pages));
    assert_eq!(outcome(&s, s.lines[1], 1), Some(Ok(())));
    let killed = s.world.settles.iter().filter(|e| !matches!(e, Effect::Level { .. })).count();
    assert_eq!(killed, 0, "no page and no slot gets a verdict");
}

#[test]
fn f9_the_guilty_point_is_in_every_page_before_the_heir_starts() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[0], 2));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    hang(&mut s);
    let told = |e: &Effect| match e {
        Effect::Level { timeline, value, failures, .. } => {
            (*timeline, value.0, failures.iter().map(|(point, f)| (point.0, f.code)).collect())
        }
        other => panic!("{other:?}"),
    };
    let told: Vec<(TimelineKey, u64, Vec<_>)> = s.world.settles.iter().map(told).collect();
    let expected = (s.lines[0], 1, vec![(1, ErrorCode::TimedOut)]);
    assert_eq!(told, [expected.clone(), expected], "the client's page and the other driver's");
}

#[test]
fn f9_a_timeline_can_be_shown_to_somebody_new_while_its_heir_is_awaited() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64));
    hang(&mut s);
    let key = s.world.last_object();
    let other = s.world.client();
    let porter = s.world.porter(other);
    let imported = s.world.import(other, porter, key, READ);
    s.world.apply(Input::Tick);
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    let heir = succeed(&mut s);
    s.world.run_all();
    assert_eq!((outcome(&s, s.lines[1], 1), s.world.drivers[&heir].signal_pages.len()), (Some(Ok(())), 2));
    let observe = Observe { object: imported.object, access: READ, reserved: Zero };
    assert!(matches!(s.world.ask(other, observe), Some(ClientMessage::Observed(o)) if o.points.is_empty()));
}

// What comes meanwhile.

#[test]
fn f9_batches_are_accepted_while_the_heir_is_awaited_and_run_in_order() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.wait_for_deadline();
    s.submit(Batch::new().job(s.queues[0], 3).op(ONCE).updates(s.object, 0..64));
    s.world.bury();
    s.submit(Batch::new().job(s.queues[0], 4).reads(s.object, 0..64));
    let heir = succeed(&mut s);
    s.submit(Batch::new().job(s.queues[0], 5));
    let points: Vec<_> = got(&s.world, heir).iter().map(|job| (job.1, job.2)).collect();
    assert_eq!(points, [(2, None), (3, None), (4, None), (5, None)]);
    s.world.run_all();
    assert_eq!(outcome(&s, s.lines[0], 5), Some(Ok(())));
}

// M-055
#[test]
fn f9_a_batch_that_is_refused_meanwhile_uses_its_points() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    hang(&mut s);
    assert_eq!(
        s.world.refused(s.client, Batch::new().job(s.queues[0], 2).op(99).0).code,
        ErrorCode::NoSuchOperation
    );
    s.submit(Batch::new().job(s.queues[0], 3));
    succeed(&mut s);
    s.world.run_all();
    assert_eq!(code_of(outcome(&s, s.lines[0], 2)), Some(ErrorCode::Refused));
    assert_eq!(outcome(&s, s.lines[0], 3), Some(Ok(())));
}

#[test]
fn f9_a_job_that_is_cancelled_meanwhile_is_not_even_begun() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).job(s.queues[0], 3));
    hang(&mut s);
    let answer = s.world.ask(s.client, Cancel { queue: s.queues[0], point: Point(2) });
    assert_eq!(answer, Some(Cancelling { state: 0, reserved: Zero }.into()));
    succeed(&mut s);
    s.world.run_all();
    let cancelled = outcome(&s, s.lines[0], 2).unwrap().unwrap_err();
    let why = s.world.explain(s.client, cancelled.cause);
    assert_eq!((cancelled.code, why.code, why.point), (ErrorCode::Cancelled, ErrorCode::Cancelled, Point(2)));
    assert_eq!(outcome(&s, s.lines[0], 3), Some(Ok(())));
}

#[test]
fn f9_a_job_that_was_cancelled_before_the_death_does_not_run_after_it() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.ask(s.client, Cancel { queue: s.queues[0], point: Point(2) });
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(got(&s.world, heir), [(s.lines[0], 2, Some(ErrorCode::Cancelled))]);
}

#[test]
fn f9_a_queue_that_closes_meanwhile_finishes_its_jobs() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    hang(&mut s);
    s.world.close_queue(s.client, s.queues[0]);
    succeed(&mut s);
    s.world.run_all();
    assert_eq!((outcome(&s, s.lines[0], 2), s.world.broker.ledger().queues), (Some(Ok(())), 2));
}

#[test]
fn f9_an_idle_queue_that_closes_meanwhile_is_not_even_opened() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1));
    hang(&mut s);
    s.world.close_queue(s.client, second.queue);
    let heir = succeed(&mut s);
    assert_eq!(
        (s.world.drivers[&heir].opened.clone(), s.world.broker.ledger().queues),
        (vec![s.lines[0]], 3)
    );
}

#[test]
fn f9_a_client_that_goes_meanwhile_leaves_nothing_behind() {
    let mut s = stage();
    let before = World::new().broker.ledger();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64));
    hang(&mut s);
    s.world.hang_up(s.client);
    succeed(&mut s);
    s.world.run_all();
    s.world.let_ms_pass(60_000);
    assert_eq!(s.world.broker.ledger(), before);
}

#[test]
fn f9_a_request_for_a_queue_waits_for_the_heir() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    hang(&mut s);
    let open = OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    let request = s.world.send(s.client, open, 0, s.world.now.after(1000 * MS));
    assert!(s.world.answer_to(request).is_none());
    succeed(&mut s);
    let answer = s.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(answer, Some(ClientMessage::QueueOpened(_))), "{answer:?}");
}

#[test]
fn f9_an_heir_maps_what_its_jobs_use_and_no_more() {
    let mut s = stage();
    let unused = s.world.object(s.client, 4096);
    s.submit(
        Batch::new().job(s.queues[0], 1).writes(unused, 0..64).job(s.queues[0], 2).reads(s.object, 0..64),
    );
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(s.world.drivers[&heir].mapped.len(), 1);
}

#[test]
fn f9_an_heir_is_told_what_its_queues_were_lent() {
    let mut s = stage();
    let open = OpenQueue { device: ZIP, depth: 0, priority: 5, reserved: Zero };
    let Some(ClientMessage::QueueOpened(urgent)) = s.world.ask(s.client, open) else { panic!("no queue") };
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.submit(Batch::new().job(urgent.queue, 1).waits(s.queues[0], 2, Order));
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(s.world.drivers[&heir].boosts, [(s.lines[0], 2, 5)]);
}

#[test]
fn f9_a_job_that_waits_for_a_point_that_its_gone_queue_will_never_have_fails() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    let until = s.world.now.after(60_000 * MS);
    let later = TimelineHandle(s.queues[0].0);
    s.submit(Batch::new().job(second.queue, 1).waits_for(later, 9, Data, Some(until)));
    hang(&mut s);
    succeed(&mut s);
    hang(&mut s);
    s.world.let_ms_pass(200);
    s.world.run_all();
    assert_eq!(code_of(outcome(&s, second.timeline, 1)), Some(ErrorCode::Cancelled));
}

#[test]
fn f9_a_job_whose_promise_is_not_made_meanwhile_fails_at_once() {
    let mut s = stage();
    let line = s.world.timeline(s.client);
    let until = s.world.now.after(6050 * MS);
    let batch = Batch::new().job(s.queues[0], 1).job(s.queues[0], 2);
    s.submit(batch.waits_for(line.handle, 1, Data, Some(until)));
    hang(&mut s);
    let heir = succeed(&mut s);
    assert_eq!(got(&s.world, heir), [(s.lines[0], 2, Some(ErrorCode::TimedOut))]);
    assert_eq!(s.world.last_job(COPY).waits.len(), 0);
    assert!(s.world.try_run(s.lines[0], None), "it waits for nothing");
}

#[test]
fn f9_a_gate_that_is_still_shut_holds_at_the_heir() {
    let mut s = stage();
    let line = s.world.timeline(s.client);
    s.world.promise(line, 1, 30_000);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).waits_for(line.handle, 1, Data, None));
    hang(&mut s);
    succeed(&mut s);
    assert!(!s.world.try_run(s.lines[0], None), "it waits");
    s.world.signal(line, 1);
    s.world.run(s.lines[0], None);
    assert_eq!(outcome(&s, s.lines[0], 2), Some(Ok(())));
}

// Clocks.

#[test]
fn f8_the_clocks_of_jobs_that_run_again_start_when_the_heir_has_them() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    hang(&mut s);
    succeed(&mut s);
    assert_eq!(s.world.broker.next_deadline(), Some(s.world.now.after(6000 * MS)));
}

#[test]
fn f8_no_clock_runs_while_the_heir_is_awaited() {
    let mut s = stage();
    s.world.hold = |e| matches!(e, Effect::StartInstance { .. });
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    hang(&mut s);
    s.world.let_ms_pass(20_000);
    assert_eq!((outcome(&s, s.lines[0], 2), s.world.held.len()), (None, 1));
}

// Ends.

#[test]
fn f9_a_queue_that_was_guilty_twice_is_gone_and_others_go_on() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).job(s.queues[0], 3));
    hang(&mut s);
    succeed(&mut s);
    s.submit(Batch::new().job(second.queue, 1));
    hang(&mut s);
    let codes = [1, 2, 3].map(|point| code_of(outcome(&s, s.lines[0], point)));
    assert_eq!(codes, [ErrorCode::TimedOut, ErrorCode::TimedOut, ErrorCode::Cancelled].map(Some));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 4).0);
    assert_eq!(refused.code, ErrorCode::Gone);
    s.world.let_ms_pass(200);
    s.world.run_all();
    assert_eq!(outcome(&s, second.timeline, 1), Some(Ok(())));
}

#[test]
fn f9_a_verdict_stays_in_its_slot_until_the_queue_is_closed_and_is_lifted_before_another_is_shown_there() {
    let mut s = stage();
    s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    hang(&mut s);
    succeed(&mut s);
    hang(&mut s);
    s.world.let_ms_pass(200);
    let condemned: Vec<_> = s.world.truth.condemned.iter().copied().collect();
    assert_eq!(condemned.len(), 1);
    let slots = |s: &mut Stage| (0..15).map(|_| s.world.open(s.client, COPY).timeline).collect::<Vec<_>>();
    slots(&mut s);
    assert_eq!(s.world.truth.condemned.len(), 1, "other slots are used");
    s.world.close_queue(s.client, s.queues[0]);
    slots(&mut s);
    assert_eq!(s.world.truth.condemned.len(), 0, "the world checks that it was lifted first");
}

#[test]
fn f9_an_heir_that_cannot_be_started_takes_everything_with_it() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    s.world.hold = |e| matches!(e, Effect::StartInstance { .. });
    hang(&mut s);
    s.world.let_ms_pass(100);
    let Some(Effect::StartInstance { instance, .. }) = s.world.held.pop() else { panic!("an heir") };
    s.world.apply(Input::InstanceFailed { instance, why: "no such file".into() });
    s.world.run(s.lines[1], None);
    let lost = outcome(&s, s.lines[0], 2).unwrap().unwrap_err();
    assert_eq!((lost.code, outcome(&s, s.lines[1], 1)), (ErrorCode::DeviceLost, Some(Err(lost))));
    let why = String::from_utf8(s.world.explain(s.client, lost.cause).text).unwrap();
    assert!(why.contains("could not be started: no such file"), "{why}");
    assert_eq!(s.world.refused(s.client, Batch::new().job(s.queues[0], 3).0).code, ErrorCode::Gone);
}

#[test]
fn f9_an_heir_that_dies_before_it_is_ready_takes_everything_with_it() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.hold = |e| matches!(e, Effect::ToDriver { message: DriverMessage::Start(_), .. });
    hang(&mut s);
    let heir = succeed(&mut s);
    s.submit(Batch::new().job(s.queues[0], 3));
    s.world.die(heir, InstanceEnd::Exited(69));
    let codes = [2, 3].map(|point| code_of(outcome(&s, s.lines[0], point)));
    assert_eq!(codes, [Some(ErrorCode::DeviceLost), Some(ErrorCode::DeviceLost)]);
    let killed = s.world.settles.iter().filter(|e| matches!(e, Effect::KillPage { .. })).count();
    assert_eq!(killed, 1);
}

#[test]
fn f9_a_device_that_was_lost_too_often_has_no_heir() {
    let mut s = stage();
    let queues: Vec<_> = (0..3).map(|_| s.world.open(s.client, COPY)).collect();
    for (n, queue) in queues.iter().enumerate() {
        let batch = Batch::new().job(queue.queue, 1).job(s.queues[0], n as u64 + 1);
        s.submit(batch.with(|job| job.run_ns = 10_000 * MS));
        if n < 2 {
            hang(&mut s);
            s.world.let_ms_pass(200);
            s.world.run_all();
            assert_eq!(outcome(&s, s.lines[0], n as u64 + 1), Some(Ok(())));
        }
    }
    hang(&mut s);
    assert_eq!(code_of(outcome(&s, queues[2].timeline, 1)), Some(ErrorCode::TimedOut));
    assert_eq!(code_of(outcome(&s, s.lines[0], 3)), Some(ErrorCode::Cancelled));
}

#[test]
fn f9_a_crash_has_no_heir() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-11));
    assert_eq!(code_of(outcome(&s, s.lines[0], 2)), Some(ErrorCode::DeviceLost));
}

#[test]
fn f9_a_job_that_writes_a_sealed_result_has_lost_its_writer() {
    let mut s = crate::sealed::ready();
    let [(queue, line), _] = s.queues;
    s.world.submit(s.client, Batch::new().job(queue, 1).job(queue, 2).writes(s.object, 0..64).job(queue, 3));
    s.world.let_ms_pass(6100);
    s.world.run_all();
    let codes = [1, 2, 3].map(|point| code_of(s.world.truth.look(line, Point(point))));
    assert_eq!(codes, [Some(ErrorCode::TimedOut), Some(ErrorCode::Cancelled), None]);
    assert_eq!(s.world.truth.look(line, Point(3)), Some(Ok(())));
}

#[test]
fn f9_it_is_told_how_many_jobs_run_again() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).job(second.queue, 1).op(ONCE));
    hang(&mut s);
    s.submit(Batch::new().job(s.queues[0], 3));
    let heir = succeed(&mut s);
    let told = s.world.events.iter().filter_map(|event| match event {
        Event::JobsRunAgain { instance, device, jobs, cancelled } => {
            Some((*instance, device.clone(), *jobs, *cancelled))
        }
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(heir.0, "copy".to_owned(), 1, 1)]);
}

#[test]
fn f9_waits_within_the_device_still_hold_at_the_heir() {
    let mut s = stage();
    let second = s.world.open(s.client, COPY);
    let batch = Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64);
    s.submit(batch.job(second.queue, 1).reads(s.object, 0..64));
    hang(&mut s);
    succeed(&mut s);
    assert_eq!(s.world.last_job(COPY).waits(), [(s.lines[0], 2, Data)]);
    assert!(!s.world.try_run(second.timeline, None), "it waits");
    s.world.run_all();
    assert_eq!(outcome(&s, second.timeline, 1), Some(Ok(())));
}
