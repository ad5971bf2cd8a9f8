//! Where this client shows the timelines that it signals: its signal pages, and what the broker has to say about them.
//!
//! ```text
//!   broker ── NEWS ──► signal: not what was answered ── ask ──► errand: TakeShown ──► Shown
//!                         │                                                            │ new pages, places
//!                         │ stores in all places it knows                              ▼
//!                         └──◄── news flag ── inbox of the timeline ◄── slots are taken over under its lock
//! ```
//!
//! Signalling never waits for the broker: an errand asks, and takes the new slots over from the primary one, since their
//! observers may sleep already. The signaller finds the flag of its inbox with its next signal, takes the slots over once
//! more, and stores in them itself from then on. Both hold the inbox's lock meanwhile, so a slot has one writer.
//!
//! **No signal is lost between the two.** The errand raises the flag before it reads the primary slot, the signaller stores
//! there before it looks at the flag, each with a sequentially consistent fence between: so the errand reads the
//! newest store, or the signaller sees the flag.
//!
//! Invariant: what a page's news was when TakeShown was *sent* counts as answered once it is answered, and not before the
//! flags are up.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vgem_os::fence::{SignallerFace, SignallerFds, Slot};
use vgem_proto::error::Refusal;
use vgem_proto::ids::{Point, TimelineHandle};
use vgem_proto::message::client::{ClientMessage, Shown, TakeShown};

use crate::core::Core;
use crate::error::Result;
use crate::exchange::RequestId;
use crate::numbered::ShownPlace;
use crate::obstacle::AGAIN;

/// Places of timelines that are not here; beyond it the oldest is forgotten.
const STRAYS: usize = 256;
/// Promises that were sent and may still be refused; beyond it the oldest counts as taken.
const PROMISES: usize = 256;

/// A page in which this client signals.
#[derive(Debug)]
pub(crate) struct SignalPage {
    pub(crate) face: SignallerFace,
    /// The news that was answered; of a primary page.
    answered: AtomicU32,
}

/// A slot in which a timeline is shown.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) page: Arc<SignalPage>,
    pub(crate) slot: Slot,
}

/// What a timeline's signaller is told.
#[derive(Debug)]
pub(crate) struct Inbox {
    home: Place,
    generation: u32,
    news: AtomicBool,
    state: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Every place but the primary one.
    places: Vec<Place>,
    /// A promise was refused, and before it points up to this one were promised.
    refusal: Option<(Refusal, Point)>,
}

/// The timelines that this client signals.
#[derive(Debug, Default)]
struct Open {
    inboxes: HashMap<TimelineHandle, Arc<Inbox>>,
    /// Places of timelines that are not here: they are closed, or the answer that opens them is still being read.
    strays: VecDeque<(TimelineHandle, Place)>,
}

/// A promise that may still be refused.
#[derive(Debug)]
struct Sent {
    id: RequestId,
    timeline: TimelineHandle,
    /// What was promised before.
    before: Point,
}

/// All that a client signals.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    primaries: Mutex<Vec<Arc<SignalPage>>>,
    open: Mutex<Open>,
    promises: Mutex<VecDeque<Sent>>,
    /// An errand is to be run, and has not begun.
    asked: AtomicBool,
}

impl SignalPage {
    pub(crate) fn map(fds: SignallerFds) -> Result<Self> {
        Ok(Self { face: SignallerFace::map(fds)?, answered: AtomicU32::new(0) })
    }

    /// Whether the broker has said something that was not answered yet. Look after a signal.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.face.news() != self.answered.load(Ordering::Acquire)
    }
}

impl Inbox {
    /// Whether there is something to take. Look after [`SignalPage::has_news`].
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// The signaller takes the places it is to store in, which show its newest point now.
    pub(crate) fn take(&self) -> Vec<Place> {
        let state = self.state();
        self.news.store(false, Ordering::Relaxed);
        for place in &state.places {
            // The primary slot moves by the caller's hand alone.
            let _woken = self.take_over(place);
        }
        state.places.clone()
    }

    /// What was refused since the last call.
    pub(crate) fn take_refusal(&self) -> Option<(Refusal, Point)> {
        self.state().refusal.take()
    }

    /// The broker shows the timeline in one place more.
    fn add(&self, place: Place) {
        let mut state = self.state();
        state.places.push(place.clone());
        self.news.store(true, Ordering::Release);
        // At most one signal goes by without seeing the flag; the next one waits for the lock.
        while self.take_over(&place).is_none() {
            std::thread::yield_now();
        }
    }

    fn remove(&self, page: &Arc<SignalPage>, slot: Slot) {
        let mut state = self.state();
        state.places.retain(|place| place.slot != slot || !Arc::ptr_eq(&place.page, page));
        self.news.store(true, Ordering::Release);
    }

    fn take_over(&self, place: &Place) -> Option<vgem_os::fence::Woke> {
        place.page.face.take_over(place.slot, self.generation, &self.home.page.face, self.home.slot)
    }

    fn state(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    /// A timeline of this client begins at `home`, its primary place.
    pub(crate) fn open(&self, timeline: TimelineHandle, generation: u32, home: &Place) -> Arc<Inbox> {
        let mut primaries = lock(&self.primaries);
        if !primaries.iter().any(|page| Arc::ptr_eq(page, &home.page)) {
            primaries.push(Arc::clone(&home.page));
        }
        drop(primaries);
        let _woken = home.page.face.publish(home.slot, generation, 0, 0, &[]);
        let (home, news, state) = (home.clone(), AtomicBool::new(false), Mutex::default());
        let inbox = Arc::new(Inbox { home, generation, news, state });
        let mut open = lock(&self.open);
        open.inboxes.insert(timeline, Arc::clone(&inbox));
        let strays = std::mem::take(&mut open.strays);
        let (own, strays): (VecDeque<_>, _) = strays.into_iter().partition(|(of, _)| *of == timeline);
        open.strays = strays;
        drop(open);
        own.into_iter().for_each(|(_, place)| inbox.add(place));
        inbox
    }

    /// This client signals a timeline no more. Its primary page may be gone with it.
    pub(crate) fn close(&self, timeline: TimelineHandle) {
        let mut open = lock(&self.open);
        open.inboxes.remove(&timeline);
        let is_home =
            |page: &Arc<SignalPage>| open.inboxes.values().any(|inbox| Arc::ptr_eq(&inbox.home.page, page));
        lock(&self.primaries).retain(is_home);
    }

    /// A promise was sent; it is answered only if it is refused.
    pub(crate) fn promised(&self, id: RequestId, timeline: TimelineHandle, before: Point) {
        let mut promises = lock(&self.promises);
        if promises.len() >= PROMISES {
            promises.pop_front();
        }
        promises.push_back(Sent { id, timeline, before });
    }

    /// These requests were refused: some may be promises.
    pub(crate) fn refused(&self, refused: &[(RequestId, Refusal)]) {
        let mut promises = lock(&self.promises);
        for (id, why) in refused {
            let Some(place) = promises.iter().position(|sent| sent.id == *id) else { continue };
            let Some(Sent { timeline, before, .. }) = promises.remove(place) else { continue };
            if let Some(inbox) = lock(&self.open).inboxes.get(&timeline) {
                inbox.state().refusal.get_or_insert_with(|| (why.clone(), before));
            }
        }
    }

    /// Has the broker asked what is new, in a while, without waiting for it.
    #[cold]
    pub(crate) fn ask(&self, core: &Arc<Core>) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            let core = Arc::clone(core);
            crate::errand::run(&core.clone(), move || core.signals.take_shown(&core));
        }
    }

    fn take_shown(&self, core: &Core) {
        self.asked.store(false, Ordering::Release);
        let seen: Vec<_> =
            lock(&self.primaries).iter().map(|page| (Arc::clone(page), page.face.news())).collect();
        let told = loop {
            let answer = core.call(TakeShown {});
            // Also what came for an errand that had given up.
            core.take_shown().into_iter().for_each(|told| self.show(told));
            match answer.map(|reply| reply.message) {
                Ok(ClientMessage::Shown(Shown { more, .. })) if more != 0 => {}
                Ok(ClientMessage::Shown(_)) => break true,
                // The next signal asks again; not at once, whatever the broker has against it.
                _ => break false,
            }
        };
        if told {
            seen.iter().for_each(|(page, news)| page.answered.store(*news, Ordering::Release));
        } else {
            std::thread::sleep(AGAIN);
        }
    }

    /// Shows a timeline where the broker says, or no more if it says so.
    fn show(&self, ShownPlace { timeline, place, stop }: ShownPlace) {
        let mut open = lock(&self.open);
        let Some(inbox) = open.inboxes.get(&timeline).cloned() else {
            if open.strays.len() >= STRAYS {
                open.strays.pop_front();
            }
            if !stop {
                open.strays.push_back((timeline, place));
            }
            return;
        };
        drop(open);
        if stop {
            inbox.remove(&place.page, place.slot);
        } else {
            inbox.add(place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
