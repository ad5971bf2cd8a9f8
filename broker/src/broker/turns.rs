//! Whose turn it is: the time that the clients of one domain may take before those of others have theirs.
//!
//! Each connection is read a few messages at a time, but a domain may have thousands of connections, and some messages
//! take thousands of times as long as others. So time is what is shared, by domain: in each *round*, which is over when
//! everybody who is ready was looked at, the requests of one domain are carried out for [`BUDGET_NS`]; what is left
//! stays in its sockets and comes first in the next. While the clients of only one domain are connected there is nobody
//! to share with.

use std::collections::HashMap;

use vgem_core::io::LinkId;
use vgem_proto::ids::DomainId;

/// What a domain may take of one round, nanoseconds; the message with which it is reached is carried out all the same.
const BUDGET_NS: u64 = 2_000_000;

/// The round.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Connections of each domain.
    domains: HashMap<DomainId, usize>,
    spent: HashMap<DomainId, u64>,
    /// Connections that were looked at in this round.
    seen: usize,
    /// Those whose turn it was not, with the number of the first time.
    passed_over: HashMap<LinkId, u64>,
    times: u64,
}

impl Turns {
    /// A connection is there.
    pub(super) fn connected(&mut self, domain: DomainId) {
        *self.domains.entry(domain).or_default() += 1;
    }

    /// A connection is gone.
    pub(super) fn gone(&mut self, domain: DomainId, link: LinkId) {
        self.passed_over.remove(&link);
        if let Some(count) = self.domains.get_mut(&domain) {
            *count -= 1;
            if *count == 0 {
                self.domains.remove(&domain);
            }
        }
    }

    /// Whether there is anybody to share with.
    pub(super) fn are_shared(&self) -> bool {
        self.domains.len() > 1
    }

    /// The place of a connection in the next look: first who has been passed over for longest.
    pub(super) fn place(&self, link: LinkId) -> u64 {
        self.passed_over.get(&link).copied().unwrap_or(u64::MAX)
    }

    /// Whether it is a connection's turn.
    pub(super) fn has(&mut self, domain: DomainId, link: LinkId) -> bool {
        let may = self.spent.get(&domain).is_none_or(|spent| *spent < BUDGET_NS);
        if may {
            self.passed_over.remove(&link);
        } else {
            self.times += 1;
            self.passed_over.entry(link).or_insert(self.times);
        }
        may
    }

    /// A domain has taken so much time.
    pub(super) fn took(&mut self, domain: DomainId, ns: u64) {
        *self.spent.entry(domain).or_default() += ns;
    }

    /// So many connections were looked at, and these were all that are ready or not: a new round begins when all were.
    pub(super) fn looked_at(&mut self, connections: usize, were_all: bool) {
        self.seen += connections;
        if were_all || self.seen >= self.domains.values().sum() {
            self.seen = 0;
            self.spent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: DomainId = DomainId(1);
    const HONEST: DomainId = DomainId(2);
    /// What one turn of a connection of the flood takes.
    const TURN_NS: u64 = 500_000;

    /// How long the honest connection, the last of all that are ready, waits in each round; and how often each
    /// connection of the flood had its turn.
    fn flood(connections: u64, at_once: usize, looks: usize) -> (Vec<u64>, Vec<u64>) {
        let mut turns = Turns::default();
        (0..connections).for_each(|_| turns.connected(FLOOD));
        turns.connected(HONEST);
        assert!(turns.are_shared());
        let mut ready: Vec<u64> = (0..=connections).collect();
        let (mut waits, mut waited) = (Vec::new(), 0);
        let mut had = vec![0; usize::try_from(connections).expect("few")];
        for _ in 0..looks {
            let mut now: Vec<u64> = ready.drain(..at_once.min(ready.len())).collect();
            ready.extend(&now);
            let were_all = now.len() < at_once;
            now.sort_by_key(|link| turns.place(LinkId(*link)));
            for link in &now {
                if *link == connections {
                    assert!(turns.has(HONEST, LinkId(*link)), "the honest one is passed over");
                    waits.push(std::mem::take(&mut waited));
                } else if turns.has(FLOOD, LinkId(*link)) {
                    turns.took(FLOOD, TURN_NS);
                    waited += TURN_NS;
                    had[usize::try_from(*link).expect("small")] += 1;
                }
            }
            turns.looked_at(now.len(), were_all);
        }
        (waits, had)
    }

    #[test]
    fn atk_thousands_of_connections_of_one_domain_take_the_time_of_one() {
        let (waits, _) = flood(8192, 256, 1000);
        assert!(waits.len() > 20 && waits.iter().all(|wait| *wait <= 2 * BUDGET_NS + TURN_NS), "{waits:?}");
    }

    #[test]
    fn those_who_are_passed_over_come_first_in_the_next_round() {
        let (_, had) = flood(20, 256, 100);
        assert!(had.iter().all(|turns| *turns >= 10), "{had:?}");
    }

    #[test]
    fn a_domain_alone_shares_with_nobody() {
        let mut turns = Turns::default();
        turns.connected(FLOOD);
        assert!(!turns.are_shared());
        turns.connected(HONEST);
        turns.gone(FLOOD, LinkId(1));
        assert!(!turns.are_shared() && turns.domains.len() == 1);
    }
}
