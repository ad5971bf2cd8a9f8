//! Starting a process with exactly the fds it is to have.
//!
//! The standard library forks and execs; what it lacks is added between the two: fds at given numbers, nothing
//! else passed on, death with the parent. See U8 for what may happen there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use nix::libc;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::error::{Attempt, OsError, Result, uninterrupted};

/// Where the standard output and the standard error of a child go.
#[derive(Debug, Default)]
pub enum Output {
    /// To where this process's go.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
    /// To a pipe, readable at the [`Child`].
    Pipe,
    /// To this file.
    File(OwnedFd),
}

/// A process to be started. Its environment is exactly `env`; its standard input is empty.
#[derive(Debug, Default)]
pub struct Launch {
    /// The program, by path.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Fds and the numbers (3 and above, all different) under which the child finds them. All other fds are closed.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// True: the kernel kills it when the thread that starts it is gone.
    pub die_with_parent: bool,
    /// True: it leads a session of its own. It hears no signals of a terminal, and where the scheduler groups tasks by
    /// session (autogroup) it has the share of a group.
    pub own_session: bool,
}

impl Launch {
    /// A program without arguments, environment or fds.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    /// Starts it.
    ///
    /// # Errors
    /// `EINVAL` for a target below 3 or given twice; the errno of `fork` or `exec`: `ENOENT` if there is no such
    /// program; `EMFILE` for its pidfd, in which case it was killed again.
    pub fn start(self) -> Result<Child> {
        let targets = self.targets()?;
        let highest = targets.last().copied().unwrap_or(2);
        // Sources are first moved above every target, so that placing one never overwrites another.
        let mut sources = Vec::with_capacity(self.fds.len());
        for (fd, target) in &self.fds {
            let above = rustix::io::fcntl_dupfd_cloexec(fd, highest + 1).attempt("fcntl(F_DUPFD_CLOEXEC)")?;
            sources.push((above, *target));
        }
        let held = held(&sources)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env).stdin(Stdio::null());
        command.stdout(stdio(self.stdout)).stderr(stdio(self.stderr));
        let plan = Plan {
            places: sources.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect(),
            gaps: gaps(&targets),
            parent: self.die_with_parent.then(std::process::id),
            own_session: self.own_session,
        };
        // SAFETY: U8. `carry_out` makes system calls on numbers computed before the fork, and nothing else.
        unsafe { command.pre_exec(move || plan.carry_out()) };
        let spawned = command.spawn().attempting("spawn", || self.program.display().to_string());
        drop((sources, held));
        Child::of(spawned?)
    }

    fn targets(&self) -> Result<BTreeSet<RawFd>> {
        let targets: BTreeSet<RawFd> = self.fds.iter().map(|(_, target)| *target).collect();
        let low = targets.first().is_some_and(|first| *first <= 2);
        if low || targets.len() != self.fds.len() || targets.contains(&RawFd::MAX) {
            let asked: Vec<RawFd> = self.fds.iter().map(|(_, target)| *target).collect();
            let detail = format!("targets {asked:?} must differ and be 3 or above");
            return Err(OsError::with_detail("launch", Errno::INVAL, detail));
        }
        Ok(targets)
    }
}

/// A process that was started. Dropping it neither kills nor reaps it.
#[derive(Debug)]
pub struct Child {
    /// Its pid. Not used again before it was waited for.
    pub pid: i32,
    /// The process itself; readable when it has ended.
    pub pidfd: OwnedFd,
    child: std::process::Child,
}

impl Child {
    fn of(mut child: std::process::Child) -> Result<Self> {
        let raw = i32::try_from(child.id()).unwrap_or(0);
        let pid = Pid::from_raw(raw).ok_or_else(|| OsError::new("pidfd_open", Errno::SRCH))?;
        // Not reaped yet, so the pid is still this process.
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()).attempt("pidfd_open") {
            Ok(pidfd) => Ok(Self { pid: raw, pidfd, child }),
            Err(error) => {
                // Without its pidfd nobody could look after it.
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// Kills it with `SIGKILL`. Done already is fine.
    ///
    /// # Errors
    /// The errno of `pidfd_send_signal` other than `ESRCH`.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end with `SIGTERM`. Done already is fine.
    ///
    /// # Errors
    /// As [`Child::kill`].
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The errno of `waitid`.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().attempting("waitid", || format!("pid {}", self.pid))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// The errno of `waitid`.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().attempting("waitid", || format!("pid {}", self.pid))
    }

    /// Waits until it has ended, without reaping it.
    ///
    /// # Errors
    /// The errno of `waitid`.
    pub fn ended(&self) -> Result<()> {
        let options = WaitIdOptions::EXITED.union(WaitIdOptions::NOWAIT);
        uninterrupted(|| rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options))
            .map(drop)
            .attempting("waitid", || format!("pid {}", self.pid))
    }

    /// The reading end of its standard output, once, if it was launched with [`Output::Pipe`].
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.child.stdout.take().map(OwnedFd::from)
    }

    /// The reading end of its standard error, once, if it was launched with [`Output::Pipe`].
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.child.stderr.take().map(OwnedFd::from)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(OsError::with_detail("pidfd_send_signal", errno, format!("pid {}", self.pid))),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What the child does between fork and exec, in numbers computed before.
#[derive(Debug)]
struct Plan {
    places: Vec<(RawFd, RawFd)>,
    gaps: Vec<(libc::c_uint, libc::c_uint)>,
    parent: Option<u32>,
    own_session: bool,
}

impl Plan {
    fn carry_out(&self) -> std::io::Result<()> {
        if let Some(parent) = self.parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            let now = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
            if u32::try_from(now) != Ok(parent) {
                return Err(Errno::SRCH.into());
            }
        }
        if self.own_session {
            // It leads no group yet, which is all that could fail.
            rustix::process::setsid()?;
        }
        for (source, target) in &self.places {
            // SAFETY: U8. Both are numbers; the target was held for this, and is nothing this image will use again.
            if unsafe { libc::dup2(*source, *target) } == -1 {
                return Err(std::io::Error::last_os_error());
            }
        }
        for (first, last) in &self.gaps {
            // Closed by exec, not now: the standard library still needs its own pipe. A kernel without the call
            // (before 5.11) leaves it to every fd's own close-on-exec flag.
            // SAFETY: U8. Plain numbers, and a flag changes on fds that exec is about to close.
            unsafe {
                libc::syscall(libc::SYS_close_range, *first, *last, libc::CLOSE_RANGE_CLOEXEC);
            }
        }
        Ok(())
    }
}

/// Occupies the targets that are free in this process, until the child has its own. The standard library opens a pipe
/// by which it hears of a failed exec, at the lowest free numbers, and the child must not find its end at a target: then
/// a passed fd would take its place and get what was to be said there, and the failure would pass for a start. (A target
/// that another thread has open, and closes just then, cannot be held.)
fn held(sources: &[(OwnedFd, RawFd)]) -> Result<Vec<OwnedFd>> {
    let mut held = Vec::with_capacity(sources.len());
    for (source, target) in sources {
        let at = rustix::io::fcntl_dupfd_cloexec(source, *target).attempt("fcntl(F_DUPFD_CLOEXEC)")?;
        if at.as_raw_fd() == *target {
            held.push(at);
        }
    }
    Ok(held)
}

/// The ranges of fd numbers from 3 on that are not targets.
fn gaps(targets: &BTreeSet<RawFd>) -> Vec<(libc::c_uint, libc::c_uint)> {
    let mut gaps = Vec::new();
    let mut next = 3;
    for target in targets.iter().map(|target| target.unsigned_abs()) {
        if next < target {
            gaps.push((next, target - 1));
        }
        next = target + 1;
    }
    gaps.push((next, libc::c_uint::MAX));
    gaps
}

fn stdio(output: Output) -> Stdio {
    match output {
        Output::Inherit => Stdio::inherit(),
        Output::Null => Stdio::null(),
        Output::Pipe => Stdio::piped(),
        Output::File(fd) => Stdio::from(fd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_all_numbers_but_the_targets() {
        let targets = BTreeSet::from([4, 5, 9]);
        assert_eq!(gaps(&targets), [(3, 3), (6, 8), (10, u32::MAX)]);
    }
}
