//! The memory of a process, through an open `/proc/self/mem` that the process itself handed over.
//!
//! ```text
//!   client: own() ──fd──► porter, broker: Admission::process_memory ──fd──► driver: ClientMemory
//!                                                                             read_at, write_at: a copy, or Missing
//! ```
//!
//! Such an fd stands for the address space that its process had when it opened it, and for no other: after an exec, or
//! the end of the process, it reaches nothing ([`Why::Gone`]), whoever runs under that number then. It needs no right of
//! the one who holds it, and works across users and user namespaces. That is why it is used, and never a process number
//! or a pidfd: those would follow the process into a program with more rights.
//!
//! What it is not: fast, it costs a system call and a copy of each byte; nor safe from waiting: a page that a file
//! server is to bring holds whoever asks for it, beyond every signal, until the server answers. Whoever reads serves one
//! client and nobody else.
//!
//! A write reaches private pages that their process has mapped for reading only: the kernel lets debuggers do that.
//! Who writes asks first whether it may.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Attempt, Result};
use crate::memory::Access;

/// Another process's memory.
#[derive(Debug)]
pub struct ClientMemory {
    fd: OwnedFd,
}

/// The first address that was not reached, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// It.
    pub address: u64,
    /// Why.
    pub why: Why,
}

/// Why an address was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The address space is gone: its process has ended, or executes another program.
    Gone,
    /// Nothing is there, or not for that.
    Refused(Errno),
}

/// Opens this process's own memory, to hand it over; close-on-exec.
///
/// # Errors
/// `EACCES` if the process is not dumpable (it has changed users, or said so with `prctl`); `ENOENT` without `/proc`.
pub fn own(access: Access) -> Result<OwnedFd> {
    let mode = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    let path = "/proc/self/mem";
    rustix::fs::open(path, mode.union(OFlags::CLOEXEC), Mode::empty()).attempting("open", || path.into())
}

impl ClientMemory {
    /// Through this fd. Whether it is one is not asked here ([`crate::arrival::process_memory`]).
    #[must_use]
    pub const fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Copies what is at an address; each byte is read once.
    ///
    /// # Errors
    /// The first address that was not reached; what comes before it has been copied.
    pub fn read_at(&self, address: u64, into: &mut [u8]) -> Result<(), Missing> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = address.saturating_add(done as u64);
            done += moved(at, rustix::io::pread(self.fd.as_fd(), rest, at))?;
        }
        Ok(())
    }

    /// Copies to an address.
    ///
    /// # Errors
    /// As [`ClientMemory::read_at`]; also where the fd is open for reading only.
    pub fn write_at(&self, address: u64, from: &[u8]) -> Result<(), Missing> {
        let mut done = 0;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            let at = address.saturating_add(done as u64);
            done += moved(at, rustix::io::pwrite(self.fd.as_fd(), rest, at))?;
        }
        Ok(())
    }
}

/// Bytes that went; it is not over before all have, or one cannot.
fn moved(address: u64, outcome: rustix::io::Result<usize>) -> Result<usize, Missing> {
    match outcome {
        Ok(0) => Err(Missing { address, why: Why::Gone }),
        Ok(moved) => Ok(moved),
        Err(Errno::INTR) => Ok(0),
        Err(errno) => Err(Missing { address, why: Why::Refused(errno) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::PageVec;
    use crate::mapping::PAGE;

    fn own_memory(access: Access) -> ClientMemory {
        ClientMemory::new(own(access).expect("a dumpable process"))
    }

    #[test]
    fn bytes_are_read_and_written_where_they_are() {
        let memory = own_memory(Access::Write);
        let (from, mut seen) = (vec![7_u8; 10_000], vec![0; 10_000]);
        memory.read_at(from.as_ptr().addr() as u64, &mut seen).expect("mapped");
        assert_eq!(seen, from);
        let into = std::sync::atomic::AtomicU64::new(1);
        memory.write_at(into.as_ptr().addr() as u64, &9_u64.to_le_bytes()).expect("mapped");
        assert_eq!(into.load(std::sync::atomic::Ordering::Relaxed), 9);
    }

    #[test]
    fn the_first_address_without_a_page_is_named_and_what_is_before_it_is_copied() {
        let memory = own_memory(Access::Read);
        let mut seen = [1; 2 * PAGE];
        let missing = Missing { address: 0x40, why: Why::Refused(Errno::IO) };
        assert_eq!(memory.read_at(0x40, &mut seen), Err(missing));
        assert_eq!(seen, [1; 2 * PAGE]);
    }

    #[test]
    fn an_fd_for_reading_writes_nothing() {
        let memory = own_memory(Access::Read);
        let byte = std::sync::atomic::AtomicU8::new(3);
        let address = byte.as_ptr().addr() as u64;
        let refused = memory.write_at(address, &[4]);
        assert_eq!(refused, Err(Missing { address, why: Why::Refused(Errno::BADF) }));
        assert_eq!(byte.into_inner(), 3);
    }

    #[test]
    fn pages_of_an_adopted_vector_are_reached_as_any_others() {
        let pages = PageVec::zeroed(PAGE);
        let mut seen = [1; 64];
        own_memory(Access::Read).read_at(pages.as_ptr().addr() as u64, &mut seen).expect("mapped");
        assert_eq!(seen, [0; 64]);
    }
}
