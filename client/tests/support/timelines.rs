//! The timelines of a fake broker: those that its client signals, with observers who come and go, and one that somebody
//! else signals and the client imports.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use vgem_os::clock;
use vgem_os::fence::{Failure, KeeperFace, ObserverFace, PagePair, SignallerFace, Slot, Woke};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, PageId, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::jobs::ShownTimeline;
use vgem_proto::message::client::{
    CauseIssued, ClientMessage, Done, PointState, Shown, TimelineExported, TimelineObserved, TimelineOpened,
};
use vgem_proto::rights::TimelineRights;

use super::{GENERATION, refused, slot};

/// Where the client sees the timeline of somebody else.
const OTHERS_PAGE: PageId = PageId(40);
/// The first handle of a timeline.
const FIRST: u32 = 100;

/// A timeline that the client signals.
#[derive(Debug)]
struct Own {
    slot: Slot,
    promised: Point,
    open: bool,
    /// Where others see it: the page, its number, the slot.
    places: Vec<(KeeperFace, PageId)>,
}

/// Everything about timelines.
#[derive(Debug)]
pub(crate) struct Timelines {
    primary: KeeperFace,
    primary_told: AtomicBool,
    own: Mutex<Vec<Own>>,
    /// What the client has not been told yet.
    news: Mutex<VecDeque<(ShownTimeline, Option<[OwnedFd; 2]>)>>,
    pages: AtomicU32,
    /// TakeShown requests that came.
    pub(crate) asked: AtomicU32,
    /// While it is set, TakeShown and FailPoint are not answered.
    pub(crate) stalls: AtomicBool,
    /// So many of the next ObserveTimeline are refused with this.
    pub(crate) unseen: Mutex<(u32, ErrorCode)>,
    /// Every promise is refused.
    pub(crate) refuses: AtomicBool,
    others: KeeperFace,
    signaller: SignallerFace,
    others_told: AtomicBool,
    /// What somebody else has promised.
    pub(crate) others_promised: AtomicU64,
    /// What the broker says of a point of theirs that has failed.
    pub(crate) others_failed: Mutex<Option<(ErrorCode, CauseId)>>,
}

impl Timelines {
    pub(crate) fn new() -> Self {
        let mut primary = PagePair::create().expect("a page pair");
        primary.take_interest().expect("its interest");
        let others = PagePair::create().expect("a page pair");
        let signaller = SignallerFace::map(others.signaller_fds().expect("fds")).expect("the face");
        let _woke: Woke = signaller.publish(slot(0), GENERATION, 0, 0, &[]);
        Self {
            primary,
            primary_told: AtomicBool::new(false),
            own: Mutex::new(Vec::new()),
            news: Mutex::new(VecDeque::new()),
            pages: AtomicU32::new(1),
            asked: AtomicU32::new(0),
            stalls: AtomicBool::new(false),
            unseen: Mutex::new((0, ErrorCode::Exhausted)),
            refuses: AtomicBool::new(false),
            others,
            signaller,
            others_told: AtomicBool::new(false),
            others_promised: AtomicU64::new(0),
            others_failed: Mutex::new(None),
        }
    }

    /// An observer comes for the client's n-th timeline (from 0): the broker shows it, and the client may hear of it.
    pub(crate) fn observe(&self, number: usize) -> ObserverFace {
        let keeper = PagePair::create().expect("a page pair");
        let fds = keeper.signaller_fds().expect("fds");
        let mut own = self.own.lock().expect("not poisoned");
        let home = own[number].slot;
        self.tell_news();
        keeper.fill(slot(2), GENERATION, &self.primary, home);
        let page = PageId(self.pages.fetch_add(1, Ordering::Relaxed));
        let timeline = TimelineHandle(FIRST + u32::try_from(number).expect("small"));
        let shown = ShownTimeline { timeline, page, slot: 2, shown: 1, reserved: Zero };
        self.news.lock().expect("not poisoned").push_back((shown, Some([fds.page, fds.interest])));
        let face = ObserverFace::map(keeper.observer_fds().expect("fds")).expect("the observer's face");
        own[number].places.push((keeper, page));
        face
    }

    /// The last observer of the client's n-th timeline goes.
    pub(crate) fn leave(&self, number: usize) {
        let mut own = self.own.lock().expect("not poisoned");
        let (_, page) = own[number].places.pop().expect("somebody observes it");
        let timeline = TimelineHandle(FIRST + u32::try_from(number).expect("small"));
        let shown = ShownTimeline { timeline, page, slot: 2, shown: 0, reserved: Zero };
        self.news.lock().expect("not poisoned").push_back((shown, None));
        self.tell_news();
    }

    /// The broker's verdict on the client's n-th timeline.
    pub(crate) fn kill(&self, number: usize, from: u64, code: ErrorCode, cause: CauseId) {
        let own = self.own.lock().expect("not poisoned");
        self.primary.kill_slot(own[number].slot, from, code.number(), cause.0);
        for (keeper, _) in &own[number].places {
            keeper.kill_slot(slot(2), from, code.number(), cause.0);
        }
    }

    /// What the primary page shows of the client's n-th timeline.
    pub(crate) fn signalled(&self, number: usize) -> u64 {
        self.primary.slot(self.own.lock().expect("not poisoned")[number].slot).value
    }

    /// What the client has promised of its n-th timeline.
    pub(crate) fn promised(&self, number: usize) -> Point {
        self.own.lock().expect("not poisoned")[number].promised
    }

    /// Whether the client has closed its n-th timeline.
    pub(crate) fn is_closed(&self, number: usize) -> bool {
        !self.own.lock().expect("not poisoned")[number].open
    }

    /// As somebody else: signals the timeline that the client imported.
    pub(crate) fn others_signal(&self, point: u64, failure: Option<(ErrorCode, CauseId)>) -> Woke {
        let failure = failure.map(|(code, cause)| Failure { point, code: code.number(), cause: cause.0 });
        self.signaller.signal(slot(0), point, clock::now(), failure).expect("a newer point")
    }

    /// As the broker: somebody else is dead.
    pub(crate) fn others_die(&self, from: u64, cause: CauseId) {
        self.others.kill_slot(slot(0), from, ErrorCode::OwnerDied.number(), cause.0);
    }

    pub(crate) fn answer(&self, message: &ClientMessage) -> Option<(ClientMessage, Vec<OwnedFd>)> {
        let plain = |message: ClientMessage| Some((message, Vec::new()));
        match message {
            ClientMessage::CreateTimeline(_) => Some(self.open(TimelineRights::all())),
            ClientMessage::ImportTimeline(import) if import.token[1] == 2 => {
                Some(self.open(TimelineRights::SIGNAL))
            }
            ClientMessage::ImportTimeline(import) if import.token[1] == 1 => plain(
                TimelineOpened {
                    timeline: TimelineHandle(900),
                    key: TimelineKey { index: 900, generation: GENERATION },
                    page: PageId(0),
                    rights: TimelineRights::WAIT,
                    slot: 0,
                    reserved: Zero,
                }
                .into(),
            ),
            ClientMessage::ImportTimeline(_) => plain(refused(ErrorCode::NoSuchHandle, "no such token")),
            ClientMessage::ExportTimeline(export) => {
                let token = [u64::from(export.timeline.0), u64::from(export.rights.bits())];
                plain(TimelineExported { token, until: Time(1) }.into())
            }
            ClientMessage::CloseTimeline(close) => {
                if let Some(own) = self.own.lock().expect("not poisoned").get_mut(place(close.timeline)) {
                    own.open = false;
                }
                plain(Done {}.into())
            }
            ClientMessage::Promise(promise) => {
                if self.refuses.load(Ordering::Relaxed) {
                    return plain(refused(ErrorCode::OutOfRange, "too far ahead"));
                }
                self.own.lock().expect("not poisoned")[place(promise.timeline)].promised = promise.point;
                None
            }
            ClientMessage::FailPoint(_) => {
                self.stall();
                plain(CauseIssued { cause: super::cause() }.into())
            }
            ClientMessage::QueryPoint(query) => plain(self.query(query.timeline, query.point)),
            ClientMessage::ObserveTimeline(_) => Some(self.observed()),
            ClientMessage::TakeShown(_) => Some(self.shown()),
            _ => None,
        }
    }

    fn stall(&self) {
        while self.stalls.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn tell_news(&self) {
        self.primary.set_news(self.primary.news() + 1);
    }

    fn open(&self, rights: TimelineRights) -> (ClientMessage, Vec<OwnedFd>) {
        let mut own = self.own.lock().expect("not poisoned");
        let number = u32::try_from(own.len()).expect("small");
        let at = u16::try_from(own.len()).expect("small");
        own.push(Own { slot: slot(at), promised: Point(0), open: true, places: Vec::new() });
        let fds = if self.primary_told.swap(true, Ordering::Relaxed) {
            Vec::new()
        } else {
            let fds = self.primary.signaller_fds().expect("fds");
            vec![fds.page, fds.interest]
        };
        let opened = TimelineOpened {
            timeline: TimelineHandle(FIRST + number),
            key: TimelineKey { index: FIRST + number, generation: GENERATION },
            page: PageId(0),
            rights,
            slot: at,
            reserved: Zero,
        };
        (opened.into(), fds)
    }

    fn observed(&self) -> (ClientMessage, Vec<OwnedFd>) {
        let mut unseen = self.unseen.lock().expect("not poisoned");
        if unseen.0 > 0 {
            unseen.0 -= 1;
            return (refused(unseen.1, "not yet"), Vec::new());
        }
        let fds = if self.others_told.swap(true, Ordering::Relaxed) {
            Vec::new()
        } else {
            let fds = self.others.observer_fds().expect("fds");
            vec![fds.page, fds.interest]
        };
        let observed = TimelineObserved {
            key: TimelineKey { index: 900, generation: GENERATION },
            page: OTHERS_PAGE,
            promised: Point(self.others_promised.load(Ordering::Relaxed)),
            slot: 0,
            reserved: Zero,
        };
        (observed.into(), fds)
    }

    fn query(&self, timeline: TimelineHandle, point: Point) -> ClientMessage {
        let own = self.own.lock().expect("not poisoned");
        let promised = own.get(place(timeline)).map(|own| own.promised);
        let promised = promised.unwrap_or(Point(self.others_promised.load(Ordering::Relaxed)));
        let failed = self.others_failed.lock().expect("not poisoned").filter(|_| timeline.0 == 900);
        let (state, code, cause) = match failed {
            Some((code, cause)) => (3, code.number(), cause),
            None => (u32::from(point <= promised), 0, CauseId::NONE),
        };
        PointState { state, code, cause, promised }.into()
    }

    /// One page at a time.
    fn shown(&self) -> (ClientMessage, Vec<OwnedFd>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.stall();
        let mut news = self.news.lock().expect("not poisoned");
        let mut shown =
            Shown { news: 0, more: 0, reserved: Zero, pages: vec![], places: vec![], dropped: vec![] };
        let mut all = Vec::new();
        if let Some((place, fds)) = news.pop_front() {
            match fds {
                Some(fds) => {
                    shown.pages.push(place.page);
                    all.extend(fds);
                }
                None => shown.dropped.push(place.page),
            }
            shown.places.push(place);
        }
        shown.more = u8::from(!news.is_empty());
        (shown.into(), all)
    }
}

fn place(timeline: TimelineHandle) -> usize {
    usize::try_from(timeline.0).expect("small").wrapping_sub(usize::try_from(FIRST).expect("small"))
}
