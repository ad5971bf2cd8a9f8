//! What two looks say together: how much of each device there was between them, in all and per second.
//!
//! A device's numbers are those of its processes, which begin at 0 when one is started. So what each process did since the
//! look before is added up; what one that ended did in its last moment is lost, and nothing ever counts backwards.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;
use vgem::snapshot::InstanceEntry;

use crate::broker::Look;

/// Samples that are kept: five minutes of them.
const KEPT: usize = 300;
/// Looks further apart say nothing of a second between them, nanoseconds.
const TOO_LONG_NS: u64 = 60_000_000_000;

/// What a device did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Done {
    /// Jobs that ended.
    pub(crate) jobs: u64,
    /// Nanoseconds its engines worked.
    pub(crate) busy_ns: u64,
    /// Bytes they read and wrote.
    pub(crate) bytes: u64,
    /// Bytes that were copied through windows.
    pub(crate) staged_bytes: u64,
}

impl Done {
    fn of(instance: &InstanceEntry) -> Self {
        let InstanceEntry { jobs, busy_ns, bytes, staged_bytes, .. } = *instance;
        Self { jobs, busy_ns, bytes, staged_bytes }
    }

    fn since(self, before: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_sub(before.jobs),
            busy_ns: self.busy_ns.saturating_sub(before.busy_ns),
            bytes: self.bytes.saturating_sub(before.bytes),
            staged_bytes: self.staged_bytes.saturating_sub(before.staged_bytes),
        }
    }

    fn add(&mut self, more: Self) {
        self.jobs += more.jobs;
        self.busy_ns += more.busy_ns;
        self.bytes += more.bytes;
        self.staged_bytes += more.staged_bytes;
    }
}

/// A device at a moment, for a chart.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct DeviceSample {
    /// Bytes per second that its engines read and wrote.
    pub(crate) bytes_per_s: f64,
    /// Jobs per second that ended.
    pub(crate) jobs_per_s: f64,
    /// Engines that were at work, on average.
    pub(crate) busy: f64,
    /// Jobs that it was given and that have not ended.
    pub(crate) depth: u64,
}

/// A moment, for charts.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Sample {
    /// When, CLOCK_MONOTONIC milliseconds.
    pub(crate) at_ms: u64,
    /// Bytes of live objects.
    pub(crate) bytes: u64,
    /// Of these, pinned ones.
    pub(crate) pinned: u64,
    /// By its name, each device.
    pub(crate) devices: BTreeMap<String, DeviceSample>,
}

/// What is known of a broker from all looks at it.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When the last look was, and which broker it was at.
    before: Option<(u64, u32)>,
    /// By its number, what each driver process had done then.
    instances: HashMap<u32, Done>,
    /// By its name, what each device has done in all.
    totals: BTreeMap<String, Done>,
    history: VecDeque<Arc<Sample>>,
}

impl Rates {
    /// Takes another look into account, and says what it adds.
    pub(crate) fn add(&mut self, look: &Look) -> Arc<Sample> {
        if self.before.is_some_and(|(_, broker)| broker != look.status.pid) {
            // Another broker numbers its instances anew.
            self.instances.clear();
            self.before = None;
        }
        let passed = self.before.map(|(at, _)| look.at_ns.saturating_sub(at));
        let passed = passed.filter(|passed| (1..TOO_LONG_NS).contains(passed));
        let mut now = HashMap::new();
        let mut devices = BTreeMap::new();
        for device in &look.devices {
            let mut done = Done::default();
            for instance in &device.instances {
                let before = self.instances.get(&instance.instance).copied().unwrap_or_default();
                done.add(Done::of(instance).since(before));
                now.insert(instance.instance, Done::of(instance));
            }
            self.totals.entry(device.name.clone()).or_default().add(done);
            let per =
                |number: u64, unit: f64| passed.map_or(0.0, |passed| float(number) * unit / float(passed));
            devices.insert(
                device.name.clone(),
                DeviceSample {
                    bytes_per_s: per(done.bytes, 1e9),
                    jobs_per_s: per(done.jobs, 1e9),
                    busy: per(done.busy_ns, 1.0),
                    depth: device.instances.iter().map(|instance| instance.in_flight).sum(),
                },
            );
        }
        self.instances = now;
        self.before = Some((look.at_ns, look.status.pid));
        let status = &look.status;
        let at_ms = look.at_ns / 1_000_000;
        let sample =
            Arc::new(Sample { at_ms, bytes: status.object_bytes, pinned: status.pinned_bytes, devices });
        if self.history.len() == KEPT {
            self.history.pop_front();
        }
        self.history.push_back(Arc::clone(&sample));
        sample
    }

    /// By its name, what each device has done since this process first looked, and before that since its driver began.
    pub(crate) fn totals(&self) -> &BTreeMap<String, Done> {
        &self.totals
    }

    /// The last samples, oldest first.
    pub(crate) fn history(&self) -> Vec<Arc<Sample>> {
        self.history.iter().cloned().collect()
    }
}

/// For quotients: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem::snapshot::{DeviceEntry, Status};

    /// A second in nanoseconds.
    const S: u64 = 1_000_000_000;

    fn look(at_s: u64, broker: u32, instances: &[(u32, u64)]) -> Look {
        let instance = |(number, bytes): &(u32, u64)| InstanceEntry {
            instance: *number,
            bytes: *bytes,
            busy_ns: *bytes / 2,
            in_flight: 3,
            ..InstanceEntry::default()
        };
        let instances = instances.iter().map(instance).collect();
        let device = DeviceEntry { name: "zip".into(), instances, ..DeviceEntry::default() };
        let status = Status { pid: broker, ..Status::default() };
        Look { at_ns: at_s * S, status, devices: vec![device], ..Look::default() }
    }

    #[test]
    fn a_rate_is_of_what_all_processes_did_between_two_looks() {
        let mut rates = Rates::default();
        rates.add(&look(10, 1, &[(1, 5 * S), (2, 0)]));
        let sample = rates.add(&look(12, 1, &[(1, 7 * S), (2, 2 * S)]));
        let zip = sample.devices["zip"];
        assert_eq!((zip.bytes_per_s, zip.busy, zip.depth), (2e9, 1.0, 6));
    }

    #[test]
    fn the_first_look_has_no_rate_nor_has_one_after_a_long_time() {
        let mut rates = Rates::default();
        assert_eq!(rates.add(&look(10, 1, &[(1, S)])).devices["zip"].bytes_per_s, 0.0);
        assert_eq!(rates.add(&look(100, 1, &[(1, 2 * S)])).devices["zip"].bytes_per_s, 0.0);
    }

    #[test]
    fn a_driver_that_was_started_again_takes_nothing_back() {
        let mut rates = Rates::default();
        rates.add(&look(10, 1, &[(1, 500)]));
        rates.add(&look(11, 1, &[(2, 70)]));
        assert_eq!(rates.totals()["zip"].bytes, 570);
    }

    #[test]
    fn the_instances_of_another_broker_are_others() {
        let mut rates = Rates::default();
        rates.add(&look(10, 1, &[(1, 500)]));
        let sample = rates.add(&look(11, 2, &[(1, 600)]));
        assert_eq!((rates.totals()["zip"].bytes, sample.devices["zip"].bytes_per_s), (1100, 0.0));
    }

    #[test]
    fn the_history_is_bounded_and_keeps_the_newest() {
        let mut rates = Rates::default();
        (0..400).for_each(|at_s| drop(rates.add(&look(at_s, 1, &[]))));
        let history = rates.history();
        assert_eq!((history.len(), history.last().map(|sample| sample.at_ms)), (KEPT, Some(399_000)));
    }
}
