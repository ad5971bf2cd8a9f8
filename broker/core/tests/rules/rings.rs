//! Rings of queues, and the ranges of objects that are bound to them.

use vgem_core::io::{Effect, Input, InstanceEnd};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Handle, Point, QueueHandle, Time};
use vgem_proto::message::client::{AttachRing, Bind, ClientMessage, CommitRing, Unbind};
use vgem_proto::message::driver::{Bound, RingReady};
use vgem_proto::rights::Access;

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::world::{COPY, DOMAIN, OTHER_DOMAIN, READ, SEC, WRITE, ZIP};

const AT: u64 = 0x7000_0000;
const LATER: Time = Time(u64::MAX);

pub(crate) fn attach(queue: QueueHandle, depth: u32) -> AttachRing {
    AttachRing { queue, depth, reserved: Zero }
}

fn range(queue: QueueHandle, object: Handle, address: u64, access: Access) -> Bind {
    Bind { queue, object, offset: 0, len: 4096, address, access, reserved: Zero }
}

/// A stage whose first queue has a ring, of which its driver has not heard.
fn attached() -> Stage {
    let mut s = stage();
    let answer = asks(&mut s, |s| attach(s.queues[0], 64));
    assert!(matches!(answer, ClientMessage::RingAttached(ref ring) if ring.depth == 64), "{answer:?}");
    s
}

fn commit(s: &Stage) -> CommitRing {
    CommitRing { queue: s.queues[0] }
}

/// A stage whose first queue has a ring.
pub(crate) fn ringed() -> Stage {
    let mut s = attached();
    assert!(is_done(&asks(&mut s, commit)));
    s
}

/// Asks, and lets the first queue's driver say what it has to.
fn asks<M: Into<ClientMessage>>(s: &mut Stage, message: impl FnOnce(&Stage) -> M) -> ClientMessage {
    let message = message(s);
    let request = s.world.send(s.client, message, 0, LATER);
    let copy = s.world.instance(COPY);
    s.world.flush(copy);
    s.world.answer_to(request).expect("an answer").message
}

fn is_done(answer: &ClientMessage) -> bool {
    matches!(answer, ClientMessage::Done(_))
}

fn bytes(s: &Stage) -> u64 {
    s.world.usage(DOMAIN).bytes
}

#[test]
fn a_ring_is_made_charged_sent_to_both_and_goes_with_its_queue() {
    let mut s = stage();
    let before = bytes(&s);
    let ClientMessage::RingAttached(ring) = asks(&mut s, |s| attach(s.queues[0], 0)) else {
        panic!("refused")
    };
    assert_eq!((ring.queue, ring.depth), (s.queues[0], vgem_proto::limits::RING_DEPTH_DEFAULT));
    assert_eq!(bytes(&s) - before, vgem_proto::layout::user_queue::len(ring.depth) as u64);
    assert!(s.world.rings.contains_key(&s.lines[0]));
    s.world.close_queue(s.client, s.queues[0]);
    s.world.run_all();
    assert_eq!((bytes(&s), s.world.rings.len()), (before, 0));
}

#[test]
fn a_depth_that_is_none_and_a_second_ring_are_refused() {
    let mut s = ringed();
    for depth in [1, 7, 9, 8192] {
        let refused = s.world.refused(s.client, attach(s.queues[1], depth));
        let found = (refused.code, refused.value, refused.limit);
        assert_eq!(found, (ErrorCode::OutOfRange, u64::from(depth), 4096));
    }
    assert_eq!(s.world.refused(s.client, attach(s.queues[0], 8)).code, ErrorCode::Busy);
    assert_eq!(s.world.refused(s.client, attach(QueueHandle(99), 8)).code, ErrorCode::NoSuchHandle);
}

#[test]
fn a_ring_that_its_driver_cannot_map_is_no_ring() {
    let mut s = stage();
    let before = bytes(&s);
    asks(&mut s, |s| attach(s.queues[0], 64));
    s.world.driver(COPY).ring_errno = 12;
    let ClientMessage::Refused(refused) = asks(&mut s, commit) else { panic!("attached") };
    assert_eq!((refused.code, refused.value), (ErrorCode::System, 12));
    assert_eq!((bytes(&s), s.world.rings.len()), (before, 0));
}

#[test]
fn a_range_is_bound_where_the_driver_maps_it_and_unbound_again() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    let bound = s.world.driver(COPY).spaces.values().next().and_then(|space| space.get(&AT)).cloned();
    let bound = bound.expect("it is there");
    assert_eq!((bound.len, bound.access, bound.foreign), (4096, WRITE, 0));
    assert!(is_done(&asks(&mut s, |s| Unbind { queue: s.queues[0], address: AT })));
    assert!(s.world.driver(COPY).spaces.values().all(|space| space.is_empty()));
    let refused = s.world.refused(s.client, Unbind { queue: s.queues[0], address: AT });
    assert_eq!((refused.code, refused.value), (ErrorCode::NoSuchHandle, AT));
}

#[test]
fn what_cannot_be_bound_is_refused_with_the_value_and_the_limit() {
    let mut s = ringed();
    let q = s.queues[0];
    assert!(is_done(&asks(&mut s, |s| range(q, s.object, AT, READ))));
    let good = range(q, s.object, 2 * AT, READ);
    let bad = [
        (Bind { queue: s.queues[1], ..good.clone() }, ErrorCode::NotReady),
        (Bind { object: Handle(99), ..good.clone() }, ErrorCode::NoSuchHandle),
        (Bind { offset: 1, ..good.clone() }, ErrorCode::OutOfRange),
        (Bind { len: 0, ..good.clone() }, ErrorCode::OutOfRange),
        (Bind { offset: u64::MAX, len: 2, ..good.clone() }, ErrorCode::OutOfRange),
        (Bind { address: 0, ..good.clone() }, ErrorCode::OutOfRange),
        (Bind { address: u64::MAX - 4094, ..good.clone() }, ErrorCode::OutOfRange),
        (Bind { address: AT + 4095, len: 1, ..good.clone() }, ErrorCode::Busy),
        (Bind { address: AT - 1, len: 2, ..good.clone() }, ErrorCode::Busy),
    ];
    for (bind, code) in bad {
        let refused = s.world.refused(s.client, bind.clone());
        assert_eq!(refused.code, code, "{bind:?}");
    }
    let raw = s.world.raw_object(s.client, 4096);
    assert_eq!(s.world.refused(s.client, range(q, raw, 3 * AT, READ)).code, ErrorCode::NotReady);
    for n in 1..vgem_proto::limits::RING_BINDS as u64 {
        let bind = Bind { len: 1, address: 2 * AT + n, ..good.clone() };
        assert!(is_done(&asks(&mut s, |_| bind)));
    }
    assert_eq!(s.world.refused(s.client, Bind { address: AT / 2, ..good }).code, ErrorCode::Exhausted);
}

#[test]
fn a_range_that_the_driver_could_not_map_is_not_bound() {
    let mut s = ringed();
    s.world.driver(COPY).bind_code = ErrorCode::MapFailed.number();
    let ClientMessage::Refused(refused) = asks(&mut s, |s| range(s.queues[0], s.object, AT, READ)) else {
        panic!("bound")
    };
    assert_eq!((refused.code, refused.value), (ErrorCode::MapFailed, AT));
    s.world.driver(COPY).bind_code = 0;
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, READ))));
}

#[test]
fn l1_a_bound_object_lives_until_it_is_unbound() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    s.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    s.world.close(s.client, s.object);
    s.world.run_all();
    assert_eq!(s.world.memory.len(), 1, "entries reach it");
    assert!(is_done(&asks(&mut s, |s| Unbind { queue: s.queues[0], address: AT })));
    s.world.run_all();
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn l4_the_driver_is_gone_the_ring_is_over_with_the_cause_and_its_objects_are_free() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let lost = s.world.truth.look(s.lines[0], Point(1)).unwrap().unwrap_err();
    assert_eq!(s.world.rings[&s.lines[0]], Some(lost));
    s.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    s.world.close(s.client, s.object);
    s.world.run_all();
    assert_eq!(s.world.memory.len(), 0);
    let refused = s.world.refused(s.client, range(s.queues[0], Handle(1), AT, READ));
    assert_eq!(refused.code, ErrorCode::Gone);
    s.world.close_queue(s.client, s.queues[0]);
    assert_eq!(s.world.rings.len(), 0);
}

#[test]
fn who_waits_for_a_ring_or_a_range_whose_driver_dies_is_refused_with_the_cause() {
    let mut s;
    for wants_ring in [true, false] {
        s = if wants_ring { attached() } else { ringed() };
        let request = if wants_ring {
            s.world.send(s.client, commit(&s), 0, LATER)
        } else {
            s.world.send(s.client, range(s.queues[0], s.object, AT, READ), 0, LATER)
        };
        s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
        let ClientMessage::Refused(refused) = s.world.answer_to(request).expect("an answer").message else {
            panic!("done")
        };
        assert_eq!(refused.code, ErrorCode::Gone);
        assert_eq!(s.world.explain(s.client, refused.cause).code, ErrorCode::DeviceLost);
    }
}

#[test]
fn f9_a_queue_with_a_ring_is_gone_with_its_instance_also_if_others_go_on() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    let other = s.world.open(s.client, COPY);
    s.submit(Batch::new().job(other.queue, 1).job(other.queue, 2));
    let late = s.world.instance(COPY);
    while !s.world.drivers[&late].killed {
        s.world.wait_for_deadline();
    }
    s.world.die(late, InstanceEnd::Exited(-9));
    assert!(s.world.rings[&s.lines[0]].is_some());
    s.world.let_ms_pass(100);
    s.world.run_all();
    assert_eq!(s.world.truth.look(other.timeline, Point(2)), Some(Ok(())));
    assert_eq!(s.world.refused(s.client, attach(s.queues[0], 8)).code, ErrorCode::Gone);
}

#[test]
fn a_queue_takes_jobs_or_entries_and_not_both() {
    let mut s = ringed();
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[0], 1).0);
    assert_eq!((refused.code, refused.value), (ErrorCode::Busy, u64::from(s.queues[0].0)));
    s.submit(Batch::new().job(s.queues[1], 1));
    assert_eq!(s.world.refused(s.client, attach(s.queues[1], 8)).code, ErrorCode::Busy);
    // A ring that could not be leaves a queue as it was.
    s.world.driver(SEC).ring_errno = 12;
    s.world.ask(s.client, attach(s.queues[2], 8));
    s.world.send(s.client, CommitRing { queue: s.queues[2] }, 0, LATER);
    let sec = s.world.instance(SEC);
    s.world.flush(sec);
    s.submit(Batch::new().job(s.queues[2], 1));
}

#[test]
fn f3_what_a_ring_has_signalled_stands_when_its_driver_dies() {
    let mut s = ringed();
    let timeline = s.lines[0];
    // Entries, of which the broker has heard nothing.
    s.world.truth.value.insert(timeline, Point(41));
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let ended = [41, 42].map(|point| s.world.truth.look(timeline, Point(point)).map(|ended| ended.is_ok()));
    assert_eq!(ended, [Some(true), Some(false)]);
}

#[test]
fn t36_engines_go_through_windows_from_when_another_domain_may_write_what_is_bound() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    let key = s.world.last_object();
    let guest = s.world.client_of(OTHER_DOMAIN);
    let porter = s.world.porter(guest);
    s.world.import(guest, porter, key, WRITE);
    let copy = s.world.instance(COPY);
    s.world.flush(copy);
    let space = s.world.driver(COPY).spaces.values().next().cloned().expect("a ring");
    assert_eq!(space[&AT].foreign, 1);
}

#[test]
fn a_client_that_hangs_up_leaves_nothing_of_its_rings() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    // One that was never answered.
    s.world.send(s.client, range(s.queues[0], s.object, 2 * AT, READ), 0, LATER);
    s.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    s.world.hang_up(s.client);
    s.world.run_all();
    assert_eq!((s.world.rings.len(), s.world.memory.len(), bytes(&s)), (0, 0, 0));
}

#[test]
fn a_ring_whose_fd_did_not_arrive_takes_its_queue_with_it() {
    let mut s = ringed();
    let message = vgem_proto::message::client::RingAttached { queue: s.queues[0], depth: 64, reserved: Zero };
    s.world.apply(Input::Undelivered { link: s.client, message: message.into() });
    s.world.run_all();
    assert_eq!(s.world.rings.len(), 0);
    assert_eq!(s.world.refused(s.client, attach(s.queues[0], 8)).code, ErrorCode::NoSuchHandle);
}

#[test]
fn a_driver_that_answers_for_what_it_was_not_sent_is_ended() {
    let mut s = ringed();
    let zip = s.world.instance(ZIP);
    let ready = RingReady { timeline: s.lines[0], errno: 0, reserved: Zero };
    s.world.say(zip, ready);
    assert!(s.world.drivers[&zip].killed);
}

// M-176
#[test]
fn a_driver_hears_of_a_ring_when_its_client_has_touched_all_of_it_and_not_before() {
    let mut s = attached();
    assert!(s.world.driver(COPY).spaces.is_empty() && s.world.driver(COPY).outbox.is_empty());
    for populated in [false, true] {
        s.world.hold = |effect| matches!(effect, Effect::CheckRing { .. });
        let request = s.world.send(s.client, commit(&s), 0, LATER);
        s.world.hold = |_| false;
        s.world.apply(Input::RingChecked { timeline: s.lines[0], populated });
        let copy = s.world.instance(COPY);
        assert_eq!(s.world.driver(COPY).spaces.len(), usize::from(populated));
        s.world.flush(copy);
        let answer = s.world.answer_to(request).expect("an answer").message;
        let refused = matches!(&answer, ClientMessage::Refused(r) if r.code == ErrorCode::NotReady);
        assert_eq!((refused, is_done(&answer)), (!populated, populated));
    }
}

#[test]
fn a_ring_that_is_none_or_committed_is_not_committed() {
    let mut s = ringed();
    assert_eq!(s.world.refused(s.client, commit(&s)).code, ErrorCode::Busy);
    let none = CommitRing { queue: s.queues[1] };
    assert_eq!(s.world.refused(s.client, none).code, ErrorCode::NotReady);
    let strange = CommitRing { queue: QueueHandle(99) };
    assert_eq!(s.world.refused(s.client, strange).code, ErrorCode::NoSuchHandle);
}

#[test]
fn a_queue_that_closes_while_its_ring_is_made_gets_none_and_its_driver_hears_nothing_of_it() {
    for (held, asked) in [
        ((|e| matches!(e, Effect::MakeRing { .. })) as fn(&Effect) -> bool, false),
        (|e| matches!(e, Effect::CheckRing { .. }), true),
    ] {
        let mut s = if asked { attached() } else { stage() };
        let before = bytes(&s);
        s.world.hold = held;
        let request = match asked {
            true => s.world.send(s.client, commit(&s), 0, LATER),
            false => s.world.send(s.client, attach(s.queues[0], 64), 0, LATER),
        };
        s.world.close_queue(s.client, s.queues[0]);
        let answer = s.world.answer_to(request).expect("an answer").message;
        assert!(matches!(&answer, ClientMessage::Refused(r) if r.code == ErrorCode::Gone), "{answer:?}");
        s.world.run_all();
        s.world.hold = |_| false;
        for effect in std::mem::take(&mut s.world.held) {
            let input = s.world.carry_out(effect).expect("an answer");
            s.world.apply(input);
        }
        s.world.run_all();
        assert!(s.world.driver(COPY).spaces.is_empty() && s.world.rings.is_empty());
        let ring = vgem_proto::layout::user_queue::len(64) as u64;
        assert_eq!(bytes(&s), if asked { before - ring } else { before });
    }
}

/// Has another domain write the stage's object.
fn shared_with_others(s: &mut Stage) {
    let key = s.world.last_object();
    let guest = s.world.client_of(OTHER_DOMAIN);
    let porter = s.world.porter(guest);
    s.world.import(guest, porter, key, WRITE);
}

#[test]
fn t36_a_range_that_others_may_write_before_it_is_bound_is_told_again_when_it_is() {
    let mut s = ringed();
    let request = s.world.send(s.client, range(s.queues[0], s.object, AT, WRITE), 0, LATER);
    shared_with_others(&mut s);
    let copy = s.world.instance(COPY);
    assert_eq!(s.world.driver(COPY).spaces[&s.lines[0]][&AT].foreign, 0);
    s.world.flush(copy);
    assert!(is_done(&s.world.answer_to(request).expect("an answer").message));
    assert_eq!(s.world.driver(COPY).spaces[&s.lines[0]][&AT].foreign, 1);
}

#[test]
fn t36_a_driver_that_cannot_go_through_windows_where_others_write_is_ended() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    shared_with_others(&mut s);
    let copy = s.world.instance(COPY);
    s.world.driver(COPY).outbox.clear();
    let code = ErrorCode::MapFailed.number();
    s.world.say(copy, Bound { timeline: s.lines[0], address: AT, code, reserved: Zero });
    assert!(s.world.drivers[&copy].killed);
}

#[test]
fn a_queue_that_closes_is_told_nothing_of_others_any_more() {
    let mut s = ringed();
    assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, WRITE))));
    s.world.close_queue(s.client, s.queues[0]);
    let copy = s.world.instance(COPY);
    let closed = s.world.driver(COPY).flush();
    shared_with_others(&mut s);
    closed.into_iter().for_each(|message| s.world.say(copy, message));
    assert!(s.world.driver(COPY).outbox.is_empty() && !s.world.drivers[&copy].killed);
}

#[test]
fn a_client_gets_a_quarter_of_an_instances_rings_and_leaves_the_rest_to_others() {
    let mut s = stage();
    let client = s.client;
    let ask = |s: &mut Stage, client| {
        let queue = s.world.open(client, COPY).queue;
        (queue, s.world.ask(client, attach(queue, 8)))
    };
    let first = ask(&mut s, client).0;
    for n in 1..vgem_proto::limits::CLIENT_RINGS {
        let answer = ask(&mut s, client).1;
        assert!(matches!(answer, Some(ClientMessage::RingAttached(_))), "{n}: {answer:?}");
    }
    let (queue, Some(ClientMessage::Refused(refused))) = ask(&mut s, client) else { panic!("one more") };
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 17, 16));
    let other = s.world.client();
    assert!(matches!(ask(&mut s, other).1, Some(ClientMessage::RingAttached(_))));
    s.world.close_queue(s.client, first);
    // The driver has it until it says so.
    assert_eq!(s.world.refused(s.client, attach(queue, 8)).code, ErrorCode::Exhausted);
    s.world.run_all();
    assert!(matches!(s.world.ask(s.client, attach(queue, 8)), Some(ClientMessage::RingAttached(_))));
}

// M-178
/// F7: an engine that does not end an entry in time is ended, whatever else its driver answers meanwhile; and not before an
/// entry that keeps its limit may have ended.
#[test]
fn f7_whoever_is_kept_by_an_entry_that_does_not_end_learns_why_and_the_driver_is_ended() {
    for closes in [false, true] {
        let mut s = ringed();
        assert!(is_done(&asks(&mut s, |s| range(s.queues[0], s.object, AT, READ))));
        let other = s.world.open(s.client, COPY);
        let copy = s.world.instance(COPY);
        let request = (!closes).then(|| {
            let unbind = Unbind { queue: s.queues[0], address: AT };
            s.world.send(s.client, unbind, 0, LATER)
        });
        if closes {
            s.world.close_queue(s.client, s.queues[0]);
        }
        s.world.driver(COPY).outbox.clear();
        s.world.driver(COPY).lines.remove(&s.lines[0]);
        // The longest operation may run for 2 s, and an answer may take 10 s. Others are answered all the time.
        for _ in 0..11 {
            s.world.let_ms_pass(1000);
            let queue = s.world.queue(s.client, COPY);
            s.world.close_queue(s.client, queue);
            s.world.flush(copy);
            assert!(!s.world.drivers[&copy].killed, "an entry that keeps its limit may still run");
        }
        s.world.let_ms_pass(1001);
        let told = s.world.truth.look(other.timeline, Point(1)).expect("over").expect_err("lost");
        let why = s.world.explain(s.client, told.cause);
        let text = String::from_utf8(why.text).expect("text");
        assert_eq!(why.code, ErrorCode::DeviceLost);
        assert!(text.contains("has run for more than 12000 ms"), "{text}");
        if let Some(request) = request {
            let answer = s.world.answer_to(request).expect("an answer").message;
            assert!(matches!(&answer, ClientMessage::Refused(r) if r.cause == told.cause), "{answer:?}");
        }
    }
}
