//! Who owes what: a ledger per domain, and charges that must come back.
//!
//! A [`Charge`] is made by [`Accounts::charge`] only, cannot be copied, and is owned by the thing it pays for.
//! When the thing goes, its charge goes to [`Accounts::give_back`]; the sum of all charges that live equals the
//! ledger (`check_invariants` counts them). A domain that owes nothing has no account.

use std::collections::BTreeMap;

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Time};

use crate::config::Quotas;

/// What can be owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    Bytes,
    Objects,
    Handles,
    Queues,
    Jobs,
    Connections,
    Exports,
    Porters,
}

impl Resource {
    /// What a refusal calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes of objects",
            Self::Objects => "objects",
            Self::Handles => "handles",
            Self::Queues => "queues",
            Self::Jobs => "jobs in flight",
            Self::Connections => "connections",
            Self::Exports => "exports not yet received",
            Self::Porters => "porters, those that hang included",
        }
    }
}

/// What one domain owes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of objects.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Handles.
    pub handles: u64,
    /// Queues.
    pub queues: u64,
    /// Jobs in flight.
    pub jobs: u64,
    /// Connections.
    pub connections: u64,
    /// Fds sent and not yet received.
    pub exports: u64,
    /// Porters, those that were told to end and have not included.
    pub porters: u64,
}

impl Usage {
    pub(crate) fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Bytes => self.bytes,
            Resource::Objects => self.objects,
            Resource::Handles => self.handles,
            Resource::Queues => self.queues,
            Resource::Jobs => self.jobs,
            Resource::Connections => self.connections,
            Resource::Exports => self.exports,
            Resource::Porters => self.porters,
        }
    }

    pub(crate) fn of_mut(&mut self, resource: Resource) -> &mut u64 {
        match resource {
            Resource::Bytes => &mut self.bytes,
            Resource::Objects => &mut self.objects,
            Resource::Handles => &mut self.handles,
            Resource::Queues => &mut self.queues,
            Resource::Jobs => &mut self.jobs,
            Resource::Connections => &mut self.connections,
            Resource::Exports => &mut self.exports,
            Resource::Porters => &mut self.porters,
        }
    }
}

fn limit_of(quotas: &Quotas, resource: Resource) -> u64 {
    match resource {
        Resource::Bytes => quotas.bytes,
        Resource::Objects => quotas.objects,
        Resource::Handles => quotas.handles,
        Resource::Queues => quotas.queues,
        Resource::Jobs => quotas.jobs,
        Resource::Connections => quotas.connections,
        Resource::Exports => quotas.exports,
        Resource::Porters => quotas.porters,
    }
}

/// What a domain owes for something that lives. Give it back when the thing goes.
#[derive(Debug)]
#[must_use = "a charge that is dropped is owed for ever"]
pub(crate) struct Charge {
    domain: DomainId,
    resource: Resource,
    amount: u64,
}

impl Charge {
    /// A charge of nothing, to be joined with others.
    pub(crate) fn nothing(domain: DomainId, resource: Resource) -> Self {
        Self { domain, resource, amount: 0 }
    }

    pub(crate) fn domain(&self) -> DomainId {
        self.domain
    }

    pub(crate) fn resource(&self) -> Resource {
        self.resource
    }

    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// Makes one charge of two for the same thing.
    pub(crate) fn join(&mut self, other: Self) {
        debug_assert_eq!((self.domain, self.resource), (other.domain, other.resource));
        self.amount += other.amount;
    }

    /// Takes `amount` off, as a charge of its own; at most what there is.
    pub(crate) fn split(&mut self, amount: u64) -> Self {
        debug_assert!(amount <= self.amount);
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { domain: self.domain, resource: self.resource, amount }
    }
}

#[derive(Debug)]
struct Account {
    quotas: Quotas,
    used: Usage,
    /// When the next request would be on time at the allowed pace.
    next_request: Time,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Accounts {
    accounts: BTreeMap<DomainId, Account>,
    quotas: Quotas,
    own: BTreeMap<DomainId, Quotas>,
}

impl Accounts {
    pub(crate) fn new(quotas: Quotas, own: &[(DomainId, Quotas)]) -> Self {
        Self { accounts: BTreeMap::new(), quotas, own: own.iter().copied().collect() }
    }

    pub(crate) fn quotas(&self, domain: DomainId) -> Quotas {
        self.own.get(&domain).copied().unwrap_or(self.quotas)
    }

    /// Charges `amount`, or says what is exhausted and changes nothing.
    pub(crate) fn charge(
        &mut self,
        domain: DomainId,
        resource: Resource,
        amount: u64,
    ) -> Result<Charge, Refusal> {
        let (used, limit) = match self.accounts.get(&domain) {
            Some(account) => (account.used.of(resource), limit_of(&account.quotas, resource)),
            None => (0, limit_of(&self.quotas(domain), resource)),
        };
        let wanted = used.saturating_add(amount);
        if wanted > limit {
            let text = format!(
                "{}: {used} in use and {amount} more asked, the limit of this domain is {limit}",
                resource.name()
            );
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, limit));
        }
        if amount > 0 {
            let quotas = self.quotas(domain);
            let account = self.accounts.entry(domain).or_insert_with(|| Account {
                quotas,
                used: Usage::default(),
                next_request: Time(0),
            });
            *account.used.of_mut(resource) = wanted;
        }
        Ok(Charge { domain, resource, amount })
    }

    /// Charges all of these, or says what is exhausted and changes nothing.
    pub(crate) fn charge_all<const N: usize>(
        &mut self,
        domain: DomainId,
        wanted: [(Resource, u64); N],
    ) -> Result<[Charge; N], Refusal> {
        let mut refused = None;
        let charges = wanted.map(|(resource, amount)| {
            let amount = if refused.is_none() { amount } else { 0 };
            self.charge(domain, resource, amount).unwrap_or_else(|refusal| {
                refused.get_or_insert(refusal);
                Charge::nothing(domain, resource)
            })
        });
        match refused {
            None => Ok(charges),
            Some(refusal) => {
                charges.into_iter().for_each(|charge| self.give_back(charge));
                Err(refusal)
            }
        }
    }

    /// Takes a charge back. The account goes with its last one.
    pub(crate) fn give_back(&mut self, charge: Charge) {
        let Charge { domain, resource, amount } = charge;
        if amount == 0 {
            return;
        }
        if let Some(account) = self.accounts.get_mut(&domain) {
            let used = account.used.of_mut(resource);
            *used = used.saturating_sub(amount);
            if *used == 0 && account.used == Usage::default() {
                self.accounts.remove(&domain);
            }
        }
    }

    /// Counts a request against the domain's pace.
    pub(crate) fn pace(&mut self, domain: DomainId, now: Time) -> Result<(), Refusal> {
        let Some(account) = self.accounts.get_mut(&domain) else { return Ok(()) };
        let Some(per_s) = account.quotas.requests_per_s else { return Ok(()) };
        const SECOND: u64 = 1_000_000_000;
        let step = SECOND / u64::from(per_s.max(1));
        let due = account.next_request.max(now);
        if due.since(now) + step > SECOND {
            let text = format!("more than {per_s} requests per second in this domain; send fewer");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(u64::from(per_s) + 1, u64::from(per_s)));
        }
        account.next_request = due.after(step);
        Ok(())
    }

    /// Domains that owe something.
    pub(crate) fn domains(&self) -> usize {
        self.accounts.len()
    }

    /// Whether a domain owes anything.
    pub(crate) fn has(&self, domain: DomainId) -> bool {
        self.accounts.contains_key(&domain)
    }

    /// What every domain owes.
    pub(crate) fn usage(&self) -> BTreeMap<DomainId, Usage> {
        self.accounts.iter().map(|(domain, account)| (*domain, account.used)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: DomainId = DomainId(7);

    fn accounts() -> Accounts {
        Accounts::new(Quotas { objects: 3, requests_per_s: Some(2), ..Quotas::default() }, &[])
    }

    #[test]
    fn an_exhausted_quota_names_value_and_limit_and_changes_nothing() {
        let mut accounts = accounts();
        let _held = accounts.charge(D, Resource::Objects, 2).unwrap();
        let refusal = accounts.charge(D, Resource::Objects, 2).unwrap_err();
        assert_eq!((refusal.code, refusal.value, refusal.limit), (ErrorCode::Exhausted, 4, 3));
        assert_eq!(accounts.usage()[&D].objects, 2);
    }

    #[test]
    fn the_last_charge_takes_the_account_with_it() {
        let mut accounts = accounts();
        let charge = accounts.charge(D, Resource::Objects, 2).unwrap();
        accounts.give_back(charge);
        assert!(accounts.usage().is_empty());
    }

    #[test]
    fn a_split_charge_comes_back_in_parts() {
        let mut accounts = accounts();
        let mut charge = accounts.charge(D, Resource::Objects, 3).unwrap();
        let part = charge.split(2);
        accounts.give_back(part);
        assert_eq!((accounts.usage()[&D].objects, charge.amount()), (1, 1));
    }

    #[test]
    fn an_overflowing_amount_is_exhausted_not_wrapped() {
        let mut accounts = accounts();
        let _held = accounts.charge(D, Resource::Bytes, 1).unwrap();
        assert_eq!(accounts.charge(D, Resource::Bytes, u64::MAX).unwrap_err().value, u64::MAX);
    }

    #[test]
    fn a_domain_gets_a_burst_of_one_second_and_then_its_pace() {
        let mut accounts = accounts();
        let _held = accounts.charge(D, Resource::Objects, 1).unwrap();
        let allowed = |accounts: &mut Accounts, at| accounts.pace(D, Time(at)).is_ok();
        let first: Vec<bool> = (0..3).map(|_| allowed(&mut accounts, 5)).collect();
        assert_eq!((first, allowed(&mut accounts, 500_000_005)), (vec![true, true, false], true));
    }
}
