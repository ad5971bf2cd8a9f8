//! The rest of the invariants: who holds what, who waits for what, and what comes from strangers.
//!
//! Part of [`Broker::check_invariants`]; slow, for tests and for whoever suspects the broker.

use std::collections::BTreeMap;

use vgem_proto::ids::{ClientKey, DomainId, ObjectKey};
use vgem_proto::rights::Access;

use crate::broker::Broker;
use crate::clients::Standing;
use crate::deadlines::Timer;
use crate::import::Half;
use crate::invariants::{Check, ensure};
use crate::objects::{Kind, Object, ObjectState};
use crate::porters::{Duty, PorterState};

impl Broker {
    /// Every handle is its holder's, and every other domain that names an object owes its share, once (T27, L5).
    pub(crate) fn handles_and_shares_fit(&self) -> Check {
        for (key, object) in self.objects.iter() {
            for holder in &object.holders {
                let held = self.clients.get(holder.client).and_then(|c| c.objects.get(holder.handle.0));
                let fits = held.is_some_and(|held| held.object == key && held.rights == holder.rights);
                ensure(fits && holder.imports > 0, || format!("{key}: {holder:?} does not have it"))?;
                ensure(object.crossed || holder.domain == object.domain, || {
                    format!("{key}: {holder:?} is of another domain")
                })?;
            }
            let writes = |holder: &crate::objects::Holder| {
                holder.domain != object.domain && holder.rights.contains(vgem_proto::rights::Rights::WRITE)
            };
            ensure(object.guests_write == object.holders.iter().any(writes), || {
                format!("{key}: written by others: {}, {:?}", object.guests_write, object.holders)
            })?;
            self.shares_fit(key, object)?;
            self.writers_fit(key, object)?;
            let is_its_creators = object.committed
                || object.awaiting.is_some()
                || object.state != ObjectState::Created
                || object.holder(object.creator).is_some();
            ensure(is_its_creators, || format!("{key}: neither committed nor its creator's"))?;
        }
        Ok(())
    }

    fn shares_fit(&self, key: ObjectKey, object: &Object) -> Check {
        let mut owed = BTreeMap::<DomainId, u32>::new();
        let holders = object.holders.iter().map(|holder| holder.domain);
        for domain in holders.chain(object.wishes.iter().map(|wish| wish.domain)) {
            if domain != object.domain {
                owed.insert(domain, 1);
            }
        }
        let mut shares = BTreeMap::<DomainId, u32>::new();
        for share in &object.shares {
            *shares.entry(share.charge.domain()).or_default() += 1;
            ensure(share.charge.amount() == object.len, || format!("{key}: {share:?} of {}", object.len))?;
        }
        ensure(owed == shares, || format!("{key}: {owed:?} name it, {shares:?} owe for it"))
    }

    /// Only its writer maps a sealed result for writing; a ready one is sealed.
    fn writers_fit(&self, key: ObjectKey, object: &Object) -> Check {
        let Kind::Sealed(writer) = object.kind else { return Ok(()) };
        let strangers = object.mappings.iter().filter(|mapping| mapping.access == Access::Write);
        let strangers = strangers.filter(|mapping| Some(mapping.instance) != writer.instance).count();
        ensure(strangers == 0, || format!("{key}: others than {writer:?} may write it"))?;
        ensure(writer.sealed || object.state != ObjectState::Ready, || format!("{key}: ready and not sealed"))
    }

    /// Creations and commits list exactly the objects that wait for them.
    pub(crate) fn waiting_objects_fit(&self) -> Check {
        for (key, object) in self.objects.iter() {
            let Some(id) = object.awaiting else { continue };
            let made = self.creations.get(&id).is_some_and(|creation| creation.objects.contains(&key));
            let committed = self.commits.get(&id).is_some_and(|commit| commit.objects.contains(&key));
            ensure(made != committed, || format!("{key}: waits for {id}, which does not know"))?;
        }
        for (id, creation) in &self.creations {
            let state = |key: &ObjectKey| self.objects.get(*key).map(|object| object.state);
            let making =
                creation.objects.iter().filter(|key| state(key) == Some(ObjectState::Making)).count();
            ensure(making == creation.missing && making > 0, || format!("creation {id}: {making} are made"))?;
            ensure(self.clients.contains(creation.asker.client), || format!("creation {id}: for nobody"))?;
        }
        for (id, commit) in &self.commits {
            let parts = commit.objects.iter().filter_map(|key| self.objects.get(*key));
            let states: Vec<ObjectState> =
                parts.filter(|object| object.awaiting == Some(*id)).map(|object| object.state).collect();
            let checking = states.iter().filter(|state| **state == ObjectState::Checking).count();
            let is_done = |state: &ObjectState| matches!(state, ObjectState::Checked | ObjectState::Kept);
            let open = states.iter().filter(|state| !is_done(state)).count();
            ensure(open == commit.missing && open > 0 && (checking == 0 || checking == open), || {
                format!("commit {id}: misses {} of {states:?}", commit.missing)
            })?;
        }
        Ok(())
    }

    /// Porters and clients name each other; what waits for the other half of an import has a timer.
    pub(crate) fn porters_and_hands_fit(&self) -> Check {
        for (id, porter) in &self.porters {
            let client = self.clients.get(porter.client);
            let named = match porter.duty {
                Duty::Imports => client.is_some_and(|client| client.porter == Some(*id)),
                Duty::Door(None) => client.is_some_and(|client| client.doorman == Some(*id)),
                Duty::Door(Some(domain)) => self.domains.doorman_of(domain) == Some(*id),
            };
            let lives = matches!(porter.state, PorterState::Starting | PorterState::Running);
            ensure(named == lives, || format!("{id}: {:?}, and named: {named}", porter.state))?;
            ensure(porter.charge.amount() == 1, || format!("{id}: is not charged"))?;
        }
        let mut hands = 0;
        for (key, client) in self.clients.iter() {
            for porter in client.porter.iter().chain(&client.doorman) {
                ensure(self.porters.contains_key(porter), || format!("{key:?}: its {porter} is gone"))?;
            }
            for (request, hand) in &client.hands {
                hands += 1;
                let fits = match &hand.half {
                    Half::Asked { wanted, .. } => self.runs_for(key, wanted.duty()),
                    Half::Came(_) => true,
                };
                ensure(fits && hand.until.is_some(), || format!("{key:?}: import {request} waits for ever"))?;
            }
            self.credits_fit(key)?;
        }
        let is_import = |timer: &Timer| matches!(timer, Timer::Import(..));
        let timers = self.timers.iter().filter(|(_, timer)| is_import(timer)).count();
        ensure(timers == hands, || format!("{hands} hands and {timers} timers"))
    }

    fn credits_fit(&self, key: ClientKey) -> Check {
        let Some(client) = self.clients.get(key) else { return Ok(()) };
        let expects = client.unread_at.is_some() || client.is_checked;
        let owes = client.unreceived.amount() > 0;
        let is_left_alone = client.standing == Standing::Dropped;
        ensure(expects == owes || is_left_alone, || {
            format!("{key:?}: {:?} unread, and looked after: {expects}", client.unreceived)
        })
    }
}
