//! The command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::mode::Mode;

/// Measures vgemd beside the bare mechanism and its peers, and prints the ratios against their targets.
#[derive(Debug, Clone, Parser)]
#[command(name = "vgem-bench", version)]
pub struct Options {
    /// Which benches, by name (see --list); if none is named, all but `limits`. Plasma is measured in runs that name `peers`.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// What an idle core does: d = it halts (the default of most machines), p = it polls (ratios are judged here).
    #[arg(long, value_enum, default_value_t = Modes::Both)]
    pub mode: Modes,
    /// Repetitions to keep of each bench.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reps: u32,
    /// A tenth of the work, small data and no wait for a quiet machine: shows that it runs, measures little.
    #[arg(long)]
    pub quick: bool,
    /// Longest wait for a quiet machine before each repetition, seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub quiet: u64,
    /// Print the names of the benches and what they measure.
    #[arg(long)]
    pub list: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

/// Which modes to measure in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Modes {
    /// Idle cores halt.
    D,
    /// Idle cores poll; without permission both ends are pinned to one core.
    P,
    /// One after the other.
    Both,
}

impl Modes {
    /// The modes, the judged one last.
    #[must_use]
    pub const fn each(self) -> &'static [Mode] {
        match self {
            Self::D => &[Mode::Default],
            Self::P => &[Mode::Polling],
            Self::Both => &[Mode::Default, Mode::Polling],
        }
    }
}

impl Options {
    /// `full` rounds, or a tenth of them in a quick run; never none.
    #[must_use]
    pub fn rounds(&self, full: usize) -> usize {
        if self.quick { (full / 10).max(1) } else { full }
    }

    /// Longest wait for a quiet machine.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        if self.quick { Duration::ZERO } else { Duration::from_secs(self.quiet) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_all_benches_run_nine_times_in_both_modes() {
        let options = Options::try_parse_from(["vgem-bench"]).expect("no argument is needed");
        assert_eq!((options.names.len(), options.reps, options.mode.each().len()), (0, 9, 2));
    }

    #[test]
    fn a_quick_run_does_a_tenth_and_at_least_one() {
        let options = Options::try_parse_from(["vgem-bench", "P3", "--quick"]).expect("both are known");
        assert_eq!((options.rounds(1000), options.rounds(3)), (100, 1));
    }

    #[test]
    fn no_repetitions_are_refused() {
        assert!(Options::try_parse_from(["vgem-bench", "--reps", "0"]).is_err());
    }
}
