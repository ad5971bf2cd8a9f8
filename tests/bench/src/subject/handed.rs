//! A buffer from one client to another, by two timelines: filled here, read there, acknowledged. No broker is on the way.
//!
//! The other client is a second process. Both use the library as a program would: a guard to fill, a signal, a wait;
//! there a wait, a guard to read, a signal. What the consumer looks at is told by a flag beside it all.

use vgem::{Access, Buffer, Deadline, Point, Timeline};
use vgem_os::mapping::{CopyStyle, Span, SpanMut, copy_span};
use vgem_os::seqpacket::Socket;

use super::Vgemd;
use super::partner::{given, imported, in_time, send_token, take_token, taken};
use crate::floor::{Fds, Flag, Flags, Look, next};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

const LOOK: Flag = Flag::new(0);

/// The producer's side.
#[derive(Debug)]
pub struct Handed {
    buffer: Buffer,
    filled: Timeline,
    read: Timeline,
    told: Flags,
    point: Point,
    deadline: Deadline,
    consumer: Role,
    /// The consumer ends when it closes.
    _link: Socket,
}

impl Handed {
    /// Starts the consumer of a buffer of `len` bytes.
    ///
    /// # Errors
    /// As the client library's requests.
    pub fn start(vgemd: &Vgemd, len: u64) -> anyhow::Result<Self> {
        let client = &vgemd.client;
        let buffer = client.create(len)?;
        let (told, page) = Flags::create()?;
        let (link, mut fds) = given(vgemd, &[(&buffer, Access::Read)])?;
        fds.push(page);
        let consumer = Role::start(Part::ClientConsumer, fds)?;
        let mut filled = client.timeline("filled")?;
        send_token(&link, &mut filled)?;
        let read = take_token(&link, client)?;
        Ok(Self { buffer, filled, read, told, point: Point(0), deadline: in_time(), consumer, _link: link })
    }

    /// Puts the consumer on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.consumer.seat(cores, seat)
    }

    /// From now on the consumer looks like this. Whatever comes next must come soon.
    ///
    /// # Errors
    /// Never, of a page of ours.
    pub fn set(&mut self, look: Look) -> anyhow::Result<()> {
        self.deadline = in_time();
        self.told.set(LOOK, look.number())
    }

    /// Copies `payload` in, hands it over, and waits until it was read.
    ///
    /// # Errors
    /// As the client library's.
    pub fn round(&mut self, payload: &[u8], style: CopyStyle) -> anyhow::Result<()> {
        let mut guard = self.buffer.write_explicit(.., self.deadline)?;
        copy_span(SpanMut::of_slice(&mut guard), Span::of_slice(payload), style)?;
        drop(guard);
        self.hand_over()
    }

    /// Stores eight bytes, hands the buffer over, and waits until they were read.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn word(&mut self) -> anyhow::Result<()> {
        let mut guard = self.buffer.write_explicit(..8, self.deadline)?;
        guard.copy_from_slice(&self.point.0.to_le_bytes());
        drop(guard);
        self.hand_over()
    }

    /// Hands the buffer over as it is, and waits until it comes back.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn hand_over(&mut self) -> anyhow::Result<()> {
        self.point = self.point.next();
        self.filled.signal(self.point)?;
        Ok(self.read.wait_for_submit(self.point, self.deadline)?)
    }
}

/// Reads the buffer for each point and signals its own, for ever: it is killed.
pub(crate) fn consume(fds: &mut Fds) -> anyhow::Result<()> {
    let (client, link) = taken("consumer", fds)?;
    let buffer = imported(&client, fds)?;
    let told = Flags::map(&next(fds)?)?;
    let filled = take_token(&link, &client)?;
    let mut read = client.timeline("read")?;
    send_token(&link, &mut read)?;
    let mut point = Point(0);
    let mut deadline = in_time();
    loop {
        point = point.next();
        while filled.wait_for_submit(point, deadline).is_err() {
            // Between repetitions nobody hands anything over for long.
            anyhow::ensure!(!link_is_closed(&link), "the producer has gone");
            deadline = in_time();
        }
        let look = Look::of_number(told.get(LOOK)?);
        if look != Look::Not {
            let len = if look == Look::Word { 8 } else { buffer.len() };
            let guard = buffer.read_explicit(..len, deadline)?;
            std::hint::black_box(look.at(Span::of_slice(&guard))?);
        }
        read.signal(point)?;
    }
}

fn link_is_closed(link: &Socket) -> bool {
    let mut packet = [0; crate::floor::PACKET];
    link.set_recv_timeout(Some(std::time::Duration::from_millis(1))).is_err()
        || matches!(crate::floor::receive(link, &mut packet), Ok(None))
}
