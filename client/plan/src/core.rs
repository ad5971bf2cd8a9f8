//! What both fronts share: the lanes of each device, what is in the way of a call, and what its end means. It does no I/O.
//!
//! ```text
//!   Attempt ── next ─► (way, choice) ─ the front goes there ─► ended ─┬─ done, failed ─► the caller
//!        ▲                                                            │
//!        └──── the lane is lost, and the call may be repeated ◄───────┘
//! ```
//!
//! A call is repeated after a loss only if that cannot be told from doing it once: the description says so, and nothing it
//! reads lies where it writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vgem::{
    Access, Call, CallOperand, Direction, ErrorCode, LocalError, Operation, Slice, UserQueue, WriteGuard,
};
use vgem_driver::{JobError, Produced};

use crate::choice::{Asked, Choice, Obstacle};
use crate::cost::{OpCosts, Sample, Thresholds};
use crate::error::{At, Error, Result};
use crate::lane::{Lane, Line, Slot, Slots, lock};
use crate::memory::range_of;
use crate::options::PlanOptions;
use crate::way::{Aim, Require, Way};
use crate::{Done, words};

/// What a plan knows and holds.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) lanes: BTreeMap<String, Lane>,
    pub(crate) thresholds: Thresholds,
    /// What queues are opened with.
    pub(crate) options: PlanOptions,
    pub(crate) cells: Slots,
}

impl Core {
    /// A device of the plan.
    pub(crate) fn lane(&self, device: &str) -> Result<&Lane, LocalError> {
        self.lanes.get(device).ok_or_else(|| {
            let known = self.lanes.keys().cloned().collect();
            LocalError::NoSuchDevice { name: device.to_owned(), known }
        })
    }
}

/// What a caller asks for beside the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) require: Require,
    pub(crate) aim: Aim,
    pub(crate) although_shared: bool,
    /// How long the CPU may be kept, where that is a task's.
    pub(crate) most_cpu: Option<Duration>,
}

impl Terms {
    /// Those of a probe, which has its way already.
    pub(crate) const fn probing() -> Self {
        let (require, aim) = (Require::ANY, Aim::Latency);
        Self { require, aim, although_shared: true, most_cpu: None }
    }
}

/// How a way ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Well(Produced),
    Client(vgem::Error),
    Engine(JobError),
    /// It did not begin.
    Elsewhere(Obstacle),
}

impl Ended {
    pub(crate) fn of(result: vgem::Result<Produced>) -> Self {
        result.map_or_else(Self::Client, Self::Well)
    }
}

/// A call that is being carried out.
#[derive(Debug)]
pub(crate) struct Attempt<'p, 'c, 'a> {
    core: &'p Core,
    lane: &'p Lane,
    call: &'c Call<Slice<'a>>,
    operation: &'c Operation,
    terms: Terms,
    /// What was found on the way.
    met: [Option<Obstacle>; 3],
    first: Option<Error>,
}

impl<'p, 'c, 'a> Attempt<'p, 'c, 'a> {
    pub(crate) fn new(
        core: &'p Core,
        lane: &'p Lane,
        call: &'c Call<Slice<'a>>,
        terms: Terms,
    ) -> Result<Self, LocalError> {
        let operation = call.check()?;
        Ok(Self { core, lane, call, operation, terms, met: [None, None, None], first: None })
    }

    pub(crate) fn op(&self) -> u16 {
        self.operation.number
    }

    /// Whether the operation leaves its results in a cell.
    pub(crate) fn has_cell(&self) -> bool {
        self.operation.operands.iter().any(|operand| operand.direction == Direction::Cell)
    }

    /// Chooses a way as things are now.
    pub(crate) fn choose(&self) -> Choice {
        let (device, op) = (self.call.device(), self.operation.name.as_str());
        let costs = self.core.thresholds.of(device, op).copied().unwrap_or_default();
        let mut obstacles = Way::ALL.map(|way| self.obstacle(way));
        for (place, met) in obstacles.iter_mut().zip(&self.met) {
            *place = met.clone().or(place.take());
        }
        let bytes = bytes_of(self.call);
        obstacles[Way::Cpu.place()] =
            obstacles[Way::Cpu.place()].take().or_else(|| keeps_too_long(self.terms, &costs, bytes));
        let Terms { require, aim, .. } = self.terms;
        let asking_ns = f64::from(self.shared()) * self.core.thresholds.ask_ns;
        Asked { device, op, bytes, require, aim, costs, obstacles, asking_ns }.choose()
    }

    /// The way to go next.
    pub(crate) fn next(&mut self) -> Result<(Way, Choice)> {
        let choice = self.choose();
        match choice.way {
            Some(way) => Ok((way, choice)),
            None => Err(self.first.take().unwrap_or_else(|| Error::NoWay(Box::new(choice)))),
        }
    }

    /// What the end of a way means: the end of the call, or nothing if there is another way to go.
    pub(crate) fn ended(&mut self, way: Way, choice: Choice, ended: Ended) -> Option<Result<Done>> {
        let at = At { device: self.call.device(), op: &self.operation.name, way };
        let error = match ended {
            Ended::Well(produced) => return Some(Ok(Done::new(produced, way, choice))),
            Ended::Engine(error) => return Some(Err(at.engine(error))),
            Ended::Elsewhere(obstacle) => {
                self.met[way.place()] = Some(obstacle);
                return None;
            }
            Ended::Client(error) => error,
        };
        if !is_loss(way, &error) {
            return Some(Err(at.client(error)));
        }
        let why = error.to_string();
        self.met[way.place()] = Some(Obstacle::Lost { why: why.clone() });
        if !matches!(error, vgem::Error::BrokerLost { .. }) {
            self.lane.lost(way, why);
        }
        let error = at.client(error);
        if !is_repeatable(self.call, self.operation) {
            return Some(Err(error));
        }
        self.first.get_or_insert(error);
        None
    }

    fn obstacle(&self, way: Way) -> Option<Obstacle> {
        let now = Instant::now();
        match way {
            Way::Tracked => lock(&self.lane.tracked).obstacle(now).or_else(|| self.core.cells.obstacle()),
            Way::UserQueue => {
                let queue = match &*lock(&self.lane.user) {
                    Line::Open(queue) => Arc::clone(queue),
                    closed => return closed.obstacle(now),
                };
                self.unshared().or_else(|| self.unbound(&queue))
            }
            Way::Cpu => match &self.lane.local {
                None => Some(Obstacle::NoEngine),
                Some(local) if !local.does(self.operation) => Some(Obstacle::OtherEngine),
                Some(_) => self.unwritable(),
            },
        }
    }

    fn unshared(&self) -> Option<Obstacle> {
        let mut operands = self.call.operands().iter();
        let shared = operands.find(|operand| operand.memory.buffer().is_shared());
        let shared = shared.filter(|_| !self.terms.although_shared)?;
        Some(Obstacle::Shared { operand: self.name(shared.number) })
    }

    fn unbound(&self, queue: &UserQueue) -> Option<Obstacle> {
        let mut operands = self.call.operands().iter().filter(|operand| !operand.memory.is_empty());
        let unbound = operands.find(|operand| {
            let bound = queue.bound(operand.memory, access_of(operand.direction));
            let here = operand.memory.buffer().address() + operand.memory.offset();
            bound.is_none_or(|range| range.address() != here)
        })?;
        Some(Obstacle::NotBound { operand: self.name(unbound.number) })
    }

    fn unwritable(&self) -> Option<Obstacle> {
        let mut operands = self.call.operands().iter();
        let found = operands
            .find(|operand| operand.direction != Direction::In && !operand.memory.buffer().is_writable())?;
        Some(Obstacle::ReadOnly { operand: self.name(found.number) })
    }

    fn shared(&self) -> u32 {
        let operands = self.call.operands().iter().filter(|operand| operand.memory.buffer().is_shared());
        u32::try_from(operands.count()).unwrap_or(u32::MAX)
    }

    fn name(&self, operand: u8) -> String {
        let spec = self.operation.operands.get(usize::from(operand));
        spec.map_or_else(String::new, |spec| spec.name.clone())
    }
}

/// Whether a task's thread would be kept from its other tasks.
pub(crate) fn keeps_too_long(terms: Terms, costs: &OpCosts, bytes: u64) -> Option<Obstacle> {
    let most = terms.most_cpu.filter(|_| !terms.require.is_only(Way::Cpu))?;
    let Some(cost) = costs.cpu else { return Some(Obstacle::MayBlock) };
    let (wall_ns, limit_ns) = (words::whole(cost.wall.at(bytes)), words::whole(most.as_secs_f64() * 1e9));
    (wall_ns > limit_ns).then_some(Obstacle::Blocks { wall_ns, limit_ns })
}

/// The bytes that a call's cost goes by: of the longest operand that is read, or without one of the longest that is written.
pub(crate) fn longest<M>(operands: &[CallOperand<M>], len: impl Fn(&M) -> u64) -> u64 {
    let of = |reads: bool| {
        let those = operands.iter().filter(|one| (one.direction == Direction::In) == reads);
        those.map(|one| len(&one.memory)).max()
    };
    of(true).or_else(|| of(false)).unwrap_or(0)
}

/// The same of slices.
pub(crate) fn bytes_of(call: &Call<Slice<'_>>) -> u64 {
    longest(call.operands(), Slice::len)
}

/// What a job left in its cell, if it had one.
pub(crate) fn from_cell(slot: &Slot<'_>, had_one: bool) -> Produced {
    if !had_one {
        return Produced::default();
    }
    let cell = slot.cell().read();
    Produced { len: cell.produced(), value: cell.value(), digest: cell.digest(), staged: 0 }
}

/// What an entry left.
pub(crate) fn from_entry(done: &vgem::EntryDone) -> Produced {
    let digest = done.cell.map(|cell| cell.digest()).unwrap_or_default();
    Produced { len: done.produced, value: done.value, digest, staged: 0 }
}

/// Whether nobody knows how an entry ended, because it has not.
pub(crate) const fn goes_on<T>(ended: &vgem::Result<T>) -> bool {
    matches!(ended, Err(vgem::Error::Timeout { .. } | vgem::Error::BrokerLost { .. }))
}

/// That these bytes were written anew, by somebody who cannot say so.
pub(crate) fn rewrite(mut guard: WriteGuard<'_>) {
    let _all: &mut [u8] = &mut guard;
}

/// How a probe went: nothing if it did not begin, or the engine would not.
pub(crate) fn probed(ended: Ended) -> Option<vgem::Result<()>> {
    match ended {
        Ended::Well(_) => Some(Ok(())),
        Ended::Client(error) => Some(Err(error)),
        Ended::Engine(_) | Ended::Elsewhere(_) => None,
    }
}

/// The fastest of some runs, nanoseconds; 0 if none went well.
#[expect(clippy::cast_precision_loss, reason = "times are estimates")]
pub(crate) fn fastest(runs: impl Iterator<Item = vgem::Result<Sample>>) -> f64 {
    runs.flatten().map(|sample| sample.wall_ns).min().unwrap_or(0) as f64
}

/// The end of an unbinding, unless it was of a queue that is not there any more.
pub(crate) fn unless_other(undone: vgem::Result<()>) -> vgem::Result<()> {
    match undone {
        Err(vgem::Error::Local(LocalError::OtherQueue { .. }) | vgem::Error::QueueOver(_)) => Ok(()),
        undone => undone,
    }
}

/// Whether the bytes of an operand are read.
pub(crate) const fn is_read(direction: Direction) -> bool {
    matches!(direction, Direction::In | Direction::InOut)
}

/// Whether all bytes of an operand are another's once the operation has ended well.
pub(crate) fn is_replaced(operand: &CallOperand<Slice<'_>>) -> bool {
    operand.direction == Direction::Out && !operand.memory.is_empty()
}

pub(crate) const fn access_of(direction: Direction) -> Access {
    match direction {
        Direction::In => Access::Read,
        Direction::Out | Direction::InOut | Direction::Cell => Access::Write,
    }
}

/// Whether the way itself is gone.
fn is_loss(way: Way, error: &vgem::Error) -> bool {
    match (way, error) {
        (Way::Cpu, _) => false,
        (_, vgem::Error::BrokerLost { .. } | vgem::Error::QueueOver(_)) => true,
        // A batch for a queue that is gone is refused; why, its explanation says.
        (Way::Tracked, vgem::Error::Job(failure)) if failure.code == ErrorCode::Refused => {
            failure.explanation.as_ref().is_some_and(|told| is_lost(told.code))
        }
        (Way::Tracked, error) => error.code().is_some_and(is_lost),
        (Way::UserQueue, _) => false,
    }
}

const fn is_lost(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::DeviceLost | ErrorCode::Gone | ErrorCode::Unavailable | ErrorCode::BrokerLost)
}

/// Whether doing it again cannot be told from doing it once.
fn is_repeatable(call: &Call<Slice<'_>>, operation: &Operation) -> bool {
    let operands = || call.operands().iter();
    let overlaps = |written: &CallOperand<Slice<'_>>| {
        operands().filter(|one| one.direction == Direction::In).any(|read| {
            let (a, b) = (range_of(read), range_of(written));
            read.memory.buffer().handle() == written.memory.buffer().handle()
                && a.start < b.end
                && b.start < a.end
        })
    };
    operation.idempotent && !operands().filter(|one| one.direction != Direction::In).any(overlaps)
}
