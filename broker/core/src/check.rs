//! Whether a job may be accepted (J7): handles, rights, ranges, parameters, against the device's description.
//!
//! Checking changes nothing but the batch's own storage: while it looks things up it translates the client's
//! records into the driver's, and collects what the job will do to which object, so that accepting has nothing
//! left to look up and nothing left to refuse. A refusal names the job's part, the value and the limit.

use vgem_proto::codec::Zero;
use vgem_proto::describe::{Direction, OperandSpec, Operation, ParamKind, ParamSpec};
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Handle, InstanceId, ObjectKey, Point, QueueHandle, Time, TimelineKey};
use vgem_proto::jobs::{
    ClientJob, ClientOperand, ClientParam, DriverOperand, DriverParam, JOB_FLAGS, OPERAND_DISCARD,
    OPERAND_FLAGS, OPERAND_FOREIGN, OPERAND_INDIRECT, ParamSource, WAIT_FLAGS, WAIT_FOR_SUBMIT, WAIT_UNTIL,
    Wait,
};
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::rights::{Access, TimelineRights, WaitKind};

use crate::batch::Batch;
use crate::clients::Client;
use crate::config::{Bounds, Times};
use crate::devices::Device;
use crate::gates::{Gate, NewFuture};
use crate::objects::{Kind, Object, ObjectState, Writer};
use crate::policy;
use crate::queues::{Queue, QueueState, Use};
use crate::ranges::ByteRange;
use crate::requests::{no_such_handle, no_such_queue};
use crate::reservation::{Fence, Inherited, PlannedWait, Touching};
use crate::rings::{Ring, RingState};
use crate::tables::Table;
use crate::timelines::{Promises, is_of_client};

/// Looks at the jobs of one batch.
pub(crate) struct Checker<'a> {
    pub(crate) client: &'a Client,
    pub(crate) domain: DomainId,
    pub(crate) queues: &'a Table<TimelineKey, Queue>,
    pub(crate) objects: &'a mut Table<ObjectKey, Object>,
    pub(crate) times: &'a Times,
    pub(crate) bounds: &'a Bounds,
    /// Bytes in the batch's array of bytes.
    pub(crate) bytes: usize,
    /// Bytes that the byte parameters looked at so far will take.
    pub(crate) copied: u64,
    pub(crate) devices: &'a [Device],
    /// The instance that will do the job that is being looked at.
    pub(crate) instance: InstanceId,
    /// Its queue's timeline.
    pub(crate) timeline: TimelineKey,
    /// Its place in the batch.
    pub(crate) place: usize,
    pub(crate) promises: &'a Table<TimelineKey, Promises>,
    pub(crate) now: Time,
    /// Whether some object is, or was, used by several domains.
    pub(crate) crosses: bool,
}

/// A job's own records.
pub(crate) struct Parts<'a> {
    pub(crate) operands: &'a [ClientOperand],
    pub(crate) params: &'a [ClientParam],
    pub(crate) waits: &'a [Wait],
}

impl Checker<'_> {
    /// Checks one job and adds what it needs to `batch`; gives its longest run time, nanoseconds.
    pub(crate) fn job(
        &mut self,
        operation: &Operation,
        job: &ClientJob,
        parts: &Parts<'_>,
        batch: &mut Batch,
    ) -> Result<u64, Refusal> {
        let unknown = job.flags & !JOB_FLAGS;
        if unknown != 0 {
            return Err(refusal(ErrorCode::UnknownFlag, "unknown flags of the job", unknown, JOB_FLAGS));
        }
        if job.failed_code != 0 || job.failed_cause.0 != 0 {
            let text = "only the broker says that a wait has failed already";
            return Err(refusal(ErrorCode::Malformed, text, job.failed_code, 0u64));
        }
        let run_ns = self.run_time(operation, job)?;
        self.operands(operation, parts.operands, batch)?;
        self.params(operation, parts.params, batch)?;
        if parts.waits.len() > limits::JOB_WAITS {
            let text = "explicit waits of one job";
            return Err(refusal(ErrorCode::Exhausted, text, parts.waits.len(), limits::JOB_WAITS));
        }
        for wait in parts.waits {
            self.explicit_wait(wait, batch)?;
        }
        Ok(run_ns)
    }

    fn run_time(&self, operation: &Operation, job: &ClientJob) -> Result<u64, Refusal> {
        let longest = self.times.run_ns;
        match job.run_ns {
            0 => Ok((u64::from(operation.run_ms) * 1_000_000).min(longest)),
            asked if asked <= longest => Ok(asked),
            asked => {
                let text = format!("a job may run for {} ms", longest / 1_000_000);
                Err(refusal(ErrorCode::OutOfRange, text, asked, longest))
            }
        }
    }

    fn operands(
        &mut self,
        operation: &Operation,
        operands: &[ClientOperand],
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let mut seen = 0u64;
        for operand in operands {
            let part = u16::from(operand.number);
            let known = operation.operands.len();
            let Some(spec) = operation.operands.get(usize::from(operand.number)) else {
                let text = format!("{} has {known} operands", operation.name);
                return Err(refusal(ErrorCode::BadOperand, text, part, known).in_part(part));
            };
            let bit = 1u64 << (operand.number & 63);
            if seen & bit != 0 {
                let text = format!("operand {} is given twice", spec.name);
                return Err(refusal(ErrorCode::BadOperand, text, 2u64, 1u64).in_part(part));
            }
            seen |= bit;
            self.operand(spec, operand, batch).map_err(|refused| refused.in_part(part))?;
        }
        for (number, spec) in (0u16..).zip(&operation.operands) {
            if spec.required && seen & (1u64 << (number & 63)) == 0 {
                let text = format!("operand {} of {} is missing", spec.name, operation.name);
                return Err(Refusal::new(ErrorCode::BadOperand, text).in_part(number));
            }
        }
        Ok(())
    }

    #[inline]
    fn operand(
        &mut self,
        spec: &OperandSpec,
        operand: &ClientOperand,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let unknown = operand.flags & !OPERAND_FLAGS;
        if unknown != 0 {
            return Err(refusal(
                ErrorCode::UnknownFlag,
                "unknown flags of the operand",
                unknown,
                OPERAND_FLAGS,
            ));
        }
        let touching = how_it_touches(spec, operand)?;
        check_extent(spec, operand)?;
        let used = self.object(operand.object, operand.access, operand.offset, operand.len, touching)?;
        let mut flags = operand.flags;
        if used.is_foreign {
            flags |= OPERAND_FOREIGN;
        }
        batch.uses.push(used.what);
        let (mut cell_object, mut cell_offset, mut cell_word) = (ObjectKey::default(), 0, 0);
        if operand.flags & OPERAND_INDIRECT != 0 {
            let cell = self.cell(operand.cell_object, operand.cell_offset, operand.cell_word)?;
            batch.uses.push(cell);
            cell_object = cell.object;
            (cell_offset, cell_word) = (operand.cell_offset, operand.cell_word);
        }
        batch.operands.push(DriverOperand {
            object: used.what.object,
            offset: operand.offset,
            len: operand.len,
            cell_object,
            cell_offset,
            number: operand.number,
            cell_word,
            access: operand.access,
            flags,
            reserved: Zero,
        });
        Ok(())
    }

    /// A range of an object that a job uses: handle, right, ready, inside.
    #[inline]
    fn object(
        &mut self,
        handle: Handle,
        access: Access,
        offset: u64,
        len: u64,
        touching: Touching,
    ) -> Result<Checked, Refusal> {
        let Some(held) = self.client.objects.get(handle.0) else { return Err(no_such_handle(handle.0)) };
        let grant = policy::authorise_use(held.object, held.rights, access)?;
        let Some(object) = self.objects.get_mut(grant.object()) else { return Err(no_such_handle(handle.0)) };
        if object.state != ObjectState::Ready {
            let text = "the object is not committed; populate its pages and commit it first";
            return Err(refusal(ErrorCode::NotReady, text, handle.0, 0u64));
        }
        let range = match ByteRange::at(offset, len) {
            Some(range) if range.end <= object.len => range,
            Some(_) | None => {
                let end = offset.saturating_add(len);
                let text = format!("bytes {offset} to {end} of an object of {} bytes", object.len);
                return Err(refusal(ErrorCode::OutOfRange, text, end, object.len));
            }
        };
        if touching.writes() {
            if let Kind::Sealed(writer) = object.kind {
                may_write_sealed(writer, self.instance, self.devices)?;
            }
            let most = object.reservation.pieces() + 2 * (object.planned as usize + 1);
            // Whoever writes what is another domain's leaves room for that.
            let is_guest = object.domain != self.domain;
            let bound = if is_guest { self.bounds.pieces / 2 } else { self.bounds.pieces };
            if most > bound {
                let text = "unfinished writes to one object; wait for some to end";
                return Err(refusal(ErrorCode::Exhausted, text, most, bound));
            }
        }
        let fences = object.reservation.fences();
        if fences.len() >= self.bounds.fences
            && object.reservation.fences().all(|fence| fence.timeline != self.timeline)
        {
            let text = "queues with unfinished jobs on one object; wait for some to end";
            return Err(refusal(ErrorCode::Exhausted, text, fences.len() + 1, self.bounds.fences));
        }
        // Last, because what is refused is in no list of what was planned.
        object.planned += u32::from(touching.writes());
        self.crosses |= object.crossed;
        let is_foreign = object.is_foreign_to(self.domain);
        Ok(Checked { what: Use { object: grant.object(), range, touching }, is_foreign })
    }

    /// A result cell that a job reads.
    fn cell(&mut self, handle: Handle, offset: u64, word: u8) -> Result<Use, Refusal> {
        let words = result_cell::WORDS;
        if usize::from(word) >= words {
            let text = format!("a result cell has {words} words");
            return Err(refusal(ErrorCode::OutOfRange, text, word, words - 1));
        }
        let len = result_cell::LEN as u64;
        if !offset.is_multiple_of(len) {
            let text = format!("a result cell begins at a multiple of {len}");
            return Err(refusal(ErrorCode::Misaligned, text, offset, len));
        }
        Ok(self.object(handle, Access::Read, offset, len, Touching::Read)?.what)
    }

    fn params(
        &mut self,
        operation: &Operation,
        params: &[ClientParam],
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        self.count_bytes(params)?;
        let mut seen = 0u64;
        for param in params {
            let part = param.number;
            let known = operation.params.len();
            let Some(spec) = operation.params.get(usize::from(part)) else {
                let text = format!("{} has {known} parameters", operation.name);
                return Err(refusal(ErrorCode::BadParameter, text, part, known).in_part(part));
            };
            let bit = 1u64 << (part & 63);
            if seen & bit != 0 {
                let text = format!("parameter {} is given twice", spec.name);
                return Err(refusal(ErrorCode::BadParameter, text, 2u64, 1u64).in_part(part));
            }
            seen |= bit;
            self.param(spec, param, batch).map_err(|refused| refused.in_part(part))?;
        }
        for (number, spec) in (0u16..).zip(&operation.params) {
            let is_required = match spec.kind {
                ParamKind::Number { default, .. } => default.is_none(),
                ParamKind::Choice { default, .. } => default.is_none(),
                ParamKind::Bytes { required, .. } => required,
            };
            if is_required && seen & (1u64 << (number & 63)) == 0 {
                let text = format!("parameter {} of {} is missing", spec.name, operation.name);
                return Err(Refusal::new(ErrorCode::BadParameter, text).in_part(number));
            }
        }
        Ok(())
    }

    /// Byte parameters may share their bytes, but only so often: each takes its own at the driver.
    fn count_bytes(&mut self, params: &[ClientParam]) -> Result<(), Refusal> {
        let is_bytes = |param: &&ClientParam| param.source == ParamSource::Bytes;
        let own: u64 = params.iter().filter(is_bytes).map(|param| u64::from(param.len)).sum();
        self.copied = self.copied.saturating_add(own);
        let (job, batch) = (limits::BATCH_BYTES as u64, limits::MESSAGE_LEN as u64);
        if own > job {
            return Err(refusal(ErrorCode::TooLarge, "bytes of one job's byte parameters", own, job));
        }
        if self.copied > batch {
            let text = "bytes of all byte parameters of a batch, those that share them counted each";
            return Err(refusal(ErrorCode::TooLarge, text, self.copied, batch));
        }
        Ok(())
    }

    fn param(&mut self, spec: &ParamSpec, param: &ClientParam, batch: &mut Batch) -> Result<(), Refusal> {
        let mut cell_object = ObjectKey::default();
        match (&spec.kind, param.source) {
            (ParamKind::Number { min, max, .. }, ParamSource::Value) => {
                within(spec, param.value, *min, *max)?;
            }
            (ParamKind::Number { min, max, .. }, ParamSource::Cell) => {
                within(spec, param.max, *min, *max)?;
                let cell = self.cell(param.cell_object, param.value, param.cell_word)?;
                cell_object = cell.object;
                batch.uses.push(cell);
            }
            (ParamKind::Choice { words, .. }, ParamSource::Value) => {
                let last = (words.len() as u64).saturating_sub(1);
                within(spec, param.value, 0, last)?;
            }
            (ParamKind::Bytes { max_len, .. }, ParamSource::Bytes) => {
                within(spec, u64::from(param.len), 0, u64::from(*max_len))?;
                let end = param.value.saturating_add(u64::from(param.len));
                if end > self.bytes as u64 {
                    let text = format!("{} leaves the batch's {} bytes", spec.name, self.bytes);
                    return Err(refusal(ErrorCode::OutOfRange, text, end, self.bytes));
                }
            }
            (ParamKind::Number { .. }, ParamSource::Bytes)
            | (ParamKind::Choice { .. }, ParamSource::Bytes | ParamSource::Cell)
            | (ParamKind::Bytes { .. }, ParamSource::Value | ParamSource::Cell) => {
                let text = format!("parameter {} cannot come from {:?}", spec.name, param.source);
                return Err(Refusal::new(ErrorCode::BadParameter, text));
            }
        }
        let is_cell = param.source == ParamSource::Cell;
        batch.params.push(DriverParam {
            cell_object,
            max: if is_cell { param.max } else { 0 },
            cell_word: if is_cell { param.cell_word } else { 0 },
            value: param.value,
            len: param.len,
            number: param.number,
            source: param.source,
        });
        Ok(())
    }

    /// A point of one of the client's queues that was promised before this job (T1, J2).
    fn explicit_wait(&mut self, wait: &Wait, batch: &mut Batch) -> Result<(), Refusal> {
        let unknown = wait.flags & !WAIT_FLAGS;
        if unknown != 0 {
            return Err(refusal(ErrorCode::UnknownFlag, "unknown flags of the wait", unknown, WAIT_FLAGS));
        }
        let handle = QueueHandle(wait.timeline.0);
        let timeline = match self.client.queues.get(handle.0) {
            Some(queue) => *queue,
            None => {
                let Some(held) = self.client.timelines.get(handle.0) else {
                    return Err(no_such_queue(handle));
                };
                policy::authorise_timeline(held.key, held.rights, TimelineRights::WAIT)?.timeline()
            }
        };
        if is_of_client(timeline) {
            return self.gate(wait, timeline, batch);
        }
        let Some(queue) = self.queues.get(timeline) else {
            return Err(Refusal::new(ErrorCode::Gone, "the queue behind this timeline is no more"));
        };
        if let Some(ring) = &queue.ring {
            return self.host_wait(wait, (timeline, queue, ring), batch);
        }
        not_of_a_ring(wait)?;
        let (so_far, in_all) = batch.planned_on(timeline).unwrap_or((0, 0));
        let (point, promised) = (wait.point.0, queue.promised.0);
        let may_come = wait.flags & WAIT_FOR_SUBMIT != 0;
        if point > promised + so_far {
            let is_planned = !may_come && point <= promised + in_all;
            if is_planned || may_come && timeline == self.timeline {
                let text = format!(
                    "the job waits for job {point} of {handle}, which comes with or after it: neither could ever begin"
                );
                return Err(refusal(ErrorCode::Deadlock, text, point, promised + so_far));
            }
            if !may_come {
                let text = "nobody has promised this point";
                return Err(refusal(ErrorCode::BadPoint, text, point, promised + so_far));
            }
            if queue.state != QueueState::Open {
                let text =
                    "the queue behind this timeline takes no more jobs: the point will never be promised";
                return Err(Refusal::new(ErrorCode::Gone, text).with(point, promised));
            }
            self.future(wait, timeline, promised + in_all, batch)?;
        }
        if wait.point > queue.ended {
            self.crosses |= queue.domain != self.domain;
            let (signaller, domain) = (queue.instance, queue.domain);
            let fence = Fence { timeline, point: wait.point, signaller, domain };
            batch.explicit.push(PlannedWait { fence, kind: wait.kind });
        } else if wait.kind == WaitKind::Data && batch.failed.is_none() {
            let failure = queue.failures.of(wait.point);
            batch.failed = failure.map(|failure| Inherited { failure, domain: queue.domain });
        }
        Ok(())
    }

    /// A point that a client promises, or is to (M-087).
    fn gate(&mut self, wait: &Wait, timeline: TimelineKey, batch: &mut Batch) -> Result<(), Refusal> {
        not_of_a_ring(wait)?;
        let Some(promises) = self.promises.get(timeline) else {
            return Err(Refusal::new(ErrorCode::Gone, "the timeline is no more"));
        };
        if promises.domain != self.domain {
            let text = "jobs wait for promises of their own domain only; wait for this one in the client";
            return Err(Refusal::new(ErrorCode::Denied, text));
        }
        if promises.has_passed(wait.point) {
            if wait.kind == WaitKind::Data && batch.failed.is_none() {
                let failure = promises.failure_of(wait.point);
                batch.failed = failure.map(|failure| Inherited { failure, domain: promises.domain });
            }
            return Ok(());
        }
        if promises.signaller.is_none() {
            let text = "nobody signals this timeline yet: the right to is on its way";
            return Err(Refusal::new(ErrorCode::NotReady, text));
        }
        let promised = promises.promised;
        if wait.point > promised {
            if wait.flags & WAIT_FOR_SUBMIT == 0 {
                let text = "nobody has promised this point";
                return Err(refusal(ErrorCode::BadPoint, text, wait.point.0, promised.0));
            }
            self.future(wait, timeline, u64::MAX, batch)?;
        }
        batch.gates.push(Gate { timeline, point: wait.point, kind: wait.kind });
        Ok(())
    }

    /// An entry of a user queue (M-180). It may be still to come: it waits for nothing, so that no cycle is possible.
    fn host_wait(
        &mut self,
        wait: &Wait,
        (timeline, queue, ring): (TimelineKey, &Queue, &Ring),
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        if queue.domain != self.domain {
            let text = "jobs wait for user queues of their own domain only; wait for this one in the client";
            return Err(Refusal::new(ErrorCode::Denied, text));
        }
        match (queue.state, ring.state) {
            (QueueState::Open, RingState::Attached) => {}
            (
                QueueState::Open,
                RingState::Making | RingState::Made | RingState::Checking | RingState::Attaching,
            ) => {
                return Err(Refusal::new(ErrorCode::NotReady, "the queue is getting its ring"));
            }
            (QueueState::Open, RingState::Over) | (QueueState::Closing | QueueState::Gone, _) => {
                let text = "the user queue is over: entries that have not ended never will";
                return Err(Refusal::new(ErrorCode::Gone, text).with(wait.point.0, 0));
            }
        }
        if wait.flags != WAIT_UNTIL {
            let text =
                "a point of a user queue is waited for until a moment only: flag 2 of the wait and `until`";
            return Err(refusal(ErrorCode::BadParameter, text, wait.flags, WAIT_UNTIL));
        }
        self.soon(wait.until, "a point of a user queue is to pass")?;
        if wait.point > Point(0) {
            batch.gates.push(Gate { timeline, point: wait.point, kind: wait.kind });
            let awaited = (timeline, wait.point);
            batch.futures.push(NewFuture { job: self.place, awaited, until: wait.until });
        }
        Ok(())
    }

    /// A moment that others keep something until.
    fn soon(&self, until: Time, what: &str) -> Result<(), Refusal> {
        let latest = self.now.after(self.times.promise_ns);
        if until <= self.now || until > latest {
            let text = format!("{what} within {} ms from now", self.times.promise_ns / 1_000_000);
            return Err(refusal(ErrorCode::OutOfRange, text, until.0, latest.0));
        }
        Ok(())
    }

    /// A point that somebody is to promise; `promised` is the last that is, `u64::MAX` if points may leave gaps.
    fn future(
        &mut self,
        wait: &Wait,
        timeline: TimelineKey,
        promised: u64,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let farthest = promised.saturating_add(u64::from(limits::QUEUE_DEPTH));
        if wait.point.0 > farthest {
            let text = "the point is farther ahead than a queue can ever be";
            return Err(refusal(ErrorCode::OutOfRange, text, wait.point.0, farthest));
        }
        self.soon(wait.until, "a point is to be promised")?;
        let awaited = (timeline, wait.point);
        batch.futures.push(NewFuture { job: self.place, awaited, until: wait.until });
        Ok(())
    }
}

/// Flag 2 is for points of user queues: others have a moment of their own.
fn not_of_a_ring(wait: &Wait) -> Result<(), Refusal> {
    if wait.flags & WAIT_UNTIL != 0 {
        let text = "flag 2 of a wait is for points of user queues; this point is none";
        return Err(refusal(ErrorCode::BadParameter, text, wait.flags, WAIT_FOR_SUBMIT));
    }
    Ok(())
}

/// A sealed result is written by jobs of the one instance that mapped it before it was sealed.
fn may_write_sealed(writer: Writer, instance: InstanceId, devices: &[Device]) -> Result<(), Refusal> {
    if writer.instance == Some(instance) {
        return Ok(());
    }
    let device = devices.get(writer.device).map(|device| device.name()).unwrap_or_default();
    Err(match writer.instance {
        Some(_) => {
            let text =
                format!("only device {device} may write this sealed result, by the queues it had then");
            Refusal::new(ErrorCode::Denied, text)
        }
        None => {
            let text = format!("the instance of device {device} that wrote this sealed result is gone");
            Refusal::new(ErrorCode::Gone, text)
        }
    })
}

struct Checked {
    what: Use,
    is_foreign: bool,
}

/// What an operand does to its range, if its access fits its direction.
#[inline]
fn how_it_touches(spec: &OperandSpec, operand: &ClientOperand) -> Result<Touching, Refusal> {
    let discards = operand.flags & OPERAND_DISCARD != 0;
    match (spec.direction, operand.access) {
        (Direction::In, Access::Read) if !discards => Ok(Touching::Read),
        (Direction::In, Access::Read) => {
            let text = format!("operand {} is only read, there is nothing to discard", spec.name);
            Err(Refusal::new(ErrorCode::BadOperand, text))
        }
        (Direction::Out | Direction::Cell, Access::Write) => Ok(Touching::Replace),
        (Direction::InOut, Access::Write) if discards => Ok(Touching::Replace),
        (Direction::InOut, Access::Write) => Ok(Touching::Update),
        (Direction::In, Access::Write)
        | (Direction::Out | Direction::InOut | Direction::Cell, Access::Read) => {
            let text =
                format!("operand {} has direction {:?}, not {:?}", spec.name, spec.direction, operand.access);
            Err(Refusal::new(ErrorCode::BadOperand, text))
        }
    }
}

#[inline]
fn check_extent(spec: &OperandSpec, operand: &ClientOperand) -> Result<(), Refusal> {
    let cell = result_cell::LEN as u64;
    let (align, (min, max)) = match spec.direction {
        Direction::Cell => (cell, (cell, cell)),
        Direction::In | Direction::Out | Direction::InOut => (u64::from(spec.align.max(1)), spec.len),
    };
    if operand.len < min || operand.len > max {
        let text = format!("operand {} has {min} to {max} bytes", spec.name);
        let limit = if operand.len < min { min } else { max };
        return Err(refusal(ErrorCode::OutOfRange, text, operand.len, limit));
    }
    if !operand.offset.is_multiple_of(align) {
        let text = format!("operand {} begins at a multiple of {align}", spec.name);
        return Err(refusal(ErrorCode::Misaligned, text, operand.offset, align));
    }
    Ok(())
}

fn within(spec: &ParamSpec, value: u64, min: u64, max: u64) -> Result<(), Refusal> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let text = format!("parameter {} is {min} to {max}", spec.name);
    let limit = if value < min { min } else { max };
    Err(refusal(ErrorCode::BadParameter, text, value, limit))
}

/// A refusal with a value and a limit of whatever integer types.
fn refusal(
    code: ErrorCode,
    text: impl Into<String>,
    value: impl TryInto<u64>,
    limit: impl TryInto<u64>,
) -> Refusal {
    let wide = |number: Result<u64, ()>| number.unwrap_or(u64::MAX);
    Refusal::new(code, text).with(wide(value.try_into().map_err(drop)), wide(limit.try_into().map_err(drop)))
}
