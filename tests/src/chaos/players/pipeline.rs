//! Frames through three devices, in one batch: copied, packed, sealed.
//!
//! ```text
//!   frame 0:  copy ──► zip ──► sec ──────────► sent to the partner, if there is one
//!   frame 1:  copy ──► zip ──► sec ◄── after a point of the stage, if there is one
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use vgem::{
    Access, Buffer, BufferOptions, CellWord, Cells, Client, Deadline, Error, Fence, Point, Queue, Submitted,
    Timeline, TimelineToken,
};
use vgem_os::seqpacket::Socket;

use super::super::judge::GATED;
use super::super::words::{End, Record};
use super::{CHAIN, NOTHING, PATIENCE, record};
use crate::samples;

/// What a job of the rounds may take, once it was begun; 80 ms more are configured until it must have begun.
const RUN: Duration = Duration::from_millis(20);
/// Bytes of a frame.
const FRAME: usize = 128 << 10;
/// Frames of a round.
const FRAMES: usize = 2;
/// Devices of the pipeline.
const DEVICES: [&str; 3] = ["copy", "zip", "sec"];

/// What it has on a broker.
#[derive(Debug)]
pub(super) struct Pipeline {
    client: Client,
    queues: BTreeMap<&'static str, Queue>,
    frames: Vec<Frame>,
    key: Buffer,
    cells: Cells,
    /// Of jobs that only try a queue out: no job of a round waits for one of them.
    trial: Cells,
    /// What every frame holds, but for its head.
    text: Vec<u8>,
    /// The stage's timeline, and the last point of it that a job waited for.
    gate: Option<(Timeline, Point)>,
}

/// The buffers of one frame.
#[derive(Debug)]
struct Frame {
    source: Buffer,
    raw: Buffer,
    packed: Buffer,
    sealed: Buffer,
}

impl Pipeline {
    pub(super) fn new(client: Client) -> Result<Self, Error> {
        Ok(Self {
            queues: BTreeMap::new(),
            frames: (0..FRAMES).map(|_| Frame::new(&client)).collect::<Result<_, _>>()?,
            key: client.create(32)?,
            cells: client.cells(2 * FRAMES)?,
            trial: client.cells(1)?,
            text: samples::text(FRAME),
            gate: None,
            client,
        })
    }

    /// From now on waits for this timeline, from its first point on.
    pub(super) fn gate(&mut self, token: [u8; TimelineToken::LEN]) -> Result<(), Error> {
        let timeline = self.client.import_timeline(TimelineToken::from_bytes(token))?;
        self.gate = Some((timeline, Point(0)));
        Ok(())
    }

    /// Makes sure that every queue takes jobs, and opens those anew that do not.
    pub(super) fn prepare(&mut self, round: u64, mend: bool) -> Result<(), Error> {
        if mend {
            let end = Deadline::after(PATIENCE);
            for device in DEVICES {
                while let Err(error) = self.try_out(device) {
                    self.queues.remove(device);
                    if end.passed() {
                        return Err(error);
                    }
                }
            }
        }
        for (number, frame) in self.frames.iter_mut().enumerate() {
            let mut source = frame.source.write(.., PATIENCE)?;
            source.copy_from_slice(&self.text);
            let head = head(round, number);
            source[..head.len()].copy_from_slice(&head);
            drop(source);
            if number == 0 {
                // One of its own for each round, for the consumer keeps it for a while.
                let options = BufferOptions::new().name(round.to_string());
                frame.sealed = self.client.create_with(2 * FRAME as u64, &options)?;
            }
        }
        Ok(())
    }

    /// Has a device do something small on the queue that there is, or on a new one.
    fn try_out(&mut self, device: &'static str) -> Result<(), Error> {
        if !self.queues.contains_key(device) {
            self.queues.insert(device, self.client.device(device)?.queue(0)?);
        }
        let (queue, frame) = (&self.queues[device], &self.frames[0]);
        let mut batch = self.client.batch();
        // Its end may not have been told when its driver is struck, and then a round's first job is behind it.
        match device {
            "copy" => drop(batch.job(queue, "fill").output(&frame.raw).timeout(RUN)),
            "zip" => {
                let small = frame.source.slice(..64);
                drop(batch.job(queue, "compress").input(small).output(&frame.packed).timeout(RUN));
            }
            _ => {
                let small = frame.source.slice(..64);
                drop(batch.job(queue, "sha256").input(small).result(self.trial.at(0)).timeout(RUN));
            }
        }
        batch.submit_acknowledged()?.wait(PATIENCE)?;
        Ok(())
    }

    /// One batch: every frame through all devices.
    fn submit(&self) -> Result<Submitted, Error> {
        let mut batch = self.client.batch();
        for (number, frame) in self.frames.iter().enumerate() {
            let (packed, sealed) = (self.cells.at(2 * number), self.cells.at(2 * number + 1));
            batch.job(&self.queues["copy"], "copy").input(&frame.source).output(&frame.raw).timeout(RUN);
            let compress = batch.job(&self.queues["zip"], "compress").input(&frame.raw).output(&frame.packed);
            compress.param("format", "zstd").param("level", 1).result(packed).timeout(RUN);
            let seal = batch.job(&self.queues["sec"], "seal");
            let seal = seal.input_from(&frame.packed, packed, CellWord::Produced).output(&frame.sealed);
            let seal = seal.operand("key", &self.key).result(sealed).timeout(RUN);
            if let (GATED, Some((timeline, point))) = (number, &self.gate) {
                // Whether it was promised already is a matter of luck.
                drop(seal.after(&timeline.point(*point).promised_by(CHAIN)));
            }
        }
        batch.submit()
    }

    pub(super) fn produce(&mut self, round: u64, partner: &Socket) -> Vec<Record> {
        if let Some((_, point)) = &mut self.gate {
            *point = point.next();
        }
        // The partner is not to wait for what does not come; it may be gone.
        let nothing = || drop(partner.send(NOTHING, &[]));
        let mut told = false;
        let records = self.frames_through(round, |stage| {
            let sealed = &stage.frames[0].sealed;
            let sent = record("send", || sealed.send(partner, Access::Read, PATIENCE));
            if sent.end != End::Done {
                nothing();
            }
            told = true;
            vec![sent, record("guard", || sealed.read(.., PATIENCE).map(drop))]
        });
        if !told {
            nothing();
        }
        records
    }

    pub(super) fn work(&self, round: u64) -> Vec<Record> {
        self.frames_through(round, |stage| {
            vec![record("guard", || stage.frames[1].sealed.read(.., PATIENCE).map(drop))]
        })
    }

    /// Submits, waits for every fence in a thread of its own, and meanwhile does something else.
    fn frames_through(&self, round: u64, meanwhile: impl FnOnce(&Self) -> Vec<Record>) -> Vec<Record> {
        let mut submitted = None;
        let mut records = vec![record("submit", || self.submit().map(|batch| submitted = Some(batch)))];
        let Some(submitted) = submitted else { return records };
        let begun_ns = records[0].begun_ns;
        std::thread::scope(|scope| {
            let wait = |(number, fence): (usize, &Fence)| {
                let fence = fence.clone();
                let what = format!("{} {}", DEVICES[number % 3], number / 3);
                scope.spawn(move || Record { begun_ns, ..record(&what, || fence.wait(PATIENCE)) })
            };
            let waits: Vec<_> = submitted.fences().iter().enumerate().map(wait).collect();
            records.extend(meanwhile(self));
            records.extend(waits.into_iter().map(|wait| wait.join().expect("a wait ends")));
        });
        if records.iter().all(|record| record.end == End::Done) {
            records.push(self.inspect(round));
        }
        records
    }

    /// Where everything went well, the bytes are right.
    fn inspect(&self, round: u64) -> Record {
        record("bytes", || {
            for (number, frame) in self.frames.iter().enumerate() {
                let (raw, head) = (frame.raw.read(.., PATIENCE)?, head(round, number));
                let (first, rest) = raw.split_at(head.len());
                if first != head || rest != &self.text[head.len()..] {
                    return Err(Error::Protocol(format!("frame {number} of round {round} was not copied")));
                }
                let (packed, sealed) = (self.cells.read(2 * number), self.cells.read(2 * number + 1));
                if packed.produced() == 0 || sealed.produced() != packed.produced() + 48 {
                    return Err(Error::Protocol(format!("frame {number}: {packed:?} sealed as {sealed:?}")));
                }
            }
            Ok(())
        })
    }
}

impl Frame {
    fn new(client: &Client) -> Result<Self, Error> {
        let (frame, room) = (FRAME as u64, 2 * FRAME as u64);
        Ok(Self {
            source: client.create(frame)?,
            raw: client.create(frame)?,
            packed: client.create(room)?,
            sealed: client.create(room)?,
        })
    }
}

/// What a frame begins with: no two are the same.
fn head(round: u64, frame: usize) -> Vec<u8> {
    [round.to_le_bytes(), (frame as u64).to_le_bytes()].concat()
}
