//! What an access by a client itself has to wait for: the reservation of an object, shown to its reader (C1).
//!
//! The answer names the unfinished points and where the client sees them, in pages of its own; those that it has
//! not seen before come with it. The signallers may be of other domains: holding a handle with the right of the
//! access is what lets a client see that, and no more than whether a point has ended. What has ended already is not
//! among the points; what ended badly is told as the ranges it has left poisoned.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, PageId, TimelineKey};
use vgem_proto::jobs::{ObservedPoint, PoisonedRange};
use vgem_proto::limits;
use vgem_proto::message::client::{Done, Observe, Observed, Rewritten};
use vgem_proto::rights::Access;

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::credits::FDS_OF_PAIR;
use crate::io::{Attach, PairId};
use crate::objects::{Awaiting, Object};
use crate::pairs::Party;
use crate::policy::{self, UseGrant};
use crate::ranges::ByteRange;
use crate::requests::{Outcome, no_such_handle};
use crate::reservation::{Failures, JobWaits, PlannedWait, Touching};
use crate::spares::Sight;

impl Broker {
    /// A client asks what its own access to an object has to wait for.
    pub(crate) fn observe(&mut self, asker: Awaiting, observe: &Observe) -> Outcome {
        let (key, rights) = self.find_handle(asker.client, observe.object)?;
        let grant = policy::authorise_use(key, rights, observe.access)?;
        let waits = self.find_waits(&grant).ok_or_else(|| no_such_handle(observe.object.0))?;
        let most = limits::OBSERVED_POINTS;
        if waits.len() > most {
            let text = format!("unfinished points of one object; {most} can be observed at a time");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(waits.len() as u64, most as u64));
        }
        let observer = Party::Client(asker.client);
        let lacking = self.lacking_for(waits.iter().map(|wait| Sight::of(&wait.fence, observer)));
        let pages = lacking.len() + self.unsent_pages(asker.client);
        let most = limits::OBSERVED_PAGES;
        if pages > most {
            let text = format!("new pages of fences; {most} can be sent at a time");
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(pages as u64, most as u64));
        }
        let domain = self.find_client(asker.client)?.peer.domain;
        self.find_guest_pages(domain, &lacking)?;
        self.find_spares(asker.client, &lacking)?;
        let wanted =
            [(Resource::Exports, FDS_OF_PAIR * pages as u64), (Resource::Pages, lacking.len() as u64)];
        let [charge, given] = self.accounts.charge_all(domain, wanted)?;
        self.give_spares(lacking, Some(given));
        self.poison_shown_to(domain, key);
        let poison = self.objects.get(key).map(poison_of).unwrap_or_default();
        self.show_waits(asker, &waits, poison, charge);
        Ok(())
    }

    /// A client has written a range of an object anew: nobody fails any more for what went wrong there before. Nor for what
    /// goes wrong with jobs that it has seen end, and of which the broker has yet to hear.
    pub(crate) fn rewritten(&mut self, asker: Awaiting, rewritten: &Rewritten) -> Outcome {
        let (key, rights) = self.find_handle(asker.client, rewritten.object)?;
        let grant = policy::authorise_use(key, rights, Access::Write)?;
        let Some(object) = self.objects.get_mut(grant.object()) else {
            return Err(no_such_handle(rewritten.object.0));
        };
        let Some(end) = rewritten.offset.checked_add(rewritten.len).filter(|end| *end <= object.len) else {
            let text = format!("bytes from {} on of an object", rewritten.offset);
            let (value, limit) = (rewritten.len, object.len.saturating_sub(rewritten.offset));
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(value, limit));
        };
        object.reservation.replace(ByteRange { start: rewritten.offset, end });
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    fn find_waits(&self, grant: &UseGrant) -> Option<Vec<PlannedWait>> {
        let object = self.objects.get(grant.object())?;
        let touching = match grant.access() {
            Access::Read => Touching::Read,
            Access::Write => Touching::Update,
        };
        let mut waits = Vec::new();
        // No timeline ever has the generation 0: none of these points is the client's own.
        let mut list =
            JobWaits::begin(&mut waits, TimelineKey::default(), Failures::Matter, limits::OBSERVED_POINTS);
        object.reservation.waits(touching, ByteRange { start: 0, end: object.len }, &mut list);
        Some(waits)
    }

    /// Pages a client has not been sent, or not successfully.
    pub(crate) fn unsent_pages(&self, client: ClientKey) -> usize {
        let pairs = self.clients.get(client).map(|client| client.pairs.as_slice()).unwrap_or_default();
        pairs.iter().filter_map(|id| self.pairs.get(*id)).filter(|pair| !pair.sent).count()
    }

    fn show_waits(
        &mut self,
        asker: Awaiting,
        waits: &[PlannedWait],
        poison: Vec<PoisonedRange>,
        mut charge: Charge,
    ) {
        let (mut pages, mut pairs, mut points) = (Vec::new(), Vec::new(), Vec::new());
        for PlannedWait { fence, kind } in waits {
            let Some((pair, page, slot, is_new)) = self.place_for_client(fence.timeline, asker.client) else {
                self.bug(format!("no slot to show {} in, though there was one", fence.timeline));
                continue;
            };
            if is_new {
                pages.push(page);
                pairs.push(pair);
            }
            let (timeline, point, kind) = (fence.timeline, fence.point, *kind);
            points.push(ObservedPoint { timeline, point, page, slot, kind, reserved: Zero });
        }
        let spent = charge.split(FDS_OF_PAIR * pages.len() as u64);
        self.accounts.give_back(charge);
        let observed = Observed { pages, points, poison };
        if pairs.is_empty() {
            self.accounts.give_back(spent);
            self.reply(asker.link, asker.request, observed);
        } else {
            self.reply_with_fds(asker, observed, Attach::Observers(pairs), spent);
        }
    }

    /// Where a client sees a timeline, and whether it gets that page's fds now.
    pub(crate) fn place_for_client(
        &mut self,
        timeline: TimelineKey,
        client: ClientKey,
    ) -> Option<(PairId, PageId, u16, bool)> {
        let observer = Party::Client(client);
        let shown = self.shown_places(timeline)?.of(observer);
        match shown.map(|shown| (shown.pair, shown.slot)) {
            Some((pair, slot)) => {
                let (numbers, is_new) = self.number_pages(pair)?;
                Some((pair, numbers.observe, slot, is_new))
            }
            None => {
                let place = self.publish(timeline, observer)?;
                Some((place.pair, place.page, place.slot, place.is_new))
            }
        }
    }
}

/// What a reader of an object must know not to be as it should.
fn poison_of(object: &Object) -> Vec<PoisonedRange> {
    let told = object.reservation.poison().iter().map(|poison| PoisonedRange {
        offset: poison.range.start,
        len: poison.range.end - poison.range.start,
        cause: poison.failure.cause,
        code: poison.failure.code,
        reserved: Zero,
    });
    told.take(limits::OBSERVED_POISON).collect()
}
