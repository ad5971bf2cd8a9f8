//! The broker with clients and a driver played by the test: whose time it takes to hear a driver, also for who asks (M-251).

use tempfile::TempDir;
use vgem_core::config::Config;
use vgem_proto::codec::Zero;
use vgem_proto::describe::Description;
use vgem_proto::ids::{DeviceId, Point, TimelineKey};
use vgem_proto::message::client::Explain;
use vgem_proto::message::driver::Cause;

use super::*;
use crate::broker::rig;
use crate::broker::turns::{NEVER, QUANTUM_NS};

/// Whose driver it is, and somebody else.
const OWN: DomainId = DomainId(1001);
const OTHER: DomainId = DomainId(1002);

struct Rig {
    shell: Shell,
    driver: Socket,
    instance: InstanceId,
    // Where the listening socket is, and other ends that stay open.
    _dir: TempDir,
    _open: Vec<Socket>,
}

impl Rig {
    fn new() -> Self {
        let device =
            Description { name: "d".into(), summary: "one".into(), executors: 1, operations: Vec::new() };
        let config = Config { devices: vec![(DeviceId(1), device)], ..Config::default() };
        let (mut shell, keeper, dir) = rig::shell(config);
        shell.happen(Input::Prestart { domain: OWN });
        let is_there = |instance: &InstanceId| shell.core.instance_domain(*instance).is_some();
        let instance = (0..99).map(InstanceId).find(is_there).expect("an instance is wanted");
        let ((link, driver), (pidfd, process)) =
            (Socket::pair().expect("a pair"), Socket::pair().expect("a pair"));
        shell.adopt_instance(instance, link, pidfd.into()).expect("room");
        Self { shell, driver, instance, _dir: dir, _open: vec![keeper, process] }
    }

    /// A client of a domain.
    fn client(&mut self, uid: u32) -> (LinkId, Socket) {
        let (ours, theirs) = Socket::pair().expect("a pair");
        let (peer, domain, id) = (ours.peer().expect("a peer"), DomainId(uid), LinkId(self.shell.next_link));
        let facts = PeerFacts { way: Way::Socket, uid, pid: 1, domain, token: [1, 2] };
        self.shell.connected(ours, peer, facts).expect("room");
        (id, theirs)
    }

    /// It asks for a cause of the instance, in a turn that is over then.
    fn asks(&mut self, (id, client): &(LinkId, Socket), until: u64) {
        let explain = Explain { cause: CauseId::new(self.instance, 1) };
        client.send(&explain.encode(1, Time(0), 0), &[]).expect("room");
        self.shell.client_ready(*id, until);
    }

    /// The driver says so many words.
    fn says(&self, words: usize) {
        let cause = Cause {
            cause: CauseId::new(self.instance, 1),
            timeline: TimelineKey::default(),
            point: Point(0),
            at: Time(0),
            code: ErrorCode::System,
            reserved: Zero,
            text: Vec::new(),
        };
        (0..words).for_each(|_| self.driver.send(&cause.encode(0, Time(0), 0), &[]).expect("room"));
    }

    /// All that it said was heard.
    fn was_heard(&self) -> bool {
        self.driver.unread() == Ok(0)
    }
}

// M-251
#[test]
fn atk_who_asks_for_a_cause_has_no_other_domain_served_beyond_its_time() {
    let mut rig = Rig::new();
    let (_own, other) = (rig.client(OWN.0), rig.client(OTHER.0));
    rig.shell.turns.begin([OWN, OTHER].into_iter());
    rig.shell.turns.took(OWN, QUANTUM_NS);
    rig.says(1);
    rig.asks(&other, NEVER);
    assert!(!rig.was_heard(), "its domain had all its time");
    rig.shell.turns.end(2, true);
    rig.shell.turns.begin([OWN, OTHER].into_iter());
    let left = rig.shell.turns.left(OWN, false);
    rig.asks(&other, NEVER);
    assert!(rig.was_heard() && rig.shell.turns.left(OWN, false) < left, "it takes that domain's time");
}

// M-251
#[test]
fn who_sees_a_domain_hears_its_drivers_in_a_turn_of_its_own() {
    for who in [OWN.0, 0] {
        let mut rig = Rig::new();
        let (own, asker) = (rig.client(OWN.0), rig.client(who));
        rig.shell.turns.begin([OWN, DomainId(who)].into_iter());
        rig.shell.turns.took(OWN, QUANTUM_NS);
        rig.says(2);
        rig.asks(&asker, 0);
        assert!(!rig.was_heard(), "the turn was over after the first word");
        rig.asks(&asker, NEVER);
        assert!(rig.was_heard());
        drop(own);
    }
}

#[test]
fn a_driver_takes_its_domains_time_also_while_no_client_is_there() {
    let mut rig = Rig::new();
    let (source, turns) = (Source::Instance(rig.instance), |rig: &Rig| rig.shell.turns.are_shared());
    assert_eq!((rig.shell.domain_of(source), turns(&rig)), (Some(OWN), false));
    let _other = rig.client(OTHER.0);
    assert!(turns(&rig));
    rig.shell.process_ended(rig.instance);
    rig.shell.instance_exited(rig.instance, 0);
    assert_eq!((rig.shell.domain_of(source), turns(&rig)), (None, false));
}

#[test]
fn a_driver_that_is_left_takes_nobodys_time() {
    let mut rig = Rig::new();
    rig.shell.leave_instance(rig.instance);
    assert!(!rig.shell.turns.has_share(OWN));
    rig.shell.process_ended(rig.instance);
    rig.shell.instance_exited(rig.instance, 0);
    assert!(!rig.shell.turns.has_share(OWN));
}
