//! The daemon and all actors: rounds, repairs, and what is left when everybody has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use vgem::{Client, snapshot};
use vgem_os::clock;
use vgem_os::seqpacket::Socket;

use super::actor::Actor;
use super::blow::{Blow, Manner, Struck, Target, Victim};
use super::judge::Case;
use super::pressure::Ours;
use super::words::{End, Order, Record, Role};
use crate::audit::{self, Holdings};
use crate::chance::Chance;
use crate::daemon::{Daemon, Serving, USERS};
use crate::processes;

/// Short deadlines, and devices that come back however often they are lost. A job has 100 ms in all, and most of it to be
/// begun, for one of a refused batch has no other time.
const CONFIG: &str = "
[times]
scheduling_ms = 80
import_ms = 100
[restart]
pause_ms = 1
pause_most_ms = 1
losses = 1000
within_ms = 1000
";

/// How long what nobody needs any more may take to be gone.
const QUIET: Duration = Duration::from_secs(5);

/// What a daemon owes its clients: all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ledger {
    /// Clients, objects, their bytes, those pinned.
    pub objects: [u64; 4],
    /// Queues, timelines, jobs in flight.
    pub timelines: [u64; 3],
}

/// A daemon and its actors.
#[derive(Debug)]
pub struct Arena {
    daemon: Option<Serving>,
    observer: Option<Client>,
    actors: Vec<Actor>,
    /// Producer and consumer have to be made known to each other.
    strangers: bool,
    /// The last blow may have broken what actors have.
    broken: bool,
    baseline: BTreeMap<String, Holdings>,
    /// Rounds so far.
    played: u64,
    /// What daemon and actors are in; ended after them.
    pressure: Ours,
}

/// What an actor, by its process, tells of a round; nothing if it is dead.
type Played = (Role, u32, Option<Vec<Record>>);

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// What was done; nothing was if the victim was not there.
    pub case: Option<Case>,
    /// Everything that was waited for, by those who live.
    pub records: Vec<(Role, Record)>,
    /// What should not be.
    pub wrong: Vec<String>,
}

impl Arena {
    /// Starts a daemon and one actor of each kind.
    ///
    /// # Panics
    /// Without root; if something does not start.
    #[must_use]
    pub fn new() -> Self {
        let pressure = Ours::begin();
        let daemon = Daemon::system().config(CONFIG).start();
        let mut arena = Self {
            daemon: Some(daemon),
            observer: None,
            actors: Vec::new(),
            strangers: true,
            broken: true,
            baseline: BTreeMap::new(),
            played: 0,
            pressure,
        };
        arena.mend();
        arena
    }

    /// Everything as it should be: a daemon, all actors connected, nothing lost.
    fn mend(&mut self) {
        let daemon = self.daemon.get_or_insert_with(|| Daemon::system().config(CONFIG).start());
        let socket = daemon.socket();
        self.observer.get_or_insert_with(|| Client::connect(&socket).expect("a daemon that serves"));
        for role in [Role::Stage, Role::Producer, Role::Consumer, Role::Bystander] {
            let uid = if role == Role::Bystander { USERS[1] } else { USERS[0] };
            if self.actors.iter().all(|actor| actor.role != role) {
                let actor = Actor::start(role, uid);
                actor.connect(&socket);
                self.actors.push(actor);
                self.strangers = true;
            }
        }
        if std::mem::take(&mut self.strangers) {
            let (one, other) = Socket::pair().expect("a pair of sockets");
            self.actor(Role::Producer).meet(&one);
            self.actor(Role::Consumer).meet(&other);
        }
    }

    fn actor(&self, role: Role) -> &Actor {
        self.actors.iter().find(|actor| actor.role == role).expect("all are there")
    }

    /// One round with one blow.
    ///
    /// # Panics
    /// If somebody hangs, or what a round before broke does not heal.
    pub fn round(&mut self, blow: Option<Blow>) -> Round {
        self.mend();
        self.played += 1;
        let number = self.played;
        let mend = std::mem::replace(&mut self.broken, blow.is_some());
        let prepare = Order::Prepare { round: number, mend };
        for actor in &self.actors {
            actor.tell(&prepare, &[]);
        }
        for actor in &self.actors {
            actor.is_ready(&prepare);
        }
        if mend {
            let token = self.actor(Role::Stage).offer();
            self.actor(Role::Producer).must(&Order::Await(token), &[]);
        }
        let target = blow.and_then(|blow| {
            let (pid, parent) = self.find(blow.victim)?;
            Some((blow, Target::hold(pid, parent)?))
        });
        let waited = self.pressure.waited();
        let begun_ns = clock::now();
        for actor in &self.actors {
            actor.tell(&Order::Go(number), &[]);
        }
        let (struck, answers) = self.played(target.as_ref().map(|(_, target)| target.pid), |others| {
            target.as_ref().map(|(blow, target)| target.strike(*blow, begun_ns, others))
        });
        let crowded = self.pressure.waited().saturating_sub(waited);
        let case = target.zip(struck).map(|((blow, target), struck)| {
            let detour = blow.victim == Victim::Porter && self.porter().is_some_and(|pid| pid != target.pid);
            Case { blow, pid: target.pid, struck, crowded, detour }
        });
        let mut wrong = Vec::new();
        let mut records = Vec::new();
        for (role, pid, answer) in answers {
            match answer {
                Some(all) => records.extend(all.into_iter().map(|record| (role, record))),
                None if case.as_ref().is_some_and(|case| case.pid == pid) => {}
                None => wrong.push(format!("{role:?} ended by itself")),
            }
        }
        wrong.extend(judge(case.as_ref(), &records));
        if let Some(case) = &case {
            wrong.extend(self.bury(case));
        }
        Round { case, records, wrong }
    }

    /// What came of a round of everybody, while one process is struck. Whoever strikes is told when the consumer is about
    /// to import, and, by the end of the channel, when nobody waits any more but the victim.
    fn played(
        &self,
        victim: Option<u32>,
        strike: impl FnOnce(&Receiver<()>) -> Option<Struck>,
    ) -> (Option<Struck>, Vec<Played>) {
        std::thread::scope(|scope| {
            let (tell, others) = mpsc::channel();
            let others_played = scope.spawn(move || {
                // Whoever strikes has no ear for it any more once it has struck.
                let played = |actor: &Actor| played(actor, || tell.send(()).unwrap_or_default());
                let mut all: Vec<_> =
                    self.actors.iter().filter(|actor| Some(actor.pid()) != victim).collect();
                // It is the one that tells something before its round is over.
                all.sort_by_key(|actor| actor.role != Role::Consumer);
                all.into_iter().map(played).collect::<Vec<_>>()
            });
            let struck = strike(&others);
            let mut answers = others_played.join().expect("nobody hangs; what it says is above");
            let of_victim = self.actors.iter().filter(|actor| Some(actor.pid()) == victim);
            answers.extend(of_victim.map(|actor| played(actor, || {})));
            (struck, answers)
        })
    }

    /// The process of a victim, if it has one, and whose child it must be.
    fn find(&self, victim: Victim) -> Option<(u32, u32)> {
        let (test, keeper) = (std::process::id(), self.daemon.as_ref()?.pid());
        let actor = |role| Some((self.actor(role).pid(), test));
        match victim {
            Victim::Producer => actor(Role::Producer),
            Victim::Consumer => actor(Role::Consumer),
            Victim::Bystander => actor(Role::Bystander),
            Victim::Stage => actor(Role::Stage),
            Victim::Keeper => Some((keeper, test)),
            Victim::Broker => Some((self.observer.as_ref()?.status().expect("a status").pid, keeper)),
            Victim::Porter => Some((self.porter()?, keeper)),
            Victim::Driver(name) => Some((self.driver(name)?, keeper)),
        }
    }

    /// The process that takes the consumer's fds; there is none before somebody needs it.
    fn porter(&self) -> Option<u32> {
        let is_porter = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("porter")
        };
        processes::tree(self.daemon.as_ref()?.pid()).into_iter().find(is_porter)
    }

    /// The process of a driver of the domain of producer and consumer.
    fn driver(&self, name: &str) -> Option<u32> {
        let observer = self.observer.as_ref()?;
        let producer = self.actor(Role::Producer).pid();
        let clients = observer.client_entries().expect("clients");
        let domain = clients.iter().find(|client| client.pid == producer)?.domain;
        let devices = observer.device_entries().expect("devices");
        let device = devices.into_iter().find(|device| device.name == name)?;
        device.instances.iter().find(|instance| instance.domain == domain).map(|found| found.pid)
    }

    /// Takes who is dead out, and whoever must go with it.
    fn bury(&mut self, case: &Case) -> Vec<String> {
        let mut wrong = Vec::new();
        match case.blow.victim {
            Victim::Broker | Victim::Keeper => {
                let daemon = self.daemon.take().expect("it was there");
                let family = processes::tree(daemon.pid());
                self.observer = None;
                wrong.extend(self.outlive(daemon, &family));
            }
            Victim::Producer | Victim::Consumer | Victim::Bystander | Victim::Stage => {
                if !matches!(case.blow.manner, Manner::Pause(_)) {
                    self.actors.retain(|actor| actor.pid() != case.pid);
                }
            }
            Victim::Driver(_) | Victim::Porter => {}
        }
        wrong
    }

    /// A daemon whose broker or keeper was killed ends as a whole, soon; its clients go on elsewhere.
    fn outlive(&mut self, daemon: Serving, family: &[u32]) -> Vec<String> {
        let end = Instant::now() + QUIET;
        let left = || family.iter().copied().filter(|pid| processes::is_alive(*pid)).collect::<Vec<_>>();
        while !left().is_empty() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let left: Vec<String> =
            left().into_iter().map(|pid| format!("{} {pid}", processes::name(pid))).collect();
        drop(daemon);
        self.daemon = Some(Daemon::system().config(CONFIG).start());
        let socket = self.socket();
        for actor in &self.actors {
            actor.must(&Order::Leave, &[]);
            actor.connect(&socket);
        }
        self.strangers = true;
        if left.is_empty() { Vec::new() } else { vec![format!("the daemon left processes behind: {left:?}")] }
    }

    fn socket(&self) -> PathBuf {
        self.daemon.as_ref().expect("a daemon is there").socket()
    }

    /// Everybody goes; what is left then is the same as at the first call, or it is told what is more.
    ///
    /// # Panics
    /// If the broker does not answer.
    pub fn audit(&mut self) -> Vec<String> {
        self.mend();
        for actor in &self.actors {
            actor.must(&Order::Leave, &[]);
        }
        let end = Instant::now() + QUIET;
        let more = loop {
            let more = self.more_than_at_first();
            if more.is_empty() || Instant::now() > end {
                break more;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        };
        let socket = self.socket();
        for actor in &self.actors {
            actor.connect(&socket);
        }
        self.strangers = true;
        more
    }

    fn more_than_at_first(&mut self) -> Vec<String> {
        let daemon = self.daemon.as_ref().expect("a daemon is there");
        let observer = self.observer.as_ref().expect("an observer is there");
        let ledger = ledger(&observer.status().expect("a status"));
        let mut more = Vec::new();
        if ledger != (Ledger { objects: [1, 0, 0, 0], timelines: [0; 3] }) {
            more.push(format!("the ledger has {ledger:?}"));
        }
        let mut now = audit::holdings(daemon.pid());
        for actor in &self.actors {
            now.insert(format!("{:?}", actor.role), audit::holding(actor.pid()));
        }
        if self.baseline.is_empty() && more.is_empty() {
            self.baseline = now;
            return more;
        }
        for (who, held) in now {
            let at_first = self.baseline.get(&who).cloned().unwrap_or_default();
            more.extend(held.more_than(&at_first).into_iter().map(|what| format!("{who} has {what}")));
        }
        more
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

fn played(actor: &Actor, importing: impl FnMut()) -> Played {
    (actor.role, actor.pid(), actor.records(importing))
}

fn judge(case: Option<&Case>, records: &[(Role, Record)]) -> Vec<String> {
    let told = |role: &Role, record: &Record, what: &str| {
        format!("{role:?}, {}: {what}: {:?}", record.what, record.end)
    };
    let Some(case) = case else {
        let bad = records.iter().filter(|(_, record)| record.end != End::Done);
        return bad.map(|(role, record)| told(role, record, "nobody was struck")).collect();
    };
    let wrongs =
        records.iter().filter_map(|(role, record)| Some(told(role, record, &case.wrong(*role, record)?)));
    let mut wrong: Vec<String> = wrongs.collect();
    let causes: BTreeSet<u64> = records.iter().filter_map(|(_, record)| case.cause(record)).collect();
    if causes.len() > 1 {
        wrong.push(format!("one blow has {} causes: {causes:?}", causes.len()));
    }
    wrong
}

fn ledger(status: &snapshot::Status) -> Ledger {
    Ledger {
        objects: [status.clients, status.objects, status.object_bytes, status.pinned_bytes],
        timelines: [status.queues, status.timelines, status.jobs_in_flight],
    }
}

/// The blows of a run, each with a chance of its own, so that a round can be had again alone.
#[must_use]
pub fn blow_of(seed: u64, round: u64) -> Blow {
    Blow::draw(&mut Chance::new(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
