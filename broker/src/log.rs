//! Where log lines go: standard error, one line each, coloured on a terminal only.
//!
//! A filter comes from `--log`, else from `VGEMD_LOG`, else from the mode. Names and texts that a peer chose are
//! logged with `{:?}` only, so that no peer writes a line of its own.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure};

/// The environment variable with the filter.
pub(crate) const VARIABLE: &str = "VGEMD_LOG";

/// The filter in force.
pub(crate) fn filter(asked: Option<&str>, otherwise: &str) -> String {
    asked.map(str::to_owned).or_else(|| std::env::var(VARIABLE).ok()).unwrap_or_else(|| otherwise.to_owned())
}

/// Starts logging in this process.
///
/// # Errors
/// [`Exit::Usage`] for a filter that is none.
pub(crate) fn start(filter: &str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|e| Failure::new(Exit::Usage, format!("log filter {filter:?}: {e}; try info or debug")))?;
    let started = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    started.map_err(|e| Failure::new(Exit::System, format!("starting the log: {e}")))
}
