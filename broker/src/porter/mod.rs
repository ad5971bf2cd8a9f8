//! The porter role: takes fds from one client, so that the broker never does.
//!
//! ```text
//!   client ══ channel (fd 3) ══► receive ─► decode ─► examine ─► report ══ link (fd 4) ══► broker
//!                 Hand + fd         │                               │        Brought (or BroughtProcess) + fd, or Unfit
//!                                   └── may hang here for ever      └── then close, which may hang for ever
//! ```
//!
//! Taking an fd from a stranger is enough to be stopped: a socket that lingers or a file of a server that does not
//! answer holds whoever closes it, beyond every signal. So this is a process that nobody needs: it serves one client,
//! holds nothing but its two sockets, and when it does not answer the broker refuses that client's import and has
//! the porter killed. It does one thing after the other and has no state between two messages.
//!
//! What it is not: a judge of quotas or rights. It says what an fd is ([`Admission`]); the broker looks at memory
//! again and decides.
//!
//! Invariants:
//! - It is confined before it receives anything (M-130).
//! - Nothing goes to the broker with an fd but memory, or a process's memory, that was examined and found fit (M-132).
//! - What is refused is reported before it is closed: closing may not come back.
//! - It ends when either side closes its end, and after [`IDLE`] without a message.

mod hand;

use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use tracing::debug;
use vgem_os::arrival::Admission;
use vgem_os::confine::{self, Demand};
use vgem_os::seqpacket::{Packet, RecvError, Socket};
use vgem_os::{OsError, process};
use vgem_proto::codec::HEAD_LEN;
use vgem_proto::ids::Time;
use vgem_proto::limits;
use vgem_proto::message::Head;

use self::hand::{Found, cut_off, judge, not_sent, too_long};
use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::keeper::{PORTER_CHANNEL, PORTER_LINK};

/// How long a porter stays without a message.
const IDLE: Duration = Duration::from_secs(10);

/// Runs the role to its end.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    crate::log::start(&crate::log::filter(cli.log.as_deref(), "info"), "porter")?;
    let wrong = |e| Failure::new(Exit::Usage, format!("--role porter is for vgemd itself: {e}"));
    let channel = Socket::from(process::inherited(PORTER_CHANNEL).map_err(wrong)?);
    let link = Socket::from(process::inherited(PORTER_LINK).map_err(wrong)?);
    let porter = Porter::new(channel, link, Admission::new()?)?;
    let confined = confine::porter(Demand::BestEffort)?;
    debug!("{confined:?}");
    porter.serve(IDLE)
}

/// A porter with its two sockets.
#[derive(Debug)]
struct Porter {
    channel: Socket,
    link: Socket,
    admission: Admission,
    buffer: Vec<u8>,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Look at the channel.
    Receive,
    /// The broker is gone, or nothing came for long.
    End(&'static str),
}

impl Porter {
    fn new(channel: Socket, link: Socket, admission: Admission) -> Result<Self, OsError> {
        // The client shares no open file with this end, so nobody else changes this.
        channel.set_nonblocking(true)?;
        Ok(Self { channel, link, admission, buffer: vec![0; limits::MESSAGE_LEN] })
    }

    /// Serves until either side closes, or nothing came for as long as `idle`.
    fn serve(mut self, idle: Duration) -> Result<(), Failure> {
        loop {
            match self.wait(idle)? {
                Next::Receive => {}
                Next::End(why) => {
                    debug!("ends: {why}");
                    return Ok(());
                }
            }
            if !self.receive()? {
                debug!("ends: one side is closed");
                return Ok(());
            }
        }
    }

    fn wait(&self, idle: Duration) -> Result<Next, Failure> {
        let mut fds =
            [self.channel.as_fd(), self.link.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let seconds = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec: seconds, tv_nsec: i64::from(idle.subsec_nanos()) };
        loop {
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(Next::End("nothing came for long")),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Failure::new(Exit::System, format!("poll: {e}"))),
            }
        }
        let [_, link] = &fds;
        // The broker never says anything here, so whatever there is, is the end.
        Ok(if link.revents().is_empty() { Next::Receive } else { Next::End("the broker is gone") })
    }

    /// Takes one message and reports it; false when one side is closed.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut fds = Vec::new();
        // So that a message whose fds were cut off is not taken for the one before.
        self.buffer.iter_mut().take(HEAD_LEN).for_each(|byte| *byte = 0);
        let (request, found) = match self.channel.recv(&mut self.buffer, &mut fds) {
            Ok(Packet::Data { len }) => {
                let bytes = self.buffer.get(..len).unwrap_or_default();
                (Head::request_of(bytes), judge(bytes, &fds, &self.admission))
            }
            Ok(Packet::TooLong { len }) => (Head::request_of(&self.buffer), too_long(len)),
            Ok(Packet::Closed) => return Ok(false),
            Err(e @ RecvError::FdsTruncated { .. }) => (Head::request_of(&self.buffer), cut_off(&e)),
            Err(RecvError::Os(e)) if e.would_block() => return Ok(true),
            Err(RecvError::Os(e)) if e.errno() == Errno::CONNRESET => return Ok(false),
            Err(RecvError::Os(e)) => return Err(e.into()),
        };
        // Without a number there is nobody to tell. What came is closed after the broker knows: that may take for ever.
        if request == 0 { Ok(true) } else { self.report(request, &found) }
    }

    /// Tells the broker; false when it is gone.
    fn report(&self, request: u64, found: &Found<'_>) -> Result<bool, Failure> {
        let mut sent = match found {
            Found::Memory { brought, fd } => self.link.send(&brought.encode(request, Time(0), 0), &[*fd]),
            Found::Process { brought, fd } => self.link.send(&brought.encode(request, Time(0), 0), &[*fd]),
            Found::Unfit(unfit) => self.link.send(&unfit.encode(request, Time(0), 0), &[]),
        };
        if let Err(e) = &sent
            && e.is_resource()
        {
            // Too many fds are on their way; the broker can still be told that.
            sent = self.link.send(&not_sent(e).encode(request, Time(0), 0), &[]);
        }
        match sent {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.errno(), Errno::PIPE | Errno::CONNRESET) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests;
