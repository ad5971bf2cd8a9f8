//! Imports: what comes from strangers, and what it becomes. L5, L2, T10, T13, T27.

use vgem_core::config::NamedDomain;
use vgem_core::io::{Arrival, ArrivalId, Attach, Effect, Event, Input, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Handle, ObjectKey, PorterId};
use vgem_proto::message::client::{
    ClientMessage, CloseObject, Export, Import, Imported, OpenPorter, PorterOpened,
};
use vgem_proto::rights::{Access, Rights};

use crate::batch::Batch;
use crate::world::{COPY, DOMAIN, MS, OTHER_DOMAIN, READ, WRITE, World, commit, config};

// What porters do on the stage.
impl World {
    /// A client's porter, running.
    pub(crate) fn porter(&mut self, link: LinkId) -> PorterId {
        let reply = self.ask_with(link, OpenPorter {}).expect("an answer");
        let Attach::Channel(porter) = reply.attach else { panic!("{reply:?}") };
        assert_eq!(reply.message, ClientMessage::PorterOpened(PorterOpened {}));
        porter
    }

    /// Memory of a client's own, as its porter brings it.
    pub(crate) fn foreign(&mut self, len: u64) -> Arrival {
        self.next_arrival += 1;
        let arrival = ArrivalId(self.next_arrival);
        self.arrivals.insert(arrival);
        Arrival::Memory { arrival, len }
    }

    /// A process's memory, as its porter brings it.
    pub(crate) fn process(&mut self) -> Arrival {
        self.next_arrival += 1;
        let arrival = ArrivalId(self.next_arrival);
        self.arrivals.insert(arrival);
        Arrival::Process { arrival }
    }

    /// The number of the next request.
    pub(crate) fn next_request(&self) -> u64 {
        self.next_request + 1
    }

    /// The object that what a porter brought is, or became.
    pub(crate) fn object_of(&self, arrival: &Arrival) -> Option<ObjectKey> {
        match arrival {
            Arrival::Object(key) => Some(*key),
            Arrival::Memory { arrival, .. } => self.taken.get(arrival).copied(),
            Arrival::Page | Arrival::Process { .. } | Arrival::Door { .. } => None,
        }
    }

    /// Sends an Import; gives its number.
    pub(crate) fn ask_import(&mut self, link: LinkId) -> u64 {
        self.send(link, Import { name: b"imported".to_vec() }, 0, self.now)
    }

    pub(crate) fn bring(&mut self, porter: PorterId, request: u64, arrival: Arrival, access: Access) {
        self.apply(Input::Brought { porter, request, arrival, access });
    }

    /// Imports what the client's porter brings; gives the answer, if one came.
    pub(crate) fn try_import(
        &mut self,
        link: LinkId,
        porter: PorterId,
        arrival: Arrival,
        access: Access,
    ) -> Option<ClientMessage> {
        let request = self.ask_import(link);
        self.bring(porter, request, arrival, access);
        self.answer_to(request).map(|reply| reply.message)
    }

    /// Imports an object that exists.
    pub(crate) fn import(
        &mut self,
        link: LinkId,
        porter: PorterId,
        object: ObjectKey,
        access: Access,
    ) -> Imported {
        match self.try_import(link, porter, Arrival::Object(object), access) {
            Some(ClientMessage::Imported(imported)) => imported,
            other => panic!("not imported: {other:?}"),
        }
    }

    /// A porter's process ends.
    pub(crate) fn end_porter(&mut self, porter: PorterId) {
        assert!(self.porters.remove(&porter).is_some(), "ends twice");
        self.apply(Input::PorterGone { porter });
    }
}

/// An owner in one domain with an object, and a client of another with a porter.
struct Meeting {
    world: World,
    owner: LinkId,
    object: Handle,
    key: ObjectKey,
    guest: LinkId,
    porter: PorterId,
}

fn meeting() -> Meeting {
    let mut world = World::new();
    world.close_exports = false;
    let owner = world.client();
    let object = world.object(owner, 8192);
    let key = world.last_object();
    let guest = world.client_of(OTHER_DOMAIN);
    let porter = world.porter(guest);
    Meeting { world, owner, object, key, guest, porter }
}

impl Meeting {
    fn import(&mut self, access: Access) -> Imported {
        self.world.import(self.guest, self.porter, self.key, access)
    }

    fn orphan(&mut self) {
        self.world.close(self.owner, self.object);
    }
}

fn code(message: Option<ClientMessage>) -> ErrorCode {
    match message {
        Some(ClientMessage::Refused(refused)) => refused.code,
        other => panic!("not refused: {other:?}"),
    }
}

// M-048
#[test]
fn l5_an_export_that_is_imported_is_the_same_object() {
    let mut m = meeting();
    let imported = m.import(WRITE);
    let rights = Rights::READ | Rights::WRITE | Rights::EXPORT;
    assert_eq!((imported.len, imported.rights, imported.state), (8192, rights, 2));
    assert_eq!(m.world.broker.ledger().objects, 1);
}

// M-048
#[test]
fn l5_importing_twice_gives_the_same_handle_and_it_takes_as_many_closes() {
    let mut m = meeting();
    let handles = [m.import(READ).object, m.import(READ).object];
    assert_eq!(handles[0], handles[1]);
    m.world.close(m.guest, handles[0]);
    assert_eq!(m.world.usage(OTHER_DOMAIN).handles, 1);
    m.world.close(m.guest, handles[0]);
    assert_eq!(m.world.usage(OTHER_DOMAIN).handles, 0);
    assert_eq!(m.world.refused(m.guest, CloseObject { object: handles[0] }).code, ErrorCode::NoSuchHandle);
}

#[test]
fn l5_the_creator_that_imports_its_own_export_gets_its_own_handle() {
    let mut m = meeting();
    let porter = m.world.porter(m.owner);
    let imported = m.world.import(m.owner, porter, m.key, READ);
    assert_eq!((imported.object, m.world.usage(DOMAIN).handles), (m.object, 1));
    assert!(imported.rights.contains(Rights::WRITE), "it keeps what it had");
}

#[test]
fn an_import_gives_no_more_rights_than_the_fds_that_were_shown() {
    let mut m = meeting();
    let read = m.import(READ);
    assert_eq!(read.rights, Rights::READ | Rights::EXPORT);
    let queue = m.world.queue(m.guest, COPY);
    let write = Batch::new().job(queue, 1).writes(read.object, 0..64);
    assert_eq!(m.world.refused(m.guest, write.0).code, ErrorCode::Denied);
    let export = Export { object: read.object, access: WRITE, reserved: Zero };
    assert_eq!(m.world.refused(m.guest, export).code, ErrorCode::Denied);
    assert!(m.import(WRITE).rights.contains(Rights::WRITE));
    m.world.submit(m.guest, Batch::new().job(queue, 2).writes(read.object, 0..64));
}

#[test]
fn t27_another_domain_owes_the_full_length_once_while_it_has_a_handle() {
    let mut m = meeting();
    let first = m.import(READ).object;
    let second = m.world.client_of(OTHER_DOMAIN);
    let porter = m.world.porter(second);
    let again = m.world.import(second, porter, m.key, READ).object;
    assert_eq!((m.world.usage(DOMAIN).bytes, m.world.usage(OTHER_DOMAIN).bytes), (8192, 8192));
    m.world.close(m.guest, first);
    assert_eq!(m.world.usage(OTHER_DOMAIN).bytes, 8192);
    m.world.close(second, again);
    assert_eq!((m.world.usage(DOMAIN).bytes, m.world.usage(OTHER_DOMAIN).bytes), (8192, 0));
}

#[test]
fn t27_the_creators_domain_owes_as_long_as_anybody_has_the_object() {
    let mut m = meeting();
    m.import(READ);
    m.world.hang_up(m.owner);
    assert_eq!((m.world.usage(DOMAIN).bytes, m.world.usage(DOMAIN).objects), (8192, 1));
}

#[test]
fn t27_an_import_beyond_the_importers_quota_is_refused_and_costs_nothing() {
    let mut config = config();
    let mut poor = NamedDomain { name: "poor".into(), ..NamedDomain::default() };
    poor.rules.quotas.bytes = 4096;
    config.policy.domains = vec![poor];
    let mut world = World::with(config);
    let (owner, guest) = (world.client(), world.client_of(DomainId(0xF000_0000)));
    world.object(owner, 8192);
    let (key, porter) = (world.last_object(), world.porter(guest));
    let before = world.broker.ledger();
    assert_eq!(code(world.try_import(guest, porter, Arrival::Object(key), READ)), ErrorCode::Exhausted);
    assert_eq!(world.broker.ledger(), before);
}

#[test]
fn l2_an_uncommitted_object_can_be_imported_and_goes_with_its_creator() {
    let mut world = World::new();
    world.close_exports = false;
    let owner = world.client();
    world.raw_object(owner, 4096);
    let (key, guest) = (world.last_object(), world.client_of(OTHER_DOMAIN));
    let porter = world.porter(guest);
    let imported = world.import(guest, porter, key, WRITE);
    assert_eq!(imported.state, 1);
    world.hang_up(owner);
    let refused = world.refused(guest, CloseObject { object: imported.object });
    assert_eq!((refused.code, world.usage(OTHER_DOMAIN).bytes), (ErrorCode::NoSuchHandle, 0));
}

#[test]
fn l2_an_uncommitted_orphan_cannot_be_imported() {
    let mut world = World::new();
    world.close_exports = false;
    let owner = world.client();
    world.raw_object(owner, 4096);
    let (key, guest) = (world.last_object(), world.client_of(OTHER_DOMAIN));
    let porter = world.porter(guest);
    world.hang_up(owner);
    assert_eq!(code(world.try_import(guest, porter, Arrival::Object(key), READ)), ErrorCode::Gone);
}

#[test]
fn l2_a_creator_that_dies_in_the_midst_of_its_commit_leaves_the_object_to_its_importer() {
    let mut m = meeting();
    m.world.raw_object(m.owner, 4096);
    let raw = m.world.last_object();
    let imported = m.world.import(m.guest, m.porter, raw, READ);
    m.world.hold = |effect| matches!(effect, Effect::Keep { .. });
    let handle = Handle(m.object.0 + 1);
    m.world.send(m.owner, commit(handle), 0, m.world.now);
    m.world.hang_up(m.owner);
    m.world.hold = |_| false;
    let keep = m.world.held.pop().unwrap();
    let kept = m.world.carry_out(keep).unwrap();
    m.world.apply(kept);
    let queue = m.world.queue(m.guest, COPY);
    m.world.submit(m.guest, Batch::new().job(queue, 1).reads(imported.object, 0..64));
}

#[test]
fn an_orphan_that_is_imported_is_kept_pinned_and_ready_again() {
    let mut m = meeting();
    m.orphan();
    assert!(!m.world.memory[&m.key].kept);
    let imported = m.import(READ);
    assert_eq!((imported.state, m.world.memory[&m.key].kept), (2, true));
    let queue = m.world.queue(m.guest, COPY);
    m.world.submit(m.guest, Batch::new().job(queue, 1).reads(imported.object, 0..64));
    assert_eq!((m.world.usage(DOMAIN).bytes, m.world.usage(OTHER_DOMAIN).bytes), (8192, 8192));
}

#[test]
fn a_domain_owes_for_an_orphan_that_one_of_its_clients_gets_and_another_did_not_live_to_get() {
    let mut m = meeting();
    let (other, first) = (m.world.client_of(OTHER_DOMAIN), m.guest);
    let porter = m.world.porter(other);
    m.orphan();
    m.world.hold = |effect| matches!(effect, Effect::Keep { .. });
    for (link, porter) in [(first, m.porter), (other, porter)] {
        let request = m.world.ask_import(link);
        m.world.bring(porter, request, Arrival::Object(m.key), READ);
    }
    m.world.hang_up(first);
    m.world.hold = |_| false;
    let keep = m.world.held.pop().unwrap();
    let kept = m.world.carry_out(keep).unwrap();
    m.world.apply(kept);
    assert_eq!(m.world.usage(OTHER_DOMAIN).bytes, 8192);
}

#[test]
fn an_orphan_that_came_back_retires_as_any_other() {
    let mut m = meeting();
    m.orphan();
    let imported = m.import(READ);
    m.world.memory.get_mut(&m.key).unwrap().exports = 0;
    m.world.close(m.guest, imported.object);
    assert_eq!((m.world.memory.len(), m.world.broker.next_deadline()), (0, None));
}

/// Imports while one step of the retirement is under way, then lets it end; gives the answer.
fn import_during(held: fn(&Effect) -> bool, exports: u32) -> (Meeting, Option<ClientMessage>) {
    let mut m = meeting();
    let queue = m.world.queue(m.owner, COPY);
    m.world.submit(m.owner, Batch::new().job(queue, 1).reads(m.object, 0..64));
    m.world.run_all();
    m.world.hold = held;
    m.orphan();
    m.world.flush(m.world.instance(COPY));
    assert_eq!(m.world.held.len(), 1, "the step is under way");
    let request = m.world.ask_import(m.guest);
    m.world.bring(m.porter, request, Arrival::Object(m.key), READ);
    assert!(m.world.answer_to(request).is_none());
    m.world.memory.get_mut(&m.key).expect("an object that was made").exports = exports;
    m.world.hold = |_| false;
    let effect = m.world.held.pop().expect("one effect");
    if let Some(input) = m.world.carry_out(effect) {
        m.world.apply(input);
    }
    m.world.flush(m.world.instance(COPY));
    let answer = m.world.answer_to(request).map(|reply| reply.message);
    (m, answer)
}

const STEPS: [fn(&Effect) -> bool; 4] = [
    |e| matches!(e, Effect::ToDriver { message: vgem_proto::message::driver::DriverMessage::Unmap(_), .. }),
    |e| matches!(e, Effect::Drop { .. }),
    |e| matches!(e, Effect::Probe { .. }),
    |e| matches!(e, Effect::Free { .. }),
];

#[test]
fn an_import_at_any_step_of_the_retirement_brings_the_object_back() {
    for (place, step) in STEPS.into_iter().enumerate().take(3) {
        let (_, answer) = import_during(step, 1);
        assert!(
            matches!(&answer, Some(ClientMessage::Imported(i)) if i.state == 2),
            "step {place}: {answer:?}"
        );
    }
}

#[test]
fn an_import_whose_last_fd_closes_meanwhile_is_refused_and_owes_nothing() {
    for step in STEPS.into_iter().take(3) {
        let (m, answer) = import_during(step, 0);
        assert_eq!(code(answer), ErrorCode::Gone);
        assert_eq!((m.world.usage(OTHER_DOMAIN).bytes, m.world.usage(OTHER_DOMAIN).handles), (0, 0));
    }
}

#[test]
fn an_import_while_the_memory_is_being_freed_is_not_lost() {
    let mut m = meeting();
    m.world.memory.get_mut(&m.key).unwrap().exports = 0;
    m.world.hold = |effect| matches!(effect, Effect::Free { .. });
    m.orphan();
    m.world.memory.get_mut(&m.key).unwrap().exports = 1;
    let request = m.world.ask_import(m.guest);
    m.world.bring(m.porter, request, Arrival::Object(m.key), READ);
    m.world.hold = |_| false;
    m.world.held.clear();
    m.world.apply(Input::Freed { object: m.key, gone: false });
    let answer = m.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Imported(_))), "{answer:?}");
}

#[test]
fn an_importer_that_dies_while_it_waits_leaves_the_object_to_its_retirement() {
    let mut m = meeting();
    m.world.hold = |effect| matches!(effect, Effect::Probe { .. });
    m.orphan();
    let request = m.world.ask_import(m.guest);
    m.world.bring(m.porter, request, Arrival::Object(m.key), READ);
    m.world.hang_up(m.guest);
    m.world.held.clear();
    m.world.hold = |effect| matches!(effect, Effect::Keep { .. });
    m.world.apply(Input::Probed { object: m.key, free: false });
    assert_eq!((m.world.usage(OTHER_DOMAIN).bytes, m.world.held.len()), (0, 0));
}

#[test]
fn foreign_memory_becomes_an_object_that_its_importer_commits() {
    let mut m = meeting();
    let memory = m.world.foreign(4096);
    let answer = m.world.try_import(m.guest, m.porter, memory, WRITE);
    let Some(ClientMessage::Imported(imported)) = answer else { panic!("{answer:?}") };
    assert_eq!((imported.len, imported.state), (4096, 1));
    let committed = m.world.ask(m.guest, commit(imported.object));
    assert!(matches!(&committed, Some(ClientMessage::Committed(c)) if c.pinned == 4096));
    let usage = m.world.usage(OTHER_DOMAIN);
    assert_eq!((usage.bytes, usage.objects, usage.handles), (4096, 1, 1));
}

#[test]
fn foreign_memory_that_was_shown_read_only_is_read_only() {
    let mut m = meeting();
    let memory = m.world.foreign(4096);
    let answer = m.world.try_import(m.guest, m.porter, memory, READ);
    let Some(ClientMessage::Imported(imported)) = answer else { panic!("{answer:?}") };
    assert_eq!(imported.rights, Rights::READ | Rights::EXPORT);
    assert!(matches!(m.world.ask(m.guest, commit(imported.object)), Some(ClientMessage::Committed(_))));
}

#[test]
fn foreign_memory_retires_and_gives_everything_back() {
    let mut m = meeting();
    let before = m.world.broker.ledger();
    let memory = m.world.foreign(4096);
    let answer = m.world.try_import(m.guest, m.porter, memory, WRITE);
    let Some(ClientMessage::Imported(imported)) = answer else { panic!("{answer:?}") };
    m.world.close(m.guest, imported.object);
    assert_eq!((m.world.memory.len(), m.world.broker.ledger()), (1, before));
}

#[test]
fn t13_foreign_memory_of_a_wrong_length_or_beyond_the_quota_is_dropped() {
    let mut m = meeting();
    let cases = [
        (0, ErrorCode::OutOfRange),
        (5000, ErrorCode::Misaligned),
        (1 << 60, ErrorCode::OutOfRange),
        (1 << 40, ErrorCode::Exhausted),
    ];
    for (len, expected) in cases {
        let memory = m.world.foreign(len);
        assert_eq!(code(m.world.try_import(m.guest, m.porter, memory, WRITE)), expected, "{len} bytes");
    }
    assert!(m.world.arrivals.is_empty());
}

#[test]
fn foreign_memory_that_the_kernel_will_not_take_is_refused() {
    let mut m = meeting();
    let before = m.world.broker.ledger();
    m.world.hold = |effect| matches!(effect, Effect::TakeArrival { .. });
    let memory = m.world.foreign(4096);
    let request = m.world.ask_import(m.guest);
    m.world.bring(m.porter, request, memory, WRITE);
    let Some(Effect::TakeArrival { object, .. }) = m.world.held.pop() else { panic!() };
    m.world.apply(Input::ObjectMade { object, outcome: Err(17) });
    assert_eq!(code(m.world.answer_to(request).map(|reply| reply.message)), ErrorCode::System);
    assert_eq!(m.world.broker.ledger(), before);
}

#[test]
fn a_page_of_fences_is_no_object() {
    let mut m = meeting();
    assert_eq!(code(m.world.try_import(m.guest, m.porter, Arrival::Page, READ)), ErrorCode::Denied);
}

#[test]
fn an_fd_of_an_object_that_is_gone_names_nothing() {
    let mut m = meeting();
    let gone = ObjectKey { index: m.key.index, generation: 77 };
    assert_eq!(code(m.world.try_import(m.guest, m.porter, Arrival::Object(gone), READ)), ErrorCode::Gone);
}

#[test]
fn what_a_porter_calls_unfit_is_refused_in_its_words() {
    let mut m = meeting();
    let request = m.world.ask_import(m.guest);
    let refusal = Refusal::new(ErrorCode::Denied, "not a memfd").with(3, 4);
    m.world.apply(Input::Unfit { porter: m.porter, request, refusal });
    let Some(ClientMessage::Refused(refused)) = m.world.answer_to(request).map(|r| r.message) else {
        panic!()
    };
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Denied, 3, 4));
}

#[test]
fn what_comes_before_its_import_waits_for_it() {
    let mut m = meeting();
    let memory = m.world.foreign(4096);
    let request = m.world.ask_import(m.guest) + 1;
    m.world.bring(m.porter, request, memory, WRITE);
    assert_eq!(m.world.ask_import(m.guest), request);
    let answer = m.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Imported(_))), "{answer:?}");
}

#[test]
fn what_came_before_its_porter_went_is_still_imported() {
    let mut m = meeting();
    let request = m.world.ask_import(m.guest) + 1;
    m.world.bring(m.porter, request, Arrival::Object(m.key), READ);
    m.world.end_porter(m.porter);
    m.world.ask_import(m.guest);
    let answer = m.world.answer_to(request).map(|reply| reply.message);
    assert!(matches!(&answer, Some(ClientMessage::Imported(_))), "{answer:?}");
}

#[test]
fn what_nobody_asks_for_is_dropped_in_time_and_in_number() {
    let mut m = meeting();
    for request in 1000..1020 {
        let memory = m.world.foreign(4096);
        m.world.bring(m.porter, request, memory, READ);
    }
    assert_eq!((m.world.arrivals.len(), m.world.broker.ledger().arrivals), (16, 16));
    let again = m.world.foreign(4096);
    m.world.bring(m.porter, 1000, again, READ);
    m.world.let_ms_pass(1000);
    assert_eq!((m.world.arrivals.len(), m.world.broker.ledger().arrivals), (0, 0));
    assert!(!m.world.porters[&m.porter].killed);
}

#[test]
fn an_import_without_a_porter_is_refused() {
    let mut world = World::new();
    let client = world.client();
    let request = world.ask_import(client);
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::NotReady);
}

#[test]
fn imports_that_wait_are_bounded() {
    let mut m = meeting();
    let requests: Vec<u64> = (0..17).map(|_| m.world.ask_import(m.guest)).collect();
    let Some(ClientMessage::Refused(refused)) = m.world.answer_to(requests[16]).map(|r| r.message) else {
        panic!()
    };
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 17, 16));
}

#[test]
fn t10_an_import_that_stalls_ends_its_porter_and_every_import_that_waits_for_it() {
    let mut m = meeting();
    let requests = [m.world.ask_import(m.guest), m.world.ask_import(m.guest)];
    m.world.wait_ms(999);
    assert!(!m.world.porters[&m.porter].killed);
    m.world.wait_ms(1);
    let codes = requests.map(|request| code(m.world.answer_to(request).map(|reply| reply.message)));
    assert_eq!((codes, m.world.porters[&m.porter].killed), ([ErrorCode::Late; 2], true));
    assert!(m.world.events.iter().any(|event| matches!(event, Event::PorterStalled { pid: 7, .. })));
}

#[test]
fn t10_a_porter_that_hangs_beyond_its_death_stays_charged_and_is_in_nobodys_way() {
    let mut m = meeting();
    m.world.porters.get_mut(&m.porter).unwrap().hangs = true;
    m.world.ask_import(m.guest);
    m.world.let_ms_pass(1000);
    let fresh = m.world.porter(m.guest);
    assert_eq!(m.world.usage(OTHER_DOMAIN).porters, 2);
    let imported = m.world.import(m.guest, fresh, m.key, READ);
    assert_eq!(imported.state, 2);
    m.world.end_porter(m.porter);
    assert_eq!(m.world.usage(OTHER_DOMAIN).porters, 1);
}

#[test]
fn t10_what_a_porter_says_after_it_was_told_to_end_is_dropped() {
    let mut m = meeting();
    let request = m.world.ask_import(m.guest);
    m.world.let_ms_pass(500);
    m.world.porters.get_mut(&m.porter).unwrap().hangs = true;
    m.world.let_ms_pass(500);
    let fresh = m.world.porter(m.guest);
    let late = m.world.foreign(4096);
    m.world.bring(m.porter, request, late, WRITE);
    assert_eq!((m.world.arrivals.len(), m.world.broker.ledger().arrivals), (0, 0));
    assert!(!m.world.porters[&fresh].killed);
}

#[test]
fn t10_hanging_porters_are_bounded_per_domain() {
    let mut config = config();
    config.policy.defaults.quotas.porters = 1;
    let mut world = World::with(config);
    let client = world.client();
    let porter = world.porter(client);
    world.porters.get_mut(&porter).unwrap().hangs = true;
    world.ask_import(client);
    world.let_ms_pass(1000);
    let refused = world.refused(client, OpenPorter {});
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, 2, 1));
}

#[test]
fn a_client_has_one_porter_at_a_time() {
    let mut m = meeting();
    assert_eq!(m.world.refused(m.guest, OpenPorter {}).code, ErrorCode::Busy);
    m.world.end_porter(m.porter);
    m.world.porter(m.guest);
}

#[test]
fn the_end_of_a_porter_refuses_what_waits_for_it() {
    let mut m = meeting();
    let request = m.world.ask_import(m.guest);
    m.world.end_porter(m.porter);
    assert_eq!(code(m.world.answer_to(request).map(|reply| reply.message)), ErrorCode::Unavailable);
    assert_eq!(m.world.broker.next_deadline(), None);
}

#[test]
fn a_porter_that_cannot_be_started_is_refused_and_not_charged() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartPorter { .. });
    let request = world.send(client, OpenPorter {}, 0, world.now);
    let Some(Effect::StartPorter { porter }) = world.held.pop() else { panic!() };
    world.apply(Input::PorterFailed { porter, why: "no such program".into() });
    assert_eq!(code(world.answer_to(request).map(|reply| reply.message)), ErrorCode::Unavailable);
    assert_eq!((world.usage(DOMAIN).porters, world.usage(DOMAIN).exports), (0, 0));
}

#[test]
fn a_client_that_dies_takes_its_porter_and_all_that_came_with_it() {
    let mut m = meeting();
    let memory = m.world.foreign(4096);
    m.world.bring(m.porter, 5000, memory, WRITE);
    m.world.ask_import(m.guest);
    m.world.hang_up(m.guest);
    m.world.bury();
    let usage = m.world.usage(OTHER_DOMAIN);
    assert_eq!((m.world.arrivals.len(), m.world.porters.len(), usage), (0, 0, Default::default()));
    assert_eq!(m.world.broker.next_deadline(), None);
}

#[test]
fn a_porter_whose_client_died_while_it_started_is_ended_when_it_has() {
    let mut world = World::new();
    let client = world.client();
    world.hold = |effect| matches!(effect, Effect::StartPorter { .. });
    world.send(client, OpenPorter {}, 0, world.now);
    world.hang_up(client);
    world.hold = |_| false;
    let start = world.held.pop().unwrap();
    let started = world.carry_out(start).unwrap();
    world.apply(started);
    world.bury();
    assert_eq!((world.porters.len(), world.usage(DOMAIN).porters), (0, 0));
}

#[test]
fn t22_a_tampered_object_is_destroyed_and_nobody_gets_it_any_more() {
    let mut m = meeting();
    m.world.apply(Input::Tampered { object: m.key, what: "uid 5".into() });
    m.world.apply(Input::Tampered { object: m.key, what: "uid 6".into() });
    let import = code(m.world.try_import(m.guest, m.porter, Arrival::Object(m.key), READ));
    let export = Export { object: m.object, access: READ, reserved: Zero };
    let export = m.world.refused(m.owner, export).code;
    assert_eq!(
        (import, export, m.world.memory[&m.key].punched),
        (ErrorCode::Denied, ErrorCode::Denied, true)
    );
    let told = m.world.events.iter().filter(|event| matches!(event, Event::ObjectTampered { .. }));
    assert_eq!(told.count(), 1);
}

#[test]
fn t22_a_tampered_object_retires_as_any_other() {
    let mut m = meeting();
    m.world.apply(Input::Tampered { object: m.key, what: "mode 0666".into() });
    m.world.memory.get_mut(&m.key).unwrap().exports = 0;
    m.orphan();
    assert_eq!((m.world.memory.len(), m.world.usage(DOMAIN).bytes), (0, 0));
}

#[test]
fn t22_an_import_that_waits_for_an_object_that_is_tampered_with_is_refused() {
    let mut m = meeting();
    m.world.hold = |effect| matches!(effect, Effect::Probe { .. });
    m.orphan();
    let request = m.world.ask_import(m.guest);
    m.world.bring(m.porter, request, Arrival::Object(m.key), READ);
    m.world.hold = |_| false;
    m.world.apply(Input::Tampered { object: m.key, what: "uid 5".into() });
    m.world.apply(Input::Probed { object: m.key, free: false });
    assert_eq!(code(m.world.answer_to(request).map(|reply| reply.message)), ErrorCode::Denied);
    assert_eq!(m.world.usage(OTHER_DOMAIN).bytes, 0);
}

#[test]
fn imports_show_who_shares_an_object_and_whose_memory_it_is() {
    use vgem_core::snapshot::Entries;
    let mut m = meeting();
    m.import(READ);
    let memory = m.world.foreign(4096);
    m.world.try_import(m.guest, m.porter, memory, WRITE);
    let page = m.world.broker.snapshot(vgem_core::io::Scope::All, vgem_proto::snapshot::Topic::Objects, 0, 9);
    let Entries::Objects(objects) = page.entries else { panic!() };
    let seen: Vec<_> =
        objects.iter().map(|o| (o.kind.as_str(), o.domain, o.shared_with.clone(), o.inode > 0)).collect();
    let expected =
        [("own", DOMAIN.0, vec![OTHER_DOMAIN.0], true), ("foreign", OTHER_DOMAIN.0, Vec::new(), true)];
    assert_eq!(seen, expected);
}

#[test]
fn a_day_of_imports_leaves_the_broker_as_it_was() {
    let mut m = meeting();
    m.import(WRITE);
    let memory = m.world.foreign(4096);
    m.world.try_import(m.guest, m.porter, memory, WRITE);
    m.orphan();
    m.world.hang_up(m.guest);
    m.world.hang_up(m.owner);
    m.world.memory.values_mut().for_each(|memory| memory.exports = 0);
    m.world.let_ms_pass(120_000);
    m.world.bury();
    assert_eq!(m.world.broker.ledger(), World::new().broker.ledger());
    assert_eq!(m.world.now.0 % MS, 0);
}
