//! Pairs of pages: who shows which timeline to whom, and where.
//!
//! A pair is one fence page and one interest page between one signaller and one observer, each an instance or a
//! client. It is made ahead, given to two parties, told to them when its first slot is used, and kept
//! for them until either goes. A slot shows one timeline. When the timeline closes, the slot stays as it is, so
//! that late readers see how it ended; it is used again, oldest first, once nobody waits there any more.
//!
//! **Routes.** A batch must never fail because one instance cannot be shown another's timeline. So for every two
//! instances A and B of a domain that both have queues, the pairs from A to B always have room for every
//! timeline of A that B does not see yet. Opening a queue makes that room first ([`crate::opening`]). Between
//! domains pairs are given at need ([`crate::spares`]).
//!
//! Both parties number their pages themselves: a driver signal and observe pages apart, a client all of them.

use std::collections::BTreeMap;

use vgem_proto::ids::{ClientKey, InstanceId, PageId, Point, TimelineKey};
use vgem_proto::layout::fence_page;

use crate::accounts::Charge;
use crate::io::PairId;
use crate::queues::{Queue, QueueState, Waiters};
use crate::tables::Table;

/// Who signals, or observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Party {
    Client(ClientKey),
    Instance(InstanceId),
}

/// A slot of a page.
#[derive(Debug, Default)]
pub(crate) enum Slot {
    /// Never used.
    #[default]
    Free,
    /// Shows a timeline.
    Shown(TimelineKey),
    /// Showed one that is closed.
    Closed {
        /// Which.
        timeline: TimelineKey,
        /// Who may still look.
        waiters: Waiters,
        /// The closings before this one.
        order: u64,
        /// Whether the broker gave a verdict on it, which must be lifted before the slot is used again.
        dead: bool,
    },
}

/// The numbers by which the parties know the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbered {
    /// The signaller's.
    pub(crate) signal: PageId,
    /// The observer's.
    pub(crate) observe: PageId,
}

/// A pair that two parties have.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) signaller: Party,
    pub(crate) observer: Party,
    /// Set once the signaller has its fds.
    pub(crate) numbers: Option<Numbered>,
    /// Whether the observer has its fds.
    pub(crate) sent: bool,
    /// What the observer's domain owes for it, if it was given to observe others.
    pub(crate) charge: Option<Charge>,
    pub(crate) slots: [Slot; fence_page::SLOTS as usize],
}

impl Pair {
    fn new(signaller: Party, observer: Party) -> Self {
        Self { signaller, observer, numbers: None, sent: false, charge: None, slots: Default::default() }
    }

    /// Whether some timeline is shown here.
    pub(crate) fn shows(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Shown(_)))
    }

    /// The best slot to use next: one that is free, else the one that closed first of those nobody looks at. A client
    /// that signals goes on writing to a slot until it has heard that it should not: there no slot is used again.
    fn usable(&self, queues: &Table<TimelineKey, Queue>) -> Option<(u64, u16)> {
        (0u16..)
            .zip(&self.slots)
            .filter_map(|(place, slot)| match slot {
                Slot::Free => Some((0, place)),
                Slot::Shown(_) => None,
                Slot::Closed { order, .. } => self.is_usable(slot, queues).then_some((*order, place)),
            })
            .min()
    }

    fn may_use_again(&self) -> bool {
        matches!(self.signaller, Party::Instance(_))
    }

    /// Whether nothing is shown here any more, nor will be.
    pub(crate) fn is_spent(&self) -> bool {
        !self.may_use_again() && self.slots.iter().all(|slot| matches!(slot, Slot::Closed { .. }))
    }

    fn room(&self, queues: &Table<TimelineKey, Queue>) -> usize {
        self.slots.iter().filter(|slot| self.is_usable(slot, queues)).count()
    }

    /// Whether a timeline may be put into a slot. A verdict stays where its owner may look for it until he has closed
    /// the queue.
    fn is_usable(&self, slot: &Slot, queues: &Table<TimelineKey, Queue>) -> bool {
        match slot {
            Slot::Free => true,
            Slot::Shown(_) => false,
            Slot::Closed { timeline, waiters, dead, .. } => {
                self.may_use_again() && quiet(waiters, queues) && !(*dead && queues.contains(*timeline))
            }
        }
    }
}

/// Whether every job that waited in a slot has ended.
pub(crate) fn quiet(waiters: &Waiters, queues: &Table<TimelineKey, Queue>) -> bool {
    waiters.iter().all(|(timeline, point)| is_done(queues, *timeline, *point))
}

/// Whether a point is known to have ended. One of a timeline that is no more has, and one of a queue that is gone.
#[inline]
pub(crate) fn is_done(queues: &Table<TimelineKey, Queue>, timeline: TimelineKey, point: Point) -> bool {
    queues.get(timeline).is_none_or(|queue| queue.has_passed(point) || queue.state == QueueState::Gone)
}

/// All pairs.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    given: BTreeMap<PairId, Pair>,
    spare: Vec<PairId>,
    /// Asked for and not made yet.
    pub(crate) making: usize,
    /// Pairs that clients' refused requests lacked, to be there when they try again.
    pub(crate) wanted: BTreeMap<ClientKey, usize>,
    /// Set when the kernel refused one, until somebody asks for a queue again.
    pub(crate) refused: bool,
    last: u64,
    closings: u64,
}

impl Pairs {
    /// A number for a pair that is asked for.
    pub(crate) fn ask(&mut self) -> PairId {
        self.making += 1;
        self.last += 1;
        PairId(self.last)
    }

    /// A pair was made.
    pub(crate) fn made(&mut self, pair: PairId) {
        self.making = self.making.saturating_sub(1);
        self.spare.push(pair);
    }

    /// A pair could not be made.
    pub(crate) fn not_made(&mut self) {
        self.making = self.making.saturating_sub(1);
        self.refused = true;
    }

    /// Takes a spare pair out, to be dropped.
    pub(crate) fn take_spare(&mut self) -> Option<PairId> {
        self.spare.pop()
    }

    pub(crate) fn spare(&self) -> usize {
        self.spare.len()
    }

    /// Gives a spare pair to two parties.
    pub(crate) fn give(&mut self, signaller: Party, observer: Party) -> Option<PairId> {
        let id = self.spare.pop()?;
        self.given.insert(id, Pair::new(signaller, observer));
        Some(id)
    }

    pub(crate) fn get(&self, id: PairId) -> Option<&Pair> {
        self.given.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.given.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: PairId) -> Option<Pair> {
        self.given.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PairId, &Pair)> {
        self.given.iter().map(|(id, pair)| (*id, pair))
    }

    /// Pairs that live, spare ones included.
    pub(crate) fn len(&self) -> usize {
        self.given.len() + self.spare.len()
    }

    /// The slot to use next among `candidates` (an observer's pairs) for a timeline of `signaller`.
    pub(crate) fn usable(
        &self,
        candidates: &[PairId],
        signaller: Party,
        queues: &Table<TimelineKey, Queue>,
    ) -> Option<(PairId, u16)> {
        candidates
            .iter()
            .filter_map(|id| {
                let pair = self.given.get(id).filter(|pair| pair.signaller == signaller)?;
                pair.usable(queues).map(|(order, slot)| (order, *id, slot))
            })
            .min()
            .map(|(_, id, slot)| (id, slot))
    }

    /// Slots that could be used now among `candidates` for timelines of `signaller`.
    pub(crate) fn room(
        &self,
        candidates: &[PairId],
        signaller: Party,
        queues: &Table<TimelineKey, Queue>,
    ) -> usize {
        candidates
            .iter()
            .filter_map(|id| self.given.get(id).filter(|pair| pair.signaller == signaller))
            .map(|pair| pair.room(queues))
            .sum()
    }

    /// The same for every signaller of them, in one go.
    pub(crate) fn rooms(
        &self,
        candidates: &[PairId],
        queues: &Table<TimelineKey, Queue>,
    ) -> BTreeMap<Party, usize> {
        let mut rooms = BTreeMap::new();
        for pair in candidates.iter().filter_map(|id| self.given.get(id)) {
            *rooms.entry(pair.signaller).or_default() += pair.room(queues);
        }
        rooms
    }

    /// Puts a timeline into a slot; gives the one that was there before, and whether a verdict is on it.
    pub(crate) fn show(
        &mut self,
        id: PairId,
        place: u16,
        timeline: TimelineKey,
    ) -> Option<(TimelineKey, bool)> {
        let slot = self.given.get_mut(&id)?.slots.get_mut(usize::from(place))?;
        match std::mem::replace(slot, Slot::Shown(timeline)) {
            Slot::Free | Slot::Shown(_) => None,
            Slot::Closed { timeline, dead, .. } => Some((timeline, dead)),
        }
    }

    /// The timelines that a pair shows, and where.
    pub(crate) fn shown_in(&self, id: PairId) -> Vec<(u16, TimelineKey)> {
        let slots = self.given.get(&id).map(|pair| pair.slots.as_slice()).unwrap_or_default();
        let shown = |(place, slot): (u16, &Slot)| match slot {
            Slot::Shown(timeline) => Some((place, *timeline)),
            Slot::Free | Slot::Closed { .. } => None,
        };
        (0u16..).zip(slots).filter_map(shown).collect()
    }

    /// Notes that the timeline in a slot is closed.
    pub(crate) fn close(&mut self, id: PairId, place: u16, timeline: TimelineKey, waiters: Waiters) {
        self.closings += 1;
        let order = self.closings;
        if let Some(slot) = self.given.get_mut(&id).and_then(|pair| pair.slots.get_mut(usize::from(place))) {
            *slot = Slot::Closed { timeline, waiters, order, dead: false };
        }
    }

    /// Notes that the broker gave a verdict on the timeline in a slot, which is closed.
    pub(crate) fn condemn(&mut self, id: PairId, place: u16) {
        let slot = self.given.get_mut(&id).and_then(|pair| pair.slots.get_mut(usize::from(place)));
        if let Some(Slot::Closed { dead, .. }) = slot {
            *dead = true;
        }
    }
}
