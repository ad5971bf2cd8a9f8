//! How entries of a user queue end, and how the queue itself does.

use std::fmt;
use std::sync::Arc;

use vgem_os::ring::{Corruption, Over, ReapError};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::user_queue::{Completion, FaultReason};

use super::Ticket;
use crate::cell::Cell;
use crate::error::Result;
use crate::explain::Explanation;

/// What an entry that ended well has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryDone {
    /// Bytes produced. Of a batch: how many of its entries ended well, which is all of them.
    pub produced: u64,
    /// The number that the operation defines; its description says what it means.
    pub value: u64,
    /// When it ended.
    pub ended: Time,
    /// The result cell, of an entry that asked for one ([`crate::EntryDraft::result`]).
    pub cell: Option<Cell>,
}

/// An entry that has ended, as [`crate::UserQueue::reap`] finds it.
#[derive(Debug, Clone)]
pub struct Reaped {
    /// Which one.
    pub ticket: Ticket,
    /// How it ended: [`crate::Error::Entry`] if it failed, [`crate::Error::QueueOver`] if the queue ended before it did.
    pub result: Result<EntryDone>,
}

/// How an entry of a user queue failed. The queue goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFailure {
    /// The device.
    pub device: Arc<str>,
    /// The entry's point on the queue.
    pub point: Point,
    /// What went wrong. A code of a refusal ([`EntryFailure::was_refused`]): nothing of the entry has happened.
    pub code: ErrorCode,
    /// Where it began.
    pub cause: CauseId,
    /// What goes with the code: of a refusal what was found. Of a batch the place of the first entry that failed.
    pub value: u64,
    /// Entries of a batch that ended well, or bytes that were produced before the failure.
    pub produced: u64,
    /// The address that could not be reached, if that is what went wrong.
    pub fault: Option<Fault>,
    /// What is behind the cause, if the broker could tell.
    pub explanation: Option<Arc<Explanation>>,
}

/// An address that the driver could not reach, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The first such address.
    pub address: u64,
    /// Why.
    pub reason: FaultReason,
}

impl EntryFailure {
    pub(crate) fn new(device: &Arc<str>, completion: &Completion, failure: Failure) -> Self {
        let fault = (failure.code == ErrorCode::AddressFault).then(|| Fault {
            address: completion.address,
            reason: FaultReason::from_number(completion.value),
        });
        Self {
            device: Arc::clone(device),
            point: completion.point,
            code: failure.code,
            cause: failure.cause,
            value: completion.value,
            produced: completion.produced,
            fault,
            explanation: None,
        }
    }

    /// Whether the driver refused the entry: nothing of it has happened.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.code.number() < FIRST_FAILURE
    }
}

/// The smallest code that is a failure and no refusal.
const FIRST_FAILURE: u32 = 64;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.reason {
            FaultReason::Unbound => write!(f, "nothing is bound at {address:#x}, and it is in no window"),
            FaultReason::ReadOnly => write!(f, "what is at {address:#x} may not be written"),
            FaultReason::Gone => write!(f, "the memory at {address:#x} is gone with its process"),
            FaultReason::Unreachable => write!(f, "the memory at {address:#x} could not be reached"),
            FaultReason::Other(reason) => write!(f, "{address:#x} cannot be reached (reason {reason})"),
        }
    }
}

impl fmt::Display for EntryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.was_refused() { "was refused" } else { "failed" };
        write!(f, "{}: entry {} {way}: {}", self.device, self.point.0, self.code)?;
        match self.fault {
            Some(fault) => write!(f, ": {fault}")?,
            None if self.was_refused() => write!(f, ": found {:#x}", self.value)?,
            None => {}
        }
        behind(f, self.cause, self.explanation.as_deref())
    }
}

impl std::error::Error for EntryFailure {}

/// Why a user queue takes no more entries. What had not completed by then has failed with this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEnd {
    /// The device.
    pub device: Arc<str>,
    /// Why: `DeviceLost`, `Cancelled`, `Malformed`, ..
    pub code: ErrorCode,
    /// Where it began.
    pub cause: CauseId,
    /// What was found to be wrong with the ring, by the driver or (code `DriverFault`) here.
    pub corruption: Option<Corruption>,
    /// What is behind the cause, if the broker could tell.
    pub explanation: Option<Arc<Explanation>>,
}

impl QueueEnd {
    /// The driver or the broker ended the ring.
    pub(crate) fn over(device: &Arc<str>, over: &Over) -> Self {
        let Over { failure: Failure { code, cause }, corruption } = *over;
        Self { device: Arc::clone(device), code, cause, corruption, explanation: None }
    }

    /// The driver wrote what makes no sense here.
    pub(crate) fn corrupt(device: &Arc<str>, corruption: Corruption) -> Self {
        let (code, cause) = (ErrorCode::DriverFault, CauseId::NONE);
        Self { device: Arc::clone(device), code, cause, corruption: Some(corruption), explanation: None }
    }

    /// The same from what the reaper said; nothing if the system would not let it sleep.
    pub(crate) fn of(device: &Arc<str>, error: ReapError) -> Result<Self> {
        match error {
            ReapError::Over(over) => Ok(Self::over(device, &over)),
            ReapError::Corrupt(corruption) => Ok(Self::corrupt(device, corruption)),
            ReapError::Os(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for QueueEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the user queue is over: {}", self.device, self.code)?;
        if let Some(corruption) = &self.corruption {
            write!(f, ": {corruption}")?;
        }
        behind(f, self.cause, self.explanation.as_deref())
    }
}

impl std::error::Error for QueueEnd {}

/// The cause and what is behind it.
fn behind(f: &mut fmt::Formatter<'_>, cause: CauseId, explanation: Option<&Explanation>) -> fmt::Result {
    if cause != CauseId::NONE {
        write!(f, " ({cause})")?;
    }
    match explanation {
        Some(explanation) => write!(f, ": {explanation}"),
        None => Ok(()),
    }
}
