//! The broker's end of its link to the keeper: what it is told at start, and what is asked of it later.

use std::os::fd::OwnedFd;

use vgem_core::io::Input;
use vgem_os::OsError;
use vgem_os::seqpacket::{Packet as Received, RecvError, Socket};
use vgem_proto::describe::Description;
use vgem_proto::ids::{DeviceId, Time};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::keeper::{InstanceStarted, KeeperMessage};

use super::outbox::Packet;
use super::shell::Shell;
use crate::exit::{Exit, Failure};
use crate::setup::Setup;

/// What the keeper tells at start.
#[derive(Debug)]
pub(super) struct Told {
    /// Configuration and findings.
    pub(super) setup: Setup,
    /// The devices.
    pub(super) devices: Vec<(DeviceId, Description)>,
}

/// Listens until everything is told. The link still blocks.
pub(super) fn hear(link: &Socket) -> Result<Told, Failure> {
    let mut setup = None;
    let mut devices = Vec::new();
    let mut buffer = vec![0; limits::MESSAGE_LEN];
    loop {
        let Received::Data { len } = link.recv_plain(&mut buffer)? else {
            return Err(Failure::new(Exit::Internal, "the keeper went before it told everything"));
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        let (_, message) = KeeperMessage::decode(bytes, Sender::Keeper, 0).map_err(nonsense)?;
        match message {
            KeeperMessage::Setup(told) => {
                setup = Some(serde_json::from_slice(&told.json).map_err(nonsense)?);
            }
            KeeperMessage::Device(told) => {
                let description = Description::decode(&told.description).map_err(nonsense)?;
                devices.push((told.device, description));
            }
            KeeperMessage::Serve(_) => {
                return Ok(Told { setup: setup.unwrap_or_default(), devices });
            }
            other => return Err(nonsense(format!("{} before Serve", other.row().name))),
        }
    }
}

impl Shell {
    /// Takes what the keeper has sent.
    pub(super) fn keeper_ready(&mut self) {
        loop {
            let mut fds = Vec::new();
            let received = self.keeper.socket().recv(&mut self.buffer, &mut fds);
            match received {
                Ok(Received::Data { len }) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default();
                    match KeeperMessage::decode(bytes, Sender::Keeper, fds.len()) {
                        Ok((_, message)) => self.keeper_said(message, fds),
                        Err(e) => return self.end(Err(nonsense(e))),
                    }
                }
                Err(RecvError::Os(e)) if e.would_block() => return,
                Ok(Received::Closed) => {
                    return self.end(Err(Failure::new(Exit::Internal, "the keeper is gone")));
                }
                Ok(Received::TooLong { len }) => return self.end(Err(nonsense(format!("{len} bytes")))),
                Err(e) => return self.end(Err(OsError::from(e).into())),
            }
        }
    }

    /// Asks the keeper for something.
    pub(super) fn ask_keeper(&mut self, message: &KeeperMessage, fds: Vec<OwnedFd>) {
        let packet = Packet { bytes: message.encode(0, Time(0), 0), fds, instead: None };
        if let Err(e) = self.keeper.send(packet, &self.poller) {
            self.end(Err(Failure::new(Exit::Internal, format!("the keeper does not hear: {e}"))));
        }
        self.keeper_lost();
    }

    /// Answers for the keeper where the kernel refused what it was to have: nobody waits for ever.
    pub(super) fn keeper_lost(&mut self) {
        for bytes in self.keeper.lost() {
            if let Ok((_, KeeperMessage::Keep(keep))) = KeeperMessage::decode(&bytes, Sender::Broker, 1) {
                // Works unkept and unpinned; a broker crash would lose it.
                tracing::warn!("{} is not kept: too many fds are on their way", keep.object);
                self.inputs.push_back(Input::Kept { object: keep.object, pinned: 0 });
            }
            if let Ok((_, KeeperMessage::FindCgroup(find))) = KeeperMessage::decode(&bytes, Sender::Broker, 1)
            {
                self.cgroup_found(find.question, &[]);
            }
        }
    }

    fn keeper_said(&mut self, message: KeeperMessage, fds: Vec<OwnedFd>) {
        match message {
            KeeperMessage::InstanceStarted(started) => self.instance_started(&started, fds),
            KeeperMessage::InstanceFailed(failed) => {
                let why = String::from_utf8_lossy(&failed.text).into_owned();
                self.happen(Input::InstanceFailed { instance: failed.instance, why });
            }
            KeeperMessage::InstanceExited(exited) => self.instance_exited(exited.instance, exited.status),
            KeeperMessage::Kept(kept) => {
                self.memory.pinned(kept.object, Some(kept.pinned));
                self.happen(Input::Kept { object: kept.object, pinned: kept.pinned });
            }
            KeeperMessage::Dropped(dropped) => {
                self.memory.pinned(dropped.object, None);
                self.happen(Input::Dropped { object: dropped.object });
            }
            KeeperMessage::DoorOpened(opened) => {
                let path = String::from_utf8_lossy(&opened.path).into_owned();
                // The table says that one fd belongs to this message, and the decoder has counted it.
                let Some(listener) = fds.into_iter().next() else { return };
                self.door_opened(opened.domain, listener, path);
            }
            KeeperMessage::DoorFailed(failed) => {
                let why = String::from_utf8_lossy(&failed.text).into_owned();
                self.happen(Input::DoorFailed { domain: failed.domain, why });
            }
            KeeperMessage::CgroupFound(found) => self.cgroup_found(found.question, &found.path),
            KeeperMessage::PorterStarted(started) => self.porter_started(&started, fds),
            KeeperMessage::PorterFailed(failed) => {
                let why = String::from_utf8_lossy(&failed.text).into_owned();
                self.porter_failed(failed.porter, why);
            }
            KeeperMessage::PorterExited(exited) => {
                tracing::debug!("{} has ended: {}", exited.porter, exited.status);
                self.porter_gone(exited.porter);
            }
            KeeperMessage::ControlStarted(started) => self.control_started(started.pid, fds),
            KeeperMessage::ControlExited(exited) => {
                self.control_exited(String::from_utf8_lossy(&exited.text).into_owned());
            }
            KeeperMessage::Policy(policy) => match serde_json::from_slice(&policy.json) {
                Ok(said) => self.happen(Input::Policy(Box::new(self.given.policy(&said)))),
                Err(e) => self.end(Err(nonsense(e))),
            },
            KeeperMessage::Stop(_) => self.end(Ok(())),
            other => tracing::error!("the keeper sent {} out of turn", other.row().name),
        }
    }

    fn instance_started(&mut self, started: &InstanceStarted, fds: Vec<OwnedFd>) {
        let instance = started.instance;
        // The table says that two fds belong to this message, and the decoder has counted them.
        let Ok([link, pidfd]) = <[OwnedFd; 2]>::try_from(fds) else { return };
        match self.adopt_instance(instance, Socket::from(link), pidfd) {
            Ok(()) => self.happen(Input::InstanceStarted { instance, pid: started.pid }),
            Err(e) => {
                self.happen(Input::InstanceFailed { instance, why: e.to_string() });
                self.kill(instance);
            }
        }
    }
}

fn nonsense(what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Internal, format!("the keeper sent nonsense: {what}"))
}
