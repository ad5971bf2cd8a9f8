//! Porters: their links, their ends, and the memory they bring.
//!
//! ```text
//!   StartPorter ─► (keeper) ─► PorterStarted ─► linked ── sends what it must not ─► killed ─┐
//!                                                 └────────────── its process ends ─────────┴─► gone
//! ```
//!
//! What a porter brings is looked at again (M-132): memory that is an object, a page of ours, or memory that is
//! nothing yet. That is held here, under a number, until core takes it or drops it. A porter is confined and ours, but
//! it has held what a stranger sent: it is read like a client, a few messages at a time, and one that sends anything
//! but memory is killed.
//!
//! The broker holds the client's end of a channel only until it is sent, and never reads it.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};

use tracing::{debug, warn};
use vgem_core::io::{Arrival, ArrivalId, Input, LinkId};
use vgem_os::arrival::{Admission, is_of_proc, process_memory};
use vgem_os::seqpacket::{Packet as Received, RecvError, Socket};
use vgem_os::{Errno, OsError, clock};
use vgem_proto::codec::HEAD_LEN;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ObjectKey, PorterId};
use vgem_proto::message::keeper::{KeeperMessage, KillPorter, PorterStarted};
use vgem_proto::message::porter::{Brought, BroughtProcess, PorterMessage, Unfit};
use vgem_proto::message::{Head, Sender};

use super::doormen::Post;
use super::known::What;
use super::link::Link;
use super::poller::Source;
use super::shell::Shell;

/// One porter's process.
#[derive(Debug)]
pub(super) struct Porter {
    link: Link,
    pidfd: OwnedFd,
    /// The client's end of the channel, until it is sent.
    channel: Option<OwnedFd>,
    /// Whose it is.
    client: Option<LinkId>,
    /// Its link is not read any more: it is closed, or what came over it must not.
    silent: bool,
    /// If it is a doorman, what for.
    pub(super) post: Post,
}

impl Porter {
    /// Whether its link is not read any more.
    pub(super) const fn is_silent(&self) -> bool {
        self.silent
    }

    pub(super) fn socket(&self) -> &Socket {
        self.link.socket()
    }
}

/// Memory that no object has yet.
#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    /// Whose porter brought it.
    client: Option<LinkId>,
}

/// All porters, and what they brought.
#[derive(Debug)]
pub(super) struct Porters {
    porters: BTreeMap<PorterId, Porter>,
    /// Those the keeper was asked for.
    asked: BTreeMap<PorterId, Option<LinkId>>,
    held: HashMap<ArrivalId, Held>,
    next_arrival: u64,
    admission: Admission,
    /// What porters sent that is no memory: closing it may take for ever, so it never is.
    quarantine: Vec<OwnedFd>,
}

/// Fds in quarantine with which no more porters are started: so many were taken over, or there is a bug of ours.
const QUARANTINE: usize = 64;

impl Porters {
    /// None yet. Made before confinement.
    pub(super) fn new() -> Result<Self, OsError> {
        Ok(Self {
            porters: BTreeMap::new(),
            asked: BTreeMap::new(),
            held: HashMap::new(),
            next_arrival: 1,
            admission: Admission::new()?,
            quarantine: Vec::new(),
        })
    }

    /// How many live.
    pub(super) fn count(&self) -> usize {
        self.porters.len()
    }

    /// Fds in quarantine.
    #[cfg(test)]
    pub(super) fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// One that lives.
    pub(super) fn get_mut(&mut self, porter: PorterId) -> Option<&mut Porter> {
        self.porters.get_mut(&porter)
    }

    /// All that live.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PorterId, &Porter)> {
        self.porters.iter()
    }

    /// The client's end of a channel; once.
    pub(super) fn channel(&mut self, porter: PorterId) -> Result<OwnedFd, OsError> {
        let gone = || OsError::with_detail("channel", Errno::PIPE, format!("{porter} is gone"));
        self.porters.get_mut(&porter).and_then(|porter| porter.channel.take()).ok_or_else(gone)
    }

    /// Closes memory that is not wanted.
    pub(super) fn drop_arrival(&mut self, arrival: ArrivalId) {
        self.held.remove(&arrival);
    }

    /// The memory of a process, to send it on; once.
    pub(super) fn process(&mut self, arrival: ArrivalId) -> Result<OwnedFd, OsError> {
        const GONE: OsError = OsError::new("arrival", Errno::NOENT);
        self.held.remove(&arrival).map(|held| held.fd).ok_or(GONE)
    }

    fn hold(&mut self, fd: OwnedFd, client: Option<LinkId>) -> ArrivalId {
        let arrival = ArrivalId(self.next_arrival);
        self.next_arrival += 1;
        self.held.insert(arrival, Held { fd, client });
        arrival
    }
}

impl Shell {
    /// Has the keeper start a porter, or a doorman, as `message` asks.
    pub(super) fn start_porter(&mut self, porter: PorterId, message: &KeeperMessage) {
        let kept = self.porters.quarantine.len();
        if kept >= QUARANTINE {
            let why = format!("{kept} porters have sent what none may; start vgemd again");
            return self.inputs.push_back(Input::PorterFailed { porter, why });
        }
        self.porters.asked.insert(porter, self.asking);
        self.ask_keeper(message, Vec::new());
    }

    /// Has the keeper kill a porter; it is gone when its process is.
    pub(super) fn kill_porter(&mut self, id: PorterId) {
        if let Some(porter) = self.porters.porters.get_mut(&id) {
            porter.channel = None;
            porter.post.leave();
        }
        self.ask_keeper(&KillPorter { porter: id }.into(), Vec::new());
    }

    /// The keeper has started a porter.
    pub(super) fn porter_started(&mut self, started: &PorterStarted, fds: Vec<OwnedFd>) {
        let id = started.porter;
        let client = self.porters.asked.remove(&id).flatten();
        // The table says that three fds belong to this message, and the decoder has counted them.
        let Ok([channel, link, pidfd]) = <[OwnedFd; 3]>::try_from(fds) else { return };
        match self.adopt_porter(id, channel, Socket::from(link), pidfd, client) {
            Ok(()) => self.happen(Input::PorterStarted { porter: id, pid: started.pid }),
            Err(e) => {
                self.happen(Input::PorterFailed { porter: id, why: e.to_string() });
                self.kill_porter(id);
            }
        }
    }

    /// The keeper could not start a porter.
    pub(super) fn porter_failed(&mut self, porter: PorterId, why: String) {
        self.porters.asked.remove(&porter);
        self.happen(Input::PorterFailed { porter, why });
    }

    fn adopt_porter(
        &mut self,
        id: PorterId,
        channel: OwnedFd,
        link: Socket,
        pidfd: OwnedFd,
        client: Option<LinkId>,
    ) -> Result<(), OsError> {
        let link = Link::new(link, Source::Porter(id), usize::MAX, &self.poller)?;
        self.poller.add(&pidfd, Source::PorterProcess(id))?;
        let porter =
            Porter { link, pidfd, channel: Some(channel), client, silent: false, post: Post::default() };
        self.porters.porters.insert(id, porter);
        Ok(())
    }

    /// Takes what a porter has sent, as far as its turn goes.
    pub(super) fn porter_ready(&mut self, id: PorterId, most: usize) {
        for _ in 0..most {
            let Some(porter) = self.porters.porters.get_mut(&id).filter(|porter| !porter.silent) else {
                return;
            };
            if !porter.post.admits(clock::now()) {
                return self.pass_over(id);
            }
            let mut fds = Vec::new();
            // So that a message whose fds were cut off is not taken for the one before.
            self.buffer.iter_mut().take(HEAD_LEN).for_each(|byte| *byte = 0);
            match porter.link.take_with_fds(&mut self.buffer, &mut fds) {
                Ok(Some(Received::Data { len })) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default();
                    match (PorterMessage::decode(bytes, Sender::Porter, fds.len()), fds.pop()) {
                        (Ok((head, PorterMessage::Brought(brought))), Some(fd)) => {
                            self.brought(id, head.request, &brought, fd);
                        }
                        (Ok((head, PorterMessage::BroughtProcess(brought))), Some(fd)) => {
                            self.brought_process(id, head.request, &brought, fd);
                        }
                        (Ok((head, PorterMessage::Unfit(unfit))), _) => self.happen(Input::Unfit {
                            porter: id,
                            request: head.request,
                            refusal: refusal(unfit),
                        }),
                        (Ok((head, said)), fd) => self.doorman_said(id, head.request, said, fd),
                        (Err(e), fd) => {
                            self.porters.quarantine.extend(fd);
                            self.porters.quarantine.append(&mut fds);
                            return self.porter_broke(id, &e.to_string());
                        }
                    }
                }
                Ok(Some(Received::TooLong { len })) => {
                    return self.porter_broke(id, &format!("a message of {len} bytes"));
                }
                Ok(Some(Received::Closed)) => return self.silence(id),
                Ok(None) => return,
                // Our own lack of fds: that import's failure, and nobody's fault.
                Err(e @ RecvError::FdsTruncated { .. }) => {
                    let request = Head::request_of(&self.buffer);
                    let refusal = Refusal::new(ErrorCode::System, e.to_string());
                    self.visitor_lost(id);
                    self.happen(Input::Unfit { porter: id, request, refusal });
                }
                Err(RecvError::Os(e)) => {
                    debug!("{id}: {e}");
                    return self.silence(id);
                }
            }
        }
    }

    /// Looks again at what a porter found fit.
    fn brought(&mut self, id: PorterId, request: u64, brought: &Brought, fd: OwnedFd) {
        let fitting = match self.porters.admission.examine(fd.as_fd()) {
            Ok(fitting) if fitting.len == brought.len => fitting,
            Ok(fitting) => {
                let what = format!("memory of {} bytes as one of {}", fitting.len, brought.len);
                return self.porter_broke(id, &what);
            }
            Err(unfit) => {
                self.porters.quarantine.push(fd);
                return self.porter_broke(id, &unfit.to_string());
            }
        };
        let arrival = match self.memory.what(fd.as_fd()) {
            Ok(Some(What::Object(object))) if !self.memory.holds(object) => {
                let refusal =
                    Refusal::new(ErrorCode::Gone, "the object is gone, and only its content is kept");
                return self.happen(Input::Unfit { porter: id, request, refusal });
            }
            Ok(Some(What::Object(object))) => {
                if let Err(e) = self.memory.widen(object, fd, fitting.access) {
                    debug!("{object} stays as it is held: {e}");
                }
                Arrival::Object(object)
            }
            Ok(Some(What::Page)) => Arrival::Page,
            Ok(None) => {
                let client = self.porters.porters.get(&id).and_then(|porter| porter.client);
                let arrival = self.porters.hold(fd, client);
                Arrival::Memory { arrival, len: fitting.len }
            }
            Err(e) => {
                let refusal = Refusal::new(ErrorCode::System, e.to_string());
                return self.happen(Input::Unfit { porter: id, request, refusal });
            }
        };
        self.happen(Input::Brought { porter: id, request, arrival, access: fitting.access });
    }

    /// Looks again at what a porter found to be the memory of a process.
    fn brought_process(&mut self, id: PorterId, request: u64, brought: &BroughtProcess, fd: OwnedFd) {
        if !is_of_proc(fd.as_fd()) {
            self.porters.quarantine.push(fd);
            return self.porter_broke(id, "what is not of /proc as the memory of a process");
        }
        match process_memory(fd.as_fd()) {
            Ok(access) if access == brought.access => {
                let client = self.porters.porters.get(&id).and_then(|porter| porter.client);
                let arrival = Arrival::Process { arrival: self.porters.hold(fd, client) };
                self.happen(Input::Brought { porter: id, request, arrival, access });
            }
            Ok(access) => {
                let what = format!("memory of a process for {access:?} as some for {:?}", brought.access);
                self.porter_broke(id, &what);
            }
            // Names change, and a client can change them: it is its own request's failure.
            Err(unfit) => {
                let refusal = Refusal::new(ErrorCode::BadParameter, unfit.to_string());
                self.happen(Input::Unfit { porter: id, request, refusal });
            }
        }
    }

    /// Makes an object of memory that arrived; the number of its inode.
    pub(super) fn take_arrival(&mut self, arrival: ArrivalId, object: ObjectKey) -> Result<u64, OsError> {
        const GONE: OsError = OsError::new("arrival", Errno::NOENT);
        let held = self.porters.held.remove(&arrival).ok_or(GONE)?;
        self.memory.take(object, held.fd, held.client)
    }

    /// A porter's process has ended: what it sent before that counts.
    pub(super) fn porter_gone(&mut self, id: PorterId) {
        if let Some(porter) = self.porters.porters.get_mut(&id) {
            porter.post.end();
        }
        self.porter_ready(id, usize::MAX);
        let Some(porter) = self.porters.porters.remove(&id) else { return };
        // The keeper has the same open file, so it would be reported for ever.
        if let Err(e) = self.poller.remove(&porter.pidfd) {
            warn!("{id}: {e}");
        }
        self.happen(Input::PorterGone { porter: id });
    }

    /// Ends a porter that did what none may.
    pub(super) fn porter_broke(&mut self, id: PorterId, what: &str) {
        warn!("{id} sends what it must not and is killed: {what:?}");
        self.silence(id);
        self.kill_porter(id);
    }

    /// Keeps what must not be closed.
    pub(super) fn quarantine(&mut self, fd: Option<OwnedFd>) {
        self.porters.quarantine.extend(fd);
    }

    /// Stops reading a porter's link, which would be reported as readable for ever.
    fn silence(&mut self, id: PorterId) {
        let Some(porter) = self.porters.porters.get_mut(&id) else { return };
        if std::mem::replace(&mut porter.silent, true) || porter.post.is_passed_over() {
            return;
        }
        if let Err(e) = self.poller.remove(porter.link.socket()) {
            warn!("{id}: {e}");
        }
    }
}

fn refusal(unfit: Unfit) -> Refusal {
    let text = String::from_utf8_lossy(&unfit.text).into_owned();
    Refusal::new(unfit.code, text).with(unfit.value, unfit.limit)
}

#[cfg(test)]
mod tests;
