//! The asynchronous front, against a broker made for tests.

#![cfg(feature = "tokio")]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use support::{FakeBroker, Mood, SOON, cause, options};
use vgem::aio::Client;
use vgem::{Error, ErrorCode, FenceError, QueueOptions};
use vgem_os::fence::Woke;
use vgem_proto::message::client::ClientMessage;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

async fn with_client(mood: Mood) -> (FakeBroker, Client) {
    let (broker, socket) = FakeBroker::pair(mood);
    let client = Client::over(socket, &options()).await.expect("a greeting");
    (broker, client)
}

#[test]
fn a_task_goes_all_the_way_from_greeting_to_bytes() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        broker.publish(0);
        let buffer = client.create(4096).await.expect("memory");
        client.write(&buffer, ..5, SOON).await.expect("nobody uses it").copy_from_slice(b"hello");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        let fence = client.submit(&mut batch).await.expect("sent").last().clone();
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        broker.batch();
        tokio::task::yield_now().await;
        let _woke: Woke = broker.signal(0, 1);
        assert!(waiting.await.expect("no panic").is_ok());
        assert_eq!(&*client.read(&buffer, ..5, SOON).await.expect("it ended"), b"hello");
    });
}

#[test]
fn a_task_opens_a_queue_with_its_priority() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let _queue = client.queue_with(&zip, QueueOptions::new().priority(7)).await.expect("a queue");
        let priority = broker.request(|message| match message {
            ClientMessage::OpenQueue(open) => Some(open.priority),
            _ => None,
        });
        assert_eq!(priority, 7);
    });
}

#[test]
fn tasks_share_a_connection_and_each_gets_its_own_answer() {
    run(async {
        let (_broker, client) = with_client(Mood::Honest).await;
        let asking: Vec<_> = (1..=8_u64)
            .map(|pages| {
                let client = client.clone();
                tokio::spawn(async move { client.create(pages * 4096).await.expect("memory").pinned() })
            })
            .collect();
        let mut lens = Vec::new();
        for task in asking {
            lens.push(task.await.expect("no panic"));
        }
        assert_eq!(lens, (1..=8).map(|pages| pages * 4096).collect::<Vec<_>>());
    });
}

#[test]
fn a_silent_broker_ends_a_tasks_request_at_its_deadline() {
    run(async {
        let (_broker, socket) = FakeBroker::pair(Mood::Silent);
        let options = options().request_timeout(Duration::from_millis(50));
        let client = Client::over(socket, &options).await.expect("a greeting");
        assert!(matches!(client.devices().await, Err(Error::Timeout { .. })));
    });
}

#[test]
fn a_dead_broker_ends_requests_and_waits_of_tasks() {
    run(async {
        let (mut broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        let fence = client.submit(&mut batch).await.expect("sent").last().clone();
        let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
        tokio::task::yield_now().await;
        broker.hang_up();
        assert!(matches!(waiting.await.expect("no panic"), Err(FenceError::BrokerLost { .. })));
        assert!(matches!(client.devices().await, Err(Error::BrokerLost { .. })));
    });
}

#[test]
fn a_dropped_request_does_not_disturb_the_next() {
    run(async {
        let (_broker, client) = with_client(Mood::Honest).await;
        for _ in 0..20 {
            let mut asking = pin!(client.devices());
            let once = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context).is_ready()));
            once.await;
        }
        assert_eq!(client.devices().await.expect("a list").len(), 1);
    });
}

#[test]
fn a_refused_batch_says_why_to_a_task() {
    run(async {
        let (_broker, client) = with_client(Mood::RefuseBatches).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        let refused = client.submit_acknowledged(&mut batch).await;
        assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code == ErrorCode::Exhausted));
    });
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_fence_wakes_any_executor() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").and_then(|zip| zip.queue(0)).expect("a queue");
    broker.publish(0);
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    let fence = batch.submit().expect("sent").last().clone();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut waiting = pin!(fence.wait_async(SOON));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let _woke: Woke = broker.fail(0, 1, ErrorCode::Io, cause());
    while count.0.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    match waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(Err(FenceError::Failed(failure))) => assert_eq!(failure.code, ErrorCode::Io),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dropped_wait_leaves_no_interest_behind() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").and_then(|zip| zip.queue(0)).expect("a queue");
    broker.publish(0);
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    let fence = batch.submit().expect("sent").last().clone();
    {
        let mut waiting = pin!(fence.wait_async(SOON));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(broker.signal(0, 1), Woke::Nobody);
}

#[test]
fn a_task_that_waits_too_long_is_told() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        broker.publish(0);
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        let fence = client.submit(&mut batch).await.expect("sent").last().clone();
        let late = fence.wait_async(Duration::from_millis(20)).await;
        assert!(matches!(late, Err(FenceError::Timeout { .. })));
    });
}

#[test]
fn a_task_that_waits_for_a_job_without_room_is_told() {
    run(async {
        let (broker, client) = with_client(Mood::NoRoomOnce).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        broker.publish(0);
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        let fence = client.submit(&mut batch).await.expect("sent").last().clone();
        let refused = fence.wait_async(SOON).await.expect_err("there was no room");
        assert!(matches!(refused, FenceError::Failed(failure) if failure.code == ErrorCode::Refused));
    });
}

#[test]
fn one_wait_after_another_is_woken() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        broker.publish(0);
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        for point in 1..=20 {
            batch.job(&queue, "mix").inout(&buffer);
            let fence = client.submit(&mut batch).await.expect("sent").last().clone();
            let waiting = tokio::spawn(async move { fence.wait_async(SOON).await });
            // The task has looked, and sleeps.
            tokio::task::yield_now().await;
            let _woke: Woke = broker.signal(0, point);
            let woken = tokio::time::timeout(SOON, waiting).await.expect("nobody woke the task");
            assert!(woken.expect("no panic").is_ok());
        }
    });
}

#[test]
fn a_wait_after_another_is_told_of_its_own_deadline() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let zip = client.device("zip").await.expect("it is there");
        let queue = client.queue(&zip, 0).await.expect("a queue");
        broker.publish(0);
        let buffer = client.create(4096).await.expect("memory");
        let mut batch = client.batch();
        batch.job(&queue, "mix").inout(&buffer);
        batch.job(&queue, "mix").inout(&buffer);
        let fences = client.submit(&mut batch).await.expect("sent");
        let early = fences.fences()[0].wait_async(Duration::from_millis(5)).await;
        let begin = std::time::Instant::now();
        let second = Duration::from_secs(1);
        let late = tokio::time::timeout(second, fences.last().wait_async(Duration::from_millis(5))).await;
        assert!(matches!(early, Err(FenceError::Timeout { .. })));
        assert!(matches!(late, Ok(Err(FenceError::Timeout { .. }))) && begin.elapsed() < second, "{late:?}");
    });
}

fn memfd(len: u64) -> std::os::fd::OwnedFd {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("foreign", flags).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("a length");
    fd
}

#[test]
fn a_task_makes_a_set_with_one_request_each_to_make_and_to_commit() {
    run(async {
        let (_broker, client) = with_client(Mood::Honest).await;
        let set = client.create_set(64, 4096).await.expect("memory");
        assert_eq!((set.len(), client.counters().messages_sent), (64, 3));
    });
}

#[test]
fn a_task_imports_memory_through_a_porter() {
    run(async {
        let (broker, client) = with_client(Mood::PorterDies).await;
        let buffer = client.import_fd(memfd(8192)).await.expect("the second porter takes it");
        assert_eq!((buffer.len(), buffer.pinned()), (8192, 8192));
        let handle = buffer.handle();
        drop(buffer);
        client.devices().await.expect("an answer");
        assert_eq!(broker.sharing.count(handle), 0);
    });
}

#[test]
fn a_stalled_porter_ends_a_tasks_import_at_its_deadline() {
    run(async {
        let (_broker, socket) = FakeBroker::pair(Mood::PorterStalls);
        let options = options().request_timeout(Duration::from_millis(50));
        let client = Client::over(socket, &options).await.expect("a greeting");
        assert!(matches!(client.import_fd(memfd(4096)).await, Err(Error::Timeout { .. })));
        assert!(client.devices().await.is_ok());
    });
}

#[test]
fn a_dropped_import_is_given_up_whenever_its_answer_comes() {
    run(async {
        let (broker, client) = with_client(Mood::ImportsLate).await;
        let dropped = tokio::time::timeout(Duration::from_millis(20), client.import_fd(memfd(4096))).await;
        assert!(dropped.is_err(), "{dropped:?}");
        let count = || broker.sharing.objects.lock().expect("not poisoned").last().map(|kept| kept.count);
        let given_up = async {
            while count() != Some(0) {
                client.devices().await.expect("an answer");
            }
        };
        tokio::time::timeout(SOON, given_up).await.expect("it is given up");
    });
}

#[test]
fn a_task_waits_for_what_others_write() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let buffer = Arc::new(client.create(4096).await.expect("memory"));
        drop(client.export(&buffer, vgem::Access::Write).await.expect("an export"));
        broker.others_write(0, 1);
        let late = client.read(&buffer, .., Duration::from_millis(20)).await.map(drop);
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        let (reader, shared) = (client.clone(), Arc::clone(&buffer));
        let reading =
            tokio::spawn(async move { reader.read(&shared, .., SOON).await.map(|guard| guard.len()) });
        tokio::task::yield_now().await;
        let _woke: Woke = broker.others_end(0, 1, None);
        assert_eq!(reading.await.expect("no panic").expect("it ended well"), 4096);
    });
}

#[test]
fn a_task_that_reads_poison_gets_its_cause_with_what_is_behind_it() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let buffer = client.create(8192).await.expect("memory");
        drop(client.export(&buffer, vgem::Access::Write).await.expect("an export"));
        broker.sharing.poison(0..4096, ErrorCode::Io, cause());
        let failed = client.read(&buffer, .., SOON).await.map(drop).expect_err("the bytes are bad");
        let Error::Job(failure) = &failed else { panic!("{failed:?}") };
        assert_eq!((failure.code, failure.cause), (ErrorCode::Io, cause()));
        assert!(failed.to_string().ends_with("zip: needs 90 bytes, has 10 (pid 321)"), "{failed}");
        assert!(client.read(&buffer, 4096.., SOON).await.is_ok());
        broker.sharing.replaced();
        assert!(client.read(&buffer, .., SOON).await.is_ok());
        broker.others_write(0, 1);
        let _woke: Woke = broker.others_signal(0, 1, Some((ErrorCode::Io, cause())));
        let before = client.counters().messages_sent;
        let (reader, shared) = (client.clone(), buffer);
        let reading =
            tokio::spawn(async move { reader.read(&shared, 4096.., SOON).await.map(|guard| guard.len()) });
        // It asks again when it is told a failure that is not noted yet.
        while client.counters().messages_sent < before + 2 {
            tokio::task::yield_now().await;
        }
        broker.others_noted(0, 1, Some((ErrorCode::Io, cause())));
        assert_eq!(reading.await.expect("no panic").map_err(|error| error.to_string()), Ok(4096));
    });
}

#[test]
fn a_point_whose_slot_went_does_not_hold_a_task() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let buffer = client.create(4096).await.expect("memory");
        drop(client.export(&buffer, vgem::Access::Write).await.expect("an export"));
        broker.others_write(0, 1);
        let reading = client.read(&buffer, .., SOON);
        let going = async {
            // After the first question was answered.
            broker.request(|message| {
                matches!(message, vgem_proto::message::client::ClientMessage::Observe(_)).then_some(())
            });
            broker.sharing.unfinished.lock().expect("not poisoned").clear();
            broker.sharing.retire(0);
        };
        let mut reading = pin!(reading);
        let first =
            std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context).is_pending())).await;
        assert!(first);
        going.await;
        assert!(reading.await.is_ok());
    });
}

#[test]
fn tasks_send_and_receive_buffers() {
    run(async {
        let (_broker, client) = with_client(Mood::Honest).await;
        let (near, far) = tokio::net::UnixStream::pair().expect("a pair");
        let receiver = client.clone();
        let receiving = tokio::spawn(async move { receiver.receive(&far, SOON).await });
        let buffer = client.create(5000).await.expect("memory");
        client.send(&buffer, &near, vgem::Access::Read, SOON).await.expect("there is room");
        let received = receiving.await.expect("no panic").expect("a buffer");
        assert_eq!((received.buffer.len(), received.buffer.handle()), (5000, buffer.handle()));
    });
}

#[test]
fn a_task_adopts_memory_and_gets_it_back() {
    run(async {
        let (_broker, client) = with_client(Mood::Honest).await;
        let adopted = client.adopt_pages(vgem::PageVec::from_slice(b"hello")).await.expect("adopted");
        client.write(&adopted, ..1, SOON).await.expect("nobody uses it")[0] = b'j';
        let back = client.release_pages(adopted, SOON).await.expect("nobody uses it");
        assert_eq!(&*back, b"jello");
    });
}

#[test]
fn a_task_is_told_events_between_answers() {
    run(async {
        let (mut broker, client) = with_client(Mood::Honest).await;
        let mut monitor = client.monitor().await.expect("told");
        assert!(client.event(&mut monitor, Duration::from_millis(5)).await.expect("alive").is_none());
        broker.tell(0, r#"{"at_ns":5,"domain":4,"event":"client_gone","client":7}"#);
        client.devices().await.expect("an answer");
        let told = client.event(&mut monitor, SOON).await.expect("alive").expect("an event");
        assert_eq!(told.entry.map(|entry| entry.at_ns), Some(5));
        broker.hang_up();
        assert!(matches!(client.event(&mut monitor, SOON).await, Err(Error::BrokerLost { .. })));
    });
}

#[test]
fn a_task_is_told_of_jobs_that_ended_between_answers() {
    run(async {
        let (mut broker, client) = with_client(Mood::Honest).await;
        let mut trace = client.trace().await.expect("told");
        assert!(client.ended_job(&mut trace, Duration::from_millis(5)).await.expect("alive").is_none());
        broker.tell_traced(2, 7..=8);
        client.devices().await.expect("an answer");
        for point in [7, 8] {
            let told = client.ended_job(&mut trace, SOON).await.expect("alive").expect("a job");
            assert_eq!(told.point.0, point);
        }
        assert_eq!(trace.lost(), 2);
        broker.hang_up();
        assert!(matches!(client.ended_job(&mut trace, SOON).await, Err(Error::BrokerLost { .. })));
    });
}

#[test]
fn a_task_asks_again_where_the_broker_must_make_room_first() {
    run(async {
        let (_broker, client) = with_client(Mood::NoRoomToShow).await;
        let buffer = client.create(4096).await.expect("memory");
        drop(client.export(&buffer, vgem::Access::Write).await.expect("an export"));
        assert!(client.read(&buffer, .., SOON).await.is_ok());
    });
}

#[test]
fn tasks_that_import_the_same_memory_at_once_share_a_ledger() {
    run(async {
        let (broker, client) = with_client(Mood::Honest).await;
        let fd = memfd(8192);
        let (one, other) = (fd.try_clone().expect("an fd"), fd.try_clone().expect("an fd"));
        let (one, other) = tokio::join!(client.import_fd(one), client.import_fd(other));
        let (one, other) = (one.expect("good memory"), other.expect("good memory"));
        let held = client.write(&one, .., SOON).await.expect("nobody uses it");
        let late = client.read(&other, .., Duration::from_millis(10)).await.map(drop);
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        drop(held);
        let handle = one.handle();
        drop((one, other));
        client.devices().await.expect("an answer");
        assert_eq!(broker.sharing.count(handle), 0);
    });
}
