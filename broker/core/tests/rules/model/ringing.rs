//! Rings in random histories: asked for, made or not, mapped by their drivers or not, used, lost and closed in every
//! state; ranges bound and unbound while their objects are shared, closed and left by everybody else.
//!
//! After every step what is bound at drivers is memory that lives, and what the broker counts of it is exact (its
//! invariants say so). When everything is quiet, everybody who asked has one answer, and each driver has exactly the
//! ranges that its clients know to be bound, which go through windows if another domain may write there.

use std::collections::BTreeMap;

use vgem_core::io::Attach;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{ObjectKey, Point, QueueHandle, TimelineKey};
use vgem_proto::message::client::{AttachRing, Bind, ClientMessage, CloseQueue, CommitRing, Done, Unbind};
use vgem_proto::rights::{Access, Rights};

use super::sharing::Pending;
use super::{Held, Model};

/// A queue with a ring, or that was to have one, as its member knows it.
#[derive(Debug)]
pub(super) struct Ringed {
    pub(super) queue: QueueHandle,
    pub(super) timeline: TimelineKey,
    /// At an instance of the client's own.
    pub(super) own: bool,
    stage: Stage,
    /// What is bound, by address.
    bound: BTreeMap<u64, (ObjectKey, Access)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Asked,
    Made,
    Committing,
    Attached,
}

/// Addresses that ranges begin at, some of which are too near to each other.
const PLACES: u64 = 12;
const STRIDE: u64 = 2048;

impl Model {
    /// Something with rings.
    pub(super) fn ring_something(&mut self) {
        let Some(place) = self.some_member() else { return };
        match self.dice.below(16) {
            0..2 => self.attach_ring(place),
            2..4 => self.commit_ring(place),
            4..9 => self.bind(place),
            9..12 => self.unbind(place),
            12..15 => self.run_entries(place),
            _ => self.close_ringed(place),
        }
    }

    fn attach_ring(&mut self, place: usize) {
        let queues = &self.members[place].queues;
        let fresh: Vec<_> = queues.iter().filter(|(_, _, last)| *last == 0).copied().collect();
        let any = self.dice.one_in(8);
        let Some((queue, ..)) = self.dice.pick(if any { queues } else { &fresh }) else { return };
        self.attach_to(place, queue);
    }

    /// Asks for a ring of a queue, which has had jobs or not.
    pub(super) fn attach_to(&mut self, place: usize, queue: QueueHandle) {
        let mut queues = self.members[place].queues.iter();
        let (_, timeline, last) = *queues.find(|(other, ..)| *other == queue).expect("a queue of the member");
        if last == 0 {
            self.members[place].queues.retain(|(_, other, _)| *other != timeline);
            self.ask_ring(place, (queue, timeline), false);
        } else {
            let attach = AttachRing { queue, depth: 8, reserved: Zero };
            self.ask_later(self.members[place].link, attach, Pending::Ring(timeline));
        }
    }

    /// Asks for a ring of a queue that can have one.
    pub(super) fn ask_ring(
        &mut self,
        place: usize,
        (queue, timeline): (QueueHandle, TimelineKey),
        own: bool,
    ) {
        let depth = if self.dice.one_in(2) { 0 } else { 8 };
        let ring = Ringed { queue, timeline, own, stage: Stage::Asked, bound: BTreeMap::new() };
        self.members[place].rings.push(ring);
        let attach = AttachRing { queue, depth, reserved: Zero };
        self.ask_later(self.members[place].link, attach, Pending::Ring(timeline));
    }

    /// A queue whose ring could not be: it takes jobs, unless it is at an instance of its client's own.
    fn ring_failed(&mut self, place: usize, at: usize) {
        let Ringed { queue, timeline, own, .. } = self.members[place].rings[at];
        if own {
            return self.close_ring_of(place, Some(timeline));
        }
        self.members[place].rings.swap_remove(at);
        self.members[place].queues.push((queue, timeline, 0));
    }

    fn commit_ring(&mut self, place: usize) {
        let waiting = self.members[place].rings.iter().position(|ring| ring.stage == Stage::Made);
        let Some(at) = waiting.filter(|_| !self.dice.one_in(4)).or_else(|| self.some_ringed(place)) else {
            return;
        };
        self.commit_one(place, at);
    }

    fn commit_one(&mut self, place: usize, at: usize) {
        let ring = &mut self.members[place].rings[at];
        let Ringed { queue, timeline, stage, .. } = *ring;
        if stage == Stage::Made {
            ring.stage = Stage::Committing;
        }
        self.ask_later(self.members[place].link, CommitRing { queue }, Pending::CommitRing(timeline, stage));
    }

    fn some_ringed(&mut self, place: usize) -> Option<usize> {
        let count = self.members[place].rings.len() as u64;
        (count > 0).then(|| usize::try_from(self.dice.below(count)).expect("small"))
    }

    fn bind(&mut self, place: usize) {
        let Some(at) = self.some_ringed(place) else { return };
        self.bind_to(place, at);
    }

    fn bind_to(&mut self, place: usize, at: usize) {
        let ready = self.ready_of(place);
        let Some(Held { handle, key, rights, .. }) = self.dice.pick(&ready) else { return };
        let writes = rights.contains(Rights::WRITE) && self.dice.one_in(2);
        let access = if writes { Access::Write } else { Access::Read };
        let address = 0x1000 + self.dice.below(PLACES) * STRIDE;
        let (offset, len) = (self.dice.below(4) * 1024, 512 * (1 + self.dice.below(3)));
        let Ringed { queue, timeline, .. } = self.members[place].rings[at];
        let bind = Bind { queue, object: handle, offset, len, address, access, reserved: Zero };
        self.ask_later(self.members[place].link, bind, Pending::Bind { timeline, address, key, access });
    }

    fn unbind(&mut self, place: usize) {
        let Some(at) = self.some_ringed(place) else { return };
        let Ringed { queue, timeline, ref bound, .. } = self.members[place].rings[at];
        let known: Vec<u64> = bound.keys().copied().collect();
        let address = match self.dice.pick(&known) {
            Some(address) if !self.dice.one_in(8) => address,
            _ => 0x1000 + self.dice.below(PLACES) * STRIDE,
        };
        let unbind = Unbind { queue, address };
        self.ask_later(self.members[place].link, unbind, Pending::Unbind { timeline, address });
    }

    /// Entries of which the broker hears nothing.
    fn run_entries(&mut self, place: usize) {
        let Some(at) = self.some_ringed(place) else { return };
        let Ringed { timeline, stage, .. } = self.members[place].rings[at];
        if stage == Stage::Attached && self.is_served(timeline) {
            self.world.truth.value.entry(timeline).or_default().0 += 1 + self.dice.below(3);
            self.entries += 1;
        }
    }

    fn close_ringed(&mut self, place: usize) {
        let Some(at) = self.some_ringed(place) else { return };
        let timeline = self.members[place].rings[at].timeline;
        self.close_ring_of(place, Some(timeline));
    }

    /// Also one whose driver is gone, which is good for nothing.
    fn close_ring_of(&mut self, place: usize, timeline: Option<TimelineKey>) {
        let rings = &mut self.members[place].rings;
        let Some(at) = rings.iter().position(|ring| Some(ring.timeline) == timeline) else { return };
        let Ringed { queue, timeline, .. } = rings.swap_remove(at);
        let done = self.world.ask(self.members[place].link, CloseQueue { queue });
        assert_eq!(done, Some(ClientMessage::Done(Done {})));
        self.world.ringless.insert(timeline);
    }

    /// Drivers fail to map rings and objects, now and then.
    pub(super) fn choose_failures(&mut self) {
        let failing = self.dice.below(12);
        for driver in self.world.drivers.values_mut() {
            driver.ring_errno = if failing == 0 { 12 } else { 0 };
            driver.bind_code = if failing == 1 { ErrorCode::MapFailed.number() } else { 0 };
        }
    }

    /// An answer to what was asked of a ring; gives back what is none.
    pub(super) fn ring_answered(
        &mut self,
        place: usize,
        pending: &Pending,
        message: &ClientMessage,
        attach: &Attach,
    ) {
        let done = match message {
            ClientMessage::Refused(refused) if refused.code == ErrorCode::Gone => {
                return self.close_ring_of(place, pending.timeline());
            }
            ClientMessage::Refused(_) => false,
            ClientMessage::Done(_) | ClientMessage::RingAttached(_) => true,
            other => panic!("{pending:?} was answered {other:?}"),
        };
        let Some(rings) = self.members.get_mut(place).map(|member| &mut member.rings) else { return };
        let of = |timeline: TimelineKey| move |ring: &Ringed| ring.timeline == timeline;
        match *pending {
            Pending::Ring(timeline) => {
                let Some(at) = rings.iter().position(of(timeline)) else { return };
                if done {
                    assert_eq!(*attach, Attach::Ring(timeline));
                    rings[at].stage = Stage::Made;
                    if !self.dice.one_in(4) {
                        self.commit_one(place, at);
                    }
                } else if rings[at].stage == Stage::Asked {
                    self.ring_failed(place, at);
                }
            }
            Pending::CommitRing(timeline, from) => {
                let Some(at) = rings.iter().position(of(timeline)) else { return };
                match message {
                    ClientMessage::Refused(refused) if refused.code == ErrorCode::System => {
                        self.ring_failed(place, at);
                    }
                    ClientMessage::Refused(_) if from == Stage::Made => rings[at].stage = Stage::Made,
                    ClientMessage::Refused(_) => {}
                    _ => {
                        (rings[at].stage, self.rings) = (Stage::Attached, self.rings + 1);
                        for _ in 0..self.dice.below(6) {
                            self.bind_to(place, at);
                        }
                    }
                }
            }
            Pending::Bind { timeline, address, key, access } if done => {
                if let Some(ring) = rings.iter_mut().find(|ring| ring.timeline == timeline) {
                    let before = ring.bound.insert(address, (key, access));
                    assert_eq!(before, None, "bound twice at {address:#x}");
                    self.binds += 1;
                }
            }
            Pending::Unbind { timeline, address } if done => {
                if let Some(ring) = rings.iter_mut().find(|ring| ring.timeline == timeline) {
                    assert!(ring.bound.remove(&address).is_some(), "unbound twice at {address:#x}");
                }
            }
            _ => {}
        }
    }

    /// The client never gets the memory of a ring.
    pub(super) fn forget_ring(&mut self, place: usize, timeline: TimelineKey) {
        self.members[place].rings.retain(|ring| ring.timeline != timeline);
    }

    /// All memory that drivers reach is there.
    pub(super) fn bound_memory_lives(&self) {
        for bind in self.world.drivers.values().flat_map(|driver| driver.spaces.values()).flatten() {
            assert!(self.world.memory.contains_key(&bind.1.object), "bound to what is gone: {bind:?}");
        }
    }

    /// Everything becomes quiet, with all members still there: what they know is what is.
    pub(super) fn rings_when_quiet(&mut self) {
        self.world.hold = |_| false;
        for driver in self.world.drivers.values_mut() {
            (driver.ring_errno, driver.bind_code) = (0, 0);
        }
        loop {
            let mut moved = self.finish_some(u64::MAX);
            for id in self.world.drivers.keys().copied().collect::<Vec<_>>() {
                moved |= self.hear(id, u64::from(u32::MAX));
            }
            let next = self.world.next_request();
            self.hear_answers();
            self.bury();
            // Some ask for more when they have an answer.
            moved |= self.world.next_request() > next;
            if !moved {
                break;
            }
        }
        let of_ring = |pending: &Pending| {
            matches!(
                pending,
                Pending::Ring(_) | Pending::CommitRing(..) | Pending::Bind { .. } | Pending::Unbind { .. }
            )
        };
        let unanswered = self.pending.values().find(|(_, pending)| of_ring(pending));
        assert!(unanswered.is_none(), "never answered: {unanswered:?}");
        self.spaces_are_known();
    }

    fn spaces_are_known(&self) {
        let known = self.members.iter().flat_map(|member| &member.rings);
        let known: BTreeMap<TimelineKey, &Ringed> = known.map(|ring| (ring.timeline, ring)).collect();
        for driver in self.world.drivers.values().filter(|driver| !driver.killed) {
            for (timeline, space) in driver.spaces.iter().filter(|(of, _)| driver.lines.contains_key(of)) {
                let Some(ring) = known.get(timeline) else {
                    assert!(driver.lines[timeline].closing, "{timeline} is nobody's");
                    continue;
                };
                let there: BTreeMap<u64, (ObjectKey, Access)> =
                    space.iter().map(|(at, bind)| (*at, (bind.object, bind.access))).collect();
                assert_eq!(there, ring.bound, "what is bound to {timeline}");
                for bind in space.values() {
                    let foreign = self.may_be_written_by_others(bind.object, driver.domain);
                    assert!(bind.foreign == 1 || !foreign, "other domains write {bind:?}");
                }
            }
        }
    }

    /// Whether a member of another domain has a handle to write with.
    fn may_be_written_by_others(&self, object: ObjectKey, domain: vgem_proto::ids::DomainId) -> bool {
        let writes = |held: &Held| held.key == object && held.rights.contains(Rights::WRITE);
        let sealed = self.world.memory.get(&object).is_some_and(|memory| memory.sealable);
        let mut others = self.members.iter().filter(|member| member.domain != domain);
        !sealed && others.any(|member| member.objects.iter().any(writes))
    }

    /// No driver that lives has got further with a ring than its timeline says.
    pub(super) fn entries_stand(&self, timeline: TimelineKey, value: Point) {
        let ended = self.world.truth.look(timeline, value);
        assert!(value == Point(0) || ended == Some(Ok(())), "{value:?} of {timeline} had ended: {ended:?}");
    }
}

/// Refusals that a correct client may meet.
pub(super) fn may_refuse_ring(pending: &Pending, code: ErrorCode) -> bool {
    use ErrorCode as E;
    match pending {
        Pending::Ring(_) | Pending::CommitRing(..) => {
            matches!(code, E::Busy | E::Exhausted | E::Gone | E::NotReady | E::System)
        }
        Pending::Bind { .. } => matches!(
            code,
            E::Busy
                | E::Exhausted
                | E::Gone
                | E::NotReady
                | E::MapFailed
                | E::OutOfRange
                | E::Denied
                | E::NoSuchHandle
        ),
        Pending::Unbind { .. } => matches!(code, E::NoSuchHandle | E::Busy | E::Gone),
        _ => false,
    }
}
