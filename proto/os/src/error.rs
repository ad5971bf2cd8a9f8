//! The one error of this crate: which call the kernel refused, with which errno, while attempting what.
//!
//! It is not a judgement about who is at fault; callers decide that. An error without a detail allocates
//! nothing, so that "would block" stays cheap on the hot paths.

use std::fmt;

use rustix::io::Errno;

/// What every fallible function of this crate returns, unless its documentation says otherwise.
pub type Result<T, E = OsError> = core::result::Result<T, E>;

/// The kernel, or a check made on the kernel's answer, refused a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OsError {
    call: &'static str,
    errno: Errno,
    detail: Option<Box<str>>,
}

impl OsError {
    /// An error of `call` without further detail.
    #[must_use]
    pub const fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno, detail: None }
    }

    /// An error of `call` that says what was attempted.
    #[must_use]
    pub fn with_detail(call: &'static str, errno: Errno, detail: impl Into<String>) -> Self {
        Self { call, errno, detail: Some(detail.into().into_boxed_str()) }
    }

    /// The name of the system call, or of the check, that refused.
    #[must_use]
    pub const fn call(&self) -> &'static str {
        self.call
    }

    /// The errno.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// What was attempted, if more than the name of the call is known.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// True if a non-blocking call found nothing to do (`EAGAIN`).
    #[must_use]
    pub fn would_block(&self) -> bool {
        self.errno == Errno::AGAIN
    }

    /// True if the machine ran out of something (`EMFILE`, `ENFILE`, `ENOMEM`, `ENOBUFS`, `ENOSPC`,
    /// `ETOOMANYREFS`): one request's failure, never a reason to stop serving.
    #[must_use]
    pub fn is_resource(&self) -> bool {
        matches!(
            self.errno,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC | Errno::TOOMANYREFS
        )
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl From<OsError> for std::io::Error {
    fn from(e: OsError) -> Self {
        if e.detail.is_none() {
            return e.errno.into();
        }
        Self::new(std::io::Error::from(e.errno).kind(), e)
    }
}

/// Names the call that produced an errno.
pub(crate) trait Attempt<T> {
    /// Names the call.
    fn attempt(self, call: &'static str) -> Result<T>;
    /// Names the call and says what was attempted; `what` runs on failure only.
    fn attempting(self, call: &'static str, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for core::result::Result<T, Errno> {
    fn attempt(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| OsError::new(call, errno))
    }

    fn attempting(self, call: &'static str, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| OsError::with_detail(call, errno, what()))
    }
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, call: &'static str) -> Result<T> {
        self.map_err(|e| OsError::new(call, errno_of(&e)))
    }

    fn attempting(self, call: &'static str, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| OsError::with_detail(call, errno_of(&e), what()))
    }
}

/// The errno inside a standard library error; `EIO` if it carries none.
pub(crate) fn errno_of(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

/// Runs `call` again for as long as a signal interrupts it.
pub(crate) fn uninterrupted<T>(
    mut call: impl FnMut() -> core::result::Result<T, Errno>,
) -> core::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
