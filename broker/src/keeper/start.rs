//! Starting the broker and telling it what it needs, until it serves.
//!
//! ```text
//!   keeper ──► Setup, Device.., Serve ──► broker     opens what it needs, tests the lease probe, confines itself
//!          ◄────────────── Serving ◄──────────
//! ```
//!
//! The broker finds its link as fd [`BROKER_LINK`] and the listening socket as fd [`BROKER_LISTENER`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vgem_os::clock;
use vgem_os::process::Launch;
use vgem_os::seqpacket::{Listener, Socket};
use vgem_proto::describe::Description;
use vgem_proto::ids::DeviceId;
use vgem_proto::message::keeper::{Device, KeeperMessage, Serve, Setup as SetupMessage};

use super::account::{Accounts, dressed, own_program};
use super::control::Control;
use super::doors::Doors;
use super::drivers::Driver;
use super::family::{Family, nanos};
use super::instances::Instances;
use super::keeping::Keeping;
use super::link::{Link, Received};
use super::porters::Porters;
use super::wishes::Wishes;
use super::{Keeper, Stop, features};
use crate::cli::{Cli, Mode};
use crate::config::{Config, Files, Policy};
use crate::exit::{Exit, Failure};
use crate::setup::Setup;

/// The number under which the broker finds its link to the keeper.
pub(crate) const BROKER_LINK: i32 = 3;
/// The number under which the broker finds the socket that clients connect to.
pub(crate) const BROKER_LISTENER: i32 = 4;
/// How long the broker may take until it serves.
const BROKER_START: Duration = Duration::from_secs(10);

/// Reads the configuration of a mode.
pub(super) fn files(cli: &Cli, mode: Mode) -> Files {
    if let Some(file) = &cli.config {
        return Files::read(file, true);
    }
    let usual = match mode {
        Mode::System => Some(PathBuf::from("/etc")),
        Mode::User => std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
            .filter(|dir| dir.is_absolute()),
        // Its process says what it wants; what a user configured for a daemon is not meant for it.
        Mode::Embedded(_) => None,
    };
    usual.map(|dir| Files::read(&dir.join("vgemd/vgemd.toml"), false)).unwrap_or_default()
}

/// The policy that files say, if nothing in them is wrong.
pub(super) fn policy(files: &Files) -> Result<Policy, Failure> {
    let mut mistakes = files.mistakes.clone();
    match Policy::of(files) {
        Ok(policy) if mistakes.0.is_empty() => policy.json().map(|_| policy),
        Ok(_) => Err(mistakes.into()),
        Err(more) => {
            mistakes.0.extend(more);
            Err(mistakes.into())
        }
    }
}

/// The devices, as their drivers describe them.
pub(super) fn descriptions(drivers: &BTreeMap<DeviceId, Driver>) -> Vec<Description> {
    drivers.values().filter_map(|driver| Description::decode(&driver.description).ok()).collect()
}

/// What every child may see of our environment.
pub(super) fn environment() -> Vec<(OsString, OsString)> {
    let seen = ["RUST_BACKTRACE", crate::log::STREAM];
    seen.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect()
}

/// Starts the broker and waits until it serves.
pub(super) fn broker(
    filter: &str,
    (config, policy): (&Config, Policy),
    mode: Mode,
    accounts: Accounts,
    drivers: BTreeMap<DeviceId, Driver>,
    (listener, dir): (Listener, &Path),
    wishes: &Wishes,
) -> Result<Keeper, Stop> {
    let programs = drivers.values().next().and_then(|one| one.program.parent()).unwrap_or(Path::new("/"));
    let programs = programs.to_owned();
    let control =
        Control::new(config.control.bus.as_ref(), mode, (&programs, dir), accounts.control, filter)?;
    let (ours, theirs) = Socket::pair()?;
    let args = vec!["--role".into(), "broker".into(), "--log".into(), filter.into()];
    let (program, args) = dressed(accounts.broker, own_program()?, args)?;
    let child = Launch {
        program,
        args,
        env: environment(),
        fds: vec![(theirs.into(), BROKER_LINK), (listener.into(), BROKER_LISTENER)],
        die_with_parent: true,
        own_session: true,
        ..Launch::default()
    }
    .start()?;
    let mut family = Family::new(child);
    let setup = Setup {
        policy,
        times: config.times,
        restart: config.restart,
        prestart: match mode {
            Mode::System => None,
            Mode::User | Mode::Embedded(_) => Some(rustix::process::geteuid().as_raw()),
        },
        features: features::lines(&accounts),
        pin_limit: features::pin_limit(),
        control: control.bus(),
        administration: config.control.administration.unwrap_or(true),
    };
    let told = Link::new(ours).map_err(Stop::from).and_then(|mut link| {
        tell(&mut link, &setup, &drivers, wishes)?;
        let keeping = Keeping::start(link.voice())?;
        Ok((link, keeping))
    });
    match told {
        Ok((link, keeping)) => Ok(Keeper {
            link,
            keeping,
            family,
            instances: Instances::new(drivers, accounts.driver),
            porters: Porters::new(accounts.driver, filter),
            control,
            doors: Doors::below(dir),
        }),
        Err(Stop::Failure(failure)) => {
            let status = family.kill_all();
            let seen = status.map_or(String::new(), |status| format!(" ({status})"));
            let text = format!("{failure}{seen}; what it said before says why");
            Err(Failure::new(failure.exit(), text).into())
        }
        Err(asked) => {
            family.kill_all();
            Err(asked)
        }
    }
}

pub(super) fn tell(
    link: &mut Link,
    setup: &Setup,
    drivers: &BTreeMap<DeviceId, Driver>,
    wishes: &Wishes,
) -> Result<(), Stop> {
    let failed = |how: &dyn std::fmt::Display| Failure::new(Exit::Internal, format!("the broker {how}"));
    let json = serde_json::to_vec(setup).map_err(|e| failed(&format!("cannot be set up: {e}")))?;
    link.send(&SetupMessage { json }.into(), &[]).map_err(|e| failed(&e))?;
    for (device, driver) in drivers {
        let description = driver.description.clone();
        link.send(&Device { device: *device, description }.into(), &[]).map_err(|e| failed(&e))?;
    }
    link.send(&Serve {}.into(), &[]).map_err(|e| failed(&e))?;
    let deadline = clock::deadline_in(nanos(BROKER_START));
    if !wishes.wait(&[link.as_fd()], Some(deadline))?.contains(&true) {
        return Err(failed(&format!("does not serve after {} s", BROKER_START.as_secs())).into());
    }
    match link.receive().map_err(|e| failed(&e))? {
        Received::Message(KeeperMessage::Serving(_), _) => Ok(()),
        Received::Message(other, _) => {
            Err(failed(&format!("said {} before it served", other.row().name)).into())
        }
        Received::Nothing | Received::Closed => Err(failed(&"ended before it served").into()),
    }
}
