//! Objects that outlive the broker: duplicates of its fds, which the lease probe does not see, pinned as far as
//! `RLIMIT_MEMLOCK` allows.
//!
//! ```text
//!   Keep, Drop ──keeper's thread──► queue ──thread of its own──► mlock, munmap ──Kept, Dropped──► broker
//! ```
//!
//! To pin a gibibyte takes the kernel half a second and more, to find out a control group some 20 us. So pinning has a thread of
//! its own, and all else that the broker asks for is answered by the keeper's, which only hands it on: nobody who connects
//! waits for another's memory, and no memory for who connects. It is one thread and one queue, so a Drop is done after the Keep
//! before it. It starts no process: the kernel would end that with it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use tracing::{error, warn};
use vgem_os::OsError;
use vgem_os::pin::Pin;
use vgem_proto::ids::ObjectKey;
use vgem_proto::message::keeper::{Drop as DropObject, Dropped, Keep, Kept};

use super::link::{LinkError, Voice};
use crate::exit::{Exit, Failure};

/// The keeper's side of the queue. The thread ends with it, and lets go of everything.
#[derive(Debug)]
pub(super) struct Keeping {
    wanted: Sender<Wanted>,
}

/// What the broker wants.
#[derive(Debug)]
pub(super) enum Wanted {
    Keep(Keep, Option<OwnedFd>),
    Drop(DropObject),
}

/// An object that is kept.
#[derive(Debug)]
struct KeptObject {
    // The pin goes before the fd it was made through.
    _pin: Option<Pin>,
    _fd: OwnedFd,
}

/// What the thread has.
#[derive(Debug)]
struct Keeper {
    broker: Voice,
    kept: BTreeMap<ObjectKey, KeptObject>,
    said_why_unpinned: bool,
}

impl Keeping {
    /// Starts the thread, which answers over this.
    pub(super) fn start(broker: Voice) -> Result<Self, Failure> {
        let (wanted, wants) = channel();
        let mut keeper = Keeper { broker, kept: BTreeMap::new(), said_why_unpinned: false };
        std::thread::Builder::new().name("keeping".into()).spawn(move || keeper.serve(&wants)).map_err(
            |e| Failure::new(Exit::System, format!("starting the thread that keeps objects: {e}")),
        )?;
        Ok(Self { wanted })
    }

    /// Without the thread: as one that is at something large.
    #[cfg(test)]
    pub(super) fn stalled() -> (Self, Receiver<Wanted>) {
        let (wanted, wants) = channel();
        (Self { wanted }, wants)
    }

    /// Has an object kept and pinned; Kept is answered then.
    pub(super) fn keep(&self, keep: Keep, fds: Vec<OwnedFd>) -> Result<(), LinkError> {
        self.want(Wanted::Keep(keep, fds.into_iter().next()))
    }

    /// Has an object let go of; Dropped is answered then.
    pub(super) fn drop(&self, drop: DropObject) -> Result<(), LinkError> {
        self.want(Wanted::Drop(drop))
    }

    fn want(&self, wanted: Wanted) -> Result<(), LinkError> {
        self.wanted.send(wanted).map_err(|_| LinkError::NoKeeping)
    }
}

impl Keeper {
    fn serve(&mut self, wants: &Receiver<Wanted>) {
        for wanted in wants {
            if let Err(e) = self.carry_out(wanted) {
                error!("the broker {e}");
                // The keeper's thread then sees that the link has ended.
                if let Err(e) = self.broker.end() {
                    error!("{e}");
                }
                return;
            }
        }
    }

    fn carry_out(&mut self, wanted: Wanted) -> Result<(), LinkError> {
        match wanted {
            Wanted::Keep(Keep { object, len }, fd) => {
                let pinned = fd.map_or(0, |fd| self.keep(object, fd, len));
                self.broker.send(&Kept { object, pinned }.into(), &[])
            }
            Wanted::Drop(DropObject { object }) => {
                self.kept.remove(&object);
                self.broker.send(&Dropped { object }.into(), &[])
            }
        }
    }

    /// Keeps and pins an object; bytes really pinned.
    fn keep(&mut self, object: ObjectKey, fd: OwnedFd, len: u64) -> u64 {
        let pin = match Pin::lock(fd.as_fd(), len) {
            Ok(pin) => {
                if let Some(why) = pin.reason() {
                    self.say_why_unpinned(why);
                }
                Some(pin)
            }
            Err(e) => {
                warn!("{object} is not pinned: {e}");
                None
            }
        };
        let bytes = pin.as_ref().map_or(0, Pin::bytes);
        self.kept.insert(object, KeptObject { _pin: pin, _fd: fd });
        bytes
    }

    /// Once: the limit is the same for every object after the first.
    fn say_why_unpinned(&mut self, why: &OsError) {
        if !self.said_why_unpinned {
            self.said_why_unpinned = true;
            warn!(
                "objects are not pinned beyond the limit: {why}; raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) or \
                 vm.max_map_count (sysctl), whichever it names"
            );
        }
    }
}
