//! What the tests of the wire share: golden files, the tables of SPEC.md, and one good value of every message.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod hex;
pub(crate) mod samples;
pub(crate) mod session;
pub(crate) mod spec;

use std::path::{Path, PathBuf};

use vgem_proto::codec::Malformed;
use vgem_proto::ids::Time;
use vgem_proto::message::client::{self, ClientMessage};
use vgem_proto::message::control::{self, ControlMessage};
use vgem_proto::message::driver::{self, DriverMessage};
use vgem_proto::message::keeper::{self, KeeperMessage};
use vgem_proto::message::porter::{self, PorterMessage};
use vgem_proto::message::{Head, Row, Sender};

/// Any message of any link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Client(ClientMessage),
    Driver(DriverMessage),
    Keeper(KeeperMessage),
    Porter(PorterMessage),
    Control(ControlMessage),
}

/// Which link a message travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Client,
    Driver,
    Keeper,
    Porter,
    Control,
}

impl Link {
    pub(crate) const ALL: [Self; 5] = [Self::Client, Self::Driver, Self::Keeper, Self::Porter, Self::Control];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Driver => "driver",
            Self::Keeper => "keeper",
            Self::Porter => "porter",
            Self::Control => "control",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        *Self::ALL.iter().find(|link| link.name() == name).unwrap_or_else(|| panic!("no link {name:?}"))
    }

    pub(crate) fn table(self) -> &'static [Row] {
        match self {
            Self::Client => client::TABLE,
            Self::Driver => driver::TABLE,
            Self::Keeper => keeper::TABLE,
            Self::Porter => porter::TABLE,
            Self::Control => control::TABLE,
        }
    }

    pub(crate) fn decode(
        self,
        bytes: &[u8],
        sender: Sender,
        fds: usize,
    ) -> Result<(Head, Message), Malformed> {
        match self {
            Self::Client => ClientMessage::decode(bytes, sender, fds).map(|(h, m)| (h, Message::Client(m))),
            Self::Driver => DriverMessage::decode(bytes, sender, fds).map(|(h, m)| (h, Message::Driver(m))),
            Self::Keeper => KeeperMessage::decode(bytes, sender, fds).map(|(h, m)| (h, Message::Keeper(m))),
            Self::Porter => PorterMessage::decode(bytes, sender, fds).map(|(h, m)| (h, Message::Porter(m))),
            Self::Control => {
                ControlMessage::decode(bytes, sender, fds).map(|(h, m)| (h, Message::Control(m)))
            }
        }
    }

    /// The row of the message in `bytes`, by its opcode alone.
    pub(crate) fn row_of(self, bytes: &[u8]) -> Option<&'static Row> {
        let opcode = u16::from_le_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        self.table().iter().find(|row| row.opcode == opcode)
    }
}

impl Message {
    pub(crate) fn row(&self) -> &'static Row {
        match self {
            Self::Client(message) => message.row(),
            Self::Driver(message) => message.row(),
            Self::Keeper(message) => message.row(),
            Self::Porter(message) => message.row(),
            Self::Control(message) => message.row(),
        }
    }

    pub(crate) fn fds(&self) -> usize {
        match self {
            Self::Client(message) => message.fds(),
            Self::Driver(message) => message.fds(),
            Self::Keeper(message) => message.fds(),
            Self::Porter(message) => message.fds(),
            Self::Control(message) => message.fds(),
        }
    }

    pub(crate) fn encode(&self, request: u64, deadline: Time, flags: u16) -> Vec<u8> {
        match self {
            Self::Client(message) => message.encode(request, deadline, flags),
            Self::Driver(message) => message.encode(request, deadline, flags),
            Self::Keeper(message) => message.encode(request, deadline, flags),
            Self::Porter(message) => message.encode(request, deadline, flags),
            Self::Control(message) => message.encode(request, deadline, flags),
        }
    }
}

/// One good message with its head.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) request: u64,
    pub(crate) deadline: Time,
    pub(crate) flags: u16,
    pub(crate) message: Message,
}

impl Sample {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.message.encode(self.request, self.deadline, self.flags)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.message.row().name
    }

    pub(crate) fn link(&self) -> Link {
        match self.message {
            Message::Client(_) => Link::Client,
            Message::Driver(_) => Link::Driver,
            Message::Keeper(_) => Link::Keeper,
            Message::Porter(_) => Link::Porter,
            Message::Control(_) => Link::Control,
        }
    }
}

pub(crate) fn sender_name(sender: Sender) -> &'static str {
    match sender {
        Sender::Client => "client",
        Sender::Broker => "broker",
        Sender::Driver => "driver",
        Sender::Keeper => "keeper",
        Sender::Porter => "porter",
        Sender::Control => "control",
    }
}

pub(crate) fn sender_named(name: &str) -> Sender {
    let all =
        [Sender::Client, Sender::Broker, Sender::Driver, Sender::Keeper, Sender::Porter, Sender::Control];
    *all.iter().find(|sender| sender_name(**sender) == name).unwrap_or_else(|| panic!("no sender {name:?}"))
}

/// The folder of the crate.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A golden file.
pub(crate) fn golden(name: &str) -> PathBuf {
    here().join("golden").join(name)
}
