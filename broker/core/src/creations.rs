//! Objects that are being made: of memory of the broker's own, or of memory that a porter brought.
//!
//! One request makes several equal objects, all or none (SPEC, CreateObject). Each is charged before anything is
//! asked of the kernel; the answer goes out when the last one has its memory. If the kernel refuses one, the
//! request is refused and the others end as objects that nobody names do: those that have memory at once, the
//! rest as soon as they have it.
//!
//! ```text
//! asked --every object has memory--> answered, handles exist
//!   |----the kernel refused one----> refused, no handle ever existed
//!   +----the client went-----------> no answer, as if refused
//! ```
//! Invariants: an object names its creation (`awaiting`) exactly while the creation lists it; `missing` is how
//! many of those are Making; the charges for the handles are at the objects, that for the exports here.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DeviceId, Handle, ObjectKey, Time};
use vgem_proto::limits;
use vgem_proto::message::client::{CreateObject, Imported, ObjectCreated};
use vgem_proto::rights::{Access, HugePages, Rights};

use crate::accounts::{Charge, Resource};
use crate::broker::{Broker, client_number};
use crate::clients::ObjectHandle;
use crate::io::{ArrivalId, Attach, Effect, Event};
use crate::objects::{Awaiting, Holder, Kind, Object, ObjectEvent, ObjectState, Share, Writer};
use crate::policy::{self, Action, Grant};
use crate::requests::{Outcome, full_table};
use crate::reservation::Reservation;
use crate::tables::HandleTable;
use crate::text::harmless;

/// Objects that one request is having made.
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) asker: Awaiting,
    pub(crate) objects: Vec<ObjectKey>,
    /// Those of them without memory.
    pub(crate) missing: usize,
    /// The charge for the exports in the answer.
    pub(crate) export: Charge,
    rights: Rights,
    answer: Answer,
}

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// `ObjectCreated`, with a fresh export of each that allows this.
    Created(Access),
    /// `Imported`.
    Imported,
}

/// What all objects of one creation have in common.
struct Plan<'a> {
    asker: Awaiting,
    kind: Kind,
    name: &'a [u8],
    len: u64,
    count: usize,
    rights: Rights,
    answer: Answer,
}

/// The charges for all objects of one creation.
struct Charges {
    bytes: Charge,
    objects: Charge,
    handles: Charge,
    exports: Charge,
}

impl Broker {
    /// A client asks for new objects.
    pub(crate) fn create_object(&mut self, asker: Awaiting, create: &CreateObject) -> Outcome {
        let client = self.find_client(asker.client)?;
        let most = limits::OBJECTS_AT_ONCE;
        let count = usize::try_from(create.count.max(1)).unwrap_or(usize::MAX);
        if count > most {
            let text = format!("one request makes at most {most} objects");
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(u64::from(create.count), most as u64));
        }
        if !client.objects.has_room_for(count) {
            return Err(full_table(HandleTable::<ObjectHandle>::ROWS));
        }
        let (kind, access) = match create.writer {
            DeviceId(0) => (Kind::Own, Access::Write),
            writer => {
                let device = self.find_allowed_device(asker.client, writer)?;
                (Kind::Sealed(Writer { device, instance: None, sealed: false }), Access::Read)
            }
        };
        let grant = policy::authorise(client.subject(), Action::CreateObject)?;
        check_len(create.len, create.huge)?;
        let charges = self.charge_objects(&grant, create.len, count as u64, count as u64)?;
        let rights = Rights::READ | Rights::WRITE | Rights::EXPORT;
        let answer = Answer::Created(access);
        let plan = Plan { asker, kind, name: &create.name, len: create.len, count, rights, answer };
        let (len, huge, sealable) = (create.len, create.huge, kind != Kind::Own);
        for object in self.begin_creation(&grant, &plan, charges) {
            let name = self.objects.get(object).map(|object| object.name.to_string()).unwrap_or_default();
            self.out.push(Effect::MakeObject { sealable, object, len, huge, name });
        }
        Ok(())
    }

    /// A porter brought memory that is no object yet: make it one. A refusal leaves the arrival with the caller.
    pub(crate) fn import_memory(
        &mut self,
        asker: Awaiting,
        name: &[u8],
        (arrival, len): (ArrivalId, u64),
        access: Access,
    ) -> Outcome {
        let client = self.find_client(asker.client)?;
        if !client.objects.has_room_for(1) {
            return Err(full_table(HandleTable::<ObjectHandle>::ROWS));
        }
        let grant = policy::authorise(client.subject(), Action::Import)?;
        check_len(len, HugePages::Never)?;
        let charges = self.charge_objects(&grant, len, 1, 0)?;
        let rights = policy::rights_of_import(Kind::Foreign, access);
        let answer = Answer::Imported;
        let plan = Plan { asker, kind: Kind::Foreign, name, len, count: 1, rights, answer };
        for object in self.begin_creation(&grant, &plan, charges) {
            self.out.push(Effect::TakeArrival { arrival, object });
        }
        Ok(())
    }

    fn charge_objects(
        &mut self,
        grant: &Grant,
        len: u64,
        count: u64,
        exports: u64,
    ) -> Result<Charges, Refusal> {
        let wanted = [
            (Resource::Bytes, len.saturating_mul(count)),
            (Resource::Objects, count),
            (Resource::Handles, count),
            (Resource::Exports, exports),
        ];
        let [bytes, objects, handles, exports] = self.accounts.charge_all(grant.domain(), wanted)?;
        Ok(Charges { bytes, objects, handles, exports })
    }

    fn begin_creation(&mut self, grant: &Grant, plan: &Plan<'_>, mut charges: Charges) -> Vec<ObjectKey> {
        self.last_awaiting += 1;
        let id = self.last_awaiting;
        let name: Box<str> = harmless(plan.name, limits::NAME_LEN).into();
        let objects: Vec<ObjectKey> = (0..plan.count)
            .map(|_| {
                let own = [charges.bytes.split(plan.len), charges.objects.split(1)];
                let handle = charges.handles.split(1);
                self.objects.insert_with(|_| new_object(grant, id, plan, name.clone(), own, handle))
            })
            .collect();
        self.creations.insert(
            id,
            Creation {
                asker: plan.asker,
                objects: objects.clone(),
                missing: plan.count,
                export: charges.exports,
                rights: plan.rights,
                answer: plan.answer,
            },
        );
        objects
    }

    /// An object has memory, or the kernel refused it.
    pub(crate) fn object_made(&mut self, key: ObjectKey, outcome: Result<u64, i32>) {
        let event = if outcome.is_ok() { ObjectEvent::Made } else { ObjectEvent::NotMade };
        let Some(object) = self.step(key, event) else { return };
        let (len, id) = (object.len, object.awaiting);
        match outcome {
            Ok(inode) => {
                object.inode = inode;
                match id.and_then(|id| self.creations.get_mut(&id).map(|creation| (id, creation))) {
                    Some((id, creation)) => {
                        creation.missing -= 1;
                        if creation.missing == 0 {
                            self.finish_creation(id);
                        }
                    }
                    None => self.let_go_of_new(key),
                }
            }
            Err(errno) => {
                let is_foreign = object.kind == Kind::Foreign;
                self.forget_object(key);
                let why = match errno {
                    13 if is_foreign => {
                        ": its owner and mode keep the broker out; make it readable and writable for all"
                    }
                    17 if is_foreign => ": it became an object meanwhile; import it again",
                    _ => "",
                };
                let text = format!("memory of {len} bytes: errno {errno}{why}");
                let refusal = Refusal::new(ErrorCode::System, text).with(u64::from(errno.unsigned_abs()), 0);
                self.fail_creation(id, &refusal);
            }
        }
    }

    /// Every object has memory: the client gets its handles.
    fn finish_creation(&mut self, id: u64) {
        let Some(creation) = self.creations.get(&id) else { return };
        let client = self.clients.get(creation.asker.client);
        if client.is_some_and(|client| !client.objects.has_room_for(creation.objects.len())) {
            return self.fail_creation(Some(id), &full_table(HandleTable::<ObjectHandle>::ROWS));
        }
        let Some(creation) = self.creations.remove(&id) else { return };
        let Creation { asker, objects, export, rights, answer, .. } = creation;
        let mut handles = Vec::with_capacity(objects.len());
        let mut len = 0;
        for key in &objects {
            let Some(object) = self.objects.get_mut(*key) else { continue };
            object.awaiting = None;
            len = object.len;
            let (name, charge) = (object.name.to_string(), object.handle_charge.take());
            if let Some(charge) = charge {
                handles.extend(self.give_handle(*key, asker.client, rights, charge));
            }
            let client = client_number(asker.client);
            let event = match answer {
                Answer::Created(_) => Event::ObjectCreated { object: key.to_string(), name, len, client },
                Answer::Imported => imported(*key, client, rights),
            };
            self.log_for(asker.client, event);
        }
        match answer {
            Answer::Created(access) => {
                let created = ObjectCreated { objects: handles, len, rights, reserved: Zero };
                let attach = Attach::Exports { objects, access };
                self.reply_with_fds(asker, created, attach, export);
            }
            Answer::Imported => {
                self.accounts.give_back(export);
                let object = handles.first().copied().unwrap_or_default();
                self.reply(asker.link, asker.request, Imported { object, len, rights, state: 1 });
            }
        }
    }

    /// A creation cannot be, or nobody wants it any more: what was made of it goes.
    fn fail_creation(&mut self, id: Option<u64>, refusal: &Refusal) {
        if let Some(asker) = id.and_then(|id| self.forget_creation(id))
            && self.clients.contains(asker.client)
        {
            self.refuse(asker.link, asker.request, refusal, CauseId::NONE);
        }
    }

    /// Takes the creations of a client that is gone out of the table.
    pub(crate) fn forget_creations_of(&mut self, client: ClientKey) {
        let of_client = |(id, creation): (&u64, &Creation)| (creation.asker.client == client).then_some(*id);
        let ids: Vec<u64> = self.creations.iter().filter_map(of_client).collect();
        for id in ids {
            let _asker = self.forget_creation(id);
        }
    }

    fn forget_creation(&mut self, id: u64) -> Option<Awaiting> {
        let creation = self.creations.remove(&id)?;
        self.accounts.give_back(creation.export);
        for key in creation.objects {
            self.let_go_of_new(key);
        }
        Some(creation.asker)
    }

    /// Nobody will ever name a new object.
    fn let_go_of_new(&mut self, key: ObjectKey) {
        let Some(object) = self.objects.get_mut(key) else { return };
        object.awaiting = None;
        if let Some(charge) = object.handle_charge.take() {
            self.accounts.give_back(charge);
        }
        if object.state == ObjectState::Created {
            self.released.push(key);
        }
    }

    /// Gives a client a handle; the one that it has already, with the rights of both, if it has one (L5).
    pub(crate) fn give_handle(
        &mut self,
        key: ObjectKey,
        to: ClientKey,
        rights: Rights,
        charge: Charge,
    ) -> Option<Handle> {
        let (Some(client), Some(object)) = (self.clients.get_mut(to), self.objects.get_mut(key)) else {
            self.accounts.give_back(charge);
            return None;
        };
        if let Some(holder) = object.holders.iter_mut().find(|holder| holder.client == to) {
            holder.imports += 1;
            holder.rights |= rights;
            if let Some(held) = client.objects.get_mut(holder.handle.0) {
                held.rights = holder.rights;
            }
            let handle = holder.handle;
            object.holders_changed();
            self.tell_foreign(key);
            self.accounts.give_back(charge);
            return Some(handle);
        }
        let domain = client.peer.domain;
        let handle = Handle(client.objects.insert(ObjectHandle { object: key, rights, charge }));
        object.holders.push(Holder { client: to, domain, rights, handle, imports: 1 });
        object.crossed |= domain != object.domain;
        object.holders_changed();
        self.tell_foreign(key);
        Some(handle)
    }

    /// Charges another domain for an object that it is about to name, unless it owes its share already (T27).
    pub(crate) fn charge_share(&mut self, grant: &Grant, key: ObjectKey) -> Result<Option<Share>, Refusal> {
        let domain = grant.domain();
        let Some(object) = self.objects.get(key) else { return Ok(None) };
        let owes = object.shares.iter().any(|share| share.charge.domain() == domain);
        if domain == object.domain || owes {
            return Ok(None);
        }
        let charge = self.accounts.charge(domain, Resource::Bytes, object.len)?;
        Ok(Some(Share { charge }))
    }
}

/// The event of an import.
pub(crate) fn imported(key: ObjectKey, client: u64, rights: Rights) -> Event {
    let access = if rights.contains(Rights::WRITE) { "write" } else { "read" };
    Event::ObjectImported { object: key.to_string(), client, access: access.to_owned() }
}

fn new_object(
    grant: &Grant,
    creation: u64,
    plan: &Plan<'_>,
    name: Box<str>,
    charges: [Charge; 2],
    handle: Charge,
) -> Object {
    Object {
        state: ObjectState::Making,
        kind: plan.kind,
        name,
        len: plan.len,
        domain: grant.domain(),
        creator: plan.asker.client,
        inode: 0,
        pinned: 0,
        kept: false,
        committed: false,
        crossed: false,
        guests_write: false,
        tampered: false,
        awaiting: Some(creation),
        holders: Vec::new(),
        shares: Vec::new(),
        wishes: Vec::new(),
        uses: 0,
        planned: 0,
        mappings: Vec::new(),
        reservation: Reservation::default(),
        charges,
        pin_charge: None,
        handle_charge: Some(handle),
        hinted: false,
        watched: false,
        probes: 0,
        look_at: None,
        released_at: Time(0),
    }
}

fn check_len(len: u64, huge: HugePages) -> Outcome {
    let unit = match huge {
        HugePages::Transparent | HugePages::Never => limits::PAGE_LEN,
        HugePages::Size2M => 2 << 20,
        HugePages::Size1G => 1 << 30,
    };
    if len == 0 || len > limits::OBJECT_LEN {
        let text = format!("an object has 1 to {} bytes", limits::OBJECT_LEN);
        return Err(Refusal::new(ErrorCode::OutOfRange, text).with(len, limits::OBJECT_LEN));
    }
    if !len.is_multiple_of(unit) {
        let text = format!("the length must be a multiple of {unit} bytes, the size of its pages");
        return Err(Refusal::new(ErrorCode::Misaligned, text).with(len, unit));
    }
    Ok(())
}
