//! Sealed results: one device instance writes them, everybody may read them.

use vgem_core::io::{Arrival, Attach, Effect, Input, InstanceEnd, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, ObjectKey, QueueHandle, TimelineKey};
use vgem_proto::jobs::OPERAND_FOREIGN;
use vgem_proto::message::client::{ClientMessage, Commit, CreateObject, Export, OpenQueue};
use vgem_proto::message::driver::{DriverMessage, NotMapped};
use vgem_proto::rights::{Access, Rights};

use crate::batch::Batch;
use crate::world::{COPY, OTHER_DOMAIN, READ, WRITE, World, ZIP, commit, create};

pub(crate) struct Sealed {
    pub(crate) world: World,
    pub(crate) client: LinkId,
    pub(crate) object: Handle,
    key: ObjectKey,
    /// Of the writer, then of another device.
    pub(crate) queues: [(QueueHandle, TimelineKey); 2],
}

fn writer(device: DeviceId) -> CreateObject {
    CreateObject { writer: device, ..create(4096) }
}

/// A sealed result that is not committed, and its writer's queue.
fn raw() -> Sealed {
    let mut world = World::new();
    world.close_exports = false;
    let client = world.client();
    let queues =
        [COPY, ZIP].map(|device| world.open(client, device)).map(|opened| (opened.queue, opened.timeline));
    let Some(ClientMessage::ObjectCreated(created)) = world.ask(client, writer(COPY)) else { panic!() };
    let key = world.last_object();
    Sealed { world, client, object: created.objects[0], key, queues }
}

/// One that is committed: its writer has mapped it.
pub(crate) fn ready() -> Sealed {
    let mut s = raw();
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.flush(s.world.instance(COPY));
    let answer = s.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Committed(c)) if c.pinned == 4096), "{answer:?}");
    s
}

fn code(message: Option<ClientMessage>) -> ErrorCode {
    match message {
        Some(ClientMessage::Refused(refused)) => refused.code,
        other => panic!("not refused: {other:?}"),
    }
}

// M-044
#[test]
fn a_sealed_result_leaves_only_read_only() {
    let mut world = World::new();
    let client = world.client();
    let reply = world.ask_with(client, writer(COPY)).unwrap();
    let ClientMessage::ObjectCreated(created) = reply.message else { panic!() };
    assert_eq!(created.rights, Rights::READ | Rights::WRITE | Rights::EXPORT);
    assert_eq!(reply.attach, Attach::Exports { objects: vec![world.last_object()], access: Access::Read });
    let export = Export { object: created.objects[0], access: WRITE, reserved: Zero };
    assert_eq!(world.refused(client, export).code, ErrorCode::Denied);
    let export = Export { object: created.objects[0], access: READ, reserved: Zero };
    assert!(matches!(world.ask(client, export), Some(ClientMessage::Exported(_))));
}

#[test]
fn a_writer_that_is_no_device_is_refused() {
    let mut world = World::new();
    let client = world.client();
    let refused = world.refused(client, writer(DeviceId(99)));
    assert_eq!((refused.code, refused.value, world.memory.len()), (ErrorCode::NoSuchDevice, 99, 0));
}

// M-043
#[test]
fn a_sealed_result_is_ready_when_its_writer_maps_it_and_it_is_sealed() {
    let s = ready();
    let writers = s.world.memory[&s.key].sealed.clone().unwrap();
    assert_eq!(writers, [s.world.instance(COPY)]);
}

#[test]
fn a_commit_without_the_writers_instance_is_refused() {
    let mut world = World::new();
    let client = world.client();
    let Some(ClientMessage::ObjectCreated(created)) = world.ask(client, writer(COPY)) else { panic!() };
    world.queue(client, ZIP);
    world.hold = |effect| matches!(effect, Effect::CheckPopulated { .. });
    let refused = world.refused(client, commit(created.objects[0]));
    assert_eq!((refused.code, refused.part, world.held.len()), (ErrorCode::NotReady, 0, 0));
    assert!(String::from_utf8(refused.text).unwrap().contains("copy"));
}

#[test]
fn a_commit_while_the_writers_instance_is_still_starting_is_refused() {
    let mut world = World::new();
    let client = world.client();
    let Some(ClientMessage::ObjectCreated(created)) = world.ask(client, writer(COPY)) else { panic!() };
    world.hold = |effect| matches!(effect, Effect::StartInstance { .. });
    let open = OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    world.send(client, open, 0, world.now.after(1_000_000));
    assert_eq!(world.refused(client, commit(created.objects[0])).code, ErrorCode::NotReady);
}

// M-044
#[test]
fn only_jobs_of_its_writer_may_write_a_sealed_result() {
    let mut s = ready();
    s.world.submit(s.client, Batch::new().job(s.queues[0].0, 1).writes(s.object, 0..64));
    let refused = s.world.refused(s.client, Batch::new().job(s.queues[1].0, 1).writes(s.object, 0..64).0);
    assert_eq!(refused.code, ErrorCode::Denied);
    assert!(String::from_utf8(refused.text).unwrap().contains("copy"));
}

#[test]
fn any_device_may_read_a_sealed_result_in_place() {
    let mut s = ready();
    s.world.submit(s.client, Batch::new().job(s.queues[1].0, 1).reads(s.object, 0..64));
    let access = s.world.driver(ZIP).mapped[&s.key];
    let flags = s.world.last_job(ZIP).operands[0].flags;
    assert_eq!((access, flags & OPERAND_FOREIGN), (READ, 0));
}

#[test]
fn another_domain_reads_a_sealed_result_in_place_and_never_writes_it() {
    let mut s = ready();
    let guest = s.world.client_of(OTHER_DOMAIN);
    let porter = s.world.porter(guest);
    let imported = s.world.import(guest, porter, s.key, WRITE);
    assert_eq!(imported.rights, Rights::READ | Rights::EXPORT);
    let queue = s.world.queue(guest, ZIP);
    s.world.submit(guest, Batch::new().job(queue, 1).reads(imported.object, 0..64));
    let id = s.world.instance_of(ZIP, OTHER_DOMAIN);
    let flags = s.world.drivers[&id].history[0].operands[0].flags;
    assert_eq!(flags & OPERAND_FOREIGN, 0);
    let write = Batch::new().job(queue, 2).writes(imported.object, 0..64);
    assert_eq!(s.world.refused(guest, write.0).code, ErrorCode::Denied);
}

#[test]
fn a_sealed_result_outlives_its_writer_and_cannot_be_written_again() {
    let mut s = ready();
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    s.world.let_ms_pass(100);
    let fresh = s.world.queue(s.client, COPY);
    let write = Batch::new().job(fresh, 1).writes(s.object, 0..64);
    assert_eq!(s.world.refused(s.client, write.0).code, ErrorCode::Gone);
    s.world.submit(s.client, Batch::new().job(s.queues[1].0, 1).reads(s.object, 0..64));
}

#[test]
fn a_writer_that_cannot_map_it_refuses_the_commit_and_a_later_one_succeeds() {
    let mut s = raw();
    s.world.hold = |e| matches!(e, Effect::ToDriver { message: DriverMessage::Map(_), .. });
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    let (object, id) = (s.key, s.world.instance(COPY));
    s.world.say(id, NotMapped { object, errno: 12, reserved: Zero });
    assert_eq!(code(s.world.answer_to(request).map(|reply| reply.message)), ErrorCode::Unavailable);
    s.world.hold = |_| false;
    s.world.held.clear();
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.flush(id);
    let answer = s.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Committed(_))), "{answer:?}");
}

#[test]
fn a_writer_that_dies_while_it_maps_refuses_the_commit() {
    let mut s = raw();
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    assert_eq!(code(s.world.answer_to(request).map(|reply| reply.message)), ErrorCode::Unavailable);
}

#[test]
fn a_writer_that_dies_while_it_is_sealed_refuses_the_commit_for_good() {
    let mut s = raw();
    s.world.hold = |effect| matches!(effect, Effect::Seal { .. });
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.flush(s.world.instance(COPY));
    let seal = s.world.held.pop().unwrap();
    let sealed = s.world.carry_out(seal).unwrap();
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    s.world.apply(sealed);
    assert_eq!(code(s.world.answer_to(request).map(|reply| reply.message)), ErrorCode::Unavailable);
    s.world.let_ms_pass(100);
    s.world.queue(s.client, COPY);
    assert_eq!(s.world.refused(s.client, commit(s.object)).code, ErrorCode::Gone);
}

#[test]
fn sealing_that_fails_refuses_the_commit_and_a_later_one_seals_again() {
    let mut s = raw();
    s.world.hold = |effect| matches!(effect, Effect::Seal { .. });
    let request = s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.flush(s.world.instance(COPY));
    s.world.apply(Input::Sealed { object: s.key, outcome: Err(16) });
    let Some(ClientMessage::Refused(refused)) = s.world.answer_to(request).map(|r| r.message) else {
        panic!()
    };
    assert_eq!((refused.code, refused.value), (ErrorCode::System, 16));
    s.world.hold = |_| false;
    s.world.held.clear();
    assert!(matches!(s.world.ask(s.client, commit(s.object)), Some(ClientMessage::Committed(_))));
}

#[test]
fn one_that_cannot_be_sealed_takes_the_whole_commit_with_it() {
    let mut s = raw();
    let plain = s.world.raw_object(s.client, 4096);
    let queue = s.queues[1].0;
    s.world.send(s.client, Commit { objects: vec![plain, s.object] }, 0, s.world.now);
    s.world.die(s.world.instance(COPY), InstanceEnd::Exited(-9));
    let refused = s.world.refused(s.client, Batch::new().job(queue, 1).reads(plain, 0..64).0);
    assert_eq!(refused.code, ErrorCode::NotReady);
    assert!(matches!(s.world.ask(s.client, commit(plain)), Some(ClientMessage::Committed(_))));
}

#[test]
fn a_client_that_dies_while_its_result_is_sealed_leaves_nothing() {
    let mut s = raw();
    s.world.hold = |effect| matches!(effect, Effect::Seal { .. });
    s.world.send(s.client, commit(s.object), 0, s.world.now);
    s.world.flush(s.world.instance(COPY));
    s.world.hang_up(s.client);
    s.world.hold = |_| false;
    let seal = s.world.held.pop().unwrap();
    let sealed = s.world.carry_out(seal).unwrap();
    s.world.memory.get_mut(&s.key).unwrap().exports = 0;
    s.world.apply(sealed);
    s.world.flush(s.world.instance(COPY));
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn a_sealed_result_that_comes_back_from_retirement_is_only_read() {
    let mut s = ready();
    s.world.close(s.client, s.object);
    s.world.flush(s.world.instance(COPY));
    let porter = s.world.porter(s.client);
    let answer = s.world.try_import(s.client, porter, Arrival::Object(s.key), READ);
    let Some(ClientMessage::Imported(imported)) = answer else { panic!("{answer:?}") };
    s.world.submit(s.client, Batch::new().job(s.queues[0].0, 1).reads(imported.object, 0..64));
    assert_eq!((imported.state, s.world.driver(COPY).mapped[&s.key]), (2, READ));
}

#[test]
fn tools_see_who_writes_a_sealed_result() {
    use vgem_core::snapshot::Entries;
    let s = ready();
    let page = s.world.broker.snapshot(vgem_core::io::Scope::All, vgem_proto::snapshot::Topic::Objects, 0, 9);
    let Entries::Objects(objects) = page.entries else { panic!() };
    assert_eq!((objects[0].kind.as_str(), objects[0].writer.as_str()), ("sealed", "copy"));
}
