//! Connections whose domain is not known yet, because control groups decide about it.
//!
//! ```text
//!   accepted ──FindCgroup──► waits ──CgroupFound with a path──► let in
//!                              ├────CgroupFound without one──► closed
//!                              └────[`PATIENCE`]─────────────► closed
//! ```
//!
//! The broker opens no path, so the keeper reads which group the process at the other end is in, by its pidfd. Until it has
//! answered, nothing is read from the connection (M-242). Of whom it cannot say, because the process has ended or the kernel
//! has no pidfd for it, nobody knows which domain it would have been in: it is not let in, for else a process would only have
//! to end to be in another. Where no domain has control groups nobody is asked, and nothing is ever here.
//!
//! There are at most [`MOST`], and the gate of their door counted each; the door is shut for a while when there are so many.

use std::collections::BTreeMap;

use tracing::{Level, info, warn};
use vgem_os::peer::PeerIdentity;
use vgem_os::seqpacket::Socket;
use vgem_os::{OsError, clock};
use vgem_proto::message::keeper::FindCgroup;

use super::shell::Shell;

/// Those who may wait at a time.
const MOST: usize = 256;
/// How long the keeper may take to answer, nanoseconds.
const PATIENCE: u64 = 2_000_000_000;

/// All of them, by the number of the question that the keeper was asked.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: BTreeMap<u64, Newcomer>,
    /// The number of the next question.
    next: u64,
}

#[derive(Debug)]
struct Newcomer {
    socket: Socket,
    peer: PeerIdentity,
    /// When it is given up.
    until: u64,
}

impl Newcomers {
    /// Whether nobody else may wait.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST
    }

    /// When the first is given up.
    pub(super) fn due(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(_, newcomer)| newcomer.until)
    }

    /// Closes the connections that waited too long. The clock is asked only if there are any.
    pub(super) fn give_up(&mut self, now: impl Fn() -> u64) {
        while let Some(first) = self.waiting.first_entry()
            && first.get().until <= now()
        {
            let pid = first.remove().peer.pid;
            warn!("a connection of process {pid} is closed: the keeper does not say its control group");
        }
    }
}

impl Shell {
    /// Has the keeper asked which control group the process at the other end of a connection is in.
    pub(super) fn ask_cgroup(&mut self, socket: Socket, peer: PeerIdentity) -> Result<(), OsError> {
        let copy = peer.pidfd.as_ref().map(|pidfd| pidfd.try_clone()).transpose();
        let Some(pidfd) = copy.map_err(|e| OsError::new("fcntl(F_DUPFD_CLOEXEC)", errno(&e)))? else {
            self.cgroup_unknown(&peer);
            return Ok(());
        };
        let question = self.newcomers.next;
        self.newcomers.next += 1;
        let until = clock::deadline_in(PATIENCE);
        self.newcomers.waiting.insert(question, Newcomer { socket, peer, until });
        self.ask_keeper(&FindCgroup { question }.into(), vec![pidfd]);
        Ok(())
    }

    /// The keeper has answered. `path` is empty if it could not say.
    pub(super) fn cgroup_found(&mut self, question: u64, path: &[u8]) {
        // One that was given up is not here any more.
        let Some(Newcomer { socket, peer, .. }) = self.newcomers.waiting.remove(&question) else { return };
        if path.is_empty() {
            return self.cgroup_unknown(&peer);
        }
        let domain = self.core.home_of(peer.uid, &peer.groups, Some(path));
        if let Err(e) = self.enter(socket, peer, domain) {
            warn!("a connection is refused: {e}");
        }
    }

    fn cgroup_unknown(&mut self, peer: &PeerIdentity) {
        let domain = self.core.home_of(peer.uid, &peer.groups, None);
        if self.may_log(Some(domain), Level::INFO) {
            let (uid, pid) = (peer.uid, peer.pid);
            info!(
                "a connection of uid {uid}, process {pid}, is closed: the control group of the process is not known"
            );
        }
    }
}

fn errno(e: &std::io::Error) -> vgem_os::Errno {
    vgem_os::Errno::from_io_error(e).unwrap_or(vgem_os::Errno::MFILE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::OwnedFd;

    use tempfile::TempDir;
    use vgem_core::Broker;
    use vgem_core::config::{Config, NamedDomain, Policy};
    use vgem_core::io::Input;
    use vgem_os::selftest::LeaseSupport;
    use vgem_os::seqpacket::{Listener, Packet};
    use vgem_proto::domains::FIRST_NAMED;
    use vgem_proto::ids::{DomainId, Time};
    use vgem_proto::limits;
    use vgem_proto::message::Sender;
    use vgem_proto::message::keeper::{CgroupFound, KeeperMessage};

    use super::*;
    use crate::broker::Given;
    use crate::broker::clients::Client;
    use crate::broker::gate::Gate;

    /// A broker with the test as its keeper, and a domain of whoever is below `/a`.
    struct Rig {
        shell: Shell,
        keeper: Socket,
        dir: TempDir,
    }

    fn policy() -> Policy {
        let cgroups = BTreeSet::from(["/a".to_owned()]);
        let named = NamedDomain { name: "a".into(), cgroups, ..NamedDomain::default() };
        Policy { domains: vec![named], ..Policy::default() }
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let listener = Listener::bind(dir.path().join("s"), 0o600).expect("a socket");
            listener.set_nonblocking(true).expect("a socket of ours");
            let (ours, keeper) = Socket::pair().expect("a pair");
            keeper.set_nonblocking(true).expect("a socket of ours");
            let core = Broker::new(Config { policy: policy(), ..Config::default() });
            let given = Given { owner: None, files: None };
            let shell = Shell::new(core, given, ours, listener, LeaseSupport::Exact).expect("a shell");
            Self { shell, keeper, dir }
        }

        fn connect(&mut self) -> Socket {
            let client = Socket::connect(self.dir.path().join("s")).expect("it listens");
            client.set_nonblocking(true).expect("a socket of ours");
            // How fast the gate lets in is not what is looked at here.
            self.shell.doors.get_mut(&None).expect("a door").gate = Gate::default();
            self.shell.accept(None);
            client
        }

        /// What the keeper is asked, with the pidfds.
        fn asked(&self) -> Vec<(u64, OwnedFd)> {
            let (mut buffer, mut asked) = (vec![0; limits::MESSAGE_LEN], Vec::new());
            loop {
                let mut fds = Vec::new();
                let Ok(Packet::Data { len }) = self.keeper.recv(&mut buffer, &mut fds) else { return asked };
                let decoded = KeeperMessage::decode(&buffer[..len], Sender::Broker, fds.len());
                if let Ok((_, KeeperMessage::FindCgroup(find))) = decoded {
                    asked.push((find.question, fds.remove(0)));
                }
            }
        }

        fn answer(&mut self, question: u64, path: &str) {
            let found = CgroupFound { question, path: path.as_bytes().to_vec() };
            let bytes = KeeperMessage::from(found).encode(0, Time(0), 0);
            self.keeper.send(&bytes, &[]).expect("room");
            self.shell.keeper_ready();
        }

        /// Whose clients are served.
        fn served(&self) -> Vec<DomainId> {
            let mut served: Vec<DomainId> = self.shell.clients.values().map(Client::domain).collect();
            served.sort();
            served
        }
    }

    fn is_closed(client: &Socket) -> bool {
        matches!(client.recv_plain(&mut [0; 64]), Ok(Packet::Closed))
    }

    fn own() -> DomainId {
        DomainId(rustix::process::geteuid().as_raw())
    }

    // M-242
    #[test]
    fn nobody_is_served_before_the_keeper_says_its_control_group() {
        let mut rig = Rig::new();
        let clients = [rig.connect(), rig.connect(), rig.connect()];
        let asked: Vec<u64> = rig.asked().into_iter().map(|(question, _)| question).collect();
        assert_eq!((asked.as_slice(), rig.served().as_slice()), (&[0, 1, 2][..], &[][..]));
        rig.answer(1, "/a/b");
        assert_eq!(rig.served(), [FIRST_NAMED]);
        rig.answer(0, "/b");
        assert_eq!(rig.served(), [own(), FIRST_NAMED]);
        rig.answer(2, "");
        assert_eq!(rig.served().len(), 2);
        // Nobody asked so.
        rig.answer(2, "/a");
        rig.answer(99, "/a");
        assert_eq!(rig.served().len(), 2);
        assert_eq!(clients.map(|client| is_closed(&client)), [false, false, true]);
    }

    // M-242
    #[test]
    fn a_connection_is_given_up_when_the_keeper_does_not_answer_in_time() {
        let mut rig = Rig::new();
        let client = rig.connect();
        let due = rig.shell.newcomers.due().expect("it waits");
        rig.shell.newcomers.give_up(|| due - 1);
        assert!(!is_closed(&client));
        rig.shell.newcomers.give_up(|| due);
        assert!(is_closed(&client) && rig.shell.newcomers.due().is_none());
        rig.answer(0, "/a");
        assert_eq!(rig.served(), []);
    }

    #[test]
    fn atk_no_more_than_so_many_wait_and_the_rest_wait_at_the_door() {
        let mut rig = Rig::new();
        let mut asked = 0;
        let mut one = |rig: &mut Rig| {
            let client = rig.connect();
            // Looked at each time, so that few fds are open.
            asked += rig.asked().len();
            client
        };
        let clients: Vec<Socket> = (0..MOST).map(|_| one(&mut rig)).collect();
        assert!(rig.shell.newcomers.is_full());
        let late = one(&mut rig);
        assert!(rig.shell.doors[&None].gate.opens_at().is_some(), "the door is shut for a while");
        assert_eq!((asked, rig.shell.newcomers.waiting.len()), (MOST, MOST));
        assert!(!clients.iter().chain([&late]).any(is_closed));
    }

    #[test]
    fn where_no_domain_has_control_groups_nobody_is_asked() {
        let mut rig = Rig::new();
        rig.shell.happen(Input::Policy(Box::default()));
        let _client = rig.connect();
        assert_eq!((rig.served(), rig.asked().len()), (vec![own()], 0));
        rig.shell.happen(Input::Policy(Box::new(policy())));
        let _client = rig.connect();
        assert_eq!((rig.served(), rig.asked().len()), (vec![own()], 1));
    }
}
