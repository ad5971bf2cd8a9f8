//! What is bound, unbound and unmapped while entries run and while nobody does anything.

use vgem_os::memory::Identity;
use vgem_proto::message::driver::{Unbound, Unmapped};

use super::*;
use crate::objects::MappedObject;

fn unbound(timeline: TimelineKey, address: u64) -> DriverMessage {
    Unbound { timeline, address }.into()
}

#[test]
fn a_range_is_reached_by_the_next_entry_and_not_after_it_was_unbound() {
    let (mut rig, mut client) = Rig::new();
    let more = Bind { address: 0x10_0000, offset: 0x100, len: 0x100, ..bind(QUEUE) };
    for _ in 0..100 {
        assert_eq!(rig.bind(&more), Ok(()));
        assert_eq!(code(&client.run_one(copy(0x10_0000, BASE, 0x100))), None);
        assert_eq!(rig.rings.unbind(QUEUE, 0x10_0000), Unbinding::UnderWay);
        assert_eq!(rig.hear(), unbound(QUEUE, 0x10_0000));
    }
    assert_eq!(code(&client.run_one(copy(0x10_0000, BASE, 1))), Some(ErrorCode::AddressFault));
}

#[test]
fn unbinding_waits_for_the_entry_that_runs_and_for_no_other() {
    let (mut rig, mut client) = Rig::new();
    client.push(&[bare(op::GATE), good()]);
    rig.wait_at_gate();
    assert_eq!(rig.rings.unbind(QUEUE, BASE), Unbinding::UnderWay);
    assert_eq!(rig.heard(), [], "the entry may use it");
    rig.open_gate();
    assert_eq!(rig.hear(), unbound(QUEUE, BASE));
    assert_eq!([client.reap(), client.reap()].map(|done| code(&done)), [None, Some(ErrorCode::AddressFault)]);
}

#[test]
fn what_is_bound_while_an_entry_runs_is_found_by_the_one_behind_it() {
    let (mut rig, mut client) = Rig::new();
    client.push(&[bare(op::GATE), copy(0x9000, BASE, 8)]);
    rig.wait_at_gate();
    assert_eq!(rig.bind(&Bind { address: 0x9000, len: 8, ..bind(QUEUE) }), Ok(()));
    rig.open_gate();
    assert_eq!([client.reap(), client.reap()].map(|done| code(&done)), [None, None]);
}

#[test]
fn what_cannot_be_bound_is_said_by_its_code() {
    let (mut rig, _client) = Rig::new();
    let cases = [
        (Bind { address: BASE + 1, ..bind(QUEUE) }, ErrorCode::Busy),
        (Bind { address: 1, offset: 1, ..bind(QUEUE) }, ErrorCode::OutOfRange),
        (Bind { address: 0, ..bind(QUEUE) }, ErrorCode::OutOfRange),
        (Bind { address: u64::MAX, ..bind(QUEUE) }, ErrorCode::OutOfRange),
        (Bind { address: 1, len: 0, ..bind(QUEUE) }, ErrorCode::OutOfRange),
        (bind(OTHER), ErrorCode::Gone),
    ];
    for (bind, code) in cases {
        assert_eq!(rig.bind(&bind), Err(code), "{bind:?}");
    }
    assert_eq!(rig.rings.bind(&bind(QUEUE), None), Err(ErrorCode::MapFailed));
    assert_eq!(rig.rings.unbind(QUEUE, 0x77), Unbinding::Done);
    assert_eq!(rig.rings.unbind(OTHER, BASE), Unbinding::Done);
}

// M-103
#[test]
fn an_object_is_not_unmapped_while_a_range_of_it_is_bound_or_an_entry_uses_it() {
    let (mut rig, mut client) = Rig::new();
    let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
    let mapped = MappedObject { mapping, access: Access::Write, identity: Identity { dev: 1, inode: 1 } };
    let range = Bind { address: 0x4000, len: 4096, ..bind(QUEUE) };
    assert_eq!(rig.rings.bind(&range, Some(Arc::clone(&mapped.mapping))), Ok(()));
    let gone = rig.instance.schedule().objects.map(DATA, mapped);
    rig.instance.gone(gone);
    client.push(&[bare(op::GATE)]);
    rig.wait_at_gate();
    let gone = rig.instance.schedule().objects.unmap(DATA);
    rig.instance.gone(gone);
    assert_eq!(rig.rings.unbind(QUEUE, 0x4000), Unbinding::UnderWay);
    assert_eq!(rig.heard(), []);
    rig.open_gate();
    let told = [rig.hear(), rig.hear()];
    assert_eq!(told, [Unmapped { object: DATA }.into(), unbound(QUEUE, 0x4000)]);
}

// M-103
#[test]
fn what_was_bound_to_a_queue_is_let_go_of_before_it_is_closed() {
    let (mut rig, _client) = Rig::new();
    let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
    let mapped = MappedObject { mapping, access: Access::Write, identity: Identity { dev: 1, inode: 1 } };
    let range = Bind { address: 0x4000, len: 4096, ..bind(QUEUE) };
    assert_eq!(rig.rings.bind(&range, Some(Arc::clone(&mapped.mapping))), Ok(()));
    let gone = rig.instance.schedule().objects.map(DATA, mapped);
    rig.instance.gone(gone);
    let gone = rig.instance.schedule().objects.unmap(DATA);
    rig.instance.gone(gone);
    assert_eq!(rig.heard(), []);
    assert!(rig.rings.close(QUEUE));
    assert_eq!(rig.hear(), Unmapped { object: DATA }.into());
    assert!(matches!(rig.hear(), DriverMessage::TimelineClosed(_)));
    assert_eq!(Arc::strong_count(&rig.memory), 1);
}
