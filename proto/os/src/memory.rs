//! Object memory: one memfd, sealed against change of size, held through a re-opened fd.
//!
//! ```text
//!  create ──► (empty) ──populate by a client──► (full) ──export──► (exported) ──probe──► Busy | Free
//!                                                                                         │
//!                                      free: lease, punch the whole file, close ◄─────────┘
//! ```
//!
//! What it is: the owner's side of an object. It owns exactly one open file of the inode, made by opening
//! `/proc/self/fd/N`; the fd that `memfd_create` returned is dropped before anybody sees the object, because
//! the kernel does not count it as a writer and would invert the answer of the lease probe (FACTS).
//!
//! What it is not: it never maps, touches or allocates a page. The first toucher's cgroup pays for a page,
//! and that is the client.
//!
//! Invariants:
//! - Seals SHRINK, GROW and SEAL are set before the first export, so the length never changes and nobody
//!   can seal the object against its owner.
//! - The file mode is 0600, so that a read-only export cannot be re-opened for writing by another uid.
//! - Every export is a fresh open file; only the keeper gets a dup, which the probe does not see.
//! - Freed memory is punched while the lease is held: hidden references (O_PATH fds, spliced pages) find zeros.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Attempt, OsError, Result, uninterrupted};

pub use vgem_proto::rights::Access;

/// Which pages an object asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HugePages {
    /// Ordinary pages. A memory file cannot forbid more: a mapping of 2 MiB and more asks as for `Advise`.
    None,
    /// Transparent huge pages where the machine allows them: whoever maps 2 MiB and more asks with
    /// `madvise(MADV_HUGEPAGE)`, and a refusal is ignored. The default.
    #[default]
    Advise,
    /// Reserved 2 MiB pages (`MFD_HUGETLB`). The length must be a multiple.
    Size2M,
    /// Reserved 1 GiB pages (`MFD_HUGETLB`). The length must be a multiple.
    Size1G,
}

/// The answer of the lease probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Probe {
    /// No other open file of the inode exists: no export, no mapping of one, none in flight.
    Free,
    /// At least one other open file, or a mapping made through one, exists.
    Busy,
}

/// One object's memory and the owner's open file of it.
#[derive(Debug)]
pub struct ObjectMemory {
    fd: OwnedFd,
    len: u64,
    inode: u64,
}

/// The seals every object carries from birth.
pub const OBJECT_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

impl ObjectMemory {
    /// Creates memory of `len` bytes, all holes. `name` shows in `/proc/PID/maps` as `memfd:name`.
    ///
    /// # Errors
    /// `EINVAL` for a length of 0, above `i64::MAX`, or not a multiple of a reserved huge page;
    /// otherwise the errno of `memfd_create`, `ftruncate`, `fchmod`, `fcntl` or `open`.
    pub fn create(len: u64, pages: HugePages, name: &str) -> Result<Self> {
        if len == 0 || i64::try_from(len).is_err() {
            return Err(OsError::with_detail("memfd_create", Errno::INVAL, format!("length {len}")));
        }
        let first = create_memfd(pages, name)?;
        // The owner alone may open it again. For another uid this is what keeps a read-only export read-only.
        rustix::fs::fchmod(&first, Mode::RUSR | Mode::WUSR).attempt("fchmod")?;
        rustix::fs::ftruncate(&first, len).attempting("ftruncate", || format!("{len} bytes"))?;
        rustix::fs::fcntl_add_seals(&first, OBJECT_SEALS).attempting("fcntl(F_ADD_SEALS)", || name.into())?;
        let fd = reopen(first.as_fd(), Access::Write)?;
        drop(first);
        let inode = rustix::fs::fstat(&fd).attempt("fstat")?.st_ino;
        Ok(Self { fd, len, inode })
    }

    /// Takes back an object whose fd was kept (by the keeper, or over a restart). The fd must be a
    /// duplicate of an object's own re-opened fd, never the first fd of a memfd.
    ///
    /// # Errors
    /// As [`verify_export`] for writing; `EPERM` if the seals of an object are not complete.
    pub fn from_kept(fd: OwnedFd) -> Result<Self> {
        let len = verify_export(fd.as_fd(), 0, Access::Write)?;
        let seals = rustix::fs::fcntl_get_seals(&fd).attempt("fcntl(F_GET_SEALS)")?;
        if !seals.contains(OBJECT_SEALS) {
            return Err(OsError::with_detail("from_kept", Errno::PERM, format!("seals {seals:?}")));
        }
        let inode = rustix::fs::fstat(&fd).attempt("fstat")?.st_ino;
        Ok(Self { fd, len, inode })
    }

    /// The length, bytes. It never changes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: an object has at least one byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The inode number, unique among the memfds that live now.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// A fresh open file of the object, close-on-exec.
    ///
    /// # Errors
    /// The errno of `open`: `EMFILE`, `ENFILE`, or `ENOENT` where `/proc` is not mounted.
    pub fn export(&self, access: Access) -> Result<OwnedFd> {
        reopen(self.fd.as_fd(), access)
    }

    /// A duplicate of the owner's own fd, for the keeper. The lease probe does not see it.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).attempt("fcntl(F_DUPFD_CLOEXEC)")
    }

    /// True if every block of the file is there: nobody will fault a hole in later.
    ///
    /// # Errors
    /// The errno of `lseek` or `fstat`.
    pub fn is_populated(&self) -> Result<bool> {
        match rustix::fs::seek(&self.fd, SeekFrom::Hole(0)) {
            Ok(hole) if hole < self.len => Ok(false),
            // A file system that does not know its holes (hugetlbfs) answers with the end of the file, or
            // not at all; there the block count tells.
            Ok(_) | Err(Errno::INVAL | Errno::SPIPE) => {
                let blocks = rustix::fs::fstat(&self.fd).attempt("fstat")?.st_blocks;
                Ok(u64::try_from(blocks).unwrap_or(0).saturating_mul(512) >= self.len)
            }
            Err(errno) => Err(OsError::new("lseek(SEEK_HOLE)", errno)),
        }
    }

    /// Asks whether anybody else has the object open or mapped: takes a write lease and gives it back.
    ///
    /// Call [`crate::signal::ignore_sigio`] once before. Open files of *dups* of the owner's fd, and
    /// mappings made through them, are invisible to it.
    ///
    /// # Errors
    /// The errno of `fcntl(F_SETLEASE)` other than `EAGAIN`: `EACCES` if the inode belongs to another uid
    /// and `CAP_LEASE` is missing.
    pub fn probe(&self) -> Result<Probe> {
        match self.lease(libc::F_WRLCK) {
            Ok(()) => {
                self.lease(libc::F_UNLCK).attempt("fcntl(F_SETLEASE, F_UNLCK)")?;
                Ok(Probe::Free)
            }
            Err(Errno::AGAIN) => Ok(Probe::Busy),
            Err(errno) => Err(OsError::new("fcntl(F_SETLEASE, F_WRLCK)", errno)),
        }
    }

    /// Frees the memory if nobody else has it: holds the lease, punches the whole file, closes.
    ///
    /// # Errors
    /// Gives the memory back with `EBUSY` if somebody still has it, or with the errno of `fcntl` or
    /// `fallocate`.
    pub fn free(self) -> core::result::Result<(), (Self, OsError)> {
        match self.lease(libc::F_WRLCK) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let busy = OsError::with_detail("free", Errno::BUSY, format!("inode {}", self.inode));
                return Err((self, busy));
            }
            Err(errno) => return Err((self, OsError::new("fcntl(F_SETLEASE, F_WRLCK)", errno))),
        }
        match self.punch() {
            // Closing the last open file gives the lease back.
            Ok(()) => Ok(()),
            Err(error) => {
                let unlocked = self.lease(libc::F_UNLCK).attempt("fcntl(F_SETLEASE, F_UNLCK)");
                Err((self, unlocked.err().unwrap_or(error)))
            }
        }
    }

    /// Punches the whole file, whoever has it: its pages go back to the machine and everybody reads zeros.
    /// For objects whose holder was judged hostile; [`ObjectMemory::free`] is the ordinary way.
    ///
    /// # Errors
    /// The errno of `fallocate`: `EPERM` if the memory was sealed against writing.
    pub fn punch(&self) -> Result<()> {
        let all = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
        uninterrupted(|| rustix::fs::fallocate(&self.fd, all, 0, self.len))
            .attempting("fallocate(PUNCH_HOLE)", || format!("{} bytes", self.len))
    }

    fn lease(&self, kind: libc::c_int) -> core::result::Result<(), Errno> {
        // SAFETY: U6. F_SETLEASE takes an integer, and the fd is open because we own it.
        let answer = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETLEASE, kind) };
        if answer == -1 {
            return Err(crate::error::errno_of(&std::io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl AsFd for ObjectMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A fresh open file of the inode behind `fd`, through `/proc/self/fd`, close-on-exec.
///
/// # Errors
/// The errno of `open`: `EACCES` if the inode's mode refuses the access, `EPERM` if a seal does.
pub fn reopen(fd: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
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
    const CALL: &str = "verify_export";
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
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len < min_len {
        return Err(OsError::with_detail(
            CALL,
            Errno::OVERFLOW,
            format!("{len} bytes, at least {min_len} wanted"),
        ));
    }
    Ok(len)
}

/// The path through which an fd of this process is opened again.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn create_memfd(pages: HugePages, name: &str) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING).union(MemfdFlags::NOEXEC_SEAL).union(
        match pages {
            HugePages::None | HugePages::Advise => MemfdFlags::empty(),
            HugePages::Size2M => MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_2MB),
            HugePages::Size1G => MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_1GB),
        },
    );
    match rustix::fs::memfd_create(name, flags) {
        // Before Linux 6.3 NOEXEC_SEAL is unknown.
        Err(Errno::INVAL) => create_memfd_without_noexec(pages, name),
        other => other.attempting("memfd_create", || format!("{name:?}, {pages:?}")),
    }
}

/// The fall-back for kernels before 6.3: the memory is merely not marked as never executable.
fn create_memfd_without_noexec(pages: HugePages, name: &str) -> Result<OwnedFd> {
    let huge = match pages {
        HugePages::None | HugePages::Advise => None,
        HugePages::Size2M => Some(memfd::HugetlbSize::Huge2MB),
        HugePages::Size1G => Some(memfd::HugetlbSize::Huge1GB),
    };
    let made = memfd::MemfdOptions::default().allow_sealing(true).hugetlb(huge).create(name);
    match made {
        Ok(made) => Ok(OwnedFd::from(made.into_file())),
        Err(memfd::Error::Create(e)) => Err(e).attempting("memfd_create", || format!("{name:?}, {pages:?}")),
        Err(other) => Err(OsError::with_detail("memfd_create", Errno::INVAL, other.to_string())),
    }
}
