//! The two directions, chunk by chunk.
//!
//! Out: `blk read → zip compress → sec seal → blk append`. Back: `blk read → sec open → zip decompress → copy compare`
//! against the original, which `blk` reads again meanwhile. A chunk is one batch, that is one message; how long its
//! compressed form is only the devices know, which read it from each other's result cells. The client looks at a chunk
//! once, when its last job has ended, to start the next one on that lane.

use std::time::Instant;

use anyhow::{Context as _, anyhow};
use vgem::{Cell, CellWord, Deadline, Fence};

use crate::lanes::{Appender, MADE, PATIENCE, Stage};
use crate::trace::{Slice, Trace};

/// How often a direction may be begun again after a device was lost.
const RETRIES: u32 = 3;

/// A chunk under way.
#[derive(Debug)]
struct Flight {
    chunk: u64,
    last: Fence,
}

/// One direction's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    pub(crate) wakeups: u64,
    /// When the first chunk had ended.
    pub(crate) first: Option<Instant>,
}

/// Runs a direction: submits chunks lane by lane, waits for the oldest, calls `landed` for each.
fn fly(
    stage: &Stage<'_>,
    submit: impl Fn(u64) -> vgem::Result<Fence>,
    mut landed: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Passed> {
    let before = stage.client.counters();
    let start = Instant::now();
    let mut first = None;
    let mut flying = std::collections::VecDeque::with_capacity(stage.lanes.len());
    let mut next = 0;
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && next < stage.chunks && flying.len() < stage.lanes.len() {
            flying.push_back(Flight { chunk: next, last: submit(next)? });
            next += 1;
        }
        let Some(flight) = flying.pop_front() else { break };
        let ended = flight.last.wait(Deadline::after(PATIENCE));
        first.get_or_insert_with(Instant::now);
        // The first failure is the one to tell; what flies behind it still has to land.
        if outcome.is_ok() {
            outcome = match ended {
                Ok(()) => landed(flight.chunk),
                Err(e) => Err(vgem::Error::from(e)).with_context(|| format!("chunk {}", flight.chunk)),
            };
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = stage.client.counters();
    outcome.map(|()| Passed {
        seconds,
        messages: after.messages_sent - before.messages_sent,
        wakeups: after.wakeups - before.wakeups,
        first,
    })
}

/// The way out.
pub(crate) fn pack(
    stage: &Stage<'_>,
    appender: &Appender,
    trace: &mut Trace,
    tick: impl Fn(u64),
) -> anyhow::Result<Passed> {
    let submit = |chunk: u64| -> vgem::Result<Fence> {
        let lane = stage.lane(chunk);
        let (len, offset) = (stage.chunk_len(chunk), chunk * stage.chunk);
        let mut batch = stage.client.batch();
        let read = batch.job(&lane.blk, "read").output(lane.plain.slice(..len)).param("file", lane.original);
        read.param("offset", offset).result(lane.cells.at(0));
        let compress =
            batch.job(&lane.zip, "compress").input_from(lane.plain.slice(..len), lane.cells.at(0), MADE);
        compress
            .output(&lane.packed)
            .param("format", "zstd")
            .param("level", stage.level)
            .result(lane.cells.at(1));
        let (frame, cell) = match stage.sealing {
            true => {
                let seal = batch.job(&lane.sec, "seal").input_from(&lane.packed, lane.cells.at(1), MADE);
                let key = stage.key.slice(..32);
                seal.output(&lane.sealed).operand("key", key).result(lane.cells.at(2));
                (&lane.sealed, lane.cells.at(2))
            }
            false => (&lane.packed, lane.cells.at(1)),
        };
        let append = batch.job(&appender.blk, "append").input_from(frame, cell, MADE);
        append.param("file", appender.file).result(frame_cell(stage, chunk));
        Ok(batch.submit()?.last().clone())
    };
    fly(stage, submit, |chunk| {
        let cells = &stage.lane(chunk).cells;
        let mut chain =
            vec![slice("blk", "read", chunk, cells.read(0)), slice("zip", "compress", chunk, cells.read(1))];
        if stage.sealing {
            chain.push(slice("sec", "seal", chunk, cells.read(2)));
        }
        chain.push(slice("blk", "append", chunk, frame_cell(stage, chunk).read()));
        trace.add(chain);
        tick(stage.chunk_len(chunk));
        Ok(())
    })
}

/// The way back.
pub(crate) fn unpack(stage: &Stage<'_>, trace: &mut Trace, tick: impl Fn(u64)) -> anyhow::Result<Passed> {
    let submit = |chunk: u64| -> vgem::Result<Fence> {
        let lane = stage.lane(chunk);
        let (len, offset) = (stage.chunk_len(chunk), chunk * stage.chunk);
        let frame = frame_cell(stage, chunk);
        let mut batch = stage.client.batch();
        let framed = if stage.sealing { &lane.sealed } else { &lane.packed };
        let read = batch.job(&lane.blk, "read").output(framed).param("file", lane.packed_file);
        let read = read.param_from("offset", frame, CellWord::Value, i64::MAX.unsigned_abs());
        read.param_from("length", frame, MADE, framed.len()).result(lane.cells.at(0));
        let packed_cell = match stage.sealing {
            true => {
                let open = batch.job(&lane.sec, "open").input_from(&lane.sealed, lane.cells.at(0), MADE);
                let key = stage.key.slice(..32);
                open.output(&lane.packed).operand("key", key).result(lane.cells.at(1));
                lane.cells.at(1)
            }
            false => lane.cells.at(0),
        };
        let decompress = batch.job(&lane.zip, "decompress").input_from(&lane.packed, packed_cell, MADE);
        decompress.output(lane.plain.slice(..len)).param("format", "zstd").result(lane.cells.at(2));
        let again = batch.job(&lane.blk, "read").output(lane.again.slice(..len)).param("file", lane.original);
        again.param("offset", offset).result(lane.cells.at(3));
        let compare =
            batch.job(&lane.copy, "compare").input_from(lane.plain.slice(..len), lane.cells.at(2), MADE);
        compare
            .input_from(lane.again.slice(..len), lane.cells.at(3), MADE)
            .param("require_equal", "yes")
            .result(lane.cells.at(4));
        Ok(batch.submit()?.last().clone())
    };
    fly(stage, submit, |chunk| {
        let cells = &stage.lane(chunk).cells;
        let compared = cells.read(4);
        if compared.produced() != stage.chunk_len(chunk) {
            let (equal, len) = (compared.produced(), stage.chunk_len(chunk));
            return Err(anyhow!("chunk {chunk}: only {equal} of {len} bytes were compared"));
        }
        let mut chain = vec![slice("blk", "read", chunk, cells.read(0))];
        if stage.sealing {
            chain.push(slice("sec", "open", chunk, cells.read(1)));
        }
        chain.push(slice("zip", "decompress", chunk, cells.read(2)));
        chain.push(slice("copy", "compare", chunk, compared));
        trace.add(chain);
        trace.join(slice("blk", "read again", chunk, cells.read(3)));
        tick(stage.chunk_len(chunk));
        Ok(())
    })
}

fn frame_cell<'a>(stage: &Stage<'a>, chunk: u64) -> vgem::CellRef<'a> {
    stage.frames.at(usize::try_from(chunk).unwrap_or(usize::MAX))
}

fn slice(device: &'static str, op: &'static str, chunk: u64, cell: Cell) -> Slice {
    let (started, ended) = (cell.started().0, cell.ended().0);
    Slice { device, op, chunk, started, ended, produced: cell.produced() }
}

/// Runs `attempt` until it succeeds, fails for another reason than a lost device, or has been begun too often.
/// Returns the result and how often it was begun again.
pub(crate) fn with_retries<T>(
    retry: bool,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, u32)> {
    let mut again = 0;
    loop {
        match attempt() {
            Ok(done) => return Ok((done, again)),
            Err(e) if retry && again < RETRIES && is_lost(&e) => again += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Whether an error says that a device went away, so that a new try may succeed.
fn is_lost(error: &anyhow::Error) -> bool {
    use vgem::ErrorCode::{Cancelled, DeviceLost, Gone, Refused, TimedOut, Unavailable};
    error.chain().any(|cause| match cause.downcast_ref::<vgem::Error>() {
        Some(vgem::Error::Job(job)) => {
            matches!(job.code, Cancelled | DeviceLost | Gone | Refused | TimedOut)
        }
        Some(vgem::Error::Refused(refusal)) => matches!(refusal.code, Gone | Unavailable),
        _ => false,
    })
}
