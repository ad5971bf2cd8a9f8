//! Causes: where errors began, remembered for whoever holds a fence and asks.
//!
//! A driver tells its cause before it signals the failed point; the broker issues its own for what it decides
//! itself (refusals, time-outs, deaths). Each domain has a bounded memory of its own, the oldest goes first, so
//! nobody can make another's causes be forgotten. Only the domain that a cause belongs to may ask about it, and whoever
//! sees all domains; when nobody and nothing is left of the domain, its memory goes too.

use std::collections::{BTreeMap, VecDeque};

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, DomainId, InstanceId, Point, Time};

use crate::io::Scope;

/// The broker as an issuer of causes.
pub(crate) const BROKER: InstanceId = InstanceId(1);

/// Where an error began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) at: Time,
    /// The job's point, 0 if none.
    pub(crate) point: Point,
    /// The process at fault, 0 if unknown.
    pub(crate) pid: u32,
    pub(crate) code: ErrorCode,
    /// The device's name, empty if none.
    pub(crate) device: String,
    /// In words, harmless.
    pub(crate) text: String,
}

/// Causes of all domains.
#[derive(Debug)]
pub(crate) struct Causes {
    domains: BTreeMap<DomainId, Memory>,
    per_domain: usize,
    counter: u32,
}

#[derive(Debug, Default)]
struct Memory {
    known: BTreeMap<CauseId, Cause>,
    order: VecDeque<CauseId>,
}

impl Causes {
    pub(crate) fn new(per_domain: usize) -> Self {
        Self { domains: BTreeMap::new(), per_domain: per_domain.max(1), counter: 0 }
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
        let memory = self.domains.entry(domain).or_default();
        if memory.known.contains_key(&id) {
            return;
        }
        if memory.order.len() >= self.per_domain
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.known.remove(&oldest);
        }
        memory.order.push_back(id);
        memory.known.insert(id, cause);
    }

    /// Forgets domains of which nothing is left.
    pub(crate) fn keep_only(&mut self, lives: impl Fn(DomainId) -> bool) {
        self.domains.retain(|domain, _| lives(*domain));
    }

    /// Domains that have causes.
    pub(crate) fn domains(&self) -> usize {
        self.domains.len()
    }

    /// What is behind a cause, for a reader who may see this much.
    pub(crate) fn explain(&self, scope: Scope, id: CauseId) -> Option<&Cause> {
        match scope {
            Scope::Domain(domain) => self.domains.get(&domain)?.known.get(&id),
            Scope::All => self.domains.values().find_map(|memory| memory.known.get(&id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> Cause {
        let (at, point, code) = (Time(1), Point(2), ErrorCode::Io);
        Cause { at, point, pid: 3, code, device: "blk".into(), text: text.into() }
    }

    #[test]
    fn the_oldest_cause_is_forgotten_first_and_only_in_its_own_domain() {
        let mut causes = Causes::new(2);
        let other = causes.issue(DomainId(9), cause("other"));
        let ids = ["a", "b", "c"].map(|text| causes.issue(DomainId(1), cause(text)));
        let known = ids.map(|id| causes.explain(Scope::Domain(DomainId(1)), id).is_some());
        let others = causes.explain(Scope::Domain(DomainId(9)), other).is_some();
        assert_eq!((known, others), ([false, true, true], true));
    }

    #[test]
    fn another_domain_learns_nothing_and_whoever_sees_all_learns_it() {
        let mut causes = Causes::new(2);
        let id = causes.issue(DomainId(1), cause("mine"));
        assert_eq!(causes.explain(Scope::Domain(DomainId(2)), id), None);
        assert!(causes.explain(Scope::All, id).is_some());
    }

    #[test]
    fn a_cause_told_twice_stays_what_it_was() {
        let mut causes = Causes::new(2);
        let id = CauseId::new(InstanceId(5), 1);
        causes.remember(DomainId(1), id, cause("first"));
        causes.remember(DomainId(1), id, cause("second"));
        assert_eq!(causes.explain(Scope::All, id).map(|c| c.text.as_str()), Some("first"));
    }
}
