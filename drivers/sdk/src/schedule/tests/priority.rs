//! Priorities, and how they pass along the waiting chain (THREATS T45).

use super::*;

fn standing(client: u32, priority: u8) -> Standing {
    let client = ClientKey { index: client, generation: 1 };
    Standing { client, priority: Priority::new(priority), ..ORDINARY }
}

fn key(index: u32) -> TimelineKey {
    TimelineKey { index, generation: 1 }
}

/// Queue `n` is of client `n` and has the `n`th priority.
fn with_priorities(priorities: &[u8]) -> Schedule {
    let mut schedule = Schedule::default();
    for (index, priority) in (0..).zip(priorities) {
        open(&mut schedule, key(index), standing(index, *priority));
    }
    schedule
}

fn here(queue: u32, point: u64) -> DriverWait {
    wait(key(queue), point, PAGE_LOCAL, WaitKind::Order)
}

/// The queues whose jobs run, in order, until nothing may.
fn order(schedule: &mut Schedule) -> Vec<u32> {
    std::iter::from_fn(|| step(schedule, None)).map(|(key, _, _)| key.index).collect()
}

#[test]
fn who_has_a_higher_priority_goes_first_and_of_equals_who_came_first() {
    let mut schedule = with_priorities(&[0, 3, 7, 3]);
    for queue in 0..4 {
        push(&mut schedule, job(key(queue), 1, &[]));
    }
    assert_eq!(order(&mut schedule), [2, 1, 3, 0]);
}

// The classic inversion: something of middle importance keeps the engine from what the most important waits for.
#[test]
fn t45_what_somebody_important_waits_for_is_as_important() {
    let mut schedule = with_priorities(&[0, 3, 3, 3, 7]);
    push(&mut schedule, job(key(0), 1, &[]));
    for middle in 1..=3 {
        for point in 1..=3 {
            push(&mut schedule, job(key(middle), point, &[]));
        }
    }
    push(&mut schedule, job(key(4), 1, &[here(0, 1)]));
    assert_eq!(order(&mut schedule)[..2], [0, 4]);
}

#[test]
fn t45_it_passes_along_the_waiting_chain_whoever_came_first() {
    let chain = [
        job(key(0), 1, &[]),
        job(key(1), 1, &[here(0, 1)]),
        job(key(2), 1, &[here(1, 1)]),
        job(key(3), 1, &[here(2, 1)]),
    ];
    for first in 0..4 {
        let mut schedule = with_priorities(&[0, 0, 0, 7, 5]);
        push(&mut schedule, job(key(4), 1, &[]));
        for at in 0..4 {
            push(&mut schedule, chain[(first + at) % 4].clone());
        }
        assert_eq!(order(&mut schedule), [0, 1, 2, 3, 4], "{first} was pushed first");
    }
}

#[test]
fn t45_a_head_lends_to_all_it_waits_for_and_they_to_the_jobs_before() {
    let mut schedule = with_priorities(&[0, 0, 3, 7]);
    for point in 1..=2 {
        push(&mut schedule, job(key(0), point, &[]));
        push(&mut schedule, job(key(1), point, &[]));
        push(&mut schedule, job(key(2), point, &[]));
    }
    push(&mut schedule, job(key(3), 1, &[here(0, 2), here(1, 1)]));
    let order = order(&mut schedule);
    let place = |queue: u32, nth: usize| order.iter().enumerate().filter(|(_, q)| **q == queue).nth(nth);
    let (waited, middle) = (place(3, 0).expect("it ran").0, place(2, 0).expect("it ran").0);
    assert!(waited < middle, "{order:?}");
    assert_eq!(place(1, 1).expect("it ran").0, 6, "only the first job of queue 1 was waited for: {order:?}");
}

#[test]
fn what_was_lent_ends_with_the_point_it_was_lent_for() {
    let mut schedule = with_priorities(&[0, 3]);
    for point in 1..=3 {
        push(&mut schedule, job(key(0), point, &[]));
    }
    push(&mut schedule, job(key(1), 1, &[]));
    schedule.boost(key(0), Point(2), Priority::new(5));
    assert_eq!(order(&mut schedule), [0, 0, 1, 0]);
}

#[test]
fn a_boost_counts_before_the_job_has_come_and_not_after_its_point() {
    let mut schedule = with_priorities(&[0, 3]);
    schedule.boost(key(0), Point(1), Priority::new(5));
    schedule.boost(key(0), Point(2), Priority::ORDINARY);
    schedule.boost(key(9), Point(1), Priority::new(7));
    push(&mut schedule, job(key(1), 1, &[]));
    push(&mut schedule, job(key(0), 1, &[]));
    assert_eq!(order(&mut schedule), [0, 1]);
    schedule.boost(key(0), Point(1), Priority::new(7));
    push(&mut schedule, job(key(0), 2, &[]));
    push(&mut schedule, job(key(1), 2, &[]));
    assert_eq!(order(&mut schedule), [1, 0]);
}

#[test]
fn of_several_boosts_the_highest_that_is_not_over_counts() {
    let mut schedule = with_priorities(&[0, 4, 2]);
    for point in 1..=3 {
        push(&mut schedule, job(key(0), point, &[]));
    }
    push(&mut schedule, job(key(1), 1, &[]));
    push(&mut schedule, job(key(2), 1, &[]));
    for (point, priority) in [(2, 3), (1, 7), (1, 1)] {
        schedule.boost(key(0), Point(point), Priority::new(priority));
    }
    assert_eq!(order(&mut schedule), [0, 1, 0, 2, 0]);
}

#[test]
fn t45_a_boost_from_elsewhere_passes_along_the_chain_here() {
    let mut schedule = with_priorities(&[0, 0, 3]);
    push(&mut schedule, job(key(2), 1, &[]));
    push(&mut schedule, job(key(0), 1, &[]));
    push(&mut schedule, job(key(1), 1, &[here(0, 1)]));
    schedule.boost(key(1), Point(1), Priority::new(6));
    assert_eq!(order(&mut schedule), [0, 1, 2]);
}

#[test]
fn a_circle_of_waits_that_should_not_be_does_not_hang_the_lender() {
    let mut schedule = with_priorities(&[0, 0, 7]);
    push(&mut schedule, job(key(0), 1, &[here(1, 1)]));
    push(&mut schedule, job(key(1), 1, &[here(0, 1)]));
    push(&mut schedule, job(key(2), 1, &[here(1, 1)]));
    assert!(schedule.claim().is_none());
    schedule.cancel(key(0), Point(1), CANCELLED);
    assert_eq!(order(&mut schedule), [0, 1, 2]);
}

#[test]
fn a_runnable_job_that_is_cancelled_ends_before_those_that_run() {
    for others in [0, 2] {
        let mut schedule = with_priorities(&[0, 7, 7]);
        push(&mut schedule, job(key(0), 1, &[]));
        for other in 1..=others {
            push(&mut schedule, job(key(other), 1, &[]));
        }
        schedule.cancel(key(0), Point(1), CANCELLED);
        let (ended, point, failed) = step(&mut schedule, None).expect("it ends");
        assert_eq!((ended, point, failed), (key(0), Point(1), Some(CANCELLED)));
        push(&mut schedule, job(key(0), 2, &[]));
        assert_eq!(order(&mut schedule).len(), 1 + others as usize);
        assert!(!schedule.has_work());
    }
}
