//! The blk device, called as its executors call it, on real files and real objects.
//!
//! Files lie in the build directory, which is on a disk; direct I/O is tested there. What needs more of the machine
//! says so in its name.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod appends;
mod files;
mod foreign;
mod paths;
mod rig;
mod sealed;
mod transfers;
