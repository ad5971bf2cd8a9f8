//! Doors of a client's own: who may have one, what its doorman says, how the domain ends.

use vgem_core::io::{Attach, Event, Input, LinkId, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::domains::{QuotaKind, QuotaLimit};
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, PorterId};
use vgem_proto::message::client::{
    ClientMessage, CloseDomain, CreateDomain, DomainCreated, DrainDomain, OpenPorter, Refused,
};
use vgem_proto::message::{DOMAIN_AT, DOMAIN_STAYS, OPEN_DOORMAN};
use vgem_proto::snapshot::{DomainEntry, Topic};

use crate::world::{DOMAIN, OTHER_DOMAIN, WRITE, World, config, create};

const ROOT: DomainId = DomainId(0);
const BOX: DomainId = DomainId(0xF000_0000);
const PATH: &str = "/run/box/vgemd.sock";

fn make(name: &str) -> CreateDomain {
    CreateDomain { name: name.into(), quotas: vec![], uses: vec![] }
}

impl World {
    /// The answer to a request with flags, if it has one already.
    fn ask_flagged(&mut self, link: LinkId, message: impl Into<ClientMessage>, flags: u16) -> ClientMessage {
        let request = self.send(link, message, flags, self.now);
        self.answer_to(request).expect("an answer").message
    }

    fn refused_flagged(&mut self, link: LinkId, message: impl Into<ClientMessage>, flags: u16) -> Refused {
        match self.ask_flagged(link, message, flags) {
            ClientMessage::Refused(refused) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// A client's doorman, running.
    fn doorman(&mut self, link: LinkId) -> PorterId {
        let request = self.send(link, OpenPorter {}, OPEN_DOORMAN, self.now);
        match self.answer_to(request).expect("an answer").attach {
            Attach::Channel(porter) => porter,
            other => panic!("{other:?}"),
        }
    }

    fn fits(&mut self, porter: PorterId, request: u64) {
        self.apply(Input::DoorFits { porter, request, path: PATH.into() });
    }

    /// Asks for a domain at a socket that fits.
    fn at(&mut self, link: LinkId, porter: PorterId, create: CreateDomain) -> Option<ClientMessage> {
        let request = self.send(link, create, DOMAIN_AT, self.now);
        self.fits(porter, request);
        self.answer_to(request).map(|reply| reply.message)
    }

    fn domains(&self) -> Vec<DomainEntry> {
        match self.broker.snapshot(Scope::All, Topic::Domains, 0, 100).entries {
            Entries::Domains(entries) => entries.into_iter().filter(|d| d.domain >= BOX.0).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn ends_said(&self) -> Vec<String> {
        let said = self.events.iter().filter_map(|event| match event {
            Event::DomainEnds { name, how } => Some(format!("{name} {how}")),
            _ => None,
        });
        said.collect()
    }
}

/// A world with a domain at a socket, its creator and its doorman.
fn boxed() -> (World, LinkId, PorterId) {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let doorman = world.doorman(admin);
    let answer = world.at(admin, doorman, make("box"));
    let created = DomainCreated { domain: BOX, path: PATH.into() };
    assert_eq!(answer, Some(ClientMessage::DomainCreated(created)));
    (world, admin, doorman)
}

fn code(answer: Option<ClientMessage>) -> ErrorCode {
    match answer {
        Some(ClientMessage::Refused(refused)) => refused.code,
        other => panic!("not refused: {other:?}"),
    }
}

// M-194
#[test]
fn only_who_administers_has_a_doorman_and_a_domain_at_a_socket() {
    let mut world = World::new();
    let other = world.client_of(OTHER_DOMAIN);
    let before = world.broker.digest();
    assert_eq!(world.refused_flagged(other, OpenPorter {}, OPEN_DOORMAN).code, ErrorCode::Denied);
    assert_eq!(world.refused_flagged(other, make("mine"), DOMAIN_AT).code, ErrorCode::Denied);
    assert_eq!((world.broker.digest(), world.porters.len()), (before, 0));
}

// M-256
#[test]
fn a_domain_at_a_socket_is_open_when_both_halves_are_there_whichever_comes_first() {
    let (mut world, admin, first) = boxed();
    assert_eq!((world.domains()[0].state.as_str(), world.domains()[0].path.as_str()), ("open", PATH));
    assert_eq!(world.porters[&first].serves, Some(BOX));
    let second = world.doorman(admin);
    let request = world.next_request();
    world.fits(second, request);
    assert_eq!(world.porters[&second].serves, None);
    assert_eq!(world.send(admin, make("chest"), DOMAIN_AT, world.now), request);
    assert_eq!(world.porters[&second].serves, Some(DomainId(BOX.0 + 1)));
    assert!(matches!(world.answer_to(request).map(|r| r.message), Some(ClientMessage::DomainCreated(_))));
}

// M-256
#[test]
fn whoever_comes_through_it_is_counted_by_its_quotas_and_administers_nothing() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let doorman = world.doorman(admin);
    let quotas = vec![QuotaLimit::new(QuotaKind::Bytes, 8192)];
    world.at(admin, doorman, CreateDomain { quotas, ..make("box") });
    let link = world.client_as(0, BOX);
    world.object(link, 8192);
    assert_eq!(world.refused(link, create(4096)).limit, 8192);
    assert_eq!(world.refused_flagged(link, OpenPorter {}, OPEN_DOORMAN).code, ErrorCode::Denied);
}

// M-255
#[test]
fn it_outlives_its_creator_and_ends_with_its_close_fd() {
    let (mut world, admin, doorman) = boxed();
    let (inside, outside) = (world.client_as(1000, BOX), world.client());
    world.hang_up(admin);
    world.let_ms_pass(60_000);
    assert!(!world.disconnected.contains(&inside) && !world.porters[&doorman].killed);
    world.apply(Input::DoorEnds { porter: doorman });
    assert!(world.disconnected.contains(&inside) && !world.disconnected.contains(&outside));
    assert!(world.porters.get(&doorman).is_none_or(|process| process.killed));
    world.let_ms_pass(60_000);
    assert!(world.domains().is_empty());
    assert_eq!(world.ends_said(), ["box closed: its close fd has hung up"]);
}

// M-255
#[test]
fn it_ends_with_its_doorman_and_says_why() {
    let (mut world, _admin, doorman) = boxed();
    let inside = world.client_as(1000, BOX);
    world.end_porter(doorman);
    assert!(world.disconnected.contains(&inside));
    world.let_ms_pass(60_000);
    assert!(world.domains().is_empty());
    assert_eq!(world.ends_said(), ["box closed: its doorman is gone"]);
}

// M-264
#[test]
fn its_creators_domain_is_charged_with_the_doorman_until_that_has_ended() {
    let (mut world, admin, doorman) = boxed();
    world.porters.get_mut(&doorman).expect("it lives").hangs = true;
    world.hang_up(admin);
    world.apply(Input::DoorEnds { porter: doorman });
    world.let_ms_pass(60_000);
    assert_eq!((world.usage(ROOT).porters, world.domains().len()), (1, 0));
    world.end_porter(doorman);
    assert_eq!(world.broker.ledger().porters, 0);
    assert!(world.broker.ledger().domains.is_empty(), "{:?}", world.broker.ledger());
}

// M-264
#[test]
fn doormen_are_bounded_by_the_quota_of_porters() {
    let mut config = config();
    config.policy.defaults.quotas.porters = 1;
    let mut world = World::with(config);
    let admin = world.client_of(ROOT);
    let doorman = world.doorman(admin);
    world.at(admin, doorman, make("box"));
    let refused = world.refused_flagged(admin, OpenPorter {}, OPEN_DOORMAN);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 2, 1));
}

// M-257
#[test]
fn what_does_not_fit_is_refused_and_leaves_neither_a_domain_nor_a_doorman() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let porter = world.doorman(admin);
    let request = world.send(admin, make("box"), DOMAIN_AT, world.now);
    let refusal = Refusal::new(ErrorCode::BadParameter, "a pipe was sent");
    world.apply(Input::Unfit { porter, request, refusal });
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::BadParameter);
    assert!(world.domains().is_empty() && world.porters.get(&porter).is_none_or(|p| p.killed));
    let next = world.doorman(admin);
    assert!(world.at(admin, next, make("box")).is_some());
}

// M-257
#[test]
fn a_name_that_is_taken_meanwhile_or_a_flag_too_many_leaves_nothing() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    for (name, flags) in [("box", DOMAIN_AT | DOMAIN_STAYS), ("Box", DOMAIN_AT)] {
        let porter = world.doorman(admin);
        assert_eq!(world.refused_flagged(admin, make(name), flags).code, ErrorCode::BadParameter);
        assert!(world.porters.get(&porter).is_none_or(|p| p.killed));
    }
    let porter = world.doorman(admin);
    let request = world.send(admin, make("box"), DOMAIN_AT, world.now);
    world.ask(admin, make("box"));
    world.fits(porter, request);
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::Busy);
    assert!(world.porters.get(&porter).is_none_or(|p| p.killed));
    assert_eq!(world.domains().len(), 1);
}

#[test]
fn without_a_doorman_there_is_no_domain_at_a_socket() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    world.porter(admin);
    assert_eq!(world.refused_flagged(admin, make("box"), DOMAIN_AT).code, ErrorCode::NotReady);
}

#[test]
fn a_half_that_stays_alone_ends_the_doorman() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let (porter, mute) = (world.porter(admin), world.doorman(admin));
    let request = world.send(admin, make("box"), DOMAIN_AT, world.now);
    world.let_ms_pass(1000);
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::Late);
    let eager = world.doorman(admin);
    world.fits(eager, 4711);
    world.let_ms_pass(1000);
    let ended = |id: &PorterId| world.porters.get(id).is_none_or(|process| process.killed);
    assert!(ended(&mute) && ended(&eager) && !ended(&porter));
}

#[test]
fn a_creator_that_goes_before_both_halves_are_there_takes_the_doorman_along() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let (asked, early) = (world.doorman(admin), world.client_of(ROOT));
    world.send(admin, make("box"), DOMAIN_AT, world.now);
    let eager = world.doorman(early);
    world.fits(eager, 7);
    world.hang_up(admin);
    world.hang_up(early);
    world.let_ms_pass(60_000);
    let ended = |id: &PorterId| world.porters.get(id).is_none_or(|process| process.killed);
    assert!(ended(&asked) && ended(&eager) && world.domains().is_empty());
}

#[test]
fn memory_is_no_door_and_a_door_is_no_memory() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let (porter, doorman) = (world.porter(admin), world.doorman(admin));
    let request = world.send(admin, make("box"), DOMAIN_AT, world.now);
    let memory = world.foreign(4096);
    world.bring(porter, request, memory, WRITE);
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::BadParameter);
    assert!(world.porters.get(&doorman).is_none_or(|process| process.killed));
    let next = world.doorman(admin);
    let request = world.ask_import(admin);
    world.fits(next, request);
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::BadParameter);
    assert!(world.porters.get(&next).is_none_or(|process| process.killed));
    assert!(!world.porters[&porter].killed);
}

// M-198
#[test]
fn drained_it_takes_nobody_new_and_ends_with_its_last_client_or_its_close_fd() {
    for by_close_fd in [false, true] {
        let (mut world, admin, doorman) = boxed();
        let inside = world.client_as(1000, BOX);
        world.ask(admin, DrainDomain { domain: BOX });
        let late = world.connect_as(1000, BOX);
        assert!(world.disconnected.contains(&late) && !world.disconnected.contains(&inside));
        assert!(!world.porters[&doorman].killed, "the close fd is still looked at");
        if by_close_fd {
            world.apply(Input::DoorEnds { porter: doorman });
            assert!(world.disconnected.contains(&inside));
        } else {
            world.hang_up(inside);
        }
        world.let_ms_pass(60_000);
        assert!(world.domains().is_empty() && world.porters.get(&doorman).is_none_or(|p| p.killed));
    }
}

// M-263
#[test]
fn a_socket_that_its_owner_shuts_drains_the_domain() {
    let (mut world, _admin, doorman) = boxed();
    let inside = world.client_as(1000, BOX);
    world.apply(Input::DoorShut { porter: doorman, why: "accept4: EINVAL".into() });
    assert!(!world.disconnected.contains(&inside));
    assert_eq!(world.domains()[0].state, "draining");
    world.hang_up(inside);
    world.let_ms_pass(60_000);
    assert!(world.domains().is_empty() && world.porters.get(&doorman).is_none_or(|p| p.killed));
}

#[test]
fn closing_it_ends_the_doorman_and_what_a_doorman_says_later_means_nothing() {
    let (mut world, admin, doorman) = boxed();
    world.porters.get_mut(&doorman).expect("it lives").hangs = true;
    world.ask(admin, CloseDomain { domain: BOX });
    assert!(world.porters[&doorman].killed && world.doors.is_empty());
    world.fits(doorman, 9);
    world.apply(Input::DoorShut { porter: doorman, why: String::new() });
    world.apply(Input::DoorEnds { porter: doorman });
    assert_eq!(world.ends_said(), [] as [&str; 0]);
    let inside_another = world.client_of(DOMAIN);
    assert!(!world.disconnected.contains(&inside_another));
}

#[test]
fn who_waits_for_the_porter_does_not_lose_it_with_the_doorman_nor_the_other_way_round() {
    let mut world = World::new();
    let admin = world.client_of(ROOT);
    let (porter, doorman) = (world.porter(admin), world.doorman(admin));
    let (import, made) = (world.ask_import(admin), world.send(admin, make("box"), DOMAIN_AT, world.now));
    world.end_porter(doorman);
    assert_eq!(code(world.answer_to(made).map(|reply| reply.message)), ErrorCode::Unavailable);
    assert!(world.answer_to(import).is_none(), "the porter lives");
    world.doorman(admin);
    let made = world.send(admin, make("box"), DOMAIN_AT, world.now);
    world.end_porter(porter);
    assert_eq!(code(world.answer_to(import).map(|reply| reply.message)), ErrorCode::Unavailable);
    assert!(world.answer_to(made).is_none(), "the doorman lives");
}
