//! What the kernel and the keeper answer: memory made, pages looked for, objects kept.
//!
//! An answer about an object that is gone, or that comes in a state where nobody asked, changes nothing; the
//! latter is a bug of ours and logged. The client that asked may have gone meanwhile: then the object goes on
//! without it, and [`crate::teardown`] sees that nobody names it.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, Handle, ObjectKey};
use vgem_proto::message::client::{Committed, ObjectCreated};
use vgem_proto::rights::{Access, Rights};

use crate::broker::Broker;
use crate::clients::ObjectHandle;
use crate::io::{Attach, Effect};
use crate::objects::{Holder, Object, ObjectEvent};

impl Broker {
    /// Moves an object on by an event; `None`, and a log entry, if the event cannot be.
    pub(crate) fn step(&mut self, key: ObjectKey, event: ObjectEvent) -> Option<&mut Object> {
        let state = self.objects.get(key)?.state;
        let Some(next) = state.after(event) else {
            self.bug(format!("{key}: {event:?} in state {state:?}"));
            return None;
        };
        let object = self.objects.get_mut(key)?;
        object.state = next;
        Some(object)
    }

    pub(crate) fn object_made(&mut self, key: ObjectKey, outcome: Result<u64, i32>) {
        match outcome {
            Ok(_inode) => self.memory_is_there(key),
            Err(errno) => self.memory_was_refused(key, errno),
        }
    }

    fn memory_is_there(&mut self, key: ObjectKey) {
        let Some(object) = self.step(key, ObjectEvent::Made) else { return };
        let (len, asker, charge) = (object.len, object.awaiting.take(), object.handle_charge.take());
        self.out.push(Effect::Watch { object: key });
        let (Some(asker), Some(charge)) = (asker, charge) else {
            self.bug(format!("{key} was made for nobody"));
            return;
        };
        let Some(client) = self.clients.get_mut(asker.client) else {
            self.accounts.give_back(charge);
            self.released.push(key);
            return;
        };
        let rights = Rights::READ | Rights::WRITE | Rights::EXPORT;
        let domain = client.peer.domain;
        let handle = Handle(client.objects.insert(ObjectHandle { object: key, rights, charge }));
        if let Some(object) = self.objects.get_mut(key) {
            object.holders.push(Holder { client: asker.client, domain, rights });
        }
        let created = ObjectCreated { objects: vec![handle], len, rights, reserved: Zero };
        let attach = Attach::Exports { objects: vec![key], access: Access::Write };
        self.reply_with(asker.link, asker.request, created, attach);
    }

    fn memory_was_refused(&mut self, key: ObjectKey, errno: i32) {
        if self.step(key, ObjectEvent::NotMade).is_none() {
            return;
        }
        let Some(object) = self.forget_object(key) else { return };
        let Some(asker) = object.awaiting else { return };
        if let Some(client) = self.clients.get_mut(asker.client) {
            let export = client.unreceived.amount().min(1);
            let export = client.unreceived.split(export);
            self.accounts.give_back(export);
            let text = format!("memfd for {} bytes: errno {errno}", object.len);
            let refusal = Refusal::new(ErrorCode::System, text).with(u64::from(errno.unsigned_abs()), 0);
            self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
        }
    }

    pub(crate) fn populated_checked(&mut self, key: ObjectKey, populated: bool) {
        if populated {
            let Some(object) = self.step(key, ObjectEvent::Populated) else { return };
            object.kept = true;
            let len = object.len;
            self.out.push(Effect::Keep { object: key, len });
            return;
        }
        let Some(object) = self.step(key, ObjectEvent::Unpopulated) else { return };
        if let Some(asker) = object.awaiting.take()
            && self.clients.contains(asker.client)
        {
            let text =
                "some pages were never touched; write to all of them (MADV_POPULATE_WRITE) and commit again";
            self.refuse(asker.link, asker.request, &Refusal::new(ErrorCode::NotReady, text), CauseId::NONE);
        }
        self.released.push(key);
    }

    pub(crate) fn kept(&mut self, key: ObjectKey, pinned: u64) {
        let Some(object) = self.step(key, ObjectEvent::Kept) else { return };
        object.pinned = pinned;
        if let Some(asker) = object.awaiting.take()
            && self.clients.contains(asker.client)
        {
            self.reply(asker.link, asker.request, Committed { pinned });
        }
        self.released.push(key);
    }
}
