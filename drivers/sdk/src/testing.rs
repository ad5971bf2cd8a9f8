//! What an engine's own tests and benches need to stand in for the broker and for the loop.
//!
//! An engine itself uses none of it: it gets its operands as spans and asks [`crate::mapping`] for private memory.
//! A driver has no other way to the kernel's memory than through this crate, so what these tests may touch is
//! listed here.

pub use vgem_os::{confine, memory};
