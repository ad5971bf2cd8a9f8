//! The one `epoll`, and what its events belong to.
//!
//! A [`Source`] is packed into the event's 64 bits: which kind in the upper three, its number below. All sources
//! are level-triggered: what was not read is reported again, after all others that are ready.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use vgem_core::io::LinkId;
use vgem_os::OsError;
use vgem_proto::ids::{DomainId, InstanceId, PorterId};

/// Most messages taken from one peer before the others have their turn.
pub(super) const TURN: usize = 16;
/// After so many bytes a client's turn is over too: work is bytes rather than messages.
pub(super) const TURN_BYTES: usize = 8 * 1024;
/// Events taken from the kernel at once.
pub(super) const EVENTS: usize = 256;
const NUMBER_BITS: u32 = 61;

/// What an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The socket that clients connect to; a domain's own is that of a domain with a name, whose number is never 0.
    Listener(Option<DomainId>),
    /// The link to the keeper.
    Keeper,
    /// The link to control.
    Control,
    /// Closed exports.
    Watcher,
    /// A client's connection. Numbers stay below 2^61: at a million connections a second, for 70000 years.
    Client(LinkId),
    /// An instance's link.
    Instance(InstanceId),
    /// An instance's process.
    Process(InstanceId),
    /// A porter's link.
    Porter(PorterId),
    /// A porter's process.
    PorterProcess(PorterId),
}

/// What may be done with a source without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readiness {
    /// There is something to read, or the other end is closed.
    pub(super) readable: bool,
    /// There is room to write, or the other end is closed.
    pub(super) writable: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Something to read.
    Read,
    /// Something to read, or room to write.
    ReadWrite,
    /// That the other end is closed, nothing else.
    End,
}

impl Source {
    /// Whether it asks for work, where the others tell of work that is done.
    pub(super) const fn asks(self) -> bool {
        matches!(self, Self::Client(_) | Self::Porter(_) | Self::Control | Self::Listener(_))
    }

    /// The connection, if it is a client's.
    pub(super) const fn client(self) -> Option<LinkId> {
        if let Self::Client(link) = self { Some(link) } else { None }
    }

    fn pack(self) -> EventData {
        let (kind, number) = match self {
            Self::Listener(door) => (0, door.map_or(0, |domain| u64::from(domain.0))),
            Self::Keeper => (1, 0),
            Self::Watcher => (2, 0),
            Self::Control => (2, 1),
            Self::Client(link) => (3, link.0),
            Self::Instance(instance) => (4, u64::from(instance.0)),
            Self::Process(instance) => (5, u64::from(instance.0)),
            Self::Porter(porter) => (6, u64::from(porter.0)),
            Self::PorterProcess(porter) => (7, u64::from(porter.0)),
        };
        EventData::new_u64(kind << NUMBER_BITS | number)
    }

    fn unpack(data: EventData) -> Option<Self> {
        let raw = data.u64();
        let number = raw & ((1 << NUMBER_BITS) - 1);
        let small = u32::try_from(number).ok();
        match raw >> NUMBER_BITS {
            0 if number == 0 => Some(Self::Listener(None)),
            0 => small.map(DomainId).map(Some).map(Self::Listener),
            1 => Some(Self::Keeper),
            2 if number == 1 => Some(Self::Control),
            2 => Some(Self::Watcher),
            3 => Some(Self::Client(LinkId(number))),
            4 => small.map(InstanceId).map(Self::Instance),
            5 => small.map(InstanceId).map(Self::Process),
            6 => small.map(PorterId).map(Self::Porter),
            7 => small.map(PorterId).map(Self::PorterProcess),
            _ => None,
        }
    }
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::ReadWrite => EventFlags::IN.union(EventFlags::OUT),
            // Always told, asked or not.
            Self::End => EventFlags::empty(),
        }
    }
}

/// The `epoll`.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poller {
    pub(super) fn new() -> Result<Self, OsError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| OsError::new("epoll_create1", e))?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS) })
    }

    /// Watches a source. It goes by itself when its last fd is closed.
    pub(super) fn add(&self, fd: impl AsFd, source: Source) -> Result<(), OsError> {
        epoll::add(&self.epoll, fd, source.pack(), Interest::Read.flags())
            .map_err(|e| OsError::with_detail("epoll_ctl(ADD)", e, format!("{source:?}")))
    }

    /// Changes what is waited for.
    pub(super) fn change(&self, fd: impl AsFd, source: Source, interest: Interest) -> Result<(), OsError> {
        epoll::modify(&self.epoll, fd, source.pack(), interest.flags())
            .map_err(|e| OsError::with_detail("epoll_ctl(MOD)", e, format!("{source:?}")))
    }

    /// Stops watching a source.
    pub(super) fn remove(&self, fd: impl AsFd) -> Result<(), OsError> {
        epoll::delete(&self.epoll, fd).map_err(|e| OsError::new("epoll_ctl(DEL)", e))
    }

    /// Waits until a source is ready or `timeout_ns` have passed, for ever without one; appends what is ready.
    pub(super) fn wait(
        &mut self,
        timeout_ns: Option<u64>,
        ready: &mut Vec<(Source, Readiness)>,
    ) -> Result<(), OsError> {
        let timeout = timeout_ns.map(timespec);
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(OsError::new("epoll_wait", e)),
        }
        for event in &self.events {
            let flags = event.flags;
            let closed = flags.intersects(EventFlags::HUP.union(EventFlags::ERR));
            let readiness = Readiness {
                readable: closed || flags.contains(EventFlags::IN),
                writable: closed || flags.contains(EventFlags::OUT),
            };
            ready.extend(Source::unpack(event.data).map(|source| (source, readiness)));
        }
        Ok(())
    }
}

fn timespec(ns: u64) -> Timespec {
    // Rounded up to whole milliseconds: a moment late is fine, waking early to sleep again is not.
    let ms = ns.div_ceil(1_000_000);
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let rest = i64::try_from(ms % 1000).unwrap_or(0);
    Timespec { tv_sec: seconds, tv_nsec: rest * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_packing() {
        let largest = LinkId((1 << NUMBER_BITS) - 1);
        let sources = [
            Source::Listener(None),
            Source::Listener(Some(DomainId(u32::MAX))),
            Source::Keeper,
            Source::Watcher,
            Source::Client(largest),
            Source::Instance(InstanceId(u32::MAX)),
            Source::Process(InstanceId(7)),
            Source::Porter(PorterId(u32::MAX)),
            Source::PorterProcess(PorterId(7)),
        ];
        for source in sources {
            assert_eq!(Source::unpack(source.pack()), Some(source));
        }
    }

    #[test]
    fn what_tells_of_work_that_is_done_comes_before_what_asks_for_more() {
        let (porter, instance) = (PorterId(1), InstanceId(1));
        let asks = [Source::Client(LinkId(1)), Source::Listener(None), Source::Porter(porter)];
        let tells = [
            Source::Instance(instance),
            Source::Process(instance),
            Source::PorterProcess(porter),
            Source::Keeper,
        ];
        assert!(asks.iter().all(|source| source.asks()) && !tells.iter().any(|source| source.asks()));
    }

    #[test]
    fn a_wait_never_ends_before_its_moment() {
        let waited = timespec(1_500_001);
        assert_eq!((waited.tv_sec, waited.tv_nsec), (0, 2_000_000));
    }
}
