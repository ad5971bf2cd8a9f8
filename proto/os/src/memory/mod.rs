//! Object memory: one memfd, sealed against change of size, held through a re-opened fd.
//!
//! ```text
//!  create ──► (empty) ──populate by a client──► (full) ──export──► (exported) ──probe──► Busy | Free
//!                                                                                         │
//!                                      free: lease, punch the whole file, close ◄─────────┘
//! ```
//!
//! Three origins ([`Origin`]): memory made here; memory made here whose writing can later be sealed away (*sealed
//! results*, [`ObjectMemory::create_sealable`]); and *foreign* memory that a client made
//! ([`ObjectMemory::from_foreign`]).
//!
//! What it is: the owner's side of an object. It owns exactly one open file of the inode, made by opening
//! `/proc/self/fd/N`; the fd that `memfd_create` returned is dropped before anybody sees the object, because
//! the kernel does not count it as a writer and would invert the answer of the lease probe (FACTS).
//!
//! What it is not: it never maps, touches or allocates a page. The first toucher's cgroup pays for a page,
//! and that is the client.
//!
//! Invariants:
//! - Seals SHRINK and GROW are set before the first export, so the length never changes. SEAL is set with them, so
//!   that nobody can seal the object against its owner, except on sealable memory, where it comes with the seal
//!   against writing: until then whoever is given a writable export could seal it, and only the one writing
//!   driver is.
//! - The file mode is 0600, so that a read-only export cannot be re-opened for writing by another uid.
//!   [`ObjectMemory::tampered`] tells when somebody changed that.
//! - Every export is a fresh open file; only the keeper gets a dup, which the probe does not see.
//! - Freed memory is punched while the lease is held: hidden references (O_PATH fds, spliced pages) find zeros.
//!   Two exceptions: memory sealed against writing cannot be punched, and foreign memory is not ours to punch.

mod create;
mod verify;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::fs::{FallocateFlags, Mode, OFlags, SealFlags, SeekFrom, Stat};
use rustix::io::Errno;

use self::create::create_memfd;
use self::verify::reopen_itself;
pub use self::verify::{Identity, identity, reopen, verify_export};
pub(crate) use self::verify::{is_on_hugetlbfs, proc_path, verify_mapping};
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
    /// Reserved 2 MiB pages (`MFD_HUGETLB`). The length must be a multiple. Whoever has a writable export can punch a
    /// page out; if none is left to take its place, whoever has it mapped and touches it is ended by `SIGBUS`.
    Size2M,
    /// Reserved 1 GiB pages (`MFD_HUGETLB`). The length must be a multiple. As for 2 MiB otherwise.
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

/// Where memory came from, which decides what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Made here, and never sealed against writing.
    Own,
    /// Made here; [`ObjectMemory::seal_against_writing`] ends its writing.
    Sealable,
    /// Made by a client: not ours to punch, and its inode's owner and mode are the client's affair.
    Foreign,
}

/// One object's memory and the owner's open file of it.
#[derive(Debug)]
pub struct ObjectMemory {
    fd: OwnedFd,
    len: u64,
    identity: Identity,
    origin: Origin,
    access: Access,
    /// Who owned the inode of memory made here when it was made, that is, this process.
    uid: u32,
}

/// The seals every object carries from birth, unless it is sealable or foreign.
pub const OBJECT_SEALS: SealFlags = SIZE_SEALS.union(SealFlags::SEAL);

/// The seals that keep the length as it is, which every object carries, whoever made it.
pub const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Either of these ends writing through every open and mapping to come.
const WRITE_SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

/// The permission bits of memory made here: the owner alone may open it again.
const OBJECT_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

impl ObjectMemory {
    /// Creates memory of `len` bytes, all holes. `name` shows in `/proc/PID/maps` as `memfd:name`.
    ///
    /// # Errors
    /// `EINVAL` for a length of 0, above `i64::MAX`, or not a multiple of a reserved huge page;
    /// otherwise the errno of `memfd_create`, `ftruncate`, `fchmod`, `fcntl` or `open`.
    pub fn create(len: u64, pages: HugePages, name: &str) -> Result<Self> {
        Self::make(len, pages, name, Origin::Own)
    }

    /// As [`ObjectMemory::create`], for a *sealed result*: [`ObjectMemory::seal_against_writing`] can end all
    /// writing later. Give a writable export to the one writing driver alone: whoever has one can add seals too.
    ///
    /// # Errors
    /// As [`ObjectMemory::create`].
    pub fn create_sealable(len: u64, pages: HugePages, name: &str) -> Result<Self> {
        Self::make(len, pages, name, Origin::Sealable)
    }

    fn make(len: u64, pages: HugePages, name: &str, origin: Origin) -> Result<Self> {
        if len == 0 || i64::try_from(len).is_err() {
            return Err(OsError::with_detail("memfd_create", Errno::INVAL, format!("length {len}")));
        }
        let first = create_memfd(pages, name)?;
        // The owner alone may open it again. For another uid this is what keeps a read-only export read-only.
        rustix::fs::fchmod(&first, OBJECT_MODE).attempt("fchmod")?;
        rustix::fs::ftruncate(&first, len).attempting("ftruncate", || format!("{len} bytes"))?;
        rustix::fs::fcntl_add_seals(&first, origin.seals())
            .attempting("fcntl(F_ADD_SEALS)", || name.into())?;
        let fd = reopen_itself(first.as_fd(), Access::Write)?;
        drop(first);
        Self::hold(fd, len, origin, Access::Write)
    }

    /// Takes back an object whose fd was kept (by the keeper, or over a restart). The fd must be a
    /// duplicate of an object's own re-opened fd, never the first fd of a memfd.
    ///
    /// # Errors
    /// As [`verify_export`] for writing; `EPERM` if the seals of an object are not complete.
    pub fn from_kept(fd: OwnedFd) -> Result<Self> {
        Self::from_kept_as(fd, Origin::Own)
    }

    /// As [`ObjectMemory::from_kept`], for an object of any origin.
    ///
    /// # Errors
    /// As there, for the seals of that origin; foreign memory may be open for reading only.
    pub fn from_kept_as(fd: OwnedFd, origin: Origin) -> Result<Self> {
        let access = match origin {
            Origin::Own | Origin::Sealable => Access::Write,
            Origin::Foreign => usable_access(fd.as_fd())?,
        };
        let len = verify_export(fd.as_fd(), 0, access)?;
        let seals = seals_of(fd.as_fd())?;
        if !seals.contains(origin.seals()) {
            let detail = format!("seals {seals:?}, wanted {:?}", origin.seals());
            return Err(OsError::with_detail("from_kept", Errno::PERM, detail));
        }
        Self::hold(fd, len, origin, access)
    }

    /// Takes memory that a client made and a porter has examined ([`crate::arrival`]). It is checked again, opened
    /// again, and the fd that arrived is closed: what the client does to its open file does not reach ours.
    ///
    /// It is held for writing if the fd was open for it and no seal forbids it, else for reading only
    /// ([`ObjectMemory::access`]).
    ///
    /// # Errors
    /// As [`verify_export`]; `EINVAL` for no bytes; the errno of `open`, with the owner and the mode of the file,
    /// if these keep us from opening it again.
    pub fn from_foreign(fd: OwnedFd) -> Result<Self> {
        let access = usable_access(fd.as_fd())?;
        let len = verify_export(fd.as_fd(), 0, access)?;
        if len == 0 {
            return Err(OsError::with_detail("from_foreign", Errno::INVAL, "0 bytes, at least 1 wanted"));
        }
        let own = reopen_itself(fd.as_fd(), access).map_err(|error| match stat_of(fd.as_fd()) {
            Ok(stat) => {
                let detail = format!(
                    "the memory belongs to uid {} with mode {:o}, which keeps uid {} from opening it for {access:?}",
                    stat.st_uid,
                    permissions(&stat),
                    rustix::process::geteuid().as_raw(),
                );
                OsError::with_detail("open", error.errno(), detail)
            }
            Err(_) => error,
        })?;
        drop(fd);
        Self::hold(own, len, Origin::Foreign, access)
    }

    fn hold(fd: OwnedFd, len: u64, origin: Origin, access: Access) -> Result<Self> {
        let identity = identity(fd.as_fd())?;
        Ok(Self { fd, len, identity, origin, access, uid: rustix::process::geteuid().as_raw() })
    }

    /// Ends all writing, for everybody and for good: no writable mapping, write or punch from now on. Mappings made
    /// before keep writing, so call it when the writing driver has unmapped. Sealing twice changes nothing.
    ///
    /// # Errors
    /// `EPERM` if the memory was made without this in mind ([`ObjectMemory::create`]), is foreign, or was sealed
    /// otherwise by somebody with a writable export.
    pub fn seal_against_writing(&self) -> Result<()> {
        const CALL: &str = "fcntl(F_ADD_SEALS)";
        let wanted = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);
        if self.origin != Origin::Sealable {
            let detail = format!("{:?} memory is not sealable", self.origin);
            return Err(OsError::with_detail(CALL, Errno::PERM, detail));
        }
        if seals_of(self.as_fd())?.contains(wanted) {
            return Ok(());
        }
        rustix::fs::fcntl_add_seals(&self.fd, wanted)
            .attempting(CALL, || format!("{wanted:?} on inode {}", self.identity.inode))
    }

    /// True once nobody can write it through an open or a mapping to come.
    ///
    /// # Errors
    /// The errno of `fcntl(F_GET_SEALS)`.
    pub fn is_sealed_against_writing(&self) -> Result<bool> {
        Ok(seals_of(self.as_fd())?.intersects(WRITE_SEALS))
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
        self.identity.inode
    }

    /// Which file it is, to compare with [`identity`] of an fd that came back.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Where it came from.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// True if a client made it.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.origin, Origin::Foreign)
    }

    /// What it is held for: exports cannot be wider. Always for writing if it was made here.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Whether somebody changed the owner or the permissions of the file since it was made, which a privileged
    /// holder of any export can: in words, old and new. Foreign memory has no state of ours, so never.
    ///
    /// One `fstat`.
    ///
    /// # Errors
    /// The errno of `fstat`.
    pub fn tampered(&self) -> Result<Option<String>> {
        if self.is_foreign() {
            return Ok(None);
        }
        let stat = stat_of(self.as_fd())?;
        let (uid, mode) = (stat.st_uid, permissions(&stat));
        if (uid, mode) == (self.uid, OBJECT_MODE.as_raw_mode()) {
            return Ok(None);
        }
        let (was, mode_was) = (self.uid, OBJECT_MODE.as_raw_mode());
        Ok(Some(format!("owner was uid {was} and is {uid}, mode was {mode_was:o} and is {mode:o}")))
    }

    /// A fresh open file of the object, close-on-exec.
    ///
    /// # Errors
    /// `EACCES` for writing if it is held for reading only, or sealed against writing; the errno of `open`:
    /// `EMFILE`, `ENFILE`, or `ENOENT` where `/proc` is not mounted.
    pub fn export(&self, access: Access) -> Result<OwnedFd> {
        // The kernel would open sealed memory for writing, and refuse each write; better to be told now.
        let sealed = || match self.origin {
            Origin::Sealable => self.is_sealed_against_writing(),
            Origin::Own | Origin::Foreign => Ok(false),
        };
        if access == Access::Write && (self.access == Access::Read || sealed()?) {
            let detail = format!("inode {} can be read only", self.identity.inode);
            return Err(OsError::with_detail("export", Errno::ACCESS, detail));
        }
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
    /// Memory sealed against writing cannot be punched and goes with its last close, which this is as far as the
    /// probe sees. Foreign memory is never punched: its maker may still have it, and the probe does not see the
    /// first fd of a memfd. Where the lease of foreign memory cannot be taken (`EACCES`), it is just closed.
    ///
    /// # Errors
    /// Gives the memory back with `EBUSY` if somebody still has it, or with the errno of `fcntl` or
    /// `fallocate`.
    pub fn free(self) -> core::result::Result<(), (Self, OsError)> {
        match self.lease(libc::F_WRLCK) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let busy =
                    OsError::with_detail("free", Errno::BUSY, format!("inode {}", self.identity.inode));
                return Err((self, busy));
            }
            Err(Errno::ACCESS) if self.is_foreign() => return Ok(()),
            Err(errno) => return Err((self, OsError::new("fcntl(F_SETLEASE, F_WRLCK)", errno))),
        }
        match self.wipe() {
            // Closing the last open file gives the lease back.
            Ok(()) => Ok(()),
            Err(error) => {
                let unlocked = self.lease(libc::F_UNLCK).attempt("fcntl(F_SETLEASE, F_UNLCK)");
                Err((self, unlocked.err().unwrap_or(error)))
            }
        }
    }

    /// Punches what may be punched.
    fn wipe(&self) -> Result<()> {
        if self.is_foreign() || self.is_sealed_against_writing()? {
            return Ok(());
        }
        self.punch()
    }

    /// Punches the whole file, whoever has it: its pages go back to the machine and everybody reads zeros.
    /// For objects whose holder was judged hostile; [`ObjectMemory::free`] is the ordinary way.
    ///
    /// # Errors
    /// The errno of `fallocate`: `EPERM` if the memory was sealed against writing. `EPERM` for foreign memory.
    pub fn punch(&self) -> Result<()> {
        const CALL: &str = "fallocate(PUNCH_HOLE)";
        if self.is_foreign() {
            return Err(OsError::with_detail(CALL, Errno::PERM, "foreign memory is not ours to punch"));
        }
        let all = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
        uninterrupted(|| rustix::fs::fallocate(&self.fd, all, 0, self.len))
            .attempting(CALL, || format!("{} bytes", self.len))
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

impl Origin {
    /// The seals memory of this origin has at least.
    const fn seals(self) -> SealFlags {
        match self {
            Self::Own => OBJECT_SEALS,
            Self::Sealable | Self::Foreign => SIZE_SEALS,
        }
    }
}

/// What an fd of memory can be used for, by its open mode and its seals.
///
/// # Errors
/// `EINVAL` if it is no sealable memory.
fn usable_access(fd: BorrowedFd<'_>) -> Result<Access> {
    let seals =
        rustix::fs::fcntl_get_seals(fd).attempting("verify_export", || "not sealable memory".into())?;
    let mode = rustix::fs::fcntl_getfl(fd).attempt("fcntl(F_GETFL)")?.intersection(OFlags::RWMODE);
    let writable = mode != OFlags::RDONLY && !seals.intersects(WRITE_SEALS);
    Ok(if writable { Access::Write } else { Access::Read })
}

fn seals_of(fd: BorrowedFd<'_>) -> Result<SealFlags> {
    rustix::fs::fcntl_get_seals(fd).attempt("fcntl(F_GET_SEALS)")
}

fn stat_of(fd: BorrowedFd<'_>) -> Result<Stat> {
    rustix::fs::fstat(fd).attempt("fstat")
}

/// The permission bits of a file, with set-uid, set-gid and sticky.
fn permissions(stat: &Stat) -> u32 {
    Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o7777
}
