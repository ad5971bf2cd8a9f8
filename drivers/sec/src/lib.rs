//! The `sec` device: seals, opens and digests bytes that lie in objects.
//!
//! What it is: authenticated encryption (AES-256-GCM, ChaCha20-Poly1305) in a frame that carries its own nonce
//! and length (`FRAMING.md`), SHA-256, HMAC-SHA-256 and BLAKE3. What it is not: a place where keys live. A key is
//! an operand like any other; it is copied into private memory for one job and wiped when the job ends.
//!
//! | operation | touches its operands | because |
//! |---|---|---|
//! | `seal` | in place, through raw pointers | a copy in and a copy out cost as much as the cipher itself |
//! | `open` | through private memory, whole | what is released must be what was authenticated |
//! | `sha256`, `hmac-sha256`, `blake3` | input through windows | the libraries take Rust slices |
//!
//! Operands of another domain, and operands that overlap, are sealed through private memory as well.
//!
//! Invariants:
//! - A nonce is 96 fresh bits of the kernel's generator and is used once. No state of ours decides it, so neither
//!   a restart nor a restored snapshot can repeat it.
//! - `open` writes its output only after the tag matched, from bytes that nobody else could change in between.
//! - A length or header is read once, into private memory; what is checked is what is used.
//! - Key bytes in private memory are wiped on every way out.
//! - Private memory is per executor, reused, at most [`LEN_MAX`] and a frame's overhead, and given back above
//!   [`vgem_driver::scratch::KEEP_LEN`].
#![deny(unsafe_code)]

mod aead;
pub mod description;
mod digest;
mod engine;
#[expect(unsafe_code, reason = "AEAD over raw pointers; nothing else of this crate is unsafe")]
mod ffi;
pub mod frame;

pub use description::LEN_MAX;
pub use engine::SecEngine;
