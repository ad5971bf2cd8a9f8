//! Where log lines go: to the journal if standard error is a stream to it, else to standard error, one line each,
//! coloured on a terminal only. Nobody who reads them can stop who writes: what is not taken at once is lost, and how many
//! lines were is said in the next that is taken.
//!
//! A filter comes from `--log`, else from `VGEMD_LOG`, else from the mode. Names and texts that a peer chose are
//! logged with `{:?}` only, so that no peer writes a line of its own. Lines about a domain are rationed
//! (`broker::events`); what administers is always told.

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use vgem_os::lines::Lines;

use crate::exit::{Exit, Failure};

mod journal;

pub(crate) use self::journal::STREAM;

/// The environment variable with the filter.
pub(crate) const VARIABLE: &str = "VGEMD_LOG";

/// The filter in force.
pub(crate) fn filter(asked: Option<&str>, otherwise: &str) -> String {
    asked.map(str::to_owned).or_else(|| std::env::var(VARIABLE).ok()).unwrap_or_else(|| otherwise.to_owned())
}

/// Starts logging in this process, which plays this role.
///
/// # Errors
/// [`Exit::Usage`] for a filter that is none.
pub(crate) fn start(filter: &str, role: &'static str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|e| Failure::new(Exit::Usage, format!("log filter {filter:?}: {e}; try info or debug")))?;
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::System, format!("starting the log: {e}"));
    let lines = match journal::of_stderr(role) {
        Some(journal) => journal.boxed(),
        None => tracing_subscriber::fmt::layer()
            .compact()
            .with_writer(Arc::new(Lines::to_stderr().map_err(|e| failed(&e))?))
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
    };
    let started = tracing_subscriber::registry().with(parsed).with(lines).try_init();
    started.map_err(|e| failed(&e))
}
