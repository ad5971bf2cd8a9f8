//! A daemon that serves the machine shows all domains to a user whom its configuration lets observe, and lets it change none.

#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::DomainId;
use vgem_proto::message::client::{CloseDomain, Disconnect, SetQuota};
use vgem_proto::snapshot::{ClientEntry, ObjectEntry, Topic};
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::raw::Raw;
use vgem_tests::stranger::Stranger;
use vgem_tests::{processes, programs};

/// Whose things there are.
const OWNER: u32 = USERS[0];
/// Who looks on.
const WATCHER: u32 = USERS[1];

/// A connection of this user.
fn client_of(daemon: &Serving, uid: u32) -> Raw {
    Raw::over(Stranger::of_uid(uid).connect(&daemon.socket()))
}

/// Whose objects a client is shown.
fn owners(raw: &mut Raw) -> Vec<u32> {
    raw.inspect::<ObjectEntry>(Topic::Objects).into_iter().map(|entry| entry.domain).collect()
}

fn vgemctl_as(uid: u32, daemon: &Serving, args: &[&str]) -> Output {
    let mut command = Command::new(programs::own("vgemctl"));
    command.arg("--socket").arg(daemon.socket()).args(args).uid(uid).gid(uid);
    command.output().expect("another user needs root")
}

// M-230, M-231
#[test]
fn an_observer_sees_another_users_objects_and_clients_and_administers_nothing() {
    let daemon = Daemon::system().config(&format!("[observers]\nuids = [{WATCHER}]\n")).start();
    let mut owner = client_of(&daemon, OWNER);
    let _object = owner.object(true);
    let mut watcher = client_of(&daemon, WATCHER);
    assert_eq!(owners(&mut watcher), [OWNER]);
    let clients: Vec<ClientEntry> = watcher.inspect(Topic::Clients);
    let theirs = clients.iter().find(|entry| entry.uid == OWNER).expect("it is connected");

    let asked: [vgem_proto::message::client::ClientMessage; 3] = [
        Disconnect { client: theirs.client }.into(),
        SetQuota { domain: DomainId(WATCHER), quotas: vec![] }.into(),
        CloseDomain { domain: DomainId(OWNER) }.into(),
    ];
    for message in asked {
        assert_eq!(watcher.refused(message).code, ErrorCode::Denied);
    }
    assert_eq!(owners(&mut owner), [OWNER], "it is still there");

    // What people use to look.
    let said = vgemctl_as(WATCHER, &daemon, &["--format", "json", "list", "objects"]);
    let listed: Vec<ObjectEntry> = serde_json::from_slice(&said.stdout).expect("entries");
    assert_eq!(listed.iter().map(|entry| entry.domain).collect::<Vec<_>>(), [OWNER], "{said:?}");
    let said = vgemctl_as(WATCHER, &daemon, &["disconnect", &theirs.client.to_string()]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
}

// M-230
#[test]
fn whom_nobody_named_sees_its_own_domain() {
    let daemon = Daemon::system().start();
    let mut owner = client_of(&daemon, OWNER);
    let _object = owner.object(true);
    assert_eq!(owners(&mut client_of(&daemon, WATCHER)), [0; 0]);
}

// M-233
#[test]
fn a_configuration_that_is_read_again_counts_for_those_who_connect_from_then_on() {
    let daemon = Daemon::system().start();
    let mut owner = client_of(&daemon, OWNER);
    let _object = owner.object(true);
    let mut early = client_of(&daemon, WATCHER);
    daemon.says(&format!("[observers]\nuids = [{WATCHER}]\n"));
    // The keeper reads it when it comes to it.
    processes::until(Duration::from_secs(10), "the policy is in force", || {
        owners(&mut client_of(&daemon, WATCHER)) == [OWNER]
    });
    assert_eq!(owners(&mut early), [0; 0]);
}
