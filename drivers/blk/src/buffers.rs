//! Which objects are registered with the rings, and in which slots of their common table.
//!
//! ```text
//!   mapped ──► register in ring 0 ──► clone the table to the others ──► listed: jobs use the slots
//!                     │ refused                                            │
//!                     ▼                                                    ▼ unmapping
//!              not listed: jobs use plain requests              cleared in every ring, slots free
//! ```
//!
//! A registered buffer is at most 1 GiB, so a longer object takes several slots. Objects shorter than
//! [`REGISTER_FROM`] (result cells above all) are not worth a pin and a slot.
//!
//! Invariant: a listed object is registered in *every* ring, each of its slots with exactly the bytes
//! `[n GiB, (n + 1) GiB)` of its mapping; a slot is free or belongs to one object.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::io::Errno;
use vgem_driver::mapping::Span;
use vgem_proto::ids::ObjectKey;

use crate::ffi::Ring;

/// Objects from this length on are registered, bytes.
pub(crate) const REGISTER_FROM: usize = 16 * 1024;
/// Longest registered buffer, bytes: the kernel's limit.
pub(crate) const BUFFER_LEN: usize = 1 << 30;
/// Slots of the table. Cloning it takes time in proportion, a few microseconds.
const SLOTS: u16 = 1024;

/// How the rings come by what is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Cloned from ring 0: pinned and charged once (Linux 6.13).
    Cloned,
    /// Registered in each ring: pinned once, charged once per ring.
    Separate,
}

/// The slots of one object, in the order of its bytes.
pub(crate) type Slots = Arc<[u16]>;

/// The table that all rings have in common.
#[derive(Debug)]
pub(crate) struct Buffers {
    sharing: Sharing,
    listed: RwLock<HashMap<ObjectKey, Slots>>,
    /// Held during every change of the rings' tables.
    free: Mutex<Vec<u16>>,
}

impl Buffers {
    /// Makes the table in each ring; none if the kernel has no such tables (before Linux 5.19).
    pub(crate) fn make(rings: &[Ring]) -> Result<Self, Errno> {
        for ring in rings {
            ring.make_table(SLOTS.into())?;
        }
        let cloned = match rings.split_first() {
            Some((first, others)) => others.iter().try_for_each(|ring| ring.share_table_of(first)),
            None => Ok(()),
        };
        let sharing = match cloned {
            Ok(()) => Sharing::Cloned,
            Err(errno) => {
                tracing::info!(
                    "registered buffers are charged once per ring: no cloning of tables ({errno})"
                );
                Sharing::Separate
            }
        };
        Ok(Self { sharing, listed: RwLock::default(), free: Mutex::new((0..SLOTS).rev().collect()) })
    }

    /// The slots of an object, if it is registered.
    pub(crate) fn slots(&self, object: ObjectKey) -> Option<Slots> {
        self.listed.read().unwrap_or_else(PoisonError::into_inner).get(&object).cloned()
    }

    /// Registers an object in every ring; on failure in none.
    pub(crate) fn register(&self, rings: &[Ring], object: ObjectKey, span: Span<'_>) -> Result<(), Errno> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = span.len().div_ceil(BUFFER_LEN);
        let rest = free.len().checked_sub(wanted).ok_or(Errno::NOSPC)?;
        let slots = free.split_off(rest);
        match self.fill(rings, &slots, span) {
            Ok(()) => {
                self.listed.write().unwrap_or_else(PoisonError::into_inner).insert(object, slots.into());
                Ok(())
            }
            Err(errno) => {
                free.extend(clear(rings, &slots));
                Err(errno)
            }
        }
    }

    /// Takes an object out of every ring. No job uses it.
    pub(crate) fn unregister(&self, rings: &[Ring], object: ObjectKey) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.listed.write().unwrap_or_else(PoisonError::into_inner).remove(&object);
        if let Some(slots) = slots {
            free.extend(clear(rings, &slots));
        }
    }

    fn fill(&self, rings: &[Ring], slots: &[u16], span: Span<'_>) -> Result<(), Errno> {
        let Some((first, others)) = rings.split_first() else { return Ok(()) };
        fill_one(first, slots, span)?;
        for ring in others {
            match self.sharing {
                Sharing::Cloned => ring.share_table_of(first)?,
                Sharing::Separate => fill_one(ring, slots, span)?,
            }
        }
        Ok(())
    }
}

fn fill_one(ring: &Ring, slots: &[u16], span: Span<'_>) -> Result<(), Errno> {
    for (slot, at) in slots.iter().zip((0..span.len()).step_by(BUFFER_LEN)) {
        let part = span.sub(at, BUFFER_LEN.min(span.len() - at)).ok_or(Errno::INVAL)?;
        ring.register(*slot, part)?;
    }
    Ok(())
}

/// Empties slots in every ring and returns those that are empty everywhere; a slot that is not is never used again.
fn clear(rings: &[Ring], slots: &[u16]) -> Vec<u16> {
    let emptied = |slot: &&u16| {
        rings.iter().all(|ring| match ring.clear(**slot) {
            Ok(()) => true,
            Err(errno) => {
                tracing::warn!("registered buffer {slot} cannot be emptied: {errno}");
                false
            }
        })
    };
    slots.iter().filter(emptied).copied().collect()
}
