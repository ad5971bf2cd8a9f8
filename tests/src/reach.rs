//! A client without the library whose user queue reaches the memory of some process, its own or not.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use vgem_os::clock;
use vgem_os::ring::{Producer, ReapError, Reaper, map_client};
use vgem_os::seqpacket::Socket;
use vgem_proto::codec::Zero;
use vgem_proto::ids::QueueHandle;
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{
    AttachMemory, AttachRing, Bind, ClientMessage, CommitRing, Done, OpenQueue, Refused, SetWindows,
};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Arguments, Call, Completion, Entry, Order, VaRange, Window, Work};

use crate::raw::Raw;

/// The operation `copy` of the device `copy`.
const COPY: u16 = 0;

/// A client with a queue of `copy` at a driver of its own.
#[derive(Debug)]
pub struct Reach {
    /// Its link.
    pub raw: Raw,
    /// Its queue.
    pub queue: QueueHandle,
    channel: Socket,
    producer: Producer,
    reaper: Reaper,
}

impl Reach {
    /// Opens the queue, which reaches nothing yet.
    ///
    /// # Errors
    /// The refusal of the queue.
    ///
    /// # Panics
    /// If anything else fails.
    pub fn open(mut raw: Raw) -> Result<Self, Refused> {
        let device = raw.device("copy");
        let queue =
            match raw.ask_flagged(OpenQueue { device, depth: 0, priority: 0, reserved: Zero }, OPEN_OWN) {
                ClientMessage::QueueOpened(opened) => opened.queue,
                ClientMessage::Refused(refused) => return Err(refused),
                other => panic!("no queue: {other:?}"),
            };
        let answer = raw.ask(AttachRing { queue, depth: 64, reserved: Zero });
        assert!(matches!(answer, ClientMessage::RingAttached(_)), "{answer:?}");
        let ring = raw.fds.pop().expect("the ring");
        let (producer, reaper) = map_client(ring.as_fd()).expect("a ring");
        assert_eq!(raw.ask(CommitRing { queue }), Done {}.into());
        let channel = raw.porter();
        Ok(Self { raw, queue, channel, producer, reaper })
    }

    /// Has entries reach a process's memory in these windows; the answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn attach(&mut self, memory: BorrowedFd<'_>, windows: &[Window]) -> ClientMessage {
        let attach = AttachMemory { queue: self.queue, windows: windows.to_vec() };
        self.raw.hand_over(&self.channel, attach, memory)
    }

    /// Sets the windows anew; the answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn set_windows(&mut self, windows: &[Window]) -> ClientMessage {
        self.raw.ask(SetWindows { queue: self.queue, windows: windows.to_vec() })
    }

    /// Binds an object of `len` bytes.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn bind(&mut self, object: vgem_proto::ids::Handle, len: u64, address: u64) {
        let (queue, access) = (self.queue, Access::Write);
        let answer = self.raw.ask(Bind { queue, object, offset: 0, len, address, access, reserved: Zero });
        assert!(matches!(answer, ClientMessage::Done(_)), "{answer:?}");
    }

    /// Pushes a copy.
    ///
    /// # Panics
    /// If there is no room.
    pub fn push(&mut self, from: u64, into: u64, len: u64) {
        let range = |address| VaRange::new(address, len).ok();
        let call = Call { op: COPY, operands: [range(from), range(into)], arguments: Arguments::NONE };
        let entry = Entry { user: 1, order: Order::empty(), work: Work::Call(call) };
        self.producer.push(&entry).expect("there is room");
    }

    /// How an entry ended, or the ring.
    ///
    /// # Panics
    /// If neither comes within ten seconds.
    pub fn reap(&mut self) -> Result<Completion, ReapError> {
        let within = u64::try_from(Duration::from_secs(10).as_nanos()).unwrap_or(u64::MAX);
        Ok(self.reaper.wait(clock::deadline_in(within))?.expect("an end within ten seconds"))
    }

    /// Has a copy carried out; how it ended.
    ///
    /// # Panics
    /// If it does not end, or its ring does.
    pub fn copy(&mut self, from: u64, into: u64, len: u64) -> Completion {
        self.push(from, into, len);
        self.reap().expect("the ring goes on")
    }
}

/// A window of a page.
///
/// # Panics
/// For address 0.
#[must_use]
pub fn page(address: u64, access: Access) -> Window {
    Window::new(VaRange::new(address, 4096).expect("an address"), access)
}
