//! Who owes what: a ledger per domain, and charges that must come back.
//!
//! A [`Charge`] is made by [`Accounts::charge`] only, cannot be copied, and is owned by the thing it pays for.
//! When the thing goes, its charge goes to [`Accounts::give_back`]; the sum of all charges that live equals the
//! ledger (`check_invariants` counts them). A domain that owes nothing has no account.

use std::collections::BTreeMap;

use vgem_proto::domains::QuotaKind;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, Time};

use crate::config::{Capacity, Quotas};

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
    Monitors,
    Pages,
    /// Handles of timelines.
    Timelines,
    /// User queues.
    Rings,
    /// Bytes of objects that were committed.
    Pinned,
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
            Self::Monitors => "clients that monitor",
            Self::Pages => "pages to observe others in, and to signal in",
            Self::Timelines => "handles of timelines",
            Self::Rings => "user queues",
            Self::Pinned => "pinned bytes",
        }
    }

    /// Files that one of it costs the broker for as long as it is owed.
    fn files(self) -> u64 {
        match self {
            Self::Objects => 1,
            Self::Connections | Self::Pages => 2,
            Self::Porters => 3,
            Self::Bytes
            | Self::Handles
            | Self::Queues
            | Self::Jobs
            | Self::Exports
            | Self::Monitors
            | Self::Timelines
            | Self::Pinned => 0,
            Self::Rings => 1,
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
    /// Clients that monitor.
    pub monitors: u64,
    /// Pages in which its clients observe others, and primary pages.
    pub pages: u64,
    /// Handles of timelines.
    pub timelines: u64,
    /// User queues.
    pub rings: u64,
    /// Bytes of objects that were committed, until they are freed: an orphan is pinned again when somebody imports it.
    pub pinned: u64,
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
            Resource::Monitors => self.monitors,
            Resource::Pages => self.pages,
            Resource::Timelines => self.timelines,
            Resource::Rings => self.rings,
            Resource::Pinned => self.pinned,
        }
    }

    /// As [`QuotaKind`] has it; what a rate is of is not held.
    pub(crate) fn of_kind(&self, kind: QuotaKind) -> u64 {
        match kind {
            QuotaKind::Bytes => self.bytes,
            QuotaKind::Objects => self.objects,
            QuotaKind::Handles => self.handles,
            QuotaKind::Queues => self.queues,
            QuotaKind::Jobs => self.jobs,
            QuotaKind::Connections => self.connections,
            QuotaKind::Exports => self.exports,
            QuotaKind::Porters => self.porters,
            QuotaKind::Monitors => self.monitors,
            QuotaKind::Pages => self.pages,
            QuotaKind::Timelines => self.timelines,
            QuotaKind::Rings => self.rings,
            QuotaKind::Pinned => self.pinned,
            QuotaKind::Requests => 0,
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
            Resource::Monitors => &mut self.monitors,
            Resource::Pages => &mut self.pages,
            Resource::Timelines => &mut self.timelines,
            Resource::Rings => &mut self.rings,
            Resource::Pinned => &mut self.pinned,
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
        Resource::Monitors => quotas.monitors,
        Resource::Pages => quotas.pages,
        Resource::Timelines => quotas.timelines,
        Resource::Rings => quotas.rings,
        Resource::Pinned => quotas.pinned,
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
    /// Files that all of it costs the broker.
    files: u64,
}

/// How fast a domain goes. Not part of its account: whoever owes nothing for a moment is no slower before.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// When the next request would be on time at the allowed pace.
    next_request: Time,
    /// The same of the next porter.
    next_porter: Time,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Accounts {
    accounts: BTreeMap<DomainId, Account>,
    paces: BTreeMap<DomainId, Pace>,
    quotas: Quotas,
    /// Those of domains that have their own.
    own: BTreeMap<DomainId, Quotas>,
    capacity: Capacity,
    /// Files that all domains together cost.
    files: u64,
}

impl Accounts {
    pub(crate) fn new(quotas: Quotas, capacity: Capacity) -> Self {
        let (accounts, paces, own) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { accounts, paces, quotas, own, capacity, files: 0 }
    }

    pub(crate) fn quotas(&self, domain: DomainId) -> Quotas {
        self.own.get(&domain).copied().unwrap_or(self.quotas)
    }

    /// Other quotas for the domains without a name, and another capacity. What is held stays.
    pub(crate) fn replace(&mut self, quotas: Quotas, capacity: Capacity) {
        (self.quotas, self.capacity) = (quotas, capacity);
        for (domain, account) in &mut self.accounts {
            account.quotas = self.own.get(domain).copied().unwrap_or(quotas);
        }
    }

    /// Takes quotas of their own from domains with lower numbers.
    pub(crate) fn forget_quotas_below(&mut self, first: DomainId) {
        let all: Vec<DomainId> = self.own.range(..first).map(|(domain, _)| *domain).collect();
        all.into_iter().for_each(|domain| self.set_quotas(domain, None));
    }

    /// Quotas of a domain's own; `None` are those of everybody. What it holds stays, also above a lower quota.
    pub(crate) fn set_quotas(&mut self, domain: DomainId, quotas: Option<Quotas>) {
        match quotas {
            Some(quotas) => self.own.insert(domain, quotas),
            None => self.own.remove(&domain),
        };
        let quotas = self.quotas(domain);
        if let Some(account) = self.accounts.get_mut(&domain) {
            account.quotas = quotas;
        }
    }

    pub(crate) fn used(&self, domain: DomainId) -> Usage {
        self.accounts.get(&domain).map(|account| account.used).unwrap_or_default()
    }

    /// What domains with quotas of their own may have of the capacity, all but `but`: their quotas, or what they hold above them.
    fn promised(&self, resource: Resource, but: Option<DomainId>) -> u64 {
        let own = self.own.iter().filter(|(domain, _)| Some(**domain) != but);
        let each =
            own.map(|(domain, quotas)| limit_of(quotas, resource).max(self.used(*domain).of(resource)));
        each.fold(0, u64::saturating_add)
    }

    /// What domains without quotas of their own hold, all but `but`.
    fn shared(&self, resource: Resource, but: Option<DomainId>) -> u64 {
        let is_shared = |domain: DomainId| !self.own.contains_key(&domain) && Some(domain) != but;
        let shared = self.accounts.iter().filter(|(domain, _)| is_shared(**domain));
        shared.fold(0, |sum, (_, account)| sum.saturating_add(account.used.of(resource)))
    }

    fn most(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Bytes => self.capacity.bytes,
            Resource::Connections => self.capacity.connections,
            Resource::Objects
            | Resource::Handles
            | Resource::Queues
            | Resource::Jobs
            | Resource::Exports
            | Resource::Porters
            | Resource::Monitors
            | Resource::Pages
            | Resource::Timelines
            | Resource::Rings
            | Resource::Pinned => None,
        }
    }

    /// Whether a domain can be promised these quotas: with those of all others, and what the rest holds, they
    /// are no more than the capacity.
    pub(crate) fn find_capacity(&self, domain: DomainId, quotas: &Quotas) -> Result<(), Refusal> {
        for resource in [Resource::Bytes, Resource::Connections] {
            let Some(most) = self.most(resource) else { continue };
            let but = Some(domain);
            let others = self.promised(resource, but).saturating_add(self.shared(resource, but));
            let wanted = others.saturating_add(limit_of(quotas, resource));
            if wanted > most {
                let text = format!(
                    "capacity for {}: a quota of {} is asked, {others} are promised or in use, the machine has {most}",
                    resource.name(),
                    limit_of(quotas, resource)
                );
                return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, most));
            }
        }
        Ok(())
    }

    /// Whether a domain may have so much more of what the machine has.
    fn find_share(&self, domain: DomainId, resource: Resource, amount: u64) -> Result<(), Refusal> {
        let Some(most) = self.most(resource).filter(|_| amount > 0) else { return Ok(()) };
        if self.own.contains_key(&domain) {
            return Ok(());
        }
        let used = self.shared(resource, None).saturating_add(self.promised(resource, None));
        let wanted = used.saturating_add(amount);
        if wanted <= most {
            return Ok(());
        }
        let text = format!(
            "capacity for {}: {used} in use or promised and {amount} more asked, the machine has {most}",
            resource.name()
        );
        Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, most))
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
        self.find_share(domain, resource, amount)?;
        let files = amount.saturating_mul(resource.files());
        self.find_files(domain, files)?;
        if amount > 0 {
            let quotas = self.quotas(domain);
            let new = || Account { quotas, used: Usage::default(), files: 0 };
            let account = self.accounts.entry(domain).or_insert_with(new);
            *account.used.of_mut(resource) = wanted;
            account.files += files;
            self.files += files;
        }
        Ok(Charge { domain, resource, amount })
    }

    /// Whether a domain may cost so many files more: no more than are left for the others then. So the first one can
    /// have half of them, and there are always some left for whoever comes next.
    fn find_files(&self, domain: DomainId, files: u64) -> Result<(), Refusal> {
        let Some(most) = self.capacity.files.filter(|_| files > 0) else { return Ok(()) };
        let own = self.accounts.get(&domain).map_or(0, |account| account.files);
        let wanted = own.saturating_add(files);
        let left = most.saturating_sub(self.files.saturating_add(files));
        if wanted <= left {
            return Ok(());
        }
        let text = format!(
            "open files of the broker: this domain's things take {own} and {files} more are asked, {left} would be \
             left for others"
        );
        Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, left))
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
            let files = amount.saturating_mul(resource.files());
            account.files = account.files.saturating_sub(files);
            self.files = self.files.saturating_sub(files);
            let used = account.used.of(resource);
            if used == 0 && account.used == Usage::default() {
                self.accounts.remove(&domain);
            }
        }
    }

    /// Counts a request against the domain's pace.
    pub(crate) fn pace(&mut self, domain: DomainId, now: Time) -> Result<(), Refusal> {
        const SECOND: u64 = 1_000_000_000;
        let Some(per_s) = self.accounts.get(&domain).map(|a| a.quotas).and_then(|q| q.requests_per_s) else {
            return Ok(());
        };
        let step = SECOND / u64::from(per_s.max(1));
        if goes_on(&mut self.pace_of(domain, now).next_request, now, step, SECOND) {
            return Ok(());
        }
        let text = format!("more than {per_s} requests per second in this domain; send fewer");
        Err(Refusal::new(ErrorCode::Exhausted, text).with(u64::from(per_s) + 1, u64::from(per_s)))
    }

    /// Counts a porter that is to be started against the domain's pace: `burst` at once, then one each `step` ns.
    pub(crate) fn pace_porter(
        &mut self,
        domain: DomainId,
        now: Time,
        (step, burst): (u64, u32),
    ) -> Result<(), Refusal> {
        let window = step.saturating_mul(u64::from(burst.max(1)));
        if goes_on(&mut self.pace_of(domain, now).next_porter, now, step, window) {
            return Ok(());
        }
        let text = format!(
            "processes started for clients of this domain: {burst} at once, and then one each {} ms",
            step / 1_000_000
        );
        Err(Refusal::new(ErrorCode::Exhausted, text).with(u64::from(burst) + 1, u64::from(burst)))
    }

    fn pace_of(&mut self, domain: DomainId, now: Time) -> &mut Pace {
        // Those that are no longer late for anything are as good as new.
        if self.paces.len() > 2 * self.accounts.len() + 64 {
            self.paces.retain(|_, pace| pace.next_request.max(pace.next_porter) > now);
        }
        self.paces.entry(domain).or_default()
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

/// Moves the moment by which something may be done once more on by `step`; false, and not moved, if it would be more
/// than `window` ahead then.
fn goes_on(next: &mut Time, now: Time, step: u64, window: u64) -> bool {
    let due = (*next).max(now).after(step);
    let may = due.since(now) <= window;
    if may {
        *next = due;
    }
    may
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: DomainId = DomainId(7);

    fn accounts() -> Accounts {
        Accounts::new(
            Quotas { objects: 3, requests_per_s: Some(2), ..Quotas::default() },
            Capacity::default(),
        )
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
    fn a_domain_never_takes_the_last_files() {
        let mut accounts =
            Accounts::new(Quotas::default(), Capacity { files: Some(100), ..Capacity::default() });
        let mut take = |domain| {
            let held = (0..200).take_while(|_| {
                let charge = accounts.charge(DomainId(domain), Resource::Objects, 1);
                charge.map(std::mem::forget).is_ok()
            });
            held.count()
        };
        assert_eq!([take(1), take(2), take(3)], [50, 25, 12]);
    }

    #[test]
    fn files_come_back_with_what_cost_them() {
        let mut accounts =
            Accounts::new(Quotas::default(), Capacity { files: Some(20), ..Capacity::default() });
        for _ in 0..100 {
            let porter = accounts.charge(D, Resource::Porters, 2).unwrap();
            let refusal = accounts.charge(D, Resource::Connections, 3).unwrap_err();
            assert_eq!((refusal.code, refusal.value, refusal.limit), (ErrorCode::Exhausted, 12, 8));
            accounts.give_back(porter);
        }
        assert!(accounts.usage().is_empty());
    }

    fn of_a_machine(bytes: u64) -> Accounts {
        let capacity = Capacity { bytes: Some(bytes), ..Capacity::default() };
        Accounts::new(Quotas { bytes: 100, ..Quotas::default() }, capacity)
    }

    #[test]
    fn domains_together_hold_what_the_machine_has_and_no_more() {
        let mut accounts = of_a_machine(150);
        let _one = accounts.charge(D, Resource::Bytes, 100).unwrap();
        let _two = accounts.charge(DomainId(8), Resource::Bytes, 50).unwrap();
        let refusal = accounts.charge(DomainId(8), Resource::Bytes, 1).unwrap_err();
        assert_eq!((refusal.code, refusal.value, refusal.limit), (ErrorCode::Exhausted, 151, 150));
    }

    #[test]
    fn what_is_promised_to_a_domain_with_a_name_nobody_else_has() {
        let mut accounts = of_a_machine(150);
        accounts.set_quotas(DomainId(9), Some(Quotas { bytes: 80, ..Quotas::default() }));
        let _one = accounts.charge(D, Resource::Bytes, 70).unwrap();
        assert_eq!(accounts.charge(D, Resource::Bytes, 1).unwrap_err().value, 151);
        assert!(accounts.charge(DomainId(9), Resource::Bytes, 80).is_ok());
    }

    #[test]
    fn more_than_is_left_is_promised_to_nobody() {
        let mut accounts = of_a_machine(150);
        accounts.set_quotas(DomainId(9), Some(Quotas { bytes: 80, ..Quotas::default() }));
        let _one = accounts.charge(D, Resource::Bytes, 40).unwrap();
        let asks = |bytes| accounts.find_capacity(DomainId(10), &Quotas { bytes, ..Quotas::default() });
        assert!(asks(30).is_ok());
        assert_eq!(asks(31).map_err(|refusal| (refusal.value, refusal.limit)), Err((151, 150)));
    }

    #[test]
    fn a_lower_quota_takes_nothing_away_and_gives_nothing_more() {
        let mut accounts = accounts();
        let held = accounts.charge(D, Resource::Objects, 3).unwrap();
        accounts.set_quotas(D, Some(Quotas { objects: 1, ..Quotas::default() }));
        let refusal = accounts.charge(D, Resource::Objects, 1).unwrap_err();
        assert_eq!((refusal.value, refusal.limit, accounts.used(D).objects), (4, 1, 3));
        accounts.give_back(held);
        assert!(accounts.charge(D, Resource::Objects, 1).is_ok());
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
