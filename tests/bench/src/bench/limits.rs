//! The floors by themselves: what the machine can do, without vgemd.

use vgem_os::clock;
use vgem_os::mapping::CopyStyle;

use crate::floor::{EpollBroker, Packets, Rest, Stages, Tracked, Transport};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim, Unit};
use crate::sample::{Times, per_second};

/// The series of the tracked path by hand.
const TRACKED: &str = "tracked by hand, submit until signalled";
/// The series of a packet there and back, in turns with it.
const PACKET: &str = "SEQPACKET round trip beside it";
/// The series of a broker's messages.
const MESSAGES: &str = "epoll broker by hand, 64 busy clients, messages";
/// The series of the tracked path with 64 in flight.
const PIPELINED: &str = "tracked by hand, 64 in flight, messages";

/// The series of a pipeline by flags, and by sockets.
const STAGES: &str = "pipeline of three processes by hand, 64 KiB, frames";
const SOCKETS: &str = "the same by copy through sockets";

/// Bytes of a frame.
const FRAME: usize = 64 << 10;

/// Most jobs in flight of the pipelined floor.
const WINDOW: u64 = 64;

/// Starts the floors.
///
/// # Errors
/// When a process, a socket or a page cannot be had.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    Ok(Box::new(Limits {
        cores: context.power.cores,
        rounds: context.options.rounds(400),
        tracked: Tracked::start()?,
        packets: Packets::start()?,
        broker: EpollBroker::start()?,
        stages: Stages::start(Transport::Flags)?,
        sockets: Stages::start(Transport::Sockets)?,
    }))
}

#[derive(Debug)]
struct Limits {
    cores: Cores,
    rounds: usize,
    tracked: Tracked,
    packets: Packets,
    broker: EpollBroker,
    stages: Stages,
    sockets: Stages,
}

impl Bench for Limits {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        self.tracked.seat(&self.cores, Seat::There, Seat::Here)?;
        self.packets.seat(&self.cores, Seat::There)?;
        self.broker.seat(&self.cores, Seat::There)?;
        let (mut tracked, mut packet) = (Times::default(), Times::default());
        for _ in 0..10 {
            packet.each(self.rounds, || self.packets.round_trip())?;
            tracked.each(self.rounds, || {
                let point = self.tracked.submit()?;
                self.tracked.wait(point)
            })?;
        }
        found.times(PACKET, packet);
        found.times(TRACKED, tracked);
        let before = clock::now();
        let messages = self.broker.rounds(self.rounds)?;
        found.number(MESSAGES, Unit::PerSecond, per_second(messages, clock::now() - before));
        let before = clock::now();
        self.tracked.pipeline(messages, WINDOW)?;
        found.number(PIPELINED, Unit::PerSecond, per_second(messages, clock::now() - before));
        for (stages, name) in [(&mut self.stages, STAGES), (&mut self.sockets, SOCKETS)] {
            stages.seat(&self.cores, Seat::Here, Seat::There)?;
            let rate = stages.run(2 * self.rounds as u64, FRAME, CopyStyle::Plain, Rest::Asleep)?;
            found.number(name, Unit::PerSecond, rate);
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::ratio("P3", TRACKED, PACKET, Bound::Shown),
            Claim::ratio("P4", PIPELINED, MESSAGES, Bound::Shown),
            Claim::ratio("P10", STAGES, SOCKETS, Bound::Shown),
        ]
    }
}
