//! Timelines that clients signal (SEMANTICS T, R7, L3; SPEC 7.6), and points that are still to come (J2).

use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Point, QueueHandle, Time, TimelineHandle};
use vgem_proto::jobs::WAIT_PROMISE;
use vgem_proto::message::client::{
    ClientMessage, ExportTimeline, FailPoint, ImportTimeline, ObserveTimeline, Promise, QueryPoint,
};
use vgem_proto::message::driver::{DriverMessage, Unblocked};
use vgem_proto::rights::{TimelineRights, WaitKind};

use crate::batch::Batch;
use crate::signals::Line;
use crate::world::{COPY, MS, OTHER_DOMAIN, World, ZIP};

const WAIT: TimelineRights = TimelineRights::WAIT;
const SIGNAL: TimelineRights = TimelineRights::SIGNAL;

/// A client with a timeline.
fn stage() -> (World, Line) {
    let mut world = World::new();
    let client = world.client();
    let line = world.timeline(client);
    (world, line)
}

fn job(queue: QueueHandle, point: u64) -> Batch {
    Batch::new().job(queue, point)
}

fn as_timeline(queue: QueueHandle) -> TimelineHandle {
    TimelineHandle(queue.0)
}

// Promises.

// M-089
#[test]
fn t3_points_are_promised_in_growing_order_only() {
    let (mut world, line) = stage();
    world.promise(line, 5, 100);
    let promise = Promise { timeline: line.handle, point: Point(5), until: world.now.after(MS) };
    let refused = world.refused(line.link, promise);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadPoint, 5, 6));
}

#[test]
fn a_promise_too_far_ahead_or_in_the_past_is_refused_with_the_bound() {
    let (mut world, line) = stage();
    for until in [world.now, Time(world.now.0 - 1), world.now.after(60_001 * MS)] {
        let refused = world.refused(line.link, Promise { timeline: line.handle, point: Point(1), until });
        let latest = world.now.after(60_000 * MS).0;
        assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::OutOfRange, until.0, latest));
    }
}

#[test]
fn a_kept_promise_leaves_nothing_behind() {
    let (mut world, line) = stage();
    world.promise(line, 1, 100);
    world.signal(line, 1);
    world.let_ms_pass(200);
    assert_eq!((world.query(line, 1).state, world.broker.next_deadline()), (2, None));
}

// M-090
#[test]
fn f7_a_promise_that_is_not_kept_ends_the_timeline_with_a_cause_that_names_the_client() {
    let (mut world, line) = stage();
    world.promise(line, 2, 100);
    world.signal(line, 1);
    world.let_ms_pass(100);
    let failure = world.truth.look(line.key, Point(2)).expect("not pending").unwrap_err();
    assert_eq!(failure.code, ErrorCode::TimedOut);
    let text = String::from_utf8(world.explain(line.link, failure.cause).text).unwrap();
    assert!(text.contains("process 1") && text.contains("promised point 2"), "{text}");
    assert_eq!(world.truth.look(line.key, Point(1)), Some(Ok(())));
}

#[test]
fn a_broken_timeline_takes_no_more_promises() {
    let (mut world, line) = stage();
    world.promise(line, 1, 100);
    world.let_ms_pass(100);
    let promise = Promise { timeline: line.handle, point: Point(2), until: world.now.after(MS) };
    assert_eq!(world.refused(line.link, promise).code, ErrorCode::Gone);
}

#[test]
fn kept_promises_do_not_use_up_those_that_may_be_open() {
    let (mut world, line) = stage();
    for point in 1..500 {
        world.promise(line, point, 10_000);
        world.signal(line, point);
    }
}

#[test]
fn more_open_promises_than_allowed_are_refused_with_the_bound() {
    let (mut world, line) = stage();
    (1..=64).for_each(|point| world.promise(line, point, 10_000));
    let promise = Promise { timeline: line.handle, point: Point(65), until: world.now.after(MS) };
    let refused = world.refused(line.link, promise);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 65, 64));
}

// M-091
#[test]
fn l3_the_promises_of_a_client_that_dies_fail_with_owner_died() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    world.promise(line, 2, 1_000);
    world.signal(line, 1);
    world.hang_up(line.link);
    let failure = world.truth.look(line.key, Point(2)).expect("not pending").unwrap_err();
    let told = world.explain(other, failure.cause);
    let text = String::from_utf8(told.text).unwrap();
    assert_eq!((failure.code, world.query(theirs, 1).state), (ErrorCode::OwnerDied, 2), "{text}");
    assert!(text.contains("is gone") && text.contains("client") && told.pid != 0, "{text}");
}

// M-091
#[test]
fn a_timeline_that_is_closed_fails_what_was_not_signalled_with_cancelled() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    world.signal(line, 3);
    world.close_line(line);
    let failure = world.truth.look(line.key, Point(4)).expect("not pending").unwrap_err();
    assert_eq!(failure.code, ErrorCode::Cancelled);
    assert_eq!((world.query(theirs, 3).state, world.query(theirs, 4).state), (2, 3));
}

#[test]
fn t5_a_failed_point_keeps_its_own_error_and_a_later_success_does_not_hide_it() {
    let (mut world, line) = stage();
    let fail = |point| FailPoint {
        timeline: line.handle,
        point: Point(point),
        code: ErrorCode::CorruptInput,
        reserved: Zero,
        text: b"bad frame".to_vec(),
    };
    let Some(ClientMessage::CauseIssued(issued)) = world.ask(line.link, fail(1)) else { panic!("no cause") };
    world.promise(line, 2, 100);
    world.signal(line, 2);
    world.let_ms_pass(100);
    let states = [1, 2].map(|point| world.query(line, point)).map(|s| (s.state, s.cause));
    assert_eq!(states, [(3, issued.cause), (2, vgem_proto::ids::CauseId::NONE)]);
    let text = String::from_utf8(world.explain(line.link, issued.cause).text).unwrap();
    assert!(text.contains("bad frame"), "{text}");
    assert_eq!(world.refused(line.link, fail(1)).code, ErrorCode::BadPoint);
}

// Rights.

// M-092
#[test]
fn t8_a_recipient_gets_no_more_than_the_giver_had() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    let export = ExportTimeline { timeline: theirs.handle, rights: SIGNAL, reserved: Zero };
    let refused = world.refused(other, export);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Denied, 2, 1));
    let promise = Promise { timeline: theirs.handle, point: Point(1), until: world.now.after(MS) };
    assert_eq!(world.refused(other, promise).code, ErrorCode::Denied);
}

// M-092
#[test]
fn t8_the_right_to_signal_moves_and_only_one_has_it() {
    let (mut world, line) = stage();
    let other = world.client();
    let token = world.export_line(line.link, line.handle, SIGNAL);
    let promise = Promise { timeline: line.handle, point: Point(1), until: world.now.after(MS) };
    assert_eq!(world.refused(line.link, promise).code, ErrorCode::Denied);
    let observe = ObserveTimeline { timeline: line.handle };
    assert_eq!(world.refused(line.link, observe).code, ErrorCode::NotReady);
    let theirs = world.import_line(other, token);
    world.observe_line(line);
    world.promise(theirs, 1, 100);
    world.signal(theirs, 1);
    let observe = ObserveTimeline { timeline: theirs.handle };
    assert_eq!(world.refused(other, observe).code, ErrorCode::Denied);
}

#[test]
fn the_right_to_signal_stays_once_somebody_could_notice() {
    let (mut world, line) = stage();
    world.promise(line, 1, 100);
    let export = ExportTimeline { timeline: line.handle, rights: SIGNAL, reserved: Zero };
    assert_eq!(world.refused(line.link, export).code, ErrorCode::Busy);
}

// M-093
#[test]
fn a_token_is_good_once_and_not_for_long() {
    let (mut world, line) = stage();
    let other = world.client();
    let token = world.export_line(line.link, line.handle, WAIT);
    world.import_line(other, token);
    assert_eq!(world.refused(other, ImportTimeline { token }).code, ErrorCode::NoSuchHandle);
    let token = world.export_line(line.link, line.handle, WAIT);
    world.let_ms_pass(10_000);
    assert_eq!(world.refused(other, ImportTimeline { token }).code, ErrorCode::NoSuchHandle);
}

#[test]
fn a_right_to_signal_that_nobody_takes_ends_the_timeline() {
    let (mut world, line) = stage();
    world.export_line(line.link, line.handle, SIGNAL);
    world.let_ms_pass(10_000);
    let state = world.query(line, 1);
    assert_eq!((state.state, state.code), (3, ErrorCode::Cancelled.number()));
}

#[test]
fn atk_a_guessed_token_gives_the_same_answer_as_a_used_one() {
    let (mut world, line) = stage();
    let token = world.export_line(line.link, line.handle, WAIT);
    let guessed = world.refused(line.link, ImportTimeline { token: [token[0], token[1] + 1] });
    world.import_line(line.link, token);
    let used = world.refused(line.link, ImportTimeline { token });
    assert_eq!((guessed.code, guessed.text), (used.code, used.text));
}

// Who is shown what.

// M-096
#[test]
fn a_late_observer_is_shown_a_timeline_without_its_signaller_doing_anything() {
    let (mut world, line) = stage();
    world.signal(line, 7);
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    let news = world.signals.news.values().copied().max();
    let observed = world.observe_line(theirs);
    assert_eq!(observed.key, line.key);
    assert!(world.signals.news.values().copied().max() > news, "no news for the signaller");
}

// M-095
#[test]
fn a_signaller_is_told_of_every_place_once_and_of_those_that_went() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    let shown = world.take_shown(line.link);
    assert_eq!((shown.pages.len(), shown.places.len(), shown.more), (1, 1, 0));
    assert_eq!(world.take_shown(line.link).places.len(), 0);
    world.close_line(theirs);
    let shown = world.take_shown(line.link);
    assert_eq!(shown.places.iter().map(|place| place.shown).collect::<Vec<_>>(), [0]);
}

#[test]
fn an_observer_that_goes_takes_its_page_with_it() {
    let (mut world, line) = stage();
    let pages = world.broker.ledger().pairs;
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    world.take_shown(line.link);
    world.hang_up(other);
    assert_eq!(world.take_shown(line.link).dropped.len(), 1);
    assert_eq!(world.broker.ledger().pairs, pages);
}

#[test]
fn a_timeline_of_another_domain_can_be_waited_for_by_the_client() {
    let (mut world, line) = stage();
    let stranger = world.client_of(OTHER_DOMAIN);
    let theirs = world.pass_line(line, stranger, WAIT);
    world.observe_line(theirs);
    world.promise(line, 1, 100);
    assert_eq!(world.query(theirs, 1).state, 1);
}

#[test]
fn atk_observers_of_another_domain_cannot_slow_a_signaller_down() {
    let mut config = crate::world::config();
    config.bounds.guest_pages = 3;
    let mut world = World::with(config);
    let client = world.client();
    let line = world.timeline(client);
    let strangers: Vec<Line> = (0..4)
        .map(|_| {
            let stranger = world.client_of(OTHER_DOMAIN);
            world.pass_line(line, stranger, WAIT)
        })
        .collect();
    for stranger in &strangers[..3] {
        world.observe_line(*stranger);
    }
    let refused = world.refused(strangers[3].link, ObserveTimeline { timeline: strangers[3].handle });
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 4, 3));
    let friend = world.client();
    let theirs = world.pass_line(line, friend, WAIT);
    world.observe_line(theirs);
}

#[test]
fn a_queue_can_be_passed_on_to_be_waited_for() {
    let (mut world, line) = stage();
    let queue = world.queue(line.link, COPY);
    let other = world.client();
    let token = world.export_line(line.link, as_timeline(queue), WAIT);
    let theirs = world.import_line(other, token);
    world.observe_line(theirs);
    let zip = world.queue(other, ZIP);
    world.submit(line.link, job(queue, 1));
    world.submit(other, job(zip, 1).waits_for(theirs.handle, 1, WaitKind::Data, None));
    let export = ExportTimeline { timeline: as_timeline(queue), rights: SIGNAL, reserved: Zero };
    assert_eq!(world.refused(line.link, export).code, ErrorCode::Denied);
}

// Jobs that wait for promises.

// M-087
#[test]
fn r7_a_promise_gates_a_job_and_enters_no_reservation() {
    let (mut world, line) = stage();
    let queue = world.queue(line.link, COPY);
    let object = world.object(line.link, 4096);
    world.promise(line, 1, 100);
    let gated = job(queue, 1).updates(object, 0..4096).waits_for(line.handle, 1, WaitKind::Data, None);
    world.submit(line.link, gated);
    let zip = world.queue(line.link, ZIP);
    world.submit(line.link, job(zip, 1).updates(object, 0..4096));
    let waits =
        |job: &crate::driver::Received| job.waits.iter().map(|w| (w.timeline, w.flags)).collect::<Vec<_>>();
    let jobs: Vec<_> = world.drivers.values().flat_map(|driver| &driver.history).map(waits).collect();
    let first = jobs.first().and_then(|waits| waits.first()).copied();
    assert_eq!(first, Some((line.key, WAIT_PROMISE)));
    assert!(jobs[1].iter().all(|(timeline, _)| *timeline != line.key), "{jobs:?}");
}

// M-087
#[test]
fn r7_a_promise_of_another_domain_gates_no_job() {
    let (mut world, line) = stage();
    let stranger = world.client_of(OTHER_DOMAIN);
    let theirs = world.pass_line(line, stranger, WAIT);
    let queue = world.queue(stranger, COPY);
    world.promise(line, 1, 100);
    let refused = world.refused(stranger, job(queue, 1).waits_for(theirs.handle, 1, WaitKind::Data, None).0);
    assert_eq!(refused.code, ErrorCode::Denied);
}

#[test]
fn t1_a_wait_for_a_point_that_nobody_promised_is_refused() {
    let (mut world, line) = stage();
    let queue = world.queue(line.link, COPY);
    let refused = world.refused(line.link, job(queue, 1).waits_for(line.handle, 1, WaitKind::Data, None).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadPoint, 1, 0));
}

#[test]
fn f8_the_clock_of_a_gated_job_starts_when_its_driver_says_that_the_promise_is_kept() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    world.promise(line, 1, 30_000);
    world.submit(line.link, job(queue.queue, 1).waits_for(line.handle, 1, WaitKind::Data, None));
    let due = world.broker.next_deadline();
    assert_eq!(due, Some(world.now.after(30_000 * MS)), "only the promise has a moment");
    world.signal(line, 1);
    let instance = *world.drivers.keys().next().expect("an instance");
    let message = DriverMessage::Unblocked(Unblocked { timeline: queue.timeline, point: Point(1) });
    world.apply(vgem_core::io::Input::Driver { instance, message });
    assert_eq!(world.broker.next_deadline(), Some(world.now.after(6_000 * MS)));
}

#[test]
fn f8_a_driver_that_says_nothing_has_until_the_promise_is_due() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    world.promise(line, 1, 3_000);
    world.submit(line.link, job(queue.queue, 1).waits_for(line.handle, 1, WaitKind::Data, None));
    world.signal(line, 1);
    world.wait_for_deadline();
    assert_eq!(world.broker.next_deadline(), Some(world.now.after(6_000 * MS)));
}

#[test]
fn f10_a_broken_promise_fails_the_job_that_needs_it_with_the_same_cause() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    world.promise(line, 1, 100);
    world.submit(line.link, job(queue.queue, 1).waits_for(line.handle, 1, WaitKind::Data, None));
    world.let_ms_pass(100);
    let broken = world.truth.look(line.key, Point(1)).expect("not pending").unwrap_err();
    world.run_all();
    assert_eq!(world.truth.look(queue.timeline, Point(1)), Some(Err(broken)));
    let later = job(queue.queue, 2).waits_for(line.handle, 1, WaitKind::Data, None);
    world.submit(line.link, later);
    world.run_all();
    assert_eq!(world.truth.look(queue.timeline, Point(2)), Some(Err(broken)));
}

// Points that are still to come.

#[test]
fn t1_wait_for_submit_waits_for_what_comes_in_time() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(100 * MS));
    let early = job(copy.queue, 1).waits_for(as_timeline(zip.queue), 1, WaitKind::Data, until);
    world.submit(line.link, early);
    world.submit(line.link, job(zip.queue, 1));
    world.let_ms_pass(200);
    world.run_all();
    assert_eq!(world.truth.look(copy.timeline, Point(1)), Some(Ok(())));
}

// M-085
#[test]
fn t1_wait_for_submit_fails_when_nobody_promises_in_time() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(100 * MS));
    let early = job(copy.queue, 1).waits_for(as_timeline(zip.queue), 3, WaitKind::Data, until);
    world.submit(line.link, early);
    world.let_ms_pass(100);
    world.run_all();
    let failure = world.truth.look(copy.timeline, Point(1)).expect("not pending").unwrap_err();
    let told = world.explain(line.link, failure.cause);
    let text = String::from_utf8(told.text).unwrap();
    // At fault is who was to submit, and no device.
    assert_eq!((failure.code, told.device, told.pid != 0), (ErrorCode::TimedOut, vec![], true));
    assert!(text.contains("did not promise or submit point 3"), "{text}");
}

// M-085
#[test]
fn a_job_that_waits_for_what_is_to_come_fails_at_once_when_the_queue_closes() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(10_000 * MS));
    let early = job(copy.queue, 1).waits_for(as_timeline(zip.queue), 1, WaitKind::Data, until);
    world.submit(line.link, early);
    world.close_queue(line.link, zip.queue);
    world.run_all();
    let failure = world.truth.look(copy.timeline, Point(1)).expect("not pending").unwrap_err();
    assert_eq!(failure.code, ErrorCode::Cancelled);
}

// M-086
#[test]
fn j2_a_batch_that_closes_a_cycle_of_waits_is_refused_and_the_cycle_named() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(100 * MS));
    let early = job(copy.queue, 1).waits_for(as_timeline(zip.queue), 1, WaitKind::Data, until);
    world.submit(line.link, early);
    let closing = job(zip.queue, 1).waits_for(as_timeline(copy.queue), 1, WaitKind::Data, None);
    let refused = world.refused(line.link, closing.0);
    let text = String::from_utf8(refused.text).unwrap();
    assert_eq!(refused.code, ErrorCode::Deadlock);
    assert!(text.contains("on copy") && text.contains("on zip"), "{text}");
    world.run_all();
    assert!(
        matches!(world.truth.look(copy.timeline, Point(1)), Some(Err(_))),
        "the refused point has failed"
    );
}

// M-086
#[test]
fn j2_a_cycle_over_implicit_waits_and_the_order_of_queues_is_found() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let object = world.object(line.link, 4096);
    let until = Some(world.now.after(100 * MS));
    let early = job(copy.queue, 1).updates(object, 0..4096).waits_for(
        as_timeline(zip.queue),
        2,
        WaitKind::Order,
        until,
    );
    world.submit(line.link, early);
    world.submit(line.link, job(copy.queue, 2));
    // The first job of zip needs what the first of copy writes; the second one comes behind it.
    let closing = job(zip.queue, 1).updates(object, 0..4096).job(zip.queue, 2);
    let refused = world.refused(line.link, closing.0);
    assert_eq!((refused.code, refused.job), (ErrorCode::Deadlock, 1));
}

// M-086
#[test]
fn j2_waits_inside_one_batch_for_what_comes_later_in_it_are_no_cycle_by_themselves() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(100 * MS));
    let both =
        job(copy.queue, 1).waits_for(as_timeline(zip.queue), 1, WaitKind::Data, until).job(zip.queue, 1);
    world.submit(line.link, both);
    world.run_all();
    assert_eq!(world.truth.look(copy.timeline, Point(1)), Some(Ok(())));
    let knot = job(copy.queue, 2)
        .waits_for(as_timeline(zip.queue), 2, WaitKind::Data, until)
        .job(zip.queue, 2)
        .waits_for(as_timeline(copy.queue), 2, WaitKind::Data, None);
    assert_eq!(world.refused(line.link, knot.0).code, ErrorCode::Deadlock);
}

#[test]
fn atk_a_wait_for_a_point_far_ahead_is_refused_with_the_bound() {
    let (mut world, line) = stage();
    let (copy, zip) = (world.open(line.link, COPY), world.open(line.link, ZIP));
    let until = Some(world.now.after(100 * MS));
    let far = job(copy.queue, 1).waits_for(as_timeline(zip.queue), u64::MAX, WaitKind::Data, until);
    let refused = world.refused(line.link, far.0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::OutOfRange, u64::MAX, 1024));
}

// Questions.

#[test]
fn t2_wait_available_is_answered_when_the_point_is_promised() {
    let (mut world, line) = stage();
    let query = QueryPoint { timeline: line.handle, point: Point(3) };
    let asked = world.send(line.link, query, 0, world.now.after(100 * MS));
    world.promise(line, 2, 50);
    assert!(world.answer_to(asked).is_none(), "point 3 is not promised");
    world.promise(line, 3, 50);
    let Some(ClientMessage::PointState(state)) = world.answer_to(asked).map(|r| r.message) else {
        panic!("no answer")
    };
    assert_eq!((state.state, state.promised), (1, Point(3)));
}

#[test]
fn t2_wait_available_ends_at_its_deadline() {
    let (mut world, line) = stage();
    let query = QueryPoint { timeline: line.handle, point: Point(3) };
    let asked = world.send(line.link, query, 0, world.now.after(100 * MS));
    world.let_ms_pass(100);
    let Some(ClientMessage::PointState(state)) = world.answer_to(asked).map(|r| r.message) else {
        panic!("no answer")
    };
    assert_eq!(state.state, 0);
}

#[test]
fn t2_who_is_gone_is_not_answered_for_a_timeline_that_it_was_passing_on() {
    let (mut world, line) = stage();
    let query = QueryPoint { timeline: line.handle, point: Point(3) };
    let asked = world.send(line.link, query, 0, world.now.after(100 * MS));
    world.export_line(line.link, line.handle, SIGNAL);
    world.hang_up(line.link);
    assert!(world.answer_to(asked).is_none(), "and the world would not take an answer");
}

#[test]
fn everything_comes_back_when_clients_that_signal_are_gone() {
    let (mut world, line) = stage();
    let before = world.broker.ledger();
    let (one, two) = (world.client(), world.client());
    let mine = world.timeline(one);
    let theirs = world.pass_line(mine, two, WAIT);
    let signals = world.timeline(two);
    let back = world.pass_line(signals, one, SIGNAL);
    world.observe_line(theirs);
    world.observe_line(signals);
    let queue = world.queue(one, COPY);
    world.promise(mine, 1, 100);
    world.promise(back, 1, 100);
    world.submit(one, job(queue, 1).waits_for(mine.handle, 1, WaitKind::Data, None));
    world.export_line(one, mine.handle, WAIT);
    world.hang_up(one);
    world.hang_up(two);
    world.run_all();
    world.let_ms_pass(120_000);
    world.run_all();
    world.close_line(line);
    let line = world.timeline(line.link);
    assert_eq!(world.broker.ledger(), before, "{line:?}");
}
