//! Filling a fresh mapping with the bytes of another, as fast as the pages can be had.
//!
//! Getting a page costs several times more than copying into it. There are two ways, and large copies use both at
//! once, in two threads that each take the next piece:
//! - *populate and copy*: the kernel zeroes the page, then it is written through the mapping, while it is cached;
//! - *write into the file*, which saves the zeroing, then map what is there, sixteen pages at a fault. A third
//!   cheaper; but writes hold a lock of the file, so a second thread gains nothing by it. Not where pages may be
//!   huge: a write would get small ones. And not where a limit on the length of files would make it a signal.
//!
//! `benches/adopt.rs` measures.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;

use crate::error::{OsError, Result};
use crate::mapping::{CopyStyle, HUGE_FROM, Have, Mapping, Span, SpanMut, copy_span};
use crate::process::limits::fsize;

/// Had and copied at a time, bytes: a part of a processor's own cache.
const PIECE: usize = 128 * 1024;

/// From this length on there is a second thread, bytes.
const TWO_THREADS_FROM: usize = 2 * 1024 * 1024;

/// Copies `from`, which has the mapping's length, into the mapping; of the file `object`, if it is one's.
pub(super) fn fill(into: &Mapping, from: Span<'_>, object: Option<BorrowedFd<'_>>) -> Result<()> {
    let object = object.filter(|_| into.len() < HUGE_FROM || !shared_memory_may_be_huge());
    let object = object.filter(|_| u64::try_from(into.len()).is_ok_and(|len| len <= fsize()));
    // Each thread takes the next piece, so that one on a busy processor holds nobody up.
    let next = AtomicUsize::new(0);
    let several = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
    if into.len() < TWO_THREADS_FROM || !several {
        return pieces(into, from, object, &next);
    }
    std::thread::scope(|scope| {
        let second = std::thread::Builder::new()
            .name("vgem-adopt".into())
            .spawn_scoped(scope, || pieces(into, from, None, &next));
        let first = pieces(into, from, object, &next);
        // Without a second thread, the first has taken all the pieces.
        let second = second.map_or(Ok(()), |thread| thread.join().expect("copying bytes does not panic"));
        first.and(second)
    })
}

/// Takes pieces until there are none.
fn pieces(into: &Mapping, from: Span<'_>, object: Option<BorrowedFd<'_>>, next: &AtomicUsize) -> Result<()> {
    let target = into.span_mut()?;
    loop {
        let offset = next.fetch_add(PIECE, Ordering::Relaxed);
        let Some(left) = into.len().checked_sub(offset).filter(|left| *left > 0) else { return Ok(()) };
        let len = left.min(PIECE);
        let part = target.sub(offset, len).zip(from.sub(offset, len));
        let (dst, src): (SpanMut<'_>, Span<'_>) = part.ok_or_else(beyond)?;
        if object.is_some_and(|file| written(file, offset, src)) {
            into.populate_part(offset, len, Have::Pages)?;
        } else {
            into.populate_part(offset, len, Have::Nothing)?;
            copy_span(dst, src, CopyStyle::Plain).map_err(|_| beyond())?;
        }
    }
}

/// Writes all of `src` into the file; false if the file takes no writes (reserved huge pages), or not all of it.
fn written(file: BorrowedFd<'_>, offset: usize, src: Span<'_>) -> bool {
    let Ok(at) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: U2, U6. The kernel reads `len` mapped bytes.
    let done = unsafe { libc::pwrite(file.as_raw_fd(), src.as_ptr().cast(), src.len(), at) };
    usize::try_from(done).is_ok_and(|done| done == src.len())
}

/// Whether the machine gives shared memory transparent huge pages; asked once.
fn shared_memory_may_be_huge() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let chosen = std::fs::read_to_string(path).unwrap_or_default();
        !(chosen.is_empty() || chosen.contains("[never]") || chosen.contains("[deny]"))
    })
}

fn beyond() -> OsError {
    OsError::with_detail("adopt", crate::Errno::INVAL, "the two sides differ in length")
}
