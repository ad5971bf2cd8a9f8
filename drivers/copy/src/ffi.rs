//! The one call of this crate that Rust cannot check: `memcmp` over memory that another process may write.
//!
//! Invariant C1: a [`Span`] is mapped and readable for its whole length while it is borrowed (the memory layer's
//! U2), and `memcmp` reads inside the length it is given, writes nothing and keeps no pointer. Bytes that change
//! under it make its answer old, nothing else.

use vgem_driver::Span;

/// Whether two spans hold the same bytes, as seen by one pass over them. Different lengths are different.
pub(crate) fn same_bytes(left: Span<'_>, right: Span<'_>) -> bool {
    if left.len() != right.len() {
        return false;
    }
    // SAFETY: C1. Both spans are readable for this length.
    let order = unsafe { libc::memcmp(left.as_ptr().cast(), right.as_ptr().cast(), left.len()) };
    order == 0
}
