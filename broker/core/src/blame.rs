//! Who is to blame, and who may know: what core puts into causes, and to whom it passes them on.
//!
//! A cause says whose job or promise it was, at which point, on which device, and what the job was to write; that is
//! looked up here. And whenever a failure is shown to another domain, its cause is passed on to it
//! ([`crate::causes`]), on one of these ways:
//!
//! | what is shown | when |
//! |---|---|
//! | the failure of a point, in a page of that domain | when it is known, and when the page begins to show it |
//! | poison of a shared object | when it is observed, and when a job inherits it |
//! | a wait that has failed already | when the job is accepted |
//! | the state of a point | when it is asked for |
//!
//! A page shows a failure before the broker hears of it. Whoever asks for a cause that his domain has not been told,
//! but is about to be shown, is told at once ([`Broker::is_about_to_see`]): jobs that have inherited it, in
//! timelines that the domain sees, have not been told yet.

use std::collections::BTreeSet;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point, TimelineKey};
use vgem_proto::message::client::{Explained, Submit};
use vgem_proto::message::driver::Run;
use vgem_proto::rights::{Access, WaitKind};

use crate::awaiting::order_of;
use crate::batch::take;
use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::io::{LinkId, Scope};
use crate::objects::Awaiting;
use crate::pairs::Party;
use crate::policy;
use crate::queues::Queue;
use crate::requests::Outcome;

/// Points that are looked at for one question, at most.
const LOOKS: usize = 1024;

// What a cause says.
impl Broker {
    /// Whose an unfinished job is, and what it is to write.
    pub(crate) fn about_job(&self, timeline: TimelineKey, point: Point) -> (u64, String) {
        let Some(queue) = self.queues.get(timeline) else { return (0, String::new()) };
        let object = queue.first_output(point).map(|key| self.name_of(key)).unwrap_or_default();
        (client_number(queue.client), object)
    }

    /// What the job of a batch was to write, as far as the client's words can be understood.
    pub(crate) fn about_submitted(&self, client: ClientKey, submit: &Submit, job: usize) -> String {
        let mut operands = submit.operands.as_slice();
        let before: usize = submit.jobs.iter().take(job).map(|job| usize::from(job.operands)).sum();
        take(&mut operands, before);
        let count = submit.jobs.get(job).map_or(0, |job| job.operands);
        let first = take(&mut operands, count).iter().find(|operand| operand.access == Access::Write);
        let held = first.and_then(|first| self.clients.get(client)?.objects.get(first.object.0));
        held.map(|held| self.name_of(held.object)).unwrap_or_default()
    }

    fn name_of(&self, key: ObjectKey) -> String {
        match self.objects.get(key) {
            Some(object) if !object.name.is_empty() => object.name.to_string(),
            Some(_) | None => key.to_string(),
        }
    }
}

impl Queue {
    /// The object that an unfinished job writes first.
    fn first_output(&self, point: Point) -> Option<ObjectKey> {
        let place = usize::try_from(point.0.checked_sub(self.ended.0)?.checked_sub(1)?).ok()?;
        let own = self.jobs.get(place)?.uses;
        let before: usize = self.jobs.iter().take(place).map(|job| usize::from(job.uses)).sum();
        let mut uses = self.uses.iter().skip(before).take(usize::from(own));
        uses.find(|used| used.touching.writes()).map(|used| used.object)
    }
}

// Who may know.
impl Broker {
    /// The domain that a party is of.
    pub(crate) fn domain_of(&self, party: Party) -> Option<DomainId> {
        match party {
            Party::Client(client) => self.clients.get(client).map(|client| client.peer.domain),
            Party::Instance(instance) => self.instances.get(&instance).map(|instance| instance.domain),
        }
    }

    /// The domain that signals a timeline.
    pub(crate) fn owner_of(&self, timeline: TimelineKey) -> Option<DomainId> {
        let of_queue = self.queues.get(timeline).map(|queue| queue.domain);
        of_queue.or_else(|| self.promises.get(timeline).map(|promises| promises.domain))
    }

    /// A point of a timeline has failed, or is going to, where it is shown.
    pub(crate) fn failure_shown(&mut self, timeline: TimelineKey, cause: CauseId) {
        let Some(owner) = self.owner_of(timeline) else { return };
        let Some(places) = self.shown_places(timeline) else { return };
        let domains: BTreeSet<DomainId> =
            places.iter().filter_map(|shown| self.domain_of(shown.observer)).collect();
        for domain in domains {
            self.causes.pass_on(owner, domain, cause);
        }
    }

    /// A timeline begins to be shown to somebody, with the failures that its pages have.
    pub(crate) fn failures_shown_to(&mut self, timeline: TimelineKey, observer: Party) {
        let (owner, to) = (self.owner_of(timeline), self.domain_of(observer));
        let Some((owner, to)) = owner.zip(to).filter(|(owner, to)| owner != to) else { return };
        if let Some(queue) = self.queues.get_mut(timeline) {
            queue.crosses = true;
            queue.failures.all().for_each(|(_, failure)| self.causes.pass_on(owner, to, failure.cause));
        }
        if let Some(promises) = self.promises.get(timeline) {
            let verdict = promises.verdict.map(|verdict| verdict.failure);
            let all = promises.failures.iter().map(|(_, failure)| *failure).chain(verdict);
            all.for_each(|failure| self.causes.pass_on(owner, to, failure.cause));
        }
    }

    /// A domain is told which ranges of an object are poisoned.
    pub(crate) fn poison_shown_to(&mut self, domain: DomainId, object: ObjectKey) {
        if let Some(object) = self.objects.get(object) {
            let all = object.reservation.poison().iter();
            all.for_each(|poison| self.causes.pass_on(poison.domain, domain, poison.failure.cause));
        }
    }

    /// A client is told how a point of a timeline failed.
    pub(crate) fn state_shown_to(&mut self, client: ClientKey, timeline: TimelineKey, cause: CauseId) {
        let to = self.clients.get(client).map(|client| client.peer.domain);
        if let Some((from, to)) = self.owner_of(timeline).zip(to) {
            self.causes.pass_on(from, to, cause);
        }
    }

    /// Whether what an instance tells is for a client to hear: the instance is of its own domain, or it sees what is others'.
    #[must_use]
    pub fn hears(&self, link: LinkId, instance: InstanceId) -> bool {
        let client = self.clients.key_of(link).and_then(|key| self.clients.get(key));
        client.map(|client| policy::scope(client.subject())).is_some_and(|scope| match scope {
            Scope::All => true,
            Scope::Domain(own) => self.instance_domain(instance) == Some(own),
        })
    }

    /// A client asks what is behind a cause.
    pub(crate) fn explain(&mut self, asker: Awaiting, id: CauseId) -> Outcome {
        let subject = self.find_client(asker.client)?.subject();
        let scope = policy::scope(subject);
        if self.causes.explain(scope, id).is_none()
            && let Some(from) = self.is_about_to_see(asker.client, subject.domain, id)
        {
            self.causes.pass_on(from, subject.domain, id);
        }
        let Some(cause) = self.causes.explain(scope, id) else {
            return Err(Refusal::new(ErrorCode::Gone, "no such cause, or it is too old"));
        };
        let Cause { at, timeline, point, client, pid, code, device, object, text } = cause.clone();
        let (device, object, text) = (device.into_bytes(), object.into_bytes(), text.into_bytes());
        let explained = Explained { cause: id, at, point, pid, code, timeline, client, device, text, object };
        self.reply(asker.link, asker.request, explained);
        Ok(())
    }

    /// Whether a client's domain is about to be shown a failure: an unfinished job in a timeline that it sees waits, over
    /// whatever others, for the point that failed first, or for one that is known to have failed for it. Gives
    /// the domain that knows the cause.
    fn is_about_to_see(&self, client: ClientKey, domain: DomainId, id: CauseId) -> Option<DomainId> {
        let (home, cause) = self.causes.home_of(id)?;
        let of_client = self.clients.get(client).map(|client| client.pairs.as_slice()).unwrap_or_default();
        let own = self.instances.values().filter(|instance| instance.domain == domain);
        let pairs = of_client.iter().chain(own.flat_map(|instance| &instance.observes));
        let shown = pairs.flat_map(|pair| self.pairs.shown_in(*pair)).map(|(_, timeline)| timeline);
        let mut open: Vec<TimelineKey> = shown.filter(|key| self.owner_of(*key) != Some(domain)).collect();
        let (mut seen, mut looks) = (BTreeSet::new(), LOOKS);
        while let Some(timeline) = open.pop() {
            let Some(queue) = self.queues.get(timeline).filter(|_| seen.insert(order_of(timeline))) else {
                continue;
            };
            let kept = self.instances.get(&queue.instance).map(|instance| instance.sent.runs());
            for (awaited, point) in kept.into_iter().flatten().flat_map(|run| data_waits_of(run, timeline)) {
                looks = looks.checked_sub(1)?;
                let failure = self.queues.get(awaited).and_then(|queue| queue.failures.of(point));
                let is_origin = (awaited, point) == (cause.timeline, cause.point);
                if is_origin || failure.is_some_and(|failure| failure.cause == id) {
                    return Some(home);
                }
                open.push(awaited);
            }
        }
        None
    }
}

/// The points whose failure the jobs of a queue in a run inherit.
fn data_waits_of(run: &Run, timeline: TimelineKey) -> impl Iterator<Item = (TimelineKey, Point)> {
    let mut waits = run.waits.as_slice();
    let own = run.jobs.iter().map(move |job| (job.queue, take(&mut waits, job.waits)));
    let own = own.filter(move |(queue, _)| *queue == timeline).flat_map(|(_, waits)| waits);
    own.filter(|wait| wait.kind == WaitKind::Data).map(|wait| (wait.timeline, wait.point))
}
