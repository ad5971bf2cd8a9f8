//! Every kind of fd that a process can send, for those who should not take it.
//!
//! | what | made by |
//! |---|---|
//! | pipes, sockets, notifiers, files, devices, memory | this process, through types |
//! | secret memory, userfaultfd | `stranger.py`: there is no safe call for them |
//! | a file whose close never returns | `vgem-test-fuse`, in a mount namespace of its own |
//! | a socket whose close takes seconds | a TCP connection with SO_LINGER whose peer does not read |
//!
//! A [`Strange`] says what an import of it must be answered, so that the matrix and the table of kinds are one. The two
//! last stall whoever closes them last and are apart, since their owner must take care not to be the one.

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::time::{TimerfdClockId, TimerfdFlags};
use serde_json::json;
use vgem_os::seqpacket::{Packet, Socket};

use crate::programs;
use crate::stranger::Stranger;

/// What an import must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Refused, with these words.
    Unfit(&'static str),
    /// Imported.
    Fits,
}

/// An fd and what an import of it must be answered.
#[derive(Debug)]
pub struct Strange {
    /// What it is.
    pub name: &'static str,
    /// The fd.
    pub fd: OwnedFd,
    /// The answer.
    pub answer: Answer,
}

/// Every kind that does no harm to whoever closes it.
///
/// # Panics
/// If one cannot be made: that of another kind than memory and files needs root for fanotify.
#[must_use]
pub fn every_kind(stranger: &mut Stranger) -> Vec<Strange> {
    let mut all = Vec::new();
    let mut add = |name, fd: OwnedFd, words| all.push(Strange { name, fd, answer: Answer::Unfit(words) });

    let (reading, writing) = rustix::pipe::pipe().expect("a pipe");
    add("reading end of a pipe", reading, "a pipe");
    add("writing end of a pipe", writing, "a pipe");
    add("stream socket", UnixStream::pair().expect("a pair of sockets").0.into(), "a socket");
    add("listening TCP socket", TcpListener::bind("127.0.0.1:0").expect("a port").into(), "a socket");
    add("socket with itself in its queue", swallowed(), "a socket");
    add("eventfd", rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"), "an eventfd");
    add("epoll", epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll"), "an epoll instance");
    add("signalfd", signalfd(), "a signalfd");
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC);
    add("timerfd", timer.expect("a timerfd"), "a timerfd");
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty());
    add("pidfd", pidfd.expect("a pidfd"), "a pidfd");
    let inotify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
    add("inotify", inotify.expect("an inotify"), "an inotify instance");
    let group = Fanotify::init(InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC, EventFFlags::O_RDONLY);
    let group = group.expect("a fanotify group: run this as root");
    add("fanotify", group.as_fd().try_clone_to_owned().expect("a dup"), "a fanotify group");
    for (name, words) in [("memfd_secret", "secret memory"), ("userfaultfd", "a userfaultfd")] {
        let (answer, mut fds) = stranger.ask_for_fds(json!({ "do": "make", "kind": name }), &[]);
        match fds.pop() {
            Some(fd) => add(name, fd, words),
            // A kernel that makes none can be sent none; anything else is a mistake of the test's.
            None => {
                assert!(["ENOSYS", "EPERM"].contains(&answer["error"].as_str().unwrap_or("")), "{answer}")
            }
        }
    }
    for (name, path, flags, words) in [
        ("directory", "/proc", OFlags::RDONLY | OFlags::DIRECTORY, "a directory"),
        ("file", "/etc/passwd", OFlags::RDONLY, "a file"),
        ("/proc/self/mem", "/proc/self/mem", OFlags::RDWR, "the memory of a process"),
        ("/proc/self/status", "/proc/self/status", OFlags::RDONLY, "a file of /proc"),
        ("namespace", "/proc/self/ns/user", OFlags::RDONLY, "a namespace"),
        ("/dev/null", "/dev/null", OFlags::RDWR, "the device /dev/null"),
        ("/dev/zero", "/dev/zero", OFlags::RDWR, "the device /dev/zero"),
        ("path only", "/etc/passwd", OFlags::PATH, "O_PATH"),
    ] {
        let fd = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        add(name, fd.expect("it is on every Linux"), words);
    }
    add("file on a tmpfs", shm_file(), "a file on a tmpfs");
    let memory = memfd(8192, SealFlags::empty());
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    let open = |flags| rustix::fs::open(path.as_str(), flags | OFlags::CLOEXEC, Mode::empty()).expect("ours");
    add("path of a memfd", open(OFlags::PATH), "O_PATH");
    add("memfd, unsealed, read-only", open(OFlags::RDONLY), "its length may change");
    add("memfd, write-only", open(OFlags::WRONLY), "writing only");
    add("memfd of 0 bytes", memfd(0, SealFlags::empty()), "0 bytes");
    add("memfd of 100 bytes", memfd(100, SealFlags::empty()), "a multiple of 4096");
    add("memfd, sealed against sealing", memfd(4096, SealFlags::SEAL), "takes no more seals");
    let huge = rustix::fs::memfd_create("huge", MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING);
    add("memfd of huge pages", huge.expect("a kernel with hugetlbfs"), "reserved huge pages");
    all.push(Strange { name: "memfd", fd: memory, answer: Answer::Fits });
    all
}

/// A memfd of `len` bytes with seals.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("strange", flags).expect("a memfd");
    // Executable memory that is sealed against becoming it is sealed against writing too; this is not.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).expect("ours");
    rustix::fs::ftruncate(&fd, len).expect("a length");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

fn shm_file() -> OwnedFd {
    let file = tempfile::tempfile_in("/dev/shm").expect("a tmpfs in /dev/shm");
    file.set_len(4096).expect("a page");
    file.into()
}

fn signalfd() -> OwnedFd {
    let signals = SignalFd::new(&SigSet::empty()).expect("a signalfd");
    signals.as_fd().try_clone_to_owned().expect("a dup")
}

/// A socket in whose queue lies its own other end.
fn swallowed() -> OwnedFd {
    let (a, b) = Socket::pair().expect("a pair of sockets");
    a.send(b"b", &[b.as_fd()]).expect("room");
    OwnedFd::from(b)
}

/// A socket whose last close takes this many seconds: what was written into it is never read.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn lingering(time: Duration) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // A buffer that was set does not grow, so what is on its way stays on its way.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).expect("a socket of ours");
    let mut writer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (reader, _) = listener.accept().expect("it connected");
    rustix::net::sockopt::set_socket_linger(&writer, Some(time)).expect("a socket of ours");
    writer.set_nonblocking(true).expect("a socket of ours");
    while writer.write(&[0; 65_536]).is_ok() {}
    writer.set_nonblocking(false).expect("a socket of ours");
    (writer.into(), reader)
}

/// A file whose close never returns, for as long as this lives.
#[derive(Debug)]
pub struct FuseFile {
    child: Child,
    link: Socket,
    fd: Option<OwnedFd>,
    _mount_point: tempfile::TempDir,
}

impl FuseFile {
    /// Opens one.
    ///
    /// # Panics
    /// Without root, or without `/dev/fuse`.
    #[must_use]
    pub fn open() -> Self {
        assert!(File::open("/dev/fuse").is_ok(), "/dev/fuse cannot be opened: run this as root, with FUSE");
        let mount_point = tempfile::tempdir().expect("a directory");
        let (link, theirs) = Socket::pair().expect("a pair of sockets");
        let mut command = Command::new(programs::own("vgem-test-fuse"));
        command.arg(mount_point.path()).stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().expect("it starts");
        drop(command);
        link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let (mut buf, mut fds) = ([0; 16], Vec::new());
        for said in [&b"file"[..], b"silent"] {
            let packet = link.recv(&mut buf, &mut fds).expect("a FUSE file within ten seconds");
            assert!(matches!(packet, Packet::Data { len } if buf[..len] == *said), "the FUSE server ended");
        }
        Self { child, link, fd: fds.pop(), _mount_point: mount_point }
    }

    /// Waits for the next close that is held. One that its process was killed in before the server had it is none: that
    /// returns.
    ///
    /// # Panics
    /// If there is none within ten seconds.
    pub fn holds_a_close(&self) {
        let said = self.link.recv_plain(&mut [0; 16]);
        assert!(matches!(said, Ok(Packet::Data { len: 4 })), "no close is held: {said:?}");
    }
}

impl AsFd for FuseFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it is there until drop").as_fd()
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        // First the server: without it the kernel answers every close, ours included.
        drop(self.link.shutdown());
        drop(self.child.kill());
        drop(self.child.wait());
        self.fd = None;
    }
}
