//! What is asked of a memory file before it is relied on, and how it is opened again.
//!
//! Nothing here decides who may have memory: it says what an fd is, so that a mapping of it can raise no signal
//! (U3) and an answer about it is about the inode that was meant.

use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, SealFlags, Stat};
use rustix::io::Errno;

use super::Access;
use crate::error::{Attempt, OsError, Result, uninterrupted};
use crate::mapping::PAGE;

/// Which file an fd is of: the device and the inode on it. Two open files of one memory have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The device number, as in `st_dev`. All memfds without reserved huge pages share one.
    pub dev: u64,
    /// The inode number on that device. It may be given again once the file is gone.
    pub inode: u64,
}

/// Which file `fd` is of. Ask it of memory only: on a file of a stranger's choosing it may never return.
///
/// # Errors
/// The errno of `fstat`.
pub fn identity(fd: BorrowedFd<'_>) -> Result<Identity> {
    rustix::fs::fstat(fd).map(|stat| Identity::of(&stat)).attempt("fstat")
}

impl Identity {
    pub(crate) const fn of(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, inode: stat.st_ino }
    }
}

/// A fresh open file of the inode behind `fd`, through `/proc/self/fd`, close-on-exec.
///
/// # Errors
/// The errno of `open`: `EACCES` if the inode's mode refuses the access, `EPERM` if a seal does.
pub fn reopen(fd: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
    // Each number that is opened through /proc stays in the kernel's caches, with a kibibyte. A duplicate has the
    // lowest free number, which is nearly always the same one; the fd's own is another for every object.
    let passing = rustix::io::fcntl_dupfd_cloexec(fd, 0).attempt("fcntl(F_DUPFD_CLOEXEC)")?;
    reopen_itself(passing.as_fd(), access)
}

/// As [`reopen`], by the fd's own number: for one that is closed soon.
pub(super) fn reopen_itself(fd: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    let path = proc_path(fd);
    uninterrupted(|| rustix::fs::open(path.as_str(), flags.union(OFlags::CLOEXEC), Mode::empty()))
        .attempting("open", || format!("{path} for {access:?}"))
}

/// Checks an fd that came from a peer before it is mapped, and returns its length in bytes.
///
/// It must be a regular file that answers `F_GET_SEALS` with SHRINK and GROW (so that no access inside its
/// length can raise `SIGBUS` by truncation), opened so that `access` fits, and at least `min_len` bytes long.
///
/// # Errors
/// `EINVAL` if it is no sealable memory, `EPERM` if the seals are missing, `EACCES` if the open mode does not
/// fit, `EOVERFLOW` if it is too short; each says what was found.
pub fn verify_export(fd: BorrowedFd<'_>, min_len: u64, access: Access) -> Result<u64> {
    verified(fd, min_len, access).map(|stat| length(&stat))
}

/// As [`verify_export`], and that what is mapped for `len` bytes is `len` bytes, rounded to ordinary pages. Of reserved
/// huge pages the kernel maps, moves and replaces whole ones: more than was asked for.
///
/// # Errors
/// As there; `EINVAL` if `len` covers a reserved huge page in part.
pub(crate) fn verify_mapping(fd: BorrowedFd<'_>, len: u64, access: Access) -> Result<()> {
    let stat = verified(fd, len, access)?;
    match page_covered_in_part(fd, &stat, len)? {
        None => Ok(()),
        Some(page) => {
            let detail = format!("{len} bytes, a multiple of its reserved huge pages of {page} is wanted");
            Err(OsError::with_detail(CALL, Errno::INVAL, detail))
        }
    }
}

const CALL: &str = "verify_export";

fn verified(fd: BorrowedFd<'_>, min_len: u64, access: Access) -> Result<Stat> {
    // First of all: anything that is not sealable memory fails here at once, without being touched.
    let seals = rustix::fs::fcntl_get_seals(fd).attempting(CALL, || "not sealable memory".into())?;
    if !seals.contains(SealFlags::SHRINK.union(SealFlags::GROW)) {
        return Err(OsError::with_detail(CALL, Errno::PERM, format!("seals {seals:?} lack SHRINK or GROW")));
    }
    let stat = rustix::fs::fstat(fd).attempt("fstat")?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(OsError::with_detail(CALL, Errno::INVAL, "not a regular file"));
    }
    let mode = rustix::fs::fcntl_getfl(fd).attempt("fcntl(F_GETFL)")?.intersection(OFlags::RWMODE);
    let fits = match access {
        Access::Read => mode == OFlags::RDONLY || mode == OFlags::RDWR,
        Access::Write => mode == OFlags::RDWR,
    };
    if !fits {
        return Err(OsError::with_detail(
            CALL,
            Errno::ACCESS,
            format!("opened {mode:?}, wanted for {access:?}"),
        ));
    }
    let len = length(&stat);
    if len < min_len {
        return Err(OsError::with_detail(
            CALL,
            Errno::OVERFLOW,
            format!("{len} bytes, at least {min_len} wanted"),
        ));
    }
    Ok(stat)
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The length of a reserved huge page of the file, if it has such pages and `len` is no multiple of it.
///
/// The length of such a file is always a multiple of its blocks, and these are longer than a page. So may be those of
/// ordinary memory, where the machine gives huge pages to all of it: then the file system is asked.
fn page_covered_in_part(fd: BorrowedFd<'_>, stat: &Stat, len: u64) -> Result<Option<u64>> {
    let page = u64::try_from(stat.st_blksize).unwrap_or(0);
    if page <= PAGE as u64 || len.is_multiple_of(page) || !length(stat).is_multiple_of(page) {
        return Ok(None);
    }
    Ok(is_on_hugetlbfs(fd)?.then_some(page))
}

/// Whether memory is of reserved huge pages.
pub(crate) fn is_on_hugetlbfs(fd: BorrowedFd<'_>) -> Result<bool> {
    /// `HUGETLBFS_MAGIC`.
    const HUGETLBFS: u64 = 0x958_458f6;
    let answer = rustix::fs::fstatfs(fd).attempt("fstatfs")?;
    Ok(u64::try_from(answer.f_type).is_ok_and(|kind| kind == HUGETLBFS))
}

/// The path through which an fd of this process is opened again.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
