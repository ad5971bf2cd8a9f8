//! Making buffers: objects that were just made become buffers once their pages are there and the broker knows.
//!
//! ```text
//!   CreateObject ──ObjectCreated──► Drafts ── map, populate ──► Commit ──Committed──► buffers
//!                                     └── anything fails: every handle is given up
//! ```
//!
//! Pages are allocated here, by this process, so that its cgroup pays. One request makes up to 64 objects and one
//! commits them; a draft is never seen by a caller.
//!
//! Invariant: every handle that arrives is owned by an [`Object`] before anything can fail, and each [`Object`] is
//! given up exactly once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use vgem_os::mapping::{Mapping, Populate};
use vgem_os::{Errno, OsError, hugepages, memory};
use vgem_proto::ids::Handle;
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit};
use vgem_proto::rights::{HugePages, Rights};

use crate::buffer::{Buffer, BufferShared, Facts, Memory};
use crate::core::{self, Core};
use crate::error::{Error, Result};
use crate::exchange::Reply;
use crate::ledger::Ledger;
use crate::link::unexpected;
use crate::options::BufferOptions;

/// A handle, or one import of it; given up on drop.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) core: Arc<Core>,
    pub(crate) handle: Handle,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.core.known.forget(self.handle);
        self.core.link.post(&ClientMessage::CloseObject(CloseObject { object: self.handle }));
    }
}

/// Objects that are mapped and populated, and not ready yet.
#[derive(Debug)]
pub(crate) struct Drafts {
    drafts: Vec<(Mapping, Object)>,
    facts: Facts,
}

impl Drafts {
    /// Understands created objects: checks their fds, maps them, allocates their pages.
    pub(crate) fn map(
        core: &Arc<Core>,
        count: usize,
        len: u64,
        options: &BufferOptions,
        reply: Reply,
    ) -> Result<Self> {
        let made = Made::understand(core, count, len, reply)?;
        let access = if options.is_sealed() { memory::Access::Read } else { memory::Access::Write };
        let mut drafts = Vec::with_capacity(count);
        for (object, fd) in made.objects {
            let mapping = Mapping::map(fd.as_fd(), made.whole, access, Populate::Now)
                .map_err(|error| without_pages(error, options.pages(), made.whole as u64))?;
            drafts.push((mapping, object));
        }
        let name = core::cut(options.people_call_it());
        let facts = Facts { len, rights: made.rights, pinned: 0, sealed: options.is_sealed(), name };
        Ok(Self { drafts, facts })
    }

    /// The request that makes them ready.
    pub(crate) fn commit(&self) -> Commit {
        Commit { objects: self.drafts.iter().map(|(_, object)| object.handle).collect() }
    }

    /// Understands that they are ready.
    pub(crate) fn committed(self, reply: &Reply) -> Result<Vec<Buffer>> {
        let ClientMessage::Committed(committed) = &reply.message else { return Err(unexpected(reply)) };
        // The broker tells the sum; equal objects of one request share it equally.
        let pinned = committed.pinned / (self.drafts.len() as u64).max(1);
        let facts = Facts { pinned, ..self.facts };
        let buffers = self.drafts.into_iter().map(|(mapping, object)| {
            let ledger = Arc::new(Ledger::default());
            Buffer::new(BufferShared::new(Memory::Mapped(mapping), object, ledger, facts.clone()))
        });
        Ok(buffers.collect())
    }
}

/// Created objects with their fds, before anything is done with them.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) objects: Vec<(Object, OwnedFd)>,
    /// Bytes of each, whole pages.
    pub(crate) whole: usize,
    pub(crate) rights: Rights,
}

impl Made {
    /// Understands created objects of at least `len` bytes.
    pub(crate) fn understand(core: &Arc<Core>, count: usize, len: u64, mut reply: Reply) -> Result<Self> {
        let fds = std::mem::take(&mut reply.fds);
        let ClientMessage::ObjectCreated(created) = &reply.message else { return Err(unexpected(&reply)) };
        // From here on the handles are given up if anything fails.
        let own = |handle: &Handle| Object { core: Arc::clone(core), handle: *handle };
        let objects: Vec<Object> = created.objects.iter().map(own).collect();
        if objects.len() != count || fds.len() != count {
            let (objects, fds) = (objects.len(), fds.len());
            return Err(Error::Protocol(format!("asked for {count} objects, got {objects} with {fds} fds")));
        }
        if created.len < len {
            return Err(Error::Protocol(format!("asked for {len} bytes, got {}", created.len)));
        }
        let whole = usize::try_from(created.len)
            .map_err(|_| Error::Protocol(format!("an object of {} bytes", created.len)))?;
        Ok(Self { objects: objects.into_iter().zip(fds).collect(), whole, rights: created.rights })
    }
}

/// The same error; where reserved huge pages ran out, in words that name the setting.
fn without_pages(error: OsError, pages: HugePages, len: u64) -> OsError {
    let pages = match pages {
        HugePages::Transparent | HugePages::Never => return error,
        HugePages::Size2M => memory::HugePages::Size2M,
        HugePages::Size1G => memory::HugePages::Size1G,
    };
    if error.errno() != Errno::NOMEM {
        return error;
    }
    match hugepages::lacking(pages, len) {
        Some(why) => OsError::with_detail(error.call(), Errno::NOMEM, why),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pages: HugePages, errno: Errno) -> String {
        without_pages(OsError::new("mmap", errno), pages, 1 << 60).to_string()
    }

    #[test]
    fn missing_huge_pages_are_told_with_the_setting() {
        let said = told(HugePages::Size2M, Errno::NOMEM);
        assert!(said.contains("nr_hugepages") || said.contains("no pages of that size"), "{said}");
    }

    #[test]
    fn other_failures_stay_what_they_are() {
        let plain = |errno| OsError::new("mmap", errno).to_string();
        assert_eq!(told(HugePages::Size2M, Errno::ACCESS), plain(Errno::ACCESS));
        assert_eq!(told(HugePages::Transparent, Errno::NOMEM), plain(Errno::NOMEM));
    }
}
