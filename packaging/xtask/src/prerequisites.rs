//! What has to be on the machine besides Rust, in one table.
//!
//! Only what is missing is installed, only from Debian, and only when this process is root. Anybody
//! else is told the one command that does it, and nothing is changed.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cargo::finish;

/// What a prerequisite is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Compiling the workspace.
    Build,
    /// Running its tests.
    Test,
    /// Measuring a peer that is a Python package.
    PythonPeer,
}

/// How to see that a prerequisite is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    /// A program of this name on the path.
    Program(&'static str),
    /// A Python that runs this statement.
    Python(&'static str),
}

/// One row: what is looked for, the Debian packages that bring it, and why it is needed.
#[derive(Debug)]
struct Prerequisite {
    probe: Probe,
    packages: &'static [&'static str],
    needed_for: Use,
    why: &'static str,
}

/// The statement that succeeds where an AES-GCM that is not ours can be had.
const INDEPENDENT_AES_GCM: &str = "from cryptography.hazmat.primitives.ciphers.aead import AESGCM";

#[rustfmt::skip]
const TABLE: &[Prerequisite] = &[
    Prerequisite { probe: Probe::Program("cc"), packages: &["gcc", "libc6-dev"], needed_for: Use::Build,
        why: "compiles the C engines: zstd, libdeflate, aws-lc" },
    Prerequisite { probe: Probe::Program("zstd"), packages: &["zstd"], needed_for: Use::Test,
        why: "reads what zip packed as zstd" },
    Prerequisite { probe: Probe::Program("gunzip"), packages: &["gzip"], needed_for: Use::Test,
        why: "reads what zip packed as gzip" },
    Prerequisite { probe: Probe::Program("lz4"), packages: &["lz4"], needed_for: Use::Test,
        why: "reads what zip packed as lz4" },
    Prerequisite { probe: Probe::Program("sha256sum"), packages: &["coreutils"], needed_for: Use::Test,
        why: "computes what sec's sha256 must equal" },
    Prerequisite { probe: Probe::Program("b3sum"), packages: &["b3sum"], needed_for: Use::Test,
        why: "computes what sec's blake3 must equal" },
    Prerequisite { probe: Probe::Program("dot"), packages: &["graphviz"], needed_for: Use::Test,
        why: "draws what vgemctl why --format dot prints" },
    Prerequisite { probe: Probe::Program("bwrap"), packages: &["bubblewrap"], needed_for: Use::Test,
        why: "makes the containers that share through domains of their own" },
    Prerequisite { probe: Probe::Program("setpriv"), packages: &["util-linux"], needed_for: Use::Test,
        why: "gives a container to another user" },
    Prerequisite { probe: Probe::Python("import zlib"), packages: &["python3"], needed_for: Use::Test,
        why: "reads what zip packed as zlib" },
    Prerequisite { probe: Probe::Python(INDEPENDENT_AES_GCM), packages: &["python3", "python3-cryptography"],
        needed_for: Use::Test, why: "opens what sec sealed" },
    Prerequisite { probe: Probe::Program("dbus-daemon"), packages: &["dbus-daemon"], needed_for: Use::Test,
        why: "is the private bus that control is tested on" },
    Prerequisite { probe: Probe::Program("busctl"), packages: &["systemd"], needed_for: Use::Test,
        why: "calls control over a bus" },
    Prerequisite { probe: Probe::Program("gdbus"), packages: &["libglib2.0-bin"], needed_for: Use::Test,
        why: "calls control over a bus" },
    Prerequisite { probe: Probe::Python("import dbus"), packages: &["python3", "python3-dbus"],
        needed_for: Use::Test, why: "calls control over a bus and maps what it gets" },
    Prerequisite { probe: Probe::Program("curl"), packages: &["curl"], needed_for: Use::Test,
        why: "asks the page server for what it serves" },
    Prerequisite { probe: Probe::Program("chromium"), packages: &["chromium"], needed_for: Use::Test,
        why: "shows the page" },
    Prerequisite { probe: Probe::Python("import prometheus_client.openmetrics.parser"),
        packages: &["python3", "python3-prometheus-client"], needed_for: Use::Test,
        why: "reads the page server's numbers" },
    Prerequisite { probe: Probe::Python("import ensurepip, venv"), packages: &["python3", "python3-venv"],
        needed_for: Use::PythonPeer, why: "holds pyarrow apart from the machine's own Python" },
];

/// Sees to it that everything needed for `uses` is there, by installing it if this process is root.
///
/// # Errors
/// When something is missing and this process may not install it (the message is the command that
/// does), or when installing fails.
pub(crate) fn provide(uses: &[Use]) -> anyhow::Result<()> {
    let missing = missing(uses);
    if missing.is_empty() {
        return Ok(());
    }
    for row in &missing {
        eprintln!("missing: {} ({})", row.probe, row.why);
    }
    let packages = packages(&missing);
    if !is_root() || find("apt-get").is_none() {
        bail!(
            "on Debian, install what is missing with:\n    sudo apt-get update && sudo apt-get install {}",
            packages.join(" ")
        );
    }
    install(&packages)?;
    let still = self::missing(uses);
    if let Some(row) = still.first() {
        bail!("{} is still missing after installing {}", row.probe, packages.join(" "));
    }
    Ok(())
}

/// A Python that has an AES-GCM which is not ours: the one on the path, else the system's.
pub(crate) fn python() -> Option<PathBuf> {
    python_that_runs(INDEPENDENT_AES_GCM)
}

/// A Python that runs `statement`: the one on the path, else the system's own.
pub(crate) fn python_that_runs(statement: &str) -> Option<PathBuf> {
    let candidates = find("python3").into_iter().chain([PathBuf::from("/usr/bin/python3")]);
    candidates.into_iter().find(|python| {
        let mut probe = Command::new(python);
        probe.args(["-c", statement]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// The program of this name that a shell would start.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| is_executable(program))
}

impl Probe {
    fn succeeds(self) -> bool {
        match self {
            Self::Program(name) => find(name).is_some(),
            Self::Python(statement) => python_that_runs(statement).is_some(),
        }
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program(name) => write!(out, "program {name}"),
            Self::Python(statement) => write!(out, "a python3 that can `{statement}`"),
        }
    }
}

fn missing(uses: &[Use]) -> Vec<&'static Prerequisite> {
    TABLE.iter().filter(|row| uses.contains(&row.needed_for) && !row.probe.succeeds()).collect()
}

/// The packages of `rows`, each once, in the order of the table.
fn packages(rows: &[&Prerequisite]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for package in rows.iter().flat_map(|row| row.packages) {
        if !packages.contains(package) {
            packages.push(*package);
        }
    }
    packages
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    finish(apt_get(&["update"])).context("cannot read Debian's list of packages")?;
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    install.args(packages);
    finish(install)
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// The owner of a process's folder in /proc is its effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_found_and_an_invented_one_is_not() {
        assert!(Probe::Program("sh").succeeds());
        assert!(!Probe::Program("no-program-has-this-name").succeeds());
    }

    #[test]
    fn a_package_that_two_rows_need_is_installed_once() {
        let rows: Vec<_> = TABLE.iter().filter(|row| row.packages.contains(&"python3")).collect();
        assert!(rows.len() > 1);
        assert_eq!(packages(&rows).iter().filter(|package| **package == "python3").count(), 1);
    }

    #[test]
    fn every_row_says_what_it_is_for() {
        for row in TABLE {
            assert!(!row.packages.is_empty() && !row.why.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn a_python_that_fails_the_statement_is_not_taken() {
        assert_eq!(python_that_runs("import no_module_has_this_name"), None);
    }
}
