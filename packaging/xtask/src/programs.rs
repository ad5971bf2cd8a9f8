//! The programs that make up a running vgemd, and how to build them.
//!
//! They are always built in one cargo command with whatever will use them, so that cargo settles the
//! features of shared dependencies once and compiles nothing twice.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::cargo::{cargo, finish, forget_this_package};
use crate::prerequisites::{self, Use};
use crate::workspace::{Profile, Workspace};

/// The daemon, the command line, the page, control and the drivers: each a package with one program of its name.
pub(crate) const PROGRAMS: [&str; 8] = [
    "vgemd",
    "vgemctl",
    "vgem-web",
    "vgem-control",
    "vgem-driver-copy",
    "vgem-driver-zip",
    "vgem-driver-sec",
    "vgem-driver-blk",
];

/// The variable that tells tests, examples and benches where [`PROGRAMS`] are.
pub(crate) const BIN_DIR: &str = "VGEM_BIN_DIR";

/// Packages that only benches link: they bring the systems vgemd is compared with.
pub(crate) const PEERS: &str = "vgem-peers";

/// Builds [`PROGRAMS`] and the programs of `also` in release mode; gives the folder they are in.
///
/// # Errors
/// When no C compiler is there, when cargo fails, or when a program is missing afterwards.
pub(crate) fn build_release(workspace: &Workspace, also: &[&str]) -> anyhow::Result<PathBuf> {
    prerequisites::provide(&[Use::Build])?;
    let mut command = cargo(workspace, ["build", "--release", "--bins"]);
    for package in PROGRAMS.iter().chain(also) {
        command.args(["-p", package]);
    }
    finish(command)?;
    present(workspace, Profile::Release)
}

/// The folder of the programs, once all of [`PROGRAMS`] are in it.
///
/// # Errors
/// When one is missing, by name.
pub(crate) fn present(workspace: &Workspace, profile: Profile) -> anyhow::Result<PathBuf> {
    let folder = workspace.programs(profile);
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if !missing.is_empty() {
        bail!("cargo built no {} in {}", missing.join(", "), folder.display());
    }
    Ok(folder)
}

/// Becomes `program`: same process, same stdin, stdout and terminal, its exit code ours.
///
/// Returns only when that fails, with the reason.
pub(crate) fn become_program(mut program: Command) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    forget_this_package(&mut program);
    let error = program.exec();
    anyhow::Error::new(error).context(format!("cannot start {}", program.get_program().display()))
}
