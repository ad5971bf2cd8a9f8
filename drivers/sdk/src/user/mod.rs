//! User queues: rings from which an instance takes work that the broker never sees.
//!
//! ```text
//!   client ──entries──► ring ──► thread of the ring ──► engine ──► completions ──► client
//!                                   │    ▲
//!                          addresses│    │ what is bound, when to stop
//!                                   ▼    │
//!   broker ──Bind, Unbind──► control thread: the address space
//! ```
//!
//! A queue that was opened as any other may get a ring ([`vgem_os::ring`]). Each ring has a thread of its own, so a
//! queue that is full of work is one runnable thread among others and the kernel divides the cores. Nothing on the way
//! from an entry to its completion asks the control thread, takes a lock that it holds, makes a system call, or
//! allocates, as long as the client is awake, no job waits for it, and nothing fails.
//!
//! What it is not: tracked. No reservation, no wait, no deadline of the broker's. Jobs of other queues may wait for an entry,
//! here or elsewhere; one that does nothing else **publishes** it. An entry can reach what is bound to its
//! queue and nothing else, and what it does wrong it does to its own client.
//!
//! The points of a queue's timeline are its ring's, entry by entry, if no job came before the ring; then it takes none.
//! On a queue that has had jobs, or that goes on in another instance's stead, the points stay those of jobs, and entries
//! have completions only: no point is ever signalled by both.
//!
//! | file | what |
//! |---|---|
//! | `space` | which addresses are which bytes |
//! | `check` | whether an entry is right, and what an engine sees of it |
//! | `worker` | the thread of a ring |
//! | `desk` | what the control thread tells that thread |
//! | `causes` | how often the broker hears of failures |
//! | `own` | the client's own memory, where nothing is bound |
//! | `stage` | private memory in which engines find operands that are there |
//! | `watch` | who waits for that memory, and for how long |
//!
//! **Binding.** The control thread keeps the address space and answers Bound when the thread of the ring will find the
//! range for every entry it looks at from then on. Unbound is answered by that thread: between two entries, so by then
//! none uses what was there. The mapping is held by the ranges of both, so Unmapped is not sent before either.
//!
//! **The end.** A ring that its client broke is over, with a cause; its thread stays for the broker's messages, until
//! the queue closes. When it does, nothing more is taken, the entry that runs ends, a batch with the entry of it that
//! runs; the ring's memory and all ranges are let go of, and TimelineClosed is sent last.
//!
//! Invariants: a ring has one thread and a thread one ring; an address is used only as a key of the address space; every
//! entry that was taken is completed, by the thread that took it, before that thread waits for another or begins a long
//! one.

mod causes;
mod check;
mod desk;
mod own;
mod space;
mod stage;
mod watch;
mod worker;

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;

use vgem_os::client_memory::ClientMemory;
use vgem_os::mapping::Mapping;
use vgem_os::{Errno, OsError, ring};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::TimelineKey;
use vgem_proto::limits::RINGS;
use vgem_proto::message::driver::{AttachMemory, AttachRing, Bind, DriverMessage, SetWindows};
use vgem_proto::user_queue::VaRange;

use self::desk::{Desk, Stop};
use self::own::OwnMemory;
use self::space::{AddressSpace, BoundRange, NotBound};
use self::stage::Large;
use self::watch::{Watch, Watchman};
pub(crate) use self::worker::Halves;
use self::worker::Worker;
use crate::engine::Engine;
use crate::instance::Instance;
use crate::platform::{Os, Platform};

/// The rings of an instance, as its control thread sees them. Dropped, their threads end.
pub(crate) struct Rings<P: Platform = Os> {
    rings: HashMap<TimelineKey, Ring<P>>,
    /// One for each thread, and one more.
    places: Arc<()>,
    /// Private memory for long operands that are the client's own.
    large: Arc<Large>,
    /// Looks after those that read their client's own memory.
    watchman: Arc<Watchman>,
    /// It has a thread: there is such a ring.
    is_watched: bool,
}

struct Ring<P: Platform> {
    desk: Arc<Desk<P>>,
    space: Arc<AddressSpace>,
    watch: Arc<Watch>,
    /// Nothing is bound any more.
    closing: bool,
}

/// Who says that a range is unbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Unbinding {
    /// Nobody uses it: the caller.
    Done,
    /// The ring's thread, when it has let go of it.
    UnderWay,
}

/// Who says that windows are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Windows {
    /// The ring has ended: the caller.
    Nobodys,
    /// The ring's thread, before its next entry.
    UnderWay,
}

/// Starts the thread of a ring.
type Start<'a> = &'a dyn Fn(String, Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

impl<P: Platform> Default for Rings<P> {
    fn default() -> Self {
        let (rings, places) = Default::default();
        Self { rings, places, large: Arc::default(), watchman: Arc::default(), is_watched: false }
    }
}

impl<P: Platform> Rings<P> {
    /// Whether a queue has a ring.
    pub(crate) fn has(&self, timeline: TimelineKey) -> bool {
        self.rings.contains_key(&timeline)
    }

    /// Takes entries from a queue's ring from now on.
    ///
    /// # Errors
    /// As [`ring::map_driver`]; `EINVAL` if it is not as deep as was said, or the queue is not open; `EAGAIN` if there
    /// are [`RINGS`] already, or the system has no thread.
    pub(crate) fn attach<E: Engine>(
        &mut self,
        instance: &Arc<Instance<E, P>>,
        attach: &AttachRing,
        fd: OwnedFd,
    ) -> vgem_os::Result<()> {
        self.rings.retain(|_, ring| !ring.desk.is_left());
        if Arc::strong_count(&self.places) > RINGS {
            return Err(OsError::with_detail("ring", Errno::AGAIN, format!("{RINGS} rings at most")));
        }
        let (consumer, completer) = ring::map_driver(fd.as_fd())?;
        drop(fd);
        let (found, said) = (consumer.depth().entries(), attach.depth);
        if found != said {
            let detail = format!("{found} entries deep, {said} were said");
            return Err(OsError::with_detail("ring", Errno::INVAL, detail));
        }
        let start: Start<'_> = &|name, life| thread::Builder::new().name(name).spawn(life).map(drop);
        self.begin(instance, attach.timeline, Halves { consumer, completer }, start)
    }

    /// Takes entries from a ring that is mapped.
    pub(crate) fn begin<E: Engine>(
        &mut self,
        instance: &Arc<Instance<E, P>>,
        key: TimelineKey,
        halves: Halves,
        start: Start<'_>,
    ) -> vgem_os::Result<()> {
        let given = instance.schedule().give_points(key);
        let given = given.ok_or_else(|| OsError::with_detail("ring", Errno::INVAL, format!("no {key}")))?;
        let desk = Arc::new(Desk::new(instance.platform().clone()));
        let watch = Watch::of(&self.watchman, key);
        let worker = Worker::new(
            Arc::clone(instance),
            given,
            Arc::clone(&desk),
            Arc::clone(&self.places),
            (Arc::clone(&watch), Arc::clone(&self.large)),
        );
        let name = format!("ring-{}", key.index);
        if let Err(error) = start(name, Box::new(move || worker.run(halves))) {
            instance.schedule().take_points(key);
            return Err(OsError::with_detail("thread", Errno::AGAIN, error.to_string()));
        }
        self.rings.insert(key, Ring { desk, space: Arc::default(), watch, closing: false });
        Ok(())
    }

    /// Has entries reach a range at an address; `mapping` is that of the object. The next entry that is looked at finds it.
    ///
    /// # Errors
    /// A code: Gone if the queue has no ring; MapFailed if the object is not mapped, or not for that; Busy if the
    /// addresses overlap others; Exhausted, OutOfRange.
    pub(crate) fn bind(&mut self, bind: &Bind, mapping: Option<Arc<Mapping>>) -> Result<(), ErrorCode> {
        let ring = self.rings.get_mut(&bind.timeline).filter(|ring| !ring.closing).ok_or(ErrorCode::Gone)?;
        let said = |not: NotBound| {
            eprintln!("binding {} at {:#x}: {not}", bind.object, bind.address);
            not.code()
        };
        let addresses = VaRange::new(bind.address, bind.len).map_err(|_| said(NotBound::NoRange))?;
        let mapping = mapping.ok_or_else(|| said(NotBound::NotMapped))?;
        let &Bind { object, offset, access, foreign, .. } = bind;
        let foreign = foreign != 0;
        let range = BoundRange { addresses, object, offset, access, foreign, mapping };
        Arc::make_mut(&mut ring.space).bind(range).map_err(said)?;
        ring.desk.post(|mail| mail.space = Some(Arc::clone(&ring.space)));
        Ok(())
    }

    /// Has entries reach their client's own memory through an fd, in these windows. The ring's thread says WindowsSet.
    ///
    /// # Errors
    /// `EBUSY` if there is such memory already; `EAGAIN` if the system has no thread to look after it.
    pub(crate) fn attach_memory<E: Engine>(
        &mut self,
        instance: &Arc<Instance<E, P>>,
        attach: &AttachMemory,
        fd: OwnedFd,
    ) -> vgem_os::Result<Windows> {
        let Some(ring) = self.rings.get_mut(&attach.timeline).filter(|ring| !ring.closing) else {
            return Ok(Windows::Nobodys);
        };
        if ring.space.own.is_some() {
            return Err(OsError::with_detail("memory", Errno::BUSY, format!("{} has it", attach.timeline)));
        }
        if !self.is_watched {
            let teller = Arc::clone(instance);
            let tell = move |stalled| teller.outbox.send(&DriverMessage::Stalled(stalled));
            let no_thread = |e: std::io::Error| OsError::with_detail("thread", Errno::AGAIN, e.to_string());
            self.watchman.start(tell).map_err(no_thread)?;
            self.is_watched = true;
        }
        let mut own = OwnMemory::new(ClientMemory::new(fd), Arc::clone(&ring.watch));
        own.set_windows(&attach.windows);
        Arc::make_mut(&mut ring.space).own = Some(own);
        Ok(ring.post_windows())
    }

    /// Has entries reach their client's own memory in these windows. The ring's thread says WindowsSet.
    pub(crate) fn set_windows(&mut self, set: &SetWindows) -> Windows {
        let Some(ring) = self.rings.get_mut(&set.timeline).filter(|ring| !ring.closing) else {
            return Windows::Nobodys;
        };
        if let Some(own) = &mut Arc::make_mut(&mut ring.space).own {
            own.set_windows(&set.windows);
        }
        ring.post_windows()
    }

    /// Has entries reach nothing any more at an address.
    pub(crate) fn unbind(&mut self, timeline: TimelineKey, address: u64) -> Unbinding {
        let Some(ring) = self.rings.get_mut(&timeline) else { return Unbinding::Done };
        if Arc::make_mut(&mut ring.space).unbind(address) || ring.closing {
            // Also while it closes: the entry that runs may use it.
            let under_way = ring.desk.post(|mail| {
                mail.space = Some(Arc::clone(&ring.space));
                mail.unbound.push(address);
            });
            return if under_way { Unbinding::UnderWay } else { Unbinding::Done };
        }
        Unbinding::Done
    }

    /// Closes a queue's ring; whether there is one. Its thread then closes the queue.
    pub(crate) fn close(&mut self, timeline: TimelineKey) -> bool {
        self.rings.get_mut(&timeline).is_some_and(|ring| ring.stop(Stop::Close))
    }
}

impl<P: Platform> Ring<P> {
    /// Has the thread take the windows, and say so.
    fn post_windows(&self) -> Windows {
        let is_there = self.desk.post(|mail| {
            mail.space = Some(Arc::clone(&self.space));
            mail.windows += 1;
        });
        if is_there { Windows::UnderWay } else { Windows::Nobodys }
    }

    /// Whether the thread is there to hear it.
    fn stop(&mut self, stop: Stop) -> bool {
        // The thread is the last that holds what was bound.
        (self.space, self.closing) = (Arc::default(), true);
        self.desk.post(|mail| mail.stop = mail.stop.or(Some(stop)))
    }
}

impl<P: Platform> Drop for Rings<P> {
    fn drop(&mut self) {
        for ring in self.rings.values_mut() {
            ring.stop(Stop::Leave);
        }
        self.watchman.stop();
    }
}

#[cfg(test)]
mod tests;
