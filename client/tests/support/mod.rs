//! A broker made for tests: it speaks the protocol over a socket pair and does what the test says.
//!
//! It runs in a thread of the test's own process, keeps no rules, and plays the driver too: the test signals points
//! through [`FakeBroker::signal`]. With a [`Mood`] it misbehaves in one chosen way.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod rings;
mod sharing;
mod timelines;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender as Tell, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vgem::{Client, ClientOptions};
use vgem_os::clock;
use vgem_os::fence::{Failure, KeeperFace, PagePair, SignallerFace, Slot, Woke};
use vgem_os::memory::{self, HugePages, ObjectMemory};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{
    CauseId, DeviceId, DomainId, Handle, InstanceId, PageId, Point, QueueHandle, Time, TimelineKey,
};
use vgem_proto::jobs::{ObservedPoint, TracedJob};
use vgem_proto::message::client::{
    Accepted, Cancelling, ClientMessage, Committed, CreateObject, Described, Devices, Done, Event, Explained,
    Exported, ObjectCreated, Page, QueueOpened, Refused, Submit, Traced, Welcome,
};
use vgem_proto::message::{SUBMIT_REPLY, Sender};
use vgem_proto::rights::{Access, Rights, WaitKind};

use self::rings::Rings;
use self::sharing::Sharing;
use self::timelines::Timelines;

/// Long enough for any answer of a thread that is not stuck.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The generation of every timeline.
const GENERATION: u32 = 7;

/// How a fake broker misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Not at all.
    Honest,
    /// Answers every create with a read-only fd.
    ReadOnlyExport,
    /// Answers every create with memory that is not sealed.
    UnsealedExport,
    /// Answers every create with memory shorter than it says.
    ShortExport,
    /// Answers every create with one end of a socket.
    SocketExport,
    /// Answers the first request after the greeting twice.
    Twice,
    /// Answers requests after the greeting with noise.
    Noise,
    /// Answers requests after the greeting with the answer to another request.
    WrongAnswer,
    /// Does not answer requests after the greeting.
    Silent,
    /// Refuses every batch, after using its points.
    RefuseBatches,
    /// Its first porter dies before it takes anything.
    PorterDies,
    /// Its first porter takes an fd and ends; the import is refused for it.
    PorterLeaves,
    /// Its first porter takes an fd and stalls over it; the import is refused for it.
    PorterIsKilled,
    /// Its porters take nothing.
    PorterStalls,
    /// Answers an import only after the next request.
    ImportsLate,
    /// Refuses every commit.
    NoCommit,
    /// Has no room to answer the first three questions what to wait for.
    NoRoomToShow,
    /// Makes one object less than it was asked for.
    MakesTooFew,
    /// Has no room for the first batch, and takes no other until its points come again.
    NoRoomOnce,
}

/// The other end of a client.
#[derive(Debug)]
pub(crate) struct FakeBroker {
    /// Every batch that came.
    pub(crate) batches: Receiver<Submit>,
    /// Every other message that came.
    pub(crate) requests: Receiver<ClientMessage>,
    pub(crate) sharing: Arc<Sharing>,
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) rings: Arc<Rings>,
    keeper: Arc<KeeperFace>,
    signaller: Arc<SignallerFace>,
    socket: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl FakeBroker {
    /// A broker and the socket a client uses.
    pub(crate) fn pair(mood: Mood) -> (Self, Socket) {
        let (ours, theirs) = Socket::pair().expect("a socket pair");
        let keeper = Arc::new(PagePair::create().expect("a page pair"));
        let signaller = SignallerFace::map(keeper.signaller_fds().expect("fds"));
        let signaller = Arc::new(signaller.expect("the signaller's face"));
        let rings = Arc::new(Rings::new(Arc::clone(&signaller)));
        let (ours, sharing) = (Arc::new(ours), Arc::new(Sharing::new()));
        let timelines = Arc::new(Timelines::new());
        let (batch, batches) = channel();
        let (request, requests) = channel();
        let serve = Serve {
            socket: Arc::clone(&ours),
            keeper: Arc::clone(&keeper),
            batch,
            request,
            mood,
            sharing: Arc::clone(&sharing),
            timelines: Arc::clone(&timelines),
            rings: Arc::clone(&rings),
            late: Mutex::new(None),
            queues: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            expected: Mutex::new(1),
        };
        let thread = std::thread::spawn(move || serve.run());
        (
            Self {
                batches,
                requests,
                sharing,
                timelines,
                rings,
                keeper,
                signaller,
                socket: ours,
                thread: Some(thread),
            },
            theirs,
        )
    }

    /// An honest broker with a client.
    pub(crate) fn with_client() -> (Self, Client) {
        Self::with_client_of(Mood::Honest)
    }

    /// A broker with a client.
    pub(crate) fn with_client_of(mood: Mood) -> (Self, Client) {
        let (broker, socket) = Self::pair(mood);
        let client = options().over(socket).expect("a greeting");
        (broker, client)
    }

    /// As the driver: the point of the n-th queue that was opened (from 0) ended well.
    pub(crate) fn signal(&self, queue: u16, point: u64) -> Woke {
        self.end(queue, point, None)
    }

    /// As the driver: the point failed.
    pub(crate) fn fail(&self, queue: u16, point: u64, code: ErrorCode, cause: CauseId) -> Woke {
        self.end(queue, point, Some(Failure { point, code: code.number(), cause: cause.0 }))
    }

    fn end(&self, queue: u16, point: u64, failure: Option<Failure>) -> Woke {
        self.signaller.signal(slot(queue), point, clock::now(), failure).expect("a newer point")
    }

    /// As the driver: shows a queue's timeline.
    pub(crate) fn publish(&self, queue: u16) {
        let _woke: Woke = self.signaller.publish(slot(queue), GENERATION, 0, 0, &[]);
    }

    /// Others submitted a job to write everything, and it has not ended.
    pub(crate) fn others_write(&self, queue: u16, point: u64) {
        self.others(queue, point, WaitKind::Data);
    }

    /// Others submitted a job that has not ended.
    pub(crate) fn others(&self, queue: u16, point: u64, kind: WaitKind) {
        if point == 1 {
            let _woke: Woke = self.sharing.others.publish(slot(queue), GENERATION, 0, 0, &[]);
        }
        if kind == WaitKind::Data {
            self.sharing.replaced();
        }
        let mut unfinished = self.sharing.unfinished.lock().expect("not poisoned");
        unfinished.push(Sharing::point(queue, point, kind));
    }

    /// Others' job ended, well or with a failure, and the broker has taken note of it.
    pub(crate) fn others_end(&self, queue: u16, point: u64, failure: Option<(ErrorCode, CauseId)>) -> Woke {
        self.others_noted(queue, point, failure);
        self.others_signal(queue, point, failure)
    }

    /// Others' job ended, and the broker does not know it yet.
    pub(crate) fn others_signal(
        &self,
        queue: u16,
        point: u64,
        failure: Option<(ErrorCode, CauseId)>,
    ) -> Woke {
        let failure = failure.map(|(code, cause)| Failure { point, code: code.number(), cause: cause.0 });
        self.sharing.others.signal(slot(queue), point, clock::now(), failure).expect("a newer point")
    }

    /// The broker takes note of the end of others' job. One that failed was to write the first page.
    pub(crate) fn others_noted(&self, queue: u16, point: u64, failure: Option<(ErrorCode, CauseId)>) {
        let same = |one: &ObservedPoint| one.slot == queue && one.point.0 == point;
        self.sharing.unfinished.lock().expect("not poisoned").retain(|one| !same(one));
        if let Some((code, cause)) = failure {
            self.sharing.poison(0..4096, code, cause);
        }
    }

    /// Tells of jobs with these points.
    pub(crate) fn tell_traced(&self, lost: u64, points: std::ops::RangeInclusive<u64>) {
        let job = |point| TracedJob {
            timeline: TimelineKey { index: 1, generation: 1 },
            point: Point(point),
            submitted: Time(1),
            ready: Time(1),
            started: Time(2),
            ended: Time(3),
            bytes: 0,
            staged: 0,
            client: 4,
            device: DeviceId(1),
            instance: InstanceId(2),
            cause: CauseId::NONE,
            code: 0,
            op: 0,
            waits: 0,
        };
        let traced = Traced { lost, jobs: points.map(job).collect(), waits: Vec::new() };
        self.socket.send(&traced.encode(0, Time(0), 0), &[]).expect("a live connection");
    }

    /// Tells an event to a client that monitors.
    pub(crate) fn tell(&self, lost: u64, json: &str) {
        let event = Event { lost, json: json.as_bytes().to_vec() };
        self.socket.send(&event.encode(0, Time(0), 0), &[]).expect("a live connection");
    }

    /// As the broker: the driver is dead.
    pub(crate) fn kill_page(&self, cause: CauseId) {
        self.keeper.kill_page(ErrorCode::DeviceLost.number(), cause.0);
    }

    /// The next batch.
    pub(crate) fn batch(&self) -> Submit {
        self.batches.recv_timeout(SOON).expect("a batch")
    }

    /// The next request that `pick` takes.
    pub(crate) fn request<T>(&self, pick: impl Fn(ClientMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.requests.recv_timeout(SOON).expect("a request")) {
                return found;
            }
        }
    }

    /// Dies.
    pub(crate) fn hang_up(&mut self) {
        self.socket.shutdown().expect("a live connection");
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the broker's thread did not panic");
        }
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        // Already down when the client or the test ended it.
        drop(self.socket.shutdown());
        self.join();
        self.rings.stop();
    }
}

/// Options of a test's client.
pub(crate) fn options() -> ClientOptions {
    ClientOptions::new().name("test").request_timeout(SOON)
}

/// The device of the fake broker.
pub(crate) fn description() -> Description {
    Description::new("zip", "compression", 2)
        .operation(
            Operation::new(3, "compress", "makes it smaller")
                .operand("input", Direction::In, Touch::InPlace)
                .operand("output", Direction::Out, Touch::Windows)
                .operand("dictionary", Direction::In, Touch::Windows)
                .optional()
                .choice("format", "container", &["gzip", "zstd"], Some(1))
                .number("level", "effort", 0, 22, Some(3))
                .bytes("comment", "words", 4096, false)
                .with_result("nothing"),
        )
        .operation(Operation::new(4, "mix", "changes it in place").operand(
            "data",
            Direction::InOut,
            Touch::InPlace,
        ))
}

fn slot(queue: u16) -> Slot {
    Slot::new(queue).expect("a page has 15 slots")
}

struct Serve {
    socket: Arc<Socket>,
    keeper: Arc<KeeperFace>,
    batch: Tell<Submit>,
    request: Tell<ClientMessage>,
    mood: Mood,
    sharing: Arc<Sharing>,
    timelines: Arc<Timelines>,
    rings: Arc<Rings>,
    /// An import that is answered late.
    late: Mutex<Option<u64>>,
    queues: AtomicU32,
    answered: AtomicU32,
    expected: Mutex<u64>,
}

impl Serve {
    fn run(&self) {
        let mut room = vec![0; 64 * 1024];
        while let Ok(Packet::Data { len }) = self.socket.recv_plain(&mut room) {
            let (head, message) =
                ClientMessage::decode(&room[..len], Sender::Client, 0).expect("a client's message");
            if let ClientMessage::Submit(batch) = message {
                self.submit(head.request, head.flags, batch);
            } else {
                if matches!(message, ClientMessage::Import(_)) {
                    self.import(head.request);
                }
                let answer = self.answer(&message);
                // The test may have stopped listening.
                drop(self.request.send(message));
                let late = self.late.lock().expect("not poisoned").take_if(|late| *late != head.request);
                if let Some(import) = late {
                    self.sharing.import(import, &self.socket);
                }
                if let Some((answer, fds)) = answer {
                    self.send(head.request, answer, &fds);
                }
            }
        }
    }

    fn import(&self, request: u64) {
        if self.mood == Mood::ImportsLate {
            *self.late.lock().expect("not poisoned") = Some(request);
        } else {
            self.sharing.import(request, &self.socket);
        }
    }

    fn submit(&self, request: u64, flags: u16, batch: Submit) {
        let first = batch.jobs.first().map_or(0, |job| job.point.0);
        let fewer = self.mood == Mood::NoRoomOnce && self.has_no_room(first, batch.jobs.len());
        let (jobs, text) = (batch.jobs.len(), b"too much of it".to_vec());
        drop(self.batch.send(batch));
        if self.mood == Mood::RefuseBatches || fewer {
            let cause = if fewer { CauseId::NONE } else { CauseId(99) };
            let refused = Refused {
                code: ErrorCode::Exhausted,
                job: 0,
                part: u16::MAX,
                value: jobs as u64,
                limit: 0,
                cause,
                text,
            };
            self.send(request, refused.into(), &[]);
        } else if flags & SUBMIT_REPLY != 0 {
            self.send(request, Accepted {}.into(), &[]);
        }
    }

    /// With no room: whether this batch is refused without using its points.
    fn has_no_room(&self, first: u64, jobs: usize) -> bool {
        let once = self.answered.fetch_add(1, Ordering::Relaxed) == 0;
        let mut expected = self.expected.lock().expect("not poisoned");
        if once || first != *expected {
            return true;
        }
        *expected += jobs as u64;
        false
    }

    fn send(&self, request: u64, answer: ClientMessage, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        let greeting = matches!(answer, ClientMessage::Welcome(_));
        let mood = if greeting { Mood::Honest } else { self.mood };
        let bytes = match mood {
            Mood::Silent => return,
            Mood::Noise => vec![0xa5; 48],
            Mood::WrongAnswer => Accepted {}.encode(request, Time(0), 0),
            _ => answer.encode(request, Time(0), 0),
        };
        let fds = if mood == Mood::WrongAnswer || mood == Mood::Noise { &[] } else { fds.as_slice() };
        let times =
            if mood == Mood::Twice && self.answered.fetch_add(1, Ordering::Relaxed) == 0 { 2 } else { 1 };
        for _ in 0..times {
            // The client may be gone.
            drop(self.socket.send(&bytes, fds));
        }
    }

    fn answer(&self, message: &ClientMessage) -> Option<(ClientMessage, Vec<OwnedFd>)> {
        Some(match message {
            ClientMessage::Hello(_) => (welcome(), vec![]),
            ClientMessage::CreateObject(create) => self.create(create),
            ClientMessage::Commit(_) if self.mood == Mood::NoCommit => {
                (refused(ErrorCode::NotReady, "a page is missing"), vec![])
            }
            ClientMessage::Commit(commit) => {
                let mut objects = self.sharing.objects.lock().expect("not poisoned");
                let pinned = commit.objects.iter().map(|object| {
                    let object = &mut objects[usize::try_from(object.0).expect("small") - 1];
                    object.ready = object.memory.is_populated().expect("a memfd");
                    if object.ready { object.memory.len() } else { 0 }
                });
                let pinned = pinned.sum();
                (Committed { pinned }.into(), vec![])
            }
            ClientMessage::CloseObject(close) => {
                let mut objects = self.sharing.objects.lock().expect("not poisoned");
                let object = &mut objects[usize::try_from(close.object.0).expect("small") - 1];
                object.count = object.count.checked_sub(1).expect("a handle is given up as often as it came");
                (Done {}.into(), vec![])
            }
            ClientMessage::OpenPorter(_) => self.sharing.open(self.mood, &self.socket),
            ClientMessage::Observe(_)
                if self.mood == Mood::NoRoomToShow && self.answered.fetch_add(1, Ordering::Relaxed) < 3 =>
            {
                (refused(ErrorCode::Exhausted, "no spare page"), vec![])
            }
            ClientMessage::Observe(_) => self.sharing.observed(),
            ClientMessage::Rewritten(_) => (Done {}.into(), vec![]),
            ClientMessage::Monitor(_) | ClientMessage::Trace(_) => (Done {}.into(), vec![]),
            ClientMessage::Export(export) => {
                let objects = self.sharing.objects.lock().expect("not poisoned");
                let object = &objects[usize::try_from(export.object.0).expect("small") - 1].memory;
                let access = match export.access {
                    Access::Read => memory::Access::Read,
                    Access::Write => memory::Access::Write,
                };
                let fd = object.export(access).expect("an export");
                (Exported { len: object.len() }.into(), vec![fd])
            }
            ClientMessage::ListDevices(_) => {
                (Devices { ids: vec![DeviceId(5)], names: b"zip".to_vec() }.into(), vec![])
            }
            ClientMessage::Describe(asked) => {
                let description = description().encode();
                (Described { device: asked.device, description }.into(), vec![])
            }
            ClientMessage::OpenQueue(open) => self.open(open.depth),
            ClientMessage::Cancel(_) => (Cancelling { state: 1, reserved: Zero }.into(), vec![]),
            ClientMessage::Explain(explain) => (explained(explain.cause), vec![]),
            ClientMessage::Inspect(inspect) => (page(inspect.cursor), vec![]),
            ClientMessage::CloseQueue(_) => (Done {}.into(), vec![]),
            ClientMessage::AttachRing(attach) => self.rings.attach(attach),
            ClientMessage::CommitRing(commit) => (self.rings.commit(commit), vec![]),
            ClientMessage::Bind(bind) => (self.rings.bind(bind, &self.sharing), vec![]),
            ClientMessage::Unbind(unbind) => (self.rings.unbind(unbind), vec![]),
            other => return self.timelines.answer(other),
        })
    }

    fn create(&self, create: &CreateObject) -> (ClientMessage, Vec<OwnedFd>) {
        let fewer = u32::from(self.mood == Mood::MakesTooFew);
        let made = (fewer..create.count.max(1)).map(|_| self.create_one(create.len, create.writer));
        let (objects, fds) = made.unzip();
        let (len, rights) = (create.len, Rights::all());
        (ObjectCreated { objects, len, rights, reserved: Zero }.into(), fds)
    }

    fn create_one(&self, len: u64, writer: DeviceId) -> (Handle, OwnedFd) {
        let real = if self.mood == Mood::ShortExport { len / 2 } else { len };
        let object = ObjectMemory::create(real, HugePages::None, "test").expect("memory");
        let fd = match self.mood {
            Mood::ReadOnlyExport => object.export(memory::Access::Read).expect("an export"),
            Mood::UnsealedExport => {
                let fd = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
                rustix::fs::ftruncate(&fd, len).expect("a length");
                fd
            }
            Mood::SocketExport => Socket::pair().expect("a pair").0.into(),
            _ if writer != DeviceId(0) => object.export(memory::Access::Read).expect("an export"),
            _ => object.export(memory::Access::Write).expect("an export"),
        };
        (self.sharing.add(object, false), fd)
    }

    fn open(&self, depth: u32) -> (ClientMessage, Vec<OwnedFd>) {
        let number = self.queues.fetch_add(1, Ordering::Relaxed);
        let fds = if number == 0 {
            let fds = self.keeper.observer_fds().expect("fds");
            vec![fds.page, fds.interest]
        } else {
            vec![]
        };
        let opened = QueueOpened {
            queue: QueueHandle(number + 1),
            page: PageId(0),
            timeline: TimelineKey { index: number, generation: GENERATION },
            depth: if depth == 0 { 256 } else { depth },
            slot: u16::try_from(number).expect("small"),
            reserved: Zero,
        };
        (opened.into(), fds)
    }
}

fn welcome() -> ClientMessage {
    Welcome {
        token: [1, 2],
        features: 0,
        domain: DomainId(4),
        client: 11,
        version: 1,
        reserved: Zero,
        message_len: 64 * 1024,
    }
    .into()
}

fn refused(code: ErrorCode, text: &str) -> ClientMessage {
    let (job, part, cause, text) = (u16::MAX, u16::MAX, CauseId::NONE, text.as_bytes().to_vec());
    Refused { code, job, part, value: 0, limit: 0, cause, text }.into()
}

fn explained(cause: CauseId) -> ClientMessage {
    Explained {
        cause,
        at: Time(5),
        point: Point(1),
        pid: 321,
        code: ErrorCode::OutputTooSmall,
        timeline: TimelineKey { index: 2, generation: 3 },
        client: 4,
        object: b"packed".to_vec(),
        device: b"zip".to_vec(),
        text: b"needs 90 bytes, has 10".to_vec(),
    }
    .into()
}

/// Two pages of one entry each.
fn page(cursor: u64) -> ClientMessage {
    let json = format!("[{{\"version\":\"page {cursor}\",\"name\":\"entry {cursor}\"}}]");
    Page { next: u64::from(cursor == 0), json: json.into_bytes() }.into()
}

/// A cause of the fake driver.
pub(crate) fn cause() -> CauseId {
    CauseId::new(InstanceId(3), 7)
}
