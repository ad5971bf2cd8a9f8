//! Fences by hand: words in a page that several processes map for writing.
//!
//! A flag is a number that grows and a word that says whether somebody sleeps for it, in one cache line. Nothing is
//! checked, nobody can fail, everybody may write everything: what is left is what any fence in user space has to do.
//!
//! ```text
//!   signal: number = n (swap: a full fence) ── asleep? ── asleep = 0, FUTEX_WAKE
//!   wait:   look ── spin as told ── asleep = 1 (swap) ── look ── FUTEX_WAIT ── look
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use vgem_os::clock;
use vgem_os::futex::{self, SharedWord, Wake};
use vgem_os::mapping::{Mapping, PAGE, Populate, SpanMut};
use vgem_os::memory::{Access, HugePages, ObjectMemory};

use super::PATIENCE_NS;

/// Bytes from flag to flag: two cache lines, because processors fetch pairs.
const STRIDE: usize = 128;
/// Where in a flag the word is that says whether somebody sleeps.
const ASLEEP: usize = 4;
/// Looks between two looks at the clock while spinning.
const LOOKS: u32 = 64;

/// What a waiter does until its point comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It sleeps at once.
    Asleep,
    /// It spins for as long as a program may that shares its cores, then sleeps.
    Brief,
    /// It spins for as long as a round may take at all.
    Awake,
}

impl Rest {
    /// All of them, by their numbers in messages.
    pub const ALL: [Self; 3] = [Self::Asleep, Self::Brief, Self::Awake];

    /// How long it spins, nanoseconds.
    #[must_use]
    pub const fn spin_ns(self) -> u64 {
        match self {
            Self::Asleep => 0,
            Self::Brief => 5_000,
            Self::Awake => 2_000_000,
        }
    }

    /// Its number in messages.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Asleep => 0,
            Self::Brief => 1,
            Self::Awake => 2,
        }
    }

    /// The one of this number; asleep for one that is none.
    #[must_use]
    pub fn of_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|rest| rest.number() == number).unwrap_or(Self::Asleep)
    }

    /// Looks until `look` says yes, for as long as this spins; whether it did.
    #[inline]
    pub fn spin(self, mut look: impl FnMut() -> bool) -> bool {
        if self == Self::Asleep {
            return false;
        }
        let end = clock::deadline_in(self.spin_ns());
        loop {
            for _ in 0..LOOKS {
                if look() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if clock::now() >= end {
                return false;
            }
        }
    }
}

/// Which flag of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(usize);

impl Flag {
    /// Flag `number` of a page.
    ///
    /// # Panics
    /// At compile time, if a page has no such flag.
    #[must_use]
    pub const fn new(number: usize) -> Self {
        assert!(number < PAGE / STRIDE, "a page has no such flag");
        Self(number * STRIDE)
    }
}

/// A page of flags.
#[derive(Debug)]
pub struct Flags {
    page: Mapping,
    memory: Option<ObjectMemory>,
}

impl Flags {
    /// A new page, and an fd of it for another process.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn create() -> anyhow::Result<(Self, OwnedFd)> {
        let memory = ObjectMemory::create(PAGE as u64, HugePages::None, "flags")?;
        let export = memory.export(Access::Write)?;
        Ok((Self { memory: Some(memory), ..Self::map(&export)? }, export))
    }

    /// One more fd of a page that was made here.
    ///
    /// # Errors
    /// When it was not, or there is no fd to be had.
    pub fn export(&self) -> anyhow::Result<OwnedFd> {
        Ok(self.memory.as_ref().context("made by another process")?.export(Access::Write)?)
    }

    /// The page of this fd.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map(fd: &OwnedFd) -> anyhow::Result<Self> {
        Ok(Self { page: Mapping::map(fd.as_fd(), PAGE, Access::Write, Populate::Now)?, memory: None })
    }

    /// Stores a number and wakes who sleeps for it.
    ///
    /// # Errors
    /// Never, of a page of ours.
    #[inline]
    pub fn signal(&self, flag: Flag, number: u32) -> anyhow::Result<()> {
        let page = self.page.span_mut()?;
        let word = SharedWord::of(page, flag.0)?;
        word.atomic().swap(number, Ordering::SeqCst);
        let asleep = SharedWord::of(page, flag.0 + ASLEEP)?;
        if asleep.atomic().load(Ordering::Relaxed) != 0 {
            asleep.atomic().store(0, Ordering::Relaxed);
            futex::wake(word.futex(), u32::MAX)?;
        }
        Ok(())
    }

    /// Stores a number for who will look, and wakes nobody.
    ///
    /// # Errors
    /// Never, of a page of ours.
    #[inline]
    pub fn set(&self, flag: Flag, number: u32) -> anyhow::Result<()> {
        SharedWord::of(self.page.span_mut()?, flag.0)?.atomic().store(number, Ordering::Release);
        Ok(())
    }

    /// The number now.
    ///
    /// # Errors
    /// Never, of a page of ours.
    #[inline]
    pub fn get(&self, flag: Flag) -> anyhow::Result<u32> {
        Ok(SharedWord::of(self.page.span_mut()?, flag.0)?.atomic().load(Ordering::Acquire))
    }

    /// Waits until the number is at least this.
    ///
    /// # Errors
    /// When that did not come within five seconds.
    #[inline]
    pub fn wait(&self, flag: Flag, number: u32, rest: Rest) -> anyhow::Result<()> {
        self.wait_until(flag, number, rest, || clock::deadline_in(PATIENCE_NS))
    }

    /// As [`Self::wait`], without an end: for a process that is killed when it is not needed.
    ///
    /// # Errors
    /// Never, of a page of ours.
    #[inline]
    pub fn wait_for_ever(&self, flag: Flag, number: u32, rest: Rest) -> anyhow::Result<()> {
        self.wait_until(flag, number, rest, || u64::MAX)
    }

    #[inline]
    fn wait_until(
        &self,
        flag: Flag,
        number: u32,
        rest: Rest,
        deadline: impl Fn() -> u64,
    ) -> anyhow::Result<()> {
        let page = self.page.span_mut()?;
        let word = SharedWord::of(page, flag.0)?;
        let reached = || word.atomic().load(Ordering::Acquire) >= number;
        if reached() || rest.spin(reached) {
            return Ok(());
        }
        sleep(page, flag, number, deadline())
    }
}

fn sleep(page: SpanMut<'_>, flag: Flag, number: u32, deadline_ns: u64) -> anyhow::Result<()> {
    let (word, asleep) = (SharedWord::of(page, flag.0)?, SharedWord::of(page, flag.0 + ASLEEP)?);
    loop {
        asleep.atomic().swap(1, Ordering::SeqCst);
        let seen = word.atomic().load(Ordering::Acquire);
        if seen >= number {
            return Ok(());
        }
        if futex::wait(word.futex(), seen, deadline_ns)? == Wake::TimedOut {
            bail!("{number} did not come, {seen} is there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: Flag = Flag::new(3);

    #[test]
    fn who_waits_is_woken_for_its_number_however_it_waits() {
        for rest in Rest::ALL {
            let (here, fd) = Flags::create().expect("a page");
            let there = Flags::map(&fd).expect("mapped");
            std::thread::scope(|threads| {
                let waiting = threads.spawn(|| there.wait(FLAG, 2, rest));
                here.signal(FLAG, 1).expect("ours");
                here.signal(FLAG, 2).expect("ours");
                waiting.join().expect("it ends").expect("the number came");
            });
        }
    }

    #[test]
    fn every_way_to_wait_is_known_by_its_number() {
        for rest in Rest::ALL {
            assert_eq!(Rest::of_number(rest.number()), rest);
        }
    }
}
