//! Names of a job or an entry, looked up in the description of its device.
//!
//! Whoever writes down work, for the broker to track ([`crate::Job`]) or for a user queue ([`crate::EntryDraft`]), says
//! what it means by the same names, and the same mistakes are told in the same words. What is found here are places in
//! the description; how they travel is for others to know.

use vgem_proto::describe::{Direction, Operation, ParamKind};

use crate::choice::{OperandChoice, ParamChoice, ParamValue};
use crate::device::{
    DeviceShared, OpChoice, OperandKey, ParamKey, no_operand, operand_key, param_key, word_number,
};
use crate::error::LocalError;

/// A value as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given<'v> {
    /// A number, or the place of a word.
    Number(u64),
    /// Bytes.
    Bytes(&'v [u8]),
}

/// Place of a chosen operation in the description of `device`. One that was resolved is of this device, though perhaps of
/// an older description.
pub(crate) fn place(device: &DeviceShared, op: OpChoice<'_>) -> Result<usize, LocalError> {
    match op {
        OpChoice::Name(name) => device.place(name),
        OpChoice::Op(op) if op.device.id == device.id => Ok(op.place),
        OpChoice::Op(op) => Err(LocalError::NoSuchOperation {
            device: device.name.to_string(),
            name: format!("{} of {}", op.operation().name, op.device.name),
            known: device.description.operations.iter().map(|one| one.name.clone()).collect(),
        }),
    }
}

/// The first operand of this direction that is not among `given`, one bit each.
pub(crate) fn next_operand(
    operation: &Operation,
    direction: Direction,
    given: u32,
) -> Result<u8, LocalError> {
    let mut numbers = (0u8..).zip(&operation.operands);
    let free = numbers.find(|(number, spec)| spec.direction == direction && given >> number & 1 == 0);
    let (number, _) = free.ok_or_else(|| {
        let way = match direction {
            Direction::In => "read",
            Direction::Out => "written",
            Direction::InOut => "read and written",
            Direction::Cell => "a cell",
        };
        no_operand(operation, format!("further operand that is {way}"))
    })?;
    Ok(number)
}

/// The operand that was chosen, and which way its bytes go.
pub(crate) fn operand(
    operation: &Operation,
    choice: OperandChoice<'_>,
) -> Result<(u8, Direction), LocalError> {
    let OperandKey(number) = match choice {
        OperandChoice::Key(key) => key,
        OperandChoice::Name(name) => operand_key(operation, name)?,
    };
    let spec = operation.operands.get(usize::from(number));
    let spec = spec.ok_or_else(|| no_operand(operation, format!("operand number {number}")))?;
    Ok((number, spec.direction))
}

/// The operand that is a result cell.
pub(crate) fn result(operation: &Operation) -> Result<u8, LocalError> {
    let mut numbers = (0u8..).zip(&operation.operands);
    let cell = numbers.find(|(_, spec)| spec.direction == Direction::Cell);
    cell.map(|(number, _)| number).ok_or_else(|| no_operand(operation, "result cell".into()))
}

/// The parameter that was chosen.
pub(crate) fn param(operation: &Operation, choice: ParamChoice<'_>) -> Result<ParamKey, LocalError> {
    match choice {
        ParamChoice::Key(key) => Ok(key),
        ParamChoice::Name(name) => param_key(operation, name),
    }
}

/// What a value of a parameter is as it travels.
pub(crate) fn value<'v>(
    operation: &Operation,
    key: ParamKey,
    value: ParamValue<'v>,
) -> Result<Given<'v>, LocalError> {
    let param = operation.params.get(usize::from(key.0));
    let kind = param.map(|param| &param.kind);
    let bad = |why: String| Err(bad_value(operation, key, why));
    match (value, kind) {
        (ParamValue::Number(_), Some(ParamKind::Bytes { .. })) => bad("a number, bytes are asked for".into()),
        (ParamValue::Number(number), _) => Ok(Given::Number(number)),
        (ParamValue::Negative(number), _) => bad(format!("{number} is below 0")),
        (ParamValue::Text(text), Some(ParamKind::Bytes { .. })) => Ok(Given::Bytes(text.as_bytes())),
        (ParamValue::Text(word), _) => Ok(Given::Number(word_number(operation, key, word)?)),
        (ParamValue::Bytes(bytes), Some(ParamKind::Bytes { .. })) => Ok(Given::Bytes(bytes)),
        (ParamValue::Bytes(_), _) => bad("bytes, a number or a word is asked for".into()),
    }
}

/// The error for a value that does not suit.
pub(crate) fn bad_value(operation: &Operation, key: ParamKey, why: String) -> LocalError {
    let name = operation.params.get(usize::from(key.0)).map_or("?", |param| param.name.as_str());
    LocalError::BadValue { op: operation.name.clone(), name: name.to_owned(), why }
}
