//! `org.vgemd.Broker1.Manager` at `/org/vgemd/Broker1`: what one can ask.
//!
//! Every method that shows or does something does it in the caller's own session, so it shows and allows what a connection
//! of that user's would. The last argument is `a{sv}`: options, none of which must be there.

use std::collections::HashMap;
use std::ops::Deref;
use std::os::fd::OwnedFd as StdFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vgem::aio::Client;
use vgem::{Access, BufferOptions, CauseId, ClientOptions, Direction, DomainId, ErrorCode, ParamKind};
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::object_server::Interface as _;
use zbus::{OwnedFd, OwnedVariant, interface};

use crate::answers::{Answer, Answers, Told};
use crate::callers::{Callers, Cost};
use crate::domains;
use crate::error::{Error, Result, name};
use crate::link::{Broker, Identity};
use crate::objects::{ClientObject, DeviceObject, DomainObject};
use crate::options::{Options, no_more, take_flag, take_number, take_text};
use crate::polkit::{Right, Rights};
use crate::sessions::{Operand, Outcome, Session, Sessions};
use crate::values::{Dict, entry};
use crate::why;

/// Longest time that a job may be given, milliseconds.
const TIMEOUT_MOST_MS: u64 = 24 * 3600 * 1000;

/// What outlives a connection to the bus, and what one of them has.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) callers: Arc<Callers>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) sessions: Sessions,
    pub(crate) rights: Rights,
    /// The bus itself; without one nothing.
    pub(crate) bus: OnceLock<DBusProxy<'static>>,
    /// The only caller, if there is no bus.
    peer: Option<(OwnedUniqueName, Identity)>,
}

/// The manager.
#[derive(Debug, Clone)]
pub(crate) struct Manager(pub(crate) Arc<Shared>);

impl Shared {
    pub(crate) fn new(broker: Broker, rights: Rights) -> Self {
        Self {
            broker,
            callers: Arc::default(),
            answers: Arc::default(),
            sessions: Sessions::default(),
            rights,
            bus: OnceLock::new(),
            peer: None,
        }
    }

    /// What a caller without a bus has.
    pub(crate) fn of_peer(
        broker: Broker,
        callers: Arc<Callers>,
        answers: Arc<Answers>,
        number: u64,
        whose: Identity,
    ) -> Self {
        let name = OwnedUniqueName::try_from(format!(":peer.{number}")).ok();
        Self {
            callers,
            answers,
            peer: name.map(|name| (name, whose)),
            ..Self::new(broker, Rights::default())
        }
    }

    async fn caller(&self, header: &Header<'_>, cost: Cost) -> Result<(OwnedUniqueName, Identity)> {
        if let Some((name, whose)) = &self.peer {
            self.callers.pace(whose.uid, cost)?;
            return Ok((name.clone(), *whose));
        }
        self.callers.identify(self.bus()?, header, cost).await
    }

    async fn session(&self, header: &Header<'_>, cost: Cost) -> Result<Arc<Session>> {
        let (caller, whose) = self.caller(header, cost).await?;
        let (session, is_new) = self.sessions.of(&self.broker, &caller, whose).await?;
        // It may have left before the session was there to end with it.
        if is_new
            && self.peer.is_none()
            && !self.bus()?.name_has_owner(BusName::from(caller.inner().clone())).await.unwrap_or(true)
        {
            self.sessions.gone(&caller);
        }
        Ok(session)
    }

    /// The answer to a question of a caller.
    async fn told<T, F: Future<Output = vgem::Result<T>>>(
        &self,
        header: &Header<'_>,
        question: fn(&mut Told) -> &mut Option<Answer<T>>,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<Arc<T>> {
        let session = self.session(header, Cost::Plain).await?;
        self.answers.of(session.uid(), question, ask(session.client().clone())).await
    }

    /// A session that administers, if the caller may do that; for this call, and no other.
    async fn admin(&self, header: &Header<'_>, right: Right) -> Result<Client> {
        let (name, whose) = self.caller(header, Cost::Session).await?;
        self.rights.check(self.bus.get().map(|bus| bus.inner().connection()), header, whose, right).await?;
        let socket = self.broker.session_to_administer(whose).await?;
        // The broker's audit line has this name.
        Ok(Client::over(socket, &ClientOptions::new().name(format!("bus {name}"))).await?)
    }

    /// The answer to a question of a caller: about what is its own, or with the option `all` about what is everybody's.
    async fn seen<T, F: Future<Output = vgem::Result<T>>>(
        &self,
        header: &Header<'_>,
        mut options: Options,
        question: fn(&mut Told) -> &mut Option<Answer<T>>,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<Arc<T>> {
        let all = take_flag(&mut options, "all")?;
        no_more(&options)?;
        if all {
            let client = self.admin(header, Right::See).await?;
            return Ok(Arc::new(ask(client).await?));
        }
        self.told(header, question, ask).await
    }

    /// What the devices of a name have done for this caller, counted since their instances began.
    pub(crate) async fn counters(&self, header: &Header<'_>, device: &str) -> Result<HashMap<String, u64>> {
        let ask = |client: Client| async move { client.device_entries().await };
        let devices = self.told(header, |told| &mut told.devices, ask).await?;
        let mut sums = HashMap::new();
        for instance in devices.iter().filter(|entry| entry.name == device).flat_map(|entry| &entry.instances)
        {
            let counted = [
                ("jobs", instance.jobs),
                ("in_flight", instance.in_flight),
                ("busy_ns", instance.busy_ns),
                ("bytes", instance.bytes),
            ];
            for (what, number) in counted {
                *sums.entry(what.to_owned()).or_default() += number;
            }
        }
        Ok(sums)
    }

    /// A session that is about to make or change something, which its user is to see in the next answer.
    async fn at_work(&self, header: &Header<'_>) -> Result<AtWork<'_>> {
        Ok(AtWork { session: self.session(header, Cost::Work).await?, answers: &self.answers })
    }

    fn bus(&self) -> Result<&DBusProxy<'static>> {
        self.bus.get().ok_or_else(|| Error::new(ErrorCode::Unavailable, "the bus is not there yet"))
    }
}

/// A session while it makes or changes something.
struct AtWork<'a> {
    session: Arc<Session>,
    answers: &'a Answers,
}

impl Deref for AtWork<'_> {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

/// Fds that a caller gave. Closing one may take for ever, so it is done where nobody waits for it.
struct Given([Option<StdFd>; 2]);

impl Drop for Given {
    fn drop(&mut self) {
        let given = self.0.each_mut().map(Option::take);
        // A blocking thread of the runtime, of which there are many.
        drop(tokio::task::spawn_blocking(move || drop(given)));
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.answers.changed(self.session.uid());
    }
}

#[interface(name = "org.vgemd.Broker1.Manager")]
impl Manager {
    /// Version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    /// The broker as a whole, with its counters since the start, as far as the caller may see. Option `all`, for
    /// who administers: whatever there is.
    async fn status(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Dict> {
        let ask = |client: Client| async move { client.status().await };
        let status = self.0.seen(&header, options, |told| &mut told.status, ask).await?;
        let counters = &status.counters;
        let mut all: Dict = [
            ("clients", status.clients),
            ("objects", status.objects),
            ("object_bytes", status.object_bytes),
            ("pinned_bytes", status.pinned_bytes),
            ("queues", status.queues),
            ("timelines", status.timelines),
            ("jobs_in_flight", status.jobs_in_flight),
            ("instances", status.instances),
            ("uptime_ns", status.uptime_ns),
            ("client_messages", counters.client_messages),
            ("batches", counters.batches),
            ("batches_refused", counters.batches_refused),
            ("jobs", counters.jobs),
            ("jobs_ok", counters.jobs_ok),
            ("jobs_failed", counters.jobs_failed),
            ("instances_lost", counters.instances_lost),
        ]
        .into_iter()
        .map(|(key, number)| entry(key, number))
        .collect();
        all.extend([entry("version", status.version.clone()), entry("pid", status.pid)]);
        all.extend([entry("features", status.features.clone())]);
        Ok(all)
    }

    /// The devices, as the caller sees them. Option `all`, for who administers.
    async fn list_devices(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let ask = |client: Client| async move { client.device_entries().await };
        let devices = self.0.seen(&header, options, |told| &mut told.devices, ask).await?;
        Ok(devices.iter().map(|device| DeviceObject::of(device.clone()).dict()).collect())
    }

    /// The operations of a device, with their operands and parameters.
    async fn describe(
        &self,
        device: &str,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Dict>> {
        no_more(&options)?;
        let session = self.0.session(&header, Cost::Plain).await?;
        let device = session.client().device(device).await?;
        Ok(device.description().operations.iter().map(operation).collect())
    }

    /// The clients, as far as the caller may see. Option `all`, for who administers.
    async fn list_clients(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let ask = |client: Client| async move { client.client_entries().await };
        let clients = self.0.seen(&header, options, |told| &mut told.clients, ask).await?;
        let dict = |client: &vgem::snapshot::ClientEntry| {
            let (queues, jobs, messages) = (client.queues, client.jobs_in_flight, client.messages);
            let mut dict = ClientObject::of(client.clone()).dict();
            dict.extend([
                entry("queues", queues),
                entry("jobs_in_flight", jobs),
                entry("messages", messages),
            ]);
            dict
        };
        Ok(clients.iter().map(dict).collect())
    }

    /// The memory objects, as far as the caller may see. Option `all`, for who administers.
    async fn list_objects(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let ask = |client: Client| async move { client.object_entries().await };
        let objects = self.0.seen(&header, options, |told| &mut told.objects, ask).await?;
        Ok(objects.iter().map(object).collect())
    }

    /// One memory object, by its key. Option `all`, for who administers.
    async fn get_object(
        &self,
        key: &str,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict> {
        let ask = |client: Client| async move { client.object_entries().await };
        let objects = self.0.seen(&header, options, |told| &mut told.objects, ask).await?;
        let found = objects.iter().find(|object| object.object == key);
        let none = || Error::new(ErrorCode::NoSuchHandle, format!("no object {key:?}, or not yours to see"));
        found.map(object).ok_or_else(none)
    }

    /// The domains, as far as the caller may see; quotas are what is used, and what may be. Option `all`, for who
    /// administers.
    async fn list_domains(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let ask = |client: Client| async move { client.domain_entries().await };
        let domains = self.0.seen(&header, options, |told| &mut told.domains, ask).await?;
        Ok(domains.iter().map(domains::dict).collect())
    }

    /// Makes a domain with a listening socket of its own, for who administers: its number, where its socket is, and a fd; the
    /// domain ends when the last copy of that is closed. Options: `quotas` (`a{st}`, as ListDomains names them), `uses` (`as`,
    /// each a device or DEVICE/OPERATION; left out, what everybody may use), `stays` (`b`: it stays until it is closed).
    #[zbus(out_args("domain", "socket", "hold"))]
    async fn make_domain(
        &self,
        name: &str,
        mut options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(u32, String, OwnedFd)> {
        let wanted = domains::wanted(name, &mut options)?;
        no_more(&options)?;
        let creator = self.0.admin(&header, Right::Domains).await?;
        let made = creator.create_domain(&wanted).await?;
        let hold = domains::hold(creator)?;
        Ok((made.domain.0, made.socket.to_string_lossy().into_owned(), hold.into()))
    }

    /// Makes a domain of whoever connects to a socket that the caller has bound, a SOCK_SEQPACKET socket of AF_UNIX that listens,
    /// for who administers: its number, and where its socket is, as it was bound. It ends when `close` hangs up, whether the
    /// caller is there or not: a pipe, a socket, a pidfd or an eventfd, from which nothing is read. Options: `name` (`s`, must be
    /// there), `quotas` and `uses` as MakeDomain has them.
    #[zbus(out_args("domain", "socket"))]
    async fn create_domain(
        &self,
        listen: OwnedFd,
        close: OwnedFd,
        mut options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(u32, String)> {
        let given = Given([listen, close].map(|fd| Some(fd.into())));
        let name = take_text(&mut options, "name")?;
        let missing = || Error::new(ErrorCode::BadParameter, "option \"name\" is missing: a domain has one");
        let wanted = domains::wanted(&name.ok_or_else(missing)?, &mut options)?;
        no_more(&options)?;
        let creator = self.0.admin(&header, Right::Domains).await?;
        let [Some(listen), Some(close)] = &given.0 else { return Err(missing()) };
        let made = creator.create_domain_at(listen, close, &wanted).await?;
        Ok((made.domain.0, made.socket.to_string_lossy().into_owned()))
    }

    /// Lets nobody new into a domain that was made, for who administers; it ends with its last client.
    async fn drain_domain(
        &self,
        domain: u32,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        no_more(&options)?;
        Ok(self.0.admin(&header, Right::Domains).await?.drain_domain(DomainId(domain)).await?)
    }

    /// Ends a domain that was made, and disconnects its clients, for who administers.
    async fn close_domain(
        &self,
        domain: u32,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        no_more(&options)?;
        Ok(self.0.admin(&header, Right::Domains).await?.close_domain(DomainId(domain)).await?)
    }

    /// Says anew what a domain may hold, for who administers; a quota that is not named stays as it is.
    async fn set_quota(
        &self,
        domain: u32,
        quotas: HashMap<String, u64>,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        no_more(&options)?;
        let quotas = domains::quotas(quotas.into_iter().collect())?;
        Ok(self.0.admin(&header, Right::Quotas).await?.set_quota(DomainId(domain), &quotas).await?)
    }

    /// Disconnects a client, by its number, for who administers.
    async fn disconnect(
        &self,
        client: u64,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        no_more(&options)?;
        Ok(self.0.admin(&header, Right::Clients).await?.disconnect(client).await?)
    }

    /// What is behind a cause, as failures name it (`cause:3.7`).
    async fn explain(
        &self,
        cause: &str,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict> {
        no_more(&options)?;
        let bad = || Error::new(ErrorCode::BadParameter, format!("{cause:?} is no cause; say cause:3.7"));
        let id = parse_cause(cause).ok_or_else(bad)?;
        let told = self.0.session(&header, Cost::Plain).await?.client().explain(id).await?;
        let mut dict: Dict =
            [entry("code", name(told.code)), entry("text", told.text.clone())].into_iter().collect();
        let texts = [("device", &told.device), ("object", &told.object)];
        dict.extend(texts.into_iter().filter_map(|(key, text)| Some(entry(key, text.clone()?))));
        let numbers = [
            ("at_ns", told.at.map(|at| at.0)),
            ("pid", told.pid.map(u64::from)),
            ("point", told.point.map(|point| point.0)),
            ("client", told.client),
        ];
        dict.extend(numbers.into_iter().filter_map(|(key, number)| Some(entry(key, number?))));
        Ok(dict)
    }

    /// A connected socket of the broker: speak the protocol of `proto/SPEC.md` on it, Hello first.
    #[zbus(out_args("session"))]
    async fn open_session(&self, options: Options, #[zbus(header)] header: Header<'_>) -> Result<OwnedFd> {
        no_more(&options)?;
        let (_, whose) = self.0.caller(&header, Cost::Session).await?;
        let socket = self.0.broker.session(whose).await?;
        Ok(StdFd::from(socket).into())
    }

    /// Makes a memory object of `size` bytes; its number for this caller, and an fd to map it with. Option `name`.
    #[zbus(out_args("handle", "memory"))]
    async fn create_object(
        &self,
        size: u64,
        mut options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(u64, OwnedFd)> {
        let named = take_text(&mut options, "name")?;
        no_more(&options)?;
        let made = named.map_or_else(BufferOptions::new, |name| BufferOptions::new().name(name));
        let (handle, fd) = self.0.at_work(&header).await?.create(size, &made).await?;
        Ok((handle, fd.into()))
    }

    /// Another fd of an object of this caller; `access` is `read` or `write`.
    #[zbus(out_args("memory"))]
    async fn export_object(
        &self,
        handle: u64,
        access: &str,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedFd> {
        no_more(&options)?;
        let access = match access {
            "read" => Access::Read,
            "write" => Access::Write,
            other => {
                let text = format!("access {other:?} is neither \"read\" nor \"write\"");
                return Err(Error::new(ErrorCode::BadParameter, text));
            }
        };
        Ok(self.0.at_work(&header).await?.export(handle, access).await?.into())
    }

    /// Lets an object of this caller go; jobs under way, and its fds, keep the memory.
    async fn close_object(
        &self,
        handle: u64,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        no_more(&options)?;
        self.0.at_work(&header).await?.close(handle)
    }

    /// Submits one job. An operand is its name, an object's number, the first byte, and how many, where 0 is all from there
    /// on. Gives the job's number for this caller, and an fd that becomes readable when it has ended, and gives eight bytes
    /// then as an eventfd does. Option `timeout_ms`.
    #[zbus(out_args("job", "ended"))]
    async fn run(
        &self,
        device: &str,
        op: &str,
        params: HashMap<String, OwnedVariant>,
        objects: Vec<Operand>,
        mut options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(u64, OwnedFd)> {
        let timeout = take_number(&mut options, "timeout_ms")?;
        no_more(&options)?;
        if let Some(ms) = timeout.filter(|ms| !(1..=TIMEOUT_MOST_MS).contains(ms)) {
            let text = format!("option \"timeout_ms\" is {ms}; it is from 1 to {TIMEOUT_MOST_MS}");
            return Err(Error::new(ErrorCode::OutOfRange, text));
        }
        let timeout = timeout.map(Duration::from_millis);
        let session = self.0.at_work(&header).await?;
        let (job, ended) = session.submit(device, op, &params, &objects, timeout).await?;
        Ok((job, ended.into()))
    }

    /// How a job of this caller stands: `state` is `running`, `ended` or `failed`; then what the operation produced and found
    /// out, or the error's name, its text, and its cause.
    async fn job_result(
        &self,
        job: u64,
        options: Options,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict> {
        no_more(&options)?;
        let outcome = self.0.session(&header, Cost::Plain).await?.outcome(job)?;
        Ok(match outcome {
            Outcome::Running => [entry("state", "running")].into(),
            Outcome::Ended(None) => [entry("state", "ended")].into(),
            Outcome::Ended(Some((cell, means))) => {
                let busy = u64::try_from(cell.busy().as_nanos()).unwrap_or(u64::MAX);
                [
                    entry("state", "ended"),
                    entry("produced", cell.produced()),
                    entry("value", cell.value()),
                    entry("value_means", means),
                    entry("digest", cell.digest().to_vec()),
                    entry("busy_ns", busy),
                ]
                .into()
            }
            Outcome::Failed(error, cause) => {
                let mut dict: Dict = [
                    entry("state", "failed"),
                    entry("error", zbus::DBusError::name(&error).to_string()),
                    entry("text", error.to_string()),
                ]
                .into();
                dict.extend(cause.map(|cause| entry("cause", cause)));
                dict
            }
        })
    }

    /// Why a job of this caller has not ended: itself, what it waits for, what that waits for, and so on, the nearest first;
    /// who owes each of them, in which `state`, and since when. Nothing if it has ended.
    async fn why(&self, job: u64, options: Options, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        no_more(&options)?;
        let session = self.0.session(&header, Cost::Work).await?;
        let (device, point) = session.point(job)?;
        let owed = session.client().obligation_entries().await?;
        let own = session.client().number();
        // A session has one queue on a device.
        let is_it = |one: &vgem::snapshot::ObligationEntry| {
            one.kind == "job" && (one.client, &one.device, one.point) == (own, &device, point)
        };
        Ok(why::chain(&owed, is_it).into_iter().map(why::dict).collect())
    }

    /// Forgets a job of this caller. It goes on if it runs; those that have ended are forgotten when there are many.
    async fn forget_job(&self, job: u64, options: Options, #[zbus(header)] header: Header<'_>) -> Result<()> {
        no_more(&options)?;
        self.0.session(&header, Cost::Plain).await?.forget(job)
    }
}

/// The introspection data of all interfaces, as packaging installs it.
#[must_use]
pub fn introspect() -> String {
    let mut text = String::from(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
    );
    let (broker, _) = crate::link::broker();
    Manager(Arc::new(Shared::new(broker, Rights::default()))).introspect_to_writer(&mut text, 2);
    DeviceObject::default().introspect_to_writer(&mut text, 2);
    ClientObject::default().introspect_to_writer(&mut text, 2);
    DomainObject::default().introspect_to_writer(&mut text, 2);
    text.push_str("</node>\n");
    text
}

fn operation(op: &vgem::Operation) -> Dict {
    let direction = |direction: Direction| match direction {
        Direction::In => "in",
        Direction::Out => "out",
        Direction::InOut => "inout",
        Direction::Cell => "cell",
    };
    // Where results go control sees to itself.
    let operands = op.operands.iter().filter(|operand| operand.direction != Direction::Cell);
    let operands: Vec<(String, String, bool)> = operands
        .map(|operand| (operand.name.clone(), direction(operand.direction).to_owned(), !operand.required))
        .collect();
    let kind = |kind: &ParamKind| match kind {
        ParamKind::Number { min, max, .. } => format!("a number from {min} to {max}"),
        ParamKind::Choice { words, .. } => format!("one of {}", words.join(", ")),
        ParamKind::Bytes { max_len, .. } => format!("at most {max_len} bytes"),
    };
    let required = |kind: &ParamKind| match kind {
        ParamKind::Number { default, .. } => default.is_none(),
        ParamKind::Choice { default, .. } => default.is_none(),
        ParamKind::Bytes { required, .. } => *required,
    };
    let params: Vec<(String, String, bool)> = op
        .params
        .iter()
        .map(|param| (param.name.clone(), kind(&param.kind), !required(&param.kind)))
        .collect();
    [
        entry("name", op.name.clone()),
        entry("summary", op.summary.clone()),
        entry("operands", operands),
        entry("params", params),
        entry("value", op.value.clone()),
    ]
    .into()
}

fn object(entry_of: &vgem::snapshot::ObjectEntry) -> Dict {
    [
        entry("object", entry_of.object.clone()),
        entry("name", entry_of.name.clone()),
        entry("len", entry_of.len),
        entry("pinned", entry_of.pinned),
        entry("state", entry_of.state.clone()),
        entry("domain", entry_of.domain),
        entry("clients", entry_of.clients.clone()),
        entry("kind", entry_of.kind.clone()),
        entry("mapped_by", entry_of.mapped_by.clone()),
        entry("uses", entry_of.uses),
        entry("poison", entry_of.poison.clone()),
    ]
    .into()
}

/// `cause:ISSUER.NUMBER`, or without the word.
fn parse_cause(text: &str) -> Option<CauseId> {
    let (issuer, number) = text.strip_prefix("cause:").unwrap_or(text).split_once('.')?;
    let (issuer, number) = (issuer.parse::<u32>().ok()?, number.parse::<u32>().ok()?);
    let id = CauseId(u64::from(issuer) << 32 | u64::from(number));
    (id != CauseId::NONE).then_some(id)
}

/// The signature of operands.
#[cfg(test)]
const OPERANDS: &str = "a(sttt)";

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;

    #[test]
    fn the_installed_introspection_data_is_what_is_served() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/dbus/org.vgemd.Broker1.xml");
        let installed = std::fs::read_to_string(file).expect("the installed introspection data");
        assert_eq!(installed, introspect(), "write it anew with `cargo xtask dbus-xml`");
    }

    #[test]
    fn every_method_takes_options_last() {
        let text = introspect();
        let methods: Vec<&str> = text.split("<method ").skip(1).collect();
        assert!(methods.len() > 10);
        for method in methods {
            let body = method.split("</method>").next().unwrap_or_default();
            let last = body.lines().rfind(|line| line.contains("direction=\"in\""));
            assert!(last.is_some_and(|line| line.contains("name=\"options\" type=\"a{sv}\"")), "{body}");
        }
        assert!(text.contains(OPERANDS), "{text}");
    }

    #[test]
    fn a_cause_is_read_as_failures_print_it() {
        let cause = CauseId(0x0000_0003_0000_0007);
        assert_eq!(parse_cause(&cause.to_string()), Some(cause));
        assert_eq!([parse_cause("3"), parse_cause("cause:0.0"), parse_cause("")], [None; 3]);
    }

    #[test]
    fn numbers_of_methods_are_variants_of_their_own_type() {
        let (key, value) = entry("len", 7_u64);
        assert_eq!((key.as_str(), &*value), ("len", &Variant::U64(7)));
    }
}
