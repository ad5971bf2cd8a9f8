//! Object memory of the three origins, and the kernel's answers that decide how each is held and freed.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{FallocateFlags, Gid, MemfdFlags, Mode, OFlags, SealFlags, Uid};
use rustix::io::Errno;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{
    Access, HugePages, OBJECT_SEALS, ObjectMemory, Origin, Probe, SIZE_SEALS, identity, reopen,
};

const LEN: u64 = 8192;

fn own() -> ObjectMemory {
    vgem_os::signal::ignore_sigio().unwrap();
    ObjectMemory::create(LEN, HugePages::None, "own").unwrap()
}

fn sealable() -> ObjectMemory {
    vgem_os::signal::ignore_sigio().unwrap();
    ObjectMemory::create_sealable(LEN, HugePages::None, "sealable").unwrap()
}

/// Memory as a client makes it, with `seals`.
fn foreign_fd(seals: SealFlags) -> OwnedFd {
    vgem_os::signal::ignore_sigio().unwrap();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("foreign", flags).unwrap();
    rustix::fs::ftruncate(&fd, LEN).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn errno<T>(result: vgem_os::Result<T>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

fn punch(fd: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, LEN)
}

fn first_byte(fd: impl AsFd) -> u8 {
    let mut byte = [0];
    rustix::io::pread(fd, &mut byte, 0).unwrap();
    byte[0]
}

/// A number that refers to the inode and is no open file, as the probe sees it.
fn hidden(object: &ObjectMemory) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

#[test]
fn sealable_memory_cannot_change_its_length_and_can_be_sealed() {
    let object = sealable();
    let seals = rustix::fs::fcntl_get_seals(&object).unwrap();
    assert!(seals.contains(SIZE_SEALS) && !seals.contains(SealFlags::SEAL), "{seals:?}");
    assert_eq!(rustix::fs::ftruncate(&object, 0), Err(Errno::PERM));
    assert_eq!(object.seal_against_writing(), Ok(()));
}

#[test]
fn sealed_memory_refuses_writes_maps_and_holes_of_its_owner_too() {
    let object = sealable();
    let early = object.export(Access::Write).unwrap();
    object.seal_against_writing().unwrap();
    assert_eq!(rustix::io::pwrite(&early, b"late", 0), Err(Errno::PERM));
    assert_eq!(errno(Mapping::map(object.as_fd(), 8192, Access::Write, Populate::Lazy)), Some(Errno::PERM));
    assert_eq!(punch(&object), Err(Errno::PERM));
}

#[test]
fn sealed_memory_takes_no_further_seal_and_sealing_again_changes_nothing() {
    let object = sealable();
    object.seal_against_writing().unwrap();
    assert_eq!(object.seal_against_writing(), Ok(()));
    assert_eq!(rustix::fs::fcntl_add_seals(&object, SealFlags::WRITE), Err(Errno::PERM));
    assert_eq!(object.is_sealed_against_writing(), Ok(true));
}

#[test]
fn a_mapping_made_before_the_seal_keeps_writing() {
    let object = sealable();
    let export = object.export(Access::Write).unwrap();
    let mapping = Mapping::map(export.as_fd(), 8192, Access::Write, Populate::Now).unwrap();
    object.seal_against_writing().unwrap();
    mapping.span_mut().unwrap().fill(7);
    assert_eq!(first_byte(&object), 7, "so the driver unmaps before the object is sealed");
}

#[test]
fn sealed_memory_leaves_for_reading_only() {
    let object = sealable();
    object.seal_against_writing().unwrap();
    assert_eq!(errno(object.export(Access::Write)), Some(Errno::ACCESS));
    assert!(object.export(Access::Read).is_ok());
}

// Why export looks at the seal itself.
#[test]
fn the_kernel_opens_sealed_memory_for_writing_and_refuses_the_write() {
    let object = sealable();
    object.seal_against_writing().unwrap();
    let open = reopen(object.as_fd(), Access::Write).unwrap();
    assert_eq!(rustix::io::pwrite(&open, b"late", 0), Err(Errno::PERM));
}

#[test]
fn sealed_memory_is_freed_without_a_punch_once_nobody_has_it() {
    let object = sealable();
    rustix::io::pwrite(&object, &[9], 0).unwrap();
    object.seal_against_writing().unwrap();
    let export = object.export(Access::Read).unwrap();
    let (object, busy) = object.free().unwrap_err();
    assert_eq!(busy.errno(), Errno::BUSY);
    drop(export);
    let kept = hidden(&object);
    object.free().map_err(|(_, error)| error).unwrap();
    assert_eq!(first_byte(reopen(kept.as_fd(), Access::Read).unwrap()), 9, "a seal outlives the object");
}

#[test]
fn sealable_memory_that_was_never_sealed_is_punched_when_freed() {
    let object = sealable();
    rustix::io::pwrite(&object, &[9], 0).unwrap();
    let kept = hidden(&object);
    object.free().map_err(|(_, error)| error).unwrap();
    assert_eq!(first_byte(reopen(kept.as_fd(), Access::Read).unwrap()), 0);
}

#[test]
fn ordinary_memory_cannot_be_sealed_against_writing() {
    assert_eq!(errno(own().seal_against_writing()), Some(Errno::PERM));
}

#[test]
fn kept_memory_must_have_the_seals_of_its_origin() {
    let object = sealable();
    let kept = || object.duplicate().unwrap();
    assert_eq!(errno(ObjectMemory::from_kept(kept())), Some(Errno::PERM));
    let again = ObjectMemory::from_kept_as(kept(), Origin::Sealable).unwrap();
    assert_eq!((again.identity(), again.seal_against_writing()), (object.identity(), Ok(())));
}

#[test]
fn the_identity_of_an_export_is_the_objects_and_nobody_elses() {
    let (one, other) = (own(), own());
    let export = one.export(Access::Read).unwrap();
    assert_eq!(identity(export.as_fd()), Ok(one.identity()));
    assert_ne!(one.identity(), other.identity());
    assert_eq!(one.identity().dev, other.identity().dev);
}

#[test]
fn foreign_memory_is_held_through_an_open_file_of_our_own() {
    let fd = foreign_fd(OBJECT_SEALS);
    let made = identity(fd.as_fd()).unwrap();
    let memory = ObjectMemory::from_foreign(fd).unwrap();
    assert_eq!((memory.is_foreign(), memory.access(), memory.len()), (true, Access::Write, LEN));
    assert_eq!(memory.identity(), made);
    assert_eq!(memory.probe(), Ok(Probe::Free));
}

#[test]
fn foreign_memory_tells_of_exports_as_any_object_does() {
    let memory = ObjectMemory::from_foreign(foreign_fd(SIZE_SEALS)).unwrap();
    let export = memory.export(Access::Write).unwrap();
    assert_eq!(memory.probe(), Ok(Probe::Busy));
    let (memory, busy) = memory.free().unwrap_err();
    assert_eq!(busy.errno(), Errno::BUSY);
    drop(export);
    assert_eq!(memory.probe(), Ok(Probe::Free));
}

// Why freed foreign memory is not punched: that its maker still has it cannot be seen.
#[test]
fn the_probe_does_not_see_the_first_fd_of_a_memfd() {
    let first = foreign_fd(SIZE_SEALS);
    let twin = rustix::io::fcntl_dupfd_cloexec(&first, 0).unwrap();
    let memory = ObjectMemory::from_foreign(twin).unwrap();
    assert_eq!(memory.probe(), Ok(Probe::Free));
    rustix::io::pwrite(&first, b"still", 0).unwrap();
}

#[test]
fn foreign_memory_is_never_punched() {
    let first = foreign_fd(SIZE_SEALS);
    rustix::io::pwrite(&first, &[5], 0).unwrap();
    let memory = ObjectMemory::from_foreign(rustix::io::fcntl_dupfd_cloexec(&first, 0).unwrap()).unwrap();
    assert_eq!(errno(memory.punch()), Some(Errno::PERM));
    memory.free().map_err(|(_, error)| error).unwrap();
    assert_eq!(first_byte(&first), 5);
}

#[test]
fn foreign_memory_that_can_change_its_length_is_refused() {
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW] {
        let error = ObjectMemory::from_foreign(foreign_fd(seals)).unwrap_err();
        assert_eq!(error.errno(), Errno::PERM, "{seals:?}");
    }
}

#[test]
fn foreign_memory_that_is_open_for_reading_or_write_sealed_is_held_for_reading() {
    let open = reopen(foreign_fd(SIZE_SEALS).as_fd(), Access::Read).unwrap();
    let sealed = foreign_fd(SIZE_SEALS | SealFlags::WRITE);
    for fd in [open, sealed] {
        let memory = ObjectMemory::from_foreign(fd).unwrap();
        assert_eq!(memory.access(), Access::Read);
        assert_eq!(memory.probe(), Ok(Probe::Free));
        assert_eq!(errno(memory.export(Access::Write)), Some(Errno::ACCESS));
        assert!(memory.export(Access::Read).is_ok());
    }
}

#[test]
fn foreign_memory_without_a_byte_is_refused() {
    let fd = rustix::fs::memfd_create("empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&fd, OBJECT_SEALS).unwrap();
    assert_eq!(errno(ObjectMemory::from_foreign(fd)), Some(Errno::INVAL));
}

#[test]
fn what_is_no_memory_is_refused_as_foreign_memory() {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    assert_eq!(errno(ObjectMemory::from_foreign(event)), Some(Errno::INVAL));
}

/// Becomes another user, without a right over files; run in peers only.
fn become_nobody() {
    rustix::thread::set_thread_uid(Uid::from_raw(65534)).unwrap();
    support::drop_capabilities();
}

#[test]
fn foreign_memory_whose_mode_forbids_opening_is_refused_with_owner_and_mode_needs_root() {
    if let Some(side) = support::peer_side() {
        become_nobody();
        let error = ObjectMemory::from_foreign(support::given(0)).unwrap_err();
        return side.say(&error.to_string());
    }
    support::needs_root();
    let fd = foreign_fd(SIZE_SEALS);
    rustix::fs::fchmod(&fd, Mode::RUSR).unwrap();
    let test = "foreign_memory_whose_mode_forbids_opening_is_refused_with_owner_and_mode_needs_root";
    let said = support::start_peer(test, vec![fd]).hear();
    assert!(said.contains("belongs to uid 0 with mode 400") && said.contains("uid 65534"), "{said}");
}

#[test]
fn foreign_memory_of_another_uid_is_closed_where_no_lease_is_to_be_had_needs_root() {
    if let Some(side) = support::peer_side() {
        become_nobody();
        vgem_os::signal::ignore_sigio().unwrap();
        let memory = ObjectMemory::from_foreign(support::given(0)).unwrap();
        let probe = errno(memory.probe());
        return side.say(&format!("{probe:?} {:?}", memory.free().map_err(|(_, error)| error)));
    }
    support::needs_root();
    let test = "foreign_memory_of_another_uid_is_closed_where_no_lease_is_to_be_had_needs_root";
    let peer = support::start_peer(test, vec![foreign_fd(SIZE_SEALS)]);
    assert_eq!(peer.hear(), format!("{:?} Ok(())", Some(Errno::ACCESS)));
}

#[test]
fn untouched_memory_is_not_tampered_with() {
    assert_eq!(own().tampered(), Ok(None));
    assert_eq!(sealable().tampered(), Ok(None));
}

#[test]
fn a_changed_mode_is_told_with_old_and_new() {
    let object = own();
    let export = object.export(Access::Read).unwrap();
    rustix::fs::fchmod(&export, Mode::from_raw_mode(0o644)).unwrap();
    let said = object.tampered().unwrap().unwrap();
    assert!(said.ends_with("mode was 600 and is 644"), "{said}");
}

#[test]
fn a_changed_owner_is_told_with_old_and_new_needs_root() {
    support::needs_root();
    let object = own();
    let export = object.export(Access::Read).unwrap();
    rustix::fs::fchown(&export, Some(Uid::from_raw(1234)), None::<Gid>).unwrap();
    let said = object.tampered().unwrap().unwrap();
    assert!(said.starts_with("owner was uid 0 and is 1234"), "{said}");
    let kept = ObjectMemory::from_kept(object.duplicate().unwrap()).unwrap();
    assert!(kept.tampered().unwrap().is_some(), "also for who takes it back after a restart");
}

#[test]
fn foreign_memory_may_have_any_mode() {
    let fd = foreign_fd(SIZE_SEALS);
    let twin = rustix::io::fcntl_dupfd_cloexec(&fd, 0).unwrap();
    let memory = ObjectMemory::from_foreign(fd).unwrap();
    rustix::fs::fchmod(&twin, Mode::RUSR).unwrap();
    assert_eq!(memory.tampered(), Ok(None));
}
