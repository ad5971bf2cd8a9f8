//! Files to work on: bytes that compress, the same every time, in a place of their own.

use std::path::{Path, PathBuf};

/// A directory for one test on a real file system (O_DIRECT does not work on tmpfs), removed at the end.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn place() -> tempfile::TempDir {
    let target = crate::programs::own("vgemd");
    let beside = target.parent().expect("programs are in a directory");
    tempfile::Builder::new().prefix("vgem-test-").tempdir_in(beside).expect("target/ can be written")
}

/// `len` bytes that look like text: words from a small vocabulary in an order that repeats late.
#[must_use]
pub fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "fence ", "object ", "page ", "queue ", "of ", "the ", "waits ", "for ", "a ", "job\n", "and ",
        "signals ",
    ];
    let mut bytes = Vec::with_capacity(len + 16);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = WORDS[usize::try_from(state % 12).expect("below 12")];
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A file of `len` bytes of [`text`].
///
/// # Panics
/// If it cannot be written.
#[must_use]
pub fn file(dir: &Path, name: &str, len: usize) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text(len)).expect("a file in a directory of ours");
    path
}
