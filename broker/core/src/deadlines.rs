//! Moments at which something must be looked at again.
//!
//! Every timer belongs to a thing, and the thing remembers the moment it is armed for: arming again moves it, and
//! whoever ends the thing disarms it. So the earliest moment is always a real one, and while nothing is under way
//! there is none: an idle broker is never woken.

use std::collections::BTreeSet;

use vgem_proto::ids::{ClientKey, InstanceId, ObjectKey, Point, Time, TimelineKey};

use crate::devices::Seat;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The job at the head of a queue has run for too long.
    Job(TimelineKey),
    /// A client has not greeted.
    Greeting(ClientKey),
    /// An instance has not greeted, or not answered.
    Answer(InstanceId),
    /// A ring's thread has not answered.
    Ring(TimelineKey),
    /// An instance is of no use.
    Idle(InstanceId),
    /// An instance of a client's own was killed and should have ended.
    HeldUp(InstanceId),
    /// A device, by place, may be started again for a seat.
    Restart(usize, Seat),
    /// A request for a queue has waited long enough.
    Opening(u64),
    /// One half of an import, by the client's number, has waited long enough for the other.
    Import(ClientKey, u64),
    /// A client has left fds unread for long.
    Unread(ClientKey),
    /// The first open promise of a timeline is due.
    Promise(TimelineKey),
    /// A point that a job waits for must have been promised: the timeline's index and generation, the point, and a
    /// number.
    Future((u32, u32), Point, u64),
    /// A client has waited long enough for a point to be promised.
    Query(u64),
    /// A token for a timeline is good no longer.
    Token(u64),
    /// An orphaned object may be free by now.
    Look(ObjectKey),
    /// All orphaned objects, or the next of them, should be looked at.
    Sweep,
}

/// All timers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Arms a timer for `at`. `memory` is where its owner remembers that.
    pub(crate) fn arm(&mut self, timer: Timer, memory: &mut Option<Time>, at: Time) {
        if *memory == Some(at) {
            return;
        }
        self.disarm(timer, memory);
        self.due.insert((at, timer));
        *memory = Some(at);
    }

    /// Disarms a timer, if it was armed.
    pub(crate) fn disarm(&mut self, timer: Timer, memory: &mut Option<Time>) {
        if let Some(at) = memory.take() {
            self.due.remove(&(at, timer));
        }
    }

    /// The earliest moment.
    pub(crate) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out one timer that is due. Its owner must forget the moment.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Timer> {
        match self.due.first() {
            Some((at, _)) if *at <= now => self.due.pop_first().map(|(_, timer)| timer),
            Some(_) | None => None,
        }
    }

    /// Whether a timer is armed for a moment.
    pub(crate) fn has(&self, timer: Timer, at: Time) -> bool {
        self.due.contains(&(at, timer))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Time, Timer)> {
        self.due.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arming_again_moves_the_timer() {
        let (mut timers, mut memory) = (Timers::default(), None);
        timers.arm(Timer::Sweep, &mut memory, Time(5));
        timers.arm(Timer::Sweep, &mut memory, Time(9));
        assert_eq!((timers.next(), timers.iter().count()), (Some(Time(9)), 1));
    }

    #[test]
    fn nothing_is_due_before_its_moment_and_nothing_is_left_after_it() {
        let (mut timers, mut memory) = (Timers::default(), None);
        timers.arm(Timer::Sweep, &mut memory, Time(5));
        let popped = [4, 5, 6].map(|now| timers.pop(Time(now)));
        assert_eq!((popped, timers.next()), ([None, Some(Timer::Sweep), None], None));
    }
}
