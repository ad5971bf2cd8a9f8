//! Errors, sorted by blame: the request was refused, a job failed, time ran out, the broker is gone, or the
//! call itself was wrong and nothing was sent.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use vgem_os::OsError;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, Handle, Point};
use vgem_proto::rights::TimelineRights;

use crate::explain::Explanation;
use crate::obstacle::OTHERS;
use crate::transfer::TransferError;
use crate::user_queue::{EntryFailure, QueueEnd};
use crate::waitable::PointKind;

/// What every fallible function of this crate returns, unless its documentation says otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker refused the request. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An accepted job failed.
    #[error(transparent)]
    Job(Box<JobFailure>),
    /// An entry of a user queue failed. The queue goes on.
    #[error(transparent)]
    Entry(Box<EntryFailure>),
    /// A user queue takes no more entries, and what had not completed has failed.
    #[error(transparent)]
    QueueOver(Box<QueueEnd>),
    /// There is no room in a user queue; nothing was submitted. Take what has ended, or wait longer.
    #[error(
        "{device}: the user queue has no more {lacks}: {under_way} entries are under way and {untaken} have ended and \
         were not taken, of {depth} at most"
    )]
    QueueFull {
        /// The device.
        device: Arc<str>,
        /// What there was not enough of: slots for entries, or room in the arena.
        lacks: &'static str,
        /// Entries that have not ended.
        under_way: usize,
        /// Entries that have ended and that nobody has taken.
        untaken: usize,
        /// How many both may be together.
        depth: u32,
    },
    /// The deadline passed first. What was waited for goes on.
    #[error("{what}: the deadline passed")]
    Timeout {
        /// What was waited for.
        what: &'static str,
    },
    /// The connection to the broker ended. Whatever was in flight is lost.
    #[error("the broker is gone: {why}")]
    BrokerLost {
        /// How it was noticed.
        why: String,
    },
    /// No broker could be reached.
    #[error("{}", NotRunning(.tried))]
    NotRunning {
        /// Where it was looked for, and what was found there.
        tried: Vec<Tried>,
    },
    /// The call was wrong, and nothing was sent.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The kernel refused something this process needs.
    #[error(transparent)]
    System(#[from] OsError),
    /// The broker broke the protocol. Its fault, and this connection is of no more use.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// What came over a socket from another process is no buffer.
    #[error("receiving a buffer: {0}")]
    Transfer(#[from] TransferError),
    /// An embedded broker did not start.
    #[error("{0}")]
    Embedded(String),
}

impl Error {
    /// The code, if the broker or a driver gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Job(failure) => Some(failure.code),
            Self::Entry(failure) => Some(failure.code),
            Self::QueueOver(end) => Some(end.code),
            _ => None,
        }
    }
}

impl From<FenceError> for Error {
    fn from(e: FenceError) -> Self {
        match e {
            FenceError::Failed(failure) => Self::Job(failure),
            FenceError::Timeout { .. } => Self::Timeout { what: "waiting for a fence" },
            FenceError::BrokerLost { why } => Self::BrokerLost { why },
            FenceError::Request(error) => *error,
        }
    }
}

/// A place where a broker was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The socket's path.
    pub path: PathBuf,
    /// What happened there.
    pub why: String,
}

struct NotRunning<'a>(&'a [Tried]);

impl fmt::Display for NotRunning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no broker answers")?;
        for (number, tried) in self.0.iter().enumerate() {
            let lead = if number == 0 { ": tried " } else { ", " };
            write!(f, "{lead}{} ({})", tried.path.display(), tried.why)?;
        }
        f.write_str("; start one with `vgemd --user`, or name its socket in VGEM_SOCKET")
    }
}

/// Why a fence was not waited for to a good end.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The job failed.
    #[error(transparent)]
    Failed(Box<JobFailure>),
    /// The deadline passed first. What was waited for goes on.
    #[error("{device}: {kind} {} is not done at the deadline", .point.0)]
    Timeout {
        /// The device the job runs on, or the timeline.
        device: Arc<str>,
        /// What the point stands for.
        kind: PointKind,
        /// The point.
        point: Point,
    },
    /// The broker is gone, and the job was not done by then.
    #[error("the broker is gone: {why}")]
    BrokerLost {
        /// How it was noticed.
        why: String,
    },
    /// What had to be asked before the wait was refused, or could not be asked: nobody has promised the point, the
    /// right to wait is missing.
    #[error(transparent)]
    Request(Box<Error>),
}

/// Why several fences were not waited for to a good end: which of them it was.
#[derive(Debug, Clone, thiserror::Error)]
#[error("fence {index}: {error}")]
pub struct NthError {
    /// Its place among those that were given.
    pub index: usize,
    /// What became of its wait.
    pub error: FenceError,
}

impl From<NthError> for FenceError {
    fn from(e: NthError) -> Self {
        e.error
    }
}

impl From<NthError> for Error {
    fn from(e: NthError) -> Self {
        e.error.into()
    }
}

impl From<Error> for FenceError {
    fn from(e: Error) -> Self {
        match e {
            Error::Job(failure) => Self::Failed(failure),
            Error::BrokerLost { why } => Self::BrokerLost { why },
            other => Self::Request(Box::new(other)),
        }
    }
}

impl From<LocalError> for FenceError {
    fn from(e: LocalError) -> Self {
        Error::from(e).into()
    }
}

/// How a job failed, or a point of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// The device it was sent to; of another client's job the one where it began, if that is known. Of a point the
    /// timeline.
    pub device: Arc<str>,
    /// Which of them it is.
    pub kind: PointKind,
    /// Its point on its queue; 0 of another client's job that is not known.
    pub point: Point,
    /// What went wrong with this job.
    pub code: ErrorCode,
    /// Where it began; jobs that failed because of each other share it.
    pub cause: CauseId,
    /// What is behind the cause, if the broker could tell.
    pub explanation: Option<Arc<Explanation>>,
}

impl JobFailure {
    /// The same failure, with what is behind it. Of another client's job that is also where to read which one it was.
    pub(crate) fn explained(mut self, explanation: Option<Arc<Explanation>>) -> Self {
        if *self.device == *OTHERS
            && self.point == Point(0)
            && let Some(told) = &explanation
        {
            self.device = told.device.as_deref().map_or(self.device, Into::into);
            self.point = told.point.unwrap_or(self.point);
        }
        self.explanation = explanation;
        self
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} failed: {}", self.device, self.kind, self.point.0, self.code)?;
        if self.cause != CauseId::NONE {
            write!(f, " ({})", self.cause)?;
        }
        match &self.explanation {
            Some(explanation) => write!(f, ": {explanation}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for JobFailure {}

/// A call that was wrong in itself. Nothing was sent and nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The batch does not fit one message.
    #[error("a batch of {len} bytes does not fit one message of {limit} bytes; submit it in parts")]
    BatchTooLarge {
        /// Bytes of the message it would be.
        len: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// More of something than a batch or a job may have.
    #[error("{count} {what}, the limit is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The batch has no job.
    #[error("the batch has no job")]
    EmptyBatch,
    /// The device has no such operation.
    #[error("{device} has no operation {name:?}; it has {}", .known.join(", "))]
    NoSuchOperation {
        /// The device.
        device: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The operation has no such operand, or none left of this direction.
    #[error("{op} has no {asked}; its operands are {}", .known.join(", "))]
    NoSuchOperand {
        /// The operation.
        op: String,
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The operation has no such parameter.
    #[error("{op} has no parameter {name:?}; it has {}", .known.join(", "))]
    NoSuchParam {
        /// The operation.
        op: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The value does not suit the parameter.
    #[error("parameter {name:?} of {op}: {why}")]
    BadValue {
        /// The operation.
        op: String,
        /// The parameter.
        name: String,
        /// What is wrong, with the value and the limit.
        why: String,
    },
    /// No device of this name.
    #[error("no device {name:?}; there are {}", .known.join(", "))]
    NoSuchDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The range leaves the buffer.
    #[error("bytes {offset}..{} leave a buffer of {available} bytes", .offset.saturating_add(*.len))]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of the buffer.
        available: u64,
    },
    /// A guard of this process is held over bytes that are asked for otherwise.
    #[error("bytes {offset}..{} of a buffer are under a guard; drop it first", .offset.saturating_add(*.len))]
    GuardHeld {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A stage of this process holds bytes that a job is to use before the stage has ended.
    #[error(
        "bytes {offset}..{} of a buffer are under a stage; have the job come `after` its point {}, and not run anyway",
        .offset.saturating_add(*.len), .point.0
    )]
    StageHeld {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The point that the stage ends with.
        point: Point,
    },
    /// A job is to use bytes that somebody has on loan.
    #[error(
        "bytes {offset}..{} of a buffer are on loan until {until}; wait for that, or have the job come after it",
        .offset.saturating_add(*.len)
    )]
    Lent {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The timeline that says when they are returned.
        until: String,
    },
    /// A loan that is to be returned before an earlier one of the same series.
    #[error(
        "{series}: returning loan {} would say that loan {} is returned too, for points of one timeline are signalled in \
         order; return that first, or give each buffer a release timeline of its own (`Buffer::lend`)",
        .point.0, .first.0
    )]
    OutOfOrder {
        /// The series.
        series: String,
        /// The loan that was to be returned.
        point: Point,
        /// The first one that is not.
        first: Point,
    },
    /// A queue, buffer or fence of another client.
    #[error("the {what} belongs to another client")]
    Foreign {
        /// Which of them.
        what: &'static str,
    },
    /// A job waits for itself or for a later job of its batch.
    #[error("job {job} of the batch cannot wait for job {waits_for}, which does not come before it")]
    NotBefore {
        /// The job that was to wait, by its place.
        job: usize,
        /// The job it was to wait for.
        waits_for: usize,
    },
    /// The buffer is for reading only.
    #[error("{handle} is for reading only: {why}")]
    ReadOnly {
        /// Which buffer.
        handle: Handle,
        /// Why.
        why: &'static str,
    },
    /// Adopted memory cannot be given back now.
    #[error(
        "{handle} is named by a batch that was not submitted, by another buffer of the same object, or bound to a user \
         queue; drop or unbind that first"
    )]
    StillUsed {
        /// Which buffer.
        handle: Handle,
    },
    /// A point that does not grow.
    #[error("{timeline}: point {} is not above {}, which was promised or signalled: points only grow", .point.0, .last.0)]
    NotNewer {
        /// The timeline.
        timeline: String,
        /// The point.
        point: Point,
        /// The last one before.
        last: Point,
    },
    /// A wait for a point that nobody has promised.
    #[error(
        "{timeline}: nobody has promised point {} (promised up to {}); wait for its promise first, or wait with promised_by",
        .point.0, .promised.0
    )]
    NotPromised {
        /// The timeline.
        timeline: String,
        /// The point.
        point: Point,
        /// The last one that was promised, as far as is known.
        promised: Point,
    },
    /// The handle of a timeline does not allow it.
    #[error("{timeline}: this handle allows {}, not {}", rights(*.has), rights(*.needs))]
    NoRight {
        /// The timeline.
        timeline: String,
        /// What it takes.
        needs: TimelineRights,
        /// What there is.
        has: TimelineRights,
    },
    /// The right to signal a timeline cannot be passed on any more.
    #[error(
        "{timeline}: SIGNAL is passed on only before anything was promised or signalled, and point {} was", .point.0
    )]
    InUse {
        /// The timeline.
        timeline: String,
        /// The last point promised or signalled.
        point: Point,
    },
    /// An entry names addresses at which nothing is bound, or not all of them by one binding.
    #[error("nothing is bound to {len} bytes at {address:#x}{}", beside(.nearest.as_ref()))]
    NotBound {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
        /// What is bound next to it.
        nearest: Option<Range<u64>>,
    },
    /// An entry is to write memory of this process that is neither bound nor lent, or not all of it together.
    #[error(
        "{len} bytes at {address:#x} are neither bound nor lent to the queue: nothing may be written there"
    )]
    NotLent {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// This process may not open its own memory: it has changed users, or given up being dumpable.
    #[error(
        "this process may not open /proc/self/mem: it has changed users or is not dumpable (prctl PR_SET_DUMPABLE), and no \
         device can reach its memory"
    )]
    NotDumpable,
    /// The queue was opened without [`crate::Sva`], or without the right to write.
    #[error("nobody can {asked} this queue: open it with UserQueueOptions::sva (Sva::ReadWrite to write)")]
    NoSva {
        /// What was asked.
        asked: &'static str,
    },
    /// An entry is to write what is bound for reading.
    #[error("{len} bytes at {address:#x} are bound for reading only: bind them with Access::Write")]
    BoundForReading {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// Something is bound there.
    #[error(
        "{len} bytes at {address:#x} overlap what is bound at {:#x}..{:#x}: unbind that first", .taken.start, .taken.end
    )]
    AlreadyBound {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
        /// What is bound there.
        taken: Range<u64>,
    },
    /// A binding is to go that unfinished entries name.
    #[error(
        "{uses} operands of entries under way are in the {len} bytes at {address:#x}: wait for them first"
    )]
    BindingUsed {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
        /// How many operands.
        uses: u32,
    },
    /// A range that begins at address 0, or leaves the address space.
    #[error("{len} bytes at {address:#x} are no range of addresses")]
    BadAddress {
        /// The first address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// An operand of a length that the operation does not take.
    #[error("operand {operand:?} of {op}: {len} bytes, it takes {least} to {most}")]
    OperandLen {
        /// The operation.
        op: String,
        /// The operand.
        operand: String,
        /// Bytes.
        len: u64,
        /// The fewest it takes.
        least: u64,
        /// The most it takes.
        most: u64,
    },
    /// Plain memory that is only to be read was given where an operation writes.
    #[error("operand {operand:?} of {op} is written, and these bytes are only to be read")]
    OnlyReadable {
        /// The operation.
        op: String,
        /// The operand.
        operand: String,
    },
    /// An operand or a parameter is missing.
    #[error("{op} needs {what}")]
    Missing {
        /// The operation.
        op: String,
        /// What is missing.
        what: String,
    },
    /// An operand or a parameter was given before.
    #[error("{op}: {what} was given before")]
    GivenTwice {
        /// The operation.
        op: String,
        /// What was given.
        what: String,
    },
    /// A ticket, a binding or a prepared entry of another user queue.
    #[error("the {what} is of another user queue")]
    OtherQueue {
        /// Which of them.
        what: &'static str,
    },
    /// An entry that cannot be in a batch.
    #[error("entry {index} of the batch {why}")]
    NotInBatch {
        /// Its place.
        index: usize,
        /// Why not.
        why: &'static str,
    },
    /// The outcome of an entry was taken before.
    #[error("how entry {} ended was taken before", .point.0)]
    Taken {
        /// The entry's point.
        point: Point,
    },
    /// A length of zero.
    #[error("a {what} needs at least one byte")]
    Empty {
        /// Of what.
        what: &'static str,
    },
}

fn beside(range: Option<&Range<u64>>) -> String {
    range.map_or_else(String::new, |range| format!("; next to it {:#x}..{:#x} is", range.start, range.end))
}

fn rights(rights: TimelineRights) -> String {
    let names: Vec<&str> = rights.iter_names().map(|(name, _)| name).collect();
    if names.is_empty() { "nothing".into() } else { names.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_broker_is_named_with_every_place_and_the_remedy() {
        let tried = vec![
            Tried { path: "/a/b".into(), why: "no such socket".into() },
            Tried { path: "/c".into(), why: "nobody listens".into() },
        ];
        let said = Error::NotRunning { tried }.to_string();
        assert_eq!(
            said,
            "no broker answers: tried /a/b (no such socket), /c (nobody listens); \
             start one with `vgemd --user`, or name its socket in VGEM_SOCKET"
        );
    }

    #[test]
    fn a_failed_job_names_device_cause_and_detail() {
        let failure = JobFailure {
            device: "sec".into(),
            kind: PointKind::Job,
            point: Point(4),
            code: ErrorCode::OutputTooSmall,
            cause: CauseId(0x0000_0003_0000_0007),
            explanation: Some(Arc::new(Explanation {
                device: Some("zip".into()),
                pid: Some(12),
                ..Explanation::of_words(
                    CauseId(0x0000_0003_0000_0007),
                    ErrorCode::OutputTooSmall,
                    "needs 90 bytes, has 10".into(),
                )
            })),
        };
        assert_eq!(
            failure.to_string(),
            "sec: job 4 failed: output does not fit (cause:3.7): zip: needs 90 bytes, has 10 (pid 12)"
        );
    }
}
