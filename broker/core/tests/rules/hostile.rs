//! Attacks: what a client does that wants others to suffer, and what it costs them.
//!
//! Each is what a hostile client can send; what counts in the end is what an honest one of another domain still gets.

use vgem_core::io::{Effect, Event, Input, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Handle, ObjectKey};
use vgem_proto::message::client::{Cancel, ClientMessage, Export, Monitor, Observe, OpenPorter};
use vgem_proto::rights::Access;

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, OTHER_DOMAIN, READ, WRITE, World, ZIP, config};

const THIRD_DOMAIN: DomainId = DomainId(3000);

/// An owner of one domain with an object, and a client of another that imported it.
struct Shared {
    world: World,
    owner: LinkId,
    object: Handle,
    key: ObjectKey,
    guest: LinkId,
    imported: Handle,
}

fn shared_with(config: vgem_core::Config, access: Access) -> Shared {
    let mut world = World::with(config);
    world.close_exports = false;
    let owner = world.client();
    let object = world.object(owner, 1 << 20);
    let key = world.last_object();
    let guest = world.client_of(OTHER_DOMAIN);
    let porter = world.porter(guest);
    let imported = world.import(guest, porter, key, access).object;
    Shared { world, owner, object, key, guest, imported }
}

fn observe(object: Handle) -> Observe {
    Observe { object, access: READ, reserved: Zero }
}

/// Opens and ends porters until it is refused; how many there were.
fn porters_until_refused(world: &mut World, mut client: impl FnMut(&mut World) -> LinkId) -> u64 {
    for count in 0..1000 {
        let link = client(world);
        match world.ask_with(link, OpenPorter {}).map(|reply| reply.message) {
            Some(ClientMessage::PorterOpened(_)) => {
                let (porter, _) = world.porters.last_key_value().expect("it was started");
                world.end_porter(*porter);
            }
            Some(ClientMessage::Refused(refused)) => {
                assert_eq!(refused.code, ErrorCode::Exhausted, "{refused:?}");
                return count;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("a thousand processes were started at once");
}

#[test]
fn atk_porters_opened_and_closed_in_a_loop_are_no_fork_bomb() {
    let mut world = World::new();
    let client = world.client();
    assert_eq!(porters_until_refused(&mut world, |_| client), 128);
    world.wait_ms(1000);
    assert_eq!(porters_until_refused(&mut world, |_| client), 40);
    let other = world.client_of(OTHER_DOMAIN);
    world.porter(other);
}

#[test]
fn atk_a_domain_that_leaves_and_comes_back_has_no_new_burst() {
    let mut world = World::new();
    let mut last = None;
    let fresh = |world: &mut World| {
        if let Some(link) = last.take() {
            world.hang_up(link);
        }
        let link = world.client();
        last = Some(link);
        link
    };
    assert_eq!(porters_until_refused(&mut world, fresh), 128);
}

#[test]
fn atk_leaving_and_coming_back_makes_nobody_send_faster() {
    let mut config = config();
    config.policy.defaults.quotas.requests_per_s = Some(10);
    let mut world = World::with(config);
    let mut heard = 0;
    for _ in 0..30 {
        let link = world.connect(DOMAIN);
        heard +=
            usize::from(matches!(world.ask(link, crate::world::hello()), Some(ClientMessage::Welcome(_))));
        world.hang_up(link);
    }
    assert_eq!(heard, 10);
}

#[test]
fn atk_a_domain_cannot_have_every_event_told_to_thousands() {
    let mut world = World::new();
    let clients: Vec<LinkId> = (0..17).map(|_| world.client()).collect();
    for client in &clients[..16] {
        for _ in 0..2 {
            assert!(matches!(world.ask(*client, Monitor {}), Some(ClientMessage::Done(_))));
        }
    }
    let refused = world.refused(clients[16], Monitor {});
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 17, 16));
    let other = world.client_of(OTHER_DOMAIN);
    assert!(matches!(world.ask(other, Monitor {}), Some(ClientMessage::Done(_))));
    world.hang_up(clients[0]);
    assert!(matches!(world.ask(clients[16], Monitor {}), Some(ClientMessage::Done(_))));
}

#[test]
fn atk_observers_do_not_fill_the_pages_of_another_domains_device() {
    let mut s = shared_with(config(), READ);
    let queue = s.world.queue(s.owner, COPY);
    s.world.submit(s.owner, Batch::new().job(queue, 1).writes(s.object, 0..64));
    let watch = |world: &mut World, domain| {
        let link = world.client_of(domain);
        let porter = world.porter(link);
        let object = world.import(link, porter, s.key, READ).object;
        world.end_porter(porter);
        matches!(world.ask(link, observe(object)), Some(ClientMessage::Observed(_)))
    };
    let answered = (0..80).filter(|_| watch(&mut s.world, OTHER_DOMAIN)).count();
    assert_eq!(answered, 64);
    assert_eq!(s.world.driver(COPY).signal_pages.len(), 65);
    assert!(watch(&mut s.world, THIRD_DOMAIN), "one domain's observers are in another's way");
    assert!(watch(&mut s.world, DOMAIN), "the owner's domain observes its own");
}

#[test]
fn atk_observing_is_charged_and_comes_back() {
    let mut config = config();
    config.policy.defaults.quotas.pages = 1;
    let mut s = shared_with(config, READ);
    for device in [COPY, ZIP] {
        let queue = s.world.queue(s.owner, device);
        s.world.submit(s.owner, Batch::new().job(queue, 1).reads(s.object, 0..64));
    }
    let write = Observe { access: WRITE, ..observe(s.object) };
    let another = s.world.client();
    let porter = s.world.porter(another);
    let handle = s.world.import(another, porter, s.key, WRITE).object;
    let refused = s.world.refused(another, Observe { object: handle, ..write });
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 2, 1));
    s.world.run_all();
    let queue = s.world.queue(s.owner, COPY);
    s.world.submit(s.owner, Batch::new().job(queue, 1).writes(s.object, 0..64));
    assert!(matches!(s.world.ask(s.guest, observe(s.imported)), Some(ClientMessage::Observed(_))));
    assert_eq!(s.world.usage(OTHER_DOMAIN).pages, 1);
    s.world.hang_up(s.guest);
    s.world.bury();
    assert_eq!(s.world.usage(OTHER_DOMAIN), vgem_core::Usage::default());
}

#[test]
fn atk_a_reader_of_another_domain_cannot_have_the_owners_writes_refused() {
    let mut config = config();
    config.bounds.job_waits = 100;
    let mut s = shared_with(config, READ);
    let mut refused = 0;
    for _ in 0..110 {
        let queue = s.world.queue(s.guest, COPY);
        let reads = Batch::new().job(queue, 1).reads(s.imported, 0..64);
        refused += usize::from(s.world.ask(s.guest, reads.0).is_some());
    }
    let queue = s.world.queue(s.owner, ZIP);
    s.world.submit(s.owner, Batch::new().job(queue, 1).writes(s.object, 0..64));
    assert_eq!((s.world.last_job(ZIP).waits().len(), refused), (64, 46));
}

#[test]
fn atk_readers_of_many_domains_leave_room_for_the_owner() {
    let mut config = config();
    config.bounds.guest_fences = 2;
    let mut s = shared_with(config, READ);
    let mut accepted = 0;
    for domain in 3000..3010 {
        let link = s.world.client_of(DomainId(domain));
        let porter = s.world.porter(link);
        let object = s.world.import(link, porter, s.key, READ).object;
        for _ in 0..3 {
            let queue = s.world.queue(link, COPY);
            let reads = Batch::new().job(queue, 1).reads(object, 0..64);
            accepted += usize::from(s.world.ask(link, reads.0).is_none());
        }
    }
    assert_eq!(accepted, 8);
    let queue = s.world.queue(s.owner, ZIP);
    s.world.submit(s.owner, Batch::new().job(queue, 1).writes(s.object, 0..64));
}

#[test]
fn atk_a_refused_guest_leaves_nothing_in_the_reservation() {
    let mut config = config();
    config.bounds.guest_fences = 1;
    let mut s = shared_with(config, READ);
    let queues = [s.world.queue(s.guest, COPY), s.world.queue(s.guest, COPY)];
    s.world.submit(s.guest, Batch::new().job(queues[0], 1).reads(s.imported, 0..64));
    let refused = s.world.refused(s.guest, Batch::new().job(queues[1], 1).reads(s.imported, 0..64).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 2, 1));
    s.world.submit(s.guest, Batch::new().job(queues[0], 2).reads(s.imported, 0..64));
    let queue = s.world.queue(s.owner, ZIP);
    s.world.submit(s.owner, Batch::new().job(queue, 1).writes(s.object, 0..64));
    assert_eq!(s.world.last_job(ZIP).waits().len(), 1);
}

#[test]
fn atk_a_writer_of_another_domain_leaves_room_for_the_owners_writes() {
    let mut config = config();
    config.bounds.pieces = 32;
    let mut s = shared_with(config, WRITE);
    let queue = s.world.queue(s.guest, COPY);
    for point in 1..40 {
        let range = 128 * point..128 * point + 64;
        let batch = Batch::new().job(queue, point).writes(s.imported, range);
        if let Some(ClientMessage::Refused(refused)) = s.world.ask(s.guest, batch.0) {
            assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 16));
            break;
        }
    }
    let queue = s.world.queue(s.owner, ZIP);
    for point in 1..=8 {
        let range = 128 * point + 64..128 * point + 128;
        s.world.submit(s.owner, Batch::new().job(queue, point).writes(s.object, range));
    }
}

#[test]
fn atk_writes_that_are_refused_again_and_again_do_not_count() {
    let mut config = config();
    config.bounds.pieces = 5;
    let mut world = World::with(config);
    let client = world.client();
    let (object, opened) = (world.object(client, 4096), world.open(client, COPY));
    for point in 1..=3 {
        world.submit(
            client,
            Batch::new().job(opened.queue, point).writes(object, 64 * point..64 * point + 64),
        );
    }
    for point in 4..40 {
        let batch = Batch::new().job(opened.queue, point).writes(object, 2048..2112);
        let answer = world.ask(client, batch.0);
        assert!(point < 5 || matches!(answer, Some(ClientMessage::Refused(_))), "{answer:?}");
    }
    world.run_all();
    world.submit(client, Batch::new().job(opened.queue, 40).writes(object, 0..64));
}

#[test]
fn atk_an_object_is_used_by_a_bounded_number_of_queues_at_a_time() {
    let mut config = config();
    config.bounds.fences = 4;
    let mut world = World::with(config);
    let client = world.client();
    let object = world.object(client, 4096);
    let queues: Vec<_> = (0..5).map(|_| world.queue(client, COPY)).collect();
    for queue in &queues[..4] {
        world.submit(client, Batch::new().job(*queue, 1).reads(object, 0..64));
    }
    let refused = world.refused(client, Batch::new().job(queues[4], 1).reads(object, 0..64).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 5, 4));
    world.submit(client, Batch::new().job(queues[0], 2).reads(object, 0..64));
}

#[test]
fn atk_cancelling_a_job_again_and_again_fills_no_drivers_link() {
    let mut world = World::new();
    let client = world.client();
    let (object, queue) = (world.object(client, 4096), world.queue(client, COPY));
    world.submit(client, Batch::new().job(queue, 1).reads(object, 0..64).job(queue, 2).reads(object, 0..64));
    for _ in 0..100 {
        for point in [1, 2] {
            let cancel = Cancel { queue, point: vgem_proto::ids::Point(point) };
            let answer = world.ask(client, cancel);
            assert!(matches!(&answer, Some(ClientMessage::Cancelling(c)) if c.state < 2), "{answer:?}");
        }
    }
    assert_eq!(world.driver(COPY).cancelled.len(), 2);
}

#[test]
fn atk_the_words_of_a_porter_do_nothing_to_the_terminal_of_who_monitors() {
    let mut world = World::new();
    let client = world.client();
    let porter = world.porter(client);
    let request = world.ask_import(client);
    let refusal = Refusal::new(ErrorCode::Denied, "\u{1b}]0;owned\u{7}\n\u{202e}");
    world.apply(Input::Unfit { porter, request, refusal });
    let told = world.events.iter().rev().find_map(|event| match event {
        Event::Refused { why, .. } => Some(why.clone()),
        _ => None,
    });
    let told = told.expect("it is told");
    assert!(told.contains("owned") && !told.chars().any(|c| c.is_control() || c == '\u{202e}'), "{told:?}");
}

#[test]
fn atk_t16_a_client_that_reads_while_it_asks_for_more_is_not_late() {
    let mut world = World::new();
    (world.reads_at_once, world.clients_read) = (false, false);
    world.hold = |effect| matches!(effect, Effect::CheckReceived { .. });
    let client = world.client();
    let object = world.raw_object(client, 4096);
    let mut sent = world.now;
    for _ in 0..20 {
        world.wait_ms(1900);
        world.ask(client, Export { object, access: READ, reserved: Zero });
        // The one before was taken when this one was sent.
        world.apply(Input::Unreceived { link: client, fds: 1, since: sent });
        assert_eq!(world.usage(DOMAIN).exports, 1);
        for _ in world.held.drain(..).collect::<Vec<_>>() {
            world.apply(Input::Unreceived { link: client, fds: 1, since: sent });
        }
        sent = world.now;
        world.apply(Input::Unreceived { link: client, fds: 1, since: sent });
    }
    assert!(world.disconnected.is_empty());
    // And one that stops is.
    world.wait_ms(2000);
    assert_eq!(world.held.len(), 1);
    world.apply(Input::Unreceived { link: client, fds: 1, since: sent });
    assert!(world.disconnected.contains(&client));
}

#[test]
fn atk_one_domain_never_takes_the_last_open_files() {
    let mut config = config();
    config.policy.capacity.files = Some(64);
    let mut world = World::with(config);
    let client = world.client();
    let refused = (0..64).find_map(|_| match world.ask(client, crate::world::create(4096)) {
        Some(ClientMessage::Refused(refused)) => Some(refused),
        _ => None,
    });
    assert_eq!(refused.map(|refused| refused.code), Some(ErrorCode::Exhausted));
    let other = world.client_of(OTHER_DOMAIN);
    let third = world.client_of(THIRD_DOMAIN);
    for client in [other, third] {
        world.raw_object(client, 4096);
    }
    assert_eq!(world.usage(DOMAIN).objects, 30);
}
