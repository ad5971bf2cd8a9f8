//! Everything the broker role owns, and how one thing happens after the other.
//!
//! An input goes to core; its effects are carried out at once, in order; an effect whose outcome only the kernel
//! knows leaves an input behind, which happens after the effects of the one before. So core sees one thing at a
//! time and never finds itself half told.

use std::collections::{BTreeMap, HashMap, VecDeque};

use vgem_core::Broker;
use vgem_core::io::{Effects, Input, LinkId, PairId};
use vgem_os::clock;
use vgem_os::confine::Confined;
use vgem_os::fence::KeeperFace;
use vgem_os::ring::KeeperRing;
use vgem_os::selftest::LeaseSupport;
use vgem_os::seqpacket::{Listener, Socket};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DomainId, InstanceId, Time, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::keeper::Serving;

use super::Given;
use super::callers::Callers;
use super::clients::Client;
use super::control::Control;
use super::events::{Limiter, Monitors};
use super::features::Features;
use super::gate::{Gate, OF_ALL};
use super::instances::Instance;
use super::known::Inode;
use super::lingering::Lingering;
use super::link::Link;
use super::memory::Memory;
use super::newcomers::Newcomers;
use super::poller::{Poller, Source};
use super::porters::Porters;
use super::turns::Turns;
use crate::exit::Failure;

/// A pair of fence pages.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) face: KeeperFace,
    /// Its files.
    pub(super) inodes: [Inode; 2],
    /// It is a primary page: the broker writes its interest page.
    pub(super) watched: bool,
}

/// The memory of a queue's ring.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) face: KeeperRing,
    /// Its file.
    pub(super) inode: Inode,
}

/// A listening socket, and how fast it lets in.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: Listener,
    pub(super) gate: Gate,
}

/// What the role owns.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) core: Broker,
    pub(super) given: Given,
    pub(super) poller: Poller,
    pub(super) keeper: Link,
    /// Where clients come in: for everybody, and of domains.
    pub(super) doors: BTreeMap<Option<DomainId>, Door>,
    /// Who comes to that of everybody.
    pub(super) callers: Callers<Socket>,
    pub(super) turns: Turns,
    pub(super) clients: HashMap<LinkId, Client>,
    pub(super) newcomers: Newcomers,
    pub(super) lingering: Lingering,
    /// The number of the next connection.
    pub(super) next_link: u64,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    pub(super) memory: Memory,
    /// The pairs of fence pages.
    pub(super) pairs: HashMap<PairId, Pair>,
    pub(super) rings: HashMap<TimelineKey, Ring>,
    pub(super) porters: Porters,
    pub(super) control: Control,
    pub(super) monitors: Monitors,
    pub(super) limiter: Limiter,
    /// Where messages are received, one at a time.
    pub(super) buffer: Vec<u8>,
    /// For tools.
    pub(super) features: Features,
    /// When it began, nanoseconds.
    pub(super) began: u64,
    /// The connection whose request is being carried out.
    pub(super) asking: Option<LinkId>,
    pub(super) inputs: VecDeque<Input>,
    effects: Effects,
    /// How it ends, once it does.
    over: Option<Result<(), Failure>>,
}

impl Shell {
    pub(super) fn new(
        core: Broker,
        given: Given,
        keeper: Socket,
        listener: Listener,
        lease: LeaseSupport,
    ) -> Result<Self, Failure> {
        let poller = Poller::new()?;
        let memory = Memory::new(&lease)?;
        poller.add(&listener, Source::Listener(None))?;
        let doors = BTreeMap::from([(None, Door { listener, gate: Gate::new(OF_ALL) })]);
        poller.add(memory.watcher(), Source::Watcher)?;
        let keeper = Link::new(keeper, Source::Keeper, usize::MAX, &poller)?;
        Ok(Self {
            core,
            given,
            poller,
            keeper,
            doors,
            callers: Callers::default(),
            turns: Turns::default(),
            clients: HashMap::new(),
            newcomers: Newcomers::default(),
            lingering: Lingering::default(),
            next_link: 1,
            instances: BTreeMap::new(),
            memory,
            pairs: HashMap::new(),
            rings: HashMap::new(),
            porters: Porters::new()?,
            control: Control::default(),
            monitors: Monitors::default(),
            limiter: Limiter::default(),
            buffer: vec![0; limits::MESSAGE_LEN],
            features: Features::default(),
            began: clock::now(),
            asking: None,
            inputs: VecDeque::new(),
            effects: Effects::new(),
            over: None,
        })
    }

    /// Tells the keeper that clients are served from now on, and starts what is wanted beforehand.
    ///
    /// `_proof`: only a process that was confined has one, so nobody says Serving before (M-121).
    pub(super) fn begin(&mut self, _proof: &Confined, prestart: Option<u32>) {
        self.ask_keeper(&Serving {}.into(), Vec::new());
        match prestart {
            Some(uid) => {
                let domain = self.core.home_of(uid, &[], None);
                self.happen(Input::Prestart { domain });
            }
            // Core may want pages made before the first client comes.
            None => self.happen(Input::Tick),
        }
    }

    /// The domain whose time a source takes; none for what serves everybody.
    pub(super) fn domain_of(&self, source: Source) -> Option<DomainId> {
        let domain = match source {
            Source::Client(link) => self.clients.get(&link).map(Client::domain),
            Source::Instance(instance) => self.core.instance_domain(instance),
            Source::Listener(_)
            | Source::Keeper
            | Source::Control
            | Source::Watcher
            | Source::Process(_)
            | Source::Porter(_)
            | Source::PorterProcess(_) => None,
        };
        domain.filter(|domain| self.turns.has_share(*domain))
    }

    /// Lets something happen, and all that follows from it.
    pub(super) fn happen(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.go_on();
    }

    /// Lets everything happen that is still to happen.
    pub(super) fn go_on(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.asking = match &input {
                Input::Request { link, .. } => Some(*link),
                _ => None,
            };
            let mut effects = std::mem::take(&mut self.effects);
            self.core.apply_into(Time(clock::now()), input, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
            self.effects = effects;
        }
    }

    /// Ends the role after what is being done.
    pub(super) fn end(&mut self, how: Result<(), Failure>) {
        if self.over.is_none() {
            self.over = Some(how);
        }
    }

    /// How it ended, if it has.
    pub(super) fn over(&mut self) -> Option<Result<(), Failure>> {
        self.over.take()
    }

    /// Fails every point that was not signalled, so that nobody waits for a broker or a driver that is gone.
    pub(super) fn fail_all_pages(&self) {
        for pair in self.pairs.values() {
            pair.face.kill_page(ErrorCode::BrokerLost.number(), CauseId::NONE.0);
        }
    }
}
