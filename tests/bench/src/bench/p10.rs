//! P10: a pipeline of three processes, each of which copies a frame into memory of the next, four frames under way.
//!
//! Every side is the same three stages on the same cores (the ends on one, the middle on the other), with the same
//! copies. By hand it is three flags; vgemd's stages are three clients, each of which signals a timeline and waits for
//! another's, and the broker must not run once meanwhile; through sockets the bytes are copied twice more per hop. Before
//! each size, every side tries plain and streaming stores, and by hand also a spin before each sleep, and keeps what is
//! fastest just then: so no side is held to what only suits another's cores.

use vgem_os::mapping::CopyStyle;

use crate::floor::{Rest, Stages, Transport};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::ns_f64;
use crate::subject::{Kind, Process, Vgemd, stages};

/// Turns of a repetition.
const TURNS: usize = 4;

/// Frames by their name: bytes, frames of a turn.
const FRAMES: [(&str, usize, usize); 3] =
    [("empty frames", 0, 4000), ("frames of 64 KiB", 64 << 10, 2500), ("frames of 1 MiB", 1 << 20, 500)];

/// The sides, as series are called.
const BY_HAND: &str = "by flags";
const VGEMD: &str = "by client timelines";
const SOCKETS: &str = "by copy through sockets";
const IOX: &str = "by iceoryx2, events";

/// The series of how often the broker ran meanwhile.
const BROKER: &str = "wake-ups of the broker while frames go by client timelines";

fn series(frames: &str, side: &str) -> String {
    format!("pipeline of three, {frames}, {side}")
}

/// Starts vgemd and all stages.
///
/// # Errors
/// When one cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let (peer, notes) = match Runner::find(Peer::Iceoryx2) {
        Ok(runner) => (Some(runner), Vec::new()),
        Err(missing) => (None, vec![missing.to_string()]),
    };
    Ok(Box::new(P10 {
        cores: context.power.cores,
        frames: FRAMES.map(|(name, len, frames)| (name, len, context.options.rounds(frames))),
        by_hand: Side::of(Stages::start(Transport::Flags)?, &[Rest::Asleep, Rest::Brief]),
        timelines: Side::of(stages::start(&vgemd)?, &[Rest::Asleep]),
        sockets: Side::of(Stages::start(Transport::Sockets)?, &[Rest::Asleep]),
        vgemd,
        peer,
        notes,
    }))
}

#[derive(Debug)]
struct P10 {
    cores: Cores,
    frames: [(&'static str, usize, usize); 3],
    by_hand: Side,
    timelines: Side,
    sockets: Side,
    vgemd: Vgemd,
    peer: Option<Runner>,
    notes: Vec<String>,
}

/// Three stages, and how they do best.
#[derive(Debug)]
struct Side {
    stages: Stages,
    ways: Vec<(CopyStyle, Rest)>,
    best: (CopyStyle, Rest),
    frames: f64,
    seconds: f64,
}

impl Side {
    fn of(stages: Stages, rests: &[Rest]) -> Self {
        let with = |style| rests.iter().map(move |rest| (style, *rest));
        let ways = [CopyStyle::Plain, CopyStyle::Streaming].into_iter().flat_map(with).collect();
        Self { stages, ways, best: (CopyStyle::Plain, Rest::Asleep), frames: 0.0, seconds: 0.0 }
    }

    /// Finds the fastest way for frames of this length, by a few of them in each.
    fn choose(&mut self, len: usize, frames: usize) -> anyhow::Result<()> {
        let mut best = 0.0;
        for way in self.ways.clone() {
            let rate = self.stages.run(frames as u64, len, way.0, way.1)?;
            if rate > best {
                (best, self.best) = (rate, way);
            }
        }
        (self.frames, self.seconds) = (0.0, 0.0);
        Ok(())
    }

    fn turn(&mut self, len: usize, frames: usize) -> anyhow::Result<()> {
        let rate = self.stages.run(frames as u64, len, self.best.0, self.best.1)?;
        self.frames += 1.0;
        self.seconds += 1.0 / rate;
        Ok(())
    }

    /// Frames per second over all turns: each has as many frames.
    fn rate(&self) -> f64 {
        self.frames / self.seconds
    }
}

impl P10 {
    fn sides(&mut self) -> [(&mut Side, &'static str); 3] {
        [(&mut self.by_hand, BY_HAND), (&mut self.timelines, VGEMD), (&mut self.sockets, SOCKETS)]
    }

    /// How often the broker was switched to until now.
    fn broker_switches(&self) -> anyhow::Result<u64> {
        let processes = self.vgemd.processes()?;
        processes.all().iter().filter(|one| one.kind == Kind::Broker).map(Process::switches).sum()
    }

    fn measure_peer(&mut self, name: &str, len: usize, frames: usize, found: &mut Repetition) {
        let Some(peer) = &self.peer else { return };
        let measured = peer.measure("pipeline", frames * TURNS, len, &self.cores).map(|times| {
            // One number: nanoseconds from frame to frame.
            if let Some(ns) = times.median() {
                found.number(&series(name, IOX), Unit::PerSecond, 1e9 / ns);
            }
        });
        if !note_failure(&mut self.notes, measured) {
            self.peer = None;
        }
    }
}

impl Bench for P10 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Anywhere)?;
        // The broker has nothing to do here; were it in the way, it would be on the path.
        self.vgemd.processes()?.seat(&self.cores, Seat::Anywhere, Seat::Anywhere)?;
        let cores = self.cores;
        for (side, _) in self.sides() {
            side.stages.seat(&cores, Seat::Here, Seat::There)?;
        }
        let mut woken = 0;
        for (name, len, frames) in self.frames {
            for (side, _) in self.sides() {
                side.choose(len, frames / 4 + 1)?;
            }
            for _ in 0..TURNS {
                self.by_hand.turn(len, frames)?;
                let before = self.broker_switches()?;
                self.timelines.turn(len, frames)?;
                woken += self.broker_switches()? - before;
                self.sockets.turn(len, frames)?;
            }
            for (side, way) in self.sides() {
                found.number(&series(name, way), Unit::PerSecond, side.rate());
            }
            self.measure_peer(name, len, frames, found);
        }
        found.number(BROKER, Unit::Count, ns_f64(woken));
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = vec![Claim::number("P10", BROKER, Bound::AtMost(0.0)).judged_in(JudgedIn::Any)];
        for (name, len, _) in FRAMES {
            let [hand, ours, sockets, iox] = [BY_HAND, VGEMD, SOCKETS, IOX].map(|side| series(name, side));
            claims.push(Claim::ratio("P10", &ours, &hand, Bound::AtLeast(0.85)));
            let over_sockets = if len == 0 { Bound::Shown } else { Bound::AtLeast(2.5) };
            claims.push(Claim::ratio("P10", &ours, &sockets, over_sockets).judged_in(JudgedIn::Far));
            if self.peer.is_some() {
                claims.push(Claim::ratio("P10", &ours, &iox, Bound::Shown));
            }
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
