//! What a fake broker shares: a porter, imports, and the unfinished jobs of a client that does not exist.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vgem_os::fence::{KeeperFace, PagePair, SignallerFace};
use vgem_os::memory::{self, ObjectMemory};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Handle, PageId, Point, Time, TimelineKey};
use vgem_proto::jobs::{ObservedPoint, PoisonedRange};
use vgem_proto::message::Sender;
use vgem_proto::message::client::{ClientMessage, Imported, Observed, PorterOpened};
use vgem_proto::message::porter::PorterMessage;
use vgem_proto::rights::{Rights, WaitKind};

use super::{GENERATION, Mood, slot};

/// The page in which others' points are seen.
const PAGE: PageId = PageId(9);

/// An object of the fake broker.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) memory: ObjectMemory,
    pub(crate) ready: bool,
    /// Imports and creations that were not closed.
    pub(crate) count: usize,
}

/// Everything that is shared.
#[derive(Debug)]
pub(crate) struct Sharing {
    pub(crate) objects: Mutex<Vec<Kept>>,
    /// What came from the porter or the client first, by request.
    halves: Mutex<HashMap<u64, Option<OwnedFd>>>,
    /// What others have not finished.
    pub(crate) unfinished: Mutex<Vec<ObservedPoint>>,
    /// What failed jobs have left.
    pub(crate) poison: Mutex<Vec<PoisonedRange>>,
    page: KeeperFace,
    pub(crate) others: SignallerFace,
    page_told: AtomicUsize,
    pub(crate) porters: AtomicUsize,
    /// Channels whose porter does nothing.
    stalled: Mutex<Vec<Socket>>,
}

impl Sharing {
    pub(crate) fn new() -> Self {
        let page = PagePair::create().expect("a page pair");
        let others = SignallerFace::map(page.signaller_fds().expect("fds")).expect("the signaller's face");
        Self {
            objects: Mutex::new(Vec::new()),
            halves: Mutex::new(HashMap::new()),
            unfinished: Mutex::new(Vec::new()),
            poison: Mutex::new(Vec::new()),
            page,
            others,
            page_told: AtomicUsize::new(0),
            porters: AtomicUsize::new(0),
            stalled: Mutex::new(Vec::new()),
        }
    }

    /// Adds an object; its handle.
    pub(crate) fn add(&self, memory: ObjectMemory, ready: bool) -> Handle {
        let mut objects = self.objects.lock().expect("not poisoned");
        objects.push(Kept { memory, ready, count: 1 });
        Handle(u32::try_from(objects.len()).expect("small"))
    }

    /// What others' job looks like to who has to wait for it.
    pub(crate) fn point(queue: u16, point: u64, kind: WaitKind) -> ObservedPoint {
        ObservedPoint {
            timeline: TimelineKey { index: 100 + u32::from(queue), generation: GENERATION },
            point: Point(point),
            page: PAGE,
            slot: queue,
            kind,
            reserved: Zero,
        }
    }

    pub(crate) fn observed(&self) -> (ClientMessage, Vec<OwnedFd>) {
        let points = self.unfinished.lock().expect("not poisoned").clone();
        let poison = self.poison.lock().expect("not poisoned").clone();
        if points.is_empty() || self.page_told.fetch_add(1, Ordering::Relaxed) > 0 {
            return (Observed { pages: vec![], points, poison }.into(), vec![]);
        }
        let fds = self.page.observer_fds().expect("fds");
        (Observed { pages: vec![PAGE], points, poison }.into(), vec![fds.page, fds.interest])
    }

    /// A failed job has left these bytes.
    pub(crate) fn poison(&self, range: Range<u64>, code: ErrorCode, cause: CauseId) {
        let (offset, len) = (range.start, range.end - range.start);
        let poisoned = PoisonedRange { offset, len, cause, code, reserved: Zero };
        self.poison.lock().expect("not poisoned").push(poisoned);
    }

    /// A job is to replace every byte.
    pub(crate) fn replaced(&self) {
        self.poison.lock().expect("not poisoned").clear();
    }

    /// A porter for the client at the other end of `broker`.
    pub(crate) fn open(self: &Arc<Self>, mood: Mood, broker: &Arc<Socket>) -> (ClientMessage, Vec<OwnedFd>) {
        let (ours, theirs) = Socket::pair().expect("a pair");
        let number = self.porters.fetch_add(1, Ordering::Relaxed);
        match mood {
            Mood::PorterDies if number == 0 => drop(ours),
            Mood::PorterLeaves if number == 0 => self.refuse_one(ours, broker, ErrorCode::Unavailable),
            Mood::PorterIsKilled if number == 0 => self.refuse_one(ours, broker, ErrorCode::Late),
            Mood::PorterStalls => self.stalled.lock().expect("not poisoned").push(ours),
            _ => {
                let (sharing, broker) = (Arc::clone(self), Arc::clone(broker));
                drop(std::thread::spawn(move || sharing.port(&ours, &broker)));
            }
        }
        (PorterOpened {}.into(), vec![theirs.into()])
    }

    /// A porter that takes one fd, for which the broker then refuses the import.
    fn refuse_one(self: &Arc<Self>, channel: Socket, broker: &Arc<Socket>, code: ErrorCode) {
        let (sharing, broker) = (Arc::clone(self), Arc::clone(broker));
        drop(std::thread::spawn(move || {
            let (mut room, mut fds) = (vec![0; 256], Vec::new());
            let Ok(Packet::Data { len }) = channel.recv(&mut room, &mut fds) else { return };
            let head = vgem_proto::message::Head::decode(&room[..len]).expect("a client's message");
            // It may hang there for long: its end of the channel is not closed.
            sharing.stalled.lock().expect("not poisoned").push(channel);
            drop(broker.send(&super::refused(code, "no porter").encode(head.request, Time(0), 0), &[]));
        }));
    }

    fn port(&self, channel: &Socket, broker: &Socket) {
        let (mut room, mut fds) = (vec![0; 256], Vec::new());
        while let Ok(Packet::Data { len }) = channel.recv(&mut room, &mut fds) {
            let (head, message) =
                PorterMessage::decode(&room[..len], Sender::Client, fds.len()).expect("a client's message");
            assert!(matches!(message, PorterMessage::Hand(_)), "{message:?}");
            let fd = fds.pop().expect("counted");
            let mut halves = self.halves.lock().expect("not poisoned");
            if halves.remove(&head.request).is_some() {
                drop(halves);
                self.answer(head.request, &fd, broker);
            } else {
                halves.insert(head.request, Some(fd));
            }
        }
    }

    /// The client asks for an import.
    pub(crate) fn import(&self, request: u64, broker: &Socket) {
        let mut halves = self.halves.lock().expect("not poisoned");
        if halves.values().filter(|half| half.is_none()).count() >= 16 {
            let refused = super::refused(ErrorCode::Exhausted, "fds that one client hands over");
            drop(broker.send(&refused.encode(request, Time(0), 0), &[]));
            return;
        }
        match halves.remove(&request) {
            Some(Some(fd)) => {
                drop(halves);
                self.answer(request, &fd, broker);
            }
            _ => drop(halves.insert(request, None)),
        }
    }

    fn answer(&self, request: u64, fd: &OwnedFd, broker: &Socket) {
        let bytes = match self.imported(fd) {
            Some(imported) => imported.encode(request, Time(0), 0),
            None => super::refused(ErrorCode::BadParameter, "no sealable memory").encode(request, Time(0), 0),
        };
        // The client may be gone.
        drop(broker.send(&bytes, &[]));
    }

    fn imported(&self, fd: &OwnedFd) -> Option<Imported> {
        let seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
        rustix::fs::fcntl_get_seals(fd).ok()?;
        rustix::fs::fcntl_add_seals(fd, seals).ok();
        let writable = memory::verify_export(fd.as_fd(), 1, memory::Access::Write).is_ok();
        let rights = Rights::READ | Rights::EXPORT | if writable { Rights::WRITE } else { Rights::empty() };
        let identity = memory::identity(fd.as_fd()).ok()?;
        let mut objects = self.objects.lock().expect("not poisoned");
        let found = objects.iter().position(|kept| kept.count > 0 && kept.memory.identity() == identity);
        let place = match found {
            Some(place) => {
                objects[place].count += 1;
                place
            }
            None => {
                let memory = ObjectMemory::from_foreign(fd.try_clone().ok()?).expect("good memory");
                objects.push(Kept { memory, ready: false, count: 1 });
                objects.len() - 1
            }
        };
        let object = Handle(u32::try_from(place + 1).expect("small"));
        let state = if objects[place].ready { 2 } else { 1 };
        Some(Imported { object, len: objects[place].memory.len(), rights, state })
    }

    /// How many handles of an object the client has not given up.
    pub(crate) fn count(&self, object: Handle) -> usize {
        self.objects.lock().expect("not poisoned")[usize::try_from(object.0).expect("small") - 1].count
    }

    /// As the broker: the slot of others' queue is given up.
    pub(crate) fn retire(&self, queue: u16) {
        self.others.retire(slot(queue));
    }
}
