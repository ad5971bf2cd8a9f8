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

use std::ops::{Deref, DerefMut};

use vgem_os::mapping::Quiescent;

use crate::buffer::BufferShared;

/// A guard's hold on bytes of a buffer; given back on drop.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    pub(crate) shared: &'a BufferShared,
    pub(crate) id: u64,
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) quiet: Quiescent,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.shared.ledger.release(self.id);
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

/// Bytes of a buffer, to change.
///
/// Relies on the fence protocol: no job of this client uses these bytes, and none can be submitted while the guard is
/// held. What others submitted before the guard was asked for has ended as well; what they do later is for them and
/// you to order.
#[derive(Debug)]
pub struct WriteGuard<'a>(Lease<'a>);

impl<'a> WriteGuard<'a> {
    pub(crate) fn new(lease: Lease<'a>) -> Self {
        Self(lease)
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let lease = &self.0;
        let span = lease.shared.span().sub(lease.start, lease.len);
        // The quiet rests on the ledger: no job of this client may use these bytes while the lease is held.
        span.map_or(&[], |span| span.bytes(&lease.quiet))
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let lease = &mut self.0;
        let span = lease.shared.span_mut().and_then(|span| span.sub(lease.start, lease.len));
        // As above; the exclusive borrow of the guard makes this the only slice.
        span.map_or(&mut [], |span| span.bytes_mut(&mut lease.quiet))
    }
}
