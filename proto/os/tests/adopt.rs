//! Adopting memory in place: what its holder, its readers and its sharers see.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use vgem_os::adopt::{Adopted, PageVec, Region};
use vgem_os::mapping::{Mapping, PAGE, Populate, Quiescent};
use vgem_os::memory::{Access, HugePages, ObjectMemory, Probe};

/// Large enough for two threads, and not a multiple of what they copy at a time.
const LARGE: usize = 9 * 1024 * 1024 + 3 * PAGE;

fn object(len: usize) -> ObjectMemory {
    vgem_os::signal::ignore_sigio().unwrap();
    ObjectMemory::create(len as u64, HugePages::Advise, "adopted").unwrap()
}

/// Bytes that differ from page to page and within one.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| low_byte(at ^ (at >> 12).wrapping_mul(31))).collect()
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn adopt(pages: PageVec, object: &ObjectMemory) -> (Adopted, usize) {
    let (region, len) = pages.into_region();
    let export = object.export(Access::Write).unwrap();
    (region.replace(export.as_fd()).map_err(|(_, error)| error).unwrap(), len)
}

fn restore(adopted: Adopted) -> Region {
    adopted.restore().map_err(|(_, error)| error).unwrap()
}

fn contents(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    mapping.span().copy_to(0, &mut bytes).unwrap();
    bytes
}

/// A mapping of this test's own, for regions that do not own themselves.
struct Own {
    at: *mut u8,
    len: usize,
}

impl Own {
    fn new(len: usize, flags: MapFlags) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: U2. A null hint without MAP_FIXED replaces no mapping.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, protection, flags) };
        Self { at: at.unwrap().cast(), len }
    }

    fn region(&self) -> vgem_os::Result<Region> {
        // SAFETY: U2. The mapping lives until the end of the test, which does as the module asks.
        unsafe { Region::new(self.at, self.len) }
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len);
        // SAFETY: U1, U2. A mapped byte, reached by atomics alone.
        unsafe { AtomicU8::from_ptr(self.at.add(at)) }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: U2. Our own mapping.
        unsafe { rustix::mm::munmap(self.at.cast(), self.len) }.unwrap();
    }
}

#[test]
fn adopted_memory_keeps_its_address_and_its_bytes() {
    for len in [1, PAGE, 3 * PAGE + 7, LARGE] {
        let bytes = pattern(len);
        let pages = PageVec::from_slice(&bytes);
        let at = pages.as_ptr();
        let object = object(len.next_multiple_of(PAGE));
        let (adopted, used) = adopt(pages, &object);
        assert_eq!((adopted.span().as_ptr(), used), (at, len));
        assert!(contents(&adopted)[..len] == bytes, "{len} bytes");
    }
}

#[test]
fn an_adopted_object_has_every_page_and_the_bytes() {
    let bytes = pattern(LARGE);
    let object = object(LARGE);
    let (_adopted, _) = adopt(PageVec::from_slice(&bytes), &object);
    let other = Mapping::map(object.as_fd(), LARGE, Access::Read, Populate::Lazy).unwrap();
    assert!(contents(&other) == bytes);
    assert_eq!(object.is_populated(), Ok(true));
}

#[test]
fn another_process_sees_adopted_bytes_and_its_writes_appear_at_the_old_address() {
    if let Some(side) = support::peer_side() {
        let mapping = Mapping::map(support::given(0).as_fd(), PAGE, Access::Write, Populate::Lazy).unwrap();
        let seen = mapping.span().read_u64(8).unwrap();
        mapping.span_mut().unwrap().write_u64(8, seen + 1).unwrap();
        return side.say(&seen.to_string());
    }
    let test = "another_process_sees_adopted_bytes_and_its_writes_appear_at_the_old_address";
    let mut pages = PageVec::zeroed(PAGE);
    pages[8..16].copy_from_slice(&41_u64.to_le_bytes());
    let object = object(PAGE);
    let (adopted, _) = adopt(pages, &object);
    let peer = support::start_peer(test, vec![object.export(Access::Write).unwrap()]);
    assert_eq!(peer.hear(), "41");
    assert_eq!(adopted.span().read_u64(8), Ok(42));
}

#[test]
fn restored_memory_is_private_and_at_the_old_address() {
    let bytes = pattern(LARGE);
    let object = object(LARGE);
    let (adopted, len) = adopt(PageVec::from_slice(&bytes), &object);
    let at = adopted.span().as_ptr();
    let mut pages = PageVec::from_region(restore(adopted), len).unwrap();
    assert!(pages.as_ptr() == at && *pages == *bytes);
    pages[100] ^= 0xff;
    let mut byte = [0];
    rustix::io::pread(&object, &mut byte, 100).unwrap();
    assert_eq!(byte[0], bytes[100], "a write after restoring is not seen through the object");
}

#[test]
fn what_was_written_through_the_object_is_there_after_restoring() {
    let object = object(PAGE);
    let (adopted, len) = adopt(PageVec::zeroed(PAGE), &object);
    rustix::io::pwrite(&object, b"device", 10).unwrap();
    let pages = PageVec::from_region(restore(adopted), len).unwrap();
    assert_eq!(&pages[10..16], b"device");
}

#[test]
fn restored_memory_holds_no_reference_to_the_object() {
    let object = object(PAGE);
    let (adopted, _) = adopt(PageVec::zeroed(PAGE), &object);
    assert_eq!(object.probe(), Ok(Probe::Busy));
    let _region = restore(adopted);
    assert_eq!(object.probe(), Ok(Probe::Free));
}

#[test]
fn a_reader_sees_the_same_bytes_before_meanwhile_and_after() {
    let own = Own::new(LARGE, MapFlags::PRIVATE);
    let expected = |at: usize| low_byte(at / 509);
    for at in 0..LARGE {
        own.byte(at).store(expected(at), Ordering::Relaxed);
    }
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = own.at.addr();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let base = std::ptr::with_exposed_provenance_mut::<u8>(address);
            let mut wrong = 0_u64;
            while !done.load(Ordering::Relaxed) {
                for at in (0..LARGE).step_by(1021) {
                    // SAFETY: U1, U2. The range stays mapped, which is what is tested.
                    let byte = unsafe { AtomicU8::from_ptr(base.add(at)) };
                    wrong += u64::from(byte.load(Ordering::Relaxed) != expected(at));
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            wrong
        });
        own.at.expose_provenance();
        for _ in 0..20 {
            let object = object(LARGE);
            let region = own.region().unwrap();
            let adopted = region.replace(object.as_fd()).map_err(|(_, error)| error).unwrap();
            restore(adopted);
        }
        let seen = rounds.load(Ordering::Relaxed);
        support::until("the reader reads", || rounds.load(Ordering::Relaxed) > seen);
        done.store(true, Ordering::Relaxed);
        assert_eq!(reader.join().unwrap(), 0);
    });
}

#[test]
fn the_whole_pages_inside_a_vec_can_be_adopted() {
    let mut vec = pattern(64 * PAGE);
    let expected = vec.clone();
    let skip = vec.as_ptr().align_offset(PAGE);
    let len = (vec.len() - skip) / PAGE * PAGE;
    let inside = &raw mut vec[skip];
    // SAFETY: U2. The vector is neither grown nor freed before the region is restored.
    let region = unsafe { Region::new(inside, len) }.unwrap();
    let object = object(len);
    let adopted = region.replace(object.as_fd()).map_err(|(_, error)| error).unwrap();
    assert!(contents(&adopted)[..] == expected[skip..skip + len]);
    restore(adopted);
    assert!(vec == expected);
    vec.resize(vec.len() * 2, 0);
    assert_eq!(vec[..expected.len()], expected[..], "and the allocator has its memory back");
}

#[test]
fn dropping_adopted_memory_of_a_caller_restores_it() {
    let own = Own::new(2 * PAGE, MapFlags::PRIVATE);
    let object = object(2 * PAGE);
    let export = object.export(Access::Write).unwrap();
    let adopted = own.region().unwrap().replace(export.as_fd()).map_err(|(_, error)| error).unwrap();
    rustix::io::pwrite(&object, &[9], 5000).unwrap();
    drop((adopted, export));
    rustix::io::pwrite(&object, &[7], 5000).unwrap();
    assert_eq!((own.byte(5000).load(Ordering::Relaxed), object.probe()), (9, Ok(Probe::Free)));
}

#[test]
fn adopted_memory_that_cannot_be_restored_stays_readable_when_dropped() {
    const LEN: usize = 64 << 20;
    if let Some(side) = support::peer_side() {
        let own = Own::new(LEN, MapFlags::PRIVATE);
        own.byte(LEN - 1).store(3, Ordering::Relaxed);
        let object = object(LEN);
        let adopted = own.region().unwrap().replace(object.as_fd()).map_err(|(_, error)| error).unwrap();
        // No address space for a copy.
        let limit = rustix::process::Rlimit { current: Some(LEN as u64), maximum: Some(LEN as u64) };
        rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
        let (adopted, error) = adopted.restore().unwrap_err();
        drop(adopted);
        rustix::io::pwrite(&object, &[4], LEN as u64 - 2).unwrap();
        let bytes = [LEN - 2, LEN - 1].map(|at| own.byte(at).load(Ordering::Relaxed));
        return side.say(&format!("{:?} {bytes:?}", error.errno()));
    }
    let test = "adopted_memory_that_cannot_be_restored_stays_readable_when_dropped";
    assert_eq!(support::start_peer(test, vec![]).hear(), format!("{:?} [4, 3]", Errno::NOMEM));
}

#[test]
fn a_limit_on_the_length_of_files_does_not_end_who_adopts() {
    if let Some(side) = support::peer_side() {
        let (object, bytes) = (object(LARGE), pattern(LARGE));
        let limit = rustix::process::Rlimit { current: Some(LARGE as u64 / 2), maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
        let (adopted, _) = adopt(PageVec::from_slice(&bytes), &object);
        return side.say(if contents(&adopted) == bytes { "adopted" } else { "other bytes" });
    }
    let test = "a_limit_on_the_length_of_files_does_not_end_who_adopts";
    assert_eq!(support::start_peer(test, vec![]).hear(), "adopted");
}

#[test]
fn dropping_adopted_pages_that_own_themselves_unmaps_them() {
    let object = object(PAGE);
    let (adopted, _) = adopt(PageVec::zeroed(PAGE), &object);
    drop(adopted);
    assert_eq!(object.probe(), Ok(Probe::Free));
}

#[test]
fn a_region_that_cannot_be_adopted_is_given_back_as_it_was() {
    let read_only = object(PAGE).export(Access::Read).unwrap();
    let short = object(PAGE);
    for (fd, len, errno) in
        [(read_only.as_fd(), PAGE, Errno::ACCESS), (short.as_fd(), 2 * PAGE, Errno::OVERFLOW)]
    {
        let (region, used) = PageVec::from_slice(&pattern(len)).into_region();
        let (region, error) = region.replace(fd).unwrap_err();
        assert_eq!(error.errno(), errno);
        assert!(*PageVec::from_region(region, used).unwrap() == *pattern(len));
    }
}

#[test]
fn an_object_of_reserved_huge_pages_does_not_replace_more_than_the_region() {
    // The kernel would move a whole huge page over the region, and so over the memory behind it.
    let object = match ObjectMemory::create(4 << 20, HugePages::Size2M, "huge") {
        Ok(object) => object,
        // A kernel without pages of that size.
        Err(error) => return assert!(matches!(error.errno(), Errno::NOSYS | Errno::INVAL), "{error}"),
    };
    let export = object.export(Access::Write).unwrap();
    for len in [PAGE, (2 << 20) + PAGE] {
        let (region, _) = PageVec::zeroed(len).into_region();
        let (_region, error) = region.replace(export.as_fd()).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL);
        assert!(error.to_string().contains("a multiple of its reserved huge pages of 2097152"), "{error}");
    }
}

fn refusal(start: *mut u8, len: usize) -> String {
    // SAFETY: U2. Refused, so nothing is promised and nothing done.
    let refused = unsafe { Region::new(start, len) }.unwrap_err();
    assert_eq!(refused.errno(), Errno::INVAL);
    refused.to_string()
}

#[test]
fn a_page_covered_in_part_is_an_error_that_says_so() {
    let own = Own::new(2 * PAGE, MapFlags::PRIVATE);
    assert!(refusal(own.at.wrapping_add(16), PAGE).contains("16 bytes into a page of 4096"));
    assert!(refusal(own.at, PAGE + 100).contains("of 4196 bytes, 100 are in a page of 4096"));
    assert!(refusal(own.at, 0).contains("0 bytes"));
}

#[test]
fn shared_memory_is_not_adopted() {
    let own = Own::new(PAGE, MapFlags::SHARED);
    assert!(refusal(own.at, PAGE).contains("is shared memory"));
}

#[test]
fn memory_that_is_not_mapped_or_only_in_part_is_not_adopted() {
    let own = Own::new(4 * PAGE, MapFlags::PRIVATE);
    let last = own.at.wrapping_add(3 * PAGE);
    // SAFETY: U2. The last page of our own mapping; unmapping the whole later tolerates the hole.
    unsafe { rustix::mm::munmap(last.cast(), PAGE) }.unwrap();
    let said = refusal(own.at.wrapping_add(2 * PAGE), 2 * PAGE);
    assert!(said.contains(&format!("{:#x}", last.addr())), "{said}");
    assert!(refusal(std::ptr::null_mut(), PAGE).contains("starts at 0"));
}

#[test]
fn memory_that_cannot_be_written_is_not_adopted() {
    let own = Own::new(PAGE, MapFlags::PRIVATE);
    // SAFETY: U2. Our own mapping, which nobody writes.
    unsafe { rustix::mm::mprotect(own.at.cast(), PAGE, MprotectFlags::READ) }.unwrap();
    assert!(refusal(own.at, PAGE).contains("has the access r--p"));
}

#[test]
fn the_stack_is_not_adopted() {
    // Pages away from the frame in which it is found out.
    let mut here = [0_u8; 16 * PAGE];
    let page = (&raw mut here).cast::<u8>().map_addr(|at| at.next_multiple_of(PAGE));
    for at in [0, PAGE, 14 * PAGE] {
        assert!(refusal(page.wrapping_add(at), PAGE).contains("the stack of the calling thread"));
    }
}

#[test]
fn adopted_bytes_can_be_used_in_place_by_contract() {
    let object = object(PAGE);
    let (mut adopted, _) = adopt(PageVec::zeroed(PAGE), &object);
    let mut quiet = Quiescent::by_contract();
    adopted.bytes_mut(0..4, &mut quiet).unwrap().copy_from_slice(b"here");
    assert_eq!(adopted.bytes(0..4, &quiet), Ok(&b"here"[..]));
    assert!(adopted.bytes(0..PAGE + 1, &quiet).is_err());
}

#[test]
fn pages_grow_shrink_and_fill_as_a_vec_does() {
    let (mut pages, mut model) = (PageVec::new(), Vec::new());
    for round in 0..200_usize {
        let value = low_byte(round);
        match round % 5 {
            0 | 1 => {
                let more = pattern(round * 37);
                pages.extend_from_slice(&more);
                model.extend_from_slice(&more);
            }
            2 => {
                pages.resize(model.len() + round * 11, value);
                model.resize(model.len() + round * 11, value);
            }
            3 => {
                pages.truncate(model.len() / 2);
                model.truncate(model.len() / 2);
            }
            _ => {
                pages.resize(model.len() / 3, value);
                model.resize(model.len() / 3, value);
            }
        }
        assert!(*pages == *model, "round {round}");
        assert!(pages.capacity() >= pages.len() && pages.capacity().is_multiple_of(PAGE));
    }
    pages.clear();
    assert!(pages.is_empty());
}

#[test]
fn pages_begin_at_a_page_and_fresh_ones_are_zero() {
    let pages = PageVec::zeroed(PAGE + 1);
    assert!(pages.as_ptr().addr().is_multiple_of(PAGE) && pages.iter().all(|byte| *byte == 0));
    assert_eq!((pages.len(), pages.capacity()), (PAGE + 1, 2 * PAGE));
}

#[test]
fn a_region_of_pages_is_as_long_as_the_pages_in_use() {
    let mut pages = PageVec::with_capacity(10 * PAGE);
    pages.resize(PAGE + 1, 1);
    let (region, len) = pages.into_region();
    assert_eq!((region.len(), len), (2 * PAGE, PAGE + 1));
    let (region, len) = PageVec::new().into_region();
    assert_eq!((region.len(), len), (PAGE, 0));
}

#[test]
fn only_a_region_made_of_pages_becomes_pages_again() {
    let own = Own::new(PAGE, MapFlags::PRIVATE);
    assert!(PageVec::from_region(own.region().unwrap(), 1).is_err());
    let (region, len) = PageVec::zeroed(PAGE).into_region();
    assert!(PageVec::from_region(region, len + 1).is_err());
}
