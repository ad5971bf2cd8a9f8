//! Domains from the command line.

use std::path::Path;
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
