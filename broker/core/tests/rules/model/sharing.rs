//! Objects in random histories: made several at once, committed, sealed, exported, imported, shared, tampered
//! with; porters that are slow, hang and die; answers that come late and in any order.

use vgem_core::io::{Arrival, Attach, Effect, Input, LinkId};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, ObjectKey, Point, PorterId, TimelineKey};
use vgem_proto::message::client::{
    ClientMessage, CloseObject, Commit, CreateObject, Export, Import, Imported, Observe, OpenPorter,
    OpenQueue,
};
use vgem_proto::rights::{Access, Rights, WaitKind};

use super::owning::may_refuse_own;
use super::ringing::{Stage as RingStage, may_refuse_ring};
use super::{Held, Model};
use crate::oracle::{Accepted, How, Touch};
use crate::world::{COPY, MS, SEC, ZIP, create};

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) enum Pending {
    Create,
    Commit(Vec<ObjectKey>),
    OpenQueue,
    /// At an instance of the client's own.
    OpenOwn,
    /// AttachMemory, and SetWindows.
    Memory,
    Windows,
    Porter,
    Import(Arrival),
    Ring(TimelineKey),
    CommitRing(TimelineKey, RingStage),
    Bind {
        timeline: TimelineKey,
        address: u64,
        key: ObjectKey,
        access: Access,
    },
    Unbind {
        timeline: TimelineKey,
        address: u64,
    },
}

impl Pending {
    /// The queue whose ring it is about.
    pub(super) const fn timeline(&self) -> Option<TimelineKey> {
        match *self {
            Self::Ring(timeline)
            | Self::CommitRing(timeline, _)
            | Self::Bind { timeline, .. }
            | Self::Unbind { timeline, .. } => Some(timeline),
            _ => None,
        }
    }
}

/// Effects that only the kernel or the keeper can carry out, and whose answers may take their time.
fn takes_time(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::MakeObject { .. }
            | Effect::TakeArrival { .. }
            | Effect::CheckPopulated { .. }
            | Effect::Keep { .. }
            | Effect::Drop { .. }
            | Effect::Probe { .. }
            | Effect::Free { .. }
            | Effect::Seal { .. }
            | Effect::StartPorter { .. }
            | Effect::StartInstance { .. }
            | Effect::MakePair { .. }
            | Effect::MakeRing { .. }
            | Effect::CheckRing { .. }
            | Effect::Look { .. }
            | Effect::DrawToken { .. }
    )
}

impl Model {
    /// Chooses how slow kernel and keeper are during the next step.
    pub(super) fn choose_pace(&mut self) {
        self.world.hold = if self.dice.one_in(3) { takes_time } else { |_| false };
        self.world.reads_at_once = !self.dice.one_in(4);
        self.choose_failures();
        self.world.clients_read = !self.dice.one_in(40);
        self.world.close_exports = !self.dice.one_in(3);
    }

    /// Some of what took its time is done now, in any order.
    pub(super) fn finish_some(&mut self, most: u64) -> bool {
        let count = most.min(self.world.held.len() as u64);
        for _ in 0..count {
            let place = self.dice.below(self.world.held.len() as u64);
            let effect = self.world.held.swap_remove(usize::try_from(place).expect("small"));
            if self.fails(&effect) {
                continue;
            }
            if let Some(input) = self.world.carry_out(effect) {
                self.world.apply(input);
            }
        }
        count > 0
    }

    /// Now and then the kernel or the keeper refuses.
    fn fails(&mut self, effect: &Effect) -> bool {
        if !self.dice.one_in(12) {
            return false;
        }
        let input = match *effect {
            Effect::MakeObject { object, .. } => Input::ObjectMade { object, outcome: Err(12) },
            Effect::TakeArrival { arrival, object } => {
                self.world.arrivals.remove(&arrival);
                Input::ObjectMade { object, outcome: Err(17) }
            }
            Effect::CheckPopulated { object } => Input::PopulatedChecked { object, populated: false },
            Effect::Seal { object } => Input::Sealed { object, outcome: Err(16) },
            Effect::StartInstance { instance, .. } => {
                self.fail_to_start(instance);
                return true;
            }
            Effect::CheckRing { timeline } => Input::RingChecked { timeline, populated: false },
            Effect::MakeRing { timeline, .. } => Input::RingMade { timeline, outcome: Err(24) },
            Effect::StartPorter { porter } => Input::PorterFailed { porter, why: "no memory".into() },
            _ => return false,
        };
        self.world.apply(input);
        true
    }

    pub(super) fn ask_later(&mut self, link: LinkId, message: impl Into<ClientMessage>, pending: Pending) {
        self.ask_flagged(link, message, 0, pending);
    }

    pub(super) fn ask_flagged(
        &mut self,
        link: LinkId,
        message: impl Into<ClientMessage>,
        flags: u16,
        pending: Pending,
    ) {
        let deadline = self.world.now.after(200 * MS);
        let request = self.world.send(link, message, flags, deadline);
        self.pending.insert(request, (link, pending));
    }

    pub(super) fn create(&mut self) {
        let Some(place) = self.some_member() else { return };
        let link = self.members[place].link;
        let count = u32::try_from(self.dice.below(4)).expect("small");
        let writer = if self.dice.one_in(4) { self.some_device() } else { DeviceId(0) };
        self.ask_later(link, CreateObject { count, writer, ..create(4096) }, Pending::Create);
    }

    pub(super) fn some_device(&mut self) -> DeviceId {
        self.dice.pick(&[COPY, ZIP, SEC]).unwrap_or(COPY)
    }

    pub(super) fn commit_some(&mut self) {
        let Some(place) = self.some_member() else { return };
        let member = &self.members[place];
        let raw: Vec<&Held> = member.objects.iter().filter(|held| !self.ready.contains(&held.key)).collect();
        let some = usize::try_from(1 + self.dice.below(4)).expect("small").min(raw.len());
        if some == 0 {
            return;
        }
        let raw = &raw[raw.len() - some..];
        let (objects, keys) = (raw.iter().map(|h| h.handle).collect(), raw.iter().map(|h| h.key).collect());
        self.ask_later(self.members[place].link, Commit { objects }, Pending::Commit(keys));
    }

    pub(super) fn close_object(&mut self) {
        let Some(place) = self.some_member() else { return };
        let count = self.members[place].objects.len() as u64;
        if count == 0 {
            return;
        }
        let at = usize::try_from(self.dice.below(count)).expect("small");
        let member = &mut self.members[place];
        let (link, held) = (member.link, &mut member.objects[at]);
        let (handle, key) = (held.handle, held.key);
        held.imports -= 1;
        if held.imports == 0 {
            member.objects.swap_remove(at);
        }
        match self.world.ask(link, CloseObject { object: handle }) {
            Some(ClientMessage::Done(_)) => {}
            // It was never committed, and its creator is gone.
            Some(ClientMessage::Refused(refused)) if refused.code == ErrorCode::NoSuchHandle => {
                assert!(!self.ready.contains(&key), "the handle of a ready object went");
                self.members[place].objects.retain(|held| held.handle != handle);
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn export(&mut self) {
        let Some(place) = self.some_member() else { return };
        let Some(held) = self.dice.pick(&self.members[place].objects) else { return };
        let access = if held.rights.contains(Rights::WRITE) { Access::Write } else { Access::Read };
        let access = if self.dice.one_in(2) { Access::Read } else { access };
        let export = Export { object: held.handle, access, reserved: Zero };
        match self.world.ask(self.members[place].link, export) {
            Some(ClientMessage::Exported(exported)) => assert_eq!(exported.len, 4096),
            Some(ClientMessage::Refused(refused)) => assert!(
                matches!(refused.code, ErrorCode::Denied | ErrorCode::Exhausted | ErrorCode::NoSuchHandle),
                "{refused:?}"
            ),
            other => panic!("{other:?}"),
        }
    }

    /// A member's porter that runs; asks for one if there is none.
    pub(super) fn porter_of(&mut self, place: usize) -> Option<PorterId> {
        let member = &self.members[place];
        let lives = |id: &PorterId| self.world.porters.get(id).is_some_and(|process| !process.killed);
        if let Some(porter) = member.porter.filter(lives) {
            return Some(porter);
        }
        self.ask_later(member.link, OpenPorter {}, Pending::Porter);
        None
    }

    /// A client imports, or one half of that.
    pub(super) fn import(&mut self) {
        let Some(place) = self.some_member() else { return };
        let Some(porter) = self.porter_of(place) else { return };
        let link = self.members[place].link;
        let exported: Vec<ObjectKey> =
            self.world.memory.iter().filter(|(_, memory)| memory.exports > 0).map(|(key, _)| *key).collect();
        let arrival = match self.dice.pick(&exported) {
            Some(key) if !self.dice.one_in(5) => Arrival::Object(key),
            _ if self.dice.one_in(8) => Arrival::Page,
            _ => self.world.foreign(4096),
        };
        let sealed = |key| self.world.memory.get(key).is_some_and(|memory| memory.sealable);
        let access = match &arrival {
            Arrival::Object(key) if sealed(key) => Access::Read,
            _ if self.dice.one_in(3) => Access::Read,
            _ => Access::Write,
        };
        let import = Import { name: b"shared".to_vec() };
        match self.dice.below(8) {
            0 => {
                // The fd never comes: the memory, if that is what it was, stays with the client.
                if let Arrival::Memory { arrival, .. } = arrival {
                    self.world.arrivals.remove(&arrival);
                }
                self.ask_later(link, import, Pending::Import(Arrival::Page));
            }
            1 => self.world.bring(porter, 1_000_000 + self.world.now.0 % 100, arrival, access),
            2 | 3 => {
                let request = self.world.next_request();
                self.world.bring(porter, request, arrival, access);
                self.ask_later(link, import, Pending::Import(arrival));
            }
            _ => {
                self.ask_later(link, import, Pending::Import(arrival));
                let request = self.world.next_request() - 1;
                self.world.bring(porter, request, arrival, access);
            }
        }
    }

    pub(super) fn end_a_porter(&mut self) {
        let ids: Vec<PorterId> = self.world.porters.keys().copied().collect();
        if let Some(id) = self.dice.pick(&ids) {
            self.world.end_porter(id);
        }
    }

    pub(super) fn bury_porters(&mut self) {
        let ids: Vec<PorterId> = self.world.porters.keys().copied().collect();
        for id in ids {
            let hangs = self.dice.one_in(3);
            let process = self.world.porters.get_mut(&id).expect("it was just found");
            process.hangs |= hangs;
            if process.killed && !process.hangs {
                self.world.end_porter(id);
            }
        }
    }

    pub(super) fn tamper(&mut self) {
        let keys: Vec<ObjectKey> = self.world.memory.keys().copied().collect();
        if let Some(object) = self.dice.pick(&keys) {
            self.world.apply(Input::Tampered { object, what: "mode 0666".into() });
        }
    }

    /// What a client's own access has to wait for is what a job's would have to.
    pub(super) fn observe(&mut self) {
        let Some(place) = self.some_member() else { return };
        let ready: Vec<Held> = self.members[place]
            .objects
            .iter()
            .filter(|held| self.ready.contains(&held.key))
            .copied()
            .collect();
        let Some(held) = self.dice.pick(&ready) else { return };
        let writes = held.rights.contains(Rights::WRITE) && self.dice.one_in(2);
        let (access, how) = if writes { (Access::Write, How::Update) } else { (Access::Read, How::Read) };
        let link = self.members[place].link;
        let observed =
            match self.world.ask_with(link, Observe { object: held.handle, access, reserved: Zero }) {
                Some(reply) => match reply.message {
                    ClientMessage::Observed(observed) => observed,
                    ClientMessage::Refused(refused) if refused.code == ErrorCode::Exhausted => return,
                    other => panic!("{other:?}"),
                },
                None => panic!("Observe is answered at once"),
            };
        let job = Accepted {
            timeline: TimelineKey::default(),
            point: Point(1),
            touches: vec![Touch { object: held.key, bytes: 0..4096, how }],
            explicit: Vec::new(),
            skips_implicit: false,
            runs_anyway: false,
            once: false,
            ended: None,
        };
        let required = self.oracle.required(&job);
        let points = |kind: WaitKind| {
            observed.points.iter().filter(move |p| p.kind == kind).map(|p| (p.timeline, p.point))
        };
        assert_eq!(points(WaitKind::Data).collect::<std::collections::BTreeSet<_>>(), required.data);
        assert_eq!(points(WaitKind::Order).collect::<std::collections::BTreeMap<_, _>>(), required.order);
        self.observed += 1;
        if !observed.pages.is_empty() && self.dice.one_in(4) {
            self.world.apply(Input::Undelivered { link, message: observed.into() });
        }
    }

    pub(super) fn open_queue(&mut self) {
        let Some(place) = self.some_member() else { return };
        let device = self.some_device();
        let depth = if self.dice.one_in(4) { 3 } else { 0 };
        let priority = if self.dice.one_in(4) { u8::try_from(self.dice.below(8)).expect("small") } else { 0 };
        let link = self.members[place].link;
        self.ask_later(link, OpenQueue { device, depth, priority, reserved: Zero }, Pending::OpenQueue);
    }

    /// Takes in the answers that have come, and forgets members that are gone.
    pub(super) fn hear_answers(&mut self) {
        let asked: Vec<u64> = self.pending.keys().copied().collect();
        for request in asked {
            let Some(reply) = self.world.answer_to(request) else { continue };
            self.answered.insert(request);
            let Some((link, pending)) = self.pending.remove(&request) else { continue };
            if let Some(place) = self.members.iter().position(|member| member.link == link) {
                self.answered(place, pending, reply.message, &reply.attach);
            }
        }
        let again = self.world.replies.iter().find(|reply| self.answered.contains(&reply.request));
        assert!(again.is_none(), "answered twice: {again:?}");
        let gone = |link: &LinkId| self.world.disconnected.contains(link);
        self.members.retain(|member| !gone(&member.link));
        let links: Vec<LinkId> = self.members.iter().map(|member| member.link).collect();
        self.pending.retain(|_, (link, _)| links.contains(link));
    }

    fn answered(&mut self, place: usize, pending: Pending, message: ClientMessage, attach: &Attach) {
        if let ClientMessage::Refused(refused) = &message {
            assert!(may_refuse(&pending, refused.code), "{pending:?}: {refused:?}");
            return self.ring_answered(place, &pending, &message, attach);
        }
        if *attach != Attach::None && self.dice.one_in(25) {
            if let Pending::Ring(timeline) = pending {
                self.forget_ring(place, timeline);
            }
            return self.undeliver(place, message, attach);
        }
        match (pending, message) {
            (
                pending @ (Pending::Ring(_)
                | Pending::CommitRing(..)
                | Pending::Bind { .. }
                | Pending::Unbind { .. }),
                message,
            ) => {
                self.ring_answered(place, &pending, &message, attach);
            }
            (Pending::Create, ClientMessage::ObjectCreated(created)) => {
                let Attach::Exports { objects, .. } = attach else { panic!("{attach:?}") };
                for (handle, key) in created.objects.into_iter().zip(objects) {
                    let held = Held { handle, key: *key, rights: created.rights, imports: 1 };
                    self.members[place].objects.push(held);
                }
            }
            (Pending::Commit(keys), ClientMessage::Committed(_)) => self.ready.extend(keys),
            (Pending::OpenQueue, ClientMessage::QueueOpened(opened)) => {
                self.members[place].queues.push((opened.queue, opened.timeline, 0));
                if self.dice.one_in(3) {
                    self.attach_to(place, opened.queue);
                }
            }
            (Pending::OpenOwn, ClientMessage::QueueOpened(opened)) => {
                self.ask_ring(place, (opened.queue, opened.timeline), true);
            }
            (Pending::Memory | Pending::Windows, ClientMessage::Done(_)) => {}
            (Pending::Porter, ClientMessage::PorterOpened(_)) => {
                let Attach::Channel(porter) = attach else { panic!("{attach:?}") };
                self.members[place].porter = Some(*porter);
            }
            (Pending::Import(arrival), ClientMessage::Imported(imported)) => {
                self.imported(place, arrival, imported);
            }
            (pending, message) => panic!("{pending:?} was answered {message:?}"),
        }
    }

    fn imported(&mut self, place: usize, arrival: Arrival, imported: Imported) {
        let key = self.world.object_of(&arrival).expect("what was imported is an object");
        let Imported { object: handle, rights, state, .. } = imported;
        if state == 2 {
            self.ready.insert(key);
        }
        self.imports += 1;
        let objects = &mut self.members[place].objects;
        match objects.iter_mut().find(|held| held.handle == handle) {
            Some(held) => {
                assert_eq!(held.key, key, "one handle for two objects");
                held.imports += 1;
                held.rights = rights;
            }
            None => {
                assert!(objects.iter().all(|held| held.key != key), "two handles of one object");
                objects.push(Held { handle, key, rights, imports: 1 });
            }
        }
    }

    /// The client never gets this.
    fn undeliver(&mut self, place: usize, message: ClientMessage, attach: &Attach) {
        if let Attach::Exports { objects, .. } = attach {
            for key in objects {
                let memory = self.world.memory.get_mut(key).expect("it was just made");
                memory.exports = memory.exports.saturating_sub(1);
            }
        }
        let link = self.members[place].link;
        self.world.apply(Input::Undelivered { link, message });
    }

    /// Whether a job on a timeline may write an object that is held so.
    pub(super) fn may_write(&self, held: &Held, timeline: TimelineKey) -> bool {
        let sealed = self.world.memory.get(&held.key).is_some_and(|memory| memory.sealable);
        let driver = self.world.drivers.values().find(|driver| driver.lines.contains_key(&timeline));
        let maps = driver.is_some_and(|driver| driver.mapped.get(&held.key) == Some(&Access::Write));
        held.rights.contains(Rights::WRITE) && (!sealed || maps)
    }

    /// Ready objects of a member.
    pub(super) fn ready_of(&self, place: usize) -> Vec<Held> {
        let objects = &self.members[place].objects;
        objects.iter().filter(|held| self.ready.contains(&held.key)).copied().collect()
    }

    /// The handle by which nobody else knows an object.
    pub(super) fn handle_of(held: &Held) -> (Handle, ObjectKey) {
        (held.handle, held.key)
    }
}

/// Refusals that a request of a correct client may meet in a world that fails.
fn may_refuse(pending: &Pending, code: ErrorCode) -> bool {
    use ErrorCode as E;
    match pending {
        Pending::Create => matches!(code, E::Exhausted | E::System),
        Pending::Commit(_) => matches!(
            code,
            E::NotReady | E::Busy | E::Unavailable | E::System | E::Gone | E::NoSuchHandle | E::Denied
        ),
        Pending::OpenQueue => matches!(code, E::Exhausted | E::Unavailable | E::Late | E::System),
        Pending::OpenOwn | Pending::Memory | Pending::Windows => may_refuse_own(pending, code),
        Pending::Porter => matches!(code, E::Busy | E::Exhausted | E::Unavailable),
        Pending::Import(_) => matches!(
            code,
            E::Late | E::NotReady | E::Exhausted | E::Gone | E::Busy | E::Denied | E::Unavailable | E::System
        ),
        Pending::Ring(_) | Pending::CommitRing(..) | Pending::Bind { .. } | Pending::Unbind { .. } => {
            may_refuse_ring(pending, code)
        }
    }
}
