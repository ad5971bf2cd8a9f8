//! The rig of a measurement: what is measured, on which memory. It does no I/O but on memory of its own.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use vgem::{Buffer, Operation};

use crate::core::Core;
use crate::cost::Sample;
use crate::measure::{Measurement, Path, Probe, Subject};
use crate::options::PlanOptions;
use crate::specimen::{Laid, Specimen};
use crate::way::Way;

/// What there is to measure.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) measurement: Measurement,
    /// Bytes of the buffer that everything is tried on.
    pub(crate) len: u64,
    last: Option<((usize, u64), Laid)>,
}

impl Rig {
    /// Everything that the lanes can do and specimens are known of.
    pub(crate) fn new(core: &Core, options: &PlanOptions) -> Self {
        let mut subjects = Vec::new();
        let mut len = 0;
        let most = options.sizes.iter().copied().max().unwrap_or(0);
        for (device, lane) in &core.lanes {
            let Some(local) = &lane.local else { continue };
            for operation in &lane.device.description().operations {
                let Some(largest) = Specimen::of(local, operation, most) else { continue };
                len = largest.len().max(len);
                let ways = Way::ALL.into_iter().filter(|way| match way {
                    Way::Tracked => lane.tracked().is_some(),
                    Way::UserQueue => lane.user().is_some(),
                    Way::Cpu => local.does(operation),
                });
                let plain = lane.plain().is_ok().then_some(Path::Plain);
                let paths = ways.map(Path::Objects).chain(plain).collect();
                let (device, op) = (device.clone(), operation.name.clone());
                subjects.push(Subject { device, op, paths });
            }
        }
        let measurement = Measurement::new(subjects, &options.sizes, options.budget);
        Self { measurement, len, last: None }
    }

    /// What a probe does: its device and its specimen, laid into the buffer.
    pub(crate) fn laid<'r>(&'r mut self, core: &Core, buffer: &Buffer, probe: Probe) -> Option<&'r mut Laid> {
        let key = (probe.subject, probe.bytes);
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            let subject = self.measurement.subject(probe)?;
            let lane = core.lanes.get(&subject.device)?;
            let operation: &Operation = lane.device.description().by_name(&subject.op)?;
            let laid = Specimen::of(lane.local.as_ref()?, operation, probe.bytes)?.lay(operation, buffer)?;
            self.last = Some((key, laid));
        }
        self.last.as_mut().map(|(_, laid)| laid)
    }
}

/// The clocks of one run.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    own: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { own: own_cpu(), wall: Instant::now() }
    }

    /// What has gone since.
    pub(crate) fn stop(&self) -> Sample {
        let whole = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let wall_ns = whole(self.wall.elapsed());
        Sample { wall_ns, own_ns: whole(own_cpu().saturating_sub(self.own)) }
    }
}

/// The CPU time of the calling thread.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (secs, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(secs.unwrap_or(0), nanos.unwrap_or(0))
}
