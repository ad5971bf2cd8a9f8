//! `cargo xtask check`: what must hold of the source before anything runs.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cargo::{cargo, finish};
use crate::prerequisites::{self, Use};
use crate::programs::PEERS;
use crate::workspace::Workspace;

/// Check format, lints and documentation, and with cargo-deny licences and bans.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Lint `tests/peers` too, which compiles the systems that benches compare with.
    #[arg(long)]
    peers: bool,
}

/// Runs each check; the first that fails ends it.
///
/// # Errors
/// The check that failed, as a command line to repeat.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    prerequisites::provide(&[Use::Build])?;
    let packages: &[&str] =
        if options.peers { &["--workspace"] } else { &["--workspace", "--exclude", PEERS] };

    finish(cargo(workspace, ["fmt", "--all", "--check"]))?;

    let mut clippy = cargo(workspace, ["clippy"]);
    clippy.args(packages).args(["--all-targets", "--", "-D", "warnings"]);
    finish(clippy)?;

    let mut doc = cargo(workspace, ["doc", "--no-deps"]);
    doc.args(packages).env("RUSTDOCFLAGS", "-D warnings");
    finish(doc).context("with RUSTDOCFLAGS='-D warnings'")?;

    if has_deny(workspace) {
        // Advisories need their database from the network: `cargo deny check` asks for them as well.
        finish(cargo(workspace, ["deny", "check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences and bans of deny.toml were not checked");
    }
    Ok(())
}

fn has_deny(workspace: &Workspace) -> bool {
    let mut probe: Command = cargo(workspace, ["deny", "--version"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
