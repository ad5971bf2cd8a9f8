//! A broker that is real, and the command with it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use vgem::{Buffer, Client, Embedded, Point, Submitted, Timeline};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A private broker and a client of it.
pub(crate) fn broker() -> (Embedded, Client) {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    (broker, client)
}

/// The command, about to be run with a broker.
pub(crate) fn command(broker: &Embedded, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgemctl"));
    command.arg("--socket").arg(broker.socket()).args(args).stdin(Stdio::null());
    // For those that run it again.
    let folder = Path::new(env!("CARGO_BIN_EXE_vgemctl")).parent().expect("a folder");
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&usual));
    command.env("PATH", std::env::join_paths(all).expect("folders"));
    command
}

/// The command, run with a broker.
pub(crate) fn vgemctl(broker: &Embedded, args: &[&str]) -> Output {
    command(broker, args).output().expect("it starts")
}

/// The JSON document that the command prints.
pub(crate) fn json(broker: &Embedded, args: &[&str]) -> serde_json::Value {
    let out = vgemctl(broker, &[args, &["--format", "json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("one JSON document")
}

/// A job that waits for its client's own word.
pub(crate) struct Held {
    gate: Timeline,
    sent: Submitted,
}

impl Held {
    /// Fills a buffer, once it is let; by then at the latest.
    pub(crate) fn new(client: &Client, frame: &Buffer, within: Duration) -> Self {
        let copy = client.device("copy").expect("it is there").queue(0).expect("a queue");
        let mut gate = client.timeline("gate").expect("a timeline");
        gate.promise_acknowledged(Point(1), within).expect("taken");
        let mut batch = client.batch();
        batch.job(&copy, "fill").output(frame).param("byte", 7).after(&gate.point(Point(1)));
        Self { gate, sent: batch.submit_acknowledged().expect("accepted") }
    }

    /// Lets it, and waits for its end.
    pub(crate) fn let_go(self) {
        let Self { mut gate, sent } = self;
        gate.signal(Point(1)).expect("signalled");
        sent.wait(SOON).expect("done");
    }
}
