//! How an object moves from state to state, and what the kernel says of it unasked.
//!
//! An answer about an object that is gone, or that comes in a state where nobody asked, changes nothing; the
//! latter is a bug of ours and logged.

use vgem_proto::ids::ObjectKey;

use crate::broker::Broker;
use crate::io::{Effect, Event};
use crate::objects::{Object, ObjectEvent};

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

    /// Somebody changed the owner or the mode of an object's inode (T22): what is in it is destroyed, and nobody
    /// gets it any more. It lives as long as it would have.
    pub(crate) fn tampered(&mut self, key: ObjectKey, what: String) {
        let Some(object) = self.objects.get_mut(key) else { return };
        if std::mem::replace(&mut object.tampered, true) {
            return;
        }
        let domain = object.domain;
        self.log(Some(domain), Event::ObjectTampered { object: key.to_string(), what });
        self.out.push(Effect::Punch { object: key });
    }
}
