//! T9 to T17: fds that nobody should take, and exports that nobody takes. The attacker may lose; nobody else may wait.
//!
//! Two roads lead to the broker. On the client link fds are refused by the kernel, at the sender. On the channel a porter
//! takes them: it names what it was sent, or hangs in it and is given up after a second, and an honest client
//! beside it feels neither (`honest.rs` says how that is measured).

#![forbid(unsafe_code)]

use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;
use serde_json::json;
use vgem::snapshot::ObjectEntry;
use vgem::{Client, Embedded};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Handle;
use vgem_proto::message::Sender;
use vgem_proto::message::client::{self, ClientMessage, Commit, Export, Import, OpenPorter, Refused};
use vgem_proto::rights::{Access, Rights};
use vgem_proto::snapshot::Topic;
use vgem_tests::attacker::{Attacker, text};
use vgem_tests::daemon::{Daemon, USERS};
use vgem_tests::honest::Honest;
use vgem_tests::raw::{Heard, Raw, create, hand};
use vgem_tests::stranger::Stranger;
use vgem_tests::strangers::{Answer, every_kind, lingering, memfd};
use vgem_tests::{audit, processes};

const SOON: Duration = Duration::from_secs(5);

/// These tests measure time, so one at a time runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn honest(broker: &Embedded) -> Honest {
    Honest::new(broker.client().expect("a client"))
}

/// T9, T11: by the name of what it is, and the channel goes on.
#[test]
fn atk_fd_matrix_a_porter_names_every_kind_and_goes_on() {
    let broker = Embedded::start().expect("a private broker");
    let mut stranger = Stranger::start();
    let mut attacker = Attacker::new(&broker.socket());
    let kinds = every_kind(&mut stranger);
    assert!(kinds.len() >= 25, "only {} kinds", kinds.len());
    for kind in &kinds {
        match (attacker.import(kind.fd.as_fd()), kind.answer) {
            (ClientMessage::Refused(refused), Answer::Unfit(words)) => {
                assert!(text(&refused).contains(words), "{}: {:?}", kind.name, text(&refused));
                assert_eq!(refused.code, ErrorCode::BadParameter, "{}", kind.name);
            }
            (ClientMessage::Imported(imported), Answer::Fits) => {
                assert_eq!((imported.len, imported.state), (8192, 1), "{}", kind.name);
                attacker.raw.close(imported.object);
            }
            (answer, wanted) => panic!("{}: {answer:?} instead of {wanted:?}", kind.name),
        }
    }
    let sent = stranger.ask(json!({ "do": "send_io_uring" }), &[]);
    let refused = ["EINVAL", "ENOSYS", "EPERM"].contains(&sent["error"].as_str().unwrap_or("sent"));
    assert!(refused, "an io_uring instance can be sent on this kernel, so the matrix lacks it: {sent}");
    // As long as its maker has an fd of it, imported memory stays charged.
    drop(kinds);
    processes::until(SOON, "nothing is left", || attacker.raw.status().object_bytes == 0);
}

/// T9: what the broker itself made is not foreign memory.
#[test]
fn atk_fd_matrix_fence_pages_and_exports_are_known_for_what_they_are() {
    let broker = Embedded::start().expect("a private broker");
    let mut attacker = Attacker::new(&broker.socket());
    let device = attacker.raw.device("copy");
    let _queue = attacker.raw.queue(device, 8);
    let pages = std::mem::take(&mut attacker.raw.fds);
    assert_eq!(pages.len(), 2, "a fence page and an interest page");
    for page in &pages {
        let refused = attacker.refused(page.as_fd());
        assert_eq!(refused.code, ErrorCode::Denied);
        assert!(text(&refused).contains("page of fences"), "{}", text(&refused));
    }
    let mut other = Raw::greeted(&broker.socket());
    let (theirs, fd) = other.exported(8192, true);
    let ClientMessage::Imported(imported) = attacker.import(fd.as_fd()) else { panic!("an export fits") };
    assert_eq!((imported.len, imported.state), (8192, 2));
    assert_eq!(imported.rights, Rights::READ | Rights::WRITE | Rights::EXPORT);
    let objects: Vec<ObjectEntry> = attacker.raw.inspect(Topic::Objects);
    assert_eq!(objects.len(), 1, "the same object, not a second one: {objects:?}");
    let read_only = other.export(theirs, Access::Read);
    let mut third = Attacker::new(&broker.socket());
    let ClientMessage::Imported(imported) = third.import(read_only.as_fd()) else { panic!("it fits") };
    assert_eq!(imported.rights, Rights::READ | Rights::EXPORT, "no wider than the fd");
}

/// T9: with every message of a client, valid or not, the kernel refuses the fd at the sender.
#[test]
fn atk_fd_matrix_no_fd_enters_by_the_client_link() {
    let broker = Embedded::start().expect("a private broker");
    let mut stranger = Stranger::start();
    let mut kinds: Vec<OwnedFd> = every_kind(&mut stranger).into_iter().map(|kind| kind.fd).collect();
    kinds.push(lingering(Duration::from_secs(3)).0);
    let rows: Vec<u16> = client::TABLE
        .iter()
        .filter(|row| row.sender == Sender::Client)
        .map(|row| row.opcode)
        .chain([0, 9999])
        .collect();
    assert!(rows.len() > 15);
    let mut raw = Raw::greeted(&broker.socket());
    let broker_pid = raw.status().pid;
    let before = audit::held(broker_pid).fds;
    for fd in &kinds {
        for opcode in &rows {
            let mut packet = hand(7);
            packet[4..6].copy_from_slice(&opcode.to_le_bytes());
            let sent = raw.socket.send(&packet, &[fd.as_fd()]);
            let errno = sent.expect_err("an fd was taken on the client link").errno();
            assert_eq!(errno, vgem_os::Errno::PERM, "opcode {opcode}");
        }
    }
    assert!(
        matches!(raw.hear_within(Duration::from_millis(50)), Heard::Nothing),
        "nothing reached the broker"
    );
    assert_eq!(audit::held(broker_pid).fds, before);
    raw.status();
}

/// The porter's end takes fds, the client's does not: nobody sends any that way.
#[test]
fn atk_fd_matrix_the_clients_end_of_a_channel_takes_no_fds() {
    let broker = Embedded::start().expect("a private broker");
    let attacker = Attacker::new(&broker.socket());
    let asked = json!({ "do": "passes_rights" });
    let answer = Stranger::start().must(asked, &[attacker.channel.as_fd()]);
    assert_eq!(answer["passes"], false, "SO_PASSRIGHTS of the client's end");
}

/// The measure of these tests notices what it is there for.
#[test]
fn a_broker_that_stands_still_now_and_then_is_felt() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let honest = honest(&broker);
    let pid = broker.client().and_then(|client| client.status()).expect("a status").pid;
    let felt = honest.beside(3, || {
        processes::signal(pid, "STOP");
        std::thread::park_timeout(Duration::from_millis(20));
        processes::signal(pid, "CONT");
        std::thread::park_timeout(Duration::from_millis(20));
    });
    assert!(felt.ratio() > 2.0, "{felt:?}");
}

/// T10, T9: every kind and both that stall, again and again, beside an honest client.
#[test]
fn atk_fd_matrix_an_honest_client_does_not_feel_it() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let honest = honest(&broker);
    let mut stranger = Stranger::start();
    let kinds = every_kind(&mut stranger);
    let mut attacker = Attacker::new(&broker.socket());
    let mut next = 0;
    let felt = honest.beside(10, || {
        let kind = &kinds[next % kinds.len()];
        next += 1;
        if let ClientMessage::Imported(imported) = attacker.import(kind.fd.as_fd()) {
            attacker.raw.close(imported.object);
        }
    });
    felt.assert_within_twice("every kind of fd");
}

/// Hands over a socket that stalls whoever closes it last, and is refused by the name of it. As long as its
/// peer, which is returned too, lives and does not read, the close takes its time.
fn linger(attacker: &mut Attacker, keeper: u32) -> (Refused, TcpStream) {
    let (fd, unread) = lingering(Duration::from_secs(3));
    // The porter stands still until its fd is the last one: otherwise it would be us who linger.
    let porter = porter_of(keeper);
    processes::signal(porter, "STOP");
    processes::until(SOON, "the porter stands still", || processes::state(porter) == 'T');
    let request = attacker.raw.start_import(&attacker.channel, &[fd.as_fd()]);
    drop(fd);
    processes::signal(porter, "CONT");
    match attacker.raw.hear_within(SOON) {
        Heard::Message(head, ClientMessage::Refused(refused)) => {
            assert_eq!(head.request, request);
            (refused, unread)
        }
        other => panic!("{other:?}"),
    }
}

/// T10: the import is refused at once, by the name of it; the next one within a second and a bit, for the porter hangs.
#[test]
fn atk_linger_stalls_a_porter_and_nobody_else() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let honest = honest(&broker);
    let mut attacker = Attacker::new(&broker.socket());
    let keeper = u32::try_from(broker.pid()).expect("a pid");
    let begun = Instant::now();
    let (refused, _unread) = linger(&mut attacker, keeper);
    assert!(text(&refused).contains("a socket"), "{}", text(&refused));
    assert!(begun.elapsed() < Duration::from_secs(1), "named before it is closed");

    let memory = memfd(4096, SealFlags::empty());
    let waited = Instant::now();
    let late = attacker.refused(memory.as_fd());
    assert_eq!(late.code, ErrorCode::Late, "{}", text(&late));
    assert!(waited.elapsed() < Duration::from_millis(1500), "{:?}", waited.elapsed());
    for _ in 0..20 {
        assert!(honest.round() < Duration::from_secs(1));
    }
    // The porter was killed; a lingering close ends with its process.
    attacker.again();
    assert!(matches!(attacker.import(memory.as_fd()), ClientMessage::Imported(_)));

    let felt = honest.beside(10, || {
        let (_, _unread) = linger(&mut attacker, keeper);
        let late = attacker.refused(memory.as_fd());
        assert_eq!(late.code, ErrorCode::Late, "{}", text(&late));
        attacker.again();
    });
    felt.assert_within_twice("lingering sockets");
}

/// T12: what is admitted is what cannot change its size, and is writable only if no seal forbids it.
#[test]
fn atk_seals_all_64_combinations() {
    let broker = Embedded::start().expect("a private broker");
    let mut attacker = Attacker::new(&broker.socket());
    let mut fitted = 0;
    for bits in 0..64 {
        let fd = memfd(4096, SealFlags::from_bits_retain(bits));
        let seals = rustix::fs::fcntl_get_seals(&fd).expect("a memfd");
        let size = SealFlags::SHRINK | SealFlags::GROW;
        let fits = seals.contains(size) || !seals.contains(SealFlags::SEAL);
        let writable = !seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
        match attacker.import(fd.as_fd()) {
            ClientMessage::Imported(imported) => {
                assert!(fits, "{seals:?} was taken");
                assert_eq!(imported.rights.contains(Rights::WRITE), writable, "{seals:?}");
                let now = rustix::fs::fcntl_get_seals(&fd).expect("a memfd");
                assert!(now.contains(size), "{seals:?} became {now:?}");
                rustix::fs::ftruncate(&fd, 0).expect_err("its size cannot change any more");
                attacker.raw.close(imported.object);
                fitted += 1;
            }
            ClientMessage::Refused(refused) => {
                assert!(!fits, "{seals:?}: {}", text(&refused));
                assert_eq!(refused.code, ErrorCode::BadParameter, "{seals:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fitted, 40, "32 that may still be sealed, 8 that are");
    drop(attacker);
}

/// T13: a length is charged as it is said, whatever is behind it.
#[test]
fn atk_sparse_an_exbibyte_of_holes_is_refused_with_the_quota() {
    let broker = Embedded::start().expect("a private broker");
    let mut attacker = Attacker::new(&broker.socket());
    for (len, codes) in [
        (1 << 60, &[ErrorCode::TooLarge, ErrorCode::Exhausted, ErrorCode::OutOfRange][..]),
        (65 << 30, &[ErrorCode::Exhausted]),
    ] {
        let refused = attacker.refused(memfd(len, SealFlags::empty()).as_fd());
        assert!(codes.contains(&refused.code), "{refused:?}");
        assert!(refused.value >= len && refused.limit < len, "{refused:?}");
        attacker.owns_nothing();
    }
    // Within the quota it may be had, but not be made ready: nobody pays for its pages yet.
    let fd = memfd(1 << 30, SealFlags::empty());
    let ClientMessage::Imported(imported) = attacker.import(fd.as_fd()) else { panic!("it fits") };
    let refused = attacker.raw.refused(Commit { objects: vec![imported.object] });
    assert_eq!(refused.code, ErrorCode::NotReady);
    assert_eq!(rustix::fs::fstat(&fd).expect("ours").st_blocks, 0, "nobody touched it (T26)");
}

/// T14: two fds, 253 fds, none, bytes that are no Hand: refused, closed, and the channel goes on.
#[test]
fn atk_truncated_control_and_messages_that_are_no_hand() {
    let broker = Embedded::start().expect("a private broker");
    let mut attacker = Attacker::new(&broker.socket());
    let keeper = u32::try_from(broker.pid()).expect("a pid");
    let memory = memfd(4096, SealFlags::empty());
    let porter = porter_of(keeper);
    let before = audit::held(porter).fds;
    let many: Vec<BorrowedFd<'_>> = vec![memory.as_fd(); 253];
    for fds in [&many[..0], &many[..2], &many[..3], &many] {
        let request = attacker.raw.start_import(&attacker.channel, fds);
        match attacker.raw.hear_within(SOON) {
            Heard::Message(head, ClientMessage::Refused(refused)) => {
                assert_eq!(
                    (head.request, refused.code),
                    (request, ErrorCode::Malformed),
                    "{} fds",
                    fds.len()
                );
            }
            other => panic!("{} fds: {other:?}", fds.len()),
        }
    }
    let mut long = hand(0);
    long.resize(100 * 1024, 0);
    for junk in [vec![1, 2, 3], vec![0xff; 64], long] {
        attacker.channel.send(&junk, &[memory.as_fd()]).expect("the porter reads");
    }
    assert!(matches!(attacker.import(memory.as_fd()), ClientMessage::Imported(_)), "the channel goes on");
    // It closes what came after it told of it.
    let closed = || (1..=before).contains(&audit::held(porter).fds);
    processes::until(SOON, "the porter closes all that came", closed);

    // A porter that has too few fds left loses some of them on the way.
    set_nofile(porter, before as u64 + 2);
    let request = attacker.raw.start_import(&attacker.channel, &many);
    match attacker.raw.hear_within(SOON) {
        Heard::Message(head, ClientMessage::Refused(refused)) => {
            assert_eq!((head.request, refused.code), (request, ErrorCode::Malformed), "{}", text(&refused));
        }
        other => panic!("{other:?}"),
    }
    processes::until(SOON, "the porter closes all that came", closed);
}

/// The process of the only porter there is.
fn porter_of(keeper: u32) -> u32 {
    let is_porter = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("porter")
    };
    let porters: Vec<u32> = audit::of_program(keeper, "vgemd").into_iter().filter(is_porter).collect();
    let [porter] = porters[..] else { panic!("not one porter: {porters:?}") };
    porter
}

/// Lowers how many fds another process may have.
fn set_nofile(pid: u32, most: u64) {
    use rustix::process::{Pid, Resource, Rlimit};
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::prlimit(pid, Resource::Nofile, limit).expect("a porter of ours");
}

/// T15: an export that lies in a cycle of sockets is nobody's; the kernel must be made to look.
#[test]
fn atk_cycle_an_export_in_sockets_nobody_can_reach_is_freed() {
    let broker = Embedded::start().expect("a private broker");
    let mut raw = Raw::greeted(&broker.socket());
    let mut stranger = Stranger::start();
    for _ in 0..10 {
        let (handle, fd) = raw.exported(1 << 20, true);
        stranger.hold("cycle", fd, 1 << 20);
        raw.close(handle);
        processes::until(Duration::from_secs(2), "the cycle is collected", || raw.status().objects == 0);
    }
}

/// T16: exports that are not read count against what the whole broker may have on its way, so not for long. The silent
/// are another domain, so that it is not the quota they share which is felt.
#[test]
fn atk_noread_sixty_four_connections_that_do_not_read_exports() {
    let _alone = alone();
    let daemon = Daemon::system().start();
    let honest = Honest::new(Client::connect(daemon.socket()).expect("a client"));
    let client = Client::connect(daemon.socket()).expect("a client");
    let mut user = Stranger::of_uid(USERS[0]);
    // Some may find that the silent ones before them have taken what the domain may have on its way, or left behind
    // unread when they were dropped.
    let mut another = || {
        let mut raw = Raw::welcomed(user.connect(&daemon.socket()))?;
        let ClientMessage::ObjectCreated(created) = raw.ask(create(4096, 1)) else { return None };
        raw.socket.set_nonblocking(true).expect("a socket of ours");
        Some((raw, created.objects[0]))
    };
    let mut silent: Vec<(Raw, Handle)> = std::iter::repeat_with(&mut another).flatten().take(64).collect();
    let (mut sent, mut dropped) = (0_u64, 0_u64);
    let felt = honest.beside(10, || {
        if silent.len() < 64 {
            silent.extend(another());
        }
        silent.retain_mut(|(raw, object)| {
            let ask = Export { object: *object, access: Access::Read, reserved: Zero };
            match raw.send(ask, &[]) {
                Ok(_) => sent += 1,
                Err(e) if e.errno() == vgem_os::Errno::AGAIN => {}
                // Dropped by the broker.
                Err(_) => {
                    dropped += 1;
                    return false;
                }
            }
            true
        });
        // Their silence is the attack, not a flood: some thousand exports are far beyond what a domain may leave unread.
        std::thread::park_timeout(Duration::from_millis(50));
    });
    eprintln!("{sent} exports asked for and not read, {dropped} connections dropped");
    felt.assert_within_twice("64 connections that do not read");
    assert!(sent > 2000, "only {sent} exports were asked for");
    // All of them go, whether or not they ask for more, and what was on its way to them. One that is dropped may not
    // notice: its end stays as it is, with what lies unread there, until it reads or closes it.
    processes::until(SOON, "the silent are dropped", || client.status().expect("a status").clients == 2);
    drop(silent);
    processes::until(SOON, "their objects are gone", || client.status().expect("a status").objects == 1);
}

/// T17: a client that refuses fds hurts itself.
#[test]
fn atk_refuse_fds_is_that_clients_failure() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let before = client.status().expect("a status");
    let mut raw = Raw::greeted(&broker.socket());
    let object = raw.object(true);
    assert!(raw.socket.set_pass_rights(false).expect("a socket of ours"), "this kernel lacks SO_PASSRIGHTS");
    let asks: [ClientMessage; 3] = [
        Export { object, access: Access::Read, reserved: Zero }.into(),
        create(4096, 4).into(),
        OpenPorter {}.into(),
    ];
    for ask in asks {
        for _ in 0..3 {
            let refused = raw.refused(ask.clone());
            assert_eq!(refused.code, ErrorCode::System, "{}", text(&refused));
        }
    }
    let during = client.status().expect("a status");
    assert_eq!(during.objects, before.objects + 1, "what could not be delivered does not stay");
    assert!(raw.socket.set_pass_rights(true).expect("a socket of ours"));
    drop(raw.export(object, Access::Read));
    raw.close(object);
    drop(raw);
    processes::until(SOON, "the ledger returns to its start", || {
        let after = client.status().expect("a status");
        (after.clients, after.objects, after.object_bytes)
            == (before.clients, before.objects, before.object_bytes)
    });
}

/// An import without its fd, an fd without its import, more of both than may wait.
#[test]
fn imports_and_fds_that_do_not_meet_are_refused_or_forgotten() {
    let broker = Embedded::start().expect("a private broker");
    let mut attacker = Attacker::new(&broker.socket());
    let memory = memfd(4096, SealFlags::empty());
    let lonely = attacker.raw.refused(Import { name: vec![] });
    assert_eq!(lonely.code, ErrorCode::Late, "{}", text(&lonely));
    attacker.again();
    for request in 1..100 {
        // Numbers that no import will ever have.
        drop(attacker.channel.send(&hand(1_000_000 + request), &[memory.as_fd()]));
    }
    let end = Instant::now() + SOON;
    while !matches!(attacker.import(memory.as_fd()), ClientMessage::Imported(_)) {
        assert!(Instant::now() < end, "leftovers are in the way");
        attacker.again();
    }
    let broker_pid = attacker.raw.status().pid;
    drop(attacker);
    processes::until(SOON, "what nobody asked for is closed", || {
        let mut raw = Raw::greeted(&broker.socket());
        raw.status().objects == 0 && audit::held(broker_pid).memory_fds < 40
    });
}
