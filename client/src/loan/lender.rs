//! The lender's side: a buffer goes out, and guards and jobs know until when.

use std::os::fd::{AsFd, OwnedFd};

use vgem_proto::ids::{Point, Time};
use vgem_proto::rights::Access;

use super::letter::{Kind, Letter};
use crate::buffer::Buffer;
use crate::client::Client;
use crate::deadline::Deadline;
use crate::error::{FenceError, LocalError, Result};
use crate::fence::Fence;
use crate::timeline::{Timeline, TimelinePoint, TimelineRights, TimelineToken};
use crate::transfer::{self, Outgoing};
use crate::wait::FenceWait;
use crate::waitable::Waitable;

/// A loan may last as long as it likes; who waits for its return brings a deadline.
const WHENEVER: Deadline = Deadline::at(Time(u64::MAX));

/// A buffer that somebody has on loan. Dropping it changes nothing: guards of the buffer wait for its return all the same.
#[derive(Debug, Clone)]
#[must_use = "it says when the buffer is returned"]
pub struct Loan {
    until: TimelinePoint,
}

/// A release timeline for loans that come back in the order in which they went out, all to one borrower. Without that
/// order, lend each buffer by itself ([`Buffer::lend`]).
#[derive(Debug)]
pub struct LoanSeries {
    timeline: Timeline,
    token: TimelineToken,
    last: Point,
}

impl Loan {
    /// Whether the buffer has been returned, or its borrower is gone.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        Waitable::Point(self.until.clone()).see_in_a_while();
        Waitable::Point(self.until.clone()).has_ended()
    }

    /// Sleeps until the buffer has been returned, at most until the deadline.
    ///
    /// # Errors
    /// [`FenceError::Failed`]: `OwnerDied` if the borrower died, or whatever it says went wrong; `Cancelled` if nobody took
    /// the loan within ten seconds. [`FenceError::Timeout`]; [`FenceError::BrokerLost`].
    pub fn returned(&self, deadline: impl Into<Deadline>) -> Result<(), FenceError> {
        Waitable::Point(self.until.clone()).wait(deadline.into())
    }

    /// The same for a task.
    ///
    /// # Errors
    /// As [`Loan::returned`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait and nothing else.
    pub fn returned_async(&self, deadline: impl Into<Deadline>) -> FenceWait {
        FenceWait::new(Waitable::Point(self.until.clone()), deadline.into())
    }

    /// The return, to wait for among others, or to have a job come after it. The borrower need not have promised it
    /// ([`super::Borrowed::promise`]): where that is needed, wait for it first ([`Fence::wait_available`]) or say until when
    /// ([`Fence::promised_by`]).
    #[must_use]
    pub fn release(&self) -> Fence {
        Fence::of(Waitable::Point(TimelinePoint { submit_by: None, ..self.until.clone() }))
    }
}

impl LoanSeries {
    pub(crate) fn begun(timeline: Timeline, token: TimelineToken) -> Self {
        Self { timeline, token, last: Point(0) }
    }

    /// A loan was made on it.
    pub(crate) fn lent(&mut self) {
        self.last = self.last.next();
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.timeline.name()
    }

    /// Loans so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.last.0
    }

    /// Whether there was none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last == Point(0)
    }
}

impl Client {
    /// A release timeline for several loans, to one borrower, that come back in order.
    ///
    /// # Errors
    /// As [`Client::timeline`] and [`Timeline::export`].
    pub fn loan_series(&self, name: &str) -> Result<LoanSeries> {
        let mut timeline = self.timeline(name)?;
        let token = timeline.export(TimelineRights::SIGNAL)?;
        Ok(LoanSeries::begun(timeline, token))
    }
}

impl Buffer {
    /// Lends the buffer to the process at the other end of any Unix socket, which takes it with [`Client::borrow`]. Until it is
    /// returned, guards here wait for it, and jobs here that would get in its way are refused unless they come after
    /// [`Loan::release`]. The loan has a release timeline of its own, which the borrower alone signals.
    ///
    /// # Errors
    /// [`LocalError::GuardHeld`] under a guard of this process; as [`Client::timeline`] and [`Buffer::send`].
    pub fn lend(&self, socket: impl AsFd, access: Access, deadline: impl Into<Deadline>) -> Result<Loan> {
        let core = &self.shared().core;
        let mut timeline =
            core.timeline(Some(&release_of(self)), &core.call(crate::timeline::create(&release_of(self)))?)?;
        let token = timeline.export(TimelineRights::SIGNAL)?;
        let fd = self.export(access)?;
        let (loan, outgoing) = self.lent(&timeline, token, (Point(1), Kind::Single), access, fd)?;
        self.hand_over(&loan, transfer::send(socket.as_fd(), outgoing, deadline.into()))?;
        Ok(loan)
    }

    /// The same on a series: all its loans go to one borrower, which returns them in order.
    ///
    /// # Errors
    /// As [`Buffer::lend`].
    pub fn lend_in(
        &self,
        series: &mut LoanSeries,
        socket: impl AsFd,
        access: Access,
        deadline: impl Into<Deadline>,
    ) -> Result<Loan> {
        let fd = self.export(access)?;
        let (loan, outgoing) = self.lent_in(series, access, fd)?;
        self.hand_over(&loan, transfer::send(socket.as_fd(), outgoing, deadline.into()))?;
        series.lent();
        Ok(loan)
    }

    /// A loan on a series, and the message that makes it.
    pub(crate) fn lent_in(
        &self,
        series: &LoanSeries,
        access: Access,
        fd: OwnedFd,
    ) -> Result<(Loan, Outgoing)> {
        if !series.timeline.is_of(&self.shared().core) {
            return Err(LocalError::Foreign { what: "series of loans" }.into());
        }
        let next = (series.last.next(), Kind::Series);
        self.lent(&series.timeline, series.token, next, access, fd)
    }

    /// A loan, and the message that makes it.
    pub(crate) fn lent(
        &self,
        timeline: &Timeline,
        token: TimelineToken,
        (point, kind): (Point, Kind),
        access: Access,
        fd: OwnedFd,
    ) -> Result<(Loan, Outgoing)> {
        let letter = Letter { header: self.header(access)?, token, point, kind };
        let until = timeline.at(point, Some(WHENEVER));
        self.shared().ledger.lend(0..self.len(), access, &until)?;
        Ok((Loan { until }, Outgoing::new(letter.encode(), fd)))
    }

    /// Takes a loan back whose message was not sent.
    pub(crate) fn hand_over(&self, loan: &Loan, sent: Result<()>) -> Result<()> {
        sent.inspect_err(|_| self.shared().ledger.take_back_loan(&loan.until))
    }
}

/// The name of a loan's timeline, for people.
pub(crate) fn release_of(buffer: &Buffer) -> String {
    let name = buffer.shared().facts.name.clone();
    let name = String::from_utf8_lossy(&name);
    if name.is_empty() { format!("release of {}", buffer.handle()) } else { format!("release of {name}") }
}
