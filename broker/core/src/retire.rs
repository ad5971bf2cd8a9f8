//! Retirement: how handles close and objects end, and how an object comes back that somebody imports again.
//!
//! An object ends in steps, because others must let go first (DESIGN 5.6): no handle, no use by a job; unmapped
//! by every instance; dropped by the keeper; no open file left anywhere; then its memory is freed and its charge
//! comes back. While an export lives it is an orphan and stays charged to whoever made it (T27); it is looked at
//! again when an export may have closed, and by itself, ever more seldom. Before the second look, and before
//! every sweep, the kernel collects what lies in sockets that nobody can reach (T15).
//!
//! Somebody may import an export of an object that is on its way out. The importer is noted as a wish; whatever
//! step is under way is finished; the probe then finds the object busy (the importer has an fd of it), and it is
//! kept again and ready again. If the export closed meanwhile, the object is free and the wish is refused.
//!
//! Each ending may be called in any state and does nothing the second time. Nothing else frees.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Time};
use vgem_proto::message::client::Imported;
use vgem_proto::message::driver::Unmap;

use crate::broker::{Broker, client_number};
use crate::clients::ObjectHandle;
use crate::creations::imported;
use crate::deadlines::Timer;
use crate::devices::InstanceState;
use crate::import::tampered_with;
use crate::io::{Effect, Event};
use crate::objects::{Kind, MappingState, Object, ObjectEvent, ObjectState, Wish, Writer};
use crate::requests::full_table;
use crate::tables::HandleTable;

const MS: u64 = 1_000_000;

// Handles.
impl Broker {
    /// A handle is closed.
    pub(crate) fn drop_handle(&mut self, now: Time, client: ClientKey, handle: ObjectHandle) {
        let ObjectHandle { object: key, charge, rights: _ } = handle;
        let domain = charge.domain();
        self.accounts.give_back(charge);
        if let Some(object) = self.objects.get_mut(key)
            && let Some(at) = object.holders.iter().position(|holder| holder.client == client)
        {
            object.holders.swap_remove(at);
            object.holders_changed();
            let event = Event::HandleClosed { object: key.to_string(), client: client_number(client) };
            self.log(Some(domain), event);
        }
        self.settle_share(key, domain);
        self.release_object(now, key);
    }

    /// Gives a domain's share back if none of its clients names the object any more.
    pub(crate) fn settle_share(&mut self, key: ObjectKey, domain: DomainId) {
        let Some(object) = self.objects.get_mut(key) else { return };
        if object.shares.is_empty() || object.is_shared_with(domain) {
            return;
        }
        if let Some(at) = object.shares.iter().position(|share| share.charge.domain() == domain) {
            let share = object.shares.swap_remove(at);
            self.accounts.give_back(share.charge);
        }
    }

    /// An object that was never committed is its creator's (L2): without that, nobody has it.
    fn revoke_uncommitted(&mut self, key: ObjectKey) {
        let Some(object) = self.objects.get_mut(key) else { return };
        let is_ownerless = object.state == ObjectState::Created
            && !object.committed
            && object.awaiting.is_none()
            && object.holder(object.creator).is_none();
        if !is_ownerless {
            return;
        }
        object.guests_write = false;
        for holder in std::mem::take(&mut object.holders) {
            let client = self.clients.get_mut(holder.client);
            if let Some(held) = client.and_then(|client| client.objects.remove(holder.handle.0)) {
                self.accounts.give_back(held.charge);
            }
            let number = client_number(holder.client);
            let event = Event::HandleClosed { object: key.to_string(), client: number };
            self.log(Some(holder.domain), event);
            self.settle_share(key, holder.domain);
        }
    }
}

// Objects.
impl Broker {
    /// Looks at every object that was let go of in this step.
    pub(crate) fn settle_released(&mut self, now: Time) {
        while let Some(key) = self.released.pop() {
            self.release_object(now, key);
        }
    }

    /// Begins to retire an object if nobody names or uses it.
    fn release_object(&mut self, now: Time, key: ObjectKey) {
        self.revoke_uncommitted(key);
        let Some(object) = self.objects.get_mut(key) else { return };
        let Some(next) = object.state.after(ObjectEvent::Released).filter(|_| object.is_released()) else {
            return;
        };
        if object.awaiting.is_some() {
            return;
        }
        object.state = next;
        object.released_at = now;
        object.probes = 0;
        let domain = object.domain;
        let mut told = Vec::new();
        for mapping in &mut object.mappings {
            mapping.state = MappingState::Unmapping;
            told.push(mapping.instance);
        }
        self.log(Some(domain), Event::ObjectReleased { object: key.to_string() });
        for instance in told {
            if self.instances.get(&instance).is_some_and(|i| i.state == InstanceState::Ready) {
                self.tell_driver(instance, Unmap { object: key });
                self.owes(now, instance);
            }
        }
        self.unmapped_everywhere(key);
    }

    /// An instance maps an object no more.
    pub(crate) fn lose_mapping(&mut self, instance: InstanceId, key: ObjectKey) {
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.mapped.remove(&key);
        }
        if let Some(object) = self.objects.get_mut(key) {
            object.mappings.retain(|mapping| mapping.instance != instance);
            if let Kind::Sealed(writer) = object.kind
                && writer.sealed
                && writer.instance == Some(instance)
            {
                object.kind = Kind::Sealed(Writer { instance: None, ..writer });
            }
        }
        self.writer_answered(instance, key, MappingState::Failed);
        self.unmapped_everywhere(key);
    }

    fn unmapped_everywhere(&mut self, key: ObjectKey) {
        let Some(object) = self.objects.get(key) else { return };
        if object.state != ObjectState::Unmapping || !object.mappings.is_empty() {
            return;
        }
        let kept = object.kept;
        if self.step(key, ObjectEvent::Unmapped).is_none() {
            return;
        }
        if kept {
            self.out.push(Effect::Drop { object: key });
        } else {
            self.dropped(key);
        }
    }

    /// The keeper has let an object go.
    pub(crate) fn dropped(&mut self, key: ObjectKey) {
        if let Some(object) = self.step(key, ObjectEvent::Dropped) {
            object.pinned = 0;
            object.kept = false;
            self.out.push(Effect::Probe { object: key });
        }
    }

    /// Whether an export of an object lives.
    pub(crate) fn probed(&mut self, now: Time, key: ObjectKey, free: bool) {
        if free {
            if self.step(key, ObjectEvent::FoundFree).is_some() {
                self.out.push(Effect::Free { object: key });
            }
        } else if self.step(key, ObjectEvent::FoundBusy).is_some() {
            self.orphaned(now, key);
        }
    }

    /// An object's memory is gone, or a reference showed up in the last moment.
    pub(crate) fn freed(&mut self, now: Time, key: ObjectKey, gone: bool) {
        if !gone {
            if self.step(key, ObjectEvent::NotFreed).is_some() {
                self.orphaned(now, key);
            }
        } else if self.step(key, ObjectEvent::Freed).is_some()
            && let Some(object) = self.forget_object(key)
        {
            let (len, after_ns) = (object.len, now.since(object.released_at));
            self.log(Some(object.domain), Event::ObjectFreed { object: key.to_string(), len, after_ns });
        }
    }

    /// An export outlives everything else of the object: have it back if somebody wants it, else look again when
    /// it may have closed, and by itself now and then, ever more seldom.
    fn orphaned(&mut self, now: Time, key: ObjectKey) {
        self.drop_dead_wishes(key);
        let Some(object) = self.objects.get_mut(key) else { return };
        self.orphans.insert(key);
        if !object.wishes.is_empty() {
            return self.revive(key);
        }
        // Only now is there something to wait for: a watch costs more memory than all the broker knows of an object.
        // What was closed before it began is found by looking once more.
        if !object.watched {
            object.watched = true;
            self.out.push(Effect::Watch { object: key });
            return self.probe_orphan(key);
        }
        if object.hinted {
            self.probe_orphan(key);
            return;
        }
        let pause = match object.probes {
            0 => Some(5 * MS),
            1 => Some(100 * MS),
            2 => Some(1000 * MS),
            _ => None,
        };
        let is_first = object.probes == 0;
        object.probes = object.probes.saturating_add(1);
        let domain = object.domain;
        if let Some(pause) = pause {
            self.timers.arm(Timer::Look(key), &mut object.look_at, now.after(pause));
        } else if self.sweep_at.is_none() {
            self.timers.arm(Timer::Sweep, &mut self.sweep_at, now.after(60_000 * MS));
        }
        if is_first {
            self.log(Some(domain), Event::ObjectOrphaned { object: key.to_string() });
        }
    }

    /// Looks at an orphaned object again.
    pub(crate) fn probe_orphan(&mut self, key: ObjectKey) {
        if self.leave_orphans(key, ObjectEvent::Look) {
            self.out.push(Effect::Probe { object: key });
        }
    }

    fn leave_orphans(&mut self, key: ObjectKey, event: ObjectEvent) -> bool {
        let Some(object) = self.step(key, event) else { return false };
        object.hinted = false;
        let mut look_at = object.look_at.take();
        self.timers.disarm(Timer::Look(key), &mut look_at);
        self.orphans.remove(&key);
        self.forget_idle_sweep();
        true
    }

    fn forget_idle_sweep(&mut self) {
        if self.orphans.is_empty() && self.sweep.is_empty() {
            self.timers.disarm(Timer::Sweep, &mut self.sweep_at);
        }
    }

    /// An export may have been closed: of one object, or of any.
    pub(crate) fn export_hint(&mut self, now: Time, key: Option<ObjectKey>) {
        let Some(key) = key else {
            self.sweep.clear();
            self.timers.disarm(Timer::Sweep, &mut self.sweep_at);
            self.sweep_some(now);
            return;
        };
        let Some(object) = self.objects.get_mut(key) else { return };
        match object.state {
            ObjectState::Orphaned => self.probe_orphan(key),
            ObjectState::Probing | ObjectState::Freeing => object.hinted = true,
            ObjectState::Making
            | ObjectState::Created
            | ObjectState::Checking
            | ObjectState::Checked
            | ObjectState::Keeping
            | ObjectState::Kept
            | ObjectState::Mapping
            | ObjectState::Sealing
            | ObjectState::Ready
            | ObjectState::Unmapping
            | ObjectState::Dropping
            | ObjectState::Gone => {}
        }
    }

    /// Takes an object out of every table and gives its charges back.
    pub(crate) fn forget_object(&mut self, key: ObjectKey) -> Option<Object> {
        let mut object = self.objects.remove(key)?;
        self.timers.disarm(Timer::Look(key), &mut object.look_at);
        self.orphans.remove(&key);
        for place in &mut object.charges {
            let all = place.amount();
            self.accounts.give_back(place.split(all));
        }
        for charge in object.handle_charge.take().into_iter().chain(object.pin_charge.take()) {
            self.accounts.give_back(charge);
        }
        for share in object.shares.drain(..) {
            self.accounts.give_back(share.charge);
        }
        for wish in std::mem::take(&mut object.wishes) {
            let text = "the last export of the object closed before it was imported";
            self.refuse_wish(wish, &Refusal::new(ErrorCode::Gone, text));
        }
        Some(object)
    }
}

// Objects that come back.
impl Broker {
    /// Notes that a client is to have a handle as soon as the object is back.
    pub(crate) fn wish_for(&mut self, key: ObjectKey, wish: Wish) {
        let Some(object) = self.objects.get_mut(key) else {
            self.accounts.give_back(wish.charge);
            return;
        };
        object.wishes.push(wish);
        if object.state == ObjectState::Orphaned {
            self.revive(key);
        }
    }

    /// Has the keeper take an orphan again.
    fn revive(&mut self, key: ObjectKey) {
        if !self.leave_orphans(key, ObjectEvent::Revived) {
            return;
        }
        let Some(object) = self.objects.get_mut(key) else { return };
        object.kept = true;
        let len = object.len;
        self.out.push(Effect::Keep { object: key, len });
    }

    /// The keeper has an orphan again: it is as ready as it was, and who waits for it gets a handle.
    pub(crate) fn revived(&mut self, key: ObjectKey) {
        if self.step(key, ObjectEvent::Committed).is_none() {
            return;
        }
        self.now_ready(key);
        let wishes = self.objects.get_mut(key).map(|object| std::mem::take(&mut object.wishes));
        let wishes = wishes.unwrap_or_default();
        let domains: Vec<DomainId> = wishes.iter().map(|wish| wish.domain).collect();
        for wish in wishes {
            self.fulfil(key, wish);
        }
        // Only now: another client of the domain may have got what this one could not be given.
        for domain in domains {
            self.settle_share(key, domain);
        }
        self.released.push(key);
    }

    fn fulfil(&mut self, key: ObjectKey, wish: Wish) {
        let Some(object) = self.objects.get(key) else { return };
        let (len, is_tampered) = (object.len, object.tampered);
        let known = object.holder(wish.asker.client).is_some();
        let room = self.clients.get(wish.asker.client).is_some_and(|c| known || c.objects.has_room_for(1));
        if is_tampered || !room {
            let refusal =
                if is_tampered { tampered_with() } else { full_table(HandleTable::<ObjectHandle>::ROWS) };
            self.refuse_wish(wish, &refusal);
            return;
        }
        let Wish { asker, rights, charge, .. } = wish;
        let Some(object) = self.give_handle(key, asker.client, rights, charge) else { return };
        self.log_for(asker.client, imported(key, client_number(asker.client), rights));
        let rights = self.rights_of(asker.client, object);
        self.reply(asker.link, asker.request, Imported { object, len, rights, state: 2 });
    }

    /// Drops the wishes of clients that are gone.
    fn drop_dead_wishes(&mut self, key: ObjectKey) {
        let Some(object) = self.objects.get_mut(key).filter(|object| !object.wishes.is_empty()) else {
            return;
        };
        let (alive, dead) = std::mem::take(&mut object.wishes)
            .into_iter()
            .partition(|wish| self.clients.contains(wish.asker.client));
        object.wishes = alive;
        let dead: Vec<Wish> = dead;
        for wish in dead {
            let domain = wish.domain;
            self.accounts.give_back(wish.charge);
            self.settle_share(key, domain);
        }
    }

    fn refuse_wish(&mut self, wish: Wish, refusal: &Refusal) {
        let Wish { asker, charge, .. } = wish;
        self.accounts.give_back(charge);
        if self.clients.contains(asker.client) {
            self.refuse(asker.link, asker.request, refusal, CauseId::NONE);
        }
    }
}
