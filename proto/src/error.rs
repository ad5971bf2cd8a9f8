//! Error codes, and the refusal that carries one to a client.
//!
//! Errors are sorted by blame. A **refusal** (below 64) is the client's business: its request was not carried
//! out and nothing changed. A **failure** (from 64) is how an accepted job ended. Faults of a peer end its
//! connection and bugs of ours are logged; neither has a code here.

use std::fmt;

use crate::codec::{Field, Malformed, Reader, Writer};
use crate::ids::CauseId;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong. Open: a number this version does not know survives as [`ErrorCode::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A code of a newer version.
            Other(u32),
        }

        impl ErrorCode {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code with this number.
            #[must_use]
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// The name as SPEC.md writes it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Other(_) => "Other",
                }
            }

            /// A short phrase for people.
            #[must_use]
            pub fn phrase(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "an error this version does not know",
                }
            }
        }
    };
}

codes! {
    /// The bytes are not a message of this protocol.
    Malformed = 1, "malformed message";
    /// The opcode is not in the table.
    UnknownOpcode = 2, "unknown opcode";
    /// A flag is not known.
    UnknownFlag = 3, "unknown flag";
    /// The first message was not Hello.
    NotGreeted = 4, "no greeting yet";
    /// No common version.
    Version = 5, "no common protocol version";
    /// The message is longer than the limit.
    TooLarge = 6, "message too large";
    /// No such handle on this connection (or not yours: the answer is the same).
    NoSuchHandle = 7, "no such handle";
    /// The right is missing.
    Denied = 8, "denied";
    /// A quota or limit is reached.
    Exhausted = 9, "exhausted";
    /// The object is not committed.
    NotReady = 10, "object not ready";
    /// Offset and length leave the object, or a length is outside what is allowed.
    OutOfRange = 11, "out of range";
    /// An offset or length is not a multiple of what is asked.
    Misaligned = 12, "misaligned";
    /// A parameter is missing, unknown or outside its range.
    BadParameter = 13, "bad parameter";
    /// The device has no such operation.
    NoSuchOperation = 14, "no such operation";
    /// An operand is missing, unknown or of the wrong direction.
    BadOperand = 15, "bad operand";
    /// The point is not the one expected next.
    BadPoint = 16, "bad point";
    /// No such device.
    NoSuchDevice = 17, "no such device";
    /// The device, its instance or the queue is gone.
    Gone = 18, "gone";
    /// The waits would close a cycle.
    Deadlock = 19, "deadlock";
    /// The object is in use in a way that forbids this now.
    Busy = 20, "busy";
    /// The kernel refused something the request needs.
    System = 21, "the system refused";
    /// The device's driver could not be started.
    Unavailable = 22, "device unavailable";
    /// The deadline of the request has passed.
    Late = 23, "deadline has passed";

    /// The driver died.
    DeviceLost = 64, "device lost";
    /// The job took longer than its deadline allows.
    TimedOut = 65, "timed out";
    /// The driver broke the protocol or failed inside.
    DriverFault = 66, "driver fault";
    /// The job was cancelled, or was innocent behind a guilty one.
    Cancelled = 67, "cancelled";
    /// The batch with this job was refused.
    Refused = 68, "refused";
    /// A length or offset read at run time is beyond the authorised maximum.
    IndirectTooLong = 69, "indirect value beyond its maximum";
    /// The output does not fit its operand.
    OutputTooSmall = 70, "output does not fit";
    /// The input is not what the operation expects.
    CorruptInput = 71, "corrupt input";
    /// The authentication tag does not match.
    AuthenticationFailed = 72, "authentication failed";
    /// Storage failed.
    Io = 73, "I/O error";
    /// No space on the device.
    NoSpace = 74, "no space left";
    /// No such file.
    NotFound = 75, "not found";
    /// The path is outside what the device may open, or the system forbids it.
    NotPermitted = 76, "not permitted";
    /// The object's content is poisoned by an earlier failure.
    Poisoned = 77, "poisoned";
    /// The driver could not map an operand.
    MapFailed = 78, "mapping failed";
    /// The owner of a promise died.
    OwnerDied = 79, "owner died";
    /// The broker died.
    BrokerLost = 80, "broker lost";
    /// The operation or a combination of its parameters is not supported.
    Unsupported = 81, "unsupported";
    /// An address of a user queue's entry cannot be reached.
    AddressFault = 82, "address fault";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "error {number}"),
            known => f.write_str(known.phrase()),
        }
    }
}

impl Field for ErrorCode {
    const SIZE: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.number().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        u32::take(r).map(Self::from_number)
    }
}

/// An operation that did not happen, as the client hears of it.
///
/// `value` is what was asked and `limit` what is allowed, where that makes sense for the code; `text` says both
/// in words, with what to do. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was wrong.
    pub code: ErrorCode,
    /// Which job of the batch, if one.
    pub job: Option<u16>,
    /// Which operand or parameter of the job, if one.
    pub part: Option<u16>,
    /// What was asked.
    pub value: u64,
    /// What is allowed.
    pub limit: u64,
    /// The same in words.
    pub text: String,
}

impl Refusal {
    /// A refusal without numbers.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, job: None, part: None, value: 0, limit: 0, text: text.into() }
    }

    /// The same with the value and the limit.
    #[must_use]
    pub fn with(mut self, value: u64, limit: u64) -> Self {
        (self.value, self.limit) = (value, limit);
        self
    }

    /// The same, about job number `job` of the batch.
    #[must_use]
    pub fn in_job(mut self, job: u16) -> Self {
        self.job = Some(job);
        self
    }

    /// The same, about operand or parameter number `part`.
    #[must_use]
    pub fn in_part(mut self, part: u16) -> Self {
        self.part = Some(part);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(job) = self.job {
            write!(f, "job {job}: ")?;
        }
        if self.text.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{}: {}", self.code, self.text)
        }
    }
}

impl std::error::Error for Refusal {}

/// How an accepted job failed: the code and the identity of the origin, shared by all that failed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What went wrong with this job.
    pub code: ErrorCode,
    /// Where it began; ask the broker to explain it.
    pub cause: CauseId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_version_survives() {
        let code = ErrorCode::from_number(4_000);
        assert_eq!((code, code.number(), code.name()), (ErrorCode::Other(4_000), 4_000, "Other"));
    }

    #[test]
    fn every_code_comes_back_from_its_number() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), *code);
        }
    }

    #[test]
    fn a_refusal_names_the_job_and_what_was_wrong() {
        let refusal = Refusal::new(ErrorCode::Exhausted, "3 of 2 objects").with(3, 2).in_job(4);
        assert_eq!(refusal.to_string(), "job 4: exhausted: 3 of 2 objects");
        assert_eq!(Refusal::new(ErrorCode::Gone, "").to_string(), "gone");
    }
}
