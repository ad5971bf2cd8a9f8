//! From a job's records to what an engine sees: mappings found, run-time lengths read and checked, defaults set.
//!
//! The broker has checked handles, rights and ranges. What only shows at run time is checked here: the mapping is
//! there and long enough, and a length or parameter that is read from a result cell is within what the broker
//! authorised. A cell is read once; the copy is checked and used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use vgem_os::mapping::{Mapping, SpanMut};
use vgem_proto::describe::{Description, Direction, OperandSpec, Operation, ParamKind, ParamSpec, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;
use vgem_proto::jobs::{DriverOperand, DriverParam, OPERAND_FOREIGN, OPERAND_INDIRECT, ParamSource};
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::rights::Access;

use crate::engine::{JobError, OperandBytes, ParamValue, TaskOperand};
use crate::objects::Objects;
use crate::schedule::Pending;

/// An operation as the SDK needs it for each job, worked out once.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) operation: Operation,
    pub(crate) touch: Vec<Touch>,
    pub(crate) defaults: Vec<Option<u64>>,
    pub(crate) cell: Option<u8>,
    /// What is asked of each operand.
    pub(crate) asked: Vec<Asked>,
    /// The operands and the parameters that must be there: a bit each.
    pub(crate) required: u64,
    pub(crate) required_params: u64,
    /// Entries may not use it: policy, of which the broker tells and which it minds itself for jobs.
    forbidden: AtomicBool,
}

/// What is asked of an operand of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Fewest and most bytes.
    pub(crate) len: (u64, u64),
    /// Where it begins is a multiple of this.
    pub(crate) align: u64,
    pub(crate) access: Access,
}

impl Asked {
    fn of(spec: &OperandSpec) -> Self {
        let cell = result_cell::LEN as u64;
        let (len, align) = match spec.direction {
            Direction::Cell => ((cell, cell), cell),
            Direction::In | Direction::Out | Direction::InOut => (spec.len, u64::from(spec.align.max(1))),
        };
        let access = match spec.direction {
            Direction::In => Access::Read,
            Direction::Out | Direction::InOut | Direction::Cell => Access::Write,
        };
        Self { len, align, access }
    }

    /// Whether it may begin there.
    #[inline]
    pub(crate) const fn is_aligned(&self, offset: u64) -> bool {
        // Descriptions have powers of two, and those need no division.
        match self.align.is_power_of_two() {
            true => offset & (self.align - 1) == 0,
            false => offset.is_multiple_of(self.align),
        }
    }
}

/// A bit for each number of which it is true.
fn bits(of: impl Iterator<Item = bool>) -> u64 {
    (0..u64::BITS).zip(of).fold(0, |all, (number, is_set)| all | u64::from(is_set) << number)
}

const fn is_required(spec: &ParamSpec) -> bool {
    match spec.kind {
        ParamKind::Number { default, .. } => default.is_none(),
        ParamKind::Choice { default, .. } => default.is_none(),
        ParamKind::Bytes { required, .. } => required,
    }
}

/// All operations of a device, by number.
#[derive(Debug)]
pub(crate) struct Operations(Vec<Prepared>);

impl Operations {
    pub(crate) fn new(description: &Description) -> Self {
        Self(description.operations.iter().map(Prepared::new).collect())
    }

    #[inline]
    pub(crate) fn by_number(&self, number: u16) -> Option<&Prepared> {
        match self.0.get(usize::from(number)) {
            Some(prepared) if prepared.operation.number == number => Some(prepared),
            _ => self.0.iter().find(|p| p.operation.number == number),
        }
    }

    /// Has entries use none of these, and again those that were forbidden before.
    pub(crate) fn forbid(&self, numbers: &[u16]) {
        for prepared in &self.0 {
            let is_forbidden = numbers.contains(&prepared.operation.number);
            prepared.forbidden.store(is_forbidden, Ordering::Relaxed);
        }
    }
}

impl Prepared {
    fn new(operation: &Operation) -> Self {
        let touch = operation.operands.iter().map(|o| o.touch).collect();
        let defaults = operation.params.iter().map(|p| match &p.kind {
            ParamKind::Number { default, .. } => *default,
            ParamKind::Choice { default, .. } => default.map(u64::from),
            ParamKind::Bytes { .. } => None,
        });
        let cell = operation.operands.iter().position(|o| o.direction == Direction::Cell);
        Self {
            touch,
            defaults: defaults.collect(),
            cell: cell.and_then(|at| u8::try_from(at).ok()),
            asked: operation.operands.iter().map(Asked::of).collect(),
            required: bits(operation.operands.iter().map(|operand| operand.required)),
            required_params: bits(operation.params.iter().map(is_required)),
            operation: operation.clone(),
            forbidden: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::Relaxed)
    }
}

/// The mappings a job uses, held until it has ended. In the order in which [`mappings_of`] asks for them.
///
/// Half a KiB, and moved with every job that is not passed by reference: nothing is kept here that a mapping knows.
pub(crate) type Held = ArrayVec<Option<Arc<Mapping>>, { 2 * limits::JOB_OPERANDS + limits::JOB_PARAMS }>;

/// Takes hold of every mapping the job names: for each operand its object and its cell's object if it has one,
/// then for each parameter its cell's object if it has one. Of none for a job that touches none.
pub(crate) fn mappings_of(pending: &Pending, objects: &Objects) -> Held {
    let mut held = Held::new();
    if pending.is_publication() {
        return held;
    }
    let mut hold = |object: ObjectKey| {
        let found = objects.find(object).map(|found| Arc::clone(&found.mapping));
        let _full = held.try_push(found).is_err();
    };
    for operand in pending.operands() {
        hold(operand.object);
        if operand.flags & OPERAND_INDIRECT != 0 {
            hold(operand.cell_object);
        }
    }
    for param in pending.params() {
        if param.source == ParamSource::Cell {
            hold(param.cell_object);
        }
    }
    held
}

/// A job's operands and parameters, ready for its engine.
#[derive(Debug, Default)]
pub(crate) struct Resolved<'a> {
    pub(crate) operands: ArrayVec<TaskOperand<'a>, { limits::JOB_OPERANDS }>,
    pub(crate) params: ArrayVec<ParamValue<'a>, { limits::JOB_PARAMS }>,
    pub(crate) cell: Option<SpanMut<'a>>,
}

/// Resolves a job.
///
/// # Errors
/// MapFailed, OutOfRange, IndirectTooLong or BadOperand, with the value and the limit.
pub(crate) fn resolve<'a>(
    pending: &'a Pending,
    prepared: &Prepared,
    held: &'a Held,
) -> Result<Resolved<'a>, JobError> {
    let mut held = held.iter().map(Option::as_ref);
    let mut resolved = Resolved::default();
    for operand in pending.operands() {
        let object = mapped(held.next().flatten(), operand.object)?;
        let len = match operand.flags & OPERAND_INDIRECT {
            0 => operand.len,
            _ => {
                let cells = mapped(held.next().flatten(), operand.cell_object)?;
                let len = read_cell(cells, operand.cell_offset, operand.cell_word)?;
                bounded(len, operand.len, || format!("length of operand {}", operand.number))?
            }
        };
        let bytes = bytes_of(object, operand, len)?;
        if Some(operand.number) == prepared.cell {
            if let OperandBytes::Write(cell) = bytes {
                resolved.cell = Some(cell);
            }
            continue;
        }
        let foreign = operand.flags & OPERAND_FOREIGN != 0;
        let (number, object, offset) = (operand.number, operand.object, operand.offset);
        push(&mut resolved.operands, TaskOperand { number, bytes, object, offset, foreign })?;
    }
    for default in &prepared.defaults {
        push(&mut resolved.params, default.map_or(ParamValue::Absent, ParamValue::Number))?;
    }
    for param in pending.params() {
        let value = match param.source {
            ParamSource::Value => ParamValue::Number(param.value),
            ParamSource::Bytes => ParamValue::Bytes(param_bytes(pending, param)?),
            ParamSource::Cell => {
                let cells = mapped(held.next().flatten(), param.cell_object)?;
                let value = read_cell(cells, param.value, param.cell_word)?;
                let name = || format!("parameter {}", param.number);
                ParamValue::Number(bounded(value, param.max, name)?)
            }
        };
        match resolved.params.get_mut(usize::from(param.number)) {
            Some(place) => *place = value,
            None => {
                let text = format!("parameter {} of {}", param.number, prepared.defaults.len());
                return Err(JobError::new(ErrorCode::BadParameter, text));
            }
        }
    }
    Ok(resolved)
}

/// Adds to a list that has room for all that a job may have.
///
/// # Errors
/// BadOperand if it has more.
pub(crate) fn push<T, const N: usize>(list: &mut ArrayVec<T, N>, item: T) -> Result<(), JobError> {
    list.try_push(item).map_err(|_| JobError::new(ErrorCode::BadOperand, format!("more than {N} in one job")))
}

fn mapped(found: Option<&Arc<Mapping>>, object: ObjectKey) -> Result<&Mapping, JobError> {
    found
        .map(AsRef::as_ref)
        .ok_or_else(|| JobError::new(ErrorCode::MapFailed, format!("{object} is not mapped by this driver")))
}

/// A value that was read from a cell, if it is within what was authorised.
///
/// # Errors
/// IndirectTooLong, with the value and the limit.
pub(crate) fn bounded(value: u64, limit: u64, what: impl Fn() -> String) -> Result<u64, JobError> {
    if value <= limit {
        return Ok(value);
    }
    let text = format!("{} read from a result cell is {value}, at most {limit} was authorised", what());
    Err(JobError::new(ErrorCode::IndirectTooLong, text))
}

fn read_cell(mapping: &Mapping, offset: u64, word: u8) -> Result<u64, JobError> {
    let outside = || JobError::new(ErrorCode::OutOfRange, format!("cell at {offset}, word {word}"));
    let offset = usize::try_from(offset).map_err(|_| outside())?;
    let cell = mapping.span().sub(offset, result_cell::LEN).ok_or_else(outside)?;
    cell.read_u64(8 * usize::from(word)).map_err(|_| outside())
}

fn bytes_of<'a>(
    mapping: &'a Mapping,
    operand: &DriverOperand,
    len: u64,
) -> Result<OperandBytes<'a>, JobError> {
    let outside = || {
        let text = format!("operand {}: {len} bytes from {}", operand.number, operand.offset);
        JobError::new(ErrorCode::OutOfRange, text)
    };
    let offset = usize::try_from(operand.offset).map_err(|_| outside())?;
    let len = usize::try_from(len).map_err(|_| outside())?;
    match operand.access {
        Access::Read => mapping.span().sub(offset, len).map(OperandBytes::Read).ok_or_else(outside),
        Access::Write if mapping.access() == Access::Write => {
            let all = mapping.span_mut().map_err(|e| JobError::new(ErrorCode::MapFailed, e.to_string()))?;
            all.sub(offset, len).map(OperandBytes::Write).ok_or_else(outside)
        }
        Access::Write => {
            let text = format!("{} is mapped for reading only", operand.object);
            Err(JobError::new(ErrorCode::MapFailed, text))
        }
    }
}

fn param_bytes<'a>(pending: &'a Pending, param: &DriverParam) -> Result<&'a [u8], JobError> {
    let start = usize::try_from(param.value).ok();
    let range = start.and_then(|s| Some(s..s.checked_add(usize::try_from(param.len).ok()?)?));
    range.and_then(|r| pending.param_bytes().get(r)).ok_or_else(|| {
        let text = format!("parameter {}: {} bytes from {}", param.number, param.len, param.value);
        JobError::new(ErrorCode::OutOfRange, text)
    })
}
