//! Operands that another domain may write, and operands whose pages somebody takes away.

use vgem_driver::Engine as _;
use vgem_driver::testing::memory::Access;
use vgem_driver::testing::{Verdicts, beside};
use vgem_proto::error::ErrorCode;

use crate::rig::{AUTO, CREATE, NEVER, Object, READ, REQUIRE, Rig, WRITE, code, pattern, queue};
use crate::transfers::{PLACES, every_rig};

const MIB: usize = 1 << 20;
/// Long enough to go past the page cache, and short enough for many rounds.
const RACED: usize = 256 * 1024;
/// More than two windows and no whole number of them.
const LONG: usize = 9 * MIB + 4096;

#[test]
fn a_read_for_another_domain_gives_the_files_bytes_and_stages_each_once() {
    let bytes = pattern(1, 3 * MIB);
    for (io, rig) in every_rig() {
        let path = rig.file("f", &bytes);
        let object = Object::new(1, 3 * MIB + 4096).registered_with(&rig);
        for (direct, (offset, len)) in [AUTO, NEVER].iter().flat_map(|d| PLACES.iter().map(move |p| (*d, *p)))
        {
            let file = rig.open(queue(1), &path, READ, direct).expect("opened");
            let mut operand = object.part(3, len);
            operand.foreign = true;
            let produced = rig.read(queue(1), file, offset as u64, operand).expect("read");
            assert_eq!((produced.len, produced.staged), (len as u64, len as u64));
            assert!(
                object.bytes()[3..3 + len] == bytes[offset..offset + len],
                "{io}, {direct}, {offset}+{len}"
            );
        }
        assert_eq!(rig.blk.counters().fixed_bytes, 0, "{io}: registered pages of a stranger were used");
    }
}

#[test]
fn a_write_for_another_domain_puts_its_bytes_and_no_others_and_stages_each_once() {
    for (io, rig) in every_rig() {
        let object = Object::of(2, &pattern(7, 3 * MIB + 4096)).registered_with(&rig);
        for (direct, (offset, len)) in [AUTO, NEVER].iter().flat_map(|d| PLACES.iter().map(move |p| (*d, *p)))
        {
            let mut wanted = pattern(1, 3 * MIB);
            let path = rig.file("f", &wanted);
            let file = rig.open(queue(1), &path, WRITE, direct).expect("opened");
            let mut operand = object.part(3, len);
            operand.foreign = true;
            let produced = rig.write(queue(1), file, offset as u64, operand).expect("written");
            assert_eq!((produced.len, produced.staged), (len as u64, len as u64));
            wanted[offset..offset + len].copy_from_slice(&object.bytes()[3..3 + len]);
            assert!(std::fs::read(&path).expect("the file") == wanted, "{io}, {direct}, {offset}+{len}");
            rig.blk.queue_closed(queue(1));
        }
        assert_eq!(rig.blk.counters().fixed_bytes, 0, "{io}: registered pages of a stranger were used");
    }
}

#[test]
fn what_is_longer_than_a_window_is_appended_in_a_row_and_read_back_short_at_the_end() {
    let bytes = pattern(3, LONG);
    for (io, rig) in every_rig() {
        let (source, target) = (Object::of(1, &bytes), Object::new(2, 2 * LONG + 17));
        for direct in [AUTO, NEVER, REQUIRE] {
            let path = rig.path(&format!("f{direct}"));
            let file = rig.open(queue(1), &path, CREATE, direct).expect("created");
            for round in 0..2 {
                let done = rig.append(queue(1), file, source.foreign()).expect("appended");
                assert_eq!((done.value, done.staged), ((round * LONG) as u64, LONG as u64), "{io}, {direct}");
            }
            let file = rig.open(queue(1), &path, READ, AUTO).expect("opened");
            let done = rig.read(queue(1), file, 0, target.foreign()).expect("read");
            assert_eq!((done.len, done.staged), (2 * LONG as u64, 2 * LONG as u64), "{io}, {direct}");
            assert!(target.bytes()[..2 * LONG] == [&bytes[..], &bytes].concat(), "{io}, {direct}");
        }
    }
}

#[test]
fn direct_i_o_for_another_domain_is_of_private_memory_and_needs_no_aligned_operand() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), WRITE, REQUIRE).expect("opened");
    let object = Object::new(1, MIB + 4096).registered_with(&rig);
    let mut operand = object.part(5, MIB);
    operand.foreign = true;
    assert_eq!(rig.read(queue(1), file, 0, operand).expect("read").staged, MIB as u64);
    assert!(object.bytes()[5..5 + MIB] == pattern(1, MIB));
    let mut unaligned = object.part(0, MIB - 1);
    unaligned.foreign = true;
    assert_eq!(code(rig.write(queue(1), file, 0, unaligned)), ErrorCode::Unsupported);
    let counters = rig.blk.counters();
    assert_eq!((counters.direct_bytes, counters.cached_bytes, counters.fixed_bytes), (MIB as u64, 0, 0));
}

#[test]
fn operands_of_the_own_domain_are_not_staged() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &pattern(1, MIB)), WRITE, AUTO).expect("opened");
    let object = Object::new(1, MIB).registered_with(&rig);
    assert_eq!(rig.read(queue(1), file, 0, object.all()).expect("read").staged, 0);
    assert_eq!(rig.write(queue(1), file, 0, object.all()).expect("written").staged, 0);
    assert_eq!(rig.blk.counters().fixed_bytes, 2 * MIB as u64);
}

/// A job beside a holder that writes the letters A and B into the operand: it ends well, every time.
fn beside_letters(object: &Object, job: impl FnMut() -> bool) {
    let span = object.mapping.span_mut().expect("writable");
    span.fill(b'A');
    let harm = |random: &mut vgem_driver::testing::Random| {
        let (at, letter) = (random.below(span.len() - 512), [b'A', b'B'][random.below(2)]);
        span.copy_from(at, &[letter; 512]).expect("inside");
    };
    let Verdicts { failed, .. } = beside(harm, job);
    assert_eq!(failed, 0);
}

#[test]
fn what_another_domain_changes_meanwhile_is_written_as_it_was_at_some_moment() {
    for (io, rig) in every_rig() {
        let object = Object::new(1, RACED).registered_with(&rig);
        for direct in [AUTO, NEVER, REQUIRE] {
            let path = rig.file("f", &pattern(1, RACED));
            let file = rig.open(queue(1), &path, WRITE, direct).expect("opened");
            beside_letters(&object, || {
                let done = rig.write(queue(1), file, 0, object.foreign()).is_ok();
                let bytes = std::fs::read(&path).expect("the file");
                assert!(bytes.iter().all(|b| [b'A', b'B'].contains(b)), "{io}, {direct}");
                done
            });
        }
    }
}

#[test]
fn reading_bears_an_operand_that_another_domain_changes_meanwhile() {
    for (_, rig) in every_rig() {
        let object = Object::new(1, RACED).registered_with(&rig);
        let path = rig.file("f", &[b'C'; RACED]);
        for direct in [AUTO, NEVER, REQUIRE] {
            let file = rig.open(queue(1), &path, READ, direct).expect("opened");
            beside_letters(&object, || rig.read(queue(1), file, 0, object.foreign()).is_ok());
            let bytes = object.bytes();
            assert!(bytes.iter().all(|b| (b'A'..=b'C').contains(b)) && bytes.contains(&b'C'));
        }
    }
}

/// Jobs on an operand of `A`s beside a holder that takes all its pages away and puts letters back.
fn beside_punches(object: &Object, job: impl FnMut() -> bool) {
    let span = object.mapping.span_mut().expect("writable");
    let Verdicts { failed, .. } = beside(
        |random| {
            object.memory.punch().expect("not sealed");
            let at = random.below(span.len() - 4096);
            span.copy_from(at, &[b'A'; 4096]).expect("inside");
        },
        job,
    );
    assert_eq!(failed, 0);
}

#[test]
fn t19_pages_that_are_taken_away_while_a_job_writes_them_are_zeros_in_the_file() {
    for (io, rig) in every_rig() {
        let object = Object::of(1, &[b'A'; RACED]).registered_with(&rig);
        for (foreign, direct) in [(true, AUTO), (true, REQUIRE), (false, AUTO), (false, NEVER)] {
            let path = rig.file("f", &[b'A'; RACED]);
            let file = rig.open(queue(1), &path, WRITE, direct).expect("opened");
            beside_punches(&object, || {
                let mut operand = object.all();
                operand.foreign = foreign;
                let done = rig.write(queue(1), file, 0, operand).is_ok();
                let bytes = std::fs::read(&path).expect("the file");
                assert!(bytes.iter().all(|b| [b'A', 0].contains(b)), "{io}, foreign {foreign}, {direct}");
                done
            });
        }
    }
}

#[test]
fn t19_pages_that_are_taken_away_while_a_job_fills_them_are_zeros_or_the_files_bytes() {
    for (io, rig) in every_rig() {
        let object = Object::new(1, RACED).registered_with(&rig);
        let path = rig.file("f", &[b'C'; RACED]);
        for (foreign, direct) in [(true, AUTO), (true, REQUIRE), (false, AUTO), (false, NEVER)] {
            let file = rig.open(queue(1), &path, READ, direct).expect("opened");
            beside_punches(&object, || {
                let mut operand = object.all();
                operand.foreign = foreign;
                rig.read(queue(1), file, 0, operand).is_ok()
            });
            let bytes = object.bytes();
            assert!(bytes.iter().all(|b| [0, b'A', b'C'].contains(b)), "{io}, foreign {foreign}, {direct}");
        }
    }
}

#[test]
fn what_is_registered_are_pages_and_another_domains_operand_is_what_is_mapped_now() {
    let rig = Rig::new();
    let path = rig.file("f", &[b'C'; MIB]);
    let file = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    for foreign in [false, true] {
        let object = Object::of(1, &[b'A'; MIB]).registered_with(&rig);
        let operand = || vgem_driver::TaskOperand { foreign, ..object.all() };
        object.memory.punch().expect("not sealed");
        rig.write(queue(1), file, 0, operand()).expect("written");
        let wanted = if foreign { 0 } else { b'A' };
        assert!(std::fs::read(&path).expect("the file") == vec![wanted; MIB], "foreign {foreign}");
        std::fs::write(&path, [b'C'; MIB]).expect("written");
        rig.read(queue(1), file, 0, operand()).expect("read");
        let wanted = if foreign { b'C' } else { 0 };
        assert!(object.bytes() == vec![wanted; MIB], "foreign {foreign}");
    }
}

#[test]
fn an_object_mapped_for_reading_is_written_from_for_another_domain() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.path("f"), CREATE, AUTO).expect("created");
    let object = Object::mapped_for(Access::Read, 1, MIB).registered_with(&rig);
    assert_eq!(rig.write(queue(1), file, 0, object.foreign()).expect("written").staged, MIB as u64);
    assert_eq!(std::fs::metadata(rig.path("f")).expect("the file").len(), MIB as u64);
}
