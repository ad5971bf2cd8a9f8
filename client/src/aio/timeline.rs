//! Timelines for tasks. Signalling waits for nothing, so [`Timeline::signal`] is called as it is; what asks the broker has its
//! asynchronous way here. Points are awaited with [`Fence::wait_async`], or several with [`wait_any`] and [`wait_all`].

use std::future::{Future as _, poll_fn};
use std::ops::RangeBounds;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::Point;

use super::Client;
use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, NthError, Result};
use crate::fence::Fence;
use crate::guard::{Hold, ReadGuard, WriteGuard};
use crate::link::{Answer, accepted};
use crate::stage::Stage;
use crate::timeline::{
    self, GRACE, PointStatus, Timeline, TimelinePoint, TimelineRights, TimelineToken, WHILE_UNPROMISED,
};
use crate::wait::FenceWait;

impl Client {
    /// As [`crate::Client::timeline`].
    ///
    /// # Errors
    /// As there.
    pub async fn timeline(&self, name: &str) -> Result<Timeline> {
        self.core.timeline(Some(name), &self.call(timeline::create(name)).await?)
    }

    /// As [`crate::Client::import_timeline`].
    ///
    /// # Errors
    /// As there.
    pub async fn import_timeline(&self, token: TimelineToken) -> Result<Timeline> {
        self.core.timeline(None, &self.call(timeline::import(token)).await?)
    }

    /// As [`Timeline::export`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, the token is lost; and with SIGNAL in it, this handle does not know that it may not signal any more.
    pub async fn export_timeline(
        &self,
        timeline: &mut Timeline,
        rights: TimelineRights,
    ) -> Result<TimelineToken> {
        let reply = self.call(timeline.export_request(rights)?).await?;
        timeline.exported(rights, &reply)
    }

    /// As [`Timeline::promise`].
    ///
    /// # Errors
    /// As there.
    pub async fn promise(
        &self,
        timeline: &mut Timeline,
        point: Point,
        by: impl Into<Deadline>,
    ) -> Result<Fence> {
        let request = timeline.promise_request(point, by.into())?;
        let (link, at) = (&self.core.link, self.at(self.core.deadline()));
        let send = || link.promise(&request, Answer::OnlyRefusal, Deadline::NOW);
        let id = at.when_writable(send).await?;
        Ok(timeline.promise_sent(id, point))
    }

    /// As [`Timeline::promise_acknowledged`].
    ///
    /// # Errors
    /// As there.
    pub async fn promise_acknowledged(
        &self,
        timeline: &mut Timeline,
        point: Point,
        by: impl Into<Deadline>,
    ) -> Result<Fence> {
        let request = timeline.promise_request(point, by.into())?;
        let (link, at) = (&self.core.link, self.at(self.core.deadline()));
        let send = || link.promise(&request, Answer::Awaited, Deadline::NOW);
        accepted(at.collect(at.when_writable(send).await?).await?)?;
        Ok(timeline.promise_made(point))
    }

    /// As [`Timeline::fail`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, nothing was signalled.
    pub async fn fail(
        &self,
        timeline: &mut Timeline,
        point: Point,
        code: ErrorCode,
        text: &str,
    ) -> Result<()> {
        let reply = self.call(timeline.fail_request(point, code, text)?).await?;
        timeline.failed(point, code, &reply)
    }

    /// As [`Buffer::write_for`]. Dropping the stage waits for nothing, unless the task panics.
    ///
    /// # Errors
    /// As there.
    pub async fn write_for<'a>(
        &self,
        buffer: &'a Buffer,
        timeline: &'a mut Timeline,
        range: impl RangeBounds<u64> + Clone,
        within: Duration,
        deadline: impl Into<Deadline>,
    ) -> Result<Stage<'a, WriteGuard<'a>>> {
        let guard = self.write(buffer, range, deadline).await?;
        self.stage(guard, timeline, within).await
    }

    /// As [`Buffer::read_for`]. Dropping the stage waits for nothing, unless the task panics.
    ///
    /// # Errors
    /// As there.
    pub async fn read_for<'a>(
        &self,
        buffer: &'a Buffer,
        timeline: &'a mut Timeline,
        range: impl RangeBounds<u64> + Clone,
        within: Duration,
        deadline: impl Into<Deadline>,
    ) -> Result<Stage<'a, ReadGuard<'a>>> {
        let guard = self.read(buffer, range, deadline).await?;
        self.stage(guard, timeline, within).await
    }

    async fn stage<'a, G: Hold>(
        &self,
        guard: G,
        timeline: &'a mut Timeline,
        within: Duration,
    ) -> Result<Stage<'a, G>> {
        let point = timeline.signalled().next();
        if point > timeline.promised() {
            self.promise(timeline, point, within).await?;
        }
        Stage::promised(guard, timeline, point)
    }

    /// As [`Fence::wait_available`], of a fence that this client has from a timeline.
    ///
    /// # Errors
    /// As there.
    pub async fn wait_available(&self, fence: &Fence, deadline: impl Into<Deadline>) -> Result<()> {
        let deadline = deadline.into();
        let Some(point) = fence.unavailable() else { return Ok(()) };
        let answer_by = Deadline::after(deadline.remaining().saturating_add(GRACE));
        match self.ask_status(point, deadline, answer_by).await? {
            PointStatus::Unpromised { .. } => Err(Error::Timeout { what: WHILE_UNPROMISED }),
            _ => Ok(()),
        }
    }

    /// As [`Fence::query`].
    ///
    /// # Errors
    /// As there.
    pub async fn query(&self, fence: &Fence) -> Result<PointStatus> {
        match fence.status_now() {
            Some(status) => Ok(status),
            None => {
                let said = self.ask_status(&fence.asked()?, Deadline::NOW, self.core.deadline()).await?;
                Ok(fence.status_as_told(said))
            }
        }
    }

    async fn ask_status(
        &self,
        point: &TimelinePoint,
        promised_by: Deadline,
        answer_by: Deadline,
    ) -> Result<PointStatus> {
        let (link, at) = (&self.core.link, self.at(answer_by));
        let message = point.query().into();
        let id = at.when_writable(|| link.start(&message, 0, promised_by, Deadline::NOW)).await?;
        point.status(&accepted(at.collect(id).await?)?)
    }
}

/// As [`crate::wait_any`], for a task.
///
/// # Errors
/// As there.
///
/// # Cancel safety
/// Dropping the future ends the waits and nothing else.
pub async fn wait_any(fences: &[Fence], deadline: impl Into<Deadline>) -> Result<Option<usize>, NthError> {
    let deadline = deadline.into();
    if fences.is_empty() {
        return Ok(None);
    }
    let mut waits: Vec<FenceWait> = fences.iter().map(|fence| fence.wait_async(deadline)).collect();
    poll_fn(|context| {
        for (index, wait) in waits.iter_mut().enumerate() {
            match pin!(wait).poll(context) {
                Poll::Ready(Ok(()) | Err(FenceError::Failed(_))) => return Poll::Ready(Ok(Some(index))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(NthError { index, error })),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// As [`crate::wait_all`], for a task.
///
/// # Errors
/// As there.
///
/// # Cancel safety
/// Dropping the future ends the waits and nothing else.
pub async fn wait_all(fences: &[Fence], deadline: impl Into<Deadline>) -> Result<(), NthError> {
    let deadline = deadline.into();
    let mut failure = None;
    for (index, fence) in fences.iter().enumerate() {
        match fence.wait_async(deadline).await {
            Ok(()) => {}
            Err(error @ FenceError::Failed(_)) => failure = failure.or(Some(NthError { index, error })),
            Err(error) => return Err(NthError { index, error }),
        }
    }
    failure.map_or(Ok(()), Err)
}
