//! The daemon as real processes: how it starts, what it answers, how it ends.
#![forbid(unsafe_code)]

mod common;
mod domains;
mod events;
mod hostile;
mod import;
mod logs;
mod objects;
mod policy;
mod porter;
mod timelines;

use std::path::Path;

use common::{
    Client, Daemon, Queue, children, creation, drivers, lives, outcome, script, signal, status, vgemd,
};
use vgem_os::fence::PointState;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, Commit, ListDevices};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn it_answers_a_greeting_and_names_its_devices() {
    let daemon = Daemon::start();
    let mut client = Client::connect(&daemon.place());
    assert!(matches!(client.greet(), ClientMessage::Welcome(_)));
    let (answer, _) = client.ask(&ListDevices {}.into());
    let ClientMessage::Devices(devices) = answer else { panic!("{answer:?}") };
    assert_eq!(devices.names, b"fake");
}

#[test]
fn a_job_goes_to_its_driver_and_its_point_comes_back() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    client.submit(&queue, 1, 0);
    assert!(matches!(queue.wait(1), PointState::Ok { .. }));
}

// M-064
#[test]
fn a_killed_driver_fails_what_it_owed() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    client.submit(&queue, 1, 0);
    client.submit(&queue, 2, 1);
    assert!(matches!(queue.wait(1), PointState::Ok { .. }));
    signal(daemon.child_called("vgem-driver-fake"), "KILL");
    assert_eq!(failure(&queue, 2), Some(ErrorCode::DeviceLost));
    assert!(matches!(queue.wait(1), PointState::Ok { .. }));
}

// M-101
#[test]
fn a_driver_that_breaks_the_protocol_is_killed() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    let driver = daemon.child_called("vgem-driver-fake");
    client.submit(&queue, 1, 2);
    assert!(failure(&queue, 1).is_some());
    assert!(!lives(driver));
}

#[test]
fn an_oversize_message_is_refused_and_the_connection_lives() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.socket.send(&vec![0; 100 * 1024], &[]).expect("room");
    let (answer, _) = client.answer();
    let ClientMessage::Refused(refused) = answer else { panic!("{answer:?}") };
    let limit = limits::MESSAGE_LEN as u64;
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::TooLarge, 100 * 1024, limit));
    assert!(matches!(client.ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn a_malformed_message_is_refused_and_the_connection_lives() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.socket.send(&[0xff; 64], &[]).expect("room");
    let (answer, _) = client.answer();
    assert!(matches!(answer, ClientMessage::Refused(refused) if refused.code == ErrorCode::Malformed));
    assert!(matches!(client.ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn an_object_is_made_with_its_memory() {
    let daemon = Daemon::start();
    let create = creation(8192);
    let (answer, fds) = daemon.client().ask(&create.into());
    assert!(matches!(answer, ClientMessage::ObjectCreated(object) if object.len == 8192));
    assert_eq!(
        std::fs::File::from(fds.into_iter().next().expect("its fd")).metadata().expect("stat").len(),
        8192
    );
}

// M-032
#[test]
fn the_broker_gives_an_object_no_page() {
    use std::os::unix::fs::MetadataExt as _;
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let create = creation(8192);
    let (answer, fds) = client.ask(&create.into());
    let ClientMessage::ObjectCreated(created) = answer else { panic!("{answer:?}") };
    let (answer, _) = client.ask(&Commit { objects: created.objects }.into());
    assert!(matches!(answer, ClientMessage::Refused(refused) if refused.code == ErrorCode::NotReady));
    let file = std::fs::File::from(fds.into_iter().next().expect("its fd"));
    assert_eq!(file.metadata().expect("stat").blocks(), 0);
}

#[test]
fn a_client_that_takes_no_fds_is_told_so() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    if !client.socket.set_pass_rights(false).expect("the option") {
        // Kernels before 6.16 have no way to take none.
        return;
    }
    let create = creation(4096);
    let (answer, _) = client.ask(&create.into());
    assert!(matches!(answer, ClientMessage::Refused(refused) if refused.code == ErrorCode::System));
}

#[test]
fn a_client_that_reads_nothing_is_dropped_and_others_are_served() {
    let daemon = Daemon::start();
    let deaf = daemon.client();
    let list = ClientMessage::from(ListDevices {}).encode(1, Time(0), 0);
    deaf.socket.set_nonblocking(true).expect("non-blocking");
    // It ends only because the daemon closes: a socket that is merely full is tried again.
    let deadline = vgem_os::clock::deadline_in(common::SOON);
    while deaf.socket.send(&list, &[]).map_or_else(|e| e.would_block(), |()| true) {
        assert!(vgem_os::clock::now() < deadline, "it is kept though it reads nothing");
    }
    assert!(matches!(daemon.client().ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn status_tells_the_process_and_what_was_found() {
    let daemon = Daemon::start();
    let status = status(&mut daemon.client());
    assert_eq!(status.pid, daemon.child_called("broker"));
    for line in ["lease probe: exact", "pinning: 0 bytes, all of", "porters: 0 now, each confined before"] {
        assert!(status.features.iter().any(|found| found.starts_with(line)), "{line}: {:?}", status.features);
    }
}

#[test]
fn an_idle_broker_sleeps_without_an_end() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    client.submit(&queue, 1, 0);
    assert!(matches!(queue.wait(1), PointState::Ok { .. }));
    drop((queue, client));
    // Which call it is in, with its arguments: the fourth of epoll_pwait is the time limit.
    let call = format!("/proc/{}/syscall", daemon.child_called("broker"));
    let asleep = |call: &str| {
        let words: Vec<_> = call.split_whitespace().collect();
        words.len() > 4 && words[4] == "0xffffffffffffffff"
    };
    let deadline = vgem_os::clock::deadline_in(common::SOON);
    while !asleep(&std::fs::read_to_string(&call).expect("the broker is ours")) {
        assert!(vgem_os::clock::now() < deadline, "it keeps a timer: {:?}", std::fs::read_to_string(&call));
        std::thread::yield_now();
    }
}

#[test]
fn nothing_is_left_when_the_process_it_serves_is_gone() {
    let mut daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    client.submit(&queue, 1, 1);
    let family = daemon.children();
    assert_eq!((daemon.hang_up().code(), family.len()), (Some(0), 2));
    assert!(!family.into_iter().any(lives) && !daemon.place().exists());
    assert_eq!(failure(&queue, 1), Some(ErrorCode::BrokerLost));
}

#[test]
fn nothing_is_left_after_a_signal_to_end() {
    for name in ["TERM", "INT"] {
        let mut daemon = Daemon::start();
        let family = daemon.children();
        signal(daemon.child.id(), name);
        assert_eq!(daemon.child.wait().expect("its end").code(), Some(0));
        assert!(!family.into_iter().any(lives) && !daemon.place().exists(), "{name}");
    }
}

#[test]
fn nobody_outlives_a_killed_keeper() {
    let mut daemon = Daemon::start();
    let family = daemon.children();
    signal(daemon.child.id(), "KILL");
    daemon.child.wait().expect("its end");
    let deadline = vgem_os::clock::deadline_in(common::SOON);
    while family.iter().any(|pid| lives(*pid)) {
        assert!(vgem_os::clock::now() < deadline, "somebody lives");
        std::thread::yield_now();
    }
}

#[test]
fn a_daemon_takes_the_place_of_a_killed_one() {
    let mut daemon = Daemon::start();
    signal(daemon.child.id(), "KILL");
    daemon.child.wait().expect("its end");
    let other = tempfile::tempdir().expect("a directory");
    let next = Daemon::start_in(std::mem::replace(&mut daemon.dir, other), &drivers(), &[]);
    assert!(matches!(next.client().ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn a_dead_broker_takes_everybody_with_it() {
    let mut daemon = Daemon::start();
    let family = daemon.children();
    signal(daemon.child_called("broker"), "KILL");
    assert_eq!(daemon.child.wait().expect("its end").code(), Some(70));
    assert!(!family.into_iter().any(lives) && !daemon.place().exists());
}

// M-121
#[test]
fn the_broker_is_confined_when_the_daemon_is_ready() {
    let daemon = Daemon::start();
    let path = format!("/proc/{}/status", daemon.child_called("broker"));
    let status = std::fs::read_to_string(path).expect("the broker lives");
    let has = |line: &str| status.lines().any(|found| found.split_whitespace().eq(line.split(' ')));
    assert!(has("NoNewPrivs: 1") && has("Seccomp: 2"), "{status}");
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused() {
    let daemon = Daemon::start();
    let place = daemon.place();
    let (code, said) = outcome(&["--user", "--dir", text(&place), "--drivers", text(&drivers())]);
    assert_eq!(code, 75);
    assert!(said.contains(text(&place)) && said.lines().count() == 1, "{said}");
    assert!(said.contains("another vgemd serves there"), "{said}");
    assert!(matches!(daemon.client().ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn without_a_driver_it_says_where_it_looked() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a directory");
    let place = dir.path().join("d");
    let (code, said) = outcome(&["--user", "--dir", text(&place), "--drivers", text(&empty)]);
    assert_eq!(code, 69);
    assert!(said.contains(text(&empty)) && !place.exists(), "{said}");
}

#[test]
fn a_broken_driver_is_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = tempfile::tempdir().expect("a directory");
    let fake = "vgem-driver-fake";
    std::os::unix::fs::symlink(drivers().join(fake), dir.path().join(fake)).expect("a link");
    for (name, text) in [("junk", "#!/bin/sh\necho junk\n"), ("ends", "#!/bin/sh\nexit 3\n"), ("none", "")] {
        script(&dir.path().join(format!("vgem-driver-{name}")), text);
    }
    // Says that it is another.
    std::os::unix::fs::symlink(drivers().join(fake), dir.path().join("vgem-driver-other")).expect("a link");
    let daemon = Daemon::start_in(place, dir.path(), &[]);
    let (answer, _) = daemon.client().ask(&ListDevices {}.into());
    assert!(matches!(answer, ClientMessage::Devices(devices) if devices.names == b"fake"));
}

#[test]
fn a_driver_that_does_not_answer_in_time_is_left_out_and_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    script(&dir.path().join("vgem-driver-slow"), "#!/bin/sh\nexec sleep 600\n");
    let place = dir.path().join("d");
    let mut child = vgemd()
        .args(["--user", "--dir", text(&place), "--drivers", text(dir.path())])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("vgemd starts");
    let mut family = children(child.id());
    while family.is_empty() {
        std::thread::yield_now();
        family = children(child.id());
    }
    assert_eq!(child.wait().expect("its end").code(), Some(69));
    assert!(!family.into_iter().any(lives));
}

#[test]
fn a_wrong_command_line_is_64() {
    assert_eq!(outcome(&["--what"]).0, 64);
    assert_eq!(outcome(&["--embedded", "9"]).0, 64);
    assert_eq!(outcome(&["--embedded", "99", "--dir", "d"]).0, 64);
    assert_eq!(outcome(&["--help"]).0, 0);
}

#[test]
fn a_wrong_configuration_is_78_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("v.toml");
    std::fs::write(&file, "[quota]\nbites_mib = 1\n").expect("a file");
    let place = dir.path().join("d");
    let (code, said) = outcome(&["--user", "--dir", text(&place), "--config", text(&file)]);
    assert_eq!(code, 78);
    assert!(said.contains(text(&file)) && said.contains("bites_mib"), "{said}");
}

#[test]
fn a_place_that_cannot_be_is_73() {
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = dir.path().join("a/b");
    assert_eq!(outcome(&["--user", "--dir", text(&nowhere), "--drivers", text(&drivers())]).0, 73);
    let long = dir.path().join("x".repeat(100));
    assert_eq!(outcome(&["--user", "--dir", text(&long), "--drivers", text(&drivers())]).0, 73);
}

#[test]
fn a_quota_of_the_configuration_is_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("v.toml");
    std::fs::write(&file, "[quota]\nbytes_mib = 1\n").expect("a file");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let create = creation(2 << 20);
    let (answer, _) = daemon.client().ask(&create.into());
    let ClientMessage::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 1 << 20));
}

/// How a point failed, if it did.
fn failure(queue: &Queue, point: u64) -> Option<ErrorCode> {
    match queue.wait(point) {
        PointState::Failed { code, .. } => Some(ErrorCode::from_number(code)),
        _ => None,
    }
}
