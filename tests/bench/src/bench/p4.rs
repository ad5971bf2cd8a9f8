//! P4: tracked jobs per second.
//!
//! With 64 jobs in one message, by the way their waits come about; and with one job per message, against a broker by
//! hand that answers one message of each of 64 clients. What is in flight is bounded as a program would bound it.

use vgem_os::clock;

use crate::floor::{EpollBroker, Tracked};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim, Unit};
use crate::sample::per_second;
use crate::subject::{Fills, Vgemd, Waits};

/// Jobs of one message.
const BATCH: usize = 64;

/// Messages of [`BATCH`] jobs in flight.
const MESSAGES_IN_FLIGHT: usize = 8;

/// Messages of one job in flight.
const JOBS_IN_FLIGHT: usize = 64;

/// Turns of a repetition.
const TURNS: usize = 4;

/// Batches by how their jobs wait: the series, the objects they take turns on, the waits.
const BATCHES: [(&str, usize, Waits); 4] = [
    ("jobs in batches of 64, implicit waits, 64 objects", BATCH, Waits::Implicit),
    ("jobs in batches of 64, implicit waits, one object", 1, Waits::Implicit),
    ("jobs in batches of 64, explicit, 64 objects", BATCH, Waits::Explicit),
    ("jobs in batches of 64, explicit, one object", 1, Waits::Explicit),
];
/// The series of single jobs.
const SINGLE: &str = "one job per message, 64 in flight";
/// The series of a broker by hand.
const EPOLL: &str = "epoll broker by hand, 64 busy clients, messages";
/// The series of the tracked path by hand.
const BY_HAND: &str = "tracked by hand, one per message, 64 in flight";

/// Starts vgemd and the floors.
///
/// # Errors
/// When one cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    // Twice what is in flight by the fences: the broker hears of an end up to a millisecond after the client.
    let depth = u32::try_from(2 * BATCH * MESSAGES_IN_FLIGHT)?;
    let batches = BATCHES.map(|(_, objects, waits)| Fills::new(&vgemd.client, objects, depth, waits));
    let batches = batches.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(Box::new(P4 {
        cores: context.power.cores,
        rounds: context.options.rounds(500),
        batches,
        single: Fills::new(&vgemd.client, JOBS_IN_FLIGHT, depth, Waits::Implicit)?,
        vgemd,
        epoll: EpollBroker::start()?,
        tracked: Tracked::start()?,
    }))
}

#[derive(Debug)]
struct P4 {
    cores: Cores,
    rounds: usize,
    batches: Vec<Fills>,
    single: Fills,
    vgemd: Vgemd,
    epoll: EpollBroker,
    tracked: Tracked,
}

/// Events and the time they took.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    events: u64,
    ns: u64,
}

impl Pace {
    fn take(&mut self, events: usize, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let before = clock::now();
        work()?;
        self.ns += clock::now() - before;
        self.events += events as u64;
        Ok(())
    }

    fn record(self, name: &str, found: &mut Repetition) {
        found.number(name, Unit::PerSecond, per_second(self.events, self.ns));
    }
}

impl Bench for P4 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        // The broker has a core, and all others share the other one, in every turn and for every side.
        self.cores.sit(Seat::Here)?;
        self.vgemd.processes()?.seat(&self.cores, Seat::There, Seat::Here)?;
        self.epoll.seat(&self.cores, Seat::There)?;
        self.tracked.seat(&self.cores, Seat::There, Seat::Here)?;
        let mut batches = [Pace::default(); BATCHES.len()];
        let (mut single, mut epoll, mut by_hand) = (Pace::default(), Pace::default(), Pace::default());
        for _ in 0..TURNS {
            for (fills, pace) in self.batches.iter_mut().zip(&mut batches) {
                pace.take(self.rounds * BATCH, || fills.pipeline(self.rounds, BATCH, MESSAGES_IN_FLIGHT))?;
            }
            let messages = self.rounds * JOBS_IN_FLIGHT / 2;
            epoll.take(messages, || self.epoll.rounds(self.rounds / 2).map(drop))?;
            single.take(messages, || self.single.pipeline(messages, 1, JOBS_IN_FLIGHT))?;
            by_hand.take(messages, || self.tracked.pipeline(messages as u64, JOBS_IN_FLIGHT as u64))?;
        }
        for ((name, ..), pace) in BATCHES.iter().zip(batches) {
            pace.record(name, found);
        }
        single.record(SINGLE, found);
        epoll.record(EPOLL, found);
        by_hand.record(BY_HAND, found);
        self.cores.sit(Seat::Anywhere)?;
        self.vgemd.processes()?.seat(&self.cores, Seat::Anywhere, Seat::Anywhere)?;
        // The same as the scheduler likes it.
        for (fills, (name, ..)) in self.batches.iter_mut().zip(&BATCHES) {
            let mut pace = Pace::default();
            pace.take(self.rounds * BATCH, || fills.pipeline(self.rounds, BATCH, MESSAGES_IN_FLIGHT))?;
            pace.record(&anywhere(name), found);
        }
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let million = Bound::AtLeast(1e6);
        let mut claims: Vec<Claim> =
            BATCHES.iter().map(|(name, ..)| Claim::number("P4", &anywhere(name), million)).collect();
        claims.extend(BATCHES.iter().map(|(name, ..)| Claim::number("P4", name, Bound::Shown)));
        claims.push(Claim::ratio("P4", SINGLE, EPOLL, Bound::AtLeast(0.6)));
        claims.push(Claim::ratio("P4", SINGLE, BY_HAND, Bound::Shown));
        claims
    }
}

fn anywhere(name: &str) -> String {
    format!("{name}, anywhere")
}
