//! The mapped memory of a user queue, reached by aligned 32- and 64-bit atomics only.
//!
//! The header is checked when it is mapped, and what it says of the depth is kept in private memory: nobody reads it
//! again.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::Depth;

use super::protocol::{LIGHT_AFTER, Lane, Page, Receiver, Sender};
use crate::barrier;
use crate::error::{OsError, Result};
use crate::futex::FutexWord;
use crate::mapping::{Mapping, Populate};
use crate::memory::{Access, verify_export};

/// The name of the check in errors.
const CHECK: &str = "user queue";

/// Magic, version and length of a slot, as one word.
const FIRST: u64 = (u::MAGIC as u64) | (u::VERSION as u64) << 32 | (u::SLOT_LEN as u64) << 48;

/// A user queue, or its header, mapped for writing.
#[derive(Debug)]
pub(super) struct MappedRing {
    mapping: Mapping,
    depth: Depth,
    /// Whether another process may have it too.
    shared: bool,
}

impl MappedRing {
    /// Maps a user queue that somebody else made, and checks that it is one.
    pub(super) fn map(fd: BorrowedFd<'_>, populate: Populate) -> Result<Self> {
        let len = verify_export(fd, u::HEADER_LEN as u64, Access::Write)?;
        let longest = u::len(u::DEPTH_MOST);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > longest {
            let detail = format!("{len} bytes, at most {longest} wanted");
            return Err(OsError::with_detail(CHECK, Errno::INVAL, detail));
        }
        let mapping = Mapping::map(fd, len, Access::Write, populate)?;
        let depth = depth_in(&mapping)?;
        if depth.memory_len() != len {
            let wanted = depth.memory_len();
            let detail = format!("{len} bytes, {wanted} wanted for depth {}", depth.entries());
            return Err(OsError::with_detail(CHECK, Errno::INVAL, detail));
        }
        Ok(Self { mapping, depth, shared: true })
    }

    /// Maps the header of a user queue and writes it; no other page is touched.
    pub(super) fn format(fd: BorrowedFd<'_>, depth: Depth) -> Result<Self> {
        let mapping = Mapping::map(fd, u::HEADER_LEN, Access::Write, Populate::Lazy)?;
        let ring = Self { mapping, depth, shared: true };
        ring.write_header();
        Ok(ring)
    }

    /// Maps the header of a user queue that was formatted before.
    pub(super) fn map_header(fd: BorrowedFd<'_>) -> Result<Self> {
        let mapping = Mapping::map(fd, u::HEADER_LEN, Access::Write, Populate::Lazy)?;
        let depth = depth_in(&mapping)?;
        Ok(Self { mapping, depth, shared: true })
    }

    /// A user queue in private memory.
    pub(super) fn private(depth: Depth) -> Result<Self> {
        let ring = Self { mapping: Mapping::anonymous(depth.memory_len())?, depth, shared: false };
        ring.write_header();
        Ok(ring)
    }

    pub(super) const fn depth(&self) -> Depth {
        self.depth
    }

    /// The word that the receiver of a lane sleeps on.
    pub(super) fn doorbell(&self, lane: &Lane) -> FutexWord<'_> {
        FutexWord::shared(cell32(&self.mapping, lane.doorbell()))
    }

    fn write_header(&self) {
        self.store32(u::H_DEPTH, self.depth.entries());
        self.release64(u::H_MAGIC, FIRST);
    }
}

/// The sender of a client's lane: one whose fences its driver can make, where a process can have that.
pub(super) fn sender(ring: &MappedRing, lane: Lane) -> Sender {
    let sender = Sender::new(lane);
    if ring.shared && barrier::take_part() { sender.light_after(LIGHT_AFTER) } else { sender }
}

/// The receiver of a lane: one that makes the fences of others, where the kernel does that.
pub(super) fn receiver(ring: &MappedRing, lane: Lane) -> Receiver {
    let mut receiver = Receiver::new(lane);
    if ring.shared && barrier::can_be_made() {
        receiver.offer_heavy(ring);
    }
    receiver
}

/// The depth that a header says, if it is one.
fn depth_in(mapping: &Mapping) -> Result<Depth> {
    let found = u64::from_le(cell64(mapping, u::H_MAGIC).load(Ordering::Relaxed));
    if found != FIRST {
        let detail = format!("begins with {found:#018x}, wanted {FIRST:#018x}");
        return Err(OsError::with_detail(CHECK, Errno::INVAL, detail));
    }
    let said = u32::from_le(cell32(mapping, u::H_DEPTH).load(Ordering::Relaxed));
    Depth::new(said).ok_or_else(|| {
        let (least, most) = (u::DEPTH_LEAST, u::DEPTH_MOST);
        let detail = format!("depth {said}, a power of two from {least} to {most} wanted");
        OsError::with_detail(CHECK, Errno::INVAL, detail)
    })
}

#[inline]
fn cell32(mapping: &Mapping, at: usize) -> &AtomicU32 {
    assert!(at <= mapping.len() - 4 && at.is_multiple_of(4), "a 32-bit word of the ring");
    // SAFETY: U2. at + 4 <= the length of the mapping, which is at least a page.
    let word = unsafe { mapping.span().as_ptr().add(at) }.cast::<AtomicU32>();
    // SAFETY: U1, U2. Mapped writable for as long as `mapping`, aligned, and reached by atomics only.
    unsafe { &*word }
}

#[inline]
fn cell64(mapping: &Mapping, at: usize) -> &AtomicU64 {
    assert!(at <= mapping.len() - 8 && at.is_multiple_of(8), "a 64-bit word of the ring");
    // SAFETY: U2. at + 8 <= the length of the mapping, which is at least a page.
    let word = unsafe { mapping.span().as_ptr().add(at) }.cast::<AtomicU64>();
    // SAFETY: U1, U2. As for 32 bits.
    unsafe { &*word }
}

/// Words that follow one another.
#[inline]
fn cells64<const N: usize>(mapping: &Mapping, at: usize) -> &[AtomicU64; N] {
    let inside = N <= u::SLOT_WORDS && at <= mapping.len() - 8 * N && at.is_multiple_of(8);
    assert!(inside, "64-bit words of the ring");
    // SAFETY: U2. at + 8 N <= the length of the mapping, which is at least a page.
    let first = unsafe { mapping.span().as_ptr().add(at) }.cast::<[AtomicU64; N]>();
    // SAFETY: U1, U2. As for one word; an array of atomics is aligned and reached as each of them.
    unsafe { &*first }
}

// M-070: each word is one atomic of its own size.
impl Page for MappedRing {
    #[inline]
    fn load32(&self, at: usize) -> u32 {
        u32::from_le(cell32(&self.mapping, at).load(Ordering::Relaxed))
    }

    #[inline]
    fn load64(&self, at: usize) -> u64 {
        u64::from_le(cell64(&self.mapping, at).load(Ordering::Relaxed))
    }

    #[inline]
    fn store32(&self, at: usize, value: u32) {
        cell32(&self.mapping, at).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn store64(&self, at: usize, value: u64) {
        cell64(&self.mapping, at).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn release32(&self, at: usize, value: u32) {
        cell32(&self.mapping, at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn release64(&self, at: usize, value: u64) {
        cell64(&self.mapping, at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn bump32(&self, at: usize) {
        cell32(&self.mapping, at).fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }

    #[inline]
    fn fence_light(&self) {
        barrier::light();
    }

    fn fence_heavy(&self) -> bool {
        barrier::heavy()
    }

    #[inline]
    fn load64s<const N: usize>(&self, at: usize, into: &mut [u64; N]) {
        for (word, cell) in into.iter_mut().zip(cells64::<N>(&self.mapping, at)) {
            *word = u64::from_le(cell.load(Ordering::Relaxed));
        }
    }

    #[inline]
    fn store64s<const N: usize>(&self, at: usize, words: &[u64; N]) {
        for (word, cell) in words.iter().zip(cells64::<N>(&self.mapping, at)) {
            cell.store(word.to_le(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn expect_store(&self, at: usize) {
        fetch_to_store(cell64(&self.mapping, at));
    }
}

/// Has the processor fetch a line that will be stored to, while it does other things. Where there is no such hint, nothing.
#[inline]
fn fetch_to_store(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint: it changes no memory and no register, never faults, and is skipped by processors that do not know it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) word.as_ptr(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) word.as_ptr(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _: &AtomicU64 = word;
}
