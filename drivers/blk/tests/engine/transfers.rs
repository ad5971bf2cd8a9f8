//! Reads and writes: every way gives the same bytes, and the right way is taken.

use vgem_driver::testing::memory::Access;
use vgem_driver::{Engine as _, ParamValue};
use vgem_driver_blk::description::op;
use vgem_proto::error::ErrorCode;

use crate::rig::{
    AUTO, CREATE, NEVER, Object, READ, REQUIRE, Rig, WRITE, code, copy_of, forget_cache, pattern, queue,
};

const MIB: usize = 1 << 20;

/// Offsets and lengths on and off every boundary that matters: sectors, pages, the pieces, the direct threshold.
pub(crate) const PLACES: &[(usize, usize)] = &[
    (0, 3 * MIB),
    (0, 1),
    (1, 1),
    (511, 2),
    (512, 512),
    (4096, 4096),
    (4096, MIB),
    (4097, MIB),
    (0, MIB + 1),
    (4096, 512 * 1024 + 17),
    (MIB - 1, MIB + 2),
    (512, 131_072),
    (100, 131_071),
];

pub(crate) fn every_rig() -> [(&'static str, Rig); 2] {
    [("ring", Rig::new()), ("calls", Rig::by_calls())]
}

#[test]
fn a_read_gives_the_files_bytes_wherever_it_begins_and_whichever_way_it_goes() {
    let bytes = pattern(1, 3 * MIB);
    for (io, rig) in every_rig() {
        let path = rig.file("f", &bytes);
        let plain = Object::new(1, 3 * MIB + 4096);
        let fixed = Object::new(2, 3 * MIB + 4096).registered_with(&rig);
        for direct in [AUTO, NEVER] {
            let file = rig.open(queue(1), &path, READ, direct).expect("opened");
            for (offset, len) in PLACES {
                for (object, shift) in [(&plain, 0), (&fixed, 0), (&fixed, 4096), (&fixed, 3)] {
                    let operand = object.part(shift, *len);
                    let produced = rig.read(queue(1), file, *offset as u64, operand).expect("read");
                    assert_eq!((produced.len, produced.value), (*len as u64, *offset as u64));
                    let got = &object.bytes()[shift..shift + len];
                    assert!(got == &bytes[*offset..offset + len], "{io}, direct {direct}, {offset}+{len}");
                }
            }
        }
    }
}

#[test]
fn a_write_puts_its_bytes_and_no_others_wherever_it_begins_and_whichever_way_it_goes() {
    for (io, rig) in every_rig() {
        let fixed = Object::of(2, &pattern(7, 3 * MIB + 4096)).registered_with(&rig);
        for direct in [AUTO, NEVER] {
            for (offset, len) in PLACES {
                let mut wanted = pattern(1, 3 * MIB);
                let path = rig.file("f", &wanted);
                let file = rig.open(queue(1), &path, WRITE, direct).expect("opened");
                let operand = fixed.part(4096, *len);
                let produced = rig.write(queue(1), file, *offset as u64, operand).expect("written");
                assert_eq!((produced.len, produced.value), (*len as u64, *offset as u64));
                let source = &fixed.bytes()[4096..4096 + len];
                wanted[*offset..offset + len].copy_from_slice(source);
                let got = std::fs::read(&path).expect("the file");
                assert!(got == wanted, "{io}, direct {direct}, {offset}+{len}");
                rig.blk.queue_closed(queue(1));
            }
        }
    }
}

#[test]
fn a_write_behind_the_end_grows_the_file_with_zeros_between() {
    for (io, rig) in every_rig() {
        let bytes = pattern(3, MIB);
        let object = Object::of(1, &bytes).registered_with(&rig);
        for (name, offset) in [("aligned", 8192), ("unaligned", 5000)] {
            let file = rig.open(queue(1), &rig.path(name), CREATE, AUTO).expect("created");
            rig.write(queue(1), file, offset as u64, object.all()).expect("written");
            let got = std::fs::read(rig.path(name)).expect("the file");
            assert_eq!(got.len(), offset + MIB, "{io}");
            assert!(got[..offset].iter().all(|b| *b == 0) && got[offset..] == bytes[..], "{io}, {name}");
        }
    }
}

#[test]
fn a_read_at_the_end_is_short_and_one_behind_it_is_empty() {
    for (io, rig) in every_rig() {
        for len in [0, 1, 4096, 300_000, 2 * MIB - 4096, 2 * MIB] {
            let path = rig.file("f", &pattern(1, len));
            let object = Object::new(1, 3 * MIB).registered_with(&rig);
            for direct in [AUTO, NEVER] {
                let file = rig.open(queue(1), &path, READ, direct).expect("opened");
                for offset in [0, 1, 4096, len, len + 4096] {
                    let produced = rig.read(queue(1), file, offset as u64, object.all()).expect("read");
                    let wanted = len.saturating_sub(offset) as u64;
                    assert_eq!(produced.len, wanted, "{io}, direct {direct}, file {len}, offset {offset}");
                }
            }
        }
        let refused = rig.blk.counters().direct_refused;
        assert_eq!(refused, 0, "{io}: what is left at the end was not asked of direct I/O");
    }
}

#[test]
fn a_read_of_a_given_length_leaves_the_rest_of_its_operand() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[1; 100]), READ, AUTO).expect("opened");
    let object = Object::of(1, &[9; 100]);
    let params = [file, 0, 40].map(ParamValue::Number);
    assert_eq!(rig.run(queue(1), op::READ, Some(object.all()), &params).expect("read").len, 40);
    assert_eq!(object.bytes(), [[1; 40].as_slice(), &[9; 60]].concat());
}

#[test]
fn a_read_longer_than_its_operand_is_refused() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[1; 100]), READ, AUTO).expect("opened");
    let object = Object::new(1, 50);
    let params = [file, 0, 51].map(ParamValue::Number);
    assert_eq!(code(rig.run(queue(1), op::READ, Some(object.all()), &params)), ErrorCode::OutputTooSmall);
}

#[test]
fn offsets_beyond_what_a_file_can_have_are_refused() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[1; 100]), WRITE, AUTO).expect("opened");
    let object = Object::new(1, 50);
    for offset in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 49] {
        assert_eq!(code(rig.read(queue(1), file, offset, object.all())), ErrorCode::OutOfRange);
        assert_eq!(code(rig.write(queue(1), file, offset, object.all())), ErrorCode::OutOfRange);
    }
}

#[test]
fn an_aligned_read_of_what_is_not_cached_goes_past_the_page_cache_through_a_registered_buffer() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), READ, AUTO).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    rig.read(queue(1), file, 0, object.all()).expect("read");
    let counters = rig.blk.counters();
    assert_eq!((counters.direct_bytes, counters.cached_bytes), (MIB as u64, 0));
    assert_eq!((counters.fixed_bytes, counters.ring_bytes, counters.call_bytes), (MIB as u64, MIB as u64, 0));
}

#[test]
fn a_read_of_what_is_cached_comes_from_the_page_cache() {
    let rig = Rig::new();
    let path = rig.file("f", &pattern(1, MIB));
    assert_eq!(std::fs::read(&path).expect("the file").len(), MIB);
    let file = rig.open(queue(1), &path, READ, AUTO).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    rig.read(queue(1), file, 0, object.all()).expect("read");
    let counters = rig.blk.counters();
    assert_eq!((counters.direct_bytes, counters.fixed_bytes), (0, MIB as u64));
}

#[test]
fn a_direct_read_sees_what_was_just_written_through_the_page_cache_and_the_reverse() {
    let rig = Rig::new();
    let path = rig.file("f", &pattern(1, MIB));
    let cached = rig.open(queue(1), &path, WRITE, NEVER).expect("opened");
    let direct = rig.open(queue(1), &path, WRITE, REQUIRE).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    for (round, (writer, reader)) in
        [(cached, direct), (direct, cached), (cached, direct)].into_iter().enumerate()
    {
        let bytes = pattern(10 + u32::try_from(round).expect("few rounds"), MIB);
        let source = Object::of(2, &bytes).registered_with(&rig);
        rig.write(queue(1), writer, 0, source.all()).expect("written");
        rig.read(queue(1), reader, 0, object.all()).expect("read");
        assert!(object.bytes() == bytes, "round {round}");
    }
    assert_eq!(rig.blk.counters().direct_bytes, 3 * MIB as u64);
}

#[test]
fn an_unaligned_tail_goes_through_the_page_cache_and_the_body_past_it() {
    let rig = Rig::new();
    let path = rig.file("f", &pattern(1, 2 * MIB));
    let file = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    rig.read(queue(1), file, 0, object.part(0, MIB - 1)).expect("read");
    rig.write(queue(1), file, 0, object.part(0, MIB - 1)).expect("written");
    let counters = rig.blk.counters();
    assert!(counters.cached_bytes > 0 && counters.cached_bytes < 2 * 4096, "{counters:?}");
    assert_eq!(counters.direct_bytes + counters.cached_bytes, 2 * (MIB as u64 - 1));
}

#[test]
fn require_refuses_what_is_not_aligned_and_auto_does_it() {
    let rig = Rig::new();
    let path = rig.file("f", &pattern(1, 2 * MIB));
    let object = Object::new(1, MIB).registered_with(&rig);
    let require = rig.open(queue(1), &path, WRITE, REQUIRE).expect("opened");
    let auto = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    assert_eq!(code(rig.read(queue(1), require, 1, object.all())), ErrorCode::Unsupported);
    assert_eq!(code(rig.write(queue(1), require, 0, object.part(0, MIB - 1))), ErrorCode::Unsupported);
    assert_eq!(code(rig.append(queue(1), require, object.part(1, 512))), ErrorCode::Unsupported);
    rig.read(queue(1), auto, 1, object.all()).expect("read");
}

#[test]
fn without_io_uring_everything_goes_by_system_calls_and_nothing_is_registered() {
    let rig = Rig::by_calls();
    assert!(!rig.blk.uses_io_uring() && !rig.blk.needs().io_uring);
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), WRITE, AUTO).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    rig.read(queue(1), file, 0, object.all()).expect("read");
    rig.write(queue(1), file, 0, object.all()).expect("written");
    let counters = rig.blk.counters();
    assert_eq!((counters.ring_bytes, counters.fixed_bytes, counters.registered), (0, 0, 0));
    assert_eq!(counters.call_bytes, 2 * MIB as u64);
}

#[test]
fn an_unmapped_object_is_not_registered_any_more_and_its_neighbours_are() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), READ, NEVER).expect("opened");
    let objects: Vec<_> = (1..=3).map(|i| Object::new(i, MIB).registered_with(&rig)).collect();
    rig.blk.unmapping(objects[1].key);
    for (object, fixed) in objects.iter().zip([MIB, 0, MIB]) {
        let before = rig.blk.counters().fixed_bytes;
        rig.read(queue(1), file, 0, object.all()).expect("read");
        assert_eq!(rig.blk.counters().fixed_bytes - before, fixed as u64, "{}", object.key);
        assert!(object.bytes() == pattern(1, MIB));
    }
}

#[test]
fn an_object_mapped_anew_is_read_into_where_it_lies_now() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), READ, NEVER).expect("opened");
    let old = Object::new(1, MIB).registered_with(&rig);
    let new = Object::new(1, MIB).registered_with(&rig);
    rig.read(queue(1), file, 0, new.all()).expect("read");
    assert!(new.bytes() == pattern(1, MIB) && old.bytes().iter().all(|b| *b == 0));
    // A mapping that the rings were never told of is served too, by plain requests.
    let moved = Object::new(1, MIB);
    rig.read(queue(1), file, 0, moved.all()).expect("read");
    assert!(moved.bytes() == pattern(1, MIB));
}

#[test]
fn an_object_mapped_for_reading_cannot_be_registered_and_is_written_from_all_the_same() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.path("f"), CREATE, AUTO).expect("created");
    let object = Object::mapped_for(Access::Read, 1, MIB).registered_with(&rig);
    rig.write(queue(1), file, 0, object.all()).expect("written");
    let counters = rig.blk.counters();
    assert_eq!((counters.unregistrable, counters.fixed_bytes), (1, 0));
    assert_eq!(std::fs::metadata(rig.path("f")).expect("the file").len(), MIB as u64);
}

#[test]
fn small_objects_are_not_registered() {
    let rig = Rig::new();
    Object::new(1, 4096).registered_with(&rig);
    let counters = rig.blk.counters();
    assert_eq!((counters.registered, counters.unregistrable), (0, 0));
}

#[test]
fn when_the_table_is_full_the_next_object_is_used_unregistered_until_one_leaves() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[5; 16_384]), READ, AUTO).expect("opened");
    let objects: Vec<_> = (0..1025).map(|i| Object::new(i, 16_384).registered_with(&rig)).collect();
    assert_eq!((rig.blk.counters().registered, rig.blk.counters().unregistrable), (1024, 1));
    for object in [&objects[0], &objects[1023], &objects[1024]] {
        rig.read(queue(1), file, 0, object.all()).expect("read");
        assert_eq!(object.bytes(), [5; 16_384]);
    }
    rig.blk.unmapping(objects[0].key);
    Object::new(2000, 16_384).registered_with(&rig);
    assert_eq!(rig.blk.counters().registered, 1025);
}

#[test]
fn a_job_longer_than_its_ring_is_deep_is_done_whole() {
    let len = 40 * MIB;
    let rig = Rig::new();
    let bytes = pattern(1, len);
    let object = Object::of(1, &bytes).registered_with(&rig);
    let file = rig.open(queue(1), &rig.path("f"), CREATE, AUTO).expect("created");
    for _ in 0..2 {
        rig.write(queue(1), file, 0, object.all()).expect("written");
    }
    object.mapping.span_mut().expect("writable").fill(0);
    forget_cache(&rig.path("f"));
    assert_eq!(rig.read(queue(1), file, 0, object.all()).expect("read").len, len as u64);
    assert!(copy_of(object.mapping.span()) == bytes);
}

#[test]
fn many_threads_read_and_write_at_once_without_mixing_their_bytes() {
    let rig = Rig::with(|setup| vgem_driver_blk::Setup { executors: Some(3), ..setup });
    let path = rig.file("f", &pattern(1, 8 * MIB));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (rig, path) = (&rig, &path);
            scope.spawn(move || {
                let own = queue(number);
                let direct = if number % 2 == 0 { AUTO } else { NEVER };
                let file = rig.open(own, path, WRITE, direct).expect("opened");
                let at = u64::from(number) * MIB as u64;
                for round in 0..8 {
                    let bytes = pattern(100 * number + round + 1, MIB);
                    let object = Object::of(number * 10, &bytes).registered_with(rig);
                    rig.write(own, file, at, object.all()).expect("written");
                    object.mapping.span_mut().expect("writable").fill(0);
                    rig.read(own, file, at, object.all()).expect("read");
                    assert!(object.bytes() == bytes, "thread {number}, round {round}");
                    rig.blk.unmapping(object.key);
                }
            });
        }
    });
    // Whichever ring a thread got, the objects were registered there.
    let counters = rig.blk.counters();
    assert!(
        counters.ring_bytes >= 64 * MIB as u64 && counters.fixed_bytes == counters.ring_bytes,
        "{counters:?}"
    );
}
