//! Memory of several processes: sets, imports, guards on what others use, and buffers sent over sockets.

mod support;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::SealFlags;
use support::{FakeBroker, Mood, SOON, options};
use vgem::{
    Access, Buffer, BufferOptions, Client, Deadline, Error, ErrorCode, HugePages, ImportOptions, LocalError,
    TransferError,
};
use vgem_os::memory::ObjectMemory;
use vgem_os::seqpacket::Socket;
use vgem_proto::message::client::ClientMessage;
use vgem_proto::rights::WaitKind;

fn memfd(len: u64) -> OwnedFd {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("foreign", flags).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("a length");
    fd
}

/// An object of the broker that another client made, and an fd of it.
fn of_another_client(broker: &FakeBroker, access: Access) -> OwnedFd {
    let object = ObjectMemory::create(8192, vgem_os::memory::HugePages::None, "other").expect("memory");
    let access = match access {
        Access::Read => vgem_os::memory::Access::Read,
        Access::Write => vgem_os::memory::Access::Write,
    };
    let fd = object.export(access).expect("an export");
    let handle = broker.sharing.add(object, true);
    broker.sharing.objects.lock().expect("not poisoned")[place(handle)].count = 1;
    fd
}

fn place(handle: vgem_proto::ids::Handle) -> usize {
    usize::try_from(handle.0).expect("small") - 1
}

/// How often the client asked for something.
fn asked(broker: &FakeBroker, client: &Client, what: fn(&ClientMessage) -> bool) -> usize {
    // What was asked last has come when the answer to this is here.
    client.devices().expect("an answer");
    broker.requests.try_iter().filter(what).count()
}

fn is_observe(message: &ClientMessage) -> bool {
    matches!(message, ClientMessage::Observe(_))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Deadline::after(SOON);
    while !holds() {
        assert!(!end.passed(), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_set_of_64_is_made_and_committed_with_one_request_each() {
    let (broker, client) = FakeBroker::with_client();
    let set = client.create_set(64, 5000).expect("memory");
    assert_eq!((set.len(), client.counters().messages_sent), (64, 3));
    assert!(set.iter().all(|buffer| buffer.len() == 5000 && buffer.pinned() == 8192));
    let counts = broker.request(|message| match message {
        ClientMessage::CreateObject(create) => Some(create.count),
        _ => None,
    });
    let committed = broker.request(|message| match message {
        ClientMessage::Commit(commit) => Some(commit.objects.len()),
        _ => None,
    });
    assert_eq!((counts, committed), (64, 64));
}

#[test]
fn a_set_of_more_than_64_takes_several_requests() {
    let (_broker, client) = FakeBroker::with_client();
    let set = client.create_set(65, 4096).expect("memory");
    set[64].write(.., SOON).expect("nobody uses it").fill(7);
    assert_eq!(
        (set.len(), client.counters().messages_sent, set[63].read(.., SOON).expect("ours")[0]),
        (65, 5, 0)
    );
}

#[test]
fn a_set_that_came_short_gives_up_what_came() {
    let (broker, client) = FakeBroker::with_client_of(Mood::MakesTooFew);
    let failed = client.create_set(3, 4096).map(drop);
    assert!(
        matches!(&failed, Err(Error::Protocol(why)) if why.contains("asked for 3 objects, got 2")),
        "{failed:?}"
    );
    client.devices().expect("an answer");
    let kept = broker.sharing.objects.lock().expect("not poisoned");
    assert_eq!(kept.iter().map(|kept| kept.count).sum::<usize>(), 0);
}

#[test]
fn an_empty_set_is_refused_before_anything_is_sent() {
    let (_broker, client) = FakeBroker::with_client();
    assert!(matches!(client.create_set(0, 4096), Err(Error::Local(LocalError::Empty { .. }))));
    assert_eq!(client.counters().messages_sent, 1);
}

#[test]
fn buffers_of_a_set_end_one_by_one() {
    let (broker, client) = FakeBroker::with_client();
    let mut all = client.create_set(3, 4096).expect("memory").into_vec();
    let gone = all.remove(1).handle();
    let closed = broker.request(|message| match message {
        ClientMessage::CloseObject(close) => Some(close.object),
        _ => None,
    });
    assert_eq!((closed, broker.sharing.count(all[0].handle())), (gone, 1));
}

#[test]
fn missing_huge_pages_are_told_with_the_setting_that_gives_more() {
    // More pages than any machine has; the fake broker makes ordinary memory, so the kernel itself is asked.
    let lacking = vgem_os::hugepages::lacking(vgem_os::memory::HugePages::Size2M, 1 << 60).expect("too many");
    assert!(lacking.contains("nr_hugepages") || lacking.contains("no pages of that size"), "{lacking}");
    let (_broker, client) = FakeBroker::with_client();
    let made = client.create_with(1, &BufferOptions::new().huge(HugePages::Size2M)).expect("memory");
    assert_eq!(made.pinned(), 2 << 20);
}

#[test]
fn foreign_memory_is_imported_populated_and_committed() {
    let (_broker, client) = FakeBroker::with_client();
    let fd = memfd(8192);
    let other = fd.try_clone().expect("an fd");
    let buffer = client.import_with(fd, &ImportOptions::new().name("mine")).expect("good memory");
    // The fake broker pins only what it finds populated.
    assert_eq!(
        (buffer.len(), buffer.pinned(), buffer.is_writable(), buffer.is_shared()),
        (8192, 8192, true, true)
    );
    buffer.write(..3, SOON).expect("nobody uses it").copy_from_slice(b"abc");
    let mut seen = [0; 3];
    rustix::io::pread(&other, &mut seen, 0).expect("the same memory");
    assert_eq!(&seen, b"abc");
}

#[test]
fn an_import_that_is_ready_is_not_committed_again() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = client.import_fd(of_another_client(&broker, Access::Write)).expect("an export");
    assert!(buffer.is_writable());
    assert_eq!(asked(&broker, &client, |m| matches!(m, ClientMessage::Commit(_))), 0);
}

#[test]
fn a_read_only_import_reads_and_says_why_it_does_not_write() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = client.import_fd(of_another_client(&broker, Access::Read)).expect("an export");
    assert_eq!(buffer.read(.., SOON).expect("it may be read").len(), 8192);
    let refused = buffer.write(.., SOON).map(drop).map_err(|error| error.to_string());
    let said = format!("{} is for reading only: it was imported from a read-only fd", buffer.handle());
    assert_eq!(refused, Err(said));
    assert!(matches!(buffer.try_write(..), Err(Error::Local(LocalError::ReadOnly { .. }))));
}

#[test]
fn a_read_only_import_is_no_output() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let buffer = client.import_fd(of_another_client(&broker, Access::Read)).expect("an export");
    let other = client.create(8192).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "compress").input(&buffer).output(&other);
    assert!(batch.submit().is_ok());
    batch.job(&queue, "compress").input(&other).output(&buffer);
    assert!(matches!(batch.submit(), Err(Error::Local(LocalError::ReadOnly { .. }))));
}

#[test]
fn what_is_no_memory_is_refused_in_words() {
    let (_broker, client) = FakeBroker::with_client();
    let refused = client.import_fd(Socket::pair().expect("a pair").0.into()).map(drop);
    assert!(matches!(&refused, Err(Error::Refused(r)) if r.code == ErrorCode::BadParameter), "{refused:?}");
}

#[test]
fn l5_the_same_memory_is_one_buffer_with_one_ledger() {
    let (broker, client) = FakeBroker::with_client();
    let made = client.create(8192).expect("memory");
    let again = client.import_fd(made.export(Access::Write).expect("an export")).expect("our own");
    assert_eq!(made.handle(), again.handle());
    let held = made.write(.., SOON).expect("nobody uses it");
    assert!(again.try_read(..).expect("no failure").is_none());
    drop(held);
    assert!(again.try_read(..).expect("no failure").is_some());
    eventually("the extra import is given up", || broker.sharing.count(made.handle()) == 1);
    let handle = made.handle();
    drop((made, again));
    client.devices().expect("an answer");
    assert_eq!(broker.sharing.count(handle), 0);
}

#[test]
fn memory_that_comes_again_with_a_wider_fd_may_be_written() {
    let (broker, client) = FakeBroker::with_client();
    let made = client.create(8192).expect("memory");
    let (narrow, wide) =
        (made.export(Access::Read).expect("an fd"), made.export(Access::Write).expect("an fd"));
    let handle = made.handle();
    drop(made);
    // Another client's fds keep the object: it is found again by its inode.
    broker.sharing.objects.lock().expect("not poisoned")[place(handle)].count += 1;
    let narrow = client.import_fd(narrow).expect("an export");
    let wide = client.import_fd(wide).expect("an export");
    assert_eq!((narrow.is_writable(), wide.is_writable(), narrow.handle()), (false, true, wide.handle()));
    let held = wide.write(.., SOON).expect("nobody uses it");
    assert!(narrow.try_read(..).expect("no failure").is_none(), "they share a ledger");
    drop(held);
}

#[test]
fn every_import_is_given_up_once_however_threads_race() {
    let (broker, client) = FakeBroker::with_client();
    let fd = memfd(4096);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..50 {
                    let fd = fd.try_clone().expect("an fd");
                    drop(client.import_fd(fd).expect("good memory"));
                }
            });
        }
    });
    client.devices().expect("an answer");
    let objects = broker.sharing.objects.lock().expect("not poisoned");
    assert!(
        objects.iter().all(|kept| kept.count == 0),
        "{:?}",
        objects.iter().map(|k| k.count).collect::<Vec<_>>()
    );
}

#[test]
fn one_porter_takes_all_imports() {
    let (broker, client) = FakeBroker::with_client();
    let _kept: Vec<Buffer> = (0..5).map(|_| client.import_fd(memfd(4096)).expect("good memory")).collect();
    assert_eq!(broker.sharing.porters.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_porter_that_died_is_asked_for_again() {
    let (broker, client) = FakeBroker::with_client_of(Mood::PorterDies);
    let buffer = client.import_fd(memfd(4096)).expect("the second porter takes it");
    assert_eq!((buffer.len(), broker.sharing.porters.load(std::sync::atomic::Ordering::Relaxed)), (4096, 2));
}

#[test]
fn an_fd_that_a_leaving_porter_took_goes_to_the_next_one() {
    let (broker, client) = FakeBroker::with_client_of(Mood::PorterLeaves);
    client.import_fd(memfd(4096)).expect("the second porter takes it");
    assert_eq!(broker.sharing.porters.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn an_fd_that_stalls_its_porter_is_refused_once_and_the_next_import_has_another() {
    let (broker, client) = FakeBroker::with_client_of(Mood::PorterIsKilled);
    let late = client.import_fd(memfd(4096)).map(drop);
    assert_eq!(late.map_err(|error| error.code()), Err(Some(ErrorCode::Late)));
    client.import_fd(memfd(4096)).expect("the second porter takes it");
    assert_eq!(broker.sharing.porters.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn a_porter_that_stalls_holds_up_nobody_else() {
    let (_broker, socket) = FakeBroker::pair(Mood::PorterStalls);
    let client = options().request_timeout(Duration::from_millis(300)).over(socket).expect("a greeting");
    std::thread::scope(|threads| {
        let stalled: Vec<_> =
            (0..3).map(|_| threads.spawn(|| client.import_fd(memfd(4096)).map(drop))).collect();
        for _ in 0..20 {
            client.create(4096).expect("others go on");
        }
        for thread in stalled {
            let late = thread.join().expect("no panic");
            assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        }
    });
}

#[test]
fn an_import_that_is_answered_too_late_is_given_up() {
    let (broker, socket) = FakeBroker::pair(Mood::ImportsLate);
    let client = options().request_timeout(Duration::from_millis(50)).over(socket).expect("a greeting");
    let late = client.import_fd(memfd(4096)).map(drop);
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    let count = || broker.sharing.objects.lock().expect("not poisoned").last().map(|kept| kept.count);
    eventually("the late answer is met", || client.devices().is_ok() && count() == Some(0));
}

#[test]
fn guards_of_a_buffer_that_nobody_else_has_ask_nobody() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(4096).expect("memory");
    let before = client.counters().messages_sent;
    drop(buffer.write(.., SOON).expect("nobody uses it"));
    drop(buffer.read(.., SOON).expect("nobody uses it"));
    assert_eq!(client.counters().messages_sent, before);
}

#[test]
fn guards_of_an_exported_buffer_ask_for_their_access() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = client.create(4096).expect("memory");
    let _fd = buffer.export(Access::Read).expect("an export");
    drop(buffer.write(.., SOON).expect("nobody uses it"));
    drop(buffer.read(.., SOON).expect("nobody uses it"));
    client.devices().expect("an answer");
    let asked: Vec<Access> = broker
        .requests
        .try_iter()
        .filter_map(|message| match message {
            ClientMessage::Observe(observe) => Some(observe.access),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [Access::Write, Access::Read]);
}

fn shared_buffer(client: &Client) -> Buffer {
    let buffer = client.create(4096).expect("memory");
    drop(buffer.export(Access::Write).expect("an export"));
    buffer
}

#[test]
fn c1_a_read_waits_for_what_others_write() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    assert!(matches!(buffer.read(.., Duration::from_millis(20)), Err(Error::Timeout { .. })));
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| buffer.read(.., SOON).map(|guard| guard.len()));
        eventually("it sleeps", || client.counters().sleeps > 1);
        let _woke = broker.others_end(0, 1, None);
        assert_eq!(reading.join().expect("no panic").expect("it ended well"), 4096);
    });
}

#[test]
fn c1_try_guards_of_shared_buffers_ask_once_and_do_not_wait() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    let before = asked(&broker, &client, is_observe);
    assert!(buffer.try_read(..).expect("no failure").is_none());
    assert!(buffer.try_write(..).expect("no failure").is_none());
    let _woke = broker.others_end(0, 1, None);
    assert!(buffer.try_read(..).expect("no failure").is_some());
    assert_eq!((before, asked(&broker, &client, is_observe)), (0, 3));
}

#[test]
fn r8_an_explicit_guard_of_a_shared_buffer_asks_nobody() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    let before = client.counters().messages_sent;
    assert!(buffer.write_explicit(..64, SOON).is_ok() && buffer.read_explicit(..64, SOON).is_ok());
    assert_eq!((client.counters().messages_sent, asked(&broker, &client, is_observe)), (before, 0));
}

#[test]
fn c1_an_explicit_guard_waits_for_what_is_known_all_the_same() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    assert!(buffer.try_read(..).expect("no failure").is_none());
    let soon = Duration::from_millis(20);
    assert!(matches!(buffer.read_explicit(.., soon), Err(Error::Timeout { .. })));
    let _woke = broker.others_end(0, 1, None);
    assert!(buffer.read_explicit(.., SOON).is_ok());
}

#[test]
fn r2_others_reads_are_in_the_way_of_writes_only() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others(0, 1, WaitKind::Order);
    assert!(buffer.try_write(..).expect("no failure").is_none());
    assert!(buffer.try_read(..).expect("no failure").is_some());
}

#[test]
fn a_point_whose_slot_went_has_ended_when_it_is_named_no_more() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = shared_buffer(&client);
    broker.others_write(0, 1);
    assert!(buffer.try_read(..).expect("no failure").is_none());
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| buffer.read(.., SOON).map(drop));
        eventually("it sleeps", || client.counters().sleeps > 0);
        broker.sharing.unfinished.lock().expect("not poisoned").clear();
        broker.sharing.retire(0);
        assert!(reading.join().expect("no panic").is_ok());
    });
}

fn sockets() -> [(&'static str, OwnedFd, OwnedFd); 3] {
    let (a, b) = UnixStream::pair().expect("a pair");
    let (c, d) = UnixDatagram::pair().expect("a pair");
    let (e, f) = Socket::pair().expect("a pair");
    [("stream", a.into(), b.into()), ("datagram", c.into(), d.into()), ("seqpacket", e.into(), f.into())]
}

#[test]
fn a_buffer_goes_over_every_kind_of_unix_socket() {
    let (_broker, client) = FakeBroker::with_client();
    for (kind, near, far) in sockets() {
        let buffer = client.create_with(5000, &BufferOptions::new().name("frame")).expect("memory");
        buffer.write(..5, SOON).expect("nobody uses it").copy_from_slice(b"hello");
        buffer.send(&near, Access::Write, SOON).expect("there is room");
        let received = client.receive(&far, SOON).expect("a buffer");
        assert_eq!(
            (received.name.as_str(), received.access, received.is_sealed()),
            ("frame", Access::Write, false)
        );
        assert_eq!((received.buffer.len(), received.buffer.handle()), (5000, buffer.handle()), "{kind}");
        assert_eq!(&*received.buffer.read(..5, SOON).expect("nobody uses it"), b"hello");
    }
}

#[test]
fn a_receiver_waits_until_its_deadline_and_no_longer() {
    let (_broker, client) = FakeBroker::with_client();
    for (kind, _near, far) in sockets() {
        let late = client.receive(&far, Duration::from_millis(20)).map(drop);
        assert!(matches!(late, Err(Error::Timeout { .. })), "{kind}: {late:?}");
    }
}

#[test]
fn a_sender_waits_for_room_until_its_deadline_and_no_longer() {
    let (_broker, client) = FakeBroker::with_client();
    let (near, _far) = UnixStream::pair().expect("a pair");
    let buffer = client.create(4096).expect("memory");
    let full = (0..100_000).find_map(|_| buffer.send(&near, Access::Read, Duration::from_millis(1)).err());
    // The number of fds in flight may be bounded before the bytes are.
    assert!(matches!(full, Some(Error::Timeout { .. } | Error::System(_))), "{full:?}");
}

/// What a receiver makes of these bytes and so many fds.
fn hostile(bytes: &[u8], fds: usize) -> Option<TransferError> {
    let (_broker, client) = FakeBroker::with_client();
    let (near, far) = Socket::pair().expect("a pair");
    let (watched, other) = Socket::pair().expect("a pair");
    let sent: Vec<OwnedFd> = (0..fds).map(|_| other.as_fd().try_clone_to_owned().expect("an fd")).collect();
    let borrowed: Vec<_> = sent.iter().map(OwnedFd::as_fd).collect();
    near.send(bytes, &borrowed).expect("there is room");
    drop((sent, other));
    let received = client.receive(&far, SOON).map(drop);
    // Whatever came with it is closed: the other end hangs up.
    eventually("its fds are closed", || {
        watched.set_nonblocking(true).expect("a socket");
        !matches!(watched.recv_plain(&mut [0; 1]), Err(error) if error.would_block())
    });
    match received {
        Err(Error::Transfer(error)) => Some(error),
        other => panic!("{other:?}"),
    }
}

fn header() -> Vec<u8> {
    let mut bytes = b"vgem-buf\x01\x00\x01\x00\x00\x00\x00\x00".to_vec();
    bytes.extend(4096_u64.to_le_bytes());
    bytes.resize(88, 0);
    bytes
}

#[test]
fn hostile_senders_are_told_apart_and_their_fds_closed() {
    let mut wrong = header();
    wrong[0] = b'x';
    assert_eq!(hostile(&wrong, 1), Some(TransferError::Magic { found: *b"xgem-buf" }));
    assert_eq!(hostile(&header(), 0), Some(TransferError::Fds { count: 0 }));
    assert_eq!(hostile(&header(), 2), Some(TransferError::Fds { count: 2 }));
    assert_eq!(hostile(&header(), 253), Some(TransferError::Fds { count: 253 }));
    assert_eq!(hostile(&header()[..87], 1), Some(TransferError::Length { len: 87, wanted: 88 }));
    assert_eq!(
        hostile(&[header(), vec![0]].concat(), 1),
        Some(TransferError::Length { len: 89, wanted: 88 })
    );
}

#[test]
fn a_sender_that_goes_is_told() {
    let (_broker, client) = FakeBroker::with_client();
    for (_, near, far) in sockets().into_iter().filter(|(kind, ..)| *kind != "datagram") {
        drop(near);
        let closed = client.receive(&far, SOON).map(drop);
        assert!(matches!(closed, Err(Error::Transfer(TransferError::Closed))), "{closed:?}");
    }
}

#[test]
fn a_header_in_pieces_on_a_stream_is_put_together() {
    let (_broker, client) = FakeBroker::with_client();
    let (near, far) = UnixStream::pair().expect("a pair");
    let fd = memfd(4096);
    let near = Socket::from(OwnedFd::from(near));
    near.send(&header()[..10], &[fd.as_fd()]).expect("there is room");
    near.send(&header()[10..], &[]).expect("there is room");
    assert_eq!(client.receive(&far, SOON).expect("a buffer").buffer.len(), 4096);
}

#[test]
fn a_sender_cannot_promise_more_than_its_memory_or_its_fd() {
    let (broker, client) = FakeBroker::with_client();
    let (near, far) = Socket::pair().expect("a pair");
    let mut long = header();
    long[16..24].copy_from_slice(&8193_u64.to_le_bytes());
    near.send(&long, &[of_another_client(&broker, Access::Read).as_fd()]).expect("there is room");
    let refused = client.receive(&far, SOON).map(drop);
    assert!(matches!(refused, Err(Error::Local(LocalError::OutOfRange { len: 8193, .. }))), "{refused:?}");
    let mut wide = header();
    wide[10] = 2;
    near.send(&wide, &[of_another_client(&broker, Access::Read).as_fd()]).expect("there is room");
    let refused = client.receive(&far, SOON).map(drop);
    assert!(matches!(refused, Err(Error::Transfer(TransferError::ReadOnly))), "{refused:?}");
}

#[test]
fn a_sealed_result_is_for_reading_here_and_for_writing_by_its_device() {
    let (broker, client) = FakeBroker::with_client();
    let zip = client.device("zip").expect("it is there");
    let queue = zip.queue(0).expect("a queue");
    let sealed = client.create_with(4096, &BufferOptions::new().sealed_for(&zip)).expect("memory");
    assert_eq!((sealed.is_sealed(), sealed.is_writable(), sealed.pinned()), (true, false, 4096));
    let refused = sealed.write(.., SOON).map(drop).map_err(|error| error.to_string());
    assert_eq!(
        refused,
        Err(format!("{} is for reading only: it is sealed against writing", sealed.handle()))
    );
    let input = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&queue, "compress").input(&input).output(&sealed);
    assert!(batch.submit().is_ok());
    let writer = broker.request(|message| match message {
        ClientMessage::CreateObject(create) => Some(create.writer),
        _ => None,
    });
    assert_eq!(writer, zip.id());
}

#[test]
fn an_import_tells_whether_it_was_sealed_against_writing() {
    let (_broker, client) = FakeBroker::with_client();
    let fd = memfd(4096);
    let plain = client.import_fd(fd.try_clone().expect("an fd")).expect("good memory");
    assert!(!plain.is_sealed());
    let other = memfd(4096);
    rustix::io::pwrite(&other, &[1; 4096], 0).expect("a page");
    let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_add_seals(&other, seals).expect("seals");
    let narrow = vgem_os::memory::reopen(other.as_fd(), vgem_os::memory::Access::Read).expect("an fd");
    assert!(client.import_fd(narrow).expect("good memory").is_sealed());
}

#[test]
fn events_come_in_order_with_how_many_were_left_out() {
    let (broker, client) = FakeBroker::with_client();
    let mut monitor = client.monitor().expect("told");
    broker.tell(0, r#"{"at_ns":5,"domain":4,"event":"client_gone","client":7}"#);
    broker.tell(3, r#"{"at_ns":6,"domain":4,"event":"of_a_newer_version"}"#);
    let first = monitor.next(SOON).expect("alive").expect("an event");
    let second = monitor.next(SOON).expect("alive").expect("an event");
    assert_eq!((first.lost, first.entry.map(|entry| entry.at_ns)), (0, Some(5)));
    assert_eq!((second.lost, second.entry.is_none(), second.json.contains("newer")), (3, true, true));
    assert!(monitor.next(Deadline::NOW).expect("alive").is_none());
}

#[test]
fn a_monitor_does_not_disturb_requests_and_its_memory_is_bounded() {
    let (broker, client) = FakeBroker::with_client();
    let mut monitor = client.monitor().expect("told");
    for number in 0..4100 {
        broker.tell(0, &format!(r#"{{"at_ns":{number},"domain":null,"event":"client_gone","client":7}}"#));
        if number % 50 == 0 {
            client.devices().expect("an answer");
        }
    }
    client.devices().expect("an answer");
    let kept = std::iter::from_fn(|| monitor.next(Deadline::NOW).expect("alive")).count();
    assert_eq!(kept, 4096);
    broker.tell(0, r#"{"at_ns":1,"domain":null,"event":"client_gone","client":7}"#);
    assert_eq!(monitor.next(SOON).expect("alive").map(|told| told.lost), Some(4));
}

#[test]
fn a_monitor_ends_with_its_broker() {
    let (mut broker, client) = FakeBroker::with_client();
    let mut monitor = client.monitor().expect("told");
    broker.hang_up();
    assert!(matches!(monitor.next(SOON), Err(Error::BrokerLost { .. })));
}

#[test]
fn events_that_nobody_asked_for_break_the_protocol() {
    let (broker, client) = FakeBroker::with_client();
    broker.tell(0, "{}");
    let lost = (0..2).find_map(|_| client.devices().err());
    assert!(
        matches!(&lost, Some(Error::BrokerLost { why }) if why.contains("broke the protocol")),
        "{lost:?}"
    );
}

#[test]
fn jobs_that_ended_come_in_order_with_how_many_were_left_out() {
    let (broker, client) = FakeBroker::with_client();
    let mut trace = client.trace().expect("told");
    broker.tell_traced(0, 1..=2);
    broker.tell_traced(3, 6..=6);
    let mut next = || trace.next(SOON).expect("alive").expect("a job").point.0;
    assert_eq!([next(), next(), next()], [1, 2, 6]);
    assert_eq!(trace.lost(), 3);
    assert!(trace.next(Deadline::NOW).expect("alive").is_none());
}

#[test]
fn a_trace_does_not_disturb_requests_and_its_memory_is_bounded() {
    let (broker, client) = FakeBroker::with_client();
    let mut trace = client.trace().expect("told");
    for number in 1..=4100 {
        broker.tell_traced(0, number..=number);
        if number % 50 == 0 {
            client.devices().expect("an answer");
        }
    }
    client.devices().expect("an answer");
    let kept = std::iter::from_fn(|| trace.next(Deadline::NOW).expect("alive")).count();
    assert_eq!((kept, trace.lost()), (4096, 0));
    broker.tell_traced(0, 4101..=4101);
    assert_eq!(trace.next(SOON).expect("alive").map(|job| job.point.0), Some(4101));
    assert_eq!(trace.lost(), 4);
}

#[test]
fn jobs_that_nobody_asked_to_be_told_of_break_the_protocol() {
    let (broker, client) = FakeBroker::with_client();
    broker.tell_traced(0, 1..=1);
    let lost = (0..2).find_map(|_| client.devices().err());
    assert!(matches!(&lost, Some(Error::BrokerLost { .. })), "{lost:?}");
}

#[test]
fn threads_import_different_memory_at_once() {
    let (_broker, client) = FakeBroker::with_client();
    let client = Arc::new(client);
    let lens: Vec<u64> = std::thread::scope(|threads| {
        let importing: Vec<_> = (1..=8_u64)
            .map(|pages| {
                let client = Arc::clone(&client);
                threads.spawn(move || client.import_fd(memfd(pages * 4096)).expect("good memory").len())
            })
            .collect();
        importing.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(lens, (1..=8).map(|pages| pages * 4096).collect::<Vec<_>>());
}

#[test]
fn the_seventeenth_import_at_once_waits_its_turn_and_no_longer_than_its_deadline() {
    let (broker, socket) = FakeBroker::pair(Mood::PorterStalls);
    let client = options().request_timeout(Duration::from_millis(300)).over(socket).expect("a greeting");
    let late: Vec<String> = std::thread::scope(|threads| {
        let importing: Vec<_> =
            (0..17).map(|_| threads.spawn(|| client.import_fd(memfd(4096)).map(drop))).collect();
        let ends = importing.into_iter().map(|thread| thread.join().expect("no panic"));
        ends.map(|end| end.expect_err("nobody takes its fd").to_string()).collect()
    });
    let turn = late.iter().filter(|said| said.starts_with("waiting for other imports of this client"));
    let asked = asked(&broker, &client, |message| matches!(message, ClientMessage::Import(_)));
    assert_eq!((asked, turn.count()), (16, 1), "{late:?}");
}

#[test]
fn a_hundred_imports_at_once_all_get_their_turn() {
    let (_broker, client) = FakeBroker::with_client();
    let start = std::sync::Barrier::new(100);
    std::thread::scope(|threads| {
        for _ in 0..100 {
            threads.spawn(|| {
                let fd = memfd(4096);
                start.wait();
                client.import_fd(fd).expect("a turn");
            });
        }
    });
}

#[test]
fn an_export_is_mapped_and_copied_without_a_broker() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = client.create(8192).expect("memory");
    buffer.write(.., SOON).expect("nobody uses it").fill(5);
    let mapped = vgem::MappedExport::map(buffer.export(Access::Read).expect("an export")).expect("an export");
    let mut seen = [0; 4];
    mapped.copy_out(8188, &mut seen).expect("inside");
    assert_eq!((mapped.len(), seen), (8192, [5; 4]));
    let out = mapped.copy_out(8189, &mut seen).map_err(|error| error.to_string());
    assert_eq!(out, Err("bytes 8189..8193 leave a buffer of 8192 bytes".into()));
}

#[test]
fn t52_what_is_no_sealed_memory_is_not_mapped_without_a_broker_either() {
    assert!(matches!(vgem::MappedExport::map(memfd(4096)), Err(Error::System(_))));
}

#[test]
fn a_buffer_that_is_sent_is_mapped_without_a_broker_too() {
    let (_broker, client) = FakeBroker::with_client();
    let (near, far) = UnixStream::pair().expect("a pair");
    client.create(5000).expect("memory").send(&near, Access::Read, SOON).expect("there is room");
    let mapped = vgem::MappedExport::receive(&far, SOON).expect("a buffer");
    assert_eq!((mapped.len(), mapped.copy_out(4999, &mut [0; 2]).is_err()), (5000, true));
}

#[test]
fn a_broker_that_must_make_room_first_is_asked_again() {
    let (broker, client) = FakeBroker::with_client_of(Mood::NoRoomToShow);
    let buffer = shared_buffer(&client);
    assert!(buffer.read(.., SOON).is_ok());
    assert_eq!(asked(&broker, &client, is_observe), 4);
}
