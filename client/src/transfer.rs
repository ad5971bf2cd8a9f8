//! Giving a buffer to another process over a socket that both have, with its fence state, in one call.
//!
//! ```text
//!   sender                                    receiver
//!   Export, so the broker has all it sent ─┐
//!   header + fd ── any Unix socket ────────┴─► checked ─► imported ─► observed: what is unfinished is known
//!                                                                     read(..) waits for it, and fails with it
//! ```
//!
//! The message is 88 bytes, little-endian, with exactly one fd (`SCM_RIGHTS`):
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `vgem-buf` |
//! | 8..10 | version, 1 |
//! | 10 | access the fd is for: 1 read, 2 write |
//! | 11 | bytes of the name, at most 64 |
//! | 12..16 | zero |
//! | 16..24 | length of the buffer, bytes: at most that of the memory, which is whole pages |
//! | 24..88 | the name, for people, then zeros |
//!
//! On datagram and SEQPACKET sockets it is one packet; on a stream it is the next 88 bytes, and the stream is of no more
//! use after an error in the middle of them. The socket is neither made blocking nor unblocking, since others may
//! share it. One receiver at a time.
//!
//! What the sender says is its allegation: the fd is imported, so whatever it is, a porter looks at it first, and
//! the length is checked against the memory. What is not checked is who sent it. Fds that are refused are closed
//! here, which can take as long as their owner likes (a file of a FUSE server): receive from strangers on a thread of
//! its own.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sockopt};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::limits;
use vgem_proto::rights::Access;

use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::patience::{self, Ready};

pub(crate) const MAGIC: [u8; 8] = *b"vgem-buf";
const VERSION: u16 = 1;
/// Bytes of the message.
pub(crate) const LEN: usize = 88;
const NAME_AT: usize = 24;
/// How long a thread sleeps on the socket before it looks at its deadline again.
const SLICE: Duration = Duration::from_millis(100);

const _: () = assert!(NAME_AT + limits::NAME_LEN == LEN);

/// A buffer that another process sent.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The buffer. Its guards wait for what the sender had submitted.
    pub buffer: Buffer,
    /// What the sender calls it: an allegation, for people.
    pub name: String,
    /// What the sender meant it for.
    pub access: Access,
}

impl Received {
    /// Whether nobody can begin to write it any more: it is a sealed result, or memory that was sealed against writing.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.buffer.is_sealed()
    }
}

/// What a sender sent that is no buffer. Its fds were closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The other end was closed first.
    #[error("the socket was closed before a buffer came")]
    Closed,
    /// Too few or too many bytes.
    #[error("{len} bytes came, {wanted} were to come")]
    Length {
        /// How many.
        len: usize,
        /// How many a header of this kind has.
        wanted: usize,
    },
    /// Something else.
    #[error("bytes that begin with {found:02x?} are no buffer's header")]
    Magic {
        /// How it begins.
        found: [u8; 8],
    },
    /// A header of a newer library.
    #[error("a header of version {version}, this library knows {VERSION}")]
    Version {
        /// Its version.
        version: u16,
    },
    /// A part of the header has no meaning.
    #[error("the header's {field} is {value}")]
    Field {
        /// Which part.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// No fd, or more than one.
    #[error("{count} fds came with a buffer, it takes one")]
    Fds {
        /// How many.
        count: usize,
    },
    /// The fd allows less than the header says.
    #[error("the header says the buffer is to be written, its fd is for reading only")]
    ReadOnly,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) access: Access,
    pub(crate) len: u64,
    pub(crate) name: Vec<u8>,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let access = match self.access {
            Access::Read => 1,
            Access::Write => 2,
        };
        let name = self.name.get(..limits::NAME_LEN).unwrap_or(&self.name);
        let fields = MAGIC
            .into_iter()
            .chain(VERSION.to_le_bytes())
            .chain([access, u8::try_from(name.len()).unwrap_or(0)])
            .chain([0; 4])
            .chain(self.len.to_le_bytes())
            .chain(name.iter().copied());
        let mut bytes = [0; LEN];
        bytes.iter_mut().zip(fields).for_each(|(at, byte)| *at = byte);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; LEN]) -> Result<Self, TransferError> {
        fn part<const N: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
            std::array::from_fn(|place| bytes[at + place])
        }
        let wrong = |field, value| Err(TransferError::Field { field, value });
        let found = part(bytes, 0);
        if found != MAGIC {
            return Err(TransferError::Magic { found });
        }
        let version = u16::from_le_bytes(part(bytes, 8));
        if version != VERSION {
            return Err(TransferError::Version { version });
        }
        let access = match bytes[10] {
            1 => Access::Read,
            2 => Access::Write,
            other => return wrong("access", other.into()),
        };
        let name_len = usize::from(bytes[11]);
        let reserved = u32::from_le_bytes(part(bytes, 12));
        if reserved != 0 {
            return wrong("reserved part", reserved.into());
        }
        let len = u64::from_le_bytes(part(bytes, 16));
        if len == 0 {
            return wrong("length", 0);
        }
        let name: [u8; limits::NAME_LEN] = part(bytes, NAME_AT);
        let Some((name, rest)) = name.split_at_checked(name_len) else {
            return wrong("length of the name", name_len as u64);
        };
        if rest.iter().any(|byte| *byte != 0) {
            return wrong("byte after the name", 1);
        }
        Ok(Self { access, len, name: name.to_vec() })
    }

    /// How what came with this header is imported.
    pub(crate) fn options(&self) -> ImportOptions {
        ImportOptions::new().name(String::from_utf8_lossy(&self.name)).len(self.len)
    }

    /// What is handed to the receiver.
    pub(crate) fn received(self, buffer: Buffer) -> Result<Received> {
        if self.access == Access::Write && !buffer.is_writable() {
            return Err(TransferError::ReadOnly.into());
        }
        let name = String::from_utf8_lossy(&self.name).into_owned();
        Ok(Received { buffer, name, access: self.access })
    }
}

/// Whether a step is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Done,
    /// It went on, and may go on at once.
    More,
    /// The socket is not ready.
    Wait,
}

/// A message that is being sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fd: OwnedFd,
}

impl Outgoing {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, fd: OwnedFd) -> Self {
        Self { bytes: bytes.into(), sent: 0, fd }
    }

    /// Sends what there is room for now.
    pub(crate) fn step(&mut self, socket: BorrowedFd<'_>) -> Result<Step> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [self.fd.as_fd()];
        if self.sent == 0 && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(OsError::with_detail("sendmsg", Errno::NOBUFS, "no room for one fd").into());
        }
        let rest = self.bytes.get(self.sent..).unwrap_or(&[]);
        let flags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
        match rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags) {
            Ok(sent) => self.sent += sent,
            Err(Errno::AGAIN) => return Ok(Step::Wait),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(OsError::with_detail("sendmsg", errno, "a buffer's header").into()),
        }
        Ok(if self.sent >= self.bytes.len() { Step::Done } else { Step::More })
    }
}

/// A message that is being received.
#[derive(Debug)]
pub(crate) struct Incoming<const LEN: usize> {
    socket: Socket,
    is_stream: bool,
    bytes: [u8; LEN],
    got: usize,
    fds: Vec<OwnedFd>,
}

impl<const LEN: usize> Incoming<LEN> {
    pub(crate) fn on(socket: BorrowedFd<'_>) -> Result<Self> {
        let kind =
            sockopt::socket_type(socket).map_err(|errno| OsError::new("getsockopt(SO_TYPE)", errno))?;
        let own = rustix::io::fcntl_dupfd_cloexec(socket, 0)
            .map_err(|errno| OsError::new("fcntl(F_DUPFD_CLOEXEC)", errno))?;
        let is_stream = kind == SocketType::STREAM;
        Ok(Self { socket: own.into(), is_stream, bytes: [0; LEN], got: 0, fds: Vec::new() })
    }

    /// Receives what is there now.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if !patience::ready(&self.socket, Ready::Read, Duration::ZERO) {
            return Ok(Step::Wait);
        }
        let room = self.bytes.get_mut(self.got..).unwrap_or(&mut []);
        match self.socket.recv(room, &mut self.fds) {
            Ok(Packet::Data { len }) => self.got += len,
            Ok(Packet::TooLong { len }) => return Err(TransferError::Length { len, wanted: LEN }.into()),
            Ok(Packet::Closed) if self.got > 0 => {
                return Err(TransferError::Length { len: self.got, wanted: LEN }.into());
            }
            Ok(Packet::Closed) => return Err(TransferError::Closed.into()),
            Err(error) => match OsError::from(error) {
                error if error.would_block() => return Ok(Step::Wait),
                error => return Err(error.into()),
            },
        }
        if self.got >= LEN || !self.is_stream { Ok(Step::Done) } else { Ok(Step::More) }
    }

    /// Checks what was received.
    pub(crate) fn finish(self) -> Result<([u8; LEN], OwnedFd)> {
        if self.got != LEN {
            return Err(TransferError::Length { len: self.got, wanted: LEN }.into());
        }
        let count = self.fds.len();
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(self.fds) else {
            return Err(TransferError::Fds { count }.into());
        };
        Ok((self.bytes, fd))
    }
}

/// Sends a message, waiting for room until the deadline.
pub(crate) fn send(socket: BorrowedFd<'_>, mut outgoing: Outgoing, deadline: Deadline) -> Result<()> {
    loop {
        match outgoing.step(socket)? {
            Step::Done => return Ok(()),
            Step::More => {}
            Step::Wait if deadline.passed() => {
                return Err(Error::Timeout { what: "sending a buffer to another process" });
            }
            Step::Wait => drop(patience::ready(socket, Ready::Write, deadline.remaining().min(SLICE))),
        }
    }
}

/// Receives a buffer, waiting for it until the deadline, or until it is not wanted any more.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    deadline: Deadline,
    wanted: impl Fn() -> bool,
) -> Result<(Header, OwnedFd)> {
    let (bytes, fd) = receive_message::<LEN>(socket, deadline, wanted)?;
    Ok((Header::decode(&bytes)?, fd))
}

/// Receives a message of `LEN` bytes with one fd, likewise.
pub(crate) fn receive_message<const LEN: usize>(
    socket: BorrowedFd<'_>,
    deadline: Deadline,
    wanted: impl Fn() -> bool,
) -> Result<([u8; LEN], OwnedFd)> {
    let mut incoming = Incoming::<LEN>::on(socket)?;
    loop {
        match incoming.step()? {
            Step::Done => return incoming.finish(),
            Step::More => {}
            Step::Wait if deadline.passed() || !wanted() => {
                return Err(Error::Timeout { what: "waiting for a buffer of another process" });
            }
            Step::Wait => drop(patience::ready(socket, Ready::Read, deadline.remaining().min(SLICE))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { access: Access::Write, len: 10_000, name: b"frame 7".to_vec() }
    }

    fn broken(at: usize, byte: u8) -> TransferError {
        let mut bytes = header().encode();
        bytes[at] = byte;
        Header::decode(&bytes).expect_err("it was broken")
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn the_header_is_laid_out_as_documented() {
        let bytes = header().encode();
        assert_eq!(&bytes[..16], b"vgem-buf\x01\x00\x02\x07\x00\x00\x00\x00");
        assert_eq!(
            (&bytes[16..24], &bytes[24..32]),
            (&10_000_u64.to_le_bytes()[..], b"frame 7\0".as_slice())
        );
    }

    #[test]
    fn every_part_of_a_header_is_checked() {
        assert_eq!(broken(0, b'V'), TransferError::Magic { found: *b"Vgem-buf" });
        assert_eq!(broken(8, 2), TransferError::Version { version: 2 });
        assert_eq!(broken(10, 3), TransferError::Field { field: "access", value: 3 });
        assert_eq!(broken(11, 65), TransferError::Field { field: "length of the name", value: 65 });
        assert_eq!(broken(13, 1), TransferError::Field { field: "reserved part", value: 256 });
        assert_eq!(broken(87, 1), TransferError::Field { field: "byte after the name", value: 1 });
        let empty = Header { len: 0, ..header() }.encode();
        assert_eq!(Header::decode(&empty), Err(TransferError::Field { field: "length", value: 0 }));
    }
}
