//! What this process still has of an object, as the kernel tells it.

use std::os::unix::fs::MetadataExt as _;

use vgem_os::memory::Identity;

/// What a process has of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    /// Descriptors, by `/proc/self/fd`.
    pub fds: usize,
    /// Mappings that can be written, by `/proc/self/maps`.
    pub writable: usize,
    /// Mappings that can only be read.
    pub readable: usize,
}

/// Looks for an inode in `/proc/self/fd` and `/proc/self/maps`.
///
/// # Panics
/// If `/proc` cannot be read.
#[must_use]
pub fn traces_of(identity: Identity) -> Traces {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("our mappings");
    let ours = maps.lines().filter(|line| {
        let mut columns = line.split_whitespace().skip(4);
        let inode = columns.next().and_then(|inode| inode.parse().ok());
        inode == Some(identity.inode) && columns.next().is_some_and(|name| name.starts_with("/memfd:"))
    });
    let is_writable = |line: &&str| line.split_whitespace().nth(1).is_some_and(|p| p.contains('w'));
    let (writable, readable): (Vec<&str>, Vec<&str>) = ours.partition(is_writable);
    let fds = std::fs::read_dir("/proc/self/fd").expect("our descriptors");
    // A descriptor of another thread may have gone since it was listed.
    let fds = fds.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
    let fds = fds.filter(|stat| (stat.dev(), stat.ino()) == (identity.dev, identity.inode)).count();
    Traces { fds, writable: writable.len(), readable: readable.len() }
}
