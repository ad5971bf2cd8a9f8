//! The asynchronous front: the same client for tasks on a tokio runtime with I/O and time enabled.
//!
//! Buffers, queues, batches and fences are the very types of the blocking front. What waits has an asynchronous way here:
//! requests ([`Client`]'s methods), fences ([`crate::Fence::wait_async`]), guards ([`Client::read`],
//! [`Client::write`]). Do not call what blocks (`Fence::wait`, `Buffer::read`, `Device::queue`) from a task.
//!
//! # Cancel safety
//! Every future may be dropped. A request that was sent is carried out all the same; its answer is dropped, and what came
//! with it is closed or given up.

mod domain;
mod loan;
mod memory;
mod sharing;
mod timeline;
mod user_queue;

pub use self::timeline::{wait_all, wait_any};

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::UnixDatagram;

use vgem_os::OsError;
use vgem_os::seqpacket::Socket;
use vgem_proto::ids::{CauseId, DomainId};
use vgem_proto::message::client::ClientMessage;
use vgem_proto::snapshot::{ClientEntry, DeviceEntry, ObjectEntry, ObligationEntry, Status, Topic};

use crate::batch::{Batch, Submitted};
use crate::cell::Cells;
use crate::client::{ClientOptions, connect_any, default_paths, tried};
use crate::core::{self, Core};
use crate::counters::{ClientCounters, Counters};
use crate::deadline::Deadline;
use crate::device::{Device, DeviceName};
use crate::error::{Error, Result};
use crate::exchange::{Reply, RequestId};
use crate::explain::Explanation;
use crate::fence::Fence;
use crate::link::{Answer, Link, accepted};
use crate::loan::Releases;
use crate::options::{BufferOptions, QueueOptions};
use crate::queue::{Cancelled, Queue, cancelled};

/// A connection to the broker for tasks. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
    ready: Arc<Readiness>,
    /// The release timelines of series that it has on loan. Not in the core, which they keep.
    releases: Arc<Releases>,
}

/// When the link's socket can be read or written: a duplicate of it that the runtime watches and nobody reads.
///
/// The runtime has no SEQPACKET type; of its types the datagram one asks nothing of the socket but its readiness.
#[derive(Debug)]
struct Readiness(UnixDatagram);

impl Readiness {
    fn of(link: &Link) -> Result<Self> {
        let duplicate = link.socket().as_fd().try_clone_to_owned().map_err(|error| failed("dup", &error))?;
        let watched =
            UnixDatagram::from_std(duplicate.into()).map_err(|error| failed("epoll_ctl", &error))?;
        Ok(Self(watched))
    }

    /// Waits until there may be something to read, reads what there is, and forgets the readiness.
    async fn drain(&self, link: &Link) -> Result<()> {
        self.0.readable().await.map_err(|error| failed("epoll_wait", &error))?;
        let emptied = self.0.try_io(Interest::READABLE, || {
            link.drain();
            Err::<(), _>(ErrorKind::WouldBlock.into())
        });
        debug_assert!(emptied.is_err(), "the readiness was used up");
        Ok(())
    }

    /// Waits until there may be room, and tries; nothing if there was none after all.
    async fn write<T>(&self, send: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        self.0.writable().await.map_err(|error| failed("epoll_wait", &error))?;
        let mut outcome = Ok(None);
        let tried = self.0.try_io(Interest::WRITABLE, || match send() {
            Err(Error::Timeout { .. }) => Err(ErrorKind::WouldBlock.into()),
            other => {
                outcome = other.map(Some);
                Ok(())
            }
        });
        match tried {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(failed("epoll_wait", &error)),
            _ => outcome,
        }
    }
}

impl Client {
    /// Connects to the broker at `path`.
    ///
    /// # Errors
    /// As [`ClientOptions::connect`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let socket = blocking(move || {
            Socket::connect(&path)
                .map_err(|error| Error::NotRunning { tried: vec![tried(&path, error.errno())] })
        });
        Self::over(socket.await?, &ClientOptions::new()).await
    }

    /// Connects to the first broker that answers where brokers usually are.
    ///
    /// # Errors
    /// As [`ClientOptions::connect_default`].
    pub async fn connect_default() -> Result<Self> {
        let socket = blocking(|| connect_any(&default_paths())).await?;
        Self::over(socket, &ClientOptions::new()).await
    }

    /// Greets the broker at the other end of a connected socket.
    ///
    /// # Errors
    /// As [`ClientOptions::over`].
    pub async fn over(socket: Socket, options: &ClientOptions) -> Result<Self> {
        let (name, patience) = options.parts();
        socket.set_nonblocking(true)?;
        let counters = Arc::new(Counters::default());
        let link = Arc::new(Link::new(socket, Arc::clone(&counters))?);
        let ready = Readiness::of(&link)?;
        let call = Call { link: &link, ready: &ready, deadline: Deadline::after(patience) };
        let session = core::welcomed(&call.run(core::hello(name)).await?)?;
        let core = Core::new(link, counters, session, patience);
        Ok(Self { core: Arc::new(core), ready: Arc::new(ready), releases: Arc::default() })
    }

    /// The names of the devices.
    ///
    /// # Errors
    /// As every request: [`Error::Refused`], [`Error::Timeout`], [`Error::BrokerLost`].
    pub async fn devices(&self) -> Result<Vec<DeviceName>> {
        core::devices(&self.call(core::list_devices()).await?)
    }

    /// The device of this name.
    ///
    /// # Errors
    /// As [`crate::Client::device`].
    pub async fn device(&self, name: &str) -> Result<Device> {
        if let Some(known) = self.core.known(name) {
            return Ok(Device::new(Arc::clone(&self.core), known));
        }
        let id = core::find(&self.devices().await?, name)?;
        let described = self.core.described(id, self.call(core::describe(id)).await?)?;
        Ok(Device::new(Arc::clone(&self.core), described))
    }

    /// Opens a queue of a device; 0 is the broker's default depth.
    ///
    /// # Errors
    /// As [`Device::queue`].
    pub async fn queue(&self, device: &Device, depth: u32) -> Result<Queue> {
        self.queue_with(device, QueueOptions::new().depth(depth)).await
    }

    /// As [`Client::queue`], with options.
    ///
    /// # Errors
    /// As [`Device::queue_with`].
    pub async fn queue_with(&self, device: &Device, options: QueueOptions) -> Result<Queue> {
        let reply = self.call(options.request(device.id())).await?;
        Ok(Queue::new(self.core.opened(device.shared(), options.asked_depth(), reply)?))
    }

    /// `count` result cells.
    ///
    /// # Errors
    /// As [`crate::Client::create_with`].
    pub async fn cells(&self, count: usize) -> Result<Cells> {
        let options = BufferOptions::new().name("cells");
        Cells::over(self.create_with(Cells::bytes(count)?, &options).await?, count)
    }

    /// An empty batch.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.core))
    }

    /// As [`Batch::submit`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, nothing was sent and the batch keeps its jobs.
    pub async fn submit(&self, batch: &mut Batch) -> Result<Submitted> {
        let sent = self.send_batch(batch, Answer::OnlyRefusal, self.core.deadline()).await;
        batch.clear();
        sent.map(|(submitted, _)| submitted)
    }

    /// As [`Batch::submit_acknowledged`].
    ///
    /// # Errors
    /// As there.
    pub async fn submit_acknowledged(&self, batch: &mut Batch) -> Result<Submitted> {
        let deadline = self.core.deadline();
        let sent = self.send_batch(batch, Answer::Awaited, deadline).await;
        batch.clear();
        let (submitted, id) = sent?;
        self.core.answered(id, self.at(deadline).collect(id).await?)?;
        Ok(submitted)
    }

    /// As [`Queue::cancel`].
    ///
    /// # Errors
    /// As there.
    pub async fn cancel(&self, queue: &Queue, fence: &Fence) -> Result<Cancelled> {
        cancelled(&self.call(queue.shared().cancel(fence)?).await?)
    }

    /// What is behind a cause.
    ///
    /// # Errors
    /// As [`crate::Client::explain`].
    pub async fn explain(&self, cause: CauseId) -> Result<Arc<Explanation>> {
        self.explain_until(cause, self.core.deadline()).await
    }

    async fn explain_until(&self, cause: CauseId, deadline: Deadline) -> Result<Arc<Explanation>> {
        if let Some(known) = self.core.remembered(cause) {
            return Ok(known);
        }
        let request = vgem_proto::message::client::Explain { cause };
        self.core.explained(self.at(deadline).run(request).await?)
    }

    /// The broker as a whole.
    ///
    /// # Errors
    /// As every request.
    pub async fn status(&self) -> Result<Status> {
        let mut entries = Vec::new();
        core::inspected(&self.call(core::inspect(Topic::Status, 0)).await?, &mut entries)?;
        entries.into_iter().next().ok_or_else(|| Error::Protocol("a status without entry".into()))
    }

    /// As [`crate::Client::device_entries`].
    ///
    /// # Errors
    /// As every request.
    pub async fn device_entries(&self) -> Result<Vec<DeviceEntry>> {
        self.inspect(Topic::Devices).await
    }

    /// As [`crate::Client::object_entries`].
    ///
    /// # Errors
    /// As every request.
    pub async fn object_entries(&self) -> Result<Vec<ObjectEntry>> {
        self.inspect(Topic::Objects).await
    }

    /// As [`crate::Client::client_entries`].
    ///
    /// # Errors
    /// As every request.
    pub async fn client_entries(&self) -> Result<Vec<ClientEntry>> {
        self.inspect(Topic::Clients).await
    }

    /// As [`crate::Client::obligation_entries`].
    ///
    /// # Errors
    /// As every request.
    pub async fn obligation_entries(&self) -> Result<Vec<ObligationEntry>> {
        self.inspect(Topic::Obligations).await
    }

    async fn inspect<T: serde::de::DeserializeOwned>(&self, topic: Topic) -> Result<Vec<T>> {
        let (mut entries, mut cursor) = (Vec::new(), 0);
        loop {
            cursor = core::inspected(&self.call(core::inspect(topic, cursor)).await?, &mut entries)?;
            if cursor == 0 {
                return Ok(entries);
            }
        }
    }

    /// What this client did since it connected.
    #[must_use]
    pub fn counters(&self) -> ClientCounters {
        self.core.counters.read()
    }

    /// This client's number, for people and tools.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.core.session.client
    }

    /// The domain this client belongs to.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.core.session.domain
    }

    async fn call(&self, message: impl Into<ClientMessage>) -> Result<Reply> {
        self.at(self.core.deadline()).run(message).await
    }

    fn at(&self, deadline: Deadline) -> Call<'_> {
        Call { link: &self.core.link, ready: &self.ready, deadline }
    }

    async fn send_batch(
        &self,
        batch: &mut Batch,
        answer: Answer,
        deadline: Deadline,
    ) -> Result<(Submitted, RequestId)> {
        self.at(deadline).when_writable(|| batch.send(answer, deadline, Deadline::NOW)).await
    }
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    link: &'a Link,
    ready: &'a Readiness,
    deadline: Deadline,
}

impl Call<'_> {
    async fn run(self, message: impl Into<ClientMessage>) -> Result<Reply> {
        self.run_flagged(message, 0).await
    }

    async fn run_flagged(self, message: impl Into<ClientMessage>, flags: u16) -> Result<Reply> {
        let message = message.into();
        let id =
            self.when_writable(|| self.link.start(&message, flags, self.deadline, Deadline::NOW)).await?;
        accepted(self.collect(id).await?)
    }

    /// Tries to send whenever there may be room, until the deadline.
    async fn when_writable<T>(self, mut send: impl FnMut() -> Result<T>) -> Result<T> {
        let sending = async {
            loop {
                match send() {
                    Err(Error::Timeout { .. }) => {}
                    other => return other,
                }
                if let Some(sent) = self.ready.write(&mut send).await? {
                    return Ok(sent);
                }
            }
        };
        let late = Error::Timeout { what: "sending to the broker" };
        tokio::time::timeout(self.deadline.remaining(), sending).await.unwrap_or(Err(late))
    }

    async fn collect(self, id: RequestId) -> Result<Reply> {
        let awaited = Awaited { link: self.link, id };
        let collected = self.until(|| awaited.link.collect_now(awaited.id)).await?;
        collected.ok_or(Error::Timeout { what: "waiting for the broker's answer" })
    }

    /// Reads what comes until `look` finds something, or the deadline passes.
    async fn until<T>(self, look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
        let looking = async {
            loop {
                let news = self.link.news().notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(found) = look()? {
                    return Ok(Some(found));
                }
                // A thread that was reading may have left something behind, and the runtime has used up its notice of it.
                self.link.drain();
                if let Some(found) = look()? {
                    return Ok(Some(found));
                }
                tokio::select! {
                    () = news => {}
                    drained = self.ready.drain(self.link) => drained?,
                }
            }
        };
        tokio::time::timeout(self.deadline.remaining(), looking).await.unwrap_or(Ok(None))
    }
}

/// An answer somebody waits for; given up on drop.
#[derive(Debug)]
struct Awaited<'a> {
    link: &'a Link,
    id: RequestId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.link.forsake(self.id);
    }
}

/// Runs what blocks on a thread of the runtime that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Timeout { what: "the runtime shuts down" }),
        },
    }
}

fn failed(call: &'static str, error: &std::io::Error) -> Error {
    let errno = vgem_os::Errno::from_io_error(error).unwrap_or(vgem_os::Errno::IO);
    Error::System(OsError::with_detail(call, errno, error.to_string()))
}
