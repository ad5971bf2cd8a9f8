//! Where the page is: an address that only this machine reaches, or a Unix socket, which has an owner and a mode.
//!
//! A socket stays when its server ends, which by then removes nothing any more; the next one replaces it.
//! There is no other kind of address. What is to be seen from elsewhere is for a proxy that knows who asks.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

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
    /// In the file system.
    Unix(std::os::unix::net::UnixListener),
}

impl Bound {
    /// Listens. A Unix socket that nobody listens at any more is replaced.
    pub(crate) fn at(address: &Address) -> io::Result<Self> {
        let bound = match address {
            Address::Loopback(address) => Self::Tcp(std::net::TcpListener::bind(address)?),
            Address::Unix(path) => Self::Unix(at_path(path)?),
        };
        match &bound {
            Self::Tcp(socket) => socket.set_nonblocking(true)?,
            Self::Unix(socket) => socket.set_nonblocking(true)?,
        }
        Ok(bound)
    }

    /// Where it listens; with the port that the kernel chose if that was left to it.
    pub(crate) fn address(&self, asked: &Address) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => Ok(Address::Loopback(socket.local_addr()?)),
            Self::Unix(_) => Ok(asked.clone()),
        }
    }
}

fn at_path(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::net::{UnixListener, UnixStream};
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
            let nobody =
                UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if !(is_socket && nobody) {
                return Err(error);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// A socket that listens, on the runtime.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Of the loopback device.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Over the loopback device.
    Tcp(TokioIo<TcpStream>),
    /// Over a Unix socket.
    Unix(TokioIo<UnixStream>),
}

impl Listener {
    /// To be called on the runtime.
    pub(crate) fn of(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Bound::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Caller> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // A viewer that does not read is given up, and no longer looked for.
                rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_MS)?;
                stream.set_nodelay(true)?;
                Ok(Caller::Tcp(TokioIo::new(stream)))
            }
            Self::Unix(socket) => Ok(Caller::Unix(TokioIo::new(socket.accept().await?.0))),
        }
    }
}

/// How long what is sent may stay unread, milliseconds.
const UNREAD_MS: u32 = 30_000;

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
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("precious");
        fs::write(&path, "x").expect("a file");
        assert!(Bound::at(&Address::Unix(path.clone())).is_err());
        assert_eq!(fs::read(path).expect("it is there"), b"x");
    }
}
