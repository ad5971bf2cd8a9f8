//! W: the greeting, bad messages, and what clients are told of devices and state.

use vgem_core::io::{BadRequest, Effect, Input, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::codec::{Malformed, Zero};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Time};
use vgem_proto::message::client::{
    ClientMessage, Describe, Done, Hello, Inspect, ListDevices, OpenQueue, Refused,
};
use vgem_proto::snapshot::Topic;

use crate::batch::Batch;
use crate::reservations::stage;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, World, config, create, hello};

fn bad(world: &mut World, link: vgem_core::io::LinkId, fault: Malformed) -> Refused {
    let request = 1_000_000;
    world.apply(Input::BadRequest { link, request, fault: BadRequest::Malformed(fault) });
    match world.answer_to(request).map(|reply| reply.message) {
        Some(ClientMessage::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn w1_unknown_operation_flag_and_id_have_different_errors() {
    let mut world = World::new();
    let client = world.client();
    let codes = [
        bad(&mut world, client, Malformed::UnknownOpcode(999)).code,
        bad(&mut world, client, Malformed::UnknownFlags(8)).code,
        bad(&mut world, client, Malformed::NonZeroTail).code,
        world.refused(client, Describe { device: DeviceId(77) }).code,
        world.refused(client, crate::world::commit(vgem_proto::ids::Handle(5))).code,
    ];
    let expected = [
        ErrorCode::UnknownOpcode,
        ErrorCode::UnknownFlag,
        ErrorCode::Malformed,
        ErrorCode::NoSuchDevice,
        ErrorCode::NoSuchHandle,
    ];
    assert_eq!(codes, expected);
}

#[test]
fn w1_a_message_of_the_brokers_own_is_an_unknown_operation_from_a_client() {
    let mut world = World::new();
    let client = world.client();
    assert_eq!(world.refused(client, Done {}).code, ErrorCode::UnknownOpcode);
}

#[test]
fn w2_zero_means_do_not_wait() {
    let mut world = World::new();
    let client = world.client();
    world.queue(client, COPY);
    let request =
        world.send(client, OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero }, 0, Time(0));
    assert!(matches!(world.answer_to(request).map(|r| r.message), Some(ClientMessage::QueueOpened(_))));
}

#[test]
fn w3_nothing_is_heard_before_the_greeting_and_the_connection_lives() {
    let mut world = World::new();
    let client = world.connect(DOMAIN);
    assert_eq!(world.refused(client, ListDevices {}).code, ErrorCode::NotGreeted);
    assert!(matches!(world.ask(client, hello()), Some(ClientMessage::Welcome(w)) if w.token == [1, 2]));
}

#[test]
fn w3_the_version_is_agreed_once() {
    let mut world = World::new();
    let client = world.connect(DOMAIN);
    let future = Hello { version_min: 2, version_max: 9, ..hello() };
    let refused = world.refused(client, future);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Version, 9, 1));
    let Some(ClientMessage::Welcome(welcome)) = world.ask(client, hello()) else { panic!("not welcome") };
    assert_eq!((welcome.version, welcome.features, welcome.message_len), (1, 0, 65_536));
    assert_eq!(world.refused(client, hello()).code, ErrorCode::Malformed);
}

#[test]
fn a_client_that_does_not_greet_is_dropped() {
    let mut world = World::new();
    let client = world.connect(DOMAIN);
    world.wait_ms(10_000);
    assert!(world.disconnected.contains(&client));
    assert_eq!(world.broker.ledger(), World::new().broker.ledger());
}

#[test]
fn bad_messages_are_answered_until_there_were_too_many_in_a_row() {
    let mut world = World::new();
    let client = world.client();
    for n in 1..=127 {
        bad(&mut world, client, Malformed::NonZeroTail);
        if n == 63 {
            assert!(world.ask(client, ListDevices {}).is_some());
        }
        assert_eq!(world.disconnected.len(), usize::from(n == 127));
    }
}

#[test]
fn a_long_message_is_too_large_and_the_connection_lives() {
    let mut world = World::new();
    let link = world.client();
    let fault = BadRequest::TooLarge { len: 102_400 };
    world.apply(Input::BadRequest { link, request: 0, fault });
    let Some(ClientMessage::Refused(refused)) = world.answer_to(0).map(|r| r.message) else { panic!() };
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::TooLarge, 102_400, 65_536));
    assert!(world.ask(link, ListDevices {}).is_some());
}

#[test]
fn devices_are_listed_and_described_as_their_drivers_say() {
    let mut world = World::new();
    let client = world.client();
    let Some(ClientMessage::Devices(devices)) = world.ask(client, ListDevices {}) else { panic!() };
    assert_eq!((devices.ids.len(), devices.names.as_slice()), (3, b"copy\nzip\nsec".as_slice()));
    let Some(ClientMessage::Described(told)) = world.ask(client, Describe { device: COPY }) else { panic!() };
    assert_eq!(Description::decode(&told.description).as_ref(), Ok(&config().devices[0].1));
}

#[test]
fn a_clients_name_cannot_act_on_a_terminal() {
    let mut world = World::new();
    let client = world.connect(DOMAIN);
    world.ask(client, Hello { name: b"\x1b]0;owned\x07".to_vec(), ..hello() });
    let page = world.broker.snapshot(Scope::All, Topic::Clients, 0, 10);
    let Entries::Clients(clients) = page.entries else { panic!() };
    assert_eq!(clients[0].name, "\\x1b]0;owned\\x07");
}

#[test]
fn a_page_of_state_goes_on_where_the_last_one_ended() {
    let mut world = World::new();
    let client = world.client();
    for _ in 0..5 {
        world.object(client, 4096);
    }
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let page = world.broker.snapshot(Scope::All, Topic::Objects, cursor, 2);
        let Entries::Objects(objects) = page.entries else { panic!() };
        seen.push(objects.len());
        cursor = page.next;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, [2, 2, 1]);
}

#[test]
fn a_domain_sees_its_own_state_only() {
    let mut world = World::new();
    let (mine, theirs) = (world.client(), world.client_of(OTHER_DOMAIN));
    world.object(mine, 4096);
    world.object(theirs, 4096);
    world.ask(theirs, Inspect { cursor: 0, topic: Topic::Objects, reserved: Zero });
    let Some(Effect::Inspect { scope, topic, cursor, .. }) = world.inspected.pop() else { panic!() };
    let Entries::Objects(objects) = world.broker.snapshot(scope, topic, cursor, 10).entries else { panic!() };
    assert_eq!(objects.iter().map(|o| o.domain).collect::<Vec<_>>(), [OTHER_DOMAIN.0]);
}

#[test]
fn every_topic_tells_what_there_is() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    let look = |topic| s.world.broker.snapshot(Scope::All, topic, 0, 100).entries;
    let Entries::Status(status) = look(Topic::Status) else { panic!() };
    let Entries::Devices(devices) = look(Topic::Devices) else { panic!() };
    let Entries::Queues(queues) = look(Topic::Queues) else { panic!() };
    let Entries::Objects(objects) = look(Topic::Objects) else { panic!() };
    assert_eq!((status.objects, status.queues, status.jobs_in_flight, status.pinned_bytes), (1, 3, 1, 4096));
    assert_eq!((devices[0].state.as_str(), devices[0].instances[0].in_flight), ("ready", 1));
    assert_eq!((queues[0].state.as_str(), queues[1].state.as_str()), ("ready", "idle"));
    assert_eq!((objects[0].uses, objects[0].mapped_by.as_slice()), (1, ["copy".to_owned()].as_slice()));
}

#[test]
fn requests_beyond_a_domains_pace_are_refused() {
    let mut config = config();
    config.policy.defaults.quotas.requests_per_s = Some(3);
    let mut world = World::with(config);
    let client = world.client();
    let answers: Vec<bool> = (0..3)
        .map(|_| matches!(world.ask(client, ListDevices {}), Some(ClientMessage::Devices(_))))
        .collect();
    assert_eq!(answers, [true, true, false]);
    world.now = world.now.after(400 * MS);
    assert!(matches!(world.ask(client, ListDevices {}), Some(ClientMessage::Devices(_))));
}

#[test]
fn exports_that_are_not_received_are_bounded() {
    let mut config = config();
    config.policy.defaults.quotas.exports = 2;
    let mut world = World::with(config);
    world.reads_at_once = false;
    let client = world.client();
    world.raw_object(client, 4096);
    world.raw_object(client, 4096);
    let refused = world.refused(client, create(4096));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 3, 2));
    world.apply(Input::Received { link: client });
    world.raw_object(client, 4096);
}

#[test]
fn connections_of_a_domain_are_bounded() {
    let mut config = config();
    config.policy.defaults.quotas.connections = 1;
    let mut world = World::with(config);
    world.client();
    let second = world.connect(DOMAIN);
    assert!(world.disconnected.contains(&second));
}
