//! Where the programs are: the daemon that an embedded broker runs, and the drivers it starts.
//!
//! In this order: the folder that was named, else the one in `VGEM_BIN_DIR`; else beside this program, the folder
//! above it (tests and examples are built into folders below their programs), and the folders of `PATH`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a program's name begins with, if it is a driver.
pub(crate) const DRIVER: &str = "vgem-driver-";

/// Folders to look in, in order.
pub(crate) fn folders(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(folder) = named {
        return vec![folder.to_owned()];
    }
    if let Some(folder) = env::var_os("VGEM_BIN_DIR").filter(|folder| !folder.is_empty()) {
        return vec![folder.into()];
    }
    around(env::current_exe().ok().as_deref(), env::var_os("PATH"))
}

fn around(program: Option<&Path>, path: Option<OsString>) -> Vec<PathBuf> {
    let beside = program.and_then(Path::parent);
    let above = beside.and_then(Path::parent);
    let near = beside.into_iter().chain(above).map(Path::to_owned);
    near.chain(path.iter().flat_map(env::split_paths)).collect()
}

/// The first folder that has a program of this name.
pub(crate) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Folders as a person reads them.
pub(crate) fn spell(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_a_test_is_looked_for_above_it_before_path() {
        let folders = around(Some(Path::new("/t/debug/deps/test-1")), Some("/usr/bin:/bin".into()));
        assert_eq!(folders, ["/t/debug/deps", "/t/debug", "/usr/bin", "/bin"].map(PathBuf::from));
    }

    #[test]
    fn a_named_folder_is_the_only_one() {
        assert_eq!(folders(Some(Path::new("/x"))), [PathBuf::from("/x")]);
    }
}
