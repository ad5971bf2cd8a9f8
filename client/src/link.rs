//! The link: the socket to the broker, and who reads it.
//!
//! Any thread may send. One at a time receives: the first that waits for an answer leads, reads whatever comes
//! and files it in the exchange; the others sleep until their answer is there or the leader has left.
//!
//! ```text
//!   thread A ─ send ─ lead: recv ── answer of B ── answer of A ─ leave, wake all
//!   thread B ─ send ─ follow: sleep ──────── take                 │
//!   thread C ─ send ─ follow: sleep ──────────────────────────── lead: recv ...
//! ```
//!
//! What nobody waits for (answers to closed handles, refusals of pipelined batches) is read in passing, every so
//! many messages, so that the broker's queue towards this client never fills for want of reading.
//!
//! A closing handle must not block its dropper: such messages go at once if there is room, else before the next one
//! that may wait.
//!
//! Invariants: no lock is held while the thread sleeps in the kernel; once lost, a link stays lost, and says why.

mod pipeline;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use vgem_os::seqpacket::{Packet, Socket};
use vgem_os::{Errno, OsError};
use vgem_proto::error::Refusal;
use vgem_proto::ids::CauseId;
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, Event, Traced};

use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::exchange::{Arrived, Exchange, Reply, RequestId, refusal};
use crate::patience::{self, Ready};

pub(crate) use self::pipeline::Answer;

/// How long what nobody waits for waits for room. A client that gives up many buffers at once and then says nothing more
/// would otherwise keep the last of them.
const ROOM: Duration = Duration::from_millis(5);
/// How long a thread sleeps on the socket before it looks at its deadline again.
const SLICE: Duration = Duration::from_millis(100);

/// Unheard answers after which the socket is read in passing.
const UNHEARD: usize = 32;

#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    state: Mutex<State>,
    arrived: Condvar,
    postponed: AtomicBool,
    /// Batches were refused without using their points, and nobody has looked yet.
    unused: AtomicBool,
    lost: OnceLock<String>,
    counters: Arc<Counters>,
    #[cfg(feature = "tokio")]
    news: tokio::sync::Notify,
}

#[derive(Debug)]
struct State {
    exchange: Exchange,
    /// The receive buffer, while nobody receives.
    room: Option<Vec<u8>>,
    receive_timeout: Duration,
    outbox: Vec<Vec<u8>>,
    pipelined: u32,
}

impl Link {
    /// A link over a connected socket.
    pub(crate) fn new(socket: Socket, counters: Arc<Counters>) -> Result<Self> {
        socket.set_recv_timeout(Some(SLICE))?;
        socket.set_send_timeout(Some(SLICE))?;
        let state = State {
            exchange: Exchange::new(),
            room: Some(vec![0; limits::MESSAGE_LEN]),
            receive_timeout: SLICE,
            outbox: Vec::new(),
            pipelined: 0,
        };
        Ok(Self {
            socket,
            state: Mutex::new(state),
            arrived: Condvar::new(),
            postponed: AtomicBool::new(false),
            unused: AtomicBool::new(false),
            lost: OnceLock::new(),
            counters,
            #[cfg(feature = "tokio")]
            news: tokio::sync::Notify::new(),
        })
    }

    /// Sends a request and waits for its answer; a refusal is an error.
    pub(crate) fn call(&self, message: impl Into<ClientMessage>, deadline: Deadline) -> Result<Reply> {
        let id = self.start(&message.into(), 0, deadline, deadline)?;
        accepted(self.collect(id, deadline)?)
    }

    /// Sends a request whose answer will be collected; waits for room until `patience` ends.
    pub(crate) fn start(
        &self,
        message: &ClientMessage,
        flags: u16,
        deadline: Deadline,
        patience: Deadline,
    ) -> Result<RequestId> {
        let id = self.state().exchange.begin();
        self.send(&message.encode(id.0, deadline.time(), flags), patience).inspect_err(|_| {
            self.state().exchange.forsake(id);
        })?;
        Ok(id)
    }

    /// Numbers an import when it is its turn; sleeps for that until the deadline. It is to be forsaken if nobody waits for its
    /// answer.
    pub(crate) fn begin_import(&self, deadline: Deadline) -> Result<RequestId> {
        let mut state = self.state();
        loop {
            if let Some(id) = state.exchange.begin_import() {
                return Ok(id);
            }
            self.check()?;
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Err(Error::Timeout { what: "waiting for other imports of this client" });
            }
            state = self.turn(state, remaining.min(SLICE));
        }
    }

    /// The same if it is its turn already.
    #[cfg(feature = "tokio")]
    pub(crate) fn begin_import_now(&self) -> Result<Option<RequestId>> {
        match self.state().exchange.begin_import() {
            Some(id) => Ok(Some(id)),
            None => self.check().map(|()| None),
        }
    }

    /// Sends an import that has its number; waits for room until `patience` ends.
    pub(crate) fn send_import(
        &self,
        id: RequestId,
        message: &ClientMessage,
        deadline: Deadline,
        patience: Deadline,
    ) -> Result<()> {
        self.send(&message.encode(id.0, deadline.time(), 0), patience)?;
        self.state().exchange.sent_import(id);
        Ok(())
    }

    /// Sends a request whose answer interests nobody. A broker that lives makes room at once; without any within [`ROOM`]
    /// it goes with a later message, and so does what is posted after it.
    pub(crate) fn post(&self, message: &ClientMessage) {
        if self.lost.get().is_some() {
            return;
        }
        let mut state = self.state();
        let id = state.exchange.begin_unheard();
        let bytes = message.encode(id.0, Deadline::after(Duration::from_secs(10)).time(), 0);
        let room = state.outbox.is_empty() && patience::ready(&self.socket, Ready::Write, ROOM);
        if room {
            match self.socket.send(&bytes, &[]) {
                Ok(()) => self.counters.sent(),
                Err(error) if error.would_block() => self.postpone(&mut state, bytes),
                Err(error) => self.lose(format!("sending: {error}")),
            }
        } else {
            self.postpone(&mut state, bytes);
        }
        let read = state.exchange.unheard() >= UNHEARD;
        drop(state);
        if read {
            self.drain();
        }
    }

    /// The answer to a request; sleeps for it until the deadline.
    pub(crate) fn collect(&self, id: RequestId, deadline: Deadline) -> Result<Reply> {
        let mut state = self.state();
        loop {
            if let Some(reply) = state.exchange.take(id) {
                return Ok(reply);
            }
            self.check()?;
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                state.exchange.forsake(id);
                return Err(Error::Timeout { what: "waiting for the broker's answer" });
            }
            state = self.turn(state, remaining.min(SLICE));
        }
    }

    /// From now on events may come.
    pub(crate) fn expect_events(&self) {
        self.state().exchange.expect_events();
    }

    /// The next event; sleeps for it until the deadline.
    pub(crate) fn event(&self, deadline: Deadline) -> Result<Option<Event>> {
        let mut state = self.state();
        loop {
            if let Some(event) = state.exchange.take_event() {
                return Ok(Some(event));
            }
            self.check()?;
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Ok(None);
            }
            state = self.turn(state, remaining.min(SLICE));
        }
    }

    /// From now on jobs that ended may be told.
    pub(crate) fn expect_traced(&self) {
        self.state().exchange.expect_traced();
    }

    /// The next jobs that ended; sleeps for them until the deadline.
    pub(crate) fn traced(&self, deadline: Deadline) -> Result<Option<Traced>> {
        let mut state = self.state();
        loop {
            if let Some(traced) = state.exchange.take_traced() {
                return Ok(Some(traced));
            }
            self.check()?;
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Ok(None);
            }
            state = self.turn(state, remaining.min(SLICE));
        }
    }

    /// The next event if it is here already.
    #[cfg(feature = "tokio")]
    pub(crate) fn event_now(&self) -> Result<Option<Event>> {
        match self.state().exchange.take_event() {
            Some(event) => Ok(Some(event)),
            None => self.check().map(|()| None),
        }
    }

    /// The next jobs that ended if they are here already.
    #[cfg(feature = "tokio")]
    pub(crate) fn traced_now(&self) -> Result<Option<Traced>> {
        match self.state().exchange.take_traced() {
            Some(traced) => Ok(Some(traced)),
            None => self.check().map(|()| None),
        }
    }

    /// Leads or follows for a moment.
    fn turn<'a>(&'a self, mut state: MutexGuard<'a, State>, wait: Duration) -> MutexGuard<'a, State> {
        match state.room.take() {
            Some(room) => self.lead(state, room, wait),
            None => self.arrived.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// The answer to a request if it is here already.
    #[cfg(feature = "tokio")]
    pub(crate) fn collect_now(&self, id: RequestId) -> Result<Option<Reply>> {
        match self.state().exchange.take(id) {
            Some(reply) => Ok(Some(reply)),
            None => self.check().map(|()| None),
        }
    }

    /// Gives up on an answer.
    pub(crate) fn forsake(&self, id: RequestId) {
        let mut state = self.state();
        let turn = state.exchange.forsake(id);
        self.give_up_strays(&mut state);
        drop(state);
        if turn {
            self.tell_all();
        }
    }

    /// Told whenever something has arrived.
    #[cfg(feature = "tokio")]
    pub(crate) fn news(&self) -> &tokio::sync::Notify {
        &self.news
    }

    /// The socket, to wait for its readiness.
    #[cfg(feature = "tokio")]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Reads what is there, or has it read: a moment later everybody knows what the broker had said, its end included.
    pub(crate) fn drain(&self) {
        while patience::ready(&self.socket, Ready::Read, Duration::ZERO) && self.lost.get().is_none() {
            let state = self.state();
            drop(self.turn(state, Duration::from_millis(1)));
        }
    }

    /// The refusal of a pipelined batch, by the cause its points failed with.
    pub(crate) fn refusal(&self, cause: CauseId) -> Option<Refusal> {
        self.drain();
        self.state().exchange.refusal(cause).cloned()
    }

    /// Whether batches were refused without using their points, and nobody has looked yet.
    pub(crate) fn has_unused(&self) -> bool {
        self.unused.load(Ordering::Acquire)
    }

    /// Those batches, once.
    pub(crate) fn take_unused(&self) -> Vec<(RequestId, Refusal)> {
        let mut state = self.state();
        self.unused.store(false, Ordering::Release);
        state.exchange.take_unused()
    }

    /// Pages, and what is to be shown, in the order they came since the last call.
    pub(crate) fn take_arrived(&self) -> Vec<Arrived> {
        self.state().exchange.take_arrived()
    }

    /// An error if the link is lost.
    pub(crate) fn check(&self) -> Result<()> {
        match self.lost.get() {
            Some(why) => Err(Error::BrokerLost { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Sends one packet, waiting for room until the deadline.
    fn send(&self, bytes: &[u8], deadline: Deadline) -> Result<()> {
        self.check()?;
        if self.postponed.load(Ordering::Acquire) {
            self.send_postponed(deadline)?;
        }
        self.send_packet(bytes, deadline)
    }

    fn send_packet(&self, bytes: &[u8], deadline: Deadline) -> Result<()> {
        loop {
            match self.socket.send(bytes, &[]) {
                Ok(()) => {
                    self.counters.sent();
                    return Ok(());
                }
                Err(error) if error.would_block() => self.make_room(deadline)?,
                Err(error) if error.errno() == Errno::MSGSIZE => return Err(error.into()),
                Err(error) => {
                    self.lose(format!("sending: {error}"));
                    return self.check();
                }
            }
        }
    }

    /// The broker reads no more: perhaps because we do not read what it says.
    fn make_room(&self, deadline: Deadline) -> Result<()> {
        self.drain();
        let remaining = deadline.remaining();
        if remaining.is_zero() {
            return Err(Error::Timeout { what: "sending to the broker" });
        }
        patience::ready(&self.socket, Ready::Write, remaining.min(SLICE));
        self.check()
    }

    /// Closes handles that came too late for whoever asked for them.
    fn give_up_strays(&self, state: &mut State) {
        for close in state.exchange.take_strays() {
            let id = state.exchange.begin_unheard();
            let deadline = Deadline::after(Duration::from_secs(10)).time();
            self.postpone(state, close.encode(id.0, deadline, 0));
        }
    }

    fn postpone(&self, state: &mut State, bytes: Vec<u8>) {
        state.outbox.push(bytes);
        self.postponed.store(true, Ordering::Release);
    }

    fn send_postponed(&self, deadline: Deadline) -> Result<()> {
        let mut state = self.state();
        let outbox = std::mem::take(&mut state.outbox);
        self.postponed.store(false, Ordering::Release);
        drop(state);
        outbox.iter().try_for_each(|bytes| self.send_packet(bytes, deadline))
    }

    /// Receives one packet as the leader, then gives the room back and tells everybody.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut room: Vec<u8>,
        wait: Duration,
    ) -> MutexGuard<'a, State> {
        // The kernel counts in microseconds and takes 0 for "for ever".
        let wait = wait.max(Duration::from_micros(1));
        let changed = state.receive_timeout != wait;
        state.receive_timeout = wait;
        drop(state);
        if changed && let Err(error) = self.socket.set_recv_timeout(Some(wait)) {
            self.lose(format!("receiving: {error}"));
        }
        let mut fds = Vec::new();
        let received = self.receive_packet(&mut room, &mut fds, wait);
        let mut state = self.state();
        if let Some(len) = received {
            let bytes = room.get(..len).unwrap_or(&[]);
            match state.exchange.receive(bytes, fds) {
                Ok(()) => {
                    if state.exchange.has_unused() {
                        self.unused.store(true, Ordering::Release);
                    }
                    self.give_up_strays(&mut state);
                }
                Err(fault) => self.lose(format!("it broke the protocol: {fault}")),
            }
        }
        state.room = Some(room);
        self.tell_all();
        state
    }

    /// One packet's length, or nothing if none came in time or the link is lost.
    fn receive_packet(&self, room: &mut [u8], fds: &mut Vec<OwnedFd>, wait: Duration) -> Option<usize> {
        match self.socket.recv(room, fds) {
            Ok(Packet::Data { len }) => {
                self.counters.received();
                return Some(len);
            }
            Ok(Packet::TooLong { len }) => {
                self.lose(format!("it broke the protocol: a message of {len} bytes"));
            }
            Ok(Packet::Closed) => self.lose("it closed the connection".into()),
            Err(error) => match OsError::from(error) {
                // Either the time is up, or the socket does not block: then the waiting is done here.
                error if error.would_block() => drop(patience::ready(&self.socket, Ready::Read, wait)),
                error => self.lose(format!("receiving: {error}")),
            },
        }
        None
    }

    fn lose(&self, why: String) {
        // The first reason stands.
        drop(self.lost.set(why));
        self.tell_all();
    }

    /// Wakes everybody who waits for something to arrive.
    fn tell_all(&self) {
        self.arrived.notify_all();
        #[cfg(feature = "tokio")]
        self.news.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reply that is no refusal.
pub(crate) fn accepted(reply: Reply) -> Result<Reply> {
    match reply.message {
        ClientMessage::Refused(refused) => Err(refusal(refused).into()),
        _ => Ok(reply),
    }
}

/// The error for an answer that is not the one the table promises.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("{} is no answer to this request", reply.message.row().name))
}
