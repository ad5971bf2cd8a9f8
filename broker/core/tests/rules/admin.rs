//! Who administers: domains with a socket of their own, quotas, the end of others' sessions.

use vgem_core::io::{Effect, Event, Input, LinkId, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::codec::Zero;
use vgem_proto::domains::{QuotaKind, QuotaLimit, USES_LEN};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, DomainId};
use vgem_proto::message::DOMAIN_STAYS;
use vgem_proto::message::client::{
    ClientMessage, CloseDomain, CreateDomain, Disconnect, DomainCreated, DrainDomain, Inspect, ListDevices,
    Monitor, OpenQueue, SetQuota,
};
use vgem_proto::snapshot::{DomainEntry, Topic};

use crate::world::{COPY, DOMAIN, OTHER_DOMAIN, World, ZIP, config, create, hello};

const ROOT: DomainId = DomainId(0);
const STAGE: DomainId = DomainId(0xF000_0000);

fn make(name: &str) -> CreateDomain {
    CreateDomain { name: name.into(), quotas: vec![], uses: vec![] }
}

fn quota(kind: QuotaKind, limit: u64) -> Vec<QuotaLimit> {
    vec![QuotaLimit::new(kind, limit)]
}

fn created(world: &mut World, admin: LinkId, create: CreateDomain) -> DomainId {
    match world.ask(admin, create) {
        Some(ClientMessage::DomainCreated(DomainCreated { domain, path })) => {
            assert_eq!(path, format!("/run/domains/{}", domain.0).into_bytes());
            domain
        }
        other => panic!("not made: {other:?}"),
    }
}

/// A world with who administers, and a domain with a socket.
fn staged() -> (World, LinkId) {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    assert_eq!(created(&mut world, admin, make("stage")), STAGE);
    (world, admin)
}

fn is_done(answer: &Option<ClientMessage>) -> bool {
    matches!(answer, Some(ClientMessage::Done(_)))
}

fn entries(world: &World, scope: Scope) -> Vec<DomainEntry> {
    match world.broker.snapshot(scope, Topic::Domains, 0, 100).entries {
        Entries::Domains(entries) => entries,
        other => panic!("{other:?}"),
    }
}

fn entry(world: &World, domain: DomainId) -> DomainEntry {
    entries(world, Scope::All).into_iter().find(|entry| entry.domain == domain.0).expect("a domain")
}

// M-194
#[test]
fn only_who_administers_makes_ends_and_changes_what_is_others() {
    let (mut world, _admin) = staged();
    let other = world.client_of(OTHER_DOMAIN);
    let asked: [ClientMessage; 5] = [
        make("mine").into(),
        DrainDomain { domain: STAGE }.into(),
        CloseDomain { domain: STAGE }.into(),
        SetQuota { domain: OTHER_DOMAIN, quotas: vec![] }.into(),
        Disconnect { client: 1 }.into(),
    ];
    let before = world.broker.digest();
    for message in asked {
        assert_eq!(world.refused(other, message).code, ErrorCode::Denied);
    }
    assert_eq!(world.broker.digest(), before);
    assert_eq!(entries(&world, Scope::Domain(OTHER_DOMAIN)).len(), 1);
}

// M-195
#[test]
fn root_of_a_container_administers_nothing_and_sees_its_own_domain() {
    let (mut world, _admin) = staged();
    let root = world.client_as(0, STAGE);
    assert_eq!(world.refused(root, make("mine")).code, ErrorCode::Denied);
    world.ask(root, Monitor {});
    world.send(root, Inspect { cursor: 0, topic: Topic::Clients, reserved: Zero }, 0, world.now);
    let scopes: Vec<Scope> = (world.inspected.iter().chain(&world.said))
        .filter_map(|effect| match effect {
            Effect::Inspect { scope, .. } | Effect::Monitor { scope, .. } => Some(*scope),
            _ => None,
        })
        .collect();
    assert_eq!(scopes, [Scope::Domain(STAGE); 2]);
}

// M-196
#[test]
fn a_domains_name_is_plain_and_its_own() {
    let (mut world, admin) = staged();
    for name in ["", "../etc", "Stage"] {
        assert_eq!(world.refused(admin, make(name)).code, ErrorCode::BadParameter);
    }
    assert_eq!(world.refused(admin, make("stage")).code, ErrorCode::Busy);
    assert_eq!(created(&mut world, admin, make("stage-2")), DomainId(STAGE.0 + 1));
}

#[test]
fn a_domain_has_the_quotas_and_devices_that_it_was_made_with() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let quotas = quota(QuotaKind::Bytes, 8192);
    let uses = b"zip\ncopy/any\n".to_vec();
    let domain = created(&mut world, admin, CreateDomain { name: "a".into(), quotas, uses });
    let link = world.client_as(1000, domain);
    world.object(link, 8192);
    let refused = world.refused(link, create(4096));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 12288, 8192));
    let entry = entry(&world, domain);
    assert_eq!((entry.devices.len(), &entry.operations["copy"]), (2, &vec!["any".to_owned()]));
    assert_eq!((entry.quotas["bytes"].used, entry.quotas["bytes"].limit), (8192, 8192));
    let sec = OpenQueue { device: DeviceId(3), depth: 0, priority: 0, reserved: Zero };
    assert_eq!(world.refused(link, sec).code, ErrorCode::Denied);
    world.open(link, ZIP);
    assert_eq!(world.drivers.values().next().expect("one").forbidden, None);
}

#[test]
fn what_is_not_there_or_said_twice_makes_no_domain() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let with = |uses: &[u8]| CreateDomain { uses: uses.to_vec(), ..make("a") };
    let before = world.broker.digest();
    assert_eq!(world.refused(admin, with(b"qat")).code, ErrorCode::NoSuchDevice);
    assert_eq!(world.refused(admin, with(b"zip/shrink")).code, ErrorCode::NoSuchOperation);
    assert_eq!(world.refused(admin, with(&vec![0xff; USES_LEN])).code, ErrorCode::NoSuchDevice);
    let quotas = [quota(QuotaKind::Jobs, 1), quota(QuotaKind::Jobs, 2)].concat();
    assert_eq!(world.refused(admin, CreateDomain { quotas, ..make("a") }).code, ErrorCode::BadParameter);
    assert_eq!(world.broker.digest(), before);
    assert!(entries(&world, Scope::Domain(STAGE)).is_empty());
}

// M-197
#[test]
fn a_domain_ends_with_its_creator_and_so_do_the_sessions_in_it() {
    let (mut world, admin) = staged();
    let before = world.broker.ledger();
    let link = world.client_as(1000, STAGE);
    world.object(link, 4096);
    world.hang_up(admin);
    assert!(world.disconnected.contains(&link) && world.doors.is_empty());
    world.let_ms_pass(60_000);
    assert!(entries(&world, Scope::All).is_empty());
    assert_eq!(world.broker.ledger().domains.len(), before.domains.len() - 1);
}

#[test]
fn a_domain_that_stays_outlives_its_creator() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    world.send(admin, make("stage"), DOMAIN_STAYS, world.now);
    world.hang_up(admin);
    let link = world.client_as(1000, STAGE);
    assert!(!world.disconnected.contains(&link));
    assert_eq!(entry(&world, STAGE).clients, 1);
}

#[test]
fn a_creator_that_goes_before_the_socket_is_made_leaves_none_behind() {
    let mut world = World::new();
    world.hold = |effect| matches!(effect, Effect::OpenDoor { .. });
    let admin = world.client_of(ROOT);
    world.send(admin, make("stage"), 0, world.now);
    world.hang_up(admin);
    world.doors.insert(STAGE);
    world.apply(Input::DoorOpened { domain: STAGE, path: "late".into() });
    assert!(world.doors.is_empty() && entries(&world, Scope::All).is_empty());
}

#[test]
fn a_socket_that_cannot_be_made_is_refused_and_leaves_nothing() {
    let mut world = World::new();
    world.hold = |effect| matches!(effect, Effect::OpenDoor { .. });
    let admin = world.client_of(ROOT);
    let request = world.send(admin, make("stage"), 0, world.now);
    world.apply(Input::DoorFailed { domain: STAGE, why: "no room".into() });
    let answer = world.answer_to(request).expect("an answer").message;
    assert!(matches!(answer, ClientMessage::Refused(ref r) if r.code == ErrorCode::System), "{answer:?}");
    world.hold = |_| false;
    assert_eq!(created(&mut world, admin, make("stage")).0, STAGE.0 + 1);
}

// M-198
#[test]
fn a_domain_that_is_drained_goes_on_without_anybody_new_and_ends_with_its_last_client() {
    let (mut world, admin) = staged();
    let link = world.client_as(1000, STAGE);
    assert!(is_done(&world.ask(admin, DrainDomain { domain: STAGE })));
    assert!(world.doors.is_empty());
    let late = world.connect_as(1000, STAGE);
    assert!(world.disconnected.contains(&late));
    assert!(matches!(world.ask(link, ListDevices {}), Some(ClientMessage::Devices(_))));
    world.hang_up(link);
    assert_eq!(world.refused(admin, DrainDomain { domain: STAGE }).code, ErrorCode::Gone);
}

#[test]
fn a_domain_that_is_closed_disconnects_everybody_in_it_and_nobody_else() {
    let (mut world, admin) = staged();
    let (inside, outside) = (world.client_as(1000, STAGE), world.client());
    assert!(is_done(&world.ask(admin, CloseDomain { domain: STAGE })));
    assert!(world.disconnected.contains(&inside) && !world.disconnected.contains(&outside));
    assert_eq!(world.refused(admin, CloseDomain { domain: DomainId(9) }).code, ErrorCode::Gone);
}

#[test]
fn the_name_of_a_domain_is_free_when_all_that_it_owes_is_paid() {
    let (mut world, admin) = staged();
    let link = world.client_as(1000, STAGE);
    world.close_exports = false;
    world.object(link, 4096);
    world.ask(admin, CloseDomain { domain: STAGE });
    world.hang_up(link);
    assert_eq!(world.refused(admin, make("stage")).code, ErrorCode::Busy);
    let object = world.last_object();
    world.memory.get_mut(&object).expect("it lives").exports = 0;
    world.apply(Input::ExportHint { object: Some(object) });
    world.let_ms_pass(60_000);
    assert_eq!(created(&mut world, admin, make("stage")).0, STAGE.0 + 1);
}

// M-199
#[test]
fn a_quota_that_is_set_holds_at_once_and_takes_nothing_away() {
    let mut world = World::new();
    let (admin, link) = (world.client_of(ROOT), world.client());
    world.object(link, 8192);
    assert!(is_done(&world.ask(admin, SetQuota { domain: DOMAIN, quotas: quota(QuotaKind::Objects, 1) })));
    let refused = world.refused(link, create(4096));
    assert_eq!((refused.value, refused.limit), (2, 1));
    assert_eq!(world.usage(DOMAIN).objects, 1);
    world.apply(Input::Policy(Box::default()));
    world.object(link, 4096);
    let refused = world.refused(admin, SetQuota { domain: STAGE, quotas: vec![] });
    assert_eq!(refused.code, ErrorCode::Gone);
}

#[test]
fn no_more_is_promised_than_the_machine_has() {
    let mut config = config();
    config.policy.capacity.bytes = Some(16384);
    config.policy.defaults.quotas.bytes = 16384;
    let mut world = World::with(config);
    let (admin, link) = (world.client_of(ROOT), world.client());
    world.object(link, 4096);
    let quotas = |bytes| quota(QuotaKind::Bytes, bytes);
    let refused = world.refused(admin, CreateDomain { quotas: quotas(12289), ..make("a") });
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 16385, 16384));
    created(&mut world, admin, CreateDomain { quotas: quotas(12288), ..make("a") });
    assert_eq!(world.refused(link, create(4096)).code, ErrorCode::Exhausted);
    let refused = world.refused(admin, SetQuota { domain: STAGE, quotas: quotas(12289) });
    assert_eq!(refused.code, ErrorCode::Exhausted);
}

#[test]
fn a_client_is_disconnected_by_its_number() {
    let mut world = World::new();
    let (admin, link) = (world.client_of(ROOT), world.connect(DOMAIN));
    let Some(ClientMessage::Welcome(welcome)) = world.ask(link, hello()) else { panic!("not welcome") };
    let number = welcome.client;
    assert!(is_done(&world.ask(admin, Disconnect { client: number })));
    assert!(world.disconnected.contains(&link) && !world.disconnected.contains(&admin));
    world.hang_up(link);
    let refused = world.refused(admin, Disconnect { client: number });
    assert_eq!((refused.code, refused.value), (ErrorCode::Gone, number));
}

#[test]
fn every_right_that_others_do_not_have_leaves_a_line_with_who_used_it() {
    let (mut world, admin) = staged();
    let link = world.connect(DOMAIN);
    let Some(ClientMessage::Welcome(welcome)) = world.ask(link, hello()) else { panic!("not welcome") };
    // What is refused is no use of a right.
    world.refused(link, DrainDomain { domain: STAGE });
    world.ask(admin, SetQuota { domain: STAGE, quotas: quota(QuotaKind::Objects, 1) });
    world.ask(admin, DrainDomain { domain: STAGE });
    let other = created(&mut world, admin, make("other"));
    world.ask(admin, CloseDomain { domain: other });
    world.ask(admin, Disconnect { client: welcome.client });
    let said: Vec<(u32, String)> = (world.events.iter())
        .filter_map(|event| match event {
            Event::Administered { uid, what, .. } => Some((*uid, what.clone())),
            _ => None,
        })
        .collect();
    let gone = format!("disconnects client {}", welcome.client);
    let expected = [
        "makes domain stage, domain:4026531840",
        "sets quotas of domain stage",
        "drains domain stage",
        "makes domain other, domain:4026531841",
        "closes domain other",
        &gone,
    ];
    assert_eq!(said, expected.map(|what| (0, what.to_owned())));
}

#[test]
fn a_configuration_that_is_read_again_leaves_domains_with_a_socket_alone() {
    let (mut world, admin) = staged();
    let link = world.client_as(1000, STAGE);
    let mut named = vgem_core::config::NamedDomain { name: "stage".into(), ..Default::default() };
    named.rules.quotas.objects = 0;
    let policy = vgem_core::config::Policy { domains: vec![named], ..Default::default() };
    world.apply(Input::Policy(Box::new(policy)));
    world.object(link, 4096);
    assert_eq!(entry(&world, STAGE).origin, "socket");
    assert!(is_done(&world.ask(admin, CloseDomain { domain: STAGE })));
}

#[test]
fn another_domain_does_not_see_how_many_there_are_of_anything() {
    let (mut world, _admin) = staged();
    let link = world.client_as(1000, STAGE);
    world.object(link, 4096);
    world.open(link, COPY);
    let status = |scope| match world.broker.snapshot(scope, Topic::Status, 0, 1).entries {
        Entries::Status(status) => *status,
        other => panic!("{other:?}"),
    };
    let (theirs, ours) = (status(Scope::Domain(OTHER_DOMAIN)), status(Scope::Domain(STAGE)));
    assert_eq!(theirs, vgem_proto::snapshot::Status::default());
    assert_eq!((ours.clients, ours.objects, ours.queues, ours.instances), (1, 1, 1, 1));
    assert_eq!(status(Scope::All).clients, 2);
}
