//! The main job in one process: the same engines, called by two threads, no broker.
//!
//! ```text
//!   out:  blk read ─ zip compress ─ sec seal ─ blk append       a thread takes a chunk and carries it to its end
//!   back: blk read ─ sec open ─ zip decompress ─ blk read again ─ copy compare
//! ```
//!
//! The engines are those of the drivers, linked in, so the library calls are the same to the letter: same format, same
//! level, same way to the disk, buffers registered once. What is missing is all that vgemd adds: processes, messages,
//! fences, result cells. Frames are appended as they are done, so that no thread ever waits for the other; where each one
//! lies is kept for the way back.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use vgem_driver::proto::describe::{Description, Touch};
use vgem_driver::proto::ids::ObjectKey;
use vgem_driver::{Engine, OperandBytes, Options, ParamValue, Produced, Task, TaskOperand};
use vgem_driver_blk::{Blk, Setup};
use vgem_driver_copy::CopyEngine;
use vgem_driver_sec::SecEngine;
use vgem_driver_zip::ZipEngine;
use vgem_os::clock;
use vgem_os::mapping::Mapping;

/// Threads that carry chunks.
const THREADS: u32 = 2;

/// The zstd level.
const LEVEL: u64 = 3;

/// Bytes by which a sealed chunk is longer than its plaintext.
const SEAL_LEN: u64 = 48;

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// Which way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// As `blk` chooses when nothing is said.
    Auto,
    /// Through the page cache.
    Cached,
}

/// How long each direction took, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// The way out.
    pub pack: u64,
    /// The way back.
    pub unpack: u64,
}

/// The engines, and the buffers of both threads.
#[derive(Debug)]
pub struct InProcess {
    zip: Linked<ZipEngine>,
    sec: Linked<SecEngine>,
    copy: Linked<CopyEngine>,
    blk: Linked<Blk>,
    key: Memory,
    workers: Vec<Worker>,
    chunk: u64,
}

/// An engine and what it says of itself.
#[derive(Debug)]
struct Linked<E> {
    engine: E,
    description: Description,
}

/// The buffers of one thread.
#[derive(Debug)]
struct Worker {
    plain: Memory,
    packed: Memory,
    sealed: Memory,
    again: Memory,
}

/// A buffer, known to `blk` as an object.
#[derive(Debug)]
struct Memory {
    object: ObjectKey,
    mapping: Mapping,
}

/// Where a chunk lies in the packed file.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    offset: u64,
    len: u64,
}

impl InProcess {
    /// The engines, with files allowed below `roots` and chunks of `chunk` bytes.
    ///
    /// # Errors
    /// When a root or memory cannot be had.
    pub fn new(roots: &[&Path], chunk: u64) -> anyhow::Result<Self> {
        let roots = roots.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        let options = Options { roots, ..Options::default() };
        let blk = Blk::new(&Setup { roots: options.roots.clone(), ..Setup::default() })?;
        let mut objects = 1..;
        let mut memory = |len: u64| Memory::new(&mut objects, len, &blk);
        let key = memory(4096)?;
        let bound = chunk + (chunk >> 7) + 1024;
        let workers = (0..THREADS).map(|_| {
            let (plain, packed) = (memory(chunk)?, memory(bound)?);
            Ok(Worker { plain, packed, sealed: memory(bound + SEAL_LEN)?, again: memory(chunk)? })
        });
        let workers = workers.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            zip: Linked::new(ZipEngine::new(&options)),
            sec: Linked::new(SecEngine::new(&options)),
            copy: Linked::new(CopyEngine),
            blk: Linked::new(blk),
            key,
            workers,
            chunk,
        })
    }

    /// Packs the first `len` bytes of `original` into `packed`, and back with a comparison.
    ///
    /// # Errors
    /// When an engine fails, or a byte came back different.
    pub fn run(&self, original: &Path, len: u64, packed: &Path, disk: Disk) -> anyhow::Result<Took> {
        let source = self.open(original, "read", disk)?;
        let target = self.open(packed, "create", disk)?;
        let (pack, frames) = self.carry(len, |worker, chunk, _| {
            let frame = self.pack(worker, source, target, chunk)?;
            Ok((chunk.index, frame))
        })?;
        let reading = self.open(packed, "read", disk)?;
        let mut table = vec![Frame::default(); frames.len()];
        for (index, frame) in frames {
            *table.get_mut(usize::try_from(index)?).context("a chunk beyond the last")? = frame;
        }
        let (unpack, _) = self.carry(len, |worker, chunk, at| {
            let frame = table.get(at).copied().context("a chunk without a frame")?;
            self.unpack(worker, source, reading, chunk, frame)
        })?;
        for file in [source, target, reading] {
            self.blk.step("close", &[], &[("file", ParamValue::Number(file))])?;
        }
        Ok(Took { pack, unpack })
    }

    /// Has the threads take chunks until none is left; the time it took, and what each chunk gave.
    fn carry<T: Send>(
        &self,
        len: u64,
        one: impl Fn(&Worker, Chunk, usize) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<(u64, Vec<T>)> {
        let next = AtomicU64::new(0);
        let before = clock::now();
        let carry = |worker: &Worker| {
            let mut carried = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let offset = index * self.chunk;
                if offset >= len {
                    return anyhow::Ok(carried);
                }
                let chunk = Chunk { index, offset, len: self.chunk.min(len - offset) };
                carried.push(one(worker, chunk, usize::try_from(index)?)?);
            }
        };
        let all = std::thread::scope(|threads| {
            let running: Vec<_> = self.workers.iter().map(|worker| threads.spawn(|| carry(worker))).collect();
            let mut all = Vec::new();
            for thread in running {
                all.extend(thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))?);
            }
            anyhow::Ok(all)
        })?;
        Ok((clock::now() - before, all))
    }

    fn pack(&self, worker: &Worker, source: u64, target: u64, chunk: Chunk) -> anyhow::Result<Frame> {
        self.read(&worker.plain, source, chunk.offset, chunk.len)?;
        let operands = [worker.plain.input(0, chunk.len)?, worker.packed.output(1, worker.packed.len())?];
        let params = [("format", self.zip.word("format", "zstd")?), ("level", ParamValue::Number(LEVEL))];
        let packed = self.zip.step("compress", &operands, &params)?.len;
        let operands = [
            worker.packed.input(0, packed)?,
            worker.sealed.output(1, worker.sealed.len())?,
            self.key.input(2, KEY_LEN as u64)?,
        ];
        let sealed = self.sec.step("seal", &operands, &[])?.len;
        let operands = [worker.sealed.input(0, sealed)?];
        let appended = self.blk.step("append", &operands, &[("file", ParamValue::Number(target))])?;
        Ok(Frame { offset: appended.value, len: sealed })
    }

    fn unpack(
        &self,
        worker: &Worker,
        source: u64,
        reading: u64,
        chunk: Chunk,
        frame: Frame,
    ) -> anyhow::Result<()> {
        self.read(&worker.sealed, reading, frame.offset, frame.len)?;
        let operands = [
            worker.sealed.input(0, frame.len)?,
            worker.packed.output(1, worker.packed.len())?,
            self.key.input(2, KEY_LEN as u64)?,
        ];
        let packed = self.sec.step("open", &operands, &[])?.len;
        let operands = [worker.packed.input(0, packed)?, worker.plain.output(1, chunk.len)?];
        let format = ("format", self.zip.word("format", "zstd")?);
        let plain = self.zip.step("decompress", &operands, &[format])?.len;
        ensure!(plain == chunk.len, "chunk {} came back with {plain} of {} bytes", chunk.index, chunk.len);
        self.read(&worker.again, source, chunk.offset, chunk.len)?;
        let operands = [worker.plain.input(0, chunk.len)?, worker.again.input(1, chunk.len)?];
        let equal = ("require_equal", self.copy.word("require_equal", "yes")?);
        self.copy.step("compare", &operands, &[equal]).map(drop)
    }

    fn read(&self, into: &Memory, file: u64, offset: u64, len: u64) -> anyhow::Result<()> {
        let params = [("file", file), ("offset", offset), ("length", len)];
        let params = params.map(|(name, value)| (name, ParamValue::Number(value)));
        let done = self.blk.step("read", &[into.output(0, into.len())?], &params)?.len;
        ensure!(done == len, "read {done} of {len} bytes at {offset}");
        Ok(())
    }

    fn open(&self, path: &Path, mode: &str, disk: Disk) -> anyhow::Result<u64> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::path::absolute(path)?;
        let direct = match disk {
            Disk::Auto => "auto",
            Disk::Cached => "never",
        };
        let params = [
            ("path", ParamValue::Bytes(path.as_os_str().as_bytes())),
            ("mode", self.blk.word("mode", mode)?),
            ("direct", self.blk.word("direct", direct)?),
        ];
        Ok(self.blk.step("open", &[], &params)?.value)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        // What blk registered with the kernel lies in mappings that end with this.
        for worker in &self.workers {
            for memory in [&worker.plain, &worker.packed, &worker.sealed, &worker.again] {
                self.blk.engine.unmapping(memory.object);
            }
        }
        self.blk.engine.unmapping(self.key.object);
    }
}

/// A piece of the original.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    index: u64,
    offset: u64,
    len: u64,
}

impl Memory {
    fn new(objects: &mut impl Iterator<Item = u32>, len: u64, blk: &Blk) -> anyhow::Result<Self> {
        let index = objects.next().context("numbers do not end")?;
        let mapping = Mapping::anonymous(usize::try_from(len)?)?;
        mapping.populate_write()?;
        let object = ObjectKey { index, generation: 1 };
        blk.mapped(object, mapping.span());
        Ok(Self { object, mapping })
    }

    fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn input(&self, number: u8, len: u64) -> anyhow::Result<TaskOperand<'_>> {
        let span = self.mapping.span().sub(0, usize::try_from(len)?).context("beyond a buffer")?;
        Ok(self.operand(number, OperandBytes::Read(span)))
    }

    fn output(&self, number: u8, len: u64) -> anyhow::Result<TaskOperand<'_>> {
        let span = self.mapping.span_mut()?.sub(0, usize::try_from(len)?).context("beyond a buffer")?;
        Ok(self.operand(number, OperandBytes::Write(span)))
    }

    const fn operand<'a>(&self, number: u8, bytes: OperandBytes<'a>) -> TaskOperand<'a> {
        TaskOperand { number, bytes, object: self.object, offset: 0, foreign: false }
    }
}

impl<E: Engine> Linked<E> {
    fn new(engine: E) -> Self {
        let description = engine.description();
        Self { engine, description }
    }

    /// Runs one operation, with parameters by name and defaults for the others.
    fn step(
        &self,
        op: &str,
        operands: &[TaskOperand<'_>],
        given: &[(&str, ParamValue<'_>)],
    ) -> anyhow::Result<Produced> {
        use vgem_driver::proto::describe::ParamKind;
        let operation = self.description.by_name(op).with_context(|| format!("no operation {op}"))?;
        let touch: Vec<Touch> = operation.operands.iter().map(|operand| operand.touch).collect();
        let params: Vec<ParamValue<'_>> = operation
            .params
            .iter()
            .map(|param| match given.iter().find(|(name, _)| *name == param.name) {
                Some((_, value)) => *value,
                None => match &param.kind {
                    ParamKind::Number { default: Some(value), .. } => ParamValue::Number(*value),
                    ParamKind::Choice { default: Some(place), .. } => ParamValue::Number(u64::from(*place)),
                    _ => ParamValue::Absent,
                },
            })
            .collect();
        let mut task = Task::for_test(operation.number, operands, &params, &touch);
        self.engine.run(&mut task).with_context(|| format!("{} {op}", self.description.name))?;
        Ok(task.produced())
    }

    /// A word of a choice, as the number that stands for it.
    fn word(&self, param: &str, word: &str) -> anyhow::Result<ParamValue<'static>> {
        use vgem_driver::proto::describe::ParamKind;
        let mut params = self.description.operations.iter().flat_map(|operation| &operation.params);
        let place = params.find(|known| known.name == param).and_then(|known| match &known.kind {
            ParamKind::Choice { words, .. } => words.iter().position(|known| known == word),
            _ => None,
        });
        let place = place.with_context(|| format!("{param} has no word {word}"))?;
        Ok(ParamValue::Number(place as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_multiple_of_the_chunk_comes_back_equal() {
        let folder = tempfile::tempdir().expect("a folder");
        let original = folder.path().join("original");
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n.wrapping_mul(n >> 3).to_le_bytes()[1]).collect();
        std::fs::write(&original, &bytes).expect("written");
        let pipeline = InProcess::new(&[folder.path()], 65536).expect("engines");
        let packed = folder.path().join("packed");
        let took = pipeline.run(&original, bytes.len() as u64, &packed, Disk::Cached).expect("all equal");
        assert!(took.pack > 0 && took.unpack > 0);
        assert!(std::fs::metadata(&packed).expect("it is there").len() > 5 * 48);
    }
}
