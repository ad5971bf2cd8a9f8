//! The keeper's children: the broker, the driver instances, the porters, control.
//!
//! Each is known by its pidfd, is waited for exactly once, and never for longer than was said: a process that the
//! kernel cannot end now is left behind with a line in the log, and the keeper goes on. However many such processes
//! there are, they share one time: porters hold what strangers handed them, and all of them may hang at once.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use vgem_os::clock;
use vgem_os::process::Child;
use vgem_proto::ids::{InstanceId, PorterId};

use super::wishes::wait_undisturbed;

/// How long processes that were killed may take to be gone, all of them together.
const KILLED_END: Duration = Duration::from_secs(1);

/// A child beside the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A driver instance.
    Instance(InstanceId),
    /// A porter.
    Porter(PorterId),
    /// Control.
    Control,
}

/// A child that has ended.
#[derive(Debug)]
pub(super) enum Member {
    /// The broker.
    Broker(ExitStatus),
    /// Another, with its exit code or the negative number of the signal that ended it.
    Other(Who, i32),
}

/// All children.
#[derive(Debug)]
pub(super) struct Family {
    broker: Option<Child>,
    others: BTreeMap<Who, Child>,
}

impl Family {
    /// With the broker, and nobody else yet.
    pub(super) fn new(broker: Child) -> Self {
        Self { broker: Some(broker), others: BTreeMap::new() }
    }

    /// Takes a child in.
    pub(super) fn adopt(&mut self, who: Who, child: Child) {
        if let Some(mut other) = self.others.insert(who, child) {
            tracing::error!("{who} was started twice; ending the first");
            end_now(&mut other);
        }
    }

    /// Kills a child; false if there is none.
    pub(super) fn kill(&self, who: Who) -> bool {
        self.others.get(&who).inspect(|child| kill(child)).is_some()
    }

    /// What becomes readable when a child ends.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.others.values().chain(&self.broker).map(Child::as_fd)
    }

    /// The children that have ended; they are no longer of the family.
    pub(super) fn ended(&mut self) -> Vec<Member> {
        let mut ended = Vec::new();
        self.others.retain(|who, child| match status(child) {
            Some(status) => {
                ended.push(Member::Other(*who, number(status)));
                false
            }
            None => true,
        });
        if let Some(status) = self.broker.as_mut().and_then(status) {
            self.broker = None;
            ended.push(Member::Broker(status));
        }
        ended
    }

    /// Waits for the broker, which was asked to end, and kills it if it takes too long.
    pub(super) fn broker_ends(&mut self, within: Duration) {
        let Some(mut broker) = self.broker.take() else { return };
        if end(&mut broker, clock::deadline_in(nanos(within))).is_none() {
            tracing::warn!("the broker did not end when asked to; killing it");
            end_now(&mut broker);
        }
    }

    /// Ends everybody else: waits for the instances, whose links are closed, and kills those that take too long, and
    /// the porters and control, which have nothing to bring to an end.
    pub(super) fn others_end(&mut self, within: Duration) {
        let deadline = clock::deadline_in(nanos(within));
        for (who, child) in &mut self.others {
            if matches!(who, Who::Instance(_)) && end(child, deadline).is_none() {
                tracing::warn!("{who} did not end when its link was closed; killing it");
                kill(child);
            }
        }
        self.kill_all();
    }

    /// Kills everybody and waits until they are gone, or the kernel has held them for long enough; how the broker
    /// ended.
    pub(super) fn kill_all(&mut self) -> Option<ExitStatus> {
        self.others.values().chain(&self.broker).for_each(kill);
        self.gone(KILLED_END)
    }

    /// Waits for everybody, all together for as long as `within`; how the broker ended.
    fn gone(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = clock::deadline_in(nanos(within));
        let broker = self.broker.take().and_then(|mut broker| killed(&mut broker, deadline));
        for mut child in std::mem::take(&mut self.others).into_values() {
            killed(&mut child, deadline);
        }
        broker
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(instance) => instance.fmt(f),
            Self::Porter(porter) => porter.fmt(f),
            Self::Control => f.write_str("control"),
        }
    }
}

/// Kills a process and waits until it is gone; how it ended, if it does.
pub(super) fn end_now(child: &mut Child) -> Option<ExitStatus> {
    if let Some(status) = status(child) {
        return Some(status);
    }
    kill(child);
    killed(child, clock::deadline_in(nanos(KILLED_END)))
}

/// Waits until a process that was killed is gone; how it ended, if it does.
fn killed(child: &mut Child, deadline: u64) -> Option<ExitStatus> {
    let ended = end(child, deadline);
    if ended.is_none() {
        tracing::error!("process {} does not end though it was killed: the kernel holds it", child.pid);
    }
    ended
}

/// How a process has ended, if it has.
pub(super) fn status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().unwrap_or_else(|e| {
        // Not ours to wait for any more: it is gone, and its status with it.
        tracing::error!("{e}");
        Some(ExitStatus::from_raw(0))
    })
}

/// Waits for a process to end, until `deadline` (CLOCK_MONOTONIC, nanoseconds).
fn end(child: &mut Child, deadline: u64) -> Option<ExitStatus> {
    if let Err(e) = wait_undisturbed(&[child.as_fd()], deadline) {
        tracing::error!("{e}");
    }
    status(child)
}

fn kill(child: &Child) {
    if let Err(e) = child.kill() {
        tracing::error!("{e}");
    }
}

/// The exit code, or the negative number of the signal.
fn number(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or(-1)
}

/// Nanoseconds of a short time.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use vgem_os::process::Launch;

    use super::*;

    /// A shell that waits until the other end of its fd is closed.
    fn waits(end: &UnixStream) -> Child {
        let fds = vec![(end.try_clone().expect("an fd").into(), 3)];
        let args = vec!["-c".into(), "read end <&3".into()];
        Launch { args, fds, ..Launch::new("/bin/sh") }.start().expect("a shell")
    }

    #[test]
    fn processes_that_do_not_end_are_waited_for_once_all_together() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut family = Family::new(waits(&theirs));
        for porter in 0..8 {
            family.adopt(Who::Porter(PorterId(porter)), waits(&theirs));
        }
        drop(theirs);
        let began = clock::now();
        // Nobody has killed them: they live as one does that the kernel holds.
        assert_eq!(family.gone(Duration::from_millis(100)), None);
        let took = clock::now() - began;
        assert!((100_000_000..500_000_000).contains(&took), "{took} ns");
        drop(ours);
    }
}
