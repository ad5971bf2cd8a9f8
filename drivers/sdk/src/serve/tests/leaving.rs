//! Unmapped means gone: no mapping, no descriptor, and nobody who still uses them.

use super::*;
use crate::testing::{Traces, traces_of};

/// What a process has that only owns the object.
const OWNED: Traces = Traces { fds: 1, writable: 0, readable: 0 };

fn unmapped(message: &DriverMessage) -> Option<ObjectKey> {
    match message {
        DriverMessage::Unmapped(unmapped) => Some(unmapped.object),
        _ => None,
    }
}

fn mapped(message: &DriverMessage) -> Option<ObjectKey> {
    match message {
        DriverMessage::Mapped(mapped) => Some(mapped.object),
        DriverMessage::Unmapped(unmapped) => panic!("{} is in use", unmapped.object),
        _ => None,
    }
}

impl Rig {
    /// Has a job use the object until the gate opens, and the object unmapped meanwhile.
    fn unmap_under_a_job(&mut self) {
        self.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(15)], vec![]), &[]);
        wait_for(&self.gate.begun);
        self.tell(Unmap { object: DATA }, &[]);
    }
}

// M-103
#[test]
fn unmapping_leaves_no_mapping_and_no_open_file_behind() {
    let mut rig = Rig::new(0);
    assert_eq!(rig.hear(mapped), DATA);
    assert_eq!(traces_of(rig.memory.identity()), Traces { writable: 1, ..OWNED }, "its fd is kept");
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    rig.hear(|m| matches!(m, DriverMessage::Complete(_)).then_some(()));
    assert_eq!(rig.memory.probe(), Ok(Probe::Busy));
    rig.tell(Unmap { object: DATA }, &[]);
    assert_eq!(rig.hear(unmapped), DATA);
    assert_eq!((traces_of(rig.memory.identity()), rig.memory.probe()), (OWNED, Ok(Probe::Free)));
    rig.ends();
}

// M-103
#[test]
fn an_object_that_a_running_job_uses_is_unmapped_when_that_has_ended_and_been_told() {
    let mut rig = Rig::new(0);
    assert_eq!(rig.hear(mapped), DATA);
    rig.unmap_under_a_job();
    // What comes after Unmap on the link is answered while the job runs.
    let (another, key) = (memory(4096), ObjectKey { index: 8, generation: 8 });
    rig.map(key, &another, Access::Read);
    assert_eq!(rig.hear(mapped), key);
    assert_eq!(traces_of(rig.memory.identity()), Traces { writable: 1, ..OWNED });
    assert_eq!(rig.memory.probe(), Ok(Probe::Busy));

    rig.gate.open.store(true, Ordering::Release);

    assert_eq!(rig.hear(unmapped), DATA);
    assert_eq!((traces_of(rig.memory.identity()), rig.memory.probe()), (OWNED, Ok(Probe::Free)));
    assert_eq!(rig.completions.len(), 1, "the job was told first");
    assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
    assert_eq!(rig.read(0, 1), [15]);
    rig.ends();
}

// M-103
#[test]
fn a_job_behind_an_unmap_does_not_find_the_object_while_it_leaves() {
    let rig = &mut Rig::new(0);
    rig.unmap_under_a_job();
    rig.tell(run(OTHER, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    let state = rig.outcome(OTHER, 1);
    rig.gate.open.store(true, Ordering::Release);
    assert!(is(state, ErrorCode::MapFailed), "{state:?}");
    assert_eq!(rig.hear(unmapped), DATA);
}

// M-101
#[test]
fn a_broker_that_maps_an_object_before_it_is_unmapped_is_left() {
    let mut rig = Rig::new(0);
    rig.unmap_under_a_job();
    rig.map(DATA, &rig.memory, Access::Read);
    let driver = rig.driver.take().expect("it is joined once");
    let deadline = clock::now() + 10_000_000_000;
    while !driver.is_finished() {
        assert!(clock::now() < deadline, "it serves on");
        std::thread::yield_now();
    }
    rig.gate.open.store(true, Ordering::Release);
    let why = driver.join().expect("no panic").expect_err("it leaves by itself");
    assert!(matches!(why, Fault::Broke(_)), "{why}");
}

// M-103
#[test]
fn a_mapping_that_was_replaced_under_a_job_is_gone_before_its_object_is() {
    let mut rig = Rig::new(0);
    assert_eq!(rig.hear(mapped), DATA);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![by(15)], vec![]), &[]);
    wait_for(&rig.gate.begun);
    let second = memory(4096);
    rig.map(DATA, &second, Access::Write);
    assert_eq!(rig.hear(mapped), DATA);
    rig.tell(Unmap { object: DATA }, &[]);
    let (another, key) = (memory(4096), ObjectKey { index: 8, generation: 8 });
    rig.map(key, &another, Access::Read);
    assert_eq!(rig.hear(mapped), key);
    rig.gate.open.store(true, Ordering::Release);
    assert_eq!(rig.hear(unmapped), DATA);
    assert_eq!((traces_of(rig.memory.identity()), traces_of(second.identity())), (OWNED, OWNED));
    rig.ends();
}

#[test]
fn memory_that_could_not_be_mapped_is_let_go_before_that_is_told() {
    let mut rig = Rig::new(0);
    let key = ObjectKey { index: 4, generation: 4 };
    for _ in 0..100 {
        let refused = memory(4096);
        let fd = refused.export(Access::Read).expect("an fd");
        rig.tell(Map { object: key, len: 4096, access: Access::Write, reserved: Zero }, &[fd.as_fd()]);
        drop(fd);
        rig.hear(|m| matches!(m, DriverMessage::NotMapped(_)).then_some(()));
        assert_eq!(refused.probe(), Ok(Probe::Free));
        assert_eq!(traces_of(refused.identity()), OWNED);
    }
    rig.ends();
}
