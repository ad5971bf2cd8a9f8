//! P1: 1 MiB filled by one client, handed to another, which reads one byte of each page and acknowledges.
//!
//! Nobody looks for it awake: both sleep before, as the fill takes longer than anybody spins. By hand it is two flags and
//! memory that both map; iceoryx2 lends a sample and notifies. Before each repetition plain and streaming stores are
//! tried, and both of ours fill with what is faster where the host has put the cores; iceoryx2 fills by its own call.

use vgem_os::mapping::CopyStyle;

use crate::floor::{Handover, Look, Rest};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim};
use crate::sample::Times;
use crate::subject::{Handed, Vgemd};

/// Bytes handed over.
const LEN: usize = 1 << 20;
/// Turns of a repetition.
const TURNS: usize = 8;
/// Rounds at the start of each turn that are not counted.
const WARM_UP: usize = 4;
/// Rounds that choose the stores.
const TRIES: usize = 16;

const BY_HAND: &str = "1 MiB filled, handed over, read, by hand, asleep";
const VGEMD: &str = "1 MiB filled, handed over, read, by client timelines";
const PLAIN: &str = "the same by hand, plain stores";
const IOX: &str = "the same by iceoryx2, events";

/// Starts vgemd and both pairs.
///
/// # Errors
/// When one cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let (peer, notes) = match Runner::find(Peer::Iceoryx2) {
        Ok(runner) => (Some(runner), Vec::new()),
        Err(missing) => (None, vec![missing.to_string()]),
    };
    Ok(Box::new(P1 {
        cores: context.power.cores,
        rounds: context.options.rounds(100),
        handed: Handed::start(&vgemd, LEN as u64)?,
        vgemd,
        by_hand: Handover::start(LEN)?,
        payload: vec![3; LEN],
        peer,
        notes,
    }))
}

#[derive(Debug)]
struct P1 {
    cores: Cores,
    rounds: usize,
    handed: Handed,
    vgemd: Vgemd,
    by_hand: Handover,
    payload: Vec<u8>,
    peer: Option<Runner>,
    notes: Vec<String>,
}

impl P1 {
    fn turns(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.by_hand.set(Rest::Asleep, Look::Pages)?;
        self.handed.set(Look::Pages)?;
        let style = self.by_hand.faster_style(&self.payload, TRIES)?;
        let (mut by_hand, mut vgemd, mut plain) = (Times::default(), Times::default(), Times::default());
        for _ in 0..TURNS {
            for _ in 0..WARM_UP {
                self.by_hand.round(&self.payload, style)?;
            }
            by_hand.each(self.rounds, || self.by_hand.round(&self.payload, style))?;
            for _ in 0..WARM_UP {
                self.handed.round(&self.payload, style)?;
            }
            vgemd.each(self.rounds, || self.handed.round(&self.payload, style))?;
            plain.each(self.rounds / 4 + 1, || self.by_hand.round(&self.payload, CopyStyle::Plain))?;
        }
        found.times(BY_HAND, by_hand);
        found.times(VGEMD, vgemd);
        found.times(PLAIN, plain);
        Ok(())
    }
}

impl Bench for P1 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        self.by_hand.seat(&self.cores, Seat::There)?;
        self.handed.seat(&self.cores, Seat::There)?;
        self.vgemd.processes()?.seat(&self.cores, Seat::Anywhere, Seat::Anywhere)?;
        self.turns(found)?;
        let measured =
            self.peer.as_ref().map(|peer| peer.measure("handover", self.rounds * TURNS, LEN, &self.cores));
        if let Some(measured) = measured
            && !note_failure(&mut self.notes, measured.map(|times| found.times(IOX, times)))
        {
            self.peer = None;
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = vec![
            Claim::ratio("P1", VGEMD, BY_HAND, Bound::AtMost(1.25)),
            Claim::tails("P1", VGEMD, BY_HAND, Bound::AtMost(2.0)),
            Claim::ratio("P1", BY_HAND, PLAIN, Bound::Shown),
        ];
        if self.peer.is_some() {
            claims.push(Claim::ratio("P1", VGEMD, IOX, Bound::Shown));
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
