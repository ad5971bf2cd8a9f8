//! Plasma: an object from one Python process to another through a store, and an object back.
//!
//! The script starts the store, and the second process of a hand-over, and ends both.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::Rounds;

/// What both Python processes run.
const SCRIPT: &str = include_str!("plasma.py");

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Connect to a running store, create an object, seal it.
    Setup,
    /// A buffer copied into a new object, sealed, got and read by another process, acknowledged by a small object.
    Handover,
}

/// Measures; one time per round, nanoseconds.
pub(crate) fn measure(what: What, python: &Path, rounds: &Rounds) -> anyhow::Result<Vec<u64>> {
    let word = match what {
        What::Setup => "setup",
        What::Handover => "handover",
    };
    let mut script = Command::new(python);
    script.args(["-W", "ignore", "-c", SCRIPT, word]);
    script.args([rounds.count, rounds.warm_up(), rounds.bytes as u64].map(|number| number.to_string()));
    script.args([&rounds.here, &rounds.there].map(|cores| cores.as_deref().unwrap_or("")));
    // Clients report every attempt to reach a store that is still starting: shown only if the run fails.
    script.stdin(Stdio::null()).stderr(Stdio::piped());
    let output = script.output().with_context(|| format!("cannot start {}", python.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("nothing");
    anyhow::ensure!(output.status.success(), "the script ended with {} and said: {last}", output.status);
    serde_json::from_slice(&output.stdout).context("the script printed no list of numbers")
}
