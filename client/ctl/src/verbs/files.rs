//! Files of `vgemctl run`: read whole into buffers, written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use vgem::{Buffer, BufferOptions, Client};

use crate::human;

/// The longest file that goes through one job, bytes. What is longer belongs in a program that works in chunks.
pub(crate) const LEN_MAX: u64 = 1 << 30;

/// Guards of this command wait for nothing but its own ended jobs.
const GUARD: Duration = Duration::from_secs(1);

/// A file in memory, where devices can reach it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) buffer: Buffer,
    /// Bytes of the file; the buffer has at least one.
    pub(crate) len: u64,
}

/// Reads a file, or standard input for `-`, into a new buffer.
pub(crate) fn load(client: &Client, name: &str) -> anyhow::Result<Loaded> {
    let loaded = if name == "-" { load_input(client) } else { load_file(client, Path::new(name)) };
    loaded.with_context(|| format!("reading {}", human::text(name)))
}

fn load_file(client: &Client, path: &Path) -> anyhow::Result<Loaded> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        // A pipe or a device has no length of its own.
        return load_stream(client, file);
    }
    check(found.len())?;
    let buffer = make(client, found.len(), &path.to_string_lossy())?;
    if found.len() > 0 {
        let mut guard = buffer.write(..found.len(), GUARD)?;
        file.read_exact(&mut guard).context("it became shorter meanwhile")?;
    }
    Ok(Loaded { buffer, len: found.len() })
}

fn load_input(client: &Client) -> anyhow::Result<Loaded> {
    load_stream(client, io::stdin().lock())
}

fn load_stream(client: &Client, stream: impl io::Read) -> anyhow::Result<Loaded> {
    let mut bytes = Vec::new();
    stream.take(LEN_MAX + 1).read_to_end(&mut bytes)?;
    let len = bytes.len() as u64;
    if len > LEN_MAX {
        bail!("it has more than {LEN_MAX} bytes, the most that one job takes; cut it in parts");
    }
    let buffer = make(client, len, "stdin")?;
    buffer.copy_in(0, &bytes, GUARD)?;
    Ok(Loaded { buffer, len })
}

fn check(len: u64) -> anyhow::Result<()> {
    if len > LEN_MAX {
        bail!("it has {len} bytes, and one job takes at most {LEN_MAX}; cut it in parts");
    }
    Ok(())
}

/// A buffer for this many bytes; there is always at least one.
pub(crate) fn make(client: &Client, len: u64, name: &str) -> anyhow::Result<Buffer> {
    Ok(client.create_with(len.max(1), &BufferOptions::new().name(name))?)
}

/// Writes the first `len` bytes of a buffer to a file, or to standard output for `-`. The file appears whole.
pub(crate) fn store(buffer: &Buffer, len: u64, name: &str) -> anyhow::Result<()> {
    let guard = buffer.read(..len, GUARD)?;
    store_bytes(&guard, name)
}

/// Writes bytes to a file, or to standard output for `-`. The file appears whole.
pub(crate) fn store_bytes(bytes: &[u8], name: &str) -> anyhow::Result<()> {
    let stored = match name {
        "-" => write_to(&mut io::stdout().lock(), bytes),
        _ if is_special(Path::new(name)) => {
            File::options().write(true).open(name).and_then(|mut file| write_to(&mut file, bytes))
        }
        _ => store_whole(bytes, Path::new(name)),
    };
    stored.with_context(|| format!("writing {}", human::text(name)))
}

/// Whether something that is no ordinary file is there: it is written to, never replaced.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

fn store_whole(bytes: &[u8], path: &Path) -> io::Result<()> {
    // A link is followed: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let part = Part::beside(&path);
    let mut file = File::create_new(&part.0)?;
    if let Ok(found) = fs::metadata(&path) {
        file.set_permissions(found.permissions())?;
    }
    write_to(&mut file, bytes)?;
    fs::rename(&part.0, &path)
}

fn write_to(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// A file that is not finished; gone on drop unless it got its name.
#[derive(Debug)]
struct Part(PathBuf);

impl Part {
    fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self(path.with_file_name(format!(".{name}.vgemctl-{}", std::process::id())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is not there any more when all went well.
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("out");
        let name = path.to_str().expect("a text");
        store_bytes(b"one", name).expect("written");
        store_bytes(b"two", name).expect("written");
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("a folder")
            .filter_map(Result::ok)
            .map(|one| one.file_name())
            .collect();
        assert_eq!((fs::read(&path).expect("it is there"), names), (b"two".to_vec(), vec!["out".into()]));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let said = store_bytes(b"x", "/nowhere/at/all").map_err(|error| format!("{error:#}"));
        assert!(said.is_err_and(|said| said.starts_with("writing /nowhere/at/all: ")));
    }

    #[test]
    fn what_is_too_long_is_refused_with_the_limit() {
        let said = check(LEN_MAX + 1).map_err(|error| error.to_string());
        assert_eq!(
            said,
            Err("it has 1073741825 bytes, and one job takes at most 1073741824; cut it in parts".into())
        );
    }
}
