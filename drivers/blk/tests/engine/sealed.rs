//! Sealed results, and what registering holds: the pages of an object, until it is unmapped.

use std::os::fd::AsFd as _;

use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::io::Errno;
use vgem_driver::Engine as _;
use vgem_driver::mapping::{Mapping, Populate};
use vgem_driver::testing::memory::{Access, HugePages, ObjectMemory, Probe};
use vgem_driver::testing::{Traces, traces_of};

use crate::rig::{AUTO, NEVER, Object, READ, Rig, copy_of, pattern, queue};

const MIB: usize = 1 << 20;

fn sealable() -> ObjectMemory {
    ObjectMemory::create_sealable(MIB as u64, HugePages::None, "result").expect("an object")
}

/// What somebody sees who may only read it.
fn seen_by_a_reader(memory: &ObjectMemory) -> Vec<u8> {
    let fd = memory.export(Access::Read).expect("an export");
    let mapping = Mapping::map(fd.as_fd(), MIB, Access::Read, Populate::Lazy).expect("mapped");
    copy_of(mapping.span())
}

#[test]
fn a_result_is_filled_through_its_registration_whether_that_came_before_the_seal_or_after() {
    for registered_first in [true, false] {
        let rig = Rig::new();
        let path = rig.file("f", &pattern(1, MIB));
        let mut result = Object::mapping_of(sealable(), Access::Write, 1);
        if registered_first {
            result = result.registered_with(&rig);
        }
        result.memory.seal_against_writing().expect("nobody sealed it before");
        if !registered_first {
            result = result.registered_with(&rig);
        }
        for (direct, fixed) in [(AUTO, MIB as u64), (NEVER, 2 * MIB as u64)] {
            result.mapping.span_mut().expect("mapped before the seal").fill(0);
            let file = rig.open(queue(1), &path, READ, direct).expect("opened");
            let done = rig.read(queue(1), file, 0, result.all()).expect("read");
            assert_eq!((done.len, done.staged, rig.blk.counters().fixed_bytes), (MIB as u64, 0, fixed));
            assert!(
                seen_by_a_reader(&result.memory) == pattern(1, MIB),
                "registered first: {registered_first}"
            );
        }
    }
}

#[test]
fn a_sealed_result_that_is_unmapped_leaves_nothing_behind() {
    let rig = Rig::new();
    let result = Object::mapping_of(sealable(), Access::Write, 1).registered_with(&rig);
    result.memory.seal_against_writing().expect("nobody sealed it before");
    rig.blk.unmapping(result.key);
    let Object { memory, mapping, .. } = result;
    drop(mapping);
    assert_eq!(traces_of(memory.identity()), Traces { fds: 1, writable: 0, readable: 0 });
    assert_eq!(memory.probe(), Ok(Probe::Free));
}

/// The kernel takes this seal only where no page is mapped for writing, or pinned, by anybody.
fn no_page_is_held(memory: &ObjectMemory) -> Result<(), Errno> {
    fcntl_add_seals(memory, SealFlags::WRITE)
}

// M-103
#[test]
fn registered_pages_are_held_without_any_mapping_and_let_go_when_the_object_is_unmapped() {
    let rig = Rig::new();
    let Object { memory, mapping, key } =
        Object::mapping_of(sealable(), Access::Write, 1).registered_with(&rig);
    drop(mapping);
    assert_eq!(no_page_is_held(&memory), Err(Errno::BUSY));
    rig.blk.unmapping(key);
    assert_eq!(no_page_is_held(&memory), Ok(()));
}
