//! Peers: other systems, run by a program of their own and measured in turns with vgemd.
//!
//! `VGEM_PEERS` names that program and `VGEM_PLASMA_PYTHON` a Python that has Plasma. Where they are not there, their
//! absence and its reason ([`Missing`]) are part of the result; the rest is measured all the same.
//!
//! A peer's numbers are the peer's own: it takes the time of each round with the same clock and prints all of them.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde_json::Value;

use crate::machine::{Cores, Seat};
use crate::sample::Times;

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// iceoryx2, from Rust.
    Iceoryx2,
    /// Plasma, from Python.
    Plasma,
}

/// Why a peer cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{peer:?} was not measured: {why}")]
pub struct Missing {
    peer: Peer,
    why: String,
}

/// A peer that can be run.
#[derive(Debug, Clone)]
pub struct Runner {
    program: OsString,
    arguments: Vec<OsString>,
    peer: Peer,
}

impl Runner {
    /// Finds a peer in the environment.
    ///
    /// # Errors
    /// [`Missing`], with the reason that the environment tells.
    pub fn find(peer: Peer) -> Result<Self, Missing> {
        let program = variable(peer, "VGEM_PEERS", "VGEM_PEERS_MISSING")?;
        let arguments = match peer {
            Peer::Iceoryx2 => Vec::new(),
            Peer::Plasma => {
                let python = variable(peer, "VGEM_PLASMA_PYTHON", "VGEM_PLASMA_MISSING")?;
                vec!["--python".into(), python]
            }
        };
        Ok(Self { program, arguments, peer })
    }

    /// Measures one thing `count` times, `bytes` bytes each, with its two processes on the two seats.
    ///
    /// # Errors
    /// When the peer fails; its own words are on our stderr.
    pub fn measure(&self, what: &str, count: usize, bytes: usize, cores: &Cores) -> anyhow::Result<Times> {
        let mut command = Command::new(&self.program);
        let peer = match self.peer {
            Peer::Iceoryx2 => "iceoryx2",
            Peer::Plasma => "plasma",
        };
        command.args([peer, what]).args(&self.arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
        command.args(["--count", &count.to_string(), "--bytes", &bytes.to_string()]);
        command.args(["--here", &cores.numbers(Seat::Here), "--there", &cores.numbers(Seat::There)]);
        let run = || format!("{peer} {what}");
        let output = command.output().with_context(run)?;
        anyhow::ensure!(output.status.success(), "{} ended with {}", run(), output.status);
        times_in(&output.stdout).with_context(run)
    }
}

/// Whether a peer was measured; if not, notes why. A peer that fails takes no bench down, and is not tried again.
pub fn note_failure(notes: &mut Vec<String>, measured: anyhow::Result<()>) -> bool {
    match measured {
        Ok(()) => true,
        Err(error) => {
            notes.push(format!("a peer failed: {error:#}"));
            false
        }
    }
}

fn variable(peer: Peer, place: &str, absence: &str) -> Result<OsString, Missing> {
    env::var_os(place).filter(|value| !value.is_empty()).ok_or_else(|| {
        let why =
            env::var(absence).unwrap_or_else(|_| format!("{place} names none; run `cargo xtask bench`"));
        Missing { peer, why }
    })
}

fn times_in(document: &[u8]) -> anyhow::Result<Times> {
    let document: Value = serde_json::from_slice(document).context("no JSON")?;
    let samples = document.get("samples_ns").and_then(Value::as_array).context("no samples_ns")?;
    let mut times = Times::default();
    times.extend(samples.iter().filter_map(Value::as_f64));
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_taken_as_they_are_printed() {
        let times = times_in(br#"{"peer":"x","samples_ns":[3, 1, 2]}"#).expect("a list of samples");
        let all = times.distribution().expect("three samples");
        assert_eq!((all.p50, all.count), (2.0, 3));
    }

    #[test]
    fn a_peer_that_failed_is_noted() {
        let mut notes = Vec::new();
        assert!(
            !note_failure(&mut notes, Err(anyhow::anyhow!("it hung"))) && notes == ["a peer failed: it hung"]
        );
        assert!(note_failure(&mut notes, Ok(())) && notes.len() == 1);
    }

    #[test]
    fn a_document_without_samples_is_an_error() {
        assert!(times_in(b"{}").is_err());
        assert!(times_in(b"").is_err());
    }
}
