//! Appends: contiguous, never overlapping, and nothing left behind by one that fails.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use vgem_proto::error::ErrorCode;

use crate::rig::{AUTO, CREATE, NEVER, Object, READ, Rig, WRITE, code, pattern, queue};

const MIB: usize = 1 << 20;

#[test]
fn appends_of_one_queue_lie_one_behind_the_other() {
    for rig in [Rig::new(), Rig::by_calls()] {
        let file = rig.open(queue(1), &rig.path("f"), CREATE, AUTO).expect("created");
        let (mut wanted, object) = (Vec::new(), Object::of(1, &pattern(5, 2 * MIB)).registered_with(&rig));
        for len in [MIB, 4096, 1, 0, MIB, 131_072, 4095, 300_000] {
            let produced = rig.append(queue(1), file, object.part(0, len)).expect("appended");
            assert_eq!((produced.value, produced.len), (wanted.len() as u64, len as u64));
            wanted.extend_from_slice(&object.bytes()[..len]);
        }
        assert!(std::fs::read(rig.path("f")).expect("the file") == wanted);
    }
}

#[test]
fn an_aligned_append_goes_past_the_page_cache_and_an_unaligned_one_does_not() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.path("f"), CREATE, AUTO).expect("created");
    let object = Object::new(1, MIB).registered_with(&rig);
    rig.append(queue(1), file, object.all()).expect("appended");
    rig.append(queue(1), file, object.part(0, MIB - 1)).expect("appended");
    rig.append(queue(1), file, object.all()).expect("appended");
    let counters = rig.blk.counters();
    assert_eq!((counters.direct_bytes, counters.cached_bytes), (MIB as u64, 2 * MIB as u64 - 1));
}

#[test]
fn appends_of_several_queues_to_one_file_are_contiguous_and_whole() {
    let rig = Rig::new();
    let path = rig.path("f");
    drop(std::fs::File::create(&path).expect("created"));
    let frames = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..8_u32 {
            let (rig, path, frames) = (&rig, &path, &frames);
            scope.spawn(move || {
                let direct = if number % 2 == 0 { AUTO } else { NEVER };
                let file = rig.open(queue(number), path, WRITE, direct).expect("opened");
                for round in 0..12 {
                    let len = if round % 3 == 0 { 256 * 1024 } else { 1000 + 7919 * (round as usize + 1) };
                    let bytes = pattern(number * 100 + round + 1, len);
                    let object = Object::of(number, &bytes).registered_with(rig);
                    let produced = rig.append(queue(number), file, object.all()).expect("appended");
                    frames.lock().expect("frames").push((produced.value, bytes));
                    vgem_driver::Engine::unmapping(&rig.blk, object.key);
                }
            });
        }
    });
    let mut frames = frames.into_inner().expect("frames");
    frames.sort_by_key(|(offset, _)| *offset);
    let whole = std::fs::read(&path).expect("the file");
    let mut at = 0;
    for (offset, bytes) in frames {
        assert_eq!(offset, at as u64, "no gap and no overlap");
        assert!(whole[at..at + bytes.len()] == bytes[..], "the frame at {at} is whole");
        at += bytes.len();
    }
    assert_eq!(at, whole.len());
}

#[test]
fn an_append_begins_where_a_truncation_or_a_write_of_somebody_else_has_put_the_end() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 1000]);
    let file = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    let object = Object::of(1, &[2; 10]);
    assert_eq!(rig.append(queue(1), file, object.all()).expect("appended").value, 1000);
    std::fs::write(&path, [3; 77]).expect("written");
    assert_eq!(rig.append(queue(1), file, object.all()).expect("appended").value, 77);
}

#[test]
fn a_file_opened_for_reading_takes_no_appends() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[1; 10]), READ, AUTO).expect("opened");
    assert_eq!(code(rig.append(queue(1), file, Object::new(1, 10).all())), ErrorCode::NotPermitted);
}

/// A tmpfs of 1 MiB, unmounted on drop.
struct SmallFileSystem<'a>(&'a Path);

impl<'a> SmallFileSystem<'a> {
    fn mount(at: &'a Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a tmpfs: it needs root");
        Self(at)
    }
}

impl Drop for SmallFileSystem<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "unmounted");
    }
}

#[test]
fn a_full_file_system_is_no_space_and_leaves_the_file_as_it_was_needs_root() {
    for rig in [Rig::new(), Rig::by_calls()] {
        let at = rig.path("small");
        std::fs::create_dir(&at).expect("a directory");
        let _small = SmallFileSystem::mount(&at);
        let path = at.join("f");
        let file = rig.open(queue(1), &path, CREATE, AUTO).expect("created");
        let object = Object::of(1, &pattern(1, 2 * MIB)).registered_with(&rig);
        rig.append(queue(1), file, object.part(0, 100_001)).expect("appended");
        let failed = rig.append(queue(1), file, object.all()).expect_err("there is no space");
        assert_eq!(failed.code, ErrorCode::NoSpace);
        assert!(failed.text.contains("small/f") && failed.text.contains("No space"), "{failed}");
        assert!(std::fs::read(&path).expect("the file") == pattern(1, 100_001), "nothing was appended");
        assert_eq!(code(rig.write(queue(1), file, 0, object.all())), ErrorCode::NoSpace);
        vgem_driver::Engine::queue_closed(&rig.blk, queue(1));
    }
}
