//! `cargo xtask bench`: measures vgemd, the bare mechanism and the peers in one run.
//!
//! This file builds and prepares. Every argument is the bench's own and reaches it unchanged. A peer
//! that cannot be had here is no failure: its absence, with the reason, is part of the result.
//!
//! What the bench finds in its environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `VGEM_BIN_DIR` | folder of the release programs |
//! | `VGEM_PEERS` | the program that runs the peers written in Rust; else `VGEM_PEERS_MISSING`, the reason |
//! | `VGEM_PLASMA_PYTHON` | a Python that has Plasma; else `VGEM_PLASMA_MISSING`, the reason |

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cargo::{cargo, finish};
use crate::prerequisites::{self, Use, python_that_runs};
use crate::programs::{BIN_DIR, PEERS, become_program, build_release};
use crate::workspace::Workspace;

/// Build in release mode, then measure.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// `[NAME] [--format json] ...`: see `cargo xtask bench --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Builds, then becomes the bench.
///
/// # Errors
/// When the build of vgemd or of the bench fails, or the bench cannot start.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let programs = build_release(workspace, &["vgem-bench", "vgem-examples"])?;
    let mut bench = Command::new(programs.join("vgem-bench"));
    bench.args(&options.arguments).env(BIN_DIR, &programs);
    announce(&mut bench, "VGEM_PEERS", "VGEM_PEERS_MISSING", build_peers(workspace, &programs));
    if asks_for_plasma(&options.arguments) {
        announce(&mut bench, "VGEM_PLASMA_PYTHON", "VGEM_PLASMA_MISSING", plasma(workspace));
    }
    Err(become_program(bench))
}

/// Tells the bench where something is, or why it is not there.
fn announce(bench: &mut Command, place: &str, absence: &str, found: anyhow::Result<PathBuf>) {
    match found {
        Ok(path) => bench.env(place, path),
        Err(reason) => {
            let reason = format!("{reason:#}").replace('\n', " ");
            eprintln!("xtask: measuring without a peer: {reason}");
            bench.env(absence, reason)
        }
    };
}

fn build_peers(workspace: &Workspace, programs: &Path) -> anyhow::Result<PathBuf> {
    finish(cargo(workspace, ["build", "--release", "--bins", "-p", PEERS]))?;
    let program = programs.join(PEERS);
    program.is_file().then_some(program).with_context(|| format!("cargo built no {PEERS}"))
}

/// Plasma is a large download: it is fetched for runs that name it, or that ask for the peers.
fn asks_for_plasma(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy().to_lowercase();
        argument.contains("plasma") || argument.contains("peers")
    })
}

/// A Python of our own with the last pyarrow that has Plasma, made on first use.
fn plasma(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let folder = workspace.target().join("plasma");
    let python = folder.join("bin/python3");
    if has_plasma(&python) {
        return Ok(python);
    }
    prerequisites::provide(&[Use::PythonPeer])?;
    // pyarrow 11 is built for Python 3.7 to 3.11.
    let base = python_that_runs("import sys, venv, ensurepip; assert (3, 7) <= sys.version_info < (3, 12)")
        .context("Plasma needs a Python between 3.7 and 3.11")?;
    let mut venv = Command::new(base);
    venv.args(["-m", "venv", "--clear"]).arg(&folder).stdin(Stdio::null());
    finish(venv)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--only-binary", ":all:"])
        .args(["--retries", "1", "pyarrow==11.0.0", "numpy<2"])
        .stdin(Stdio::null());
    finish(pip)?;
    has_plasma(&python).then_some(python).context("pyarrow 11 was installed, but has no Plasma")
}

fn has_plasma(python: &Path) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-W", "ignore", "-c", "import pyarrow.plasma"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> bool {
        asks_for_plasma(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn plasma_is_fetched_only_for_runs_that_ask_for_it() {
        assert!(asked(&["P1", "--peer", "plasma"]));
        assert!(asked(&["peers", "--format", "json"]));
        assert!(!asked(&["P3", "--format", "json"]));
        assert!(!asked(&[]));
    }

    #[test]
    fn an_absent_peer_is_announced_with_its_reason_on_one_line() {
        let mut bench = Command::new("bench");
        announce(&mut bench, "PLACE", "ABSENCE", Err(anyhow::anyhow!("two\nlines")));
        let told: Vec<_> = bench.get_envs().collect();
        assert_eq!(told, [("ABSENCE".as_ref(), Some("two lines".as_ref()))]);
    }
}
