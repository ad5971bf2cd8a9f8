//! Finding and running programs: our own from `VGEM_BIN_DIR`, tools from the PATH.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One of our programs, as `cargo xtask test` built it.
///
/// # Panics
/// If it is not there; run the tests with `cargo xtask test`, which builds them first.
#[must_use]
pub fn own(name: &str) -> PathBuf {
    let dir = std::env::var_os("VGEM_BIN_DIR").map_or_else(beside_the_test, PathBuf::from);
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing; run the tests with `cargo xtask test`", path.display());
    path
}

/// `target/PROFILE`, from `target/PROFILE/deps/TEST`.
fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps").to_path_buf()
}

/// A Python that has an AES-GCM which is not ours.
#[must_use]
pub fn python() -> PathBuf {
    std::env::var_os("VGEM_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// Runs a program to its end with nothing on its standard input.
///
/// # Panics
/// If it cannot be started.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Output {
    let program = program.as_ref();
    let out = Command::new(program).args(args).stdin(Stdio::null()).output();
    out.unwrap_or_else(|e| {
        panic!("{} cannot be started: {e}; `cargo xtask test` installs it", program.display())
    })
}

/// As [`run`], for programs that must succeed; what it printed.
///
/// # Panics
/// If it fails, with what it said.
pub fn succeed<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> String {
    let program = program.as_ref();
    let out = run(program, args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{} ended with {}: {said}", program.display(), out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The first word that a digest tool prints for a file.
///
/// # Panics
/// If the tool fails.
#[must_use]
pub fn digest(tool: &str, file: &Path) -> String {
    let out = succeed(tool, [file]);
    out.split_whitespace().next().expect("digest tools print a digest").to_owned()
}
