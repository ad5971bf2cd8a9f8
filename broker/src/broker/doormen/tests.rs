//! The broker with a doorman played by the test, and the test as its keeper and as who administers.

use std::os::fd::AsFd as _;

use tempfile::TempDir;
use vgem_core::config::Config;
use vgem_os::seqpacket::{Listener, Packet};
use vgem_proto::codec::Zero;
use vgem_proto::domains::FIRST_NAMED;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::keeper::{KeeperMessage, PorterStarted};
use vgem_proto::message::porter::{DoorFits, Visitor};

use super::*;
use crate::broker::rig;

const DOORMAN: PorterId = PorterId(1);

struct Rig {
    shell: Shell,
    keeper: Socket,
    doorman: Socket,
    // Where the listening socket is.
    _dir: TempDir,
}

impl Rig {
    fn new() -> Self {
        let (mut shell, keeper, dir) = rig::shell(Config::default());
        keeper.set_nonblocking(true).expect("a socket of ours");
        let (link, doorman) = Socket::pair().expect("a pair");
        doorman.set_nonblocking(true).expect("a socket of ours");
        let (channel, pidfd) = Socket::pair().expect("a pair");
        let started = PorterStarted { porter: DOORMAN, pid: 1, reserved: Zero };
        shell.porter_started(&started, vec![channel.into(), link.into(), pidfd.into()]);
        let mut rig = Self { shell, keeper, doorman, _dir: dir };
        // What core makes of a doorman it did not ask for is not what is looked at here.
        rig.asked_to_kill();
        rig
    }

    /// A visitor, if there is room on the link; the client's end.
    fn visit(&self) -> Option<Socket> {
        let (client, connection) = Socket::pair().expect("a pair");
        let bytes = Visitor {}.encode(0, Time(0), 0);
        self.doorman.send(&bytes, &[connection.as_fd()]).is_ok().then_some(client)
    }

    fn ready(&mut self) {
        self.shell.porter_ready(DOORMAN, 1000);
    }

    fn unread(&self) -> usize {
        self.doorman.unread().expect("a socket of ours")
    }

    /// Whether the keeper is asked to kill the doorman, of all it is asked now.
    fn asked_to_kill(&mut self) -> bool {
        let (mut buffer, mut kill) = (vec![0; limits::MESSAGE_LEN], false);
        while let Ok(Packet::Data { len }) = self.keeper.recv_plain(&mut buffer) {
            let decoded = KeeperMessage::decode(&buffer[..len], Sender::Broker, 0);
            kill |= matches!(decoded, Ok((_, KeeperMessage::KillPorter(kill))) if kill.porter == DOORMAN);
        }
        kill
    }
}

// M-256
#[test]
fn nobody_is_let_in_before_there_is_a_domain() {
    let mut rig = Rig::new();
    rig.doorman.send(&DoorFits { path: vec![] }.encode(7, Time(0), 0), &[]).expect("room");
    let client = rig.visit();
    rig.ready();
    rig.ready();
    assert!(rig.unread() > 0 && client.is_some(), "the visitor is not taken");
    rig.shell.let_in_from(DOORMAN, FIRST_NAMED);
    rig.ready();
    assert_eq!((rig.unread(), rig.asked_to_kill()), (0, false));
}

// M-260
#[test]
fn atk_visitors_are_let_in_at_the_pace_of_every_door() {
    let mut rig = Rig::new();
    rig.shell.let_in_from(DOORMAN, FIRST_NAMED);
    let mut sent = 0;
    while rig.unread() == 0 {
        assert!(rig.visit().is_some(), "there is room");
        sent += 1;
        rig.ready();
    }
    assert!((256..500).contains(&sent), "{sent} were let in at once");
    assert!(rig.shell.porters.get_mut(DOORMAN).expect("it lives").post.opens_at().is_some());
}

// M-261
#[test]
fn atk_what_is_no_connection_is_never_closed_and_its_doorman_is_killed() {
    let listener = {
        let dir = tempfile::tempdir().expect("a directory");
        Listener::bind(dir.path().join("s"), 0o600).expect("a socket")
    };
    let stranger = rustix::pipe::pipe().expect("a pipe").0;
    for fd in [listener.as_fd(), stranger.as_fd()] {
        let mut rig = Rig::new();
        rig.shell.let_in_from(DOORMAN, FIRST_NAMED);
        rig.doorman.send(&Visitor {}.encode(0, Time(0), 0), &[fd]).expect("room");
        rig.ready();
        assert!(rig.asked_to_kill());
        assert_eq!(rig.shell.porters.quarantined(), 1);
    }
}
