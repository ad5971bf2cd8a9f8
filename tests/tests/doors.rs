//! Domains at a listening socket that the caller has bound, with real processes: whoever connects there is in the domain, and
//! whoever shares the socket can spoil that door and nothing else.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vgem::snapshot::DomainEntry;
use vgem::{Client, DomainOptions, Embedded, ErrorCode, MadeDomain, QuotaKind, Result};
use vgem_os::seqpacket::{Listener, Packet, Socket};
use vgem_tests::honest::Honest;
use vgem_tests::processes;
use vgem_tests::raw::Raw;
use vgem_tests::stranger::Stranger;
use vgem_tests::strangers::every_kind;

const SOON: Duration = Duration::from_secs(10);

/// A daemon, who administers, and a socket of the test's own.
struct Box {
    broker: Embedded,
    admin: Client,
    dir: tempfile::TempDir,
    listener: Option<Listener>,
    /// The end of the close fd that holds the domain.
    held: Option<OwnedFd>,
}

impl Box {
    fn new() -> Self {
        let broker = Embedded::start().expect("a private broker");
        let admin = broker.client().expect("a client");
        let dir = tempfile::tempdir().expect("a directory");
        Self { broker, admin, dir, listener: None, held: None }
    }

    /// With its domain made.
    fn made(options: &DomainOptions) -> (Self, MadeDomain) {
        let mut own = Self::new();
        let made = own.make(options).expect("a domain");
        (own, made)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("anywhere.sock")
    }

    fn make(&mut self, options: &DomainOptions) -> Result<MadeDomain> {
        let listener = Listener::bind(self.path(), 0o600).expect("a socket");
        let (close, held) = rustix::pipe::pipe().expect("a pipe");
        let made = self.admin.create_domain_at(&listener, &close, options);
        (self.listener, self.held) = (Some(listener), Some(held));
        made
    }

    fn client(&self) -> Client {
        Client::connect(self.path()).expect("a client of the domain")
    }

    fn entry(&self, made: &MadeDomain) -> Option<DomainEntry> {
        let all = self.admin.domain_entries().expect("domains");
        all.into_iter().find(|entry| entry.domain == made.domain.0)
    }

    fn is_gone(&self, made: &MadeDomain) {
        processes::until(SOON, "the domain is gone", || self.entry(made).is_none());
    }

    fn doormen(&self) -> Vec<u32> {
        let keeper = u32::try_from(self.broker.pid()).expect("a process");
        let is_doorman = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"doorman"))
        };
        processes::tree(keeper).into_iter().filter(is_doorman).collect()
    }

    /// A process that ends has its fds for longer than its command line.
    fn nobody_listens(&self) {
        processes::until(SOON, "nobody listens", || Socket::connect(self.path()).is_err());
    }

    fn no_doorman_is_left(&self) {
        processes::until(SOON, "the doorman has ended", || self.doormen().is_empty());
    }
}

/// Whether a connection that is still there is ended by the daemon.
fn is_ended(client: &Client) -> bool {
    client.status().is_err()
}

fn ends(client: &Client) {
    processes::until(SOON, "the client is disconnected", || is_ended(client));
}

// M-256
#[test]
fn whoever_connects_to_the_socket_is_in_the_domain_with_its_quota() {
    let (own, made) = Box::made(&DomainOptions::new("box").quota(QuotaKind::Bytes, 8192).may_use("copy"));
    assert_eq!(made.socket, own.path());
    let (a, b) = (own.client(), own.client());
    assert_eq!((a.domain(), b.domain()), (made.domain, made.domain));
    let _held = a.create(8192).expect("within the quota");
    let refused = b.create(4096).expect_err("beyond the quota");
    assert_eq!(refused.code(), Some(ErrorCode::Exhausted));
    assert!(a.device("zip").is_err() && a.device("copy").is_ok());
    assert!(a.domain_entries().expect("its own").len() == 1);
    let entry = own.entry(&made).expect("it lives");
    assert_eq!((entry.clients, entry.origin.as_str(), entry.creator), (2, "socket", 0));
}

// M-255
#[test]
fn nobody_enters_and_the_domain_ends_when_the_close_fd_hangs_up() {
    let (mut own, made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    own.held = None;
    ends(&inside);
    own.is_gone(&made);
    own.no_doorman_is_left();
    own.listener = None;
    own.nobody_listens();
    own.make(&DomainOptions::new("box")).expect("the name is free");
}

// M-255
#[test]
fn the_creator_may_go_while_somebody_holds_the_close_fd() {
    let mut own = Box::new();
    let (listener, close) = (Listener::bind(own.path(), 0o600).expect("a socket"), sleeper());
    let creator = own.broker.client().expect("a client");
    let hold = rustix::process::pidfd_open(pid(&close), rustix::process::PidfdFlags::empty());
    let made = creator
        .create_domain_at(&listener, hold.expect("a pidfd"), &DomainOptions::new("box"))
        .expect("a domain");
    drop((creator, listener));
    let inside = own.client();
    own.admin.create(4096).expect("the daemon goes on");
    assert!(!is_ended(&inside), "the domain lives");
    end(close);
    ends(&inside);
    own.is_gone(&made);
    own.listener = None;
}

fn sleeper() -> Child {
    Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep starts")
}

fn pid(child: &Child) -> rustix::process::Pid {
    let raw = i32::try_from(child.id()).expect("a process");
    rustix::process::Pid::from_raw(raw).expect("a process")
}

fn end(mut child: Child) {
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
}

// M-258
#[test]
fn a_doorman_is_confined() {
    let (own, _made) = Box::made(&DomainOptions::new("box"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", own.doormen()[0])).expect("it lives");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

// M-255
#[test]
fn a_doorman_that_is_killed_ends_its_domain() {
    let (own, made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    let doormen = own.doormen();
    assert_eq!(doormen.len(), 1);
    processes::signal(doormen[0], "KILL");
    ends(&inside);
    own.is_gone(&made);
    own.admin.create(4096).expect("the daemon goes on");
}

// M-198
#[test]
fn closing_the_domain_ends_its_doorman_and_draining_lets_nobody_new_in() {
    let (own, made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    own.admin.drain_domain(made.domain).expect("it may");
    assert!(Client::connect(own.path()).is_err() && !is_ended(&inside));
    own.admin.close_domain(made.domain).expect("it may");
    ends(&inside);
    own.no_doorman_is_left();
}

// M-263
#[test]
fn atk_a_socket_that_is_shut_by_its_owner_drains_the_domain() {
    let (own, made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    let listener = own.listener.as_ref().expect("ours");
    rustix::net::shutdown(listener, rustix::net::Shutdown::Both).expect("it listens");
    processes::until(SOON, "it is drained", || {
        own.entry(&made).is_some_and(|entry| entry.state == "draining")
    });
    assert!(!is_ended(&inside) && Client::connect(own.path()).is_err());
    drop(inside);
    own.is_gone(&made);
    own.no_doorman_is_left();
}

#[test]
fn an_owner_that_closes_its_copy_of_the_socket_changes_nothing() {
    let (mut own, made) = Box::made(&DomainOptions::new("box"));
    own.listener = None;
    assert_eq!(own.client().domain(), made.domain);
}

// M-262
#[test]
fn atk_an_accept_that_waits_for_ever_spoils_its_own_door_and_nothing_else() {
    let (mut own, made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let listener = own.listener.as_ref().expect("ours");
        // Somebody accepts first, and has the doorman wait where it was told that somebody is there.
        let rival = || {
            let mut stolen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                listener.set_nonblocking(true).expect("ours");
                stolen.extend(listener.accept().ok());
                listener.set_nonblocking(false).expect("ours");
                stolen.truncate(8);
            }
        };
        scope.spawn(rival);
        for _ in 0..200 {
            let knock = Socket::connect(own.path()).expect("it listens");
            own.admin.create(4096).expect("nobody else waits");
            drop(knock);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!is_ended(&inside));
    // Whatever the doorman waits in, it is woken by the end.
    own.held = None;
    ends(&inside);
    own.is_gone(&made);
    own.no_doorman_is_left();
}

// M-259
#[test]
fn atk_fds_that_are_sent_before_anybody_looks_never_get_to_the_broker() {
    let own = Box::new();
    let listener = Listener::bind(own.path(), 0o600).expect("a socket");
    let (close, held) = rustix::pipe::pipe().expect("a pipe");
    let file = tempfile::tempfile().expect("a file");
    let early: Vec<Socket> = (0..8).map(|_| Socket::connect(own.path()).expect("it listens")).collect();
    for socket in &early {
        socket.set_recv_timeout(Some(SOON)).expect("ours");
        socket.send(b"fds", &[file.as_fd()]).expect("nobody refuses them yet");
    }
    let made = own.admin.create_domain_at(&listener, &close, &DomainOptions::new("box")).expect("a domain");
    for socket in early {
        // Closed with something unread in it is a reset.
        let got = socket.recv_plain(&mut [0; 64]);
        assert!(matches!(got, Ok(Packet::Closed) | Err(_)), "{got:?}");
        assert!(!got.is_err_and(|e| e.would_block()), "it is closed");
    }
    assert_eq!(own.entry(&made).map(|entry| entry.clients), Some(0));
    assert_eq!(own.client().domain(), made.domain);
    // With whoever shares the socket it is the same as long as the kernel can refuse.
    if listener.set_pass_rights(true).expect("ours") {
        let later = Raw::greeted(&own.path());
        let refused = later.socket.send(b"fds", &[file.as_fd()]).expect_err("fds are refused");
        assert_eq!(refused.errno(), vgem_os::Errno::PERM);
    }
    drop(held);
}

// M-257
#[test]
fn atk_every_kind_of_fd_that_is_no_listening_socket_is_refused_by_its_name() {
    let own = Box::new();
    let mut stranger = Stranger::start();
    let (close, _held) = rustix::pipe::pipe().expect("a pipe");
    for strange in every_kind(&mut stranger) {
        let refused = own.admin.create_domain_at(&strange.fd, &close, &DomainOptions::new("box"));
        let refused = refused.expect_err(strange.name);
        assert_eq!(refused.code(), Some(ErrorCode::BadParameter), "{}: {refused}", strange.name);
        assert!(refused.to_string().contains("the listening socket: "), "{}: {refused}", strange.name);
    }
    own.no_doorman_is_left();
    assert!(own.admin.domain_entries().expect("domains").iter().all(|entry| entry.origin != "socket"));
}

// M-257
#[test]
fn a_stream_socket_and_a_close_fd_that_has_hung_up_are_refused_with_what_they_are() {
    let mut own = Box::new();
    let stream = std::os::unix::net::UnixListener::bind(own.dir.path().join("stream")).expect("a socket");
    let listener = Listener::bind(own.path(), 0o600).expect("a socket");
    let (close, held) = rustix::pipe::pipe().expect("a pipe");
    let ask = |listen: &dyn AsFd, close: &dyn AsFd, options: &DomainOptions| {
        let refused = own.admin.create_domain_at(listen.as_fd(), close.as_fd(), options);
        let refused = refused.expect_err("it does not fit");
        assert_eq!(refused.code(), Some(ErrorCode::BadParameter), "{refused}");
        refused.to_string()
    };
    let options = DomainOptions::new("box");
    let said = ask(&stream, &close, &options);
    assert!(said.contains("SOCK_STREAM of AF_UNIX, listening"), "{said}");
    let said = ask(&listener, &close, &options.clone().stays());
    assert!(said.contains("close fd"), "{said}");
    let said = ask(&listener, &tempfile::NamedTempFile::new().expect("a file").into_file(), &options);
    assert!(said.contains("the close fd: a file was sent"), "{said}");
    drop(held);
    let said = ask(&listener, &close, &options);
    assert!(said.contains("hung up already"), "{said}");
    drop(listener);
    own.nobody_listens();
    own.make(&options).expect("nothing of that is left");
}

// M-194
#[test]
fn who_does_not_administer_makes_no_domain_at_a_socket() {
    let (own, _made) = Box::made(&DomainOptions::new("box"));
    let inside = own.client();
    let listener = Listener::bind(own.dir.path().join("other"), 0o600).expect("a socket");
    let (close, _held) = rustix::pipe::pipe().expect("a pipe");
    let refused = inside.create_domain_at(&listener, &close, &DomainOptions::new("inner"));
    assert_eq!(refused.expect_err("refused").code(), Some(ErrorCode::Denied));
    assert_eq!(own.doormen().len(), 1);
}

// M-260
#[test]
fn atk_a_flood_at_one_door_is_no_wait_at_another() {
    let (own, made) = Box::made(&DomainOptions::new("box").quota(QuotaKind::Connections, 4));
    let honest = Honest::new(own.broker.client().expect("a client"));
    let stop = AtomicBool::new(false);
    let path = own.path();
    let slowest = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(Socket::connect(&path));
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let begun = Instant::now();
            let other = own.broker.client().expect("the other door is open");
            other.create(4096).expect("and whoever came is served");
            slowest = slowest.max(begun.elapsed());
            honest.round();
        }
        stop.store(true, Ordering::Relaxed);
        slowest
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(own.entry(&made).is_some_and(|entry| entry.clients <= 4));
}

// M-256
#[test]
fn the_async_client_makes_the_same() {
    let own = Box::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = Listener::bind(own.path(), 0o600).expect("a socket");
    let (close, held) = rustix::pipe::pipe().expect("a pipe");
    let made = runtime.block_on(async {
        let client = vgem::aio::Client::connect(own.broker.socket()).await.expect("a client");
        client.create_domain_at(&listener, &close, &DomainOptions::new("box")).await.expect("a domain")
    });
    let inside = own.client();
    assert_eq!(inside.domain(), made.domain);
    drop(held);
    ends(&inside);
}
