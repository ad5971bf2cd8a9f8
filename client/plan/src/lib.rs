//! One API over three ways: a [`Plan`] chooses how an operation of a device is carried out, by what was measured.
//!
//! ```text
//!   Plan::measure ─► Thresholds          call("zip", "compress").input(..).output(..)
//!                         │                     │
//!                         ▼                     ▼                  ┌─► tracked      a job, ordered with everybody's
//!                       Choice ◄── size, require, what is possible ├─► user queue   an entry, with nobody in between
//!                         │                                        └─► CPU          the same engine, on this thread
//!                         └── explain(): why
//! ```
//!
//! A small copy is over before a device has woken up; a large one is better done by a device while this thread does
//! something else. Where the thresholds are is a matter of the machine, so they are measured at start, for each operation by
//! itself ([`Plan::measure`]), or taken from a program that has kept them ([`Plan::with_thresholds`]).
//!
//! **The same whichever way.** Bytes, results and errors do not depend on the way. On the CPU runs the very engine that the
//! driver runs, linked into this process. A call waits for what a job would wait for: on the CPU it holds guards, before an
//! entry it takes them and gives them back. What it was to read and is poisoned fails it with the cause of that; what it has
//! written well is good for everybody. One thing differs: a failed *job* poisons its outputs, as jobs do; on the other ways
//! only the caller learns of the failure.
//!
//! **What may go where.** To the CPU may go what this process has an engine of, to be written where it may write. A user queue
//! takes what is bound to it ([`Plan::bind`]), and not what is shared with other clients: their jobs would not be ordered with
//! it ([`Draft::although_shared`] allows it). The same is true of jobs that another thread of this program submits over the
//! same bytes while the call is under way. Memory that other clients may write is private to nobody, so on the CPU too it goes
//! through windows.
//!
//! Plain memory, of which no object was made ([`Plan::plain`]), goes to the CPU, or by a user queue that reaches it
//! ([`PlanOptions::sva`]); that one reads slices, and writes vectors that are lent to it meanwhile.
//!
//! On the CPU a decoder works in *this* process, whatever the input is made of; a driver's is confined. Whoever does not want
//! that for input of strangers requires [`Require::NOT_CPU`]. And a device that keeps something for a queue (the open files of
//! `blk`) keeps it for one of the two: require the one.
//!
//! **When a device is lost**, the call goes another way if one is left that is allowed, and if doing it again cannot be told
//! from doing it once; the choice then says what was lost. The queue for jobs is opened again with the next call, a user queue
//! when [`Plan::reopen`] says so.
//!
//! What it is not: a scheduler. It chooses for one call, by lines through measured sizes, and knows nothing of what else the
//! devices do. It does not split a call.
//!
//! ```no_run
//! use std::time::Duration;
//! use vgem::{Access, Client};
//! use vgem_plan::{Plan, PlanOptions, Require};
//!
//! # fn main() -> vgem_plan::Result<()> {
//! let client = Client::connect_default()?;
//! let plan = Plan::measure(&client, &PlanOptions::new())?;
//! let (from, to) = (client.create(1 << 20)?, client.create(1 << 20)?);
//! let soon = Duration::from_secs(1);
//!
//! let done = plan.call("copy", "copy").input(&from).output(&to).run(soon)?;
//! println!("{} bytes\n{}", done.produced(), done.explain());
//!
//! // Bound memory may go by user queue too; and this one must not keep the CPU.
//! let _bound = [plan.bind(&from, Access::Read)?, plan.bind(&to, Access::Write)?];
//! plan.call("copy", "copy").input(&from).output(&to).require(Require::NOT_CPU).run(soon)?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`Plan`], [`PlanOptions`], [`Draft`], [`Done`] | the blocking front |
//! | [`PlainDraft`] | calls over plain memory |
//! | `aio` | the same for tasks |
//! | [`Choice`], [`Obstacle`] | which way, and why |
//! | [`Thresholds`], [`Cost`] | what was measured |
//! | `core`, `lane` | what is in the way of a call, and what its end means; the queues of a device |
//! | `measure`, `rig`, `specimen` | what is timed, in which order, on what |
//! | `memory`, `engines` | the CPU: guards, and engines in this process |
//!
//! Invariants:
//! - A choice is a function of costs, size and obstacles; it has no clock and no history.
//! - No engine here sees memory that another process may write, but through windows.
//! - A call that has returned well is done; nothing of it is under way.
//! - What nobody waited for to its end (a deadline) keeps its cell or its slot until it has ended.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
pub mod aio;
mod choice;
mod core;
mod cost;
mod draft;
mod engines;
mod error;
mod lane;
mod measure;
mod memory;
mod options;
mod plain;
mod plan;
mod rig;
mod specimen;
mod way;
mod words;

use vgem_driver::Produced;

pub use self::choice::{Candidate, Choice, Estimate, Obstacle, Verdict};
pub use self::cost::{Cost, Crossover, OpCosts, Sample, Thresholds, WayCost};
pub use self::draft::Draft;
pub use self::error::{Error, Failure, Result};
pub use self::options::PlanOptions;
pub use self::plain::PlainDraft;
pub use self::plan::{Bound, Plan};
pub use self::way::{Aim, Require, Way};

/// What a call has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    produced: Produced,
    way: Way,
    choice: Choice,
}

impl Done {
    pub(crate) fn new(produced: Produced, way: Way, choice: Choice) -> Self {
        Self { produced, way, choice }
    }

    /// Bytes produced.
    #[must_use]
    pub const fn produced(&self) -> u64 {
        self.produced.len
    }

    /// The number that the operation defines; its description says what it means.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.produced.value
    }

    /// The digest, of an operation that makes one; else zeros.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.produced.digest
    }

    /// The way it went.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.way
    }

    /// Why that way.
    #[must_use]
    pub const fn explain(&self) -> &Choice {
        &self.choice
    }
}
