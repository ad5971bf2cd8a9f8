//! The blocking front: a connection, and how the rest is had from it.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vgem_os::Errno;
use vgem_os::adopt::{PageVec, Region};
use vgem_os::seqpacket::Socket;
use vgem_proto::ids::{CauseId, DomainId};
use vgem_proto::message::client as message;
use vgem_proto::rights::Access;
use vgem_proto::snapshot::{
    ClientEntry, DeviceEntry, ObjectEntry, ObligationEntry, QueueEntry, Status, TimelineEntry, Topic,
};

use crate::adopt::{self, AdoptedBuffer, AdoptedPages, NotDone};
use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::cell::Cells;
use crate::core::{self, Core};
use crate::counters::{ClientCounters, Counters};
use crate::deadline::Deadline;
use crate::device::{Device, DeviceName};
use crate::draft::Drafts;
use crate::error::{Error, Result, Tried};
use crate::explain::Explanation;
use crate::import::{self, ImportOptions};
use crate::ledger::Waiting;
use crate::link::Link;
use crate::loan::Releases;
use crate::monitor::Monitor;
use crate::options::BufferOptions;
use crate::pool::BufferPool;
use crate::set::BufferSet;
use crate::timeline::{self, Timeline, TimelineToken};
use crate::trace::Trace;
use crate::transfer::{self, Received};

/// How long a request waits for its answer, unless the options say otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to connect.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    name: String,
    patience: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        let program = env::args_os().next().map(PathBuf::from);
        let name =
            program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Self { name: name.unwrap_or_else(|| "vgem".into()), patience: PATIENCE }
    }
}

impl ClientOptions {
    /// The program's own name, and 30 s for every request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the client calls itself; for people. Cut to 64 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long a request (not a fence) waits for its answer.
    #[must_use]
    pub const fn request_timeout(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects to the broker at `path`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if nobody answers there, and as [`ClientOptions::over`].
    pub fn connect(&self, path: impl AsRef<Path>) -> Result<Client> {
        let path = path.as_ref();
        match Socket::connect(path) {
            Ok(socket) => self.over(socket),
            Err(error) => Err(Error::NotRunning { tried: vec![tried(path, error.errno())] }),
        }
    }

    /// Connects to the first broker that answers: at `VGEM_SOCKET` if it is set and nowhere else, otherwise at
    /// `$XDG_RUNTIME_DIR/vgemd/vgemd.sock`, then at `/run/vgemd/vgemd.sock`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] with every path that was tried, and as [`ClientOptions::over`].
    pub fn connect_default(&self) -> Result<Client> {
        self.over(connect_any(&default_paths())?)
    }

    /// Greets the broker at the other end of a connected socket.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not want us, [`Error::Timeout`], [`Error::BrokerLost`],
    /// [`Error::Protocol`].
    pub fn over(&self, socket: Socket) -> Result<Client> {
        let counters = Arc::new(Counters::default());
        let link = Arc::new(Link::new(socket, Arc::clone(&counters))?);
        let reply = link.call(core::hello(&self.name), Deadline::after(self.patience))?;
        let session = core::welcomed(&reply)?;
        let core = Arc::new(Core::new(link, counters, session, self.patience));
        Ok(Client { core, releases: Arc::default() })
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn parts(&self) -> (&str, Duration) {
        (&self.name, self.patience)
    }
}

/// A connection to the broker that blocks. Clones share it; any thread may use it.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
    /// The release timelines of series that it has on loan. Not in the core, which they keep.
    releases: Arc<Releases>,
}

impl Client {
    /// Connects to the broker at `path`.
    ///
    /// # Errors
    /// As [`ClientOptions::connect`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        ClientOptions::new().connect(path)
    }

    /// Connects to the first broker that answers where brokers usually are.
    ///
    /// # Errors
    /// As [`ClientOptions::connect_default`].
    pub fn connect_default() -> Result<Self> {
        ClientOptions::new().connect_default()
    }

    /// The names of the devices.
    ///
    /// # Errors
    /// As every request: [`Error::Refused`], [`Error::Timeout`], [`Error::BrokerLost`].
    pub fn devices(&self) -> Result<Vec<DeviceName>> {
        core::devices(&self.core.call(core::list_devices())?)
    }

    /// The device of this name. Its description is asked for once and then remembered.
    ///
    /// # Errors
    /// [`crate::LocalError::NoSuchDevice`] with those that are there; as every request.
    pub fn device(&self, name: &str) -> Result<Device> {
        if let Some(known) = self.core.known(name) {
            return Ok(Device::new(Arc::clone(&self.core), known));
        }
        let id = core::find(&self.devices()?, name)?;
        let described = self.core.described(id, self.core.call(core::describe(id))?)?;
        Ok(Device::new(Arc::clone(&self.core), described))
    }

    /// A buffer of `len` bytes, all zero, resident and ready for any device.
    ///
    /// # Errors
    /// As [`Client::create_with`].
    pub fn create(&self, len: u64) -> Result<Buffer> {
        self.create_with(len, &BufferOptions::new())
    }

    /// A buffer of `len` bytes with options. Its pages are allocated here, so this process's cgroup pays.
    ///
    /// # Errors
    /// [`Error::Refused`] with `Exhausted` over quota; [`Error::System`] without memory; as every request.
    pub fn create_with(&self, len: u64, options: &BufferOptions) -> Result<Buffer> {
        let mut made = self.make(1, len, options)?;
        made.pop().ok_or_else(|| Error::Protocol("no object was made".into()))
    }

    /// `count` buffers of `len` bytes each, made together: one request for up to 64 of them.
    ///
    /// # Errors
    /// As [`Client::create_set_with`].
    pub fn create_set(&self, count: usize, len: u64) -> Result<BufferSet> {
        self.create_set_with(count, len, &BufferOptions::new())
    }

    /// As [`Client::create_set`], with options for each. All of them are made, or none.
    ///
    /// # Errors
    /// [`crate::LocalError::Empty`] for none; as [`Client::create_with`].
    pub fn create_set_with(&self, count: usize, len: u64, options: &BufferOptions) -> Result<BufferSet> {
        let mut all = Vec::with_capacity(count);
        for part in BufferSet::parts(count)? {
            all.extend(self.make(part, len, options)?);
        }
        Ok(BufferSet::new(all))
    }

    /// Up to 64 buffers with one request.
    fn make(&self, count: usize, len: u64, options: &BufferOptions) -> Result<Vec<Buffer>> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let reply = self.core.call(options.request(wanted, len)?)?;
        let drafts = Drafts::map(&self.core, count, len, options, reply)?;
        let committed = self.core.call(drafts.commit())?;
        drafts.committed(&committed)
    }

    /// The buffer of memory whose fd one has: an export of some client's buffer, or memory of somebody's own making. The
    /// same memory again is the same object, and its buffers share what guards they hold.
    ///
    /// # Errors
    /// As [`Client::import_with`].
    pub fn import_fd(&self, fd: OwnedFd) -> Result<Buffer> {
        self.import_with(fd, &ImportOptions::new())
    }

    /// As [`Client::import_fd`], with options. Memory that was no object before is sealed against changes of its size,
    /// populated here, charged to this domain and pinned. A read-only fd makes a buffer that only reads.
    ///
    /// # Errors
    /// [`Error::Refused`], in words, for an fd that is no such memory (`BadParameter`, `Denied`), over quota or more imports
    /// at once than the broker takes (`Exhausted`), gone (`Gone`), or that stalls whoever looks at it (`Late`; imports of
    /// other threads that wait for the same porter are refused with it); [`Error::System`] if it cannot be handed
    /// over or mapped; as every request.
    pub fn import_with(&self, fd: OwnedFd, options: &ImportOptions) -> Result<Buffer> {
        import::import(&self.core, fd, options)
    }

    /// Makes memory of this process a buffer, without changing its address. Its contents are copied once.
    ///
    /// # Errors
    /// Gives the region back, with [`Error::Refused`] over quota, [`Error::System`] without memory; as every request.
    pub fn adopt(&self, region: Region) -> Result<AdoptedBuffer, NotDone<Region>> {
        let len = region.len() as u64;
        adopt::adopt(&self.core, region, len)
    }

    /// As [`Client::adopt`], for memory that owns itself. The buffer is as long as the bytes in use; pages beyond them are
    /// given back to the machine.
    ///
    /// # Errors
    /// As there; [`crate::LocalError::Empty`] for no bytes.
    pub fn adopt_pages(&self, pages: PageVec) -> Result<AdoptedPages, NotDone<PageVec>> {
        adopt::adopt_pages(&self.core, pages)
    }

    /// The next buffer that another process sends over `socket` ([`Buffer::send`]), with what it has to wait for: reading
    /// it waits for the sender's unfinished jobs, and fails with them.
    ///
    /// # Errors
    /// [`Error::Transfer`] if something else comes, and its fds are closed; [`Error::Timeout`]; as
    /// [`Client::import_with`].
    pub fn receive(&self, socket: impl AsFd, deadline: impl Into<Deadline>) -> Result<Received> {
        let deadline = deadline.into();
        let (header, fd) = transfer::receive(socket.as_fd(), deadline, || true)?;
        let buffer = self.import_with(fd, &header.options())?;
        // Whatever failed before, this is newer.
        buffer.observe(Access::Read, Waiting::Until(self.core.deadline()))?;
        header.received(buffer)
    }

    /// A timeline that this client signals, with all rights. The name is for people.
    ///
    /// # Errors
    /// [`Error::Refused`] with `Exhausted` over quota; as every request.
    pub fn timeline(&self, name: &str) -> Result<Timeline> {
        self.core.timeline(Some(name), &self.core.call(timeline::create(name))?)
    }

    /// The timeline that another client has exported: a token is good once, for ten seconds.
    ///
    /// # Errors
    /// [`Error::Refused`]: `NoSuchHandle` for no such token, or one that was used or came too late; `Gone` if the timeline
    /// has ended; as every request.
    pub fn import_timeline(&self, token: TimelineToken) -> Result<Timeline> {
        self.core.timeline(None, &self.core.call(timeline::import(token))?)
    }

    /// Asks to be told what happens: in this domain, or everywhere if we administer or observe.
    ///
    /// # Errors
    /// As every request.
    pub fn monitor(&self) -> Result<Monitor> {
        self.core.link.expect_events();
        Monitor::begun(&self.core, &self.core.call(message::Monitor {})?)
    }

    /// Asks to be told of every job that ends: in this domain, or everywhere if we administer or observe.
    ///
    /// # Errors
    /// As every request.
    pub fn trace(&self) -> Result<Trace> {
        self.core.link.expect_traced();
        Trace::begun(&self.core, &self.core.call(message::Trace {})?)
    }

    /// `count` result cells.
    ///
    /// # Errors
    /// As [`Client::create_with`].
    pub fn cells(&self, count: usize) -> Result<Cells> {
        let options = BufferOptions::new().name("cells");
        Cells::over(self.create_with(Cells::bytes(count)?, &options)?, count)
    }

    /// A pool of buffers of `len` bytes that are made once and reused without a system call.
    #[must_use]
    pub fn pool(&self, len: u64) -> BufferPool {
        BufferPool::new(self.clone(), len, BufferOptions::new())
    }

    /// As [`Client::pool`], with options for its buffers.
    #[must_use]
    pub fn pool_with(&self, len: u64, options: BufferOptions) -> BufferPool {
        BufferPool::new(self.clone(), len, options)
    }

    /// An empty batch.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.core))
    }

    /// What is behind a cause, wherever one heard of it.
    ///
    /// # Errors
    /// [`Error::Refused`] if the broker knows nothing of it; as every request.
    pub fn explain(&self, cause: CauseId) -> Result<Arc<Explanation>> {
        self.core.explain(cause, self.core.deadline())
    }

    /// The broker as a whole.
    ///
    /// # Errors
    /// As every request.
    pub fn status(&self) -> Result<Status> {
        let status: Vec<Status> = self.inspect(Topic::Status)?;
        status.into_iter().next().ok_or_else(|| Error::Protocol("a status without entry".into()))
    }

    /// Every device with its instances.
    ///
    /// # Errors
    /// As every request.
    pub fn device_entries(&self) -> Result<Vec<DeviceEntry>> {
        self.inspect(Topic::Devices)
    }

    /// Every object one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn object_entries(&self) -> Result<Vec<ObjectEntry>> {
        self.inspect(Topic::Objects)
    }

    /// Every client one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn client_entries(&self) -> Result<Vec<ClientEntry>> {
        self.inspect(Topic::Clients)
    }

    /// Every queue one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn queue_entries(&self) -> Result<Vec<QueueEntry>> {
        self.inspect(Topic::Queues)
    }

    /// Every timeline of a client one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn timeline_entries(&self) -> Result<Vec<TimelineEntry>> {
        self.inspect(Topic::Timelines)
    }

    /// Every point that somebody owes, and what it waits for, as far as one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn obligation_entries(&self) -> Result<Vec<ObligationEntry>> {
        self.inspect(Topic::Obligations)
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

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn releases(&self) -> &Releases {
        &self.releases
    }

    pub(crate) fn inspect<T: serde::de::DeserializeOwned>(&self, topic: Topic) -> Result<Vec<T>> {
        let mut entries = Vec::new();
        let mut cursor = 0;
        loop {
            let reply = self.core.call(core::inspect(topic, cursor))?;
            cursor = core::inspected(&reply, &mut entries)?;
            if cursor == 0 {
                return Ok(entries);
            }
        }
    }
}

/// Where a broker is looked for, in this order.
pub(crate) fn default_paths() -> Vec<PathBuf> {
    if let Some(path) = env::var_os("VGEM_SOCKET").filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let user = env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    let roots = user.into_iter().chain([PathBuf::from("/run")]);
    roots.map(|root| root.join("vgemd/vgemd.sock")).collect()
}

/// The first socket that somebody answers at.
pub(crate) fn connect_any(paths: &[PathBuf]) -> Result<Socket> {
    let mut failures = Vec::new();
    for path in paths {
        match Socket::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) => failures.push(tried(path, error.errno())),
        }
    }
    Err(Error::NotRunning { tried: failures })
}

pub(crate) fn tried(path: &Path, errno: Errno) -> Tried {
    let why = match errno {
        Errno::NOENT => "no such socket".into(),
        Errno::CONNREFUSED => "nobody listens".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::PROTOTYPE => "a socket of another kind".into(),
        other => other.to_string(),
    };
    Tried { path: path.to_owned(), why }
}
