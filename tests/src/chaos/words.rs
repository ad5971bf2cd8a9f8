//! What the arena and its actors say to each other: JSON, one packet each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vgem::{Error, Explanation, FenceError, JobFailure, TimelineToken};
use vgem_os::Errno;

/// What an actor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Sends frames through three devices and hands the last buffer on.
    Producer,
    /// Takes that buffer in and reads it.
    Consumer,
    /// Works for itself, in another domain.
    Bystander,
    /// Signals by hand what a job of the producer waits for.
    Stage,
}

/// What an actor is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Connect to the broker there.
    Connect(PathBuf),
    /// The fd of this packet leads to the partner.
    Partner,
    /// Make ready for a round, and repair what the last one may have broken; answered by Ready.
    Prepare {
        /// Its number.
        round: u64,
        /// Whether something may be broken.
        mend: bool,
    },
    /// Make a new timeline and pass it on; answered by Token.
    Offer,
    /// Take that timeline, and wait for it from now on.
    Await([u8; TimelineToken::LEN]),
    /// Promise the next point, to be signalled within so many milliseconds, and leave it at that.
    Owe(u64),
    /// Begin the round; answered by Round.
    Go(u64),
    /// Let go of everything and disconnect; answered by Ready.
    Leave,
}

/// What an actor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Ready,
    /// It cannot be done.
    Trouble(String),
    /// What a timeline is passed on with.
    Token([u8; TimelineToken::LEN]),
    /// The consumer is about to take in what it was sent. Not an end of what it was told to do: a round follows.
    Importing,
    /// What came of the waits of a round.
    Round(Vec<Record>),
}

/// One wait of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was waited for.
    pub what: String,
    /// When, CLOCK_MONOTONIC nanoseconds.
    pub begun_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// How.
    pub end: End,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Well.
    Done,
    /// The job failed.
    Failed(Failure),
    /// The broker refused the request, with this code and these words.
    Refused(String, String),
    /// The waiter's own patience was over: a hang.
    Late(String),
    /// The broker is gone.
    Lost(String),
    /// The partner is gone, or was silent.
    Alone(String),
    /// What was done is not what it should be.
    Wrong(String),
}

/// A failure that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub code: String,
    /// Where it began.
    pub cause: u64,
    /// The device where it began.
    pub device: Option<String>,
    /// The process at fault.
    pub pid: Option<u32>,
    /// All of it in words.
    pub said: String,
}

impl Failure {
    fn new(failure: &JobFailure) -> Self {
        let told: Option<&Explanation> = failure.explanation.as_deref();
        Self {
            code: format!("{:?}", failure.code),
            cause: failure.cause.0,
            device: told.and_then(|told| told.device.clone()),
            pid: told.and_then(|told| told.pid),
            said: failure.to_string(),
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Job(failure) => Self::Failed(Failure::new(&failure)),
            Error::Refused(refusal) => Self::Refused(format!("{:?}", refusal.code), refusal.to_string()),
            Error::Timeout { .. } => Self::Late(error.to_string()),
            Error::BrokerLost { .. } | Error::NotRunning { .. } => Self::Lost(error.to_string()),
            Error::Transfer(_) => Self::Alone(error.to_string()),
            Error::System(ref refused) if refused.errno() == Errno::PIPE => Self::Alone(error.to_string()),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl From<FenceError> for End {
    fn from(error: FenceError) -> Self {
        Error::from(error).into()
    }
}

impl<T, E: Into<Self>> From<Result<T, E>> for End {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) => error.into(),
        }
    }
}
