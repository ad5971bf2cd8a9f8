//! What clients ask for: one function per request, each with the same five steps.
//!
//! **Find** what the numbers name, **authorise** (a [`crate::policy`] grant), **charge** the domain, **change**
//! the tables, **reply**. A refusal can only happen before *change*; from there on nothing may fail.
//! Submitting is in [`crate::submit`], opening a queue in [`crate::opening`].

use vgem_proto::VERSION;
use vgem_proto::codec::{Malformed, Zero};
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{
    CauseId, ClientKey, DeviceId, Handle, ObjectKey, Point, QueueHandle, Time, TimelineKey,
};
use vgem_proto::limits;
use vgem_proto::message::Head;
use vgem_proto::message::client::{
    Cancelling, ClientMessage, Described, Devices, Done, Export, Exported, Hello, Inspect, Welcome,
};
use vgem_proto::message::driver::CancelJob;
use vgem_proto::rights::{Access, Rights};

use crate::accounts::{Charge, Resource};
use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::clients::{Client, Standing};
use crate::deadlines::Timer;
use crate::devices::Device;
use crate::import::{Hands, tampered_with};
use crate::io::{Attach, BadRequest, Effect, Event, LinkId, PeerFacts};
use crate::objects::Awaiting;
use crate::policy::{self, Action};
use crate::tables::HandleTable;
use crate::text::harmless;
use crate::timelines::Signals;

/// What a handler says: done (or under way), or refused without any change.
pub(crate) type Outcome = Result<(), Refusal>;

impl Broker {
    /// A client connected: it must greet in time.
    pub(crate) fn connected(&mut self, now: Time, link: LinkId, peer: PeerFacts) {
        let charged = self
            .find_way_in(peer.uid, peer.domain)
            .and_then(|()| self.accounts.charge(peer.domain, Resource::Connections, 1));
        let connection = match charged {
            Ok(charge) => charge,
            Err(refusal) => {
                let why = refusal.to_string();
                self.refuse(link, 0, &refusal, CauseId::NONE);
                self.out.push(Effect::Disconnect { link, why });
                return;
            }
        };
        let until = now.after(self.config.times.greeting_ns);
        let key = self.clients.insert(Client {
            link,
            peer,
            reach: self.domains.reach(&peer),
            name: String::new(),
            standing: Standing::Silent { until },
            objects: HandleTable::new(),
            queues: HandleTable::new(),
            timelines: HandleTable::apart(),
            signals: Signals::default(),
            pairs: Vec::new(),
            next_page: 0,
            opening: 0,
            bad_messages: 0,
            messages: 0,
            connection,
            unreceived: Charge::nothing(peer.domain, Resource::Exports),
            unread_at: None,
            is_checked: false,
            monitors: Charge::nothing(peer.domain, Resource::Monitors),
            traces: None,
            porter: None,
            doorman: None,
            hands: Hands::new(),
        });
        self.timers.arm(Timer::Greeting(key), &mut None, until);
        let PeerFacts { uid, pid, domain, .. } = peer;
        self.log(Some(domain), Event::ClientConnected { client: client_number(key), uid, pid });
    }

    /// A client sent something that is no message. It may try again, but not for ever.
    pub(crate) fn bad_request(&mut self, now: Time, link: LinkId, request: u64, fault: BadRequest) {
        let Some(key) = self.clients.key_of(link) else { return };
        let limit = self.config.bounds.bad_messages;
        let Some(client) = self.clients.get_mut(key).filter(|c| c.standing != Standing::Dropped) else {
            return;
        };
        self.counters.client_messages += 1;
        client.messages += 1;
        client.bad_messages += 1;
        let too_many = client.bad_messages >= limit;
        let domain = client.peer.domain;
        let refusal = match self.accounts.pace(domain, now) {
            Ok(()) => about(fault),
            Err(refusal) => refusal,
        };
        self.refuse(link, request, &refusal, CauseId::NONE);
        if too_many {
            self.drop_client(key, format!("{limit} bad messages in a row"));
        }
    }

    /// A client sent a message.
    pub(crate) fn request(&mut self, now: Time, link: LinkId, head: &Head, message: ClientMessage) {
        let Some(key) = self.clients.key_of(link) else { return };
        let Some(client) = self.clients.get_mut(key) else { return };
        self.counters.client_messages += 1;
        client.messages += 1;
        client.bad_messages = 0;
        let greeted = match client.standing {
            Standing::Dropped => return,
            Standing::Silent { .. } => false,
            Standing::Greeted => true,
        };
        let domain = client.peer.domain;
        let outcome = match (self.accounts.pace(domain, now), message) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), ClientMessage::Hello(hello)) => self.hello(key, head, &hello),
            (Ok(()), _) if !greeted => Err(Refusal::new(ErrorCode::NotGreeted, "say Hello first")),
            (Ok(()), message) => self.greeted_request(now, key, link, head, message),
        };
        if let Err(refusal) = outcome {
            self.refuse(link, head.request, &refusal, CauseId::NONE);
        }
    }

    fn greeted_request(
        &mut self,
        now: Time,
        key: ClientKey,
        link: LinkId,
        head: &Head,
        message: ClientMessage,
    ) -> Outcome {
        let asker = Awaiting { client: key, link, request: head.request };
        match message {
            ClientMessage::Hello(hello) => self.hello(key, head, &hello),
            ClientMessage::CreateObject(create) => self.create_object(asker, &create),
            ClientMessage::Commit(commit) => self.commit(asker, &commit.objects),
            ClientMessage::CloseObject(close) => self.close_object(now, asker, close.object),
            ClientMessage::Export(export) => self.export(asker, &export),
            ClientMessage::ListDevices(_) => self.list_devices(asker),
            ClientMessage::Describe(describe) => self.describe(asker, describe.device),
            ClientMessage::OpenQueue(open) => self.open_queue(now, asker, head.deadline, (head.flags, &open)),
            ClientMessage::CloseQueue(close) => self.close_queue(now, asker, close.queue),
            ClientMessage::Submit(submit) => self.submit(now, asker, head.flags, &submit),
            ClientMessage::Cancel(cancel) => self.cancel(now, asker, cancel.queue, cancel.point),
            ClientMessage::Explain(explain) => self.explain(asker, explain.cause),
            ClientMessage::Inspect(inspect) => self.inspect(asker, &inspect),
            ClientMessage::Monitor(_) => self.monitor(asker),
            ClientMessage::Trace(trace) => self.trace(asker, &trace),
            ClientMessage::CreateDomain(create) => self.create_domain(now, asker, head.flags, create),
            ClientMessage::DrainDomain(drain) => self.drain_domain(asker, drain.domain),
            ClientMessage::CloseDomain(close) => self.close_domain(asker, close.domain),
            ClientMessage::SetQuota(set) => self.set_quota(asker, &set),
            ClientMessage::Disconnect(disconnect) => self.disconnect(asker, disconnect.client),
            ClientMessage::OpenPorter(_) => self.open_porter(now, asker, head.flags),
            ClientMessage::Import(import) => self.import(now, asker, import.name),
            ClientMessage::Observe(observe) => self.observe(asker, &observe),
            ClientMessage::CreateTimeline(create) => self.create_timeline(asker, &create),
            ClientMessage::CloseTimeline(close) => self.close_timeline(now, asker, close.timeline),
            ClientMessage::ExportTimeline(export) => self.export_timeline(now, asker, &export),
            ClientMessage::ImportTimeline(import) => self.import_timeline(asker, import.token),
            ClientMessage::ObserveTimeline(observe) => self.observe_timeline(asker, observe.timeline),
            ClientMessage::TakeShown(_) => self.take_shown(asker),
            ClientMessage::Promise(promise) => self.promise(now, asker, head.flags, &promise),
            ClientMessage::FailPoint(fail) => self.fail_point(now, asker, &fail),
            ClientMessage::QueryPoint(query) => {
                self.query_point(now, asker, head.deadline, (query.timeline, query.point))
            }
            ClientMessage::AttachRing(attach) => self.attach_ring(asker, &attach),
            ClientMessage::CommitRing(commit) => self.commit_ring(asker, commit),
            ClientMessage::Bind(bind) => self.bind(now, asker, &bind),
            ClientMessage::AttachMemory(attach) => self.attach_memory(now, asker, attach),
            ClientMessage::SetWindows(set) => self.set_windows(now, asker, set),
            ClientMessage::Unbind(unbind) => self.unbind(now, asker, &unbind),
            ClientMessage::Rewritten(rewritten) => self.rewritten(asker, &rewritten),
            ClientMessage::TimelineOpened(_)
            | ClientMessage::TimelineExported(_)
            | ClientMessage::TimelineObserved(_)
            | ClientMessage::Shown(_)
            | ClientMessage::CauseIssued(_)
            | ClientMessage::RingAttached(_)
            | ClientMessage::PointState(_)
            | ClientMessage::Welcome(_)
            | ClientMessage::Done(_)
            | ClientMessage::Refused(_)
            | ClientMessage::ObjectCreated(_)
            | ClientMessage::Committed(_)
            | ClientMessage::Exported(_)
            | ClientMessage::Devices(_)
            | ClientMessage::Described(_)
            | ClientMessage::QueueOpened(_)
            | ClientMessage::Accepted(_)
            | ClientMessage::Cancelling(_)
            | ClientMessage::Explained(_)
            | ClientMessage::DomainCreated(_)
            | ClientMessage::PorterOpened(_)
            | ClientMessage::Imported(_)
            | ClientMessage::Observed(_)
            | ClientMessage::Event(_)
            | ClientMessage::Traced(_)
            | ClientMessage::Page(_) => {
                Err(Refusal::new(ErrorCode::UnknownOpcode, "only the broker sends this message")
                    .with(u64::from(head.opcode), 0))
            }
        }
    }

    fn hello(&mut self, key: ClientKey, head: &Head, hello: &Hello) -> Outcome {
        let version = u64::from(VERSION);
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let Standing::Silent { until } = client.standing else {
            return Err(Refusal::new(ErrorCode::Malformed, "this connection has said Hello already"));
        };
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            let text = format!(
                "the client speaks versions {} to {}, this broker {VERSION}",
                hello.version_min, hello.version_max
            );
            return Err(Refusal::new(ErrorCode::Version, text).with(u64::from(hello.version_max), version));
        }
        client.standing = Standing::Greeted;
        client.name = harmless(&hello.name, limits::NAME_LEN);
        let (link, peer) = (client.link, client.peer);
        self.timers.disarm(Timer::Greeting(key), &mut Some(until));
        let welcome = Welcome {
            token: peer.token,
            features: 0,
            domain: peer.domain,
            client: client_number(key),
            version: VERSION,
            reserved: Zero,
            message_len: u32::try_from(limits::MESSAGE_LEN).unwrap_or(u32::MAX),
        };
        self.reply(link, head.request, welcome);
        Ok(())
    }

    fn close_object(&mut self, now: Time, asker: Awaiting, handle: Handle) -> Outcome {
        self.close_handle(now, asker.client, handle)?;
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    /// Takes one import of a handle away; the last one closes it (L5).
    pub(crate) fn close_handle(&mut self, now: Time, client: ClientKey, handle: Handle) -> Outcome {
        let (key, _) = self.find_handle(client, handle)?;
        let holders = self.objects.get_mut(key).map(|object| object.holders.as_mut_slice());
        let own = holders.unwrap_or_default().iter_mut().find(|holder| holder.client == client);
        if let Some(holder) = own.filter(|holder| holder.imports > 1) {
            holder.imports -= 1;
            return Ok(());
        }
        if let Some(held) = self.clients.get_mut(client).and_then(|client| client.objects.remove(handle.0)) {
            self.drop_handle(now, client, held);
        }
        Ok(())
    }

    fn export(&mut self, asker: Awaiting, export: &Export) -> Outcome {
        let (key, rights) = self.find_handle(asker.client, export.object)?;
        let Some(object) = self.objects.get(key) else { return Err(no_such_handle(export.object.0)) };
        let (len, kind) = (object.len, object.kind);
        if object.tampered {
            return Err(tampered_with());
        }
        let grant = policy::authorise_export(key, kind, rights, export.access)?;
        let domain = self.find_client(asker.client)?.peer.domain;
        let charge = self.accounts.charge(domain, Resource::Exports, 1)?;
        let access = match grant.access() {
            Access::Read => "read",
            Access::Write => "write",
        };
        let (object, client, access) = (key.to_string(), client_number(asker.client), access.to_owned());
        self.log(Some(domain), Event::ObjectExported { object, client, access });
        let attach = Attach::Export { object: grant.object(), access: grant.access() };
        self.reply_with_fds(asker, Exported { len }, attach, charge);
        Ok(())
    }

    fn list_devices(&mut self, asker: Awaiting) -> Outcome {
        let domain = self.find_client(asker.client)?.peer.domain;
        let all = self.devices.iter().enumerate();
        let seen: Vec<&Device> =
            all.filter(|(place, _)| self.may_see(domain, *place)).map(|(_, device)| device).collect();
        let ids = seen.iter().map(|device| device.id).collect();
        let names: Vec<&str> = seen.iter().map(|device| device.name()).collect();
        let names = names.join("\n").into_bytes();
        self.reply(asker.link, asker.request, Devices { ids, names });
        Ok(())
    }

    fn describe(&mut self, asker: Awaiting, id: DeviceId) -> Outcome {
        let device = self.find_allowed_device(asker.client, id)?;
        let description = self.devices.get(device).map(|device| device.encoded.clone()).unwrap_or_default();
        self.reply(asker.link, asker.request, Described { device: id, description });
        Ok(())
    }

    fn close_queue(&mut self, now: Time, asker: Awaiting, handle: QueueHandle) -> Outcome {
        let key = self.find_queue(asker.client, handle)?;
        if let Some(client) = self.clients.get_mut(asker.client) {
            client.queues.remove(handle.0);
        }
        self.end_queue(now, key);
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    fn cancel(&mut self, now: Time, asker: Awaiting, handle: QueueHandle, point: Point) -> Outcome {
        let key = self.find_queue(asker.client, handle)?;
        let Some(queue) = self.queues.get(key) else { return Err(no_such_queue(handle)) };
        if point > queue.promised || point == Point(0) {
            let text = format!("the queue's jobs are 1 to {}", queue.promised.0);
            return Err(Refusal::new(ErrorCode::BadPoint, text).with(point.0, queue.promised.0));
        }
        let (instance, domain, device) = (queue.instance, queue.domain, queue.device);
        let is_new = queue.job(point).is_some_and(|job| !job.cancelled);
        let state = if point <= queue.ended {
            2
        } else if point == queue.ended.next() && queue.limit.is_some() {
            1
        } else {
            0
        };
        // Asked again, nothing more can be done: neither the driver's link nor the memory of causes fills by asking.
        if state != 2 && is_new {
            let device = self.devices.get(device).map(|d| d.name().to_owned()).unwrap_or_default();
            let text = "cancelled by the client that submitted it".to_owned();
            let (client, object) = self.about_job(key, point);
            let cause = Cause::new(now, ErrorCode::Cancelled, text).to(key, point).by(client, 0);
            let cause = cause.on(device).writing(object);
            let cause = self.causes.issue(domain, cause);
            if let Some(queue) = self.queues.get_mut(key) {
                queue.cancel(point, Failure { code: ErrorCode::Cancelled, cause });
            }
            let code = ErrorCode::Cancelled;
            self.tell_driver(instance, CancelJob { timeline: key, point, cause, code, reserved: Zero });
            self.look_at_cancelled(now, key, point);
        }
        self.reply(asker.link, asker.request, Cancelling { state, reserved: Zero });
        Ok(())
    }

    fn inspect(&mut self, asker: Awaiting, inspect: &Inspect) -> Outcome {
        let scope = policy::scope(self.find_client(asker.client)?.subject());
        let Awaiting { link, request, .. } = asker;
        let (topic, cursor) = (inspect.topic, inspect.cursor);
        self.out.push(Effect::Inspect { link, request, scope, topic, cursor });
        Ok(())
    }

    fn monitor(&mut self, asker: Awaiting) -> Outcome {
        let subject = self.find_client(asker.client)?.subject();
        let grant = policy::authorise(subject, Action::Monitor)?;
        if self.find_client(asker.client)?.monitors.amount() == 0 {
            let charge = self.accounts.charge(grant.domain(), Resource::Monitors, 1)?;
            if let Some(client) = self.clients.get_mut(asker.client) {
                client.monitors.join(charge);
            }
        }
        let scope = policy::scope(subject);
        self.reply(asker.link, asker.request, Done {});
        self.out.push(Effect::Monitor { link: asker.link, scope });
        Ok(())
    }

    pub(crate) fn find_client(&self, key: ClientKey) -> Result<&Client, Refusal> {
        self.clients.get(key).ok_or_else(|| Refusal::new(ErrorCode::Gone, "the client is gone"))
    }

    pub(crate) fn find_handle(
        &self,
        client: ClientKey,
        handle: Handle,
    ) -> Result<(ObjectKey, Rights), Refusal> {
        let held = self.clients.get(client).and_then(|client| client.objects.get(handle.0));
        held.map(|held| (held.object, held.rights)).ok_or_else(|| no_such_handle(handle.0))
    }

    pub(crate) fn find_queue(&self, client: ClientKey, handle: QueueHandle) -> Result<TimelineKey, Refusal> {
        let found = self.clients.get(client).and_then(|client| client.queues.get(handle.0));
        found.copied().ok_or_else(|| no_such_queue(handle))
    }

    /// The place of a device in the broker's list.
    pub(crate) fn find_device(&self, id: DeviceId) -> Result<usize, Refusal> {
        self.devices.iter().position(|device| device.id == id).ok_or_else(|| {
            let text = "no device has this number; ListDevices names those there are";
            Refusal::new(ErrorCode::NoSuchDevice, text).with(u64::from(id.0), 0)
        })
    }
}

/// The refusal that a bad packet is answered with.
fn about(fault: BadRequest) -> Refusal {
    let malformed = match fault {
        BadRequest::TooLarge { len } => {
            let limit = limits::MESSAGE_LEN as u64;
            let text = format!("the message has {len} bytes, the limit is {limit}");
            return Refusal::new(ErrorCode::TooLarge, text).with(len, limit);
        }
        BadRequest::Malformed(malformed) => malformed,
    };
    let text = malformed.to_string();
    match malformed {
        Malformed::UnknownOpcode(opcode) => {
            Refusal::new(ErrorCode::UnknownOpcode, text).with(u64::from(opcode), 0)
        }
        Malformed::UnknownFlags(flags) => {
            Refusal::new(ErrorCode::UnknownFlag, text).with(u64::from(flags), 0)
        }
        Malformed::TooMany { count, limit, .. } => {
            Refusal::new(ErrorCode::Malformed, text).with(count, limit)
        }
        Malformed::BadValue { value, .. } => Refusal::new(ErrorCode::Malformed, text).with(value, 0),
        Malformed::SizeMismatch { said, got } => Refusal::new(ErrorCode::Malformed, text).with(said, got),
        Malformed::Short { .. }
        | Malformed::Trailing { .. }
        | Malformed::NonZeroTail
        | Malformed::NotText { .. }
        | Malformed::WrongFds { .. }
        | _ => Refusal::new(ErrorCode::Malformed, text),
    }
}

/// The same answer for a handle that never was, is closed, or is somebody else's.
pub(crate) fn no_such_handle(handle: u32) -> Refusal {
    Refusal::new(ErrorCode::NoSuchHandle, "this connection has no such handle").with(u64::from(handle), 0)
}

/// The same for a queue.
pub(crate) fn no_such_queue(handle: QueueHandle) -> Refusal {
    Refusal::new(ErrorCode::NoSuchHandle, "this connection has no such queue").with(u64::from(handle.0), 0)
}

pub(crate) fn full_table(rows: usize) -> Refusal {
    let rows = rows as u64;
    Refusal::new(ErrorCode::Exhausted, "handles of one connection").with(rows + 1, rows)
}
