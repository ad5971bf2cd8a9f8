//! The broker with a porter played by the test, and the test as its keeper: what a porter must not send (M-132).

use std::time::Duration;

use rustix::fs::MemfdFlags;
use tempfile::TempDir;
use vgem_core::config::Config;
use vgem_proto::codec::Zero;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::keeper::StartPorter;
use vgem_proto::message::porter::Hand;
use vgem_proto::rights::Access;

use super::*;
use crate::broker::rig;

const PORTER: PorterId = PorterId(1);
const LEN: u64 = 4096;

struct Rig {
    shell: Shell,
    keeper: Socket,
    porter: Socket,
    // Where the listening socket is.
    _dir: TempDir,
}

impl Rig {
    fn new() -> Self {
        let (mut shell, keeper, dir) = rig::shell(Config::default());
        keeper.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let (link, porter) = Socket::pair().expect("a pair");
        let (channel, pidfd) = Socket::pair().expect("a pair");
        let started = PorterStarted { porter: PORTER, pid: 1, reserved: Zero };
        shell.porter_started(&started, vec![channel.into(), link.into(), pidfd.into()]);
        let mut rig = Self { shell, keeper, porter, _dir: dir };
        // What core makes of a porter it did not ask for is not what is looked at here.
        rig.asked_to_kill();
        rig
    }

    fn send(&mut self, bytes: &[u8], fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.porter.send(bytes, &fds).expect("room");
        self.shell.porter_ready(PORTER, 16);
    }

    fn bring(&mut self, len: u64, fd: &OwnedFd) {
        let brought = Brought { len, access: Access::Read, reserved: Zero };
        self.send(&brought.encode(1, Time(0), 0), &[fd]);
    }

    /// Whether the keeper is asked to kill the porter, of all it is asked now.
    fn asked_to_kill(&mut self) -> bool {
        self.keeper.set_nonblocking(true).expect("non-blocking");
        let (mut buffer, mut kill) = (vec![0; limits::MESSAGE_LEN], false);
        while let Ok(Received::Data { len }) = self.keeper.recv_plain(&mut buffer) {
            let decoded = KeeperMessage::decode(&buffer[..len], Sender::Broker, 0);
            kill |= matches!(decoded, Ok((_, KeeperMessage::KillPorter(kill))) if kill.porter == PORTER);
        }
        kill
    }

    /// What the porter sends next is not looked at.
    fn is_silenced(&self) -> bool {
        self.shell.porters.porters[&PORTER].silent
    }
}

fn memory() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING);
    let fd = rustix::fs::memfd_create("test", flags).expect("memory");
    rustix::fs::ftruncate(&fd, LEN).expect("its length");
    fd
}

#[test]
fn a_porter_that_brings_memory_lives() {
    let mut rig = Rig::new();
    rig.bring(LEN, &memory());
    assert!(!rig.is_silenced());
}

#[test]
fn a_porter_that_brings_what_is_no_memory_is_killed() {
    let mut rig = Rig::new();
    rig.bring(LEN, &rustix::pipe::pipe().expect("a pipe").0);
    assert!(rig.is_silenced() && rig.asked_to_kill());
}

#[test]
fn atk_what_a_porter_must_not_send_is_never_closed_and_too_much_of_it_ends_importing() {
    let mut rig = Rig::new();
    // Closing what may be anything may take for ever.
    rig.bring(LEN, &rustix::pipe::pipe().expect("a pipe").0);
    assert_eq!(rig.shell.porters.quarantine.len(), 1);
    let mut rig = Rig::new();
    rig.send(&[7; 64], &[&memory(), &memory()]);
    assert_eq!(rig.shell.porters.quarantine.len(), 2);
    rig.shell.porters.quarantine.resize_with(QUARANTINE, memory);
    let porter = PorterId(2);
    rig.shell.start_porter(porter, &StartPorter { porter }.into());
    let refused = rig.shell.inputs.pop_front();
    assert!(matches!(refused, Some(Input::PorterFailed { porter: PorterId(2), .. })), "{refused:?}");
}

#[test]
fn a_porter_that_lies_about_a_length_is_killed() {
    let mut rig = Rig::new();
    rig.bring(2 * LEN, &memory());
    assert!(rig.is_silenced() && rig.asked_to_kill());
}

#[test]
fn a_porter_that_sends_what_is_no_message_of_its_own_is_killed() {
    let unfit = Unfit { value: 0, limit: 0, code: ErrorCode::Denied, reserved: Zero, text: vec![] };
    let wrong = [vec![7; 64], Hand {}.encode(1, Time(0), 0), vec![0; limits::MESSAGE_LEN + 8]];
    for bytes in wrong {
        let mut rig = Rig::new();
        rig.send(&bytes, &[]);
        assert!(rig.is_silenced() && rig.asked_to_kill(), "{} bytes", bytes.len());
    }
    let mut rig = Rig::new();
    rig.send(&unfit.encode(1, Time(0), 0), &[&memory()]);
    assert!(rig.is_silenced() && rig.asked_to_kill());
}

#[test]
fn a_porter_is_read_a_few_messages_at_a_time() {
    let mut rig = Rig::new();
    let unfit = Unfit { value: 0, limit: 0, code: ErrorCode::Denied, reserved: Zero, text: vec![] };
    for request in 1..=20 {
        rig.porter.send(&unfit.encode(request, Time(0), 0), &[]).expect("room");
    }
    rig.shell.porter_ready(PORTER, 16);
    let left = |rig: &mut Rig| rig.porter.unread().expect("a socket") > 0;
    assert!(left(&mut rig));
    rig.shell.porter_ready(PORTER, 16);
    assert!(!left(&mut rig));
}

#[test]
fn a_channel_is_given_away_once() {
    let mut rig = Rig::new();
    let porter = rig.shell.porters.porters.get_mut(&PORTER).expect("it lives");
    porter.channel = Some(memory());
    assert!(rig.shell.porters.channel(PORTER).is_ok());
    assert_eq!(rig.shell.porters.channel(PORTER).map_err(|e| e.errno()).err(), Some(Errno::PIPE));
}
