//! A queue and its place in the schedule's table.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use vgem_proto::ids::{Point, TimelineKey};
use vgem_proto::limits;

use super::fair::ClientNumber;
use super::pending::Pending;
use crate::timeline::Timeline;

/// Which queues of a domain go first: 0 is the ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Priority(u8);

impl Priority {
    /// How many there are.
    pub(super) const COUNT: usize = limits::PRIORITY as usize + 1;
    /// The ordinary one, and the lowest.
    pub(crate) const ORDINARY: Self = Self(0);

    /// A priority; the highest if there is none so high.
    pub(crate) fn new(number: u8) -> Self {
        Self(number.min(limits::PRIORITY))
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its bit in a set of priorities.
    pub(super) fn bit(self) -> u8 {
        1 << self.0
    }

    /// The highest of a set.
    pub(super) fn highest(set: u8) -> Option<Self> {
        Some(Self(u8::try_from(set.checked_ilog2()?).ok()?))
    }
}

const _: () = assert!(Priority::COUNT <= u8::BITS as usize, "a set of priorities is one byte");

/// A queue's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane(u32);

#[cfg(test)]
impl Lane {
    pub(super) const fn for_test(place: u32) -> Self {
        Self(place)
    }
}

/// Where the head of a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    /// There is none.
    Empty,
    /// It waits for a point of another queue here, and is in that queue's list.
    ParkedHere(Lane),
    /// It waits for a point of another process, and is in the list of those.
    ParkedElsewhere,
    /// It waits to be told how a point ended.
    Asking,
    /// It has waited; the broker is to be told.
    Untold,
    /// It has failed and only has to end.
    Ending,
    /// It may run: policy says when.
    Runnable,
    /// It was claimed and is not here any more.
    Running,
}

/// Who signals the points of a queue's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Points {
    /// Its jobs.
    OfJobs,
    /// The entries of its ring: it takes no jobs.
    OfRing,
}

/// Points up to which somebody more important waits, by the priority of who does.
#[derive(Debug, Clone, Copy, Default)]
struct Raised {
    until: [Point; Priority::COUNT],
    set: u8,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) timeline: Arc<Timeline>,
    pub(super) client: ClientNumber,
    /// The point of the last job taken; the next one's is above it.
    pub(super) last: Point,
    pub(super) jobs: VecDeque<Pending>,
    pub(super) state: QueueState,
    pub(super) closing: bool,
    pub(super) points: Points,
    /// Queues whose heads wait for a point of this one.
    pub(super) waiters: Vec<Lane>,
    own: Priority,
    raised: Raised,
}

impl Queue {
    pub(super) fn new(timeline: Arc<Timeline>, client: ClientNumber, own: Priority) -> Self {
        Self {
            last: timeline.value(),
            timeline,
            client,
            jobs: VecDeque::new(),
            state: QueueState::Empty,
            closing: false,
            points: Points::OfJobs,
            waiters: Vec::new(),
            own,
            raised: Raised::default(),
        }
    }

    /// Its own priority, or that of somebody more important who waits for a point that is not signalled yet.
    #[inline]
    pub(super) fn priority(&self) -> Priority {
        Priority::highest(self.raised.set).map_or(self.own, |highest| highest.max(self.own))
    }

    /// Notes that somebody of a priority waits for a point; whether that says anything new.
    pub(super) fn raise(&mut self, point: Point, priority: Priority) -> bool {
        let value = self.timeline.value();
        let Some(until) = self.raised.until.get_mut(priority.index()) else { return false };
        if priority <= self.own || point <= *until || point <= value {
            return false;
        }
        *until = point;
        self.raised.set |= priority.bit();
        true
    }

    /// A point was signalled: forgets who waited for it.
    #[inline]
    pub(super) fn settle_raised(&mut self) {
        if self.raised.set == 0 {
            return;
        }
        let value = self.timeline.value();
        for (at, until) in self.raised.until.iter().enumerate() {
            if *until <= value {
                self.raised.set &= !(1 << at);
            }
        }
    }
}

/// All queues, by place and by key. A place is used again; a list that names places names open queues only.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    places: Vec<Option<Queue>>,
    free: Vec<Lane>,
    by_index: HashMap<u32, Lane, BuildHasherDefault<Spread>>,
}

/// Spreads indexes, which the broker counts up. Nobody who could gain from a collision chooses them.
#[derive(Debug, Clone, Copy, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, index: u32) {
        // 2^64 divided by the golden ratio.
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Lanes {
    /// Adds a queue; nothing if there is one at that index.
    pub(super) fn insert(&mut self, queue: Queue) -> Option<Lane> {
        let index = queue.timeline.key.index;
        if self.by_index.contains_key(&index) {
            return None;
        }
        let lane = self.free.pop().or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).ok().map(Lane)
        })?;
        if let Some(place) = self.places.get_mut(lane.0 as usize) {
            *place = Some(queue);
        }
        self.by_index.insert(index, lane);
        Some(lane)
    }

    pub(super) fn remove(&mut self, lane: Lane) -> Option<Queue> {
        let queue = self.places.get_mut(lane.0 as usize)?.take()?;
        self.by_index.remove(&queue.timeline.key.index);
        self.free.push(lane);
        Some(queue)
    }

    /// The place of this very queue.
    #[inline]
    pub(super) fn find(&self, key: TimelineKey) -> Option<Lane> {
        let lane = *self.by_index.get(&key.index)?;
        (self.get(lane)?.timeline.key == key).then_some(lane)
    }

    #[inline]
    pub(super) fn get(&self, lane: Lane) -> Option<&Queue> {
        self.places.get(lane.0 as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, lane: Lane) -> Option<&mut Queue> {
        self.places.get_mut(lane.0 as usize)?.as_mut()
    }

    #[inline]
    pub(super) fn head(&self, lane: Lane) -> Option<&Pending> {
        self.get(lane)?.jobs.front()
    }
}
