//! A pipeline by hand: three processes, each of which copies a frame into memory that the next one maps.
//!
//! ```text
//!   First ── 4 frames of memory ──► Middle ── 4 frames of memory ──► Last
//!     │  full ─────────────────────►  │  full ───────────────────►    │
//!     └◄────────────────────── done: at most 4 frames under way ──────┘
//! ```
//!
//! Three flags are all it needs: a frame that is done is out of both memories. The other transport is what a program
//! does that shares nothing: the bytes go through stream sockets, and each stage still makes its copy.
//!
//! Each stage is a process that is told by a packet what to run ([`Order`]) and answers when it has. The last one says
//! when its first counted frame and its last one were done, so what is measured is the pipeline when it is full.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use vgem_os::clock;
use vgem_os::mapping::{CopyStyle, Mapping, Populate, Span, SpanMut, copy_span};
use vgem_os::memory::{Access, HugePages, ObjectMemory};
use vgem_os::seqpacket::Socket;

use super::{Fds, Flag, Flags, PACKET, Rest, next, receive};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};
use crate::sample::per_second;

/// Frames under way at most.
pub(crate) const IN_FLIGHT: u64 = 4;
/// The same as a difference of points.
const LAG: u32 = 4;
const _: () = assert!(LAG as u64 == IN_FLIGHT);
/// The longest frame, bytes.
pub(crate) const FRAME_MAX: usize = 1 << 20;
/// Bytes that go through a socket for a frame that has none.
const SOCKET_LEAST: usize = 64;
/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(30);

const FIRST_FULL: Flag = Flag::new(0);
const MIDDLE_FULL: Flag = Flag::new(1);
const DONE: Flag = Flag::new(2);

/// Which stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Makes frames.
    First,
    /// Copies frames.
    Middle,
    /// Takes frames.
    Last,
}

impl Place {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Last];

    const fn number(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Middle => 1,
            Self::Last => 2,
        }
    }
}

/// How frames go from stage to stage by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory and flags.
    Flags,
    /// Stream sockets.
    Sockets,
}

/// What a stage is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Which stage it is.
    pub place: Place,
    /// Frames that were run before.
    pub base: u64,
    /// Frames to run.
    pub frames: u64,
    /// How many of them are not counted.
    pub warm_up: u64,
    /// Bytes of a frame.
    pub len: usize,
    /// With which stores it is copied.
    pub style: CopyStyle,
    /// How a stage waits.
    pub rest: Rest,
}

impl Order {
    fn encode(&self) -> [u8; PACKET] {
        let style = u64::from(self.style == CopyStyle::Streaming);
        let (rest, len) = (u64::from(self.rest.number()), self.len as u64);
        let numbers = [self.place.number(), self.base, self.frames, self.warm_up, len, style, rest, 0];
        packet_of(numbers)
    }

    fn decode(packet: &[u8; PACKET]) -> anyhow::Result<Self> {
        let [place, base, frames, warm_up, len, style, rest, _] = numbers_in(packet);
        let place = Place::ALL.into_iter().find(|known| known.number() == place).context("no place")?;
        let len = usize::try_from(len)?;
        anyhow::ensure!(len <= FRAME_MAX, "a frame of {len} bytes");
        let style = if style == 1 { CopyStyle::Streaming } else { CopyStyle::Plain };
        Ok(Self { place, base, frames, warm_up, len, style, rest: Rest::of_number(u32::try_from(rest)?) })
    }

    /// The numbers of the frames, from 0.
    pub(crate) fn frames(&self) -> std::ops::Range<u64> {
        0..self.frames
    }

    /// Makes the copy that is a stage's work.
    ///
    /// # Errors
    /// When a buffer is shorter than a frame.
    #[inline]
    pub(crate) fn copy(&self, from: Span<'_>, into: SpanMut<'_>) -> anyhow::Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let from = from.sub(0, self.len).context("a frame beyond its memory")?;
        let into = into.sub(0, self.len).context("a frame beyond its memory")?;
        Ok(copy_span(into, from, self.style)?)
    }
}

/// When the counted frames were done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Done {
    first_ns: u64,
    last_ns: u64,
}

impl Done {
    /// Notes that frame `number` of an order is done.
    #[inline]
    pub(crate) fn note(&mut self, order: &Order, number: u64) {
        if number == order.warm_up {
            self.first_ns = clock::now();
        }
        if number + 1 == order.frames {
            self.last_ns = clock::now();
        }
    }
}

/// Obeys orders until nobody is left to give any.
///
/// # Errors
/// Those of `run`, and of the link.
pub(crate) fn obey(link: &Socket, mut run: impl FnMut(&Order) -> anyhow::Result<Done>) -> anyhow::Result<()> {
    let mut packet = [0; PACKET];
    while receive(link, &mut packet)?.is_some() {
        let done = run(&Order::decode(&packet)?)?;
        link.send(&packet_of([done.first_ns, done.last_ns, 0, 0, 0, 0, 0, 0]), &[])?;
    }
    Ok(())
}

/// Three stages.
#[derive(Debug)]
pub struct Stages {
    stages: Vec<(Socket, Role)>,
    run: u64,
}

impl Stages {
    /// Starts three stages by hand.
    ///
    /// # Errors
    /// When a process, memory or a socket cannot be had.
    pub fn start(transport: Transport) -> anyhow::Result<Self> {
        match transport {
            Transport::Flags => Self::start_flags(),
            Transport::Sockets => Self::start_sockets(),
        }
    }

    /// Those that were started by somebody else, in order, each with its link.
    #[must_use]
    pub const fn of(stages: Vec<(Socket, Role)>) -> Self {
        Self { stages, run: 0 }
    }

    fn start_flags() -> anyhow::Result<Self> {
        let (flags, _) = Flags::create()?;
        let frames = || ObjectMemory::create(IN_FLIGHT * FRAME_MAX as u64, HugePages::None, "frames");
        let (ab, bc) = (frames()?, frames()?);
        let mut stages = Vec::new();
        for _ in Place::ALL {
            let (link, there) = Socket::pair()?;
            let fds =
                vec![there.into(), flags.export()?, ab.export(Access::Write)?, bc.export(Access::Write)?];
            stages.push((link, Role::start(Part::FlagStage, fds)?));
        }
        Ok(Self::of(stages))
    }

    fn start_sockets() -> anyhow::Result<Self> {
        let ((ab, ba), (bc, cb)) = (UnixStream::pair()?, UnixStream::pair()?);
        let (done, heard) = Socket::pair()?;
        let given: [[OwnedFd; 2]; 3] =
            [[ab.into(), heard.into()], [ba.into(), bc.into()], [cb.into(), done.into()]];
        let mut stages = Vec::new();
        for [one, other] in given {
            let (link, there) = Socket::pair()?;
            stages.push((link, Role::start(Part::SocketStage, vec![there.into(), one, other])?));
        }
        Ok(Self::of(stages))
    }

    /// Puts the middle stage on one seat and the others on another.
    ///
    /// # Errors
    /// When one is gone.
    pub fn seat(&self, cores: &Cores, ends: Seat, middle: Seat) -> anyhow::Result<()> {
        for ((_, stage), place) in self.stages.iter().zip(Place::ALL) {
            stage.seat(cores, if place == Place::Middle { middle } else { ends })?;
        }
        Ok(())
    }

    /// Runs `frames` frames, after a tenth more to warm up; frames per second.
    ///
    /// # Errors
    /// When a stage fails or does not answer.
    pub fn run(&mut self, frames: u64, len: usize, style: CopyStyle, rest: Rest) -> anyhow::Result<f64> {
        // The first frames fill the pipeline and are never counted.
        let warm_up = frames / 10 + IN_FLIGHT;
        let order = Order {
            place: Place::First,
            base: self.run,
            frames: frames + warm_up,
            warm_up,
            len,
            style,
            rest,
        };
        for ((link, _), place) in self.stages.iter().zip(Place::ALL) {
            link.send(&Order { place, ..order }.encode(), &[])?;
        }
        let mut last = [0; 8];
        for (link, _) in &self.stages {
            link.set_recv_timeout(Some(PATIENCE))?;
            let mut packet = [0; PACKET];
            receive(link, &mut packet)?.context("a stage ended")?;
            last = numbers_in(&packet);
        }
        self.run += order.frames;
        let [first_ns, last_ns, ..] = last;
        anyhow::ensure!(last_ns > first_ns, "the last stage counted nothing");
        Ok(per_second(frames.saturating_sub(1), last_ns - first_ns))
    }
}

/// One stage by flags.
pub(crate) fn flag_stage(fds: &mut Fds) -> anyhow::Result<()> {
    let link = Socket::from(next(fds)?);
    let flags = Flags::map(&next(fds)?)?;
    let len = usize::try_from(IN_FLIGHT)? * FRAME_MAX;
    let mut map = || anyhow::Ok(Mapping::map(next(fds)?.as_fd(), len, Access::Write, Populate::Now)?);
    let (ab, bc, own) = (map()?, map()?, own_memory()?);
    obey(&link, |order| {
        let mut done = Done::default();
        let point = |number: u64| u32::try_from(order.base + number);
        for number in order.frames() {
            let at = usize::try_from(number % IN_FLIGHT)? * FRAME_MAX;
            match order.place {
                Place::First => {
                    // The points of earlier orders have passed.
                    flags.wait_for_ever(DONE, point(number + 1)?.saturating_sub(LAG), order.rest)?;
                    order.copy(own.span(), frame(&ab, at)?)?;
                    flags.signal(FIRST_FULL, point(number + 1)?)?;
                }
                Place::Middle => {
                    flags.wait_for_ever(FIRST_FULL, point(number + 1)?, order.rest)?;
                    order.copy(frame(&ab, at)?.as_span(), frame(&bc, at)?)?;
                    flags.signal(MIDDLE_FULL, point(number + 1)?)?;
                }
                Place::Last => {
                    flags.wait_for_ever(MIDDLE_FULL, point(number + 1)?, order.rest)?;
                    order.copy(frame(&bc, at)?.as_span(), own.span_mut()?)?;
                    done.note(order, number);
                    flags.signal(DONE, point(number + 1)?)?;
                }
            }
        }
        Ok(done)
    })
}

fn frame(memory: &Mapping, at: usize) -> anyhow::Result<SpanMut<'_>> {
    memory.span_mut()?.sub(at, FRAME_MAX).context("a frame beyond its memory")
}

/// One stage by sockets.
pub(crate) fn socket_stage(fds: &mut Fds) -> anyhow::Result<()> {
    let link = Socket::from(next(fds)?);
    let (one, other) = (next(fds)?, next(fds)?);
    let (mut taken, mut made) = (vec![1; FRAME_MAX], vec![2; FRAME_MAX]);
    let mut streams = Streams { one: one.into(), other };
    obey(&link, |order| {
        let mut done = Done::default();
        for number in order.frames() {
            let len = order.len.max(SOCKET_LEAST);
            match order.place {
                Place::First => {
                    if number >= IN_FLIGHT {
                        streams.hear()?;
                    }
                    order.copy(Span::of_slice(&taken), SpanMut::of_slice(&mut made))?;
                    streams.one.write_all(made.get(..len).unwrap_or_default())?;
                }
                Place::Middle => {
                    streams.one.read_exact(taken.get_mut(..len).unwrap_or_default())?;
                    order.copy(Span::of_slice(&taken), SpanMut::of_slice(&mut made))?;
                    streams.pass_on(made.get(..len).unwrap_or_default())?;
                }
                Place::Last => {
                    streams.one.read_exact(taken.get_mut(..len).unwrap_or_default())?;
                    order.copy(Span::of_slice(&taken), SpanMut::of_slice(&mut made))?;
                    done.note(order, number);
                    streams.say()?;
                }
            }
        }
        // What is done after the last frame was made is heard before the next order.
        if order.place == Place::First {
            (0..order.frames.min(IN_FLIGHT)).try_for_each(|_| streams.hear())?;
        }
        Ok(done)
    })
}

/// What a stage by sockets holds.
#[derive(Debug)]
struct Streams {
    one: UnixStream,
    /// A stream to the next stage, or packets about what is done.
    other: OwnedFd,
}

impl Streams {
    fn pass_on(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = rustix::io::write(&self.other, rest).context("write")?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn say(&self) -> anyhow::Result<()> {
        rustix::io::write(&self.other, &[1]).context("write").map(drop)
    }

    fn hear(&self) -> anyhow::Result<()> {
        let heard = rustix::io::read(&self.other, &mut [0; 1]).context("read")?;
        anyhow::ensure!(heard == 1, "the last stage has gone");
        Ok(())
    }
}

/// Memory of a stage's own, of one frame, touched.
pub(crate) fn own_memory() -> anyhow::Result<Mapping> {
    let own = Mapping::anonymous(FRAME_MAX)?;
    own.span_mut()?.fill(5);
    Ok(own)
}

fn packet_of(numbers: [u64; 8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    for (bytes, number) in packet.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    packet
}

fn numbers_in(packet: &[u8; PACKET]) -> [u64; 8] {
    let mut numbers = [0; 8];
    for (number, bytes) in numbers.iter_mut().zip(packet.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_back_as_it_was() {
        let order = Order {
            place: Place::Last,
            base: 7,
            frames: 100,
            warm_up: 10,
            len: 65_536,
            style: CopyStyle::Streaming,
            rest: Rest::Brief,
        };
        assert_eq!(Order::decode(&order.encode()).expect("it is one"), order);
    }

    #[test]
    fn a_frame_that_fits_no_buffer_is_refused() {
        assert!(Order::decode(&packet_of([0, 0, 1, 0, FRAME_MAX as u64 + 1, 0, 0, 0])).is_err());
        assert!(Order::decode(&packet_of([9, 0, 1, 0, 1, 0, 0, 0])).is_err());
    }
}
