//! Costs: what was measured, as two numbers per way.
//!
//! ```text
//!   ns                              ╱ CPU
//!    │                          ╱        ___ tracked      cost = base + bytes * per byte
//!    │            ________╱___───
//!    │ ____───╱‾‾‾                                        the lowest line at a size is the way to go;
//!    │    ╱      user queue                               where two cross is a threshold
//!    └───┴────────────┴───────────────────── bytes
//! ```
//!
//! A line through a few sizes is a coarse picture of caches and windows, and good enough for what is asked of it: which of
//! three lines is the lowest. Each point weighs by its relative error, so that the largest size does not decide about the
//! base of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::Path;
use crate::way::{Aim, Way};

/// A line: what something takes, by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// However little it is, nanoseconds.
    pub base_ns: f64,
    /// For each byte, nanoseconds.
    pub byte_ns: f64,
}

/// What one run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Until it was done, nanoseconds.
    pub wall_ns: u64,
    /// Of the calling thread's CPU, nanoseconds.
    pub own_ns: u64,
}

/// What one way takes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayCost {
    /// Until it is done.
    pub wall: Cost,
    /// Of the calling thread's CPU.
    pub own: Cost,
}

/// What the ways of one operation take; those that were measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct OpCosts {
    /// As a job.
    pub tracked: Option<WayCost>,
    /// As an entry of a user queue.
    pub user_queue: Option<WayCost>,
    /// In this process.
    pub cpu: Option<WayCost>,
    /// As an entry of a user queue that reaches plain memory, and copies it.
    pub plain: Option<WayCost>,
}

/// All that was measured: for programs that keep it, and for those that know better.
///
/// Serialized it is a map from devices to operations to ways. It is true of one machine, one build and one state of both;
/// of operations it says what their default parameters cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// What a guard of a buffer takes that other clients may use, because it asks the broker; nanoseconds.
    pub ask_ns: f64,
    /// By device and operation.
    pub devices: BTreeMap<String, BTreeMap<String, OpCosts>>,
}

/// From which size on a way is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Crossover {
    /// Bytes.
    pub from: u64,
    /// The way.
    pub way: Way,
}

impl Cost {
    /// A line.
    #[must_use]
    pub const fn new(base_ns: f64, byte_ns: f64) -> Self {
        Self { base_ns, byte_ns }
    }

    /// What this many bytes take, nanoseconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes and times are estimates")]
    pub fn at(&self, bytes: u64) -> f64 {
        self.base_ns + self.byte_ns * bytes as f64
    }

    /// The line that fits best to what sizes took, in proportion to that; neither number is below 0. Nothing for fewer than
    /// two sizes: they say nothing of others.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes and times are estimates")]
    pub fn fit(points: &[(u64, u64)]) -> Option<Self> {
        let first = points.first()?;
        if points.iter().all(|point| point.0 == first.0) {
            return None;
        }
        let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (bytes, ns) in points {
            let (x, y) = (*bytes as f64, (*ns).max(1) as f64);
            let weight = 1.0 / (y * y);
            w += weight;
            wx += weight * x;
            wy += weight * y;
            wxx += weight * x * x;
            wxy += weight * x * y;
        }
        let det = w * wxx - wx * wx;
        let line = Self::new((wxx * wy - wx * wxy) / det, (w * wxy - wx * wy) / det);
        Some(match line {
            Self { byte_ns, .. } if byte_ns < 0.0 => Self::new(wy / w, 0.0),
            Self { base_ns, .. } if base_ns < 0.0 => Self::new(0.0, wxy / wxx),
            line => line,
        })
    }
}

impl WayCost {
    pub(crate) const fn line(&self, aim: Aim) -> Cost {
        match aim {
            Aim::Latency => self.wall,
            Aim::OwnCpu => self.own,
        }
    }
}

impl OpCosts {
    /// What a way takes, if it was measured.
    #[must_use]
    pub const fn of(&self, way: Way) -> Option<WayCost> {
        match way {
            Way::Tracked => self.tracked,
            Way::UserQueue => self.user_queue,
            Way::Cpu => self.cpu,
        }
    }

    /// Says what a way takes.
    pub const fn set(&mut self, way: Way, cost: WayCost) {
        match way {
            Way::Tracked => self.tracked = Some(cost),
            Way::UserQueue => self.user_queue = Some(cost),
            Way::Cpu => self.cpu = Some(cost),
        }
    }
}

impl Thresholds {
    /// What an operation takes, if any of it was measured.
    #[must_use]
    pub fn of(&self, device: &str, op: &str) -> Option<&OpCosts> {
        self.devices.get(device)?.get(op)
    }

    /// Says what a way of an operation takes.
    pub fn set(&mut self, device: &str, op: &str, way: Way, cost: WayCost) {
        let ops = self.devices.entry(device.to_owned()).or_default();
        ops.entry(op.to_owned()).or_default().set(way, cost);
    }
}

impl Thresholds {
    /// Says what was measured.
    pub(crate) fn set_path(&mut self, device: &str, op: &str, path: Path, cost: WayCost) {
        match path {
            Path::Objects(way) => self.set(device, op, way, cost),
            Path::Plain => {
                let ops = self.devices.entry(device.to_owned()).or_default();
                ops.entry(op.to_owned()).or_default().plain = Some(cost);
            }
        }
    }
}

impl OpCosts {
    /// What calls over plain memory take.
    pub(crate) const fn over_plain(&self) -> Self {
        Self { tracked: None, user_queue: self.plain, ..*self }
    }
}

/// The way with the lowest line at each size, from 0 bytes on. Lines that are level go in the order they are given.
pub(crate) fn crossovers(lines: &[(Way, Cost)]) -> Vec<Crossover> {
    let mut found: Vec<Crossover> = Vec::new();
    let mut at = 0.0;
    while let Some((way, line)) = lowest(lines, at) {
        if found.last().is_none_or(|last| last.way != way) {
            found.push(Crossover { from: bytes_of(at), way });
        }
        // The next line that passes below it does so with a smaller slope.
        let flatter = lines.iter().filter(|(_, other)| other.byte_ns < line.byte_ns);
        let crossing =
            flatter.map(|(_, other)| (other.base_ns - line.base_ns) / (line.byte_ns - other.byte_ns));
        match crossing.filter(|bytes| *bytes > at).min_by(f64::total_cmp) {
            Some(next) if next < MOST => at = next,
            _ => break,
        }
    }
    found
}

/// Bytes beyond which nobody cares: more than an object has.
const MOST: f64 = 1e15;

fn lowest(lines: &[(Way, Cost)], at: f64) -> Option<(Way, Cost)> {
    // Where two meet, the flatter one is below from there on.
    let height = |cost: &Cost| (cost.base_ns + cost.byte_ns * at, cost.byte_ns);
    lines.iter().copied().reduce(|best, one| {
        let (best_height, best_slope) = height(&best.1);
        let (own, slope) = height(&one.1);
        let level = (own - best_height).abs() <= 1e-9 * best_height.abs().max(1.0);
        if (level && slope < best_slope) || (!level && own < best_height) { one } else { best }
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that leaves the range of integers saturates"
)]
fn bytes_of(at: f64) -> u64 {
    at.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: (Way, Cost) = (Way::Cpu, Cost::new(100.0, 1.0));
    const USER: (Way, Cost) = (Way::UserQueue, Cost::new(1_100.0, 0.5));
    const TRACKED: (Way, Cost) = (Way::Tracked, Cost::new(11_100.0, 0.25));

    fn ways(lines: &[(Way, Cost)]) -> Vec<(u64, Way)> {
        crossovers(lines).iter().map(|one| (one.from, one.way)).collect()
    }

    #[test]
    fn a_line_is_found_again_from_points_on_it() {
        let points = [256, 16_384, 262_144].map(|bytes| (bytes, 3_000 + bytes * 2));
        let line = Cost::fit(&points).expect("three sizes");
        assert!((line.base_ns - 3_000.0).abs() < 1e-3 && (line.byte_ns - 2.0).abs() < 1e-6, "{line:?}");
    }

    #[test]
    fn a_large_size_that_is_off_does_not_spoil_the_base() {
        let line = Cost::fit(&[(256, 3_000), (16_384, 35_000), (262_144, 700_000)]).expect("three sizes");
        assert!((2_000.0..3_000.0).contains(&line.base_ns), "{line:?}");
    }

    #[test]
    fn a_line_never_falls_and_begins_at_0_or_above() {
        let flat = Cost::fit(&[(256, 5_000), (4_096, 4_000)]).expect("two sizes");
        assert!(flat.byte_ns == 0.0 && (4_000.0..5_000.0).contains(&flat.base_ns), "{flat:?}");
        let steep = Cost::fit(&[(1_000, 10), (2_000, 1_000)]).expect("two sizes");
        assert!(steep.base_ns == 0.0 && steep.byte_ns > 0.0, "{steep:?}");
    }

    #[test]
    fn one_size_is_no_line() {
        assert_eq!((Cost::fit(&[]), Cost::fit(&[(64, 9), (64, 8)])), (None, None));
    }

    #[test]
    fn each_way_begins_where_its_line_passes_below_the_one_before() {
        let wanted = [(0, Way::Cpu), (2_000, Way::UserQueue), (40_000, Way::Tracked)];
        assert_eq!(ways(&[TRACKED, USER, CPU]), wanted);
        assert_eq!(ways(&[CPU, USER, TRACKED]), wanted);
    }

    #[test]
    fn a_line_that_is_nowhere_the_lowest_is_left_out() {
        let middling = (Way::UserQueue, Cost::new(10_000.0, 0.9));
        let found = ways(&[TRACKED, middling, CPU]);
        assert_eq!(found, [(0, Way::Cpu), (14_667, Way::Tracked)]);
        assert_eq!((ways(&[CPU]), ways(&[])), (vec![(0, Way::Cpu)], vec![]));
    }

    #[test]
    fn level_lines_go_in_the_order_they_are_given() {
        let same = Cost::new(5.0, 1.0);
        assert_eq!(ways(&[(Way::Tracked, same), (Way::Cpu, same)]), [(0, Way::Tracked)]);
    }

    #[test]
    fn thresholds_come_back_from_their_text_and_a_word_too_much_is_refused() {
        let mut kept = Thresholds { ask_ns: 40_000.0, ..Thresholds::default() };
        let wall = Cost::new(1.5, 0.25);
        kept.set("zip", "compress", Way::Cpu, WayCost { wall, own: wall });
        let text = serde_json::to_string(&kept).expect("plain data");
        assert_eq!(serde_json::from_str::<Thresholds>(&text).expect("as it was written"), kept);
        let wrong = text.replace("ask_ns", "asks_ns");
        assert!(serde_json::from_str::<Thresholds>(&wrong).is_err());
    }
}
