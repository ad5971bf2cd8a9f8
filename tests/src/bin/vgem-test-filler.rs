//! A client for tests to charge: it joins a control group, fills buffers on a broker, has a device write them, and says so.
//!
//! Arguments: the broker's socket, the `cgroup.procs` to join, MiB of a buffer, buffers. It prints `made N` after each
//! buffer and `filled` after the last, and ends when its standard input does.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::time::Duration;

use vgem::{Client, Deadline};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, procs, mib, count] = &args[..] else {
        panic!("socket, cgroup.procs, MiB, buffers: {args:?}")
    };
    std::fs::write(procs, "0").expect("a control group that takes us");
    let (mib, count): (u64, u64) = (mib.parse().expect("MiB"), count.parse().expect("buffers"));
    let client = Client::connect(socket).expect("a broker listens");
    let queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
    let mut buffers = Vec::new();
    for number in 1..=count {
        let buffer = client.create(mib << 20).expect("a buffer");
        let mut batch = client.batch();
        batch.job(&queue, "fill").output(&buffer).param("byte", 7);
        batch.submit().expect("accepted").wait(Deadline::after(Duration::from_secs(60))).expect("done");
        buffers.push(buffer);
        say(&format!("made {number}"));
    }
    say("filled");
    drop(std::io::stdin().read(&mut [0]));
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads");
}
