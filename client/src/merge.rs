//! Merging fences: one wait for many, which keeps every error.
//!
//! A `sync_file` that is merged forgets the inputs that were signalled already, with their errors, and of several errors shows
//! one. Here all inputs stay, and their errors come worst first (T7):
//!
//! | rank | what | why there |
//! |---|---|---|
//! | 1 | the broker is gone | nothing more will come of anything |
//! | 2 | `DeviceLost`, `OwnerDied`: somebody died | all that it owed is lost |
//! | 3 | `DriverFault`, `TimedOut`: somebody broke a rule | what it says cannot be relied on, or comes too late |
//! | 4 | any other failure of the job's own, and one that is forgotten | this result is lost |
//! | 5 | `Poisoned`, `Cancelled`, `Refused`: it never ran | a consequence of something else |
//! | 6 | it could not be waited for | nothing is known of its end |
//! | 7 | it had not ended at the deadline | it may end well yet |
//!
//! Within a rank they come in the order of the fences.

use std::fmt;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::CauseId;

use crate::deadline::Deadline;
use crate::error::{FenceError, NthError};
use crate::fence::Fence;

/// Several fences as one: it has ended when all have.
#[derive(Debug, Clone)]
pub struct Merged {
    fences: Vec<Fence>,
}

/// What became of merged fences that did not all end well: every error, the worst first.
#[derive(Debug, Clone)]
pub struct MergedError {
    /// How many fences there were.
    pub of: usize,
    /// Which of them, and how; never empty.
    pub errors: Vec<NthError>,
}

impl Fence {
    /// One fence of many.
    #[must_use]
    pub fn merge(fences: impl IntoIterator<Item = Self>) -> Merged {
        Merged { fences: fences.into_iter().collect() }
    }
}

impl Merged {
    /// The fences, in the order they were given.
    #[must_use]
    pub fn fences(&self) -> &[Fence] {
        &self.fences
    }

    /// Whether all have ended, well or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.fences.iter().all(Fence::has_ended)
    }

    /// Sleeps until all have ended, at most until the deadline.
    ///
    /// # Errors
    /// Every error, the worst first. Those that had not ended at the deadline are among them.
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<(), MergedError> {
        let deadline = deadline.into();
        self.judge(self.fences.iter().map(|fence| fence.wait(deadline)))
    }

    /// The same for a task.
    ///
    /// # Errors
    /// As [`Merged::wait`], with explanations that were had before.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and nothing else.
    pub async fn wait_async(&self, deadline: impl Into<Deadline>) -> Result<(), MergedError> {
        let deadline = deadline.into();
        let mut ends = Vec::with_capacity(self.fences.len());
        for fence in &self.fences {
            ends.push(fence.wait_async(deadline).await);
        }
        self.judge(ends)
    }

    fn judge(&self, ends: impl IntoIterator<Item = Result<(), FenceError>>) -> Result<(), MergedError> {
        let failed =
            |(index, end): (usize, Result<(), FenceError>)| end.err().map(|error| NthError { index, error });
        let mut errors: Vec<NthError> = ends.into_iter().enumerate().filter_map(failed).collect();
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by_key(|one| Rank::of(&one.error));
        Err(MergedError { of: self.fences.len(), errors })
    }
}

impl IntoIterator for Merged {
    type Item = Fence;
    type IntoIter = std::vec::IntoIter<Fence>;

    fn into_iter(self) -> Self::IntoIter {
        self.fences.into_iter()
    }
}

impl MergedError {
    /// The causes, each once, that of the worst error first.
    #[must_use]
    pub fn causes(&self) -> Vec<CauseId> {
        let mut causes = Vec::new();
        for one in &self.errors {
            if let FenceError::Failed(failure) = &one.error
                && failure.cause != CauseId::NONE
                && !causes.contains(&failure.cause)
            {
                causes.push(failure.cause);
            }
        }
        causes
    }

    /// The worst error alone.
    #[must_use]
    pub fn into_worst(self) -> Option<NthError> {
        self.errors.into_iter().next()
    }
}

impl fmt::Display for MergedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} fences did not end well", self.errors.len(), self.of)?;
        for (place, error) in self.errors.iter().enumerate() {
            write!(f, "{} {error}", if place == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for MergedError {}

/// How bad an error is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    NoBroker,
    Died,
    BrokeARule,
    Failed,
    NeverRan,
    NotAsked,
    NotEnded,
}

impl Rank {
    fn of(error: &FenceError) -> Self {
        match error {
            FenceError::BrokerLost { .. } => Self::NoBroker,
            FenceError::Request(_) => Self::NotAsked,
            FenceError::Timeout { .. } => Self::NotEnded,
            FenceError::Failed(failure) => match failure.code {
                ErrorCode::BrokerLost => Self::NoBroker,
                ErrorCode::DeviceLost | ErrorCode::OwnerDied => Self::Died,
                ErrorCode::DriverFault | ErrorCode::TimedOut => Self::BrokeARule,
                ErrorCode::Poisoned | ErrorCode::Cancelled | ErrorCode::Refused => Self::NeverRan,
                _ => Self::Failed,
            },
        }
    }
}
