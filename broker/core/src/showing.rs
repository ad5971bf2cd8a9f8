//! Where clients signal: primary pages, and the pages in which others see their timelines.
//!
//! ```text
//!   client ── primary page ──► broker       every timeline of the client has a slot in one; the broker only looks
//!      │ └─── page ──────────► instance     a job waits for a promise
//!      └───── page ──────────► client       somebody imported the timeline and observes it
//! ```
//!
//! A client has no thread that listens, so it is never told: the broker fills a new observer's slot itself, from the
//! primary page, and changes the word NEWS in the client's primary pages ([`Effect::News`], [`Effect::Fill`]). The
//! client finds that at its next signal, asks with TakeShown, and goes on in the new place. A slot is never used for a
//! second timeline, because the client may go on writing to it; a page goes when all its slots are spent.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, PageId, Time, TimelineHandle, TimelineKey};
use vgem_proto::jobs::ShownTimeline;
use vgem_proto::layout::fence_page;
use vgem_proto::limits;
use vgem_proto::message::client::{Shown as ShownMessage, TimelineOpened};
use vgem_proto::rights::TimelineRights;

use crate::accounts::{Charge, Resource};
use crate::broker::Broker;
use crate::credits::FDS_OF_PAIR;
use crate::io::{Attach, Effect, PairId};
use crate::objects::Awaiting;
use crate::opening::Place;
use crate::pairs::{Numbered, Party};
use crate::queues::{Shown, Waiters};
use crate::requests::Outcome;
use crate::timelines::{Primary, PrimaryPage, Signals};

impl Broker {
    /// Whether a client has room for one more timeline to signal, or a spare pair is there for it; how many fds it
    /// will be sent.
    pub(crate) fn find_primary_room(&mut self, client: ClientKey) -> Result<u64, Refusal> {
        let signals = &self.find_client(client)?.signals;
        if let Some(page) = signals.primaries.iter().find(|page| page.has_room()) {
            return Ok(if page.sent { 0 } else { FDS_OF_PAIR });
        }
        self.find_spare_pairs(client, 1)?;
        Ok(FDS_OF_PAIR)
    }

    /// Makes a client the signaller of a timeline. [`Self::find_primary_room`] has found room; `page` is the charge
    /// for a new primary page, if there is to be one.
    pub(crate) fn take_signalling(
        &mut self,
        key: ClientKey,
        timeline: TimelineKey,
        handle: TimelineHandle,
        charge: Charge,
    ) {
        let Some(client) = self.clients.get_mut(key) else {
            self.accounts.give_back(charge);
            return;
        };
        let signals = &mut client.signals;
        if !signals.primaries.iter().any(PrimaryPage::has_room)
            && let Some(pair) = self.pairs.take_spare()
        {
            let page = signals.take_page();
            signals.primaries.push(PrimaryPage { pair, page, given: 0, live: 0, sent: false, charge });
            let news = signals.news;
            self.out.push(Effect::News { pairs: vec![pair], news });
        } else {
            self.accounts.give_back(charge);
        }
        let Some(page) = signals.primaries.iter_mut().find(|page| page.has_room()) else { return };
        let primary = Primary { client: key, pair: page.pair, slot: page.given };
        page.given += 1;
        page.live += 1;
        signals.timelines.push(timeline);
        if let Some(promises) = self.promises.get_mut(timeline) {
            (promises.signaller, promises.primary) = (Some(key), Some(primary));
            promises.handle = handle;
        }
    }

    /// A timeline is not signalled in its primary slot any more; a page without any goes once it is used up.
    pub(crate) fn release_primary(&mut self, primary: Primary) {
        let Some(client) = self.clients.get_mut(primary.client) else { return };
        let Some(at) = client.signals.primaries.iter().position(|page| page.pair == primary.pair) else {
            return;
        };
        let Some(page) = client.signals.primaries.get_mut(at) else { return };
        page.live = page.live.saturating_sub(1);
        if page.live == 0 && page.given >= fence_page::SLOTS {
            let page = client.signals.primaries.swap_remove(at);
            // It is owed for until the client is told that it may forget it.
            client.signals.dropped.push_back((page.page, Some(page.charge)));
            self.out.push(Effect::DropPair { pair: page.pair });
            self.tell_news(primary.client);
        }
    }

    /// Answers with a handle of a timeline, and if it allows to signal with the place to signal in.
    pub(crate) fn say_timeline_opened(
        &mut self,
        asker: Awaiting,
        handle: TimelineHandle,
        key: TimelineKey,
        rights: TimelineRights,
        export: Charge,
    ) {
        let primary = self.promises.get(key).and_then(|promises| promises.primary);
        let primary = primary.filter(|_| rights.contains(TimelineRights::SIGNAL));
        let client = self.clients.get_mut(asker.client);
        let pages = client.map(|client| client.signals.primaries.as_mut_slice()).unwrap_or_default();
        let page = pages.iter_mut().find(|page| primary.is_some_and(|primary| primary.pair == page.pair));
        let (page, slot, new) = match (page, primary) {
            (Some(page), Some(Primary { pair, slot, .. })) => {
                (page.page, slot, (!std::mem::replace(&mut page.sent, true)).then_some(pair))
            }
            (Some(_) | None, Some(_) | None) => (PageId(0), 0, None),
        };
        let opened = TimelineOpened { timeline: handle, key, page, rights, slot, reserved: Zero };
        match new {
            Some(pair) => self.reply_with_fds(asker, opened, Attach::Signaller(pair), export),
            None => {
                self.accounts.give_back(export);
                self.reply(asker.link, asker.request, opened);
            }
        }
    }

    /// Shows a timeline of a client to one more observer; nothing if the observer has no slot for it.
    pub(crate) fn publish_promises(&mut self, key: TimelineKey, observer: Party) -> Option<Place> {
        let promises = self.promises.get(key)?;
        let (signaller, primary, timeline) = (promises.signaller?, promises.primary?, promises.handle);
        let candidates = match observer {
            Party::Client(client) => &self.clients.get(client)?.pairs,
            Party::Instance(id) => &self.instances.get(&id)?.observes,
        };
        let (pair, slot) = self.pairs.usable(candidates, Party::Client(signaller), &self.queues)?;
        let is_known = self.pairs.get(pair)?.numbers.is_some();
        let (numbers, is_new) = self.number_pages(pair)?;
        self.pairs.show(pair, slot, key);
        let signals = &mut self.clients.get_mut(signaller)?.signals;
        if !is_known {
            signals.pages.push_back((numbers.signal, pair));
        }
        signals.places.push_back(ShownTimeline {
            timeline,
            page: numbers.signal,
            slot,
            shown: 1,
            reserved: Zero,
        });
        self.tell_news(signaller);
        self.out.push(Effect::Fill { primary: (primary.pair, primary.slot), pair, slot, timeline: key });
        let page = u16::try_from(numbers.observe.0).unwrap_or(u16::MAX);
        let shown = Shown { observer, pair, slot, page, waiters: Waiters::new() };
        let promises = self.promises.get_mut(key)?;
        promises.was_shown = true;
        promises.shown.add(shown);
        self.failures_shown_to(key, observer);
        Some(Place { pair, page: numbers.observe, slot, is_new })
    }

    /// A client has closed a handle of a timeline: with its last one it does not see it any more.
    pub(crate) fn stop_showing_to(&mut self, client: ClientKey, key: TimelineKey) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let observer = Party::Client(client);
        if promises.shown.of(observer).is_none() {
            return;
        }
        let others = self.clients.get(client).map(|client| client.timelines.iter());
        if others.into_iter().flatten().any(|held| held.key == key) {
            return;
        }
        if let Some(shown) = promises.shown.remove(observer) {
            self.stop_showing(key, shown);
        }
    }

    /// Somebody does not look at a timeline any more: its signaller need not show it there.
    fn stop_showing(&mut self, key: TimelineKey, shown: Shown) {
        let Shown { pair, slot, waiters, .. } = shown;
        self.pairs.close(pair, slot, key, waiters);
        let numbers = self.pairs.get(pair).and_then(|pair| pair.numbers);
        let signaller =
            self.promises.get(key).and_then(|promises| Some((promises.signaller?, promises.handle)));
        if let (Some(numbers), Some((signaller, timeline))) = (numbers, signaller)
            && let Some(client) = self.clients.get_mut(signaller)
        {
            let page = numbers.signal;
            client.signals.places.push_back(ShownTimeline { timeline, page, slot, shown: 0, reserved: Zero });
            self.tell_news(signaller);
        }
        self.drop_spent_pair(pair);
    }

    /// Drops a pair of a client that signals once none of its slots will show anything again.
    pub(crate) fn drop_spent_pair(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get(id).filter(|pair| pair.is_spent()) else { return };
        match pair.observer {
            Party::Client(observer) => {
                if let Some(client) = self.clients.get_mut(observer) {
                    client.pairs.retain(|other| *other != id);
                }
                self.drop_pair_at_signaller(id);
            }
            Party::Instance(observer) => {
                if let Some(instance) = self.instances.get_mut(&observer)
                    && let Some(at) = instance.observes.iter().position(|other| *other == id)
                {
                    instance.observes.swap_remove(at);
                    instance.dead_pages.push(id);
                    self.leave_pair_at_client(id);
                    self.drop_quiet_pages(observer);
                }
            }
        }
    }

    /// The signaller of a pair will write to it no more: it forgets the page.
    fn leave_pair_at_client(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get(id) else { return };
        let Party::Client(signaller) = pair.signaller else { return };
        let numbers = pair.numbers;
        self.drop_pair_at_client(signaller, id, numbers);
    }

    /// A client that signals forgets a page.
    pub(crate) fn drop_pair_at_client(&mut self, key: ClientKey, id: PairId, numbers: Option<Numbered>) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let signals = &mut client.signals;
        let Some(at) = signals.pairs.iter().position(|other| *other == id) else { return };
        signals.pairs.swap_remove(at);
        let Some(Numbered { signal, .. }) = numbers else { return };
        signals.places.retain(|place| place.page != signal);
        let untold = signals.pages.len();
        signals.pages.retain(|(page, _)| *page != signal);
        if signals.pages.len() == untold {
            signals.dropped.push_back((signal, None));
            self.tell_news(key);
        }
    }

    /// Changes NEWS, if the client was told all that there was when it was changed last: until then it is to ask anyway.
    fn tell_news(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let signals = &mut client.signals;
        if signals.news != signals.told {
            return;
        }
        signals.news = signals.news.wrapping_add(1);
        let (pairs, news) = (signals.primaries.iter().map(|page| page.pair).collect(), signals.news);
        self.out.push(Effect::News { pairs, news });
    }

    /// A client asks where to show its timelines.
    pub(crate) fn take_shown(&mut self, asker: Awaiting) -> Outcome {
        let client = self.find_client(asker.client)?;
        let domain = client.peer.domain;
        let count = client.signals.pages.len().min(limits::SHOWN_PAGES);
        let export = self.accounts.charge(domain, Resource::Exports, FDS_OF_PAIR * count as u64)?;
        let Some(client) = self.clients.get_mut(asker.client) else {
            self.accounts.give_back(export);
            return Err(Refusal::new(ErrorCode::Gone, "the client is gone"));
        };
        let signals = &mut client.signals;
        let sent: Vec<(PageId, PairId)> = signals.pages.drain(..count).collect();
        // What is to be shown in a page that does not come along comes later, with it. Pages are numbered as they come,
        // and the first place in each comes after those in the pages before it.
        let unsent = signals.pages.front().map(|(page, _)| *page);
        let mut places = Vec::new();
        while places.len() < limits::SHOWN_PLACES
            && let Some(place) =
                signals.places.pop_front_if(|place| unsent.is_none_or(|page| place.page < page))
        {
            places.push(place);
        }
        let count = signals.dropped.len().min(limits::SHOWN_PAGES);
        let (dropped, charges): (Vec<PageId>, Vec<Option<Charge>>) = signals.dropped.drain(..count).unzip();
        signals.told = signals.news;
        let (news, more) = (signals.news, u8::from(signals.has_news()));
        charges.into_iter().flatten().for_each(|charge| self.accounts.give_back(charge));
        let (pages, pairs): (Vec<PageId>, Vec<PairId>) = sent.into_iter().unzip();
        let shown = ShownMessage { news, more, reserved: Zero, pages, places, dropped };
        if pairs.is_empty() {
            self.accounts.give_back(export);
            self.reply(asker.link, asker.request, shown);
        } else {
            self.reply_with_fds(asker, shown, Attach::Signallers(pairs), export);
        }
        Ok(())
    }

    /// A client that signals is gone: its timelines end, and then its pages go.
    pub(crate) fn client_leaves(
        &mut self,
        now: Time,
        (key, pid): (ClientKey, u32),
        mut signals: Signals,
        text: &str,
    ) {
        let timelines = std::mem::take(&mut signals.timelines);
        self.leavers.insert(key, signals);
        for timeline in timelines {
            self.leave_timeline(now, timeline, pid, (ErrorCode::OwnerDied, text.to_owned()));
        }
        self.drop_settled_leaver(key);
    }

    /// What a client signals in, also of one that is gone.
    pub(crate) fn signals_mut(&mut self, key: ClientKey) -> Option<&mut Signals> {
        match self.clients.get_mut(key) {
            Some(client) => Some(&mut client.signals),
            None => self.leavers.get_mut(&key),
        }
    }

    /// One timeline of a client is settled, which may be gone.
    pub(crate) fn leaver_settled(&mut self, key: ClientKey) {
        if let Some(signals) = self.signals_mut(key) {
            signals.ending = signals.ending.saturating_sub(1);
        }
        self.drop_settled_leaver(key);
    }

    /// The pages of a client that is gone go once nothing is left to be looked at in them.
    fn drop_settled_leaver(&mut self, key: ClientKey) {
        if self.leavers.get(&key).is_some_and(|signals| signals.ending == 0)
            && let Some(signals) = self.leavers.remove(&key)
        {
            self.drop_signals(signals);
        }
    }

    /// A client that signalled is gone, and so are its pages, but for those that jobs still look at.
    fn drop_signals(&mut self, mut signals: Signals) {
        for charge in signals.dropped.drain(..).filter_map(|(_, charge)| charge) {
            self.accounts.give_back(charge);
        }
        for page in signals.primaries.drain(..) {
            self.accounts.give_back(page.charge);
            self.out.push(Effect::DropPair { pair: page.pair });
        }
        for id in signals.pairs {
            let Some(pair) = self.pairs.get(id) else { continue };
            match pair.observer {
                Party::Client(client) => {
                    if let Some(client) = self.clients.get_mut(client) {
                        client.pairs.retain(|other| *other != id);
                    }
                    self.forget_pair(id);
                    self.out.push(Effect::DropPair { pair: id });
                }
                Party::Instance(observer) => {
                    if let Some(instance) = self.instances.get_mut(&observer) {
                        instance.observes.retain(|other| *other != id);
                        instance.dead_pages.push(id);
                    }
                    self.drop_quiet_pages(observer);
                }
            }
        }
    }
}
