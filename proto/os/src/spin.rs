//! Whether to look for a while before sleeping: it learns from what happened.
//!
//! ```text
//!            found in time: + credit                         signalled soon after a sleep began: + credit
//!   credit ──spin USUAL_NS──► found | sleep: - credit        ▲
//!   none ──sleep ─────────────────────────────────────────────┘  if that often in a row
//!     └─one in so many─► a try: spin USUAL_NS, or TRY_NS up to three times in a row if the last answer came within that
//! ```
//!
//! A spin of USUAL_NS costs less than a wake-up, and pays where answers come from somebody who is awake. Two that wait for
//! each other and both sleep would sleep for ever so: what each answers takes as long as its own wake-up, however fast it
//! is. A **try** is as long as that, so it finds the other awake once; and while this one answers at once, the other
//! learns, from when the signal was given, that it need not have slept. A try that finds nothing sooner than a wake-up takes
//! has failed, and the next one comes after twice as many waits.
//!
//! A spin that found nothing, and an answer that came as soon as the sleep after it had begun, mean that the signaller
//! needed this very core, or needs longer than a spin. Then sleeping is right, however soon it is answered: each time so
//! it takes twice as many sleeps that are answered at once to earn anything, until a spin pays. So two that share a core
//! hand it over by sleeping, and all but stop spinning; once one of them has moved away, the next spin pays.
//!
//! On the one core that a process may use, its signaller perhaps has to run as well. So there nothing is taken for granted:
//! no credit at first, none for a sleep. But an answer that came during a spin came from another core, whatever our mask
//! says, and is worth as much as anywhere.
//!
//! Nobody is trusted: a signaller that lies about the time makes this process spin for a few microseconds.
//!
//! Fence pages and rings are waited for alike: whoever waits for one has a [`Spin`] for it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::{clock, cores};

/// Longest spin before a sleep, nanoseconds: less than what a wake-up across cores costs.
const USUAL_NS: u64 = 5_000;
/// Longest spin of a try, nanoseconds: what a wake-up costs where idle cores halt, and a little.
const TRY_NS: u64 = 40_000;
/// Looks between two looks at the clock.
const LOOKS: u32 = 16;
/// How often is asked how many cores there are, nanoseconds.
const ASK_CORES_NS: u64 = 100_000_000;

/// What is known of answers to the waits of one page, or of one ring.
#[derive(Debug)]
pub struct Spin {
    /// Spins that may still fail before this sleeps at once.
    credit: AtomicU32,
    /// Waits without credit since the last try.
    skipped: AtomicU32,
    /// Waits without credit between tries.
    between: AtomicU32,
    /// Spins of a try that are left.
    trying: AtomicU32,
    /// Whether the last sleep would have ended in a try.
    hopeful: AtomicBool,
    /// Whether the last wait spun for nothing before it slept.
    spun: AtomicBool,
    /// Sleeps without a spin that were answered at once since one of them earned.
    at_once: AtomicU32,
    /// So many of them earn.
    needed: AtomicU32,
}

impl Default for Spin {
    fn default() -> Self {
        Self::on(spare_core(clock::now()))
    }
}

impl Spin {
    const FIRST: u32 = 4;
    const MOST: u32 = 8;
    const EARNED: u32 = 2;
    /// Waits between tries, at first and at most.
    const OFTEN: u32 = 16;
    const SELDOM: u32 = 4096;
    /// Most sleeps that were answered at once that it takes to earn: two that could spin lose little before they do.
    const NEEDED: u32 = 64;
    /// Spins of one try: one to find the other awake, one while it wakes for the last time, one to see that it spins.
    const TRIES: u32 = 3;

    fn on(spare_core: bool) -> Self {
        Self {
            credit: AtomicU32::new(if spare_core { Self::FIRST } else { 0 }),
            skipped: AtomicU32::new(0),
            between: AtomicU32::new(Self::OFTEN),
            trying: AtomicU32::new(0),
            hopeful: AtomicBool::new(false),
            spun: AtomicBool::new(false),
            at_once: AtomicU32::new(0),
            needed: AtomicU32::new(1),
        }
    }

    /// Spins for a moment if that paid lately, or it is time to try again.
    #[inline]
    pub fn turn<T>(&self, look: impl FnMut() -> Option<T>) -> Option<T> {
        let budget_ns = self.budget_ns()?;
        match spin(budget_ns, look) {
            Some((found, Came::InTime)) => {
                self.paid();
                Some(found)
            }
            Some((found, Came::Late)) => {
                self.found_late();
                Some(found)
            }
            None => {
                self.failed();
                None
            }
        }
    }

    /// Takes in that a sleep which began then ended with a signal that was given then, nanoseconds.
    pub fn slept(&self, began_ns: u64, signalled_ns: u64) {
        let after_ns = signalled_ns.saturating_sub(began_ns);
        self.hopeful.store(after_ns <= TRY_NS, Ordering::Relaxed);
        if after_ns <= USUAL_NS && spare_core(began_ns) {
            self.answered_at_once();
        }
    }

    /// A sleep ended as soon as a spin in its place would have.
    fn answered_at_once(&self) {
        let needed = self.needed.load(Ordering::Relaxed);
        if self.spun.load(Ordering::Relaxed) {
            // But one was there, and it did not.
            self.needed.store((needed * 2).min(Self::NEEDED), Ordering::Relaxed);
            return;
        }
        let at_once = self.at_once.load(Ordering::Relaxed) + 1;
        if at_once < needed {
            self.at_once.store(at_once, Ordering::Relaxed);
        } else {
            self.at_once.store(0, Ordering::Relaxed);
            self.earn();
        }
    }

    /// How long to spin now; nothing is not at all.
    #[inline]
    fn budget_ns(&self) -> Option<u64> {
        self.spun.store(false, Ordering::Relaxed);
        if self.trying.load(Ordering::Relaxed) > 0 {
            return Some(TRY_NS);
        }
        if self.credit.load(Ordering::Relaxed) > 0 {
            return Some(USUAL_NS);
        }
        let skipped = self.skipped.load(Ordering::Relaxed) + 1;
        if skipped < self.between.load(Ordering::Relaxed) {
            self.skipped.store(skipped, Ordering::Relaxed);
            return None;
        }
        self.skipped.store(0, Ordering::Relaxed);
        if !self.hopeful.load(Ordering::Relaxed) {
            return Some(USUAL_NS);
        }
        self.trying.store(Self::TRIES, Ordering::Relaxed);
        Some(TRY_NS)
    }

    fn earn(&self) {
        let credit = self.credit.load(Ordering::Relaxed);
        self.credit.store((credit + Self::EARNED).min(Self::MOST), Ordering::Relaxed);
    }

    /// A spin found in time.
    #[inline]
    fn paid(&self) {
        self.earn();
        self.between.store(Self::OFTEN, Ordering::Relaxed);
        self.trying.store(0, Ordering::Relaxed);
        self.needed.store(1, Ordering::Relaxed);
    }

    /// A try found what a wake-up would have brought nearly as soon.
    #[cold]
    fn found_late(&self) {
        match self.trying.load(Ordering::Relaxed).saturating_sub(1) {
            0 => self.failed(),
            left => self.trying.store(left, Ordering::Relaxed),
        }
    }

    /// A spin, or a whole try, was for nothing.
    #[cold]
    fn failed(&self) {
        self.trying.store(0, Ordering::Relaxed);
        self.spun.store(true, Ordering::Relaxed);
        match self.credit.load(Ordering::Relaxed) {
            0 => {
                let between = self.between.load(Ordering::Relaxed);
                self.between.store((between * 2).min(Self::SELDOM), Ordering::Relaxed);
            }
            credit => self.credit.store(credit - 1, Ordering::Relaxed),
        }
    }
}

/// When a spin found what it looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// While spinning costs less than a wake-up.
    InTime,
    /// Later.
    Late,
}

/// Looks for so long. What is found at once costs no look at the clock after it.
#[inline]
fn spin<T>(budget_ns: u64, mut look: impl FnMut() -> Option<T>) -> Option<(T, Came)> {
    let began_ns = clock::now();
    let mut came = Came::InTime;
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Some((found, came));
            }
            std::hint::spin_loop();
        }
        let spent_ns = clock::now().saturating_sub(began_ns);
        if spent_ns >= budget_ns {
            return None;
        }
        if spent_ns >= USUAL_NS {
            came = Came::Late;
        }
    }
}

/// Whether this process may use more than one core at this moment. What it may use can change, so it is asked anew now
/// and then.
fn spare_core(now_ns: u64) -> bool {
    static SPARE: AtomicBool = AtomicBool::new(false);
    static ASK_AT: AtomicU64 = AtomicU64::new(0);
    if now_ns >= ASK_AT.load(Ordering::Relaxed) {
        SPARE.store(cores::usable() > 1, Ordering::Relaxed);
        ASK_AT.store(now_ns.saturating_add(ASK_CORES_NS), Ordering::Relaxed);
    }
    SPARE.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    /// How long it spins in each of so many waits that are answered `after_ns` the sleep began; 0 is not at all.
    fn budgets(spin: &Spin, waits: u32, after_ns: u64) -> Vec<u64> {
        let wait = |_| {
            let budget = spin.budget_ns();
            budget.inspect(|_| spin.failed());
            spin.slept(1_000, 1_000 + after_ns);
            budget
        };
        (0..waits).filter_map(wait).collect()
    }

    #[test]
    fn who_is_answered_late_tries_ever_more_seldom_and_never_long() {
        let spin = Spin::on(false);
        assert_eq!(budgets(&spin, 16 + 32 + 64, 1_000_000), [USUAL_NS; 3]);
    }

    #[test]
    fn who_is_answered_as_late_as_a_wake_up_takes_tries_for_as_long() {
        let spin = Spin::on(false);
        assert_eq!(budgets(&spin, 16, 27_000), [TRY_NS]);
    }

    #[test]
    fn a_try_goes_on_while_the_other_wakes_and_ends_with_its_first_answer_in_time() {
        let spin = Spin::on(false);
        budgets(&spin, 15, 27_000);
        for _ in 1..Spin::TRIES {
            assert_eq!(spin.budget_ns(), Some(TRY_NS));
            spin.found_late();
        }
        assert_eq!(spin.budget_ns(), Some(TRY_NS));
        spin.paid();
        assert_eq!(spin.budget_ns(), Some(USUAL_NS));
    }

    #[test]
    fn a_try_that_only_ever_finds_late_answers_is_over_after_three() {
        let spin = Spin::on(false);
        budgets(&spin, 15, 27_000);
        for _ in 0..Spin::TRIES {
            assert_eq!(spin.budget_ns(), Some(TRY_NS));
            spin.found_late();
        }
        assert_eq!(spin.budget_ns(), None);
    }

    #[test]
    fn who_is_answered_only_once_asleep_all_but_stops_spinning() {
        let spin = Spin::on(true);
        // As on a shared core: what the other does it does while this one sleeps.
        let spins = |waits| budgets(&spin, waits, 1_000).len();
        let first = spins(1_000);
        assert!((1..60).contains(&first), "{first} spins in the first 1000 waits");
        let later = spins(100_000);
        assert!(later < 4_000, "{later} spins in 100000 waits");
    }

    #[test]
    fn who_stopped_spinning_spins_again_once_a_spin_pays() {
        let spin = Spin::on(true);
        budgets(&spin, 1_000, 1_000);
        let waits = (0..).take_while(|_| spin.budget_ns().is_none()).inspect(|_| spin.slept(1_000, 2_000));
        assert!(waits.count() <= Spin::NEEDED as usize);
        spin.paid();
        // Neither credit nor a try is left.
        spin.credit.store(0, Ordering::Relaxed);
        spin.skipped.store(0, Ordering::Relaxed);
        assert_eq!(spin.budget_ns(), None);
        spin.slept(1_000, 2_000);
        assert_eq!(spin.budget_ns(), Some(USUAL_NS), "one sleep that was answered at once is enough again");
    }

    #[test]
    fn a_long_silence_does_not_make_a_sleep_that_is_answered_at_once_earn_less() {
        let spin = Spin::on(false);
        budgets(&spin, 10_000, 1_000_000);
        spin.slept(1_000, 2_000);
        spin.budget_ns();
        spin.slept(1_000, 2_000);
        assert_eq!(spin.budget_ns(), Some(USUAL_NS));
    }

    #[test]
    fn a_spin_ends_in_time_and_says_when_it_found_late() {
        let looked: Option<((), Came)> = spin(USUAL_NS, || None);
        assert_eq!(looked, None);
        let late = clock::now() + 2 * USUAL_NS;
        assert_eq!(spin(u64::MAX, || (clock::now() > late).then_some(())), Some(((), Came::Late)));
        assert_eq!(spin(0, || Some(())), Some(((), Came::InTime)));
    }

    /// Changes the mask of this thread and of the first one, which stands for the process.
    fn may_use(mask: &CpuSet) {
        for thread in [Some(getpid()), None] {
            sched_setaffinity(thread, mask).expect("a mask");
        }
    }

    #[test]
    fn on_the_one_core_that_its_signaller_may_need_a_sleep_earns_no_spin() {
        let _alone = cores::tests::MASKS.lock();
        let all = sched_getaffinity(Some(getpid())).expect("a mask");
        assert!(all.count() > 1, "this test needs two cores");
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).expect("there are two"));
        let now = clock::now();
        let earns = |now_ns| {
            let spin = Spin::on(false);
            spin.slept(now_ns, now_ns + 200);
            spin.budget_ns().is_some()
        };
        may_use(&one);
        let alone = earns(now + ASK_CORES_NS);
        may_use(&all);
        let too_early = earns(now + ASK_CORES_NS);
        let again = earns(now + 2 * ASK_CORES_NS);
        assert!(!alone && !too_early && again, "{alone}, {too_early}, {again}");
    }
}
