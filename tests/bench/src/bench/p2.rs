//! P2: a buffer handed over untouched and acknowledged, both sides awake, against a cache line there and back.
//!
//! The cache line is a flag of a page that two processes map, which is all that a hand-over by hand is. iceoryx2 lends and
//! sends a sample that nobody touches. Beside it the same with eight bytes written and read: by hand in place, by clients
//! under guards. Where only one core is to be had nobody can be awake for the other: there is nothing to measure then.

use crate::floor::{FlagEcho, Handover, Look, Rest};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::mode::Mode;
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim};
use crate::sample::Times;
use crate::subject::{Handed, Vgemd};

/// Bytes of the buffer.
const LEN: usize = 1 << 20;
/// Turns of a repetition.
const TURNS: usize = 8;
/// Rounds per look at the clock.
const AT_ONCE: u32 = 10;
/// Rounds at the start of each turn that are not counted: whoever sleeps learns that it need not.
const WARM_UP: usize = 200;

const LINE: &str = "cache line there and back, two processes";
const VGEMD: &str = "1 MiB handed over untouched, by client timelines, awake";
const WORD_BY_HAND: &str = "the same with 8 bytes written and read, by hand";
const WORD: &str = "the same with 8 bytes written and read, by clients' guards";
const IOX: &str = "1 MiB handed over untouched, by iceoryx2, spinning";

/// Starts vgemd and the other ends.
///
/// # Errors
/// When one cannot start, or there is only one core.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let cores = context.power.cores;
    anyhow::ensure!(
        context.power.mode != Mode::OneCore && cores.are_two(),
        "two cores are needed to be awake on"
    );
    let vgemd = Vgemd::start()?;
    let (peer, notes) = match Runner::find(Peer::Iceoryx2) {
        Ok(runner) => (Some(runner), Vec::new()),
        Err(missing) => (None, vec![missing.to_string()]),
    };
    Ok(Box::new(P2 {
        cores,
        rounds: context.options.rounds(1000),
        handed: Handed::start(&vgemd, LEN as u64)?,
        vgemd,
        flags: FlagEcho::start()?,
        by_hand: Handover::start(LEN)?,
        peer,
        notes,
    }))
}

#[derive(Debug)]
struct P2 {
    cores: Cores,
    rounds: usize,
    handed: Handed,
    vgemd: Vgemd,
    flags: FlagEcho,
    by_hand: Handover,
    peer: Option<Runner>,
    notes: Vec<String>,
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

impl P2 {
    fn turns(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let mut all: [Times; 4] = Default::default();
        let [line, vgemd, by_hand, word] = &mut all;
        for _ in 0..TURNS {
            self.flags.set(Rest::Awake)?;
            turn(line, self.rounds, || self.flags.round_trip())?;
            // Whoever is not measured sleeps.
            self.flags.set(Rest::Asleep)?;
            self.flags.round_trip()?;
            self.by_hand.set(Rest::Awake, Look::Word)?;
            turn(by_hand, self.rounds, || self.by_hand.word())?;
            self.by_hand.set(Rest::Asleep, Look::Word)?;
            self.by_hand.word()?;
            self.handed.set(Look::Not)?;
            turn(vgemd, self.rounds, || self.handed.hand_over())?;
            self.handed.set(Look::Word)?;
            turn(word, self.rounds, || self.handed.word())?;
        }
        for (name, times) in [LINE, VGEMD, WORD_BY_HAND, WORD].into_iter().zip(all) {
            found.times(name, times);
        }
        Ok(())
    }
}

impl Bench for P2 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        self.flags.seat(&self.cores, Seat::There)?;
        self.by_hand.seat(&self.cores, Seat::There)?;
        self.handed.seat(&self.cores, Seat::There)?;
        self.vgemd.processes()?.seat(&self.cores, Seat::Anywhere, Seat::Anywhere)?;
        self.turns(found)?;
        let rounds = self.rounds * TURNS;
        let measured = self.peer.as_ref().map(|peer| peer.measure("untouched", rounds, LEN, &self.cores));
        if let Some(measured) = measured
            && !note_failure(&mut self.notes, measured.map(|times| found.times(IOX, times)))
        {
            self.peer = None;
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = vec![
            Claim::ratio("P2", VGEMD, LINE, Bound::AtMost(2.5)),
            Claim::tails("P2", VGEMD, LINE, Bound::AtMost(2.0)),
            Claim::ratio("P2", WORD, WORD_BY_HAND, Bound::Shown),
        ];
        if self.peer.is_some() {
            claims.push(Claim::ratio("P2", IOX, LINE, Bound::Shown));
            claims.push(Claim::ratio("P2", VGEMD, IOX, Bound::Shown));
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
