//! Eventfds of fences, for event loops that know nothing of this library: poll, epoll, tokio, asyncio.
//!
//! ```text
//!   fence ── bridge thread of this client ── ended? ──► write 1 ──► the fd is readable
//! ```
//!
//! It is a snapshot of that very fence (T6): readable once the fence has ended, well or not, or the broker is gone; what the
//! timeline does later changes nothing. Readable says *ended*; how is for the fence to say. Of a point that need not be
//! promised yet it is readable at that moment at the latest. Reading the fd takes the readiness away, and it does not come
//! back: look at the fence instead, or read once.
//!
//! The bridge writes it by the waker it has for every task. Until then the fence, and so the connection, is kept; the fd itself
//! may be closed at any time.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use vgem_os::OsError;
use vgem_proto::ids::Time;

use crate::bridge::Ticket;
use crate::deadline::Deadline;
use crate::errand;
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::merge::Merged;
use crate::timeline::{Answer, TimelinePoint, Tries};
use crate::waitable::Waitable;

/// As late as a moment can be.
const NEVER: Deadline = Deadline::at(Time(u64::MAX));

impl Fence {
    /// An fd that is readable once this fence has ended, well or not; see [`Fence::state`] for how. It never blocks,
    /// whoever reads it, and making it waits for nothing.
    ///
    /// # Errors
    /// [`Error::System`] without an fd, or a thread to write it.
    pub fn eventfd(&self) -> Result<OwnedFd> {
        of(vec![self.on().clone()])
    }
}

impl Merged {
    /// An fd that is readable once all of these fences have ended.
    ///
    /// # Errors
    /// As [`Fence::eventfd`].
    pub fn eventfd(&self) -> Result<OwnedFd> {
        of(self.fences().iter().map(|fence| fence.on().clone()).collect())
    }
}

fn of(waits: Vec<Waitable>) -> Result<OwnedFd> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC.union(EventfdFlags::NONBLOCK))
        .map_err(|errno| OsError::new("eventfd", errno))?;
    let own = rustix::io::fcntl_dupfd_cloexec(&fd, 0)
        .map_err(|errno| OsError::new("fcntl(F_DUPFD_CLOEXEC)", errno))?;
    let state = Mutex::new(Left { waits, ticket: None, alarm: None, tries: Tries::default() });
    Notice::go_on(&Arc::new(Notice { fd: own.into(), state }))?;
    Ok(fd)
}

/// An eventfd that is to be written.
#[derive(Debug)]
struct Notice {
    fd: std::fs::File,
    state: Mutex<Left>,
}

/// What it waits for still, one after the other.
#[derive(Debug)]
struct Left {
    waits: Vec<Waitable>,
    ticket: Option<Ticket>,
    /// Rings when it is time to ask again.
    alarm: Option<Ticket>,
    tries: Tries,
}

impl Notice {
    /// Writes, if all has ended; otherwise sees to it that the bridge comes back.
    fn go_on(notice: &Arc<Self>) -> Result<()> {
        let mut state = notice.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped without the lock of this notice: it takes that of the bridge.
        let mut done = vec![(None, state.alarm.take())];
        while let Some(on) = state.waits.last().cloned() {
            if is_over(&on) {
                done.push((state.waits.pop(), state.ticket.take()));
                continue;
            }
            let waker = Waker::from(Arc::clone(notice));
            if let Some(ticket) = &state.ticket {
                ticket.renew(&waker);
            } else if let Waitable::Point(point) = &on
                && point.question().is_some()
            {
                let (point, notice) = (point.clone(), Arc::clone(notice));
                drop(state);
                errand::run(&point.timeline.core.clone(), move || notice.asked(&point));
                return Ok(());
            } else {
                let until = on.submit_by().unwrap_or(NEVER);
                let registered = on.core().bridge().register(Some(on.watch()), until, &waker);
                state.ticket = Some(registered.map_err(no_thread)?);
            }
            // Registered: look once more, the point may have come before.
            if !is_over(&on) {
                return Ok(());
            }
        }
        drop(state);
        drop(done);
        notice.write();
        Ok(())
    }

    /// On the errand thread: asks what has to be asked.
    fn asked(self: Arc<Self>, point: &TimelinePoint) {
        let asked = match point.inquire(point.timeline.core.deadline()) {
            Ok(Answer::Ready) => Self::go_on(&self),
            Ok(Answer::Later(error)) => self.ask_later(point, error),
            Err(error) => Err(error.into()),
        };
        if asked.is_err() {
            // It cannot be waited for; whoever waits for it is told why.
            self.write();
        }
    }

    /// Has the bridge come back in a while, to ask again.
    fn ask_later(self: &Arc<Self>, point: &TimelinePoint, error: Error) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Deadline::after(state.tries.again(error)?);
        let waker = Waker::from(Arc::clone(self));
        let registered = point.timeline.core.bridge().register(None, until, &waker);
        state.alarm = Some(registered.map_err(no_thread)?);
        Ok(())
    }

    fn write(&self) {
        // It counts to 2^64 - 2 and is written once or twice.
        drop((&self.fd).write_all(&1_u64.to_ne_bytes()));
    }
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        if Self::go_on(&self).is_err() {
            self.write();
        }
    }
}

/// Whether nothing more will come of a wait.
fn is_over(on: &Waitable) -> bool {
    on.core().void_unused();
    on.has_ended() || on.core().link.check().is_err() || on.submit_by().is_some_and(Deadline::passed)
}

fn no_thread(why: String) -> Error {
    OsError::with_detail("clone", vgem_os::Errno::AGAIN, why).into()
}
