//! Errors on the bus: `org.vgemd.Error.CODE`, one per code of chapter 14 of `proto/SPEC.md`.
//!
//! The text is what a client of the socket is told: what was wrong, with the value and the limit.

use vgem::{Error as Vgem, ErrorCode, FenceError, LocalError};
use vgem_proto::error::Refusal;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// Why a method was not carried out. Nothing has changed.
#[derive(Debug, Clone)]
pub(crate) struct Error {
    #[cfg(test)]
    code: ErrorCode,
    name: String,
    text: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            #[cfg(test)]
            code,
            name: name(code),
            text: text.into(),
        }
    }

    /// A value or a limit goes into the text, unless it is there.
    pub(crate) fn of(refusal: &Refusal) -> Self {
        let mut text = refusal.to_string();
        for (what, number) in [("value", refusal.value), ("limit", refusal.limit)] {
            if number != 0 && !text.contains(&number.to_string()) {
                text.push_str(&format!("; {what} {number}"));
            }
        }
        Self::new(refusal.code, text)
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub(crate) const fn code(&self) -> ErrorCode {
        self.code
    }
}

/// The name of a code.
pub(crate) fn name(code: ErrorCode) -> String {
    format!("org.vgemd.Error.{}", code.name())
}

impl From<Vgem> for Error {
    fn from(e: Vgem) -> Self {
        if let Vgem::Refused(refusal) = &e {
            return Self::of(refusal);
        }
        let code = e.code().unwrap_or(match &e {
            Vgem::Timeout { .. } => ErrorCode::Late,
            Vgem::Local(local) => wrong(local),
            Vgem::BrokerLost { .. } | Vgem::NotRunning { .. } => ErrorCode::BrokerLost,
            _ => ErrorCode::System,
        });
        Self::new(code, e.to_string())
    }
}

impl From<FenceError> for Error {
    fn from(e: FenceError) -> Self {
        Vgem::from(e).into()
    }
}

/// The code that the broker would have refused such a call with.
fn wrong(error: &LocalError) -> ErrorCode {
    match error {
        LocalError::NoSuchDevice { .. } => ErrorCode::NoSuchDevice,
        LocalError::NoSuchOperation { .. } => ErrorCode::NoSuchOperation,
        LocalError::NoSuchOperand { .. } | LocalError::ReadOnly { .. } => ErrorCode::BadOperand,
        LocalError::OutOfRange { .. } | LocalError::Empty { .. } => ErrorCode::OutOfRange,
        LocalError::BatchTooLarge { .. } | LocalError::TooMany { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::BadParameter,
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<zbus::Error> for Error {
    fn from(e: zbus::Error) -> Self {
        Self::new(ErrorCode::System, e.to_string())
    }
}

impl zbus::DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&(&self.text,))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::try_from(self.name.as_str())
            .unwrap_or(ErrorName::from_static_str_unchecked("org.vgemd.Error.System"))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use zbus::DBusError as _;

    use super::*;

    #[test]
    fn every_code_has_a_name_on_the_bus() {
        for code in ErrorCode::ALL {
            let error = Error::new(*code, "words");
            assert_eq!(error.name().as_str(), format!("org.vgemd.Error.{}", code.name()));
        }
    }

    #[test]
    fn value_and_limit_are_in_the_text() {
        let refusal = Refusal::new(ErrorCode::Exhausted, "too many objects").with(70_000, 65_536);
        let error = Error::of(&refusal);
        assert!(error.text().contains("70000") && error.text().contains("65536"), "{error}");
        assert_eq!(error.code(), ErrorCode::Exhausted);
    }
}
