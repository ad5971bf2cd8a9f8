//! The keeper's children: the broker and the driver instances.
//!
//! Each is known by its pidfd, is waited for exactly once, and never for longer than was said: a process that the
//! kernel cannot end now is left behind with a line in the log, and the keeper goes on.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use vgem_os::clock;
use vgem_os::process::Child;
use vgem_proto::ids::InstanceId;

use super::wishes::wait_undisturbed;

/// How long a killed process may take to be gone.
const KILLED_END: Duration = Duration::from_secs(1);

/// A child that has ended.
#[derive(Debug)]
pub(super) enum Member {
    /// The broker.
    Broker(ExitStatus),
    /// An instance, with its exit code or the negative number of the signal that ended it.
    Instance(InstanceId, i32),
}

/// All children.
#[derive(Debug)]
pub(super) struct Family {
    broker: Option<Child>,
    instances: BTreeMap<InstanceId, Child>,
}

impl Family {
    /// With the broker, and no instance yet.
    pub(super) fn new(broker: Child) -> Self {
        Self { broker: Some(broker), instances: BTreeMap::new() }
    }

    /// Takes an instance in.
    pub(super) fn adopt(&mut self, instance: InstanceId, child: Child) {
        if let Some(mut other) = self.instances.insert(instance, child) {
            tracing::error!("{instance} was started twice; ending the first");
            end_now(&mut other);
        }
    }

    /// Kills an instance; false if there is none.
    pub(super) fn kill(&self, instance: InstanceId) -> bool {
        self.instances.get(&instance).inspect(|child| kill(child)).is_some()
    }

    /// What becomes readable when a child ends.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.instances.values().chain(&self.broker).map(Child::as_fd)
    }

    /// The children that have ended; they are no longer of the family.
    pub(super) fn ended(&mut self) -> Vec<Member> {
        let mut ended = Vec::new();
        self.instances.retain(|instance, child| match status(child) {
            Some(status) => {
                ended.push(Member::Instance(*instance, number(status)));
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
        if end(&mut broker, within).is_none() {
            tracing::warn!("the broker did not end when asked to; killing it");
            end_now(&mut broker);
        }
    }

    /// Waits for the instances, whose links are closed, and kills those that take too long.
    pub(super) fn instances_end(&mut self, within: Duration) {
        let deadline = clock::deadline_in(nanos(within));
        for child in self.instances.values_mut() {
            let left = Duration::from_nanos(deadline.saturating_sub(clock::now()));
            if end(child, left).is_none() {
                tracing::warn!("process {} did not end when its link was closed; killing it", child.pid);
                kill(child);
            }
        }
        self.kill_all();
    }

    /// Kills everybody and waits until they are gone; how the broker ended.
    pub(super) fn kill_all(&mut self) -> Option<ExitStatus> {
        self.instances.values().chain(&self.broker).for_each(kill);
        for mut child in std::mem::take(&mut self.instances).into_values() {
            end_now(&mut child);
        }
        self.broker.take().and_then(|mut broker| end_now(&mut broker))
    }
}

/// Kills a process and waits until it is gone; how it ended, if it does.
pub(super) fn end_now(child: &mut Child) -> Option<ExitStatus> {
    if let Some(status) = status(child) {
        return Some(status);
    }
    kill(child);
    let ended = end(child, KILLED_END);
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

/// Waits for a process to end.
fn end(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    if let Err(e) = wait_undisturbed(&[child.as_fd()], clock::deadline_in(nanos(within))) {
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
