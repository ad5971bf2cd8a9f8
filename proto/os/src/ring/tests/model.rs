//! Random operations of both sides against a model of three queues and a list.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{Owed, PushError};
use super::*;

/// One step of either side.
#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Turn(usize),
    Complete(Index),
    Reap,
    ClientSleeps,
    DriverSleeps,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..12).prop_map(Step::Push),
        3 => (0_usize..12).prop_map(Step::Turn),
        6 => any::<Index>().prop_map(Step::Complete),
        6 => Just(Step::Reap),
        1 => Just(Step::ClientSleeps),
        1 => Just(Step::DriverSleeps),
    ]
}

/// What both sides ought to find.
#[derive(Debug, Default)]
struct Model {
    submitted: VecDeque<u64>,
    completed: VecDeque<u64>,
    last: u64,
    reaped: u64,
}

fn run(depth: u32, steps: &[Step]) {
    let mut rig = Rig::new(depth);
    let mut model = Model::default();
    let mut owed: Vec<Owed> = Vec::new();
    for step in steps {
        match step {
            Step::Push(count) => push(&mut rig, &mut model, *count, depth),
            Step::Turn(most) => {
                for popped in rig.consumer.turn(*most) {
                    let Popped { owed: one, entry: taken } = popped.expect("an honest client");
                    let point = model.submitted.pop_front().expect("it was submitted");
                    assert_eq!((one.point().0, taken), (point, Ok(entry(point * 3))));
                    owed.push(one);
                }
            }
            Step::Complete(which) if !owed.is_empty() => {
                let one = owed.swap_remove(which.index(owed.len()));
                model.completed.push_back(one.point().0);
                let done = Done { produced: one.point().0 * 5, ..Done::OK };
                rig.completer.complete(one, done, ENDED);
            }
            Step::Complete(_) => {}
            Step::Reap => {
                let found = rig.reaper.reap().expect("an honest driver");
                let found = found.map(|completion| {
                    let point = completion.point.0;
                    assert_eq!((completion.user, completion.produced), (point * 3, point * 5));
                    model.reaped += 1;
                    point
                });
                assert_eq!(found, model.completed.pop_front());
            }
            Step::ClientSleeps => {
                assert_eq!(rig.reaper.fall_asleep().is_some(), model.completed.is_empty());
            }
            Step::DriverSleeps => {
                assert_eq!(rig.consumer.fall_asleep().is_some(), model.submitted.is_empty());
            }
        }
        assert_eq!(rig.consumer.is_ready(), !model.submitted.is_empty());
        assert_eq!(rig.reaper.reaped(), model.reaped);
    }
}

fn push(rig: &mut Rig, model: &mut Model, count: usize, depth: u32) {
    let entries: Vec<_> = (model.last + 1..).map(|point| entry(point * 3)).take(count).collect();
    let room = usize::try_from(u64::from(depth) - (model.last - model.reaped)).expect("small");
    match rig.producer.push_many(&entries) {
        Ok(pushed) => {
            assert_eq!(pushed.count, count.min(room));
            assert!(room > 0 || count == 0);
            let first = model.last + 1;
            model.last += pushed.count as u64;
            assert_eq!(pushed.point.0, model.last);
            model.submitted.extend(first..=model.last);
        }
        Err(error) => assert_eq!((error, room), (PushError::Full, 0)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_ring_is_three_queues_and_a_list(
        depth in prop_oneof![Just(8_u32), Just(16)],
        steps in vec(step(), 0..if cfg!(miri) { 40 } else { 400 }),
    ) {
        run(depth, &steps);
    }
}
