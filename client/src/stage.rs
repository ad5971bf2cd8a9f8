//! Stages: work that the CPU does on a buffer, as jobs and other clients see it.
//!
//! ```text
//!   write_for ── wait for the bytes, take them, promise a point ──► Stage ──┬─ drop, publish ─► signalled
//!                                                                           ├─ fail ──────────► failed, with a cause
//!                                                                           ├─ fail_as ───────► failed, with its input's
//!                                                                           └─ panic ─────────► failed, DriverFault
//!        submit(job.after(stage.point())) ── while it is held ──► the job waits in its driver, and for nobody else
//! ```
//!
//! A guard alone keeps this process's jobs away until it is dropped. A stage lets them be submitted already: they wait for its
//! point, as do those of other clients that have the timeline. The bytes are given back before the point is signalled.
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn f(client: &vgem::Client, zip: &vgem::Queue, frame: &vgem::Buffer, out: &vgem::Buffer) -> vgem::Result<()> {
//! # let soon = || vgem::Deadline::after(Duration::from_secs(1));
//! let mut stages = client.timeline("decoder")?;
//! let mut stage = frame.write_for(&mut stages, .., Duration::from_millis(20), soon())?;
//! let mut batch = client.batch();
//! batch.job(zip, "compress").input(frame).output(out).after(&stage.point());
//! let done = batch.submit()?;
//! stage.fill(7); // the job waits in its driver meanwhile, and starts without this program
//! stage.publish()?;
//! done.wait(soon())?;
//! # Ok(())
//! # }
//! ```
//!
//! What a job has to say: `after(stage.point())`, itself. A job behind another that waits is not enough (that one may be
//! cancelled), nor is `behind` or `run_anyway` (a promise that is not kept would let the job run while the bytes are still
//! held). So what its guard relies on holds under a stage, too: no job of this client uses these bytes before the point
//! was signalled well.
//!
//! Taking a stage over bytes that a failed job has left tells the broker at once that they will be replaced, so that jobs
//! which come after it are not failed for what was there before. Should the stage fail, they fail with it.

use std::ops::{Deref, DerefMut, RangeBounds};
use std::time::Duration;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::rights::Access;

use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{JobFailure, Result};
use crate::fence::Fence;
use crate::guard::{Hold, ReadGuard, WriteGuard};
use crate::ledger::Waiting;
use crate::timeline::Timeline;

/// How long a thread that panics waits for a cause.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes of a buffer under a guard, and the point of a timeline that says when the guard has gone.
///
/// Dropping it signals the point, and failing that (its promise was not kept) says nothing: [`Stage::publish`] does. If the
/// thread panics the point fails instead, with `DriverFault`; the broker is asked for a cause for that, a second at most.
#[derive(Debug)]
pub struct Stage<'a, G: Hold> {
    guard: Option<G>,
    timeline: &'a mut Timeline,
    point: Point,
}

impl Buffer {
    /// As [`Buffer::write`], as a stage: promises the timeline's next point, to be signalled `within` that time from the
    /// moment the bytes are had. A point that was promised before is taken as it was promised.
    ///
    /// # Errors
    /// As [`Buffer::write`] and [`Timeline::promise`].
    pub fn write_for<'a>(
        &'a self,
        timeline: &'a mut Timeline,
        range: impl RangeBounds<u64>,
        within: Duration,
        deadline: impl Into<Deadline>,
    ) -> Result<Stage<'a, WriteGuard<'a>>> {
        Stage::begin(self.write(range, deadline)?, timeline, within)
    }

    /// As [`Buffer::read`], as a stage: jobs that are to write these bytes can be submitted while it is held.
    ///
    /// # Errors
    /// As [`Buffer::read`] and [`Timeline::promise`].
    pub fn read_for<'a>(
        &'a self,
        timeline: &'a mut Timeline,
        range: impl RangeBounds<u64>,
        within: Duration,
        deadline: impl Into<Deadline>,
    ) -> Result<Stage<'a, ReadGuard<'a>>> {
        Stage::begin(self.read(range, deadline)?, timeline, within)
    }

    /// As [`Buffer::write_for`], without waiting for any job: nothing if it would have to.
    ///
    /// # Errors
    /// As there.
    pub fn try_write_for<'a>(
        &'a self,
        timeline: &'a mut Timeline,
        range: impl RangeBounds<u64>,
        within: Duration,
    ) -> Result<Option<Stage<'a, WriteGuard<'a>>>> {
        match self.lease(&range, Access::Write, Waiting::Not)? {
            Some(lease) => Stage::begin(WriteGuard::new(lease), timeline, within).map(Some),
            None => Ok(None),
        }
    }
}

impl<'a, G: Hold> Stage<'a, G> {
    fn begin(guard: G, timeline: &'a mut Timeline, within: Duration) -> Result<Self> {
        let point = timeline.signalled().next();
        if point > timeline.promised() {
            timeline.promise(point, within)?;
        }
        Self::promised(guard, timeline, point)
    }

    /// A stage whose point was promised.
    pub(crate) fn promised(mut guard: G, timeline: &'a mut Timeline, point: Point) -> Result<Self> {
        timeline.check(point)?;
        guard.lasts_until(&timeline.at(point, None));
        Ok(Self { guard: Some(guard), timeline, point })
    }

    /// The point that is signalled when the stage has ended, for jobs to come after and others to wait for.
    #[must_use]
    pub fn point(&self) -> Fence {
        self.timeline.point(self.point)
    }

    /// Ends the stage well: gives the bytes back and signals its point. As dropping it.
    ///
    /// # Errors
    /// [`crate::Error::Job`], with the cause, if the promise was not kept: who waited for the point has heard of that.
    pub fn publish(mut self) -> Result<()> {
        self.guard = None;
        self.timeline.signal(self.point)
    }

    /// Ends the stage badly: gives the bytes back and fails its point, with a cause that says `text`.
    ///
    /// # Errors
    /// As [`Timeline::fail`]; the point fails without a cause then.
    pub fn fail(mut self, code: ErrorCode, text: &str) -> Result<()> {
        self.guard = None;
        let failed = self.timeline.fail(self.point, code, text);
        self.without_cause(code);
        failed
    }

    /// Ends the stage badly because of something that failed before it, its input perhaps: who waits for its point gets the
    /// same cause. Asks nobody.
    ///
    /// # Errors
    /// As [`Timeline::fail_as`].
    pub fn fail_as(mut self, failure: &JobFailure) -> Result<()> {
        self.guard = None;
        self.timeline.fail_as(self.point, failure)
    }

    /// Fails the point if it is still to come.
    fn without_cause(&mut self, code: ErrorCode) {
        if self.timeline.signalled() < self.point {
            // Whoever waits has heard already if this is refused.
            drop(self.timeline.fail_with(self.point, code, CauseId::NONE));
        }
    }
}

impl<G: Hold> Deref for Stage<'_, G> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.guard.as_deref().unwrap_or(&[])
    }
}

impl<G: Hold + DerefMut> DerefMut for Stage<'_, G> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.guard.as_deref_mut().unwrap_or(&mut [])
    }
}

impl<G: Hold> Drop for Stage<'_, G> {
    fn drop(&mut self) {
        // Before the point: whoever waits for it may use the bytes.
        self.guard = None;
        if self.timeline.signalled() >= self.point {
            return;
        }
        if std::thread::panicking() {
            let code = ErrorCode::DriverFault;
            let told = self.timeline.fail_until(self.point, code, "its thread panicked", LAST_WORDS);
            if told.is_err() {
                self.without_cause(code);
            }
        } else {
            // Refused only if the promise was not kept, of which everybody has heard.
            drop(self.timeline.signal(self.point));
        }
    }
}
