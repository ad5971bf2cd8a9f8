//! Pages that are given at need, from the spare ones: for waits between domains, and for clients that observe.
//!
//! Inside a domain routes see to it that a slot is always there ([`crate::pairs`]). Between domains there are
//! none, because almost no two domains ever meet. So before a batch whose objects were ever used by several
//! domains is accepted, and before an Observe is answered, it is counted how many pairs it lacks; they are given
//! and told at once, or the request is refused and that many are made, so that the second try succeeds.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, TimelineKey};
use vgem_proto::layout::fence_page;

use crate::accounts::Charge;
use crate::broker::Broker;
use crate::io::PairId;
use crate::pairs::Party;
use crate::queues::Places;
use crate::requests::Outcome;
use crate::reservation::Fence;

/// The pairs that somebody lacks, one entry for each.
pub(crate) type Lacking = Vec<(Party, Party)>;

/// A timeline, who signals it, and who is to see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) timeline: TimelineKey,
    pub(crate) signaller: Party,
    pub(crate) observer: Party,
}

impl Sight {
    pub(crate) fn of(fence: &Fence, observer: Party) -> Self {
        Self { timeline: fence.timeline, signaller: Party::Instance(fence.signaller), observer }
    }
}

impl Broker {
    /// Where a timeline is shown, whoever signals it; nothing if it is no more.
    pub(crate) fn shown_places(&self, timeline: TimelineKey) -> Option<&Places> {
        let of_queue = self.queues.get(timeline).map(|queue| &queue.shown);
        of_queue.or_else(|| self.promises.get(timeline).map(|promises| &promises.shown))
    }

    /// The pairs that are not there for each observer to see its fences.
    pub(crate) fn lacking_for(&self, wanted: impl Iterator<Item = Sight>) -> Lacking {
        let mut unseen = BTreeMap::<Party, BTreeMap<Party, BTreeSet<TimelineKey>>>::new();
        for Sight { timeline, signaller, observer } in wanted {
            if observer == signaller {
                continue;
            }
            let shown = self.shown_places(timeline);
            if shown.is_some_and(|shown| shown.of(observer).is_none()) {
                unseen.entry(observer).or_default().entry(signaller).or_default().insert(timeline);
            }
        }
        let mut lacking = Vec::new();
        for (observer, by_signaller) in unseen {
            let candidates = match observer {
                Party::Client(client) => self.clients.get(client).map(|client| &client.pairs),
                Party::Instance(id) => self.instances.get(&id).map(|instance| &instance.observes),
            };
            let rooms = self.pairs.rooms(candidates.map(Vec::as_slice).unwrap_or_default(), &self.queues);
            for (signaller, timelines) in by_signaller {
                let room = rooms.get(&signaller).copied().unwrap_or(0);
                let pairs = timelines.len().saturating_sub(room).div_ceil(usize::from(fence_page::SLOTS));
                lacking.extend(std::iter::repeat_n((signaller, observer), pairs));
            }
        }
        lacking
    }

    /// Whether there are as many spare pairs as a client's request lacks; if not, they are made for its next try.
    pub(crate) fn find_spares(&mut self, client: ClientKey, lacking: &[(Party, Party)]) -> Outcome {
        self.find_spare_pairs(client, lacking.len())
    }

    /// The same for a number of pairs.
    pub(crate) fn find_spare_pairs(&mut self, client: ClientKey, needed: usize) -> Outcome {
        let spare = self.pairs.spare();
        if needed > spare {
            self.pairs.wanted.insert(client, needed);
            self.pairs.refused = false;
            let text = "pages to show fences of other domains in; they are being made, try again";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(needed as u64, spare as u64));
        }
        self.pairs.wanted.remove(&client);
        Ok(())
    }

    /// Gives the pairs that [`Self::find_spares`] found.
    /// `charge`: what the observer's domain owes for them, one each.
    pub(crate) fn give_spares(&mut self, lacking: Lacking, mut charge: Option<Charge>) {
        for (signaller, observer) in lacking {
            let Some(id) = self.give_pair(signaller, observer) else { continue };
            if let (Some(pair), Some(charge)) = (self.pairs.get_mut(id), &mut charge) {
                pair.charge = Some(charge.split(1));
            }
        }
        if let Some(charge) = charge {
            self.accounts.give_back(charge);
        }
    }

    /// Whether signallers of other domains have room for the pages that a client lacks: they signal in each of them, so
    /// those who look must not be able to slow them down.
    pub(crate) fn find_guest_pages(&self, domain: DomainId, lacking: &[(Party, Party)]) -> Outcome {
        let most = self.config.bounds.guest_pages;
        let mut wanted = BTreeMap::<Party, usize>::new();
        lacking.iter().for_each(|(signaller, _)| *wanted.entry(*signaller).or_default() += 1);
        for (signaller, new) in wanted {
            let Some((home, signals, what)) = self.signals_of(signaller).filter(|(home, ..)| *home != domain)
            else {
                continue;
            };
            let (mut own, mut all) = (new, new);
            for pair in signals.iter().filter_map(|id| self.pairs.get(*id)) {
                let Party::Client(client) = pair.observer else { continue };
                let Some(of) = self.clients.get(client).map(|client| client.peer.domain) else { continue };
                own += usize::from(of == domain);
                all += usize::from(of != home);
            }
            for (count, most) in [(own, most), (all, most.saturating_mul(8))] {
                if count > most {
                    let text =
                        format!("pages in which one {what} of another domain shows its fences to others");
                    return Err(Refusal::new(ErrorCode::Exhausted, text).with(count as u64, most as u64));
                }
            }
        }
        Ok(())
    }

    /// The domain of a signaller, where it signals, and what it is.
    fn signals_of(&self, signaller: Party) -> Option<(DomainId, &[PairId], &'static str)> {
        match signaller {
            Party::Instance(id) => self
                .instances
                .get(&id)
                .map(|instance| (instance.domain, instance.signals.as_slice(), "device")),
            Party::Client(key) => {
                let client = self.clients.get(key)?;
                Some((client.peer.domain, client.signals.pairs.as_slice(), "client"))
            }
        }
    }
}
