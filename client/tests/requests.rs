//! Requests of the blocking client, against a broker made for tests.

mod support;

use std::os::fd::AsFd as _;

use support::{FakeBroker, Mood, SOON, cause, options};
use vgem::{Access, BufferOptions, Cancelled, Deadline, Error, ErrorCode, LocalError, QueueOptions};
use vgem_os::memory;
use vgem_os::seqpacket::Socket;
use vgem_proto::message::client::ClientMessage;

#[test]
fn the_greeting_tells_who_we_are() {
    let (broker, client) = FakeBroker::with_client();
    let name = broker.request(|message| match message {
        ClientMessage::Hello(hello) => Some(hello.name),
        _ => None,
    });
    assert_eq!((name.as_slice(), client.number(), client.domain().0), (b"test".as_slice(), 11, 4));
}

#[test]
fn a_broker_that_does_not_greet_is_a_timeout() {
    let (_far, near) = Socket::pair().expect("a pair");
    let late = options().request_timeout(std::time::Duration::from_millis(20)).over(near);
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
}

#[test]
fn a_socket_that_is_not_there_is_named_with_the_remedy() {
    let said = vgem::Client::connect("/nowhere/vgemd.sock").map(drop).map_err(|error| error.to_string());
    let said = said.expect_err("nobody is there");
    assert!(said.contains("/nowhere/vgemd.sock (no such socket)") && said.contains("vgemd --user"), "{said}");
}

#[test]
fn devices_are_described_once() {
    let (broker, client) = FakeBroker::with_client();
    let first = client.device("zip").expect("it is there");
    let second = client.device("zip").expect("it is there");
    drop(client);
    drop((first.clone(), second));
    assert_eq!(first.description(), &support::description());
    drop(first);
    let asked =
        broker.requests.iter().filter(|message| matches!(message, ClientMessage::Describe(_))).count();
    assert_eq!(asked, 1);
}

#[test]
fn an_unknown_device_is_refused_with_the_known_ones() {
    let (_broker, client) = FakeBroker::with_client();
    let refused = client.device("zap").map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("no device \"zap\"; there are zip".into()));
}

#[test]
fn a_queue_is_opened_with_its_priority_and_more_room_than_it_says() {
    let (broker, client) = FakeBroker::with_client();
    let device = client.device("zip").expect("it is there");
    let queue = device.queue_with(QueueOptions::new().depth(1).priority(5)).expect("a queue");
    let opened = broker.request(|message| match message {
        ClientMessage::OpenQueue(open) => Some((open.depth, open.priority)),
        _ => None,
    });
    assert_eq!((opened, queue.depth()), ((66, 5), 1));
}

#[test]
fn a_buffer_is_populated_before_it_is_committed() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(10_000).expect("memory");
    // The fake broker pins only what it finds populated.
    assert_eq!((buffer.len(), buffer.pinned()), (10_000, 12_288));
}

#[test]
fn a_dropped_buffer_gives_its_handle_up_without_waiting() {
    let (broker, client) = FakeBroker::with_client();
    let handle = client.create(4096).expect("memory").handle();
    let closed = broker.request(|message| match message {
        ClientMessage::CloseObject(close) => Some(close.object),
        _ => None,
    });
    assert_eq!(closed, handle);
}

#[test]
fn answers_nobody_waits_for_are_read_in_passing() {
    let (broker, client) = FakeBroker::with_client();
    let buffers: Vec<_> = (0..200).map(|_| client.create(4096).expect("memory")).collect();
    let before = client.counters().messages_received;
    for buffer in buffers {
        drop(buffer);
        broker.request(|message| matches!(message, ClientMessage::CloseObject(_)).then_some(()));
    }
    assert!(client.counters().messages_received - before >= 128, "{:?}", client.counters());
}

#[test]
fn bytes_written_under_a_guard_are_read_under_another() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(8192).expect("memory");
    buffer.write(4000..4005, SOON).expect("nobody uses it").copy_from_slice(b"hello");
    assert_eq!(&*buffer.read(4000..4005, SOON).expect("nobody uses it"), b"hello");
}

#[test]
fn a_range_outside_the_buffer_is_refused_with_its_length() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(100).expect("memory");
    let refused = buffer.read(90..101, SOON).map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("bytes 90..101 leave a buffer of 100 bytes".into()));
}

#[test]
fn copies_are_counted() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(100).expect("memory");
    let mut back = [0; 3];
    buffer.copy_in(7, b"abc", SOON).expect("nobody uses it");
    buffer.copy_out(7, &mut back, SOON).expect("nobody uses it");
    assert_eq!((&back, client.counters().bytes_copied), (b"abc", 6));
}

#[test]
fn an_export_is_what_was_asked_for() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create_with(5000, &BufferOptions::new().name("shared")).expect("memory");
    let fd = buffer.export(Access::Read).expect("an export");
    assert!(memory::verify_export(fd.as_fd(), 5000, memory::Access::Read).is_ok());
    assert!(memory::verify_export(fd.as_fd(), 5000, memory::Access::Write).is_err());
}

#[test]
fn a_pool_hands_out_what_came_back_without_a_message() {
    let (_broker, client) = FakeBroker::with_client();
    let pool = client.pool(4096);
    let handle = pool.take().expect("memory").handle();
    let before = client.counters().messages_sent;
    let again = pool.take().expect("memory");
    assert_eq!((again.handle(), client.counters().messages_sent), (handle, before));
}

#[test]
fn a_reserved_pool_makes_its_buffers_beforehand() {
    let (_broker, client) = FakeBroker::with_client();
    let pool = client.pool(4096);
    pool.reserve(3).expect("memory");
    let before = client.counters().messages_sent;
    let taken: Vec<_> = (0..3).map(|_| pool.take().expect("memory")).collect();
    assert_eq!((taken.len(), pool.free(), client.counters().messages_sent), (3, 0, before));
}

#[test]
fn every_page_of_the_brokers_state_is_asked_for() {
    let (_broker, client) = FakeBroker::with_client();
    let names: Vec<_> = client.object_entries().expect("a state").into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["entry 0", "entry 1"]);
}

#[test]
fn a_cancelled_job_says_what_becomes_of_it() {
    let (_broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    let submitted = batch.submit().expect("sent");
    assert_eq!(queue.cancel(submitted.last()).expect("asked"), Cancelled::Running);
}

#[test]
fn an_explanation_is_asked_for_once() {
    let (broker, client) = FakeBroker::with_client();
    let first = client.explain(cause()).expect("known");
    let second = client.explain(cause()).expect("known");
    assert_eq!(first.to_string(), "zip: needs 90 bytes, has 10 (pid 321)");
    assert_eq!((first.code, first), (ErrorCode::OutputTooSmall, second));
    drop(client);
    let asked = broker.requests.iter().filter(|message| matches!(message, ClientMessage::Explain(_))).count();
    assert_eq!(asked, 1);
}

#[test]
fn threads_share_a_connection_and_each_gets_its_own_answer() {
    let (_broker, client) = FakeBroker::with_client();
    let lens: Vec<u64> = std::thread::scope(|threads| {
        let asking: Vec<_> = (1..=8)
            .map(|pages| {
                let client = &client;
                threads.spawn(move || {
                    (0..50).map(|_| client.create(pages * 4096).expect("memory").pinned()).max()
                })
            })
            .collect();
        asking.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(lens, (1..=8).map(|pages| pages * 4096).collect::<Vec<_>>());
}

#[test]
fn a_silent_broker_ends_a_request_at_its_deadline() {
    let (_broker, socket) = FakeBroker::pair(Mood::Silent);
    let client =
        options().request_timeout(std::time::Duration::from_millis(50)).over(socket).expect("a greeting");
    let asked = client.create(4096).map(drop);
    assert!(matches!(asked, Err(Error::Timeout { .. })), "{asked:?}");
}

#[test]
fn a_broker_that_dies_ends_requests_of_every_thread() {
    let (mut broker, client) = FakeBroker::with_client_of(Mood::Silent);
    std::thread::scope(|threads| {
        let asking: Vec<_> = (0..4).map(|_| threads.spawn(|| client.devices().map(drop))).collect();
        for _ in 0..4 {
            broker.request(|message| matches!(message, ClientMessage::ListDevices(_)).then_some(()));
        }
        broker.hang_up();
        for thread in asking {
            let lost = thread.join().expect("no panic");
            assert!(matches!(lost, Err(Error::BrokerLost { .. })), "{lost:?}");
        }
    });
}

#[test]
fn a_lost_connection_stays_lost() {
    let (mut broker, client) = FakeBroker::with_client();
    broker.hang_up();
    assert!(matches!(client.devices(), Err(Error::BrokerLost { .. })));
    assert!(matches!(client.create(4096), Err(Error::BrokerLost { .. })));
}

fn refused_export(mood: Mood) -> Error {
    let (_broker, client) = FakeBroker::with_client_of(mood);
    client.create(8192).map(drop).expect_err("such memory is not mapped")
}

#[test]
fn t52_memory_that_is_not_what_was_promised_is_not_mapped() {
    for mood in [Mood::ReadOnlyExport, Mood::UnsealedExport, Mood::ShortExport, Mood::SocketExport] {
        let error = refused_export(mood);
        assert!(matches!(&error, Error::System(os) if os.call() == "verify_export"), "{mood:?}: {error:?}");
    }
}

#[test]
fn t52_noise_ends_the_connection_and_nothing_else() {
    let (_broker, client) = FakeBroker::with_client_of(Mood::Noise);
    let lost = client.devices().map(drop).expect_err("noise is no answer");
    assert!(matches!(&lost, Error::BrokerLost { why } if why.contains("broke the protocol")), "{lost:?}");
}

#[test]
fn t52_an_answer_of_another_kind_is_the_brokers_fault() {
    let (_broker, client) = FakeBroker::with_client_of(Mood::WrongAnswer);
    let fault = client.devices().map(drop).expect_err("no list of devices");
    assert!(matches!(&fault, Error::Protocol(why) if why.contains("Accepted")), "{fault:?}");
}

#[test]
fn t52_a_second_answer_ends_the_connection() {
    let (_broker, client) = FakeBroker::with_client_of(Mood::Twice);
    // The second answer may be met while the next one is waited for, or before that.
    let ended = (0..3).find_map(|_| client.devices().err());
    assert!(matches!(ended, Some(Error::BrokerLost { .. })), "{ended:?}");
}

#[test]
fn an_empty_buffer_is_refused_before_anything_is_sent() {
    let (_broker, client) = FakeBroker::with_client();
    let before = client.counters().messages_sent;
    let refused = client.create(0).map(drop);
    assert!(matches!(refused, Err(Error::Local(LocalError::Empty { .. }))));
    assert_eq!(client.counters().messages_sent, before);
}

#[test]
fn try_guards_never_wait() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let buffer = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&buffer);
    let fence = batch.submit().expect("sent").last().clone();
    assert!(buffer.try_read(..).expect("no failure").is_none());
    let _woke: vgem_os::fence::Woke = broker.signal(0, fence.point().0);
    assert!(buffer.try_read(..).expect("no failure").is_some());
    assert!(fence.wait(Deadline::NOW).is_ok());
}
