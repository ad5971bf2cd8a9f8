//! Domains from the command line.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use vgem::Deadline;

use crate::support::{broker, command, json, vgemctl};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_runs_in_a_domain_that_ends_with_it() {
    let (broker, client) = broker();
    let vgemctl_program = env!("CARGO_BIN_EXE_vgemctl");
    let create =
        ["domain", "create", "stage", "--quota", "bytes=1MiB,objects=3", "--devices", "copy,zip/compress"];
    let inside = ["--run", "--", vgemctl_program, "domain", "list", "--format", "json"];
    let out = vgemctl(&broker, &[&create[..], &inside[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one document");
    let [domain] = seen.as_array().expect("domains").as_slice() else { panic!("{seen}") };
    assert_eq!((&domain["name"], &domain["origin"]), (&"stage".into(), &"socket".into()));
    assert_eq!((&domain["quotas"]["bytes"]["limit"], &domain["clients"]), (&(1 << 20).into(), &1.into()));
    assert_eq!(domain["operations"]["zip"], serde_json::json!(["compress"]));
    let path = Path::new(domain["path"].as_str().expect("a path")).to_owned();
    let end = Deadline::after(Duration::from_secs(20));
    let named = || client.domain_entries().expect("an answer").iter().any(|domain| domain.name == "stage");
    while path.exists() || named() {
        assert!(!end.passed(), "the domain stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_command_in_a_domain_ends_as_it_ends() {
    let (broker, _client) = broker();
    let shell =
        ["--run", "--", "/bin/sh", "-c", "test -S $VGEM_SOCKET && test -d $VGEM_DOMAIN_DIR && exit 42"];
    let out = vgemctl(&broker, &[&["domain", "create", "stage"][..], &shell[..]].concat());
    assert_eq!(out.status.code(), Some(42), "{}", text(&out.stderr));
}

#[test]
fn a_domain_that_stays_is_shown_changed_drained_and_closed() {
    let (broker, client) = broker();
    let out = vgemctl(&broker, &["domain", "create", "stage"]);
    assert!(text(&out.stdout).trim_end().ends_with("domains/stage/vgemd.sock"), "{}", text(&out.stdout));
    assert!(vgemctl(&broker, &["quota", "stage", "jobs=7"]).status.success());
    assert_eq!(json(&broker, &["domain", "show", "stage"])["quotas"]["jobs"]["limit"], 7);
    let shown = text(&vgemctl(&broker, &["quota", "stage"]).stdout);
    assert!(shown.contains("jobs") && shown.contains("requests_per_s"), "{shown}");
    assert!(vgemctl(&broker, &["domain", "close", "stage"]).status.success());
    assert_eq!(vgemctl(&broker, &["domain", "drain", "stage"]).status.code(), Some(5));
    assert!(client.domain_entries().expect("an answer").iter().all(|domain| domain.name != "stage"));
}

#[test]
fn a_command_runs_in_a_domain_at_a_socket_that_is_bound_anywhere() {
    let (broker, client) = broker();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("own.sock");
    let listen = ["domain", "create", "chest", "--listen", path.to_str().expect("text")];
    let script = "test \"$VGEM_SOCKET\" = \"$0\" && test \"$(stat -c %a \"$0\")\" = 600 && \"$1\" domain list --format json";
    let inside = ["--run", "--", "/bin/sh", "-c", script, listen[4], env!("CARGO_BIN_EXE_vgemctl")];
    let out = vgemctl(&broker, &[&listen[..], &inside[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one document");
    assert_eq!((&seen[0]["name"], &seen[0]["path"]), (&"chest".into(), &listen[4].into()), "{seen}");
    ends(&client, "chest");
    assert!(!path.exists());
}

#[test]
fn a_domain_at_a_socket_lives_until_vgemctl_is_interrupted_or_it_is_closed() {
    let (broker, client) = broker();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("own.sock");
    for closes in [false, true] {
        let mut create = command(&broker, &["domain", "create", "chest", "--listen"]);
        create.arg(&path).args(["--mode", "666"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = create.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), path.to_str().expect("text"));
        let inside = vgem::Client::connect(&path).expect("a client of the domain");
        if closes {
            client.close_domain(inside.domain()).expect("it may");
        } else {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("ours");
        }
        let out = child.wait_with_output().expect("ours");
        assert_eq!((out.status.success(), path.exists()), (true, false));
        assert_eq!(text(&out.stderr).contains("the domain was ended"), closes);
        ends(&client, "chest");
    }
}

/// A domain is gone, soon.
fn ends(client: &vgem::Client, name: &str) {
    let end = Deadline::after(Duration::from_secs(20));
    while client.domain_entries().expect("an answer").iter().any(|domain| domain.name == name) {
        assert!(!end.passed(), "the domain stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_client_is_disconnected() {
    let (broker, client) = broker();
    let other = broker.client().expect("a client");
    let out = command(&broker, &["disconnect", &other.number().to_string()]).output().expect("it starts");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(other.status().is_err() && client.status().is_ok());
}

#[test]
fn whoever_does_not_administer_is_refused_with_4() {
    let (broker, _client) = broker();
    let inside = ["--run", "--", env!("CARGO_BIN_EXE_vgemctl"), "disconnect", "1"];
    let out = vgemctl(&broker, &[&["domain", "create", "stage"][..], &inside[..]].concat());
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("denied"), "{}", text(&out.stderr));
}
