//! Memory for tasks: making buffers, and guards over them.
//!
//! Allocating pages blocks, so it is done on a thread for blocking work; everything else is a request or a fence.

use std::ops::RangeBounds;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use vgem_proto::ids::CauseId;
use vgem_proto::rights::Access;

use super::{Client, blocking};
use crate::buffer::Buffer;
use crate::core::EXPLAIN;
use crate::deadline::Deadline;
use crate::draft::Drafts;
use crate::error::{Error, FenceError, Result};
use crate::guard::{Lease, ReadGuard, WriteGuard};
use crate::ledger::Waiting;
use crate::obstacle::{AGAIN, TRIES, has_no_room_yet, observe};
use crate::options::BufferOptions;
use crate::set::BufferSet;
use crate::wait::FenceWait;
use crate::waitable::Waitable;

/// How long a task waits for another client's job before it asks whether that still is to come.
const SLICE: Duration = Duration::from_millis(250);

impl Client {
    /// A buffer of `len` bytes. Its pages are allocated on a thread for blocking work.
    ///
    /// # Errors
    /// As [`crate::Client::create_with`].
    pub async fn create(&self, len: u64) -> Result<Buffer> {
        self.create_with(len, &BufferOptions::new()).await
    }

    /// A buffer of `len` bytes with options.
    ///
    /// # Errors
    /// As [`crate::Client::create_with`].
    pub async fn create_with(&self, len: u64, options: &BufferOptions) -> Result<Buffer> {
        let mut made = self.make(1, len, options).await?;
        made.pop().ok_or_else(|| Error::Protocol("no object was made".into()))
    }

    /// As [`crate::Client::create_set`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_set(&self, count: usize, len: u64) -> Result<BufferSet> {
        self.create_set_with(count, len, &BufferOptions::new()).await
    }

    /// As [`crate::Client::create_set_with`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_set_with(
        &self,
        count: usize,
        len: u64,
        options: &BufferOptions,
    ) -> Result<BufferSet> {
        let mut all = Vec::with_capacity(count);
        for part in BufferSet::parts(count)? {
            all.extend(self.make(part, len, options).await?);
        }
        Ok(BufferSet::new(all))
    }

    async fn make(&self, count: usize, len: u64, options: &BufferOptions) -> Result<Vec<Buffer>> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let reply = self.call(options.request(wanted, len)?).await?;
        let (core, options) = (Arc::clone(&self.core), options.clone());
        let drafts = blocking(move || Drafts::map(&core, count, len, &options, reply)).await?;
        let committed = self.call(drafts.commit()).await?;
        drafts.committed(&committed)
    }

    /// As [`Buffer::read`].
    ///
    /// # Errors
    /// As there.
    pub async fn read<'a>(
        &self,
        buffer: &'a Buffer,
        range: impl RangeBounds<u64> + Clone,
        deadline: impl Into<Deadline>,
    ) -> Result<ReadGuard<'a>> {
        self.lease(buffer, range, Access::Read, deadline.into()).await.map(ReadGuard::new)
    }

    /// As [`Buffer::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write<'a>(
        &self,
        buffer: &'a Buffer,
        range: impl RangeBounds<u64> + Clone,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'a>> {
        self.lease(buffer, range, Access::Write, deadline.into()).await.map(WriteGuard::new)
    }

    /// As [`Buffer::export`].
    ///
    /// # Errors
    /// As there.
    pub async fn export(&self, buffer: &Buffer, access: Access) -> Result<OwnedFd> {
        buffer.exported(access, self.call(buffer.export_request(access)).await?)
    }

    async fn lease<'a>(
        &self,
        buffer: &'a Buffer,
        range: impl RangeBounds<u64> + Clone,
        access: Access,
        deadline: Deadline,
    ) -> Result<Lease<'a>> {
        buffer.check(&range, access)?;
        let mut tries = 0;
        loop {
            if buffer.is_shared() {
                self.observe(buffer, access, deadline).await?;
            }
            let taken = self.lease_as_told(buffer, range.clone(), access, deadline).await;
            if tries >= TRIES || !buffer.is_unsettled(&range, &taken) {
                return match taken {
                    Err(error) => Err(self.explained(error).await),
                    lease => lease,
                };
            }
            // The broker is about to hear of it, and to say which bytes it concerns.
            if tries > 0 {
                tokio::time::sleep(AGAIN).await;
            }
            tries += 1;
        }
    }

    /// The same error, with what is behind it, if the broker says so in a moment.
    async fn explained(&self, error: Error) -> Error {
        match error {
            Error::Job(failure) if failure.explanation.is_none() && failure.cause != CauseId::NONE => {
                let asked = self.explain_until(failure.cause, Deadline::after(EXPLAIN)).await;
                Error::Job(Box::new(failure.explained(asked.ok())))
            }
            other => other,
        }
    }

    /// A lease that asks nobody about others, unless it has to wait for long.
    async fn lease_as_told<'a>(
        &self,
        buffer: &'a Buffer,
        range: impl RangeBounds<u64> + Clone,
        access: Access,
        deadline: Deadline,
    ) -> Result<Lease<'a>> {
        loop {
            if let Some(lease) = buffer.lease_as_known(&range, access, Waiting::Not)? {
                return Ok(lease);
            }
            match buffer.obstacle(&range, access)? {
                Some(obstacle) => self.wait_out(buffer, access, obstacle, deadline).await?,
                None if deadline.passed() => {
                    return Err(Error::Timeout { what: "waiting for another guard of this buffer" });
                }
                // Another guard of this process is held: it is for its task to go on.
                None => tokio::time::sleep(Duration::from_millis(1).min(deadline.remaining())).await,
            }
        }
    }

    /// Asks what others have submitted.
    pub(super) async fn observe(&self, buffer: &Buffer, access: Access, deadline: Deadline) -> Result<()> {
        let deadline = deadline.min(self.core.deadline());
        let mut tries = 0;
        loop {
            match self.at(deadline).run(observe(buffer.handle(), access)).await {
                Ok(reply) => return buffer.observed(access, reply),
                Err(error) if has_no_room_yet(&error) && tries < TRIES && !deadline.passed() => {
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until what is in the way of a guard has ended, however.
    async fn wait_out(
        &self,
        buffer: &Buffer,
        access: Access,
        obstacle: Waitable,
        deadline: Deadline,
    ) -> Result<()> {
        let slice = match &obstacle {
            Waitable::Job(_) | Waitable::Point(_) => deadline,
            Waitable::Seen(_) => deadline.min(Deadline::after(SLICE)),
        };
        match FenceWait::new(obstacle, slice).await {
            Ok(()) | Err(FenceError::Failed(_)) => Ok(()),
            // Perhaps its slot went while nobody looked.
            Err(FenceError::Timeout { .. }) if !deadline.passed() => {
                self.observe(buffer, access, deadline).await
            }
            Err(other) => Err(other.into()),
        }
    }
}
