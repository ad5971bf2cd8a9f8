//! Rings: queues on which a client schedules by itself, and the ranges of objects that their entries reach.
//!
//! ```text
//!   AttachRing ─► Making ──memory──► Made ──CommitRing──► Checking ──all there──► Attaching ──RingReady──► Attached
//!                    │ none           ▲ └─fd─► client        │ a page missing        │ errno
//!                    ▼                └───────────────────────┘                      ▼
//!                 no ring                                                         no ring
//!
//!   any of them ──the queue is removed──► no ring         any but Making ──the instance is gone──► Over
//!
//!   Bind ─► Asked ──Bound──► Bound ──Unbind──► Leaving ──Unbound──► no range
//! ```
//!
//! What goes through a ring the broker never sees: no reservation, no deadline. The points of the queue's timeline are the
//! entries of its ring, so a queue with a ring takes no jobs, and one that has had jobs gets no ring. Jobs of other queues
//! may wait for them until a moment ([`crate::host_waits`]). What the broker does
//! see is lifetime: a bound range keeps its object as a job would, and the driver's mapping of it, until the driver says
//! that nothing reaches there any more.
//!
//! The client has the memory before the driver, and touches all of it: who touches a page first pays for it.
//!
//! Who may bind is decided once, by the rights of the client's handle. Whether another domain may write what is bound may
//! change; the driver is told then, and its engines go through windows from the next entry on. One that has not answered
//! yet is told when it has.
//!
//! What a ring's thread answers waits for the entry that runs, and has a time of its own ([`owed`]).
//!
//! When the instance is gone, the ring is over, with the cause of that, and the queue is gone, also if an heir goes on with
//! other queues: what was in the ring when its driver ended nobody knows but its client.
//!
//! Nothing is said of a ring to a driver that was told to close its queue: it may have forgotten both.
//!
//! Invariants: ranges of one ring do not overlap; a range is a use of its object; whoever asked for a ring or a range is
//! answered once; a ring's bytes are charged from before it is made until its memory is dropped.

mod fits;
mod owed;

use std::collections::BTreeMap;

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{CauseId, InstanceId, ObjectKey, Point, QueueHandle, Time, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::client::{AttachRing, Bind, CommitRing, Done, RingAttached, Unbind};
use vgem_proto::message::driver;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::Depth;

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::devices::InstanceState;
use crate::host_waits::Sighted;
use crate::io::{Attach, Effect};
use crate::objects::{Awaiting, Kind, MappingState, ObjectState};
use crate::own::OwnMemory;
use crate::policy;
use crate::queues::QueueState;
use crate::requests::{Outcome, no_such_handle, no_such_queue};

pub(crate) use self::owed::how_it_stuck;

/// Where a ring is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RingState {
    /// Its memory is being made.
    Making,
    /// Its client has the memory.
    Made,
    /// Whether all of the memory is there is being looked at.
    Checking,
    /// Its driver was told.
    Attaching,
    /// Its driver takes entries from it.
    Attached,
    /// Its driver is gone.
    Over,
}

/// A queue's ring.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) state: RingState,
    depth: Depth,
    /// The charges for its bytes, and for it.
    pub(crate) charges: [Charge; 2],
    /// Who waits for its memory, and the charge for the fd that comes with the answer.
    pub(crate) opening: Option<(Awaiting, Charge)>,
    /// Its client's own memory, if it reaches that, too.
    pub(crate) memory: Option<OwnMemory>,
    /// Who waits for its driver.
    committing: Option<Awaiting>,
    /// Answers that its thread owes, between two entries.
    owes: u32,
    /// By when the next of them must be there.
    pub(crate) answer_by: Option<Time>,
    /// One of them is that the queue is closed.
    closing: bool,
    /// By the address of the first byte.
    pub(crate) ranges: BTreeMap<u64, Range>,
    pub(crate) sighted: Sighted,
}

/// How far a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RangeState {
    /// The driver was told.
    Asked,
    /// Entries reach it.
    Bound,
    /// The driver was told to let go.
    Leaving,
}

/// A range of an object, at an address.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) object: ObjectKey,
    offset: u64,
    len: u64,
    access: Access,
    foreign: bool,
    /// The driver was told again, whether others may write there, and has not answered.
    retold: bool,
    pub(crate) state: RangeState,
    asker: Option<Awaiting>,
}

impl Ring {
    /// Bytes of its memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.depth.memory_len() as u64
    }

    /// A range that has a byte in common with another.
    fn overlapping(&self, address: u64, end: u64) -> Option<(u64, &Range)> {
        let (start, range) = self.ranges.range(..end).next_back()?;
        (start.saturating_add(range.len) > address).then_some((*start, range))
    }
}

// What clients ask for.
impl Broker {
    /// A client asks for a ring.
    pub(crate) fn attach_ring(&mut self, asker: Awaiting, attach: &AttachRing) -> Outcome {
        let key = self.find_ringable(asker, attach.queue)?;
        let wanted = if attach.depth == 0 { limits::RING_DEPTH_DEFAULT } else { attach.depth };
        let Some(depth) = Depth::new(wanted) else {
            let most = u64::from(vgem_proto::layout::user_queue::DEPTH_MOST);
            let text = "entries of a ring: a power of two, 8 to 4096";
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(u64::from(wanted), most));
        };
        let Some(queue) = self.queues.get(key) else { return Err(no_such_queue(attach.queue)) };
        if queue.ring.is_some() {
            return Err(Refusal::new(ErrorCode::Busy, "the queue has a ring, or is getting one"));
        }
        if queue.promised > Point(0) {
            let text = "a queue that has had jobs gets no ring; open another one";
            return Err(Refusal::new(ErrorCode::Busy, text).with(queue.promised.0, 0));
        }
        let (domain, instance) = (queue.domain, queue.instance);
        let is_theirs = |key: &&TimelineKey| {
            self.queues.get(**key).is_some_and(|other| other.client == asker.client && other.ring.is_some())
        };
        let has = self.instances.get(&instance).map_or(0, |i| i.queues.iter().filter(is_theirs).count());
        if has >= limits::CLIENT_RINGS {
            let text = "rings of a client at one instance; close a user queue";
            let most = limits::CLIENT_RINGS as u64;
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(has as u64 + 1, most));
        }
        let bytes = depth.memory_len() as u64;
        let wanted = [(Resource::Bytes, bytes), (Resource::Rings, 1), (Resource::Exports, 1)];
        let [bytes, one, export] = self.accounts.charge_all(domain, wanted)?;
        let charges = [bytes, one];
        let opening = Some((asker, export));
        let (state, committing, memory) = (RingState::Making, None, None);
        let (owes, answer_by, closing) = (0, None, false);
        let (ranges, sighted) = (BTreeMap::new(), Sighted::default());
        let ring = Ring {
            state,
            depth,
            charges,
            opening,
            committing,
            owes,
            answer_by,
            closing,
            memory,
            ranges,
            sighted,
        };
        if let Some(queue) = self.queues.get_mut(key) {
            queue.ring = Some(Box::new(ring));
        }
        self.out.push(Effect::MakeRing { timeline: key, depth });
        Ok(())
    }

    /// A client has touched all of a ring's memory: its driver may have it.
    pub(crate) fn commit_ring(&mut self, asker: Awaiting, commit: CommitRing) -> Outcome {
        let key = self.find_ringable(asker, commit.queue)?;
        let ring = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut());
        let Some(ring) = ring.filter(|ring| ring.state != RingState::Making) else {
            return Err(Refusal::new(ErrorCode::NotReady, "the queue has no ring"));
        };
        if ring.state != RingState::Made {
            return Err(Refusal::new(ErrorCode::Busy, "the ring is committed, or is being committed"));
        }
        (ring.state, ring.committing) = (RingState::Checking, Some(asker));
        self.out.push(Effect::CheckRing { timeline: key });
        Ok(())
    }

    /// The queue behind a handle, if its driver can be given a ring.
    pub(crate) fn find_ringable(&self, asker: Awaiting, handle: QueueHandle) -> Result<TimelineKey, Refusal> {
        let key = self.find_queue(asker.client, handle)?;
        let Some(queue) = self.queues.get(key) else { return Err(no_such_queue(handle)) };
        let instance = self.instances.get(&queue.instance);
        match queue.state {
            QueueState::Open if instance.is_some_and(|i| i.state == InstanceState::Ready) => Ok(key),
            QueueState::Open if instance.is_some_and(|i| i.goes_on()) => {
                Err(Refusal::new(ErrorCode::NotReady, "the device is being started again; ask later"))
            }
            QueueState::Open | QueueState::Closing | QueueState::Gone => {
                Err(Refusal::new(ErrorCode::Gone, "the queue's driver is gone; open a new queue"))
            }
        }
    }

    /// A client binds a range of an object.
    pub(crate) fn bind(&mut self, now: Time, asker: Awaiting, bind: &Bind) -> Outcome {
        let key = self.find_ringable(asker, bind.queue)?;
        let (object_key, rights) = self.find_handle(asker.client, bind.object)?;
        let grant = policy::authorise_use(object_key, rights, bind.access)?;
        let (object_key, access) = (grant.object(), grant.access());
        let Some(object) = self.objects.get(object_key) else { return Err(no_such_handle(bind.object.0)) };
        if object.state != ObjectState::Ready {
            return Err(Refusal::new(ErrorCode::NotReady, "the object is not committed"));
        }
        if access == Access::Write && matches!(object.kind, Kind::Sealed(_)) {
            return Err(Refusal::new(ErrorCode::Denied, "a sealed result is written by tracked jobs only"));
        }
        let is_inside = bind.offset.checked_add(bind.len).is_some_and(|end| end <= object.len);
        if !is_inside || bind.len == 0 {
            let text = format!("bytes from {} on of an object", bind.offset);
            let limit = object.len.saturating_sub(bind.offset);
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(bind.len, limit));
        }
        let Some(end) = bind.address.checked_add(bind.len).filter(|_| bind.address != 0) else {
            let text = "an address to bind at: not 0, and the range must end below 2^64";
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(bind.address, u64::MAX - bind.len));
        };
        let Some(queue) = self.queues.get(key) else { return Err(no_such_queue(bind.queue)) };
        let (instance, domain) = (queue.instance, queue.domain);
        let foreign = object.is_foreign_to(domain);
        let Some(ring) = queue.ring.as_ref().filter(|ring| ring.state == RingState::Attached) else {
            return Err(Refusal::new(ErrorCode::NotReady, "the queue has no ring that is committed"));
        };
        if let Some((start, other)) = ring.overlapping(bind.address, end) {
            let text = format!("overlaps the range of {} bytes that is bound at {start:#x}", other.len);
            return Err(Refusal::new(ErrorCode::Busy, text).with(bind.address, start));
        }
        if ring.ranges.len() >= limits::RING_BINDS {
            let (wanted, most) = (ring.ranges.len() as u64 + 1, limits::RING_BINDS as u64);
            let text = format!("ranges bound to one ring: at most {most}");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, most));
        }
        let fits = |m: &crate::objects::Mapping| m.access >= access && m.state != MappingState::Failed;
        if !object.mapping(instance).is_some_and(fits) {
            self.map_object(instance, object_key, access);
        }
        if let Some(object) = self.objects.get_mut(object_key) {
            object.uses += 1;
        }
        let (offset, len, state) = (bind.offset, bind.len, RangeState::Asked);
        let (object, retold, asker) = (object_key, false, Some(asker));
        let range = Range { object, offset, len, access, foreign, retold, state, asker };
        self.tell_bind(instance, key, bind.address, &range);
        self.owes(now, instance);
        if let Some(ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut()) {
            ring.ranges.insert(bind.address, range);
        }
        Ok(())
    }

    fn tell_bind(&mut self, instance: InstanceId, timeline: TimelineKey, address: u64, range: &Range) {
        let &Range { object, offset, len, access, foreign, .. } = range;
        let (foreign, reserved) = (u8::from(foreign), Zero);
        let bind = driver::Bind { timeline, object, offset, len, address, access, foreign, reserved };
        self.tell_driver(instance, bind);
    }

    /// A client undoes a Bind.
    pub(crate) fn unbind(&mut self, now: Time, asker: Awaiting, unbind: &Unbind) -> Outcome {
        let key = self.find_queue(asker.client, unbind.queue)?;
        let Some(queue) = self.queues.get_mut(key) else { return Err(no_such_queue(unbind.queue)) };
        let instance = queue.instance;
        let address = unbind.address;
        let none = || {
            let text = "no range is bound at this address";
            Refusal::new(ErrorCode::NoSuchHandle, text).with(address, 0)
        };
        let ring = queue.ring.as_mut().filter(|ring| ring.state == RingState::Attached);
        let range = ring.and_then(|ring| ring.ranges.get_mut(&address)).ok_or_else(none)?;
        if range.state != RangeState::Bound {
            let text = "the range is being bound, or unbound";
            return Err(Refusal::new(ErrorCode::Busy, text).with(address, 0));
        }
        (range.state, range.asker) = (RangeState::Leaving, Some(asker));
        self.tell_driver(instance, driver::Unbind { timeline: key, address });
        self.ring_owes(now, key);
        Ok(())
    }
}

// What comes of it.
impl Broker {
    /// A ring's memory was made, or could not be.
    pub(crate) fn ring_made(&mut self, key: TimelineKey, outcome: Result<(), i32>) {
        let queue = self.queues.get_mut(key);
        let ring = queue.and_then(|queue| Some((queue.handle, queue.ring.as_mut()?)));
        let Some((queue, ring)) = ring.filter(|(_, ring)| ring.state == RingState::Making) else {
            // The queue is gone, or its driver.
            if outcome.is_ok() {
                self.out.push(Effect::DropRing { timeline: key });
            }
            return;
        };
        if let Err(errno) = outcome {
            return self.ring_failed(key, errno, "memory for a ring");
        }
        ring.state = RingState::Made;
        let (depth, opening) = (ring.depth.entries(), ring.opening.take());
        let Some((asker, export)) = opening else { return };
        self.reply_with_fds(asker, RingAttached { queue, depth, reserved: Zero }, Attach::Ring(key), export);
    }

    /// Whether all of a ring's memory is there.
    pub(crate) fn ring_checked(&mut self, now: Time, key: TimelineKey, populated: bool) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let (instance, closing) = (queue.instance, queue.state != QueueState::Open);
        let Some(ring) = queue.ring.as_mut().filter(|ring| ring.state == RingState::Checking) else { return };
        if closing || !populated {
            ring.state = RingState::Made;
            let text = "some pages of the ring were never touched; write to all of them (MADV_POPULATE_WRITE) and \
                        commit again";
            if let Some(asker) = ring.committing.take() {
                let refusal = Refusal::new(ErrorCode::NotReady, text);
                self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
            }
            return;
        }
        ring.state = RingState::Attaching;
        let attach = driver::AttachRing { timeline: key, depth: ring.depth.entries(), reserved: Zero };
        self.tell_driver_with(instance, attach, Attach::Ring(key));
        self.owes(now, instance);
    }

    /// A driver looks at a ring from now on, or cannot.
    pub(crate) fn ring_ready(
        &mut self,
        now: Time,
        id: InstanceId,
        key: TimelineKey,
        errno: i32,
    ) -> Result<(), String> {
        let queue = self.queues.get_mut(key).filter(|queue| queue.instance == id);
        let ring = queue.and_then(|queue| queue.ring.as_mut());
        let Some(ring) = ring.filter(|ring| ring.state == RingState::Attaching) else {
            return Err(format!("answered for a ring of {key}, which it was not sent"));
        };
        if errno == 0 {
            ring.state = RingState::Attached;
        }
        let committing = ring.committing.take_if(|_| errno == 0);
        self.answered(now, id);
        if errno != 0 {
            self.ring_failed(key, errno, "the driver's mapping of a ring");
        }
        if let Some(asker) = committing {
            self.reply(asker.link, asker.request, Done {});
        }
        Ok(())
    }

    fn ring_failed(&mut self, key: TimelineKey, errno: i32, what: &str) {
        let refusal = Refusal::new(ErrorCode::System, format!("{what}: errno {errno}"));
        self.refuse_ring(key, &refusal.with(u64::from(errno.unsigned_abs()), 0), CauseId::NONE);
        self.drop_ring(key);
    }

    /// A driver reaches a range from now on, or cannot.
    pub(crate) fn bound(
        &mut self,
        now: Time,
        id: InstanceId,
        (key, address): (TimelineKey, u64),
        code: u32,
    ) -> Result<(), String> {
        let queue = self.queues.get_mut(key).filter(|queue| queue.instance == id);
        let ring = queue.and_then(|queue| queue.ring.as_mut());
        let Some(ring) = ring else {
            return Err(format!("answered for a range of {key} at {address:#x}, which has no ring"));
        };
        let range = ring.ranges.get_mut(&address);
        let Some(range) = range.filter(|range| range.state == RangeState::Asked || range.retold) else {
            return Err(format!(
                "answered for a range of {key} at {address:#x}, which it was not told to bind"
            ));
        };
        if std::mem::take(&mut range.retold) {
            self.answered(now, id);
            // Engines would go on without windows.
            let text = || format!("could not bind anew what it has bound at {address:#x} of {key}: {code}");
            return if code == 0 { Ok(()) } else { Err(text()) };
        }
        let (object, asker) = (range.object, range.asker.take());
        if code == 0 {
            range.state = RangeState::Bound;
            self.tell_foreign(object);
        } else {
            self.forget_range(key, address);
        }
        self.answered(now, id);
        let Some(asker) = asker.filter(|asker| self.clients.contains(asker.client)) else { return Ok(()) };
        if code == 0 {
            self.reply(asker.link, asker.request, Done {});
        } else {
            let text = "the driver could not map the object";
            let refusal = Refusal::new(ErrorCode::from_number(code), text).with(address, 0);
            self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
        }
        Ok(())
    }

    /// A driver reaches a range no more.
    pub(crate) fn unbound(
        &mut self,
        now: Time,
        id: InstanceId,
        key: TimelineKey,
        address: u64,
    ) -> Result<(), String> {
        let queue = self.queues.get_mut(key).filter(|queue| queue.instance == id);
        let ring = queue.and_then(|queue| queue.ring.as_mut());
        let range = ring.and_then(|ring| ring.ranges.get_mut(&address));
        let Some(range) = range.filter(|range| range.state == RangeState::Leaving) else {
            return Err(format!("let go of a range of {key} at {address:#x}, which it was not told to"));
        };
        let asker = range.asker.take();
        self.ring_answered(now, key);
        self.forget_range(key, address);
        if let Some(asker) = asker.filter(|asker| self.clients.contains(asker.client)) {
            self.reply(asker.link, asker.request, Done {});
        }
        Ok(())
    }

    /// Another domain has a handle of an object from now on: if it may write there, engines that reach it as bound go
    /// through windows.
    pub(crate) fn tell_foreign(&mut self, object: ObjectKey) {
        let Some(found) = self.objects.get(object).filter(|found| found.uses > 0) else { return };
        let instances = found.mappings.iter().filter_map(|mapping| self.instances.get(&mapping.instance));
        let mut told = Vec::new();
        for key in instances.flat_map(|instance| &instance.queues) {
            let Some(queue) = self.queues.get(*key).filter(|queue| found.is_foreign_to(queue.domain)) else {
                continue;
            };
            if queue.state != QueueState::Open {
                continue;
            }
            let ranges = queue.ring.iter().flat_map(|ring| &ring.ranges);
            let here =
                |range: &Range| range.object == object && !range.foreign && range.state == RangeState::Bound;
            told.extend(ranges.filter(|(_, range)| here(range)).map(|(at, _)| (queue.instance, *key, *at)));
        }
        for (instance, timeline, address) in told {
            let queue = self.queues.get_mut(timeline);
            let ring = queue.and_then(|queue| queue.ring.as_mut());
            let Some(range) = ring.and_then(|ring| ring.ranges.get_mut(&address)) else { continue };
            (range.foreign, range.retold) = (true, true);
            let &mut Range { object, offset, len, access, .. } = range;
            let (foreign, reserved) = (1, Zero);
            let bind = driver::Bind { timeline, object, offset, len, address, access, foreign, reserved };
            self.tell_driver(instance, bind);
            self.owes(self.now, instance);
        }
    }
}

// Ends.
impl Broker {
    /// The instance behind a queue is gone: its ring is over.
    pub(crate) fn lose_ring(&mut self, key: TimelineKey, failure: Failure) {
        let refusal = Refusal::new(ErrorCode::Gone, "the queue's driver is gone");
        self.refuse_ring(key, &refusal, failure.cause);
        let Some(ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut()) else { return };
        if ring.state == RingState::Making {
            return self.drop_ring(key);
        }
        (ring.state, ring.owes) = (RingState::Over, 0);
        self.timers.disarm(Timer::Ring(key), &mut ring.answer_by);
        self.out.push(Effect::KillRing { timeline: key, failure });
        self.forget_ranges(key);
    }

    /// Takes a queue's ring away, with its ranges; whoever waits is refused.
    pub(crate) fn drop_ring(&mut self, key: TimelineKey) {
        self.refuse_ring(key, &closed(), CauseId::NONE);
        self.forget_ranges(key);
        if let Some(mut ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.take()) {
            self.timers.disarm(Timer::Ring(key), &mut ring.answer_by);
            ring.charges.into_iter().for_each(|charge| self.accounts.give_back(charge));
            // What is being made is dropped when it is there.
            if ring.state != RingState::Making {
                self.out.push(Effect::DropRing { timeline: key });
            }
        }
    }

    /// A queue takes nothing more of its client's: who waits for a ring of it waits in vain.
    pub(crate) fn close_ring(&mut self, key: TimelineKey) {
        let Some(ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut()) else { return };
        let opening = ring.opening.take();
        let mut waiting: Vec<Awaiting> = ring.committing.take().into_iter().collect();
        if let Some((asker, export)) = opening {
            self.accounts.give_back(export);
            waiting.push(asker);
        }
        self.refuse_all(waiting, &closed(), CauseId::NONE);
    }

    /// Refuses all who wait for a ring or a range of it.
    fn refuse_ring(&mut self, key: TimelineKey, refusal: &Refusal, cause: CauseId) {
        let Some(ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut()) else { return };
        let opening = ring.opening.take();
        let mut waiting: Vec<Awaiting> =
            ring.ranges.values_mut().filter_map(|range| range.asker.take()).collect();
        waiting.extend(ring.memory.as_mut().and_then(|memory| memory.setting.take()));
        waiting.extend(ring.committing.take());
        if let Some((asker, export)) = opening {
            self.accounts.give_back(export);
            waiting.push(asker);
        }
        self.refuse_all(waiting, refusal, cause);
    }

    fn refuse_all(&mut self, mut waiting: Vec<Awaiting>, refusal: &Refusal, cause: CauseId) {
        waiting.retain(|asker| self.clients.contains(asker.client));
        for asker in waiting {
            self.refuse(asker.link, asker.request, refusal, cause);
        }
    }

    fn forget_ranges(&mut self, key: TimelineKey) {
        let ring = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut());
        let ranges = ring.map(|ring| std::mem::take(&mut ring.ranges)).unwrap_or_default();
        ranges.into_values().for_each(|range| self.release_range(&range));
    }

    fn forget_range(&mut self, key: TimelineKey, address: u64) {
        let ring = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut());
        if let Some(range) = ring.and_then(|ring| ring.ranges.remove(&address)) {
            self.release_range(&range);
        }
    }

    fn release_range(&mut self, range: &Range) {
        let Some(object) = self.objects.get_mut(range.object) else { return };
        object.uses = object.uses.saturating_sub(1);
        if object.is_released() {
            self.released.push(range.object);
        }
    }
}

fn closed() -> Refusal {
    Refusal::new(ErrorCode::Gone, "the queue was closed")
}
