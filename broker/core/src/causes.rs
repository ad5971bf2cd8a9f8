//! Causes: where errors began, remembered for whoever holds a fence and asks.
//!
//! A driver tells its cause before it signals the failed point; the broker issues its own for what it decides
//! itself (refusals, time-outs, deaths). Each domain has a bounded memory of its own, the oldest goes first, so
//! nobody can make another's causes be forgotten. When nobody and nothing is left of a domain, its memory goes too.
//!
//! A failure may be shown to another domain, in a page, as poison of a shared object, or as what a job of that domain
//! inherits. Then its cause is *passed on*: the other domain can have it explained, but learns only when, on which
//! device and with which code something failed, not who did it, nor the words in which that was said. What is passed on
//! is what the domain that shows the failure knows itself, so nobody learns anything by naming a number that he has
//! guessed: neither a client that asks, nor a driver that says its job failed with it. Passed on causes have a memory
//! apart, bounded for each domain that they come from.
//!
//! Words may come in another order: who shows a failure may not have been heard yet. So a domain remembers, boundedly,
//! what it still awaits from which other, and gets it when that other learns it.

use std::collections::{BTreeMap, VecDeque};

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DomainId, InstanceId, Point, Time, TimelineKey};

use crate::io::Scope;

/// The broker as an issuer of causes.
pub(crate) const BROKER: InstanceId = InstanceId(1);

/// Where an error began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) at: Time,
    /// The timeline of the point that failed, 0 if none.
    pub(crate) timeline: TimelineKey,
    /// The point, 0 if none.
    pub(crate) point: Point,
    /// The number of the client whose job or promise it was, 0 if none.
    pub(crate) client: u64,
    /// The process at fault, 0 if unknown.
    pub(crate) pid: u32,
    pub(crate) code: ErrorCode,
    /// The device's name, empty if none.
    pub(crate) device: String,
    /// What the job was to write, by name or key, empty if nothing.
    pub(crate) object: String,
    /// In words, harmless.
    pub(crate) text: String,
}

impl Cause {
    /// Something that happened to nobody in particular.
    pub(crate) fn new(at: Time, code: ErrorCode, text: String) -> Self {
        let (timeline, point, device, object) =
            (TimelineKey::default(), Point(0), String::new(), String::new());
        Self { at, timeline, point, client: 0, pid: 0, code, device, object, text }
    }

    /// To this point.
    pub(crate) fn to(self, timeline: TimelineKey, point: Point) -> Self {
        Self { timeline, point, ..self }
    }

    /// Whose job or promise it was, and the process at fault.
    pub(crate) fn by(self, client: u64, pid: u32) -> Self {
        Self { client, pid, ..self }
    }

    /// On this device.
    pub(crate) fn on(self, device: impl Into<String>) -> Self {
        Self { device: device.into(), ..self }
    }

    /// The job was to write this.
    pub(crate) fn writing(self, object: String) -> Self {
        Self { object, ..self }
    }

    /// What another domain may know of it.
    fn redacted(&self) -> Self {
        let name = self.code.name();
        let text = if self.device.is_empty() {
            format!("something that another domain was to do failed: {name}")
        } else {
            format!("a job of another domain on device {} failed: {name}", self.device)
        };
        Self::new(self.at, self.code, text).on(self.device.as_str())
    }
}

/// Causes of all domains.
#[derive(Debug)]
pub(crate) struct Causes {
    domains: BTreeMap<DomainId, Memory>,
    per_domain: usize,
    counter: u32,
    /// Who awaits a cause from a domain: the same that their memories say.
    awaited: BTreeMap<(DomainId, CauseId), Vec<DomainId>>,
}

/// What one domain can have explained.
#[derive(Debug, Default)]
struct Memory {
    own: Ring,
    /// Those of others, by the domain that showed them.
    foreign: BTreeMap<DomainId, Ring>,
    /// The order in which the others came.
    others: VecDeque<DomainId>,
    /// What others have shown and not explained yet.
    awaited: VecDeque<(DomainId, CauseId)>,
}

/// A bounded number of causes; the oldest goes first.
#[derive(Debug, Default)]
struct Ring {
    known: BTreeMap<CauseId, Cause>,
    order: VecDeque<CauseId>,
}

impl Ring {
    /// Takes a cause in. One that is known already stays as it was.
    fn add(&mut self, id: CauseId, cause: Cause, most: usize) {
        if self.known.contains_key(&id) {
            return;
        }
        if self.order.len() >= most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
        self.known.insert(id, cause);
    }
}

/// Other domains whose causes one domain remembers.
const OTHERS: usize = 16;
/// Causes remembered of each of them, and causes awaited of all.
const OF_OTHERS: usize = 64;

impl Memory {
    fn get(&self, id: CauseId) -> Option<&Cause> {
        let foreign = || self.foreign.values().find_map(|ring| ring.known.get(&id));
        self.own.known.get(&id).or_else(foreign)
    }

    /// Takes in what another domain has shown.
    fn learn(&mut self, from: DomainId, id: CauseId, cause: Cause) {
        if !self.foreign.contains_key(&from) {
            if self.others.len() >= OTHERS
                && let Some(first) = self.others.pop_front()
            {
                self.foreign.remove(&first);
            }
            self.others.push_back(from);
        }
        self.foreign.entry(from).or_default().add(id, cause, OF_OTHERS);
    }
}

impl Causes {
    pub(crate) fn new(per_domain: usize) -> Self {
        Self { domains: BTreeMap::new(), per_domain: per_domain.max(1), counter: 0, awaited: BTreeMap::new() }
    }

    /// Issues a cause of the broker's own.
    pub(crate) fn issue(&mut self, domain: DomainId, cause: Cause) -> CauseId {
        self.counter = self.counter.checked_add(1).unwrap_or(1);
        let id = CauseId::new(BROKER, self.counter);
        self.remember(domain, id, cause);
        id
    }

    /// Remembers a cause. One that is known already stays as it was.
    pub(crate) fn remember(&mut self, domain: DomainId, id: CauseId, cause: Cause) {
        self.domains.entry(domain).or_default().own.add(id, cause, self.per_domain);
        self.tell_awaited(domain, id);
    }

    /// A domain has been shown a failure by another: it may know of its cause what others may.
    pub(crate) fn pass_on(&mut self, from: DomainId, to: DomainId, id: CauseId) {
        if from == to || id == CauseId::NONE || self.domains.get(&to).is_some_and(|m| m.get(id).is_some()) {
            return;
        }
        let known = self.domains.get(&from).and_then(|memory| memory.get(id)).map(Cause::redacted);
        let memory = self.domains.entry(to).or_default();
        match known {
            Some(cause) => {
                memory.learn(from, id, cause);
                self.tell_awaited(to, id);
            }
            None if memory.awaited.contains(&(from, id)) => {}
            None => {
                let is_full = memory.awaited.len() >= OF_OTHERS;
                let oldest = if is_full { memory.awaited.pop_front() } else { None };
                memory.awaited.push_back((from, id));
                self.awaited.entry((from, id)).or_default().push(to);
                if let Some(oldest) = oldest {
                    self.await_no_more(oldest, |domain| domain == to);
                }
            }
        }
    }

    /// A domain knows a cause now: those who await it from there get it.
    fn tell_awaited(&mut self, from: DomainId, id: CauseId) {
        for domain in self.awaited.remove(&(from, id)).unwrap_or_default() {
            if let Some(memory) = self.domains.get_mut(&domain) {
                memory.awaited.retain(|awaited| *awaited != (from, id));
            }
            self.pass_on(from, domain, id);
        }
    }

    /// Some domains do not await a cause any more.
    fn await_no_more(&mut self, awaited: (DomainId, CauseId), who: impl Fn(DomainId) -> bool) {
        if let Some(waiting) = self.awaited.get_mut(&awaited) {
            waiting.retain(|domain| !who(*domain));
            if waiting.is_empty() {
                self.awaited.remove(&awaited);
            }
        }
    }

    /// Forgets domains of which nothing is left.
    pub(crate) fn keep_only(&mut self, lives: impl Fn(DomainId) -> bool) {
        let gone = self.domains.extract_if(.., |domain, _| !lives(*domain));
        let awaited: Vec<_> = gone.flat_map(|(_, memory)| memory.awaited).collect();
        for awaited in awaited {
            self.await_no_more(awaited, |domain| !lives(domain));
        }
    }

    /// Domains that have causes.
    pub(crate) fn domains(&self) -> usize {
        self.domains.len()
    }

    /// What is behind a cause, for a reader who may see this much.
    pub(crate) fn explain(&self, scope: Scope, id: CauseId) -> Option<&Cause> {
        match scope {
            Scope::Domain(domain) => self.domains.get(&domain)?.get(id),
            Scope::All => {
                let own = self.domains.values().find_map(|memory| memory.own.known.get(&id));
                own.or_else(|| self.domains.values().find_map(|memory| memory.get(id)))
            }
        }
    }

    /// The domain that knows a cause as its own.
    pub(crate) fn home_of(&self, id: CauseId) -> Option<(DomainId, &Cause)> {
        let mut all = self.domains.iter();
        all.find_map(|(domain, memory)| memory.own.known.get(&id).map(|cause| (*domain, cause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DomainId = DomainId(1);
    const B: DomainId = DomainId(2);
    const C: DomainId = DomainId(3);

    fn cause(text: &str) -> Cause {
        let timeline = TimelineKey { index: 1, generation: 2 };
        let cause = Cause::new(Time(1), ErrorCode::Io, text.into()).to(timeline, Point(2));
        cause.by(4, 3).on("blk").writing("frame".into())
    }

    fn told(causes: &Causes, domain: DomainId, id: CauseId) -> Option<&Cause> {
        causes.explain(Scope::Domain(domain), id)
    }

    #[test]
    fn the_oldest_cause_is_forgotten_first_and_only_in_its_own_domain() {
        let mut causes = Causes::new(2);
        let other = causes.issue(B, cause("other"));
        let ids = ["a", "b", "c"].map(|text| causes.issue(A, cause(text)));
        let known = ids.map(|id| told(&causes, A, id).is_some());
        assert_eq!((known, told(&causes, B, other).is_some()), ([false, true, true], true));
    }

    #[test]
    fn another_domain_learns_nothing_and_whoever_sees_all_learns_it() {
        let mut causes = Causes::new(2);
        let id = causes.issue(A, cause("mine"));
        assert_eq!(told(&causes, B, id), None);
        assert!(causes.explain(Scope::All, id).is_some());
    }

    #[test]
    fn a_cause_told_twice_stays_what_it_was() {
        let mut causes = Causes::new(2);
        let id = CauseId::new(InstanceId(5), 1);
        causes.remember(A, id, cause("first"));
        causes.remember(A, id, cause("second"));
        assert_eq!(causes.explain(Scope::All, id).map(|c| c.text.as_str()), Some("first"));
    }

    #[test]
    fn f10_what_is_passed_on_says_when_where_and_how_and_nothing_else() {
        let mut causes = Causes::new(2);
        let id = causes.issue(A, cause("secret"));
        causes.pass_on(A, B, id);
        let text = "a job of another domain on device blk failed: Io".to_owned();
        assert_eq!(told(&causes, B, id), Some(&Cause::new(Time(1), ErrorCode::Io, text).on("blk")));
        assert_eq!(causes.explain(Scope::All, id).map(|c| c.pid), Some(3), "whoever sees all sees the whole");
    }

    #[test]
    fn f10_a_cause_is_passed_on_along_a_chain_of_domains_whoever_is_heard_first() {
        let mut causes = Causes::new(2);
        let id = CauseId::new(InstanceId(5), 1);
        causes.pass_on(B, C, id);
        causes.pass_on(A, B, id);
        causes.remember(A, id, cause("late"));
        assert_eq!((told(&causes, B, id).is_some(), told(&causes, C, id).is_some()), (true, true));
        assert!(causes.awaited.is_empty());
    }

    #[test]
    fn f10_nobody_passes_on_what_he_does_not_know() {
        let mut causes = Causes::new(2);
        let id = causes.issue(A, cause("not B's"));
        causes.pass_on(B, C, id);
        causes.pass_on(C, B, id);
        assert_eq!((told(&causes, B, id), told(&causes, C, id)), (None, None));
    }

    #[test]
    fn f10_what_others_show_displaces_nothing_of_ones_own_and_nothing_of_third_parties() {
        let mut causes = Causes::new(4);
        let (own, third) = (causes.issue(B, cause("mine")), causes.issue(C, cause("theirs")));
        causes.pass_on(C, B, third);
        let flood: Vec<CauseId> = (0..200)
            .map(|_| {
                let id = causes.issue(A, cause("flood"));
                causes.pass_on(A, B, id);
                id
            })
            .collect();
        assert!([own, third].iter().all(|id| told(&causes, B, *id).is_some()));
        assert_eq!(flood.iter().filter(|id| told(&causes, B, **id).is_some()).count(), OF_OTHERS);
    }

    #[test]
    fn what_is_awaited_is_bounded() {
        let mut causes = Causes::new(4);
        for counter in 1..1000 {
            causes.pass_on(A, B, CauseId::new(InstanceId(5), counter));
        }
        assert_eq!(causes.awaited.len(), OF_OTHERS);
        causes.keep_only(|domain| domain != B);
        assert_eq!((causes.awaited.len(), causes.domains()), (0, 0));
    }
}
