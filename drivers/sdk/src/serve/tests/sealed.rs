//! Sealed results: mapped for writing once, then sealed; from then on nobody can map them for writing again.

use super::*;
use crate::testing::{Traces, traces_of};

const RESULT: ObjectKey = ObjectKey { index: 20, generation: 1 };

fn mapped(message: &DriverMessage) -> Option<()> {
    matches!(message, DriverMessage::Mapped(m) if m.object == RESULT).then_some(())
}

/// An instance that has mapped a sealable result for writing, before it was sealed.
fn rig_with_result() -> (Rig, ObjectMemory) {
    let mut rig = Rig::new(0);
    let result = ObjectMemory::create_sealable(4096, HugePages::None, "result").expect("a page");
    rig.map(RESULT, &result, Access::Write);
    rig.hear(mapped);
    result.seal_against_writing().expect("nobody sealed it before");
    (rig, result)
}

fn add_to_result(rig: &Rig, point: u64) -> PointState {
    let data = DriverOperand { object: RESULT, ..operand(0, 8) };
    rig.tell(run(QUEUE, point, vec![data], vec![by(3)], vec![]), &[]);
    rig.outcome(QUEUE, point)
}

#[test]
fn a_result_that_was_sealed_after_it_was_mapped_is_written_in_place() {
    let (rig, result) = rig_with_result();
    let ended = add_to_result(&rig, 1);
    assert!(matches!(ended, PointState::Ok { .. }), "{ended:?}");
    assert_eq!(read(&result, 0, 9), [3, 3, 3, 3, 3, 3, 3, 3, 0]);
    rig.ends();
}

// M-102
#[test]
fn a_later_map_for_reading_does_not_take_the_writing_away() {
    let (mut rig, result) = rig_with_result();
    rig.map(RESULT, &result, Access::Read);
    rig.hear(mapped);
    let ended = add_to_result(&rig, 1);
    assert!(matches!(ended, PointState::Ok { .. }), "{ended:?}");
    assert_eq!(read(&result, 0, 1), [3]);
    assert_eq!(traces_of(result.identity()), Traces { fds: 1, writable: 1, readable: 0 });
    rig.ends();
}

#[test]
fn an_instance_that_maps_a_result_after_the_seal_can_only_read_it() {
    let (mut rig, result) = rig_with_result();
    assert!(result.export(Access::Write).is_err(), "the broker itself has no such fd any more");
    rig.tell(Unmap { object: RESULT }, &[]);
    rig.hear(|m| matches!(m, DriverMessage::Unmapped(_)).then_some(()));
    rig.map(RESULT, &result, Access::Read);
    rig.hear(mapped);
    let ended = add_to_result(&rig, 1);
    assert!(is(ended, ErrorCode::MapFailed), "{ended:?}");
    rig.ends();
}

// M-103
#[test]
fn unmapping_a_sealed_result_gives_everything_up() {
    let (mut rig, result) = rig_with_result();
    rig.map(RESULT, &result, Access::Read);
    rig.hear(mapped);
    assert!(matches!(add_to_result(&rig, 1), PointState::Ok { .. }));
    rig.tell(Unmap { object: RESULT }, &[]);
    rig.hear(|m| matches!(m, DriverMessage::Unmapped(_)).then_some(()));
    assert_eq!(traces_of(result.identity()), Traces { fds: 1, writable: 0, readable: 0 });
    assert_eq!(result.probe(), Ok(Probe::Free));
    rig.ends();
}
