//! Kernel conformance: FACTS, "Exact lifetime of exported memory".
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;

use nix::libc;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory, Probe, reopen};
use vgem_os::selftest::{LeaseSupport, lease_self_test};
use vgem_os::seqpacket::Socket;
use vgem_os::watch::{WatchEvent, Watcher};

const LEN: u64 = 8192;

fn object() -> ObjectMemory {
    vgem_os::signal::ignore_sigio().unwrap();
    ObjectMemory::create(LEN, HugePages::None, "lifetime").unwrap()
}

fn watched() -> (ObjectMemory, Watcher) {
    let (object, watcher) = (object(), Watcher::new().unwrap());
    watcher.add(&object).unwrap();
    (object, watcher)
}

fn events(watcher: &Watcher) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    events
}

fn map(export: &OwnedFd, access: Access) -> Mapping {
    Mapping::map(export.as_fd(), 8192, access, Populate::Lazy).unwrap()
}

#[test]
fn the_self_test_finds_the_lease_probe_exact() {
    assert_eq!(lease_self_test(), Ok(LeaseSupport::Exact));
}

#[test]
fn an_export_is_another_open_file_of_the_same_inode() {
    let object = object();
    let export = object.export(Access::Write).unwrap();
    assert_eq!(rustix::fs::fstat(&export).unwrap().st_ino, object.inode());
    rustix::fs::seek(&export, rustix::fs::SeekFrom::Start(77)).unwrap();
    let owners = rustix::fs::seek(&object, rustix::fs::SeekFrom::Current(0)).unwrap();
    assert_eq!(owners, 0, "an open file of its own has an offset of its own");
}

#[test]
fn inotify_reports_the_close_of_the_last_fd_of_an_export() {
    let (object, watcher) = watched();
    let export = object.export(Access::Read).unwrap();
    let twin = rustix::io::fcntl_dupfd_cloexec(&export, 0).unwrap();
    drop(export);
    assert_eq!(events(&watcher), [], "a duplicate is left");
    drop(twin);
    assert_eq!(events(&watcher).len(), 1);
}

#[test]
fn inotify_reports_the_unmapping_of_an_export_whose_fd_is_closed() {
    let (object, watcher) = watched();
    let export = object.export(Access::Write).unwrap();
    let mapping = map(&export, Access::Write);
    drop(export);
    assert_eq!(events(&watcher), [], "the mapping keeps the open file");
    drop(mapping);
    assert_eq!(events(&watcher).len(), 1);
}

#[test]
fn a_killed_process_gives_up_its_fd_and_its_mapping() {
    if let Some(side) = support::peer_side() {
        let export = support::given(0);
        let _mapping = map(&export, Access::Write);
        side.say("mapped");
        return side.wait_for_the_end();
    }
    let (object, watcher) = watched();
    let export = object.export(Access::Write).unwrap();
    let mut peer = support::start_peer("a_killed_process_gives_up_its_fd_and_its_mapping", vec![export]);
    assert_eq!(peer.hear(), "mapped");
    events(&watcher);
    assert_eq!(object.probe(), Ok(Probe::Busy));
    peer.kill();
    assert!(support::readable(watcher.as_fd()), "inotify tells of the kill");
    assert_eq!(object.probe(), Ok(Probe::Free));
}

#[test]
fn inotify_merges_equal_events() {
    let (object, watcher) = watched();
    for _ in 0..5 {
        drop(object.export(Access::Read).unwrap());
    }
    assert_eq!(events(&watcher).len(), 1);
}

#[test]
fn inotify_overflows_at_its_limit_and_says_so() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let (first, watcher) = watched();
    let second = object();
    watcher.add(&second).unwrap();
    for _ in 0..limit / 2 + 10 {
        drop(first.export(Access::Read).unwrap());
        drop(second.export(Access::Read).unwrap());
    }
    let seen = events(&watcher);
    assert_eq!(seen.last(), Some(&WatchEvent::Overflow));
    assert!(seen.len() <= limit + 1, "{} events, limit {limit}", seen.len());
}

#[test]
fn the_probe_sees_exports_for_reading_and_for_writing() {
    let object = object();
    for access in [Access::Read, Access::Write] {
        let export = object.export(access).unwrap();
        assert_eq!(object.probe(), Ok(Probe::Busy), "{access:?}");
        drop(export);
        assert_eq!(object.probe(), Ok(Probe::Free), "{access:?}");
    }
}

#[test]
fn the_probe_sees_a_private_mapping() {
    let object = object();
    let export = object.export(Access::Read).unwrap();
    let (read, private) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::PRIVATE);
    // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping.
    let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), 8192, read, private, &export, 0) }.unwrap();
    drop(export);
    assert_eq!(object.probe(), Ok(Probe::Busy));
    // SAFETY: U2. The mapping made above; nothing points into it.
    unsafe { rustix::mm::munmap(at, 8192) }.unwrap();
    assert_eq!(object.probe(), Ok(Probe::Free));
}

#[test]
fn the_probe_sees_an_fd_in_flight() {
    let object = object();
    let (here, there) = Socket::pair().unwrap();
    here.send(b"take it", &[object.export(Access::Write).unwrap().as_fd()]).unwrap();
    assert_eq!(object.probe(), Ok(Probe::Busy));
    drop(there);
    drop(here);
    support::until("closing the socket drops what is in flight", || object.probe() == Ok(Probe::Free));
}

#[test]
fn the_probe_does_not_see_dups_of_the_owners_fd_nor_mappings_made_through_them() {
    let object = object();
    let twin = object.duplicate().unwrap();
    let _mapping = map(&twin, Access::Write);
    assert_eq!(object.probe(), Ok(Probe::Free));
}

#[test]
fn the_probe_of_a_duplicate_in_another_process_sees_the_same() {
    if let Some(side) = support::peer_side() {
        vgem_os::signal::ignore_sigio().unwrap();
        let kept = ObjectMemory::from_kept(support::given(0)).unwrap();
        return side.say(&format!("{:?}", kept.probe().unwrap()));
    }
    let object = object();
    let _export = object.export(Access::Read).unwrap();
    let kept = object.duplicate().unwrap();
    let test = "the_probe_of_a_duplicate_in_another_process_sees_the_same";
    assert_eq!(support::start_peer(test, vec![kept]).hear(), "Busy");
}

#[test]
fn the_first_fd_of_a_memfd_answers_the_probe_inverted() {
    vgem_os::signal::ignore_sigio().unwrap();
    let first = rustix::fs::memfd_create("first", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&first, LEN).unwrap();
    assert_eq!(take_lease(&first), Err(Errno::AGAIN), "alone, it says busy");
    let _other = reopen(first.as_fd(), Access::Write).unwrap();
    assert_eq!(take_lease(&first), Ok(()), "with another writer, it says free");
}

#[test]
fn the_probe_does_not_see_o_path_fds() {
    let object = object();
    let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
    let hidden = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(object.probe(), Ok(Probe::Free));
    let again = reopen(hidden.as_fd(), Access::Read).unwrap();
    assert_eq!(object.probe(), Ok(Probe::Busy), "and they become full fds");
    drop(again);
}

#[test]
fn the_probe_does_not_see_pages_in_a_pipe() {
    let object = object();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let export = object.export(Access::Read).unwrap();
    let mut from = 0;
    let flags = rustix::pipe::SpliceFlags::empty();
    let moved = rustix::pipe::splice(&export, Some(&mut from), &writer, None, 4096, flags).unwrap();
    assert_eq!(moved, 4096);
    drop(export);
    assert_eq!(object.probe(), Ok(Probe::Free));
    drop(reader);
}

#[test]
fn memory_that_was_freed_reads_zeros_through_a_hidden_reference() {
    let object = object();
    rustix::io::pwrite(&object, b"secret", 0).unwrap();
    let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
    let hidden = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    object.free().map_err(|(_, error)| error).unwrap();
    let late = reopen(hidden.as_fd(), Access::Read).unwrap();
    let mut bytes = [1; 6];
    rustix::io::pread(&late, &mut bytes, 0).unwrap();
    assert_eq!((bytes, rustix::fs::fstat(&late).unwrap().st_blocks), ([0; 6], 0));
}

// M-038
#[test]
fn memory_that_is_in_use_is_not_freed() {
    let object = object();
    rustix::io::pwrite(&object, b"kept", 0).unwrap();
    let export = object.export(Access::Read).unwrap();
    let (back, error) = object.free().unwrap_err();
    let mut bytes = [0; 4];
    rustix::io::pread(&export, &mut bytes, 0).unwrap();
    assert_eq!((&bytes, error.errno(), back.len()), (b"kept", Errno::BUSY, LEN));
}

#[test]
fn a_lease_that_is_broken_kills_a_holder_that_does_not_ignore_sigio() {
    if let Some(side) = support::peer_side() {
        // A test binary that ignored the signal passes that on over exec.
        // SAFETY: U7. The default action, no handler.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_DFL) };
        return hold_the_lease(&side);
    }
    let test = "a_lease_that_is_broken_kills_a_holder_that_does_not_ignore_sigio";
    let mut peer = break_the_lease_of_a_peer(test);
    assert_eq!(peer.end().signal(), Some(libc::SIGIO));
}

#[test]
fn a_lease_that_is_broken_spares_a_holder_that_ignores_sigio() {
    if let Some(side) = support::peer_side() {
        vgem_os::signal::ignore_sigio().unwrap();
        return hold_the_lease(&side);
    }
    let test = "a_lease_that_is_broken_spares_a_holder_that_ignores_sigio";
    let peer = break_the_lease_of_a_peer(test);
    peer.say("alive?");
    assert_eq!(peer.hear(), "alive");
}

#[test]
fn a_cycle_of_fds_in_flight_is_collected_when_a_socket_is_closed() {
    let object = object();
    let (a, b) = Socket::pair().unwrap();
    let export = object.export(Access::Read).unwrap();
    b.send(b"myself", &[a.as_fd(), export.as_fd()]).unwrap();
    drop((export, b));
    drop(a);
    support::until("closing any socket collects the cycle", || {
        drop(Socket::pair().unwrap());
        object.probe() == Ok(Probe::Free)
    });
}

#[test]
fn the_probe_sees_io_uring_fixed_files_and_does_not_see_registered_buffers() {
    let object = object();
    let mut params = rustix::io_uring::io_uring_params::default();
    // SAFETY: U6. The kernel reads and writes one params struct.
    let ring = match unsafe { rustix::io_uring::io_uring_setup(2, &mut params) } {
        Ok(ring) => ring,
        // The documented fall-back: without io_uring nothing can hide there.
        Err(errno) => return assert!(matches!(errno, Errno::NOSYS | Errno::PERM), "{errno}"),
    };
    let export = object.export(Access::Write).unwrap();
    let mapping = map(&export, Access::Write);
    let buffer = libc::iovec { iov_base: mapping.span().as_ptr().cast_mut().cast(), iov_len: 4096 };
    register(&ring, rustix::io_uring::IoringRegisterOp::RegisterBuffers, (&raw const buffer).cast());
    drop((mapping, export));
    assert_eq!(object.probe(), Ok(Probe::Free), "a registered buffer hides");
    let export = object.export(Access::Write).unwrap();
    let file = export.as_raw_fd();
    register(&ring, rustix::io_uring::IoringRegisterOp::RegisterFiles, (&raw const file).cast());
    drop(export);
    assert_eq!(object.probe(), Ok(Probe::Busy), "a fixed file does not");
}

fn register(ring: &OwnedFd, op: rustix::io_uring::IoringRegisterOp, argument: *const core::ffi::c_void) {
    let flags = rustix::io_uring::IoringRegisterFlags::empty();
    // SAFETY: U6. One element of the type that the operation reads.
    unsafe { rustix::io_uring::io_uring_register_with(ring, op, flags, argument, 1) }.unwrap();
}

fn take_lease(fd: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: U6. F_SETLEASE takes an integer.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) }
}

/// The peer's part: hold a lease, and answer if still alive.
fn hold_the_lease(side: &support::Side) {
    let fd = support::given(0);
    take_lease(&fd).unwrap();
    side.say("held");
    if side.hear() == "alive?" {
        side.say("alive");
    }
}

/// Starts a peer that holds a lease, and opens the inode as a client would.
fn break_the_lease_of_a_peer(test: &str) -> support::Peer {
    let object = object();
    let hidden = {
        let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let peer = support::start_peer(test, vec![object.duplicate().unwrap()]);
    drop(object);
    assert_eq!(peer.hear(), "held");
    let path = format!("/proc/self/fd/{}", hidden.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    assert_eq!(rustix::fs::open(path, flags, Mode::empty()).unwrap_err(), Errno::AGAIN);
    peer
}
