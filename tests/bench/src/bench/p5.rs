//! P5: user queues, by the client library, a broker and a confined driver; every entry copies 64 bytes.
//!
//! | measured | against |
//! |---|---|
//! | a push while the driver is awake; its system calls, counted from outside | 50 ns; 0 |
//! | submit until the completion is had, both awake | a cache line there and back, two processes |
//! | the same, the driver asleep | a futex there and back |
//! | copies per second, each with a completion, or 256 of them with one | entries of a slot-sequence ring by hand, one way |
//! | one copy from 64 B to 64 MiB, submit until waited for | the same copy of the same buffers by a tracked job |
//!
//! Client and driver have a core each, and the broker is with the driver. The last row is measured also with all of them
//! where the scheduler likes, which is what programs do: it may put client and driver on one core, where neither can be
//! awake for the other. Where only one core is to be had there is nothing to measure.

use vgem_os::seqpacket::Socket;

use crate::floor::{FlagEcho, PACKET, Rest, slots};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::mode::Mode;
use crate::report::{Bound, Claim, JudgedIn, Unit, short};
use crate::role::{Part, Role};
use crate::sample::{Spread, Times, ns_f64, per_second};
use crate::subject::copies::{BURST, Order, pair};
use crate::subject::{BothWays, Copies, Traced, Vgemd, Way};

/// Turns of a repetition.
const TURNS: usize = 8;
/// Rounds per look at the clock.
const AT_ONCE: u32 = 10;
/// Rounds at the start of each turn that are not counted: whoever sleeps learns that it need not.
const WARM_UP: usize = 200;
/// Copies of the shorter traced run, and what the longer one has more.
const FEW: u64 = 10_240;
const MORE: u64 = 1_024_000;
/// Lengths of copies: 64 B to 64 MiB, each four times the one before.
const LENS: [u64; 11] =
    [1 << 6, 1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26];
/// Bytes that are copied per turn and way where a copy is long, and most copies where it is short.
const BYTES_PER_TURN: u64 = 64 << 20;
/// A user queue that takes this share of the tracked time is not ahead any more.
const LEVEL: f64 = 0.95;

const LINE: &str = "cache line there and back, two processes";
const FUTEX: &str = "futex there and back, both asleep";
const PUSH: &str = "push, driver awake";
const PUSH_LOCKING: &str = "push that locks the queue, driver awake";
const PUSH_MANY: &str = "push of 32 at once, each, driver awake";
const LOOKED: &str = "submit until the completion is seen, both awake";
const WAITED: &str = "submit until `wait` returns, both awake";
const WOKEN: &str = "submit until `wait` returns, driver asleep";
const SLOTS: &str = "slot-sequence ring by hand, one way";
const SLOTS_BACK: &str = "two of them, there and back";
const MANY: &str = "copies of 64 bytes, 32 pushed at once, a completion each";
const BATCHES: &str = "copies of 64 bytes, 256 in a batch with one completion";
const LOOK_CALLS: &str = "system calls per 1 024 000 pushes and completions, beside doorbells";
const LOOK_BELLS: &str = "doorbells of these: the driver was found asleep";
const MANY_CALLS: &str = "system calls per 1 024 000 copies, 32 at once";
const BATCH_CALLS: &str = "system calls per 1 024 000 copies, in batches";

/// Starts vgemd and the other ends.
///
/// # Errors
/// When one cannot start, tracing is forbidden, or there is only one core.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let cores = context.power.cores;
    anyhow::ensure!(
        context.power.mode != Mode::OneCore && cores.are_two(),
        "two cores are needed to be awake on"
    );
    let vgemd = Vgemd::start()?;
    let (link, there) = Socket::pair()?;
    let connection = Socket::connect(vgemd.embedded.socket())?;
    let role = Role::start(Part::Copies, vec![connection.into(), there.into()])?;
    Ok(Box::new(P5 {
        cores,
        rounds: context.options.rounds(1000),
        copies: Copies::new(&vgemd.client)?,
        both_ways: BothWays::new(&vgemd.client, &LENS)?,
        traced: Traced::new(role.pid(), link)?,
        role,
        vgemd,
        flags: FlagEcho::start()?,
        ratios: [Seating::Pinned, Seating::Free].map(|seating| (seating, vec![Vec::new(); LENS.len()])),
    }))
}

#[derive(Debug)]
struct P5 {
    cores: Cores,
    rounds: usize,
    copies: Copies,
    both_ways: BothWays,
    traced: Traced,
    role: Role,
    vgemd: Vgemd,
    flags: FlagEcho,
    /// Of each length, the user queue's time over the tracked one, per repetition.
    ratios: [(Seating, Vec<Vec<f64>>); 2],
}

/// Who sits where while both ways are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seating {
    /// The client on one core, broker and driver on the other.
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

    const fn seats(self) -> (Seat, Seat) {
        match self {
            Self::Pinned => (Seat::Here, Seat::There),
            Self::Free => (Seat::Anywhere, Seat::Anywhere),
        }
    }
}

/// One turn, after some rounds to wake up.
fn turn(
    times: &mut Times,
    rounds: usize,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..WARM_UP {
        work()?;
    }
    times.batches(rounds, AT_ONCE, work)
}

/// One turn of pushes: those that found the driver awake.
fn pushes(
    times: &mut Times,
    rounds: usize,
    mut push: impl FnMut() -> anyhow::Result<Option<u64>>,
) -> anyhow::Result<()> {
    for round in 0..rounds + WARM_UP / BURST {
        let spent = push()?.filter(|_| round >= WARM_UP / BURST);
        times.extend(spent.map(|ns| ns_f64(ns) / ns_f64(BURST as u64)));
    }
    Ok(())
}

impl P5 {
    fn seat(&self, client: Seat, others: Seat) -> anyhow::Result<()> {
        self.cores.sit(client)?;
        self.vgemd.processes()?.seat(&self.cores, others, others)?;
        self.flags.seat(&self.cores, others)?;
        self.role.seat(&self.cores, client)
    }

    fn times(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let mut all: [Times; 8] = Default::default();
        let [line, futex, push, push_locking, push_many, looked, waited, woken] = &mut all;
        let (rounds, copies) = (self.rounds, &mut self.copies);
        for _ in 0..TURNS {
            self.flags.set(Rest::Awake)?;
            turn(line, rounds, || self.flags.round_trip())?;
            self.flags.set(Rest::Asleep)?;
            self.flags.round_trip()?;
            futex.each(rounds / 4 + 1, || self.flags.round_trip())?;
            copies.begin();
            pushes(push, rounds / 4 + 1, || copies.pushes())?;
            pushes(push_locking, rounds / 4 + 1, || copies.pushes_that_lock())?;
            pushes(push_many, rounds / 4 + 1, || copies.pushes_at_once())?;
            turn(looked, rounds, || copies.looked_for())?;
            turn(waited, rounds, || copies.waited_for())?;
            for _ in 0..=rounds / 4 {
                woken.extend(copies.woken()?.map(ns_f64));
            }
        }
        let names = [LINE, FUTEX, PUSH, PUSH_LOCKING, PUSH_MANY, LOOKED, WAITED, WOKEN];
        for (name, times) in names.into_iter().zip(all) {
            found.times(name, times);
        }
        Ok(())
    }

    fn throughput(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let count = self.rounds * 256;
        let mut ns = [0; 4];
        let [one_way, back, many, batches] = &mut ns;
        for _ in 0..TURNS {
            *one_way += slots::one_way(&self.cores, count as u64)?;
            *back += slots::there_and_back(&self.cores, count as u64)?;
            self.copies.begin();
            *many += taken(|| self.copies.many(count))?;
            *batches += taken(|| self.copies.batches(count))?;
        }
        for (name, ns) in [SLOTS, SLOTS_BACK, MANY, BATCHES].into_iter().zip(ns) {
            found.number(name, Unit::PerSecond, per_second((count * TURNS) as u64, ns));
        }
        Ok(())
    }

    /// What a number of copies costs the second process, by a short and a long run: calls, and doorbells among them.
    fn calls(&self, order: Order) -> anyhow::Result<(f64, f64)> {
        let run = |copies| -> anyhow::Result<(f64, f64)> {
            let (calls, answer): (u64, [u8; PACKET]) = self.traced.calls(&order.packet(copies))?;
            Ok((ns_f64(calls), ns_f64(pair(&answer).0)))
        };
        let (few, more) = (run(FEW)?, run(FEW + MORE)?);
        Ok((more.0 - few.0, more.1 - few.1))
    }

    fn system_calls(&self, found: &mut Repetition) -> anyhow::Result<()> {
        let (calls, doorbells) = self.calls(Order::Look)?;
        found.number(LOOK_CALLS, Unit::Count, calls - doorbells);
        found.number(LOOK_BELLS, Unit::Count, doorbells);
        found.number(MANY_CALLS, Unit::Count, self.calls(Order::Many)?.0);
        found.number(BATCH_CALLS, Unit::Count, self.calls(Order::Batches)?.0);
        Ok(())
    }

    fn beside_tracked(&mut self, which: usize, found: &mut Repetition) -> anyhow::Result<()> {
        let Some((seating, _)) = self.ratios.get(which) else { return Ok(()) };
        let seating = *seating;
        let (client, others) = seating.seats();
        self.seat(client, others)?;
        for (number, len) in LENS.into_iter().enumerate() {
            let rounds = usize::try_from(BYTES_PER_TURN / len)?.clamp(1, self.rounds / 4 + 1);
            let mut all: [Times; 2] = Default::default();
            for turn in 0..TURNS / 2 {
                let mut ways: Vec<_> = [Way::Tracked, Way::UserQueue].into_iter().zip(&mut all).collect();
                ways.rotate_left(turn % 2);
                for (way, times) in ways {
                    for _ in 0..=rounds / 10 {
                        self.both_ways.copy(number, way)?;
                    }
                    times.each(rounds, || self.both_ways.copy(number, way))?;
                }
            }
            let [tracked, user_queue] = &all;
            if let (Some(tracked), Some(user_queue)) = (tracked.median(), user_queue.median()) {
                self.ratios[which].1[number].push(user_queue / tracked);
            }
            for (way, times) in [Way::Tracked, Way::UserQueue].into_iter().zip(all) {
                found.times(&copy_of(len, way, seating), times);
            }
        }
        Ok(())
    }
}

/// What work takes, nanoseconds.
fn taken(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let before = vgem_os::clock::now();
    work()?;
    Ok(vgem_os::clock::now() - before)
}

fn copy_of(len: u64, way: Way, seating: Seating) -> String {
    let way = match way {
        Way::Tracked => "by a tracked job",
        Way::UserQueue => "by a user queue",
    };
    format!("copy of {}, {way}, {}", bytes(len), seating.word())
}

fn bytes(len: u64) -> String {
    match len {
        len if len >= 1 << 20 => format!("{} MiB", len >> 20),
        len if len >= 1 << 10 => format!("{} KiB", len >> 10),
        len => format!("{len} B"),
    }
}

/// From which length on the user queue is not ahead, and whether it is behind anywhere, in words.
fn crossover(ratios: &[(u64, f64)]) -> String {
    let ahead = ratios.iter().rposition(|(_, ratio)| *ratio < LEVEL);
    let first = ahead.map_or(0, |last| last + 1);
    let level = ratios.get(first).map_or_else(
        || "ahead at every length".to_owned(),
        |(len, ratio)| format!("level from {} on ({})", bytes(*len), short(*ratio)),
    );
    let behind = ratios.iter().filter(|(_, ratio)| *ratio > 2.0 - LEVEL);
    let behind: Vec<_> = behind.map(|(len, ratio)| format!("{} ({})", bytes(*len), short(*ratio))).collect();
    match behind.as_slice() {
        [] => format!("{level}, behind at none"),
        behind => format!("{level}, behind at {}", behind.join(", ")),
    }
}

impl Bench for P5 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.seat(Seat::Here, Seat::There)?;
        self.times(found)?;
        self.throughput(found)?;
        self.system_calls(found)?;
        (0..self.ratios.len()).try_for_each(|which| self.beside_tracked(which, found))?;
        self.seat(Seat::Anywhere, Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = vec![
            Claim::number("P5", PUSH, Bound::AtMost(50.0)),
            Claim::number("P5", PUSH_LOCKING, Bound::Shown),
            Claim::number("P5", PUSH_MANY, Bound::Shown),
            Claim::number("P5", LOOK_CALLS, Bound::AtMost(0.0)).judged_in(JudgedIn::Any),
            Claim::ratio("P5", WAITED, LINE, Bound::AtMost(2.5)),
            Claim::ratio("P5", LOOKED, LINE, Bound::Shown),
            Claim::tails("P5", WAITED, LINE, Bound::AtMost(2.0)),
            Claim::ratio("P5", WOKEN, FUTEX, Bound::AtMost(1.3)),
            Claim::tails("P5", WOKEN, FUTEX, Bound::AtMost(2.0)),
            Claim::ratio("P5", MANY, SLOTS, Bound::AtLeast(0.5)),
            Claim::ratio("P5", BATCHES, SLOTS, Bound::AtLeast(0.5)),
            Claim::ratio("P5", SLOTS_BACK, SLOTS, Bound::Shown),
        ];
        let seatings = self.ratios.iter().map(|(seating, _)| *seating);
        for (seating, len) in seatings.flat_map(|seating| LENS.map(|len| (seating, len))) {
            let [tracked, user_queue] = [Way::Tracked, Way::UserQueue].map(|way| copy_of(len, way, seating));
            claims.push(Claim::ratio("P5", &user_queue, &tracked, Bound::Shown));
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        let median = |ratios: &Vec<f64>| Spread::of(ratios.iter().copied()).map(|spread| spread.median);
        let note = |(seating, ratios): &(Seating, Vec<Vec<f64>>)| {
            let medians: Option<Vec<f64>> = ratios.iter().map(median).collect();
            let ratios: Vec<_> = LENS.into_iter().zip(medians?).collect();
            Some(format!("user queue beside tracked jobs, {}: {}", seating.word(), crossover(&ratios)))
        };
        self.ratios.iter().filter_map(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossover_is_behind_the_last_length_at_which_the_user_queue_is_ahead() {
        let said = crossover(&[(64, 0.1), (256, 0.97), (1024, 0.9), (4096, 0.96), (1 << 20, 1.2)]);
        assert_eq!(said, "level from 4 KiB on (0.96), behind at 1 MiB (1.20)");
    }

    #[test]
    fn where_nothing_is_level_it_is_ahead_at_every_length() {
        let said = crossover(&[(64, 0.1), (256, 0.9)]);
        assert_eq!(said, "ahead at every length, behind at none");
    }
}
