//! Who holds a memory file: every open fd and every mapping of an inode, found through `/proc`.
//!
//! It looks at names first and asks nothing of anything that is not a memfd, so that a file whose server does not answer cannot
//! stall it. What it finds is a snapshot: processes come and go meanwhile. What it cannot see it counts: processes of
//! other users, and those a `hidepid` mount hides.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Serialize;

/// A file to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) inode: u64,
    /// Bytes: the same inode on another file system has another length, most likely.
    pub(crate) len: u64,
}

/// One fd or mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Hold {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) uid: u32,
    #[serde(flatten)]
    pub(crate) how: How,
    pub(crate) access: &'static str,
}

/// How a process holds a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// By an open fd of this number.
    Fd(u32),
    /// By a mapping at these addresses.
    Mapping(String),
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) holds: Vec<Hold>,
    /// Processes that are there and may not be looked into.
    pub(crate) unseen: usize,
    /// `/proc` does not even list the processes of others.
    pub(crate) hidden: bool,
}

/// Looks through every process.
pub(crate) fn find(proc: &Path, wanted: Wanted) -> anyhow::Result<Found> {
    let mut found = Found { hidden: !proc.join("1").exists(), ..Found::default() };
    let entries = fs::read_dir(proc).map_err(|e| anyhow::anyhow!("{}: {e}", proc.display()))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = entry.path();
        let (fds, mappings) = (fds(&process, wanted), mappings(&process, wanted));
        let failures = [fds.as_ref().err(), mappings.as_ref().err()];
        if failures.into_iter().flatten().any(|error| !is_gone(error)) && !is_dead(&process) {
            found.unseen += 1;
        }
        let holds: Vec<_> = fds.into_iter().chain(mappings).flatten().collect();
        if holds.is_empty() {
            continue;
        }
        let (comm, uid) = (comm(&process), uid(&process));
        let holds = holds.into_iter().map(|(how, access)| Hold { pid, comm: comm.clone(), uid, how, access });
        found.holds.extend(holds);
    }
    found.holds.sort_by_key(|hold| (hold.pid, matches!(hold.how, How::Mapping(_))));
    Ok(found)
}

/// The parent of a process, if that can be seen.
pub(crate) fn parent(proc: &Path, pid: u32) -> Option<u32> {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn fds(process: &Path, wanted: Wanted) -> std::io::Result<Vec<(How, &'static str)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(process.join("fd"))?.flatten() {
        let path = entry.path();
        // The name first: to ask a file of a stranger's choosing can take for ever.
        let is_memory = fs::read_link(&path).is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:"));
        let same = |file: fs::Metadata| file.ino() == wanted.inode && file.len() == wanted.len;
        if !is_memory || !fs::metadata(&path).is_ok_and(same) {
            continue;
        }
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.push((How::Fd(number), access_of_fd(process, number)));
    }
    Ok(found)
}

fn access_of_fd(process: &Path, number: u32) -> &'static str {
    const O_PATH: u32 = 0o10_000_000;
    let info = fs::read_to_string(process.join("fdinfo").join(number.to_string())).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    match flags {
        None => "unknown",
        Some(flags) if flags & O_PATH != 0 => "path only",
        Some(flags) => match flags & 3 {
            0 => "read",
            1 => "write",
            _ => "read, write",
        },
    }
}

fn mappings(process: &Path, wanted: Wanted) -> std::io::Result<Vec<(How, &'static str)>> {
    let maps = fs::read_to_string(process.join("maps"))?;
    Ok(maps.lines().filter_map(|line| mapping(line, wanted)).collect())
}

/// A line of `maps`, if it is of the wanted file: addresses access offset device inode name.
fn mapping(line: &str, wanted: Wanted) -> Option<(How, &'static str)> {
    let mut words = line.split_ascii_whitespace();
    let (range, access, inode) = (words.next()?, words.next()?, words.nth(2)?);
    let name = words.next()?;
    if !name.starts_with("/memfd:") || inode.parse() != Ok(wanted.inode) {
        return None;
    }
    let access = match access.as_bytes() {
        [b'r', b'w', ..] => "read, write",
        [b'r', ..] => "read",
        [_, b'w', ..] => "write",
        _ => "none",
    };
    Some((How::Mapping(range.to_owned()), access))
}

/// Whether a process went while it was looked at.
fn is_gone(error: &std::io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// Whether a process has ended and only waits for its parent to notice: it holds nothing.
fn is_dead(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_none_or(|state| matches!(state.trim_start().chars().next(), Some('Z' | 'X')))
}

fn comm(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).map(|comm| comm.trim_end().to_owned()).unwrap_or_default()
}

fn uid(process: &Path) -> u32 {
    fs::metadata(process).map(|process| process.uid()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { inode: 77, len: 8192 };

    #[test]
    fn a_mapping_is_found_by_its_inode_and_kind() {
        let of = |line: &str| mapping(line, WANTED);
        let rest = "00000000 00:01 77                         /memfd:frame (deleted)";
        let range = How::Mapping("7f00-7f10".into());
        assert_eq!(of(&format!("7f00-7f10 rw-s {rest}")), Some((range.clone(), "read, write")));
        assert_eq!(of(&format!("7f00-7f10 r--s {rest}")), Some((range, "read")));
        assert_eq!(of("7f00-7f10 rw-s 00000000 00:01 78    /memfd:frame (deleted)"), None);
        assert_eq!(of("7f00-7f10 rw-s 00000000 fe:00 77    /var/frame"), None);
        assert_eq!(of("7f00-7f10 rw-p 00000000 00:00 0 "), None);
    }

    #[test]
    fn this_process_is_found_by_its_fd_and_no_other_file_is_taken_for_it() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("a length");
        let wanted = Wanted { inode: file.metadata().expect("it is open").ino(), len: 8192 };
        let found = find(Path::new("/proc"), wanted).expect("there is /proc");
        // An ordinary file, though its inode and length are right.
        assert!(found.holds.iter().all(|hold| hold.pid != std::process::id()), "{found:?}");
    }

    #[test]
    fn a_process_that_has_ended_is_not_one_that_hides_something() {
        let mut child = std::process::Command::new("true").spawn().expect("there is a true");
        let process = Path::new("/proc").join(child.id().to_string());
        // Nobody waits for it: it stays as a zombie.
        while !is_dead(&process) {
            std::thread::yield_now();
        }
        child.wait().expect("ours");
        assert!(!is_dead(Path::new("/proc/self")));
    }

    #[test]
    fn a_place_that_is_no_proc_is_named() {
        let said = find(Path::new("/nowhere/at/all"), WANTED).map(drop).map_err(|error| error.to_string());
        assert!(said.as_ref().is_err_and(|said| said.starts_with("/nowhere/at/all: ")), "{said:?}");
    }
}
