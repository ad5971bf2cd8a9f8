//! Two domains and one object: waits across them, what their engines may rely on, and what a client observes.

use vgem_core::io::{Attach, Effect, Input, InstanceEnd, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Handle, ObjectKey, QueueHandle, TimelineKey};
use vgem_proto::jobs::{OPERAND_FOREIGN, PAGE_LOCAL};
use vgem_proto::message::client::{ClientMessage, CloseQueue, Observe, Observed};
use vgem_proto::rights::{Access, WaitKind};

use crate::batch::Batch;
use crate::driver::Received;
use crate::world::{COPY, DOMAIN, OTHER_DOMAIN, READ, WRITE, World, ZIP, config};

struct Side {
    link: LinkId,
    object: Handle,
    queue: QueueHandle,
    line: TimelineKey,
}

/// One object, with a client and a queue of each domain.
struct Pair {
    world: World,
    key: ObjectKey,
    ours: Side,
    theirs: Side,
}

fn pair_with(access: Access, spare_pairs: usize) -> Pair {
    let mut config = config();
    config.bounds.spare_pairs = spare_pairs;
    let mut world = World::with(config);
    world.close_exports = false;
    let ours = world.client();
    let object = world.object(ours, 4096);
    let key = world.last_object();
    let theirs = world.client_of(OTHER_DOMAIN);
    let porter = world.porter(theirs);
    let imported = world.import(theirs, porter, key, access).object;
    let mut side = |link, object| {
        let opened = world.open(link, COPY);
        Side { link, object, queue: opened.queue, line: opened.timeline }
    };
    let (ours, theirs) = (side(ours, object), side(theirs, imported));
    Pair { world, key, ours, theirs }
}

fn pair() -> Pair {
    pair_with(WRITE, 8)
}

impl Pair {
    /// The last job that the instance of a domain got.
    fn last(&self, domain: vgem_proto::ids::DomainId) -> Received {
        let id = self.world.instance_of(COPY, domain);
        self.world.drivers[&id].history.last().expect("a job").clone()
    }

    fn observe(&mut self, access: Access) -> Observed {
        match self.world.ask(self.theirs.link, asks(self.theirs.object, access)) {
            Some(ClientMessage::Observed(observed)) => observed,
            other => panic!("not observed: {other:?}"),
        }
    }

    fn we_write(&mut self, point: u64) {
        let batch = Batch::new().job(self.ours.queue, point).writes(self.ours.object, 0..64);
        self.world.submit(self.ours.link, batch);
    }
}

fn asks(object: Handle, access: Access) -> Observe {
    Observe { object, access, reserved: Zero }
}

fn answered(observed: &Observed) -> Vec<(TimelineKey, u64, WaitKind)> {
    observed.points.iter().map(|point| (point.timeline, point.point.0, point.kind)).collect()
}

#[test]
fn r2_a_job_waits_for_the_writer_of_another_domain_in_a_page_that_is_made_for_it() {
    let mut p = pair();
    p.we_write(1);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64));
    let got = p.last(OTHER_DOMAIN);
    assert_eq!(got.waits(), [(p.ours.line, 1, WaitKind::Data)]);
    assert_ne!(got.waits[0].page, PAGE_LOCAL);
    assert!(!p.world.try_run(p.theirs.line, None));
    p.world.run(p.ours.line, None);
    assert!(p.world.try_run(p.theirs.line, None));
}

#[test]
fn f10_a_failure_travels_into_another_domain() {
    let mut p = pair();
    p.we_write(1);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64));
    p.world.run(p.ours.line, Some(ErrorCode::CorruptInput));
    p.world.run(p.theirs.line, None);
    let failure = p.world.truth.look(p.theirs.line, vgem_proto::ids::Point(1)).unwrap().unwrap_err();
    assert_eq!(failure.code, ErrorCode::CorruptInput);
}

#[test]
fn l4_the_death_of_an_instance_ends_the_waits_of_another_domain() {
    let mut p = pair();
    p.we_write(1);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64));
    p.world.die(p.world.instance(COPY), InstanceEnd::Exited(-9));
    p.world.run(p.theirs.line, None);
    let failure = p.world.truth.look(p.theirs.line, vgem_proto::ids::Point(1)).unwrap().unwrap_err();
    assert_eq!(failure.code, ErrorCode::DeviceLost);
}

#[test]
fn the_domain_that_dies_leaves_no_page_at_the_other() {
    let mut p = pair();
    p.we_write(1);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64));
    p.world.die(p.world.instance_of(COPY, OTHER_DOMAIN), InstanceEnd::Exited(-9));
    p.world.run(p.ours.line, None);
    assert_eq!(p.world.driver(COPY).signal_pages.len(), 1);
}

#[test]
fn a_wait_across_domains_without_a_spare_page_is_refused_once_and_then_accepted() {
    let mut p = pair_with(WRITE, 0);
    p.we_write(1);
    p.world.hold = |effect| matches!(effect, Effect::MakePair { .. });
    let reads = |p: &Pair, point| Batch::new().job(p.theirs.queue, point).reads(p.theirs.object, 0..64);
    let refused = p.world.refused(p.theirs.link, reads(&p, 1).0);
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 1, 0));
    p.world.hold = |_| false;
    for effect in std::mem::take(&mut p.world.held) {
        let made = p.world.carry_out(effect).unwrap();
        p.world.apply(made);
    }
    p.world.submit(p.theirs.link, reads(&p, 2));
    assert_eq!(p.last(OTHER_DOMAIN).waits(), [(p.ours.line, 1, WaitKind::Data)]);
    assert_eq!(p.world.pairs.len(), 3);
}

#[test]
fn a_refused_wait_across_domains_leaves_no_trace_in_the_reservation() {
    let mut p = pair_with(WRITE, 0);
    p.we_write(1);
    p.world.hold = |effect| matches!(effect, Effect::MakePair { .. });
    let writes = Batch::new().job(p.theirs.queue, 1).writes(p.theirs.object, 0..64);
    p.world.refused(p.theirs.link, writes.0);
    p.world.submit(p.ours.link, Batch::new().job(p.ours.queue, 2).reads(p.ours.object, 0..64));
    assert_eq!(p.last(DOMAIN).waits(), [(p.ours.line, 1, WaitKind::Data)]);
}

#[test]
fn the_pages_that_a_client_lacked_are_given_back_when_it_goes() {
    let mut p = pair_with(WRITE, 0);
    p.we_write(1);
    let reads = Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64);
    p.world.refused(p.theirs.link, reads.0);
    assert_eq!(p.world.pairs.len(), 3);
    p.world.hang_up(p.theirs.link);
    p.world.run_all();
    assert_eq!(p.world.pairs.len(), 1);
}

#[test]
fn many_waits_across_domains_take_as_many_pages_as_they_need() {
    let mut p = pair();
    for _ in 0..20 {
        let opened = p.world.open(p.ours.link, COPY);
        let batch = Batch::new().job(opened.queue, 1).reads(p.ours.object, 0..64);
        p.world.submit(p.ours.link, batch);
    }
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).writes(p.theirs.object, 0..64));
    let got = p.last(OTHER_DOMAIN);
    let pages: std::collections::BTreeSet<u16> = got.waits.iter().map(|wait| wait.page).collect();
    assert_eq!((got.waits.len(), pages.len()), (20, 2));
}

fn foreign_flag(p: &Pair, domain: vgem_proto::ids::DomainId) -> bool {
    p.last(domain).operands[0].flags & OPERAND_FOREIGN != 0
}

#[test]
fn t36b_an_operand_of_another_domain_is_foreign() {
    let mut p = pair_with(READ, 8);
    // Nobody has a handle that could write it; a mapping of an export can be anywhere.
    p.world.close(p.ours.link, p.ours.object);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(p.theirs.object, 0..64));
    assert!(foreign_flag(&p, OTHER_DOMAIN));
}

#[test]
fn t36b_an_own_operand_is_foreign_only_while_another_domain_may_write_it() {
    let mut p = pair_with(READ, 8);
    let reads = |p: &mut Pair, point| {
        let batch = Batch::new().job(p.ours.queue, point).reads(p.ours.object, 0..64);
        p.world.submit(p.ours.link, batch);
        foreign_flag(p, DOMAIN)
    };
    let only_read = reads(&mut p, 1);
    let porter = *p.world.porters.keys().next().unwrap();
    p.world.import(p.theirs.link, porter, p.key, WRITE);
    let written = reads(&mut p, 2);
    p.world.hang_up(p.theirs.link);
    assert_eq!((only_read, written, reads(&mut p, 3)), (false, true, false));
}

#[test]
fn t36b_memory_of_a_clients_own_is_foreign_to_everybody() {
    let mut p = pair();
    let porter = *p.world.porters.keys().next().unwrap();
    let memory = p.world.foreign(4096);
    let answer = p.world.try_import(p.theirs.link, porter, memory, WRITE);
    let Some(ClientMessage::Imported(imported)) = answer else { panic!("{answer:?}") };
    p.world.ask(p.theirs.link, crate::world::commit(imported.object));
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).reads(imported.object, 0..64));
    assert!(foreign_flag(&p, OTHER_DOMAIN));
}

// M-049
#[test]
fn c1_a_read_of_an_imported_object_has_to_wait_for_its_writer() {
    let mut p = pair();
    p.we_write(1);
    let observed = p.observe(READ);
    assert_eq!(answered(&observed), [(p.ours.line, 1, WaitKind::Data)]);
    assert_eq!(observed.pages.len(), 1);
}

// M-049
#[test]
fn c1_a_write_has_to_wait_for_readers_too_and_a_read_has_not() {
    let mut p = pair();
    p.world.submit(p.ours.link, Batch::new().job(p.ours.queue, 1).reads(p.ours.object, 0..64));
    assert_eq!(answered(&p.observe(READ)), []);
    assert_eq!(answered(&p.observe(WRITE)), [(p.ours.line, 1, WaitKind::Order)]);
}

// M-049
#[test]
fn c1_what_has_ended_badly_is_not_waited_for_but_told_as_poison_to_other_domains_too() {
    let mut p = pair();
    p.we_write(1);
    p.world.run(p.ours.line, Some(ErrorCode::CorruptInput));
    let observed = p.observe(READ);
    let [poison] = observed.poison.as_slice() else { panic!("{observed:?}") };
    assert_eq!((poison.offset, poison.len, poison.code), (0, 64, ErrorCode::CorruptInput));
    assert_eq!((observed.points.len(), poison.cause == CauseId::NONE), (0, false));
    p.world.submit(p.ours.link, Batch::new().job(p.ours.queue, 2).writes(p.ours.object, 0..64).discarding());
    p.world.run(p.ours.line, None);
    assert_eq!(p.observe(READ), Observed { pages: Vec::new(), points: Vec::new(), poison: Vec::new() });
}

// M-050
#[test]
fn a_page_comes_with_the_first_answer_that_names_it_only() {
    let mut p = pair();
    p.we_write(1);
    let first = p.observe(READ);
    p.we_write(2);
    let second = p.observe(READ);
    assert_eq!((first.pages.len(), second.pages.len()), (1, 0));
    assert_eq!(answered(&second).last(), Some(&(p.ours.line, 2, WaitKind::Data)));
}

#[test]
fn own_points_are_observed_in_the_page_that_the_queue_is_in() {
    let mut p = pair();
    p.we_write(1);
    let answer = p.world.ask_with(p.ours.link, asks(p.ours.object, WRITE)).unwrap();
    let ClientMessage::Observed(observed) = answer.message else { panic!() };
    assert_eq!((answered(&observed).len(), answer.attach), (1, Attach::None));
}

#[test]
fn observing_needs_the_right_of_the_access() {
    let mut p = pair_with(READ, 8);
    let refused = p.world.refused(p.theirs.link, asks(p.theirs.object, WRITE));
    let stranger = p.world.refused(p.theirs.link, asks(Handle(999), READ));
    assert_eq!((refused.code, stranger.code), (ErrorCode::Denied, ErrorCode::NoSuchHandle));
}

#[test]
fn observing_without_a_spare_page_is_refused_once_and_then_answered() {
    let mut p = pair_with(READ, 0);
    p.we_write(1);
    let refused = p.world.refused(p.theirs.link, asks(p.theirs.object, READ));
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 1, 0));
    assert_eq!(p.observe(READ).pages.len(), 1);
}

#[test]
fn a_client_that_goes_leaves_no_page_of_those_it_observed() {
    let mut p = pair();
    p.we_write(1);
    p.observe(READ);
    assert_eq!(p.world.driver(COPY).signal_pages.len(), 2);
    p.world.hang_up(p.theirs.link);
    assert_eq!(p.world.driver(COPY).signal_pages.len(), 1);
}

#[test]
fn a_queue_that_closes_gives_the_slots_back_in_which_others_observed_it() {
    let mut p = pair();
    p.we_write(1);
    p.observe(READ);
    p.world.run_all();
    assert!(matches!(
        p.world.ask(p.ours.link, CloseQueue { queue: p.ours.queue }),
        Some(ClientMessage::Done(_))
    ));
    p.world.flush(p.world.instance(COPY));
    let opened = p.world.open(p.ours.link, COPY);
    (p.ours.queue, p.ours.line) = (opened.queue, opened.timeline);
    p.we_write(1);
    let observed = p.observe(READ);
    assert_eq!((observed.pages.len(), answered(&observed)), (0, vec![(p.ours.line, 1, WaitKind::Data)]));
}

#[test]
fn an_observers_fds_are_charged_until_it_has_them() {
    let mut p = pair();
    p.we_write(1);
    p.world.reads_at_once = false;
    p.observe(READ);
    assert_eq!(p.world.usage(OTHER_DOMAIN).exports, 2);
    p.world.apply(Input::Received { link: p.theirs.link });
    assert_eq!(p.world.usage(OTHER_DOMAIN).exports, 0);
}

#[test]
fn two_domains_that_worked_together_leave_the_broker_as_it_was() {
    let mut p = pair();
    p.we_write(1);
    p.observe(WRITE);
    p.world.submit(p.theirs.link, Batch::new().job(p.theirs.queue, 1).writes(p.theirs.object, 0..64));
    p.world.submit(p.ours.link, Batch::new().job(p.ours.queue, 2).reads(p.ours.object, 0..64));
    p.world.queue(p.theirs.link, ZIP);
    p.world.run_all();
    p.world.hang_up(p.ours.link);
    p.world.hang_up(p.theirs.link);
    p.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    p.world.bury();
    p.world.run_all();
    p.world.let_ms_pass(200_000);
    assert_eq!(p.world.broker.ledger(), World::new().broker.ledger());
    assert_eq!(p.world.pairs.len(), 8);
}
