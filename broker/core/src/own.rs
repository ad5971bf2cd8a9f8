//! Instances that serve one client and nobody else, and that client's own memory, which is no object.
//!
//! ```text
//!   OpenQueue(OPEN_OWN) ─► an instance in a seat of the client's own ─► AttachRing ─► AttachMemory + the fd, by the porter
//!                                                                                        │
//!   entry waits for a page ─► Stalled ─► killed ─► gone, as any other                    └─► driver: reads and writes
//!                                           └── its process does not end ─► held up ─► released
//! ```
//!
//! Whoever reads another process's memory can be held by it for ever: a page may have to come from a file server that
//! does not answer, and no signal ends that wait. So who reads is a process that serves nobody else, and has nobody
//! else's memory. It is in the tables as any instance is, but in a [`Seat`](crate::devices::Seat) of its client's own: it
//! takes no jobs, has no neighbours, leaves no heir, and is charged to its domain with what it may keep of the
//! client's memory.
//!
//! **Held up.** When such an instance was killed and its process does not end, it is left: its queues end at once, for
//! their reason, and the client is told. What remains is a process that will end one day and runs no code of its own before
//! that, but a copy that is under way may still reach what it has mapped. So the objects that it has mapped stay, and its
//! charge, until its pidfd says that it is gone. A domain with one such process gets no more of them: what one client
//! did, it cannot do a hundred times.
//!
//! The broker never reads what the fd leads to; it knows the windows only to have them well formed (M-169).
//!
//! Invariants: an instance of a client's own has one client's queues; a client has one per device at most; an instance
//! that is held up is in no table but that of those.

use std::collections::BTreeSet;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, InstanceId, ObjectKey, Point, QueueHandle, Time, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::client::{AttachMemory, Done, SetWindows};
use vgem_proto::message::driver;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Window, check_windows};

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::devices::{Instance, InstanceState, Seat, Verdict};
use crate::import::Wanted;
use crate::invariants::{Check, ensure};
use crate::io::{ArrivalId, Attach, Effect, Event};
use crate::objects::Awaiting;
use crate::queues::{Queue, QueueState};
use crate::requests::{Outcome, no_such_queue};
use crate::rings::RingState;

/// A client's own memory, as a ring reaches it.
#[derive(Debug)]
pub(crate) struct OwnMemory {
    /// What its fd allows.
    access: Access,
    /// Who waits until its windows are set.
    pub(crate) setting: Option<Awaiting>,
}

/// A process that was killed and does not end.
#[derive(Debug)]
pub(crate) struct HeldUp {
    pub(crate) domain: DomainId,
    pub(crate) device: String,
    pub(crate) client: ClientKey,
    pub(crate) pid: u32,
    /// Where it waits, if it said so.
    address: Option<u64>,
    /// Objects that it may still reach.
    pub(crate) mapped: BTreeSet<ObjectKey>,
    charge: Charge,
}

// Instances of a client's own.
impl Broker {
    /// Whether a seat may have an instance; if it is a client's own and has none yet, the charge for one.
    pub(crate) fn find_room_for_own(
        &mut self,
        now: Time,
        device: usize,
        seat: Seat,
    ) -> Result<Option<Charge>, Refusal> {
        if seat.client.is_none() {
            return Ok(None);
        }
        if let Some(held) = self.held_up.values().find(|held| held.domain == seat.domain) {
            let at = held.address.map(|address| format!(" at {address:#x}")).unwrap_or_default();
            let text = format!(
                "a driver of {} (pid {}) is held up in the kernel by the memory of a client of this domain{at}; until \
                 it ends the domain gets no more of its kind",
                held.device, held.pid
            );
            return Err(Refusal::new(ErrorCode::Unavailable, text).with(held.pid.into(), 0));
        }
        if self.devices.get(device).is_some_and(|device| device.instances.contains_key(&seat)) {
            return Ok(None);
        }
        let most = self.config.bounds.own_instances;
        let is_own = |instance: &&Instance| instance.domain == seat.domain && instance.own.is_some();
        let there = self.instances.values().filter(is_own).count();
        if there >= most {
            let text = format!("drivers that serve one client of a domain each: at most {most} at a time");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(there as u64 + 1, most as u64));
        }
        let charge = self.accounts.charge(seat.domain, Resource::Bytes, limits::OWN_BYTES)?;
        // Each is a process, as a porter is.
        let pace = (self.config.times.porter_ns, self.config.bounds.porter_burst);
        match self.accounts.pace_porter(seat.domain, now, pace) {
            Ok(()) => Ok(Some(charge)),
            Err(refusal) => {
                self.accounts.give_back(charge);
                Err(refusal)
            }
        }
    }

    /// A client is gone: an instance of its own that was not started yet never is, and how often it was lost nobody asks.
    pub(crate) fn drop_own_of(&mut self, client: ClientKey, domain: DomainId) {
        let seat = Seat { domain, client: Some(client) };
        for place in 0..self.devices.len() {
            let Some(device) = self.devices.get_mut(place) else { continue };
            if let Some(mut health) = device.health.remove(&seat) {
                self.timers.disarm(Timer::Restart(place, seat), &mut health.restart);
            }
            let Some(id) = device.instances.get(&seat).copied() else { continue };
            if self.instances.get(&id).is_some_and(|instance| instance.state == InstanceState::Pausing) {
                let charge = self.forget_instance(id).and_then(|instance| instance.own);
                charge.into_iter().for_each(|(_, charge)| self.accounts.give_back(charge));
            } else {
                self.rest_instance(self.now, id);
            }
        }
    }

    /// A driver waits for its client's memory, and nobody knows for how long (M-171).
    pub(crate) fn stalled(
        &mut self,
        now: Time,
        id: InstanceId,
        stalled: &driver::Stalled,
    ) -> Result<(), String> {
        let &driver::Stalled { timeline, point, address, since } = stalled;
        let queue = self.queues.get(timeline).filter(|queue| queue.instance == id && queue.is_own);
        if queue.is_none_or(|queue| queue.ring.is_none()) {
            return Err(format!("waits for memory of the client of {timeline}, which it was not given"));
        }
        let ms = now.since(since) / 1_000_000;
        self.kill_instance(id, Verdict::Stalled { point, address, ms });
        Ok(())
    }

    /// An instance of a client's own was killed a while ago, and its process has not ended.
    pub(crate) fn instance_is_held_up(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.left_at = None;
        if instance.state == InstanceState::Ending {
            self.out.push(Effect::LeaveInstance { instance: id });
        }
    }

    /// Keeps what a process may still reach that was left.
    pub(crate) fn hold_up(&mut self, id: InstanceId, instance: &mut Instance, mapped: BTreeSet<ObjectKey>) {
        let (domain, pid) = (instance.domain, instance.pid);
        let nothing = Charge::nothing(domain, Resource::Bytes);
        let Some((client, charge)) = instance.own.as_mut() else { return };
        let client = *client;
        let charge = std::mem::replace(charge, nothing);
        let address = match instance.verdict {
            Some(Verdict::Stalled { address, .. }) => Some(address),
            _ => None,
        };
        let device = self.devices.get(instance.device).map(|d| d.name().to_owned()).unwrap_or_default();
        self.held_up.insert(id, HeldUp { domain, device, client, pid, address, mapped, charge });
    }

    /// A process that was held up has ended.
    pub(crate) fn instance_released(&mut self, id: InstanceId) {
        let Some(held) = self.held_up.remove(&id) else { return };
        for object in &held.mapped {
            self.lose_mapping(id, *object);
        }
        self.accounts.give_back(held.charge);
        let event = Event::InstanceReleased { instance: id.0, device: held.device, pid: held.pid };
        self.log(Some(held.domain), event);
    }
}

// Invariants.
impl Broker {
    /// What is owed for instances of clients' own, those that were left included.
    pub(crate) fn own_charges(&self) -> impl Iterator<Item = &Charge> {
        let own =
            self.instances.values().filter_map(|instance| instance.own.as_ref().map(|(_, charge)| charge));
        own.chain(self.held_up.values().map(|held| &held.charge))
    }

    /// An instance of a client's own has that client's queues and no others, and none of anything that jobs need; only its
    /// queues are said to be a client's own.
    pub(crate) fn own_instance_fits(&self, id: InstanceId, instance: &Instance) -> Check {
        let queues = || instance.queues.iter().filter_map(|key| self.queues.get(*key));
        let is_own = instance.own.is_some();
        ensure(queues().all(|queue| queue.is_own == is_own), || format!("{id}: queues of both kinds"))?;
        let Some((client, charge)) = &instance.own else { return Ok(()) };
        ensure(queues().all(|queue| queue.client == *client), || format!("{id}: has queues of others"))?;
        ensure(charge.amount() == limits::OWN_BYTES, || format!("{id}: is charged with {charge:?}"))?;
        let jobs =
            instance.in_flight as usize + instance.observes.len() + usize::from(instance.estate.is_some());
        ensure(jobs == 0, || format!("{id}: serves one client and has what jobs need"))?;
        ensure(!self.held_up.contains_key(&id), || format!("{id}: was left, and is there"))
    }
}

// A client's own memory.
impl Broker {
    /// A client has entries reach its own memory.
    pub(crate) fn attach_memory(&mut self, now: Time, asker: Awaiting, attach: AttachMemory) -> Outcome {
        let (timeline, _) = self.find_own_ring(asker, attach.queue)?;
        check_windows(&attach.windows, Access::Write)?;
        self.ask_hand(now, asker, Wanted::Memory { timeline, windows: attach.windows })
    }

    /// The queue behind a handle, if it has a ring at an instance of the client's own; and whether it has its memory.
    fn find_own_ring(&self, asker: Awaiting, handle: QueueHandle) -> Result<(TimelineKey, bool), Refusal> {
        let key = self.find_ringable(asker, handle)?;
        let Some(queue) = self.queues.get(key) else { return Err(no_such_queue(handle)) };
        if !queue.is_own {
            let text = "the queue's driver serves others, too: open one with OPEN_OWN";
            return Err(Refusal::new(ErrorCode::Unsupported, text));
        }
        match queue.ring.as_ref().filter(|ring| ring.state == RingState::Attached) {
            Some(ring) => Ok((key, ring.memory.is_some())),
            None => Err(Refusal::new(ErrorCode::NotReady, "the queue has no ring to attach memory to")),
        }
    }

    /// The porter brought the memory of a process.
    pub(crate) fn memory_came(
        &mut self,
        asker: Awaiting,
        timeline: TimelineKey,
        windows: &[Window],
        (arrival, access): (ArrivalId, Access),
    ) -> Outcome {
        check_windows(windows, access)?;
        let gone = || Refusal::new(ErrorCode::Gone, "the queue's driver is gone; open a new queue");
        let is_theirs = |queue: &&mut Queue| queue.client == asker.client && queue.state == QueueState::Open;
        let queue = self.queues.get_mut(timeline).filter(is_theirs);
        let queue = queue.ok_or_else(gone)?;
        let instance = queue.instance;
        // Otherwise it is told nothing, and nobody would close the memory.
        let is_ready = |instance: &Instance| instance.state == InstanceState::Ready;
        self.instances.get(&instance).filter(|instance| is_ready(instance)).ok_or_else(gone)?;
        let ring = queue.ring.as_mut().filter(|ring| ring.state == RingState::Attached).ok_or_else(gone)?;
        if ring.memory.is_some() {
            return Err(Refusal::new(ErrorCode::Busy, "the queue has its client's memory already"));
        }
        ring.memory = Some(OwnMemory { access, setting: Some(asker) });
        let attach = driver::AttachMemory { timeline, windows: windows.to_vec() };
        self.tell_driver_with(instance, attach, Attach::Process(arrival));
        self.ring_owes(self.now, timeline);
        Ok(())
    }

    /// A client says anew where entries reach its own memory.
    pub(crate) fn set_windows(&mut self, now: Time, asker: Awaiting, set: SetWindows) -> Outcome {
        let (timeline, _) = self.find_own_ring(asker, set.queue)?;
        let Some(queue) = self.queues.get_mut(timeline) else { return Err(no_such_queue(set.queue)) };
        let instance = queue.instance;
        let Some(memory) = queue.ring.as_mut().and_then(|ring| ring.memory.as_mut()) else {
            return Err(Refusal::new(ErrorCode::NotReady, "attach the client's memory first"));
        };
        if memory.setting.is_some() {
            return Err(Refusal::new(ErrorCode::Busy, "the windows are being set"));
        }
        check_windows(&set.windows, memory.access)?;
        memory.setting = Some(asker);
        self.tell_driver(instance, driver::SetWindows { timeline, windows: set.windows });
        self.ring_owes(now, timeline);
        Ok(())
    }

    /// A driver reaches a client's memory as it was told.
    pub(crate) fn windows_set(&mut self, now: Time, id: InstanceId, key: TimelineKey) -> Result<(), String> {
        let queue = self.queues.get_mut(key).filter(|queue| queue.instance == id);
        let memory = queue.and_then(|queue| queue.ring.as_mut()?.memory.as_mut());
        let Some(asker) = memory.and_then(|memory| memory.setting.take()) else {
            return Err(format!("set windows of {key}, which it was not told to"));
        };
        self.ring_answered(now, key);
        if self.clients.contains(asker.client) {
            self.reply(asker.link, asker.request, Done {});
        }
        Ok(())
    }
}

/// What an instance that was ended while it waited for its client's memory is said to have done.
pub(crate) fn how_it_stalled(point: Point, address: u64, ms: u64) -> String {
    format!("was ended: entry {} waited {ms} ms for its client's memory at {address:#x}", point.0)
}
