//! Everything of this crate that Rust cannot check: rings, and reads and writes on memory others may write.
//!
//! The invariants that the blocks below name:
//! - **B1, memory.** A [`Memory`] comes from a span, which is mapped (writable for [`Memory::Into`]) for `'m`.
//!   The kernel reads or writes inside its length only. Bytes that others change meanwhile make the data old or
//!   torn, nothing else: no reference to them exists.
//! - **B2, one user.** The queues of a [`Ring`] are touched only through a [`Lane`], and a lane holds the ring's
//!   lock for as long as it lives.
//! - **B3, nothing outlives a lane.** A lane exists only inside [`Held::with_lane`], behind a `&mut`, so it is always
//!   dropped, and its drop waits for all its requests. What requests point to lives for `'m`, which encloses that.
//! - **B4, pinned.** The kernel pins the pages of a registered buffer itself; a request on it goes to those pages,
//!   after the kernel has checked that its range is inside, and never follows a user address.
//! - **B5, shapes.** A raw system call gets the integers, and pointers to live values of the types, that its manual
//!   page asks for.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use io_uring::types::{CloneBuffersFlags, Fd};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;
use vgem_driver::mapping::{Span, SpanMut};

/// Which way, and where the bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory<'m> {
    /// From the file into memory.
    Into(SpanMut<'m>),
    /// From memory to the file.
    From(Span<'m>),
}

impl<'m> Memory<'m> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Into(span) => span.len(),
            Self::From(span) => span.len(),
        }
    }

    pub(crate) fn address(&self) -> usize {
        match self {
            Self::Into(span) => span.as_ptr().addr(),
            Self::From(span) => span.as_ptr().addr(),
        }
    }

    pub(crate) fn sub(&self, offset: usize, len: usize) -> Option<Memory<'m>> {
        match self {
            Self::Into(span) => span.sub(offset, len).map(Memory::Into),
            Self::From(span) => span.sub(offset, len).map(Memory::From),
        }
    }
}

/// One request: bytes between a file and memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'m> {
    pub(crate) fd: BorrowedFd<'m>,
    /// In the file, bytes.
    pub(crate) offset: u64,
    pub(crate) memory: Memory<'m>,
    /// The registered buffer the memory lies in, if it is registered.
    pub(crate) slot: Option<u16>,
}

/// One ring with its table of registered buffers.
pub(crate) struct Ring {
    uring: IoUring,
    /// Held by whoever uses the queues.
    busy: Mutex<()>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("fd", &self.uring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for `entries` requests in flight.
    pub(crate) fn new(entries: u32) -> Result<Self, Errno> {
        let mut builder = IoUring::builder();
        // Completions wait for their thread's next system call, which is the one that asks for them.
        builder.setup_coop_taskrun().dontfork();
        Ok(Self { uring: builder.build(entries).map_err(errno)?, busy: Mutex::new(()) })
    }

    /// Makes an empty table of registered buffers.
    pub(crate) fn make_table(&self, slots: u32) -> Result<(), Errno> {
        self.uring.submitter().register_buffers_sparse(slots).map_err(errno)
    }

    /// Registers memory in a slot of the table.
    pub(crate) fn register(&self, slot: u16, span: Span<'_>) -> Result<(), Errno> {
        let place = libc::iovec { iov_base: span.as_ptr().cast_mut().cast(), iov_len: span.len() };
        // SAFETY: B1, B4. The range is mapped during the call, which pins its pages.
        unsafe { self.uring.submitter().register_buffers_update(slot.into(), &[place], None) }.map_err(errno)
    }

    /// Empties a slot of the table.
    pub(crate) fn clear(&self, slot: u16) -> Result<(), Errno> {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: B4. An empty range registers nothing; requests in flight keep their pages.
        unsafe { self.uring.submitter().register_buffers_update(slot.into(), &[nothing], None) }
            .map_err(errno)
    }

    /// Replaces the whole table by that of another ring, sharing what is registered there.
    ///
    /// Always the whole: kernels before 6.19 lose the entries behind a range that is cloned into a table.
    pub(crate) fn share_table_of(&self, other: &Self) -> Result<(), Errno> {
        let (submitter, from) = (self.uring.submitter(), other.uring.as_raw_fd());
        submitter.register_buffers_clone_offset(from, 0, 0, 0, CloneBuffersFlags::DST_REPLACE).map_err(errno)
    }

    /// Takes the ring if nobody uses it now.
    pub(crate) fn try_hold(&self) -> Option<Held<'_>> {
        match self.busy.try_lock() {
            Ok(guard) => Some(Held { ring: self, guard }),
            // A lane that ended in a panic has drained the ring in its drop: the ring is as good as before.
            Err(TryLockError::Poisoned(poisoned)) => Some(Held { ring: self, guard: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the ring once nobody else uses it.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { ring: self, guard: self.busy.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// A ring that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'r> {
    ring: &'r Ring,
    guard: MutexGuard<'r, ()>,
}

impl Held<'_> {
    /// Runs `work` on the ring, and returns when everything it has pushed has completed.
    pub(crate) fn with_lane<'m, R>(self, work: impl FnOnce(&mut Lane<'_, 'm>) -> R) -> R {
        let Self { ring, guard } = self;
        work(&mut Lane { ring, in_flight: 0, lives: PhantomData, _held: guard })
    }
}

/// A ring in use by one thread, for requests on memory and files that live for `'m`.
#[derive(Debug)]
pub(crate) struct Lane<'r, 'm> {
    ring: &'r Ring,
    in_flight: usize,
    lives: PhantomData<Request<'m>>,
    _held: MutexGuard<'r, ()>,
}

impl<'m> Lane<'_, 'm> {
    /// Requests queued or submitted, and not yet reaped.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues a request that will come back with `tag`; false if the ring is full.
    pub(crate) fn push(&mut self, request: Request<'m>, tag: u64) -> bool {
        let Some(entry) = entry_of(request) else { return false };
        // SAFETY: B2. This lane is the only user of the queues.
        let mut queue = unsafe { self.ring.uring.submission_shared() };
        // The completion queue is twice as long: what fits here never overflows it.
        if self.in_flight >= queue.capacity() {
            return false;
        }
        // SAFETY: B1, B3. What the entry points to outlives this lane, which waits for it.
        let pushed = unsafe { queue.push(&entry.user_data(tag)) };
        self.in_flight += usize::from(pushed.is_ok());
        pushed.is_ok()
    }

    /// Submits what is queued and waits until `want` requests have completed, or a few less after a signal.
    pub(crate) fn submit_and_wait(&mut self, want: usize) {
        match self.ring.uring.submitter().submit_and_wait(want).map_err(errno) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory for requests, or completions to be reaped first.
            Err(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => std::thread::yield_now(),
            Err(other) => {
                // The kernel may still write into operands and can no longer be asked when it has stopped.
                tracing::error!("io_uring_enter: {other}; ending the process");
                std::process::abort()
            }
        }
    }

    /// The next completion: the tag, and the bytes done or the errno.
    pub(crate) fn reap(&mut self) -> Option<(u64, Result<usize, Errno>)> {
        // SAFETY: B2. This lane is the only user of the queues.
        let completion = unsafe { self.ring.uring.completion_shared() }.next()?;
        self.in_flight -= 1;
        let done = usize::try_from(completion.result())
            .map_err(|_| Errno::from_raw_os_error(completion.result().saturating_neg()));
        Some((completion.user_data(), done))
    }
}

impl Drop for Lane<'_, '_> {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            self.submit_and_wait(self.in_flight);
            while self.reap().is_some() {}
        }
    }
}

/// The entry of a request; none if it is too long for one.
fn entry_of(request: Request<'_>) -> Option<squeue::Entry> {
    let (fd, at) = (Fd(request.fd.as_raw_fd()), request.offset);
    let len = u32::try_from(request.memory.len()).ok()?;
    Some(match (request.memory, request.slot) {
        (Memory::Into(span), Some(slot)) => {
            opcode::ReadFixed::new(fd, span.as_mut_ptr(), len, slot).offset(at).build()
        }
        (Memory::Into(span), None) => opcode::Read::new(fd, span.as_mut_ptr(), len).offset(at).build(),
        (Memory::From(span), Some(slot)) => {
            opcode::WriteFixed::new(fd, span.as_ptr(), len, slot).offset(at).build()
        }
        (Memory::From(span), None) => opcode::Write::new(fd, span.as_ptr(), len).offset(at).build(),
    })
}

/// Does a request by a plain system call and returns the bytes done; 0 is the end of the file.
pub(crate) fn call(request: Request<'_>) -> Result<usize, Errno> {
    let (fd, len) = (request.fd.as_raw_fd(), request.memory.len());
    let at = i64::try_from(request.offset).map_err(|_| Errno::FBIG)?;
    loop {
        let done = match request.memory {
            // SAFETY: B1, B5. The range is writable for this length.
            Memory::Into(span) => unsafe { libc::pread64(fd, span.as_mut_ptr().cast(), len, at) },
            // SAFETY: B1, B5. The range is readable for this length.
            Memory::From(span) => unsafe { libc::pwrite64(fd, span.as_ptr().cast(), len, at) },
        };
        match usize::try_from(done).map_err(|_| last_errno()) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Pages of a file range that are in the page cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachedPages {
    pub(crate) all: u64,
    pub(crate) dirty: u64,
}

/// Asks which pages of a range are in the page cache; none if the kernel does not say.
pub(crate) fn cached_pages(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Option<CachedPages> {
    /// `cachestat`, Linux 6.5; the same number on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;
    let range: [u64; 2] = [offset, len];
    // Pages cached, dirty, under write-back, evicted, recently evicted.
    let mut stat = [0_u64; 5];
    let (fd, range_at, stat_at) = (fd.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr());
    // SAFETY: B5. Two and five 64-bit numbers, alive during the call.
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, fd, range_at, stat_at, 0) };
    let [all, dirty, writeback, ..] = stat;
    (answer == 0).then_some(CachedPages { all, dirty: dirty + writeback })
}

fn last_errno() -> Errno {
    errno(std::io::Error::last_os_error())
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
