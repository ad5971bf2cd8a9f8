//! An alarm: a moment of [`crate::clock`] at which a thread that sleeps for it wakes.
//!
//! It is for what has to happen soon while the threads that caused it sleep for other reasons. A time-out in their own
//! sleep would have to be taken back whenever somebody wakes them before it has passed, on the way to what they were
//! woken for; if it is the earliest of its core, that programs the timer hardware anew, several microseconds in a virtual
//! machine.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::clock::timespec;
use crate::error::{Attempt, OsError, Result};

/// A timerfd.
#[derive(Debug)]
pub struct Alarm {
    fd: OwnedFd,
}

impl Alarm {
    /// An alarm that is not set; close-on-exec.
    ///
    /// # Errors
    /// The errno of `timerfd_create`.
    pub fn new() -> Result<Self> {
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
            .attempt("timerfd_create")?;
        Ok(Self { fd })
    }

    /// Has it ring once at a moment, at once if that has passed; in place of whatever it was set for.
    ///
    /// # Errors
    /// The errno of `timerfd_settime`; does not happen on Linux.
    pub fn set(&self, at_ns: u64) -> Result<()> {
        const NEVER_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        // The moment 0 would put it out.
        let at = Itimerspec { it_interval: NEVER_AGAIN, it_value: timespec(at_ns.max(1)) };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &at)
            .attempt("timerfd_settime")
            .map(drop)
    }

    /// Sleeps until it rings. What has rung is waited for once.
    ///
    /// # Errors
    /// The errno of `read`; does not happen on Linux.
    pub fn wait(&self) -> Result<()> {
        let mut rings = [0; 8];
        loop {
            match rustix::io::read(&self.fd, &mut rings) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::new("read(timerfd)", errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn an_alarm_rings_at_its_moment_and_not_before() {
        let alarm = Alarm::new().expect("an fd");
        let at_ns = clock::deadline_in(2_000_000);
        alarm.set(at_ns).expect("a timer");
        alarm.wait().expect("a timer");
        assert!(clock::now() >= at_ns);
    }

    #[test]
    fn a_moment_that_has_passed_rings_who_sleeps_already() {
        let alarm = Alarm::new().expect("an fd");
        std::thread::scope(|threads| {
            threads.spawn(|| alarm.wait().expect("a timer"));
            alarm.set(0).expect("a timer");
        });
    }
}
