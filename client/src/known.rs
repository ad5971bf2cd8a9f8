//! Which buffers of this client live, by handle: memory that is imported twice is one buffer with one ledger.
//!
//! It keeps nothing alive. The broker counts the imports of a handle, and each buffer here stands for one of them,
//! so a buffer that goes while the same memory is being imported takes away its own count and no other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vgem_proto::ids::Handle;

use crate::buffer::BufferShared;

#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<u32, Weak<BufferShared>>>);

impl Known {
    /// Remembers a buffer; the newest of a handle counts.
    pub(crate) fn keep(&self, buffer: &Arc<BufferShared>) {
        self.all().insert(buffer.handle().0, Arc::downgrade(buffer));
    }

    /// Remembers an imported buffer, unless another thread was faster: then that one is it.
    pub(crate) fn settle(&self, mut buffer: BufferShared) -> Arc<BufferShared> {
        let mut all = self.all();
        if let Some(living) = all.get(&buffer.handle().0).and_then(Weak::upgrade) {
            if living.is_writable() || !buffer.is_writable() {
                drop(all);
                return living;
            }
            buffer.ledger = Arc::clone(&living.ledger);
            buffer.ledger.share();
        }
        let buffer = Arc::new(buffer);
        all.insert(buffer.handle().0, Arc::downgrade(&buffer));
        drop(all);
        buffer
    }

    /// The buffer of this handle, if one lives.
    pub(crate) fn find(&self, handle: Handle) -> Option<Arc<BufferShared>> {
        self.all().get(&handle.0).and_then(Weak::upgrade)
    }

    /// A buffer of this handle goes; another one may have taken its place.
    pub(crate) fn forget(&self, handle: Handle) {
        if let Entry::Occupied(known) = self.all().entry(handle.0)
            && known.get().strong_count() == 0
        {
            known.remove();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u32, Weak<BufferShared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
