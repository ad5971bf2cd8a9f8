//! What the broker asks of the keeper about porters and doormen: start one, kill one.
//!
//! ```text
//!   client ══ channel ══► porter ══ link ══► broker          both are made here, and nothing of them is kept here
//! ```
//!
//! A porter is this program again, with fd [`PORTER_CHANNEL`] and fd [`PORTER_LINK`] and nothing else. The fds go to
//! the broker, which passes the client's end of the channel on. That end refuses fds: on a channel they go one way
//! only.
//!
//! In system mode a porter runs under the drivers' account, not under the broker's. What it does to an fd (ask for
//! its seals, add some, ask for its state) depends on how the fd was opened and not on who asks, and looking at
//! `/proc/self/fd` works for everybody; but the broker's account owns every object, so a porter that ran under it and was
//! taken over could open a read-only export again for writing.
//!
//! A doorman is started as a porter is, and told of as one.
//!
//! A porter may hang in the kernel beyond a kill. It is then a child like any other, told as ended when it has ended,
//! and nobody waits for it.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use tracing::{debug, warn};
use vgem_os::process::{Child, Launch};
use vgem_os::seqpacket::Socket;
use vgem_proto::codec::Zero;
use vgem_proto::ids::PorterId;
use vgem_proto::limits;
use vgem_proto::message::keeper::{PorterExited, PorterFailed, PorterStarted};

use super::account::{Account, dressed, own_program};
use super::family::{Family, Who};
use super::link::{Link, LinkError};
use crate::exit::Failure;

/// The number under which a porter finds its end of the channel to its client.
pub(crate) const PORTER_CHANNEL: i32 = 3;
/// The number under which a porter finds its end of the link to the broker.
pub(crate) const PORTER_LINK: i32 = 4;

/// Where porters come from.
#[derive(Debug)]
pub(super) struct Porters {
    pub(super) account: Option<Account>,
    /// The program; asked each time, because it may be replaced while it runs.
    pub(super) program: fn() -> Result<PathBuf, Failure>,
    pub(super) args: Vec<OsString>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Porter,
    Doorman,
}

impl Kind {
    const fn role(self) -> &'static str {
        match self {
            Self::Porter => "porter",
            Self::Doorman => "doorman",
        }
    }
}

impl Porters {
    /// Porters under this account that log by this filter.
    pub(super) fn new(account: Option<Account>, filter: &str) -> Self {
        let args = ["--log", filter].map(OsString::from).to_vec();
        Self { account, program: own_program, args }
    }

    /// Starts a porter and tells the broker.
    pub(super) fn start(
        &self,
        kind: Kind,
        porter: PorterId,
        family: &mut Family,
        link: &Link,
    ) -> Result<(), LinkError> {
        match self.launch(kind) {
            Ok(Porter { child, channel, broker }) => {
                debug!("{porter} started as {}, process {}", kind.role(), child.pid);
                let pid = child.pid.unsigned_abs();
                let started = PorterStarted { porter, pid, reserved: Zero }.into();
                let sent = link.send(&started, &[channel.as_fd(), broker.as_fd(), child.as_fd()]);
                family.adopt(Who::Porter(porter), child);
                sent
            }
            Err(failure) => {
                warn!("{porter} cannot be started: {failure}");
                let mut text = failure.to_string().into_bytes();
                text.truncate(limits::TEXT_LEN);
                link.send(&PorterFailed { porter, text }.into(), &[])
            }
        }
    }

    /// Kills a porter.
    pub(super) fn kill(porter: PorterId, family: &Family) {
        if !family.kill(Who::Porter(porter)) {
            debug!("{porter} was to be killed and has ended already");
        }
    }

    /// Tells the broker that a porter has ended.
    pub(super) fn exited(porter: PorterId, status: i32, link: &Link) -> Result<(), LinkError> {
        debug!("{porter} ended: {status}");
        link.send(&PorterExited { porter, status, reserved: Zero }.into(), &[])
    }

    fn launch(&self, kind: Kind) -> Result<Porter, Failure> {
        let (channel, porters_channel) = channel()?;
        let (broker, porters_link) = Socket::pair()?;
        let mut args = self.args.clone();
        args.extend(["--role", kind.role()].map(OsString::from));
        let (program, args) = dressed(self.account, (self.program)()?, args)?;
        let child = Launch {
            program,
            args,
            env: super::start::environment(),
            fds: vec![(porters_channel.into(), PORTER_CHANNEL), (porters_link.into(), PORTER_LINK)],
            die_with_parent: true,
            own_session: true,
            ..Launch::default()
        }
        .start()?;
        Ok(Porter { child, channel, broker })
    }
}

/// A channel: the client's end, which takes no fds, and the porter's, which does.
pub(super) fn channel() -> Result<(Socket, Socket), Failure> {
    let (clients, porters) = Socket::pair()?;
    // Kernels before 6.16 cannot refuse; the porter sends none in any case.
    clients.set_pass_rights(false)?;
    Ok((clients, porters))
}

/// What was started, and the ends that others are to have.
struct Porter {
    child: Child,
    /// The client's end of the channel.
    channel: Socket,
    /// The broker's end of the link.
    broker: Socket,
}
