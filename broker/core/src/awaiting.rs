//! Points that nobody has promised yet, and jobs that wait for that (wait-before-signal, T1).
//!
//! A job may wait for a point that is still to be submitted or promised, by a moment. The driver has the wait like any
//! other and sees the point pass; the broker keeps the moment: if the point is promised before, the wait is a wait like
//! any other, else the job fails with TimedOut and a cause that says who did not promise what. The same happens at
//! once when the timeline ends. That such waits close no cycle is seen to when they are accepted ([`crate::cycles`]).
//!
//! Jobs that wait for entries of user queues are looked after in the same way, but that there nothing is promised: it
//! is the end of the entry that must come by its moment ([`crate::host_waits`]).
//!
//! A client may signal a point that it never promised. So before a job fails for want of a promise by a client, the
//! broker looks at what that has signalled ([`crate::io::Effect::Look`]).
//!
//! Invariants: a future that lives names a point that is not known to be promised, signalled or passed, and a job that has not
//! ended; its timer runs, unless it is due and the broker has begun to look.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{ClientKey, DomainId, Point, Time, TimelineKey};
use vgem_proto::message::driver::CancelJob;

use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::deadlines::Timer;
use crate::io::Event;
use crate::reservation::Inherited;
use crate::timelines::is_of_client;

/// A job that waits for a point which nobody has promised, or for an entry of a user queue.
#[derive(Debug)]
pub(crate) struct Future {
    pub(crate) waiter: (TimelineKey, Point),
    /// Of the waiter.
    domain: DomainId,
    /// Since when it waits.
    pub(crate) since: Time,
    pub(crate) until: Option<Time>,
}

/// A point and which of those who wait for it, in the order of the points.
pub(crate) type FutureKey = (TimelineOrder, Point, u64);

/// A timeline's key, in an order.
pub(crate) type TimelineOrder = (u32, u32);

pub(crate) fn order_of(key: TimelineKey) -> TimelineOrder {
    (key.index, key.generation)
}

pub(crate) fn key_of((index, generation): TimelineOrder) -> TimelineKey {
    TimelineKey { index, generation }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Futures {
    pub(crate) live: BTreeMap<FutureKey, Future>,
    /// The same by who waits.
    by_waiter: BTreeSet<(TimelineOrder, Point, FutureKey)>,
    /// How many jobs of each domain wait so.
    counts: BTreeMap<DomainId, usize>,
    last: u64,
}

impl Futures {
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// How many jobs of a domain wait so.
    pub(crate) fn count_of(&self, domain: DomainId) -> usize {
        self.counts.get(&domain).copied().unwrap_or(0)
    }

    fn add(&mut self, (timeline, point): (TimelineKey, Point), future: Future) -> FutureKey {
        self.last += 1;
        let key = (order_of(timeline), point, self.last);
        self.by_waiter.insert((order_of(future.waiter.0), future.waiter.1, key));
        *self.counts.entry(future.domain).or_default() += 1;
        self.live.insert(key, future);
        key
    }

    fn remove(&mut self, key: FutureKey) -> Option<Future> {
        let future = self.live.remove(&key)?;
        self.by_waiter.remove(&(order_of(future.waiter.0), future.waiter.1, key));
        let left = self.counts.entry(future.domain).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.counts.remove(&future.domain);
        }
        Some(future)
    }

    /// What jobs of a queue up to `point` wait for.
    fn of_jobs(&self, queue: TimelineKey, point: Point) -> Vec<FutureKey> {
        let (order, least) = (order_of(queue), ((0, 0), Point(0), 0));
        let all = self.by_waiter.range((order, Point(0), least)..);
        all.take_while(|(of, at, _)| *of == order && *at <= point).map(|(_, _, key)| *key).collect()
    }

    /// Those of a timeline that are due, and whose jobs have not failed yet.
    fn due_of(&self, timeline: TimelineKey) -> Vec<FutureKey> {
        let order = order_of(timeline);
        let all = self.live.range((order, Point(0), 0)..=(order, Point(u64::MAX), u64::MAX));
        all.filter(|(_, future)| future.until.is_none()).map(|(key, _)| *key).collect()
    }

    /// Every table against the others.
    pub(crate) fn fit(&self) -> bool {
        let by_waiter = self.live.iter().map(|(key, f)| (order_of(f.waiter.0), f.waiter.1, *key));
        let mut counts = BTreeMap::<DomainId, usize>::new();
        self.live.values().for_each(|future| *counts.entry(future.domain).or_default() += 1);
        by_waiter.collect::<BTreeSet<_>>() == self.by_waiter && counts == self.counts
    }

    /// Those who wait for points of a timeline up to `point`.
    pub(crate) fn up_to(&self, timeline: TimelineKey, point: Point) -> Vec<FutureKey> {
        let order = order_of(timeline);
        self.live.range((order, Point(0), 0)..=(order, point, u64::MAX)).map(|(key, _)| *key).collect()
    }

    /// Whether somebody waits for a point of a timeline.
    pub(crate) fn names(&self, timeline: TimelineKey) -> bool {
        let order = order_of(timeline);
        self.live.range((order, Point(0), 0)..=(order, Point(u64::MAX), u64::MAX)).next().is_some()
    }
}

impl Broker {
    /// A job that was accepted waits for a point that nobody has promised.
    pub(crate) fn await_promise(
        &mut self,
        (timeline, point): (TimelineKey, Point),
        waiter: (TimelineKey, Point),
        until: Time,
    ) {
        let Some(domain) = self.queues.get(waiter.0).map(|queue| queue.domain) else { return };
        let future = Future { waiter, domain, since: self.now, until: None };
        let key = self.futures.add((timeline, point), future);
        if let Some(future) = self.futures.live.get_mut(&key) {
            self.timers.arm(Timer::Future(key.0, key.1, key.2), &mut future.until, until);
        }
    }

    /// Points of a timeline to `point` have been promised, or signalled without.
    pub(crate) fn promised(&mut self, timeline: TimelineKey, point: Point) {
        if !self.futures.is_empty() {
            for key in self.futures.up_to(timeline, point) {
                self.forget_future(key);
            }
        }
        self.answer_queries(timeline);
    }

    /// Jobs of a queue up to `point` have ended: they wait for nothing.
    pub(crate) fn waits_no_more(&mut self, queue: TimelineKey, point: Point) {
        if !self.futures.is_empty() {
            for key in self.futures.of_jobs(queue, point) {
                self.forget_future(key);
            }
        }
    }

    fn forget_future(&mut self, key: FutureKey) -> Option<Future> {
        let mut future = self.futures.remove(key)?;
        self.timers.disarm(Timer::Future(key.0, key.1, key.2), &mut future.until);
        Some(future)
    }

    /// The moment has come by which a point was to be promised.
    pub(crate) fn future_is_due(&mut self, now: Time, key: FutureKey) {
        let Some(future) = self.futures.live.get_mut(&key) else { return };
        future.until = None;
        let timeline = key_of(key.0);
        let looks = match is_of_client(timeline) {
            true => self.look_at_timeline_now(timeline),
            false => self.look_at_ring(timeline),
        };
        if !looks {
            self.fail_future(now, key, None);
        }
    }

    /// What a client has signalled is known: whatever it has not, and should have promised, it has not in time.
    pub(crate) fn fail_due_futures(&mut self, now: Time, timeline: TimelineKey) {
        if !self.futures.is_empty() {
            for key in self.futures.due_of(timeline) {
                self.fail_future(now, key, None);
            }
        }
    }

    /// No point of a timeline will be promised any more: whoever waits for one fails, with `failure` if there is one.
    pub(crate) fn never_promised(&mut self, now: Time, timeline: TimelineKey, failure: Option<Inherited>) {
        if self.futures.is_empty() {
            return;
        }
        let verdict = || {
            let promises = self.promises.get(timeline)?;
            promises.verdict.map(|verdict| Inherited { failure: verdict.failure, domain: promises.domain })
        };
        let failure = failure.or_else(verdict);
        for key in self.futures.up_to(timeline, Point(u64::MAX)) {
            self.fail_future(now, key, failure);
        }
    }

    /// A queue takes no more jobs: nobody will submit to it what others wait for.
    pub(crate) fn nobody_submits(
        &mut self,
        now: Time,
        key: TimelineKey,
        client: ClientKey,
        domain: DomainId,
    ) {
        if self.futures.names(key) {
            let number = client_number(client);
            let is_ring = self.queues.get(key).is_some_and(|queue| queue.ring.is_some());
            let what = if is_ring {
                "the entries ended that jobs wait for"
            } else {
                "it submitted what jobs wait for"
            };
            let text = format!("client {number} closed {key} before {what}");
            let code = ErrorCode::Cancelled;
            let cause = Cause::new(now, code, text).to(key, Point(0)).by(number, 0);
            let cause = self.causes.issue(domain, cause);
            self.never_promised(now, key, Some(Inherited { failure: Failure { code, cause }, domain }));
        }
    }

    fn fail_future(&mut self, now: Time, key: FutureKey, failure: Option<Inherited>) {
        let Some(future) = self.forget_future(key) else { return };
        let timeline = key_of(key.0);
        let (waiter, point) = future.waiter;
        let Some(queue) = self.queues.get_mut(waiter) else { return };
        let (domain, instance, device) = (queue.domain, queue.instance, queue.device);
        if queue.job(point).is_none_or(|job| job.cancelled) {
            return;
        }
        let Failure { code, cause } = match failure {
            Some(Inherited { failure, domain: from }) => {
                self.causes.pass_on(from, domain, failure.cause);
                failure
            }
            None if self.queues.get(timeline).is_some_and(|queue| queue.ring.is_some()) => {
                self.blame_entry((now, future.since), (timeline, key.1), (waiter, point), (domain, device))
            }
            None => self.blame_for((now, future.since), (timeline, key.1), (waiter, point), (domain, device)),
        };
        if let Some(queue) = self.queues.get_mut(waiter) {
            queue.cancel(point, Failure { code, cause });
        }
        self.tell_driver(instance, CancelJob { timeline: waiter, point, cause, code, reserved: Zero });
        self.look_at_cancelled(now, waiter, point);
    }

    /// Why a point was not promised in time.
    fn blame_for(
        &mut self,
        (now, since): (Time, Time),
        (timeline, point): (TimelineKey, Point),
        (waiter, waiter_point): (TimelineKey, Point),
        (domain, device): (DomainId, usize),
    ) -> Failure {
        let owner = match self.queues.get(timeline) {
            Some(queue) => Some((queue.client, queue.promised, queue.domain)),
            None => self
                .promises
                .get(timeline)
                .and_then(|promises| Some((promises.signaller?, promises.promised, promises.domain))),
        };
        let known = owner.filter(|(_, _, of)| *of == domain);
        let client = known.and_then(|(key, _, _)| Some((key, self.clients.get(key)?)));
        let (number, pid, who) = client.map_or((0, 0, "nobody".to_owned()), |(key, client)| {
            let number = client_number(key);
            (number, client.peer.pid, format!("client {number}{}", crate::promises::quoted(&client.name)))
        });
        let last = owner.map_or(0, |(_, promised, _)| promised.0);
        let device = self.devices.get(device).map(|d| d.name().to_owned()).unwrap_or_default();
        let text = format!(
            "{who} did not promise or submit point {} of {timeline} in time, for which a job of {device} waited; its last \
             is {last}",
            point.0
        );
        let code = ErrorCode::TimedOut;
        // No device is at fault.
        let cause = Cause::new(now, code, text).to(timeline, point).by(number, pid);
        let cause = self.causes.issue(domain, cause);
        let event = Event::NeverPromised {
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
