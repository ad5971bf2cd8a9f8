//! Commits: objects become ready, several at once, all or none.
//!
//! First every object's pages are looked for; only when all are there does the keeper take them. A sealed result
//! has two more steps: the one device instance that may write it maps it, then its memory is sealed against
//! every other writing. The last object to be so far makes all of them ready; if one cannot be, all of them are
//! as they were, and what the keeper has or what is sealed stays so for the next try.
//!
//! Invariants: an object names its commit (`awaiting`) exactly while the commit lists it and it was not ready
//! before; `missing` is how many of those the commit still has to hear of in its present half; after the first
//! half none is Checking, in the second all are Keeping to Sealing.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, DomainId, Handle, InstanceId, ObjectKey};
use vgem_proto::message::client::Committed;
use vgem_proto::rights::Access;

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::devices::{InstanceState, Seat};
use crate::io::{Effect, Event};
use crate::objects::{Awaiting, Kind, MappingState, ObjectEvent, ObjectState, Writer};
use crate::policy;
use crate::requests::{Outcome, no_such_handle};

/// Objects that one request is having committed.
#[derive(Debug)]
pub(crate) struct Committing {
    pub(crate) asker: Awaiting,
    domain: DomainId,
    /// All that the request named, in its order; also those that were ready before.
    pub(crate) objects: Vec<ObjectKey>,
    pub(crate) missing: usize,
    /// Why it cannot be, and the place of the object that says so.
    refusal: Option<(usize, Refusal)>,
}

impl Committing {
    /// The place of an object in the request.
    fn place_of(&self, key: ObjectKey) -> usize {
        self.objects.iter().position(|other| *other == key).unwrap_or(usize::MAX)
    }

    fn refuse(&mut self, key: ObjectKey, refusal: Refusal) {
        let place = self.place_of(key);
        if self.refusal.as_ref().is_none_or(|(first, _)| place < *first) {
            self.refusal = Some((place, refusal));
        }
    }
}

impl Broker {
    /// A client says that every page of these objects is there.
    pub(crate) fn commit(&mut self, asker: Awaiting, handles: &[Handle]) -> Outcome {
        let domain = self.find_client(asker.client)?.peer.domain;
        if handles.is_empty() {
            let text = "Commit names at least one object";
            return Err(Refusal::new(ErrorCode::BadParameter, text).with(0, 1));
        }
        let mut objects = Vec::with_capacity(handles.len());
        for (place, handle) in (0u16..).zip(handles) {
            let key =
                self.find_for_commit(asker, domain, *handle).map_err(|refused| refused.in_part(place))?;
            if objects.contains(&key) {
                let text = "an object is named twice in one Commit";
                let refusal = Refusal::new(ErrorCode::BadParameter, text).with(u64::from(handle.0), 1);
                return Err(refusal.in_part(place));
            }
            objects.push(key);
        }
        let mut pins = self.charge_pins(domain, &objects)?;
        self.last_awaiting += 1;
        let id = self.last_awaiting;
        let mut missing = 0;
        for key in &objects {
            let Some(object) = self.objects.get_mut(*key) else { continue };
            let Some(next) = object.state.after(ObjectEvent::Commit) else { continue };
            object.state = next;
            object.awaiting = Some(id);
            if object.pin_charge.is_none() {
                object.pin_charge = Some(pins.split(object.len));
            }
            missing += 1;
            self.out.push(Effect::CheckPopulated { object: *key });
        }
        self.commits.insert(id, Committing { asker, domain, objects, missing, refusal: None });
        if missing == 0 {
            self.end_commit(id);
        }
        Ok(())
    }

    /// Charges for what a commit pins: those of its objects that nobody owes for yet.
    fn charge_pins(&mut self, domain: DomainId, objects: &[ObjectKey]) -> Result<Charge, Refusal> {
        let objects = objects.iter().filter_map(|key| self.objects.get(*key));
        let new = objects.filter(|o| o.pin_charge.is_none() && o.state.after(ObjectEvent::Commit).is_some());
        let bytes = new.fold(0, |sum: u64, object| sum.saturating_add(object.len));
        self.accounts.charge(domain, Resource::Pinned, bytes)
    }

    fn find_for_commit(
        &self,
        asker: Awaiting,
        domain: DomainId,
        handle: Handle,
    ) -> Result<ObjectKey, Refusal> {
        let (key, rights) = self.find_handle(asker.client, handle)?;
        let Some(object) = self.objects.get(key) else { return Err(no_such_handle(handle.0)) };
        let _grant = policy::authorise_commit(key, rights, object.creator == asker.client)?;
        match object.state {
            ObjectState::Ready => Ok(key),
            ObjectState::Created => {
                if let Kind::Sealed(writer) = object.kind {
                    self.find_writer(key, writer, domain)?;
                }
                Ok(key)
            }
            ObjectState::Making
            | ObjectState::Checking
            | ObjectState::Checked
            | ObjectState::Keeping
            | ObjectState::Kept
            | ObjectState::Mapping
            | ObjectState::Sealing
            | ObjectState::Unmapping
            | ObjectState::Dropping
            | ObjectState::Probing
            | ObjectState::Orphaned
            | ObjectState::Freeing
            | ObjectState::Gone => {
                let text = "the object is being committed already";
                Err(Refusal::new(ErrorCode::Busy, text).with(u64::from(handle.0), 0))
            }
        }
    }

    /// The instance that may write a sealed result.
    fn find_writer(&self, key: ObjectKey, writer: Writer, domain: DomainId) -> Result<InstanceId, Refusal> {
        let device = self.devices.get(writer.device);
        let name = device.map(|device| device.name()).unwrap_or_default();
        let instance = device.and_then(|device| device.instances.get(&Seat::shared(domain))).copied();
        let runs = |id: &InstanceId| self.instances.get(id).is_some_and(|i| i.state == InstanceState::Ready);
        if writer.sealed {
            // Nobody else can ever map it for writing.
            let maps = |id: InstanceId| self.objects.get(key).and_then(|object| object.mapping(id));
            return writer.instance.filter(|id| runs(id) && maps(*id).is_some()).ok_or_else(|| {
                let text =
                    format!("the instance of device {name} that was to write it is gone; make another");
                Refusal::new(ErrorCode::Gone, text)
            });
        }
        instance.filter(runs).ok_or_else(|| {
            let text =
                format!("a sealed result needs its writer when it is committed: open a queue on {name}");
            Refusal::new(ErrorCode::NotReady, text)
        })
    }

    /// Whether every page of an object is there.
    pub(crate) fn populated_checked(&mut self, key: ObjectKey, populated: bool) {
        let event = if populated { ObjectEvent::Populated } else { ObjectEvent::Unpopulated };
        let Some(object) = self.step(key, event) else { return };
        let Some(id) = object.awaiting else { return };
        if !populated {
            object.awaiting = None;
            self.released.push(key);
            let text =
                "some pages were never touched; write to all of them (MADV_POPULATE_WRITE) and commit again";
            if let Some(commit) = self.commits.get_mut(&id) {
                let place = commit.place_of(key) as u64;
                commit.refuse(key, Refusal::new(ErrorCode::NotReady, text).with(place, 0));
            }
        }
        let Some(commit) = self.commits.get_mut(&id) else { return };
        commit.missing -= 1;
        if commit.missing > 0 {
            return;
        }
        if commit.refusal.is_some() {
            self.end_commit(id);
        } else {
            self.keep_all(id);
        }
    }

    /// The second half: every page is there.
    fn keep_all(&mut self, id: u64) {
        let Some(commit) = self.commits.get_mut(&id) else { return };
        let mut objects = commit.objects.clone();
        objects.retain(|key| self.objects.get(*key).is_some_and(|object| object.awaiting == Some(id)));
        commit.missing = objects.len();
        for key in objects {
            let Some(object) = self.step(key, ObjectEvent::Keep) else { continue };
            let (len, pinned) = (object.len, object.pinned);
            if std::mem::replace(&mut object.kept, true) {
                self.kept(key, pinned);
            } else {
                self.out.push(Effect::Keep { object: key, len });
            }
        }
    }

    /// The keeper has an object.
    pub(crate) fn kept(&mut self, key: ObjectKey, pinned: u64) {
        let Some(object) = self.step(key, ObjectEvent::Kept) else { return };
        object.pinned = pinned;
        match (object.awaiting, object.kind) {
            (None, _) => self.revived(key),
            (Some(id), Kind::Sealed(writer)) => self.map_for_writer(key, id, writer),
            (Some(id), Kind::Own | Kind::Foreign) => self.one_is_done(id),
        }
    }

    /// Has the one writer of a sealed result map it.
    fn map_for_writer(&mut self, key: ObjectKey, id: u64, writer: Writer) {
        let Some(commit) = self.commits.get(&id) else { return };
        let instance = match self.find_writer(key, writer, commit.domain) {
            Ok(instance) => instance,
            Err(refusal) => return self.one_failed(key, id, refusal),
        };
        if writer.sealed {
            return self.one_is_done(id);
        }
        let Some(object) = self.step(key, ObjectEvent::Map) else { return };
        object.kind = Kind::Sealed(Writer { instance: Some(instance), ..writer });
        match object.mapping(instance).map(|mapping| mapping.state) {
            Some(MappingState::Mapped) => self.writer_maps(key),
            Some(MappingState::Asked) => {}
            Some(MappingState::Failed | MappingState::Unmapping) | None => {
                self.map_object(instance, key, Access::Write);
            }
        }
    }

    fn writer_maps(&mut self, key: ObjectKey) {
        if self.step(key, ObjectEvent::Mapped).is_some() {
            self.out.push(Effect::Seal { object: key });
        }
    }

    /// An instance has answered for its mapping of an object, or is gone: it may be the one writer that a commit
    /// waits for.
    pub(crate) fn writer_answered(&mut self, id: InstanceId, key: ObjectKey, answer: MappingState) {
        let Some(object) = self.objects.get(key) else { return };
        let Kind::Sealed(writer) = object.kind else { return };
        let Some(commit) = object.awaiting else { return };
        if object.state != ObjectState::Mapping || writer.instance != Some(id) {
            return;
        }
        match answer {
            MappingState::Mapped => self.writer_maps(key),
            MappingState::Asked | MappingState::Failed | MappingState::Unmapping => {
                let name = self.devices.get(writer.device).map(|d| d.name().to_owned()).unwrap_or_default();
                let text = format!("device {name} could not map the object it was to write");
                if self.step(key, ObjectEvent::Failed).is_some() {
                    self.one_failed(key, commit, Refusal::new(ErrorCode::Unavailable, text));
                }
            }
        }
    }

    /// An object's memory is sealed, or the kernel refused that.
    pub(crate) fn sealed(&mut self, key: ObjectKey, outcome: Result<(), i32>) {
        let event = if outcome.is_ok() { ObjectEvent::Sealed } else { ObjectEvent::Failed };
        let Some(object) = self.step(key, event) else { return };
        let (Kind::Sealed(writer), Some(id)) = (object.kind, object.awaiting) else { return };
        let refusal = match outcome {
            Err(errno) => Refusal::new(ErrorCode::System, format!("sealing the memory: errno {errno}"))
                .with(u64::from(errno.unsigned_abs()), 0),
            Ok(()) => {
                let instance = writer.instance.filter(|instance| object.mapping(*instance).is_some());
                object.kind = Kind::Sealed(Writer { sealed: true, instance, ..writer });
                if instance.is_some() {
                    return self.one_is_done(id);
                }
                let text = "the instance that was to write the object is gone";
                Refusal::new(ErrorCode::Unavailable, text)
            }
        };
        self.one_failed(key, id, refusal);
    }

    fn one_failed(&mut self, key: ObjectKey, id: u64, refusal: Refusal) {
        if let Some(commit) = self.commits.get_mut(&id) {
            commit.refuse(key, refusal);
        }
        self.one_is_done(id);
    }

    fn one_is_done(&mut self, id: u64) {
        let Some(commit) = self.commits.get_mut(&id) else { return };
        commit.missing -= 1;
        if commit.missing == 0 {
            self.end_commit(id);
        }
    }

    /// All of a commit's objects are ready, or all of them are as they were.
    fn end_commit(&mut self, id: u64) {
        let Some(Committing { asker, objects, refusal, .. }) = self.commits.remove(&id) else { return };
        let event = if refusal.is_none() { ObjectEvent::Committed } else { ObjectEvent::Withdrawn };
        let mut sum = 0u64;
        for key in objects {
            let Some(object) = self.objects.get_mut(key) else { continue };
            sum = sum.saturating_add(object.pinned);
            if refusal.is_some() && !object.kept && object.awaiting.is_none_or(|other| other == id) {
                object.pin_charge.take().into_iter().for_each(|charge| self.accounts.give_back(charge));
            }
            if object.awaiting != Some(id) {
                continue;
            }
            object.awaiting = None;
            self.released.push(key);
            if self.step(key, event).is_some() && refusal.is_none() {
                self.now_ready(key);
            }
        }
        if !self.clients.contains(asker.client) {
            return;
        }
        match refusal {
            None => self.reply(asker.link, asker.request, Committed { pinned: sum }),
            Some((place, refusal)) => {
                let refusal = refusal.in_part(u16::try_from(place).unwrap_or(u16::MAX));
                self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
            }
        }
    }

    /// Jobs may use an object from now on.
    pub(crate) fn now_ready(&mut self, key: ObjectKey) {
        let Some(object) = self.objects.get_mut(key) else { return };
        object.committed = true;
        let (domain, pinned) = (object.domain, object.pinned);
        self.log(Some(domain), Event::ObjectReady { object: key.to_string(), pinned });
    }
}
