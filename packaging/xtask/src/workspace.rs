//! Where the source tree is and where cargo puts what it builds.
//!
//! Nothing is assumed about either: the tree is the one this program was run from, and the build
//! folder is the one this program was built into. So a `CARGO_TARGET_DIR`, a `build.target-dir` or a
//! `CARGO_BUILD_TARGET` of the user's is followed without being read.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Which of cargo's two usual profiles something is built in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    /// Unoptimised, with checks: what tests run.
    Dev,
    /// Optimised: what people run and benches measure.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The source tree and its build folder, both absolute.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds both from how `cargo run` started this process.
    ///
    /// # Errors
    /// When this program was not started by cargo.
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .context("start this program with `cargo xtask`, which tells it where the source tree is")?;
        let root = ancestor(&package, 2).context("packaging/xtask is not inside a source tree")?;
        let program = env::current_exe().context("cannot find the path of this program")?;
        let target = ancestor(&program, 2).context("this program is not inside a build folder")?;
        Ok(Self { root, target })
    }

    /// The top of the source tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's build folder, above the folders of the profiles.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where cargo leaves the programs of `profile`.
    pub(crate) fn programs(&self, profile: Profile) -> PathBuf {
        self.target.join(profile.folder())
    }
}

fn ancestor(path: &Path, levels: usize) -> Option<PathBuf> {
    path.ancestors().nth(levels).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_the_manifest_of_the_workspace() {
        let workspace = Workspace::of_this_process().unwrap();
        let manifest = std::fs::read_to_string(workspace.root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"), "{}", workspace.root().display());
    }

    #[test]
    fn each_profile_has_its_own_folder() {
        let workspace = Workspace { root: "/tree".into(), target: "/build".into() };
        assert_eq!(workspace.programs(Profile::Dev), Path::new("/build/debug"));
        assert_eq!(workspace.programs(Profile::Release), Path::new("/build/release"));
    }
}
