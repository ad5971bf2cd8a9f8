//! Which entries of a queue may start, and up to which point all have ended: chains, barriers and the timeline.
//!
//! ```text
//!   accept ─► waiting ──may start──► running ─end─► ended      done() = the last point up to which all have ended
//!                └─ chained to one that failed ─► to be cancelled, with the same cause
//! ```
//!
//! A driver that runs entries of one queue side by side keeps one of these for it, in private memory. It is sans-I/O:
//! it knows points and outcomes, no rings and no time. An entry without flags may start at once; with CHAIN when the
//! one before it ended ok; with BARRIER when all before it have ended.
//!
//! It holds at most as many entries as the queue is deep, from the oldest that has not ended: a driver takes no more
//! than there is [`Sequencer::room`] for, so one slow entry does not make it remember without end.

use std::collections::VecDeque;

use vgem_proto::error::Failure;
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::user_queue::{Depth, Order};

/// The entries of one queue that have not all ended.
#[derive(Debug)]
pub struct Sequencer {
    depth: usize,
    /// All points up to here have ended.
    done: u64,
    /// How the entry of that point ended.
    last: Option<Failure>,
    entries: VecDeque<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Order),
    Running,
    Ended(Option<Failure>),
}

/// What is to be done with an entry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Run it.
    Run(Point),
    /// The entry before it failed, for this cause: complete it with Cancelled and the cause.
    Cancel(Point, CauseId),
}

impl Sequencer {
    /// For a queue of which nothing was taken yet. Allocates all that it ever needs.
    #[must_use]
    pub fn new(depth: Depth) -> Self {
        let depth = depth.entries() as usize;
        Self { depth, done: 0, last: None, entries: VecDeque::with_capacity(depth) }
    }

    /// How many entries may be taken now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.depth - self.entries.len()
    }

    /// The point up to which all have ended: the value of the queue's timeline.
    #[must_use]
    pub const fn done(&self) -> Point {
        Point(self.done)
    }

    /// Takes in the next entry; returns its point. One that is refused ends at once, by [`Sequencer::end`].
    ///
    /// # Panics
    /// Without [`Sequencer::room`].
    pub fn accept(&mut self, order: Order) -> Point {
        assert!(self.room() > 0, "the caller looks for room");
        self.entries.push_back(State::Waiting(order));
        Point(self.done + self.entries.len() as u64)
    }

    /// The oldest entry that may start, or is to be cancelled; it counts as running from now on.
    // M-158, M-159
    pub fn start(&mut self) -> Option<Start> {
        let mut before = State::Ended(self.last);
        let mut all_ended = true;
        let mut point = self.done;
        for entry in &mut self.entries {
            point += 1;
            if let State::Waiting(order) = *entry {
                let barred = order.contains(Order::BARRIER) && !all_ended;
                let start = match before {
                    _ if barred => None,
                    _ if !order.contains(Order::CHAIN) => Some(Start::Run(Point(point))),
                    State::Ended(None) => Some(Start::Run(Point(point))),
                    State::Ended(Some(failure)) => Some(Start::Cancel(Point(point), failure.cause)),
                    State::Waiting(_) | State::Running => None,
                };
                if start.is_some() {
                    *entry = State::Running;
                    return start;
                }
            }
            all_ended &= matches!(entry, State::Ended(_));
            before = *entry;
        }
        None
    }

    /// An entry has ended: ok, or failed, refused or cancelled. Returns the point up to which all have ended now. A
    /// point that is not under way changes nothing.
    pub fn end(&mut self, point: Point, failure: Option<Failure>) -> Point {
        let index = point.0.checked_sub(self.done + 1).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index))
            && !matches!(entry, State::Ended(_))
        {
            *entry = State::Ended(failure);
        }
        while let Some(State::Ended(failure)) = self.entries.front() {
            self.last = *failure;
            self.done += 1;
            self.entries.pop_front();
        }
        Point(self.done)
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::error::ErrorCode;

    use super::*;

    const FAILURE: Failure = Failure { code: ErrorCode::Io, cause: CauseId(9) };
    const FREE: Order = Order::empty();

    fn of(orders: &[Order]) -> Sequencer {
        let mut sequencer = Sequencer::new(Depth::new(8).expect("a depth"));
        for order in orders {
            sequencer.accept(*order);
        }
        sequencer
    }

    fn starts(sequencer: &mut Sequencer) -> Vec<Start> {
        std::iter::from_fn(|| sequencer.start()).collect()
    }

    fn run(points: &[u64]) -> Vec<Start> {
        points.iter().map(|point| Start::Run(Point(*point))).collect()
    }

    #[test]
    fn entries_without_flags_start_together_and_the_timeline_waits_for_the_slowest() {
        let mut sequencer = of(&[FREE; 3]);
        assert_eq!(starts(&mut sequencer), run(&[1, 2, 3]));
        let done = [3, 2, 1].map(|point| sequencer.end(Point(point), None).0);
        assert_eq!(done, [0, 0, 3]);
    }

    // M-158
    #[test]
    fn a_chain_goes_on_when_the_one_before_ended_ok() {
        let mut sequencer = of(&[FREE, Order::CHAIN, FREE]);
        assert_eq!(starts(&mut sequencer), run(&[1, 3]));
        sequencer.end(Point(1), None);
        assert_eq!(starts(&mut sequencer), run(&[2]));
    }

    // M-158
    #[test]
    fn a_chain_behind_a_failure_is_cancelled_to_its_end_with_the_same_cause() {
        let mut sequencer = of(&[FREE, Order::CHAIN, Order::CHAIN, FREE]);
        assert_eq!(starts(&mut sequencer), run(&[1, 4]));
        sequencer.end(Point(1), Some(FAILURE));
        for point in [2, 3] {
            assert_eq!(starts(&mut sequencer), [Start::Cancel(Point(point), FAILURE.cause)]);
            let cancelled = Failure { code: ErrorCode::Cancelled, ..FAILURE };
            sequencer.end(Point(point), Some(cancelled));
        }
        assert_eq!(sequencer.end(Point(4), None), Point(4));
        sequencer.accept(Order::CHAIN);
        assert_eq!(starts(&mut sequencer), run(&[5]));
    }

    // M-159
    #[test]
    fn a_barrier_waits_for_all_before_it_and_for_nothing_behind() {
        let mut sequencer = of(&[FREE, FREE, Order::BARRIER, FREE]);
        assert_eq!(starts(&mut sequencer), run(&[1, 2, 4]));
        sequencer.end(Point(2), Some(FAILURE));
        assert_eq!(starts(&mut sequencer), []);
        sequencer.end(Point(1), None);
        assert_eq!(starts(&mut sequencer), run(&[3]));
    }

    #[test]
    fn a_chained_barrier_needs_both() {
        let mut sequencer = of(&[FREE, FREE, Order::CHAIN | Order::BARRIER]);
        starts(&mut sequencer);
        sequencer.end(Point(2), Some(FAILURE));
        assert_eq!(starts(&mut sequencer), []);
        sequencer.end(Point(1), None);
        assert_eq!(starts(&mut sequencer), [Start::Cancel(Point(3), FAILURE.cause)]);
    }

    #[test]
    fn what_is_not_under_way_does_not_end() {
        let mut sequencer = of(&[FREE, FREE]);
        starts(&mut sequencer);
        assert_eq!([0, 3, u64::MAX].map(|point| sequencer.end(Point(point), None).0), [0; 3]);
        sequencer.end(Point(2), Some(FAILURE));
        sequencer.end(Point(2), None);
        assert_eq!((sequencer.end(Point(1), None), sequencer.last), (Point(2), Some(FAILURE)));
    }

    #[test]
    fn room_ends_at_the_depth_counted_from_the_oldest() {
        let mut sequencer = of(&[FREE; 8]);
        (2..=8).for_each(|point| assert_eq!(sequencer.end(Point(point), None), Point(0)));
        assert_eq!(sequencer.room(), 0);
        sequencer.end(Point(1), None);
        assert_eq!((sequencer.room(), sequencer.done()), (8, Point(8)));
    }
}
