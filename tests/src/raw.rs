//! A client without the library: it sends what it likes.
//!
//! Answers are heard in the order they come; events ([`Raw::monitor`]) are put aside, so that they never stand where
//! an answer is expected.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use vgem_os::mapping::{Mapping, Populate};
use vgem_os::seqpacket::{Packet, RecvError, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, Point, QueueHandle, Time};
use vgem_proto::jobs::{ClientJob, ClientOperand, ClientParam, ParamSource};
use vgem_proto::limits;
use vgem_proto::message::client::{
    ClientMessage, CloseObject, Commit, CreateObject, Describe, Export, Hello, Import, Inspect, ListDevices,
    Monitor, OpenPorter, OpenQueue, Refused, Submit,
};
use vgem_proto::message::porter::Hand;
use vgem_proto::message::{Head, SUBMIT_REPLY, Sender};
use vgem_proto::rights::{Access, HugePages};
use vgem_proto::snapshot::{self, Topic};

/// A connection that speaks raw messages.
#[derive(Debug)]
pub struct Raw {
    /// The socket.
    pub socket: Socket,
    requests: u64,
    /// The fds that came with the last answer.
    pub fds: Vec<OwnedFd>,
    /// The events that came, as JSON, oldest first.
    pub events: Vec<String>,
}

/// What came from the broker.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Head, ClientMessage),
    /// The connection is gone.
    Gone,
    /// Nothing within the time.
    Nothing,
}

impl Raw {
    /// Connects, without a greeting.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn stranger(path: &Path) -> Self {
        Self::on(Socket::connect(path).expect("a broker listens"))
    }

    fn on(socket: Socket) -> Self {
        socket.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        Self { socket, requests: 0, fds: Vec::new(), events: Vec::new() }
    }

    /// Connects and greets.
    ///
    /// # Panics
    /// If the broker does not answer with Welcome.
    #[must_use]
    pub fn greeted(path: &Path) -> Self {
        Self::over(Socket::connect(path).expect("a broker listens"))
    }

    /// Greets over a connection that somebody else made.
    ///
    /// # Panics
    /// As [`Raw::greeted`].
    #[must_use]
    pub fn over(socket: Socket) -> Self {
        Self::welcomed(socket).expect("a broker that welcomes")
    }

    /// As [`Raw::over`], if the broker does not close the connection instead.
    ///
    /// # Panics
    /// If it answers with anything but Welcome.
    #[must_use]
    pub fn welcomed(socket: Socket) -> Option<Self> {
        let mut raw = Self::on(socket);
        let hello =
            Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: b"raw".to_vec() };
        raw.send(hello, &[]).ok()?;
        match raw.hear_within(Duration::from_secs(10)) {
            Heard::Message(_, ClientMessage::Welcome(_)) => Some(raw),
            Heard::Gone => None,
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// Sends bytes as they are and waits for an answer.
    ///
    /// # Panics
    /// If there is none within ten seconds, or the connection is gone.
    pub fn ask_bytes(&mut self, bytes: &[u8]) -> ClientMessage {
        self.socket.send(bytes, &[]).expect("the broker reads");
        self.hear()
    }

    /// Waits for a message that is no event.
    ///
    /// # Panics
    /// As [`Raw::ask_bytes`].
    pub fn hear(&mut self) -> ClientMessage {
        match self.hear_within(Duration::from_secs(10)) {
            Heard::Message(_, message) => message,
            other => panic!("{other:?} instead of an answer"),
        }
    }

    /// Waits for what comes next, other than events, for so long at most.
    ///
    /// # Panics
    /// If the broker says what is no message.
    pub fn hear_within(&mut self, limit: Duration) -> Heard {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        self.socket.set_recv_timeout(Some(limit)).expect("a socket of ours");
        loop {
            self.fds.clear();
            let len = match self.socket.recv(&mut buf, &mut self.fds) {
                Ok(Packet::Data { len }) => len,
                Ok(Packet::Closed) => return Heard::Gone,
                Err(RecvError::Os(e)) if e.errno() == vgem_os::Errno::AGAIN => return Heard::Nothing,
                Err(RecvError::Os(e)) if e.errno() == vgem_os::Errno::CONNRESET => return Heard::Gone,
                other => panic!("{other:?} instead of an answer"),
            };
            let (head, message) = ClientMessage::decode(&buf[..len], Sender::Broker, self.fds.len())
                .expect("brokers speak well");
            let ClientMessage::Event(event) = message else { return Heard::Message(head, message) };
            assert_eq!(head.request, 0, "an event answers no request");
            self.events.push(String::from_utf8(event.json).expect("JSON is text"));
        }
    }

    /// Sends a request; its number.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn send(
        &mut self,
        message: impl Into<ClientMessage>,
        fds: &[BorrowedFd<'_>],
    ) -> vgem_os::Result<u64> {
        let message = message.into();
        let flags = if matches!(message, ClientMessage::Submit(_)) { SUBMIT_REPLY } else { 0 };
        self.send_flagged(&message, flags, fds)
    }

    /// As [`Raw::send`], with flags in the head.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn send_flagged(
        &mut self,
        message: &ClientMessage,
        flags: u16,
        fds: &[BorrowedFd<'_>],
    ) -> vgem_os::Result<u64> {
        self.requests += 1;
        let deadline = Time(vgem_os::clock::now()).after(10_000_000_000);
        self.socket.send(&message.encode(self.requests, deadline, flags), fds)?;
        Ok(self.requests)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Panics
    /// As [`Raw::ask_bytes`].
    pub fn ask(&mut self, message: impl Into<ClientMessage>) -> ClientMessage {
        let request = self.send(message, &[]).expect("the broker reads");
        self.answer_to(request)
    }

    /// As [`Raw::ask`], with flags in the head.
    ///
    /// # Panics
    /// As there.
    pub fn ask_flagged(&mut self, message: impl Into<ClientMessage>, flags: u16) -> ClientMessage {
        let request = self.send_flagged(&message.into(), flags, &[]).expect("the broker reads");
        self.answer_to(request)
    }

    fn answer_to(&mut self, request: u64) -> ClientMessage {
        match self.hear_within(Duration::from_secs(10)) {
            Heard::Message(head, message) => {
                // What is refused before it could be read has no number to repeat.
                assert!(head.request == request || head.request == 0, "{message:?} answers another request");
                message
            }
            other => panic!("{other:?} instead of an answer"),
        }
    }

    /// As [`Raw::ask`], for requests that must be refused.
    ///
    /// # Panics
    /// If the request was carried out.
    pub fn refused(&mut self, message: impl Into<ClientMessage>) -> Refused {
        match self.ask(message) {
            ClientMessage::Refused(refused) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// An object of one page, committed or not.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn object(&mut self, committed: bool) -> Handle {
        self.exported(4096, committed).0
    }

    /// An object of `len` bytes, committed or not, with the read-write export it came with.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn exported(&mut self, len: u64, committed: bool) -> (Handle, OwnedFd) {
        let (handles, mut fds) = self.several(len, 1);
        let fd = fds.pop().expect("an export");
        if committed {
            populate(fd.as_fd(), len);
            self.commit(&handles);
        }
        (handles[0], fd)
    }

    /// Several equal objects and their exports, not committed.
    ///
    /// # Panics
    /// If they cannot be had, or their number is not that of their fds.
    pub fn several(&mut self, len: u64, count: u32) -> (Vec<Handle>, Vec<OwnedFd>) {
        match self.ask(create(len, count)) {
            ClientMessage::ObjectCreated(created) => {
                assert_eq!((created.objects.len(), created.len), (self.fds.len(), len));
                (created.objects, std::mem::take(&mut self.fds))
            }
            other => panic!("no objects: {other:?}"),
        }
    }

    /// Commits objects; the bytes pinned.
    ///
    /// # Panics
    /// If they cannot be.
    pub fn commit(&mut self, objects: &[Handle]) -> u64 {
        match self.ask(Commit { objects: objects.to_vec() }) {
            ClientMessage::Committed(committed) => committed.pinned,
            other => panic!("not committed: {other:?}"),
        }
    }

    /// One more export.
    ///
    /// # Panics
    /// If it is refused.
    pub fn export(&mut self, object: Handle, access: Access) -> OwnedFd {
        match self.ask(Export { object, access, reserved: Zero }) {
            ClientMessage::Exported(_) => self.fds.pop().expect("an export"),
            other => panic!("no export: {other:?}"),
        }
    }

    /// Gives a handle up.
    ///
    /// # Panics
    /// If it is refused.
    pub fn close(&mut self, object: Handle) {
        let answer = self.ask(CloseObject { object });
        assert!(matches!(answer, ClientMessage::Done(_)), "{answer:?}");
    }

    /// A channel to a porter.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn porter(&mut self) -> Socket {
        match self.ask(OpenPorter {}) {
            ClientMessage::PorterOpened(_) => Socket::from(self.fds.pop().expect("a channel")),
            other => panic!("no porter: {other:?}"),
        }
    }

    /// Sends an Import, and its fds over the channel; the request.
    ///
    /// # Panics
    /// If one of both does not take it.
    pub fn start_import(&mut self, channel: &Socket, fds: &[BorrowedFd<'_>]) -> u64 {
        let request = self.send(Import { name: b"imported".to_vec() }, &[]).expect("the broker reads");
        channel.send(&hand(request), fds).expect("the porter's channel takes it");
        request
    }

    /// Imports memory: Import, Hand, and the answer.
    ///
    /// # Panics
    /// As [`Raw::ask`].
    pub fn import(&mut self, channel: &Socket, fd: BorrowedFd<'_>) -> ClientMessage {
        self.hand_over(channel, Import { name: b"imported".to_vec() }, fd)
    }

    /// Asks for what an fd is handed over for; the answer.
    ///
    /// # Panics
    /// As [`Raw::ask`].
    pub fn hand_over(
        &mut self,
        channel: &Socket,
        message: impl Into<ClientMessage>,
        fd: BorrowedFd<'_>,
    ) -> ClientMessage {
        let request = self.send(message, &[]).expect("the broker reads");
        channel.send(&hand(request), &[fd]).expect("the porter's channel takes it");
        match self.hear_within(Duration::from_secs(10)) {
            Heard::Message(head, message) if head.request == request => message,
            other => panic!("{other:?} answers import {request}"),
        }
    }

    /// The broker's own account of itself.
    ///
    /// # Panics
    /// If it gives none.
    pub fn status(&mut self) -> snapshot::Status {
        self.inspect(Topic::Status).pop().expect("one status")
    }

    /// All entries of a topic.
    ///
    /// # Panics
    /// If the broker shows none, or what it shows is no such entry.
    pub fn inspect<E: serde::de::DeserializeOwned>(&mut self, topic: Topic) -> Vec<E> {
        let (mut entries, mut cursor) = (Vec::new(), 0);
        loop {
            let ClientMessage::Page(page) = self.ask(Inspect { cursor, topic, reserved: Zero }) else {
                panic!("no page of {topic:?}")
            };
            let part: Vec<E> = serde_json::from_slice(&page.json).expect("JSON of the topic's entries");
            entries.extend(part);
            if page.next == 0 {
                return entries;
            }
            cursor = page.next;
        }
    }

    /// From now on hears of events.
    ///
    /// # Panics
    /// If it is refused.
    pub fn monitor(&mut self) {
        let answer = self.ask(Monitor {});
        assert!(matches!(answer, ClientMessage::Done(_)), "{answer:?}");
    }

    /// The number of a device.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn device(&mut self, name: &str) -> DeviceId {
        let ClientMessage::Devices(devices) = self.ask(ListDevices {}) else { panic!("no list") };
        let names = String::from_utf8(devices.names).expect("names are text");
        let at = names.lines().position(|n| n == name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
        devices.ids[at]
    }

    /// What a device says of itself, decoded.
    ///
    /// # Panics
    /// If it says nothing.
    pub fn description(&mut self, device: DeviceId) -> vgem_proto::describe::Description {
        let ClientMessage::Described(described) = self.ask(Describe { device }) else {
            panic!("no description")
        };
        vgem_proto::describe::Description::decode(&described.description).expect("brokers checked it")
    }

    /// A queue of a device.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn queue(&mut self, device: DeviceId, depth: u32) -> QueueHandle {
        match self.ask(OpenQueue { device, depth, priority: 0, reserved: Zero }) {
            ClientMessage::QueueOpened(opened) => opened.queue,
            other => panic!("no queue: {other:?}"),
        }
    }
}

/// The request for equal objects of ordinary pages.
#[must_use]
pub fn create(len: u64, count: u32) -> CreateObject {
    CreateObject { len, writer: DeviceId(0), count, huge: HugePages::Never, reserved: Zero, name: vec![] }
}

/// The packet that goes to a porter with an fd.
#[must_use]
pub fn hand(request: u64) -> Vec<u8> {
    Hand {}.encode(request, Time(0), 0)
}

/// Touches every page of memory for writing.
///
/// # Panics
/// If it cannot be mapped.
pub fn populate(fd: BorrowedFd<'_>, len: u64) {
    let len = usize::try_from(len).expect("memory of a test");
    let mapping = Mapping::map(fd, len, Access::Write, Populate::Lazy).expect("memory that may be mapped");
    mapping.populate_write().expect("memory");
}

/// A batch of one job that fills 64 bytes of an object: right in every way, for tests to spoil.
#[must_use]
pub fn fill(queue: QueueHandle, point: u64, op: u16, object: Handle) -> Submit {
    let operand = ClientOperand {
        object,
        offset: 0,
        len: 64,
        cell_object: Handle(0),
        cell_offset: 0,
        number: 0,
        cell_word: 0,
        access: Access::Write,
        flags: 0,
        reserved: Zero,
    };
    let param = ClientParam {
        value: 7,
        cell_object: Handle(0),
        max: 0,
        len: 0,
        number: 0,
        source: ParamSource::Value,
        cell_word: 0,
    };
    let job = ClientJob {
        queue,
        point: Point(point),
        run_ns: 0,
        failed_cause: vgem_proto::ids::CauseId::NONE,
        failed_code: 0,
        op,
        flags: 0,
        operands: 1,
        params: 1,
        waits: 0,
        reserved: Zero,
    };
    Submit { jobs: vec![job], operands: vec![operand], params: vec![param], waits: vec![], bytes: vec![] }
}

/// The code of a refusal, with its value and limit.
#[must_use]
pub fn numbers(refused: &Refused) -> (ErrorCode, u64, u64) {
    (refused.code, refused.value, refused.limit)
}
