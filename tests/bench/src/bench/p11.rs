//! P11: the main job, as the demo runs it, against the same engines called by two threads of one process.
//!
//! The demo is run as people run it, as a process of its own, and tells how long each direction took from the first chunk
//! to the last; starting it counts for neither side. Both sides then have read the same file just before, write the packed
//! file into the same folder, and use the same chunk length and level. The floor is run once more with the page cache
//! instead of what `blk` chooses by itself, to show what that choice is worth on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::floor::{Disk, InProcess};
use crate::harness::{Bench, Context, Repetition};
use crate::report::{Bound, Claim, Unit};
use crate::sample::ns_f64;

/// The program that runs the main job.
const DEMO: &str = "vgem-demo";

/// Bytes of the generated file of a quick run.
const QUICK_LEN: usize = 8 << 20;

/// The series of one side and one direction.
fn series(side: &str, direction: &str) -> String {
    format!("{direction}, {side}")
}

/// The side of the demo.
const VGEMD: &str = "four devices, four processes";
/// The side of the floor.
const FLOOR: &str = "one process, two threads";
/// The side of the floor with the page cache.
const CACHED: &str = "one process, two threads, page cache";
/// Both directions, by what the demo calls them.
const DIRECTIONS: [&str; 2] = ["pack", "unpack"];

/// Finds the demo.
///
/// # Errors
/// When it is not there.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let folder = tempfile::tempdir().context("no folder for packed files")?;
    let demo = find_demo()?;
    let file = match context.options.quick {
        true => Some(generated(folder.path())?),
        false => None,
    };
    Ok(Box::new(P11 { demo, folder, file, floor: None }))
}

#[derive(Debug)]
struct P11 {
    demo: PathBuf,
    folder: TempDir,
    /// The file; nothing until the demo has chosen one.
    file: Option<PathBuf>,
    floor: Option<InProcess>,
}

/// What the demo said.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    file: PathBuf,
    bytes: u64,
    chunk_bytes: u64,
    mb_per_s: [f64; 2],
}

impl Bench for P11 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let said = self.run_demo()?;
        let floor = match &mut self.floor {
            Some(floor) => floor,
            none => {
                let source = said.file.parent().context("a file lies in a folder")?;
                let floor = InProcess::new(&[source, self.folder.path()], said.chunk_bytes)?;
                // Once before it counts, as the demo has read the file before too.
                floor.run(&said.file, said.bytes, &self.folder.path().join("packed"), Disk::Auto)?;
                none.insert(floor)
            }
        };
        let packed = self.folder.path().join("packed");
        for (side, disk) in [(FLOOR, Disk::Auto), (CACHED, Disk::Cached)] {
            let took = floor.run(&said.file, said.bytes, &packed, disk)?;
            for (direction, ns) in DIRECTIONS.into_iter().zip([took.pack, took.unpack]) {
                let mb_per_s = ns_f64(said.bytes) * 1e3 / ns_f64(ns.max(1));
                found.number(&series(side, direction), Unit::MbPerSecond, mb_per_s);
            }
        }
        for (direction, mb_per_s) in DIRECTIONS.into_iter().zip(said.mb_per_s) {
            found.number(&series(VGEMD, direction), Unit::MbPerSecond, mb_per_s);
        }
        self.file = Some(said.file);
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let against = |floor: &'static str, bound: Bound| {
            DIRECTIONS.map(|direction| {
                Claim::ratio("P11", &series(VGEMD, direction), &series(floor, direction), bound)
            })
        };
        let targets = against(FLOOR, Bound::AtLeast(0.9));
        targets.into_iter().chain(against(CACHED, Bound::Shown)).collect()
    }
}

impl P11 {
    fn run_demo(&self) -> anyhow::Result<Said> {
        let mut demo = Command::new(&self.demo);
        demo.args(self.file.iter()).args(["--format", "json", "--trace"]);
        demo.arg(self.folder.path().join("trace.json")).env("TMPDIR", self.folder.path());
        demo.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = demo.output().with_context(|| self.demo.display().to_string())?;
        ensure!(output.status.success(), "the demo ended with {}", output.status);
        Said::of(&serde_json::from_slice(&output.stdout).context("the demo printed no JSON")?)
    }
}

impl Said {
    fn of(document: &Value) -> anyhow::Result<Self> {
        let number = |name: &str| {
            let value = document.get(name).and_then(Value::as_u64);
            value.with_context(|| format!("the demo does not say {name}"))
        };
        let speed = |direction: &str| {
            let value = document.get(direction).and_then(|it| it.get("mb_per_s")).and_then(Value::as_f64);
            value.with_context(|| format!("the demo does not say how fast {direction} was"))
        };
        let file =
            document.get("file").and_then(Value::as_str).context("the demo does not say which file")?;
        let [pack, unpack] = DIRECTIONS;
        Ok(Self {
            file: file.into(),
            bytes: number("bytes")?,
            chunk_bytes: number("chunk_bytes")?,
            mb_per_s: [speed(pack)?, speed(unpack)?],
        })
    }
}

/// The demo, in `VGEM_BIN_DIR` or beside this program.
fn find_demo() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("VGEM_BIN_DIR").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_path_buf));
    let folders: Vec<PathBuf> = named.into_iter().chain(beside).collect();
    let found = folders.iter().map(|folder| folder.join(DEMO)).find(|program| program.is_file());
    found.with_context(|| format!("there is no {DEMO} in {folders:?}; build the package vgem-examples"))
}

/// A file that compresses to about half, the same every time.
fn generated(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..QUICK_LEN)
        .map(|_| {
            // A multiplicative generator, of which four bits are kept: half a byte of surprise per byte.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0] & 15
        })
        .collect();
    let path = folder.join("original");
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_report_of_the_demo_is_understood() {
        let said = Said::of(&json!({
            "file": "/a/b", "bytes": 5, "chunk_bytes": 4,
            "pack": { "mb_per_s": 1.5 }, "unpack": { "mb_per_s": 2.5 },
        }));
        let wanted = Said { file: "/a/b".into(), bytes: 5, chunk_bytes: 4, mb_per_s: [1.5, 2.5] };
        assert_eq!(said.expect("all is said"), wanted);
    }

    #[test]
    fn a_report_without_a_speed_is_an_error() {
        let said = Said::of(&json!({ "file": "/a", "bytes": 5, "chunk_bytes": 4, "pack": {} }));
        assert!(said.is_err());
    }
}
