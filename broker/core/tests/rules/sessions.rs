//! Sessions of those who call over a bus: whose they are, and what they may.

use vgem_core::io::{Effect, Event, LinkId, Scope, Way};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::DomainId;
use vgem_proto::message::client::{ClientMessage, CreateDomain, Inspect, Monitor};
use vgem_proto::snapshot::Topic;

use crate::world::{DOMAIN, OTHER_DOMAIN, World, config, hello};

/// Root's domain.
const ROOT: DomainId = DomainId(0);

fn greeted(world: &mut World, way: Way, domain: DomainId) -> LinkId {
    let link = world.connect_by(way, domain.0, domain);
    let welcome = world.ask(link, hello());
    assert!(matches!(welcome, Some(ClientMessage::Welcome(_))), "{welcome:?}");
    link
}

/// What a client may look at.
fn scope(world: &mut World, link: LinkId) -> Scope {
    world.ask(link, Inspect { cursor: 0, topic: Topic::Clients, reserved: Zero });
    let Some(Effect::Inspect { scope, .. }) = world.inspected.pop() else { panic!("not inspected") };
    scope
}

// M-206
#[test]
fn root_administers_over_the_socket_and_not_over_the_bus() {
    let mut world = World::new();
    let (socket, bus) = (greeted(&mut world, Way::Socket, ROOT), greeted(&mut world, Way::Bus, ROOT));
    assert_eq!((scope(&mut world, socket), scope(&mut world, bus)), (Scope::All, Scope::Domain(ROOT)));
}

// M-206
#[test]
fn who_comes_over_the_bus_is_told_what_happens_in_its_own_domain_alone() {
    let mut world = World::new();
    let bus = greeted(&mut world, Way::Bus, ROOT);
    world.ask(bus, Monitor {});
    let told = world.said.iter().find_map(|effect| match effect {
        Effect::Monitor { scope, .. } => Some(*scope),
        _ => None,
    });
    assert_eq!(told, Some(Scope::Domain(ROOT)));
}

// M-235, M-237
#[test]
fn who_is_to_administer_over_the_bus_does_and_is_named_in_the_line_about_it() {
    let mut world = World::new();
    let admin = greeted(&mut world, Way::BusAdmin, OTHER_DOMAIN);
    assert_eq!(scope(&mut world, admin), Scope::All);
    let make = CreateDomain { name: b"stage".to_vec(), quotas: vec![], uses: vec![] };
    assert!(matches!(world.ask(admin, make), Some(ClientMessage::DomainCreated(_))));
    let audited = world.events.iter().find_map(|event| match event {
        Event::Administered { uid, what, .. } => Some((*uid, what.as_str())),
        _ => None,
    });
    let (uid, what) = audited.expect("a line");
    assert_eq!((uid, what), (OTHER_DOMAIN.0, "makes domain stage, domain:4026531840, by way of test"));
}

// M-205
#[test]
fn who_comes_over_the_bus_is_charged_to_the_domain_of_its_user() {
    let mut config = config();
    config.policy.defaults.quotas.connections = 1;
    let mut world = World::with(config);
    greeted(&mut world, Way::Bus, DOMAIN);
    greeted(&mut world, Way::Bus, OTHER_DOMAIN);
    // The one connection of this domain is taken, whichever way the next one comes.
    for way in [Way::Socket, Way::Bus] {
        let link = world.connect_by(way, DOMAIN.0, DOMAIN);
        let refused = world.replies.pop_back().map(|reply| reply.message);
        let Some(ClientMessage::Refused(refused)) = refused else { panic!("{refused:?}") };
        assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 1));
        assert!(world.disconnected.contains(&link));
    }
}
