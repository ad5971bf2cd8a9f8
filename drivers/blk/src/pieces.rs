//! A transfer cut into pieces, and how pieces come to their end.
//!
//! ```text
//!            ┌──── short, interrupted ────┐
//!            ▼                            │
//!   Open ──► in a ring ───────────────────┴──► Done
//!     │          │ ├── nothing more to read ──► End
//!     │          │ └── any other errno ───────► Failed
//!     │          └── the ring cannot do it ──► Call ──► the same by system calls
//!     └── no ring ───────────────────────────► Call
//! ```
//!
//! Each request decides afresh whether it goes past the page cache: only if its file offset, length and address
//! are aligned. So the remainder of a short direct read is done by the page cache, which knows where the file ends.
//!
//! Invariant: what a transfer reports as done is contiguous from its start, whatever order pieces end in.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::buffers::{BUFFER_LEN, Slots};
use crate::counters::Tally;
use crate::ffi::{Lane, Memory, Request, call};
use crate::file::Alignment;

/// Length of the pieces that are in flight at the same time, bytes.
pub(crate) const PIECE_LEN: usize = 512 * 1024;

/// What is to be transferred.
#[derive(Debug)]
pub(crate) struct Order<'m> {
    pub(crate) buffered: BorrowedFd<'m>,
    pub(crate) direct: Option<(BorrowedFd<'m>, Alignment)>,
    /// Whether data that direct I/O cannot do may go through the page cache.
    pub(crate) may_fall_back: bool,
    pub(crate) memory: Memory<'m>,
    /// Of the first byte, in the file.
    pub(crate) offset: u64,
    /// The registered buffers of the object the memory belongs to.
    pub(crate) slots: Option<Slots>,
    /// Of the first byte, in that object.
    pub(crate) object_offset: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Bytes done, contiguous from the start.
    pub(crate) done: usize,
    /// Why there are not more, unless a file has ended.
    pub(crate) error: Option<Errno>,
}

/// A part of an order that one request can do.
#[derive(Debug)]
pub(crate) struct Piece {
    /// From the order's first byte, bytes.
    at: usize,
    len: usize,
    done: usize,
    /// Whether it may go past the page cache.
    direct: bool,
    /// Whether it must not use registered buffers.
    plain: bool,
    /// How its current request goes.
    way: Way,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Way {
    direct: bool,
    fixed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Call,
    Done,
    End,
    Failed(Errno),
}

/// Pieces of `len` bytes from `from` to `to`, for a ring.
pub(crate) fn cut(order: &Order<'_>, from: usize, to: usize, direct: bool, pieces: &mut Vec<Piece>) {
    cut_by(order, from, to, PIECE_LEN, direct, State::Open, pieces);
}

/// Pieces as long as they may be, for system calls.
pub(crate) fn cut_for_calls(
    order: &Order<'_>,
    from: usize,
    to: usize,
    direct: bool,
    pieces: &mut Vec<Piece>,
) {
    cut_by(order, from, to, BUFFER_LEN, direct, State::Call, pieces);
}

fn cut_by(
    order: &Order<'_>,
    from: usize,
    to: usize,
    longest: usize,
    direct: bool,
    state: State,
    pieces: &mut Vec<Piece>,
) {
    let mut at = from;
    while at < to {
        // No piece lies in two registered buffers.
        let in_object = order.object_offset.wrapping_add(at as u64);
        let in_buffer = usize::try_from(in_object % BUFFER_LEN as u64).unwrap_or(0);
        let len = longest.min(to - at).min(BUFFER_LEN - in_buffer);
        pieces.push(Piece { at, len, done: 0, direct, plain: false, way: Way::default(), state });
        at += len;
    }
}

/// Does the open pieces in a ring, as many at once as it takes, until all have ended or one says there is no more.
pub(crate) fn run_in_ring<'m>(
    lane: &mut Lane<'_, 'm>,
    order: &Order<'m>,
    pieces: &mut [Piece],
    tally: &Tally,
) {
    let mut fresh = 0..pieces.len();
    let mut again = Vec::new();
    let mut stopped = false;
    loop {
        while let Some(index) = again.pop().or_else(|| if stopped { None } else { fresh.next() }) {
            let Some(piece) = pieces.get_mut(index).filter(|piece| piece.state == State::Open) else {
                continue;
            };
            let request = order.next_request(piece);
            if !lane.push(request, index as u64) {
                again.push(index);
                break;
            }
        }
        if lane.in_flight() == 0 {
            return;
        }
        let more = !again.is_empty() || (!stopped && !fresh.is_empty());
        lane.submit_and_wait(if more { 1 } else { lane.in_flight() });
        while let Some((tag, result)) = lane.reap() {
            let Some((index, piece)) = usize::try_from(tag).ok().and_then(|i| Some((i, pieces.get_mut(i)?)))
            else {
                continue;
            };
            Tally::add(&tally.ring_bytes, result.map_or(0, |done| done as u64));
            piece.settle(order, result, tally);
            match piece.state {
                State::Open => again.push(index),
                State::End | State::Failed(_) => stopped = true,
                State::Call | State::Done => {}
            }
        }
    }
}

/// Does what is left by system calls, in order.
pub(crate) fn run_by_calls(order: &Order<'_>, pieces: &mut [Piece], tally: &Tally) {
    for piece in pieces {
        while matches!(piece.state, State::Open | State::Call) {
            piece.plain = true;
            let result = call(order.next_request(piece));
            Tally::add(&tally.call_bytes, result.map_or(0, |done| done as u64));
            piece.settle(order, result, tally);
        }
        if piece.state != State::Done {
            return;
        }
    }
}

/// Sums up.
pub(crate) fn outcome(pieces: &[Piece]) -> Outcome {
    let mut outcome = Outcome { done: 0, error: None };
    for piece in pieces {
        outcome.done += piece.done;
        match piece.state {
            State::Done => {}
            State::Failed(errno) => {
                outcome.error = Some(errno);
                break;
            }
            State::Open | State::Call | State::End => break,
        }
    }
    outcome
}

impl<'m> Order<'m> {
    fn next_request(&self, piece: &mut Piece) -> Request<'m> {
        let (at, left) = (piece.at + piece.done, piece.len - piece.done);
        let offset = self.offset + at as u64;
        // A piece lies inside its order; if it did not, an empty request would end it.
        let nothing = self.memory.sub(0, 0).unwrap_or(self.memory);
        let memory = self.memory.sub(at, left).unwrap_or(nothing);
        let direct = self.direct.filter(|(_, alignment)| piece.direct && alignment.fits(offset, &memory));
        let slot = self.slots.as_ref().filter(|_| !piece.plain).and_then(|slots| {
            let buffer = (self.object_offset + at as u64) / BUFFER_LEN as u64;
            slots.get(usize::try_from(buffer).ok()?).copied()
        });
        piece.way = Way { direct: direct.is_some(), fixed: slot.is_some() };
        Request { fd: direct.map_or(self.buffered, |(fd, _)| fd), offset, memory, slot }
    }
}

impl Piece {
    /// Whether it is a ring's to do.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    fn settle(&mut self, order: &Order<'_>, result: Result<usize, Errno>, tally: &Tally) {
        let reading = matches!(order.memory, Memory::Into(_));
        match result {
            Ok(0) => self.state = if reading { State::End } else { State::Failed(Errno::IO) },
            Ok(done) => {
                self.done += done.min(self.len - self.done);
                let counter = if self.way.direct { &tally.direct_bytes } else { &tally.cached_bytes };
                Tally::add(counter, done as u64);
                if self.way.fixed {
                    Tally::add(&tally.fixed_bytes, done as u64);
                }
                if self.done == self.len {
                    self.state = State::Done;
                }
            }
            Err(Errno::INTR) => {}
            // The file system does not take this after all.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if self.way.direct && order.may_fall_back => {
                Tally::add(&tally.direct_refused, 1);
                self.direct = false;
            }
            // The object's registration is of another mapping.
            Err(Errno::FAULT) if self.way.fixed => self.plain = true,
            Err(Errno::AGAIN | Errno::CANCELED) if self.state == State::Open => self.state = State::Call,
            Err(errno) => self.state = State::Failed(errno),
        }
    }
}

impl Alignment {
    /// Whether direct I/O takes these bytes at this file offset.
    pub(crate) fn fits(&self, offset: u64, memory: &Memory<'_>) -> bool {
        self.fits_start(offset, memory.address())
            && (memory.len() as u64).is_multiple_of(self.offset)
            && memory.len() > 0
    }

    /// Whether it takes as many of them as are a multiple.
    pub(crate) fn fits_start(&self, offset: u64, address: usize) -> bool {
        offset.is_multiple_of(self.offset) && address.is_multiple_of(self.memory)
    }

    /// The longest length it takes, bytes.
    pub(crate) fn body(&self, len: usize) -> usize {
        let rest = usize::try_from(len as u64 % self.offset).unwrap_or(0);
        len - rest
    }
}
