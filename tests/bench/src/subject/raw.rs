//! A client without the library: for what the library does on purpose (mapping every buffer), and a bench must not.
//!
//! A hundred thousand mapped objects are more than a process may map (`vm.max_map_count`); a broker may hold them all.
//! So objects are made here by the protocol alone: created and committed 64 at a time, populated by writing,
//! which charges this process as touching would, and never mapped.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::io::pwrite;
use vgem_os::clock;
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::VERSION;
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, Handle, Time};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit, CreateObject, Hello};
use vgem_proto::rights::HugePages;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A greeted connection.
#[derive(Debug)]
pub struct Raw {
    socket: Socket,
    buffer: Vec<u8>,
    requests: u64,
}

impl Raw {
    /// Connects and greets.
    ///
    /// # Errors
    /// When nobody answers, or not with Welcome.
    pub fn connect(path: &Path) -> anyhow::Result<Self> {
        let socket = Socket::connect(path)?;
        socket.set_recv_timeout(Some(PATIENCE))?;
        let mut raw = Self { socket, buffer: vec![0; limits::MESSAGE_LEN], requests: 0 };
        let (version_min, version_max) = (VERSION, VERSION);
        let hello = Hello { version_min, version_max, reserved: Zero, features: 0, name: b"raw".to_vec() };
        match raw.ask(hello)?.0 {
            ClientMessage::Welcome(_) => Ok(raw),
            other => bail!("{other:?} instead of a welcome"),
        }
    }

    /// `count` objects of `len` bytes, populated and committed, as one request each: their handles and exports.
    ///
    /// # Errors
    /// When the broker refuses, or memory is lacking.
    pub fn objects(&mut self, len: u64, count: usize) -> anyhow::Result<(Vec<Handle>, Vec<OwnedFd>)> {
        let create = CreateObject {
            len,
            writer: DeviceId(0),
            count: u32::try_from(count).context("too many at once")?,
            huge: HugePages::Never,
            reserved: Zero,
            name: Vec::new(),
        };
        let (created, exports) = match self.ask(create)? {
            (ClientMessage::ObjectCreated(created), exports) => (created, exports),
            (ClientMessage::Refused(refused), _) => {
                bail!("no objects: {:?}, {}", refused.code, String::from_utf8_lossy(&refused.text))
            }
            (other, _) => bail!("{other:?} instead of objects"),
        };
        let zeros = vec![0; usize::try_from(len)?];
        for export in &exports {
            let written = pwrite(export.as_fd(), &zeros, 0).context("pwrite")?;
            anyhow::ensure!(written == zeros.len(), "{written} of {len} bytes written");
        }
        match self.ask(Commit { objects: created.objects.clone() })?.0 {
            ClientMessage::Committed(_) => Ok((created.objects, exports)),
            other => bail!("{other:?} instead of committed"),
        }
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn close(&mut self, object: Handle) -> anyhow::Result<()> {
        match self.ask(CloseObject { object })?.0 {
            ClientMessage::Done(_) => Ok(()),
            other => bail!("{other:?} instead of done"),
        }
    }

    fn ask(&mut self, message: impl Into<ClientMessage>) -> anyhow::Result<(ClientMessage, Vec<OwnedFd>)> {
        self.requests += 1;
        let deadline = Time(clock::now()).after(10_000_000_000);
        self.socket.send(&message.into().encode(self.requests, deadline, 0), &[])?;
        let mut fds = Vec::new();
        match self.socket.recv(&mut self.buffer, &mut fds)? {
            Packet::Data { len } => {
                let bytes = self.buffer.get(..len).unwrap_or_default();
                Ok((ClientMessage::decode(bytes, Sender::Broker, fds.len())?.1, fds))
            }
            other => bail!("{other:?} instead of an answer"),
        }
    }
}
