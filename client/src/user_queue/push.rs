//! Pushing: from prepared entries to the ring, all of them or none.
//!
//! ```text
//!   room in the table? ─► of each: a slot, its operands bound?, guards?, a piece of the arena ─► the ring
//!                              └── a mistake: everything is given back, nothing was submitted
//! ```
//!
//! An entry that fits into its 64 bytes takes no system call but the doorbell's and allocates nothing; one that does not
//! is written into a piece of the arena, and allocates nothing either.

use vgem_os::fence::Woke;
use vgem_proto::layout::user_queue::SLOT_LEN;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, BATCH_ENTRIES, Batch, Call, Entry, EntryError, Order, VaRange, Work,
};

use super::Ticket;
use super::arena::{LINE, Piece};
use super::outcome::QueueEnd;
use super::prepared::{Known, Prepared, ResultAt};
use super::range::AddressRange;
use super::shared::State;
use super::table::{LENT, Use};
use crate::error::LocalError;

/// Why nothing was pushed.
#[derive(Debug)]
pub(crate) enum NotPushed {
    /// There is no room now.
    Full(Lack),
    /// It is wrong, and will be.
    Wrong(LocalError),
    /// The queue is over.
    Over(QueueEnd),
}

/// What there was not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Slots,
    Arena,
}

impl From<LocalError> for NotPushed {
    fn from(mistake: LocalError) -> Self {
        Self::Wrong(mistake)
    }
}

impl State {
    /// Pushes one entry: nothing is gathered first.
    #[inline]
    pub(crate) fn push_one(&mut self, queue: u64, prepared: &Prepared) -> Result<Ticket, NotPushed> {
        self.check(1)?;
        let slot = self.stage(queue, prepared)?;
        match prepared.extra {
            None => self.put(queue, slot, &prepared.entry(u64::from(slot))),
            Some(_) => {
                let call = self.calls.pop().unwrap_or(prepared.call);
                self.put(queue, slot, &prepared.entry_of(u64::from(slot), &call))
            }
        }
    }

    /// Puts the entry of a slot into the ring.
    #[inline]
    fn put(&mut self, queue: u64, slot: u32, entry: &Entry) -> Result<Ticket, NotPushed> {
        match self.producer.push(entry) {
            Ok(pushed) => {
                self.counters.pushed += 1;
                self.counters.doorbells += u64::from(pushed.woke == Woke::Sleeper);
                if let Some(known) = self.table.get_mut(slot) {
                    known.point = pushed.point;
                }
                Ok(Ticket { queue, slot, point: pushed.point })
            }
            Err(error) => {
                self.abandon(slot);
                let end = self.no_more_entries(error);
                self.over_with(end.clone());
                Err(NotPushed::Over(end))
            }
        }
    }

    /// Pushes entries in order, all or none; their tickets go to `told`.
    #[inline]
    pub(crate) fn push(
        &mut self,
        queue: u64,
        entries: &[Prepared],
        mut told: impl FnMut(Ticket),
    ) -> Result<(), NotPushed> {
        self.check(entries.len())?;
        for prepared in entries {
            match self.stage(queue, prepared) {
                Ok(slot) => self.staged.push(slot),
                Err(why) => {
                    self.unstage();
                    return Err(why);
                }
            }
        }
        if let Err(end) = self.submit(entries) {
            // Those that are in the ring are lost; those that are not never were.
            self.unstage();
            self.over_with(end.clone());
            return Err(NotPushed::Over(end));
        }
        for slot in &self.staged {
            if let Some(known) = self.table.get(*slot) {
                told(Ticket { queue, slot: *slot, point: known.point });
            }
        }
        self.staged.clear();
        self.calls.clear();
        Ok(())
    }

    /// Pushes one entry that is a batch of these.
    pub(crate) fn push_batch(
        &mut self,
        queue: u64,
        entries: &[Prepared],
        order: Order,
    ) -> Result<Ticket, NotPushed> {
        self.check(1)?;
        let (slot, batch) = self.stage_batch(queue, entries)?;
        self.put(queue, slot, &Entry { user: u64::from(slot), order, work: Work::Batch(batch) })
    }

    #[inline]
    fn check(&mut self, count: usize) -> Result<(), NotPushed> {
        if let Some(end) = &self.over {
            return Err(NotPushed::Over(end.clone()));
        }
        if self.table.room() < count {
            // Most often there is something to reap by now.
            self.take_in();
        }
        if self.table.room() < count { Err(NotPushed::Full(Lack::Slots)) } else { Ok(()) }
    }

    /// Gives everything back that is staged and not in the ring.
    #[cold]
    fn unstage(&mut self) {
        while let Some(slot) = self.staged.pop() {
            self.abandon(slot);
        }
        self.calls.clear();
    }

    #[cold]
    fn abandon(&mut self, slot: u32) {
        if self.table.get(slot).is_some_and(|known| known.point.0 == 0) {
            self.release(slot);
            self.table.close(slot);
        }
    }

    /// Makes ready for an entry all but its place in the ring; its slot. What one with a piece of the arena asks for is the
    /// last of `calls` then.
    #[inline]
    fn stage(&mut self, queue: u64, prepared: &Prepared) -> Result<u32, NotPushed> {
        if prepared.queue != queue {
            return Err(LocalError::OtherQueue { what: "prepared entry" }.into());
        }
        let slot = self.table.open().ok_or(NotPushed::Full(Lack::Slots))?;
        let noted = self.note_all(slot, prepared).map_err(NotPushed::Wrong);
        let staged = if prepared.extra.is_some() {
            noted.and_then(|()| self.with_piece(slot, prepared))
        } else {
            noted
        };
        match staged {
            Ok(()) => Ok(slot),
            Err(why) => {
                self.abandon(slot);
                Err(why)
            }
        }
    }

    /// Notes the uses of an entry.
    #[inline]
    fn note_all(&mut self, slot: u32, prepared: &Prepared) -> Result<(), LocalError> {
        for known in prepared.inline.iter().flatten() {
            self.note(slot, known)?;
        }
        if let Some(extra) = &prepared.extra {
            for (_, _, known) in &extra.operands {
                self.note(slot, known)?;
            }
            for cell in &extra.cells {
                self.note(slot, &Known { range: *cell, access: Access::Read, quiet: true })?;
            }
        }
        Ok(())
    }

    /// Notes that the entry uses these bytes, if they are bound, and no guard is in the way.
    #[inline]
    fn note(&mut self, slot: u32, known: &Known) -> Result<(), LocalError> {
        let Known { range, access, quiet } = known;
        if range.is_empty() {
            return Ok(());
        }
        let place = match self.bindings.find(range, *access) {
            Ok(place) => place,
            Err(not_bound @ LocalError::NotBound { .. }) => {
                return self.note_own(slot, range, *access, not_bound);
            }
            Err(mistake) => return Err(mistake),
        };
        let (Some(bound), Some(slot)) = (self.bindings.get_mut(place), self.table.get_mut(slot)) else {
            return Ok(());
        };
        let start = bound.offset + (range.address() - bound.address);
        let end = if *quiet { start } else { start + range.len() };
        let heals = !*quiet && bound.ledger.is_to_heal(&(start..end), *access);
        let one = Use { place, access: *access, start, end, heals };
        bound.uses += 1;
        slot.uses.push(one);
        if *quiet { Ok(()) } else { bound.ledger.admit(&one.range(), *access) }
    }

    /// The same for memory of this process that is not bound.
    #[cold]
    fn note_own(
        &mut self,
        slot: u32,
        range: &AddressRange,
        access: Access,
        not_bound: LocalError,
    ) -> Result<(), LocalError> {
        let lent = self.lents.note(range, access, not_bound)?;
        if let (Some(start), Some(slot)) = (lent, self.table.get_mut(slot)) {
            slot.uses.push(Use { place: LENT, access, start, end: start, heals: false });
        }
        Ok(())
    }

    /// Takes a piece of the arena for an entry's cell, block and bytes.
    fn with_piece(&mut self, slot: u32, prepared: &Prepared) -> Result<(), NotPushed> {
        let Some(extra) = &prepared.extra else { return Ok(()) };
        let has_cell = extra.result.is_some();
        let cell_len = if has_cell { LINE } else { 0 };
        let piece = self.take_piece(cell_len + extra.len())?;
        if let Some(slot) = self.table.get_mut(slot) {
            slot.piece = Some((piece, has_cell));
        }
        if has_cell {
            self.arena.clear_cell(piece);
        }
        let call = self.write_extra(prepared, piece.offset() + cell_len, Some(piece))?;
        self.calls.push(call);
        Ok(())
    }

    fn take_piece(&mut self, bytes: usize) -> Result<Piece, NotPushed> {
        if let Some(piece) = self.arena.take(bytes) {
            return Ok(piece);
        }
        let limit = self.arena.len();
        if bytes as u64 > limit {
            return Err(LocalError::TooMany {
                what: "bytes of the queue's arena for one entry",
                count: bytes,
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            }
            .into());
        }
        Err(NotPushed::Full(Lack::Arena))
    }

    /// Writes what does not fit into the entry to `at`, and returns the call that names it.
    fn write_extra(
        &mut self,
        prepared: &Prepared,
        at: usize,
        cell: Option<Piece>,
    ) -> Result<Call, NotPushed> {
        let mut call = prepared.call;
        let Some(extra) = &prepared.extra else { return Ok(call) };
        let address = self.arena.address(at);
        self.arena.write(at, &extra.block);
        self.arena.write(at + extra.block.len(), &extra.bytes);
        for (place, from) in &extra.texts {
            self.arena.write_word(at + place, address + (extra.block.len() + from) as u64);
        }
        if !extra.block.is_empty() {
            call.arguments = Arguments::Block(own_range(address, extra.block.len() as u64)?);
        }
        match (extra.result, cell) {
            (Some(ResultAt::Entry(place)), Some(cell)) => {
                let range = own_range(self.arena.address(cell.offset()), LINE as u64)?;
                if let Some(operand) = call.operands.get_mut(place) {
                    *operand = Some(range);
                }
            }
            (Some(ResultAt::Block(place)), Some(cell)) => {
                self.arena.write_word(at + place, self.arena.address(cell.offset()));
            }
            (Some(_) | None, _) => {}
        }
        Ok(call)
    }

    fn stage_batch(&mut self, queue: u64, entries: &[Prepared]) -> Result<(u32, Batch), NotPushed> {
        let count = entries.len();
        if count == 0 {
            return Err(LocalError::Missing { op: "a batch".into(), what: "an entry".into() }.into());
        }
        crate::batch::at_most("entries in a batch", count, BATCH_ENTRIES as usize)?;
        for (index, prepared) in entries.iter().enumerate() {
            let why = if prepared.queue != queue {
                return Err(LocalError::OtherQueue { what: "prepared entry" }.into());
            } else if index == 0 && prepared.order.contains(Order::CHAIN) {
                "is chained, and nothing of the batch comes before it: chain the batch"
            } else if prepared.extra.as_ref().is_some_and(|extra| extra.result.is_some()) {
                "has a result cell of the queue's, of which a batch has none: use `result_in`"
            } else {
                continue;
            };
            return Err(LocalError::NotInBatch { index, why }.into());
        }
        let slot = self.table.open().ok_or(NotPushed::Full(Lack::Slots))?;
        match self.write_batch(slot, entries) {
            Ok(batch) => Ok((slot, batch)),
            Err(why) => {
                self.abandon(slot);
                Err(why)
            }
        }
    }

    /// Writes the array and, behind it, what does not fit into its entries.
    fn write_batch(&mut self, slot: u32, entries: &[Prepared]) -> Result<Batch, NotPushed> {
        for prepared in entries {
            self.note_all(slot, prepared)?;
        }
        let array = entries.len() * SLOT_LEN;
        let extras = entries.iter().filter_map(|prepared| prepared.extra.as_ref());
        let piece =
            self.take_piece(array + extras.map(|extra| extra.len().next_multiple_of(8)).sum::<usize>())?;
        if let Some(slot) = self.table.get_mut(slot) {
            slot.piece = Some((piece, false));
        }
        let (mut at, mut extra_at) = (piece.offset(), piece.offset() + array);
        for (index, prepared) in (0..).zip(entries) {
            let mut entry = prepared.entry(index);
            if let Some(extra) = &prepared.extra {
                entry.work = Work::Call(self.write_extra(prepared, extra_at, None)?);
                extra_at += extra.len().next_multiple_of(8);
            }
            for word in entry.encode() {
                self.arena.write_word(at, word);
                at += 8;
            }
        }
        let address = self.arena.address(piece.offset());
        Batch::new(address, entries.len() as u64).map_err(|error| NotPushed::Wrong(of_arena(error, address)))
    }
}

/// A range of the arena.
fn own_range(address: u64, len: u64) -> Result<VaRange, LocalError> {
    VaRange::new(address, len).map_err(|error| of_arena(error, address))
}

/// The arena is mapped somewhere, so this does not happen.
#[cold]
fn of_arena(_error: EntryError, address: u64) -> LocalError {
    LocalError::BadAddress { address, len: 0 }
}
