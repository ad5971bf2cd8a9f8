//! Control's link: sessions for those who call over a message bus.
//!
//! ```text
//!   ControlStarted ─► up ── it sends what it must not, or ends ─► down ── ControlStarted ─► up
//!                      └── OpenSession ─► a pair of sockets: one end is a connection, the other goes to control
//! ```
//!
//! Whoever has the other end of this link may name anybody, so there is only one, which the keeper makes and hands to
//! the process it starts. What is opened so belongs to the user that is named, and administers only if control says that
//! this user may and the configuration lets anybody over the bus; see chapter 18 of
//! `proto/SPEC.md`. It is read like a client, a few messages at a time, and a session is a connection like any other: it
//! stays when control goes, if somebody else has it.

use std::os::fd::OwnedFd;

use tracing::{Level, debug, info, warn};
use vgem_core::io::{PeerFacts, Way};
use vgem_os::OsError;
use vgem_os::seqpacket::{Packet as Received, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Time};
use vgem_proto::limits;
use vgem_proto::message::control::{ControlMessage, OpenSession, SessionOpened, SessionRefused};
use vgem_proto::message::{ADMINISTERS, CONTROLS_OWN, Sender};

use super::carry::random;
use super::link::Link;
use super::outbox::{CLIENT_BYTES, Packet};
use super::poller::{Source, TURN};
use super::shell::Shell;
use crate::setup::Setup;

/// Whose a session is (M-253).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// A caller's.
    Callers,
    /// A caller's who may, to administer.
    Administers,
    /// Control's own.
    Own,
}

impl Session {
    /// As these flags say.
    const fn of(flags: u16) -> Option<Self> {
        match flags {
            0 => Some(Self::Callers),
            ADMINISTERS => Some(Self::Administers),
            CONTROLS_OWN => Some(Self::Own),
            _ => None,
        }
    }

    const fn way(self) -> Way {
        match self {
            Self::Callers | Self::Own => Way::Bus,
            Self::Administers => Way::BusAdmin,
        }
    }
}

/// The other end of control's link, if it lives.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Which bus it is to be on; none if there is to be no control.
    bus: Option<String>,
    /// The one user that the daemon serves.
    only: Option<u32>,
    /// Whether it may have sessions that administer.
    administers: bool,
    link: Option<Link>,
    pid: u32,
    /// How the last one ended.
    ended: Option<String>,
}

impl Control {
    /// That is still to come.
    pub(super) fn awaited(setup: &Setup) -> Self {
        let (bus, only, administers) = (setup.control.clone(), setup.prestart, setup.administration);
        Self { bus, only, administers, ..Self::default() }
    }

    /// For `doctor`.
    pub(super) fn feature(&self) -> String {
        match (&self.bus, &self.link, &self.ended) {
            (None, ..) => "off: [control] bus is \"none\", or says nothing and there is no bus".into(),
            (Some(bus), Some(_), _) => format!("runs, for {bus}, process {}", self.pid),
            (Some(bus), None, None) => format!("is being started, for {bus}"),
            (Some(bus), None, Some(how)) => {
                format!("degraded, it ended ({how}) and will be started again for {bus}; see what it logs")
            }
        }
    }
}

impl Shell {
    /// Control runs.
    pub(super) fn control_started(&mut self, pid: u32, fds: Vec<OwnedFd>) {
        let Some(link) = fds.into_iter().next() else { return };
        match Link::new(Socket::from(link), Source::Control, CLIENT_BYTES, &self.poller) {
            Ok(link) => {
                info!("control runs as process {pid}");
                self.control.link = Some(link);
                self.control.pid = pid;
            }
            Err(e) => warn!("control is not heard: {e}"),
        }
    }

    /// Control's process has ended. Its sessions end where nobody else has them.
    pub(super) fn control_exited(&mut self, how: String) {
        self.control.link = None;
        self.control.ended = Some(how);
    }

    /// Takes what control has sent, as far as its turn goes.
    pub(super) fn control_ready(&mut self) {
        for turn in 0..TURN {
            let Some(link) = &mut self.control.link else { return };
            let decoded = match link.take(&mut self.buffer, turn == 0) {
                Ok(Some(Received::Data { len })) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default();
                    ControlMessage::decode(bytes, Sender::Control, 0).map_err(|e| e.to_string())
                }
                Ok(Some(Received::TooLong { len })) => Err(format!("a message of {len} bytes")),
                Ok(Some(Received::Closed)) => return self.control_lost("it closed its link"),
                Ok(None) => return,
                Err(e) => return self.control_lost(&e.to_string()),
            };
            match decoded {
                Ok((head, ControlMessage::OpenSession(open))) => match Session::of(head.flags) {
                    Some(session) => self.open_session(head.request, session, open),
                    None => {
                        return self.control_lost("it sent OpenSession with flags that exclude each other");
                    }
                },
                Ok((_, other)) => return self.control_lost(&format!("it sent {}", other.row().name)),
                Err(what) => return self.control_lost(&format!("it sent nonsense: {what}")),
            }
        }
    }

    /// Sends what waits for control.
    pub(super) fn control_writable(&mut self) {
        let flushed = self.control.link.as_mut().map_or(Ok(()), |link| link.flush(&self.poller));
        match flushed {
            Ok(()) => self.control_missed(),
            Err(e) => self.control_lost(&e.to_string()),
        }
    }

    /// Refuses what was answered with a session that the kernel did not send, and that is over so.
    fn control_missed(&mut self) {
        let Some(link) = &mut self.control.link else { return };
        for request in link.lost().iter().filter_map(|bytes| request_of(bytes)) {
            let text = "the kernel sends no more fds for this process at the moment; ask again later";
            let refusal = refused(&Refusal::new(ErrorCode::Exhausted, text));
            let sent = link.send(Packet::plain(refusal.encode(request, Time(0), 0)), &self.poller);
            if sent != Ok(true) {
                return self.control_lost("it does not read its answers");
            }
        }
    }

    /// Without its link control ends, and the keeper starts another.
    fn control_lost(&mut self, why: &str) {
        debug!("control's link is closed: {why}");
        self.control_exited(why.to_owned());
    }

    fn open_session(&mut self, request: u64, session: Session, open: OpenSession) {
        let packet = match self.session(session, open) {
            Ok(session) => Packet {
                bytes: SessionOpened {}.encode(request, Time(0), 0),
                fds: vec![session],
                instead: None,
            },
            Err(refusal) => Packet::plain(refused(&refusal).encode(request, Time(0), 0)),
        };
        let Some(link) = &mut self.control.link else { return };
        match link.send(packet, &self.poller) {
            Ok(true) => self.control_missed(),
            Ok(false) => self.control_lost("it does not read its answers"),
            Err(e) => self.control_lost(&e.to_string()),
        }
    }

    /// Makes a session of somebody (M-205); its other end.
    fn session(
        &mut self,
        session: Session,
        OpenSession { uid, pid }: OpenSession,
    ) -> Result<OwnedFd, Refusal> {
        if session == Session::Administers && !self.control.administers {
            let text = "[control] administration is false: nobody administers over the bus; use the socket";
            return Err(Refusal::new(ErrorCode::Denied, text).with(uid.into(), 0));
        }
        if let Some(only) = self.control.only.filter(|only| *only != uid) {
            let text = format!("uid {uid}: the daemon serves uid {only} alone");
            return Err(Refusal::new(ErrorCode::Denied, text).with(uid.into(), only.into()));
        }
        // Who has groups, or a control group, that nobody vouches for would be given the wrong quota. Control's own session
        // uses none, nor does one that administers.
        let asks = self.core.asks_for_groups() || self.core.asks_for_cgroups();
        if asks && session == Session::Callers {
            let text = "domains of this daemon have groups or control groups for members, and a bus does not say a caller's: \
                        use the socket";
            return Err(Refusal::new(ErrorCode::Denied, text));
        }
        let domain = self.core.home_of(uid, &[], None);
        if !self.lingering.admits(domain) {
            let text = "too many connections before this one left their fds unread";
            return Err(Refusal::new(ErrorCode::Exhausted, text));
        }
        self.pair(session.way(), uid, pid, domain).map_err(|e| Refusal::new(ErrorCode::System, e.to_string()))
    }

    fn pair(&mut self, way: Way, uid: u32, pid: u32, domain: DomainId) -> Result<OwnedFd, OsError> {
        let (ours, theirs) = Socket::pair()?;
        // As every connection: a client sends no fds.
        ours.set_pass_rights(false)?;
        let peer = ours.peer()?;
        let facts = PeerFacts { way, uid, pid, domain, token: random()? };
        self.connected(ours, peer, facts)?;
        // Whose it is control says, and nobody else may: a right that others do not have.
        // One that administers is told however much there is to tell of its domain.
        let administers = way == Way::BusAdmin;
        if administers || self.may_log(Some(domain), Level::INFO) {
            let what = if administers { "session that administers" } else { "session" };
            info!(audit = true, uid, pid, "audit: control opens a {what} of uid {uid}, process {pid}");
        }
        Ok(theirs.into())
    }
}

fn refused(refusal: &Refusal) -> SessionRefused {
    let mut text = refusal.text.clone().into_bytes();
    text.truncate(limits::TEXT_LEN);
    SessionRefused { value: refusal.value, limit: refusal.limit, code: refusal.code, reserved: Zero, text }
}

/// Which request an answer was for.
fn request_of(answer: &[u8]) -> Option<u64> {
    ControlMessage::decode(answer, Sender::Broker, 1).ok().map(|(head, _)| head.request)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use vgem_core::config::{Config, NamedDomain, Policy};

    use super::*;
    use crate::broker::rig;

    /// A shell, and what must stay for it to work.
    fn shell(policy: Policy) -> (Shell, impl Sized) {
        let (mut shell, keeper, dir) = rig::shell(Config { policy, ..Config::default() });
        shell.control.administers = true;
        (shell, (keeper, dir))
    }

    /// The lines that are logged while a shell does this.
    fn logged(what: impl FnOnce(&mut Shell)) -> Vec<String> {
        let (mut shell, _kept) = shell(Policy::default());
        let mut log = tempfile::tempfile().expect("a file");
        let ours = log.try_clone().expect("a file of ours");
        let lines = move || ours.try_clone().expect("the same file");
        let subscriber = tracing_subscriber::fmt().with_writer(lines).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || what(&mut shell));
        let mut text = String::new();
        log.rewind().and_then(|()| log.read_to_string(&mut text)).expect("what was logged");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn atk_sessions_that_administer_are_told_though_the_log_of_their_domain_is_full() {
        const TIMES: usize = 200;
        let lines = logged(|shell| {
            for whose in [Session::Callers, Session::Administers] {
                for _ in 0..TIMES {
                    shell.session(whose, OpenSession { uid: 7, pid: 9 }).expect("a session");
                }
            }
        });
        let said = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(said("audit: control opens a session that administers of uid 7, process 9"), TIMES);
        assert!(said("audit: control opens a session of uid 7") < TIMES / 2, "others are rationed");
    }

    // M-205, M-253
    #[test]
    fn atk_whoever_has_controls_number_is_not_control() {
        const CONTROL: u32 = 4321;
        let named = NamedDomain { name: "a".into(), groups: [7].into(), ..NamedDomain::default() };
        let (mut shell, _kept) = shell(Policy { domains: vec![named], ..Policy::default() });
        let (link, _theirs) = Socket::pair().expect("a pair");
        shell.control_started(CONTROL, vec![link.into()]);
        let mut opens = |session, pid| shell.session(session, OpenSession { uid: 7, pid }).map(drop);
        // In another namespace, or when control has ended, its number is somebody else's.
        let refused = opens(Session::Callers, CONTROL).expect_err("nobody vouches for its groups");
        assert_eq!(refused.code, ErrorCode::Denied);
        assert_eq!(opens(Session::Own, CONTROL + 1), Ok(()));
        assert_eq!(opens(Session::Administers, CONTROL), Ok(()));
    }

    // M-209, M-253
    #[test]
    fn a_session_is_not_controls_own_and_one_that_administers() {
        let (mut shell, _kept) = shell(Policy::default());
        let (link, theirs) = Socket::pair().expect("a pair");
        shell.control_started(1, vec![link.into()]);
        for (flags, lives) in [(0, true), (CONTROLS_OWN, true), (CONTROLS_OWN | ADMINISTERS, false)] {
            theirs.send(&OpenSession { uid: 7, pid: 9 }.encode(1, Time(0), flags), &[]).expect("room");
            shell.control_ready();
            assert_eq!(shell.control.link.is_some(), lives, "{flags}");
        }
    }

    #[test]
    fn an_answer_that_was_not_sent_is_known_by_its_request() {
        assert_eq!(request_of(&SessionOpened {}.encode(77, Time(0), 0)), Some(77));
        assert_eq!(request_of(&[0; 40]), None);
    }
}
