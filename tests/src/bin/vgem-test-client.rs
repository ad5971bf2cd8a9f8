//! A client for tests to kill: it holds objects, queues and jobs on the broker at the path it is given, prints
//! `busy` once all of that is there, and goes on submitting until it is ended.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::time::Duration;

use vgem::{Client, Deadline};

fn main() {
    let path = std::env::args_os().nth(1).expect("the broker's socket");
    let client = Client::connect(path).expect("a broker listens");
    let queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
    let buffers: Vec<_> = (1..=8).map(|n| client.create(n << 16).expect("a buffer")).collect();
    let mut said = false;
    loop {
        let mut batch = client.batch();
        for pair in buffers.windows(2) {
            if let [from, to] = pair {
                batch.job(&queue, "copy").input(from).output(to);
            }
        }
        let submitted = batch.submit().expect("a broker that takes jobs");
        submitted.last().wait(Deadline::after(Duration::from_secs(10))).expect("jobs that end");
        if !said {
            let mut out = std::io::stdout();
            writeln!(out, "busy").and_then(|()| out.flush()).expect("somebody reads");
            said = true;
        }
    }
}
