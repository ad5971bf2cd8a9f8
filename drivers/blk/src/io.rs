//! The way to the kernel, chosen once at start: rings, or plain system calls.

use std::num::NonZeroU16;

use rustix::io::Errno;
use vgem_driver::mapping::Span;
use vgem_proto::ids::ObjectKey;

use crate::buffers::{Buffers, REGISTER_FROM, Slots};
use crate::counters::Tally;
use crate::ffi::{Held, Ring};

/// Requests in flight in one ring. At 512 KiB each, more than a disk's queue wants from one job.
const RING_ENTRIES: u32 = 32;

/// Rings, or system calls.
#[derive(Debug)]
pub(crate) enum Io {
    /// One ring per executor.
    Rings(Rings),
    /// `pread` and `pwrite`.
    Calls,
}

/// The rings and what is registered with them.
#[derive(Debug)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
    buffers: Option<Buffers>,
}

impl Io {
    /// Makes the rings, or falls back to system calls where the kernel or a policy forbids them; says so.
    pub(crate) fn start(executors: NonZeroU16) -> Self {
        match Rings::make(executors) {
            Ok(rings) => Self::Rings(rings),
            Err(errno) => {
                tracing::warn!("no io_uring ({errno}): reading and writing by pread and pwrite");
                Self::Calls
            }
        }
    }

    /// Registers an object that was mapped.
    pub(crate) fn mapped(&self, object: ObjectKey, span: Span<'_>, tally: &Tally) {
        let Self::Rings(Rings { rings, buffers: Some(buffers) }) = self else { return };
        if span.len() < REGISTER_FROM {
            return;
        }
        // A mapping that is replaced leaves its slots first.
        buffers.unregister(rings, object);
        match buffers.register(rings, object, span) {
            Ok(()) => Tally::add(&tally.registered, 1),
            Err(errno) => {
                Tally::add(&tally.unregistrable, 1);
                tracing::info!("{object} is used unregistered: {}", why_not(errno));
            }
        }
    }

    /// Takes an object out of the rings before it is unmapped.
    pub(crate) fn unmapping(&self, object: ObjectKey) {
        if let Self::Rings(Rings { rings, buffers: Some(buffers) }) = self {
            buffers.unregister(rings, object);
        }
    }

    /// The slots of an object, if it is registered.
    pub(crate) fn slots(&self, object: ObjectKey) -> Option<Slots> {
        match self {
            Self::Rings(Rings { buffers: Some(buffers), .. }) => buffers.slots(object),
            _ => None,
        }
    }
}

impl Rings {
    fn make(executors: NonZeroU16) -> Result<Self, Errno> {
        let rings = (0..executors.get()).map(|_| Ring::new(RING_ENTRIES)).collect::<Result<Vec<_>, _>>()?;
        let buffers = match Buffers::make(&rings) {
            Ok(buffers) => Some(buffers),
            Err(errno) => {
                tracing::warn!("no table of registered buffers ({errno}): all requests are plain");
                None
            }
        };
        Ok(Self { rings, buffers })
    }

    /// A ring of our own: an idle one, of which there is one for every executor.
    pub(crate) fn hold(&self) -> Option<Held<'_>> {
        self.rings.iter().find_map(Ring::try_hold).or_else(|| self.rings.first().map(Ring::hold))
    }
}

fn why_not(errno: Errno) -> String {
    match errno {
        Errno::NOMEM => "over RLIMIT_MEMLOCK; raise LimitMEMLOCK".into(),
        Errno::FAULT => "it is mapped for reading only".into(),
        Errno::NOSPC => "the table of registered buffers is full".into(),
        other => other.to_string(),
    }
}
