//! The entries of one user queue that have not been taken: a slot each, found again by the number in the completion.
//!
//! ```text
//!   free ─push─► under way ─completion─► ended ─wait, reap─► free
//!                    └── the queue is over ─► lost ──────────┘
//! ```
//!
//! A completion is a claim of the driver. Its number is looked up here and must be of a slot under way with the very
//! point; else the driver completes what was not submitted, or twice.
//!
//! Nothing allocates once a queue has been in use: slots keep their storage.

use std::ops::Range;

use vgem_proto::ids::Point;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::Completion;

use super::arena::Piece;
use crate::cell::Cell;

/// The place of what is not bound, but lent: its number is where the first byte is said to be.
pub(crate) const LENT: u32 = u32::MAX;

/// A use of bound bytes, or of lent memory, by an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// Place of the binding, or [`LENT`].
    pub(crate) place: u32,
    pub(crate) access: Access,
    /// First byte in the buffer.
    pub(crate) start: u64,
    /// The byte after the last; as the first where no guard has to care.
    pub(crate) end: u64,
    /// Ended well, it makes up for something that failed to write these bytes.
    pub(crate) heals: bool,
}

impl Use {
    const NONE: Self = Self { place: 0, access: Access::Read, start: 0, end: 0, heals: false };

    /// Its bytes, in the buffer.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// The uses of one entry: nearly all have two.
#[derive(Debug)]
pub(crate) struct Uses {
    first: [Use; 2],
    count: usize,
    more: Vec<Use>,
}

impl Uses {
    const fn new() -> Self {
        Self { first: [Use::NONE; 2], count: 0, more: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, one: Use) {
        match self.first.get_mut(self.count) {
            Some(place) => *place = one,
            None => self.more.push(one),
        }
        self.count += 1;
    }

    #[inline]
    fn clear(&mut self) {
        self.count = 0;
        self.more.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Use> {
        self.first.iter().take(self.count).chain(&self.more)
    }
}

/// What a slot is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    UnderWay,
    Ended,
    Lost,
}

/// A slot.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: State,
    pub(crate) point: Point,
    pub(crate) uses: Uses,
    /// Nobody asks how it ended if it ended well.
    pub(crate) forgotten: bool,
    /// Its piece of the arena, and whether that begins with a result cell.
    pub(crate) piece: Option<(Piece, bool)>,
    /// How it ended.
    pub(crate) completion: Completion,
    pub(crate) cell: Option<Cell>,
}

/// The slots of a queue.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Ended or lost, and not taken: a bit each.
    done: Vec<u64>,
    /// Where to look for the next of those.
    cursor: usize,
    under_way: usize,
}

impl Table {
    pub(crate) fn new(depth: u32) -> Self {
        let nothing = Completion {
            user: 0,
            point: Point(0),
            produced: 0,
            value: 0,
            failure: None,
            address: 0,
            ended: vgem_proto::ids::Time(0),
        };
        let slot = || Slot {
            state: State::Free,
            point: Point(0),
            uses: Uses::new(),
            forgotten: false,
            piece: None,
            completion: nothing,
            cell: None,
        };
        Self {
            slots: std::iter::repeat_with(slot).take(depth as usize).collect(),
            free: (0..depth).rev().collect(),
            done: vec![0; (depth as usize).div_ceil(64)],
            cursor: 0,
            under_way: 0,
        }
    }

    /// Entries that have not ended.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Entries that have ended and were not taken.
    pub(crate) fn untaken(&self) -> usize {
        self.slots.len() - self.free.len() - self.under_way
    }

    /// Slots for more entries.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Takes a free slot; it counts as under way, with no uses yet.
    #[inline]
    pub(crate) fn open(&mut self) -> Option<u32> {
        let number = self.free.pop()?;
        let slot = self.slots.get_mut(number as usize)?;
        slot.state = State::UnderWay;
        slot.point = Point(0);
        slot.uses.clear();
        slot.forgotten = false;
        self.under_way += 1;
        Some(number)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number as usize)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(number as usize)
    }

    /// Gives a slot back whose entry was not pushed after all, or was taken.
    #[inline]
    pub(crate) fn close(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Free => return,
            State::UnderWay => self.under_way -= 1,
            State::Ended | State::Lost => self.mark(number, false),
        }
        self.free.push(number);
    }

    /// The slot that a completion is for, if there is one.
    #[inline]
    pub(crate) fn owner(&self, completion: &Completion) -> Option<u32> {
        let number = u32::try_from(completion.user).ok()?;
        let slot = self.slots.get(number as usize)?;
        (slot.state == State::UnderWay && slot.point == completion.point).then_some(number)
    }

    /// An entry has ended, or will not be heard of any more.
    #[inline]
    pub(crate) fn end(&mut self, number: u32, state: State) {
        if let Some(slot) = self.slots.get_mut(number as usize)
            && slot.state == State::UnderWay
        {
            slot.state = state;
            self.under_way -= 1;
            self.mark(number, true);
        }
    }

    /// One that has ended and was not taken, each in its turn.
    pub(crate) fn next_done(&mut self) -> Option<u32> {
        let words = self.done.len();
        let (first, low) = (self.cursor / 64, u64::MAX << (self.cursor % 64));
        for step in 0..=words {
            let place = (first + step) % words;
            let mask = match step {
                0 => low,
                _ if step == words => !low,
                _ => u64::MAX,
            };
            let word = self.done.get(place)? & mask;
            if word != 0 {
                let number = place * 64 + word.trailing_zeros() as usize;
                self.cursor = (number + 1) % self.slots.len();
                return u32::try_from(number).ok();
            }
        }
        None
    }

    /// Those that are under way.
    pub(crate) fn running(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let slots = if self.under_way == 0 { &[][..] } else { &self.slots[..] };
        (0..).zip(slots).filter(|(_, slot)| slot.state == State::UnderWay)
    }

    #[inline]
    fn mark(&mut self, number: u32, done: bool) {
        if let Some(word) = self.done.get_mut(number as usize / 64) {
            let bit = 1 << (number % 64);
            *word = if done { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_found_in_turn_and_once() {
        let mut table = Table::new(128);
        let all: Vec<_> = (0..128).filter_map(|_| table.open()).collect();
        assert_eq!((table.room(), table.open(), table.next_done()), (0, None, None));
        all.iter().for_each(|number| table.end(*number, State::Ended));
        assert_eq!((table.under_way(), table.untaken()), (0, 128));
        let mut found = Vec::new();
        while let Some(number) = table.next_done() {
            found.push(number);
            table.close(number);
        }
        assert_eq!((found, table.room()), ((0..128).collect(), 128));
    }

    #[test]
    fn none_that_has_ended_waits_for_ever_behind_others() {
        let mut table = Table::new(64);
        let old: Vec<_> = (0..3).filter_map(|_| table.open()).collect();
        table.end(old[2], State::Ended);
        for _ in 0..3 {
            let newer = table.open().expect("room");
            table.end(newer, State::Ended);
            if table.next_done() == Some(old[2]) {
                return;
            }
        }
        panic!("slot {} was not found", old[2]);
    }

    #[test]
    fn a_completion_finds_its_slot_by_number_and_point_alone() {
        let mut table = Table::new(8);
        let number = table.open().expect("room");
        table.get_mut(number).expect("it is there").point = Point(5);
        let mut completion = table.get(number).expect("it is there").completion;
        (completion.user, completion.point) = (number.into(), Point(5));
        assert_eq!(table.owner(&completion), Some(number));
        assert_eq!(table.owner(&Completion { point: Point(4), ..completion }), None);
        assert_eq!(table.owner(&Completion { user: 99, ..completion }), None);
        table.end(number, State::Ended);
        assert_eq!(table.owner(&completion), None);
    }
}
