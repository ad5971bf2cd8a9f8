//! What the broker holds, for whoever checks that it all comes back.

use std::collections::BTreeMap;

use vgem_proto::ids::DomainId;

use crate::accounts::Usage;
use crate::broker::Broker;

/// Everything that must come back when everybody is gone and quiet (DESIGN 12.12). Equal ledgers mean: the
/// broker holds the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// What each domain owes; a domain that owes nothing is not here.
    pub domains: BTreeMap<DomainId, Usage>,
    /// Connections.
    pub clients: usize,
    /// Objects in any state.
    pub objects: usize,
    /// Queues in any state.
    pub queues: usize,
    /// Timelines that clients signal, in any state.
    pub timelines: usize,
    /// Driver instances, and processes of some that have not ended.
    pub instances: usize,
    /// Pairs of pages, spare ones and those being made included.
    pub pairs: usize,
    /// Requests that wait for something.
    pub waiting: usize,
    /// Porters, those that were told to end and have not included.
    pub porters: usize,
    /// Halves of imports that wait for the other half.
    pub arrivals: usize,
    /// Timers.
    pub timers: usize,
}

impl Broker {
    /// What the broker holds now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger {
            domains: self.accounts.usage(),
            clients: self.clients.len(),
            objects: self.objects.len(),
            queues: self.queues.len(),
            timelines: self.promises.len(),
            instances: self.instances.len() + self.held_up.len(),
            pairs: self.pairs.len() + self.pairs.making + self.primary_pages(),
            waiting: self.openings.waiting.len()
                + self.creations.len()
                + self.commits.len()
                + self.tokens.live.len()
                + self.futures.live.len()
                + self.queries.len(),
            porters: self.porters.len(),
            arrivals: self.clients.iter().map(|(_, client)| client.hands.len()).sum(),
            timers: self.timers.iter().count(),
        }
    }

    /// Pages in which clients signal and only the broker looks.
    pub(super) fn primary_pages(&self) -> usize {
        let living = self.clients.iter().map(|(_, client)| client.signals.primaries.len());
        living.chain(self.leavers.values().map(|signals| signals.primaries.len())).sum()
    }

    /// Every table that requests can change, in words: two equal texts mean that nothing was changed.
    #[must_use]
    pub fn digest(&self) -> String {
        let handles: Vec<_> = self
            .clients
            .iter()
            .map(|(key, client)| {
                let (porter, hands) = (&client.porter, &client.hands);
                let timelines = (&client.timelines, &client.signals);
                (
                    key,
                    client.standing,
                    &client.objects,
                    &client.queues,
                    timelines,
                    &client.pairs,
                    porter,
                    hands,
                )
            })
            .collect();
        format!(
            "{:#?}\n{handles:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}",
            self.ledger(),
            self.objects,
            self.queues,
            self.promises,
            self.instances,
            self.pairs,
            self.openings,
            self.creations,
            self.commits,
            self.porters,
        )
    }
}
