//! Batches and fences, against a broker made for tests.

mod support;

use std::time::{Duration, Instant};

use support::{FakeBroker, Mood, SOON, cause};
use vgem::{
    Buffer, CauseId, CellWord, Client, Deadline, Error, ErrorCode, FenceError, FenceState, LocalError,
    NthError, Queue, Submitted, wait_all, wait_any,
};
use vgem_os::fence::Woke;
use vgem_proto::ids::{Handle, Point, QueueHandle};
use vgem_proto::jobs::{JOB_EXPLICIT, JOB_RUN_ANYWAY, OPERAND_DISCARD, OPERAND_INDIRECT, ParamSource};
use vgem_proto::limits;
use vgem_proto::rights::{Access, WaitKind};

/// A client with one queue and two buffers of 8 KiB.
struct Bench {
    broker: FakeBroker,
    client: Client,
    queue: Queue,
    a: Buffer,
    b: Buffer,
}

fn bench() -> Bench {
    bench_of(Mood::Honest)
}

fn bench_of(mood: Mood) -> Bench {
    let (broker, client) = FakeBroker::with_client_of(mood);
    let queue = client.device("zip").expect("it is there").queue(16).expect("a queue");
    broker.publish(0);
    let (a, b) = (client.create(8192).expect("memory"), client.create(8192).expect("memory"));
    Bench { broker, client, queue, a, b }
}

impl Bench {
    fn compress(&self) -> Submitted {
        let mut batch = self.client.batch();
        batch.job(&self.queue, "compress").input(&self.a).output(&self.b);
        batch.submit().expect("sent")
    }

    fn mix(&self, buffer: &Buffer) -> Submitted {
        let mut batch = self.client.batch();
        batch.job(&self.queue, "mix").inout(buffer);
        batch.submit().expect("sent")
    }
}

/// Which of several waits failed, and how.
fn nth(outcome: Result<(), NthError>) -> (usize, String) {
    let NthError { index, error } = outcome.expect_err("one failed");
    (index, word(Err(error)))
}

/// What became of a wait, in a form that can be compared.
fn word(outcome: Result<(), FenceError>) -> String {
    match outcome {
        Ok(()) => "ok".into(),
        Err(FenceError::Failed(failure)) => failure.code.name().into(),
        Err(FenceError::Timeout { .. }) => "timeout".into(),
        Err(_) => "lost".into(),
    }
}

#[test]
fn a_job_is_written_down_as_the_wire_wants_it() {
    let bench = bench();
    let cells = bench.client.cells(4).expect("memory");
    let mut batch = bench.client.batch();
    batch
        .job(&bench.queue, "compress")
        .input(bench.a.slice(16..116))
        .output(&bench.b)
        .param("level", 9)
        .param("format", "gzip")
        .param("comment", "abc")
        .result(cells.at(2))
        .timeout(Duration::from_millis(5));
    batch.submit().expect("sent");
    let sent = bench.broker.batch();
    let job = sent.jobs[0];
    assert_eq!((job.op, job.point, job.queue, job.run_ns), (3, Point(1), QueueHandle(1), 5_000_000));
    assert_eq!((job.operands, job.params, job.waits, job.flags), (3, 3, 0, 0));
    let operands: Vec<_> =
        sent.operands.iter().map(|o| (o.number, o.object, o.offset, o.len, o.access, o.flags)).collect();
    assert_eq!(
        operands,
        [
            (0, bench.a.handle(), 16, 100, Access::Read, 0),
            (1, bench.b.handle(), 0, 8192, Access::Write, OPERAND_DISCARD),
            (3, cells.buffer().handle(), 128, 64, Access::Write, OPERAND_DISCARD),
        ]
    );
    let params: Vec<_> = sent.params.iter().map(|p| (p.number, p.source, p.value, p.len)).collect();
    let by_value = ParamSource::Value;
    assert_eq!(params, [(1, by_value, 9, 0), (0, by_value, 0, 0), (2, ParamSource::Bytes, 0, 3)]);
    assert_eq!(sent.bytes, b"abc");
}

#[test]
fn lengths_and_parameters_come_from_cells() {
    let bench = bench();
    let cells = bench.client.cells(2).expect("memory");
    let mut batch = bench.client.batch();
    batch
        .job(&bench.queue, "compress")
        .input_from(&bench.a, cells.at(1), CellWord::Produced)
        .output(&bench.b)
        .param_from("level", cells.at(0), CellWord::Value, 22);
    batch.submit().expect("sent");
    let sent = bench.broker.batch();
    let (operand, param, cell) = (sent.operands[0], sent.params[0], cells.buffer().handle());
    assert_eq!((operand.flags, operand.len), (OPERAND_INDIRECT, 8192));
    assert_eq!((operand.cell_object, operand.cell_offset, operand.cell_word), (cell, 64, 0));
    assert_eq!((param.source, param.cell_object, param.value), (ParamSource::Cell, cell, 0));
    assert_eq!((param.cell_word, param.max), (1, 22));
}

#[test]
fn operands_may_be_named() {
    let bench = bench();
    let mut batch = bench.client.batch();
    batch
        .job(&bench.queue, "compress")
        .operand("dictionary", bench.a.slice(..16))
        .input(bench.a.slice(16..))
        .output(&bench.b);
    batch.submit().expect("sent");
    let numbers: Vec<_> = bench.broker.batch().operands.iter().map(|operand| operand.number).collect();
    assert_eq!(numbers, [2, 0, 1]);
}

#[test]
fn resolved_names_make_the_same_message() {
    let bench = bench();
    let op = bench.client.device("zip").and_then(|zip| zip.op("compress")).expect("it is there");
    let (level, format) = (op.param("level").expect("there"), op.param("format").expect("there"));
    let (input, gzip) = (op.operand("input").expect("there"), op.word("format", "gzip").expect("there"));
    let mut batch = bench.client.batch();
    batch
        .job(&bench.queue, &op)
        .operand(input, &bench.a)
        .output(&bench.b)
        .param(level, 4)
        .param(format, gzip);
    batch.submit().expect("sent");
    batch
        .job(&bench.queue, "compress")
        .input(&bench.a)
        .output(&bench.b)
        .param("level", 4)
        .param("format", "gzip");
    batch.submit().expect("sent");
    let (mut first, second) = (bench.broker.batch(), bench.broker.batch());
    first.jobs[0].point = Point(2);
    assert_eq!(first, second);
}

#[test]
fn waits_name_fences_and_jobs_of_the_same_batch() {
    let bench = bench();
    let before = bench.mix(&bench.a).last().clone();
    bench.broker.batch();
    let mut batch = bench.client.batch();
    let first = batch.job(&bench.queue, "mix").inout(&bench.a).after(&before).id();
    batch.job(&bench.queue, "mix").inout(&bench.b).behind(first).explicit().run_anyway();
    batch.submit().expect("sent");
    let sent = bench.broker.batch();
    let waits: Vec<_> = sent.waits.iter().map(|wait| (wait.point, wait.kind)).collect();
    assert_eq!(waits, [(Point(1), WaitKind::Data), (Point(2), WaitKind::Order)]);
    assert_eq!(sent.jobs[1].flags, JOB_EXPLICIT | JOB_RUN_ANYWAY);
}

#[test]
fn the_first_mistake_is_reported_and_nothing_is_sent() {
    let bench = bench();
    let before = bench.client.counters().messages_sent;
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "shrink").input(&bench.a);
    batch.job(&bench.queue, "compress").param("strength", 1);
    let refused = batch.submit().map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("zip has no operation \"shrink\"; it has compress, mix".into()));
    assert!(batch.is_empty() && bench.client.counters().messages_sent == before);
}

#[test]
fn each_mistake_has_its_own_words() {
    let bench = bench();
    let said = |write: &dyn Fn(&mut vgem::Batch)| {
        let mut batch = bench.client.batch();
        write(&mut batch);
        batch.submit().map(drop).map_err(|error| error.to_string()).expect_err("a mistake")
    };
    let queue = &bench.queue;
    let compress = |batch: &mut vgem::Batch, name: &str, value| {
        batch.job(queue, "compress").param(name, value);
    };
    assert_eq!(
        said(&|batch| compress(batch, "strength", 1)),
        "compress has no parameter \"strength\"; it has format, level, comment"
    );
    assert_eq!(said(&|batch| compress(batch, "level", -1)), "parameter \"level\" of compress: -1 is below 0");
    let brotli = said(&|batch| {
        batch.job(queue, "compress").param("format", "brotli");
    });
    assert_eq!(brotli, "parameter \"format\" of compress: \"brotli\" is none of gzip, zstd");
    let outputs = said(&|batch| {
        batch.job(queue, "mix").output(&bench.a);
    });
    assert_eq!(outputs, "mix has no further operand that is written; its operands are data");
    let range = said(&|batch| {
        batch.job(queue, "mix").inout(bench.a.slice(8000..9000));
    });
    assert_eq!(range, "bytes 8000..9000 leave a buffer of 8192 bytes");
    assert_eq!(said(&|_| {}), "the batch has no job");
}

#[test]
fn things_of_another_client_are_refused() {
    let (one, other) = (bench(), bench());
    let mut batch = one.client.batch();
    batch.job(&one.queue, "mix").inout(&other.a);
    assert!(matches!(batch.submit(), Err(Error::Local(LocalError::Foreign { what: "buffer" }))));
    batch.job(&other.queue, "mix").inout(&one.a);
    assert!(matches!(batch.submit(), Err(Error::Local(LocalError::Foreign { what: "queue" }))));
    let fence = other.mix(&other.a).last().clone();
    batch.job(&one.queue, "mix").inout(&one.a).after(&fence);
    assert!(matches!(batch.submit(), Err(Error::Local(LocalError::Foreign { what: "fence" }))));
}

#[test]
fn a_batch_too_large_for_one_message_is_refused_with_its_size_and_nothing_is_sent() {
    let bench = bench();
    let before = bench.client.counters().messages_sent;
    let mut batch = bench.client.batch();
    while batch.message_len() <= limits::MESSAGE_LEN {
        let mut job = batch.job(&bench.queue, "compress");
        for _ in 0..limits::JOB_OPERANDS {
            job = job.operand("input", bench.a.slice(..64));
        }
    }
    let len = batch.message_len() as u64;
    let refused = batch.submit().expect_err("too large");
    let limit = limits::MESSAGE_LEN as u64;
    assert!(
        matches!(&refused, Error::Local(LocalError::BatchTooLarge { len: said, limit: of }) if (*said, *of) == (len, limit))
    );
    assert_eq!((bench.client.counters().messages_sent, bench.queue.last().is_none()), (before, true));
}

#[test]
fn the_size_of_a_message_is_known_before_it_is_sent() {
    use vgem_proto::ids::Time;
    let bench = bench();
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "compress").input(&bench.a).output(&bench.b).param("comment", "abc");
    let said = batch.message_len();
    batch.submit().expect("sent");
    assert_eq!(said, bench.broker.batch().encode(1, Time(1), 0).len());
}

#[test]
fn a_batch_that_could_not_be_sent_uses_no_point() {
    let mut bench = bench();
    bench.broker.hang_up();
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(&bench.a);
    assert!(matches!(batch.submit(), Err(Error::BrokerLost { .. })));
    assert!(bench.queue.last().is_none());
    assert!(bench.a.try_write(..).expect("no failure").is_some(), "a use was left behind");
}

#[test]
fn points_count_the_jobs_of_a_queue() {
    let bench = bench();
    let mut batch = bench.client.batch();
    for _ in 0..3 {
        batch.job(&bench.queue, "mix").inout(&bench.a);
    }
    let fences = batch.submit().expect("sent");
    let points: Vec<_> = fences.fences().iter().map(|fence| fence.point().0).collect();
    assert_eq!((points, bench.compress().last().point()), (vec![1, 2, 3], Point(4)));
}

#[test]
fn submitting_awaits_no_answer() {
    let bench = bench();
    let before = bench.client.counters();
    for _ in 0..10 {
        bench.compress();
    }
    let after = bench.client.counters();
    assert_eq!(after.messages_sent - before.messages_sent, 10);
    assert_eq!(after.messages_received, before.messages_received);
}

#[test]
fn an_acknowledged_batch_was_accepted() {
    let bench = bench();
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(&bench.a);
    assert_eq!(batch.submit_acknowledged().expect("accepted").last().point(), Point(1));
}

#[test]
fn an_acknowledged_batch_that_is_refused_says_why() {
    let bench = bench_of(Mood::RefuseBatches);
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(&bench.a);
    let refused = batch.submit_acknowledged().map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("job 0: exhausted: too much of it".into()));
}

#[test]
fn a_pipelined_batch_that_is_refused_fails_its_fence_and_explains_it() {
    let bench = bench_of(Mood::RefuseBatches);
    let fence = bench.compress().last().clone();
    // Answers come in order: after this one the refusal is here.
    bench.client.devices().expect("a list");
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Refused, CauseId(99));
    let said = fence.wait(SOON).map_err(|error| error.to_string());
    assert_eq!(said, Err("zip: job 1 failed: refused (cause:0.99): job 0: exhausted: too much of it".into()));
}

#[test]
fn refusals_nobody_waits_for_are_read_in_passing() {
    let bench = bench_of(Mood::RefuseBatches);
    let before = bench.client.counters().messages_received;
    for _ in 0..300 {
        bench.mix(&bench.a);
        bench.broker.batch();
    }
    assert!(bench.client.counters().messages_received - before >= 128, "{:?}", bench.client.counters());
}

#[test]
fn a_signal_wakes_the_sleeper_once() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| fence.wait(SOON));
        while bench.client.counters().sleeps == 0 {
            std::thread::yield_now();
        }
        let _woke: Woke = bench.broker.signal(0, 1);
        assert_eq!(word(waiting.join().expect("no panic")), "ok");
    });
    assert!(bench.client.counters().wakeups <= 1, "{:?}", bench.client.counters());
}

#[test]
fn a_signal_nobody_sleeps_for_costs_no_system_call() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    assert_eq!(bench.broker.signal(0, 1), Woke::Nobody);
    assert!(matches!(fence.state(), FenceState::Done { .. }) && bench.client.counters().sleeps == 0);
}

#[test]
fn interest_is_gone_when_the_last_waiter_is() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    assert_eq!(word(fence.wait(Duration::from_millis(1))), "timeout");
    assert_eq!(bench.broker.signal(0, 1), Woke::Nobody);
}

#[test]
fn a_wait_without_time_only_looks() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    assert_eq!(word(fence.wait(Deadline::NOW)), "timeout");
    assert_eq!(bench.client.counters().sleeps, 0);
}

#[test]
fn f7_a_waiter_that_gave_up_leaves_the_fence_good() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    assert_eq!(word(fence.wait(Duration::from_millis(1))), "timeout");
    let _woke: Woke = bench.broker.signal(0, 1);
    assert_eq!(word(fence.wait(SOON)), "ok");
}

#[test]
fn a_failed_job_names_device_cause_and_detail() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::OutputTooSmall, cause());
    let said = fence.wait(SOON).map_err(|error| error.to_string()).expect_err("it failed");
    assert_eq!(
        said,
        "zip: job 1 failed: output does not fit (cause:3.7): zip: needs 90 bytes, has 10 (pid 321)"
    );
}

#[test]
fn t5_a_later_success_does_not_hide_a_failure() {
    let bench = bench();
    let (first, second) = (bench.mix(&bench.a).last().clone(), bench.mix(&bench.b).last().clone());
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Io, cause());
    let _woke: Woke = bench.broker.signal(0, 2);
    assert_eq!((word(first.wait(SOON)), word(second.wait(SOON))), ("Io".into(), "ok".into()));
}

#[test]
fn a_failure_that_fell_out_of_the_page_is_still_a_failure() {
    let bench = bench();
    let first = bench.mix(&bench.a).last().clone();
    for point in 1..=10 {
        let _woke: Woke = bench.broker.fail(0, point, ErrorCode::Io, cause());
    }
    assert_eq!(first.state(), FenceState::Forgotten);
    assert!(matches!(first.wait(SOON), Err(FenceError::Failed(_))));
}

#[test]
fn a_dead_driver_ends_every_wait() {
    let bench = bench();
    let fences: Vec<_> = (0..3).map(|_| bench.compress().last().clone()).collect();
    std::thread::scope(|threads| {
        let waiting: Vec<_> = fences.iter().map(|fence| threads.spawn(|| fence.wait(SOON))).collect();
        while bench.client.counters().sleeps < 3 {
            std::thread::yield_now();
        }
        bench.broker.kill_page(cause());
        for thread in waiting {
            assert_eq!(word(thread.join().expect("no panic")), "DeviceLost");
        }
    });
}

#[test]
fn a_dead_broker_ends_every_wait_soon() {
    let mut bench = bench();
    let fences: Vec<_> = (0..3).map(|_| bench.compress().last().clone()).collect();
    let (client, broker) = (&bench.client, &mut bench.broker);
    std::thread::scope(|threads| {
        let waiting: Vec<_> = fences.iter().map(|fence| threads.spawn(|| fence.wait(SOON))).collect();
        while client.counters().sleeps < 3 {
            std::thread::yield_now();
        }
        let begin = Instant::now();
        broker.hang_up();
        for thread in waiting {
            assert_eq!(word(thread.join().expect("no panic")), "lost");
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_point_that_was_signalled_before_the_broker_died_is_done() {
    let mut bench = bench();
    let fence = bench.compress().last().clone();
    let _woke: Woke = bench.broker.signal(0, 1);
    bench.broker.hang_up();
    assert_eq!(word(fence.wait(SOON)), "ok");
}

#[test]
fn many_threads_that_wait_on_one_page_all_come_back() {
    let bench = bench();
    let fences: Vec<_> = (0..40).map(|_| bench.compress().last().clone()).collect();
    std::thread::scope(|threads| {
        let waiting: Vec<_> = fences.iter().map(|fence| threads.spawn(|| fence.wait(SOON))).collect();
        for point in 1..=40 {
            let _woke: Woke = bench.broker.signal(0, point);
            if point % 8 == 0 {
                std::thread::yield_now();
            }
        }
        let ended: Vec<_> =
            waiting.into_iter().map(|thread| word(thread.join().expect("no panic"))).collect();
        assert!(ended.iter().all(|one| one == "ok"), "{ended:?}");
    });
}

#[test]
fn the_leader_wakes_a_follower_whose_point_comes_first() {
    let bench = bench();
    let (first, second) = (bench.compress().last().clone(), bench.compress().last().clone());
    std::thread::scope(|threads| {
        let leader = threads.spawn(|| second.wait(SOON));
        while bench.client.counters().sleeps < 1 {
            std::thread::yield_now();
        }
        let follower = threads.spawn(|| first.wait(SOON));
        while bench.client.counters().sleeps < 2 {
            std::thread::yield_now();
        }
        let begin = Instant::now();
        assert_eq!(bench.broker.signal(0, 1), Woke::Sleeper);
        assert_eq!(word(follower.join().expect("no panic")), "ok");
        // A follower nobody rings would look again only after its slice.
        assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
        assert!(!leader.is_finished());
        let _woke: Woke = bench.broker.signal(0, 2);
        assert_eq!(word(leader.join().expect("no panic")), "ok");
    });
}

#[test]
fn a_leader_that_gives_up_leaves_the_others_led() {
    let bench = bench();
    let fence = bench.compress().last().clone();
    std::thread::scope(|threads| {
        let leader = threads.spawn(|| fence.wait(Duration::from_millis(30)));
        while bench.client.counters().sleeps < 1 {
            std::thread::yield_now();
        }
        let follower = threads.spawn(|| fence.wait(SOON));
        assert_eq!(word(leader.join().expect("no panic")), "timeout");
        let begin = Instant::now();
        let _woke: Woke = bench.broker.signal(0, 1);
        assert_eq!(word(follower.join().expect("no panic")), "ok");
        // A follower nobody leads would look again only after its slice.
        assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
    });
}

#[test]
fn waiting_for_any_names_the_one_that_ended() {
    let bench = bench();
    let other = bench.client.device("zip").and_then(|zip| zip.queue(4)).expect("a queue");
    bench.broker.publish(1);
    let first = bench.compress().last().clone();
    let mut batch = bench.client.batch();
    batch.job(&other, "mix").inout(&bench.a);
    let fences = [first, batch.submit().expect("sent").last().clone()];
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| wait_any(&fences, SOON));
        while bench.client.counters().sleeps == 0 {
            std::thread::yield_now();
        }
        let _woke: Woke = bench.broker.signal(1, 1);
        assert_eq!(waiting.join().expect("no panic").expect("one ended"), Some(1));
    });
}

#[test]
fn who_waits_for_any_passes_a_wake_up_on() {
    let bench = bench();
    let other = bench.client.device("zip").and_then(|zip| zip.queue(4)).expect("a queue");
    bench.broker.publish(1);
    let begin = Instant::now();
    for round in 0..20 {
        let first = bench.mix(&bench.a).last().clone();
        let mut batch = bench.client.batch();
        batch.job(&other, "mix").inout(&bench.b);
        let fences = [bench.mix(&bench.a).last().clone(), batch.submit().expect("sent").last().clone()];
        let asleep = bench.client.counters().sleeps;
        std::thread::scope(|threads| {
            let any = threads.spawn(|| wait_any(&fences, SOON));
            while bench.client.counters().sleeps == asleep {
                std::thread::yield_now();
            }
            let one = threads.spawn(|| first.wait(SOON));
            while bench.client.counters().sleeps == asleep + 1 {
                std::thread::yield_now();
            }
            // Both sleep on one doorbell, and the signal wakes one of them.
            let _woke: Woke = bench.broker.signal(0, 2 * round + 1);
            assert_eq!(word(one.join().expect("no panic")), "ok");
            let _woke: Woke = bench.broker.signal(0, 2 * round + 2);
            assert_eq!(any.join().expect("no panic").expect("one ended"), Some(0));
            let _woke: Woke = bench.broker.signal(1, round + 1);
        });
    }
    // A wake-up that is lost costs a tenth of a second.
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn a_dead_broker_ends_the_waits_of_all_threads_within_a_tenth_of_a_second() {
    let mut bench = bench();
    let fence = bench.compress().last().clone();
    let any = [fence.clone(), bench.compress().last().clone()];
    std::thread::scope(|threads| {
        let mut waiting: Vec<_> = (0..8).map(|_| threads.spawn(|| word(fence.wait(SOON)))).collect();
        waiting.push(threads.spawn(|| word(wait_any(&any, SOON).map(drop).map_err(FenceError::from))));
        while bench.client.counters().sleeps < 9 {
            std::thread::yield_now();
        }
        bench.broker.hang_up();
        let begin = Instant::now();
        for wait in waiting {
            assert_eq!(wait.join().expect("no panic"), "lost");
        }
        // Nobody learns of it a round later because another was just looking.
        assert!(begin.elapsed() < Duration::from_millis(180), "{:?}", begin.elapsed());
    });
}

#[test]
fn waiting_for_all_reports_the_first_failure_after_all_have_ended() {
    let bench = bench();
    let fences: Vec<_> = (0..3).map(|_| bench.compress().last().clone()).collect();
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Io, cause());
    assert_eq!(nth(wait_all(&fences, Deadline::NOW)), (1, "timeout".into()));
    let _woke: Woke = bench.broker.signal(0, 3);
    assert_eq!(nth(wait_all(&fences, SOON)), (0, "Io".into()));
}

#[test]
fn c1_a_read_guard_waits_for_the_job_that_writes() {
    let bench = bench();
    bench.compress();
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| bench.b.read(.., SOON).map(|guard| guard.len()));
        while bench.client.counters().sleeps == 0 {
            std::thread::yield_now();
        }
        let _woke: Woke = bench.broker.signal(0, 1);
        assert_eq!(reading.join().expect("no panic").expect("it ended"), 8192);
    });
}

#[test]
fn c1_a_read_guard_does_not_wait_for_a_job_that_reads_and_a_write_guard_does() {
    let bench = bench();
    bench.compress();
    assert!(bench.a.try_read(..).expect("no failure").is_some());
    assert!(bench.a.try_write(..).expect("no failure").is_none());
}

#[test]
fn guards_wait_for_their_own_bytes_alone() {
    let bench = bench();
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(bench.a.slice(..4096));
    batch.submit().expect("sent");
    assert!(bench.a.try_write(4096..).expect("no failure").is_some());
    assert!(bench.a.try_write(4095..).expect("no failure").is_none());
}

#[test]
fn c2_a_job_over_bytes_under_a_guard_is_refused() {
    let bench = bench();
    let guard = bench.b.read(100..200, SOON).expect("nobody uses it");
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "compress").input(&bench.a).output(&bench.b);
    let refused = batch.submit().map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("bytes 100..200 of a buffer are under a guard; drop it first".into()));
    assert!(bench.queue.last().is_none() && bench.a.try_write(..).expect("no failure").is_some());
    drop(guard);
    assert_eq!(bench.compress().last().point(), Point(1));
}

#[test]
fn a_job_that_reads_may_read_beside_a_read_guard() {
    let bench = bench();
    let guard = bench.a.read(.., SOON).expect("nobody uses it");
    assert_eq!(bench.compress().last().point(), Point(1));
    drop(guard);
}

#[test]
fn a_failed_write_fails_the_read_guard_until_the_bytes_are_written_again() {
    let bench = bench();
    bench.compress();
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Io, cause());
    let failed = bench.b.read(.., SOON).map(drop);
    assert!(matches!(&failed, Err(Error::Job(failure)) if failure.explanation.is_some()), "{failed:?}");
    drop(bench.b.write(.., SOON).expect("a writer does not mind"));
    assert!(bench.b.read(.., SOON).is_err(), "nothing was written");
    bench.b.write(.., SOON).expect("a writer does not mind").fill(0);
    assert!(bench.b.read(.., SOON).is_ok());
}

#[test]
fn a_later_job_that_writes_the_bytes_again_makes_up_for_a_failed_one() {
    let bench = bench();
    bench.compress();
    bench.compress();
    let _woke: Woke = bench.broker.fail(0, 1, ErrorCode::Io, cause());
    let _woke: Woke = bench.broker.signal(0, 2);
    assert!(bench.b.read(.., SOON).is_ok());
}

#[test]
fn a_buffer_in_a_batch_outlives_its_owner_until_it_is_sent() {
    use vgem_proto::message::client::ClientMessage;
    let Bench { broker, client, queue, a, b } = bench();
    let handle: Handle = a.handle();
    let mut batch = client.batch();
    batch.job(&queue, "compress").input(&a).output(&b);
    drop(a);
    assert!(!broker.requests.try_iter().any(|message| matches!(message, ClientMessage::CloseObject(_))));
    batch.submit().expect("sent");
    let closed = broker.request(|message| match message {
        ClientMessage::CloseObject(close) => Some(close.object),
        _ => None,
    });
    assert_eq!((closed, broker.batch().operands[0].object), (handle, handle));
}

#[test]
fn a_queue_closes_when_its_last_fence_goes() {
    use vgem_proto::message::client::ClientMessage;
    let Bench { broker, client, queue, a, b } = bench();
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&a);
    let fences = batch.submit().expect("sent");
    let _woke: Woke = broker.signal(0, 1);
    drop((queue, batch));
    fences.wait(SOON).expect("done");
    assert!(!broker.requests.try_iter().any(|message| matches!(message, ClientMessage::CloseQueue(_))));
    drop((fences, a, b));
    broker.request(|message| matches!(message, ClientMessage::CloseQueue(_)).then_some(()));
}

#[test]
fn a_cell_reads_zero_until_it_is_written() {
    let bench = bench();
    let cells = bench.client.cells(3).expect("memory");
    let cell = cells.read(2);
    assert_eq!((cell.produced(), cell.value(), cell.digest()), (0, 0, [0; 32]));
}

#[test]
fn a_cell_that_is_not_there_is_refused() {
    let bench = bench();
    let cells = bench.client.cells(3).expect("memory");
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "compress").input(&bench.a).output(&bench.b).result(cells.at(3));
    let refused = batch.submit();
    assert!(matches!(&refused, Err(Error::Local(LocalError::OutOfRange { offset: 192, .. }))), "{refused:?}");
}

#[test]
fn a_batch_without_room_fails_with_all_that_was_sent_after_it_and_numbering_begins_anew() {
    let bench = bench_of(Mood::NoRoomOnce);
    let (first, second) = (bench.mix(&bench.a).last().clone(), bench.mix(&bench.b).last().clone());
    let said = second.wait(SOON).map_err(|error| error.to_string()).expect_err("there was no room");
    assert_eq!(said, "zip: job 2 failed: refused: job 0: exhausted: too much of it");
    assert_eq!(word(first.wait(SOON)), "Refused");
    let third = bench.mix(&bench.a).last().clone();
    assert_eq!(third.point(), Point(1));
    let _woke: Woke = bench.broker.signal(0, 1);
    assert_eq!((word(third.wait(SOON)), word(first.wait(SOON))), ("ok".into(), "Refused".into()));
}

#[test]
fn an_acknowledged_batch_without_room_leaves_its_points_to_the_next() {
    let bench = bench_of(Mood::NoRoomOnce);
    let mut batch = bench.client.batch();
    batch.job(&bench.queue, "mix").inout(&bench.a);
    assert!(matches!(batch.submit_acknowledged(), Err(Error::Refused(_))));
    batch.job(&bench.queue, "mix").inout(&bench.a);
    assert_eq!(batch.submit_acknowledged().expect("accepted").last().point(), Point(1));
}

#[test]
fn a_use_of_a_job_that_never_was_holds_up_no_guard() {
    let bench = bench_of(Mood::NoRoomOnce);
    bench.mix(&bench.a);
    drop(bench.a.write(.., SOON).expect("the job never was"));
}
