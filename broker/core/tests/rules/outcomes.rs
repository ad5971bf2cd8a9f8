//! F10: a job that waited so long that nobody would remember how its point ended.
//!
//! Jobs here wait for the first point of a queue, and for something else that takes longer: until the queue has failed
//! hundreds of times. Drivers ask (see [`crate::driver`]) and hold the answer against the truth.

use vgem_core::io::InstanceEnd;
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::Point;
use vgem_proto::message::client::{ClientMessage, FailPoint};
use vgem_proto::message::driver::AskPoint;
use vgem_proto::rights::WaitKind::{Data, Order};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::world::{COPY, SEC, ZIP};

/// More than any place remembers.
const MANY: u64 = 300;

/// A job on the second queue that waits for the first queue's first point, and for the third queue's, which ends last.
fn long_wait(first: Option<ErrorCode>) -> (Stage, Option<Failure>) {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1));
    s.submit(Batch::new().job(c, 1));
    s.submit(Batch::new().job(b, 1).waits(a, 1, Data).waits(c, 1, Order));
    s.world.run(s.lines[0], first);
    let failure = outcome(&s, 0, 1).and_then(Result::err);
    (s, failure)
}

fn outcome(s: &Stage, line: usize, point: u64) -> Option<Result<(), Failure>> {
    s.world.truth.look(s.lines[line], Point(point))
}

/// The first queue fails, again and again.
fn fails_often(s: &mut Stage, points: std::ops::RangeInclusive<u64>) {
    for point in points {
        s.submit(Batch::new().job(s.queues[0], point));
        s.world.run(s.lines[0], Some(ErrorCode::Io));
    }
}

/// The third queue's job ends, and the job that waits too.
fn ends(s: &mut Stage) -> Option<Result<(), Failure>> {
    s.world.run(s.lines[2], None);
    s.world.run_all();
    outcome(s, 1, 1)
}

fn told(first: Option<Failure>) -> Option<Result<(), Failure>> {
    Some(first.map_or(Ok(()), Err))
}

#[test]
fn f10_a_job_that_waited_for_long_fails_with_the_cause_of_its_own_point_or_with_none() {
    for first in [None, Some(ErrorCode::CorruptInput)] {
        let (mut s, failure) = long_wait(first);
        fails_often(&mut s, 2..=MANY);
        assert_eq!(ends(&mut s), told(failure));
    }
}

#[test]
fn f10_it_does_so_also_if_the_queue_was_closed_meanwhile() {
    for first in [None, Some(ErrorCode::CorruptInput)] {
        for often in [5, MANY] {
            let (mut s, failure) = long_wait(first);
            fails_often(&mut s, 2..=often);
            s.world.close_queue(s.client, s.queues[0]);
            s.world.flush(s.world.instance(COPY));
            assert_eq!(ends(&mut s), told(failure), "{often}");
        }
    }
}

#[test]
fn f10_it_does_so_also_if_the_driver_died_meanwhile() {
    for first in [None, Some(ErrorCode::CorruptInput)] {
        let (mut s, failure) = long_wait(first);
        fails_often(&mut s, 2..=MANY);
        s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
        s.world.close_queue(s.client, s.queues[0]);
        assert_eq!(ends(&mut s), told(failure));
    }
}

#[test]
fn f10_it_does_so_also_within_one_instance_and_after_its_end() {
    for (first, hangs) in
        [(None, false), (Some(ErrorCode::Io), false), (None, true), (Some(ErrorCode::Io), true)]
    {
        let mut s = stage();
        let waiting = s.world.open(s.client, COPY);
        let hung = s.world.open(s.client, COPY);
        let [a, _, c] = s.queues;
        s.submit(Batch::new().job(a, 1).job(c, 1));
        s.submit(Batch::new().job(waiting.queue, 1).waits(a, 1, Data).waits(c, 1, Order));
        s.world.run(s.lines[0], first);
        let failure = outcome(&s, 0, 1).and_then(Result::err);
        fails_often(&mut s, 2..=MANY);
        s.world.close_queue(s.client, a);
        s.world.flush(s.world.instance(COPY));
        if hangs {
            s.submit(Batch::new().job(hung.queue, 1));
            let late = s.world.instance(COPY);
            while !s.world.drivers[&late].killed {
                s.world.wait_for_deadline();
            }
            s.world.die(late, InstanceEnd::Exited(-9));
            s.world.let_ms_pass(100);
        }
        s.world.run_all();
        let ended = s.world.truth.look(waiting.timeline, Point(1));
        assert_eq!(ended, told(failure), "{first:?}, {hangs}");
    }
}

#[test]
fn f10_a_driver_that_asks_before_the_broker_has_heard_of_the_end_is_answered_when_it_has() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).job(a, 2).job(a, 3).job(b, 1).waits(a, 1, Data));
    for code in [Some(ErrorCode::CorruptInput), Some(ErrorCode::Io), Some(ErrorCode::Io)] {
        assert!(s.world.try_run(s.lines[0], code));
    }
    assert!(!s.world.try_run(s.lines[1], None), "nobody can say yet how it ended");
    s.world.flush(s.world.instance(COPY));
    s.world.run(s.lines[1], None);
    assert_eq!(outcome(&s, 1, 1), outcome(&s, 0, 1));
}

#[test]
fn f10_who_has_asked_and_died_is_not_answered() {
    let mut s = stage();
    let [a, b, _] = s.queues;
    s.submit(Batch::new().job(a, 1).job(a, 2).job(a, 3).job(b, 1).waits(a, 1, Data));
    for _ in 0..3 {
        assert!(s.world.try_run(s.lines[0], Some(ErrorCode::Io)));
    }
    assert!(!s.world.try_run(s.lines[1], None));
    s.world.die(s.world.instance(ZIP), InstanceEnd::Exited(-9));
    s.world.flush(s.world.instance(COPY));
    assert_eq!(outcome(&s, 1, 1).and_then(Result::err).map(|f| f.code), Some(ErrorCode::DeviceLost));
}

#[test]
fn a_driver_is_told_only_about_what_its_jobs_wait_for() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1).job(c, 1).job(b, 1).waits(a, 1, Data).waits(c, 1, Order));
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    let ask = |line: usize, point| AskPoint { timeline: s.lines[line], point: Point(point) };
    let (may, others) = (ask(0, 1), [ask(0, 2), ask(1, 1), ask(2, 1)]);
    let zip = s.world.instance(ZIP);
    // What it is told and has not asked for ends this test.
    others.into_iter().for_each(|question| s.world.say(zip, question));
    s.world.say(s.world.instance(SEC), may.clone());
    s.world.drivers.get_mut(&zip).expect("it lives").asks(may.timeline, may.point);
    s.world.say(zip, may);
    let told = s.world.drivers[&zip].told_of(s.lines[0], Point(1));
    assert_eq!(told, outcome(&s, 0, 1));
}

#[test]
fn f10_a_job_that_waited_for_a_promise_for_long_fails_with_the_cause_of_its_own_point_or_with_none() {
    for fails in [false, true] {
        let mut s = stage();
        let line = s.world.timeline(s.client);
        let [_, b, c] = s.queues;
        s.world.promise(line, MANY, 30_000);
        let waits = Batch::new().job(c, 1).job(b, 1).waits(c, 1, Order);
        s.submit(waits.waits_for(line.handle, 1, Data, None));
        for point in 1..=MANY {
            if fails || point > 1 {
                let (timeline, code) = (line.handle, ErrorCode::CorruptInput);
                let text = b"bad frame".to_vec();
                let announced = FailPoint { timeline, point: Point(point), code, reserved: Zero, text };
                let Some(ClientMessage::CauseIssued(issued)) = s.world.ask(s.client, announced) else {
                    panic!("it is its own to signal");
                };
                let failure = Failure { code, cause: issued.cause };
                s.world.truth.failures.insert((line.key, Point(point)), failure);
            }
            s.world.signal(line, point);
        }
        let first = s.world.truth.look(line.key, Point(1)).expect("it was signalled");
        assert_eq!((first.is_err(), ends(&mut s)), (fails, Some(first)));
    }
}
