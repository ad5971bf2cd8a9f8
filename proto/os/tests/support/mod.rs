//! A second process for tests: the test binary itself, started again for the same test in the role of the peer.
//!
//! A test that needs one begins with `if let Some(side) = support::peer_side() { .. }`: that is the peer's part.
//! The two talk over a SEQPACKET socket, so that no test ever guesses how far the other is.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use vgem_os::clock;
use vgem_os::process::{Child, Launch, inherited};
use vgem_os::seqpacket::{Packet, Socket};

/// Long enough for anything a test waits for; a test that reaches it fails.
pub(crate) const PATIENCE_NS: u64 = 20_000_000_000;

const MARK: &str = "VGEM_TEST_PEER";
const LINK: RawFd = 3;

/// The peer as the test sees it. It is killed when the test lets go of it.
pub(crate) struct Peer {
    pub(crate) child: Child,
    link: Socket,
}

/// The peer's own side.
pub(crate) struct Side {
    link: Socket,
}

/// Starts `test` (its full name in this binary) again, as the peer. `fds` are at 4, 5, ... there.
pub(crate) fn start_peer(test: &str, fds: Vec<OwnedFd>) -> Peer {
    let (ours, theirs) = Socket::pair().unwrap();
    let mut launch = Launch::new(std::env::current_exe().unwrap());
    launch.args = ["--exact", test, "--nocapture", "--test-threads=1"].map(Into::into).to_vec();
    launch.env = vec![(MARK.into(), test.into())];
    launch.fds = std::iter::once(OwnedFd::from(theirs)).chain(fds).zip(LINK..).collect();
    let child = launch.start().unwrap();
    Peer { child, link: patient(ours) }
}

/// The peer's side, if this process is the peer.
pub(crate) fn peer_side() -> Option<Side> {
    std::env::var_os(MARK)?;
    Some(Side { link: patient(Socket::from(inherited(LINK).unwrap())) })
}

/// What the peer was given as its `n`th fd.
pub(crate) fn given(n: RawFd) -> OwnedFd {
    inherited(LINK + 1 + n).unwrap()
}

impl Peer {
    /// Says something to the peer.
    pub(crate) fn say(&self, words: &str) {
        self.link.send(words.as_bytes(), &[]).unwrap();
    }

    /// Hands the peer fds.
    pub(crate) fn hand(&self, words: &str, fds: &[BorrowedFd<'_>]) {
        self.link.send(words.as_bytes(), fds).unwrap();
    }

    /// What the peer says next; fails if it is gone.
    pub(crate) fn hear(&self) -> String {
        hear(&self.link).0
    }

    /// The fds the peer hands over next.
    pub(crate) fn take(&self) -> Vec<OwnedFd> {
        hear(&self.link).1
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends.
    pub(crate) fn end(&mut self) -> ExitStatus {
        assert!(readable(self.child.as_fd()), "the peer ends");
        self.child.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Side {
    /// Says something to the test.
    pub(crate) fn say(&self, words: &str) {
        self.link.send(words.as_bytes(), &[]).unwrap();
    }

    /// Hands fds to the test.
    pub(crate) fn hand(&self, fds: &[BorrowedFd<'_>]) {
        self.link.send(b"fds", fds).unwrap();
    }

    /// What the test says next.
    pub(crate) fn hear(&self) -> String {
        hear(&self.link).0
    }

    /// Waits to be killed, or for the test to be gone.
    pub(crate) fn wait_for_the_end(&self) {
        let mut byte = [0; 1];
        self.link.set_recv_timeout(None).unwrap();
        while matches!(self.link.recv_plain(&mut byte), Ok(Packet::Data { .. })) {}
    }
}

/// True as soon as `fd` is readable; false after a long time.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() == 1
}

/// Tries again, yielding the processor, until `done`; fails after a long time.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::now() + PATIENCE_NS;
    while !done() {
        assert!(clock::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// The deadline of waits that are to end before it.
pub(crate) fn patience() -> u64 {
    clock::now() + PATIENCE_NS
}

/// True if the running kernel is `major.minor` or newer.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// True if this process is root, whose rights several facts are about.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails a test whose name says that it needs root.
pub(crate) fn needs_root() {
    assert!(is_root(), "this test needs root: run the suite as root, or leave out tests named needs_root");
}

/// Drops all capabilities of this thread; run in peers only.
pub(crate) fn drop_capabilities() {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).unwrap();
}

fn patient(link: Socket) -> Socket {
    link.set_recv_timeout(Some(Duration::from_nanos(PATIENCE_NS))).unwrap();
    link
}

fn hear(link: &Socket) -> (String, Vec<OwnedFd>) {
    let mut words = [0; 4096];
    let mut fds = Vec::new();
    match link.recv(&mut words, &mut fds).unwrap() {
        Packet::Data { len } => (String::from_utf8(words[..len].to_vec()).unwrap(), fds),
        other => panic!("the other side is gone: {other:?}"),
    }
}
