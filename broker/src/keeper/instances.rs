//! What the broker asks of the keeper: start and kill instances, keep and drop objects.
//!
//! An instance gets its end of the link as fd 3 and nothing else. An object is kept as a duplicate of the broker's
//! own fd, which the lease probe does not see, and pinned as far as `RLIMIT_MEMLOCK` allows.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use tracing::{debug, error, info, warn};
use vgem_os::OsError;
use vgem_os::pin::Pin;
use vgem_os::process::{Child, Launch};
use vgem_os::seqpacket::Socket;
use vgem_proto::codec::Zero;
use vgem_proto::ids::{DeviceId, InstanceId, ObjectKey};
use vgem_proto::limits;
use vgem_proto::message::keeper::{
    Dropped, InstanceExited, InstanceFailed, InstanceStarted, KeeperMessage, Kept,
};

use super::account::{Account, dressed};
use super::drivers::Driver;
use super::family::{Family, Who};
use super::link::{Link, LinkError};
use crate::exit::{Exit, Failure};

/// The number under which a driver finds its end of the link.
const DRIVER_LINK: i32 = 3;

/// Where instances come from, and the objects that are kept.
#[derive(Debug)]
pub(super) struct Instances {
    drivers: BTreeMap<DeviceId, Driver>,
    account: Option<Account>,
    kept: BTreeMap<ObjectKey, KeptObject>,
    said_why_unpinned: bool,
}

/// An object that outlives the broker.
#[derive(Debug)]
struct KeptObject {
    // The pin goes before the fd it was made through.
    _pin: Option<Pin>,
    _fd: OwnedFd,
}

impl Instances {
    /// Instances of these drivers, under this account.
    pub(super) fn new(drivers: BTreeMap<DeviceId, Driver>, account: Option<Account>) -> Self {
        Self { drivers, account, kept: BTreeMap::new(), said_why_unpinned: false }
    }

    /// Does what the broker asks, and answers.
    pub(super) fn carry_out(
        &mut self,
        message: KeeperMessage,
        fds: Vec<OwnedFd>,
        family: &mut Family,
        link: &Link,
    ) -> Result<(), LinkError> {
        match message {
            KeeperMessage::StartInstance(start) => self.start(start.instance, start.device, family, link),
            KeeperMessage::KillInstance(kill) => {
                if !family.kill(Who::Instance(kill.instance)) {
                    debug!("{} was to be killed and has ended already", kill.instance);
                }
                Ok(())
            }
            KeeperMessage::Keep(keep) => {
                let pinned = fds.into_iter().next().map_or(0, |fd| self.keep(keep.object, fd, keep.len));
                link.send(&Kept { object: keep.object, pinned }.into(), &[])
            }
            KeeperMessage::Drop(drop) => {
                self.kept.remove(&drop.object);
                link.send(&Dropped { object: drop.object }.into(), &[])
            }
            other => {
                error!("the broker sent {} out of turn", other.row().name);
                Ok(())
            }
        }
    }

    /// Tells the broker that an instance has ended.
    pub(super) fn exited(instance: InstanceId, status: i32, link: &Link) -> Result<(), LinkError> {
        debug!("{instance} ended: {status}");
        link.send(&InstanceExited { instance, status, reserved: Zero }.into(), &[])
    }

    fn start(
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
