//! F10: a cause says who, which device, which job, what object and when, and it can be explained wherever its failure
//! was shown, and nowhere else.

use vgem_core::io::{InstanceEnd, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, DomainId, Handle, InstanceId, Point, QueueHandle, TimelineKey};
use vgem_proto::message::client::{Cancel, ClientMessage, Explain, Explained, FailPoint, Observe, Observed};
use vgem_proto::message::driver::Complete;
use vgem_proto::rights::TimelineRights;
use vgem_proto::rights::WaitKind::{Data, Order};

use crate::batch::Batch;
use crate::reservations::stage;
use crate::signals::Line;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, READ, WRITE, World, ZIP};

const THIRD_DOMAIN: DomainId = DomainId(3000);

/// Who, which job, what object, on which device.
fn said(told: &Explained) -> (u64, TimelineKey, u64, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).expect("text");
    (told.client, told.timeline, told.point.0, text(&told.object), text(&told.device))
}

fn outcome(world: &World, line: TimelineKey, point: u64) -> Failure {
    world.truth.look(line, Point(point)).expect("it has ended").expect_err("it has failed")
}

// What is said.

#[test]
fn f10_what_a_driver_tells_is_completed_with_whose_job_it_was_and_what_it_was_to_write() {
    let mut s = stage();
    let other = s.world.object(s.client, 4096);
    let batch = Batch::new().job(s.queues[0], 1).writes(other, 0..64).job(s.queues[0], 2);
    s.submit(batch.reads(other, 0..64).writes(s.object, 0..64));
    s.world.run(s.lines[0], None);
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let failure = outcome(&s.world, s.lines[0], 2);
    let told = s.world.explain(s.client, failure.cause);
    assert_eq!(said(&told), (1, s.lines[0], 2, "object", "copy"));
    assert_eq!((told.at, told.pid), (s.world.now, 100 + s.world.instance(COPY).0));
}

#[test]
fn f10_a_late_job_is_named() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.wait_for_deadline();
    s.world.bury();
    let told = s.world.explain(s.client, outcome(&s.world, s.lines[0], 1).cause);
    assert_eq!(said(&told), (1, s.lines[0], 1, "object", "copy"));
}

#[test]
fn f10_a_cancelled_job_is_named() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2).writes(s.object, 0..64));
    s.world.ask(s.client, Cancel { queue: s.queues[0], point: Point(2) });
    let cause = s.world.driver(COPY).cancelled[0].2.cause;
    let told = s.world.explain(s.client, cause);
    assert_eq!(said(&told), (1, s.lines[0], 2, "object", "copy"));
}

#[test]
fn f10_a_refused_job_is_named() {
    let mut s = stage();
    let batch = Batch::new().job(s.queues[0], 1).reads(s.object, 0..64);
    let batch = batch.job(s.queues[1], 1).writes(s.object, 0..64).op(99);
    let cause = s.world.refused(s.client, batch.0).cause;
    let told = s.world.explain(s.client, cause);
    assert_eq!(said(&told), (1, s.lines[1], 1, "object", ""));
    assert_eq!(told.code, ErrorCode::NoSuchOperation);
}

#[test]
fn f10_an_object_without_a_name_is_named_by_its_key() {
    let mut s = stage();
    let create = vgem_proto::message::client::CreateObject { name: Vec::new(), ..crate::world::create(4096) };
    let Some(ClientMessage::ObjectCreated(created)) = s.world.ask(s.client, create) else { panic!() };
    s.world.ask(s.client, crate::world::commit(created.objects[0]));
    s.submit(Batch::new().job(s.queues[0], 1).writes(created.objects[0], 0..64));
    s.world.run(s.lines[0], Some(ErrorCode::Io));
    let told = s.world.explain(s.client, outcome(&s.world, s.lines[0], 1).cause);
    assert_eq!(said(&told).3, s.world.last_object().to_string());
}

#[test]
fn f10_what_clients_did_not_signal_is_named_too() {
    let mut s = stage();
    let [broken, left, failed] = [(); 3].map(|()| s.world.timeline(s.client));
    s.world.promise(broken, 3, 50);
    s.world.let_ms_pass(60);
    let fail = FailPoint {
        timeline: failed.handle,
        point: Point(2),
        code: ErrorCode::CorruptInput,
        reserved: Zero,
        text: b"bad".to_vec(),
    };
    let Some(ClientMessage::CauseIssued(issued)) = s.world.ask(s.client, fail) else { panic!("no cause") };
    let told = s.world.explain(s.client, issued.cause);
    assert_eq!(said(&told), (1, failed.key, 2, "", ""));
    let told = s.world.query(broken, 3).cause;
    assert_eq!(said(&s.world.explain(s.client, told)), (1, broken.key, 3, "", ""));
    let watcher = s.world.client();
    let seen = s.world.pass_line(left, watcher, TimelineRights::WAIT);
    s.world.close_line(left);
    let told = s.world.query(seen, 1).cause;
    assert_eq!(said(&s.world.explain(watcher, told)), (1, left.key, 1, "", ""));
}

#[test]
fn a_driver_that_names_a_job_of_another_is_not_believed() {
    let mut s = stage();
    let id = s.world.instance(ZIP);
    let cause = CauseId::new(id, 1);
    let told = vgem_proto::message::driver::Cause {
        cause,
        timeline: s.lines[0],
        point: Point(1),
        at: s.world.now,
        code: ErrorCode::Io,
        reserved: Zero,
        text: b"theirs".to_vec(),
    };
    s.world.say(id, told);
    assert_eq!(said(&s.world.explain(s.client, cause)), (0, TimelineKey::default(), 0, "", "zip"));
}

// Where it can be explained.

struct Side {
    link: LinkId,
    object: Handle,
    queue: QueueHandle,
    line: TimelineKey,
}

/// One object of DOMAIN that clients of two other domains have, each with a queue on COPY.
struct Three {
    world: World,
    sides: [Side; 3],
}

fn three() -> Three {
    let mut world = World::new();
    world.close_exports = false;
    let owner = world.client();
    let object = world.object(owner, 4096);
    let key = world.last_object();
    let mut sides = vec![(owner, object)];
    for domain in [OTHER_DOMAIN, THIRD_DOMAIN] {
        let guest = world.client_of(domain);
        let porter = world.porter(guest);
        sides.push((guest, world.import(guest, porter, key, WRITE).object));
    }
    let mut sides = sides.into_iter().map(|(link, object)| {
        let opened = world.open(link, COPY);
        Side { link, object, queue: opened.queue, line: opened.timeline }
    });
    let sides = [(); 3].map(|()| sides.next().expect("three"));
    Three { world, sides }
}

impl Three {
    fn submit(&mut self, side: usize, job: impl FnOnce(Batch, Handle) -> Batch) {
        let Side { link, object, queue, line } = self.sides[side];
        let point = self.world.truth.value[&line].0 + 1;
        self.world.submit(link, job(Batch::new().job(queue, point), object));
    }

    /// Has a job of the owner fail that writes the first 64 bytes.
    fn owner_fails(&mut self) -> CauseId {
        self.submit(0, |batch, object| batch.writes(object, 0..64));
        self.world.run(self.sides[0].line, Some(ErrorCode::CorruptInput));
        outcome(&self.world, self.sides[0].line, 1).cause
    }

    fn observe(&mut self, side: usize) -> Observed {
        let Side { link, object, .. } = self.sides[side];
        match self.world.ask(link, Observe { object, access: READ, reserved: Zero }) {
            Some(ClientMessage::Observed(observed)) => observed,
            other => panic!("not observed: {other:?}"),
        }
    }

    /// The third side looks at the object: it sees the owner's point in a page of its own.
    fn third_sees_the_owners_point(&mut self) {
        let observed = self.observe(2);
        assert_eq!(
            observed.points.iter().map(|point| point.timeline).collect::<Vec<_>>(),
            [self.sides[0].line]
        );
    }

    fn explains(&mut self, side: usize, cause: CauseId) -> Option<Explained> {
        match self.world.ask(self.sides[side].link, Explain { cause }) {
            Some(ClientMessage::Explained(explained)) => Some(explained),
            Some(ClientMessage::Refused(refused)) => {
                assert_eq!(refused.code, ErrorCode::Gone);
                None
            }
            other => panic!("{other:?}"),
        }
    }

    /// That this domain can have a cause explained, and learns no more than it may.
    fn is_told(&mut self, side: usize, cause: CauseId) {
        let told = self.explains(side, cause).expect("it was shown the failure");
        assert_eq!(said(&told), (0, TimelineKey::default(), 0, "", "copy"));
        assert_eq!((told.pid, told.code), (0, ErrorCode::CorruptInput));
        assert_eq!(told.text, b"a job of another domain on device copy failed: CorruptInput");
    }
}

// M-098
#[test]
fn f10_a_job_that_inherits_from_another_domain_can_be_explained_there() {
    let mut t = three();
    t.submit(0, |batch, object| batch.writes(object, 0..64));
    t.submit(1, |batch, object| batch.reads(object, 0..64));
    t.world.run(t.sides[0].line, Some(ErrorCode::CorruptInput));
    t.world.run(t.sides[1].line, None);
    let cause = outcome(&t.world, t.sides[1].line, 1).cause;
    t.is_told(1, cause);
    assert_eq!(t.explains(2, cause), None, "who was shown nothing learns nothing");
}

#[test]
fn f10_a_cause_follows_a_chain_over_three_domains() {
    let mut t = three();
    t.submit(0, |batch, object| batch.writes(object, 0..64));
    t.submit(1, |batch, object| batch.reads(object, 0..64).writes(object, 64..128));
    t.submit(2, |batch, object| batch.reads(object, 64..128));
    t.world.run(t.sides[0].line, Some(ErrorCode::CorruptInput));
    t.world.run(t.sides[1].line, None);
    t.world.run(t.sides[2].line, None);
    let cause = outcome(&t.world, t.sides[2].line, 1).cause;
    t.is_told(2, cause);
}

#[test]
fn f10_a_chain_of_domains_can_be_heard_in_any_order() {
    let mut t = three();
    t.submit(0, |batch, object| batch.writes(object, 0..64));
    t.submit(1, |batch, object| batch.reads(object, 0..64).writes(object, 64..128));
    t.submit(2, |batch, object| batch.reads(object, 64..128));
    t.world.try_run(t.sides[0].line, Some(ErrorCode::CorruptInput));
    t.world.try_run(t.sides[1].line, None);
    t.world.try_run(t.sides[2].line, None);
    for domain in [THIRD_DOMAIN, OTHER_DOMAIN, DOMAIN] {
        t.world.flush(t.world.instance_of(COPY, domain));
    }
    let cause = outcome(&t.world, t.sides[2].line, 1).cause;
    (1..3).for_each(|side| t.is_told(side, cause));
}

#[test]
fn f10_poison_that_is_observed_can_be_explained() {
    let mut t = three();
    let cause = t.owner_fails();
    assert_eq!(t.explains(1, cause), None);
    assert_eq!(t.observe(1).poison[0].cause, cause);
    t.is_told(1, cause);
}

#[test]
fn f10_poison_that_a_job_begins_with_can_be_explained() {
    let mut t = three();
    let cause = t.owner_fails();
    t.submit(1, |batch, object| batch.reads(object, 0..64));
    t.world.run(t.sides[1].line, None);
    assert_eq!(outcome(&t.world, t.sides[1].line, 1).cause, cause);
    t.is_told(1, cause);
}

#[test]
fn f10_a_failure_in_an_observed_page_can_be_explained_also_an_earlier_one() {
    let mut t = three();
    let earlier = t.owner_fails();
    t.submit(0, |batch, object| batch.writes(object, 64..128));
    t.third_sees_the_owners_point();
    t.world.run(t.sides[0].line, Some(ErrorCode::CorruptInput));
    let cause = outcome(&t.world, t.sides[0].line, 2).cause;
    [earlier, cause].into_iter().for_each(|cause| t.is_told(2, cause));
}

#[test]
fn f10_the_death_of_a_driver_can_be_explained_in_every_domain_that_saw_its_pages() {
    let mut t = three();
    t.submit(0, |batch, object| batch.writes(object, 0..64));
    t.third_sees_the_owners_point();
    t.world.die(t.world.instance(COPY), InstanceEnd::Exited(-9));
    let cause = outcome(&t.world, t.sides[0].line, 1).cause;
    let told = t.explains(2, cause).expect("it saw the page die");
    assert_eq!(told.text, b"a job of another domain on device copy failed: DeviceLost");
    assert_eq!((told.pid, t.explains(1, cause)), (0, None));
}

#[test]
fn f10_a_late_job_can_be_explained_where_others_wait_for_it() {
    let mut t = three();
    t.submit(0, |batch, object| batch.writes(object, 0..64));
    t.third_sees_the_owners_point();
    t.world.wait_for_deadline();
    t.world.bury();
    let cause = outcome(&t.world, t.sides[0].line, 1).cause;
    assert_eq!(t.explains(2, cause).map(|told| told.code), Some(ErrorCode::TimedOut));
}

fn import_queue(t: &mut Three, to: usize) -> Line {
    let handle = vgem_proto::ids::TimelineHandle(t.sides[0].queue.0);
    let token = t.world.export_line(t.sides[0].link, handle, TimelineRights::WAIT);
    t.world.import_line(t.sides[to].link, token)
}

#[test]
fn f10_a_point_whose_state_is_told_can_be_explained() {
    let mut t = three();
    let cause = t.owner_fails();
    let line = import_queue(&mut t, 1);
    assert_eq!(t.world.query(line, 1).cause, cause);
    t.is_told(1, cause);
}

#[test]
fn f10_an_explicit_wait_that_has_failed_already_can_be_explained() {
    let mut t = three();
    let cause = t.owner_fails();
    let line = import_queue(&mut t, 1);
    t.submit(1, |batch, _| batch.waits_for(line.handle, 1, Data, None));
    t.world.run(t.sides[1].line, None);
    assert_eq!(outcome(&t.world, t.sides[1].line, 1).cause, cause);
    t.is_told(1, cause);
}

#[test]
fn f10_a_promise_that_was_broken_can_be_explained_by_observers_of_other_domains() {
    let mut t = three();
    let line = t.world.timeline(t.sides[0].link);
    let seen = t.world.pass_line(line, t.sides[1].link, TimelineRights::WAIT);
    t.world.observe_line(seen);
    t.world.promise(line, 1, 50);
    t.world.let_ms_pass(60);
    let cause = outcome(&t.world, line.key, 1).cause;
    let told = t.explains(1, cause).expect("it sees the verdict");
    assert_eq!(told.text, b"something that another domain was to do failed: TimedOut");
    assert_eq!((told.client, told.pid, t.explains(2, cause)), (0, 0, None));
}

#[test]
fn f10_what_a_queue_will_never_submit_can_be_explained_where_it_was_awaited() {
    let mut t = three();
    let line = import_queue(&mut t, 1);
    let until = t.world.now.after(1000 * MS);
    t.submit(1, |batch, _| batch.waits_for(line.handle, 5, Data, Some(until)));
    t.world.close_queue(t.sides[0].link, t.sides[0].queue);
    let cause = t.world.drivers[&t.world.instance_of(COPY, OTHER_DOMAIN)].cancelled[0].2.cause;
    let told = t.explains(1, cause).expect("its job fails with it");
    assert_eq!((told.code, told.client), (ErrorCode::Cancelled, 0));
}

// A page is faster than the broker.

/// The owner's job fails and tells its cause; a second one, of another device, inherits it, in a page that another
/// domain sees, and the broker has heard only of the cause. `kind`: how the second waits for the first.
fn not_heard_yet(kind: vgem_proto::rights::WaitKind) -> (Three, CauseId) {
    let mut t = three();
    let Side { link, queue, line, object } = t.sides[0];
    let zip = t.world.open(link, ZIP);
    let batch = Batch::new().job(queue, 1).job(zip.queue, 1).writes(object, 0..64).waits(queue, 1, kind);
    t.world.submit(link, batch);
    t.observe(2);
    t.world.try_run(line, Some(ErrorCode::CorruptInput));
    t.world.try_run(zip.timeline, None);
    let id = t.world.instance(COPY);
    let told = t.world.drivers.get_mut(&id).expect("it lives").flush().remove(0);
    t.world.say(id, told);
    let cause = outcome(&t.world, line, 1).cause;
    (t, cause)
}

#[test]
fn f10_who_is_about_to_be_shown_a_failure_may_ask_before_the_broker_has_heard_of_it() {
    let (mut t, cause) = not_heard_yet(Data);
    t.is_told(2, cause);
    assert_eq!(t.explains(1, cause), None);
}

#[test]
fn f10_who_only_comes_after_a_failure_learns_nothing_of_it() {
    let (mut t, cause) = not_heard_yet(Order);
    assert_eq!(t.explains(2, cause), None);
}

// Guessing.

// M-099
#[test]
fn f10_a_client_that_guesses_learns_nothing() {
    let mut t = three();
    let unseen = t.owner_fails();
    t.submit(0, |batch, object| batch.writes(object, 64..128));
    t.world.run(t.sides[0].line, None);
    t.submit(1, |batch, _| batch);
    let mut answers = Vec::new();
    for cause in [unseen, CauseId::new(InstanceId(77), 1)] {
        let Some(ClientMessage::Refused(refused)) = t.world.ask(t.sides[1].link, Explain { cause }) else {
            panic!("explained")
        };
        answers.push((refused.code, refused.text, refused.value, refused.limit));
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn f10_a_driver_that_says_a_guessed_cause_explains_it_to_nobody() {
    let mut t = three();
    let private = t.world.object(t.sides[0].link, 4096);
    let batch = Batch::new().job(t.sides[0].queue, 1).writes(private, 0..64);
    t.world.submit(t.sides[0].link, batch);
    t.world.run(t.sides[0].line, Some(ErrorCode::CorruptInput));
    let secret = outcome(&t.world, t.sides[0].line, 1).cause;
    t.submit(1, |batch, object| batch.writes(object, 128..192));
    let id = t.world.instance_of(COPY, OTHER_DOMAIN);
    t.world.try_run(t.sides[1].line, None);
    let mut messages = t.world.drivers.get_mut(&id).expect("it lives").flush();
    for message in &mut messages {
        if let vgem_proto::message::driver::DriverMessage::Complete(Complete { completions }) = message {
            (completions[0].code, completions[0].cause) = (ErrorCode::CorruptInput.number(), secret);
        }
    }
    messages.into_iter().for_each(|message| t.world.say(id, message));
    for side in [1, 2] {
        assert!(t.observe(side).poison.iter().any(|poison| poison.cause == secret));
        assert_eq!(t.explains(side, secret), None);
    }
}
