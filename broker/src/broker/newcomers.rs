//! Connections whose domain is not known yet, because control groups decide about it.
//!
//! ```text
//!   accepted ──FindCgroup──► waits ──CgroupFound with a path──► let in
//!                 │            ├────CgroupFound without one──► closed
//!                 │            ├────[`PATIENCE`]─────────────► closed, and counted until CgroupFound
//!                 │            └────displaced────────────────► refused
//!                 └──no room───────────────────────────────────► refused
//! ```
//!
//! The broker opens no path, so the keeper reads which group the process at the other end is in, by its pidfd. Until it has
//! answered, nothing is read from the connection (M-242). Of whom it cannot say, because the process has ended or the kernel
//! has no pidfd for it, nobody knows which domain it would have been in: it is not let in, for else a process would only have
//! to end to be in another. Where no domain has control groups nobody is asked, and nothing is ever here.
//!
//! What is counted is questions that the keeper has not answered, for each has a pidfd on its way: [`EACH`] of one user, so that
//! one who connects without end is refused and nobody else, and [`MOST`] of all. A door lets no more in at once, of one
//! user and of all, than may be here, and afterwards fewer than the keeper answers: nobody is refused who only has much to
//! do. When there are so many, a user who has fewer displaces the newest of one who has most, as long as that makes their
//! shares more equal: users can trade places only so often, and every user has a place while there are not as many users as
//! places. So the door is never shut for what is here.

use std::collections::BTreeMap;

use tracing::{Level, info, warn};
use vgem_os::peer::PeerIdentity;
use vgem_os::seqpacket::Socket;
use vgem_os::{OsError, clock};
use vgem_proto::message::keeper::FindCgroup;

use super::clients::numbers;
use super::gate::{OF_ALL, OF_ONE};
use super::shell::Shell;

/// Those who may wait at a time.
const MOST: usize = 2 * EACH;
/// Those of one user.
const EACH: usize = 256;
const _: () =
    assert!(EACH as u64 >= OF_ONE.burst && MOST as u64 >= OF_ALL.burst, "what comes in at once waits here");
/// How long the keeper may take to answer, nanoseconds.
const PATIENCE: u64 = 2_000_000_000;

/// All of them, by the number of the question that the keeper was asked.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    asked: BTreeMap<u64, Newcomer>,
    /// The number of the next question.
    next: u64,
}

#[derive(Debug)]
struct Newcomer {
    /// None once it was given up: it is closed, and counts until the keeper has answered.
    socket: Option<Socket>,
    peer: PeerIdentity,
    groups: Vec<u32>,
    /// When it is given up.
    until: u64,
}

/// Whether there is room for one more of a user.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    There,
    /// If that of this question goes.
    Instead(u64),
    /// There are so many, and there may be no more.
    Full {
        count: usize,
        most: usize,
    },
}

impl Newcomers {
    /// When the first is given up.
    pub(super) fn due(&self) -> Option<u64> {
        self.asked.values().find(|newcomer| newcomer.socket.is_some()).map(|newcomer| newcomer.until)
    }

    /// One that waited too long, if there is one: it is closed. The clock is asked only if somebody waits.
    fn give_up(&mut self, now: impl Fn() -> u64) -> Option<&Newcomer> {
        let first = self.asked.values_mut().find(|newcomer| newcomer.socket.is_some())?;
        (first.until <= now()).then(|| {
            first.socket = None;
            &*first
        })
    }

    /// Whether one more of a user may wait.
    fn room(&self, uid: u32) -> Room {
        let mut shares: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        for (question, newcomer) in &self.asked {
            let (count, newest) = shares.entry(newcomer.peer.uid).or_default();
            (*count, *newest) = (*count + 1, *question);
        }
        let own = shares.get(&uid).map_or(0, |(count, _)| *count);
        if own >= EACH {
            return Room::Full { count: own, most: EACH };
        }
        if self.asked.len() < MOST {
            return Room::There;
        }
        match shares.into_values().max() {
            Some((count, newest)) if own + 1 < count => Room::Instead(newest),
            _ => Room::Full { count: self.asked.len(), most: MOST },
        }
    }
}

impl Shell {
    /// Has the keeper asked which control group the process at the other end of a connection is in.
    pub(super) fn ask_cgroup(
        &mut self,
        socket: Socket,
        peer: PeerIdentity,
        groups: Vec<u32>,
    ) -> Result<(), OsError> {
        match self.newcomers.room(peer.uid) {
            Room::There => {}
            Room::Instead(question) => {
                if let Some(Newcomer { socket: Some(socket), peer, .. }) =
                    self.newcomers.asked.remove(&question)
                {
                    self.no_room(&socket, &peer, (MOST, MOST));
                }
            }
            Room::Full { count, most } => {
                self.no_room(&socket, &peer, (count, most));
                return Ok(());
            }
        }
        let copy = peer.pidfd.as_ref().map(|pidfd| pidfd.try_clone()).transpose();
        let Some(pidfd) = copy.map_err(|e| OsError::new("fcntl(F_DUPFD_CLOEXEC)", errno(&e)))? else {
            self.cgroup_unknown(&peer, &groups);
            return Ok(());
        };
        let question = self.newcomers.next;
        self.newcomers.next += 1;
        let until = clock::deadline_in(PATIENCE);
        self.newcomers.asked.insert(question, Newcomer { socket: Some(socket), peer, groups, until });
        self.ask_keeper(&FindCgroup { question }.into(), vec![pidfd]);
        Ok(())
    }

    /// The keeper has answered. `path` is empty if it could not say.
    pub(super) fn cgroup_found(&mut self, question: u64, path: &[u8]) {
        // One that was displaced is not here any more, and one that was given up is closed.
        let Some(Newcomer { socket: Some(socket), peer, groups, .. }) =
            self.newcomers.asked.remove(&question)
        else {
            return;
        };
        if path.is_empty() {
            return self.cgroup_unknown(&peer, &groups);
        }
        let domain = self.core.home_of(peer.uid, &groups, Some(path));
        if let Err(e) = self.enter(socket, peer, domain) {
            self.not_let_in(&e);
        }
    }

    /// Closes the connections that waited too long.
    pub(super) fn give_up_newcomers(&mut self, now: impl Fn() -> u64) {
        while let Some(Newcomer { peer, groups, .. }) = self.newcomers.give_up(&now) {
            let (uid, pid) = (peer.uid, peer.pid);
            let domain = self.core.home_of(uid, groups, None);
            if self.may_log(Some(domain), Level::WARN) {
                warn!(
                    "a connection of uid {uid}, process {pid}, is closed: the keeper does not say its control group"
                );
            }
        }
    }

    /// Says to whoever connected that so many wait already.
    fn no_room(&mut self, socket: &Socket, peer: &PeerIdentity, (count, most): (usize, usize)) {
        let text = format!(
            "{most} connections wait already until their control group is known; connect again in a moment"
        );
        self.refuse(socket, numbers(peer), (count + 1, most), text);
    }

    fn cgroup_unknown(&mut self, peer: &PeerIdentity, groups: &[u32]) {
        let domain = self.core.home_of(peer.uid, groups, None);
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
    use std::io::BufRead as _;
    use std::os::fd::OwnedFd;

    use tempfile::TempDir;
    use vgem_core::config::{Config, NamedDomain, Policy};
    use vgem_core::io::Input;
    use vgem_os::peer::Groups;
    use vgem_os::seqpacket::Packet;
    use vgem_proto::domains::FIRST_NAMED;
    use vgem_proto::error::ErrorCode;
    use vgem_proto::ids::{DomainId, Time};
    use vgem_proto::limits;
    use vgem_proto::message::Sender;
    use vgem_proto::message::client::ClientMessage;
    use vgem_proto::message::keeper::{CgroupFound, KeeperMessage};

    use super::*;
    use crate::broker::callers::{self, Entry};
    use crate::broker::clients::{Client, GROUPS};
    use crate::broker::gate::Gate;
    use crate::broker::rig;

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
            vgem_os::process::limits::raise_nofile().expect("as many as may be");
            let (shell, keeper, dir) = rig::shell(Config { policy: policy(), ..Config::default() });
            keeper.set_nonblocking(true).expect("a socket of ours");
            Self { shell, keeper, dir }
        }

        fn connect(&mut self) -> Socket {
            let client = Socket::connect(self.dir.path().join("s")).expect("it listens");
            client.set_nonblocking(true).expect("a socket of ours");
            // How fast the gate lets in is not what is looked at here.
            self.shell.doors.get_mut(&None).expect("a door").gate = Gate::new(OF_ALL);
            self.shell.accept(None);
            client
        }

        /// Somebody of this user connects; the client's end.
        fn come(&mut self, uid: u32) -> Socket {
            self.come_with(uid, Groups::All(vec![]))
        }

        fn come_with(&mut self, uid: u32, groups: Groups) -> Socket {
            let (ours, theirs) = Socket::pair().expect("a pair");
            theirs.set_nonblocking(true).expect("a socket of ours");
            let peer = PeerIdentity { uid, ..ours.peer().expect("it is us") };
            self.shell.find_domain(ours, peer, groups).expect("an fd");
            // Looked at each time, so that few fds are open.
            self.asked();
            theirs
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
        rig.shell.give_up_newcomers(|| due - 1);
        assert!(!is_closed(&client));
        rig.shell.give_up_newcomers(|| due);
        assert!(is_closed(&client) && rig.shell.newcomers.due().is_none());
        rig.answer(0, "/a");
        assert_eq!((rig.served(), rig.shell.newcomers.asked.len()), (vec![], 0));
    }

    /// What a connection that was refused is told: the limit.
    fn refused(client: &Socket) -> Option<u64> {
        let mut buffer = [0; 512];
        let Ok(Packet::Data { len }) = client.recv_plain(&mut buffer) else { return None };
        match ClientMessage::decode(&buffer[..len], Sender::Broker, 0) {
            Ok((head, ClientMessage::Refused(refused))) if (head.request, is_closed(client)) == (0, true) => {
                assert_eq!((refused.code, refused.value), (ErrorCode::Exhausted, refused.limit + 1));
                Some(refused.limit)
            }
            other => panic!("{other:?}"),
        }
    }

    fn users(count: usize) -> std::ops::Range<u32> {
        0..u32::try_from(count).expect("few")
    }

    fn waits(client: &Socket) -> bool {
        matches!(client.recv_plain(&mut [0; 64]), Err(e) if e.would_block())
    }

    // M-243
    #[test]
    fn atk_a_user_who_connects_without_end_is_refused_and_others_wait() {
        let mut rig = Rig::new();
        let clients: Vec<Socket> = (0..2 * MOST).map(|_| rig.come(7)).collect();
        let (first, late) = clients.split_at(EACH);
        assert!(first.iter().all(waits));
        assert!(late.iter().all(|client| refused(client) == Some(EACH as u64)));
        assert!(waits(&rig.come(8)));
        assert!(rig.shell.doors[&None].gate.opens_at().is_none(), "the door is open");
        rig.answer(3, "/a");
        assert!(waits(&rig.come(7)));
    }

    // M-243
    #[test]
    fn atk_where_all_places_are_taken_who_has_fewer_displaces_the_newest_of_who_has_most() {
        let mut rig = Rig::new();
        let users = users(MOST / EACH);
        let clients: Vec<Socket> = (0..EACH).flat_map(|_| users.clone()).map(|uid| rig.come(uid)).collect();
        let guest = rig.come(99);
        let (last, others) = clients.split_last().expect("there are some");
        assert!(others.iter().chain([&guest]).all(waits));
        assert_eq!((refused(last), rig.shell.newcomers.asked.len()), (Some(MOST as u64), MOST));
        // It has its share already, less one.
        assert_eq!(refused(&rig.come(users.end - 1)), Some(MOST as u64));
    }

    // M-243
    #[test]
    fn as_many_users_as_there_are_places_have_one_each() {
        let mut rig = Rig::new();
        let many: Vec<Socket> = (0..EACH).flat_map(|_| users(MOST / EACH)).map(|uid| rig.come(uid)).collect();
        let more: Vec<Socket> = users(MOST).skip(MOST / EACH).map(|uid| rig.come(uid)).collect();
        assert_eq!(many.iter().chain(&more).filter(|client| waits(client)).count(), MOST);
        assert!(many[..MOST / EACH].iter().chain(&more).all(waits));
        assert_eq!(refused(&rig.come(999)), Some(MOST as u64));
    }

    // M-243
    #[test]
    fn atk_one_that_was_given_up_counts_until_the_keeper_has_answered() {
        let mut rig = Rig::new();
        let _clients: Vec<Socket> = (0..EACH).map(|_| rig.come(7)).collect();
        rig.shell.give_up_newcomers(|| u64::MAX);
        assert_eq!(refused(&rig.come(7)), Some(EACH as u64));
        rig.answer(5, "/a");
        assert!(waits(&rig.come(7)) && rig.served().is_empty());
    }

    // M-244
    #[test]
    fn atk_a_process_of_too_many_groups_is_refused() {
        let mut rig = Rig::new();
        assert_eq!(refused(&rig.come_with(7, Groups::TooMany(GROUPS + 1))), Some(GROUPS as u64));
        assert!(waits(&rig.come_with(7, Groups::All(vec![1; GROUPS]))));
    }

    /// Lines that are logged meanwhile.
    fn logged(during: impl FnOnce()) -> usize {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let lines = std::thread::spawn(move || std::io::BufReader::new(reader).lines().count());
        let log = tracing_subscriber::fmt().with_writer(move || writer.try_clone().expect("an fd")).finish();
        tracing::subscriber::with_default(log, during);
        lines.join().expect("no panic")
    }

    #[test]
    fn atk_connections_that_are_given_up_fill_no_log() {
        const TIMES: u64 = 10;
        let mut rig = Rig::new();
        let lines = logged(|| {
            for time in 0..TIMES {
                let _clients: Vec<Socket> = (0..EACH).map(|_| rig.come(7)).collect();
                rig.shell.give_up_newcomers(|| u64::MAX);
                (0..EACH as u64).for_each(|one| rig.answer(time * EACH as u64 + one, ""));
            }
        });
        assert!((1..100).contains(&lines), "{lines} lines of {} connections", TIMES * EACH as u64);
    }

    /// Has a user come so often, at a moment, that it is beyond its rate.
    fn comes_often(rig: &mut Rig, uid: u32, now: u64) {
        for _ in 0..OF_ONE.burst {
            let (socket, _) = Socket::pair().expect("a pair");
            assert!(matches!(rig.shell.callers.come(uid, socket, now), Entry::Now(_)));
        }
    }

    // M-270
    #[test]
    fn atk_who_connects_faster_than_a_user_may_waits_and_is_refused_where_too_many_wait() {
        let mut rig = Rig::new();
        rig.shell.happen(Input::Policy(Box::default()));
        comes_often(&mut rig, own().0, clock::now() + 1_000_000_000_000);
        let clients: Vec<Socket> = (0..callers::EACH).map(|_| rig.connect()).collect();
        assert!(clients.iter().all(waits) && rig.served().is_empty());
        assert_eq!(refused(&rig.connect()), Some(callers::EACH as u64));
        assert!(rig.shell.doors[&None].gate.opens_at().is_none(), "the door is open to others");
        rig.shell.let_in_late();
        assert_eq!(rig.served(), []);
    }

    // M-270
    #[test]
    fn who_connected_too_fast_is_let_in_when_it_is_time() {
        let mut rig = Rig::new();
        rig.shell.happen(Input::Policy(Box::default()));
        comes_often(&mut rig, own().0, clock::now() + 20 * OF_ONE.each_ns);
        let client = rig.connect();
        assert_eq!(rig.served(), []);
        let due = rig.shell.callers.due().expect("it waits");
        while rig.served().is_empty() {
            rig.shell.let_in_late();
        }
        assert!(clock::now() >= due && waits(&client) && rig.shell.callers.due().is_none());
    }

    #[test]
    fn a_look_at_a_door_where_nobody_is_takes_no_share_of_those_who_come() {
        let mut rig = Rig::new();
        (0..1000).for_each(|_| rig.shell.accept(None));
        assert_eq!(rig.shell.doors[&None].gate.opens_at(), None);
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
