//! One read, write or append: which way its bytes go, and what its job is told.
//!
//! The crate's essay has the table of ways and the reasons; this is the code of that table.

use std::sync::PoisonError;

use rustix::io::Errno;
use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;

use crate::counters::Tally;
use crate::description::FILE_LEN;
use crate::errors::{failed, refused};
use crate::ffi::{Memory, cached_pages};
use crate::file::{Direct, OpenFile};
use crate::io::Io;
use crate::pieces::{Order, Outcome, Piece, cut, cut_for_calls, outcome, run_by_calls, run_in_ring};

/// From this length on `auto` goes past the page cache, bytes. Below it read-ahead and write-behind are faster than
/// the disk's answer.
const DIRECT_FROM: usize = 128 * 1024;
/// Bytes of a page of the page cache.
const PAGE_LEN: u64 = 4096;

/// A transfer between a file and an operand.
#[derive(Debug)]
pub(crate) struct Transfer<'m> {
    pub(crate) io: &'m Io,
    pub(crate) tally: &'m Tally,
    pub(crate) file: &'m OpenFile,
    pub(crate) memory: Memory<'m>,
    pub(crate) object: ObjectKey,
    /// First byte of the operand in its object.
    pub(crate) object_offset: u64,
    /// Whether another domain may write the operand meanwhile.
    pub(crate) foreign: bool,
}

/// How the first part of a transfer goes; the rest always goes through the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Nothing past the page cache.
    Cached,
    /// This many bytes past the page cache.
    Direct(usize),
}

impl Transfer<'_> {
    /// Reads until the operand is full or the file ends; returns the bytes read.
    pub(crate) fn read(&self, offset: u64) -> Result<usize, JobError> {
        self.check_range(offset)?;
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM || self.in_page_cache(offset)? => Plan::Cached,
            _ => self.plan(offset)?,
        };
        let (order, body) = self.order(offset, plan);
        let mut pieces = Vec::new();
        // Small pieces are for being in flight together.
        let cut = match self.io {
            Io::Rings(_) => cut,
            Io::Calls => cut_for_calls,
        };
        cut(&order, 0, body, true, &mut pieces);
        cut(&order, body, self.memory.len(), false, &mut pieces);
        let outcome = self.run(&order, pieces);
        match outcome.error {
            None => Ok(outcome.done),
            Some(errno) => Err(self.failed(errno, "read", offset, outcome.done)),
        }
    }

    /// Writes the whole operand.
    pub(crate) fn write(&self, offset: u64) -> Result<(), JobError> {
        self.file.check_writable()?;
        self.check_range(offset)?;
        // The device could read bytes that another domain changes once for the data and once for a checksum of the
        // file system; the page cache takes a copy first.
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM || self.foreign => Plan::Cached,
            _ => self.plan(offset)?,
        };
        let outcome = self.write_by(plan, offset)?;
        self.all_written("write", offset, outcome)
    }

    /// Writes the whole operand at the end of the file; returns where that was.
    pub(crate) fn append(&self) -> Result<u64, JobError> {
        self.file.check_writable()?;
        if !self.file.is_regular() {
            let text = format!("{} is a block device, which has no end to append to", self.file.path());
            return Err(refused(ErrorCode::Unsupported, text));
        }
        let _turn = self.file.appends.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.file.len()?;
        self.check_range(end)?;
        // Past the page cache only as a whole: a tail left in it would make the next append unaligned anyway.
        let plan = match self.file.policy() {
            Direct::Auto if self.memory.len() < DIRECT_FROM || self.foreign => Plan::Cached,
            Direct::Auto => match self.plan(end)? {
                Plan::Direct(body) if body == self.memory.len() => Plan::Direct(body),
                _ => Plan::Cached,
            },
            _ => self.plan(end)?,
        };
        let outcome = self.write_by(plan, end)?;
        let written = self.all_written("append to", end, outcome);
        if written.is_err() && self.file.len()? == end + outcome.done as u64 {
            self.file.truncate(end)?;
        }
        written.map(|()| end)
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
        let fitting = self.file.direct().filter(|(_, alignment)| alignment.fits_start(offset, &self.memory));
        let body = fitting.map_or(0, |(_, alignment)| alignment.body(self.memory.len()));
        match self.file.policy() {
            Direct::Require if body < self.memory.len() => {
                let wanted = self.file.direct().map(|(_, alignment)| alignment);
                let text = format!(
                    "{}: {} bytes at offset {offset} are not aligned for direct I/O: {wanted:?}",
                    self.file.path(),
                    self.memory.len()
                );
                Err(refused(ErrorCode::Unsupported, text))
            }
            Direct::Never => Ok(Plan::Cached),
            Direct::Auto | Direct::Require if body == 0 => Ok(Plan::Cached),
            Direct::Auto | Direct::Require => Ok(Plan::Direct(body)),
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
            slots: self.io.slots(self.object),
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
                Err(refused(ErrorCode::OutOfRange, text))
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
