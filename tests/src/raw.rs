//! A client without the library: it sends what it likes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, Point, QueueHandle, Time};
use vgem_proto::jobs::{ClientJob, ClientOperand, ClientParam, ParamSource};
use vgem_proto::limits;
use vgem_proto::message::client::{
    ClientMessage, Commit, CreateObject, Describe, Hello, ListDevices, OpenQueue, Refused, Submit,
};
use vgem_proto::message::{SUBMIT_REPLY, Sender};
use vgem_proto::rights::{Access, HugePages};

/// A connection that speaks raw messages.
#[derive(Debug)]
pub struct Raw {
    /// The socket.
    pub socket: Socket,
    requests: u64,
    /// The fds that came with the last answer.
    pub fds: Vec<OwnedFd>,
}

impl Raw {
    /// Connects, without a greeting.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn stranger(path: &Path) -> Self {
        let socket = Socket::connect(path).expect("a broker listens");
        socket.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        Self { socket, requests: 0, fds: Vec::new() }
    }

    /// Connects and greets.
    ///
    /// # Panics
    /// If the broker does not answer with Welcome.
    #[must_use]
    pub fn greeted(path: &Path) -> Self {
        let mut raw = Self::stranger(path);
        let hello =
            Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: b"raw".to_vec() };
        let answer = raw.ask(hello);
        assert!(matches!(answer, ClientMessage::Welcome(_)), "{answer:?}");
        raw
    }

    /// Sends bytes as they are and waits for an answer.
    ///
    /// # Panics
    /// If there is none within ten seconds, or the connection is gone.
    pub fn ask_bytes(&mut self, bytes: &[u8]) -> ClientMessage {
        self.socket.send(bytes, &[]).expect("the broker reads");
        self.hear()
    }

    /// Waits for a message.
    ///
    /// # Panics
    /// As [`Raw::ask_bytes`].
    pub fn hear(&mut self) -> ClientMessage {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        self.fds.clear();
        let packet = self.socket.recv(&mut buf, &mut self.fds).expect("an answer within ten seconds");
        let Packet::Data { len } = packet else { panic!("{packet:?} instead of an answer") };
        ClientMessage::decode(&buf[..len], Sender::Broker, self.fds.len()).expect("brokers speak well").1
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Panics
    /// As [`Raw::ask_bytes`].
    pub fn ask(&mut self, message: impl Into<ClientMessage>) -> ClientMessage {
        let message = message.into();
        self.requests += 1;
        let flags = if matches!(message, ClientMessage::Submit(_)) { SUBMIT_REPLY } else { 0 };
        let deadline = Time(vgem_os::clock::now()).after(10_000_000_000);
        let bytes = message.encode(self.requests, deadline, flags);
        self.ask_bytes(&bytes)
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
        let create = CreateObject { len: 4096, huge: HugePages::Never, reserved: Zero, name: vec![] };
        let ClientMessage::ObjectCreated(created) = self.ask(create) else { panic!("no object") };
        if committed {
            use std::os::fd::AsFd as _;
            use vgem_os::mapping::{Mapping, Populate};
            let fd = self.fds.pop().expect("an export");
            let mapping = Mapping::map(fd.as_fd(), 4096, Access::Write, Populate::Lazy).expect("a page");
            mapping.populate_write().expect("memory");
            let answer = self.ask(Commit { object: created.object });
            assert!(matches!(answer, ClientMessage::Committed(_)), "{answer:?}");
        }
        created.object
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
        match self.ask(OpenQueue { device, depth, reserved: Zero }) {
            ClientMessage::QueueOpened(opened) => opened.queue,
            other => panic!("no queue: {other:?}"),
        }
    }
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
