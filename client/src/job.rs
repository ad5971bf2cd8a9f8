//! One job of a batch, as it is written down.
//!
//! Operands are given in the order of the description, by direction ([`Job::input`] is the next operand that is read), or
//! by name. Nothing here fails at once: [`Batch::submit`] reports the first mistake.

use std::sync::Arc;
use std::time::Duration;

use vgem_proto::codec::Zero;
use vgem_proto::describe::{Direction, Operation};
use vgem_proto::ids::{Handle, Point, Time, TimelineHandle};
use vgem_proto::jobs::{
    ClientJob, ClientOperand, ClientParam, JOB_EXPLICIT, JOB_RUN_ANYWAY, OPERAND_DISCARD, OPERAND_INDIRECT,
    Operand, Param, ParamSource, WAIT_FOR_SUBMIT, WAIT_UNTIL, Wait,
};
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::rights::{Access, WaitKind};

use crate::batch::{Batch, JobRef, Touch, at_most};
use crate::buffer::{BufferShared, Slice};
use crate::cell::{CellRef, CellWord};
use crate::choice::{OperandChoice, ParamChoice, ParamValue, WaitOn};
use crate::deadline::{Deadline, nanoseconds};
use crate::device::{DeviceShared, ParamKey};
use crate::error::{LocalError, Result};
use crate::ledger::Usage;
use crate::lookup::{self, Given};
use crate::timeline::TimelinePoint;
use crate::user_queue::{self, UserQueue};
use crate::waitable::Waitable;

/// A job that is being written down; it belongs to its batch already.
#[derive(Debug)]
pub struct Job<'b> {
    batch: &'b mut Batch,
    device: Arc<DeviceShared>,
    /// Place of the operation; nothing if the name was wrong, which the batch knows by now.
    place: Option<usize>,
    /// Operands that were given, one bit each.
    given: u32,
}

impl<'b> Job<'b> {
    pub(crate) fn new(batch: &'b mut Batch, device: Arc<DeviceShared>, place: Option<usize>) -> Self {
        Self { batch, device, place, given: 0 }
    }

    /// Its place in the batch, to wait for it or to find its fence.
    #[must_use]
    pub fn id(&self) -> JobRef {
        JobRef(self.batch.len() - 1)
    }

    /// The next operand that is read.
    pub fn input<'s>(self, slice: impl Into<Slice<'s>>) -> Self {
        self.next(Direction::In, slice.into(), None)
    }

    /// The next operand that is written; what was in it does not matter.
    pub fn output<'s>(self, slice: impl Into<Slice<'s>>) -> Self {
        self.next(Direction::Out, slice.into(), None)
    }

    /// The next operand that is read and written, or written in part.
    pub fn inout<'s>(self, slice: impl Into<Slice<'s>>) -> Self {
        self.next(Direction::InOut, slice.into(), None)
    }

    /// The next operand that is read; its length comes from a cell that an earlier job writes, and is at most the slice's.
    pub fn input_from<'s>(self, slice: impl Into<Slice<'s>>, cell: CellRef<'_>, word: CellWord) -> Self {
        self.next(Direction::In, slice.into(), Some((cell, word)))
    }

    /// An operand by name.
    pub fn operand<'o, 's>(self, operand: impl Into<OperandChoice<'o>>, slice: impl Into<Slice<'s>>) -> Self {
        self.chosen(operand.into(), slice.into(), None)
    }

    /// An operand by name whose length comes from a cell, and is at most the slice's.
    pub fn operand_from<'o, 's>(
        self,
        operand: impl Into<OperandChoice<'o>>,
        slice: impl Into<Slice<'s>>,
        cell: CellRef<'_>,
        word: CellWord,
    ) -> Self {
        self.chosen(operand.into(), slice.into(), Some((cell, word)))
    }

    /// Where the job leaves its results.
    pub fn result(mut self, cell: CellRef<'_>) -> Self {
        let result = self.try_result(cell);
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

    /// A parameter whose value comes from a cell that an earlier job writes, and is at most `max`.
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

    /// Waits for another job, and fails with it.
    pub fn after<'w>(mut self, on: impl Into<WaitOn<'w>>) -> Self {
        let result = self.try_wait(on.into(), WaitKind::Data);
        self.keep(result)
    }

    /// Waits for another job, however it ends.
    pub fn behind<'w>(mut self, on: impl Into<WaitOn<'w>>) -> Self {
        let result = self.try_wait(on.into(), WaitKind::Order);
        self.keep(result)
    }

    /// Waits for an entry of a user queue and for all before it, and fails with the entry; or with `TimedOut`, if it has not
    /// ended by the deadline. The entry may be pushed later. No deadline may be farther away than the broker allows, 60
    /// seconds unless configured.
    pub fn after_entry(mut self, queue: &UserQueue, point: Point, deadline: impl Into<Deadline>) -> Self {
        let result = self.try_entry(queue.shared(), point, deadline.into());
        self.keep(result)
    }

    /// Waits for nothing but what it is told to: the buffers' own order is not kept for it.
    pub fn explicit(mut self) -> Self {
        self.wire().flags |= JOB_EXPLICIT;
        let id = self.id().0;
        for touch in self.batch.touches.iter_mut().filter(|touch| touch.job == id) {
            if let Some((_, _, usage)) = &mut touch.entry {
                *usage = unordered(*usage);
            }
        }
        self
    }

    /// Runs even if what it waits for has failed.
    pub fn run_anyway(mut self) -> Self {
        self.wire().flags |= JOB_RUN_ANYWAY;
        self
    }

    /// Fails with `TimedOut` if it runs longer than this once it is ready.
    pub fn timeout(mut self, run: Duration) -> Self {
        self.wire().run_ns = nanoseconds(run).max(1);
        self
    }

    fn next(mut self, direction: Direction, slice: Slice<'_>, from: Option<(CellRef<'_>, CellWord)>) -> Self {
        let result = self.try_next(direction, slice, from);
        self.keep(result)
    }

    fn chosen(
        mut self,
        operand: OperandChoice<'_>,
        slice: Slice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Self {
        let result = self.try_operand(operand, slice, from);
        self.keep(result)
    }

    fn keep(self, result: Result<(), LocalError>) -> Self {
        if let Err(mistake) = result {
            self.batch.mistaken(mistake);
        }
        self
    }

    fn wire(&mut self) -> &mut ClientJob {
        self.batch.message.jobs.last_mut().expect("a job being written down is the last of its batch")
    }

    fn try_next(
        &mut self,
        direction: Direction,
        slice: Slice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let Some(device) = self.device() else { return Ok(()) };
        let Some(operation) = operation(&device, self.place) else { return Ok(()) };
        let number = lookup::next_operand(operation, direction, self.given)?;
        self.add(number, direction, slice, from)
    }

    fn try_operand(
        &mut self,
        operand: OperandChoice<'_>,
        slice: Slice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let Some(device) = self.device() else { return Ok(()) };
        let Some(operation) = operation(&device, self.place) else { return Ok(()) };
        let (number, direction) = lookup::operand(operation, operand)?;
        self.add(number, direction, slice, from)
    }

    fn add(
        &mut self,
        number: u8,
        direction: Direction,
        slice: Slice<'_>,
        from: Option<(CellRef<'_>, CellWord)>,
    ) -> Result<(), LocalError> {
        let range = slice.range()?;
        let usage = match direction {
            Direction::In => Usage::Read,
            Direction::Out | Direction::InOut | Direction::Cell => Usage::Write,
        };
        let explicit = self.wire().flags & JOB_EXPLICIT != 0;
        let usage = if explicit { unordered(usage) } else { usage };
        if direction != Direction::In {
            slice.buffer.shared().check_output()?;
        }
        let entry = Some((range.start, slice.len, usage));
        self.touch(slice.buffer.shared(), entry)?;
        let (cell_object, cell_offset, cell_word) = match from {
            Some((cell, word)) => self.cell(cell, word)?,
            None => (Handle(0), 0, 0),
        };
        let (access, discard) = match direction {
            Direction::In => (Access::Read, 0),
            Direction::InOut => (Access::Write, 0),
            Direction::Out | Direction::Cell => (Access::Write, OPERAND_DISCARD),
        };
        self.push(Operand {
            object: slice.buffer.handle(),
            offset: range.start,
            len: slice.len,
            cell_object,
            cell_offset,
            number,
            cell_word,
            access,
            flags: discard | if from.is_some() { OPERAND_INDIRECT } else { 0 },
            reserved: Zero,
        })
    }

    fn try_result(&mut self, cell: CellRef<'_>) -> Result<(), LocalError> {
        let Some(device) = self.device() else { return Ok(()) };
        let Some(operation) = operation(&device, self.place) else { return Ok(()) };
        let number = lookup::result(operation)?;
        let offset = cell.offset()?;
        cell.cells.buffer().shared().check_output()?;
        self.touch(cell.cells.buffer().shared(), None)?;
        self.push(Operand {
            object: cell.cells.buffer().handle(),
            offset,
            len: result_cell::LEN as u64,
            cell_object: Handle(0),
            cell_offset: 0,
            number,
            cell_word: 0,
            access: Access::Write,
            flags: OPERAND_DISCARD,
            reserved: Zero,
        })
    }

    fn push(&mut self, operand: ClientOperand) -> Result<(), LocalError> {
        at_most("operands of a job", usize::from(self.wire().operands) + 1, limits::JOB_OPERANDS)?;
        self.given |= 1u32.checked_shl(u32::from(operand.number)).unwrap_or(0);
        self.batch.message.operands.push(operand);
        self.wire().operands += 1;
        Ok(())
    }

    fn try_param(&mut self, param: ParamChoice<'_>, value: ParamValue<'_>) -> Result<(), LocalError> {
        let Some(device) = self.device() else { return Ok(()) };
        let Some(operation) = operation(&device, self.place) else { return Ok(()) };
        let key = lookup::param(operation, param)?;
        let bytes = match lookup::value(operation, key, value)? {
            Given::Number(number) => return self.push_source(number_param(key, number)),
            Given::Bytes(bytes) => bytes,
        };
        at_most(
            "bytes of parameters in a batch",
            self.batch.message.bytes.len() + bytes.len(),
            limits::BATCH_BYTES,
        )?;
        let value = self.batch.message.bytes.len() as u64;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.batch.message.bytes.extend_from_slice(bytes);
        self.push_source(Param { value, len, source: ParamSource::Bytes, ..number_param(key, 0) })
    }

    fn try_param_from(
        &mut self,
        param: ParamChoice<'_>,
        cell: CellRef<'_>,
        word: CellWord,
        max: u64,
    ) -> Result<(), LocalError> {
        let Some(device) = self.device() else { return Ok(()) };
        let Some(operation) = operation(&device, self.place) else { return Ok(()) };
        let key = lookup::param(operation, param)?;
        let (cell_object, value, cell_word) = self.cell(cell, word)?;
        let source = ParamSource::Cell;
        self.push_source(Param { value, cell_object, max, source, cell_word, ..number_param(key, 0) })
    }

    fn push_source(&mut self, param: ClientParam) -> Result<(), LocalError> {
        at_most("parameters of a job", usize::from(self.wire().params) + 1, limits::JOB_PARAMS)?;
        self.batch.message.params.push(param);
        self.wire().params += 1;
        Ok(())
    }

    fn try_wait(&mut self, on: WaitOn<'_>, kind: WaitKind) -> Result<(), LocalError> {
        at_most("waits of a job", usize::from(self.wire().waits) + 1, limits::JOB_WAITS)?;
        let (mut flags, mut until) = (0, Time(0));
        let (timeline, point) = match on {
            WaitOn::Fence(fence) => {
                if !Arc::ptr_eq(fence.on().core(), self.batch.core()) {
                    return Err(LocalError::Foreign { what: "fence" });
                }
                let (timeline, point) = fence.on().handle().ok_or(LocalError::Foreign { what: "fence" })?;
                if let Waitable::Point(TimelinePoint { submit_by: Some(by), .. }) = fence.on() {
                    (flags, until) = (WAIT_FOR_SUBMIT, by.time());
                }
                (timeline, point)
            }
            WaitOn::Job(job) => {
                if job >= self.id() {
                    return Err(LocalError::NotBefore { job: self.id().0, waits_for: job.0 });
                }
                self.batch.inner_waits.push((self.batch.message.waits.len(), job));
                (TimelineHandle(0), Point(0))
            }
        };
        self.batch.message.waits.push(Wait { timeline, point, until, kind, flags, reserved: Zero });
        self.wire().waits += 1;
        Ok(())
    }

    pub(crate) fn try_entry(
        &mut self,
        queue: &user_queue::Shared,
        point: Point,
        deadline: Deadline,
    ) -> Result<(), LocalError> {
        at_most("waits of a job", usize::from(self.wire().waits) + 1, limits::JOB_WAITS)?;
        if !Arc::ptr_eq(&queue.core, self.batch.core()) {
            return Err(LocalError::Foreign { what: "user queue" });
        }
        let (timeline, until) = (TimelineHandle(queue.queue.handle.0), deadline.time());
        let (kind, flags) = (WaitKind::Data, WAIT_UNTIL);
        self.batch.message.waits.push(Wait { timeline, point, until, kind, flags, reserved: Zero });
        self.wire().waits += 1;
        Ok(())
    }

    /// What an entry does to a slice, as the job that publishes it says.
    pub(crate) fn try_published(
        &mut self,
        number: u8,
        slice: Slice<'_>,
        access: Access,
    ) -> Result<(), LocalError> {
        let direction = match access {
            Access::Read => Direction::In,
            Access::Write => Direction::Out,
        };
        self.add(number, direction, slice, None)
    }

    /// A cell that the job reads a number from.
    fn cell(&mut self, cell: CellRef<'_>, word: CellWord) -> Result<(Handle, u64, u8), LocalError> {
        let offset = cell.offset()?;
        cell.cells.buffer().shared().check_output()?;
        self.touch(cell.cells.buffer().shared(), None)?;
        Ok((cell.cells.buffer().handle(), offset, word.number()))
    }

    /// Keeps a buffer until the batch is sent, and its use for the ledger.
    fn touch(
        &mut self,
        buffer: &Arc<BufferShared>,
        entry: Option<(u64, u64, Usage)>,
    ) -> Result<(), LocalError> {
        if !Arc::ptr_eq(&buffer.core, self.batch.core()) {
            return Err(LocalError::Foreign { what: "buffer" });
        }
        let job = self.id().0;
        self.batch.touches.push(Touch { job, buffer: Arc::clone(buffer), entry });
        Ok(())
    }

    /// The device, if its operation is known.
    fn device(&self) -> Option<Arc<DeviceShared>> {
        self.place.map(|_| Arc::clone(&self.device))
    }
}

fn operation(device: &DeviceShared, place: Option<usize>) -> Option<&Operation> {
    device.description.operations.get(place?)
}

fn number_param(key: ParamKey, value: u64) -> ClientParam {
    Param {
        value,
        cell_object: Handle(0),
        max: 0,
        len: 0,
        number: key.0,
        source: ParamSource::Value,
        cell_word: 0,
    }
}

fn unordered(usage: Usage) -> Usage {
    match usage {
        Usage::Read => Usage::Unordered(Access::Read),
        Usage::Write => Usage::Unordered(Access::Write),
        Usage::Unordered(access) => Usage::Unordered(access),
    }
}
