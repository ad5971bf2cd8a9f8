//! An instance takes over the queues of another that was ended, in the same fence pages.

use super::*;
use vgem_proto::jobs::PointFailure;
use vgem_proto::message::driver::Publish;

impl Rig {
    /// Ends the instance and starts another on a link of its own, with the same page to signal in.
    fn succeed(&mut self) {
        let (link, theirs) = Socket::pair().expect("a socket pair");
        drop(std::mem::replace(&mut self.link, link));
        let first = self.driver.take().expect("it is joined once").join().expect("no panic");
        assert!(first.is_ok(), "{first:?}");
        self.start(theirs, InstanceId(4));
        self.map(DATA, &self.memory, Access::Write);
    }

    fn open_again(&self, past: OpenTimeline, slot: u16) {
        let timeline = past.timeline;
        self.tell(past, &[]);
        self.tell(Publish { timeline, page: PageId(0), slot, reserved: Zero }, &[]);
    }

    fn state(&self, queue: TimelineKey, point: u64) -> PointState {
        let slot = Slot::new(u16::try_from(queue.index).expect("0 or 1")).expect("a slot");
        self.client.state(slot, queue.generation, point)
    }
}

fn past(timeline: TimelineKey, value: u64, failures: Vec<PointFailure>) -> OpenTimeline {
    OpenTimeline { value: Point(value), at: Time(7), failures, ..open(timeline) }
}

// M-082
#[test]
fn an_heir_goes_on_in_the_same_page_and_what_was_signalled_stays_as_it_was() {
    let mut rig = Rig::new(0);
    for (point, what) in [(1, 1), (2, 13), (3, 1)] {
        rig.tell(run(QUEUE, point, vec![operand(0, 8)], vec![by(what)], vec![]), &[]);
    }
    assert!(matches!(rig.outcome(QUEUE, 3), PointState::Ok { .. }));
    let before: Vec<_> = (1..=4).map(|point| rig.state(QUEUE, point)).collect();
    let PointState::Failed { cause, .. } = before[1] else { panic!("{before:?}") };

    rig.succeed();
    let failure =
        PointFailure { point: Point(2), cause: CauseId(cause), code: ErrorCode::Io, reserved: Zero };
    rig.open_again(past(QUEUE, 3, vec![failure]), 0);
    rig.tell(run(QUEUE, 4, vec![operand(0, 8)], vec![by(1)], vec![]), &[]);

    assert!(matches!(rig.outcome(QUEUE, 4), PointState::Ok { .. }));
    let after: Vec<_> = (1..=3).map(|point| rig.state(QUEUE, point)).collect();
    assert!(is(after[1], ErrorCode::Io) && matches!(after[2], PointState::Ok { .. }), "{after:?}");
    assert_eq!((rig.state(QUEUE, 5), rig.read(0, 1)), (PointState::Pending, vec![3]));
    rig.ends();
}

#[test]
fn jobs_of_an_heir_wait_for_points_of_before_and_inherit_their_failures() {
    let mut rig = Rig::new(0);
    rig.succeed();
    let cause = CauseId::new(InstanceId(3), 9);
    let failure = PointFailure { point: Point(7), cause, code: ErrorCode::TimedOut, reserved: Zero };
    rig.open_again(past(QUEUE, 8, vec![failure]), 0);
    rig.open_again(past(OTHER, 4, vec![]), 1);
    let wait = |point| DriverWait {
        timeline: QUEUE,
        point: Point(point),
        page: PAGE_LOCAL,
        slot: 0,
        kind: WaitKind::Data,
        flags: 0,
        reserved: Zero,
    };
    rig.tell(run(OTHER, 5, vec![operand(0, 8)], vec![], vec![wait(8)]), &[]);
    rig.tell(run(OTHER, 6, vec![operand(0, 8)], vec![], vec![wait(7)]), &[]);
    let [good, bad] = [5, 6].map(|point| rig.outcome(OTHER, point));
    assert!(matches!(good, PointState::Ok { .. }), "{good:?}");
    assert!(matches!(bad, PointState::Failed { cause: found, .. } if found == cause.0), "{bad:?}");
    rig.ends();
}

// M-101
#[test]
fn a_past_that_cannot_be_and_a_point_of_the_past_are_the_brokers_mistake() {
    let third = TimelineKey { index: 2, generation: 7 };
    let failure = PointFailure { point: Point(5), cause: CauseId(1), code: ErrorCode::Io, reserved: Zero };
    let late = [past(third, 4, vec![failure])].map(DriverMessage::from).to_vec();
    let again = vec![past(third, 4, vec![]).into(), run(third, 4, vec![], vec![], vec![]).into()];
    let back = [2, 1].map(|point| run(QUEUE, point, vec![operand(0, 8)], vec![], vec![]).into()).to_vec();
    for messages in [late, again, back] {
        let rig = Rig::new(0);
        for message in messages {
            rig.tell(message, &[]);
        }
        let why = rig.leaves();
        assert!(matches!(why, Fault::Broke(_)), "{why}");
    }
}
