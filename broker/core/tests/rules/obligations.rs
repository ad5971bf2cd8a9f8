//! What tools are shown of who owes what, and what it waits for.

use vgem_core::io::Scope;
use vgem_core::snapshot::Entries;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::TimelineKey;
use vgem_proto::rights::Access;
use vgem_proto::snapshot::{AwaitedEntry, ObligationEntry, QueueEntry, Topic};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
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
