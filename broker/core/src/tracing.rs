//! What jobs did, for clients that trace.
//!
//! ```text
//!   job ends ──► does anybody trace its domain? ──no──► nothing
//!                        │ yes
//!                        ▼
//!                one record: submitted, ready, started, ended, what it waited for
//!                        │ at the end of the step, or when a message is full
//!                        ▼
//!                Effect::Traced, one per domain and step
//! ```
//!
//! A job is told of once, when it has ended: all its times are known then, and each is of the one who knew it. While nobody
//! traces, a job that ends costs one look at a flag that does not change.
//!
//! Invariants: `everybody` and `domains` count the clients whose `traces` says so; nothing is pending between steps.

use std::collections::BTreeMap;

use vgem_proto::error::Failure;
use vgem_proto::ids::{CauseId, DeviceId, DomainId, Time, TimelineKey};
use vgem_proto::jobs::{Completion, TracedJob, TracedWait};
use vgem_proto::limits;
use vgem_proto::message::client::{Done, Trace, Traced};

use crate::accounts::Resource;
use crate::broker::{Broker, client_number};
use crate::devices::Instance;
use crate::io::{Effect, Scope};
use crate::objects::Awaiting;
use crate::policy::{self, Action};
use crate::queues::Queue;
use crate::requests::Outcome;

/// Who traces, and what is to be told.
#[derive(Debug, Default)]
pub(crate) struct Tracing {
    /// Whether anybody does.
    is_on: bool,
    /// Clients that trace everybody.
    everybody: usize,
    /// Clients that trace their own domain.
    domains: BTreeMap<DomainId, usize>,
    pending: Vec<(DomainId, Traced)>,
}

/// How a job ended, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    started: Time,
    ended: Time,
    bytes: u64,
    staged: u64,
    failure: Option<Failure>,
}

impl End {
    /// As its driver says.
    pub(crate) fn told(completion: &Completion, failure: Option<Failure>) -> Self {
        let Completion { started, ended, bytes, staged, .. } = *completion;
        Self { started, ended, bytes, staged, failure }
    }

    /// Its driver is gone and did not say.
    pub(crate) fn settled(at: Time, failure: Option<Failure>) -> Self {
        Self { started: Time(0), ended: at, bytes: 0, staged: 0, failure }
    }
}

impl Tracing {
    /// A client traces from now on.
    fn begin(&mut self, scope: Scope) {
        self.is_on = true;
        match scope {
            Scope::All => self.everybody += 1,
            Scope::Domain(domain) => *self.domains.entry(domain).or_default() += 1,
        }
    }

    /// A client that traced is gone.
    pub(crate) fn end(&mut self, scope: Scope) {
        match scope {
            Scope::All => self.everybody = self.everybody.saturating_sub(1),
            Scope::Domain(domain) => {
                if let Some(count) = self.domains.get_mut(&domain) {
                    *count = count.saturating_sub(1);
                }
                self.domains.retain(|_, count| *count > 0);
            }
        }
        self.is_on = self.everybody > 0 || !self.domains.is_empty();
    }

    /// Whether somebody wants to know of the jobs of a domain.
    #[inline]
    pub(crate) fn wants(&self, domain: DomainId) -> bool {
        self.is_on && self.wants_of(domain)
    }

    #[cold]
    fn wants_of(&self, domain: DomainId) -> bool {
        self.everybody > 0 || self.domains.contains_key(&domain)
    }

    /// Notes the job at the head of a queue, which ends now.
    #[cold]
    pub(crate) fn note(
        &mut self,
        (key, queue): (TimelineKey, &Queue),
        instance: Option<&Instance>,
        device: DeviceId,
        end: End,
    ) {
        let Some(job) = queue.jobs.front() else { return };
        let point = queue.ended.next();
        let count = usize::from(job.waits).min(limits::TRACED_WAITS);
        let runs = instance.and_then(|instance| instance.sent.get(job.run));
        let sent = runs.and_then(|run| run.jobs.iter().find(|sent| (sent.queue, sent.point) == (key, point)));
        // What a driver says of its times is its word: it is held to be no later than the end.
        let ended = end.ended.max(job.submitted);
        let noted = TracedJob {
            timeline: key,
            point,
            submitted: job.submitted,
            ready: job.ready,
            started: end.started.min(ended),
            ended,
            bytes: end.bytes,
            staged: end.staged,
            client: client_number(queue.client),
            device,
            instance: queue.instance,
            cause: end.failure.map_or(CauseId::NONE, |failure| failure.cause),
            code: end.failure.map_or(0, |failure| failure.code.number()),
            op: sent.map_or(0, |sent| sent.op),
            waits: u16::try_from(count).unwrap_or(u16::MAX),
        };
        let waits = queue.waits.iter().take(count);
        let waits = waits.map(|(timeline, point)| TracedWait { timeline: *timeline, point: *point });
        let traced = self.room(queue.domain, count);
        traced.jobs.push(noted);
        traced.waits.extend(waits);
    }

    /// A message that has room for one more job with so many waits.
    fn room(&mut self, domain: DomainId, waits: usize) -> &mut Traced {
        let has_room = |(of, traced): &(DomainId, Traced)| {
            *of == domain
                && traced.jobs.len() < limits::TRACED_JOBS
                && traced.waits.len() + waits <= limits::TRACED_WAITS
        };
        let last = self.pending.pop_if(|last| has_room(last));
        let last = last.unwrap_or_else(|| (domain, Traced { lost: 0, jobs: Vec::new(), waits: Vec::new() }));
        &mut self.pending.push_mut(last).1
    }
}

impl Broker {
    /// A client wants to know of every job that ends.
    pub(crate) fn trace(&mut self, asker: Awaiting, Trace {}: &Trace) -> Outcome {
        let client = self.find_client(asker.client)?;
        let subject = client.subject();
        let grant = policy::authorise(subject, Action::Monitor)?;
        let (counts, traces) = (client.monitors.amount() > 0, client.traces);
        if !counts {
            let charge = self.accounts.charge(grant.domain(), Resource::Monitors, 1)?;
            if let Some(client) = self.clients.get_mut(asker.client) {
                client.monitors.join(charge);
            }
        }
        let scope = policy::scope(subject);
        if traces.is_none() {
            self.tracing.begin(scope);
            if let Some(client) = self.clients.get_mut(asker.client) {
                client.traces = Some(scope);
            }
        }
        self.reply(asker.link, asker.request, Done {});
        self.out.push(Effect::Trace { link: asker.link, scope });
        Ok(())
    }

    /// Tells of the jobs that ended in this step.
    #[inline]
    pub(crate) fn tell_traced(&mut self) {
        if !self.tracing.pending.is_empty() {
            self.tell_pending();
        }
    }

    #[cold]
    fn tell_pending(&mut self) {
        for (domain, traced) in std::mem::take(&mut self.tracing.pending) {
            let is_of_another = |wait: &TracedWait| self.domain_of_timeline(wait.timeline) != Some(domain);
            let waits = (0..).zip(&traced.waits);
            let abroad = waits.filter(|(_, wait)| is_of_another(wait)).map(|(place, _)| place).collect();
            self.out.push(Effect::Traced { domain, traced, abroad });
        }
    }

    /// The domain of a timeline; none if it is gone.
    fn domain_of_timeline(&self, key: TimelineKey) -> Option<DomainId> {
        let promises = || self.promises.get(key).map(|promises| promises.domain);
        self.queues.get(key).map(|queue| queue.domain).or_else(promises)
    }
}
