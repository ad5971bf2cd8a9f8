//! What tools are shown of who owes what, and what it waits for.

use vgem_core::io::Scope;
use vgem_core::snapshot::{Entries, View};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Point, QueueHandle, TimelineKey};
use vgem_proto::message::client::FailPoint;
use vgem_proto::message::driver::Unblocked;
use vgem_proto::rights::{Access, TimelineRights, WaitKind};
use vgem_proto::snapshot::{AwaitedEntry, ObligationEntry, QueueEntry, TimelineEntry, Topic};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::signals::Line;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, World};

fn page(world: &World, scope: Scope, cursor: u64, max: usize) -> (Vec<ObligationEntry>, u64) {
    let page = world.broker.snapshot(scope, Topic::Obligations, cursor, max);
    let Entries::Obligations(entries) = page.entries else { panic!("another topic") };
    (entries, page.next)
}

fn all(world: &World) -> Vec<ObligationEntry> {
    page(world, Scope::All, 0, 1000).0
}

fn queue_entry(world: &World, key: TimelineKey) -> QueueEntry {
    let Entries::Queues(all) = world.broker.snapshot(Scope::All, Topic::Queues, 0, 1000).entries else {
        panic!("another topic")
    };
    all.into_iter().find(|entry| entry.timeline == key.to_string()).expect("the queue")
}

/// A job on the first device, one on the second that reads what it writes, and a second one there.
fn three_jobs() -> Stage {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64).job(s.queues[1], 2));
    s
}

fn awaited(timeline: TimelineKey, point: u64) -> AwaitedEntry {
    AwaitedEntry { timeline: timeline.to_string(), point, domain: DOMAIN.0 }
}

#[test]
fn every_open_job_is_there_with_its_state_and_what_it_waits_for() {
    let s = three_jobs();
    let seen: Vec<_> = all(&s.world).into_iter().map(|one| (one.state, one.waits)).collect();
    let expected = [
        ("running".to_owned(), vec![]),
        ("waiting".to_owned(), vec![awaited(s.lines[0], 1)]),
        ("queued".to_owned(), vec![awaited(s.lines[1], 1)]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_job_names_who_owes_it_and_for_whom() {
    let s = three_jobs();
    let entry = all(&s.world).swap_remove(0);
    let pid = 100 + s.world.instance(COPY).0;
    let (whose, who) = ((entry.client_name.as_str(), entry.domain), (entry.device.as_str(), entry.pid));
    assert_eq!((whose, who), (("test", DOMAIN.0), ("copy", pid)));
}

#[test]
fn a_running_job_has_a_deadline_and_counts_from_when_it_could_run() {
    let mut s = three_jobs();
    let submitted = s.world.now;
    s.world.wait_ms(84);
    s.world.run(s.lines[0], None);
    let seen: Vec<_> = all(&s.world).into_iter().map(|one| (one.since_ns, one.due_ns)).collect();
    // The operation's second, and five to begin.
    assert_eq!(seen, [(s.world.now.0, s.world.now.after(6000 * MS).0), (submitted.0, 0)]);
}

#[test]
fn what_has_ended_is_in_nobodys_waits() {
    let mut s = three_jobs();
    s.world.run(s.lines[0], None);
    let left = all(&s.world);
    assert_eq!((left.len(), left[0].state.as_str(), left[0].waits.len()), (2, "running", 0));
    s.world.run_all();
    assert_eq!(all(&s.world), []);
}

#[test]
fn jobs_of_a_driver_that_is_being_ended_say_so() {
    let mut s = three_jobs();
    s.world.wait_ms(6000);
    let states: Vec<_> = all(&s.world).into_iter().map(|one| (one.device, one.state)).collect();
    assert_eq!(states[0], ("copy".to_owned(), "restarting".to_owned()));
}

#[test]
fn pages_of_obligations_go_on_behind_the_last_point_told_though_jobs_end_meanwhile() {
    let mut s = stage();
    for point in 1..=5 {
        s.submit(Batch::new().job(s.queues[0], point));
    }
    s.submit(Batch::new().job(s.queues[2], 1));
    let (first, cursor) = page(&s.world, Scope::All, 0, 2);
    s.world.run(s.lines[0], None);
    let (second, cursor) = page(&s.world, Scope::All, cursor, 2);
    for _ in 2..=5 {
        s.world.run(s.lines[0], None);
    }
    let (third, end) = page(&s.world, Scope::All, cursor, 2);
    let points = [first, second, third].map(|page| page.into_iter().map(|one| one.point).collect::<Vec<_>>());
    assert_eq!((points, end), ([vec![1, 2], vec![3, 4], vec![1]], 0));
}

#[test]
fn any_cursor_is_legal() {
    let s = three_jobs();
    for cursor in [1, u64::from(u32::MAX), 1 << 32, (1 << 32) + 7, 2 << 32 | 1, u64::MAX] {
        assert!(page(&s.world, Scope::All, cursor, 10).0.len() <= 3, "{cursor}");
    }
}

#[test]
fn a_chain_that_leads_into_another_domain_ends_at_its_border() {
    let mut world = World::new();
    let (mine, theirs) = (world.client(), world.client_of(OTHER_DOMAIN));
    let object = world.object(mine, 4096);
    let key = world.last_object();
    let porter = world.porter(theirs);
    let imported = world.import(theirs, porter, key, Access::Write).object;
    let (queue, other) = (world.queue(mine, COPY), world.queue(theirs, COPY));
    world.submit(mine, Batch::new().job(queue, 1).writes(object, 0..64));
    world.submit(theirs, Batch::new().job(other, 1).reads(imported, 0..64));
    let (seen, _) = page(&world, Scope::Domain(OTHER_DOMAIN), 0, 10);
    let border = AwaitedEntry { timeline: String::new(), point: 0, domain: DOMAIN.0 };
    assert_eq!((seen.len(), seen[0].waits.as_slice()), (1, [border].as_slice()));
    assert_ne!(all(&world)[1].waits[0].point, 0);
}

#[test]
fn a_queue_names_the_last_points_that_failed_with_their_causes() {
    let mut s = stage();
    for point in 1..=20 {
        s.submit(Batch::new().job(s.queues[0], point));
        s.world.run(s.lines[0], (point != 3).then_some(ErrorCode::Io));
    }
    let entry = queue_entry(&s.world, s.lines[0]);
    let points: Vec<u64> = entry.failures.iter().map(|failure| failure.point).collect();
    assert_eq!(points, (5..=20).collect::<Vec<_>>());
    assert!(entry.failures.iter().all(|one| one.code == "Io" && one.cause.starts_with("cause:")));
}

// Promises of clients, and points that are still to come.

/// A client with a timeline and a queue.
fn promising() -> (World, Line, QueueHandle) {
    let mut world = World::new();
    let client = world.client();
    let (line, queue) = (world.timeline(client), world.queue(client, COPY));
    (world, line, queue)
}

fn waits_for(queue: QueueHandle, line: Line, point: u64, ms: Option<u64>, world: &World) -> Batch {
    let until = ms.map(|ms| world.now.after(ms * MS));
    Batch::new().job(queue, 1).waits_for(line.handle, point, WaitKind::Data, until)
}

/// What is owed as a shell sees it that looks into pages.
fn all_seen(world: &World) -> Vec<ObligationEntry> {
    let look = |key, _, _| world.truth.value[&key];
    let view = View { scope: Scope::All, look: &look };
    let Entries::Obligations(all) = world.broker.snapshot(view, Topic::Obligations, 0, 1000).entries else {
        panic!("another topic")
    };
    all
}

fn timeline_entry(world: &World) -> TimelineEntry {
    let look = |key, _, _| world.truth.value[&key];
    let view = View { scope: Scope::All, look: &look };
    let Entries::Timelines(mut all) = world.broker.snapshot(view, Topic::Timelines, 0, 1000).entries else {
        panic!("another topic")
    };
    all.pop().expect("a timeline")
}

#[test]
fn a_promise_names_its_client_and_when_it_is_due() {
    let (mut world, line, _) = promising();
    let now = world.now;
    world.promise(line, 3, 100);
    let owed = all(&world).swap_remove(0);
    let what = (owed.kind.as_str(), owed.state.as_str(), owed.name.as_str(), owed.point);
    assert_eq!((what, owed.timeline), (("promise", "promised", "stage", 3), line.key.to_string()));
    assert_eq!((owed.since_ns, owed.due_ns, owed.client, owed.pid), (now.0, now.after(100 * MS).0, 1, 1));
}

#[test]
fn a_job_that_waits_for_a_promise_waits_until_it_is_signalled_whoever_heard_of_it() {
    let (mut world, line, queue) = promising();
    world.promise(line, 3, 100);
    world.submit(line.link, waits_for(queue, line, 2, None, &world));
    let gate = AwaitedEntry { timeline: line.key.to_string(), point: 2, domain: DOMAIN.0 };
    assert_eq!(all_seen(&world)[0].waits, [gate]);
    world.signal(line, 2);
    let owed = all_seen(&world);
    assert_eq!((owed[0].waits.as_slice(), owed[1].point), ([].as_slice(), 3));
    world.signal(line, 3);
    assert_eq!(all_seen(&world).len(), 1);
}

#[test]
fn a_job_that_its_driver_has_unblocked_waits_for_nothing() {
    let (mut world, line, queue) = promising();
    world.promise(line, 1, 100);
    world.submit(line.link, waits_for(queue, line, 1, None, &world));
    let timeline = world.last_job(COPY).job.queue;
    world.say(world.instance(COPY), Unblocked { timeline, point: Point(1) });
    let owed = all(&world).swap_remove(0);
    assert_eq!((owed.state.as_str(), owed.waits.as_slice()), ("running", [].as_slice()));
}

#[test]
fn a_point_that_jobs_wait_for_before_it_is_promised_is_told_once_with_the_first_moment() {
    let (mut world, line, queue) = promising();
    let (now, zip) = (world.now, world.queue(line.link, crate::world::ZIP));
    world.submit(line.link, waits_for(queue, line, 7, Some(200), &world));
    world.submit(line.link, waits_for(zip, line, 7, Some(100), &world));
    let awaited: Vec<_> = all(&world).into_iter().filter(|owed| owed.kind == "submission").collect();
    assert_eq!((awaited.len(), awaited[0].point, awaited[0].state.as_str()), (1, 7, "awaited"));
    assert_eq!((awaited[0].since_ns, awaited[0].due_ns), (now.0, now.after(100 * MS).0));
    world.promise(line, 7, 50);
    let kinds: Vec<_> = all(&world).into_iter().map(|owed| owed.kind).collect();
    assert_eq!(kinds, ["job", "job", "promise"]);
}

#[test]
fn pages_of_promises_and_awaited_points_go_on_where_the_last_ended() {
    let (mut world, line, queue) = promising();
    (1..=3).for_each(|point| world.promise(line, point << 33, 100));
    world.submit(line.link, waits_for(queue, line, 9 << 33, Some(100), &world));
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let (entries, next) = page(&world, Scope::All, cursor, 1);
        seen.extend(entries.into_iter().map(|owed| (owed.kind, owed.point >> 33)));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let kinds: Vec<_> = seen.iter().map(|(kind, point)| (kind.as_str(), *point)).collect();
    let promises = [("promise", 1), ("promise", 2), ("promise", 3), ("submission", 9)];
    assert_eq!((kinds[0], &kinds[1..]), (("job", 0), promises.as_slice()));
}

#[test]
fn a_timeline_tells_what_its_page_shows_and_when_it_is_due() {
    let (mut world, line, _) = promising();
    world.promise(line, 1, 100);
    world.promise(line, 2, 200);
    world.signal(line, 1);
    let entry = timeline_entry(&world);
    assert_eq!((entry.name.as_str(), entry.client, entry.pid, entry.domain), ("stage", 1, 1, DOMAIN.0));
    assert_eq!((entry.promised, entry.signalled, entry.due_ns), (2, 1, world.now.after(200 * MS).0));
    assert_eq!((entry.state.as_str(), entry.observers, entry.over), ("open", 0, None));
}

#[test]
fn a_broken_timeline_tells_from_where_on_and_with_which_cause() {
    let (mut world, line, _) = promising();
    world.promise(line, 2, 100);
    world.signal(line, 1);
    world.let_ms_pass(100);
    let entry = timeline_entry(&world);
    let over = entry.over.expect("over");
    assert_eq!((entry.state.as_str(), over.point, over.code.as_str()), ("broken", 2, "TimedOut"));
    assert!(over.cause.starts_with("cause:") && entry.due_ns == 0, "{over:?}");
    assert_eq!(all_seen(&world), []);
}

#[test]
fn a_timeline_names_the_points_that_failed_once_they_are_signalled() {
    let (mut world, line, _) = promising();
    let (timeline, code) = (line.handle, ErrorCode::CorruptInput);
    world
        .ask(line.link, FailPoint { timeline, point: Point(2), code, reserved: Zero, text: b"bad".to_vec() });
    assert_eq!(timeline_entry(&world).failures, []);
    world.signal(line, 2);
    let failures = timeline_entry(&world).failures;
    assert_eq!((failures.len(), failures[0].point, failures[0].code.as_str()), (1, 2, "CorruptInput"));
}

#[test]
fn a_timeline_whose_right_to_signal_is_on_its_way_has_no_client() {
    let (mut world, line, _) = promising();
    world.export_line(line.link, line.handle, TimelineRights::SIGNAL);
    let entry = timeline_entry(&world);
    assert_eq!((entry.state.as_str(), entry.client, entry.pid), ("passing", 0, 0));
}
