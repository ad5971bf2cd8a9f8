//! The command as a person meets it where no broker runs.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
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

/// The names and contents of the files in a folder.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let read = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).expect("text");
        (entry.file_name().to_string_lossy().into_owned(), text)
    };
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| read(entry.expect("a file"))).collect()
}

#[test]
fn the_pages_of_the_manual_are_what_the_command_line_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = vgemctl(&["man", folder.path().to_str().expect("text")]);
    assert!(out.status.success(), "{}", said(&out).1);
    let made = files(folder.path());
    let kept = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/man"));
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&kept), names(&made), "run `cargo xtask man`");
    for (name, text) in &made {
        assert!(kept[name] == *text, "packaging/man/{name} is old: run `cargo xtask man`");
    }
    assert!(
        made["vgemctl-trace.1"].contains("vgemctl trace \\-\\-output t.json"),
        "{}",
        made["vgemctl-trace.1"]
    );
}

#[test]
fn shells_are_told_of_every_verb() {
    for (shell, begins) in [("bash", "_vgemctl()"), ("zsh", "#compdef vgemctl"), ("fish", "# Print")] {
        let out = vgemctl(&["completion", shell]);
        let script = String::from_utf8(out.stdout).expect("text");
        assert!(out.status.success() && script.starts_with(begins), "{script}");
        for verb in ["trace", "top", "dump", "drain"] {
            assert!(script.contains(verb), "{shell} knows no {verb}");
        }
    }
    assert_eq!(vgemctl(&["completion", "dos"]).status.code(), Some(2));
}

#[test]
fn without_a_bench_it_is_said_in_one_line_how_to_get_it() {
    let empty = tempfile::tempdir().expect("a folder");
    let copy = empty.path().join("vgemctl");
    std::fs::copy(env!("CARGO_BIN_EXE_vgemctl"), &copy).expect("a copy with nothing beside it");
    let out = Command::new(copy)
        .args(["bench", "--list"])
        .env("PATH", empty.path())
        .env_remove("VGEM_BIN_DIR")
        .output();
    let (code, text) = said(&out.expect("it starts"));
    assert_eq!((code, text.lines().count()), (Some(5), 1), "{text}");
    assert!(text.contains("cargo xtask bench"), "{text}");
}

#[test]
fn the_broker_of_the_user_and_of_the_machine_are_looked_for_where_they_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let out =
        command(folder.path()).args(["status", "--user"]).env("XDG_RUNTIME_DIR", folder.path()).output();
    let (code, text) = said(&out.expect("it starts"));
    let place = folder.path().join("vgemd/vgemd.sock");
    assert!(code == Some(3) && text.contains(place.to_str().expect("text")), "{text}");
    let out = command(folder.path()).args(["status", "--user"]).env_remove("XDG_RUNTIME_DIR").output();
    assert_eq!(said(&out.expect("it starts")).0, Some(2));
    for both in [["--user", "--system"], ["--system", "--embedded"], ["--user", "--socket=/x"]] {
        assert_eq!(vgemctl(&[&both[..], &["status"]].concat()).status.code(), Some(2), "{both:?}");
    }
}
