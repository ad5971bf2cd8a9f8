//! A doorman over real socket pairs, with the test as the creator and as the broker.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tempfile::TempDir;
use vgem_proto::message::porter::{Hand, HandDoor};

use super::*;

/// Long enough never to come in a test that does not wait for it.
const LONG: Duration = Duration::from_secs(600);

/// A doorman that serves on a thread of its own, not confined: confinement would bind the test, too.
struct Rig {
    channel: Socket,
    link: Socket,
    /// The doorman's end of the link, too.
    theirs: Socket,
    doorman: JoinHandle<Result<(), Failure>>,
    dir: TempDir,
}

impl Rig {
    fn new(idle: Duration) -> Self {
        let (channel, doormans) = Socket::pair().expect("a pair");
        let (link, theirs) = Socket::pair().expect("a pair");
        link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let copy = Socket::from(theirs.as_fd().try_clone_to_owned().expect("a number"));
        let doorman = std::thread::spawn(move || serve(doormans, copy, idle));
        Self { channel, link, theirs, doorman, dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("box.sock")
    }

    fn listener(&self) -> Listener {
        Listener::bind(self.path(), 0o600).expect("a socket")
    }

    fn connect(&self) -> Socket {
        let client = Socket::connect(self.path()).expect("it listens");
        client.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        client
    }

    fn hand(&self, request: u64, fds: &[BorrowedFd<'_>]) {
        self.channel.send(&HandDoor {}.encode(request, Time(0), 0), fds).expect("the doorman reads");
    }

    /// What the broker is told.
    fn told(&self) -> (u64, PorterMessage, Vec<OwnedFd>) {
        let (mut buffer, mut fds) = (vec![0; limits::MESSAGE_LEN], Vec::new());
        let Packet::Data { len } = self.link.recv(&mut buffer, &mut fds).expect("a message in time") else {
            panic!("the doorman went away");
        };
        let decoded = PorterMessage::decode(&buffer[..len], Sender::Porter, fds.len());
        let (head, message) = decoded.expect("a doorman speaks well");
        (head.request, message, fds)
    }

    /// Hands over a door that fits; the close fd's other end.
    fn open(&self, listener: &Listener) -> OwnedFd {
        let (close, held) = rustix::pipe::pipe().expect("a pipe");
        self.hand(7, &[listener.as_fd(), close.as_fd()]);
        let path = self.path().into_os_string().into_encoded_bytes();
        assert_eq!(self.told().1, DoorFits { path }.into());
        held
    }

    fn visitor(&self) -> Socket {
        match self.told() {
            (0, PorterMessage::Visitor(_), mut fds) => {
                Socket::connected(fds.remove(0)).expect("a connection")
            }
            other => panic!("{other:?}"),
        }
    }

    fn unfit(&self) -> String {
        match self.told() {
            (7, PorterMessage::Unfit(unfit), _) => String::from_utf8(unfit.text).expect("words"),
            other => panic!("{other:?}"),
        }
    }

    /// The doorman ends well, by itself.
    fn ends(self) {
        assert_eq!(self.doorman.join().expect("no panic"), Ok(()));
    }
}

fn is_closed(client: &Socket) -> bool {
    match client.recv_plain(&mut [0; 8]) {
        Ok(Packet::Closed) => true,
        Err(e) => e.errno() == Errno::CONNRESET,
        Ok(_) => false,
    }
}

// M-256
#[test]
fn whoever_connects_is_brought_and_is_who_the_kernel_says() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let _held = rig.open(&listener);
    let client = rig.connect();
    client.send(b"early", &[]).expect("room");
    let visitor = rig.visitor();
    assert_eq!(visitor.peer().expect("who").pid, getpid().as_raw_nonzero().get());
    let mut buffer = [0; 8];
    assert_eq!(visitor.recv_plain(&mut buffer), Ok(Packet::Data { len: 5 }));
    visitor.send(b"ok", &[]).expect("room");
    assert_eq!(client.recv_plain(&mut buffer), Ok(Packet::Data { len: 2 }));
}

// M-262
#[test]
fn it_ends_when_the_close_fd_hangs_up_while_it_waits_for_somebody() {
    let rig = Rig::new(LONG);
    let held = rig.open(&rig.listener());
    drop(held);
    assert_eq!(rig.told().1, DoorEnds {}.into());
    rig.ends();
}

// M-262
#[test]
fn what_is_written_to_a_close_fd_means_nothing_to_a_pipe_and_ends_an_eventfd() {
    let rig = Rig::new(LONG);
    let (listener, count) = (rig.listener(), eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
    rig.hand(7, &[listener.as_fd(), count.as_fd()]);
    assert!(matches!(rig.told().1, PorterMessage::DoorFits(_)));
    rustix::io::write(&count, &1_u64.to_ne_bytes()).expect("room");
    assert_eq!(rig.told().1, DoorEnds {}.into());
    rig.ends();
    let rig = Rig::new(LONG);
    let held = rig.open(&rig.listener());
    rustix::io::write(&held, b"nonsense").expect("room");
    let _client = rig.connect();
    rig.visitor();
    drop(held);
    assert_eq!(rig.told().1, DoorEnds {}.into());
}

#[test]
fn a_process_that_lives_is_a_close_fd() {
    let rig = Rig::new(LONG);
    let (listener, own) = (rig.listener(), pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd"));
    rig.hand(7, &[listener.as_fd(), own.as_fd()]);
    assert!(matches!(rig.told().1, PorterMessage::DoorFits(_)));
}

#[test]
fn it_ends_when_the_broker_is_gone() {
    let mut rig = Rig::new(LONG);
    let _held = rig.open(&rig.listener());
    rig.link = Socket::pair().expect("a pair").0;
    rig.ends();
}

#[test]
fn it_ends_when_nothing_comes() {
    Rig::new(Duration::from_millis(20)).ends();
}

// M-257
#[test]
fn what_is_no_listening_socket_is_refused_by_its_name() {
    let named = tempfile::NamedTempFile::new().expect("a file");
    let file = File::open(named.path()).expect("it is there");
    let (connected, _peer) = Socket::pair().expect("a pair");
    let (pipe, _end) = rustix::pipe::pipe().expect("a pipe");
    let path = File::open("/").expect("the root");
    let all: [(OwnedFd, &str); 5] = [
        (file.into(), "a file was sent"),
        (stream_listener(), "SOCK_STREAM of AF_UNIX, listening"),
        (connected.into(), "SOCK_SEQPACKET of AF_UNIX, not listening"),
        (pipe, "a pipe was sent"),
        (path.into(), "was sent"),
    ];
    for (fd, said) in all {
        let rig = Rig::new(LONG);
        let (close, _held) = rustix::pipe::pipe().expect("a pipe");
        rig.hand(7, &[fd.as_fd(), close.as_fd()]);
        let text = rig.unfit();
        assert!(text.starts_with("the listening socket: ") && text.contains(said), "{text}");
        rig.ends();
    }
}

/// A listening stream socket, the folder of which is gone.
fn stream_listener() -> OwnedFd {
    let dir = tempfile::tempdir().expect("a folder");
    std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("a socket").into()
}

// M-257
#[test]
fn what_cannot_hang_up_or_has_is_no_close_fd() {
    let (hung_up, other_end) = rustix::pipe::pipe().expect("a pipe");
    drop(other_end);
    let all: [(OwnedFd, &str); 3] = [
        (tempfile::NamedTempFile::new().expect("a file").into_file().into(), "a file was sent: only a pipe"),
        (hung_up, "a pipe was sent: it has hung up already"),
        (File::open("/dev/null").expect("it is there").into(), "the device /dev/null was sent"),
    ];
    for (fd, said) in all {
        let rig = Rig::new(LONG);
        let listener = rig.listener();
        rig.hand(7, &[listener.as_fd(), fd.as_fd()]);
        let text = rig.unfit();
        assert!(text.starts_with("the close fd: ") && text.contains(said), "{text}");
        rig.ends();
    }
}

// M-258
#[test]
fn anything_but_one_handdoor_with_two_fds_is_refused() {
    let one = Rig::new(LONG);
    let listener = one.listener();
    one.hand(7, &[listener.as_fd()]);
    assert!(one.unfit().contains("one HandDoor"));
    one.ends();
    let other = Rig::new(LONG);
    other.channel.send(&Hand {}.encode(7, Time(0), 0), &[listener.as_fd()]).expect("it reads");
    assert!(other.unfit().contains("one HandDoor"));
    other.ends();
}

// M-259
#[test]
fn atk_a_connection_in_which_fds_lie_is_closed_and_the_next_is_brought() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let file = tempfile::tempfile().expect("a file");
    // Before the door is handed over nobody refuses fds yet.
    let (first, second) = (rig.connect(), rig.connect());
    first.send(b"plain", &[]).expect("room");
    first.send(b"fds", &[file.as_fd()]).expect("fds are taken");
    second.send(b"plain", &[]).expect("room");
    let _held = rig.open(&listener);
    let visitor = rig.visitor();
    let mut buffer = [0; 8];
    assert_eq!(visitor.recv_plain(&mut buffer), Ok(Packet::Data { len: 5 }));
    visitor.send(b"ok", &[]).expect("room");
    assert_eq!(second.recv_plain(&mut buffer), Ok(Packet::Data { len: 2 }));
    assert!(is_closed(&first));
}

// M-259
#[test]
fn atk_whoever_shares_the_socket_cannot_have_fds_taken_on_a_connection_that_was_brought() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let _held = rig.open(&listener);
    if !listener.set_pass_rights(true).expect("a socket of ours") {
        // A kernel that cannot refuse.
        return;
    }
    let client = rig.connect();
    let visitor = rig.visitor();
    let file = tempfile::tempfile().expect("a file");
    let refused = client.send(b"fds", &[file.as_fd()]).expect_err("fds are refused");
    assert_eq!(refused.errno(), Errno::PERM);
    drop(visitor);
}

// M-260
#[test]
fn atk_no_more_than_a_handful_is_accepted_that_the_broker_has_not_taken() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let _held = rig.open(&listener);
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(rig.connect());
        let on_way = rig.theirs.unread().expect("a socket of ours");
        assert!(on_way <= 3 * ON_WAY, "{on_way} bytes are on their way");
    }
    let brought: Vec<Socket> = clients.iter().map(|_| rig.visitor()).collect();
    assert_eq!(brought.len(), 64);
}

// M-263
#[test]
fn a_socket_that_is_shut_is_told_of_and_the_close_fd_is_waited_for() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let held = rig.open(&listener);
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
    assert!(matches!(rig.told().1, PorterMessage::DoorShut(_)));
    drop(held);
    assert_eq!(rig.told().1, DoorEnds {}.into());
    rig.ends();
}

// M-262
#[test]
fn atk_o_nonblock_set_or_cleared_by_whoever_shares_the_socket_changes_nothing() {
    let rig = Rig::new(LONG);
    let listener = rig.listener();
    let held = rig.open(&listener);
    for nonblocking in [true, false, true] {
        listener.set_nonblocking(nonblocking).expect("a socket of ours");
        let _client = rig.connect();
        rig.visitor();
    }
    // Somebody else accepts first: who comes then is not brought, and the end is seen all the same.
    listener.set_nonblocking(false).expect("a socket of ours");
    drop(held);
    assert_eq!(rig.told().1, DoorEnds {}.into());
    rig.ends();
}
