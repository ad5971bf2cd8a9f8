//! Points that nobody has promised yet, and who waits for that: jobs (wait-before-signal) and clients (T1, T2).
//!
//! A job may wait for a point that is still to be submitted or promised, by a moment. The driver has the wait like any
//! other and sees the point pass; the broker keeps the moment: if the point is promised before, the wait is a wait like
//! any other, else the job fails with TimedOut and a cause that says who did not promise what. The same happens at
//! once when the timeline ends. That such waits close no cycle is seen to when they are accepted ([`crate::cycles`]).

use std::collections::BTreeMap;

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::client::PointState;
use vgem_proto::message::driver::CancelJob;
use vgem_proto::rights::TimelineRights;

use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::deadlines::Timer;
use crate::io::Event;
use crate::objects::Awaiting;
use crate::policy;
use crate::requests::Outcome;

/// A job that waits for a point which nobody has promised.
#[derive(Debug)]
pub(crate) struct Future {
    pub(crate) waiter: (TimelineKey, Point),
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

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Futures {
    pub(crate) live: BTreeMap<FutureKey, Future>,
    last: u64,
}

impl Futures {
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
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

/// A client that waits for a point to be promised.
#[derive(Debug)]
pub(crate) struct Query {
    asker: Awaiting,
    timeline: TimelineKey,
    point: Point,
    pub(crate) until: Option<Time>,
}

impl Broker {
    /// A job that was accepted waits for a point that nobody has promised.
    pub(crate) fn await_promise(
        &mut self,
        (timeline, point): (TimelineKey, Point),
        waiter: (TimelineKey, Point),
        until: Time,
    ) {
        self.futures.last += 1;
        let since = self.now;
        let key = (order_of(timeline), point, self.futures.last);
        let future = self.futures.live.entry(key).or_insert(Future { waiter, since, until: None });
        self.timers.arm(Timer::Future(key.0, key.1, key.2), &mut future.until, until);
    }

    /// Points of a timeline to `point` have been promised.
    pub(crate) fn promised(&mut self, timeline: TimelineKey, point: Point) {
        if !self.futures.is_empty() {
            for key in self.futures.up_to(timeline, point) {
                self.forget_future(key);
            }
        }
        if !self.queries.is_empty() {
            self.answer_queries(timeline);
        }
    }

    fn forget_future(&mut self, key: FutureKey) -> Option<Future> {
        let mut future = self.futures.live.remove(&key)?;
        self.timers.disarm(Timer::Future(key.0, key.1, key.2), &mut future.until);
        Some(future)
    }

    /// The moment has come by which a point was to be promised.
    pub(crate) fn future_is_due(&mut self, now: Time, key: FutureKey) {
        if let Some(future) = self.futures.live.get_mut(&key) {
            future.until = None;
            self.fail_future(now, key, None);
        }
    }

    /// No point of a timeline will be promised any more: whoever waits for one fails, with `failure` if there is one.
    pub(crate) fn never_promised(&mut self, now: Time, timeline: TimelineKey, failure: Option<Failure>) {
        if self.futures.is_empty() {
            return;
        }
        let failure = failure.or_else(|| self.promises.get(timeline)?.verdict.map(|verdict| verdict.failure));
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
            let text = format!("client {number} closed {key} before it submitted what jobs wait for");
            let (code, pid, device) = (ErrorCode::Cancelled, 0, String::new());
            let cause = Cause { at: now, point: Point(0), pid, code, device, text };
            let cause = self.causes.issue(domain, cause);
            self.never_promised(now, key, Some(Failure { code, cause }));
        }
    }

    fn fail_future(&mut self, now: Time, key: FutureKey, failure: Option<Failure>) {
        let Some(future) = self.forget_future(key) else { return };
        let timeline = TimelineKey { index: key.0.0, generation: key.0.1 };
        let (waiter, point) = future.waiter;
        let Some(queue) = self.queues.get_mut(waiter) else { return };
        let (domain, instance, device) = (queue.domain, queue.instance, queue.device);
        let Some(job) = queue.job_mut(point).filter(|job| !job.cancelled) else { return };
        job.cancelled = true;
        let Failure { code, cause } = match failure {
            Some(failure) => failure,
            None => self.blame_for((now, future.since), (timeline, key.1), (waiter, point), (domain, device)),
        };
        self.tell_driver(instance, CancelJob { timeline: waiter, point, cause, code, reserved: Zero });
        if self.queues.get(waiter).is_some_and(|queue| queue.ended.next() == point) {
            self.look_at_head(now, waiter);
        }
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
        let text = format!(
            "{who} did not promise or submit point {} of {timeline} in time, for which a job waited; its last is {last}",
            point.0
        );
        let device = self.devices.get(device).map(|d| d.name().to_owned()).unwrap_or_default();
        let code = ErrorCode::TimedOut;
        let cause = Cause { at: now, point, pid, code, device, text };
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

// What clients ask.
impl Broker {
    /// A client asks how a point stands, and may wait until it is promised.
    pub(crate) fn query_point(
        &mut self,
        now: Time,
        asker: Awaiting,
        deadline: Time,
        (handle, point): (TimelineHandle, Point),
    ) -> Outcome {
        let (key, rights) = self.find_timeline(asker.client, handle)?;
        // Whoever signals may ask as well.
        let needed = if rights.contains(TimelineRights::SIGNAL) { rights } else { TimelineRights::WAIT };
        let grant = policy::authorise_timeline(key, rights, needed)?;
        let state = self.state_of(grant.timeline(), point);
        if state.state != 0 || deadline <= now {
            self.reply(asker.link, asker.request, state);
            return Ok(());
        }
        let bound = self.config.bounds.queries;
        let open = self.queries.values().filter(|query| query.asker.client == asker.client).count();
        if open >= bound {
            let text = "points that one client waits for to be promised";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(open as u64 + 1, bound as u64));
        }
        self.last_awaiting += 1;
        let id = self.last_awaiting;
        let latest = now.after(self.config.times.promise_ns);
        let query = self.queries.entry(id).or_insert(Query { asker, timeline: key, point, until: None });
        self.timers.arm(Timer::Query(id), &mut query.until, deadline.min(latest));
        Ok(())
    }

    /// Answers those whose point is promised by now, or over.
    pub(crate) fn answer_queries(&mut self, timeline: TimelineKey) {
        let waiting = self.queries.iter().filter(|(_, query)| query.timeline == timeline);
        let ids: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(query) = self.queries.get(&id) else { continue };
            let state = self.state_of(timeline, query.point);
            if state.state != 0 {
                self.answer_query(id, state);
            }
        }
    }

    /// Nobody has promised the point in time.
    pub(crate) fn query_is_due(&mut self, id: u64) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.until = None;
        let (timeline, point) = (query.timeline, query.point);
        let state = self.state_of(timeline, point);
        self.answer_query(id, state);
    }

    fn answer_query(&mut self, id: u64, state: PointState) {
        let Some(mut query) = self.queries.remove(&id) else { return };
        self.timers.disarm(Timer::Query(id), &mut query.until);
        self.reply(query.asker.link, query.asker.request, state);
    }

    /// A client that is gone asks no more.
    pub(crate) fn drop_queries_of(&mut self, client: ClientKey) {
        let theirs = self.queries.iter().filter(|(_, query)| query.asker.client == client);
        let ids: Vec<u64> = theirs.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(mut query) = self.queries.remove(&id) {
                self.timers.disarm(Timer::Query(id), &mut query.until);
            }
        }
    }

    /// How a point stands, as far as the broker knows.
    fn state_of(&self, timeline: TimelineKey, point: Point) -> PointState {
        let (promised, has_ended, failure) = match (self.queues.get(timeline), self.promises.get(timeline)) {
            (Some(queue), _) => {
                let is_gone = queue.state == crate::queues::QueueState::Gone;
                let has_ended = point <= queue.ended;
                let failure = if has_ended { queue.failure_of(point) } else { None };
                let gone = Failure { code: ErrorCode::DeviceLost, cause: CauseId::NONE };
                (queue.promised, has_ended, failure.or((is_gone && !has_ended).then_some(gone)))
            }
            (None, Some(promises)) => {
                (promises.promised, promises.has_passed(point), promises.failure_of(point))
            }
            (None, None) => {
                let gone = Failure { code: ErrorCode::Cancelled, cause: CauseId::NONE };
                (Point(0), true, Some(gone))
            }
        };
        let state = match failure {
            Some(_) => 3,
            None if has_ended => 2,
            None if point <= promised => 1,
            None => 0,
        };
        let (code, cause) = failure.map_or((0, CauseId::NONE), |f| (f.code.number(), f.cause));
        PointState { state, code, cause, promised }
    }
}
