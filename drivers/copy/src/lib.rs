//! The `copy` device: moves, fills, compares and sums bytes that lie in objects.
//!
//! What it is: seven operations on memory that another process may write at the same moment. None of them can be
//! harmed by that. A copy reads each byte once and stores it; a fill only stores; a comparison and a checksum
//! answer for the bytes they saw. What it is not: it opens nothing, keeps nothing between two jobs and talks to no
//! hardware.
//!
//! | operation | touches its operands |
//! |---|---|
//! | `copy`, `copy2d`, `fill`, `gather`, `scatter` | in place; from 64 KiB per piece on with stores that go past the cache; through windows if an operand comes from another domain |
//! | `compare` | in place by `memcmp`; through windows if an operand comes from another domain |
//! | `crc32c` | through windows, because the library that sums them wants slices |
//!
//! Invariants:
//! - Everything that a job says about places (rows, strides, index entries) is checked, without overflow, before
//!   the first byte is written. A refused job has changed nothing.
//! - An index is read once into private memory; what is checked is what is used.
//! - Overlapping operands behave as `memmove` does, for each contiguous piece by itself.
#![deny(unsafe_code)]

mod checksum;
mod compare;
pub mod description;
mod engine;
#[expect(
    unsafe_code,
    reason = "memcmp over memory that others may write; nothing else of this crate is unsafe"
)]
mod ffi;
mod mover;
mod pieces;

pub use engine::CopyEngine;
