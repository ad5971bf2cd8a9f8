//! T10, at its worst: an fd whose close never returns, beyond every signal.
//!
//! These tests are alone in their program, and start no process once they have such an fd: a process that is forked
//! with it would stay in its own exec for ever, with everything else that it inherited.

#![forbid(unsafe_code)]

use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;
use vgem::Embedded;
use vgem::snapshot::{Event, EventEntry};
use vgem_os::seqpacket::{Listener, Socket};
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, OpenPorter};
use vgem_tests::attacker::{Attacker, text};
use vgem_tests::honest::Honest;
use vgem_tests::processes;
use vgem_tests::raw::{Heard, Raw};
use vgem_tests::strangers::{FuseFile, memfd};

const SOON: Duration = Duration::from_secs(5);

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// T10: a close that never returns and that no signal ends. The porter stays charged, its client gets no other, the
/// domain only as many as its quota, and all others go on.
#[test]
fn atk_fuse_close_costs_a_porter_and_nobody_else_anything() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let mut monitor = Raw::greeted(&broker.socket());
    monitor.monitor();
    let honest = Honest::new(broker.client().expect("a client"));
    let file = FuseFile::open();
    let mut attacker = Attacker::new(&broker.socket());
    let refused = attacker.refused(file.as_fd());
    assert!(text(&refused).contains("a file"), "{}", text(&refused));
    // The porter is in close(2) now, for ever.
    file.holds_a_close();
    let memory = memfd(4096, SealFlags::empty());
    let late = attacker.refused(memory.as_fd());
    assert_eq!(late.code, ErrorCode::Late, "{}", text(&late));
    let (client, pid) = stalled(&mut monitor);
    assert!(client > 0 && processes::is_alive(pid), "it is beyond SIGKILL");
    // Its client may ask for another, but it stays charged: the domain has as many as its quota, and no more.
    attacker.again();
    assert!(matches!(attacker.import(memory.as_fd()), ClientMessage::Imported(_)));
    let (mut hung, mut full) = (1, None);
    let felt = honest.beside(10, || {
        // One without a message for ten seconds ends by itself, and this may take longer.
        assert!(matches!(attacker.import(memory.as_fd()), ClientMessage::Imported(_)));
        let mut raw = Raw::greeted(&broker.socket());
        match raw.ask(OpenPorter {}) {
            ClientMessage::PorterOpened(_) => {
                let channel = Socket::from(raw.fds.pop().expect("a channel"));
                let refused = Attacker { raw, channel }.refused(file.as_fd());
                assert!(text(&refused).contains("a file"), "{}", text(&refused));
                // Gone with its connection, while its porter cannot end.
                file.holds_a_close();
                hung += 1;
            }
            ClientMessage::Refused(refused) => full = Some(refused),
            other => panic!("{other:?}"),
        }
    });
    felt.assert_within_twice("closes that never return");
    let full = full.expect("a limit to porters that hang");
    assert_eq!((full.code, full.limit, hung), (ErrorCode::Exhausted, 64, 63), "{}", text(&full));
    // Without its server every close returns, and the charges come back.
    drop(file);
    processes::until(SOON, "the porters end", || !processes::is_alive(pid));
    processes::until(SOON, "the domain may have porters again", || {
        matches!(Raw::greeted(&broker.socket()).ask(OpenPorter {}), ClientMessage::PorterOpened(_))
    });
}

/// Whose porter stalled, and the porter's process, as the broker tells.
fn stalled(monitor: &mut Raw) -> (u64, u32) {
    let end = Instant::now() + SOON;
    loop {
        let silence = monitor.hear_within(Duration::from_millis(20));
        assert!(matches!(silence, Heard::Nothing), "{silence:?}");
        for json in monitor.events.drain(..) {
            let entry: EventEntry = serde_json::from_str(&json).expect("an event of this version");
            if let Event::PorterStalled { client, pid } = entry.event {
                return (client, pid);
            }
        }
        assert!(Instant::now() < end, "PorterStalled is not told within {SOON:?}");
    }
}

/// A daemon ends although a porter of it cannot.
#[test]
fn atk_fuse_close_does_not_keep_the_daemon_from_ending() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let file = FuseFile::open();
    let mut attacker = Attacker::new(&broker.socket());
    attacker.refused(file.as_fd());
    let begun = Instant::now();
    drop(broker);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// A door is looked at by a doorman, which is told from its name what it was given, and which closing it costs.
#[test]
fn atk_fuse_as_a_door_costs_a_doorman_and_nobody_else_anything() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let admin = broker.client().expect("a client");
    let dir = tempfile::tempdir().expect("a directory");
    let listener = Listener::bind(dir.path().join("s"), 0o600).expect("a socket");
    let (close, _held) = rustix::pipe::pipe().expect("a pipe");
    let file = FuseFile::open();
    let options = vgem::DomainOptions::new("box");
    for (listen, close, what) in [
        (file.as_fd(), close.as_fd(), "the listening socket: a file was sent"),
        (listener.as_fd(), file.as_fd(), "the close fd: a file was sent"),
    ] {
        let refused = admin.create_domain_at(listen, close, &options).expect_err("it does not fit");
        assert!(refused.to_string().contains(what), "{refused}");
    }
    // Both doormen hang in close(2), and a third takes what fits.
    let made = admin.create_domain_at(&listener, &close, &options).expect("a domain");
    assert_eq!(vgem::Client::connect(dir.path().join("s")).expect("a client").domain(), made.domain);
}
