//! The memory of objects: made or taken, exported, watched, probed, sealed and freed as core says.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use vgem_core::io::{Input, LinkId};
use vgem_os::fence::KeeperFace;
use vgem_os::memory::{HugePages as OsHugePages, ObjectMemory, Probe};
use vgem_os::selftest::LeaseSupport;
use vgem_os::watch::{WatchEvent, WatchId, Watcher};
use vgem_os::{Errno, OsError};
use vgem_proto::ids::ObjectKey;
use vgem_proto::rights::{Access, HugePages};

use super::known::{Inode, Known, What};

/// Core never names an object that was not made, or was freed: if it does, this is what it hears.
const NO_SUCH_OBJECT: OsError = OsError::new("object", vgem_os::Errno::NOENT);

/// One object.
#[derive(Debug)]
struct Object {
    memory: ObjectMemory,
    inode: Inode,
    watch: Option<WatchId>,
    /// Whose request made it.
    creator: Option<LinkId>,
    /// What the keeper has pinned of it, once it keeps it.
    pinned: Option<u64>,
    /// Core was told that its inode was tampered with.
    tampered: bool,
}

/// What is pinned of the objects that the keeper keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pinning {
    /// Their bytes.
    pub(super) kept: u64,
    /// Bytes of them that are pinned.
    pub(super) pinned: u64,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Memory {
    objects: HashMap<ObjectKey, Object>,
    watched: HashMap<WatchId, ObjectKey>,
    watcher: Watcher,
    exact: bool,
    known: Known,
    pinning: Pinning,
    events: Vec<WatchEvent>,
    /// Freed memory that could not be cleared, and is there for as long as somebody hides a reference to it.
    hidden: HashMap<WatchId, (ObjectKey, Inode)>,
}

impl Memory {
    /// No objects yet.
    pub(super) fn new(lease: &LeaseSupport) -> Result<Self, OsError> {
        Ok(Self {
            objects: HashMap::new(),
            watched: HashMap::new(),
            watcher: Watcher::new()?,
            exact: *lease == LeaseSupport::Exact,
            known: Known::default(),
            pinning: Pinning::default(),
            events: Vec::new(),
            hidden: HashMap::new(),
        })
    }

    /// What becomes readable when an export may have been closed.
    pub(super) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// Whether a probe tells the truth at any time.
    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }

    /// What is pinned, over all objects.
    pub(super) fn pinning(&self) -> Pinning {
        self.pinning
    }

    /// Notes what the keeper has pinned of an object that it keeps; `None` when it has let it go.
    pub(super) fn pinned(&mut self, key: ObjectKey, bytes: Option<u64>) {
        if let Some(object) = self.objects.get_mut(&key) {
            let len = object.memory.len();
            self.pinning.remove(len, object.pinned);
            self.pinning.add(len, bytes);
            object.pinned = bytes;
        }
    }

    /// Which memory of ours an fd is of, if any.
    pub(super) fn what(&self, fd: BorrowedFd<'_>) -> Result<Option<What>, OsError> {
        Ok(self.known.what(Inode::of(fd)?))
    }

    /// Whether an object's memory is here, and not only hidden somewhere.
    pub(super) fn holds(&self, key: ObjectKey) -> bool {
        self.objects.contains_key(&key)
    }

    /// Notes the two pages of a pair, so that nobody imports one.
    pub(super) fn note_pages(&mut self, face: &KeeperFace) -> Result<[Inode; 2], OsError> {
        let (page, interest) = face.duplicates()?;
        let inodes = [Inode::of(page.as_fd())?, Inode::of(interest.as_fd())?];
        for inode in inodes {
            self.known.note(inode, What::Page)?;
        }
        Ok(inodes)
    }

    /// Notes the memory of a ring, which is no object.
    pub(super) fn note_page(&mut self, fd: &OwnedFd) -> Result<Inode, OsError> {
        let inode = Inode::of(fd.as_fd())?;
        self.known.note(inode, What::Page)?;
        Ok(inode)
    }

    /// Forgets it.
    pub(super) fn forget_page(&mut self, inode: Inode) {
        self.known.forget(inode);
    }

    /// Forgets pages.
    pub(super) fn forget_pages(&mut self, inodes: [Inode; 2]) {
        inodes.into_iter().for_each(|inode| self.known.forget(inode));
    }

    /// Makes an object; the number of its inode. `sealable`: a sealed result.
    pub(super) fn make(
        &mut self,
        key: ObjectKey,
        sealable: bool,
        len: u64,
        huge: HugePages,
        name: &str,
        creator: Option<LinkId>,
    ) -> Result<u64, OsError> {
        let pages = match huge {
            HugePages::Transparent => OsHugePages::Advise,
            HugePages::Never => OsHugePages::None,
            HugePages::Size2M => OsHugePages::Size2M,
            HugePages::Size1G => OsHugePages::Size1G,
        };
        let create = if sealable { ObjectMemory::create_sealable } else { ObjectMemory::create };
        self.add(key, create(len, pages, name)?, creator)
    }

    /// Makes an object of a client's memory; the number of its inode.
    pub(super) fn take(
        &mut self,
        key: ObjectKey,
        fd: OwnedFd,
        creator: Option<LinkId>,
    ) -> Result<u64, OsError> {
        self.add(key, ObjectMemory::from_foreign(fd)?, creator)
    }

    /// Holds a client's memory for writing from now on, if it was held for reading only and somebody shows that it may be
    /// written: who came first with a read-only fd must not decide what others can do with their own.
    pub(super) fn widen(&mut self, key: ObjectKey, fd: OwnedFd, access: Access) -> Result<(), OsError> {
        let object = self.objects.get_mut(&key).ok_or(NO_SUCH_OBJECT)?;
        if access == Access::Write && object.memory.is_foreign() && object.memory.access() == Access::Read {
            object.memory = ObjectMemory::from_foreign(fd)?;
        }
        Ok(())
    }

    fn add(&mut self, key: ObjectKey, memory: ObjectMemory, creator: Option<LinkId>) -> Result<u64, OsError> {
        let inode = Inode::of(memory.as_fd())?;
        // Two objects over one memory would each see the other's open file for ever.
        self.known.note(inode, What::Object(key))?;
        let object = Object { memory, inode, watch: None, creator, pinned: None, tampered: false };
        self.objects.insert(key, object);
        Ok(inode.number())
    }

    /// Whether every page of an object is there.
    pub(super) fn is_populated(&self, key: ObjectKey) -> bool {
        let answer = self.of(key).and_then(ObjectMemory::is_populated);
        answer.inspect_err(|e| tracing::warn!("{key}: {e}")).unwrap_or(false)
    }

    /// A fresh open file of an object.
    pub(super) fn export(&self, key: ObjectKey, access: Access) -> Result<OwnedFd, OsError> {
        self.of(key)?.export(access)
    }

    /// A duplicate for the keeper, and the length in bytes.
    pub(super) fn duplicate(&self, key: ObjectKey) -> Result<OwnedFd, OsError> {
        self.of(key)?.duplicate()
    }

    /// Watches an object for closed exports.
    pub(super) fn watch(&mut self, key: ObjectKey) -> Result<(), OsError> {
        let object = self.objects.get_mut(&key).ok_or(NO_SUCH_OBJECT)?;
        let watch = self.watcher.add(&object.memory)?;
        object.watch = Some(watch);
        self.watched.insert(watch, key);
        Ok(())
    }

    /// Ends all writing to an object but through the mappings there are.
    pub(super) fn seal(&self, key: ObjectKey) -> Result<(), OsError> {
        self.of(key)?.seal_against_writing()
    }

    /// Destroys the content of an object.
    pub(super) fn punch(&self, key: ObjectKey) -> Result<(), OsError> {
        self.of(key)?.punch()
    }

    /// What somebody did to the owner or the mode of an object's inode; told once.
    pub(super) fn tampered(&mut self, key: ObjectKey) -> Option<String> {
        let object = self.objects.get_mut(&key).filter(|object| !object.tampered)?;
        let found = object.memory.tampered().inspect_err(|e| tracing::warn!("{key}: {e}")).ok()??;
        object.tampered = true;
        Some(found)
    }

    /// Whether nobody else has an object open. `lives`: which clients are connected, for kernels whose lease
    /// probe is of no use; there an object is kept while its creator is.
    pub(super) fn probe(&self, key: ObjectKey, lives: impl Fn(LinkId) -> bool) -> bool {
        let Some(object) = self.objects.get(&key) else { return true };
        if !self.exact {
            return !object.creator.is_some_and(lives);
        }
        match object.memory.probe() {
            Ok(answer) => answer == Probe::Free,
            // A lease is the owner's to take, and closing a client's own memory takes nothing from anybody. Memory that
            // the machine's root gave another owner was punched, and is let go just so.
            Err(e) if (object.memory.is_foreign() || object.tampered) && e.errno() == Errno::ACCESS => true,
            Err(e) => {
                tracing::warn!("{key}: {e}");
                false
            }
        }
    }

    /// Frees an object; false if somebody has it after all.
    ///
    /// Nothing if it is let go of, but nobody knows yet whether it is free: what is sealed against writing cannot be
    /// cleared, and a reference that the probe does not see (`O_PATH`) keeps all of it. Then the end of its file is told
    /// among the [`Self::hints`].
    pub(super) fn free(&mut self, key: ObjectKey) -> Option<bool> {
        let Some(mut object) = self.objects.remove(&key) else { return Some(true) };
        let len = object.memory.len();
        let is_sealed = self.exact
            && !object.memory.is_foreign()
            && object.memory.is_sealed_against_writing().unwrap_or(false);
        if is_sealed && object.watch.is_none() {
            let watched = self.watcher.add(&object.memory);
            object.watch = watched.inspect_err(|e| tracing::warn!("{key} is let go of unseen: {e}")).ok();
        }
        // Without a lease there is no moment at which punching is safe. Closing always is: the kernel frees what
        // nobody has any more.
        let freed = if self.exact { object.memory.free() } else { Ok(()) };
        let freed = match freed {
            Err((_, e)) if object.tampered && e.errno() == Errno::ACCESS => Ok(()),
            other => other,
        };
        match freed {
            Ok(()) => {
                self.pinning.remove(len, object.pinned);
                if let Some(watch) = object.watch {
                    self.watched.remove(&watch);
                }
                if let Some(watch) = object.watch.filter(|_| is_sealed) {
                    self.hidden.insert(watch, (key, object.inode));
                    return None;
                }
                self.known.forget(object.inode);
                Some(true)
            }
            Err((memory, e)) => {
                tracing::debug!("{key} is not free: {e}");
                self.objects.insert(key, Object { memory, ..object });
                Some(false)
            }
        }
    }

    /// What the watcher has to say, as inputs.
    pub(super) fn hints(&mut self) -> Vec<Input> {
        let mut events = std::mem::take(&mut self.events);
        if let Err(e) = self.watcher.read(&mut events) {
            tracing::warn!("{e}");
            events.push(WatchEvent::Overflow);
        }
        let (watched, hidden, known) = (&self.watched, &mut self.hidden, &mut self.known);
        let hint = |event| match event {
            WatchEvent::Closed(watch) => {
                watched.get(&watch).map(|key| Input::ExportHint { object: Some(*key) })
            }
            WatchEvent::Gone(watch) => hidden.remove(&watch).map(|(object, inode)| {
                known.forget(inode);
                Input::Freed { object, gone: true }
            }),
            WatchEvent::Overflow => Some(Input::ExportHint { object: None }),
        };
        let hints = events.drain(..).filter_map(hint).collect();
        self.events = events;
        hints
    }

    fn of(&self, key: ObjectKey) -> Result<&ObjectMemory, OsError> {
        self.objects.get(&key).map(|object| &object.memory).ok_or(NO_SUCH_OBJECT)
    }
}

impl Pinning {
    fn add(&mut self, len: u64, pinned: Option<u64>) {
        if let Some(pinned) = pinned {
            self.kept = self.kept.saturating_add(len);
            self.pinned = self.pinned.saturating_add(pinned);
        }
    }

    fn remove(&mut self, len: u64, pinned: Option<u64>) {
        if let Some(pinned) = pinned {
            self.kept = self.kept.saturating_sub(len);
            self.pinned = self.pinned.saturating_sub(pinned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ObjectKey = ObjectKey { index: 0, generation: 1 };
    const CREATOR: LinkId = LinkId(7);

    fn memory(lease: &LeaseSupport) -> Memory {
        vgem_os::signal::ignore_sigio().expect("a signal");
        let mut memory = Memory::new(lease).expect("a watcher");
        memory.make(KEY, false, 4096, HugePages::Never, "test", Some(CREATOR)).expect("memory");
        memory
    }

    #[test]
    fn closing_an_export_gives_a_hint_of_its_object() {
        let mut memory = memory(&LeaseSupport::Exact);
        memory.watch(KEY).expect("a watch");
        drop(memory.export(KEY, Access::Write).expect("an export"));
        assert!(matches!(memory.hints()[..], [Input::ExportHint { object: Some(KEY) }]));
    }

    #[test]
    fn an_exported_object_is_not_freed() {
        let mut memory = memory(&LeaseSupport::Exact);
        let export = memory.export(KEY, Access::Read).expect("an export");
        assert!(!memory.probe(KEY, |_| false) && memory.free(KEY) == Some(false));
        drop(export);
        assert!(memory.probe(KEY, |_| true) && memory.free(KEY) == Some(true));
    }

    #[test]
    fn without_a_probe_an_object_lives_as_long_as_its_client() {
        let memory = memory(&LeaseSupport::Unusable { why: String::new() });
        assert!(!memory.probe(KEY, |link| link == CREATOR));
        assert!(memory.probe(KEY, |_| false));
    }

    #[test]
    fn what_is_pinned_is_that_of_live_objects() {
        let mut memory = memory(&LeaseSupport::Exact);
        memory.pinned(KEY, Some(4096));
        assert_eq!(memory.pinning(), Pinning { kept: 4096, pinned: 4096 });
        assert_eq!(memory.free(KEY), Some(true));
        assert_eq!(memory.pinning(), Pinning::default());
    }

    #[test]
    fn an_object_is_known_by_its_exports_until_it_is_freed() {
        let mut memory = memory(&LeaseSupport::Exact);
        let export = memory.export(KEY, Access::Read).expect("an export");
        assert_eq!(memory.what(export.as_fd()), Ok(Some(What::Object(KEY))));
        assert_eq!(memory.free(KEY), Some(false));
        assert_eq!(memory.what(export.as_fd()), Ok(Some(What::Object(KEY))));
        // Its file lives as long as this fd, which the lease does not see.
        let hidden = memory.duplicate(KEY).expect("a duplicate");
        drop(export);
        assert_eq!(memory.free(KEY), Some(true));
        assert_eq!(memory.what(hidden.as_fd()), Ok(None));
    }

    #[test]
    fn memory_becomes_an_object_once() {
        let mut memory = memory(&LeaseSupport::Exact);
        let other = ObjectKey { index: 1, generation: 1 };
        let export = memory.export(KEY, Access::Write).expect("an export");
        assert_eq!(memory.take(other, export, None).map_err(|e| e.errno()), Err(Errno::EXIST));
        assert_eq!(memory.free(KEY), Some(true));
    }

    #[test]
    fn a_changed_mode_is_told_once() {
        let mut memory = memory(&LeaseSupport::Exact);
        assert_eq!(memory.tampered(KEY), None);
        let export = memory.export(KEY, Access::Write).expect("an export");
        rustix::fs::fchmod(&export, rustix::fs::Mode::from_raw_mode(0o666)).expect("its owner is us");
        assert!(memory.tampered(KEY).is_some_and(|what| what.contains("666")));
        assert_eq!(memory.tampered(KEY), None);
    }
}
