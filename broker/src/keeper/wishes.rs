//! The one place where the keeper waits, and those who may want its end meanwhile.
//!
//! Two can want it: a signal (SIGTERM, SIGINT) and the lifeline. The lifeline of an embedded daemon is an inherited
//! pipe or socket whose other end its process holds: the keeper writes one line, `ready`, when it serves, and ends
//! when the other end is closed, by whatever means; the kernel closes it also for a process that was killed.
//! Bytes that come from there are read and ignored.
//!
//! The signals are blocked and read from an fd. Children inherit the block, so Ctrl-C at a terminal, which every
//! process there gets, is the keeper's alone, and it ends the others in order. SIGHUP is the wish that
//! the configuration be read again.

use std::cell::Cell;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use vgem_os::clock;

use super::Stop;
use crate::exit::{Exit, Failure};

/// What is said when the daemon serves.
const READY: &[u8] = b"ready\n";

/// Those who may want the end.
#[derive(Debug)]
pub(super) struct Wishes {
    signals: SignalFd,
    lifeline: Option<OwnedFd>,
    /// The configuration is to be read again.
    reread: Cell<bool>,
}

impl Wishes {
    /// Blocks the signals, and takes over the lifeline's inherited fd if there is one.
    pub(super) fn new(lifeline: Option<RawFd>) -> Result<Self, Failure> {
        let failed = |e: nix::Error| Failure::new(Exit::System, format!("catching signals: {e}"));
        let mut caught = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            caught.add(signal);
        }
        caught.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC.union(SfdFlags::SFD_NONBLOCK);
        let signals = SignalFd::with_flags(&caught, flags).map_err(failed)?;
        let lifeline = lifeline.map(take).transpose()?;
        Ok(Self { signals, lifeline, reread: Cell::new(false) })
    }

    /// Says on the lifeline that the daemon serves.
    pub(super) fn ready(&self) -> Result<(), Failure> {
        let Some(lifeline) = &self.lifeline else { return Ok(()) };
        match rustix::io::write(lifeline, READY) {
            // Gone already: the hang-up is noticed at the next wait.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(e) => Err(Failure::new(Exit::System, format!("saying ready on the --embedded fd: {e}"))),
        }
    }

    /// Whether the configuration is to be read again; the next time not, unless somebody wants it meanwhile.
    pub(super) fn takes_reread(&self) -> bool {
        self.reread.take()
    }

    /// Waits until one of `fds` is readable or closed, or until `deadline` (CLOCK_MONOTONIC, nanoseconds; `None` is
    /// for ever). Says which are; all are not at the deadline, and while the configuration is to be read again and there is
    /// no deadline.
    ///
    /// # Errors
    /// [`Stop::Asked`] when somebody wants the end.
    pub(super) fn wait(&self, fds: &[BorrowedFd<'_>], deadline: Option<u64>) -> Result<Vec<bool>, Stop> {
        loop {
            let lifeline = self.lifeline.as_ref().map(|fd| fd.as_fd());
            let own = [Some(self.signals.as_fd()), lifeline];
            let mut all: Vec<PollFd<'_>> =
                own.into_iter().flatten().chain(fds.iter().copied()).map(readable).collect();
            if !sleep(&mut all, deadline)? {
                return Ok(vec![false; fds.len()]);
            }
            let own = all.len() - fds.len();
            let (ours, theirs) = all.split_at(own);
            self.look(ours)?;
            let ready: Vec<bool> = theirs.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.contains(&true) || deadline.is_none() && self.reread.get() {
                return Ok(ready);
            }
        }
    }

    /// Whether what happened on our own fds is a wish for the end.
    fn look(&self, ours: &[PollFd<'_>]) -> Result<(), Stop> {
        if ours.first().is_some_and(|fd| !fd.revents().is_empty())
            && let Ok(Some(signal)) = self.signals.read_signal()
        {
            if signal.ssi_signo != Signal::SIGHUP as u32 {
                return Err(Stop::Asked("a signal"));
            }
            self.reread.set(true);
        }
        let Some((lifeline, events)) = self.lifeline.as_ref().zip(ours.get(1).map(PollFd::revents)) else {
            return Ok(());
        };
        let end = Err(Stop::Asked("the end of the process it serves"));
        if events.intersects(PollFlags::HUP.union(PollFlags::ERR)) {
            return end;
        }
        if events.contains(PollFlags::IN) {
            return match rustix::io::read(lifeline, &mut [0_u8; 64]) {
                Ok(len) if len > 0 => Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => Ok(()),
                _ => end,
            };
        }
        Ok(())
    }
}

/// Waits until one of `fds` is readable or closed, whatever anybody wishes: for the way out. False at the deadline.
pub(super) fn wait_undisturbed(fds: &[BorrowedFd<'_>], deadline: u64) -> Result<bool, Failure> {
    let mut all: Vec<PollFd<'_>> = fds.iter().copied().map(readable).collect();
    sleep(&mut all, Some(deadline))
}

/// Waits until a socket has room to send. False at the deadline.
pub(super) fn wait_for_room(fd: BorrowedFd<'_>, deadline: u64) -> Result<bool, Failure> {
    sleep(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(deadline))
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

/// Sleeps until something is ready; false at the deadline.
fn sleep(fds: &mut [PollFd<'_>], deadline: Option<u64>) -> Result<bool, Failure> {
    loop {
        let timeout = deadline.map(|at| timespec(at.saturating_sub(clock::now())));
        match poll(fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Failure::new(Exit::System, format!("poll: {e}"))),
        }
    }
}

fn timespec(ns: u64) -> Timespec {
    let seconds = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
    let rest = i64::try_from(ns % 1_000_000_000).unwrap_or(0);
    Timespec { tv_sec: seconds, tv_nsec: rest }
}

fn take(fd: RawFd) -> Result<OwnedFd, Failure> {
    let wrong = |e: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Usage,
            format!("--embedded {fd}: {e}; pass the number of an inherited pipe or socket"),
        )
    };
    let owned = vgem_os::process::inherited(fd).map_err(|e| wrong(&e))?;
    rustix::io::ioctl_fionbio(&owned, true).map_err(|e| wrong(&e))?;
    Ok(owned)
}
