//! Whose turn it is: how the broker's time is divided between domains.
//!
//! A domain may have thousands of connections, drivers that tell much, and messages that take thousands of times as long
//! as others. So time is what is shared, by domain, and measured:
//!
//! ```text
//!   look: ask the poller ─► domains, who had least time first ─► each for a quantum ─► look again
//!                                └─► its drivers, then its clients: who was passed over for longest first
//! ```
//!
//! **Order.** Every domain has the time it *had*, and who had least comes first. Who was away is lifted to the least of
//! those who were served meanwhile: nobody saves up time. So who asks for little comes before who asks for much.
//!
//! **Leaving.** A domain has a share while somebody of it is there: clients, or drivers, which may have much to tell when
//! the clients are gone. When nobody is, what it had is kept until it would be lifted anyhow, so that who connects again
//! and again has no more time than who stays. Of those who left at most [`KEPT`] are remembered, those who had most.
//!
//! **Length.** A look is over after a [`QUANTUM_NS`], whoever had it, and the poller is asked again: who asks for little
//! waits for the rest of one quantum and not for one of everybody. Who was not looked at comes again, and had less than
//! those who were.
//!
//! **Crowds.** The poller shows so many connections at a time. If there are more, the one that asks for little may be
//! among the last, so a domain has its quantum only once in a *round*, which is over when as many were looked at as
//! there are; for each look it has [`LOOK_NS`] more, or a crowd would have the broker look and do nothing.
//!
//! While only one domain is there, there is nobody to share with, and none of this happens.

use std::collections::HashMap;

use vgem_core::io::LinkId;
use vgem_os::clock;
use vgem_proto::ids::DomainId;

/// What a domain may take before others are looked at, nanoseconds; the message with which it is reached is carried out
/// all the same. Some ten requests, and some hundred times what a look costs.
pub(super) const QUANTUM_NS: u64 = 100_000;
/// What a domain may take more for each look of a round after the first, nanoseconds: about what the look costs.
const LOOK_NS: u64 = 25_000;
/// Domains of whom nobody is there any more, and which had more time than others.
const KEPT: usize = 1024;

/// When a turn ends that no time ends.
pub(super) const NEVER: u64 = u64::MAX;

/// Whether a turn is over that ends then. The clock is not asked when it does not.
pub(super) fn is_past(until: u64) -> bool {
    until != NEVER && until <= clock::now()
}

/// What a domain had.
#[derive(Debug, Default)]
struct Share {
    /// Connections of its clients, and its drivers.
    connections: usize,
    drivers: usize,
    /// Nanoseconds; only grows, and is lifted when it was away.
    had: u64,
    /// In this round, the number of which is beside it.
    spent: u64,
    round: u64,
    /// The last look in which it was ready, and whether it was not in the one before.
    look: u64,
    was_away: bool,
}

impl Share {
    /// Whether somebody of the domain is there.
    const fn is_present(&self) -> bool {
        self.connections > 0 || self.drivers > 0
    }

    /// Whether it would be another if it began anew.
    const fn matters(&self, floor: u64, round: u64) -> bool {
        self.had > floor || self.round == round
    }
}

/// The shares, and the round.
#[derive(Debug, Default)]
pub(super) struct Turns {
    domains: HashMap<DomainId, Share>,
    /// Domains of whom somebody is there.
    present: usize,
    /// Of all domains.
    connections: usize,
    /// The least that one had who was served last.
    floor: u64,
    /// What was spent in this look.
    spent: u64,
    round: u64,
    look: u64,
    /// Connections that were looked at in this round.
    seen: usize,
    /// What each domain may spend in this round.
    budget: u64,
    /// Those whose turn it was not, with the number of the first time.
    passed_over: HashMap<LinkId, u64>,
    times: u64,
}

/// Where somebody is in the order of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    had: u64,
    /// Of two that had as much, whoever was away comes first: the other had its turns meanwhile.
    was_here: bool,
    domain: DomainId,
    /// Drivers before clients: what has ended makes room for what is asked.
    is_client: bool,
    passed_over: u64,
}

impl Turns {
    /// A connection is there.
    pub(super) fn connected(&mut self, domain: DomainId) {
        self.connections += 1;
        self.came(domain).connections += 1;
    }

    /// A connection is gone.
    pub(super) fn gone(&mut self, domain: DomainId, link: LinkId) {
        self.passed_over.remove(&link);
        self.connections -= 1;
        self.left_by(domain, |share| share.connections -= 1);
    }

    /// A driver is there.
    pub(super) fn driver_came(&mut self, domain: DomainId) {
        self.came(domain).drivers += 1;
    }

    /// A driver is gone.
    pub(super) fn driver_gone(&mut self, domain: DomainId) {
        self.left_by(domain, |share| share.drivers -= 1);
    }

    /// The share of a domain of whom one more is there.
    fn came(&mut self, domain: DomainId) -> &mut Share {
        let share = self.domains.entry(domain).or_default();
        if !share.is_present() {
            self.present += 1;
        }
        share
    }

    /// One less of a domain is there.
    fn left_by(&mut self, domain: DomainId, leave: impl FnOnce(&mut Share)) {
        let Some(share) = self.domains.get_mut(&domain) else { return };
        leave(share);
        if !share.is_present() {
            self.present -= 1;
            if self.domains.len() - self.present > KEPT {
                self.forget();
            }
        }
    }

    /// Forgets domains of whom nobody is there: those for whom it makes no difference, and as many of those who had least that
    /// it is long until there are as many again.
    fn forget(&mut self) {
        let (floor, round) = (self.floor, self.round);
        self.domains.retain(|_, share| share.is_present() || share.matters(floor, round));
        let mut away: Vec<(u64, DomainId)> = self
            .domains
            .iter()
            .filter(|one| !one.1.is_present())
            .map(|(id, share)| (share.had, *id))
            .collect();
        if away.len() > KEPT / 2 {
            away.sort_unstable_by_key(|one| std::cmp::Reverse(*one));
            for (_, domain) in away.drain(KEPT / 2..) {
                self.domains.remove(&domain);
            }
        }
    }

    /// Whether there is anybody to share with.
    pub(super) const fn are_shared(&self) -> bool {
        self.present > 1
    }

    /// Whether somebody of a domain is there.
    pub(super) fn has_share(&self, domain: DomainId) -> bool {
        self.domains.get(&domain).is_some_and(Share::is_present)
    }

    /// A look begins, at these domains: who was away is lifted.
    pub(super) fn begin(&mut self, ready: impl Iterator<Item = DomainId>) {
        self.spent = 0;
        self.look += 1;
        self.budget = if self.seen == 0 { QUANTUM_NS } else { self.budget + LOOK_NS };
        let mut least = u64::MAX;
        for domain in ready {
            if let Some(share) = self.domains.get_mut(&domain) {
                share.had = share.had.max(self.floor);
                if share.look != self.look {
                    share.was_away = share.look + 1 != self.look;
                    share.look = self.look;
                }
                least = least.min(share.had);
            }
        }
        if least != u64::MAX {
            self.floor = least;
        }
    }

    /// The place of a driver, or of a client's connection, of a domain.
    pub(super) fn place(&self, domain: DomainId, client: Option<LinkId>) -> Place {
        let (had, was_here) =
            self.domains.get(&domain).map_or((0, false), |share| (share.had, !share.was_away));
        let passed_over = client.and_then(|link| self.passed_over.get(&link).copied());
        Place {
            had,
            was_here,
            domain,
            is_client: client.is_some(),
            passed_over: passed_over.unwrap_or(u64::MAX),
        }
    }

    /// How long a domain may be served now, nanoseconds, in a look that shows all or not.
    pub(super) fn left(&self, domain: DomainId, shows_all: bool) -> u64 {
        let share = self.domains.get(&domain).filter(|share| share.round == self.round);
        let spent = share.map_or(0, |share| share.spent);
        let of_look = if shows_all { QUANTUM_NS.saturating_sub(self.spent) } else { u64::MAX };
        self.budget.saturating_sub(spent).min(of_look)
    }

    /// It is a connection's turn, or not.
    pub(super) fn note(&mut self, link: LinkId, has_turn: bool) {
        if has_turn {
            self.passed_over.remove(&link);
        } else {
            self.times += 1;
            self.passed_over.entry(link).or_insert(self.times);
        }
    }

    /// A domain has taken so much time.
    pub(super) fn took(&mut self, domain: DomainId, ns: u64) {
        self.spent += ns;
        if let Some(share) = self.domains.get_mut(&domain) {
            share.had += ns;
            share.spent = if share.round == self.round { share.spent + ns } else { ns };
            share.round = self.round;
        }
    }

    /// The look is over. So many connections were looked at, which were all that are ready or not: a new round begins when
    /// all were.
    pub(super) fn end(&mut self, connections: usize, shows_all: bool) {
        self.seen += connections;
        if shows_all || self.seen >= self.connections {
            self.seen = 0;
            self.round += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: DomainId = DomainId(1);
    const HONEST: DomainId = DomainId(2);
    /// What one turn of a connection of the flood takes.
    const TURN_NS: u64 = 30_000;

    /// As the broker serves: who is ready in a look is served in order; how long each was served, in that order.
    fn look(turns: &mut Turns, ready: &[(DomainId, u64)], shows_all: bool, turn_ns: u64) -> Vec<(u64, u64)> {
        look_at(turns, ready, shows_all, |_| turn_ns)
    }

    /// The same where a turn takes as long as its domain makes it.
    fn look_at(
        turns: &mut Turns,
        ready: &[(DomainId, u64)],
        shows_all: bool,
        turn_ns: impl Fn(DomainId) -> u64,
    ) -> Vec<(u64, u64)> {
        turns.begin(ready.iter().map(|(domain, _)| *domain));
        let mut order: Vec<_> =
            ready.iter().map(|one| (turns.place(one.0, Some(LinkId(one.1))), *one)).collect();
        order.sort_unstable_by_key(|(place, _)| *place);
        let mut served = Vec::new();
        for (_, (domain, link)) in order {
            let has_turn = turns.left(domain, shows_all) > 0;
            turns.note(LinkId(link), has_turn);
            if has_turn {
                turns.took(domain, turn_ns(domain));
                served.push((link, turn_ns(domain)));
            }
        }
        turns.end(ready.len(), shows_all);
        served
    }

    fn with(connections: &[(DomainId, usize)]) -> Turns {
        let mut turns = Turns::default();
        for (domain, count) in connections {
            (0..*count).for_each(|_| turns.connected(*domain));
        }
        turns
    }

    /// How long the honest connection waits each time, of so many of a flood of which the poller shows some at once; and
    /// how often each of the flood had its turn.
    fn flood(connections: u64, at_once: usize, looks: usize) -> (Vec<u64>, Vec<u64>) {
        let count = usize::try_from(connections).expect("few");
        let mut turns = with(&[(FLOOD, count), (HONEST, 1)]);
        let mut ready: Vec<u64> = (0..=connections).collect();
        let (mut waits, mut waited, mut had) = (Vec::new(), 0, vec![0; count]);
        for _ in 0..looks {
            let now: Vec<u64> = ready.drain(..at_once.min(ready.len())).collect();
            ready.extend(&now);
            let domain = |link: u64| if link == connections { HONEST } else { FLOOD };
            let now: Vec<_> = now.into_iter().map(|link| (domain(link), link)).collect();
            for (link, ns) in look(&mut turns, &now, now.len() < at_once, TURN_NS) {
                match had.get_mut(usize::try_from(link).expect("small")) {
                    Some(times) => (*times += 1, waited += ns).0,
                    None => waits.push(std::mem::take(&mut waited)),
                }
            }
        }
        (waits, had)
    }

    #[test]
    fn atk_thousands_of_connections_of_one_domain_take_the_time_of_one() {
        let (waits, _) = flood(8192, 256, 1000);
        let most = QUANTUM_NS + 33 * LOOK_NS + TURN_NS;
        assert!(waits.len() > 20 && waits.iter().all(|wait| *wait <= most), "{waits:?}");
    }

    #[test]
    fn those_who_are_passed_over_come_first_in_the_next_look() {
        let (_, had) = flood(20, 256, 100);
        assert!(had.iter().all(|turns| *turns >= 10), "{had:?}");
    }

    #[test]
    fn who_asks_for_little_waits_for_one_quantum_of_any_number_of_greedy_domains() {
        // Nothing but what it had puts it before the others.
        let honest = DomainId(99);
        let greedy: Vec<(DomainId, u64)> = (10..20).map(|n| (DomainId(n), u64::from(n))).collect();
        let all: Vec<(DomainId, usize)> = greedy.iter().map(|one| (one.0, 1)).chain([(honest, 1)]).collect();
        let mut turns = with(&all);
        let mut before = 0;
        for n in 0..1000 {
            let mut ready = greedy.clone();
            ready.extend((n % 10 == 0).then_some((honest, 0)));
            let served = look(&mut turns, &ready, true, TURN_NS);
            let total: u64 = served.iter().map(|(_, ns)| ns).sum();
            assert!(total <= QUANTUM_NS + TURN_NS, "a look takes {total}");
            assert!(n % 10 != 0 || n == 0 || served[0].0 == 0, "the honest one is not first: {served:?}");
            before += total;
        }
        assert!(before >= 1000 * QUANTUM_NS, "nobody is idle");
    }

    #[test]
    fn domains_that_always_ask_have_the_same_time_whatever_a_turn_of_theirs_takes() {
        let ready: Vec<(DomainId, u64)> = (0..10).map(|n| (DomainId(n), u64::from(n))).collect();
        let mut turns = with(&ready.iter().map(|one| (one.0, 1)).collect::<Vec<_>>());
        let mut had = [0_u64; 10];
        for n in 0..10_000 {
            // Of the first each turn takes twenty times as long as of the others.
            let first: Vec<_> = ready.iter().filter(|one| (n % 20 == 0) || one.1 != 0).copied().collect();
            let long = if first.len() == 10 { 200_000 } else { 10_000 };
            for (link, ns) in look(&mut turns, &ready, true, long) {
                had[usize::try_from(link).expect("small")] += ns;
            }
        }
        let (least, most) = (had.iter().min().expect("ten"), had.iter().max().expect("ten"));
        assert!(most - least <= 2 * 200_000 + QUANTUM_NS, "{had:?}");
    }

    #[test]
    fn who_was_away_has_saved_up_nothing() {
        let mut turns = with(&[(FLOOD, 1), (HONEST, 1)]);
        (0..1000).for_each(|_| drop(look(&mut turns, &[(FLOOD, 0)], true, TURN_NS)));
        let both = [(FLOOD, 0), (HONEST, 1)];
        let mut honest = 0;
        for _ in 0..100 {
            honest += look(&mut turns, &both, true, QUANTUM_NS).iter().filter(|(link, _)| *link == 1).count();
        }
        assert!((49..=51).contains(&honest), "{honest} of 100 turns");
    }

    #[test]
    fn atk_who_connects_again_for_each_message_has_no_more_time_than_who_stays() {
        const LONG_NS: u64 = 50 * QUANTUM_NS;
        let mut turns = with(&[(FLOOD, 1), (HONEST, 1)]);
        let mut had = [0, 0];
        for n in 0..10_000 {
            let ready = [(FLOOD, n + 1), (HONEST, 0)];
            let turn_ns = |domain| if domain == FLOOD { LONG_NS } else { QUANTUM_NS };
            for (link, ns) in look_at(&mut turns, &ready, true, turn_ns) {
                had[usize::from(link == 0)] += ns;
            }
            turns.gone(FLOOD, LinkId(n + 1));
            turns.connected(FLOOD);
        }
        assert!(had[0].abs_diff(had[1]) <= LONG_NS + QUANTUM_NS && had[1] > 0, "{had:?}");
    }

    #[test]
    fn atk_who_connects_again_has_its_quantum_once_in_a_round() {
        let mut turns = with(&[(FLOOD, 1000), (HONEST, 1)]);
        let mut had = 0;
        for n in 0..100 {
            // Not all are shown, so the round goes on.
            had += look(&mut turns, &[(FLOOD, n)], false, TURN_NS).len() as u64 * TURN_NS;
            (0..1000).for_each(|_| turns.gone(FLOOD, LinkId(n)));
            (0..1000).for_each(|_| turns.connected(FLOOD));
        }
        assert!(had <= QUANTUM_NS + 99 * LOOK_NS + TURN_NS, "{had}");
    }

    #[test]
    fn who_left_long_ago_begins_where_others_are() {
        let mut turns = with(&[(FLOOD, 1), (HONEST, 1)]);
        look(&mut turns, &[(FLOOD, 1)], true, 10 * TURN_NS);
        turns.gone(FLOOD, LinkId(1));
        (0..100).for_each(|_| drop(look(&mut turns, &[(HONEST, 0)], true, TURN_NS)));
        turns.connected(FLOOD);
        let served = look(&mut turns, &[(FLOOD, 1), (HONEST, 0)], true, QUANTUM_NS);
        assert_eq!(served, [(1, QUANTUM_NS)], "it owes nothing any more");
    }

    #[test]
    fn atk_domains_that_come_and_go_are_not_remembered_without_end() {
        let mut turns = with(&[(HONEST, 1)]);
        for n in 100..100 + 10 * u32::try_from(KEPT).expect("few") {
            turns.connected(DomainId(n));
            look(&mut turns, &[(DomainId(n), 1), (HONEST, 0)], true, u64::from(n));
            turns.gone(DomainId(n), LinkId(1));
            assert!(turns.domains.len() <= KEPT + 2, "{}", turns.domains.len());
        }
        let had = |n| turns.domains.get(&DomainId(n)).map_or(0, |share| share.had);
        assert!(
            turns.domains.len() > KEPT / 2 && had(99 + 10 * u32::try_from(KEPT).expect("few")) > turns.floor
        );
    }

    #[test]
    fn atk_drivers_of_a_domain_without_clients_have_turns_as_others() {
        let mut turns = with(&[(HONEST, 1)]);
        turns.driver_came(FLOOD);
        assert!(turns.are_shared() && turns.has_share(FLOOD));
        let mut had = [0, 0];
        for _ in 0..1000 {
            turns.begin([FLOOD, HONEST].into_iter());
            let mut order =
                [(turns.place(FLOOD, None), FLOOD, 0), (turns.place(HONEST, Some(LinkId(1))), HONEST, 1)];
            order.sort_unstable();
            for (_, domain, of) in order {
                let ns = turns.left(domain, true);
                turns.took(domain, ns);
                had[of] += ns;
            }
            turns.end(1, true);
        }
        assert!(had[0].abs_diff(had[1]) <= QUANTUM_NS && had[0] > 0, "{had:?}");
        turns.driver_gone(FLOOD);
        assert!(!turns.are_shared() && !turns.has_share(FLOOD));
    }

    #[test]
    fn a_domain_alone_shares_with_nobody() {
        let mut turns = with(&[(FLOOD, 1)]);
        assert!(!turns.are_shared());
        turns.connected(HONEST);
        turns.gone(FLOOD, LinkId(1));
        assert!(!turns.are_shared() && turns.present == 1 && turns.connections == 1);
    }
}
