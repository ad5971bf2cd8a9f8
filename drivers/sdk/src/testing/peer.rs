//! Objects in real shared memory, and what another holder does to them while a job runs.
//!
//! ```text
//!   Shared ──instance's mapping──► operands of the job
//!          ──export──────────────► the holder: writes, flips bits, punches holes
//! ```

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use vgem_os::mapping::{Mapping, PAGE, Populate, Span, SpanMut};
use vgem_os::memory::{Access, HugePages, ObjectMemory};

use super::content::Random;
use crate::engine::OperandBytes;

/// How long [`beside`] goes on.
const EACH: Duration = Duration::from_millis(150);
/// Jobs that [`beside`] runs at least.
const RUNS: u64 = 3;

/// An object as an instance has it mapped, and as another holder has it.
#[derive(Debug)]
pub struct Shared {
    memory: ObjectMemory,
    instance: Mapping,
    export: OwnedFd,
}

impl Shared {
    /// An object of `len` bytes, all zeros, mapped and populated as an instance does it.
    ///
    /// # Panics
    /// If the system has no memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let memory = ObjectMemory::create(len.max(1) as u64, HugePages::None, "test").expect("an object");
        let export = memory.export(Access::Write).expect("an export");
        let instance =
            Mapping::map(export.as_fd(), len.max(1), Access::Write, Populate::Now).expect("a mapping");
        Self { memory, instance, export }
    }

    /// An object that holds these bytes.
    ///
    /// # Panics
    /// As [`Shared::new`].
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let shared = Self::new(bytes.len());
        shared.put(bytes);
        shared
    }

    /// The memory behind it.
    #[must_use]
    pub const fn memory(&self) -> &ObjectMemory {
        &self.memory
    }

    /// The instance's mapping.
    #[must_use]
    pub const fn mapping(&self) -> &Mapping {
        &self.instance
    }

    /// All of it, for reading and writing.
    ///
    /// # Panics
    /// Never: it is mapped for writing.
    #[must_use]
    pub fn span(&self) -> SpanMut<'_> {
        self.instance.span_mut().expect("mapped for writing")
    }

    /// All of it, as an operand to read.
    #[must_use]
    pub fn input(&self) -> OperandBytes<'_> {
        OperandBytes::Read(self.span().as_span())
    }

    /// All of it, as an operand to write.
    #[must_use]
    pub fn output(&self) -> OperandBytes<'_> {
        OperandBytes::Write(self.span())
    }

    /// Its bytes now.
    ///
    /// # Panics
    /// Never: they are all there.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes_of(self.span().as_span())
    }

    /// Writes its first bytes.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn put(&self, bytes: &[u8]) {
        self.span().copy_from(0, bytes).expect("they fit");
    }

    /// Takes pages away, as any holder of a read-write export can; whoever reads them next reads zeros.
    ///
    /// # Panics
    /// If the range is not inside.
    pub fn punch(&self, at: usize, len: usize) {
        let hole = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
        fallocate(&self.export, hole, at as u64, len as u64).expect("holders may punch");
    }

    /// Takes a few pages away, anywhere.
    ///
    /// # Panics
    /// As [`Shared::punch`].
    pub fn punch_somewhere(&self, random: &mut Random) {
        let pages = self.instance.len().div_ceil(PAGE);
        let at = random.below(pages);
        self.punch(at * PAGE, (1 + random.below(8.min(pages - at))) * PAGE);
    }
}

fn bytes_of(span: Span<'_>) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    span.copy_to(0, &mut bytes).expect("all of it");
    bytes
}

/// Longest run of bytes that is changed at once.
const RUN_LEN: usize = 512;

/// Changes a few bytes anywhere in `memory`, or a run of them: to one value, or to noise.
///
/// # Panics
/// Never: it stays inside.
pub fn flip(memory: SpanMut<'_>, random: &mut Random) {
    if memory.is_empty() {
        return;
    }
    let value = random.number().to_le_bytes()[0];
    let run: [u8; RUN_LEN] = match random.below(2) {
        0 => [value; RUN_LEN],
        _ => std::array::from_fn(|_| random.number().to_le_bytes()[0]),
    };
    let at = random.below(memory.len());
    let longest = if random.below(4) == 0 { RUN_LEN } else { 4 };
    let len = (1 + random.below(longest)).min(memory.len() - at);
    memory.copy_from(at, run.get(..len).unwrap_or_default()).expect("inside");
}

/// Writes a run of one of two contents to its place in `memory`: what is there is always a [`is_mix`] of both.
///
/// # Panics
/// If the three have not the same length.
pub fn write_either(memory: SpanMut<'_>, contents: [&[u8]; 2], random: &mut Random) {
    let at = random.below(memory.len());
    let len = RUN_LEN.min(memory.len() - at);
    let run = contents[random.below(2)].get(at..at + len).expect("contents as long as the memory");
    memory.copy_from(at, run).expect("inside");
}

/// Whether each byte is that of one of two contents.
#[must_use]
pub fn is_mix(bytes: &[u8], [one, other]: [&[u8]; 2]) -> bool {
    let each = bytes.iter().zip(one.iter().zip(other));
    bytes.len() == one.len()
        && one.len() == other.len()
        && each.into_iter().all(|(b, (x, y))| b == x || b == y)
}

/// How the jobs of [`beside`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Well.
    pub ok: u64,
    /// With an error.
    pub failed: u64,
}

/// Runs `job` again and again, while another thread does `harm` again and again: at least three jobs, for at least
/// 150 ms, each beside some harm. A job answers whether it ended well.
pub fn beside(mut harm: impl FnMut(&mut Random) + Send, mut job: impl FnMut() -> bool) -> Verdicts {
    let (stop, harms) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Also when the job panics: the scope waits for this thread.
            let mut random = Random::new(7);
            while !stop.load(Ordering::Relaxed) {
                harm(&mut random);
                harms.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stops = Stop(&stop);
        let (mut verdicts, end) = (Verdicts::default(), Instant::now() + EACH);
        while verdicts.ok + verdicts.failed < RUNS || Instant::now() < end {
            let seen = harms.load(Ordering::Relaxed);
            match job() {
                true => verdicts.ok += 1,
                false => verdicts.failed += 1,
            }
            while harms.load(Ordering::Relaxed) == seen {
                std::thread::yield_now();
            }
        }
        verdicts
    })
}

/// Ends the other thread, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
