//! Private memory in which engines find operands that are in the client's own memory.
//!
//! ```text
//!   check: place each operand ─► fetch: read what is read ─► engine works on private memory ─► put back what was written
//! ```
//!
//! What is put back is what a job would have written in place, and nothing else: of an output its first bytes, as many as
//! were produced ([`Engine::run`](crate::engine::Engine::run)); of an operand that is read and written every byte that is
//! another than before, and if those are in very many places also a few between them; a result cell whole. After a
//! failure only the cell is.
//!
//! Entries with little to stage use memory of their thread's. The rest take turns with the one large piece of the
//! instance: so an instance keeps no more for its client than that client's domain was charged with.
//!
//! Invariants: pieces do not overlap and each begins at a multiple of 64, or of a page if it is as long as one; nothing is
//! read that was not fetched or written for this entry.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use arrayvec::ArrayVec;
use vgem_proto::describe::Direction;
use vgem_proto::error::ErrorCode;
use vgem_proto::layout::result_cell;
use vgem_proto::limits;
use vgem_proto::user_queue::VaRange;

use super::check::Flaw;
use super::own::OwnMemory;
use super::space::AddressFault;
use crate::engine::Produced;

/// Bytes that each thread has for itself.
const SMALL: usize = 256 * 1024;
const PAGE: usize = 4096;
const LINE: usize = 64;
/// So many runs of changed bytes are put back each by itself; of more, those that are closer than this.
const RUNS: usize = 4096;
const APART: usize = 512;

/// An operand in the client's own memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) number: u8,
    pub(super) direction: Direction,
    /// Where it is at the client.
    range: VaRange,
    /// Its first byte in the memory.
    at: usize,
    len: usize,
}

/// One thread's private memory.
#[derive(Debug)]
pub(super) struct Stage {
    small: Vec<u8>,
    large: Arc<Large>,
    /// The large piece, while an entry has it.
    taken: Option<Vec<u8>>,
    pieces: ArrayVec<Piece, { limits::JOB_OPERANDS }>,
    /// Where the next piece may begin.
    end: usize,
    /// Bytes that are kept of the client's memory.
    bytes: u64,
}

/// The large piece, for all threads of an instance.
#[derive(Debug)]
pub(super) struct Large {
    state: Mutex<Turns>,
    is_back: Condvar,
}

/// Who has the large piece: one after another, as they came.
#[derive(Debug, Default)]
struct Turns {
    /// Nothing while somebody has it.
    memory: Option<Vec<u8>>,
    /// Whose turn it is, and the number of who comes next.
    turn: u64,
    next: u64,
}

impl Default for Large {
    /// Nobody has it.
    fn default() -> Self {
        let turns = Turns { memory: Some(Vec::new()), ..Turns::default() };
        Self { state: Mutex::new(turns), is_back: Condvar::new() }
    }
}

impl Large {
    fn take(&self) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let own = state.next;
        state.next += 1;
        let state = self.is_back.wait_while(state, |state| state.turn != own || state.memory.is_none());
        state.unwrap_or_else(PoisonError::into_inner).memory.take().unwrap_or_default()
    }

    fn give_back(&self, memory: Vec<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.memory = Some(memory);
        state.turn += 1;
        drop(state);
        self.is_back.notify_all();
    }
}

impl Stage {
    pub(super) fn new(large: Arc<Large>) -> Self {
        Self { small: Vec::new(), large, taken: None, pieces: ArrayVec::new(), end: 0, bytes: 0 }
    }

    /// Of an entry that has placed nothing yet.
    #[inline]
    pub(super) fn clear(&mut self) {
        if !self.pieces.is_empty() {
            self.pieces.clear();
        }
        (self.end, self.bytes) = (0, 0);
    }

    /// Whether anything was placed.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Keeps room for an operand of the entry.
    ///
    /// # Errors
    /// OutOfRange beyond [`limits::OWN_BYTES`].
    pub(super) fn place(&mut self, number: u8, direction: Direction, range: VaRange) -> Result<(), Flaw> {
        // What it was before comes behind what it is.
        let times: usize = if direction == Direction::InOut { 2 } else { 1 };
        self.bytes = self.bytes.saturating_add(range.len().saturating_mul(times as u64));
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        if self.bytes > limits::OWN_BYTES {
            let text = format!(
                "operands in the client's own memory have at most {} bytes together (those that are read and written \
                 count twice), not {}; bind longer ones",
                limits::OWN_BYTES,
                self.bytes
            );
            return Err(Flaw::new(ErrorCode::OutOfRange, self.bytes, text));
        }
        let at = self.end.next_multiple_of(if len >= PAGE { PAGE } else { LINE });
        self.end = at + times * len.next_multiple_of(LINE);
        let piece = Piece { number, direction, range, at, len };
        self.pieces.try_push(piece).map_err(|_| Flaw::no_operand(number))
    }

    /// Reads what the operation reads.
    ///
    /// # Errors
    /// The first address that cannot be reached; nothing was written then.
    pub(super) fn fetch(&mut self, own: &OwnMemory) -> Result<(), Flaw> {
        self.take_memory();
        let Self { small, taken, pieces, .. } = self;
        let memory = aligned(taken.as_mut().unwrap_or(small));
        for piece in pieces.iter() {
            let Piece { direction, range, at, len, .. } = *piece;
            match direction {
                Direction::In | Direction::InOut => {
                    own.read(range, memory.get_mut(at..at + len).unwrap_or_default())?;
                }
                // Whether it can be written is asked before the operation starts.
                Direction::Out | Direction::Cell => own.check(range, vgem_proto::rights::Access::Write)?,
            }
            if direction == Direction::InOut {
                own.check(range, vgem_proto::rights::Access::Write)?;
                memory.copy_within(at..at + len, at + len.next_multiple_of(LINE));
            }
        }
        Ok(())
    }

    fn take_memory(&mut self) {
        let wanted = self.end + PAGE;
        let memory = if wanted <= SMALL {
            &mut self.small
        } else {
            self.taken.get_or_insert_with(|| self.large.take())
        };
        if memory.len() < wanted {
            // The old goes first, so that the two never add up; the new has no pages before they are touched.
            *memory = Vec::new();
            *memory = vec![0; if wanted <= SMALL { SMALL } else { wanted }];
        }
    }

    /// The operands as the engine sees them: each piece, and its bytes.
    pub(super) fn operands(&mut self) -> impl Iterator<Item = (Piece, &mut [u8])> {
        let Self { small, taken, pieces, .. } = self;
        let mut rest = aligned(taken.as_mut().unwrap_or(small));
        let mut gone = 0;
        pieces.iter().map(move |piece| {
            let (_, behind) = std::mem::take(&mut rest).split_at_mut(piece.at - gone);
            let (own, behind) = behind.split_at_mut(piece.len);
            rest = behind;
            gone = piece.at + piece.len;
            (*piece, own)
        })
    }

    /// Writes back what the operation wrote; after a failure the result cell alone.
    ///
    /// # Errors
    /// The first address that cannot be reached; what comes before it, and other operands, may have been written.
    pub(super) fn put_back(
        &mut self,
        own: &OwnMemory,
        is_ok: bool,
        produced: &Produced,
    ) -> Result<(), AddressFault> {
        let Self { small, taken, pieces, .. } = self;
        let memory = &*aligned(taken.as_mut().unwrap_or(small));
        let bytes = |at: usize, len: usize| memory.get(at..at + len).unwrap_or_default();
        let outputs = pieces.iter().filter(|piece| is_ok && piece.direction != Direction::Cell);
        for &Piece { direction, range, at, len, .. } in outputs {
            match direction {
                Direction::Out => {
                    let written = len.min(usize::try_from(produced.len).unwrap_or(usize::MAX));
                    put(own, range, 0, bytes(at, written))?;
                }
                Direction::InOut => {
                    let before = bytes(at + len.next_multiple_of(LINE), len);
                    let now = bytes(at, len);
                    let apart = if differences(before, now, 1).nth(RUNS).is_none() { 1 } else { APART };
                    for (from, changed) in differences(before, now, apart) {
                        put(own, range, from, changed)?;
                    }
                }
                Direction::In | Direction::Cell => {}
            }
        }
        // Last: who sees what it says sees the rest.
        for piece in pieces.iter().filter(|piece| piece.direction == Direction::Cell) {
            put(own, piece.range, 0, bytes(piece.at, result_cell::LEN))?;
        }
        Ok(())
    }

    /// The entry has ended.
    #[inline]
    pub(super) fn leave(&mut self) {
        if let Some(memory) = self.taken.take() {
            self.large.give_back(memory);
        }
    }
}

fn put(own: &OwnMemory, range: VaRange, from: usize, bytes: &[u8]) -> Result<(), AddressFault> {
    if bytes.is_empty() {
        return Ok(());
    }
    let into = VaRange::new(range.address() + from as u64, bytes.len() as u64);
    into.map_or(Ok(()), |into| own.write(into, bytes))
}

/// From the first page's start on.
fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(PAGE);
    memory.get_mut(skip..).unwrap_or_default()
}

/// The runs of bytes that are others than before: where each begins, and what it is now. Runs with fewer than `apart` bytes
/// between them are one.
fn differences<'a>(before: &'a [u8], now: &'a [u8], apart: usize) -> impl Iterator<Item = (usize, &'a [u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = |from: usize| {
            before.get(from..).unwrap_or_default().iter().zip(now.get(from..).unwrap_or_default())
        };
        let first = at + rest(at).position(|(old, new)| old != new)?;
        let mut end = first + 1;
        loop {
            let same = rest(end).take(apart).take_while(|(old, new)| old == new).count();
            if same == apart || end + same == now.len() {
                break;
            }
            end += same + 1;
        }
        at = end;
        Some((first, now.get(first..end)?))
    })
}

#[cfg(test)]
mod tests {
    use vgem_os::client_memory::{ClientMemory, own};
    use vgem_proto::codec::Zero;
    use vgem_proto::rights::Access;
    use vgem_proto::user_queue::Window;

    use super::*;

    fn all() -> OwnMemory {
        let fd = own(Access::Write).expect("a dumpable process");
        let mut own = OwnMemory::new(ClientMemory::new(fd), Arc::default());
        own.set_windows(&[Window { address: 1, len: (1 << 63) - 1, access: Access::Write, reserved: Zero }]);
        own
    }

    fn range_of(bytes: &[u8]) -> VaRange {
        VaRange::new(bytes.as_ptr().addr() as u64, bytes.len() as u64).expect("addresses")
    }

    /// What is at the client, which only the kernel touches.
    fn seen(own: &OwnMemory, range: VaRange) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(range.len()).expect("short")];
        own.read(range, &mut bytes).expect("mapped");
        bytes
    }

    #[test]
    fn of_what_was_not_written_nothing_is_put_back() {
        let own = all();
        let mut theirs = [vec![1_u8; 5000], vec![2; 300], vec![3; 100], vec![4; 64]];
        let ranges: Vec<VaRange> = theirs.iter_mut().map(|bytes| range_of(bytes.as_mut_slice())).collect();
        let mut stage = Stage::new(Arc::new(Large::default()));
        let directions = [Direction::In, Direction::Out, Direction::InOut, Direction::Cell];
        for ((number, direction), range) in (0..).zip(directions).zip(&ranges) {
            stage.place(number, direction, *range).expect("room");
        }
        stage.fetch(&own).expect("mapped");
        for (piece, bytes) in stage.operands() {
            assert_eq!(bytes.as_ptr().align_offset(LINE), 0);
            match piece.number {
                0 => assert_eq!(bytes, [1; 5000]),
                2 => {
                    assert_eq!(bytes, [3; 100]);
                    bytes[10..20].fill(9);
                    // Meanwhile the client writes beside it.
                    own.write(VaRange::new(ranges[2].address() + 20, 1).expect("addresses"), &[8])
                        .expect("mapped");
                }
                _ => bytes.fill(7),
            }
        }
        let produced = Produced { len: 200, ..Produced::default() };
        stage.put_back(&own, true, &produced).expect("mapped");
        let output = seen(&own, ranges[1]);
        assert_eq!((&output[..200], &output[200..]), (&[7; 200][..], &[2; 100][..]));
        let both = seen(&own, ranges[2]);
        assert_eq!((&both[..10], &both[10..20], &both[20..22]), (&[3; 10][..], &[9; 10][..], &[8, 3][..]));
        assert_eq!(seen(&own, ranges[3]), [7; 64]);
    }

    #[test]
    fn after_a_failure_the_cell_alone_is_put_back() {
        let own = all();
        let mut theirs = [vec![2_u8; 300], vec![3; 100], vec![4; 64]];
        let ranges: Vec<VaRange> = theirs.iter_mut().map(|bytes| range_of(bytes.as_mut_slice())).collect();
        let mut stage = Stage::new(Arc::new(Large::default()));
        for ((number, direction), range) in
            (0..).zip([Direction::Out, Direction::InOut, Direction::Cell]).zip(&ranges)
        {
            stage.place(number, direction, *range).expect("room");
        }
        stage.fetch(&own).expect("mapped");
        stage.operands().for_each(|(_, bytes)| bytes.fill(7));
        stage.put_back(&own, false, &Produced { len: 300, ..Produced::default() }).expect("mapped");
        assert_eq!((seen(&own, ranges[0]), seen(&own, ranges[1])), (vec![2; 300], vec![3; 100]));
        assert_eq!(seen(&own, ranges[2]), [7; 64]);
    }

    #[test]
    fn more_than_may_be_staged_is_refused_to_the_byte() {
        let mut stage = Stage::new(Arc::new(Large::default()));
        let range = |len| VaRange::new(4096, len).expect("addresses");
        stage.place(0, Direction::In, range(limits::OWN_BYTES - 1)).expect("as much as may be");
        stage.place(1, Direction::In, range(1)).expect("the last byte");
        stage.clear();
        stage.place(0, Direction::InOut, range(limits::OWN_BYTES / 2)).expect("twice the half");
        let refused = stage.place(2, Direction::In, range(1)).expect_err("one more");
        assert_eq!((refused.code, refused.value), (ErrorCode::OutOfRange, limits::OWN_BYTES + 1));
    }

    #[test]
    fn the_large_piece_is_one_threads_at_a_time_and_comes_back() {
        let (own, large) = (all(), Arc::new(Large::default()));
        let theirs = vec![5_u8; SMALL];
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let mut stage = Stage::new(Arc::clone(&large));
                    for _ in 0..20 {
                        stage.clear();
                        stage.place(0, Direction::In, range_of(&theirs)).expect("room");
                        stage.fetch(&own).expect("mapped");
                        assert!(stage.taken.is_some());
                        assert!(stage.operands().all(|(_, bytes)| bytes.iter().all(|byte| *byte == 5)));
                        stage.leave();
                    }
                });
            }
        });
        let turns = large.state.lock().expect("no panic");
        assert!(turns.memory.as_ref().is_some_and(|memory| memory.len() >= SMALL));
    }

    #[test]
    fn differences_are_the_runs_of_bytes_that_changed() {
        let runs = |before: &[u8], now: &[u8]| -> Vec<(usize, Vec<u8>)> {
            differences(before, now, 1).map(|(at, run)| (at, run.to_vec())).collect()
        };
        assert_eq!(runs(b"", b""), []);
        assert_eq!(runs(b"abc", b"abc"), []);
        assert_eq!(runs(b"abcdef", b"aXcdYZ"), [(1, b"X".to_vec()), (4, b"YZ".to_vec())]);
        assert_eq!(runs(b"ab", b"XY"), [(0, b"XY".to_vec())]);
        let joined: Vec<_> = differences(b"abcdefgh", b"XbYdefgZ", 2).collect();
        assert_eq!(joined, [(0, &b"XbY"[..]), (7, b"Z")]);
    }
}
