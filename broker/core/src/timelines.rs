//! Timelines that clients signal: what a CPU stage has done, when a buffer is needed no longer.
//!
//! A queue is a timeline that a driver signals ([`crate::queues`]); these are the others. The broker is not on the
//! path of a signal here either: the client stores into its pages, and the broker looks only when it has to know.
//! What it keeps is who may signal, what was promised until when, and who sees it.
//!
//! ```text
//!          ┌──────────── imported ────────────┐
//!          ▼                                  │
//! made ─► Open ─ the right to signal leaves ► Passing ─ nobody takes it ─┐
//!          │ │                                                           ▼
//!          │ └─ a promise is not kept ────────────────────────────────► Ended ─ no handle left ─► removed
//!          └─ its signaller closes it, or is gone ─► Ending ─ looked at ─▲
//! ```
//!
//! A **promise** is an obligation with an owner and a moment. It never enters a reservation: those name the
//! instances that signal, and a client is none ([`crate::reservation::Fence`]; R7). It may gate jobs of its
//! signaller's own domain, which is bounded by its moment.
//!
//! Invariants: `promised` only grows; obligations are in the order of their points, all above `passed`; a timer runs
//! exactly while there is an obligation and nobody has ended the timeline; `Open` has a signaller and a place in its
//! primary page, `Passing` neither.

use std::collections::VecDeque;

use vgem_proto::error::Failure;
use vgem_proto::ids::{ClientKey, DomainId, PageId, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::jobs::ShownTimeline;
use vgem_proto::layout::fence_page;
use vgem_proto::rights::TimelineRights;

use crate::accounts::Charge;
use crate::io::PairId;
use crate::queues::{FORGOTTEN, Places, Watchers};

/// The first index of these timelines' keys: no queue has so high a one.
pub(crate) const FIRST: u32 = vgem_proto::ids::CLIENT_TIMELINES;

/// Whether a key is of a timeline that a client signals.
pub(crate) fn is_of_client(key: TimelineKey) -> bool {
    key.index >= FIRST
}

/// Where a timeline is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TimelineState {
    /// A client signals it.
    Open,
    /// The right to signal is on its way to another client.
    Passing,
    /// Its signaller is gone or has closed it; what it had signalled is being looked at.
    Ending,
    /// Nobody can signal any more what everybody believes.
    Ended,
}

/// What can happen to a timeline as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TimelineEvent {
    /// The right to signal was exported.
    Pass,
    /// It was imported.
    Take,
    /// It was not imported in time, or its exporter is gone.
    Lose,
    /// A promise was not kept.
    Break,
    /// The signaller closed its handle, or is gone.
    Leave,
    /// What it had signalled is known.
    Look,
}

impl TimelineState {
    /// The state after `event`; `None` if it cannot happen.
    pub(crate) fn after(self, event: TimelineEvent) -> Option<Self> {
        match (self, event) {
            (Self::Open, TimelineEvent::Pass) => Some(Self::Passing),
            (Self::Passing, TimelineEvent::Take) => Some(Self::Open),
            (Self::Passing, TimelineEvent::Lose) => Some(Self::Ended),
            (Self::Open, TimelineEvent::Break) => Some(Self::Ended),
            (Self::Open, TimelineEvent::Leave) => Some(Self::Ending),
            (Self::Ending, TimelineEvent::Look) => Some(Self::Ended),
            (Self::Open | Self::Ended, TimelineEvent::Look) => Some(self),
            (Self::Ended, TimelineEvent::Leave) => Some(Self::Ended),
            (Self::Open, TimelineEvent::Take | TimelineEvent::Lose)
            | (
                Self::Passing,
                TimelineEvent::Pass | TimelineEvent::Break | TimelineEvent::Leave | TimelineEvent::Look,
            )
            | (
                Self::Ending,
                TimelineEvent::Pass
                | TimelineEvent::Take
                | TimelineEvent::Lose
                | TimelineEvent::Break
                | TimelineEvent::Leave,
            )
            | (
                Self::Ended,
                TimelineEvent::Pass | TimelineEvent::Take | TimelineEvent::Lose | TimelineEvent::Break,
            ) => None,
        }
    }

    /// What tools call it.
    pub(crate) fn name(self, is_broken: bool) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Passing => "passing",
            Self::Ended if is_broken => "broken",
            Self::Ending | Self::Ended => "closed",
        }
    }
}

/// A promise that is not known to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Obligation {
    /// The last point that it covers.
    pub(crate) point: Point,
    /// When it must have been signalled.
    pub(crate) until: Time,
    /// When it was promised.
    pub(crate) since: Time,
}

/// The end of a timeline: from which point on all have failed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) from: Point,
    pub(crate) failure: Failure,
}

/// A slot in the primary page of the signaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Primary {
    /// Whose page it is.
    pub(crate) client: ClientKey,
    pub(crate) pair: PairId,
    pub(crate) slot: u16,
}

/// Failures of a timeline that are remembered, for who asks late; at times twice as many.
const FAILURES: usize = 64;

/// A timeline that a client signals.
#[derive(Debug)]
pub(crate) struct Promises {
    pub(crate) state: TimelineState,
    /// For people; an allegation, made harmless.
    pub(crate) name: String,
    /// Of its signaller, or of its last one.
    pub(crate) domain: DomainId,
    pub(crate) signaller: Option<ClientKey>,
    /// The signaller's handle.
    pub(crate) handle: TimelineHandle,
    pub(crate) primary: Option<Primary>,
    pub(crate) promised: Point,
    /// The last point known to have been signalled.
    pub(crate) passed: Point,
    pub(crate) obligations: VecDeque<Obligation>,
    /// When the first obligation is due, or the shell is asked.
    pub(crate) due: Option<Time>,
    /// How often the shell was asked what is signalled and has not answered yet.
    pub(crate) looks: u32,
    /// The step in which it was asked last.
    pub(crate) looked_in: u64,
    /// What points that are still unsignalled will fail with, while it is ending.
    pub(crate) leaving: Option<Failure>,
    pub(crate) verdict: Option<Verdict>,
    /// Failures that were announced, or seen in the primary page.
    pub(crate) failures: VecDeque<(Point, Failure)>,
    /// The last point that failed, or is to fail, and is no longer in `failures`.
    pub(crate) forgotten: Option<Point>,
    /// Somebody has seen it, or does.
    pub(crate) was_shown: bool,
    pub(crate) shown: Places,
    /// Handles of it, of all clients.
    pub(crate) handles: u32,
    /// Queues whose heads wait for it.
    pub(crate) watchers: Watchers,
}

impl Promises {
    pub(crate) fn new(name: String, domain: DomainId) -> Self {
        Self {
            state: TimelineState::Open,
            name,
            domain,
            signaller: None,
            handle: TimelineHandle(0),
            primary: None,
            promised: Point(0),
            passed: Point(0),
            obligations: VecDeque::new(),
            due: None,
            looks: 0,
            looked_in: 0,
            leaving: None,
            verdict: None,
            failures: VecDeque::new(),
            forgotten: None,
            was_shown: false,
            shown: Places::default(),
            handles: 0,
            watchers: Watchers::new(),
        }
    }

    /// How a point failed, if it is known to have. One of which nothing is known counts as failed, and with
    /// nobody's cause.
    pub(crate) fn failure_of(&self, point: Point) -> Option<Failure> {
        let ended = self.verdict.filter(|verdict| point >= verdict.from).map(|verdict| verdict.failure);
        let announced = || {
            let known = self.failures.iter().find(|(failed, _)| *failed == point);
            let forgotten = || self.forgotten.filter(|last| point <= *last).map(|_| FORGOTTEN);
            known.map(|(_, failure)| *failure).or_else(forgotten)
        };
        ended.or_else(|| (point <= self.passed).then(announced).flatten())
    }

    /// Whether a point is known to have been signalled, or to be over.
    pub(crate) fn has_passed(&self, point: Point) -> bool {
        point <= self.passed || self.verdict.is_some_and(|verdict| point >= verdict.from)
    }

    /// How a point failed, or is to fail, if that is remembered.
    pub(crate) fn known_failure_of(&self, point: Point) -> Option<Failure> {
        let ended = self.verdict.filter(|verdict| point >= verdict.from).map(|verdict| verdict.failure);
        let announced = || self.failures.iter().find(|(failed, _)| *failed == point);
        ended.or_else(|| announced().map(|(_, failure)| *failure))
    }

    /// Remembers why a point is going to fail; what was said of it first stands. Gives the failures that are forgotten
    /// for it.
    pub(crate) fn note_failure(&mut self, point: Point, failure: Failure) -> Vec<(Point, Failure)> {
        let is_forgotten = self.forgotten.is_some_and(|last| point <= last);
        if is_forgotten || self.failures.iter().any(|(failed, _)| *failed == point) {
            return Vec::new();
        }
        let over = if self.failures.len() < 2 * FAILURES { 0 } else { FAILURES };
        let old: Vec<_> = self.failures.drain(..over).collect();
        self.forgotten = old.iter().map(|(failed, _)| *failed).chain(self.forgotten).max();
        self.failures.push_back((point, failure));
        old
    }

    /// Takes note of what is signalled; forgets the promises that are kept.
    pub(crate) fn advance(&mut self, value: Point) {
        self.passed = self.passed.max(value);
        while self.obligations.front().is_some_and(|first| first.point <= self.passed) {
            self.obligations.pop_front();
        }
    }

    /// The first promise that was not kept in time. An earlier one may have a later moment.
    pub(crate) fn overdue(&self, now: Time) -> Option<Obligation> {
        self.obligations.iter().find(|obligation| obligation.until <= now).copied()
    }

    /// When the next promise must have been kept.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.obligations.iter().map(|obligation| obligation.until).min()
    }

    /// Whether it may be given to another signaller: nobody could notice.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state == TimelineState::Open
            && self.promised == Point(0)
            && self.passed == Point(0)
            && self.failures.is_empty()
            && !self.was_shown
            && self.looks == 0
    }
}

/// A client's handle of a timeline, its own or another's.
#[derive(Debug)]
pub(crate) struct TimelineHeld {
    pub(crate) key: TimelineKey,
    pub(crate) rights: TimelineRights,
    pub(crate) charge: Charge,
}

/// A primary page: the broker is its observer.
#[derive(Debug)]
pub(crate) struct PrimaryPage {
    pub(crate) pair: PairId,
    /// The client's number of it.
    pub(crate) page: PageId,
    /// Slots given so far; none is given twice.
    pub(crate) given: u16,
    /// Those of them whose timelines live.
    pub(crate) live: u16,
    /// Whether the client has its fds.
    pub(crate) sent: bool,
    pub(crate) charge: Charge,
}

impl PrimaryPage {
    pub(crate) fn has_room(&self) -> bool {
        self.given < fence_page::SLOTS
    }
}

/// What a client signals in, and what it has not been told of that yet.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) primaries: Vec<PrimaryPage>,
    /// Pairs in which it signals to others.
    pub(crate) pairs: Vec<PairId>,
    /// Timelines that it signals.
    pub(crate) timelines: Vec<TimelineKey>,
    /// Timelines that it signals no more, and that have a place in a primary page until that was looked at.
    pub(crate) ending: usize,
    next_page: u32,
    /// What NEWS is, and was when the client was answered last.
    pub(crate) news: u32,
    pub(crate) told: u32,
    /// Pages it is to be sent.
    pub(crate) pages: VecDeque<(PageId, PairId)>,
    /// Places it is to be told.
    pub(crate) places: VecDeque<ShownTimeline>,
    /// Pages it is to forget; of a primary page what is owed until then, so that the list has an end.
    pub(crate) dropped: VecDeque<(PageId, Option<Charge>)>,
}

impl Signals {
    /// A number for a page in which the client signals.
    pub(crate) fn take_page(&mut self) -> PageId {
        self.next_page += 1;
        PageId(self.next_page - 1)
    }

    /// Whether there is something to tell.
    pub(crate) fn has_news(&self) -> bool {
        !(self.pages.is_empty() && self.places.is_empty() && self.dropped.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_timeline_are_these() {
        let states =
            [TimelineState::Open, TimelineState::Passing, TimelineState::Ending, TimelineState::Ended];
        let events = [
            TimelineEvent::Pass,
            TimelineEvent::Take,
            TimelineEvent::Lose,
            TimelineEvent::Break,
            TimelineEvent::Leave,
            TimelineEvent::Look,
        ];
        let mut table = String::new();
        for state in states {
            for event in events {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{state:?} --{event:?}--> {next:?}\n"));
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Open --Pass--> Passing
        Open --Break--> Ended
        Open --Leave--> Ending
        Open --Look--> Open
        Passing --Take--> Open
        Passing --Lose--> Ended
        Ending --Look--> Ended
        Ended --Leave--> Ended
        Ended --Look--> Ended
        ");
    }

    #[test]
    fn a_promise_with_an_earlier_moment_than_those_before_it_is_overdue_first() {
        let mut promises = Promises::new(String::new(), DomainId(1));
        for (point, until) in [(3, 50), (5, 20)] {
            let (point, until, since) = (Point(point), Time(until), Time(1));
            promises.obligations.push_back(Obligation { point, until, since });
        }
        assert_eq!(promises.next_due(), Some(Time(20)));
        promises.advance(Point(3));
        assert_eq!(promises.overdue(Time(20)).map(|o| o.point), Some(Point(5)));
        promises.advance(Point(9));
        assert_eq!((promises.overdue(Time(90)), promises.next_due()), (None, None));
    }
}
