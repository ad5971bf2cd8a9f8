//! One read, write or append: which way its bytes go, and what its job is told.
//!
//! The crate's essay has the table of ways and the reasons; this is the code of that table. An operand that another
//! domain may write goes through private windows, and the kernel sees only those: it may read twice what it writes
//! (once for the disk and once for a checksum), and look again at what it has read.

use std::cell::RefCell;
use std::sync::PoisonError;

use rustix::io::Errno;
use vgem_driver::mapping::{CopyStyle, copy_span};
use vgem_driver::scratch::{Private, Scratch};
use vgem_driver::{JobError, Staging};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;

use crate::counters::Tally;
use crate::description::FILE_LEN;
use crate::errors::failed;
use crate::ffi::{Memory, cached_pages};
use crate::file::{Direct, OpenFile};
use crate::io::Io;
use crate::pieces::{Order, Outcome, Piece, cut, cut_for_calls, outcome, run_by_calls, run_in_ring};

/// From this length on `auto` goes past the page cache, bytes. Below it read-ahead and write-behind are faster than
/// the disk's answer.
const DIRECT_FROM: usize = 128 * 1024;
/// Bytes of a page of the page cache.
const PAGE_LEN: u64 = 4096;

/// Bytes of a window for operands of another domain: as many pieces as keep a disk busy.
const WINDOW_LEN: usize = 4 * 1024 * 1024;

thread_local! {
    static WINDOW: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// A transfer between a file and an operand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer<'m> {
    pub(crate) io: &'m Io,
    pub(crate) tally: &'m Tally,
    pub(crate) file: &'m OpenFile,
    pub(crate) memory: Memory<'m>,
    /// The object the memory belongs to, if it is one that may be registered.
    pub(crate) object: Option<ObjectKey>,
    /// First byte of the operand in its object.
    pub(crate) object_offset: u64,
    /// Whether the operand itself is read or written, or private memory in its place.
    pub(crate) staging: Staging,
}

/// What a transfer has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Where in the file it began, bytes.
    pub(crate) offset: u64,
    /// Bytes read or written.
    pub(crate) done: usize,
    /// Bytes that were copied through private memory.
    pub(crate) staged: u64,
}

/// How the first part of a transfer goes; the rest always goes through the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Nothing past the page cache.
    Cached,
    /// This many bytes past the page cache.
    Direct(usize),
}

impl Plan {
    /// The same for `len` bytes from `at` on.
    fn of_part(self, at: usize, len: usize) -> Self {
        match self {
            Self::Direct(body) if body > at => Self::Direct(len.min(body - at)),
            Self::Direct(_) | Self::Cached => Self::Cached,
        }
    }
}

impl Transfer<'_> {
    /// Reads until the operand is full or the file ends.
    pub(crate) fn read(&self, offset: u64) -> Result<Moved, JobError> {
        self.check_range(offset)?;
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM || self.in_page_cache(offset)? => Plan::Cached,
            _ => self.plan(offset)?,
        };
        let (outcome, staged) =
            self.in_parts(plan, offset, |part, plan, offset| Ok(part.read_by(plan, offset)))?;
        match outcome.error {
            None => Ok(Moved { offset, done: outcome.done, staged }),
            Some(errno) => Err(self.failed(errno, "read", offset, outcome.done)),
        }
    }

    /// Writes the whole operand.
    pub(crate) fn write(&self, offset: u64) -> Result<Moved, JobError> {
        self.file.check_writable()?;
        self.check_range(offset)?;
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM => Plan::Cached,
            _ => self.plan(offset)?,
        };
        let (outcome, staged) =
            self.in_parts(plan, offset, |part, plan, offset| part.write_by(plan, offset))?;
        self.all_written("write", offset, outcome)?;
        Ok(Moved { offset, done: outcome.done, staged })
    }

    /// Writes the whole operand at the end of the file.
    pub(crate) fn append(&self) -> Result<Moved, JobError> {
        self.file.check_writable()?;
        if !self.file.is_regular() {
            let text = format!("{} is a block device, which has no end to append to", self.file.path());
            return Err(JobError::new(ErrorCode::Unsupported, text));
        }
        let _turn = self.file.appends.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.file.len()?;
        self.check_range(end)?;
        // Past the page cache only as a whole: a tail left in it would make the next append unaligned anyway.
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM => Plan::Cached,
            Direct::Auto => match self.plan(end)? {
                Plan::Direct(body) if body == self.memory.len() => Plan::Direct(body),
                _ => Plan::Cached,
            },
            _ => self.plan(end)?,
        };
        let (outcome, staged) = self.in_parts(plan, end, |part, plan, offset| part.write_by(plan, offset))?;
        let written = self.all_written("append to", end, outcome);
        if written.is_err() && self.file.len()? == end + outcome.done as u64 {
            self.file.truncate(end)?;
        }
        written.map(|()| Moved { offset: end, done: outcome.done, staged })
    }

    /// Does `step` on the operand where it lies, or else on private windows of it, one after the other, each with
    /// its part of the plan and its place in the file. Answers also the bytes staged.
    fn in_parts(
        &self,
        plan: Plan,
        offset: u64,
        step: impl Fn(&Transfer<'_>, Plan, u64) -> Result<Outcome, JobError>,
    ) -> Result<(Outcome, u64), JobError> {
        if self.staging == Staging::InPlace {
            return Ok((step(self, plan, offset)?, 0));
        }
        WINDOW.with_borrow_mut(|scratch| {
            let whole = self.memory.len();
            let window = scratch.at_least(WINDOW_LEN.min(whole))?;
            let (mut outcome, mut staged) = (Outcome { done: 0, error: None }, 0);
            while outcome.done < whole {
                let (at, len) = (outcome.done, WINDOW_LEN.min(whole - outcome.done));
                let private = window.sub(0, len).ok_or_else(JobError::outside)?;
                let part = self.on(private, at)?;
                let step = step(&part, plan.of_part(at, len), offset + at as u64)?;
                staged += self.take_back(private, at, step.done)? as u64;
                outcome = Outcome { done: at + step.done, error: step.error };
                if step.done < len {
                    break;
                }
            }
            Ok((outcome, staged))
        })
    }

    /// The same transfer for a private window in place of the bytes from `at` on. What is to be written is in it.
    fn on<'p>(&self, private: Private<'p>, at: usize) -> Result<Transfer<'p>, JobError>
    where
        Self: 'p,
    {
        let memory = match self.memory {
            Memory::Into(_) => Memory::Into(private.as_span_mut()),
            Memory::From(span) => {
                let len = private.as_span().len();
                let part = span.sub(at, len).ok_or_else(JobError::outside)?;
                copy_span(private.as_span_mut(), part, CopyStyle::Plain)?;
                Memory::From(private.as_span())
            }
        };
        Ok(Transfer { memory, object: None, object_offset: 0, staging: Staging::InPlace, ..*self })
    }

    /// Copies what was read into a window to the operand; answers the bytes that this window was staged for.
    fn take_back(&self, private: Private<'_>, at: usize, done: usize) -> Result<usize, JobError> {
        let Memory::Into(span) = self.memory else { return Ok(private.as_span().len()) };
        let (into, from) = (span.sub(at, done), private.sub(0, done));
        let (Some(into), Some(from)) = (into, from) else { return Err(JobError::outside()) };
        copy_span(into, from.as_span(), CopyStyle::Streaming)?;
        Ok(done)
    }

    fn read_by(&self, plan: Plan, offset: u64) -> Outcome {
        let (order, body) = self.order(offset, plan);
        let mut pieces = Vec::new();
        // Small pieces are for being in flight together.
        let cut = match self.io {
            Io::Rings(_) => cut,
            Io::Calls => cut_for_calls,
        };
        cut(&order, 0, body, true, &mut pieces);
        cut(&order, body, self.memory.len(), false, &mut pieces);
        self.run(&order, pieces)
    }

    fn write_by(&self, plan: Plan, offset: u64) -> Result<Outcome, JobError> {
        let len = self.memory.len();
        let (order, body) = self.order(offset, plan);
        let mut pieces = Vec::new();
        // A ring hands writes that grow the file, and writes to the page cache, to worker threads.
        let grows = body > 0 && self.file.len()? < offset + body as u64;
        if grows {
            cut_for_calls(&order, 0, body, true, &mut pieces);
        } else {
            cut(&order, 0, body, true, &mut pieces);
        }
        cut_for_calls(&order, body, len, false, &mut pieces);
        Ok(self.run(&order, pieces))
    }

    /// What may go past the page cache by the file's policy and by alignment.
    fn plan(&self, offset: u64) -> Result<Plan, JobError> {
        let fitting =
            self.file.direct().filter(|(_, alignment)| alignment.fits_start(offset, self.address()));
        let body = fitting.map_or(0, |(_, alignment)| alignment.body(self.memory.len()));
        match self.file.policy() {
            Direct::Require if body < self.memory.len() => {
                let wanted = self.file.direct().map(|(_, alignment)| alignment);
                let text = format!(
                    "{}: {} bytes at offset {offset} are not aligned for direct I/O: {wanted:?}",
                    self.file.path(),
                    self.memory.len()
                );
                Err(JobError::new(ErrorCode::Unsupported, text))
            }
            Direct::Never => Ok(Plan::Cached),
            Direct::Auto | Direct::Require if body == 0 => Ok(Plan::Cached),
            Direct::Auto | Direct::Require => Ok(Plan::Direct(body)),
        }
    }

    /// Where the bytes lie for the kernel: private windows begin at a page's start.
    fn address(&self) -> usize {
        match self.staging {
            Staging::InPlace => self.memory.address(),
            Staging::Windows => 0,
        }
    }

    /// Whether most of a range is in the page cache, or some of it only there.
    fn in_page_cache(&self, offset: u64) -> Result<bool, JobError> {
        let len = (self.memory.len() as u64).min(self.file.len()?.saturating_sub(offset));
        if len == 0 {
            return Ok(true);
        }
        let cached = cached_pages(self.file.buffered(), offset, len);
        Ok(cached.is_some_and(|pages| pages.dirty > 0 || pages.all.saturating_mul(2 * PAGE_LEN) >= len))
    }

    fn order(&self, offset: u64, plan: Plan) -> (Order<'_>, usize) {
        let (direct, body) = match plan {
            Plan::Cached => (None, 0),
            Plan::Direct(body) => (self.file.direct(), body),
        };
        let order = Order {
            buffered: self.file.buffered(),
            direct,
            may_fall_back: self.file.policy() != Direct::Require,
            memory: self.memory,
            offset,
            slots: self.object.and_then(|object| self.io.slots(object)),
            object_offset: self.object_offset,
        };
        (order, body)
    }

    fn run(&self, order: &Order<'_>, mut pieces: Vec<Piece>) -> Outcome {
        if let Io::Rings(rings) = self.io
            && pieces.iter().any(Piece::is_open)
            && let Some(held) = rings.hold()
        {
            held.with_lane(|lane| run_in_ring(lane, order, &mut pieces, self.tally));
        }
        run_by_calls(order, &mut pieces, self.tally);
        outcome(&pieces)
    }

    fn check_range(&self, offset: u64) -> Result<(), JobError> {
        match offset.checked_add(self.memory.len() as u64) {
            Some(end) if end <= FILE_LEN => Ok(()),
            _ => {
                let text = format!("{} bytes at offset {offset} end behind {FILE_LEN}", self.memory.len());
                Err(JobError::new(ErrorCode::OutOfRange, text))
            }
        }
    }

    fn all_written(&self, verb: &str, offset: u64, outcome: Outcome) -> Result<(), JobError> {
        if outcome.done == self.memory.len() {
            return Ok(());
        }
        let errno = outcome.error.unwrap_or(Errno::IO);
        Err(self.failed(errno, verb, offset, outcome.done))
    }

    fn failed(&self, errno: Errno, verb: &str, offset: u64, done: usize) -> JobError {
        let (path, len) = (self.file.path(), self.memory.len());
        failed(errno, format_args!("{verb} {path} at offset {offset}: {done} of {len} bytes"))
    }
}
