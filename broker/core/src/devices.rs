//! Devices, and the driver instances that do their work: one process per (device, domain), and per client that wants one
//! of its own.
//!
//! ```text
//! Pausing --its device may be started (at once, but for heirs)--+
//!    +----------------------------------------------------------+
//!    v
//! Starting --the keeper has started it--> Greeting --Ready, and its description fits--> Ready
//!    |                                       |                                            |
//!    | it cannot be started                  +---- killed, or gone by itself ----+--------+
//!    +---> gone                                     Ending --its pidfd says so---> gone
//! ```
//! An instance that was ended because a job took too long leaves its queues to an *heir* ([`crate::succession`]),
//! which is in the tables from that moment on, also while it may not be started yet.
//!
//! A lost instance is started again when somebody needs it (or at once, for a domain that was announced
//! beforehand), after a pause that doubles; too many losses in a short time and the device counts as failed for
//! that domain for a while ([`Health`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vgem_proto::describe::Description;
use vgem_proto::ids::{
    CauseId, ClientKey, DeviceId, DomainId, InstanceId, ObjectKey, Point, Time, TimelineKey,
};

use crate::accounts::Charge;
use crate::config::Times;
use crate::io::PairId;
use crate::sent::Sent;
use crate::succession::Estate;
use crate::tables::Numbers;

/// Whom an instance serves: a domain, or one client of it alone ([`crate::own`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Seat {
    pub(crate) domain: DomainId,
    pub(crate) client: Option<ClientKey>,
}

impl Seat {
    /// That of all clients of a domain.
    pub(crate) const fn shared(domain: DomainId) -> Self {
        Self { domain, client: None }
    }
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) description: Description,
    /// The description as clients get it.
    pub(crate) encoded: Vec<u8>,
    /// The instance that serves a seat, from its start to its end.
    pub(crate) instances: BTreeMap<Seat, InstanceId>,
    pub(crate) health: BTreeMap<Seat, Health>,
}

impl Device {
    pub(crate) fn new(id: DeviceId, description: Description) -> Self {
        let encoded = description.encode();
        Self { id, description, encoded, instances: BTreeMap::new(), health: BTreeMap::new() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.description.name
    }
}

/// How often a device was lost for one seat, and until when it is left alone.
#[derive(Debug, Default)]
pub(crate) struct Health {
    losses: VecDeque<Time>,
    pause: Option<Time>,
    failed: Option<Time>,
    /// When the broker will start the device by itself.
    pub(crate) restart: Option<Time>,
}

/// Whether an instance may be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Now.
    Good,
    /// From that moment on.
    Pausing(Time),
    /// It was lost too often; not before that moment.
    Failed(Time),
}

impl Health {
    /// Notes a loss.
    pub(crate) fn lose(&mut self, now: Time, times: &Times, limit: usize) {
        self.losses.retain(|at| now.since(*at) < times.losses_ns);
        self.losses.push_back(now);
        if self.losses.len() >= limit {
            self.losses.clear();
            self.failed = Some(now.after(times.failed_ns));
        } else {
            let doublings = u32::try_from(self.losses.len().saturating_sub(1)).unwrap_or(u32::MAX);
            let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
            let pause = times.pause_first_ns.saturating_mul(factor).min(times.pause_most_ns);
            self.pause = Some(now.after(pause));
        }
    }

    pub(crate) fn outlook(&self, now: Time) -> Outlook {
        match (self.failed, self.pause) {
            (Some(until), _) if until > now => Outlook::Failed(until),
            (_, Some(until)) if until > now => Outlook::Pausing(until),
            (Some(_) | None, Some(_) | None) => Outlook::Good,
        }
    }

    /// Whether nothing in here matters any more.
    pub(crate) fn is_clean(&self, now: Time, times: &Times) -> bool {
        self.outlook(now) == Outlook::Good
            && self.restart.is_none()
            && self.losses.iter().all(|at| now.since(*at) >= times.losses_ns)
    }
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum InstanceState {
    /// Nobody was asked to start it yet.
    Pausing,
    /// The keeper is starting it.
    Starting,
    /// It runs and has not said Ready.
    Greeting,
    /// It takes work.
    Ready,
    /// It was told to end, by force.
    Ending,
    /// There is no such instance.
    Gone,
}

/// What can happen to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum InstanceEvent {
    Start,
    Started,
    NotStarted,
    Greeted,
    Kill,
    Exited,
}

impl InstanceState {
    /// The state after `event`, or `None` if that cannot happen now.
    pub(crate) fn after(self, event: InstanceEvent) -> Option<Self> {
        use InstanceEvent as E;
        use InstanceState as S;
        let next = match (self, event) {
            (S::Pausing, E::Start) => S::Starting,
            (S::Starting, E::Started) => S::Greeting,
            (S::Starting, E::NotStarted) => S::Gone,
            (S::Greeting, E::Greeted) => S::Ready,
            (S::Greeting | S::Ready, E::Kill) => S::Ending,
            (S::Starting | S::Greeting | S::Ready | S::Ending, E::Exited) => S::Gone,
            (
                S::Pausing | S::Starting | S::Greeting | S::Ready | S::Ending | S::Gone,
                E::Start | E::Started | E::NotStarted | E::Greeted | E::Kill | E::Exited,
            ) => return None,
        };
        Some(next)
    }
}

/// Why an instance was told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A job took too long.
    TimedOut { timeline: TimelineKey, point: Point, cause: CauseId },
    /// It broke the protocol.
    Broke(String),
    /// It did not answer in time.
    Silent,
    /// Nobody needs it.
    Idle,
    /// An entry has waited for its client's own memory for too long.
    Stalled { point: Point, address: u64, ms: u64 },
    /// An entry that runs does not end, and a ring's thread owes an answer.
    Stuck { timeline: TimelineKey, ms: u64 },
}

/// What an instance has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) jobs: u64,
    pub(crate) busy_ns: u64,
    pub(crate) bytes: u64,
    pub(crate) staged: u64,
}

/// A driver instance.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Place in the broker's list of devices.
    pub(crate) device: usize,
    pub(crate) domain: DomainId,
    /// The only client that it serves, and the charge for what it keeps of that client's memory.
    pub(crate) own: Option<(ClientKey, Charge)>,
    pub(crate) state: InstanceState,
    pub(crate) pid: u32,
    /// Its queues that are not removed.
    pub(crate) queues: Vec<TimelineKey>,
    pub(crate) in_flight: u32,
    /// What it was sent and has not ended, or will be sent.
    pub(crate) sent: Sent,
    /// What became of the jobs that its predecessor left, until it takes them over.
    pub(crate) estate: Option<Estate>,
    /// Pairs in which it signals.
    pub(crate) signals: Vec<PairId>,
    /// Pairs that it observes, those of dead signallers not counted.
    pub(crate) observes: Vec<PairId>,
    /// Observed pairs whose signaller is dead, until nothing waits in them.
    pub(crate) dead_pages: Vec<PairId>,
    pub(crate) signal_numbers: Numbers,
    pub(crate) observe_numbers: Numbers,
    /// Objects that were sent to it.
    pub(crate) mapped: BTreeSet<ObjectKey>,
    /// Answers it owes at once: Unmapped, and TimelineClosed of queues without jobs.
    pub(crate) owes: u32,
    /// When it must have greeted, or answered.
    pub(crate) answer_by: Option<Time>,
    /// When it ends for want of use.
    pub(crate) idle_at: Option<Time>,
    /// When it is left, if its process has not ended by then.
    pub(crate) left_at: Option<Time>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) tally: Tally,
}

impl Instance {
    pub(crate) fn new(device: usize, domain: DomainId, own: Option<(ClientKey, Charge)>) -> Self {
        Self {
            device,
            domain,
            own,
            state: InstanceState::Pausing,
            pid: 0,
            queues: Vec::new(),
            in_flight: 0,
            sent: Sent::default(),
            estate: None,
            signals: Vec::new(),
            observes: Vec::new(),
            dead_pages: Vec::new(),
            signal_numbers: Numbers::default(),
            observe_numbers: Numbers::default(),
            mapped: BTreeSet::new(),
            owes: 0,
            answer_by: None,
            idle_at: None,
            left_at: None,
            verdict: None,
            tally: Tally::default(),
        }
    }

    /// Whom it serves.
    pub(crate) fn seat(&self) -> Seat {
        Seat { domain: self.domain, client: self.own.as_ref().map(|(client, _)| *client) }
    }

    /// Whether the queues it has go on, with it or with its heir.
    pub(crate) fn goes_on(&self) -> bool {
        match self.state {
            InstanceState::Ready => true,
            InstanceState::Pausing | InstanceState::Starting | InstanceState::Greeting => {
                self.estate.is_some()
            }
            InstanceState::Ending => matches!(self.verdict, Some(Verdict::TimedOut { .. })),
            InstanceState::Gone => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_states_of_an_instance_are_these() {
        use InstanceEvent as E;
        use InstanceState as S;
        let mut table = String::new();
        for state in [S::Pausing, S::Starting, S::Greeting, S::Ready, S::Ending, S::Gone] {
            for event in [E::Start, E::Started, E::NotStarted, E::Greeted, E::Kill, E::Exited] {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{state:?} --{event:?}--> {next:?}\n"));
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Pausing --Start--> Starting
        Starting --Started--> Greeting
        Starting --NotStarted--> Gone
        Starting --Exited--> Gone
        Greeting --Greeted--> Ready
        Greeting --Kill--> Ending
        Greeting --Exited--> Gone
        Ready --Kill--> Ending
        Ready --Exited--> Gone
        Ending --Exited--> Gone
        ");
    }

    #[test]
    fn pauses_double_until_the_device_counts_as_failed() {
        let (mut health, times) = (Health::default(), Times::default());
        let mut at = Time(0);
        let mut seen = Vec::new();
        for _ in 0..3 {
            health.lose(at, &times, 3);
            seen.push(health.outlook(at));
            at = at.after(1000 * MS);
        }
        let expected = [
            Outlook::Pausing(Time(100 * MS)),
            Outlook::Pausing(Time(1200 * MS)),
            Outlook::Failed(Time(62_000 * MS)),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn losses_far_apart_never_make_a_device_fail() {
        let (mut health, times) = (Health::default(), Times::default());
        for n in 0..10 {
            let at = Time(n * 61_000 * MS);
            health.lose(at, &times, 3);
            assert_eq!(health.outlook(at), Outlook::Pausing(at.after(100 * MS)));
        }
    }

    #[test]
    fn a_pause_has_a_longest() {
        let (mut health, times) = (Health::default(), Times::default());
        for _ in 0..40 {
            health.lose(Time(0), &times, 100);
        }
        assert_eq!(health.outlook(Time(0)), Outlook::Pausing(Time(times.pause_most_ns)));
    }
}
