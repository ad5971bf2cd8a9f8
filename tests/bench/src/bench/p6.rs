//! P6: one device to another, one way: from the signaller's store to the waiter's next instruction.
//!
//! | series | what lies in between |
//! |---|---|
//! | by hand, one way | a swap, a futex |
//! | by fence page, one way | a slot's stores, the look at the interest, a futex, the look at the slot |
//! | device to device | a real driver's engine ends; a completion is noted, the fence signalled; another driver wakes from its doorbells, passes the wait, claims the job, and its engine begins |
//! | the same behind a promise | as before, while the broker, which was told just before that the first one may begin, has a core |
//!
//! The target counts against a futex there and back. Awake, both ends look without pause: a fence page there and back
//! against a flag there and back.

use crate::floor::{FenceEcho, FlagEcho, Rest};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::mode::Mode;
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim};
use crate::sample::Times;
use crate::subject::{Relay, Start, Vgemd};

/// Turns of a repetition.
const TURNS: usize = 8;
/// Round trips per look at the clock while both ends are awake.
const AT_ONCE: u32 = 10;

const ROUND_TRIP: &str = "futex there and back, both asleep";
const BY_HAND: &str = "flag by hand to a sleeper, one way";
const FENCE: &str = "fence page to a sleeper, one way";
const FENCE_BACK: &str = "fence page there and back, both asleep";
const DEVICES: &str = "device to sleeping device, engine to engine";
const PROMISED: &str = "the same, the first one behind a client's promise";
const FLAG_AWAKE: &str = "shared flag there and back, both awake";
const FENCE_AWAKE: &str = "fence page there and back, both awake";
const IOX: &str = "iceoryx2 event there and back, both asleep";

/// Starts vgemd and the other ends.
///
/// # Errors
/// When one cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let cores = context.power.cores;
    let (peer, notes) = match Runner::find(Peer::Iceoryx2) {
        Ok(runner) => (Some(runner), Vec::new()),
        Err(missing) => (None, vec![missing.to_string()]),
    };
    Ok(Box::new(P6 {
        cores,
        may_spin: context.power.mode != Mode::OneCore && cores.are_two(),
        rounds: context.options.rounds(250),
        relay: Relay::new(&vgemd)?,
        vgemd,
        flags: FlagEcho::start()?,
        fences: FenceEcho::start()?,
        peer,
        notes,
    }))
}

#[derive(Debug)]
struct P6 {
    cores: Cores,
    may_spin: bool,
    rounds: usize,
    relay: Relay,
    vgemd: Vgemd,
    flags: FlagEcho,
    fences: FenceEcho,
    peer: Option<Runner>,
    notes: Vec<String>,
}

impl P6 {
    fn asleep(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.flags.set(Rest::Asleep)?;
        self.fences.set(Rest::Asleep)?;
        let mut all: [Times; 6] = Default::default();
        let [round_trip, by_hand, fence, back, devices, promised] = &mut all;
        for _ in 0..TURNS {
            round_trip.each(self.rounds, || self.flags.round_trip())?;
            by_hand.told(self.rounds, || self.flags.one_way())?;
            fence.told(self.rounds, || self.fences.one_way())?;
            back.each(self.rounds, || self.fences.round_trip(0).map(drop))?;
            devices.told(self.rounds / 4 + 1, || self.relay.round(Start::Running))?;
            promised.told(self.rounds / 4 + 1, || self.relay.round(Start::Promised))?;
        }
        let names = [ROUND_TRIP, BY_HAND, FENCE, FENCE_BACK, DEVICES, PROMISED];
        for (name, times) in names.into_iter().zip(all) {
            found.times(name, times);
        }
        Ok(())
    }

    fn awake(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.flags.set(Rest::Awake)?;
        self.fences.set(Rest::Awake)?;
        let (mut flag, mut fence) = (Times::default(), Times::default());
        for _ in 0..TURNS {
            flag.batches(self.rounds, AT_ONCE, || self.flags.round_trip())?;
            fence.batches(self.rounds, AT_ONCE, || self.fences.round_trip(0).map(drop))?;
        }
        found.times(FLAG_AWAKE, flag);
        found.times(FENCE_AWAKE, fence);
        // The other ends go back to sleep, and do not spin beside whatever comes next.
        self.flags.set(Rest::Asleep)?;
        self.fences.set(Rest::Asleep)?;
        self.flags.round_trip()?;
        self.fences.round_trip(0).map(drop)
    }
}

impl Bench for P6 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        self.flags.seat(&self.cores, Seat::There)?;
        self.fences.seat(&self.cores, Seat::There)?;
        self.relay.seat(&self.vgemd, &self.cores, Seat::Here, Seat::There)?;
        self.asleep(found)?;
        if self.may_spin {
            self.awake(found)?;
        }
        let measured =
            self.peer.as_ref().map(|peer| peer.measure("event", self.rounds * TURNS, 64, &self.cores));
        if let Some(measured) = measured
            && !note_failure(&mut self.notes, measured.map(|times| found.times(IOX, times)))
        {
            self.peer = None;
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = vec![
            Claim::ratio("P6", DEVICES, ROUND_TRIP, Bound::AtMost(0.65)),
            Claim::ratio("P6", FENCE, ROUND_TRIP, Bound::AtMost(0.65)),
            Claim::ratio("P6", BY_HAND, ROUND_TRIP, Bound::Shown),
            Claim::ratio("P6", PROMISED, ROUND_TRIP, Bound::Shown),
            Claim::tails("P6", DEVICES, ROUND_TRIP, Bound::AtMost(2.0)),
            Claim::tails("P6", FENCE, BY_HAND, Bound::AtMost(2.0)),
        ];
        if self.may_spin {
            claims.push(Claim::ratio("P6", FENCE_AWAKE, FLAG_AWAKE, Bound::AtMost(2.0)));
            claims.push(Claim::tails("P6", FENCE_AWAKE, FLAG_AWAKE, Bound::AtMost(2.0)));
        }
        if self.peer.is_some() {
            claims.push(Claim::ratio("P6", IOX, FENCE_BACK, Bound::Shown));
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
