//! Carrying out effects: one arm per thing that core can want.

use std::os::fd::OwnedFd;

use tracing::{debug, info, warn};
use vgem_core::io::{Attach, Effect, Input, PairId};
use vgem_os::fence::{Failure as SlotFailure, KeeperFace, PagePair, Slot};
use vgem_os::ring::KeeperRing;
use vgem_os::{OsError, gc};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point, TimelineKey};
use vgem_proto::message::keeper::{Drop, Keep, OpenDoor, StartDoorman, StartInstance, StartPorter};
use vgem_proto::user_queue::Depth;

use super::shell::{Pair, Ring, Shell};

/// Core never names a pair that was not made, or was dropped: if it does, this is what it hears.
const NO_SUCH_PAIR: OsError = OsError::new("pair", vgem_os::Errno::NOENT);
/// The same of rings.
const NO_SUCH_RING: OsError = OsError::new("ring", vgem_os::Errno::NOENT);

impl Shell {
    /// Carries out one effect. Outcomes that core waits for are left in `inputs`.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ToDriver { instance, message, attach } => self.tell_driver(instance, &message, &attach),
            Effect::Run { instance, number } => self.send_run(instance, number),
            Effect::Reply { link, request, message, attach } => self.reply(link, request, message, &attach),
            Effect::Inspect { link, request, scope, topic, cursor } => {
                self.inspect(link, request, scope, topic, cursor);
            }
            Effect::Disconnect { link, why } => self.disconnect(link, &why),
            Effect::MakeObject { sealable, object, len, huge, name } => {
                let made = self.memory.make(object, sealable, len, huge, &name, self.asking);
                self.inputs.push_back(Input::ObjectMade { object, outcome: made.map_err(|e| errno(&e)) });
            }
            Effect::CheckPopulated { object } => {
                let populated = self.memory.is_populated(object);
                self.inputs.push_back(Input::PopulatedChecked { object, populated });
            }
            Effect::Keep { object, len } => match self.memory.duplicate(object) {
                Ok(fd) => self.ask_keeper(&Keep { object, len }.into(), vec![fd]),
                Err(e) => {
                    // Works unkept and unpinned; a broker crash would lose it.
                    warn!("{object} is not kept: {e}");
                    self.inputs.push_back(Input::Kept { object, pinned: 0 });
                }
            },
            Effect::Drop { object } => self.ask_keeper(&Drop { object }.into(), Vec::new()),
            Effect::Watch { object } => {
                if let Err(e) = self.memory.watch(object) {
                    // Without the hint core's own sweeps find it.
                    warn!("{object} is not watched: {e}");
                }
            }
            Effect::Probe { object } => {
                if let Some(what) = self.memory.tampered(object) {
                    self.inputs.push_back(Input::Tampered { object, what });
                }
                let free = self.memory.probe(object, |link| self.clients.contains_key(&link));
                self.inputs.push_back(Input::Probed { object, free });
            }
            Effect::Free { object } => {
                if let Some(gone) = self.memory.free(object) {
                    self.inputs.push_back(Input::Freed { object, gone });
                }
            }
            Effect::MakePair { pair } => {
                let outcome = self.make_pair(pair).map_err(|e| errno(&e));
                self.inputs.push_back(Input::PairMade { pair, outcome });
            }
            Effect::MakeRing { timeline, depth } => {
                let outcome = self.make_ring(timeline, depth).map_err(|e| errno(&e));
                self.inputs.push_back(Input::RingMade { timeline, outcome });
            }
            Effect::CheckRing { timeline } => {
                let populated = self.rings.get(&timeline).is_some_and(|ring| {
                    ring.face
                        .is_populated()
                        .inspect_err(|e| warn!("the ring of {timeline}: {e}"))
                        .unwrap_or(false)
                });
                self.inputs.push_back(Input::RingChecked { timeline, populated });
            }
            Effect::DropRing { timeline } => {
                if let Some(ring) = self.rings.remove(&timeline) {
                    self.memory.forget_page(ring.inode);
                }
            }
            Effect::KillRing { timeline, failure } => {
                if let Some(ring) = self.rings.get(&timeline) {
                    ring.face.kill(failure);
                }
            }
            Effect::DropPair { pair } => {
                if let Some(pair) = self.pairs.remove(&pair) {
                    self.memory.forget_pages(pair.inodes);
                }
            }
            Effect::Settle { pair, slot, timeline, value, at, failures, dead_from, code, cause } => {
                if let (Some(page), Some(slot)) = (self.face(pair), Slot::new(slot)) {
                    let failures: Vec<SlotFailure> = failures.iter().map(slot_failure).collect();
                    page.settle(slot, timeline.generation, value.0, at.0, &failures);
                    page.kill_slot(slot, dead_from.0, code.number(), cause.0);
                }
            }
            Effect::DrawToken { id } => match random() {
                Ok(token) => self.inputs.push_back(Input::TokenDrawn { id, token }),
                // Whoever asked is told so when it would have been too old.
                Err(e) => warn!("no token for a timeline: {e}"),
            },
            Effect::Look { timeline, pair, slot } => {
                let (value, failures) = self.look(timeline, pair, slot);
                self.inputs.push_back(Input::Looked { timeline, value, failures });
            }
            Effect::Raise { timeline, primary, place } => {
                let slots = Slot::new(primary.1).zip(Slot::new(place.1));
                if let (Some((primary_slot, slot)), Some(primary), Some(face)) =
                    (slots, self.face(primary.0), self.face(place.0))
                {
                    face.raise(slot, timeline.generation, primary, primary_slot);
                }
            }
            Effect::CheckSight { timeline, point, sights } => {
                let is_hidden = |(awaited, until, (pair, slot)): &(TimelineKey, Point, (PairId, u16))| {
                    let place = self.face(*pair).zip(Slot::new(*slot));
                    place.is_some_and(|(face, slot)| !face.shows(slot, awaited.generation, until.0))
                };
                let hidden = sights.iter().filter(|sight| is_hidden(sight)).map(|sight| sight.0).collect();
                self.inputs.push_back(Input::SightChecked { timeline, point, hidden });
            }
            Effect::News { pairs, news } => self.tell_news(&pairs, news),
            Effect::Fill { primary, pair, slot, timeline } => {
                let places = Slot::new(primary.1).zip(Slot::new(slot));
                if let (Some(primary_slot), Some(primary), Some(face)) =
                    (places, self.face(primary.0), self.face(pair))
                {
                    let (primary_slot, slot) = primary_slot;
                    face.fill(slot, timeline.generation, primary, primary_slot);
                }
            }
            Effect::KillSlot { pair, slot, dead_from, code, cause } => {
                if let (Some(page), Some(slot)) = (self.face(pair), Slot::new(slot)) {
                    page.kill_slot(slot, dead_from.0, code.number(), cause.0);
                }
            }
            Effect::Level { pair, slot, timeline, value, at, failures } => {
                if let (Some(page), Some(slot)) = (self.face(pair), Slot::new(slot)) {
                    let failures: Vec<SlotFailure> = failures.iter().map(slot_failure).collect();
                    page.level(slot, timeline.generation, value.0, at.0, &failures);
                }
            }
            Effect::Revive { pair, slot } => {
                if let (Some(page), Some(slot)) = (self.face(pair), Slot::new(slot)) {
                    page.revive_slot(slot);
                }
            }
            Effect::KillPage { pair, code, cause } => {
                if let Some(page) = self.face(pair) {
                    page.kill_page(code.number(), cause.0);
                }
            }
            Effect::OpenDoor { domain, name } => {
                self.ask_keeper(&OpenDoor { domain, name: name.into_bytes() }.into(), Vec::new());
            }
            Effect::CloseDoor { domain } => self.close_door(domain),
            Effect::StartInstance { instance, device, domain } => {
                self.ask_keeper(&StartInstance { instance, device, domain }.into(), Vec::new());
            }
            Effect::KillInstance { instance, why } => {
                info!("{instance} is ended: {why:?}");
                self.kill(instance);
            }
            Effect::LeaveInstance { instance } => self.leave_instance(instance),
            Effect::Log { domain, event } => self.event(domain, event),
            Effect::Monitor { link, scope } => self.monitor(link, scope),
            Effect::Trace { link, scope } => self.trace(link, scope),
            Effect::Traced { domain, traced, abroad } => self.traced(domain, &traced, &abroad),
            Effect::StartPorter { porter } => self.start_porter(porter, &StartPorter { porter }.into()),
            Effect::StartDoorman { porter } => self.start_porter(porter, &StartDoorman { porter }.into()),
            Effect::LetIn { porter, domain } => self.let_in_from(porter, domain),
            Effect::KillPorter { porter, why } => {
                debug!("{porter} is ended: {why:?}");
                self.kill_porter(porter);
            }
            Effect::TakeArrival { arrival, object } => {
                let taken = self.take_arrival(arrival, object).inspect_err(|e| debug!("{object}: {e}"));
                self.inputs.push_back(Input::ObjectMade { object, outcome: taken.map_err(|e| errno(&e)) });
            }
            Effect::DropArrival { arrival } => self.porters.drop_arrival(arrival),
            Effect::Seal { object } => {
                let sealed = self.memory.seal(object).inspect_err(|e| warn!("{object}: {e}"));
                self.inputs.push_back(Input::Sealed { object, outcome: sealed.map_err(|e| errno(&e)) });
            }
            Effect::Punch { object } => {
                if let Err(e) = self.memory.punch(object) {
                    warn!("{object} is not destroyed: {e}");
                }
            }
            Effect::CollectInFlight => {
                if let Err(e) = gc::collect_in_flight() {
                    debug!("{e}");
                }
            }
            Effect::CheckReceived { link } => self.check_received(link),
        }
    }

    fn make_pair(&mut self, pair: PairId) -> Result<(), OsError> {
        let face = PagePair::create()?;
        let inodes = self.memory.note_pages(&face)?;
        self.pairs.insert(pair, Pair { face, inodes, watched: false });
        Ok(())
    }

    fn make_ring(&mut self, timeline: TimelineKey, depth: Depth) -> Result<(), OsError> {
        let face = KeeperRing::create(depth)?;
        let inode = self.memory.note_page(&face.duplicate()?)?;
        self.rings.insert(timeline, Ring { face, inode });
        Ok(())
    }

    /// What a client claims to have signalled of a timeline.
    pub(super) fn look(
        &self,
        timeline: TimelineKey,
        pair: PairId,
        slot: u16,
    ) -> (Point, Vec<(Point, Failure)>) {
        let found = self.face(pair).zip(Slot::new(slot)).map(|(page, slot)| page.slot(slot));
        let found = found.filter(|found| found.generation == timeline.generation);
        found.map_or((Point(0), Vec::new()), |found| {
            let failures = found.failures.iter().map(failure_of).collect();
            (Point(found.value), failures)
        })
    }

    /// Tells a client that there is something to be shown.
    fn tell_news(&mut self, pairs: &[PairId], news: u32) {
        for pair in pairs {
            let Some(Pair { face, watched, .. }) = self.pairs.get_mut(pair) else { continue };
            if !*watched {
                match face.take_interest() {
                    Ok(()) => *watched = true,
                    // The client will not hear of new observers; they see what was there when they came.
                    Err(e) => warn!("a primary page: {e}"),
                }
            }
            face.set_news(news);
        }
    }

    /// The face of a pair.
    pub(super) fn face(&self, pair: PairId) -> Option<&KeeperFace> {
        self.pairs.get(&pair).map(|pair| &pair.face)
    }

    /// The fds that go with a message.
    pub(super) fn attached(&mut self, attach: &Attach) -> Result<Vec<OwnedFd>, OsError> {
        match attach {
            Attach::None => Ok(Vec::new()),
            Attach::Export { object, access } => self.memory.export(*object, *access).map(|fd| vec![fd]),
            Attach::Exports { objects, access } => {
                objects.iter().map(|object| self.memory.export(*object, *access)).collect()
            }
            Attach::Channel(porter) => self.porters.channel(*porter).map(|fd| vec![fd]),
            Attach::Signaller(pair) => {
                let fds = self.face(*pair).ok_or(NO_SUCH_PAIR)?.signaller_fds()?;
                Ok(vec![fds.page, fds.interest])
            }
            Attach::Signallers(pairs) => {
                let mut all = Vec::with_capacity(2 * pairs.len());
                for pair in pairs {
                    let fds = self.face(*pair).ok_or(NO_SUCH_PAIR)?.signaller_fds()?;
                    all.extend([fds.page, fds.interest]);
                }
                Ok(all)
            }
            Attach::Process(arrival) => self.porters.process(*arrival).map(|fd| vec![fd]),
            Attach::Ring(timeline) => {
                let ring = self.rings.get(timeline).ok_or(NO_SUCH_RING)?;
                ring.face.export().map(|fd| vec![fd])
            }
            Attach::Observer(pair) => self.observer(*pair).map(Vec::from),
            Attach::Observers(pairs) => {
                let mut all = Vec::with_capacity(2 * pairs.len());
                for pair in pairs {
                    all.extend(self.observer(*pair)?);
                }
                Ok(all)
            }
        }
    }

    fn observer(&self, pair: PairId) -> Result<[OwnedFd; 2], OsError> {
        let fds = self.face(pair).ok_or(NO_SUCH_PAIR)?.observer_fds()?;
        Ok([fds.page, fds.interest])
    }

    /// Sends what waits for the keeper.
    pub(super) fn keeper_writable(&mut self) {
        if let Err(e) = self.keeper.flush(&self.poller) {
            self.end(Err(e.into()));
        }
        self.keeper_lost();
    }
}

fn errno(e: &OsError) -> i32 {
    e.errno().raw_os_error()
}

fn slot_failure((point, failure): &(Point, Failure)) -> SlotFailure {
    SlotFailure { point: point.0, code: failure.code.number(), cause: failure.cause.0 }
}

fn failure_of(failure: &SlotFailure) -> (Point, Failure) {
    let (code, cause) = (ErrorCode::from_number(failure.code), CauseId(failure.cause));
    (Point(failure.point), Failure { code, cause })
}

/// 128 fresh random bits.
pub(super) fn random() -> Result<[u64; 2], OsError> {
    let mut bits = [0_u8; 16];
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| OsError::new("getrandom", e))?;
    let (high, low) = bits.split_at(8);
    let half = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Ok([half(high), half(low)])
}
