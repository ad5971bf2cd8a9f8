//! Small jobs: `copy fill` of 64 bytes, the least that a device can do, so that what is measured is vgemd.

use std::collections::VecDeque;

use vgem::{Batch, Buffer, Client, Fence, Op, OperandKey, Queue};

use super::PATIENCE;

/// Bytes that a job fills.
const FILLED: u64 = 64;

/// Bytes of each object.
pub const OBJECT_LEN: u64 = 4096;

/// Which waits the broker computes for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Those of the objects it names, as usual.
    Implicit,
    /// None: the client orders by itself.
    Explicit,
}

/// A queue of the copy device, and objects for its jobs.
#[derive(Debug)]
pub struct Fills {
    queue: Queue,
    op: Op,
    output: OperandKey,
    objects: Vec<Buffer>,
    batch: Batch,
    waits: Waits,
    turn: usize,
}

impl Fills {
    /// A queue of at most `depth` jobs in flight, whose jobs take turns on `objects` objects.
    ///
    /// # Errors
    /// As the client library's requests.
    pub fn new(client: &Client, objects: usize, depth: u32, waits: Waits) -> anyhow::Result<Self> {
        let device = client.device("copy")?;
        let op = device.op("fill")?;
        let output = op.operand("output")?;
        let queue = device.queue(depth)?;
        let objects = (0..objects.max(1)).map(|_| client.create(OBJECT_LEN)).collect::<Result<_, _>>()?;
        Ok(Self { queue, op, output, objects, batch: client.batch(), waits, turn: 0 })
    }

    /// Writes one more job down.
    fn add(&mut self) {
        let object = &self.objects[self.turn % self.objects.len()];
        self.turn += 1;
        let job = self.batch.job(&self.queue, &self.op);
        let job = job.operand(self.output, object.slice(..FILLED));
        if self.waits == Waits::Explicit {
            job.explicit();
        }
    }

    /// Submits one job.
    ///
    /// # Errors
    /// As [`Batch::submit`].
    #[inline]
    pub fn submit(&mut self) -> anyhow::Result<Fence> {
        self.submit_batch(1)
    }

    /// Submits `jobs` jobs as one message; the fence of the last.
    ///
    /// # Errors
    /// As [`Batch::submit`].
    #[inline]
    pub fn submit_batch(&mut self, jobs: usize) -> anyhow::Result<Fence> {
        for _ in 0..jobs {
            self.add();
        }
        Ok(self.batch.submit()?.last().clone())
    }

    /// Submits one job and waits until the broker has accepted it; its fence.
    ///
    /// # Errors
    /// As [`Batch::submit_acknowledged`].
    #[inline]
    pub fn submit_acknowledged(&mut self) -> anyhow::Result<Fence> {
        self.add();
        Ok(self.batch.submit_acknowledged()?.last().clone())
    }

    /// Submits one job and sleeps until it is done.
    ///
    /// # Errors
    /// As [`Batch::submit`] and [`Fence::wait`].
    #[inline]
    pub fn round_trip(&mut self) -> anyhow::Result<()> {
        Ok(self.submit()?.wait(PATIENCE)?)
    }

    /// Submits `messages` messages of `jobs` jobs each, at most `window` of them unfinished, and waits for all.
    ///
    /// # Errors
    /// As [`Batch::submit`] and [`Fence::wait`].
    pub fn pipeline(&mut self, messages: usize, jobs: usize, window: usize) -> anyhow::Result<()> {
        let mut unfinished = VecDeque::with_capacity(window + 1);
        for _ in 0..messages {
            unfinished.push_back(self.submit_batch(jobs)?);
            // Half a window at a time: waiting for one message per submission would sleep once per submission.
            if unfinished.len() >= window {
                let done = unfinished.drain(..window.div_ceil(2)).next_back();
                done.map_or(Ok(()), |fence: Fence| fence.wait(PATIENCE))?;
            }
        }
        unfinished.pop_back().map_or(Ok(()), |fence| fence.wait(PATIENCE))?;
        Ok(())
    }
}
