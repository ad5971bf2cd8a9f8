//! Guards: the only way to see bytes of a buffer in place.
//!
//! ```text
//!   read(range)  ──[others may use it: Observe, wait]── wait for writes of its bytes ──► ReadGuard:  &[u8]
//!   write(range) ──[others may use it: Observe, wait]── wait for every use of them ───► WriteGuard: &mut [u8]
//! ```
//!
//! What a guard relies on: no job *of this client* writes (or, under a write guard, uses) its bytes, and none can be
//! submitted while it is held; where the memory was exported or imported, what others had submitted when the guard was
//! asked for has ended too. What it does not do: hold others back. Whoever shares writing shares the duty to order it.
//! A stage ([`crate::stage`]) lets jobs in that come after it, and none that might run before.
//!
//! Bytes cannot be kept beyond their guard, and a guard cannot outlive its buffer (C2):
//!
//! ```compile_fail,E0505
//! # fn f(buffer: &vgem::Buffer, soon: vgem::Deadline) -> vgem::Result<()> {
//! let guard = buffer.read(.., soon)?;
//! let bytes: &[u8] = &guard;
//! drop(guard);
//! println!("{}", bytes[0]);
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0505
//! # fn f(buffer: vgem::Buffer, soon: vgem::Deadline) -> vgem::Result<()> {
//! let guard = buffer.write(.., soon)?;
//! drop(buffer);
//! drop(guard);
//! # Ok(())
//! # }
//! ```

use std::ops::{Deref, DerefMut};

use vgem_os::mapping::Quiescent;

use crate::buffer::BufferShared;
use crate::ledger::Taken;
use crate::timeline::TimelinePoint;

/// A guard's hold on bytes of a buffer; given back on drop.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    shared: &'a BufferShared,
    taken: Taken,
    start: usize,
    len: usize,
    quiet: Quiescent,
    /// The bytes were written anew.
    rewritten: bool,
}

impl<'a> Lease<'a> {
    pub(crate) fn new(shared: &'a BufferShared, taken: Taken, start: usize, len: usize) -> Self {
        Self { shared, taken, start, len, quiet: Quiescent::by_contract(), rewritten: false }
    }

    /// Jobs that come after this point may be submitted while the lease is held.
    fn lasts_until(&self, point: &TimelinePoint) {
        self.shared.ledger.stage(self.taken.id, point);
    }

    /// Tells the broker that the bytes are, or will be, as they should be, if it thinks otherwise.
    fn heal(&mut self) {
        if std::mem::take(&mut self.taken.poisoned) {
            let start = self.start as u64;
            self.shared.tell_rewritten(&(start..start + self.len as u64));
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.shared.ledger.release(self.taken.id, self.rewritten);
    }
}

/// Bytes of a buffer, to read.
///
/// Relies on the fence protocol: the jobs of this client that write these bytes have ended, and none can be submitted
/// while the guard is held. What others submitted before the guard was asked for has ended as well; what they write
/// later is for them and you to order.
#[derive(Debug)]
pub struct ReadGuard<'a>(Lease<'a>);

impl<'a> ReadGuard<'a> {
    pub(crate) fn new(lease: Lease<'a>) -> Self {
        Self(lease)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let lease = &self.0;
        let span = lease.shared.span().sub(lease.start, lease.len);
        // The quiet rests on the ledger: no job of this client may write these bytes while the lease is held.
        span.map_or(&[], |span| span.bytes(&lease.quiet))
    }
}

/// Bytes of a buffer, to change, all of them anew.
///
/// Relies on the fence protocol: no job of this client uses these bytes, and none can be submitted while the guard is
/// held. What others submitted before the guard was asked for has ended as well; what they do later is for them and
/// you to order.
///
/// If a failed job had left these bytes poisoned and they were written through the guard, its end tells the broker that they
/// are good again; not if the thread panics.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    lease: Lease<'a>,
    written: bool,
}

impl<'a> WriteGuard<'a> {
    pub(crate) fn new(lease: Lease<'a>) -> Self {
        Self { lease, written: false }
    }

    /// Gives the bytes back without the claim that all of them were written anew, as after work that failed half way: what
    /// had left them poisoned is of account as before.
    pub fn unfinished(mut self) {
        self.written = false;
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let span = self.lease.shared.span().sub(self.lease.start, self.lease.len);
        // The quiet rests on the ledger: no job of this client may use these bytes while the lease is held.
        span.map_or(&[], |span| span.bytes(&self.lease.quiet))
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.written = true;
        let lease = &mut self.lease;
        let span = lease.shared.span_mut().and_then(|span| span.sub(lease.start, lease.len));
        // As above; the exclusive borrow of the guard makes this the only slice.
        span.map_or(&mut [], |span| span.bytes_mut(&mut lease.quiet))
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        if self.written && !std::thread::panicking() {
            self.lease.rewritten = true;
            self.lease.heal();
        }
    }
}

/// A guard that a stage can hold.
pub trait Hold: Deref<Target = [u8]> + sealed::Hold {}

impl Hold for ReadGuard<'_> {}
impl Hold for WriteGuard<'_> {}

/// What a stage needs of its guard.
pub(crate) mod sealed {
    use super::{ReadGuard, TimelinePoint, WriteGuard};

    pub trait Hold {
        /// Jobs that come after this point may be submitted while the guard is held, and find what it promises to leave.
        fn lasts_until(&mut self, point: &TimelinePoint);
    }

    impl Hold for ReadGuard<'_> {
        fn lasts_until(&mut self, point: &TimelinePoint) {
            self.0.lasts_until(point);
        }
    }

    impl Hold for WriteGuard<'_> {
        fn lasts_until(&mut self, point: &TimelinePoint) {
            self.lease.lasts_until(point);
            // Now, for the jobs that are submitted while it is held.
            self.lease.heal();
        }
    }
}
