//! A timeline as everybody who waits for its points has it: where it is looked for.
//!
//! ```text
//!   signalled here     look at the primary page, sleep on a word of this process (and on that page's doorbell, which the
//!                      broker rings for its verdicts)
//!   shown to us        look at the page that ObserveTimeline named, sleep on its doorbell; not asked for before it is needed
//!   of a queue         look at the queue's page
//! ```
//!
//! A timeline whose right to signal was passed on becomes one that is shown to us; one that was closed here has failed from
//! the first point on that was not signalled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vgem_os::fence::{PointState, Slot};
use vgem_os::futex::{self, FutexWord, Word};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, TimelineHandle, TimelineKey};
use vgem_proto::message::client::{ClientMessage, CloseTimeline};

use crate::core::Core;
use crate::pages::{Observer, Target};
use crate::queue::QueueShared;
use crate::signals::Place;
use vgem_os::spin::Spin;

/// Ends that are remembered of a timeline that is shown nowhere.
const TOLD: usize = 64;
/// What becomes of a timeline that this client signals.
const SIGNALS: u8 = 0;
const PASSED_ON: u8 = 1;
const CLOSED: u8 = 2;

/// A timeline that this client has a handle of.
#[derive(Debug)]
pub(crate) struct TimelineShared {
    pub(crate) core: Arc<Core>,
    pub(crate) name: Arc<str>,
    pub(crate) handle: TimelineHandle,
    generation: u32,
    origin: Origin,
    /// The last point that is known to be promised.
    promised: AtomicU64,
    /// Where it is seen, once that was asked for.
    sight: OnceLock<Sight>,
    /// How points ended, as the broker said of a timeline that is over and shown nowhere.
    told: Mutex<VecDeque<(Point, PointState)>>,
    /// An errand asks for it.
    pub(super) asking: AtomicBool,
}

#[derive(Debug)]
enum Origin {
    Here(Home),
    Elsewhere,
    Queue(Arc<QueueShared>),
}

/// Where a timeline is looked for that this client signals.
#[derive(Debug)]
struct Home {
    place: Place,
    state: AtomicU8,
    /// Threads that sleep for it, on `word`.
    sleepers: AtomicU32,
    word: Word,
    spin: Spin,
}

#[derive(Debug)]
struct Sight {
    observer: Arc<Observer>,
    slot: Slot,
}

impl TimelineShared {
    /// One that this client signals at `place`, or that is shown to it.
    pub(super) fn opened(
        core: Arc<Core>,
        name: Arc<str>,
        handle: TimelineHandle,
        key: TimelineKey,
        place: Option<Place>,
    ) -> Self {
        let origin = place.map_or(Origin::Elsewhere, |place| {
            let (state, sleepers) = (AtomicU8::new(SIGNALS), AtomicU32::new(0));
            let (word, spin) = (Word::new(0), Spin::default());
            Origin::Here(Home { place, state, sleepers, word, spin })
        });
        Self::of(core, name, handle, key.generation, origin)
    }

    /// That of a queue.
    pub(crate) fn of_queue(queue: &Arc<QueueShared>) -> Self {
        let core = Arc::clone(&queue.core);
        let (handle, generation) = (TimelineHandle(queue.handle.0), queue.target(Point(0)).generation);
        Self::of(core, Arc::clone(&queue.device.name), handle, generation, Origin::Queue(Arc::clone(queue)))
    }

    fn of(core: Arc<Core>, name: Arc<str>, handle: TimelineHandle, generation: u32, origin: Origin) -> Self {
        let (promised, sight, asking) = (AtomicU64::new(0), OnceLock::new(), AtomicBool::new(false));
        Self { core, name, handle, generation, origin, promised, sight, told: Mutex::default(), asking }
    }

    #[inline]
    pub(crate) fn look(&self, point: Point) -> PointState {
        if let Origin::Here(home) = &self.origin {
            match home.state.load(Ordering::Acquire) {
                SIGNALS => return self.look_at(home, point),
                CLOSED => {
                    let cancelled = ErrorCode::Cancelled.number();
                    return match self.look_at(home, point) {
                        PointState::Pending => {
                            PointState::Failed { code: cancelled, cause: CauseId::NONE.0, time_ns: 0 }
                        }
                        ended => ended,
                    };
                }
                _ => {}
            }
        }
        match self.seen_at(point) {
            Some((observer, target)) => observer.state(target),
            None => self.told(point).unwrap_or(PointState::Pending),
        }
    }

    #[cold]
    fn told(&self, point: Point) -> Option<PointState> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().find(|(known, _)| *known == point).map(|(_, state)| *state)
    }

    /// How a point ended that cannot be seen.
    pub(super) fn tell(&self, point: Point, state: PointState) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD {
            told.pop_front();
        }
        told.push_back((point, state));
    }

    #[inline]
    fn look_at(&self, home: &Home, point: Point) -> PointState {
        home.place.page.face.state(home.place.slot, self.generation, point.0)
    }

    /// The page in which it is seen, if it is seen in one and that is known.
    #[inline]
    pub(crate) fn seen_at(&self, point: Point) -> Option<(&Arc<Observer>, Target)> {
        if let Origin::Queue(queue) = &self.origin {
            return Some((&queue.observer, queue.target(point)));
        }
        let Sight { observer, slot } = self.sight.get()?;
        Some((observer, Target { slot: *slot, generation: self.generation, point: point.0 }))
    }

    /// It is seen there, from now on.
    pub(super) fn see(&self, observer: Arc<Observer>, slot: Slot) {
        // Who asked first was told the same.
        drop(self.sight.set(Sight { observer, slot }));
    }

    /// Whether this client signals it, or did until it closed it: nobody has to be asked.
    pub(crate) fn is_here(&self) -> bool {
        matches!(&self.origin, Origin::Here(home) if home.state.load(Ordering::Acquire) != PASSED_ON)
    }

    /// Whether all promises are made here, so that nobody has to be asked about them.
    pub(crate) fn knows_promises(&self) -> bool {
        self.is_here() || matches!(self.origin, Origin::Queue(_))
    }

    /// The last point that is known to be promised.
    pub(crate) fn promised(&self) -> Point {
        match &self.origin {
            Origin::Queue(queue) => queue.last_point(),
            _ => Point(self.promised.load(Ordering::Acquire)),
        }
    }

    /// Points up to this one are promised.
    pub(super) fn learn(&self, promised: Point) {
        self.promised.fetch_max(promised.0, Ordering::AcqRel);
        self.ring();
    }

    /// The promises beyond this point were refused.
    pub(super) fn unlearn(&self, promised: Point) {
        self.promised.fetch_min(promised.0, Ordering::AcqRel);
    }

    /// Whether a point may be waited for as one that is promised.
    pub(crate) fn has_promised(&self, point: Point) -> bool {
        point <= self.promised()
    }

    /// The word that threads of this process sleep on for it, and the doorbell that the broker rings.
    pub(crate) fn words(&self) -> Option<[FutexWord<'_>; 2]> {
        match &self.origin {
            Origin::Here(home) => Some([home.word.futex(), home.place.page.face.word()]),
            _ => None,
        }
    }

    /// Spins for a moment, where that pays; what `look` found.
    pub(super) fn spin<T>(&self, look: impl FnMut() -> Option<T>) -> Option<T> {
        match &self.origin {
            Origin::Here(home) => home.spin.turn(look),
            _ => None,
        }
    }

    /// Counts a sleeper more. Look once more before sleeping.
    pub(crate) fn enlist(&self) {
        if let Origin::Here(home) = &self.origin {
            home.sleepers.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }

    /// Counts one less.
    pub(crate) fn delist(&self) {
        if let Origin::Here(home) = &self.origin {
            home.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// After a signal and its fence, or whenever else a sleeper here should look: wakes them, if there are any.
    #[inline]
    pub(super) fn ring(&self) {
        if let Origin::Here(home) = &self.origin
            && home.sleepers.load(Ordering::SeqCst) != 0
        {
            home.word.bump();
            // Waking a private word that exists does not fail.
            drop(futex::wake(home.word.futex(), u32::MAX));
        }
    }

    /// The right to signal was passed on.
    pub(super) fn pass_on(&self) {
        self.leave(PASSED_ON);
    }

    /// This client signals no more, and nobody will.
    pub(super) fn close(&self) {
        self.leave(CLOSED);
        self.post_close();
    }

    fn leave(&self, state: u8) {
        if let Origin::Here(home) = &self.origin {
            home.state.store(state, Ordering::Release);
            self.core.signals.close(self.handle);
            fence(Ordering::SeqCst);
            self.ring();
        }
    }

    fn post_close(&self) {
        self.core.link.post(&ClientMessage::CloseTimeline(CloseTimeline { timeline: self.handle }));
    }
}

impl Drop for TimelineShared {
    fn drop(&mut self) {
        match &self.origin {
            // Its end was told when it was closed.
            Origin::Here(home) if home.state.load(Ordering::Acquire) != PASSED_ON => {}
            Origin::Here(_) | Origin::Elsewhere => self.post_close(),
            // The queue's handle names it, and goes with the queue.
            Origin::Queue(_) => {}
        }
    }
}
