//! Jobs that wait for entries of user queues (R7, T44).
//!
//! The broker sees no entry, and whoever pushes them promises nothing. So a job that waits for one says until when
//! (`WAIT_UNTIL`), and is a gate for nothing and nobody but itself: the entry is in no reservation. The job is, like any
//! other; that is how what a ring does to an object is **published**, by a job that does nothing but wait
//! ([`vgem_proto::describe::publish`]).
//!
//! ```text
//!   accepted ─► the driver sees the entry end ─► Unblocked: the job's clock runs
//!           │                └─ as failed ─► the job fails with that cause
//!           ├─ its moment comes ─► look ─┬─ ended ─► the job's clock runs, if it waits for nothing else
//!           │                            └─ not ───► TimedOut: the job is cancelled, and nobody is to blame
//!           ├─ the client closes the queue ─► look ─┬─ ended: as above
//!           │                                       └─ not ─► Cancelled; and only then the queue closes
//!           └─ the driver dies ─► what it had signalled stands, the rest has failed with it
//! ```
//!
//! The moment is kept by the broker and not by the job's driver, as those of promises are: so a driver that hangs is no
//! reason for a job to be without an end, and whoever runs again for another has the same moment.
//! Who looks reads the page in which the ring's client sees its queue. That a point passed there and not where the job
//! looks is found when the job is late ([`crate::due`]).
//!
//! An entry waits for nothing, so no cycle goes through one, and points may be waited for before they are pushed.
//!
//! Invariants: whoever waits has a future ([`crate::awaiting`]) until the point is known to have passed or the job has
//! ended; a queue that leaves has been asked for a look.

use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{DomainId, Point, Time, TimelineKey};

use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::complete::take_watchers;
use crate::io::{Effect, Event};
use crate::pairs::Party;

/// What the broker knows of the entries of a ring.
#[derive(Debug)]
pub(crate) struct Sighted {
    /// The last one that it has seen ended.
    pub(crate) passed: Point,
    /// From this one on it knows how those ended.
    pub(crate) known_from: Point,
    /// How often the shell was asked and has not answered yet.
    pub(crate) looks: u32,
    /// The step in which it was asked last.
    looked_in: u64,
    /// The queue closes when it has answered.
    pub(crate) leaving: bool,
}

impl Default for Sighted {
    fn default() -> Self {
        let (passed, known_from) = (Point(0), Point(u64::MAX));
        Self { passed, known_from, looks: 0, looked_in: 0, leaving: false }
    }
}

impl Broker {
    /// Has the shell look how far a ring is; `false` if it cannot.
    pub(crate) fn look_at_ring(&mut self, timeline: TimelineKey) -> bool {
        let Some(queue) = self.queues.get_mut(timeline) else { return false };
        let place = queue.shown.of(Party::Client(queue.client)).map(|shown| (shown.pair, shown.slot));
        let Some((ring, (pair, slot))) = queue.ring.as_mut().zip(place) else { return false };
        // What this step asked for is looked at after it.
        if ring.sighted.looks == 0 || ring.sighted.looked_in != self.step {
            ring.sighted.looks += 1;
            ring.sighted.looked_in = self.step;
            self.out.push(Effect::Look { timeline, pair, slot });
        }
        true
    }

    /// The shell has looked how far a ring is.
    pub(crate) fn ring_looked(&mut self, now: Time, timeline: TimelineKey, value: Point) {
        let Some(queue) = self.queues.get_mut(timeline) else { return };
        let (client, domain) = (queue.client, queue.domain);
        let Some(ring) = queue.ring.as_mut() else { return };
        let sighted = &mut ring.sighted;
        sighted.looks = sighted.looks.saturating_sub(1);
        sighted.passed = sighted.passed.max(value);
        // If something ended since, another answer is on its way, and that one judges what is due.
        let is_last = sighted.looks == 0;
        let leaves = is_last && std::mem::take(&mut sighted.leaving);
        let watchers = take_watchers(&mut queue.watchers, sighted.passed);
        self.entries_ended(timeline);
        self.watchers_look(now, timeline, watchers);
        if leaves {
            self.nobody_submits(now, timeline, client, domain);
            self.close_idle_queue(now, timeline);
        } else if is_last {
            self.fail_due_futures(now, timeline);
        }
    }

    /// Whoever waited for entries that are known to have ended waits for their moments no more.
    pub(crate) fn entries_ended(&mut self, timeline: TimelineKey) {
        let ring = self.queues.get(timeline).and_then(|queue| queue.ring.as_ref());
        if let Some(passed) = ring.map(|ring| ring.sighted.passed) {
            self.promised(timeline, passed);
        }
    }

    /// A queue is to close: whether it is looked first which of its entries have ended, because jobs wait for some.
    pub(crate) fn leave_ring(&mut self, timeline: TimelineKey) -> bool {
        if !self.futures.names(timeline) || !self.look_at_ring(timeline) {
            return false;
        }
        if let Some(ring) = self.queues.get_mut(timeline).and_then(|queue| queue.ring.as_mut()) {
            ring.sighted.leaving = true;
        }
        true
    }

    /// Why an entry had not ended in time.
    pub(crate) fn blame_entry(
        &mut self,
        (now, since): (Time, Time),
        (timeline, point): (TimelineKey, Point),
        (waiter, waiter_point): (TimelineKey, Point),
        (domain, device): (DomainId, usize),
    ) -> Failure {
        let queue = self.queues.get(timeline);
        let passed = queue.and_then(|queue| queue.ring.as_ref()).map_or(0, |ring| ring.sighted.passed.0);
        let (owner, of) = queue.map(|queue| (queue.client, queue.device)).unzip();
        let number = owner.map_or(0, client_number);
        let client = owner.and_then(|owner| self.clients.get(owner));
        let pid = client.map_or(0, |client| client.peer.pid);
        let name = client.map(|client| crate::promises::quoted(&client.name)).unwrap_or_default();
        let device_of =
            |place: usize| self.devices.get(place).map(|device| device.name()).unwrap_or_default();
        let text = format!(
            "entry {} of the user queue {timeline} of client {number}{name} on device {} had not ended in time, for which a \
             job of {} waited; {passed} had",
            point.0,
            of.map(device_of).unwrap_or_default(),
            device_of(device)
        );
        let code = ErrorCode::TimedOut;
        // No device is at fault.
        let cause = Cause::new(now, code, text).to(timeline, point).by(number, pid);
        let cause = self.causes.issue(domain, cause);
        let event = Event::EntryLate {
            client: number,
            timeline: timeline.to_string(),
            point: point.0,
            waiter: waiter.to_string(),
            waiter_point: waiter_point.0,
            waited_ns: now.since(since),
        };
        self.log(Some(domain), event);
        Failure { code, cause }
    }
}
