//! The memory of objects: made, exported, watched, probed and freed as core says.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use vgem_core::io::{Input, LinkId};
use vgem_os::OsError;
use vgem_os::memory::{Access as OsAccess, HugePages as OsHugePages, ObjectMemory, Probe};
use vgem_os::selftest::LeaseSupport;
use vgem_os::watch::{WatchEvent, WatchId, Watcher};
use vgem_proto::ids::ObjectKey;
use vgem_proto::rights::{Access, HugePages};

/// Core never names an object that was not made, or was freed: if it does, this is what it hears.
const NO_SUCH_OBJECT: OsError = OsError::new("object", vgem_os::Errno::NOENT);

/// One object.
#[derive(Debug)]
struct Object {
    memory: ObjectMemory,
    watch: Option<WatchId>,
    /// Whose request made it.
    creator: Option<LinkId>,
    pinned: u64,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Memory {
    objects: HashMap<ObjectKey, Object>,
    watched: HashMap<WatchId, ObjectKey>,
    watcher: Watcher,
    exact: bool,
    pinned: u64,
    events: Vec<WatchEvent>,
}

impl Memory {
    /// No objects yet.
    pub(super) fn new(lease: &LeaseSupport) -> Result<Self, OsError> {
        Ok(Self {
            objects: HashMap::new(),
            watched: HashMap::new(),
            watcher: Watcher::new()?,
            exact: *lease == LeaseSupport::Exact,
            pinned: 0,
            events: Vec::new(),
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

    /// Bytes pinned, over all objects.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.pinned
    }

    /// Notes what the keeper has pinned of an object.
    pub(super) fn pinned(&mut self, key: ObjectKey, bytes: u64) {
        if let Some(object) = self.objects.get_mut(&key) {
            self.pinned = self.pinned.saturating_sub(object.pinned).saturating_add(bytes);
            object.pinned = bytes;
        }
    }

    /// Makes an object.
    pub(super) fn make(
        &mut self,
        key: ObjectKey,
        len: u64,
        huge: HugePages,
        name: &str,
        creator: Option<LinkId>,
    ) -> Result<(), OsError> {
        let pages = match huge {
            HugePages::Transparent => OsHugePages::Advise,
            HugePages::Never => OsHugePages::None,
            HugePages::Size2M => OsHugePages::Size2M,
            HugePages::Size1G => OsHugePages::Size1G,
        };
        let memory = ObjectMemory::create(len, pages, name)?;
        self.objects.insert(key, Object { memory, watch: None, creator, pinned: 0 });
        Ok(())
    }

    /// Whether every page of an object is there.
    pub(super) fn is_populated(&self, key: ObjectKey) -> bool {
        let answer = self.of(key).and_then(ObjectMemory::is_populated);
        answer.inspect_err(|e| tracing::warn!("{key}: {e}")).unwrap_or(false)
    }

    /// A fresh open file of an object.
    pub(super) fn export(&self, key: ObjectKey, access: Access) -> Result<OwnedFd, OsError> {
        let access = match access {
            Access::Read => OsAccess::Read,
            Access::Write => OsAccess::Write,
        };
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

    /// Whether nobody else has an object open. `lives`: which clients are connected, for kernels whose lease
    /// probe is of no use; there an object is kept while its creator is.
    pub(super) fn probe(&self, key: ObjectKey, lives: impl Fn(LinkId) -> bool) -> bool {
        let Some(object) = self.objects.get(&key) else { return true };
        if !self.exact {
            return !object.creator.is_some_and(lives);
        }
        match object.memory.probe() {
            Ok(answer) => answer == Probe::Free,
            Err(e) => {
                tracing::warn!("{key}: {e}");
                false
            }
        }
    }

    /// Frees an object; false if somebody has it after all.
    pub(super) fn free(&mut self, key: ObjectKey) -> bool {
        let Some(object) = self.objects.remove(&key) else { return true };
        let Object { memory, watch, creator, pinned } = object;
        // Without a lease there is no moment at which punching is safe. Closing always is: the kernel frees what
        // nobody has any more.
        let freed = if self.exact { memory.free() } else { Ok(()) };
        match freed {
            Ok(()) => {
                self.pinned = self.pinned.saturating_sub(pinned);
                if let Some(watch) = watch {
                    self.watched.remove(&watch);
                }
                true
            }
            Err((memory, e)) => {
                tracing::debug!("{key} is not free: {e}");
                self.objects.insert(key, Object { memory, watch, creator, pinned });
                false
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
        let hint = |event| match event {
            WatchEvent::Closed(watch) => {
                self.watched.get(&watch).map(|key| Input::ExportHint { object: Some(*key) })
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ObjectKey = ObjectKey { index: 0, generation: 1 };
    const CREATOR: LinkId = LinkId(7);

    fn memory(lease: &LeaseSupport) -> Memory {
        vgem_os::signal::ignore_sigio().expect("a signal");
        let mut memory = Memory::new(lease).expect("a watcher");
        memory.make(KEY, 4096, HugePages::Never, "test", Some(CREATOR)).expect("memory");
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
        assert!(!memory.probe(KEY, |_| false) && !memory.free(KEY));
        drop(export);
        assert!(memory.probe(KEY, |_| true) && memory.free(KEY));
    }

    #[test]
    fn without_a_probe_an_object_lives_as_long_as_its_client() {
        let memory = memory(&LeaseSupport::Unusable { why: String::new() });
        assert!(!memory.probe(KEY, |link| link == CREATOR));
        assert!(memory.probe(KEY, |_| false));
    }

    #[test]
    fn pinned_bytes_are_those_of_live_objects() {
        let mut memory = memory(&LeaseSupport::Exact);
        memory.pinned(KEY, 4096);
        assert_eq!(memory.pinned_bytes(), 4096);
        assert!(memory.free(KEY));
        assert_eq!(memory.pinned_bytes(), 0);
    }
}
