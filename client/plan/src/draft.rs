//! A call as it is written down for a plan: by the names of the device's description, and with what is required of the way.
//!
//! Nothing here fails at once: running, or explaining, reports the first mistake, and nothing has happened then.

use vgem::{Call, LocalError, OperandChoice, ParamChoice, ParamValue, Slice};

use crate::choice::Choice;
use crate::core::{Attempt, Core, Terms};
use crate::error::Result;
use crate::lane::Lane;
use crate::way::{Aim, Require};

/// A call that is being written down ([`crate::Plan::call`]).
#[derive(Debug)]
#[must_use]
pub struct Draft<'p, 'a, P> {
    pub(crate) plan: &'p P,
    pub(crate) core: &'p Core,
    pub(crate) begun: Result<(&'p Lane, Call<Slice<'a>>), LocalError>,
    pub(crate) terms: Terms,
}

impl<'p, 'a, P> Draft<'p, 'a, P> {
    pub(crate) fn new(plan: &'p P, core: &'p Core, device: &str, op: &str, terms: Terms) -> Self {
        let begun = core.lane(device).map(|lane| (lane, lane.device.call(op)));
        Self { plan, core, begun, terms }
    }

    fn with(mut self, change: impl FnOnce(Call<Slice<'a>>) -> Call<Slice<'a>>) -> Self {
        self.begun = self.begun.map(|(lane, call)| (lane, change(call)));
        self
    }

    /// The next operand that is read.
    pub fn input(self, slice: impl Into<Slice<'a>>) -> Self {
        self.with(|call| call.input(slice))
    }

    /// The next operand that is written; what was in it does not matter.
    pub fn output(self, slice: impl Into<Slice<'a>>) -> Self {
        self.with(|call| call.output(slice))
    }

    /// The next operand that is read and written, or written in part.
    pub fn inout(self, slice: impl Into<Slice<'a>>) -> Self {
        self.with(|call| call.inout(slice))
    }

    /// An operand by name.
    pub fn operand<'o>(self, operand: impl Into<OperandChoice<'o>>, slice: impl Into<Slice<'a>>) -> Self {
        self.with(|call| call.operand(operand, slice))
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

    /// Allows a user queue over buffers that other clients may use: guards wait for their jobs, but jobs that they submit
    /// meanwhile do not wait for the entry. For a program that orders itself with them by other means.
    pub const fn although_shared(mut self) -> Self {
        self.terms.although_shared = true;
        self
    }

    /// Which way it would go now, and why. Nothing is done.
    ///
    /// # Errors
    /// As [`Call::check`]; [`LocalError::NoSuchDevice`] with those of the plan.
    pub fn explain(&self) -> Result<Choice> {
        let (lane, call) = self.begun.as_ref().map_err(LocalError::clone)?;
        Ok(Attempt::new(self.core, lane, call, self.terms)?.choose())
    }
}
