//! Domains with a socket of their own, as real processes see them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::domains::{QuotaKind, QuotaLimit};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::DomainId;
use vgem_proto::message::client::{
    ClientMessage, CloseDomain, CreateDomain, Hello, Inspect, ListDevices, SetQuota, Welcome,
};
use vgem_proto::snapshot::{ClientEntry, DomainEntry, Topic};

use crate::common::{Client, Daemon, creation};

/// A domain, and who made it.
struct Stage {
    daemon: Daemon,
    admin: Client,
    domain: DomainId,
    /// The folder of its socket.
    folder: PathBuf,
}

fn staged_with(quotas: Vec<QuotaLimit>) -> Stage {
    let daemon = Daemon::start();
    let mut admin = daemon.client();
    let create = CreateDomain { name: b"stage".to_vec(), quotas, uses: vec![] };
    let (answer, _) = admin.ask(&create.into());
    let ClientMessage::DomainCreated(created) = answer else { panic!("{answer:?}") };
    let path = PathBuf::from(String::from_utf8(created.path).expect("a path"));
    assert_eq!(path, daemon.place().join("domains/stage/vgemd.sock"));
    Stage { daemon, admin, domain: created.domain, folder: path.parent().expect("a folder").to_owned() }
}

fn staged() -> Stage {
    staged_with(vec![])
}

impl Stage {
    /// A client that came through the domain's socket.
    fn client(&self) -> Client {
        let mut client = Client::connect(&self.folder);
        let answer = client.greet();
        assert!(matches!(answer, ClientMessage::Welcome(Welcome { domain, .. }) if domain == self.domain));
        client
    }
}

/// Whether the daemon ends a connection, in the time that a client waits for an answer.
fn is_closed(client: &Client) -> bool {
    matches!(client.socket.recv_plain(&mut [0; 256]), Ok(Packet::Closed) | Err(_))
}

fn entries<T: serde::de::DeserializeOwned>(client: &mut Client, topic: Topic) -> Vec<T> {
    match client.ask(&Inspect { cursor: 0, topic, reserved: Zero }.into()).0 {
        ClientMessage::Page(page) => serde_json::from_slice(&page.json).expect("entries"),
        other => panic!("{other:?}"),
    }
}

// M-195
#[test]
fn a_client_is_in_the_domain_whose_socket_it_came_through_and_sees_no_other() {
    let mut s = staged();
    let (mut inside, mut outside) = (s.client(), s.daemon.client());
    let _held = outside.ready(4096);
    let seen: Vec<ClientEntry> = entries(&mut inside, Topic::Clients);
    assert!(seen.len() == 1 && seen[0].domain == s.domain.0, "{seen:?}");
    let domains: Vec<DomainEntry> = entries(&mut inside, Topic::Domains);
    assert!(domains.len() == 1 && domains[0].clients == 1, "{domains:?}");
    let (answer, _) = inside.ask(&SetQuota { domain: s.domain, quotas: vec![] }.into());
    assert!(matches!(answer, ClientMessage::Refused(r) if r.code == ErrorCode::Denied));
    let all: Vec<DomainEntry> = entries(&mut s.admin, Topic::Domains);
    assert_eq!(all.len(), 2);
}

#[test]
fn a_door_is_for_whom_it_was_given_to() {
    let s = staged();
    let bits = |path: PathBuf| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let domains = s.folder.parent().expect("a folder").to_owned();
    let found = (bits(domains), bits(s.folder.clone()), bits(s.folder.join("vgemd.sock")));
    assert_eq!(found, (0o700, 0o755, 0o666));
}

// M-197
#[test]
fn the_death_of_its_creator_ends_a_domain_with_its_door_and_its_sessions() {
    let Stage { daemon, admin, folder, .. } = staged();
    let mut inside = Client::connect(&folder);
    inside.greet();
    drop(admin);
    assert!(is_closed(&inside));
    crate::common::until("the door is gone", || !folder.exists());
    assert!(matches!(daemon.client().ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

#[test]
fn a_domain_that_is_closed_is_gone_and_its_name_is_free() {
    let mut s = staged();
    let (answer, _) = s.admin.ask(&CloseDomain { domain: s.domain }.into());
    assert!(matches!(answer, ClientMessage::Done(_)));
    let create = CreateDomain { name: b"stage".to_vec(), quotas: vec![], uses: vec![] };
    let (answer, _) = s.admin.ask(&create.into());
    let ClientMessage::DomainCreated(created) = answer else { panic!("{answer:?}") };
    assert_eq!(created.domain.0, s.domain.0 + 1);
    assert!(Client::connect(&s.folder).try_greet());
}

// M-194, T4
#[test]
fn atk_a_domain_that_is_full_of_connections_keeps_nobody_else_out() {
    let s = staged_with(vec![QuotaLimit::new(QuotaKind::Connections, 3)]);
    let held: Vec<Client> = (0..3).map(|_| s.client()).collect();
    let is_refused = |client: Client| match client.answer().0 {
        ClientMessage::Refused(refused) => (refused.code, refused.limit) == (ErrorCode::Exhausted, 3),
        other => panic!("{other:?}"),
    };
    let refused = (0..300).filter(|_| is_refused(Client::connect(&s.folder))).count();
    assert_eq!((refused, held.len()), (300, 3));
    let mut outside = s.daemon.client();
    assert!(matches!(outside.ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
}

// M-045
#[test]
fn atk_fds_through_the_socket_of_a_domain_are_taken_by_nobody() {
    let s = staged();
    let client = s.client();
    let files = crate::common::memfd(4096);
    let hello = Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: vec![] };
    let broker = s.daemon.children()[0];
    let count = || std::fs::read_dir(format!("/proc/{broker}/fd")).expect("it lives").count();
    let before = count();
    for n in 0..20 {
        use std::os::fd::AsFd as _;
        let bytes = hello.encode(n, vgem_proto::ids::Time(0), 0);
        // A kernel that can refuses at the sender.
        drop(client.socket.send(&bytes, &[files.as_fd()]));
    }
    let mut other = s.client();
    assert!(matches!(other.ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
    assert!(count() <= before + 4, "{} files before, {} after", before, count());
}

#[test]
fn each_domain_exhausts_itself_alone() {
    let s = staged_with(vec![QuotaLimit::new(QuotaKind::Objects, 1)]);
    let (mut inside, mut outside) = (s.client(), s.daemon.client());
    let _held = inside.ready(4096);
    let (answer, _) = inside.ask(&creation(4096).into());
    assert!(matches!(answer, ClientMessage::Refused(r) if (r.code, r.value) == (ErrorCode::Exhausted, 2)));
    let _theirs = (outside.ready(4096), outside.ready(4096));
}

#[test]
fn nothing_of_a_door_is_left_when_the_daemon_ends() {
    let mut s = staged();
    assert!(s.folder.exists());
    s.daemon.hang_up();
    assert!(!s.daemon.place().exists());
    assert!(Socket::connect(s.folder.join("vgemd.sock")).is_err());
}
