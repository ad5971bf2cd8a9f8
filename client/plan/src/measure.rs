//! Measuring: which probe is next, and what the probes say. It runs nothing and has no clock.
//!
//! ```text
//!   Measurement ── next(spent) ─► Probe {device, op, way, bytes} ─ whoever can runs it ─► took(probe, sample)
//!        └── finish ─► Thresholds
//! ```
//!
//! The order is by size: the two smallest of every operation and way, once to warm up and once more, then the next
//! likewise. So a budget that ends early has cost the largest sizes, and not the last operations. When all were done,
//! everything is repeated while there is time, and the fastest run of each size counts: what others do on the machine only
//! ever makes a run slower.
//!
//! The budget is kept by not beginning what would go beyond it, judged by what a smaller size took: in proportion, but no
//! more than 50 ns for each further byte. So it is exceeded by one probe at most, by as much as that took longer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cost::{Cost, Sample, Thresholds, WayCost};
use crate::way::Way;

/// How often everything is done at most.
const ROUNDS: usize = 6;

/// What is timed: a way, of calls over buffers or over plain memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Path {
    Objects(Way),
    /// By the user queue that reaches plain memory. The CPU takes as long as with buffers.
    Plain,
}

/// One run to be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Probe {
    /// Place in the list of what is measured.
    pub(crate) subject: usize,
    pub(crate) path: Path,
    pub(crate) bytes: u64,
}

/// An operation and the ways it can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) device: String,
    pub(crate) op: String,
    pub(crate) paths: Vec<Path>,
}

/// What is measured, and what was found so far.
#[derive(Debug)]
pub(crate) struct Measurement {
    subjects: Vec<Subject>,
    /// In the order in which they are taken.
    left: std::vec::IntoIter<Probe>,
    budget: Duration,
    took: BTreeMap<Probe, (u64, Sample)>,
}

impl Measurement {
    /// Measures these at each of the sizes.
    pub(crate) fn new(subjects: Vec<Subject>, sizes: &[u64], budget: Duration) -> Self {
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let at = |bytes: u64| {
            let all = subjects.iter().enumerate();
            all.flat_map(move |(subject, one)| {
                one.paths.iter().map(move |path| Probe { subject, path: *path, bytes })
            })
        };
        // Two sizes make a line; the first time of each warms up.
        let mut order = Vec::new();
        for pair in sizes.chunks(2) {
            for _ in 0..2 {
                pair.iter().for_each(|bytes| order.extend(at(*bytes)));
            }
        }
        for _ in 2..ROUNDS {
            sizes.iter().for_each(|bytes| order.extend(at(*bytes)));
        }
        Self { subjects, left: order.into_iter(), budget, took: BTreeMap::new() }
    }

    /// What to time next, if there is time for it; `spent` is what has gone so far.
    pub(crate) fn next(&mut self, spent: Duration) -> Option<Probe> {
        let left = self.budget.checked_sub(spent)?;
        let took = &self.took;
        self.left.find(|probe| expected(took, probe).is_none_or(|likely| likely < left))
    }

    /// What is measured at a place of the list.
    pub(crate) fn subject(&self, probe: Probe) -> Option<&Subject> {
        self.subjects.get(probe.subject)
    }

    /// What a probe took, which came to this many bytes.
    pub(crate) fn took(&mut self, probe: Probe, bytes: u64, sample: Sample) {
        let best = self.took.entry(probe).or_insert((bytes, sample));
        if sample.wall_ns < best.1.wall_ns {
            *best = (bytes, sample);
        }
    }

    /// A way of an operation cannot be measured: there are no more probes of it.
    pub(crate) fn give_up(&mut self, failed: Probe) {
        let same = |one: &Probe| one.subject == failed.subject && one.path == failed.path;
        self.took.retain(|one, _| !same(one));
        let rest: Vec<_> = self.left.by_ref().filter(|one| !same(one)).collect();
        self.left = rest.into_iter();
    }

    /// The lines through what was found.
    pub(crate) fn finish(self) -> Thresholds {
        let mut found: BTreeMap<(usize, Path), Vec<(u64, Sample)>> = BTreeMap::new();
        for (probe, point) in &self.took {
            found.entry((probe.subject, probe.path)).or_default().push(*point);
        }
        let mut thresholds = Thresholds::default();
        for ((subject, path), points) in found {
            let line = |of: fn(&Sample) -> u64| {
                let points: Vec<_> = points.iter().map(|(bytes, sample)| (*bytes, of(sample))).collect();
                Cost::fit(&points)
            };
            if let (Some(wall), Some(own), Some(subject)) =
                (line(|s| s.wall_ns), line(|s| s.own_ns), self.subjects.get(subject))
            {
                thresholds.set_path(&subject.device, &subject.op, path, WayCost { wall, own });
            }
        }
        thresholds
    }
}

/// What a byte more takes at most, nanoseconds, as far as is foreseen.
const SLOWEST_BYTE_NS: u64 = 50;

/// How long a probe is likely to take: as before, or by what the largest smaller size took.
fn expected(took: &BTreeMap<Probe, (u64, Sample)>, probe: &Probe) -> Option<Duration> {
    let smaller = took.range(Probe { bytes: 0, ..*probe }..=*probe).next_back();
    let (known, (_, sample)) = smaller?;
    let times = probe.bytes.checked_div(known.bytes).unwrap_or(1).max(1);
    let further = (probe.bytes - known.bytes).saturating_mul(SLOWEST_BYTE_NS);
    let likely = sample.wall_ns.saturating_mul(times).min(sample.wall_ns.saturating_add(further));
    Some(Duration::from_nanos(likely))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 3] = [256, 16_384, 262_144];

    /// A machine on which a way takes `base + bytes * byte`, by a clock of its own.
    struct Machine {
        now_ns: u64,
        runs: Vec<Probe>,
    }

    impl Machine {
        fn line(path: Path) -> (u64, u64) {
            match path {
                Path::Objects(Way::Tracked) => (60_000, 1),
                Path::Objects(Way::UserQueue) => (9_000, 2),
                Path::Objects(Way::Cpu) => (200, 3),
                Path::Plain => (12_000, 4),
            }
        }

        fn run(&mut self, probe: Probe) -> Sample {
            let (base, byte) = Self::line(probe.path);
            let cold = if self.runs.contains(&probe) { 0 } else { 500_000 };
            let wall_ns = base + byte * probe.bytes;
            self.now_ns += wall_ns + cold / 30;
            self.runs.push(probe);
            Sample { wall_ns: wall_ns + cold, own_ns: base / 10 + 1 }
        }
    }

    fn subjects(count: usize) -> Vec<Subject> {
        let op = |number| Subject {
            device: "d".into(),
            op: format!("op{number}"),
            paths: Way::ALL.map(Path::Objects).to_vec(),
        };
        (0..count).map(op).collect()
    }

    fn measured(count: usize, budget: Duration) -> (Machine, Thresholds) {
        let mut machine = Machine { now_ns: 0, runs: Vec::new() };
        let mut measurement = Measurement::new(subjects(count), &SIZES, budget);
        while let Some(probe) = measurement.next(Duration::from_nanos(machine.now_ns)) {
            let sample = machine.run(probe);
            measurement.took(probe, probe.bytes, sample);
        }
        (machine, measurement.finish())
    }

    #[test]
    fn with_time_enough_every_way_of_every_operation_has_its_line() {
        let (_, found) = measured(14, Duration::from_secs(10));
        for number in 0..14 {
            let costs = found.of("d", &format!("op{number}")).expect("it was measured");
            for way in Way::ALL {
                let (base, byte) = Machine::line(Path::Objects(way));
                let wall = costs.of(way).expect("so was the way").wall;
                let near = |found: f64, wanted: u64| (found - wanted as f64).abs() < 0.01 * wanted as f64;
                assert!(near(wall.base_ns, base) && near(wall.byte_ns, byte), "{way}: {wall:?}");
            }
        }
    }

    #[test]
    fn no_budget_is_exceeded_by_more_than_one_smallest_probe() {
        // Nothing is foreseen of the first run of a way: a smallest one, and the warming up.
        let most = 100_000;
        for ms in [0, 1, 5, 20, 100] {
            let (machine, _) = measured(14, Duration::from_millis(ms));
            assert!(machine.now_ns <= ms * 1_000_000 + most, "{ms} ms: {} ns", machine.now_ns);
        }
    }

    #[test]
    fn a_budget_that_ends_early_costs_the_largest_sizes_and_no_operation() {
        let (machine, found) = measured(14, Duration::from_millis(12));
        let large = machine.runs.iter().filter(|probe| probe.bytes == SIZES[2]).count();
        assert!(large < 14, "the budget was not for all: {large}");
        let known = found.devices.get("d").expect("it was measured").values();
        let known = known.flat_map(|costs| Way::ALL.map(|way| costs.of(way).is_some()));
        assert_eq!(known.filter(|known| *known).count(), 14 * 3);
    }

    #[test]
    fn without_time_nothing_is_measured() {
        let (machine, found) = measured(3, Duration::ZERO);
        assert!(machine.runs.len() <= 1 && found == Thresholds::default(), "{:?}", machine.runs);
    }

    #[test]
    fn what_cannot_be_measured_is_left_out_and_not_tried_again() {
        let mut measurement = Measurement::new(subjects(2), &SIZES, Duration::from_secs(1));
        let (mut spent, mut tries) = (Duration::ZERO, 0);
        while let Some(probe) = measurement.next(spent) {
            spent += Duration::from_micros(10);
            if probe.subject == 1 && probe.path == Path::Objects(Way::UserQueue) {
                tries += 1;
                measurement.give_up(probe);
            } else {
                measurement.took(probe, probe.bytes, Sample { wall_ns: 100 + probe.bytes, own_ns: 100 });
            }
        }
        let found = measurement.finish();
        let known = |op: &str| found.of("d", op).and_then(|costs| costs.user_queue).is_some();
        assert_eq!((tries, known("op0"), known("op1")), (1, true, false));
    }
}
