//! The log: what strangers can write into it, and how much.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;

use tempfile::NamedTempFile;
use vgem_proto::ids::DomainId;
use vgem_proto::message::client::{ClientMessage, Commit, CreateDomain, CreateObject, SetQuota};

use crate::common::{Daemon, creation, until};

/// A daemon that logs everything into a file, which is there to read.
fn logging() -> (Daemon, NamedTempFile) {
    let file = NamedTempFile::new().expect("a file");
    let log = File::options().append(true).open(file.path()).expect("it is there");
    (Daemon::start_logging(log, &["--log", "debug"]), file)
}

fn lines(file: &NamedTempFile) -> Vec<String> {
    let text = std::fs::read(file.path()).expect("it is there");
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// The lines that have this in them, once there is one.
fn with(file: &NamedTempFile, what: &str) -> Vec<String> {
    let found = || lines(file).into_iter().filter(|line| line.contains(what)).collect::<Vec<_>>();
    until(&format!("a line with {what:?}"), || !found().is_empty());
    found()
}

#[test]
fn atk_a_name_that_a_client_chose_writes_no_line_of_its_own_and_no_escape() {
    let (daemon, file) = logging();
    let name = b"x\nFORGED audit: client 1\x1b[2J\r".to_vec();
    let (answer, _) = daemon.client().ask(&CreateObject { name, ..creation(4096) }.into());
    assert!(matches!(answer, ClientMessage::ObjectCreated(_)), "{answer:?}");
    let named = with(&file, "FORGED");
    assert!(named.len() == 1 && named[0].contains("is made by client"), "{named:?}");
    assert!(lines(&file).iter().all(|line| !line.contains(['\x1b', '\r'])));
}

#[test]
fn atk_a_client_that_is_refused_all_the_time_fills_no_log() {
    const TIMES: usize = 2000;
    let (daemon, file) = logging();
    let mut client = daemon.client();
    for _ in 0..TIMES {
        let (answer, _) = client.ask(&Commit { objects: vec![] }.into());
        assert!(matches!(answer, ClientMessage::Refused(_)), "{answer:?}");
    }
    let refused = with(&file, "is refused").len();
    assert!(refused < TIMES / 4, "{refused} lines of {TIMES} requests");
}

#[test]
fn atk_what_administers_is_told_though_the_log_of_its_domain_is_full() {
    let (daemon, file) = logging();
    let mut client = daemon.client();
    for _ in 0..200 {
        client.ask(&Commit { objects: vec![] }.into());
    }
    let (made, _) = client.ask(&CreateDomain { name: b"a".to_vec(), quotas: vec![], uses: vec![] }.into());
    let ClientMessage::DomainCreated(made) = made else { panic!("{made:?}") };
    client.ask(&SetQuota { domain: made.domain, quotas: vec![] }.into());
    let (refused, _) = client.ask(&SetQuota { domain: DomainId(1), quotas: vec![] }.into());
    let audited = with(&file, "sets quotas of domain");
    assert!(
        audited.iter().any(|line| line.contains("audit") && line.contains("domain a")),
        "{audited:?}, {refused:?}"
    );
    assert!(with(&file, "makes domain a,").len() == 1);
}

#[test]
fn atk_who_does_not_read_the_log_stops_nobody_and_is_told_that_lines_were_lost() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a pipe");
    let daemon = Daemon::start_logging(OwnedFd::from(writer).into(), &["--log", "trace"]);
    let mut client = daemon.client();
    let mut ask = || {
        let (answer, _) = client.ask(&Commit { objects: vec![] }.into());
        assert!(matches!(answer, ClientMessage::Refused(_)), "{answer:?}");
    };
    // Each is a line, and ten times as many as there is room for.
    (0..500).for_each(|_| ask());
    let is_told = |line: String| line.contains("log lines were lost");
    let told = std::thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).any(is_told));
    until("a line that says so", || {
        ask();
        told.is_finished()
    });
    assert!(told.join().expect("no panic"));
}
