//! `cargo xtask test`: everything that can be proved on this machine, by one command.
//!
//! One build makes the programs and the tests together; what follows only runs. The closing lines
//! are the test runner's: the tests of the documentation, many of which are empty, come first.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cargo::{cargo, finish, spelled};
use crate::prerequisites::{self, Use};
use crate::programs::{BIN_DIR, PEERS, present};
use crate::workspace::{Profile, Workspace};

/// Packages whose tests start real processes.
const REAL_PROCESSES: [&str; 2] = ["vgem-tests", "vgem-examples"];

/// The variable that names a Python with an AES-GCM which is not ours.
const PYTHON: &str = "VGEM_PYTHON";

/// Install what tests need, build everything, and run every test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out real processes and the examples in documentation.
    #[arg(long)]
    quick: bool,
    /// Run only tests whose name contains this.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Runs the tests.
///
/// # Errors
/// When something that tests need is missing, when the build fails, or when a test does.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    prerequisites::provide(&[Use::Build, Use::Test])?;
    let python = prerequisites::python().context("no python3 with the cryptography package")?;

    finish(step(workspace, options, &["build", "--bins", "--tests", "--examples"]))?;
    let programs = workspace.programs(Profile::Dev);
    if !options.quick {
        present(workspace, Profile::Dev)?;
        if options.name.is_none() {
            finish(with_surroundings(step(workspace, options, &["test", "--doc"]), &programs, &python))?;
        }
    }

    if has_nextest(workspace) {
        let mut runner = step(workspace, options, &["nextest", "run", "--no-fail-fast"]);
        runner.args(&options.name);
        finish(with_surroundings(runner, &programs, &python))
    } else {
        let mut runner = step(workspace, options, &["test", "--tests", "--no-fail-fast"]);
        runner.args(&options.name);
        finish_and_count(with_surroundings(runner, &programs, &python))
    }
}

/// A cargo command over the packages that `options` leave in.
fn step(workspace: &Workspace, options: &Options, arguments: &[&str]) -> Command {
    let mut command = cargo(workspace, arguments);
    command.args(["--workspace", "--exclude", PEERS]);
    if options.quick {
        for package in REAL_PROCESSES {
            command.args(["--exclude", package]);
        }
    }
    command
}

/// Tells tests where the programs and the tools are, and takes the terminal from them.
fn with_surroundings(mut command: Command, programs: &Path, python: &Path) -> Command {
    command.env(BIN_DIR, programs).env(PYTHON, python).stdin(Stdio::null());
    command
}

fn has_nextest(workspace: &Workspace) -> bool {
    let mut probe = cargo(workspace, ["nextest", "--version"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs `cargo test`, passes its lines on, and closes with the sum over all test programs.
fn finish_and_count(mut command: Command) -> anyhow::Result<()> {
    let line = spelled(&command);
    eprintln!("$ {line}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("the test runner has no stdout")?;
    let mut sum = Tally::default();
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.context("cannot read what the test runner prints")?;
        let text = String::from_utf8_lossy(&text);
        sum.add(&text);
        say(&text)?;
    }
    let status = child.wait().context("cannot wait for the test runner")?;
    say(&format!("{} passed, {} failed", sum.passed, sum.failed))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to stdout")
}

/// Tests passed and failed over several test programs.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Counts a closing line such as `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let counts = counts.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_several_programs_add_up() {
        let mut sum = Tally::default();
        sum.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        sum.add("test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(sum, Tally { passed: 43, failed: 2 });
    }

    #[test]
    fn a_line_that_a_test_printed_counts_nothing() {
        let mut sum = Tally::default();
        sum.add("we say: test result: ok. 3 passed; 0 failed");
        assert_eq!(sum, Tally::default());
    }
}
