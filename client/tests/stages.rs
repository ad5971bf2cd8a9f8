//! What the CPU does on buffers: guards that tell what they have healed, and stages, against a broker made for tests.

mod support;

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use support::{FakeBroker, SOON, cause};
use vgem::{
    Access, Batch, Buffer, CauseId, Client, Error, ErrorCode, FenceError, LocalError, Point, Queue, Timeline,
};
use vgem_os::fence::Woke;
use vgem_proto::ids::Handle;
use vgem_proto::message::client::{ClientMessage, Rewritten};

const P1: Point = Point(1);
const P2: Point = Point(2);
const MOMENT: Duration = Duration::from_millis(20);

/// A client with a queue, a buffer of 8 KiB, and a timeline of its own.
struct Bench {
    broker: FakeBroker,
    client: Client,
    queue: Queue,
    buffer: Buffer,
    stages: Timeline,
}

fn bench() -> Bench {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(16).expect("a queue");
    broker.publish(0);
    let buffer = client.create(8192).expect("memory");
    let stages = client.timeline("stages").expect("a timeline");
    Bench { broker, client, queue, buffer, stages }
}

/// The ranges that the broker was told are good again, until now.
fn healed(broker: &FakeBroker, client: &Client) -> Vec<(Handle, u64, u64)> {
    client.devices().expect("an answer: all that was sent before has come");
    let told = broker.requests.try_iter().filter_map(|message| match message {
        ClientMessage::Rewritten(Rewritten { object, offset, len }) => Some((object, offset, len)),
        _ => None,
    });
    told.collect()
}

fn local(refused: Result<vgem::Submitted, Error>) -> LocalError {
    match refused {
        Err(Error::Local(local)) => local,
        other => panic!("{other:?}"),
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

fn mix(batch: &mut Batch, bench: &Bench) {
    batch.job(&bench.queue, "mix").inout(&bench.buffer);
}

#[test]
fn c1_a_write_guard_over_poisoned_bytes_tells_the_broker_that_they_are_good() {
    let bench = bench();
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(bench.buffer.slice(..4096));
    batch.submit().expect("sent");
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Io, cause());
    assert!(bench.buffer.read(..10, SOON).is_err());
    bench.buffer.write(4096.., SOON).expect("nobody uses it").fill(1);
    assert!(healed(&bench.broker, &bench.client).is_empty(), "nothing was wrong with these");
    bench.buffer.write(..4096, SOON).expect("the job has ended").fill(1);
    let healed = healed(&bench.broker, &bench.client);
    assert_eq!(healed, [(bench.buffer.handle(), 0, 4096)]);
    assert!(bench.buffer.read(..10, SOON).is_ok());
}

#[test]
fn c1_a_write_guard_over_what_another_client_poisoned_tells_so_too() {
    let bench = bench();
    bench.buffer.export(Access::Write).expect("an fd");
    bench.broker.sharing.poison(0..4096, ErrorCode::Io, CauseId(9));
    bench.buffer.write(100..200, SOON).expect("nobody uses it").fill(1);
    assert_eq!(healed(&bench.broker, &bench.client), [(bench.buffer.handle(), 100, 100)]);
}

#[test]
fn c1_a_guard_that_wrote_nothing_or_panicked_heals_nothing() {
    let bench = bench();
    bench.buffer.export(Access::Write).expect("an fd");
    bench.broker.sharing.poison(0..4096, ErrorCode::Io, CauseId(9));
    drop(bench.buffer.write(.., SOON).expect("nobody uses it"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = bench.buffer.write(.., SOON).expect("nobody uses it");
        guard[0] = 1;
        panic!("half way");
    }));
    assert!(panicked.is_err() && healed(&bench.broker, &bench.client).is_empty());
    assert!(bench.buffer.read(.., SOON).is_err(), "nothing is better than it was");
}

#[test]
fn c1_a_stage_waits_for_the_bytes_promises_its_point_and_signals_it_when_it_ends() {
    let mut bench = bench();
    let mut batch = bench.client.batch();
    mix(&mut batch, &bench);
    let job = batch.submit().expect("sent").last().clone();
    let Bench { broker, client, buffer, stages, .. } = &mut bench;
    let early = buffer.write_for(stages, .., SOON, MOMENT).map(drop);
    assert!(matches!(early, Err(Error::Timeout { .. })) && stages.promised() == Point(0), "{early:?}");
    assert!(buffer.try_write_for(stages, .., SOON).expect("nothing failed").is_none());
    let _woke: Woke = broker.signal(0, 1);
    let mut stage = buffer.write_for(stages, .., SOON, SOON).expect("the job has ended");
    stage.fill(7);
    assert!(job.has_ended());
    let point = stage.point();
    assert_eq!(word(point.wait(MOMENT)), "timeout");
    stage.publish().expect("in time");
    client.devices().expect("an answer: what was sent before has come");
    assert_eq!((word(point.wait(SOON)), broker.timelines.promised(0)), ("ok".into(), P1));
    drop(buffer.write_for(stages, .., SOON, SOON).expect("free"));
    assert_eq!(broker.timelines.signalled(0), 2, "dropping signals too");
}

#[test]
fn a_stage_takes_points_that_were_promised_ahead() {
    let mut bench = bench();
    let Bench { broker, client, buffer, stages, .. } = &mut bench;
    stages.promise(P2, SOON).expect("promised");
    drop(buffer.write_for(stages, .., SOON, SOON).expect("free"));
    drop(buffer.read_for(stages, .., SOON, SOON).expect("free"));
    drop(buffer.read_for(stages, .., SOON, SOON).expect("free"));
    client.devices().expect("an answer");
    let promises = broker.requests.try_iter().filter(|message| matches!(message, ClientMessage::Promise(_)));
    assert_eq!((promises.count(), stages.signalled()), (2, Point(3)));
}

#[test]
fn a_job_that_comes_after_a_stage_is_submitted_while_it_is_held() {
    let mut bench = bench();
    let Bench { broker, client, queue, buffer, stages } = &mut bench;
    let mut stage = buffer.write_for(stages, ..4096, SOON, SOON).expect("free");
    let mut batch = client.batch();
    batch.job(queue, "mix").inout(&*buffer).after(&stage.point());
    let job = batch.submit().expect("it comes after the stage").last().clone();
    stage.fill(9);
    let sent = broker.batch();
    assert_eq!((sent.waits[0].timeline.0, sent.waits[0].point), (100, P1));
    drop(stage);
    let _woke: Woke = broker.signal(0, 1);
    assert!(job.wait(SOON).is_ok() && buffer.read(.., SOON).expect("it ended")[0] == 9);
}

#[test]
fn c2_a_job_that_might_run_under_a_stage_is_refused() {
    let mut bench = bench();
    let Bench { client, queue, buffer, stages, .. } = &mut bench;
    let stage = buffer.write_for(stages, ..4096, SOON, SOON).expect("free");
    let mut batch = client.batch();
    batch.job(queue, "mix").inout(&*buffer);
    let refused = local(batch.submit());
    assert_eq!(refused, LocalError::StageHeld { offset: 0, len: 4096, point: P1 });
    batch.job(queue, "mix").inout(&*buffer).behind(&stage.point());
    assert_eq!(local(batch.submit()), refused, "a broken promise counts as done for an order");
    batch.job(queue, "mix").inout(&*buffer).after(&stage.point()).run_anyway();
    assert_eq!(local(batch.submit()), refused, "and for who runs anyway");
    let first = batch.job(queue, "mix").inout(buffer.slice(4096..)).after(&stage.point()).id();
    batch.job(queue, "mix").inout(&*buffer).after(first);
    assert_eq!(local(batch.submit()), refused, "the first may be cancelled");
    batch.job(queue, "mix").inout(buffer.slice(4096..));
    batch.submit().expect("these bytes are free");
}

#[test]
fn c2_a_stage_that_reads_keeps_writers_away_and_nobody_else() {
    let mut bench = bench();
    let Bench { client, queue, buffer, stages, .. } = &mut bench;
    let other = client.create(4096).expect("memory");
    let stage = buffer.read_for(stages, .., SOON, SOON).expect("free");
    let mut batch = client.batch();
    batch.job(queue, "compress").input(&*buffer).output(&other);
    batch.submit().expect("a reader is welcome");
    batch.job(queue, "mix").inout(&*buffer);
    assert!(matches!(local(batch.submit()), LocalError::StageHeld { .. }));
    batch.job(queue, "mix").inout(&*buffer).after(&stage.point());
    batch.submit().expect("it comes after the stage");
}

#[test]
fn c2_the_bytes_of_a_stage_are_had_once_its_point_has_ended_and_not_before() {
    let mut bench = bench();
    let Bench { buffer, stages, .. } = &mut bench;
    for _ in 0..200 {
        let stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
        let point = stage.point();
        std::thread::scope(|threads| {
            let taking = threads.spawn(|| {
                let guard = buffer.write(.., SOON).expect("the stage ends");
                point.has_ended() && guard.len() == 8192
            });
            drop(stage);
            assert!(taking.join().expect("no panic"));
            assert!(buffer.try_write(..).expect("nothing failed").is_some());
        });
    }
}

#[test]
fn a_stage_that_fails_fails_its_point_with_a_cause() {
    let mut bench = bench();
    let Bench { broker, buffer, stages, .. } = &mut bench;
    let stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
    let point = stage.point();
    stage.fail(ErrorCode::CorruptInput, "a torn frame").expect("a cause");
    let failed = point.wait(SOON).expect_err("it failed");
    assert!(matches!(failed, FenceError::Failed(failure) if failure.cause == cause()));
    let told = broker.request(|message| match message {
        ClientMessage::FailPoint(fail) => Some(fail),
        _ => None,
    });
    assert_eq!((told.code, told.text.as_slice()), (ErrorCode::CorruptInput, &b"a torn frame"[..]));
    assert!(buffer.write(.., SOON).is_ok(), "and its bytes are free");
}

#[test]
fn f10_a_stage_that_fails_because_of_its_input_passes_the_cause_on() {
    let mut bench = bench();
    let input = bench.client.create(4096).expect("memory");
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(&input);
    batch.submit().expect("sent");
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::NoSpace, cause());
    let Bench { broker, buffer, stages, .. } = &mut bench;
    let stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
    let point = stage.point();
    let Err(Error::Job(failure)) = input.read(.., SOON) else { panic!("its job failed") };
    stage.fail_as(&failure).expect("the promise was kept until now");
    let failed = point.wait(SOON).expect_err("it failed");
    assert!(
        matches!(failed, FenceError::Failed(one) if (one.code, one.cause) == (ErrorCode::NoSpace, cause()))
    );
    let asked = broker.requests.try_iter().any(|message| matches!(message, ClientMessage::FailPoint(_)));
    assert!(!asked, "the cause is known");
}

#[test]
fn a_stage_whose_thread_panics_fails_its_point() {
    let mut bench = bench();
    let Bench { broker, buffer, stages, .. } = &mut bench;
    let point = stages.promise(P1, SOON).expect("promised");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
        panic!("half way");
    }));
    assert!(panicked.is_err());
    assert_eq!(word(point.wait(SOON)), "DriverFault");
    let told = broker.request(|message| match message {
        ClientMessage::FailPoint(fail) => Some(fail.text),
        _ => None,
    });
    assert_eq!(told, b"its thread panicked");
    let Err(Error::Job(failure)) = buffer.read(.., SOON) else {
        panic!("the bytes are not what they should be")
    };
    assert_eq!((failure.code, failure.cause), (ErrorCode::DriverFault, cause()));
    buffer.write(.., SOON).expect("nobody uses it").fill(0);
    assert!(buffer.read(.., SOON).is_ok());
    stages.signal(P2).expect("the timeline goes on");
}

#[test]
fn a_stage_that_was_too_slow_is_told_so_and_signals_nothing() {
    let mut bench = bench();
    let Bench { broker, buffer, stages, .. } = &mut bench;
    let stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
    broker.timelines.kill(0, 1, ErrorCode::TimedOut, cause());
    let Err(Error::Job(failure)) = stage.publish() else { panic!("its promise was broken") };
    assert_eq!((failure.code, failure.cause), (ErrorCode::TimedOut, cause()));
    assert!(buffer.write_for(stages, .., SOON, SOON).is_err(), "the timeline is over");
    assert!(buffer.write(.., SOON).is_ok(), "and the bytes are free");
    assert_eq!(broker.timelines.signalled(0), 0);
}

#[test]
fn a_stage_over_poisoned_bytes_tells_so_before_jobs_that_come_after_it() {
    let mut bench = bench();
    bench.buffer.export(Access::Write).expect("an fd");
    bench.broker.sharing.poison(0..4096, ErrorCode::Io, CauseId(9));
    let Bench { broker, client, buffer, stages, .. } = &mut bench;
    let mut stage = buffer.write_for(stages, .., SOON, SOON).expect("free");
    assert_eq!(healed(broker, client).len(), 1);
    stage.fill(1);
    drop(stage);
    assert!(healed(broker, client).is_empty(), "once is enough");
}

#[test]
fn c1_a_stage_on_a_shared_buffer_waits_for_what_others_submitted() {
    let mut bench = bench();
    let (near, _far) = UnixStream::pair().expect("a pair");
    bench.buffer.send(&near, Access::Write, SOON).expect("room");
    bench.broker.others_write(0, 1);
    let Bench { broker, buffer, stages, .. } = &mut bench;
    let begin = Instant::now();
    std::thread::scope(|threads| {
        let taking = threads.spawn(|| buffer.write_for(stages, .., SOON, SOON).map(drop));
        std::thread::sleep(MOMENT);
        let _woke: Woke = broker.others_end(0, 1, None);
        taking.join().expect("no panic").expect("it has ended");
    });
    assert!(begin.elapsed() >= MOMENT);
}

#[cfg(feature = "tokio")]
#[test]
fn c1_a_task_has_stages_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (broker, socket) = FakeBroker::pair(support::Mood::Honest);
        let client = vgem::aio::Client::over(socket, &support::options()).await.expect("a greeting");
        let buffer = client.create(4096).await.expect("memory");
        let mut stages = client.timeline("stages").await.expect("a timeline");
        let mut stage = client.write_for(&buffer, &mut stages, .., SOON, SOON).await.expect("free");
        stage.fill(3);
        let point = stage.point();
        drop(stage);
        assert!(point.wait_async(SOON).await.is_ok());
        let stage = client.read_for(&buffer, &mut stages, ..1, SOON, SOON).await.expect("free");
        assert_eq!(stage[0], 3);
        drop(stage);
        assert_eq!(broker.timelines.signalled(0), 2);
    });
}
