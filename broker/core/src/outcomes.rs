//! How points ended, for the jobs that wait for them (F10).
//!
//! A fence page shows the last few failures of a timeline. A job may wait so long for one thing that the page has
//! forgotten how another ended; then its driver asks, because a job fails with the cause of exactly what it reads, and
//! with no other. So of every point that an unfinished job waits for the broker knows for certain how it ended:
//!
//! ```text
//!   point fails ──► remembered with its timeline ──► too many, or the timeline goes ──► an unfinished job waits for it?
//!                                                                                          │ yes: kept here
//!                                                                                          ▼ no: forgotten
//! ```
//!
//! Whatever is neither remembered nor kept, and was waited for all the time, ended well. That is not so for who comes
//! later: what a job waits for from its submission on is resolved then.
//!
//! Entries of user queues are another matter: the broker is not told how they end. What a page has forgotten of them
//! counts as failed.
//!
//! A driver may see a point end, and ask, before the completion has arrived; it is answered when that has.
//!
//! Who waits is read off the runs that instances were sent ([`crate::sent`]): they are looked through only when a timeline
//! that failed many times forgets, or goes.
//!
//! Invariants: what is kept was waited for when it was kept, and goes, at the latest, when twice as much has come; whoever
//! has asked was sent a job that waits for the point.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::codec::Zero;
use vgem_proto::error::Failure;
use vgem_proto::ids::{CauseId, InstanceId, Point, TimelineKey};
use vgem_proto::jobs::DriverWait;
use vgem_proto::message::driver::PointEnded;
use vgem_proto::rights::WaitKind;

use crate::awaiting::{TimelineOrder, key_of, order_of};
use crate::broker::Broker;
use crate::devices::Instance;
use crate::pairs::Party;
use crate::queues::{FORGOTTEN, Queue};
use crate::timelines::is_of_client;

/// So many are kept before it is looked at all which of them still matter.
const KEPT: usize = 256;

/// What is known of points beyond what their timelines remember, and who has asked.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    kept: BTreeMap<(TimelineOrder, Point), Failure>,
    /// With how many it is looked at again which of them matter.
    full: usize,
    asked: BTreeSet<(TimelineOrder, Point, InstanceId)>,
}

impl Outcomes {
    /// Who has asked, and about what.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (InstanceId, TimelineOrder, Point)> {
        self.asked.iter().map(|(timeline, point, instance)| (*instance, *timeline, *point))
    }

    /// An instance that is gone is told nothing more. Its heir asks for itself.
    pub(crate) fn forget_instance(&mut self, id: InstanceId) {
        self.asked.retain(|(_, _, asker)| *asker != id);
    }
}

impl Broker {
    /// How a point ended for which an unfinished job waits: its failure, if it is one. The point must have ended.
    pub(crate) fn outcome_of(&self, timeline: TimelineKey, point: Point) -> Option<Failure> {
        let kept = self.outcomes.kept.get(&(order_of(timeline), point)).copied();
        kept.or_else(|| match is_of_client(timeline) {
            true => self.promises.get(timeline)?.known_failure_of(point),
            false => {
                let queue = self.queues.get(timeline)?;
                queue.failures.known(point).or_else(|| forgotten_of(queue, point))
            }
        })
    }

    /// A driver asks how a point ended that its page has forgotten. Of what none of its jobs reads it is told nothing: the
    /// job was cancelled meanwhile.
    pub(crate) fn point_asked(&mut self, id: InstanceId, timeline: TimelineKey, point: Point) {
        if !self.waits_for(id, (timeline, point)) {
            return;
        }
        // What a client was about to signal as failed it has announced before; and of entries nobody will tell more.
        let is_of_ring = self.queues.get(timeline).is_some_and(|queue| queue.ring.is_some());
        if is_of_client(timeline) || is_of_ring || self.has_ended(timeline, point) {
            self.tell_outcome(id, timeline, point);
        } else {
            self.outcomes.asked.insert((order_of(timeline), point, id));
        }
    }

    /// Whether a job of an instance reads what a point is the end of.
    pub(crate) fn waits_for(&self, id: InstanceId, wait: (TimelineKey, Point)) -> bool {
        self.instances
            .get(&id)
            .is_some_and(|asker| data_waits(asker).any(|known| (known.timeline, known.point) == wait))
    }

    /// Answers those who asked about points of a queue up to one, which have ended.
    pub(crate) fn answer_asked(&mut self, timeline: TimelineKey, ended: Point) {
        if self.outcomes.asked.is_empty() {
            return;
        }
        let order = order_of(timeline);
        let (first, last) = (InstanceId(0), InstanceId(u32::MAX));
        let asked: Vec<_> =
            self.outcomes.asked.range((order, Point(0), first)..=(order, ended, last)).copied().collect();
        for one in asked {
            self.outcomes.asked.remove(&one);
            self.tell_outcome(one.2, timeline, one.1);
        }
    }

    /// Forgets what an instance asked for jobs that have ended without the answer: they were cancelled.
    pub(crate) fn drop_questions(&mut self, id: InstanceId) {
        if self.outcomes.asked.is_empty() {
            return;
        }
        let mut asked = std::mem::take(&mut self.outcomes.asked);
        asked.retain(|(order, point, asker)| *asker != id || self.waits_for(id, (key_of(*order), *point)));
        self.outcomes.asked = asked;
    }

    fn tell_outcome(&mut self, id: InstanceId, timeline: TimelineKey, point: Point) {
        let failure = self.outcome_of(timeline, point);
        let (code, cause) = failure.map_or((0, CauseId::NONE), |f| (f.code.number(), f.cause));
        self.tell_driver(id, PointEnded { timeline, point, cause, code, reserved: Zero });
    }

    /// Has a queue forget its oldest failures, if it has too many; those that somebody waits for are kept.
    pub(crate) fn forget_failures(&mut self, timeline: TimelineKey) {
        let Some(queue) = self.queues.get_mut(timeline) else { return };
        let old = queue.failures.take_old();
        if !old.is_empty() {
            self.keep_awaited(timeline, old);
        }
    }

    /// Keeps, of failures that nobody will remember otherwise, those that unfinished jobs wait for.
    pub(crate) fn keep_awaited(
        &mut self,
        timeline: TimelineKey,
        failures: impl IntoIterator<Item = (Point, Failure)>,
    ) {
        let failed: BTreeMap<Point, Failure> = failures.into_iter().collect();
        if failed.is_empty() {
            return;
        }
        if self.outcomes.kept.len() >= self.outcomes.full.max(KEPT) {
            self.drop_unawaited();
        }
        let own = self.queues.get(timeline).map(|queue| Party::Instance(queue.instance));
        let shown = self.shown_places(timeline).into_iter().flat_map(|places| places.iter());
        let seen_by = own.into_iter().chain(shown.map(|shown| shown.observer));
        let waits = seen_by.flat_map(|party| match party {
            Party::Instance(id) => self.instances.get(&id),
            Party::Client(_) => None,
        });
        let waits = waits.flat_map(data_waits).filter(|wait| wait.timeline == timeline);
        let awaited = waits.filter_map(|wait| Some((wait.point, *failed.get(&wait.point)?)));
        let awaited: Vec<_> = awaited.collect();
        let order = order_of(timeline);
        self.outcomes.kept.extend(awaited.into_iter().map(|(point, failure)| ((order, point), failure)));
    }

    /// A user queue goes: how its entries ended nobody will know, and what a job reads of them counts as failed. Asked
    /// about is only what the page of the job's instance has forgotten.
    pub(crate) fn keep_entries(&mut self, timeline: TimelineKey) {
        let Some(queue) = self.queues.get(timeline).filter(|queue| queue.ring.is_some()) else { return };
        let waits = self.instances.values().flat_map(data_waits).filter(|wait| wait.timeline == timeline);
        let failure = |point| queue.failures.known(point).or_else(|| forgotten_of(queue, point));
        let failed: Vec<_> = waits.filter_map(|wait| Some((wait.point, failure(wait.point)?))).collect();
        self.keep_awaited(timeline, failed);
    }

    fn drop_unawaited(&mut self) {
        let waits = self.instances.values().flat_map(data_waits);
        let awaited: BTreeSet<_> = waits.map(|wait| (order_of(wait.timeline), wait.point)).collect();
        self.outcomes.kept.retain(|point, _| awaited.contains(point));
        self.outcomes.full = self.outcomes.kept.len() * 2;
    }
}

/// What an entry counts as having failed with whose end the broker has not seen: it is not told of them.
fn forgotten_of(queue: &Queue, point: Point) -> Option<Failure> {
    queue.ring.as_ref().filter(|ring| point < ring.sighted.known_from).map(|_| FORGOTTEN)
}

/// What jobs of an instance read and wait for; also of some that have ended.
fn data_waits(instance: &Instance) -> impl Iterator<Item = &DriverWait> {
    instance.sent.runs().flat_map(|run| &run.waits).filter(|wait| wait.kind == WaitKind::Data)
}
