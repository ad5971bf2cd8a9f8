//! Running cargo from inside `cargo run`.
//!
//! `cargo run` leaves variables that describe *this* package in the environment. A cargo started
//! from here must not see them: build scripts that watch one of them would run again each time
//! the user changes between `cargo build` and `cargo xtask`.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::workspace::Workspace;

/// A cargo command in the tree's root, without the variables that describe this program.
pub(crate) fn cargo<I, S>(workspace: &Workspace, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace.root());
    forget_this_package(&mut command);
    command
}

/// Takes the variables that describe this program out of what `command` will inherit.
pub(crate) fn forget_this_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_this_package) {
            command.env_remove(name);
        }
    }
}

/// Runs `command` to its end, with its stdout on our stderr.
///
/// # Errors
/// When it cannot start, or does not end well; the message holds the whole command line.
pub(crate) fn finish(mut command: Command) -> anyhow::Result<()> {
    let line = spelled(&command);
    eprintln!("$ {line}");
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot duplicate stderr")?;
    let status =
        command.stdout(Stdio::from(stderr)).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// The command as a person would type it.
pub(crate) fn spelled(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn describes_this_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_describes_this_package_is_forgotten() {
        assert!(describes_this_package("CARGO_PKG_NAME"));
        assert!(describes_this_package("CARGO_MANIFEST_DIR"));
        assert!(!describes_this_package("CARGO_TARGET_DIR"));
        assert!(!describes_this_package("CARGO_HOME"));
    }

    #[test]
    fn a_command_is_spelled_without_the_folder_of_its_program() {
        let mut command = Command::new("/some/folder/cargo");
        command.args(["build", "--release"]);
        assert_eq!(spelled(&command), "cargo build --release");
    }
}
