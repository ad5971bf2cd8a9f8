//! Peers: 1 MiB from one process to another, which reads one byte of each page and acknowledges; both asleep before.
//!
//! | series | does the same job? |
//! |---|---|
//! | by hand: memory mapped once, a fence there, a fence back | yes: the limit |
//! | iceoryx2, event-driven | yes |
//! | iceoryx2, spinning | the same hand-over, but both processes burn a core while they wait |
//! | Plasma | yes, from Python; a new object each time, as its objects cannot change |
//! | vgemd: a tracked job of a device that reads one byte of each page | the same hand-over through the broker, which checks and tracks it; between clients, by the fence alone, is P1 |
//! | a tracked job of 64 bytes and an event of iceoryx2 | no: context for what a wake-up costs in each |

use vgem::{Batch, Buffer, Client, Op, Queue};
use vgem_os::mapping::CopyStyle;

use crate::floor::Handover;
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::mode::Mode;
use crate::peer::{Peer, Runner, note_failure};
use crate::report::{Bound, Claim};
use crate::sample::Times;
use crate::subject::{Fills, PATIENCE, Vgemd, Waits};

/// Bytes handed over.
const LEN: usize = 1 << 20;

/// Bytes of a page.
const PAGE: usize = 4096;

/// The series by hand.
const BY_HAND: &str = "1 MiB handed over by hand, asleep (same job)";
/// The series of vgemd.
const VGEMD: &str = "1 MiB handed over by a tracked job (same job, tracked)";
/// The series of iceoryx2, asleep.
const IOX: &str = "1 MiB handed over by iceoryx2, events (same job)";
/// The series of iceoryx2, spinning.
const IOX_SPINNING: &str = "1 MiB handed over by iceoryx2, spinning (burns two cores)";
/// The series of Plasma.
const PLASMA: &str = "1 MiB handed over by Plasma, Python (same job)";
/// The series of a small job.
const SMALL: &str = "tracked job of 64 B (context only)";
/// The series of an event.
const EVENT: &str = "iceoryx2 event there and back (context only)";

/// Starts vgemd and the hand-written version; finds the peers.
///
/// # Errors
/// When vgemd or the hand-written version cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let (mut peers, mut notes) = (Vec::new(), Vec::new());
    for peer in [Peer::Iceoryx2, Peer::Plasma] {
        match Runner::find(peer) {
            Ok(runner) => peers.push((peer, runner)),
            Err(missing) => notes.push(missing.to_string()),
        }
    }
    Ok(Box::new(Peers {
        cores: context.power.cores,
        may_spin: context.power.mode != Mode::OneCore && context.power.cores.are_two(),
        rounds: context.options.rounds(500),
        fills: Fills::new(&vgemd.client, 1, 0, Waits::Implicit)?,
        pages: Pages::new(&vgemd.client)?,
        vgemd,
        by_hand: Handover::start(LEN)?,
        payload: vec![3; LEN],
        peers,
        notes,
    }))
}

#[derive(Debug)]
struct Peers {
    cores: Cores,
    may_spin: bool,
    rounds: usize,
    fills: Fills,
    pages: Pages,
    vgemd: Vgemd,
    by_hand: Handover,
    payload: Vec<u8>,
    peers: Vec<(Peer, Runner)>,
    notes: Vec<String>,
}

/// Jobs that read one byte of each page of a buffer.
#[derive(Debug)]
struct Pages {
    queue: Queue,
    op: Op,
    buffer: Buffer,
    bytes: Buffer,
    batch: Batch,
}

impl Pages {
    fn new(client: &Client) -> anyhow::Result<Self> {
        let device = client.device("copy")?;
        let (op, queue) = (device.op("copy2d")?, device.queue(0)?);
        let (buffer, bytes) = (client.create(LEN as u64)?, client.create(PAGE as u64)?);
        Ok(Self { queue, op, buffer, bytes, batch: client.batch() })
    }

    fn round(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.buffer.copy_in(0, payload, PATIENCE)?;
        let rows = (LEN / PAGE) as u64;
        let job = self.batch.job(&self.queue, &self.op).input(&self.buffer).inout(self.bytes.slice(..rows));
        let job = job.param("width", 1u64).param("height", rows);
        job.param("src_stride", PAGE as u64).param("dst_stride", 1u64);
        Ok(self.batch.submit()?.last().wait(PATIENCE)?)
    }
}

impl Peers {
    fn measure_peer(&self, peer: Peer, runner: &Runner, found: &mut Repetition) -> anyhow::Result<()> {
        let mut run = |what, series| {
            runner.measure(what, self.rounds, LEN, &self.cores).map(|times| found.times(series, times))
        };
        match peer {
            Peer::Iceoryx2 => {
                run("handover", IOX)?;
                run("event", EVENT)?;
                if self.may_spin {
                    run("handover-spinning", IOX_SPINNING)?;
                }
                Ok(())
            }
            Peer::Plasma => run("handover", PLASMA),
        }
    }
}

impl Bench for Peers {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        // As the peers: the one that fills on one core, the one that reads on the other.
        self.vgemd.processes()?.seat(&self.cores, Seat::There, Seat::There)?;
        self.by_hand.seat(&self.cores, Seat::There)?;
        let (mut by_hand, mut tracked, mut small) = (Times::default(), Times::default(), Times::default());
        for _ in 0..4 {
            by_hand.each(self.rounds / 4 + 1, || self.by_hand.round(&self.payload, CopyStyle::Plain))?;
            tracked.each(self.rounds / 4 + 1, || self.pages.round(&self.payload))?;
            small.each(self.rounds / 4 + 1, || self.fills.round_trip())?;
        }
        found.times(BY_HAND, by_hand);
        found.times(VGEMD, tracked);
        found.times(SMALL, small);
        let mut peers = std::mem::take(&mut self.peers);
        peers.retain(|(peer, runner)| {
            let measured = self.measure_peer(*peer, runner, found);
            note_failure(&mut self.notes, measured)
        });
        self.peers = peers;
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let has = |wanted| self.peers.iter().any(|(peer, _)| *peer == wanted);
        let mut claims = vec![Claim::ratio("-", VGEMD, BY_HAND, Bound::Shown)];
        if has(Peer::Iceoryx2) {
            claims.push(Claim::ratio("-", VGEMD, IOX, Bound::Shown));
            claims.push(Claim::ratio("-", SMALL, EVENT, Bound::Shown));
        }
        if has(Peer::Plasma) {
            claims.push(Claim::ratio("-", VGEMD, PLASMA, Bound::Shown));
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
