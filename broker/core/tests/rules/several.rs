//! Several objects at once: made and committed all or none.

use vgem_core::io::{Attach, Effect, Input};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Handle, ObjectKey};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, Commit, CreateObject, ObjectCreated};
use vgem_proto::rights::Access;

use crate::world::{DOMAIN, World, commit, config, create};

fn several(count: u32) -> CreateObject {
    CreateObject { count, ..create(4096) }
}

fn made(world: &mut World, count: u32) -> (vgem_core::io::LinkId, Vec<Handle>) {
    let client = world.client();
    match world.ask(client, several(count)) {
        Some(ClientMessage::ObjectCreated(ObjectCreated { objects, .. })) => (client, objects),
        other => panic!("not created: {other:?}"),
    }
}

fn keys(world: &World) -> Vec<ObjectKey> {
    let mut keys: Vec<ObjectKey> = world.memory.keys().copied().collect();
    keys.sort_unstable_by_key(|key| key.generation);
    keys
}

/// Takes the held effects and lets what they lead to happen.
fn release(world: &mut World) {
    world.hold = |_| false;
    for effect in std::mem::take(&mut world.held) {
        if let Some(input) = world.carry_out(effect) {
            world.apply(input);
        }
    }
}

#[test]
fn one_answer_names_every_object_and_brings_an_export_of_each_in_their_order() {
    let mut world = World::new();
    let client = world.client();
    let reply = world.ask_with(client, several(3)).unwrap();
    let ClientMessage::ObjectCreated(created) = reply.message else { panic!() };
    let handles: std::collections::BTreeSet<u32> = created.objects.iter().map(|handle| handle.0).collect();
    assert_eq!((created.len, handles.len()), (4096, 3));
    assert_eq!(reply.attach, Attach::Exports { objects: keys(&world), access: Access::Write });
}

#[test]
fn a_count_of_zero_is_one_and_a_count_beyond_the_limit_is_refused() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 0);
    let refused = world.refused(client, several(65));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::OutOfRange, 65, 64));
    assert_eq!((objects.len(), limits::OBJECTS_AT_ONCE), (1, 64));
}

#[test]
fn all_are_charged_before_any_is_made() {
    let mut config = config();
    config.policy.defaults.quotas.bytes = 4 * 4096;
    let mut world = World::with(config);
    let (client, _) = made(&mut world, 2);
    let refused = world.refused(client, several(3));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 5 * 4096, 4 * 4096));
    assert_eq!((world.memory.len(), world.usage(DOMAIN).objects), (2, 2));
}

// M-042
#[test]
fn one_that_cannot_be_made_takes_the_others_with_it() {
    let mut world = World::new();
    let client = world.client();
    let before = world.broker.ledger();
    world.hold = |effect| matches!(effect, Effect::MakeObject { .. });
    let request = world.send(client, several(3), 0, world.now);
    world.hold = |_| false;
    let mut held = std::mem::take(&mut world.held).into_iter();
    let first = world.carry_out(held.next().unwrap()).unwrap();
    world.apply(first);
    let Some(Effect::MakeObject { object, .. }) = held.next() else { panic!() };
    world.apply(Input::ObjectMade { object, outcome: Err(12) });
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    let last = world.carry_out(held.next().unwrap()).unwrap();
    world.apply(last);
    assert_eq!((refused.code, refused.value), (ErrorCode::System, 12));
    assert_eq!((world.memory.len(), world.broker.ledger()), (0, before));
}

#[test]
fn a_client_that_dies_while_some_are_made_leaves_nothing() {
    let mut world = World::new();
    let before = world.broker.ledger();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::MakeObject { .. });
    world.send(client, several(3), 0, world.now);
    let first = world.held.remove(0);
    let made = world.carry_out(first).unwrap();
    world.apply(made);
    world.hang_up(client);
    release(&mut world);
    assert_eq!((world.memory.len(), world.broker.ledger()), (0, before));
}

#[test]
fn a_commit_is_answered_once_and_with_the_sum_when_all_are_ready() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 3);
    world.hold = |effect| matches!(effect, Effect::Keep { .. });
    let request = world.send(client, Commit { objects }, 0, world.now);
    let last = world.held.pop().unwrap();
    let held = std::mem::take(&mut world.held);
    world.hold = |_| false;
    for effect in held {
        let kept = world.carry_out(effect).unwrap();
        world.apply(kept);
    }
    assert!(world.answer_to(request).is_none());
    let kept = world.carry_out(last).unwrap();
    world.apply(kept);
    let answer = world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Committed(c)) if c.pinned == 3 * 4096), "{answer:?}");
}

// M-042
#[test]
fn the_first_one_with_untouched_pages_is_named_and_none_is_committed() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 4);
    for key in &keys(&world)[1..3] {
        world.memory.get_mut(key).unwrap().populated = false;
    }
    let refused = world.refused(client, Commit { objects });
    let kept = world.memory.values().filter(|memory| memory.kept).count();
    assert_eq!((refused.code, refused.value, refused.part, kept), (ErrorCode::NotReady, 1, 1, 0));
}

#[test]
fn those_of_a_refused_commit_can_be_committed_again() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 2);
    let second = keys(&world)[1];
    world.memory.get_mut(&second).unwrap().populated = false;
    world.refused(client, Commit { objects: objects.clone() });
    world.memory.get_mut(&second).unwrap().populated = true;
    let answer = world.ask(client, Commit { objects });
    assert!(matches!(&answer, Some(ClientMessage::Committed(c)) if c.pinned == 8192), "{answer:?}");
}

#[test]
fn one_that_is_ready_already_may_be_among_those_committed() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 2);
    world.ask(client, commit(objects[1]));
    let answer = world.ask(client, Commit { objects });
    assert!(matches!(&answer, Some(ClientMessage::Committed(c)) if c.pinned == 8192), "{answer:?}");
}

#[test]
fn a_commit_of_nothing_of_one_twice_or_of_one_under_way_is_refused() {
    let mut world = World::new();
    let (client, objects) = made(&mut world, 2);
    let none = world.refused(client, Commit { objects: Vec::new() });
    let twice = world.refused(client, Commit { objects: vec![objects[0], objects[1], objects[0]] });
    world.hold = |effect| matches!(effect, Effect::CheckPopulated { .. });
    world.send(client, commit(objects[0]), 0, world.now);
    let busy = world.refused(client, Commit { objects });
    assert_eq!(
        [none.code, twice.code, busy.code],
        [ErrorCode::BadParameter, ErrorCode::BadParameter, ErrorCode::Busy]
    );
    assert_eq!((twice.part, busy.part), (2, 0));
}

#[test]
fn l2_a_client_that_dies_while_it_commits_leaves_nothing() {
    for held in
        [(|e: &Effect| matches!(e, Effect::CheckPopulated { .. })) as fn(&Effect) -> bool, |e: &Effect| {
            matches!(e, Effect::Keep { .. })
        }]
    {
        let mut world = World::new();
        let before = world.broker.ledger();
        let (client, objects) = made(&mut world, 3);
        world.hold = held;
        world.send(client, Commit { objects }, 0, world.now);
        world.hang_up(client);
        release(&mut world);
        assert_eq!((world.memory.len(), world.broker.ledger()), (0, before.clone()));
    }
}
