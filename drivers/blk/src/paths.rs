//! From a client's path to an open file: only under the roots, and only files that hold data.
//!
//! A path is absolute, has no `..`, and begins with a root. The root's directory was opened at start; the rest is
//! resolved beneath it by `openat2`, so that no symbolic link leads out, at no moment. Where `openat2` is missing
//! each component is opened by itself and symbolic links are refused altogether.
//!
//! A file is first opened as a place (`O_PATH`), which has no effect on it, and looked at: FIFOs, sockets, character
//! devices, directories and files of pseudo file systems (`/proc/self/mem` is a "regular" file) are refused. Only
//! then is that same inode opened for data.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;

use crate::errors::failed;
use crate::file::Inode;

/// Times an open is repeated when files appear and vanish meanwhile.
const ATTEMPTS: usize = 8;

/// File system types whose files are not data: opening, reading or writing them acts on the kernel.
const PSEUDO_FILE_SYSTEMS: &[i64] = &[
    0x9fa0,      // procfs
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xf97c_ff8c, // selinuxfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0xcafe_4a11, // bpf
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
];

/// What an open file may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Access {
    pub(crate) fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::RDWR,
        }
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// It exists, and is read.
    Read,
    /// It exists, and is read and written.
    Write,
    /// It is created, or emptied.
    Create,
    /// It is created.
    CreateNew,
}

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// By `openat2`.
    Beneath,
    /// Component by component.
    Walk,
}

/// A file that was found, checked and opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) access: Access,
    pub(crate) kind: FileType,
    pub(crate) inode: Inode,
    pub(crate) path: String,
}

/// The roots, opened.
#[derive(Debug)]
pub(crate) struct Roots {
    roots: Vec<Root>,
    resolver: Resolver,
}

#[derive(Debug)]
struct Root {
    /// As configured, and as it really is.
    names: [PathBuf; 2],
    /// The root, or the directory it lies in if it is a file.
    dir: OwnedFd,
    /// Its name in that directory, if it is a file.
    file: Option<PathBuf>,
}

impl Roots {
    /// Opens the roots.
    ///
    /// # Errors
    /// Names the root that is not absolute or cannot be opened.
    pub(crate) fn open(paths: &[PathBuf], resolver: Resolver) -> Result<Self, JobError> {
        let roots = paths.iter().map(|path| Root::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { roots, resolver })
    }

    /// Opens a file for a client.
    pub(crate) fn open_file(&self, path: &[u8], mode: OpenMode) -> Result<Opened, JobError> {
        let (root, rest) = self.locate(path)?;
        let name = String::from_utf8_lossy(path).into_owned();
        let access = match mode {
            OpenMode::Read => Access::Read,
            OpenMode::Write | OpenMode::Create | OpenMode::CreateNew => Access::Write,
        };
        for _ in 0..ATTEMPTS {
            match (self.resolve(root, &rest, OFlags::PATH, Mode::empty()), mode) {
                (Ok(_), OpenMode::CreateNew) => {
                    return Err(failed(Errno::EXIST, format_args!("create {name}")));
                }
                (Ok(place), _) => return open_place(place.as_fd(), access, mode, name),
                (Err(Errno::NOENT), OpenMode::Create | OpenMode::CreateNew) => {}
                (Err(errno), _) => return Err(failed(errno, format_args!("open {name}"))),
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NONBLOCK;
            match self.resolve(root, &rest, flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => return finish(fd, access, name),
                // Somebody was faster; look at what is there now.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno, format_args!("create {name}"))),
            }
        }
        Err(failed(Errno::LOOP, format_args!("open {name}")))
    }

    /// The root a path lies under, and the rest of the path.
    fn locate(&self, path: &[u8]) -> Result<(&Root, PathBuf), JobError> {
        let shown = String::from_utf8_lossy(path);
        if path.first() != Some(&b'/') || path.contains(&0) {
            return Err(JobError::new(ErrorCode::BadParameter, format!("path {shown:?} is not absolute")));
        }
        let path = Path::new(OsStr::from_bytes(path));
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(JobError::new(ErrorCode::NotPermitted, format!("path {shown:?} contains \"..\"")));
        }
        let under = |root| root_and_rest(root, path);
        let found = self.roots.iter().filter_map(under).min_by_key(|(_, rest)| rest.as_os_str().len());
        found.ok_or_else(|| {
            let roots: Vec<_> = self.roots.iter().map(|root| root.names[0].display().to_string()).collect();
            let text = format!("path {shown:?} is under none of the device's roots: {roots:?}");
            JobError::new(ErrorCode::NotPermitted, text)
        })
    }

    fn resolve(&self, root: &Root, rest: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if self.resolver == Resolver::Walk {
            return walk(root.dir.as_fd(), rest, flags, mode);
        }
        for _ in 0..ATTEMPTS {
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&root.dir, rest, flags, mode, how) {
                // A rename raced with the resolution.
                Err(Errno::AGAIN | Errno::INTR) => {}
                // An old kernel, or a filter that does not know the call.
                Err(Errno::NOSYS) => return walk(root.dir.as_fd(), rest, flags, mode),
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self, JobError> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err(JobError::new(ErrorCode::BadParameter, format!("root {shown} is not absolute")));
        }
        let real = path.canonicalize().map_err(|error| {
            JobError::new(
                ErrorCode::NotFound,
                format!("root {shown}: {error}; create it or configure another"),
            )
        })?;
        let (dir, file) = match (real.is_dir(), real.parent(), real.file_name()) {
            (false, Some(dir), Some(name)) => (dir, Some(PathBuf::from(name))),
            _ => (real.as_path(), None),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|errno| failed(errno, format_args!("open root {shown}")))?;
        Ok(Self { names: [path.to_owned(), real], dir, file })
    }
}

fn root_and_rest<'r>(root: &'r Root, path: &Path) -> Option<(&'r Root, PathBuf)> {
    let rest = root.names.iter().find_map(|name| path.strip_prefix(name).ok())?;
    match &root.file {
        // A root that is a file has nothing under it.
        Some(name) => rest.as_os_str().is_empty().then(|| (root, name.clone())),
        None if rest.as_os_str().is_empty() => Some((root, PathBuf::from("."))),
        None => Some((root, rest.to_owned())),
    }
}

/// Opens component by component, following no symbolic link.
fn walk(dir: BorrowedFd<'_>, rest: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut parts = rest.components().peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let here = at.as_ref().map_or(dir, |fd| fd.as_fd());
        let (flags, mode) = match parts.peek() {
            Some(_) => (OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
            None => (flags, mode),
        };
        let next = rustix::fs::openat(here, part.as_os_str(), flags | OFlags::NOFOLLOW, mode)?;
        // With O_PATH, NOFOLLOW opens the link itself.
        if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        at = Some(next);
    }
    at.ok_or(Errno::ISDIR)
}

/// Opens for data what an `O_PATH` fd stands for, if it is data.
fn open_place(
    place: BorrowedFd<'_>,
    access: Access,
    mode: OpenMode,
    name: String,
) -> Result<Opened, JobError> {
    let kind = check_place(place, &name)?;
    let empty = mode == OpenMode::Create && kind == FileType::RegularFile;
    let flags = access.flags() | if empty { OFlags::TRUNC } else { OFlags::empty() };
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Not blocking: a lease on the file would otherwise hold us for its whole break time.
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::open(again, flags, Mode::empty())
        .map_err(|errno| failed(errno, format_args!("open {name} for {access:?}")))?;
    finish(fd, access, name)
}

/// Refuses what is not a regular file or a block device, and files that are not data.
fn check_place(place: BorrowedFd<'_>, name: &str) -> Result<FileType, JobError> {
    let cannot = |errno| failed(errno, format_args!("look at {name}"));
    let kind = FileType::from_raw_mode(rustix::fs::fstat(place).map_err(cannot)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        let text = format!("{name} is a {}; regular files and block devices can be opened", kind_name(kind));
        return Err(JobError::new(ErrorCode::NotPermitted, text));
    }
    let fs = rustix::fs::fstatfs(place).map_err(cannot)?.f_type;
    if kind == FileType::RegularFile && PSEUDO_FILE_SYSTEMS.contains(&(fs & 0xffff_ffff)) {
        let text = format!("{name} is the kernel's own, not data (file system type {fs:#x})");
        return Err(JobError::new(ErrorCode::NotPermitted, text));
    }
    Ok(kind)
}

/// From here on requests may block: a ring takes `O_NONBLOCK` as "rather fail".
fn finish(fd: OwnedFd, access: Access, path: String) -> Result<Opened, JobError> {
    let cannot = |errno| failed(errno, format_args!("open {path}"));
    let stat = rustix::fs::fstat(&fd).map_err(cannot)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(cannot)?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK).map_err(cannot)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(Opened { fd, access, kind, inode: (stat.st_dev, stat.st_ino), path })
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::Symlink => "symbolic link",
        _ => "file of unknown type",
    }
}
