//! Exit codes, as `sysexits.h` numbers them, and the line that goes with each.
//!
//! A failure to start or to go on is said once, as one line on standard error that names what was attempted and
//! what to do, and as an exit code that a script or a service manager can act on. Nothing else decides the code.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use vgem_os::{Errno, OsError};

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why the program ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Exit {
            $($(#[$doc])* $name,)*
        }

        impl Exit {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number that `exit` is given.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }

            /// A short phrase for `--help`.
            #[must_use]
            pub const fn phrase(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

exits! {
    /// It was asked to end, and ended in an orderly way.
    Fine = 0, "ended when asked to";
    /// The command line is wrong.
    Usage = 64, "wrong command line";
    /// No driver can be used.
    Unavailable = 69, "no driver found, or none that works";
    /// The broker ended by itself.
    Internal = 70, "the broker ended unexpectedly";
    /// The system refused something every start needs.
    System = 71, "the system refused something";
    /// The directory or the socket cannot be made.
    Place = 73, "cannot create the directory or the socket";
    /// Another vgemd serves there.
    Running = 75, "another vgemd serves there already";
    /// A right is missing.
    Permission = 77, "permission missing";
    /// A configuration file is wrong.
    Config = 78, "a configuration file is wrong";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why the program cannot start or go on: a code for programs, a line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// A failure with this code and line.
    #[must_use]
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// The code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes the line to standard error.
    pub fn tell(&self) {
        // Nobody is left to hear that standard error is closed.
        drop(writeln!(std::io::stderr(), "vgemd: {}", self.text));
    }
}

impl From<OsError> for Failure {
    fn from(e: OsError) -> Self {
        let exit =
            if matches!(e.errno(), Errno::ACCESS | Errno::PERM) { Exit::Permission } else { Exit::System };
        Self::new(exit, e.to_string())
    }
}

/// The table of exit codes, for `--help`.
pub(crate) struct Table;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exit codes:\n")?;
        for exit in Exit::ALL {
            writeln!(f, "  {:>2}  {}", exit.number(), exit.phrase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_all_different_and_grow() {
        assert!(Exit::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
    }

    #[test]
    fn a_refused_right_has_its_own_code() {
        let of = |errno| Failure::from(OsError::new("open", errno)).exit();
        assert_eq!((of(Errno::ACCESS), of(Errno::MFILE)), (Exit::Permission, Exit::System));
    }
}
