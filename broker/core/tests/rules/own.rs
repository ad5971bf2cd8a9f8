//! Instances of a client's own, and memory that is no object: L3, L4, T37, T39.

use vgem_core::io::{Arrival, Effect, InstanceEnd, LinkId, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::codec::Zero;
use vgem_proto::describe::PUBLISH;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{InstanceId, Point, PorterId, QueueHandle, Time, TimelineHandle, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{
    AttachMemory, AttachRing, Bind, ClientMessage, CommitRing, OpenQueue, Refused, SetWindows,
};
use vgem_proto::message::driver::{Stalled, WindowsSet};
use vgem_proto::rights::Access;
use vgem_proto::snapshot::Topic;
use vgem_proto::user_queue::Window;

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, READ, WRITE, World, ZIP, config};

const AT: u64 = 0x7000_0000;
const LATER: Time = Time(u64::MAX);

/// A client with a queue at an instance of its own, which has a ring.
struct Own {
    world: World,
    client: LinkId,
    porter: PorterId,
    queue: QueueHandle,
    line: TimelineKey,
    instance: InstanceId,
}

fn open_own(world: &mut World, client: LinkId) -> ClientMessage {
    let request = world.send(
        client,
        OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero },
        OPEN_OWN,
        LATER,
    );
    world.answer_to(request).expect("an answer").message
}

fn own_in(mut world: World) -> Own {
    let client = world.client();
    let porter = world.porter(client);
    let ClientMessage::QueueOpened(opened) = open_own(&mut world, client) else { panic!("refused") };
    let (queue, line) = (opened.queue, opened.timeline);
    let instance = world.owner_of(line);
    let mut own = Own { world, client, porter, queue, line, instance };
    let attached = own.asks(AttachRing { queue, depth: 8, reserved: Zero });
    assert!(matches!(attached, ClientMessage::RingAttached(_)), "{attached:?}");
    assert!(matches!(own.asks(CommitRing { queue }), ClientMessage::Done(_)));
    own
}

fn own() -> Own {
    own_in(World::new())
}

fn window(address: u64, len: u64, access: Access) -> Window {
    Window { address, len, access, reserved: Zero }
}

impl Own {
    /// Asks, and lets the driver say what it has to.
    fn asks(&mut self, message: impl Into<ClientMessage>) -> ClientMessage {
        let request = self.world.send(self.client, message, 0, LATER);
        self.world.flush(self.instance);
        self.world.answer_to(request).expect("an answer").message
    }

    /// Asks for memory to be attached, which the porter brings.
    fn attach(&mut self, windows: Vec<Window>, arrival: Arrival, access: Access) -> ClientMessage {
        let request = self.world.send(self.client, AttachMemory { queue: self.queue, windows }, 0, LATER);
        if let Some(reply) = self.world.answer_to(request) {
            return reply.message;
        }
        self.world.bring(self.porter, request, arrival, access);
        self.world.flush(self.instance);
        self.world.answer_to(request).expect("an answer").message
    }

    fn attached() -> Self {
        let mut own = own();
        let process = own.world.process();
        let answer = own.attach(vec![window(AT, 4096, WRITE)], process, WRITE);
        assert!(is_done(&answer), "{answer:?}");
        own
    }

    fn windows(&self) -> Vec<Window> {
        self.world.drivers[&self.instance].windows[&self.line].clone()
    }

    fn stall(&mut self) {
        let since = self.world.now;
        self.world.now = since.after(1000 * MS);
        let stalled = Stalled { timeline: self.line, point: Point(7), address: AT + 1, since };
        self.world.say(self.instance, stalled);
    }

    fn bytes(&self) -> u64 {
        self.world.usage(DOMAIN).bytes
    }
}

fn is_done(answer: &ClientMessage) -> bool {
    matches!(answer, ClientMessage::Done(_))
}

fn refused(answer: ClientMessage) -> Refused {
    let ClientMessage::Refused(refused) = answer else { panic!("{answer:?}") };
    refused
}

#[test]
fn an_instance_of_a_clients_own_serves_it_alone_and_is_charged_until_it_is_gone() {
    let mut o = own();
    let other = o.world.client();
    let shared = o.world.open(other, COPY);
    assert_ne!(o.world.owner_of(shared.timeline), o.instance);
    let ClientMessage::QueueOpened(theirs) = open_own(&mut o.world, other) else { panic!("refused") };
    let ClientMessage::QueueOpened(second) = open_own(&mut o.world, o.client) else { panic!("refused") };
    assert_ne!(o.world.owner_of(theirs.timeline), o.instance, "another client has another");
    assert_eq!(o.world.owner_of(second.timeline), o.instance, "the same client has the same");
    let ring = vgem_proto::layout::user_queue::len(8) as u64;
    assert_eq!(o.bytes(), 2 * limits::OWN_BYTES + ring);
    o.world.hang_up(o.client);
    o.world.run_all();
    o.world.let_ms_pass(1);
    o.world.bury();
    assert!(!o.world.drivers.contains_key(&o.instance), "nobody needs it");
    assert_eq!(o.bytes(), limits::OWN_BYTES);
}

#[test]
fn an_instance_of_a_clients_own_is_kept_for_a_while_between_two_queues() {
    let mut o = own();
    o.world.close_queue(o.client, o.queue);
    o.world.run_all();
    let ClientMessage::QueueOpened(again) = open_own(&mut o.world, o.client) else { panic!("refused") };
    assert_eq!(o.world.owner_of(again.timeline), o.instance);
    o.world.close_queue(o.client, again.queue);
    o.world.run_all();
    o.world.let_ms_pass(3_600_000);
    assert_eq!((o.world.drivers.len(), o.bytes()), (0, 0));
}

#[test]
fn r7_it_takes_no_jobs_and_is_nobodys_neighbour() {
    let mut o = own();
    let answer = refused(o.asks(Batch::new().job(o.queue, 1).0));
    assert_eq!((answer.code, answer.value), (ErrorCode::Unsupported, u64::from(o.queue.0)));
    o.world.open(o.client, ZIP);
    assert!(o.world.drivers[&o.instance].observe_pages.is_empty());
    let others = o.world.drivers.values().filter(|driver| driver.id != o.instance);
    assert!(others.flat_map(|driver| driver.observe_pages.values()).next().is_none());
}

#[test]
fn a_domain_has_so_many_of_them_and_no_more() {
    let mut config = config();
    config.bounds.own_instances = 2;
    let mut o = own_in(World::with(config));
    let (second, third) = (o.world.client(), o.world.client());
    assert!(matches!(open_own(&mut o.world, second), ClientMessage::QueueOpened(_)));
    let before = o.bytes();
    let answer = refused(open_own(&mut o.world, third));
    assert_eq!((answer.code, answer.value, answer.limit), (ErrorCode::Exhausted, 3, 2));
    assert_eq!(o.bytes(), before);
    let stranger = o.world.client_of(OTHER_DOMAIN);
    assert!(matches!(open_own(&mut o.world, stranger), ClientMessage::QueueOpened(_)));
    assert!(matches!(open_own(&mut o.world, o.client), ClientMessage::QueueOpened(_)), "the one it has");
}

#[test]
fn a_domain_without_room_for_its_memory_gets_none() {
    let mut config = config();
    config.policy.defaults.quotas.bytes = limits::OWN_BYTES - 1;
    let mut world = World::with(config);
    let client = world.client();
    let answer = refused(open_own(&mut world, client));
    assert_eq!(
        (answer.code, answer.value, answer.limit),
        (ErrorCode::Exhausted, limits::OWN_BYTES, limits::OWN_BYTES - 1)
    );
    assert_eq!((world.drivers.len(), world.usage(DOMAIN).queues), (0, 0));
}

// M-168
#[test]
fn the_memory_of_a_process_goes_to_the_clients_own_driver_with_its_windows() {
    let mut o = Own::attached();
    assert_eq!((o.windows(), o.world.arrivals.len()), (vec![window(AT, 4096, WRITE)], 0));
    let two = vec![window(AT, 1, READ), window(2 * AT, 9, WRITE)];
    assert!(is_done(&o.asks(SetWindows { queue: o.queue, windows: two.clone() })));
    assert_eq!(o.windows(), two);
    assert!(is_done(&o.asks(SetWindows { queue: o.queue, windows: Vec::new() })));
    assert_eq!(o.windows(), []);
}

#[test]
fn memory_may_come_before_it_is_asked_for() {
    let mut o = own();
    let (process, request) = (o.world.process(), o.world.next_request());
    o.world.bring(o.porter, request, process, READ);
    let windows = vec![window(AT, 4096, READ)];
    assert!(is_done(&o.asks(AttachMemory { queue: o.queue, windows })));
}

#[test]
fn windows_that_cannot_be_are_refused_and_change_nothing() {
    let mut o = Own::attached();
    let before = o.windows();
    let bad = [
        (window(0, 1, READ), ErrorCode::OutOfRange),
        (window(AT, 0, READ), ErrorCode::OutOfRange),
        (window(u64::MAX, 1, READ), ErrorCode::OutOfRange),
    ];
    for (window, code) in bad {
        assert_eq!(refused(o.asks(SetWindows { queue: o.queue, windows: vec![window] })).code, code);
    }
    let overlapping = vec![window(AT, 4096, READ), window(AT + 4095, 1, READ)];
    let answer = refused(o.asks(SetWindows { queue: o.queue, windows: overlapping }));
    assert_eq!((answer.code, answer.value, answer.limit), (ErrorCode::Busy, AT + 4095, AT + 4096));
    assert_eq!(o.windows(), before);
}

#[test]
fn t38_memory_that_is_open_for_reading_has_no_window_to_write() {
    let mut o = own();
    let process = o.world.process();
    let answer = refused(o.attach(vec![window(AT, 4096, WRITE)], process, READ));
    assert_eq!((answer.code, o.world.arrivals.len()), (ErrorCode::Denied, 0));
    let process = o.world.process();
    assert!(is_done(&o.attach(vec![window(AT, 4096, READ)], process, READ)));
    let windows = vec![window(AT, 4096, WRITE)];
    assert_eq!(refused(o.asks(SetWindows { queue: o.queue, windows })).code, ErrorCode::Denied);
}

#[test]
fn what_is_not_wanted_is_refused_for_what_it_is_and_closed() {
    let mut o = own();
    let memory = o.world.foreign(4096);
    assert_eq!(refused(o.attach(Vec::new(), memory, WRITE)).code, ErrorCode::BadParameter);
    let process = o.world.process();
    let answer = o.world.try_import(o.client, o.porter, process, WRITE).expect("an answer");
    assert_eq!(refused(answer).code, ErrorCode::BadParameter);
    let process = o.world.process();
    assert!(is_done(&o.attach(Vec::new(), process, WRITE)));
    let process = o.world.process();
    assert_eq!(refused(o.attach(Vec::new(), process, WRITE)).code, ErrorCode::Busy);
    assert_eq!(o.world.arrivals.len(), 0);
}

#[test]
fn only_a_queue_of_the_clients_own_with_a_ring_gets_memory() {
    let mut o = own();
    let shared = o.world.open(o.client, COPY).queue;
    let attach = |queue| AttachMemory { queue, windows: Vec::new() };
    assert_eq!(o.world.refused(o.client, attach(shared)).code, ErrorCode::Unsupported);
    let ClientMessage::QueueOpened(plain) = open_own(&mut o.world, o.client) else { panic!("refused") };
    assert_eq!(o.world.refused(o.client, attach(plain.queue)).code, ErrorCode::NotReady);
    assert_eq!(o.world.refused(o.client, attach(QueueHandle(99))).code, ErrorCode::NoSuchHandle);
    let set = SetWindows { queue: o.queue, windows: Vec::new() };
    assert_eq!(o.world.refused(o.client, set).code, ErrorCode::NotReady);
    let stranger = o.world.client();
    assert_eq!(o.world.refused(stranger, attach(o.queue)).code, ErrorCode::NoSuchHandle);
}

#[test]
fn memory_that_comes_when_the_queue_is_gone_is_refused_and_closed() {
    for dies in [true, false] {
        let mut o = own();
        let request = o.world.send(o.client, AttachMemory { queue: o.queue, windows: Vec::new() }, 0, LATER);
        if dies {
            o.world.die(o.instance, InstanceEnd::Exited(-9));
        } else {
            o.world.close_queue(o.client, o.queue);
            o.world.run_all();
        }
        let process = o.world.process();
        o.world.bring(o.porter, request, process, WRITE);
        let answer = o.world.answer_to(request).expect("an answer").message;
        assert_eq!((refused(answer).code, o.world.arrivals.len()), (ErrorCode::Gone, 0));
    }
}

#[test]
fn a_driver_that_was_told_to_close_a_queue_hears_nothing_of_its_clients_memory() {
    let mut o = own();
    let request = o.world.send(o.client, AttachMemory { queue: o.queue, windows: Vec::new() }, 0, LATER);
    o.world.close_queue(o.client, o.queue);
    let process = o.world.process();
    o.world.bring(o.porter, request, process, WRITE);
    let answer = o.world.answer_to(request).expect("an answer").message;
    assert_eq!((refused(answer).code, o.world.arrivals.len()), (ErrorCode::Gone, 0));
    assert!(!o.world.drivers[&o.instance].windows.contains_key(&o.line));
}

#[test]
fn who_waits_for_windows_whose_driver_dies_is_refused_with_the_cause() {
    let mut o = Own::attached();
    let request = o.world.send(o.client, SetWindows { queue: o.queue, windows: Vec::new() }, 0, LATER);
    let second = SetWindows { queue: o.queue, windows: Vec::new() };
    assert_eq!(o.world.refused(o.client, second).code, ErrorCode::Busy);
    o.world.die(o.instance, InstanceEnd::Exited(-9));
    let answer = refused(o.world.answer_to(request).expect("an answer").message);
    assert_eq!(answer.code, ErrorCode::Gone);
    assert_eq!(o.world.explain(o.client, answer.cause).code, ErrorCode::DeviceLost);
    assert_eq!(o.bytes(), vgem_proto::layout::user_queue::len(8) as u64, "only the queue is left");
}

// M-171
#[test]
fn t39_an_entry_that_waits_for_a_page_ends_its_clients_driver_and_nobody_elses() {
    let mut o = Own::attached();
    let shared = o.world.open(o.client, COPY);
    o.stall();
    o.world.bury();
    let lost = o.world.truth.look(o.line, Point(1)).expect("it is over").expect_err("lost");
    assert_eq!(o.world.rings[&o.line], Some(lost));
    let text = String::from_utf8(o.world.explain(o.client, lost.cause).text).expect("words");
    assert!(text.contains("entry 7 waited 1000 ms for its client's memory at 0x70000001"), "{text}");
    o.world.submit(o.client, Batch::new().job(shared.queue, 1));
    o.world.run(shared.timeline, None);
    o.world.wait_ms(1000);
    assert!(
        matches!(open_own(&mut o.world, o.client), ClientMessage::QueueOpened(_)),
        "and it may try again"
    );
}

// M-171, M-172
#[test]
fn t39_a_process_that_does_not_end_is_left_with_what_it_maps_until_it_has() {
    let mut o = Own::attached();
    let object = o.world.object(o.client, 4096);
    let bind =
        Bind { queue: o.queue, object, offset: 0, len: 4096, address: 9 * AT, access: WRITE, reserved: Zero };
    assert!(is_done(&o.asks(bind)));
    o.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    o.world.drivers.get_mut(&o.instance).expect("it lives").hangs = true;
    o.stall();
    o.world.let_ms_pass(999);
    assert_eq!(o.world.rings[&o.line], None, "it may end yet");
    o.world.let_ms_pass(1);
    let lost = o.world.rings[&o.line].expect("the client is told all the same");
    let text = String::from_utf8(o.world.explain(o.client, lost.cause).text).expect("words");
    assert!(text.ends_with("at 0x70000001; its process has not ended"), "{text}");
    // What it maps stays, though nobody names it.
    o.world.close(o.client, object);
    o.world.close_queue(o.client, o.queue);
    o.world.run_all();
    assert_eq!((o.world.memory.len(), o.bytes()), (1, 4096 + limits::OWN_BYTES));
    let answer = refused(open_own(&mut o.world, o.client));
    assert_eq!((answer.code, answer.value), (ErrorCode::Unavailable, u64::from(100 + o.instance.0)));
    let text = String::from_utf8(answer.text).expect("words");
    assert!(text.contains("held up") && text.contains("0x70000001"), "{text}");
    let stranger = o.world.client_of(OTHER_DOMAIN);
    assert!(matches!(open_own(&mut o.world, stranger), ClientMessage::QueueOpened(_)), "nobody else notices");
    assert_eq!(o.world.broker.ledger().instances, 2);
    o.world.release(o.instance);
    assert_eq!((o.world.memory.len(), o.bytes()), (0, 0));
    o.world.let_ms_pass(100);
    assert!(matches!(open_own(&mut o.world, o.client), ClientMessage::QueueOpened(_)));
}

#[test]
fn l3_a_client_that_dies_while_its_driver_is_held_up_leaves_nothing_but_the_process() {
    let mut o = Own::attached();
    o.world.drivers.get_mut(&o.instance).expect("it lives").hangs = true;
    o.world.hang_up(o.client);
    // It does not close its queue.
    o.world.let_ms_pass(60_000);
    assert_eq!((o.world.rings.len(), o.bytes()), (0, limits::OWN_BYTES));
    o.world.release(o.instance);
    assert_eq!((o.bytes(), o.world.broker.ledger().instances), (0, 0));
}

#[test]
fn l3_a_client_that_goes_before_its_driver_was_started_leaves_nothing() {
    let mut o = own();
    o.world.die(o.instance, InstanceEnd::Exited(-9));
    // The next one has to pause first.
    let request = o.world.send(
        o.client,
        OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero },
        OPEN_OWN,
        LATER,
    );
    assert!(o.world.answer_to(request).is_none());
    o.world.hang_up(o.client);
    assert_eq!((o.bytes(), o.world.broker.ledger().instances), (0, 0));
    o.world.let_ms_pass(3_600_000);
    assert_eq!(o.world.drivers.len(), 0);
}

#[test]
fn a_clients_own_driver_that_ended_for_want_of_use_is_started_again_for_who_came_meanwhile() {
    let mut o = own();
    o.world.close_queue(o.client, o.queue);
    o.world.run_all();
    while !o.world.drivers[&o.instance].killed {
        assert!(o.world.wait_for_deadline());
    }
    let request = o.world.send(
        o.client,
        OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero },
        OPEN_OWN,
        LATER,
    );
    o.world.bury();
    let answer = o.world.answer_to(request).expect("an answer").message;
    assert!(matches!(answer, ClientMessage::QueueOpened(_)), "{answer:?}");
    assert_eq!(o.bytes(), limits::OWN_BYTES);
}

#[test]
fn t46_a_driver_that_says_of_memory_what_it_cannot_know_is_killed() {
    let mut o = own();
    let shared = o.world.open(o.client, ZIP);
    let zip = o.world.instance(ZIP);
    let stalled = Stalled { timeline: shared.timeline, point: Point(1), address: AT, since: Time(0) };
    o.world.say(zip, stalled);
    assert!(o.world.drivers[&zip].killed);
    o.world.say(o.instance, WindowsSet { timeline: o.line });
    assert!(o.world.drivers[&o.instance].killed);
}

#[test]
fn the_effect_that_leaves_a_process_comes_once_and_only_for_those() {
    let mut o = own();
    let shared = o.world.open(o.client, ZIP);
    let zip = o.world.owner_of(shared.timeline);
    o.world.hold = |effect| matches!(effect, Effect::LeaveInstance { .. });
    for id in [zip, o.instance] {
        o.world.say(id, WindowsSet { timeline: o.line });
        o.world.drivers.get_mut(&id).expect("it lives").hangs = true;
    }
    o.world.let_ms_pass(600_000);
    let left: Vec<_> = o.world.held.iter().map(|effect| format!("{effect:?}")).collect();
    assert_eq!(left, [format!("LeaveInstance {{ instance: {:?} }}", o.instance)]);
}

// M-182, M-183
#[test]
fn r7_an_entry_of_an_instance_of_ones_own_is_published_by_a_job_of_the_domains() {
    let mut o = Own::attached();
    let (object, opened) = (o.world.object(o.client, 4096), o.world.open(o.client, COPY));
    assert_ne!(o.world.owner_of(opened.timeline), o.instance);
    let reader = o.world.open(o.client, ZIP);
    let ring = TimelineHandle(o.queue.0);
    let publish = |job: u64, entry, until| {
        let batch = Batch::new().job(opened.queue, job).op(PUBLISH).waits_until(ring, entry, until);
        batch.operand(0, WRITE, object, 0..64).job(reader.queue, job).reads(object, 0..64)
    };
    let until = o.world.now.after(5_000 * MS);
    o.world.submit(o.client, publish(1, 6, until));
    o.world.submit(o.client, publish(2, 7, until));
    o.world.run_all();
    let ended = |o: &Own, line, job| o.world.truth.look(line, Point(job));
    assert_eq!((ended(&o, opened.timeline, 1), ended(&o, reader.timeline, 1)), (None, None));
    o.world.truth.value.insert(o.line, Point(6));
    o.world.run_all();
    assert_eq!(ended(&o, reader.timeline, 1), Some(Ok(())));
    o.stall();
    o.world.die(o.instance, InstanceEnd::Exited(-9));
    o.world.run_all();
    let lost = ended(&o, opened.timeline, 2).expect("it ended").expect_err("it failed");
    assert_eq!((lost.code, ended(&o, reader.timeline, 2)), (ErrorCode::DeviceLost, Some(Err(lost))));
}

#[test]
fn memory_that_comes_for_a_driver_that_is_ending_is_closed() {
    let mut o = own();
    let request = o.world.send(o.client, AttachMemory { queue: o.queue, windows: Vec::new() }, 0, LATER);
    let stalled = Stalled { timeline: o.line, point: Point(7), address: AT + 1, since: o.world.now };
    o.world.say(o.instance, stalled);
    assert!(o.world.drivers[&o.instance].killed);
    let process = o.world.process();
    o.world.bring(o.porter, request, process, WRITE);
    assert_eq!(refused(o.world.answer_to(request).expect("an answer").message).code, ErrorCode::Gone);
    assert_eq!(o.world.arrivals.len(), 0);
}

// M-172
#[test]
fn an_idle_process_that_does_not_end_keeps_what_it_maps_though_its_client_came_again() {
    let mut o = Own::attached();
    let object = o.world.object(o.client, 4096);
    let bind =
        Bind { queue: o.queue, object, offset: 0, len: 4096, address: 9 * AT, access: WRITE, reserved: Zero };
    assert!(is_done(&o.asks(bind)));
    o.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    o.world.close_queue(o.client, o.queue);
    o.world.run_all();
    o.world.drivers.get_mut(&o.instance).expect("it lives").hangs = true;
    while !o.world.drivers[&o.instance].killed {
        assert!(o.world.wait_for_deadline());
    }
    let again = OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    let request = o.world.send(o.client, again, OPEN_OWN, LATER);
    o.world.let_ms_pass(1000);
    let answer = refused(o.world.answer_to(request).expect("an answer").message);
    assert_eq!(answer.code, ErrorCode::Unavailable);
    assert_eq!(refused(open_own(&mut o.world, o.client)).code, ErrorCode::Unavailable);
    o.world.close(o.client, object);
    assert_eq!((o.world.memory.len(), o.bytes()), (1, 4096 + limits::OWN_BYTES));
    o.world.release(o.instance);
    o.world.hang_up(o.client);
    o.world.let_ms_pass(200_000);
    assert_eq!((o.world.memory.len(), o.bytes()), (0, 0));
}

#[test]
fn who_looks_sees_whom_an_instance_serves_and_that_it_is_held_up() {
    let mut o = Own::attached();
    o.world.drivers.get_mut(&o.instance).expect("it lives").hangs = true;
    let seen = |o: &Own| -> Vec<(bool, String, u32)> {
        let view = o.world.broker.snapshot(Scope::All, Topic::Devices, 0, 10);
        let Entries::Devices(devices) = view.entries else { panic!("devices") };
        let all = devices.into_iter().flat_map(|device| device.instances);
        all.map(|instance| (instance.client != 0, instance.state, instance.pid)).collect()
    };
    let pid = 100 + o.instance.0;
    assert_eq!(seen(&o), [(true, "ready".to_owned(), pid)]);
    o.stall();
    assert_eq!(seen(&o), [(true, "ending".to_owned(), pid)]);
    o.world.let_ms_pass(1000);
    assert_eq!(seen(&o), [(true, "held up".to_owned(), pid)]);
    o.world.release(o.instance);
    assert_eq!(seen(&o), []);
}
