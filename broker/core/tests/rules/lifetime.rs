//! L: how long things live, and that everything comes back.

use vgem_core::io::{Effect, Input, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Handle;
use vgem_proto::message::client::{ClientMessage, Export, Exported};
use vgem_proto::message::driver::DriverMessage;
use vgem_proto::rights::Access;

use crate::batch::Batch;
use crate::reservations::stage;
use crate::world::{COPY, DOMAIN, World, ZIP, commit, create, export_of};

fn with_export() -> (World, LinkId, Handle) {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    let object = world.object(client, 8192);
    (world, client, object)
}

// M-038
#[test]
fn l1_an_object_with_an_open_export_is_not_freed_and_stays_charged() {
    let (mut world, client, object) = with_export();
    world.close(client, object);
    assert_eq!(world.broker.ledger().domains[&DOMAIN].bytes, 8192);
    assert_eq!(world.memory.len(), 1);
}

// M-038
#[test]
fn l1_the_last_close_of_an_export_frees_it() {
    let (mut world, client, object) = with_export();
    let key = world.last_object();
    world.close(client, object);
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.apply(Input::ExportHint { object: Some(key) });
    assert_eq!((world.memory.len(), world.broker.ledger().domains[&DOMAIN].bytes), (0, 0));
}

#[test]
fn l1_a_hint_that_was_lost_is_made_up_for_by_a_sweep() {
    let (mut world, client, object) = with_export();
    let key = world.last_object();
    world.close(client, object);
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.apply(Input::ExportHint { object: None });
    assert_eq!(world.memory.len(), 0);
}

#[test]
fn l1_a_hint_during_the_probe_is_not_lost() {
    let (mut world, client, object) = with_export();
    let key = world.last_object();
    world.close(client, object);
    world.hold = |effect| matches!(effect, Effect::Probe { .. });
    world.apply(Input::ExportHint { object: Some(key) });
    world.apply(Input::ExportHint { object: Some(key) });
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.hold = |_| false;
    world.apply(Input::Probed { object: key, free: false });
    assert_eq!(world.memory.len(), 0);
}

#[test]
fn l1_only_what_outlives_its_handles_is_watched_and_what_closed_before_is_found() {
    let (mut world, client, object) = with_export();
    let key = world.last_object();
    assert!(!world.memory[&key].watched);
    world.hold = |effect| matches!(effect, Effect::Probe { .. });
    world.close(client, object);
    world.apply(Input::Probed { object: key, free: false });
    assert!(world.memory[&key].watched);
    // Closed before it was watched: nobody will ever hint.
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.hold = |_| false;
    let look = world.held.pop().expect("it is looked at once more");
    let answer = world.carry_out(look).expect("an answer");
    world.apply(answer);
    assert_eq!(world.memory.len(), 0);
}

#[test]
fn l1_an_orphan_is_looked_at_ever_more_seldom() {
    let (mut world, client, object) = with_export();
    world.close(client, object);
    let start = world.now;
    let mut moments = Vec::new();
    for _ in 0..5 {
        assert!(world.wait_for_deadline());
        moments.push(world.now.since(start) / 1_000_000);
    }
    assert_eq!(moments, [5, 105, 1105, 61_105, 121_105]);
}

#[test]
fn l1_a_reference_in_the_last_moment_keeps_the_object() {
    let (mut world, client, object) = with_export();
    let key = world.last_object();
    world.memory.get_mut(&key).unwrap().exports = 0;
    world.hold = |effect| matches!(effect, Effect::Free { .. });
    world.close(client, object);
    world.memory.get_mut(&key).unwrap().exports = 1;
    world.hold = |_| false;
    world.apply(Input::Freed { object: key, gone: false });
    assert_eq!(world.broker.ledger().objects, 1);
}

// M-038
#[test]
fn l1_every_instance_lets_go_before_anybody_probes() {
    let mut s = stage();
    s.submit(
        Batch::new().job(s.queues[0], 1).reads(s.object, 0..64).job(s.queues[1], 1).reads(s.object, 0..64),
    );
    s.world.run_all();
    s.world.close(s.client, s.object);
    s.world.flush(s.world.instance(COPY));
    assert_eq!(s.world.memory.len(), 1);
    s.world.flush(s.world.instance(ZIP));
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn l1_the_death_of_an_instance_is_as_good_as_its_letting_go() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    s.world.run_all();
    s.world.close(s.client, s.object);
    s.world.die(s.world.instance(COPY), vgem_core::io::InstanceEnd::Exited(-9));
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn l1_an_instance_that_does_not_let_go_is_ended() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    s.world.run_all();
    s.world.close(s.client, s.object);
    s.world.let_ms_pass(10_000);
    assert_eq!(s.world.memory.len(), 0);
}

// M-023
#[test]
fn l2_an_object_that_was_not_committed_dies_with_its_creator() {
    let mut world = World::new();
    let before = world.broker.ledger();
    let client = world.client();
    world.raw_object(client, 4096);
    world.hang_up(client);
    assert_eq!((world.memory.len(), world.broker.ledger()), (0, before));
}

#[test]
fn l2_so_does_one_whose_memory_was_still_being_made() {
    let mut world = World::new();
    let before = world.broker.ledger();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::MakeObject { .. });
    world.send(client, create(4096), 0, world.now);
    world.hang_up(client);
    world.hold = |_| false;
    let effect = world.held.pop().unwrap();
    let made = world.carry_out(effect).unwrap();
    world.apply(made);
    assert_eq!((world.memory.len(), world.broker.ledger()), (0, before));
}

#[test]
fn l2_an_object_with_untouched_pages_is_not_committed_but_may_be_later() {
    let mut world = World::new();
    let client = world.client();
    let object = world.raw_object(client, 4096);
    let key = world.last_object();
    world.memory.get_mut(&key).unwrap().populated = false;
    let refused = world.refused(client, commit(object));
    assert_eq!(refused.code, ErrorCode::NotReady);
    world.memory.get_mut(&key).unwrap().populated = true;
    let committed = world.ask(client, commit(object));
    assert!(matches!(committed, Some(ClientMessage::Committed(c)) if c.pinned == 4096));
}

// M-023
#[test]
fn l3_the_running_jobs_of_a_dead_client_finish() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.hang_up(s.client);
    assert_eq!(s.world.memory.len(), 1);
    s.world.run_all();
    assert_eq!((s.world.memory.len(), s.world.broker.counters().jobs_ok), (0, 1));
}

#[test]
fn l3_exports_that_others_hold_stay_valid_and_charged() {
    let (mut world, client, _) = with_export();
    world.hang_up(client);
    assert_eq!(world.broker.ledger().domains[&DOMAIN].bytes, 8192);
}

#[test]
fn l3_a_client_that_dies_while_its_queue_opens_leaves_nothing() {
    let mut world = World::new();
    let before = world.broker.ledger();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartInstance { .. });
    let open = vgem_proto::message::client::OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    world.send(client, open, 0, world.now.after(1_000_000_000));
    world.hang_up(client);
    let Some(Effect::StartInstance { instance, .. }) = world.held.pop() else { panic!("nothing is started") };
    world.apply(Input::InstanceFailed { instance, why: "no such program".into() });
    assert_eq!(world.broker.ledger(), before);
}

// M-023
#[test]
fn l3_the_pages_toward_a_dead_client_go_when_its_queues_are_closed() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.hang_up(s.client);
    assert_eq!(s.world.driver(COPY).signal_pages.len(), 1);
    s.world.run_all();
    s.world.flush(s.world.instance(COPY));
    assert_eq!(s.world.driver(COPY).signal_pages.len(), 0);
}

#[test]
fn l6_an_object_is_pinned_once_and_mapped_once_per_instance() {
    let mut s = stage();
    for point in 1..=3 {
        s.submit(Batch::new().job(s.queues[0], point).reads(s.object, 0..64));
        s.submit(Batch::new().job(s.queues[1], point).reads(s.object, 0..64));
    }
    let mapped = [COPY, ZIP].map(|device| s.world.driver(device).mapped.len());
    assert_eq!(mapped, [1, 1]);
}

#[test]
fn a_mapping_that_failed_is_asked_for_again_by_the_next_job() {
    let mut s = stage();
    s.world.hold =
        |e| matches!(e, Effect::ToDriver { message: DriverMessage::Map(_), .. } | Effect::Run { .. });
    let (id, object) = (s.world.instance(COPY), s.world.last_object());
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    s.world.say(id, vgem_proto::message::driver::NotMapped { object, errno: 12, reserved: Zero });
    s.submit(Batch::new().job(s.queues[0], 2).reads(s.object, 0..64));
    let maps = |e: &&Effect| matches!(e, Effect::ToDriver { message: DriverMessage::Map(_), .. });
    assert_eq!(s.world.held.iter().filter(maps).count(), 2);
}

#[test]
fn an_export_is_a_fresh_file_with_no_more_than_was_asked() {
    let mut world = World::new();
    let client = world.client();
    let object = world.object(client, 4096);
    let key = world.last_object();
    let asked = Export { object, access: Access::Read, reserved: Zero };
    let reply = world.ask_with(client, asked).unwrap();
    assert_eq!(reply.attach, export_of(key, Access::Read));
    assert_eq!(reply.message, ClientMessage::Exported(Exported { len: 4096 }));
}

#[test]
fn invariant_12_all_clients_dead_and_quiet_leaves_the_broker_as_it_was() {
    let mut s = stage();
    let before = World::new().broker.ledger();
    s.submit(
        Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[1], 1).reads(s.object, 0..64),
    );
    let other = s.world.client();
    s.world.queue(other, COPY);
    s.world.hang_up(s.client);
    s.world.hang_up(other);
    s.world.run_all();
    s.world.let_ms_pass(120_000);
    assert_eq!(s.world.broker.ledger(), before);
    assert!(s.world.drivers.is_empty() && s.world.memory.is_empty());
}
