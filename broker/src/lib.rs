//! The daemon: four roles of one program.
//!
//! ```text
//!   vgemd ──► keeper ──starts──► vgemd --role broker     the rules, confined; clients and drivers talk to it
//!                │    ──starts──► vgem-driver-*          one process per (device, domain), when the broker asks
//!                │    ──starts──► vgemd --role porter    one per client that imports: takes its fds, expendable
//!                │    ──starts──► vgemd --role doorman   one per domain at a socket that somebody else has bound
//!                │    ──starts──► vgem-control           the front on a message bus, if there is to be one
//!                └ holds: the lock, the directory, duplicates of every committed object, the pins
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`exit`] | exit codes, and the one line that goes with each |
//! | [`config`] | configuration files |
//! | [`setup`] | what the keeper tells the broker at start |
//! | `log` | where log lines go |
//! | `keeper` | the role that starts, watches and ends the others; parses nothing a client sent |
//! | `broker` | the role that carries out what `vgem-core` decides |
//! | `porter` | the role that takes fds from a stranger, so that the broker never does |
//! | `doorman` | the role that accepts where `accept` may wait for ever, so that the broker never does |
//!
//! What is not here: rules. Who may do what, and when memory is free, is decided by `vgem-core`; this crate
//! moves messages and fds, and does to the kernel what it is told.
#![forbid(unsafe_code)]

mod broker;
pub mod cli;
pub mod config;
mod doorman;
pub mod exit;
mod keeper;
mod log;
mod porter;
pub mod setup;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::{Cli, Role};
use crate::exit::Failure;

/// Runs the program with these arguments (the first is the program's own name) to its end.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.exit().into()
        }
    }
}

fn start(cli: &Cli) -> Result<(), Failure> {
    // Before anything else: a lease probe anywhere in this process may raise it, and it would end us.
    vgem_os::signal::ignore_sigio()?;
    match cli.role {
        Role::Keeper if cli.check_config => keeper::check_config(cli),
        Role::Keeper => keeper::run(cli),
        Role::Broker => broker::run(cli),
        Role::Porter => porter::run(cli),
        Role::Doorman => doorman::run(cli),
        Role::Account => keeper::become_and_exec(cli),
    }
}
