//! One claimed job from its claim to its signal.
//!
//! ```text
//!   claim ─► failed already, or a publication? ─yes───────────┐
//!              no                                             │
//!              └► resolve ─► engine ─► result cell ─► let go ─► (cause) ─► signal ─► completion ─► next
//! ```
//!
//! Everything a waiter may look at is written before the signal: outputs, the result cell, and, if the job failed
//! here, the cause's detail at the broker. Nothing else is: the completion may have to wait for a link that is full.
//! Mappings are let go before the completion leaves, because with it the broker may ask to unmap. A panic in an engine is that job's failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use vgem_os::clock;
use vgem_os::mapping::SpanMut;
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Time, TimelineKey};
use vgem_proto::jobs::Completion;
use vgem_proto::layout::result_cell;

use crate::engine::{Account, Engine, JobError, Limit, Produced, Task};
use crate::operands::{self, Held, Prepared, Resolved};
use crate::platform::Platform;
use crate::schedule::{Claimed, Pending};

use super::instance::Instance;

impl<E: Engine, P: Platform> Instance<E, P> {
    /// Runs a claimed job and signals its point. Lets go of what it held. How long it kept the engine, nanoseconds.
    pub(crate) fn execute(&self, claimed: Claimed, held: &mut Held) -> u64 {
        let Claimed { timeline, pending, .. } = claimed;
        let (queue, point) = (pending.queue, pending.point);
        let started = Time(clock::now());
        let mut produced = Produced::default();
        let outcome = match pending.failed {
            Some(failure) => Err(Outcome::Inherited(failure)),
            None => self.run(&pending, held, started, &mut produced).map_err(Outcome::Own),
        };
        held.clear();
        let ended = Time(clock::now());
        let failure = match outcome {
            Ok(()) => None,
            Err(Outcome::Inherited(failure)) => Some(failure),
            Err(Outcome::Own(error)) => Some(self.outbox.cause(queue, point, ended, error.code, &error.text)),
        };
        let ran_ns = ended.0.saturating_sub(started.0);
        // A job that never ran has no start: it kept no engine busy.
        let started = if pending.failed.is_some() { Time(0) } else { started };
        let signalled = timeline.signal(point, ended.0, failure);
        debug_assert!(signalled.is_ok(), "a queue takes jobs in the order of their points: {signalled:?}");
        self.completed(Completion {
            timeline: queue,
            point,
            started,
            ended,
            bytes: if started == Time(0) { 0 } else { pending.bytes },
            staged: produced.staged,
            cause: failure.map_or(CauseId::NONE, |f| f.cause),
            code: failure.map_or(0, |f| f.code.number()),
            reserved: Zero,
        });
        ran_ns
    }

    fn run(
        &self,
        pending: &Pending,
        held: &Held,
        started: Time,
        produced: &mut Produced,
    ) -> Result<(), JobError> {
        if pending.is_publication() {
            return Ok(());
        }
        let Some(prepared) = self.operations.by_number(pending.op) else {
            return Err(JobError::new(ErrorCode::NoSuchOperation, format!("operation {}", pending.op)));
        };
        let resolved = operands::resolve(pending, prepared, held)?;
        let when = When { started: Some(started), run_ns: pending.run_ns };
        self.call(prepared, pending.queue, when, &resolved, produced)
    }

    /// Has the engine do what was resolved, on the calling thread, and writes the result cell if there is one. A panic is
    /// the engine's failure. `produced` says nothing yet.
    #[inline]
    pub(crate) fn call(
        &self,
        prepared: &Prepared,
        queue: TimelineKey,
        when: When,
        resolved: &Resolved<'_>,
        produced: &mut Produced,
    ) -> Result<(), JobError> {
        let began_ns = AtomicU64::new(when.started.map_or(0, |started| started.0));
        let mut task = Task {
            op: prepared.operation.number,
            queue,
            limit: Limit { run_ns: when.run_ns, began_ns },
            operands: &resolved.operands,
            params: &resolved.params,
            touch: &prepared.touch,
            produced: Account::Runner(produced),
        };
        let outcome = guarded(&self.engine, &mut task);
        if let Some(cell) = resolved.cell {
            write_cell(cell, produced, when.started.unwrap_or(Time(0)));
        }
        outcome
    }
}

/// When a job began, and how long it may take, nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    /// Always known of one that has a result cell.
    pub(crate) started: Option<Time>,
    pub(crate) run_ns: u64,
}

enum Outcome {
    Inherited(Failure),
    Own(JobError),
}

#[inline(never)]
fn write_cell(cell: SpanMut<'_>, produced: &Produced, started: Time) {
    let write = |word: usize, value: u64| {
        // That a cell operand is 64 aligned bytes was checked.
        let written = cell.write_u64(8 * word, value);
        debug_assert!(written.is_ok(), "word {word}: {written:?}");
    };
    write(result_cell::PRODUCED, produced.len);
    write(result_cell::VALUE, produced.value);
    write(result_cell::STARTED, started.0);
    for (at, eight) in produced.digest.as_chunks::<8>().0.iter().enumerate() {
        write(result_cell::DIGEST + at, u64::from_le_bytes(*eight));
    }
    write(result_cell::ENDED, clock::now());
}

/// Has the engine run a task; a panic is its failure.
#[inline]
pub(crate) fn guarded(engine: &(impl Engine + ?Sized), task: &mut Task<'_>) -> Result<(), JobError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| engine.run(task)));
    outcome.unwrap_or_else(|panic| Err(panicked(&panic)))
}

#[cold]
fn panicked(panic: &Box<dyn std::any::Any + Send>) -> JobError {
    let said = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    JobError::new(ErrorCode::DriverFault, format!("the engine panicked: {said}"))
}
