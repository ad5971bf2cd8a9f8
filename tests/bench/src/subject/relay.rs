//! Two devices, one of which waits for the other: a fill by `copy`, then a checksum of it by `sec`.
//!
//! The fence says when the first engine ended, a result cell when the second one began: what lies between is everything
//! that a real driver does from its engine's last instruction to the other one's first: completion, signal, wake-up, look,
//! claim. The second device sleeps on the fence page by then. Two things keep it waiting so long:
//!
//! | start | the first job | beside the path |
//! |---|---|---|
//! | [`Start::Running`] | is long | nothing: broker and client sleep |
//! | [`Start::Promised`] | is short and waits for a point of this client's timeline | the first device has told the broker that the waits have passed, as it must before such a job begins; so the broker wakes, perhaps on the core of the second device |

use std::time::Duration;

use vgem::{Batch, Buffer, Cells, Fence, FenceState, Op, Point, Queue, Submitted, Timeline};

use super::partner::in_time;
use super::{Kind, PATIENCE, Vgemd};
use crate::machine::{Cores, Seat};
use crate::noise::pause;

/// Bytes that the second job reads.
const LEN: u64 = 64;
/// Bytes that a long first job writes: by then everybody else has slept for long.
const LONG_LEN: u64 = 8 << 20;
/// Until both devices sleep.
const SETTLE: Duration = Duration::from_micros(300);
/// The device that signals.
const FIRST: &str = "copy";
/// The device that waits.
const SECOND: &str = "sec";

/// What the second device waits for while it falls asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A first job that runs for long.
    Running,
    /// A first job that a client's promise keeps.
    Promised,
}

/// The two queues and what their jobs work on.
#[derive(Debug)]
pub struct Relay {
    gate: Timeline,
    opened: Point,
    fill: (Queue, Op),
    sum: (Queue, Op),
    buffer: Buffer,
    cells: Cells,
    batch: Batch,
}

impl Relay {
    /// Opens the queues.
    ///
    /// # Errors
    /// As the client library's requests.
    pub fn new(vgemd: &Vgemd) -> anyhow::Result<Self> {
        let client = &vgemd.client;
        let (copy, sec) = (client.device(FIRST)?, client.device(SECOND)?);
        Ok(Self {
            gate: client.timeline("gate")?,
            opened: Point(0),
            fill: (copy.queue(0)?, copy.op("fill")?),
            sum: (sec.queue(0)?, sec.op("sha256")?),
            buffer: client.create(LONG_LEN)?,
            cells: client.cells(1)?,
            batch: client.batch(),
        })
    }

    /// Puts the device that signals on one seat, the one that waits on another, and the broker anywhere.
    ///
    /// # Errors
    /// When one is gone.
    pub fn seat(&self, vgemd: &Vgemd, cores: &Cores, first: Seat, second: Seat) -> anyhow::Result<()> {
        for process in vgemd.processes()?.all() {
            let seat = match &process.kind {
                Kind::Driver(device) if device == FIRST => first,
                Kind::Driver(device) if device == SECOND => second,
                Kind::Driver(_) | Kind::Broker | Kind::Keeper => Seat::Anywhere,
            };
            cores.seat_process(process.pid, seat)?;
        }
        Ok(())
    }

    /// Runs both jobs; from the end of the first engine to the beginning of the second, nanoseconds.
    ///
    /// # Errors
    /// As the client library's.
    pub fn round(&mut self, start: Start) -> anyhow::Result<u64> {
        let submitted = match start {
            Start::Running => self.submit(LONG_LEN, None)?,
            Start::Promised => {
                self.opened = self.opened.next();
                let gate = self.gate.promise(self.opened, in_time())?;
                let submitted = self.submit(LEN, Some(&gate))?;
                pause(SETTLE);
                self.gate.signal(self.opened)?;
                submitted
            }
        };
        submitted.last().wait(PATIENCE)?;
        let first = submitted.fences().first().map(Fence::state);
        let Some(FenceState::Done { at }) = first else { anyhow::bail!("the fill is {first:?}") };
        Ok(self.cells.read(0).started().since(at))
    }

    /// Submits a fill of `len` bytes, behind `gate`, and the checksum behind it.
    fn submit(&mut self, len: u64, gate: Option<&Fence>) -> anyhow::Result<Submitted> {
        let (queue, op) = &self.fill;
        let fill = self.batch.job(queue, op).output(self.buffer.slice(..len));
        if let Some(gate) = gate {
            fill.after(gate);
        }
        let (queue, op) = &self.sum;
        self.batch.job(queue, op).input(self.buffer.slice(..LEN)).result(self.cells.at(0));
        Ok(self.batch.submit()?)
    }
}
