//! The command as a person meets it where no broker runs.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the command with a place for brokers in which none is.
fn vgemctl(args: &[&str]) -> Output {
    let empty = tempfile::tempdir().expect("a folder");
    command(empty.path()).args(args).output().expect("it starts")
}

fn command(empty: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgemctl"));
    command.env("VGEM_SOCKET", empty.join("vgemd.sock")).env("VGEM_BIN_DIR", empty);
    command
}

fn said(out: &Output) -> (Option<i32>, String) {
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn without_a_broker_the_remedy_is_named() {
    for verb in [
        ["status"].as_slice(),
        &["list", "devices"],
        &["show", "client", "1"],
        &["explain", "3.7"],
        &["who", "x"],
        &["why", "x"],
        &["monitor"],
    ] {
        let (code, text) = said(&vgemctl(verb));
        assert!(
            code == Some(3) && text.contains("vgemd --user") && text.contains("no such socket"),
            "{text}"
        );
    }
}

#[test]
fn without_a_daemon_run_says_where_it_looked() {
    let (code, text) = said(&vgemctl(&["run", "zip", "compress", "a", "b"]));
    assert!(code == Some(3) && text.contains("no vgemd in"), "{text}");
}

#[test]
fn a_named_socket_is_the_only_one() {
    let (code, text) =
        said(&vgemctl(&["--socket", "/nowhere/vgemd.sock", "run", "zip", "compress", "a", "b"]));
    assert!(code == Some(3) && text.contains("/nowhere/vgemd.sock") && !text.contains("private"), "{text}");
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for wrong in [
        ["list", "stars"].as_slice(),
        &["explain", "why"],
        &["who"],
        &["run", "zip", "compress", "--param", "x"],
    ] {
        assert_eq!(vgemctl(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn doctor_prints_one_json_document_with_a_remedy_for_everything_that_is_not_well() {
    let out = vgemctl(&["doctor", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
    let findings = report["findings"].as_array().expect("a list of findings");
    assert!(findings.iter().all(|one| one["verdict"] == "PASS" || one["fix"] != ""), "{report}");
    assert_eq!(out.status.code() == Some(1), report["verdict"] == "FAIL");
}

#[test]
fn doctor_warns_that_no_broker_runs_and_fails_where_one_was_named() {
    let verdict = |args: &[&str]| {
        let report: serde_json::Value =
            serde_json::from_slice(&vgemctl(args).stdout).expect("one JSON document");
        let findings = report["findings"].as_array().expect("a list of findings");
        let broker = findings.iter().find(|one| one["name"] == "broker").expect("it looks for a broker");
        broker["verdict"].as_str().expect("a word").to_owned()
    };
    assert_eq!(verdict(&["doctor", "--format", "json"]), "WARN");
    assert_eq!(verdict(&["doctor", "--format", "json", "--socket", "/nowhere/vgemd.sock"]), "FAIL");
}
