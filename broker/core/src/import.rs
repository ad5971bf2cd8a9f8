//! Imports: a client's request on its link, and what its porter brought for it, whichever comes first.
//!
//! The two links are not ordered with each other, so a client has a bounded list of *hands*, by the number of its
//! request: either the Import is there and waits for the porter, or the porter was faster. Both wait a bounded
//! time. An Import that nothing comes for means that the fd stalls whoever looks at it: the porter is killed, and
//! with it everything else that it was to bring. What comes and nobody asked for is dropped.
//!
//! What comes is one of our objects (the inode says so, never a name or number from the wire, L5), a fence page,
//! which is nobody's business, or memory of the client's own, which becomes an object ([`crate::creations`]).
//!
//! Invariants: every hand has a timer; Imports wait only while the client has a porter.

use std::collections::BTreeMap;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, Handle, ObjectKey, PorterId, Time, TimelineKey};
use vgem_proto::message::client::{CreateDomain, Imported};
use vgem_proto::rights::{Access, Rights};
use vgem_proto::user_queue::Window;

use crate::accounts::Resource;
use crate::broker::{Broker, client_number};
use crate::clients::ObjectHandle;
use crate::creations::imported;
use crate::deadlines::Timer;
use crate::io::{Arrival, Effect};
use crate::objects::{Awaiting, ObjectState, Wish};
use crate::policy::{self, Action};
use crate::porters::{Duty, PorterState};
use crate::requests::{Outcome, full_table};
use crate::tables::HandleTable;

/// One half of an import that waits for the other.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) half: Half,
    /// How long it waits.
    pub(crate) until: Option<Time>,
}

/// What a client wants with what it hands over.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A handle of an object.
    Object {
        /// A name for what is none yet.
        name: Vec<u8>,
    },
    /// That entries of a queue reach its own memory in these windows ([`crate::own`]).
    Memory { timeline: TimelineKey, windows: Vec<Window> },
    /// That it is the door of a domain ([`crate::doormen`]).
    Domain(CreateDomain),
}

impl Wanted {
    /// To whom it is handed.
    pub(crate) fn duty(&self) -> Duty {
        match self {
            Self::Object { .. } | Self::Memory { .. } => Duty::Imports,
            Self::Domain(_) => Duty::Door(None),
        }
    }
}

/// Which half is there.
#[derive(Debug)]
pub(crate) enum Half {
    /// The client's request.
    Asked {
        /// Who asked.
        asker: Awaiting,
        /// What for.
        wanted: Wanted,
    },
    /// What the porter brought, and what the fd allows; or why it cannot be.
    Came(Result<(Arrival, Access), Refusal>),
}

/// A client's hands, by the number of its request.
pub(crate) type Hands = BTreeMap<u64, Hand>;

impl Broker {
    /// A client asks for a handle of what it hands to its porter under the same number.
    pub(crate) fn import(&mut self, now: Time, asker: Awaiting, name: Vec<u8>) -> Outcome {
        self.ask_hand(now, asker, Wanted::Object { name })
    }

    /// A client wants something with what it hands to its porter under the same number.
    pub(crate) fn ask_hand(&mut self, now: Time, asker: Awaiting, wanted: Wanted) -> Outcome {
        let key = asker.client;
        let client = self.find_client(key)?;
        let (grant, request) = (policy::authorise(client.subject(), Action::Import)?, asker.request);
        if matches!(client.hands.get(&request), Some(Hand { half: Half::Came(_), .. })) {
            if let Some(Half::Came(what)) = self.take_hand(key, request) {
                self.both_halves(asker, &wanted, what);
            }
            return Ok(());
        }
        if client.hands.contains_key(&request) {
            let text = "a request with this number waits for its fd already";
            return Err(Refusal::new(ErrorCode::Busy, text).with(request, 0));
        }
        if !self.runs_for(key, wanted.duty()) {
            let text = match wanted.duty() {
                Duty::Imports => "open a porter first",
                Duty::Door(_) => "open a doorman first",
            };
            return Err(Refusal::new(ErrorCode::NotReady, text));
        }
        let bound = self.config.bounds.pending_imports;
        let asked = client.hands.values().filter(|hand| matches!(hand.half, Half::Asked { .. })).count();
        if asked >= bound {
            let text = format!("fds that one client hands over: at most {bound} at a time");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(asked as u64 + 1, bound as u64));
        }
        debug_assert_eq!(grant.domain(), client.peer.domain);
        self.add_hand(now, key, request, Half::Asked { asker, wanted });
        Ok(())
    }

    /// A porter brought memory.
    pub(crate) fn brought(
        &mut self,
        now: Time,
        porter: PorterId,
        request: u64,
        arrival: Arrival,
        access: Access,
    ) {
        self.came(now, porter, request, Ok((arrival, access)));
    }

    /// A porter says that what it got cannot be an object.
    pub(crate) fn unfit(&mut self, now: Time, porter: PorterId, request: u64, refusal: Refusal) {
        self.came(now, porter, request, Err(refusal));
    }

    fn came(&mut self, now: Time, id: PorterId, request: u64, what: Result<(Arrival, Access), Refusal>) {
        let porter = self.porters.get(&id).filter(|porter| porter.state == PorterState::Running);
        let Some(key) = porter.map(|porter| porter.client) else { return self.drop_arrival(&what) };
        let Some(client) = self.clients.get(key) else { return self.drop_arrival(&what) };
        let bound = self.config.bounds.pending_imports;
        let early = client.hands.values().filter(|hand| matches!(hand.half, Half::Came(_))).count();
        match client.hands.get(&request).map(|hand| &hand.half) {
            Some(Half::Asked { .. }) => {
                if let Some(Half::Asked { asker, wanted }) = self.take_hand(key, request) {
                    self.both_halves(asker, &wanted, what);
                }
            }
            Some(Half::Came(_)) => self.drop_arrival(&what),
            None if early >= bound => self.drop_arrival(&what),
            None => self.add_hand(now, key, request, Half::Came(what)),
        }
    }

    fn add_hand(&mut self, now: Time, key: ClientKey, request: u64, half: Half) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let mut until = None;
        let at = now.after(self.config.times.import_ns);
        self.timers.arm(Timer::Import(key, request), &mut until, at);
        client.hands.insert(request, Hand { half, until });
    }

    fn take_hand(&mut self, key: ClientKey, request: u64) -> Option<Half> {
        let mut hand = self.clients.get_mut(key)?.hands.remove(&request)?;
        self.timers.disarm(Timer::Import(key, request), &mut hand.until);
        Some(hand.half)
    }

    fn drop_arrival(&mut self, what: &Result<(Arrival, Access), Refusal>) {
        match what {
            Ok((Arrival::Memory { arrival, .. } | Arrival::Process { arrival }, _)) => {
                self.out.push(Effect::DropArrival { arrival: *arrival });
            }
            Ok((Arrival::Door { doorman }, _)) => self.drop_doorman(*doorman),
            Ok((Arrival::Object(_) | Arrival::Page, _)) | Err(_) => {}
        }
    }

    /// A hand has waited for its other half long enough.
    pub(crate) fn import_is_late(&mut self, key: ClientKey, request: u64) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(hand) = client.hands.get_mut(&request) else { return };
        hand.until = None;
        match &hand.half {
            Half::Asked { wanted, .. } => {
                let duty = wanted.duty();
                let ms = self.config.times.import_ns / 1_000_000;
                let text = format!(
                    "the porter handed nothing on within {ms} ms: the fd stalls whoever looks at it, or none \
                     was sent"
                );
                self.porter_stalls(key, duty, &Refusal::new(ErrorCode::Late, text).with(ms, ms));
            }
            Half::Came(_) => {
                if let Some(Half::Came(what)) = self.take_hand(key, request) {
                    self.drop_arrival(&what);
                }
            }
        }
    }

    /// Refuses every request of a client that waits for what a porter of this duty was to bring.
    pub(crate) fn refuse_imports(&mut self, key: ClientKey, duty: Duty, refusal: &Refusal) {
        let Some(client) = self.clients.get(key) else { return };
        let is_asked =
            |hand: &Hand| matches!(&hand.half, Half::Asked { wanted, .. } if wanted.duty() == duty);
        let asked: Vec<u64> =
            client.hands.iter().filter_map(|(request, hand)| is_asked(hand).then_some(*request)).collect();
        for request in asked {
            if let Some(Half::Asked { asker, .. }) = self.take_hand(key, request) {
                self.refuse(asker.link, asker.request, refusal, CauseId::NONE);
            }
        }
    }

    /// Ends the hands of a client that is gone.
    pub(crate) fn drop_hands(&mut self, key: ClientKey, hands: Hands) {
        for (request, mut hand) in hands {
            self.timers.disarm(Timer::Import(key, request), &mut hand.until);
            match hand.half {
                Half::Asked { .. } => {}
                Half::Came(what) => self.drop_arrival(&what),
            }
        }
    }

    /// Both halves are there: the client gets its answer.
    fn both_halves(&mut self, asker: Awaiting, wanted: &Wanted, what: Result<(Arrival, Access), Refusal>) {
        let outcome = match (wanted, &what) {
            (_, Err(refusal)) => Err(refusal.clone()),
            (Wanted::Object { .. }, Ok((Arrival::Page, _))) => {
                Err(Refusal::new(ErrorCode::Denied, "this is a page of fences, not an object"))
            }
            (Wanted::Object { .. }, Ok((Arrival::Object(object), access))) => {
                self.import_object(asker, *object, *access)
            }
            (Wanted::Object { name }, Ok((Arrival::Memory { arrival, len }, access))) => {
                self.import_memory(asker, name, (*arrival, *len), *access)
            }
            (Wanted::Object { .. }, Ok((Arrival::Process { .. }, _))) => {
                let text = "the memory of a process is no object: attach it to a user queue, or adopt pages";
                Err(Refusal::new(ErrorCode::BadParameter, text))
            }
            (Wanted::Memory { timeline, windows }, Ok((Arrival::Process { arrival }, access))) => {
                self.memory_came(asker, *timeline, windows, (*arrival, *access))
            }
            (Wanted::Domain(create), Ok((Arrival::Door { doorman }, _))) => {
                self.make_domain_at(asker, create, *doorman)
            }
            (Wanted::Object { .. } | Wanted::Memory { .. }, Ok((Arrival::Door { .. }, _)))
            | (
                Wanted::Domain(_),
                Ok((
                    Arrival::Page | Arrival::Object(_) | Arrival::Memory { .. } | Arrival::Process { .. },
                    _,
                )),
            ) => {
                let text = "what was handed over under this number is not what the request is about";
                Err(Refusal::new(ErrorCode::BadParameter, text))
            }
            (Wanted::Memory { .. }, Ok((Arrival::Page | Arrival::Object(_) | Arrival::Memory { .. }, _))) => {
                let text = "an object was handed over, not the memory of a process (/proc/self/mem)";
                Err(Refusal::new(ErrorCode::BadParameter, text))
            }
        };
        if let Err(refusal) = outcome {
            self.drop_arrival(&what);
            if let Wanted::Domain(_) = wanted {
                self.drop_doorman_of(asker.client);
            }
            self.refuse(asker.link, asker.request, &refusal, CauseId::NONE);
        }
    }

    /// A client showed an fd of one of our objects: it gets a handle, or one more import of the one it has (L5).
    fn import_object(&mut self, asker: Awaiting, key: ObjectKey, access: Access) -> Outcome {
        let Some(object) = self.objects.get(key) else {
            return Err(Refusal::new(ErrorCode::Gone, "the object is gone"));
        };
        let client = self.find_client(asker.client)?;
        let grant = policy::authorise_import(client.subject(), object.tampered)?;
        let rights = policy::rights_of_import(object.kind, access);
        let is_back = match object.state {
            ObjectState::Making => return Err(Refusal::new(ErrorCode::Busy, "the object is being made")),
            ObjectState::Created | ObjectState::Ready => true,
            ObjectState::Checking
            | ObjectState::Checked
            | ObjectState::Keeping
            | ObjectState::Kept
            | ObjectState::Mapping
            | ObjectState::Sealing => object.awaiting.is_some(),
            ObjectState::Unmapping
            | ObjectState::Dropping
            | ObjectState::Probing
            | ObjectState::Orphaned
            | ObjectState::Freeing
            | ObjectState::Gone
                if !object.committed =>
            {
                let text = "the object was never committed and its creator is gone";
                return Err(Refusal::new(ErrorCode::Gone, text));
            }
            ObjectState::Unmapping
            | ObjectState::Dropping
            | ObjectState::Probing
            | ObjectState::Orphaned
            | ObjectState::Freeing
            | ObjectState::Gone => false,
        };
        let is_held = object.holder(asker.client).is_some();
        if !is_held && !client.objects.has_room_for(1) {
            return Err(full_table(HandleTable::<ObjectHandle>::ROWS));
        }
        let (len, domain) = (object.len, grant.domain());
        let state = if object.state == ObjectState::Ready { 2 } else { 1 };
        let charge = self.accounts.charge(domain, Resource::Handles, u64::from(!is_held))?;
        match self.charge_share(&grant, key) {
            Ok(share) => {
                if let Some(object) = self.objects.get_mut(key) {
                    object.shares.extend(share);
                }
            }
            Err(refusal) => {
                self.accounts.give_back(charge);
                return Err(refusal);
            }
        }
        if !is_back {
            self.wish_for(key, Wish { asker, domain, rights, charge });
            return Ok(());
        }
        let Some(object) = self.give_handle(key, asker.client, rights, charge) else { return Ok(()) };
        self.log_for(asker.client, imported(key, client_number(asker.client), rights));
        let rights = self.rights_of(asker.client, object);
        self.reply(asker.link, asker.request, Imported { object, len, rights, state });
        Ok(())
    }

    /// What a client's handle allows.
    pub(crate) fn rights_of(&self, client: ClientKey, handle: Handle) -> Rights {
        let held = self.clients.get(client).and_then(|client| client.objects.get(handle.0));
        held.map_or(Rights::empty(), |held| held.rights)
    }
}

/// The refusal of everything that would give an object with a changed inode to one more.
pub(crate) fn tampered_with() -> Refusal {
    let text = "somebody changed the owner or the mode of the object's inode; its content was destroyed";
    Refusal::new(ErrorCode::Denied, text)
}
