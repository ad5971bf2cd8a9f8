//! One entry of a user queue, as it is written down: by the names of the device's description, as a job is.
//!
//! Nothing here fails at once: [`EntryDraft::prepare`] and the pushes report the first mistake, and nothing is submitted
//! then.

use vgem_proto::describe::{Direction, Operation, ParamKind};
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::Order;

use super::prepared::{Known, Part, Parts, Prepared, Value, access_of, bad_address, check_len, check_number};
use super::range::{AddressRange, RangeChoice};
use super::{Ticket, UserQueue};
use crate::batch::at_most;
use crate::cell::{CellRef, CellWord};
use crate::choice::{OperandChoice, ParamChoice, ParamValue};
use crate::deadline::Deadline;
use crate::device::ParamKey;
use crate::error::{LocalError, Result};
use crate::lookup::{self, Given};

/// An entry that is being written down ([`UserQueue::entry`]).
#[derive(Debug)]
#[must_use]
pub struct EntryDraft<'q> {
    queue: &'q UserQueue,
    operation: Option<&'q Operation>,
    /// Operands that were given, one bit each.
    given: u32,
    parts: Parts,
    mistake: Option<LocalError>,
}

impl<'q> EntryDraft<'q> {
    pub(crate) fn new(queue: &'q UserQueue, place: Result<usize, LocalError>) -> Self {
        let (place, mistake) = match place {
            Ok(place) => (Some(place), None),
            Err(mistake) => (None, Some(mistake)),
        };
        let operations = &queue.shared().queue.device.description.operations;
        let operation = place.and_then(|place| operations.get(place));
        Self { queue, operation, given: 0, parts: Parts::default(), mistake }
    }

    /// The next operand that is read.
    pub fn input<'s>(self, range: impl Into<RangeChoice<'s>>) -> Self {
        self.next(Direction::In, range.into(), None)
    }

    /// The next operand that is written.
    pub fn output<'s>(self, range: impl Into<RangeChoice<'s>>) -> Self {
        self.next(Direction::Out, range.into(), None)
    }

    /// The next operand that is read and written, or written in part.
    pub fn inout<'s>(self, range: impl Into<RangeChoice<'s>>) -> Self {
        self.next(Direction::InOut, range.into(), None)
    }

    /// The next operand that is read; its length comes from a cell, of whatever buffer is bound, when the entry starts, and
    /// is at most the range's. Chain the entry to the one that writes the cell ([`EntryDraft::result_in`]).
    pub fn input_from<'s>(
        self,
        range: impl Into<RangeChoice<'s>>,
        cell: CellRef<'_>,
        word: CellWord,
    ) -> Self {
        self.next(Direction::In, range.into(), Some((cell, word)))
    }

    /// An operand by name.
    pub fn operand<'o, 's>(
        mut self,
        operand: impl Into<OperandChoice<'o>>,
        range: impl Into<RangeChoice<'s>>,
    ) -> Self {
        let result = self.try_operand(operand.into(), range.into(), None);
        self.keep(result)
    }

    /// An operand by name whose length comes from a cell, and is at most the range's.
    pub fn operand_from<'o, 's>(
        mut self,
        operand: impl Into<OperandChoice<'o>>,
        range: impl Into<RangeChoice<'s>>,
        cell: CellRef<'_>,
        word: CellWord,
    ) -> Self {
        let result = self.try_operand(operand.into(), range.into(), Some((cell, word)));
        self.keep(result)
    }

    /// Leaves its results in a cell of the queue's own, which [`crate::EntryDone::cell`] is a copy of: for digests. Bytes
    /// produced and the operation's number come with the completion anyway.
    pub fn result(mut self) -> Self {
        let result = self.try_result();
        self.keep(result)
    }

    /// Leaves its results in this cell, whose buffer is bound ([`UserQueue::bind_cells`]): for later entries, or to read
    /// it once the entry has ended.
    pub fn result_in(mut self, cell: CellRef<'_>) -> Self {
        let result = self.try_result_in(cell);
        self.keep(result)
    }

    /// A parameter.
    pub fn param<'p, 'v>(
        mut self,
        param: impl Into<ParamChoice<'p>>,
        value: impl Into<ParamValue<'v>>,
    ) -> Self {
        let result = self.try_param(param.into(), value.into());
        self.keep(result)
    }

    /// A parameter whose value comes from a cell when the entry starts, and is at most `max`.
    pub fn param_from<'p>(
        mut self,
        param: impl Into<ParamChoice<'p>>,
        cell: CellRef<'_>,
        word: CellWord,
        max: u64,
    ) -> Self {
        let result = self.try_param_from(param.into(), cell, word, max);
        self.keep(result)
    }

    /// Runs only if the entry pushed before it ended well, and after it. Where several threads push, push both with one
    /// [`UserQueue::push_many`]: nothing comes between those.
    pub fn chain(mut self) -> Self {
        self.parts.order |= Order::CHAIN;
        self
    }

    /// Starts only when all entries pushed before it have ended.
    pub fn barrier(mut self) -> Self {
        self.parts.order |= Order::BARRIER;
        self
    }

    /// Looks everything up, for entries that are pushed often.
    ///
    /// # Errors
    /// The first mistake: [`LocalError::NoSuchOperation`], [`LocalError::NoSuchOperand`], [`LocalError::NoSuchParam`],
    /// [`LocalError::Missing`], [`LocalError::GivenTwice`], [`LocalError::BadValue`], [`LocalError::OperandLen`],
    /// [`LocalError::BadAddress`], [`LocalError::OutOfRange`], [`LocalError::TooMany`].
    pub fn prepare(self) -> Result<Prepared> {
        if let Some(mistake) = self.mistake {
            return Err(mistake.into());
        }
        let operation = self.operation.expect("an operation that is missing is a mistake");
        check_complete(operation, self.given, &self.parts)?;
        Ok(self.parts.prepare(self.queue.shared().id, operation)?)
    }

    /// Pushes it; waits for room, at most until the deadline.
    ///
    /// # Errors
    /// As [`EntryDraft::prepare`] and [`UserQueue::push`].
    pub fn push(self, deadline: impl Into<Deadline>) -> Result<Ticket> {
        let queue = self.queue;
        queue.push(&self.prepare()?, deadline)
    }

    /// Pushes it without waiting.
    ///
    /// # Errors
    /// As [`EntryDraft::prepare`] and [`UserQueue::try_push`].
    pub fn try_push(self) -> Result<Ticket> {
        let queue = self.queue;
        queue.try_push(&self.prepare()?)
    }

    fn next(
        mut self,
        direction: Direction,
        range: RangeChoice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Self {
        let result = self.try_next(direction, range, from);
        self.keep(result)
    }

    fn keep(mut self, result: Result<(), LocalError>) -> Self {
        if let Err(mistake) = result {
            self.mistake.get_or_insert(mistake);
        }
        self
    }

    fn try_next(
        &mut self,
        direction: Direction,
        range: RangeChoice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let number = lookup::next_operand(operation, direction, self.given)?;
        self.add(operation, number, direction, range, from)
    }

    fn try_operand(
        &mut self,
        operand: OperandChoice<'_>,
        range: RangeChoice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let (number, direction) = lookup::operand(operation, operand)?;
        self.add(operation, number, direction, range, from)
    }

    fn add(
        &mut self,
        operation: &Operation,
        number: u8,
        direction: Direction,
        range: RangeChoice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let range = range.resolve()?;
        check_len(operation, number, range.len())?;
        range.wire().map_err(|_| bad_address(&range))?;
        let cell = match from {
            Some((cell, word)) => Some((self.cell(cell, Access::Read)?, word)),
            None => None,
        };
        let quiet = direction == Direction::Cell;
        let known = Known { range, access: access_of(direction), quiet };
        self.give(operation, number)?;
        self.parts.operands.push(Part { number, known, cell });
        Ok(())
    }

    fn give(&mut self, operation: &Operation, number: u8) -> Result<(), LocalError> {
        let bit = 1u32.checked_shl(u32::from(number)).unwrap_or(0);
        if self.given & bit != 0 {
            let name = operation.operands.get(usize::from(number)).map_or("?", |spec| spec.name.as_str());
            let what = format!("operand {name:?}");
            return Err(LocalError::GivenTwice { op: operation.name.clone(), what });
        }
        let count = self.parts.operands.len() + usize::from(self.parts.result.is_some()) + 1;
        at_most("operands of an entry", count, limits::JOB_OPERANDS)?;
        self.given |= bit;
        Ok(())
    }

    fn try_result(&mut self) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let number = lookup::result(operation)?;
        self.give(operation, number)?;
        self.parts.result = Some(number);
        Ok(())
    }

    fn try_result_in(&mut self, cell: CellRef<'_>) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let number = lookup::result(operation)?;
        let range = self.cell(cell, Access::Write)?;
        self.give(operation, number)?;
        let known = Known { range, access: Access::Write, quiet: true };
        self.parts.operands.push(Part { number, known, cell: None });
        Ok(())
    }

    /// Where a cell is, as entries name it.
    fn cell(&self, cell: CellRef<'_>, access: Access) -> Result<AddressRange, LocalError> {
        let start = cell.offset()?;
        let range = start..start + result_cell::LEN as u64;
        let buffer = cell.cells.buffer();
        self.queue.shared().address_of(buffer.shared(), &range, access).ok_or_else(|| LocalError::NotBound {
            address: buffer.address() + start,
            len: result_cell::LEN as u64,
            nearest: None,
        })
    }

    fn try_param(&mut self, param: ParamChoice<'_>, value: ParamValue<'_>) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let key = lookup::param(operation, param)?;
        let value = match lookup::value(operation, key, value)? {
            Given::Number(number) => {
                check_number(operation, key, number)?;
                Value::Number(number)
            }
            Given::Bytes(bytes) => {
                let kind = operation.params.get(usize::from(key.0)).map(|param| &param.kind);
                let most = match kind {
                    Some(ParamKind::Bytes { max_len, .. }) => *max_len,
                    _ => 0,
                };
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if len > most {
                    let why = format!("{} bytes, {most} are the most", bytes.len());
                    return Err(lookup::bad_value(operation, key, why));
                }
                let from = self.parts.bytes.len();
                self.parts.bytes.extend_from_slice(bytes);
                Value::Bytes(from, len)
            }
        };
        self.push_param(operation, key, value)
    }

    fn try_param_from(
        &mut self,
        param: ParamChoice<'_>,
        cell: CellRef<'_>,
        word: CellWord,
        max: u64,
    ) -> Result<(), LocalError> {
        let Some(operation) = self.operation else { return Ok(()) };
        let key = lookup::param(operation, param)?;
        let range = self.cell(cell, Access::Read)?;
        self.push_param(operation, key, Value::Cell(range, word, max))
    }

    fn push_param(&mut self, operation: &Operation, key: ParamKey, value: Value) -> Result<(), LocalError> {
        at_most("parameters of an entry", self.parts.params.len() + 1, limits::JOB_PARAMS)?;
        if self.parts.params.iter().any(|(number, _)| *number == key.0) {
            let name = operation.params.get(usize::from(key.0)).map_or("?", |param| param.name.as_str());
            let what = format!("parameter {name:?}");
            return Err(LocalError::GivenTwice { op: operation.name.clone(), what });
        }
        self.parts.params.push((key.0, value));
        Ok(())
    }
}

/// Whether everything is there that has to be.
fn check_complete(operation: &Operation, given: u32, parts: &Parts) -> Result<(), LocalError> {
    let missing = |what: String| LocalError::Missing { op: operation.name.clone(), what };
    let mut operands = (0u8..).zip(&operation.operands);
    if let Some((_, spec)) = operands.find(|(number, spec)| spec.required && given >> number & 1 == 0) {
        return Err(missing(format!("operand {:?}", spec.name)));
    }
    for (number, spec) in (0u16..).zip(&operation.params) {
        let needed = match &spec.kind {
            ParamKind::Number { default, .. } => default.is_none(),
            ParamKind::Choice { default, .. } => default.is_none(),
            ParamKind::Bytes { required, .. } => *required,
        };
        let key = ParamKey(number);
        if needed && !parts.params.iter().any(|(given, _)| *given == key.0) {
            return Err(missing(format!("parameter {:?}", spec.name)));
        }
    }
    Ok(())
}
