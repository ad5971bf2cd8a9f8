//! Batches: jobs over any devices, sent as one message, accepted or refused as one.
//!
//! ```text
//!   Batch ── job(queue, op) ── Job: input, output, param, .. ──┐
//!     ▲                                                        │ (any number)
//!     └────────────────────────────────────────────────────────┘
//!     └─ submit ──► Submitted: a fence per job. The batch is empty again and keeps its storage.
//! ```
//!
//! A mistake in a job (a name that is not there, a slice that leaves its buffer) is kept and reported by `submit`, which
//! then sends nothing: the first one, with its job. So jobs are written down without a `?` each.
//!
//! Invariants: points are numbered and the message is sent under one lock, so that the broker sees them in order; a
//! message that was not sent leaves no point, no use and no job behind; buffers named by a batch live at least
//! until it is submitted.

use std::sync::{Arc, PoisonError};

use vgem_proto::codec::{Field, HEAD_LEN, Zero};
use vgem_proto::describe::PUBLISH;
use vgem_proto::ids::{CauseId, Point, QueueHandle, TimelineHandle};
use vgem_proto::jobs::{ClientJob, ClientOperand, ClientParam, JOB_RUN_ANYWAY, Job as WireJob, Wait};
use vgem_proto::limits;
use vgem_proto::message::client::Submit;
use vgem_proto::rights::WaitKind;

use crate::buffer::BufferShared;
use crate::core::{Core, Submitting};
use crate::deadline::Deadline;
use crate::device::{DeviceShared, OpChoice};
use crate::error::{Error, FenceError, LocalError, Result};
use crate::fence::Fence;
use crate::job::Job;
use crate::jobpoint::JobPoint;
use crate::ledger::{Gate, Usage};
use crate::link::Answer;
use crate::lookup;
use crate::queue::{Queue, QueueShared};
use crate::together::wait_all;

/// Jobs that are submitted together.
#[derive(Debug)]
pub struct Batch {
    core: Arc<Core>,
    pub(crate) message: Submit,
    queues: Vec<Arc<QueueShared>>,
    pub(crate) touches: Vec<Touch>,
    /// Waits for jobs of this batch: their points are known when they are numbered.
    pub(crate) inner_waits: Vec<(usize, JobRef)>,
    mistake: Option<LocalError>,
}

/// A use of a buffer by a job of the batch.
#[derive(Debug)]
pub(crate) struct Touch {
    pub(crate) job: usize,
    pub(crate) buffer: Arc<BufferShared>,
    /// First byte, bytes and use, for the ledger; nothing for cells.
    pub(crate) entry: Option<(u64, u64, Usage)>,
}

/// A job of a batch, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobRef(pub(crate) usize);

impl Batch {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let message = Submit {
            jobs: Vec::new(),
            operands: Vec::new(),
            params: Vec::new(),
            waits: Vec::new(),
            bytes: Vec::new(),
        };
        let (queues, touches, inner_waits) = (Vec::new(), Vec::new(), Vec::new());
        Self { core, message, queues, touches, inner_waits, mistake: None }
    }

    /// Adds a job to `queue`: an operation by name, or resolved before.
    pub fn job<'b, 'o>(&'b mut self, queue: &Queue, op: impl Into<OpChoice<'o>>) -> Job<'b> {
        let queue = queue.shared();
        if !Arc::ptr_eq(&queue.core, &self.core) {
            self.mistaken(LocalError::Foreign { what: "queue" });
        }
        let op = op.into();
        let device = match op {
            OpChoice::Op(op) if op.device.id == queue.device.id => &op.device,
            OpChoice::Name(_) | OpChoice::Op(_) => &queue.device,
        };
        let place = lookup::place(&queue.device, op).map_err(|mistake| self.mistaken(mistake)).ok();
        let device: Arc<DeviceShared> = Arc::clone(device);
        let number =
            place.and_then(|place| device.description.operations.get(place)).map_or(0, |op| op.number);
        self.message.jobs.push(empty_job(queue.handle, number));
        self.queues.push(Arc::clone(queue));
        Job::new(self, device, place)
    }

    /// Adds a job that does nothing but wait: what it waits for is published by it.
    pub(crate) fn publication(&mut self, queue: &Queue) -> Job<'_> {
        let queue = queue.shared();
        self.message.jobs.push(empty_job(queue.handle, PUBLISH));
        self.queues.push(Arc::clone(queue));
        Job::new(self, Arc::clone(&queue.device), None)
    }

    /// Jobs so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.message.jobs.len()
    }

    /// Whether there is no job yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.message.jobs.is_empty()
    }

    /// Bytes of the message it would be now; [`limits::MESSAGE_LEN`] is the most.
    #[must_use]
    pub fn message_len(&self) -> usize {
        let m = &self.message;
        HEAD_LEN
            + Submit::FIXED
            + array_len::<ClientJob>(m.jobs.len())
            + array_len::<ClientOperand>(m.operands.len())
            + array_len::<ClientParam>(m.params.len())
            + array_len::<Wait>(m.waits.len())
            + array_len::<u8>(m.bytes.len())
    }

    /// Forgets all jobs.
    pub fn clear(&mut self) {
        self.message.jobs.clear();
        self.message.operands.clear();
        self.message.params.clear();
        self.message.waits.clear();
        self.message.bytes.clear();
        self.queues.clear();
        self.touches.clear();
        self.inner_waits.clear();
        self.mistake = None;
    }

    /// Sends the batch: one message, no answer awaited. Should the broker refuse it, every fence of it fails with
    /// `Refused`, and [`Fence::explain`] tells why. Afterwards the batch is empty.
    ///
    /// # Errors
    /// [`Error::Local`] with the first mistake, and nothing was sent; [`Error::BrokerLost`]; [`Error::Timeout`] if the broker
    /// does not take it.
    pub fn submit(&mut self) -> Result<Submitted> {
        let deadline = self.core.deadline();
        let sent = self.send(Answer::OnlyRefusal, deadline, deadline);
        self.clear();
        sent.map(|(submitted, _)| submitted)
    }

    /// Sends the batch and waits until the broker has accepted it. Afterwards the batch is empty.
    ///
    /// # Errors
    /// [`Error::Refused`] with the job, the part and the reason; as [`Batch::submit`].
    pub fn submit_acknowledged(&mut self) -> Result<Submitted> {
        let deadline = self.core.deadline();
        let sent = self.send(Answer::Awaited, deadline, deadline);
        self.clear();
        let (submitted, id) = sent?;
        self.core.answered(id, self.core.link.collect(id, deadline)?)?;
        Ok(submitted)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Keeps the first mistake.
    pub(crate) fn mistaken(&mut self, mistake: LocalError) {
        self.mistake.get_or_insert(mistake);
    }

    /// Checks, numbers, enters into the ledgers, sends. All or nothing; the jobs stay in the batch.
    pub(crate) fn send(
        &mut self,
        answer: Answer,
        deadline: Deadline,
        patience: Deadline,
    ) -> Result<(Submitted, crate::exchange::RequestId)> {
        self.check()?;
        let core = Arc::clone(&self.core);
        let mut submitting = core.submitting.lock().unwrap_or_else(PoisonError::into_inner);
        let Submitting { scratch, records } = &mut *submitting;
        if core.link.has_unused() {
            core.void_refused(records);
        }
        let jobs = self.number();
        let sent = self
            .enter(&jobs)
            .map_err(Error::from)
            .and_then(|()| core.link.submit(&self.message, scratch, answer, deadline, patience));
        match sent {
            Ok(id) => {
                records.add(id, &jobs);
                let fences = jobs.into_iter().map(Fence::of_job).collect();
                Ok((Submitted { fences }, id))
            }
            Err(error) => {
                self.take_back(&jobs);
                Err(error)
            }
        }
    }

    fn check(&mut self) -> Result<(), LocalError> {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake);
        }
        if self.is_empty() {
            return Err(LocalError::EmptyBatch);
        }
        at_most("jobs in a batch", self.len(), limits::BATCH_JOBS)?;
        at_most("bytes of parameters in a batch", self.message.bytes.len(), limits::BATCH_BYTES)?;
        let (len, limit) = (self.message_len() as u64, limits::MESSAGE_LEN as u64);
        if len > limit {
            return Err(LocalError::BatchTooLarge { len, limit });
        }
        Ok(())
    }

    /// Gives every job its point; resolves waits inside the batch.
    fn number(&mut self) -> Vec<JobPoint> {
        let mut jobs = Vec::with_capacity(self.queues.len());
        for (wire, queue) in self.message.jobs.iter_mut().zip(&self.queues) {
            wire.point = queue.advance();
            jobs.push(JobPoint::new(Arc::clone(queue), wire.point, queue.round()));
        }
        for (place, on) in &self.inner_waits {
            if let (Some(wait), Some(job)) = (self.message.waits.get_mut(*place), jobs.get(on.0)) {
                (wait.timeline, wait.point) = (TimelineHandle(job.queue().handle.0), job.point());
            }
        }
        jobs
    }

    fn enter(&self, jobs: &[JobPoint]) -> Result<(), LocalError> {
        for touch in &self.touches {
            if let (Some((offset, len, usage)), Some(job)) = (touch.entry, jobs.get(touch.job)) {
                let range = offset..offset.saturating_add(len);
                touch.buffer.ledger.enter(job, range, usage, |gate| self.waits(touch.job, gate))?;
            }
        }
        Ok(())
    }

    /// How a job waits for a point itself: by data, so that it will not run before the point was signalled well; or by order
    /// only, which a failure satisfies. A chain of jobs is not enough, for one of them may be cancelled.
    fn waits(&self, job: usize, gate: Gate) -> Option<WaitKind> {
        let (wire, before) = self.message.jobs.get(job).zip(self.message.jobs.get(..job))?;
        let first: usize = before.iter().map(|one| usize::from(one.waits)).sum();
        let waits = self.message.waits.get(first..first + usize::from(wire.waits)).unwrap_or(&[]);
        let mut all = waits.iter().filter(|wait| wait.timeline == gate.timeline && wait.point >= gate.point);
        let first = all.next()?.kind;
        let data = first == WaitKind::Data || all.any(|wait| wait.kind == WaitKind::Data);
        Some(if data && wire.flags & JOB_RUN_ANYWAY == 0 { WaitKind::Data } else { WaitKind::Order })
    }

    fn take_back(&self, jobs: &[JobPoint]) {
        for touch in &self.touches {
            if let Some(job) = jobs.get(touch.job) {
                touch.buffer.ledger.take_back(job);
            }
        }
        jobs.iter().for_each(|job| job.queue().take_back());
    }
}

/// A batch that was sent: a fence per job, in order.
#[derive(Debug, Clone)]
pub struct Submitted {
    fences: Vec<Fence>,
}

impl Submitted {
    /// The fence of a job, if it was of this batch.
    #[must_use]
    pub fn fence(&self, job: JobRef) -> Option<&Fence> {
        self.fences.get(job.0)
    }

    /// The fences, in the order of the jobs.
    #[must_use]
    pub fn fences(&self) -> &[Fence] {
        &self.fences
    }

    /// The fence of the last job.
    ///
    /// # Panics
    /// Never: a batch without a job is not submitted.
    #[must_use]
    pub fn last(&self) -> &Fence {
        self.fences.last().expect("a submitted batch has a job")
    }

    /// Sleeps until every job has ended.
    ///
    /// # Errors
    /// As [`wait_all`].
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        // From the last: when it has ended, most others have, and the thread slept once.
        let deadline = deadline.into();
        match self.last().wait(deadline) {
            Ok(()) | Err(FenceError::Failed(_)) => Ok(wait_all(&self.fences, deadline)?),
            Err(other) => Err(other),
        }
    }
}

impl IntoIterator for Submitted {
    type Item = Fence;
    type IntoIter = std::vec::IntoIter<Fence>;

    fn into_iter(self) -> Self::IntoIter {
        self.fences.into_iter()
    }
}

fn empty_job(queue: QueueHandle, op: u16) -> ClientJob {
    WireJob {
        queue,
        point: Point(0),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op,
        flags: 0,
        operands: 0,
        params: 0,
        waits: 0,
        reserved: Zero,
    }
}

fn array_len<T: Field>(count: usize) -> usize {
    (count * T::SIZE).next_multiple_of(8)
}

pub(crate) fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), LocalError> {
    if count > limit {
        return Err(LocalError::TooMany { what, count, limit });
    }
    Ok(())
}
