//! Memory of other processes for tasks: importing it, sending and receiving it; and what the broker tells.
//!
//! The steps are those of the blocking client. What blocks is done on a thread that may: mapping pages, and waiting at a
//! socket that others may have made blocking, which a runtime cannot watch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vgem_os::adopt::{PageVec, Region};
use vgem_os::seqpacket::Socket;
use vgem_proto::message::client::{self as message, ClientMessage, OpenPorter};
use vgem_proto::rights::Access;

use super::{Awaited, Client, blocking, failed};
use crate::adopt::{self, AdoptedBuffer, AdoptedPages, NotDone};
use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::error::{Error, LocalError, Result};
use crate::exchange::Reply;
use crate::import::{Fresh, ImportOptions, PORTERS, Taken, is_stalled, is_unserved, no_porter, pinned};
use crate::link::accepted;
use crate::monitor::{Monitor, Told};
use crate::porter::{AGAIN, Handed, NOTICE, hand, is_busy};
use crate::trace::{EndedJob, Trace};
use crate::transfer::{self, Outgoing, Received};

impl Client {
    /// As [`crate::Client::import_fd`].
    ///
    /// # Errors
    /// As there.
    pub async fn import_fd(&self, fd: OwnedFd) -> Result<Buffer> {
        self.import_with(fd, &ImportOptions::new()).await
    }

    /// As [`crate::Client::import_with`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, the import is given up, whenever its answer comes.
    pub async fn import_with(&self, fd: OwnedFd, options: &ImportOptions) -> Result<Buffer> {
        let deadline = self.core.deadline();
        let reply = self.bring(fd.as_fd(), &options.request(), deadline).await?;
        let fresh = match Fresh::of(&self.core, fd, options, reply)? {
            Taken::Known(buffer) => return Ok(buffer),
            Taken::Fresh(fresh) => blocking(move || fresh.map()).await?,
        };
        let Some(commit) = fresh.commit() else { return Ok(fresh.ready(0)) };
        loop {
            match self.at(deadline).run(commit.clone()).await {
                Ok(reply) => return Ok(fresh.ready(pinned(&reply)?)),
                Err(error) if is_busy(&error) && !deadline.passed() => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for what an fd is handed over for, and hands it over; the broker's answer.
    pub(super) async fn bring(
        &self,
        fd: BorrowedFd<'_>,
        message: &ClientMessage,
        deadline: Deadline,
    ) -> Result<Reply> {
        let (call, link, porter) = (self.at(deadline), &self.core.link, &self.core.porter);
        let mut porters = 0;
        loop {
            porters += 1;
            let turn = call.until(|| link.begin_import_now()).await?;
            let id = turn.ok_or(Error::Timeout { what: "waiting for other imports of this client" })?;
            // Given up if anything fails from here on, or this future is dropped.
            let awaited = Awaited { link, id };
            let channel = self.channel(deadline).await?;
            call.when_writable(|| link.send_import(id, message, deadline, Deadline::NOW)).await?;
            let handed = loop {
                match hand(&channel, id, fd, deadline) {
                    Ok(Handed::Full) if !deadline.passed() => tokio::time::sleep(AGAIN).await,
                    other => break other,
                }
            };
            match handed {
                Ok(Handed::Sent) => match accepted(call.collect(id).await?) {
                    Err(error) if porters < PORTERS && is_unserved(&error) => porter.ended(&channel),
                    Err(error) if is_stalled(&error) => {
                        porter.ended(&channel);
                        return Err(error);
                    }
                    other => return other,
                },
                Ok(Handed::Full) => return Err(Error::Timeout { what: "handing an fd to the porter" }),
                Ok(Handed::Gone) if porters < PORTERS => porter.ended(&channel),
                Ok(Handed::Gone) => return Err(no_porter()),
                Err(error) => return Err(error),
            }
            drop(awaited);
        }
    }

    async fn channel(&self, deadline: Deadline) -> Result<Arc<Socket>> {
        let notice = Deadline::after(NOTICE).min(deadline);
        loop {
            if let Some(channel) = self.core.porter.channel() {
                return Ok(channel);
            }
            match self.at(deadline).run(OpenPorter {}).await {
                Ok(reply) => return self.core.porter.opened(reply),
                Err(error) if is_busy(&error) && !notice.passed() => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`crate::Client::adopt`], on a thread for blocking work.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, the memory is adopted all the same and then given up.
    pub async fn adopt(&self, region: Region) -> Result<AdoptedBuffer, NotDone<Region>> {
        let (core, len) = (Arc::clone(&self.core), region.len() as u64);
        blocking_done(move || adopt::adopt(&core, region, len)).await
    }

    /// As [`crate::Client::adopt_pages`], on a thread for blocking work.
    ///
    /// # Errors
    /// As there.
    pub async fn adopt_pages(&self, pages: PageVec) -> Result<AdoptedPages, NotDone<PageVec>> {
        let core = Arc::clone(&self.core);
        blocking_done(move || adopt::adopt_pages(&core, pages)).await
    }

    /// As [`AdoptedBuffer::release`], on a thread for blocking work.
    ///
    /// # Errors
    /// As there.
    pub async fn release(
        &self,
        adopted: AdoptedBuffer,
        deadline: impl Into<Deadline>,
    ) -> Result<Region, NotDone<AdoptedBuffer>> {
        let deadline = deadline.into();
        blocking_done(move || adopted.release(deadline)).await
    }

    /// As [`AdoptedPages::release`], on a thread for blocking work.
    ///
    /// # Errors
    /// As there.
    pub async fn release_pages(
        &self,
        adopted: AdoptedPages,
        deadline: impl Into<Deadline>,
    ) -> Result<PageVec, NotDone<AdoptedPages>> {
        let deadline = deadline.into();
        blocking_done(move || adopted.release(deadline)).await
    }

    /// As [`Buffer::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(
        &self,
        buffer: &Buffer,
        socket: impl AsFd,
        access: Access,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        let deadline = deadline.into();
        let fd = self.export(buffer, access).await?;
        let outgoing = Outgoing::new(buffer.header(access)?.encode(), fd);
        let socket = own(socket.as_fd())?;
        blocking(move || transfer::send(socket.as_fd(), outgoing, deadline)).await
    }

    /// As [`crate::Client::receive`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, it may still take a message within a tenth of a second, and give it up.
    pub async fn receive(&self, socket: impl AsFd, deadline: impl Into<Deadline>) -> Result<Received> {
        let deadline = deadline.into();
        let socket = own(socket.as_fd())?;
        // Goes with this future, and the thread sees that.
        let interest = Arc::new(());
        let watch = Arc::downgrade(&interest);
        let wanted = move || watch.strong_count() > 0;
        let received = blocking(move || transfer::receive(socket.as_fd(), deadline, wanted)).await;
        drop(interest);
        let (header, fd) = received?;
        let buffer = self.import_with(fd, &header.options()).await?;
        self.observe(&buffer, Access::Read, self.core.deadline()).await?;
        header.received(buffer)
    }

    /// As [`crate::Client::monitor`].
    ///
    /// # Errors
    /// As every request.
    pub async fn monitor(&self) -> Result<Monitor> {
        self.core.link.expect_events();
        Monitor::begun(&self.core, &self.call(message::Monitor {}).await?)
    }

    /// As [`Monitor::next`].
    ///
    /// # Errors
    /// As there; [`LocalError::Foreign`] if the monitor is another client's.
    ///
    /// # Cancel safety
    /// Dropped, no event is lost.
    pub async fn event(&self, monitor: &mut Monitor, deadline: impl Into<Deadline>) -> Result<Option<Told>> {
        if !Arc::ptr_eq(monitor.core(), &self.core) {
            return Err(LocalError::Foreign { what: "monitor" }.into());
        }
        let link = &self.core.link;
        let waiting = self.at(deadline.into()).until(|| link.event_now());
        waiting.await?.map(Told::of).transpose()
    }
}

impl Client {
    /// As [`crate::Client::trace`].
    ///
    /// # Errors
    /// As every request.
    pub async fn trace(&self) -> Result<Trace> {
        self.core.link.expect_traced();
        Trace::begun(&self.core, &self.call(message::Trace {}).await?)
    }

    /// As [`Trace::next`].
    ///
    /// # Errors
    /// As there; [`LocalError::Foreign`] if the trace is another client's.
    ///
    /// # Cancel safety
    /// Dropped, no job is lost.
    pub async fn ended_job(
        &self,
        trace: &mut Trace,
        deadline: impl Into<Deadline>,
    ) -> Result<Option<EndedJob>> {
        if !Arc::ptr_eq(trace.core(), &self.core) {
            return Err(LocalError::Foreign { what: "trace" }.into());
        }
        let (link, deadline) = (&self.core.link, deadline.into());
        loop {
            if let Some(job) = trace.told() {
                return Ok(Some(job));
            }
            let waiting = self.at(deadline).until(|| link.traced_now());
            let Some(traced) = waiting.await? else { return Ok(None) };
            trace.take(traced);
        }
    }
}

pub(super) fn own(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    socket.try_clone_to_owned().map_err(|error| failed("dup", &error))
}

/// As [`blocking`], for what gives memory back when it fails.
async fn blocking_done<T: Send + 'static, M: Send + 'static>(
    work: impl FnOnce() -> Result<T, NotDone<M>> + Send + 'static,
) -> Result<T, NotDone<M>> {
    let done = blocking(move || Ok(work())).await;
    done.unwrap_or_else(|error| Err(NotDone { memory: None, error }))
}
