//! Batches as a client writes them.

use std::ops::Range;

use vgem_proto::codec::Zero;
use vgem_proto::ids::{CauseId, Handle, Point, QueueHandle, Time, TimelineHandle};
use vgem_proto::jobs::{
    ClientJob, ClientOperand, ClientParam, OPERAND_DISCARD, OPERAND_INDIRECT, ParamSource, WAIT_FOR_SUBMIT,
    WAIT_UNTIL, Wait,
};
use vgem_proto::message::client::Submit;
use vgem_proto::rights::{Access, WaitKind};

/// Places of the operands of operation 0 of every device of the world: four of each direction, all optional.
pub(crate) const IN: u8 = 0;
pub(crate) const OUT: u8 = 4;
pub(crate) const IN_OUT: u8 = 8;
pub(crate) const RESULT: u8 = 12;

/// A batch under construction.
#[derive(Debug, Clone)]
pub(crate) struct Batch(pub(crate) Submit);

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        let (jobs, operands, params) = (Vec::new(), Vec::new(), Vec::new());
        Self(Submit { jobs, operands, params, waits: Vec::new(), bytes: Vec::new() })
    }

    /// Begins a job.
    pub(crate) fn job(mut self, queue: QueueHandle, point: u64) -> Self {
        self.0.jobs.push(ClientJob {
            queue,
            point: Point(point),
            run_ns: 0,
            failed_cause: CauseId::NONE,
            failed_code: 0,
            op: 0,
            flags: 0,
            operands: 0,
            params: 0,
            waits: 0,
            reserved: Zero,
        });
        self
    }

    pub(crate) fn last(&mut self) -> &mut ClientJob {
        self.0.jobs.last_mut().expect("a job was begun")
    }

    pub(crate) fn last_operand(&mut self) -> &mut ClientOperand {
        self.0.operands.last_mut().expect("an operand was given")
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut ClientJob)) -> Self {
        change(self.last());
        self
    }

    pub(crate) fn with_operand(mut self, change: impl FnOnce(&mut ClientOperand)) -> Self {
        change(self.last_operand());
        self
    }

    pub(crate) fn op(self, op: u16) -> Self {
        self.with(|job| job.op = op)
    }

    pub(crate) fn flags(self, flags: u16) -> Self {
        self.with(|job| job.flags |= flags)
    }

    pub(crate) fn operand(mut self, number: u8, access: Access, object: Handle, range: Range<u64>) -> Self {
        self.last().operands += 1;
        self.0.operands.push(ClientOperand {
            object,
            offset: range.start,
            len: range.end - range.start,
            cell_object: Handle(0),
            cell_offset: 0,
            number,
            cell_word: 0,
            access,
            flags: 0,
            reserved: Zero,
        });
        self
    }

    fn next_number(&self, base: u8) -> u8 {
        let own = usize::from(self.0.jobs.last().expect("a job was begun").operands);
        let mine = &self.0.operands[self.0.operands.len() - own..];
        base + u8::try_from(mine.iter().filter(|o| (base..base + 4).contains(&o.number)).count())
            .expect("few")
    }

    /// Reads a range.
    pub(crate) fn reads(self, object: Handle, range: Range<u64>) -> Self {
        let number = self.next_number(IN);
        self.operand(number, Access::Read, object, range)
    }

    /// Replaces a range.
    pub(crate) fn writes(self, object: Handle, range: Range<u64>) -> Self {
        let number = self.next_number(OUT);
        self.operand(number, Access::Write, object, range)
    }

    /// Reads and writes a range.
    pub(crate) fn updates(self, object: Handle, range: Range<u64>) -> Self {
        let number = self.next_number(IN_OUT);
        self.operand(number, Access::Write, object, range)
    }

    /// Names a result cell.
    pub(crate) fn result(self, object: Handle, offset: u64) -> Self {
        self.operand(RESULT, Access::Write, object, offset..offset + 64)
    }

    pub(crate) fn discarding(self) -> Self {
        self.with_operand(|operand| operand.flags |= OPERAND_DISCARD)
    }

    /// The last operand's length is in a cell.
    pub(crate) fn indirect(self, object: Handle, offset: u64, word: u8) -> Self {
        self.with_operand(|operand| {
            operand.flags |= OPERAND_INDIRECT;
            (operand.cell_object, operand.cell_offset, operand.cell_word) = (object, offset, word);
        })
    }

    pub(crate) fn param(mut self, number: u16, source: ParamSource, value: u64) -> Self {
        self.last().params += 1;
        let (cell_object, max, len, cell_word) = (Handle(0), 0, 0, 0);
        self.0.params.push(ClientParam { value, cell_object, max, len, number, source, cell_word });
        self
    }

    pub(crate) fn with_param(mut self, change: impl FnOnce(&mut ClientParam)) -> Self {
        change(self.0.params.last_mut().expect("a parameter was given"));
        self
    }

    pub(crate) fn waits(mut self, queue: QueueHandle, point: u64, kind: WaitKind) -> Self {
        self.last().waits += 1;
        let timeline = TimelineHandle(queue.0);
        let wait = Wait { timeline, point: Point(point), until: Time(0), kind, flags: 0, reserved: Zero };
        self.0.waits.push(wait);
        self
    }

    /// Waits for an entry of a user queue until a moment.
    pub(crate) fn waits_until(self, timeline: TimelineHandle, point: u64, until: Time) -> Self {
        let mut batch = self.waits_for(timeline, point, WaitKind::Data, Some(until));
        batch.0.waits.last_mut().expect("it waits").flags = WAIT_UNTIL;
        batch
    }

    /// Waits for a point of any timeline; with a moment, for one that may be promised until then.
    pub(crate) fn waits_for(
        mut self,
        timeline: TimelineHandle,
        point: u64,
        kind: WaitKind,
        until: Option<Time>,
    ) -> Self {
        self.last().waits += 1;
        let flags = if until.is_some() { WAIT_FOR_SUBMIT } else { 0 };
        let (point, until) = (Point(point), until.unwrap_or_default());
        self.0.waits.push(Wait { timeline, point, until, kind, flags, reserved: Zero });
        self
    }
}
