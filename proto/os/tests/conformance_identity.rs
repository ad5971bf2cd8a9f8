//! Kernel conformance: FACTS, "SVA" (a client's own memory file) and peer identity.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;

use nix::libc;
use rustix::fs::{Mode, OFlags};
use vgem_os::peer::Groups;
use vgem_os::seqpacket::{Listener, Socket};

/// What the peer of the memory tests lets others read.
static SECRET: [u8; 16] = *b"before the exec!";

#[test]
fn the_memory_file_of_a_process_reads_nothing_after_exec() {
    if let Some(side) = support::peer_side() {
        offer_memory(&side);
        side.hear();
        // The same program again, so that the same address is mapped there: only the file's age tells.
        let error = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sleeps_until_killed", "--nocapture", "--test-threads=1"])
            .env(ASLEEP, "1")
            .exec();
        return side.say(&format!("exec failed: {error}"));
    }
    let mut peer = support::start_peer("the_memory_file_of_a_process_reads_nothing_after_exec", vec![]);
    let (mem, at) = memory_of(&peer);
    assert_eq!(read(&mem, at), Ok(16));
    peer.say("exec");
    support::until("the exec", || read(&mem, at) != Ok(16));
    assert_eq!(read(&mem, at), Ok(0));
    peer.kill();
}

#[test]
fn the_memory_file_of_a_process_reads_nothing_after_exit() {
    if let Some(side) = support::peer_side() {
        offer_memory(&side);
        return side.wait_for_the_end();
    }
    let mut peer = support::start_peer("the_memory_file_of_a_process_reads_nothing_after_exit", vec![]);
    let (mem, at) = memory_of(&peer);
    assert_eq!(read(&mem, at), Ok(16));
    peer.kill();
    assert_eq!(read(&mem, at), Ok(0));
}

#[test]
fn the_memory_file_works_across_processes_without_any_capability() {
    if let Some(side) = support::peer_side() {
        support::drop_capabilities();
        offer_memory(&side);
        return side.wait_for_the_end();
    }
    let test = "the_memory_file_works_across_processes_without_any_capability";
    let peer = support::start_peer(test, vec![]);
    let (mem, at) = memory_of(&peer);
    let mut bytes = [0; 16];
    rustix::io::pread(&mem, &mut bytes, at).unwrap();
    assert_eq!(bytes, SECRET);
}

#[test]
fn a_peer_is_known_by_uid_and_pid_and_pidfd_and_cgroup() {
    if let Some(side) = support::peer_side() {
        let path = side.hear();
        let link = Socket::connect(path).unwrap();
        link.send(b"here", &[]).unwrap();
        return side.wait_for_the_end();
    }
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::bind(home.path().join("socket"), 0o600).unwrap();
    let mut peer = support::start_peer("a_peer_is_known_by_uid_and_pid_and_pidfd_and_cgroup", vec![]);
    peer.say(home.path().join("socket").to_str().unwrap());
    let identity = listener.accept().unwrap().peer().unwrap();
    assert_eq!(identity.uid, rustix::process::geteuid().as_raw());
    assert_eq!(identity.pid, peer.child.pid);
    assert_eq!(identity.pidfd.is_some(), support::kernel_is_at_least(6, 5));
    assert_eq!(identity.cgroup.is_some(), support::kernel_is_at_least(6, 13));
    peer.kill();
    if let Some(pidfd) = identity.pidfd {
        assert!(support::readable(pidfd.as_fd()), "the pidfd tells of its end");
    }
}

#[test]
fn the_groups_of_a_peer_are_told_or_counted_needs_root() {
    const MANY: u32 = 65536;
    let test = "the_groups_of_a_peer_are_told_or_counted_needs_root";
    if let Some(side) = support::peer_side() {
        let path = side.hear();
        let groups: Vec<libc::gid_t> = (7..7 + MANY).collect();
        // SAFETY: U6. The list is live, and the length is its own.
        assert_eq!(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }, 0);
        let link = Socket::connect(path).unwrap();
        link.send(b"here", &[]).unwrap();
        return side.wait_for_the_end();
    }
    support::needs_root();
    let home = tempfile::tempdir().unwrap();
    let listener = Listener::bind(home.path().join("socket"), 0o600).unwrap();
    let peer = support::start_peer(test, vec![]);
    peer.say(home.path().join("socket").to_str().unwrap());
    let link = listener.accept().unwrap();
    let many = MANY as usize;
    assert_eq!(link.peer_groups(1024).unwrap(), Groups::TooMany(many));
    assert_eq!(link.peer_groups(many).unwrap(), Groups::All((7..7 + MANY).collect()));
}

#[test]
fn a_pair_identifies_the_process_that_made_it() {
    let (a, _b) = Socket::pair().unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(a.peer().unwrap().pid, own);
}

const ASLEEP: &str = "VGEM_TEST_ASLEEP";

/// What the peer of the exec test becomes; on its own it is a test that this process is not that peer.
#[test]
fn sleeps_until_killed() {
    if std::env::var_os(ASLEEP).is_some() {
        loop {
            std::thread::park();
        }
    }
    assert!(std::env::var_os("VGEM_TEST_PEER").is_none());
}

fn offer_memory(side: &support::Side) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mem = rustix::fs::open("/proc/self/mem", flags, Mode::empty()).unwrap();
    side.hand(&[mem.as_fd()]);
    side.say(&SECRET.as_ptr().addr().to_string());
}

fn memory_of(peer: &support::Peer) -> (OwnedFd, u64) {
    let mem = peer.take().pop().unwrap();
    (mem, peer.hear().parse().unwrap())
}

fn read(mem: &OwnedFd, at: u64) -> Result<usize, rustix::io::Errno> {
    rustix::io::pread(mem, &mut [0; 16], at)
}
