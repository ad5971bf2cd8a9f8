//! Failed writes of shared buffers: whom they concern, which bytes, and until when.

mod support;

use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::{FakeBroker, SOON, cause};
use vgem::{Access, Buffer, CauseId, Client, Deadline, Error, ErrorCode};

/// Of two pages; others' failed jobs were to write the first.
fn shared_buffer(client: &Client) -> Buffer {
    let buffer = client.create(8192).expect("memory");
    drop(buffer.export(Access::Write).expect("an export"));
    buffer
}

fn another_cause() -> CauseId {
    CauseId(cause().0 + 1)
}

/// The code and the cause of a read that fails.
fn failure<T>(read: Result<T, Error>) -> (ErrorCode, CauseId) {
    match read.map(drop) {
        Err(Error::Job(failure)) => (failure.code, failure.cause),
        other => panic!("{other:?}"),
    }
}

#[test]
fn f10_what_others_failed_to_write_fails_the_read_with_their_cause() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    assert!(buffer.try_read(..).expect("no failure yet").is_none());
    let _woke = broker.others_end(0, 1, Some((ErrorCode::OutputTooSmall, cause())));
    let failed = buffer.read(.., SOON).map(drop).expect_err("the bytes are not what they should be");
    let Error::Job(failure) = &failed else { panic!("{failed:?}") };
    assert_eq!((failure.code, failure.cause), (ErrorCode::OutputTooSmall, cause()));
    assert!(failed.to_string().ends_with("zip: needs 90 bytes, has 10 (pid 321)"), "{failed}");
    assert!(buffer.read(.., SOON).is_err(), "it stays so");
    buffer.write(.., SOON).expect("failures do not matter to a writer").fill(1);
    assert!(buffer.read(.., SOON).is_ok(), "until it is written here");
}

#[test]
fn a_received_buffer_waits_for_its_sender_and_fails_with_it() {
    let (broker, client) = FakeBroker::with_client();
    let (near, far) = UnixStream::pair().expect("a pair");
    shared_buffer(&client).send(&near, Access::Read, SOON).expect("there is room");
    broker.others_write(0, 1);
    let received = client.receive(&far, SOON).expect("a buffer");
    let _woke = broker.others_end(0, 1, Some((ErrorCode::DeviceLost, cause())));
    let failed = received.buffer.read(.., SOON).map(drop);
    assert_eq!(failed.map_err(|error| error.code()), Err(Some(ErrorCode::DeviceLost)));
}

#[test]
fn a_buffer_that_is_known_to_be_bad_is_not_sent_until_it_is_written_anew() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let (near, far) = UnixStream::pair().expect("a pair");
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    batch.submit().expect("sent");
    buffer.send(&near, Access::Read, SOON).expect("nobody knows yet");
    let _woke = broker.fail(0, 1, ErrorCode::CorruptInput, cause());
    let bad = buffer.send(&near, Access::Read, SOON).expect_err("it is known to be bad");
    assert_eq!(bad.code(), Some(ErrorCode::CorruptInput));
    assert!(bad.to_string().ends_with("zip: needs 90 bytes, has 10 (pid 321)"), "{bad}");
    buffer.write(.., SOON).expect("failures do not matter to a writer").fill(1);
    buffer.send(&near, Access::Read, SOON).expect("it is good again");
    let received = [client.receive(&far, SOON), client.receive(&far, SOON)];
    assert!(received.iter().all(Result::is_ok), "two were sent");
    assert!(matches!(client.receive(&far, Duration::ZERO), Err(Error::Timeout { .. })));
}

#[test]
fn f10_a_receiver_that_comes_after_the_senders_job_failed_gets_its_cause() {
    let (broker, client) = FakeBroker::with_client();
    let (near, far) = UnixStream::pair().expect("a pair");
    shared_buffer(&client).send(&near, Access::Read, SOON).expect("there is room");
    broker.others_write(0, 1);
    let _woke = broker.others_end(0, 1, Some((ErrorCode::DeviceLost, cause())));
    let buffer = client.receive(&far, SOON).expect("a buffer").buffer;
    let expected = (ErrorCode::DeviceLost, cause());
    assert_eq!(failure(buffer.read(.., SOON)), expected);
    assert_eq!(failure(buffer.try_read(4095..4097)), expected);
    assert_eq!(failure(buffer.copy_out(10, &mut [0; 1], SOON)), expected);
    let said = buffer.read(.., SOON).map(drop).expect_err("as before").to_string();
    assert_eq!(
        said,
        format!("zip: job 1 failed: device lost ({}): zip: needs 90 bytes, has 10 (pid 321)", cause())
    );
}

#[test]
fn j8_bytes_outside_of_the_poison_read_fine() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.sharing.poison(4096..4100, ErrorCode::Io, cause());
    assert!(buffer.read(..4096, SOON).is_ok() && buffer.read(4100.., SOON).is_ok());
    assert!(buffer.try_read(..4096).expect("no failure").is_some());
    assert_eq!(failure(buffer.read(4099.., SOON)), (ErrorCode::Io, cause()));
}

#[test]
fn j8_a_job_that_replaces_the_range_ends_the_poison() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.sharing.poison(0..4096, ErrorCode::Io, cause());
    assert!(buffer.try_read(..).is_err());
    broker.others_write(0, 1);
    assert!(buffer.try_read(..).expect("it is to be replaced").is_none());
    let _woke = broker.others_end(0, 1, None);
    assert!(buffer.read(.., SOON).is_ok());
}

#[test]
fn a_failure_that_the_broker_has_not_noted_fails_the_read_too() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    let _woke = broker.others_signal(0, 1, Some((ErrorCode::Io, cause())));
    assert_eq!(failure(buffer.try_read(..)), (ErrorCode::Io, cause()));
    assert_eq!(failure(buffer.read(.., SOON)), (ErrorCode::Io, cause()));
    broker.others_noted(0, 1, Some((ErrorCode::Io, cause())));
    assert_eq!(failure(buffer.try_read(..)), (ErrorCode::Io, cause()));
    broker.sharing.replaced();
    assert!(buffer.try_read(..).expect("replaced").is_some());
}

#[test]
fn a_read_of_other_bytes_waits_until_the_broker_has_noted_a_failure() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| buffer.read(4096.., SOON).map(drop));
        let end = Deadline::after(SOON);
        while client.counters().sleeps == 0 {
            assert!(!end.passed(), "it sleeps");
            std::thread::yield_now();
        }
        let before = client.counters().messages_sent;
        let _woke = broker.others_signal(0, 1, Some((ErrorCode::Io, cause())));
        // It asks again, and then the broker knows.
        while client.counters().messages_sent == before {
            assert!(!end.passed(), "it asks again");
            std::thread::yield_now();
        }
        broker.others_noted(0, 1, Some((ErrorCode::Io, cause())));
        assert_eq!(reading.join().expect("no panic").map_err(|error| error.to_string()), Ok(()));
    });
    assert!(buffer.try_read(..).is_err(), "the first page is bad");
}

#[test]
fn what_this_client_wrote_over_poison_is_good_until_another_failure() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.sharing.poison(0..4096, ErrorCode::Io, cause());
    buffer.write(..100, SOON).expect("failures do not matter to a writer").fill(1);
    assert!(buffer.read(..100, SOON).is_ok(), "the broker still tells it");
    assert!(buffer.read(..101, SOON).is_err());
    broker.sharing.poison(50..60, ErrorCode::Cancelled, another_cause());
    assert_eq!(failure(buffer.read(..100, SOON)), (ErrorCode::Cancelled, another_cause()));
}

#[test]
fn what_this_client_wrote_over_a_failure_that_was_not_noted_is_good() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    let _woke = broker.others_signal(0, 1, Some((ErrorCode::Io, cause())));
    buffer.write(.., SOON).expect("failures do not matter to a writer").fill(1);
    broker.others_noted(0, 1, Some((ErrorCode::Io, cause())));
    assert!(buffer.read(.., SOON).is_ok());
}

#[test]
fn what_failed_here_and_was_replaced_by_others_is_good() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let buffer = shared_buffer(&client);
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    batch.submit().expect("sent");
    let _woke = broker.fail(0, 1, ErrorCode::CorruptInput, cause());
    assert_eq!(failure(buffer.try_read(..)), (ErrorCode::CorruptInput, cause()));
    broker.sharing.poison(0..8192, ErrorCode::CorruptInput, cause());
    assert_eq!(failure(buffer.try_read(..)), (ErrorCode::CorruptInput, cause()));
    broker.others_write(0, 1);
    let _woke = broker.others_end(0, 1, None);
    assert!(buffer.try_read(..).expect("replaced").is_some());
}

#[test]
fn poison_that_is_known_is_not_sent_until_a_job_is_to_replace_it() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let (near, _far) = UnixStream::pair().expect("a pair");
    let buffer = shared_buffer(&client);
    broker.sharing.poison(0..8192, ErrorCode::Io, cause());
    buffer.send(&near, Access::Read, SOON).expect("nobody here knows yet");
    assert!(buffer.read(.., SOON).is_err());
    assert_eq!(failure(buffer.send(&near, Access::Read, SOON)), (ErrorCode::Io, cause()));
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    batch.submit().expect("sent");
    buffer.send(&near, Access::Read, SOON).expect("whoever gets it waits for the job");
}

#[test]
fn j8_a_later_write_makes_good_the_part_that_it_replaces() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let (from, to) = (client.create(4096).expect("memory"), client.create(4096).expect("memory"));
    let write = |range: Range<u64>| {
        let mut batch = client.batch();
        batch.job(&queue, "compress").input(&from).output(to.slice(range));
        batch.submit().expect("sent");
    };
    write(0..4096);
    write(1024..2048);
    let _woke = broker.fail(0, 1, ErrorCode::Io, cause());
    let _woke = broker.signal(0, 2);
    to.write(3000..3100, SOON).expect("failures do not matter to a writer").fill(1);
    let reads = |range: Range<u64>| to.read(range, SOON).is_ok();
    assert!(reads(1024..2048) && reads(3000..3100));
    assert!(!reads(0..1024) && !reads(1023..1025) && !reads(2048..3000) && !reads(3100..4096));
}
