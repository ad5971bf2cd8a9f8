//! Adopting: memory this process has already becomes a buffer, without changing its address.
//!
//! ```text
//!   Region, PageVec ── CreateObject ── copied once, mapped over the same addresses ── Commit ──► AdoptedBuffer
//!        ▲                                                                                          │
//!        └── private memory again, same contents, same addresses ◄── jobs have ended ◄── release ───┘
//! ```
//!
//! Pointers into the memory stay valid, and whoever reads through them reads the same bytes before, meanwhile and after.
//!
//! **Who else uses the memory.** Threads that only read may go on all the time, except where a job is to write: those
//! bytes change under them, so they wait for its fence, or use the buffer's guards. Threads that write are quiet while
//! [`crate::Client::adopt`] and `release` run, or what they write then may be lost; in between they keep off what a job uses.
//! Guards know of jobs and of each other, and nothing of plain pointers. What holds pages and not addresses (buffers registered
//! with an io_uring, for one) keeps the old ones: give it up first. The whole of it is in [`vgem_os::adopt`].
//!
//! Giving it up waits for every unfinished job. Dropping waits as well, but at most [`DROP_WAIT`]; what a job writes
//! later than that is lost to this process. Others who hold an export keep the object as it was.
//!
//! Invariant: the addresses are mapped and hold the contents at every moment, whatever fails.

use std::ops::Deref;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use vgem_os::adopt::{Adopted, PageVec, Region};
use vgem_proto::message::client::Commit;
use vgem_proto::rights::Access;

use crate::buffer::{Buffer, BufferShared, Facts, Memory};
use crate::core::{self, Core};
use crate::deadline::Deadline;
use crate::draft::{Made, Object};
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::import::pinned;
use crate::ledger::{Ledger, Waiting};
use crate::options::BufferOptions;

/// How long dropping adopted memory waits for its jobs.
pub(crate) const DROP_WAIT: Duration = Duration::from_secs(5);

/// Memory of this process that is a buffer for a while. It is used as one.
///
/// Dropping it waits for its jobs, a few seconds at most: in a task, release it with `aio::Client::release`.
#[derive(Debug)]
pub struct AdoptedBuffer {
    /// Nothing only while it is being released.
    buffer: Option<Buffer>,
}

/// A [`PageVec`] that is a buffer for a while, as long as the bytes that were in use. It is used as one.
#[derive(Debug)]
pub struct AdoptedPages(AdoptedBuffer);

/// What could not be done with memory, and the memory.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotDone<T> {
    /// The memory as it was. Nothing if adopting failed at its end and there was no memory for a private copy: then the
    /// addresses hold the same contents, shared with an object nobody names.
    pub memory: Option<T>,
    /// Why.
    #[source]
    pub error: Error,
}

/// What such a function returns.
type Done<T, M> = std::result::Result<T, NotDone<M>>;

impl<T> NotDone<T> {
    pub(crate) fn with(memory: T, error: impl Into<Error>) -> Self {
        Self { memory: Some(memory), error: error.into() }
    }

    pub(crate) fn map<U>(self, into: impl FnOnce(T) -> U) -> NotDone<U> {
        NotDone { memory: self.memory.map(into), error: self.error }
    }
}

impl AdoptedBuffer {
    fn over(buffer: Buffer) -> Self {
        Self { buffer: Some(buffer) }
    }

    /// Waits for unfinished jobs and makes it private memory again.
    ///
    /// # Errors
    /// Gives it back, still adopted, with [`Error::Timeout`] if a job has not ended, [`LocalError::StillUsed`] if a batch
    /// or another buffer of the same object is alive, or [`Error::System`] without memory for the copy.
    pub fn release(mut self, deadline: impl Into<Deadline>) -> Done<Region, Self> {
        let buffer = self.buffer.take().expect("it is there until it is released");
        release(buffer, deadline.into()).map_err(|(buffer, error)| NotDone::with(Self::over(buffer), error))
    }
}

impl Deref for AdoptedBuffer {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        self.buffer.as_ref().expect("it is there until it is released")
    }
}

impl Drop for AdoptedBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // Private memory comes back with the buffer's end, in time or not.
            drop(quiet(&buffer, Deadline::after(DROP_WAIT)));
        }
    }
}

impl AdoptedPages {
    /// As [`AdoptedBuffer::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(self, deadline: impl Into<Deadline>) -> Done<PageVec, Self> {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX);
        let region = self.0.release(deadline).map_err(|failed| failed.map(Self))?;
        PageVec::from_region(region, len).map_err(|_region| NotDone {
            memory: None,
            error: Error::Protocol("its pages are not what they were".into()),
        })
    }
}

impl Deref for AdoptedPages {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.0
    }
}

/// Adopts a region whose first `used` bytes are the buffer; blocks.
pub(crate) fn adopt(core: &Arc<Core>, region: Region, used: u64) -> Done<AdoptedBuffer, Region> {
    let deadline = core.deadline();
    let options = BufferOptions::new().name("adopted");
    let made = options.request(1, region.len() as u64).and_then(|request| core.link.call(request, deadline));
    let made = match made {
        Ok(made) => made,
        Err(error) => return Err(NotDone::with(region, error)),
    };
    let replaced = Replaced::of(core, region, used, &options, made)?;
    let committed = core.link.call(replaced.commit(), deadline);
    replaced.committed(committed)
}

/// Adopts pages; blocks.
pub(crate) fn adopt_pages(core: &Arc<Core>, pages: PageVec) -> Done<AdoptedPages, PageVec> {
    if pages.is_empty() {
        return Err(NotDone::with(pages, LocalError::Empty { what: "PageVec that is adopted" }));
    }
    let (region, used) = pages.into_region();
    let adopted = adopt(core, region, used as u64);
    adopted.map(AdoptedPages).map_err(|failed| NotDone {
        memory: failed.memory.and_then(|region| PageVec::from_region(region, used).ok()),
        error: failed.error,
    })
}

/// Memory that was replaced by that of an object which is not ready yet.
#[derive(Debug)]
struct Replaced {
    adopted: Adopted,
    object: Object,
    facts: Facts,
}

impl Replaced {
    fn of(
        core: &Arc<Core>,
        region: Region,
        used: u64,
        options: &BufferOptions,
        made: Reply,
    ) -> Done<Self, Region> {
        let made = match Made::understand(core, 1, region.len() as u64, made) {
            Ok(made) => made,
            Err(error) => return Err(NotDone::with(region, error)),
        };
        let rights = made.rights;
        let Some((object, fd)) = made.objects.into_iter().next() else {
            return Err(NotDone::with(region, Error::Protocol("no object was made".into())));
        };
        let name = core::cut(options.people_call_it());
        let facts = Facts { len: used, rights, pinned: 0, sealed: false, name };
        match region.replace(fd.as_fd()) {
            Ok(adopted) => Ok(Self { adopted, object, facts }),
            Err((region, error)) => Err(NotDone::with(region, error)),
        }
    }

    fn commit(&self) -> Commit {
        Commit { objects: vec![self.object.handle] }
    }

    fn committed(self, reply: Result<Reply>) -> Done<AdoptedBuffer, Region> {
        let Self { adopted, object, facts } = self;
        match reply.and_then(|reply| pinned(&reply)) {
            Ok(pinned) => {
                let facts = Facts { pinned, ..facts };
                let memory = Memory::Adopted(adopted);
                let shared = BufferShared::new(memory, object, Arc::new(Ledger::default()), facts);
                Ok(AdoptedBuffer::over(Buffer::new(shared)))
            }
            Err(error) => {
                let memory = adopted.restore().ok();
                drop(object);
                Err(NotDone { memory, error })
            }
        }
    }
}

/// Waits until nobody uses the buffer.
fn quiet(buffer: &Buffer, deadline: Deadline) -> Result<()> {
    let waiting = Waiting::Until(deadline);
    if buffer.is_shared() {
        buffer.observe(Access::Write, waiting)?;
    }
    buffer.lease_as_known(&.., Access::Write, waiting).map(drop)
}

fn release(buffer: Buffer, deadline: Deadline) -> Result<Region, (Buffer, Error)> {
    if let Err(error) = quiet(&buffer, deadline) {
        return Err((buffer, error));
    }
    let BufferShared { memory, object, core, ledger, facts } = match buffer.alone() {
        Ok(shared) => shared,
        Err(buffer) => {
            let handle = buffer.handle();
            return Err((buffer, LocalError::StillUsed { handle }.into()));
        }
    };
    drop(core);
    let (memory, error) = match memory {
        Memory::Adopted(adopted) => match adopted.restore() {
            Ok(region) => return Ok(region),
            Err((adopted, error)) => (Memory::Adopted(adopted), error.into()),
        },
        other => (other, Error::Protocol("memory that was not adopted".into())),
    };
    Err((Buffer::new(BufferShared::new(memory, object, ledger, facts)), error))
}
