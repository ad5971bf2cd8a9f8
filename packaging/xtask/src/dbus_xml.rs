//! `cargo xtask dbus-xml`: writes the introspection data of what is served on a bus, as it is installed.
//!
//! A test of `vgem-control` fails while the file is not what the program says.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::cargo::cargo;
use crate::workspace::Workspace;

/// Write packaging/dbus/org.vgemd.Broker1.xml anew.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Builds the program and has it say what it serves.
///
/// # Errors
/// When the build fails, or the file cannot be written.
pub(crate) fn run(workspace: &Workspace, _options: &Options) -> anyhow::Result<()> {
    let mut command = cargo(workspace, ["run", "--package", "vgem-control", "--", "--introspect"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("vgem-control did not say what it serves");
    }
    let place = workspace.root().join("packaging/dbus/org.vgemd.Broker1.xml");
    fs::write(&place, output.stdout).with_context(|| format!("cannot write {}", place.display()))
}
