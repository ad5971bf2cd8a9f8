//! Object memory, mappings, spans and copies.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use vgem_os::mapping::{
    CopyStyle, Mapping, OutOfRange, Populate, Quiescent, STREAMING_FROM, Span, SpanMut, copy_span,
};
use vgem_os::memory::{Access, HugePages, ObjectMemory, reopen, verify_export};

fn object(len: u64) -> ObjectMemory {
    ObjectMemory::create(len, HugePages::Advise, "mapping").unwrap()
}

fn mapped(object: &ObjectMemory, access: Access) -> Mapping {
    let len = usize::try_from(object.len()).unwrap();
    Mapping::map(object.export(access).unwrap().as_fd(), len, access, Populate::Lazy).unwrap()
}

fn errno<T>(result: vgem_os::Result<T>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

/// A memfd of 8192 bytes with these seals.
fn memfd(seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("foreign", flags).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn what_one_process_writes_another_mapping_reads() {
    let object = object(8192);
    let (writer, reader) = (mapped(&object, Access::Write), mapped(&object, Access::Read));
    writer.span_mut().unwrap().copy_from(100, b"hello").unwrap();
    let mut bytes = [0; 5];
    reader.span().copy_to(100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn objects_of_no_length_and_of_absurd_length_are_refused() {
    for len in [0, u64::MAX] {
        let made = ObjectMemory::create(len, HugePages::None, "absurd");
        assert_eq!(errno(made), Some(Errno::INVAL), "{len}");
    }
}

#[test]
fn an_object_has_mode_0600_and_all_its_seals() {
    let object = object(8192);
    let mode = rustix::fs::fstat(&object).unwrap().st_mode & 0o777;
    let seals = rustix::fs::fcntl_get_seals(&object).unwrap();
    assert_eq!(mode, 0o600);
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
}

#[test]
fn an_object_comes_back_from_its_keeper() {
    let object = object(8192);
    let inode = object.inode();
    let kept = object.duplicate().unwrap();
    drop(object);
    let again = ObjectMemory::from_kept(kept).unwrap();
    assert_eq!((again.inode(), again.len()), (inode, 8192));
}

#[test]
fn an_fd_without_the_seals_of_an_object_is_not_taken_back() {
    let fd = memfd(SealFlags::SHRINK | SealFlags::GROW);
    let kept = reopen(fd.as_fd(), Access::Write).unwrap();
    assert_eq!(errno(ObjectMemory::from_kept(kept)), Some(Errno::PERM));
}

#[test]
fn what_is_not_sealed_memory_is_not_mapped() {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    for fd in [event, pipe, file] {
        let verified = errno(verify_export(fd.as_fd(), 1, Access::Read));
        assert!(matches!(verified, Some(Errno::INVAL | Errno::PERM)), "{verified:?}");
    }
}

#[test]
fn memory_that_may_shrink_is_not_mapped() {
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::SHRINK] {
        let fd = memfd(seals);
        let mapped = Mapping::map(fd.as_fd(), 4096, Access::Read, Populate::Lazy);
        assert_eq!(errno(mapped), Some(Errno::PERM), "{seals:?}");
    }
}

#[test]
fn an_fd_is_not_mapped_beyond_its_length_nor_beyond_its_mode() {
    let object = object(8192);
    let export = object.export(Access::Read).unwrap();
    let map = |len, access| errno(Mapping::map(export.as_fd(), len, access, Populate::Lazy));
    assert_eq!(map(8193, Access::Read), Some(Errno::OVERFLOW));
    assert_eq!(map(8192, Access::Write), Some(Errno::ACCESS));
    assert_eq!(map(0, Access::Read), Some(Errno::INVAL));
}

#[test]
fn a_read_only_mapping_gives_no_writable_span() {
    let mut mapping = mapped(&object(8192), Access::Read);
    assert_eq!(errno(mapping.span_mut().map(drop)), Some(Errno::ACCESS));
    let mut quiet = Quiescent::by_contract();
    assert_eq!(mapping.bytes_mut(0..1, &mut quiet).err(), Some(OutOfRange::ReadOnly));
    assert_eq!(errno(mapping.populate_write()), Some(Errno::ACCESS));
}

#[test]
fn spans_refuse_every_range_that_is_not_inside() {
    let mapping = Mapping::anonymous(4096).unwrap();
    let span = mapping.span();
    assert!(span.sub(4096, 0).is_some_and(|end| end.is_empty()));
    for (offset, len) in [(0, 4097), (4096, 1), (4097, 0), (usize::MAX, 1), (1, usize::MAX)] {
        assert!(span.sub(offset, len).is_none(), "{offset}+{len}");
    }
}

#[test]
fn copies_that_do_not_fit_change_nothing() {
    let mapping = Mapping::anonymous(4096).unwrap();
    let span = mapping.span_mut().unwrap();
    let refused = span.copy_from(4094, b"abc");
    assert_eq!(refused, Err(OutOfRange::Beyond { offset: 4094, len: 3, available: 4096 }));
    let mut tail = [7; 2];
    span.copy_to(4094, &mut tail).unwrap();
    assert_eq!(tail, [0; 2]);
}

#[test]
fn words_are_little_endian_and_aligned() {
    let mapping = Mapping::anonymous(4096).unwrap();
    let span = mapping.span_mut().unwrap();
    span.write_u64(8, 0x0102_0304_0506_0708).unwrap();
    let mut bytes = [0; 8];
    span.copy_to(8, &mut bytes).unwrap();
    assert_eq!((bytes, span.read_u64(8)), ([8, 7, 6, 5, 4, 3, 2, 1], Ok(0x0102_0304_0506_0708)));
    assert_eq!(span.read_u64(4), Err(OutOfRange::Misaligned { offset: 4, align: 8 }));
    assert!(span.write_u64(4092, 1).is_err());
}

#[test]
fn a_quiet_range_is_reached_in_place() {
    let mut mapping = mapped(&object(8192), Access::Write);
    let mut quiet = Quiescent::by_contract();
    mapping.bytes_mut(10..15, &mut quiet).unwrap().copy_from_slice(b"quiet");
    assert_eq!(mapping.bytes(10..15, &quiet), Ok(&b"quiet"[..]));
    for (start, end) in [(8190, 8193), (5, 4), (usize::MAX, usize::MAX)] {
        assert!(mapping.bytes(start..end, &quiet).is_err(), "{start}..{end}");
    }
}

#[test]
fn copies_of_every_alignment_and_style_are_exact() {
    let len = STREAMING_FROM + 200;
    let source: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let target = Mapping::anonymous(len + 200).unwrap();
    for (skip, shorter) in [(0, 0), (1, 3), (15, 64), (63, 130), (64, 1)] {
        for style in [CopyStyle::Plain, CopyStyle::Streaming] {
            target.span_mut().unwrap().fill(0xff);
            let bytes = len - shorter;
            let into = target.span_mut().unwrap().sub(skip, bytes).unwrap();
            copy_span(into, Span::of_slice(&source[..bytes]), style).unwrap();
            let quiet = Quiescent::by_contract();
            let all = target.bytes(0..target.len(), &quiet).unwrap();
            assert_eq!(&all[skip..skip + bytes], &source[..bytes], "{style:?} at {skip}");
            assert!(all[..skip].iter().chain(&all[skip + bytes..]).all(|byte| *byte == 0xff));
        }
    }
}

#[test]
fn streaming_copies_are_exact_whichever_side_is_ahead_within_a_page() {
    let len = STREAMING_FROM + 77;
    let (source, target) = (Mapping::anonymous(len + 8192).unwrap(), Mapping::anonymous(len + 8192).unwrap());
    let pattern: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let quiet = Quiescent::by_contract();
    for (from, into) in [(0, 0), (0, 1), (0, 16), (3, 2050), (0, 4095), (16, 0), (2049, 1), (4095, 0)] {
        target.span_mut().unwrap().fill(0xff);
        source.span_mut().unwrap().copy_from(from, &pattern).unwrap();
        let place = target.span_mut().unwrap().sub(into, len).unwrap();
        copy_span(place, source.span().sub(from, len).unwrap(), CopyStyle::Streaming).unwrap();
        let all = target.bytes(0..target.len(), &quiet).unwrap();
        assert!(all[into..into + len] == pattern, "from {from} into {into}");
        assert!(all[..into].iter().chain(&all[into + len..]).all(|byte| *byte == 0xff));
    }
}

#[test]
fn overlapping_copies_are_as_memmove() {
    for style in [CopyStyle::Plain, CopyStyle::Streaming] {
        let mut bytes: Vec<u8> = (0..200_000).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let expected = bytes[..199_990].to_vec();
        let all = SpanMut::of_slice(&mut bytes);
        let (from, into) = (all.sub(0, 199_990).unwrap(), all.sub(10, 199_990).unwrap());
        copy_span(into, from.as_span(), style).unwrap();
        assert_eq!(bytes[10..], expected, "{style:?}");
    }
}

#[test]
fn copies_between_different_lengths_are_refused() {
    let (mut into, from) = ([0; 4], [1; 5]);
    let refused = copy_span(SpanMut::of_slice(&mut into), Span::of_slice(&from), CopyStyle::Plain);
    assert_eq!((refused, into), (Err(OutOfRange::Lengths { from: 5, into: 4 }), [0; 4]));
}

#[test]
fn residency_is_measured_by_the_page() {
    let object = object(64 * 4096);
    let mapping = mapped(&object, Access::Write);
    assert_eq!(mapping.resident_bytes(), Ok(0));
    mapping.span_mut().unwrap().copy_from(5 * 4096, b"x").unwrap();
    assert_eq!(mapping.resident_bytes(), Ok(4096));
    mapping.populate_write().unwrap();
    assert_eq!(mapping.resident_bytes(), Ok(64 * 4096));
}

#[test]
fn reserved_huge_pages_need_a_fitting_length() {
    let made = ObjectMemory::create(4096, HugePages::Size2M, "odd");
    assert!(made.is_err_and(|error| matches!(error.errno(), Errno::INVAL | Errno::NOSYS)));
}

#[test]
fn a_reserved_huge_page_is_not_mapped_in_part() {
    // The kernel maps it whole, and does not unmap a part of it.
    let object = match ObjectMemory::create(2 << 20, HugePages::Size2M, "huge") {
        Ok(object) => object,
        // A kernel without pages of that size.
        Err(error) => return assert!(matches!(error.errno(), Errno::NOSYS | Errno::INVAL), "{error}"),
    };
    let export = object.export(Access::Write).unwrap();
    let error = Mapping::map(export.as_fd(), 4096, Access::Write, Populate::Lazy).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL, "{error}");
    // That it is long enough for so much remains true.
    assert_eq!(verify_export(export.as_fd(), 4096, Access::Write), Ok(2 << 20));
}

#[test]
fn errors_say_the_call_and_what_was_attempted() {
    let error = ObjectMemory::create(0, HugePages::None, "nothing").unwrap_err();
    assert_eq!(error.to_string(), "memfd_create: Invalid argument (os error 22) (length 0)");
    assert_eq!((error.call(), error.detail()), ("memfd_create", Some("length 0")));
}

#[test]
fn a_mapping_can_be_made_and_dropped_by_different_threads() {
    let object = object(8192);
    let mapping = mapped(&object, Access::Write);
    std::thread::spawn(move || drop(mapping)).join().unwrap();
    support::until("the mapping is gone", || {
        vgem_os::signal::ignore_sigio().unwrap();
        object.probe() == Ok(vgem_os::memory::Probe::Free)
    });
}
