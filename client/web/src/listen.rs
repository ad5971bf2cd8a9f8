//! Where the page is: an address that only this machine reaches, or a Unix socket, which has an owner and a mode.
//!
//! ```text
//!   unix:PATH ─► lock PATH.lock ─► is PATH free? ─────────────────────────────► listen
//!                  └ held: used      └ no ─► a socket that refuses? ─► put away ─┘
//!                                              └ anything else: used
//! ```
//!
//! A socket stays when its server ends, which by then can remove nothing any more; the next one replaces it. Servers keep
//! out of each other's way by a lock, which the kernel lets go of when its holder ends, whatever the end. What is removed has
//! been put away before, and found to be a dead socket there.
//! There is no other kind of address. What is to be seen from elsewhere is for a proxy that knows who asks.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper_util::rt::TokioIo;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, open, renameat_with};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::patience::Patient;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// An address of the loopback device.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why an address is none to listen at.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAddress {
    /// Others could reach it.
    #[error("{0} can be reached from other machines; only this machine may: 127.0.0.1:{port}, [::1]:{port} or unix:PATH",
        port = .0.port())]
    Foreign(SocketAddr),
    /// No path behind `unix:`.
    #[error("unix: wants a path behind it: unix:PATH")]
    NoPath,
    /// Something else.
    #[error("{0:?} is no address; write it as 127.0.0.1:7466, [::1]:7466 or unix:PATH")]
    Malformed(String),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(BadAddress::NoPath) } else { Ok(Self::Unix(path.into())) };
        }
        let text =
            text.strip_prefix("localhost:").map_or_else(|| text.into(), |port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = text.parse().map_err(|_| BadAddress::Malformed(text))?;
        match address.ip().is_loopback() {
            true => Ok(Self::Loopback(address)),
            false => Err(BadAddress::Foreign(address)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that listens, before there is a runtime to accept on it.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Of the loopback device.
    Tcp(std::net::TcpListener),
    /// In the file system, with the lock.
    Unix(net::UnixListener, File),
}

impl Bound {
    /// Listens. A Unix socket that nobody listens at any more is replaced.
    pub(crate) fn at(address: &Address) -> io::Result<Self> {
        let bound = match address {
            Address::Loopback(address) => Self::Tcp(std::net::TcpListener::bind(address)?),
            Address::Unix(path) => {
                let lock = lock(path)?;
                Self::Unix(at_path(path)?, lock)
            }
        };
        match &bound {
            Self::Tcp(socket) => socket.set_nonblocking(true)?,
            Self::Unix(socket, _) => socket.set_nonblocking(true)?,
        }
        Ok(bound)
    }

    /// Where it listens; with the port that the kernel chose if that was left to it.
    pub(crate) fn address(&self, asked: &Address) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => Ok(Address::Loopback(socket.local_addr()?)),
            Self::Unix(..) => Ok(asked.clone()),
        }
    }
}

/// Takes the lock of a path; one that is held means that the path is used.
fn lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(open(beside(path, "lock"), flags, Mode::RUSR | Mode::WUSR)?);
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::AddrInUse.into()),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

/// Listens at a path whose lock is held.
fn at_path(path: &Path) -> io::Result<net::UnixListener> {
    match net::UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if !is_dead(path)? {
                return Err(error);
            }
            remove(path)?;
            net::UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Whether it is a socket that nobody listens at.
fn is_dead(path: &Path) -> io::Result<bool> {
    let refuses = || net::UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    Ok(fs::symlink_metadata(path)?.file_type().is_socket() && refuses())
}

/// Removes a dead socket. What came there since it was found to be one is put back: it is looked at again where nobody else
/// finds it.
fn remove(path: &Path) -> io::Result<()> {
    let away = beside(path, &format!("{}.old", std::process::id()));
    renameat_with(CWD, path, CWD, &away, RenameFlags::NOREPLACE)?;
    if is_dead(&away)? {
        return fs::remove_file(&away);
    }
    renameat_with(CWD, &away, CWD, path, RenameFlags::NOREPLACE)?;
    Err(ErrorKind::AddrInUse.into())
}

/// A socket that listens, on the runtime.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Of the loopback device.
    Tcp(TcpListener),
    /// In the file system.
    Unix {
        /// It.
        socket: UnixListener,
        /// Held as long as it is used.
        _lock: File,
    },
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Over the loopback device.
    Tcp(TokioIo<Patient<TcpStream>>),
    /// Over a Unix socket.
    Unix(TokioIo<Patient<UnixStream>>),
}

impl Listener {
    /// To be called on the runtime.
    pub(crate) fn of(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Bound::Unix(socket, lock) => Self::Unix { socket: UnixListener::from_std(socket)?, _lock: lock },
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Caller> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Caller::Tcp(TokioIo::new(Patient::new(stream))))
            }
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.accept().await?;
                Ok(Caller::Unix(TokioIo::new(Patient::new(stream))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_this_machine_or_a_path() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(read("127.0.0.1:7466"), Ok("http://127.0.0.1:7466/".into()));
        assert_eq!(read("localhost:80"), Ok("http://127.0.0.1:80/".into()));
        assert_eq!(read("[::1]:0"), Ok("http://[::1]:0/".into()));
        assert_eq!(read("unix:/run/x"), Ok("unix:/run/x".into()));
    }

    #[test]
    fn an_address_that_others_reach_is_refused_with_those_that_are_not() {
        for text in ["0.0.0.0:7466", "192.168.1.2:7466", "[::]:7466", "[2001:db8::1]:7466"] {
            let error = text.parse::<Address>().expect_err("others reach it");
            assert!(
                matches!(error, BadAddress::Foreign(_)) && error.to_string().contains("127.0.0.1:7466"),
                "{error}"
            );
        }
        assert_eq!("unix:".parse::<Address>(), Err(BadAddress::NoPath));
        assert!(matches!("example.org:80".parse::<Address>(), Err(BadAddress::Malformed(_))));
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_one_that_is_used_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = Address::Unix(folder.path().join("web"));
        drop(Bound::at(&address).expect("a new one"));
        let second = Bound::at(&address).expect("the old one is nobody's");
        assert_eq!(Bound::at(&address).expect_err("it is used").kind(), ErrorKind::AddrInUse);
        drop(second);
    }

    #[test]
    fn atk_a_dead_socket_that_another_server_is_replacing_is_left_to_that() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web");
        drop(net::UnixListener::bind(&path).expect("a new one"));
        // The other has looked, and not listened yet.
        let other = lock(&path).expect("nobody has it");
        let refused = Bound::at(&Address::Unix(path.clone())).expect_err("it is used");
        assert!(refused.kind() == ErrorKind::AddrInUse && path.exists(), "{refused}");
        drop(other);
        assert!(Bound::at(&Address::Unix(path)).is_ok());
    }

    #[test]
    fn atk_what_came_in_place_of_a_dead_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
        fs::write(&file, "x").expect("ours");
        let live = net::UnixListener::bind(&socket).expect("a new one");
        for path in [&file, &socket] {
            assert_eq!(remove(path).expect_err("it is not dead").kind(), ErrorKind::AddrInUse);
        }
        assert_eq!(fs::read(&file).expect("it is there"), b"x");
        net::UnixStream::connect(&socket).expect("it is there");
        drop(live);
        remove(&socket).expect("it is dead");
        assert_eq!(fs::read_dir(folder.path()).expect("ours").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_lock_that_leads_elsewhere_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, elsewhere) = (folder.path().join("web"), folder.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, beside(&path, "lock")).expect("a link");
        assert!(Bound::at(&Address::Unix(path)).is_err() && !elsewhere.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("precious");
        fs::write(&path, "x").expect("a file");
        assert!(Bound::at(&Address::Unix(path.clone())).is_err());
        assert_eq!(fs::read(path).expect("it is there"), b"x");
    }
}
