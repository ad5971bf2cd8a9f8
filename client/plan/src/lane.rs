//! Lanes: the queues of one device, and what they hold of calls that nobody waits for any more.
//!
//! ```text
//!   open ─ lost ─► closed ─┬─ for jobs: opens again with the next call that wants it, a second apart if that fails
//!                          └─ for entries: when it is told, because what was bound to it has to be bound anew
//! ```
//!
//! A deadline ends a wait, not the work. So a result cell is free again when its job has ended, and an entry's slot when its
//! end was taken, by whichever call comes next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vgem::{CellRef, Cells, Device, Fence, Queue, Ticket, UserQueue};
use vgem_driver::local::Local;

use crate::choice::Obstacle;
use crate::engines;
use crate::error::Result;
use crate::way::Way;

/// Result cells, and so tracked calls under way at once.
pub(crate) const CELLS: usize = 256;
/// How long after a failure to open a lane again that is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One device: its two queues and its engine.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) device: Device,
    pub(crate) local: Option<Local>,
    pub(crate) tracked: Mutex<Line<Queue>>,
    pub(crate) user: Mutex<Line<Arc<UserQueue>>>,
    /// The user queue that reaches plain memory.
    pub(crate) plain: Mutex<Line<Arc<UserQueue>>>,
    /// Entries that nobody waited for to their end.
    late: Mutex<Vec<(Arc<UserQueue>, Ticket)>>,
}

/// A queue, or why there is none.
#[derive(Debug)]
pub(crate) enum Line<T> {
    Open(T),
    Closed {
        why: Obstacle,
        /// From when on it may be opened again, if it may without being told.
        again: Option<Instant>,
    },
}

impl Lane {
    pub(crate) fn new(
        device: Device,
        tracked: vgem::Result<Queue>,
        user: vgem::Result<UserQueue>,
        plain: Option<vgem::Result<UserQueue>>,
    ) -> Self {
        let local = engines::of(device.name());
        let tracked = Mutex::new(Line::opened(Way::Tracked, tracked));
        let user = Mutex::new(Line::opened(Way::UserQueue, user.map(Arc::new)));
        let plain = Mutex::new(Line::plain(plain));
        Self { device, local, tracked, user, plain, late: Mutex::default() }
    }

    /// The user queue, if it is open.
    pub(crate) fn user(&self) -> Option<Arc<UserQueue>> {
        match &*lock(&self.user) {
            Line::Open(queue) => Some(Arc::clone(queue)),
            Line::Closed { .. } => None,
        }
    }

    /// The user queue that reaches plain memory, or why there is none.
    pub(crate) fn plain(&self) -> Result<Arc<UserQueue>, Obstacle> {
        match &*lock(&self.plain) {
            Line::Open(queue) => Ok(Arc::clone(queue)),
            Line::Closed { why, .. } => Err(why.clone()),
        }
    }

    /// It is over.
    pub(crate) fn lost_plain(&self, why: String) {
        *lock(&self.plain) = Line::Closed { why: Obstacle::Lost { why }, again: None };
    }

    /// Why it is not.
    pub(crate) fn no_user(&self) -> Obstacle {
        let lost = || Obstacle::Lost { why: "it was closed meanwhile".into() };
        lock(&self.user).obstacle(Instant::now()).unwrap_or_else(lost)
    }

    /// The queue for jobs, if it is open.
    pub(crate) fn tracked(&self) -> Option<Queue> {
        match &*lock(&self.tracked) {
            Line::Open(queue) => Some(queue.clone()),
            Line::Closed { .. } => None,
        }
    }

    /// A queue for jobs that was opened anew.
    pub(crate) fn reopened(&self, opened: vgem::Result<Queue>) -> vgem::Result<Queue> {
        let mut line = lock(&self.tracked);
        *line = Line::opened(Way::Tracked, opened.clone());
        opened
    }

    /// An entry that was pushed to a queue of this lane.
    pub(crate) fn pushed(&self, queue: &Arc<UserQueue>, ticket: Ticket) -> Pushed<'_> {
        Pushed { lane: self, queue: Arc::clone(queue), ticket: Some(ticket) }
    }

    /// Takes what has ended of what was left.
    pub(crate) fn sweep(&self) {
        lock(&self.late).retain(|(queue, ticket)| matches!(queue.try_take(*ticket), Ok(None)));
    }

    /// One of its ways is lost.
    pub(crate) fn lost(&self, way: Way, why: String) {
        let why = Obstacle::Lost { why };
        match way {
            Way::Tracked => *lock(&self.tracked) = Line::Closed { why, again: Some(Instant::now()) },
            Way::UserQueue => *lock(&self.user) = Line::Closed { why, again: None },
            Way::Cpu => {}
        }
    }
}

impl Line<Arc<UserQueue>> {
    /// A queue that reaches plain memory, if one was asked for.
    pub(crate) fn plain(opened: Option<vgem::Result<UserQueue>>) -> Self {
        match opened {
            Some(opened) => Self::opened(Way::UserQueue, opened.map(Arc::new)),
            None => Self::Closed { why: Obstacle::NoSva, again: None },
        }
    }
}

impl<T> Line<T> {
    pub(crate) fn opened(way: Way, opened: vgem::Result<T>) -> Self {
        match opened {
            Ok(open) => Self::Open(open),
            Err(error) => {
                let again = (way == Way::Tracked).then(|| Instant::now() + AGAIN);
                Self::Closed { why: Obstacle::Unavailable { way, why: error.to_string() }, again }
            }
        }
    }

    /// What is in the way of using it now.
    pub(crate) fn obstacle(&self, now: Instant) -> Option<Obstacle> {
        match self {
            Self::Closed { again: Some(again), .. } if *again <= now => None,
            Self::Closed { why, .. } => Some(why.clone()),
            Self::Open(_) => None,
        }
    }
}

/// Result cells, one for each tracked call under way.
#[derive(Debug)]
pub(crate) struct Slots {
    cells: Cells,
    state: Mutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    free: Vec<usize>,
    /// Jobs that nobody waited for to their end write theirs all the same.
    late: Vec<(usize, Fence)>,
}

impl Slots {
    pub(crate) fn over(cells: Cells) -> Self {
        let free = (0..cells.len()).rev().collect();
        Self { cells, state: Mutex::new(SlotState { free, late: Vec::new() }) }
    }

    /// A cell of one's own.
    pub(crate) fn take(&self) -> Option<Slot<'_>> {
        let mut state = lock(&self.state);
        state.sweep();
        let number = state.free.pop()?;
        Some(Slot { slots: self, number, until: None })
    }

    /// That there is none left.
    pub(crate) fn full(&self) -> Obstacle {
        Obstacle::Busy { count: self.cells.len() }
    }

    /// What is in the way of taking one.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        let mut state = lock(&self.state);
        state.sweep();
        state.free.is_empty().then(|| self.full())
    }
}

/// A cell of one's own. Dropped, it is free: at once, or when its job has ended.
#[derive(Debug)]
pub(crate) struct Slot<'p> {
    slots: &'p Slots,
    number: usize,
    until: Option<Fence>,
}

impl Slot<'_> {
    pub(crate) fn cell(&self) -> CellRef<'_> {
        self.slots.cells.at(self.number)
    }

    /// This job writes it.
    pub(crate) fn keep_until(&mut self, fence: &Fence) {
        self.until = Some(fence.clone());
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.slots.state);
        match self.until.take() {
            Some(fence) if !fence.has_ended() => state.late.push((self.number, fence)),
            _ => state.free.push(self.number),
        }
    }
}

/// An entry under way. Dropped before it was taken, it is taken once it has ended.
#[derive(Debug)]
pub(crate) struct Pushed<'p> {
    lane: &'p Lane,
    queue: Arc<UserQueue>,
    ticket: Option<Ticket>,
}

impl Pushed<'_> {
    /// How it ended was taken.
    pub(crate) fn taken(mut self) {
        self.ticket = None;
    }
}

impl Drop for Pushed<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            lock(&self.lane.late).push((Arc::clone(&self.queue), ticket));
        }
    }
}

impl SlotState {
    fn sweep(&mut self) {
        let Self { free, late } = self;
        let ended = late.extract_if(.., |(_, fence)| fence.has_ended());
        free.extend(ended.map(|(cell, _)| cell));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
