//! The same copy by a tracked job and by a user queue: one process, the same two buffers, the same operation, a wait for
//! each.

use vgem::{Access, Batch, Buffer, Client, Op, OperandKey, Prepared, Queue, UserQueue};

use super::PATIENCE;
use super::partner::in_time;

/// How a copy goes to its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the broker, which orders it.
    Tracked,
    /// By the ring.
    UserQueue,
}

/// Two buffers, and a queue of either kind that copies from one to the other.
#[derive(Debug)]
pub struct BothWays {
    tracked: Queue,
    batch: Batch,
    op: Op,
    operands: (OperandKey, OperandKey),
    user_queue: UserQueue,
    /// Of each length, in the order they were given.
    entries: Vec<(u64, Prepared)>,
    from: Buffer,
    to: Buffer,
}

impl BothWays {
    /// For copies of these lengths.
    ///
    /// # Errors
    /// As the client library's requests.
    pub fn new(client: &Client, lens: &[u64]) -> anyhow::Result<Self> {
        let device = client.device("copy")?;
        let op = device.op("copy")?;
        let operands = (op.operand("input")?, op.operand("output")?);
        let longest = lens.iter().copied().max().unwrap_or(1);
        let (from, to) = (client.create(longest)?, client.create(longest)?);
        from.write(.., PATIENCE)?.fill(1);
        let user_queue = device.user_queue(0)?;
        let (src, dst) = (user_queue.bind(&from, Access::Read)?, user_queue.bind(&to, Access::Write)?);
        let entry = |len: &u64| {
            let (src, dst) = (src.range(..*len), dst.range(..*len));
            Ok((*len, user_queue.entry("copy").input(src).output(dst).prepare()?))
        };
        let entries = lens.iter().map(entry).collect::<anyhow::Result<_>>()?;
        let (tracked, batch) = (device.queue(0)?, client.batch());
        Ok(Self { tracked, batch, op, operands, user_queue, entries, from, to })
    }

    /// Copies as many bytes as the `number`th length says, and waits for it.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn copy(&mut self, number: usize, way: Way) -> anyhow::Result<()> {
        let Some((len, entry)) = self.entries.get(number) else { anyhow::bail!("no such length") };
        match way {
            Way::Tracked => {
                let job = self.batch.job(&self.tracked, &self.op);
                job.operand(self.operands.0, self.from.slice(..*len))
                    .operand(self.operands.1, self.to.slice(..*len));
                Ok(self.batch.submit()?.wait(in_time())?)
            }
            Way::UserQueue => {
                let ticket = self.user_queue.push(entry, in_time())?;
                Ok(self.user_queue.wait(ticket, in_time()).map(drop)?)
            }
        }
    }
}
