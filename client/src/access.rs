//! Access: how bytes of a buffer are taken, to read or to change them.
//!
//! ```text
//!   range ──► inside the buffer? may it be written? ──► [others may use it: Observe] ──► ledger: wait, take ──► guard
//!                                                          ▲                                │
//!                                                          └── another's job failed and the broker has not said yet
//!                                                              which bytes that concerns ◄──┘
//! ```

use std::ops::{Bound, Range, RangeBounds};

use vgem_proto::rights::Access;

use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::guard::{Lease, ReadGuard, WriteGuard};
use crate::ledger::Waiting;
use crate::obstacle::{AGAIN, TRIES, has_no_room_yet, observe};
#[cfg(feature = "tokio")]
use crate::waitable::Waitable;

impl Buffer {
    /// The bytes of `range`, to read. Waits for the jobs of this client that write them, and on a shared buffer for what
    /// others submitted to write any of it.
    ///
    /// # Errors
    /// [`Error::Job`], with the cause, if a job that was to write these bytes failed: they are not what they should be. On
    /// a shared buffer that is so whoever's job it was and however long ago, until a job replaces them, or this client
    /// writes them itself. [`Error::Timeout`]; [`Error::BrokerLost`]; [`LocalError::OutOfRange`]; on a shared buffer as
    /// every request.
    pub fn read(&self, range: impl RangeBounds<u64>, deadline: impl Into<Deadline>) -> Result<ReadGuard<'_>> {
        let lease = self.lease(&range, Access::Read, Waiting::Until(deadline.into()))?;
        lease.map(ReadGuard::new).ok_or(Error::Timeout { what: "a read guard" })
    }

    /// As [`Buffer::read`], without waiting for any job: nothing if it would have to. On a shared buffer the broker is
    /// asked, one round trip; otherwise nobody is.
    ///
    /// # Errors
    /// As [`Buffer::read`], with an explanation only if one was had before. In the moment between the failure of another
    /// client's job and the broker's taking note of it, it counts for every byte of the buffer.
    pub fn try_read(&self, range: impl RangeBounds<u64>) -> Result<Option<ReadGuard<'_>>> {
        Ok(self.lease(&range, Access::Read, Waiting::Not)?.map(ReadGuard::new))
    }

    /// The bytes of `range`, to change. Waits for every job of this client that uses them, and on a shared buffer for
    /// what others submitted to use any of it. A failed one does not matter: its bytes are as it left them.
    ///
    /// The holder writes all of them anew. When a guard that was written through is dropped, the failures that concern these
    /// bytes are of no account any more: not to this client, and not to jobs and other clients, for if there were any the
    /// broker is told so.
    ///
    /// # Errors
    /// [`LocalError::ReadOnly`] for a sealed result or a read-only import; [`Error::Timeout`]; [`Error::BrokerLost`];
    /// [`LocalError::OutOfRange`]; on a shared buffer as every request.
    pub fn write(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'_>> {
        let lease = self.lease(&range, Access::Write, Waiting::Until(deadline.into()))?;
        lease.map(WriteGuard::new).ok_or(Error::Timeout { what: "a write guard" })
    }

    /// As [`Buffer::write`], without waiting for any job: nothing if it would have to. On a shared buffer the broker is
    /// asked, one round trip; otherwise nobody is.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn try_write(&self, range: impl RangeBounds<u64>) -> Result<Option<WriteGuard<'_>>> {
        Ok(self.lease(&range, Access::Write, Waiting::Not)?.map(WriteGuard::new))
    }

    /// As [`Buffer::read`], of a shared buffer too without asking the broker what others have submitted: for a program
    /// that orders itself with them by other means, as one timeline that it waits for before. What the broker has named to
    /// an earlier guard, and this client's own jobs, are waited for.
    ///
    /// # Errors
    /// As [`Buffer::read`], as far as it is known here.
    pub fn read_explicit(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<ReadGuard<'_>> {
        let waiting = Waiting::Until(deadline.into());
        let lease = self.lease_as_known(&range, Access::Read, waiting);
        let lease = lease.map_err(|error| self.explained(error, waiting))?;
        lease.map(ReadGuard::new).ok_or(Error::Timeout { what: "a read guard" })
    }

    /// As [`Buffer::write`], of a shared buffer too without asking the broker; see [`Buffer::read_explicit`].
    ///
    /// # Errors
    /// As [`Buffer::write`], as far as it is known here.
    pub fn write_explicit(
        &self,
        range: impl RangeBounds<u64>,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'_>> {
        let lease = self.lease_as_known(&range, Access::Write, Waiting::Until(deadline.into()))?;
        lease.map(WriteGuard::new).ok_or(Error::Timeout { what: "a write guard" })
    }

    /// Copies `bytes` to `offset`; counted in [`crate::ClientCounters::bytes_copied`].
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn copy_in(&self, offset: u64, bytes: &[u8], deadline: impl Into<Deadline>) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        self.write(offset..end, deadline)?.copy_from_slice(bytes);
        self.shared().core.counters.copied(bytes.len());
        Ok(())
    }

    /// Copies from `offset` on into `bytes`; counted in [`crate::ClientCounters::bytes_copied`].
    ///
    /// # Errors
    /// As [`Buffer::read`].
    pub fn copy_out(&self, offset: u64, bytes: &mut [u8], deadline: impl Into<Deadline>) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        bytes.copy_from_slice(&self.read(offset..end, deadline)?);
        self.shared().core.counters.copied(bytes.len());
        Ok(())
    }

    /// What a guard over `range` has to wait for, if anything.
    #[cfg(feature = "tokio")]
    pub(crate) fn obstacle(&self, range: &impl RangeBounds<u64>, access: Access) -> Result<Option<Waitable>> {
        self.shared().ledger.obstacle(&bounds(range, self.len()), access)
    }

    /// The same error, with what is behind it, where there is time to ask.
    pub(crate) fn explained(&self, error: Error, waiting: Waiting) -> Error {
        match (error, waiting) {
            (Error::Job(failure), waiting) if failure.explanation.is_none() => {
                let (core, cause) = (&self.shared().core, failure.cause);
                let explanation = match waiting {
                    Waiting::Until(_) => core.explain_failure(cause),
                    Waiting::Not => core.remembered(cause),
                };
                Error::Job(Box::new(failure.explained(explanation)))
            }
            (other, _) => other,
        }
    }

    pub(crate) fn lease(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
        waiting: Waiting,
    ) -> Result<Option<Lease<'_>>> {
        self.check(range, access)?;
        let mut tries = 0;
        loop {
            if self.is_shared() {
                self.observe(access, waiting)?;
            }
            let taken = self.lease_as_known(range, access, waiting);
            let again = waiting != Waiting::Not && tries < TRIES && self.is_unsettled(range, &taken);
            if !again {
                return taken.map_err(|error| self.explained(error, waiting));
            }
            // The broker is about to hear of it, and to say which bytes it concerns.
            if tries > 0 {
                std::thread::sleep(AGAIN);
            }
            tries += 1;
        }
    }

    /// Whether a guard failed with another client's job and the broker has yet to say what that has left.
    pub(crate) fn is_unsettled<T>(&self, range: &impl RangeBounds<u64>, taken: &Result<T>) -> bool {
        matches!(taken, Err(Error::Job(_))) && self.shared().ledger.is_unsettled(&bounds(range, self.len()))
    }

    /// A lease that asks nobody about others.
    pub(crate) fn lease_as_known(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
        waiting: Waiting,
    ) -> Result<Option<Lease<'_>>> {
        let (range, start, len) = self.check(range, access)?;
        let taken = self.shared().ledger.guard(range, access, waiting)?;
        Ok(taken.map(|taken| Lease::new(self.shared(), taken, start, len)))
    }

    /// A range of bytes of this buffer, with its place and length in this process, if `access` to it is possible.
    pub(crate) fn check(
        &self,
        range: &impl RangeBounds<u64>,
        access: Access,
    ) -> Result<(Range<u64>, usize, usize)> {
        if access == Access::Write && !self.is_writable() {
            return Err(self.shared().read_only().into());
        }
        let range = bounds(range, self.len());
        let len = range.end.saturating_sub(range.start);
        let out = || LocalError::OutOfRange { offset: range.start, len, available: self.len() };
        if range.start > range.end || range.end > self.len() {
            return Err(out().into());
        }
        let start = usize::try_from(range.start).map_err(|_| out())?;
        let bytes = usize::try_from(len).map_err(|_| out())?;
        Ok((range, start, bytes))
    }

    /// Asks what others have submitted.
    pub(crate) fn observe(&self, access: Access, waiting: Waiting) -> Result<()> {
        let core = &self.shared().core;
        let deadline = match waiting {
            Waiting::Until(deadline) => deadline.min(core.deadline()),
            Waiting::Not => core.deadline(),
        };
        let mut tries = 0;
        loop {
            match core.link.call(observe(self.handle(), access), deadline) {
                Ok(reply) => return self.observed(access, reply),
                Err(error) if has_no_room_yet(&error) && tries < TRIES && !deadline.passed() => {
                    tries += 1;
                    std::thread::sleep(AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Understands what others have submitted.
    pub(crate) fn observed(&self, access: Access, reply: Reply) -> Result<()> {
        let shared = self.shared();
        let told = shared.core.observed(self.handle(), access, reply)?;
        shared.ledger.observed(&(0..self.len()), access, told);
        Ok(())
    }
}

/// First byte and end of a range of a buffer of `len` bytes.
pub(crate) fn bounds(range: &impl RangeBounds<u64>, len: u64) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_range_is_the_whole_buffer() {
        assert_eq!(bounds(&.., 9), 0..9);
    }
}
