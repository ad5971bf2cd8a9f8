//! The keeper: starts the broker, the drivers, the porters and control, watches them, ends them, and holds what must outlive
//! them.
//!
//! ```text
//!   configuration ─► place (directory, lock) ─► drivers described ─► socket ─► broker started and set up
//!                                                                                       │ Serving
//!      ┌────────────────────────── watch ◄── ready is told (systemd, lifeline) ◄────────┘
//!      │ a signal, or the lifeline hangs up          the broker ends by itself
//!      ▼                                             ▼
//!   Stop to the broker, drivers get a second      everything is killed, exit code 70
//!      └──────────────► socket, lock and own directory removed ◄┘
//! ```
//!
//! It is not confined, so it never parses a byte that a client sent: its only peer is the broker, whose messages
//! it decodes by the keeper table. One thread does it all, because the kernel ends its children when the *thread* that
//! started them ends, and it sleeps unless a child, the broker, a signal or the lifeline has something for it. A second one
//! pins memory, which takes as long as the memory is large ([`keeping`]).
//!
//! Invariants:
//! - No child outlives it: every one is killed by the kernel with it, and ended and reaped by it when it ends.
//! - What it made in the file system is removed when it ends, also on the way out of a failed start.
//! - A `Drop` is always answered, also for an object it never kept.
//! - Control, the front on a message bus, is nobody's prerequisite: however it ends, it is started again, ever more seldom.
//! - It never waits for a porter: one that the kernel cannot end is left behind, and all such together take a second.

mod account;
mod cgroups;
mod control;
mod doors;
mod drivers;
mod family;
mod features;
mod instances;
mod keeping;
mod link;
mod place;
mod porters;
mod start;
mod systemd;
mod wishes;

use std::os::fd::AsFd as _;
use std::time::Duration;

use tracing::{error, info};
use vgem_os::OsError;
use vgem_os::process::limits;
use vgem_proto::message::keeper::{KeeperMessage, Policy as PolicyMessage, Stop as StopMessage};

pub(crate) use self::account::become_and_exec;
use self::family::{Family, Member, Who};
use self::link::{Link, Received};
use self::place::Place;
pub(crate) use self::porters::{PORTER_CHANNEL, PORTER_LINK};
pub(crate) use self::start::{BROKER_LINK, BROKER_LISTENER};
use self::wishes::Wishes;
use crate::cli::{Cli, Mode};
use crate::config::{Mistakes, Policy};
use crate::exit::{Exit, Failure};

/// How long the broker may take to end when it was asked to.
const BROKER_END: Duration = Duration::from_secs(2);
/// How long drivers may take to end once their links are closed.
const DRIVERS_END: Duration = Duration::from_secs(1);

/// Why something is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// Somebody wants an orderly end.
    Asked(&'static str),
    /// It cannot be gone on with.
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<OsError> for Stop {
    fn from(e: OsError) -> Self {
        Self::Failure(e.into())
    }
}

/// Reads the configuration, asks the drivers what they are, and says what is wrong. Changes nothing and serves nobody.
pub(crate) fn check_config(cli: &Cli) -> Result<(), Failure> {
    let mode = if cli.user { Mode::User } else { Mode::System };
    crate::log::start(&crate::log::filter(cli.log.as_deref(), "warn"), "keeper")?;
    let files = start::files(cli, mode);
    let policy = start::policy(&files)?;
    let wishes = Wishes::new(None)?;
    let drivers = match drivers::find(cli.drivers.as_deref(), &files.config, mode, None, &wishes) {
        Ok(drivers) => drivers,
        Err(Stop::Failure(failure)) => return Err(failure),
        Err(Stop::Asked(_)) => return Ok(()),
    };
    let unknown = policy.unknown(&files, &start::descriptions(&drivers));
    if unknown.is_empty() { Ok(()) } else { Err(Mistakes(unknown).into()) }
}

/// Runs the role to its end.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    let mode = cli.mode(rustix::process::geteuid().as_raw())?;
    let filter = crate::log::filter(cli.log.as_deref(), mode.log());
    crate::log::start(&filter, "keeper")?;
    // From here on a signal is an orderly end, also in the middle of the start.
    let wishes = Wishes::new(match mode {
        Mode::Embedded(fd) => Some(fd),
        Mode::System | Mode::User => None,
    })?;
    // More of both is wanted, but not having it is no reason not to start.
    for raised in [limits::raise_nofile(), limits::raise_memlock()] {
        if let Err(e) = raised {
            tracing::warn!("a limit stays as it is: {e}");
        }
    }
    match keep(cli, mode, &filter, &wishes) {
        Ok(()) => Ok(()),
        Err(Stop::Asked(by)) => {
            info!("not started: {by} wants the end");
            Ok(())
        }
        Err(Stop::Failure(failure)) => Err(failure),
    }
}

/// Starts everything and stays until somebody wants the end.
fn keep(cli: &Cli, mode: Mode, filter: &str, wishes: &Wishes) -> Result<(), Stop> {
    let files = start::files(cli, mode);
    let (config, policy) = (&files.config, start::policy(&files)?);
    let mut place = Place::take(cli.dir.as_deref(), mode)?;
    let accounts = account::Accounts::find(mode);
    let drivers = drivers::find(cli.drivers.as_deref(), config, mode, accounts.driver, wishes)?;
    for mistake in policy.unknown(&files, &start::descriptions(&drivers)) {
        tracing::warn!("{mistake}");
    }
    let listener = place.listen(mode)?;
    let mut keeper =
        start::broker(filter, (config, policy), mode, accounts, drivers, (listener, place.dir()), wishes)?;
    info!("serving on {}", place.socket().display());
    systemd::tell("READY=1");
    let why = match wishes.ready() {
        Ok(()) => keeper.watch(wishes, &|| start::policy(&start::files(cli, mode))),
        Err(failure) => Stop::Failure(failure),
    };
    systemd::tell("STOPPING=1");
    Ok(keeper.end(why)?)
}

/// The role while it serves.
#[derive(Debug)]
struct Keeper {
    link: Link,
    family: Family,
    instances: instances::Instances,
    keeping: keeping::Keeping,
    porters: porters::Porters,
    control: control::Control,
    doors: doors::Doors,
}

impl Keeper {
    /// Serves the broker until it ends, or somebody wants the end.
    ///
    /// `policy` reads the configuration again.
    fn watch(&mut self, wishes: &Wishes, policy: &dyn Fn() -> Result<Policy, Failure>) -> Stop {
        let broker = |how: &dyn std::fmt::Display| {
            Stop::Failure(Failure::new(Exit::Internal, format!("the broker {how}")))
        };
        loop {
            if let Err(e) = self.control.start_if_due(&mut self.family, &self.link) {
                return broker(&e);
            }
            // The link comes last, so that the end of a child is seen also while the broker has much to say.
            let fds: Vec<_> = self.family.fds().chain([self.link.as_fd()]).collect();
            let ready = match wishes.wait(&fds, self.control.due()) {
                Ok(ready) => ready,
                Err(stop) => return stop,
            };
            if wishes.takes_reread()
                && let Err(e) = self.reread(policy)
            {
                return broker(&e);
            }
            let (link, children) = ready.split_last().unwrap_or((&false, &[]));
            if children.contains(&true) {
                for member in self.family.ended() {
                    let told = match member {
                        Member::Broker(status) => return broker(&format!("ended ({status})")),
                        Member::Other(Who::Instance(instance), status) => {
                            instances::Instances::exited(instance, status, &self.link)
                        }
                        Member::Other(Who::Porter(porter), status) => {
                            porters::Porters::exited(porter, status, &self.link)
                        }
                        Member::Other(Who::Control, status) => self.control.exited(status, &self.link),
                    };
                    if let Err(e) = told {
                        return broker(&e);
                    }
                }
            }
            if *link {
                match self.hear() {
                    Ok(true) => {}
                    Ok(false) => return broker(&"closed its link"),
                    Err(e) => return broker(&e),
                }
            }
        }
    }

    /// Reads the configuration again and tells the broker. Where something is wrong in it, nothing changes.
    fn reread(&self, policy: &dyn Fn() -> Result<Policy, Failure>) -> Result<(), link::LinkError> {
        systemd::tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", vgem_os::clock::now() / 1000));
        let json = policy().and_then(|policy| policy.json());
        let told = match json {
            Ok(json) => {
                info!("the configuration was read again");
                self.link.send(&PolicyMessage { json }.into(), &[])
            }
            Err(failure) => {
                error!("the configuration was read again and nothing changes: {failure}");
                Ok(())
            }
        };
        systemd::tell("READY=1");
        told
    }

    /// Does what the broker asks; false if it closed its link.
    fn hear(&mut self) -> Result<bool, link::LinkError> {
        match self.link.receive()? {
            Received::Message(message, fds) => {
                match message {
                    KeeperMessage::StartInstance(start) => {
                        self.instances.start(start.instance, start.device, &mut self.family, &self.link)?;
                    }
                    KeeperMessage::KillInstance(kill) => {
                        instances::Instances::kill(kill.instance, &self.family);
                    }
                    KeeperMessage::Keep(keep) => self.keeping.keep(keep, fds)?,
                    KeeperMessage::Drop(drop) => self.keeping.drop(drop)?,
                    KeeperMessage::StartPorter(start) => {
                        let kind = porters::Kind::Porter;
                        self.porters.start(kind, start.porter, &mut self.family, &self.link)?;
                    }
                    KeeperMessage::StartDoorman(start) => {
                        let kind = porters::Kind::Doorman;
                        self.porters.start(kind, start.porter, &mut self.family, &self.link)?;
                    }
                    KeeperMessage::KillPorter(kill) => porters::Porters::kill(kill.porter, &self.family),
                    KeeperMessage::OpenDoor(open) => self.doors.open(open.domain, &open.name, &self.link)?,
                    KeeperMessage::FindCgroup(find) => cgroups::answer(find.question, &fds, &self.link)?,
                    KeeperMessage::CloseDoor(close) => self.doors.close(close.domain),
                    other => error!("the broker sent {} out of turn", other.row().name),
                }
                Ok(true)
            }
            Received::Nothing => Ok(true),
            Received::Closed => Ok(false),
        }
    }

    /// Ends everybody, and says how that went.
    fn end(mut self, why: Stop) -> Result<(), Failure> {
        match why {
            Stop::Asked(by) => {
                info!("ending: {by} wants it");
                let stop = KeeperMessage::from(StopMessage {});
                if let Err(e) = self.link.send(&stop, &[]) {
                    tracing::debug!("the broker does not hear of the end: {e}");
                }
                self.family.broker_ends(BROKER_END);
                self.family.others_end(DRIVERS_END);
                Ok(())
            }
            Stop::Failure(failure) => {
                error!("{failure}: ending everybody");
                let status = self.family.kill_all();
                let seen = status.map_or(String::new(), |status| format!(" ({status})"));
                Err(Failure::new(failure.exit(), format!("{failure}{seen}; start vgemd again")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
