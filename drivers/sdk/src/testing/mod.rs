//! What an engine's own tests and benches need to stand in for the broker, for the loop, and for its peers.
//!
//! An engine itself uses none of it: it gets its operands as spans and asks [`crate::scratch`] for private memory.
//! A driver has no other way to the kernel's memory than through this crate, so what these tests may touch is
//! listed here. A helper that cannot do its part panics: the test that called it has failed.
//!
//! | module | what |
//! |---|---|
//! | `ways` | one call, as a job and through a user queue, on objects and on the client's own memory |
//! | `call` | one job, called as an executor calls it |
//! | `content` | bytes that compress, and bytes that do not |
//! | `peer` | objects in real shared memory, and what another holder does to them meanwhile |
//! | `traces` | what this process still has of an object |
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod call;
mod content;
mod peer;
mod traces;
mod ways;

pub use self::call::{Peer, code, read, run, write};
pub use self::content::{Random, noise, noise_from, text};
pub use self::peer::{Shared, Verdicts, beside, flip, is_mix, write_either};
pub use self::traces::{Traces, traces_of};
pub use self::ways::{Content, EveryWay, Seen};
pub use vgem_os::{confine, memory};
