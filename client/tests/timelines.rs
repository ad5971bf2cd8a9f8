//! Timelines that clients signal, against a broker made for tests.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::{FakeBroker, SOON, cause};
use vgem::{
    CauseId, Client, Deadline, Error, ErrorCode, Fence, FenceError, FenceState, LocalError, Point,
    PointStatus, Timeline, TimelineRights, TimelineToken, wait_all, wait_any,
};
use vgem_os::fence::{ObserverFace, PointState, Slot, Woke};
use vgem_proto::jobs::WAIT_FOR_SUBMIT;
use vgem_proto::message::client::ClientMessage;

const P1: Point = Point(1);
const P2: Point = Point(2);
/// As long as nothing is to happen.
const MOMENT: Duration = Duration::from_millis(20);

/// A client with a timeline of its own.
fn own() -> (FakeBroker, Client, Timeline) {
    let (broker, client) = FakeBroker::with_client();
    let timeline = client.timeline("frames").expect("a timeline");
    (broker, client, timeline)
}

/// A client that sees a timeline of somebody else.
fn others() -> (FakeBroker, Client, Timeline) {
    let (broker, client) = FakeBroker::with_client();
    let timeline = client.import_timeline(token(1)).expect("a timeline");
    (broker, client, timeline)
}

/// The fake broker's token for somebody else's timeline (1), or one with the right to signal (2).
fn token(rights: u8) -> TimelineToken {
    let mut bytes = [0; 16];
    bytes[8] = rights;
    TimelineToken::from_bytes(bytes)
}

fn seen(observer: &ObserverFace, point: Point) -> PointState {
    observer.state(Slot::new(2).expect("a page has 15 slots"), 7, point.0)
}

fn is_ok(state: PointState) -> bool {
    matches!(state, PointState::Ok { .. })
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What became of a wait, in a form that can be compared.
fn word(outcome: Result<(), FenceError>) -> String {
    match outcome {
        Ok(()) => "ok".into(),
        Err(FenceError::Failed(failure)) => failure.code.name().into(),
        Err(FenceError::Timeout { .. }) => "timeout".into(),
        Err(other) => other.to_string(),
    }
}

fn local(error: Error) -> LocalError {
    match error {
        Error::Local(local) => local,
        other => panic!("{other:?}"),
    }
}

#[test]
fn t3_points_only_grow() {
    let (_broker, _client, mut frames) = own();
    frames.signal(Point(5)).expect("it is above 0");
    for point in [0, 4, 5] {
        let refused = local(frames.signal(Point(point)).expect_err("it is not above 5"));
        assert_eq!(
            refused,
            LocalError::NotNewer { timeline: "frames".into(), point: Point(point), last: Point(5) }
        );
    }
    assert_eq!(frames.signal_next().expect("it is above 5"), Point(6));
    frames.promise(Point(9), SOON).expect("it is above 6");
    let refused = local(frames.promise(Point(9), SOON).expect_err("it is promised"));
    assert_eq!(
        refused.to_string(),
        "frames: point 9 is not above 9, which was promised or signalled: points only grow"
    );
    frames.signal(Point(7)).expect("below what is promised");
}

#[test]
fn f1_a_second_signal_of_a_point_changes_nothing() {
    let (broker, _client, mut frames) = own();
    frames.fail(P1, ErrorCode::Io, "no frame").expect("a cause");
    assert!(frames.signal(P1).is_err() && frames.fail(P1, ErrorCode::NoSpace, "").is_err());
    assert_eq!(word(frames.wait(P1, SOON)), "Io");
    assert_eq!(broker.timelines.signalled(0), 1);
}

#[test]
fn t1_a_point_of_ones_own_that_was_not_promised_is_not_waited_for() {
    let (_broker, _client, mut frames) = own();
    frames.promise(P1, SOON).expect("promised");
    let refused = frames.wait(P2, SOON).expect_err("nobody has promised it");
    assert_eq!(
        refused.to_string(),
        "frames: nobody has promised point 2 (promised up to 1); wait for its promise first, or wait with promised_by"
    );
    assert_eq!(word(frames.wait(P1, Deadline::NOW)), "timeout", "this one is");
    assert_eq!(word(frames.wait_for_submit(P2, MOMENT)), "timeout", "and here nobody asks");
}

#[test]
fn t1_the_broker_is_asked_once_whether_a_point_is_promised() {
    let (broker, _client, theirs) = others();
    assert!(matches!(theirs.wait(P1, SOON), Err(FenceError::Request(_))));
    broker.timelines.others_promised.store(3, Ordering::Relaxed);
    for point in [1, 2, 3] {
        assert_eq!(word(theirs.wait(Point(point), MOMENT)), "timeout");
    }
    let queries =
        broker.requests.try_iter().filter(|message| matches!(message, ClientMessage::QueryPoint(_)));
    assert_eq!(queries.count(), 2, "once in vain, and once for all three");
}

#[test]
fn t1_a_stream_never_asks_the_broker_again() {
    let (broker, client, theirs) = others();
    assert_eq!(word(theirs.wait_for_submit(P1, MOMENT)), "timeout");
    let sent = client.counters().messages_sent;
    for point in 1..=50 {
        let _woke: Woke = broker.timelines.others_signal(point, None);
        assert_eq!(word(theirs.wait_for_submit(Point(point), SOON)), "ok");
    }
    assert_eq!(client.counters().messages_sent, sent);
}

#[test]
fn t2_a_wait_until_a_point_is_promised_ends_with_the_promise() {
    let (_broker, _client, mut frames) = own();
    let second = frames.point(P2);
    assert!(matches!(second.wait_available(MOMENT), Err(Error::Timeout { .. })));
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| second.wait_available(SOON));
        frames.promise(P2, SOON).expect("promised");
        waiting.join().expect("no panic").expect("it is available");
    });
    assert!(!second.has_ended());
}

#[test]
fn t2_the_broker_says_whether_somebody_elses_point_is_promised() {
    let (broker, _client, theirs) = others();
    assert!(matches!(theirs.wait_available(P1, MOMENT), Err(Error::Timeout { .. })));
    broker.timelines.others_promised.store(1, Ordering::Relaxed);
    theirs.wait_available(P1, SOON).expect("it is promised");
    assert_eq!(theirs.promised(), P1);
}

#[test]
fn t2_wait_any_names_the_index_over_jobs_and_timelines() {
    let (broker, client, mut frames) = own();
    let theirs = client.import_timeline(token(1)).expect("a timeline");
    let queue = client.device("zip").expect("it is there").queue(16).expect("a queue");
    broker.publish(0);
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    let job = batch.submit().expect("sent").last().clone();
    let fences = [job, theirs.point(P1).promised_by(SOON), frames.promise(P1, SOON).expect("promised")];
    let race = |fences: &[Fence], end: &mut dyn FnMut()| {
        std::thread::scope(|threads| {
            let any = threads.spawn(|| wait_any(fences, SOON));
            std::thread::sleep(MOMENT);
            end();
            any.join().expect("no panic").expect("one ended")
        })
    };
    assert_eq!(race(&fences, &mut || frames.signal(P1).expect("newer")), Some(2));
    let others_end = &mut || assert_eq!(broker.timelines.others_signal(1, None), Woke::Sleeper);
    assert_eq!(race(&fences[..2], others_end), Some(1));
    let job_fails = &mut || assert_eq!(broker.fail(0, 1, ErrorCode::Io, cause()), Woke::Sleeper);
    assert_eq!(race(&[fences[0].clone(), frames.point(P2).promised_by(SOON)], job_fails), Some(0));
    let all = wait_all(&fences, SOON).expect_err("the job failed");
    assert_eq!((all.index, word(Err(all.error))), (0, "Io".into()));
}

#[test]
fn t2_wait_any_names_a_point_that_nobody_has_promised() {
    let (_broker, _client, mut frames) = own();
    let fences = [frames.promise(P1, SOON).expect("promised"), frames.point(P2)];
    let refused = wait_any(&fences, SOON).expect_err("nobody has promised the second");
    assert!(refused.index == 1 && matches!(refused.error, FenceError::Request(_)), "{refused}");
}

#[test]
fn t5_a_later_success_does_not_hide_an_earlier_failure() {
    let (_broker, _client, mut frames) = own();
    frames.fail(P1, ErrorCode::NoSpace, "the disk is full").expect("a cause");
    frames.signal(P2).expect("newer");
    assert_eq!((word(frames.wait(P1, SOON)), word(frames.wait(P2, SOON))), ("NoSpace".into(), "ok".into()));
    assert_eq!(frames.point(P1).state(), FenceState::Failed { code: ErrorCode::NoSpace, cause: cause() });
}

#[test]
fn a_failure_is_told_to_the_broker_before_it_is_signalled() {
    let (broker, _client, mut frames) = own();
    frames.fail(P2, ErrorCode::CorruptInput, "a torn frame").expect("a cause");
    let told = broker.request(|message| match message {
        ClientMessage::FailPoint(fail) => Some(fail),
        _ => None,
    });
    assert_eq!(
        (told.point, told.code, told.text.as_slice()),
        (P2, ErrorCode::CorruptInput, &b"a torn frame"[..])
    );
    assert_eq!(word(frames.wait(P1, SOON)), "ok", "what is below is done");
}

#[test]
fn t8_a_handle_gives_no_more_than_it_has() {
    let (_broker, client, mut frames) = own();
    let mut theirs = client.import_timeline(token(1)).expect("a timeline");
    let refused = local(theirs.export(TimelineRights::SIGNAL).expect_err("it may only wait"));
    assert_eq!(refused.to_string(), "timeline:900.7: this handle allows WAIT, not SIGNAL");
    for refused in [theirs.signal(P1), theirs.promise(P1, SOON).map(drop)] {
        assert!(matches!(local(refused.expect_err("it may only wait")), LocalError::NoRight { .. }));
    }
    frames.signal(P1).expect("newer");
    let refused = local(frames.export(TimelineRights::SIGNAL).expect_err("it was signalled"));
    assert_eq!(refused, LocalError::InUse { timeline: "frames".into(), point: P1 });
    frames.export(TimelineRights::WAIT).expect("waiting may be passed on");
}

#[test]
fn t8_the_right_to_signal_moves_and_the_giver_sees_the_receivers_signals() {
    let (broker, client, mut frames) = own();
    let first = frames.point(P1).promised_by(SOON);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| first.wait(SOON));
        std::thread::sleep(MOMENT);
        let token = frames.export(TimelineRights::SIGNAL).expect("nothing was promised");
        assert_eq!(format!("{token:?}"), "TimelineToken(..)");
        assert_eq!(frames.rights(), TimelineRights::WAIT);
        assert!(matches!(local(frames.signal(P1).expect_err("another's")), LocalError::NoRight { .. }));
        let _woke: Woke = broker.timelines.others_signal(1, None);
        assert_eq!(word(waiting.join().expect("no panic")), "ok");
    });
    let mut release = client.import_timeline(token(2)).expect("a timeline");
    assert_eq!(release.rights(), TimelineRights::SIGNAL);
    release.signal(P1).expect("it may");
    assert_eq!(broker.timelines.signalled(1), 1);
}

#[test]
fn threads_of_the_signalling_process_are_woken_without_the_broker() {
    let (_broker, client, mut frames) = own();
    let fences: Vec<_> = (1..=3).map(|point| frames.promise(Point(point), SOON).expect("promised")).collect();
    let sent = client.counters().messages_sent;
    let begin = Instant::now();
    std::thread::scope(|threads| {
        let waits: Vec<_> = fences.iter().map(|fence| threads.spawn(|| fence.wait(SOON))).collect();
        std::thread::sleep(MOMENT);
        frames.signal(Point(3)).expect("newer");
        waits.into_iter().for_each(|wait| assert_eq!(word(wait.join().expect("no panic")), "ok"));
    });
    // A wake-up that is lost costs a slice of a quarter of a second.
    assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
    assert_eq!(client.counters().messages_sent, sent);
}

#[test]
fn an_observer_that_comes_late_sees_everything_without_the_client_doing_anything() {
    let (broker, _client, mut frames) = own();
    frames.fail(P1, ErrorCode::Io, "").expect("a cause");
    frames.signal(P2).expect("newer");
    let observer = broker.timelines.observe(0);
    assert!(matches!(seen(&observer, P1), PointState::Failed { .. }) && is_ok(seen(&observer, P2)));
    assert_eq!(broker.timelines.asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_signal_that_finds_news_does_not_wait_for_the_broker_and_is_shown_all_the_same() {
    let (broker, _client, mut frames) = own();
    let observer = broker.timelines.observe(0);
    broker.timelines.stalls.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    (1..=100).for_each(|point| frames.signal(Point(point)).expect("newer"));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(seen(&observer, P1), PointState::Pending);
    broker.timelines.stalls.store(false, Ordering::Relaxed);
    eventually("what was signalled is shown", || is_ok(seen(&observer, Point(100))));
    let asked = broker.timelines.asked.load(Ordering::Relaxed);
    assert!(asked <= 3, "{asked} questions for a hundred signals");
}

#[test]
fn a_timeline_is_shown_to_every_observer_and_to_none_that_has_gone() {
    let (broker, _client, mut frames) = own();
    let observers = [broker.timelines.observe(0), broker.timelines.observe(0)];
    frames.signal(P1).expect("newer");
    eventually("both see it", || observers.iter().all(|observer| is_ok(seen(observer, P1))));
    let asked = broker.timelines.asked.load(Ordering::Relaxed);
    frames.signal(P2).expect("newer");
    assert!(observers.iter().all(|observer| is_ok(seen(observer, P2))), "at once, from now on");
    assert_eq!(broker.timelines.asked.load(Ordering::Relaxed), asked, "and nobody is asked again");
    broker.timelines.leave(0);
    frames.signal(Point(3)).expect("newer");
    eventually("the second is left", || {
        broker.timelines.asked.load(Ordering::Relaxed) > asked
            && frames.signal_next().is_ok_and(|point| seen(&observers[1], point) == PointState::Pending)
    });
    assert!(is_ok(seen(&observers[0], frames.signalled())));
}

#[test]
fn an_observer_that_sleeps_is_woken_by_the_take_over() {
    let (broker, _client, mut frames) = own();
    let observer = broker.timelines.observe(0);
    let slot = Slot::new(2).expect("a page has 15 slots");
    let (doorbell, until) = (observer.doorbell(), vgem_os::clock::deadline_in(20_000_000_000));
    observer.set_interest(slot, 1);
    assert_eq!(seen(&observer, P1), PointState::Pending);
    frames.signal(P1).expect("newer");
    observer.sleep(doorbell, until).expect("a mapped word");
    assert!(is_ok(seen(&observer, P1)));
}

#[test]
fn a_promise_that_was_not_kept_ends_the_timeline_for_its_owner_too() {
    let (broker, _client, mut frames) = own();
    let fence = frames.promise(P2, SOON).expect("promised");
    frames.signal(P1).expect("newer");
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| fence.wait(SOON));
        std::thread::sleep(MOMENT);
        let begin = Instant::now();
        broker.timelines.kill(0, 2, ErrorCode::TimedOut, cause());
        assert_eq!(word(waiting.join().expect("no panic")), "TimedOut");
        assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
    });
    for over in
        [frames.signal(P2), frames.promise(Point(3), SOON).map(drop), frames.fail(P2, ErrorCode::Io, "")]
    {
        let Err(Error::Job(failure)) = over else { panic!("{over:?}") };
        assert_eq!((failure.code, failure.cause), (ErrorCode::TimedOut, cause()));
        assert!(failure.to_string().starts_with("frames: point "), "{failure}");
    }
    assert_eq!(broker.timelines.signalled(0), 1, "and nothing was signalled");
}

#[test]
fn a_promise_that_the_broker_refuses_is_told_with_the_next_one() {
    let (broker, client, mut frames) = own();
    broker.timelines.refuses.store(true, Ordering::Relaxed);
    frames.promise(P1, Duration::from_secs(3600)).expect("sent");
    client.devices().expect("an answer: what came before it was read");
    broker.timelines.refuses.store(false, Ordering::Relaxed);
    let refused = frames.promise(P2, SOON).expect_err("the first was refused");
    assert_eq!(refused.code(), Some(ErrorCode::OutOfRange));
    assert_eq!((frames.promised(), broker.timelines.promised(0)), (Point(0), Point(0)));
    frames.promise(P1, SOON).expect("promised");
    client.devices().expect("an answer");
    assert_eq!(broker.timelines.promised(0), P1);
}

#[test]
fn a_closed_timeline_fails_what_was_not_signalled() {
    let (broker, _client, mut frames) = own();
    let (first, second) = (frames.point(P1), frames.promise(P2, SOON).expect("promised"));
    frames.signal(P1).expect("newer");
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| second.wait(SOON));
        std::thread::sleep(MOMENT);
        frames.close();
        assert_eq!(word(waiting.join().expect("no panic")), "Cancelled");
    });
    assert_eq!(word(first.wait(SOON)), "ok");
    eventually("the broker hears of it", || broker.timelines.is_closed(0));
}

#[test]
fn a_wait_for_a_timeline_that_is_not_shown_yet_asks_until_it_is() {
    for why in [ErrorCode::Exhausted, ErrorCode::NotReady] {
        let (broker, _client, theirs) = others();
        *broker.timelines.unseen.lock().expect("not poisoned") = (4, why);
        let _woke: Woke = broker.timelines.others_signal(1, None);
        assert_eq!(word(theirs.wait(P1, SOON)), "ok");
    }
    let (broker, _client, theirs) = others();
    *broker.timelines.unseen.lock().expect("not poisoned") = (u32::MAX, ErrorCode::NotReady);
    assert_eq!(word(theirs.wait(P1, MOMENT)), "timeout");
}

#[test]
fn t2_what_nobody_signals_yet_keeps_nobody_from_hearing_of_the_others() {
    let (broker, client, mut frames) = own();
    let theirs = client.import_timeline(token(1)).expect("a timeline");
    *broker.timelines.unseen.lock().expect("not poisoned") = (u32::MAX, ErrorCode::NotReady);
    let fences = [theirs.point(P1).promised_by(SOON), frames.promise(P1, SOON).expect("promised")];
    std::thread::scope(|threads| {
        let any = threads.spawn(|| wait_any(&fences, SOON));
        std::thread::sleep(MOMENT * 3);
        frames.signal(P1).expect("newer");
        assert_eq!(any.join().expect("no panic").expect("one ended"), Some(1));
        let first = threads.spawn(|| wait_any(&fences[..1], SOON));
        let both = [fences[0].clone(), theirs.point(P2).promised_by(SOON)];
        let second = threads.spawn(move || wait_any(&both, SOON));
        std::thread::sleep(MOMENT * 3);
        *broker.timelines.unseen.lock().expect("not poisoned") = (0, ErrorCode::NotReady);
        let _woke: Woke = broker.timelines.others_signal(1, None);
        for any in [first, second] {
            assert_eq!(any.join().expect("no panic").expect("one ended"), Some(0));
        }
    });
}

#[test]
fn a_look_at_somebody_elses_point_finds_it_in_a_while() {
    let (broker, _client, theirs) = others();
    let fence = theirs.point(P1);
    let _woke: Woke = broker.timelines.others_signal(1, None);
    eventually("it is seen", || matches!(fence.state(), FenceState::Done { .. }));
}

#[test]
fn the_owners_death_ends_a_wait_with_its_cause() {
    let (broker, _client, theirs) = others();
    broker.timelines.others_promised.store(2, Ordering::Relaxed);
    let _woke: Woke = broker.timelines.others_signal(1, None);
    broker.timelines.others_die(2, cause());
    assert_eq!((word(theirs.wait(P1, SOON)), word(theirs.wait(P2, SOON))), ("ok".into(), "OwnerDied".into()));
}

#[test]
fn a_timeline_that_is_over_and_shown_nowhere_is_asked_about() {
    let (broker, _client, theirs) = others();
    *broker.timelines.unseen.lock().expect("not poisoned") = (u32::MAX, ErrorCode::Gone);
    *broker.timelines.others_failed.lock().expect("not poisoned") = Some((ErrorCode::OwnerDied, cause()));
    let fences = [theirs.point(P1), theirs.point(P2).promised_by(SOON)];
    let failed = wait_any(&fences, SOON).expect("the first has ended");
    assert_eq!((failed, word(fences[0].wait(SOON))), (Some(0), "OwnerDied".into()));
    assert_eq!(word(fences[1].wait(SOON)), "OwnerDied");
    assert!(matches!(fences[0].state(), FenceState::Failed { code: ErrorCode::OwnerDied, .. }));
}

#[test]
fn a_query_says_what_the_page_knows_and_then_what_the_broker_knows() {
    let (broker, _client, theirs) = others();
    let query = |point| theirs.query(Point(point)).expect("an answer");
    assert_eq!(query(1), PointStatus::Unpromised { promised: Point(0) });
    broker.timelines.others_promised.store(2, Ordering::Relaxed);
    assert_eq!(query(1), PointStatus::Promised);
    let _woke: Woke = broker.timelines.others_signal(1, None);
    assert_eq!(word(theirs.wait(P1, SOON)), "ok");
    assert!(matches!(query(1), PointStatus::Done { at: Some(_) }));
    *broker.timelines.others_failed.lock().expect("not poisoned") = Some((ErrorCode::Io, CauseId(5)));
    assert_eq!(query(2), PointStatus::Failed { code: ErrorCode::Io, cause: CauseId(5) });
}

#[test]
fn an_overrun_is_asked_about() {
    let (broker, _client, theirs) = others();
    for point in 1..=9 {
        let _woke: Woke = broker.timelines.others_signal(point, Some((ErrorCode::Io, cause())));
    }
    broker.timelines.others_promised.store(9, Ordering::Relaxed);
    assert_eq!(word(theirs.wait(Point(2), SOON)), "Io");
    assert_eq!(theirs.point(P1).state(), FenceState::Forgotten);
    *broker.timelines.others_failed.lock().expect("not poisoned") = Some((ErrorCode::NoSpace, cause()));
    assert_eq!(word(theirs.wait(P1, SOON)), "NoSpace");
}

#[test]
fn a_job_waits_for_points_that_are_promised_and_for_points_that_are_to_be() {
    let (broker, client, mut frames) = own();
    let queue = client.device("zip").expect("it is there").queue(16).expect("a queue");
    let buffer = client.create(4096).expect("memory");
    let stage = frames.promise(P1, SOON).expect("promised");
    let until = Deadline::after(SOON);
    let mut batch = client.batch();
    batch
        .job(&queue, "mix")
        .inout(&buffer)
        .after(&stage)
        .behind(&queue.timeline().point(Point(7)).promised_by(until));
    batch.submit().expect("sent");
    let waits = broker.batch().waits;
    let said = |at: usize| (waits[at].timeline.0, waits[at].point.0, waits[at].flags, waits[at].until);
    assert_eq!(said(0), (100, 1, 0, vgem::Time(0)));
    assert_eq!(said(1), (1, 7, WAIT_FOR_SUBMIT, until.time()));
}

#[test]
fn a_queues_timeline_knows_what_is_promised_and_what_is_not() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(16).expect("a queue");
    broker.publish(0);
    let jobs = queue.timeline();
    let refused = jobs.wait(P1, SOON).expect_err("no job was submitted");
    assert!(matches!(refused, FenceError::Request(_)), "{refused}");
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    batch.submit().expect("sent");
    let _woke: Woke = broker.signal(0, 1);
    assert_eq!((word(jobs.wait(P1, SOON)), jobs.promised()), ("ok".into(), P1));
    let mut jobs = jobs;
    jobs.export(TimelineRights::WAIT).expect("others may wait for it");
    assert!(matches!(local(jobs.signal(P2).expect_err("the driver's")), LocalError::NoRight { .. }));
}

#[test]
fn the_end_of_the_broker_ends_every_wait_for_a_timeline() {
    let (mut broker, _client, mut frames) = own();
    let fence = frames.promise(P1, SOON).expect("promised");
    broker.hang_up();
    let begin = Instant::now();
    assert!(matches!(fence.wait(SOON), Err(FenceError::BrokerLost { .. })));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
