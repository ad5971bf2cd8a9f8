//! Publishing entries of a user queue, against a fake broker: what is asked, what waits, and mistakes.

mod support;

use std::time::Duration;

use vgem::{Access, Buffer, Client, Deadline, Error, ErrorCode, LocalError, Point, Slice, UserQueue};
use vgem_proto::describe::{PUBLISH, PUBLISH_WRITTEN};
use vgem_proto::jobs::{OPERAND_DISCARD, WAIT_UNTIL};
use vgem_proto::message::client::ClientMessage;
use vgem_proto::rights::WaitKind;

use support::{FakeBroker, Mood, SOON, cause};

const PAGE: u64 = 4096;
/// The broker's places of the queues: that with the ring, and that for publications.
const PUBLISHER: u16 = 1;

struct Rig {
    broker: FakeBroker,
    client: Client,
    queue: UserQueue,
    buffer: Buffer,
}

impl Rig {
    fn new(mood: Mood) -> Self {
        let (broker, client) = FakeBroker::with_client_of(mood);
        let queue = client.device("zip").and_then(|device| device.user_queue(8)).expect("a queue");
        let buffer = client.create(2 * PAGE).expect("a buffer");
        broker.publish(PUBLISHER);
        Self { broker, client, queue, buffer }
    }

    fn first(&self) -> [(Slice<'_>, Access); 1] {
        [(self.buffer.slice(..PAGE), Access::Write)]
    }
}

#[test]
fn a_publication_is_a_job_that_waits_for_its_entry_until_a_moment_and_names_the_bytes() {
    let rig = Rig::new(Mood::Honest);
    let by = Deadline::after(SOON);
    let both = [(rig.buffer.slice(..64), Access::Write), (rig.buffer.slice(PAGE..), Access::Read)];
    let fence = rig.queue.publish(Point(7), &both, by).expect("accepted");
    let batch = rig.broker.batch();
    let (job, wait) = (&batch.jobs[0], &batch.waits[0]);
    assert_eq!((job.op, job.queue.0, job.point.0, batch.jobs.len()), (PUBLISH, 2, 1, 1));
    assert_eq!((wait.timeline.0, wait.point.0, wait.until), (1, 7, by.time()));
    assert_eq!((wait.flags, wait.kind, batch.waits.len()), (WAIT_UNTIL, WaitKind::Data, 1));
    let operands: Vec<_> =
        batch.operands.iter().map(|o| (o.number, o.access, o.flags, o.offset, o.len)).collect();
    let wanted = [(0, Access::Write, OPERAND_DISCARD, 0, 64), (PUBLISH_WRITTEN, Access::Read, 0, PAGE, PAGE)];
    assert_eq!((operands.as_slice(), fence.point().0), (wanted.as_slice(), 1));
}

#[test]
fn the_queue_for_publications_is_opened_once_and_closed_with_the_user_queue() {
    let rig = Rig::new(Mood::Honest);
    let opened = || {
        rig.broker.request(|request| match request {
            ClientMessage::OpenQueue(open) => Some(open.device.0),
            _ => None,
        })
    };
    let device = opened();
    for point in 1..=3 {
        rig.queue.publish(Point(point), &rig.first(), SOON).expect("accepted");
        let batch = rig.broker.batch();
        assert_eq!((batch.jobs[0].queue.0, batch.jobs[0].point.0), (2, point));
    }
    assert_eq!(opened(), device);
    for point in 1..=3 {
        rig.broker.signal(PUBLISHER, point);
    }
    let Rig { broker, client, queue, buffer } = rig;
    drop((queue, buffer));
    let closed = || {
        broker.request(|request| match request {
            ClientMessage::OpenQueue(open) => panic!("{open:?}"),
            ClientMessage::CloseQueue(close) => Some(close.queue.0),
            _ => None,
        })
    };
    let mut all = [closed(), closed()];
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
    drop(client);
}

#[test]
fn guards_and_jobs_over_published_bytes_wait_for_the_publication() {
    let rig = Rig::new(Mood::Honest);
    let fence = rig.queue.publish(Point(1), &rig.first(), SOON).expect("accepted");
    let early = rig.buffer.read(..1, Duration::from_millis(3)).map(|guard| guard[0]);
    assert!(matches!(early, Err(Error::Timeout { .. })));
    assert!(rig.buffer.read(PAGE.., SOON).is_ok(), "nothing was said of these");
    rig.broker.signal(PUBLISHER, 1);
    fence.wait(SOON).expect("it ended well");
    assert!(rig.buffer.read(..1, SOON).is_ok());
}

#[test]
fn a_publication_that_fails_says_so_to_whoever_reads_and_a_later_one_makes_it_good() {
    let rig = Rig::new(Mood::Honest);
    let fence = rig.queue.publish(Point(1), &rig.first(), SOON).expect("accepted");
    rig.broker.fail(PUBLISHER, 1, ErrorCode::TimedOut, cause());
    let failed = fence.wait(SOON).expect_err("it failed").to_string();
    assert!(failed.contains("zip") && failed.contains("cause:3.7"), "{failed}");
    let poisoned = rig.buffer.read(..1, SOON).map(|guard| guard[0]).expect_err("nobody wrote it");
    assert_eq!(poisoned.code(), Some(ErrorCode::TimedOut), "{poisoned}");
    rig.queue.publish(Point(2), &rig.first(), SOON).expect("accepted");
    rig.broker.signal(PUBLISHER, 2);
    assert!(rig.buffer.read(..1, SOON).is_ok());
}

#[test]
fn a_job_of_ones_own_waits_for_an_entry_as_well() {
    let rig = Rig::new(Mood::Honest);
    let queue = rig.client.device("zip").and_then(|device| device.queue(0)).expect("a queue");
    let mut batch = rig.client.batch();
    let by = Deadline::after(SOON);
    batch.job(&queue, "mix").inout(rig.buffer.slice(..64)).after_entry(&rig.queue, Point(9), by);
    batch.submit().expect("sent");
    let sent = rig.broker.batch();
    let wait = &sent.waits[0];
    assert_eq!((wait.timeline.0, wait.point.0, wait.until, wait.flags), (1, 9, by.time(), WAIT_UNTIL));
    assert_eq!(sent.jobs[0].waits, 1);
}

#[test]
fn mistakes_are_told_with_values_and_nothing_is_sent() {
    let rig = Rig::new(Mood::Honest);
    let said = |objects: &[(Slice<'_>, Access)]| {
        rig.queue.publish(Point(1), objects, SOON).expect_err("a mistake").to_string()
    };
    let nine = |access| vec![(rig.buffer.slice(..1), access); 9];
    assert_eq!(said(&nine(Access::Write)), "9 slices written by what is published, the limit is 8");
    assert_eq!(said(&nine(Access::Read)), "9 slices read by what is published, the limit is 8");
    assert!(said(&[(rig.buffer.slice(..3 * PAGE), Access::Read)]).contains("leave a buffer of 8192 bytes"));
    let (_broker, other) = FakeBroker::with_client();
    let foreign = other.create(PAGE).expect("a buffer");
    assert!(said(&[(foreign.slice(..), Access::Write)]).contains("another client"));
    let guard = rig.buffer.read(.., SOON).expect("a guard");
    let held = rig.queue.publish(Point(1), &rig.first(), SOON);
    assert!(matches!(held, Err(Error::Local(LocalError::GuardHeld { .. }))), "{held:?}");
    drop(guard);
    let queue = other.device("zip").and_then(|device| device.queue(0)).expect("a queue");
    let mut batch = other.batch();
    batch.job(&queue, "mix").inout(foreign.slice(..)).after_entry(&rig.queue, Point(1), SOON);
    let told = batch.submit().map(drop).expect_err("a mistake").to_string();
    assert_eq!(told, "the user queue belongs to another client");
    assert!(rig.broker.batches.try_recv().is_err());
}

#[test]
fn what_the_broker_refuses_is_told_at_once() {
    let rig = Rig::new(Mood::RefuseBatches);
    let refused = rig.queue.publish(Point(1), &rig.first(), SOON).expect_err("refused");
    assert_eq!(refused.code(), Some(ErrorCode::Exhausted), "{refused}");
}
