//! What several processes share, with a broker, porters and drivers that are real.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them; without them it fails and says where it looked.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vgem::{
    Access, Buffer, BufferOptions, Client, Deadline, Embedded, Error, ErrorCode, FenceError, HugePages,
    ImportOptions, LocalError, PageVec,
};

const SOON: Duration = Duration::from_secs(20);

struct Real {
    // Clients end before their broker.
    client: Client,
    broker: Embedded,
}

fn real() -> Real {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    Real { client, broker }
}

impl Real {
    /// Everything was given back.
    fn ends_empty(self) {
        let Self { client, broker } = self;
        eventually("no object is left", || client.status().is_ok_and(|status| status.objects == 0));
        let bytes = client.status().expect("an answer").object_bytes;
        drop(client);
        drop(broker);
        assert_eq!(bytes, 0);
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Deadline::after(SOON);
    while !holds() {
        assert!(!end.passed(), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn memfd(len: u64) -> OwnedFd {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("foreign", flags).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("a length");
    fd
}

fn filled(client: &Client, len: u64, byte: u8) -> Buffer {
    let buffer = client.create(len).expect("memory");
    buffer.write(.., SOON).expect("nobody uses it").fill(byte);
    buffer
}

#[test]
fn a_private_broker_is_configured_as_any_other() {
    let broker =
        Embedded::builder().config("[quota]\nobjects = 2").root("/").start().expect("a private broker");
    let client = broker.client().expect("a client");
    let set = client.create_set(3, 4096).map(drop).map_err(|error| error.code());
    assert_eq!(set, Err(Some(ErrorCode::Exhausted)));
    let wrong =
        Embedded::builder().config("[quota]\nbytes = 2").start().map(drop).map_err(|error| error.to_string());
    assert!(wrong.is_err_and(|said| said.contains("line 2: quota.bytes: unknown field `bytes`")));
}

#[test]
fn a_set_is_made_ready_and_given_back() {
    let real = real();
    let set = real.client.create_set(100, 8192).expect("memory");
    assert!(set.iter().all(|buffer| buffer.pinned() <= 8192));
    assert_eq!(real.client.status().expect("an answer").objects, 100);
    drop(set);
    real.ends_empty();
}

#[test]
fn l5_an_export_that_comes_back_is_the_same_buffer() {
    let real = real();
    let made = filled(&real.client, 8192, 5);
    let back = real.client.import_fd(made.export(Access::Write).expect("an export")).expect("our own");
    assert_eq!((back.handle(), real.client.status().expect("an answer").objects), (made.handle(), 1));
    drop(made);
    assert!(back.read(.., SOON).expect("nobody uses it").iter().all(|byte| *byte == 5));
    drop(back);
    real.ends_empty();
}

#[test]
fn foreign_memory_is_an_object_for_devices_and_stays_its_makers() {
    let real = real();
    let fd = memfd(1 << 20);
    rustix::io::pwrite(&fd, &vec![7; 1 << 20], 0).expect("room");
    let options = ImportOptions::new().name("theirs");
    let foreign = real.client.import_with(fd.try_clone().expect("an fd"), &options).expect("good memory");
    let copied = real.client.create(1 << 20).expect("memory");
    let copy = real.client.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.client.batch();
    batch.job(&copy, "copy").input(&foreign).output(&copied);
    batch.submit().expect("sent").wait(SOON).expect("done");
    assert!(copied.read(.., SOON).expect("done").iter().all(|byte| *byte == 7));
    let entries = real.client.object_entries().expect("an answer");
    assert!(entries.iter().any(|one| one.kind == "foreign" && one.name == "theirs"), "{entries:?}");
    drop((foreign, copied, copy));
    let mut first = [0; 1];
    rustix::io::pread(&fd, &mut first, 0).expect("its maker still has it");
    assert_eq!(first, [7]);
    drop(fd);
    real.ends_empty();
}

#[test]
fn what_is_no_memory_is_refused_by_name() {
    let real = real();
    let (socket, _other) = UnixStream::pair().expect("a pair");
    let refused = real.client.import_fd(socket.into()).map(drop).expect_err("a socket is no memory");
    assert!(matches!(refused, Error::Refused(_)) && !refused.to_string().is_empty(), "{refused:?}");
    real.ends_empty();
}

#[test]
fn a_read_only_export_is_read_by_the_other_client() {
    let real = real();
    let other = real.broker.client().expect("another client");
    let made = filled(&real.client, 4096, 9);
    let seen = other.import_fd(made.export(Access::Read).expect("an export")).expect("an export");
    assert!(seen.read(.., SOON).expect("nobody uses it").iter().all(|byte| *byte == 9));
    assert!(matches!(seen.write(.., SOON), Err(Error::Local(LocalError::ReadOnly { .. }))));
    drop((made, seen, other));
    real.ends_empty();
}

#[test]
fn c1_a_received_buffer_waits_for_the_senders_unfinished_job() {
    let real = real();
    let (near, far) = UnixStream::pair().expect("a pair");
    let other = real.broker.client().expect("another client");
    let options = BufferOptions::new().name("frame");
    let frame = real.client.create_with(64 << 20, &options).expect("memory");
    let copy = real.client.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.client.batch();
    batch.job(&copy, "fill").output(&frame).param("byte", 3);
    batch.job(&copy, "fill").output(&frame).param("byte", 4);
    let fences = batch.submit().expect("sent");
    frame.send(&near, Access::Read, SOON).expect("there is room");
    let received = other.receive(&far, SOON).expect("a buffer");
    let read = received.buffer.read(.., SOON).expect("both jobs end well");
    assert!(fences.last().has_ended() && read.iter().all(|byte| *byte == 4));
    assert_eq!((received.name.as_str(), received.buffer.len()), ("frame", 64 << 20));
    drop(read);
    drop((received, frame, copy, fences, other));
    real.ends_empty();
}

#[test]
fn f10_a_received_buffer_fails_with_the_senders_job() {
    let real = real();
    let (near, far) = UnixStream::pair().expect("a pair");
    let other = real.broker.client().expect("another client");
    let (junk, frame) = (filled(&real.client, 1 << 20, 0xa5), real.client.create(1 << 20).expect("memory"));
    let long = real.client.create(64 << 20).expect("memory");
    let copy = real.client.device("copy").expect("it is there").queue(0).expect("a queue");
    let zip = real.client.device("zip").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.client.batch();
    // So that the failure is yet to come when the receiver asks.
    for _ in 0..7 {
        batch.job(&copy, "fill").output(&long).param("byte", 0);
    }
    let slow = batch.job(&copy, "fill").output(&long).param("byte", 1).id();
    batch.job(&zip, "decompress").input(&junk).output(&frame).param("format", "gzip").after(slow);
    let fences = batch.submit().expect("sent");
    frame.send(&near, Access::Read, SOON).expect("there is room");
    let received = other.receive(&far, SOON).expect("a buffer");
    let failed = received.buffer.read(.., SOON).map(drop);
    assert_eq!(failed.map_err(|error| error.code()), Err(Some(ErrorCode::CorruptInput)));
    drop((received, junk, frame, long, copy, zip, fences, other));
    real.ends_empty();
}

#[test]
fn t5_bytes_are_good_or_bad_as_their_jobs_ended_also_when_eight_later_ones_have_failed() {
    let real = real();
    let [junk, good, bad, other] = [0xa5, 0, 0, 0].map(|byte| filled(&real.client, 4096, byte));
    let zip = real.client.device("zip").expect("it is there").queue(0).expect("a queue");
    let decompress = |from: &Buffer, to: &Buffer| {
        let mut batch = real.client.batch();
        batch.job(&zip, "decompress").input(from).output(to).param("format", "zstd");
        batch.submit().expect("sent")
    };
    let mut batch = real.client.batch();
    batch.job(&zip, "compress").input(&other).output(&good);
    batch.submit().expect("sent").wait(SOON).expect("zeros can be packed");
    let FenceError::Failed(first) = decompress(&junk, &bad).wait(SOON).expect_err("it is no frame") else {
        panic!("it was to fail")
    };
    for _ in 0..8 {
        decompress(&junk, &other).wait(SOON).expect_err("it is no frame");
    }
    good.read(.., SOON).expect("that job was done");
    let Err(Error::Job(seen)) = bad.read(.., SOON).map(drop) else { panic!("that job failed") };
    assert_eq!((seen.code, seen.cause, seen.explanation.is_some()), (first.code, first.cause, true));
}

#[test]
fn j8_a_receiver_reads_what_its_sender_has_written_anew_after_a_failure() {
    let real = real();
    let (near, far) = UnixStream::pair().expect("a pair");
    let other = real.broker.client().expect("another client");
    let junk = filled(&real.client, 1 << 20, 0xa5);
    let frame = real.client.create(1 << 20).expect("memory");
    let zip = real.client.device("zip").expect("it is there").queue(0).expect("a queue");
    frame.send(&near, Access::Write, SOON).expect("there is room");
    let received = other.receive(&far, SOON).expect("a buffer").buffer;
    for byte in 1..20 {
        let mut batch = real.client.batch();
        batch.job(&zip, "decompress").input(&junk).output(&frame).param("format", "gzip");
        batch.submit().expect("sent").wait(SOON).expect_err("it is no gzip");
        // Perhaps before the broker has heard of the failure.
        frame.write(.., SOON).expect("nobody uses it").fill(byte);
        assert_eq!(received.read(.., SOON).expect("it is as it should be")[0], byte);
        let copy = other.device("copy").expect("it is there").queue(0).expect("a queue");
        let mut batch = other.batch();
        batch.job(&copy, "crc32c").input(&received);
        batch.submit().expect("sent").wait(SOON).expect("for jobs too");
    }
}

#[test]
fn f10_a_receiver_that_comes_after_the_failure_fails_until_a_job_replaces_the_bytes() {
    let real = real();
    let (near, far) = UnixStream::pair().expect("a pair");
    let other = real.broker.client().expect("another client");
    let junk = filled(&real.client, 1 << 20, 0xa5);
    let frame = real.client.create_with(2 << 20, &BufferOptions::new().name("frame")).expect("memory");
    let zip = real.client.device("zip").expect("it is there").queue(0).expect("a queue");
    frame.send(&near, Access::Write, SOON).expect("there is room");
    let mut batch = real.client.batch();
    batch.job(&zip, "decompress").input(&junk).output(frame.slice(..1 << 20)).param("format", "gzip");
    let failed = batch.submit().expect("sent").wait(SOON).expect_err("it is no gzip");
    let FenceError::Failed(failure) = failed else { panic!("{failed:?}") };
    let is_noted = || {
        let entries = real.client.object_entries().expect("an answer");
        entries.iter().any(|one| one.name == "frame" && one.uses == 0 && !one.poison.is_empty())
    };
    eventually("the broker has taken note of the failure", is_noted);
    let received = other.receive(&far, SOON).expect("a buffer").buffer;
    for read in [received.read(.., SOON).map(drop), received.try_read(..1).map(drop)] {
        let Err(Error::Job(seen)) = read else { panic!("{read:?}") };
        assert_eq!((seen.code, seen.cause), (ErrorCode::CorruptInput, failure.cause));
    }
    assert!(received.read(1 << 20.., SOON).is_ok(), "the job was not to write these");
    assert!(frame.read(.., SOON).is_err(), "for its sender too");
    let fill = other.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = other.batch();
    batch.job(&fill, "fill").output(received.slice(..1 << 20)).param("byte", 9);
    batch.submit().expect("sent");
    assert!(received.read(..1 << 20, SOON).expect("it is replaced").iter().all(|byte| *byte == 9));
    assert_eq!(frame.read(.., SOON).expect("for its sender too")[0], 9);
    drop((received, junk, frame, zip, fill, other));
    real.ends_empty();
}

#[test]
fn adopted_memory_is_worked_on_in_place_and_comes_back() {
    let real = real();
    let pages = PageVec::zeroed(4 << 20);
    let address = pages.as_ptr();
    let adopted = real.client.adopt_pages(pages).expect("adopted");
    let copy = real.client.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = real.client.batch();
    batch.job(&copy, "fill").output(&*adopted).param("byte", 6);
    let fences = batch.submit().expect("sent");
    let back = adopted.release(SOON).expect("it waits for the job");
    assert!(fences.last().has_ended() && back.iter().all(|byte| *byte == 6));
    assert_eq!(back.as_ptr(), address);
    drop((copy, fences));
    real.ends_empty();
}

#[test]
fn a_sealed_result_is_written_by_its_device_alone_and_read_by_everybody() {
    let real = real();
    let device = real.client.device("copy").expect("it is there");
    let copy = device.queue(0).expect("a queue");
    let sealed = real.client.create_with(8192, &BufferOptions::new().sealed_for(&device)).expect("memory");
    assert!(sealed.is_sealed() && !sealed.is_writable());
    let mut batch = real.client.batch();
    batch.job(&copy, "fill").output(&sealed).param("byte", 8);
    batch.submit().expect("sent").wait(SOON).expect("done");
    assert!(sealed.read(.., SOON).expect("done").iter().all(|byte| *byte == 8));
    // M-044: nobody else writes it, and no fd for writing leaves.
    let other = device.queue(0).expect("a queue");
    let input = real.client.create(8192).expect("memory");
    batch.job(&other, "copy").input(&input).output(&sealed);
    batch.submit_acknowledged().expect("a queue of the same instance writes it").wait(SOON).expect("done");
    batch.job(&other, "fill").output(&sealed).param("byte", 8);
    batch.submit().expect("sent").wait(SOON).expect("done");
    drop(other);
    let denied = sealed.export(Access::Write).map(drop);
    assert_eq!(denied.map_err(|error| error.code()), Err(Some(ErrorCode::Denied)));
    let (near, far) = UnixStream::pair().expect("a pair");
    let other = real.broker.client().expect("another client");
    sealed.send(&near, Access::Read, SOON).expect("there is room");
    let received = other.receive(&far, SOON).expect("a buffer");
    assert!(received.is_sealed() && received.buffer.read(.., SOON).expect("done")[0] == 8);
    let zip = real.client.device("zip").expect("it is there").queue(0).expect("a queue");
    batch.job(&zip, "compress").input(&input).output(&sealed);
    let denied = batch.submit_acknowledged().map(drop);
    assert_eq!(denied.map_err(|error| error.code()), Err(Some(ErrorCode::Denied)));
    drop((input, zip));
    drop((sealed, received, copy, device, other));
    real.ends_empty();
}

#[test]
fn a_porter_that_went_idle_is_asked_for_again() {
    let real = real();
    drop(real.client.import_fd(memfd(4096)).expect("good memory"));
    let porters = || {
        let status = real.client.status().expect("an answer");
        status.features.iter().any(|line| line.starts_with("porters: 0 "))
    };
    eventually("it ends by itself", porters);
    drop(real.client.import_fd(memfd(4096)).expect("another porter takes it"));
    real.ends_empty();
}

#[test]
fn a_monitor_tells_an_objects_whole_life() {
    let real = real();
    let watching = real.broker.client().expect("a client");
    let mut monitor = watching.monitor().expect("told");
    let buffer = real.client.create_with(4096, &BufferOptions::new().name("short")).expect("memory");
    let fd = buffer.export(Access::Read).expect("an export");
    drop(buffer);
    let mut told = Vec::new();
    let mut until = |word: &str| {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            if let Some(event) = monitor.next(Duration::from_millis(100)).expect("alive") {
                let line = event.to_string();
                let found = line.contains(word);
                told.push(line);
                if found {
                    return;
                }
            }
        }
        panic!("no {word}: {told:?}");
    };
    for word in ["\"short\" created", "is ready", "exported", "given up", "orphaned"] {
        until(word);
    }
    drop(fd);
    until("freed");
    drop(watching);
    real.ends_empty();
}

#[test]
fn reserved_huge_pages_are_had_or_their_lack_is_told_with_the_setting() {
    let real = real();
    let options = BufferOptions::new().huge(HugePages::Size2M);
    let made = real.client.create_with(1, &options);
    match vgem_os::hugepages::lacking(vgem_os::memory::HugePages::Size2M, 2 << 20) {
        None => assert_eq!(made.map(|buffer| buffer.len()).map_err(|error| error.to_string()), Ok(1)),
        Some(_) => {
            let said = made.map(drop).expect_err("there are none").to_string();
            assert!(said.contains("nr_hugepages") || said.contains("no pages of that size"), "{said}");
        }
    }
    real.ends_empty();
}
