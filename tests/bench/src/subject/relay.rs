//! Two devices, one of which waits for the other: a fill by `copy`, then a checksum of it by `sec`.
//!
//! Both jobs are submitted and both devices asleep before anything happens: the first job waits for a point of this
//! client's timeline. Once that is signalled the first device runs its job and signals, and the second device, which
//! sleeps on the fence page, runs its own. The fence says when the first engine ended, a result cell when the second one
//! began: what lies between is everything that a real driver does from its engine's last instruction to the other one's
//! first: completion, signal, wake-up, look, claim.

use std::time::Duration;

use vgem::{Batch, Buffer, Cells, Fence, FenceState, Op, Point, Queue, Timeline};

use super::partner::in_time;
use super::{Kind, OBJECT_LEN, PATIENCE, Vgemd};
use crate::machine::{Cores, Seat};
use crate::noise::pause;

/// Bytes that the first job writes and the second one reads.
const LEN: u64 = 64;
/// Until both devices sleep.
const SETTLE: Duration = Duration::from_micros(300);
/// The device that signals.
const FIRST: &str = "copy";
/// The device that waits.
const SECOND: &str = "sec";

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
            buffer: client.create(OBJECT_LEN)?,
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
    pub fn round(&mut self) -> anyhow::Result<u64> {
        self.opened = self.opened.next();
        let gate = self.gate.promise(self.opened, in_time())?;
        let (queue, op) = &self.fill;
        self.batch.job(queue, op).output(self.buffer.slice(..LEN)).after(&gate);
        let (queue, op) = &self.sum;
        self.batch.job(queue, op).input(self.buffer.slice(..LEN)).result(self.cells.at(0));
        let submitted = self.batch.submit()?;
        pause(SETTLE);
        self.gate.signal(self.opened)?;
        submitted.last().wait(PATIENCE)?;
        let first = submitted.fences().first().map(Fence::state);
        let Some(FenceState::Done { at }) = first else { anyhow::bail!("the fill is {first:?}") };
        Ok(self.cells.read(0).started().since(at))
    }
}
