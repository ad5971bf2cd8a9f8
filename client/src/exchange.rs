//! The exchange: which request awaits which answer. Sans-IO: it sees bytes and fds, never a socket or a clock.
//!
//! ```text
//!   begin() ──► Awaited ──answer──► Arrived ──take()──► gone
//!                  │ forsake()         │ forsake(): dropped, its fds closed
//!                  ▼
//!              Forsaken ──answer──► dropped, its fds closed
//!
//!   number() ──► (a pipelined submit: answered only if it is refused) ──Refused──► remembered by its cause,
//!                                                                     or, if its points were not used, told by its number
//! ```
//!
//! A broker takes so many imports of one client at a time and refuses more, so an import gets its number only when it is
//! its turn; it is under way until it is answered, whoever still waits for that.
//!
//! Both fronts use it: the blocking one under a mutex with one receiver at a time, the asynchronous one likewise.
//!
//! A broker hands out a page once, and says what to show once. So pages, and what is to be shown, are kept in the order they
//! came, whoever asked and whether he still waits: whoever reads a later answer finds them.
//!
//! Invariants: an answer is delivered once; every fd that arrives is taken with its answer or its page, or closed, and every
//! handle is taken or told as a stray, to be closed; the memory of refusals is bounded.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;

use vgem_proto::codec::Malformed;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{CauseId, Handle, PageId};
use vgem_proto::message::Sender;
use vgem_proto::message::client::{
    ClientMessage, CloseObject, CloseQueue, CloseTimeline, Event, Refused, Shown, Traced,
};

use crate::monitor::KEPT;

/// Imports of one client that a broker takes at a time.
pub const IMPORTS: usize = 16;

/// Refusals of pipelined submits that are remembered.
const REFUSALS: usize = 64;

/// A request of this connection; never 0, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// An answer and the fds that came with it.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub message: ClientMessage,
    /// Its fds, as many as the message table says.
    pub fds: Vec<OwnedFd>,
    /// Its place among all that arrived: what came later, the broker said later.
    pub order: u64,
}

/// A page that the broker handed out.
#[derive(Debug)]
pub struct ArrivedPage {
    /// Which kind of page: they are numbered apart.
    pub kind: PageKind,
    /// Its number.
    pub number: PageId,
    /// The fence page, and the interest page.
    pub fds: [OwnedFd; 2],
}

/// What counts from the moment it arrives, whoever asked.
#[derive(Debug)]
pub enum Arrived {
    /// A page.
    Page(ArrivedPage),
    /// Where to show timelines, after the pages that came with it.
    Shown(Shown),
}

/// Who signals in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// Somebody else; this client observes it.
    Observed,
    /// This client.
    Signalled,
}

/// What the broker sent that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes are no message of the broker's.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer is to no request of ours.
    #[error("an answer to request {0}, which was not made")]
    Unasked(u64),
}

#[derive(Debug)]
enum Pending {
    Awaited,
    Arrived(Reply),
    Forsaken,
}

/// Requests and answers of one connection.
#[derive(Debug, Default)]
pub struct Exchange {
    last: u64,
    arrived: u64,
    pending: HashMap<u64, Pending>,
    forsaken: usize,
    /// Imports under way, and whether they were sent.
    imports: HashMap<u64, bool>,
    refusals: VecDeque<(CauseId, Refusal)>,
    unused: Vec<(RequestId, Refusal)>,
    strays: Vec<ClientMessage>,
    kept: Vec<Arrived>,
    /// Events not taken yet, once they were asked for.
    events: Option<VecDeque<Event>>,
    /// Events that found no room since the last one that did.
    lost: u64,
    /// Jobs that ended and were not taken yet, once they were asked for.
    traced: Option<VecDeque<Traced>>,
    /// Jobs that found no room since the last that did.
    jobs_lost: u64,
}

impl Exchange {
    /// An exchange before its first request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Numbers a request whose answer will be taken.
    #[must_use]
    pub fn begin(&mut self) -> RequestId {
        let id = self.number();
        self.pending.insert(id.0, Pending::Awaited);
        id
    }

    /// Numbers an import, if it is its turn: less than [`IMPORTS`] are under way.
    #[must_use]
    pub fn begin_import(&mut self) -> Option<RequestId> {
        if self.imports.len() >= IMPORTS {
            return None;
        }
        let id = self.begin();
        self.imports.insert(id.0, false);
        Some(id)
    }

    /// An import was sent: it is under way until it is answered.
    pub fn sent_import(&mut self, id: RequestId) {
        // It may be answered already.
        if let Some(sent) = self.imports.get_mut(&id.0) {
            *sent = true;
        }
    }

    /// Numbers a request whose answer interests nobody.
    #[must_use]
    pub fn begin_unheard(&mut self) -> RequestId {
        let id = self.number();
        self.pending.insert(id.0, Pending::Forsaken);
        self.forsaken += 1;
        id
    }

    /// Numbers a request that is answered only if it is refused.
    #[must_use]
    pub fn number(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    /// Gives up on an answer. If it comes after all it is dropped. An import that was not sent never was:
    /// true if it is another's turn for that.
    pub fn forsake(&mut self, id: RequestId) -> bool {
        if self.imports.get(&id.0) == Some(&false) {
            self.imports.remove(&id.0);
            self.pending.remove(&id.0);
            return true;
        }
        if let Some(pending) = self.pending.get_mut(&id.0) {
            match pending {
                Pending::Awaited => {
                    *pending = Pending::Forsaken;
                    self.forsaken += 1;
                }
                Pending::Arrived(reply) => {
                    self.strays.extend(strays(&reply.message));
                    self.pending.remove(&id.0);
                }
                Pending::Forsaken => {}
            }
        }
        false
    }

    /// The answer to a request, once, if it is here.
    #[must_use]
    pub fn take(&mut self, id: RequestId) -> Option<Reply> {
        match self.pending.get(&id.0) {
            Some(Pending::Arrived(_)) => match self.pending.remove(&id.0) {
                Some(Pending::Arrived(reply)) => Some(reply),
                _ => None,
            },
            _ => None,
        }
    }

    /// How many answers are still to come that interest nobody: time to read them, if many.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.forsaken
    }

    /// Takes in one packet.
    ///
    /// # Errors
    /// [`Fault`] if it breaks the protocol. Its fds are closed then.
    pub fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), Fault> {
        let (head, message) = ClientMessage::decode(bytes, Sender::Broker, fds.len())?;
        let fds = self.keep_pages(&message, fds);
        self.arrived += 1;
        let order = self.arrived;
        self.imports.remove(&head.request);
        match self.pending.get_mut(&head.request) {
            Some(pending @ Pending::Awaited) => *pending = Pending::Arrived(Reply { message, fds, order }),
            Some(Pending::Forsaken) => {
                self.pending.remove(&head.request);
                self.forsaken -= 1;
                match message {
                    ClientMessage::Refused(refused) => self.remember(RequestId(head.request), refused),
                    other => self.strays.extend(strays(&other)),
                }
            }
            Some(Pending::Arrived(_)) => return Err(Fault::Unasked(head.request)),
            None => match message {
                ClientMessage::Event(event) if head.request == 0 && self.events.is_some() => self.told(event),
                ClientMessage::Traced(traced) if head.request == 0 && self.traced.is_some() => {
                    self.noted(traced);
                }
                ClientMessage::Refused(refused) if head.request <= self.last => {
                    self.remember(RequestId(head.request), refused);
                }
                _ => return Err(Fault::Unasked(head.request)),
            },
        }
        Ok(())
    }

    /// The refusal of a pipelined batch, by the cause its points failed with.
    #[must_use]
    pub fn refusal(&self, cause: CauseId) -> Option<&Refusal> {
        self.refusals.iter().rev().find(|(known, _)| *known == cause).map(|(_, refusal)| refusal)
    }

    /// Whether [`Exchange::take_unused`] has something to tell.
    #[must_use]
    pub fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Pipelined batches that were refused without using their points, since the last call.
    #[must_use]
    pub fn take_unused(&mut self) -> Vec<(RequestId, Refusal)> {
        std::mem::take(&mut self.unused)
    }

    /// From now on events may come.
    pub fn expect_events(&mut self) {
        self.events.get_or_insert_default();
    }

    /// The oldest event that was not taken yet.
    #[must_use]
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.as_mut()?.pop_front()
    }

    fn told(&mut self, mut event: Event) {
        let Some(events) = &mut self.events else { return };
        if events.len() >= KEPT {
            self.lost = self.lost.saturating_add(event.lost).saturating_add(1);
            return;
        }
        event.lost = event.lost.saturating_add(std::mem::take(&mut self.lost));
        events.push_back(event);
    }

    /// From now on jobs that ended may be told.
    pub fn expect_traced(&mut self) {
        self.traced.get_or_insert_default();
    }

    /// The oldest jobs that were told and not taken yet.
    #[must_use]
    pub fn take_traced(&mut self) -> Option<Traced> {
        self.traced.as_mut()?.pop_front()
    }

    fn noted(&mut self, mut traced: Traced) {
        let Some(all) = &mut self.traced else { return };
        if all.len() >= KEPT {
            let count = traced.lost.saturating_add(traced.jobs.len() as u64);
            self.jobs_lost = self.jobs_lost.saturating_add(count);
            return;
        }
        traced.lost = traced.lost.saturating_add(std::mem::take(&mut self.jobs_lost));
        all.push_back(traced);
    }

    /// What closes the handles that came with answers nobody waits for any more, since the last call.
    #[must_use]
    pub fn take_strays(&mut self) -> Vec<ClientMessage> {
        std::mem::take(&mut self.strays)
    }

    /// Pages, and what is to be shown, in the order they came since the last call, with whichever answers.
    #[must_use]
    pub fn take_arrived(&mut self) -> Vec<Arrived> {
        std::mem::take(&mut self.kept)
    }

    /// Takes pages, and what is to be shown, out of a message; the fds that are left.
    fn keep_pages(&mut self, message: &ClientMessage, fds: Vec<OwnedFd>) -> Vec<OwnedFd> {
        let (kind, numbers): (_, &[PageId]) = match message {
            ClientMessage::QueueOpened(opened) => (PageKind::Observed, &[opened.page]),
            ClientMessage::TimelineObserved(seen) => (PageKind::Observed, &[seen.page]),
            ClientMessage::Observed(observed) => (PageKind::Observed, &observed.pages),
            ClientMessage::TimelineOpened(opened) => (PageKind::Signalled, &[opened.page]),
            ClientMessage::Shown(shown) => (PageKind::Signalled, &shown.pages),
            _ => return fds,
        };
        let mut fds = fds.into_iter();
        for number in numbers {
            // Counted by the message; no fds are for a page that came before.
            let Some(pair) = fds.next().zip(fds.next()) else { break };
            self.kept.push(Arrived::Page(ArrivedPage { kind, number: *number, fds: pair.into() }));
        }
        if let ClientMessage::Shown(shown) = message {
            self.kept.push(Arrived::Shown(shown.clone()));
        }
        fds.collect()
    }

    fn remember(&mut self, id: RequestId, refused: Refused) {
        if refused.cause == CauseId::NONE {
            self.unused.push((id, refusal(refused)));
            return;
        }
        // Its cause is the loss of the device: the broker knows more of that than this refusal says.
        if refused.code == ErrorCode::Gone {
            return;
        }
        if self.refusals.len() >= REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back((refused.cause, refusal(refused)));
    }
}

/// What closes the handles that a message brings.
fn strays(message: &ClientMessage) -> Vec<ClientMessage> {
    let object = |object: &Handle| CloseObject { object: *object }.into();
    match message {
        ClientMessage::Imported(imported) => vec![object(&imported.object)],
        ClientMessage::ObjectCreated(created) => created.objects.iter().map(object).collect(),
        ClientMessage::QueueOpened(opened) => vec![CloseQueue { queue: opened.queue }.into()],
        ClientMessage::TimelineOpened(opened) => vec![CloseTimeline { timeline: opened.timeline }.into()],
        _ => Vec::new(),
    }
}

/// A refusal as the wire says it.
#[must_use]
pub fn refusal(refused: Refused) -> Refusal {
    let some = |number: u16| (number != u16::MAX).then_some(number);
    Refusal {
        code: refused.code,
        job: some(refused.job),
        part: some(refused.part),
        value: refused.value,
        limit: refused.limit,
        text: String::from_utf8_lossy(&refused.text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::ids::{Time, TimelineHandle, TimelineKey};
    use vgem_proto::message::client::{Done, Exported, TimelineOpened};
    use vgem_proto::rights::TimelineRights;

    use super::*;

    fn done(request: u64) -> Vec<u8> {
        Done {}.encode(request, Time(0), 0)
    }

    fn refused(request: u64, cause: u64) -> Vec<u8> {
        let none = u16::MAX;
        let text = b"why".to_vec();
        let (code, cause) = (ErrorCode::Denied, CauseId(cause));
        Refused { code, job: 3, part: none, value: 0, limit: 0, cause, text }.encode(request, Time(0), 0)
    }

    #[test]
    fn an_answer_is_taken_once() {
        let mut exchange = Exchange::new();
        let id = exchange.begin();
        exchange.receive(&done(id.0), Vec::new()).expect("expected");
        assert!(exchange.take(id).is_some() && exchange.take(id).is_none());
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let mut exchange = Exchange::new();
        let (a, b) = (exchange.begin(), exchange.begin());
        exchange.receive(&done(b.0), Vec::new()).expect("expected");
        assert!(exchange.take(a).is_none() && exchange.take(b).is_some());
    }

    #[test]
    fn an_answer_to_nothing_is_a_fault() {
        assert_eq!(Exchange::new().receive(&done(1), Vec::new()), Err(Fault::Unasked(1)));
    }

    #[test]
    fn a_second_answer_is_a_fault() {
        let mut exchange = Exchange::new();
        let id = exchange.begin();
        exchange.receive(&done(id.0), Vec::new()).expect("expected");
        assert_eq!(exchange.receive(&done(id.0), Vec::new()), Err(Fault::Unasked(id.0)));
    }

    #[test]
    fn a_late_answer_to_a_forsaken_request_closes_its_fds() {
        let mut exchange = Exchange::new();
        let id = exchange.begin();
        exchange.forsake(id);
        let (ours, theirs) = vgem_os::seqpacket::Socket::pair().expect("a pair");
        let answer = Exported { len: 1 }.encode(id.0, Time(0), 0);
        exchange.receive(&answer, vec![theirs.into()]).expect("expected");
        let gone = crate::patience::ready(&ours, crate::patience::Ready::Read, std::time::Duration::ZERO);
        assert!(gone && exchange.unheard() == 0);
    }

    #[test]
    fn a_page_that_came_with_a_forsaken_answer_is_kept_and_its_handle_is_closed() {
        let mut exchange = Exchange::new();
        let id = exchange.begin();
        exchange.forsake(id);
        let (page, interest) = vgem_os::seqpacket::Socket::pair().expect("a pair");
        let (timeline, key) = (TimelineHandle(9), TimelineKey { index: 9, generation: 1 });
        let (page_id, rights) = (PageId(3), TimelineRights::all());
        let opened = TimelineOpened {
            timeline,
            key,
            page: page_id,
            rights,
            slot: 0,
            reserved: vgem_proto::codec::Zero,
        };
        let fds = vec![page.into(), interest.into()];
        exchange.receive(&opened.encode(id.0, Time(0), 0), fds).expect("expected");
        let [Arrived::Page(page)] = &exchange.take_arrived()[..] else { panic!("one page") };
        assert_eq!((page.kind, page.number), (PageKind::Signalled, PageId(3)));
        assert_eq!(exchange.take_strays(), [CloseTimeline { timeline }.into()]);
    }

    #[test]
    fn what_is_to_be_shown_is_kept_also_if_nobody_waits_for_it() {
        let mut exchange = Exchange::new();
        let ids = [exchange.begin(), exchange.begin()];
        exchange.forsake(ids[0]);
        for (news, id) in (1..).zip(ids) {
            let (pages, places, dropped) = (vec![], vec![], vec![]);
            let shown = Shown { news, more: 0, reserved: vgem_proto::codec::Zero, pages, places, dropped };
            exchange.receive(&shown.encode(id.0, Time(0), 0), Vec::new()).expect("expected");
        }
        let kept = exchange.take_arrived();
        assert!(matches!(&kept[..], [Arrived::Shown(a), Arrived::Shown(b)] if (a.news, b.news) == (1, 2)));
        assert!(exchange.take_arrived().is_empty());
    }

    #[test]
    fn the_seventeenth_import_waits_for_an_answer_to_one_that_was_sent_or_the_end_of_one_that_was_not() {
        let mut exchange = Exchange::new();
        let all: Vec<_> = (0..IMPORTS).filter_map(|_| exchange.begin_import()).collect();
        all.iter().skip(1).for_each(|id| exchange.sent_import(*id));
        assert!(all.len() == IMPORTS && exchange.begin_import().is_none());
        exchange.forsake(all[0]);
        let unsent = exchange.begin_import();
        exchange.forsake(all[1]);
        assert!(unsent.is_some() && exchange.begin_import().is_none(), "the broker has it still");
        exchange.receive(&refused(all[1].0, 0), Vec::new()).expect("expected");
        assert!(exchange.begin_import().is_some());
    }

    #[test]
    fn a_refused_pipelined_batch_is_found_by_its_cause() {
        let mut exchange = Exchange::new();
        let id = exchange.number();
        exchange.receive(&refused(id.0, 77), Vec::new()).expect("expected");
        let refusal = exchange.refusal(CauseId(77)).expect("remembered");
        assert_eq!((refusal.code, refusal.job, refusal.part), (ErrorCode::Denied, Some(3), None));
    }

    #[test]
    fn a_batch_refused_without_using_its_points_is_told_once_by_its_number() {
        let mut exchange = Exchange::new();
        let id = exchange.number();
        exchange.receive(&refused(id.0, 0), Vec::new()).expect("expected");
        let told: Vec<_> =
            exchange.take_unused().into_iter().map(|(id, refusal)| (id, refusal.code)).collect();
        assert_eq!((told, exchange.take_unused().len()), (vec![(id, ErrorCode::Denied)], 0));
    }

    #[test]
    fn the_memory_of_refusals_is_bounded() {
        let mut exchange = Exchange::new();
        for cause in 1..=200 {
            let id = exchange.number();
            exchange.receive(&refused(id.0, cause), Vec::new()).expect("expected");
        }
        assert!(exchange.refusals.len() == REFUSALS && exchange.refusal(CauseId(200)).is_some());
    }
}
