//! Control, the front on a message bus: started if the configuration wants it, and again whenever it ends.
//!
//! ```text
//!   [control] bus ─► address ─► started ──ended──► pause, longer each time, up to a minute ─► started
//! ```
//!
//! Control is nobody's prerequisite: where it cannot be started, or ends, everything else goes on. It is a program of its
//! own, `vgem-control`, beside the drivers, so that the daemon links no bus. Fd [`CONTROL_LINK`] is its link to the broker;
//! the other end goes to the broker and nowhere else, because whoever has it may open sessions for others.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};
use vgem_os::clock;
use vgem_os::process::{Child, Launch};
use vgem_os::seqpacket::Socket;
use vgem_proto::codec::Zero;
use vgem_proto::limits;
use vgem_proto::message::keeper::{ControlExited, ControlStarted};

use super::account::{Account, dressed};
use super::family::{Family, Who, nanos};
use super::link::{Link, LinkError};
use super::start::environment;
use crate::cli::Mode;
use crate::config::Bus;
use crate::exit::{Exit, Failure};

/// The number under which control finds its link to the broker.
const CONTROL_LINK: i32 = 3;
/// The number under which control finds the socket for peers, if there is no bus.
const CONTROL_PEERS: i32 = 4;
/// That socket's name.
const PEERS: &str = "bus.sock";
/// The program.
const PROGRAM: &str = "vgem-control";
/// Where the system's bus is unless DBUS_SYSTEM_BUS_ADDRESS says otherwise.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Pause before it is started again; doubles each time.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause. One that lived for longer begins anew with the shortest.
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Control, if it is wanted.
#[derive(Debug)]
pub(super) struct Control {
    wanted: Option<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    program: PathBuf,
    account: Option<Account>,
    address: String,
    /// Nobody but the one user hears what is said there.
    one_user: bool,
    /// Polkit may be asked there: only on the system's bus is who has polkit's name there polkit.
    polkit: bool,
    /// There is no bus: the socket that callers connect to.
    peers: Option<Peers>,
    filter: String,
    pause: Duration,
    /// When it was started last, CLOCK_MONOTONIC nanoseconds.
    began: u64,
    /// When it is to be started, if it does not run.
    at: Option<u64>,
}

/// A socket that callers connect to without a bus; removed on drop.
#[derive(Debug)]
struct Peers {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Peers {
    /// The socket, made when it is wanted first. Whoever reaches the daemon's directory may connect: its one user.
    fn listener(&mut self) -> Result<OwnedFd, Failure> {
        let failed = |e: std::io::Error| Failure::new(Exit::Place, format!("{}: {e}", self.path.display()));
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => {
                self.remove();
                let listener = UnixListener::bind(&self.path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                listener
            }
        };
        let duplicate = listener.try_clone().map_err(failed)?;
        self.listener = Some(listener);
        Ok(duplicate.into())
    }

    fn remove(&self) {
        if let Err(e) = std::fs::remove_file(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            warn!("{} stays behind: {e}", self.path.display());
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Control {
    /// As the configuration wants it. `drivers`: where the programs beside the daemon are; `dir`: the daemon's directory.
    ///
    /// # Errors
    /// A bus that this mode cannot have.
    pub(super) fn new(
        bus: Option<&Bus>,
        mode: Mode,
        (drivers, dir): (&Path, &Path),
        account: Option<Account>,
        filter: &str,
    ) -> Result<Self, Failure> {
        if mode == Mode::System && bus == Some(&Bus::Peer) {
            let text = "control.bus is \"peer\": that is for a daemon that serves one user, because nothing bounds such callers";
            return Err(Failure::new(Exit::Config, text));
        }
        let program = drivers.join(PROGRAM);
        let usual = if mode == Mode::System && program.exists() { system_if_there() } else { None };
        let one_user = mode != Mode::System && bus != Some(&Bus::System);
        let peers = (bus == Some(&Bus::Peer)).then(|| Peers { path: dir.join(PEERS), listener: None });
        let of_peers = peers.as_ref().map(|peers| format!("unix:path={}", peers.path.display()));
        let address = of_peers.or_else(|| bus.map_or(usual, address));
        Ok(Self {
            wanted: address.map(|address| Wanted {
                program,
                account,
                polkit: mode == Mode::System && address == system(),
                address,
                one_user,
                peers,
                filter: filter.to_owned(),
                pause: PAUSE,
                began: 0,
                at: Some(0),
            }),
        })
    }

    /// None, ever.
    #[cfg(test)]
    pub(super) const fn none() -> Self {
        Self { wanted: None }
    }

    /// Which bus it is for, if it is wanted.
    pub(super) fn bus(&self) -> Option<String> {
        self.wanted.as_ref().map(|wanted| wanted.address.clone())
    }

    /// When it is to be started, CLOCK_MONOTONIC nanoseconds.
    pub(super) fn due(&self) -> Option<u64> {
        self.wanted.as_ref().and_then(|wanted| wanted.at)
    }

    /// Starts it if it is time, and tells the broker.
    pub(super) fn start_if_due(&mut self, family: &mut Family, link: &Link) -> Result<(), LinkError> {
        let now = clock::now();
        let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.at.is_some_and(|at| at <= now)) else {
            return Ok(());
        };
        (wanted.at, wanted.began) = (None, now);
        match wanted.launch() {
            Ok((child, broker)) => {
                let pid = child.pid.unsigned_abs();
                info!("control started as process {pid}, for {}", wanted.address);
                family.adopt(Who::Control, child);
                link.send(&ControlStarted { pid, reserved: Zero }.into(), &[broker.as_fd()])
            }
            Err(failure) => self.ended(&failure.to_string(), link),
        }
    }

    /// It has ended with this code, or by this signal (negative).
    pub(super) fn exited(&mut self, status: i32, link: &Link) -> Result<(), LinkError> {
        self.ended(&format!("status {status}"), link)
    }

    fn ended(&mut self, how: &str, link: &Link) -> Result<(), LinkError> {
        let Some(wanted) = &mut self.wanted else { return Ok(()) };
        let now = clock::now();
        let lived = Duration::from_nanos(now.saturating_sub(wanted.began));
        wanted.pause = if lived > PAUSE_MOST { PAUSE } else { (wanted.pause * 2).min(PAUSE_MOST) };
        wanted.at = Some(now.saturating_add(nanos(wanted.pause)));
        warn!("control ended ({how}); it is started again in {} ms", wanted.pause.as_millis());
        let mut text = how.as_bytes().to_vec();
        text.truncate(limits::TEXT_LEN);
        link.send(&ControlExited { text }.into(), &[])
    }
}

impl Wanted {
    fn launch(&mut self) -> Result<(Child, Socket), Failure> {
        let (broker, theirs) = Socket::pair()?;
        let mut args: Vec<OsString> =
            ["--address", &self.address, "--log", &self.filter].map(Into::into).to_vec();
        args.extend(self.one_user.then(|| "--one-user".into()));
        args.extend(self.polkit.then(|| "--polkit".into()));
        let mut fds = vec![(theirs.into(), CONTROL_LINK)];
        if let Some(peers) = &mut self.peers {
            args.push("--peers".into());
            fds.push((peers.listener()?, CONTROL_PEERS));
        }
        let (program, args) = dressed(self.account, self.program.clone(), args)?;
        let child = Launch {
            program,
            args,
            env: environment(),
            fds,
            die_with_parent: true,
            own_session: true,
            ..Launch::default()
        }
        .start()?;
        Ok((child, broker))
    }
}

/// The address of a bus; nothing if there is to be none.
fn address(bus: &Bus) -> Option<String> {
    match bus {
        Bus::None | Bus::Peer => None,
        Bus::System => Some(system()),
        Bus::Session => Some(session()),
        Bus::At(address) => Some(address.clone()),
    }
}

fn said(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|address| !address.is_empty())
}

fn system() -> String {
    said("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| format!("unix:path={SYSTEM_BUS}"))
}

fn system_if_there() -> Option<String> {
    said("DBUS_SYSTEM_BUS_ADDRESS")
        .or_else(|| Path::new(SYSTEM_BUS).exists().then(|| format!("unix:path={SYSTEM_BUS}")))
}

fn session() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = || said("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}"));
    said("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| format!("unix:path={}/bus", runtime()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_there_is_none_for_one_user() {
        let control =
            Control::new(None, Mode::User, (Path::new("/"), Path::new("/")), None, "info").expect("wanted");
        assert_eq!((control.bus(), control.due()), (None, None));
    }

    #[test]
    fn a_bus_that_is_named_is_wanted_at_once_and_none_never() {
        let bus = |bus: &Bus| {
            Control::new(Some(bus), Mode::User, (Path::new("/"), Path::new("/")), None, "info")
                .expect("wanted")
                .bus()
        };
        assert_eq!(bus(&Bus::At("unix:path=/b".into())).as_deref(), Some("unix:path=/b"));
        assert_eq!(bus(&Bus::None), None);
    }

    // M-250
    #[test]
    fn polkit_is_asked_on_the_systems_bus_and_on_no_other() {
        let asks = |bus: Bus, mode| {
            let control = Control::new(Some(&bus), mode, (Path::new("/"), Path::new("/")), None, "info");
            control.expect("a bus").wanted.expect("wanted").polkit
        };
        assert!(asks(Bus::System, Mode::System) && asks(Bus::At(system()), Mode::System));
        assert!(!asks(Bus::At("unix:path=/b".into()), Mode::System) && !asks(Bus::Session, Mode::System));
        assert!(!asks(Bus::System, Mode::User), "the one user needs nobody's leave");
    }

    #[test]
    fn peers_are_for_a_daemon_of_one_user() {
        let made = |mode| {
            let (programs, dir) = (Path::new("/"), Path::new("/run/x"));
            Control::new(Some(&Bus::Peer), mode, (programs, dir), None, "info").map(|control| control.bus())
        };
        assert_eq!(made(Mode::User).expect("one user"), Some("unix:path=/run/x/bus.sock".into()));
        let refused = made(Mode::System).expect_err("everybody");
        assert_eq!(refused.exit(), Exit::Config);
    }

    #[test]
    fn one_that_cannot_be_started_is_told_to_the_broker_and_tried_later_each_time() {
        let (ours, theirs) = Socket::pair().expect("a pair");
        let link = Link::new(ours).expect("a link");
        let bus = Bus::At("unix:path=/b".into());
        let mut control =
            Control::new(Some(&bus), Mode::User, (Path::new("/nonexistent"), Path::new("/")), None, "info")
                .expect("wanted");
        let none = Launch { args: vec!["-c".into(), "exit 0".into()], ..Launch::new("/bin/sh") };
        let mut family = Family::new(none.start().expect("a shell"));
        let mut pauses = Vec::new();
        for _ in 0..3 {
            control.wanted.as_mut().expect("wanted").at = Some(0);
            control.start_if_due(&mut family, &link).expect("the broker hears");
            pauses.push(control.wanted.as_ref().expect("wanted").pause);
            assert!(control.due().is_some_and(|at| at > clock::now()));
            assert!(theirs.recv_plain(&mut [0; 2048]).is_ok(), "the broker is told");
        }
        assert_eq!(pauses, [PAUSE * 2, PAUSE * 4, PAUSE * 8]);
        family.kill_all();
    }
}
