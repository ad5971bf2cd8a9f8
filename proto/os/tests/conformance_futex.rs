//! Kernel conformance: FACTS, "Futexes and fence pages". All words are reached through read-only mappings.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec};
use vgem_os::clock;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory};

/// A page of words, mapped for reading only, as an observer maps a fence page.
struct Words(Mapping);

impl Words {
    fn map(fd: &OwnedFd) -> Self {
        Self(Mapping::map(fd.as_fd(), 4096, Access::Read, Populate::Now).unwrap())
    }

    fn word(&self, n: usize) -> &AtomicU32 {
        let at = self.0.span().sub(64 * n, 4).unwrap().as_ptr().cast::<AtomicU32>();
        // SAFETY: U1, U2. Mapped and aligned; only relaxed loads, by the kernel, follow.
        unsafe { &*at }
    }
}

fn page() -> (ObjectMemory, Words) {
    let object = ObjectMemory::create(4096, HugePages::None, "words").unwrap();
    let words = Words::map(&object.export(Access::Read).unwrap());
    (object, words)
}

fn timespec(ns: u64) -> Timespec {
    let part = |n: u64| i64::try_from(n).unwrap();
    Timespec { tv_sec: part(ns / 1_000_000_000), tv_nsec: part(ns % 1_000_000_000) }
}

/// Sleeps on a shared word that holds 0.
fn sleep_shared(word: &AtomicU32, deadline_ns: u64) -> Result<(), Errno> {
    let deadline = timespec(deadline_ns);
    futex::wait_bitset(word, Flags::empty(), 0, Some(&deadline), NonZeroU32::MAX)
}

fn waiter(word: &AtomicU32, flags: WaitFlags) -> Wait {
    let mut wait = Wait::new();
    wait.uaddr = WaitPtr::new(std::ptr::from_ref(word).cast_mut().cast());
    wait.flags = flags;
    wait
}

/// Returns once somebody sleeps on `word`: a sleeper can be moved to another word and back.
fn until_asleep(word: &AtomicU32, spare: &AtomicU32) {
    support::until("the peer falls asleep", || {
        futex::requeue(word, Flags::empty(), 0, 1, spare).unwrap() == 1
    });
    assert_eq!(futex::requeue(spare, Flags::empty(), 0, 1, word), Ok(1));
}

/// The peer's part of most tests: sleep on word 0 and say how it ended.
fn sleeper(side: &support::Side) {
    let words = Words::map(&support::given(0));
    let ended = sleep_shared(words.word(0), support::patience());
    side.say(&format!("{ended:?}"));
}

#[test]
fn a_read_only_mapper_is_woken_by_a_read_only_mapper_in_another_process() {
    if let Some(side) = support::peer_side() {
        return sleeper(&side);
    }
    let test = "a_read_only_mapper_is_woken_by_a_read_only_mapper_in_another_process";
    let (object, words) = page();
    let peer = support::start_peer(test, vec![object.export(Access::Read).unwrap()]);
    support::until("a sleeper is woken", || futex::wake(words.word(0), Flags::empty(), 1) == Ok(1));
    assert_eq!(peer.hear(), "Ok(())");
}

#[test]
fn waitv_sleeps_on_read_only_shared_words_and_names_the_one_that_rang() {
    if let Some(side) = support::peer_side() {
        let words = Words::map(&support::given(0));
        let waits = [0, 1, 2].map(|n| waiter(words.word(n), WaitFlags::SIZE_U32));
        let deadline = timespec(support::patience());
        let woken = futex::waitv(&waits, WaitvFlags::empty(), Some(&deadline), ClockId::Monotonic);
        return side.say(&format!("{woken:?}"));
    }
    let test = "waitv_sleeps_on_read_only_shared_words_and_names_the_one_that_rang";
    let (object, words) = page();
    let peer = support::start_peer(test, vec![object.export(Access::Read).unwrap()]);
    if futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) == Err(Errno::NOSYS) {
        // The documented fall-back: wait_any then looks at all words in slices.
        return assert_eq!(peer.hear(), format!("{:?}", Err::<usize, _>(Errno::NOSYS)));
    }
    support::until("the third word has a sleeper", || futex::wake(words.word(2), Flags::empty(), 1) == Ok(1));
    assert_eq!(peer.hear(), "Ok(2)");
}

#[test]
fn a_private_wake_does_not_reach_another_process() {
    if let Some(side) = support::peer_side() {
        return sleeper(&side);
    }
    let (object, words) = page();
    let test = "a_private_wake_does_not_reach_another_process";
    let peer = support::start_peer(test, vec![object.export(Access::Read).unwrap()]);
    until_asleep(words.word(0), words.word(1));
    assert_eq!(futex::wake(words.word(0), Flags::PRIVATE, 1), Ok(0));
    assert_eq!(futex::wake(words.word(0), Flags::empty(), 1), Ok(1));
    assert_eq!(peer.hear(), "Ok(())");
}

#[test]
fn a_read_only_mapper_can_steal_a_wake_up_with_requeue() {
    if let Some(side) = support::peer_side() {
        let words = Words::map(&support::given(0));
        let ended = sleep_shared(words.word(0), clock::deadline_in(400_000_000));
        return side.say(&format!("{ended:?}"));
    }
    let (object, words) = page();
    let (_own, mine) = page();
    let test = "a_read_only_mapper_can_steal_a_wake_up_with_requeue";
    let peer = support::start_peer(test, vec![object.export(Access::Read).unwrap()]);
    support::until("the thief moves the sleeper to its own word", || {
        futex::requeue(words.word(0), Flags::empty(), 0, 1, mine.word(0)).unwrap() == 1
    });
    assert_eq!(futex::wake(words.word(0), Flags::empty(), 1), Ok(0), "the wake-up finds nobody");
    assert_eq!(peer.hear(), format!("{:?}", Err::<(), _>(Errno::TIMEDOUT)));
}

#[test]
fn there_is_no_64_bit_futex() {
    let (_object, words) = page();
    // FUTEX2_SIZE_U64.
    let wait = waiter(words.word(0), WaitFlags::from_bits_retain(3));
    let asked = futex::waitv(&[wait], WaitvFlags::empty(), None, ClockId::Monotonic);
    assert!(matches!(asked, Err(Errno::INVAL | Errno::NOSYS)), "{asked:?}");
}

#[test]
fn private_and_shared_words_mix_in_one_waitv() {
    let (_object, words) = page();
    let private = AtomicU32::new(0);
    let woken = std::thread::scope(|threads| {
        let sleeper = threads.spawn(|| {
            let waits = [
                waiter(words.word(0), WaitFlags::SIZE_U32),
                waiter(&private, WaitFlags::SIZE_U32 | WaitFlags::PRIVATE),
            ];
            let deadline = timespec(support::patience());
            futex::waitv(&waits, WaitvFlags::empty(), Some(&deadline), ClockId::Monotonic)
        });
        support::until("the private word has a sleeper", || {
            sleeper.is_finished() || futex::wake(&private, Flags::PRIVATE, 1) == Ok(1)
        });
        sleeper.join().unwrap()
    });
    assert!(matches!(woken, Ok(1) | Err(Errno::NOSYS)), "{woken:?}");
}
