//! What jobs wait for: promises of clients, cancellation, and nobody but who signals.

use super::*;
use vgem_proto::jobs::WAIT_PROMISE;
use vgem_proto::message::driver::{Boost, CancelJob};

/// A timeline of another process, in slot 4 of the page that the instance observes as 0.
const FROM: TimelineKey = TimelineKey { index: 70, generation: 71 };

struct Far {
    signaller: SignallerFace,
    slot: Slot,
}

impl Far {
    fn of(rig: &Rig) -> Self {
        let pair = PagePair::create().expect("two pages");
        let signaller = SignallerFace::map(pair.signaller_fds().expect("fds")).expect("pages");
        let fds = pair.observer_fds().expect("fds");
        rig.tell(ObservePage { page: PageId(0) }, &[fds.page.as_fd(), fds.interest.as_fd()]);
        let slot = Slot::new(4).expect("a slot");
        signaller.publish(slot, FROM.generation, 0, 0, &[]);
        Self { signaller, slot }
    }

    fn signal(&self, point: u64) {
        self.signaller.signal(self.slot, point, 1, None).expect("newer");
    }
}

fn wait(timeline: TimelineKey, point: u64, page: u16, flags: u8) -> DriverWait {
    let (point, kind) = (Point(point), WaitKind::Data);
    DriverWait { timeline, point, page, slot: 4, kind, flags, reserved: Zero }
}

fn promise(point: u64) -> DriverWait {
    wait(FROM, point, 0, WAIT_PROMISE)
}

/// What is heard until the first completion.
fn told_before_the_end(rig: &mut Rig) -> Vec<(TimelineKey, Point)> {
    let mut told = Vec::new();
    rig.hear(|m| {
        if let DriverMessage::Unblocked(unblocked) = m {
            told.push((unblocked.timeline, unblocked.point));
        }
        matches!(m, DriverMessage::Complete(_)).then_some(())
    });
    told
}

// M-111
#[test]
fn f8_the_broker_is_told_when_a_job_has_waited_for_a_promise_and_before_it_begins() {
    for inline in [0, FAR] {
        let mut rig = Rig::new(inline);
        let far = Far::of(&rig);
        rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(15)], vec![promise(1)]), &[]);
        far.signal(1);
        let told = rig.hear(|m| match m {
            DriverMessage::Unblocked(unblocked) => Some((unblocked.timeline, unblocked.point)),
            _ => None,
        });
        assert_eq!(told, (QUEUE, Point(1)));
        wait_for(&rig.gate.begun);
        rig.gate.open.store(true, Ordering::Release);
        assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
        rig.ends();
    }
}

// M-111
#[test]
fn a_job_whose_promise_was_kept_before_it_came_is_told_of_all_the_same_and_others_are_not() {
    for inline in [0, FAR] {
        let mut rig = Rig::new(inline);
        let far = Far::of(&rig);
        far.signal(3);
        rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![promise(2)]), &[]);
        assert_eq!(told_before_the_end(&mut rig), [(QUEUE, Point(1))]);
        rig.tell(run(QUEUE, 2, vec![operand(0, 8)], vec![], vec![wait(FROM, 3, 0, 0)]), &[]);
        assert_eq!(told_before_the_end(&mut rig), []);
        rig.ends();
    }
}

// M-111
#[test]
fn a_job_that_fails_by_its_promise_is_told_of_before_it_ends() {
    let mut rig = Rig::new(0);
    let far = Far::of(&rig);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![promise(1)]), &[]);
    let failure = vgem_os::fence::Failure { point: 1, code: ErrorCode::OwnerDied.number(), cause: 9 };
    far.signaller.signal(far.slot, 1, 1, Some(failure)).expect("newer");
    assert_eq!(told_before_the_end(&mut rig), [(QUEUE, Point(1))]);
    assert!(is(rig.outcome(QUEUE, 1), ErrorCode::OwnerDied));
    rig.ends();
}

// M-105
#[test]
fn j5_a_job_that_waits_in_vain_ends_as_soon_as_it_is_cancelled() {
    for inline in [0, FAR] {
        let mut rig = Rig::new(inline);
        let _far = Far::of(&rig);
        rig.tell(run(OTHER, 1, vec![operand(0, 8)], vec![by(1)], vec![wait(QUEUE, 2, PAGE_LOCAL, 0)]), &[]);
        rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![promise(1)]), &[]);
        rig.tell(run(QUEUE, 2, vec![operand(0, 8)], vec![], vec![]), &[]);
        let cause = CauseId::new(InstanceId(1), 8);
        let code = ErrorCode::TimedOut;
        rig.tell(CancelJob { timeline: QUEUE, point: Point(1), cause, code, reserved: Zero }, &[]);
        let state = rig.outcome(QUEUE, 1);
        assert!(is(state, ErrorCode::TimedOut), "{state:?}");
        assert!(matches!(state, PointState::Failed { cause: found, .. } if found == cause.0), "{state:?}");
        assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }), "what was behind goes on");
        assert_eq!(told_before_the_end(&mut rig), [], "its waits have not passed");
        rig.ends();
    }
}

// M-105
#[test]
fn j5_a_running_job_ends_as_it_does_and_one_behind_it_ends_cancelled() {
    let rig = Rig::new(0);
    for point in [1, 2] {
        rig.tell(run(QUEUE, point, vec![operand(0, 8)], vec![by(15)], vec![]), &[]);
    }
    wait_for(&rig.gate.begun);
    for point in [1, 2, 3] {
        let (timeline, point, cause) = (QUEUE, Point(point), CauseId::new(InstanceId(1), 8));
        rig.tell(CancelJob { timeline, point, cause, code: ErrorCode::Cancelled, reserved: Zero }, &[]);
    }
    // What is told next is done after that, so nothing of it is under way when the gate opens.
    rig.tell(run(OTHER, 1, vec![operand(8, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }));
    rig.gate.open.store(true, Ordering::Release);
    let [first, second] = [1, 2].map(|point| rig.outcome(QUEUE, point));
    assert!(matches!(first, PointState::Ok { .. }), "{first:?}");
    assert!(is(second, ErrorCode::Cancelled), "{second:?}");
    rig.ends();
}

#[test]
fn j2_a_job_that_has_reached_its_driver_needs_nothing_more_from_the_broker() {
    let rig = Rig::new(0);
    let far = Far::of(&rig);
    let waits = vec![promise(1), wait(OTHER, 1, PAGE_LOCAL, 0), wait(FROM, 3, 0, 0)];
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], waits), &[]);
    rig.tell(run(OTHER, 1, vec![operand(8, 8)], vec![], vec![wait(FROM, 2, 0, 0)]), &[]);
    // From here on the broker says nothing, and does not listen.
    for point in 1..=3 {
        far.signal(point);
    }
    for queue in [QUEUE, OTHER] {
        assert!(matches!(rig.outcome(queue, 1), PointState::Ok { .. }), "{queue}");
    }
    rig.ends();
}

#[test]
fn f5_a_point_says_when_its_signaller_signalled_it_by_the_monotonic_clock() {
    for (what, inline) in [(1, 0), (1, FAR), (13, 0)] {
        let rig = Rig::new(inline);
        let before = clock::now();
        rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(what)], vec![]), &[]);
        let (PointState::Ok { time_ns } | PointState::Failed { time_ns, .. }) = rig.outcome(QUEUE, 1) else {
            panic!("it has ended")
        };
        assert!((before..=clock::now()).contains(&time_ns), "{before} <= {time_ns}");
        rig.ends();
    }
}

// THREATS T45
#[test]
fn t45_priorities_and_boosts_that_the_broker_tells_count() {
    let mut rig = Rig::with_executors(0, Some(1));
    let [middle, low] = [2, 3].map(|index| TimelineKey { index, generation: 9 });
    for (timeline, priority) in [(middle, 3), (low, 0)] {
        let slot = u16::try_from(timeline.index).expect("few");
        rig.tell(OpenTimeline { priority, ..open(timeline) }, &[]);
        rig.tell(Publish { timeline, page: PageId(0), slot, reserved: Zero }, &[]);
    }
    // The one executor is busy while the others come.
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(15)], vec![]), &[]);
    wait_for(&rig.gate.begun);
    for queue in [OTHER, middle, low] {
        rig.tell(run(queue, 1, vec![operand(8, 8)], vec![], vec![]), &[]);
    }
    rig.tell(Boost { timeline: low, point: Point(1), priority: 5, reserved: Zero }, &[]);
    // An answer says that all of that was read.
    rig.tell(Unmap { object: ObjectKey { index: 9, generation: 9 } }, &[]);
    rig.hear(|m| matches!(m, DriverMessage::Unmapped(_)).then_some(()));
    rig.gate.open.store(true, Ordering::Release);
    let ended = [low, middle, OTHER].map(|queue| match rig.outcome(queue, 1) {
        PointState::Ok { time_ns } => time_ns,
        other => panic!("{other:?}"),
    });
    assert!(ended.is_sorted(), "{ended:?}");
    rig.ends();
}
