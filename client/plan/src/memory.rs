//! Memory for the CPU: which guards a call takes, and its operands as an engine sees them.
//!
//! ```text
//!   operands of a call ─ those of one buffer that overlap are one ─► Cluster ─ guard ─► Held ─► spans
//! ```
//!
//! A call's guards are a job's waits: over what it reads it waits for writes and fails with what left the bytes poisoned,
//! over what it writes it waits for every use, and when it has ended well the bytes it was to write are good again. After a
//! failure they are given back without that claim. Operands that overlap are under one guard, as two would be in each
//! other's way; so an operation over overlapping operands does here what it does on the device.
//!
//! Guards are taken in the order of objects and bytes, so that two calls never wait for each other.

use std::ops::Range;

use vgem::{
    Access, Buffer, Call, CallMemory, CallOperand, CallParam, Direction, ReadGuard, Slice, WriteGuard,
};
use vgem_driver::local::Local;
use vgem_driver::{JobError, OperandBytes, ParamValue, Produced, Span, SpanMut, TaskOperand};
use vgem_proto::ids::ObjectKey;

/// Bytes of one buffer that are guarded together.
#[derive(Debug, Clone)]
pub(crate) struct Cluster<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) range: Range<u64>,
    pub(crate) access: Access,
    /// What is read of bytes that are also written: to be good before the guard is taken, which does not look.
    pub(crate) read_before: Vec<Range<u64>>,
}

/// A guard over a cluster.
#[derive(Debug)]
pub(crate) enum Held<'a> {
    Read(ReadGuard<'a>),
    Write(WriteGuard<'a>),
}

/// The bytes of an operand in its buffer.
pub(crate) fn range_of(operand: &CallOperand<Slice<'_>>) -> Range<u64> {
    let start = operand.memory.offset();
    start..start.saturating_add(operand.memory.len())
}

/// The clusters of a call, in the order in which they are guarded.
pub(crate) fn clusters<'a>(operands: &[CallOperand<Slice<'a>>]) -> Vec<Cluster<'a>> {
    let mut operands: Vec<_> = operands.iter().filter(|operand| !operand.memory.is_empty()).collect();
    operands.sort_by_key(|operand| (operand.memory.buffer().handle(), operand.memory.offset()));
    let mut all: Vec<Cluster<'a>> = Vec::new();
    for operand in operands {
        let (buffer, range) = (operand.memory.buffer(), range_of(operand));
        let last = all
            .last_mut()
            .filter(|last| last.buffer.handle() == buffer.handle() && range.start < last.range.end);
        let cluster = match last {
            Some(last) => last,
            None => {
                let none = Vec::new();
                all.push(Cluster { buffer, range: range.clone(), access: Access::Read, read_before: none });
                all.last_mut().expect("it was just added")
            }
        };
        cluster.range.end = cluster.range.end.max(range.end);
        if operand.direction != Direction::In {
            cluster.access = Access::Write;
        }
        if matches!(operand.direction, Direction::In | Direction::InOut) {
            cluster.read_before.push(range);
        }
    }
    for cluster in all.iter_mut().filter(|cluster| cluster.access == Access::Read) {
        cluster.read_before.clear();
    }
    all
}

/// Has the engine do what was called, on guarded memory.
pub(crate) fn run(
    local: &Local,
    op: u16,
    call: &Call<Slice<'_>>,
    clusters: &[Cluster<'_>],
    mut held: Vec<Held<'_>>,
) -> Result<Produced, JobError> {
    let ran = on_guarded(local, op, call, clusters, &mut held);
    for guard in held {
        match guard {
            Held::Write(guard) if ran.is_err() => guard.unfinished(),
            Held::Write(_) | Held::Read(_) => {}
        }
    }
    ran
}

fn on_guarded(
    local: &Local,
    op: u16,
    call: &Call<Slice<'_>>,
    clusters: &[Cluster<'_>],
    held: &mut [Held<'_>],
) -> Result<Produced, JobError> {
    let spans: Vec<_> = held
        .iter_mut()
        .map(|guard| match guard {
            Held::Read(guard) => OperandBytes::Read(Span::of_slice(guard)),
            Held::Write(guard) => OperandBytes::Write(SpanMut::of_slice(guard)),
        })
        .collect();
    let operands: Option<Vec<_>> =
        call.operands().iter().map(|operand| as_task(operand, clusters, &spans)).collect();
    let operands = operands.ok_or_else(JobError::outside)?;
    let params: Vec<_> = params(call).map(|(number, value)| (number, as_value(value))).collect();
    local.run(op, &operands, &params)
}

/// The parameters that were given, by number.
pub(crate) fn params<M: CallMemory>(call: &Call<M>) -> impl Iterator<Item = (u16, &CallParam)> {
    let count = call.operation().map_or(0, |operation| operation.params.len());
    let numbers = 0..u16::try_from(count).unwrap_or(u16::MAX);
    numbers.filter_map(|number| Some((number, call.value(number)?)))
}

pub(crate) fn as_value(value: &CallParam) -> ParamValue<'_> {
    match value {
        CallParam::Number(number) => ParamValue::Number(*number),
        CallParam::Bytes(bytes) => ParamValue::Bytes(bytes),
    }
}

/// An operand as the engine sees it. What others may write is foreign here whoever they are: no C code of this process
/// works in place on memory that somebody else can write meanwhile.
fn as_task<'s>(
    operand: &CallOperand<Slice<'_>>,
    clusters: &[Cluster<'_>],
    spans: &[OperandBytes<'s>],
) -> Option<TaskOperand<'s>> {
    let (buffer, range) = (operand.memory.buffer(), range_of(operand));
    let whole = if range.is_empty() {
        match operand.direction {
            Direction::In => OperandBytes::Read(Span::of_slice(&[])),
            _ => OperandBytes::Write(SpanMut::of_slice(&mut [])),
        }
    } else {
        let place = clusters.iter().position(|cluster| {
            cluster.buffer.handle() == buffer.handle()
                && cluster.range.start <= range.start
                && range.end <= cluster.range.end
        })?;
        let from = usize::try_from(range.start - clusters.get(place)?.range.start).ok()?;
        let len = usize::try_from(range.end - range.start).ok()?;
        match *spans.get(place)? {
            OperandBytes::Read(span) => OperandBytes::Read(span.sub(from, len)?),
            OperandBytes::Write(span) if operand.direction == Direction::In => {
                OperandBytes::Read(span.as_span().sub(from, len)?)
            }
            OperandBytes::Write(span) => OperandBytes::Write(span.sub(from, len)?),
        }
    };
    Some(TaskOperand {
        number: operand.number,
        bytes: whole,
        object: ObjectKey::default(),
        offset: range.start,
        foreign: buffer.is_shared(),
    })
}
