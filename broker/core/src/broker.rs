//! The broker's state, and its only way in and out: [`Broker::apply`].
//!
//! Every input is one step: it happens completely, then the timers that are due, and what is to be done comes
//! back in order. Nothing in here blocks, asks a clock or draws a random number, so the same inputs always give
//! the same effects.
//!
//! The tables are fields of [`Broker`]; what changes them is sorted by what it does:
//!
//! | module | does |
//! |---|---|
//! | `requests` | what clients ask for, one function each |
//! | `creations`, `commits` | objects until they are ready |
//! | `porters`, `doormen`, `import` | what comes from strangers |
//! | `credits` | fds on their way to clients |
//! | `submit`, `check`, `cycles` | batches |
//! | `priority` | whom a batch's jobs let go first |
//! | `promises`, `passing`, `showing` | timelines that clients signal |
//! | `awaiting` | points that nobody has promised yet |
//! | `opening` | queues that are being opened, instances that are started for them |
//! | `rings`, `own` | queues on which clients schedule by themselves, and memory of theirs that is no object |
//! | `drivers`, `complete` | what drivers say |
//! | `due` | timers |
//! | `succession` | what a driver leaves that was ended for one late job |
//! | `retire`, `teardown` | every ending |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vgem_proto::describe::{self, Operation};
use vgem_proto::error::Refusal;
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, PorterId, Time, TimelineKey};
use vgem_proto::message::client::{ClientMessage, Refused};
use vgem_proto::message::driver::{DriverMessage, Run, Start};
use vgem_proto::snapshot::Counters;

use crate::accounts::Accounts;
use crate::awaiting::Futures;
use crate::batch::Batch;
use crate::causes::{BROKER, Causes};
use crate::clients::Clients;
use crate::commits::Committing;
use crate::config::Config;
use crate::creations::Creation;
use crate::deadlines::Timers;
use crate::devices::{Device, Instance, InstanceState};
use crate::domains::Domains;
use crate::io::{Attach, Effect, Effects, Event, Input, LinkId};
use crate::objects::Object;
use crate::opening::Openings;
use crate::outcomes::Outcomes;
use crate::own::HeldUp;
use crate::pairs::Pairs;
use crate::passing::Tokens;
use crate::porters::Porter;
use crate::queries::Queries;
use crate::queues::Queue;
use crate::tables::Table;
use crate::timelines::{self, Promises, Signals};
use crate::tracing::Tracing;

/// The rules of the broker: what it knows, and how that changes.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: Config,
    pub(crate) accounts: Accounts,
    pub(crate) domains: Domains,
    pub(crate) clients: Clients,
    pub(crate) objects: Table<ObjectKey, Object>,
    /// Objects that are being made, and those that are being committed, by the number that they wait under.
    pub(crate) creations: BTreeMap<u64, Creation>,
    pub(crate) commits: BTreeMap<u64, Committing>,
    pub(crate) last_awaiting: u64,
    pub(crate) porters: BTreeMap<PorterId, Porter>,
    pub(crate) last_porter: PorterId,
    pub(crate) queues: Table<TimelineKey, Queue>,
    /// Queues with a priority above 0.
    pub(crate) prioritised: usize,
    pub(crate) devices: Vec<Device>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    /// Instances that were left because their processes did not end.
    pub(crate) held_up: BTreeMap<InstanceId, HeldUp>,
    /// The last number given to an instance; the broker itself is number 1.
    pub(crate) last_instance: InstanceId,
    pub(crate) pairs: Pairs,
    /// Timelines that clients signal.
    pub(crate) promises: Table<TimelineKey, Promises>,
    /// What clients that are gone signalled in, until the last of it is settled.
    pub(crate) leavers: BTreeMap<ClientKey, Signals>,
    pub(crate) tokens: Tokens,
    pub(crate) futures: Futures,
    pub(crate) queries: Queries,
    pub(crate) outcomes: Outcomes,
    /// The operation that every device has.
    pub(crate) publish: Operation,
    pub(crate) openings: Openings,
    /// Domains whose instances run before anybody asks.
    pub(crate) prestarted: BTreeSet<DomainId>,
    pub(crate) timers: Timers,
    pub(crate) causes: Causes,
    pub(crate) counters: Counters,
    pub(crate) tracing: Tracing,
    /// Orphaned objects that are to be looked at next, and when.
    pub(crate) sweep: VecDeque<ObjectKey>,
    pub(crate) sweep_at: Option<Time>,
    /// Orphaned objects.
    pub(crate) orphans: BTreeSet<ObjectKey>,
    /// Storage for the batch that is being looked at; empty between inputs.
    pub(crate) batch: Batch,
    /// Objects that jobs have let go of in this step.
    pub(crate) released: Vec<ObjectKey>,
    /// Timelines that have advanced in this step.
    pub(crate) advanced: Vec<TimelineKey>,
    /// The number of this step.
    pub(crate) step: u64,
    /// The moment of this step.
    pub(crate) now: Time,
    /// Whether this step had the kernel collect already.
    pub(crate) has_collected: bool,
    pub(crate) out: Effects,
}

impl Broker {
    /// A broker that has nothing yet but its devices.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let devices: Vec<Device> =
            config.devices.iter().map(|(id, about)| Device::new(*id, about.clone())).collect();
        let policy = &config.policy;
        let mut accounts = Accounts::new(policy.defaults.quotas, policy.capacity);
        let domains = Domains::new(policy, &devices, &mut accounts);
        Self {
            accounts,
            domains,
            clients: Clients::new(),
            objects: Table::new(),
            creations: BTreeMap::new(),
            commits: BTreeMap::new(),
            last_awaiting: 0,
            porters: BTreeMap::new(),
            last_porter: PorterId(0),
            queues: Table::new(),
            prioritised: 0,
            devices,
            instances: BTreeMap::new(),
            held_up: BTreeMap::new(),
            last_instance: BROKER,
            pairs: Pairs::default(),
            promises: Table::from_index(timelines::FIRST),
            leavers: BTreeMap::new(),
            tokens: Tokens::default(),
            futures: Futures::default(),
            queries: Queries::default(),
            outcomes: Outcomes::default(),
            publish: describe::publish(),
            openings: Openings::default(),
            prestarted: BTreeSet::new(),
            timers: Timers::default(),
            causes: Causes::new(config.bounds.causes),
            counters: Counters::default(),
            tracing: Tracing::default(),
            sweep: VecDeque::new(),
            sweep_at: None,
            orphans: BTreeSet::new(),
            batch: Batch::default(),
            released: Vec::new(),
            advanced: Vec::new(),
            step: 0,
            now: Time(0),
            has_collected: false,
            out: Effects::new(),
            config,
        }
    }

    /// Lets `input` happen at `now` and says what is to be done, in order.
    pub fn apply(&mut self, now: Time, input: Input) -> Effects {
        let mut effects = Effects::new();
        self.apply_into(now, input, &mut effects);
        effects
    }

    /// As [`Self::apply`], appending to `effects`.
    pub fn apply_into(&mut self, now: Time, input: Input, effects: &mut Effects) {
        std::mem::swap(&mut self.out, effects);
        (self.now, self.has_collected) = (now, false);
        self.step = self.step.wrapping_add(1);
        self.happen(now, input);
        self.settle_released(now);
        self.run_timers(now);
        self.settle_released(now);
        self.keep_spare_pairs();
        self.forget_empty_domains();
        self.tell_traced();
        if self.causes.domains() > self.accounts.domains() {
            self.causes.keep_only(|domain| self.accounts.has(domain));
        }
        std::mem::swap(&mut self.out, effects);
    }

    fn happen(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { link, peer } => self.connected(now, link, peer),
            Input::Request { link, head, message } => self.request(now, link, &head, message),
            Input::BadRequest { link, request, fault } => self.bad_request(now, link, request, fault),
            Input::Hangup { link } => self.client_gone(now, link),
            Input::Received { link } => self.received(link),
            Input::ObjectMade { object, outcome } => self.object_made(object, outcome),
            Input::PopulatedChecked { object, populated } => self.populated_checked(object, populated),
            Input::Kept { object, pinned } => self.kept(object, pinned),
            Input::Dropped { object } => self.dropped(object),
            Input::ExportHint { object } => self.export_hint(now, object),
            Input::Probed { object, free } => self.probed(now, object, free),
            Input::Freed { object, gone } => self.freed(now, object, gone),
            Input::RingMade { timeline, outcome } => self.ring_made(timeline, outcome),
            Input::RingChecked { timeline, populated } => self.ring_checked(now, timeline, populated),
            Input::PairMade { pair, outcome } => self.pair_made(now, pair, outcome),
            Input::Policy(policy) => self.replace_policy(*policy),
            Input::DoorOpened { domain, path } => self.door_opened(domain, path),
            Input::DoorFailed { domain, why } => self.door_failed(domain, &why),
            Input::Prestart { domain } => self.prestart(now, domain),
            Input::InstanceStarted { instance, pid } => self.instance_started(now, instance, pid),
            Input::InstanceFailed { instance, why } => self.instance_failed(now, instance, &why),
            Input::Driver { instance, message } => self.driver_message(now, instance, message),
            Input::InstanceGone { instance, end, settled, seen } => {
                self.instance_gone(now, instance, &end, &settled, &seen);
            }
            Input::InstanceReleased { instance } => self.instance_released(instance),
            Input::Undelivered { link, message } => self.undelivered(now, link, &message),
            Input::Unreceived { link, fds, since } => self.unreceived(now, link, fds, since),
            Input::PorterStarted { porter, pid } => self.porter_started(porter, pid),
            Input::PorterFailed { porter, why } => self.porter_failed(porter, &why),
            Input::PorterGone { porter } => self.porter_gone(porter),
            Input::Brought { porter, request, arrival, access } => {
                self.brought(now, porter, request, arrival, access);
            }
            Input::DoorFits { porter, request, path } => self.door_fits(now, porter, request, path),
            Input::DoorShut { porter, why } => self.door_shut(porter, &why),
            Input::DoorEnds { porter } => self.door_ends(porter, "its close fd has hung up"),
            Input::Unfit { porter, request, refusal } => self.unfit(now, porter, request, refusal),
            Input::Sealed { object, outcome } => self.sealed(object, outcome),
            Input::Tampered { object, what } => self.tampered(object, what),
            Input::TokenDrawn { id, token } => self.token_drawn(id, token),
            Input::SightChecked { timeline, point, hidden } => {
                self.sight_checked(now, timeline, point, &hidden);
            }
            Input::Looked { timeline, value, failures } => self.looked(now, timeline, value, &failures),
            Input::Tick => {}
        }
    }

    /// When the broker wants [`Input::Tick`] next; `None` while nothing is under way.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    /// The jobs that [`Effect::Run`] has sent, while one of them is unfinished.
    #[must_use]
    pub fn run(&self, instance: InstanceId, number: u32) -> Option<&Run> {
        self.instances.get(&instance).and_then(|instance| instance.sent.get(number))
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn reply(&mut self, link: LinkId, request: u64, message: impl Into<ClientMessage>) {
        self.reply_with(link, request, message, Attach::None);
    }

    pub(crate) fn reply_with(
        &mut self,
        link: LinkId,
        request: u64,
        message: impl Into<ClientMessage>,
        attach: Attach,
    ) {
        self.out.push(Effect::Reply { link, request, message: message.into(), attach });
    }

    /// The one conversion from a refusal to what leaves the process.
    pub(crate) fn refuse(&mut self, link: LinkId, request: u64, refusal: &Refusal, cause: CauseId) {
        if let Some(client) = self.clients.key_of(link) {
            // Also the words of a porter, which may be anybody's by now.
            let why = crate::text::harmless(refusal.to_string().as_bytes(), vgem_proto::limits::TEXT_LEN);
            self.log_for(client, Event::Refused { client: client_number(client), why });
        }
        let text = crate::text::harmless(refusal.text.as_bytes(), vgem_proto::limits::TEXT_LEN);
        let refused = Refused {
            code: refusal.code,
            job: refusal.job.unwrap_or(u16::MAX),
            part: refusal.part.unwrap_or(u16::MAX),
            value: refusal.value,
            limit: refusal.limit,
            cause,
            text: text.into_bytes(),
        };
        self.reply(link, request, refused);
    }

    pub(crate) fn tell_driver(&mut self, instance: InstanceId, message: impl Into<DriverMessage>) {
        self.tell_driver_with(instance, message, Attach::None);
    }

    /// Tells an instance something, if it is one that listens. What an heir must know it is told when it is ready,
    /// from the tables ([`crate::succession`]).
    pub(crate) fn tell_driver_with(
        &mut self,
        instance: InstanceId,
        message: impl Into<DriverMessage>,
        attach: Attach,
    ) {
        if self.instances.get(&instance).is_some_and(|instance| instance.state == InstanceState::Ready) {
            self.out.push(Effect::ToDriver { instance, message: message.into(), attach });
        }
    }

    /// Tells an instance that was just started who it is.
    pub(crate) fn tell_who_it_is(&mut self, instance: InstanceId, domain: DomainId) {
        let message = Start { instance, domain }.into();
        self.out.push(Effect::ToDriver { instance, message, attach: Attach::None });
        self.forbid(instance, false);
    }

    pub(crate) fn log(&mut self, domain: Option<DomainId>, event: Event) {
        self.out.push(Effect::Log { domain, event });
    }

    /// Logs what concerns a client that lives.
    pub(crate) fn log_for(&mut self, client: ClientKey, event: Event) {
        let domain = self.clients.get(client).map(|client| client.peer.domain);
        self.log(domain, event);
    }

    pub(crate) fn bug(&mut self, what: impl Into<String>) {
        self.log(None, Event::Bug { what: what.into() });
    }
}

/// A client's number for people and tools.
pub(crate) fn client_number(client: ClientKey) -> u64 {
    u64::from(client.generation)
}
