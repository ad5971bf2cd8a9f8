//! Errors: the operation failed, no way is left, or the client could not do what it was asked.

use std::fmt;

use vgem::ErrorCode;
use vgem_driver::JobError;

use crate::choice::Choice;
use crate::way::Way;

/// What the fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operation failed, or what it was to read is not what it should be: with the same code and words whichever way it
    /// went.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// No way is left. Nothing has happened; the choice says what is in the way of each.
    #[error("{0}")]
    NoWay(Box<Choice>),
    /// The call is wrong, time ran out, or the broker could not be asked.
    #[error(transparent)]
    Client(#[from] vgem::Error),
}

/// How an operation failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The device.
    pub device: String,
    /// The operation.
    pub op: String,
    /// The way it went.
    pub way: Way,
    /// What went wrong.
    pub code: ErrorCode,
    /// The same in words, as far as they are known.
    pub text: String,
    /// What the client says of it, with the cause: not of an engine that ran here.
    pub source: Option<vgem::Error>,
}

impl Error {
    /// The code, if there is one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Failed(failure) => Some(failure.code),
            Self::NoWay(_) => None,
            Self::Client(error) => error.code(),
        }
    }
}

impl From<vgem::LocalError> for Error {
    fn from(mistake: vgem::LocalError) -> Self {
        Self::Client(mistake.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ({}): {}", self.device, self.op, self.way, self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// Where a failure happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) device: &'a str,
    pub(crate) op: &'a str,
    pub(crate) way: Way,
}

impl At<'_> {
    fn failed(self, code: ErrorCode, text: String, source: Option<vgem::Error>) -> Error {
        let (device, op) = (self.device.to_owned(), self.op.to_owned());
        Error::Failed(Box::new(Failure { device, op, way: self.way, code, text, source }))
    }

    /// What the client says.
    pub(crate) fn client(self, error: vgem::Error) -> Error {
        let (code, told) = match &error {
            vgem::Error::Job(failure) => (failure.code, &failure.explanation),
            vgem::Error::Entry(failure) => (failure.code, &failure.explanation),
            vgem::Error::QueueOver(end) => (end.code, &end.explanation),
            _ => return Error::Client(error),
        };
        let text = told.as_ref().map_or_else(String::new, |told| told.text.clone());
        self.failed(code, text, Some(error))
    }

    /// What the engine says.
    pub(crate) fn engine(self, error: JobError) -> Error {
        self.failed(error.code, error.text, None)
    }
}
