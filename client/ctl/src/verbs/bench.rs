//! `vgemctl bench`: becomes vgem-bench, if there is one.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::{Bench, Common, Format};
use crate::exit::NotThere;

/// The program.
const PROGRAM: &str = "vgem-bench";
/// Where programs are that are no commands of their own, seen from those that are.
const BESIDE: &str = "../libexec/vgemd";
/// Where programs look for the daemon and its drivers.
const BIN_DIR: &str = "VGEM_BIN_DIR";

pub(crate) fn run(common: &Common, bench: &Bench) -> anyhow::Result<()> {
    let folders = folders(env::current_exe().ok().as_deref(), env::var_os(BIN_DIR), env::var_os("PATH"));
    let found = folders.iter().map(|folder| folder.join(PROGRAM)).find(|program| program.is_file());
    let missing = || {
        NotThere(format!(
            "{PROGRAM} is not installed; in the source tree `cargo xtask bench` builds and runs it, and `cargo xtask install \
             --bench` installs it"
        ))
    };
    let program = found.ok_or_else(missing)?;
    let mut command = Command::new(&program);
    command.args(&bench.arguments);
    if common.format == Format::Json {
        command.args(["--format", "json"]);
    }
    if env::var_os(BIN_DIR).is_none_or(|folder| folder.is_empty())
        && let Some(folder) = program.parent()
    {
        command.env(BIN_DIR, folder);
    }
    // Returns only when that fails.
    let error = command.exec();
    Err(anyhow::Error::new(error).context(format!("cannot start {}", program.display())))
}

/// Folders in which the program may be.
fn folders(program: Option<&Path>, named: Option<OsString>, path: Option<OsString>) -> Vec<PathBuf> {
    let named = named.filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let beside = program.and_then(Path::parent);
    let near = beside.into_iter().flat_map(|folder| [folder.to_owned(), folder.join(BESIDE)]);
    named.into_iter().chain(near).chain(path.iter().flat_map(env::split_paths)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_that_was_named_is_looked_in_first_and_the_path_last() {
        let found = folders(Some(Path::new("/usr/bin/vgemctl")), Some("/x".into()), Some("/bin".into()));
        assert_eq!(found, ["/x", "/usr/bin", "/usr/bin/../libexec/vgemd", "/bin"].map(PathBuf::from));
    }
}
