mod entries;
mod fairness;
mod priority;

use super::*;
use vgem_os::fence::{PagePair, SignallerFace};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, PageId};
use vgem_proto::jobs::{DriverJob, DriverWait, JOB_RUN_ANYWAY, PAGE_LOCAL, WAIT_PROMISE};
use vgem_proto::message::driver::Run;
use vgem_proto::rights::WaitKind;

const A: TimelineKey = TimelineKey { index: 0, generation: 1 };
const B: TimelineKey = TimelineKey { index: 1, generation: 2 };

const ORDINARY: Standing = Standing {
    domain: DomainId(0),
    client: ClientKey { index: 0, generation: 1 },
    priority: Priority::ORDINARY,
};

fn schedule() -> Schedule {
    let mut schedule = Schedule::default();
    for key in [A, B] {
        open(&mut schedule, key, ORDINARY);
    }
    schedule
}

fn open(schedule: &mut Schedule, key: TimelineKey, standing: Standing) {
    assert!(schedule.open(Arc::new(Timeline::new(key)), standing));
}

fn job(queue: TimelineKey, point: u64, waits: &[DriverWait]) -> Run {
    let job = DriverJob {
        queue,
        point: Point(point),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op: 0,
        flags: 0,
        operands: 0,
        params: 0,
        waits: u16::try_from(waits.len()).expect("a few"),
        reserved: Zero,
    };
    Run { jobs: vec![job], operands: vec![], params: vec![], waits: waits.to_vec(), bytes: vec![] }
}

fn wait(timeline: TimelineKey, point: u64, page: u16, kind: WaitKind) -> DriverWait {
    DriverWait { timeline, point: Point(point), page, slot: 0, kind, flags: 0, reserved: Zero }
}

fn push(schedule: &mut Schedule, run: Run) {
    for pending in split(run) {
        schedule.push(pending).expect("its queue takes it");
    }
}

/// Claims the next job, signals it and ends it; its point and the failure it carried.
fn step(schedule: &mut Schedule, outcome: Option<Failure>) -> Option<(TimelineKey, Point, Option<Failure>)> {
    let Claimed { timeline, pending, claim } = schedule.claim()?;
    let (key, point, failed) = (timeline.key, pending.point, pending.failed);
    timeline.signal(point, 1, failed.or(outcome)).expect("in order");
    let _closed = schedule.ended(claim, 1);
    schedule.glance();
    Some((key, point, failed))
}

const BROKEN: Failure = Failure { code: ErrorCode::Io, cause: CauseId(77) };

// M-105
#[test]
fn a_queue_runs_in_order_and_one_at_a_time() {
    let mut schedule = schedule();
    push(&mut schedule, job(A, 1, &[]));
    push(&mut schedule, job(A, 2, &[]));
    let first = schedule.claim().expect("the head is runnable");
    assert!(schedule.claim().is_none(), "the second job must wait for the first");
    first.timeline.signal(Point(1), 1, None).expect("in order");
    let _closed = schedule.ended(first.claim, 1);
    assert_eq!(step(&mut schedule, None), Some((A, Point(2), None)));
}

#[test]
fn a_parked_head_does_not_hold_up_other_queues() {
    let mut schedule = schedule();
    push(&mut schedule, job(A, 1, &[wait(B, 1, PAGE_LOCAL, WaitKind::Order)]));
    assert!(!schedule.has_runnable());
    push(&mut schedule, job(B, 1, &[]));
    assert_eq!(step(&mut schedule, None), Some((B, Point(1), None)));
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), None)));
}

// M-107
#[test]
fn f10_a_failed_data_wait_fails_the_job_with_the_same_cause_and_an_order_wait_does_not() {
    for (kind, inherited) in [(WaitKind::Data, Some(BROKEN)), (WaitKind::Order, None)] {
        let mut schedule = schedule();
        push(&mut schedule, job(A, 1, &[wait(B, 1, PAGE_LOCAL, kind)]));
        push(&mut schedule, job(B, 1, &[]));
        assert_eq!(step(&mut schedule, Some(BROKEN)), Some((B, Point(1), None)));
        assert_eq!(step(&mut schedule, None), Some((A, Point(1), inherited)));
    }
}

#[test]
fn a_failed_job_still_waits_for_all_its_waits() {
    let mut schedule = schedule();
    let c = TimelineKey { index: 2, generation: 3 };
    open(&mut schedule, c, ORDINARY);
    let waits = [wait(B, 1, PAGE_LOCAL, WaitKind::Data), wait(c, 1, PAGE_LOCAL, WaitKind::Order)];
    push(&mut schedule, job(A, 1, &waits));
    push(&mut schedule, job(B, 1, &[]));
    assert_eq!(step(&mut schedule, Some(BROKEN)), Some((B, Point(1), None)));
    assert!(!schedule.has_runnable(), "whoever waits for this job relies on what it waits for");
    push(&mut schedule, job(c, 1, &[]));
    assert_eq!(step(&mut schedule, None), Some((c, Point(1), None)));
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(BROKEN))));
}

#[test]
fn a_job_told_to_run_anyway_runs_after_a_failed_data_wait() {
    let mut schedule = schedule();
    let mut run = job(A, 1, &[wait(B, 1, PAGE_LOCAL, WaitKind::Data)]);
    run.jobs[0].flags = JOB_RUN_ANYWAY;
    push(&mut schedule, run);
    push(&mut schedule, job(B, 1, &[]));
    assert_eq!(step(&mut schedule, Some(BROKEN)), Some((B, Point(1), None)));
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), None)));
}

#[test]
fn a_closing_queue_closes_when_its_last_job_has_ended_and_its_failures_stay_known() {
    let mut schedule = schedule();
    push(&mut schedule, job(B, 1, &[]));
    assert!(schedule.close(B).is_none());
    let claimed = schedule.claim().expect("the head is runnable");
    claimed.timeline.signal(Point(1), 1, Some(BROKEN)).expect("in order");
    assert_eq!(schedule.ended(claimed.claim, 1).map(|t| t.key), Some(B));
    push(&mut schedule, job(A, 1, &[wait(B, 1, PAGE_LOCAL, WaitKind::Data)]));
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(BROKEN))));
}

#[test]
fn who_waits_for_what_a_closed_queue_never_signalled_is_not_left_waiting() {
    let unknown = Failure { code: ErrorCode::Poisoned, cause: CauseId::NONE };
    for waits_first in [true, false] {
        let mut schedule = schedule();
        let waiter = job(A, 1, &[wait(B, 2, PAGE_LOCAL, WaitKind::Data)]);
        push(&mut schedule, job(B, 1, &[]));
        if waits_first {
            push(&mut schedule, waiter.clone());
        }
        assert_eq!(step(&mut schedule, None), Some((B, Point(1), None)));
        assert_eq!(schedule.close(B).map(|t| t.key), Some(B));
        if !waits_first {
            push(&mut schedule, waiter);
        }
        assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(unknown))));
    }
}

// M-105
#[test]
fn j5_a_cancelled_job_ends_cancelled_in_its_turn() {
    let mut schedule = schedule();
    push(&mut schedule, job(A, 1, &[]));
    push(&mut schedule, job(A, 2, &[]));
    let cancelled = Failure { code: ErrorCode::Cancelled, cause: CauseId(5) };
    schedule.cancel(A, Point(2), cancelled);
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), None)));
    assert_eq!(step(&mut schedule, None), Some((A, Point(2), Some(cancelled))));
}

const CANCELLED: Failure = Failure { code: ErrorCode::TimedOut, cause: CauseId(5) };

// M-105
#[test]
fn j5_a_cancelled_job_that_waits_ends_at_once() {
    let (signaller, mut schedule) = remote();
    let c = TimelineKey { index: 2, generation: 3 };
    open(&mut schedule, c, ORDINARY);
    push(&mut schedule, job(A, 1, &[wait(REMOTE, 1, 0, WaitKind::Order)]));
    push(&mut schedule, job(A, 2, &[]));
    push(&mut schedule, job(B, 1, &[wait(c, 1, PAGE_LOCAL, WaitKind::Order)]));
    assert!(!schedule.has_runnable());
    schedule.cancel(A, Point(1), CANCELLED);
    schedule.cancel(B, Point(1), CANCELLED);
    let ended = [step(&mut schedule, None), step(&mut schedule, None), step(&mut schedule, None)];
    for of in [(A, Point(1), Some(CANCELLED)), (A, Point(2), None), (B, Point(1), Some(CANCELLED))] {
        assert!(ended.contains(&Some(of)), "{of:?} of {ended:?}");
    }
    drop(signaller);
}

// M-105
#[test]
fn j5_a_job_cancelled_behind_others_waits_for_those_only() {
    let mut schedule = schedule();
    push(&mut schedule, job(A, 1, &[]));
    push(&mut schedule, job(A, 2, &[wait(B, 9, PAGE_LOCAL, WaitKind::Data)]));
    schedule.cancel(A, Point(2), CANCELLED);
    let running = schedule.claim().expect("the head is runnable");
    schedule.cancel(A, Point(1), CANCELLED);
    assert_eq!(running.pending.failed, None, "a running job ends as it does");
    running.timeline.signal(Point(1), 1, None).expect("in order");
    assert!(schedule.ended(running.claim, 1).is_none());
    assert_eq!(step(&mut schedule, None), Some((A, Point(2), Some(CANCELLED))));
}

#[test]
fn a_job_keeps_the_failure_that_it_had_when_it_is_cancelled() {
    let mut schedule = schedule();
    let waits = [wait(B, 1, PAGE_LOCAL, WaitKind::Data), wait(B, 9, PAGE_LOCAL, WaitKind::Order)];
    push(&mut schedule, job(A, 1, &waits));
    push(&mut schedule, job(B, 1, &[]));
    assert_eq!(step(&mut schedule, Some(BROKEN)), Some((B, Point(1), None)));
    assert!(!schedule.has_runnable());
    schedule.cancel(A, Point(1), CANCELLED);
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(BROKEN))));
}

#[test]
fn what_others_wait_for_is_still_asked_for_when_a_job_that_waits_there_is_cancelled() {
    use vgem_os::fence::Woke;
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
    push(&mut schedule, job(A, 1, &[wait(REMOTE, 1, 0, WaitKind::Order)]));
    push(&mut schedule, job(B, 1, &[wait(REMOTE, 2, 0, WaitKind::Order)]));
    schedule.watch();
    schedule.cancel(A, Point(1), CANCELLED);
    assert_eq!(signaller.signal(slot, 2, 2, None), Ok(Woke::Sleeper));
}

/// A wait for a point that a client has promised.
fn gate(timeline: TimelineKey, point: u64) -> DriverWait {
    DriverWait { flags: WAIT_PROMISE, ..wait(timeline, point, 0, WaitKind::Data) }
}

// M-111
#[test]
fn f8_a_job_that_waited_for_a_promise_is_runnable_once_that_was_told() {
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
    push(&mut schedule, job(A, 1, &[gate(REMOTE, 1), wait(B, 1, PAGE_LOCAL, WaitKind::Order)]));
    push(&mut schedule, job(B, 1, &[]));
    signaller.signal(slot, 1, 1, None).expect("1 is newer than 0");
    schedule.look_elsewhere();
    assert_eq!(schedule.take_untold(), None, "another wait has not passed");
    assert_eq!(step(&mut schedule, None), Some((B, Point(1), None)));
    assert!(!schedule.has_runnable() && schedule.has_work());
    assert_eq!(schedule.take_untold(), Some((A, Point(1))));
    assert!(schedule.claim().is_none());
    schedule.told(A);
    assert_eq!((step(&mut schedule, None), schedule.take_untold()), (Some((A, Point(1), None)), None));
}

// M-111
#[test]
fn that_a_job_has_waited_is_told_also_when_it_fails_and_not_when_it_was_cancelled_first() {
    for (cancel, told) in [(false, Some((A, Point(1)))), (true, None)] {
        let (signaller, mut schedule) = remote();
        let slot = Slot::new(0).expect("a page has 15 slots");
        push(&mut schedule, job(A, 1, &[gate(REMOTE, 1)]));
        if cancel {
            schedule.cancel(A, Point(1), CANCELLED);
        }
        let failure = vgem_os::fence::Failure { point: 1, code: BROKEN.code.number(), cause: BROKEN.cause.0 };
        signaller.publish(slot, REMOTE.generation, 1, 1, &[failure]);
        schedule.look_elsewhere();
        assert_eq!(schedule.take_untold(), told);
        schedule.told(A);
        let failed = if cancel { CANCELLED } else { BROKEN };
        assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(failed))));
    }
}

#[test]
fn a_job_that_waits_for_no_promise_is_not_told_of() {
    let mut schedule = schedule();
    push(&mut schedule, job(A, 1, &[wait(B, 1, PAGE_LOCAL, WaitKind::Order)]));
    push(&mut schedule, job(B, 1, &[]));
    for ended in [B, A] {
        assert_eq!(schedule.take_untold(), None);
        assert_eq!(step(&mut schedule, None), Some((ended, Point(1), None)));
    }
}

#[test]
fn in_the_steady_state_a_job_costs_no_allocation() {
    const C: TimelineKey = TimelineKey { index: 2, generation: 1 };
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
    let other = ClientKey { index: 1, generation: 1 };
    open(&mut schedule, C, Standing { client: other, priority: Priority::new(3), ..ORDINARY });
    // A waits for another process, C for B, which C's client makes go first; and A and B are runnable at once.
    let mut round = |point: u64| {
        let far = wait(REMOTE, point, 0, WaitKind::Data);
        let here = wait(B, point, PAGE_LOCAL, WaitKind::Data);
        let runs = [job(A, point, &[far]), job(B, point, &[]), job(C, point, &[here])];
        let pending: Vec<Pending> = runs.into_iter().flat_map(split).collect();
        allocation_counter::measure(|| {
            for pending in pending {
                schedule.push(pending).expect("its queue takes it");
            }
            schedule.watch();
            signaller.signal(slot, point, 1, None).expect("newer");
            schedule.unwatch();
            schedule.look_elsewhere();
            for key in [B, C, A] {
                assert_eq!(step(&mut schedule, None), Some((key, Point(point), None)));
            }
        })
        .count_total
    };
    for warm in 1..=4 {
        round(warm);
    }
    let allocated: u64 = (5..=50).map(round).sum();
    // The list of pending jobs itself is freed meanwhile, not made.
    assert_eq!(allocated, 0);
}

#[test]
fn a_job_for_an_older_life_of_a_queue_is_refused() {
    let mut schedule = schedule();
    let stale = TimelineKey { generation: 99, ..A };
    let pending = split(job(stale, 1, &[])).next().expect("one job");
    assert_eq!(schedule.push(pending), Err(NotTaken::NoQueue(stale)));
}

/// A remote timeline: the signaller's face, and a schedule that observes it as page 0.
fn remote() -> (SignallerFace, Schedule) {
    let keeper = PagePair::create().expect("memory for two pages");
    let signaller = SignallerFace::map(keeper.signaller_fds().expect("fds")).expect("pages");
    let mut schedule = schedule();
    schedule.observe(PageId(0), ObserverFace::map(keeper.observer_fds().expect("fds")).expect("pages"));
    (signaller, schedule)
}

const REMOTE: TimelineKey = TimelineKey { index: 40, generation: 41 };

// M-107
#[test]
fn a_remote_wait_passes_when_its_page_shows_the_point() {
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    push(&mut schedule, job(A, 1, &[wait(REMOTE, 2, 0, WaitKind::Data)]));
    signaller.publish(slot, REMOTE.generation, 1, 1, &[]);
    schedule.look_elsewhere();
    assert!(!schedule.has_runnable());
    signaller.signal(slot, 2, 2, None).expect("2 is newer than 1");
    schedule.look_elsewhere();
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), None)));
}

#[test]
fn only_a_watcher_about_to_sleep_asks_to_be_woken() {
    use vgem_os::fence::Woke;
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
    push(&mut schedule, job(A, 1, &[wait(REMOTE, 2, 0, WaitKind::Data)]));
    assert_eq!(signaller.signal(slot, 1, 1, None), Ok(Woke::Nobody));
    schedule.watch();
    assert_eq!(signaller.signal(slot, 2, 2, None), Ok(Woke::Sleeper));
}

#[test]
fn a_watcher_that_is_awake_asks_no_more_whatever_became_of_the_job() {
    use vgem_os::fence::Woke;
    for cancel in [false, true] {
        let (signaller, mut schedule) = remote();
        let slot = Slot::new(0).expect("a page has 15 slots");
        signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
        push(&mut schedule, job(A, 1, &[wait(REMOTE, 2, 0, WaitKind::Data)]));
        schedule.watch();
        if cancel {
            schedule.cancel(A, Point(1), CANCELLED);
        }
        schedule.unwatch();
        assert_eq!(signaller.signal(slot, 2, 2, None), Ok(Woke::Nobody));
    }
}

#[test]
fn every_head_that_waits_elsewhere_is_glanced_at_in_turn() {
    for which in 0..20 {
        let (signaller, mut schedule) = remote();
        let [never, now] = [0, 1].map(|at| Slot::new(at).expect("a page has 15 slots"));
        for slot in [never, now] {
            signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
        }
        for index in 0..20 {
            let key = TimelineKey { index: 10 + index, generation: 1 };
            open(&mut schedule, key, ORDINARY);
            let slot = u16::from(index == which);
            push(&mut schedule, job(key, 1, &[DriverWait { slot, ..wait(REMOTE, 1, 0, WaitKind::Data) }]));
        }
        signaller.signal(now, 1, 1, None).expect("newer");
        for _ in 0..3 {
            schedule.glance();
        }
        assert_eq!(schedule.claim().map(|c| c.pending.queue.index), Some(10 + which));
    }
}

#[test]
fn a_job_that_parks_while_the_watcher_sleeps_asks_for_it() {
    use vgem_os::fence::Woke;
    let (signaller, mut schedule) = remote();
    let slot = Slot::new(0).expect("a page has 15 slots");
    signaller.publish(slot, REMOTE.generation, 0, 0, &[]);
    schedule.watch();
    push(&mut schedule, job(A, 1, &[wait(REMOTE, 1, 0, WaitKind::Order)]));
    assert_eq!(signaller.signal(slot, 1, 1, None), Ok(Woke::Sleeper));
}

/// A wait for the first point of a queue that failed often since: of a queue here, or of another process.
fn forgotten(schedule: &Schedule, far: Option<&SignallerFace>) -> DriverWait {
    let Some(face) = far else {
        let timeline = schedule.timeline(B).expect("it is open");
        for n in 1..=20 {
            timeline.signal(Point(n), n, Some(BROKEN)).expect("in order");
        }
        return wait(B, 1, PAGE_LOCAL, WaitKind::Data);
    };
    let slot = Slot::new(0).expect("a page has 15 slots");
    face.publish(slot, REMOTE.generation, 0, 0, &[]);
    for point in 1..=20 {
        let failure = vgem_os::fence::Failure { point, code: BROKEN.code.number(), cause: BROKEN.cause.0 };
        face.signal(slot, point, point, Some(failure)).expect("in order");
    }
    wait(REMOTE, 1, 0, WaitKind::Data)
}

const TOLD: Failure = Failure { code: ErrorCode::CorruptInput, cause: CauseId(99) };

// M-107
#[test]
fn f10_how_a_forgotten_point_ended_the_broker_is_asked_and_the_job_waits_for_the_answer() {
    for is_far in [false, true] {
        for told in [None, Some(TOLD)] {
            let (face, mut schedule) = remote();
            let wait = forgotten(&schedule, is_far.then_some(&face));
            let question = (wait.timeline, wait.point);
            push(&mut schedule, job(A, 1, &[wait]));
            assert!(schedule.has_work() && !schedule.has_runnable());
            assert_eq!((schedule.take_question(), schedule.take_question()), (Some(question), None));
            schedule.look_elsewhere();
            assert!(!schedule.has_work(), "it is asked once");
            schedule.answer(A, Point(1), Some(BROKEN));
            assert!(!schedule.has_runnable(), "that is another point");
            schedule.answer(question.0, question.1, told);
            assert_eq!(step(&mut schedule, None), Some((A, Point(1), told)));
            // An answer that nobody waits for any more.
            schedule.answer(question.0, question.1, told);
        }
    }
}

#[test]
fn two_jobs_that_read_one_forgotten_point_ask_once() {
    let mut schedule = schedule();
    let c = TimelineKey { index: 2, generation: 3 };
    open(&mut schedule, c, ORDINARY);
    let wait = forgotten(&schedule, None);
    push(&mut schedule, job(A, 1, &[wait]));
    push(&mut schedule, job(c, 1, &[wait]));
    assert_eq!((schedule.take_question(), schedule.take_question()), (Some((B, Point(1))), None));
    schedule.answer(B, Point(1), Some(TOLD));
    let ended = [step(&mut schedule, None), step(&mut schedule, None)];
    assert!(ended.iter().all(|step| step.is_some_and(|(_, _, failed)| failed == Some(TOLD))), "{ended:?}");
}

#[test]
fn a_job_that_asks_can_be_cancelled_and_one_that_need_not_know_does_not_ask() {
    let mut schedule = schedule();
    let wait = forgotten(&schedule, None);
    push(&mut schedule, job(A, 1, &[wait]));
    schedule.cancel(A, Point(1), BROKEN);
    assert_eq!(step(&mut schedule, None), Some((A, Point(1), Some(BROKEN))));
    assert!(schedule.take_question().is_some());

    push(&mut schedule, job(A, 2, &[DriverWait { kind: WaitKind::Order, ..wait }]));
    let mut anyway = job(A, 3, &[wait]);
    anyway.jobs[0].flags = JOB_RUN_ANYWAY;
    push(&mut schedule, anyway);
    let mut failed = job(A, 4, &[wait]);
    (failed.jobs[0].failed_code, failed.jobs[0].failed_cause) = (TOLD.code.number(), TOLD.cause);
    push(&mut schedule, failed);
    let ended = [step(&mut schedule, None), step(&mut schedule, None), step(&mut schedule, None)];
    assert_eq!(ended.map(|step| step.and_then(|(_, _, failed)| failed)), [None, None, Some(TOLD)]);
    assert_eq!(schedule.take_question(), None);
}
