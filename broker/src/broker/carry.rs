//! Carrying out effects: one arm per thing that core can want.

use std::os::fd::OwnedFd;

use tracing::{debug, error, info, trace, warn};
use vgem_core::io::{Attach, Effect, Event, Input};
use vgem_os::OsError;
use vgem_os::fence::{Failure as SlotFailure, PagePair, Slot};
use vgem_proto::error::Failure;
use vgem_proto::ids::Point;
use vgem_proto::message::keeper::{Drop, Keep, StartInstance};

use super::shell::Shell;

impl Shell {
    /// Carries out one effect. Outcomes that core waits for are left in `inputs`.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ToDriver { instance, message, attach } => self.tell_driver(instance, &message, attach),
            Effect::Reply { link, request, message, attach } => self.reply(link, request, &message, attach),
            Effect::Inspect { link, request, scope, topic, cursor } => {
                self.inspect(link, request, scope, topic, cursor);
            }
            Effect::Disconnect { link, why } => self.disconnect(link, &why),
            Effect::MakeObject { object, len, huge, name } => {
                let made = self.memory.make(object, len, huge, &name, self.asking);
                self.inputs.push_back(Input::ObjectMade { object, outcome: made.map_err(|e| errno(&e)) });
            }
            Effect::CheckPopulated { object } => {
                let populated = self.memory.is_populated(object);
                self.inputs.push_back(Input::PopulatedChecked { object, populated });
            }
            Effect::Keep { object, len } => match self.memory.duplicate(object) {
                Ok(fd) => self.ask_keeper(&Keep { object, len }.into(), vec![fd]),
                Err(e) => {
                    // Works unkept and unpinned; a broker crash would lose it.
                    warn!("{object} is not kept: {e}");
                    self.inputs.push_back(Input::Kept { object, pinned: 0 });
                }
            },
            Effect::Drop { object } => self.ask_keeper(&Drop { object }.into(), Vec::new()),
            Effect::Watch { object } => {
                if let Err(e) = self.memory.watch(object) {
                    // Without the hint core's own sweeps find it.
                    warn!("{object} is not watched: {e}");
                }
            }
            Effect::Probe { object } => {
                let free = self.memory.probe(object, |link| self.clients.contains_key(&link));
                self.inputs.push_back(Input::Probed { object, free });
            }
            Effect::Free { object } => {
                let gone = self.memory.free(object);
                self.inputs.push_back(Input::Freed { object, gone });
            }
            Effect::MakePair { pair } => {
                let made = PagePair::create().map(|page| {
                    self.pairs.insert(pair, page);
                });
                self.inputs.push_back(Input::PairMade { pair, outcome: made.map_err(|e| errno(&e)) });
            }
            Effect::DropPair { pair } => {
                self.pairs.remove(&pair);
            }
            Effect::Settle { pair, slot, value, failures, dead_from, code, cause } => {
                if let (Some(page), Some(slot)) = (self.pairs.get(&pair), Slot::new(slot)) {
                    let failures: Vec<SlotFailure> = failures.iter().map(slot_failure).collect();
                    page.settle(slot, value.0, &failures);
                    page.kill_slot(slot, dead_from.0, code.number(), cause.0);
                }
            }
            Effect::KillPage { pair, code, cause } => {
                if let Some(page) = self.pairs.get(&pair) {
                    page.kill_page(code.number(), cause.0);
                }
            }
            Effect::StartInstance { instance, device, domain } => {
                self.ask_keeper(&StartInstance { instance, device, domain }.into(), Vec::new());
            }
            Effect::KillInstance { instance, why } => {
                info!("{instance} is ended: {why:?}");
                self.kill(instance);
            }
            Effect::Log { event } => log(&event),
        }
    }

    /// The fds that go with a message.
    pub(super) fn attached(&self, attach: Attach) -> Result<Vec<OwnedFd>, OsError> {
        const GONE: OsError = OsError::new("pair", vgem_os::Errno::NOENT);
        match attach {
            Attach::None => Ok(Vec::new()),
            Attach::Export { object, access } => self.memory.export(object, access).map(|fd| vec![fd]),
            Attach::Signaller(pair) => {
                let fds = self.pairs.get(&pair).ok_or(GONE)?.signaller_fds()?;
                Ok(vec![fds.page, fds.interest])
            }
            Attach::Observer(pair) => {
                let fds = self.pairs.get(&pair).ok_or(GONE)?.observer_fds()?;
                Ok(vec![fds.page, fds.interest])
            }
        }
    }

    /// Sends what waits for the keeper.
    pub(super) fn keeper_writable(&mut self) {
        if let Err(e) = self.keeper.flush(&self.poller) {
            self.end(Err(e.into()));
        }
    }
}

fn errno(e: &OsError) -> i32 {
    e.errno().raw_os_error()
}

fn slot_failure((point, failure): &(Point, Failure)) -> SlotFailure {
    SlotFailure { point: point.0, code: failure.code.number(), cause: failure.cause.0 }
}

fn log(event: &Event) {
    match event {
        Event::ClientConnected { client, uid } => debug!("client {client} of uid {uid} is here"),
        Event::ClientGone { client } => debug!("client {client} is gone"),
        Event::ObjectFreed { object } => debug!("{object} is free"),
        Event::InstanceReady { instance, device } => info!("{instance} of {device:?} is ready"),
        Event::InstanceLost { instance, device, why, jobs } => {
            warn!("{instance} of {device:?} is lost with {jobs} jobs: {why:?}");
        }
        Event::JobTimedOut { device, timeline, point } => {
            warn!("a job of {device:?} took too long: {point:?} of {timeline}");
        }
        Event::Refused { client, why } => debug!("client {client} is refused: {why:?}"),
        Event::HandleClosed { handle } => trace!("{handle} is closed"),
        Event::Bug { what } => error!("a bug of ours: {what:?}"),
    }
}
