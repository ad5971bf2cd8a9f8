//! `Run` messages, one per instance of a batch, or more where one would be too long.
//!
//! A client's batch fits one message, but the jobs of one device get waits on their way: so a `Run` is closed as
//! soon as the next job would make it longer than a message may be. Several parameters may point at the same
//! bytes of the batch; each gets a copy, and [`crate::check`] bounds how much that can be.

use vgem_proto::codec::HEAD_LEN;
use vgem_proto::ids::InstanceId;
use vgem_proto::jobs::{DriverJob, DriverOperand, DriverParam, DriverWait, ParamSource};
use vgem_proto::limits;
use vgem_proto::message::driver::Run;

use crate::io::{Attach, Effect, Effects};

/// The operands, parameters and waits of one job.
pub(crate) type Records<'a> = (&'a [DriverOperand], &'a [DriverParam], &'a [DriverWait]);

/// Messages under construction.
#[derive(Debug)]
pub(crate) struct Runs {
    open: Vec<Open>,
    /// Jobs, operands and parameters of the whole batch: what a `Run` gets room for at once.
    room: (usize, usize, usize),
}

#[derive(Debug)]
struct Open {
    instance: InstanceId,
    run: Run,
    len: usize,
}

/// What a `Run` without jobs takes, the padding of its five arrays included.
const EMPTY_LEN: usize = HEAD_LEN + Run::FIXED + 5 * 8;

impl Open {
    fn new(instance: InstanceId, (jobs, operands, params): (usize, usize, usize)) -> Self {
        let mut run = empty();
        run.jobs.reserve_exact(jobs);
        run.operands.reserve_exact(operands);
        run.params.reserve_exact(params);
        Self { instance, run, len: EMPTY_LEN }
    }

    fn flush(&mut self, out: &mut Effects) {
        let run = std::mem::replace(&mut self.run, empty());
        self.len = EMPTY_LEN;
        out.push(Effect::ToDriver { instance: self.instance, message: run.into(), attach: Attach::None });
    }
}

fn empty() -> Run {
    Run { jobs: Vec::new(), operands: Vec::new(), params: Vec::new(), waits: Vec::new(), bytes: Vec::new() }
}

impl Runs {
    /// No messages yet, for a batch of that many jobs, operands and parameters.
    pub(crate) fn of(jobs: usize, operands: usize, params: usize) -> Self {
        Self { open: Vec::with_capacity(1), room: (jobs, operands, params) }
    }

    /// Adds a job; `bytes` is the batch's array of bytes, of which the job's parameters take their own.
    pub(crate) fn add(
        &mut self,
        instance: InstanceId,
        job: DriverJob,
        (operands, params, waits): Records<'_>,
        bytes: &[u8],
        out: &mut Effects,
    ) {
        let text = text_len(params);
        let len = wire_len(operands, params, waits) + text;
        let place = match self.open.iter().position(|open| open.instance == instance) {
            Some(place) => place,
            None => {
                self.open.push(Open::new(instance, self.room));
                self.open.len() - 1
            }
        };
        let Some(open) = self.open.get_mut(place) else { return };
        let is_full =
            open.len + len > limits::MESSAGE_LEN || open.run.bytes.len() + text > limits::BATCH_BYTES;
        if is_full && !open.run.jobs.is_empty() {
            open.flush(out);
        }
        open.len += len;
        let run = &mut open.run;
        run.jobs.push(job);
        run.operands.extend_from_slice(operands);
        run.waits.extend_from_slice(waits);
        for param in params {
            let mut param = *param;
            if param.source == ParamSource::Bytes {
                let start = usize::try_from(param.value).unwrap_or(usize::MAX);
                let end = start.saturating_add(param.len as usize);
                param.value = run.bytes.len() as u64;
                run.bytes.extend_from_slice(bytes.get(start..end).unwrap_or_default());
            }
            run.params.push(param);
        }
    }

    /// Sends what is there.
    pub(crate) fn finish(mut self, out: &mut Effects) {
        for open in &mut self.open {
            open.flush(out);
        }
    }
}

fn wire_len(operands: &[DriverOperand], params: &[DriverParam], waits: &[DriverWait]) -> usize {
    size::<DriverJob>(1)
        + size::<DriverOperand>(operands.len())
        + size::<DriverParam>(params.len())
        + size::<DriverWait>(waits.len())
}

/// Bytes that byte parameters take.
fn text_len(params: &[DriverParam]) -> usize {
    params.iter().filter(|param| param.source == ParamSource::Bytes).map(|param| param.len as usize).sum()
}

fn size<T: vgem_proto::codec::Field>(count: usize) -> usize {
    T::SIZE * count
}
