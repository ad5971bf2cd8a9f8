//! Timelines between clients of a broker that is real.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them; without them it fails and says where it looked.

use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vgem::{
    Client, ClientOptions, Embedded, Error, ErrorCode, Fence, FenceError, JobFailure, Point, PointStatus,
    Queue, Timeline, TimelineRights, wait_any,
};
use vgem_os::seqpacket::Socket;

const SOON: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(20);
/// What an answer may be late.
const SLACK: Duration = Duration::from_millis(50);
/// How often something is measured that is late now and then where others have the cores.
const TRIES: u64 = 8;
const P1: Point = Point(1);
const P2: Point = Point(2);

struct Real {
    // Clients end before their broker.
    giver: Client,
    taker: Client,
    broker: Embedded,
}

fn real() -> Real {
    let broker = Embedded::start().expect("a private broker");
    let (giver, taker) = (broker.client().expect("a client"), broker.client().expect("a client"));
    Real { giver, taker, broker }
}

impl Real {
    /// A timeline of the giver, and the taker's handle of it.
    fn shared(&self) -> (Timeline, Timeline) {
        let mut own = self.giver.timeline("frames").expect("a timeline");
        let token = own.export(TimelineRights::WAIT).expect("a token");
        let theirs = self.taker.import_timeline(token).expect("a handle");
        (own, theirs)
    }
}

/// The shortest of several times, each with a point of its own.
fn at_best(once: impl FnMut(Point) -> Duration) -> Duration {
    (1..=TRIES).map(Point).map(once).min().expect("there are some")
}

fn failure(outcome: Result<(), FenceError>) -> JobFailure {
    match outcome {
        Err(FenceError::Failed(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn f2_a_failure_of_another_client_comes_with_its_cause() {
    let real = real();
    let (mut own, theirs) = real.shared();
    own.signal(P1).expect("newer");
    own.fail(P2, ErrorCode::CorruptInput, "a torn frame").expect("a cause");
    assert!(theirs.wait_for_submit(P1, SOON).is_ok());
    let failed = failure(theirs.wait_for_submit(P2, SOON));
    let explanation = failed.explanation.expect("the broker knows");
    assert_eq!((failed.code, explanation.code), (ErrorCode::CorruptInput, ErrorCode::CorruptInput));
    assert!(explanation.text.ends_with(": a torn frame"), "{explanation}");
    assert_eq!(explanation.pid, Some(std::process::id()));
}

#[test]
fn t1_an_unpromised_point_is_refused_and_a_promised_one_is_waited_for() {
    let real = real();
    let (mut own, theirs) = real.shared();
    assert!(matches!(theirs.wait(P1, SOON), Err(FenceError::Request(_))));
    assert_eq!(theirs.query(P1).expect("an answer"), PointStatus::Unpromised { promised: Point(0) });
    own.promise_acknowledged(P1, SOON).expect("promised");
    assert!(matches!(theirs.wait(P1, MOMENT), Err(FenceError::Timeout { .. })));
    own.signal(P1).expect("newer");
    assert!(theirs.wait(P1, SOON).is_ok());
}

#[test]
fn t2_a_wait_for_a_promise_ends_when_it_is_made() {
    let real = real();
    let (mut own, theirs) = real.shared();
    let in_vain = at_best(|_| {
        let begin = Instant::now();
        assert!(matches!(theirs.wait_available(P1, MOMENT), Err(Error::Timeout { .. })));
        begin.elapsed()
    });
    let kept = at_best(|point| {
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| theirs.wait_available(point, SOON).map(|()| Instant::now()));
            std::thread::sleep(MOMENT);
            let made = Instant::now();
            own.promise(point, SOON).expect("promised");
            let ended = waiting.join().expect("no panic").expect("it is promised");
            ended.checked_duration_since(made).expect("it waits until then")
        })
    });
    assert!(in_vain >= MOMENT && in_vain < MOMENT + SLACK, "{in_vain:?}");
    assert!(kept < SLACK, "{kept:?}");
    assert_eq!(theirs.promised(), Point(TRIES));
}

#[test]
fn a_promise_that_is_not_kept_ends_the_timeline_for_everybody() {
    let real = real();
    let (mut own, theirs) = real.shared();
    let deadline = Duration::from_millis(60);
    let begin = Instant::now();
    let mine = own.promise_acknowledged(P1, deadline).expect("promised");
    let failures = [failure(theirs.wait(P1, SOON)), failure(mine.wait(SOON))];
    let late = begin.elapsed();
    // It is 50 ms on a machine that does nothing else.
    assert!(late > deadline && late < deadline + Duration::from_millis(500), "{late:?}");
    assert!(failures.iter().all(|one| one.code == ErrorCode::TimedOut && one.cause == failures[0].cause));
    let Err(Error::Job(over)) = own.signal(P1) else { panic!("nobody would believe it") };
    assert_eq!((over.code, over.cause), (ErrorCode::TimedOut, failures[0].cause));
    assert!(failures[0].to_string().contains("frames"), "{}", failures[0]);
}

#[test]
fn the_end_of_a_signaller_fails_what_it_had_not_signalled() {
    let Real { giver, taker, broker } = real();
    for (dies, code) in [(false, ErrorCode::Cancelled), (true, ErrorCode::OwnerDied)] {
        let socket = Socket::connect(broker.socket()).expect("it listens");
        let other_end = Socket::from(socket.as_fd().try_clone_to_owned().expect("an fd"));
        let client = ClientOptions::new().over(socket).expect("a client");
        let mut own = client.timeline("frames").expect("a timeline");
        let theirs =
            taker.import_timeline(own.export(TimelineRights::WAIT).expect("a token")).expect("a handle");
        own.signal(P1).expect("newer");
        own.promise_acknowledged(P2, SOON).expect("promised");
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| theirs.wait(P2, SOON));
            std::thread::sleep(MOMENT);
            if dies {
                // Nothing is closed first.
                other_end.shutdown().expect("a live connection");
            } else {
                drop(own);
            }
            let failed = failure(waiting.join().expect("no panic"));
            assert_eq!(failed.code, code, "{failed}");
        });
        assert!(theirs.wait(P1, SOON).is_ok(), "what was signalled stays");
    }
    drop(giver);
}

#[test]
fn t8_signal_moves_to_another_client_and_back_comes_what_it_signals() {
    let real = real();
    let mut release = real.giver.timeline("release").expect("a timeline");
    let token = release.export(TimelineRights::SIGNAL).expect("nothing was promised");
    let returned = release.point(P1).promised_by(SOON);
    let mut borrowed = real.taker.import_timeline(token).expect("a handle");
    assert_eq!((release.rights(), borrowed.rights()), (TimelineRights::WAIT, TimelineRights::SIGNAL));
    assert!(borrowed.export(TimelineRights::WAIT).is_err(), "it never had it");
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| returned.wait(SOON));
        std::thread::sleep(MOMENT);
        borrowed.signal(P1).expect("newer");
        assert!(waiting.join().expect("no panic").is_ok());
    });
    assert!(real.taker.import_timeline(token).is_err(), "a token is good once");
}

#[test]
fn t2_any_of_a_job_and_somebody_elses_point() {
    let real = real();
    let (mut own, theirs) = real.shared();
    let copy = real.taker.device("copy").expect("it is there").queue(0).expect("a queue");
    let buffer = real.taker.create(4096).expect("memory");
    let mut batch = real.taker.batch();
    batch.job(&copy, "fill").output(&buffer).param("byte", 1);
    let job = batch.submit().expect("sent").last().clone();
    let fences = [theirs.point(P1).promised_by(SOON), job];
    assert_eq!(wait_any(&fences, SOON).expect("one ends"), Some(1));
    own.signal(P1).expect("newer");
    assert_eq!(wait_any(&fences[..1], SOON).expect("one ends"), Some(0));
}

#[test]
fn a_job_waits_for_a_promise_of_its_domain() {
    let real = real();
    let mut stage = real.giver.timeline("stage").expect("a timeline");
    let copy = real.giver.device("copy").expect("it is there").queue(0).expect("a queue");
    let buffer = real.giver.create(4096).expect("memory");
    let gate = stage.promise(P1, SOON).expect("promised");
    let mut batch = real.giver.batch();
    batch.job(&copy, "fill").output(&buffer).param("byte", 9).after(&gate);
    let fence = batch.submit().expect("sent").last().clone();
    assert!(matches!(fence.wait(MOMENT), Err(FenceError::Timeout { .. })));
    stage.signal(P1).expect("newer");
    assert!(fence.wait(SOON).is_ok());
    assert_eq!(buffer.read(.., SOON).expect("it ended")[0], 9);
}

#[test]
fn f10_a_job_after_a_failed_stage_fails_with_its_cause() {
    let real = real();
    let mut stage = real.giver.timeline("stage").expect("a timeline");
    let copy = real.giver.device("copy").expect("it is there").queue(0).expect("a queue");
    let buffer = real.giver.create(4096).expect("memory");
    let gate = stage.promise(P1, SOON).expect("promised");
    let mut batch = real.giver.batch();
    batch.job(&copy, "fill").output(&buffer).param("byte", 9).after(&gate);
    let fence = batch.submit().expect("sent").last().clone();
    stage.fail(P1, ErrorCode::CorruptInput, "no such frame").expect("a cause");
    let (job, point) = (failure(fence.wait(SOON)), failure(gate.wait(SOON)));
    assert_eq!((job.code, job.cause), (point.code, point.cause));
}

/// The first job waits for a promise, the second is to write the same bytes after it and is cancelled: its point fails at
/// once, and the first has not even begun.
#[test]
fn c1_a_guard_waits_for_what_a_job_was_to_come_after_that_failed_before_it() {
    let real = real();
    let mut stage = real.giver.timeline("stage").expect("a timeline");
    let copy = real.giver.device("copy").expect("it is there");
    let (first, second) = (copy.queue(0).expect("a queue"), copy.queue(0).expect("a queue"));
    let buffer = real.giver.create(4096).expect("memory");
    let gate = stage.promise(P1, SOON).expect("promised");
    let fill = |queue: &Queue, range: Range<u64>, gate: Option<&Fence>| {
        let mut batch = real.giver.batch();
        let job = batch.job(queue, "fill").output(buffer.slice(range)).param("byte", 9);
        if let Some(gate) = gate {
            job.after(gate);
        }
        batch.submit().expect("sent").last().clone()
    };
    let slow = fill(&first, 0..1024, Some(&gate));
    let cancelled = fill(&second, 512..2048, None);
    second.cancel(&cancelled).expect("asked");
    assert_eq!(failure(cancelled.wait(SOON)).code, ErrorCode::Cancelled);
    for range in [0..1024, 600..601, 0..4096] {
        assert!(buffer.try_write(range.clone()).expect("nobody failed it").is_none(), "{range:?}");
        assert!(matches!(buffer.write(range, MOMENT), Err(Error::Timeout { .. })));
    }
    assert!(
        buffer.try_write(1024..4096).expect("nobody failed it").is_some(),
        "only the cancelled one was there"
    );
    stage.signal(P1).expect("newer");
    drop(buffer.write(.., SOON).expect("all have ended"));
    assert!(slow.wait(SOON).is_ok());
}

#[test]
fn a_queue_is_waited_for_by_another_client() {
    let real = real();
    let copy = real.giver.device("copy").expect("it is there").queue(0).expect("a queue");
    let buffer = real.giver.create(4096).expect("memory");
    let token = copy.timeline().export(TimelineRights::WAIT).expect("a token");
    let jobs = real.taker.import_timeline(token).expect("a handle");
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| jobs.wait_for_submit(P1, SOON));
        std::thread::sleep(MOMENT);
        let mut batch = real.giver.batch();
        batch.job(&copy, "fill").output(&buffer).param("byte", 1);
        batch.submit().expect("sent");
        assert!(waiting.join().expect("no panic").is_ok());
    });
}

/// Observers come and go while the signaller is busy: nobody misses a point, and nobody is asked to wait for the signaller.
#[test]
fn observers_that_come_while_the_signaller_is_busy_miss_nothing() {
    let real = real();
    let mut own = real.giver.timeline("frames").expect("a timeline");
    let last = AtomicU64::new(0);
    for _ in 0..30 {
        let token = own.export(TimelineRights::WAIT).expect("a token");
        let theirs = real.taker.import_timeline(token).expect("a handle");
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| {
                for _ in 0..5 {
                    let point = Point(last.load(Ordering::Relaxed) + 1);
                    theirs.wait_for_submit(point, SOON).expect("it is signalled");
                }
            });
            while !waiting.is_finished() {
                let point = own.signal_next().expect("newer");
                last.store(point.0, Ordering::Relaxed);
                std::thread::yield_now();
            }
            waiting.join().expect("no panic");
        });
        // And the last one, after which nothing is signalled.
        assert!(theirs.wait_for_submit(own.signalled(), SOON).is_ok());
    }
}
