//! A call: an operation with its operands and parameters, whoever carries it out.
//!
//! A [`Job`] belongs to a batch, an [`EntryDraft`] to a user queue. Who has not decided yet writes down a call, by the same
//! names, and makes one of the two of it, or both one after the other. What the description says is checked once
//! ([`Call::check`]), and is the same mistake whichever way the call goes.
//!
//! What it is not: work that is ordered or submitted. It names memory and keeps none of it.

use std::sync::Arc;

use vgem_proto::describe::{Direction, Operation, ParamKind};
use vgem_proto::limits;

use crate::batch::{Batch, at_most};
use crate::buffer::Slice;
use crate::choice::{OperandChoice, ParamChoice, ParamValue};
use crate::deadline::Deadline;
use crate::device::{Device, DeviceShared, OpChoice, OperandKey, ParamKey};
use crate::error::{LocalError, Result};
use crate::job::Job;
use crate::lookup::{self, Given};
use crate::queue::Queue;
use crate::user_queue::{AddressRange, EntryDraft, Lent, UserQueue, prepared};

/// An operation of a device, with what it is given: slices of buffers ([`Device::call`]), or plain memory of this process
/// ([`Device::plain_call`]).
#[derive(Debug, Clone)]
#[must_use]
pub struct Call<M> {
    device: Arc<DeviceShared>,
    place: Option<usize>,
    operands: Vec<CallOperand<M>>,
    params: Vec<(ParamKey, CallParam)>,
    mistake: Option<LocalError>,
}

/// An operand of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallOperand<M> {
    /// Its place in the operation's list.
    pub number: u8,
    /// Which way its bytes go.
    pub direction: Direction,
    /// The bytes.
    pub memory: M,
}

/// Plain memory of this process, as a call names it.
#[derive(Debug)]
pub enum Plain<'a> {
    /// To be read.
    Read(&'a [u8]),
    /// To be written, or read.
    Write(&'a mut [u8]),
    /// The same, in a vector: it can be lent to a device, which a slice cannot.
    Vec(&'a mut Vec<u8>),
}

/// What a call over plain memory has lent to a queue ([`Call::lend`]), one for each operand.
#[derive(Debug)]
#[must_use = "what was lent is freed with the queue unless it is asked back"]
pub struct LentCall(Vec<Option<Lent>>);

/// What a call can name.
pub trait CallMemory: sealed::Memory {}

impl CallMemory for Slice<'_> {}
impl CallMemory for Plain<'_> {}

/// The value of a parameter of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallParam {
    /// A number, or the place of a word.
    Number(u64),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Device {
    /// Begins to write down a call: an operation by name, or resolved before.
    pub fn call<'a, 'o>(&self, op: impl Into<OpChoice<'o>>) -> Call<Slice<'a>> {
        self.begun(op.into())
    }

    /// As [`Device::call`], over plain memory of this process: for whoever can reach that. No job can.
    pub fn plain_call<'a, 'o>(&self, op: impl Into<OpChoice<'o>>) -> Call<Plain<'a>> {
        self.begun(op.into())
    }

    fn begun<M>(&self, op: OpChoice<'_>) -> Call<M> {
        let (_, device) = self.parts();
        let (place, mistake) = match lookup::place(device, op) {
            Ok(place) => (Some(place), None),
            Err(mistake) => (None, Some(mistake)),
        };
        Call { device: Arc::clone(device), place, operands: Vec::new(), params: Vec::new(), mistake }
    }
}

impl<M: CallMemory> Call<M> {
    /// The next operand that is read.
    pub fn input(self, memory: impl Into<M>) -> Self {
        self.next(Direction::In, memory.into())
    }

    /// The next operand that is written; what was in it does not matter.
    pub fn output(self, memory: impl Into<M>) -> Self {
        self.next(Direction::Out, memory.into())
    }

    /// The next operand that is read and written, or written in part.
    pub fn inout(self, memory: impl Into<M>) -> Self {
        self.next(Direction::InOut, memory.into())
    }

    /// An operand by name.
    pub fn operand<'o>(self, operand: impl Into<OperandChoice<'o>>, memory: impl Into<M>) -> Self {
        let (choice, memory) = (operand.into(), memory.into());
        self.with(|call, operation| {
            let (number, direction) = lookup::operand(operation, choice)?;
            call.add(operation, number, direction, memory)
        })
    }

    /// A parameter.
    pub fn param<'p, 'v>(self, param: impl Into<ParamChoice<'p>>, value: impl Into<ParamValue<'v>>) -> Self {
        let (choice, value) = (param.into(), value.into());
        self.with(|call, operation| call.set(operation, choice, value))
    }

    /// The name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device.name
    }

    /// Its operation, if the device has it.
    #[must_use]
    pub fn operation(&self) -> Option<&Operation> {
        self.device.description.operations.get(self.place?)
    }

    /// What it is given, in the order in which it was.
    #[must_use]
    pub fn operands(&self) -> &[CallOperand<M>] {
        &self.operands
    }

    /// The same, to keep them.
    #[must_use]
    pub fn into_operands(self) -> Vec<CallOperand<M>> {
        self.operands
    }

    /// The value of the parameter at this place of the operation's list, if it was given.
    #[must_use]
    pub fn value(&self, param: u16) -> Option<&CallParam> {
        self.params.iter().find(|(key, _)| key.0 == param).map(|(_, value)| value)
    }

    /// Whether the device takes it, as far as its description says, and every slice is inside its buffer.
    ///
    /// # Errors
    /// The first mistake: [`LocalError::NoSuchOperation`], [`LocalError::NoSuchOperand`], [`LocalError::NoSuchParam`],
    /// [`LocalError::Missing`], [`LocalError::GivenTwice`], [`LocalError::BadValue`], [`LocalError::OperandLen`],
    /// [`LocalError::OutOfRange`], [`LocalError::ReadOnly`], [`LocalError::TooMany`].
    pub fn check(&self) -> Result<&Operation, LocalError> {
        if let Some(mistake) = &self.mistake {
            return Err(mistake.clone());
        }
        let operation = self.operation().expect("an operation that is missing is a mistake");
        let missing = |what: String| LocalError::Missing { op: operation.name.clone(), what };
        let given = |number| self.operands.iter().any(|operand| operand.number == number);
        let mut operands = (0u8..).zip(&operation.operands);
        if let Some((_, spec)) = operands.find(|(number, spec)| spec.required && !given(*number)) {
            return Err(missing(format!("operand {:?}", spec.name)));
        }
        let is_needed = |kind: &ParamKind| match kind {
            ParamKind::Number { default, .. } => default.is_none(),
            ParamKind::Choice { default, .. } => default.is_none(),
            ParamKind::Bytes { required, .. } => *required,
        };
        let mut params = (0u16..).zip(&operation.params);
        let absent = params.find(|(number, spec)| is_needed(&spec.kind) && self.value(*number).is_none());
        match absent {
            Some((_, spec)) => Err(missing(format!("parameter {:?}", spec.name))),
            None => Ok(operation),
        }
    }

    fn next(self, direction: Direction, memory: M) -> Self {
        self.with(|call, operation| {
            let given = call.operands.iter().fold(0u32, |bits, operand| bits | bit(operand.number));
            let number = lookup::next_operand(operation, direction, given)?;
            call.add(operation, number, direction, memory)
        })
    }

    /// Keeps the first mistake.
    fn with(mut self, change: impl FnOnce(&mut Self, &Operation) -> Result<(), LocalError>) -> Self {
        let device = Arc::clone(&self.device);
        let operation = self.place.and_then(|place| device.description.operations.get(place));
        if let Some(operation) = operation
            && let Err(mistake) = change(&mut self, operation)
        {
            self.mistake.get_or_insert(mistake);
        }
        self
    }

    fn add(
        &mut self,
        operation: &Operation,
        number: u8,
        direction: Direction,
        memory: M,
    ) -> Result<(), LocalError> {
        let name = || operand_name(operation, number);
        let len = memory.check(direction, || (operation.name.clone(), name()))?;
        prepared::check_len(operation, number, len)?;
        if self.operands.iter().any(|operand| operand.number == number) {
            return Err(given_twice(operation, format!("operand {:?}", name())));
        }
        at_most("operands of a call", self.operands.len() + 1, limits::JOB_OPERANDS)?;
        self.operands.push(CallOperand { number, direction, memory });
        Ok(())
    }

    fn set(
        &mut self,
        operation: &Operation,
        choice: ParamChoice<'_>,
        value: ParamValue<'_>,
    ) -> Result<(), LocalError> {
        let key = lookup::param(operation, choice)?;
        let value = match lookup::value(operation, key, value)? {
            Given::Number(number) => {
                prepared::check_number(operation, key, number)?;
                CallParam::Number(number)
            }
            Given::Bytes(bytes) => {
                let spec = operation.params.get(usize::from(key.0));
                if let Some(ParamKind::Bytes { max_len, .. }) = spec.map(|param| &param.kind)
                    && bytes.len() > *max_len as usize
                {
                    let why = format!("{} bytes, {max_len} are the most", bytes.len());
                    return Err(lookup::bad_value(operation, key, why));
                }
                CallParam::Bytes(bytes.to_vec())
            }
        };
        if self.value(key.0).is_some() {
            let name = operation.params.get(usize::from(key.0)).map_or("?", |spec| spec.name.as_str());
            return Err(given_twice(operation, format!("parameter {name:?}")));
        }
        self.params.push((key, value));
        Ok(())
    }
}

impl Call<Slice<'_>> {
    /// As a job of a batch. Its mistakes are the batch's.
    pub fn job<'b>(&self, batch: &'b mut Batch, queue: &Queue) -> Job<'b> {
        let name = self.operation().map_or("", |operation| operation.name.as_str());
        let mut job = batch.job(queue, name);
        for operand in &self.operands {
            job = job.operand(OperandKey(operand.number), operand.memory);
        }
        for (key, value) in &self.params {
            job = job.param(*key, value.as_given());
        }
        job
    }

    /// As an entry of a user queue, its operands at their addresses in this process. Its mistakes are the entry's.
    pub fn entry<'q>(&self, queue: &'q UserQueue) -> EntryDraft<'q> {
        let name = self.operation().map_or("", |operation| operation.name.as_str());
        let mut entry = queue.entry(name);
        for operand in &self.operands {
            entry = entry.operand(OperandKey(operand.number), operand.memory);
        }
        for (key, value) in &self.params {
            entry = entry.param(*key, value.as_given());
        }
        entry
    }
}

impl Call<Plain<'_>> {
    /// Lends the vectors that the call writes to a queue with [`crate::Sva::ReadWrite`]; until they are asked back they are
    /// empty.
    ///
    /// # Errors
    /// As [`UserQueue::lend`], and nothing is lent then; [`LocalError::NotLent`] for a slice that is written: it cannot be.
    pub fn lend(&mut self, queue: &UserQueue) -> Result<LentCall> {
        let mut lent = LentCall(Vec::with_capacity(self.operands.len()));
        for at in 0..self.operands.len() {
            match self.lend_one(at, queue) {
                Ok(one) => lent.0.push(one),
                Err(error) => {
                    // Nothing is under way there, so that this does not wait.
                    return Err(self.reclaim(queue, lent, Deadline::NOW).err().unwrap_or(error));
                }
            }
        }
        Ok(lent)
    }

    fn lend_one(&mut self, at: usize, queue: &UserQueue) -> Result<Option<Lent>> {
        let Some(operand) = self.operands.get_mut(at) else { return Ok(None) };
        if operand.direction == Direction::In || operand.memory.is_empty() {
            return Ok(None);
        }
        let range = operand.memory.address();
        let Plain::Vec(vector) = &mut operand.memory else {
            return Err(LocalError::NotLent { address: range.address(), len: range.len() }.into());
        };
        match queue.lend(std::mem::take(*vector)) {
            Ok(lent) => Ok(Some(lent)),
            Err(failed) => {
                **vector = failed.memory.unwrap_or_default();
                Err(failed.error)
            }
        }
    }

    /// As an entry of a queue that reaches plain memory, which has been lent what is written. Its mistakes are the entry's.
    pub fn entry<'q>(&self, queue: &'q UserQueue, lent: &LentCall) -> EntryDraft<'q> {
        let name = self.operation().map_or("", |operation| operation.name.as_str());
        let mut entry = queue.entry(name);
        for (operand, lent) in self.operands.iter().zip(&lent.0) {
            let range = lent.as_ref().map_or_else(|| operand.memory.address(), AddressRange::from);
            entry = entry.operand(OperandKey(operand.number), range);
        }
        for (key, value) in &self.params {
            entry = entry.param(*key, value.as_given());
        }
        entry
    }

    /// Takes back what was lent; waits for entries that are written there.
    ///
    /// # Errors
    /// As [`UserQueue::reclaim`], the first, after all were tried: the vector stays empty, and its memory with the queue.
    pub fn reclaim(
        &mut self,
        queue: &UserQueue,
        lent: LentCall,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        let (mut first, deadline) = (Ok(()), deadline.into());
        for (operand, lent) in self.operands.iter_mut().zip(lent.0) {
            let (Plain::Vec(vector), Some(lent)) = (&mut operand.memory, lent) else { continue };
            match queue.reclaim(lent, deadline) {
                Ok(memory) => **vector = memory,
                Err(failed) => first = first.and(Err(failed.error)),
            }
        }
        first
    }
}

impl CallParam {
    fn as_given(&self) -> ParamValue<'_> {
        match self {
            Self::Number(number) => ParamValue::Number(*number),
            Self::Bytes(bytes) => ParamValue::Bytes(bytes),
        }
    }
}

fn bit(number: u8) -> u32 {
    1u32.checked_shl(u32::from(number)).unwrap_or(0)
}

fn given_twice(operation: &Operation, what: String) -> LocalError {
    LocalError::GivenTwice { op: operation.name.clone(), what }
}

fn operand_name(operation: &Operation, number: u8) -> String {
    operation.operands.get(usize::from(number)).map_or_else(|| "?".to_owned(), |spec| spec.name.clone())
}

impl<'a> From<&'a [u8]> for Plain<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Read(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Plain<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Read(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Plain<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::Write(bytes)
    }
}

impl<'a> From<&'a mut Vec<u8>> for Plain<'a> {
    fn from(bytes: &'a mut Vec<u8>) -> Self {
        Self::Vec(bytes)
    }
}

impl Plain<'_> {
    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::Write(bytes) => bytes.len(),
            Self::Vec(bytes) => bytes.len(),
        }
    }

    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it is.
    fn address(&self) -> AddressRange {
        let first = match self {
            Self::Read(bytes) => bytes.as_ptr(),
            Self::Write(bytes) => bytes.as_ptr(),
            Self::Vec(bytes) => bytes.as_ptr(),
        };
        AddressRange::at(first, self.len() as u64)
    }
}

/// What a call needs of memory.
mod sealed {
    use vgem_proto::describe::Direction;

    use super::Plain;
    use crate::buffer::Slice;
    use crate::error::LocalError;

    pub trait Memory {
        /// Its length, if bytes may go this way; `whose` names operation and operand.
        fn check(
            &self,
            direction: Direction,
            whose: impl Fn() -> (String, String),
        ) -> Result<u64, LocalError>;
    }

    impl Memory for Slice<'_> {
        fn check(
            &self,
            direction: Direction,
            _whose: impl Fn() -> (String, String),
        ) -> Result<u64, LocalError> {
            self.range()?;
            if direction != Direction::In {
                self.buffer.shared().check_output()?;
            }
            Ok(self.len)
        }
    }

    impl Memory for Plain<'_> {
        fn check(
            &self,
            direction: Direction,
            whose: impl Fn() -> (String, String),
        ) -> Result<u64, LocalError> {
            match (self, direction) {
                (Self::Read(_), Direction::Out | Direction::InOut | Direction::Cell) => {
                    let (op, operand) = whose();
                    Err(LocalError::OnlyReadable { op, operand })
                }
                _ => Ok(self.len() as u64),
            }
        }
    }
}
