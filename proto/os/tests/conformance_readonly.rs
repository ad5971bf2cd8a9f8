//! Kernel conformance: FACTS, "Read-only exports".
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory, reopen};

const LEN: usize = 8192;

fn object() -> ObjectMemory {
    ObjectMemory::create(8192, HugePages::None, "readonly").unwrap()
}

fn read_only() -> (ObjectMemory, OwnedFd, Mapping) {
    let object = object();
    let export = object.export(Access::Read).unwrap();
    let mapping = Mapping::map(export.as_fd(), LEN, Access::Read, Populate::Now).unwrap();
    (object, export, mapping)
}

fn map_writable(fd: &OwnedFd) -> Result<*mut core::ffi::c_void, Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), LEN, protection, MapFlags::SHARED, fd, 0) }
}

/// A memfd without seals, in a state a test chooses.
fn unsealed() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("unsealed", flags).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    fd
}

// M-037
#[test]
fn a_read_only_mapping_cannot_be_made_writable() {
    let (_object, _export, mapping) = read_only();
    let at = mapping.span().as_ptr().cast_mut().cast();
    let writable = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: U2. Our own mapping; the call is refused.
    assert_eq!(unsafe { rustix::mm::mprotect(at, LEN, writable) }, Err(Errno::ACCESS));
}

// M-037
#[test]
fn a_read_only_export_cannot_be_mapped_writable() {
    let (_object, export, _mapping) = read_only();
    assert_eq!(map_writable(&export), Err(Errno::ACCESS));
}

#[test]
fn proc_self_mem_does_not_write_through_a_read_only_mapping() {
    let (_object, export, mapping) = read_only();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mem = rustix::fs::open("/proc/self/mem", flags, Mode::empty()).unwrap();
    let at = u64::try_from(mapping.span().as_ptr().addr()).unwrap();
    assert_eq!(rustix::io::pwrite(&mem, b"forced", at), Err(Errno::IO));
    let mut bytes = [1; 6];
    rustix::io::pread(&export, &mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 6]);
}

#[test]
fn process_vm_writev_does_not_write_through_a_read_only_mapping() {
    let (_object, _export, mapping) = read_only();
    let mut bytes = *b"forced";
    let from = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let into = libc::iovec { iov_base: mapping.span().as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: U6. Two live iovecs; the kernel checks what the second points to.
    let done = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &into, 1, 0) };
    assert_eq!((done, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
}

#[test]
fn a_read_only_mapping_cannot_punch_holes() {
    let (_object, export, mapping) = read_only();
    let at = mapping.span().as_ptr().cast_mut().cast();
    // SAFETY: U2. Our own mapping; the call is refused.
    let removed = unsafe { rustix::mm::madvise(at, LEN, Advice::LinuxRemove) };
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(&export, punch, 0, 8192);
    assert_eq!((removed, punched), (Err(Errno::ACCESS), Err(Errno::BADF)));
}

// M-037
#[test]
fn the_length_of_an_object_cannot_be_changed_by_any_export() {
    let object = object();
    for (access, refused) in [(Access::Write, Errno::PERM), (Access::Read, Errno::INVAL)] {
        let export = object.export(access).unwrap();
        for len in [0, 4096, 16384] {
            assert_eq!(rustix::fs::ftruncate(&export, len), Err(refused), "to {len}, {access:?}");
        }
    }
}

#[test]
fn an_export_cannot_seal_the_object_against_its_owner() {
    let object = object();
    let export = object.export(Access::Write).unwrap();
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        assert_eq!(rustix::fs::fcntl_add_seals(&export, seal), Err(Errno::PERM), "{seal:?}");
    }
}

#[test]
fn the_same_uid_can_reopen_a_read_only_export_for_writing() {
    let object = object();
    let export = object.export(Access::Read).unwrap();
    assert!(reopen(export.as_fd(), Access::Write).is_ok(), "so the broker runs as a user of its own");
}

// M-037
#[test]
fn another_uid_cannot_reopen_or_chmod_a_read_only_export_needs_root() {
    if let Some(side) = support::peer_side() {
        let export = support::given(0);
        become_another_user();
        let reopened = reopen(export.as_fd(), Access::Write).map(drop).map_err(|e| e.errno());
        let changed = rustix::fs::fchmod(&export, Mode::from_raw_mode(0o666));
        return side.say(&format!("{reopened:?} {changed:?}"));
    }
    support::needs_root();
    let test = "another_uid_cannot_reopen_or_chmod_a_read_only_export_needs_root";
    let object = object();
    let peer = support::start_peer(test, vec![object.export(Access::Read).unwrap()]);
    assert_eq!(peer.hear(), format!("{:?} {:?}", Err::<(), _>(Errno::ACCESS), Err::<(), _>(Errno::PERM)));
}

/// The control of the test above: it is the mode 0600 that refuses, nothing else.
#[test]
fn another_uid_can_reopen_a_memfd_of_the_default_mode_needs_root() {
    if let Some(side) = support::peer_side() {
        let export = support::given(0);
        become_another_user();
        return side.say(&format!("{}", reopen(export.as_fd(), Access::Write).is_ok()));
    }
    support::needs_root();
    let test = "another_uid_can_reopen_a_memfd_of_the_default_mode_needs_root";
    let export = reopen(unsealed().as_fd(), Access::Read).unwrap();
    assert_eq!(support::start_peer(test, vec![export]).hear(), "true");
}

#[test]
fn future_write_keeps_old_mappings_writing_and_refuses_every_new_write() {
    let fd = unsealed();
    let old = map_writable(&fd).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).unwrap();
    // SAFETY: U2. The first byte of the mapping made above, which stays mapped.
    unsafe { old.cast::<u8>().write_volatile(7) };
    let mut byte = [0];
    rustix::io::pread(&fd, &mut byte, 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let refused = [
        map_writable(&fd).map(drop),
        rustix::io::pwrite(&fd, b"x", 0).map(drop),
        rustix::fs::fallocate(&fd, punch, 0, 8192),
    ];
    assert_eq!((byte, refused), ([7], [Err(Errno::PERM); 3]));
}

#[test]
fn a_memfd_sealed_against_future_writes_cannot_be_mapped_writable_after_a_restart() {
    let fd = unsealed();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).unwrap();
    let again = reopen(fd.as_fd(), Access::Write);
    let mapped = again.map_err(|e| e.errno()).and_then(|again| map_writable(&again).map(drop));
    assert_eq!(mapped, Err(Errno::PERM), "so fence pages are not sealed this way");
}

#[test]
fn the_write_seal_is_busy_while_a_writable_mapping_exists() {
    let fd = unsealed();
    let at = map_writable(&fd).unwrap();
    assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::BUSY));
    // SAFETY: U2. The mapping made above; nothing points into it.
    unsafe { rustix::mm::munmap(at, LEN) }.unwrap();
    assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Ok(()));
}

#[test]
fn populating_a_read_only_mapping_allocates_the_pages() {
    let object = object();
    assert_eq!(object.is_populated(), Ok(false));
    let export = object.export(Access::Read).unwrap();
    let mapping = Mapping::map(export.as_fd(), LEN, Access::Read, Populate::Lazy).unwrap();
    mapping.populate_read().unwrap();
    assert_eq!(object.is_populated(), Ok(true));
}

/// All ids of the process; and readable in /proc again, which a change of ids takes away.
fn become_another_user() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: U6. Plain numbers; the C library changes all threads.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
    // SAFETY: U6. Plain numbers.
    assert_eq!(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) }, 0);
    // SAFETY: U6. Plain numbers.
    assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
    let path = format!("/proc/self/fd/{}", std::io::stdin().as_raw_fd());
    assert!(std::fs::symlink_metadata(path).is_ok(), "the way to /proc/self/fd is open");
}
