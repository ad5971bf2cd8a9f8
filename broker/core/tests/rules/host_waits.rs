//! Jobs that wait for entries of user queues, and entries that are published.

use vgem_core::io::{Event, InstanceEnd, Scope};
use vgem_core::snapshot::Entries;
use vgem_proto::codec::Zero;
use vgem_proto::describe::{PUBLISH, PUBLISH_WRITTEN};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Handle, Point, QueueHandle, Time, TimelineHandle, TimelineKey};
use vgem_proto::jobs::{OPERAND_DISCARD, PAGE_LOCAL, WAIT_FOR_SUBMIT, WAIT_PROMISE, WAIT_UNTIL};
use vgem_proto::message::client::Refused;
use vgem_proto::message::driver::{AskPoint, Cause, Unblocked};
use vgem_proto::rights::TimelineRights;
use vgem_proto::rights::WaitKind::{Data, Order};
use vgem_proto::snapshot::Topic;

use crate::batch::Batch;
use crate::reservations::Stage;
use crate::rings::{attach, ringed};
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, READ, SEC, WRITE, ZIP};

/// A stage whose first queue has a ring, and a second queue on the same device for jobs.
struct Rig {
    s: Stage,
    ring: TimelineHandle,
    publisher: QueueHandle,
    published: TimelineKey,
}

fn rig() -> Rig {
    let mut s = ringed();
    let opened = s.world.open(s.client, COPY);
    let ring = TimelineHandle(s.queues[0].0);
    Rig { s, ring, publisher: opened.queue, published: opened.timeline }
}

impl Rig {
    fn soon(&self, ms: u64) -> Time {
        self.s.world.now.after(ms * MS)
    }

    /// Publishes an entry that writes the first 64 bytes of the object and reads the next 64, within 100 ms.
    fn publish(&mut self, job: u64, entry: u64) {
        let batch = self.publication(job, entry, self.soon(100));
        self.s.submit(batch);
    }

    fn publication(&self, job: u64, entry: u64, until: Time) -> Batch {
        let object = self.s.object;
        let batch = Batch::new().job(self.publisher, job).op(PUBLISH).waits_until(self.ring, entry, until);
        let batch = batch.operand(0, WRITE, object, 0..64).with_operand(|o| o.flags = OPERAND_DISCARD);
        batch.operand(PUBLISH_WRITTEN, READ, object, 64..128)
    }

    /// A job of the second device that waits for an entry.
    fn waits(&mut self, job: u64, entry: u64, ms: u64) {
        let batch = Batch::new().job(self.s.queues[1], job).waits_until(self.ring, entry, self.soon(ms));
        self.s.submit(batch);
    }

    /// Entries up to one end, this one so; the broker hears of the cause alone.
    fn entry_ends(&mut self, entry: u64, code: Option<ErrorCode>) -> Option<Failure> {
        let (timeline, point) = (self.s.lines[0], Point(entry));
        let failure = code.map(|code| {
            let copy = self.s.world.instance(COPY);
            let cause = CauseId::new(copy, 1000 + u32::try_from(entry).expect("few"));
            let at = self.s.world.now;
            let told =
                Cause { cause, timeline, point, at, code, reserved: Zero, text: b"disk full".to_vec() };
            self.s.world.say(copy, told);
            Failure { code, cause }
        });
        if let Some(failure) = failure {
            self.s.world.truth.failures.insert((timeline, point), failure);
        }
        self.s.world.truth.value.insert(timeline, point);
        failure
    }

    /// The driver of a queue says that its job waits for nothing more.
    fn unblock(&mut self, timeline: TimelineKey, job: u64) {
        let owner = self.s.world.owner_of(timeline);
        self.s.world.say(owner, Unblocked { timeline, point: Point(job) });
    }

    fn ended(&self, timeline: TimelineKey, job: u64) -> Option<Result<(), Failure>> {
        self.s.world.truth.look(timeline, Point(job))
    }

    fn failure(&self, timeline: TimelineKey, job: u64) -> Failure {
        self.ended(timeline, job).expect("it ended").expect_err("it failed")
    }

    fn text(&mut self, cause: CauseId) -> String {
        String::from_utf8(self.s.world.explain(self.s.client, cause).text).expect("text")
    }

    fn lost(&self) -> u64 {
        self.s.world.broker.counters().instances_lost
    }

    fn refused(&mut self, batch: Batch) -> Refused {
        self.s.world.refused(self.s.client, batch.0)
    }
}

fn bare(queue: QueueHandle, job: u64) -> Batch {
    Batch::new().job(queue, job)
}

// M-182
#[test]
fn r7_what_an_entry_does_to_objects_is_in_reservations_by_the_job_that_publishes_it() {
    let mut r = rig();
    r.publish(1, 7);
    let job = r.s.world.last_job(COPY);
    let wait = job.waits[0];
    assert_eq!((job.job.op, wait.timeline, wait.point.0, wait.kind), (PUBLISH, r.s.lines[0], 7, Data));
    assert_eq!((job.waits.len(), wait.page, wait.flags), (1, PAGE_LOCAL, WAIT_PROMISE));
    let [_, zip, sec] = r.s.queues;
    let object = r.s.object;
    r.s.submit(bare(zip, 1).reads(object, 0..32).job(sec, 1).writes(object, 64..65));
    let waits = |r: &mut Rig, device| r.s.world.last_job(device).waits();
    // For the job that publishes, never for the entry.
    assert_eq!(waits(&mut r, ZIP), [(r.published, 1, Data)]);
    let behind = waits(&mut r, SEC);
    assert!(behind.contains(&(r.published, 1, Order)), "{behind:?}");
    assert!(behind.iter().all(|(timeline, _, _)| *timeline != r.s.lines[0]));
    r.s.world.run_all();
    assert_eq!((r.ended(r.published, 1), r.ended(r.s.lines[1], 1)), (None, None));
    r.entry_ends(7, None);
    r.s.world.run_all();
    let ended = [r.published, r.s.lines[1], r.s.lines[2]].map(|line| r.ended(line, 1));
    assert_eq!(ended, [Some(Ok(())); 3]);
}

// M-057, M-181
#[test]
fn r5_a_failed_entry_fails_its_job_and_poisons_what_it_published_with_the_same_cause() {
    let mut r = rig();
    r.publish(1, 7);
    let (zip, object) = (r.s.queues[1], r.s.object);
    r.s.submit(bare(zip, 1).reads(object, 0..32).job(zip, 2).reads(object, 64..96));
    let failed = r.entry_ends(7, Some(ErrorCode::NoSpace)).expect("it failed");
    r.s.world.run_all();
    assert_eq!([r.failure(r.published, 1), r.failure(r.s.lines[1], 1)], [failed; 2]);
    assert_eq!(r.ended(r.s.lines[1], 2), Some(Ok(())), "it read what the entry only read");
    r.s.submit(bare(zip, 3).reads(object, 0..1));
    r.s.world.run_all();
    assert_eq!(r.failure(r.s.lines[1], 3), failed);
    assert_eq!(r.text(failed.cause), "disk full");
    // The next entry replaces it.
    r.publish(2, 8);
    r.entry_ends(8, None);
    r.s.submit(bare(zip, 4).reads(object, 0..1));
    r.s.world.run_all();
    assert_eq!((r.ended(r.published, 2), r.ended(r.s.lines[1], 4)), (Some(Ok(())), Some(Ok(()))));
}

// M-181
#[test]
fn t44_an_entry_that_never_comes_fails_its_job_at_its_moment_and_nobody_else() {
    let mut r = rig();
    r.publish(1, 7);
    let (zip, object) = (r.s.queues[1], r.s.object);
    r.s.submit(bare(zip, 1).reads(object, 0..32).job(zip, 2).reads(object, 64..65));
    r.entry_ends(6, None);
    r.s.world.let_ms_pass(99);
    r.s.world.run_all();
    assert_eq!(r.ended(r.published, 1), None);
    r.s.world.let_ms_pass(1);
    r.s.world.run_all();
    let failed = r.failure(r.published, 1);
    assert_eq!((failed.code, r.failure(r.s.lines[1], 1)), (ErrorCode::TimedOut, failed));
    let (text, line) = (r.text(failed.cause), r.s.lines[0]);
    let wanted = format!("entry 7 of the user queue {line} of client");
    assert!(text.contains(&wanted) && text.contains("on device copy") && text.ends_with("6 had"), "{text}");
    let late = |event: &Event| matches!(event, Event::EntryLate { point: 7, waiter_point: 1, .. });
    assert!(r.s.world.events.iter().any(late));
    r.s.world.let_ms_pass(60_000);
    assert_eq!((r.lost(), r.ended(r.s.lines[1], 2)), (0, Some(Ok(()))));
    r.s.submit(bare(r.publisher, 2));
    r.s.world.run_all();
    assert_eq!(r.ended(r.published, 2), Some(Ok(())));
}

// M-181
#[test]
fn t1_an_entry_that_ended_in_time_is_in_time_whatever_else_its_job_waits_for() {
    let mut r = rig();
    let (sec, zip) = (r.s.queues[2], r.s.queues[1]);
    r.s.submit(bare(sec, 1));
    let batch = bare(zip, 1).waits_until(r.ring, 3, r.soon(100)).waits(sec, 1, Data);
    r.s.submit(batch);
    r.entry_ends(4, None);
    r.s.world.let_ms_pass(1000);
    assert_eq!(
        r.s.world.broker.next_deadline(),
        Some(Time(1_000_000_000).after(6000 * MS)),
        "only that of sec"
    );
    r.s.world.run(r.s.lines[2], None);
    r.s.world.run(r.s.lines[1], None);
    assert_eq!(r.ended(r.s.lines[1], 1), Some(Ok(())));
}

// M-063, M-111
#[test]
fn f8_the_clock_of_a_job_starts_when_its_driver_has_seen_the_entry_end_or_at_its_moment() {
    for says_so in [true, false] {
        let mut r = rig();
        r.waits(1, 7, 20_000);
        r.s.world.let_ms_pass(15_000);
        r.entry_ends(7, None);
        assert_eq!((r.lost(), r.ended(r.s.lines[1], 1)), (0, None));
        let from = if says_so { r.s.world.now } else { r.soon(5_000) };
        if says_so {
            r.unblock(r.s.lines[1], 1);
        }
        let (zip, end) = (r.s.world.instance(ZIP), from.after(6_000 * MS));
        let left = end.since(r.s.world.now) / MS;
        r.s.world.let_ms_pass(left - 1);
        assert!(r.s.world.drivers.contains_key(&zip), "{says_so}");
        r.s.world.let_ms_pass(2);
        let failed = r.failure(r.s.lines[1], 1);
        assert_eq!((failed.code, r.lost()), (ErrorCode::TimedOut, 1), "{says_so}");
        assert!(r.text(failed.cause).contains("device zip: job point 1 exceeded"));
    }
}

// M-183
#[test]
fn a_queue_that_is_closed_cancels_who_waits_for_what_has_not_ended_and_closes_then() {
    let mut r = rig();
    r.waits(1, 3, 1000);
    r.waits(2, 4, 1000);
    r.entry_ends(3, None);
    r.s.world.close_queue(r.s.client, r.s.queues[0]);
    let failed = r.s.world.driver(ZIP).cancelled.clone();
    let cancelled: Vec<_> = failed.iter().map(|(line, job, failure)| (*line, job.0, failure.code)).collect();
    assert_eq!(cancelled, [(r.s.lines[1], 2, ErrorCode::Cancelled)]);
    let text = r.text(failed[0].2.cause);
    assert!(text.ends_with("before the entries ended that jobs wait for"), "{text}");
    r.s.world.run_all();
    assert_eq!((r.ended(r.s.lines[1], 1), r.failure(r.s.lines[1], 2)), (Some(Ok(())), failed[0].2));
    assert!(r.s.world.rings.is_empty());
}

// M-064, M-183
#[test]
fn l4_a_job_fails_with_the_driver_of_the_ring_unless_the_entry_had_ended() {
    let mut r = rig();
    r.waits(1, 3, 1000);
    r.waits(2, 4, 1000);
    r.publish(1, 4);
    r.entry_ends(3, None);
    r.s.world.die(r.s.world.instance(COPY), InstanceEnd::Exited(-9));
    let lost = r.failure(r.published, 1);
    r.s.world.run_all();
    assert_eq!(r.ended(r.s.lines[1], 1), Some(Ok(())));
    assert_eq!((lost.code, r.failure(r.s.lines[1], 2)), (ErrorCode::DeviceLost, lost));
    let late = bare(r.s.queues[1], 3).waits_until(r.ring, 3, r.soon(10));
    assert_eq!(r.refused(late).code, ErrorCode::Gone);
}

#[test]
fn f9_whoever_runs_again_in_another_instance_has_the_same_moment() {
    let mut r = rig();
    r.waits(1, 7, 30_000);
    let other = r.s.world.open(r.s.client, ZIP);
    r.s.submit(bare(other.queue, 1));
    r.s.world.let_ms_pass(1000);
    // It says what is not true, and then nothing.
    r.unblock(r.s.lines[1], 1);
    r.s.world.let_ms_pass(5_500);
    r.s.world.run_all();
    assert_eq!((r.lost(), r.failure(other.timeline, 1).code), (1, ErrorCode::TimedOut));
    r.s.world.let_ms_pass(24_000);
    r.s.world.run_all();
    let failed = r.failure(r.s.lines[1], 1);
    assert!(r.text(failed.cause).starts_with("entry 7 of the user queue"));
    assert_eq!((failed.code, r.lost()), (ErrorCode::TimedOut, 1));
}

#[test]
fn f9_what_publishes_an_entry_of_another_device_runs_again_and_waits_on() {
    let mut r = rig();
    let (zip, object) = (r.s.queues[1], r.s.object);
    let batch =
        bare(zip, 1).op(PUBLISH).waits_until(r.ring, 7, r.soon(60_000)).operand(0, WRITE, object, 0..64);
    r.s.submit(batch);
    let other = r.s.world.open(r.s.client, ZIP);
    r.s.submit(bare(other.queue, 1));
    r.s.world.let_ms_pass(7_000);
    r.s.world.run_all();
    assert_eq!((r.lost(), r.ended(r.s.lines[1], 1)), (1, None));
    r.entry_ends(7, None);
    r.s.world.run_all();
    assert_eq!((r.ended(r.s.lines[1], 1), r.lost()), (Some(Ok(())), 1));
}

// M-107
#[test]
fn f10_an_entry_whose_end_is_forgotten_counts_as_failed() {
    let mut r = rig();
    r.waits(1, 3, 1000);
    let ask = AskPoint { timeline: r.s.lines[0], point: Point(3) };
    let told = |r: &mut Rig| {
        let zip = r.s.world.instance(ZIP);
        let driver = r.s.world.driver(ZIP);
        driver.asks(ask.timeline, ask.point);
        r.s.world.say(zip, ask.clone());
        r.s.world.driver(ZIP).told_of(ask.timeline, ask.point)
    };
    let forgotten = Some(Err(Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE }));
    assert_eq!(told(&mut r), forgotten, "whatever it was");
    r.entry_ends(3, None);
    r.s.world.close_queue(r.s.client, r.s.queues[0]);
    let copy = r.s.world.instance(COPY);
    r.s.world.flush(copy);
    assert_eq!((r.s.world.rings.len(), told(&mut r)), (0, forgotten), "also when the queue is gone");
}

// M-180
#[test]
fn t44_a_wait_without_a_moment_or_with_one_too_far_is_refused_with_the_value_and_the_limit() {
    let mut r = rig();
    let (now, latest) = (r.s.world.now, r.soon(60_000));
    let flagged = |r: &Rig, flags: u8| {
        let mut batch = bare(r.s.queues[1], 1).waits_until(r.ring, 1, r.soon(1));
        batch.0.waits[0].flags = flags;
        batch
    };
    let until = |r: &Rig, until: Time| bare(r.s.queues[1], 1).waits_until(r.ring, 1, until);
    let cases = [
        (flagged(&r, 0), ErrorCode::BadParameter, 0, 2),
        (flagged(&r, WAIT_FOR_SUBMIT), ErrorCode::BadParameter, 1, 2),
        (flagged(&r, WAIT_FOR_SUBMIT | WAIT_UNTIL), ErrorCode::BadParameter, 3, 2),
        (flagged(&r, 4), ErrorCode::UnknownFlag, 4, 3),
        (until(&r, Time(0)), ErrorCode::OutOfRange, 0, latest.0),
        (until(&r, now), ErrorCode::OutOfRange, now.0, latest.0),
        (until(&r, latest.after(1)), ErrorCode::OutOfRange, latest.0 + 1, latest.0),
    ];
    for (job, (batch, code, value, limit)) in (1..).zip(cases) {
        let refused = r.refused(batch.with(|wire| wire.point = Point(job)));
        assert_eq!((refused.code, refused.value, refused.limit), (code, value, limit), "{job}");
    }
    assert!(
        r.s.world
            .refused(r.s.client, flagged(&r, 0).with(|wire| wire.point = Point(8)).0)
            .text
            .ends_with(b"`until`")
    );
}

// M-180
#[test]
fn a_moment_for_a_point_of_jobs_or_of_a_client_is_refused() {
    let mut r = rig();
    let line = r.s.world.timeline(r.s.client);
    let sec = r.s.queues[2];
    for (job, timeline) in [(1, TimelineHandle(sec.0)), (2, line.handle)] {
        let refused = r.refused(bare(r.s.queues[1], job).waits_until(timeline, 1, r.soon(1)));
        assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::BadParameter, 2, 1));
    }
}

#[test]
fn t44_who_may_wait_is_the_domain_and_whoever_has_a_handle() {
    let mut r = rig();
    let [other, stranger] = [DOMAIN, OTHER_DOMAIN].map(|domain| r.s.world.client_of(domain));
    let own = crate::signals::Line { link: r.s.client, handle: r.ring, key: r.s.lines[0] };
    for (client, allowed) in [(other, true), (stranger, false)] {
        let theirs = r.s.world.pass_line(own, client, TimelineRights::WAIT);
        let queue = r.s.world.queue(client, SEC);
        let batch = bare(queue, 1).waits_until(theirs.handle, 1, r.soon(100));
        if allowed {
            r.s.world.submit(client, batch);
        } else {
            assert_eq!(r.s.world.refused(client, batch.0).code, ErrorCode::Denied);
        }
    }
    r.s.world.hang_up(r.s.client);
    r.s.world.run_all();
    let sec = r.s.world.driver(SEC).cancelled.clone();
    assert_eq!(sec.iter().map(|(_, _, failure)| failure.code).collect::<Vec<_>>(), [ErrorCode::Cancelled]);
}

#[test]
fn a_ring_that_is_not_there_yet_is_not_waited_for() {
    let mut r = rig();
    r.s.world.send(r.s.client, attach(r.s.queues[2], 8), 0, Time(u64::MAX));
    let batch = bare(r.s.queues[1], 1).waits_until(TimelineHandle(r.s.queues[2].0), 1, r.soon(10));
    assert_eq!(r.refused(batch).code, ErrorCode::NotReady);
}

#[test]
fn tools_see_which_entry_is_awaited_until_when() {
    let mut r = rig();
    r.publish(1, 7);
    let page = r.s.world.broker.snapshot(Scope::All, Topic::Obligations, 0, 100);
    let Entries::Obligations(entries) = page.entries else { panic!("another topic") };
    let entry = entries.iter().find(|entry| entry.kind == "entry").expect("it is awaited");
    assert_eq!((entry.point, entry.due_ns), (7, r.soon(100).0));
    assert_eq!(entry.timeline, r.s.lines[0].to_string());
    let job = entries.iter().find(|entry| entry.kind == "job").expect("it waits");
    assert_eq!((job.state.as_str(), job.waits[0].point), ("waiting", 7));
}

#[test]
fn l2_of_another_domain_waits_for_what_was_published_and_is_told_the_cause() {
    let mut r = rig();
    let key = r.s.world.last_object();
    let guest = r.s.world.client_of(OTHER_DOMAIN);
    let porter = r.s.world.porter(guest);
    let theirs: Handle = r.s.world.import(guest, porter, key, READ).object;
    let opened = r.s.world.open(guest, ZIP);
    r.publish(1, 7);
    r.s.world.submit(guest, bare(opened.queue, 1).reads(theirs, 0..64));
    let failed = r.entry_ends(7, Some(ErrorCode::NoSpace)).expect("it failed");
    r.s.world.run_all();
    assert_eq!(r.failure(opened.timeline, 1), failed);
    assert_eq!(r.s.world.explain(guest, failed.cause).code, ErrorCode::NoSpace);
}
