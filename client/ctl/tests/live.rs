//! The command with a broker that is real, and the processes it is asked about.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them; without them it fails and says where it looked.

#![forbid(unsafe_code)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use vgem::{Access, BufferOptions, Deadline, Embedded};

use crate::support::{broker, command, json, vgemctl};

const SOON: Duration = Duration::from_secs(20);

/// A process that has `fd` as its standard input and knows nothing of it.
struct Stranger(Child);

impl Stranger {
    fn with(fd: OwnedFd) -> Self {
        // It waits for its standard error to be closed by nobody: until it is killed.
        let child = Command::new("sleep").arg("1000").stdin(fd).stdout(Stdio::null()).spawn();
        Self(child.expect("there is a sleep"))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is ours");
    }
}

#[test]
fn who_finds_clients_devices_the_daemon_and_strangers() {
    let (broker, client) = broker();
    let frame = client.create_with(8192, &BufferOptions::new().name("frame")).expect("memory");
    let copy = client.device("copy").expect("it is there").queue(0).expect("a queue");
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&frame).param("byte", 1);
    batch.submit().expect("sent").wait(SOON).expect("done");
    let stranger = Stranger::with(frame.export(Access::Read).expect("an export"));

    let report = json(&broker, &["who", "frame"]);
    let holds = report["holds"].as_array().expect("a list");
    let held = |who: &str, how: &str, access: &str| {
        holds.iter().any(|hold| {
            hold["who"].as_str().is_some_and(|found| found.starts_with(who))
                && !hold[how].is_null()
                && hold["access"] == access
        })
    };
    assert!(held("broker", "fd", "read, write") && held("keeper", "fd", "read, write"), "{report:#}");
    assert!(
        held("client ", "mapping", "read, write") && held("driver copy", "mapping", "read, write"),
        "{report:#}"
    );
    assert!(held("no client", "fd", "read"), "{report:#}");
    let pid = u64::from(stranger.0.id());
    assert!(
        holds.iter().any(|hold| hold["pid"] == pid && hold["fd"] == 0 && hold["comm"] == "sleep"),
        "{report:#}"
    );
    assert_eq!(report["handles"][0]["client"], client.number());
}

#[test]
fn who_finds_the_one_process_that_keeps_an_orphan() {
    let (broker, client) = broker();
    let frame = client.create_with(4096, &BufferOptions::new().name("left")).expect("memory");
    let key = client.object_entries().expect("an answer")[0].object.clone();
    let stranger = Stranger::with(frame.export(Access::Write).expect("an export"));
    drop(frame);
    let end = Deadline::after(SOON);
    while client.object_entries().expect("an answer").first().is_none_or(|one| one.state != "orphaned") {
        assert!(!end.passed(), "it becomes an orphan");
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = vgemctl(&broker, &["who", &key]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let pid = stranger.0.id().to_string();
    let line = said.lines().find(|line| line.starts_with("no client")).expect("a stranger");
    assert!(line.contains(&pid) && line.contains("fd 0") && line.contains("read, write"), "{said}");
    assert!(said.contains("orphaned") && !said.contains("in flight"), "{said}");
}

#[test]
fn who_says_so_where_an_orphan_is_in_flight() {
    let (broker, client) = broker();
    let (near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let frame = client.create_with(4096, &BufferOptions::new().name("flying")).expect("memory");
    frame.send(&near, Access::Read, SOON).expect("there is room");
    drop(frame);
    let end = Deadline::after(SOON);
    while client.object_entries().expect("an answer").first().is_none_or(|one| one.state != "orphaned") {
        assert!(!end.passed(), "it becomes an orphan");
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = vgemctl(&broker, &["who", "flying"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("in flight in a socket, or in a process you may not see"), "{said}");
}

#[test]
fn an_object_that_is_not_there_has_its_own_exit_code() {
    let (broker, _client) = broker();
    let out = vgemctl(&broker, &["who", "nothing"]);
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stderr).contains("list objects")),
        (Some(5), true)
    );
}

/// A monitor that is told what happens from now on.
fn monitor(broker: &Embedded, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let before = broker.client().expect("a client");
    let mut command = command(broker, &[&["monitor"], args].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    // It has begun when it tells of a client that came after it.
    let end = Deadline::after(SOON);
    while before
        .client_entries()
        .expect("an answer")
        .iter()
        .all(|one| one.name != "vgemctl" || one.messages < 2)
    {
        assert!(!end.passed(), "it asks to be told");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(before);
    let told = |line: &str| line.contains("client_gone") || line.contains("is gone");
    assert!(lines.by_ref().lines().any(|line| told(&line.expect("text"))));
    (child, lines)
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
}

#[test]
fn a_monitor_prints_one_json_document_per_line() {
    let (broker, client) = broker();
    let (mut child, lines) = monitor(&broker, &["--format", "jsonl"]);
    drop(client.create_with(4096, &BufferOptions::new().name("seen")).expect("memory"));
    let told = lines.lines().map(|line| -> serde_json::Value {
        serde_json::from_str(&line.expect("text")).expect("one JSON document per line")
    });
    let events = told.filter_map(|one| one["event"].as_str().map(str::to_owned));
    let events: Vec<String> = events.filter(|event| event.starts_with("object_")).take(2).collect();
    interrupt(&child);
    assert_eq!(
        (events.as_slice(), child.wait().expect("ours").code()),
        (["object_created".to_owned(), "object_ready".to_owned()].as_slice(), Some(0))
    );
}

#[test]
fn a_monitor_that_counts_ends_after_so_many_events() {
    let (broker, _client) = broker();
    let mut child =
        command(&broker, &["monitor", "--count", "2"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let end = Deadline::after(SOON);
    while child.try_wait().expect("ours").is_none() {
        assert!(!end.passed(), "there are events enough");
        drop(broker.client().expect("a client"));
    }
    let out = child.wait_with_output().expect("ours");
    let lines = String::from_utf8_lossy(&out.stdout).lines().count();
    assert_eq!((out.status.code(), lines), (Some(0), 2));
}

#[test]
fn a_monitor_ends_well_with_ctrl_c_and_with_its_broker() {
    let (broker, client) = broker();
    let (mut child, _lines) = monitor(&broker, &[]);
    interrupt(&child);
    assert_eq!(child.wait().expect("ours").code(), Some(0));
    let (child, _lines) = monitor(&broker, &[]);
    drop(client);
    drop(broker);
    let out = child.wait_with_output().expect("ours");
    assert_eq!(out.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&out.stderr).contains("the broker has ended"), "{out:?}");
}

#[test]
fn objects_are_listed_with_their_kind_and_pins_with_their_state() {
    let (broker, client) = broker();
    let device = client.device("copy").expect("it is there");
    let _queue = device.queue(0).expect("a queue");
    let _own = client.create(4096).expect("memory");
    let _sealed = client.create_with(4096, &BufferOptions::new().sealed_for(&device)).expect("memory");
    let said = String::from_utf8_lossy(&vgemctl(&broker, &["list", "objects"]).stdout).into_owned();
    assert!(said.contains("KIND") && said.contains(" own ") && said.contains(" sealed copy "), "{said}");
    let status = String::from_utf8_lossy(&vgemctl(&broker, &["status"]).stdout).into_owned();
    assert!(status.lines().filter(|line| line.starts_with("pin")).count() == 2, "{status}");
}
