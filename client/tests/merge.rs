//! Merged fences, and fences as eventfds, against a broker made for tests.

mod support;

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use support::{FakeBroker, SOON, cause};
use vgem::{
    Buffer, CauseId, Client, Deadline, ErrorCode, Fence, FenceError, FenceState, Point, Queue, TimelineToken,
};
use vgem_os::fence::Woke;

const MOMENT: Duration = Duration::from_millis(20);

struct Bench {
    broker: FakeBroker,
    client: Client,
    queue: Queue,
    buffer: Buffer,
}

fn bench() -> Bench {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(64).expect("a queue");
    broker.publish(0);
    let buffer = client.create(4096).expect("memory");
    Bench { broker, client, queue, buffer }
}

impl Bench {
    fn jobs(&self, count: usize) -> Vec<Fence> {
        let mut batch = self.client.batch();
        for _ in 0..count {
            batch.job(&self.queue, "mix").inout(&self.buffer);
        }
        batch.submit().expect("sent").into_iter().collect()
    }

    fn fail(&self, point: u64, code: ErrorCode, cause: u64) {
        let _woke: Woke = self.broker.fail(0, point, code, CauseId(cause));
    }

    fn end(&self, point: u64) {
        let _woke: Woke = self.broker.signal(0, point);
    }
}

/// Whether an fd is readable within `wait`.
fn readable(fd: &OwnedFd, wait: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    poll(&mut fds, Some(&wait)).expect("a poll") == 1 && fds[0].revents() == PollFlags::IN
}

fn codes(error: &vgem::MergedError) -> Vec<(usize, String)> {
    let word = |error: &FenceError| match error {
        FenceError::Failed(failure) => failure.code.name().to_owned(),
        FenceError::Timeout { .. } => "timeout".into(),
        other => other.to_string(),
    };
    error.errors.iter().map(|one| (one.index, word(&one.error))).collect()
}

#[test]
fn t7_a_merge_keeps_every_error_and_the_worst_comes_first() {
    let bench = bench();
    let fences = bench.jobs(8);
    bench.fail(1, ErrorCode::Cancelled, 1);
    bench.fail(2, ErrorCode::NoSpace, 2);
    bench.end(3);
    bench.fail(4, ErrorCode::TimedOut, 1);
    bench.fail(5, ErrorCode::OwnerDied, 5);
    bench.fail(6, ErrorCode::CorruptInput, 2);
    bench.fail(7, ErrorCode::DeviceLost, 7);
    let merged = Fence::merge(fences);
    let error = merged.wait(MOMENT).expect_err("most failed");
    let expected = [
        (4, "OwnerDied"),
        (6, "DeviceLost"),
        (3, "TimedOut"),
        (1, "NoSpace"),
        (5, "CorruptInput"),
        (0, "Cancelled"),
        (7, "timeout"),
    ];
    assert_eq!(codes(&error), expected.map(|(index, code)| (index, code.to_owned())));
    assert_eq!(error.causes(), [5, 7, 1, 2].map(CauseId));
    assert!(
        error.to_string().starts_with("7 of 8 fences did not end well: fence 4: zip: job 5 failed"),
        "{error}"
    );
}

#[test]
fn t7_inputs_that_were_signalled_before_the_merge_keep_their_errors() {
    let bench = bench();
    let fences = bench.jobs(2);
    bench.fail(1, ErrorCode::Io, 9);
    bench.end(2);
    let merged = Fence::merge(fences);
    assert!(merged.has_ended());
    assert_eq!(codes(&merged.wait(Deadline::NOW).expect_err("one failed")), [(0, "Io".to_owned())]);
    assert!(Fence::merge([]).wait(Deadline::NOW).is_ok(), "nothing has ended well");
}

#[test]
fn t7_the_end_of_the_broker_is_worse_than_any_failure() {
    let mut bench = bench();
    let fences = bench.jobs(2);
    bench.fail(1, ErrorCode::DeviceLost, 9);
    bench.broker.hang_up();
    let error = Fence::merge(fences).wait(SOON).expect_err("both");
    assert_eq!(error.errors.iter().map(|one| one.index).collect::<Vec<_>>(), [1, 0]);
    let worst = error.into_worst().expect("there is one");
    assert!(matches!(worst.error, FenceError::BrokerLost { .. }));
}

#[cfg(feature = "tokio")]
#[test]
fn t7_a_task_is_told_every_error_too() {
    let bench = bench();
    let merged = Fence::merge(bench.jobs(2));
    bench.fail(1, ErrorCode::Cancelled, 1);
    bench.fail(2, ErrorCode::Io, 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = runtime.block_on(merged.wait_async(SOON)).expect_err("both failed");
    assert_eq!(codes(&error), [(1, "Io".to_owned()), (0, "Cancelled".to_owned())]);
}

#[test]
fn t6_an_eventfd_is_readable_on_success_and_on_failure_and_not_before() {
    let bench = bench();
    let fences = bench.jobs(2);
    let fds = [0, 1].map(|place: usize| fences[place].eventfd().expect("an fd"));
    assert!(fds.iter().all(|fd| !readable(fd, MOMENT)));
    bench.end(1);
    assert!(readable(&fds[0], SOON / 40) && !readable(&fds[1], MOMENT));
    bench.fail(2, ErrorCode::Io, 3);
    assert!(readable(&fds[1], SOON / 40));
    assert!(matches!(fences[1].state(), FenceState::Failed { code: ErrorCode::Io, .. }));
    assert!(readable(&fences[0].eventfd().expect("an fd"), Duration::ZERO), "it had ended already");
}

#[test]
fn t6_an_eventfd_is_a_snapshot_that_later_points_do_not_change() {
    let bench = bench();
    let fences = bench.jobs(3);
    let fd = fences[0].eventfd().expect("an fd");
    bench.end(1);
    assert!(readable(&fd, SOON / 40));
    let mut count = [0; 8];
    rustix::io::read(&fd, &mut count).expect("it is readable");
    bench.fail(2, ErrorCode::Io, 3);
    bench.end(3);
    assert!(u64::from_ne_bytes(count) >= 1 && !readable(&fd, MOMENT));
    assert_eq!(rustix::io::read(&fd, &mut count), Err(rustix::io::Errno::AGAIN), "and reading never blocks");
}

#[test]
fn t6_an_eventfd_of_merged_fences_is_readable_once_all_have_ended() {
    let bench = bench();
    let fences = bench.jobs(3);
    let mut frames = bench.client.timeline("frames").expect("a timeline");
    let stage = frames.promise(Point(1), SOON).expect("promised");
    let fd = Fence::merge(fences.into_iter().chain([stage])).eventfd().expect("an fd");
    bench.end(3);
    assert!(!readable(&fd, MOMENT));
    frames.signal(Point(1)).expect("newer");
    assert!(readable(&fd, SOON / 40));
}

#[test]
fn t6_an_eventfd_of_somebody_elses_point_asks_in_the_background() {
    let bench = bench();
    let mut bytes = [0; 16];
    bytes[8] = 1;
    let theirs = bench.client.import_timeline(TimelineToken::from_bytes(bytes)).expect("a timeline");
    *bench.broker.timelines.unseen.lock().expect("not poisoned") = (3, ErrorCode::NotReady);
    bench.broker.timelines.others_promised.store(1, Ordering::Relaxed);
    let fd = theirs.point(Point(1)).eventfd().expect("an fd");
    let unpromised = theirs.point(Point(2)).eventfd().expect("an fd");
    let to_come = theirs.point(Point(2)).promised_by(MOMENT * 3).eventfd().expect("an fd");
    assert!(readable(&unpromised, SOON / 40), "it cannot be waited for");
    assert!(!readable(&fd, MOMENT));
    assert!(readable(&to_come, SOON / 40), "at its moment at the latest");
    let _woke: Woke = bench.broker.timelines.others_signal(1, None);
    assert!(readable(&fd, SOON / 40));
}

#[test]
fn t6_the_end_of_the_broker_makes_every_eventfd_readable() {
    let mut bench = bench();
    let fd = bench.jobs(1)[0].eventfd().expect("an fd");
    bench.broker.hang_up();
    assert!(readable(&fd, SOON / 40));
}

#[test]
fn t6_an_eventfd_works_with_epoll() {
    let bench = bench();
    let fences = bench.jobs(2);
    let fds = [0, 1].map(|place: usize| fences[place].eventfd().expect("an fd"));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (place, fd) in (0..).zip(&fds) {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(place), epoll::EventFlags::IN).expect("added");
    }
    bench.end(1);
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(9) }; 4];
    let wait = Timespec { tv_sec: 5, tv_nsec: 0 };
    let count = epoll::wait(&epoll, &mut events[..], Some(&wait)).expect("an event");
    let data = events[0].data;
    assert_eq!((count, data.u64()), (1, 0));
}

#[cfg(feature = "tokio")]
#[test]
fn t6_an_eventfd_works_with_tokio() {
    let bench = bench();
    let fd = bench.jobs(1)[0].eventfd().expect("an fd");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        #[expect(deprecated, reason = "the fd is the watcher's own, so it stays open")]
        let watched = tokio::io::unix::AsyncFd::new(fd);
        let fd = watched.expect("it can be watched");
        assert!(tokio::time::timeout(MOMENT, fd.readable()).await.is_err());
        bench.end(1);
        tokio::time::timeout(SOON, fd.readable()).await.expect("in time").expect("readable").clear_ready();
    });
}

#[test]
fn t6_an_eventfd_works_with_asyncio() {
    let bench = bench();
    let fences = bench.jobs(1);
    let fd = fences[0].eventfd().expect("an fd");
    let mut python = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/eventfd_asyncio.py"))
        .stdin(Stdio::from(fd))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is on the path: `cargo xtask test` installs it");
    let mut said = std::io::BufReader::new(python.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
    assert_eq!(line, "waiting\n");
    let begin = Instant::now();
    bench.fail(1, ErrorCode::Io, cause().0);
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
    assert_eq!((line.as_str(), python.wait().expect("it ends").success()), ("ended\n", true));
    assert!(begin.elapsed() < SOON / 4, "{:?}", begin.elapsed());
    assert!(fences[0].has_ended());
}

#[test]
fn an_eventfd_that_was_closed_costs_its_fence_nothing() {
    let bench = bench();
    let fences = bench.jobs(1);
    drop(fences[0].eventfd().expect("an fd"));
    let kept = fences[0].eventfd().expect("an fd").as_fd().try_clone_to_owned().expect("another");
    bench.end(1);
    assert!(readable(&kept, SOON / 40) && fences[0].wait(SOON).is_ok());
}
