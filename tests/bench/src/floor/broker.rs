//! A broker by hand, for many busy clients: epoll, receive, answer. What one message costs at the least.

use anyhow::bail;
use vgem_os::seqpacket::{Packet, Socket};

use super::PACKET;
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// Clients that are all busy.
const CLIENTS: usize = 64;

/// The clients' side of the broker.
#[derive(Debug)]
pub struct EpollBroker {
    clients: Vec<Socket>,
    broker: Role,
}

impl EpollBroker {
    /// Starts the broker, with 64 connections.
    ///
    /// # Errors
    /// When a process or a socket cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (mut clients, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            let (here, there) = Socket::pair()?;
            here.set_recv_timeout(Some(std::time::Duration::from_nanos(super::PATIENCE_NS)))?;
            clients.push(here);
            theirs.push(there.into());
        }
        Ok(Self { clients, broker: Role::start(Part::EpollEcho, theirs)? })
    }

    /// Puts the broker on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.broker.seat(cores, seat)
    }

    /// One message of every client, and its answer.
    ///
    /// # Errors
    /// When the broker is gone.
    pub fn round(&self) -> anyhow::Result<()> {
        let mut packet = [0; PACKET];
        for client in &self.clients {
            client.send(&packet, &[])?;
        }
        for client in &self.clients {
            match client.recv_plain(&mut packet)? {
                Packet::Data { len: PACKET } => {}
                other => bail!("the broker answered {other:?}"),
            }
        }
        Ok(())
    }

    /// `rounds` rounds; returns how many messages that were.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn rounds(&self, rounds: usize) -> anyhow::Result<u64> {
        for _ in 0..rounds {
            self.round()?;
        }
        Ok((rounds * self.clients.len()) as u64)
    }
}
