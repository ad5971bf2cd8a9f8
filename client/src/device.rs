//! Devices as a client sees them: a description, and names that are resolved against it once.
//!
//! For a few jobs the names themselves will do. On a hot path an [`Op`], [`OperandKey`]s and [`ParamKey`]s are resolved
//! before, and no text is compared per job.

use std::sync::Arc;

use vgem_proto::describe::{Description, Operation, ParamKind};
use vgem_proto::ids::DeviceId;

use crate::core::Core;
use crate::error::{LocalError, Result};
use crate::options::QueueOptions;
use crate::queue::Queue;

/// A device's number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName {
    /// The broker's number for it.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
}

/// A device of the broker. Clones share it.
#[derive(Debug, Clone)]
pub struct Device {
    core: Arc<Core>,
    shared: Arc<DeviceShared>,
}

#[derive(Debug)]
pub(crate) struct DeviceShared {
    pub(crate) id: DeviceId,
    pub(crate) name: Arc<str>,
    pub(crate) description: Description,
}

impl DeviceShared {
    pub(crate) fn new(id: DeviceId, description: Description) -> Self {
        Self { id, name: description.name.as_str().into(), description }
    }

    /// Place of the operation of this name in the description.
    pub(crate) fn place(&self, name: &str) -> Result<usize, LocalError> {
        let operations = &self.description.operations;
        operations.iter().position(|operation| operation.name == name).ok_or_else(|| {
            LocalError::NoSuchOperation {
                device: self.name.to_string(),
                name: name.to_owned(),
                known: operations.iter().map(|operation| operation.name.clone()).collect(),
            }
        })
    }
}

impl Device {
    pub(crate) fn new(core: Arc<Core>, shared: Arc<DeviceShared>) -> Self {
        Self { core, shared }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The broker's number for it.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.shared.id
    }

    /// What it can do.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.shared.description
    }

    /// One of its operations, resolved once.
    ///
    /// # Errors
    /// [`LocalError::NoSuchOperation`] with those it has.
    pub fn op(&self, name: &str) -> Result<Op> {
        let place = self.shared.place(name)?;
        Ok(Op { device: Arc::clone(&self.shared), place })
    }

    /// Opens a queue for `depth` jobs in flight; 0 is 256, 1024 is the most. The first queue of a device waits until
    /// the device's driver is up.
    ///
    /// A batch that finds no room is refused: its fences fail with `Refused`, and so do those of whatever was sent after
    /// it before that was known. So keep to the depth, and do not submit a job before the one `depth` jobs ago has ended.
    ///
    /// # Errors
    /// [`crate::Error::Refused`]: `Unavailable` if the driver does not start, `Exhausted` over quota; as every request.
    pub fn queue(&self, depth: u32) -> Result<Queue> {
        self.queue_with(QueueOptions::new().depth(depth))
    }

    /// As [`Device::queue`], with options.
    ///
    /// # Errors
    /// As there; [`crate::Error::Refused`] with `OutOfRange` for a priority above 7.
    pub fn queue_with(&self, options: QueueOptions) -> Result<Queue> {
        let reply = self.core.call(options.request(self.shared.id))?;
        Ok(Queue::new(self.core.opened(&self.shared, options.asked_depth(), reply)?))
    }

    pub(crate) fn parts(&self) -> (&Arc<Core>, &Arc<DeviceShared>) {
        (&self.core, &self.shared)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn shared(&self) -> &Arc<DeviceShared> {
        &self.shared
    }
}

/// An operation of a device, resolved.
#[derive(Debug, Clone)]
pub struct Op {
    pub(crate) device: Arc<DeviceShared>,
    pub(crate) place: usize,
}

impl Op {
    /// Its entry in the device's description.
    ///
    /// # Panics
    /// Never: the place was found in this very description, which does not change.
    #[must_use]
    pub fn operation(&self) -> &Operation {
        self.device.description.operations.get(self.place).expect("the place was found in this description")
    }

    /// The operand of this name.
    ///
    /// # Errors
    /// [`LocalError::NoSuchOperand`] with those it has.
    pub fn operand(&self, name: &str) -> Result<OperandKey> {
        Ok(operand_key(self.operation(), name)?)
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// [`LocalError::NoSuchParam`] with those it has.
    pub fn param(&self, name: &str) -> Result<ParamKey> {
        Ok(param_key(self.operation(), name)?)
    }

    /// The number that stands for `word` of the choice `param`.
    ///
    /// # Errors
    /// [`LocalError::NoSuchParam`]; [`LocalError::BadValue`] with the words there are.
    pub fn word(&self, param: &str, word: &str) -> Result<u64> {
        let key = param_key(self.operation(), param)?;
        Ok(word_number(self.operation(), key, word)?)
    }
}

/// A resolved operand of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OperandKey(pub(crate) u8);

/// A resolved parameter of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamKey(pub(crate) u16);

/// How a job names its operation: by name, or resolved before.
#[derive(Debug, Clone, Copy)]
pub enum OpChoice<'a> {
    /// By name: looked up in the description of the queue's device.
    Name(&'a str),
    /// Resolved.
    Op(&'a Op),
}

impl<'a> From<&'a str> for OpChoice<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for OpChoice<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a Op> for OpChoice<'a> {
    fn from(op: &'a Op) -> Self {
        Self::Op(op)
    }
}

pub(crate) fn operand_key(operation: &Operation, name: &str) -> Result<OperandKey, LocalError> {
    operation
        .operand_index(name)
        .map(OperandKey)
        .ok_or_else(|| no_operand(operation, format!("operand {name:?}")))
}

pub(crate) fn no_operand(operation: &Operation, asked: String) -> LocalError {
    let known = operation.operands.iter().map(|operand| operand.name.clone()).collect();
    LocalError::NoSuchOperand { op: operation.name.clone(), asked, known }
}

pub(crate) fn param_key(operation: &Operation, name: &str) -> Result<ParamKey, LocalError> {
    operation.param_index(name).map(ParamKey).ok_or_else(|| LocalError::NoSuchParam {
        op: operation.name.clone(),
        name: name.to_owned(),
        known: operation.params.iter().map(|param| param.name.clone()).collect(),
    })
}

/// The number on the wire of a word of a choice.
pub(crate) fn word_number(operation: &Operation, key: ParamKey, word: &str) -> Result<u64, LocalError> {
    let bad = |name: &str, why: String| LocalError::BadValue {
        op: operation.name.clone(),
        name: name.to_owned(),
        why,
    };
    match operation.params.get(usize::from(key.0)) {
        None => Err(bad("?", format!("{} has no parameter {}", operation.name, key.0))),
        Some(param) => match &param.kind {
            ParamKind::Choice { words, .. } => {
                let place = words.iter().position(|known| known == word);
                place
                    .map(|place| place as u64)
                    .ok_or_else(|| bad(&param.name, format!("{word:?} is none of {}", words.join(", "))))
            }
            ParamKind::Number { .. } => Err(bad(&param.name, format!("{word:?} is text, not a number"))),
            ParamKind::Bytes { .. } => {
                Err(bad(&param.name, format!("{word:?} is text, bytes are asked for")))
            }
        },
    }
}
