//! The porter role as a process of its own, with the test as its keeper, its client and its broker.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use vgem_os::process::{Child, Launch, Output};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Time;
use vgem_proto::message::Sender;
use vgem_proto::message::porter::{Hand, PorterMessage};

use crate::common::{hand, memfd};

/// A porter, started by a shell with this command before it.
struct Rig {
    channel: Socket,
    link: Socket,
    child: Child,
}

impl Rig {
    fn new(before: &str) -> Self {
        let (channel, porters_channel) = Socket::pair().expect("a pair");
        let (link, porters_link) = Socket::pair().expect("a pair");
        link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let script = format!("{before}; exec {} --role porter", env!("CARGO_BIN_EXE_vgemd"));
        let child = Launch {
            args: vec!["-c".into(), script.into()],
            fds: vec![(porters_channel.into(), 3), (porters_link.into(), 4)],
            stdout: Output::Null,
            die_with_parent: true,
            ..Launch::new("/bin/sh")
        };
        Self { channel, link, child: child.start().expect("a shell") }
    }

    fn told(&self) -> (u64, PorterMessage, Vec<OwnedFd>) {
        let (mut buffer, mut fds) = ([0; 4096], Vec::new());
        let Packet::Data { len } = self.link.recv(&mut buffer, &mut fds).expect("a message in time") else {
            panic!("the porter went away");
        };
        let decoded = PorterMessage::decode(&buffer[..len], Sender::Porter, fds.len());
        let (head, message) = decoded.expect("a porter speaks well");
        (head.request, message, fds)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.child.kill().expect("ours");
        self.child.wait().expect("ours");
    }
}

// M-130
#[test]
fn a_porter_is_confined_when_it_looks_at_the_first_fd() {
    let rig = Rig::new(":");
    hand(&rig.channel, 1, &memfd(4096));
    assert!(matches!(rig.told(), (1, PorterMessage::Brought(_), _)));
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.child.pid)).expect("it lives");
    let has = |line: &str| status.lines().any(|found| found.split_whitespace().eq(line.split(' ')));
    assert!(has("NoNewPrivs: 1") && has("Seccomp: 2") && has("CapEff: 0000000000000000"), "{status}");
}

#[test]
fn a_porter_holds_nothing_but_its_two_sockets() {
    let rig = Rig::new(":");
    for request in 1..=20 {
        hand(&rig.channel, request, &memfd(4096));
        assert!(matches!(rig.told(), (of, PorterMessage::Brought(_), _) if of == request));
    }
    // It has told of the last one and may not have closed it yet.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", rig.child.pid)).expect("it lives").count();
    crate::common::until("only what it began with is open", || open() == 5);
}

// M-131
#[test]
fn a_message_whose_fds_do_not_all_arrive_is_refused() {
    // One more can be open than are, and two are sent.
    let rig = Rig::new("ulimit -n 6");
    let memory = memfd(4096);
    rig.channel.send(&Hand {}.encode(3, Time(0), 0), &[memory.as_fd(), memory.as_fd()]).expect("room");
    let (request, message, _) = rig.told();
    let PorterMessage::Unfit(unfit) = message else { panic!("{message:?}") };
    assert_eq!((request, unfit.code), (3, ErrorCode::Malformed));
    assert!(String::from_utf8_lossy(&unfit.text).contains("truncated"));
    hand(&rig.channel, 4, &memory);
    // Its own limit also bounds what it may have in flight, so the next may be refused by the kernel, but is told.
    assert_eq!(rig.told().0, 4);
}
