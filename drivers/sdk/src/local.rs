//! An engine in the process that wants its work done: no broker, no link, no queue.
//!
//! What it is: the last step of a job alone. Defaults are filled in, the engine runs on the calling thread, a panic is its
//! failure. What it is not: a check. Whoever calls has held operands and parameters against the description, and sees to
//! it that nobody changes the operands meanwhile, or says that they are foreign.

use vgem_proto::describe::{Description, Operation};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::TimelineKey;

use crate::engine::{Account, Engine, JobError, Limit, ParamValue, Produced, Task, TaskOperand};
use crate::execute::guarded;
use crate::operands::Operations;

/// An engine that runs where it is called.
pub struct Local {
    engine: Box<dyn Engine>,
    description: Description,
    operations: Operations,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("device", &self.description.name).finish_non_exhaustive()
    }
}

impl Local {
    /// This engine.
    #[must_use]
    pub fn new(engine: impl Engine) -> Self {
        let description = engine.description();
        Self { operations: Operations::new(&description), description, engine: Box::new(engine) }
    }

    /// The name of its device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.description.name
    }

    /// Whether it does an operation exactly as it is described here: number, operands, parameters.
    #[must_use]
    pub fn does(&self, operation: &Operation) -> bool {
        self.description.by_number(operation.number) == Some(operation)
    }

    /// Does one operation on the calling thread. `params` are those that were given, by number; others have their defaults.
    ///
    /// # Errors
    /// What the engine fails with, as a job would; [`ErrorCode::NoSuchOperation`]; [`ErrorCode::BadParameter`] for the
    /// number of a parameter that the operation does not have.
    pub fn run(
        &self,
        op: u16,
        operands: &[TaskOperand<'_>],
        params: &[(u16, ParamValue<'_>)],
    ) -> Result<Produced, JobError> {
        let no_operation = || JobError::new(ErrorCode::NoSuchOperation, format!("operation {op}"));
        let prepared = self.operations.by_number(op).ok_or_else(no_operation)?;
        let defaults = prepared.defaults.iter();
        let mut all: Vec<_> =
            defaults.map(|default| default.map_or(ParamValue::Absent, ParamValue::Number)).collect();
        for (number, value) in params {
            let count = all.len();
            let place = all.get_mut(usize::from(*number)).ok_or_else(|| {
                JobError::new(ErrorCode::BadParameter, format!("parameter {number} of {count}"))
            })?;
            *place = *value;
        }
        let queue = TimelineKey::default();
        let mut produced = Produced::default();
        let mut task = Task {
            op,
            queue,
            limit: Limit::none(),
            operands,
            params: &all,
            touch: &prepared.touch,
            produced: Account::Runner(&mut produced),
        };
        guarded(&*self.engine, &mut task)?;
        Ok(produced)
    }
}

#[cfg(test)]
mod tests {
    use vgem_os::mapping::SpanMut;
    use vgem_proto::describe::{Direction, Touch};
    use vgem_proto::ids::ObjectKey;

    use super::*;
    use crate::engine::OperandBytes;

    struct Add;

    impl Engine for Add {
        fn description(&self) -> Description {
            let add = Operation::new(4, "add", "adds to every byte")
                .operand("data", Direction::InOut, Touch::InPlace)
                .number("by", "how much", 0, 255, Some(3));
            Description::new("add", "a device that adds", 1).operation(add)
        }

        fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
            let by = u8::try_from(task.number(0)).expect("a byte");
            assert!(by < 100, "too much");
            task.output(0)?.fill(by);
            task.set_value(by.into());
            Ok(())
        }
    }

    fn added(params: &[(u16, ParamValue<'_>)]) -> (Result<Produced, JobError>, u8) {
        let mut data = [0; 8];
        let bytes = OperandBytes::Write(SpanMut::of_slice(&mut data));
        let operand =
            TaskOperand { number: 0, bytes, object: ObjectKey::default(), offset: 0, foreign: false };
        let done = Local::new(Add).run(4, &[operand], params);
        (done, data[7])
    }

    #[test]
    fn a_parameter_that_is_not_given_has_its_default() {
        let value = |(done, byte): (Result<Produced, JobError>, u8)| (done.expect("done").value, byte);
        assert_eq!(value(added(&[])), (3, 3));
        assert_eq!(value(added(&[(0, ParamValue::Number(9))])), (9, 9));
    }

    #[test]
    fn a_panic_is_the_engines_failure_and_a_parameter_beyond_the_list_is_refused() {
        let code = |params: &[_]| added(params).0.expect_err("it was to fail").code;
        assert_eq!(code(&[(0, ParamValue::Number(200))]), ErrorCode::DriverFault);
        assert_eq!(code(&[(1, ParamValue::Number(1))]), ErrorCode::BadParameter);
    }

    #[test]
    fn an_operation_that_is_described_otherwise_is_not_done() {
        let local = Local::new(Add);
        let described = Add.description();
        let same = described.by_name("add").expect("it adds");
        assert!(local.does(same) && !local.does(&same.clone().number("more", "", 0, 1, None)));
    }
}
