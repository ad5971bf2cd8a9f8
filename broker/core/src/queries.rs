//! What clients ask about points: how one stands, and whether it is promised by now (T2).
//!
//! Of a queue the broker knows. Of a timeline that a client signals it knows what was promised and what was announced to
//! fail; what was signalled it looks up in the primary page ([`crate::io::Effect::Look`]) before it answers. So whoever
//! finds that a page has forgotten how a point ended can ask here.
//!
//! Invariants: a question that is kept is open, or due and being looked at; it is in all three tables.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::client::PointState;
use vgem_proto::rights::TimelineRights;

use crate::awaiting::{TimelineOrder, order_of};
use crate::broker::Broker;
use crate::deadlines::Timer;
use crate::objects::Awaiting;
use crate::policy;
use crate::queues::QueueState;
use crate::requests::Outcome;
use crate::timelines::is_of_client;

/// A client that waits for an answer about a point.
#[derive(Debug)]
pub(crate) struct Query {
    asker: Awaiting,
    pub(crate) timeline: TimelineKey,
    point: Point,
    /// When it is answered at the latest; nothing once it is due, and waits for a look only.
    pub(crate) until: Option<Time>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    pub(crate) live: BTreeMap<u64, Query>,
    by_point: BTreeSet<(TimelineOrder, Point, u64)>,
    by_client: BTreeSet<(ClientKey, u64)>,
}

impl Queries {
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    fn of(&self, client: ClientKey) -> impl Iterator<Item = u64> {
        self.by_client.range((client, 0)..=(client, u64::MAX)).map(|(_, id)| *id)
    }

    /// Those about points of a timeline, from the first of them to `last`.
    fn up_to(&self, timeline: TimelineKey, last: Point) -> Vec<u64> {
        let order = order_of(timeline);
        self.by_point.range((order, Point(0), 0)..=(order, last, u64::MAX)).map(|(_, _, id)| *id).collect()
    }

    fn add(&mut self, id: u64, query: Query) -> &mut Query {
        self.by_point.insert((order_of(query.timeline), query.point, id));
        self.by_client.insert((query.asker.client, id));
        self.live.entry(id).or_insert(query)
    }

    fn remove(&mut self, id: u64) -> Option<Query> {
        let query = self.live.remove(&id)?;
        self.by_point.remove(&(order_of(query.timeline), query.point, id));
        self.by_client.remove(&(query.asker.client, id));
        Some(query)
    }

    /// Every table against the others.
    pub(crate) fn fit(&self) -> bool {
        let points = self.live.iter().map(|(id, q)| (order_of(q.timeline), q.point, *id));
        let clients = self.live.iter().map(|(id, q)| (q.asker.client, *id));
        points.collect::<BTreeSet<_>>() == self.by_point && clients.collect::<BTreeSet<_>>() == self.by_client
    }
}

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
        let timeline = policy::authorise_timeline(key, rights, needed)?.timeline();
        let state = self.state_of(timeline, point);
        let has_ended = state.state > 1;
        let bound = self.config.bounds.queries;
        let open = self.queries.of(asker.client).count();
        let is_looked_up =
            !has_ended && is_of_client(timeline) && open < bound && self.look_at_timeline_now(timeline);
        let is_answered = has_ended || state.state == 1 || deadline <= now;
        if is_answered && !is_looked_up {
            self.state_shown_to(asker.client, timeline, state.cause);
            self.reply(asker.link, asker.request, state);
            return Ok(());
        }
        if open >= bound {
            let text = "points that one client waits for to be promised";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(open as u64 + 1, bound as u64));
        }
        self.last_awaiting += 1;
        let id = self.last_awaiting;
        let latest = now.after(self.config.times.promise_ns);
        let query = self.queries.add(id, Query { asker, timeline, point, until: None });
        if !is_answered {
            self.timers.arm(Timer::Query(id), &mut query.until, deadline.min(latest));
        }
        Ok(())
    }

    /// Answers those whose point is promised by now.
    pub(crate) fn answer_queries(&mut self, timeline: TimelineKey) {
        if self.queries.live.is_empty() {
            return;
        }
        let (promised, is_over) = match (self.queues.get(timeline), self.promises.get(timeline)) {
            (Some(queue), _) => (queue.promised, queue.state == QueueState::Gone),
            (None, Some(promises)) => (promises.promised.max(promises.passed), promises.verdict.is_some()),
            (None, None) => (Point(0), true),
        };
        let last = if is_over { Point(u64::MAX) } else { promised };
        for id in self.queries.up_to(timeline, last) {
            // One that is being looked up is answered then.
            if is_over || self.queries.live.get(&id).is_some_and(|query| query.until.is_some()) {
                self.answer_query(id);
            }
        }
    }

    /// What a client has signalled is known: those who wait for nothing else are answered.
    pub(crate) fn answer_looks(&mut self, timeline: TimelineKey) {
        if self.queries.live.is_empty() {
            return;
        }
        for id in self.queries.up_to(timeline, Point(u64::MAX)) {
            if self.queries.live.get(&id).is_some_and(|query| query.until.is_none()) {
                self.answer_query(id);
            }
        }
    }

    /// Nobody has promised the point in time.
    pub(crate) fn query_is_due(&mut self, id: u64) {
        let Some(query) = self.queries.live.get_mut(&id) else { return };
        query.until = None;
        let timeline = query.timeline;
        if !is_of_client(timeline) || !self.look_at_timeline_now(timeline) {
            self.answer_query(id);
        }
    }

    fn answer_query(&mut self, id: u64) {
        let Some(mut query) = self.queries.remove(id) else { return };
        self.timers.disarm(Timer::Query(id), &mut query.until);
        let state = self.state_of(query.timeline, query.point);
        self.state_shown_to(query.asker.client, query.timeline, state.cause);
        self.reply(query.asker.link, query.asker.request, state);
    }

    /// A client that is gone asks no more.
    pub(crate) fn drop_queries_of(&mut self, client: ClientKey) {
        let ids: Vec<u64> = self.queries.of(client).collect();
        for id in ids {
            if let Some(mut query) = self.queries.remove(id) {
                self.timers.disarm(Timer::Query(id), &mut query.until);
            }
        }
    }

    /// How a point stands, as far as the broker knows.
    fn state_of(&self, timeline: TimelineKey, point: Point) -> PointState {
        let (promised, has_ended, failure) = match (self.queues.get(timeline), self.promises.get(timeline)) {
            (Some(queue), _) => {
                let is_gone = queue.state == QueueState::Gone;
                let has_ended = point <= queue.ended;
                let failure = if has_ended { queue.failures.of(point) } else { None };
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
