//! Users whom the policy lets see all domains, and change nothing of them.

use std::collections::BTreeSet;

use vgem_core::Config;
use vgem_core::config::Policy;
use vgem_core::io::{Effect, Input, LinkId, Scope, Way};
use vgem_core::snapshot::Entries;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DomainId, Point, TimelineKey};
use vgem_proto::message::client::{
    Cancel, ClientMessage, CloseDomain, CloseObject, CreateDomain, Disconnect, DrainDomain, Explain, Inspect,
    Monitor, SetQuota, Trace,
};
use vgem_proto::snapshot::Topic;

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, OTHER_DOMAIN, World, config, create, hello};

const ROOT: DomainId = DomainId(0);
/// The user that the policy names, and its domain.
const WATCHER: DomainId = DomainId(9);
/// Of [`OTHER_DOMAIN`], whom no policy names.
const PLAIN: DomainId = OTHER_DOMAIN;

fn policy() -> Policy {
    Policy { observers: BTreeSet::from([WATCHER.0]), ..config().policy }
}

/// An owner with a job that has failed and one that waits for it, and who looks on.
struct Scene {
    world: World,
    owner: LinkId,
    line: TimelineKey,
    cause: CauseId,
    watcher: LinkId,
    plain: LinkId,
}

fn scene() -> Scene {
    let mut world = World::with(Config { policy: policy(), ..config() });
    let (owner, watcher, plain) = (world.client(), world.client_of(WATCHER), world.client_of(PLAIN));
    let object = world.object(owner, 4096);
    let opened = world.open(owner, COPY);
    let line = opened.timeline;
    for point in 1..=3 {
        world.submit(owner, Batch::new().job(opened.queue, point).writes(object, 0..64));
    }
    world.run(line, Some(ErrorCode::CorruptInput));
    let failed = world.truth.look(line, Point(1)).expect("ended").expect_err("failed");
    Scene { world, owner, line, cause: failed.cause, watcher, plain }
}

impl Scene {
    /// Whose things a client sees: what it asked to see, as the shell looks it up.
    fn sees(&mut self, link: LinkId, topic: Topic) -> BTreeSet<u32> {
        let scope = scope(&mut self.world, link);
        match self.world.broker.snapshot(scope, topic, 0, 100).entries {
            Entries::Objects(all) => all.iter().map(|one| one.domain).collect(),
            Entries::Clients(all) => all.iter().map(|one| one.domain).collect(),
            Entries::Queues(all) => all.iter().map(|one| one.domain).collect(),
            Entries::Domains(all) => all.iter().map(|one| one.domain).collect(),
            Entries::Obligations(all) => all.iter().map(|one| one.domain).collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn scope(world: &mut World, link: LinkId) -> Scope {
    world.ask(link, Inspect { cursor: 0, topic: Topic::Clients, reserved: Zero });
    let Some(Effect::Inspect { scope, .. }) = world.inspected.pop() else { panic!("not inspected") };
    scope
}

// M-230
#[test]
fn an_observer_sees_objects_clients_and_jobs_of_others_and_why_they_failed() {
    let mut s = scene();
    let (watcher, plain) = (s.watcher, s.plain);
    for topic in [Topic::Objects, Topic::Queues, Topic::Obligations] {
        assert_eq!(s.sees(watcher, topic), BTreeSet::from([DOMAIN.0]), "{topic:?}");
        assert_eq!(s.sees(plain, topic), BTreeSet::new(), "{topic:?}");
    }
    for topic in [Topic::Clients, Topic::Domains] {
        assert_eq!(s.sees(watcher, topic), BTreeSet::from([DOMAIN.0, PLAIN.0, WATCHER.0]), "{topic:?}");
        assert_eq!(s.sees(plain, topic), BTreeSet::from([PLAIN.0]), "{topic:?}");
    }
    let told = s.world.explain(watcher, s.cause);
    assert_eq!((told.timeline, told.object.is_empty()), (s.line, false), "all that its own domain is told");
    assert_eq!(told, s.world.explain(s.owner, s.cause));
    assert_eq!(s.world.refused(plain, Explain { cause: s.cause }).code, ErrorCode::Gone);
}

// M-230
#[test]
fn an_observer_is_told_of_what_happens_everywhere_and_of_every_job() {
    let mut s = scene();
    for link in [s.watcher, s.plain] {
        s.world.ask(link, Monitor {});
        s.world.ask(link, Trace {});
    }
    let told = s.world.said.iter().filter_map(|effect| match effect {
        Effect::Monitor { link, scope } | Effect::Trace { link, scope } => Some((*link, *scope)),
        _ => None,
    });
    let own = Scope::Domain(PLAIN);
    let expected = [(s.watcher, Scope::All), (s.watcher, Scope::All), (s.plain, own), (s.plain, own)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    s.world.run(s.line, None);
    let traced = s.world.said.iter().any(|effect| matches!(effect, Effect::Traced { domain: DOMAIN, .. }));
    assert!(traced, "the core notes jobs of all domains for it");
}

// M-231
#[test]
fn an_observer_changes_nothing_of_others() {
    let mut s = scene();
    let asked: [ClientMessage; 5] = [
        CreateDomain { name: b"mine".to_vec(), quotas: vec![], uses: vec![] }.into(),
        DrainDomain { domain: DOMAIN }.into(),
        CloseDomain { domain: DOMAIN }.into(),
        SetQuota { domain: WATCHER, quotas: vec![] }.into(),
        Disconnect { client: 1 }.into(),
    ];
    let before = s.world.broker.digest();
    for message in asked {
        assert_eq!(s.world.refused(s.watcher, message).code, ErrorCode::Denied);
    }
    assert_eq!(s.world.broker.digest(), before);
}

// M-231
#[test]
fn what_an_observer_sees_it_has_no_handle_of() {
    let mut s = scene();
    let object = s.world.object(s.owner, 4096);
    let queue = s.world.queue(s.owner, COPY);
    let asked: [ClientMessage; 3] = [
        CloseObject { object }.into(),
        Cancel { queue, point: Point(2) }.into(),
        Batch::new().job(queue, 1).reads(object, 0..64).0.into(),
    ];
    for message in asked {
        let same = s.world.refused(s.plain, message.clone());
        let refused = s.world.refused(s.watcher, message);
        assert_eq!((refused.code, &refused.text), (same.code, &same.text), "as for everybody");
        assert_eq!(refused.code, ErrorCode::NoSuchHandle);
    }
    // What is its own it makes and pays as everybody.
    let before = s.world.usage(WATCHER).bytes;
    s.world.ask(s.watcher, create(4096));
    assert_eq!((before, s.world.usage(WATCHER).bytes), (0, 4096));
}

// M-232
#[test]
fn neither_a_bus_nor_the_socket_of_a_domain_lets_anybody_observe() {
    let mut s = scene();
    let bus = s.world.connect_by(Way::Bus, WATCHER.0, WATCHER);
    s.world.ask(bus, hello());
    assert_eq!(scope(&mut s.world, bus), Scope::Domain(WATCHER));
    let root = s.world.client_of(ROOT);
    let make = CreateDomain { name: b"stage".to_vec(), quotas: vec![], uses: vec![] };
    let Some(ClientMessage::DomainCreated(made)) = s.world.ask(root, make) else { panic!("not made") };
    let inside = s.world.client_as(WATCHER.0, made.domain);
    assert_eq!(scope(&mut s.world, inside), Scope::Domain(made.domain));
}

// M-233
#[test]
fn another_policy_says_of_those_who_connect_from_then_on_whether_they_observe() {
    let mut s = scene();
    s.world.apply(Input::Policy(Box::default()));
    let late = s.world.client_of(WATCHER);
    assert_eq!(scope(&mut s.world, s.watcher), Scope::All);
    assert_eq!(scope(&mut s.world, late), Scope::Domain(WATCHER));
    s.world.apply(Input::Policy(Box::new(policy())));
    let again = s.world.client_of(WATCHER);
    assert_eq!(scope(&mut s.world, late), Scope::Domain(WATCHER));
    assert_eq!(scope(&mut s.world, again), Scope::All);
}
