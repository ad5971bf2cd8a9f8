//! Clients that signal, made of plain data: their pages, and what the shell does with them.
//!
//! What a client signals is at once true for everybody ([`crate::driver::Truth`]), as if it stored into every page:
//! that no observer misses a store is the protocol's business, and loom's. Here it is held against what the broker says: a
//! slot is filled only after the news of it, and a client is told of every place once.

use std::collections::{BTreeMap, BTreeSet};

use vgem_core::io::{Attach, Effect, Input, LinkId, PairId};
use vgem_proto::codec::Zero;
use vgem_proto::error::Failure;
use vgem_proto::ids::{PageId, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::PROMISE_REPLY;
use vgem_proto::message::client::{
    ClientMessage, CloseTimeline, CreateTimeline, Done, ExportTimeline, ImportTimeline, ObserveTimeline,
    PointState, Promise, QueryPoint, Shown, TakeShown, TimelineObserved, TimelineOpened,
};
use vgem_proto::rights::TimelineRights;

use crate::world::World;

/// What clients signal in, as they and the shell know it.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Pages a client signals in, by its own number.
    pub(crate) pages: BTreeMap<(LinkId, PageId), PairId>,
    /// NEWS of primary pages.
    pub(crate) news: BTreeMap<PairId, u32>,
    /// Filled slots that their client has not been told of yet.
    pub(crate) untold: BTreeSet<(PairId, u16)>,
    /// Verdicts on timelines whose signaller lives.
    pub(crate) killed: Vec<(PairId, u16)>,
    tokens: u64,
}

/// A timeline as a client knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) link: LinkId,
    pub(crate) handle: TimelineHandle,
    pub(crate) key: TimelineKey,
}

impl World {
    pub(crate) fn carry_out_signals(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::DrawToken { id } => {
                self.signals.tokens += 1;
                Some(Input::TokenDrawn { id, token: [7, self.signals.tokens] })
            }
            Effect::Look { timeline, pair, slot } => {
                assert_eq!(self.truth.slots.get(&(pair, slot)), Some(&timeline), "looks elsewhere");
                let settled = self.settled(timeline);
                Some(Input::Looked { timeline, value: settled.value, failures: settled.failures })
            }
            Effect::News { pairs, news } => {
                self.signals.news.extend(pairs.into_iter().map(|pair| (pair, news)));
                None
            }
            Effect::Fill { primary, pair, slot, timeline } => {
                assert_eq!(self.truth.slots.get(&primary), Some(&timeline), "fills from elsewhere");
                assert!(self.truth.slots.insert((pair, slot), timeline).is_none(), "a slot is used again");
                self.signals.untold.insert((pair, slot));
                None
            }
            Effect::KillSlot { pair, slot, dead_from, code, cause } => {
                let timeline = self.truth.slots[&(pair, slot)];
                assert!(self.truth.value[&timeline] < dead_from, "kills what has passed");
                self.truth.dead_from.insert(timeline, (dead_from, Failure { code, cause }));
                self.signals.killed.push((pair, slot));
                None
            }
            other => panic!("not of clients that signal: {other:?}"),
        }
    }

    /// Notes the pages that a client is sent to signal in, or to see a timeline in.
    pub(crate) fn take_signal_pages(&mut self, link: LinkId, message: &ClientMessage, attach: &Attach) {
        match message {
            ClientMessage::TimelineOpened(opened) if opened.rights.contains(TimelineRights::SIGNAL) => {
                if let Attach::Signaller(pair) = attach {
                    self.signals.pages.insert((link, opened.page), *pair);
                }
                let pair = self.signals.pages[&(link, opened.page)];
                let before = self.truth.slots.insert((pair, opened.slot), opened.key);
                assert_eq!(before, None, "a primary slot is used again");
                self.truth.value.entry(opened.key).or_insert(Point(0));
            }
            ClientMessage::TimelineObserved(observed) => {
                if let Attach::Observer(pair) = attach {
                    self.client_pages.insert((link, observed.page), *pair);
                }
                self.look_at_place(link, observed.page, observed.slot, observed.key);
            }
            ClientMessage::Shown(shown) => {
                let pairs = match attach {
                    Attach::Signallers(pairs) => pairs.as_slice(),
                    _ => &[],
                };
                let pages = shown.pages.iter().map(|page| (link, *page));
                self.signals.pages.extend(pages.zip(pairs.to_vec()));
                for place in shown.places.iter().filter(|place| place.shown == 1) {
                    let pair = self.signals.pages[&(link, place.page)];
                    assert!(self.signals.untold.remove(&(pair, place.slot)), "told twice: {place:?}");
                }
                for page in &shown.dropped {
                    assert!(self.signals.pages.remove(&(link, *page)).is_some(), "drops {page:?}, not known");
                }
            }
            _ => {}
        }
    }

    /// A new timeline of a client.
    pub(crate) fn timeline(&mut self, link: LinkId) -> Line {
        match self.ask(link, CreateTimeline { name: b"stage".to_vec() }) {
            Some(ClientMessage::TimelineOpened(opened)) => line(link, &opened),
            other => panic!("no timeline: {other:?}"),
        }
    }

    /// Signals a point, as the client does: without anybody.
    pub(crate) fn signal(&mut self, line: Line, point: u64) {
        let value = self.truth.value.get_mut(&line.key).expect("a timeline");
        assert!(value.0 < point, "points only grow");
        *value = Point(point);
    }

    pub(crate) fn promise_by(&mut self, line: Line, point: u64, ms: u64) -> Option<ClientMessage> {
        let until = self.now.after(ms * 1_000_000);
        let promise = Promise { timeline: line.handle, point: Point(point), until };
        let request = self.send(line.link, promise, PROMISE_REPLY, Time(0));
        self.answer_to(request).map(|reply| reply.message)
    }

    /// A promise that must be taken.
    pub(crate) fn promise(&mut self, line: Line, point: u64, ms: u64) {
        assert!(matches!(self.promise_by(line, point, ms), Some(ClientMessage::Done(Done {}))));
    }

    pub(crate) fn close_line(&mut self, line: Line) {
        let closed = self.ask(line.link, CloseTimeline { timeline: line.handle });
        assert!(matches!(closed, Some(ClientMessage::Done(_))), "{closed:?}");
    }

    pub(crate) fn export_line(
        &mut self,
        link: LinkId,
        timeline: TimelineHandle,
        rights: TimelineRights,
    ) -> [u64; 2] {
        match self.ask(link, ExportTimeline { timeline, rights, reserved: Zero }) {
            Some(ClientMessage::TimelineExported(exported)) => exported.token,
            other => panic!("no token: {other:?}"),
        }
    }

    pub(crate) fn import_line(&mut self, link: LinkId, token: [u64; 2]) -> Line {
        match self.ask(link, ImportTimeline { token }) {
            Some(ClientMessage::TimelineOpened(opened)) => line(link, &opened),
            other => panic!("not imported: {other:?}"),
        }
    }

    /// A handle of a timeline for another client.
    pub(crate) fn pass_line(&mut self, line: Line, to: LinkId, rights: TimelineRights) -> Line {
        let token = self.export_line(line.link, line.handle, rights);
        self.import_line(to, token)
    }

    pub(crate) fn observe_line(&mut self, line: Line) -> TimelineObserved {
        match self.ask(line.link, ObserveTimeline { timeline: line.handle }) {
            Some(ClientMessage::TimelineObserved(observed)) => observed,
            other => panic!("not observed: {other:?}"),
        }
    }

    pub(crate) fn take_shown(&mut self, link: LinkId) -> Shown {
        match self.ask(link, TakeShown {}) {
            Some(ClientMessage::Shown(shown)) => shown,
            other => panic!("nothing shown: {other:?}"),
        }
    }

    /// Asks how a point stands now; gives the request.
    pub(crate) fn query_later(&mut self, line: Line, point: u64) -> u64 {
        let query = QueryPoint { timeline: line.handle, point: Point(point) };
        self.send(line.link, query, 0, Time(0))
    }

    pub(crate) fn query(&mut self, line: Line, point: u64) -> PointState {
        let request = self.query_later(line, point);
        match self.answer_to(request).map(|reply| reply.message) {
            Some(ClientMessage::PointState(state)) => state,
            other => panic!("no state: {other:?}"),
        }
    }
}

fn line(link: LinkId, opened: &TimelineOpened) -> Line {
    Line { link, handle: opened.timeline, key: opened.key }
}
