//! From an entry to what an engine sees: everything that the broker checks of a tracked job, and where its operands are.
//!
//! Nobody has looked at an entry before. So whether the operation has such operands and parameters, whether they are all
//! there, of a right length, alignment, kind and range is decided here, by the device's own description, in the order
//! and with the codes of the broker; a text has the value and the limit. Then an address is looked up in the queue's
//! address space. Which way an operand goes no entry says: its direction does, and what is bound there must allow it.
//!
//! A block was read once, into private memory; so are the bytes of parameters. A result cell is one word, read once, and
//! used if it is within what the entry allows. Nothing is written before all has been checked: a refused entry has
//! changed nothing.

use vgem_os::mapping::{Span, SpanMut};
use vgem_proto::codec::Malformed;
use vgem_proto::describe::{Direction, Operation, ParamKind, ParamSpec};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;
use vgem_proto::jobs::ParamSource;
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Arguments, Block, Call, EntryError, VaOperand, VaParam, VaRange};

use super::own::OwnMemory;
use super::space::{AddressFault, AddressSpace, Found};
use super::stage::Stage;
use crate::engine::{JobError, OperandBytes, ParamValue, TaskOperand};
use crate::operands::{Asked, Prepared, Resolved, bounded, push};

/// Why an entry did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) code: ErrorCode,
    /// What was found, or why an address could not be reached.
    pub(super) value: u64,
    /// The first address that could not be reached.
    pub(super) address: u64,
    /// In words, with the value and the limit.
    pub(super) text: String,
}

impl Flaw {
    pub(super) fn new(code: ErrorCode, value: impl Into<u64>, text: String) -> Self {
        Self { code, value: value.into(), address: 0, text }
    }

    /// There is no room for one more.
    pub(super) fn no_operand(number: u8) -> Self {
        let text = format!("more than {} operands in one entry", limits::JOB_OPERANDS);
        Self::new(ErrorCode::BadOperand, number, text)
    }

    /// It did not begin.
    pub(super) fn cancelled(why: &str) -> Self {
        Self::new(ErrorCode::Cancelled, 0u64, why.into())
    }

    /// The client's domain may not use the operation.
    pub(super) fn forbidden(operation: &Operation) -> Self {
        let text = format!("operation {}: this domain may not use it", operation.name);
        Self::new(ErrorCode::Denied, operation.number, text)
    }

    /// The device has no such operation.
    pub(super) fn no_operation(op: u16) -> Self {
        Self::new(ErrorCode::NoSuchOperation, op, format!("the device has no operation {op}"))
    }
}

impl From<Box<Self>> for Flaw {
    fn from(boxed: Box<Self>) -> Self {
        *boxed
    }
}

impl From<JobError> for Flaw {
    fn from(error: JobError) -> Self {
        Self::new(error.code, 0u64, error.text)
    }
}

impl From<EntryError> for Flaw {
    fn from(error: EntryError) -> Self {
        Self::new(error.code(), error.value(), error.to_string())
    }
}

impl From<Malformed> for Flaw {
    fn from(error: Malformed) -> Self {
        let value = match error {
            Malformed::BadValue { value, .. } => value,
            Malformed::TooMany { count, .. } => count,
            Malformed::Trailing { extra } => extra as u64,
            _ => 0,
        };
        Self::new(ErrorCode::Malformed, value, format!("the entry's block is malformed: {error}"))
    }
}

impl From<AddressFault> for Flaw {
    fn from(fault: AddressFault) -> Self {
        let (value, address) = (fault.reason.number(), fault.address);
        Self { code: ErrorCode::AddressFault, value, address, text: fault.to_string() }
    }
}

/// Copies what lies at addresses into private memory of that length: each byte once.
///
/// # Errors
/// AddressFault.
pub(super) fn read_once(space: &AddressSpace, from: VaRange, into: &mut [u8]) -> Result<(), Flaw> {
    match space.find(from, Access::Read)? {
        None => {}
        Some(Found::Bound(reached)) => reached.read()?.copy_to(0, into).map_err(JobError::from)?,
        Some(Found::Own(own)) => own.read(from, into)?,
    }
    Ok(())
}

/// An entry's operands and parameters as they are in the entry and its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) call: &'a Call,
    /// If the entry has one.
    pub(super) block: Option<&'a Block<'a>>,
}

impl Given<'_> {
    /// Whether it may have parameters.
    #[inline]
    fn has_params(&self) -> bool {
        self.block.is_some()
            || !matches!(self.call.arguments, Arguments::Inline { first: None, second: None })
    }

    fn params(&self) -> impl Iterator<Item = VaParam> {
        let (first, second) = match self.call.arguments {
            Arguments::Inline { first, second } => (first, second.map(u64::from)),
            Arguments::Block(_) => (None, None),
        };
        let inline = (0..).zip([first, second]).filter_map(|(number, value)| {
            Some(VaParam { value: value?, max: 0, len: 0, number, source: ParamSource::Value, cell_word: 0 })
        });
        inline.chain(self.block.into_iter().flat_map(Block::params))
    }
}

/// Checks an entry against its operation and finds what its addresses mean. `bytes` takes those of byte parameters.
///
/// # Errors
/// [`Flaw`]: what the broker would refuse a job for, AddressFault, or IndirectTooLong.
#[inline]
pub(super) fn resolve<'s>(
    space: &'s AddressSpace,
    prepared: &Prepared,
    given: &Given<'_>,
    (bytes, stage): (&'s mut Vec<u8>, &'s mut Stage),
    resolved: &mut Resolved<'s>,
) -> Result<(), Box<Flaw>> {
    stage.clear();
    let mut seen = 0u64;
    for (number, range) in (0..).zip(&given.call.operands) {
        if let Some(range) = range {
            let operand = Named { number, address: range.address(), len: range.len(), cell: None };
            take_operand(space, prepared, operand, &mut seen, stage, resolved)?;
        }
    }
    if let Some(block) = given.block {
        for VaOperand { address, len, cell, number, cell_word, .. } in block.operands() {
            let cell = (cell != 0).then_some((cell, cell_word));
            let operand = Named { number, address, len, cell };
            take_operand(space, prepared, operand, &mut seen, stage, resolved)?;
        }
    }
    if prepared.required & !seen != 0 {
        return Err(missing_operand(prepared, seen));
    }
    let has_params = given.has_params();
    if has_params || prepared.required_params != 0 {
        check_params(prepared, given)?;
    }
    for default in &prepared.defaults {
        push(&mut resolved.params, default.map_or(ParamValue::Absent, ParamValue::Number)).map_err(boxed)?;
    }
    if has_params {
        fill_params(space, given, bytes, resolved)?;
    }
    match (stage.is_empty(), &space.own) {
        (true, _) | (_, None) => Ok(()),
        (false, Some(own)) => Ok(stage_operands(prepared, own, stage, resolved)?),
    }
}

/// Gives an engine what it reads and writes of the client's own memory.
#[cold]
fn stage_operands<'s>(
    prepared: &Prepared,
    own: &OwnMemory,
    stage: &'s mut Stage,
    resolved: &mut Resolved<'s>,
) -> Result<(), Flaw> {
    stage.fetch(own)?;
    for (piece, memory) in stage.operands() {
        let bytes = match piece.direction {
            Direction::In => OperandBytes::Read(Span::of_slice(memory)),
            Direction::Out | Direction::InOut | Direction::Cell => {
                OperandBytes::Write(SpanMut::of_slice(memory))
            }
        };
        let (number, object) = (piece.number, ObjectKey::default());
        give(prepared, TaskOperand { number, bytes, object, offset: 0, foreign: false }, resolved)?;
    }
    Ok(())
}

/// Puts an operand where an engine looks for it, or the SDK for the result cell.
#[inline]
fn give<'s>(
    prepared: &Prepared,
    found: TaskOperand<'s>,
    resolved: &mut Resolved<'s>,
) -> Result<(), Box<Flaw>> {
    if prepared.cell == Some(found.number) {
        if let OperandBytes::Write(cell) = found.bytes {
            resolved.cell = Some(cell);
        }
        return Ok(());
    }
    resolved.operands.try_push(found).map_err(|_| boxed(Flaw::no_operand(found.number)))
}

#[inline]
const fn bit(number: u16) -> u64 {
    1 << (number & 63)
}

/// Notes that a number was given; whether it was not before.
#[inline]
fn take_note(seen: &mut u64, number: u16) -> bool {
    let is_new = *seen & bit(number) == 0;
    *seen |= bit(number);
    is_new
}

/// An operand as an entry or its block names it.
#[derive(Debug, Clone, Copy)]
struct Named {
    number: u8,
    address: u64,
    len: u64,
    /// The cell that its length comes from, and which word of it.
    cell: Option<(u64, u8)>,
}

/// Checks an operand and finds it: one that is bound is resolved, one in the client's own memory placed on the stage.
/// What is wrong is boxed: this is the way of every entry, and its result fits into a register.
#[inline]
fn take_operand<'s>(
    space: &'s AddressSpace,
    prepared: &Prepared,
    operand: Named,
    seen: &mut u64,
    stage: &mut Stage,
    resolved: &mut Resolved<'s>,
) -> Result<(), Box<Flaw>> {
    let Named { number, address, len, cell } = operand;
    let Some(asked) = prepared.asked.get(usize::from(number)) else {
        return Err(no_such_operand(prepared, number));
    };
    if !take_note(seen, number.into()) {
        return Err(given_twice(prepared, number));
    }
    if len < asked.len.0 || len > asked.len.1 {
        return Err(bad_len(prepared, asked, operand));
    }
    let range = VaRange::new(address, len).map_err(boxed)?;
    let Some(bound) = space.holder(range, asked.access) else {
        return take_elsewhere(space, prepared, operand, stage, resolved);
    };
    let offset = bound.offset_of(address);
    if !asked.is_aligned(offset) {
        return Err(bad_align(prepared, asked, number, offset));
    }
    let len = match cell {
        None => len,
        Some(cell) => indirect_len(space, operand, cell)?,
    };
    let bytes = match asked.access {
        Access::Read => bound.read(offset, len).map(OperandBytes::Read),
        Access::Write => bound.write(offset, len).map(OperandBytes::Write),
    };
    let Some(bytes) = bytes else { return Err(boxed(JobError::outside())) };
    let (object, foreign) = (bound.object, bound.foreign);
    give(prepared, TaskOperand { number, bytes, object, offset, foreign }, resolved)
}

/// The same for one that is not bound: it has no bytes, or they are in the client's own memory, or cannot be reached.
#[cold]
#[inline(never)]
fn take_elsewhere<'s>(
    space: &'s AddressSpace,
    prepared: &Prepared,
    operand: Named,
    stage: &mut Stage,
    resolved: &mut Resolved<'s>,
) -> Result<(), Box<Flaw>> {
    let Named { number, address, len, cell } = operand;
    let (Some(asked), Some(spec)) =
        (prepared.asked.get(usize::from(number)), prepared.operation.operands.get(usize::from(number)))
    else {
        return Err(no_such_operand(prepared, number));
    };
    let range = VaRange::new(address, len).map_err(boxed)?;
    match space.find(range, asked.access).map_err(boxed)? {
        None => {
            let bytes = match asked.access {
                Access::Read => OperandBytes::Read(Span::of_slice(&[])),
                Access::Write => OperandBytes::Write(SpanMut::of_slice(&mut [])),
            };
            let object = ObjectKey::default();
            give(prepared, TaskOperand { number, bytes, object, offset: 0, foreign: false }, resolved)
        }
        Some(Found::Own(_)) => {
            if !asked.is_aligned(address) {
                return Err(bad_align(prepared, asked, number, address));
            }
            let len = cell.map_or(Ok(len), |cell| indirect_len(space, operand, cell))?;
            let range = VaRange::new(address, len).map_err(boxed)?;
            Ok(stage.place(number, spec.direction, range)?)
        }
        // What is bound was found before.
        Some(Found::Bound(_)) => Err(boxed(JobError::outside())),
    }
}

/// The length that a result cell says of an operand.
#[cold]
#[inline(never)]
fn indirect_len(space: &AddressSpace, operand: Named, (cell, word): (u64, u8)) -> Result<u64, Box<Flaw>> {
    let len = read_cell(space, cell, word)?;
    Ok(within_limit(len, operand.len, || format!("length of operand {}", operand.number))?)
}

#[cold]
fn boxed(why: impl Into<Flaw>) -> Box<Flaw> {
    Box::new(why.into())
}

#[cold]
fn no_such_operand(prepared: &Prepared, number: u8) -> Box<Flaw> {
    let operation = &prepared.operation;
    let text = format!("operand {number}: {} has {}", operation.name, operation.operands.len());
    boxed(Flaw::new(ErrorCode::BadOperand, number, text))
}

/// What an operand is called.
fn name(prepared: &Prepared, number: u8) -> &str {
    prepared.operation.operands.get(usize::from(number)).map_or("?", |spec| spec.name.as_str())
}

#[cold]
fn given_twice(prepared: &Prepared, number: u8) -> Box<Flaw> {
    let text = format!("operand {} is given twice", name(prepared, number));
    boxed(Flaw::new(ErrorCode::BadOperand, number, text))
}

/// The first operand that must be there and was not seen.
#[cold]
fn missing_operand(prepared: &Prepared, seen: u64) -> Box<Flaw> {
    let number = u8::try_from((prepared.required & !seen).trailing_zeros()).unwrap_or(u8::MAX);
    let text = format!("operand {} of {} is missing", name(prepared, number), prepared.operation.name);
    boxed(Flaw::new(ErrorCode::BadOperand, number, text))
}

#[cold]
fn bad_len(prepared: &Prepared, asked: &Asked, Named { number, len, .. }: Named) -> Box<Flaw> {
    let (min, max) = asked.len;
    let text = format!("operand {} has {min} to {max} bytes, not {len}", name(prepared, number));
    boxed(Flaw::new(ErrorCode::OutOfRange, len, text))
}

/// As of a job's: where the operand begins in its object, whatever it is bound at; in the client's own memory its address.
#[cold]
fn bad_align(prepared: &Prepared, asked: &Asked, number: u8, offset: u64) -> Box<Flaw> {
    let (name, align) = (name(prepared, number), asked.align);
    let text = format!("operand {name} begins at a multiple of {align}, not at {offset}");
    boxed(Flaw::new(ErrorCode::Misaligned, offset, text))
}

/// A word of a result cell, read once.
fn read_cell(space: &AddressSpace, address: u64, word: u8) -> Result<u64, Flaw> {
    let len = result_cell::LEN as u64;
    let aligned = |offset: u64| {
        let text = || format!("a result cell begins at a multiple of {len}, not at {offset}");
        offset
            .is_multiple_of(len)
            .then_some(())
            .ok_or_else(|| Flaw::new(ErrorCode::Misaligned, offset, text()))
    };
    // A cell has bytes, so it is somewhere.
    match space.find(VaRange::new(address, len)?, Access::Read)?.ok_or_else(JobError::outside)? {
        Found::Bound(reached) => {
            aligned(reached.offset)?;
            Ok(reached.read()?.read_u64(8 * usize::from(word)).map_err(JobError::from)?)
        }
        Found::Own(own) => {
            aligned(address)?;
            let mut value = [0; 8];
            own.read(VaRange::new(address + 8 * u64::from(word), 8)?, &mut value)?;
            Ok(u64::from_le_bytes(value))
        }
    }
}

fn within_limit(value: u64, limit: u64, what: impl Fn() -> String) -> Result<u64, Flaw> {
    bounded(value, limit, what).map_err(|error| Flaw { value, ..error.into() })
}

fn check_params(prepared: &Prepared, given: &Given<'_>) -> Result<(), Flaw> {
    let operation = &prepared.operation;
    let (mut seen, mut bytes) = (0u64, 0u64);
    for param in given.params() {
        if param.source == ParamSource::Bytes {
            bytes += u64::from(param.len);
        }
    }
    let most = limits::BATCH_BYTES as u64;
    if bytes > most {
        let text = format!("{bytes} bytes of byte parameters, at most {most}");
        return Err(Flaw::new(ErrorCode::TooLarge, bytes, text));
    }
    for param in given.params() {
        let number = param.number;
        let Some(spec) = operation.params.get(usize::from(number)) else {
            let text = format!("parameter {number}: {} has {}", operation.name, operation.params.len());
            return Err(Flaw::new(ErrorCode::BadParameter, number, text));
        };
        if !take_note(&mut seen, number) {
            let text = format!("parameter {} is given twice", spec.name);
            return Err(Flaw::new(ErrorCode::BadParameter, number, text));
        }
        check_param(spec, &param)?;
    }
    let missing = prepared.required_params & !seen;
    if missing == 0 {
        return Ok(());
    }
    let number = missing.trailing_zeros();
    let name = operation.params.get(number as usize).map_or("?", |spec| spec.name.as_str());
    let text = format!("parameter {name} of {} is missing", operation.name);
    Err(Flaw::new(ErrorCode::BadParameter, number, text))
}

fn check_param(spec: &ParamSpec, param: &VaParam) -> Result<(), Flaw> {
    match (&spec.kind, param.source) {
        (ParamKind::Number { min, max, .. }, ParamSource::Value) => within(spec, param.value, *min, *max),
        (ParamKind::Number { min, max, .. }, ParamSource::Cell) => within(spec, param.max, *min, *max),
        (ParamKind::Choice { words, .. }, ParamSource::Value) => {
            within(spec, param.value, 0, (words.len() as u64).saturating_sub(1))
        }
        (ParamKind::Bytes { max_len, .. }, ParamSource::Bytes) => {
            within(spec, param.len.into(), 0, (*max_len).into())
        }
        (ParamKind::Number { .. }, ParamSource::Bytes)
        | (ParamKind::Choice { .. }, ParamSource::Bytes | ParamSource::Cell)
        | (ParamKind::Bytes { .. }, ParamSource::Value | ParamSource::Cell) => {
            let text = format!("parameter {} cannot come from {:?}", spec.name, param.source);
            Err(Flaw::new(ErrorCode::BadParameter, param.number, text))
        }
    }
}

fn within(spec: &ParamSpec, value: u64, min: u64, max: u64) -> Result<(), Flaw> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let text = format!("parameter {} is {min} to {max}, not {value}", spec.name);
    Err(Flaw::new(ErrorCode::BadParameter, value, text))
}

/// Puts the values of parameters that were checked in the place of their defaults.
fn fill_params<'s>(
    space: &'s AddressSpace,
    given: &Given<'_>,
    bytes: &'s mut Vec<u8>,
    resolved: &mut Resolved<'s>,
) -> Result<(), Flaw> {
    bytes.clear();
    for param in given.params().filter(|param| param.source == ParamSource::Bytes) {
        let (at, len) = (bytes.len(), u64::from(param.len));
        bytes.resize(at + param.len as usize, 0);
        if let Some(place) = bytes.get_mut(at..) {
            read_once(space, VaRange::new(param.value, len)?, place)?;
        }
    }
    let mut left: &'s [u8] = bytes;
    for param in given.params() {
        let value = match param.source {
            ParamSource::Value => ParamValue::Number(param.value),
            ParamSource::Bytes => {
                let (own, rest) = left.split_at_checked(param.len as usize).ok_or_else(JobError::outside)?;
                left = rest;
                ParamValue::Bytes(own)
            }
            ParamSource::Cell => {
                let value = read_cell(space, param.value, param.cell_word)?;
                let name = || format!("parameter {}", param.number);
                ParamValue::Number(within_limit(value, param.max, name)?)
            }
        };
        if let Some(place) = resolved.params.get_mut(usize::from(param.number)) {
            *place = value;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
