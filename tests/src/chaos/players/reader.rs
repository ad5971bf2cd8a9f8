//! Takes a buffer in that somebody else's jobs are still to write, and reads it.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vgem::{Access, Buffer, Client, Deadline, Error, TransferError};
use vgem_os::seqpacket::Socket;

use super::super::words::Record;
use super::{PATIENCE, record};

/// Between saying that it is about to import and doing so.
const BREATH: Duration = Duration::from_micros(500);

/// What it has on a broker.
#[derive(Debug)]
pub(super) struct Reader {
    client: Client,
    own: Buffer,
}

impl Reader {
    pub(super) fn new(client: Client) -> Result<Self, Error> {
        Ok(Self { own: client.create(4096)?, client })
    }

    /// Imports something, so that there is a porter who may be struck.
    pub(super) fn have_a_porter(&self) -> Result<(), Error> {
        let end = Deadline::after(PATIENCE);
        loop {
            match self.client.import_fd(self.own.export(Access::Read)?) {
                Err(error) if end.passed() => return Err(error),
                Err(_) => {}
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Takes the buffer of this round in, and reads it; says when it is about to.
    pub(super) fn consume(&self, round: u64, partner: &Socket, importing: impl FnOnce()) -> Vec<Record> {
        let mut buffer = None;
        let deadline = Deadline::after(PATIENCE);
        let mut records = vec![record("receive", || {
            let mut sent = [PollFd::new(partner, PollFlags::IN)];
            poll(&mut sent, Timespec::try_from(PATIENCE).ok().as_ref()).expect("a socket can be waited for");
            importing();
            // Whoever is to strike meanwhile hears of it first.
            std::thread::park_timeout(BREATH);
            loop {
                match self.client.receive(partner, deadline) {
                    // Of an earlier round, whose producer stood still.
                    Ok(received) if received.name != round.to_string() => {}
                    Ok(received) => {
                        buffer = Some(received.buffer);
                        return Ok(());
                    }
                    Err(Error::Timeout { .. }) => return Err(Error::Transfer(TransferError::Closed)),
                    Err(error) => return Err(error),
                }
            }
        })];
        if let Some(buffer) = buffer {
            let begun_ns = records[0].begun_ns;
            records.push(Record { begun_ns, ..record("read", || buffer.read(.., PATIENCE).map(drop)) });
        }
        records
    }
}
