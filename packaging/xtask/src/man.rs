//! `cargo xtask man`: writes the pages of the manual, as they are installed.
//!
//! A test of `vgemctl` fails while they are not what its command line says.

use std::fs;
use std::io::ErrorKind;

use anyhow::Context;

use crate::cargo::{cargo, finish};
use crate::workspace::Workspace;

/// Write packaging/man anew.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Builds the program and has it write its pages.
///
/// # Errors
/// When the build fails, or a page cannot be written.
pub(crate) fn run(workspace: &Workspace, _options: &Options) -> anyhow::Result<()> {
    let place = workspace.root().join("packaging/man");
    // A page of a verb that is no more would stay.
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", place.display()));
        }
        _ => {}
    }
    let mut command = cargo(workspace, ["run", "--package", "vgemctl", "--", "man"]);
    command.arg(&place);
    finish(command)
}
