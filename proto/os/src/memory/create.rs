//! Making a memory file, on kernels old and new.

use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::HugePages;
use crate::error::{Attempt, OsError, Result};

pub(super) fn create_memfd(pages: HugePages, name: &str) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING).union(MemfdFlags::NOEXEC_SEAL).union(
        match pages {
            HugePages::None | HugePages::Advise => MemfdFlags::empty(),
            HugePages::Size2M => MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_2MB),
            HugePages::Size1G => MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_1GB),
        },
    );
    match rustix::fs::memfd_create(name, flags) {
        // Before Linux 6.3 NOEXEC_SEAL is unknown.
        Err(Errno::INVAL) => create_memfd_without_noexec(pages, name),
        other => other.attempting("memfd_create", || format!("{name:?}, {pages:?}")),
    }
}

/// The fall-back for kernels before 6.3: the memory is merely not marked as never executable.
fn create_memfd_without_noexec(pages: HugePages, name: &str) -> Result<OwnedFd> {
    let huge = match pages {
        HugePages::None | HugePages::Advise => None,
        HugePages::Size2M => Some(memfd::HugetlbSize::Huge2MB),
        HugePages::Size1G => Some(memfd::HugetlbSize::Huge1GB),
    };
    let made = memfd::MemfdOptions::default().allow_sealing(true).hugetlb(huge).create(name);
    match made {
        Ok(made) => Ok(OwnedFd::from(made.into_file())),
        Err(memfd::Error::Create(e)) => Err(e).attempting("memfd_create", || format!("{name:?}, {pages:?}")),
        Err(other) => Err(OsError::with_detail("memfd_create", Errno::INVAL, other.to_string())),
    }
}
