//! `vgemctl who`: clients, devices, the daemon and strangers.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vgem::{Access, BufferOptions, Deadline};

use crate::support::{SOON, broker, json, vgemctl};

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
