//! The accounts that broker, drivers, porters and control run under when the machine is served.
//!
//! The broker's memory files belong to an account that no client and no driver has: that is what keeps a read-only
//! export read-only. So there are three, `vgemd`, `vgemd-driver` and `vgemd-control`, which packaging makes. Where they are missing
//! the roles run as the keeper does, and that is said in the log and to `doctor`.
//!
//! A process changes its account itself, between the keeper's fork and the program's start: the keeper starts
//! `vgemd --role account`, which drops groups, gid and uid, asks again to die with its parent (the kernel forgets
//! that at a change of uid), and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};
use vgem_os::process::exit_with_parent;

use crate::cli::{Cli, Mode};
use crate::exit::{Exit, Failure};

const BROKER: &str = "vgemd";
const DRIVER: &str = "vgemd-driver";
const CONTROL: &str = "vgemd-control";

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// Who runs as whom; `None` is as the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Accounts {
    /// The broker.
    pub(super) broker: Option<Account>,
    /// The drivers, and the porters (see there for why).
    pub(super) driver: Option<Account>,
    /// Control: nobody else's, so that what meets callers over a bus can reach neither memory files nor drivers.
    pub(super) control: Option<Account>,
}

impl Accounts {
    /// Looks the accounts up, where they matter.
    pub(super) fn find(mode: Mode) -> Self {
        if mode != Mode::System {
            return Self::default();
        }
        let accounts = Self { broker: lookup(BROKER), driver: lookup(DRIVER), control: lookup(CONTROL) };
        for (name, found) in
            [(BROKER, accounts.broker), (DRIVER, accounts.driver), (CONTROL, accounts.control)]
        {
            if found.is_none() {
                tracing::warn!("no user {name}: its processes run as root; install packaging/vgemd.sysusers");
            }
        }
        accounts
    }

    /// What `doctor` is told.
    pub(super) fn feature(&self) -> String {
        let say = |name, account: Option<Account>| {
            account.map_or(format!("{name} as the keeper"), |a| format!("{name} as uid {}", a.uid))
        };
        let (broker, drivers) = (say("broker", self.broker), say("drivers and porters", self.driver));
        format!("accounts: {broker}, {drivers}, {}", say("control", self.control))
    }
}

/// What is to be started so that `program` runs with `args` under `account`.
pub(super) fn dressed(
    account: Option<Account>,
    program: PathBuf,
    args: Vec<OsString>,
) -> Result<(PathBuf, Vec<OsString>), Failure> {
    let Some(Account { uid, gid }) = account else { return Ok((program, args)) };
    let mut wrapped: Vec<OsString> = vec!["--role".into(), "account".into()];
    wrapped.extend(["--as-uid".into(), uid.to_string().into(), "--as-gid".into(), gid.to_string().into()]);
    wrapped.push("--".into());
    wrapped.push(program.into_os_string());
    wrapped.extend(args);
    Ok((own_program()?, wrapped))
}

/// This very program, by a path that names it for people in process lists.
pub(super) fn own_program() -> Result<PathBuf, Failure> {
    match std::env::current_exe() {
        Ok(path) if path.exists() => Ok(path),
        // Replaced while it runs: what runs is still there under this name.
        Ok(_) => Ok(PathBuf::from("/proc/self/exe")),
        Err(e) => Err(Failure::new(Exit::System, format!("finding this program: {e}; is /proc mounted?"))),
    }
}

/// Changes this process's account and becomes the program.
pub(crate) fn become_and_exec(cli: &Cli) -> Result<(), Failure> {
    let (Some(uid), Some(gid), Some((program, args))) = (cli.as_uid, cli.as_gid, cli.command.split_first())
    else {
        return Err(Failure::new(Exit::Usage, "--role account is for vgemd itself"));
    };
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Failure::new(Exit::Permission, format!("{what} for {}: {e}", program.display()))
    };
    let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    setgroups(&[]).map_err(|e| failed("dropping groups", &e))?;
    setgid(Gid::from_raw(gid)).map_err(|e| failed("changing the group", &e))?;
    setuid(Uid::from_raw(uid)).map_err(|e| failed("changing the user", &e))?;
    exit_with_parent(parent)?;
    let e = Command::new(program).args(args).exec();
    Err(failed("starting", &e))
}

fn lookup(name: &str) -> Option<Account> {
    match User::from_name(name) {
        Ok(user) => user.map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Err(e) => {
            tracing::warn!("looking for user {name}: {e}");
            None
        }
    }
}
