//! What the threads of rings owe, and by when.
//!
//! Unbound, WindowsSet and TimelineClosed come from the thread of a ring, between two entries: so an entry that runs holds
//! them up, for as long as its operation may run. Each ring has a timer of its own for them. What others answer meanwhile
//! does not move it, and an entry that keeps its limit does not let it run out; when it does, the driver is ended, and
//! everybody who has a queue there learns why (M-178).
//!
//! Invariant: the timer is armed exactly while something is owed and the instance serves.

use vgem_proto::ids::{InstanceId, Time, TimelineKey};

use super::RingState;
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::devices::{InstanceState, Verdict};

impl Broker {
    /// A ring's thread owes one more answer, when the entry that runs has ended.
    pub(crate) fn ring_owes(&mut self, now: Time, key: TimelineKey) {
        let by = now.after(self.ring_patience_ns(key));
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(ring) = &mut queue.ring else { return };
        let serves = self.instances.get(&queue.instance).is_some_and(|i| i.state == InstanceState::Ready);
        ring.owes += 1;
        if serves && ring.answer_by.is_none() {
            self.timers.arm(Timer::Ring(key), &mut ring.answer_by, by);
        }
    }

    /// A ring's thread gave an answer that it owed.
    pub(crate) fn ring_answered(&mut self, now: Time, key: TimelineKey) {
        let by = now.after(self.ring_patience_ns(key));
        let Some(ring) = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut()) else { return };
        ring.owes = ring.owes.saturating_sub(1);
        if ring.owes == 0 {
            self.timers.disarm(Timer::Ring(key), &mut ring.answer_by);
        } else if ring.answer_by.is_some() {
            self.timers.arm(Timer::Ring(key), &mut ring.answer_by, by);
        }
    }

    /// How long an answer may take: an operation may run for as long as it says, and then as long as any answer.
    fn ring_patience_ns(&self, key: TimelineKey) -> u64 {
        let device = self.queues.get(key).and_then(|queue| self.devices.get(queue.device));
        let operations = device.into_iter().flat_map(|device| &device.description.operations);
        let longest_ms = operations.map(|operation| operation.run_ms).max().unwrap_or(0);
        self.config.times.greeting_ns.saturating_add(u64::from(longest_ms) * 1_000_000)
    }

    /// Tells a driver to close a queue: whoever is to answer owes that.
    pub(crate) fn owes_close(&mut self, now: Time, id: InstanceId, key: TimelineKey) {
        let ring = self.queues.get_mut(key).and_then(|queue| queue.ring.as_mut());
        match ring.filter(|ring| ring.state == RingState::Attached) {
            Some(ring) => {
                ring.closing = true;
                self.ring_owes(now, key);
            }
            None => self.owes(now, id),
        }
    }

    /// A driver has closed a queue, which is to be removed.
    pub(crate) fn answered_close(&mut self, now: Time, id: InstanceId, key: TimelineKey) {
        let ring = self.queues.get(key).and_then(|queue| queue.ring.as_ref());
        if !ring.is_some_and(|ring| ring.closing) {
            self.answered(now, id);
        }
    }

    /// An entry runs, and its driver did not end it in time.
    pub(crate) fn ring_is_stuck(&mut self, key: TimelineKey) {
        let ms = self.ring_patience_ns(key) / 1_000_000;
        let Some(queue) = self.queues.get_mut(key) else { return };
        let instance = queue.instance;
        if let Some(ring) = &mut queue.ring {
            ring.answer_by = None;
        }
        self.kill_instance(instance, Verdict::Stuck { timeline: key, ms });
    }
}

/// What an instance that was ended for an entry that does not end is said to have done.
pub(crate) fn how_it_stuck(timeline: TimelineKey, ms: u64) -> String {
    format!("was ended: an entry of {timeline} has run for more than {ms} ms and does not end")
}
