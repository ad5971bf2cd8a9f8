//! An honest client beside an attack: what it feels of it.
//!
//! Both are measured in the same run and in turns: a slice of time alone, a slice under attack, and again. Each slice
//! has a 99th percentile of its own, and the two medians of those are compared. So one bad moment of a shared machine
//! spoils one slice and not the answer, and a slow machine is slow for both.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vgem::{Buffer, Client, Deadline, Queue};

/// How long one slice is.
const SLICE: Duration = Duration::from_millis(300);

/// A client that does a little of everything: a job, and a buffer made and closed.
#[derive(Debug)]
pub struct Honest {
    client: Client,
    queue: Queue,
    buffer: Buffer,
}

/// What was felt.
#[derive(Debug, Clone, Copy)]
pub struct Felt {
    /// Median of the slices' 99th percentiles, alone.
    pub alone: Duration,
    /// The same, under attack.
    pub attacked: Duration,
    /// The longest that one round took under attack.
    pub worst: Duration,
    /// Steps the attack made.
    pub steps: u64,
    /// Rounds measured, both together.
    pub rounds: usize,
}

impl Honest {
    /// One on this connection.
    ///
    /// # Panics
    /// Without the device `copy`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
        let buffer = client.create(4096).expect("a buffer");
        Self { client, queue, buffer }
    }

    /// One round; how long it took.
    ///
    /// # Panics
    /// If something fails, or takes ten seconds.
    pub fn round(&self) -> Duration {
        let begun = Instant::now();
        let mut batch = self.client.batch();
        batch.job(&self.queue, "fill").output(&self.buffer).param("byte", 7);
        let submitted = batch.submit().expect("an honest job is accepted");
        submitted.wait(Deadline::after(Duration::from_secs(10))).expect("an honest job is done");
        drop(self.client.create(4096).expect("an honest buffer"));
        begun.elapsed()
    }

    /// Measures itself beside an attack, whose step is repeated in a thread of its own while it is on; again if that is
    /// out of its bound ([`Felt::settled`]).
    ///
    /// # Panics
    /// As [`Honest::round`]; if the attack panics.
    pub fn beside(&self, pairs: usize, mut step: impl FnMut() + Send) -> Felt {
        Felt::settled(|| self.beside_once(pairs, &mut step))
    }

    fn beside_once(&self, pairs: usize, step: &mut (impl FnMut() + Send)) -> Felt {
        let (on, ended, steps) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let (mut alone, mut attacked, mut worst, mut rounds) = (Vec::new(), Vec::new(), Duration::ZERO, 0);
        std::thread::scope(|scope| {
            let attack = scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    if on.load(Ordering::Acquire) {
                        step();
                        steps.fetch_add(1, Ordering::Relaxed);
                    } else {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
            });
            self.slice(SLICE);
            for _ in 0..pairs {
                let times = self.slice(SLICE);
                rounds += times.len();
                alone.push(percentile(times, 99));
                on.store(true, Ordering::Release);
                let times = self.slice(SLICE);
                rounds += times.len();
                worst = worst.max(times.iter().copied().max().unwrap_or_default());
                attacked.push(percentile(times, 99));
                on.store(false, Ordering::Release);
                assert!(!attack.is_finished(), "the attack ended by itself");
            }
            ended.store(true, Ordering::Release);
        });
        Felt {
            alone: percentile(alone, 50),
            attacked: percentile(attacked, 50),
            worst,
            steps: steps.into_inner(),
            rounds,
        }
    }

    fn slice(&self, len: Duration) -> Vec<Duration> {
        slice(len, &mut || self.round())
    }
}

/// Measures rounds of anything, in turns alone and beside an attack, which is turned on and off between two slices.
///
/// # Panics
/// As the rounds, and the attack.
pub fn in_turns(pairs: usize, mut round: impl FnMut() -> Duration, mut turn: impl FnMut(bool)) -> Felt {
    let mut felt =
        Felt { alone: Duration::ZERO, attacked: Duration::ZERO, worst: Duration::ZERO, steps: 0, rounds: 0 };
    let (mut alone, mut attacked) = (Vec::new(), Vec::new());
    slice(SLICE, &mut round);
    for _ in 0..pairs {
        for on in [false, true] {
            turn(on);
            let times = slice(SLICE, &mut round);
            felt.rounds += times.len();
            if on {
                felt.steps += 1;
                felt.worst = felt.worst.max(times.iter().copied().max().unwrap_or_default());
                attacked.push(percentile(times, 99));
            } else {
                alone.push(percentile(times, 99));
            }
        }
    }
    turn(false);
    Felt { alone: percentile(alone, 50), attacked: percentile(attacked, 50), ..felt }
}

fn slice(len: Duration, round: &mut impl FnMut() -> Duration) -> Vec<Duration> {
    let end = Instant::now() + len;
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(round());
    }
    times
}

impl Felt {
    /// Measures until an attack is within its bound, three times at most: whatever else a machine does in one of the
    /// turns looks like an attack, and an attack is there every time.
    pub fn settled(mut measure: impl FnMut() -> Self) -> Self {
        let mut felt = measure();
        for _ in 0..2 {
            if felt.ratio() > 2.0 {
                felt = measure();
            }
        }
        felt
    }

    /// How many times as long as alone it takes.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.attacked.as_secs_f64() / self.alone.as_secs_f64()
    }

    /// Holds it to the bound of the issue: within twice what it is alone.
    ///
    /// # Panics
    /// If it is not, or the attack did nothing.
    pub fn assert_within_twice(&self, attack: &str) {
        let ratio = self.ratio();
        eprintln!(
            "{attack}: p99 {:?} alone, {:?} attacked ({ratio:.2}), worst {:?}, {} steps, {} rounds",
            self.alone, self.attacked, self.worst, self.steps, self.rounds
        );
        assert!(self.steps > 0, "{attack}: the attack did nothing");
        assert!(ratio <= 2.0, "{attack}: an honest client's p99 grew {ratio:.2} times: {self:?}");
    }
}

/// The element that so many percent are not above; zero of none.
#[must_use]
pub fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}
