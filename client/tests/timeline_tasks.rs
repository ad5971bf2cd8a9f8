//! Timelines for tasks, against a broker made for tests.

#![cfg(feature = "tokio")]

mod support;

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::{FakeBroker, Mood, SOON, cause, options};
use vgem::aio::{Client, wait_all, wait_any};
use vgem::{Error, ErrorCode, FenceError, Point, PointStatus, TimelineRights, TimelineToken};
use vgem_os::fence::Woke;
use vgem_proto::message::client::ClientMessage;

const P1: Point = Point(1);
const P2: Point = Point(2);
const MOMENT: Duration = Duration::from_millis(20);

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

async fn with_client() -> (FakeBroker, Client) {
    let (broker, socket) = FakeBroker::pair(Mood::Honest);
    let client = Client::over(socket, &options()).await.expect("a greeting");
    (broker, client)
}

fn others() -> TimelineToken {
    let mut bytes = [0; 16];
    bytes[8] = 1;
    TimelineToken::from_bytes(bytes)
}

#[test]
fn a_task_waits_for_a_timeline_of_its_own_process() {
    run(async {
        let (_broker, client) = with_client().await;
        let mut frames = client.timeline("frames").await.expect("a timeline");
        let fence = client.promise(&mut frames, P2, SOON).await.expect("promised");
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        tokio::task::yield_now().await;
        frames.signal(P1).expect("newer");
        tokio::time::sleep(MOMENT).await;
        assert!(!waiting.is_finished());
        client.fail(&mut frames, P2, ErrorCode::Io, "no frame").await.expect("a cause");
        let failed = waiting.await.expect("no panic").expect_err("it failed");
        assert!(matches!(failed, FenceError::Failed(failure) if failure.cause == cause()));
        frames.export(TimelineRights::SIGNAL).expect_err("it was signalled");
        client.export_timeline(&mut frames, TimelineRights::WAIT).await.expect("a token");
    });
}

#[test]
fn a_task_waits_for_somebody_elses_timeline() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        *broker.timelines.unseen.lock().expect("not poisoned") = (3, ErrorCode::NotReady);
        let fence = theirs.point(P1).promised_by(SOON);
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        tokio::time::sleep(MOMENT).await;
        let _woke: Woke = broker.timelines.others_signal(1, None);
        assert!(waiting.await.expect("no panic").is_ok());
    });
}

#[test]
fn t1_a_task_does_not_wait_for_what_nobody_has_promised() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        let refused = theirs.point(P1).wait_async(SOON).await.expect_err("nobody has promised it");
        assert!(refused.to_string().contains("nobody has promised point 1"), "{refused}");
        broker.timelines.others_promised.store(1, Ordering::Relaxed);
        let late = theirs.point(P1).wait_async(MOMENT).await;
        assert!(matches!(late, Err(FenceError::Timeout { .. })), "{late:?}");
    });
}

#[test]
fn a_tasks_deadline_holds_while_its_errand_asks() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        *broker.timelines.unseen.lock().expect("not poisoned") = (u32::MAX, ErrorCode::NotReady);
        let begin = Instant::now();
        let late = theirs.point(P1).wait_async(MOMENT).await;
        assert!(matches!(late, Err(FenceError::Timeout { .. })), "{late:?}");
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    });
}

/// Nobody waits in line behind a question that has no answer yet.
#[test]
fn what_nobody_signals_yet_keeps_no_other_task_from_asking() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        *broker.timelines.unseen.lock().expect("not poisoned") = (u32::MAX, ErrorCode::NotReady);
        let fence = theirs.point(P1).promised_by(SOON);
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        tokio::time::sleep(MOMENT).await;
        let mut frames = client.timeline("frames").await.expect("a timeline");
        let observer = broker.timelines.observe(0);
        frames.signal(P1).expect("newer");
        let slot = vgem_os::fence::Slot::new(2).expect("a page has 15 slots");
        let begin = Instant::now();
        while observer.state(slot, 7, 1) == vgem_os::fence::PointState::Pending {
            assert!(begin.elapsed() < Duration::from_secs(1), "the errand for it is run");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        *broker.timelines.unseen.lock().expect("not poisoned") = (0, ErrorCode::NotReady);
        let _woke: Woke = broker.timelines.others_signal(1, None);
        assert!(waiting.await.expect("no panic").is_ok());
    });
}

#[test]
fn t2_a_task_waits_for_any_and_for_all_and_is_told_the_index() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        let mut frames = client.timeline("frames").await.expect("a timeline");
        let own = client.promise(&mut frames, P1, SOON).await.expect("promised");
        let fences = [theirs.point(P1).promised_by(SOON), own];
        let both = fences.clone();
        let any = tokio::spawn(async move { wait_any(&both, SOON).await });
        tokio::time::sleep(MOMENT).await;
        client.fail(&mut frames, P1, ErrorCode::Io, "").await.expect("a cause");
        assert_eq!(any.await.expect("no panic").expect("one ended"), Some(1));
        let late = wait_all(&fences, MOMENT).await.expect_err("one has not ended");
        assert_eq!(late.index, 0);
        let _woke: Woke = broker.timelines.others_signal(1, None);
        let failed = wait_all(&fences, SOON).await.expect_err("one failed");
        assert!(failed.index == 1 && matches!(failed.error, FenceError::Failed(_)), "{failed}");
        assert_eq!(wait_any(&[], SOON).await.expect("nothing"), None);
    });
}

#[test]
fn t2_a_task_asks_whether_a_point_is_promised() {
    run(async {
        let (broker, client) = with_client().await;
        let theirs = client.import_timeline(others()).await.expect("a timeline");
        let fence = theirs.point(P2);
        assert_eq!(
            client.query(&fence).await.expect("an answer"),
            PointStatus::Unpromised { promised: Point(0) }
        );
        let unavailable = client.wait_available(&fence, MOMENT).await;
        assert!(matches!(unavailable, Err(Error::Timeout { .. })), "{unavailable:?}");
        let asked = broker.request(|message| match message {
            ClientMessage::QueryPoint(query) => Some(query.point),
            _ => None,
        });
        assert_eq!(asked, P2);
        broker.timelines.others_promised.store(2, Ordering::Relaxed);
        client.wait_available(&fence, SOON).await.expect("it is promised");
        assert_eq!(client.query(&fence).await.expect("an answer"), PointStatus::Promised);
    });
}

#[test]
fn a_refused_promise_that_is_waited_for_is_told_at_once() {
    run(async {
        let (broker, client) = with_client().await;
        let mut frames = client.timeline("frames").await.expect("a timeline");
        broker.timelines.refuses.store(true, Ordering::Relaxed);
        let refused = client.promise_acknowledged(&mut frames, P1, SOON).await;
        assert_eq!(refused.map(drop).map_err(|error| error.code()), Err(Some(ErrorCode::OutOfRange)));
        assert_eq!(frames.promised(), Point(0));
    });
}

#[test]
fn the_end_of_the_broker_ends_a_tasks_wait_for_a_timeline() {
    run(async {
        let (mut broker, client) = with_client().await;
        let mut frames = client.timeline("frames").await.expect("a timeline");
        let fence = client.promise(&mut frames, P1, SOON).await.expect("promised");
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        tokio::task::yield_now().await;
        broker.hang_up();
        assert!(matches!(waiting.await.expect("no panic"), Err(FenceError::BrokerLost { .. })));
    });
}
