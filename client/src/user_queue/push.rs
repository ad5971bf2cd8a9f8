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
use vgem_os::ring::PushError;
use vgem_proto::layout::user_queue::SLOT_LEN;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, BATCH_ENTRIES, Batch, Call, Entry, EntryError, Order, USER, VaRange, Words, Work,
};

use super::Ticket;
use super::arena::{LINE, Piece};
use super::binding::{Bindings, Bound};
use super::outcome::QueueEnd;
use super::prepared::{Extra, Known, Prepared, ResultAt};
use super::shared::State;
use super::sva::Lents;
use super::table::{LENT, Use, Uses};
use crate::error::LocalError;

/// Why nothing was pushed.
#[derive(Debug)]
pub(crate) enum NotPushed {
    /// There is no room now.
    Full(Lack),
    /// It is wrong, and will be.
    Wrong(Box<LocalError>),
    /// The queue is over.
    Over(Box<QueueEnd>),
}

/// What there was not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Slots,
    Arena,
}

impl From<LocalError> for NotPushed {
    fn from(mistake: LocalError) -> Self {
        Self::Wrong(Box::new(mistake))
    }
}

impl From<Box<LocalError>> for NotPushed {
    fn from(mistake: Box<LocalError>) -> Self {
        Self::Wrong(mistake)
    }
}

impl From<QueueEnd> for NotPushed {
    #[cold]
    fn from(end: QueueEnd) -> Self {
        Self::Over(Box::new(end))
    }
}

impl State {
    /// Pushes one entry: nothing is gathered first. This and what it calls are part of whoever calls it, or else its result
    /// would be read from memory just after it was stored there, in pieces of another size: a processor cannot do that
    /// before the stores are done, and with them all stores to the ring that came before.
    #[inline(always)]
    pub(crate) fn push_one(&mut self, queue: u64, prepared: &Prepared) -> Result<Ticket, NotPushed> {
        self.check(1)?;
        let slot = self.stage(queue, prepared)?;
        let in_arena = if prepared.extra.is_some() { self.in_arena.pop() } else { None };
        self.put(queue, slot, in_arena.as_ref().unwrap_or(&prepared.words))
    }

    /// Puts the entry of a slot into the ring.
    #[inline(always)]
    fn put(&mut self, queue: u64, slot: u32, words: &Words) -> Result<Ticket, NotPushed> {
        match self.producer.push_encoded(words, u64::from(slot)) {
            Ok(pushed) => {
                self.counters.pushed += 1;
                if pushed.woke == Woke::Sleeper {
                    self.counters.doorbells += 1;
                }
                if let Some(known) = self.table.get_mut(slot) {
                    known.point = pushed.point;
                }
                Ok(Ticket { queue, slot, point: pushed.point })
            }
            Err(error) => Err(self.not_put(slot, error)),
        }
    }

    /// The ring takes no entry: it is over.
    #[cold]
    fn not_put(&mut self, slot: u32, error: PushError) -> NotPushed {
        self.abandon(slot);
        let end = self.no_more_entries(error);
        self.over_with(end.clone());
        end.into()
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
            return Err(end.into());
        }
        for slot in &self.staged {
            if let Some(known) = self.table.get(*slot) {
                told(Ticket { queue, slot: *slot, point: known.point });
            }
        }
        self.staged.clear();
        self.in_arena.clear();
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
        self.put(queue, slot, &Entry { user: 0, order, work: Work::Batch(batch) }.encode())
    }

    #[inline]
    fn check(&mut self, count: usize) -> Result<(), NotPushed> {
        if self.over.is_none() && self.table.room() >= count { Ok(()) } else { self.check_again(count) }
    }

    #[cold]
    fn check_again(&mut self, count: usize) -> Result<(), NotPushed> {
        if let Some(end) = &self.over {
            return Err(end.clone().into());
        }
        // Most often there is something to reap by now.
        self.take_in();
        if self.table.room() < count { Err(NotPushed::Full(Lack::Slots)) } else { Ok(()) }
    }

    /// Gives everything back that is staged and not in the ring.
    #[cold]
    fn unstage(&mut self) {
        while let Some(slot) = self.staged.pop() {
            self.abandon(slot);
        }
        self.in_arena.clear();
    }

    #[cold]
    fn abandon(&mut self, slot: u32) {
        if self.table.get(slot).is_some_and(|known| known.point.0 == 0) {
            self.release(slot);
            self.table.close(slot);
        }
    }

    /// Makes ready for an entry all but its place in the ring; its slot. The words of one with a piece of the arena are the
    /// last of `in_arena` then.
    #[inline(always)]
    fn stage(&mut self, queue: u64, prepared: &Prepared) -> Result<u32, NotPushed> {
        if prepared.queue != queue {
            return Err(of_another_queue());
        }
        let slot = self.table.open().ok_or(NotPushed::Full(Lack::Slots))?;
        if let Err(mistake) = self.note_all(slot, prepared) {
            self.abandon(slot);
            return Err(NotPushed::Wrong(mistake));
        }
        if prepared.extra.is_some()
            && let Err(why) = self.with_piece(slot, prepared)
        {
            self.abandon(slot);
            return Err(why);
        }
        Ok(slot)
    }

    /// Notes the uses of an entry.
    #[inline(always)]
    fn note_all(&mut self, slot: u32, prepared: &Prepared) -> Result<(), Box<LocalError>> {
        let Self { table, bindings, lents, .. } = self;
        let Some(slot) = table.get_mut(slot) else { return Ok(()) };
        let mut noting = Noting { bindings, lents, uses: &mut slot.uses };
        for known in prepared.inline.iter().flatten() {
            noting.note(known)?;
        }
        match &prepared.extra {
            None => Ok(()),
            Some(extra) => noting.note_extra(extra),
        }
    }

    /// Takes a piece of the arena for an entry's cell, block and bytes.
    #[inline(never)]
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
        self.in_arena.push(prepared.words_of(&call));
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
            let mut words = prepared.words;
            if let Some(extra) = &prepared.extra {
                words = prepared.words_of(&self.write_extra(prepared, extra_at, None)?);
                extra_at += extra.len().next_multiple_of(8);
            }
            words[USER] = index;
            for word in words {
                self.arena.write_word(at, word);
                at += 8;
            }
        }
        let address = self.arena.address(piece.offset());
        Batch::new(address, entries.len() as u64).map_err(|error| of_arena(error, address).into())
    }
}

#[cold]
fn of_another_queue() -> NotPushed {
    LocalError::OtherQueue { what: "prepared entry" }.into()
}

/// What the uses of one entry are noted in.
struct Noting<'a> {
    bindings: &'a mut Bindings,
    lents: &'a mut Lents,
    uses: &'a mut Uses,
}

impl Noting<'_> {
    #[inline(never)]
    fn note_extra(&mut self, extra: &Extra) -> Result<(), Box<LocalError>> {
        for (_, _, known) in &extra.operands {
            self.note(known)?;
        }
        for cell in &extra.cells {
            self.note(&Known { range: *cell, access: Access::Read, quiet: true })?;
        }
        Ok(())
    }

    /// Notes that the entry uses these bytes, if they are bound, and no guard is in the way. What is wrong is boxed: this
    /// is the way of every entry, and its result fits into a register.
    #[inline]
    fn note(&mut self, known: &Known) -> Result<(), Box<LocalError>> {
        if known.range.is_empty() {
            return Ok(());
        }
        match self.bindings.hinted(&known.range, known.access) {
            Some(bound) => note_bound(bound, known.range.hint, known, self.uses),
            None => self.note_elsewhere(known),
        }
    }

    /// The same for bytes of another binding than the one that they were taken from, or of no binding.
    #[cold]
    fn note_elsewhere(&mut self, known: &Known) -> Result<(), Box<LocalError>> {
        let Known { range, access, .. } = known;
        match self.bindings.search(range, *access) {
            Ok(place) => match self.bindings.get_mut(place) {
                Some(bound) => note_bound(bound, place, known, self.uses),
                None => Ok(()),
            },
            Err(not_bound @ LocalError::NotBound { .. }) => {
                if let Some(start) = self.lents.note(range, *access, not_bound)? {
                    self.uses.push(Use { place: LENT, access: *access, start, end: start, heals: false });
                }
                Ok(())
            }
            Err(mistake) => Err(mistake.into()),
        }
    }
}

/// Notes a use of the bytes of a binding, which holds them.
#[inline]
fn note_bound(bound: &mut Bound, place: u32, known: &Known, uses: &mut Uses) -> Result<(), Box<LocalError>> {
    let Known { range, access, quiet } = known;
    let start = bound.offset + (range.address() - bound.address);
    let end = if *quiet { start } else { start + range.len() };
    let heals = !*quiet && bound.ledger.is_to_heal(&(start..end), *access);
    bound.uses += 1;
    uses.push(Use { place, access: *access, start, end, heals });
    if *quiet { Ok(()) } else { bound.ledger.admit(&(start..end), *access) }
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
