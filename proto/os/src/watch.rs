//! Watches: the hint that an export of an object went away.
//!
//! inotify on the object's inode reports a close when the last fd and the last mapping of an open file go. Equal
//! events are merged and the queue overflows at 16 384, so an event only says "probe this object now", and an
//! [`WatchEvent::Overflow`] says "probe them all". The lease probe is the truth.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::error::{Attempt, OsError, Result};
use crate::memory::{ObjectMemory, proc_path};

/// Names one watch of one [`Watcher`]. Numbers are not used again before 2^31 others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(i32);

/// What a watcher has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchEvent {
    /// An open file of this object was closed: probe it.
    Closed(WatchId),
    /// The file of this object is no more: nothing of it is left, no open file, no mapping, no name.
    Gone(WatchId),
    /// Events were lost: probe every object.
    Overflow,
}

/// An inotify instance over objects.
#[derive(Debug)]
pub struct Watcher {
    fd: OwnedFd,
}

impl Watcher {
    /// A watcher of nothing yet; non-blocking, close-on-exec.
    ///
    /// # Errors
    /// The errno of `inotify_init1`.
    pub fn new() -> Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK.union(CreateFlags::CLOEXEC)).attempt("inotify_init1")?;
        Ok(Self { fd })
    }

    /// Watches an object for closes. Watching it again gives the same id.
    ///
    /// # Errors
    /// The errno of `inotify_add_watch`: `ENOSPC` at the limit of watches (`max_user_watches`).
    pub fn add(&self, object: &ObjectMemory) -> Result<WatchId> {
        // By a passing number, as exports are opened: the object's own would stay in the kernel's caches.
        let passing = object.duplicate()?;
        let path = proc_path(passing.as_fd());
        let closes = WatchFlags::CLOSE_WRITE.union(WatchFlags::CLOSE_NOWRITE);
        let id = inotify::add_watch(&self.fd, path.as_str(), closes)
            .attempting("inotify_add_watch", || path.clone())?;
        Ok(WatchId(id))
    }

    /// Stops watching. Events already queued may still come.
    ///
    /// # Errors
    /// `EINVAL` if the watch is not there; it goes by itself when its object is freed.
    pub fn remove(&self, id: WatchId) -> Result<()> {
        inotify::remove_watch(&self.fd, id.0).attempt("inotify_rm_watch")
    }

    /// Appends the events that are there now, without blocking; nothing if there are none.
    ///
    /// # Errors
    /// The errno of `read`.
    pub fn read(&self, events: &mut Vec<WatchEvent>) -> Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    events.push(WatchEvent::Overflow);
                }
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    events.push(WatchEvent::Gone(WatchId(event.wd())));
                }
                Ok(event) => events.push(WatchEvent::Closed(WatchId(event.wd()))),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::new("read(inotify)", errno)),
            }
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
