//! A client of its own for tests to share with: it becomes another user, takes buffers that are sent to it over its standard
//! input, reads them through the library's guards, and says what it saw.
//!
//! Arguments: the broker's socket, and the user to become. For each buffer it prints `received LEN NAME`, and then
//! `read BYTE` if all its bytes are equal, `mixed`, or `failed CODE TEXT`. It ends with its standard input.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use vgem::{Client, Deadline, Error};
use vgem_os::seqpacket::Socket;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, uid] = &args[..] else { panic!("a socket and a user: {args:?}") };
    let uid = uid.parse().expect("a number");
    setgroups(&[]).and_then(|()| setgid(Gid::from_raw(uid))).expect("run this as root");
    setuid(Uid::from_raw(uid)).expect("run this as root");
    let link = Socket::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a standard input"));
    let client = Client::connect(path).expect("a broker listens");
    loop {
        let received = match client.receive(&link, Deadline::after(Duration::from_secs(60))) {
            Ok(received) => received,
            Err(Error::Transfer(_)) => return,
            Err(other) => panic!("{other}"),
        };
        say(&format!("received {} {}", received.buffer.len(), received.name));
        let said = match received.buffer.read(.., Deadline::after(Duration::from_secs(20))) {
            Ok(bytes) if bytes.iter().all(|byte| *byte == bytes[0]) => format!("read {}", bytes[0]),
            Ok(_) => "mixed".to_owned(),
            Err(error) => format!("failed {:?} {error}", error.code()),
        };
        say(&said);
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads");
}
