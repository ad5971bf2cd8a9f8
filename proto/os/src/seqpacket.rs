//! SEQPACKET sockets: one message is one packet, and its fds arrive with it.
//!
//! ```text
//!   Listener ──accept()──► Socket ◄──pair()/connect()
//!                            │ send(bytes, fds)       one system call; no allocation without fds
//!                            │ recv(buf, fds)         links that carry fds
//!                            │ recv_plain(buf)        links that never do (broker from client)
//! ```
//!
//! What it is not: a stream. There is no reassembly and no partial packet; a packet longer than the buffer is
//! reported with its length ([`Packet::TooLong`]) and the connection lives.
//!
//! Invariants:
//! - An empty packet is never sent, because it reads like the end of the connection.
//! - The control buffer always has room for 253 fds, the most a packet carries, so that padding never lets an
//!   extra fd through unseen and none is lost.
//! - Every fd that arrives is owned, close-on-exec, before anything is decided, and closed on every error.

use std::fmt;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType,
};
use sendfd::SendWithFd as _;

use crate::error::{Attempt, OsError, Result, errno_of, uninterrupted};
use crate::peer::{Groups, PeerIdentity, PeerNumbers};

/// Most fds one packet carries (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// Connections that may wait to be accepted at one listener.
const BACKLOG: i32 = 128;

/// `SO_PASSRIGHTS`, Linux 6.16: not in the C library's headers yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// `SO_PASSPIDFD`, Linux 6.5: not in the C library's headers yet.
const SO_PASSPIDFD: libc::c_int = 76;

/// Bytes of one look.
const PEEK_LEN: usize = 64 * 1024;

/// Looks at one connection at most: more than as many packets as an ordinary send buffer holds.
const PEEKS: usize = 1024;

/// What a receive found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packet {
    /// A packet; its bytes are at the start of the buffer.
    Data {
        /// Its length, bytes.
        len: usize,
    },
    /// A packet longer than the buffer. It is gone, the connection is not.
    TooLong {
        /// The length it had, bytes.
        len: usize,
    },
    /// The peer closed, or sent an empty packet, which is taken for the same.
    Closed,
}

/// What lies in a connection that nobody has read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Early {
    /// Packets without fds, or none.
    Plain,
    /// Fds.
    Fds,
    /// The end, or an empty packet, which reads like it.
    Closed,
    /// More than is looked at.
    TooMuch,
}

/// Why a receive with fds failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// The kernel refused; `would_block` and the receive time-out come this way.
    #[error(transparent)]
    Os(#[from] OsError),
    /// Fds were cut off, because this process has too many open. Those that came were closed: disconnect.
    #[error("recvmsg: the packet's fds were truncated; {closed} that arrived were closed")]
    FdsTruncated {
        /// How many arrived and were closed again.
        closed: usize,
    },
}

impl From<RecvError> for OsError {
    fn from(e: RecvError) -> Self {
        match e {
            RecvError::Os(e) => e,
            truncated @ RecvError::FdsTruncated { .. } => {
                Self::with_detail("recvmsg", Errno::MFILE, truncated.to_string())
            }
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    // The standard library has no SEQPACKET type; of its types the datagram one keeps packets whole.
    inner: UnixDatagram,
}

impl Socket {
    /// Two connected ends, blocking, close-on-exec.
    ///
    /// # Errors
    /// The errno of `socketpair`.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .attempt("socketpair")?;
        Ok((Self::from(a), Self::from(b)))
    }

    /// Connects to a listener's path, blocking, close-on-exec.
    ///
    /// # Errors
    /// `ENOENT`: no such path. `ECONNREFUSED`: nobody listens. `EACCES`: the path's mode refuses.
    /// `ENAMETOOLONG`: above 107 bytes. `EAGAIN` never: a blocking connect waits for the backlog.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let address =
            SocketAddrUnix::new(path).attempting("connect", || format!("address {}", path.display()))?;
        let fd = new_socket()?;
        uninterrupted(|| rustix::net::connect(&fd, &address))
            .attempting("connect", || path.display().to_string())?;
        Ok(Self::from(fd))
    }

    /// Sends one packet of `bytes`, with `fds`. Without fds it is one system call and no allocation.
    ///
    /// # Errors
    /// `EINVAL` for no bytes or more than [`FDS_MAX`] fds. `EAGAIN` when non-blocking and full. `EMSGSIZE` above
    /// the send buffer. `EPIPE`/`ECONNRESET`: the peer is gone. `EPERM`: the peer takes no fds.
    /// `ETOOMANYREFS`: too many fds of this uid are in flight.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if bytes.is_empty() {
            return Err(OsError::with_detail("sendmsg", Errno::INVAL, "an empty packet reads like the end"));
        }
        if fds.is_empty() {
            return uninterrupted(|| rustix::net::send(&self.inner, bytes, SendFlags::NOSIGNAL))
                .map(drop)
                .attempt("send");
        }
        self.send_with_fds(bytes, fds)
    }

    #[cold]
    fn send_with_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut numbers = [-1 as RawFd; FDS_MAX];
        let Some(numbers) = numbers.get_mut(..fds.len()) else {
            let detail = format!("{} fds, at most {FDS_MAX}", fds.len());
            return Err(OsError::with_detail("sendmsg", Errno::INVAL, detail));
        };
        for (number, fd) in numbers.iter_mut().zip(fds) {
            *number = fd.as_raw_fd();
        }
        uninterrupted(|| self.inner.send_with_fd(bytes, numbers).map_err(|e| errno_of(&e)))
            .map(drop)
            .attempting("sendmsg", || format!("{} bytes, {} fds", bytes.len(), fds.len()))
    }

    /// Receives one packet; its fds are appended to `fds`. Allocates only if fds arrive and `fds` has no room.
    ///
    /// With [`Packet::TooLong`] and [`Packet::Closed`] nothing is appended: fds that came are closed.
    ///
    /// # Errors
    /// [`RecvError::Os`]: `EAGAIN` when non-blocking, or at the time-out, and nothing is there; `ECONNRESET`.
    /// [`RecvError::FdsTruncated`].
    pub fn recv(&self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Packet, RecvError> {
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let room = buf.len();
        let had = fds.len();
        let flags = RecvFlags::TRUNC.union(RecvFlags::CMSG_CLOEXEC);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buf)];
        let message = loop {
            match rustix::net::recvmsg(&self.inner, &mut parts, &mut control, flags) {
                Err(Errno::INTR) => {}
                other => break other.attempt("recvmsg")?,
            }
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(arrived) = part {
                fds.extend(arrived);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            let closed = fds.drain(had..).count();
            return Err(RecvError::FdsTruncated { closed });
        }
        let packet = Packet::of(message.bytes, room);
        if !matches!(packet, Packet::Data { .. }) {
            fds.truncate(had);
        }
        Ok(packet)
    }

    /// Receives one packet on a link that never carries fds: no control buffer is offered.
    ///
    /// On a link whose peer is not trusted, refuse fds first ([`Socket::set_pass_rights`]): fds that come
    /// without a control buffer are closed by the kernel here and now, and closing can take the closer seconds.
    ///
    /// # Errors
    /// `EAGAIN` when non-blocking, or at the time-out, and nothing is there; `ECONNRESET`.
    pub fn recv_plain(&self, buf: &mut [u8]) -> Result<Packet> {
        self.recv_flagged(buf, RecvFlags::TRUNC)
    }

    /// As [`Socket::recv_plain`], and never waits, whoever shares this end and has made it wait.
    ///
    /// # Errors
    /// As there.
    pub fn recv_now(&self, buf: &mut [u8]) -> Result<Packet> {
        self.recv_flagged(buf, RecvFlags::TRUNC.union(RecvFlags::DONTWAIT))
    }

    fn recv_flagged(&self, buf: &mut [u8], flags: RecvFlags) -> Result<Packet> {
        let room = buf.len();
        let (_, len) = uninterrupted(|| rustix::net::recv(&self.inner, &mut *buf, flags)).attempt("recv")?;
        Ok(Packet::of(len, room))
    }

    /// Makes all calls return `EAGAIN` instead of waiting, or wait again. The flag belongs to the open file: all
    /// holders of the same end share it.
    ///
    /// # Errors
    /// The errno of `ioctl(FIONBIO)`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.inner, nonblocking).attempt("ioctl(FIONBIO)")
    }

    /// Takes or refuses fds from the peer (`SO_PASSRIGHTS`). When refused, the peer's send fails with `EPERM`.
    /// Returns false on kernels before 6.16, which cannot refuse.
    ///
    /// # Errors
    /// The errno of `setsockopt`, other than that of an unknown option.
    pub fn set_pass_rights(&self, pass: bool) -> Result<bool> {
        set_pass_rights(self.as_fd(), pass)
    }

    /// Bounds what this end may have unread at its peer (`SO_SNDBUF`; the kernel doubles it). Bytes.
    ///
    /// # Errors
    /// The errno of `setsockopt`.
    pub fn set_send_buffer(&self, bytes: usize) -> Result<()> {
        rustix::net::sockopt::set_socket_send_buffer_size(&self.inner, bytes).attempt("setsockopt(SO_SNDBUF)")
    }

    /// What this end sent and the peer has not yet received (`SIOCOUTQ`), as the kernel counts memory: each packet is
    /// its bytes and a few hundred more. 0 means that the peer has taken everything, fds included. Bytes.
    ///
    /// # Errors
    /// The errno of `ioctl(SIOCOUTQ)`.
    pub fn unread(&self) -> Result<usize> {
        let mut bytes: libc::c_int = 0;
        // SIOCOUTQ has the number of TIOCOUTQ.
        // SAFETY: U6. The call writes one C int, and `bytes` is one.
        let done = unsafe { libc::ioctl(self.inner.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if done == -1 {
            return Err(std::io::Error::last_os_error()).attempt("ioctl(SIOCOUTQ)");
        }
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    /// How long a blocking receive waits before `EAGAIN`; `None` is for ever.
    ///
    /// # Errors
    /// The errno of `setsockopt`; `EINVAL` for a time-out of 0.
    pub fn set_recv_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.inner.set_read_timeout(timeout).attempt("setsockopt(SO_RCVTIMEO)")
    }

    /// How long a blocking send waits before `EAGAIN`; `None` is for ever.
    ///
    /// # Errors
    /// The errno of `setsockopt`; `EINVAL` for a time-out of 0.
    pub fn set_send_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.inner.set_write_timeout(timeout).attempt("setsockopt(SO_SNDTIMEO)")
    }

    /// Who connected, or made the pair.
    ///
    /// # Errors
    /// As [`PeerIdentity::of`].
    pub fn peer(&self) -> Result<PeerIdentity> {
        PeerIdentity::of(self.as_fd())
    }

    /// The numbers of who connected, or made the pair.
    ///
    /// # Errors
    /// As [`PeerNumbers::of`].
    pub fn peer_numbers(&self) -> Result<PeerNumbers> {
        PeerNumbers::of(self.as_fd())
    }

    /// The supplementary groups of who connected, or made the pair, if there are at most `most`.
    ///
    /// # Errors
    /// As [`Groups::of`].
    pub fn peer_groups(&self, most: usize) -> Result<Groups> {
        Groups::of(self.as_fd(), most)
    }

    /// As [`Socket::send`] of a packet without fds, and never waits, whoever shares this end and has made it wait.
    ///
    /// # Errors
    /// As there; `EAGAIN` when full.
    pub fn send_now(&self, bytes: &[u8]) -> Result<()> {
        let flags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        uninterrupted(|| rustix::net::send(&self.inner, bytes, flags)).map(drop).attempt("send")
    }

    /// Takes over a connection that somebody else has accepted.
    ///
    /// # Errors
    /// The fd and what it is, in words, if it is no connected Unix SEQPACKET socket.
    pub fn connected(fd: OwnedFd) -> core::result::Result<Self, (OwnedFd, String)> {
        match Form::of(fd.as_fd()) {
            Ok(Form::CONNECTION) => {}
            Ok(form) => return Err((fd, form.to_string())),
            Err(errno) => return Err((fd, format!("no socket ({errno})"))),
        }
        match rustix::net::getpeername(&fd) {
            Ok(_) => Ok(Self::from(fd)),
            Err(errno) => Err((fd, format!("not connected ({errno})"))),
        }
    }

    /// Refuses fds from here on, and looks whether some lie in the packets that are there already. Nothing is taken: the
    /// packets are there as before.
    ///
    /// Whoever closes a connection with fds in it closes these, which may take for ever. With [`Socket::set_pass_rights`]
    /// alone those that came before would be there.
    ///
    /// # Errors
    /// The errno of `setsockopt`, or of `recvmsg`.
    pub fn look_for_fds(&self) -> Result<Early> {
        self.set_pass_rights(false)?;
        let peek = |offset: i32| {
            set_int(self.as_fd(), libc::SO_PEEK_OFF, offset).attempt("setsockopt(SO_PEEK_OFF)").map(drop)
        };
        peek(0)?;
        let mut looked = self.peek_all()?;
        if looked == Early::Plain {
            // A sender that was at it when fds began to be refused has finished by now: to find nothing took the same lock.
            looked = self.peek_all()?;
        }
        peek(-1)?;
        Ok(looked)
    }

    /// Looks at one packet after the other from where the last look ended.
    fn peek_all(&self) -> Result<Early> {
        let mut buffer = vec![0_u8; PEEK_LEN];
        let flags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);
        for _ in 0..PEEKS {
            let mut nowhere = RecvAncillaryBuffer::default();
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(&self.inner, &mut parts, &mut nowhere, flags) {
                // Without a place to put them this is what says that there are some.
                Ok(found) if found.flags.contains(ReturnFlags::CTRUNC) => return Ok(Early::Fds),
                // Closed, or an empty packet, which reads like that; what is behind it nobody sees.
                Ok(found) if found.bytes == 0 => return Ok(Early::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Early::Plain),
                Err(Errno::CONNRESET) => return Ok(Early::Closed),
                Err(e) => return Err(e).attempt("recvmsg(MSG_PEEK)"),
            }
        }
        Ok(Early::TooMuch)
    }

    /// Ends the connection for both sides, whoever else holds this end. What was sent can still be read.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn shutdown(&self) -> Result<()> {
        rustix::net::shutdown(&self.inner, Shutdown::Both).attempt("shutdown")
    }
}

impl Packet {
    fn of(len: usize, room: usize) -> Self {
        match len {
            0 => Self::Closed,
            len if len > room => Self::TooLong { len },
            len => Self::Data { len },
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self { inner: UnixDatagram::from(fd) }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        Self::from(socket.inner)
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Binds `path` with `mode` (as 0o600) and listens. A socket file that nobody answers at is replaced; one
    /// that somebody answers at, and anything that is not a socket, is not.
    ///
    /// # Errors
    /// `EADDRINUSE` if somebody answers there or it is no socket; `ENOENT`, `EACCES` from the directory;
    /// `ENAMETOOLONG` above 107 bytes.
    pub fn bind(path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        let fd = new_socket()?;
        // The file is born with the socket's own mode less the umask: never wider than asked, at no time.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).attempt("fchmod")?;
        let address =
            SocketAddrUnix::new(path).attempting("bind", || format!("address {}", path.display()))?;
        match rustix::net::bind(&fd, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path)?;
                rustix::net::bind(&fd, &address)
            }
            other => other,
        }
        .attempting("bind", || path.display().to_string())?;
        // And now what the umask took away.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .attempting("chmod", || path.display().to_string())?;
        rustix::net::listen(&fd, BACKLOG).attempt("listen")?;
        Ok(Self { fd })
    }

    /// Takes over a socket that already listens (from systemd, or the keeper).
    ///
    /// # Errors
    /// `EINVAL` if it is not a listening Unix SEQPACKET socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let form = Form::of(fd.as_fd()).attempt("getsockopt")?;
        if form != Form::LISTENER {
            let detail = format!("{form}, wanted {}", Form::LISTENER);
            return Err(OsError::with_detail("listener", Errno::INVAL, detail));
        }
        Ok(Self { fd })
    }

    /// Takes over a socket of which that is known.
    pub(crate) fn of_known(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Accepts one connection, blocking, close-on-exec. It inherits what was set on the listener, except that its packets
    /// carry no credentials and pidfds of their senders.
    ///
    /// # Errors
    /// `EAGAIN` when non-blocking and nobody waits; `EMFILE`, `ENFILE`, `ENOMEM`: one connection's failure, but
    /// the listener stays readable, so wait a while before the next try.
    pub fn accept(&self) -> Result<Socket> {
        let fd =
            uninterrupted(|| rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC)).attempt("accept4")?;
        attach_nothing(fd.as_fd())?;
        Ok(Socket::from(fd))
    }

    /// As [`Socket::set_nonblocking`], for `accept`.
    ///
    /// # Errors
    /// The errno of `ioctl(FIONBIO)`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.fd, nonblocking).attempt("ioctl(FIONBIO)")
    }

    /// As [`Socket::set_pass_rights`], for every connection accepted from now on.
    ///
    /// # Errors
    /// As there.
    pub fn set_pass_rights(&self, pass: bool) -> Result<bool> {
        set_pass_rights(self.fd.as_fd(), pass)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.fd
    }
}

/// What sort of socket an fd is. Nobody but the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    family: AddressFamily,
    kind: SocketType,
    listens: bool,
}

impl Form {
    pub(crate) const LISTENER: Self =
        Self { family: AddressFamily::UNIX, kind: SocketType::SEQPACKET, listens: true };
    const CONNECTION: Self = Self { listens: false, ..Self::LISTENER };

    /// `ENOTSOCK` of what is none, `EBADF` of a path that is not open.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> core::result::Result<Self, Errno> {
        let family = rustix::net::sockopt::socket_domain(fd)?;
        let kind = rustix::net::sockopt::socket_type(fd)?;
        let listens = rustix::net::sockopt::socket_acceptconn(fd)?;
        Ok(Self { family, kind, listens })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listens = if self.listens { "listening" } else { "not listening" };
        match self.kind {
            SocketType::SEQPACKET => write!(f, "SOCK_SEQPACKET")?,
            SocketType::STREAM => write!(f, "SOCK_STREAM")?,
            SocketType::DGRAM => write!(f, "SOCK_DGRAM")?,
            other => write!(f, "of the type {}", other.as_raw())?,
        }
        match self.family {
            AddressFamily::UNIX => write!(f, " of AF_UNIX, {listens}"),
            other => write!(f, " of the family {}, {listens}", other.as_raw()),
        }
    }
}

fn new_socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .attempt("socket")
}

/// Removes a socket file that nobody listens at any more.
fn remove_stale(path: &Path) -> Result<()> {
    let in_use =
        |what: &str| OsError::with_detail("bind", Errno::ADDRINUSE, format!("{} {what}", path.display()));
    let stat = rustix::fs::lstat(path).attempting("lstat", || path.display().to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(in_use("exists and is not a socket"));
    }
    let probe = new_socket()?;
    rustix::io::ioctl_fionbio(&probe, true).attempt("ioctl(FIONBIO)")?;
    let address = SocketAddrUnix::new(path).attempt("connect")?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).attempting("unlink", || path.display().to_string())
        }
        // Connected, or a full backlog, or a socket of another type: somebody is there.
        _ => Err(in_use("is served by another process")),
    }
}

fn set_pass_rights(fd: BorrowedFd<'_>, pass: bool) -> Result<bool> {
    set(fd, SO_PASSRIGHTS, pass).attempt("setsockopt(SO_PASSRIGHTS)")
}

/// Has the kernel attach nothing to packets but what their senders do. A listener that was made elsewhere may hand such
/// wishes on to its connections; nobody here would close the pidfds that then come, one with each packet.
fn attach_nothing(fd: BorrowedFd<'_>) -> Result<()> {
    for option in [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD] {
        set(fd, option, false).attempting("setsockopt", || format!("option {option}"))?;
    }
    Ok(())
}

/// Switches an option of a socket; false if the kernel does not have it.
fn set(fd: BorrowedFd<'_>, option: libc::c_int, on: bool) -> core::result::Result<bool, Errno> {
    set_int(fd, option, libc::c_int::from(on))
}

/// Sets an option of a socket; false if the kernel does not have it.
fn set_int(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> core::result::Result<bool, Errno> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: U6. The options switched here take a C int, `value` is one and outlives the call.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), len) };
    if done == 0 {
        return Ok(true);
    }
    match errno_of(&std::io::Error::last_os_error()) {
        Errno::NOPROTOOPT | Errno::OPNOTSUPP => Ok(false),
        errno => Err(errno),
    }
}
