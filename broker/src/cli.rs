//! The command line.
//!
//! ```text
//!   vgemd --user                 for this user, on $XDG_RUNTIME_DIR/vgemd/vgemd.sock
//!   vgemd [--system]             for the machine, as root, on /run/vgemd/vgemd.sock
//!   vgemd --embedded FD --dir D  for one process: ends when FD hangs up
//! ```
//!
//! Reading it decides the [`Mode`] once; everything that differs between modes asks the mode.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::exit::{Exit, Failure, Table};

/// Broker for memory objects shared between devices.
#[derive(Debug, Clone, Parser)]
#[command(name = "vgemd", version, after_help = Table.to_string())]
pub struct Cli {
    /// Serve this user, below $XDG_RUNTIME_DIR
    #[arg(long, conflicts_with_all = ["system", "embedded"])]
    pub user: bool,
    /// Serve the machine, in /run/vgemd; needs root, and is what root gets without --user
    #[arg(long, conflicts_with = "embedded")]
    pub system: bool,
    /// Serve one process: say "ready" on this inherited fd, and end when its other end is closed
    #[arg(long, value_name = "FD", requires = "dir")]
    pub embedded: Option<RawFd>,
    /// Directory of the socket, instead of the mode's own
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Directory of the vgem-driver-* programs, instead of the configured one or vgemd's own
    #[arg(long, value_name = "DIR")]
    pub drivers: Option<PathBuf>,
    /// Configuration file, instead of the mode's own; FILE.d/*.toml is merged over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the configuration, say all that is wrong in it, and end: 0 if nothing is, 78 else
    #[arg(long)]
    pub check_config: bool,
    /// What to log: error, warn, info, debug, trace, or a filter as VGEMD_LOG takes it
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Which role to play; for vgemd itself
    #[arg(long, hide = true, value_enum, default_value_t = Role::Keeper)]
    pub role: Role,
    /// Which user to become; for --role account
    #[arg(long, hide = true)]
    pub as_uid: Option<u32>,
    /// Which group to become; for --role account
    #[arg(long, hide = true)]
    pub as_gid: Option<u32>,
    /// What to become; for --role account
    #[arg(last = true, hide = true)]
    pub command: Vec<OsString>,
}

/// The roles of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Starts the others and keeps what must outlive them.
    Keeper,
    /// Serves clients and drivers.
    Broker,
    /// Takes fds from one client.
    Porter,
    /// Accepts at a listening socket that somebody else has bound.
    Doorman,
    /// Becomes another program under another account.
    Account,
}

/// Whom the daemon serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every user of the machine.
    System,
    /// The user it runs as.
    User,
    /// One process, that holds the other end of this inherited fd.
    Embedded(RawFd),
}

impl Cli {
    /// Reads a command line. Help, version and mistakes are printed here.
    ///
    /// # Errors
    /// The exit code when there is nothing to run.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        Self::try_parse_from(args).map_err(|e| {
            // A closed standard output does not change what the command line was.
            drop(e.print());
            if e.use_stderr() { Exit::Usage.into() } else { Exit::Fine.into() }
        })
    }

    /// Whom to serve, for a process of this uid.
    ///
    /// # Errors
    /// [`Exit::Permission`] when the machine is to be served without being root.
    pub fn mode(&self, uid: u32) -> Result<Mode, Failure> {
        match (self.embedded, self.user, uid) {
            (Some(fd), _, _) => Ok(Mode::Embedded(fd)),
            (None, true, _) => Ok(Mode::User),
            (None, false, 0) => Ok(Mode::System),
            (None, false, _) => Err(Failure::new(
                Exit::Permission,
                "serving the machine needs root; run `vgemd --user` to serve yourself",
            )),
        }
    }
}

impl Mode {
    /// Mode bits of the socket's directory when it has to be made.
    #[must_use]
    pub const fn dir_bits(self) -> u32 {
        match self {
            Self::System => 0o755,
            Self::User | Self::Embedded(_) => 0o700,
        }
    }

    /// Mode bits of the socket.
    #[must_use]
    pub const fn socket_bits(self) -> u32 {
        match self {
            Self::System => 0o666,
            Self::User | Self::Embedded(_) => 0o600,
        }
    }

    /// What is logged unless somebody says otherwise.
    #[must_use]
    pub const fn log(self) -> &'static str {
        match self {
            Self::System | Self::User => "info",
            Self::Embedded(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Cli {
        Cli::try_parse_from(["vgemd"].iter().chain(args)).expect("a right command line")
    }

    #[test]
    fn root_serves_the_machine_unless_told_otherwise() {
        assert_eq!(cli(&[]).mode(0), Ok(Mode::System));
        assert_eq!(cli(&["--user"]).mode(0), Ok(Mode::User));
    }

    #[test]
    fn only_root_serves_the_machine() {
        let refused = cli(&["--system"]).mode(1000).map_err(|e| e.exit());
        assert_eq!(refused, Err(Exit::Permission));
    }

    #[test]
    fn an_embedded_daemon_must_be_told_its_directory() {
        assert!(Cli::try_parse_from(["vgemd", "--embedded", "5"]).is_err());
        assert_eq!(cli(&["--embedded", "5", "--dir", "d"]).mode(1000), Ok(Mode::Embedded(5)));
    }

    #[test]
    fn help_names_every_exit_code() {
        use clap::CommandFactory as _;
        let help = Cli::command().render_long_help().to_string();
        assert!(Exit::ALL.iter().all(|exit| help.contains(exit.phrase())), "{help}");
    }
}
