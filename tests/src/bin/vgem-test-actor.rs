//! An actor of the chaos tests: a client that does as it is told over its standard input, a SEQPACKET socket, and tells
//! how every wait of it ended. `vgem_tests::chaos` is the other end.
//!
//! Arguments: its role, and the user to become. It ends with its standard input.
#![forbid(unsafe_code)]

use std::os::fd::AsFd as _;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_tests::chaos::players::Player;
use vgem_tests::chaos::words::Answer;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, uid] = &args[..] else { panic!("a role and a user: {args:?}") };
    let role = serde_json::from_str(&format!("\"{role}\"")).expect("a role");
    let uid = uid.parse().expect("a number");
    setgroups(&[]).and_then(|()| setgid(Gid::from_raw(uid))).expect("run this as root");
    setuid(Uid::from_raw(uid)).expect("run this as root");
    let link = Socket::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a standard input"));
    let mut player = Player::new(role);
    let mut buf = vec![0; 65_536];
    loop {
        let mut fds = Vec::new();
        let Ok(Packet::Data { len }) = link.recv(&mut buf, &mut fds) else { return };
        let order = serde_json::from_slice(&buf[..len]).expect("an order");
        let tell = |answer: &Answer| link.send(&serde_json::to_vec(answer).expect("answers are JSON"), &[]);
        let answer = player.obey(order, fds, &|early| drop(tell(&early)));
        if tell(&answer).is_err() {
            return;
        }
    }
}
