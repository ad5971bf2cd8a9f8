//! Two devices, one of which waits for the other: a fill by `copy`, then a checksum of it by `sec`.
//!
//! The second device's job lies in its queue, waits for the first one's fence, and the device sleeps on the fence page.
//! Result cells say when the first engine ended and when the second one began; so what lies between is everything that
//! a real driver does from its engine's last instruction to the other one's first: completion, signal, wake-up, look,
//! claim.

use vgem::{Batch, Buffer, Cells, Op, Queue};

use super::{Kind, PATIENCE, Vgemd};
use crate::machine::{Cores, Seat};

/// Bytes of a fill: long enough for the other device to have gone to sleep.
const LONG: u64 = 4 << 20;
/// Bytes of them that the second job reads.
const READ: u64 = 64;
/// The device that signals.
const FIRST: &str = "copy";
/// The device that waits.
const SECOND: &str = "sec";

/// The two queues and what their jobs work on.
#[derive(Debug)]
pub struct Relay {
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
            fill: (copy.queue(0)?, copy.op("fill")?),
            sum: (sec.queue(0)?, sec.op("sha256")?),
            buffer: client.create(LONG)?,
            cells: client.cells(2)?,
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
        let (queue, op) = &self.fill;
        self.batch.job(queue, op).output(&self.buffer);
        let (queue, op) = &self.sum;
        let job = self.batch.job(queue, op).input(self.buffer.slice(..READ));
        job.result(self.cells.at(1));
        let submitted = self.batch.submit()?;
        submitted.last().wait(PATIENCE)?;
        let first = submitted.fences().first().map(vgem::Fence::state);
        let Some(vgem::FenceState::Done { at }) = first else { anyhow::bail!("the fill is {first:?}") };
        Ok(self.cells.read(1).started().since(at))
    }
}
