//! What a domain may use, who is in which, and another policy while the broker serves.

use std::collections::{BTreeMap, BTreeSet};

use vgem_core::Config;
use vgem_core::config::{NamedDomain, Policy, Quotas, Rules, Uses};
use vgem_core::io::{Input, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, DomainId};
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{ClientMessage, Describe, ListDevices, OpenQueue, Refused};
use vgem_proto::snapshot::Topic;

use vgem_core::io::Scope;
use vgem_core::snapshot::Entries;

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, MS, ONCE, World, ZIP, config, create};

/// The first domain with a name.
const STAGE: DomainId = DomainId(0xF000_0000);

fn only(devices: &[&str]) -> Uses {
    let devices = devices.iter().map(|name| (*name).to_owned()).collect();
    Uses { devices: Some(devices), operations: BTreeMap::new() }
}

/// Of `copy` only its first operation.
fn only_first() -> Uses {
    let first = BTreeSet::from(["any".to_owned()]);
    Uses { devices: None, operations: BTreeMap::from([("copy".to_owned(), first)]) }
}

fn stage(uses: Uses) -> NamedDomain {
    let rules = Rules { uses, ..Rules::default() };
    let (uids, groups) = (BTreeSet::from([7]), BTreeSet::from([70]));
    NamedDomain { name: "stage".into(), rules, uids, groups, ..NamedDomain::default() }
}

fn with(named: NamedDomain) -> Config {
    let policy = Policy { domains: vec![named], ..Policy::default() };
    Config { policy, ..config() }
}

fn devices(world: &mut World, link: LinkId) -> Vec<DeviceId> {
    match world.ask(link, ListDevices {}) {
        Some(ClientMessage::Devices(devices)) => devices.ids,
        other => panic!("not listed: {other:?}"),
    }
}

fn open(device: DeviceId) -> OpenQueue {
    OpenQueue { device, depth: 0, priority: 0, reserved: Zero }
}

fn is_denied(refused: &Refused, of: &str) -> bool {
    let text = String::from_utf8_lossy(&refused.text).into_owned();
    refused.code == ErrorCode::Denied && text.contains(of) && text.contains("domain stage")
}

// M-191
#[test]
fn a_device_that_a_domain_may_not_use_is_not_listed_described_opened_or_made_for() {
    let mut world = World::with(with(stage(only(&["zip"]))));
    let link = world.client_of(STAGE);
    assert_eq!(devices(&mut world, link), [ZIP]);
    let sealed = vgem_proto::message::client::CreateObject { writer: COPY, ..create(4096) };
    let asked: [ClientMessage; 3] = [Describe { device: COPY }.into(), open(COPY).into(), sealed.into()];
    for message in asked {
        let refused = world.refused(link, message);
        assert!(is_denied(&refused, "device copy"), "{refused:?}");
    }
    world.open(link, ZIP);
}

#[test]
fn tools_of_a_domain_see_the_devices_that_it_may_use() {
    let world = World::with(with(stage(only(&["zip"]))));
    let names = |scope| match world.broker.snapshot(scope, Topic::Devices, 0, 10).entries {
        Entries::Devices(devices) => devices.into_iter().map(|device| device.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(names(Scope::Domain(STAGE)), ["zip"]);
    assert_eq!(names(Scope::All).len(), 3);
}

// M-192
#[test]
fn a_job_with_an_operation_that_its_domain_may_not_use_is_denied_and_another_is_not() {
    let mut world = World::with(with(stage(only_first())));
    let link = world.client_of(STAGE);
    let queue = world.open(link, COPY).queue;
    let object = world.object(link, 4096);
    let refused = world.refused(link, Batch::new().job(queue, 1).op(ONCE).reads(object, 0..64).0);
    assert!(is_denied(&refused, "of device copy") && refused.value == u64::from(ONCE), "{refused:?}");
    world.submit(link, Batch::new().job(queue, 2).reads(object, 0..64));
}

// M-193
#[test]
fn an_instance_is_told_what_its_domain_may_not_use_before_it_is_given_a_queue() {
    let mut world = World::with(with(stage(only_first())));
    let (link, free) = (world.client_of(STAGE), world.client());
    world.open(link, COPY);
    world.open(free, COPY);
    let forbidden = |domain| {
        let driver = &world.drivers[&world.instance_of(COPY, domain)];
        (driver.forbidden.clone(), driver.told_first)
    };
    assert_eq!(forbidden(STAGE), (Some(vec![7, ONCE]), true));
    assert_eq!(forbidden(DOMAIN).0, None);
}

#[test]
fn an_instance_of_a_clients_own_is_told_too() {
    let mut world = World::with(with(stage(only_first())));
    let link = world.client_of(STAGE);
    let later = world.now.after(1000 * MS);
    let request = world.send(link, open(COPY), OPEN_OWN, later);
    assert!(matches!(world.answer_to(request).expect("an answer").message, ClientMessage::QueueOpened(_)));
    assert_eq!(world.drivers[&world.instance_of(COPY, STAGE)].forbidden, Some(vec![7, ONCE]));
}

#[test]
fn a_user_is_in_the_domain_that_names_it_else_its_groups_else_its_own() {
    let (by_uid, by_group) = (stage(Uses::default()), stage(Uses::default()));
    let other = NamedDomain { name: "other".into(), uids: BTreeSet::from([8]), ..by_group };
    let policy = Policy { domains: vec![by_uid, other], ..Policy::default() };
    let world = World::with(Config { policy, ..config() });
    let home = |uid, groups: &[u32]| world.broker.home_of(uid, groups, None).0;
    let other = STAGE.0 + 1;
    assert_eq!(
        [home(7, &[]), home(8, &[70]), home(9, &[1, 70]), home(9, &[1])],
        [STAGE.0, other, STAGE.0, 9]
    );
}

#[test]
fn a_control_group_decides_before_user_and_group_and_the_deepest_path_before_others() {
    let named = |name: &str, paths: &[&str]| NamedDomain {
        name: name.into(),
        cgroups: paths.iter().map(|path| (*path).to_owned()).collect(),
        ..NamedDomain::default()
    };
    let domains = vec![stage(Uses::default()), named("a", &["/a", "/x/y/z"]), named("b", &["/a/b/c", "/x"])];
    let policy = Policy { domains, ..Policy::default() };
    let mut world = World::with(Config { policy, ..config() });
    assert!(world.broker.asks_for_cgroups());
    let home =
        |world: &World, cgroup: &str| world.broker.home_of(7, &[70], Some(cgroup.as_bytes())).0 - STAGE.0;
    for (cgroup, domain) in [
        ("/a", 1),
        ("/a/b", 1),
        ("/a/b/c", 2),
        ("/a/b/c/d", 2),
        ("/a/b/cd", 1),
        ("/ab", 0),
        ("/", 0),
        ("", 0),
        ("/b/a", 0),
        ("/../a", 0),
        ("/x/y", 2),
        ("/x/y/z", 1),
    ] {
        assert_eq!(home(&world, cgroup), domain, "{cgroup}");
    }
    let root = Policy { domains: vec![stage(Uses::default()), named("a", &["/"])], ..Policy::default() };
    world.apply(Input::Policy(Box::new(root)));
    let found = ["/", "/ab", "/..ab", "/..", "/../ab"].map(|cgroup| home(&world, cgroup));
    assert_eq!(found, [1, 1, 1, 0, 0], "what is seen outside is not below");
    let none = Policy { domains: vec![stage(Uses::default())], ..Policy::default() };
    world.apply(Input::Policy(Box::new(none)));
    assert!(!world.broker.asks_for_cgroups());
}

// M-190
#[test]
fn a_user_with_the_number_of_a_named_domain_is_not_let_in() {
    let mut world = World::with(with(stage(Uses::default())));
    let home = world.broker.home_of(STAGE.0, &[], None);
    assert_ne!(home, STAGE);
    let link = world.connect(home);
    assert!(world.disconnected.contains(&link));
    assert!(world.usage(home) == vgem_core::Usage::default());
}

#[test]
fn another_policy_keeps_connections_and_what_is_held_and_gives_no_more() {
    let mut world = World::with(with(stage(Uses::default())));
    let link = world.client_of(STAGE);
    let queue = world.open(link, COPY).queue;
    let object = world.object(link, 8192);
    let mut less = stage(only_first());
    less.rules.quotas = Quotas { bytes: 4096, ..Quotas::default() };
    let policy = Policy { domains: vec![less], ..Policy::default() };
    world.apply(Input::Policy(Box::new(policy)));
    let refused = world.refused(link, create(4096));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 12288, 4096));
    let refused = world.refused(link, Batch::new().job(queue, 1).op(ONCE).reads(object, 0..64).0);
    assert!(is_denied(&refused, "copy"));
    assert_eq!(world.drivers[&world.instance_of(COPY, STAGE)].forbidden, Some(vec![7, ONCE]));
    world.submit(link, Batch::new().job(queue, 2).reads(object, 0..64));
    assert_eq!(world.usage(STAGE).bytes, 8192);
}

#[test]
fn the_rules_of_everybody_can_change_too() {
    let mut world = World::new();
    let link = world.client();
    world.open(link, COPY);
    let defaults = Rules { uses: only_first(), ..Rules::default() };
    world.apply(Input::Policy(Box::new(Policy { defaults, ..Policy::default() })));
    assert_eq!(world.drivers[&world.instance_of(COPY, DOMAIN)].forbidden, Some(vec![7, ONCE]));
    world.apply(Input::Policy(Box::default()));
    assert_eq!(world.drivers[&world.instance_of(COPY, DOMAIN)].forbidden, Some(vec![]));
}

#[test]
fn a_domain_that_is_left_out_takes_nobody_new_and_goes_with_its_last_client() {
    let mut world = World::with(with(stage(Uses::default())));
    let link = world.client_of(STAGE);
    world.apply(Input::Policy(Box::default()));
    assert_eq!(world.broker.home_of(7, &[], None), DomainId(7));
    assert_eq!(devices(&mut world, link).len(), 3);
    let late = world.connect(STAGE);
    assert!(world.disconnected.contains(&late));
    world.hang_up(link);
    world.apply(Input::Policy(Box::new(with(stage(Uses::default())).policy)));
    assert_eq!(world.broker.home_of(7, &[], None).0, STAGE.0 + 1, "a number is never given twice");
}
