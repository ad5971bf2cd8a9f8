//! Futexes: sleeping on a 32-bit word until somebody changes it and says so.
//!
//! Two kinds of word. A [`Word`] lives in private memory and is for the threads of one process; the kernel finds
//! it by address. A shared word lives in a page two processes map (the doorbell of a fence page, a [`SharedWord`]); the
//! kernel finds it by inode, also through a read-only mapping. The kinds never wake each other, so a [`FutexWord`]
//! carries its kind with it, and one [`wait_any`] may mix both.
//!
//! Every wait has an end: an absolute time of [`crate::clock::now`]. Waits may return [`Wake::Rung`] for no reason;
//! callers look again.
//!
//! Invariant U1: a futex word is only ever reached through atomics.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::ClockId;

use crate::clock::{now, timespec};
use crate::error::{OsError, Result};
use crate::mapping::{OutOfRange, SpanMut};

/// Most words one [`wait_any`] takes (`FUTEX_WAITV_MAX`).
pub const WAIT_ANY_MAX: usize = 128;

/// How long the fall-back of [`wait_any`] sleeps before it looks at all words again, nanoseconds.
const FALLBACK_SLICE_NS: u64 = 500_000;

/// Why a wait came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wake {
    /// The word is not what was seen any more, or somebody rang; look again.
    Rung,
    /// The deadline passed.
    TimedOut,
}

/// A word in private memory that threads of this process sleep on.
#[derive(Debug, Default)]
pub struct Word(AtomicU32);

impl Word {
    /// A word with a first value.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// The value now; acquires what was released with it.
    #[must_use]
    #[inline]
    pub fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Changes the word, so that whoever saw the old value will not sleep; returns the old value. Wakes nobody.
    #[inline]
    pub fn bump(&self) -> u32 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }

    /// Stores a value, releasing what was written before. Wakes nobody.
    #[inline]
    pub fn store(&self, value: u32) {
        self.0.store(value, Ordering::Release);
    }

    /// The atomic itself, for protocols that need an exchange.
    #[must_use]
    pub const fn atomic(&self) -> &AtomicU32 {
        &self.0
    }

    /// The word as the waiting functions take it.
    #[must_use]
    pub const fn futex(&self) -> FutexWord<'_> {
        FutexWord { cell: NonNull::from_ref(&self.0), scope: Scope::Private, lives: PhantomData }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Private,
    Shared,
}

/// Any word that can be slept on: private or shared.
#[derive(Debug, Clone, Copy)]
pub struct FutexWord<'a> {
    cell: NonNull<AtomicU32>,
    scope: Scope,
    lives: PhantomData<&'a AtomicU32>,
}

// SAFETY: U1. The word is reached by atomics alone and stays mapped for 'a.
unsafe impl Send for FutexWord<'_> {}
// SAFETY: U1. As above.
unsafe impl Sync for FutexWord<'_> {}

impl<'a> FutexWord<'a> {
    /// A word in memory that other processes map too.
    pub(crate) const fn shared(cell: &'a AtomicU32) -> Self {
        Self { cell: NonNull::from_ref(cell), scope: Scope::Shared, lives: PhantomData }
    }

    /// The value now; acquires what was released with it. Also good on read-only memory.
    #[must_use]
    #[inline]
    pub fn load(self) -> u32 {
        // A relaxed load and a fence: stronger loads are not promised to be mere reads on read-only memory.
        let value = self.cell().load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    fn cell(self) -> &'a AtomicU32 {
        // SAFETY: U1, U2. Made from a reference that lives for 'a.
        unsafe { self.cell.as_ref() }
    }

    const fn flags(self) -> Flags {
        match self.scope {
            Scope::Private => Flags::PRIVATE,
            Scope::Shared => Flags::empty(),
        }
    }

    fn waiter(self, seen: u32) -> futex::Wait {
        let mut waiter = futex::Wait::new();
        waiter.val = u64::from(seen);
        waiter.uaddr = WaitPtr::new(self.cell.as_ptr().cast());
        waiter.flags = match self.scope {
            Scope::Private => WaitFlags::SIZE_U32.union(WaitFlags::PRIVATE),
            Scope::Shared => WaitFlags::SIZE_U32,
        };
        waiter
    }
}

/// A word of memory that other processes map too, to change and to sleep on.
#[derive(Debug, Clone, Copy)]
pub struct SharedWord<'a>(&'a AtomicU32);

impl<'a> SharedWord<'a> {
    /// The aligned word at `offset`.
    ///
    /// # Errors
    /// [`OutOfRange::Beyond`], [`OutOfRange::Misaligned`].
    #[inline]
    pub fn of(memory: SpanMut<'a>, offset: usize) -> Result<Self, OutOfRange> {
        let beyond = OutOfRange::Beyond { offset, len: size_of::<u32>(), available: memory.len() };
        let word = memory.sub(offset, size_of::<u32>()).ok_or(beyond)?.as_mut_ptr().cast::<u32>();
        if !word.is_aligned() {
            return Err(OutOfRange::Misaligned { offset, align: align_of::<u32>() });
        }
        // SAFETY: U1, U2. Four mapped, aligned, writable bytes for 'a, reached by this atomic.
        Ok(Self(unsafe { AtomicU32::from_ptr(word) }))
    }

    /// The atomic itself.
    #[must_use]
    #[inline]
    pub const fn atomic(self) -> &'a AtomicU32 {
        self.0
    }

    /// The word as the waiting functions take it.
    #[must_use]
    #[inline]
    pub const fn futex(self) -> FutexWord<'a> {
        FutexWord::shared(self.0)
    }
}

/// Sleeps while `word` holds `seen`, until `deadline_ns`.
///
/// # Errors
/// An errno of `FUTEX_WAIT_BITSET` that a valid word does not raise.
pub fn wait(word: FutexWord<'_>, seen: u32, deadline_ns: u64) -> Result<Wake> {
    let deadline = timespec(deadline_ns);
    let any = std::num::NonZeroU32::MAX;
    // FUTEX_WAIT_BITSET takes an absolute time; FUTEX_WAIT a relative one.
    match futex::wait_bitset(word.cell(), word.flags(), seen, Some(&deadline), any) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(Wake::Rung),
        Err(Errno::TIMEDOUT) => Ok(Wake::TimedOut),
        Err(errno) => Err(OsError::new("futex(FUTEX_WAIT_BITSET)", errno)),
    }
}

/// Wakes at most `count` sleepers of `word`; returns how many it woke.
///
/// # Errors
/// An errno of `FUTEX_WAKE` that a valid word does not raise.
pub fn wake(word: FutexWord<'_>, count: u32) -> Result<usize> {
    // The kernel counts in a signed integer.
    let count = count.min(i32::MAX.unsigned_abs());
    futex::wake(word.cell(), word.flags(), count).map_err(|errno| OsError::new("futex(FUTEX_WAKE)", errno))
}

/// Sleeps while each word holds what was seen of it, until `deadline_ns`. Returns the index of a word that
/// changed or was rung, or `None` at the deadline. Private and shared words may be mixed.
///
/// One word costs a plain futex wait. Kernels before 5.16 have no `futex_waitv`: there it sleeps on the first
/// word in slices of half a millisecond and looks at all of them in between.
///
/// # Errors
/// `EINVAL` for no word or more than [`WAIT_ANY_MAX`]; otherwise an errno that valid words do not raise.
pub fn wait_any(words: &[(FutexWord<'_>, u32)], deadline_ns: u64) -> Result<Option<usize>> {
    match words {
        [] => Err(OsError::with_detail("futex_waitv", Errno::INVAL, "no words")),
        [(word, seen)] => match wait(*word, *seen, deadline_ns)? {
            Wake::Rung => Ok(Some(0)),
            Wake::TimedOut => Ok(None),
        },
        few if few.len() <= 16 => wait_many::<16>(few, deadline_ns),
        many if many.len() <= WAIT_ANY_MAX => wait_many::<WAIT_ANY_MAX>(many, deadline_ns),
        more => Err(OsError::with_detail(
            "futex_waitv",
            Errno::INVAL,
            format!("{} words, at most {WAIT_ANY_MAX}", more.len()),
        )),
    }
}

fn wait_many<const MAX: usize>(words: &[(FutexWord<'_>, u32)], deadline_ns: u64) -> Result<Option<usize>> {
    let mut waiters = [futex::Wait::new(); MAX];
    for (waiter, (word, seen)) in waiters.iter_mut().zip(words) {
        *waiter = word.waiter(*seen);
    }
    let deadline = timespec(deadline_ns);
    let waiters = waiters.get(..words.len()).unwrap_or(&[]);
    loop {
        match futex::waitv(waiters, WaitvFlags::empty(), Some(&deadline), ClockId::Monotonic) {
            Ok(index) => return Ok(Some(index)),
            Err(Errno::TIMEDOUT) => return Ok(None),
            // A word did not hold what was seen; or, after an interruption, it may not any more.
            Err(Errno::AGAIN | Errno::INTR) => {
                if let Some(index) = changed(words) {
                    return Ok(Some(index));
                }
            }
            Err(Errno::NOSYS) => return wait_in_slices(words, deadline_ns),
            Err(errno) => return Err(OsError::new("futex_waitv", errno)),
        }
    }
}

fn changed(words: &[(FutexWord<'_>, u32)]) -> Option<usize> {
    words.iter().position(|(word, seen)| word.load() != *seen)
}

/// The fall-back for kernels without `futex_waitv`.
fn wait_in_slices(words: &[(FutexWord<'_>, u32)], deadline_ns: u64) -> Result<Option<usize>> {
    loop {
        if let Some(index) = changed(words) {
            return Ok(Some(index));
        }
        let now = now();
        if now >= deadline_ns {
            return Ok(None);
        }
        let Some((first, seen)) = words.first() else { return Ok(None) };
        match wait(*first, *seen, deadline_ns.min(now.saturating_add(FALLBACK_SLICE_NS)))? {
            Wake::Rung => return Ok(Some(0)),
            Wake::TimedOut => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::memory::{Access, HugePages, ObjectMemory};
    use std::os::fd::AsFd as _;

    fn twice_mapped() -> [Mapping; 2] {
        let object = ObjectMemory::create(4096, HugePages::None, "words").expect("a page");
        [(); 2].map(|()| {
            let export = object.export(Access::Write).expect("an fd");
            Mapping::map(export.as_fd(), 4096, Access::Write, crate::mapping::Populate::Now).expect("mapped")
        })
    }

    #[test]
    fn a_shared_word_wakes_who_sleeps_on_it_through_another_mapping() {
        let [here, there] = twice_mapped();
        let at = |mapping: &Mapping| mapping.span_mut().expect("writable").as_mut_ptr().addr();
        assert_ne!(at(&here), at(&there));
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let word = SharedWord::of(there.span_mut().expect("writable"), 64).expect("inside");
                while word.atomic().load(Ordering::Acquire) == 0 {
                    wait(word.futex(), 0, now() + 5_000_000_000).expect("a valid word");
                }
            });
            let word = SharedWord::of(here.span_mut().expect("writable"), 64).expect("inside");
            word.atomic().store(1, Ordering::Release);
            wake(word.futex(), 1).expect("a valid word");
        });
    }

    #[test]
    fn a_shared_word_is_aligned_and_inside() {
        let [here, _] = twice_mapped();
        let span = here.span_mut().expect("writable");
        assert!(SharedWord::of(span, 4092).is_ok());
        assert_eq!(
            SharedWord::of(span, 4096).err(),
            Some(OutOfRange::Beyond { offset: 4096, len: 4, available: 4096 })
        );
        assert_eq!(SharedWord::of(span, 2).err(), Some(OutOfRange::Misaligned { offset: 2, align: 4 }));
    }

    #[test]
    fn the_fall_back_sees_a_word_that_is_not_the_first() {
        let words = [Word::new(0), Word::new(0)];
        std::thread::scope(|threads| {
            threads.spawn(|| words[1].bump());
            let asked = [(words[0].futex(), 0), (words[1].futex(), 0)];
            assert_eq!(wait_in_slices(&asked, now() + 5_000_000_000), Ok(Some(1)));
        });
    }

    #[test]
    fn the_fall_back_ends_at_its_deadline() {
        let words = [Word::new(0), Word::new(0)];
        let asked = [(words[0].futex(), 0), (words[1].futex(), 0)];
        assert_eq!(wait_in_slices(&asked, now() + 1_000_000), Ok(None));
    }
}
