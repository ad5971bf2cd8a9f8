//! The `blk` device: reads and writes files and block devices, straight from and into objects.
//!
//! What it is: open, close, read, write, append, sync, truncate and stat on files under configured roots.
//! Operands are the kernel's own source and destination; no byte is copied here, unless another domain may write
//! the operand: then the kernel gets private windows of it. What it is not: a file system, or a cache. It keeps
//! open files and registered memory, nothing else.
//!
//! # Which way the bytes go
//!
//! | job | way | why |
//! |---|---|---|
//! | read, in the page cache | ring, buffered fd | one copy by the processor; the disk is not asked |
//! | read, not there | ring, `O_DIRECT`, pieces of 512 KiB at once | the device writes the object itself |
//! | write inside the file | ring, `O_DIRECT`, pieces at once | the device reads the object itself |
//! | write that grows the file, aligned | one `pwrite`, `O_DIRECT` | a growing write in a ring is handed to a worker thread: twice the processor time |
//! | write or append, unaligned or small | one `pwrite`, page cache | the same, for buffered writes: a third more |
//!
//! `O_DIRECT` needs the file offset, the length and the address aligned as `statx` says; what does not fit goes
//! through the page cache, piece by piece. `cachestat` tells whether a range is in the page cache; where the
//! kernel does not have it, nothing is taken to be there.
//!
//! # Rings
//!
//! There is one ring per executor, not one for all. A completion is delivered by the thread that submitted it, so
//! with a common ring each one would wake three threads: the submitter, the one that waits for all, and the
//! submitter again. With its own ring a job is one system call and one wake, and takes no lock another executor
//! wants.
//! All rings share one table of registered buffers: an object is pinned and charged once, when it is mapped, and
//! its entry is cloned to the other rings. Kernels that cannot clone register it in each ring.
//! Where an object cannot be registered (locked-memory limit, read-only mapping, table full) the same pieces go as
//! plain reads and writes; where there is no io_uring, as `pread` and `pwrite`. Both are logged and counted.
//!
//! A registered object is these very pages. Who punches a hole into an object takes its pages away from the file
//! and from every mapping, but not from the device: until the object is mapped anew, the jobs of its domain then
//! read into, and write from, pages that nobody else sees. That is the domain's own foot, and no other's: such
//! pages never leave the object's registration, and operands of another domain do not use it.
//!
//! Invariants:
//! - A ring is used by one thread at a time, and no job returns while the kernel may still touch its operands.
//! - Never more requests in flight in a ring than its completion queue holds, so it cannot overflow.
//! - A file number is valid for the queue that opened the file and for no other; its files close with the queue.
//! - Only regular files and block devices are ever opened; what else a path names is looked at, not opened.
//! - Two appends to one file never overlap, whatever queues they come from; a failed one leaves the file as it was.
#![deny(unsafe_code)]

mod buffers;
mod counters;
pub mod description;
mod engine;
mod errors;
#[expect(unsafe_code, reason = "rings, and reads and writes on memory that others may write")]
mod ffi;
mod file;
mod files;
mod io;
mod paths;
mod pieces;
mod transfer;

pub use counters::Counters;
pub use engine::{Blk, IoChoice, Setup};
