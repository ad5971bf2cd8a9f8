//! The broker role: the hands of `vgem-core`.
//!
//! ```text
//!   clients ──►  socket ─┐                                        ┌─► reply      (client's socket)
//!   drivers ──►  socket ─┤   one input at a time    effects, in   ├─► ToDriver   (instance's socket)
//!   keeper  ──►  socket ─┼──► Broker::apply ──────► order ───────►├─► Keep, StartInstance (keeper's socket)
//!   pidfds, watches  ────┤                                        ├─► memory, pages, probes: done at once,
//!   deadline  ───────────┘                                        │    their outcome is the next input
//! ```
//!
//! It is one thread around one `epoll`, and that thread owns everything: there is no lock, no queue between
//! tasks, and no wait for a peer. A message is received, applied and passed on before anything else is looked at,
//! so a job reaches its driver one system call after the one that read it. (A relay of tasks over an asynchronous
//! runtime takes 13 us per round trip where this takes 10, all on one core.)
//!
//! What it is not: a place for rules. What a message means and whether it is allowed is decided in `vgem-core`;
//! what is decided here is only how much of a peer's traffic is taken at a time and how much is stored for one
//! that does not read.
//!
//! Invariants:
//! - After confinement it opens no path but `/proc/self/fd/N`, starts no process, receives no fd from a client (M-045):
//!   what porters bring is memory, or the porter is killed.
//! - Sockets are level-triggered and non-blocking; of one peer at most [`poller::TURN`] messages are taken before
//!   all others had their turn.
//! - What is stored for a client that does not read is bounded; for a driver, core's credits bound it.
//! - With nothing to do it sleeps without an end: no timer runs but core's next deadline.

mod callers;
mod carry;
mod clients;
mod control;
mod doormen;
mod events;
mod features;
mod gate;
mod inspect;
mod instances;
mod keeper;
mod known;
mod lingering;
mod link;
mod memory;
mod newcomers;
mod outbox;
mod poller;
mod porters;
#[cfg(test)]
mod rig;
mod serve;
mod shell;
mod turns;
mod unread;

use tracing::{debug, info};
use vgem_core::Broker;
use vgem_core::config::{Config, Policy};
use vgem_os::confine::{self, ConfineSpec};
use vgem_os::seqpacket::{Listener, Socket};
use vgem_os::{process, selftest};

use self::features::Features;
use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::keeper::{BROKER_LINK, BROKER_LISTENER};

/// Files that are the broker's own: links, pages made ahead, fds on their way.
const OWN_FILES: u64 = 2048;

/// Files that domains may cost, where there are several: as the process may have, less some of its own.
fn files(is_one_users: bool) -> Option<u64> {
    let most = process::limits::nofile();
    (!is_one_users).then(|| most.saturating_sub(OWN_FILES.min(most / 4)))
}

/// What no file says of the policy.
#[derive(Debug, Clone, Copy)]
struct Given {
    /// Whom the daemon serves, if that is one user.
    owner: Option<u32>,
    /// Files that the process may open for domains.
    files: Option<u64>,
}

impl Given {
    /// The policy that files say, here.
    fn policy(self, said: &crate::config::Policy) -> Policy {
        let mut policy = said.core();
        policy.owner = self.owner;
        policy.capacity.files = policy.capacity.files.or(self.files);
        policy
    }
}

/// Runs the role to its end.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    crate::log::start(&crate::log::filter(cli.log.as_deref(), "info"), "broker")?;
    let wrong = |e| Failure::new(Exit::Usage, format!("--role broker is for vgemd itself: {e}"));
    let link = Socket::from(process::inherited(BROKER_LINK).map_err(wrong)?);
    let listener = Listener::from_fd(process::inherited(BROKER_LISTENER).map_err(wrong)?)?;
    let told = keeper::hear(&link)?;
    let lease = selftest::lease_self_test()?;
    if let selftest::LeaseSupport::Unusable { why } = &lease {
        tracing::warn!(
            "the lease probe cannot be relied on ({why}): objects are kept until their client goes"
        );
    }
    // A client's fds are refused at the sender where the kernel can; they are never looked at anyway.
    let refuses_fds = listener.set_pass_rights(false)?;
    listener.set_nonblocking(true)?;
    let given = Given { owner: told.setup.prestart, files: files(told.setup.prestart.is_some()) };
    let config = Config {
        devices: told.devices,
        policy: given.policy(&told.setup.policy),
        times: told.setup.times.times(&told.setup.restart),
        bounds: told.setup.restart.bounds(),
    };
    let mut shell = shell::Shell::new(Broker::new(config), given, link, listener, lease.clone())?;
    let confined = confine::broker(&ConfineSpec::default())?;
    debug!("{confined:?}");
    shell.control = control::Control::awaited(&told.setup);
    shell.features =
        Features::found(told.setup.features, told.setup.pin_limit, &lease, refuses_fds, &confined);
    shell.begin(&confined, told.setup.prestart);
    info!("serves, confined: landlock {:?}, {} capabilities left", confined.landlock, confined.caps.len());
    serve::serve(&mut shell)
}
