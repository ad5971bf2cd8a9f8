//! The core of a client: the link, the pages it observes, the devices it knows, and the order of submission.
//!
//! Everything that outlives a call holds an `Arc` of it: buffers, queues, fences. The connection closes when the
//! last of them goes.
//!
//! The requests themselves are made and their answers understood here, in pairs that do no I/O, so that the
//! blocking and the asynchronous front differ in how they wait and in nothing else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use vgem_os::fence::Slot;
use vgem_proto::describe::Description;
use vgem_proto::ids::{CauseId, DeviceId, DomainId, PageId, TimelineKey};
use vgem_proto::message::client::{
    ClientMessage, CloseQueue, Describe, Explain, Hello, Inspect, ListDevices, Welcome,
};
use vgem_proto::snapshot::Topic;

use crate::bridge::Bridge;
use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::device::{DeviceName, DeviceShared};
use crate::errand::Errands;
use crate::error::{Error, LocalError, Result};
use crate::exchange::{Arrived, Reply, RequestId, refusal};
use crate::explain::{Explanation, Memory};
use crate::known::Known;
use crate::link::{Link, accepted, unexpected};
use crate::numbered::{Pages, ShownPlace};
use crate::pages::Observer;
use crate::porter::Porter;
use crate::queue::QueueShared;
use crate::records::Records;
use crate::signals::{SignalPage, Signals};

/// How long a failed wait may ask what is behind the failure.
pub(crate) const EXPLAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) link: Arc<Link>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) session: Session,
    pub(crate) patience: Duration,
    /// Held while points are numbered and their message is sent: the broker sees points in order.
    pub(crate) submitting: Mutex<Submitting>,
    /// The buffers that live.
    pub(crate) known: Known,
    /// How fds get to this client's porter.
    pub(crate) porter: Porter,
    /// Where this client shows the timelines that it signals.
    pub(crate) signals: Signals,
    /// What is asked on behalf of those who must not wait.
    pub(crate) errands: Errands,
    pages: Mutex<Pages>,
    /// Timelines of this client's open queues.
    timelines: Mutex<HashSet<TimelineKey>>,
    devices: Mutex<Vec<Arc<DeviceShared>>>,
    explained: Memory,
    bridge: OnceLock<Bridge>,
}

/// What is needed to send a batch.
#[derive(Debug, Default)]
pub(crate) struct Submitting {
    /// Storage for the message.
    pub(crate) scratch: Vec<u8>,
    /// What was sent and may still be refused.
    pub(crate) records: Records,
}

/// What the broker said in its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) client: u64,
    pub(crate) domain: DomainId,
}

impl Core {
    pub(crate) fn new(
        link: Arc<Link>,
        counters: Arc<Counters>,
        session: Session,
        patience: Duration,
    ) -> Self {
        Self {
            link,
            counters,
            session,
            patience,
            submitting: Mutex::new(Submitting::default()),
            known: Known::default(),
            porter: Porter::default(),
            signals: Signals::default(),
            errands: Errands::default(),
            pages: Mutex::default(),
            timelines: Mutex::new(HashSet::new()),
            devices: Mutex::new(Vec::new()),
            explained: Memory::default(),
            bridge: OnceLock::new(),
        }
    }

    /// The end of a request that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    pub(crate) fn call(&self, message: impl Into<ClientMessage>) -> Result<Reply> {
        self.link.call(message, self.deadline())
    }

    /// As [`Core::call`], with flags in the head.
    pub(crate) fn call_flagged(&self, message: impl Into<ClientMessage>, flags: u16) -> Result<Reply> {
        let (message, deadline) = (message.into(), self.deadline());
        let id = self.link.start(&message, flags, deadline, deadline)?;
        accepted(self.link.collect(id, deadline)?)
    }

    /// The device with this description in memory, if it was asked for before.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<DeviceShared>> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.iter().find(|device| *device.name == *name).cloned()
    }

    /// Understands the description of a device and remembers it.
    pub(crate) fn described(&self, id: DeviceId, reply: Reply) -> Result<Arc<DeviceShared>> {
        let ClientMessage::Described(described) = &reply.message else { return Err(unexpected(&reply)) };
        let description = Description::decode(&described.description)
            .map_err(|fault| Error::Protocol(format!("description of {id}: {fault}")))?;
        let device = Arc::new(DeviceShared::new(id, description));
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|known| known.name != device.name);
        devices.push(Arc::clone(&device));
        Ok(device)
    }

    /// Understands an opened queue: maps its page, if it is a new one.
    pub(crate) fn opened(
        self: &Arc<Self>,
        device: &Arc<DeviceShared>,
        depth: u32,
        reply: Reply,
    ) -> Result<Arc<QueueShared>> {
        let ClientMessage::QueueOpened(opened) = &reply.message else { return Err(unexpected(&reply)) };
        let found = Slot::new(opened.slot)
            .ok_or_else(|| Error::Protocol(format!("slot {} of a page", opened.slot)))
            .and_then(|slot| Ok((slot, self.page(opened.page)?)));
        let (slot, observer) = found.inspect_err(|_| {
            // Nobody will ever use it.
            self.link.post(&ClientMessage::CloseQueue(CloseQueue { queue: opened.queue }));
        })?;
        self.timelines().insert(opened.timeline);
        Ok(Arc::new(QueueShared::new(Arc::clone(self), Arc::clone(device), observer, slot, depth, opened)))
    }

    /// Whether a timeline is that of a queue of this client.
    pub(crate) fn is_ours(&self, timeline: TimelineKey) -> bool {
        self.timelines().contains(&timeline)
    }

    /// A queue of this client closes.
    pub(crate) fn closed(&self, timeline: TimelineKey) {
        self.timelines().remove(&timeline);
    }

    fn timelines(&self) -> MutexGuard<'_, HashSet<TimelineKey>> {
        self.timelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of this number that this client observes.
    pub(crate) fn page(&self, number: PageId) -> Result<Arc<Observer>> {
        self.pages().observed(number)
    }

    /// The page of this number that this client signals in.
    pub(crate) fn signal_page(&self, number: PageId) -> Result<Arc<SignalPage>> {
        self.pages().signalled(number)
    }

    /// Where to show timelines and where not any more, as the broker said since the last call.
    pub(crate) fn take_shown(&self) -> Vec<ShownPlace> {
        std::mem::take(&mut self.pages().shown)
    }

    /// The pages, with all that arrived until now: whoever reads an answer finds what came with earlier ones.
    fn pages(&self) -> MutexGuard<'_, Pages> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for arrived in self.link.take_arrived() {
            match arrived {
                Arrived::Page(page) => pages.put(page),
                Arrived::Shown(shown) => pages.show(&shown),
            }
        }
        pages
    }

    /// Reads what the broker may have said unasked; voids the points of batches it has refused without using them.
    pub(crate) fn refresh(&self) {
        self.link.drain();
        self.void_unused();
    }

    /// Voids the points of refused batches that have been read of.
    pub(crate) fn void_unused(&self) {
        if self.link.has_unused() {
            let mut submitting = self.submitting.lock().unwrap_or_else(PoisonError::into_inner);
            self.void_refused(&mut submitting.records);
        }
    }

    /// The same with the records at hand. What was refused may be promises, too.
    pub(crate) fn void_refused(&self, records: &mut Records) {
        let refused = self.link.take_unused();
        records.void(&refused);
        self.signals.refused(&refused);
    }

    /// Understands the answer to a batch.
    pub(crate) fn answered(&self, id: RequestId, reply: Reply) -> Result<()> {
        match reply.message {
            ClientMessage::Accepted(_) => Ok(()),
            ClientMessage::Refused(refused) => {
                let unused = refused.cause == CauseId::NONE;
                let refusal = refusal(refused);
                if unused {
                    let mut submitting = self.submitting.lock().unwrap_or_else(PoisonError::into_inner);
                    submitting.records.void(&[(id, refusal.clone())]);
                }
                Err(refusal.into())
            }
            _ => Err(unexpected(&reply)),
        }
    }

    /// What is behind a cause, from memory if it was asked for before.
    pub(crate) fn explain(&self, cause: CauseId, deadline: Deadline) -> Result<Arc<Explanation>> {
        if let Some(known) = self.remembered(cause) {
            return Ok(known);
        }
        let reply = self.link.call(Explain { cause }, deadline)?;
        self.explained(reply)
    }

    /// What is behind a cause, as far as this process knows.
    pub(crate) fn remembered(&self, cause: CauseId) -> Option<Arc<Explanation>> {
        self.explained.find(cause).or_else(|| {
            let refusal = self.link.refusal(cause)?;
            Some(self.explained.keep(Explanation::from_refusal(cause, &refusal)))
        })
    }

    /// Understands an explanation and remembers it.
    pub(crate) fn explained(&self, reply: Reply) -> Result<Arc<Explanation>> {
        match reply.message {
            ClientMessage::Explained(told) => Ok(self.explained.keep(Explanation::from_wire(told))),
            _ => Err(unexpected(&reply)),
        }
    }

    /// What is behind a failure, for its message; nothing if the broker does not say so in a moment.
    pub(crate) fn explain_failure(&self, cause: CauseId) -> Option<Arc<Explanation>> {
        if cause == CauseId::NONE {
            return None;
        }
        self.explain(cause, Deadline::after(EXPLAIN)).ok()
    }

    /// The thread that wakes tasks of this client; started on first use.
    pub(crate) fn bridge(&self) -> &Bridge {
        self.bridge.get_or_init(|| Bridge::new(Arc::clone(&self.link), Arc::clone(&self.counters)))
    }
}

/// The greeting.
pub(crate) fn hello(name: &str) -> Hello {
    let version = vgem_proto::VERSION;
    Hello {
        version_min: version,
        version_max: version,
        reserved: vgem_proto::codec::Zero,
        features: 0,
        name: cut(name),
    }
}

/// Understands the answer to the greeting.
pub(crate) fn welcomed(reply: &Reply) -> Result<Session> {
    match &reply.message {
        ClientMessage::Welcome(Welcome { version, client, domain, .. }) => {
            if *version != vgem_proto::VERSION {
                return Err(Error::Protocol(format!("version {version} was not offered")));
            }
            Ok(Session { client: *client, domain: *domain })
        }
        _ => Err(unexpected(reply)),
    }
}

/// The list of devices.
pub(crate) fn list_devices() -> ListDevices {
    ListDevices {}
}

/// Understands the list of devices.
pub(crate) fn devices(reply: &Reply) -> Result<Vec<DeviceName>> {
    let ClientMessage::Devices(devices) = &reply.message else { return Err(unexpected(reply)) };
    let names = String::from_utf8_lossy(&devices.names);
    let named: Vec<_> = devices
        .ids
        .iter()
        .zip(names.lines())
        .map(|(id, name)| DeviceName { id: *id, name: name.to_owned() })
        .collect();
    if named.len() != devices.ids.len() {
        return Err(Error::Protocol(format!("{} devices have {} names", devices.ids.len(), named.len())));
    }
    Ok(named)
}

/// The id of the device with this name.
pub(crate) fn find(devices: &[DeviceName], name: &str) -> Result<DeviceId> {
    devices.iter().find(|device| device.name == name).map(|device| device.id).ok_or_else(|| {
        let known = devices.iter().map(|device| device.name.clone()).collect();
        LocalError::NoSuchDevice { name: name.to_owned(), known }.into()
    })
}

pub(crate) fn describe(device: DeviceId) -> Describe {
    Describe { device }
}

pub(crate) fn inspect(topic: Topic, cursor: u64) -> Inspect {
    Inspect { cursor, topic, reserved: vgem_proto::codec::Zero }
}

/// Understands a page of the broker's state; appends its entries and says where the next page begins.
pub(crate) fn inspected<T: serde::de::DeserializeOwned>(reply: &Reply, into: &mut Vec<T>) -> Result<u64> {
    let ClientMessage::Page(page) = &reply.message else { return Err(unexpected(reply)) };
    let entries: Vec<T> = serde_json::from_slice(&page.json)
        .map_err(|error| Error::Protocol(format!("a page of its state: {error}")))?;
    into.extend(entries);
    Ok(page.next)
}

/// A name for people, cut to what the wire takes.
pub(crate) fn cut(name: &str) -> Vec<u8> {
    let end = name.floor_char_boundary(vgem_proto::limits::NAME_LEN);
    name.as_bytes().get(..end).unwrap_or(name.as_bytes()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_letters() {
        let cut = cut(&"ä".repeat(40));
        assert_eq!(String::from_utf8(cut), Ok("ä".repeat(32)));
    }

    #[test]
    fn an_unknown_device_is_refused_with_those_that_are_there() {
        let there = [DeviceName { id: DeviceId(1), name: "zip".into() }];
        assert_eq!(
            find(&there, "zap").map_err(|e| e.to_string()),
            Err("no device \"zap\"; there are zip".to_owned())
        );
    }
}
