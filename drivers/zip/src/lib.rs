//! The `zip` device: compresses and decompresses bytes that lie in objects.
//!
//! What it is: three libraries behind two operations. What comes out are the standard formats, readable by the
//! usual tools, and frames may be put one behind the other. What it is not: a guesser. The format is always said.
//!
//! | format | compress | decompress | by |
//! |---|---|---|---|
//! | `zstd` | input and output in place | input in place, output through a window | zstd |
//! | `gzip`, `zlib`, `deflate` | input through private memory, output in place | input in place, output through private memory | libdeflate |
//! | `lz4` | both through windows | both through windows | lz4_flex |
//!
//! In place means: C code reads or writes the operand through raw pointers while another process of the same domain
//! may write it too. The description says `in-place` where at least one format does so; where the table says less
//! is done in place, the counter of staged bytes tells. Each exception has its reason:
//! - Decoders read back what they wrote, so they write private memory only, and it is copied out once.
//! - libdeflate counts symbols in one pass over the input and writes them in another, without looking at the end
//!   of its output again: input that changes in between makes it write beyond. zstd sets literals aside before it
//!   counts them, and bounds every write.
//! - lz4_flex takes Rust slices.
//!
//! Operands of another domain, and operands that overlap, go through private memory everywhere.
//!
//! Invariants:
//! - What a job leaves in its output is whole, or the job fails: too small, corrupt, ends early, goes on after its
//!   end. An output may be partly written then.
//! - Nothing a stream says about itself is believed beyond the operand: lengths are checked where they are used.
//! - Contexts and private memory are per executor, made on first use, reused by every job after that, dropped
//!   after an error that may have left them in the middle, and given back when a giant has used them
//!   ([`vgem_driver::scratch::KEEP_LEN`], `KEEP_CONTEXT_LEN`).
#![deny(unsafe_code)]

mod deflate;
pub mod description;
mod engine;
#[expect(unsafe_code, reason = "calls of zstd and libdeflate; nothing else of this crate is unsafe")]
mod ffi;
pub mod format;
mod lz4;
mod ports;
mod zstd;

pub use engine::ZipEngine;
pub use format::Format;
