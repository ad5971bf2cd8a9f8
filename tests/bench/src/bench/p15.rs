//! P15: from nothing to ready: connect, an object of 1 MiB, a queue. Beside what a peer needs for the same.
//!
//! iceoryx2 makes a node, a service, its ports and delivers a first sample; Plasma connects, makes an object of 1 MiB and
//! seals it. Both are what a program does there before its first hand-over. The broker and the driver run already, as
//! the store of Plasma does. The target is a time, and it is one of mode D.

use vgem_os::clock;

use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim, JudgedIn};
use crate::sample::Times;
use crate::subject::Vgemd;

/// Bytes of the object.
const LEN: usize = 1 << 20;

/// The series of vgemd.
const READY: &str = "vgemd: connect, object of 1 MiB, queue";
/// The series of iceoryx2.
const IOX: &str = "iceoryx2: node, service, ports, first sample";
/// The series of Plasma.
const PLASMA: &str = "Plasma: connect, object of 1 MiB, sealed";

/// The target, nanoseconds.
const TARGET_NS: f64 = 1.5e6;

/// Starts vgemd; finds the peers.
///
/// # Errors
/// When vgemd cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    // The driver of the device is up before the first client asks, as it is for every client but the first.
    drop(vgemd.client.device("copy")?.queue(0)?);
    let (mut peers, mut notes) = (Vec::new(), Vec::new());
    for (peer, series) in [(Peer::Iceoryx2, IOX), (Peer::Plasma, PLASMA)] {
        match Runner::find(peer) {
            Ok(runner) => peers.push((runner, series)),
            Err(missing) => notes.push(missing.to_string()),
        }
    }
    let rounds = context.options.rounds(50);
    Ok(Box::new(P15 { cores: context.power.cores, rounds, vgemd, peers, notes }))
}

#[derive(Debug)]
struct P15 {
    cores: Cores,
    rounds: usize,
    vgemd: Vgemd,
    peers: Vec<(Runner, &'static str)>,
    notes: Vec<String>,
}

impl Bench for P15 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        let mut ready = Times::default();
        for _ in 0..self.rounds {
            let before = clock::now();
            let client = self.vgemd.embedded.client()?;
            let object = client.create(LEN as u64)?;
            let queue = client.device("copy")?.queue(0)?;
            ready.push(clock::now() - before);
            drop((queue, object, client));
        }
        found.times(READY, ready);
        let (rounds, cores, notes) = (self.rounds, &self.cores, &mut self.notes);
        self.peers.retain(|(runner, series)| {
            note_failure(
                notes,
                runner.measure("setup", rounds, LEN, cores).map(|times| found.times(series, times)),
            )
        });
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims =
            vec![Claim::number("P15", READY, Bound::AtMost(TARGET_NS)).judged_in(JudgedIn::Default)];
        claims.extend(self.peers.iter().map(|(_, series)| Claim::ratio("P15", READY, series, Bound::Shown)));
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
