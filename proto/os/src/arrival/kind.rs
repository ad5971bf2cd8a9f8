//! What an fd is, for people, without asking whoever is behind it.
//!
//! The link in `/proc/self/fd` is composed by the kernel from names it holds: reading it reaches no file system and
//! no driver. Pseudo files have a name in a fixed form (`pipe:[7]`, `anon_inode:[eventfd]`); everything else has a
//! path, of which only the part that is the same everywhere (`/dev`, `/proc`) is relied on.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;

use crate::memory::{is_on_hugetlbfs, proc_path};

/// The longest name in a refusal, bytes.
pub const NAME_MAX: usize = 64;

/// A kind of fd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A memfd of ordinary pages: the only kind that can be taken.
    Memfd,
    /// A memfd of reserved huge pages.
    HugetlbMemfd,
    /// A file on a hugetlbfs.
    HugetlbfsFile,
    /// A file on a tmpfs, such as `/dev/shm`.
    TmpfsFile,
    /// Memory of `memfd_secret`.
    SecretMemory,
    /// A pipe without a path.
    Pipe,
    /// A socket of any family.
    Socket,
    /// An eventfd.
    Eventfd,
    /// An epoll instance.
    Epoll,
    /// A signalfd.
    Signalfd,
    /// A timerfd.
    Timerfd,
    /// A pidfd.
    Pidfd,
    /// An inotify instance.
    Inotify,
    /// A fanotify group.
    Fanotify,
    /// A userfaultfd.
    Userfaultfd,
    /// An io_uring instance.
    IoUring,
    /// A dma-buf.
    DmaBuf,
    /// A BPF map, program, link or type information.
    Bpf,
    /// A perf event.
    Perf,
    /// A directory, opened as one.
    Directory,
    /// A file with a path: regular, or a named pipe, or a directory that was not opened as one.
    File,
    /// A character or block device.
    Device {
        /// Its path.
        name: String,
    },
    /// The memory of a process, `/proc/PID/mem`.
    ProcessMemory,
    /// Another file of `/proc`.
    ProcFile,
    /// A namespace.
    Namespace,
    /// Opened with `O_PATH`: the name of a file, not an open file.
    PathOnly,
    /// Something else that the kernel has a name for.
    Other {
        /// That name.
        name: String,
    },
    /// Its name cannot be read.
    Unknown,
}

impl Kind {
    /// The kind of an fd that did not answer `F_GET_SEALS`.
    pub(super) fn of_stranger(fd: BorrowedFd<'_>) -> Self {
        let Some(link) = link(fd) else { return Self::Unknown };
        match Self::of_pseudo_file(&link) {
            Some(kind) => kind,
            None => Self::of_path(&link, was_opened_as_directory(fd)),
        }
    }

    /// The kind of memory that answered `F_GET_SEALS` and is no memfd of ordinary pages.
    pub(super) fn of_other_memory(fd: BorrowedFd<'_>) -> Self {
        let on_hugetlbfs = is_on_hugetlbfs(fd).unwrap_or(false);
        let memfd = link(fd).is_some_and(|link| link.starts_with("/memfd:"));
        match (on_hugetlbfs, memfd) {
            (true, true) => Self::HugetlbMemfd,
            (true, false) => Self::HugetlbfsFile,
            (false, _) => Self::TmpfsFile,
        }
    }

    fn of_pseudo_file(link: &str) -> Option<Self> {
        if let Some(name) = link.strip_prefix("anon_inode:") {
            return Some(Self::of_anonymous(name.trim_matches(['[', ']'])));
        }
        if link.starts_with('/') {
            return None;
        }
        let (name, _) = link.split_once(":[")?;
        Some(match name {
            "pipe" => Self::Pipe,
            "socket" => Self::Socket,
            "pidfd" => Self::Pidfd,
            "cgroup" | "ipc" | "mnt" | "net" | "pid" | "pid_for_children" | "time" | "time_for_children"
            | "user" | "uts" => Self::Namespace,
            other => Self::Other { name: printable(other) },
        })
    }

    fn of_anonymous(name: &str) -> Self {
        match name {
            "eventfd" => Self::Eventfd,
            "eventpoll" => Self::Epoll,
            "signalfd" => Self::Signalfd,
            "timerfd" => Self::Timerfd,
            "pidfd" => Self::Pidfd,
            "inotify" => Self::Inotify,
            "fanotify" => Self::Fanotify,
            "userfaultfd" => Self::Userfaultfd,
            "io_uring" => Self::IoUring,
            "perf_event" => Self::Perf,
            "btf" => Self::Bpf,
            bpf if bpf.starts_with("bpf") => Self::Bpf,
            other => Self::Other { name: printable(other) },
        }
    }

    fn of_path(link: &str, directory: bool) -> Self {
        if link.starts_with("/secretmem") {
            return Self::SecretMemory;
        }
        if link.starts_with("/dmabuf:") {
            return Self::DmaBuf;
        }
        if directory {
            return Self::Directory;
        }
        if let Some(rest) = link.strip_prefix("/proc/") {
            return if rest.ends_with("/mem") { Self::ProcessMemory } else { Self::ProcFile };
        }
        let is_device = link.starts_with("/dev/") && !link.starts_with("/dev/mqueue/");
        if is_device { Self::Device { name: printable(link) } } else { Self::File }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Memfd => "a memfd",
            Self::HugetlbMemfd => "a memfd of reserved huge pages",
            Self::HugetlbfsFile => "a file of reserved huge pages",
            Self::TmpfsFile => "a file on a tmpfs",
            Self::SecretMemory => "secret memory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Eventfd => "an eventfd",
            Self::Epoll => "an epoll instance",
            Self::Signalfd => "a signalfd",
            Self::Timerfd => "a timerfd",
            Self::Pidfd => "a pidfd",
            Self::Inotify => "an inotify instance",
            Self::Fanotify => "a fanotify group",
            Self::Userfaultfd => "a userfaultfd",
            Self::IoUring => "an io_uring instance",
            Self::DmaBuf => "a dma-buf",
            Self::Bpf => "a BPF object",
            Self::Perf => "a perf event",
            Self::Directory => "a directory",
            Self::File => "a file",
            Self::Device { name } => return write!(f, "the device {name}"),
            Self::ProcessMemory => "the memory of a process (/proc/PID/mem)",
            Self::ProcFile => "a file of /proc",
            Self::Namespace => "a namespace",
            Self::PathOnly => "a path that is not open (O_PATH)",
            Self::Other { name } => return write!(f, "an fd of the kind {name}"),
            Self::Unknown => "an fd of unknown kind",
        };
        f.write_str(words)
    }
}

/// Whether an fd is a file that is called `mem`, wherever it is seen.
pub(super) fn is_called_mem(fd: BorrowedFd<'_>) -> bool {
    link(fd).is_some_and(|link| link.starts_with('/') && link.ends_with("/mem"))
}

/// What `/proc/self/fd` links an fd to.
fn link(fd: BorrowedFd<'_>) -> Option<String> {
    let link = rustix::fs::readlink(proc_path(fd).as_str(), Vec::with_capacity(256)).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn was_opened_as_directory(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::DIRECTORY))
}

/// A name that its owner chose, short, and such that printing it does nothing.
fn printable(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let escaped: String = c.escape_default().collect();
        if out.len() + escaped.len() > NAME_MAX {
            break;
        }
        out.push_str(&escaped);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(link: &str) -> Kind {
        Kind::of_pseudo_file(link).unwrap_or_else(|| Kind::of_path(link, false))
    }

    #[test]
    fn kinds_that_few_machines_can_make_are_known_by_their_links() {
        assert_eq!(named("/dmabuf:camera"), Kind::DmaBuf);
        assert_eq!(named("/secretmem (deleted)"), Kind::SecretMemory);
        assert_eq!(named("anon_inode:[fanotify]"), Kind::Fanotify);
        assert_eq!(named("anon_inode:bpf-prog"), Kind::Bpf);
        assert_eq!(named("anon_inode:[perf_event]"), Kind::Perf);
        assert_eq!(named("pidfd:[12]"), Kind::Pidfd);
        assert_eq!(named("/proc/77/mem"), Kind::ProcessMemory);
        assert_eq!(named("anon_inode:kvm-vm"), Kind::Other { name: "kvm-vm".into() });
    }

    #[test]
    fn a_name_in_a_refusal_is_short_and_printable() {
        let link = format!("/dev/\u{1b}[31m\n{}", "x".repeat(200));
        let Kind::Device { name } = named(&link) else { panic!("a device") };
        assert!(name.starts_with("/dev/\\u{1b}[31m\\nxxx"), "{name}");
        assert!(name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic()), "{name}");
    }

    #[test]
    fn a_path_cannot_pass_for_a_pseudo_file() {
        assert_eq!(named("/pipe:[7]"), Kind::File);
        assert_eq!(named("/anon_inode:[eventfd]"), Kind::File);
    }
}
