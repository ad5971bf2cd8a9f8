//! Instances: started on demand or beforehand, started again with pauses, ended when idle.

use vgem_core::io::{Effect, Event, Input, InstanceEnd};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, OpenQueue};
use vgem_proto::message::driver::{Ready, TimelineClosed};

use crate::batch::Batch;
use crate::reservations::stage;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, World, ZIP};

fn open() -> OpenQueue {
    OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero }
}

#[test]
fn an_instance_serves_one_domain() {
    let mut world = World::new();
    let (first, second) = (world.client(), world.client_of(OTHER_DOMAIN));
    world.queue(first, COPY);
    world.queue(second, COPY);
    assert_ne!(world.instance_of(COPY, DOMAIN), world.instance_of(COPY, OTHER_DOMAIN));
}

#[test]
fn clients_of_one_domain_share_an_instance_and_no_page() {
    let mut world = World::new();
    let (first, second) = (world.client(), world.client());
    let slots =
        [world.open(first, COPY), world.open(second, COPY)].map(|opened| (opened.page.0, opened.slot));
    assert_eq!((slots, world.drivers.len()), ([(0, 0), (0, 0)], 1));
    assert_eq!(world.driver(COPY).signal_pages.len(), 2);
}

#[test]
fn a_page_is_sent_to_a_client_with_its_first_queue_only() {
    let mut world = World::new();
    let client = world.client();
    let attached: Vec<bool> = (0..16)
        .map(|_| world.ask_with(client, open()).unwrap().attach != vgem_core::io::Attach::None)
        .collect();
    let expected: Vec<bool> = (0..16).map(|n| n == 0 || n == 15).collect();
    assert_eq!(attached, expected);
}

#[test]
fn a_closed_slot_is_used_again_for_a_new_timeline() {
    let mut world = World::new();
    let client = world.client();
    let all: Vec<_> = (0..15).map(|_| world.open(client, COPY)).collect();
    world.close_queue(client, all[3].queue);
    world.flush(world.instance(COPY));
    let again = world.open(client, COPY);
    assert_eq!((again.page, again.slot), (all[3].page, 3));
    assert!(again.timeline.generation > all[14].timeline.generation);
}

#[test]
fn a_slot_that_a_job_still_waits_in_is_not_used_again() {
    let mut s = stage();
    let (other, reader) = (s.world.object(s.client, 4096), s.world.open(s.client, ZIP));
    let mut full_page = vec![(s.queues[0], s.lines[0])];
    full_page
        .extend((0..14).map(|_| s.world.open(s.client, COPY)).map(|opened| (opened.queue, opened.timeline)));
    for (place, (queue, _)) in full_page.iter().enumerate() {
        let object = if place == 1 { other } else { s.object };
        s.submit(Batch::new().job(*queue, 1).writes(object, 0..64));
    }
    s.submit(
        Batch::new().job(s.queues[1], 1).updates(s.object, 0..64).job(reader.queue, 1).reads(other, 0..64),
    );
    let seen_in = |s: &mut crate::reservations::Stage, line| {
        let jobs = s.world.driver(ZIP).history.clone();
        let wait =
            jobs.iter().flat_map(|job| &job.waits).find(|wait| wait.timeline == line).expect("it is seen");
        (wait.page, wait.slot)
    };
    full_page.iter().for_each(|(_, line)| s.world.run(*line, None));
    s.world.run(reader.timeline, None);
    for (queue, _) in &full_page[..2] {
        s.world.close_queue(s.client, *queue);
        s.world.flush(s.world.instance(COPY));
    }
    let fresh = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(fresh.queue, 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 2).reads(s.object, 0..64));
    assert_eq!(seen_in(&mut s, fresh.timeline), seen_in(&mut s, full_page[1].1));
}

#[test]
fn every_route_has_room_before_a_queue_opens() {
    let mut s = stage();
    for _ in 0..40 {
        let more = s.world.queue(s.client, ZIP);
        s.submit(Batch::new().job(more, 1).writes(s.object, 0..64));
    }
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    assert_eq!(s.world.last_job(COPY).waits.len(), 40);
}

#[test]
fn a_queue_that_waits_for_pages_gets_the_kernels_error() {
    let mut config = crate::world::config();
    config.bounds.spare_pairs = 0;
    let mut world = World::with(config);
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::MakePair { .. });
    let request = world.send(client, open(), 0, world.now.after(MS));
    let Some(Effect::MakePair { pair }) = world.held.pop() else { panic!("no pair is asked for") };
    world.apply(Input::PairMade { pair, outcome: Err(24) });
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    assert_eq!((refused.code, refused.value, world.held.len()), (ErrorCode::System, 24, 0));
}

#[test]
fn a_request_that_does_not_wait_is_refused_when_it_would_have_to() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartInstance { .. });
    let request = world.send(client, open(), 0, vgem_proto::ids::Time(0));
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    assert_eq!((refused.code, world.held.len()), (ErrorCode::Late, 1));
}

#[test]
fn a_request_waits_no_longer_than_it_says() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartInstance { .. });
    let request = world.send(client, open(), 0, world.now.after(50 * MS));
    assert!(world.answer_to(request).is_none());
    world.wait_ms(50);
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    assert_eq!(refused.code, ErrorCode::Late);
}

#[test]
fn a_client_waits_for_so_many_queues_and_no_more() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartInstance { .. });
    for _ in 0..64 {
        world.send(client, open(), 0, world.now.after(50 * MS));
    }
    let refused = world.refused(client, open());
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 65, 64));
}

// M-100
#[test]
fn a_driver_that_describes_itself_differently_is_ended() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |e| matches!(e, Effect::ToDriver { .. });
    let request = world.send(client, open(), 0, world.now.after(60_000 * MS));
    let id = world.drivers.values().next().unwrap().id;
    world.say(id, Ready { version: 1, reserved: Zero, description: b"nonsense".to_vec() });
    assert!(world.drivers[&id].killed);
    world.die(id, InstanceEnd::Exited(-9));
    let Some(ClientMessage::Refused(refused)) = world.answer_to(request).map(|r| r.message) else { panic!() };
    assert_eq!(refused.code, ErrorCode::Unavailable);
}

#[test]
fn a_driver_that_never_greets_is_ended() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |e| matches!(e, Effect::ToDriver { .. });
    world.send(client, open(), 0, world.now.after(60_000 * MS));
    world.wait_ms(10_000);
    assert!(world.drivers.values().all(|driver| driver.killed));
}

// M-100
#[test]
fn a_driver_that_speaks_before_it_greets_is_ended() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |e| matches!(e, Effect::ToDriver { .. });
    world.send(client, open(), 0, world.now.after(60_000 * MS));
    let id = world.drivers.values().next().unwrap().id;
    world.say(id, TimelineClosed { timeline: vgem_proto::ids::TimelineKey { index: 0, generation: 1 } });
    assert!(world.drivers[&id].killed);
}

#[test]
fn l4_the_device_is_back_after_a_pause_with_new_timelines() {
    let mut s = stage();
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let request = s.world.send(s.client, open(), 0, s.world.now.after(60_000 * MS));
    assert!(s.world.answer_to(request).is_none());
    s.world.wait_ms(100);
    let Some(ClientMessage::QueueOpened(opened)) = s.world.answer_to(request).map(|r| r.message) else {
        panic!()
    };
    assert!(opened.timeline.generation > s.lines[2].generation);
}

#[test]
fn a_device_that_is_lost_too_often_counts_as_failed_for_that_domain_only() {
    let mut world = World::new();
    let (client, stranger) = (world.client(), world.client_of(OTHER_DOMAIN));
    for pause in [100, 200, 1] {
        world.queue(client, COPY);
        world.die(world.instance(COPY), InstanceEnd::Exited(1));
        world.wait_ms(pause);
    }
    let refused = world.refused(client, open());
    assert_eq!((refused.code, refused.value), (ErrorCode::Unavailable, 59_999));
    world.queue(stranger, COPY);
    world.wait_ms(60_000);
    world.queue(client, COPY);
}

#[test]
fn an_announced_domain_has_its_instances_before_anybody_asks_and_again_after_a_loss() {
    let mut world = World::new();
    world.apply(Input::Prestart { domain: DOMAIN });
    assert_eq!(world.drivers.len(), 3);
    world.die(world.instance(COPY), InstanceEnd::Exited(-9));
    assert_eq!(world.drivers.len(), 2);
    world.wait_ms(100);
    assert_eq!(world.drivers.len(), 3);
    assert_eq!(world.broker.next_deadline(), None);
}

#[test]
fn an_instance_that_nobody_uses_is_ended_after_a_while_and_that_is_no_loss() {
    let mut s = stage();
    for (queue, line) in s.queues.into_iter().zip(s.lines) {
        s.world.close_queue(s.client, queue);
        s.world.flush(s.world.owner_of(line));
    }
    s.world.let_ms_pass(30_000);
    assert_eq!((s.world.drivers.len(), s.world.broker.counters().instances_lost), (0, 0));
    assert!(!s.world.events.iter().any(|e| matches!(e, Event::InstanceLost { .. })));
    s.world.queue(s.client, COPY);
}

#[test]
fn an_instance_whose_only_asker_gave_up_rests_and_is_ended() {
    let mut config = crate::world::config();
    config.bounds.spare_pairs = 0;
    let mut world = World::with(config);
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::MakePair { .. });
    world.send(client, open(), 0, world.now.after(MS));
    world.let_ms_pass(31_000);
    assert!(world.drivers.is_empty());
}

#[test]
fn a_queue_that_is_asked_for_while_an_idle_instance_ends_gets_a_new_one() {
    let mut s = stage();
    s.world.close_queue(s.client, s.queues[0]);
    s.world.flush(s.world.owner_of(s.lines[0]));
    s.world.wait_for_deadline();
    let request = s.world.send(s.client, open(), 0, s.world.now.after(MS));
    assert!(s.world.answer_to(request).is_none());
    s.world.bury();
    assert!(matches!(s.world.answer_to(request).map(|r| r.message), Some(ClientMessage::QueueOpened(_))));
}

#[test]
fn a_queue_that_gave_up_waiting_for_pages_leaves_the_pool_as_it_was() {
    let mut config = crate::world::config();
    config.bounds.spare_pairs = 0;
    let mut world = World::with(config);
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::MakePair { .. });
    world.send(client, open(), 0, world.now.after(MS));
    world.wait_ms(1);
    world.hold = |_| false;
    let make = world.held.pop().expect("a pair that was asked for");
    let made = world.carry_out(make).expect("an answer");
    world.apply(made);
    assert_eq!((world.pairs.len(), world.broker.ledger().pairs), (0, 0));
}
