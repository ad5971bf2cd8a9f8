//! What every job must wait for, by definition: computed from the whole history, with no list that anybody
//! keeps up to date.
//!
//! The oracle knows every accepted job, in order, and which of them the broker knows to have ended, and how.
//! A job conflicts with an earlier unfinished one if they share an object and one of them writes it. It depends
//! on it by data if it reads bytes that the earlier one is to write and that no job in between replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use vgem_proto::error::Failure;
use vgem_proto::ids::{ObjectKey, Point, TimelineKey};
use vgem_proto::rights::WaitKind;

/// What a job does to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Read,
    Update,
    Replace,
}

/// A use of an object.
#[derive(Debug, Clone)]
pub(crate) struct Touch {
    pub(crate) object: ObjectKey,
    pub(crate) bytes: Range<u64>,
    pub(crate) how: How,
}

/// An accepted job.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: Point,
    pub(crate) touches: Vec<Touch>,
    pub(crate) explicit: Vec<(TimelineKey, Point, WaitKind)>,
    pub(crate) skips_implicit: bool,
    pub(crate) runs_anyway: bool,
    /// Its operation is not idempotent.
    pub(crate) once: bool,
    /// How it ended, once the broker knows.
    pub(crate) ended: Option<Result<(), Failure>>,
}

/// Everything that was ever accepted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Oracle {
    jobs: Vec<Accepted>,
    /// What each unfinished job waits for, in the order of the jobs.
    waits: Vec<Vec<(TimelineKey, Point)>>,
    places: BTreeMap<(TimelineKey, Point), usize>,
}

/// What a job must wait for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Required {
    pub(crate) data: BTreeSet<(TimelineKey, Point)>,
    /// Per other timeline, a point beyond every data wait on it.
    pub(crate) order: BTreeMap<TimelineKey, Point>,
    /// Failures that it must begin with: one of these, or none if there are none.
    pub(crate) failed: Vec<Failure>,
}

impl Oracle {
    pub(crate) fn accept(&mut self, job: Accepted) {
        let Required { data, order, .. } = self.required(&job);
        self.waits.push(data.into_iter().chain(order).collect());
        self.places.insert((job.timeline, job.point), self.jobs.len());
        self.jobs.push(job);
    }

    /// Whether some unfinished job waits for itself, over whatever others, by naive search. `waits_no_more` tells which
    /// jobs were cancelled.
    pub(crate) fn has_cycle(&self, waits_no_more: impl Fn(TimelineKey, Point) -> bool) -> bool {
        let is_open = |place: &usize| self.jobs[*place].ended.is_none();
        let last = |timeline: TimelineKey, point: Point| {
            let mut before = self.places.range((timeline, Point(0))..=(timeline, point));
            before.next_back().map(|(_, place)| *place)
        };
        let next = |place: usize| {
            let job = &self.jobs[place];
            let waits: &[_] = if waits_no_more(job.timeline, job.point) { &[] } else { &self.waits[place] };
            let before = (job.timeline, Point(job.point.0 - 1));
            let all = waits.iter().copied().chain([before]);
            // Whoever waits for what is still to come waits for all that comes before it.
            all.filter_map(|(timeline, point)| last(timeline, point)).filter(is_open).collect::<Vec<_>>()
        };
        (0..self.jobs.len()).filter(is_open).any(|first| {
            let (mut seen, mut open) = (BTreeSet::new(), next(first));
            while let Some(place) = open.pop() {
                if place == first {
                    return true;
                }
                if seen.insert(place) {
                    open.extend(next(place));
                }
            }
            false
        })
    }

    pub(crate) fn end(&mut self, timeline: TimelineKey, point: Point, how: Result<(), Failure>) {
        let job = &mut self.jobs[self.places[&(timeline, point)]];
        assert!(job.ended.replace(how).is_none(), "{timeline} {point:?} ended twice");
    }

    pub(crate) fn job(&self, key: (TimelineKey, Point)) -> &Accepted {
        &self.jobs[self.places[&key]]
    }

    /// How a point ended, if it was accepted and has.
    pub(crate) fn ended(&self, key: (TimelineKey, Point)) -> Option<Result<(), Failure>> {
        self.places.get(&key).and_then(|place| self.jobs[*place].ended)
    }

    /// Whether a job waits, or waited, for a point that was still to come when it was accepted.
    pub(crate) fn awaits(&self, job: &Accepted) -> bool {
        let own = self.places[&(job.timeline, job.point)];
        job.explicit
            .iter()
            .any(|(line, point, _)| self.places.get(&(*line, *point)).is_none_or(|p| *p >= own))
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.jobs.iter().filter(|job| job.ended.is_none()).count()
    }

    /// The points of a timeline that have not ended.
    pub(crate) fn open_points(&self, timeline: TimelineKey) -> Vec<Point> {
        let open = self.jobs.iter().filter(|job| job.timeline == timeline && job.ended.is_none());
        open.map(|job| job.point).collect()
    }

    /// What `job`, the next to be accepted, must wait for.
    pub(crate) fn required(&self, job: &Accepted) -> Required {
        let mut waits: Vec<(TimelineKey, Point, WaitKind)> = Vec::new();
        let mut failed = Vec::new();
        for (timeline, point, kind) in &job.explicit {
            // What is still to come has no place.
            match self.places.get(&(*timeline, *point)).and_then(|place| self.jobs[*place].ended.as_ref()) {
                None => waits.push((*timeline, *point, *kind)),
                Some(Err(failure)) if *kind == WaitKind::Data => failed.push(*failure),
                Some(_) => {}
            }
        }
        let explicit_failed = failed.first().copied();
        for (place, earlier) in self.jobs.iter().enumerate() {
            let reads = job.touches.iter().filter(|t| t.how != How::Replace);
            let spoils = reads.clone().any(|touch| self.still_to_write(place, touch));
            match earlier.ended {
                Some(Ok(())) => {}
                Some(Err(failure)) if spoils => failed.push(failure),
                Some(Err(_)) => {}
                None if job.skips_implicit => {}
                None if spoils => waits.push((earlier.timeline, earlier.point, WaitKind::Data)),
                None if conflicts(earlier, job) => {
                    waits.push((earlier.timeline, earlier.point, WaitKind::Order))
                }
                None => {}
            }
        }
        if let Some(failure) = explicit_failed {
            failed = vec![failure];
        }
        if job.runs_anyway {
            failed.clear();
            waits.iter_mut().for_each(|wait| wait.2 = WaitKind::Order);
        }
        let data: BTreeSet<_> =
            waits.iter().filter(|w| w.2 == WaitKind::Data).map(|(t, p, _)| (*t, *p)).collect();
        let mut order = BTreeMap::new();
        for (timeline, point, _) in waits.iter().filter(|w| w.2 == WaitKind::Order && w.0 != job.timeline) {
            let last: &mut Point = order.entry(*timeline).or_insert(*point);
            *last = (*last).max(*point);
        }
        order.retain(|timeline, point| !data.iter().any(|(t, p)| t == timeline && p >= point));
        Required { data, order, failed }
    }

    /// Whether some byte that `touch` reads was last promised by the job at `place`.
    fn still_to_write(&self, place: usize, touch: &Touch) -> bool {
        let writer = &self.jobs[place];
        let writes = writer.touches.iter().filter(|t| t.how != How::Read && t.object == touch.object);
        let mut bytes: Vec<Range<u64>> =
            writes.map(|t| t.bytes.start.max(touch.bytes.start)..t.bytes.end.min(touch.bytes.end)).collect();
        for later in &self.jobs[place + 1..] {
            for replaced in later.touches.iter().filter(|t| t.how == How::Replace && t.object == touch.object)
            {
                let (start, end) = (replaced.bytes.start, replaced.bytes.end);
                let parts = |b: Range<u64>| [b.start..b.end.min(start), b.start.max(end)..b.end];
                bytes = bytes.into_iter().flat_map(parts).filter(|b| b.start < b.end).collect();
            }
        }
        bytes.iter().any(|b| b.start < b.end)
    }
}

fn conflicts(earlier: &Accepted, later: &Accepted) -> bool {
    earlier.touches.iter().any(|a| {
        later.touches.iter().any(|b| a.object == b.object && (a.how != How::Read || b.how != How::Read))
    })
}
