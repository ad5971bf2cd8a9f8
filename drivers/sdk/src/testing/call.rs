//! One job, called as an executor calls it.

use vgem_os::mapping::{Span, SpanMut};
use vgem_proto::describe::Touch;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;

use crate::engine::{Engine, JobError, OperandBytes, ParamValue, Produced, Task, TaskOperand};

/// Who else may write the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Processes of the job's own domain.
    OwnDomain,
    /// Processes of another domain: the operands are foreign.
    OtherDomain,
}

impl Peer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OwnDomain, Self::OtherDomain];
}

/// Runs one job with operands by number. `params` has one entry per parameter of the operation.
///
/// # Errors
/// What the engine fails with.
///
/// # Panics
/// If the engine does not describe the operation.
pub fn run(
    engine: &impl Engine,
    peer: Peer,
    op: u16,
    params: &[ParamValue<'_>],
    operands: &[(u8, OperandBytes<'_>)],
) -> Result<Produced, JobError> {
    let description = engine.description();
    let operation = description.by_number(op).expect("the operation is described");
    let touch: Vec<Touch> = operation.operands.iter().map(|o| o.touch).collect();
    let foreign = peer == Peer::OtherDomain;
    let object = ObjectKey { index: 1, generation: 1 };
    let operands: Vec<_> = operands
        .iter()
        .map(|(number, bytes)| TaskOperand { number: *number, bytes: *bytes, object, offset: 0, foreign })
        .collect();
    let mut task = Task::for_test(op, &operands, params, &touch);
    engine.run(&mut task).map(|()| task.produced())
}

/// An operand to read, in private memory.
#[must_use]
pub fn read(bytes: &[u8]) -> OperandBytes<'_> {
    OperandBytes::Read(Span::of_slice(bytes))
}

/// An operand to write, in private memory.
#[must_use]
pub fn write(bytes: &mut [u8]) -> OperandBytes<'_> {
    OperandBytes::Write(SpanMut::of_slice(bytes))
}

/// The code a job failed with.
///
/// # Panics
/// If it did not fail.
pub fn code<T: std::fmt::Debug>(result: Result<T, JobError>) -> ErrorCode {
    result.expect_err("the job was to fail").code
}
