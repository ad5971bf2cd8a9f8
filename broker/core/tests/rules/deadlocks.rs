//! Waits that would never end: cycles that are found when they are closed, and heads whose clocks run (J2, F7, F8).

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Point, TimelineHandle};
use vgem_proto::jobs::JOB_EXPLICIT;
use vgem_proto::message::client::{Cancel, ClientMessage, QueueOpened};
use vgem_proto::rights::{TimelineRights, WaitKind};

use crate::batch::Batch;
use crate::world::{COPY, MS, OTHER_DOMAIN, SEC, World, ZIP};

const DATA: WaitKind = WaitKind::Data;

fn line(queue: &QueueOpened) -> TimelineHandle {
    TimelineHandle(queue.queue.0)
}

fn job(queue: &QueueOpened, point: u64) -> Batch {
    Batch::new().job(queue.queue, point)
}

/// A client with a queue on two devices.
fn two_queues() -> (World, vgem_core::io::LinkId, QueueOpened, QueueOpened) {
    let mut world = World::new();
    let client = world.client();
    let (copy, zip) = (world.open(client, COPY), world.open(client, ZIP));
    (world, client, copy, zip)
}

// M-086
#[test]
fn j2_a_job_that_must_come_before_what_others_await_may_not_wait_for_them() {
    let (mut world, client, copy, zip) = two_queues();
    let until = Some(world.now.after(100 * MS));
    world.submit(client, job(&copy, 1).waits_for(line(&zip), 2, DATA, until));
    // Job 2 of zip, which copy awaits, comes behind this one: it could never begin.
    let refused = world.refused(client, job(&zip, 1).waits_for(line(&copy), 1, DATA, None).0);
    assert_eq!((refused.code, refused.job), (ErrorCode::Deadlock, 0));
    world.submit(client, job(&zip, 2));
    world.run_all();
    let ends = [(copy.timeline, 1), (zip.timeline, 1), (zip.timeline, 2)]
        .map(|(timeline, point)| world.truth.look(timeline, Point(point)).is_some());
    assert_eq!(ends, [true; 3], "everything has ended");
}

// M-086
#[test]
fn j2_a_cycle_inside_a_batch_over_what_is_still_to_come_is_found() {
    let (mut world, client, copy, zip) = two_queues();
    let until = Some(world.now.after(100 * MS));
    let knot = job(&copy, 1).waits_for(line(&zip), 9, DATA, until).job(zip.queue, 1).waits_for(
        line(&copy),
        1,
        DATA,
        None,
    );
    assert_eq!(world.refused(client, knot.0).code, ErrorCode::Deadlock);
    world.run_all();
    assert!(world.truth.look(zip.timeline, Point(1)).is_some());
}

// M-086
#[test]
fn j2_a_cycle_over_jobs_that_await_each_other_is_found_by_whichever_comes_last() {
    let (mut world, client, copy, zip) = two_queues();
    let sec = world.open(client, SEC);
    let until = Some(world.now.after(100 * MS));
    world.submit(client, job(&copy, 1).waits_for(line(&zip), 5, DATA, until));
    world.submit(client, job(&zip, 1).waits_for(line(&sec), 3, DATA, until));
    let refused = world.refused(client, job(&sec, 1).waits_for(line(&copy), 1, DATA, None).0);
    let text = String::from_utf8(refused.text).unwrap();
    assert_eq!(refused.code, ErrorCode::Deadlock);
    assert!(["copy", "zip", "sec"].iter().all(|device| text.contains(device)), "{text}");
}

// M-086
#[test]
fn j2_a_cycle_over_the_queues_of_two_clients_is_found() {
    let (mut world, one, copy, _zip) = two_queues();
    let two = world.client();
    let zip = world.open(two, ZIP);
    let token = world.export_line(one, line(&copy), TimelineRights::WAIT);
    let copy_of_two = world.import_line(two, token);
    let token = world.export_line(two, line(&zip), TimelineRights::WAIT);
    let zip_of_one = world.import_line(one, token);
    let until = Some(world.now.after(100 * MS));
    world.submit(one, job(&copy, 1).waits_for(zip_of_one.handle, 1, DATA, until));
    let closing = job(&zip, 1).waits_for(copy_of_two.handle, 1, DATA, None);
    assert_eq!(world.refused(two, closing.0).code, ErrorCode::Deadlock);
}

// M-086
#[test]
fn j2_what_only_looks_like_a_cycle_is_accepted() {
    let (mut world, client, copy, zip) = two_queues();
    let sec = world.open(client, SEC);
    let object = world.object(client, 4096);
    let until = Some(world.now.after(1_000 * MS));
    world.submit(client, job(&copy, 1).updates(object, 0..4096).waits_for(line(&zip), 1, DATA, until));
    // Two jobs of a batch, one awaited by the first of copy, the other one waiting for that.
    let both = job(&zip, 1).job(sec.queue, 1).waits_for(line(&copy), 1, DATA, None);
    world.submit(client, both);
    // A job without implicit waits touches what the waiter writes.
    world.submit(client, job(&copy, 2).waits_for(line(&zip), 2, DATA, until));
    world.submit(client, job(&zip, 2).updates(object, 0..4096).flags(JOB_EXPLICIT));
    world.run_all();
    let done = [(copy.timeline, 2), (zip.timeline, 2), (sec.timeline, 1)]
        .map(|(timeline, point)| world.truth.look(timeline, Point(point)));
    assert_eq!(done, [Some(Ok(())); 3]);
}

// M-086
#[test]
fn j2_a_waiter_that_is_cancelled_closes_no_cycle() {
    let (mut world, client, copy, zip) = two_queues();
    let until = Some(world.now.after(1_000 * MS));
    world.submit(client, job(&copy, 1).waits_for(line(&zip), 1, DATA, until));
    world.ask(client, Cancel { queue: copy.queue, point: Point(1) });
    world.submit(client, job(&zip, 1).waits_for(line(&copy), 1, WaitKind::Order, None));
    world.run_all();
    assert_eq!(world.truth.look(zip.timeline, Point(1)), Some(Ok(())));
}

#[test]
fn f7_a_driver_that_ignores_that_a_waiting_job_was_cancelled_is_ended() {
    let (mut world, client, copy, zip) = two_queues();
    let until = Some(world.now.after(1_000 * MS));
    world.submit(client, job(&copy, 1).waits_for(line(&zip), 1, DATA, until));
    let answer = world.ask(client, Cancel { queue: copy.queue, point: Point(1) });
    assert!(matches!(answer, Some(ClientMessage::Cancelling(_))), "{answer:?}");
    world.let_ms_pass(120_000);
    assert!(world.truth.look(copy.timeline, Point(1)).is_some(), "it waits for ever");
}

// M-085
#[test]
fn a_job_may_wait_for_what_a_queue_of_another_domain_is_still_to_do() {
    let (mut world, one, copy, _zip) = two_queues();
    let two = world.client_of(OTHER_DOMAIN);
    let zip = world.open(two, ZIP);
    let token = world.export_line(one, line(&copy), TimelineRights::WAIT);
    let theirs = world.import_line(two, token);
    world.submit(one, job(&copy, 1));
    world.submit(two, job(&zip, 1).waits_for(theirs.handle, 1, DATA, None));
    let until = Some(world.now.after(1_000 * MS));
    world.submit(two, job(&zip, 2).waits_for(theirs.handle, 2, DATA, until));
    world.submit(one, job(&copy, 2));
    world.run_all();
    assert_eq!(world.truth.look(zip.timeline, Point(2)), Some(Ok(())));
}
