//! Instances that the broker has started and killed. Each gets its end of the link as fd 3 and nothing else.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use tracing::{debug, info, warn};
use vgem_os::process::{Child, Launch};
use vgem_os::seqpacket::Socket;
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, InstanceId};
use vgem_proto::limits;
use vgem_proto::message::keeper::{InstanceExited, InstanceFailed, InstanceStarted};

use super::account::{Account, dressed};
use super::drivers::Driver;
use super::family::{Family, Who};
use super::link::{Link, LinkError};
use crate::exit::{Exit, Failure};

/// The number under which a driver finds its end of the link.
const DRIVER_LINK: i32 = 3;

/// Where instances come from.
#[derive(Debug)]
pub(super) struct Instances {
    drivers: BTreeMap<DeviceId, Driver>,
    account: Option<Account>,
}

impl Instances {
    /// Instances of these drivers, under this account.
    pub(super) const fn new(drivers: BTreeMap<DeviceId, Driver>, account: Option<Account>) -> Self {
        Self { drivers, account }
    }

    /// Kills an instance.
    pub(super) fn kill(instance: InstanceId, family: &Family) {
        if !family.kill(Who::Instance(instance)) {
            debug!("{instance} was to be killed and has ended already");
        }
    }

    /// Tells the broker that an instance has ended.
    pub(super) fn exited(instance: InstanceId, status: i32, link: &Link) -> Result<(), LinkError> {
        debug!("{instance} ended: {status}");
        link.send(&InstanceExited { instance, status, reserved: Zero }.into(), &[])
    }

    /// Starts an instance, and answers.
    pub(super) fn start(
        &self,
        instance: InstanceId,
        device: DeviceId,
        family: &mut Family,
        link: &Link,
    ) -> Result<(), LinkError> {
        match self.launch(instance, device) {
            Ok((child, socket)) => {
                let pid = child.pid.unsigned_abs();
                let started = InstanceStarted { instance, pid, reserved: Zero }.into();
                let sent = link.send(&started, &[socket.as_fd(), child.as_fd()]);
                family.adopt(Who::Instance(instance), child);
                sent
            }
            Err(failure) => {
                warn!("{instance} cannot be started: {failure}");
                let mut text = failure.to_string().into_bytes();
                text.truncate(limits::TEXT_LEN);
                link.send(&InstanceFailed { instance, text }.into(), &[])
            }
        }
    }

    /// Starts a process for an instance: it, and the broker's end of its link.
    fn launch(&self, instance: InstanceId, device: DeviceId) -> Result<(Child, Socket), Failure> {
        let Some(driver) = self.drivers.get(&device) else {
            return Err(Failure::new(Exit::Unavailable, format!("there is no {device}")));
        };
        let (ours, theirs) = Socket::pair()?;
        let (program, args) = dressed(self.account, driver.program.clone(), driver.args.clone())?;
        let child = Launch {
            program,
            args,
            env: super::start::environment(),
            fds: vec![(theirs.into(), DRIVER_LINK)],
            die_with_parent: true,
            own_session: true,
            ..Launch::default()
        }
        .start()?;
        info!("{instance} of {} started as process {}", driver.name, child.pid);
        Ok((child, ours))
    }
}
