//! Who is at the other end of a socket, as the kernel attests it.
//!
//! The identity is taken once, when the connection is made, and kept for its life. A pid is a number for logs:
//! it may be used again, so nothing is decided by it. The pidfd is the process itself. `SCM_CREDENTIALS` is not
//! used: root of a container may claim any uid of its map.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{UnixCredentials, getsockopt, sockopt};
use rustix::io::Errno;
use rustix::ioctl::{Updater, opcode};

use crate::error::{Attempt, OsError, Result};

/// The peer of a connection.
#[derive(Debug)]
pub struct PeerIdentity {
    /// Effective uid when it connected, as seen from here; 65534 if it has none in this user namespace.
    pub uid: u32,
    /// Effective gid when it connected.
    pub gid: u32,
    /// Its pid then, for people; 0 if it has none in this pid namespace.
    pub pid: i32,
    /// The process itself (`SO_PEERPIDFD`, Linux 6.5); readable when it is gone.
    pub pidfd: Option<OwnedFd>,
    /// The id of its cgroup (`PIDFD_GET_INFO`, Linux 6.13), the inode of its directory in cgroup v2.
    pub cgroup: Option<u64>,
}

/// Numbers of a peer: of its user and, for people, of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNumbers {
    /// As [`PeerIdentity::uid`].
    pub uid: u32,
    /// As [`PeerIdentity::pid`].
    pub pid: i32,
}

impl PeerNumbers {
    /// Asks for those of the peer of a connected Unix socket; costs less than to ask who it is.
    ///
    /// # Errors
    /// The errno of `getsockopt(SO_PEERCRED)`.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self> {
        let cred = credentials(socket)?;
        Ok(Self { uid: cred.uid(), pid: cred.pid() })
    }
}

impl PeerIdentity {
    /// Asks for the peer of a connected Unix socket.
    ///
    /// # Errors
    /// The errno of `getsockopt(SO_PEERCRED)`; `EMFILE` for the pidfd. A kernel that lacks a feature gives `None`.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self> {
        let cred = credentials(socket)?;
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd).map_err(from_nix) {
            Ok(pidfd) => Some(pidfd),
            // An older kernel; or the peer was reaped before it could be named (before 6.16).
            Err(Errno::NOPROTOOPT | Errno::NODATA | Errno::INVAL | Errno::SRCH) => None,
            Err(errno) => return Err(OsError::new("getsockopt(SO_PEERPIDFD)", errno)),
        };
        let cgroup = pidfd.as_ref().and_then(cgroup_of);
        Ok(Self { uid: cred.uid(), gid: cred.gid(), pid: cred.pid(), pidfd, cgroup })
    }
}

/// nix, not rustix: rustix's type for it says that a pid is never 0, and here it may be.
fn credentials(socket: BorrowedFd<'_>) -> Result<UnixCredentials> {
    getsockopt(&socket, sockopt::PeerCredentials).map_err(from_nix).attempt("getsockopt(SO_PEERCRED)")
}

/// The supplementary groups of a peer when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// All.
    All(Vec<u32>),
    /// There are so many, which is more than was asked for.
    TooMany(usize),
}

impl Groups {
    /// Asks for those of the peer of a connected Unix socket, if there are at most `most`. A process can have 65536, and may
    /// give them to itself in a user namespace; to tell them takes the kernel milliseconds, to count them nothing.
    ///
    /// # Errors
    /// The errno of `getsockopt(SO_PEERGROUPS)`. A kernel that cannot tell gives none.
    pub fn of(socket: BorrowedFd<'_>, most: usize) -> Result<Self> {
        groups_of(socket, most).attempt("getsockopt(SO_PEERGROUPS)")
    }
}

/// The first version of the kernel's `struct pidfd_info`; later versions only add to its end.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// The cgroup id of the process behind a pidfd; nothing if it is gone or the kernel is older than 6.13.
fn cgroup_of(pidfd: &OwnedFd) -> Option<u64> {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);
    const CGROUP_ID: u64 = 1 << 2;
    let mut info = PidfdInfo { mask: CGROUP_ID, ..PidfdInfo::default() };
    // SAFETY: U6. The opcode carries the size of the struct that is passed.
    let request = unsafe { Updater::<GET_INFO, PidfdInfo>::new(&mut info) };
    // SAFETY: U6. The kernel writes at most the struct's size, and every bit pattern of it is valid.
    let asked = unsafe { rustix::ioctl::ioctl(pidfd, request) };
    (asked.is_ok() && info.mask & CGROUP_ID != 0).then_some(info.cgroup_id)
}

fn groups_of(socket: BorrowedFd<'_>, most: usize) -> core::result::Result<Groups, Errno> {
    let mut groups = vec![0u32; most.min(32)];
    loop {
        let room = size_of_val(groups.as_slice());
        let mut len = libc::socklen_t::try_from(room).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: U6. The pointer and the length are those of a live vector of u32, of which every bit pattern is valid.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = usize::try_from(len).map_err(|_| Errno::OVERFLOW)? / size_of::<u32>();
        match (done, nix::errno::Errno::last()) {
            (0, _) => {
                groups.truncate(count);
                return Ok(Groups::All(groups));
            }
            // The kernel says how many there are.
            (_, nix::errno::Errno::ERANGE) if count > most => return Ok(Groups::TooMany(count)),
            (_, nix::errno::Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            (_, nix::errno::Errno::ENOPROTOOPT) => return Ok(Groups::All(Vec::new())),
            (_, errno) => return Err(from_nix(errno)),
        }
    }
}

fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
