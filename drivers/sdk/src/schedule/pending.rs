//! A job that has not begun, and the jobs of a message one by one.

use std::sync::Arc;

use vgem_proto::describe::PUBLISH;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{Point, TimelineKey};
use vgem_proto::jobs::{DriverOperand, DriverParam, DriverWait, JOB_RUN_ANYWAY, PAGE_LOCAL, WAIT_PROMISE};
use vgem_proto::message::driver::Run;

/// A job in its queue: its place in the message it came with, and what is asked often.
///
/// Small, because it is moved a few times.
#[derive(Debug)]
pub(crate) struct Pending {
    run: Arc<Run>,
    pub(crate) queue: TimelineKey,
    pub(crate) point: Point,
    /// Longest run time, nanoseconds.
    pub(crate) run_ns: u64,
    /// Bytes over all operands; none for a job that does nothing with them.
    pub(crate) bytes: u64,
    /// The failure it will end with instead of running.
    pub(crate) failed: Option<Failure>,
    pub(crate) op: u16,
    flags: u16,
    operands: Part,
    params: Part,
    /// Those that have not passed.
    waits: Part,
    /// It waits for nothing more.
    cancelled: bool,
    /// It waits for what the broker does not see pass, and the broker was not told yet that all its waits have.
    pub(super) untold: bool,
}

const _: () = assert!(size_of::<Pending>() <= 96);

/// A part of one of the arrays of a message.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    first: u32,
    count: u16,
}

impl Part {
    #[inline]
    fn of<T>(self, all: &[T]) -> &[T] {
        let first = self.first as usize;
        all.get(first..first + usize::from(self.count)).unwrap_or(&[])
    }

    /// The part of `count` that comes after this one.
    fn then(self, count: u16) -> Self {
        Self { first: self.first + u32::from(self.count), count }
    }
}

impl Pending {
    pub(crate) fn operands(&self) -> &[DriverOperand] {
        self.operands.of(&self.run.operands)
    }

    pub(crate) fn params(&self) -> &[DriverParam] {
        self.params.of(&self.run.params)
    }

    pub(crate) fn param_bytes(&self) -> &[u8] {
        &self.run.bytes
    }

    /// Whether it does nothing but wait: no engine hears of it.
    #[inline]
    pub(crate) fn is_publication(&self) -> bool {
        self.op == PUBLISH
    }

    /// Whether the failure of what it waits for does not matter.
    pub(super) fn runs_anyway(&self) -> bool {
        self.flags & JOB_RUN_ANYWAY != 0
    }

    /// What it still waits for, in order.
    #[inline]
    fn waits(&self) -> &[DriverWait] {
        if self.cancelled {
            return &[];
        }
        self.waits.of(&self.run.waits)
    }

    #[inline]
    pub(super) fn next_wait(&self) -> Option<DriverWait> {
        self.waits().first().copied()
    }

    /// The next wait has passed.
    pub(super) fn pass(&mut self) {
        let Part { first, count } = self.waits;
        self.waits = Part { first: first + 1, count: count.saturating_sub(1) };
    }

    /// The wait on a queue of this instance that comes `nth` among those, if there are so many.
    pub(super) fn local_wait(&self, nth: usize) -> Option<DriverWait> {
        self.waits().iter().filter(|w| w.page == PAGE_LOCAL).nth(nth).copied()
    }

    /// Has it end with a failure, unless it has one, and wait for nothing more.
    pub(super) fn cancel(&mut self, failure: Failure) {
        self.failed.get_or_insert(failure);
        if self.next_wait().is_some() {
            // Its waits have not passed, and nobody will be told that they have.
            self.untold = false;
        }
        self.cancelled = true;
    }
}

/// The jobs of a Run message, one by one, each with its own part of the arrays.
#[inline]
pub(crate) fn split(run: Run) -> impl Iterator<Item = Pending> {
    let run = Arc::new(run);
    let count = run.jobs.len();
    let (mut operands, mut params, mut waits) = (Part::default(), Part::default(), Part::default());
    (0..count).filter_map(move |at| {
        let job = run.jobs.get(at)?;
        operands = operands.then(job.operands);
        params = params.then(job.params);
        waits = waits.then(job.waits);
        let failed = (job.failed_code != 0)
            .then(|| Failure { code: ErrorCode::from_number(job.failed_code), cause: job.failed_cause });
        Some(Pending {
            queue: job.queue,
            point: job.point,
            run_ns: job.run_ns,
            bytes: match job.op {
                PUBLISH => 0,
                _ => operands.of(&run.operands).iter().fold(0, |n: u64, o| n.saturating_add(o.len)),
            },
            failed,
            op: job.op,
            flags: job.flags,
            operands,
            params,
            waits,
            cancelled: false,
            untold: waits.of(&run.waits).iter().any(|w| w.flags & WAIT_PROMISE != 0),
            run: Arc::clone(&run),
        })
    })
}
