//! Queues that are being opened, and the instances that are started for them.
//!
//! A request for a queue waits, boundedly, for two things: that the device's instance for the client's domain is
//! ready, and that there are pairs of pages for it. What the pairs are for:
//! - one slot in which the client sees the queue's timeline;
//! - room on the **routes** between instances of the domain, so that no batch can ever fail for want of a slot:
//!   the other instances must be able to see this timeline, and if it is the instance's first, it must be able to
//!   see theirs.
//!
//! Nothing is changed before all of it is there; then the queue opens in one step. A request that does not wait
//! (deadline 0) is refused when it would have to, but what it lacks is prepared all the same.

use std::collections::{BTreeMap, VecDeque};

use vgem_proto::VERSION;
use vgem_proto::codec::Zero;
use vgem_proto::describe::Description;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{
    CauseId, ClientKey, DomainId, InstanceId, PageId, Point, QueueHandle, Time, TimelineKey,
};
use vgem_proto::limits;
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{OpenQueue, QueueOpened};
use vgem_proto::message::driver::{ObservePage, OpenTimeline, Publish, Ready, Retire, SignalPage};

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::credits::FDS_OF_PAIR;
use crate::deadlines::Timer;
use crate::devices::{Instance, InstanceEvent, InstanceState, Outlook, Seat, Verdict};
use crate::io::{Attach, Effect, Event, PairId};
use crate::objects::Awaiting;
use crate::pairs::{Numbered, Pair, Party};
use crate::policy::{self, Action};
use crate::priority::Lent;
use crate::queues::{FailedPoints, Places, Queue, QueueState, Shown, Waiters, Watchers};
use crate::requests::{Outcome, full_table};
use crate::spares::Lacking;
use crate::tables::HandleTable;

/// A request for a queue that waits.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) asker: Awaiting,
    /// Place in the broker's list of devices.
    pub(crate) device: usize,
    pub(crate) seat: Seat,
    depth: u32,
    priority: u8,
    /// The charge for the queue.
    pub(crate) charge: Charge,
    /// The charge for the page that may come with the answer.
    pub(crate) export: Charge,
    /// When the client stops waiting.
    pub(crate) until: Option<Time>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    pub(crate) waiting: BTreeMap<u64, Opening>,
    /// Those that wait for pairs, first come first served.
    for_pairs: VecDeque<u64>,
    /// Pairs that the first of them lacks.
    pub(crate) lacking: usize,
    last: u64,
}

impl Openings {
    fn wait_for_pairs(&mut self, id: u64) {
        if !self.for_pairs.contains(&id) {
            self.for_pairs.push_back(id);
        }
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Opening> {
        self.for_pairs.retain(|other| *other != id);
        if self.for_pairs.is_empty() {
            self.lacking = 0;
        }
        self.waiting.remove(&id)
    }

    /// Those that wait for a device in a seat.
    pub(crate) fn of(&self, device: usize, seat: Seat) -> Vec<u64> {
        let concerns = |opening: &Opening| opening.device == device && opening.seat == seat;
        self.waiting.iter().filter(|(_, opening)| concerns(opening)).map(|(id, _)| *id).collect()
    }
}

impl Broker {
    /// A client asks for a queue.
    pub(crate) fn open_queue(
        &mut self,
        now: Time,
        asker: Awaiting,
        deadline: Time,
        (flags, open): (u16, &OpenQueue),
    ) -> Outcome {
        let client = self.find_client(asker.client)?;
        let device = self.find_allowed_device(asker.client, open.device)?;
        let depth = match open.depth {
            0 => limits::QUEUE_DEPTH_DEFAULT,
            depth if depth <= limits::QUEUE_DEPTH => depth,
            depth => {
                let text = format!("a queue holds at most {} jobs", limits::QUEUE_DEPTH);
                return Err(Refusal::new(ErrorCode::OutOfRange, text)
                    .with(u64::from(depth), u64::from(limits::QUEUE_DEPTH)));
            }
        };
        if open.priority > limits::PRIORITY {
            let text = format!("priorities are 0 to {}", limits::PRIORITY);
            let (value, limit) = (u64::from(open.priority), u64::from(limits::PRIORITY));
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(value, limit));
        }
        let bound = self.config.bounds.pending_opens;
        if client.opening >= bound {
            let text = format!("queues being opened by one client: at most {bound} at a time");
            return Err(
                Refusal::new(ErrorCode::Exhausted, text).with(client.opening as u64 + 1, bound as u64)
            );
        }
        if !client.queues.has_room() {
            return Err(full_table(HandleTable::<TimelineKey>::ROWS));
        }
        let grant = policy::authorise(client.subject(), Action::OpenQueue)?;
        let domain = grant.domain();
        let is_own = flags & OPEN_OWN != 0;
        let seat = Seat { domain, client: is_own.then_some(asker.client) };
        self.find_outlook(now, device, seat)?;
        let own = self.find_room_for_own(now, device, seat)?;
        let wanted = [(Resource::Queues, 1), (Resource::Exports, FDS_OF_PAIR)];
        let [charge, export] = match self.accounts.charge_all(domain, wanted) {
            Ok(charges) => charges,
            Err(refusal) => {
                own.into_iter().for_each(|charge| self.accounts.give_back(charge));
                return Err(refusal);
            }
        };
        if let Some(charge) = own {
            self.enter_instance(device, domain, Some((asker.client, charge)));
        }
        if let Some(client) = self.clients.get_mut(asker.client) {
            client.opening += 1;
        }
        self.pairs.refused = false;
        self.openings.last += 1;
        let id = self.openings.last;
        let mut until = None;
        if deadline != Time(0) {
            self.timers.arm(Timer::Opening(id), &mut until, deadline);
        }
        let priority = open.priority;
        let opening = Opening { asker, device, seat, depth, priority, charge, export, until };
        self.openings.waiting.insert(id, opening);
        self.want_instance(now, device, seat);
        self.try_to_open(now, id);
        if deadline == Time(0) && self.openings.waiting.contains_key(&id) {
            let text = "the device is not ready yet, and the request says not to wait (deadline 0)";
            self.fail_opening(now, id, &Refusal::new(ErrorCode::Late, text));
        }
        Ok(())
    }

    fn find_outlook(&self, now: Time, device: usize, seat: Seat) -> Outcome {
        let Some(found) = self.devices.get(device) else { return Ok(()) };
        match found.health.get(&seat).map_or(Outlook::Good, |health| health.outlook(now)) {
            Outlook::Good | Outlook::Pausing(_) => Ok(()),
            Outlook::Failed(until) => {
                let ms = until.since(now) / 1_000_000;
                let text = format!(
                    "device {} was lost too often for this {}; it may be tried again in {ms} ms",
                    found.name(),
                    if seat.client.is_some() { "client" } else { "domain" }
                );
                Err(Refusal::new(ErrorCode::Unavailable, text).with(ms, 0))
            }
        }
    }

    /// Sees that an instance is there or on its way, now or when its pause is over.
    pub(crate) fn want_instance(&mut self, now: Time, device: usize, seat: Seat) {
        let Some(found) = self.devices.get_mut(device) else { return };
        let known = found.instances.get(&seat).copied();
        if let Some(instance) = known.and_then(|id| self.instances.get_mut(&id))
            && instance.state != InstanceState::Pausing
        {
            self.timers.disarm(Timer::Idle(known.unwrap_or_default()), &mut instance.idle_at);
            return;
        }
        let outlook = found.health.get(&seat).map_or(Outlook::Good, |health| health.outlook(now));
        match outlook {
            Outlook::Good => {
                if let Some(health) = found.health.get_mut(&seat) {
                    self.timers.disarm(Timer::Restart(device, seat), &mut health.restart);
                }
                let (device_id, domain) = (found.id, seat.domain);
                // One of a client's own is in the tables from the request for it on.
                let instance = match (known, seat.client) {
                    (Some(known), _) => known,
                    (None, None) => self.enter_instance(device, domain, None),
                    (None, Some(_)) => return,
                };
                let Some(new) = self.instances.get_mut(&instance) else { return };
                if let Some(next) = new.state.after(InstanceEvent::Start) {
                    new.state = next;
                }
                self.out.push(Effect::StartInstance { instance, device: device_id, domain });
            }
            Outlook::Pausing(at) | Outlook::Failed(at) => {
                let health = found.health.entry(seat).or_default();
                self.timers.arm(Timer::Restart(device, seat), &mut health.restart, at);
            }
        }
    }

    /// Takes a new instance in that is to be started.
    pub(crate) fn enter_instance(
        &mut self,
        device: usize,
        domain: DomainId,
        own: Option<(ClientKey, Charge)>,
    ) -> InstanceId {
        self.last_instance = InstanceId(self.last_instance.0.wrapping_add(1));
        let id = self.last_instance;
        let instance = Instance::new(device, domain, own);
        if let Some(device) = self.devices.get_mut(device) {
            device.instances.insert(instance.seat(), id);
        }
        self.instances.insert(id, instance);
        id
    }

    /// A domain is announced: its instances start before anybody asks, and again when they are lost.
    pub(crate) fn prestart(&mut self, now: Time, domain: DomainId) {
        self.prestarted.insert(domain);
        for device in 0..self.devices.len() {
            self.want_instance(now, device, Seat::shared(domain));
        }
    }

    /// The keeper has started an instance: tell it who it is, and expect its greeting.
    pub(crate) fn instance_started(&mut self, now: Time, id: InstanceId, pid: u32) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(next) = instance.state.after(InstanceEvent::Started) else {
            self.bug(format!("{id} was started twice"));
            return;
        };
        instance.state = next;
        instance.pid = pid;
        let domain = instance.domain;
        let by = now.after(self.config.times.greeting_ns);
        self.timers.arm(Timer::Answer(id), &mut instance.answer_by, by);
        self.tell_who_it_is(id, domain);
    }

    /// An instance says that it is ready, and describes itself.
    pub(crate) fn instance_ready(&mut self, now: Time, id: InstanceId, ready: &Ready) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(device) = self.devices.get(instance.device) else { return };
        let fits = Description::decode(&ready.description).is_ok_and(|told| told == device.description);
        if ready.version != VERSION || !fits {
            let why = format!(
                "speaks version {} (the broker {VERSION}) and describes itself {}",
                ready.version,
                if fits { "as expected" } else { "differently than to the keeper" }
            );
            self.kill_instance(id, Verdict::Broke(why));
            return;
        }
        let Some(next) = instance.state.after(InstanceEvent::Greeted) else {
            self.kill_instance(id, Verdict::Broke("said Ready twice".into()));
            return;
        };
        instance.state = next;
        self.timers.disarm(Timer::Answer(id), &mut instance.answer_by);
        let (place, seat, name) = (instance.device, instance.seat(), device.name().to_owned());
        let domain = seat.domain;
        self.log(Some(domain), Event::InstanceReady { instance: id.0, device: name });
        self.take_over(now, id);
        for opening in self.openings.of(place, seat) {
            self.try_to_open(now, opening);
        }
        self.rest_instance(now, id);
    }

    /// Arms the end of an instance that nobody needs.
    pub(crate) fn rest_instance(&mut self, now: Time, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let seat = instance.seat();
        let needed = !instance.queues.is_empty()
            || seat.client.is_none() && self.prestarted.contains(&seat.domain)
            || !self.openings.of(instance.device, seat).is_empty();
        if instance.state == InstanceState::Ready && !needed {
            let is_orphan = seat.client.is_some_and(|client| !self.clients.contains(client));
            let at = if is_orphan { now } else { now.after(self.config.times.idle_ns) };
            self.timers.arm(Timer::Idle(id), &mut instance.idle_at, at);
        } else {
            self.timers.disarm(Timer::Idle(id), &mut instance.idle_at);
        }
    }

    /// Opens a queue if nothing is lacking any more.
    fn try_to_open(&mut self, now: Time, id: u64) {
        let Some(opening) = self.openings.waiting.get(&id) else { return };
        let Some(instance) =
            self.devices.get(opening.device).and_then(|d| d.instances.get(&opening.seat)).copied()
        else {
            return;
        };
        if self.instances.get(&instance).is_none_or(|i| i.state != InstanceState::Ready) {
            return;
        }
        let lacking = self.lacking_pairs(instance, opening.asker.client);
        if lacking.len() > self.pairs.spare() {
            self.openings.wait_for_pairs(id);
            if self.openings.for_pairs.front() == Some(&id) {
                self.openings.lacking = lacking.len();
            }
            return;
        }
        self.give_spares(lacking, None);
        if let Some(opening) = self.openings.remove(id) {
            self.open_now(now, id, opening, instance);
        }
        if self.openings.for_pairs.is_empty() {
            self.openings.lacking = 0;
        }
    }

    /// The pairs that one more queue of `client` at `instance` needs and that are not there.
    fn lacking_pairs(&self, id: InstanceId, client: ClientKey) -> Lacking {
        let mut lacking = Vec::new();
        let seen_by = self.clients.get(client).map(|client| client.pairs.as_slice()).unwrap_or_default();
        let signaller = Party::Instance(id);
        if self.pairs.usable(seen_by, signaller, &self.queues).is_none() {
            lacking.push((signaller, Party::Client(client)));
        }
        let Some(instance) = self.instances.get(&id) else { return lacking };
        for (other, peer) in self.neighbours(id) {
            let outwards = self.unseen(id, other) + 1;
            self.lacking_on_route(id, other, peer, outwards, &mut lacking);
            if instance.queues.is_empty() {
                self.lacking_on_route(other, id, instance, self.unseen(other, id), &mut lacking);
            }
        }
        lacking
    }

    fn lacking_on_route(
        &self,
        from: InstanceId,
        to: InstanceId,
        observer: &Instance,
        timelines: usize,
        lacking: &mut Lacking,
    ) {
        let room = self.pairs.room(&observer.observes, Party::Instance(from), &self.queues);
        let slots = usize::from(vgem_proto::layout::fence_page::SLOTS);
        let pairs = timelines.saturating_sub(room).div_ceil(slots);
        lacking.extend(std::iter::repeat_n((Party::Instance(from), Party::Instance(to)), pairs));
    }

    /// The other instances of the domain that have queues, and will have them. Those of single clients have no neighbours
    /// and are nobody's.
    pub(crate) fn neighbours(&self, id: InstanceId) -> impl Iterator<Item = (InstanceId, &Instance)> {
        let seat = self.instances.get(&id).map(Instance::seat).filter(|seat| seat.client.is_none());
        self.devices
            .iter()
            .filter_map(move |device| seat.and_then(|seat| device.instances.get(&seat)).copied())
            .filter(move |other| *other != id)
            .filter_map(|other| self.instances.get(&other).map(|peer| (other, peer)))
            .filter(|(_, peer)| peer.goes_on() && !peer.queues.is_empty())
    }

    /// Timelines of `signaller` that `observer` does not see.
    pub(crate) fn unseen(&self, signaller: InstanceId, observer: InstanceId) -> usize {
        let party = Party::Instance(observer);
        let queues =
            self.instances.get(&signaller).map(|instance| instance.queues.as_slice()).unwrap_or_default();
        queues
            .iter()
            .filter_map(|key| self.queues.get(*key))
            .filter(|queue| queue.shown.of(party).is_none())
            .count()
    }

    pub(crate) fn give_pair(&mut self, signaller: Party, observer: Party) -> Option<PairId> {
        let pair = self.pairs.give(signaller, observer)?;
        match signaller {
            Party::Client(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.signals.pairs.push(pair);
                }
            }
            Party::Instance(id) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.signals.push(pair);
                }
            }
        }
        match observer {
            Party::Client(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.pairs.push(pair);
                }
            }
            Party::Instance(id) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.observes.push(pair);
                }
            }
        }
        Some(pair)
    }

    fn open_now(&mut self, now: Time, id: u64, mut opening: Opening, instance: InstanceId) {
        self.timers.disarm(Timer::Opening(id), &mut opening.until);
        let Opening { asker, device, seat, depth, priority, charge, export, .. } = opening;
        let domain = seat.domain;
        let Some(client) = self.clients.get_mut(asker.client) else {
            self.accounts.give_back(charge);
            self.accounts.give_back(export);
            return;
        };
        client.opening = client.opening.saturating_sub(1);
        let key = self.queues.insert_with(|key| {
            let handle = QueueHandle(client.queues.insert(key));
            Queue {
                state: QueueState::Open,
                client: asker.client,
                handle,
                domain,
                device,
                instance,
                depth,
                priority,
                lent: Lent::default(),
                promised: Point(0),
                ended: Point(0),
                jobs: VecDeque::new(),
                uses: VecDeque::new(),
                waits: VecDeque::new(),
                charge,
                owed: Charge::nothing(domain, Resource::Jobs),
                shown: Places::default(),
                limit: None,
                is_checked: false,
                watching: None,
                watchers: Watchers::new(),
                failures: FailedPoints::default(),
                ended_at: Time(0),
                cancels: Vec::new(),
                hangs: 0,
                crosses: false,
                is_own: seat.client.is_some(),
                ring: None,
                lost: None,
            }
        });
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.queues.push(key);
        }
        self.prioritised += usize::from(priority > 0);
        self.rest_instance(now, instance);
        let open = OpenTimeline {
            timeline: key,
            client: asker.client,
            domain,
            value: Point(0),
            at: Time(0),
            priority,
            reserved: Zero,
            failures: Vec::new(),
        };
        self.tell_driver(instance, open);
        self.show_to_client(asker, key, depth, export);
    }

    fn show_to_client(&mut self, asker: Awaiting, key: TimelineKey, depth: u32, export: Charge) {
        let Some(place) = self.publish(key, Party::Client(asker.client)) else {
            self.accounts.give_back(export);
            self.bug(format!("{key}: no slot for its client, though one was there"));
            return;
        };
        let handle = self.queues.get(key).map(|queue| queue.handle).unwrap_or_default();
        let opened = QueueOpened {
            queue: handle,
            page: place.page,
            timeline: key,
            depth,
            slot: place.slot,
            reserved: Zero,
        };
        if place.is_new {
            self.reply_with_fds(asker, opened, Attach::Observer(place.pair), export);
        } else {
            self.accounts.give_back(export);
            self.reply(asker.link, asker.request, opened);
        }
    }

    /// Shows a timeline to one more observer.
    ///
    /// `None` if the observer has no slot for it; the rules about routes say that this cannot be.
    pub(crate) fn publish(&mut self, key: TimelineKey, observer: Party) -> Option<Place> {
        if self.promises.contains(key) {
            return self.publish_promises(key, observer);
        }
        let signaller = self.queues.get(key)?.instance;
        let candidates = match observer {
            Party::Client(client) => &self.clients.get(client)?.pairs,
            Party::Instance(id) => &self.instances.get(&id)?.observes,
        };
        let (pair, slot) = self.pairs.usable(candidates, Party::Instance(signaller), &self.queues)?;
        let (numbers, is_new) = self.number_pages(pair)?;
        if let Some((old, is_dead)) = self.pairs.show(pair, slot, key) {
            let retire = Retire { timeline: old, page: numbers.signal, slot, reserved: Zero };
            self.tell_driver(signaller, retire);
            if is_dead {
                self.out.push(Effect::Revive { pair, slot });
            }
        }
        self.tell_driver(signaller, Publish { timeline: key, page: numbers.signal, slot, reserved: Zero });
        let page = u16::try_from(numbers.observe.0).unwrap_or(u16::MAX);
        let shown = Shown { observer, pair, slot, page, waiters: Waiters::new() };
        self.queues.get_mut(key)?.shown.add(shown);
        self.failures_shown_to(key, observer);
        Some(Place { pair, page: numbers.observe, slot, is_new })
    }

    /// The numbers by which the parties know a pair; the first time it is sent to the instances among them.
    pub(crate) fn number_pages(&mut self, id: PairId) -> Option<(Numbered, bool)> {
        let &Pair { signaller, observer, numbers, .. } = self.pairs.get(id)?;
        if let Some(numbers) = numbers {
            let pair = self.pairs.get_mut(id)?;
            return Some((numbers, !std::mem::replace(&mut pair.sent, true)));
        }
        let signal = match signaller {
            Party::Instance(signaller) => {
                let page = PageId(self.instances.get_mut(&signaller)?.signal_numbers.take());
                self.tell_driver_with(signaller, SignalPage { page }, Attach::Signaller(id));
                page
            }
            Party::Client(signaller) => self.clients.get_mut(signaller)?.signals.take_page(),
        };
        let observe = match observer {
            Party::Client(client) => self.clients.get_mut(client)?.take_page(),
            Party::Instance(other) => {
                let page = PageId(self.instances.get_mut(&other)?.observe_numbers.take());
                self.tell_driver_with(other, ObservePage { page }, Attach::Observer(id));
                page
            }
        };
        let numbers = Numbered { signal, observe };
        let pair = self.pairs.get_mut(id)?;
        (pair.numbers, pair.sent) = (Some(numbers), true);
        Some((numbers, true))
    }

    /// A pair was made, or could not be: the first request that waits for one gets it, or the error.
    pub(crate) fn pair_made(&mut self, now: Time, pair: PairId, outcome: Result<(), i32>) {
        match outcome {
            Ok(()) => self.pairs.made(pair),
            Err(errno) => {
                self.pairs.not_made();
                if let Some(id) = self.openings.for_pairs.front().copied() {
                    let text = format!("pages to show the queue's fences in: errno {errno}");
                    let value = u64::from(errno.unsigned_abs());
                    self.fail_opening(now, id, &Refusal::new(ErrorCode::System, text).with(value, 0));
                }
            }
        }
        while let Some(first) = self.openings.for_pairs.front().copied() {
            self.try_to_open(now, first);
            if self.openings.for_pairs.front() == Some(&first) {
                break;
            }
        }
    }

    /// Asks for pairs ahead of need, and gives those back that no need is in sight for. After a failure nothing
    /// is asked for until somebody needs a pair.
    pub(crate) fn keep_spare_pairs(&mut self) {
        let for_crossings = self.pairs.wanted.values().copied().max().unwrap_or(0);
        let wanted = self.config.bounds.spare_pairs + self.openings.lacking.max(for_crossings);
        while self.pairs.spare() + self.pairs.making < wanted {
            if self.pairs.refused && self.openings.for_pairs.is_empty() {
                return;
            }
            let pair = self.pairs.ask();
            self.out.push(Effect::MakePair { pair });
        }
        while self.pairs.spare() > wanted
            && let Some(pair) = self.pairs.take_spare()
        {
            self.out.push(Effect::DropPair { pair });
        }
    }

    /// Refuses a request that has waited.
    pub(crate) fn fail_opening(&mut self, now: Time, id: u64, refusal: &Refusal) {
        let Some(asker) = self.forget_opening(now, id) else { return };
        if let Some(client) = self.clients.get_mut(asker.client) {
            client.opening = client.opening.saturating_sub(1);
            self.refuse(asker.link, asker.request, refusal, CauseId::NONE);
        }
    }

    /// Takes a request that has waited out of every table; gives who asked.
    pub(crate) fn forget_opening(&mut self, now: Time, id: u64) -> Option<Awaiting> {
        let mut opening = self.openings.remove(id)?;
        self.timers.disarm(Timer::Opening(id), &mut opening.until);
        self.accounts.give_back(opening.charge);
        self.accounts.give_back(opening.export);
        let device = self.devices.get(opening.device);
        if let Some(instance) = device.and_then(|d| d.instances.get(&opening.seat)).copied() {
            self.rest_instance(now, instance);
        }
        Some(opening.asker)
    }
}

/// Where a timeline is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) pair: PairId,
    /// The observer's number of the page.
    pub(crate) page: PageId,
    pub(crate) slot: u16,
    /// Whether the observer sees the page for the first time.
    pub(crate) is_new: bool,
}
