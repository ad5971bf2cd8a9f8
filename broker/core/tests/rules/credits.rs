//! Fds on their way: credits, who does not read, what could not be delivered; and what is told to whoever
//! monitors. T15, T16, T17.

use vgem_core::io::{Attach, Effect, Event, Input, LinkId, Scope};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{
    ClientMessage, CloseObject, CreateObject, Done, Export, Imported, Monitor, Observe, OpenPorter, OpenQueue,
};
use vgem_proto::rights::{Access, Rights};

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, READ, WRITE, World, create};

fn unread() -> (World, LinkId) {
    let mut world = World::new();
    world.reads_at_once = false;
    let client = world.client();
    (world, client)
}

/// Has the shell fail to send the answer to a request; gives the message.
fn undeliver(world: &mut World, link: LinkId, ask: impl Into<ClientMessage>) -> ClientMessage {
    world.hold = |effect| matches!(effect, Effect::Reply { attach, .. } if *attach != Attach::None);
    world.send(link, ask, 0, world.now.after(1000 * MS));
    world.hold = |_| false;
    let Some(Effect::Reply { message, .. }) = world.held.pop() else { panic!("no answer with fds") };
    world.apply(Input::Undelivered { link, message: message.clone() });
    message
}

#[test]
fn t16_a_client_that_leaves_its_fds_unread_is_disconnected_after_two_seconds() {
    let (mut world, client) = unread();
    world.clients_read = false;
    world.raw_object(client, 4096);
    world.wait_ms(1999);
    assert!(!world.disconnected.contains(&client));
    world.wait_ms(1);
    assert!(world.disconnected.contains(&client));
}

#[test]
fn t16_a_client_that_read_in_time_stays() {
    let (mut world, client) = unread();
    world.raw_object(client, 4096);
    world.wait_ms(2000);
    assert_eq!((world.disconnected.len(), world.usage(DOMAIN).exports), (0, 0));
    assert_eq!(world.broker.next_deadline(), None);
}

#[test]
fn t16_more_requests_do_not_put_the_moment_off() {
    let (mut world, client) = unread();
    world.clients_read = false;
    let object = world.raw_object(client, 4096);
    world.wait_ms(1500);
    world.ask(client, Export { object, access: READ, reserved: Zero });
    world.wait_ms(500);
    assert!(world.disconnected.contains(&client));
}

#[test]
fn t16_who_has_taken_everything_is_not_looked_at() {
    let (mut world, client) = unread();
    world.raw_object(client, 4096);
    world.apply(Input::Received { link: client });
    world.let_ms_pass(5000);
    assert!(world.said.is_empty());
    let since = world.now;
    world.apply(Input::Unreceived { link: client, fds: u64::MAX, since });
    assert!(world.disconnected.is_empty());
}

#[test]
fn t16_every_fd_that_is_sent_is_charged_until_it_is_received() {
    let (mut world, client) = unread();
    let exports = |world: &World| world.usage(DOMAIN).exports;
    world.ask(client, CreateObject { count: 3, ..create(4096) });
    let objects = exports(&world);
    world.ask(client, OpenPorter {});
    let porter = exports(&world);
    world.queue(client, COPY);
    let first = exports(&world);
    world.queue(client, COPY);
    assert_eq!((objects, porter, first, exports(&world)), (3, 4, 6, 6));
    world.apply(Input::Received { link: client });
    assert_eq!(exports(&world), 0);
}

#[test]
fn t17_objects_that_could_not_be_delivered_are_as_if_they_were_closed() {
    let mut world = World::new();
    let client = world.client();
    let before = world.broker.ledger();
    let message = undeliver(&mut world, client, CreateObject { count: 3, ..create(4096) });
    let ClientMessage::ObjectCreated(created) = message else { panic!() };
    assert_eq!((world.memory.len(), world.broker.ledger()), (0, before));
    let refused = world.refused(client, CloseObject { object: created.objects[0] });
    assert_eq!(refused.code, ErrorCode::NoSuchHandle);
}

#[test]
fn t17_an_export_that_could_not_be_delivered_costs_nothing() {
    let mut world = World::new();
    let client = world.client();
    let object = world.object(client, 4096);
    let before = world.broker.ledger();
    undeliver(&mut world, client, Export { object, access: READ, reserved: Zero });
    assert_eq!(world.broker.ledger(), before);
}

#[test]
fn t17_a_porter_whose_channel_could_not_be_delivered_is_ended() {
    let mut world = World::new();
    let client = world.client();
    undeliver(&mut world, client, OpenPorter {});
    assert!(world.porters.values().all(|porter| porter.killed));
    world.bury();
    assert_eq!((world.usage(DOMAIN).porters, world.usage(DOMAIN).exports), (0, 0));
    world.porter(client);
}

// M-050
#[test]
fn t17_a_queue_whose_page_could_not_be_delivered_is_closed_and_the_next_brings_the_page() {
    let mut world = World::new();
    let client = world.client();
    let open = || OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    undeliver(&mut world, client, open());
    world.flush(world.instance(COPY));
    assert_eq!(world.broker.ledger().queues, 0);
    let reply = world.ask_with(client, open()).unwrap();
    assert!(matches!(reply.attach, Attach::Observer(_)), "{reply:?}");
    assert!(matches!(world.ask_with(client, open()).unwrap().attach, Attach::None));
}

#[test]
fn t17_a_client_that_was_told_of_another_queue_in_a_page_it_never_got_is_disconnected() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::Reply { message: ClientMessage::QueueOpened(_), .. });
    for _ in 0..2 {
        world.send(
            client,
            OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero },
            0,
            world.now.after(MS),
        );
    }
    world.hold = |_| false;
    let Effect::Reply { message, .. } = world.held.remove(0) else { panic!() };
    world.apply(Input::Undelivered { link: client, message });
    assert!(world.disconnected.contains(&client));
}

#[test]
fn t17_observed_pages_that_could_not_be_delivered_come_again() {
    let mut world = World::new();
    world.close_exports = false;
    let owner = world.client();
    let object = world.object(owner, 4096);
    let (key, guest) = (world.last_object(), world.client_of(OTHER_DOMAIN));
    let porter = world.porter(guest);
    let imported = world.import(guest, porter, key, READ).object;
    let queue = world.queue(owner, COPY);
    world.submit(owner, Batch::new().job(queue, 1).writes(object, 0..64));
    let observe = || Observe { object: imported, access: READ, reserved: Zero };
    undeliver(&mut world, guest, observe());
    let exports = world.usage(OTHER_DOMAIN).exports;
    let reply = world.ask_with(guest, observe()).unwrap();
    assert!(matches!(&reply.attach, Attach::Observers(pairs) if pairs.len() == 1), "{reply:?}");
    assert_eq!(exports, 0);
}

#[test]
fn t17_an_import_that_could_not_be_delivered_is_taken_away_once() {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    let object = world.object(client, 4096);
    let (key, porter) = (world.last_object(), world.porter(client));
    let imported = world.import(client, porter, key, READ);
    world.apply(Input::Undelivered { link: client, message: ClientMessage::from(imported) });
    assert_eq!(world.usage(DOMAIN).handles, 1);
    let stale = Imported { object, len: 4096, rights: Rights::READ, state: 2 };
    world.apply(Input::Undelivered { link: client, message: stale.into() });
    assert_eq!(world.usage(DOMAIN).handles, 0);
}

fn collections(world: &World) -> usize {
    world.said.iter().filter(|effect| matches!(effect, Effect::CollectInFlight)).count()
}

#[test]
fn t15_fds_in_flight_are_collected_before_the_second_look_and_all_later_ones() {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    let object = world.raw_object(client, 4096);
    world.close(client, object);
    let mut seen = Vec::new();
    for _ in 0..5 {
        world.wait_for_deadline();
        seen.push(collections(&world));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[test]
fn t15_a_sweep_of_many_collects_once_and_one_of_nothing_never() {
    let mut config = crate::world::config();
    config.bounds.sweep = 2;
    let mut world = World::with(config);
    world.apply(Input::ExportHint { object: None });
    assert_eq!(collections(&world), 0);
    world.close_exports = false;
    let client = world.client();
    world.ask(client, CreateObject { count: 7, ..create(4096) });
    world.hang_up(client);
    world.apply(Input::ExportHint { object: None });
    world.wait_ms(1);
    world.wait_ms(1);
    assert_eq!(collections(&world), 1);
}

#[test]
fn who_monitors_is_told_of_its_own_domain_and_root_of_all() {
    let mut world = World::new();
    let client = world.client();
    assert_eq!(world.ask(client, Monitor {}), Some(ClientMessage::Done(Done {})));
    let root = world.client_of(vgem_proto::ids::DomainId(0));
    world.ask(root, Monitor {});
    let scopes: Vec<Scope> = world
        .said
        .iter()
        .filter_map(|effect| match effect {
            Effect::Monitor { scope, .. } => Some(*scope),
            _ => None,
        })
        .collect();
    assert_eq!(scopes, [Scope::Domain(DOMAIN), Scope::All]);
}

#[test]
fn the_life_of_an_object_is_told_in_order_and_to_its_domain() {
    let mut world = World::new();
    let client = world.client();
    world.events.clear();
    world.domains_told.clear();
    let object = world.object(client, 4096);
    world.ask(client, Export { object, access: WRITE, reserved: Zero });
    world.wait_ms(3);
    world.close(client, object);
    let names: Vec<&str> = world
        .events
        .iter()
        .map(|event| match event {
            Event::ObjectCreated { len: 4096, .. } => "created",
            Event::ObjectReady { pinned: 4096, .. } => "ready",
            Event::ObjectExported { access, .. } if access == "write" => "exported",
            Event::HandleClosed { .. } => "closed",
            Event::ObjectReleased { .. } => "released",
            Event::ObjectFreed { len: 4096, after_ns: 0, .. } => "freed",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["created", "ready", "exported", "closed", "released", "freed"]);
    assert!(world.domains_told.iter().all(|domain| *domain == Some(DOMAIN)));
}

#[test]
fn an_orphan_is_told_once_and_how_long_it_lasted() {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    let object = world.raw_object(client, 4096);
    let key = world.last_object();
    world.close(client, object);
    world.let_ms_pass(500);
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.apply(Input::ExportHint { object: Some(key) });
    let orphaned = world.events.iter().filter(|event| matches!(event, Event::ObjectOrphaned { .. })).count();
    let after = world.events.iter().find_map(|event| match event {
        Event::ObjectFreed { after_ns, .. } => Some(*after_ns),
        _ => None,
    });
    assert_eq!((orphaned, after), (1, Some(500 * MS)));
}

#[test]
fn imports_are_told_with_what_they_allow() {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    world.object(client, 4096);
    let (key, guest) = (world.last_object(), world.client_of(OTHER_DOMAIN));
    let porter = world.porter(guest);
    world.import(guest, porter, key, Access::Read);
    let told = |event: &Event| matches!(event, Event::ObjectImported { access, .. } if access == "read");
    assert!(world.events.iter().any(told));
    assert_eq!(world.domains_told.last(), Some(&Some(OTHER_DOMAIN)));
}
