//! `Run` messages, one per instance of a batch, or more where one would be too long.
//!
//! A client's batch fits one message, but the jobs of one device get waits on their way: so a `Run` is closed as
//! soon as the next job would make it longer than a message may be. Several parameters may point at the same
//! bytes of the batch; each gets a copy, and [`crate::check`] bounds how much that can be.
//!
//! What is finished goes to the instance's own keeping ([`crate::sent`]), and out if it takes work now.

use std::collections::BTreeMap;

use vgem_proto::codec::HEAD_LEN;
use vgem_proto::ids::InstanceId;
use vgem_proto::jobs::{DriverJob, DriverOperand, DriverParam, DriverWait, ParamSource};
use vgem_proto::limits;
use vgem_proto::message::driver::Run;

use crate::devices::{Instance, InstanceState};
use crate::io::{Effect, Effects};
use crate::sent::Room;

/// The operands, parameters and waits of one job.
pub(crate) type Records<'a> = (&'a [DriverOperand], &'a [DriverParam], &'a [DriverWait]);

/// Messages under construction.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    instance: InstanceId,
    number: u32,
    run: Run,
    len: usize,
}

/// What a `Run` without jobs takes, the padding of its five arrays included.
const EMPTY_LEN: usize = HEAD_LEN + Run::FIXED + 5 * 8;

impl Open {
    fn new(id: InstanceId, instance: &mut Instance, room: Room) -> Self {
        let (number, run) = instance.sent.begin(room);
        Self { instance: id, number, run, len: EMPTY_LEN }
    }

    fn close(self, instance: &mut Instance, out: &mut Effects) {
        let takes_work = instance.state == InstanceState::Ready;
        instance.sent.keep(self.number, self.run, takes_work);
        if takes_work {
            out.push(Effect::Run { instance: self.instance, number: self.number });
        }
    }
}

impl Runs {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Adds a job; `bytes` is the batch's array of bytes, of which the job's parameters take their own. `room` is what
    /// a message that is begun for it will hold, as far as that is known.
    /// Gives the number of the run that it is in; `None` if there is no such instance.
    pub(crate) fn add(
        &mut self,
        instances: &mut BTreeMap<InstanceId, Instance>,
        (instance, room): (InstanceId, impl FnOnce() -> Room),
        job: DriverJob,
        (operands, params, waits): Records<'_>,
        bytes: &[u8],
        out: &mut Effects,
    ) -> Option<u32> {
        let text = text_len(params);
        let len = wire_len(operands, params, waits) + text;
        let is_full = |open: &Open| {
            open.len + len > limits::MESSAGE_LEN || open.run.bytes.len() + text > limits::BATCH_BYTES
        };
        let place = match self.open.iter().position(|open| open.instance == instance) {
            Some(place) => {
                if let Some(open) = self.open.get_mut(place).filter(|open| is_full(open)) {
                    let instance = instances.get_mut(&instance)?;
                    let next = Open::new(open.instance, instance, Room::default());
                    std::mem::replace(open, next).close(instance, out);
                }
                place
            }
            None => {
                self.open.push(Open::new(instance, instances.get_mut(&instance)?, room()));
                self.open.len() - 1
            }
        };
        let open = self.open.get_mut(place)?;
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
        Some(open.number)
    }

    /// Sends what is there.
    pub(crate) fn finish(&mut self, instances: &mut BTreeMap<InstanceId, Instance>, out: &mut Effects) {
        for open in self.open.drain(..) {
            if let Some(instance) = instances.get_mut(&open.instance) {
                open.close(instance, out);
            }
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
