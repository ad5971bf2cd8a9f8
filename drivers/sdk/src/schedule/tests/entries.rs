//! Jobs that wait for entries of a ring here, and publications of them.

use super::*;
use vgem_proto::describe::PUBLISH;

/// A schedule in which the points of B are those of a ring.
fn ringed() -> (Schedule, Arc<Timeline>) {
    let mut schedule = schedule();
    let (timeline, points) = schedule.give_points(B).expect("it is open");
    assert_eq!(points, Points::OfRing);
    (schedule, timeline)
}

fn publication(point: u64, entry: u64) -> Run {
    let wait = DriverWait { flags: WAIT_PROMISE, ..wait(B, entry, PAGE_LOCAL, WaitKind::Data) };
    let mut run = job(A, point, &[wait]);
    run.jobs[0].op = PUBLISH;
    run
}

/// Signals entries up to one, as the ring's thread does; whether it found it awaited.
fn signal(schedule: &mut Schedule, ring: &Timeline, entry: u64, failure: Option<Failure>) -> bool {
    let is_awaited = ring.signal(Point(entry), 1, failure).expect("in order");
    if is_awaited {
        schedule.entries_ended(B);
    }
    is_awaited
}

#[test]
fn the_thread_of_a_ring_hears_of_jobs_that_wait_for_what_it_signals_and_of_no_others() {
    let (mut schedule, ring) = ringed();
    assert!(!signal(&mut schedule, &ring, 1, None));
    push(&mut schedule, publication(1, 3));
    assert!(!signal(&mut schedule, &ring, 2, None), "nobody waits for that one");
    assert!(schedule.claim().is_none() && !schedule.has_work());
    assert!(signal(&mut schedule, &ring, 3, None));
    assert_eq!(schedule.take_untold(), Some((A, Point(1))));
    schedule.told(A);
    let claimed = schedule.claim_if(Pending::is_publication).expect("it may end");
    assert_eq!((claimed.pending.point, claimed.pending.failed), (Point(1), None));
    assert!(!signal(&mut schedule, &ring, 4, None), "nobody waits any more");
}

#[test]
fn whoever_waits_for_a_later_entry_is_awaited_on() {
    let (mut schedule, ring) = ringed();
    let c = TimelineKey { index: 2, generation: 3 };
    open(&mut schedule, c, ORDINARY);
    push(&mut schedule, publication(1, 3));
    push(&mut schedule, job(c, 1, &[wait(B, 9, PAGE_LOCAL, WaitKind::Order)]));
    assert!(signal(&mut schedule, &ring, 5, None));
    assert!(!signal(&mut schedule, &ring, 8, None));
    assert!(signal(&mut schedule, &ring, 9, None));
    assert!(schedule.has_runnable());
}

#[test]
fn f10_a_failed_entry_fails_whoever_reads_it_with_the_same_cause() {
    for (entry, failed) in [(3, Some(BROKEN)), (2, None)] {
        let (mut schedule, ring) = ringed();
        push(&mut schedule, publication(1, entry));
        signal(&mut schedule, &ring, 2, None);
        signal(&mut schedule, &ring, 3, Some(BROKEN));
        assert_eq!(schedule.take_untold(), Some((A, Point(1))));
        schedule.told(A);
        assert_eq!(step(&mut schedule, None), Some((A, Point(1), failed)));
    }
}

#[test]
fn t44_a_job_whose_moment_came_ends_and_the_ring_goes_on() {
    let (mut schedule, ring) = ringed();
    push(&mut schedule, publication(1, 3));
    schedule.cancel(A, Point(1), CANCELLED);
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(CANCELLED))));
    signal(&mut schedule, &ring, 3, None);
    assert!(!schedule.has_work());
    push(&mut schedule, publication(2, 3));
    schedule.take_untold();
    schedule.told(A);
    assert_eq!(step(&mut schedule, None), Some((A, Point(2), None)), "it has passed before the job came");
}
