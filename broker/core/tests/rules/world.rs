//! The stage: a shell, a kernel and a keeper made of plain data around the broker.
//!
//! Every effect is carried out as the real shell would. What the kernel and the keeper answer comes back at once,
//! unless a test holds it back ([`World::hold`]); drivers only do what they are told to. After every input the
//! broker's invariants are checked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vgem_core::config::{Bounds, Policy, Times};
use vgem_core::io::{ArrivalId, Attach, Effect, Event, Input, LinkId, PairId, PeerFacts, Way};
use vgem_core::{Broker, Config, Usage};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{
    CauseId, DeviceId, DomainId, Handle, InstanceId, ObjectKey, PageId, PorterId, QueueHandle, Time,
    TimelineKey,
};
use vgem_proto::message::Head;
use vgem_proto::message::client::{
    ClientMessage, CloseObject, CloseQueue, Commit, CreateObject, Explain, Explained, Hello, OpenQueue,
    QueueOpened, Refused,
};
use vgem_proto::message::driver::{DriverMessage, Ready};
use vgem_proto::rights::{Access, HugePages};

use crate::batch::Batch;
use crate::driver::{Driver, Received, Truth};
use crate::signals::Signals;

pub(crate) const READ: Access = Access::Read;
pub(crate) const WRITE: Access = Access::Write;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const DOMAIN: DomainId = DomainId(1000);
pub(crate) const OTHER_DOMAIN: DomainId = DomainId(2000);
pub(crate) const COPY: DeviceId = DeviceId(1);
pub(crate) const ZIP: DeviceId = DeviceId(2);
pub(crate) const SEC: DeviceId = DeviceId(3);
/// The operation of every device that is like operation 0, but not idempotent.
pub(crate) const ONCE: u16 = 8;

/// An object's memory as the kernel has it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Open files and mappings of exports that clients hold.
    pub(crate) exports: u32,
    pub(crate) populated: bool,
    pub(crate) kept: bool,
    pub(crate) watched: bool,
    pub(crate) sealable: bool,
    /// Sealed, with the mappings for writing that there were then.
    pub(crate) sealed: Option<Vec<InstanceId>>,
    pub(crate) punched: bool,
}

/// A porter's process.
#[derive(Debug, Default)]
pub(crate) struct PorterProcess {
    pub(crate) killed: bool,
    /// Whose door it has, if it is a doorman.
    pub(crate) serves: Option<DomainId>,
    /// In the kernel, for ever: it does not even die.
    pub(crate) hangs: bool,
}

/// A reply to a client.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) request: u64,
    pub(crate) message: ClientMessage,
    pub(crate) attach: Attach,
}

/// The stage.
pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) now: Time,
    pub(crate) truth: Truth,
    pub(crate) drivers: BTreeMap<InstanceId, Driver>,
    /// Those that were left, and whose processes have not ended.
    pub(crate) held_up: BTreeMap<InstanceId, Driver>,
    /// Drivers that were told to end because a job was late.
    pub(crate) late: BTreeSet<InstanceId>,
    pub(crate) memory: BTreeMap<ObjectKey, Memory>,
    pub(crate) replies: VecDeque<Reply>,
    /// Connections that live.
    pub(crate) links: BTreeSet<LinkId>,
    pub(crate) disconnected: BTreeSet<LinkId>,
    pub(crate) pairs: BTreeSet<PairId>,
    /// Domains with a listening socket.
    pub(crate) doors: BTreeSet<DomainId>,
    /// Timelines whose signaller has not shown in all places what it has signalled.
    pub(crate) hidden: BTreeSet<TimelineKey>,
    /// How often the shell was to show for a client what that did not.
    pub(crate) raised: u32,
    /// Rings, and what their memory says of their end.
    pub(crate) rings: BTreeMap<TimelineKey, Option<Failure>>,
    /// Queues that were closed, of which nobody may get a ring.
    pub(crate) ringless: BTreeSet<TimelineKey>,
    pub(crate) events: Vec<Event>,
    /// Whose the events are.
    pub(crate) domains_told: Vec<Option<DomainId>>,
    pub(crate) settles: Vec<Effect>,
    pub(crate) inspected: Vec<Effect>,
    pub(crate) porters: BTreeMap<PorterId, PorterProcess>,
    /// Pages of fences that clients have, by their own numbers.
    pub(crate) client_pages: BTreeMap<(LinkId, PageId), PairId>,
    /// Memory that porters brought and the shell holds.
    pub(crate) arrivals: BTreeSet<ArrivalId>,
    /// The objects that such memory became.
    pub(crate) taken: BTreeMap<ArrivalId, ObjectKey>,
    /// Effects that only need to be counted: CollectInFlight, Monitor, Trace, Traced, CheckReceived.
    pub(crate) said: Vec<Effect>,
    /// Whether clients have read what they were sent, when somebody looks.
    pub(crate) clients_read: bool,
    /// Whether they read it at once.
    pub(crate) reads_at_once: bool,
    /// Effects whose answers a test gives itself.
    pub(crate) held: Vec<Effect>,
    /// Which effects are held.
    pub(crate) hold: fn(&Effect) -> bool,
    /// Whether exports of new objects are closed at once.
    pub(crate) close_exports: bool,
    /// What clients signal in.
    pub(crate) signals: Signals,
    next_link: u64,
    pub(crate) next_request: u64,
    pub(crate) next_arrival: u64,
}

fn device(name: &str) -> Description {
    let mut any = Operation::new(0, "any", "uses whatever it is given");
    for (direction, prefix) in [(Direction::In, "in"), (Direction::Out, "out"), (Direction::InOut, "inout")] {
        for n in 0..4 {
            any = any.operand(&format!("{prefix}{n}"), direction, Touch::InPlace).optional();
        }
    }
    let mut strict = Operation::new(7, "strict", "knows what it wants")
        .operand("input", Direction::In, Touch::InPlace)
        .len_between(64, 4096)
        .operand("output", Direction::Out, Touch::Windows)
        .number("level", "effort", 1, 9, None)
        .choice("format", "container", &["gzip", "zstd"], Some(0))
        .bytes("path", "where", 32, false)
        .with_result("nothing");
    strict.operands[0].align = 64;
    strict.run_ms = 2000;
    let mut any = any.with_result("nothing");
    any.run_ms = 1000;
    let once = Operation { number: ONCE, name: "once".into(), ..any.clone() }.not_idempotent();
    Description::new(name, "for tests", 2).operation(any).operation(strict).operation(once)
}

pub(crate) fn config() -> Config {
    Config {
        devices: vec![(COPY, device("copy")), (ZIP, device("zip")), (SEC, device("sec"))],
        policy: Policy::default(),
        times: Times::default(),
        bounds: Bounds::default(),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let mut world = Self {
            broker: Broker::new(config),
            now: Time(1_000_000_000),
            truth: Truth::default(),
            drivers: BTreeMap::new(),
            held_up: BTreeMap::new(),
            late: BTreeSet::new(),
            memory: BTreeMap::new(),
            replies: VecDeque::new(),
            links: BTreeSet::new(),
            disconnected: BTreeSet::new(),
            pairs: BTreeSet::new(),
            doors: BTreeSet::new(),
            hidden: BTreeSet::new(),
            raised: 0,
            rings: BTreeMap::new(),
            ringless: BTreeSet::new(),
            events: Vec::new(),
            domains_told: Vec::new(),
            settles: Vec::new(),
            inspected: Vec::new(),
            porters: BTreeMap::new(),
            client_pages: BTreeMap::new(),
            arrivals: BTreeSet::new(),
            taken: BTreeMap::new(),
            said: Vec::new(),
            clients_read: true,
            reads_at_once: true,
            held: Vec::new(),
            hold: |_| false,
            close_exports: true,
            signals: Signals::default(),
            next_link: 0,
            next_request: 0,
            next_arrival: 0,
        };
        world.apply(Input::Tick);
        world
    }

    /// Lets an input happen, and everything that follows from it at once.
    pub(crate) fn apply(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let effects = self.broker.apply(self.now, input);
            if let Err(broken) = self.broker.check_invariants() {
                panic!("{broken}");
            }
            for effect in effects {
                if (self.hold)(&effect) {
                    self.held.push(effect);
                } else {
                    inputs.extend(self.carry_out(effect));
                }
            }
        }
    }

    /// What the shell does with an effect, and what comes back.
    pub(crate) fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Reply { link, request, message, attach } => {
                let exported = match &attach {
                    Attach::Export { object, .. } => vec![*object],
                    Attach::Exports { objects, .. } => objects.clone(),
                    Attach::None
                    | Attach::Observers(_)
                    | Attach::Channel(_)
                    | Attach::Signaller(_)
                    | Attach::Signallers(_)
                    | Attach::Ring(_)
                    | Attach::Process(_)
                    | Attach::Observer(_) => Vec::new(),
                };
                for object in exported {
                    let memory = self.memory.get_mut(&object).expect("an object that was made");
                    memory.exports += u32::from(!self.close_exports);
                }
                assert!(self.links.contains(&link), "a reply to nobody: {message:?}");
                if let Attach::Ring(timeline) = attach {
                    assert!(!self.ringless.contains(&timeline), "a ring of a queue that was closed");
                }
                self.take_pages(link, &message, &attach);
                let has_fds = attach != Attach::None;
                self.replies.push_back(Reply { request, message, attach });
                (has_fds && self.reads_at_once).then_some(Input::Received { link })
            }
            Effect::Inspect { .. } => {
                self.inspected.push(effect);
                None
            }
            Effect::Disconnect { link, why: _ } => {
                self.disconnected.insert(link).then_some(Input::Hangup { link })
            }
            Effect::MakeObject { object, sealable, .. } => {
                let memory = Memory { populated: true, sealable, ..Memory::default() };
                assert!(self.memory.insert(object, memory).is_none());
                Some(Input::ObjectMade { object, outcome: Ok(inode_of(object)) })
            }
            Effect::TakeArrival { arrival, object } => {
                assert!(self.arrivals.remove(&arrival), "takes what is not there");
                self.taken.insert(arrival, object);
                let memory = Memory { populated: true, ..Memory::default() };
                assert!(self.memory.insert(object, memory).is_none());
                Some(Input::ObjectMade { object, outcome: Ok(inode_of(object)) })
            }
            Effect::DropArrival { arrival } => {
                assert!(self.arrivals.remove(&arrival), "drops what is not there");
                None
            }
            Effect::Seal { object } => {
                let writes = |driver: &&Driver| driver.mapped.get(&object) == Some(&Access::Write);
                let writers: Vec<InstanceId> =
                    self.drivers.values().filter(writes).map(|driver| driver.id).collect();
                let memory = self.memory.get_mut(&object).expect("an object that was made");
                assert!(memory.sealable, "seals what was not made for it");
                memory.sealed = Some(writers);
                Some(Input::Sealed { object, outcome: Ok(()) })
            }
            Effect::Punch { object } => {
                self.memory.get_mut(&object).expect("an object that was made").punched = true;
                None
            }
            Effect::StartPorter { porter } | Effect::StartDoorman { porter } => {
                assert!(self.porters.insert(porter, PorterProcess::default()).is_none());
                Some(Input::PorterStarted { porter, pid: 7 })
            }
            Effect::KillPorter { porter, why: _ } => {
                let process = self.porters.get_mut(&porter).expect("a porter that lives");
                assert!(!std::mem::replace(&mut process.killed, true), "kills {porter} twice");
                None
            }
            Effect::CheckReceived { link } => {
                self.said.push(effect);
                Some(if self.clients_read {
                    Input::Received { link }
                } else {
                    Input::Unreceived { link, fds: u64::MAX, since: Time(0) }
                })
            }
            Effect::CollectInFlight
            | Effect::Monitor { .. }
            | Effect::Trace { .. }
            | Effect::Traced { .. } => {
                self.said.push(effect);
                None
            }
            Effect::CheckPopulated { object } => {
                Some(Input::PopulatedChecked { object, populated: self.memory[&object].populated })
            }
            Effect::Keep { object, len } => {
                let memory = self.memory.get_mut(&object).expect("an object that was made");
                assert!(!std::mem::replace(&mut memory.kept, true), "keeps what is kept");
                Some(Input::Kept { object, pinned: len })
            }
            Effect::Drop { object } => {
                let memory = self.memory.get_mut(&object).expect("an object that was made");
                assert!(std::mem::take(&mut memory.kept), "drops what is not kept");
                Some(Input::Dropped { object })
            }
            Effect::Watch { object } => {
                let memory = self.memory.get_mut(&object).expect("an object that was made");
                assert!(!std::mem::replace(&mut memory.watched, true), "watches what is watched");
                None
            }
            Effect::Probe { object } => Some(Input::Probed { object, free: self.is_free(object) }),
            Effect::Free { object } => {
                let gone = self.is_free(object);
                if gone {
                    self.memory.remove(&object);
                }
                Some(Input::Freed { object, gone })
            }
            Effect::Raise { .. } => {
                self.raised += 1;
                None
            }
            Effect::CheckSight { timeline, point, sights } => {
                let hidden =
                    sights.iter().map(|sight| sight.0).filter(|of| self.hidden.contains(of)).collect();
                Some(Input::SightChecked { timeline, point, hidden })
            }
            Effect::MakePair { pair } => {
                assert!(self.pairs.insert(pair));
                Some(Input::PairMade { pair, outcome: Ok(()) })
            }
            Effect::MakeRing { timeline, depth: _ } => {
                assert!(self.rings.insert(timeline, None).is_none(), "a second ring");
                Some(Input::RingMade { timeline, outcome: Ok(()) })
            }
            Effect::CheckRing { timeline } => {
                // It may be dropped before somebody looks.
                Some(Input::RingChecked { timeline, populated: self.rings.contains_key(&timeline) })
            }
            Effect::DropRing { timeline } => {
                assert!(self.rings.remove(&timeline).is_some(), "drops a ring twice");
                None
            }
            Effect::KillRing { timeline, failure } => {
                let verdict = self.rings.get_mut(&timeline).expect("a ring that was made");
                assert!(verdict.replace(failure).is_none(), "ends a ring twice");
                None
            }
            Effect::DropPair { pair } => {
                assert!(self.pairs.remove(&pair), "drops a pair twice");
                None
            }
            Effect::Settle { .. } | Effect::Level { .. } | Effect::KillPage { .. } => {
                self.settle(&effect);
                self.settles.push(effect);
                None
            }
            Effect::Revive { pair, slot } => {
                assert!(self.truth.condemned.remove(&(pair, slot)), "lifts no verdict");
                None
            }
            Effect::Run { instance, number } => {
                let run = self.broker.run(instance, number).expect("jobs that are unfinished").clone();
                let driver = self.drivers.get_mut(&instance)?;
                driver.take(&mut self.truth, run.into(), Attach::None);
                None
            }
            Effect::OpenDoor { domain, name: _ } => {
                assert!(self.doors.insert(domain), "two sockets of a domain");
                Some(Input::DoorOpened { domain, path: format!("/run/domains/{}", domain.0) })
            }
            Effect::LetIn { porter, domain } => {
                let process = self.porters.get_mut(&porter).expect("a doorman that lives");
                assert!(process.serves.replace(domain).is_none() && !process.killed, "serves two domains");
                None
            }
            Effect::CloseDoor { domain } => {
                assert!(self.doors.remove(&domain), "closes what is not open");
                None
            }
            Effect::StartInstance { instance, device, domain } => {
                self.drivers.insert(instance, Driver::new(instance, device, domain));
                Some(Input::InstanceStarted { instance, pid: 100 + instance.0 })
            }
            Effect::KillInstance { instance, why } => {
                if why.ends_with("took too long") {
                    self.late.insert(instance);
                }
                let driver = self.drivers.get_mut(&instance).expect("an instance that lives");
                driver.killed = true;
                self.truth.open.retain(|timeline| !driver.opened.contains(timeline));
                None
            }
            Effect::LeaveInstance { instance } => Some(self.leave(instance)),
            Effect::ToDriver { instance, message, attach } => {
                if let Attach::Process(arrival) = &attach {
                    assert!(self.arrivals.remove(arrival), "sends what is not there");
                }
                let driver = self.drivers.get_mut(&instance)?;
                let ready = matches!(message, DriverMessage::Start(_)).then(|| ready_message(driver.device));
                if let DriverMessage::Map(map) = &message {
                    let sealed = self.memory.get(&map.object).is_some_and(|memory| memory.sealed.is_some());
                    assert!(map.access == Access::Read || !sealed, "maps what is sealed for writing");
                }
                driver.take(&mut self.truth, message, attach);
                ready.map(|message| Input::Driver { instance, message })
            }
            Effect::DrawToken { .. }
            | Effect::Look { .. }
            | Effect::News { .. }
            | Effect::Fill { .. }
            | Effect::KillSlot { .. } => self.carry_out_signals(effect),
            Effect::Log { event, domain } => {
                self.domains_told.push(domain);
                assert!(!matches!(event, Event::Bug { .. }), "{event:?}");
                self.events.push(event);
                None
            }
        }
    }

    /// Notes the pages that a client is sent; every place that it is told to look at must be in one it has.
    fn take_pages(&mut self, link: LinkId, message: &ClientMessage, attach: &Attach) {
        match message {
            ClientMessage::QueueOpened(opened) => {
                if let Attach::Observer(pair) = attach {
                    self.client_pages.insert((link, opened.page), *pair);
                }
                self.look_at_place(link, opened.page, opened.slot, opened.timeline);
            }
            ClientMessage::Observed(observed) => {
                let pairs = match attach {
                    Attach::Observers(pairs) => pairs.as_slice(),
                    _ => &[],
                };
                assert_eq!(pairs.len(), observed.pages.len());
                self.client_pages.extend(observed.pages.iter().map(|page| (link, *page)).zip(pairs.to_vec()));
                for point in &observed.points {
                    self.look_at_place(link, point.page, point.slot, point.timeline);
                }
            }
            ClientMessage::TimelineOpened(_)
            | ClientMessage::TimelineObserved(_)
            | ClientMessage::Shown(_) => {
                self.take_signal_pages(link, message, attach);
            }
            _ => {}
        }
    }

    pub(crate) fn look_at_place(&self, link: LinkId, page: PageId, slot: u16, timeline: TimelineKey) {
        let pair = self.client_pages.get(&(link, page)).expect("a page that the client was sent");
        assert!(self.truth.shows((*pair, slot), timeline), "not in its slot");
    }

    fn is_free(&self, object: ObjectKey) -> bool {
        let memory = &self.memory[&object];
        let mut drivers = self.drivers.values().chain(self.held_up.values());
        let mapped = drivers.any(|driver| driver.mapped.contains_key(&object));
        assert!(!mapped, "probes {object} while an instance maps it");
        assert!(!memory.kept, "probes {object} while the keeper has it");
        memory.exports == 0
    }

    // Clients.

    pub(crate) fn connect(&mut self, domain: DomainId) -> LinkId {
        self.connect_by(Way::Socket, domain.0, domain)
    }

    /// A connection of this user to the socket of a domain.
    pub(crate) fn connect_as(&mut self, uid: u32, domain: DomainId) -> LinkId {
        self.connect_by(Way::Socket, uid, domain)
    }

    pub(crate) fn connect_by(&mut self, way: Way, uid: u32, domain: DomainId) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let peer = PeerFacts { way, uid, pid: 1, domain, token: [1, 2] };
        self.links.insert(link);
        self.apply(Input::Connected { link, peer });
        link
    }

    /// A greeted client.
    pub(crate) fn client(&mut self) -> LinkId {
        self.client_of(DOMAIN)
    }

    pub(crate) fn client_of(&mut self, domain: DomainId) -> LinkId {
        self.client_as(domain.0, domain)
    }

    pub(crate) fn client_as(&mut self, uid: u32, domain: DomainId) -> LinkId {
        let link = self.connect_as(uid, domain);
        let welcome = self.ask(link, hello());
        assert!(matches!(welcome, Some(ClientMessage::Welcome(_))), "{welcome:?}");
        link
    }

    pub(crate) fn hang_up(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.apply(Input::Hangup { link });
    }

    /// Sends a request; gives its number.
    pub(crate) fn send(
        &mut self,
        link: LinkId,
        message: impl Into<ClientMessage>,
        flags: u16,
        deadline: Time,
    ) -> u64 {
        self.next_request += 1;
        let (message, request) = (message.into(), self.next_request);
        let head = Head { opcode: message.row().opcode, flags, request, deadline, ..Head::default() };
        self.apply(Input::Request { link, head, message });
        request
    }

    /// Sends a request and gives the answer, if one came.
    pub(crate) fn ask(&mut self, link: LinkId, message: impl Into<ClientMessage>) -> Option<ClientMessage> {
        self.ask_with(link, message).map(|reply| reply.message)
    }

    pub(crate) fn ask_with(&mut self, link: LinkId, message: impl Into<ClientMessage>) -> Option<Reply> {
        let deadline = self.now.after(3_600_000 * MS);
        let request = self.send(link, message, 0, deadline);
        self.answer_to(request)
    }

    /// The answer to a request, taken out.
    pub(crate) fn answer_to(&mut self, request: u64) -> Option<Reply> {
        let place = self.replies.iter().position(|reply| reply.request == request)?;
        self.replies.remove(place)
    }

    /// Sends a request that must be refused.
    pub(crate) fn refused(&mut self, link: LinkId, message: impl Into<ClientMessage>) -> Refused {
        match self.ask(link, message) {
            Some(ClientMessage::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// A committed object.
    pub(crate) fn object(&mut self, link: LinkId, len: u64) -> Handle {
        let handle = self.raw_object(link, len);
        let committed = self.ask(link, commit(handle));
        assert!(matches!(committed, Some(ClientMessage::Committed(_))), "{committed:?}");
        handle
    }

    /// An object that is not committed.
    pub(crate) fn raw_object(&mut self, link: LinkId, len: u64) -> Handle {
        match self.ask(link, create(len)) {
            Some(ClientMessage::ObjectCreated(created)) => created.objects[0],
            other => panic!("not created: {other:?}"),
        }
    }

    /// The key of the object that was made last.
    pub(crate) fn last_object(&self) -> ObjectKey {
        *self.memory.keys().max_by_key(|key| key.generation).expect("an object")
    }

    pub(crate) fn close(&mut self, link: LinkId, object: Handle) {
        assert!(matches!(self.ask(link, CloseObject { object }), Some(ClientMessage::Done(_))));
    }

    pub(crate) fn open(&mut self, link: LinkId, device: DeviceId) -> QueueOpened {
        self.open_with(link, device, 0)
    }

    pub(crate) fn open_with(&mut self, link: LinkId, device: DeviceId, priority: u8) -> QueueOpened {
        match self.ask(link, OpenQueue { device, depth: 0, priority, reserved: Zero }) {
            Some(ClientMessage::QueueOpened(opened)) => opened,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) fn queue(&mut self, link: LinkId, device: DeviceId) -> QueueHandle {
        self.open(link, device).queue
    }

    pub(crate) fn close_queue(&mut self, link: LinkId, queue: QueueHandle) {
        assert!(matches!(self.ask(link, CloseQueue { queue }), Some(ClientMessage::Done(_))));
    }

    /// Submits a batch that must be accepted.
    pub(crate) fn submit(&mut self, link: LinkId, batch: Batch) {
        let answer = self.ask(link, batch.0);
        assert!(answer.is_none(), "{answer:?}");
    }

    pub(crate) fn explain(&mut self, link: LinkId, cause: CauseId) -> Explained {
        match self.ask(link, Explain { cause }) {
            Some(ClientMessage::Explained(explained)) => explained,
            other => panic!("not explained: {other:?}"),
        }
    }

    /// What the broker has for domains to owe.
    pub(crate) fn usage(&self, domain: DomainId) -> Usage {
        self.broker.ledger().domains.get(&domain).copied().unwrap_or_default()
    }

    // Drivers.

    /// The instance that serves a device for a domain.
    pub(crate) fn instance_of(&self, device: DeviceId, domain: DomainId) -> InstanceId {
        let serves = |driver: &&Driver| driver.device == device && driver.domain == domain && !driver.killed;
        self.drivers.values().find(serves).expect("an instance of the device").id
    }

    pub(crate) fn instance(&self, device: DeviceId) -> InstanceId {
        self.instance_of(device, DOMAIN)
    }

    pub(crate) fn driver(&mut self, device: DeviceId) -> &mut Driver {
        let id = self.instance(device);
        self.drivers.get_mut(&id).expect("an instance that lives")
    }

    /// The job that a device got last.
    pub(crate) fn last_job(&mut self, device: DeviceId) -> Received {
        self.driver(device).history.last().expect("a job").clone()
    }

    /// A driver's message.
    pub(crate) fn say(&mut self, instance: InstanceId, message: impl Into<DriverMessage>) {
        let message = message.into();
        self.apply(Input::Driver { instance, message });
    }

    /// Has an instance tell all that it has to tell, also what the broker's answers make it say.
    pub(crate) fn flush(&mut self, instance: InstanceId) {
        loop {
            let messages = self.drivers.get_mut(&instance).map(Driver::flush).unwrap_or_default();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                self.say(instance, message);
            }
        }
    }

    /// Runs the job at the head of the queue with this timeline, and tells the broker.
    pub(crate) fn run(&mut self, timeline: TimelineKey, code: Option<ErrorCode>) {
        assert!(self.try_run(timeline, code), "the job at the head of {timeline} may not run");
        let id = self.owner_of(timeline);
        self.flush(id);
    }

    pub(crate) fn owner_of(&self, timeline: TimelineKey) -> InstanceId {
        let owns = |driver: &&Driver| driver.lines.contains_key(&timeline);
        self.drivers.values().find(owns).expect("an instance with this queue").id
    }

    /// Runs the job at the head of a queue, if its fences allow, and does not tell the broker.
    pub(crate) fn try_run(&mut self, timeline: TimelineKey, code: Option<ErrorCode>) -> bool {
        let (id, now) = (self.owner_of(timeline), self.now);
        while let Some(question) =
            self.drivers.get_mut(&id).and_then(|driver| driver.question(&self.truth, timeline))
        {
            self.say(id, question);
        }
        let driver = self.drivers.get_mut(&id).expect("an instance that lives");
        driver.run(&mut self.truth, timeline, now, code)
    }

    /// Runs everything that can run, and has it told, until nothing moves.
    pub(crate) fn run_all(&mut self) {
        loop {
            let mut moved = false;
            let lines: Vec<TimelineKey> =
                self.drivers.values().filter(|d| !d.killed).flat_map(|d| d.lines.keys().copied()).collect();
            for line in lines {
                moved |= self.try_run(line, None);
            }
            for id in self.drivers.keys().copied().collect::<Vec<_>>() {
                let has = |driver: &Driver| !driver.outbox.is_empty() || !driver.completions.is_empty();
                moved |= self.drivers.get(&id).is_some_and(has);
                self.flush(id);
            }
            if !moved {
                return;
            }
        }
    }

    // Time.

    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.after(ms * MS);
        self.apply(Input::Tick);
    }

    /// Goes to the broker's next deadline; `false` if it has none.
    pub(crate) fn wait_for_deadline(&mut self) -> bool {
        let Some(at) = self.broker.next_deadline() else { return false };
        self.now = self.now.max(at);
        self.apply(Input::Tick);
        true
    }

    /// Lets all that is due within `ms` happen, one deadline after the other.
    pub(crate) fn let_ms_pass(&mut self, ms: u64) {
        let end = self.now.after(ms * MS);
        while self.broker.next_deadline().is_some_and(|at| at <= end) {
            self.wait_for_deadline();
            self.bury();
        }
        self.now = end;
    }
}

pub(crate) fn hello() -> Hello {
    Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: b"test".to_vec() }
}

pub(crate) fn create(len: u64) -> CreateObject {
    let (writer, name) = (DeviceId(0), b"object".to_vec());
    CreateObject { len, writer, count: 0, huge: HugePages::Transparent, reserved: Zero, name }
}

pub(crate) fn commit(object: Handle) -> Commit {
    Commit { objects: vec![object] }
}

/// The inode that the world gives to an object's memory.
pub(crate) fn inode_of(object: ObjectKey) -> u64 {
    1000 + u64::from(object.generation)
}

pub(crate) fn ready_message(device_id: DeviceId) -> DriverMessage {
    let config = config();
    let (_, description) = config.devices.iter().find(|(id, _)| *id == device_id).expect("a device");
    Ready { version: 1, reserved: Zero, description: description.encode() }.into()
}

/// An export with an access, as an attachment.
pub(crate) fn export_of(object: ObjectKey, access: Access) -> Attach {
    Attach::Export { object, access }
}
