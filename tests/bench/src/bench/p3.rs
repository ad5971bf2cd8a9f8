//! P3: a tracked job, from submit until the client sees that the driver has signalled its fence.
//!
//! Against a bare packet of 64 bytes there and back, in turns with it and with the same path by hand. Once with
//! everybody on a fixed core (client and driver on one, broker on the other, as a broker that serves many would have it)
//! and once as the scheduler likes. `accepted` stops at the broker's answer.

use vgem_os::clock;

use crate::floor::{Packets, Tracked};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim};
use crate::sample::Times;
use crate::subject::{Fills, PATIENCE, Vgemd, Waits};

/// Jobs at the start of each turn that are not counted: they find cold caches.
const WARM_UP: usize = 20;

/// Turns of a repetition.
const TURNS: usize = 8;

/// Who sits where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seating {
    /// Client and driver on one core, broker and echo on the other.
    Pinned,
    /// All anywhere.
    Free,
}

impl Seating {
    const fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Free => "anywhere",
        }
    }

    fn series(self, what: &str) -> String {
        format!("{what}, {}", self.word())
    }
}

/// The series of a packet there and back.
const PACKET: &str = "SEQPACKET round trip, 64 B";
/// The series of a tracked job.
const TRACKED: &str = "tracked job, submit until signalled";
/// The series of an accepted job.
const ACCEPTED: &str = "tracked job, submit until accepted";
/// The series of the tracked path by hand.
const BY_HAND: &str = "the same path by hand";

/// Starts vgemd and the floors.
///
/// # Errors
/// When one cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let fills = Fills::new(&vgemd.client, 1, 0, Waits::Implicit)?;
    Ok(Box::new(P3 {
        cores: context.power.cores,
        rounds: context.options.rounds(400),
        fills,
        vgemd,
        tracked: Tracked::start()?,
        packets: Packets::start()?,
    }))
}

#[derive(Debug)]
struct P3 {
    cores: Cores,
    rounds: usize,
    fills: Fills,
    vgemd: Vgemd,
    tracked: Tracked,
    packets: Packets,
}

impl P3 {
    fn seat(&self, seating: Seating) -> anyhow::Result<()> {
        let (here, there) = match seating {
            Seating::Pinned => (Seat::Here, Seat::There),
            Seating::Free => (Seat::Anywhere, Seat::Anywhere),
        };
        self.cores.sit(here)?;
        self.vgemd.processes()?.seat(&self.cores, there, here)?;
        self.tracked.seat(&self.cores, there, here)?;
        self.packets.seat(&self.cores, there)
    }

    fn turns(&mut self, seating: Seating, found: &mut Repetition) -> anyhow::Result<()> {
        self.seat(seating)?;
        let mut all: [Times; 4] = Default::default();
        let [packet, tracked, accepted, by_hand] = &mut all;
        for _ in 0..TURNS {
            turn(packet, self.rounds, || self.packets.round_trip())?;
            turn(tracked, self.rounds, || self.fills.round_trip())?;
            turn(by_hand, self.rounds, || {
                let point = self.tracked.submit()?;
                self.tracked.wait(point)
            })?;
            for round in 0..self.rounds + WARM_UP {
                let before = clock::now();
                let fence = self.fills.submit_acknowledged()?;
                let after = clock::now();
                // The job's end belongs to the next turn of nobody: it is awaited, and not counted.
                fence.wait(PATIENCE)?;
                if round >= WARM_UP {
                    accepted.push(after - before);
                }
            }
        }
        for (name, times) in [PACKET, TRACKED, ACCEPTED, BY_HAND].into_iter().zip(all) {
            found.times(&seating.series(name), times);
        }
        self.seat(Seating::Free)
    }
}

/// One turn: some rounds to warm up, then `rounds` that count.
fn turn(
    times: &mut Times,
    rounds: usize,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..WARM_UP {
        work()?;
    }
    times.each(rounds, work)
}

impl Bench for P3 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.turns(Seating::Pinned, found)?;
        self.turns(Seating::Free, found)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for seating in [Seating::Pinned, Seating::Free] {
            // The targets were set with everybody on a fixed core.
            let target = |bound| if seating == Seating::Pinned { bound } else { Bound::Shown };
            let [packet, tracked, accepted, by_hand] =
                [PACKET, TRACKED, ACCEPTED, BY_HAND].map(|name| seating.series(name));
            claims.push(Claim::ratio("P3", &tracked, &packet, target(Bound::AtMost(1.75))));
            claims.push(Claim::ratio("P3", &accepted, &packet, target(Bound::AtMost(1.5))));
            claims.push(Claim::tails("P3", &tracked, &by_hand, target(Bound::AtMost(2.0))));
            claims.push(Claim::ratio("P3", &by_hand, &packet, Bound::Shown));
            claims.push(Claim::ratio("P3", &tracked, &by_hand, Bound::Shown));
        }
        claims
    }
}
