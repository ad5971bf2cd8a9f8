//! The file that is sent: the one that was named, or one that every Rust machine has.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Most bytes that are sent of a file nobody named.
const UNNAMED_LEN: u64 = 256 << 20;

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// How much of it, bytes; at least 1.
    pub(crate) len: u64,
}

impl Source {
    /// Finds the file and looks at it.
    pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        let (path, most) = match named {
            Some(path) => (path.to_path_buf(), u64::MAX),
            None => (compiler_library()?, UNNAMED_LEN),
        };
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let meta = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        if !meta.is_file() {
            bail!("{} is not a regular file", path.display());
        }
        if meta.len() == 0 {
            bail!("{} is empty; there is nothing to send", path.display());
        }
        let path = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
        Ok(Self { path, len: meta.len().min(most) })
    }
}

/// The largest library of the compiler that builds this project.
fn compiler_library() -> anyhow::Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let hint = "name a file instead: cargo xtask demo FILE";
    let out = Command::new(&rustc).args(["--print", "sysroot"]).output();
    let out = out.with_context(|| format!("cannot ask {} where it lives; {hint}", rustc.display()))?;
    let lib = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib");
    let entries =
        std::fs::read_dir(&lib).with_context(|| format!("cannot list {}; {hint}", lib.display()))?;
    let library = entries.flatten().map(|e| e.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librustc_driver"))
    });
    library.with_context(|| format!("no compiler library in {}; {hint}", lib.display()))
}
