//! Tracing: what every job did, told when it has ended.
//!
//! ```text
//!   Trace ──Done──► Traced, Traced, Traced .. until the connection ends
//! ```
//!
//! As with [`Monitor`](crate::Monitor) nobody waits for a reader: what it does not take in time is counted in `lost`, so
//! trace on a connection of its own. While nobody traces, the broker notes nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DeviceId, Point, Time, TimelineKey};
use vgem_proto::jobs::{TracedJob, TracedWait};
use vgem_proto::message::client::{ClientMessage, Traced};

use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::exchange::Reply;
use crate::link::unexpected;

/// Every job that ends, from the moment it was asked for.
#[derive(Debug)]
pub struct Trace {
    core: Arc<Core>,
    lost: u64,
    waiting: VecDeque<EndedJob>,
}

/// A job that has ended, with what each who took part says of it. Times are CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedJob {
    /// The queue's timeline.
    pub timeline: TimelineKey,
    /// The job's point.
    pub point: Point,
    /// The number of the client whose it was.
    pub client: u64,
    /// The device.
    pub device: DeviceId,
    /// The number of the driver instance.
    pub instance: u32,
    /// The number of the operation, if its engine began.
    pub op: Option<u16>,
    /// When the broker accepted it.
    pub submitted: Time,
    /// When the broker saw it first in its queue and waiting for nothing, if it did. The broker learns of ends later than
    /// those who wait for them, so this may be after `started`.
    pub ready: Option<Time>,
    /// When the engine began, as its driver says; none if it never did, or if the driver died before it said.
    pub started: Option<Time>,
    /// When it ended.
    pub ended: Time,
    /// Bytes read and written.
    pub bytes: u64,
    /// Bytes copied through private windows.
    pub staged: u64,
    /// How it failed, if it did.
    pub failure: Option<(ErrorCode, CauseId)>,
    /// The points of other timelines that it waited for; of one in a domain that is not ours there is no more to know.
    pub waits: Vec<Option<(TimelineKey, Point)>>,
}

impl Trace {
    /// Understands that tracing has begun.
    pub(crate) fn begun(core: &Arc<Core>, reply: &Reply) -> Result<Self> {
        match reply.message {
            ClientMessage::Done(_) => Ok(Self { core: Arc::clone(core), lost: 0, waiting: VecDeque::new() }),
            _ => Err(unexpected(reply)),
        }
    }

    /// The next job; nothing if none was told by the deadline.
    ///
    /// # Errors
    /// [`Error::BrokerLost`](crate::Error::BrokerLost), when everything told before it has been taken.
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<EndedJob>> {
        let deadline = deadline.into();
        while self.waiting.is_empty() {
            let Some(traced) = self.core.link.traced(deadline)? else { return Ok(None) };
            self.take(traced);
        }
        Ok(self.waiting.pop_front())
    }

    /// Keeps jobs until they are taken.
    pub(crate) fn take(&mut self, traced: Traced) {
        self.lost = self.lost.saturating_add(traced.lost);
        self.waiting.extend(jobs(traced));
    }

    /// A job that was told already.
    #[cfg(feature = "tokio")]
    pub(crate) fn told(&mut self) -> Option<EndedJob> {
        self.waiting.pop_front()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// How many jobs were left out so far, because they were not taken in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

fn jobs(traced: Traced) -> impl Iterator<Item = EndedJob> {
    let mut waits = traced.waits.into_iter();
    traced.jobs.into_iter().map(move |job| {
        let own = waits.by_ref().take(usize::from(job.waits)).map(point).collect();
        ended(&job, own)
    })
}

fn point(wait: TracedWait) -> Option<(TimelineKey, Point)> {
    (wait.timeline != TimelineKey::default()).then_some((wait.timeline, wait.point))
}

fn ended(job: &TracedJob, waits: Vec<Option<(TimelineKey, Point)>>) -> EndedJob {
    let known = |time: Time| (time != Time(0)).then_some(time);
    EndedJob {
        timeline: job.timeline,
        point: job.point,
        client: job.client,
        device: job.device,
        instance: job.instance.0,
        op: known(job.started).map(|_| job.op),
        submitted: job.submitted,
        ready: known(job.ready),
        started: known(job.started),
        ended: job.ended,
        bytes: job.bytes,
        staged: job.staged,
        failure: (job.code != 0).then(|| (ErrorCode::from_number(job.code), job.cause)),
        waits,
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::ids::InstanceId;

    use super::*;

    fn told(point: u64, started: u64, code: u32, waits: u16) -> TracedJob {
        TracedJob {
            timeline: TimelineKey { index: 3, generation: 7 },
            point: Point(point),
            submitted: Time(1),
            ready: Time(0),
            started: Time(started),
            ended: Time(9),
            bytes: 5,
            staged: 0,
            client: 2,
            device: DeviceId(1),
            instance: InstanceId(4),
            cause: CauseId(code.into()),
            code,
            op: 6,
            waits,
        }
    }

    #[test]
    fn each_job_gets_its_own_waits_and_nothing_that_nobody_knew() {
        let line = TimelineKey { index: 1, generation: 1 };
        let seen = TracedWait { timeline: line, point: Point(8) };
        let hidden = TracedWait { timeline: TimelineKey::default(), point: Point(0) };
        let jobs = vec![told(1, 0, 71, 1), told(2, 3, 0, 2)];
        let got: Vec<EndedJob> =
            self::jobs(Traced { lost: 0, jobs, waits: vec![seen, hidden, seen] }).collect();
        let waits = [vec![Some((line, Point(8)))], vec![None, Some((line, Point(8)))]];
        assert_eq!([got[0].waits.clone(), got[1].waits.clone()], waits);
        assert_eq!((got[0].op, got[0].started, got[0].ready), (None, None, None));
        assert_eq!(got[0].failure, Some((ErrorCode::CorruptInput, CauseId(71))));
        assert_eq!((got[1].op, got[1].started, got[1].failure), (Some(6), Some(Time(3)), None));
    }
}
