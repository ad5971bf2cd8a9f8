//! Kernel conformance: FACTS, "Memory, charging, pinning".
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::AsFd;

use nix::libc;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MlockFlags, ProtFlags};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory, Probe};
use vgem_os::pin::Pin;

const LEN: usize = 256 * 1024;

fn object() -> ObjectMemory {
    vgem_os::signal::ignore_sigio().unwrap();
    ObjectMemory::create(LEN as u64, HugePages::None, "memory").unwrap()
}

fn populated() -> ObjectMemory {
    let object = object();
    let export = object.export(Access::Write).unwrap();
    drop(Mapping::map(export.as_fd(), LEN, Access::Write, Populate::Now).unwrap());
    object
}

/// A field of a mapping in smaps, bytes.
fn smaps(mapping: &Mapping, field: &str) -> usize {
    let start = format!("{:x}-", mapping.span().as_ptr().addr());
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn address(mapping: &Mapping) -> *mut core::ffi::c_void {
    mapping.span().as_ptr().cast_mut().cast()
}

// M-032
#[test]
fn a_fresh_object_is_all_hole_and_a_populated_one_has_none() {
    let object = object();
    assert_eq!(rustix::fs::seek(&object, SeekFrom::Hole(0)), Ok(0));
    let export = object.export(Access::Write).unwrap();
    let mapping = Mapping::map(export.as_fd(), LEN, Access::Write, Populate::Lazy).unwrap();
    mapping.populate_write().unwrap();
    assert_eq!(rustix::fs::seek(&object, SeekFrom::Hole(0)), Ok(LEN as u64));
}

#[test]
fn one_page_that_is_missing_is_found() {
    let object = populated();
    assert_eq!(object.is_populated(), Ok(true));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&object, punch, (LEN - 4096) as u64, 4096).unwrap();
    assert_eq!(object.is_populated(), Ok(false));
}

#[test]
fn populating_for_writing_changes_no_byte() {
    let object = object();
    rustix::io::pwrite(&object, b"before", 4096).unwrap();
    let export = object.export(Access::Write).unwrap();
    Mapping::map(export.as_fd(), LEN, Access::Write, Populate::Now).unwrap();
    let mut bytes = [0; 6];
    rustix::io::pread(&object, &mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"before");
}

#[test]
fn mlock_onfault_of_an_untouched_mapping_pins_nothing() {
    let object = populated();
    let mapping = Mapping::map(object.as_fd(), LEN, Access::Read, Populate::Lazy).unwrap();
    // SAFETY: U2. Our own mapping.
    unsafe { rustix::mm::mlock_with(address(&mapping), LEN, MlockFlags::ONFAULT) }.unwrap();
    assert_eq!(smaps(&mapping, "Locked"), 0, "though VmLck counts it");
}

#[test]
fn plain_mlock_of_an_untouched_read_only_mapping_pins_all_of_it() {
    let object = populated();
    let mapping = Mapping::map(object.as_fd(), LEN, Access::Read, Populate::Lazy).unwrap();
    // SAFETY: U2. Our own mapping.
    unsafe { rustix::mm::mlock(address(&mapping), LEN) }.unwrap();
    assert_eq!((smaps(&mapping, "Rss"), smaps(&mapping, "Locked")), (LEN, LEN));
}

#[test]
fn mlock_of_memory_that_may_not_be_read_fails() {
    // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping.
    let at = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), LEN, ProtFlags::empty(), MapFlags::PRIVATE)
    }
    .unwrap();
    // SAFETY: U2. The mapping made above.
    assert_eq!(unsafe { rustix::mm::mlock(at, LEN) }, Err(Errno::NOMEM));
    // SAFETY: U2. The mapping made above; nothing points into it.
    unsafe { rustix::mm::munmap(at, LEN) }.unwrap();
}

#[test]
fn a_pin_reports_the_bytes_it_locked() {
    let object = populated();
    let pin = Pin::lock(object.as_fd(), object.len()).unwrap();
    assert_eq!((pin.bytes(), pin.reason()), (object.len(), None));
}

#[test]
fn memory_that_is_locked_in_pieces_is_pinned_whole_needs_root() {
    support::needs_root();
    // Nobody has touched it: what is in memory was locked.
    let object = ObjectMemory::create(CHARGED as u64 * 2 + 4096, HugePages::None, "pieces").unwrap();
    let pin = Pin::lock(object.as_fd(), object.len()).unwrap();
    assert_eq!((pin.bytes(), pin.reason()), (object.len(), None));
}

#[test]
fn a_pin_through_the_owners_fd_is_invisible_to_the_probe() {
    let object = populated();
    let kept = object.duplicate().unwrap();
    let _pin = Pin::lock(kept.as_fd(), object.len()).unwrap();
    // Another test's child has our exports until it begins its own program.
    support::until("nobody else has it", || object.probe() == Ok(Probe::Free));
}

#[test]
fn a_pin_beyond_the_memlock_limit_holds_nothing_and_says_why() {
    if let Some(side) = support::peer_side() {
        support::drop_capabilities();
        let limit = rustix::process::Rlimit { current: Some(65536), maximum: Some(65536) };
        rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).unwrap();
        let pin = Pin::lock(support::given(0).as_fd(), LEN as u64).unwrap();
        return side.say(&format!("{} {:?}", pin.bytes(), pin.reason().map(|why| why.errno())));
    }
    let test = "a_pin_beyond_the_memlock_limit_holds_nothing_and_says_why";
    let peer = support::start_peer(test, vec![populated().duplicate().unwrap()]);
    assert_eq!(peer.hear(), format!("0 {:?}", Some(Errno::NOMEM)));
}

#[test]
fn a_hole_punched_by_a_holder_reads_zeros_through_every_mapping() {
    let object = populated();
    let export = object.export(Access::Write).unwrap();
    let mapping = Mapping::map(object.as_fd(), LEN, Access::Write, Populate::Now).unwrap();
    mapping.span_mut().unwrap().fill(0xaa);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&export, punch, 0, LEN as u64).unwrap();
    assert_eq!(mapping.span().read_u64(0), Ok(0), "no seal but WRITE forbids it, and no signal is raised");
}

#[test]
fn huge_pages_are_allocated_whole_or_refused_by_name() {
    let made = ObjectMemory::create(2 * 1024 * 1024, HugePages::Size2M, "huge");
    match made {
        Ok(object) => assert_eq!(object.is_populated(), Ok(false)),
        Err(error) => assert!(matches!(error.errno(), Errno::NOSYS | Errno::NOMEM | Errno::INVAL), "{error}"),
    }
}

#[test]
fn the_first_toucher_of_a_page_pays_for_it_and_not_its_owner_needs_root() {
    if let Some(side) = support::peer_side() {
        side.hear();
        let export = support::given(0);
        let _mapping = Mapping::map(export.as_fd(), CHARGED, Access::Write, Populate::Now).unwrap();
        side.say("touched");
        return side.wait_for_the_end();
    }
    support::needs_root();
    let test = "the_first_toucher_of_a_page_pays_for_it_and_not_its_owner_needs_root";
    let group = Group::create();
    let object = ObjectMemory::create(CHARGED as u64, HugePages::None, "charged").unwrap();
    let mut peer = support::start_peer(test, vec![object.export(Access::Write).unwrap()]);
    group.add(peer.child.pid);
    peer.say("touch");
    assert_eq!(peer.hear(), "touched");
    assert!(group.usage() >= CHARGED, "charged {} of {CHARGED}", group.usage());
    peer.kill();
    let pin = Pin::lock(object.as_fd(), object.len()).unwrap();
    assert!(group.usage() >= CHARGED, "for good: neither death nor another's mlock moves the charge");
    drop(pin);
    object.free().map_err(|(_, error)| error).unwrap();
    support::until("freed memory is not charged", || group.usage() < CHARGED / 2);
}

/// Enough to be told from everything else a process touches, bytes.
const CHARGED: usize = 64 * 1024 * 1024;

/// A memory control group of this test alone, of either version.
struct Group {
    path: std::path::PathBuf,
    usage: &'static str,
}

impl Group {
    fn create() -> Self {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let (parent, usage) = if root.join("memory/memory.usage_in_bytes").exists() {
            (root.join("memory"), "memory.usage_in_bytes")
        } else {
            (root.to_path_buf(), "memory.current")
        };
        let path = parent.join(format!("vgem-test-{}", std::process::id()));
        std::fs::create_dir(&path).expect("root may make a memory control group");
        assert!(path.join(usage).exists(), "the memory controller is switched on in {}", parent.display());
        Self { path, usage }
    }

    fn add(&self, pid: libc::pid_t) {
        std::fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn usage(&self) -> usize {
        std::fs::read_to_string(self.path.join(self.usage)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        support::until("the group is empty", || std::fs::remove_dir(&self.path).is_ok());
    }
}
