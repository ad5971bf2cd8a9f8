//! Which memory is which: from an fd that came back to the object, or the page, it is of.
//!
//! An export that is imported must give the object it is of, and nothing else may. The number of an inode is not
//! enough to say so: numbers of memory files are 32 bits, and whoever makes four thousand million of them meets every
//! number in use. So the moment of birth is looked at as well, which is the kernel's own and cannot be chosen: two
//! files that live now and have the same number were born hours apart.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use vgem_os::{Errno, OsError};
use vgem_proto::ids::ObjectKey;

/// One memory file, told from every other that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Inode {
    device: (u32, u32),
    number: u64,
    /// Seconds and nanoseconds.
    born: (i64, u32),
}

/// What a memory file is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The memory of an object.
    Object(ObjectKey),
    /// A fence page or an interest page.
    Page,
}

/// All memory files that the broker has made or taken.
#[derive(Debug, Default)]
pub(super) struct Known {
    all: HashMap<Inode, What>,
}

impl Inode {
    /// Which file an fd is of. Ask it of memory only: a stranger's file may never answer.
    ///
    /// # Errors
    /// The errno of `statx`.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, OsError> {
        let wanted = StatxFlags::INO.union(StatxFlags::BTIME);
        let found = statx(fd, "", AtFlags::EMPTY_PATH, wanted).map_err(|e| OsError::new("statx", e))?;
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            number: found.stx_ino,
            // Where the kernel does not tell (before 5.18) it is zero for all.
            born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        })
    }

    /// Its number, for people.
    pub(super) const fn number(self) -> u64 {
        self.number
    }
}

impl Known {
    /// Notes a file.
    ///
    /// # Errors
    /// `EEXIST` if it is known already.
    pub(super) fn note(&mut self, inode: Inode, what: What) -> Result<(), OsError> {
        if let Some(known) = self.all.get(&inode) {
            return Err(OsError::with_detail("arrival", Errno::EXIST, format!("it is {known:?} already")));
        }
        self.all.insert(inode, what);
        Ok(())
    }

    /// Forgets a file that is about to be closed.
    pub(super) fn forget(&mut self, inode: Inode) {
        self.all.remove(&inode);
    }

    /// What a file is, if it is ours.
    pub(super) fn what(&self, inode: Inode) -> Option<What> {
        self.all.get(&inode).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use vgem_os::memory::{Access, HugePages, ObjectMemory};

    const KEY: ObjectKey = ObjectKey { index: 1, generation: 1 };

    fn memory() -> ObjectMemory {
        ObjectMemory::create(4096, HugePages::None, "known").expect("memory")
    }

    #[test]
    fn every_export_of_an_object_leads_to_it_and_no_other_memory_does() {
        let (object, other) = (memory(), memory());
        let mut known = Known::default();
        known.note(Inode::of(object.as_fd()).expect("statx"), What::Object(KEY)).expect("new");
        let found = |fd: BorrowedFd<'_>| known.what(Inode::of(fd).expect("statx"));
        for access in [Access::Read, Access::Write] {
            let export = object.export(access).expect("an export");
            assert_eq!(found(export.as_fd()), Some(What::Object(KEY)));
        }
        assert_eq!(found(other.as_fd()), None);
    }

    #[test]
    fn the_same_number_at_another_birth_is_another_file() {
        let ours = Inode::of(memory().as_fd()).expect("statx");
        let mut known = Known::default();
        known.note(ours, What::Object(KEY)).expect("new");
        assert!(ours.born.0 > 0, "this kernel tells no birth");
        let theirs = Inode { born: (ours.born.0 + 1, ours.born.1), ..ours };
        assert_eq!(known.what(theirs), None);
    }

    #[test]
    fn memory_is_noted_once_and_again_after_it_was_forgotten() {
        let inode = Inode::of(memory().as_fd()).expect("statx");
        let mut known = Known::default();
        known.note(inode, What::Object(KEY)).expect("new");
        assert_eq!(known.note(inode, What::Page).map_err(|e| e.errno()), Err(Errno::EXIST));
        known.forget(inode);
        assert_eq!(known.note(inode, What::Page), Ok(()));
    }
}
