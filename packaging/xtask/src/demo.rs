//! `cargo xtask demo`: one command from a fresh checkout to a real file going through four devices.
//!
//! This file only builds. Every argument is the demo's own and reaches it unchanged, `--help` too.

use std::ffi::OsString;
use std::process::Command;

use crate::programs::{BIN_DIR, become_program, build_release};
use crate::workspace::Workspace;

/// Build vgemd and its drivers in release mode, then send a file through four devices and back.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// `[FILE] [--output PATH] [--plain] [--format json] [--retry]`: see `cargo xtask demo --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Builds, then becomes the demo.
///
/// # Errors
/// When the build fails or the demo cannot start. Afterwards the exit code is the demo's.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let programs = build_release(workspace, &["vgem-examples"])?;
    let mut demo = Command::new(programs.join("vgem-demo"));
    demo.args(&options.arguments).env(BIN_DIR, &programs);
    Err(become_program(demo))
}
