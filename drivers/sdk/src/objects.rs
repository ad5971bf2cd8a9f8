//! The objects an instance maps, and how they leave.
//!
//! ```text
//!   Map ──► mapped ──Unmap──► leaving ──the last job that uses it has ended──► gone: Unmapped is sent
//!             │ ▲
//!             └─┘ Map again: another mapping, or the same kept where it serves reading too
//! ```
//!
//! A job holds the mappings it uses ([`Objects::find`]), so a mapping that is replaced or taken out while a job
//! runs **lingers** until that job lets go. By protocol no job uses an object when Unmap comes; a driver does not
//! rely on it, because what it says with Unmapped frees memory.
//!
//! Nothing is unmapped here, under the schedule's lock: what may go is handed out.
//!
//! Invariants: an object is not mapped and leaving at once; it is gone when neither a current nor a lingering
//! mapping of it is left anywhere in the process.

use std::collections::HashMap;
use std::sync::Arc;

use vgem_os::mapping::Mapping;
use vgem_os::memory::Identity;
use vgem_proto::ids::ObjectKey;
use vgem_proto::rights::Access;

/// An object this instance maps.
#[derive(Debug, Clone)]
pub(crate) struct MappedObject {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) access: Access,
    /// Which memory it is.
    pub(crate) identity: Identity,
}

/// What can go now. Its mappings are undone when it is dropped: not under a lock.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Gone {
    /// Objects of which nothing but these mappings is left.
    pub(crate) objects: Vec<ObjectKey>,
    mappings: Vec<Arc<Mapping>>,
}

impl Gone {
    /// Whether it is not empty.
    pub(crate) fn is_anything(&self) -> bool {
        !(self.objects.is_empty() && self.mappings.is_empty())
    }

    /// Undoes the mappings; answers the objects of which nothing is left now.
    pub(crate) fn undo(self) -> Vec<ObjectKey> {
        drop(self.mappings);
        self.objects
    }
}

/// All of them, by key.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    mapped: HashMap<ObjectKey, MappedObject>,
    lingering: Vec<(ObjectKey, Arc<Mapping>)>,
    leaving: Vec<ObjectKey>,
}

impl Objects {
    /// An object's mapping. A clone of it is a use.
    pub(crate) fn find(&self, object: ObjectKey) -> Option<&MappedObject> {
        self.mapped.get(&object)
    }

    /// Whether a mapping of this memory, whole, is there that serves `access` too.
    pub(crate) fn serves(&self, object: ObjectKey, (identity, len): (Identity, u64), access: Access) -> bool {
        let same = |m: &MappedObject| m.identity == identity && m.mapping.len() as u64 == len;
        let enough = |have: Access| have == Access::Write || have == access;
        self.mapped.get(&object).is_some_and(|m| same(m) && enough(m.access))
    }

    /// Whether the object was to be unmapped and a job still uses it.
    pub(crate) fn is_leaving(&self, object: ObjectKey) -> bool {
        self.leaving.contains(&object)
    }

    /// Adds an object's mapping, or replaces it.
    pub(crate) fn map(&mut self, object: ObjectKey, mapped: MappedObject) -> Gone {
        if let Some(old) = self.mapped.insert(object, mapped) {
            self.lingering.push((object, old.mapping));
        }
        self.settle()
    }

    /// Takes an object out: no job finds it any more.
    pub(crate) fn unmap(&mut self, object: ObjectKey) -> Gone {
        if let Some(old) = self.mapped.remove(&object) {
            self.lingering.push((object, old.mapping));
        }
        if !self.leaving.contains(&object) {
            self.leaving.push(object);
        }
        self.settle()
    }

    /// What can go since jobs have ended. Costs nothing where nothing lingers.
    #[inline]
    pub(crate) fn settle(&mut self) -> Gone {
        if self.lingering.is_empty() && self.leaving.is_empty() {
            return Gone::default();
        }
        self.settle_lingering()
    }

    fn settle_lingering(&mut self) -> Gone {
        let mut gone = Gone::default();
        // Uses are taken under the lock that guards this and are only given back without it: 1 stays 1.
        let free = self.lingering.extract_if(.., |(_, mapping)| Arc::strong_count(mapping) == 1);
        gone.mappings.extend(free.map(|(_, mapping)| mapping));
        let lingering = &self.lingering;
        gone.objects
            .extend(self.leaving.extract_if(.., |leaving| lingering.iter().all(|(key, _)| key != leaving)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ObjectKey = ObjectKey { index: 1, generation: 1 };
    const OTHER: ObjectKey = ObjectKey { index: 2, generation: 1 };

    fn memory(inode: u64, access: Access) -> MappedObject {
        let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
        MappedObject { mapping, access, identity: Identity { dev: 1, inode } }
    }

    fn objects(access: Access) -> Objects {
        let mut objects = Objects::default();
        drop(objects.map(KEY, memory(1, access)));
        objects
    }

    #[test]
    fn an_object_that_no_job_uses_is_gone_at_once() {
        let mut objects = objects(Access::Write);
        let gone = objects.unmap(KEY);
        assert_eq!((gone.objects.as_slice(), gone.mappings.len()), ([KEY].as_slice(), 1));
        assert!(objects.find(KEY).is_none() && !objects.is_leaving(KEY));
    }

    #[test]
    fn an_object_that_was_never_mapped_is_gone_at_once() {
        assert_eq!(Objects::default().unmap(KEY).objects, [KEY]);
    }

    #[test]
    fn an_object_in_use_leaves_when_its_last_use_ends_and_no_job_finds_it_meanwhile() {
        let mut objects = objects(Access::Write);
        let uses = [objects.find(KEY).cloned(), objects.find(KEY).cloned()];
        assert!(objects.unmap(KEY).objects.is_empty());
        assert!(objects.find(KEY).is_none() && objects.is_leaving(KEY));
        for (a_use, gone) in uses.into_iter().zip([vec![], vec![KEY]]) {
            drop(a_use);
            assert_eq!(objects.settle().objects, gone);
        }
        assert!(!objects.is_leaving(KEY));
    }

    #[test]
    fn a_replaced_mapping_that_is_in_use_keeps_its_object_from_leaving() {
        let mut objects = objects(Access::Read);
        let old = objects.find(KEY).cloned();
        assert!(objects.map(KEY, memory(1, Access::Write)).mappings.is_empty());
        assert!(objects.unmap(KEY).objects.is_empty(), "the first mapping is still there");
        drop(old);
        assert_eq!(objects.settle().objects, [KEY]);
    }

    #[test]
    fn what_one_object_waits_for_does_not_hold_up_another() {
        let mut objects = objects(Access::Read);
        drop(objects.map(OTHER, memory(2, Access::Read)));
        let _in_use = objects.find(KEY).cloned();
        assert!(objects.unmap(KEY).objects.is_empty());
        assert_eq!(objects.unmap(OTHER).objects, [OTHER]);
    }

    #[test]
    fn a_mapping_serves_the_same_memory_for_no_more_than_it_was_mapped_for() {
        let memory_of = |inode, len| (Identity { dev: 1, inode }, len);
        for (have, wanted, serves) in [
            (Access::Write, Access::Read, true),
            (Access::Write, Access::Write, true),
            (Access::Read, Access::Read, true),
            (Access::Read, Access::Write, false),
        ] {
            let objects = objects(have);
            assert_eq!(objects.serves(KEY, memory_of(1, 4096), wanted), serves, "{have:?} for {wanted:?}");
            assert!(!objects.serves(KEY, memory_of(2, 4096), wanted), "other memory");
            assert!(!objects.serves(KEY, memory_of(1, 8192), wanted), "more of it");
            assert!(!objects.serves(OTHER, memory_of(1, 4096), wanted), "another object");
        }
    }
}
