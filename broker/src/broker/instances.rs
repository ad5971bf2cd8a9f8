//! Driver instances: their links, their ends, and what their pages show when they are gone.
//!
//! ```text
//!   InstanceStarted ─► linked ── closed, or nonsense, or core says so ─► killed ─┐
//!                        └────────────────── its process ends ───────────────────┴─► gone
//! ```
//!
//! An instance is gone when its pidfd says so *and* the keeper has told how it ended, or when core would wait for that no
//! longer; then it is left, and only its process is still watched. Before core hears of it,
//! what it had sent is taken to the end and its fence pages are read: nothing it did is lost, and nothing it may
//! still do is believed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use tracing::{info, warn};
use vgem_core::io::{Attach, Input, InstanceEnd, PairId, Seen, Settled};
use vgem_os::fence::{KeeperFace, Slot};
use vgem_os::seqpacket::{Packet as Received, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, DomainId, InstanceId, PageId, Point, Time, TimelineKey};
use vgem_proto::layout::fence_page;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{DriverMessage, NotMapped};
use vgem_proto::message::keeper::KillInstance;

use super::link::Link;
use super::outbox::Packet;
use super::poller::Source;
use super::shell::Shell;
use super::turns::{NEVER, is_past};

/// One driver process.
#[derive(Debug)]
pub(super) struct Instance {
    link: Link,
    pidfd: OwnedFd,
    /// Whose time it takes to hear it; nobody's if core did not want it any more when it came.
    domain: Option<DomainId>,
    /// Its process has ended: its pidfd says so.
    ended: bool,
    /// How, as the keeper says.
    status: Option<i32>,
    /// Why it was killed, if the shell did it.
    fault: Option<InstanceEnd>,
    /// Core has been told that it is gone.
    left: bool,
    /// The pairs it signals in, by its own number of the page.
    pages: BTreeMap<PageId, PairId>,
    /// The pairs it looks at, by its own number of the page.
    observes: BTreeMap<PageId, PairId>,
    /// Where each of its timelines is shown.
    shown: BTreeMap<TimelineKey, Vec<(PairId, Slot)>>,
}

impl Instance {
    /// Keeps track of where it signals and looks, from what it is told.
    fn told(&mut self, message: &DriverMessage, attach: &Attach) {
        match (message, attach) {
            (DriverMessage::SignalPage(page), Attach::Signaller(pair)) => {
                self.pages.insert(page.page, *pair);
            }
            (DriverMessage::ObservePage(page), Attach::Observer(pair)) => {
                self.observes.insert(page.page, *pair);
            }
            (DriverMessage::DropObservePage(page), _) => {
                self.observes.remove(&page.page);
            }
            (DriverMessage::DropSignalPage(page), _) => {
                if let Some(pair) = self.pages.remove(&page.page) {
                    self.shown.values_mut().for_each(|places| places.retain(|place| place.0 != pair));
                }
            }
            (DriverMessage::Publish(publish), _) => {
                if let (Some(pair), Some(slot)) = (self.pages.get(&publish.page), Slot::new(publish.slot)) {
                    self.shown.entry(publish.timeline).or_default().push((*pair, slot));
                }
            }
            (DriverMessage::Retire(retire), _) => {
                let place = self.pages.get(&retire.page).copied().zip(Slot::new(retire.slot));
                if let Some(places) = self.shown.get_mut(&retire.timeline) {
                    places.retain(|shown| Some(*shown) != place);
                    if places.is_empty() {
                        self.shown.remove(&retire.timeline);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Shell {
    /// Takes a new instance in.
    pub(super) fn adopt_instance(
        &mut self,
        instance: InstanceId,
        socket: Socket,
        pidfd: OwnedFd,
    ) -> Result<(), OsError> {
        // A driver has no fd to give; where the kernel can refuse one it does.
        socket.set_pass_rights(false)?;
        let link = Link::new(socket, Source::Instance(instance), usize::MAX, &self.poller)?;
        self.poller.add(&pidfd, Source::Process(instance))?;
        let domain = self.core.instance_domain(instance);
        if let Some(domain) = domain {
            self.turns.driver_came(domain);
        }
        let new = Instance {
            link,
            pidfd,
            domain,
            ended: false,
            status: None,
            fault: None,
            left: false,
            pages: BTreeMap::new(),
            observes: BTreeMap::new(),
            shown: BTreeMap::new(),
        };
        self.instances.insert(instance, new);
        Ok(())
    }

    /// Takes what an instance has sent, as far as its turn goes: so many messages, and none after `until`.
    pub(super) fn instance_ready(&mut self, id: InstanceId, most: usize, until: u64) {
        for turn in 0..most {
            if turn > 0 && is_past(until) {
                return;
            }
            let Some(instance) = self.instances.get_mut(&id) else { return };
            if matches!(instance.fault, Some(InstanceEnd::Broke(_))) {
                return;
            }
            // Asked until nothing is left: what a driver says is coalesced, and every word of it makes room.
            match instance.link.take(&mut self.buffer, true) {
                Ok(Some(Received::Data { len })) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default();
                    match DriverMessage::decode(bytes, Sender::Driver, 0) {
                        Ok((_, message)) => self.happen(Input::Driver { instance: id, message }),
                        Err(e) => return self.fault(id, InstanceEnd::Broke(e.to_string())),
                    }
                }
                Ok(Some(Received::TooLong { len })) => {
                    return self.fault(id, InstanceEnd::Broke(format!("a message of {len} bytes")));
                }
                Ok(Some(Received::Closed)) => return self.fault(id, InstanceEnd::HungUp),
                Ok(None) => return,
                Err(e) => {
                    tracing::debug!("{id}: {e}");
                    return self.fault(id, InstanceEnd::HungUp);
                }
            }
        }
    }

    /// Sends what waits for an instance.
    pub(super) fn instance_writable(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let flushed = instance.link.flush(&self.poller);
        self.drivers_lost(id);
        if let Err(e) = flushed {
            tracing::debug!("{id}: {e}");
            self.fault(id, InstanceEnd::HungUp);
        }
    }

    /// Sends a message to an instance, with its fds if they can be had.
    pub(super) fn tell_driver(&mut self, id: InstanceId, message: &DriverMessage, attach: &Attach) {
        let fds = match self.attached(attach) {
            Ok(fds) => fds,
            Err(e) => {
                warn!("{id} does not get {}: {e}", message.row().name);
                return self.driver_lost(id, message, e.errno());
            }
        };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.fault.is_some() {
            return;
        }
        instance.told(message, attach);
        self.send_to_driver(id, message.encode(0, Time(0), 0), fds);
    }

    /// Sends an instance jobs that core keeps.
    pub(super) fn send_run(&mut self, id: InstanceId, number: u32) {
        if let Some(run) = self.core.run(id, number) {
            let bytes = run.encode(0, Time(0), 0);
            self.send_to_driver(id, bytes, Vec::new());
        }
    }

    fn send_to_driver(&mut self, id: InstanceId, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        let Some(instance) = self.instances.get_mut(&id).filter(|i| i.fault.is_none()) else { return };
        let packet = Packet { bytes, fds, instead: None };
        let sent = instance.link.send(packet, &self.poller);
        self.drivers_lost(id);
        if let Err(e) = sent {
            tracing::debug!("{id}: {e}");
            self.fault(id, InstanceEnd::HungUp);
        }
    }

    /// Answers for a driver where the kernel refused what it was to have.
    fn drivers_lost(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        for bytes in instance.link.lost() {
            if let Ok((_, message)) = DriverMessage::decode(&bytes, Sender::Broker, 1) {
                self.driver_lost(id, &message, Errno::TOOMANYREFS);
            }
        }
    }

    /// What a driver was not sent it cannot map: the next job that needs it has it sent again, and nobody waits for it.
    fn driver_lost(&mut self, id: InstanceId, message: &DriverMessage, errno: Errno) {
        if let DriverMessage::Map(map) = message {
            let (object, errno) = (map.object, errno.raw_os_error());
            let message = DriverMessage::from(NotMapped { object, errno, reserved: Zero });
            self.inputs.push_back(Input::Driver { instance: id, message });
        }
    }

    /// Has the keeper kill an instance; it is gone when its process is.
    pub(super) fn kill(&mut self, instance: InstanceId) {
        self.ask_keeper(&KillInstance { instance }.into(), Vec::new());
    }

    /// An instance's process has ended.
    pub(super) fn process_ended(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.ended = true;
        // It stays readable for ever.
        if let Err(e) = self.poller.remove(&instance.pidfd) {
            warn!("{id}: {e}");
        }
        self.forget_if_gone(id);
    }

    /// The keeper says how an instance ended.
    pub(super) fn instance_exited(&mut self, id: InstanceId, status: i32) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.status = Some(status);
        self.forget_if_gone(id);
    }

    /// Ends an instance that did what none may.
    fn fault(&mut self, id: InstanceId, end: InstanceEnd) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.fault.is_some() {
            return;
        }
        if let InstanceEnd::Broke(how) = &end {
            warn!("{id} breaks the protocol and is killed: {how:?}");
        }
        let ended = instance.ended;
        instance.fault = Some(end);
        // Its socket would be reported as readable for ever.
        if let Err(e) = self.poller.remove(instance.link.socket()) {
            warn!("{id}: {e}");
        }
        if !ended {
            self.kill(id);
        }
    }

    fn forget_if_gone(&mut self, id: InstanceId) {
        let Some(Instance { ended: true, status: Some(status), .. }) = self.instances.get(&id) else {
            return;
        };
        let status = *status;
        if self.instances.get(&id).is_some_and(|instance| instance.left) {
            self.instances.remove(&id);
            info!("{id}, which was left, has ended: {status}");
            return self.happen(Input::InstanceReleased { instance: id });
        }
        // What it sent before it ended counts; there is an end to it.
        self.instance_ready(id, usize::MAX, NEVER);
        let Some(instance) = self.instances.remove(&id) else { return };
        if let Some(domain) = instance.domain {
            self.turns.driver_gone(domain);
        }
        let (settled, seen) = (self.read_pages(&instance), self.read_observed(&instance));
        let end = match instance.fault {
            Some(InstanceEnd::Broke(how)) => InstanceEnd::Broke(how),
            // A process that ends closes its link first: how it ended says more.
            _ => InstanceEnd::Exited(status),
        };
        info!("{id} is gone: {end:?}");
        self.happen(Input::InstanceGone { instance: id, end, settled, seen });
    }

    /// Treats an instance whose process does not end as if it had; only its process is looked after from now on.
    pub(super) fn leave_instance(&mut self, id: InstanceId) {
        self.instance_ready(id, usize::MAX, NEVER);
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| !instance.left) else { return };
        instance.left = true;
        let was_read = instance.fault.is_none();
        instance.fault.get_or_insert(InstanceEnd::HeldUp);
        if was_read && let Err(e) = self.poller.remove(instance.link.socket()) {
            warn!("{id}: {e}");
        }
        if let Some(domain) = instance.domain.take() {
            self.turns.driver_gone(domain);
        }
        let Some(instance) = self.instances.get(&id) else { return };
        let (settled, seen) = (self.read_pages(instance), self.read_observed(instance));
        warn!("{id} was killed and its process does not end: it is left");
        self.inputs.push_back(Input::InstanceGone { instance: id, end: InstanceEnd::HeldUp, settled, seen });
    }

    /// What the pages of an instance show: of each timeline the furthest slot.
    fn read_pages(&self, instance: &Instance) -> Vec<Settled> {
        let furthest = |(timeline, places): (&TimelineKey, &Vec<(PairId, Slot)>)| {
            let seen = places.iter().filter_map(|(pair, slot)| settled(self.face(*pair)?, *slot, *timeline));
            seen.max_by_key(|settled| settled.value)
        };
        instance.shown.iter().filter_map(furthest).collect()
    }

    /// What the pages show that an instance observed.
    fn read_observed(&self, instance: &Instance) -> Vec<Seen> {
        let look = |(page, pair): (&PageId, &PairId)| {
            let (page, face) = (*page, self.face(*pair)?);
            Some(Slot::all().map(move |slot| {
                let seen = face.slot(slot);
                Seen { page, slot: slot.index(), generation: seen.generation, value: Point(seen.value) }
            }))
        };
        instance.observes.iter().filter_map(look).flatten().collect()
    }
}

/// What a slot shows of a timeline; nothing if it does not show that timeline.
fn settled(page: &KeeperFace, slot: Slot, timeline: TimelineKey) -> Option<Settled> {
    let seen = page.slot(slot);
    let failure = |f: &vgem_os::fence::Failure| {
        let failure = Failure { code: ErrorCode::from_number(f.code), cause: CauseId(f.cause) };
        (Point(f.point), failure)
    };
    (seen.generation == timeline.generation).then(|| Settled {
        timeline,
        value: Point(seen.value),
        at: Time(seen.time_ns),
        failures: seen.failures.iter().map(failure).collect(),
        forgets: seen.fail_count as usize > fence_page::FAILURES,
    })
}
