//! Importing: an fd that came from somewhere becomes a buffer.
//!
//! ```text
//!   broker  ◄── Import n ────┐                      ┌──► Imported n: handle, rights, state
//!                          client                   │
//!   porter  ◄── Hand n + fd ─┘ ── looks at it ──► broker
//!
//!   Imported ─┬─ a buffer of this handle lives ──► that buffer; the extra import is given up
//!             ├─ ready ──────────────────────────► mapped
//!             └─ new, writable memory ───────────► mapped, populated, committed
//! ```
//!
//! Two fds of the same memory, whoever made them, are one buffer of this client, with one ledger. The fd itself is what
//! is mapped, after it was checked to be sealed against changes of its size; the broker sends none back.
//!
//! A read-only fd makes a read-only buffer. Should the same memory come again with a writable one, there are two
//! buffers of one handle, which still share the ledger.
//!
//! A broker takes 16 imports of one client at a time; the library lets no more of them begin, and the next waits its turn.
//!
//! Invariants: every `Imported` that arrives is given up exactly once (also that of a request nobody waits for any
//! more, by [`crate::exchange`]); a porter that stalls holds up nobody but who imports.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::SealFlags;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory;
use vgem_os::seqpacket::Socket;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, Commit, Import};
use vgem_proto::rights::Rights;

use crate::buffer::{Buffer, BufferShared, Facts, Memory};
use crate::core::{self, Core};
use crate::deadline::Deadline;
use crate::draft::Object;
use crate::error::{Error, LocalError, Result};
use crate::exchange::{Reply, RequestId};
use crate::ledger::Ledger;
use crate::link::{accepted, unexpected};
use crate::patience::{self, Ready};
use crate::porter::{AGAIN, Handed, hand, is_busy};

/// Porters that one import tries: the last one may be ending just then.
pub(crate) const PORTERS: u32 = 3;

/// How an fd is to be imported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    name: String,
    pub(crate) len: Option<u64>,
}

impl ImportOptions {
    /// No name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for people, if the memory is no object yet; cut to 64 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the buffer is to be, bytes, if that is less than the memory, which is whole pages.
    #[must_use]
    pub const fn len(mut self, len: u64) -> Self {
        self.len = Some(len);
        self
    }

    pub(crate) fn request(&self) -> ClientMessage {
        Import { name: core::cut(&self.name) }.into()
    }
}

/// Imports an fd.
pub(crate) fn import(core: &Arc<Core>, fd: OwnedFd, options: &ImportOptions) -> Result<Buffer> {
    let deadline = core.deadline();
    let reply = bring(core, fd.as_fd(), &options.request(), deadline)?;
    let fresh = match Fresh::of(core, fd, options, reply)? {
        Taken::Known(buffer) => return Ok(buffer),
        Taken::Fresh(fresh) => fresh.map()?,
    };
    let Some(commit) = fresh.commit() else { return Ok(fresh.ready(0)) };
    loop {
        match core.link.call(commit.clone(), deadline) {
            Ok(reply) => return Ok(fresh.ready(pinned(&reply)?)),
            // Another thread imports the same memory and commits it just now.
            Err(error) if is_busy(&error) && !deadline.passed() => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
}

/// Asks for what an fd is handed over for, and hands it over; the broker's answer.
pub(crate) fn bring(
    core: &Core,
    fd: BorrowedFd<'_>,
    message: &ClientMessage,
    deadline: Deadline,
) -> Result<Reply> {
    let mut porters = 0;
    loop {
        porters += 1;
        let id = core.link.begin_import(deadline)?;
        let started = core
            .porter
            .open(&core.link, deadline)
            .and_then(|channel| core.link.send_import(id, message, deadline, deadline).map(|()| channel));
        let channel = started.inspect_err(|_| core.link.forsake(id))?;
        let handed = hand_patiently(&channel, id, fd, deadline);
        if !matches!(handed, Ok(Handed::Sent)) {
            core.link.forsake(id);
            core.porter.ended(&channel);
            if handed? == Handed::Full {
                return Err(Error::Timeout { what: "handing an fd to the porter" });
            }
            if porters < PORTERS {
                continue;
            }
            return Err(no_porter());
        }
        match accepted(core.link.collect(id, deadline)?) {
            Err(error) if porters < PORTERS && is_unserved(&error) => core.porter.ended(&channel),
            Err(error) if is_stalled(&error) => {
                core.porter.ended(&channel);
                return Err(error);
            }
            other => return other,
        }
    }
}

fn hand_patiently(channel: &Socket, id: RequestId, fd: BorrowedFd<'_>, deadline: Deadline) -> Result<Handed> {
    const SLICE: Duration = Duration::from_millis(100);
    loop {
        match hand(channel, id, fd, deadline)? {
            Handed::Full if !deadline.passed() => {
                patience::ready(channel, Ready::Write, deadline.remaining().min(SLICE));
            }
            other => return Ok(other),
        }
    }
}

/// The error when one porter after another ended before it took anything.
pub(crate) fn no_porter() -> Error {
    Error::Timeout { what: "finding a porter that lives long enough to take an fd" }
}

/// Whether an import was refused because its porter was ending just then: nobody has looked at the fd.
pub(crate) fn is_unserved(error: &Error) -> bool {
    matches!(error.code(), Some(ErrorCode::NotReady | ErrorCode::Unavailable))
}

/// Whether the porter was killed over an import: its channel is of no more use, though it may hang there for long.
pub(crate) fn is_stalled(error: &Error) -> bool {
    error.code() == Some(ErrorCode::Late)
}

/// What an import found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A buffer that lives.
    Known(Buffer),
    /// Memory that is not mapped yet.
    Fresh(Fresh),
}

/// Imported memory that is no buffer yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    object: Object,
    fd: OwnedFd,
    /// Bytes of the object.
    whole: u64,
    facts: Facts,
    access: memory::Access,
    populates: bool,
}

/// Imported memory that is mapped and no buffer yet.
#[derive(Debug)]
pub(crate) struct Mapped {
    mapping: Mapping,
    object: Object,
    facts: Facts,
    commits: bool,
}

impl Fresh {
    /// Understands an import.
    pub(crate) fn of(core: &Arc<Core>, fd: OwnedFd, options: &ImportOptions, reply: Reply) -> Result<Taken> {
        let ClientMessage::Imported(imported) = &reply.message else { return Err(unexpected(&reply)) };
        // From here on this import is given up if anything fails.
        let object = Object { core: Arc::clone(core), handle: imported.object };
        let (whole, rights) = (imported.len, imported.rights);
        let len = options.len.unwrap_or(whole);
        if len == 0 || len > whole {
            return Err(LocalError::OutOfRange { offset: 0, len, available: whole }.into());
        }
        // The handle may allow more than this very fd.
        let writable = rights.contains(Rights::WRITE)
            && memory::verify_export(fd.as_fd(), whole, memory::Access::Write).is_ok();
        let access = if writable { memory::Access::Write } else { memory::Access::Read };
        if let Some(known) = core.known.find(object.handle)
            && (known.is_writable() || !writable)
        {
            known.ledger.share();
            return Ok(Taken::Known(Buffer::of(known)));
        }
        let (sealed, name) = (is_sealed(fd.as_fd()), core::cut(&options.name));
        let facts = Facts { len, rights, pinned: 0, sealed, name };
        let populates = imported.state == 1 && writable;
        Ok(Taken::Fresh(Self { object, fd, whole, facts, access, populates }))
    }

    /// Maps it. New memory is populated, by this process and at its expense.
    pub(crate) fn map(self) -> Result<Mapped> {
        let whole = usize::try_from(self.whole)
            .map_err(|_| Error::Protocol(format!("an object of {} bytes", self.whole)))?;
        let populate = if self.populates { Populate::Now } else { Populate::Lazy };
        let mapping = Mapping::map(self.fd.as_fd(), whole, self.access, populate)?;
        Ok(Mapped { mapping, object: self.object, facts: self.facts, commits: self.populates })
    }
}

impl Mapped {
    /// The request that makes it ready, if it is for this client to make.
    pub(crate) fn commit(&self) -> Option<Commit> {
        self.commits.then(|| Commit { objects: vec![self.object.handle] })
    }

    /// The buffer. If another thread was faster, that thread's.
    pub(crate) fn ready(self, pinned: u64) -> Buffer {
        let Self { mapping, object, facts, .. } = self;
        let core = Arc::clone(&object.core);
        let (memory, ledger) = (Memory::Mapped(mapping), Arc::new(Ledger::default()));
        ledger.share();
        let buffer = BufferShared::new(memory, object, ledger, Facts { pinned, ..facts });
        Buffer::of(core.known.settle(buffer))
    }
}

/// Bytes pinned, as the answer to a commit says.
pub(crate) fn pinned(reply: &Reply) -> Result<u64> {
    match &reply.message {
        ClientMessage::Committed(committed) => Ok(committed.pinned),
        _ => Err(unexpected(reply)),
    }
}

/// Whether nobody can begin to write the memory any more.
fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    let against_writing = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.intersects(against_writing))
}
