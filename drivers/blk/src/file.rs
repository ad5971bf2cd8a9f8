//! One open file: its two open files in the kernel, what direct I/O asks of it, and the lock of its appends.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;

use crate::errors::failed;
use crate::paths::{Access, Opened};

/// Alignment that direct I/O gets where the file system does not say what it needs, bytes.
const DEFAULT_ALIGN: u32 = 4096;
/// File system type of tmpfs, which takes `O_DIRECT` and ignores it.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Whether data goes past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// Where alignment allows and it is faster.
    Auto,
    /// Never.
    Never,
    /// Always; what cannot is refused.
    Require,
}

/// What direct I/O needs to be multiples of, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alignment {
    pub(crate) memory: usize,
    pub(crate) offset: u64,
}

/// Which inode a file is.
pub(crate) type Inode = (u64, u64);

/// Held while an append finds the end of its file and writes there.
pub(crate) type AppendLock = Arc<Mutex<()>>;

/// A file opened by a queue.
#[derive(Debug)]
pub(crate) struct OpenFile {
    buffered: OwnedFd,
    direct: Option<(OwnedFd, Alignment)>,
    policy: Direct,
    access: Access,
    kind: FileType,
    /// Common to all who have this inode open in this process.
    pub(crate) appends: AppendLock,
    path: String,
}

impl OpenFile {
    /// A file from a path that [`crate::paths`] has opened and checked.
    pub(crate) fn new(opened: Opened, policy: Direct, appends: AppendLock) -> Result<Self, JobError> {
        let Opened { fd, access, kind, path, .. } = opened;
        let direct = match policy {
            Direct::Never => None,
            Direct::Auto | Direct::Require => open_direct(fd.as_fd(), access),
        };
        if policy == Direct::Require && direct.is_none() {
            return Err(JobError::new(
                ErrorCode::Unsupported,
                format!("{path}: its file system has no direct I/O"),
            ));
        }
        Ok(Self { buffered: fd, direct, policy, access, kind, appends, path })
    }

    /// The fd whose data goes through the page cache.
    pub(crate) fn buffered(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    /// The fd whose data does not, and what it needs.
    pub(crate) fn direct(&self) -> Option<(BorrowedFd<'_>, Alignment)> {
        self.direct.as_ref().map(|(fd, alignment)| (fd.as_fd(), *alignment))
    }

    pub(crate) fn policy(&self) -> Direct {
        self.policy
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Refuses to change a file that was opened for reading.
    pub(crate) fn check_writable(&self) -> Result<(), JobError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => {
                Err(JobError::new(ErrorCode::NotPermitted, format!("{} was opened for reading", self.path)))
            }
        }
    }

    /// The length now, bytes; of a block device, its size.
    pub(crate) fn len(&self) -> Result<u64, JobError> {
        let len = if self.is_regular() {
            rustix::fs::fstat(&self.buffered).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
        } else {
            // All data requests carry their own offset, so moving the file position disturbs nobody.
            rustix::fs::seek(&self.buffered, SeekFrom::End(0))
        };
        len.map_err(|errno| failed(errno, format_args!("length of {}", self.path)))
    }

    /// Sets the length.
    pub(crate) fn truncate(&self, len: u64) -> Result<(), JobError> {
        self.check_writable()?;
        rustix::fs::ftruncate(&self.buffered, len)
            .map_err(|errno| failed(errno, format_args!("truncate {} to {len} bytes", self.path)))
    }

    /// Returns when the data, and the length, are durable.
    pub(crate) fn sync(&self) -> Result<(), JobError> {
        rustix::fs::fdatasync(&self.buffered)
            .map_err(|errno| failed(errno, format_args!("sync {}", self.path)))
    }
}

/// A second open file of the same inode for direct I/O, if its file system has that.
fn open_direct(fd: BorrowedFd<'_>, access: Access) -> Option<(OwnedFd, Alignment)> {
    let alignment = direct_alignment(fd)?;
    let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access.flags() | OFlags::DIRECT | OFlags::CLOEXEC;
    match rustix::fs::open(again, flags, Mode::empty()) {
        Ok(direct) => Some((direct, alignment)),
        Err(errno) => {
            tracing::debug!("no direct I/O: {errno}");
            None
        }
    }
}

fn direct_alignment(fd: BorrowedFd<'_>) -> Option<Alignment> {
    if rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC) {
        return None;
    }
    let (memory, offset) = match rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(statx) if StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::DIOALIGN) => {
            (statx.stx_dio_mem_align, statx.stx_dio_offset_align)
        }
        Ok(_) | Err(Errno::NOSYS | Errno::INVAL) => (DEFAULT_ALIGN, DEFAULT_ALIGN),
        Err(_) => return None,
    };
    // Zero says that this file has no direct I/O.
    (memory > 0 && offset > 0)
        .then_some(Alignment { memory: usize::try_from(memory).ok()?, offset: offset.into() })
}
