//! What a run holds on to: devices, queues, open files and the buffers of each lane.
//!
//! A **lane** carries one chunk at a time, so as many chunks are in flight as there are lanes. It has a queue of its
//! own on each device, since a queue runs one job after the other, and its own buffers, since a buffer that two
//! chunks used would make one wait for the other. Appending is the exception: all lanes share one queue there, whose
//! order is the order of the frames in the packed file.

use std::path::Path;
use std::time::Duration;

use vgem::{Buffer, CellWord, Cells, Client, Deadline, Queue};

use crate::args::Args;
use crate::source::Source;

/// Longest that any one step of the demo may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes by which a sealed chunk is longer than its plaintext: header and tag.
const SEAL_LEN: u64 = 32 + 16;

/// What a chunk of `len` bytes is at most when compressed, by the format's own bound, and a little more.
fn packed_bound(len: u64) -> u64 {
    len + (len >> 7) + 1024
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) blk: Queue,
    pub(crate) zip: Queue,
    pub(crate) sec: Queue,
    pub(crate) copy: Queue,
    /// The original file, as the lane's blk queue knows it.
    pub(crate) original: u64,
    /// The packed file, as the lane's blk queue knows it; 0 until the way back.
    pub(crate) packed_file: u64,
    pub(crate) plain: Buffer,
    pub(crate) packed: Buffer,
    pub(crate) sealed: Buffer,
    pub(crate) again: Buffer,
    pub(crate) cells: Cells,
}

/// The appending queue and its file.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) blk: Queue,
    pub(crate) file: u64,
}

/// What both directions share.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) client: Client,
    pub(crate) chunk: u64,
    pub(crate) chunks: u64,
    pub(crate) len: u64,
    pub(crate) level: u64,
    pub(crate) sealing: bool,
    pub(crate) key: Buffer,
    /// Where each frame lies in the packed file: its append job's cell.
    pub(crate) frames: &'a Cells,
    pub(crate) lanes: Vec<Lane>,
}

impl<'a> Stage<'a> {
    /// Opens everything that the way out needs; `frames` has a cell per chunk.
    pub(crate) fn open(
        client: Client,
        args: &Args,
        source: &Source,
        key: &[u8],
        frames: &'a Cells,
    ) -> vgem::Result<Self> {
        let chunk = args.chunk_kib << 10;
        let chunks = frames.len() as u64;
        let key_buffer = client.create(4096)?;
        key_buffer.write(..32, Deadline::after(PATIENCE))?.copy_from_slice(key);
        let count = u64::from(args.lanes).min(chunks);
        let lanes =
            (0..count).map(|_| Lane::open(&client, chunk, &source.path)).collect::<vgem::Result<_>>()?;
        Ok(Self {
            chunk,
            chunks,
            len: source.len,
            level: args.level,
            sealing: !args.plain,
            key: key_buffer,
            frames,
            lanes,
            client,
        })
    }

    /// The lane that carries chunk `index`.
    pub(crate) fn lane(&self, index: u64) -> &Lane {
        let at = usize::try_from(index % self.lanes.len() as u64).unwrap_or(0);
        &self.lanes[at]
    }

    /// Bytes of chunk `index` of the original.
    pub(crate) fn chunk_len(&self, index: u64) -> u64 {
        self.chunk.min(self.len - index * self.chunk)
    }

    /// Makes the packed file, empty, and the queue that appends to it.
    pub(crate) fn appender(&self, path: &Path) -> vgem::Result<Appender> {
        let blk = self.client.device("blk")?.queue(0)?;
        let file = open(&self.client, &blk, path, "create")?;
        Ok(Appender { blk, file })
    }

    /// Opens the packed file in every lane, for the way back.
    pub(crate) fn open_packed(&mut self, path: &Path) -> vgem::Result<()> {
        for lane in &mut self.lanes {
            lane.packed_file = open(&self.client, &lane.blk, path, "read")?;
        }
        Ok(())
    }
}

impl Lane {
    fn open(client: &Client, chunk: u64, original: &Path) -> vgem::Result<Self> {
        let queue = |device: &str| client.device(device)?.queue(0);
        let blk = queue("blk")?;
        let original = open(client, &blk, original, "read")?;
        let packed = packed_bound(chunk);
        Ok(Self {
            zip: queue("zip")?,
            sec: queue("sec")?,
            copy: queue("copy")?,
            original,
            packed_file: 0,
            plain: client.create(chunk)?,
            packed: client.create(packed)?,
            sealed: client.create(packed + SEAL_LEN)?,
            again: client.create(chunk)?,
            cells: client.cells(5)?,
            blk,
        })
    }
}

/// Opens a file on a queue; the number by which that queue knows it.
fn open(client: &Client, queue: &Queue, path: &Path, mode: &str) -> vgem::Result<u64> {
    let cells = client.cells(1)?;
    let mut batch = client.batch();
    let job = batch.job(queue, "open").param("path", path).param("mode", mode).result(cells.at(0)).id();
    let opened = batch.submit()?;
    if let Some(fence) = opened.fence(job) {
        fence.wait(Deadline::after(PATIENCE))?;
    }
    Ok(cells.read(0).value())
}

/// The word of a cell that says how many bytes a job made.
pub(crate) const MADE: CellWord = CellWord::Produced;
