//! `vgemctl monitor`, and how things are listed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use vgem::{BufferOptions, Deadline, Embedded, Point};

use crate::support::{SOON, broker, command, vgemctl};

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
fn a_monitor_of_what_is_late_tells_of_broken_promises_only() {
    let (broker, client) = broker();
    let child = command(&broker, &["monitor", "--late", "--count", "1", "--format", "jsonl"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let end = Deadline::after(SOON);
    let asked = |one: &vgem::snapshot::ClientEntry| one.name == "vgemctl" && one.messages >= 2;
    while !client.client_entries().expect("an answer").iter().any(asked) {
        assert!(!end.passed(), "it asks to be told");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Not late, and told of before.
    drop(client.create(4096).expect("memory"));
    let mut timeline = client.timeline("frames").expect("a timeline");
    let within = Duration::from_millis(100);
    timeline.promise(Point(3), within).expect("sent");
    let out = child.wait_with_output().expect("ours");
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one event");
    let what = (told["event"].as_str(), told["point"].as_u64(), told["client"].as_u64());
    assert_eq!(what, (Some("promise_broken"), Some(3), Some(client.number())));
    // The broker heard of it after it was made, and before it was due.
    let ages = told["age_ns"].as_u64().zip(told["late_ns"].as_u64());
    let heard = ages.and_then(|(age, late)| age.checked_sub(late)).map(Duration::from_nanos);
    assert!(heard.is_some_and(|heard| !heard.is_zero() && heard <= within), "{told}");
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
