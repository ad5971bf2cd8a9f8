//! Arrivals: looking at a stranger's fd without being harmed.
//!
//! ```text
//!  fd ──F_GET_SEALS──► refused at once ──readlink──► Unfit { kind, why }      nothing was asked of the file
//!         │
//!         └─► memory ──fstat: a memfd?──► open mode ──► length ──► seals ──► length again ──► Fitting
//! ```
//!
//! What it is: the table by which a porter admits memory that a client made, and the names of everything it refuses.
//! What it is not: a judgement about quotas or rights. A porter may be stalled by *receiving* or *closing* an fd
//! (FACTS); it is expendable. By examining one it is not stalled:
//!
//! - `F_GET_SEALS` comes first. It fails at once on everything that is not memory, whatever file system or driver is
//!   behind it, and never reaches that file system.
//! - `fstat` is asked only of what answered, which is memory of the kernel itself.
//! - A refused fd is named by its link in `/proc/self/fd`, which is made of names the kernel holds already, and by
//!   its open flags. Nothing that a FUSE or NFS server answers is ever asked; hence a directory that was opened
//!   without `O_DIRECTORY`, or a pipe with a path, is called a file.
//!
//! The memory of a process is the other thing that is taken ([`process_memory`]): its link names it, and the size of its
//! file system's blocks is that of `/proc` and of no file system that a server is behind ([`is_of_proc`]). The kernel
//! knows both by itself. Its position is not asked for: who has the same open file could hold that for as long as it
//! reads.
//!
//! A door that somebody else has bound is looked at in [`listener`] and [`close_fd`].
//!
//! Invariants:
//! - What is admitted has the seals SHRINK and GROW, and its length was read after they were there: no access inside
//!   it can raise a signal (U3). What is admitted for writing also has SEAL, so that nobody seals it against the
//!   device that writes it.
//! - Memory that is refused is as it was, unless its length was changed while it was examined: it is sealed last.
//! - A name in a refusal is at most [`NAME_MAX`] bytes and printable: the sender chose it.

mod door;
mod kind;

use std::fmt;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use nix::libc;
use rustix::fs::{FileType, MemfdFlags, OFlags, SealFlags, Stat};
use rustix::io::Errno;

pub use self::door::{CloseFd, close_fd, listener, path_of};
pub use self::kind::{Kind, NAME_MAX};
use crate::error::{Attempt, Result};
use crate::mapping::PAGE;
use crate::memory::{Access, Identity, OBJECT_SEALS, SIZE_SEALS};

/// Examines fds. Make it before confinement: it makes a memfd of its own, to learn what a memfd looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The device all memfds without reserved huge pages are on.
    dev: u64,
}

/// Memory that may be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fitting {
    /// Its length, bytes: at least one page, whole pages, never to change again. It may be all holes, and far more
    /// than the machine has: charge by it.
    pub len: u64,
    /// The most it can be used for: [`Access::Read`] if it was opened for reading only, or is sealed against writing.
    pub access: Access,
    /// Which file it is.
    pub identity: Identity,
}

/// Why an fd is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} was sent: {why}")]
pub struct Unfit {
    /// What it is.
    pub kind: Kind,
    /// What is wrong with it, with the value and the limit.
    pub why: String,
}

/// Why anything else is not taken as the memory of a process.
const NO_PROCESS: &str = "only the memory of a process is taken here (/proc/self/mem)";

/// Why anything that is no memory is not taken.
const NO_MEMORY: &str = "only a memfd can be imported (memfd_create with MFD_ALLOW_SEALING)";

impl Admission {
    /// Learns what a memfd looks like on this machine.
    ///
    /// # Errors
    /// The errno of `memfd_create` or `fstat`.
    pub fn new() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING);
        let own = rustix::fs::memfd_create("vgem-admission", flags).attempt("memfd_create")?;
        let stat = rustix::fs::fstat(own.as_fd()).attempt("fstat")?;
        Ok(Self { dev: stat.st_dev })
    }

    /// Looks at an fd that a stranger sent. Memory that is open for writing is sealed by it (SHRINK, GROW and SEAL),
    /// for its sender too; that is the price of admission.
    ///
    /// # Errors
    /// [`Unfit`] names the kind of every fd that is not taken, and why.
    pub fn examine(&self, fd: BorrowedFd<'_>) -> Result<Fitting, Unfit> {
        let seals = match rustix::fs::fcntl_get_seals(fd) {
            Ok(seals) => seals,
            Err(Errno::BADF) => return Err(Unfit::new(Kind::PathOnly, NO_MEMORY)),
            Err(_) => return Err(Unfit::new(Kind::of_stranger(fd), NO_MEMORY)),
        };
        let stat = self.memfd(fd)?;
        let mode = mode_of(fd)?;
        whole_pages(&stat)?;
        let seals = match mode {
            Mode::Read => seals,
            Mode::ReadWrite => seal(fd, seals)?,
        };
        if !seals.contains(SIZE_SEALS) {
            return Err(Unfit::memory(lacking_size_seals(seals)));
        }
        // Now that it cannot change any more, this is its length.
        let len = whole_pages(&stat_of(fd)?)?;
        let sealed = seals.intersects(SealFlags::WRITE.union(SealFlags::FUTURE_WRITE));
        let access = if mode == Mode::ReadWrite && !sealed { Access::Write } else { Access::Read };
        Ok(Fitting { len, access, identity: Identity::of(&stat) })
    }

    /// What `fstat` says of something that answered `F_GET_SEALS`, if it is a memfd of ordinary pages.
    fn memfd(&self, fd: BorrowedFd<'_>) -> Result<Stat, Unfit> {
        let stat = stat_of(fd)?;
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if is_file && stat.st_dev == self.dev {
            return Ok(stat);
        }
        let kind = Kind::of_other_memory(fd);
        let why = match kind {
            Kind::HugetlbMemfd | Kind::HugetlbfsFile => {
                "memory of reserved huge pages is not imported; let the broker make it"
            }
            _ => NO_MEMORY,
        };
        Err(Unfit::new(kind, why))
    }
}

impl Unfit {
    fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    fn memory(why: impl Into<String>) -> Self {
        Self::new(Kind::Memfd, why)
    }
}

/// Whether a stranger's fd is the memory of a process, and the most that may be done through it.
///
/// # Errors
/// [`Unfit`] names what else it is. What is called otherwise may be called so at another time: a link is a name, and
/// names change.
pub fn process_memory(fd: BorrowedFd<'_>) -> Result<Access, Unfit> {
    let flags = rustix::fs::fcntl_getfl(fd)
        .map_err(|errno| Unfit::new(Kind::Unknown, format!("fcntl(F_GETFL): {errno}")))?;
    if flags.contains(OFlags::PATH) {
        return Err(Unfit::new(Kind::PathOnly, NO_PROCESS));
    }
    if !is_of_proc(fd) || !kind::is_called_mem(fd) {
        return Err(Unfit::new(Kind::of_stranger(fd), NO_PROCESS));
    }
    match flags.intersection(OFlags::RWMODE) {
        mode if mode == OFlags::RDONLY => Ok(Access::Read),
        mode if mode == OFlags::RDWR => Ok(Access::Write),
        _ => Err(Unfit::new(
            Kind::ProcessMemory,
            "it is open for writing only; open it for reading, or for both",
        )),
    }
}

/// Whether a file is one of `/proc`, or at least of no file system that a server is behind: whoever closes it comes back.
/// The answer is always the same for one file.
#[must_use]
pub fn is_of_proc(fd: BorrowedFd<'_>) -> bool {
    /// Bytes of a block of `/proc`. Those of a FUSE are a page's.
    const BLOCK: i32 = 1024;
    let mut size = 0_i32;
    // SAFETY: U6. FIGETBSZ writes one int.
    let asked = unsafe { libc::ioctl(fd.as_raw_fd(), FIGETBSZ, &raw mut size) };
    asked == 0 && size == BLOCK
}

/// Asks for the size of the blocks of a file's file system. The kernel answers without asking that.
pub(crate) const FIGETBSZ: libc::Ioctl = 2;

/// How memory was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Read,
    ReadWrite,
}

fn mode_of(fd: BorrowedFd<'_>) -> Result<Mode, Unfit> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(|errno| refused("fcntl(F_GETFL)", errno))?;
    match flags.intersection(OFlags::RWMODE) {
        mode if mode == OFlags::RDONLY => Ok(Mode::Read),
        mode if mode == OFlags::RDWR => Ok(Mode::ReadWrite),
        _ => Err(Unfit::memory("it is open for writing only; open it for reading, or for both")),
    }
}

/// Adds what is missing to the seals of memory that is open for writing; the seals it has then.
fn seal(fd: BorrowedFd<'_>, seals: SealFlags) -> Result<SealFlags, Unfit> {
    if seals.contains(SealFlags::SEAL) {
        return Ok(seals);
    }
    match rustix::fs::fcntl_add_seals(fd, OBJECT_SEALS) {
        Ok(()) => {}
        // Somebody else sealed it just now: what it has then is judged.
        Err(Errno::PERM) => {}
        Err(errno) => return Err(refused("fcntl(F_ADD_SEALS)", errno)),
    }
    rustix::fs::fcntl_get_seals(fd).map_err(|errno| refused("fcntl(F_GET_SEALS)", errno))
}

fn lacking_size_seals(seals: SealFlags) -> String {
    let has = Seals(seals);
    if seals.contains(SealFlags::SEAL) {
        return format!(
            "its length may change and it takes no more seals (it has {has}; SHRINK and GROW are wanted)"
        );
    }
    format!(
        "its length may change, and it is open for reading only (it has {has}; SHRINK and GROW are wanted)"
    )
}

fn whole_pages(stat: &Stat) -> Result<u64, Unfit> {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len == 0 {
        return Err(Unfit::memory(format!("it has 0 bytes, at least {PAGE} are wanted")));
    }
    if !len.is_multiple_of(PAGE as u64) {
        return Err(Unfit::memory(format!("it has {len} bytes, a multiple of {PAGE} is wanted")));
    }
    Ok(len)
}

fn stat_of(fd: BorrowedFd<'_>) -> Result<Stat, Unfit> {
    rustix::fs::fstat(fd).map_err(|errno| refused("fstat", errno))
}

fn refused(call: &str, errno: Errno) -> Unfit {
    Unfit::memory(format!("{call}: {errno}"))
}

/// Seals by their names in the manual.
struct Seals(SealFlags);

impl fmt::Display for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no seal");
        }
        let mut between = "";
        for (name, _) in self.0.iter_names() {
            write!(f, "{between}{name}")?;
            between = "|";
        }
        Ok(())
    }
}
