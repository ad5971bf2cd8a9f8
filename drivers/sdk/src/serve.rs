//! A driver's `main`: parse the command line, describe or serve.
//!
//! Serving: take the link on fd 3, start the executors and the timekeeper, confine the process, say Ready, then read the link until
//! the broker closes it. A message that breaks the protocol ends the process with a line on stderr; the broker
//! sees the link close and fails what was in flight.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use vgem_os::confine::ConfineSpec;
use vgem_os::fence::{ObserverFace, ObserverFds, SignallerFace, SignallerFds, Slot};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::identity;
use vgem_os::seqpacket::{Packet, RecvError, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{PageId, TimelineKey};
use vgem_proto::jobs::PAGE_LOCAL;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{
    AttachMemory, AttachRing, Bind, Bound, DriverMessage, Map, Mapped, NotMapped, Ready, RingReady, Unbound,
    WindowsSet,
};

use crate::engine::{Engine, JobError, Needs};
use crate::instance::Instance;
use crate::objects::MappedObject;
use crate::options::Options;
use crate::platform::Os;
use crate::schedule::{Priority, Standing};
use crate::timeline::Timeline;
use crate::user::{Rings, Unbinding, Windows};

/// The fd number on which the keeper passes the link.
pub const LINK_FD: i32 = 3;

/// Exit code for a bad command line.
const USAGE: u8 = 64;
/// Exit code for an engine that cannot start.
const UNAVAILABLE: u8 = 69;
/// Exit code for a broken link or protocol.
const PROTOCOL: u8 = 76;

/// Why a driver ended before its broker let it go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Os(#[from] vgem_os::OsError),
    #[error("{0}")]
    Recv(#[from] RecvError),
    #[error("a message from the broker is malformed: {0}")]
    Malformed(#[from] vgem_proto::codec::Malformed),
    #[error("the broker broke the protocol: {0}")]
    Broke(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs a driver: the whole of its `main`.
///
/// `make` builds the engine from the command line. With `--describe` the description goes to stdout as bytes.
/// Exit codes: 0 the broker let go, 64 bad command line, 69 the engine cannot start, 76 the link broke.
pub fn serve<E: Engine>(make: impl FnOnce(&Options) -> Result<E, JobError>) -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(bad) => return complain(&bad, USAGE),
    };
    let engine = match make(&options) {
        Ok(engine) => engine,
        Err(error) => return complain(&error, UNAVAILABLE),
    };
    let served = match options.describe {
        true => describe(&engine),
        false => serve_link(engine, &options),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => complain(&fault, PROTOCOL),
    }
}

fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    eprintln!("{name}: {error}");
    ExitCode::from(code)
}

fn describe<E: Engine>(engine: &E) -> Result<(), Fault> {
    Ok(std::io::stdout().write_all(&engine.description().encode())?)
}

fn serve_link<E: Engine>(engine: E, options: &Options) -> Result<(), Fault> {
    vgem_os::signal::ignore_sigio()?;
    serve_on(engine, Socket::from(vgem_os::process::inherited(LINK_FD)?), options)
}

/// Serves a link until its other end closes.
pub(crate) fn serve_on<E: Engine>(engine: E, link: Socket, options: &Options) -> Result<(), Fault> {
    let link = Arc::new(link);
    let description = engine.description();
    if !options.unconfined {
        // Before the first thread: landlock binds the calling thread and those it starts.
        confine(&engine.needs())?;
    }
    let executors = options.executors.unwrap_or(description.executors).max(1);
    let instance = Arc::new(Instance::new(engine, &description, Arc::clone(&link), Os)?);
    let mut threads = Vec::new();
    for number in 0..executors {
        let instance = Arc::clone(&instance);
        let name = format!("executor-{number}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || instance.executor())?);
    }
    let timekeeper = {
        let instance = Arc::clone(&instance);
        move || instance.timekeeper()
    };
    threads.push(std::thread::Builder::new().name("timekeeper".into()).spawn(timekeeper)?);
    let ready = Ready { version: vgem_proto::VERSION, reserved: Zero, description: description.encode() };
    instance.outbox.send(&DriverMessage::Ready(ready));
    let control = Control { instance: &instance, signal_pages: Vec::new(), rings: Rings::default() };
    let ended = control.read_link();
    instance.stop();
    // Jobs in flight have nobody left to tell; the process ends under them, as if it had been killed.
    drop(threads);
    ended
}

fn confine(needs: &Needs) -> Result<(), Fault> {
    let spec = ConfineSpec {
        write: needs.roots.clone(),
        no_open: needs.roots.is_empty(),
        io_uring: needs.io_uring,
        ..ConfineSpec::default()
    };
    vgem_os::confine::driver(&spec)?;
    Ok(())
}

/// The control thread's own state.
struct Control<'a, E> {
    instance: &'a Arc<Instance<E>>,
    signal_pages: Vec<Option<Arc<SignallerFace>>>,
    rings: Rings,
}

impl<E: Engine> Control<'_, E> {
    fn read_link(mut self) -> Result<(), Fault> {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        let mut fds = Vec::new();
        loop {
            match self.instance.link.recv(&mut buf, &mut fds) {
                Ok(Packet::Data { len }) => {
                    let bytes = buf.get(..len).unwrap_or(&[]);
                    let (_, message) = DriverMessage::decode(bytes, Sender::Broker, fds.len())?;
                    self.handle(message, &mut fds)?;
                    fds.clear();
                }
                Ok(Packet::TooLong { len }) => return Err(Fault::Broke(format!("a message of {len} bytes"))),
                Ok(Packet::Closed) => return Ok(()),
                Err(RecvError::Os(e)) if e.errno() == vgem_os::Errno::INTR => {}
                Err(RecvError::Os(e)) if e.errno() == vgem_os::Errno::CONNRESET => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn handle(&mut self, message: DriverMessage, fds: &mut Vec<OwnedFd>) -> Result<(), Fault> {
        match message {
            DriverMessage::Start(start) => self.instance.outbox.set_issuer(start.instance),
            DriverMessage::Forbid(forbid) => self.instance.operations.forbid(&forbid.operations),
            DriverMessage::Map(map) => self.map(map, fds)?,
            DriverMessage::Unmap(unmap) => {
                let gone = self.instance.schedule().objects.unmap(unmap.object);
                self.instance.gone(gone);
            }
            DriverMessage::SignalPage(m) => {
                let (page, interest) = two(fds)?;
                let face = SignallerFace::map(SignallerFds { page, interest })?;
                put(&mut self.signal_pages, m.page, Some(Arc::new(face)))?;
            }
            DriverMessage::ObservePage(m) => {
                let (page, interest) = two(fds)?;
                let face = ObserverFace::map(ObserverFds { page, interest })?;
                place_of(m.page)?;
                self.instance.schedule().observe(m.page, face);
                self.instance.renew_watch();
            }
            DriverMessage::DropSignalPage(m) => put(&mut self.signal_pages, m.page, None)?,
            DriverMessage::DropObservePage(m) => {
                self.instance.schedule().forget_page(m.page);
                self.instance.renew_watch();
            }
            DriverMessage::OpenTimeline(m) => {
                let timeline = Timeline::going_on(m.timeline, m.value, m.at, &m.failures)
                    .map_err(|bad| Fault::Broke(bad.to_string()))?;
                let standing =
                    Standing { domain: m.domain, client: m.client, priority: Priority::new(m.priority) };
                if !self.instance.schedule().open(Arc::new(timeline), standing) {
                    return Err(Fault::Broke(format!("{} is open already", m.timeline)));
                }
            }
            // A ring closes first, and then its queue.
            DriverMessage::CloseTimeline(m) if self.rings.close(m.timeline) => {}
            DriverMessage::CloseTimeline(m) => {
                let closed = self.instance.schedule().close(m.timeline);
                if let Some(timeline) = closed {
                    self.instance.closed(&timeline);
                }
            }
            DriverMessage::Publish(m) => {
                let (face, slot) = (self.face(m.page)?, slot(m.slot)?);
                self.timeline(m.timeline)?.publish(m.page, slot, face);
            }
            DriverMessage::Retire(m) => {
                // The timeline may have closed meanwhile; its slot is then taken down here all the same.
                let (face, slot) = (self.face(m.page)?, slot(m.slot)?);
                let timeline = self.instance.schedule().timeline(m.timeline);
                match timeline {
                    Some(timeline) => timeline.retire(m.page, slot),
                    None => face.retire(slot),
                }
            }
            DriverMessage::Run(run) => {
                self.instance.accept(run).map_err(|not| Fault::Broke(not.to_string()))?;
            }
            DriverMessage::CancelJob(m) => {
                let failure = Failure { code: m.code, cause: m.cause };
                self.instance.cancel(m.timeline, m.point, failure);
            }
            DriverMessage::Boost(m) => self.instance.boost(m.timeline, m.point, Priority::new(m.priority)),
            DriverMessage::PointEnded(m) => {
                let failure = Failure { code: ErrorCode::from_number(m.code), cause: m.cause };
                self.instance.answer(m.timeline, m.point, (m.code != 0).then_some(failure));
            }
            DriverMessage::AttachRing(m) => self.attach_ring(&m, fds)?,
            DriverMessage::Bind(m) => self.bind(&m),
            DriverMessage::AttachMemory(m) => self.attach_memory(&m, fds)?,
            DriverMessage::SetWindows(m) => {
                let set = self.rings.set_windows(&m);
                self.windows_set(m.timeline, set);
            }
            DriverMessage::Unbind(m) => {
                if self.rings.unbind(m.timeline, m.address) == Unbinding::Done {
                    let (timeline, address) = (m.timeline, m.address);
                    self.instance.outbox.send(&DriverMessage::Unbound(Unbound { timeline, address }));
                }
            }
            DriverMessage::Ready(_)
            | DriverMessage::RingReady(_)
            | DriverMessage::Bound(_)
            | DriverMessage::Unbound(_)
            | DriverMessage::WindowsSet(_)
            | DriverMessage::Stalled(_)
            | DriverMessage::Mapped(_)
            | DriverMessage::NotMapped(_)
            | DriverMessage::Unmapped(_)
            | DriverMessage::TimelineClosed(_)
            | DriverMessage::Complete(_)
            | DriverMessage::Unblocked(_)
            | DriverMessage::AskPoint(_)
            | DriverMessage::Cause(_) => return Err(Fault::Broke("a driver's own message".into())),
        }
        Ok(())
    }

    fn map(&mut self, map: Map, fds: &mut Vec<OwnedFd>) -> Result<(), Fault> {
        let Some(fd) = fds.pop() else { return Err(Fault::Broke("Map without an fd".into())) };
        if self.instance.schedule().objects.is_leaving(map.object) {
            return Err(Fault::Broke(format!("Map of {} before it was unmapped", map.object)));
        }
        let mapped = self.map_memory(&map, &fd);
        // With the answer the broker may look for open files of the object.
        drop(fd);
        let answer = match mapped {
            Ok(()) => DriverMessage::Mapped(Mapped { object: map.object }),
            Err(e) => {
                eprintln!("mapping {} ({} bytes): {e}", map.object, map.len);
                let errno = e.errno().raw_os_error();
                DriverMessage::NotMapped(NotMapped { object: map.object, errno, reserved: Zero })
            }
        };
        self.instance.outbox.send(&answer);
        Ok(())
    }

    /// Maps an object, unless the memory is mapped for this access already: the writing driver of a sealed result
    /// can never map it for writing again.
    fn map_memory(&self, map: &Map, fd: &OwnedFd) -> vgem_os::Result<()> {
        let identity = identity(fd.as_fd())?;
        if self.instance.schedule().objects.serves(map.object, (identity, map.len), map.access) {
            return Ok(());
        }
        let len = usize::try_from(map.len).unwrap_or(usize::MAX);
        let mapping = Arc::new(Mapping::map(fd.as_fd(), len, map.access, Populate::Now)?);
        self.instance.engine.mapped(map.object, mapping.span());
        let mapped = MappedObject { mapping, access: map.access, identity };
        let replaced = self.instance.schedule().objects.map(map.object, mapped);
        self.instance.gone(replaced);
        Ok(())
    }

    fn attach_ring(&mut self, attach: &AttachRing, fds: &mut Vec<OwnedFd>) -> Result<(), Fault> {
        let Some(fd) = fds.pop() else { return Err(Fault::Broke("AttachRing without an fd".into())) };
        let timeline = self.timeline(attach.timeline)?.key;
        if self.rings.has(timeline) {
            return Err(Fault::Broke(format!("a second ring for {timeline}")));
        }
        let errno = match self.rings.attach(self.instance, attach, fd) {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("the ring of {timeline} ({} entries): {e}", attach.depth);
                e.errno().raw_os_error()
            }
        };
        self.instance.outbox.send(&DriverMessage::RingReady(RingReady { timeline, errno, reserved: Zero }));
        Ok(())
    }

    fn attach_memory(&mut self, attach: &AttachMemory, fds: &mut Vec<OwnedFd>) -> Result<(), Fault> {
        let Some(fd) = fds.pop() else { return Err(Fault::Broke("AttachMemory without an fd".into())) };
        let set = self.rings.attach_memory(self.instance, attach, fd)?;
        self.windows_set(attach.timeline, set);
        Ok(())
    }

    /// Says that windows are set where nobody else does.
    fn windows_set(&self, timeline: TimelineKey, windows: Windows) {
        if windows == Windows::Nobodys {
            self.instance.outbox.send(&DriverMessage::WindowsSet(WindowsSet { timeline }));
        }
    }

    fn bind(&mut self, bind: &Bind) {
        let mapping = self.instance.schedule().objects.find(bind.object).map(|m| Arc::clone(&m.mapping));
        let code = self.rings.bind(bind, mapping).map_or_else(|code| code.number(), |()| 0);
        let &Bind { timeline, address, .. } = bind;
        self.instance.outbox.send(&DriverMessage::Bound(Bound { timeline, address, code, reserved: Zero }));
    }

    fn face(&self, page: PageId) -> Result<Arc<SignallerFace>, Fault> {
        let found = self.signal_pages.get(page.0 as usize).and_then(Option::as_ref);
        found.cloned().ok_or_else(|| Fault::Broke(format!("no signal {page}")))
    }

    fn timeline(&self, key: TimelineKey) -> Result<Arc<Timeline>, Fault> {
        self.instance.schedule().timeline(key).ok_or_else(|| Fault::Broke(format!("no {key}")))
    }
}

fn slot(number: u16) -> Result<Slot, Fault> {
    Slot::new(number).ok_or_else(|| Fault::Broke(format!("no slot {number}")))
}

fn two(fds: &mut Vec<OwnedFd>) -> Result<(OwnedFd, OwnedFd), Fault> {
    match (fds.pop(), fds.pop()) {
        (Some(second), Some(first)) => Ok((first, second)),
        _ => Err(Fault::Broke("a page without its two fds".into())),
    }
}

/// Pages are numbered from 0 without gaps, so a number far away is a mistake, not a reason to allocate.
/// [`PAGE_LOCAL`] is no page's number: a wait that names it is on a timeline of this instance.
const PAGES_MAX: usize = PAGE_LOCAL as usize;

/// A page's place in a list of pages.
fn place_of(page: PageId) -> Result<usize, Fault> {
    let at = page.0 as usize;
    if at >= PAGES_MAX {
        return Err(Fault::Broke(format!("{page} of at most {PAGES_MAX}")));
    }
    Ok(at)
}

fn put<T>(list: &mut Vec<Option<T>>, page: PageId, item: Option<T>) -> Result<(), Fault> {
    let at = place_of(page)?;
    if list.len() <= at {
        list.resize_with(at + 1, || None);
    }
    if let Some(place) = list.get_mut(at) {
        *place = item;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
