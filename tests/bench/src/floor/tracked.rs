//! The tracked path by hand: client to broker to driver by SEQPACKET, and the driver signals the client's fence page.
//! And its yardstick: one packet there and back.

use std::os::fd::OwnedFd;

use vgem_os::fence::{ObserverFace, PagePair};
use vgem_os::seqpacket::{Packet, Socket};

use super::{PACKET, Waiter};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// A client whose packets reach a driver through a broker.
#[derive(Debug)]
pub struct Tracked {
    client: Socket,
    fence: Waiter,
    sent: u64,
    broker: Role,
    driver: Role,
}

impl Tracked {
    /// Starts broker and driver.
    ///
    /// # Errors
    /// When a process, a socket or a page cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(Role::start)
    }

    /// The same, each in a session of its own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_apart() -> anyhow::Result<Self> {
        Self::with(Role::start_apart)
    }

    fn with(start: impl Fn(Part, Vec<OwnedFd>) -> anyhow::Result<Role>) -> anyhow::Result<Self> {
        let (client, at_broker) = Socket::pair()?;
        let (to_driver, at_driver) = Socket::pair()?;
        let pair = PagePair::create()?;
        let signals = pair.signaller_fds()?;
        let fence = Waiter::new(ObserverFace::map(pair.observer_fds()?)?);
        let driver = start(Part::Driver, vec![at_driver.into(), signals.page, signals.interest])?;
        let broker = start(Part::Broker, vec![to_driver.into(), at_broker.into()])?;
        Ok(Self { client, fence, sent: 0, broker, driver })
    }

    /// Puts broker and driver on their seats.
    ///
    /// # Errors
    /// When one is gone.
    pub fn seat(&self, cores: &Cores, broker: Seat, driver: Seat) -> anyhow::Result<()> {
        self.broker.seat(cores, broker)?;
        self.driver.seat(cores, driver)
    }

    /// Submits one; returns its point.
    ///
    /// # Errors
    /// When the broker is gone.
    #[inline]
    pub fn submit(&mut self) -> anyhow::Result<u64> {
        self.client.send(&[0; PACKET], &[])?;
        self.sent += 1;
        Ok(self.sent)
    }

    /// Sleeps until a point is signalled.
    ///
    /// # Errors
    /// When it does not come.
    #[inline]
    pub fn wait(&self, point: u64) -> anyhow::Result<()> {
        self.fence.wait(point)
    }

    /// Submits `count`, with at most `window` unsignalled at any time, and waits for all.
    ///
    /// # Errors
    /// When one does not come.
    pub fn pipeline(&mut self, count: u64, window: u64) -> anyhow::Result<()> {
        let mut last = self.sent;
        for _ in 0..count {
            last = self.submit()?;
            // Half a window at a time: waiting for one point per submission would sleep once per submission.
            if last.is_multiple_of(window.div_ceil(2)) && last > window {
                self.wait(last - window.div_ceil(2))?;
            }
        }
        self.wait(last)
    }
}

/// One packet of 64 bytes there and back, both ends blocking.
#[derive(Debug)]
pub struct Packets {
    here: Socket,
    echo: Role,
}

impl Packets {
    /// Starts the other end.
    ///
    /// # Errors
    /// When a process or a socket cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (here, there) = Socket::pair()?;
        here.set_recv_timeout(Some(std::time::Duration::from_nanos(super::PATIENCE_NS)))?;
        Ok(Self { here, echo: Role::start(Part::Echo, vec![there.into()])? })
    }

    /// Puts the other end on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.echo.seat(cores, seat)
    }

    /// Once there and back.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn round_trip(&self) -> anyhow::Result<()> {
        let mut packet = [0; PACKET];
        self.here.send(&packet, &[])?;
        match self.here.recv_plain(&mut packet)? {
            Packet::Data { len: PACKET } => Ok(()),
            other => anyhow::bail!("the echo answered {other:?}"),
        }
    }
}
