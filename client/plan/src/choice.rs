//! The choice: which way an operation goes, and why.
//!
//! ```text
//!   for each way:  allowed by `require`? ─ something in the way? ─ measured? ─► what it takes at this size
//!                       └── no ──────────────┴─ yes ─► an obstacle      └─ no ─► only if no other is left
//!   the lowest of what is left ─► chosen
//! ```
//!
//! It is a pure function: costs, size and obstacles in, a [`Choice`] out. What it is not: a promise. An estimate is a line
//! through what was measured once; whether the device is busy now it does not know.

use serde::Serialize;

use crate::cost::{Cost, Crossover, OpCosts, crossovers};
use crate::way::{Aim, Require, Way};

/// Which way an operation goes, and why. Prints itself in at most 80 columns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The device.
    pub device: String,
    /// The operation.
    pub op: String,
    /// Bytes: of the longest operand that is read, or without one of the longest that is written.
    pub bytes: u64,
    /// What the best way is the best at.
    pub aim: Aim,
    /// The way that was chosen; nothing if none is left.
    pub way: Option<Way>,
    /// Each way, in the order of [`Way::ALL`].
    pub candidates: [Candidate; 3],
    /// Which way is the best from which size on, of those that are measured and possible.
    pub crossovers: Vec<Crossover>,
}

/// A way, as it was considered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The way.
    pub way: Way,
    /// What it takes, if it was measured.
    pub estimate: Option<Estimate>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What a way takes, by what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Until it is done: the base, and what each byte adds.
    pub wall: Cost,
    /// At this size, until it is done, nanoseconds.
    pub wall_ns: f64,
    /// At this size, of the calling thread's CPU, nanoseconds.
    pub own_ns: f64,
}

/// What became of a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is the one.
    Chosen,
    /// Another one is better.
    Costlier,
    /// It is possible and was not measured, and another one was.
    NotMeasured,
    /// It is not possible.
    Not(Obstacle),
}

/// Why a way is not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Obstacle {
    /// The caller said so.
    #[error("`require` forbids it")]
    Forbidden,
    /// It could not be opened.
    #[error("there is no {way}: {why}")]
    Unavailable {
        /// Which way.
        way: Way,
        /// Why.
        why: String,
    },
    /// It was there and is lost.
    #[error("it is lost: {why}")]
    Lost {
        /// How.
        why: String,
    },
    /// This program has no engine of the device.
    #[error("this program has no engine of the device")]
    NoEngine,
    /// The device describes the operation otherwise than this program's engine does.
    #[error("the device describes the operation otherwise than this program's engine")]
    OtherEngine,
    /// An operand is shared, and only jobs and guards are ordered with what others do.
    #[error(
        "operand {operand:?} is shared with other clients, and jobs of theirs would not be waited for (`although_shared`)"
    )]
    Shared {
        /// The operand.
        operand: String,
    },
    /// An operand is not bound to the user queue, or not to be written.
    #[error("operand {operand:?} is not bound for that (`bind`)")]
    NotBound {
        /// The operand.
        operand: String,
    },
    /// The memory is plain, and no job can name it.
    #[error("the memory is plain, and no job can name it: make a buffer of it, or adopt it")]
    Plain,
    /// The memory is plain, and the plan has no user queue that reaches it.
    #[error("the memory is plain, and the plan has no user queue that reaches it (`PlanOptions::sva`)")]
    NoSva,
    /// A slice is to be written, and only a vector can be lent to a device.
    #[error("operand {operand:?} is a slice that is written, and only a vector can be lent to a device")]
    NotLendable {
        /// The operand.
        operand: String,
    },
    /// This process may not write an operand, though jobs may.
    #[error("this process may not write operand {operand:?}")]
    ReadOnly {
        /// The operand.
        operand: String,
    },
    /// It would keep a task's thread for too long.
    #[error("it would keep the task's thread for {}, and {} is the most", crate::words::time(*.wall_ns as f64), crate::words::time(*.limit_ns as f64))]
    Blocks {
        /// How long, nanoseconds.
        wall_ns: u64,
        /// How long it may, nanoseconds.
        limit_ns: u64,
    },
    /// It would keep a task's thread for nobody knows how long.
    #[error("how long it would keep the task's thread was not measured")]
    MayBlock,
    /// Too many calls go that way already.
    #[error("{count} calls are under way there, which is the most")]
    Busy {
        /// How many.
        count: usize,
    },
}

/// What a choice is made of.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) device: &'a str,
    pub(crate) op: &'a str,
    pub(crate) bytes: u64,
    pub(crate) require: Require,
    pub(crate) aim: Aim,
    pub(crate) costs: OpCosts,
    /// What is in the way, by [`Way::place`].
    pub(crate) obstacles: [Option<Obstacle>; 3],
    /// What guards take beyond what was measured, nanoseconds: those of shared buffers ask the broker.
    pub(crate) asking_ns: f64,
}

impl Asked<'_> {
    /// Chooses.
    pub(crate) fn choose(&self) -> Choice {
        let candidates = Way::ALL.map(|way| self.candidate(way));
        let possible = |one: &&Candidate| !matches!(one.verdict, Verdict::Not(_));
        let lines: Vec<_> = candidates
            .iter()
            .filter(possible)
            .filter_map(|one| Some((one.way, self.line(one.way)?)))
            .collect();
        let best = lines
            .iter()
            .copied()
            .reduce(|best, one| if one.1.at(self.bytes) < best.1.at(self.bytes) { one } else { best });
        let way = best.map(|(way, _)| way).or(candidates.iter().find(possible).map(|one| one.way));
        Choice {
            device: self.device.to_owned(),
            op: self.op.to_owned(),
            bytes: self.bytes,
            aim: self.aim,
            way,
            candidates: candidates.map(|one| one.judged(way)),
            crossovers: crossovers(&lines),
        }
    }

    fn candidate(&self, way: Way) -> Candidate {
        let obstacle = if self.require.allows(way) {
            self.obstacles.get(way.place()).cloned().flatten()
        } else {
            Some(Obstacle::Forbidden)
        };
        let estimate = self.costs.of(way).map(|cost| {
            let wall = self.with_asking(way, cost.wall);
            Estimate { wall, wall_ns: wall.at(self.bytes), own_ns: cost.own.at(self.bytes) }
        });
        let verdict = obstacle.map_or(Verdict::NotMeasured, Verdict::Not);
        Candidate { way, estimate, verdict }
    }

    fn line(&self, way: Way) -> Option<Cost> {
        let line = self.costs.of(way)?.line(self.aim);
        Some(if self.aim == Aim::Latency { self.with_asking(way, line) } else { line })
    }

    fn with_asking(&self, way: Way, cost: Cost) -> Cost {
        let asking = if way == Way::Tracked { 0.0 } else { self.asking_ns };
        Cost::new(cost.base_ns + asking, cost.byte_ns)
    }
}

impl Candidate {
    fn judged(mut self, chosen: Option<Way>) -> Self {
        self.verdict = match self.verdict {
            Verdict::Not(obstacle) => Verdict::Not(obstacle),
            _ if chosen == Some(self.way) => Verdict::Chosen,
            _ if self.estimate.is_some() => Verdict::Costlier,
            other => other,
        };
        self
    }
}

impl Choice {
    /// A way, as it was considered.
    #[must_use]
    pub fn candidate(&self, way: Way) -> &Candidate {
        &self.candidates[way.place()]
    }

    /// Why a way is not possible, if it is not.
    #[must_use]
    pub fn obstacle(&self, way: Way) -> Option<&Obstacle> {
        match &self.candidate(way).verdict {
            Verdict::Not(obstacle) => Some(obstacle),
            Verdict::Chosen | Verdict::Costlier | Verdict::NotMeasured => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::WayCost;

    fn costs() -> OpCosts {
        let both = |base, byte| Some(WayCost { wall: Cost::new(base, byte), own: Cost::new(base, byte) });
        let asleep = |base, byte| Some(WayCost { wall: Cost::new(base, byte), own: Cost::new(5_000.0, 0.0) });
        let (tracked, user_queue) = (asleep(60_000.0, 0.1), asleep(10_000.0, 0.2));
        OpCosts { tracked, user_queue, cpu: both(200.0, 0.5), plain: None }
    }

    fn asked(bytes: u64, require: Require) -> Asked<'static> {
        Asked {
            device: "copy",
            op: "copy",
            bytes,
            require,
            aim: Aim::Latency,
            costs: costs(),
            obstacles: [None, None, None],
            asking_ns: 0.0,
        }
    }

    fn chosen(bytes: u64, require: Require) -> Option<Way> {
        asked(bytes, require).choose().way
    }

    #[test]
    fn the_way_that_is_done_first_at_this_size_is_chosen() {
        let sizes = [64, 32_000, 33_000, 490_000, 510_000];
        let ways = sizes.map(|bytes| chosen(bytes, Require::ANY));
        let wanted = [Way::Cpu, Way::Cpu, Way::UserQueue, Way::UserQueue, Way::Tracked];
        assert_eq!(ways, wanted.map(Some));
    }

    #[test]
    fn a_choice_and_its_thresholds_say_the_same_at_every_size() {
        let thresholds = asked(0, Require::ANY).choose().crossovers;
        for bytes in (0..600_000).step_by(997) {
            let said = thresholds.iter().rev().find(|one| one.from <= bytes).map(|one| one.way);
            assert_eq!(chosen(bytes, Require::ANY), said, "{bytes} bytes");
        }
    }

    #[test]
    fn what_is_required_is_chosen_however_costly_it_is() {
        assert_eq!(chosen(64, Require::TRACKED), Some(Way::Tracked));
        assert_eq!(chosen(64, Require::DEVICE), Some(Way::UserQueue));
        assert_eq!(chosen(1 << 30, Require::CPU), Some(Way::Cpu));
    }

    #[test]
    fn to_keep_the_own_cpu_free_the_way_that_sleeps_is_chosen() {
        let choose = |bytes| Asked { aim: Aim::OwnCpu, ..asked(bytes, Require::ANY) }.choose();
        assert_eq!((choose(1_000).way, choose(20_000).way), (Some(Way::Cpu), Some(Way::Tracked)));
    }

    #[test]
    fn an_obstacle_leaves_the_others_and_is_told() {
        let busy = Obstacle::Busy { count: 3 };
        let one = Asked { obstacles: [None, None, Some(busy.clone())], ..asked(64, Require::ANY) };
        let choice = one.choose();
        assert_eq!((choice.way, choice.obstacle(Way::Cpu)), (Some(Way::UserQueue), Some(&busy)));
        assert!(choice.crossovers.iter().all(|one| one.way != Way::Cpu));
    }

    #[test]
    fn with_an_obstacle_in_the_only_way_that_is_allowed_none_is_left() {
        let lost = Obstacle::Lost { why: "device lost".into() };
        let one = Asked { obstacles: [None, Some(lost), None], ..asked(64, Require::USER_QUEUE) };
        let choice = one.choose();
        assert_eq!((choice.way, choice.obstacle(Way::Tracked)), (None, Some(&Obstacle::Forbidden)));
    }

    #[test]
    fn what_was_not_measured_is_chosen_only_if_nothing_else_is_left() {
        let costs = OpCosts { tracked: None, user_queue: None, ..costs() };
        let some = Asked { costs, ..asked(1 << 20, Require::ANY) }.choose();
        assert_eq!((some.way, &some.candidates[0].verdict), (Some(Way::Cpu), &Verdict::NotMeasured));
        let none = Asked { costs: OpCosts::default(), ..asked(64, Require::ANY) };
        assert_eq!(none.choose().way, Some(Way::Tracked));
    }

    #[test]
    fn a_guard_that_asks_the_broker_makes_the_cpu_costlier() {
        let choose = |asking_ns| Asked { asking_ns, ..asked(64, Require::TRACKED.or(Require::CPU)) }.choose();
        assert_eq!((choose(30_000.0).way, choose(70_000.0).way), (Some(Way::Cpu), Some(Way::Tracked)));
    }
}
