//! `cargo xtask fuzz`: the tests against a peer of ill will, for as long as one likes.
//!
//! They are tests of their packages, where they run for a moment. Here they are built in release mode and run for a number
//! of executions each: entries, or completions, that one side has taken from memory which a second thread writes over
//! meanwhile. They say themselves how many there were, and of which kinds.

use crate::cargo::{cargo, finish};
use crate::workspace::Workspace;

/// How many executions a target runs: the tests read it.
const EXECUTIONS: &str = "VGEM_RING_FUZZ";

/// Fuzz what reads memory that others write.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is fuzzed.
    target: Target,
    /// Executions of each test of the target.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    executions: u64,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    /// A user queue's ring: the driver's side against its client, and the client's side against its driver.
    Ring,
}

impl Target {
    /// Package, and the module of its tests.
    const fn tests(self) -> (&'static str, &'static str) {
        match self {
            Self::Ring => ("vgem-os", "ring::tests::hostile"),
        }
    }
}

/// Runs the tests of a target.
///
/// # Errors
/// When the build fails, or a test does.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let (package, tests) = options.target.tests();
    let mut command = cargo(workspace, ["test", "--release", "--lib", "-p", package, tests]);
    // One after the other: each has a second thread, which is to have a core.
    command
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env(EXECUTIONS, options.executions.to_string());
    finish(command)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(line: &str) -> Option<u64> {
        Line::try_parse_from(line.split(' ')).ok().map(|line| line.options.executions)
    }

    #[test]
    fn ten_million_executions_run_where_nobody_says_how_many() {
        assert_eq!(parsed("fuzz ring"), Some(10_000_000));
        assert_eq!(parsed("fuzz ring --executions 7"), Some(7));
        assert_eq!(parsed("fuzz ring --executions 0"), None);
        assert_eq!(parsed("fuzz moon"), None);
    }
}
