//! Calls over plain memory of this process: slices and vectors, and no objects.
//!
//! ```text
//!   CPU          the borrow says that nobody else has the bytes: nothing is waited for
//!   user queue   reads slices where they are; what it writes are vectors, lent to it until the entry has ended
//!   tracked      not at all: no job can name such memory
//! ```
//!
//! A device that still writes into memory which Rust has back is what a borrow promises not to happen; so what a device writes
//! is given away meanwhile ([`vgem::UserQueue::lend`]), and a slice cannot be. Whoever gives up waiting (a deadline, a task that
//! is dropped) has an empty vector then, and the queue has the memory.
//!
//! Only a plan with [`crate::PlanOptions::sva`] has such queues. They copy, each way, so their costs are measured apart. A
//! call that failed with its queue is not repeated: the memory may be gone with it.

use std::sync::Arc;

use vgem::{
    Call, Deadline, Device, Direction, EntryDraft, LentCall, LocalError, OperandChoice, ParamChoice,
    ParamValue, Plain, UserQueue,
};
use vgem_driver::local::Local;
use vgem_driver::{JobError, OperandBytes, Produced, Span, SpanMut, TaskOperand};
use vgem_proto::ids::ObjectKey;

use crate::Done;
use crate::choice::{Asked, Choice, Obstacle};
use crate::core::{self, Core, Terms, keeps_too_long, longest};
use crate::error::{At, Error, Result};
use crate::lane::Lane;
use crate::memory::{as_value, params};
use crate::plan::{Plan, push};
use crate::way::{Aim, Require, Way};

/// A call over plain memory that is being written down ([`crate::Plan::plain`]).
#[derive(Debug)]
#[must_use]
pub struct PlainDraft<'p, 'a, P> {
    pub(crate) plan: &'p P,
    core: &'p Core,
    begun: Result<(&'p Lane, Call<Plain<'a>>), LocalError>,
    terms: Terms,
}

impl<'p, 'a, P> PlainDraft<'p, 'a, P> {
    pub(crate) fn new(plan: &'p P, core: &'p Core, device: &str, op: &str, terms: Terms) -> Self {
        let begin = |lane: &'p Lane| (lane, Device::plain_call(&lane.device, op));
        Self { plan, core, begun: core.lane(device).map(begin), terms }
    }

    fn with(mut self, change: impl FnOnce(Call<Plain<'a>>) -> Call<Plain<'a>>) -> Self {
        self.begun = self.begun.map(|(lane, call)| (lane, change(call)));
        self
    }

    /// The next operand that is read.
    pub fn input(self, bytes: &'a [u8]) -> Self {
        self.with(|call| call.input(bytes))
    }

    /// The next operand that is written: `&mut Vec<u8>` as far as it is long, or `&mut [u8]`, which no device can be lent.
    /// What was in it does not matter.
    pub fn output(self, bytes: impl Into<Plain<'a>>) -> Self {
        self.with(|call| call.output(bytes))
    }

    /// The next operand that is read and written, or written in part; as an output.
    pub fn inout(self, bytes: impl Into<Plain<'a>>) -> Self {
        self.with(|call| call.inout(bytes))
    }

    /// An operand by name: as an input, or as an output.
    pub fn operand<'o>(self, operand: impl Into<OperandChoice<'o>>, bytes: impl Into<Plain<'a>>) -> Self {
        self.with(|call| call.operand(operand, bytes))
    }

    /// A parameter.
    pub fn param<'n, 'v>(self, param: impl Into<ParamChoice<'n>>, value: impl Into<ParamValue<'v>>) -> Self {
        self.with(|call| call.param(param, value))
    }

    /// Which ways it may go.
    pub const fn require(mut self, require: Require) -> Self {
        self.terms.require = require;
        self
    }

    /// What the best way is the best at.
    pub const fn aim(mut self, aim: Aim) -> Self {
        self.terms.aim = aim;
        self
    }

    /// Which way it would go now, and why. Nothing is done.
    ///
    /// # Errors
    /// As [`Call::check`]; [`LocalError::NoSuchDevice`] with those of the plan.
    pub fn explain(&self) -> Result<Choice> {
        let (lane, call) = self.begun.as_ref().map_err(LocalError::clone)?;
        choose(self.core, lane, call, self.terms)
    }

    /// Chooses.
    pub(crate) fn begin(self) -> Result<Begun<'p, 'a, P>> {
        let choice = self.explain()?;
        let (lane, call) = self.begun?;
        match choice.way {
            Some(way) => Ok(Begun { plan: self.plan, lane, call, way, choice }),
            None => Err(Error::NoWay(Box::new(choice))),
        }
    }
}

impl PlainDraft<'_, '_, Plan> {
    /// Carries it out. On the CPU it waits for nothing.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::NoWay`]; in [`Error::Client`] the first mistake as [`PlainDraft::explain`], and
    /// [`vgem::Error::Timeout`]: what a device was to write is an empty vector then.
    pub fn run(self, deadline: impl Into<Deadline>) -> Result<Done> {
        let mut begun = self.begin()?;
        let Some(queue) = begun.queue() else { return begun.on_cpu() };
        let ended = by_queue(begun.lane, &queue, &mut begun.call, deadline.into());
        begun.ended(ended)
    }
}

/// A call that has its way.
#[derive(Debug)]
pub(crate) struct Begun<'p, 'a, P> {
    pub(crate) plan: &'p P,
    pub(crate) lane: &'p Lane,
    pub(crate) call: Call<Plain<'a>>,
    way: Way,
    choice: Choice,
}

impl<P> Begun<'_, '_, P> {
    /// The queue, if it goes by one.
    pub(crate) fn queue(&self) -> Option<Arc<UserQueue>> {
        if self.way == Way::UserQueue { self.lane.plain().ok() } else { None }
    }

    /// The end of an entry.
    pub(crate) fn ended(self, ended: vgem::Result<Produced>) -> Result<Done> {
        let op = self.call.operation().map_or_else(String::new, |operation| operation.name.clone());
        match ended {
            Ok(produced) => Ok(Done::new(produced, self.way, self.choice)),
            Err(error) => {
                if let vgem::Error::QueueOver(_) = &error {
                    self.lane.lost_plain(error.to_string());
                }
                Err(At { device: self.lane.device.name(), op: &op, way: self.way }.client(error))
            }
        }
    }

    pub(crate) fn on_cpu(self) -> Result<Done> {
        let Some(local) = self.lane.local.as_ref().filter(|_| self.way == Way::Cpu) else {
            return Err(Error::NoWay(Box::new(self.choice)));
        };
        let operation = self.call.check()?;
        let (op, number) = (operation.name.clone(), operation.number);
        let at = At { device: self.lane.device.name(), op: &op, way: self.way };
        let produced = on_cpu(local, number, self.call).map_err(|error| at.engine(error))?;
        Ok(Done::new(produced, self.way, self.choice))
    }
}

fn choose(core: &Core, lane: &Lane, call: &Call<Plain<'_>>, terms: Terms) -> Result<Choice> {
    let operation = call.check()?;
    let (device, op) = (lane.device.name(), operation.name.as_str());
    let costs = core.thresholds.of(device, op).map(crate::OpCosts::over_plain).unwrap_or_default();
    let bytes = bytes_of(call);
    let engine = match &lane.local {
        None => Some(Obstacle::NoEngine),
        Some(local) if !local.does(operation) => Some(Obstacle::OtherEngine),
        Some(_) => keeps_too_long(terms, &costs, bytes),
    };
    let slice = call.operands().iter().find(|operand| {
        let is_slice = !matches!(operand.memory, Plain::Vec(_)) && !operand.memory.is_empty();
        operand.direction != Direction::In && is_slice
    });
    let slice = slice.and_then(|operand| operation.operands.get(usize::from(operand.number)));
    let queue = lane.plain().err();
    let queue = queue.or(slice.map(|spec| Obstacle::NotLendable { operand: spec.name.clone() }));
    let obstacles = [Some(Obstacle::Plain), queue, engine];
    let Terms { require, aim, .. } = terms;
    Ok(Asked { device, op, bytes, require, aim, costs, obstacles, asking_ns: 0.0 }.choose())
}

/// The bytes that a call's cost goes by.
pub(crate) fn bytes_of(call: &Call<Plain<'_>>) -> u64 {
    longest(call.operands(), |operand| operand.len() as u64)
}

/// A call as an entry, with a result cell if the operation leaves one.
pub(crate) fn entry<'q>(call: &Call<Plain<'_>>, queue: &'q UserQueue, lent: &LentCall) -> EntryDraft<'q> {
    let entry = call.entry(queue, lent);
    let cell = |operation: &vgem::Operation| {
        operation.operands.iter().any(|operand| operand.direction == Direction::Cell)
    };
    if call.operation().is_some_and(cell) { entry.result() } else { entry }
}

/// As an entry of a queue that reaches the memory, of which what is written is lent meanwhile.
pub(crate) fn by_queue(
    lane: &Lane,
    queue: &Arc<UserQueue>,
    call: &mut Call<Plain<'_>>,
    until: Deadline,
) -> vgem::Result<Produced> {
    let lent = call.lend(queue)?;
    let pushed = entry(call, queue, &lent).prepare().and_then(|entry| push(lane, queue, &entry, until));
    let ended = pushed.and_then(|ticket| {
        let pushed = lane.pushed(queue, ticket);
        let ended = queue.wait(ticket, until);
        if !core::goes_on(&ended) {
            pushed.taken();
        }
        ended
    });
    // Nothing is under way there any more, or the deadline has passed.
    let back = call.reclaim(queue, lent, Deadline::NOW);
    let done = ended?;
    back.map(|()| core::from_entry(&done))
}

fn on_cpu(local: &Local, op: u16, call: Call<Plain<'_>>) -> Result<Produced, JobError> {
    let values: Vec<_> = params(&call).map(|(number, value)| (number, value.clone())).collect();
    let values: Vec<_> = values.iter().map(|(number, value)| (*number, as_value(value))).collect();
    let mut operands = call.into_operands();
    let operands = operands.iter_mut().map(|operand| {
        let bytes = match &mut operand.memory {
            Plain::Read(bytes) => OperandBytes::Read(Span::of_slice(bytes)),
            Plain::Write(bytes) => OperandBytes::Write(SpanMut::of_slice(bytes)),
            Plain::Vec(bytes) => OperandBytes::Write(SpanMut::of_slice(bytes)),
        };
        TaskOperand { number: operand.number, bytes, object: ObjectKey::default(), offset: 0, foreign: false }
    });
    local.run(op, &operands.collect::<Vec<_>>(), &values)
}
