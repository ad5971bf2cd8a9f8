//! Loans for tasks. The steps are those of the blocking client; waiting at a socket is done on a thread that may block.

use std::os::fd::AsFd;
use std::sync::Arc;

use vgem_proto::ids::Point;
use vgem_proto::rights::Access;

use super::sharing::own;
use super::{Client, blocking};
use crate::adopt::NotDone;
use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, Result};
use crate::loan::{Borrowed, Borrowing, Kind, Loan, LoanSeries, begun, borrowed, release_of};
use crate::timeline::TimelineRights;
use crate::transfer::{self, Outgoing};
use crate::wait::FenceWait;

impl Client {
    /// As [`crate::Client::loan_series`].
    ///
    /// # Errors
    /// As there.
    pub async fn loan_series(&self, name: &str) -> Result<LoanSeries> {
        let mut timeline = self.timeline(name).await?;
        let token = self.export_timeline(&mut timeline, TimelineRights::SIGNAL).await?;
        Ok(LoanSeries::begun(timeline, token))
    }

    /// As [`Buffer::lend`].
    ///
    /// # Errors
    /// As there.
    pub async fn lend(
        &self,
        buffer: &Buffer,
        socket: impl AsFd,
        access: Access,
        deadline: impl Into<Deadline>,
    ) -> Result<Loan> {
        let deadline = deadline.into();
        let mut timeline = self.timeline(&release_of(buffer)).await?;
        let token = self.export_timeline(&mut timeline, TimelineRights::SIGNAL).await?;
        let fd = self.export(buffer, access).await?;
        let (loan, outgoing) = buffer.lent(&timeline, token, (Point(1), Kind::Single), access, fd)?;
        buffer.hand_over(&loan, send(socket, outgoing, deadline).await)?;
        Ok(loan)
    }

    /// As [`Buffer::lend_in`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the loan may have been made: then the next one of the series is taken for it, and refused.
    pub async fn lend_in(
        &self,
        buffer: &Buffer,
        series: &mut LoanSeries,
        socket: impl AsFd,
        access: Access,
        deadline: impl Into<Deadline>,
    ) -> Result<Loan> {
        let deadline = deadline.into();
        let fd = self.export(buffer, access).await?;
        let (loan, outgoing) = buffer.lent_in(series, access, fd)?;
        buffer.hand_over(&loan, send(socket, outgoing, deadline).await)?;
        series.lent();
        Ok(loan)
    }

    /// As [`crate::Client::borrow`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, it may still take a message within a tenth of a second; its loan then ends with `OwnerDied` for the lender.
    pub async fn borrow(&self, socket: impl AsFd, deadline: impl Into<Deadline>) -> Result<Borrowed> {
        let deadline = deadline.into();
        let socket = own(socket.as_fd())?;
        // Goes with this future, and the thread sees that.
        let interest = Arc::new(());
        let watch = Arc::downgrade(&interest);
        let wanted = move || watch.strong_count() > 0;
        let came = blocking(move || Borrowing::receive(&socket, deadline, wanted)).await;
        drop(interest);
        let Borrowing { letter, fd } = came?;
        let release = match self.releases.known(&letter) {
            Some(release) => release,
            None => begun(&self.releases, &letter, self.import_timeline(letter.token).await?),
        };
        let buffer = self.import_with(fd, &letter.header.options()).await?;
        self.observe(&buffer, Access::Read, self.core.deadline()).await?;
        borrowed(letter, release, buffer)
    }

    /// As [`Borrowed::give_back`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, the loan is given back as by dropping it.
    pub async fn give_back(
        &self,
        borrowed: Borrowed,
        deadline: impl Into<Deadline>,
    ) -> Result<(), NotDone<Borrowed>> {
        let deadline = deadline.into();
        while let Some(job) = borrowed.unfinished() {
            match FenceWait::new(job, deadline).await {
                Ok(()) | Err(FenceError::Failed(_)) => {}
                Err(error) => return Err(NotDone::with(borrowed, Error::from(error))),
            }
        }
        borrowed.give_back_now()
    }
}

async fn send(socket: impl AsFd, outgoing: Outgoing, deadline: Deadline) -> Result<()> {
    let socket = own(socket.as_fd())?;
    blocking(move || transfer::send(socket.as_fd(), outgoing, deadline)).await
}
