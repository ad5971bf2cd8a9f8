//! F7, F8 and P14: every job finishes, clocks start when they should, and an idle broker sleeps.

use vgem_core::io::Event;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Point;
use vgem_proto::rights::WaitKind;

use crate::batch::Batch;
use crate::reservations::stage;
use crate::world::{COPY, MS, World, ZIP};

// M-063
#[test]
fn f7_a_job_that_never_ends_is_ended() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.let_ms_pass(6000);
    let failure = s.world.truth.look(s.lines[0], Point(1)).unwrap().unwrap_err();
    let text = String::from_utf8(s.world.explain(s.client, failure.cause).text).unwrap();
    assert_eq!(failure.code, ErrorCode::TimedOut);
    assert!(text.starts_with("device copy: job point 1 exceeded 1000 ms"), "{text}");
}

/// The first driver has signalled, and was stopped before it showed that to the second.
#[test]
fn f7_a_driver_that_was_not_shown_what_it_waits_for_is_not_at_fault_but_who_did_not_show_it() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).reads(s.object, 0..64));
    s.world.hidden.insert(s.lines[0]);
    s.world.run(s.lines[0], None);
    let (first, second) = (s.world.instance(COPY), s.world.instance(ZIP));
    s.world.wait_for_deadline();
    assert_eq!((s.world.drivers[&first].killed, s.world.drivers[&second].killed), (true, false));
    s.world.bury();
    s.world.hidden.clear();
    s.world.run(s.lines[1], None);
    assert_eq!(s.world.truth.look(s.lines[1], Point(1)), Some(Ok(())));
}

#[test]
fn f7_a_driver_is_spared_only_once() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).reads(s.object, 0..64));
    s.world.hidden.insert(s.lines[0]);
    s.world.run(s.lines[0], None);
    s.world.let_ms_pass(20_000);
    let failure = s.world.truth.look(s.lines[1], Point(1)).expect("it has ended").unwrap_err();
    assert_eq!(failure.code, ErrorCode::TimedOut);
}

#[test]
fn f7_what_a_stopped_client_has_signalled_is_shown_for_it_when_its_promise_is_due() {
    let mut s = stage();
    let line = s.world.timeline(s.client);
    s.world.promise(line, 1, 100);
    let job = Batch::new().job(s.queues[0], 1).waits_for(line.handle, 1, WaitKind::Data, None);
    s.submit(job);
    s.world.signal(line, 1);
    s.world.let_ms_pass(100);
    assert_eq!(s.world.raised, 1, "to the one driver that looks");
}

// M-063
#[test]
fn f7_the_driver_of_a_late_job_is_started_anew() {
    let mut s = stage();
    let late = s.world.instance(COPY);
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.let_ms_pass(6000);
    assert!(!s.world.drivers.contains_key(&late));
    s.world.let_ms_pass(100);
    let again = s.world.queue(s.client, COPY);
    assert_ne!(s.world.instance(COPY), late);
    s.submit(Batch::new().job(again, 1));
    s.world.run_all();
    assert_eq!(s.world.broker.counters().jobs_ok, 1);
}

#[test]
fn f7_nothing_is_sent_to_a_driver_once_its_job_was_late() {
    let mut s = stage();
    let id = s.world.instance(COPY);
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.wait_for_deadline();
    s.submit(Batch::new().job(s.queues[0], 2).writes(s.object, 0..64));
    let late = &s.world.drivers[&id];
    assert_eq!((late.killed, late.history.len(), late.mapped.len()), (true, 1, 0));
    assert!(s.world.events.iter().any(|e| matches!(e, Event::JobTimedOut { point: 1, .. })));
}

#[test]
fn f7_a_late_job_is_told_of_with_whose_it_was_where_it_ran_and_how_long() {
    let mut s = stage();
    let instance = s.world.instance(COPY);
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.wait_for_deadline();
    let told = |event: &Event| match event {
        Event::JobTimedOut { point: 1, client: 1, pid, ran_ns, allowed_ns, .. } => {
            Some((*pid, *ran_ns, *allowed_ns))
        }
        _ => None,
    };
    let told: Vec<_> = s.world.events.iter().filter_map(told).collect();
    assert_eq!(told, [(100 + instance.0, 6000 * MS, 6000 * MS)]);
}

#[test]
fn f7_a_late_job_on_one_device_leaves_others_alone() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.let_ms_pass(6000);
    s.submit(Batch::new().job(s.queues[1], 1));
    s.world.run(s.lines[1], None);
    assert_eq!(s.world.truth.look(s.lines[1], Point(1)), Some(Ok(())));
}

// M-063
#[test]
fn f7_the_limit_is_the_jobs_own_run_time_and_the_scheduling_delay() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).with(|job| job.run_ns = 250 * MS));
    assert_eq!(s.world.broker.next_deadline(), Some(s.world.now.after(5250 * MS)));
}

#[test]
fn f8_the_clock_starts_when_the_waits_are_done() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).reads(s.object, 0..64));
    s.world.wait_ms(5900);
    s.world.run(s.lines[0], None);
    assert_eq!(s.world.broker.next_deadline(), Some(s.world.now.after(6000 * MS)));
}

#[test]
fn f8_the_clock_starts_when_the_job_before_it_has_ended() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.wait_ms(5000);
    s.world.run(s.lines[0], None);
    assert_eq!(s.world.broker.next_deadline(), Some(s.world.now.after(6000 * MS)));
}

#[test]
fn f8_later_jobs_do_not_move_the_clock_of_the_first() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    let limit = s.world.broker.next_deadline();
    s.world.wait_ms(3000);
    s.submit(Batch::new().job(s.queues[0], 2));
    assert_eq!(s.world.broker.next_deadline(), limit);
}

#[test]
fn f8_what_comes_in_another_order_starts_a_clock_all_the_same() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64).job(b, 1).reads(s.object, 0..64).job(b, 2));
    s.world.try_run(s.lines[0], None);
    s.world.run(s.lines[1], None);
    let id = s.world.instance(COPY);
    s.world.wait_ms(1000);
    s.world.flush(id);
    let ready_before = s.world.now.0 - 1000 * MS;
    assert_eq!(s.world.broker.next_deadline().map(|at| at.0), Some(ready_before + 6000 * MS));
}

#[test]
fn p14_a_broker_with_nothing_under_way_has_no_deadline() {
    let mut s = stage();
    s.submit(
        Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[1], 1).reads(s.object, 0..64),
    );
    s.world.run_all();
    assert_eq!(s.world.broker.next_deadline(), None);
}

#[test]
fn p14_a_broker_that_was_just_started_has_no_deadline() {
    assert_eq!(World::new().broker.next_deadline(), None);
}

#[test]
fn a_driver_that_does_not_close_a_queue_is_ended() {
    let mut s = stage();
    s.world.close_queue(s.client, s.queues[1]);
    s.world.wait_ms(10_000);
    let id = s.world.drivers.values().find(|d| d.device == ZIP).unwrap().id;
    assert!(s.world.drivers[&id].killed);
}
