//! Porters: the processes that take fds from strangers, one per client that imports; and doormen ([`crate::doormen`]), which
//! live as porters do.
//!
//! ```text
//! Starting --the keeper has started it--> Running --killed--> Ending --its pidfd says so--> gone
//!    |  |                                    +--------gone by itself-----------------------> gone
//!    |  +--its client went--> Unwanted --started--> Ending
//!    +--it cannot be started--> gone
//! ```
//! A porter may hang in the kernel, for ever (a fd whose close never ends), and nobody waits for it: when it must
//! go, its client is free to ask for another, while the old one stays charged to the domain until its process
//! really has ended. So a domain can have so many hanging processes and no more.
//!
//! Invariants: a client names a porter that is Starting or Running, at most one of each duty; that porter names the client. A
//! doorman that has a domain is named by that instead. A porter that is Unwanted or Ending is named by nobody. What it says
//! then is dropped.

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, PorterId, Time};
use vgem_proto::message::OPEN_DOORMAN;
use vgem_proto::message::client::PorterOpened;

use crate::accounts::{Charge, Resource};
use crate::broker::{Broker, client_number};
use crate::io::{Attach, Effect, Event};
use crate::objects::Awaiting;
use crate::policy::{self, Action};
use crate::requests::Outcome;

/// Where a porter is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PorterState {
    /// The keeper is starting it.
    Starting,
    /// The keeper is starting it, and nobody wants it any more.
    Unwanted,
    /// It takes fds.
    Running,
    /// It was told to end, by force.
    Ending,
    /// There is no such porter.
    Gone,
}

/// What can happen to a porter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PorterEvent {
    Started,
    NotStarted,
    Kill,
    Exited,
}

impl PorterState {
    /// The state after `event`, or `None` if that cannot happen now.
    pub(crate) fn after(self, event: PorterEvent) -> Option<Self> {
        use PorterEvent as E;
        use PorterState as S;
        let next = match (self, event) {
            (S::Starting, E::Started) => S::Running,
            (S::Starting, E::Kill) => S::Unwanted,
            (S::Unwanted, E::Started) => S::Ending,
            (S::Starting | S::Unwanted, E::NotStarted) => S::Gone,
            (S::Running, E::Kill) => S::Ending,
            (S::Starting | S::Unwanted | S::Running | S::Ending, E::Exited) => S::Gone,
            (
                S::Unwanted | S::Running | S::Ending | S::Gone,
                E::Started | E::NotStarted | E::Kill | E::Exited,
            ) => return None,
        };
        Some(next)
    }
}

/// What a porter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Duty {
    /// Its client's fds.
    Imports,
    /// A door: of no domain yet, or of this one.
    Door(Option<DomainId>),
}

/// A porter.
#[derive(Debug)]
pub(crate) struct Porter {
    pub(crate) state: PorterState,
    pub(crate) duty: Duty,
    pub(crate) client: ClientKey,
    pub(crate) pid: u32,
    /// Where its door is, from when it was looked at until it is a domain's.
    pub(crate) path: String,
    /// The request for it.
    asker: Awaiting,
    /// Held until its process is gone.
    pub(crate) charge: Charge,
    /// The charge for the channel in the answer.
    pub(crate) export: Charge,
}

impl Broker {
    /// A client asks for a channel to a porter, or to a doorman.
    pub(crate) fn open_porter(&mut self, now: Time, asker: Awaiting, flags: u16) -> Outcome {
        let client = self.find_client(asker.client)?;
        let (duty, action, there) = match flags & OPEN_DOORMAN {
            0 => (Duty::Imports, Action::OpenPorter, client.porter),
            _ => (Duty::Door(None), Action::Administer, client.doorman),
        };
        let grant = policy::authorise(client.subject(), action)?;
        if there.is_some() {
            let text = "this connection has such a one, or it is being started; hand fds to that one";
            return Err(Refusal::new(ErrorCode::Busy, text));
        }
        let wanted = [(Resource::Porters, 1), (Resource::Exports, 1)];
        let [charge, export] = self.accounts.charge_all(grant.domain(), wanted)?;
        // Each is a process: one who opens and closes them all the time must not be a fork bomb.
        let pace = (self.config.times.porter_ns, self.config.bounds.porter_burst);
        if let Err(refusal) = self.accounts.pace_porter(grant.domain(), now, pace) {
            self.accounts.give_back(charge);
            self.accounts.give_back(export);
            return Err(refusal);
        }
        let id = self.next_porter();
        let client = asker.client;
        if let Some(client) = self.clients.get_mut(client) {
            *client.porter_for(duty) = Some(id);
        }
        let state = PorterState::Starting;
        self.porters
            .insert(id, Porter { state, duty, client, pid: 0, path: String::new(), asker, charge, export });
        self.out.push(match duty {
            Duty::Imports => Effect::StartPorter { porter: id },
            Duty::Door(_) => Effect::StartDoorman { porter: id },
        });
        Ok(())
    }

    /// A number that no porter has; one that hangs in the kernel may have its own for ever.
    fn next_porter(&mut self) -> PorterId {
        loop {
            self.last_porter = PorterId(self.last_porter.0.wrapping_add(1));
            if self.last_porter.0 != 0 && !self.porters.contains_key(&self.last_porter) {
                return self.last_porter;
            }
        }
    }

    /// The keeper has started a porter.
    pub(crate) fn porter_started(&mut self, id: PorterId, pid: u32) {
        let Some(porter) = self.porters.get_mut(&id) else { return };
        let Some(next) = porter.state.after(PorterEvent::Started) else {
            self.bug(format!("{id} was started twice"));
            return;
        };
        (porter.state, porter.pid) = (next, pid);
        if next != PorterState::Running {
            let why = "nobody wants it any more".to_owned();
            self.out.push(Effect::KillPorter { porter: id, why });
            return;
        }
        let all = porter.export.amount();
        let (asker, export) = (porter.asker, porter.export.split(all));
        self.reply_with_fds(asker, PorterOpened {}, Attach::Channel(id), export);
    }

    /// The keeper could not start a porter.
    pub(crate) fn porter_failed(&mut self, id: PorterId, why: &str) {
        let Some(porter) = self.porters.get(&id) else { return };
        if porter.state.after(PorterEvent::NotStarted).is_none() {
            self.bug(format!("{id} failed to start after it had"));
            return;
        }
        self.forget_porter(id, &format!("no porter could be started: {why}"));
    }

    /// A porter's process has ended.
    pub(crate) fn porter_gone(&mut self, id: PorterId) {
        let exits = |porter: &Porter| porter.state.after(PorterEvent::Exited).is_some();
        if self.porters.get(&id).is_some_and(exits) {
            self.forget_porter(id, "the porter is gone; open another");
        }
    }

    fn forget_porter(&mut self, id: PorterId, why: &str) {
        let Some(porter) = self.porters.remove(&id) else { return };
        self.accounts.give_back(porter.charge);
        self.accounts.give_back(porter.export);
        let refusal = Refusal::new(ErrorCode::Unavailable, why);
        if porter.state == PorterState::Starting {
            let Awaiting { link, request, .. } = porter.asker;
            self.refuse(link, request, &refusal, CauseId::NONE);
        }
        self.lose_porter(porter.client, (id, porter.duty), &refusal);
    }

    /// Has a client's porter ended by force; what the client wanted to import through it is refused.
    pub(crate) fn kill_porter(&mut self, id: PorterId, why: &str, refusal: &Refusal) {
        let Some(porter) = self.porters.get_mut(&id) else { return };
        let Some(next) = porter.state.after(PorterEvent::Kill) else { return };
        porter.state = next;
        let (client, duty, all) = (porter.client, porter.duty, porter.export.amount());
        let export = porter.export.split(all);
        self.accounts.give_back(export);
        if next == PorterState::Ending {
            self.out.push(Effect::KillPorter { porter: id, why: why.to_owned() });
        }
        self.lose_porter(client, (id, duty), refusal);
    }

    /// A client, or a domain, has a porter no more.
    fn lose_porter(&mut self, key: ClientKey, (id, duty): (PorterId, Duty), refusal: &Refusal) {
        if let Duty::Door(Some(domain)) = duty {
            return self.lose_doorman(domain, id);
        }
        let Some(place) = self.clients.get_mut(key).map(|client| client.porter_for(duty)) else { return };
        if *place == Some(id) {
            *place = None;
            self.refuse_imports(key, duty, refusal);
        }
    }

    /// A porter has handed nothing on for too long.
    pub(crate) fn porter_stalls(&mut self, key: ClientKey, duty: Duty, refusal: &Refusal) {
        let Some(id) = self.clients.get_mut(key).and_then(|client| *client.porter_for(duty)) else {
            self.refuse_imports(key, duty, refusal);
            return;
        };
        let pid = self.porters.get(&id).map_or(0, |porter| porter.pid);
        self.log_for(key, Event::PorterStalled { client: client_number(key), pid });
        self.kill_porter(id, "an import took too long", refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_porter_are_these() {
        use PorterEvent as E;
        use PorterState as S;
        let mut table = String::new();
        for state in [S::Starting, S::Unwanted, S::Running, S::Ending, S::Gone] {
            for event in [E::Started, E::NotStarted, E::Kill, E::Exited] {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{state:?} --{event:?}--> {next:?}\n"));
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Starting --Started--> Running
        Starting --NotStarted--> Gone
        Starting --Kill--> Unwanted
        Starting --Exited--> Gone
        Unwanted --Started--> Ending
        Unwanted --NotStarted--> Gone
        Unwanted --Exited--> Gone
        Running --Kill--> Ending
        Running --Exited--> Gone
        Ending --Exited--> Gone
        ");
    }
}
